# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By which objectives a copy is judged."""

from __future__ import annotations

from typing import Any, Callable, Dict

from ansible.errors import AnsibleFilterError

from ..module_utils.errors import PolicyError
from ..module_utils.policy.durations import format_duration, parse_duration
from ..module_utils.policy.schedule import check_cron, longest_gap
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: copy_objectives
short_description: By which objectives a copy is judged
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - A copy is older than what it was made of. The C(rpo) by which it is judged is longer by twice the longest time between two replications, so that one
    that failed is made up for before anybody is told.
options:
  _input:
    description: The C(objectives) of a policy.
    type: dict
    required: true
  cron:
    description: When snapshots are replicated.
    type: str
    required: true
positional: cron
"""

EXAMPLES = r"""
- name: Show how old a copy may be
  ansible.builtin.debug:
    msg: "{{ ({'rpo': '15m'} | openclaw.backup.copy_objectives('29 * * * *')).rpo }}"
"""

RETURN = r"""
_value:
  description: The objectives; without an C(rpo) they are as they were.
  type: dict
  sample:
    rpo: 2h15m
    drill_every: 7d
"""


def copy_objectives(objectives: Any, cron: Any) -> Dict[str, Any]:
    """``objectives`` with another ``rpo``. ``AnsibleFilterError`` for what is none; an ``rpo`` of ``0s`` judges nobody."""
    found: Dict[str, Any] = dict(plain(objectives))
    try:
        rpo = parse_duration(found.get("rpo", "0s"), "objectives.rpo")
        slack = 2 * longest_gap(check_cron(plain(cron), "cron"))
    except PolicyError as error:
        raise AnsibleFilterError(str(error)) from error
    return {**found, "rpo": format_duration(rpo + slack)} if rpo else found


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"copy_objectives": copy_objectives}
