# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vaults of a host, from the inventory's groups."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping

from ..plugin_utils import placement
from ..plugin_utils.fleet import number_of

DOCUMENTATION = r"""
name: vaults_of
short_description: The vaults that a host's snapshots lie on
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Shares out the hosts of the group C(backup_clients) among the vaults of the group C(backup_vaults), by their names alone.
  - Neither the order of the inventory nor what a play is limited to matters; where a vault comes or goes, few hosts move.
  - A host outside of C(backup_clients) is placed by its own name.
options:
  _input:
    description: The host's name in the inventory.
    type: str
    required: true
  groups:
    description: The groups of the inventory, C(groups).
    type: dict
    required: true
  vault:
    description: The vault that was chosen by hand, which comes first. It moves no other host.
    type: str
    default: ""
  copies:
    description: How many vaults there are to be, of which the first is the one that the host sends to.
    type: int
    default: 1
positional: groups
"""

EXAMPLES = r"""
- name: Show where this host sends its snapshots
  ansible.builtin.debug:
    msg: "{{ inventory_hostname | openclaw.backup.vaults_of(groups) | first }}"

- name: Show which hosts lie on which vault
  ansible.builtin.debug:
    msg: "{{ item }}: {{ item | openclaw.backup.vaults_of(groups, vault=hostvars[item].openclaw_backup_vault | default('')) | join }}"
  loop: "{{ groups['backup_clients'] }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The names of the vaults, the host's own first; as many as were asked for, or as there are.
  type: list
  elements: str
  sample: [vault2, vault1]
"""


def vaults_of(host: Any, groups: Mapping[Any, Iterable[Any]], vault: Any = "", copies: Any = 1) -> List[str]:
    """The names of the vaults of ``host``, its own first."""
    wish = number_of(copies)
    hosts, vaults = ([str(name) for name in groups.get(group, ())] for group in ("backup_clients", "backup_vaults"))
    return list(placement.vaults_of(str(host), hosts, vaults, pinned=str(vault or "") or None, copies=wish))


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"vaults_of": vaults_of}
