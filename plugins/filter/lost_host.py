# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What another machine needs to stand in for a host that is lost."""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence

from ..plugin_utils.standby import outfit
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: lost_host
short_description: What another machine needs to stand in for a host that is lost
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Everything comes from the inventory and from the escrow that the role P(openclaw.backup.client#role) keeps; the host itself is asked for nothing.
options:
  _input:
    description: Policies of the host, as P(openclaw.backup.fill_policies#filter) has filled them.
    type: list
    elements: dict
    required: true
  directory:
    description: The directory of the other machine that receives all of it.
    type: path
    required: true
  escrow:
    description: The directory of the controller that keeps what the host had; empty where nothing is kept.
    type: str
    required: true
  vaulted:
    description: The names of the policies that name no target.
    type: list
    elements: str
    required: true
  profiles:
    description: Profiles of one's own by name, C(openclaw_backup_profiles).
    type: dict
    default: {}
  secrets:
    description: Files with secrets that policies name, C(openclaw_backup_secrets).
    type: dict
    default: {}
positional: directory, escrow, vaulted, profiles, secrets
"""

EXAMPLES = r"""
- name: Would anybody come back?
  ansible.builtin.assert:
    that: (openclaw_backup_policies | openclaw.backup.lost_host('/var/tmp/spare', '/srv/escrow/web1', ['etc'])).problems == []
"""

RETURN = r"""
_value:
  description:
    - C(policies), those that the other machine can bring back, as they are there; C(files) for its directory, each with a C(path) and either C(content) or
      C(src), a file of the controller; C(problems), one text for each other policy.
  type: dict
  sample:
    policies: []
    files: []
    problems:
      - "policy here: if this host were lost, nobody could read its snapshots: they lie in /srv/vault, on the host itself. Next: ..."
"""


def lost_host(policies: Sequence[Any], directory: str, escrow: str, vaulted: Sequence[str], profiles: Any = None, secrets: Any = None) -> Dict[str, Any]:
    """What the machine gets, and which policies would be lost."""
    known = {"profiles": plain(profiles) or {}, "secrets": plain(secrets) or {}}
    made = outfit(plain(policies), directory=str(directory), escrow=str(escrow), vaulted=plain(vaulted), **known)
    return {"policies": list(made.policies), "files": list(made.files), "problems": list(made.problems)}


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"lost_host": lost_host}
