# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a cron expression, before any host is touched."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..module_utils.errors import PolicyError
from ..module_utils.policy.schedule import check_cron
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: cron_problems
short_description: What is wrong with a cron expression
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Checks it as the C(schedule.cron) of a policy is checked.
options:
  _input:
    description: The expression.
    type: str
    required: true
  name:
    description: The variable that holds it, for the text.
    type: str
    required: true
positional: name
"""

EXAMPLES = r"""
- name: Refuse what cron would refuse
  ansible.builtin.assert:
    that: when_to_prune | openclaw.backup.cron_problems('when_to_prune') == []
"""

RETURN = r"""
_value:
  description: One text where something is wrong, else empty.
  type: list
  elements: str
  sample:
    - "when_to_prune has a bad hour '25'. Allowed: ..."
"""


def cron_problems(expression: Any, name: str) -> List[str]:
    """What ``check_cron`` says."""
    try:
        check_cron(plain(expression), str(name))
    except PolicyError as error:
        return [str(error)]
    return []


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"cron_problems": cron_problems}
