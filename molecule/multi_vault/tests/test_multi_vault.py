# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two vaults keep copies of what the other has, until one burns: web1 sends to vault1, web2 to vault2. The tests go on from one another, in their order."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ansible_collections.openclaw.backup.tests.lab.fleet import ROOT, Fleet

FILE = "/srv/work/file"
HISTORY = "/srv/openclaw-backup/%s/work/snapshots"
KEEPER = "openclaw-vault"
CONFIG = "/etc/openclaw-backup"
CRON = "/etc/cron.d/openclaw-backup-vault-copies"
LET_IN = "/var/lib/openclaw-ingest/openclaw-copies/.ssh/authorized_keys"
TURN = "/var/lib/openclaw-backup-vault/web1/work/repair.turn"
KEY = "/var/lib/openclaw-backup-vault/id_copies"
REPLICATE = "runuser -u %s -- /usr/local/libexec/openclaw-backup/upkeep replicate" % KEEPER


class Lab(Fleet):
    """``copied``: the snapshots of web1 that were copied before vault1 burnt; ``known``: what the host says of the run that made the newest of them."""

    def __init__(self, inventory: str) -> None:
        super().__init__(inventory)
        self.copied: List[str] = []
        self.known: Dict[str, Any] = {}

    def snapshots(self, vault: str, name: str) -> List[str]:
        return sorted(self.host(vault).file(HISTORY % name).listdir())

    def about(self, vault: str, verb: str, name: str) -> Dict[str, Any]:
        """What a vault says of the history of a host."""
        found: Dict[str, Any] = json.loads(self.host(vault).run("openclaw-backup-vault %s %s work --json" % (verb, name)).stdout)
        return found

    def work(self, name: str) -> Dict[str, Any]:
        """Let something change on a host and be backed up; its record of that run."""
        host = self.host(name)
        host.run_expect([0], "date +%%s >>%s && openclaw-backup run work --quiet" % FILE)
        runs = host.file("/var/lib/openclaw-backup/%s/work/runs.jsonl" % name).content_string.splitlines()
        record: Dict[str, Any] = json.loads(runs[-1])
        return record


