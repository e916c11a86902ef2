# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of one run: none outlives the one that started it for long, a lock is free only when all are gone, and none stops to look for cycles."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import threading
import time
from typing import AbstractSet, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Tuple

from .errors import LockedError, printable

# A process that is killed leaves its lock to children that die a moment later; longer than they take, shorter than anybody's work.
PATIENCE_SECONDS = 2.0
# How long somebody else's program may take to clean up after it was asked to end.
STOP_SECONDS = 5.0
_POLL_SECONDS = 0.02
# Where programs that a policy names are looked for, whoever starts the run.
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# The account that owns nothing, by the number that the kernel itself knows it by.
NOBODY = 65534


class Rights(NamedTuple):
    """As whom a process works."""

    uid: int
    gid: int
    groups: List[int]


def standard_environment(uid: int) -> Dict[str, str]:
    """What every program that a policy names finds in its environment, when it works as ``uid``."""
    import pwd

    try:
        user = pwd.getpwuid(uid)
        name, home = user.pw_name, user.pw_dir
    except KeyError:
        name, home = str(uid), "/"
    return {"PATH": STANDARD_PATH, "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh", "USER": name, "LOGNAME": name, "HOME": home}


def rights_of(uid: int, gid: int) -> Rights:
    """Those of an account, with the groups that this machine gives it; of one that it does not know ``gid`` alone."""
    import pwd

    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return Rights(uid, gid, [gid])
    return Rights(uid, user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid))


def become_nobody() -> None:
    """Give up root's rights for good, and writing files with them; a process that has none of root's keeps what it has."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def no_new_rights() -> Callable[[], object]:
    """What a child calls to have neither sudo nor a setuid bit give it more rights than it has."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def lock(path: bytes, how: int, what: str, flags: int = os.O_RDWR | os.O_CREAT, *, patience: float = PATIENCE_SECONDS) -> int:
    """Take an advisory lock; the open descriptor, which children made by ``fork`` hold too.

    ``how`` is ``fcntl.LOCK_EX`` or ``LOCK_SH``. ``LockedError`` names ``what`` holds it after ``patience`` seconds; ``OSError`` where
    the file cannot be opened.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(fd, how | fcntl.LOCK_NB)
                return fd
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() >= deadline:
                    raise LockedError(
                        "%s holds %s" % (what, printable(path)),
                        field="lock",
                        found=path,
                        next="wait until it is done and try again; a lock never outlives its processes",
                    ) from error
            time.sleep(_POLL_SECONDS)
    except BaseException:
        os.close(fd)
        raise


@contextlib.contextmanager
def collector_at_rest() -> Iterator[None]:
    """Let Python's cycle collector rest: one operation makes many small objects that live to its end, and looking through them costs time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def starting(*, bound: bool = True) -> Iterator[Callable[[], None]]:
    """Start one child in this block, which is to call what is yielded first: if ``bound``, SIGKILL of this process (rather, thread) then ends it too.

    SIGINT, SIGTERM and SIGHUP wait until the block ends. Python loses what a handler raises while it forks, and a child that nobody knows yet
    would be left behind.
    """
    import ctypes

    # Looked up here: a child made by fork had better not load anything.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited from who started us; how a child ended would be lost

    def bind() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not bound:
            return
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    try:
        yield bind
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def in_time(work: Callable[[], bytes], seconds: int) -> Optional[bytes]:
    """What ``work`` returns (at most 4096 bytes), made by a process of its own that the kernel ends after ``seconds``; None where it came to no answer.

    For what Python cannot break off: ``re`` can take years, and looks for signals in some of its loops only.
    """
    read_end, write_end = os.pipe()
    try:
        with starting() as bind:
            child = os.fork()
            if child == 0:
                _work(work, seconds, write_end, bind)
    finally:
        os.close(write_end)
    try:
        with open(read_end, "rb") as stream:
            return stream.read() or None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _work(work: Callable[[], bytes], seconds: int, pipe: int, bind: Callable[[], None]) -> NoReturn:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        signal.alarm(seconds)
        bind()
        os.write(pipe, work()[:4096])  # so much is written as a whole or not at all
    finally:
        os._exit(0)


