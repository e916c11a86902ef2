# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks as docs/playbooks.md tells: on the local inventory out of the box, on several hosts by policies, with errors that name the variable."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Site:
    """A directory with things to back up, and an inventory."""

    def __init__(self, home: Path, run: Run) -> None:
        self.home = home
        self._run = run
        self.inventory = str(ROOT / "inventories" / "local" / "hosts.yml")
        (home / "tree" / "folder").mkdir(parents=True)
        (home / "tree" / "folder" / "file").write_bytes(b"content")
        self.output = ""

    def play(self, name: str, *arguments: str, code: int = 0, warned: str = "", **variables: Any) -> Dict[str, Any]:
        """Run a playbook by its name; what it passed on, by host. ``warned``: what it is to warn of, and nothing else."""
        playbook = name if "." in name else str(ROOT / "playbooks" / (name + ".yml"))
        given = {"openclaw_backup_" + key: value for key, value in variables.items()}
        # The modules are measured elsewhere, and measuring coverage takes Ansible half as long again.
        environment = {"ANSIBLE_SHOW_CUSTOM_STATS": "true", "COVERAGE_PROCESS_CONFIG": ""}
        done = self._run(self.home, "-i", self.inventory, playbook, "-e", json.dumps(given), *arguments, **environment)
        self.output = done.stdout + done.stderr
        assert done.returncode == code, self.output
        assert done.stderr.count("[WARNING]") == bool(warned) and warned in " ".join(done.stderr.split()), done.stderr
        assert "[DEPRECATION" not in done.stderr, done.stderr
        match = re.search(r"^\tRUN: (\{.*\})$", done.stdout, re.M)
        stats: Dict[str, Any] = json.loads(match.group(1)) if match else {}
        assert set(stats) <= {"openclaw_backup"}
        return stats.get("openclaw_backup", {})

    def local(self, name: str, *arguments: str, code: int = 0, warned: str = "", **variables: Any) -> Dict[str, Any]:
        """The same on the local inventory; the result of its only policy."""
        where = {"source": str(self.home / "tree"), "vault": str(self.home / "vault")}
        passed = self.play(name, *arguments, code=code, warned=warned, **where, **variables)
        result: Dict[str, Any] = passed["localhost"][name.rpartition(".")[2]]["local"]
        return result


@pytest.fixture
def site(tmp_path: Path, ansible_playbook: Run) -> Site:
    return Site(tmp_path, ansible_playbook)


def test_the_local_inventory_backs_up_verifies_and_restores(site: Site) -> None:
    predicted = site.local("backup", "--check")
    assert predicted["changed"] and predicted["snapshot_id"] is None and not (site.home / "vault").exists()
    assert "1 file, 7 B would be sent" in site.output
    first = site.local("backup")
    assert first["changed"] and first["files_sent"] == 1 and first["snapshot_id"] in site.output
    again = site.local("backup", "--check", "--diff")
    assert not again["changed"] and again["snapshot_id"] == first["snapshot_id"]
    assert "unchanged since snapshot " + first["snapshot_id"] in site.output
    assert not site.local("backup")["changed"]

    assert site.local("verify")["ok"] and "paths as backed up" in site.output
    state = site.local("status")
    assert state["ok"] and state["snapshots"] == 1 and "1 snapshot, the newest state is " in site.output

    copy = site.home / "copy"
    assert site.local("restore", "--check", dest=str(copy))["changed"] and not copy.exists()
    restored = site.local("restore", dest=str(copy))
    assert restored["verified"] and restored["files_restored"] == 1
    subprocess.run(["diff", "-r", str(site.home / "tree"), str(copy) + str(site.home / "tree")], check=True)
    assert not site.local("restore", dest=str(copy))["changed"]


