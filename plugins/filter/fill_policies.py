# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies with what the inventory knows and they leave out."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence

from ..plugin_utils.fleet import address_of
from ..plugin_utils.values import plain
from .ingest_account import ingest_account

DOCUMENTATION = r"""
name: fill_policies
short_description: Policies with the host and the vault that they leave out
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - A policy without C(host) gets the name of the host, one without C(target) the host's account on the vault, and on the vaults that keep its copies.
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
  copies:
    description: The variables of each vault that keeps copies, in the order in which a restore asks them. They come before C(copies) of the policy itself.
    type: list
    elements: dict
    default: []
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
    policies: Any,
    host: str,
    vault: Optional[str] = None,
    variables: Optional[Mapping[str, Any]] = None,
    directory: str = "/etc/openclaw-backup",
    copies: Iterable[Mapping[str, Any]] = (),
) -> Any:
    """``policies``, each mapping among them with ``host`` and ``target``, and ``copies`` where it names no target of its own."""
    found = plain(policies)
    if not isinstance(found, list):
        return found
    filled: Dict[str, Any] = {"host": str(host)}
    if vault:
        filled["target"] = _target(str(host), str(vault), variables or {}, str(directory), "id_ed25519")
    # Reading takes the other key, which a vault lets in for a while.
    others = [_target(str(host), str(item.get("inventory_hostname")), item, str(directory), "id_read_ed25519") for item in copies]
    return [_filled(policy, filled, others) if isinstance(policy, dict) else policy for policy in found]


def _filled(policy: Dict[str, Any], filled: Dict[str, Any], others: Sequence[Dict[str, str]]) -> Dict[str, Any]:
    own = policy.get("copies", [])
    if "target" not in policy and others and isinstance(own, list):
        policy = {**policy, "copies": [*others, *own]}
    return {**filled, **policy}


def _target(host: str, vault: str, variables: Mapping[str, Any], directory: str, key: str) -> Dict[str, str]:
    return {
        "url": "ssh://%s@%s/" % (ingest_account(host), address_of(vault, variables).where),
        "identity_file": "%s/ssh/%s" % (directory, key),
        "known_hosts_file": directory + "/ssh/known_hosts",
    }


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"fill_policies": fill_policies}
