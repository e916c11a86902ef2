# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role client on two hosts that are directories of this machine, from a collection that holds only what Ansible promises to ship."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PLAY: List[Dict[str, Any]] = [
    {
        "hosts": "all",
        "gather_facts": False,
        "pre_tasks": [{"ansible.builtin.set_fact": {"service_mgr": "{{ booted }}", "cacheable": True}, "when": "booted is defined"}],
        "roles": ["openclaw.backup.client"],
    }
]
# Stands for systemctl on machines that were not booted with systemd: remembers what is enabled, what is active, and what it was told.
SYSTEMCTL = """#!/bin/sh
cd "$FAKE_SYSTEMD" || exit
for word; do case $word in openclaw-backup*) unit=$word ;; esac; done
echo "$*" >>told
case $* in
*daemon-reload*) ;;
*show*) echo "LoadState=loaded"; if [ -e "$unit.active" ]; then echo ActiveState=active; else echo ActiveState=inactive; fi ;;
*is-enabled*) [ -e "$unit.enabled" ] || { echo disabled; exit 1; }; echo enabled ;;
*is-active*) [ -e "$unit.active" ] || { echo inactive; exit 3; }; echo active ;;
*disable*) rm -f "$unit.enabled" ;;
*enable*) : >"$unit.enabled" ;;
*start*) : >"$unit.active" ;;
*stop*) rm -f "$unit.active" ;;
esac
"""


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("collections")
    for name in ("meta", "plugins", "roles"):
        shutil.copytree(ROOT / name, home / "ansible_collections" / "openclaw" / "backup" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return home


class Fleet:
    """Hosts of the inventory are directories below ``base``."""

    def __init__(self, base: Path, collections: Path) -> None:
        self.base = base
        self.collections = collections
        self.hosts: Dict[str, Dict[str, Any]] = {}
        (base / "controller").mkdir()

    def add(self, name: str, **variables: Any) -> Path:
        """A host with a tree to back up, a vault and a policy; ``variables`` stand against what it would have."""
        home = self.base / name
        (home / "bin").mkdir(parents=True)
        (home / "source").mkdir()
        (home / "source" / "file").write_text("content\n")
        self.hosts[name] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "openclaw_backup_packages": [],
            "openclaw_backup_program": str(home / "bin" / "openclaw-backup"),
            "openclaw_backup_config_directory": str(home / "etc"),
            "openclaw_backup_state_directory": str(home / "state"),
            "openclaw_backup_cron_file": str(home / "cron"),
            "openclaw_backup_systemd_directory": str(home / "systemd"),
            "openclaw_backup_policies": [self.policy(name)],
            **variables,
        }
        return home

    def policy(self, host: str, **keys: Any) -> Dict[str, Any]:
        return {"name": "tree", "sources": [str(self.base / host / "source")], "target": str(self.base / host / "vault"), **keys}

    def play(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        (self.base / "play.json").write_text(json.dumps(PLAY))
        (self.base / "hosts.json").write_text(json.dumps({"all": {"hosts": self.hosts}}))
        # Nothing of the engine is at work here, and measuring coverage takes Ansible half as long again.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "COVERAGE_", "PYTHON"))}
        clean.update(
            ANSIBLE_COLLECTIONS_PATH=str(self.collections),
            ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="false",
            ANSIBLE_NOCOLOR="1",
            ANSIBLE_PIPELINING="1",
            LC_ALL="C.UTF-8",
            TMPDIR=str(self.base / "controller"),
            **environment,
        )
        command = [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.json", "play.json", *arguments]
        done = subprocess.run(command, cwd=self.base, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert "[WARNING]" not in done.stderr, done.stderr
        return done

    def changes(self, *arguments: str) -> Dict[str, int]:
        """What a run that succeeds on all hosts says it has changed (or would), as a count a host."""
        done = self.play(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return {host: int(count) for host, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", done.stdout, re.M)}


@pytest.fixture
def fleet(tmp_path: Path, collections: Path) -> Fleet:
    return Fleet(tmp_path, collections)


def tree(home: Path) -> Dict[str, Tuple[int, int, bytes]]:
    """Mode, inode and content of everything below ``home``."""
    return {
        str(path.relative_to(home)): (path.lstat().st_mode & 0o7777, path.lstat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in home.rglob("*")
    }


def test_a_new_host_is_predicted_installed_and_then_left_alone(fleet: Fleet) -> None:
    homes = {name: fleet.add(name) for name in ("web1", "web2")}
    before = {name: tree(home) for name, home in homes.items()}
    predicted = fleet.changes("--check", "--diff")
    assert {name: tree(home) for name, home in homes.items()} == before
    assert fleet.changes() == predicted == {"web1": 4, "web2": 4}

    installed = {name: tree(home) for name, home in homes.items()}
    for name in homes:
        modes = {path: mode for path, (mode, _, _) in installed[name].items() if path not in before[name]}
        assert modes == {"bin/openclaw-backup": 0o755, "etc": 0o700, "etc/policies": 0o700, "etc/policies/tree.json": 0o600, "state": 0o700, "cron": 0o644}
        assert re.search(
            r"^\*/5 \* \* \* \* root (sleep \d+; )?%s run .* %s$" % (homes[name] / "bin" / "openclaw-backup", homes[name] / "etc/policies/tree.json"),
            installed[name]["cron"][2].decode(),
            re.M,
        )
        assert json.loads(installed[name]["etc/policies/tree.json"][2]) == {"host": name, **fleet.policy(name)}
    assert list((fleet.base / "controller").iterdir()) == []

    assert fleet.changes("--check") == {"web1": 0, "web2": 0}
    assert fleet.changes() == {"web1": 0, "web2": 0}
    assert {name: tree(home) for name, home in homes.items()} == installed

    home = homes["web1"]
    command = [home / "bin" / "openclaw-backup", "run", "--state", home / "state", "--json", home / "etc" / "policies" / "tree.json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["files_sent"]) == (0, 1), done.stderr
    assert (home / "vault" / "web1" / "tree" / "latest").exists()


def test_profiles_of_one_s_own_are_installed_and_left_alone_the_second_time(fleet: Fleet) -> None:
    mine = {"description": "mine", "sources": ["/srv/mine"], "exclude": ["/tmp/"]}
    home = fleet.add("web1", openclaw_backup_profiles={"mine": mine})
    policy = fleet.policy("web1", profile=str(home / "etc" / "profiles" / "mine.json"))
    fleet.hosts["web1"]["openclaw_backup_policies"] = [policy]
    assert fleet.changes("--check") == {"web1": 6} == fleet.changes()
    assert json.loads((home / "etc" / "profiles" / "mine.json").read_text()) == mine
    assert (home / "etc" / "profiles" / "mine.json").stat().st_mode & 0o7777 == 0o600
    assert fleet.changes() == {"web1": 0}
    command = [home / "bin" / "openclaw-backup", "run", "--state", home / "state", "--json", home / "etc" / "policies" / "tree.json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["changed"], done.stdout + done.stderr


def test_the_key_of_sealed_packs_comes_with_the_policy_and_is_shown_nowhere(fleet: Fleet) -> None:
    home = fleet.add("web1")
    key = base64.b64encode(os.urandom(32)).decode("ascii")
    target = {"url": "pack://%s" % (home / "packs"), "key_file": str(home / "etc" / "pack.key")}
    secrets = {target["key_file"]: key + "\n"}
    hybrid = {"url": "s3://agents/{{ inventory_hostname }}", "layout": {str(home / "source"): "mirror"}, "key_file": target["key_file"]}
    policies = [fleet.policy("web1", target=target), fleet.policy("web1", name="hybrid", target=hybrid)]
    fleet.hosts["web1"].update(openclaw_backup_policies=policies, openclaw_backup_secrets=secrets)
    assert fleet.changes("--check") == {"web1": 5}
    done = fleet.play("--diff", "-vvv")
    assert done.returncode == 0 and key not in done.stdout + done.stderr
    assert (home / "etc" / "pack.key").read_text() == key + "\n"
    assert (home / "etc" / "pack.key").stat().st_mode & 0o7777 == 0o600
    assert json.loads((home / "etc" / "policies" / "hybrid.json").read_text())["target"] == {**hybrid, "url": "s3://agents/web1"}
    assert fleet.changes() == {"web1": 0}
    # The program has its libraries from the system's Python; here it is given those of the tests.
    command = [sys.executable, home / "bin" / "openclaw-backup", "run", "--state", home / "state", "--json", home / "etc" / "policies" / "tree.json"]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert json.loads(run.stdout)["changed"] and (home / "packs" / "format.json").exists(), run.stdout + run.stderr
    fleet.hosts["web1"].update(openclaw_backup_client_state="absent")
    fleet.changes()
    assert not (home / "etc" / "pack.key").exists() and (home / "packs" / "format.json").exists()


def test_a_policy_finds_the_profile_that_comes_with_it_wherever_the_configuration_is(fleet: Fleet) -> None:
    home = fleet.add("web1", openclaw_backup_profiles={"mine": {"exclude": ["/tmp/"]}})
    fleet.hosts["web1"]["openclaw_backup_policies"] = [fleet.policy("web1", profile="mine")]
    fleet.changes()
    command = [home / "bin" / "openclaw-backup", "run", "--state", home / "state", "--json", home / "etc" / "policies" / "tree.json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["changed"], done.stdout + done.stderr


def test_a_policy_that_is_gone_from_the_list_goes_from_the_host_with_nothing_else(fleet: Fleet) -> None:
    home = fleet.add("web1")
    fleet.hosts["web1"]["openclaw_backup_policies"].append(fleet.policy("web1", name="other", schedule={"watch": True}))
    fleet.changes()
    lines = (home / "cron").read_text().splitlines()
    assert [line.rpartition("/")[2] for line in lines if " watch --quiet " in line] == ["other.json"]
    (home / "etc" / "policies" / "notes.txt").write_text("an administrator's")
    fleet.hosts["web1"]["openclaw_backup_policies"][:1] = []
    before = tree(home)
    assert fleet.changes("--check") == {"web1": 2}
    assert tree(home) == before
    assert fleet.changes() == {"web1": 2}
    del before["etc/policies/tree.json"]
    assert b"tree.json" in before.pop("cron")[2]
    after = tree(home)
    assert b"tree.json" not in after.pop("cron")[2]
    assert after == before


def test_a_schedule_that_is_not_wanted_is_taken_away(fleet: Fleet) -> None:
    home = fleet.add("web1")
    fleet.hosts["web1"]["openclaw_backup_policies"] = [fleet.policy("web1", schedule={"watch": True}), fleet.policy("web1", name="other")]
    fleet.changes()
    before = {name: (home / "etc" / "policies" / (name + ".json")).stat().st_mtime_ns for name in ("tree", "other")}
    fleet.hosts["web1"]["openclaw_backup_schedule"] = "none"
    assert fleet.changes("--check") == {"web1": 2} == fleet.changes()
    assert not (home / "cron").exists()
    # What watches ends when it sees that.
    assert [(home / "etc" / "policies" / (name + ".json")).stat().st_mtime_ns > at for name, at in before.items()] == [True, False]
    assert fleet.changes() == {"web1": 0}


@pytest.fixture
def systemd(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemd that does nothing, and remembers it in the directory."""
    home = fleet.base / "fake"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "systemctl").write_text(SYSTEMCTL)
    (home / "bin" / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (home / "bin", os.environ["PATH"]))
    monkeypatch.setenv("FAKE_SYSTEMD", str(home))
    return home


def units(home: Path) -> Dict[str, str]:
    return {path.name: path.read_text() for path in (home / "systemd").iterdir()}


def test_systemd_runs_the_policies_where_that_is_wanted_and_cron_again_where_it_is_not(fleet: Fleet, systemd: Path) -> None:
    home = fleet.add("web1", booted="systemd", openclaw_backup_schedule="systemd")
    (home / "systemd").mkdir()
    (home / "systemd" / "other.conf").write_text("an administrator's")
    hook = fleet.policy("web1", name="dumps", hooks={"before": [["/bin/true", "100% $HOME"]]}, schedule={"cron": "30 4 1,15 * fri", "watch": True})
    fleet.hosts["web1"]["openclaw_backup_policies"].append(hook)
    before = tree(home)
    predicted = fleet.changes("--check")
    assert tree(home) == before and not (systemd / "told").exists()
    # What systemd is told of units that are not there yet cannot be predicted.
    assert fleet.changes() == {"web1": predicted["web1"] + 1}
    assert set(units(home)) == {
        "other.conf",
        "openclaw-backup@tree.service",
        "openclaw-backup@tree.timer",
        "openclaw-backup@dumps.service",
        "openclaw-backup@dumps.timer",
        "openclaw-backup-watch@dumps.service",
    }
    assert not (home / "cron").exists()
    # A service that is enabled runs at boot; what is started is the timer, and what watches.
    enabled, active = (sorted(path.stem for path in systemd.glob("*." + suffix)) for suffix in ("enabled", "active"))
    assert enabled == sorted(set(units(home)) - {"other.conf"})
    assert active == ["openclaw-backup-watch@dumps.service", "openclaw-backup@dumps.timer", "openclaw-backup@tree.timer"]
    found = units(home)
    assert "\nOnCalendar=*-*-01,15 04:30:00\nOnCalendar=Fri *-*-* 04:30:00\nPersistent=true\n" in found["openclaw-backup@dumps.timer"]
    # A hook may need sudo or a mail program; where there is none, nothing does.
    assert "\nNoNewPrivileges=no\n" in found["openclaw-backup@dumps.service"]
    assert "\nNoNewPrivileges=yes\n" in found["openclaw-backup@tree.service"]
    if shutil.which("systemd-analyze"):
        paths = [str(home / "systemd" / name) for name in found if name != "other.conf"]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    (systemd / "told").unlink()
    assert fleet.changes("--check") == {"web1": 0} == fleet.changes()
    assert not re.search("reload|start|stop", (systemd / "told").read_text())

    del fleet.hosts["web1"]["openclaw_backup_policies"][1]
    fleet.changes()
    assert set(units(home)) == {"other.conf", "openclaw-backup@tree.service", "openclaw-backup@tree.timer"}
    assert sorted(path.name for path in systemd.glob("*.*")) == [
        "openclaw-backup@tree.service.enabled",
        "openclaw-backup@tree.timer.active",
        "openclaw-backup@tree.timer.enabled",
    ]

    fleet.hosts["web1"]["openclaw_backup_schedule"] = "cron"
    fleet.changes("--check")
    assert len(units(home)) == 3
    fleet.changes()
    assert units(home) == {"other.conf": "an administrator's"} and (home / "cron").exists()
    assert list(systemd.glob("*.*")) == []
    assert "stop openclaw-backup@tree.service" not in (systemd / "told").read_text().replace("'", "")  # a backup may be at work
    assert fleet.changes() == {"web1": 0}


def test_a_policy_that_wants_drills_and_that_the_host_can_read_is_drilled(fleet: Fleet, systemd: Path) -> None:
    home = fleet.add("web1", openclaw_backup_drill="7 */2 * * *", openclaw_backup_scratch="/spare")
    wanted = {"objectives": {"drill_every": "7d"}}
    policies = [fleet.policy("web1", **wanted), fleet.policy("web1", name="other"), fleet.policy("web1", name="off", objectives={"drill_every": "0s"})]
    fleet.hosts["web1"]["openclaw_backup_policies"] = policies
    fleet.changes()
    drills = [line for line in (home / "cron").read_text().splitlines() if " drill " in line]
    command = "%s drill --scheduled --quiet --state %s --scratch /spare %s" % (home / "bin/openclaw-backup", home / "state", home / "etc/policies/tree.json")
    assert drills == ["7 */2 * * * root " + command]

    fleet.hosts["web1"].update(booted="systemd", openclaw_backup_schedule="systemd")
    (home / "systemd").mkdir()
    fleet.changes()
    found = units(home)
    assert sorted(name for name in found if "drill" in name) == ["openclaw-backup-drill@tree.service", "openclaw-backup-drill@tree.timer"]
    assert "\nOnCalendar=*-*-* 00,02,04,06,08,10,12,14,16,18,20,22:07:00\n" in found["openclaw-backup-drill@tree.timer"]
    assert '" "drill" "--scheduled" ' in found["openclaw-backup-drill@tree.service"]
    assert sorted(path.name for path in systemd.glob("*drill*")) == ["openclaw-backup-drill@tree.timer.active", "openclaw-backup-drill@tree.timer.enabled"]
    if shutil.which("systemd-analyze"):
        paths = [str(home / "systemd" / name) for name in found if "drill" in name]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert fleet.changes() == {"web1": 0}
    del policies[0]["objectives"]
    fleet.changes()
    assert not [name for name in units(home) if "drill" in name] and list(systemd.glob("*drill*")) == []


def test_absent_takes_systemd_s_units_with_it(fleet: Fleet, systemd: Path) -> None:
    home = fleet.add("web1", booted="systemd", openclaw_backup_schedule="systemd")
    (home / "systemd").mkdir()
    fleet.changes()
    fleet.hosts["web1"].update(openclaw_backup_client_state="absent", openclaw_backup_policies=[])
    assert fleet.changes()["web1"] > 0
    assert units(home) == {} and list(systemd.glob("*.*")) == []
    assert fleet.changes() == {"web1": 0}


def test_what_a_unit_starts_is_quoted(fleet: Fleet, systemd: Path) -> None:
    odd = fleet.base / "web1" / '50% of $HOME \\ "x"'
    home = fleet.add("web1", booted="systemd", openclaw_backup_schedule="systemd", openclaw_backup_state_directory=str(odd))
    (home / "systemd").mkdir()
    fleet.changes()
    assert '--state "%s/web1/50%%%% of $$HOME \\\\ \\"x\\"" "' % fleet.base in units(home)["openclaw-backup@tree.service"]


def test_what_a_replacement_needs_is_kept_on_the_controller_and_stays_there(fleet: Fleet) -> None:
    escrow = fleet.base / "escrow"
    home = fleet.add("web1", openclaw_backup_escrow_directory=str(escrow), openclaw_backup_profiles={"mine": {"exclude": ["/tmp/"]}})
    theirs = home / "theirs.json"
    theirs.write_text('{"exclude": ["/x/"]}')
    fleet.hosts["web1"]["openclaw_backup_policies"] += [
        fleet.policy("web1", name="own", profile="mine"),
        fleet.policy("web1", name="foreign", profile=str(theirs)),
    ]
    assert fleet.changes("--check")["web1"] > 0
    assert not escrow.exists()
    fleet.changes()
    found = {str(path.relative_to(escrow)): path for path in escrow.rglob("*")}
    assert set(found) == {
        "web1",
        "web1/policies",
        "web1/policies/tree.json",
        "web1/policies/own.json",
        "web1/policies/foreign.json",
        "web1/profiles",
        "web1/profiles/mine.json",
        "web1/profiles/of-policy-foreign.json",
        "web1/ssh",
    }
    assert {path.stat().st_mode & 0o7777 for path in found.values() if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o7777 for path in found.values() if path.is_dir()} == {0o700}
    assert json.loads(found["web1/policies/tree.json"].read_text()) == {"host": "web1", **fleet.policy("web1")}
    assert found["web1/profiles/of-policy-foreign.json"].read_text() == theirs.read_text()
    assert fleet.changes() == {"web1": 0}
    fleet.hosts["web1"]["openclaw_backup_client_state"] = "absent"
    fleet.changes()
    assert all(path.exists() for path in found.values())


def test_absent_removes_program_and_policies_and_keeps_state_and_snapshots(fleet: Fleet) -> None:
    home = fleet.add("web1")
    fleet.changes()
    for kept in ("state", "vault"):
        (home / kept).mkdir(exist_ok=True)
        (home / kept / "kept").write_text("kept")
    # Removing needs no policies, and wrong ones are no reason to stay.
    fleet.hosts["web1"].update(openclaw_backup_client_state="absent", openclaw_backup_policies=[{"name": "no policy"}])
    before = tree(home)
    assert fleet.changes("--check") == {"web1": 3}
    assert tree(home) == before
    assert "Kept:" in fleet.play().stdout
    assert {"state/kept", "vault/kept", "source/file"} <= set(tree(home))
    assert [path for path in tree(home) if path.startswith(("bin/", "etc/", "cron"))] == []
    assert fleet.changes() == {"web1": 0}


def test_a_program_that_cannot_start_does_not_replace_one_that_can(fleet: Fleet) -> None:
    home = fleet.add("web1")
    (home / "bin" / "openclaw-backup").write_text("works")
    (home / "python3").write_text("#!/bin/sh\necho too old >&2\nexit 1\n")
    (home / "python3").chmod(0o755)
    done = fleet.play(PATH="%s:%s" % (home, os.environ["PATH"]))
    assert done.returncode == 2 and "too old" in done.stdout
    assert (home / "bin" / "openclaw-backup").read_text() == "works"
    assert not (home / "etc").exists()
    assert list((fleet.base / "controller").iterdir()) == []


BAD = {
    "unknown-key": ({"openclaw_backup_policies": [{"name": "a", "sorces": ["/a"], "target": "/v"}]}, "sorces is not a key.*did you mean 'sources'"),
    "missing-name": ({"openclaw_backup_policies": [{"sources": ["/a"], "target": "/v"}]}, "policy 1: name is missing"),
    "wrong-type": ({"openclaw_backup_policies": [{"name": "a", "sources": "/a", "target": "/v"}]}, r"policy 1 \(a\): sources must be a list"),
    "number-as-text": (
        {"openclaw_backup_policies": [{"name": "a", "sources": ["/a"], "target": "/v", "guards": {"min_files": "3"}}]},
        "guards.min_files must be a whole number, found the text '3'",
    ),
    "relative-source": ({"openclaw_backup_policies": [{"name": "a", "sources": ["a"], "target": "/v"}]}, r"sources\[0\]"),
    "second-is-bad": ({"openclaw_backup_policies": [{"name": n, "sources": ["/a"], "target": "/v"} for n in ("a", "../b")]}, r"policy 2 \(../b\): name"),
    "same-name": ({"openclaw_backup_policies": [{"name": "a", "sources": [s], "target": "/v"} for s in ("/a", "/b")]}, "policy 2.*policy 1 has this name"),
    "no-policies": ({"openclaw_backup_policies": []}, "is empty.*no-policies"),
    "not-a-list": ({"openclaw_backup_policies": {"name": "a"}}, "unable to convert to list"),
    "text": ({"openclaw_backup_policies": "name=a"}, "must be a list"),
    "not-a-mapping": ({"openclaw_backup_policies": ["a=1"]}, "must be a mapping"),
    "unknown-state": ({"openclaw_backup_client_state": "removed"}, "openclaw_backup_client_state must be one of: present, absent"),
    "profile-name": ({"openclaw_backup_profiles": {"../x": {}}}, "openclaw_backup_profiles has the name '../x'"),
    "cron-file": ({"openclaw_backup_cron_file": "/etc/cron.d/openclaw.backup"}, "openclaw_backup_cron_file is '/etc/cron.d/openclaw.backup'.*passes over"),
    "no-vault": ({"openclaw_backup_policies": [{"name": "a", "sources": ["/a"]}]}, "policy without a target, and the group backup_vaults is empty"),
    "other-vault": ({"openclaw_backup_policies": [{"name": "a", "sources": ["/a"]}], "openclaw_backup_vault": "x"}, "'x', which is no host of the inventory"),
    "other-host": (
        {"openclaw_backup_policies": [{"name": "a", "host": "h", "sources": ["/a"]}], "openclaw_backup_vault": "other-host"},
        "a names another host than other-host",
    ),
    "copies": (
        {"openclaw_backup_copies": 2, "openclaw_backup_policies": [{"name": "a", "sources": ["/a"]}], "openclaw_backup_vault": "copies"},
        "openclaw_backup_copies is 2. Allowed: a whole number from 1 to 1",
    ),
    "bad-cron": (
        {"openclaw_backup_policies": [{"name": "a", "sources": ["/a"], "target": "/v", "schedule": {"cron": "* 25 * * *"}}]},
        r"policy 1 \(a\): schedule.cron has a bad hour '25'",
    ),
    "profile-key": (
        {"openclaw_backup_profiles": {"note": {"sorces": ["/x"]}}},
        "openclaw_backup_profiles, note: profile.sorces is not a key.*did you mean 'profile.sources'",
    ),
    "profile-unknown": (
        {"openclaw_backup_policies": [{"name": "a", "profile": "opencalw", "target": "/v"}]},
        r"policy 1 \(a\): there is no profile opencalw.*did you mean 'openclaw'",
    ),
    "scratch": (
        {"openclaw_backup_scratch": "/a/spare", "openclaw_backup_policies": [{"name": "a", "sources": ["/a"], "target": "/v"}]},
        "openclaw_backup_scratch is '/a/spare', which its own policy a backs up. Next: name a directory outside of it",
    ),
    "escrow": ({"openclaw_backup_escrow_directory": "escrow"}, "openclaw_backup_escrow_directory is 'escrow'.*absolute path"),
    "secret-relative": ({"openclaw_backup_secrets": {"pack.key": "x"}}, "openclaw_backup_secrets has 'pack.key', whose content is a text. Allowed: absolute"),
    "secret-empty": ({"openclaw_backup_secrets": {"/etc/pack.key": " \n"}}, "openclaw_backup_secrets has '/etc/pack.key', whose content is empty"),
    "secret-number": ({"openclaw_backup_secrets": {"/etc/pack.key": 7}}, "openclaw_backup_secrets has '/etc/pack.key', whose content is no text"),
    "no-systemd": ({"openclaw_backup_schedule": "systemd", "booted": "cron"}, "openclaw_backup_schedule is 'systemd', and no-systemd was not booted with it"),
    "misspelt": ({"openclaw_backup_secret": {}}, "openclaw_backup_secret is not a variable of the playbooks.*did you mean openclaw_backup_secrets"),
    "relative-path": ({"openclaw_backup_program": "openclaw-backup"}, "openclaw_backup_program is 'openclaw-backup'.*absolute path"),
}


def test_bad_variables_are_named_before_anything_is_touched(fleet: Fleet) -> None:
    homes = {name: fleet.add(name, **variables) for name, (variables, _) in BAD.items()}
    before = {name: tree(home) for name, home in homes.items()}
    done = fleet.play()
    assert done.returncode == 2
    failures = dict(re.findall(r"^(?:fatal|failed): \[(.*?)\].*? => (.*)$", done.stdout, re.M))
    for name, (variables, message) in BAD.items():
        text = json.loads(failures[name])["msg"]
        assert re.search(message, text) and next(iter(variables)) in text, text
    assert {name: tree(home) for name, home in homes.items()} == before


def test_what_a_machine_answers_does_not_come_before_the_inventory(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fleet.add("web1")
    liar: Dict[str, Any] = {"ansible.builtin.set_fact": {"openclaw_backup_policies": [fleet.policy("web1", hooks={"before": [["/bin/touch", "/tmp/x"]]})]}}
    liar["ansible.builtin.set_fact"]["cacheable"] = True
    monkeypatch.setitem(PLAY[0], "pre_tasks", [liar])
    done = fleet.play()
    assert done.returncode == 2 and "openclaw_backup_policies came as a fact of web1, which only the inventory may say" in " ".join(done.stdout.split())
    assert not (home / "etc" / "policies" / "tree.json").exists()


def test_a_host_that_would_move_to_another_vault_is_left_as_it_is_and_told_of(fleet: Fleet) -> None:
    bare = {"openclaw_backup_policies": [{"name": "a", "sources": ["/a"]}]}
    home = fleet.add("web1", **bare, openclaw_backup_vault="vault2")
    fleet.add("vault2", openclaw_backup_vault_address="second.example.org")
    (home / "etc" / "policies").mkdir(parents=True)
    old = {"name": "a", "sources": ["/a"], "target": {"url": "ssh://ocb-web1@first.example.org:22/"}}
    (home / "etc" / "policies" / "a.json").write_text(json.dumps(old))
    before = tree(home)
    done = fleet.play("--limit", "web1")
    assert done.returncode == 2 and tree(home) == before
    message = " ".join(done.stdout.split())
    assert "sends a to ssh://ocb-web1@first.example.org:22/, and would move to ssh://ocb-web1-" in message
    assert "openclaw_backup_move=true" in message and "second.example.org" in message
    # Nor does it leave its history behind, unless it is told that this is lost.
    done = fleet.play("--limit", "web1", "-e", "openclaw_backup_move=true")
    assert done.returncode == 2 and tree(home) == before
    message = " ".join(done.stdout.split())
    assert "'ssh://ocb-web1@first.example.org:22/', which leads to no vault of the inventory" in message and "openclaw_backup_move_lost=true" in message
    # A machine that has nothing of a vault is none, whatever the host says.
    fleet.add("plain")
    old["target"] = {"url": "ssh://ocb-web1@plain:22/"}
    (home / "etc" / "policies" / "a.json").write_text(json.dumps(old))
    done = fleet.play("--limit", "web1", "-e", "openclaw_backup_move=true")
    assert done.returncode == 2 and "its history (plain) is no vault any more" in " ".join(done.stdout.split())
