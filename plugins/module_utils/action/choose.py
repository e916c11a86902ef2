# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which snapshot is meant: ``latest``, an id, an unambiguous prefix of one, or a point in time."""

from __future__ import annotations

import re
from typing import Optional, Sequence

from ..errors import BackupError, RefusedError, UsageError, counted
from ..observe.audit import seconds_of
from ..target.contract import Snapshot

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?::(\d\d)(\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?")
_PREFIX = re.compile(r"[0-9]{4,8}(T[0-9]{0,6}(\.[0-9]{0,3}(Z(-[0-9a-f]{0,8})?)?)?)?")
_ALLOWED = "latest, a snapshot id, the beginning of one, or a time such as 2026-11-20T09:15:00Z, 2026-11-20 09:15 or 2026-11-20 (UTC, to its end)"


def find_snapshot(snapshots: Sequence[Snapshot], wish: str, where: str) -> Snapshot:
    """Choose from ``snapshots`` (newest first) of the history ``where``; ``RefusedError`` (kind ``no_snapshot``) or ``UsageError`` say what there is."""
    if not snapshots:
        raise no_snapshot(where, wish)
    if wish == "latest":
        return snapshots[0]
    if _PREFIX.fullmatch(wish):
        matches = [snapshot for snapshot in snapshots if snapshot.id.startswith(wish)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(
                "%s is the beginning of %d snapshots" % (wish, len(matches)),
                field="snapshot",
                found=wish,
                allowed="one of %s" % ", ".join(snapshot.id for snapshot in matches[:5]),
                next="give more of the id, or write a day as 2026-11-20 to mean its newest",
            )
        raise _absent(wish, snapshots)
    moment = _parse_time(wish)
    if moment is None:
        raise UsageError("%s names no snapshot" % wish, field="snapshot", found=wish, allowed=_ALLOWED, next=_advice(wish, snapshots))
    for snapshot in snapshots:
        if seconds_of(snapshot.receipt.created) <= moment:
            return snapshot
    raise _absent(wish, snapshots)


def no_snapshot(where: str, wish: str = "latest") -> RefusedError:
    """The refusal that a history without snapshots deserves where one is asked for."""
    return RefusedError(
        "There is no snapshot of %s" % where,
        kind="no_snapshot",
        field="snapshot",
        found=wish,
        next="check the target, host and name, and that the vault is mounted; if all are right, make one with `openclaw-backup run POLICY`",
    )


def _absent(wish: str, snapshots: Sequence[Snapshot]) -> BackupError:
    return RefusedError(
        "No snapshot fits %s" % wish,
        kind="no_snapshot",
        field="snapshot",
        found=wish,
        allowed="%s from %s to %s" % (counted(len(snapshots), "snapshot"), snapshots[-1].id, snapshots[0].id),
        next=_advice(wish, snapshots),
    )


def _advice(wish: str, snapshots: Sequence[Snapshot]) -> str:
    bearers = [snapshot.id for snapshot in snapshots if wish in snapshot.tags]
    if bearers:  # any number may bear it, so that it names none
        return "it is a tag; give the id of a snapshot that bears it: %s" % ", ".join(bearers[:5])
    return "`openclaw-backup list POLICY` shows them all"


def _parse_time(text: str) -> Optional[float]:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    from datetime import datetime, timedelta, timezone

    day, clock, seconds, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat("%sT%s:%s" % (day, clock or "23:59", seconds or "59"))
    except ValueError:
        return None
    offset = timedelta()
    if zone and zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
    # A snapshot of the second, the minute or the day that was named is meant to be in.
    inside = float(fraction or 0) if fraction else 0.999
    return (moment.replace(tzinfo=timezone.utc) - offset).timestamp() + inside
