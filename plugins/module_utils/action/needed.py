# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore where that is needed: at the start of a container, before its application, when nobody is there to decide."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ..errors import BackupError, RefusedError, TargetError, counted
from ..manifest.document import Manifest
from ..manifest.entry import DIRECTORY
from ..manifest.selection import Matcher, selects
from ..observe.progress import Progress
from ..policy.model import Policy
from .backup import backup
from .locate import history_lost, open_target
from .restore import RestoreRequest, RestoreResult, restore
from .sources import with_sources
from .state import HostState

UNFINISHED = "unfinished"
EMPTY = "empty"
MISSING = "missing"
UNKNOWN = "unknown"
NEWER = "newer"


class Situation(NamedTuple):
    """What the decision goes by: whether a restore was begun and not finished; whether the sources hold nothing; which sources and key files are missing
    or empty here and not in the snapshot ``base``; the newest snapshot of the target and the baseline, by their ids; whether the newest is known here all
    the same, as an attempt whose answer was lost, or one that the target went back to."""

    is_unfinished: bool = False
    is_empty: bool = False
    missing: Sequence[str] = ()
    newest: Optional[str] = None
    baseline: Optional[str] = None
    is_own: bool = False
    base: str = "latest"


def reason_to_restore(found: Situation) -> Optional[str]:
    """Why a restore is needed, in this order; None where none is.

    ``unfinished``: one was broken off. ``empty``: there is a history, and here is nothing. ``unknown``: there is a history of which this machine knows
    nothing. ``missing``: some of what it knows is gone. ``newer``: another machine went on from what this one knows.
    """
    if found.is_unfinished:
        return UNFINISHED
    if found.newest is None:
        return None
    if found.is_empty:
        return EMPTY
    if found.baseline is None and not found.is_own:
        return UNKNOWN
    if found.missing:
        return MISSING
    return None if found.is_own or found.newest == found.baseline else NEWER


@dataclass
class NeededResult(RestoreResult):
    """What a restore did, and ``needed``: why (``reason_to_restore``), None where there was no need; ``undo``: where what it replaced is kept, if
    anything is."""

    needed: Optional[str] = None
    undo: Optional[str] = None


