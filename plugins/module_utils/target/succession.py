# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new snapshot owes to those that are there, whatever keeps them: a later time, a place of its own where it is a copy, and a hold of the one before
it where it looks like the work of ransomware."""

from __future__ import annotations

from typing import Optional, Sequence

from ..errors import IntegrityError, RefusedError
from ..manifest.document import Manifest
from ..observe.audit import rfc3339, seconds_of
from .contract import Snapshot, check_manifest

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


def check_place(snapshots: Sequence[Snapshot], origin: Snapshot, now: float) -> None:
    """``RefusedError`` where a copy would not fit into this history: another snapshot has its number, or its time is none that it can have.

    A vault that is in somebody else's hands must not be able to date its snapshots so that ours age out."""
    receipt = origin.receipt
    if seconds_of(receipt.created) > now + CLOCK_SLACK:
        raise RefusedError(
            "The snapshot %s is from the future: this vault's clock says %s" % (origin.id, rfc3339(now)),
            kind="clock",
            field="created",
            found=receipt.created,
            allowed="a time that has been",
            next="set the clocks of both vaults right",
        )
    for other in snapshots:
        if other.receipt.sequence == receipt.sequence:
            raise RefusedError(
                "Number %d of this history is %s here and %s there: the two vaults have histories of their own" % (receipt.sequence, other.id, origin.id),
                kind="diverged",
                field="sequence",
                found=origin.id,
                allowed=other.id,
                next="nothing is copied any more between the two; find out which of them the host sends to (docs/vaults.md, When two vaults differ)",
            )
        if (other.receipt.sequence < receipt.sequence) != (other.receipt.created < receipt.created):
            raise RefusedError(
                "The snapshot %s is number %d, and by its time it does not belong before or behind %s, number %d"
                % (origin.id, receipt.sequence, other.id, other.receipt.sequence),
                kind="clock",
                field="created",
                found=receipt.created,
                allowed="times in the order of the numbers",
                next="find out which clock was wrong; nothing was copied",
            )


def check_origin(manifest: Manifest, origin: Snapshot, source: str) -> None:
    """``IntegrityError`` where this, which the vault ``source`` has, is not the manifest of ``origin``, or ``origin`` is of another history."""
    check_manifest(manifest, origin.receipt, "The manifest that %s has" % source)
    header, receipt = manifest.header, origin.receipt
    if (header.host, header.policy) != (receipt.host, receipt.policy):
        raise IntegrityError("The manifest of %s is one of another history" % receipt.id, kind="manifest", field="host", found=header.host)
