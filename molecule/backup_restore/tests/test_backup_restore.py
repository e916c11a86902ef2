# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One story on a vault and two hosts, told with the playbooks alone. The tests go on from one another, in their order."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[3]
FILE = "/srv/work/file"
HISTORY = "/srv/openclaw-backup/%s/work/snapshots"


class Fleet:
    """The lab, by its playbooks and by its hosts."""

    def __init__(self, inventory: str) -> None:
        self.inventory = inventory
        self.output = ""
        self.first = ""

    def play(self, name: str, *arguments: str, code: int = 0, verb: str = "", **variables: Any) -> Dict[str, Any]:
        """Run a playbook; what it passed on of itself, or of ``verb``, by host and policy."""
        given = json.dumps({"openclaw_backup_" + key: value for key, value in variables.items()})
        command = ["ansible-playbook", "-i", self.inventory, str(ROOT / "playbooks" / (name + ".yml")), "-e", given, *arguments]
        environment = {**os.environ, "ANSIBLE_SHOW_CUSTOM_STATS": "true", "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        self.output = done.stdout + done.stderr
        assert done.returncode == code, self.output
        match = re.search(r"^\tRUN: (\{.*\})$", done.stdout, re.M)
        assert match, self.output
        passed: Dict[str, Dict[str, Any]] = json.loads(match.group(1))["openclaw_backup"]
        return {host: results.get(verb or name, {}) for host, results in passed.items()}

    def host(self, name: str) -> Any:
        return testinfra.get_host("ansible://" + name, ansible_inventory=self.inventory)

    def snapshots(self, name: str) -> List[str]:
        return sorted(self.host("vault1").file(HISTORY % name).listdir())


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Fleet:
    return Fleet(request.config.getoption("ansible_inventory"))


def test_a_backup_of_everybody_now(fleet: Fleet) -> None:
    (fleet.first,) = fleet.snapshots("web1")
    for text in ("two", "three"):
        for name in ("web1", "web2"):
            fleet.host(name).run_expect([0], "echo %s >>%s" % (text, FILE))
        passed = fleet.play("backup", hosts="backup_clients")
        assert {(host, policy) for host, results in passed.items() for policy, result in results.items() if result["changed"]} == {
            (host, policy) for host in ("web1", "web2") for policy in ("work", "here")
        }
        assert '"2 hosts: 4 changed"' in fleet.output
    assert len(fleet.snapshots("web1")) == 3
    fleet.play("backup", hosts="backup_clients")
    assert '"2 hosts: 4 ok"' in fleet.output


@pytest.fixture(scope="module")
def down(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Arguments that make web2 unreachable."""
    path = tmp_path_factory.mktemp("down") / "down.json"
    path.write_text(json.dumps({"all": {"hosts": {"web2": {"ansible_host": "127.0.0.1", "ansible_port": 1}}}}))
    return ("-i", str(path))


def test_the_vault_proves_what_it_has_of_a_host_that_is_down(fleet: Fleet, down: Sequence[str]) -> None:
    passed = fleet.play("verify", *down, code=2, hosts="backup_clients")
    for name in ("web1", "web2"):
        result = passed[name]["work"]
        assert (result["ok"], result["snapshot_id"], result["hashed_files"]) == (True, fleet.snapshots(name)[-1], 1)
    assert passed["web1"]["here"]["ok"] and "here" not in passed["web2"]
    assert '"web2  -       failed  web2 cannot be reached: ' in fleet.output and '"2 hosts: 3 ok, 1 failed"' in fleet.output
    assert fleet.play("verify", *down, hosts="backup_clients", policy="work", slice="1/2")["web2"]["work"]["slice"] == "1/2"


def test_the_vault_prunes(fleet: Fleet, down: Sequence[str]) -> None:
    predicted = fleet.play("prune", "--check", *down, hosts="backup_clients")
    assert {name: [item["id"] for item in results["work"]["removed"]] for name, results in predicted.items()} == {
        name: [fleet.snapshots(name)[0]] for name in ("web1", "web2")
    }
    assert len(fleet.snapshots("web2")) == 3
    fleet.play("prune", "--limit", "web2", *down, hosts="backup_clients")
    assert (len(fleet.snapshots("web1")), len(fleet.snapshots("web2"))) == (3, 2)


def test_everybody_is_protected_and_one_who_is_not_is_a_failure(fleet: Fleet) -> None:
    passed = fleet.play("status", hosts="backup_clients")
    assert passed["web2"]["work"]["snapshots"] == 2 and passed["web1"]["here"]["ok"] and '"2 hosts: 4 ok"' in fleet.output
    vault = fleet.host("vault1")
    stored = "%s/%s/tree%s" % (HISTORY % "web2", fleet.snapshots("web2")[-1], FILE)
    content = vault.file(stored).content_string
    vault.run_expect([0], "printf %s > %s" % (content.upper().replace("\n", "\\n").replace(" ", "_"), stored))
    assert not fleet.play("verify", code=2, hosts="web2", policy="work")["web2"]["work"]["ok"]
    assert fleet.play("status", code=2, hosts="backup_clients")["web2"]["work"]["problems"] == ["the newest snapshot is damaged"]
    # What is damaged is sent again when the host next talks to the vault: it has something to send, or is due for a heartbeat.
    fleet.host("web2").run_expect([0], "echo other >/srv/work/other")
    assert fleet.play("backup", hosts="web2")["web2"]["work"]["files_sent"] == 2
    assert fleet.play("verify", hosts="web2", policy="work")["web2"]["work"]["ok"]


def test_one_path_as_it_was_at_a_point_in_time(fleet: Fleet) -> None:
    host = fleet.host("web1")
    lines = ["work of web1", "two", "three"]
    assert host.file(FILE).content_string.split("\n") == [*lines, ""]
    refused = fleet.play("restore", code=2, hosts="web1", policy="work", snapshot=fleet.first)["web1"]["work"]
    assert refused["error"]["kind"] == "confirm" and host.file(FILE).content_string.split("\n") == [*lines, ""]
    predicted = fleet.play("restore", "--check", hosts="web1", policy="work", snapshot=fleet.first, confirm=True)["web1"]["work"]
    assert predicted["changed"] and host.file(FILE).content_string.split("\n") == [*lines, ""]
    when = fleet.first[:15]
    moment = "%s-%s-%sT%s:%s:%sZ" % (when[:4], when[4:6], when[6:8], when[9:11], when[11:13], when[13:15])
    second = "%s:%02dZ" % (moment[:-4], int(moment[-3:-1]) + 1) if int(moment[-3:-1]) < 59 else fleet.first
    done = fleet.play("restore", hosts="web1", policy="work", snapshot=second, paths=[FILE], undo="/srv/undo")["web1"]["work"]
    assert (done["snapshot_id"], done["files_restored"], done["kept"], done["verified"]) == (fleet.first, 1, 1, True)
    assert host.file(FILE).content_string == "work of web1\n"
    assert host.file("/srv/undo" + FILE).content_string.split("\n") == [*lines, ""]


def test_onto_another_host(fleet: Fleet) -> None:
    done = fleet.play("restore", hosts="web2", policy="work", from_host="web1", dest="/srv/of-web1")["web2"]["work"]
    assert done["snapshot_id"] == fleet.snapshots("web1")[-1]
    assert fleet.host("web2").file("/srv/of-web1" + FILE).content_string == "work of web1\ntwo\nthree\n"


def test_nothing_of_it_lets_anybody_read_afterwards(fleet: Fleet) -> None:
    vault = fleet.host("vault1")
    assert vault.file("/etc/openclaw-backup/grants").listdir() == []
    assert vault.run("cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout.count("\n") == 2
    assert "--read" not in vault.run("cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout


def test_a_bare_machine_in_the_place_of_one_that_was_lost(fleet: Fleet) -> None:
    host = fleet.host("web1")
    fleet.play("backup", hosts="web1", policy="work")
    newest = fleet.snapshots("web1")[-1]
    host.run_expect([0], "rm -rf /srv/work /srv/vault /srv/undo /etc/openclaw-backup /var/lib/openclaw-backup /usr/local/bin/openclaw-backup")
    # An empty machine never overwrites the history of the one before it.
    refused = fleet.play("site", "--limit", "web1", code=2, verb="backup", policy="work")["web1"]["work"]
    assert refused["error"]["field"] == "sources" and fleet.snapshots("web1")[-1] == newest
    host.run_expect([0], "mkdir /srv/work")
    assert fleet.play("backup", hosts="web1", policy="work", code=2)["web1"]["work"]["error"]["kind"] == "restore_first"
    restored = fleet.play("restore", hosts="web1", policy="work", confirm=True)["web1"]["work"]
    assert (restored["snapshot_id"], restored["verified"]) == (newest, True)
    assert host.file(FILE).content_string == "work of web1\n"
    assert not fleet.play("backup", hosts="web1", policy="work")["web1"]["work"]["changed"]
    host.run_expect([0], "echo new >>%s" % FILE)
    assert fleet.play("backup", hosts="web1", policy="work")["web1"]["work"]["changed"]
