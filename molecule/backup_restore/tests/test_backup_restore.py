# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One story on a vault and two hosts, told with the playbooks alone. The tests go on from one another, in their order."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest
from ansible_collections.openclaw.backup.tests.lab.fleet import Fleet

FILE = "/srv/work/file"
HISTORY = "/srv/openclaw-backup/%s/work/snapshots"


class Lab(Fleet):
    """``first``: the oldest snapshot of web1."""

    first = ""

    def snapshots(self, name: str) -> List[str]:
        return sorted(self.host("vault1").file(HISTORY % name).listdir())


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Lab:
    return Lab(request.config.getoption("ansible_inventory"))


def test_a_backup_of_everybody_now(fleet: Lab) -> None:
    (fleet.first,) = fleet.snapshots("web1")
    for name in ("web1", "web2"):
        fleet.host(name).run_expect([0], "echo two >>%s && openclaw-backup run --quiet work && echo three >>%s" % (FILE, FILE))
    passed = fleet.play("backup", hosts="backup_clients")
    assert {(host, policy) for host, results in passed.items() for policy, result in results.items() if result["changed"]} == {
        (host, policy) for host in ("web1", "web2") for policy in ("work", "here")
    }
    assert '"2 hosts: 4 changed"' in fleet.output
    assert len(fleet.snapshots("web1")) == 3
    fleet.play("backup", hosts="backup_clients")
    assert '"2 hosts: 4 ok"' in fleet.output


