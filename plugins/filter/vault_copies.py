# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which vault copies what from which."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping

from ..plugin_utils.fleet import wishes

DOCUMENTATION = r"""
name: vault_copies
short_description: Which vault copies what from which
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Tells of each host of the group C(backup_clients) from which vault its snapshots are copied, and to which.
extends_documentation_fragment:
  - openclaw.backup.fleet.copies
positional: variables
"""

EXAMPLES = r"""
- name: Show what vault2 copies
  ansible.builtin.debug:
    msg: "{{ groups | openclaw.backup.vault_copies(hostvars) | selectattr('to', 'equalto', 'vault2') }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: One mapping for each copy, by the host's name. A host whose snapshots lie on one vault has none.
  type: list
  elements: dict
  sample:
    - host: web7
      from: vault1
      to: vault2
"""


def vault_copies(groups: Mapping[Any, Iterable[Any]], variables: Mapping[Any, Any]) -> List[Dict[str, str]]:
    """``{host, from, to}`` of each copy."""
    return [{"host": wish.host, "from": wish.vaults[0], "to": vault} for wish in wishes(groups, variables) for vault in wish.vaults[1:]]


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"vault_copies": vault_copies}
