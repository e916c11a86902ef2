# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's hosts as the machine sees them that they run on: they can be asked while no network leads to them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import pytest

POLICIES = "/etc/openclaw-backup/policies"
STATE = "/var/lib/openclaw-backup"
VAULT = "/srv/openclaw-backup"
KEEPER = "openclaw-vault"

# For each snapshot a digest of all that is in it: content, kinds, owners, modes and times.
_FINGERPRINT = """
import hashlib, json, os, sys
found, contents = {}, {}
for name in sorted(os.listdir(sys.argv[1])):
    digest = hashlib.sha256()
    for directory, folders, files in os.walk(os.path.join(sys.argv[1], name)):
        folders.sort()
        for item in [".", *sorted(files), *[folder for folder in folders if os.path.islink(os.path.join(directory, folder))]]:
            path = os.path.join(directory, item)
            stat = os.lstat(path)
            digest.update(repr((path, stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime_ns)).encode("utf-8", "surrogateescape"))
            if os.path.islink(path):
                digest.update(os.fsencode(os.readlink(path)))
            elif os.path.isfile(path):
                if stat.st_ino not in contents:  # snapshots share what did not change
                    with open(path, "rb") as stream:
                        contents[stat.st_ino] = hashlib.sha256(stream.read()).digest()
                digest.update(contents[stat.st_ino])
    found[name] = digest.hexdigest()
print(json.dumps(found))
"""


