# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook passes on of every host."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Sequence

from ..plugin_utils.outcomes import outcomes

DOCUMENTATION = r"""
name: fleet_results
short_description: What a playbook of this collection passes on of every host
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - The results of the playbook's tasks, by host, playbook and policy, as docs/playbooks.md explains them.
  - A host of which there is no result is there with none.
extends_documentation_fragment:
  - openclaw.backup.fleet
  - openclaw.backup.fleet.verb
positional: variables, verb
"""

EXAMPLES = r"""
- name: Pass on the results
  ansible.builtin.set_stats:
    data: "{{ {'openclaw_backup': ansible_play_hosts_all | openclaw.backup.fleet_results(hostvars, 'backup')} }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The results, by host, playbook and policy.
  type: dict
  sample:
    web1:
      backup:
        etc: {changed: true, failed: false, snapshot_id: 20261120T091500.123Z-9f1c3e1f}
"""


def fleet_results(hosts: Sequence[Any], variables: Mapping[Any, Any], verb: str) -> Dict[str, Dict[str, Any]]:
    """The results of all ``hosts``."""
    return {host: {str(verb): outcome.results} for host, outcome in outcomes(hosts, variables, str(verb)).items()}


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"fleet_results": fleet_results}
