# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new snapshot owes to the one before it, whatever keeps them: a later time, and a hold where it looks like the work of ransomware."""

from __future__ import annotations

from typing import Optional

from ..errors import RefusedError
from ..observe.audit import rfc3339, seconds_of
from .contract import Snapshot

# A vault's clock may be set back a little between two runs; more means that it is wrong.
CLOCK_SLACK = 600


def time_after(base: Optional[Snapshot], now: float) -> str:
    """The time that a new snapshot bears. ``RefusedError`` (kind ``clock``) where the vault's clock is far behind its newest one."""
    if base is not None:
        newest = seconds_of(base.receipt.created)
        if now < newest - CLOCK_SLACK:
            raise RefusedError(
                "The vault's clock says %s, but its newest snapshot is from %s" % (rfc3339(now), base.receipt.created),
                kind="clock",
                field="clock",
                found=rfc3339(now),
                allowed="a time after the newest snapshot",
                next="set the vault's clock right; where it is right and the snapshot's date is wrong, move that snapshot out of the history and adopt "
                "(see Clocks in docs/recovery.md); nothing was published",
            )
        now = max(now, newest + 0.001)
    return rfc3339(now)


def reason_to_hold(anomaly: str, held: Optional[str], successor: str) -> str:
    """Why the parent of ``successor`` must stay, in which ``anomaly`` was found. ``held``: why it is held already."""
    reason = "%s looks like a mass change: %s" % (successor, anomaly)
    return reason if held is None else "%s; before: %s" % (reason, held)
