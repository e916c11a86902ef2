# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The byte store: all that the ``pack`` target asks of a place that keeps objects. Nothing else there touches bytes.

A name is text such as ``web1/app/packs/0a1b``: parts of letters, digits, ``.``, ``_`` and ``-``, of which none begins with a dot.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from typing import AbstractSet, Any, Generator, Iterator, List, NamedTuple, Optional, Union

from ...errors import RUN_OUT, BackupError, IntegrityError, TargetError, UsageError, printable, refused_by_system
from ...manifest.walk import CREATE_FLAGS, Descent, list_directory, open_file, walk
from ...transfer.pace import Pace
from ..contract import Requests
from ..tree.layout import make_private

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,199})*", re.ASCII)


# So often something is tried that others' tidying can come in between of.
_ATTEMPTS = 5
# What a bucket dates bears its time; a host whose own is further off than this is told (s).
_SKEW = 300
# What goes at once where there is a limit on bytes a second.
STEP = 64 << 10
# What is read of a long answer at a time (bytes).
PIECE = 1 << 20


def ticks() -> float:
    """Seconds of a clock that nobody sets, and that also goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Item(NamedTuple):
    """An object of a store: its size in bytes, and when it came to be, by the store's clock (s since the epoch)."""

    name: str
    size: int
    at: float


