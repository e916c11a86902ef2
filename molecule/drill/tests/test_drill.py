# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores are rehearsed on a vault, two hosts, and a bare machine in the place of a host. The tests go on from one another, in their order."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List
from xml.etree import ElementTree

import pytest
from ansible_collections.openclaw.backup.tests.lab.fleet import Fleet

KEEPER = "openclaw-vault"
MEMORY = "/var/lib/openclaw-backup-vault/%s/work"
HOSTS = ("web1", "web2")
# What a machine has, but for what Ansible and its own daemons write all the time.
_EVERYTHING = (
    "find / -xdev -not -path '/proc/*' -not -path '/run*' -not -path '/var/log/*' -not -path '/root/.ansible*' -not -path '*/__pycache__*'"
    " -not -path /tmp -not -path /var/tmp -not -path /root -printf '%p %y %m %u %s %T@\\n' | sort"
)


class Lab(Fleet):
    """``evidence``: where the playbook leaves its reports."""

    def __init__(self, inventory: str, evidence: Path) -> None:
        super().__init__(inventory)
        self.evidence = evidence

    def drill(self, *arguments: str, code: int = 0, **variables: Any) -> Dict[str, Dict[str, Any]]:
        """Play the playbook; the results of the policy work, by the hosts that have one."""
        passed = self.play("drill", *arguments, code=code, **{"hosts": "backup_clients", "evidence": str(self.evidence), "asked_by": "Ann", **variables})
        return {host: results["work"] for host, results in passed.items() if results}

    def report(self) -> Dict[str, Dict[str, str]]:
        """The newest report for build servers: what became of each check (``ok``, ``skipped``, ``failure``), by host."""
        newest = max(self.evidence.glob("*.xml"))
        return {
            str(suite.get("hostname")): {str(case.get("name")): _state(case) for case in suite.iter("testcase")}
            for suite in ElementTree.fromstring(newest.read_bytes())
        }

    def records(self, name: str) -> List[Dict[str, Any]]:
        """What the vault remembers of its drills for a host."""
        return [json.loads(line) for line in self.host("vault1").file(MEMORY % name + "/drills.jsonl").content_string.splitlines()]


def _state(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("skipped", "failure")), "ok")


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(request.config.getoption("ansible_inventory"), tmp_path_factory.mktemp("evidence"))


def test_the_vault_rehearses_for_all_and_opens_nothing_of_theirs(fleet: Lab) -> None:
    passed = fleet.drill()
    assert {host: result["verdict"] for host, result in passed.items()} == dict.fromkeys(HOSTS, "passed")
    assert passed["web1"]["asked_by"] == {"user": KEEPER, "sudo_user": None, "claimed": "Ann"}
    for checks in fleet.report().values():
        assert {name for name, state in checks.items() if state == "skipped"} == {"probe 2: command grep", "databases", "canary"}
        assert checks["bytes"] == checks["probe 1: json /settings.json"] == checks["rpo"] == "ok"
    vault = fleet.host("vault1")
    for name in HOSTS:
        assert len(fleet.records(name)) == 1
        assert vault.file(MEMORY % name + "/drill").listdir() == [], "what came back is gone again"
        assert vault.file(MEMORY % name).user == KEEPER
        state = json.loads(fleet.host(name).run_expect([0], "openclaw-backup status work --json").stdout)
        assert state["problems"] == [] and state["newest"]["drilled"], "the host knows of it"


