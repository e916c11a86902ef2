# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of one run: none outlives the one that started it, a lock is free only when all are gone, and none stops to look for cycles."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import threading
import time
from typing import Callable, Iterator

from .errors import LockedError, printable

# A process that is killed leaves its lock to children that die a moment later; longer than they take, shorter than anybody's work.
PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1


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
def starting() -> Iterator[Callable[[], None]]:
    """Start one child in this block, which is to call what is yielded first: SIGKILL of this process (rather, thread) then ends it too.

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
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    try:
        yield bind
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
