# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured against what. A peer is one class; ``PEERS`` has them all.

For each case a peer makes ready what the command needs, and returns the command; only the command is timed. None: it has nothing like it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from measure import Done, environment, remove, run
from tree import VERSIONS, Tree

ROOT = Path(__file__).resolve().parents[2]
TASKS = 10
Argv = List[str]


def python_of_hosts() -> str:
    """The distribution's Python, as on a host: one built from source without its optimisations takes half as long again."""
    return shutil.which("python3", path="/usr/bin:" + environment()["PATH"]) or sys.executable


class Peer(ABC):
    """A way to back up a tree, with everything that it writes below ``room``. Its methods are named as the cases are."""

    name: str
    programs: Sequence[str] = ()
    needs_settled = False  # it reads files again that are younger than a minute

    def __init__(self, room: Path, tree: Tree) -> None:
        self.room = room
        self.tree = tree
        self.source = tree.root
        self.restored = room / "restored"

    @classmethod
    def measures(cls, cases: Sequence[str]) -> bool:
        """Whether it has anything to do in a tree's cases."""
        return "prune" not in cases or cls.prune is not Peer.prune

    @classmethod
    def lacks(cls) -> str:
        """What this machine lacks to run it; nothing is empty."""
        return ", ".join(program for program in cls.programs if not shutil.which(program))

    @classmethod
    def version(cls) -> str:
        if not cls.programs:
            return ""
        found = re.search(r"\d+(\.\d+)+", run([cls.programs[0], "version" if issubclass(cls, Restic) else "--version"]).output)
        return found[0] if found else ""

    def prepare(self) -> None:
        """Make the empty place that the first backup goes to."""
        self.room.mkdir()

    def close(self) -> None:
        """Leave nothing behind."""
        remove(self.room)

    @abstractmethod
    def backup(self) -> Argv:
        """Back up, for the first time or again."""

    def first(self) -> Optional[Argv]:
        return self.backup()

    def unchanged(self) -> Optional[Argv]:
        return self.backup()

    def changed(self) -> Optional[Argv]:
        return self.backup()

    def page(self) -> Optional[Argv]:
        return self.backup()

    def again(self) -> Optional[Argv]:
        """Back up where files changed shortly before the last backup, and not since."""
        return None

    def task(self) -> Optional[Argv]:
        """Back up where nothing changed, as ``TASKS`` tasks of Ansible after a first one."""
        return None

    def verify(self) -> Optional[Argv]:
        """Read back all content of the backups and compare it with its checksums."""
        return None

    @abstractmethod
    def restore(self) -> Optional[Argv]:
        """Write the newest backup to where nothing is."""

    def repair(self) -> Optional[Argv]:
        """Write it to where most of it is."""
        return self.restore()

    def prune(self) -> Optional[Argv]:
        """Remove all backups but the newest."""
        return None

    def has_done(self, case: str, output: str, count: int) -> bool:
        """Whether the command did what is measured, by what it printed; ``count``: files changed before it, or backups to remove."""
        return True

    def seconds(self, case: str, done: Done) -> float:
        return done.seconds

    def restored_source(self) -> Path:
        """Where a restore puts the source."""
        return self.restored / self.source.relative_to("/")


