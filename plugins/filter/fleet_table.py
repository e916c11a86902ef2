# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook did on every host, as a table for people."""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, List, Mapping, Sequence

from ..module_utils.agent.render import format_duration, table
from ..module_utils.errors import counted
from ..module_utils.observe.audit import seconds_of
from ..module_utils.observe.progress import format_bytes
from ..plugin_utils.outcomes import outcomes

DOCUMENTATION = r"""
name: fleet_table
short_description: What a playbook of this collection did on every host, as a table
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - One line for each policy of each host, what failed last, and one line with their numbers.
options:
  check:
    description: The playbook ran in check mode.
    type: bool
    default: false
extends_documentation_fragment:
  - openclaw.backup.fleet
  - openclaw.backup.fleet.verb
positional: variables, verb
"""

EXAMPLES = r"""
- name: Show what came of it
  ansible.builtin.debug:
    msg: "{{ ansible_play_hosts_all | openclaw.backup.fleet_table(hostvars, 'backup') }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
  sample:
    - "HOST  POLICY  RESULT     "
    - "web1  etc     changed    4 files, 1.2 MiB sent for snapshot 20261120T091500.123Z-9f1c3e1f"
    - "web2  etc     failed     web2 cannot be reached"
    - "2 policies of 2 hosts: 1 changed, 1 failed"
"""

Result = Mapping[str, Any]
_STATES = ("changed", "ok", "failed")


def fleet_table(hosts: Sequence[Any], variables: Mapping[Any, Any], verb: str, check: bool = False) -> List[str]:
    """The lines of the table."""
    rows = []
    warned = 0
    for host, outcome in outcomes(hosts, variables, str(verb)).items():
        for policy, result in outcome.results.items():
            failed = bool(result["failed"])
            text = " ".join(str(result.get("msg") or "").split()) if failed else _VIEWS[str(verb)](result, bool(check))
            if result.get("warnings") and not failed:
                warned += 1
                more = " (and %d more)" % (len(result["warnings"]) - 1) if result["warnings"][1:] else ""
                text += "; warning: %s%s" % (" ".join(result["warnings"][0].split()), more)
            rows.append((host, policy, "failed" if failed else "changed" if result.get("changed") else "ok", text))
        rows += [(host, "-", "failed", " ".join(text.split())) for text in outcome.beside]
        if not outcome.results and not outcome.failure:
            rows.append((host, "-", "ok", "nothing to do"))
    rows.sort(key=lambda row: row[2] == "failed")
    numbers = Counter(row[2] for row in rows)
    total = ", ".join(["%d %s" % (numbers[state], state) for state in _STATES if numbers[state]] + (["%d with warnings" % warned] if warned else []))
    heading = ("HOST", "POLICY", "RESULT", "WHAT")
    return [*table([heading, *rows], "<<<<"), "%s: %s" % (counted(len(list(hosts)), "host"), total or "nothing to do")]


def _backed_up(result: Result, check: bool) -> str:
    if not result.get("changed"):
        return "unchanged since snapshot %s" % result.get("snapshot_id")
    sent = "%s, %s" % (counted(result["files_sent"], "file"), format_bytes(result["bytes_sent"]))
    return sent + " would be sent" if check else "%s sent for snapshot %s" % (sent, result.get("snapshot_id"))


def _restored(result: Result, check: bool) -> str:
    where = "" if result["dest"] == "/" else " in " + result["dest"]
    if not result.get("changed"):
        return "%s%s as in snapshot %s" % (counted(result["entries"], "path"), where, result.get("snapshot_id"))
    written = "%s, %s %s" % (counted(result["files_restored"], "file"), format_bytes(result["bytes_restored"]), "would be written" if check else "written")
    read = ", read back" if result.get("verified") else ""
    return "%s and %d removed%s from snapshot %s%s" % (written, result["files_removed"], where, result.get("snapshot_id"), read)


def _verified(result: Result, _check: bool) -> str:
    what = "snapshot %s" % result.get("snapshot_id") if result.get("snapshot_id") else "the sources"
    share = ", slice %s" % result.get("slice") if result.get("slice") else ""
    return "%s%s: %s as backed up, %s read" % (what, share, counted(result["checked"], "path"), format_bytes(result["hashed_bytes"]))


def _pruned(result: Result, check: bool) -> str:
    removed = "%s %s" % (counted(len(result["removed"]), "snapshot"), "would be removed" if check else "removed")
    return "%s, %d kept, %s freed" % (removed, len(result["kept"]), format_bytes(result["bytes_freed"]))


def _drilled(result: Result, check: bool) -> str:
    what = "%s, %s of snapshot %s" % (counted(result["files"], "file"), format_bytes(result["bytes"]), result.get("snapshot_id"))
    if check:
        return "%s would be restored and proven" % what
    skipped = ", %d not" % result["counts"]["skipped"] if result["counts"]["skipped"] else ""
    return "%s came back in %s, %s checked%s" % (what, format_duration(result["rto"] or 0), counted(result["counts"]["passed"], "thing"), skipped)


def _status(result: Result, _check: bool) -> str:
    if result["age"] is None:
        return "no snapshot"
    found = "%s, the newest state is %s old" % (counted(result["snapshots"], "snapshot"), format_duration(result["age"]))
    proofs = (("drilled %s ago", result.get("drilled")), ("every byte read within %s", (result.get("rolling") or {}).get("since")))
    if result.get("as_of"):
        found += "".join(", " + words % format_duration(max(0.0, seconds_of(result["as_of"]) - seconds_of(at))) for words, at in proofs if at)
    return found + (", not immutable" if result.get("immutable") is False else "")


_VIEWS: Dict[str, Callable[[Result, bool], str]] = {
    "backup": _backed_up,
    "restore": _restored,
    "verify": _verified,
    "prune": _pruned,
    "status": _status,
    "drill": _drilled,
}


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"fleet_table": fleet_table}
