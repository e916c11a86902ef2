# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One ``ssh`` connection to a vault: the conversation is its first channel, and what rsync needs are further ones inside it."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NoReturn, Optional

from ...errors import TargetError, UsageError, printable
from ...process import starting
from ..contract import Tell
from .wire import REQUEST, Wire, unpack_error

_CONNECT_SECONDS = 30
# Two sides that have not heard from one another for so long say that the connection is gone.
_ALIVE_SECONDS = 15
_ALIVE_COUNT = 4
# From the start of ssh to the vault's first word, slow name servers and a busy vault included.
_GREETING_SECONDS = 120.0
_CLOSE_SECONDS = 10.0
_SAID = 8192
_MAX_PATHS = 1 << 28


@dataclass(frozen=True)
class Address:
    """Where a vault listens and how this host proves who it is. Files that are None are those that ``ssh`` takes by itself."""

    host: str
    user: Optional[str] = None
    port: Optional[int] = None
    identity_file: Optional[str] = None
    known_hosts_file: Optional[str] = None

    def to_text(self) -> str:
        """``user@host:port`` for messages."""
        name = "[%s]" % self.host if ":" in self.host else self.host
        return "%s%s%s" % (self.user + "@" if self.user else "", name, ":%d" % self.port if self.port else "")


def ssh_options(address: Address, control: bytes, *, is_master: bool) -> List[bytes]:
    """The arguments of ``ssh`` up to the host's name. Host keys are always checked, and nothing is ever asked or forwarded."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "CheckHostIP": "no",  # before OpenSSH 8.5 it was on, and wrote addresses into the file of known hosts
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(_CONNECT_SECONDS),
        "ServerAliveInterval": str(_ALIVE_SECONDS),
        "ServerAliveCountMax": str(_ALIVE_COUNT),
        "ControlMaster": "yes" if is_master else "no",
        "ControlPersist": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "RequestTTY": "no",
        "EscapeChar": "none",
        "LogLevel": "ERROR",
    }
    if not is_master:
        # Where the connection is gone, a second one would tell the vault of a run that is over.
        options["ProxyCommand"] = "false"
    if address.identity_file is not None:
        options.update(IdentitiesOnly="yes", IdentityFile=_quoted(address.identity_file))
    if address.known_hosts_file is not None:
        options.update(UserKnownHostsFile=_quoted(address.known_hosts_file), GlobalKnownHostsFile="/dev/null")
    argv = [b"ssh", b"-S", control]
    for name, value in options.items():
        argv += [b"-o", os.fsencode("%s=%s" % (name, value))]
    if address.port is not None:
        argv += [b"-p", b"%d" % address.port]
    if address.user is not None:
        argv += [b"-l", os.fsencode(address.user)]
    return argv


def _quoted(path: str) -> str:
    """A file's name as ssh reads it in an option: whole though it has blanks, and '%' as it stands."""
    return '"%s"' % path.replace("%", "%%")