def restore_if_needed(
    policy: Policy, *, state_directory: str, undo: Optional[str] = None, dry_run: bool = False, progress: Optional[Progress] = None
) -> NeededResult:
    """Restore into its own place what this machine lacks of its history, or do nothing.

    What is replaced is kept in ``undo``, or in the state. Raises ``BackupError``: of the restore; or ``RefusedError`` where another machine went on from
    what this one knows, and this one has changes of its own (kind ``writer``), or where files would be replaced that are newer than a snapshot of which
    this machine knows nothing, and no ``undo`` was given (kind ``newer``).
    """
    progress = progress or Progress()
    state = HostState(state_directory, policy)
    found, trouble = _look(policy, state)
    reason = reason_to_restore(found)
    if trouble is not None and reason is None:
        if found.baseline is not None and not (found.is_empty or found.missing):
            told = "whether another machine went on from here is not known: %s" % trouble.message
            return NeededResult(snapshot_id=found.baseline, warnings=[told])
        reason = EMPTY if found.is_empty else UNKNOWN if found.baseline is None else MISSING  # a copy may have it, and else says so
    if reason is None:
        return NeededResult(snapshot_id=found.baseline or found.newest or "")
    if reason == NEWER:
        backup(policy, state_directory=state_directory, dry_run=True)  # is refused where something changed here
    before = state.unfinished()
    keep = undo or (before.undo if before else None) or os.path.join(os.fsdecode(state.directory), "replaced", time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    if before is not None:
        wish = RestoreRequest(snapshot=before.snapshot, paths=tuple(before.paths), delete=before.delete, undo=keep)
    elif reason == NEWER:
        wish = RestoreRequest(delete=True, undo=keep)  # what is as it was when the other machine went on is made what that one made of it
    else:
        wish = RestoreRequest(undo=keep, spare_newer=undo is None)
        if reason == MISSING:
            wish = replace(wish, snapshot=found.base, paths=tuple(found.missing))
    progress.note("a restore is needed (%s): snapshot %s" % (reason, wish.snapshot.replace("latest", found.newest or "latest")))
    done = _restore(policy, wish, state_directory, dry_run, progress)
    if done.kept:
        done.warnings.append("%s that were here before are kept in %s" % (counted(done.kept, "path"), keep))
    elif not dry_run and undo is None:
        _remove_empty(keep)
    return NeededResult(**done.__dict__, needed=reason, undo=keep if done.kept else None)


def _restore(policy: Policy, wish: RestoreRequest, state_directory: str, dry_run: bool, progress: Progress) -> RestoreResult:
    try:
        done = restore(policy, wish, state_directory=state_directory, dry_run=dry_run, progress=progress)
    except RefusedError as error:
        if error.kind != "no_snapshot" or wish.snapshot == "latest":
            raise
        # The one that a restore was broken off of was removed since.
        done = restore(policy, replace(wish, snapshot="latest"), state_directory=state_directory, dry_run=dry_run, progress=progress)
    failure = done.failure()
    if failure is not None:
        failure.next = "%s; all else is in its place, and the next backup goes on from what is here" % failure.next
        raise failure
    return done


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass  # it is not there, or holds what an earlier one replaced


def _look(policy: Policy, state: HostState) -> Tuple[Situation, Optional[BackupError]]:
    """The situation, and why the target could not be looked at, or has lost what this machine knows. Raises ``TargetError`` where only a copy could say
    whether there is a history, and cannot be asked."""
    baseline = state.baseline()
    try:
        policy, _warnings = with_sources(policy, state)
    except RefusedError:  # the profile finds nothing
        pass
    empty = _empty_sources(policy)
    is_empty = len(empty) == len(policy.sources)
    found = Situation(
        is_unfinished=state.unfinished() is not None,
        is_empty=is_empty,
        missing=[] if is_empty else empty + _key_files_missing(policy),
        baseline=baseline.id if baseline else None,
    )
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    newest, trouble = None, None
    try:
        newest = target.latest()
        if newest is None and baseline is not None:
            trouble = history_lost(policy, baseline)
    except TargetError as error:
        trouble = error
    if newest is not None:
        pending = state.pending()
        is_own = (pending is not None and pending.made(newest.receipt)) or newest.id in state.known_ids()
        found = found._replace(newest=newest.id, is_own=is_own)
    elif trouble is None:
        found = _ask_copies(policy, state, found)
    if not found.missing or (baseline is None and not found.is_own):
        return found, trouble
    # Judged by what this machine knows, also where another one went on from that.
    base, manifest = baseline, None
    if baseline is not None and (newest is None or not found.is_own or newest.id == baseline.id):
        manifest = state.baseline_manifest(baseline)
    if manifest is None:
        if newest is None:
            return found._replace(baseline=None, is_own=False), trouble  # then it knows too little
        base, manifest = newest.receipt, target.manifest(newest)
    assert base is not None
    return found._replace(missing=_held(manifest, found.missing), base=base.id), trouble


def _ask_copies(policy: Policy, state: HostState, found: Situation) -> Situation:
    """The same with the newest snapshot of the first copy that has one: a vault that is empty may be new, or not mounted."""
    failure: Optional[TargetError] = None
    for spec in policy.copies:
        try:
            newest = open_target(spec, policy.host, policy.name, sources=policy.sources).latest()
        except TargetError as error:
            failure = failure or error
            continue
        if newest is not None:
            there = HostState(os.fsdecode(state.root), replace(policy, target=spec))
            return found._replace(newest=newest.id, is_own=newest.id in there.known_ids())
    if failure is not None:
        raise failure
    return found


def _held(manifest: Manifest, paths: Sequence[str]) -> List[str]:
    """Those of ``paths`` that a snapshot has, and, where they are directories here, has more than directories in."""
    entries = manifest.by_path()
    held = []
    for path in paths:
        key = os.fsencode(path).strip(b"/")
        if key in entries and not os.path.isdir(path):
            held.append(path)
        elif key in entries and any(name.startswith(key + b"/") and entry.type != DIRECTORY for name, entry in entries.items()):
            held.append(path)
    return held


def _key_files_missing(policy: Policy) -> List[str]:
    """Those paths of ``guards.require`` that lie in a source and are not here. Others no restore brings back."""
    inside = [path for path in policy.guards.require if any(path.startswith(source.rstrip("/") + "/") for source in policy.sources)]
    return [path for path in inside if not os.path.lexists(path)]


def _empty_sources(policy: Policy) -> List[str]:
    """The sources that are not here, or in which there is nothing, directories aside, that a run would take."""
    matcher = policy.selection.matcher()
    sources = sorted(os.fsencode(source).strip(b"/") for source in policy.sources)
    return [source for source in policy.sources if not _holds_anything(os.fsencode(source).strip(b"/"), matcher, sources)]


def _holds_anything(source: bytes, matcher: Matcher, sources: Sequence[bytes]) -> bool:
    top = b"/" + source
    if os.path.lexists(top) and not os.path.isdir(top):
        return True
    for folder, directories, names in os.walk(top):
        at = folder.strip(b"/")
        directories[:] = [name for name in directories if selects(matcher, sources, _join(at, name), True)]
        if any(selects(matcher, sources, _join(at, name), False) for name in names):
            return True
    return False


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name
