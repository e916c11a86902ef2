# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with policies, before any host is touched."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..module_utils.errors import PolicyError, UsageError
from ..module_utils.policy.model import Policy
from ..module_utils.policy.profiles import PROFILES, Profile, parse_profile, unknown_profile
from ..plugin_utils.values import UNSEEN, plain

DOCUMENTATION = r"""
name: policy_problems
short_description: What is wrong with backup policies
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Checks policies on the controller as the program checks their files on a host.
options:
  _input:
    description: The policies.
    type: list
    elements: dict
    required: true
  host:
    description: The name that stands for O(_input[].host) in policies that have none.
    type: str
    required: true
  profiles:
    description:
      - The profiles that the policies may name besides those of the collection, by name.
      - Without it any name of a profile may be one that the host has.
    type: dict
positional: host, profiles
notes:
  - Of a mirror it also asks whether its sources have places there, and whether snapshots are to be removed, of which it has one.
  - Whether paths exist is not asked, only a host knows; nor is what a profile says that is a file of the host.
"""

EXAMPLES = r"""
- name: Refuse policies with errors
  ansible.builtin.assert:
    that: openclaw_backup_policies | openclaw.backup.policy_problems(inventory_hostname) == []
    fail_msg: "{{ openclaw_backup_policies | openclaw.backup.policy_problems(inventory_hostname) | join('\n') }}"
"""

RETURN = r"""
_value:
  description: One text for each policy with an error, and for each name that stands twice; empty if all is well.
  type: list
  elements: str
  sample:
    - "policy 2 (home): sorces is not a key. Allowed: ... Next: did you mean 'sources'."
"""


def _finder(profiles: Any) -> Callable[[str], Profile]:
    """How a policy's profile is found: among those of the collection and ``profiles``. One that only the host knows has sources, and leaves nothing out."""

    def find(name: str) -> Profile:
        own = profiles or {}
        if name in own:
            try:
                return parse_profile(own[name])
            except PolicyError:  # the filter profile_problems says what is wrong
                return UNSEEN
        if name in PROFILES:
            return PROFILES[name]
        if profiles is None or name.startswith("/"):
            return UNSEEN
        raise unknown_profile(name, sorted({*PROFILES, *own}), "one of openclaw_backup_profiles; or the absolute path of a file of the host")

    return find


def policy_problems(policies: Any, host: str, profiles: Any = None) -> List[str]:
    """One text for each policy that ``Policy.from_mapping`` refuses, for each that its mirror could not do, and for each name that an earlier one has."""
    listed = plain(policies)
    find = _finder(plain(profiles))
    if not isinstance(listed, list):
        return ["all of them: must be a list of policies, found %s. Next: write each as an item of a list." % type(listed).__name__]
    problems = []
    first: Dict[str, int] = {}
    for number, policy in enumerate(listed, 1):
        name = policy.get("name") if isinstance(policy, dict) else None
        label = "policy %d (%s)" % (number, name) if isinstance(name, str) and name else "policy %d" % number
        try:
            checked = Policy.from_mapping(policy, default_host=plain(host), find=find)
        except PolicyError as error:
            problems.append("%s: %s" % (label, error))
            continue
        problems += ["%s: %s" % (label, text) for text in _mirror_problems(checked)]
        if first.setdefault(checked.name, number) != number:
            problems.append("%s: policy %d has this name already. Next: choose another, it names a history of its own." % (label, first[checked.name]))
    return problems


def _mirror_problems(policy: Policy) -> List[str]:
    """What a mirror could not do: a host would learn it of its first run, and every prune fail."""
    target = policy.target
    if "mirror" not in target.layouts:
        return []
    from ..module_utils.target.mirror.layouts import check_sources  # which few need

    try:
        if policy.sources:
            check_sources(target.layout, policy.sources)
    except UsageError as error:
        return [str(error)]
    if target.layouts == {"mirror"} and any(name.startswith("retention") for name in policy.given):
        return ["retention has no meaning for a mirror, which keeps one version. Next: remove it, or give target.layout by directory"]
    return []


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"policy_problems": policy_problems}