def seconds_of(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Lab:
    return Lab(request.config.getoption("ansible_inventory"))


def test_each_history_lies_on_both_vaults_as_soon_as_there_is_one(fleet: Lab) -> None:
    for name, first, second in (("web1", "vault1", "vault2"), ("web2", "vault2", "vault1")):
        (only,) = fleet.snapshots(first, name)
        assert fleet.snapshots(second, name) == [only]
        (copy,) = fleet.about(second, "list", name)["snapshots"]
        assert copy["copied"]["from"] == "ssh://openclaw-copies@%s:22/" % first
        assert "copied" not in fleet.about(first, "list", name)["snapshots"][0] or not fleet.about(first, "list", name)["snapshots"][0]["copied"]


def test_the_key_of_the_other_vault_reads_and_does_nothing_else(fleet: Lab) -> None:
    vault = fleet.host("vault2")
    assert (vault.file(KEY).user, vault.file(KEY).mode) == (KEEPER, 0o600)
    ssh = "ssh -n -o BatchMode=yes -o UserKnownHostsFile=%s/vault/known_hosts -i %s openclaw-copies@vault1" % (CONFIG, KEY)
    said = vault.run("timeout 60 %s cat /etc/passwd 2>&1; echo $?" % ssh).stdout
    assert "This key reads copies alone" in said and said.endswith("\n4\n"), said
    rules = fleet.host("vault1").run("sudo -l -U openclaw-copies").stdout.partition("may run the following commands")[2].splitlines()[1:]
    assert [rule.split(":")[-1].strip() for rule in rules if rule.strip()] == ['/usr/local/libexec/openclaw-backup/session-copies ""']


def test_no_host_can_send_to_the_vault_that_copies_from_its_own(fleet: Lab) -> None:
    keys = fleet.host("vault2").run("cat /var/lib/openclaw-ingest/ocb-web1-*/.ssh/authorized_keys")
    assert (keys.rc, keys.stdout) == (0, "")


def test_cron_fetches_what_is_new_and_then_nothing(fleet: Lab) -> None:
    fleet.known = fleet.work("web1")
    vault = fleet.host("vault2")
    assert len(fleet.snapshots("vault2", "web1")) == 1
    assert vault.file(CRON).content_string.endswith("0 0 1 1 * %s /usr/local/libexec/openclaw-backup/upkeep replicate\n" % KEEPER)
    for _again in range(2):
        vault.run_expect([0], REPLICATE)
        fleet.copied = fleet.snapshots("vault2", "web1")
        assert fleet.copied == fleet.snapshots("vault1", "web1") and len(fleet.copied) == 2
    # One hour, and twice the year that lies between two replications here.
    policy = json.loads(vault.file(CONFIG + "/vault/verify/web1/work.json").content_string)
    assert policy["objectives"] == {"rpo": "732d1h"}


def test_each_copy_is_asked_how_old_it_is(fleet: Lab) -> None:
    passed = fleet.play("status")
    assert {name: sorted(found) for name, found in passed.items()} == {"web1": ["work", "work on vault2"], "web2": ["work", "work on vault1"]}
    assert all(result["ok"] for found in passed.values() for result in found.values()) and passed["web1"]["work on vault2"]["rpo"] == 63_248_400


def test_what_a_verification_finds_damaged_in_a_copy_comes_again(fleet: Lab) -> None:
    vault = fleet.host("vault2")
    stored = "%s/%s/tree%s" % (HISTORY % "web1", fleet.copied[0], FILE)
    spoil = "chmod u+w %s && printf W | dd of=%s conv=notrunc status=none" % (stored, stored)
    whole = vault.file(stored).content
    known = "openclaw-backup-vault verify web1 work --snapshot %s --quiet" % fleet.copied[0]
    vault.run_expect([0], spoil)
    vault.run_expect([7], known)
    vault.run_expect([0], "rm %s && %s" % (TURN, REPLICATE))  # a day later
    vault.run_expect([0], known)
    assert vault.file(stored).content == whole
    vault.run_expect([0], spoil)
    passed = fleet.play("verify", hosts="web1", vault="vault2", snapshot=fleet.copied[0], repair=True)
    assert passed["web1"]["work"]["ok"] and vault.file(stored).content == whole


def test_a_vault_that_is_silent_keeps_no_host_from_its_own(fleet: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    silent = tmp_path_factory.mktemp("silent") / "silent.json"
    silent.write_text(json.dumps({"all": {"hosts": {"vault2": {"ansible_port": 1}}}}))
    known = fleet.host("web1").file(CONFIG + "/ssh/known_hosts").content_string
    fleet.host("web1").run_expect([0], "echo more >>%s" % FILE)
    passed = fleet.play("site", "-i", str(silent), "--limit", "web1", code=2, verb="backup")
    assert passed["web1"]["work"]["changed"] and not passed["web1"]["work"]["failed"]
    assert "work could not be copied to vault2" in fleet.output
    assert sorted(fleet.host("web1").file(CONFIG + "/ssh/known_hosts").content_string.splitlines()) == sorted(known.splitlines())
    fleet.known = fleet.work("web1")
    fleet.host("vault2").run_expect([0], REPLICATE)
    fleet.copied = fleet.snapshots("vault2", "web1")


def test_a_host_that_moves_takes_its_history_along(fleet: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    fleet.work("web2")
    before = fleet.snapshots("vault2", "web2")
    assert len(fleet.snapshots("vault1", "web2")) == len(before) - 1
    pinned = tmp_path_factory.mktemp("pinned") / "pinned.json"
    pinned.write_text(json.dumps({"all": {"hosts": {"web2": {"openclaw_backup_vault": "vault1"}}}}))
    fleet.host("vault1").run_expect([0], "echo 'restrict ssh-ed25519 AAAA openclaw-copies@vault9' >>%s" % LET_IN)
    # The play is broken off when the host has moved and was not backed up yet; its schedule goes on all the same.
    fleet.run("site", "-i", str(pinned), "--limit", "web2,vault1", code=2, move=True, policy="nobody")
    assert "openclaw_backup_policy is 'nobody'" in fleet.output and fleet.snapshots("vault1", "web2") == before
    let_in = fleet.host("vault1").file(LET_IN).content_string
    assert "@vault9" not in let_in and "openclaw-copies@vault2" in let_in, "a vault that the inventory does not have is locked out at once"
    assert fleet.work("web2")["bytes_sent"] < 100
    listed = json.loads(fleet.host("web2").run_expect([0], "openclaw-backup list work --json").stdout)["snapshots"]
    assert [item["sequence"] for item in listed] == [3, 2, 1] and [item["id"] for item in listed][1:] == before[::-1]
    assert fleet.snapshots("vault2", "web2") == before
    keys = fleet.host("vault2").run("cat /var/lib/openclaw-ingest/ocb-web2-*/.ssh/authorized_keys")
    assert (keys.rc, keys.stdout) == (0, ""), "what it left lets it in no more"


def test_a_vault_burns(fleet: Lab) -> None:
    last = fleet.work("web1")
    assert last["snapshot_id"] not in fleet.copied
    lab = hashlib.sha256(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"].encode()).hexdigest()[:8]
    subprocess.run(["podman", "kill", "openclaw-backup-%s-vault1" % lab], check=True, capture_output=True)
    # Whoever is to know of what cron could not do is told by its exit code.
    assert fleet.host("vault2").run(REPLICATE).rc == 6
    assert fleet.snapshots("vault2", "web1") == fleet.copied


def test_how_much_is_lost_is_what_the_other_vault_says(fleet: Lab) -> None:
    status = fleet.about("vault2", "status", "web1")
    assert status["newest"]["id"] == fleet.known["snapshot_id"] == fleet.copied[-1]
    begun, ended = (seconds_of(fleet.known[key]) for key in ("started", "finished"))
    assert begun <= seconds_of(status["protected_until"]) <= ended
    assert abs(seconds_of(status["as_of"]) - status["age"] - seconds_of(status["protected_until"])) < 1


def test_a_host_gets_its_files_back_from_the_other_vault(fleet: Lab) -> None:
    host = fleet.host("web1")
    before = host.file(FILE).content_string.splitlines()
    host.run_expect([0], "rm -r /srv/work && mkdir /srv/work")
    done = fleet.play("restore", hosts="web1", confirm=True)["web1"]["work"]
    assert (done["snapshot_id"], done["verified"]) == (fleet.copied[-1], True)
    after = host.file(FILE).content_string.splitlines()
    assert after == before[:-1], "what came after the last replication is lost, and nothing else"
    # By the files themselves: the last change that is there was made in the second before that run began.
    assert 0 <= seconds_of(fleet.known["started"]) - int(after[-1]) < 5
    assert "--read" not in fleet.host("vault2").run("cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout


def test_a_host_does_not_leave_a_lost_vault_without_a_word(fleet: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    inventory = tmp_path_factory.mktemp("inventory")
    shutil.copytree(ROOT / "molecule" / "multi_vault" / "inventory" / "group_vars", inventory / "group_vars")
    shutil.copy(Path(fleet.inventory) / "lab.yml", inventory)
    groups = {"backup_vaults": {"hosts": {"vault2": {}}}, "backup_clients": {"hosts": {"web1": {}, "web2": {}}}}
    (inventory / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    fleet.inventory = str(inventory)
    fleet.run("site", "--limit", "vault2", code=2)
    assert "web1 has openclaw_backup_copies 2, and there is 1 vault for it: vault2" in fleet.output
    fleet.run("site", "--limit", "web1", code=2, copies=1, move=True)
    assert "(vault1) does not answer" in " ".join(fleet.output.split()) and "openclaw_backup_move_lost=true" in fleet.output


def test_the_other_vault_goes_on_where_the_lost_one_ended(fleet: Lab) -> None:
    copies = fleet.snapshots("vault2", "web1")
    passed = fleet.play("site", verb="backup", copies=1, move=True, move_lost=True)
    assert not passed["web1"]["work"]["changed"], "what was restored is what is there"
    fleet.work("web1")
    history = json.loads(fleet.host("web1").run_expect([0], "openclaw-backup list work --json").stdout)["snapshots"]
    assert [item["sequence"] for item in history] == list(range(len(copies) + 1, 0, -1)) and [item["id"] for item in history][1:] == copies[::-1]


def test_what_nobody_wants_any_more_is_gone_and_no_copy_is(fleet: Lab) -> None:
    vault = fleet.host("vault2")
    for path in (CRON, KEY, KEY + ".pub", CONFIG + "/vault/known_hosts", CONFIG + "/vault/replicate/web1"):
        assert not vault.file(path).exists, path
    assert not vault.user("openclaw-copies").exists
    assert json.loads(vault.file(CONFIG + "/vault/verify/web1/work.json").content_string)["objectives"] == {"rpo": "1h"}
