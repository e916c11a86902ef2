# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore: compare what is there with the snapshot, move only what differs, write each file beside its place and put it there in one step."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from .. import pool
from ..errors import EXIT_DONE, EXIT_INTEGRITY, EXIT_WARNINGS, BackupError, IntegrityError, RefusedError, UsageError, printable
from ..manifest.content import copy_file, hash_file
from ..manifest.document import Manifest
from ..manifest.entry import DIRECTORY, FILE, SYMLINK, Entry
from ..manifest.metadata import Losses, apply, create_special, device_of, differs, entry_type, mtime_ns, needs_privilege, path_of, read_xattrs
from ..manifest.selection import Selection
from ..manifest.survey import selects
from ..manifest.walk import CREATE_FLAGS, Descent, ReplacedError, list_directory, open_file, remove_tree, walk
from ..observe.audit import rfc3339
from ..observe.progress import Progress
from ..policy.model import Policy
from ..target.contract import Snapshot
from ..target.tree.target import overlaps
from .choose import find_snapshot
from .locate import open_target
from .state import HostState, new_transaction

SAMPLE = 20
DAMAGED = 100
_TEMPORARY = b".openclaw-backup-restore."


@dataclass
class RestoreResult:
    """What a restore did, or in check mode would do.

    ``bytes_restored``: content written; ``files_replaced``: paths where something else was before; ``files_removed``: paths deleted because
    ``delete`` was asked for; ``kept``: paths moved into the undo directory; ``verified``: everything in scope was read back and is as the
    manifest says; ``damaged``: paths whose content in the target is not what its manifest says, which were left as they were; ``sample``: up
    to 20 changes as ``{path, change}``, first those that cost data.
    """

    changed: bool = False
    snapshot_id: str = ""
    dest: str = "/"
    entries: int = 0
    files_restored: int = 0
    bytes_restored: int = 0
    metadata_restored: int = 0
    files_replaced: int = 0
    files_removed: int = 0
    kept: int = 0
    verified: bool = False
    damaged: List[str] = field(default_factory=list)
    sample: List[Dict[str, str]] = field(default_factory=list)
    truncated: bool = False
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0

    @property
    def rc(self) -> int:
        """The exit code: 0, 3 with warnings, 7 when something in the target was damaged."""
        if self.damaged:
            return EXIT_INTEGRITY
        return EXIT_WARNINGS if self.warnings else EXIT_DONE

    def to_dict(self) -> Dict[str, Any]:
        """The public result: up to 100 of ``damaged``, and ``files_damaged`` for how many there are."""
        listed = self.damaged[:DAMAGED]
        return {
            **self.__dict__,
            "rc": self.rc,
            "damaged": listed,
            "files_damaged": len(self.damaged),
            "truncated": self.truncated or len(self.damaged) > len(listed),
            "duration": round(self.duration, 3),
        }

    def failure(self) -> Optional[IntegrityError]:
        """What could not be restored because it is damaged in the target, as an error; None where all could."""
        if not self.damaged:
            return None
        return IntegrityError(
            "%d files are damaged in snapshot %s and were not restored, the first is %s" % (len(self.damaged), self.snapshot_id, self.damaged[0]),
            field="snapshot",
            found=self.damaged[0],
            next="take them from an older snapshot, or from another copy of the vault",
        )


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore, and how.

    ``snapshot`` as ``find_snapshot`` takes it; ``paths`` absolute, empty for everything; ``dest`` an absolute directory below which every path is
    made, None for its own place; ``delete`` removes what the snapshot does not have; ``undo`` an absolute directory that receives what is
    replaced or removed; ``verify`` reads back what was written; ``confirm``: replacing data in its own place without ``undo`` is meant.
    """

    snapshot: str = "latest"
    paths: Tuple[str, ...] = ()
    dest: Optional[str] = None
    delete: bool = False
    undo: Optional[str] = None
    verify: bool = True
    confirm: bool = False


def restore(
    policy: Policy,
    request: RestoreRequest,
    *,
    state_directory: str,
    dry_run: bool = False,
    progress: Optional[Progress] = None,
    is_own_history: bool = True,
) -> RestoreResult:
    """Bring back a snapshot, or some paths of it. Can be repeated: it then goes on where it was interrupted.

    ``is_own_history``: the history is this host's, so that a complete restore in place gives it its baseline. Raises ``BackupError``.
    """
    run = _Restore(policy, request, HostState(state_directory, policy), progress or Progress())
    started = time.time()
    try:
        run.go(dry_run, is_own_history)
    finally:
        run.progress.finish()
        run.result.duration = time.time() - started
    return run.result


class _Plan(NamedTuple):
    """What is to be done, each sorted by path.

    ``directories``: all in scope; ``made``: those that are missing; ``cleared``: paths whose present occupant must go first (True: it is a
    different kind of thing, False: it is extra); ``content``: files to write; ``specials``; ``links``: followers to link to their group's first
    path; ``metadata``: right bytes, wrong metadata.
    """

    directories: List[Entry]
    made: List[Entry]
    cleared: List[bytes]
    extra: List[bytes]
    content: List[Entry]
    specials: List[Entry]
    links: List[Entry]
    metadata: List[Entry]
    replaced: Set[bytes]


class _Restore:
    def __init__(self, policy: Policy, request: RestoreRequest, state: HostState, progress: Progress) -> None:
        self.policy = policy
        self.request = request
        self.state = state
        self.progress = progress
        self.result = RestoreResult()
        self.losses = Losses()
        self.is_root = os.geteuid() == 0
        self.target = open_target(policy.target, policy.host, policy.name)
        self.scope: Set[bytes] = set()

    def go(self, dry_run: bool, is_own_history: bool) -> None:
        """The whole restore; leaves what it did in ``result``."""
        request, result = self.request, self.result
        dest = self._check_directories()
        snapshots = self.target.list()
        snapshot = find_snapshot(snapshots, request.snapshot)
        manifest = self.target.manifest(snapshot)
        result.snapshot_id = snapshot.id
        result.dest = dest
        entries = self._in_scope(manifest)
        result.entries = len(entries)
        if snapshot.damaged:
            self.progress.note("snapshot %s is known to be damaged in %s paths" % (snapshot.id, snapshot.damaged.get("count")))
        in_place = request.dest is None
        try:
            root = self._open_dest(dest, dry_run)
        except OSError as error:
            raise UsageError(
                "%s cannot be restored to: %s" % (dest, error.strerror), field="dest", found=dest, allowed="a directory that this user can write"
            ) from error
        with root if root is not None else _Nothing():
            plan = self._plan(root, entries, manifest)
            self._describe(plan, root)
            result.changed = bool(plan.made or plan.cleared or plan.extra or plan.content or plan.specials or plan.links or plan.metadata)
            if in_place and (plan.replaced or plan.extra) and not (request.confirm or request.undo):
                raise RefusedError(
                    "This would replace or delete %d paths in their own place" % len(plan.replaced | set(plan.extra)),
                    kind="confirm",
                    field="confirm",
                    found=printable(b"/" + min(plan.replaced | set(plan.extra))),
                    next="confirm it, or name an undo directory that keeps what is replaced, or restore to another directory",
                )
            if dry_run:
                return
            assert root is not None
            self._check_space(root, plan)
            self._write(root, plan, snapshot, entries)
            if request.verify:
                self._verify(root, entries)
        self._say_losses()
        if in_place and not request.paths and is_own_history and not result.damaged:
            self._take_baseline(snapshots[0])
        self._record(snapshot)

    # ---- what and where ----------------------------------------------------------------------------------------------------

    def _check_directories(self) -> str:
        request = self.request
        for name in ("dest", "undo"):
            value = getattr(request, name)
            if value is not None and not os.path.isabs(value):
                raise UsageError("%s is not absolute" % name, field=name, found=value, allowed="an absolute path")
        for name in ("dest", "undo"):
            value = getattr(request, name)
            if value is not None and os.path.isdir(self.policy.target.path) and overlaps(self.policy.target.path, value) and value != "/":
                raise UsageError(
                    "%s and the vault %s lie inside one another" % (name, self.policy.target.path),
                    field=name,
                    found=value,
                    allowed="a directory outside the vault",
                    next="choose another directory",
                )
        if request.dest is None:
            return "/"
        return os.path.realpath(request.dest)

    def _in_scope(self, manifest: Manifest) -> List[Entry]:
        sources = [os.fsencode(source).strip(b"/") for source in manifest.header.sources]
        wishes = [os.fsencode(path).strip(b"/") for path in self.request.paths]
        for text in self.request.paths:
            if not os.path.isabs(text):
                raise UsageError("The path %s is not absolute" % text, field="paths", found=text, allowed="absolute paths as `ls` shows them")
        by_path = manifest.by_path()
        for text, wish in zip(self.request.paths, wishes):
            if wish and wish not in by_path:
                raise UsageError(
                    "%s is not in snapshot %s" % (text, self.result.snapshot_id),
                    kind="not_found",
                    field="paths",
                    found=text,
                    allowed="a path of the snapshot",
                    next="`openclaw-backup ls POLICY %s` shows them" % self.result.snapshot_id,
                )
        roots = tuple(wishes) if wishes else tuple(sources)
        below = tuple(root + b"/" for root in roots)
        if b"" in roots:
            scope = {entry.path for entry in manifest.entries}
        else:
            exact = frozenset(roots)
            scope = {entry.path for entry in manifest.entries if entry.path in exact or entry.path.startswith(below)}
        # A directory above a source is made where it is missing, never altered.
        above = {source[:at] for source in sources for at in range(len(source)) if source[at : at + 1] == b"/"}
        self.scope = scope - above
        needed: Set[bytes] = set()
        for path in roots:
            while b"/" in path:
                path = path.rpartition(b"/")[0]
                needed.add(path)
        return [entry for entry in manifest.entries if entry.path in scope or entry.path in needed]

    def _open_dest(self, dest: str, dry_run: bool) -> Optional[Descent]:
        if not dry_run:
            os.makedirs(dest, exist_ok=True)
        try:
            return Descent(os.fsencode(dest))
        except FileNotFoundError:
            if dry_run:
                return None
            raise

    # ---- planning ----------------------------------------------------------------------------------------------------------

    def _plan(self, root: Optional[Descent], entries: Sequence[Entry], manifest: Manifest) -> _Plan:
        self.progress.stage("compare", files=len(entries))
        plan = _Plan([], [], [], [], [], [], [], [], set())
        present = self._present(root, entries)
        same_size: List[Entry] = []
        leaders: Dict[bytes, Tuple[int, int]] = {}
        rewritten: Set[bytes] = set()
        group_names: Dict[bytes, int] = {}
        in_entries = {entry.path for entry in entries}
        for entry in entries:
            if entry.group is not None:
                group_names[entry.group] = group_names.get(entry.group, 0) + 1
        for entry in entries:
            found = present.get(entry.path)
            if found is not None and entry_type(found.st_mode) != entry.type:
                self._check_above(entry)
                plan.cleared.append(entry.path)
                plan.replaced.add(entry.path)
                found = None
            if entry.type == DIRECTORY:
                plan.directories.append(entry)
                if found is None:
                    plan.made.append(entry)
                elif entry.path in self.scope and self._metadata_differs(root, entry, found):
                    plan.metadata.append(entry)
                continue
            if needs_privilege(entry) and not self.is_root:
                self.losses.add("devices")
                continue
            leader = entry.group if entry.group in in_entries else None
            if leader is not None and leader != entry.path:
                if found is None or leader in rewritten or leaders.get(leader) != (found.st_dev, found.st_ino):
                    plan.links.append(entry)
                    if found is not None:
                        plan.replaced.add(entry.path)
                continue
            shared = found is not None and found.st_nlink > group_names.get(entry.path, 1)
            if found is not None:
                leaders[entry.path] = (found.st_dev, found.st_ino)
            if entry.type != FILE:
                if found is None or self._special_differs(root, entry, found):
                    plan.specials.append(entry)
                    rewritten.add(entry.path)
                    if found is not None:
                        plan.replaced.add(entry.path)
                continue
            if found is None or found.st_size != entry.size or shared:
                plan.content.append(entry)
                rewritten.add(entry.path)
                if found is not None:
                    plan.replaced.add(entry.path)
            else:
                same_size.append(entry)
        changed = self._changed_content(root, same_size)
        for entry in same_size:
            found = present[entry.path]
            differs_in_metadata = self._metadata_differs(root, entry, found)
            if entry.path in changed or (differs_in_metadata and self.request.undo is not None):
                plan.content.append(entry)
                plan.replaced.add(entry.path)
                rewritten.add(entry.path)
            elif differs_in_metadata:
                plan.metadata.append(entry)
        again = {entry.path for entry in plan.links}
        for entry in entries:
            if entry.is_group_follower and entry.group in rewritten and entry.path not in again:
                plan.links.append(entry)
        plan.content.sort(key=itemgetter(0))
        plan.links.sort(key=itemgetter(0))
        if self.request.delete and root is not None:
            plan.extra.extend(self._extra(root, manifest, entries))
        return plan

    def _present(self, root: Optional[Descent], entries: Sequence[Entry]) -> Dict[bytes, os.stat_result]:
        """The ``lstat`` of every path of ``entries`` that exists. One listing a directory."""
        present: Dict[bytes, os.stat_result] = {}
        if root is None:
            return present
        wanted: Dict[bytes, Set[bytes]] = {}
        for entry in entries:
            parent, _, name = entry.path.rpartition(b"/")
            wanted.setdefault(parent, set()).add(name)
        for parent in sorted(wanted):
            if parent and not (parent in present and stat.S_ISDIR(present[parent].st_mode)):
                continue
            names = wanted[parent]
            fd = root.directory(parent)
            prefix = parent + b"/" if parent else b""
            if len(names) < 4:  # the directories above a source can be huge
                for name in names:
                    try:
                        present[prefix + name] = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                continue
            for item in list_directory(fd):
                if item.name in names:
                    present[prefix + item.name] = item.stat
        return present

    def _check_above(self, entry: Entry) -> None:
        if entry.path not in self.scope:
            raise UsageError(
                "/%s is no directory here, but a directory above what is to be restored" % printable(entry.path),
                kind="not_a_directory",
                field="dest",
                found=b"/" + entry.path,
                allowed="a directory; symbolic links are never followed",
                next="restore to another directory with --dest",
            )

    def _metadata_differs(self, root: Optional[Descent], entry: Entry, found: os.stat_result) -> bool:
        if differs(entry, found, owner=self.is_root) is not None:
            return True
        assert root is not None
        if entry.xattrs or entry.type == DIRECTORY:
            parent, name = root.parent(entry.path)
            return read_xattrs(path_of(parent, name)) != entry.xattrs
        return False

    def _special_differs(self, root: Optional[Descent], entry: Entry, found: os.stat_result) -> bool:
        assert root is not None
        parent, name = root.parent(entry.path)
        if entry.type == SYMLINK and os.readlink(name, dir_fd=parent) != entry.link:
            return True
        return device_of(found) != entry.device or self._metadata_differs(root, entry, found)

    def _changed_content(self, root: Optional[Descent], entries: Sequence[Entry]) -> Set[bytes]:
        """Those of ``entries`` whose file here has the right size and other bytes: size and time alone prove nothing."""
        if root is None or not entries:
            return set()
        root_fd = root.root_fd

        def work(start: int, stop: int) -> Tuple[List[bytes], int]:
            changed = []
            with Descent(b".", dir_fd=root_fd) as below:
                for entry in entries[start:stop]:
                    try:
                        parent, name = below.parent(entry.path)
                        fd, _found = open_file(parent, name)
                        try:
                            digest, _size = hash_file(fd)
                        finally:
                            os.close(fd)
                    except OSError:
                        changed.append(entry.path)
                        continue
                    if digest.hex() != entry.hash:
                        changed.append(entry.path)
            return changed, stop - start

        result: Set[bytes] = set()
        for changed, count in pool.run(work, [entry.size + 4096 for entry in entries]):
            result.update(changed)
            self.progress.advance(count)
        return result

    def _extra(self, root: Descent, manifest: Manifest, entries: Sequence[Entry]) -> List[bytes]:
        """Paths that the snapshot's selection would have taken and that it does not have."""
        selection = Selection.from_dict(dict(manifest.header.selection))
        matcher = selection.matcher()
        sources = sorted((os.fsencode(source).strip(b"/") for source in manifest.header.sources), key=len, reverse=True)
        known = {entry.path for entry in manifest.entries}
        guarded = self._guarded_inodes()
        extra: List[bytes] = []
        for entry in entries:
            if entry.type != DIRECTORY or entry.path not in self.scope:
                continue
            try:
                listing = list_directory(root.directory(entry.path))
            except OSError:
                continue
            for item in listing:
                path = entry.path + b"/" + item.name
                if path in known:
                    continue
                if (item.stat.st_dev, item.stat.st_ino) in guarded:
                    continue
                if item.name.startswith(_TEMPORARY) or selects(matcher, sources, path, stat.S_ISDIR(item.stat.st_mode)):
                    extra.append(path)
        return extra

    def _guarded_inodes(self) -> FrozenSet[Tuple[int, int]]:
        """Directories that no restore may delete: this machine's state and the vault."""
        guarded = set(self.state.identity())
        try:
            found = os.stat(self.policy.target.path)
            guarded.add((found.st_dev, found.st_ino))
        except OSError:
            pass
        return frozenset(guarded)

    def _describe(self, plan: _Plan, root: Optional[Descent]) -> None:
        result = self.result
        result.files_restored = len(plan.content) + len(plan.specials) + len(plan.links)
        result.bytes_restored = sum(entry.size for entry in plan.content)
        result.metadata_restored = len(plan.metadata)
        result.files_replaced, result.files_removed = len(plan.replaced), len(plan.extra)
        created = {entry.path for group in (plan.content, plan.specials, plan.links) for entry in group} - plan.replaced
        changes = (("replaced", plan.replaced), ("removed", plan.extra), ("created", created), ("metadata", [entry.path for entry in plan.metadata]))
        listed = [(path, word) for word, paths in changes for path in sorted(paths)[:SAMPLE]]
        result.sample = [{"path": printable(b"/" + path), "change": word} for path, word in listed[:SAMPLE]]
        result.truncated = sum(len(paths) for _word, paths in changes) > SAMPLE

    def _check_space(self, root: Descent, plan: _Plan) -> None:
        free = os.fstatvfs(root.root_fd)
        need = self.result.bytes_restored
        if self.request.dest is not None and need > free.f_bavail * free.f_frsize:
            raise BackupError(
                "%s is too small: %d bytes are to be restored, %d are free" % (self.result.dest, need, free.f_bavail * free.f_frsize),
                kind="no_space",
                field="dest",
                found=free.f_bavail * free.f_frsize,
                next="nothing was touched; free space, or choose another directory",
            )

    # ---- writing -----------------------------------------------------------------------------------------------------------

    def _write(self, root: Descent, plan: _Plan, snapshot: Snapshot, entries: Sequence[Entry]) -> None:
        undo = self._open_undo()
        try:
            self._open_up(root, plan)
            for path in plan.cleared + plan.extra:
                self._set_aside(root, path, undo)
            root.forget()
            for entry in plan.made:
                parent, name = root.parent(entry.path)
                os.mkdir(name, 0o700, dir_fd=parent)
            self.progress.stage("restore", files=len(plan.content), bytes=self.result.bytes_restored)
            with self.target.fetch(snapshot, plan.content) as tree:
                self._write_files(root, tree, plan.content, undo)
            for entry in plan.specials:
                self._write_special(root, entry, undo)
            self._write_links(root, plan.links, undo)
            made = {entry.path for entry in plan.made}
            self._set_metadata(root, [entry for entry in plan.metadata if entry.type != DIRECTORY])
            final = [entry for entry in plan.directories if entry.path in self.scope or entry.path in made]
            self._set_metadata(root, sorted(final, key=itemgetter(0), reverse=True))
        finally:
            if undo is not None:
                undo.close()

    def _open_undo(self) -> Optional[Descent]:
        if self.request.undo is None:
            return None
        os.makedirs(self.request.undo, 0o700, exist_ok=True)
        real = os.fsencode(os.path.realpath(self.request.undo)).strip(b"/")
        base = os.fsencode(self.result.dest).strip(b"/")
        inside = real[len(base) + 1 :] if base and real.startswith(base + b"/") else real if not base else b""
        if inside and any(inside == path or inside.startswith(path + b"/") for path in self.scope):
            raise UsageError(
                "The undo directory lies inside what is restored",
                field="undo",
                found=self.request.undo,
                allowed="a directory outside the restored paths",
                next="choose another directory",
            )
        return Descent(os.fsencode(os.path.realpath(self.request.undo)))

    def _open_up(self, root: Descent, plan: _Plan) -> None:
        """An ordinary user's own directories may forbid writing; they get their modes back at the end."""
        if self.is_root:
            return
        busy = {entry.path.rpartition(b"/")[0] for group in (plan.content, plan.specials, plan.links, plan.made) for entry in group}
        busy |= {path.rpartition(b"/")[0] for path in plan.cleared + plan.extra}
        for path in sorted((busy & self.scope) - {entry.path for entry in plan.made}):
            parent, name = root.parent(path)
            try:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and found.st_mode & 0o700 != 0o700:
                    os.chmod(name, stat.S_IMODE(found.st_mode) | 0o700, dir_fd=parent)
            except OSError:
                continue

    def _set_aside(self, root: Descent, path: bytes, undo: Optional[Descent]) -> None:
        """Move what is at ``path`` into the undo directory, or delete it."""
        parent, name = root.parent(path)
        if undo is None or name.startswith(_TEMPORARY):
            remove_tree(parent, name)
            return
        if not os.path.lexists(path_of(parent, name)):
            return
        into, last = undo.parent(path, create=0o700)
        last = _free_name(into, last)
        try:
            os.rename(name, last, src_dir_fd=parent, dst_dir_fd=into)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_tree(parent, name, into, last, self.losses)
            remove_tree(parent, name)
        self.result.kept += 1

    def _keep(self, parent: int, name: bytes, path: bytes, undo: Descent) -> None:
        """Put a second name, or a copy, of what is about to be replaced into the undo directory."""
        into, last = undo.parent(path, create=0o700)
        last = _free_name(into, last)
        try:
            os.link(name, last, src_dir_fd=parent, dst_dir_fd=into, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError:
            _copy_tree(parent, name, into, last, self.losses)
        self.result.kept += 1

    def _write_files(self, root: Descent, tree: Descent, entries: Sequence[Entry], undo: Optional[Descent]) -> None:
        root_fd, tree_fd = root.root_fd, tree.root_fd
        undo_fd = undo.root_fd if undo is not None else -1
        mark = _TEMPORARY + new_transaction()[:8].encode("ascii")

        def work(start: int, stop: int) -> Tuple[List[bytes], List[Tuple[bytes, str]], Dict[str, int], int, int, int]:
            damaged: List[bytes] = []
            failed: List[Tuple[bytes, str]] = []
            self.losses = Losses()
            self.result.kept = 0
            total = 0
            with Descent(b".", dir_fd=root_fd) as below, Descent(b".", dir_fd=tree_fd) as source:
                aside = Descent(b".", dir_fd=undo_fd) if undo_fd >= 0 else None
                try:
                    for index in range(start, stop):
                        entry = entries[index]
                        try:
                            if not self._write_file(below, source, entry, b"%s.%d" % (mark, index), aside):
                                damaged.append(entry.path)
                            total += entry.size
                        except OSError as error:
                            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                                raise
                            failed.append((entry.path, error.strerror or str(error)))
                finally:
                    if aside is not None:
                        aside.close()
            return damaged, failed, self.losses.counts, self.result.kept, stop - start, total

        kept, losses = self.result.kept, self.losses
        damaged: List[bytes] = []
        failed: List[Tuple[bytes, str]] = []
        for bad, wrong, counts, saved, count, size in pool.run(work, [entry.size + 16384 for entry in entries]):
            damaged += bad
            failed += wrong
            losses.merge(counts)
            kept += saved
            self.progress.advance(count, size)
        self.result.kept, self.losses = kept, losses
        self.result.damaged = [printable(b"/" + path) for path in sorted(damaged)]
        self.result.files_restored -= len(damaged) + len(failed)
        lost = {*damaged, *(path for path, _reason in failed)}
        self.result.bytes_restored -= sum(entry.size for entry in entries if entry.path in lost)
        if failed:
            path, reason = min(failed)
            self.result.warnings.append("%d files could not be written, the first is %s (%s)" % (len(failed), printable(b"/" + path), reason))

    def _write_file(self, below: Descent, source: Descent, entry: Entry, temporary: bytes, undo: Optional[Descent]) -> bool:
        """Write one file beside its place and rename it there; False where the target's bytes are not the manifest's."""
        parent, name = below.parent(entry.path)
        try:
            old_parent, old_name = source.parent(entry.path)
            fd, _found = open_file(old_parent, old_name)
        except (FileNotFoundError, NotADirectoryError, ReplacedError):
            return False
        try:
            out = os.open(temporary, CREATE_FLAGS, 0o600, dir_fd=parent)
            try:
                digest, size = copy_file(fd, out)
            finally:
                os.close(out)
            if digest.hex() != entry.hash or size != entry.size:
                os.unlink(temporary, dir_fd=parent)
                return False
            apply(parent, temporary, entry, self.losses)
            if undo is not None:
                self._keep(parent, name, entry.path, undo)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            try:
                os.unlink(temporary, dir_fd=parent)
            except OSError:
                pass
            raise
        finally:
            os.close(fd)
        return True

    def _write_special(self, root: Descent, entry: Entry, undo: Optional[Descent]) -> None:
        parent, name = root.parent(entry.path)
        temporary = _TEMPORARY + new_transaction()[:16].encode("ascii")
        create_special(parent, entry, temporary)
        apply(parent, temporary, entry, self.losses)
        if undo is not None:
            self._keep(parent, name, entry.path, undo)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _write_links(self, root: Descent, links: Iterable[Entry], undo: Optional[Descent]) -> None:
        damaged = set(self.result.damaged)
        with Descent(b".", dir_fd=root.root_fd) as leaders:
            for entry in links:
                assert entry.group is not None
                if printable(b"/" + entry.group) in damaged:
                    self.result.files_restored -= 1
                    continue
                source, first = leaders.parent(entry.group)
                parent, name = root.parent(entry.path)
                if undo is not None:
                    self._keep(parent, name, entry.path, undo)
                temporary = _TEMPORARY + new_transaction()[:16].encode("ascii")
                os.link(first, temporary, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                # Renaming onto another name of the same inode does nothing and leaves both.
                try:
                    os.unlink(temporary, dir_fd=parent)
                except FileNotFoundError:
                    pass

    def _set_metadata(self, root: Descent, entries: Iterable[Entry]) -> None:
        for entry in entries:
            parent, name = root.parent(entry.path)
            if entry.type == DIRECTORY:
                self._sweep(root, entry.path)
                parent, name = root.parent(entry.path)
            apply(parent, name, entry, self.losses)
            if not entry.xattrs:
                for key, _value in read_xattrs(path_of(parent, name)):
                    try:
                        os.removexattr(path_of(parent, name), key, follow_symlinks=False)
                    except OSError:
                        pass

    def _sweep(self, root: Descent, path: bytes) -> None:
        """Remove the temporary files of a restore that was killed."""
        fd = root.directory(path)
        for text in os.listdir(fd):
            if text.startswith(_TEMPORARY.decode("ascii")):
                os.unlink(text, dir_fd=fd)

    # ---- afterwards ----------------------------------------------------------------------------------------------------------

    def _verify(self, root: Descent, entries: Sequence[Entry]) -> None:
        """Read back everything in scope and hold it against the manifest."""
        self.progress.stage("verify", files=len(entries))
        root.forget()
        present = self._present(root, entries)
        wrong: List[bytes] = []
        files: List[Entry] = []
        lost_setuid = "setuid" in self.losses.counts
        for entry in entries:
            if entry.path not in self.scope or (needs_privilege(entry) and not self.is_root):
                continue
            found = present.get(entry.path)
            reason = "missing" if found is None else differs(entry, found, owner=self.is_root)
            if reason == "mode" and lost_setuid and entry.mode & 0o6000:
                reason = None
            if reason is not None:
                wrong.append(entry.path)
            elif entry.type == FILE and not entry.is_group_follower:
                files.append(entry)
        wrong.extend(self._changed_content(root, files))
        self.result.verified = not wrong
        lost = [path for path in wrong if printable(b"/" + path) not in self.result.damaged]
        if lost:
            self.result.warnings.append("%d paths are not as in the snapshot after the restore, the first is %s" % (len(lost), printable(b"/" + min(lost))))

    def _say_losses(self) -> None:
        words = {
            "owner": "the owner of %d paths could not be kept (only root can)",
            "setuid": "%d setuid or setgid programs lost that bit with their owner",
            "xattrs": "%d extended attributes or ACLs could not be kept",
            "devices": "%d devices could not be made (only root can)",
        }
        for kind, count in sorted(self.losses.counts.items()):
            self.result.warnings.append(words[kind] % count)

    def _take_baseline(self, newest: Snapshot) -> None:
        """This host now holds what its history holds: it may back up again."""
        self.state.prepare()
        with self.state.locked():
            self.state.set_baseline(newest.receipt, self.target.manifest(newest))

    def _record(self, snapshot: Snapshot) -> None:
        result = self.result
        self.state.prepare()
        now = rfc3339(time.time())
        run = {
            "finished": now,
            "verb": "restore",
            "policy": self.policy.name,
            "host": self.policy.host,
            "target": self.policy.target.url,
            "result": "failed" if result.damaged else "warnings" if result.warnings else "ok",
            "rc": result.rc,
            "snapshot_id": snapshot.id,
            "dest": printable(result.dest),
            "files_restored": result.files_restored,
            "bytes_restored": result.bytes_restored,
            "files_removed": result.files_removed,
        }
        self.state.record(run, {"event": "restore", "snapshot": snapshot.id, "dest": printable(result.dest), "result": run["result"]})


class _Nothing:
    """A context that holds nothing, for a destination that does not exist yet."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_args: object) -> None:
        return None


def _free_name(dir_fd: int, name: bytes) -> bytes:
    """``name``, or with a number where an earlier restore left its own."""
    candidate, number = name, 0
    while True:
        try:
            os.stat(candidate, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return candidate
        number += 1
        candidate = b"%s.~%d~" % (name[:240], number)


def _entry_of(dir_fd: int, name: bytes, found: os.stat_result) -> Entry:
    kind = entry_type(found.st_mode)
    link = os.readlink(name, dir_fd=dir_fd) if kind == SYMLINK else None
    xattrs = read_xattrs(path_of(dir_fd, name))
    return Entry(name, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, mtime_ns(found), found.st_size, "", link, None, xattrs, device_of(found))


def _copy_tree(source: int, name: bytes, into: int, last: bytes, losses: Losses) -> None:
    """Copy ``name`` with its metadata to another file system."""
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    entry = _entry_of(source, name, found)
    if entry.type == DIRECTORY:
        os.mkdir(last, 0o700, dir_fd=into)
        with Descent(name, dir_fd=source) as old, Descent(last, dir_fd=into) as new:
            made = []
            for path, listing in walk(old):
                for item in listing:
                    inner = path + b"/" + item.name if path else item.name
                    parent, leaf = new.parent(inner)
                    if stat.S_ISDIR(item.stat.st_mode):
                        os.mkdir(leaf, 0o700, dir_fd=parent)
                        made.append((inner, _entry_of(old.directory(path), item.name, item.stat)))
                    else:
                        _copy_tree(old.directory(path), item.name, parent, leaf, losses)
            for inner, directory in reversed(made):
                parent, leaf = new.parent(inner)
                apply(parent, leaf, directory, losses)
    elif entry.type == FILE:
        fd, _stat = open_file(source, name)
        try:
            out = os.open(last, CREATE_FLAGS, 0o600, dir_fd=into)
            try:
                copy_file(fd, out)
            finally:
                os.close(out)
        finally:
            os.close(fd)
    else:
        create_special(into, entry, last)
    apply(into, last, entry, losses)
