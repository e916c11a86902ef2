# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up: prepare, scan, compare with the baseline, ask the guards, send the difference, have it proven and published, remember it, clean up."""

from __future__ import annotations

import os
import re
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import BackupError, IntegrityError, RefusedError, UsageError, counted, printable, refused_by_system
from ..manifest.cache import Cache, write_cache
from ..manifest.changeset import ChangeSet, diff
from ..manifest.database import Facts, database_of
from ..manifest.document import Header, Manifest
from ..manifest.entry import DIRECTORY, FILE, Entry
from ..manifest.recall import recall
from ..manifest.scan import Hashed, Scan, Staging, hash_changed
from ..manifest.selection import Selection, selects
from ..manifest.survey import Survey, survey
from ..manifest.walk import Descent
from ..observe.audit import rfc3339
from ..observe.progress import Progress
from ..policy.checks import check_tag
from ..policy.guards import Removal, check_guards
from ..policy.model import Notify, Policy
from ..target.contract import Delivery, IncompleteError, Receipt, Session, Snapshot, Thresholds
from ..target.tree.layout import damaged_paths
from ..version import VERSION
from .locate import AnyTarget, check_apart, history_lost, open_target
from .result import Outcome, Result
from .sources import Marked, application_of, check_sources, never_entered, with_sources
from .state import HostState, Pending, new_transaction, refuse_unfinished, refuse_unfinished_beside, user_names

if TYPE_CHECKING:
    from ..transfer.rsync import Options
    from .hooks import Hooks

SAMPLE = 20
# Files that change between scan and transfer are read again this often; by then they come from a private copy.
_ROUNDS = 4
# The vault hears nothing from a host that makes the entries of more paths, for longer than it may be willing to wait.
_EARLY_ENTRIES = 1_000_000
_ACCEPT = re.compile("[0-9a-f]{8}")


@dataclass
class BackupResult(Result):
    """What a run did, or in check mode would do.

    ``unchanged``: entries that are as in the baseline; ``captured``: databases that were captured, ``would_capture``: in check mode those that
    would be; ``bytes_sent``: logical size of the content sent; ``bytes_wire``: what the tools moved; ``requests``: what a bucket's service was asked
    (``Requests``), None for targets that do not charge by the request; ``healed``: paths that the newest snapshot lacked or held damaged, and this
    one has; ``anomaly``: why the snapshot before is held since, None where it is not;
    ``tagged``: tags that the newest snapshot got because nothing had changed; ``sample``: up to 20 changes as ``{path, change}``,
    ``truncated`` when there are more; ``hooks``: what became of the
    policy's hooks (``HookRun.to_dict``), in check mode those that would run; ``duration`` in seconds.
    """

    changed: bool = False
    snapshot_id: Optional[str] = None
    digest: str = ""
    content_digest: str = ""
    entries: int = 0
    bytes: int = 0
    added: int = 0
    modified: int = 0
    metadata: int = 0
    removed: int = 0
    unchanged: int = 0
    files_hashed: int = 0
    files_sent: int = 0
    bytes_sent: int = 0
    bytes_wire: int = 0
    requests: Optional[Dict[str, Any]] = None
    captured: int = 0
    would_capture: int = 0
    stale: int = 0
    unstable: int = 0
    vanished: int = 0
    healed: int = 0
    anomaly: Optional[str] = None
    tagged: List[str] = field(default_factory=list)
    sample: List[Dict[str, str]] = field(default_factory=list)
    truncated: bool = False
    warnings: List[str] = field(default_factory=list)
    hooks: List[Dict[str, Any]] = field(default_factory=list)
    receipt: Optional[Dict[str, Any]] = None
    duration: float = 0.0

    def __post_init__(self) -> None:
        self._refusal: Optional[BackupError] = None

    def refuse(self, error: BackupError) -> None:
        """In check mode: what would be done, were it not refused."""
        self._refusal = error

    def failure(self) -> Optional[BackupError]:
        """Why the run would be refused that check mode predicts; None where it would not."""
        return self._refusal

    @property
    def rc(self) -> int:
        """The exit code: 0, 3 with warnings, or that of the refusal."""
        return self._refusal.rc if self._refusal is not None else super().rc

    def to_dict(self) -> Dict[str, Any]:
        """The public result."""
        return {key: value for key, value in super().to_dict().items() if not key.startswith("_")}


