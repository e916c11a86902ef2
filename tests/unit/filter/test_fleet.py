# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook's end says of every host: from module results, from what the vault's program printed, and of hosts without any."""

from __future__ import annotations

import json
from typing import Any, Dict, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.filter.fleet_problems import fleet_problems
from ansible_collections.openclaw.backup.plugins.filter.fleet_results import fleet_results
from ansible_collections.openclaw.backup.plugins.filter.fleet_table import fleet_table

SENT = {"changed": True, "snapshot_id": "S1", "files_sent": 4, "bytes_sent": 2048, "diff": {"before": "bulky"}, "failed": False}
SAME = {"changed": False, "snapshot_id": "S1", "files_sent": 0, "bytes_sent": 0}
REFUSED = {"failed": True, "msg": "too much is gone.\nNext: look", "rc": 4, "error": {"kind": "guard"}}


def host(here: Optional[Dict[str, Any]] = None, there: Optional[Dict[str, Any]] = None, failure: str = "") -> Dict[str, Any]:
    """The variables of a host after a playbook; ``here`` and ``there``: results by policy."""
    made: Dict[str, Any] = {"__openclaw_backup_failure": failure}
    for name, results in (("here", here), ("there", there)):
        made["__openclaw_backup_" + name] = {"results": [{**result, "item": {"name": policy}} for policy, result in (results or {}).items()]}
    return made


def printed(result: Dict[str, Any], rc: int = 0) -> Dict[str, Any]:
    return {"cmd": ["x"], "changed": False, "rc": rc, "failed": rc not in (0, 3), "stdout": json.dumps(result), "stderr": "", "msg": "non-zero return code"}


def test_every_policy_of_every_host_has_a_line_and_failures_come_last() -> None:
    variables = {
        "web1": host({"etc": REFUSED, "work": SAME}, failure="One or more items failed"),
        "web2": host({"etc": SENT}),
        "web3": host(failure="web3 cannot be\nreached"),
        "web4": {},
        "web5": host(),
    }
    assert fleet_table(list(variables), variables, "backup") == [
        "HOST  POLICY  RESULT   WHAT",
        "web1  work    ok       unchanged since snapshot S1",
        "web2  etc     changed  4 files, 2.0 KiB sent for snapshot S1",
        "web5  -       ok       nothing to do",
        "web1  etc     failed   too much is gone. Next: look",
        "web3  -       failed   web3 cannot be reached",
        "web4  -       failed   nothing is known of it: it failed before, or was lost on the way",
        "5 hosts: 1 changed, 2 ok, 3 failed",
    ]
    assert fleet_table(["web2"], variables, "backup", check=True)[1].endswith("4 files, 2.0 KiB would be sent")
    assert fleet_problems(["web1"], variables, "backup") == ["etc: too much is gone. Next: look"]
    assert fleet_problems(["web2", "web5"], variables, "backup") == []
    assert len(fleet_problems(list(variables), variables, "backup")) == 3


def test_what_was_done_on_the_vault_stands_beside_a_host_that_is_down() -> None:
    variables = {"web1": host(there={"etc": printed({"changed": False, "kept": [], "removed": [], "bytes_freed": 0})}, failure="web1 cannot be reached: no")}
    assert fleet_table(["web1"], variables, "prune")[1:] == [
        "web1  etc     ok      0 snapshots removed, 0 kept, 0 B freed",
        "web1  -       failed  web1 cannot be reached: no",
        "1 host: 1 ok, 1 failed",
    ]
    assert fleet_problems(["web1"], variables, "prune") == ["web1 cannot be reached: no"]


def test_results_are_passed_on_without_what_is_bulky_and_every_host_is_there() -> None:
    variables = {"web1": host({"etc": SENT, "work": REFUSED}), "web2": {}}
    assert fleet_results(["web1", "web2"], variables, "backup") == {
        "web1": {"backup": {"etc": {key: SENT[key] for key in SENT if key != "diff"}, "work": REFUSED}},
        "web2": {"backup": {}},
    }


