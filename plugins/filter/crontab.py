# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When cron starts the runs of a host."""

from __future__ import annotations

import hashlib
import shlex
from typing import Any, Callable, Dict, List

from ..module_utils.policy.model import Policy
from ..plugin_utils.values import plain, without_foreign_profile

DOCUMENTATION = r"""
name: crontab
short_description: The lines of a crontab that run policies
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - One line for each policy, as its C(schedule) says, for a file in C(/etc/cron.d).
  - C(schedule.splay) is spread over hosts and policies by a hash of their names, the same one at every run.
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
positional: command
"""

EXAMPLES = r"""
- name: Run the policies as their schedules say
  ansible.builtin.copy:
    content: "{{ openclaw_backup_policies | openclaw.backup.crontab(['/usr/local/bin/openclaw-backup', 'run', '--quiet']) | join('\n') }}\n"
    dest: /etc/cron.d/openclaw-backup
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
  sample:
    - "*/5 * * * * root sleep 37; /usr/local/bin/openclaw-backup run --quiet etc"
"""


def crontab(policies: Any, command: Any, user: str = "root", directory: str = "") -> List[str]:
    """One line for each policy. Raises ``PolicyError`` for one that is not right."""
    lines = []
    for item in plain(policies):
        policy = Policy.from_mapping(without_foreign_profile(item), default_host="localhost")
        wait = splay(policy.host, policy.name, policy.schedule.splay)
        word = "%s/%s.json" % (directory, policy.name) if directory else policy.name
        # cron takes a bare '%' for the end of the line.
        call = " ".join(shlex.quote(part) for part in [*plain(command), word]).replace("%", "\\%")
        lines.append("%s %s %s%s" % (policy.schedule.cron, user, "sleep %d; " % wait if wait else "", call))
    return lines


def splay(host: str, policy: str, most: int) -> int:
    """Seconds from 0 to ``most`` that this host waits with this policy, always the same."""
    digest = hashlib.sha256(("%s/%s" % (host, policy)).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % (most + 1)


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"crontab": crontab}