class Engine(Peer):
    """The command line, as a host runs it: a zipapp, started anew each time."""

    name = "openclaw-backup"
    programs: Sequence[str] = ("rsync",)
    needs_settled = True

    @classmethod
    def version(cls) -> str:
        return ""

    def _vault(self) -> Path:
        return self.room / "vault"

    def prepare(self) -> None:
        super().prepare()
        program = self.room / "openclaw-backup"
        run([python_of_hosts(), str(ROOT / "roles" / "client" / "files" / "build_zipapp.py"), str(program)])
        policy = self.room / "policy.json"
        item = {"name": "bench", "host": "bench", "sources": [str(self.source)], "target": str(self._vault()), "retention": {"keep_last": 1, "protect": "0s"}}
        policy.write_text(json.dumps(item))
        self.program = [python_of_hosts(), "-I", str(program)]
        self.options = [str(policy), "--json", "--state", str(self.room / "state")]

    def backup(self) -> Argv:
        return [*self.program, "run", *self.options]

    def again(self) -> Argv:
        return self.backup()

    def task(self) -> Optional[Argv]:
        if not importlib.util.find_spec("ansible"):
            return None
        collection = self.room / "collections" / "ansible_collections" / "openclaw" / "backup"
        collection.parent.mkdir(parents=True, exist_ok=True)
        if not collection.is_symlink():
            collection.symlink_to(ROOT)
        clock = {"ansible.builtin.debug": {"msg": "clock {{ '%.6f' % now().timestamp() }}"}}
        task = {"openclaw.backup.snapshot": {"policy": self.options[0]}, "register": "done", "failed_when": "done is failed or done is changed"}
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "environment": {"OPENCLAW_BACKUP_STATE": self.options[-1]},
            "vars": {"ansible_connection": "local", "ansible_python_interpreter": python_of_hosts()},
            "tasks": [task, clock, *[task] * TASKS, clock],
        }
        (self.room / "play.json").write_text(json.dumps([play]))
        settings = self.room / "ansible.cfg"
        settings.write_text("[defaults]\npipelining = true\ncollections_path = %s\n" % (self.room / "collections"))
        environ = ["LC_ALL=C.UTF-8", "ANSIBLE_CONFIG=%s" % settings]
        return ["env", *environ, sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(self.room / "play.json")]

    def seconds(self, case: str, done: Done) -> float:
        if case != "task":
            return done.seconds
        begin, end = map(float, re.findall(r"clock ([\d.]+)", done.output))
        return (end - begin) / TASKS

    def verify(self) -> Optional[Argv]:
        return [*self.program, "verify", *self.options, "--depth", "full"]

    def restore(self) -> Optional[Argv]:
        return [*self.program, "restore", *self.options, "--dest", str(self.restored)]

    def prune(self) -> Argv:
        return [*self.program, "prune", *self.options]

    def has_done(self, case: str, output: str, count: int) -> bool:
        if case == "task":
            return output.count("clock") == 2
        result: Dict[str, Any] = json.loads(output)
        if case in ("changed", "page"):
            return bool(result["modified"] == result["files_sent"] == count)
        if case in ("unchanged", "again"):
            return not result["changed"]
        if case == "repair":
            return bool(result["verified"] and result["files_restored"] == count)
        if case == "prune":
            return len(result["removed"]) == count
        return bool(result[{"first": "changed", "verify": "ok", "restore": "verified"}[case]])


class Btrfs(Engine):
    """The same with a vault on btrfs, in a file that is mounted."""

    name = "openclaw-backup, btrfs"
    programs: Sequence[str] = ("rsync", "mkfs.btrfs", "mount")

    @classmethod
    def measures(cls, cases: Sequence[str]) -> bool:
        return "page" in cases

    @classmethod
    def lacks(cls) -> str:
        return super().lacks() or ("" if os.geteuid() == 0 else "root")

    def _vault(self) -> Path:
        return self.room / "mount" / "vault"

    def prepare(self) -> None:
        super().prepare()
        self._vault().parent.mkdir()
        image = self.room / "image"
        image.touch()
        os.truncate(image, self.tree.bytes * 5 // 2 + (1 << 30))
        run(["mkfs.btrfs", "--quiet", str(image)])
        run(["mount", "-o", "loop", str(image), str(self._vault().parent)])

    def close(self) -> None:
        if os.path.ismount(self._vault().parent):
            run(["umount", str(self._vault().parent)])
        super().close()

    def task(self) -> None:
        return None

    def verify(self) -> None:
        return None

    def restore(self) -> None:
        return None


class Rsync(Peer):
    """Plain rsync: a copy, then one directory a backup with hard links to the one before."""

    name = "rsync -aHAX"
    programs: Sequence[str] = ("rsync",)

    def prepare(self) -> None:
        super().prepare()
        self.number = -1

    def backup(self) -> Argv:
        self.number += 1
        link_dest = ["--link-dest", str(self.room / str(self.number - 1))] if self.number else []
        return ["rsync", "-aHAX", *link_dest, "--", "%s/" % self.source, "%s/" % (self.room / str(self.number))]

    def restore(self) -> Optional[Argv]:
        return ["rsync", "-aHAX", "--", "%s/" % (self.room / str(self.number)), "%s/" % self.restored]

    def restored_source(self) -> Path:
        return self.restored

    def prune(self) -> Argv:
        return ["rm", "-rf", "--", *(str(self.room / str(number)) for number in range(self.number))]


class Rsnapshot(Peer):
    """rsync in the hands of rsnapshot, with ``link_dest``. What it does not do itself, its users do with rsync."""

    name = "rsnapshot"
    programs = ("rsnapshot", "rsync")

    @classmethod
    def version(cls) -> str:
        return (
            subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "rsnapshot"], capture_output=True, text=True).stdout if shutil.which("dpkg-query") else ""
        )

    def prepare(self) -> None:
        super().prepare()
        settings = [
            ("config_version", "1.2"),
            ("snapshot_root", "%s/root/" % self.room),
            ("cmd_rsync", str(shutil.which("rsync"))),
            ("cmd_rm", str(shutil.which("rm"))),
            ("retain", "alpha", str(VERSIONS + 1)),
            ("lockfile", "%s/pid" % self.room),
            ("rsync_short_args", "-aHAX"),
            ("link_dest", "1"),
            ("backup", "%s/" % self.source, "bench/"),
        ]
        (self.room / "conf").write_text("".join("\t".join(line) + "\n" for line in settings))

    def backup(self) -> Argv:
        return ["rsnapshot", "-c", str(self.room / "conf"), "alpha"]

    def restore(self) -> Optional[Argv]:
        return ["rsync", "-aHAX", "--", "%s/root/alpha.0/bench%s/" % (self.room, self.source), "%s/" % self.restored]

    def restored_source(self) -> Path:
        return self.restored


