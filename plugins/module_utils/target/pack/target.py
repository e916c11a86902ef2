# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``pack`` target: sealed, immutable objects in a byte store that need not be trusted."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from typing import (
    TYPE_CHECKING,
    AbstractSet,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
)

from ... import pool
from ...errors import BackupError, IntegrityError, RefusedError, TargetError, printable
from ...manifest.content import copy_file
from ...manifest.document import Manifest
from ...manifest.entry import FILE, Entry
from ...manifest.walk import CREATE_FLAGS, Descent, open_file
from ...observe.audit import rfc3339, seconds_of, write_all
from ..contract import Damage, Heartbeat, Receipt, Requests, Rewritten, Size, Snapshot, Target, Tell, Thresholds, Verification, is_canary
from ..portions import portions_of
from ..sources import PORTABLE
from ..tree.layout import damaged_paths
from .claims import alone
from .format import Blob, read_index
from .reader import PackReader, by_pack
from .repository import Commit, Past, Repository, Whole
from .rewrite import Rewrite
from .session import LEASE, PackSession
from .store import Item, Store

if TYPE_CHECKING:
    from .copy import PackCopySession

# What the store is, for those who find it, and for other layouts that are pointed at it.
_MARK = "format.json"
_MARKED = {"format": 1, "layout": "pack", "storage": "sealed"}
MARK = (_MARK, json.dumps(_MARKED, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n")
# Paths kept with a damaged snapshot; the next run sends these again, a longer list is found again by the next verification.
_MAX_DAMAGED = 10000
# Objects that only say that a copy was here and was removed.
_GONE = "gone"
# A run of zeros of this length becomes a hole.
_HOLE = 1 << 16
_ZEROS = bytes(_HOLE)

_Found = TypeVar("_Found")


class PackTarget(Target):
    """The history of ``policy`` of ``host`` in ``store``; ``key`` gives the master key when it is needed, None: there is none on this machine;
    ``old_keys``: those that it took the place of."""

    def __init__(self, store: Store, host: str, policy: str, key: Optional[Callable[[], bytes]], old_keys: Sequence[Callable[[], bytes]] = ()) -> None:
        self.url = store.url
        self.host = host
        self.policy = policy
        self.store = store
        self._repository = Repository(store, host, policy, key, old_keys)
        self._opened: Optional[Whole] = None

    @property
    def repository(self) -> Repository:
        """The objects of the history."""
        return self._repository

    @property
    def storage(self) -> str:
        return PORTABLE

    @property
    def beats(self) -> bool:
        return False

    @property
    def is_blind(self) -> bool:
        return not self._repository.has_key

    @property
    def requests(self) -> Optional[Requests]:
        return self.store.requests

    @property
    def immutable(self) -> Optional[bool]:
        return self.store.immutable

    def remarks(self) -> List[str]:
        return self.store.skew_told()

    # ---- looking -------------------------------------------------------------------------------------------------------------

    def latest(self) -> Optional[Snapshot]:
        commit = self._looked(self._repository.newest)
        if commit is None:
            self.is_vault()  # says so if it is one of another kind or of a newer format
            return None
        return commit.snapshot()

    def _looked(self, look: Callable[[], _Found]) -> _Found:
        """What ``look`` finds. What is remembered may be sealed with a key that is needed, and here, no more: then it is looked for in the store itself."""
        try:
            return look()
        except TargetError as error:
            if error.kind != "key":
                raise
            self.store.forget()
            return look()

    def list(self) -> List[Snapshot]:
        found = [commit.snapshot() for commit in self._repository.commits() if not commit.removed]
        if not found:
            self.is_vault()
        return found

    def _commit(self, snapshot: Snapshot) -> Commit:
        commit = self._repository.find(snapshot.receipt)
        if commit is not None:
            return commit
        raise RefusedError("The snapshot %s was just removed" % snapshot.id, kind="no_snapshot", field="snapshot", found=snapshot.id, next="list what is there")

    def find(self, receipt: Receipt) -> Optional[Snapshot]:
        commit = self._repository.find(receipt)
        return commit.snapshot() if commit is not None else None

    def manifest(self, snapshot: Snapshot) -> Manifest:
        return self.opened(snapshot).manifest

    def search(self, snapshot: Snapshot, fragment: bytes, *, ignore_case: bool = False) -> List[bytes]:
        return [line for line in self.manifest(snapshot).lines if fragment in (line.lower() if ignore_case else line)]

    def is_vault(self) -> bool:
        """Whether there is a vault, perhaps without this history."""
        mark = None if self._repository.exists() else self.store.get(_MARK)
        if mark is not None:
            _check_mark(mark, self.url)
        return mark is not None or self._repository.exists()

    def removed_ids(self) -> Set[str]:
        """The copies that were here once and that a prune has removed."""
        gone = {item.name.rpartition("/")[2] for item in self.store.list(self._repository.name(_GONE) + "/")}
        return gone.union(commit.receipt.id for commit in self._repository.commits() if commit.removed)

    def forget_removed(self, there: AbstractSet[str]) -> None:
        """What the vault that copies come from has no more, ``there`` being all that it has, need not be remembered as removed."""
        for item in self.store.list(self._repository.name(_GONE) + "/"):
            if item.name.rpartition("/")[2] not in there:
                self.store.delete(item.name)

    # ---- backing up ------------------------------------------------------------------------------------------------------------

    def begin(self, tx: str, parent: Optional[str], tags: Sequence[str] = (), thresholds: Thresholds = Thresholds()) -> PackSession:
        return self._looked(partial(self._begin_session, tx, parent, tags, thresholds))

    def _begin_session(self, tx: str, parent: Optional[str], tags: Sequence[str], thresholds: Thresholds) -> PackSession:
        repository = self._begin(tx)
        base = repository.newest()
        highest = max(repository.numbers(), default=0)
        if base is None or base.number < highest:
            repository.check_admitted()
        if (base.receipt.id if base is not None else None) != parent:
            raise RefusedError(
                "The newest snapshot is %s, this run goes on from %s" % (base.receipt.id if base is not None else "none", parent or "none"),
                kind="writer",
                field="parent",
                found=base.receipt.id if base is not None else None,
                allowed=parent,
                next="run again; if this repeats, two machines write as host %s" % self.host,
            )
        session = PackSession(repository, tx, highest + 1, base, tags, thresholds)
        session.open()
        return session

    def begin_copy(self, tx: str, origin: Snapshot, source: str, journal: bytes, thresholds: Thresholds = Thresholds()) -> PackCopySession:
        """Open a session for a copy of ``origin``, a snapshot of this history in the vault ``source`` (for messages). ``journal``: a file of this machine
        that knows what is stored and not published."""
        from .copy import Journal, PackCopySession

        repository = self._begin(tx)
        session = PackCopySession(repository, tx, repository.newest(), origin, source, Journal(journal, repository.id, repository.key_id), thresholds)
        session.open()
        return session

    def _begin(self, tx: str) -> Repository:
        """The history, begun where there was none."""
        assert self._repository.master  # before anything is written
        self.store.forget_old()
        if not self._repository.exists():
            self._begin_history(tx)
        self._repository.introduce()
        return self._repository

    def _begin_history(self, tx: str) -> None:
        mark = self.store.get(_MARK)
        if mark is None:
            foreign = self.store.foreign()
            if foreign is not None:
                mark = self.store.get(_MARK)  # somebody else may have begun here just then
            if foreign is not None and mark is None:
                raise TargetError(
                    "%s is not a vault: it holds other files and no %s" % (self.url, _MARK),
                    kind="not_a_vault",
                    field="target",
                    found=foreign,
                    allowed="an empty or missing %s, or a vault of sealed packs" % _kind_of(self.url),
                    next="name another prefix, or move away what lies there"
                    if _kind_of(self.url) == "prefix"
                    else "name another directory, or check that the vault's file system is mounted",
                )
        if mark is None:
            self._repository.put(*MARK)
        else:
            _check_mark(mark, self.url)
        if self.store.is_conditional:
            self._repository.create()
            return
        with alone(self._repository, "repository", tx):
            self.store.forget()
            if not self._repository.exists():
                self._repository.create()

    def sweep(self) -> None:
        self.store.forget()
        if self._repository.exists():
            was_at_work = self._is_anyone_at_work()
            self._remove_orphans(self._repository.commits(), (), was_at_work, None)

    def heartbeat(self, snapshot_id: str, digest: str) -> Heartbeat:
        self.store.forget()
        latest = self.latest()
        if latest is None or latest.id != snapshot_id or latest.receipt.digest != digest:
            return Heartbeat(False, ())
        return Heartbeat(True, tuple(sorted(damaged_paths(latest))))

    # ---- reading ---------------------------------------------------------------------------------------------------------------

    def portions(self, snapshot: Snapshot, entries: Sequence[Entry]) -> List[Sequence[Entry]]:
        """As the packs lie, so that none is asked for in two portions; only files that share packs, and together are too large, are parted."""
        contents = self.opened(snapshot).contents
        named: Dict[str, List[Entry]] = {}
        for entry in entries:
            named.setdefault(entry.hash if entry.size else "", []).append(entry)
        files = [(digest, pieces) for digest in named if digest for pieces in [contents.pieces(digest)] if pieces is not None]
        groups = [[entry for digest, _pieces in group for entry in named.pop(digest)] for group in by_pack(files)]
        return portions_of([*groups, *named.values()])

    @contextmanager
    def fetch(self, snapshot: Snapshot, entries: Sequence[Entry], scratch: bytes) -> Iterator[Descent]:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="fetch-", dir=os.fsdecode(scratch)) as place, Descent(os.fsencode(place)) as below:
            if entries:
                self._fetch(self.opened(snapshot), entries, below)
            yield below

    def opened(self, snapshot: Snapshot) -> Whole:
        """A snapshot opened; asked for once for each portion, opened once."""
        if self._opened is None or self._opened.commit.receipt.id != snapshot.id:
            self._opened = self._repository.open(self._commit(snapshot))
        return self._opened

    def _fetch(self, whole: Whole, entries: Sequence[Entry], below: Descent) -> None:
        """Write the content of files to their paths. One that cannot be had whole is left out, which the restore names."""
        paths: Dict[str, List[bytes]] = {}
        for entry in entries:
            if entry.type == FILE:
                paths.setdefault(entry.hash if entry.size else "", []).append(entry.path)
        for path in paths.pop("", ()):
            at, name = below.parent(path, create=0o700)
            os.close(os.open(name, CREATE_FLAGS, 0o600, dir_fd=at))
        files = [(digest, pieces) for digest in paths for pieces in [whole.contents.pieces(digest)] if pieces is not None]
        groups = by_pack(files)

        def work(start: int, stop: int) -> Any:
            share = [item for group in groups[start:stop] for item in group]
            reader = PackReader(self._repository, whole.commit.packs, (blob for _digest, pieces in share for _name, blob in pieces))
            with closing(reader), Descent(b".", dir_fd=below.root_fd) as own:
                for digest, pieces in share:
                    _write_files(own, paths[digest], pieces, reader)
            return self.store.report()

        assert self._repository.id  # asked for once, and not by each process
        weights = [sum(blob.length for _digest, pieces in group for _name, blob in pieces) for group in groups]
        for report in pool.run(work, weights, is_alone=self.store.is_limited):
            self.store.hear(report)

    # ---- verifying ---------------------------------------------------------------------------------------------------------------

    def verify(
        self, snapshot: Snapshot, *, depth: str, part: Optional[Tuple[int, int]] = None, record: bool = True, tell: Optional[Tell] = None
    ) -> Verification:
        commit = self._commit(snapshot)
        try:
            whole = self._repository.open(commit)
            found = self._examine(whole, depth, part, tell)
        except IntegrityError as error:
            if record:
                self._record(commit, Verification(0, 0, 0, (Damage(b"", error.kind),), (), ()), depth, part)
            raise
        return self._record(commit, found, depth, part) if record else found

    def _examine(self, whole: Whole, depth: str, part: Optional[Tuple[int, int]], tell: Optional[Tell]) -> Verification:
        entries = whole.manifest.entries
        files = [entry for entry in entries if entry.type == FILE and entry.size]
        places = {entry.hash: whole.contents.pieces(entry.hash) for entry in files}
        bad: Dict[Blob, str] = {}
        packs: Dict[str, str] = self._missing_packs(whole.commit)
        chosen = {pack for pack in whole.commit.packs if _is_in(pack, part)} if depth == "full" or part is not None else set()
        hashed = self._read_packs(whole, chosen, bad, packs, tell)
        damaged: List[Damage] = []
        missing: List[bytes] = []
        for entry in files:
            pieces = places[entry.hash]
            reasons = ["missing"] if pieces is None else [packs.get(blob.pack) or bad.get(blob, "") for _name, blob in pieces]
            reason = next(filter(None, sorted(reasons, key=lambda text: text != "missing")), "")
            if reason == "missing":
                missing.append(entry.path)
            elif reason:
                damaged.append(Damage(entry.path, reason))
        read = sum(1 for entry in files if any(blob.pack in chosen for _name, blob in places[entry.hash] or ()))
        return Verification(len(entries), read, hashed, tuple(sorted(damaged)), tuple(sorted(missing)), ())

    def bad_packs(self, snapshot: Snapshot, tell: Optional[Tell] = None) -> Set[str]:
        """The packs of a snapshot, every one of which is read, that are not what was written. ``IntegrityError`` where its manifest is not."""
        whole = self._repository.open(self._commit(snapshot))
        bad: Dict[Blob, str] = {}
        packs = self._missing_packs(whole.commit)
        self._read_packs(whole, set(whole.commit.packs), bad, packs, tell or (lambda files, size: None))
        return set(packs).union(blob.pack for blob in bad)

    def _missing_packs(self, commit: Commit) -> Dict[str, str]:
        """Packs that are not there with the size that they were written with, each with the reason."""
        prefix = self._repository.name("packs") + "/"
        found = {item.name[len(prefix) :]: item.size for item in self.store.list(prefix)}
        return {pack: "size" if pack in found else "missing" for pack, size in commit.packs.items() if found.get(pack) != size}

    def _read_packs(self, whole: Whole, chosen: AbstractSet[str], bad: Dict[Blob, str], packs: Dict[str, str], tell: Optional[Tell]) -> int:
        """Open every blob of every one of these packs that is there; bytes of content that were hashed."""
        needed: Dict[str, Dict[Blob, str]] = {}
        for digest, blob in whole.contents.blobs.items():
            needed.setdefault(blob.pack, {})[blob] = digest
        there = [pack for pack in whole.commit.packs if pack in chosen and pack not in packs]

        def work(start: int, stop: int, tell: Tell) -> Tuple[int, List[Blob], List[str], Any]:
            found: List[Tuple[int, List[Blob], bool]] = []
            for pack in there[start:stop]:
                found.append(self._read_pack(pack, needed.get(pack, {}), tell))
            damaged = [pack for pack, item in zip(there[start:stop], found) if item[2]]
            return sum(item[0] for item in found), [blob for item in found for blob in item[1]], damaged, self.store.report()

        assert self._repository.id  # asked for once, and not by each process
        hashed = 0
        for size, blobs, damaged, report in pool.run_telling(work, [whole.commit.packs[pack] for pack in there], tell, items=1, is_alone=self.store.is_limited):
            self.store.hear(report)
            hashed += size
            bad.update(dict.fromkeys(blobs, "hash"))
            packs.update(dict.fromkeys(damaged, "pack"))
        return hashed

    def _read_pack(self, pack: str, wanted: Mapping[Blob, str], tell: Tell) -> Tuple[int, List[Blob], bool]:
        """Open every blob of a pack: bytes of content that were hashed, blobs that are not what was written, and whether the pack is not."""
        data = self.store.get(self._repository.pack_name(pack)) or b""
        key = self._repository.pack_key(pack)
        hashed, bad, is_damaged = 0, [], False
        try:
            held: Mapping[Blob, str] = {blob: digest for digest, blob in read_index(data, key, pack).items()}
        except IntegrityError:
            is_damaged, held = True, wanted
        for blob, digest in {**held, **wanted}.items():
            try:
                key.open_blob(blob, digest, data[blob.offset : blob.offset + blob.length])
                hashed += blob.size
            except IntegrityError:
                bad.append(blob)
                is_damaged = is_damaged or blob not in wanted  # nobody's content here, and all the same not what was written
            tell(1, blob.size)
        return hashed, bad, is_damaged

    def _record(self, commit: Commit, found: Verification, depth: str, part: Optional[Tuple[int, int]]) -> Verification:
        """Keep the result with the snapshot, where the vault can be written."""
        now = rfc3339(time.time())
        changes: Dict[str, Any] = {}
        if not found.ok:
            # A slice takes nothing back of what is known of the others.
            before = damaged_paths(commit.snapshot()) if part is not None else set()
            paths = sorted({damage.path for damage in found.damaged}.union(found.missing, before))
            shown = [os.fsdecode(path) for path in paths[:_MAX_DAMAGED]]
            changes = {"damaged": {"at": now, "count": len(paths), "paths": shown}, "verified": None}
        elif part is None and depth == "full":
            changes = {"verified": {"at": now, "depth": depth}, "damaged": None}
        if changes:
            try:
                self._repository.change_state(commit, lambda state: changes)
            except BackupError as error:
                return found._replace(unrecorded=error.message)
        return found

    # ---- sizes and removal -------------------------------------------------------------------------------------------------------

    def sizes(self, snapshots: Sequence[Snapshot]) -> List[Size]:
        commits = {commit.receipt.id: commit for commit in self._repository.commits()}
        uses: Dict[str, int] = {}
        for commit in commits.values():
            for pack in commit.packs if not commit.removed else ():
                uses[pack] = uses.get(pack, 0) + 1
        found = []
        asked = [commits[snapshot.id] for snapshot in snapshots if snapshot.id in commits]
        for number, commit in enumerate(asked):
            older: Mapping[str, int] = asked[number + 1].packs if number + 1 < len(asked) else {}
            own = sum(size for pack, size in commit.packs.items() if uses[pack] == 1)
            added = sum(size for pack, size in commit.packs.items() if pack not in older)
            found.append(Size(own + commit.length, sum(commit.packs.values()) - own, added + commit.length))
        return found

    def weigh(self, snapshots: Sequence[Snapshot]) -> int:
        commits = self._repository.commits()
        ids = {snapshot.id for snapshot in snapshots}
        kept = {pack for commit in commits if commit.receipt.id not in ids and not commit.removed for pack in commit.packs}
        gone = {pack: size for commit in commits if commit.receipt.id in ids for pack, size in commit.packs.items() if pack not in kept}
        young = time.time() - LEASE  # these stay for their numbers
        return sum(gone.values()) + sum(commit.length for commit in commits if commit.receipt.id in ids and (commit.copied or commit.at <= young))

    def remove(self, choose: Callable[[List[Snapshot]], Mapping[str, str]], tell: Optional[Tell] = None) -> int:
        repository = self._repository
        was_at_work = False
        if not repository.has_key:  # who says nothing of what is to go must not go by what was seen long ago
            self.store.forget()
            was_at_work = self._is_anyone_at_work()
        commits = repository.commits()
        chosen = choose([commit.snapshot() for commit in commits if not commit.removed])
        if not commits:
            return 0
        doomed = [commit for commit in commits if not commit.removed and commit.receipt.id in chosen]
        if not repository.has_key:
            # Nothing can be said of a snapshot without the key: one that must stay for others stays what it is.
            clock = self.store.clock()
            doomed = [commit for commit in doomed if not _must_stay(commit, commits, doomed, clock)]
            while True:
                told = _holding(commits, doomed)
                if not told:
                    break
                doomed = [commit for commit in doomed if commit not in told]
            return self._remove_orphans(commits, doomed, was_at_work, tell)
        now = rfc3339(self.store.clock())
        for commit in _held_by(commits, _holding(commits, doomed)):
            repository.change_state(commit, lambda state: {})  # what went with its successor is said before that goes
        for commit in doomed:
            # Said in a turn of its own: who holds it at this moment is either seen here, or told that it is gone.
            repository.change_state(commit, partial(_mark_removed, commit.state, now))
        self.store.forget()
        was_at_work = self._is_anyone_at_work()
        return self._remove_orphans(repository.commits(), doomed, was_at_work, tell)

    def _is_anyone_at_work(self) -> bool:
        return self._has_lease(self._leases())

    def _leases(self) -> List[Item]:
        return self.store.list(self._repository.name("leases") + "/")

    def _has_lease(self, leases: Sequence[Item]) -> bool:
        now = self.store.clock()
        return any(now - item.at < LEASE for item in leases)

    def _remove_orphans(self, commits: Sequence[Commit], doomed: Sequence[Commit], was_at_work: bool, tell: Optional[Tell]) -> int:
        """Delete the manifests that are to go, and the packs and states that no manifest needs; bytes that were freed.

        What somebody at work may go on from stays until it is a day old: packs that no manifest ever named, and what others took the place of. While
        somebody has a lease nothing goes. ``was_at_work``: whether somebody had one before ``commits`` were listed; who took one back since then has
        published what they do not tell of, and who says one now may be about to publish."""
        repository, store = self._repository, self.store
        now = store.clock()
        gone = {commit.number for commit in doomed}
        alive = {commit.number for commit in commits if not commit.removed and commit.number not in gone}
        past = repository.past() if commits else []
        # A session may go on from the newest, also where that was just removed.
        above = [commit for commit in commits if commit.number > max(alive, default=0)]
        fresh = [commit for commit in above if commit.removed and now - seconds_of(commit.state["removed"]["at"]) < LEASE]
        begun = alive.union(commit.number for commit in fresh)
        recent = [item for item in past if item.number in begun and (now - item.since < LEASE or was_at_work)]
        counting: List[Union[Past, Commit]] = [*recent, *fresh, *(commit for commit in commits if commit.number in alive)]
        bases = {(one.base, one.base_edition) for one in counting}
        taken = {commit.number for commit in commits if commit.number not in alive and _takes_number(commit, commits, now)}
        # The highest number first, as a difference goes before what it is the difference to; and of each the latest edition last, which is what counts.
        everything: List[Union[Past, Commit]] = [*past, *commits]
        here = {(one.number, one.edition) for one in counting}
        here.update((one.number, one.edition) for one in everything if was_at_work or one.number in taken or (one.number, one.edition) in bases)
        freed = 0
        for one in sorted(everything, key=lambda one: (-one.number, one.edition)):
            if (one.number, one.edition) not in here:
                if isinstance(one, Commit) and one.copied is not None:
                    repository.put(repository.name(_GONE, one.receipt.id), b"")  # or it would come again
                store.delete(repository.manifest_name(one.number, one.edition))
                freed += one.length
        needed = {pack for one in counting for pack in one.packs}
        named = {pack for one in everything for pack in one.packs}
        prefix = repository.name("packs") + "/"
        leases = self._leases()  # the last look before the first pack goes
        is_anyone_at_work = was_at_work or self._has_lease(leases)
        for item in store.list(prefix):
            pack = item.name[len(prefix) :]
            if pack in needed or is_anyone_at_work or not (pack in named or now - item.at >= LEASE):
                continue
            store.delete(item.name)
            freed += item.size
            if tell is not None:
                tell(1, item.size)
        for item in (*leases, *store.list(repository.name("claims") + "/")):
            if now - item.at >= LEASE:
                store.delete(item.name)
        newest = commits[0].number if commits else 0  # what has a higher number came meanwhile
        staying = {number for number, _edition in here}
        self._remove_states(lambda number: number <= newest and number not in staying, lambda since: now - since >= LEASE and not is_anyone_at_work)
        store.tidy(repository.prefix + "/", now - LEASE)
        return freed

    def _remove_states(self, is_gone: Callable[[int], bool], is_over: Callable[[float], bool]) -> None:
        """Delete what was said of commits whose numbers are gone, and of others what something else was said after, as long ago as ``is_over`` asks."""
        prefix = self._repository.name("state") + "/"
        following: Optional[Item] = None
        for item in reversed(self.store.list(prefix)):
            number = item.name[len(prefix) :].partition("-")[0]
            is_past = following is not None and following.name.startswith(prefix + number + "-")
            if number.isdigit() and (is_gone(int(number)) or (following is not None and is_past and is_over(following.at))):
                self.store.delete(item.name)
            following = item

    def repack(self, unused_percent: int, tell: Optional[Tell] = None) -> Optional[Rewritten]:
        if not self._repository.has_key:
            return None
        if unused_percent >= 100:
            return Rewritten(0, 0, 0, 0, 0, {})  # nothing is looked at, either
        return self._note_damage(Rewrite(self._repository, tell).repack(unused_percent))

    def _note_damage(self, done: Rewritten) -> Rewritten:
        """Keep with its snapshots what could not be proven, as a verification does."""
        commits = {commit.receipt.id: commit for commit in (self._repository.commits() if done.damaged else ()) if not commit.removed}
        for name, paths in done.damaged.items():
            if name in commits and not damaged_paths(commits[name].snapshot()).issuperset(paths):
                found = Verification(0, 0, 0, tuple(Damage(path, "hash") for path in paths), (), ())
                self._record(commits[name], found, "full", (1, 1))  # as a part: what was known before may be elsewhere
        return done

    @property
    def sealed(self) -> PackTarget:
        return self

    @property
    def key_id(self) -> str:
        """The id of the key that seals what is written."""
        return self._repository.key_id

    def sealed_otherwise(self) -> Rewritten:
        """What ``rekey`` would write anew, as far as it is whole."""
        own = self.key_id
        commits = [commit for commit in self._repository.commits() if not commit.removed]
        packs = {pack: size for commit in commits for pack, size in commit.packs.items() if commit.key_of(pack) != own}
        snapshots = sum(commit.key != own or not packs.keys().isdisjoint(commit.packs) for commit in commits)
        return Rewritten(len(packs), sum(packs.values()), 0, snapshots, sum(commit.state_key not in (None, own) for commit in commits), {})

    def rekey(self, tell: Optional[Tell] = None, at_rest: Callable[[], ContextManager[None]] = nullcontext) -> Rewritten:
        """Seal with the key whatever is sealed with one of the old ones and still needed; what it takes the place of goes later (``sweep``). ``at_rest`` gives
        a context in which no session of this machine is under way."""
        with at_rest():  # from here on no session that began with another key can commit; only that of a copy can
            self._repository.introduce()
            self._repository.shut_out()
        return self._note_damage(Rewrite(self._repository, tell).rekey())

    def keys(self) -> List[str]:
        found: Set[str] = set()
        for commit in self._repository.commits():
            if not commit.removed:
                found.update(self._repository.keys_of(commit), commit.others.values())
            if commit.state_key is not None:
                found.add(commit.state_key)
        first = self._repository.key_id if self._repository.has_key else ""
        return sorted(found, key=lambda key: (key != first, key))

    # ---- what may change -----------------------------------------------------------------------------------------------------------

    def hold(self, snapshot: Snapshot, reason: Optional[str]) -> Optional[Dict[str, Any]]:
        held = None if reason is None else {"at": rfc3339(time.time()), "reason": reason, "by": "user"}
        self._repository.change_state(self._commit(snapshot), lambda state: {"held": held})
        return held

    def note_drill(self, snapshot: Snapshot) -> None:
        with suppress(BackupError):  # with a key or token that may only read
            self._repository.change_state(self._commit(snapshot), lambda state: {"drilled": {"at": rfc3339(time.time())}})

    def tag(self, snapshot: Snapshot, add: Sequence[str], remove: Sequence[str]) -> List[str]:
        def change(state: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"tags": sorted({*state.get("tags", ()), *add}.difference(remove))}

        tags: List[str] = self._repository.change_state(self._commit(snapshot), change).get("tags", [])
        return tags

    def bury(self) -> None:
        if not is_canary(self.policy):
            raise RefusedError("%s is no canary" % self.policy, kind="scope", field="policy", found=self.policy)
        for item in self.store.list(self._repository.prefix + "/"):
            self.store.delete(item.name)


def _is_in(pack: str, part: Optional[Tuple[int, int]]) -> bool:
    """Whether a pack belongs to share n of t: the same share on every machine and in every run. All packs belong to no part at all."""
    return part is None or int(pack, 16) % part[1] == part[0] - 1


def _must_stay(commit: Commit, commits: Sequence[Commit], doomed: Sequence[Commit], now: float) -> bool:
    """Whether the object of a snapshot that is to go is needed all the same: by one that is the difference to it, for its number, or, as the newest, by who
    goes on from it."""
    gone = {item.number for item in doomed}
    live = [item for item in commits if not item.removed]
    is_base = any(item.base == commit.number and item.number not in gone for item in live)
    return is_base or commit is live[0] or _takes_number(commit, commits, now)


def _takes_number(commit: Commit, commits: Sequence[Commit], now: float) -> bool:
    """Whether its number must not be free: numbers do not go back, and a session that began before the commit may be about to use it. One that began a day
    ago has a lease, or looks again. That of a copy is its own, whoever brings it."""
    return commit.number == commits[0].number or (commit.copied is None and now - commit.at < LEASE)


def _held_by(commits: Sequence[Commit], holding: Sequence[Commit]) -> List[Commit]:
    parents = {commit.receipt.parent for commit in holding}
    return [commit for commit in commits if commit.unsaid and commit.receipt.id in parents]


def _holding(commits: Sequence[Commit], doomed: Sequence[Commit]) -> List[Commit]:
    """Those of the ``doomed`` that alone tell why the one before them, which stays, is held."""
    held = {commit.receipt.id for commit in commits if commit.unsaid and not commit.removed and commit not in doomed}
    return [commit for commit in doomed if commit.receipt.parent in held]


def _mark_removed(before: Mapping[str, Any], now: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    if state.get("held") != before.get("held"):
        raise RefusedError(
            "A snapshot that was to go was held in the meantime", kind="held", field="snapshot", found=str(state.get("held")), next="run the prune again"
        )
    return {"removed": {"at": now}}


def _write_files(below: Descent, paths: Sequence[bytes], pieces: Sequence[Tuple[str, Blob]], reader: PackReader) -> None:
    """Write one content to its paths, as it was sealed; where it cannot be had, to none of them."""
    at, name = below.parent(paths[0], create=0o700)
    fd = os.open(name, CREATE_FLAGS, 0o600, dir_fd=at)
    try:
        end = 0
        for _digest, blob in pieces:
            data = reader.read_unhashed(blob)
            _write_with_holes(fd, data, end)
            end += len(data)
    except IntegrityError:
        os.unlink(name, dir_fd=at)
        return
    finally:
        os.close(fd)
    for path in paths[1:]:
        source, _found = open_file(*below.parent(paths[0]))
        try:
            at, name = below.parent(path, create=0o700)
            fd = os.open(name, CREATE_FLAGS, 0o600, dir_fd=at)
            try:
                copy_file(source, fd)
            finally:
                os.close(fd)
        finally:
            os.close(source)


def _write_with_holes(fd: int, data: bytes, offset: int) -> None:
    """Write content at the end of a file, and leave out what is nothing but zeros."""
    if _ZEROS not in data:
        write_all(fd, data, offset)
        return
    for start in range(0, len(data), _HOLE):
        piece = data[start : start + _HOLE]
        if piece == _ZEROS:
            os.ftruncate(fd, offset + start + _HOLE)
        else:
            write_all(fd, piece, offset + start)


def _kind_of(url: str) -> str:
    """What people call the place."""
    return "prefix" if url.startswith("s3://") else "directory"


def _check_mark(mark: bytes, url: str) -> None:
    """``TargetError`` (kind ``vault_format``) where the place is a vault of another layout or of a newer format."""
    try:
        found = json.loads(mark)
        layout, number = found["layout"], found["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        layout, number = "that cannot be read", "none"
    if (layout, number) != (_MARKED["layout"], _MARKED["format"]):
        raise TargetError(
            "The vault %s has layout %s, format %s" % (url, printable(str(layout)), printable(str(number))),
            kind="vault_format",
            field="target.layout",
            found="%s/%s" % (printable(str(layout)), printable(str(number))),
            allowed="layout pack, format 1",
            next="use the version of this program that wrote it, or a newer one"
            if layout == _MARKED["layout"]
            else "name another %s; plain files and sealed packs do not share one" % _kind_of(url),
        )
