# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bare machine under an old name must have become: asked of it, of its vault, and of the controller's escrow."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Iterator

import pytest
import testinfra

testinfra_hosts = ["ansible://backup_clients"]

HISTORY = "/srv/openclaw-backup/web1/work"


@pytest.fixture(scope="module")
def vault(request: pytest.FixtureRequest) -> Any:
    return testinfra.get_host("ansible://vault1", ansible_inventory=request.config.getoption("ansible_inventory"))


@pytest.fixture(scope="module", autouse=True)
def escrow() -> Iterator[Path]:
    directory = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "escrow"
    yield directory
    shutil.rmtree(directory)


def test_everything_is_back_and_work_went_on(host: Any) -> None:
    assert host.file("/srv/work/file").content_string == "work of web1\n"
    assert host.file("/srv/work/deep/file").content_string == "last\n"
    assert host.file("/srv/work/new").content_string == "new\nmore\n"


def test_one_history_goes_on_without_a_gap(host: Any, vault: Any) -> None:
    names = vault.file(HISTORY + "/snapshots").listdir()
    receipts = [json.loads(vault.file("%s/snapshots/%s/receipt.json" % (HISTORY, name)).content_string) for name in names]
    receipts.sort(key=lambda receipt: receipt["sequence"])
    assert [receipt["sequence"] for receipt in receipts] == [1, 2, 3, 4]
    assert [receipt["parent"] for receipt in receipts] == [None, *[receipt["id"] for receipt in receipts[:-1]]]


def test_nobody_had_to_adopt_it(host: Any) -> None:
    runs = [json.loads(line) for line in host.file("/var/lib/openclaw-backup/web1/work/runs.jsonl").content_string.splitlines()]
    assert "adopt" not in [run["verb"] for run in runs]
    assert runs[-1]["result"] == "ok"


def test_the_old_key_opens_nothing_and_what_it_had_open_is_ended(host: Any, vault: Any) -> None:
    account = host.file("/root/old/account").content_string.strip()
    for key in ("id_ed25519", "id_read_ed25519"):
        options = "-n -o BatchMode=yes -o UserKnownHostsFile=/root/old/known_hosts -i /root/old/" + key
        said = host.run("timeout 20 ssh %s %s openclaw-backup serve 2>&1; echo $?" % (options, account)).stdout
        assert "Permission denied" in said and said.endswith("\n255\n"), said
    assert host.run("for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done | grep '^ssh .*/root/old/'").stdout == ""
    keys = vault.run("cat /var/lib/openclaw-ingest/*/.ssh/authorized_keys").stdout
    assert keys.count("\n") == 1 and host.file("/etc/openclaw-backup/ssh/id_ed25519.pub").content_string.split()[1] in keys


def test_the_vault_works_again_after_its_maintenance(host: Any, vault: Any) -> None:
    assert json.loads(vault.file("/etc/openclaw-backup/vault.json").content_string)["maintenance"] is False
    assert vault.file("/etc/cron.d/openclaw-backup-vault").exists


def test_the_escrow_has_what_another_machine_would_need(host: Any, escrow: Path) -> None:
    found = {str(path.relative_to(escrow)) for path in escrow.rglob("*") if path.is_file()}
    assert found == {"web1/policies/work.json", "web1/ssh/known_hosts", "web1/ssh/id_ed25519.pub", "web1/ssh/id_read_ed25519.pub"}
    for name, path in (("policies/work.json", "policies/work.json"), ("ssh/known_hosts", "ssh/known_hosts"), ("ssh/id_ed25519.pub", "ssh/id_ed25519.pub")):
        assert (escrow / "web1" / name).read_text() == host.file("/etc/openclaw-backup/" + path).content_string
    assert {path.stat().st_mode & 0o777 for path in escrow.rglob("*") if path.is_file()} == {0o600}
