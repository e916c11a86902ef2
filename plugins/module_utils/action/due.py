# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills that a schedule starts: one where ``objectives.drill_every`` will soon ask for it, and else none, however often it is started."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Callable, Optional

from ..errors import LockedError
from ..observe.audit import is_time, rfc3339, seconds_of
from ..observe.progress import Progress
from ..policy.model import Notify, Policy
from ..policy.schedule import is_within, splay_of
from .drill import DrillResult, drill
from .state import HostState

# One that failed is not made again with every start of the schedule: it may take hours.
_AGAIN_SECONDS = 86400


def reason_not_to_drill(policy: Policy, state: HostState, now: float, *, on_vault: bool = False) -> Optional[str]:
    """Why no drill is due at the time ``now``; None where one is. It is due a fifth of ``drill_every`` early, so that the objective is met."""
    every = policy.objectives.drill_every if "objectives.drill_every" in policy.given else 0
    if not every:
        return "the policy gives no objectives.drill_every"
    here = datetime.fromtimestamp(now)
    if not is_within(policy.schedule.window, here):
        return "it is %s, and schedule.window is %s" % (here.strftime("%H:%M"), policy.schedule.window)
    if not on_vault and state.baseline() is None:
        return "this host has no snapshot yet"
    early = every - every // 5
    good = state.drills.last_success(verb="drill", policy=policy.name)
    for record, wait, what in (
        (good, early, "the last one succeeded"),
        (next((record for record in state.drills.last(1) if record["result"] == "failed"), None), min(early, _AGAIN_SECONDS), "the last one failed"),
    ):
        finished = None if record is None else record.get("finished")
        if is_time(finished) and 0 <= now - seconds_of(str(finished)) < wait:
            return "%s at %s, and the next is due at %s" % (what, finished, rfc3339(seconds_of(str(finished)) + wait))
    return None


def drill_if_due(
    policy: Policy,
    *,
    state_directory: str,
    scratch: Optional[str] = None,
    progress: Optional[Progress] = None,
    on_vault: bool = False,
    asked_by: Optional[str] = None,
    now: Optional[float] = None,
    sleep: Callable[[float], None] = time.sleep,
) -> DrillResult:
    """Drill the newest snapshot if that is due, and tell people what ``status`` then says; a result without a verdict where it is not due, or another one is
    at work. Raises ``BackupError`` as ``drill`` does."""
    state = HostState(state_directory, policy)
    progress = progress or Progress()
    reason = reason_not_to_drill(policy, state, time.time() if now is None else now, on_vault=on_vault)
    idle = DrillResult(host=policy.host, policy=policy.name, target=policy.target.url)
    if reason is not None:
        progress.note("no drill is due: %s" % reason)
        return idle
    if not on_vault:
        sleep(splay_of("%s/%s" % (policy.host, policy.name), policy.schedule.splay))
    try:
        result = drill(policy, state_directory=state_directory, scratch=scratch, progress=progress, on_vault=on_vault, asked_by=asked_by)
    except LockedError as error:
        progress.note(str(error))
        return idle
    # On a vault its watch does so, every few minutes.
    if policy.notify != Notify() and not on_vault:
        from .notify import notify_of_status
        from .status import status

        result.warnings += notify_of_status(policy, state, status(policy, state_directory=state_directory))
    return result
