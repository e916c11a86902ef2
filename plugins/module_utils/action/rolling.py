# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rolling verification: what of a history is read next, and since when all that it keeps has been read."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import BackupError, UsageError
from ..observe.audit import is_time, rfc3339
from ..target.contract import Snapshot
from ..target.tree.layout import read_json, write_json
from .state import HostState

MOST = 100000
_FILE = b"/rolling.json"
_NUMBER = re.compile("[1-9][0-9]{0,5}")


class Rolling(NamedTuple):
    """``shares``: into how many equal ones the content of the newest snapshot falls, by its paths (of packs by their ids), and in how many turns the older ones
    are looked at; ``read``: when each share was read last (RFC 3339), by its number from 1 on; ``older``: when that of older snapshots was read which no
    newer one shares with them, by their ids. What came later was hashed when it came."""

    shares: int
    read: Mapping[int, str]
    older: Mapping[str, str]

    @property
    def next(self) -> int:
        """The share that was never read, or else not for longest."""
        return min(range(1, self.shares + 1), key=lambda number: self.read.get(number, ""))

    def last_read(self, snapshot: Snapshot) -> str:
        """When an older snapshot was read last; when it came, its bytes were hashed."""
        return max(self.older.get(snapshot.id, ""), snapshot.receipt.created)

    def next_older(self, snapshots: Sequence[Snapshot]) -> List[Tuple[Snapshot, Snapshot]]:
        """Of a history, the newest first, the older snapshots that were not read for longest, each with the next newer one: so many that all have had
        their turn when all shares have."""
        pairs = sorted(zip(snapshots[1:], snapshots), key=lambda pair: (self.last_read(pair[0]), pair[0].receipt.created))
        return pairs[: -(-len(pairs) // self.shares)]

    def noted(self, older: Sequence[Snapshot], snapshots: Sequence[Snapshot], now: float) -> Rolling:
        """After a turn: the next share was read, and of these snapshots what no newer one has. Those that are gone are forgotten."""
        at = rfc3339(now)
        times = {**self.older, **{snapshot.id: at for snapshot in older}}
        ids = {snapshot.id for snapshot in snapshots}
        return Rolling(self.shares, {**self.read, self.next: at}, {name: when for name, when in times.items() if name in ids})

    def to_dict(self, snapshots: Sequence[Snapshot]) -> Dict[str, Any]:
        """The public mapping: ``since``, every byte of the history (of packs: of its newest snapshot) was read at least once, None while a share is to come."""
        times = [*self.read.values(), *map(self.last_read, snapshots[1:])]
        return {"shares": self.shares, "read": len(self.read), "since": min(times) if len(self.read) == self.shares else None}


def parse_shares(text: str) -> int:
    """A number of shares; ``UsageError`` for what is none."""
    if text.isdecimal() and 1 <= int(text) <= MOST:
        return int(text)
    raise UsageError("The number of shares is %s" % text, field="rolling", found=text, allowed="a whole number from 1 to %d" % MOST, next="write 30")


def load(state: HostState, now: float) -> Optional[Rolling]:
    """What is remembered of one target; None where nothing is that makes sense. What was read in a time to come (a clock was wrong) counts for nothing."""
    try:
        item = read_json(state.target_directory + _FILE)
    except (BackupError, OSError):
        return None
    shares, read, older = (item.get(name) for name in ("shares", "read", "older")) if type(item) is dict else (None, None, None)
    if type(shares) is not int or not 1 <= shares <= MOST or type(read) is not dict or type(older) is not dict:
        return None
    latest = rfc3339(now)
    times = {int(number): at for number, at in read.items() if _NUMBER.fullmatch(number) and int(number) <= shares and is_time(at) and at <= latest}
    return Rolling(shares, times, {name: at for name, at in older.items() if is_time(at) and at <= latest})


def begin(state: HostState, shares: int, now: float) -> Rolling:
    """What is remembered of so many shares; with another number than before all are still to come."""
    known = load(state, now)
    if known is None:
        return Rolling(shares, {}, {})
    return known if known.shares == shares else Rolling(shares, {}, known.older)


def keep(state: HostState, rolling: Rolling) -> None:
    """Remember it."""
    read = {str(number): at for number, at in rolling.read.items()}
    write_json(state.target_directory + _FILE, {"shares": rolling.shares, "read": read, "older": dict(rolling.older)})
