#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure backups of one host of the lab to the vault of another over SSH, beside rsync over SSH, and hold them to their bar.

The lab is that of molecule's scenario backup_restore, the trees and the vault are in memory. CPU and memory are those of the backed up host alone.
Results: the part ``ssh`` of docs/performance.json and docs/performance.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from bench import TURNS, describe_machine, measure
from machines import Machines
from measure import Failed, remove, run
from peers import Argv, Engine, Rsync
from report import MISS, judge, read_results, table, tables, write_page, write_results
from tree import KINDS, Tree

# Where memory is mounted in both hosts.
_ROOM = Path("/mnt/bench")
_HOST, _VAULT = "web1", "vault1"
_KIND = KINDS["small"]._replace(title="a Python environment, from one host of the lab to another over SSH", cases=("first", "unchanged", "changed", "again"))


class Lab(Machines):
    """Two hosts, set up by the playbook site. ``pids``: of the first process of each, by which its files and namespaces are reached."""

    scenario = "backup_restore"
    pids: Dict[str, int] = {}

    def set_up(self) -> None:
        for name in (_HOST, _VAULT):
            self.pids[name] = self._pid(name)
            mount = "mkdir -p %s && mount -t tmpfs -o size=6G,mode=0711 tmpfs %s" % (_ROOM, _ROOM)
            run(["nsenter", "--target=%d" % self.pids[name], "--mount", "sh", "-c", mount])
        work = {"name": "work", "sources": ["/etc/ssh"]}
        given = {"openclaw_backup_vault_directory": str(_ROOM / "vault"), "openclaw_backup_policies": [work], "openclaw_backup_schedule": "none"}
        more = ["--limit", "%s,%s" % (_HOST, _VAULT), "--extra-vars", json.dumps(given)]
        self.ansible("ansible-playbook", self.directory / "inventory", *more, "playbooks/site.yml")

    def _pid(self, name: str) -> int:
        mine = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:8]  # as molecule/default/vars/lab.yml names it
        return int(run(["podman", "inspect", "--format", "{{.State.Pid}}", "openclaw-backup-%s-%s" % (mine, name)]).output)


def outside(name: str, path: Path) -> Path:
    """Where this machine finds what a host of the lab has at ``path``."""
    return Path("/proc/%d/root" % Lab.pids[name]) / path.relative_to("/")


def inside(*argv: str) -> Argv:
    """A command of the host that is backed up."""
    return ["nsenter", "--target=%d" % Lab.pids[_HOST], "--all", "--", *argv]


class OverSsh(Engine):
    """The command line that the role installed; each round is a policy of its own."""

    rounds = 0

    def __init__(self, room: Path, tree: Tree) -> None:
        super().__init__(room, tree)
        self.source = _ROOM / tree.root.name

    def prepare(self) -> None:
        self.room.mkdir()
        OverSsh.rounds += 1
        policies = outside(_HOST, Path("/etc/openclaw-backup/policies"))
        policy = json.loads((policies / "work.json").read_text())
        policy.update(name="bench%d" % self.rounds, sources=[str(self.source)])
        (policies / "bench.json").write_text(json.dumps(policy))

    def backup(self) -> Argv:
        return inside("openclaw-backup", "run", "bench", "--json", "--state", str(_ROOM / self.room.name / "state"))

    def close(self) -> None:
        super().close()
        for history in outside(_VAULT, _ROOM / "vault" / _HOST).glob("bench*"):
            remove(history)


class RsyncOverSsh(Rsync):
    """rsync to an account that may do everything on the vault, which is how such scripts are found."""

    def __init__(self, room: Path, tree: Tree) -> None:
        super().__init__(room, tree)
        self.source = _ROOM / tree.root.name
        self.copies = _ROOM / "copies"

    def prepare(self) -> None:
        super().prepare()
        outside(_VAULT, self.copies).mkdir()
        key = self.room / "key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
        with open(outside(_VAULT, Path("/root/.ssh/authorized_keys")), "a") as stream:
            stream.write(key.with_suffix(".pub").read_text())

    def backup(self) -> Argv:
        self.number += 1
        link_dest = ["--link-dest", str(self.copies / str(self.number - 1))] if self.number else []
        ssh = "ssh -i %s -o UserKnownHostsFile=/etc/openclaw-backup/ssh/known_hosts" % (_ROOM / self.room.name / "key")
        to = "root@%s:%s/" % (_VAULT, self.copies / str(self.number))
        return inside("rsync", "-aHAX", "-e", ssh, *link_dest, "--", "%s/" % self.source, to)

    def close(self) -> None:
        super().close()
        if Lab.pids:
            remove(outside(_VAULT, self.copies))


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab is not left behind
    turns = int(os.environ.get("TURNS") or TURNS)
    everyone = [OverSsh, RsyncOverSsh]
    with tempfile.TemporaryDirectory(prefix="openclaw-backup-bench-") as directory:
        try:
            with Lab(Path(directory)):
                taken: Dict[str, Any] = measure(_KIND, 1, everyone, outside(_HOST, _ROOM), turns)
        except Failed as error:
            print("bench: %s" % error, file=sys.stderr)
            return 1
    taken.update(machine=describe_machine(everyone), missing={})
    rows: List[List[str]] = judge({"ssh": taken})
    print("%s\n%s" % (tables(taken), table(["bar", "measured", ""], rows)))
    if turns >= TURNS:
        results = {**read_results(), "ssh": taken}
        write_results(results)
        write_page(results)
    return 1 if any(row[-1] == MISS for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
