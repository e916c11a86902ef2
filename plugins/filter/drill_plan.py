# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which histories of a fleet are drilled now."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from ..module_utils.observe.progress import format_bytes
from ..plugin_utils.drills import candidates_of, choose, read_age, read_budget
from ..plugin_utils.values import plain

DOCUMENTATION = r"""
name: drill_plan
short_description: Which policies of which hosts are drilled now
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Those that nobody has drilled for longest, as many as the budget allows, and at least one.
  - The playbook C(drill) has asked the hosts and their vaults for their status.
extends_documentation_fragment:
  - openclaw.backup.fleet
options:
  older_than:
    description: How long ago the last drill that found nothing wrong must be, such as V(30d); without it all are due.
    type: str
  budget:
    description: What all drills together may take up, C(time), C(bytes) or both.
    type: dict
  now:
    description: The time, in seconds since the epoch; that of the controller unless said otherwise.
    type: float
positional: variables
"""

EXAMPLES = r"""
- name: Choose
  ansible.builtin.set_fact:
    plan: "{{ ansible_play_hosts_all | openclaw.backup.drill_plan(hostvars, older_than='30d', budget={'time': '2h', 'bytes': '200g'}) }}"
  run_once: true
"""

RETURN = r"""
_value:
  description:
    - C(now), the names of the policies to drill by host; C(recent) and C(later), how many were drilled lately and how many do not fit into the budget;
      C(unclear), whose last drill could not be read from what their machine answered, so that they count as never drilled; C(text), all that in words.
  type: dict
  sample:
    now: {web1: [etc]}
    recent: 3
    later: 5
    unclear: []
    text: "1 policy to drill, 1.2 GiB; 3 were drilled within 30d; 5 wait for another budget"
"""


def drill_plan(hosts: Sequence[Any], variables: Mapping[Any, Any], older_than: Any = None, budget: Any = None, now: Optional[float] = None) -> Dict[str, Any]:
    """What is drilled now. Raises ``PolicyError`` for a wish that is not right."""
    at = time.time() if now is None else float(now)
    age = read_age(plain(older_than))
    plan = choose(candidates_of(hosts, variables, at), at, age, read_budget(plain(budget)))
    chosen: Dict[str, List[str]] = {}
    for candidate in plan.now:
        chosen.setdefault(candidate.host, []).append(candidate.policy)
    size = sum(candidate.bytes for candidate in plan.now)
    parts = ["%s to drill%s" % ("1 policy" if len(plan.now) == 1 else "%d policies" % len(plan.now), ", " + format_bytes(size) if size else "")]
    if plan.recent:
        parts.append("%s drilled within %s" % ("1 was" if len(plan.recent) == 1 else "%d were" % len(plan.recent), older_than))
    if plan.later:
        parts.append("%s for another budget" % ("1 waits" if len(plan.later) == 1 else "%d wait" % len(plan.later)))
    unclear = ["%s %s: %s" % (one.host, one.policy, one.unclear) for one in (*plan.now, *plan.later) if one.unclear]
    if unclear:
        more = " (and %d more)" % (len(unclear) - 3) if unclear[3:] else ""
        parts.append("what was answered cannot be read, and counts as never drilled: %s%s" % (", ".join(unclear[:3]), more))
    return {"now": chosen, "recent": len(plan.recent), "later": len(plan.later), "unclear": unclear, "text": "; ".join(parts)}


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"drill_plan": drill_plan}
