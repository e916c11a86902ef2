# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of filters that tell of all hosts of a playbook."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  _input:
    description: The names of the hosts.
    type: list
    elements: str
    required: true
  variables:
    description: The variables of all hosts by name, C(hostvars).
    type: dict
    required: true
"""

    VERB = r"""
options:
  verb:
    description: The playbook.
    type: str
    choices: [backup, drill, prune, restore, status, verify]
    required: true
"""

    COPIES = r"""
options:
  _input:
    description: The groups of the inventory, C(groups).
    type: dict
    required: true
  variables:
    description: The variables of all hosts, C(hostvars), of which C(openclaw_backup_copies) and C(openclaw_backup_vault) are looked at.
    type: dict
    required: true
"""
