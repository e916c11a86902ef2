# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting right what a verification found wrong in committed snapshots, from their manifests and from bytes that were hashed against them.

No file of a snapshot is written to. What is good is made beside the tree, is on disk, and then takes the place of what is damaged by one rename: a repair
that is killed leaves every path as damaged as it was, or good. One inode is a file of many snapshots, so all names in the history are looked at whose
manifests say the same content as what is damaged.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ...errors import RUN_OUT, IntegrityError, cut, printable
from ...manifest.content import copy_file, hash_file
from ...manifest.document import Manifest
from ...manifest.entry import DIRECTORY, FILE, Entry, decode_trusted
from ...manifest.metadata import Losses, differs, read_xattrs
from ...manifest.walk import Descent, open_file, open_up, remove_tree
from ...observe.audit import AuditLog
from ..contract import Delivery, Snapshot, Tell, Verification
from ..sources import NATIVE
from . import layout
from .build import finish_directory, finish_file, is_kept, make_other, proof, prove
from .clone import clone_file
from .layout import History
from .receive import receive
from .session import read_snapshot_manifest, sync_file_system

if TYPE_CHECKING:
    from ...transfer.pace import Pace

# Beside a snapshot's tree and not in it: on btrfs nothing can be renamed from another subvolume. No verification, session or prune minds it.
STAGING = b"repair"
_TAKEN = b"taken"
_LISTED = 100
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC  # read again where blocks are shared
_HASH = re.compile(rb'"h":"([0-9a-f]{64})"')

Content = Tuple[int, str]  # size and SHA-256 in hex
State = Tuple[object, ...]  # what an inode has to bear to serve an entry


class _Inode:
    """A file with bytes that a manifest speaks of: ``path`` below the directory ``root``, what it ``bears`` where that is what an entry says too."""

    def __init__(self, root: bytes, path: bytes, bears: Optional[State] = None) -> None:
        self.root = root
        self.path = path
        self.bears = bears


class _Job(NamedTuple):
    """What is ready below the staging directory under ``name``, and where it belongs."""

    name: bytes
    entry: Entry
    inode: Optional[_Inode] = None


