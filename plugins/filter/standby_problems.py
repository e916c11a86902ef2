# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a machine cannot stand in for a host that is lost."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

from ..plugin_utils.standby import problems
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: standby_problems
short_description: Why a machine cannot stand in for a host that is lost
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Checks C(openclaw_backup_drill_standby), and the scratch of that machine, which must not lie in what it backs up itself, nor in a vault.
options:
  _input:
    description: The name of the machine in the inventory; empty for none.
    type: str
    required: true
  scenario:
    description: What is rehearsed.
    type: str
    required: true
  host:
    description: The name of the host that is lost.
    type: str
    required: true
  vault:
    description: The name of its vault.
    type: str
    required: true
  scratch:
    description: The directory of the machine in which another is made for the drill.
    type: str
    required: true
  variables:
    description: The variables of all hosts by name, C(hostvars).
    type: dict
    required: true
positional: scenario, host, vault, scratch, variables
"""

EXAMPLES = r"""
- name: Refuse a machine that cannot stand in
  ansible.builtin.assert:
    that: "'spare1' | openclaw.backup.standby_problems('lost-host', 'web1', 'vault1', '/var/tmp', hostvars) == []"
"""

RETURN = r"""
_value:
  description: One text for each reason; empty if there is none.
  type: list
  elements: str
  sample:
    - "openclaw_backup_drill_standby is 'web1', the host that is rehearsed to be lost. Next: name another machine, or leave this host out with --limit."
"""

_USED = ("openclaw_backup_policies", "openclaw_backup_vault_directory", "group_names")


def standby_problems(standby: Any, scenario: Any, host: Any, vault: Any, scratch: Any, variables: Mapping[Any, Any]) -> List[str]:
    """One text for each reason."""
    name = str(standby or "")
    # Of the others the names alone count: to resolve all that they have would take long, and may not be possible.
    found: Dict[str, Dict[str, Any]] = {str(other): {} for other in variables}
    if name in found:
        found[name] = {key: plain(variables[name][key]) for key in _USED if key in variables[name]}
    return problems(name, str(scenario), str(host), str(vault), str(scratch), found)


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"standby_problems": standby_problems}
