# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role vault refuses before it touches a host; what it does there needs a host of its own, see molecule/site."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import jinja2
import pytest
import yaml

from .sshd import AGENT

pytestmark = pytest.mark.slow

OLD = {"cacheable": True, "distribution": "Debian", "distribution_version": "11.11", "distribution_major_version": "11"}
PLAY = [
    {
        "hosts": "backup_vaults",
        "gather_facts": False,
        "pre_tasks": [{"ansible.builtin.set_fact": OLD, "when": "inventory_hostname == 'too-old'"}],
        "roles": ["openclaw.backup.vault"],
    }
]
VAULT = '{"format":1,"layout":"tree","storage":"native"}'

BAD: Dict[str, Any] = {
    "relative-path": ({"openclaw_backup_vault_directory": "vault"}, "openclaw_backup_vault_directory is 'vault'.*absolute path"),
    "misspelt": (
        {"openclaw_backup_vault_notfy": {}},
        "openclaw_backup_vault_notfy is not a variable.*did you mean openclaw_backup_vault_notify",
    ),
    "unknown-state": ({"openclaw_backup_vault_state": "gone"}, "openclaw_backup_vault_state must be one of: present, absent"),
    "unknown-storage": ({"openclaw_backup_vault_storage": "raw"}, "openclaw_backup_vault_storage must be one of: native, portable"),
    "keeper": ({"openclaw_backup_vault_keeper": "Vault Keeper"}, "openclaw_backup_vault_keeper is 'Vault Keeper'.*small letters"),
    "limits": ({"openclaw_backup_vault_limits": {"writers": 0}}, "openclaw_backup_vault_limits: limits.writers is 0"),
    "prune": ({"openclaw_backup_vault_prune": "0 25 * * *"}, "openclaw_backup_vault_prune has a bad hour '25'"),
    "verify": ({"openclaw_backup_vault_verify": "daily"}, "openclaw_backup_vault_verify must have five columns"),
    "replicate": ({"openclaw_backup_vault_replicate": "hourly"}, "openclaw_backup_vault_replicate must have five columns"),
    "replicate-seconds": ({"openclaw_backup_vault_replicate_seconds": 0}, "openclaw_backup_vault_replicate_seconds is 0"),
    "bwlimit": ({"openclaw_backup_vault_replicate_bwlimit": "fast"}, "openclaw_backup_vault_replicate_bwlimit: transfer.bwlimit must be a rate"),
    "scratch-in-vault": (
        {"openclaw_backup_vault_scratch": "{{ openclaw_backup_vault_directory }}/drills"},
        "openclaw_backup_vault_scratch is '.*/drills', which lies in the vault ",
    ),
    "scratch-of-others": ({"openclaw_backup_vault_scratch": "/usr"}, "openclaw_backup_vault_scratch is '/usr', which belongs to root, mode 0755"),
    "slices": ({"openclaw_backup_vault_verify_slices": 0}, "openclaw_backup_vault_verify_slices is 0"),
    "bucket": (
        {"openclaw_backup_vault_bucket": {"url": "s3://Not A Bucket"}, "openclaw_backup_vault_bucket_key": "x"},
        "openclaw_backup_vault_bucket: .*target",
    ),
    "no-key": ({"openclaw_backup_vault_bucket": {"url": "s3://my-bucket/v"}}, "openclaw_backup_vault_bucket_key is empty.*openssl rand"),
    "bucket-at": ({"openclaw_backup_vault_bucket_at": "hourly"}, "openclaw_backup_vault_bucket_at must have five columns"),
    "both": ({"openclaw_backup_vault_decommissioned": ["web1"]}, "openclaw_backup_vault_decommissioned names web1, and so does the group backup_clients"),
    "not-mounted": ({"openclaw_backup_vault_mount": "{{ playbook_dir }}"}, "openclaw_backup_vault_mount is '.*nothing is mounted there on not-mounted"),
    "foreign": (
        {"openclaw_backup_vault_directory": "{{ playbook_dir }}/foreign"},
        r"openclaw_backup_vault_directory is '.*foreign', which holds other files \(photo.jpg\) and no format.json",
    ),
    "other-storage": (
        {"openclaw_backup_vault_directory": "{{ playbook_dir }}/native"},
        r"openclaw_backup_vault_storage is 'portable', and the vault .*native has another: .*cannot be changed",
    ),
    "too-old": ({}, "too-old has Debian 11.11.*Debian 12 or newer.*backup_vaults"),
}


