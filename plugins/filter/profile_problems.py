# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with profiles, before any host is touched."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..module_utils.errors import PolicyError
from ..module_utils.policy.profiles import parse_profile
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: profile_problems
short_description: What is wrong with profiles of backup policies
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Checks profiles on the controller as the program checks their files on a host.
options:
  _input:
    description: The profiles, by name.
    type: dict
    required: true
notes:
  - Whether paths exist is not asked, only a host knows.
"""

EXAMPLES = r"""
- name: Refuse profiles with errors
  ansible.builtin.assert:
    that: openclaw_backup_profiles | openclaw.backup.profile_problems == []
    fail_msg: "{{ openclaw_backup_profiles | openclaw.backup.profile_problems | join('\n') }}"
"""

RETURN = r"""
_value:
  description: One text for each profile with an error; empty if all is well.
  type: list
  elements: str
  sample:
    - "note: profile.sorces is not a key. Allowed: ... Next: did you mean 'profile.sources'."
"""


def profile_problems(profiles: Any) -> List[str]:
    """One text for each profile that ``parse_profile`` refuses."""
    problems = []
    for name, profile in plain(profiles).items():
        try:
            parse_profile(profile)
        except PolicyError as error:
            problems.append("%s: %s" % (name, error))
    return problems


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"profile_problems": profile_problems}
