# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of several files begin with: a small machine, and real runs of ansible-playbook on this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

from .buckets import serving
from .sshd import Away
from .world import STORAGES, World

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=STORAGES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One for each storage. With WORLD=ssh in the environment its vault is behind an sshd, with WORLD=pack (for all suites) it is of sealed packs, for
    a look at the same stories there."""
    made = Away.over(request.param) if os.environ.get("WORLD") == "ssh" else World.make(request.param)
    yield made
    made.destroy()


@pytest.fixture
def portable() -> Iterator[World]:
    made = World.make("portable")
    yield made
    made.destroy()


@pytest.fixture(scope="session")
def moto() -> Iterator[int]:
    """The port of an S3 service that knows conditional writes."""
    with serving("moto") as port:
        yield port


@pytest.fixture(scope="session")
def rclone() -> Iterator[int]:
    """The port of one that does not."""
    with serving("rclone") as port:
        yield port


@pytest.fixture(scope="session")
def ansible_playbook() -> Run:
    """``ansible_playbook(home, *arguments, **environment)``: run it in ``home``, where the state of backups is kept too."""

    def run(home: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        clean.update(
            ANSIBLE_NOCOLOR="1",
            ANSIBLE_PIPELINING="1",
            LC_ALL="C.UTF-8",
            OPENCLAW_BACKUP_STATE=str(home / "state"),
            **environment,
        )
        command = [sys.executable, "-m", "ansible", "playbook", *arguments]
        return subprocess.run(command, cwd=home, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    return run
