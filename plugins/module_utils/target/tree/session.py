# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session on a vault in a local directory: receive, prove, publish."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, AbstractSet, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from ... import pool
from ...errors import RUN_OUT, BackupError, IntegrityError, TargetError, printable, refused_by_system
from ...manifest.content import SPARSE_FROM, copy_file, size_with_holes
from ...manifest.document import Manifest, read_manifest, read_unchecked
from ...manifest.entry import FILE, Entry
from ...manifest.walk import CREATE_FLAGS, Descent, open_file, remove_tree, walk
from ...observe.audit import AuditLog, rfc3339
from ...pool import Later
from ...transfer.rsync import Options
from ...version import VERSION
from ..anomaly import by_chance, judge, looks_encrypted, places_of
from ..contract import Delivery, IncompleteError, Receipt, Sent, Session, Shortfall, Snapshot, Tell, Thresholds, check_manifest
from ..sources import Sources, plan_edits, plan_sources
from ..succession import reason_to_hold, time_after
from . import layout
from .build import Built, Placed, build, check_received, edit, place_known, prove
from .clone import BTRFS, REFLINK, choose, clone_file, clone_subvolume, discard, make_subvolume
from .layout import History
from .receive import receive

if TYPE_CHECKING:
    from ...transfer.plan import Item

# A smaller file is written anew sooner than it is compared with what the base has.
PATCH_FROM = 1 << 20
# Sending a needless file of this size costs less than naming its neighbours one by one.
_SPARE_TO = 1 << 20
# What a tree answers in which something else stands than its manifest says.
_NOT_AS_LISTED = (None, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES)


class _Ahead(NamedTuple):
    """What of a plan needs nothing from the host, placed while the host sends."""

    plan: Sources
    parts: List[Later[Placed]]

    def close(self) -> None:
        for part in self.parts:
            part.close()


