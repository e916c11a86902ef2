# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prune: remove the snapshots that no rule of the retention keeps, and the waste in packs. Hold, release: put one above the rules. Tag: name one for a rule."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import AbstractSet, Any, Callable, Dict, List, Mapping, Optional, Sequence

from ..errors import EXIT_DONE, BackupError, PolicyError, UsageError, printable
from ..observe.audit import rfc3339, seconds_of
from ..observe.progress import Progress
from ..policy.checks import check_tag
from ..policy.durations import format_duration
from ..policy.model import Policy
from ..policy.retention import Candidate, decide, is_empty, simulate
from ..target.contract import Rewritten, Snapshot
from .choose import find_snapshot
from .locate import AnyTarget, check_not_lost, name_of, open_target
from .result import Result
from .state import HostState

SAMPLE = 20
LONGEST_REASON = 500
# A simulation goes on at the pace of so many snapshots, no faster than one a minute, and not for ever.
RECENT = 100
SHORTEST_PACE = 60
MOST_SIMULATED = 200_000


@dataclass
class PruneResult(Result):
    """What a prune did, or in check mode would do.

    ``kept`` and ``removed``: all snapshots, newest first, as ``{id, created, reasons}``; ``sample``: the first 20 that were removed as ``{path, change}``, the
    path being the id; ``truncated`` when there are more; ``bytes_freed``: what the disk gets back; ``repacked``: see ``rewritten``, None where nothing is
    packed or there is no key; ``requests``: what was asked of a bucket (``Requests``), None elsewhere; ``duration`` in seconds.
    """

    changed: bool = False
    kept: List[Dict[str, Any]] = field(default_factory=list)
    removed: List[Dict[str, Any]] = field(default_factory=list)
    bytes_freed: int = 0
    sample: List[Dict[str, str]] = field(default_factory=list)
    truncated: bool = False
    repacked: Optional[Dict[str, Any]] = None
    requests: Optional[Dict[str, int]] = None
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0


def prune(policy: Policy, *, state_directory: str, dry_run: bool = False, progress: Optional[Progress] = None) -> PruneResult:
    """Remove what the policy's retention does not keep. Raises ``BackupError``; a retention without a rule is a ``PolicyError``."""
    target = _open(policy)
    progress = progress or Progress()
    started = time.time()
    state = HostState(state_directory, policy)
    result = PruneResult()
    failure: Optional[BackupError] = None

    def choose(snapshots: List[Snapshot]) -> Mapping[str, str]:
        check_not_lost(policy, state, snapshots)
        decisions = decide([_candidate(snapshot) for snapshot in snapshots], policy.retention, time.time())
        for decision, snapshot in zip(decisions, snapshots):
            item = {"id": decision.id, "created": snapshot.receipt.created, "reasons": list(decision.reasons)}
            (result.kept if decision.keep else result.removed).append(item)
        return {decision.id: "; ".join(decision.reasons) for decision in decisions if not decision.keep}

    try:
        if dry_run:
            snapshots = target.list()
            chosen = choose(snapshots)
            result.bytes_freed = target.weigh([snapshot for snapshot in snapshots if snapshot.id in chosen])
        else:
            progress.stage("prune")
            result.bytes_freed = target.remove(choose, tell=progress.advance)
            if result.removed and target.is_blind:
                _spare(result, {snapshot.id for snapshot in target.list()})
            try:
                done = target.repack(policy.retention.max_unused_percent, tell=progress.advance)
            except BackupError as error:
                failure = error  # of what was removed the records tell all the same
            else:
                if done is not None:
                    result.repacked = rewritten(done)
                    result.warnings = damage_of(done)
    finally:
        progress.finish()
    if target.requests is not None:
        result.requests = target.requests._asdict()
    result.changed = bool(result.removed) or bool(result.repacked and result.repacked["snapshots"])
    result.sample = [{"path": item["id"], "change": "removed"} for item in result.removed[:SAMPLE]]
    result.truncated = len(result.removed) > len(result.sample)
    result.duration = time.time() - started
    if not dry_run:
        removed = [item["id"] for item in result.removed]
        record(
            policy,
            state,
            {"verb": "prune", "kept": len(result.kept), "removed": len(removed), "bytes_freed": result.bytes_freed, "repacked": result.repacked},
            {"event": "prune", "removed": removed},
        )
        if result.repacked and result.repacked["damaged"]:
            state.ask_soon()  # what the newest snapshot has lost is sent again by the next run
    if failure is not None:
        raise failure
    return result


