# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel tells of changes in directories (``man 7 inotify``), by ctypes: the standard library has nothing for it."""

from __future__ import annotations

import ctypes
import errno
import os
import select
from struct import Struct
from types import TracebackType
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Type

_HEAD = Struct("iIII")  # watch, mask, cookie, length of the name
_BUFFER_BYTES = 1 << 16
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = (1 << bit for bit in (1, 2, 3, 6, 7, 8, 9, 10, 11))
_UNMOUNT, _Q_OVERFLOW, _IGNORED, _ONLYDIR, _EXCL_UNLINK, _ISDIR = (1 << bit for bit in (13, 14, 15, 24, 26, 30))
_CHANGES = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _EXCL_UNLINK
_SELF = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _Q_OVERFLOW
_NAMES = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE


class Change(NamedTuple):
    """Something has happened to ``path``. ``is_order``: which directories there are is not what it was, or something may have been missed."""

    path: bytes
    is_directory: bool
    is_order: bool


class Watches:
    """Directories that are watched. ``OSError`` (``EMFILE``) where this user watches with too many programs already."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._paths: Dict[int, bytes] = {}

    def __enter__(self) -> Watches:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        os.close(self._fd)

    def __len__(self) -> int:
        return len(self._paths)

    def fileno(self) -> int:
        """What can be read when something has changed, for who waits for more than that."""
        return int(self._fd)

    def add(self, directory: int, path: bytes) -> int:
        """Watch the open ``directory``, which changes are told of as ``path``; the watch's number, the same one where it is watched already.

        ``OSError``: ``ENOSPC`` where this user watches too many directories.
        """
        # By its descriptor: no component of a path can be exchanged.
        number: int = self._libc.inotify_add_watch(self._fd, b"/proc/self/fd/%d" % directory, _CHANGES)
        if number < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        self._paths[number] = path
        return number

    def keep(self, numbers: Iterable[int]) -> None:
        """Watch none but these any more."""
        for number in self._paths.keys() - set(numbers):
            del self._paths[number]
            self._libc.inotify_rm_watch(self._fd, number)

    def wait(self, seconds: float) -> List[Change]:
        """What has changed, as soon as anything has; nothing after so many seconds."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(max(0, seconds) * 1000):
            return []
        try:
            data = os.read(self._fd, _BUFFER_BYTES)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return []
            raise
        found: List[Change] = []
        seen: Set[Change] = set()
        at = 0
        while at < len(data):
            number, mask, _cookie, length = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0")
            at += _HEAD.size + length
            if mask & _IGNORED:
                self._paths.pop(number, None)
                continue
            above = self._paths.get(number)
            if above is None and not mask & _Q_OVERFLOW:
                continue  # told of before it was watched no more
            path = above or b""
            if name:
                path = b"%s/%s" % (path, name) if path else name
            is_directory = bool(mask & _ISDIR) or not name
            change = Change(path, is_directory, bool(mask & _SELF or is_directory and mask & _NAMES))
            if change not in seen:
                seen.add(change)
                found.append(change)
        return found


def most_watches() -> int:
    """How many directories one user may watch with all programs."""
    try:
        with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 8192  # what kernels without the file have