def test_a_host_rehearses_for_itself_while_it_may_read(fleet: Lab) -> None:
    passed = fleet.drill(hosts="web1", drill_on="host")
    assert (passed["web1"]["verdict"], passed["web1"]["counts"]["skipped"]) == ("passed", 0)
    assert fleet.report() == {"web1": dict.fromkeys(fleet.report()["web1"], "ok")} and "probe 2: command grep (control)" in fleet.report()["web1"]
    assert "--read" not in fleet.host("vault1").run_expect([0], "cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout


def test_nobody_is_drilled_again_before_it_is_time(fleet: Lab) -> None:
    assert fleet.drill(drill_older_than="1h", drill_budget={"time": "1h"}) == {}
    assert "2 were drilled within 1h" in fleet.output


def test_the_schedule_drills_what_is_due_and_nothing_else(fleet: Lab) -> None:
    vault = fleet.host("vault1")
    upkeep = "runuser -u %s -- /usr/local/libexec/openclaw-backup/upkeep drill" % KEEPER
    vault.run_expect([0], upkeep)
    assert [len(fleet.records(name)) for name in HOSTS] == [1, 1]
    vault.run_expect([0], "rm %s/drills.jsonl" % (MEMORY % "web2"))
    vault.run_expect([0], upkeep)
    assert [len(fleet.records(name)) for name in HOSTS] == [1, 1]
    assert fleet.records("web2")[0]["asked_by"]["claimed"] == "the schedule"


def everything(fleet: Lab, name: str) -> str:
    """Every path of a machine with its type, mode, owner, size and time."""
    return str(fleet.host(name).run_expect([0], _EVERYTHING).stdout)


def assert_nothing_is_left(fleet: Lab, name: str, before: str) -> None:
    assert everything(fleet, name) == before
    vault = fleet.host("vault1")
    assert vault.file("/etc/openclaw-backup/grants").listdir() == []
    assert "--read" not in vault.run_expect([0], "cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout


@pytest.fixture
def unreachable(tmp_path: Path) -> List[str]:
    """Arguments with which nothing reaches web1."""
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"web1": {"ansible_port": 1}}}}))
    return ["-i", str(tmp_path / "hosts.json")]


def test_a_bare_machine_stands_in_for_hosts_that_are_lost(fleet: Lab, unreachable: List[str]) -> None:
    before = everything(fleet, "spare1")
    began = time.monotonic()
    passed = fleet.drill(*unreachable, drill_scenario="lost-host", drill_standby="spare1")
    took = time.monotonic() - began
    assert tuple(passed) == HOSTS
    for result in passed.values():
        assert (result["verdict"], result["scenario"], result["asked_by"]["claimed"]) == ("passed", "lost-host", "Ann")
        assert result["duration"] + 1 < result["rto"] < took, "the time to recover has the installing in it"
    for states in fleet.report().values():
        assert {name for name, state in states.items() if state != "ok"} == {"canary"}, "programs and databases are opened, as on the host"
    assert "Scenario: lost-host." in max(fleet.evidence.glob("*.md")).read_text()
    assert_nothing_is_left(fleet, "spare1", before)


def test_a_machine_that_is_a_host_itself_stands_in_and_keeps_what_it_has(fleet: Lab) -> None:
    before = everything(fleet, "web2")
    passed = fleet.drill(code=2, drill_scenario="lost-host", drill_standby="web2")
    assert list(passed) == ["web1"] and passed["web1"]["verdict"] == "passed"
    assert "openclaw_backup_drill_standby is 'web2', the host that is rehearsed to be lost" in fleet.output
    assert_nothing_is_left(fleet, "web2", before)


def test_what_cannot_stand_in_is_told_before_anything_is_done(fleet: Lab, tmp_path: Path) -> None:
    before = everything(fleet, "spare1")
    spare: Dict[str, Any] = {}

    def refused(words: str) -> None:
        (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"spare1": spare}}}))
        assert fleet.drill("-i", str(tmp_path / "hosts.json"), code=2, hosts="web1", drill_scenario="lost-host", drill_standby="spare1") == {}
        assert words in " ".join(fleet.output.split()), fleet.output

    spare["openclaw_backup_policies"] = [{"name": "own", "sources": ["/srv"]}]
    spare["openclaw_backup_scratch"] = "/srv/spare"
    refused("openclaw_backup_scratch of spare1 is '/srv/spare', which its own policy own backs up")
    spare["openclaw_backup_scratch"] = "/nowhere"
    refused("/nowhere")
    spare["ansible_port"] = 1
    refused("spare1 cannot be reached")
    assert_nothing_is_left(fleet, "spare1", before)