class TreeSession(Session):
    """Receives below ``incoming/<tx>/files``, builds in ``incoming/<tx>/snapshot``, publishes by one rename.

    ``clone`` is what the policy wishes. Where it becomes ``btrfs``, the snapshot's directory is a subvolume and receives in ``snapshot/files``:
    nothing can be renamed or linked from one subvolume into another.
    """

    def __init__(
        self,
        history: History,
        storage: str,
        host: str,
        policy: str,
        tx: str,
        base: Optional[Snapshot],
        clone: str,
        tags: Sequence[str] = (),
        thresholds: Thresholds = Thresholds(),
    ) -> None:
        self.history = history
        self.storage = storage
        self.clone = clone
        self.host = host
        self.policy = policy
        self.tx = tx
        self.tags = tags
        self.thresholds = thresholds
        self.base = base
        self._base_manifest: Optional[Manifest] = None
        self._is_base_lost = False
        self._proven: Dict[bytes, Entry] = {}
        self._hashed = 0
        self._resumed = False
        self._is_pure = False  # what was received is what was wanted, and nothing else
        self._distrusted = layout.damaged_paths(base) if base is not None else set()
        self._planned: Optional[Tuple[Manifest, Sources]] = None
        self._locks: List[int] = []
        self._ahead: Optional[_Ahead] = None
        self._directory = history.incoming + b"/" + tx.encode("ascii")
        self._files = self._directory + b"/files"
        self._snapshot = self._directory + b"/snapshot"
        self._is_clone = False  # the snapshot's tree is that of the base, whole and untouched

    def open(self) -> None:
        """Clear what dead sessions left, keeping what they received, and make this one."""
        self._next_time()  # a vault whose clock is wrong says so before anything is sent
        try:
            layout.make_private(self.history.incoming)
            with Descent(self.history.incoming) as incoming:
                dead = self._dead()
                os.mkdir(self._directory, 0o700)
                self._prepare()
                for name in dead:
                    self._rescue(incoming, name)
                    self._discard(incoming, name)
                    self._audit({"event": "sweep", "dead_tx": printable(name)})
            if not self._resumed:
                os.mkdir(self._files, 0o700)
            if self.base is not None:
                self._point_latest(self.base.id)  # a run that was killed after its commit had no time for it
        except OSError as error:
            raise explain(error, self.history) from error

    def _dead(self) -> List[bytes]:
        """What earlier sessions have left, by name."""
        return sorted(os.listdir(self.history.incoming))

    def _prepare(self) -> None:
        """Make the place of the new snapshot, where the file system can with all that the base has."""
        with Descent(self._directory) as directory:
            self.clone = choose(directory.root_fd, self.clone)
            if self.clone != BTRFS:
                os.mkdir(self._snapshot, 0o700)
                return
            self._files = self._snapshot + b"/files"
            if self.base is None or not clone_subvolume(directory.root_fd, b"snapshot", self.history.snapshot(self.base.id)):
                make_subvolume(directory.root_fd, b"snapshot")
                return
        with Descent(self._snapshot) as snapshot:
            for name in os.listdir(self._snapshot):
                if name != b"tree":
                    remove_tree(snapshot.root_fd, name)
            self._is_clone = True

    def _rescue(self, incoming: Descent, name: bytes) -> None:
        """Take over what the dead session ``name`` has received."""
        if not self._resumed:
            self._resumed = self._take_over(incoming, (name, name + b"/snapshot"), self._files)

    def _discard(self, incoming: Descent, name: bytes) -> None:
        discard(incoming.root_fd, name)

    def _take_over(self, incoming: Descent, places: Sequence[bytes], destination: bytes) -> bool:
        """Move the ``files`` of one of these places to ``destination``; whether any were there. A link that somebody put there leads nowhere."""
        for place in places:
            try:
                at = incoming.directory(place)
                if stat.S_ISDIR(os.stat(b"files", dir_fd=at, follow_symlinks=False).st_mode):
                    _move(at, b"files", destination)
                    break
            except OSError:
                continue
            finally:
                incoming.forget()
        return os.path.isdir(destination)

    def _audit(self, event: Dict[str, object]) -> None:
        AuditLog(self.history.audit).append({"host": self.host, "policy": self.policy, "tx": self.tx, **event}, now=time.time())

    def hold_locks(self, fds: List[int]) -> None:
        """Keep these locks until ``close``."""
        self._locks.extend(fds)

    @property
    def base_manifest(self) -> Optional[Manifest]:
        """The manifest of the parent snapshot; None without one, and where that is damaged: nothing is then taken from the parent."""
        if self._base_manifest is None and not self._is_base_lost:
            try:
                self._base_manifest = self.read_base()
            except IntegrityError:
                self._is_base_lost, self._is_clone = True, False
        return self._base_manifest

    def read_base(self) -> Optional[Manifest]:
        """The same, for what cannot do without: ``IntegrityError`` where it is damaged."""
        return read_snapshot_manifest(self.history, self.base) if self.base is not None else None

    def trust_base(self, manifest: Manifest) -> None:
        """Use this manifest for the parent, if all that it says but the times of directories is what the parent's receipt speaks of."""
        if self.base is not None and manifest.content_digest == self.base.receipt.content_digest:
            self._base_manifest = manifest

    def wanted(self, manifest: Manifest) -> List[Entry]:
        plan = self._plan(manifest)
        return [entry for entry in plan.wanted if self._proven.get(entry.path) != entry]

    def _plan(self, manifest: Manifest) -> Sources:
        """The plan for this manifest; asked for twice, made once."""
        if self._planned is None or self._planned[0] is not manifest:
            self._planned = (manifest, plan_sources(self.base_manifest, manifest, self.storage, self._distrusted))
        return self._planned[1]

    def send(self, delivery: Delivery, options: Options, tell: Optional[Tell] = None) -> Sent:
        try:
            return self._send(delivery, options, tell)
        except OSError as error:
            raise explain(error, self.history) from error

    def _send(self, delivery: Delivery, options: Options, tell: Optional[Tell]) -> Sent:
        wanted = delivery.wanted
        # What is there already needs no basis, and a limit on bytes a second is rsync's business.
        laid = set() if self._resumed or options.bwlimit else self._lay_bases(wanted)
        for entry in wanted:
            self._proven.pop(entry.path, None)
        if self._resumed:
            self._clear_unwanted(wanted, self._files)
        else:
            self._check_space(delivery, laid)
        self._is_pure = not options.bwlimit and (self._resumed or not os.listdir(self._files))
        self._begin_ahead()
        wire = 0
        messages: Tuple[str, ...] = ()
        if options.bwlimit:
            delivery, wire, messages = self._send_limited(delivery, options, tell)
        with Descent(self._files) as files:
            received = receive(delivery, files, laid, self.storage, resume=self._resumed, tell=tell)
        self._resumed = False  # what is asked for again is not as it was received
        self._proven.update((entry.path, entry) for entry in received.proven)
        self._hashed += received.hashed
        return Sent(len(wanted), sum(entry.size for entry in wanted), wire + received.written, messages)

    def _send_limited(self, delivery: Delivery, options: Options, tell: Optional[Tell]) -> Tuple[Delivery, int, Tuple[str, ...]]:
        """Let rsync send what it can: not files with holes, which it would fill, or look for zeros in every file (+0.4 s per GB). (What is left,
        bytes on the wire, messages.)"""
        from ...transfer.plan import can_carry, plan_roots

        takes = _taken(delivery)
        left: List[Entry] = []
        chosen: List[Entry] = []
        for entry in delivery.wanted:
            is_odd = entry.path in delivery.staged or entry.path in takes or not can_carry(entry.path, self._files)
            (left if is_odd else chosen).append(entry)
        if not chosen:
            return delivery, 0, ()
        items = plan_roots([(entry.path, entry.size) for entry in chosen], delivery.counts, options.streams, self._spare())
        return (delivery._replace(wanted=left), *self._run_rsync(items, delivery.root, options, tell))

    def _spare(self) -> Counter[bytes]:
        """How many files of each directory may be sent needlessly: small further names of hard-linked files, so that directories stay whole."""
        followers = self._planned[1].followers if self._planned is not None else ()
        return Counter(entry.path.rpartition(b"/")[0] for entry in followers if entry.type == FILE and entry.size <= _SPARE_TO)

    def _begin_ahead(self) -> None:
        """Place what the base gives while the rest is received."""
        if self._is_clone:
            return
        self._end_ahead()
        if self._planned is None or self.base is None:
            return
        plan = self._planned[1]
        snapshot, base, storage = self._snapshot, self.history.snapshot(self.base.id) + b"/tree", self.storage
        if len(plan.linked) < pool.FORK_PAYS_ITEMS or not os.path.isdir(base):
            return
        os.mkdir(self._snapshot + b"/tree", 0o700)
        self._ahead = _Ahead(plan, [])
        count = min(pool.available_cpus(), len(plan.linked) // pool.FORK_PAYS_ITEMS)
        for number in range(count):
            place = partial(place_known, snapshot + b"/tree", base, plan, storage, self.clone, number, count)
            self._ahead.parts.append(Later(place, items=len(plan.linked)))

    def _end_ahead(self) -> None:
        """Forget what was done of a snapshot that will not be."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self._is_clone = False
        with Descent(self._snapshot) as snapshot:
            remove_tree(snapshot.root_fd, b"tree")

    def _take_ahead(self, plan: Sources) -> List[Placed]:
        """What was placed ahead by this very plan, if anything was; else an empty tree."""
        ahead = self._ahead
        if ahead is None or ahead.plan is not plan:
            return self._begin_anew()
        try:
            return [part.result() for part in ahead.parts]
        except OSError as error:
            if error.errno not in _NOT_AS_LISTED:
                raise
            return self._begin_anew()  # the base is not what it was taken for, and the build says so

    def _begin_anew(self) -> List[Placed]:
        self._end_ahead()
        os.mkdir(self._snapshot + b"/tree", 0o700)
        return []

    def _run_rsync(self, items: Sequence[Item], root: bytes, options: Options, tell: Optional[Tell]) -> Tuple[int, Tuple[str, ...]]:
        from ...transfer.attempts import FULL, send_persistently

        try:
            return send_persistently(items, source_root=root, destination=self._files, options=options, resume=self._resumed, hold=self._locks, tell=tell)
        except BackupError as error:
            if error.kind == FULL:
                raise _full(self.history) from error
            raise

    def _lay_bases(self, wanted: Sequence[Entry]) -> Set[bytes]:
        """Put clones of what the base has of large files where they will be received; the paths of those that then need only be patched."""
        laid: Set[bytes] = set()
        large = [entry for entry in wanted if entry.size >= PATCH_FROM and entry.path not in self._distrusted]
        if self.base is None or not large:
            return laid
        try:
            base = Descent(self.history.snapshot(self.base.id) + b"/tree")
        except OSError:
            return laid
        with base, Descent(self._files) as files:
            for entry in large:
                try:
                    parent, name = base.parent(entry.path)
                    fd, _found = open_file(parent, name)
                except OSError:
                    continue  # it is new
                try:
                    into, last = files.parent(entry.path, create=0o700)
                    remove_tree(into, last)
                    out = os.open(last, CREATE_FLAGS, 0o600, dir_fd=into)
                    is_cloned = clone_file(fd, out)
                    os.close(out)
                finally:
                    os.close(fd)
                if not is_cloned:
                    break  # nor will it be for any other
                laid.add(entry.path)
        return laid

    def _clear_unwanted(self, wanted: Sequence[Entry], place: bytes) -> None:
        """Remove from what a dead session received at ``place`` whatever would stand in the way: other paths, and files where directories belong."""
        files = {entry.path for entry in wanted}
        directories: Set[bytes] = set()
        for path in files:
            parent = path.rpartition(b"/")[0]
            while parent and parent not in directories:
                directories.add(parent)
                parent = parent.rpartition(b"/")[0]
        with Descent(place) as received:
            for path, listing in walk(received):
                prefix = path + b"/" if path else b""
                at = received.directory(path)
                for item in list(listing):
                    is_directory = stat.S_ISDIR(item.stat.st_mode)
                    if (prefix + item.name) not in (directories if is_directory else files):
                        remove_tree(at, item.name)
                        listing.remove(item)

    def _take_over_own(self, wanted: Sequence[Entry]) -> None:
        """What an earlier session had already copied and proven need not come again."""
        self._resumed = False
        with Descent(self._files) as files:
            there: List[Entry] = []
            for entry in wanted:
                with suppress(OSError):
                    parent, name = files.parent(entry.path)
                    if stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                        there.append(entry)
            files.forget()
            shortfalls, hashed = check_received(files, there, self.storage)
        short = {item.path for item in shortfalls}
        self._hashed += hashed
        self._proven.update((entry.path, entry) for entry in there if entry.path not in short)

    def _check_space(self, delivery: Delivery, laid: AbstractSet[bytes]) -> None:
        """Refuse what cannot fit before any of it is copied."""
        new = [entry for entry in delivery.wanted if entry.path not in laid]
        found = os.statvfs(self.history.incoming)
        free = found.f_bavail * found.f_frsize
        need = sum(entry.size for entry in new)
        if need > free:
            takes = _taken(delivery._replace(wanted=new))
            need = sum(takes.get(entry.path, entry.size) for entry in new)
        if need > free:
            raise _full(self.history, need)

    def commit(self, manifest: Manifest, tell: Optional[Tell] = None) -> Receipt:
        try:
            return self._commit(manifest, tell)
        except IncompleteError:
            raise
        except OSError as error:
            explained = explain(error, self.history)  # while what filled the vault is still there
            self._forget_tree()
            raise explained from error
        except BaseException:
            self._forget_tree()
            raise

    def _forget_tree(self) -> None:
        """What was half built must not be taken for the base's untouched clone by another attempt."""
        with suppress(OSError):
            self._end_ahead()

    def _commit(self, manifest: Manifest, tell: Optional[Tell]) -> Receipt:
        plan = self._plan(manifest)
        unproven = [entry for entry in plan.wanted if self._proven.get(entry.path) != entry]
        with Descent(self._files) as files:
            shortfalls, hashed = self._receive(files, unproven, tell)
            self._hashed += hashed
            short = {item.path for item in shortfalls}
            self._proven.update((entry.path, entry) for entry in unproven if entry.path not in short)
            if shortfalls:
                self._is_pure = False
                raise IncompleteError(shortfalls)
            is_clone = self._is_clone
            known = [] if is_clone else self._take_ahead(plan)
            base_tree = self._open_base(plan)
            try:
                with Descent(self._snapshot + b"/tree") as tree:
                    if is_clone:
                        built = self._edit(tree, base_tree, files, plan, manifest)
                    else:
                        built = build(tree, base_tree, files, plan, self.storage, self.clone, known, is_pure=self._is_pure)
                    tree.forget()
                    proof, _apart = prove(tree, manifest, self.storage, finish=True)
            finally:
                if base_tree is not None:
                    base_tree.close()
        wrong = [(damage.path, damage.reason) for damage in proof.damaged]
        wrong += [(path, "missing") for path in proof.missing] + [(path, "extra") for path in proof.extra]
        broken = set(built.broken)
        if wrong:
            origins = {entry.path: entry.path for entry in plan.linked}
            origins.update((entry.path, donor) for entry, donor, _share in plan.donated)
            broken |= {origins[path] for path, _reason in wrong if path in origins}
            if is_clone:
                broken |= {path for path, _reason in wrong}  # an heirloom that the base's manifest does not tell of
        if broken:
            raise self._distrust(broken)
        if wrong:
            path, reason = wrong[0]
            raise BackupError(
                "The new snapshot is not as its manifest says: %d paths, the first is %s (%s)" % (len(wrong), printable(b"/" + path), reason),
                kind="proof",
                field=reason,
                found=b"/" + path,
                next="nothing was published; if the vault's file system cannot keep this, use a vault with storage portable",
            )
        receipt = self._make_receipt(manifest, plan, built, is_clone)
        final = manifest.with_header(id=receipt.id, sequence=receipt.sequence, parent=receipt.parent, created=receipt.created)
        self._publish(self._snapshot, final, receipt)
        return receipt

    def _make_receipt(self, manifest: Manifest, plan: Sources, built: Built, is_clone: bool) -> Receipt:
        created = self._next_time()
        return Receipt(
            id=layout.make_id(created, manifest.digest),
            sequence=self.base.receipt.sequence + 1 if self.base is not None else 1,
            parent=self.base.id if self.base is not None else None,
            created=created,
            claimed=manifest.header.claimed,
            host=self.host,
            policy=self.policy,
            tx=self.tx,
            digest=manifest.digest,
            content_digest=manifest.content_digest,
            entries=len(manifest.lines),
            files=manifest.files,
            bytes=manifest.total_size,
            received_files=len(plan.wanted),
            verified_bytes=self._hashed + built.hashed_bytes,
            linked=built.linked,
            copied=built.copied,
            link_limit=built.link_limit,
            storage=self.storage,
            clone=REFLINK if self.clone == BTRFS and self.base is not None and not is_clone else self.clone,
            engine=VERSION,
        )

    def _receive(self, files: Descent, entries: Sequence[Entry], tell: Optional[Tell]) -> Tuple[List[Shortfall], int]:
        """Prove what arrived for ``entries``, which then lies below ``files`` with its metadata; (what is wrong, bytes hashed)."""
        return check_received(files, entries, self.storage, tell)

    def _edit(self, tree: Descent, base_tree: Optional[Descent], files: Descent, plan: Sources, manifest: Manifest) -> Built:
        """Make the new tree of the clone. Where that is not what it was taken for, the next attempt builds path by path."""
        assert base_tree is not None and self.base_manifest is not None
        edits = plan_edits(plan, self.base_manifest, manifest, self._distrusted)
        try:
            return edit(tree, base_tree, files, edits, len(plan.linked), self.storage)
        except OSError as error:
            if error.errno not in _NOT_AS_LISTED:
                raise
            raise self._distrust({error.filename if isinstance(error.filename, bytes) else b"tree"}) from error

    def _open_base(self, plan: Sources) -> Optional[Descent]:
        if self.base is None:
            return None
        try:
            return Descent(self.history.snapshot(self.base.id) + b"/tree")
        except (FileNotFoundError, NotADirectoryError):
            lost = {entry.path for entry in plan.linked} | {donor for _entry, donor, _share in plan.donated}
            if not lost:
                return None
            raise self._distrust(lost) from None

    def _distrust(self, broken: Set[bytes]) -> IncompleteError:
        """The base is damaged there: what the host sends instead heals it."""
        self._distrusted |= broken
        self._planned = None
        self._end_ahead()
        self._proven.clear()
        return IncompleteError([Shortfall(path, "base") for path in sorted(broken)])

    def explained(self, error: OSError) -> BackupError:
        """What a failed system call on the vault means to its user."""
        return explain(error, self.history)

    def _next_time(self) -> str:
        return time_after(self.base, time.time())

    def _publish(self, snapshot: bytes, manifest: Manifest, receipt: Receipt) -> None:
        _write(snapshot + b"/manifest.jsonl.gz", manifest.to_bytes())
        layout.write_json(snapshot + b"/receipt.json", receipt.to_dict())
        layout.make_private(self.history.snapshots)
        with Descent(snapshot) as inside:
            remove_tree(inside.root_fd, b"files")  # of a subvolume; there it can be nowhere else
        self._hold_after_anomaly(snapshot, manifest, receipt)
        if self.tags:
            layout.change_tags(self.history, receipt.id, self.tags, ())  # before there is a snapshot, so that it has them from the start
        sync_file_system(snapshot)
        # Written first, so that no snapshot lacks its record; a crash in between shows as the sweep of this transaction.
        self._audit(self._event(receipt))
        os.rename(snapshot, self.history.snapshot(receipt.id))
        sync_directory(self.history.snapshots)
        self._point_latest(receipt.id)

    def _event(self, receipt: Receipt) -> Dict[str, object]:
        """What the log is to say of this commit."""
        return {
            "event": "commit",
            "snapshot": receipt.id,
            "sequence": receipt.sequence,
            "parent": receipt.parent,
            "digest": receipt.digest,
            "files": receipt.files,
            "received_files": receipt.received_files,
            **({"tags": list(self.tags)} if self.tags else {}),
        }

    def _point_latest(self, snapshot_id: str) -> None:
        """Let the link ``latest``, which people and plain tools go by, lead to this snapshot."""
        target, link = b"snapshots/" + snapshot_id.encode("ascii"), self.history.base + b"/latest"
        try:
            if os.readlink(link) == target:
                return
        except OSError:
            pass
        try:
            os.unlink(link + b".new")
        except FileNotFoundError:
            pass
        os.symlink(target, link + b".new")
        os.rename(link + b".new", link)

    def _hold_after_anomaly(self, snapshot: bytes, manifest: Manifest, receipt: Receipt) -> None:
        """Keep the parent for good where what lies in ``snapshot`` looks like the work of ransomware."""
        base = self.base_manifest
        if self.base is None or base is None:
            return
        with _Trees(self.history.snapshot(self.base.id), snapshot) as trees:
            anomaly = judge(self.thresholds, base, manifest, trees.look, by_chance)
        if anomaly is not None:
            reason = reason_to_hold(anomaly, str(self.base.held.get("reason")) if self.base.held else None, receipt.id)
            layout.update_state(self.history, self.base.id, {"held": {"at": rfc3339(time.time()), "reason": reason, "by": "anomaly"}})
            self._audit({"event": "hold", "snapshot": self.base.id, "reason": reason, "by": "anomaly"})
            self.anomaly = reason

    def close(self, *, keep: bool = False) -> None:
        try:
            if self._ahead is not None:
                self._ahead.close()
            if not keep:
                with Descent(self.history.incoming) as incoming:
                    self._discard(incoming, self.tx.encode("ascii"))
        except OSError:
            pass  # the next session sweeps
        finally:
            for fd in self._locks:
                os.close(fd)
            self._locks.clear()


class _Trees:
    """Two snapshots that lie side by side, opened when somebody first looks into a file of both."""

    def __init__(self, *snapshots: bytes) -> None:
        self._snapshots = snapshots
        self._trees: List[Descent] = []

    def look(self, old: Entry, new: Entry) -> Optional[bool]:
        """Whether the second of two files looks encrypted, beside the first; None where they cannot be read: what is damaged is not judged."""
        try:
            if not self._trees:
                self._trees += [Descent(path + b"/tree") for path in self._snapshots]
            places = places_of(old, new, by_chance)
            found = [_read_places(tree, entry.path, places) for tree, entry in zip(self._trees, (old, new))]
        except OSError:
            return None
        return looks_encrypted(*found)

    def __enter__(self) -> _Trees:
        return self

    def __exit__(self, *_exception: object) -> None:
        for tree in self._trees:
            tree.close()


def _read_places(tree: Descent, path: bytes, places: Sequence[Tuple[int, int]]) -> List[bytes]:
    fd, _found = open_file(*tree.parent(path))
    try:
        return [os.pread(fd, length, offset) for offset, length in places]
    finally:
        os.close(fd)


def explain(error: OSError, history: History) -> BackupError:
    """What a failed system call on the vault means to its user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(history)
    vault = printable(os.path.dirname(os.path.dirname(history.base)))
    if error.errno in RUN_OUT:
        return refused_by_system(error, "writing the vault %s" % vault)
    return TargetError(
        "The vault %s cannot be written: %s%s" % (vault, error.strerror or error, " (%s)" % printable(error.filename) if error.filename else ""),
        field="target",
        found=vault,
        next="check its owner, mode and file system; nothing was published",
    )


def _full(history: History, need: int = 0) -> BackupError:
    try:
        free = os.statvfs(history.base)
        left = free.f_bavail * free.f_frsize
        if free.f_files and not free.f_favail:  # 0 in all: the file system has no such limit
            return BackupError(
                "The vault is full: its file system cannot hold more files (no inodes are free), though %d bytes are free" % left,
                kind="vault_full",
                field="target",
                found=0,
                next="remove files from that file system, or make one with more inodes; nothing was published and the newest snapshot is untouched",
            )
    except OSError:
        left = 0
    return BackupError(
        "The vault is full: %s%d bytes are free" % ("%d bytes are to be stored, " % need if need else "", left),
        kind="vault_full",
        field="target",
        found=left,
        next="free space in the vault; nothing was published and the newest snapshot is untouched",
    )


def _move(dir_fd: int, name: bytes, place: bytes) -> None:
    """Rename a directory of received files, or where another subvolume is in between clone what is in it, with the times that rsync goes by."""
    try:
        os.rename(name, place, src_dir_fd=dir_fd)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    os.mkdir(place, 0o700)
    with Descent(name, dir_fd=dir_fd) as old, Descent(place) as new:
        for path, listing in walk(old):
            at, into = old.directory(path), new.directory(path, create=0o700)
            for item in listing:
                if stat.S_ISREG(item.stat.st_mode):
                    fd, found = open_file(at, item.name)
                    out = os.open(item.name, CREATE_FLAGS, 0o600, dir_fd=into)
                    try:
                        if not clone_file(fd, out):
                            copy_file(fd, out)
                        os.utime(out, ns=(found.st_mtime_ns, found.st_mtime_ns))
                    finally:
                        os.close(fd)
                        os.close(out)


def _taken(delivery: Delivery) -> Dict[bytes, int]:
    """Bytes on disk of those files that really have holes: compression makes blocks few, too."""
    takes: Dict[bytes, int] = {}
    for root, is_staged in ((delivery.root, False), (delivery.staging, True)):
        chosen = [entry for entry in delivery.wanted if entry.size >= SPARSE_FROM and (entry.path in delivery.staged) is is_staged]
        if not chosen:
            continue
        with Descent(root) as source:
            for entry in chosen:
                with suppress(OSError):  # gone: the proof will say so
                    taken = size_with_holes(*source.parent(entry.path))
                    if taken is not None:
                        takes[entry.path] = taken
    return takes


def read_snapshot_manifest(history: History, snapshot: Snapshot) -> Manifest:
    """A snapshot's manifest, held against its receipt (``IntegrityError``)."""
    path = history.manifest(snapshot.id)
    manifest = read_manifest(path)
    check_manifest(manifest, snapshot.receipt, printable(path))
    return manifest


def read_snapshot_manifest_unchecked(history: History, snapshot: Snapshot) -> Tuple[Manifest, Callable[[], None]]:
    """The same, with what is to be called before anything that comes of it counts: the check, which takes as long as the reading."""
    path = history.manifest(snapshot.id)
    manifest, check_trailer = read_unchecked(path)

    def check() -> None:
        check_trailer()
        check_manifest(manifest, snapshot.receipt, printable(path))

    return manifest, check


def _write(path: bytes, data: bytes) -> None:
    with open(os.open(path, CREATE_FLAGS, 0o600), "wb") as stream:
        stream.write(data)


def sync_directory(path: bytes) -> None:
    """The names in a directory are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: bytes) -> None:
    """``syncfs``: everything that was written is on disk before the rename says that it exists."""
    import ctypes

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(fd)
