# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one walker. Scan, staging, commit, restore, undo and drill reach every path through it: directory by directory, by descriptor, never
through a symbolic link, never blocking on a special file."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Iterator, List, NamedTuple, Optional, Tuple, Type

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Descriptors one Descent keeps; the usual soft limit of a process is 1,024 and paths can be 2,000 directories deep.
_KEEP_OPEN = 96


class ReplacedError(OSError):
    """What was opened is not what was looked at before: somebody put something else in its place."""


class Listed(NamedTuple):
    """One name of a directory and its ``lstat``."""

    name: bytes
    stat: os.stat_result


class Descent:
    """Directories below a root, opened one component at a time.

    Paths asked for in order cost about one ``openat`` a directory: the way down to the last one stays open.
    """

    def __init__(self, root: bytes, *, dir_fd: Optional[int] = None) -> None:
        self.root_fd = os.open(root, DIRECTORY_FLAGS, dir_fd=dir_fd)
        self._names: List[bytes] = []
        self._fds: List[int] = []  # -1: closed to save descriptors
        self._path = b""
        self._fd = self.root_fd

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor; the object cannot be used after."""
        self.forget()
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1

    def forget(self) -> None:
        """Close the way down, as after directories were renamed or replaced."""
        while self._fds:
            self._pop()
        self._path, self._fd = b"", self.root_fd

    def directory(self, path: bytes, *, create: Optional[int] = None) -> int:
        """The descriptor of directory ``path`` (relative to the root), valid until the next call. It stays owned by this object.

        With ``create`` missing directories are made with that mode. ``OSError`` as ``open`` gives it; a symbolic link on the way is
        ``ELOOP`` or ``ENOTDIR``.
        """
        if path == self._path:
            return self._fd
        wanted = path.split(b"/") if path else []
        common = 0
        for mine, other in zip(self._names, wanted):
            if mine != other:
                break
            common += 1
        # The way is consistent at every step, so that an error leaves a usable object.
        while len(self._names) > common:
            self._pop()
        self._path, self._fd = b"/".join(self._names), self._top()
        for name in wanted[common:]:
            self._push(name, create)
        self._path = path
        return self._fd

    def parent(self, path: bytes, *, create: Optional[int] = None) -> Tuple[int, bytes]:
        """The descriptor of the directory that holds ``path``, and the last component."""
        directory, _, name = path.rpartition(b"/")
        return (self._fd if directory == self._path else self.directory(directory, create=create)), name

    def _push(self, name: bytes, create: Optional[int]) -> None:
        above = self._fd
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=above)
        except FileNotFoundError:
            if create is None:
                raise
            os.mkdir(name, create, dir_fd=above)
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=above)
        self._names.append(name)
        self._fds.append(fd)
        self._path = b"%s/%s" % (self._path, name) if self._path else name
        self._fd = fd
        if len(self._fds) > _KEEP_OPEN:
            shallow = len(self._fds) - _KEEP_OPEN - 1
            if self._fds[shallow] >= 0:
                os.close(self._fds[shallow])
                self._fds[shallow] = -1

    def _pop(self) -> None:
        self._names.pop()
        fd = self._fds.pop()
        if fd >= 0:
            os.close(fd)

    def _top(self) -> int:
        if not self._fds:
            return self.root_fd
        if self._fds[-1] < 0:
            at = self.root_fd
            try:
                for index, name in enumerate(self._names):
                    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=at)
                    if at != self.root_fd and at not in self._fds:
                        os.close(at)
                    at = fd
                    if index >= len(self._names) - _KEEP_OPEN and self._fds[index] < 0:
                        self._fds[index] = fd
            except OSError:
                if at != self.root_fd and at not in self._fds:
                    os.close(at)
                self._names.clear()
                while self._fds:
                    fd = self._fds.pop()
                    if fd >= 0:
                        os.close(fd)
                raise
        return self._fds[-1]


def list_directory(fd: int) -> List[Listed]:
    """Everything in the open directory ``fd``, sorted by name bytes. A name that vanishes while it is listed is left out."""
    result = []
    encode = os.fsencode
    with os.scandir(fd) as names:
        for item in names:
            try:
                result.append(Listed(encode(item.name), item.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue
    result.sort()
    return result


def open_file(dir_fd: int, name: bytes, expected: Optional[os.stat_result] = None) -> Tuple[int, os.stat_result]:
    """Open a regular file for reading; (descriptor, its ``fstat``).

    ``ReplacedError`` where it is not a regular file, or not the inode that ``expected`` shows.
    """
    fd = os.open(name, FILE_FLAGS, dir_fd=dir_fd)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ReplacedError("not a regular file any more")
        if expected is not None and (found.st_ino, found.st_dev) != (expected.st_ino, expected.st_dev):
            raise ReplacedError("replaced since it was listed")
    except BaseException:
        os.close(fd)
        raise
    return fd, found


def walk(root: Descent, path: bytes = b"") -> Iterator[Tuple[bytes, List[Listed]]]:
    """Every directory from ``path`` down with its listing, parents first. The caller may remove listed directories to skip them."""
    pending = [path]
    while pending:
        at = pending.pop()
        listing = list_directory(root.directory(at))
        yield at, listing
        prefix = at + b"/" if at else b""
        pending.extend(prefix + item.name for item in reversed(listing) if stat.S_ISDIR(item.stat.st_mode))


def remove_tree(dir_fd: int, name: bytes) -> None:
    """Delete ``name`` below ``dir_fd``, whatever it is, however deep, without following links. Absent is fine.

    Directories that forbid it (0550) are opened up first.
    """
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    if found.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=dir_fd)
    with Descent(name, dir_fd=dir_fd) as root:
        directories = []
        for path, listing in walk(root):
            at = root.directory(path)
            for item in listing:
                if not stat.S_ISDIR(item.stat.st_mode):
                    os.unlink(item.name, dir_fd=at)
                elif item.stat.st_mode & 0o700 != 0o700:
                    os.chmod(item.name, 0o700, dir_fd=at)
            if path:
                directories.append(path)
        for path in reversed(directories):
            parent, last = root.parent(path)
            os.rmdir(last, dir_fd=parent)
    os.rmdir(name, dir_fd=dir_fd)
