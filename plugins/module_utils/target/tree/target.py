# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``tree`` target on a local directory: plain files that plain tools can read."""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, TypeVar

from ...errors import IntegrityError, RefusedError, TargetError, printable
from ...manifest.document import Manifest, search_manifest
from ...manifest.entry import FILE, Entry
from ...manifest.walk import Descent, remove_tree
from ...observe.audit import AuditLog, rfc3339
from ...process import lock
from ..contract import Damage, Heartbeat, Size, Snapshot, Target, Tell, Thresholds, Verification, is_canary
from ..sources import NATIVE, PORTABLE
from . import layout
from .build import hash_files, prove
from .clone import AUTO, HARDLINK, discard
from .copy import CopySession, choose_base, removed_ids
from .guarded import GuardedSession, Ingest, room_in
from .layout import History
from .owner import keeper_of, name_of, refuse_root
from .session import TreeSession, explain, read_snapshot_manifest, read_snapshot_manifest_unchecked, sync_directory
from .sweep import sweep, sweep_all
from .usage import freed_with, sizes_of

# Snapshots in one record of the log: so many reasons are far from the longest line.
_A_RECORD = 1000

AnySession = TypeVar("AnySession", bound=TreeSession)


class TreeTarget(Target):
    """The history of ``policy`` of ``host`` in the vault at ``path`` (absolute). ``storage`` is for a vault that does not exist yet,
    ``clone`` how a new tree takes over what its parent has; ``ingest``: content comes from somebody who is not trusted, and goes the guarded way."""

    def __init__(self, path: str, host: str, policy: str, storage: Optional[str] = None, clone: str = AUTO, ingest: Optional[Ingest] = None) -> None:
        self.url = path
        self.vault = os.fsencode(path)
        self.host = host
        self.policy = policy
        self._wish = storage
        self._clone = clone
        self._ingest = ingest
        self.history = History(b"/".join((self.vault, os.fsencode(host), os.fsencode(policy))))

    @property
    def storage(self) -> str:
        """``native`` or ``portable``: the vault's, or what a new vault would have."""
        found = layout.read_format(self.vault)
        if found is None:
            return self._wish or (NATIVE if os.geteuid() == 0 else PORTABLE)
        if self._wish is not None and self._wish != found:
            raise TargetError(
                "The vault %s has %s storage, the policy asks for %s" % (self.url, found, self._wish),
                kind="vault_format",
                field="target.storage",
                found=self._wish,
                allowed=found,
                next="change target.storage in the policy, or name another directory",
            )
        return found

    def exists(self) -> bool:
        """Whether the vault is there. ``TargetError`` where something else is."""
        return layout.read_format(self.vault) is not None

    def latest(self) -> Optional[Snapshot]:
        snapshots = self.list()
        return snapshots[0] if snapshots else None

    def list(self) -> List[Snapshot]:
        if not self.exists():
            return []
        snapshots = [layout.read_snapshot(self.history, name) for name in layout.snapshot_ids(self.history)]
        snapshots.sort(key=_sequence, reverse=True)
        for newer, older in zip(snapshots, snapshots[1:]):
            if newer.receipt.sequence == older.receipt.sequence:
                raise IntegrityError(
                    "The snapshots %s and %s both claim to be number %d" % (newer.id, older.id, newer.receipt.sequence),
                    kind="receipt",
                    field="sequence",
                    found=newer.receipt.sequence,
                    allowed="every number once",
                    next="find out which receipt was edited and restore it from a copy of the vault",
                )
        return snapshots

    def manifest(self, snapshot: Snapshot) -> Manifest:
        return read_snapshot_manifest(self.history, snapshot)

    def search(self, snapshot: Snapshot, fragment: bytes, *, ignore_case: bool = False) -> List[bytes]:
        return search_manifest(self.history.manifest(snapshot.id), snapshot.receipt.digest, fragment, ignore_case=ignore_case)

    def begin(self, tx: str, parent: Optional[str], tags: Sequence[str] = (), thresholds: Thresholds = Thresholds()) -> TreeSession:
        def make(storage: str) -> TreeSession:
            latest = self.latest()
            if (latest.id if latest else None) != parent:
                raise RefusedError(
                    "The newest snapshot is %s, this run goes on from %s" % (latest.id if latest else "none", parent or "none"),
                    kind="writer",
                    field="parent",
                    found=latest.id if latest else None,
                    allowed=parent,
                    next="run again; if this repeats, two machines write as host %s" % self.host,
                )
            arguments = (self.history, storage, self.host, self.policy, tx, latest, self._clone, tags, thresholds)
            return TreeSession(*arguments) if self._ingest is None else GuardedSession(*arguments, ingest=self._ingest)

        return self._begin(make)

    def begin_copy(self, tx: str, origin: Snapshot, source: str, thresholds: Thresholds = Thresholds()) -> CopySession:
        """Open a session for a copy of ``origin``, a snapshot of this history in the vault ``source`` (for the records)."""

        def make(storage: str) -> CopySession:
            snapshots = self.list()
            base = choose_base(snapshots, origin)
            return CopySession(self.history, storage, tx, base, self._clone, origin, source, snapshots[0] if snapshots else None, thresholds)

        return self._begin(make)

    def removed_ids(self) -> Set[str]:
        """The snapshots that were here once and that a prune has removed."""
        return removed_ids(self.history)

    def _begin(self, make: Callable[[str], AnySession]) -> AnySession:
        """Open the session that ``make`` makes of the vault's storage once nobody else writes to this history."""
        storage = self.storage
        self._check_may_write(storage)
        refuse_root(self.history)
        held: List[int] = []
        try:
            with self.explaining():
                if not self.exists():
                    layout.create_vault(self.vault, storage)
                    storage = self.storage  # as whoever was first has made it
                layout.make_private(self.history.base)
                self._lock_for_writing(held)
            session = make(storage)
            session.hold_locks(held)
            held = []
        finally:
            for fd in held:
                os.close(fd)
        try:
            session.open()
        except BaseException:
            session.close()
            raise
        return session

    def _check_may_write(self, storage: str) -> None:
        if storage == NATIVE and os.geteuid() != 0:
            raise TargetError(
                "The vault %s has native storage, which only root can write" % self.url,
                kind="vault_format",
                field="target.storage",
                found=NATIVE,
                next="run as root, or make another vault with storage portable",
            )

    def _lock_for_writing(self, held: List[int]) -> None:
        """Add to ``held`` the locks under which nobody else writes to this history, and nobody removes from it."""
        held.append(lock(self.history.writer_lock, fcntl.LOCK_EX, "Another session"))
        held.append(lock(self.history.lock, fcntl.LOCK_SH, "A prune"))

    @contextmanager
    def repairing(self, *, dry_run: bool) -> Iterator[None]:
        """Nobody adds to this history or removes from it meanwhile; with ``dry_run`` nobody removes."""
        if dry_run:
            with self._reading():
                yield
            return
        self._check_may_write(self.storage)
        refuse_root(self.history)
        held: List[int] = []
        try:
            with self.explaining():
                self._lock_for_writing(held)
            yield
        finally:
            for fd in held:
                os.close(fd)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """What fails in the block fails for want of something in this vault, and is told so."""
        try:
            yield
        except OSError as error:
            raise explain(error, self.history) from error

    def sweep(self) -> None:
        sweep(self.history)

    def make_room(self) -> None:
        """Where no more than the reserve is free, remove what dead sessions of all hosts have left: with no room at all none could begin any more."""
        room = room_in(self.vault, self._ingest.reserve if self._ingest is not None else 0)
        if room.bytes <= 0 or (room.files is not None and room.files <= 0):
            sweep_all(self.vault)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Keep prunes away while a snapshot is read; a copy of a vault without a lock file is read all the same."""
        try:
            fd = lock(self.history.lock, fcntl.LOCK_SH, "A prune", os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            yield
            return
        try:
            yield
        finally:
            os.close(fd)

    def portions(self, snapshot: Snapshot, entries: Sequence[Entry]) -> List[Sequence[Entry]]:
        return [entries]

    @contextmanager
    def fetch(self, snapshot: Snapshot, entries: Sequence[Entry], scratch: bytes) -> Iterator[Descent]:
        with self._reading(), self._open_tree(snapshot) as tree:
            yield tree

    def verify(
        self,
        snapshot: Snapshot,
        *,
        depth: str,
        part: Optional[Tuple[int, int]] = None,
        record: bool = True,
        tell: Optional[Tell] = None,
        newer: Optional[Snapshot] = None,
    ) -> Verification:
        """``newer``: another snapshot, which is read as well; of this one only files are read that do not share its bytes on the disk."""
        is_whole = part is None and newer is None
        with self._reading():
            self._check_there(snapshot)
            try:
                found = self._examine(snapshot, depth, part, newer, tell)
            except IntegrityError as error:
                if record:
                    self._record(snapshot, Verification(0, 0, 0, (Damage(b"", error.kind),), (), ()), depth, part, is_whole)
                raise
        return self._record(snapshot, found, depth, part, is_whole) if record else found

    def _examine(self, snapshot: Snapshot, depth: str, part: Optional[Tuple[int, int]], newer: Optional[Snapshot], tell: Optional[Tell]) -> Verification:
        storage = self.storage
        manifest, check = read_snapshot_manifest_unchecked(self.history, snapshot)
        shares = self._sharing(snapshot, manifest, newer) if newer is not None else None

        def chosen(path: bytes) -> bool:
            return in_part(path, part) and not (shares is not None and shares(path))

        with self._open_tree(snapshot) as tree:
            if depth != "full" and part is None:
                return prove(tree, manifest, storage, meanwhile=check)[0]
            found, apart = prove(tree, manifest, storage, chosen=chosen, tell=tell, meanwhile=check)
            if apart:
                apart -= {damage.path for damage in found.damaged}
                files = [entry for entry in map(manifest.find, sorted(apart)) if entry is not None and entry.type == FILE and chosen(entry.path)]
                damaged, hashed = hash_files(tree, files, storage, tell)
                found = found._replace(
                    damaged=tuple(sorted([*found.damaged, *damaged])),
                    hashed_files=found.hashed_files + len(files),
                    hashed_bytes=found.hashed_bytes + hashed,
                )
        return found

    def _sharing(self, snapshot: Snapshot, manifest: Manifest, newer: Snapshot) -> Callable[[bytes], bool]:
        """Tells of a file of ``snapshot`` whether ``newer`` has the same bytes in the same place on the disk. Where files are clones of one another no
        inode says so: there what is equal in both manifests counts as shared."""
        if newer.receipt.clone != HARDLINK:
            other = read_snapshot_manifest(self.history, newer)

            def is_equal(path: bytes) -> bool:
                one, two = manifest.find(path), other.find(path)
                return one is not None and two is not None and one.same_content(two)

            return is_equal
        trees = [self.history.snapshot(item.id) + b"/tree/" for item in (snapshot, newer)]

        def is_one(path: bytes) -> bool:
            try:
                one, two = (os.lstat(tree + path) for tree in trees)
            except OSError:
                return False
            return os.path.samestat(one, two)

        return is_one

    def _open_tree(self, snapshot: Snapshot) -> Descent:
        path = self.history.snapshot(snapshot.id) + b"/tree"
        try:
            return Descent(path)
        except PermissionError as error:
            raise TargetError("%s cannot be read: %s" % (printable(path), error.strerror), found=path, next="run as its owner") from error
        except OSError as error:
            raise IntegrityError(
                "The files of snapshot %s cannot be opened: %s" % (snapshot.id, error.strerror), kind="tree", found=path, next="restore another snapshot"
            ) from error

    def _record(self, snapshot: Snapshot, found: Verification, depth: str, part: Optional[Tuple[int, int]], is_whole: bool) -> Verification:
        """Keep the result with the snapshot, where the vault can be written."""
        keeper = keeper_of(self.history)
        if keeper is not None:
            return found._replace(unrecorded="the account %s keeps this history, and root would shut it out" % name_of(keeper))
        now = time.time()
        changes: Dict[str, object] = {}
        result = "ok"
        if not found.ok:
            result = "damaged"
            paths = sorted({damage.path for damage in found.damaged} | set(found.missing))
            changes = {"damaged": layout.damage_of(paths, len(paths) + len(found.extra), now), "verified": None}
        elif is_whole and depth == "full":
            changes = {"verified": {"at": rfc3339(now), "depth": depth}, "damaged": None}
        event = {
            "event": "verify",
            "snapshot": snapshot.id,
            "depth": depth,
            "slice": "%d/%d" % part if part else None,
            "result": result,
            "damaged": len(found.damaged),
            "missing": len(found.missing),
            "extra": len(found.extra),
        }
        try:
            if changes:
                layout.update_state(self.history, snapshot.id, changes)
            AuditLog(self.history.audit).append(event, now=time.time())
        except OSError as error:
            return found._replace(unrecorded=error.strerror or str(error))
        return found

    def sizes(self, snapshots: Sequence[Snapshot]) -> List[Size]:
        with self._reading():
            return sizes_of([self.history.snapshot(snapshot.id) for snapshot in snapshots], [snapshot.receipt.entries for snapshot in snapshots])

    def weigh(self, snapshots: Sequence[Snapshot]) -> int:
        with self._reading():
            paths = [self.history.snapshot(snapshot.id) for snapshot in snapshots]
            return freed_with(paths + self._in_trash(), sum(snapshot.receipt.entries for snapshot in snapshots))

    def _in_trash(self) -> List[bytes]:
        try:
            return [self.history.trash + b"/" + name for name in sorted(os.listdir(self.history.trash))]
        except FileNotFoundError:
            return []

    def remove(self, choose: Callable[["List[Snapshot]"], Mapping[str, str]], tell: Optional[Tell] = None) -> int:
        if not self.exists() or not os.path.isdir(self.history.base):
            choose([])
            return 0
        refuse_root(self.history)
        try:
            with self._locked(self.history.prune_lock, "Another prune"):
                with self._locked(self.history.lock, "A backup, restore or verification"):
                    snapshots = self.list()
                    chosen = choose(snapshots)
                    if chosen:
                        self._move_to_trash([snapshot.id for snapshot in snapshots if snapshot.id in chosen], chosen)
                freed = freed_with(self._in_trash(), sum(snapshot.receipt.entries for snapshot in snapshots if snapshot.id in chosen))
                self._empty_trash(tell)
                return freed
        except OSError as error:
            raise explain(error, self.history) from error

    @contextmanager
    def _locked(self, path: bytes, what: str) -> Iterator[None]:
        fd = lock(path, fcntl.LOCK_EX, what)
        try:
            yield
        finally:
            os.close(fd)

    def _move_to_trash(self, ids: Sequence[str], reasons: Mapping[str, str]) -> None:
        history = self.history
        layout.make_private(history.trash)
        # Written first, so that nothing goes without a word; what a crash leaves in its place is told of again.
        removed = [{"snapshot": snapshot_id, "reason": reasons[snapshot_id]} for snapshot_id in ids]
        for start in range(0, len(removed), _A_RECORD):
            event = {"event": "prune", "host": self.host, "policy": self.policy, "removed": removed[start : start + _A_RECORD]}
            AuditLog(history.audit).append(event, now=time.time())
        for snapshot_id in reversed(ids):  # the oldest first, in case that this is cut short
            os.rename(history.snapshot(snapshot_id), history.trash + b"/" + snapshot_id.encode("ascii"))
        sync_directory(history.snapshots)
        sync_directory(history.trash)
        layout.forget_states(history)

    def _empty_trash(self, tell: Optional[Tell]) -> None:
        """Delete what is in there, also what a prune that was killed has left."""
        paths = self._in_trash()
        if not paths:
            return
        with Descent(self.history.trash) as trash:
            for path in paths:
                discard(trash.root_fd, os.path.basename(path))
                if tell is not None:
                    tell(1, 0)

    def hold(self, snapshot: Snapshot, reason: Optional[str]) -> Optional[Dict[str, Any]]:
        held = None if reason is None else {"at": rfc3339(time.time()), "reason": reason, "by": "user"}
        with self._amending(snapshot, {"event": "hold" if held else "release", "reason": reason}):
            layout.update_state(self.history, snapshot.id, {"held": held})
        return held

    def note_drill(self, snapshot: Snapshot) -> None:
        base = self.history.base
        if os.lstat(base).st_uid != os.geteuid() or not os.access(base, os.W_OK):
            return  # a file of root's would shut the vault's own account out, and a copy may be read-only
        with self._amending(snapshot, {"event": "drilled"}):
            layout.update_state(self.history, snapshot.id, {"drilled": {"at": rfc3339(time.time())}})

    def tag(self, snapshot: Snapshot, add: Sequence[str], remove: Sequence[str]) -> List[str]:
        with self._amending(snapshot, {"event": "tag", "add": list(add), "remove": list(remove)}):
            return layout.change_tags(self.history, snapshot.id, add, remove)

    @contextmanager
    def _amending(self, snapshot: Snapshot, event: Dict[str, Any]) -> Iterator[None]:
        """Change what is known of a snapshot while no prune is choosing, and log it."""
        refuse_root(self.history)
        with self._reading():
            self._check_there(snapshot)
            try:
                yield
                AuditLog(self.history.audit).append({**event, "host": self.host, "policy": self.policy, "snapshot": snapshot.id}, now=time.time())
            except OSError as error:
                raise explain(error, self.history) from error

    def heartbeat(self, snapshot_id: str, digest: str) -> Heartbeat:
        latest = self.latest()
        if latest is None or latest.id != snapshot_id or latest.receipt.digest != digest:
            return Heartbeat(False, ())
        refuse_root(self.history)
        try:
            layout.update_state(self.history, snapshot_id, {"unchanged_until": rfc3339(time.time())})
        except OSError as error:
            raise explain(error, self.history) from error
        return Heartbeat(True, tuple(sorted(layout.damaged_paths(latest))))

    def _check_there(self, snapshot: Snapshot) -> None:
        if not os.path.isdir(self.history.snapshot(snapshot.id)):
            raise RefusedError("The snapshot %s was just removed" % snapshot.id, kind="no_snapshot", field="snapshot", found=snapshot.id)

    def bury(self) -> None:
        if not is_canary(self.policy):
            raise RefusedError("%s is no canary" % self.policy, kind="scope", field="policy", found=self.policy)
        self.remove(lambda snapshots: {snapshot.id: "canary" for snapshot in snapshots})
        above = os.path.dirname(self.history.base)
        with suppress(OSError):
            with Descent(above) as host:
                remove_tree(host.root_fd, os.path.basename(self.history.base))
            os.rmdir(above)  # where nothing else was in it


def _sequence(snapshot: Snapshot) -> int:
    return snapshot.receipt.sequence


def in_part(path: bytes, part: Optional[Tuple[int, int]]) -> bool:
    """Whether ``path`` belongs to share n of t: the same share on every machine and in every run. All paths belong to no part at all."""
    return part is None or zlib.crc32(path) % part[1] == part[0] - 1


def overlaps(vault: str, source: str) -> bool:
    """Whether one of the two directories lies inside the other, seen through symbolic links."""
    one, other = os.path.realpath(vault), os.path.realpath(source)
    return os.path.commonpath([one, other]) in (one, other)
