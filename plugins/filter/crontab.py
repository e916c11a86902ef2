# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When cron starts the runs of a host."""

from __future__ import annotations

import shlex
from typing import Any, Callable, Dict, List

from ..module_utils.policy.model import Policy
from ..plugin_utils.values import UNSEEN, plain

DOCUMENTATION = r"""
name: crontab
short_description: The lines of a crontab that run policies
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Two lines for each policy, for a file in C(/etc/cron.d), one as its C(schedule) says and one for when the host starts.
  - The command is one that does nothing where no run is due, as C(openclaw-backup run --scheduled) does.
  - A third one for a policy with C(schedule.watch), which every five minutes starts what is to run all the time, and one for a policy that is drilled.
options:
  _input:
    description: The policies, each with C(host); P(openclaw.backup.policy_problems#filter) must find nothing wrong with them.
    type: list
    elements: dict
    required: true
  command:
    description: The command that runs a policy, to which the policy's name or path is added.
    type: list
    elements: str
    required: true
  user:
    description: Who runs it.
    type: str
    default: root
  directory:
    description: Where the policies' files are; without it policies are named by their names.
    type: path
  watch:
    description:
      - The command that watches a policy's files, to which the policy's name or path is added.
      - It does nothing where it runs already, as C(openclaw-backup watch) does.
      - Without it nothing is watched.
    type: list
    elements: str
  drill:
    description:
      - The command that drills a policy, to which the policy's name or path is added.
      - It does nothing where no drill is due, as C(openclaw-backup drill --scheduled) does.
    type: list
    elements: str
  drills:
    description: Of the policies that are drilled, by name, when cron starts that.
    type: dict
    default: {}
positional: command
"""

EXAMPLES = r"""
- name: Run the policies as their schedules say
  ansible.builtin.copy:
    content: "{{ openclaw_backup_policies | openclaw.backup.crontab(['/usr/local/bin/openclaw-backup', 'run', '--scheduled', '--quiet']) | join('\n') }}\n"
    dest: /etc/cron.d/openclaw-backup
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
  sample:
    - "*/5 * * * * root /usr/local/bin/openclaw-backup run --scheduled --quiet etc"
    - "@reboot root /usr/local/bin/openclaw-backup run --scheduled --quiet etc"
"""


def crontab(policies: Any, command: Any, user: str = "root", directory: str = "", watch: Any = None, drill: Any = None, drills: Any = None) -> List[str]:
    """Two lines for each policy, one more for each that is watched or drilled. Raises ``PolicyError`` for one that is not right."""
    lines = []
    times = plain(drills) or {}
    for item in plain(policies):
        policy = Policy.from_mapping(item, default_host="localhost", find=lambda name: UNSEEN)
        word = "%s/%s.json" % (directory, policy.name) if directory else policy.name
        call = _call([*plain(command), word])
        # At boot too: a run that was missed is made up for, and else there is nothing to do.
        lines += ["%s %s %s" % (policy.schedule.cron, user, call), "@reboot %s %s" % (user, call)]
        if watch and policy.schedule.watch:
            lines.append("*/5 * * * * %s %s" % (user, _call([*plain(watch), word])))
        if drill and policy.name in times:
            lines.append("%s %s %s" % (times[policy.name], user, _call([*plain(drill), word])))
    return lines


def _call(words: List[str]) -> str:
    # cron takes a bare '%' for the end of the line.
    return " ".join(map(shlex.quote, words)).replace("%", "\\%")


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"crontab": crontab}