def _spare(result: PruneResult, there: AbstractSet[str]) -> None:
    """Tell of what was chosen and is there all the same for what it is: kept."""
    for item in (item for item in result.removed if item["id"] in there):
        item["reasons"] = [*item["reasons"], "stays for a prune with the key, or a later one: others need it, or somebody is at work"]
        result.kept.append(item)
    result.removed = [item for item in result.removed if item["id"] not in there]
    result.kept.sort(key=lambda item: str(item["created"]), reverse=True)


def rewritten(done: Rewritten) -> Dict[str, Any]:
    """The result key of what was written anew: ``packs``, ``snapshots``, ``bytes_read``, ``bytes_written`` and ``damaged``, a list of ``{id, paths}``
    with up to 20 paths each."""
    damaged = [{"id": name, "paths": [printable(b"/" + path) for path in paths[:SAMPLE]]} for name, paths in done.damaged.items()]
    return {"packs": done.packs, "snapshots": done.snapshots, "bytes_read": done.read, "bytes_written": done.written, "damaged": damaged}


def damage_of(done: Rewritten) -> List[str]:
    """What to warn of: content that could not be proven was left where it is."""
    return [
        "snapshot %s: %d damaged paths, the first is %s; what they share packs with was left as it is; the host's next run sends again what the newest "
        "snapshot lost" % (name, len(paths), printable(b"/" + paths[0]))
        for name, paths in done.damaged.items()
    ]