class Case:
    """A snapshot in which something is wrong.

    ``files``, ``others`` (with a path that is the same inode and good, if there is one) and ``directories`` are to be put right, ``extra`` paths are too
    many; ``manifest``: what is to be written in the place of its own, which cannot be read; ``hopeless``: why nothing can be done.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.files: List[Entry] = []
        self.others: List[Tuple[Entry, Optional[bytes]]] = []
        self.directories: List[Entry] = []
        self.extra: List[bytes] = []
        self.manifest: Optional[Manifest] = None
        self.hopeless = ""
        self.mended = 0
        self.found: Set[bytes] = set()  # said to be damaged, whatever a second look shows
        self.known: Dict[bytes, Entry] = {}  # directories in which something is replaced
        self.used: Dict[_Inode, bytes] = {}  # good inodes, and whose they are here: a path's or a hard-link group's
        self.mates: Dict[bytes, _Inode] = {}

    @property
    def wrong(self) -> List[bytes]:
        """The paths that are to be put right, sorted."""
        return sorted({entry.path for entry in [*self.files, *self.directories, *(other for other, _mate in self.others)]})


class Repair:
    """The repair of one history, from its first look to its last rename; the caller keeps writers and prunes away meanwhile.

    ``manifest_of`` gives the manifest that another vault has of a snapshot, held against our own receipt, or None. ``source``: what the log is to say of
    where the bytes come from.
    """

    def __init__(
        self, history: History, storage: str, snapshots: Sequence[Snapshot], source: str, manifest_of: Callable[[Snapshot], Optional[Manifest]]
    ) -> None:
        self.history = history
        self.storage = storage
        self.native = storage == NATIVE
        self.source = source
        self.cases: Dict[str, Case] = {}
        self.lost: Dict[Content, str] = {}  # why content could not be had
        self._snapshots = snapshots
        self._manifest_of = manifest_of
        self._sought: Set[Content] = set()
        self._others: Set[bytes] = set()
        self._read: Dict[Tuple[int, int], Optional[Content]] = {}  # by device and inode
        self._inodes: Dict[Tuple[int, int], _Inode] = {}
        self._good: Dict[Content, List[_Inode]] = {}
        self._number = 0

    # ---- looking -----------------------------------------------------------------------------------------------------------

    def look(self, tell: Optional[Tell] = None) -> None:
        """Find all that is wrong in the snapshots that are known to be damaged, and in others that share it. Writes nothing."""
        found = [snapshot for snapshot in self._snapshots if snapshot.damaged]
        while found:
            contents: Set[Content] = set()
            for snapshot in found:
                contents |= self._examine(snapshot, tell)
            others = {entry.path for case in self.cases.values() for entry, _mate in case.others}
            contents, others = contents - self._sought, others - self._others
            self._sought |= contents
            self._others |= others
            found = self._find_names(contents, others) if contents or others else []

    def _examine(self, snapshot: Snapshot, tell: Optional[Tell]) -> Set[Content]:
        """Note what is wrong in a snapshot; the contents of the files among that, and of those that are said to be."""
        case = self.cases.setdefault(snapshot.id, Case(snapshot))
        try:
            manifest = read_snapshot_manifest(self.history, snapshot)
        except IntegrityError as error:
            other = self._manifest_of(snapshot)
            if other is None:
                case.hopeless = error.message
                return set()
            manifest = case.manifest = other
        recorded = layout.damaged_paths(snapshot)
        # Where the record does not name all that was found, all is read again.
        is_full = snapshot.damaged is not None and (b"" in recorded or len(recorded) != snapshot.damaged.get("count"))
        try:
            with Descent(self._tree(snapshot.id)) as tree:
                found, apart = prove(tree, manifest, self.storage, chosen=(lambda path: True) if is_full else None, tell=tell)
        except (FileNotFoundError, NotADirectoryError):
            found, apart = Verification(0, 0, 0, (), tuple(entry.path for entry in manifest.entries if is_kept(entry, self.storage)), ()), set()
        wrong = {damage.path for damage in found.damaged}.union(found.missing)
        case.found = wrong
        replaced = {damage.path for damage in found.damaged if damage.reason == "type"}
        case.extra = [path for path in found.extra if not any(path[:at] in replaced for at, byte in enumerate(path) if byte == 0x2F)]
        contents = set()
        for path in sorted(wrong | recorded | (apart if is_full else set())):
            entry = manifest.find(path)
            if entry is None or not is_kept(entry, self.storage):
                continue
            if entry.type == FILE:
                contents.add((entry.size, entry.hash))
            elif path in wrong:
                self._note_directory_of(case, manifest, path)
                if entry.type == DIRECTORY:
                    case.directories.append(entry)
                else:
                    case.others.append((entry, _mate(manifest, entry, wrong)))
        if os.path.isdir(self._staging(snapshot.id)):
            # A repair that was killed may have left any directory open, which portable storage does not show.
            case.known.update((entry.path, entry) for entry in manifest.entries if entry.type == DIRECTORY)
        return contents

    def _note_directory_of(self, case: Case, manifest: Manifest, path: bytes) -> None:
        parent = path.rpartition(b"/")[0]
        entry = manifest.find(parent) if parent not in case.known else None
        if entry is not None:
            case.known[parent] = entry

    def _find_names(self, contents: Set[Content], others: Set[bytes]) -> List[Snapshot]:
        """Look at all files of all snapshots that should have one of these contents, and at what else has one of these paths; the snapshots in which
        something is wrong, and of which nobody knew it."""
        hashes = {digest.encode("ascii") for _size, digest in contents}
        found = []
        for snapshot in self._snapshots:
            case = self.cases.get(snapshot.id)
            try:
                if case is not None and case.hopeless:
                    continue
                manifest = case.manifest if case is not None and case.manifest is not None else read_snapshot_manifest(self.history, snapshot)
            except IntegrityError:
                continue  # nobody can say what it should hold, and its own verification says so
            entries = [entry for entry in decode_trusted(_lines_with(manifest.lines, hashes)) if (entry.size, entry.hash) in contents]
            beside = [entry for entry in map(manifest.find, others) if entry is not None and case is None]
            if self._judge_all(snapshot, manifest, entries, beside) and case is None:
                found.append(snapshot)
        return found

    def _judge_all(self, snapshot: Snapshot, manifest: Manifest, entries: Sequence[Entry], others: Sequence[Entry]) -> bool:
        """Tell the good among these files of a snapshot from those that are not; whether there are such, or something is wrong with the ``others``."""
        case = self.cases.get(snapshot.id) or Case(snapshot)
        bad = []
        is_bad = False
        with ExitStack() as stack:
            tree = None
            with suppress(FileNotFoundError, NotADirectoryError):
                tree = stack.enter_context(Descent(self._tree(snapshot.id)))
            for entry in entries:
                inode, is_good = self._judge(tree, entry, snapshot.id)
                if inode is None or not is_good or entry.path in case.found:
                    bad.append(entry)
                    continue
                owner = entry.group or entry.path
                case.used[inode] = owner
                case.mates[owner] = inode
            is_bad = any(not self._is_as_listed(tree, entry) for entry in others if is_kept(entry, self.storage))
        for entry in bad:
            self._note_directory_of(case, manifest, entry.path)
        case.files += bad
        if bad or is_bad:
            self.cases[snapshot.id] = case
        return bool(bad) or is_bad

    def _is_as_listed(self, tree: Optional[Descent], entry: Entry) -> bool:
        """Whether what is no file, or a file but for its bytes, is what its entry says."""
        if tree is None:
            return False
        try:
            parent, name = tree.parent(entry.path)
            return proof(parent, name, entry, os.stat(name, dir_fd=parent, follow_symlinks=False), self.native) is None
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            return False

    def _judge(self, tree: Optional[Descent], entry: Entry, snapshot_id: str) -> Tuple[Optional[_Inode], bool]:
        """The inode of a file, None where that has not the bytes that it should have; and whether it bears what it should, too."""
        if tree is None:
            return None, False
        try:
            parent, name = tree.parent(entry.path)
            fd, seen = open_file(parent, name)
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            return None, False
        content = (entry.size, entry.hash)
        key = (seen.st_dev, seen.st_ino)
        try:
            if key not in self._read:
                self._read[key] = _content_of(fd, seen)
            if self._read[key] != content:
                return None, False
            is_good = not self.native or (differs(entry, seen) is None and read_xattrs(fd) == entry.xattrs)
        finally:
            os.close(fd)
        inode = self._inodes.get(key)
        if inode is None:
            inode = self._inodes[key] = _Inode(self._tree(snapshot_id), entry.path)
            self._good.setdefault(content, []).append(inode)
        if is_good:
            inode.bears = self._state(entry)
        return inode, is_good

    def _state(self, entry: Entry) -> State:
        return entry.inode_state if self.native else (entry.size, entry.hash)

    # ---- what has to come --------------------------------------------------------------------------------------------------

    def wanted(self, there: Mapping[str, Snapshot]) -> List[Tuple[Snapshot, List[Entry]]]:
        """Files whose bytes nothing here has: each once, with the snapshot of the other vault to ask for it. ``there``: those that both vaults have.

        What is damaged there as well, as far as that is known, and what is not there goes into ``lost``."""
        damaged = {snapshot_id: layout.damaged_paths(snapshot) for snapshot_id, snapshot in there.items() if snapshot.damaged}
        chosen: Dict[str, Dict[Content, Entry]] = {}
        done: Set[Content] = set()
        self.lost.clear()
        for case in self.cases.values():
            for entry in case.files:
                content = (entry.size, entry.hash)
                if content in done or content in self._good or not entry.size:
                    continue
                if case.snapshot.id not in there:
                    self.lost.setdefault(content, "%s has no such snapshot" % self.source)
                elif entry.path in damaged.get(case.snapshot.id, ()):
                    self.lost[content] = "damaged in %s too" % self.source
                else:
                    chosen.setdefault(case.snapshot.id, {})[content] = entry
                    done.add(content)
        for content in done:
            self.lost.pop(content, None)
        return [(there[snapshot_id], sorted(entries.values())) for snapshot_id, entries in chosen.items()]

    # ---- putting right -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Note in every snapshot that it is damaged, and put right what takes no bytes: manifests, directories, links and special files."""
        for snapshot_id, case in self.cases.items():
            if case.hopeless:
                continue
            if not case.snapshot.damaged:
                # Known from now on, so that a repair that is killed is gone on with.
                layout.update_state(self.history, snapshot_id, {"damaged": layout.damage_of(case.wrong, len(case.wrong), time.time()), "verified": None})
            with Descent(self.history.snapshot(snapshot_id)) as inside:
                remove_tree(inside.root_fd, STAGING)
                os.mkdir(STAGING, 0o700, dir_fd=inside.root_fd)
                if not _is_directory(inside.root_fd, b"tree"):
                    with suppress(FileNotFoundError):
                        os.rename(b"tree", STAGING + b"/tree", src_dir_fd=inside.root_fd, dst_dir_fd=inside.root_fd)
                    os.mkdir(b"tree", 0o700, dir_fd=inside.root_fd)
            if case.manifest is not None:
                self._log(case, [b""], "manifest")
                layout.write_file(self.history.manifest(snapshot_id), case.manifest.to_bytes())
                case.mended += 1
            self._make_directories(case)
            self._place(case, self._make_others(case))

    def _make_directories(self, case: Case) -> None:
        if not case.directories:
            return
        self._log(case, [entry.path for entry in case.directories], "directories")
        with Descent(self._tree(case.snapshot.id)) as tree, Descent(self._staging(case.snapshot.id)) as staging:
            for entry in sorted(case.directories):
                parent, name = tree.parent(entry.path)
                if _is_directory(parent, name):
                    open_up(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False))
                else:
                    self._open_up(parent)
                    with suppress(FileNotFoundError):
                        os.rename(name, self._new_name(), src_dir_fd=parent, dst_dir_fd=staging.root_fd)
                    os.mkdir(name, 0o700, dir_fd=parent)
                case.known[entry.path] = entry
                case.mended += 1

    def _make_others(self, case: Case) -> List[_Job]:
        jobs: List[_Job] = []
        made: Dict[bytes, bytes] = {}
        with Descent(self._tree(case.snapshot.id)) as tree, Descent(self._staging(case.snapshot.id)) as staging:
            for entry, mate in case.others:
                name = self._new_name()
                owner = entry.group or entry.path
                if mate is not None:
                    parent, last = tree.parent(mate)
                    os.link(last, name, src_dir_fd=parent, dst_dir_fd=staging.root_fd, follow_symlinks=False)
                elif owner in made:
                    os.link(made[owner], name, src_dir_fd=staging.root_fd, dst_dir_fd=staging.root_fd, follow_symlinks=False)
                else:
                    make_other(staging.root_fd, name, entry, self.native, Losses())
                    made[owner] = name
                jobs.append(_Job(name, entry))
        return jobs

    def take(self, snapshot: Snapshot, tree: Descent, entries: Sequence[Entry], tell: Optional[Tell] = None, pace: Optional[Pace] = None) -> None:
        """Copy files of ``snapshot`` that lie under their paths below ``tree``, and put right with them all that lacks these bytes. Those that are not as
        our own manifest says go into ``lost``."""
        staging = self._staging(snapshot.id)
        place = os.readlink(b"/proc/self/fd/%d" % tree.root_fd)
        try:
            os.mkdir(staging + b"/" + _TAKEN, 0o700)
            with Descent(staging + b"/" + _TAKEN) as files:
                received = receive(Delivery(place, entries, place, frozenset(), {}), files, frozenset(), self.storage, resume=False, tell=tell, pace=pace)
            for entry in received.proven:
                self._good.setdefault((entry.size, entry.hash), []).append(_Inode(staging + b"/" + _TAKEN, entry.path, self._state(entry)))
            for entry in set(entries).difference(received.proven):
                self.lost[entry.size, entry.hash] = "damaged in %s too" % self.source
            self.place_files()
        finally:
            with Descent(staging) as above:
                remove_tree(above.root_fd, _TAKEN)

    def place_files(self) -> None:
        """Put right every file whose bytes are at hand."""
        ready: List[Tuple[Case, List[_Job]]] = []
        for case in self.cases.values():
            jobs = []
            left = []
            for entry in case.files if not case.hopeless else ():
                job = self._stage(case, entry) if (entry.size, entry.hash) in self._good or not entry.size else None
                if job is None:
                    left.append(entry)
                else:
                    jobs.append(job)
            if jobs:
                case.files = left
                ready.append((case, jobs))
        if ready:
            sync_file_system(self.history.snapshots)  # all of them at once
        for case, jobs in ready:
            self._place(case, jobs, is_synced=True)

    def _stage(self, case: Case, entry: Entry) -> Optional[_Job]:
        """Make ready what is to be the file ``entry``: another name of an inode that may serve it, or else a copy; None where the copy is not good."""
        name = self._new_name()
        owner = entry.group or entry.path
        state = self._state(entry)
        with Descent(self._staging(case.snapshot.id)) as staging:
            mate = case.mates.get(owner)
            candidates = [mate] if mate is not None else self._good.get((entry.size, entry.hash), [])
            for inode in candidates:
                # Within a snapshot an inode has no names but those of one group.
                if inode.bears == state and case.used.get(inode, owner) == owner and _link(inode, staging.root_fd, name):
                    break
            else:
                copied = self._copy(entry, staging.root_fd, name)
                if copied is None:
                    return None
                inode = copied
                self._good.setdefault((entry.size, entry.hash), []).append(inode)
            case.used[inode] = owner
            if entry.group is not None:
                case.mates[owner] = inode
        return _Job(name, entry, inode)

    def _copy(self, entry: Entry, into: int, name: bytes) -> Optional[_Inode]:
        for inode in [*self._good.get((entry.size, entry.hash), ()), None]:
            if inode is None and entry.size:
                return None
            out = os.open(name, _CREATE_FLAGS, 0o600, dir_fd=into)
            try:
                if inode is None or _copy_bytes(inode, out) == (entry.size, entry.hash):
                    finish_file(out, entry, self.native, Losses())
                    os.fsync(out)
                    return _Inode(os.readlink(b"/proc/self/fd/%d" % into), name, self._state(entry))
            finally:
                os.close(out)
            os.unlink(name, dir_fd=into)
        return None

    def _place(self, case: Case, jobs: Sequence[_Job], *, is_synced: bool = False) -> None:
        """Rename what is ready to where it belongs, and give the directories back what they bear."""
        snapshot_id = case.snapshot.id
        if jobs:
            if not is_synced:
                sync_file_system(self._staging(snapshot_id))
            # Written first, so that nothing is replaced without a word.
            self._log(case, [job.entry.path for job in jobs], "files" if is_synced else "links and special files")
        with Descent(self._tree(snapshot_id)) as tree, Descent(self._staging(snapshot_id)) as staging:
            try:
                for job in jobs:
                    parent, name = tree.parent(job.entry.path)
                    self._open_up(parent)
                    if _is_directory(parent, name):
                        os.rename(name, self._new_name(), src_dir_fd=parent, dst_dir_fd=staging.root_fd)
                    os.rename(job.name, name, src_dir_fd=staging.root_fd, dst_dir_fd=parent)
                    if job.inode is not None:
                        job.inode.root, job.inode.path = self._tree(snapshot_id), job.entry.path
                    case.mended += 1
            finally:
                tree.forget()
                for path in sorted(case.known, reverse=True):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        finish_directory(tree.directory(path), case.known[path], self.native)

    def _open_up(self, directory: int) -> None:
        """Let the owner change a directory. root needs no such leave."""
        if os.geteuid() != 0:
            os.fchmod(directory, 0o700)

    def end(self) -> None:
        """Remove what was needed on the way. What was put right is on disk."""
        sync_file_system(self.history.snapshots)
        for snapshot_id in self.cases:
            with Descent(self.history.snapshot(snapshot_id)) as inside:
                remove_tree(inside.root_fd, STAGING)

    def _log(self, case: Case, paths: Sequence[bytes], what: str) -> None:
        receipt = case.snapshot.receipt
        event = {"event": "repair", "host": receipt.host, "policy": receipt.policy, "snapshot": receipt.id, "from": self.source, "what": what}
        shown = [cut(printable(b"/" + path)) for path in paths[:_LISTED]]
        AuditLog(self.history.audit).append({**event, "count": len(paths), "paths": shown}, now=time.time())

    def _new_name(self) -> bytes:
        self._number += 1
        return b"%d" % self._number

    def _tree(self, snapshot_id: str) -> bytes:
        return self.history.snapshot(snapshot_id) + b"/tree"

    def _staging(self, snapshot_id: str) -> bytes:
        return self.history.snapshot(snapshot_id) + b"/" + STAGING