def stop_group(group: int, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Ask all processes of a group to end, and kill what is left of it after ``STOP_SECONDS``. ``meanwhile`` is called while it waits."""
    # There is none any more; or they are another user's (sudo), and nothing that we could stop.
    pointless = (ProcessLookupError, PermissionError)
    deadline = time.monotonic() + STOP_SECONDS
    try:
        os.killpg(group, signal.SIGTERM)
        while _is_at_work(group) and time.monotonic() < deadline:
            meanwhile()
            time.sleep(_POLL_SECONDS)
    except pointless:
        pass
    finally:
        with contextlib.suppress(*pointless):
            os.killpg(group, signal.SIGKILL)


def _is_at_work(group: int) -> bool:
    """Whether a process of a group lives. Signal 0 would not tell it from one that nobody reaps, as in a container without an init."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/stat" % name, "rb") as file:
            state, _parent, its_group = file.read().rpartition(b")")[2].split()[:3]
            if int(its_group) == group and state not in (b"Z", b"X"):
                return True
    return False


@contextlib.contextmanager
def guarded() -> Iterator[Callable[[], None]]:
    """Start one leader of a process group in this block, which is to call what is yielded before its program runs.

    If this process is killed meanwhile, a small process of its own stops the whole group (``stop_group``): SIGKILL leaves us no time to, and the
    kernel would end the leader alone, without asking. That process holds our locks until the group is gone.
    """
    read_end, write_end = os.pipe()
    guard = 0
    try:
        with starting(bound=False) as bind:
            guard = os.fork()
            if guard == 0:
                os.close(write_end)
                _guard(read_end, bind)
        yield lambda: _tell_group(write_end)
    finally:
        if guard:
            os.kill(guard, signal.SIGKILL)
            os.waitpid(guard, 0)
        os.close(read_end)
        os.close(write_end)


def _tell_group(pipe: int) -> None:
    os.write(pipe, b"%d" % os.getpgrp())


def _guard(pipe: int, bind: Callable[[], None]) -> NoReturn:
    """Wait until nobody can write to ``pipe`` any more, and stop the group that it told of."""
    try:
        os.setsid()  # what ends the group that we come from must not end us
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        bind()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):  # whoever reads what the run says sees its end at once
            os.dup2(null, standard)
        group = b""
        while True:
            told = os.read(pipe, 32)
            if not told:
                break
            group += told
        if group:
            stop_group(int(group))
    finally:
        os._exit(0)


def who_has_open(inodes: AbstractSet[Tuple[int, int]]) -> Dict[Tuple[int, int], str]:
    """Of files, by (device, inode): the first process that has each open, as ``123 (name)``, as far as this user may see them."""
    result: Dict[Tuple[int, int], str] = {}
    names: List[str] = []
    with contextlib.suppress(OSError):  # a rescue system may not have mounted it
        names = os.listdir("/proc") if inodes else []
    for pid in sorted(int(name) for name in names if name.isdecimal()):
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone, or another's
            for fd in os.listdir("/proc/%d/fd" % pid):
                with contextlib.suppress(OSError):
                    at = "/proc/%d/fd/%s" % (pid, fd)
                    if not os.readlink(at).startswith("/"):
                        continue
                    found = os.stat(at)
                    if (found.st_dev, found.st_ino) in inodes:
                        result.setdefault((found.st_dev, found.st_ino), "%d (%s)" % (pid, _name_of(pid)))
    return result


def _name_of(pid: int) -> str:
    with open("/proc/%d/comm" % pid, "rb") as stream:
        return printable(stream.read().rstrip(b"\n"))