def play(tmp_path: Path, groups: Dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """Apply the role to the hosts of ``backup_vaults``, with each of which something is wrong."""
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    (tmp_path / "play.json").write_text(json.dumps(PLAY))
    # Nothing of the engine is at work here, and measuring coverage takes Ansible half as long again.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "COVERAGE_")) or name == "ANSIBLE_COLLECTIONS_PATH"}
    clean.update(ANSIBLE_NOCOLOR="1", LC_ALL="C.UTF-8")
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.json", "play.json"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    failed = set(re.findall(r"^(\S+) +: ok=\d+ +changed=0 +unreachable=0 +failed=1", done.stdout, re.M))
    assert failed == set(groups["backup_vaults"]["hosts"]), done.stdout
    return done


def test_more_copies_than_vaults_are_an_error_before_anything_is_touched(tmp_path: Path) -> None:
    vault = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "openclaw_backup_vault_directory": str(tmp_path / "vault")}
    groups = {"backup_vaults": {"hosts": {"vault1": vault, "vault2": vault}}, "backup_clients": {"hosts": {"web1": {"openclaw_backup_copies": 3}}}}
    done = play(tmp_path, groups)
    assert "web1 has openclaw_backup_copies 3, and there are 2 vaults for it: " in " ".join(done.stdout.split())
    assert not (tmp_path / "vault").exists()


def test_what_is_wrong_is_named_before_anything_is_touched(tmp_path: Path) -> None:
    for name, content in (("foreign/photo.jpg", "photo"), ("native/format.json", VAULT)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "openclaw_backup_vault_directory": str(tmp_path / "vault")}
    groups = {
        "backup_vaults": {"hosts": {name: {**common, **variables} for name, (variables, _) in BAD.items()}},
        "backup_clients": {"hosts": {"web1": {"openclaw_backup_vault": "both"}}},
    }
    done = play(tmp_path, groups)
    failures = dict(re.findall(r"^(?:fatal|failed): \[(.*?)\].*? => (.*)$", done.stdout, re.M))
    for name, (_variables, message) in BAD.items():
        text = json.loads(failures[name])["msg"]
        assert re.search(message, text), text
    assert not (tmp_path / "vault").exists()