def test_damage_and_refusal_fail_the_play_and_are_passed_on(site: Site) -> None:
    site.local("backup")
    (site.home / "tree" / "folder" / "file").write_bytes(b"spoilt")
    predicted = site.local("restore", "--check", "--diff", warned="be refused: set confirm")
    assert (predicted["failed"], predicted["changed"], predicted["files_replaced"]) == (False, True, 1)
    refused = site.local("restore", code=2)
    assert (refused["failed"], refused["rc"], refused["error"]["kind"]) == (True, 4, "confirm")
    assert site.local("restore", undo=str(site.home / "undo"))["kept"] == 1
    (stored,) = (site.home / "vault").glob("localhost/local/snapshots/*/tree/**/file")
    stored.chmod(0o600)
    stored.write_bytes(b"CONTENT")
    damaged = site.local("verify", code=2)
    assert (damaged["ok"], damaged["rc"], damaged["counts"]["damaged"]) == (False, 7, 1)
    assert str(site.home / "tree" / "folder" / "file") in damaged["msg"]


def test_a_backup_waits_for_another_run_that_is_soon_over(site: Site) -> None:
    site.local("backup")
    (site.home / "tree" / "folder" / "file").write_bytes(b"changed")
    with (site.home / "state" / "localhost" / "local" / "lock").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        end = threading.Timer(12, fcntl.flock, (other, fcntl.LOCK_UN))
        end.start()
        assert site.local("backup")["changed"]
        end.join()


def test_a_prune_removes_what_the_policys_retention_does_not_keep(site: Site) -> None:
    rules = {"keep_last": 1, "protect": "0s"}
    policies = [{"name": "local", "sources": [str(site.home / "tree")], "target": str(site.home / "vault")}]
    for number in range(3):
        (site.home / "tree" / "folder" / "file").write_text("number %d" % number)
        site.play("backup", policies=policies)
    assert site.play("prune", policies=policies) == {"localhost": {"prune": {}}}, "a policy without a retention keeps all"
    policies[0]["retention"] = rules
    predicted = site.play("prune", "--check", policies=policies)["localhost"]["prune"]["local"]
    assert len(predicted["removed"]) == 2 and len(os.listdir(site.home / "vault" / "localhost" / "local" / "snapshots")) == 3
    done = site.play("prune", policies=policies)["localhost"]["prune"]["local"]
    assert done["changed"] and done["removed"] == predicted["removed"] and "2 snapshots removed, 1 kept, " in site.output
    assert done["bytes_freed"] == predicted["bytes_freed"] > 0
    assert os.listdir(site.home / "vault" / "localhost" / "local" / "snapshots") == [done["kept"][0]["id"]]
    policies[0]["retention"] = {"protect": "1d"}
    refused = site.play("prune", code=2, policies=policies)["localhost"]["prune"]["local"]
    assert (refused["failed"], refused["rc"], refused["error"]["field"]) == (True, 2, "retention")


def test_a_drill_proves_and_keeps_the_evidence_on_the_controller(site: Site) -> None:
    evidence = site.home / "evidence"
    missing = site.local("drill", code=2, evidence=str(evidence))
    assert (missing["failed"], missing["verdict"]) == (True, "failed"), "a host that was never backed up does not come back"
    site.local("backup")
    predicted = site.local("drill", "--check", evidence=str(evidence))
    assert (predicted["failed"], predicted["verdict"]) == (False, None) and "would be restored and proven" in site.output
    assert len(list(evidence.iterdir())) == 2, "a prediction is no evidence"
    time.sleep(1)
    done = site.local("drill", evidence=str(evidence), asked_by="Ann", drill_older_than="1h", drill_budget={"bytes": "1k"})
    assert done["verdict"] == "passed" and done["asked_by"]["claimed"] == "Ann" and "1 policy to drill" in site.output and "came back in" in site.output
    reports = sorted(evidence.iterdir())
    assert [path.suffix for path in reports] == [".md", ".xml"] * 2
    assert "passed" in reports[2].read_text() and "Asked by: root (Ann)" in reports[2].read_text().replace(getpass.getuser(), "root")
    suite = ElementTree.fromstring(reports[3].read_bytes())[0]
    assert (suite.get("name"), suite.get("failures")) == ("drill localhost local", "0")
    assert site.play("drill", source=str(site.home / "tree"), vault=str(site.home / "vault"), drill_older_than="1h") == {"localhost": {"drill": {}}}
    assert "1 was drilled within 1h" in site.output

    (stored,) = (site.home / "vault").glob("localhost/local/snapshots/*/tree/**/file")
    stored.chmod(0o600)
    stored.write_bytes(b"CONTENT")
    damaged = site.local("drill", code=2)
    assert (damaged["verdict"], damaged["rc"]) == ("failed", 7) and "file" in damaged["msg"]
    unkept = site.local("drill", code=2, evidence=str(stored))
    assert unkept["verdict"] == "failed" and "the evidence could not be kept" in site.output


