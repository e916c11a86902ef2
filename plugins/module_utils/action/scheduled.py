# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a schedule starts: a run if one is due, at this host's own moment, and again after a while where the target was busy or out of reach.

Started more often than the schedule says, at boot for instance, it makes up for what was missed, and otherwise does nothing.
"""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from typing import Callable, List, Optional

from ..errors import EXIT_LOCKED, EXIT_UNREACHABLE, BackupError
from ..observe.audit import is_time, seconds_of
from ..observe.progress import Progress
from ..policy.model import Policy
from ..policy.schedule import is_within, last_due, splay_of
from .backup import BackupResult, backup
from .state import HostState

_TRIES = 4
_FIRST_WAIT = 30.0
_AHEAD = timedelta(days=1)


def reason_to_wait(policy: Policy, state: HostState, now: float) -> Optional[str]:
    """Why no run is due at the time ``now``; None where one is."""
    here = datetime.fromtimestamp(now)
    if not is_within(policy.schedule.window, here):
        return "it is %s, and schedule.window is %s" % (here.strftime("%H:%M"), policy.schedule.window)
    success = state.runs.last_success(policy=policy.name)
    started = success.get("started") if success is not None else None
    due = last_due(policy.schedule.cron, here)
    if started is not None and is_time(started) and due.timestamp() <= seconds_of(started) <= now:
        return "nothing was missed since %s" % started
    return None


def waits(policy: Policy, now: float, chance: Callable[[], float] = random.random) -> List[float]:
    """How long to wait before each further try (s): twice as long each time, and together not until the next run is due."""
    here = datetime.fromtimestamp(now)
    left = (_next_due(policy.schedule.cron, here) - here).total_seconds()
    found: List[float] = []
    for number in range(_TRIES - 1):
        wait = _FIRST_WAIT * 2**number * (1 + chance() / 2)
        left -= wait
        if left <= 0:
            break
        found.append(wait)
    return found


def _next_due(cron: str, now: datetime) -> datetime:
    """The next time at which a run is due, or a day from now where that is later."""
    low, high = now, now + _AHEAD
    if last_due(cron, high) <= now:
        return high
    while high - low > timedelta(minutes=1):
        middle = low + (high - low) / 2
        if last_due(cron, middle) > now:
            high = middle
        else:
            low = middle
    return last_due(cron, high)


def run_scheduled(
    policy: Policy, *, state_directory: str, progress: Optional[Progress] = None, now: Optional[float] = None, sleep: Callable[[float], None] = time.sleep
) -> BackupResult:
    """Back up if a run is due. Raises ``BackupError`` of the last try; an empty result where none was due."""
    state = HostState(state_directory, policy)
    progress = progress or Progress()
    at = time.time() if now is None else now
    reason = reason_to_wait(policy, state, at)
    if reason is not None:
        progress.note("no run is due: %s" % reason)
        return BackupResult()
    sleep(splay_of("%s/%s" % (policy.host, policy.name), policy.schedule.splay))
    return run_patiently(policy, state_directory=state_directory, progress=progress, now=at, sleep=sleep)


def run_patiently(policy: Policy, *, state_directory: str, progress: Progress, now: float, sleep: Callable[[float], None] = time.sleep) -> BackupResult:
    """Back up, and again after a while where the target is busy or out of reach, until the run is due that follows the time ``now``.

    Raises ``BackupError`` of the last try, the one that people are told of.
    """
    for wait in [*waits(policy, now), None]:

        def is_final(error: BackupError, is_last: bool = wait is None) -> bool:
            return is_last or error.rc not in (EXIT_LOCKED, EXIT_UNREACHABLE) or error.kind in _LASTING

        try:
            return backup(policy, state_directory=state_directory, progress=progress, tells=is_final)
        except BackupError as error:
            if is_final(error):
                raise
            assert wait is not None
            progress.note("%s Trying again in %d s" % (error, wait))
            sleep(wait)
    raise AssertionError("unreachable")


# What no waiting mends.
_LASTING = ("history_lost", "host_key", "not_a_vault", "protocol", "ssh_denied", "ssh_missing", "unsupported", "vault_format")
