# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session that takes in a snapshot of another vault: built and proven like every other, published under the receipt that it has there.

The receipt and the manifest are the origin's, byte for byte, so that a copy can be told from nothing else and proven by the same digests; what this
vault did is in its log and in the copy's state. Which base it is built on is this vault's business: any snapshot that is whole here will do.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Set

from ...manifest.document import Manifest
from ...manifest.entry import Entry
from ...manifest.walk import Descent
from ...observe.audit import events, rfc3339, seconds_of
from ..contract import Delivery, Receipt, Snapshot, Tell, Thresholds
from ..sources import Sources
from ..succession import CLOCK_SLACK, check_origin
from . import layout
from .build import Built
from .layout import History
from .receive import receive
from .session import TreeSession

if TYPE_CHECKING:
    from ...transfer.pace import Pace


def choose_base(snapshots: Sequence[Snapshot], origin: Snapshot) -> Optional[Snapshot]:
    """What a copy is best built on: of those that are not known to be damaged the newest before it, else the oldest after it."""
    whole = [snapshot for snapshot in snapshots if not snapshot.damaged]
    older = [snapshot for snapshot in whole if snapshot.receipt.sequence < origin.receipt.sequence]
    return older[0] if older else whole[-1] if whole else None


def removed_ids(history: History) -> Set[str]:
    """The snapshots that were here once and that a prune has removed, as the history's log tells: a copy that its vault did not keep is not missing."""
    found: Set[str] = set()
    for event in events(history.audit, "prune"):
        for item in event.get("removed") or ():
            if isinstance(item, dict):
                found.add(str(item.get("snapshot")))
    return found


class CopySession(TreeSession):
    """Takes in ``origin`` of the vault ``source``; ``newest``: of this history so far."""

    def __init__(
        self,
        history: History,
        storage: str,
        tx: str,
        base: Optional[Snapshot],
        clone: str,
        origin: Snapshot,
        source: str,
        newest: Optional[Snapshot],
        thresholds: Thresholds,
    ) -> None:
        receipt = origin.receipt
        super().__init__(history, storage, receipt.host, receipt.policy, tx, base, clone, origin.tags, thresholds)
        self.origin = origin
        self.source = source
        self._newest = newest
        self._copied = 0

    def missing(self, manifest: Manifest) -> List[Entry]:
        """The files whose content has to come: not in the base, and not received and proven by a session that was cut off."""
        check_origin(manifest, self.origin, self.source)
        wanted = self.wanted(manifest)
        if self._resumed:
            try:
                self._clear_unwanted(wanted, self._files)
                self._take_over_own(wanted)
            except OSError as error:
                raise self.explained(error) from error
            wanted = self.wanted(manifest)
        return wanted

    def take(self, tree: Descent, entries: Sequence[Entry], tell: Optional[Tell] = None, pace: Optional[Pace] = None) -> int:
        """Copy files that lie under their paths below ``tree``, each hashed as it is written, no faster than ``pace``; bytes written. What is not as its
        entry says is not proven, and the commit names it."""
        try:
            # Of an open directory, wherever it was moved meanwhile.
            place = os.readlink(b"/proc/self/fd/%d" % tree.root_fd)
            delivery = Delivery(place, entries, place, frozenset(), {})
            self._check_space(delivery, frozenset())
            if not self._copied:
                self._is_pure = not os.listdir(self._files)
                self._begin_ahead()
            for entry in entries:
                self._proven.pop(entry.path, None)
            with Descent(self._files) as files:
                received = receive(delivery, files, frozenset(), self.storage, resume=False, tell=tell, pace=pace)
        except OSError as error:
            raise self.explained(error) from error
        self._copied += len(entries)
        self._proven.update((entry.path, entry) for entry in received.proven)
        self._hashed += received.hashed
        return received.written

    def _next_time(self) -> str:
        return self.origin.receipt.created

    def _make_receipt(self, manifest: Manifest, plan: Sources, built: Built, is_clone: bool) -> Receipt:
        return self.origin.receipt

    def _publish(self, snapshot: bytes, manifest: Manifest, receipt: Receipt) -> None:
        now = time.time()
        until = self.origin.unchanged_until
        if until is not None and seconds_of(until) > now + CLOCK_SLACK:
            until = None  # nobody knows that yet, and nothing would ever be too old
        facts = {"copied": {"at": rfc3339(now), "from": self.source}, "unchanged_until": until}
        layout.update_state(self.history, receipt.id, facts)
        super()._publish(snapshot, manifest, receipt)

    def _event(self, receipt: Receipt) -> Dict[str, object]:
        event = {**super()._event(receipt), "event": "copy", "from": self.source, "created": receipt.created, "hashed_bytes": self._hashed}
        event["received_files"] = self._copied  # the origin's number is of what the host sent
        return event

    def _hold_after_anomaly(self, snapshot: bytes, manifest: Manifest, receipt: Receipt) -> None:
        if self.base is not None and self.base.receipt.sequence < self.origin.receipt.sequence:
            super()._hold_after_anomaly(snapshot, manifest, receipt)

    def _point_latest(self, snapshot_id: str) -> None:
        is_older = self._newest is not None and (snapshot_id != self.origin.id or self._newest.receipt.sequence > self.origin.receipt.sequence)
        super()._point_latest(self._newest.id if self._newest is not None and is_older else snapshot_id)
