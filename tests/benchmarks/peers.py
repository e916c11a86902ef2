# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured against what. A peer is one class; ``peers`` says which ones this machine can run.

For each operation a peer makes ready what the command needs, and returns the command; only the command is timed. None: it has no such operation.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Dict, List, Optional

from measure import environment, remove

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ("first", "unchanged", "changed", "verify", "restore")
Argv = List[str]


def python_of_hosts() -> str:
    """The distribution's Python, as on a host: one built from source without its optimisations takes half as long again."""
    return shutil.which("python3", path="/usr/bin:" + environment()["PATH"]) or sys.executable


class Peer(ABC):
    """A way to back up ``source``, with everything that it writes below ``room``."""

    name: str

    def __init__(self, room: Path, source: Path) -> None:
        self.room = room / type(self).__name__.lower()
        self.source = source
        self.room.mkdir()
        self.restored = self.room / "restored"

    @abstractmethod
    def first(self) -> Argv:
        """Back up everything into an empty place."""

    @abstractmethod
    def unchanged(self) -> Argv:
        """Back up again: nothing has changed."""

    def settled(self) -> Argv:
        """The same, where files changed shortly before the last backup."""
        return self.unchanged()

    @abstractmethod
    def changed(self) -> Argv:
        """Back up again: one file in a hundred has changed."""

    def verify(self) -> Optional[Argv]:
        """Read back all content of the newest backup and compare it with its checksums."""
        return None

    @abstractmethod
    def restore(self) -> Argv:
        """Write the newest backup into an empty directory."""

    def has_done(self, operation: str, output: str, edited: int) -> bool:
        """Whether the command did what is measured, by what it printed; ``edited``: files changed before it."""
        return True

    def restored_source(self) -> Path:
        """Where a restore puts the source."""
        return self.restored


class Engine(Peer):
    """The command line, as a host runs it: a zipapp, started anew each time."""

    name = "openclaw-backup"

    def __init__(self, room: Path, source: Path) -> None:
        super().__init__(room, source)
        program = self.room / "openclaw-backup"
        subprocess.run([python_of_hosts(), str(ROOT / "roles" / "client" / "files" / "build_zipapp.py"), str(program)], check=True)
        self.policy = self.room / "policy.json"
        self.policy.write_text(json.dumps({"name": "bench", "host": "bench", "sources": [str(source)], "target": str(self.room / "vault")}))
        self.program = [python_of_hosts(), "-I", str(program)]
        self.options = [str(self.policy), "--json", "--state", str(self.room / "state")]

    def first(self) -> Argv:
        remove(self.room / "vault")
        remove(self.room / "state")
        return self.unchanged()

    def unchanged(self) -> Argv:
        return [*self.program, "run", *self.options]

    def changed(self) -> Argv:
        return self.unchanged()

    def verify(self) -> Argv:
        return [*self.program, "verify", *self.options, "--depth", "full"]

    def restore(self) -> Argv:
        remove(self.restored)
        return [*self.program, "restore", *self.options, "--dest", str(self.restored)]

    def restored_source(self) -> Path:
        return self.restored / self.source.relative_to("/")

    def has_done(self, operation: str, output: str, edited: int) -> bool:
        result: Dict[str, Any] = json.loads(output)
        if operation == "changed":
            return bool(result["modified"] == result["files_sent"] == edited)
        if operation in ("unchanged", "settled"):
            return not result["changed"]
        return bool(result[{"first": "changed", "verify": "ok", "restore": "verified"}[operation]])


class Rsync(Peer):
    """Plain rsync: a copy, then one directory a backup with hard links to the one before."""

    name = "rsync -aHAX"

    def __init__(self, room: Path, source: Path) -> None:
        super().__init__(room, source)
        self.number = 0

    def _at(self, number: int) -> Path:
        return self.room / str(number)

    def first(self) -> Argv:
        remove(self._at(0))
        return ["rsync", "-aHAX", "--", "%s/" % self.source, "%s/" % self._at(0)]

    def unchanged(self) -> Argv:
        if self.number:
            remove(self._at(self.number - 1))
        self.number += 1
        return ["rsync", "-aHAX", "--link-dest", str(self._at(self.number - 1)), "--", "%s/" % self.source, "%s/" % self._at(self.number)]

    def changed(self) -> Argv:
        return self.unchanged()

    def restore(self) -> Argv:
        remove(self.restored)
        return ["rsync", "-aHAX", "--", "%s/" % self._at(self.number), "%s/" % self.restored]


HASH = """\
import hashlib, os, sys
files = sorted(os.path.join(place, name) for place, _, names in os.walk(sys.argv[1]) for name in names)
child = os.fork()
for path in files[child == 0 :: 2]:
    if not os.path.islink(path):
        with open(path, "rb") as stream:
            hashlib.sha256(stream.read()).digest()
if child and os.waitpid(child, 0)[1]:
    sys.exit(1)
"""


class Floor(Peer):
    """The least that each operation can cost: the same looking, reading and writing, with nothing around it."""

    name = "floor"

    def first(self) -> Argv:
        remove(self.room / "copy")
        return ["cp", "-a", "--", str(self.source), str(self.room / "copy")]

    def unchanged(self) -> Argv:
        return ["find", str(self.source), "-newer", str(self.source)]

    def changed(self) -> Argv:
        return self.unchanged()

    def verify(self) -> Argv:
        return [sys.executable, "-I", "-c", HASH, str(self.source)]

    def restore(self) -> Argv:
        return self.first()


def peers(room: Path, source: Path) -> List[Peer]:
    """The engine first, then what it is compared with, the floor last."""
    return [Engine(room, source), Rsync(room, source), Floor(room, source)]
