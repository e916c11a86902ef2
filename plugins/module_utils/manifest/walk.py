# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one walker. Scan, staging, commit, restore, undo and drill reach every path through it: directory by directory, by descriptor, never
through a symbolic link, never blocking on a special file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from types import TracebackType
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Type

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Descriptors one Descent keeps; the usual soft limit of a process is 1,024 and paths can be 2,000 directories deep.
_KEEP_OPEN = 64

# How often a directory is listed in which names go away meanwhile.
_LISTINGS = 5

_ENCODING, _ENCODING_ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class ReplacedError(OSError):
    """What was opened is not what was looked at before: somebody put something else in its place."""


class Listed(NamedTuple):
    """One name of a directory and its ``lstat``."""

    name: bytes
    stat: os.stat_result


# The tuple's own constructor takes a third of the time of the named one.
_new = tuple.__new__


class Descent:
    """Directories below a root, opened one component at a time.

    Paths asked for in order cost about one ``openat`` a directory: the way down to the last one stays open.
    """

    def __init__(self, root: bytes, *, dir_fd: Optional[int] = None) -> None:
        self.root_fd = os.open(root, DIRECTORY_FLAGS, dir_fd=dir_fd)
        self._fds: List[int] = []  # of every component of the path; -1: closed to save descriptors
        self._path = b""
        self._fd = self.root_fd  # of the path itself

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

    def directory(self, path: bytes, *, create: Optional[int] = None) -> int:
        """The descriptor of directory ``path`` (relative to the root), valid until the next call. It stays owned by this object.

        With ``create`` missing directories are made with that mode. ``OSError`` as ``open`` gives it; a symbolic link on the way is
        ``ELOOP`` or ``ENOTDIR``.
        """
        if path == self._path:
            return self._fd
        # The way is whole after every step, so that an error leaves a usable object.
        while self._fds and path != self._path and not path.startswith(self._path + b"/"):
            self._pop()
        if self._fd < 0:
            self.forget()
        if path != self._path:
            for name in path[len(self._path) + 1 if self._path else 0 :].split(b"/"):
                self._push(name, create)
        return self._fd

    def parent(self, path: bytes, *, create: Optional[int] = None) -> Tuple[int, bytes]:
        """The descriptor of the directory that holds ``path``, and the last component."""
        directory, _, name = path.rpartition(b"/")
        return (self._fd if directory == self._path else self.directory(directory, create=create)), name

    def _push(self, name: bytes, create: Optional[int]) -> None:
        if name in (b"", b".", b".."):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        try:
            fd = _open_directory(name, self._fd)
        except FileNotFoundError:
            if create is None:
                raise
            with contextlib.suppress(FileExistsError):  # another process makes the same way
                os.mkdir(name, create, dir_fd=self._fd)
            fd = _open_directory(name, self._fd)
        self._path = b"%s/%s" % (self._path, name) if self._path else name
        self._fd = fd
        self._fds.append(fd)
        far = len(self._fds) - _KEEP_OPEN - 1
        if far >= 0 and self._fds[far] >= 0:
            os.close(self._fds[far])
            self._fds[far] = -1

    def _pop(self) -> None:
        fd = self._fds.pop()
        if fd >= 0:
            os.close(fd)
        self._path = self._path.rpartition(b"/")[0]
        self._fd = self._fds[-1] if self._fds else self.root_fd


def _open_directory(name: bytes, above: int) -> int:
    try:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=above)
    except PermissionError:
        # Others' directories above a source need not be readable (0711), only passable.
        return os.open(name, DIRECTORY_FLAGS | os.O_PATH, dir_fd=above)


def list_directory(fd: int) -> List[Listed]:
    """Everything in the open directory ``fd``, sorted by name bytes. A name that vanishes while it is listed is left out; one that a file gets
    instead is not."""
    stat_of = os.stat
    try:
        return [_new(Listed, (name, stat_of(name, dir_fd=fd, follow_symlinks=False))) for name in list_names(fd)]
    except FileNotFoundError:
        return _list_moving(fd)