class Fleet(Site):
    """Two hosts that are this machine."""

    def __init__(self, home: Path, run: Run) -> None:
        super().__init__(home, run)
        self.inventory = "hosts.json"
        hosts = {}
        for host in ("web1", "web2"):
            (home / host).mkdir()
            (home / host / "file").write_text(host)
            hosts[host] = {"openclaw_backup_policies": [self.policy("small", host), {**self.policy("large", "tree"), "exclude": ["*.tmp"]}]}
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (home / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}))

    def policy(self, name: str, source: str) -> Dict[str, Any]:
        return {"name": name, "sources": [str(self.home / source)], "target": str(self.home / "vault")}


@pytest.fixture
def fleet(tmp_path: Path, ansible_playbook: Run) -> Fleet:
    return Fleet(tmp_path, ansible_playbook)


def test_every_policy_of_every_host_by_the_full_name_of_the_playbook(fleet: Fleet) -> None:
    passed = fleet.play("openclaw.backup.backup")
    assert {host: sorted(results["backup"]) for host, results in passed.items()} == {host: ["large", "small"] for host in ("web1", "web2")}
    assert sorted(path.name for path in (fleet.home / "vault").iterdir() if path.is_dir()) == ["web1", "web2"]


def test_a_policy_that_fails_does_not_keep_the_others_from_running(fleet: Fleet) -> None:
    (fleet.home / "web1" / "file").unlink()
    (fleet.home / "web1").rmdir()
    passed = fleet.play("backup", code=2)
    assert {policy: result["failed"] for policy, result in passed["web1"]["backup"].items()} == {"small": True, "large": False}
    assert {policy: result["failed"] for policy, result in passed["web2"]["backup"].items()} == {"small": False, "large": False}
    assert passed["web1"]["backup"]["small"]["error"]["field"] == "sources"


def test_one_host_and_one_policy_and_the_history_of_another_host(fleet: Fleet) -> None:
    assert list(fleet.play("backup", hosts="web1", policy="small")) == ["web1"]
    passed = fleet.play("restore", hosts="web2", policy="small", from_host="web1", dest=str(fleet.home / "copy"), paths=[str(fleet.home / "web1" / "file")])
    assert passed["web2"]["restore"]["small"]["files_restored"] == 1
    assert (fleet.home / "copy" / str(fleet.home).strip("/") / "web1" / "file").read_text() == "web1"


@pytest.mark.parametrize(
    "variables, named",
    [
        ({}, ["openclaw_backup_policies", "-e openclaw_backup_source="]),
        ({"source": "/etc"}, ["-e openclaw_backup_vault="]),
        ({"policies": "etc"}, ["openclaw_backup_policies is a str"]),
        ({"policies": []}, ["openclaw_backup_policies", "one or more"]),
        ({"policies": [{"name": "x", "source": ["/etc"]}]}, ["openclaw_backup_policies, policy 1 (x)", "did you mean 'sources'"]),
        ({"source": "/etc", "vault": "/nonexistent", "path": ["/etc/hosts"]}, ["did you mean openclaw_backup_paths?"]),
        ({"source": "/etc", "vault": "/nonexistent", "policy": "nobody"}, ["openclaw_backup_policy is 'nobody'", "Allowed: local"]),
    ],
)
def test_a_missing_or_malformed_variable_is_named_before_anything_runs(site: Site, variables: Dict[str, Any], named: List[str]) -> None:
    assert site.play("backup", code=2, **variables) == {"localhost": {"backup": {}}}
    for words in named:
        assert words in site.output
    assert "Add the snapshots" not in site.output