def _lines_with(lines: Sequence[bytes], hashes: Set[bytes]) -> List[bytes]:
    """The lines of files with one of these hashes."""
    found = []
    for line in lines:
        match = _HASH.search(line)
        if match is not None and match.group(1) in hashes:
            found.append(line)
    return found


def _mate(manifest: Manifest, entry: Entry, wrong: Set[bytes]) -> Optional[bytes]:
    """Another name of what is in a hard-link group, which is good."""
    if entry.group is None:
        return None
    return next((other.path for other in manifest.entries if other.group == entry.group and other.path not in wrong), None)


def _content_of(fd: int, seen: os.stat_result) -> Optional[Content]:
    try:
        digest, size = hash_file(fd, size=seen.st_size)
    except OSError:
        return None  # the disk does not give it any more
    return size, digest.hex()


def _link(inode: _Inode, into: int, name: bytes) -> bool:
    """Another name for an inode; False where it can have none: no more of them, or not there."""
    try:
        with Descent(inode.root) as root:
            parent, last = root.parent(inode.path)
            os.link(last, name, src_dir_fd=parent, dst_dir_fd=into, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EXDEV, errno.ENOENT):
            raise
        return False
    return True


def _copy_bytes(inode: _Inode, out: int) -> Optional[Content]:
    """Fill an open, empty file from an inode, sharing its blocks where that can be; what it has then, None where the inode is not there any more."""
    with Descent(inode.root) as root:
        try:
            parent, last = root.parent(inode.path)
            fd, _found = open_file(parent, last)
        except FileNotFoundError:
            return None
        try:
            digest, size = hash_file(out) if clone_file(fd, out) else copy_file(fd, out)
        finally:
            os.close(fd)
    return size, digest.hex()


def _is_directory(dir_fd: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
