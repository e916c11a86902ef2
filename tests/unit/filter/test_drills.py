# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every host of a fleet has its turn to be drilled, and a report leaves out none."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional
from xml.etree import ElementTree

import pytest
from ansible_collections.openclaw.backup.plugins.filter.drill_plan import drill_plan
from ansible_collections.openclaw.backup.plugins.filter.drill_probes import drill_probes
from ansible_collections.openclaw.backup.plugins.filter.drill_problems import drill_problems
from ansible_collections.openclaw.backup.plugins.filter.fleet_evidence import fleet_evidence
from ansible_collections.openclaw.backup.plugins.filter.fleet_results import fleet_results
from ansible_collections.openclaw.backup.plugins.filter.fleet_table import fleet_table
from ansible_collections.openclaw.backup.plugins.module_utils.action.drill import DrillResult
from ansible_collections.openclaw.backup.plugins.module_utils.action.probes import Check
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import rfc3339
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.plugin_utils.drills import Budget, Candidate, choose

NOW = 1_800_000_000.0
DAY = 86400


def names(candidates: "tuple[Candidate, ...]") -> List[str]:
    return [candidate.host for candidate in candidates]


def test_who_was_not_drilled_for_longest_comes_first_and_one_always_comes() -> None:
    fleet = [Candidate("a", "p", NOW - 5, NOW - 5, 10), Candidate("b", "p", NOW - 9, NOW - 9, 10), Candidate("c", "p", None, None, 500)]
    assert names(choose(fleet, NOW, None, Budget()).now) == ["c", "b", "a"]
    plan = choose(fleet, NOW, None, Budget(bytes=100))
    assert (names(plan.now), names(plan.later)) == (["c"], ["b", "a"]), "what is larger than any budget has its turn too"
    fleet[2] = Candidate("c", "p", NOW - 7, NOW - 7, 95)
    plan = choose(fleet, NOW, None, Budget(bytes=100))
    assert (names(plan.now), names(plan.later)) == (["b", "a"], ["c"]), "smaller ones fill what is left, and c is the oldest next time"
    assert names(choose([Candidate("a", "p", 1.0, 1.0, 0, 50), Candidate("b", "p", 2.0, 2.0, 0, 60)], NOW, None, Budget(seconds=100)).now) == ["a"]


def test_a_budget_that_is_spent_again_and_again_covers_the_whole_fleet() -> None:
    fleet = {"h%02d" % number: Candidate("h%02d" % number, "p", None, None, 1 + number % 7 * 30) for number in range(40)}
    seen = set()
    for day in range(60):
        for one in choose(fleet.values(), NOW + day * DAY, 30 * DAY, Budget(bytes=200)).now:
            seen.add(one.host)
            fleet[one.host] = Candidate(one.host, "p", NOW + day * DAY, NOW + day * DAY, one.bytes)
    assert seen == set(fleet)


def test_what_failed_is_due_again_behind_what_was_not_tried_since() -> None:
    failed = Candidate("a", "p", NOW - DAY, NOW - 90 * DAY)
    old = Candidate("b", "p", NOW - 40 * DAY, NOW - 40 * DAY)
    fresh = Candidate("c", "p", NOW - 2 * DAY, NOW - 2 * DAY)
    ahead = Candidate("d", "p", NOW + DAY, NOW + DAY)  # a clock that was wrong is no proof
    plan = choose([failed, old, fresh, ahead], NOW, 30 * DAY, Budget())
    assert (names(plan.now), names(plan.recent)) == (["b", "a", "d"], ["c"])


def status(last: Optional[float], good: Optional[float], size: int = 1 << 20, **more: Any) -> Dict[str, Any]:
    def record(at: Optional[float]) -> Optional[Dict[str, Any]]:
        return None if at is None else {"finished": rfc3339(at), "bytes": 1 << 20, "duration": 10.0, **more}

    return {"last_drill": record(last), "last_good_drill": record(good), "newest": {"bytes": size}}