@pytest.fixture(scope="module")
def down(fleet: Lab, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Arguments that make web2 unreachable."""
    path = tmp_path_factory.mktemp("down") / "down.json"
    path.write_text(json.dumps({"all": {"hosts": {"web2": {"ansible_host": "127.0.0.1", "ansible_port": 1}}}}))
    return ("-i", str(path))


def test_the_vault_proves_what_it_has_of_a_host_that_is_down(fleet: Lab, down: Sequence[str]) -> None:
    passed = fleet.play("verify", *down, code=2, hosts="backup_clients")
    for name in ("web1", "web2"):
        result = passed[name]["work"]
        assert (result["ok"], result["snapshot_id"], result["hashed_files"]) == (True, fleet.snapshots(name)[-1], 1)
    assert passed["web1"]["here"]["ok"] and "here" not in passed["web2"]
    assert '"web2  -       failed  web2 cannot be reached: ' in fleet.output and '"2 hosts: 3 ok, 1 failed"' in fleet.output
    assert fleet.play("verify", *down, hosts="backup_clients", policy="work", slice="1/2")["web2"]["work"]["slice"] == "1/2"


def test_the_vault_prunes(fleet: Lab, down: Sequence[str]) -> None:
    predicted = fleet.play("prune", "--check", *down, hosts="backup_clients")
    assert {name: [item["id"] for item in results["work"]["removed"]] for name, results in predicted.items()} == {
        name: [fleet.snapshots(name)[0]] for name in ("web1", "web2")
    }
    assert len(fleet.snapshots("web2")) == 3
    fleet.play("prune", "--limit", "web2", *down, hosts="backup_clients")
    assert (len(fleet.snapshots("web1")), len(fleet.snapshots("web2"))) == (3, 2)


def test_everybody_is_protected_and_one_who_is_not_is_a_failure(fleet: Lab) -> None:
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


def test_one_path_as_it_was_at_a_point_in_time(fleet: Lab) -> None:
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


def test_onto_another_host(fleet: Lab) -> None:
    done = fleet.play("restore", hosts="web2", policy="work", from_host="web1", dest="/srv/of-web1")["web2"]["work"]
    assert done["snapshot_id"] == fleet.snapshots("web1")[-1]
    assert fleet.host("web2").file("/srv/of-web1" + FILE).content_string == "work of web1\ntwo\nthree\n"


def test_nothing_of_it_lets_anybody_read_afterwards(fleet: Lab) -> None:
    vault = fleet.host("vault1")
    assert vault.file("/etc/openclaw-backup/grants").listdir() == []
    assert vault.run("cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout.count("\n") == 2
    assert "--read" not in vault.run("cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout


# Somebody keeps a host's key, and has a conversation with the vault open.
_KEEP = """
cp -a /etc/openclaw-backup/ssh /root/old
url=$(python3 -c 'import json; print(json.load(open("/etc/openclaw-backup/policies/work.json"))["target"]["url"])')
account=${url#ssh://}; echo "${account%:*}" >/root/old/account
mkfifo /root/old/silence
sleep 3600 >/root/old/silence 2>/root/old/error </dev/null &
ssh -T -o BatchMode=yes -o UserKnownHostsFile=/root/old/known_hosts -i /root/old/id_ed25519 "${account%:*}" openclaw-backup serve \
    </root/old/silence >/root/old/said 2>&1 &
for time in $(seq 600); do [ -s /root/old/said ] && exit 0; sleep 0.1; done
exit 1
"""
_SSH_WITH_OLD_KEY = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done 2>/dev/null | grep '^ssh .*/root/old/'"


def receipts(fleet: Lab, name: str) -> List[Dict[str, Any]]:
    """Of all snapshots, in their order."""
    found = [json.loads(fleet.host("vault1").file("%s/%s/receipt.json" % (HISTORY % name, snapshot)).content_string) for snapshot in fleet.snapshots(name)]
    return sorted(found, key=lambda receipt: int(receipt["sequence"]))


def test_a_bare_machine_in_the_place_of_one_that_was_lost(fleet: Lab) -> None:
    host = fleet.host("web1")
    host.run_expect([0], "mkdir /srv/work/deep && echo last >/srv/work/deep/file && openclaw-backup run --quiet work")
    before = receipts(fleet, "web1")
    newest = before[-1]["id"]
    host.run_expect([0], _KEEP)
    host.run_expect([0], _SSH_WITH_OLD_KEY)
    host.run_expect([0], "rm -rf /srv/work /srv/vault /srv/undo /etc/openclaw-backup /var/lib/openclaw-backup /usr/local/bin/openclaw-backup")
    # An empty machine never overwrites the history of the one before it.
    refused = fleet.play("site", "--limit", "web1", code=2, verb="backup", policy="work")["web1"]["work"]
    assert refused["error"]["field"] == "sources" and fleet.snapshots("web1")[-1] == newest
    assert "web1 has another key" in fleet.output
    host.run_expect([0], "mkdir /srv/work && echo new >/srv/work/file")  # somebody installs what works there, anew
    assert fleet.play("backup", hosts="web1", policy="work", code=2)["web1"]["work"]["error"]["kind"] == "restore_first"
    restored = fleet.play("restore", hosts="web1", policy="work", confirm=True)["web1"]["work"]
    assert (restored["snapshot_id"], restored["verified"]) == (newest, True)
    assert host.file(FILE).content_string == "work of web1\n" and host.file("/srv/work/deep/file").content_string == "last\n"
    assert not fleet.play("backup", hosts="web1", policy="work")["web1"]["work"]["changed"]
    host.run_expect([0], "echo new >/srv/work/new")
    assert fleet.play("backup", hosts="web1", policy="work")["web1"]["work"]["changed"]
    # One history goes on without a gap.
    after = receipts(fleet, "web1")
    assert after[:-1] == before and [receipt["sequence"] for receipt in after] == list(range(1, len(after) + 1))
    assert [receipt["parent"] for receipt in after] == [None, *[receipt["id"] for receipt in after[:-1]]]


def test_nobody_had_to_adopt_it(fleet: Lab) -> None:
    runs = [json.loads(line) for line in fleet.host("web1").file("/var/lib/openclaw-backup/web1/work/runs.jsonl").content_string.splitlines()]
    assert "adopt" not in [run["verb"] for run in runs]
    assert runs[-1]["result"] == "ok"


def test_the_old_key_opens_nothing_and_what_it_had_open_is_ended(fleet: Lab) -> None:
    host = fleet.host("web1")
    account = host.file("/root/old/account").content_string.strip()
    for key in ("id_ed25519", "id_read_ed25519"):
        options = "-n -o BatchMode=yes -o UserKnownHostsFile=/root/old/known_hosts -i /root/old/" + key
        said = host.run("timeout 60 ssh %s %s openclaw-backup serve 2>&1; echo $?" % (options, account)).stdout
        assert "Permission denied" in said and said.endswith("\n255\n"), said
    assert host.run(_SSH_WITH_OLD_KEY).stdout == ""
    keys = fleet.host("vault1").file("/var/lib/openclaw-ingest/%s/.ssh/authorized_keys" % account.partition("@")[0]).content_string
    assert keys.count("\n") == 1 and host.file("/etc/openclaw-backup/ssh/id_ed25519.pub").content_string.split()[1] in keys


def test_the_escrow_has_what_another_machine_would_need(fleet: Lab) -> None:
    host, escrow = fleet.host("web1"), Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "escrow"
    found = {str(path.relative_to(escrow)) for path in escrow.rglob("*") if path.is_file()}
    same = {"policies/work.json", "policies/here.json", "ssh/known_hosts", "ssh/id_ed25519.pub"}
    assert found == {"web1/" + name for name in (*same, "ssh/id_read_ed25519.pub")}
    for name in same:
        assert (escrow / "web1" / name).read_text() == host.file("/etc/openclaw-backup/" + name).content_string
    assert {path.stat().st_mode & 0o777 for path in escrow.rglob("*") if path.is_file()} == {0o600}


def test_a_vault_in_maintenance_takes_nothing_and_then_everything(fleet: Lab) -> None:
    host, vault = fleet.host("web1"), fleet.host("vault1")
    fleet.run("site", "--limit", "vault1", vault_maintenance=True)
    assert not vault.file("/etc/cron.d/openclaw-backup-vault").exists
    refused = host.run("echo more >>/srv/work/new && openclaw-backup run work --json")
    assert (refused.rc, json.loads(refused.stdout)["error"]["kind"]) == (6, "maintenance")
    fleet.run("site", "--limit", "vault1")
    assert json.loads(vault.file("/etc/openclaw-backup/vault.json").content_string)["maintenance"] is False
    assert vault.file("/etc/cron.d/openclaw-backup-vault").exists
    before = fleet.snapshots("web1")
    host.run_expect([0], "openclaw-backup run work --quiet")
    (newest,) = set(fleet.snapshots("web1")) - set(before)
    assert vault.file("%s/%s/tree/srv/work/new" % (HISTORY % "web1", newest)).content_string == "new\nmore\n"