def test_a_machine_without_room_says_so_and_keeps_nothing(fleet: Lab, tmp_path: Path) -> None:
    spare = fleet.host("spare1")
    # Enough for the program, and with that there too little for the 8 MiB that come back.
    spare.run_expect([0], "fallocate -l $(($(stat -f -c '%a * %S' /dev/shm) - (10 << 20))) /dev/shm/full")
    before = everything(fleet, "spare1")
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"spare1": {"openclaw_backup_scratch": "/dev/shm"}}}}))
    passed = fleet.drill("-i", str(tmp_path / "hosts.json"), code=2, hosts="web1", drill_scenario="lost-host", drill_standby="spare1")
    assert (passed["web1"]["verdict"], passed["web1"]["error"]["kind"]) == ("failed", "no_space")
    assert spare.file("/dev/shm").listdir() == ["full"]
    assert_nothing_is_left(fleet, "spare1", before)
    spare.run_expect([0], "rm /dev/shm/full")


def test_a_host_whose_key_was_lost_from_the_escrow_would_be_lost(fleet: Lab) -> None:
    before = everything(fleet, "spare1")
    escrow = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "escrow"
    known = escrow / "web1" / "ssh" / "known_hosts"
    kept = known.read_text()
    known.unlink()
    passed = fleet.drill(code=2, drill_scenario="lost-host", drill_standby="spare1")
    assert [(host, result["verdict"]) for host, result in passed.items()] == [("web2", "passed")]
    assert fleet.report()["web1"] == {"drill": "failure"}
    assert "%s is not there: the key by which the vault is known" % known in fleet.output
    # Another key than the vault's own: somebody else may be there.
    known.write_text(kept.partition(" ")[0] + " " + (escrow / "web1" / "ssh" / "id_ed25519.pub").read_text())
    passed = fleet.drill(code=2, hosts="web1", drill_scenario="lost-host", drill_standby="spare1")
    assert (passed["web1"]["verdict"], passed["web1"]["rc"]) == ("failed", 6) and "host key" in passed["web1"]["msg"].lower()
    known.write_text(kept)
    assert_nothing_is_left(fleet, "spare1", before)


def test_an_objective_that_the_installing_alone_breaks_is_missed(fleet: Lab) -> None:
    policy = {"name": "work", "sources": ["/srv/work"], "objectives": {"rto": "1s"}}
    passed = fleet.drill(code=2, hosts="web1", drill_scenario="lost-host", drill_standby="spare1", policies=[policy])
    assert (passed["web1"]["verdict"], fleet.report()["web1"]["rto"], fleet.report()["web1"]["bytes"]) == ("missed", "failure", "ok")


def test_a_wrong_byte_on_the_vault_fails_one_drill_and_no_other(fleet: Lab) -> None:
    stored = "/srv/openclaw-backup/web2/work/snapshots/*/tree/srv/work/file"
    fleet.host("vault1").run_expect([0], "chmod u+w %s && printf W | dd of=$(echo %s) conv=notrunc status=none" % (stored, stored))
    passed = fleet.drill(code=2)
    assert (passed["web1"]["verdict"], passed["web2"]["verdict"], passed["web2"]["rc"]) == ("passed", "failed", 7)
    assert fleet.report()["web2"]["restore"] == "failure" and "failure" not in fleet.report()["web1"].values()
    assert "## Drill of web2, policy work: failed" in max(fleet.evidence.glob("*.md")).read_text()
    problems = json.loads(fleet.host("vault1").run("openclaw-backup-vault status web2 work --json").stdout)["problems"]
    assert any(text.startswith("the last drill failed: ") for text in problems)
    # What the playbook does not know itself, it leaves to the program: there is no older snapshot that could help.
    assert {(result["scenario"], "older snapshot" in result["msg"]) for result in fleet.drill(code=2, drill_scenario="damaged").values()} == {("damaged", True)}
