# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody may try who has a shell as a host's account on the vault. Runs there as that account; ``guard.py`` watches it as root.

Usage: ``attack.py ATTEMPT SETTING``. Each attempt is a function; what it returns is what came of it. ``phase`` lets the guard look whether any
snapshot has changed, ``ask_root`` has root do what another kernel setting would allow this account.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import pty
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import traceback
import uuid
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

PROGRAM = "/usr/local/bin/openclaw-backup"
sys.path.insert(0, PROGRAM)

from openclaw_backup.errors import TargetError  # noqa: E402
from openclaw_backup.manifest.delta import make_delta  # noqa: E402
from openclaw_backup.manifest.document import Header, Manifest  # noqa: E402
from openclaw_backup.manifest.entry import DIRECTORY, FILE, Entry  # noqa: E402
from openclaw_backup.target.remote.wire import PROTOCOL, Wire  # noqa: E402

VAULT = "/srv/openclaw-backup"
SESSION = "/usr/local/libexec/openclaw-backup/session-"
MEMORY = "/var/lib/openclaw-backup-vault"
KEEPER = "openclaw-vault"
SUDO = ["sudo", "-n", "-u", KEEPER, "--"]
CONTENT = {"src/a": b"one", "src/b": b"two"}
IDLE = 18  # as in group_vars
CROWD = 16
PATIENCE = 100  # others may be at work on this machine

SETTING: Dict[str, Any] = {}
ATTEMPTS: Dict[str, Callable[[], Any]] = {}


def attempt(function: Callable[[], Any]) -> Callable[[], Any]:
    ATTEMPTS[function.__name__] = function
    return function


def phase(name: str, **details: Any) -> Any:
    """Have the guard compare, or do something; its answer."""
    print(json.dumps({"phase": name, **details}), flush=True)
    return json.loads(sys.stdin.readline())


def ask_root(do: str, *paths: str) -> Any:
    return phase(do, paths=paths)


# ---- a host that says what it likes --------------------------------------------------------------------------------------


def entry(path: str, content: Optional[bytes] = None, **more: Any) -> Entry:
    base = Entry(os.fsencode(path), DIRECTORY, 0o755, 0, 0, 0, 0, "", None, None, (), None, False, False)
    if content is not None:
        base = base._replace(type=FILE, mode=0o644, size=len(content), hash=hashlib.sha256(content).hexdigest())
    return base._replace(**more)


def manifest_of(content: Dict[str, bytes], *, claimed: str = "2026-11-20T09:15:00.123Z", policy: str = "play") -> Manifest:
    header = Header(host=SETTING["host"], policy=policy, sources=("/srv/work" if policy == "work" else "/src",), selection={}, engine="x", claimed=claimed)
    ways = {"/".join(path.split("/")[:depth]) for path in content for depth in range(1, path.count("/") + 1)}
    return Manifest.from_entries(header, sorted([*map(entry, ways), *(entry(path, data) for path, data in content.items())], key=lambda one: one.path))


class Session:
    """A conversation with the keeper, by sudo."""

    def __init__(self, *, scope: str = "write", policy: str = "play", command: Optional[Sequence[str]] = None, **options: Any) -> None:
        self.policy = policy
        self.tx = uuid.uuid4().hex
        self.named: List[str] = []  # paths of the last commit that was incomplete
        self.process = subprocess.Popen(
            [*SUDO, SESSION + scope] if command is None else command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.wire = Wire(self.process.stdout.fileno(), self.process.stdin.fileno(), patience=PATIENCE)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_error: object) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        self.process.stdout.close()  # type: ignore[union-attr]
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError("the session does not end") from None
        self.process.stderr.close()  # type: ignore[union-attr]

    def ask(self, do: str, *stream: bytes, **arguments: Any) -> Dict[str, Any]:
        self.wire.send({"do": do, **arguments})
        if stream:
            with contextlib.suppress(TargetError):
                self.wire.send_stream(stream)
        while True:
            answer = self.wire.receive()
            if "busy" not in answer:
                return answer

    def hello(self, host: Optional[str] = None) -> Dict[str, Any]:
        self.wire.read_greeting()
        return self.ask("hello", protocol=PROTOCOL, engine="x", host=host or SETTING["host"], policy=self.policy)

    def latest(self) -> Optional[str]:
        snapshot = self.ask("latest")["ok"]["snapshot"]
        return None if snapshot is None else str(snapshot["receipt"]["id"])

    def begin(self) -> Dict[str, Any]:
        answer = self.ask("begin", tx=self.tx, parent=self.latest(), tags=[])
        if "ok" in answer:
            b"".join(self.wire.receive_stream(1 << 26))
        return answer

    def propose(self, manifest: Manifest) -> Dict[str, Any]:
        answer = self.ask("propose", make_delta(None, manifest, same_times=True), delta=False, expected="")
        if "ok" in answer and not answer["ok"]["same"]:
            b"".join(self.wire.receive_stream(1 << 26))
        return answer

    def open(self, manifest: Manifest) -> Session:
        """Ready to receive."""
        for answer in (self.hello(), self.begin(), self.propose(manifest)):
            assert "ok" in answer, answer
        return self

    @property
    def files(self) -> str:
        return "%s/%s/%s/incoming/%s/in/files" % (VAULT, SETTING["host"], self.policy, self.tx)

    def path(self, name: str) -> str:
        return "%s/%s" % (self.files, name)

    def deliver(self, content: Dict[str, bytes]) -> None:
        for name, data in content.items():
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            with open(self.path(name), "wb") as stream:
                stream.write(data)

    def commit(self, manifest: Manifest) -> str:
        """``ok``, or the kind of the refusal."""
        answer = self.ask("commit", digest=manifest.digest)
        if "ok" in answer:
            return "ok"
        if answer["error"]["kind"] == "incomplete":
            words = b"".join(self.wire.receive_stream(1 << 26)).split(b"\0")
            self.named = sorted(os.fsdecode(path) for path in words[:-1:2])
        return str(answer["error"]["kind"])