def host(policies: Dict[str, Dict[str, Any]], vaulted: Dict[str, Dict[str, Any]], lost: "List[str]") -> Dict[str, Any]:
    return {
        "__openclaw_backup_lost": lost,
        "__openclaw_backup_vault": "vault1",
        "__openclaw_backup_at_host": [{"name": name} for name in policies],
        "__openclaw_backup_at_vault": [{"name": name} for name in vaulted],
        "__openclaw_backup_known_here": {"results": [{**told, "item": {"name": name}} for name, told in policies.items()]},
        "__openclaw_backup_known_there": {
            "results": [{"cmd": ["x"], "stdout": json.dumps(told) if told else "", "item": {"name": name}} for name, told in vaulted.items()]
        },
    }


def test_the_plan_goes_by_what_hosts_and_vaults_told() -> None:
    variables = {
        "web1": host({"own": status(NOW - 3 * DAY, NOW - 3 * DAY)}, {"etc": status(NOW - 50 * DAY, NOW - 50 * DAY, 4 << 20)}, []),
        "web2": host({}, {"etc": {}}, []),
        "web3": host({"own": {}}, {"etc": status(None, None)}, ["web3"]),
        "web4": {},
    }
    plan = drill_plan(list(variables), variables, "30d", {"time": "1h"}, NOW)
    assert plan["now"] == {"web1": ["etc"], "web2": ["etc"], "web3": ["etc"]}, "a machine that was not reached takes no turn"
    assert (plan["recent"], plan["later"]) == (1, 0)
    assert plan["text"] == "3 policies to drill, 5.0 MiB; 1 was drilled within 30d"
    # Four times the size takes four times as long.
    assert drill_plan(["web1"], variables, "30d", {"time": "39s"}, NOW)["now"] == {"web1": ["etc"]}
    assert drill_plan(["web2", "web1"], variables, "", {"time": "39s"}, NOW)["later"] == 1
    assert drill_plan(["web2", "web1"], variables, "", {"time": "50s"}, NOW)["later"] == 0


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("[" * 100_000, "what it printed is no status"),
        ("[1]", "what it printed is no status"),
        ("nothing", "what it printed is no status"),
        ('{"newest": {"bytes": 1e999}}', "newest.bytes is no number that a machine can have"),
        ('{"newest": {"bytes": NaN}}', "newest.bytes is no number"),
        ('{"newest": {"bytes": %s}}' % ("9" * 40), "newest.bytes is no number"),
        ('{"newest": {"bytes": -5}}', "newest.bytes is no number"),
        ('{"newest": {"bytes": "7"}}', "newest.bytes is no number"),
        ('{"newest": {"bytes": true}}', "newest.bytes is no number"),
        ('{"newest": 7}', "newest is no mapping"),
        ('{"last_drill": ["x"]}', "last_drill is no mapping"),
        ('{"last_good_drill": {"duration": "long"}}', "last_good_drill.duration is no number"),
        ('{"last_good_drill": {"duration": 5, "bytes": {}}}', "last_good_drill.bytes is no number"),
        ('{"last_drill": {"finished": 5}}', "last_drill.finished is no time"),
        ('{"last_drill": {"finished": "2026-02-30T00:00:00.000Z"}}', "last_drill.finished is no time"),
        ('{"last_good_drill": {"finished": "9999-12-31T23:59:59.999Z"}}', "last_good_drill.finished is a time to come"),
    ],
)
def test_what_one_machine_answers_does_not_end_the_plan_of_the_fleet(told: str, words: str) -> None:
    variables = {"web1": host({}, {"etc": status(NOW - 40 * DAY, NOW - 40 * DAY)}, []), "web2": host({}, {"etc": {}}, [])}
    variables["web2"]["__openclaw_backup_known_there"]["results"][0]["stdout"] = told
    plan = drill_plan(list(variables), variables, "30d", {"time": "1h"}, NOW)
    assert plan["now"] == {"web1": ["etc"], "web2": ["etc"]} and list(plan["now"])[0] == "web2", "it counts as never drilled, and so comes first"
    (text,) = plan["unclear"]
    assert text.startswith("web2 etc: " + words) and text in plan["text"]
    # A module's answer is no better.
    try:
        variables["web2"]["__openclaw_backup_known_there"]["results"][0] = {"item": {"name": "etc"}, **json.loads(told)}
    except (ValueError, TypeError, RecursionError):
        return
    assert drill_plan(list(variables), variables, "30d", {"time": "1h"}, NOW)["unclear"] == plan["unclear"]


