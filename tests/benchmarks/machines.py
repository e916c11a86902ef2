# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines of a scenario of molecule, to measure on."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Sequence, TypeVar

from measure import Failed
from peers import ROOT

Me = TypeVar("Me", bound="Machines")


class Machines(ABC):
    """They exist inside of ``with``. ``directory``: an empty one, for what molecule writes."""

    scenario: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            **os.environ,
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "LC_ALL": "C.UTF-8",
            "MOLECULE_EPHEMERAL_DIRECTORY": str(directory),
            "MOLECULE_GLOB": "molecule/*/molecule.yml",
            "PATH": "%s:%s" % (Path(sys.executable).parent, os.environ["PATH"]),
        }

    def __enter__(self: Me) -> Me:
        try:
            self._molecule("create")
            self.set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._molecule("destroy")

    @abstractmethod
    def set_up(self) -> None:
        """What the machines need before anything is measured."""

    def ansible(self, program: str, inventory: Path, *arguments: str) -> None:
        """Run ``ansible`` or ``ansible-playbook``. ``Failed`` says how it ended."""
        self._call([str(Path(sys.executable).parent / program), "--inventory", str(inventory), *arguments])

    def _molecule(self, verb: str) -> None:
        self._call([sys.executable, "-m", "molecule", "--base-config", ".config/molecule/config.yml", verb, "--scenario-name", self.scenario])

    def _call(self, argv: Sequence[str]) -> None:
        done = subprocess.run(argv, cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed("%s\nended with %d: %s" % (" ".join(argv), done.returncode, (done.stdout + done.stderr)[-2000:]))
