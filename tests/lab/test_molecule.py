# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule's scenarios, whole: from making the host to removing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LAB = ("podman", "mmdebstrap", "ssh")
# `make stories` names the longer ones.
STORIES = os.environ.get("STORIES", "default site backup_restore").split()


lab = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab's hosts are made as root"),
    pytest.mark.skipif(not all(map(shutil.which, LAB)), reason="needs " + ", ".join(LAB)),
]


def molecule(scenario: str, ephemeral: Path) -> None:
    """Run ``molecule test`` with ``ephemeral`` as its working directory, which must be empty in the end but for molecule's own files."""
    environment = {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "MOLECULE_COMMAND_BORDERS": "false",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(ephemeral),
        "MOLECULE_GLOB": "molecule/*/molecule.yml",
        # Molecule starts Ansible and pytest by name.
        "PATH": "%s:%s" % (Path(sys.executable).parent, os.environ["PATH"]),
    }
    environment.pop("PYTEST_ADDOPTS", None)
    # By its path: molecule looks for it at the top of the repository, and a copy of the files alone is none.
    command = [sys.executable, "-m", "molecule", "--base-config", ".config/molecule/config.yml", "test", "--scenario-name", scenario]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in ephemeral.iterdir()} <= {"ansible.cfg", "inventory", "molecule.yml", "state.yml"}


def test_the_story_on_this_machine(tmp_path: Path) -> None:
    molecule("local", tmp_path)


@pytest.mark.parametrize("scenario", [pytest.param(name, marks=lab) for name in STORIES])
def test_a_story_on_hosts_over_ssh(scenario: str, tmp_path: Path) -> None:
    molecule(scenario, tmp_path)