def test_an_answer_without_what_is_asked_for_or_a_clock_that_is_a_little_ahead_is_no_problem() -> None:
    variables = {"web1": host({"own": {}}, {"etc": status(NOW + 200, NOW + 200), "new": {"newest": None}}, [])}
    plan = drill_plan(["web1"], variables, "30d", {"time": "1h"}, NOW)
    assert (plan["now"], plan["recent"], plan["unclear"]) == ({"web1": ["new", "own"]}, 1, [])


@pytest.mark.parametrize(
    "older_than, budget, found",
    [
        ("", "", []),
        ("30d", {"time": "2h", "bytes": "200g"}, []),
        ("30d", {"bytes": 5}, []),
        ("30", "", ["openclaw_backup_drill_older_than"]),
        ("", {"time": "2"}, ["openclaw_backup_drill_budget.time"]),
        ("", {"bytes": "200 GB"}, ["openclaw_backup_drill_budget.bytes is '200 GB'"]),
        ("", {"bytes": True}, ["openclaw_backup_drill_budget.bytes"]),
        ("", {"hours": 2}, ["openclaw_backup_drill_budget is"]),
        ("x", "2h", ["openclaw_backup_drill_older_than", "openclaw_backup_drill_budget"]),
    ],
)
def test_a_wish_that_cannot_be_read_is_named(older_than: str, budget: Any, found: List[str]) -> None:
    problems = drill_problems(older_than, budget)
    assert len(problems) == len(found)
    assert all(name in text for name, text in zip(found, problems))


def test_only_what_can_be_rehearsed_is_and_nobody_waits_for_a_turn_that_is_not_remembered() -> None:
    assert [drill_problems("", "", scenario) for scenario in ("", None, "restore", "damaged", "lost-host")] == [[]] * 5
    (problem,) = drill_problems("", "", "flood")
    assert problem.startswith("openclaw_backup_drill_scenario is 'flood'. Allowed: restore, damaged") and "lost-host" in problem
    assert "openclaw_backup_drill_older_than has no meaning with the scenario lost-host" in drill_problems("30d", "", "lost-host")[0]
    assert "openclaw_backup_drill_budget has no meaning" in drill_problems("", {"time": "2h"}, "lost-host")[0]


def test_a_machine_that_stands_in_takes_the_turns_of_those_that_are_lost() -> None:
    def lost(*machines: str) -> Dict[str, Any]:
        at_standby = [{"name": "vaulted"}, {"name": "own"}]
        names = {"at_standby": at_standby, "standby": "spare1", "vault": "vault1", "granted": ["vaulted"], "lost": list(machines)}
        return {"__openclaw_backup_" + name: value for name, value in names.items()}

    plan = drill_plan(["web1", "web2", "web3"], {"web1": lost(), "web2": lost("vault1"), "web3": lost("spare1", "vault1")}, "", "", NOW)
    assert plan["now"] == {"web1": ["own", "vaulted"], "web2": ["own"]}, "what cannot be read takes no turn"


def test_a_machine_that_was_lost_on_the_way_has_proven_nothing() -> None:
    item = {"item": {"name": "etc"}, "unreachable": True, "msg": "Failed to connect to the host via ssh", "changed": False}
    (row,) = fleet_results(["web1"], variables_of(web1={"__openclaw_backup_there": {"results": [item]}}), "drill")["web1"]["drill"].values()
    assert row["failed"] and row["msg"] == item["msg"]


def drilled(host_name: str, ok: bool) -> Dict[str, Any]:
    made = DrillResult(host=host_name, policy="etc", target="/v", snapshot_id="S1", started="2026-11-20T09:15:00.123Z", finished="2026-11-20T09:16:00.123Z")
    made.objectives = {"rto": 60, "rpo": None, "drill_every": None}
    made.asked_by = {"user": "root", "sudo_user": None, "claimed": "ann"}
    made.files, made.bytes, made.rto = 3, 2048, 1.5
    made.take([Check("bytes", "bytes", ok, "one | is damaged"), Check("canary", "canary", None, "not known here")])
    failure = made.failure()
    return {**made.to_dict(), "rc": made.rc, "failed": not ok, **({"msg": str(failure)} if failure else {})}


def variables_of(**hosts: Dict[str, Any]) -> Dict[str, Any]:
    return {name: {"__openclaw_backup_failure": "", **variables} for name, variables in hosts.items()}


