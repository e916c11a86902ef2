#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure how long the playbook drill takes for a fleet, and hold it to its bar: 20 hosts with 2,000 files each, over 2 vaults, in 180 seconds.

The vaults are two machines of molecule's scenario drill. The hosts are names in the inventory: what they would have sent is backed up on the vaults, by the
account that keeps the snapshots, because drills there contact no host.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from machines import Machines
from measure import Failed

HOSTS, FILES, SIZE, BAR = 20, 2000, 4096, 180.0
VAULTS = ("vault1", "spare1")
# On a vault: the histories of the hosts that are its arguments, and what it is told of them. The program runs as the account that keeps the snapshots.
_SEND = """
import json, os, subprocess, sys
for host in sys.argv[1:]:
    known = "/etc/openclaw-backup/vault/verify/" + host
    os.makedirs(known)
    policy = {"name": "work", "host": host, "sources": ["/"], "target": "/srv/openclaw-backup", "objectives": {"rto": "10m"}}
    with open(known + "/work.json", "w") as stream:
        json.dump(policy, stream)
    tree = "/srv/trees/" + host
    for number in range(%d):
        directory = "%%s/%%02d" %% (tree, number %% 50)
        os.makedirs(directory, exist_ok=True)
        with open("%%s/%%04d" %% (directory, number), "wb") as stream:
            stream.write(os.urandom(%d))
    with open("/srv/trees/policy.json", "w") as stream:
        json.dump({**policy, "sources": [tree]}, stream)
    keeper = ["runuser", "--user=openclaw-vault", "--"]
    subprocess.run([*keeper, "/usr/local/bin/openclaw-backup", "run", "/srv/trees/policy.json", "--quiet", "--state", "/var/tmp/state"], check=True)
""" % (FILES, SIZE)


class Fleet(Machines):
    """The vaults, and the inventory of the fleet on them."""

    scenario = "drill"

    def set_up(self) -> None:
        known = yaml.safe_load((self.directory / "inventory" / "lab.yml").read_text())["all"]["hosts"]
        vaults = {name: known[name] for name in VAULTS}
        policies = [{"name": "work", "sources": ["/"], "objectives": {"rto": "10m"}}]
        clients = {
            "h%02d" % number: {"openclaw_backup_policies": policies, "openclaw_backup_vault": VAULTS[number % len(VAULTS)], "ansible_host": "192.0.2.1"}
            for number in range(HOSTS)
        }
        groups = {"backup_vaults": {"hosts": vaults}, "backup_clients": {"hosts": clients}}
        self._inventory.write_text(json.dumps({"all": {"children": groups}}))
        self.ansible("ansible-playbook", self._inventory, "--limit", "backup_vaults", "playbooks/site.yml")
        for vault in VAULTS:
            own = [name for name, variables in clients.items() if variables["openclaw_backup_vault"] == vault]
            send = {"argv": ["python3", "-c", _SEND, *own]}
            self.ansible("ansible", self._inventory, vault, "-m", "ansible.builtin.command", "-a", json.dumps(send))

    def play(self, name: str, **variables: Any) -> float:
        """Seconds that a playbook takes."""
        given = {"openclaw_backup_" + key: value for key, value in variables.items()}
        began = time.monotonic()
        self.ansible("ansible-playbook", self._inventory, "-e", json.dumps(given), "playbooks/%s.yml" % name)
        return time.monotonic() - began

    @property
    def _inventory(self) -> Path:
        return self.directory / "fleet.json"


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab is not left behind
    with tempfile.TemporaryDirectory(prefix="openclaw-backup-bench-") as directory:
        evidence = Path(directory) / "evidence"
        try:
            with Fleet(Path(directory)) as fleet:
                took = fleet.play("drill", evidence=str(evidence))
                (report,) = evidence.glob("*.md")  # molecule empties the directory in the end
                (headline, *_) = report.read_text().splitlines()
        except Failed as error:
            print("bench: %s" % error, file=sys.stderr)
            return 1
    load = round(os.getloadavg()[0], 1)
    result = {"hosts": HOSTS, "files": FILES, "vaults": len(VAULTS), "processors": os.cpu_count(), "load": load, "seconds": round(took, 1), "bar": BAR}
    print(json.dumps({**result, "result": headline.lstrip("# ")}))
    return int(took > BAR)


if __name__ == "__main__":
    sys.exit(main())
