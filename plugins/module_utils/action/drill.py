# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drill: a rehearsed restore. Bring a snapshot back beside everything else, prove it, use it, measure that, judge it, and keep the evidence."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import EXIT_FAILED, EXIT_INTEGRITY, BackupError, IntegrityError, TargetError, UsageError, counted, printable, refused_by_system
from ..manifest.document import Manifest
from ..manifest.entry import DIRECTORY, FILE, SYMLINK, Entry
from ..manifest.metadata import entry_type, path_of
from ..manifest.walk import Descent, remove_tree, walk
from ..observe.audit import rfc3339, seconds_of, verify_chain
from ..observe.progress import Progress
from ..policy.durations import format_duration
from ..policy.model import Policy
from ..policy.scenarios import LOST_HOST
from ..target.contract import Snapshot
from ..target.tree.layout import make_private
from ..transfer.rsync import probe as probe_rsync
from ..version import VERSION
from .choose import find_snapshot
from .comparison import Scope, bears, examine, find_wrong, look, make_scope, missing
from .locate import check_not_lost, name_of, open_target
from .probes import Check, Scene, controls, names_of
from .probes import look as run_probes
from .ransomware import CHECKS, TIMES, rehearse, too_few
from .restore import RestoreRequest, RestoreResult, restore
from .result import Result
from .state import HostState, Rehearsal, new_transaction
from .status import protected_until

SAMPLE = 20
LISTED = 100
LONGEST_ASKER = 200
LONGEST_REASON = 300
_SCRATCH = re.compile(rb"openclaw-backup-drill-[0-9a-f]{32}")
# What came back is not what was backed up; probes and objectives say that it is, and that this is not enough.
_INTEGRITY = ("restore", "bytes", "metadata", "canary", "database")


@dataclass
class DrillResult(Result):
    """What a drill found.

    ``verdict``: passed, missed (all is proven, but an objective was missed), failed, or skipped (nothing was looked at); in check mode none.
    ``checks``: public mappings of ``Check``, those
    that failed first where there are more than 100; ``counts`` of passed, failed and skipped ones. ``rto``: seconds from the start of the drill to
    the end of the last probe, None where it did not come so far; ``scenario``: one of SCENARIOS, or LOST_HOST; ``loss``: with ``damaged``, how much
    older than the newest state the one is that came back; ``rpo``: seconds between ``state_as_of``, when the sources were last known to be as
    in the snapshot, and the start of the drill. ``objectives``: seconds, None for those that the policy does not give. ``scratch``: where the tree
    still lies. ``sample``: up to 20 paths that are not as in the manifest, as ``{path, change}``.
    """

    verdict: Optional[str] = None
    host: str = ""
    policy: str = ""
    target: str = ""
    snapshot_id: Optional[str] = None
    digest: Optional[str] = None
    entries: int = 0
    files: int = 0
    bytes: int = 0
    checks: List[Dict[str, Any]] = field(default_factory=list)
    counts: Dict[str, int] = field(default_factory=dict)
    rto: Optional[float] = None
    rpo: Optional[int] = None
    scenario: str = "restore"
    loss: Optional[int] = None
    state_as_of: Optional[str] = None
    objectives: Dict[str, Optional[int]] = field(default_factory=dict)
    scratch: Optional[str] = None
    started: str = ""
    finished: str = ""
    versions: Dict[str, Optional[str]] = field(default_factory=dict)
    asked_by: Dict[str, Optional[str]] = field(default_factory=dict)
    sample: List[Dict[str, str]] = field(default_factory=list)
    truncated: bool = False
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0

    def __post_init__(self) -> None:
        self._error: Optional[BackupError] = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict in (None, "passed", "skipped")

    @property
    def rc(self) -> int:
        """The exit code: 0, 3 with warnings, 7 where what came back is not what was backed up, 1 where a probe failed or an objective was missed; that of
        the restore where it came to no end."""
        if self._error is not None:
            return self._error.rc
        failed = [check for check in self.checks if check["ok"] is False]
        if not failed:
            return super().rc
        return EXIT_INTEGRITY if any(check["kind"] in _INTEGRITY for check in failed) else EXIT_FAILED

    def to_dict(self) -> Dict[str, Any]:
        """The public result."""
        result = {name: value for name, value in super().to_dict().items() if not name.startswith("_")}
        return {**result, "rto": None if self.rto is None else round(self.rto, 3), "ok": self.ok, "changed": False}

    def failure(self) -> Optional[BackupError]:
        """What is wrong, as an error; None where nothing is."""
        if self._error is not None:
            return self._error
        failed = [check for check in self.checks if check["ok"] is False]
        if not failed:
            return None
        first = failed[0]
        text = "The drill of %s, policy %s failed: %s: %s" % (self.host, self.policy, first["name"], first["reason"])
        if len(failed) > 1:
            text += "; and %s" % counted(len(failed) - 1, "other check")
        facts = {"field": first["name"], "found": first["reason"], "next": _advice(first["kind"])}
        return IntegrityError(text, **facts) if self.rc == EXIT_INTEGRITY else BackupError(text, kind="drill", **facts)

    def take(self, checks: Sequence[Check]) -> None:
        """Keep what was checked, and judge it."""
        failed = [check for check in checks if check.ok is False]
        self.counts = {
            "passed": sum(check.ok is True for check in checks),
            "failed": len(failed),
            "skipped": sum(check.ok is None for check in checks),
        }
        is_idle = not any(check.ok is not None for check in checks)
        self.verdict = "skipped" if is_idle else "passed" if not failed else "missed" if all(check.kind == "objective" for check in failed) else "failed"
        listed = checks if len(checks) <= LISTED else [*failed, *(check for check in checks if check.ok is not False)][:LISTED]
        self.checks = [check.to_dict() for check in listed]
        self.truncated = self.truncated or len(checks) > len(listed)