def test_a_report_of_a_fleet_leaves_out_no_host_and_no_failure() -> None:
    variables = variables_of(
        web1={"__openclaw_backup_here": {"results": [{**drilled("web1", True), "item": {"name": "etc"}}]}},
        web2={"__openclaw_backup_there": {"results": [{"cmd": ["x"], "rc": 7, "stdout": json.dumps(drilled("web2", False)), "item": {"name": "etc"}}]}},
        web3={"__openclaw_backup_failure": "web3 cannot be\nreached"},
        web4={"__openclaw_backup_here": {"results": [{"failed": True, "msg": "another drill", "error": {"kind": "locked"}, "item": {"name": "etc"}}]}},
        web5={},
    )
    hosts = list(variables)
    root = ElementTree.fromstring(fleet_evidence(hosts, variables, "junit").encode())
    suites = {str(suite.get("name")): (suite.get("tests"), suite.get("failures"), suite.get("skipped")) for suite in root}
    assert suites == {
        "drill web1 etc": ("2", "0", "1"),
        "drill web2 etc": ("2", "1", "1"),
        "drill web3 -": ("1", "1", "0"),
        "drill web4 etc": ("1", "1", "0"),
    }
    failures = [str(failure.get("message")) for failure in root.iter("failure")]
    assert failures == ["one | is damaged", "web3 cannot be reached", "another drill"]
    text = fleet_evidence(hosts, variables, "markdown")
    assert text.startswith("# Drills: 4, 1 of them passed\n") and "Asked by: root (ann)." in text and "## Drill of web2, policy etc: failed" in text
    rows = [line for line in text.splitlines() if line.startswith("| web")]
    assert [row.split(" | ")[0] for row in rows] == ["| web2", "| web3", "| web4", "| web1"], "what failed comes first"
    assert rows[3] == "| web1 | etc | passed | 1.5 s | 1m 00s | - | none |  |"

    passed = fleet_results(hosts, variables, "drill")
    assert passed["web1"]["drill"]["etc"]["verdict"] == "passed" and "checks" not in passed["web1"]["drill"]["etc"]
    table = fleet_table(hosts, variables, "drill")
    assert table[1].endswith("3 files, 2.0 KiB of snapshot S1 came back in 1.5 s, 1 thing checked, 1 not")
    assert table[-1] == "5 hosts: 2 ok, 3 failed"


@pytest.mark.parametrize(
    "answer",
    [{"checks": [7]}, {"checks": "all"}, {"asked_by": None}, {"objectives": ["x"]}, {"started": 5}, {"rpo": "soon"}, {"versions": ["x"]}, {"loss": {}}],
)
def test_a_report_of_a_fleet_stands_whatever_one_machine_answers(answer: Dict[str, Any]) -> None:
    bad = {**drilled("web1", True), **answer, "host": "web2"}
    variables = variables_of(
        web1={"__openclaw_backup_here": {"results": [{**bad, "item": {"name": "etc"}}]}},
        web2={"__openclaw_backup_here": {"results": [{**drilled("web2", True), "item": {"name": "etc"}}]}},
    )
    suites = ElementTree.fromstring(fleet_evidence(list(variables), variables, "junit").encode())
    assert [(suite.get("hostname"), suite.get("failures")) for suite in suites] == [("web1", "1"), ("web2", "0")]
    assert "| web1 | etc | failed |" in fleet_evidence(list(variables), variables, "markdown")


def test_a_vault_is_told_what_to_look_for_of_the_policy_and_its_profile() -> None:
    own = {"json": "/a.json"}
    policy = {"name": "p", "host": "h", "sources": ["/x"], "target": "/v"}
    assert drill_probes(policy) == []
    assert drill_probes({**policy, "probes": [own], "profile": "mine"}, {"mine": {"probes": [{"exists": ["/x/y"]}]}}) == [own, {"exists": ["/x/y"]}]
    found = drill_probes({**policy, "probes": [own], "profile": "openclaw"})
    told = Policy.from_mapping({**policy, "probes": found}, default_host="h")
    known = Policy.from_mapping({**policy, "probes": [own], "profile": "openclaw"}, default_host="h")
    assert told.all_probes == known.all_probes and len(found) > 1
    assert drill_probes({**policy, "profile": "/etc/mine.json"}) == []
