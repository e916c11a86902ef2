# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies with what the inventory knows and they leave out."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional

from ..plugin_utils.values import plain
from .ingest_account import ingest_account

DOCUMENTATION = r"""
name: fill_policies
short_description: Policies with the host and the vault that they leave out
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - A policy without C(host) gets the name of the host, one without C(target) the host's account on the vault.
  - What is not right stays as it is, for P(openclaw.backup.policy_problems#filter) to tell.
options:
  _input:
    description: The policies.
    type: list
    elements: dict
    required: true
  host:
    description: The name of the host.
    type: str
    required: true
  vault:
    description:
      - The name of the vault.
      - Without one, a policy without C(target) stays without.
    type: str
  variables:
    description: The variables of the vault; C(openclaw_backup_vault_address), else C(ansible_host), and C(openclaw_backup_vault_port) say where it is.
    type: dict
    default: {}
  directory:
    description: The directory of the host that has the key and what it knows of vaults.
    type: path
    default: /etc/openclaw-backup
positional: host
"""

EXAMPLES = r"""
- name: Show where this host sends its snapshots
  ansible.builtin.debug:
    msg: "{{ openclaw_backup_policies | openclaw.backup.fill_policies(inventory_hostname, vault='vault1', variables=hostvars['vault1']) }}"
"""

RETURN = r"""
_value:
  description: The policies.
  type: list
  elements: dict
  sample:
    - host: web1
      name: etc
      sources: [/etc]
      target:
        url: "ssh://ocb-web1-3f1b2c@vault1.example.org:22/"
        identity_file: /etc/openclaw-backup/ssh/id_ed25519
        known_hosts_file: /etc/openclaw-backup/ssh/known_hosts
"""


def fill_policies(
    policies: Any, host: str, vault: Optional[str] = None, variables: Optional[Mapping[str, Any]] = None, directory: str = "/etc/openclaw-backup"
) -> Any:
    """``policies``, each mapping among them with ``host`` and ``target``."""
    found = plain(policies)
    if not isinstance(found, list):
        return found
    filled: Dict[str, Any] = {"host": str(host)}
    if vault:
        filled["target"] = _target(str(host), str(vault), variables or {}, str(directory))
    return [{**filled, **policy} if isinstance(policy, dict) else policy for policy in found]


def _target(host: str, vault: str, variables: Mapping[str, Any], directory: str) -> Dict[str, str]:
    address = str(variables.get("openclaw_backup_vault_address") or variables.get("ansible_host") or vault)
    where = "[%s]" % address if ":" in address else address
    return {
        "url": "ssh://%s@%s:%s/" % (ingest_account(host), where, variables.get("openclaw_backup_vault_port") or 22),
        "identity_file": directory + "/ssh/id_ed25519",
        "known_hosts_file": directory + "/ssh/known_hosts",
    }


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"fill_policies": fill_policies}