def backup(
    policy: Policy,
    *,
    state_directory: str,
    adopt: bool = False,
    accept: Optional[str] = None,
    tags: Sequence[str] = (),
    dry_run: bool = False,
    progress: Optional[Progress] = None,
    tells: Callable[[BackupError], bool] = lambda error: True,
) -> BackupResult:
    """Add a snapshot of the policy's sources to its target, if they changed.

    ``tags``: names that the snapshot bears, also one that is there already because nothing changed;
    ``adopt``: go on from a history that this host has no baseline for; ``accept``: the 8 digits that a guard showed;
    ``dry_run``: predict, and write nothing anywhere; ``tells``: whether people are to hear of a failure. Raises ``BackupError``; its ``rc`` is the exit code.
    """
    started = time.time()
    if accept is not None and not _ACCEPT.fullmatch(accept):
        raise UsageError(
            "accept is not what a guard showed", field="accept", found=accept, allowed="8 digits of 0-9 and a-f", next="look at the change with --dry-run"
        )
    for name in tags:
        check_tag(name, "tags")
    run = _Run(policy, HostState(state_directory, policy), adopt, accept, tags, progress or Progress(), started)
    run.tell_of_idle_keys()
    if dry_run:
        try:
            run.go(dry_run=True)
        except OSError as error:
            raise refused_by_system(error, "looking at the sources") from error
        finally:
            run.progress.finish()
        if run.hooks is not None:
            run.result.hooks = run.hooks.predict()
        run.result.duration = time.time() - started
        return run.result
    run.tells = tells
    run.state.prepare()
    with run.state.locked():
        failure = run.perform()
    if failure is not None:
        raise failure
    return run.result


def _told(error: BaseException) -> BackupError:
    """What is recorded, and told to hooks, of what ended a run. One that was interrupted, or died of a bug, is no success."""
    if isinstance(error, BackupError):
        return error
    if isinstance(error, OSError):
        return refused_by_system(error, "backing up")
    interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
    how = "broken off by a signal or by Ctrl-C" if interrupted else "broken off by %s" % printable(repr(error))
    return BackupError(how, kind="broken_off")


