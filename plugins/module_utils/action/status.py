# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Status: is this policy protected, since when, and what is in the way."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Optional

from ..errors import EXIT_DONE, EXIT_WARNINGS, BackupError
from ..observe.audit import is_time, rfc3339, seconds_of
from ..policy.durations import format_duration
from ..policy.model import Policy
from ..target.contract import Snapshot
from ..target.tree.target import TreeTarget
from .history import bounded
from .locate import open_target
from .rolling import load
from .state import HostState


def status(policy: Policy, *, state_directory: str, is_own_history: bool = True) -> Dict[str, Any]:
    """What a person asks first. Writes nothing. ``is_own_history``: the history is this host's, so that a missing baseline is a problem.

    Keys: ``ok``, ``rc`` (0, or 3 with ``problems``), ``problems`` (texts), ``snapshots`` (how many; None where the target could not be looked at), ``newest``
    (public snapshot mapping or None), ``protected_until`` (the last time the sources were known to be as in the newest snapshot, RFC 3339), ``age`` (seconds
    since then), ``rpo`` (seconds, None where the policy gives none), ``baseline`` (snapshot id), ``last_run``, ``last_success`` (run records),
    ``last_drill``, ``last_good_drill`` (drill records), ``drilled`` (when a drill, here or on the vault, has last proven a snapshot that is there; None for
    never), ``rolling`` (what this machine has read of the newest snapshots, share by share: ``Rolling.to_dict``; None where it does not),
    ``anomalies`` (those of the problems that tell of one),
    ``keys`` (``Target.keys``), ``immutable`` (``Target.immutable``; None also where the target could not be looked at),
    ``restoring`` (the restore in place that has not come to its end, or None),
    ``old_prefixes`` (objects below each prefix of an older layout, as {prefix: count}),
    ``pending``, ``running`` (whether a run is under way), ``target``, ``host``, ``policy``.
    """
    now = time.time()
    state = HostState(state_directory, policy)
    problems: List[str] = []
    snapshots: Optional[List[Snapshot]] = None
    immutable: Optional[bool] = None
    old: Dict[str, int] = {}
    keys: List[str] = []
    try:
        target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
        snapshots = target.list()
        immutable = target.immutable
        old = dict(target.old_prefixes)
        problems += target.remarks()
        if target.has_one_version:
            problems += unprotected(policy)
        keys = target.keys()
    except BackupError as error:
        problems.append(str(error))
    newest = snapshots[0] if snapshots else None
    baseline = state.baseline()
    pending = state.pending()
    last = next((run for run in state.runs.last(50) if run.get("verb") == "run"), None)
    success = state.runs.last_success(policy=policy.name)
    if snapshots is None:
        # What this host itself remembers; a problem says already that nobody could look.
        until = str(success["started"]) if success and is_time(success.get("started")) else None
    else:
        until = protected_until(newest.receipt.created if newest else None, newest.unchanged_until if newest else None, success)
    age = max(0.0, now - seconds_of(until)) if until is not None else None
    # The default is what a schedule would make of it; nobody who runs backups by hand or once a day has asked to be judged by that.
    rpo = policy.objectives.rpo if "objectives.rpo" in policy.given and policy.objectives.rpo else None
    # Elsewhere than on the host nobody knows of runs between two heartbeats that found nothing changed.
    allowed = rpo if rpo is None or is_own_history else rpo + policy.heartbeat if policy.heartbeat else None
    if snapshots is None:
        pass  # nobody knows
    elif newest is None and baseline is not None:
        problems.append("the target holds no history, but this host committed %s to it: is the vault mounted?" % baseline.id)
    elif newest is None:
        problems.append("there is no snapshot yet")
    elif newest.damaged:
        problems.append("the newest snapshot is damaged")
    for snapshot in (snapshots or ())[1:]:
        if snapshot.damaged:
            problems.append("snapshot %s is damaged" % snapshot.id)
    struck = {str((snapshot.held or {}).get("reason")): snapshot.id for snapshot in snapshots or () if snapshot.precedes_anomaly}
    advice = "snapshot %s is held: %s; release it if that was meant, else hold it with a reason"
    anomalies = [advice % (snapshot_id, reason) for reason, snapshot_id in struck.items()]
    problems += anomalies
    if newest is not None and baseline is not None and baseline.id != newest.id:
        problems.append("the newest snapshot %s is not the one this host made last, %s" % (newest.id, baseline.id))
    restoring, running = state.unfinished() if is_own_history else None, state.is_running()
    if restoring is not None and not running:
        problems.append(
            "a restore of snapshot %s was not finished: no backup until `openclaw-backup restore POLICY --if-needed` has, "
            "or `openclaw-backup adopt POLICY` goes on from what is here" % restoring.snapshot
        )
    elif newest is not None and baseline is None and is_own_history:
        problems.append("this host has no baseline: restore or adopt before the next backup")
    if age is not None and rpo is not None and allowed is not None and age > allowed:
        beside = "" if allowed == rpo else ", beside a heartbeat every %s" % format_duration(policy.heartbeat)
        problems.append("the last known good state is %s old, the objective (rpo) is %s%s" % (format_duration(int(age)), format_duration(rpo), beside))
    if last is not None and last.get("result") == "failed":
        why = last.get("error")
        problems.append("the last run failed: %s" % (why.get("message") if isinstance(why, dict) else "its record does not say why"))
    told = last.get("warnings") if last is not None else None
    for text in told if isinstance(told, list) else ():
        if not any(reason in str(text) for reason in struck):
            problems.append("the last run warned: %s" % text)
    drills = state.drills
    last_drill = next(iter(drills.last(1)), None)
    good_drill = drills.last_success(verb="drill", policy=policy.name)
    # A host learns from its vault of drills that were made there.
    proven = [str(snapshot.drilled["at"]) for snapshot in snapshots or () if snapshot.drilled]
    if good_drill is not None and is_time(good_drill.get("finished")):
        proven.append(str(good_drill["finished"]))
    drilled = max(proven, default=None)
    if snapshots:
        problems += _drill_problems(policy, last_drill, drilled, snapshots[-1].receipt.created, now)
    rolling = load(state, now)
    return {
        "ok": not problems,
        "rc": EXIT_WARNINGS if problems else EXIT_DONE,
        "problems": problems,
        "anomalies": anomalies,
        "host": policy.host,
        "policy": policy.name,
        "target": policy.target.url,
        "snapshots": None if snapshots is None else len(snapshots),
        "newest": bounded(newest.to_dict()) if newest else None,
        "protected_until": until,
        "age": round(age, 3) if age is not None else None,
        "rpo": rpo,
        "baseline": baseline.id if baseline else None,
        "pending": pending.tx if pending else None,
        "restoring": restoring._asdict() if restoring else None,
        "running": running,
        "last_run": last,
        "last_success": success,
        "last_drill": last_drill,
        "last_good_drill": good_drill,
        "drilled": drilled,
        "rolling": rolling.to_dict(snapshots if snapshots and isinstance(target, TreeTarget) else ()) if rolling is not None else None,
        "immutable": immutable,
        "old_prefixes": old,
        "keys": keys,
        "as_of": rfc3339(now),
    }


