# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicate: bring into a vault what another has of a history and this one lacks, each snapshot proven before it exists here.

Either may be of plain files or of sealed packs, which are sealed anew with the key that belongs here. What is removed there stays here, what is damaged
there does not come, and what has been pruned here does not come back.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, AbstractSet, Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from ..errors import EXIT_INTEGRITY, BackupError, IntegrityError, LockedError, TargetError, UsageError, counted, printable, refused_by_system
from ..manifest.document import MAX_ENTRIES, Manifest
from ..manifest.entry import Entry
from ..observe.audit import rfc3339, seconds_of
from ..observe.progress import Progress
from ..policy.model import Notify, Policy
from ..policy.target_spec import TargetSpec, check_target
from ..process import lock
from ..target.contract import IncompleteError, Requests, Snapshot, Thresholds
from ..target.sources import plan_sources
from ..target.succession import CLOCK_SLACK, check_place
from ..target.tree.copy import CopySession, choose_base
from ..target.tree.layout import damaged_paths, make_private, update_state
from ..target.tree.target import TreeTarget, overlaps
from ..transfer.pace import Pace, rate_of
from .locate import AnyTarget, name_of, open_target
from .result import Result
from .state import HostState, new_transaction

if TYPE_CHECKING:
    from ..target.pack.copy import PackCopySession
    from ..target.pack.target import PackTarget

Session = Union[CopySession, "PackCopySession"]
SAMPLE = 20
LISTED = 500
# A base that turns out to be damaged here is done without, path by path.
_ATTEMPTS = 3


@dataclass
class ReplicateResult(Result):
    """What was copied, or in check mode would be.

    ``copied``: ``{id, sequence, created, files_sent, bytes_sent}``, the oldest first, up to 500; ``refused``: ``{id, kind, reason, paths}`` of those that
    cannot be proven there, with up to 20 paths; ``count``: how many were copied; ``present``: how many of the source's were here already; ``pruned``: how
    many this vault had and has removed; ``bytes_sent``: logical size of the content that came; ``newest``: the newest snapshot here, or None; ``repaired``
    and ``unrepaired``: of the snapshots that were known to be damaged here, as in ``Repaired``, up to 500; ``requests``: what buckets were asked, by
    ``source`` and ``to``, None for what is no bucket.
    """

    changed: bool = False
    copied: List[Dict[str, Any]] = field(default_factory=list)
    refused: List[Dict[str, Any]] = field(default_factory=list)
    repaired: List[Dict[str, Any]] = field(default_factory=list)
    unrepaired: List[Dict[str, Any]] = field(default_factory=list)
    count: int = 0
    present: int = 0
    pruned: int = 0
    files_sent: int = 0
    bytes_sent: int = 0
    newest: Optional[str] = None
    requests: Dict[str, Optional[Dict[str, int]]] = field(default_factory=dict)
    sample: List[Dict[str, str]] = field(default_factory=list)
    truncated: bool = False
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0

    @property
    def rc(self) -> int:
        """The exit code: 0, or 7 when something of the source was refused or something here stays damaged."""
        return EXIT_INTEGRITY if self.refused or self.unrepaired else super().rc

    def to_dict(self) -> Dict[str, Any]:
        """The public result."""
        lists = {name: getattr(self, name)[:LISTED] for name in ("copied", "repaired", "unrepaired")}
        is_cut = any(len(listed) < len(getattr(self, name)) for name, listed in lists.items())
        return {**super().to_dict(), **lists, "truncated": self.truncated or is_cut}

    def failure(self) -> Optional[IntegrityError]:
        """What was refused or stays damaged, as an error; None where nothing does."""
        if self.unrepaired:
            first = self.unrepaired[0]
            return IntegrityError(
                "Not repaired: %s, the first is %s: %s" % (counted(len(self.unrepaired), "snapshot"), first["id"], first["reason"]),
                kind="unrepaired",
                field="to",
                found=first["id"],
                next="repair from another copy, or from the host: what the newest snapshot lost is sent again with its next run. What could be repaired was",
            )
        if not self.refused:
            return None
        first = self.refused[0]
        return IntegrityError(
            "Not copied, because damaged at the source: %s, the first is %s: %s" % (counted(len(self.refused), "snapshot"), first["id"], first["reason"]),
            kind="damaged_source",
            field="source",
            found=first["id"],
            next="verify it there; what is damaged in its newest snapshot, the host's next run sends anew. All others were copied",
        )


