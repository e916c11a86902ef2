# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program as a container starts it: `run --loop` in a process of its own, with a state of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Type

AGENT = [sys.executable, "-m", "ansible_collections.openclaw.backup.plugins.module_utils.agent"]


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What ``condition`` gives, once it gives something."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def agent(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*AGENT, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


class Loop:
    """A loop at work in ``home``, where its policy, its state and what it says lie; ended with its block, whatever happened in it."""

    def __init__(self, home: Path, policy: Dict[str, Any], seconds: int = 3600, *more: str, said: str = "") -> None:
        home.mkdir(exist_ok=True)
        self.policy = home / "policy.json"
        self.policy.write_text(json.dumps(policy))
        self.state = home / "state"
        self.said = Path(said) if said else home / "said"
        self.complaints = home / "complaints"
        with open(self.said, "w") as out, open(self.complaints, "w") as err:
            command = [*AGENT, "run", str(self.policy), "--loop", str(seconds), "--state", str(self.state), *more]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.process.kill()
        self.process.wait()

    def lines(self, event: str = "run") -> List[Dict[str, Any]]:
        found = [json.loads(line) for line in self.said.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if line["event"] == event]

    def has_run(self, times: int, event: str = "run") -> Dict[str, Any]:
        """The last line, once there are so many."""

        def look() -> List[Dict[str, Any]]:
            assert self.process.poll() is None, self.complaints.read_text()
            return self.lines(event) if len(self.lines(event)) >= times else []

        line: Dict[str, Any] = until(look)[-1]
        return line

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def health(self, *words: str) -> Dict[str, Any]:
        done = agent("health", str(self.policy), "--state", str(self.state), "--json", *words)
        found: Dict[str, Any] = json.loads(done.stdout)
        assert (done.returncode, done.stderr) == (found["rc"], "") and found["rc"] in (0, 1)
        return found