# Nothing of this machine's environment.
_CLEAN = ("env", "-i", "HOME=/root", "LC_ALL=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def _run(command: List[str], stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, (command, done.returncode, done.stdout, done.stderr)
    return done


def wait_for(condition: Callable[[], Any], seconds: float = 200) -> Any:
    """What ``condition`` says as soon as it says something."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Outcome(NamedTuple):
    """Exit code and result of the installed program."""

    rc: int
    result: Dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.result["error"]["kind"])

    def expect(self, rc: int, kind: Optional[str] = None) -> Dict[str, Any]:
        """The result of a run that ended as it should."""
        assert self.rc == rc, self.result
        if kind is not None:
            assert self.kind == kind, self.result
            assert self.result["error"]["next"], self.result
        return self.result


class Running:
    """A program on a host that has been started."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def end(self, seconds: float = 300) -> Outcome:
        """Wait until it is over."""
        out, err = self._process.communicate(timeout=seconds)
        assert out, (self._process.returncode, err)
        return Outcome(self._process.returncode, json.loads(out))


class Machine:
    """A container of the lab."""

    def __init__(self, prefix: str, name: str) -> None:
        self.name = name
        self.container = "%s-%s" % (prefix, name)

        self.pid, self.address = self._look()

    def _look(self) -> List[str]:
        """The process that everything in it comes from, and its address."""
        template = "--format={{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return _run(["podman", "inspect", template, self.container]).stdout.split()

    def inside(self, *words: str) -> List[str]:
        """The command that runs a program in it; podman's own way there costs some tenths of a second each time."""
        return ["nsenter", "--target", self.pid, "--all", "--wd=/", "--", *_CLEAN, *words]

    def call(self, *words: str, stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end."""
        return _run(self.inside(*words), stdin=stdin, check=check)

    def sh(self, script: str, *arguments: str) -> str:
        """What a shell script says."""
        return self.call("sh", "-euc", script, "sh", *arguments).stdout

    def python(self, program: str, *arguments: str) -> Any:
        """What a Python program says in JSON."""
        return json.loads(self.call("python3", "-", *arguments, stdin=program).stdout)

    def write(self, path: str, content: str) -> None:
        self.call("sh", "-euc", 'umask 077; rm -f "$1"; cat >"$1"', "sh", path, stdin=content)

    def read(self, path: str) -> str:
        return self.call("cat", path).stdout

    def start(self, *words: str) -> Running:
        """Start a program."""
        return Running(subprocess.Popen(self.inside(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))

    def restart(self) -> None:
        """Kill everything in it, and start it again."""
        _run(["podman", "restart", "--time=0", self.container])
        self.pid, self.address = self._look()

    def from_outside(self, namespace: str, *words: str) -> None:
        """Run a program of the machine below in one of the container's namespaces."""
        _run(["nsenter", "--target", self.pid, "--" + namespace, "--", *words])

    @contextmanager
    def clock_off_by(self, seconds: int) -> Iterator[None]:
        """Let every Python program that starts meanwhile read another time."""
        site = self.sh("python3 -Ic 'import site; print(site.getsitepackages()[0])'").strip()
        line = "import time; time.time = (lambda real: lambda: real() + %d)(time.time)\n" % seconds
        path = site + "/skew.pth"
        self.sh('mkdir -p "$1"', site)
        self.write(path, line)
        self.sh('chmod 0644 "$1"', path)
        try:
            yield
        finally:
            self.sh('rm "$1"', path)


class Client(Machine):
    """A host that backs itself up."""

    def add_policy(self, name: str, **changes: Any) -> None:
        """Another policy beside ``work``, of /srv/<name>, which has one file."""
        policy = json.loads(self.read(POLICIES + "/work.json"))
        self.write("%s/%s.json" % (POLICIES, name), json.dumps({**policy, "name": name, "sources": ["/srv/" + name], **changes}))
        self.sh('mkdir "/srv/$1"; echo "$1 of $(hostname)" >"/srv/$1/file"', name)

    def backing_up(self, policy: str, *options: str) -> Running:
        """Start a backup."""
        return self.start("openclaw-backup", "run", "--json", *options, policy)

    def back_up(self, policy: str, *options: str) -> Outcome:
        """Back up."""
        return self.backing_up(policy, *options).end()

    def do(self, verb: str, policy: str, *options: str) -> Outcome:
        return self.start("openclaw-backup", verb, "--json", *options, policy).end()

    def change(self, policy: str) -> None:
        """Let there be something to back up."""
        self.sh('date +%s.%N >>"/srv/$1/file"', policy)

    def fill(self, policy: str, files: int, kib: int) -> None:
        """So many new files of so many KiB each."""
        self.sh('cd "/srv/$1"; for n in $(seq "$2"); do dd if=/dev/urandom of="f$n" bs=1024 count="$3" status=none; done', policy, str(files), str(kib))


class Vault(Machine):
    """The machine that keeps the snapshots."""

    def history(self, host: str, policy: str) -> Dict[str, str]:
        """A digest of everything in each snapshot, by its id."""
        found: Dict[str, str] = self.python(_FINGERPRINT, "%s/%s/%s/snapshots" % (VAULT, host, policy))
        return found

    def latest(self, host: str, policy: str) -> str:
        """The directory of the newest snapshot's files."""
        base = "%s/%s/%s/snapshots" % (VAULT, host, policy)
        return "%s/%s/tree" % (base, sorted(self.sh('ls "$1"', base).split())[-1])

    def verify(self, host: str, policy: str, *options: str) -> Outcome:
        """Have the keeper read every byte of the newest snapshot."""
        path = "/tmp/verify-%s-%s.json" % (host, policy)
        self.write(path, json.dumps({"name": policy, "host": host, "sources": ["/"], "target": VAULT}))
        self.call("chown", KEEPER + ":", path)
        return self.start("runuser", "-u", KEEPER, "--", "openclaw-backup", "verify", "--json", "--state", STATE + "-vault", *options, path).end()

    @contextmanager
    def unharmed(self, host: str, policy: str, new: int) -> Iterator[None]:
        """What happens meanwhile leaves every snapshot as it was, adds ``new`` ones, and the newest of them is whole."""
        before = self.history(host, policy)
        yield
        after = self.history(host, policy)
        assert {name: after.get(name) for name in before} == before
        assert len(after) == len(before) + new, sorted(after)
        assert self.verify(host, policy).expect(0)["ok"] is True

    def connections(self, host: str) -> int:
        """How often a key of a host was let in so far."""
        done = _run(["podman", "logs", self.container])
        return sum("Accepted publickey for ocb-%s-" % host in line for line in (done.stdout + done.stderr).splitlines())

    def arrived(self, host: str, policy: str) -> int:
        """How many files of an open session have something in them."""
        return int(self.sh('find "$1" -path "*/in/files/*" -type f -size +0 2>/dev/null | wc -l', "%s/%s/%s/incoming" % (VAULT, host, policy)))


class Lab:
    """All of them."""

    def __init__(self) -> None:
        place = os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]
        prefix = "openclaw-backup-" + hashlib.sha256(place.encode()).hexdigest()[:8]  # as molecule/default/vars/lab.yml has it
        self.vault = Vault(prefix, "vault1")
        self.web1, self.web2, self.web3 = (Client(prefix, name) for name in ("web1", "web2", "web3"))
        self.clients = [self.web1, self.web2, self.web3]

    def restart_vault(self) -> None:
        """Pull the vault's plug, and put it in again. Its address may be another one then."""
        self.vault.restart()
        for client in self.clients:
            client.sh('sed "/ vault1$/d" /etc/hosts >/tmp/hosts; echo "$1 vault1" >>/tmp/hosts; cat /tmp/hosts >/etc/hosts', self.vault.address)
        wait_for(lambda: self.web1.call("ssh-keyscan", "-T", "1", "vault1", check=False).stdout)

    def copy_state(self, policy: str, source: Client, destination: Client) -> None:
        """Let a host remember what another one remembers of a policy of its own."""
        archive = subprocess.run(source.inside("tar", "-C", STATE, "-c", "%s/%s" % (source.name, policy)), check=True, capture_output=True)
        subprocess.run(destination.inside("tar", "-C", STATE, "-x"), check=True, input=archive.stdout)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab's hosts."""
    return Lab()