def test_what_the_vaults_program_printed_counts_like_a_modules_result() -> None:
    pruned = {"rc": 0, "failed": False, "changed": True, "kept": [{}, {}], "removed": [{}], "bytes_freed": 3 << 20, "duration": 0.1, "warnings": []}
    locked = {"rc": 5, "failed": True, "msg": "a backup is at work", "error": {"kind": "locked"}}
    bare = {"cmd": ["x"], "rc": 2, "failed": True, "stdout": "", "stderr": "openclaw-backup-vault: this vault knows no policy etc\n"}
    variables = {"web1": host({"own": {"skipped": True}}, {"etc": printed(pruned), "work": printed(locked, 5), "new": bare})}
    assert fleet_table(["web1"], variables, "prune")[1:] == [
        "web1  etc     changed  1 snapshot removed, 2 kept, 3.0 MiB freed",
        "web1  work    failed   a backup is at work",
        "web1  new     failed   openclaw-backup-vault: this vault knows no policy etc",
        "1 host: 1 changed, 2 failed",
    ]
    results = fleet_results(["web1"], variables, "prune")["web1"]["prune"]
    assert sorted(results) == ["etc", "new", "work"]
    assert "rc" not in results["etc"] and results["work"]["rc"] == 5 and results["new"]["rc"] == 2


def test_a_host_that_is_not_protected_is_a_failure_of_the_fleet() -> None:
    good = {"ok": True, "problems": [], "snapshots": 2, "age": 65.0, "rc": 0}
    stale = {**good, "ok": False, "problems": ["there is no snapshot yet", "the last run failed: no"], "rc": 3, "failed": False}
    plain, locked, bare = ({**good, "immutable": found} for found in (None, True, False))
    variables = {"web1": host(there={"etc": printed(plain), "work": printed(stale, 3), "locked": printed(locked), "unlocked": printed(bare)})}
    assert fleet_table(["web1"], variables, "status")[1:] == [
        "web1  etc       ok      2 snapshots, the newest state is 1m 05s old",
        "web1  locked    ok      2 snapshots, the newest state is 1m 05s old",
        "web1  unlocked  ok      2 snapshots, the newest state is 1m 05s old, not immutable",
        "web1  work      failed  there is no snapshot yet; the last run failed: no",
        "1 host: 3 ok, 1 failed",
    ]


def test_the_status_of_a_fleet_says_when_each_history_was_proven() -> None:
    told = {"ok": True, "problems": [], "snapshots": 2, "age": 65.0, "rc": 0, "as_of": "2026-11-20T12:00:00.000Z"}
    proven = {**told, "drilled": "2026-11-18T12:00:00.000Z", "rolling": {"shares": 30, "read": 30, "since": "2026-10-21T12:00:00.000Z"}}
    begun = {**told, "drilled": None, "rolling": {"shares": 30, "read": 4, "since": None}}
    variables = {"web1": host(there={"etc": printed(proven), "work": printed(begun)})}
    assert fleet_table(["web1"], variables, "status")[1:] == [
        "web1  etc     ok      2 snapshots, the newest state is 1m 05s old, drilled 2d 00h ago, every byte read within 30d 00h",
        "web1  work    ok      2 snapshots, the newest state is 1m 05s old",
        "1 host: 2 ok",
    ]


def test_each_copy_has_a_row_of_its_own_and_a_stale_one_is_a_failure() -> None:
    good = {"ok": True, "problems": [], "snapshots": 2, "age": 65.0, "rc": 0}
    stale = {**good, "age": 86400.0, "problems": ["the last known good state is 1d old, the objective (rpo) is 3h"], "rc": 3}
    copies = [{**printed(result, rc), "item": [vault, {"name": "etc"}]} for vault, result, rc in (("vault2", good, 0), ("vault3", stale, 3))]
    variables = {"web1": {**host(there={"etc": printed(good)}), "__openclaw_backup_beside": {"results": copies}}}
    assert fleet_table(["web1"], variables, "status")[1:] == [
        "web1  etc            ok      2 snapshots, the newest state is 1m 05s old",
        "web1  etc on vault2  ok      2 snapshots, the newest state is 1m 05s old",
        "web1  etc on vault3  failed  the last known good state is 1d old, the objective (rpo) is 3h",
        "1 host: 2 ok, 1 failed",
    ]
    assert fleet_problems(["web1"], variables, "status") == ["etc on vault3: the last known good state is 1d old, the objective (rpo) is 3h"]
    assert sorted(fleet_results(["web1"], variables, "status")["web1"]["status"]) == ["etc", "etc on vault2", "etc on vault3"]


