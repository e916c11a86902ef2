# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a drill of a policy looks for, on a machine that has not the policy's profile."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from ..module_utils.policy.checks import write
from ..module_utils.policy.probes import Probe
from ..module_utils.policy.profiles import PROFILES
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: drill_probes
short_description: The probes of a policy and of its profile
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - What a vault is told, so that a drill there looks for what a drill on the host would look for.
  - Those of a profile that only the host has, which the policy names by its path, are not among them.
options:
  _input:
    description: The policy; P(openclaw.backup.policy_problems#filter) must find nothing wrong with it.
    type: dict
    required: true
  profiles:
    description: Profiles of one's own by name, C(openclaw_backup_profiles).
    type: dict
    default: {}
positional: profiles
"""

EXAMPLES = r"""
- name: Show what a drill looks for
  ansible.builtin.debug:
    msg: "{{ openclaw_backup_policies[0] | openclaw.backup.drill_probes(openclaw_backup_profiles) }}"
"""

RETURN = r"""
_value:
  description: The probes, as a policy has them.
  type: list
  elements: raw
  sample:
    - {sqlite: "*.sqlite", optional: true}
"""


def drill_probes(policy: Any, profiles: Any = None) -> List[Any]:
    """The probes of the policy first, then those of its profile."""
    found = plain(policy)
    name: Optional[str] = found.get("profile")
    own = plain(profiles) or {}
    of_profile: List[Any] = []
    if name in own:
        of_profile = own[name].get("probes") or []
    elif name in PROFILES:
        of_profile = [_mapping(probe) for probe in PROFILES[name].probes]
    return [*(found.get("probes") or []), *of_profile]


def _mapping(probe: Probe) -> Dict[str, Any]:
    return {name: value for name, value in write(probe).items() if getattr(probe, name) != getattr(Probe, name)}


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"drill_probes": drill_probes}
