# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What failed on hosts, in words."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Sequence

from ..plugin_utils.outcomes import outcomes

DOCUMENTATION = r"""
name: fleet_problems
short_description: What failed in a playbook of this collection
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - One text for each policy that failed, or one for a host that no policy of was reached.
extends_documentation_fragment:
  - openclaw.backup.fleet
  - openclaw.backup.fleet.verb
positional: variables, verb
"""

EXAMPLES = r"""
- name: Fail where something failed
  ansible.builtin.fail:
    msg: "{{ ansible_play_hosts_all | openclaw.backup.fleet_problems(hostvars, 'backup') | join('\n') }}"
  when: ansible_play_hosts_all | openclaw.backup.fleet_problems(hostvars, 'backup') | length > 0
"""

RETURN = r"""
_value:
  description: The texts; empty where all went well.
  type: list
  elements: str
  sample:
    - "etc: the vault cannot be reached"
"""


def fleet_problems(hosts: Sequence[Any], variables: Mapping[Any, Any], verb: str) -> List[str]:
    """What failed on ``hosts``."""
    return [problem for outcome in outcomes(hosts, variables, str(verb)).values() for problem in outcome.problems]


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"fleet_problems": fleet_problems}
