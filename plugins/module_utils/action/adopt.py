# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Adopt: go on from the newest snapshot of a history that this host has no baseline for."""

from __future__ import annotations

import time
from typing import Any, Dict

from ..errors import IntegrityError, RefusedError
from ..observe.audit import rfc3339
from ..policy.model import Policy
from .locate import check_not_lost, open_target
from .state import HostState


def adopt(policy: Policy, *, state_directory: str, dry_run: bool = False) -> Dict[str, Any]:
    """Make the newest snapshot this host's baseline. Keys: ``changed``, ``snapshot_id``, ``previous`` (the baseline before, or None)."""
    state = HostState(state_directory, policy)
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    if target.has_one_version:
        target.list()  # which looks at what an unfinished run left
    newest = target.latest()
    if newest is None:
        check_not_lost(policy, state, ())
        raise RefusedError(
            "There is no history of host %s, policy %s to adopt" % (policy.host, policy.name),
            kind="no_snapshot",
            field="target",
            found=policy.target.url,
            next="check the target, host and name; a new history begins with `openclaw-backup run POLICY`",
        )
    before = state.baseline()
    changed = before is None or before.id != newest.id or state.unfinished() is not None
    if changed and not dry_run:
        try:
            manifest = target.manifest(newest)
        except IntegrityError as error:
            error.next = "; ".join(filter(None, (error.next, "or go on without it and send everything with `openclaw-backup run POLICY --adopt`")))
            raise
        state.prepare()
        with state.locked():
            target.settle()
            state.set_baseline(newest.receipt, manifest)
            if target.has_one_version:
                state.forget_attempts()
            state.set_unfinished(None)
            now = rfc3339(time.time())
            run = {
                "finished": now,
                "verb": "adopt",
                "policy": policy.name,
                "host": policy.host,
                "target": policy.target.url,
                "result": "ok",
                "rc": 0,
                "snapshot_id": newest.id,
            }
            state.record(run, {"event": "adopt", "snapshot": newest.id, "previous": before.id if before else None})
    return {"changed": changed, "snapshot_id": newest.id, "previous": before.id if before else None, "rc": 0}
