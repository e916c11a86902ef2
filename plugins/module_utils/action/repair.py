# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repair: put right what is known to be damaged in this vault's snapshots with what another vault has of the same snapshots."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import IntegrityError, RefusedError, counted, printable
from ..manifest.document import Manifest
from ..manifest.entry import Entry
from ..observe.progress import Progress
from ..target.contract import Snapshot
from ..target.tree.repair import Case, Repair
from ..target.tree.target import TreeTarget
from ..transfer.pace import Pace
from .locate import AnyTarget
from .state import HostState

if TYPE_CHECKING:
    from ..target.pack.repair import Mend
    from ..target.pack.target import PackTarget

SAMPLE = 20
# A full reading of what was put right can find more; each round puts right what nobody knew of before.
_ROUNDS = 3


@dataclass
class Repaired:
    """What a repair did, or in check mode would do.

    ``repaired``: ``{id, sequence, created, paths, whole}`` of each snapshot in which something was put right: how many paths, and whether all of it was then
    read and is as its manifest says; ``unrepaired``: ``{id, reason, paths}`` of those that stay damaged, with up to 20 paths; ``files`` and ``bytes`` came
    from the other vault.
    """

    repaired: List[Dict[str, Any]] = field(default_factory=list)
    unrepaired: List[Dict[str, Any]] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


def repair(
    source: AnyTarget,
    receiver: TreeTarget,
    there: Mapping[str, Snapshot],
    state: HostState,
    *,
    pace: Optional[Pace] = None,
    dry_run: bool = False,
    progress: Progress,
) -> Repaired:
    """Repair what is known to be damaged in ``receiver``. ``there``: by id, the snapshots that ``source`` has under the receipts that they have here.

    Nothing is replaced but by bytes that are what this vault's own manifests say; of a manifest that is damaged itself, by what this vault's receipt
    says. A snapshot counts as damaged until all of it was read again."""
    result = Repaired()
    counts: Dict[str, int] = {}
    for _round in range(1 if dry_run else _ROUNDS):
        with receiver.repairing(dry_run=dry_run):
            progress.stage("look")
            work = Repair(receiver.history, receiver.storage, receiver.list(), source.url, lambda snapshot: _manifest_of(source, there, snapshot))
            work.look(progress.advance)
            wanted = work.wanted(there)
            if dry_run:
                for _snapshot, entries in wanted:
                    _count(result, entries)
                _predict(result, work)
                break
            if work.cases:
                _mend(source, receiver, work, wanted, state, pace, progress, result)
        # Which takes far longer, and keeps nobody from writing.
        _prove(receiver, work, result, counts, progress)
        if not any(case.mended for case in work.cases.values()):
            break
    return result


def repair_packs(
    source: AnyTarget, receiver: PackTarget, there: Mapping[str, Snapshot], state: HostState, *, dry_run: bool = False, progress: Progress
) -> Repaired:
    """Repair what is known to be damaged in packs, and other snapshots that need the same ones; as ``repair``. A manifest that cannot be opened is not
    repaired."""
    from ..target.pack.repair import Mend

    result = Repaired()
    damaged = [snapshot for snapshot in receiver.list() if snapshot.damaged]
    bad: Set[str] = set()
    hopeless: Dict[str, str] = {}
    progress.stage("look")
    for snapshot in damaged:
        try:
            bad |= receiver.bad_packs(snapshot, progress.advance)
        except IntegrityError as error:
            hopeless[snapshot.id] = error.message
    with ExitStack() as stack:
        mend = Mend(receiver.repository, bad, progress.advance)
        if not dry_run:
            stack.enter_context(mend)
        mend.look()
        counts: Dict[str, int] = {}
        chances = [snapshot for snapshot in damaged if snapshot.id not in hopeless]
        for snapshot in chances:
            entries = mend.needed(receiver.opened(snapshot))
            counts[snapshot.id] = len(entries)
        for snapshot in chances:
            entries = mend.needed(receiver.opened(snapshot))
            if entries and snapshot.id in there:
                _count(result, entries)
                if dry_run:
                    pieces = [receiver.opened(snapshot).contents.pieces(entry.hash) or () for entry in entries]
                    mend.lost.difference_update(name for piece in pieces for name, _blob in piece)
                else:
                    _take(source, mend, there[snapshot.id], entries, state)
        left = {snapshot.id: [printable(b"/" + entry.path) for entry in mend.needed(receiver.opened(snapshot))] for snapshot in chances}
        if not dry_run and bad:
            progress.stage("repair %s" % counted(len(bad), "pack"))
            mend.finish()
    for snapshot in damaged:
        why = hopeless.get(snapshot.id)
        paths = left.get(snapshot.id, [])
        if why is None and paths:
            why = "%s, the first is %s: the other vault does not have it whole" % (counted(len(paths), "file"), paths[0])
        if why is None and not dry_run:
            progress.stage("verify %s" % snapshot.id, files=snapshot.receipt.files, bytes=snapshot.receipt.bytes)
            seen = receiver.verify(snapshot, depth="full", tell=progress.advance)
            why = None if seen.ok else "%s still wrong" % counted(len(seen.damaged) + len(seen.missing), "path")
        if why is None:
            item = {"id": snapshot.id, "sequence": snapshot.receipt.sequence, "created": snapshot.receipt.created}
            result.repaired.append({**item, "paths": counts[snapshot.id], "whole": True})
        else:
            result.unrepaired.append({"id": snapshot.id, "reason": why, "paths": paths[:SAMPLE]})
    return result


