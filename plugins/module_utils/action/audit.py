# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Audit: are the logs of this host and of the history still what was written?"""

from __future__ import annotations

import os
from typing import Any, Dict

from ..errors import EXIT_DONE, EXIT_INTEGRITY, printable
from ..observe.audit import ChainReport, head, verify_chain
from ..policy.model import Policy
from ..target.tree.target import TreeTarget
from .choose import no_snapshot
from .locate import name_of, open_target
from .state import HostState


def audit(policy: Policy, *, state_directory: str, is_own_history: bool = True) -> Dict[str, Any]:
    """Check the hash chains. Writes nothing. ``is_own_history``: the history is this host's, which may not have begun yet.

    Keys: ``ok``, ``rc`` (0, or 7), ``logs``: for ``host`` and ``vault`` a mapping with ``log``, ``path``, ``ok``, ``records`` (good lines), ``head`` (the
    hash to note down elsewhere), ``first_bad`` (line number or None) and ``reason``. Raises ``BackupError`` where a log cannot be read, and where another
    host has no history to have a log of.
    """
    state = HostState(state_directory, policy)
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    baseline, latest = state.baseline(), target.latest()
    # Another machine's log is checked there, where nobody can show a copy instead.
    vault_log = target.history.audit if isinstance(target, TreeTarget) else None
    if not is_own_history and baseline is None and latest is None and not (vault_log is not None and os.path.lexists(vault_log)):
        raise no_snapshot(name_of(policy))
    gone = "the log is gone, and what it told of is still there"
    if latest is not None:
        lost = gone
    elif baseline is not None:
        lost = "the whole history is gone, and this host committed %s to it: is the vault mounted?" % baseline.id
    else:
        lost = ""
    logs = [_check("host", state.audit, gone if baseline is not None else "")]
    if vault_log is not None:
        logs.append(_check("vault", vault_log, lost))
    ok = all(log["ok"] for log in logs)
    return {"ok": ok, "rc": EXIT_DONE if ok else EXIT_INTEGRITY, "logs": logs}


def _check(name: str, path: bytes, lost: str) -> Dict[str, Any]:
    """``lost``: what it means that no record is left of such a log; empty where there need not be one."""
    report = verify_chain(path)
    if lost and report.ok and not report.records:
        report = ChainReport(False, 0, None, lost)
    return {"log": name, "path": printable(path), **report._asdict(), "head": head(path) if report.ok else None}