def list_names(fd: int) -> List[bytes]:
    """The names in the open directory ``fd``, sorted by bytes."""
    try:
        found = os.listdir(fd)
    except OSError as error:
        if error.errno == errno.EBADF:  # it could only be opened to pass through
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error
        raise
    if not found:
        return []
    # All names at once: one by one takes ten times as long.
    names = "\0".join(found).encode(_ENCODING, _ENCODING_ERRORS).split(b"\0")
    if len(set(names)) != len(names):
        names = list(set(names))  # tmpfs lists a name twice when another is renamed over it in the meantime
    names.sort()
    return names


def _list_moving(fd: int) -> List[Listed]:
    """List a directory in which something is renamed: what went under one name has come under another."""
    seen: Dict[bytes, Listed] = {}
    for _ in range(_LISTINGS):
        is_gone = False
        for name in list_names(fd):
            if name not in seen:
                try:
                    seen[name] = Listed(name, os.stat(name, dir_fd=fd, follow_symlinks=False))
                except FileNotFoundError:
                    is_gone = True
        if not is_gone:
            break
    return [seen[name] for name in sorted(seen)]


def open_file(dir_fd: Optional[int], name: bytes, expected: Optional[os.stat_result] = None) -> Tuple[int, os.stat_result]:
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


def open_up(dir_fd: int, name: bytes, found: os.stat_result) -> None:
    """Let the owner of directory ``name``, whose ``lstat`` is ``found``, read, write and enter it. root needs no such leave."""
    if found.st_mode & 0o700 == 0o700 or os.geteuid() == 0:
        return
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(b"/proc/self/fd/%d" % fd, stat.S_IMODE(found.st_mode) | 0o700)
    finally:
        os.close(fd)


def remove_tree(dir_fd: int, name: bytes) -> None:
    """Delete ``name`` below ``dir_fd``, whatever it is, however deep, without following links. Absent is fine.

    Directories that forbid it (0550) are opened up first. Another file system mounted in it is left alone: ``OSError`` (``EBUSY``).
    """
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    device = os.fstat(dir_fd).st_dev
    _refuse_mount(device, Listed(name, found))
    open_up(dir_fd, name, found)
    # Neither paths nor a descriptor for each level: whoever fills the tree may make it 100,000 directories deep.
    way = [_Level(name, _open_directory(name, dir_fd), [])]
    try:
        _empty(way[-1], device)
        while True:
            here = way[-1]
            if here.directories:
                last = here.directories.pop()
                way.append(_Level(last, _open_directory(last, here.fd), []))
                if len(way) > _KEEP_OPEN:
                    way[-1 - _KEEP_OPEN].close()
                _empty(way[-1], device)
                continue
            if len(way) == 1:
                break
            above = way[-2]
            if above.fd < 0:
                above.open_again(here.fd)
            way.pop().close()
            os.rmdir(here.name, dir_fd=above.fd)
    finally:
        for level in way:
            level.close()
    os.rmdir(name, dir_fd=dir_fd)


class _Level:
    """An open directory on the way down through a tree that is being deleted, and those below it that are still to be deleted."""

    def __init__(self, name: bytes, fd: int, directories: List[bytes]) -> None:
        self.name = name
        self.fd = fd
        self.directories = directories
        found = os.fstat(fd)
        self._inode = (found.st_dev, found.st_ino)

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open_again(self, below: int) -> None:
        """From the directory below it, which must still be there."""
        self.fd = os.open(b"..", DIRECTORY_FLAGS | os.O_PATH, dir_fd=below)
        found = os.fstat(self.fd)
        if (found.st_dev, found.st_ino) != self._inode:
            raise ReplacedError(errno.ESTALE, "moved while it was deleted", self.name)


def _empty(level: _Level, device: int) -> None:
    """Delete all that is in a directory but directories, which are to follow."""
    for item in list_directory(level.fd):
        if not stat.S_ISDIR(item.stat.st_mode):
            os.unlink(item.name, dir_fd=level.fd)
        else:
            _refuse_mount(device, item)
            open_up(level.fd, item.name, item.stat)
            level.directories.append(item.name)


def _refuse_mount(device: int, item: Listed) -> None:
    if item.stat.st_dev != device:
        raise OSError(errno.EBUSY, "another file system is mounted here", item.name)