def replicate(
    policy: Policy,
    to: TargetSpec,
    *,
    state_directory: str,
    repair: bool = False,
    dry_run: bool = False,
    progress: Optional[Progress] = None,
    entries: int = MAX_ENTRIES,
) -> ReplicateResult:
    """Copy what the policy's target has of its history into the vault ``to``, a directory of this machine or a bucket; where it is one of the policy's
    ``copies``, by its URL alone. Raises ``BackupError``.

    Can be repeated and killed at any time: what arrived is used, and a snapshot is here whole or not at all. ``repair``: first put right what is known to
    be damaged in ``to``. ``entries``: a snapshot with more paths is refused, and its manifest not read. Who is to know by the policy's ``notify`` is told
    where it fails, and when it works again; not by a dry run."""
    if to == check_target(to.url, "to"):  # nothing but where: what else belongs to it, the policy may say
        to = next((spec for spec in policy.copies if spec.url == to.url), to)
        if to.layout == "pack" and to.key_file is None and to.key_command is None:
            raise UsageError(
                "%s is none of the policy's copies, so nobody knows what opens it" % to.url,
                field="to",
                found=to.url,
                allowed=", ".join(spec.url for spec in policy.copies) or "a directory, or a vault that the policy names in copies",
                next="name it in the policy's copies, with key_file and what else opens it",
            )
    state = HostState(state_directory, policy)
    try:
        result = _replicate(policy, to, state, repair, dry_run, progress or Progress(), entries)
    except BackupError as error:
        if not (dry_run or isinstance(error, LockedError)):  # another one at work will tell
            error.done["warnings"] = [*error.done.get("warnings", ()), *_tell(policy, state, error)]
        raise
    if not dry_run:
        result.warnings += _tell(policy, state, result.failure())
    return result


def _tell(policy: Policy, state: HostState, failure: Optional[BackupError]) -> List[str]:
    """Tell of a copy that failed, or that goes on; what could not be told."""
    if policy.notify == Notify():
        return []
    from .notify import FAILED, notify

    why = {} if failure is None else {"message": "replicate: %s" % failure.message, "next": failure.next or "", "rc": failure.rc}
    return notify(policy, state, FAILED, failure is not None, why, "replicate")


def _replicate(policy: Policy, to: TargetSpec, state: HostState, repair: bool, dry_run: bool, progress: Progress, entries: int) -> ReplicateResult:
    run = _Replication(policy, to, state, progress, entries)
    started = time.time()
    try:
        with run.alone(dry_run):
            run.go(repair, dry_run)
    except OSError as error:
        raise refused_by_system(error, "copying; what was copied stays, and a repeated run goes on from there") from error
    finally:
        run.progress.finish()
        run.result.requests = {name: None if asked is None else asked._asdict() for name, asked in run.asked().items()}
        run.result.duration = time.time() - started
    return run.result


