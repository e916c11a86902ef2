# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example of a container, built and run: it is stopped, killed and thrown away, and comes back each time with what its application had written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import yaml

from .molecule import ROOT, needs_the_lab

LAB = yaml.safe_load((ROOT / "molecule" / "default" / "vars" / "lab.yml").read_text())
EXAMPLES = ROOT / "docs" / "examples" / "containers"
# What the manifests for Kubernetes leave of root's rights, and what starting the application as another user takes.
RIGHTS = [
    "--cap-drop=ALL",
    *("--cap-add=" + name for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")),
    "--security-opt=no-new-privileges",
]
FILES = "/home/agent/.openclaw"
# Writes a file a moment, and its last words.
APPLICATION = """cd %s; trap 'echo bye >last; exit 0' TERM; n=$(ls | wc -l); while :; do n=$((n + 1)); echo $n >n.tmp; mv n.tmp $n; sleep 0.1; done""" % FILES


def podman(*words: str, code: int = 0) -> str:
    done = subprocess.run(["podman", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


def until(words: List[str], seconds: float = 60) -> None:
    """Wait until a command in podman succeeds."""
    deadline = time.monotonic() + seconds
    while True:
        done = subprocess.run(["podman", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, (done.stdout, done.stderr)
        time.sleep(0.2)


class Lab:
    """An image of the example, and what outlives its containers: a vault, a policy and a key."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.image = "localhost/openclaw-backup-test:%s" % home.name
        self.name = "openclaw-backup-test-" + hashlib.sha256(str(home).encode()).hexdigest()[:8]
        self.limits: List[str] = []
        packages = ",".join(LAB["lab_packages"])
        base = "%s:bookworm-%s" % (LAB["lab_images"], hashlib.sha256(packages.encode()).hexdigest()[:8])
        subprocess.run([str(ROOT / "molecule/default/files/make_image.sh"), str(home), base, "bookworm", packages], check=True, stdout=subprocess.DEVNULL)
        if subprocess.run(["podman", "run", "--rm", "--network=none", base, "true"], capture_output=True, check=False).returncode:
            self.limits = LAB["lab_limited"]
        context = home / "context"
        shutil.copytree(EXAMPLES, context)
        subprocess.run([sys.executable, str(ROOT / "roles/client/files/build_zipapp.py"), str(context / "openclaw-backup")], check=True)
        (context / "base").write_text("FROM %s\nRUN useradd --create-home --shell /bin/sh agent && mkdir %s && chown agent: %s\n" % (base, FILES, FILES))
        build = [*(word for word in self.limits if word.startswith("--ulimit")), *(word for word in self.limits if word.startswith("--runtime"))]
        podman("build", *build, "--quiet", "--network=none", "--tag", self.image + "-base", "--file", str(context / "base"), str(context))
        given = ["--build-arg=BASE=%s-base" % self.image, "--build-arg=PACKAGES="]
        podman("build", *build, "--quiet", "--network=none", "--format=docker", *given, "--tag", self.image, str(context))
        policies = home / "policies"
        policies.mkdir()
        target = {"url": "/srv/vault", "storage": "portable"}
        policy = {"name": "openclaw", "host": "agent", "sources": [FILES], "target": target, "exclude": ["*.tmp"], "sqlite": "auto"}
        (policies / "openclaw.json").write_text(json.dumps(policy))
        (home / "vault").mkdir(mode=0o700)

    def start(self) -> None:
        mounts = ["--volume=%s:/etc/openclaw-backup/policies:ro" % (self.home / "policies"), "--volume=%s:/srv/vault" % (self.home / "vault")]
        settings = ["--env=RUN_AS=agent", "--env=BACKUP_EVERY=2", "--env=BACKUP_FLUSH=20", "--stop-timeout=40", "--read-only", "--read-only-tmpfs=false"]
        places = ["--volume=%s" % FILES, "--volume=/var/lib/openclaw-backup"]  # with the container they go
        image = [self.image, "sh", "-c", APPLICATION]
        podman("run", "--detach", "--network=none", "--name", self.name, *self.limits, *RIGHTS, *mounts, *settings, *places, *image)

    def files(self) -> Dict[str, str]:
        """What the newest snapshot holds."""
        found = sorted((self.home / "vault" / "agent" / "openclaw" / "snapshots").iterdir())[-1]
        return {path.name: path.read_text() for path in Path(str(found / "tree") + FILES).iterdir()}

    def inside(self, *words: str, code: int = 0) -> str:
        return podman("exec", self.name, *words, code=code)

    def said(self) -> List[Dict[str, Any]]:
        lines = podman("logs", self.name).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def remove(self) -> None:
        subprocess.run(["podman", "rm", "--force", "--volumes", "--time", "0", self.name], capture_output=True, check=False)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.remove()
    subprocess.run(["podman", "rmi", "--force", made.image, made.image + "-base"], capture_output=True, check=False)


@needs_the_lab
def test_a_container_comes_back_however_it_ended(lab: Lab) -> None:
    lab.start()
    until(["exec", lab.name, "openclaw-backup", "health", "openclaw"])
    until(["healthcheck", "run", lab.name])
    lab.inside("openclaw-backup", "health", "openclaw", "--alive")
    assert podman("exec", lab.name, "stat", "-c", "%U", FILES + "/1") == "agent\n"
    # The application can open neither the vault nor the state.
    for place in ("/srv/vault", "/var/lib/openclaw-backup/agent"):
        podman("exec", "--user=agent", lab.name, "ls", place, code=2)
    podman("stop", lab.name)
    assert podman("inspect", "--format={{.State.ExitCode}}", lab.name) == "0\n"
    held = lab.files()
    assert held["last"] == "bye\n" and held["1"] == "1\n", "the last run came after the application's last words"
    assert [line["rc"] for line in lab.said()] == [0] * len(lab.said()) and lab.said()[-1]["trigger"] == "stop"

    lab.remove()  # with its files and its state
    lab.start()
    until(["exec", lab.name, "openclaw-backup", "health", "openclaw"])
    assert lab.inside("cat", FILES + "/last", FILES + "/1") == "bye\n1\n"
    count = len(lab.files())
    until(["exec", lab.name, "sh", "-c", "[ $(ls %s | wc -l) -gt %d ]" % (FILES, count + 15)])
    podman("kill", lab.name)
    held = lab.files()
    assert len(held) >= count and held["last"] == "bye\n"

    podman("start", lab.name)  # killed, but not thrown away: what it had is newer than its last run
    until(["exec", lab.name, "openclaw-backup", "health", "openclaw", "--max-age", "10s"])
    assert int(lab.inside("sh", "-c", "ls %s | wc -l" % FILES)) >= count + 15
    assert not [line for line in lab.said() if line["event"] == "restore" and line["rc"]]
