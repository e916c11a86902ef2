# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hybrid: a history of sealed packs that holds everything, and beside it a mirror of those directories that are to lie there as plain files."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from ...errors import BackupError, RefusedError, counted, printable
from ...manifest.document import Manifest
from ...manifest.entry import Entry
from ...manifest.walk import Descent
from ...transfer.rsync import Options
from ..contract import (
    Delivery,
    Heartbeat,
    IncompleteError,
    Receipt,
    Requests,
    Rewritten,
    Sent,
    Session,
    Shortfall,
    Size,
    Snapshot,
    Target,
    Tell,
    Thresholds,
    Verification,
)
from ..pack.session import PackSession
from ..pack.target import PackTarget
from ..sources import PORTABLE
from ..tree.layout import damaged_paths, make_private, write_json
from .condition import OBJECTS
from .layouts import Layouts
from .session import MirrorSession
from .target import MirrorTarget

_BEHIND = b"/behind.json"


class HybridTarget(Target):
    """``packs`` are the history; what ``layouts`` gives to the ``mirror`` lies there, too. ``memory``: where a run notes that the mirror could not follow.

    Before the history begins, a mirror that somebody wrote is what there is to restore from.
    """

    def __init__(self, packs: PackTarget, mirror: MirrorTarget, layouts: Sequence[Tuple[str, str]], memory: Optional[bytes] = None) -> None:
        self.url = mirror.url
        self.packs = packs
        self.mirror = mirror
        self._layouts = Layouts(layouts)
        self._memory = memory
        self._trouble: Optional[BackupError] = None
        self._overrules = False
        self._is_damaged = False  # the mirror, as was asked last

    @property
    def storage(self) -> str:
        return PORTABLE

    @property
    def is_open(self) -> bool:  # type: ignore[override]
        return self._keeper() is self.mirror

    @property
    def beats(self) -> bool:
        return False

    @property
    def requests(self) -> Optional[Requests]:
        both = [asked for asked in (self.packs.requests, self.mirror.requests) if asked is not None]
        return Requests(*map(sum, zip(*both))) if both else None

    @property
    def immutable(self) -> Optional[bool]:
        return self.packs.immutable

    @property
    def is_blind(self) -> bool:
        return self.packs.is_blind

    @property
    def sealed(self) -> PackTarget:
        return self.packs

    def is_behind(self, baseline: Receipt) -> bool:
        """The mirror could not follow, or was all there was so far: the history begins with the next run."""
        if self._is_damaged or baseline.clone == OBJECTS or (self._memory is not None and os.path.lexists(self._memory + _BEHIND)):
            return True
        try:
            return self.mirror.is_behind(baseline)
        except BackupError:
            return True  # the next session says what is wrong

    @property
    def old_prefixes(self) -> Mapping[str, int]:
        try:
            self.mirror.list()
        except BackupError as error:
            self._trouble = error
        return self.mirror.old_prefixes

    def check_sources(self) -> None:
        self.mirror.check_sources()

    def remarks(self) -> List[str]:
        trouble = []
        if self._trouble is not None:  # which speaks of the mirror alone
            trouble = ["the mirror was not brought up to date: %s" % str(self._trouble).replace("nothing was published", "the snapshot stands")]
        return trouble + list(dict.fromkeys(self.packs.remarks() + self.mirror.remarks()))

    def _keeper(self) -> Union[PackTarget, MirrorTarget]:
        return self.packs if self.packs.latest() is not None or self.mirror.latest() is None else self.mirror

    # ---- looking -------------------------------------------------------------------------------------------------------------

    def latest(self) -> Optional[Snapshot]:
        return self._keeper().latest()

    def list(self) -> List[Snapshot]:
        return self._keeper().list()

    def find(self, receipt: Receipt) -> Optional[Snapshot]:
        return self._keeper().find(receipt)

    def manifest(self, snapshot: Snapshot) -> Manifest:
        return self._keeper().manifest(snapshot)

    def search(self, snapshot: Snapshot, fragment: bytes, *, ignore_case: bool = False) -> "List[bytes]":
        return self._keeper().search(snapshot, fragment, ignore_case=ignore_case)

    def portions(self, snapshot: Snapshot, entries: Sequence[Entry]) -> "List[Sequence[Entry]]":
        return self._keeper().portions(snapshot, entries)

    def fetch(self, snapshot: Snapshot, entries: Sequence[Entry], scratch: bytes) -> ContextManager[Descent]:
        return self._keeper().fetch(snapshot, entries, scratch)

    def verify(
        self, snapshot: Snapshot, *, depth: str, part: Optional[Tuple[int, int]] = None, record: bool = True, tell: Optional[Tell] = None
    ) -> Verification:
        keeper = self._keeper()
        found = keeper.verify(snapshot, depth=depth, part=part, record=record, tell=tell)
        newest = self.packs.latest()
        if keeper is self.mirror or newest is None or newest.id != snapshot.id:
            return found
        try:
            beside = self._verify_mirror(self._layouts.part(self.packs.manifest(snapshot)), depth, part, record)
        except BackupError as error:
            beside = ["the mirror could not be verified: %s" % error]
        return found._replace(beside=tuple(beside))

    def _verify_mirror(self, wanted: Manifest, depth: str, part: Optional[Tuple[int, int]], record: bool) -> List[str]:
        """What is wrong with the mirror, which is to hold that. What is found is kept there, and mended by the next session."""
        listed = self.mirror.list()
        if not listed:
            return ["there is nothing in the mirror"]
        found = self.mirror.verify(listed[0], depth=depth, part=part, record=record)
        beside = self.mirror.remarks()
        rotten = [damage.path for damage in found.damaged if damage.path not in self.mirror.altered]
        if rotten:
            beside.append("%s of the mirror is damaged, the first is %s" % (counted(len(rotten), "file"), printable(b"/" + rotten[0])))
        if listed[0].receipt.content_digest != wanted.content_digest:
            beside.append("the mirror holds another state than the newest snapshot")
        return beside

    # ---- backing up ------------------------------------------------------------------------------------------------------------

    def overrule(self) -> None:
        self._overrules = True
        self.mirror.overrule()

    def settle(self) -> None:
        self._keeper().settle()

    def sweep(self) -> None:
        self.packs.sweep()
        with suppress(BackupError):  # the next session says what is wrong
            self.mirror.sweep()

    def heartbeat(self, snapshot_id: str, digest: str) -> Heartbeat:
        answer = self.packs.heartbeat(snapshot_id, digest)
        try:
            here = self.mirror.latest()
        except BackupError:
            here = None
        need = damaged_paths(here) if here is not None else set()
        self._is_damaged = here is None or bool(need)
        return Heartbeat(answer.known and here is not None, (*answer.need, *sorted(need)))

    def begin(self, tx: str, parent: Optional[str], tags: Sequence[str] = (), thresholds: Thresholds = Thresholds()) -> HybridSession:
        is_first = self._keeper() is self.mirror
        newest = self.latest()
        if is_first and (newest.id if newest is not None else None) != parent:
            raise RefusedError("The mirror is not what this run goes on from", kind="writer", field="parent", found=parent, next="run again")
        packs = self.packs.begin(tx, None if is_first else parent, tags, thresholds)
        mirror: Optional[MirrorSession] = None
        try:
            here = self.mirror.latest()
            if here is not None and not is_first:
                self._check_own(here.receipt)
            mirror = self.mirror.begin(tx, here.id if here is not None else None)
        except BackupError as error:
            self._trouble = error
        return HybridSession(packs, mirror, self._layouts, None if is_first else newest, self._note)

    def _check_own(self, receipt: Receipt) -> None:
        """``RefusedError`` where another host or policy wrote the mirror: its files are not ours to replace."""
        if self._overrules or (receipt.host, receipt.policy) == (self.mirror.host, self.mirror.policy):
            return
        raise RefusedError(
            "host %s, policy %s wrote it" % (printable(receipt.host), printable(receipt.policy)),
            kind="writer",
            field="target",
            found="%s/%s" % (receipt.host, receipt.policy),
            allowed="%s/%s" % (self.mirror.host, self.mirror.policy),
            next="give each host a prefix of its own; or, if the other one is gone, `openclaw-backup run POLICY --adopt` writes this host's files over it",
        )

    def _note(self, trouble: Optional[BackupError]) -> None:
        """Remember whether the mirror is what the history's newest snapshot says."""
        self._trouble = trouble or self._trouble
        if self._memory is not None:
            make_private(self._memory)
            if self._trouble is not None:
                write_json(self._memory + _BEHIND, {"why": self._trouble.message})
            else:
                with suppress(FileNotFoundError):
                    os.unlink(self._memory + _BEHIND)

    # ---- the history -------------------------------------------------------------------------------------------------------------

    def sizes(self, snapshots: Sequence[Snapshot]) -> "List[Size]":
        return self._keeper().sizes(snapshots)

    def weigh(self, snapshots: Sequence[Snapshot]) -> int:
        return self.packs.weigh(snapshots)

    def remove(self, choose: Callable[["List[Snapshot]"], Mapping[str, str]], tell: Optional[Tell] = None) -> int:
        return self.packs.remove(choose, tell)

    def repack(self, unused_percent: int, tell: Optional[Tell] = None) -> Optional[Rewritten]:
        return self.packs.repack(unused_percent, tell)

    def hold(self, snapshot: Snapshot, reason: Optional[str]) -> Optional[Dict[str, Any]]:
        return self._keeper().hold(snapshot, reason)

    def note_drill(self, snapshot: Snapshot) -> None:
        self._keeper().note_drill(snapshot)

    def tag(self, snapshot: Snapshot, add: Sequence[str], remove: Sequence[str]) -> "List[str]":
        return self._keeper().tag(snapshot, add, remove)

    def bury(self) -> None:
        self.packs.bury()
        self.mirror.bury()