def test_a_drill_is_for_those_that_nobody_has_drilled_for_longest(fleet: Fleet) -> None:
    fleet.play("backup", policy="small")
    budget = {"bytes": 1}
    order = []
    for _turn in range(2):
        passed = fleet.play("drill", policy="small", drill_budget=budget)
        assert "1 waits for another budget" in fleet.output
        order += [host for host, results in passed.items() if results["drill"]]
    assert order == ["web1", "web2"]
    passed = fleet.play("drill", policy="small", drill_scenario="damaged", code=2)
    assert all("older snapshot" in results["drill"]["small"]["msg"] for results in passed.values()), "each has one snapshot alone"
    lost = {"drill_scenario": "lost-host"}
    for variables, named in (
        ({"drill_budget": {"byte": 1}}, "openclaw_backup_drill_budget"),
        ({"drill_on": "moon"}, "Allowed: vault, host"),
        ({"drill_scenario": "flood"}, "openclaw_backup_drill_scenario is 'flood'. Allowed: restore, damaged"),
        ({**lost, "drill_standby": "web3"}, "'web3', which is no host of the inventory"),
        ({**lost, "drill_standby": "web2", "policy": "small"}, "on the host itself. Next: have a copy elsewhere"),
    ):
        assert fleet.play("drill", code=2, **variables) == {host: {"drill": {}} for host in ("web1", "web2")}
        assert named in fleet.output


@pytest.mark.parametrize("playbook", ["backup", "drill", "prune", "restore", "status", "verify"])
def test_hosts_that_the_inventory_does_not_have_are_an_error_before_anything_runs(fleet: Fleet, playbook: str) -> None:
    fleet.play(playbook, code=4, warned="Could not match supplied host pattern, ignoring: wbe2", hosts="web1,wbe2")
    assert "openclaw_backup_hosts: wbe2 matches no host of the inventory" in fleet.output
    assert "TASK" not in fleet.output and not (fleet.home / "vault").exists()


def test_without_any_policies_the_variable_is_named(fleet: Fleet) -> None:
    slip = {"openclaw_backup_policies": [fleet.policy("small", "web1")], "openclaw_backup_vault": "vault1", "ansible_connection": "local"}
    hosts = {"web1": {"ansible_connection": "local"}, "web2": slip, "vault1": {"openclaw_backup_vault_notfy": {}}}
    (fleet.home / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    fleet.play("verify", code=2, hosts="web1,web2")
    assert "openclaw_backup_policies is missing" in fleet.output
    # Nor is a slip of the pen in the variables of a host's vault passed over.
    assert "vault1: openclaw_backup_vault_notfy is not a variable of the playbooks. Next: did you mean openclaw_backup_vault_notify?" in fleet.output


@pytest.mark.parametrize("arguments", [(), ("-e", "openclaw_backup_serial=1")])
def test_a_host_that_is_not_there_keeps_nobody_from_working_and_stands_in_the_table(fleet: Fleet, arguments: "tuple[str, ...]") -> None:
    inventory = json.loads((fleet.home / "hosts.json").read_text())
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "openclaw_backup_policies": [fleet.policy("small", "web1")]}
    # The first one, and so the one on which what runs once would run.
    inventory["all"]["hosts"] = {"web0": gone, **inventory["all"]["hosts"]}
    (fleet.home / "hosts.json").write_text(json.dumps(inventory))
    passed = fleet.play("backup", *arguments, code=2)
    assert passed["web0"] == {"backup": {}}
    assert all(not result["failed"] for host in ("web1", "web2") for result in passed[host]["backup"].values())
    (line,) = re.findall(r'"web0  .*', fleet.output)
    assert "failed   web0 cannot be reached: " in line
    assert '"3 hosts: 4 changed, 1 failed"' in fleet.output
    assert re.search(r"^web0 +: .*failed=1 ", fleet.output, re.M) and re.search(r"^web1 +: .*failed=0 ", fleet.output, re.M)


def test_results_of_an_earlier_playbook_of_the_same_run_are_not_told_again(fleet: Fleet) -> None:
    (fleet.home / "both.yml").write_text(
        json.dumps([{"import_playbook": "openclaw.backup.backup"}, {"import_playbook": "openclaw.backup.verify", "vars": {"openclaw_backup_policy": "nobody"}}])
    )
    fleet.play(str(fleet.home / "both.yml"), code=2)
    assert '"2 hosts: 4 changed"' in fleet.output and '"2 hosts: 2 failed"' in fleet.output
