# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health: what a loop writes down about itself, and what a probe makes of it. No network, and nothing is written."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any, Dict, List, Mapping, Optional

from ..errors import EXIT_DONE, EXIT_FAILED, EXIT_INTEGRITY, EXIT_REFUSED, EXIT_USAGE, BackupError
from ..observe.audit import is_time, seconds_of
from ..policy.durations import format_duration
from ..policy.model import Policy
from ..target.tree.layout import read_json, write_json
from .secrets import missing
from .state import HostState, is_held

# A loop touches its file every ten seconds; after so long (s) it hangs, or is stopped.
_STILL = 60.0
# What no waiting mends, by exit code; other failures count when the last success is too old.
_LASTING = (EXIT_USAGE, EXIT_REFUSED, EXIT_INTEGRITY)


def note(state: HostState, facts: Mapping[str, Any]) -> None:
    """Keep what a loop knows of itself."""
    write_json(state.health, facts)


def health(policy: Policy, *, state_directory: str, max_age: Optional[float] = None, alive: bool = False) -> Dict[str, Any]:
    """Whether a loop keeps this policy safe; with ``alive`` only whether one is at work.

    Keys: ``ok``, ``rc`` (0 or 1), ``problems`` (texts), ``alive``, ``phase`` (restore, run, waiting, ended; None without a loop), ``age`` (seconds since the
    last run began that succeeded), ``max_age`` (allowed; default three intervals and a minute), ``failures`` (in a row), ``last`` (the last line that the
    loop said), ``next`` (when the next run is due), ``interval``, ``watched`` (directories), ``warnings`` (of the loop).
    """
    now = time.time()
    state = HostState(state_directory, policy)
    found: Mapping[str, Any] = {}
    with suppress(BackupError):  # as if there were none
        found = _mapping(read_json(state.health))
    problems: List[str] = []
    is_alive = _is_alive(state, now, problems)
    interval = found.get("interval")
    if max_age is None and isinstance(interval, (int, float)) and interval > 0:  # which no NaN is
        max_age = 3 * interval + 60
    success = state.runs.last_success(policy=policy.name)
    age = now - seconds_of(success["started"]) if success and is_time(success.get("started")) else None
    if not alive:
        problems += missing(policy) + _problems(state, found, age, max_age)
    return {
        "ok": not problems,
        "rc": EXIT_FAILED if problems else EXIT_DONE,
        "problems": problems,
        "alive": is_alive,
        "phase": found.get("phase"),
        "age": None if age is None else round(age, 3),
        "max_age": max_age,
        "failures": found.get("failures"),
        "last": found.get("last"),
        "next": found.get("next"),
        "interval": interval,
        "watched": found.get("watched"),
        "warnings": found.get("warnings") or [],
        "host": policy.host,
        "policy": policy.name,
    }


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if type(found) is dict else {}


def _is_alive(state: HostState, now: float, problems: List[str]) -> bool:
    if not is_held(state.directory + b"/loop.lock"):
        problems.append("no loop is at work")
        return False
    try:
        still = now - os.stat(state.health).st_mtime
    except OSError:
        return True  # it has just begun
    if still > _STILL:
        problems.append("the loop has not moved for %s" % format_duration(int(still)))
        return False
    if still < -_STILL:
        problems.append("the loop has not moved since the clock was set back")
    return still >= -_STILL


def _problems(state: HostState, found: Mapping[str, Any], age: Optional[float], max_age: Optional[float]) -> List[str]:
    problems = []
    last = _mapping(found.get("last"))
    restoring = state.unfinished()
    if restoring is not None:
        problems.append("a restore of snapshot %s has not come to its end" % restoring.snapshot)
    if restoring is not None and last.get("event") == "restore" and last.get("msg"):
        problems[-1] += ": %s" % last["msg"]
    elif last.get("rc") in _LASTING:
        problems.append("the last %s failed: %s" % (last.get("event"), last.get("msg")))
    if age is None:
        problems.append("no run has succeeded yet")
    elif age < -_STILL:
        problems.append("the last run that succeeded began %s from now: the clock was set back since" % format_duration(int(-age)))
    elif max_age is not None and age > max_age:
        why = ", the last one failed: %s" % last["msg"] if last.get("msg") else ""
        problems.append("the last run that succeeded began %s ago, %s are allowed%s" % (format_duration(int(age)), format_duration(int(max_age)), why))
    return problems