def unprotected(policy: Policy) -> List[str]:
    """What is to be said of a target that keeps one version, where no copy keeps more."""
    if any(copy.layout != "mirror" for copy in policy.copies):
        return []
    return ["the mirror is the only target, and it keeps one version: what is deleted or spoiled here is soon so there, too; back up with layout pack as well"]


def _drill_problems(policy: Policy, last: Optional[Dict[str, Any]], good: Optional[str], begun: str, now: float) -> List[str]:
    """What the evidence of drills says, and what its age does. ``good``: when the last one succeeded; ``begun``: when the oldest snapshot was made; before
    that there was nothing to rehearse."""
    problems = []
    if last is not None and last["result"] == "failed":
        why = last.get("error")
        problems.append("the last drill failed: %s" % (why.get("message") if isinstance(why, dict) else "its record does not say why"))
    every = policy.objectives.drill_every if "objectives.drill_every" in policy.given else 0
    age = now - seconds_of(begun if good is None else good)
    if every and age > every:
        what = "no drill has succeeded yet" if good is None else "the last drill that succeeded is %s old" % format_duration(int(age))
        problems.append("%s, the objective (drill_every) is %s" % (what, format_duration(every)))
    return problems


def protected_until(created: Optional[str], unchanged_until: Optional[str], success: Optional[Dict[str, Any]]) -> Optional[str]:
    """The latest of: made, heartbeat, successful run that found nothing changed. Texts of equal form sort by time."""
    if created is None:
        return None
    times = [created]
    if unchanged_until:
        times.append(unchanged_until)
    if success and is_time(success.get("started")):
        times.append(success["started"])
    return max(times)