class _Replication:
    def __init__(self, policy: Policy, to: TargetSpec, state: HostState, progress: Progress, entries: int) -> None:
        if to.scheme == "ssh" or to.layout not in ("tree", "pack"):
            raise UsageError(
                "The vault %s that is to get the copies is neither a directory of this machine nor a bucket with layout pack" % to.url,
                field="to",
                found=to.url,
                allowed="an absolute path, pack:///path or s3://bucket/prefix: a vault that keeps copies fetches them itself",
                next="run it on that vault, with a policy whose target is the vault to copy from",
            )
        if _lie_inside_one_another(policy.target, to):
            raise UsageError(
                "The vaults %s and %s lie inside one another" % (policy.target.url, to.url),
                field="to",
                found=to.url,
                allowed="two vaults apart, best on two machines or with two providers",
                next="name another directory or prefix",
            )
        self.policy = policy
        self.entries = entries
        self.state = state
        self.progress = progress
        self.result = ReplicateResult()
        self.source: AnyTarget = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
        receiver = open_target(to, policy.host, policy.name)
        self.tree = receiver if isinstance(receiver, TreeTarget) else None
        self.packs = _packs_of(receiver)
        self.receiver = receiver
        self.sealed = _packs_of(self.source)
        self.directory = HostState(os.fsdecode(state.root), replace(policy, target=to)).target_directory
        self.pace: Optional[Pace] = None
        self._limit(rate_of(policy.transfer.bwlimit) if policy.transfer.bwlimit else None)

    def _limit(self, rate: Optional[float]) -> None:
        """Keep to so many bytes a second each way, None: to none."""
        for packs in (self.sealed, self.packs):
            if packs is not None:
                packs.store.limit(rate)
        pace = Pace(rate) if rate is not None else None
        if isinstance(self.source, TreeTarget):
            self.pace = pace  # its files are read where they lie
        elif self.sealed is None:
            self.source.pace = pace  # what it fetches has kept the pace when it is here

    def asked(self) -> Dict[str, Optional[Requests]]:
        """What the buckets among the two were asked."""
        return {"source": self.source.requests, "to": self.receiver.requests}

    @contextmanager
    def alone(self, dry_run: bool) -> Iterator[None]:
        """One copy at a time from here into a history of packs (``LockedError``): two would not know of each other before they publish."""
        if self.packs is None or dry_run:
            yield
            return
        self.state.prepare()
        make_private(self.directory)
        fd = lock(self.directory + b"/copy.lock", fcntl.LOCK_EX, "Another copy")
        try:
            yield
        finally:
            os.close(fd)

    def go(self, repair: bool, dry_run: bool) -> None:
        """The whole of it; leaves what it did in ``result``."""
        theirs, ours = self._look()
        if repair:
            self._repair(theirs, ours, dry_run)
            ours = self.receiver.list()
        here = {snapshot.id: snapshot for snapshot in ours}
        removed = (self.tree or self._store_of_copies()).removed_ids().difference(here)
        missing = [snapshot for snapshot in reversed(theirs) if snapshot.id not in here and snapshot.id not in removed]
        result = self.result
        result.present = sum(1 for snapshot in theirs if snapshot.id in here)
        result.pruned = len(theirs) - result.present - len(missing)
        self._compare_receipts(theirs, here)
        for snapshot in missing:  # before anything is copied
            check_place(ours, snapshot, time.time())
        try:
            if dry_run:
                ours = self._predict(missing, ours)
            else:
                self._copy_all(missing)
        finally:
            result.changed = bool(result.copied or result.repaired)
            result.count = len(result.copied)
            result.files_sent += sum(item["files_sent"] for item in result.copied)
            result.bytes_sent += sum(item["bytes_sent"] for item in result.copied)
            lists = (("unrepaired", result.unrepaired), ("refused", result.refused), ("repaired", result.repaired), ("added", result.copied))
            changes = [{"path": item["id"], "change": word} for word, items in lists for item in items]
            result.sample, result.truncated = changes[:SAMPLE], len(changes) > SAMPLE
        if not dry_run:
            ours = self.receiver.list()
            self._note_freshness(theirs, ours)
            if self.packs is not None:
                self.packs.forget_removed({snapshot.id for snapshot in theirs})
        result.newest = ours[0].id if ours else None

    def _look(self) -> Tuple[List[Snapshot], List[Snapshot]]:
        """The snapshots there and here, newest first."""
        if isinstance(self.source, TreeTarget) and not self.source.exists():
            raise _no_vault(self.source.url)
        theirs, ours = self.source.list(), self.receiver.list()
        if not theirs and self.sealed is not None and not self.sealed.is_vault():
            raise _no_vault(self.source.url)
        if not theirs and any(snapshot.copied for snapshot in ours):
            raise TargetError(
                "There is no history of %s any more, of which copies are here" % name_of(self.policy),
                kind="history_lost",
                field="target",
                found=self.policy.target.url,
                next="check that its file system is mounted; the copies stay",
            )
        return theirs, ours

    def _compare_receipts(self, theirs: Sequence[Snapshot], here: Dict[str, Snapshot]) -> None:
        """Two receipts of one snapshot are equal, or somebody edited one of them: which, nobody can say from here."""
        for snapshot in theirs:
            if snapshot.id in here and here[snapshot.id].receipt != snapshot.receipt:
                self._refuse(snapshot, "receipt", "its receipt is another one there than here")

    def _refuse(self, snapshot: Snapshot, kind: str, reason: str, paths: Sequence[bytes] = ()) -> None:
        shown = [printable(b"/" + path) if path else "/" for path in paths[:SAMPLE]]
        self.result.refused.append({"id": snapshot.id, "kind": kind, "reason": reason, "paths": shown})
        self.progress.note("snapshot %s is not copied: %s" % (snapshot.id, reason))

    def _is_damaged(self, snapshot: Snapshot) -> bool:
        """Whether it is known to be damaged there; then it is refused."""
        if snapshot.damaged:
            paths = sorted(damaged_paths(snapshot))
            self._refuse(snapshot, "damaged", "it is known to be damaged in %s" % counted(snapshot.damaged.get("count", 0), "path"), paths)
        return bool(snapshot.damaged)

    # ---- repairing ---------------------------------------------------------------------------------------------------------

    def _repair(self, theirs: Sequence[Snapshot], ours: Sequence[Snapshot], dry_run: bool) -> None:
        from .repair import repair, repair_packs

        if not any(snapshot.damaged for snapshot in ours):
            return
        receipts = {snapshot.id: snapshot.receipt for snapshot in ours}
        there = {snapshot.id: snapshot for snapshot in theirs if receipts.get(snapshot.id) == snapshot.receipt}
        if self.tree is not None:
            done = repair(self.source, self.tree, there, self.state, pace=self.pace, dry_run=dry_run, progress=self.progress)
        else:
            done = repair_packs(self.source, self._store_of_copies(), there, self.state, dry_run=dry_run, progress=self.progress)
        result = self.result
        result.repaired, result.unrepaired = done.repaired, done.unrepaired
        result.files_sent, result.bytes_sent = done.files, done.bytes
        for item in done.unrepaired:
            self.progress.note("snapshot %s stays damaged: %s" % (item["id"], item["reason"]))
        for item in done.repaired if not dry_run else ():
            run = {"result": "ok" if item["whole"] else "failed", "rc": 0 if item["whole"] else EXIT_INTEGRITY, "paths": item["paths"]}
            event = {"event": "repair", "snapshot": item["id"], "to": self.receiver.url, "paths": item["paths"], "whole": item["whole"]}
            self.state.prepare()
            self.state.record({**self._about("repair", item["id"]), **run}, event)

    # ---- copying -----------------------------------------------------------------------------------------------------------

    def _copy_all(self, missing: Sequence[Snapshot]) -> None:
        if missing:
            self.state.prepare()
        for snapshot in missing:
            if self._is_damaged(snapshot):
                continue
            try:
                files, size = self._copy(snapshot)
            except IncompleteError as error:
                paths = sorted({item.path for item in error.shortfalls})
                first = error.shortfalls[0]
                self._refuse(snapshot, "content", "%s there, the first is %s (%s)" % (_differ(len(paths)), printable(b"/" + first.path), first.reason), paths)
            except IntegrityError as error:
                if self._is_gone(snapshot):
                    continue
                self._refuse(snapshot, error.kind, error.message)
            else:
                self.result.copied.append(_item(snapshot, files, size))
                self._record(snapshot, files, size)

    def _is_gone(self, snapshot: Snapshot) -> bool:
        """Whether a prune has just removed it there."""
        return all(other.id != snapshot.id for other in self.source.list())

    def _copy(self, snapshot: Snapshot) -> Tuple[int, int]:
        """Copy one; (files, bytes) that came for it. ``IncompleteError`` where the source does not hold what its manifest says."""
        self.progress.stage("copy %s" % snapshot.id)
        manifest = self._manifest(snapshot)
        manifest.entries  # noqa: B018 - what is not valid shows before anything is begun
        session = self._begin(snapshot)
        keep = True
        try:
            files = size = 0
            for attempt in range(_ATTEMPTS):
                came, took = self._fetch(session, snapshot, manifest)
                files, size = files + came, size + took
                try:
                    session.commit(manifest, self.progress.advance)
                    keep = False
                    return files, size
                except IncompleteError as error:
                    is_ours = any(item.reason == "base" for item in error.shortfalls)
                    if attempt == _ATTEMPTS - 1 or not is_ours:
                        keep = False
                        raise
            raise AssertionError("unreachable")
        except IntegrityError:
            keep = False  # what is wrong there is not kept here
            raise
        finally:
            session.close(keep=keep)

    def _manifest(self, snapshot: Snapshot) -> Manifest:
        """The manifest that the source has; of a larger one than its receipt says nothing is read."""
        if snapshot.receipt.entries > self.entries:
            raise IntegrityError(
                "It has %d paths, and this vault takes %d" % (snapshot.receipt.entries, self.entries),
                kind="limit",
                field="entries",
                found=snapshot.receipt.entries,
                allowed="at most %d paths" % self.entries,
                next="raise the vault's limits.entries, if that many are meant",
            )
        return self.source.manifest(snapshot)

    def _begin(self, snapshot: Snapshot) -> Session:
        thresholds = Thresholds(**vars(self.policy.anomaly))
        if self.tree is not None:
            return self.tree.begin_copy(new_transaction(), snapshot, self.policy.target.url, thresholds)
        journal = self.directory + b"/copy.jsonl"
        return self._store_of_copies().begin_copy(new_transaction(), snapshot, self.policy.target.url, journal, thresholds)

    def _store_of_copies(self) -> PackTarget:
        assert self.packs is not None, "copies go to plain files or to packs"
        return self.packs

    def _fetch(self, session: Session, snapshot: Snapshot, manifest: Manifest) -> Tuple[int, int]:
        entries = session.missing(manifest)
        if not entries:
            return 0, 0
        if self.sealed is not None and not isinstance(session, CopySession):
            session.take_sealed(self.sealed.repository, self.sealed.opened(snapshot), entries, self.progress.advance)
            return len(entries), sum(entry.size for entry in entries)
        with self.state.scratch() as scratch:
            os.mkdir(scratch, 0o700)
            for portion in self.source.portions(snapshot, entries):
                with self.source.fetch(snapshot, portion, scratch) as tree:
                    session.take(tree, portion, self.progress.advance, self.pace)
        return len(entries), sum(entry.size for entry in entries)

    def _note_freshness(self, theirs: Sequence[Snapshot], ours: Sequence[Snapshot]) -> None:
        """How long the newest snapshot is known to have been up to date is said of its copy too: what is missed on this vault counts from there."""
        if self.tree is None or not theirs or not ours or theirs[0].id != ours[0].id or not ours[0].copied or theirs[0].unchanged_until is None:
            return
        until = theirs[0].unchanged_until
        if (ours[0].unchanged_until or "") < until and seconds_of(until) <= time.time() + CLOCK_SLACK:
            update_state(self.tree.history, ours[0].id, {"unchanged_until": until})

    def _record(self, snapshot: Snapshot, files: int, size: int) -> None:
        run = {"result": "ok", "rc": 0, "files_sent": files, "bytes_sent": size}
        self.state.record({**self._about("replicate", snapshot.id), **run}, {"event": "replicate", "snapshot": snapshot.id, "to": self.receiver.url})

    def _about(self, verb: str, snapshot_id: str) -> Dict[str, str]:
        """What every record of this history says."""
        history = {"policy": self.policy.name, "host": self.policy.host, "target": self.policy.target.url}
        return {"finished": rfc3339(time.time()), "verb": verb, **history, "snapshot_id": snapshot_id}

    # ---- predicting --------------------------------------------------------------------------------------------------------

    def _predict(self, missing: Sequence[Snapshot], ours: Sequence[Snapshot]) -> List[Snapshot]:
        """What would be copied, as far as it can be known without reading content; the snapshots that would then be here, newest first."""
        known = list(ours)
        manifests: Dict[str, Manifest] = {}
        for snapshot in missing:
            if self._is_damaged(snapshot):
                continue
            try:
                manifest = self._manifest(snapshot)
            except BackupError as error:
                self._refuse(snapshot, error.kind, error.message)
                continue
            base = choose_base(known, snapshot) if self.tree is not None else next(iter(known), None)
            old = None if base is None else manifests.get(base.id) or self.receiver.manifest(base)
            distrusted = damaged_paths(base) if base is not None else set()
            wanted = self._wanted(old, manifest, distrusted)
            self.result.copied.append(_item(snapshot, len(wanted), sum(entry.size for entry in wanted)))
            manifests = {snapshot.id: manifest}
            known = sorted([*known, snapshot], key=lambda item: -item.receipt.sequence)
        return known

    def _wanted(self, old: Optional[Manifest], manifest: Manifest, distrusted: AbstractSet[bytes]) -> List[Entry]:
        """What of a manifest would have to come where ``old`` is here."""
        if self.tree is not None:
            return plan_sources(old, manifest, self.tree.storage, distrusted).wanted
        from ..target.pack.session import lacking

        here = {entry.hash for entry in old.entries if entry.path not in distrusted} if old is not None else set()
        return lacking(manifest, here.__contains__)