def simulate_prunes(policy: Policy, *, state_directory: str, length: int, every: Optional[int] = None) -> Dict[str, Any]:
    """What daily prunes would make of the history within ``length`` seconds, with a snapshot ``every`` so many (None: as often as there were lately).

    Nothing is written. Keys: ``every``, ``days`` (``{date, made, removed, kept}``, the last may be a part of a day), ``kept`` at the end as in
    ``PruneResult`` with ``id`` None for snapshots to come, ``changed``, ``rc``.
    """
    snapshots = _open(policy).list()
    check_not_lost(policy, HostState(state_directory, policy), snapshots)
    candidates = [_candidate(snapshot) for snapshot in snapshots]
    if every is None:
        every = _pace(candidates)
    if length // every > MOST_SIMULATED:
        raise UsageError(
            "%s with a snapshot every %s are %d snapshots" % (format_duration(length), format_duration(every), length // every),
            field="--every",
            found=format_duration(every),
            allowed="at most %d snapshots" % MOST_SIMULATED,
            next="simulate a shorter time, or fewer snapshots with --every",
        )
    days, left, decisions = simulate(candidates, policy.retention, time.time(), length, every)
    known = {snapshot.id for snapshot in snapshots}
    return {
        "changed": False,
        "every": every,
        "days": [{"date": rfc3339(day.at), "made": day.made, "removed": day.removed, "kept": day.kept} for day in days],
        "kept": [
            {"id": candidate.id if candidate.id in known else None, "created": rfc3339(candidate.created), "reasons": list(decision.reasons)}
            for candidate, decision in zip(left, decisions)
        ],
        "rc": EXIT_DONE,
    }


def _pace(candidates: Sequence[Candidate]) -> int:
    """Seconds from one snapshot to the next, lately: the median."""
    recent = candidates[: RECENT + 1]
    gaps = [newer.created - older.created for newer, older in zip(recent, recent[1:])]
    if not gaps:
        raise UsageError(
            "There are too few snapshots to see how often they come",
            field="--every",
            found=len(candidates),
            allowed="a duration, such as 15m",
            next="say how often something changes with --every",
        )
    return max(SHORTEST_PACE, int(statistics.median(gaps)))


def _open(policy: Policy) -> AnyTarget:
    target = open_target(policy.target, policy.host, policy.name)
    if target.has_one_version:
        target.remove(lambda _snapshots: {})  # which it refuses, whatever the retention
    if is_empty(policy.retention):
        raise PolicyError(
            "The retention of policy %s has no rule, so everything stays" % policy.name,
            field="retention",
            allowed="at least one of keep_last, keep_within, keep_hourly, keep_daily, keep_weekly, keep_monthly and keep_yearly above 0, or keep_tags",
            next="set one, such as keep_daily: 7",
        )
    return target


def hold(policy: Policy, *, state_directory: str, snapshot: str, reason: Optional[str] = None) -> Dict[str, Any]:
    """Keep a snapshot from every prune. Keys: ``changed``, ``snapshot_id``, ``held`` (as stored).

    A reason that it is held for already, which may be all the evidence of an attack there is, stays: behind another one, or alone.
    """
    if reason is not None and not (reason.strip() and reason.isprintable() and len(reason) <= LONGEST_REASON):
        raise UsageError(
            "The reason of a hold is not one line of text",
            field="reason",
            found=reason,
            allowed="1 to %d printable characters" % LONGEST_REASON,
            next="say in a few words why it must stay, such as 'before the upgrade'",
        )

    def choose(before: Optional[str]) -> Optional[str]:
        if before is None:
            return reason or "held by hand"
        return before if reason is None or before.startswith(reason) else "%s; before: %s" % (reason, before)

    return _hold(policy, state_directory, snapshot, choose)


def release(policy: Policy, *, state_directory: str, snapshot: str) -> Dict[str, Any]:
    """Leave a held snapshot to the retention again. Keys as those of ``hold``, with None for ``held``."""
    return _hold(policy, state_directory, snapshot, lambda before: None)


def _hold(policy: Policy, state_directory: str, snapshot: str, choose: Callable[[Optional[str]], Optional[str]]) -> Dict[str, Any]:
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    chosen = find_snapshot(target.list(), snapshot, name_of(policy))
    held = dict(chosen.held) if chosen.held else None
    before = str(held.get("reason") or "no reason given") if held is not None else None
    reason = choose(before)
    changed = reason != before
    if changed:
        held = target.hold(chosen, reason)
        event = {"event": "hold" if held else "release", "snapshot": chosen.id, "reason": reason}
        record(policy, HostState(state_directory, policy), {"verb": event["event"], "snapshot_id": chosen.id}, event)
    return {"changed": changed, "snapshot_id": chosen.id, "held": held, "rc": EXIT_DONE}


def tag(policy: Policy, *, state_directory: str, snapshot: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Dict[str, Any]:
    """Add tags to a snapshot and remove others. Keys: ``changed``, ``snapshot_id``, ``tags`` (all that it bears then)."""
    for flag, names in (("--add", add), ("--remove", remove)):
        for name in names:
            check_tag(name, flag)
    both = sorted(set(add).intersection(remove))
    if both or not (add or remove):
        raise UsageError(
            "The tag %s is to be added and removed" % both[0] if both else "There is no tag to add or to remove",
            field="--add",
            found=both[0] if both else None,
            allowed="names to add (--add) and others to remove (--remove)",
            next="name each tag once" if both else "name a tag, such as --add before-upgrade",
        )
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    chosen = find_snapshot(target.list(), snapshot, name_of(policy))
    tags = list(chosen.tags)
    changed = bool(set(add).difference(tags) or set(remove).intersection(tags))
    if changed:
        tags = target.tag(chosen, add, remove)
        event = {"event": "tag", "snapshot": chosen.id, "add": list(add), "remove": list(remove)}
        record(policy, HostState(state_directory, policy), {"verb": "tag", "snapshot_id": chosen.id}, event)
    return {"changed": changed, "snapshot_id": chosen.id, "tags": tags, "rc": EXIT_DONE}


def _candidate(snapshot: Snapshot) -> Candidate:
    held = str((snapshot.held or {}).get("reason") or "for no reason given") if snapshot.held else ""
    return Candidate(
        snapshot.id, seconds_of(snapshot.receipt.created), held, bool(snapshot.verified), bool(snapshot.damaged), snapshot.tags, bool(snapshot.drilled)
    )


def record(policy: Policy, state: HostState, run: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    """Keep that something was done to the history: the run record and the audit event."""
    state.prepare()
    about = {"policy": policy.name, "host": policy.host, "target": policy.target.url}
    state.record({"finished": rfc3339(time.time()), **about, "result": "ok", "rc": EXIT_DONE, **run}, event)
