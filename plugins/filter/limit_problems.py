# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the limits of a vault, before any host is touched."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..module_utils.agent.keeper import read_limits
from ..module_utils.errors import UsageError
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: limit_problems
short_description: What is wrong with the limits of a vault
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Checks them as the vault does whenever a host connects.
options:
  _input:
    description: The limits.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse limits that the vault would refuse
  ansible.builtin.assert:
    that: openclaw_backup_vault_limits | openclaw.backup.limit_problems == []
"""

RETURN = r"""
_value:
  description: One text where something is wrong, else empty.
  type: list
  elements: str
  sample:
    - "limits.writers is 0. Allowed: a whole number from 1 to 1099511627776."
"""


def limit_problems(limits: Any) -> List[str]:
    """What ``read_limits`` says, without the name of its file."""
    try:
        read_limits(plain(limits))
    except UsageError as error:
        return ["%s is %r. Allowed: %s." % (error.field, error.found, error.allowed)]
    return []


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"limit_problems": limit_problems}