class _Run:
    def __init__(self, policy: Policy, state: HostState, adopt: bool, accept: Optional[str], tags: Sequence[str], progress: Progress, now: float) -> None:
        self.policy = policy
        self.state = state
        self.adopt = adopt
        self.accept = accept
        self.tags = tags
        self.progress = progress
        self.started = self.now = now
        self.target: AnyTarget = open_target(policy.target, policy.host, policy.name, memory=state.remembered, sources=policy.sources)
        self.selection: Selection = policy.selection
        self.captures = policy.sqlite == "auto"
        self.sources: List[bytes] = []
        self.result = BackupResult()
        self.hooks = self._load_hooks()
        self.baseline: Optional[Receipt] = None
        self._baseline_manifest: Optional[Manifest] = None
        self._is_base_lost = False  # the newest snapshot's manifest cannot be read, and that is known
        self._needs_healing = False
        self.tells: Callable[[BackupError], bool] = lambda error: True
        self._damaged: Set[bytes] = set()  # what the newest snapshot lacks or holds damaged
        self._unreadable: Dict[bytes, int] = {}
        self._odd: List[str] = []
        self._told: AbstractSet[bytes] = frozenset()  # databases that are told of by themselves

    def _load_hooks(self) -> Optional[Hooks]:
        hooks = self.policy.hooks
        if not (hooks.before or hooks.after or hooks.on_failure):
            return None
        from .hooks import Hooks

        return Hooks(self.policy, self.state, warn=self._warn, progress=self.progress)

    def tell_of_idle_keys(self) -> None:
        """Say which keys of the policy were set in vain for this target."""
        keys = self.policy.without_effect()
        if keys:
            self.progress.note("without effect for this target: %s" % ", ".join(keys))

    def perform(self) -> Optional[BaseException]:
        """The run between its hooks, with its record; what it failed of. A second signal breaks off what the first one left to be done."""
        failure: Optional[BaseException] = None
        told: Optional[BackupError] = None
        try:
            if self.hooks is not None:
                self.hooks.before()
            self.now = time.time()
            self.go(dry_run=False)
            self.result.warnings += self.target.remarks()
            if self.adopt:
                self.state.set_unfinished(None)
        except BaseException as error:  # noqa: BLE001 - returned
            failure, told = error, _told(error)
        asked = self.target.requests
        if asked is not None:
            from .cost import account_for

            self.result.requests = account_for(asked, self.policy)
        try:
            self.progress.finish()
            if self.hooks is not None:
                self.hooks.afterwards(self._outcome(told))
        except BaseException as error:  # noqa: BLE001 - returned
            if failure is None:
                failure, told = error, _told(error)
        if isinstance(failure, OSError):
            assert told is not None
            told.__cause__, failure = failure, told
        elif isinstance(failure, (KeyboardInterrupt, SystemExit)):
            failure.__cause__ = told  # which bears what hooks came to: one that could not undo its work must be told of here too
        self.finish(told)
        return failure

    def go(self, *, dry_run: bool) -> None:
        """The whole run; leaves what it found in ``result``."""
        if not self.adopt:
            refuse_unfinished(self.state)
        self.policy, warnings = with_sources(self.policy, self.state)
        refuse_unfinished_beside(self.state, self.policy.sources)
        check_apart(self.policy)
        self.result.warnings += warnings
        self.sources = sorted(os.fsencode(source).strip(b"/") for source in self.policy.sources)
        self.baseline = self.state.baseline()
        if not dry_run and self.state.pending() is not None:
            self.state.forget_target()  # a run died; after a loss of power what it took back may be there again
        with Descent(b"/") as root:
            check_sources(self.policy, root, self.policy.guards.require)
            cache = Cache.load(self.state.cache)
            self.progress.stage("walk")
            skip = never_entered(self.policy, self.state)
            found = survey(self.sources, self.selection, cache, now=self.now, root=root, skip=skip, databases=self.captures)
            if self._ends_with(found.content_digest, found.entries, dry_run):
                return
            staging = None if dry_run else Staging(self.state.staging())
            try:
                hashed = self._hash(found, cache, root, staging)
                if hashed.proves_unchanged():
                    if not dry_run:
                        write_cache(self.state.cache, hashed.records, content_digest=cache.content_digest)
                    if self._ends_with(cache.content_digest, hashed.entries, dry_run):
                        return
                if not dry_run and self._knows_baseline(cache) and found.entries < _EARLY_ENTRIES and hashed.shows_change():
                    self.target.expect()
                scanned = self._finish(hashed)
                manifest = self._manifest(scanned, root)
                with manifest.digesting():
                    if self._baseline_manifest is None and self._knows_baseline(cache):
                        self._baseline_manifest = recall(cache, found.folders, manifest)
                if not dry_run and (self.baseline is None or manifest.content_digest != self.baseline.content_digest):
                    self.target.expect()
                if not dry_run:
                    # A scan in which something could not be read, or moved, must not be taken for the whole next time.
                    write_cache(self.state.cache, scanned.records, content_digest=manifest.content_digest if scanned.whole else "")
                    self.state.set_databases(scanned.databases)
                if self._ends_with(manifest.content_digest, len(manifest.lines), dry_run):
                    return
                # What follows forks, and needs neither of these large lists.
                scanned.records.clear()
                found.folders.clear()
                with nullcontext() if dry_run or self.baseline is None else manifest.packing():
                    self._publish(manifest, scanned, found, root, staging, dry_run)
            finally:
                if staging is not None:
                    staging.close()
                    self.state.clear_staging()

    def _knows_baseline(self, cache: Cache) -> bool:
        """Whether the cache was written with the newest snapshot."""
        return self.baseline is not None and self.baseline.content_digest == cache.content_digest

    # ---- sources -------------------------------------------------------------------------------------------------------

    def _hash(self, found: Survey, cache: Cache, root: Descent, staging: Optional[Staging]) -> Hashed:
        self.progress.stage("hash", files=found.entries)
        databases = self.state.databases() if self.captures else None
        tell = self.progress.advance
        hashed = hash_changed(found, cache, root=root, now=self.now, staging=staging, tell=tell, databases=databases, is_log=self._is_log())
        self.result.files_hashed = hashed.hashed_files
        if staging is None:
            self.result.would_capture = len(hashed.captured)
        else:
            self.result.captured = len(hashed.captured)
        return hashed

    def _is_log(self) -> Marked:
        profile = self.policy.found_profile
        return Marked(self.policy.sources, profile.logs if profile is not None else ())

    def _finish(self, hashed: Hashed) -> Scan:
        def previous() -> Mapping[bytes, Entry]:
            base = self._base_manifest()
            return base.by_path() if base is not None else {}

        scanned = hashed.finish(previous)
        self.result.vanished = scanned.vanished
        return scanned

    def _manifest(self, scanned: Scan, root: Descent) -> Manifest:
        entries = scanned.entries
        self._tell_of_uncaptured(scanned)
        self._tell_of_odd(entries, scanned.unreadable)
        application, warnings = application_of(self.policy, root)
        self.result.warnings += warnings
        header = Header(
            host=self.policy.host,
            policy=self.policy.name,
            sources=self.policy.sources,
            selection=self.selection.to_dict(),
            engine=VERSION,
            claimed=rfc3339(self.now),
            names=user_names({entry.uid for entry in entries}, {entry.gid for entry in entries}),
            databases=_counts(scanned.databases),
            application=application,
            parent=self.baseline.id if self.baseline is not None else None,
        )
        return Manifest(header, scanned.lines, entries)

    def _tell_of_uncaptured(self, scanned: Scan) -> None:
        if not scanned.uncaptured:
            return
        self._told = frozenset(entry.path for entry in scanned.entries if (entry.group or entry.path) in scanned.uncaptured)
        for path, reason in sorted(scanned.uncaptured.items())[:SAMPLE]:
            what = "is kept as it was in the last snapshot" if path in scanned.kept else "was copied as it lies, with its journals"
            self._warn("the database %s could not be captured (%s) and %s" % (printable(b"/" + path), reason, what))
        if len(scanned.uncaptured) > SAMPLE:
            self._warn("%s more could not be captured" % counted(len(scanned.uncaptured) - SAMPLE, "database"))

    def _tell_of_odd(self, entries: Sequence[Entry], unreadable: Mapping[bytes, int]) -> None:
        """Say once, with counts, what could not be read and what moved, in this scan or when something of it was read again."""
        result = self.result
        result.stale = sum(1 for entry in entries if entry.stale)
        result.unstable = sum(1 for entry in entries if entry.unstable)
        self._unreadable.update(unreadable)
        told, self._odd = self._odd, []
        if self._unreadable:
            path, code = min(self._unreadable.items())
            self._odd.append(
                "%s could not be read, the first is %s (%s); kept from the last snapshot: %s"
                % (counted(len(self._unreadable), "path"), printable(b"/" + path), os.strerror(code), counted(result.stale, "entry"))
            )
        moved = [entry.path for entry in entries if entry.unstable and entry.path not in self._told and database_of(entry.path) not in self._told]
        if moved:
            self._odd.append("%s changed while being copied, the first is %s" % (counted(len(moved), "file"), printable(b"/" + min(moved))))
        result.warnings = self._odd + [text for text in result.warnings if text not in told]

    def _warn(self, text: str) -> None:
        self.result.warnings.append(text)

    # ---- the baseline ----------------------------------------------------------------------------------------------------

    def _base_manifest(self) -> Optional[Manifest]:
        """The manifest of the baseline: the copy kept here, or the target's own. Directories may have other times than in it."""
        if self._baseline_manifest is None and self.baseline is not None and not self._is_base_lost:
            self._baseline_manifest = self.state.baseline_manifest(self.baseline)
            if self._baseline_manifest is None:
                for snapshot in self.target.list():
                    if snapshot.id == self.baseline.id:
                        self._baseline_manifest = self.target.manifest(snapshot)
        return self._baseline_manifest

    def _ends_with(self, content_digest: str, entries: int, dry_run: bool) -> bool:
        """End a run that found what the baseline has, where the target has that too."""
        if self.baseline is None or content_digest != self.baseline.content_digest or self.adopt or not self._still_unchanged(dry_run):
            return False
        self._settle_unchanged(entries, dry_run)
        return True

    def _still_unchanged(self, dry_run: bool) -> bool:
        """Tell the target now and then; False where it has lost what this host takes for granted, or asks for paths."""
        assert self.baseline is not None
        if self._needs_healing or self.target.is_behind(self.baseline) or (self.tags and not self._is_newest(self.baseline)):
            return False
        told = self.state.heartbeat_at()
        if dry_run or not self.policy.heartbeat or self.now - told < self.policy.heartbeat or (told and not self.target.beats):
            return True
        self.progress.stage("heartbeat")
        answer = self.target.heartbeat(self.baseline.id, self.baseline.digest)
        if answer.known:
            self.state.set_heartbeat(self.now)
        self._needs_healing = not answer.known or bool(answer.need)
        return not self._needs_healing

    def _is_newest(self, receipt: Receipt) -> bool:
        latest = self.target.latest()
        return latest is not None and (latest.id, latest.receipt.digest) == (receipt.id, receipt.digest)

    def _settle_unchanged(self, entries: int, dry_run: bool) -> None:
        assert self.baseline is not None
        if not dry_run and self.state.pending() is not None:
            # A run died here and its change was undone, or its snapshot came to be all the same.
            self.target.sweep()
            self.state.set_pending(None)
        result = self.result
        result.snapshot_id = self.baseline.id
        result.digest, result.content_digest = self.baseline.digest, self.baseline.content_digest
        result.entries, result.unchanged, result.bytes = entries, entries, self.baseline.bytes
        result.receipt = self.baseline.to_dict()
        if self.tags:
            self._tag_newest(dry_run)

    def _tag_newest(self, dry_run: bool) -> None:
        """What nothing has changed since is what the tags are meant for."""
        latest = self.target.latest()
        if latest is not None:
            self.result.tagged = sorted(set(self.tags).difference(latest.tags))
        if latest is not None and self.result.tagged:
            self.result.changed = True
            if not dry_run:
                self.target.tag(latest, self.result.tagged, ())

    def _meet_history(self, dry_run: bool) -> None:
        """Settle which snapshot this run goes on from: the writers' rules."""
        if self.adopt:
            self.target.overrule()
        latest = self.target.latest()
        baseline = self.baseline
        if latest is None:
            if baseline is not None and not self.adopt:
                raise history_lost(self.policy, baseline)
            self.baseline = None
            self._baseline_manifest = None
            return
        if baseline is not None and latest.id == baseline.id and latest.receipt.digest == baseline.digest:
            return
        pending = self.state.pending()
        if pending is not None and pending.made(latest.receipt):
            self.progress.note("the last run had been committed as %s; its acknowledgement was lost" % latest.id)
            self._rebase(latest, dry_run)
            return
        if baseline is not None and latest.id in self.state.known_ids():
            self._warn("the target went back from %s to %s; going on from there" % (baseline.id, latest.id))
            self._rebase(latest, dry_run)
            return
        if self.adopt:
            self._rebase(latest, dry_run)
            return
        if baseline is None:
            raise RefusedError(
                "The target already holds a history of host %s, policy %s (newest %s), and this host has no baseline for it in %s"
                % (self.policy.host, self.policy.name, latest.id, printable(self.state.root)),
                kind="restore_first",
                field="baseline",
                found=latest.id,
                next="if another state directory knows it, name that one; else restore it first (`openclaw-backup restore POLICY`), or go on from what is on "
                "this disk with `openclaw-backup adopt POLICY`",
            )
        raise RefusedError(
            "Another writer or a restored machine: the newest snapshot is %s, made by transaction %s, and this host last committed %s"
            % (latest.id, latest.receipt.tx, baseline.id),
            kind="writer",
            field="parent",
            found=latest.id,
            allowed=baseline.id,
            next="find the other machine that backs up as host %s; then `openclaw-backup adopt POLICY` on the one that goes on" % self.policy.host,
        )

    def _rebase(self, latest: Snapshot, dry_run: bool) -> None:
        try:
            manifest = self.target.manifest(latest)
        except IntegrityError as error:
            if not self.adopt:
                raise
            self._warn("the manifest of the newest snapshot cannot be read, and everything is sent: %s" % error.message)
            self.baseline, self._baseline_manifest, self._is_base_lost = latest.receipt, None, True
            return
        self.baseline, self._baseline_manifest = latest.receipt, manifest
        if not dry_run:
            self.target.sweep()
            self.state.set_baseline(latest.receipt, manifest)

    # ---- publishing --------------------------------------------------------------------------------------------------------

    def _judge(self, manifest: Manifest, dry_run: bool) -> bool:
        """Compare with the history and ask the guards; whether there is something to publish."""
        before = self.baseline
        self._meet_history(dry_run)
        base = self._base_manifest()
        if base is None and self.baseline is not None and not self._is_base_lost:
            raise IntegrityError(
                "The manifest of the newest snapshot %s is lost on both sides" % self.baseline.id,
                kind="manifest",
                found=self.baseline.id,
                next="verify the vault; restore its copy from another vault",
            )
        changes = diff(base, manifest)
        self._describe(changes, manifest)
        try:
            self._ask_guards(changes, base, manifest)
        except RefusedError as error:
            if not dry_run:
                raise
            self.result.refuse(error)  # with what was found, so that it can be looked at
        damaged = base is not None and self.baseline is not None and (self._known_damage() or self.target.is_behind(self.baseline))
        if base is not None and base.content_digest == manifest.content_digest and not damaged:
            # A lost acknowledgement, or an adoption, made this run's content the newest already.
            self.result.changed = self.adopt and self.baseline is not before
            self._settle_unchanged(len(manifest.lines), dry_run)
            return False
        result = self.result
        result.changed = True
        if not result.would_capture:  # nobody knows them before
            result.digest, result.content_digest = manifest.digest, manifest.content_digest
        result.entries, result.bytes = len(manifest.lines), manifest.total_size
        return True

    def _publish(self, manifest: Manifest, scanned: Scan, found: Survey, root: Descent, staging: Optional[Staging], dry_run: bool) -> None:
        if not self._judge(manifest, dry_run):
            return
        result, base = self.result, self._base_manifest()
        manifest = manifest.with_header(parent=self.baseline.id if self.baseline is not None else None)
        if dry_run:
            self._predict(base, manifest)
            return
        assert staging is not None
        tx = new_transaction()
        parent = self.baseline.id if self.baseline is not None else None
        self.state.set_pending(Pending(tx, parent, manifest.digest))
        session = self.target.begin(tx, parent, self.tags, Thresholds(**vars(self.policy.anomaly)))
        keep = False
        try:
            if base is not None:
                session.trust_base(base)
            receipt, manifest = self._converse(session, manifest, scanned, found, root, staging)
        except (KeyboardInterrupt, SystemExit):
            keep = True
            raise
        except BackupError as error:
            keep = error.kind == "transfer"
            raise
        finally:
            session.close(keep=keep)
        self.state.set_baseline(receipt, manifest)
        self.state.set_heartbeat(self.now)
        if self.policy.found_profile is not None:
            self.state.set_sources(self.policy.sources)
        result.snapshot_id, result.receipt = receipt.id, receipt.to_dict()
        result.healed = sum(entry.path in self._damaged for entry in manifest.entries) if self._damaged else 0
        if session.anomaly is not None:
            result.anomaly = session.anomaly
            self._tell_of_anomaly(parent)

    def _tell_of_anomaly(self, parent: Optional[str]) -> None:
        self._warn("%s; snapshot %s, the one before, is held: release it if that was meant" % (self.result.anomaly, parent))
        if self.policy.notify != Notify():
            from .notify import ANOMALY

            # People who have released the one that they were told of last are told at once.
            with suppress(BackupError):
                if not any(snapshot.precedes_anomaly for snapshot in self.target.list() if snapshot.id != parent):
                    self.state.set_told(ANOMALY, None)

    def _known_damage(self) -> bool:
        latest = self.target.latest()
        if latest is None or not latest.damaged:
            return False
        self._damaged = damaged_paths(latest)
        return True

    def _converse(self, session: Session, manifest: Manifest, scanned: Scan, found: Survey, root: Descent, staging: Staging) -> Tuple[Receipt, Manifest]:
        """Send and commit; what did not arrive as scanned is read again, from a private copy, and sent again."""
        options = self._options()
        staged: Set[bytes] = set(scanned.staged)
        counts: Mapping[bytes, Tuple[int, int]] = found.counts
        wanted: Sequence[Entry] = session.wanted(manifest)
        databases = dict(scanned.databases)
        # What the target lacks of those that did not change: only a capture has the bytes that the manifest speaks of.
        missing = {entry.path for entry in wanted if entry.path in databases} - staged
        if missing:
            manifest = self._reread(session, manifest, missing, root, staging, staged, databases)
            wanted = session.wanted(manifest)
        for attempt in range(_ROUNDS):
            self.progress.stage("send", files=len(wanted), bytes=sum(entry.size for entry in wanted))
            if wanted:
                sent = session.send(Delivery(b"/", wanted, staging.directory, staged, counts), options, self.progress.advance)
                self.result.files_sent += sent.files
                self.result.bytes_sent += sent.bytes
                self.result.bytes_wire += sent.wire
            self.progress.stage("commit", files=len(manifest.lines))
            try:
                return session.commit(manifest, self.progress.advance), manifest
            except IncompleteError as error:
                if attempt == _ROUNDS - 1:
                    raise
                again = {item.path for item in error.shortfalls if item.reason != "base"}
                self._damaged.update(item.path for item in error.shortfalls if item.reason == "base")
                self.progress.note("changed on the way and read again: %s" % counted(len(error.shortfalls), "file"))
                manifest = self._reread(session, manifest, again, root, staging, staged, databases)
                wanted = session.wanted(manifest)
                counts = {}
        raise AssertionError("unreachable")

    def _options(self) -> Options:
        from ..transfer.rsync import Options

        transfer, given = self.policy.transfer, self.policy.given
        return Options(
            bwlimit=transfer.bwlimit,
            # A default that this rsync does not know is nothing that somebody asked for.
            compress=transfer.compress if "transfer.compress" in given else "auto",
            compress_level=transfer.compress_level,
            checksum=transfer.checksum if "transfer.checksum" in given else "auto",
            block_size=transfer.block_size,
            streams=transfer.streams,
            timeout=transfer.timeout,
            sockopts=transfer.sockopts,
            whole_file=self.policy.target.scheme == "file",
        )

    def _reread(
        self, session: Session, manifest: Manifest, paths: Set[bytes], root: Descent, staging: Staging, staged: Set[bytes], databases: Dict[bytes, Facts]
    ) -> Manifest:
        """Read ``paths`` again into the staging directory and put what was found into the manifest, and into ``databases``."""
        from ..manifest.scan import reread

        base = self._base_manifest()
        previous = base.by_path() if base is not None else {}
        entries, lost, unreadable, captured = reread(
            manifest.entries,
            paths,
            root=root,
            staging=staging,
            previous=previous,
            databases=databases.keys(),
            is_log=self._is_log(),
            tell=lambda _size: session.say_alive(),
        )
        staged.update(paths)
        databases.update(captured)
        self.result.vanished += lost
        fresh = Manifest.from_entries(replace(manifest.header, databases=_counts(databases)), entries)
        self._tell_of_odd(fresh.entries, unreadable)
        self.result.digest, self.result.content_digest = fresh.digest, fresh.content_digest
        self.result.entries, self.result.bytes = len(fresh.lines), fresh.total_size
        # What was read again is younger than the cache believes.
        write_cache(self.state.cache, [], content_digest="")
        return fresh

    def _predict(self, base: Optional[Manifest], manifest: Manifest) -> None:
        from ..target.sources import plan_sources

        wanted = plan_sources(base, manifest, self.target.storage).wanted
        self.result.files_sent = len(wanted)
        self.result.bytes_sent = sum(entry.size for entry in wanted)

    def _describe(self, changes: ChangeSet, manifest: Manifest) -> None:
        result = self.result
        result.added, result.modified = len(changes.added), len(changes.modified)
        result.metadata, result.removed = len(changes.metadata), len(changes.removed)
        result.unchanged = len(manifest.lines) - result.added - result.modified - result.metadata
        result.sample, result.truncated = sample(changes)

    def _ask_guards(self, changes: ChangeSet, base: Optional[Manifest], manifest: Manifest) -> None:
        check_guards(
            self.policy.guards,
            files=manifest.files,
            missing_required=(),
            missing_sources=(),
            removal=self._removal(changes, base, manifest),
            # Of the loss alone: a log or a database that goes on changing must not make it another one.
            digest=_digest_of_loss(changes, manifest, self.policy.guards.min_files),
            accepted=self.accept,
        )

    def _removal(self, changes: ChangeSet, base: Optional[Manifest], manifest: Manifest) -> Removal:
        if base is None or not changes.removed:
            return Removal(0, 0, 0 if base is None else len(base.lines))
        present = {entry.hash for entry in manifest.entries if entry.type == FILE and entry.size}
        matcher = self.selection.matcher()
        removed = deselected = 0
        for entry in changes.removed:
            if not selects(matcher, self.sources, entry.path, entry.type == DIRECTORY):
                deselected += 1
            elif entry.hash not in present:
                removed += 1
        return Removal(removed, deselected, len(base.lines))

    # ---- afterwards ----------------------------------------------------------------------------------------------------------

    def _outcome(self, failure: Optional[BackupError]) -> Outcome:
        result = self.result
        if failure is not None:
            return Outcome("failed", failure.rc, result.snapshot_id, failure)
        word = "warnings" if result.warnings else "ok" if result.changed else "unchanged"
        return Outcome(word, result.rc, result.snapshot_id)

    def finish(self, failure: Optional[BackupError]) -> None:
        """Write the run's record; success only after the commit."""
        self.progress.finish()
        result, outcome = self.result, self._outcome(failure)
        result.duration = time.time() - self.started
        if self.hooks is not None:
            result.hooks = self.hooks.to_list()
        run: Dict[str, Any] = {
            "started": rfc3339(self.started),
            "finished": rfc3339(time.time()),
            "duration": round(result.duration, 3),
            "verb": "run",
            "policy": self.policy.name,
            "host": self.policy.host,
            "target": self.policy.target.url,
            "result": outcome.result,
            "rc": outcome.rc,
            "snapshot_id": result.snapshot_id,
            "entries": result.entries,
            "files_sent": result.files_sent,
            "bytes_sent": result.bytes_sent,
            "warnings": result.warnings[:SAMPLE],
            "hooks": result.hooks,
        }
        if failure is not None:
            if result.hooks:
                failure.done["hooks"] = result.hooks
            if result.warnings:
                failure.done["warnings"] = result.warnings
            run["error"] = {"message": failure.message, **failure.to_dict()}
        event = {"event": "run", "result": outcome.result, "snapshot": result.snapshot_id}
        if result.changed and failure is None:
            event["digest"] = result.digest  # this host's own word, by which a drill knows the manifest again
        try:
            self.state.record(run, event)
        except (OSError, BackupError) as error:
            if failure is None:
                self._warn("the record of this run could not be written: %s" % error)
        if self.policy.notify != Notify() and (failure is None or self.tells(failure)):
            self._notify(failure, run)

    def _notify(self, failure: Optional[BackupError], run: Mapping[str, Any]) -> None:
        from .notify import ANOMALY, FAILED, notify, ping

        why = {} if failure is None else {"message": failure.message, "next": failure.next or ""}
        facts = {"rc": run["rc"], "snapshot_id": run["snapshot_id"], **why}
        for text in notify(self.policy, self.state, FAILED, failure is not None, facts) + ping(self.policy, failure is None, str(failure or run["result"])):
            self._warn(text)
        if self.result.anomaly is not None:
            for text in notify(self.policy, self.state, ANOMALY, True, {"problems": [self.result.anomaly], "snapshot_id": run["snapshot_id"]}):
                self._warn(text)


def _digest_of_loss(changes: ChangeSet, manifest: Manifest, min_files: int) -> str:
    import hashlib

    digest = hashlib.sha256(b"\0".join(entry.path for entry in changes.removed))
    if manifest.files < min_files:
        digest.update(b"\0\0%d" % manifest.files)
    return digest.hexdigest()


def _counts(databases: Mapping[bytes, Facts]) -> Dict[str, Dict[str, int]]:
    return {os.fsdecode(path): {"tables": facts.tables, "rows": facts.rows, "schema": facts.schema} for path, facts in databases.items()}


def sample(changes: ChangeSet) -> Tuple[List[Dict[str, str]], bool]:
    """The first changes as ``{path, change}``, and whether there are more."""
    listed: List[Dict[str, str]] = []
    total = 0
    # What a guard may have stopped comes first.
    for word, entries in (
        ("removed", changes.removed),
        ("modified", [new for _old, new in changes.modified]),
        ("added", changes.added),
        ("metadata", [new for _old, new in changes.metadata]),
    ):
        total += len(entries)
        for entry in entries[: SAMPLE - len(listed)]:
            listed.append({"path": printable(b"/" + entry.path), "change": word})
    return listed, total > len(listed)