class Connection:
    """The conversation with a vault, open until ``close`` or the end of this process. It is begun at once, and can be used after ``greet``."""

    def __init__(self, address: Address) -> None:
        self.address = address
        _check_file("target.identity_file", address.identity_file)
        _check_file("target.known_hosts_file", address.known_hosts_file)
        program = shutil.which("ssh")
        if program is None:
            raise TargetError("ssh cannot be run", kind="ssh_missing", found="ssh", next="apt-get install openssh-client")
        # A socket's name has room for some 100 bytes, and ssh adds some while it makes it.
        self._room = tempfile.mkdtemp(prefix="ocb-", dir="/tmp")
        self._control = os.fsencode(self._room) + b"/ssh"
        environment = {name: value for name, value in os.environb.items() if name not in (b"SSH_ASKPASS", b"DISPLAY")}
        environment[b"LC_ALL"] = b"C"
        argv = [*ssh_options(address, self._control, is_master=True), b"--", os.fsencode(address.host), REQUEST]
        try:
            with starting() as bind:
                self._process = subprocess.Popen(
                    [os.fsencode(program), *argv[1:]],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    preexec_fn=bind,
                )
        except BaseException:
            shutil.rmtree(self._room, ignore_errors=True)
            raise
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        self.wire = Wire(process.stdout.fileno(), process.stdin.fileno(), patience=_GREETING_SECONDS)
        os.set_blocking(process.stderr.fileno(), False)
        self._said = b""
        self._owner = os.getpid()
        self._is_greeted = False
        atexit.register(self.close)

    def greet(self, *, patience: Optional[float]) -> None:
        """Wait for the vault's first word; from then on for ``patience`` seconds for any other. ``TargetError`` says why there is none."""
        try:
            self.wire.read_greeting()
        except TargetError as error:
            self._explain(error)
        self._is_greeted = True
        self.wire.patience = patience

    def shell(self) -> List[bytes]:
        """The remote shell of an rsync that goes through this connection; its host is ``vault``."""
        return ssh_options(self.address, self._control, is_master=False)

    def ask(self, message: Mapping[str, Any], stream: Optional[Iterable[bytes]] = None, tell: Optional[Tell] = None) -> Dict[str, Any]:
        """Say something, with a ``stream`` where it needs one, and hear the answer: the object under ``ok``.

        ``tell`` hears of the vault's progress meanwhile. The vault's refusal is raised as the error that it was there.
        """
        with self.explained():
            try:
                self.wire.send(message)
                if stream is not None:
                    self.wire.send_stream(stream)
            except TargetError:
                self._hear_why()
                raise
            while True:
                answer = self.wire.receive()
                if "ok" in answer and type(answer["ok"]) is dict:
                    return answer["ok"]
                if "error" in answer:
                    raise unpack_error(answer["error"])
                busy = answer.get("busy")
                if tell is not None and type(busy) is list and len(busy) == 2 and all(type(count) is int and count >= 0 for count in busy):
                    tell(busy[0], busy[1])

    def _hear_why(self) -> None:
        """Raise the vault's last word, if it had one before it hung up."""
        try:
            self.wire.patience = 1.0
            while True:
                answer = self.wire.receive()
                if "error" in answer:
                    raise unpack_error(answer["error"])
        except TargetError as error:
            if error.kind != "connection":
                raise

    def hear_paths(self) -> List[bytes]:
        """The paths, or other words, that follow an answer as a stream, each with a NUL behind it."""
        with self.explained():
            return b"".join(self.wire.receive_stream(_MAX_PATHS)).split(b"\0")[:-1]

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What breaks in this block is told in the words of ``ssh``."""
        try:
            yield
        except TargetError as error:
            if error.kind == "connection":
                self._explain(error)
            raise

    def complaint(self) -> str:
        """What ssh and the vault's side have said on standard error."""
        assert self._process.stderr is not None
        with contextlib.suppress(OSError, BlockingIOError):
            while True:
                data = os.read(self._process.stderr.fileno(), _SAID)
                if not data:
                    break
                self._said = (self._said + data)[-_SAID:]
        return self._said.decode("utf-8", "surrogateescape").strip()

    def _explain(self, error: TargetError) -> NoReturn:
        """Raise what ssh says instead of what we saw of it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0 if error.kind == "connection" else 0.2)
        said = self.complaint()
        raise _failure(self.address, self._process.poll(), said, error) from error

    def close(self) -> None:
        """End the conversation and what runs inside it."""
        if os.getpid() != self._owner or self.wire.is_closed:
            return
        atexit.unregister(self.close)
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        process.stdin.close()
        if not self._is_greeted:  # there is nobody to say goodbye to
            process.terminate()
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
        finally:
            self.wire.forget()
            process.stdout.close()
            process.stderr.close()
            shutil.rmtree(self._room, ignore_errors=True)


def _check_file(field: str, path: Optional[str]) -> None:
    """``UsageError`` where a file of the policy cannot be read: ssh would go on without it and fail of something else."""
    if path is None:
        return
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(
            "%s cannot be read: %s" % (printable(path), error.strerror),
            kind="ssh_key",
            field=field,
            found=path,
            next="name one that is there; the playbook site makes those of its hosts anew",
        ) from error


def _failure(address: Address, code: Optional[int], said: str, error: TargetError) -> TargetError:
    """What ended an ssh that said ``said``, in the words of somebody who looks after backups."""
    where = address.to_text()
    last = printable(said.splitlines()[-1].strip()) if said else ""
    known = address.known_hosts_file or "the known_hosts files of ssh"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said or "host key for" in said and "has changed" in said:
        return TargetError(
            "The vault %s shows another host key than the one that is known" % where,
            kind="host_key",
            field="target",
            found=where,
            next="find out why: a rebuilt vault, or somebody in between; then replace the vault's line in %s (the playbook site does), "
            "it is never accepted by itself" % known,
        )
    if "Host key verification failed" in said or "host key is known" in said:
        return TargetError(
            "The host key of the vault %s is not known here" % where,
            kind="host_key",
            field="target.known_hosts_file",
            found=known,
            next="put the vault's public host key into %s, taken from the vault itself (the playbook site does), it is never accepted by itself" % known,
        )
    if "UNPROTECTED PRIVATE KEY FILE" in said:
        return TargetError(
            "ssh does not use the key for the vault %s: others than its owner may read it" % where,
            kind="ssh_key",
            field="target.identity_file",
            found=address.identity_file or "a key that ssh takes by itself",
            allowed="a file that only its owner may read, mode 0600",
            next="take the others' rights away (chmod 600); if somebody may have read it, make a new key",
        )
    if "Permission denied (" in said or "Too many authentication failures" in said:
        return TargetError(
            "The vault %s does not let this host in: %s" % (where, last),
            kind="ssh_denied",
            field="target.identity_file",
            found=address.identity_file or "the keys that ssh takes by itself",
            next="check the user's name, that the vault has this key, and that the key has not expired",
        )
    if code == 255 or (code is None and not said):
        return TargetError(
            "The vault %s cannot be reached%s" % (where, ": " + last if last else " or does not answer"),
            kind="unreachable",
            field="target",
            found=where,
            next="check the name, the network, and that sshd runs there; nothing was published, and what has arrived is used by the next run",
        )
    if error.kind == "protocol" or not said:
        return error
    return TargetError(
        "The vault %s ended the conversation: %s" % (where, last), kind="connection", field="target", found=where, next="look at the vault's log; run again"
    )
