# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running one command: how long it takes, and how much memory all its processes have together."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Set

# Python's own variables and .venv would change what is measured.
_LEFT_OUT = ("PYTHON", "VIRTUAL_ENV", "RSYNC", "OPENCLAW", "COVERAGE", "RESTIC", "BORG", "ANSIBLE")
_SAMPLE_EVERY = 0.005  # s


class Failed(Exception):
    """A command ended with an exit code that is not 0, or did not do what is measured."""


class Done(NamedTuple):
    """``seconds`` of wall time from the start of the process to its end, ``cpu`` seconds of it and its children, and its standard output."""

    seconds: float
    cpu: float
    output: str


def environment() -> Dict[str, str]:
    """What the commands see: the machine's own programs, in the C locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
    inside = os.path.join(sys.prefix, "bin")
    path = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if sys.prefix == sys.base_prefix or os.path.abspath(part) != inside]
    return {**kept, "PATH": os.pathsep.join(path), "LC_ALL": "C"}


def run(argv: Sequence[str]) -> Done:
    """Run ``argv`` to its end. Raises ``Failed``."""
    started, used = time.perf_counter(), _cpu()
    done = subprocess.run(argv, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    _check(argv, done.returncode, done.stderr or done.stdout)
    return Done(seconds, _cpu() - used, done.stdout)


def peak_memory(argv: Sequence[str]) -> int:
    """Most bytes that the processes of ``argv`` had at one time: the sum of their proportional set sizes, looked at every 5 ms.

    Pages that forked workers share count once, unlike in a sum of ``ru_maxrss``.
    """
    with subprocess.Popen(argv, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        most = before = 0
        while process.poll() is None:
            now = sum(map(_proportional_size, _family(process.pid)))
            # The processes are looked at one after the other: while one forks, what it shares is counted twice. That is over by the next look.
            most, before = max(most, min(before, now)), now
            time.sleep(_SAMPLE_EVERY)
        assert process.stderr is not None
        _check(argv, process.returncode, process.stderr.read())
    return most


def remove(path: Path) -> None:
    """Remove a tree, even one whose directories are read-only for their owner."""
    if os.path.lexists(path):
        if os.geteuid() != 0:
            subprocess.run(["chmod", "-R", "u+rwX", "--", str(path)], check=True)
        subprocess.run(["rm", "-rf", "--", str(path)], check=True)


def _cpu() -> float:
    """Seconds that all processes used that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _check(argv: Sequence[str], code: int, text: str) -> None:
    if code:
        raise Failed("%s\nended with %d: %s" % (" ".join(argv), code, text[-2000:].strip()))


def _family(root: int) -> Set[int]:
    """``root`` and all its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open("/proc/%s/stat" % name) as stream:
                    parents[int(name)] = int(stream.read().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    family: Set[int] = set()
    found: List[int] = [root]
    while found:
        family.update(found)
        found = [pid for pid, parent in parents.items() if parent in family and pid not in family]
    return family


def _proportional_size(pid: int) -> int:
    try:
        with open("/proc/%d/smaps_rollup" % pid) as stream:
            return next((int(line.split()[1]) * 1024 for line in stream if line.startswith("Pss:")), 0)
    except OSError:
        return 0  # it has ended
