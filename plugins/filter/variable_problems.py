# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables look like misspelt ones of the playbooks."""

from __future__ import annotations

import difflib
from typing import Any, Callable, Dict, Iterable, List

DOCUMENTATION = r"""
name: variable_problems
short_description: Which variables look like misspelt ones of the playbooks
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - A misspelt variable has no effect, so that a restore of one path would become a restore of everything.
options:
  _input:
    description: Names of variables.
    type: list
    elements: str
    required: true
  host:
    description: The host whose variables these are, where the text is to name it.
    type: str
    default: ""
positional: host
notes:
  - Other names are left alone, whatever they begin with.
"""

EXAMPLES = r"""
- name: Refuse misspelt variables
  ansible.builtin.assert:
    that: query('ansible.builtin.varnames', '^openclaw_backup_') | openclaw.backup.variable_problems == []
"""

RETURN = r"""
_value:
  description: One text for each name that is nearly one of the playbooks' variables; empty if all is well.
  type: list
  elements: str
  sample:
    - "openclaw_backup_path is not a variable of the playbooks. Next: did you mean openclaw_backup_paths?"
"""

_PREFIX = "openclaw_backup_"
_KNOWN = (
    "accept adopt become confirm delete depth dest from_host hosts paths policies policy repair serial slice snapshot state_directory undo".split()
    + "asked_by drill drill_budget drill_older_than drill_on drill_scenario drill_standby evidence scratch verify_source".split()
    # The variables of the inventories and roles of this collection.
    + "source vault config_directory packages program profiles client_state schedule cron_file grant_seconds grant_hosts".split()
    + "systemd_directory escrow_directory move move_lost copies secrets".split()
    + "vault_address vault_decommissioned vault_directory vault_drill vault_drill_seconds vault_keeper vault_limits vault_maintenance vault_mount".split()
    + "vault_notify vault_packages vault_port vault_prune vault_replicate vault_replicate_bwlimit vault_replicate_seconds vault_scratch".split()
    + "vault_state vault_storage vault_verify vault_verify_slices vault_watch vault_bucket vault_bucket_at vault_bucket_credentials vault_bucket_key".split()
)
# Of the part behind the prefix, so much must be alike.
_ALIKE = 0.8


def variable_problems(names: Iterable[Any], host: Any = "") -> List[str]:
    """One text for each of ``names`` that is nearly, but not quite, a variable of the playbooks."""
    problems = []
    whose = "%s: " % host if host else ""
    for name in sorted(str(item) for item in names):
        rest = name[len(_PREFIX) :]
        if name.startswith(_PREFIX) and rest not in _KNOWN:
            for meant in difflib.get_close_matches(rest, _KNOWN, 1, _ALIKE):
                problems.append("%s%s is not a variable of the playbooks. Next: did you mean %s%s?" % (whose, name, _PREFIX, meant))
    return problems


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"variable_problems": variable_problems}