def can(what: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the kernel lets us."""
    try:
        what(*arguments)
    except OSError:
        return False
    return True


def read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


def read_and_write(path: str) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def says(answer: Dict[str, Any]) -> str:
    return "ok" if "ok" in answer else str(answer["error"]["kind"])


def new_content() -> Dict[str, bytes]:
    """Like no other, so that it has to be sent."""
    return {"src/a": os.urandom(100), "src/b": os.urandom(100)}


def add_snapshot(content: Optional[Dict[str, bytes]] = None, *, policy: str = "play", claimed: str = "2026-11-20T09:15:00.123Z", **options: Any) -> str:
    content = content or new_content()
    manifest = manifest_of(content, claimed=claimed, policy=policy)
    with Session(policy=policy, **options) as session:
        session.open(manifest)
        session.deliver(content)
        return session.commit(manifest)


@contextlib.contextmanager
def ready(content: Optional[Dict[str, bytes]] = None) -> Iterator[Tuple[Session, Manifest, Dict[str, bytes]]]:
    """A session to which everything has come and which may be committed."""
    content = content or new_content()
    manifest = manifest_of(content)
    with Session() as session:
        session.open(manifest)
        session.deliver(content)
        yield session, manifest, content


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """``work`` again and again in another process until the block ends."""
    pid = os.fork()
    if not pid:
        try:
            while True:
                with contextlib.suppress(OSError):
                    work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- what arrives --------------------------------------------------------------------------------------------------------


@attempt
def an_ordinary_snapshot() -> str:
    return add_snapshot(dict(CONTENT, **{"src/large": bytes(range(256)) * 8192}))


@attempt
def descriptors_and_mappings_are_kept_and_used_after_the_commit() -> str:
    with ready() as (session, manifest, _content):
        directory = os.open(session.path("src"), os.O_RDONLY | os.O_DIRECTORY)
        written = os.open(session.path("src/a"), os.O_RDWR)
        mapped = os.open(session.path("src/b"), os.O_RDWR)
        mapping = mmap.mmap(mapped, 0)
        result = session.commit(manifest)
        phase("look")
        os.pwrite(written, b"bad", 0)
        os.fsync(written)
        mapping[:3] = b"bad"
        mapping.flush()
        for number in (written, mapped):
            can(os.fchmod, number, 0o6777)
            can(os.utime, number, (0, 0))
            can(os.setxattr, number, "user.bad", b"bad")
            can(partial(os.link, dst_dir_fd=directory), "/proc/self/fd/%d" % number, "again")
            can(os.ftruncate, number, 1)
        with contextlib.suppress(OSError):
            os.close(os.open("more", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        phase("look")
    return result


@attempt
def a_second_name_outlives_the_commit() -> str:
    with ready() as (session, manifest, _content):
        os.link(session.path("src/a"), session.path("kept"))
        first = session.commit(manifest)
        assert first == "incomplete", first
        os.unlink(session.path("kept"))
        running = True

        def relink() -> None:
            os.link(session.path("src/a"), session.path("kept"))
            os.unlink(session.path("kept"))

        results = []
        with meanwhile(relink):
            until = time.monotonic() + 2
            while running and time.monotonic() < until:
                results.append(session.commit(manifest))
                running = results[-1] != "ok"
        with contextlib.suppress(OSError), open(session.path("kept"), "r+b") as stream:
            stream.write(b"bad")
        phase("look")
        return "ok" if set(results) <= {"ok", "incomplete"} else str(results)


@attempt
def names_for_files_of_the_keeper() -> List[str]:
    """The kernel refuses them; where fs.protected_hardlinks is off it does not, and root makes them instead."""
    history = "%s/%s/play" % (VAULT, SETTING["host"])
    victims = "%s/%s/work" % (VAULT, SETTING["victim"])
    results = []
    for what in (history + "/audit.jsonl", history + "/lock", history + "/snapshots/*/tree/src/a", victims + "/snapshots/*/tree/srv/work/secret"):
        with ready() as (session, manifest, _content):
            os.unlink(session.path("src/a"))
            with contextlib.suppress(OSError):
                os.link(what, session.path("src/a"))
                results.append("linked " + what)
            is_there = ask_root("link", what, session.path("src/a"))
            result = session.commit(manifest)
            if is_there and result != "incomplete":
                results.append("%s: %s" % (what, result))
    return results


@attempt
def a_basis_is_linked_and_written() -> List[str]:
    """What the vault lends can be read, which is said; it is nobody's snapshot."""
    results = []
    assert add_snapshot({"src/large": bytes(range(256)) * 8192}) == "ok"
    manifest = manifest_of({"src/large": bytes(range(256)) * 8192 + b"more"})
    with Session() as session:
        session.open(manifest)
        basis = session.files[: -len("files")] + "basis/src/large"
        if not os.path.exists(basis):
            results.append("there is no basis")
        results += [change.__name__ for change in (read_and_write, os.unlink) if can(change, basis)]
        results += [change.__name__ for change in (os.rename, os.link) if can(change, basis, session.path("large"))]
        results += ["chmod"] if can(os.chmod, basis, 0o666) else []
        os.mkdir(session.path("src"))
        ask_root("link", basis, session.path("src/large"))
        if session.commit(manifest) != "incomplete":
            results.append("committed")
    return results


@attempt
def directories_become_links_while_the_keeper_reads() -> List[str]:
    """If it followed one, it would commit what this account cannot read; that it has the right hash is a guess that may be right."""
    secret = b"secret of %s\n" % SETTING["victim"].encode()
    with open("/etc/openclaw-backup/vault.json", "rb") as stream:
        known = stream.read()
    victims = "%s/%s/work" % (VAULT, SETTING["victim"])
    content = {"src/secret": secret, "src/vault.json": known, "src/verify.lock": b""}
    manifest = manifest_of(content)
    results = []
    with Session() as session:
        session.open(manifest)
        place = session.path("src")
        os.mkdir(place)
        for target in (ask_root("find", victims + "/snapshots/*/tree/srv/work") or "/", "/etc/openclaw-backup", MEMORY, victims, "/"):

            def swap(target: str = target) -> None:
                os.rename(place, place + ".real")
                os.symlink(target, place)
                os.unlink(place)
                os.rename(place + ".real", place)

            with meanwhile(swap):
                until = time.monotonic() + 0.8
                while time.monotonic() < until:
                    result = session.commit(manifest)
                    if result != "incomplete":
                        results.append("%s: %s" % (target, result))
            for name in (place, place + ".real"):
                with contextlib.suppress(OSError):
                    os.unlink(name)
            os.makedirs(place, exist_ok=True)
    return results


@attempt
def directories_become_links_while_the_keeper_writes() -> List[str]:
    """``put`` has the keeper write where this account may rename."""
    results = []
    victims = "%s/%s/work" % (VAULT, SETTING["victim"])
    content = {"src/planted": b"planted"}
    records = struct.pack(">QI", 0, 7) + b"planted" + struct.pack(">QI", 7, 0)
    for target in (MEMORY, victims, "%s/%s/play" % (VAULT, SETTING["host"]), victims + "/snapshots"):
        manifest = manifest_of(content)
        with Session() as session:
            session.open(manifest)
            place = session.path("src")
            os.makedirs(place, exist_ok=True)  # of the session before

            def swap(target: str = target, place: str = place) -> None:
                os.rename(place, place + ".real")
                os.symlink(target, place)
                os.unlink(place)
                os.rename(place + ".real", place)

            with meanwhile(swap), contextlib.suppress(TargetError):
                until = time.monotonic() + 1
                while time.monotonic() < until:
                    if "ok" not in session.ask("put", records, paths=["src/planted"]):
                        break
        results += ask_root("find", target + "/planted")
    return results


@attempt
def directories_become_links_while_the_keeper_removes() -> str:
    victims = "%s/%s/work" % (VAULT, SETTING["victim"])
    for target in (victims + "/snapshots", MEMORY, "%s/%s/play/snapshots" % (VAULT, SETTING["host"])):
        with ready() as (session, _manifest, _content):
            for number in range(200):
                os.makedirs(session.path("d%d/e/f" % number))
            at = os.open(session.files, os.O_RDONLY | os.O_DIRECTORY)

            def swap(at: int = at, target: str = target) -> None:
                for number in range(200):
                    name = "d%d" % number
                    with contextlib.suppress(OSError):
                        os.rename(name, name + ".real", src_dir_fd=at, dst_dir_fd=at)
                        os.symlink(target, name, dir_fd=at)

            with meanwhile(swap):
                session.ask("close", keep=False)
            os.close(at)
        phase("look")
    return add_snapshot()


SPECIAL = ("fifo", "socket", "link", "directory", "unreadable", "longer", "hole", "device")


@attempt
def special_files_arrive() -> List[str]:
    """The paths that the vault then names."""
    with ready({"src/" + kind: os.urandom(10) for kind in SPECIAL}) as (session, manifest, content):
        for kind in SPECIAL:
            place = session.path("src/" + kind)
            os.unlink(place)
            if kind == "fifo":
                os.mkfifo(place, 0o666)
            elif kind == "socket":
                os.chdir(session.path("src"))
                socket.socket(socket.AF_UNIX).bind("socket")
                os.chdir("/")
            elif kind == "link":
                with open(session.path("real"), "wb") as stream:
                    stream.write(content["src/link"])
                os.symlink("../real", place)
            elif kind == "directory":
                os.mkdir(place)
            elif kind == "device":
                can(os.mknod, place, stat.S_IFCHR | 0o666, os.makedev(1, 5))
                ask_root("device", place)
            else:
                with open(place, "wb") as stream:
                    stream.write(content["src/" + kind])
                    if kind == "longer":
                        stream.write(b"x")
                    elif kind == "hole":
                        stream.truncate(1 << 40)
                if kind == "unreadable":
                    os.chmod(place, 0)
        assert session.commit(manifest) == "incomplete"
        return session.named


def acl(*entries: Tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in entries)


@attempt
def modes_lists_and_attributes_come_along() -> str:
    """Nothing of what an inode bears here is on that in the snapshot; the guard looks at each of them."""
    me = os.getuid()
    nobody = 0xFFFFFFFF
    mine = acl((1, 7, nobody), (2, 7, me), (4, 7, nobody), (16, 7, nobody), (32, 7, nobody))
    manifest = manifest_of(content := new_content())
    with Session() as session:
        session.open(manifest)
        os.mkdir(session.path("src"))
        os.chmod(session.path("src"), 0o7777)
        os.setxattr(session.path("src"), "system.posix_acl_access", mine)
        os.setxattr(session.path("src"), "system.posix_acl_default", mine)
        session.deliver(content)
        for name in content:
            with contextlib.suppress(OSError):
                os.setxattr(session.path(name), "user.rsync.%stat", b"104755 0,0 0:0")
            for number in range(20):
                with contextlib.suppress(OSError):
                    os.setxattr(session.path(name), "user.x%d" % number, os.urandom(1000))
            with contextlib.suppress(OSError):
                os.setxattr(session.path(name), "security.capability", struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0, 0))
            os.setxattr(session.path(name), "system.posix_acl_access", mine)
            os.chmod(session.path(name), 0o7777)
            os.utime(session.path(name), (-(1 << 31), 1 << 33))
        return session.commit(manifest)


