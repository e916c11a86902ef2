# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule's scenarios, whole: from making the hosts to removing them. Each is a test in a file of its own, so that several are played at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ("podman", "mmdebstrap", "ssh")


def needs_the_lab(test: Any) -> Any:
    """Mark a test whose hosts are containers."""
    marks = (
        pytest.mark.slow,
        pytest.mark.lab,
        pytest.mark.timeout(1800),  # others may be at work on this machine
        pytest.mark.skipif(os.geteuid() != 0, reason="the lab's hosts are made as root"),
        pytest.mark.skipif(not all(map(shutil.which, LAB)), reason="needs " + ", ".join(LAB)),
    )
    for mark in marks:
        test = mark(test)
    return test


def play(scenario: str, ephemeral: Path) -> None:
    """Run ``molecule test`` with ``ephemeral`` as its working directory, which must be empty in the end but for molecule's own files."""
    environment = {
        # Measuring coverage would take Ansible half as long again, and the engine that is at work is the hosts'.
        **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
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
