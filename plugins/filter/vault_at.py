# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which vault of the inventory a URL leads to."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Mapping

from ..module_utils.errors import PolicyError
from ..plugin_utils.fleet import place_of

DOCUMENTATION = r"""
name: vault_at
short_description: Which vault of the inventory a URL leads to
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - A host's own file says where its snapshots have gone, and whoever has taken the host over can write there what he likes. So it is believed only where it
    leads to a vault that the inventory knows.
  - Vaults are the hosts of the group C(backup_vaults), those that C(openclaw_backup_vault) names, and machines that are no hosts of C(backup_clients).
options:
  _input:
    description: The URL, as it stands in a policy.
    type: str
    required: true
  groups:
    description: The groups of the inventory, C(groups).
    type: dict
    required: true
  variables:
    description: The variables of all hosts by name, C(hostvars).
    type: dict
    required: true
positional: groups, variables
"""

EXAMPLES = r"""
- name: Show which vault that is
  ansible.builtin.debug:
    msg: "{{ ('ssh://ocb-web1@vault1.example.org:22/' | openclaw.backup.vault_at(groups, hostvars)).vault }}"
"""

RETURN = r"""
_value:
  description:
    - C(vault), its name in the inventory; C(where) as in a URL, and C(known_as) as in ssh's known_hosts.
    - Where it leads to none these three are empty, and C(problem) says why.
  type: dict
  sample:
    vault: vault1
    where: vault1.example.org:22
    known_as: vault1.example.org
    problem: ""
"""


def vault_at(url: Any, groups: Mapping[Any, Iterable[Any]], variables: Mapping[Any, Any]) -> Dict[str, str]:
    """``{vault, where, known_as, problem}`` of ``url``."""
    try:
        found = place_of(url, groups, variables)
    except PolicyError as error:
        return {"vault": "", "where": "", "known_as": "", "problem": str(error)}
    return {"vault": found.vault, "where": found.address.where, "known_as": found.address.known_as, "problem": ""}


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"vault_at": vault_at}
