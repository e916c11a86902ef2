# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rekey: seal a whole history with the policy's key, so that the old ones are needed for nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from ..errors import UsageError
from ..observe.progress import Progress
from ..policy.model import Policy
from .choose import no_snapshot
from .locate import check_not_lost, name_of, open_target
from .prune import damage_of, record, rewritten
from .result import Result
from .state import HostState


@dataclass
class RekeyResult(Result):
    """What a rekey did, or in check mode would do.

    ``key``: the id of the policy's key; ``keys``: the ids of those that seal what snapshots need, ``key`` first where it is one of them; ``packs``,
    ``snapshots`` and ``states``: how many were written anew; ``bytes_read`` and ``bytes_written`` of packs; ``damaged``: ``{id, paths}`` of what could not
    be proven and was left as it is; ``requests``: what was asked of a bucket (``Requests``), None elsewhere; ``duration`` in seconds.
    """

    key: str
    changed: bool = False
    keys: List[str] = field(default_factory=list)
    packs: int = 0
    snapshots: int = 0
    states: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    damaged: List[Dict[str, Any]] = field(default_factory=list)
    requests: Optional[Dict[str, int]] = None
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0


def rekey(policy: Policy, *, state_directory: str, dry_run: bool = False, progress: Optional[Progress] = None) -> RekeyResult:
    """Seal with the policy's key what the history needs and one of its ``old_key_files`` seals. Raises ``BackupError``.

    Repeated, it goes on from where it was: what was written anew is not written again."""
    from ..target.pack.target import PackTarget

    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources).sealed
    if not isinstance(target, PackTarget):
        raise UsageError(
            "%s is not sealed" % policy.target.url,
            kind="unsupported",
            field="target.layout",
            found=str(policy.target.layout),
            allowed="layout pack, or a layout for each path with pack among them",
            next="a key is what sealed packs have; other vaults have none to change",
        )
    progress = progress or Progress()
    started = time.time()
    state = HostState(state_directory, policy)
    result = RekeyResult(target.key_id)
    snapshots = target.list()
    if not snapshots:
        check_not_lost(policy, state, ())
        raise no_snapshot(name_of(policy))
    try:
        if dry_run:
            done = target.sealed_otherwise()
        else:
            progress.stage("rekey")
            state.prepare()
            # A run of this host may have begun with the old key; the next one has the new one, and need not wait for the whole rekey.
            done = target.rekey(tell=progress.advance, at_rest=state.locked)
            target.sweep()
    finally:
        progress.finish()
    if not dry_run and snapshots[0].copied:
        progress.note("copies come here: one that is on its way may still bring what an old key seals; keep these until status, a day from now, names none")
    told = rewritten(done)
    result.changed = bool(done.packs or done.snapshots or done.states)
    result.keys = target.keys()
    result.packs, result.snapshots, result.states = done.packs, done.snapshots, done.states
    result.bytes_read, result.bytes_written, result.damaged = done.read, done.written, told["damaged"]
    result.warnings = damage_of(done)
    if not dry_run and set(result.keys) - {result.key}:
        result.warnings.append("the old keys are still needed (%s): keep them listed, and do this again" % ", ".join(result.keys))
    if target.requests is not None:
        result.requests = target.requests._asdict()
    result.duration = time.time() - started
    if not dry_run:
        event = {"event": "rekey", "key": result.key, "keys": result.keys, "snapshots": result.snapshots, "packs": result.packs}
        if done.damaged:
            state.ask_soon()  # what the newest snapshot has lost is sent again by the next run
        record(policy, state, {"verb": "rekey", "key": result.key, "keys": result.keys, **told}, event)
    return result
