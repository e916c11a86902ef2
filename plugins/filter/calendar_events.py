# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a systemd timer starts what has a policy's schedule."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..module_utils.policy.schedule import calendar_events as events_of
from ..module_utils.policy.schedule import check_cron
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: calendar_events
short_description: A cron expression as systemd writes it
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - The values of C(OnCalendar) of a timer that starts at the same minutes as cron does.
  - Two where day of the month and weekday are both restricted, because cron starts on either.
options:
  _input:
    description: The expression, as C(schedule.cron) of a policy has it.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show when a timer would start
  ansible.builtin.debug:
    msg: "{{ '*/20 3 * * mon-fri' | openclaw.backup.calendar_events }}"
"""

RETURN = r"""
_value:
  description: One or two calendar events.
  type: list
  elements: str
  sample:
    - "Mon,Tue,Wed,Thu,Fri *-*-* 03:00,20,40:00"
"""


def calendar_events(expression: Any) -> List[str]:
    """What ``schedule.calendar_events`` says. Raises ``PolicyError`` for what is no cron expression."""
    return list(events_of(check_cron(plain(expression), "schedule.cron")))


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"calendar_events": calendar_events}
