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
from ..manifest.selection import selects
from ..observe.progress import Progress
from ..policy.model import Policy
from ..target.contract import Snapshot
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
    """What the decision goes by: whether a restore was begun and not finished; whether the sources hold nothing; which of their key files are missing
    here and in the newest snapshot; the newest snapshot of the target and the baseline, by their ids; whether the newest is known here all the same, as an
    attempt whose answer was lost, or one that the target went back to."""

    is_unfinished: bool = False
    is_empty: bool = False
    missing: Sequence[str] = ()
    newest: Optional[str] = None
    baseline: Optional[str] = None
    is_own: bool = False


def reason_to_restore(found: Situation) -> Optional[str]:
    """Why a restore is needed, in this order; None where none is.

    ``unfinished``: one was broken off. ``empty``: there is a history, and here is nothing. ``missing``: key files are gone. ``unknown``: there is a history
    of which this machine knows nothing. ``newer``: another machine went on from what this one knows.
    """
    if found.is_unfinished:
        return UNFINISHED
    if found.newest is None:
        return None
    if found.is_empty:
        return EMPTY
    if found.missing:
        return MISSING
    if found.is_own or found.newest == found.baseline:
        return None
    return UNKNOWN if found.baseline is None else NEWER


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

    What is replaced is kept in ``undo``, or in the state. Raises ``BackupError``: of the restore; or ``RefusedError`` (kind ``writer``) where another
    machine went on from what this one knows, and this one has changes of its own.
    """
    progress = progress or Progress()
    state = HostState(state_directory, policy)
    found, newest, trouble = _look(policy, state)
    reason = reason_to_restore(found)
    if reason is None and newest is None and found.baseline is not None and trouble is None:
        receipt = state.baseline()
        assert receipt is not None
        raise history_lost(policy, receipt)
    if trouble is not None and reason is None:
        if found.baseline is None or found.is_empty or found.missing:
            reason = EMPTY if found.is_empty else MISSING if found.missing else UNKNOWN  # a copy may have it, and else says so
        else:
            told = "whether another machine went on from here is not known: %s" % trouble.message
            return NeededResult(snapshot_id=found.baseline, warnings=[told])
    if reason is None:
        return NeededResult(snapshot_id=found.baseline or found.newest or "")
    if reason == NEWER:
        backup(policy, state_directory=state_directory, dry_run=True)  # is refused where something changed here
    before = state.unfinished()
    keep = undo or (before.undo if before else None) or os.path.join(os.fsdecode(state.directory), "replaced", time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    # What is as it was when the other machine went on is made what that one made of it.
    wish = RestoreRequest(delete=reason == NEWER, undo=keep)
    if before is not None:
        wish = replace(wish, snapshot=before.snapshot, delete=before.delete)
    progress.note("a restore is needed (%s): snapshot %s" % (reason, wish.snapshot if newest is None else wish.snapshot.replace("latest", newest.id)))
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
        raise failure
    return done


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass  # it is not there, or holds what an earlier one replaced


def _look(policy: Policy, state: HostState) -> Tuple[Situation, Optional[Snapshot], Optional[BackupError]]:
    """The situation, the newest snapshot, and why the target could not be looked at."""
    baseline = state.baseline()
    try:
        policy, _warnings = with_sources(policy, state)
        is_empty = not _holds_anything(policy)
    except RefusedError:  # the profile finds nothing
        is_empty = True
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    found = Situation(
        is_unfinished=state.unfinished() is not None,
        is_empty=is_empty,
        missing=[] if is_empty else _key_files_missing(policy),
        baseline=baseline.id if baseline else None,
    )
    try:
        newest = target.latest()
        missing = found.missing
        if missing and newest is not None:
            held = target.manifest(newest).by_path()
            missing = [path for path in missing if os.fsencode(path).strip(b"/") in held]
    except TargetError as error:
        return found, None, error
    if newest is None:
        return found, None, None
    pending = state.pending()
    is_own = (pending is not None and newest.receipt.tx == pending.tx) or newest.id in state.known_ids()
    return found._replace(missing=missing, newest=newest.id, is_own=is_own), newest, None


def _key_files_missing(policy: Policy) -> List[str]:
    """Sources, and those paths of ``guards.require`` that lie in a source, which are not here. Others no restore brings back."""
    inside = [path for path in policy.guards.require if any(path.startswith(source.rstrip("/") + "/") for source in policy.sources)]
    return [path for path in (*policy.sources, *inside) if not os.path.lexists(path)]


def _holds_anything(policy: Policy) -> bool:
    """Whether there is anything in the sources, directories aside, that a run would take."""
    matcher = policy.selection.matcher()
    sources = sorted(os.fsencode(source).strip(b"/") for source in policy.sources)
    for source in sources:
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
