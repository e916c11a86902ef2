# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why no snapshot may be brought back in a directory of a machine."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Mapping

from ..plugin_utils.standby import in_production

DOCUMENTATION = r"""
name: scratch_problems
short_description: Why no snapshot may be brought back in a directory of a machine
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Looks whether a directory for drills lies in what the machine itself backs up, or in its vault, or has the vault in it.
options:
  _input:
    description: The directory, an absolute path.
    type: str
    required: true
  host:
    description: The name of the machine.
    type: str
    required: true
  variables:
    description: The variables of the machine.
    type: dict
    required: true
  vault:
    description: The directory of its vault, where that is known otherwise.
    type: str
    default: ""
positional: host, variables, vault
"""

EXAMPLES = r"""
- name: Refuse a directory that is at work
  ansible.builtin.assert:
    that: "'/srv/drills' | openclaw.backup.scratch_problems(inventory_hostname, hostvars[inventory_hostname]) == []"
"""

RETURN = r"""
_value:
  description: One text for each reason; empty if there is none.
  type: list
  elements: str
  sample:
    - which its own policy etc backs up
"""


def scratch_problems(scratch: Any, host: Any, variables: Mapping[str, Any], vault: Any = "") -> List[str]:
    """The reasons against ``scratch``."""
    wish, directory = os.path.normpath(str(scratch)), os.path.normpath(str(vault))
    found = in_production(wish, str(host), variables, str(vault))
    if vault and directory != wish and os.path.commonpath([directory, wish]) == wish:
        found.append("in which the vault %s lies" % directory)
    return found


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"scratch_problems": scratch_problems}
