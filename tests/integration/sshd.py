# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real sshd on loopback, with keys whose forced command is ``openclaw-backup serve``: a vault that belongs to one account."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import locate
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

from .world import World

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
needs_sshd = pytest.mark.skipif(SSHD is None or shutil.which("rrsync") is None, reason="sshd or rrsync is not installed")
AGENT = "ansible_collections.openclaw.backup.plugins.module_utils.agent"


class Server:
    """One sshd below ``root``. ``log`` has what it said; ``authorized`` is its file of keys."""

    def __init__(self, root: Path) -> None:
        assert SSHD is not None
        root.mkdir(mode=0o755)
        self.root = root
        self.authorized = root / "authorized_keys"
        self.authorized.write_text("")
        self.known_hosts = root / "known_hosts"
        self._config = root / "sshd_config"
        self.log = root / "log"
        self.program = root / "openclaw-backup"
        path = os.pathsep.join(filter(None, sys.path))
        self.program.write_text('#!/bin/sh\nexec env PYTHONPATH=%s %s -m %s "$@"\n' % (shlex.quote(path), shlex.quote(sys.executable), AGENT))
        self.program.chmod(0o755)
        self._make_key("host_key")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._config.write_text(
            "Port %d\nListenAddress 127.0.0.1\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nLogLevel VERBOSE\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxSessions 20\n"
            % (self.port, root / "host_key", self.authorized)
        )
        self.trust()
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self.start()

    def _make_key(self, name: str) -> Path:
        path = self.root / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, stdin=subprocess.DEVNULL)
        return path

    def trust(self) -> None:
        """Let hosts know the server's key."""
        key = (self.root / "host_key.pub").read_text().split()
        self.known_hosts.write_text("[127.0.0.1]:%d %s %s\n" % (self.port, key[0], key[1]))

    def change_host_key(self) -> None:
        """Give the server another key, of which hosts know nothing."""
        for name in ("host_key", "host_key.pub"):
            (self.root / name).unlink()
        self._make_key("host_key")
        self.stop()
        self.start()

    def start(self) -> None:
        """Start, and wait until somebody answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        assert SSHD is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        for _attempt in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("sshd does not answer: " + self.log.read_text())

    def stop(self) -> None:
        """Stop it, and the connections that it has."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
            self._process = None

    def connections(self) -> int:
        """How many connections were let in so far."""
        return self.log.read_text().count("Accepted publickey")

    def add_key(self, name: str, *options: str, command: Optional[List[str]] = None) -> Path:
        """A new key, whose forced command is ``openclaw-backup serve`` with ``options``; the file with its private half."""
        path = self._make_key(name)
        words = command or [str(self.program), "serve", *options]
        line = 'restrict,command="%s" %s' % (" ".join(map(shlex.quote, words)), (self.root / (name + ".pub")).read_text())
        with self.authorized.open("a") as stream:
            stream.write(line)
        return path

    def target(self, key: Path, **more: str) -> Dict[str, str]:
        """A policy's target that uses a key."""
        url = "ssh://%s@127.0.0.1:%d/" % (getpass.getuser(), self.port)
        return {"url": url, "identity_file": str(key), "known_hosts_file": str(self.known_hosts), **more}


def policy_of(source: Path, target: Dict[str, str], **changes: object) -> Policy:
    """A policy of host ``h`` that sends ``source`` to a target."""
    return Policy.from_mapping({"name": "p", "host": "h", "sources": [str(source)], "target": target, **changes}, default_host="h")


class Away(World):
    """A world whose vault is behind an sshd. Its key may also read; ``writing`` policies have one that may not."""

    server: Server
    _read_key: Path
    _write_key: Path

    @classmethod
    def over(cls, storage: str) -> Away:
        """A new one."""
        made = cls.make(storage)
        assert isinstance(made, Away)
        made.server = Server(made.root / "sshd")
        options = ("--vault", str(made.vault), "--host", "h", "--storage", storage)
        made._read_key = made.server.add_key("read", *options, "--read")
        made._write_key = made.server.add_key("write", *options)
        return made

    def policy(self, **changes: Any) -> Policy:
        return policy_of(self.src, self.server.target(self._read_key), **changes)

    def writing(self, **changes: Any) -> Policy:
        """The policy with the key that a host has every day."""
        return policy_of(self.src, self.server.target(self._write_key), **changes)

    def hang_up(self) -> None:
        """End the conversations that this process has."""
        locate.close_targets()

    def destroy(self) -> None:
        self.hang_up()
        self.server.stop()
        super().destroy()