class Store(ABC):
    """Objects by name. What is not there is None; trouble is a ``BackupError``.

    ``is_conditional``: ``put`` can be told to leave alone what is there already, in one step. ``lists_freely``: listing costs nothing, so that
    it may be done to be on the safe side. ``streams``: how many objects had better be on their way at once. ``sending`` and ``receiving``: content goes
    there and comes from there no faster; then one process alone may use the store.
    """

    url: str
    is_conditional: bool
    lists_freely: bool
    streams: int = 1
    sending: Optional[Pace] = None
    receiving: Optional[Pace] = None

    def limit(self, rate: Optional[float]) -> None:
        """No more than ``rate`` bytes a second from here on, each way for itself; None: as fast as it goes."""
        self.sending, self.receiving = (Pace(rate), Pace(rate)) if rate is not None else (None, None)

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit on bytes a second."""
        return self.sending is not None

    @property
    def requests(self) -> Optional[Requests]:
        """What was asked of a store that counts; None where nobody pays for that."""
        return None

    @property
    def skew(self) -> float:
        """How far its clock is ahead of this machine's (s), by the last answer; 0 where they are one, or none came yet."""
        return 0.0

    def skew_told(self) -> List[str]:
        """What is to be said of clocks that do not agree: what is dated by the one and judged by the other looks older or younger than it is."""
        ahead = self.skew
        if abs(ahead) <= _SKEW:
            return []
        return ["the clocks of bucket and host are %d min apart: the bucket's is %s" % (abs(ahead) // 60, "ahead" if ahead > 0 else "behind")]

    @property
    def immutable(self) -> Optional[bool]:
        """Whether the store keeps new objects from being removed for a time, whoever asks; None where it cannot tell."""
        return False

    def report(self) -> Any:
        """In a forked process: what it did to the store and learnt of it, for ``hear`` of the one that it came from."""
        return None

    def hear(self, report: Any) -> None:  # noqa: B027
        """Take in what a forked process reports."""

    def forget(self) -> None:  # noqa: B027 - most remember nothing
        """What was seen before may be out of date: look again."""

    def left(self) -> AbstractSet[str]:
        """The claims that dead runs of this machine wrote and did not take back, as far as it remembers."""
        return frozenset()

    def forget_old(self) -> None:  # noqa: B027
        """Look again where what was seen is older than what somebody may begin on."""

    def settle(self) -> None:  # noqa: B027
        """What was begun here is done, and nobody came in between: what is known now may be believed by the next run, too."""

    @abstractmethod
    def get(self, name: str, start: int = 0, length: Optional[int] = None) -> Optional[bytes]:
        """The bytes of an object, or ``length`` of them from ``start`` on; fewer where it ends before."""

    def pieces(self, name: str, start: int, length: int) -> Generator[bytes, None, None]:
        """The same as it comes, in pieces; what is not asked for any more need not come."""
        for at in range(start, start + length, PIECE):
            data = self.get(name, at, min(PIECE, start + length - at))
            if not data:
                return
            yield data

    @abstractmethod
    def put(self, name: str, data: bytes, checksum: bytes, *, only_if_absent: bool = False) -> bool:
        """Store a whole object, durable when this returns; ``checksum``: its SHA-256, against which the store holds what arrived (``IntegrityError``).

        ``only_if_absent`` (where ``is_conditional``): False, and nothing is changed, where that name is taken."""

    @abstractmethod
    def list(self, prefix: str) -> List[Item]:
        """The objects whose names begin with ``prefix``, sorted by name."""

    @abstractmethod
    def size(self, name: str) -> Optional[int]:
        """The size of an object in bytes."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object, which need not be there."""

    @abstractmethod
    def clock(self) -> float:
        """What time it is for the store (s since the epoch)."""

    @abstractmethod
    def tidy(self, prefix: str, before: float) -> None:
        """Remove what uploads of objects below ``prefix`` left that were cut short before that time, and that are no objects."""

    @abstractmethod
    def foreign(self) -> Optional[bytes]:
        """The name of something that is there already; None where the store is empty."""


class DirectoryStore(Store):
    """Objects as files below ``path``: 0600 before content arrives, under another name until they are whole.

    No symbolic link below ``path`` is followed. ``is_conditional`` False: behave like a store that cannot tell who was first.
    """

    lists_freely = True

    def __init__(self, path: str, *, is_conditional: bool = True) -> None:
        self.url = path
        self.is_conditional = is_conditional
        self._path = os.fsencode(path)

    def get(self, name: str, start: int = 0, length: Optional[int] = None) -> Optional[bytes]:
        with self._explained("read"):
            try:
                with Descent(self._path) as root:
                    at, last = root.parent(self._encoded(name))
                    fd, found = open_file(at, last)
            except FileNotFoundError:
                return None
            with open(fd, "rb", buffering=0) as stream:
                stream.seek(start)
                left = max(0, found.st_size - start) if length is None else length
                pieces: List[bytes] = []
                while left:
                    piece = stream.read(left if self.receiving is None else min(left, STEP))
                    if not piece:
                        break
                    if self.receiving is not None:
                        self.receiving(len(piece))
                    pieces.append(piece)
                    left -= len(piece)
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def put(self, name: str, data: bytes, checksum: bytes, *, only_if_absent: bool = False) -> bool:
        path = self._encoded(name)
        if only_if_absent and not self.is_conditional:
            raise ValueError("this store cannot tell who was first")
        if hashlib.sha256(data).digest() != checksum:
            raise IntegrityError("%s did not arrive as it was sent" % name, kind="checksum", found=name, next="run again; check this machine's memory")
        with self._explained("written"):
            for attempt in range(_ATTEMPTS):
                try:
                    return self._put(path, data, only_if_absent)
                except FileNotFoundError:  # somebody took an empty directory away just then
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def _encoded(self, name: str) -> bytes:
        check_name(name)
        return name.encode("ascii")

    def _put(self, path: bytes, data: bytes, only_if_absent: bool) -> bool:
        make_private(self._path)
        with Descent(self._path) as root:
            at, last = root.parent(path, create=0o700)
            temporary = b".%s.%s" % (last, os.urandom(8).hex().encode("ascii"))
            try:
                with open(os.open(temporary, CREATE_FLAGS, 0o600, dir_fd=at), "wb", buffering=0) as stream:
                    view = memoryview(data)
                    while view:
                        written = stream.write(view if self.sending is None else view[:STEP])
                        if self.sending is not None:
                            self.sending(written)
                        view = view[written:]
                    os.fsync(stream.fileno())
                if not only_if_absent:
                    os.rename(temporary, last, src_dir_fd=at, dst_dir_fd=at)
                else:
                    try:
                        os.link(temporary, last, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
                    except FileExistsError:
                        return False
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=at)
            above = path
            while above:  # the names on the way may be new, too
                above = above.rpartition(b"/")[0]
                os.fsync(root.directory(above))
        return True

    def list(self, prefix: str) -> List[Item]:
        with self._explained("read"):
            for attempt in range(_ATTEMPTS):
                try:
                    return self._list(prefix)
                except FileNotFoundError:  # a directory below went away meanwhile
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def _list(self, prefix: str) -> List[Item]:
        start = os.fsencode(prefix).rpartition(b"/")[0]
        found: List[Item] = []
        try:
            root = Descent(self._path)
        except FileNotFoundError:
            return []
        with root:
            try:
                root.directory(start)
            except FileNotFoundError:
                return []
            for path, listing in walk(root, start):
                for item in listing:
                    name = path + b"/" + item.name if path else item.name
                    if item.name.startswith(b".") or stat.S_ISDIR(item.stat.st_mode) or not name.startswith(os.fsencode(prefix)):
                        continue
                    if not stat.S_ISREG(item.stat.st_mode) or not _NAME.fullmatch(os.fsdecode(name)):
                        raise foreign_object(self._path + b"/" + name)
                    found.append(Item(name.decode("ascii"), item.stat.st_size, item.stat.st_mtime))
        return sorted(found)

    def size(self, name: str) -> Optional[int]:
        with self._explained("read"):
            try:
                with Descent(self._path) as root:
                    at, last = root.parent(self._encoded(name))
                    return os.stat(last, dir_fd=at, follow_symlinks=False).st_size
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        path = self._encoded(name)
        with self._explained("written"):
            try:
                with Descent(self._path) as root:
                    at, last = root.parent(path)
                    os.unlink(last, dir_fd=at)
                    above = path.rpartition(b"/")[0]
                    with suppress(OSError):  # until one is not empty
                        while above:
                            root.forget()
                            at, last = root.parent(above)
                            os.rmdir(last, dir_fd=at)
                            above = above.rpartition(b"/")[0]
            except FileNotFoundError:
                return

    def clock(self) -> float:
        """The time that the file system gives to a new file: on a network it is the server's."""
        with self._explained("written"):
            try:
                with Descent(self._path) as root:
                    name = b".clock.%s" % os.urandom(8).hex().encode("ascii")
                    fd = os.open(name, CREATE_FLAGS, 0o600, dir_fd=root.root_fd)
                    try:
                        return os.fstat(fd).st_mtime
                    finally:
                        os.close(fd)
                        os.unlink(name, dir_fd=root.root_fd)
            except FileNotFoundError:
                return time.time()

    def tidy(self, prefix: str, before: float) -> None:
        with self._explained("written"), suppress(FileNotFoundError):
            with Descent(self._path) as root:
                for path, listing in walk(root, os.fsencode(prefix).rpartition(b"/")[0]):
                    for item in listing:
                        if item.name.startswith(b".") and stat.S_ISREG(item.stat.st_mode) and item.stat.st_mtime < before:
                            os.unlink(item.name, dir_fd=root.directory(path))

    def foreign(self) -> Optional[bytes]:
        with self._explained("read"):
            try:
                with Descent(self._path) as root:
                    names = [item.name for item in list_directory(root.root_fd) if item.name != b"lost+found" and not item.name.startswith(b".")]
            except FileNotFoundError:
                return None
        return min(names) if names else None

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """What a failed system call means to its user."""
        try:
            yield
        except OSError as error:
            raise self._explain(error, done) from error

    def _explain(self, error: OSError, done: str) -> BackupError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return BackupError(
                "The vault %s is full" % printable(self._path),
                kind="vault_full",
                field="target",
                found=printable(self._path),
                next="free space in the vault; nothing was published and the newest snapshot is untouched",
            )
        if error.errno in (errno.ENOTDIR, errno.EEXIST) and not os.path.isdir(self._path):
            place = printable(self._path)
            return TargetError("The target %s is not a directory" % place, kind="not_a_vault", field="target", found=place, next="name another directory")
        if error.errno in RUN_OUT:
            return refused_by_system(error, "using the vault %s" % printable(self._path))
        path = " (%s)" % printable(error.filename) if isinstance(error.filename, (bytes, str)) else ""
        return TargetError(
            "The vault %s cannot be %s: %s%s" % (printable(self._path), done, error.strerror or error, path),
            field="target",
            found=printable(self._path),
            next="check its owner, mode and file system; nothing was published",
        )


def check_name(name: str) -> None:
    """``UsageError`` where it can be no object's name."""
    if not _NAME.fullmatch(name):
        raise UsageError("%s is no name of an object" % printable(name), found=name, allowed=_NAME.pattern, next="report this, with what led to it")


def foreign_object(path: Union[bytes, str]) -> BackupError:
    """The error for something that lies among the objects of a history and is none."""
    return IntegrityError(
        "%s does not belong into a history" % printable(path),
        kind="foreign",
        field="history",
        found=path,
        allowed="objects of this layout only",
        next="find out who put it there and move it away",
    )