def _packs_of(target: AnyTarget) -> Optional[PackTarget]:
    if isinstance(target, TreeTarget):
        return None
    from ..target.pack.target import PackTarget

    return target if isinstance(target, PackTarget) else None


def _lie_inside_one_another(one: TargetSpec, other: TargetSpec) -> bool:
    if one.scheme == other.scheme == "file":
        return overlaps(one.path, other.path)
    if one.scheme != "s3" or other.scheme != "s3" or (one.host, one.endpoint) != (other.host, other.endpoint):
        return False
    return not one.path or not other.path or (one.path + "/").startswith(other.path + "/") or (other.path + "/").startswith(one.path + "/")


def _no_vault(url: str) -> TargetError:
    return TargetError(
        "There is no vault in %s" % url,
        kind="not_a_vault",
        field="target",
        found=url,
        next="check the path or prefix, and that its file system is mounted",
    )


def _item(snapshot: Snapshot, files: int, size: int) -> Dict[str, Any]:
    receipt = snapshot.receipt
    return {"id": snapshot.id, "sequence": receipt.sequence, "created": receipt.created, "files_sent": files, "bytes_sent": size}


def _differ(count: int) -> str:
    return "%s %s not as its manifest says" % (counted(count, "file"), "is" if count == 1 else "are")
