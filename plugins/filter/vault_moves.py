# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts would move to other vaults."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping

from ..plugin_utils import placement

DOCUMENTATION = r"""
name: vault_moves
short_description: The hosts that would move where a vault comes or goes
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Compares where the hosts of the group C(backup_clients) lie with the vaults of today and with others. Nothing is done.
  - Hosts whose vault was chosen by hand do not move; leave them out with C(rejectattr).
options:
  _input:
    description: The groups of the inventory, C(groups).
    type: dict
    required: true
  after:
    description: The names of all vaults that there would be.
    type: list
    elements: str
    required: true
positional: after
"""

EXAMPLES = r"""
- name: Show who would move to a third vault
  ansible.builtin.debug:
    msg: "{{ groups | openclaw.backup.vault_moves(groups['backup_vaults'] + ['vault3']) }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: One mapping for each host that would move, by name.
  type: list
  elements: dict
  sample:
    - host: web7
      before: vault1
      after: vault3
"""


def vault_moves(groups: Mapping[Any, Iterable[Any]], after: Iterable[Any]) -> List[Dict[str, str]]:
    """``{host, before, after}`` of each host that would move; the empty text is no vault."""
    hosts, before = ([str(name) for name in groups.get(group, ())] for group in ("backup_clients", "backup_vaults"))
    found = placement.moves(hosts, before, [str(name) for name in after])
    return [{"host": move.host, "before": "".join(move.before), "after": "".join(move.after)} for move in found]


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"vault_moves": vault_moves}