@attempt
def a_lease_is_held_on_what_the_keeper_opens() -> str:
    with ready() as (session, manifest, _content):
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        fd = os.open(session.path("src/a"), os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.flock(os.open(session.path("src/b"), os.O_RDWR), fcntl.LOCK_EX)
        since = time.monotonic()
        result = session.commit(manifest)
        assert time.monotonic() - since < 40  # the kernel would have whoever waits for the lease wait for 45 s
        os.close(fd)
        return result


# ---- what a session leaves behind ----------------------------------------------------------------------------------------


@attempt
def what_is_left_is_closed_to_the_keeper() -> List[str]:
    """No backup is blocked for good by it."""
    results = []
    for mode in (0o000, 0o700, 0o070):
        content = new_content()
        manifest = manifest_of(content)
        with Session() as session:
            session.open(manifest)
            session.deliver(content)
            os.chmod(session.path("src/a"), mode)
            os.mkdir(session.path("other"))
            os.chmod(session.path("other"), mode)
            os.chmod(session.path("src"), mode)
        with Session() as session:  # the same content, as an honest host would send it: by the account's rsync, into whatever directory is there
            session.open(manifest)
            session.deliver(content)
            results.append(session.commit(manifest))
    return results


@attempt
def what_is_left_is_very_deep() -> str:
    with ready() as (session, _manifest, _content):
        at = os.open(session.files, os.O_RDONLY | os.O_DIRECTORY)
        for _level in range(12_000):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
    since = time.monotonic()
    result = add_snapshot()
    assert time.monotonic() - since < 30
    return result


@attempt
def what_is_left_is_written_to_while_it_is_removed() -> str:
    with ready() as (session, _manifest, _content):
        os.makedirs(session.path("d"))
        at = os.open(session.path("d"), os.O_RDONLY | os.O_DIRECTORY)

    def fill() -> None:
        with contextlib.suppress(FileExistsError):
            os.close(os.open("x", os.O_CREAT | os.O_EXCL, dir_fd=at))
            os.mkdir("y%d" % time.monotonic_ns(), dir_fd=at)

    with meanwhile(fill):
        results = {add_snapshot() for _time in range(3)}
    return "ok" if results == {"ok"} else str(results)


# ---- sudo ----------------------------------------------------------------------------------------------------------------


def refused_by_sudo(*words: str, **options: Any) -> bool:
    """Whether sudo started nothing."""
    done = subprocess.run(["sudo", "-n", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False, **options)
    return done.returncode != 0 and not done.stdout


@attempt
def sudo_is_asked_for_more() -> List[str]:
    write = SESSION + "write"
    other = SETTING["victims_account"]
    trials = [
        ["-u", KEEPER, "--", write, "x"],
        ["-u", KEEPER, "--", write, "--vault", "/tmp"],
        ["-u", KEEPER, "--", write, ""],
        ["-u", KEEPER, "--", "/usr/local/libexec/openclaw-backup/../openclaw-backup/session-write", "x"],
        ["-u", KEEPER, "--", "/usr/local/libexec/openclaw-backup/upkeep", "prune"],
        ["-u", KEEPER, "--", PROGRAM, "serve", "--session", "write"],
        ["-u", KEEPER, "--", "/bin/sh"],
        ["-u", KEEPER, "--", "/usr/bin/python3", "-c", "print(1)"],
        ["-u", KEEPER, "-s"],
        ["-u", KEEPER, "-i"],
        ["-u", KEEPER, "-e", "/etc/passwd"],
        ["-u", "root", "--", write],
        ["--", write],
        ["-u", "#0", "--", write],
        ["-u", "#-1", "--", write],
        ["-u", other, "--", write],
        ["-u", KEEPER, "-g", "root", "--", write],
        ["-u", KEEPER, "-g", other, "--", write],
        ["-E", "-u", KEEPER, "--", write],
        ["--preserve-env=PATH", "-u", KEEPER, "--", write],
        ["-u", KEEPER, "PYTHONPATH=/tmp", write],
        ["-u", KEEPER, "LD_PRELOAD=/tmp/x.so", write],
        ["-u", KEEPER, "SUDO_UID=0", write],
        ["-u", KEEPER, "-C", "100", "--", write],
        ["-u", KEEPER, "-R", "/tmp", "--", write],
        ["-u", KEEPER, "-D", "/tmp", "--", write],
        ["-u", KEEPER, "-T", "1", "--", write],
        ["-u", KEEPER, "-h", SETTING["victim"], "--", write],
    ]
    return [" ".join(words) for words in trials if not refused_by_sudo(*words)]


@attempt
def the_programs_of_sudo_are_started_without_it() -> List[str]:
    """They would then run with this account's own rights, and find out about nobody."""
    results = []
    for environment in ({}, {"SUDO_UID": "0"}, {"SUDO_UID": str(SETTING["victims_uid"]), "SUDO_USER": SETTING["victims_account"]}):
        with Session(command=[SESSION + "write"], env={**os.environ, **environment}) as session, contextlib.suppress(TargetError):
            answer = session.hello(SETTING["victim"])
            answer = session.begin() if "ok" in answer else answer
            if "ok" in answer:
                results.append(str(environment))
    return results


@attempt
def the_environment_is_forged() -> List[str]:
    """None of it reaches the keeper, and the session is this account's."""
    trap = "/tmp/trap"
    os.makedirs(trap, exist_ok=True)
    os.chmod(trap, 0o777)
    for name in ("python3", "sh", "sudo", "rrsync", "env"):
        with open("%s/%s" % (trap, name), "w") as stream:
            stream.write("#!/bin/sh\n: >%s/sprung.$(id -un)\n" % trap)
        os.chmod("%s/%s" % (trap, name), 0o755)
    for name in ("sitecustomize.py", "usercustomize.py", "json.py", "openclaw_backup.py"):
        with open("%s/%s" % (trap, name), "w") as stream:
            stream.write("import os\nopen('%s/sprung.%%d' %% os.getuid(), 'w')\n" % trap)
    forged = {
        "PATH": trap + ":" + os.environ.get("PATH", os.defpath),
        "HOME": trap,
        "PYTHONPATH": trap,
        "PYTHONHOME": trap,
        "PYTHONSTARTUP": trap + "/json.py",
        "PYTHONINSPECT": "1",
        "PYTHONUSERBASE": trap,
        "PYTHONWARNINGS": "error",
        "PYTHONHASHSEED": "0",
        "LD_LIBRARY_PATH": trap,
        "LD_PRELOAD": trap + "/none.so",
        "LC_ALL": "tr_TR.ISO-8859-9",
        "LANG": "../../tmp/trap",
        "TZ": ":/tmp/trap/json.py",
        "TMPDIR": trap,
        "ENV": trap + "/sh",
        "BASH_ENV": trap + "/sh",
        "IFS": "/",
        "RSYNC_RSH": trap + "/sh",
        "OPENCLAW_BACKUP_STATE": trap,
        "XDG_STATE_HOME": trap,
        "SSH_ORIGINAL_COMMAND": "openclaw-backup serve",
        "SUDO_UID": str(SETTING["victims_uid"]),
        "SUDO_GID": "0",
        "SUDO_USER": SETTING["victims_account"],
        "SUDO_COMMAND": "x",
    }
    sudo = ["/usr/bin/sudo", *SUDO[1:], SESSION + "write"]
    results = [] if add_snapshot(command=sudo, env=forged, cwd=trap) == "ok" else ["no snapshot"]
    with Session(command=sudo, env=forged, cwd=trap) as session:
        if says(session.hello(SETTING["victim"])) != "scope":
            results.append("another host's session")
        environment = ask_root("environ") or {}
        results += sorted(name for name, value in environment.items() if forged.get(name) == value)
    large = {"X%d" % number: "x" * 100_000 for number in range(15)}
    if add_snapshot(command=sudo, env={**os.environ, **large}) != "ok":
        results.append("no snapshot with a large environment")
    return results + [name for name in os.listdir(trap) if name.startswith("sprung")]


def after(result: Optional[str]) -> Optional[str]:
    """Whatever came of it: does an ordinary session go on?"""
    since = time.monotonic()
    while True:
        with contextlib.suppress(AssertionError, TargetError):
            if add_snapshot() == "ok":
                return result
        assert time.monotonic() - since < 100, "blocked"
        time.sleep(0.5)


def whatever(**options: Any) -> str:
    try:
        return add_snapshot(**options)
    except (AssertionError, TargetError, OSError) as error:
        return type(error).__name__


def limit(what: int, soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (soft, hard))


LIMITS = ("FSIZE", "NOFILE", "NPROC", "AS", "STACK", "CPU")


@attempt
def limits_are_low() -> Dict[str, str]:
    """What ends the session in the middle of its work leaves no half of anything; one that can be raised is."""
    results = {}
    for name in LIMITS:
        what = getattr(resource, "RLIMIT_" + name)
        small = {"AS": 60 << 20, "DATA": 10 << 20, "STACK": 1 << 16, "CPU": 1}.get(name, 1)
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY:
            small = min(small, hard)
        results[name] = whatever(preexec_fn=limit(what, small, small))
        if name in ("FSIZE", "NOFILE", "AS"):
            results[name + " soft"] = whatever(preexec_fn=limit(what, small, hard))
    after(None)
    return {name: result for name, result in results.items() if result not in ("ok", "AssertionError", "TargetError", "OSError", "SubprocessError")}


@attempt
def standard_streams_are_closed() -> Optional[str]:
    for numbers in ((0,), (1,), (2,), (0, 1, 2)):

        def shut(numbers: Sequence[int] = numbers) -> None:
            for number in numbers:
                os.close(number)

        result = whatever(preexec_fn=shut)
        assert result == ("ok" if numbers == (2,) else "TargetError"), (numbers, result)
    for other in ("/dev/null", "/dev/zero", "/dev/full", "/"):
        with open(other, "rb") if other != "/" else contextlib.nullcontext() as stream:
            fd = stream.fileno() if stream else os.open("/", os.O_RDONLY)
            done = subprocess.run([*SUDO, SESSION + "write"], stdin=fd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, check=False)
            assert done.returncode >= 0
    return after("ok")


@attempt
def the_process_is_prepared() -> Optional[str]:
    """umask, ignored and blocked signals, a timer, a low priority, a directory that is gone, no group."""

    def timer() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.3)

    def ignore() -> None:
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP, signal.SIGALRM, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))

    def gone() -> None:
        place = "/tmp/gone-%d" % os.getpid()
        os.mkdir(place)
        os.chdir(place)
        os.rmdir(place)

    def low() -> None:
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(0, {0})

    def traced() -> None:
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def all_of(mask: int, *prepare: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            for one in prepare:
                one()
            os.umask(mask)

        return work

    for prepare in (all_of(0, ignore, low), all_of(0o777, gone, traced)):
        result = whatever(preexec_fn=prepare)
        assert result == "ok", (prepare, result)
    whatever(preexec_fn=timer)
    whatever(command=["sudo", "-P", *SUDO[1:], SESSION + "write"])
    return after("ok")


@attempt
def a_terminal_stands_behind_it() -> Optional[str]:
    """Keys of a terminal reach the session as signals."""
    for key in (b"\x03", b"\x1a", None):
        content = new_content()
        manifest = manifest_of(content)
        master, slave = pty.openpty()

        def take(slave: int = slave) -> None:
            os.setsid()
            fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY

        with Session(preexec_fn=take) as session:
            os.close(slave)
            session.open(manifest)
            session.deliver(content)
            if key is None:
                os.close(master)
            else:
                os.write(master, key)
            with contextlib.suppress(TargetError):
                session.commit(manifest)
            if key is not None:
                os.close(master)
    return after("ok")


@attempt
def processes_are_killed_and_stopped() -> List[str]:
    """Those of the keeper's cannot be; this account's own end at any time."""
    results = []
    with ready() as (session, manifest, _content):
        for number in (signal.SIGSTOP, signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL):
            results += ["%d %d" % (number, pid) for pid in ask_root("pids") if can(os.kill, pid, number)]
            can(os.kill, session.process.pid, number)  # what stands before the keeper's process is ours
        if session.commit(manifest) != "ok":
            results.append("not committed")
    for delay in (0.0, 0.02, 0.1):
        content = {"src/f%d" % number: os.urandom(2000) for number in range(300)}
        manifest = manifest_of(content)
        pid = os.fork()
        if not pid:
            session = Session()
            session.open(manifest)
            session.deliver(content)
            session.wire.send({"do": "commit", "digest": manifest.digest})
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
    after(None)
    return results


# ---- too much ------------------------------------------------------------------------------------------------------------


@attempt
def a_session_stands_still() -> str:
    """In the middle of a frame, and with a pipe that nobody reads; each loses its place."""
    silent = Session().open(manifest_of(new_content()))
    others = [Session() for _number in range(3)]
    for other, stall in zip(others, (b"J\0\0", b"J\0\0\1\0{", b"")):
        other.hello()
        other.wire.write(stall)
    since = time.monotonic()
    silent.wire.write(b"D\0\0\1\0x")
    with contextlib.suppress(TargetError):
        others[-1].wire.patience = 2
        for _time in range(200_000):
            others[-1].wire.write(b'J\0\0\0\x0d{"do":"list"}')
    for session in (silent, *others):
        session.process.wait(IDLE + 20)
        session.hang_up()
    assert time.monotonic() - since > IDLE - 10
    return add_snapshot()


@attempt
def a_crowd_of_sessions() -> str:
    """Few are let in, and when they are gone there is room again."""
    sessions = [Session() for _number in range(CROWD)]
    inside: List[Session] = []
    kinds = []
    for session in sessions:
        try:
            kinds.append(says(session.hello()))
        except TargetError:
            kinds.append("gone")  # refused so long ago that nobody waits any more for what we say to it
        if kinds[-1] == "ok":
            inside.append(session)
        for other in inside:
            assert says(other.ask("alive")) == "ok"
    assert set(kinds) <= {"ok", "locked", "gone"} and kinds.count("ok") == 4, kinds
    assert says(inside[0].begin()) == "ok"
    phase("hold")
    while phase("hold", paths=["still"]):
        for other in inside:
            assert says(other.ask("alive")) == "ok"
    for session in sessions:
        session.hang_up()
    return add_snapshot()


@attempt
def everything_is_full() -> Dict[str, Any]:
    """Bytes, then names. Nothing is committed meanwhile, what was there stays, and the space comes back."""
    results: Dict[str, Any] = {}
    for what in ("bytes", "names"):
        with ready() as (session, manifest, _content):
            with contextlib.suppress(OSError):
                if what == "bytes":
                    with open(session.path("fill"), "wb", buffering=0) as stream:
                        while True:
                            stream.write(bytes(1 << 20))
                else:
                    at = os.open(session.files, os.O_RDONLY | os.O_DIRECTORY)
                    for number in range(1 << 20):
                        os.close(os.open("n%d" % number, os.O_CREAT | os.O_WRONLY, dir_fd=at))
            results[what] = session.commit(manifest)
            phase("full")
        # The filler has died; who comes next is not locked out by what it has left.
        since = time.monotonic()
        kinds = []
        while time.monotonic() < since + 100:
            try:
                kinds.append(add_snapshot())
            except (AssertionError, TargetError) as error:
                kinds.append(str(error))
            if kinds[-1] == "ok":
                break
        results[what + " after"] = kinds[-1]
    return results


# ---- time ----------------------------------------------------------------------------------------------------------------


@attempt
def clocks_lie() -> List[str]:
    """Snapshots of the policy that the vault prunes: if it believed a host's time, all others would be old."""
    times = ("2040-01-01T00:00:00.000Z", "1970-01-02T00:00:00.000Z", "2999-01-01T00:00:00.000Z")
    return [add_snapshot({"srv/work/secret": os.urandom(100), "srv/work/note": b"pay"}, policy="work", claimed=claimed) for claimed in times]


# ---- reading -------------------------------------------------------------------------------------------------------------


@attempt
def others_data_is_looked_for() -> List[str]:
    """By every name that can be known, and by way of the keeper's processes."""
    results = []
    victims = ask_root("names", "%s/%s" % (VAULT, SETTING["victim"]))
    places = [*victims, VAULT + "/.slots", MEMORY, "/etc/openclaw-backup/vault", "/var/lib/openclaw-ingest/" + SETTING["victims_account"]]
    own = ask_root("names", "%s/%s/play/snapshots" % (VAULT, SETTING["host"]))
    assert len(victims) > 20 and len(own) > 5
    for path in [*places, *own]:
        for look in (read, read_and_write, os.listdir, os.chdir, os.utime, os.unlink):
            if can(look, path):
                results.append("%s: %s" % (path, look.__name__))
        if can(os.link, path, "/tmp/linked-%d" % os.getpid()):
            results.append("%s: linked" % path)
        os.chdir("/")
    # That another host is in this vault can be guessed.
    results += ["%s: seen" % path for path in victims[1:] if can(os.lstat, path)]
    lists = ("/etc/openclaw-backup/accounts", "/etc/openclaw-backup/grants", VAULT, "%s/%s" % (VAULT, SETTING["host"]))
    results += ["%s: listed" % path for path in lists if can(os.listdir, path)]
    with ready():
        pids = ask_root("pids")
        assert len(pids) > 0
        for pid in pids:
            names = ("root/etc/passwd", "mem", "environ", "maps", "stack", "syscall", "fd/0", "fd/3")
            results += ["/proc/PID/" + name for name in names if can(read, "/proc/%d/%s" % (pid, name))]
            results += ["/proc/PID/" + name for name in ("root/", "cwd/", "fd/", "map_files/") if can(os.listdir, "/proc/%d/%s" % (pid, name))]
            results += ["/proc/PID/exe"] if can(os.readlink, "/proc/%d/exe" % pid) else []
            if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
                results.append("traced")
    return results


@attempt
def others_sessions_are_asked_for() -> List[str]:
    """Of the protocol's words none gives what is another host's, nor what is this one's without a grant."""
    results = []
    for policy in ("work", "play"):
        with Session(policy=policy) as session:
            answer = session.hello(SETTING["victim"])
            results += [policy] if "ok" in answer else []
    with Session() as session:
        session.hello()
        snapshot = session.latest()
        for answer in (session.ask("fetch", b"src/a", id=snapshot), session.ask("verify", id=snapshot, depth="full", part=None, record=True)):
            if says(answer) != "scope":
                results.append(says(answer))
    return results


def read_session(host: str) -> Tuple[str, str]:
    with Session(scope="read") as session:
        kind = says(session.hello(host))
        if kind != "ok":
            return kind, ""
        snapshot = session.latest()
        answer = session.ask("fetch", b"src/a", id=snapshot)
        if "ok" not in answer:
            return "ok", says(answer)
        b"".join(session.wire.receive_stream(1 << 26))
        return "ok", "ok"


@attempt
def grants_are_over() -> Dict[str, Any]:
    """None, one that is over, one for the other host alone, one that ends meanwhile."""
    own, other = SETTING["host"], SETTING["victim"]
    results: Dict[str, Any] = {"none": read_session(own)}
    ask_root("grant", "-1", own)
    results["over"] = read_session(own)
    ask_root("grant", "60", own)
    results["granted"] = read_session(own)
    results["granted, another host"] = read_session(other)
    ask_root("grant", "8", own)
    with Session(scope="read") as session:
        assert says(session.hello()) == "ok"
        results["ended meanwhile"] = says(session.wire.receive())  # unasked
    ask_root("revoke")
    results["revoked"] = read_session(own)
    return results


def main() -> None:
    name, setting = sys.argv[1:]
    SETTING.update(json.loads(setting))
    try:
        result = {"result": ATTEMPTS[name]()}
    except Exception as error:  # noqa: BLE001 - the test shows it
        result = {"failed": "%s: %s" % (type(error).__name__, error), "trace": traceback.format_exc()}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