def rendered(name: str, where: Path, **variables: Any) -> Path:
    """A template of the role with its defaults, made for paths below ``where``."""
    role = Path(__file__).resolve().parents[2] / "roles" / "vault"
    environment = jinja2.Environment(keep_trailing_newline=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["quote"] = shlex.quote
    own = {**yaml.safe_load((role / "defaults" / "main.yml").read_text()), **yaml.safe_load((role / "vars" / "main.yml").read_text()), **variables}
    made = where / name
    made.write_text(environment.from_string((role / "templates" / (name + ".j2")).read_text()).render(own))
    made.chmod(0o755)
    return made


def test_what_cron_starts_copies_to_the_bucket_and_prunes_there(tmp_path: Path) -> None:
    config, memory, vault, bucket = (tmp_path / name for name in ("config", "memory", "a vault", "bucket"))
    program = tmp_path / "openclaw-backup"
    program.write_text('#!/bin/sh\nPYTHONPATH=%s exec %s -m %s "$@"\n' % (shlex.quote(os.pathsep.join(filter(None, sys.path))), sys.executable, AGENT))
    program.chmod(0o755)
    key = tmp_path / "bucket.key"
    key.write_text(os.urandom(32).hex())
    key.chmod(0o600)
    there = {"url": "pack://%s" % bucket, "key_file": str(key)}  # a bucket takes the same way
    (tmp_path / "src").mkdir()
    own = {"name": "etc", "host": "web1", "sources": [str(tmp_path / "src")], "target": str(vault)}
    for kind, policy in (("verify", {**own, "copies": [there]}), ("bucket", {**own, "target": there, "retention": {"keep_last": 2, "protect": "0s"}})):
        (config / "vault" / kind / "web1").mkdir(parents=True)
        (config / "vault" / kind / "web1" / "etc.json").write_text(json.dumps(policy))
    memory.mkdir()
    (config / "vault" / "prune" / "web1").mkdir(parents=True)
    (config / "vault" / "prune" / "web1" / "etc.json").write_text("{}")
    paths = {"__openclaw_backup_vault_config": str(config), "__openclaw_backup_vault_memory": str(memory), "openclaw_backup_vault_directory": str(vault)}
    settings = {**paths, "openclaw_backup_program": str(program), "openclaw_backup_vault_bucket": there, "openclaw_backup_vault_verify_slices": 2}
    upkeep = rendered("upkeep", tmp_path, **settings)
    (tmp_path / "own.json").write_text(json.dumps(own))
    for number in range(4):
        (tmp_path / "src" / "file").write_text("number %d" % number)
        subprocess.run([program, "run", tmp_path / "own.json", "--state", tmp_path / "state", "--quiet"], check=True)
    for _turn in range(2):
        done = subprocess.run([upkeep, "bucket"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bucket_policy = config / "vault" / "bucket" / "web1" / "etc.json"
    listed = subprocess.run([program, "list", bucket_policy, "--json", "--state", memory], capture_output=True, check=True)
    assert [snapshot["sequence"] for snapshot in json.loads(listed.stdout)["snapshots"]] == [4, 3], "what was pruned does not come back"
    for _turn in range(2):  # on one day
        assert subprocess.run([upkeep, "verify"], check=False).returncode == 0
    status = subprocess.run(
        [program, "status", config / "vault" / "verify" / "web1" / "etc.json", "--json", "--state", memory], capture_output=True, check=False
    )
    assert json.loads(status.stdout)["rolling"]["read"] == 2, "each turn reads another share, however often cron comes"
    (config / "vault" / "prune" / "web1" / "etc.json").unlink()
    (tmp_path / "src" / "file").write_text("the last")
    subprocess.run([program, "run", tmp_path / "own.json", "--state", tmp_path / "state", "--quiet"], check=True)
    for _turn in range(2):
        assert subprocess.run([upkeep, "bucket"], check=False).returncode == 0
    listed = subprocess.run([program, "list", bucket_policy, "--json", "--state", memory], capture_output=True, check=True)
    assert [snapshot["sequence"] for snapshot in json.loads(listed.stdout)["snapshots"]] == [5, 4, 3], "without a retention nothing goes"
    shutil.rmtree(vault)  # lost, and made anew: nothing of the bucket goes, and all of it comes back
    vault.mkdir()
    (vault / "format.json").write_text('{"format":1,"layout":"tree","storage":"portable"}')
    assert subprocess.run([upkeep, "bucket"], check=False).returncode == 0
    subprocess.run([program, "replicate", bucket_policy, "--to", vault, "--state", memory, "--quiet"], check=True)
    listed = subprocess.run([program, "list", tmp_path / "own.json", "--json", "--state", memory], capture_output=True, check=True)
    assert [snapshot["sequence"] for snapshot in json.loads(listed.stdout)["snapshots"]] == [5, 4, 3]
    cron = rendered("cron", tmp_path, **settings, __openclaw_backup_vault_owner="keeper").read_text()
    assert [line for line in cron.splitlines() if line.endswith("upkeep bucket")] == ["49 * * * * keeper /usr/local/libexec/openclaw-backup/upkeep bucket"]
    assert "upkeep bucket" not in rendered("cron", tmp_path, **paths, __openclaw_backup_vault_owner="keeper").read_text()
    command = rendered("vault", tmp_path, **settings, __openclaw_backup_vault_owner="keeper").read_text()
    assert "--to %s" % shlex.quote(there["url"]) in command
    bucket_policy.write_text(json.dumps({**own, "target": {**there, "key_file": str(tmp_path / "lost")}}))
    (config / "vault" / "verify" / "web1" / "etc.json").write_text(json.dumps({**own, "copies": [{**there, "key_file": str(tmp_path / "lost")}]}))
    done = subprocess.run([upkeep, "bucket"], capture_output=True, text=True, check=False)
    assert done.returncode == 6 and "lost" in done.stderr, "cron mails what went wrong"
