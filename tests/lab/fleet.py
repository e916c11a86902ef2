# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a story of molecule plays the playbooks, and asks the hosts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Dict

import testinfra

ROOT = Path(__file__).resolve().parents[2]


class Fleet:
    """The lab, by its playbooks and by its hosts. ``output``: all that the last playbook said."""

    def __init__(self, inventory: str) -> None:
        self.inventory = inventory
        self.output = ""

    def run(self, name: str, *arguments: str, code: int = 0, **variables: Any) -> str:
        """Run a playbook; what it says on standard output."""
        given = json.dumps({"openclaw_backup_" + key: value for key, value in variables.items()})
        command = ["ansible-playbook", "-i", self.inventory, str(ROOT / "playbooks" / (name + ".yml")), "-e", given, *arguments]
        environment = {**os.environ, "ANSIBLE_SHOW_CUSTOM_STATS": "true", "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        self.output = done.stdout + done.stderr
        assert done.returncode == code, self.output
        return done.stdout

    def play(self, name: str, *arguments: str, code: int = 0, verb: str = "", **variables: Any) -> Dict[str, Any]:
        """Run a playbook; what it passed on of itself, or of ``verb``, by host and policy."""
        match = re.search(r"^\tRUN: (\{.*\})$", self.run(name, *arguments, code=code, **variables), re.M)
        assert match, self.output
        passed: Dict[str, Dict[str, Any]] = json.loads(match.group(1))["openclaw_backup"]
        return {host: results.get(verb or name, {}) for host, results in passed.items()}

    def host(self, name: str) -> Any:
        """What testinfra knows it by."""
        return testinfra.get_host("ansible://" + name, ansible_inventory=self.inventory)
