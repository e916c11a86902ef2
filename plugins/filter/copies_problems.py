# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts want more copies than there are vaults."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping

from ..plugin_utils.fleet import wishes

DOCUMENTATION = r"""
name: copies_problems
short_description: Which hosts want more copies than there are vaults
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Looks for hosts of the group C(backup_clients) whose snapshots are to lie on more vaults than the inventory has for them.
extends_documentation_fragment:
  - openclaw.backup.fleet.copies
positional: variables
"""

EXAMPLES = r"""
- name: Refuse copies that nobody would keep
  ansible.builtin.assert:
    that: groups | openclaw.backup.copies_problems(hostvars) == []
"""

RETURN = r"""
_value:
  description: One text for each such host; empty if all is well.
  type: list
  elements: str
  sample:
    - "web1 has openclaw_backup_copies 3, and there are 2 vaults for it: vault2, vault1. Next: ..."
"""


def copies_problems(groups: Mapping[Any, Iterable[Any]], variables: Mapping[Any, Any]) -> List[str]:
    """One text for each host that wants too many."""
    return [
        "%s has openclaw_backup_copies %d, and there %s for it: %s. Next: take more hosts into the group backup_vaults, or lower openclaw_backup_copies."
        % (wish.host, wish.copies, "is 1 vault" if len(wish.vaults) == 1 else "are %d vaults" % len(wish.vaults), ", ".join(wish.vaults))
        for wish in wishes(groups, variables)
        if 1 < wish.copies and len(wish.vaults) < wish.copies
    ]


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"copies_problems": copies_problems}
