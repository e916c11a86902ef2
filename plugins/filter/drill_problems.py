# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the wishes of the playbook drill."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..plugin_utils.drills import problems
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: drill_problems
short_description: What is wrong with how drills are to be chosen
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Checks C(openclaw_backup_drill_older_than), C(openclaw_backup_drill_budget) and C(openclaw_backup_drill_scenario).
options:
  _input:
    description: How long ago the last drill must be, such as V(30d); empty for no matter how long.
    type: str
    required: true
  budget:
    description: A mapping with C(time), C(bytes) or both; empty for none.
    type: raw
  scenario:
    description: What is rehearsed; empty for a restore.
    type: str
positional: budget, scenario
"""

EXAMPLES = r"""
- name: Refuse what cannot be read
  ansible.builtin.assert:
    that: openclaw_backup_drill_older_than | openclaw.backup.drill_problems(openclaw_backup_drill_budget) == []
"""

RETURN = r"""
_value:
  description: One text for each that cannot be read; empty if all is well.
  type: list
  elements: str
  sample:
    - "openclaw_backup_drill_budget.bytes is '200 GB'. Allowed: a number of bytes, or one with k, m, g or t (times 1024). Next: write 200g."
"""


def drill_problems(older_than: Any, budget: Any = None, scenario: Any = None) -> List[str]:
    """One text for each that cannot be read, and for those that do not go together."""
    return problems(plain(older_than), plain(budget), plain(scenario))


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"drill_problems": drill_problems}