class HybridSession(Session):
    """A snapshot of packs, and then the mirror. Where the mirror cannot follow, the snapshot stands all the same, and the run tells why."""

    def __init__(
        self,
        packs: PackSession,
        mirror: Optional[MirrorSession],
        layouts: Layouts,
        newest: Optional[Snapshot],
        note: Callable[[Optional[BackupError]], None],
    ) -> None:
        self._packs = packs
        self._mirror = mirror
        self._layouts = layouts
        self._newest = newest
        self._note = note
        self._packed: Set[bytes] = set()
        self._plain: Set[bytes] = set()
        self._trouble: Optional[BackupError] = None

    def trust_base(self, manifest: Manifest) -> None:
        self._packs.trust_base(manifest)

    def _give_up(self, error: BackupError) -> None:
        self._trouble, self._mirror, self._plain = error, None, set()

    def wanted(self, manifest: Manifest) -> List[Entry]:
        self._packed = {entry.path for entry in self._packs.wanted(manifest)}
        self._plain = {entry.path for entry in self._mirror_wants(self._layouts.part(manifest))}
        return [entry for entry in manifest.entries if entry.path in self._packed or entry.path in self._plain]

    def _mirror_wants(self, part: Manifest) -> List[Entry]:
        if self._mirror is None:
            return []
        try:
            return self._mirror.wanted(part)
        except BackupError as error:
            self._give_up(error)
            return []

    def send(self, delivery: Delivery, options: Options, tell: Optional[Tell] = None) -> Sent:
        sealed = self._packs.send(delivery._replace(wanted=[entry for entry in delivery.wanted if entry.path in self._packed]), options, tell)
        plain = Sent(0, 0, 0)
        if self._mirror is not None:
            try:
                plain = self._mirror.send(delivery._replace(wanted=[entry for entry in delivery.wanted if entry.path in self._plain]), options)
            except BackupError as error:
                self._give_up(error)
        return Sent(len(delivery.wanted), sum(entry.size for entry in delivery.wanted), sealed.wire + plain.wire)

    def commit(self, manifest: Manifest, tell: Optional[Tell] = None) -> Receipt:
        part = self._layouts.part(manifest)
        short = self._mirror_wants(part)
        if short:
            raise IncompleteError([Shortfall(entry.path, "missing") for entry in short])
        newest = self._newest
        if newest is not None and newest.receipt.content_digest == manifest.content_digest and not newest.damaged and not self._packs.wanted(manifest):
            receipt = newest.receipt  # only the mirror was behind
        else:
            receipt = self._packs.commit(manifest, tell)
            self.anomaly = self._packs.anomaly
        if self._mirror is not None:
            try:
                self._mirror.commit(part)
            except BackupError as error:
                self._give_up(error)
        self._note(self._trouble)
        return receipt

    def close(self, *, keep: bool = False) -> None:
        self._packs.close(keep=keep)
        if self._mirror is not None:
            self._mirror.close(keep=keep)