def _take(source: AnyTarget, mend: Mend, snapshot: Snapshot, entries: Sequence[Entry], state: HostState) -> None:
    state.prepare()
    with state.scratch() as scratch:
        os.mkdir(scratch, 0o700)
        for portion in source.portions(snapshot, entries):
            with suppress(IntegrityError, RefusedError), source.fetch(snapshot, portion, scratch) as tree:
                mend.take(tree, portion)


def _manifest_of(source: AnyTarget, there: Mapping[str, Snapshot], snapshot: Snapshot) -> Optional[Manifest]:
    if snapshot.id not in there:
        return None
    try:
        manifest = source.manifest(there[snapshot.id])
        manifest.entries  # noqa: B018 - what is not valid shows now
    except (IntegrityError, RefusedError):
        return None
    header = manifest.header
    return manifest if (header.host, header.policy) == (snapshot.receipt.host, snapshot.receipt.policy) else None


def _count(result: Repaired, entries: Sequence[Entry]) -> None:
    result.files += len(entries)
    result.bytes += sum(entry.size for entry in entries)


def _mend(
    source: AnyTarget,
    receiver: TreeTarget,
    work: Repair,
    wanted: Sequence[Tuple[Snapshot, Sequence[Entry]]],
    state: HostState,
    pace: Optional[Pace],
    progress: Progress,
    result: Repaired,
) -> None:
    progress.stage("repair %s" % counted(len(work.cases), "snapshot"))
    try:
        with receiver.explaining():
            work.begin()
            work.place_files()
        if wanted:
            state.prepare()
            with state.scratch() as scratch:
                os.mkdir(scratch, 0o700)
                for snapshot, entries in wanted:
                    for portion in source.portions(snapshot, entries):
                        try:
                            with source.fetch(snapshot, portion, scratch) as tree, receiver.explaining():
                                work.take(snapshot, tree, portion, progress.advance, pace)
                            _count(result, portion)
                        except (IntegrityError, RefusedError) as error:
                            work.lost.update({(entry.size, entry.hash): error.message for entry in portion})
    finally:
        with receiver.explaining():
            work.end()


def _prove(receiver: TreeTarget, work: Repair, result: Repaired, counts: Dict[str, int], progress: Progress) -> None:
    """Read in full what was put right; what is still wrong then is the next round's business, or nobody's."""
    result.repaired, result.unrepaired = [item for item in result.repaired if item["id"] not in work.cases], []
    for case in work.cases.values():
        snapshot_id = case.snapshot.id
        counts[snapshot_id] = counts.get(snapshot_id, 0) + case.mended
        is_whole = False
        found = ""
        if receiver.find(case.snapshot.receipt) is None:
            continue  # a prune was faster
        if not case.hopeless and (case.mended or not (case.files or case.extra)):
            progress.stage("verify %s" % snapshot_id, files=case.snapshot.receipt.files, bytes=case.snapshot.receipt.bytes)
            try:
                seen = receiver.verify(case.snapshot, depth="full", tell=progress.advance)
                is_whole = seen.ok
                found = "" if seen.ok else "%s still wrong" % counted(len(seen.damaged) + len(seen.missing) + len(seen.extra), "path")
            except IntegrityError as error:
                found = error.message
        if is_whole or counts[snapshot_id]:
            result.repaired.append(_item(case, counts[snapshot_id], is_whole))
        if not is_whole:
            _refuse(result, work, case, found)


def _predict(result: Repaired, work: Repair) -> None:
    for case in work.cases.values():
        lost = [entry for entry in case.files if (entry.size, entry.hash) in work.lost]
        paths = 0 if case.hopeless else len(case.wrong) - len(lost) + (case.manifest is not None)
        is_whole = not (case.hopeless or lost or case.extra)
        if paths or is_whole:
            result.repaired.append(_item(case, paths, is_whole))
        if not is_whole:
            case.files = lost
            _refuse(result, work, case, "")


def _item(case: Case, paths: int, is_whole: bool) -> Dict[str, Any]:
    receipt = case.snapshot.receipt
    return {"id": receipt.id, "sequence": receipt.sequence, "created": receipt.created, "paths": paths, "whole": is_whole}


def _refuse(result: Repaired, work: Repair, case: Case, found: str) -> None:
    paths = sorted(entry.path for entry in case.files)
    reasons = sorted({work.lost[entry.size, entry.hash] for entry in case.files if (entry.size, entry.hash) in work.lost})
    if case.hopeless:
        why = case.hopeless
    elif paths:
        why = "%s, the first is %s: %s" % (counted(len(paths), "file"), printable(b"/" + paths[0]), "; ".join(reasons) or found or "it cannot be read")
    elif case.extra:
        why = "it holds %s that its manifest does not know, and nothing is removed" % counted(len(case.extra), "path")
    else:
        why = found
    shown = [printable(b"/" + path) for path in [*paths, *case.extra][:SAMPLE]]
    result.unrepaired.append({"id": case.snapshot.id, "reason": why, "paths": shown})
