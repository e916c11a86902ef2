# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role vault refuses before it touches a host; what it does there needs a host of its own, see molecule/site."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

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
    "slices": ({"openclaw_backup_vault_verify_slices": 0}, "openclaw_backup_vault_verify_slices is 0"),
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
