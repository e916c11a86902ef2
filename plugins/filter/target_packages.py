# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages that the targets of policies need on a host."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..module_utils.errors import PolicyError
from ..module_utils.policy.model import Policy
from ..plugin_utils.values import UNSEEN, plain

DOCUMENTATION = r"""
name: target_packages
short_description: The packages that backup policies need beside the program's own
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Sealed packs need libraries for their encryption, buckets need one that speaks to them, plain vaults need none.
options:
  _input:
    description: The policies. What is wrong with one is not told here.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Install what the targets need
  ansible.builtin.package:
    name: "{{ openclaw_backup_policies | openclaw.backup.target_packages }}"
"""

RETURN = r"""
_value:
  description: The packages by their names in Debian.
  type: list
  elements: str
  sample: [python3-boto3, python3-cryptography, python3-zstandard]
"""

_SEALED = ("python3-cryptography", "python3-zstandard")
_BUCKET = ("python3-boto3",)


def target_packages(policies: Any) -> List[str]:
    """Debian's packages for the targets, and the copies, of ``policies``."""
    found = set()
    for item in plain(policies):
        try:
            policy = Policy.from_mapping(item, default_host="host", find=lambda name: UNSEEN)
        except PolicyError:
            continue
        for target in (policy.target, *policy.copies):
            if "pack" in target.layouts:
                found.update(_SEALED)
            if target.scheme == "s3":
                found.update(_BUCKET)
    return sorted(found)


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"target_packages": target_packages}
