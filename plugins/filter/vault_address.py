# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a vault is reached, from its variables."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from ..plugin_utils.fleet import address_of

DOCUMENTATION = r"""
name: vault_address
short_description: Where a vault is reached
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Tells under which name and port hosts and other vaults reach a vault.
options:
  _input:
    description: The name of the vault.
    type: str
    required: true
  variables:
    description: The variables of the vault; C(openclaw_backup_vault_address), else C(ansible_host), and C(openclaw_backup_vault_port) say where it is.
    type: dict
    required: true
positional: variables
"""

EXAMPLES = r"""
- name: Show where vault1 is
  ansible.builtin.debug:
    msg: "{{ ('vault1' | openclaw.backup.vault_address(hostvars['vault1'])).where }}"
"""

RETURN = r"""
_value:
  description: C(where) as in a URL, and C(known_as) as in ssh's known_hosts.
  type: dict
  sample:
    where: vault1.example.org:22
    known_as: vault1.example.org
"""


def vault_address(vault: Any, variables: Mapping[Any, Any]) -> Dict[str, str]:
    """``{where, known_as}`` of ``vault``."""
    found = address_of(str(vault), variables)
    return {"where": found.where, "known_as": found.known_as}


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"vault_address": vault_address}