def _advice(kind: str) -> str:
    if kind == "objective":
        return "find out what takes so long (the checks tell their durations), or whether backups run at all, or correct the policy's objectives"
    if kind == "probe":
        return "look at what it said; `--keep` leaves what came back to be looked at"
    if kind == "anomaly":
        return "look at the policy's `anomaly`; a vault has limits of its own, which this drill does not look at"
    if kind == "database":
        return "look at the host's own database, which may be damaged as well; an older snapshot may hold it whole (`drill --snapshot`)"
    return "verify the snapshot, look at the vault's disk and at the scratch's, and drill an older snapshot"


def drill(
    policy: Policy,
    *,
    state_directory: str,
    scratch: Optional[str] = None,
    snapshot: str = "latest",
    keep: bool = False,
    dry_run: bool = False,
    progress: Optional[Progress] = None,
    is_own_history: bool = True,
    on_vault: bool = False,
    asked_by: Optional[str] = None,
    scenario: str = "restore",
    spent: float = 0.0,
) -> DrillResult:
    """Restore a snapshot to a new directory below ``scratch`` (absolute; by default in the state), prove all of it, run the probes, judge, and remove it.

    ``keep``: leave it there. What is wrong with the snapshot, its vault or the room for it is in the result; raises ``BackupError`` where there was no
    drill: another one is at work, or ``scratch`` cannot be used. ``dry_run``: choose, look for room, write nothing. ``on_vault``: this is the vault, whose
    account keeps the snapshots of many hosts: nothing of what came back is started, nor parsed by more than it has to be. ``asked_by``: who wants it, for the
    evidence; one line, which nobody checks. ``scenario``: ``damaged`` is the drill for the day on which the newest snapshot turns out to be damaged: a byte
    that is changed in what came back of it must be found, and the snapshot before it is what is proven. ``lost-vault`` is that for the day on which the
    target is gone: nothing is asked of it, and what the first of the policy's ``copies`` has is what is proven and judged. ``ransomware``: what came back
    is encrypted in place, between two backups of it to a vault in the scratch: that must be noticed, and the point before it come back. ``lost-host``: this
    machine stands in for the host, knows nothing of it, and has ``spent`` so many seconds on the way here, which count in ``rto``.
    """
    if asked_by is not None and not (asked_by.strip() and asked_by.isprintable() and len(asked_by) <= LONGEST_ASKER):
        raise UsageError(
            "Who asks for the drill is not one line of text",
            field="asked_by",
            found=asked_by[:LONGEST_ASKER],
            allowed="1 to %d printable characters" % LONGEST_ASKER,
            next="write a name",
        )
    run = _Drill(policy, HostState(state_directory, policy), progress or Progress(), is_own_history and not on_vault, on_vault, asked_by)
    run.result.scenario = scenario
    run.spent = spent
    if scenario == LOST_HOST:
        _check_stands_in(run.state, on_vault)
    try:
        run.go(scratch, snapshot, keep, dry_run)
    except OSError as error:
        raise refused_by_system(error, "drilling") from error
    finally:
        run.progress.finish()
    return run.result