class Restic(Peer):
    """restic, encrypted and compressed as it is by default, with its cache beside the repository."""

    name = "restic"
    programs = ("restic",)

    def prepare(self) -> None:
        super().prepare()
        (self.room / "password").write_text("bench\n")
        run(self._restic("init"))

    def _restic(self, *arguments: str) -> Argv:
        room = str(self.room)
        return ["restic", "-r", room + "/repository", "--password-file", room + "/password", "--cache-dir", room + "/cache", *arguments]

    def backup(self) -> Argv:
        return self._restic("backup", "--host", "bench", str(self.source))

    def verify(self) -> Optional[Argv]:
        return self._restic("check", "--read-data")

    def restore(self) -> Optional[Argv]:
        return self._restic("restore", "latest", "--target", str(self.restored))

    def repair(self) -> Optional[Argv]:
        return None if self.tree.symlinks else self.restore()  # up to 0.14 it fails where a symlink is already

    def prune(self) -> Argv:
        return self._restic("forget", "--keep-last", "1", "--prune")

    def has_done(self, case: str, output: str, count: int) -> bool:
        if case in ("unchanged", "changed", "page") and not self.tree.databases:  # whose journals are files too
            return "Files:           0 new, %5d changed," % (0 if case == "unchanged" else count) in output
        return case != "prune" or "remove %d snapshots" % count in output


class Borg(Peer):
    """borg without encryption, compressed as it is by default (lz4), with its cache beside the repository."""

    name = "borg"
    programs = ("borg",)

    def prepare(self) -> None:
        super().prepare()
        self.number = 0
        run(self._borg("init", "--encryption=none"))

    def _borg(self, *arguments: str, at: Optional[Path] = None) -> Argv:
        settings = ["BORG_BASE_DIR=%s" % self.room, "BORG_REPO=%s/repository" % self.room, "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes"]
        return ["env", *(["--chdir=%s" % at] if at else []), *settings, "borg", *arguments]

    def backup(self) -> Argv:
        self.number += 1
        return self._borg("create", "::%d" % self.number, str(self.source))

    def verify(self) -> Optional[Argv]:
        return self._borg("check", "--verify-data")

    def restore(self) -> Optional[Argv]:
        self.restored.mkdir(exist_ok=True)
        return self._borg("extract", "::%d" % self.number, at=self.restored)

    def prune(self) -> Argv:
        return ["sh", "-ec", '"$@" prune --keep-last 1; exec "$@" compact', "sh", *self._borg()]


HASH = """\
import hashlib, os, sys
files = [sys.argv[1]] if os.path.isfile(sys.argv[1]) else sorted(os.path.join(place, name) for place, _, names in os.walk(sys.argv[1]) for name in names)
child = os.fork() if len(files) > 1 else 0
for path in files[child == 0 :: 2] if len(files) > 1 else files:
    if not os.path.islink(path):
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
if child and os.waitpid(child, 0)[1]:
    sys.exit(1)
"""


class Floor(Peer):
    """The least that each case can cost: the same looking, reading and writing, with nothing around it."""

    name = "floor"

    def backup(self) -> Argv:
        return ["find", str(self.source), "-newer", str(self.source)]

    def first(self) -> Argv:
        return ["cp", "-a", "--", str(self.source), str(self.room / "copy")]

    def page(self) -> Argv:
        return [python_of_hosts(), "-I", "-c", HASH, str(self.tree.paged)]

    def verify(self) -> Optional[Argv]:
        return [python_of_hosts(), "-I", "-c", HASH, str(self.source)]

    def restore(self) -> Optional[Argv]:
        return ["cp", "-a", "--", str(self.source), str(self.restored)]

    def repair(self) -> None:
        return None

    def restored_source(self) -> Path:
        return self.restored


# The engine first, then what it is compared with, the floor last.
PEERS = (Engine, Btrfs, Rsync, Rsnapshot, Restic, Borg, Floor)
