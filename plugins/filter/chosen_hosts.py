# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts that a play is about, as a pattern that is known to match."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Mapping

from ansible.errors import AnsibleFilterError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.parsing.dataloader import DataLoader

from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: chosen_hosts
short_description: The pattern of the hosts that a play is about
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Gives back a pattern of hosts where each of its parts matches a host of the inventory, and is an error where one does not.
  - Ansible itself ends successfully where a play's pattern matches nothing, having done nothing.
options:
  _input:
    description: The groups of the inventory, C(groups).
    type: dict
    required: true
  pattern:
    description:
      - The pattern, as in C(hosts) of a play.
      - Where it is empty, the group C(backup_clients) is meant, and all hosts where there is no such group.
    type: str
    default: ""
positional: pattern
"""

EXAMPLES = r"""
- name: Name the hosts of a pattern that must match
  hosts: "{{ groups | openclaw.backup.chosen_hosts(my_hosts) }}"
  gather_facts: false
  tasks:
    - name: Name the host
      ansible.builtin.debug:
        var: inventory_hostname
"""

RETURN = r"""
_value:
  description: The pattern.
  type: str
  sample: web*:!web7
"""


def chosen_hosts(groups: Mapping[Any, Iterable[Any]], pattern: Any = "") -> str:
    """``pattern``, or what is meant without one."""
    wish = plain(pattern) or ""
    if isinstance(wish, list):
        wish = ",".join(map(str, wish))
    if not wish:
        return "backup_clients" if "backup_clients" in groups else "all"
    if not any(groups.values()):
        return str(wish)  # without any inventory, as where only the syntax is checked; Ansible tells of that itself
    inventory = InventoryManager(DataLoader(), parse=False)
    for group, hosts in groups.items():
        inventory.add_group(str(group))
        for host in hosts:
            inventory.add_host(str(host), group=str(group))
    for part in split_host_pattern(str(wish)):
        if not inventory.get_hosts(part.lstrip("!&")):
            known = ", ".join(sorted(str(group) for group in groups if group != "ungrouped"))
            raise AnsibleFilterError(
                "openclaw_backup_hosts: %s matches no host of the inventory. Allowed: names and patterns of its hosts and groups (%s). "
                "Next: correct it, or see what there is with ansible-inventory --graph." % (part, known)
            )
    return str(wish)


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"chosen_hosts": chosen_hosts}