class _Drill:
    def __init__(self, policy: Policy, state: HostState, progress: Progress, is_own_history: bool, on_vault: bool, asked_by: Optional[str]) -> None:
        self.policy = policy
        self.state = state
        self.progress = progress
        self.is_own_history = is_own_history
        self.on_vault = on_vault
        self.state_directory = os.fsdecode(state.root)
        self.as_root = os.geteuid() == 0
        self.began = time.monotonic()
        self.started = time.time()
        self.spent = 0.0
        self.checks: List[Check] = []
        self.chosen: Optional[Snapshot] = None
        self.result = DrillResult(
            host=policy.host,
            policy=policy.name,
            target=policy.target.url,
            objectives={
                name: getattr(policy.objectives, name) or None if "objectives." + name in policy.given else None for name in ("rto", "rpo", "drill_every")
            },
            started=rfc3339(self.started),
            asked_by=_asker(asked_by),
        )

    def go(self, scratch: Optional[str], wish: str, keep: bool, dry_run: bool) -> None:
        """The whole drill; leaves what it found in ``result``."""
        self._lose_vault()
        parent = self.state.directory + b"/drill" if scratch is None else os.fsencode(scratch)
        if scratch is not None:
            parent = _usable(self.policy, parent)
        if dry_run:
            self._predict(parent, wish)
            return
        if scratch is None:
            self.state.prepare()
            make_private(parent)
        with self.state.drilling() as rehearsal:
            self._clear(rehearsal)
            try:
                with self._scratch(rehearsal, parent, keep) as place:
                    self._rehearse(place, wish)
            except UsageError:
                raise
            except BackupError as error:
                if error.kind == "no_snapshot" and wish != "latest":
                    raise  # no evidence of anything
                self._break_off(error)
            except OSError as error:
                self._break_off(refused_by_system(error, "drilling"))
            except BaseException as error:
                self._break_off(BackupError("Interrupted: %s" % (str(error) or type(error).__name__), kind="interrupted", next="drill again"))
                self._finish()
                raise
            self._finish()

    def _break_off(self, error: BackupError) -> None:
        self.result._error = error
        self.checks.append(Check("restore", "restore", False, str(error)))

    # ---- the scratch -------------------------------------------------------------------------------------------------------

    def _clear(self, rehearsal: Rehearsal) -> None:
        left = rehearsal.noted
        if left is None:
            return
        try:
            _remove(left)
        except OSError as error:
            self.result.warnings.append("what a drill left in %s could not be removed: %s" % (printable(left), error.strerror))
        else:
            self.progress.note("removed %s, which a drill that was killed had left" % printable(left))
        rehearsal.note(None)

    @contextlib.contextmanager
    def _scratch(self, rehearsal: Rehearsal, parent: bytes, keep: bool) -> Iterator[bytes]:
        """A new private directory with two in it: ``root`` for what comes back, ``empty``. Removed however the block ends, unless it is to be kept."""
        place = parent + b"/openclaw-backup-drill-" + new_transaction().encode("ascii")
        rehearsal.note(place)
        os.mkdir(place, 0o700)
        try:
            # Open, because a probe works as another user; the directory above lets in nobody who does not start inside.
            for name in (b"root", b"empty"):
                os.mkdir(place + b"/" + name, 0o700)
                os.chmod(place + b"/" + name, 0o755)
            yield place
        finally:
            if keep:
                self.result.scratch = printable(place + b"/root")
                rehearsal.note(None)
            else:
                self.progress.stage("remove")
                try:
                    _remove(place)
                    rehearsal.note(None)
                except OSError as error:
                    self.result.warnings.append("%s could not be removed (%s); the next drill tries again" % (printable(place), error.strerror or str(error)))

    def _lose_vault(self) -> None:
        """From here on the first copy is the target, where that is what is rehearsed."""
        self.is_lost = self.result.scenario == "lost-vault"
        if self.is_lost and self.policy.copies:
            self.policy = replace(self.policy, target=self.policy.copies[0], copies=())
            self.result.target = self.policy.target.url

    # ---- the rehearsal -----------------------------------------------------------------------------------------------------

    def _choose(self, wish: str) -> Tuple[Snapshot, Manifest]:
        if self.is_lost and self.result.target == self.state.policy.target.url:
            raise TargetError(
                "The policy %s names no copies: with its vault all would be lost" % self.policy.name,
                kind="no_copy",
                field="copies",
                allowed="a list of vaults that keep copies of this history",
                next="have another vault keep copies (docs/vaults.md), and name it in the policy's copies",
            )
        self.target = target = open_target(self.policy.target, self.policy.host, self.policy.name, sources=self.policy.sources)
        snapshots = target.list()
        if self.is_own_history and not self.is_lost:
            check_not_lost(self.policy, self.state, snapshots)
        chosen = find_snapshot(snapshots, wish, name_of(self.policy))
        self.chosen = chosen
        result, receipt = self.result, chosen.receipt
        result.snapshot_id, result.digest = chosen.id, receipt.digest
        is_newest = chosen.id == snapshots[0].id
        # What this host has found unchanged since is the newest snapshot of the target, which a copy may not have yet.
        baseline = self.state.baseline() if self.is_lost else None
        is_current = is_newest and (not self.is_lost or (baseline is not None and baseline.id == chosen.id))
        success = self.state.runs.last_success(policy=self.policy.name) if is_current else None
        until = protected_until(receipt.created, chosen.unchanged_until, success)
        assert until is not None
        result.state_as_of = until
        result.rpo = max(0, int(self.started - seconds_of(until)))
        self.is_newest = is_newest
        manifest = target.manifest(chosen)
        result.entries, result.files, result.bytes = len(manifest.lines), manifest.files, manifest.total_size
        return chosen, manifest

    def _predict(self, parent: bytes, wish: str) -> None:
        _chosen, manifest = self._choose(wish)
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        self._check_room(parent, manifest, TIMES if self.result.scenario == "ransomware" else 1)
        self.result.checks = [Check(name, kind, None, "not in check mode").to_dict() for name, kind in self._planned(manifest)]
        self.result.counts = {"passed": 0, "failed": 0, "skipped": len(self.result.checks)}
        self.result.duration = time.monotonic() - self.began

    def _planned(self, manifest: Manifest) -> List[Tuple[str, str]]:
        names = [("restore", "restore"), ("bytes", "bytes"), ("metadata", "metadata"), ("canary", "canary")]
        if self.result.scenario == "ransomware":
            return names[:1] + list(CHECKS) + names[1:]
        names += [("databases", "database")] if manifest.header.databases else []
        names += [(name, "probe") for name in names_of(self.policy)]
        return names + [(name, "objective") for name in ("rto", "rpo") if self.result.objectives[name]]

    def _rehearse(self, place: bytes, wish: str) -> None:
        chosen, manifest = self._choose(wish)
        where = place + b"/root"
        if self.result.scenario == "damaged":
            self._check_room(place, manifest)
            self.checks.append(self._find_damage(place, chosen, manifest))
            before = self._before(chosen)
            if before is None:
                self.checks.append(Check("older snapshot", "restore", False, "there is none that is not damaged: with the newest one all would be lost"))
                return
            newest = seconds_of(str(self.result.state_as_of))
            chosen, manifest = self._choose(before.id)
            self.result.loss = max(0, int(newest - seconds_of(str(self.result.state_as_of))))
            self.checks.append(Check("older snapshot", "restore", True, "its state is %s older than the newest" % format_duration(self.result.loss)))
        if self.is_own_history:
            _check_outside(place, manifest.header.sources, self.state)
        if self.result.scenario == "ransomware":
            self._rehearse_ransomware(place, chosen, manifest)
            return
        self._check_room(place, manifest)
        self._restore(chosen, where)
        with ExitStack() as stack:
            root = stack.enter_context(Descent(where))
            self._compare(root, make_scope(manifest, (), chosen.id, is_open=self.target.is_open))
            self.progress.stage("probes")
            root.forget()
            assert self.result.state_as_of is not None
            stands_in = self.result.scenario == LOST_HOST
            scene = Scene(self.policy, manifest, chosen.id, root, where, place + b"/empty", seconds_of(self.result.state_as_of), self.on_vault, stands_in)
            self.checks += run_probes(scene)
            self.result.rto = self.spent + time.monotonic() - self.began
            # What follows is about the drill, not about the disaster.
            self.progress.stage("controls")
            self.checks += controls(scene)
        self.checks.append(self._canary(chosen))
        self._judge_objectives()

    def _rehearse_ransomware(self, place: bytes, chosen: Snapshot, manifest: Manifest) -> None:
        """Objectives are not judged: most of the time goes into doing the damage."""
        reason = too_few(self.policy, manifest)
        if reason is not None:
            self.checks.append(Check("anomaly", "anomaly", None, reason))
            self.result.warnings.append(reason)
            return
        self._check_room(place, manifest, TIMES)
        self._restore(chosen, place + b"/root")
        if self.checks[-1].ok:
            self.checks += rehearse(self.policy, place, self.progress)
        if self.checks[-1].ok:
            with Descent(place + b"/root") as root:
                self._compare(root, make_scope(manifest, (), chosen.id, is_open=self.target.is_open))
        self.checks.append(self._canary(chosen))

    def _before(self, chosen: Snapshot) -> Optional[Snapshot]:
        """The newest snapshot that is older than the chosen one, and not known to be damaged."""
        older = (snapshot for snapshot in self.target.list() if snapshot.receipt.sequence < chosen.receipt.sequence and not snapshot.damaged)
        return next(older, None)

    def _find_damage(self, place: bytes, chosen: Snapshot, manifest: Manifest) -> Check:
        """Would damage be noticed? A byte of what comes back is changed behind the back of everybody, and everything is compared."""
        began = time.monotonic()
        where = place + b"/root"
        ok, reason = True, ""
        try:
            done = self._bring_back(chosen, where)
            if done.failure() is not None or not done.verified:
                reason = "the newest snapshot is damaged indeed: %s" % _why(done, done.failure())
        except IntegrityError as error:
            reason = "the newest snapshot is damaged indeed: %s" % error.message
        if not reason:
            scope = make_scope(manifest, (), chosen.id, is_open=self.target.is_open)
            with Descent(where) as root:
                spoilt = _spoil(root, scope, self.as_root)
                root.forget()
                wrong = find_wrong(root, scope, missing(scope, as_root=self.as_root), {}, as_root=self.as_root, is_lossy=False, advance=self.progress.advance)
            if spoilt is None:
                ok, reason = False, "it holds no file of which a byte could be changed"
            elif set(wrong) != spoilt:
                ok, reason = False, "a changed byte of %s was not noticed" % printable(b"/" + min(spoilt))
            else:
                reason = "one changed byte, size and times as before: %s" % printable(b"/" + min(spoilt))
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, b"root")
            os.mkdir(b"root", 0o700, dir_fd=fd)
            os.chmod(b"root", 0o755, dir_fd=fd)
        finally:
            os.close(fd)
        return Check("damage is found", "bytes", ok, reason[:LONGEST_REASON], time.monotonic() - began)

    def _bring_back(self, chosen: Snapshot, where: bytes) -> RestoreResult:
        request = RestoreRequest(snapshot=chosen.id, dest=os.fsdecode(where))
        return restore(
            self.policy, request, state_directory=self.state_directory, progress=self.progress, is_own_history=self.is_own_history, is_recorded=False
        )

    def _restore(self, chosen: Snapshot, where: bytes) -> None:
        began = time.monotonic()
        done = self._bring_back(chosen, where)
        failure = done.failure()
        wrong = "" if done.verified and failure is None else _why(done, failure)
        told = "%s, %d bytes" % (counted(done.files_restored, "file"), done.bytes_restored)
        if self.on_vault:
            # What a vault's account cannot do, such as give files away, is the same every night, and nothing to be warned of.
            told = "; ".join([told, *done.warnings])[:LONGEST_REASON]
        elif not wrong:
            self.result.warnings += done.warnings
        self.checks.append(Check("restore", "restore", not wrong, wrong or told, time.monotonic() - began))

    def _compare(self, root: Descent, scope: Scope) -> None:
        """Hold what lies there against the manifest, all of it, without a word from the restore."""
        began = time.monotonic()
        self.progress.stage("compare", files=len(scope.entries))
        # Nothing counts as proven: what the restore has read back is read once more.
        wrong = find_wrong(root, scope, missing(scope, as_root=self.as_root), {}, as_root=self.as_root, is_lossy=False, advance=self.progress.advance)
        root.forget()
        found = _sort(root, scope, frozenset(wrong))
        root.forget()
        found.metadata.extend(entry.path for entry in scope.entries if entry.path in scope.inside and self._differs(root, entry, found))
        root.forget()
        found.extra.extend(sorted(_paths(root).difference(entry.path for entry in scope.entries)))
        seconds = time.monotonic() - began
        lost = sorted(found.damaged + found.missing)
        self.checks.append(Check("bytes", "bytes", not lost, _told(lost, found) or "%d bytes read back" % self.result.bytes, seconds))
        other = sorted(found.metadata + found.extra)
        self.checks.append(Check("metadata", "metadata", not other, _told(other, found) or counted(len(scope.entries), "path"), 0.0))
        listed = [{"path": printable(b"/" + path), "change": word} for word, paths in found._asdict().items() for path in paths]
        self.result.sample, self.result.truncated = listed[:SAMPLE], len(listed) > SAMPLE

    def _differs(self, root: Descent, entry: Entry, found: _Differences) -> bool:
        """Whether a directory bears other metadata; one that is not there is noted."""
        if entry.type != DIRECTORY:
            return False
        try:
            parent, name = root.parent(entry.path)
            return not bears(entry, os.stat(name, dir_fd=parent, follow_symlinks=False), path_of(parent, name), self.as_root)
        except FileNotFoundError:
            found.missing.append(entry.path)
        except PermissionError:
            pass  # below a directory that its owner, this user, has closed to himself
        return False

    def _canary(self, chosen: Snapshot) -> Check:
        """Is the manifest that the vault shows the one that this host sent? The host noted its digest when the vault had taken it, in a log whose lines
        bear the hash of the line before: nobody who has the vault alone can make both fit."""
        began = time.monotonic()
        noted = None
        for event in _events(self.state.audit, chosen.id):
            if event.get("event") == "run" and (event.get("host"), event.get("policy")) == (self.policy.host, self.policy.name) and "digest" in event:
                noted = event["digest"]
        reason: str
        ok: Optional[bool]
        if noted is None and self._is_foreign(chosen):
            ok, reason = False, "it is the newest snapshot of this host, and none that this host made, restored or adopted"
        elif noted is None:
            ok, reason = None, "this machine did not note the digest of this manifest: it did not make the snapshot, or an older version did"
        else:
            report = verify_chain(self.state.audit)
            if not report.ok:
                ok, reason = False, "the audit log of this machine is not what was written: %s" % report.reason
            elif noted != chosen.receipt.digest:
                ok, reason = False, "this host noted the digest %s, and the vault shows %s" % (printable(str(noted))[:80], chosen.receipt.digest)
            else:
                ok, reason = True, "the manifest is the one that this host sent"
        return Check("canary", "canary", ok, reason, time.monotonic() - began)

    def _is_foreign(self, chosen: Snapshot) -> bool:
        """Whether a host that knows its snapshots knows another newest one. Of older ones it forgets some."""
        if not (self.is_own_history and self.is_newest) or self.state.baseline() is None:
            return False
        pending = self.state.pending()  # a run that died before it heard that its snapshot was taken
        return chosen.id not in self.state.known_ids() and (pending is None or pending.tx != chosen.receipt.tx)

    def _judge_objectives(self) -> None:
        # Between two heartbeats no host tells its vault that nothing changed.
        slack = self.policy.heartbeat or None if self.on_vault else 0
        self.checks += judge(self.result.objectives, self.result.rto, self.result.rpo, self.is_newest, slack)

    def _check_room(self, place: bytes, manifest: Manifest, times: int = 1) -> None:
        found = os.statvfs(place)
        free = found.f_bavail * found.f_frsize
        files = [entry for entry in manifest.entries if entry.type == FILE and not entry.is_group_follower]
        size = sum(entry.size for entry in files)
        need = sum(-(-entry.size // found.f_frsize) * found.f_frsize for entry in files) * times
        inodes = sum(not entry.is_group_follower for entry in manifest.entries) * times
        # Files with holes take less than their size: how much, only the restore can tell, which looks before it writes.
        if free < need and (size <= free or times > 1):
            raise _no_room(place, "%d bytes" % need, "%d bytes" % free, free)
        if found.f_files and inodes > found.f_favail:
            raise _no_room(place, counted(inodes, "inode"), counted(found.f_favail, "inode"), found.f_favail)

    # ---- afterwards --------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        result = self.result
        result.take(self.checks)
        result.finished = rfc3339(time.time())
        result.duration = time.monotonic() - self.began
        result.versions = _versions()
        try:
            self.state.prepare()
            self.state.record_drill(_record(result))
        except (BackupError, OSError) as error:
            if result.ok:
                raise  # a drill without evidence is none
            result.warnings.append("the record of this drill could not be written: %s" % error)
        if result.verdict == "passed" and self.chosen is not None:
            try:
                self.target.note_drill(self.chosen)
            except (BackupError, OSError) as error:
                result.warnings.append("the vault could not note that the snapshot was proven: %s" % error)


def judge(objectives: Mapping[str, Optional[int]], rto: Optional[float], rpo: Optional[int], is_newest: bool, slack: Optional[int] = 0) -> List[Check]:
    """Hold what was measured against what the policy asks for; seconds. ``slack``: how much older the state may seem here than it is, None where nobody
    knows."""
    result = []
    wished = objectives.get("rto")
    if wished:
        text = "%.1f s, the objective is %s" % (rto or 0.0, format_duration(wished))
        result.append(Check("rto", "objective", rto is not None and rto <= wished, text))
    wished = objectives.get("rpo")
    if wished:
        text = "the state that came back is %s old, the objective is %s" % (format_duration(rpo or 0), format_duration(wished))
        if not is_newest:
            result.append(Check("rpo", "objective", None, "%s; not judged, because it is not the newest snapshot" % text))
        elif slack is None:
            result.append(Check("rpo", "objective", None, "%s; not judged, because without heartbeats a vault cannot know" % text))
        else:
            text += ", beside a heartbeat every %s" % format_duration(slack) if slack else ""
            result.append(Check("rpo", "objective", rpo is not None and rpo <= wished + slack, text))
    return result


def _why(done: RestoreResult, failure: Optional[IntegrityError]) -> str:
    if failure is not None:
        return failure.message
    return "; ".join(done.warnings) or "what was written could not be read back as it was"


class _Differences(NamedTuple):
    """Paths that are not as the manifest says, by what is wrong with them."""

    damaged: List[bytes]
    missing: List[bytes]
    metadata: List[bytes]
    extra: List[bytes]


def _spoil(root: Descent, scope: Scope, as_root: bool) -> "Optional[frozenset[bytes]]":
    """Change the last byte of the largest file, and leave its size and times as they are; all its names, or None where there is no such file."""
    files = [entry for entry in scope.entries if entry.type == FILE and entry.size and not entry.is_group_follower]
    files = [entry for entry in files if as_root or entry.mode & 0o600 == 0o600]
    if not files:
        return None
    entry = max(files, key=lambda file: (file.size, file.path))
    parent, name = root.parent(entry.path)
    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        found = os.fstat(fd)
        last = os.pread(fd, 1, found.st_size - 1)
        os.pwrite(fd, bytes((last[0] ^ 1,)), found.st_size - 1)
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        os.close(fd)
    return frozenset((entry.path,))


def _sort(root: Descent, scope: Scope, wrong: "frozenset[bytes]") -> _Differences:
    """What is wrong with the ``wrong`` paths."""
    result = _Differences([], [], [], [])
    if not wrong:
        return result
    present, _closed, _leftovers = look(root, scope)
    to_read = []
    for entry in scope.entries:
        if entry.path not in wrong:
            continue
        found = present.get(entry.path)
        if found is None:
            result.missing.append(entry.path)
        elif entry_type(found.st_mode) != entry.type or (entry.type == FILE and found.st_size != entry.size) or _is_other_link(root, entry):
            result.damaged.append(entry.path)
        elif entry.type != FILE:
            result.metadata.append(entry.path)
        else:
            to_read.append(entry)
    states, _unreadable = examine(root, to_read, present, lambda _count: None)
    for entry in to_read:
        (result.metadata if entry.path in states else result.damaged).append(entry.path)
    return result


def _is_other_link(root: Descent, entry: Entry) -> bool:
    parent, name = root.parent(entry.path)
    return entry.type == SYMLINK and os.readlink(name, dir_fd=parent) != entry.link


def _told(paths: Sequence[bytes], found: _Differences) -> str:
    if not paths:
        return ""
    words = ("%d %s" % (len(group), word) for word, group in found._asdict().items() if group and not set(group).isdisjoint(paths))
    return "not as in the manifest: %s, the first is %s" % (", ".join(words), printable(b"/" + paths[0]))


def _paths(root: Descent) -> "set[bytes]":
    """Everything that lies there; what this user may not look into counts for nothing."""
    result: "set[bytes]" = set()
    with contextlib.suppress(PermissionError):
        for path, listing in walk(root):
            result.update(path + b"/" + item.name if path else item.name for item in listing)
    return result


def _remove(place: bytes) -> None:
    """Delete a scratch, and nothing that is none."""
    parent, _, name = place.rpartition(b"/")
    if not _SCRATCH.fullmatch(name):
        raise OSError(0, "it is no scratch of a drill")
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_tree(fd, name)
    finally:
        os.close(fd)


def _usable(policy: Policy, scratch: bytes) -> bytes:
    """The real path of the directory in which the scratch is made. ``UsageError``: it is none, it lies in the vault, or others could put something else in
    its place, and root would restore into that."""
    if not os.path.isabs(scratch):
        raise _unusable(scratch, "is not absolute", "write the whole path")
    real = os.path.realpath(scratch)
    if not os.path.isdir(real):
        raise _unusable(scratch, "is not a directory", "make it, or check that its file system is mounted")
    if not os.access(real, os.W_OK | os.X_OK):
        raise _unusable(scratch, "cannot be written by this user", "choose another one")
    if policy.target.scheme == "file":
        vault = os.fsencode(os.path.realpath(policy.target.path))
        if os.path.commonpath([vault, real]) == vault:
            raise _unusable(scratch, "lies inside the vault %s" % printable(vault), "choose one outside of it")
    at = real
    while True:
        found = os.stat(at)
        others = found.st_mode & 0o002 or (found.st_mode & 0o020 and found.st_gid not in (0, os.getegid()))
        if found.st_uid not in (0, os.geteuid()) or (others and not found.st_mode & stat.S_ISVTX):
            raise _unusable(scratch, "can be replaced by others, who own or may write %s" % printable(at), "choose one that belongs to root or to you alone")
        if at == b"/":
            return real
        at = os.path.dirname(at)


def _check_stands_in(state: HostState, on_vault: bool) -> None:
    if on_vault or state.baseline() is not None:
        raise UsageError(
            "This machine is %s, and cannot stand in for the host as if that were lost" % ("the vault" if on_vault else "the host itself, or was before"),
            field="scenario",
            found=LOST_HOST,
            allowed="a machine that has neither the snapshots nor a memory of them",
            next="drill on another machine, with a --state of its own",
        )


def _check_outside(place: bytes, sources: Sequence[str], state: HostState) -> None:
    if place.startswith((os.path.realpath(state.root) + b"/", state.root + b"/")):
        return  # which no backup ever enters
    for source in map(os.fsencode, sources):
        if os.path.commonpath([source, place]) == source:
            raise _unusable(
                os.path.dirname(place), "lies inside the source %s, and the next backup would take it too" % printable(source), "choose another one"
            )


def _unusable(scratch: bytes, why: str, advice: str) -> UsageError:
    return UsageError(
        "The scratch %s %s" % (printable(scratch), why),
        field="scratch",
        found=scratch,
        allowed="a directory that only root or this user can change",
        next=advice,
    )


def _no_room(place: bytes, need: str, free: str, found: int) -> BackupError:
    return BackupError(
        "There is no room for the drill in %s: it takes %s, and %s are free" % (printable(os.path.dirname(place)), need, free),
        kind="no_space",
        field="scratch",
        found=found,
        next="free space, or name another directory with --scratch",
    )


def _events(path: bytes, snapshot_id: str) -> Iterator[Mapping[str, Any]]:
    """The events of an audit log that name a snapshot."""
    wanted = b'"%s"' % snapshot_id.encode("ascii")
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
        for line in stream:
            if wanted in line:
                with contextlib.suppress(ValueError):
                    item = json.loads(line)
                    if isinstance(item, dict) and item.get("snapshot") == snapshot_id:
                        yield item


def _asker(claimed: Optional[str]) -> Dict[str, Optional[str]]:
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    sudo = os.environ.get("SUDO_USER")
    return {"user": user, "sudo_user": printable(sudo)[:64] if sudo else None, "claimed": claimed}


def _versions() -> Dict[str, Optional[str]]:
    try:
        rsync: Optional[str] = ".".join(map(str, probe_rsync().version))
    except BackupError:
        rsync = None  # no restore needs it
    try:
        import sqlite3

        sqlite: Optional[str] = sqlite3.sqlite_version
    except ImportError:
        sqlite = None
    return {"program": VERSION, "python": platform.python_version(), "rsync": rsync, "sqlite": sqlite}


def _record(result: DrillResult) -> Dict[str, Any]:
    """The evidence. Bounded: at most 100 checks, whose reasons are."""
    item = result.to_dict()
    left_out = ("changed", "ok", "truncated", "scratch")
    error = result.failure()
    return {
        **{name: value for name, value in item.items() if name not in left_out},
        "verb": "drill",
        "warnings": result.warnings[:SAMPLE],
        "result": "failed" if not result.ok else "skipped" if result.verdict == "skipped" else "warnings" if result.warnings else "ok",
        **({} if error is None else {"error": {"message": error.message, **error.to_dict()}}),
    }