def test_restores_and_verifications_say_what_they_did() -> None:
    restored = {
        "changed": True,
        "files_restored": 2,
        "bytes_restored": 10,
        "files_removed": 1,
        "dest": "/tmp/x",
        "snapshot_id": "S1",
        "verified": True,
        "entries": 3,
    }
    variables = {"web1": host({"etc": restored, "work": {**restored, "changed": False}})}
    text = "\n".join(fleet_table(["web1"], variables, "restore"))
    assert "2 files, 10 B written and 1 removed in /tmp/x from snapshot S1, read back" in text and "3 paths in /tmp/x as in snapshot S1" in text
    in_place = "\n".join(fleet_table(["w"], {"w": host({"etc": {**restored, "dest": "/"}})}, "restore"))
    assert "2 files, 10 B written and 1 removed from snapshot S1" in in_place
    verified = {"changed": False, "snapshot_id": None, "slice": "1/2", "checked": 1, "hashed_bytes": 5}
    assert "the sources, slice 1/2: 1 path as backed up, 5 B read" in "\n".join(fleet_table(["w"], {"w": host({"etc": verified})}, "verify"))


def test_what_ended_with_warnings_says_so_and_is_counted() -> None:
    warned = {**SENT, "warnings": ["2 files changed while\nbeing copied", "and more"]}
    variables = {"web1": host({"etc": warned, "work": {**REFUSED, "warnings": ["a warning beside a failure"]}})}
    assert fleet_table(["web1"], variables, "backup")[1:] == [
        "web1  etc     changed  4 files, 2.0 KiB sent for snapshot S1; warning: 2 files changed while being copied (and 1 more)",
        "web1  work    failed   too much is gone. Next: look",
        "1 host: 1 changed, 1 failed, 1 with warnings",
    ]
    assert fleet_results(["web1"], variables, "backup")["web1"]["backup"]["etc"]["warnings"] == warned["warnings"]


@pytest.mark.parametrize(
    ("verb", "answer", "words"),
    [
        ("backup", {"files_sent": "many", "bytes_sent": 1}, "files_sent is not a number that a machine can have"),
        ("backup", {"files_sent": 1}, "bytes_sent is not a number"),
        ("backup", {"files_sent": float("nan"), "bytes_sent": 10**40}, "files_sent is not a number"),
        ("restore", {**dict.fromkeys(("entries", "files_restored", "bytes_restored", "files_removed"), 1), "dest": 5}, "dest is not a text"),
        ("verify", {"checked": True, "hashed_bytes": 1}, "checked is not a number"),
        ("prune", {"kept": 7, "removed": [], "bytes_freed": 1}, "kept is not a list"),
        ("drill", {"files": 1, "bytes": 1, "rto": None, "counts": {"passed": []}}, "counts is not a mapping of numbers"),
        ("status", {"snapshots": 1, "age": float("inf")}, "age is not a number that a machine can have, or none"),
        ("status", {}, "snapshots is not a number"),
        ("status", {"snapshots": 1, "age": 5, "drilled": "yesterday"}, "drilled is not a time, or none"),
        ("status", {"snapshots": 1, "age": 5, "rolling": {"since": 7}}, "rolling is not what a machine says of shares, or none"),
    ],
)
def test_what_one_machine_answers_does_not_end_the_report_of_the_fleet(verb: str, answer: Dict[str, Any], words: str) -> None:
    good = {"status": {"snapshots": 1, "age": 5}, "backup": SENT}.get(verb)
    variables = {"web1": host(there={"etc": printed(answer)}), "web2": host({"etc": good} if good else {})}
    table = fleet_table(list(variables), variables, verb)
    assert table[-2].startswith("web1  etc     failed") and "its answer cannot be read: " + words in table[-2] and table[-3].startswith("web2  ")
    assert fleet_problems(["web1"], variables, verb) == ["etc: its answer cannot be read: " + words + table[-2].partition(words)[2]]


def test_answers_of_no_shape_at_all_fail_their_own_policy_alone() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    listed = {**printed({}), "stdout": "[1, 2]"}
    variables = {
        "web1": {"__openclaw_backup_failure": "", "__openclaw_backup_here": {"results": [{"item": {"name": "etc"}, "answer": deep}]}},
        "web2": host(there={"etc": listed, "work": printed({**SENT, "warnings": 7, "problems": "all"}), "own": printed(SENT)}),
    }
    assert fleet_table(list(variables), variables, "backup")[1:] == [
        "web2  own     changed  4 files, 2.0 KiB sent for snapshot S1",
        "web1  -       failed   what it answered is nested too deeply to be read",
        "web2  etc     failed   non-zero return code",
        "web2  work    failed   all",
        "2 hosts: 1 changed, 3 failed",
    ]
