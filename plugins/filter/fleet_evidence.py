# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the drills of a fleet came to, as a report."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Sequence

from ..module_utils.agent.reports import Rehearsed, fleet_junit, fleet_markdown
from ..plugin_utils.outcomes import outcomes

DOCUMENTATION = r"""
name: fleet_evidence
short_description: What the drills of a fleet came to, as a report
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - One report of all drills of the playbook C(drill), with a failure for every host and policy of which there is no result.
options:
  form:
    description: JUnit XML for build servers, or Markdown for people.
    type: str
    choices: [junit, markdown]
    required: true
extends_documentation_fragment:
  - openclaw.backup.fleet
positional: variables, form
"""

EXAMPLES = r"""
- name: Keep a summary
  ansible.builtin.copy:
    content: "{{ ansible_play_hosts_all | openclaw.backup.fleet_evidence(hostvars, 'markdown') }}"
    dest: /srv/evidence/drill.md
    mode: "0644"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
_value:
  description: The report.
  type: str
"""

_FORMS: Dict[str, Callable[[Sequence[Rehearsed]], str]] = {"junit": fleet_junit, "markdown": fleet_markdown}


def fleet_evidence(hosts: Sequence[Any], variables: Mapping[Any, Any], form: str) -> str:
    """The report of the drills on ``hosts``."""
    found: List[Rehearsed] = []
    for host, outcome in outcomes(hosts, variables, "drill", whole=True).items():
        found += [_legible(host, policy, result) for policy, result in outcome.results.items()]
        found += [Rehearsed(host, "-", {}, text) for text in outcome.beside]
    return _FORMS[str(form)](found)


def _legible(host: str, policy: str, result: Mapping[str, Any]) -> Rehearsed:
    """What a machine has answered of its drill, under the inventory's name; in its place that it makes no report, where that is so."""
    made = Rehearsed(host, policy, {**result, "host": host, "policy": policy}, str(result.get("msg") or ""))
    try:
        for form in _FORMS.values():
            form([made])
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        return Rehearsed(host, policy, {}, "what it answered makes no report: %s: %s" % (type(error).__name__, error))
    return made


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"fleet_evidence": fleet_evidence}
