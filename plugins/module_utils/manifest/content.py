# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and copying the bytes of files, hashed on the way."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from contextlib import contextmanager
from itertools import cycle
from typing import Callable, Iterator, NamedTuple, Optional, Sequence, Tuple

from .walk import open_file

_BLOCK = 1 << 18
_WIDE = 1 << 20  # where one thread hashes what the other compares
_buffer = bytearray(_BLOCK)
_view = memoryview(_buffer)
_zeros = bytes(_BLOCK)
_PAGE = 4096  # what file systems share and copy by
# Smaller holes than this are not worth a look at the file.
SPARSE_FROM = 1 << 16

# SHA-256, bytes, and of a small file without holes the bytes themselves.
Copied = Tuple[bytes, int, Optional[bytes]]

# Of a file that grows while it is read, this much more is read than there was: a fast writer must not keep a run for ever.
_GROWTH = 64 << 20


def hash_file(fd: int, *, unless: Optional[bytes] = None, size: int = -1) -> Tuple[bytes, int]:
    """(SHA-256, bytes read) of an open file from its current position; (b"", 0) where it begins with ``unless``.

    ``size``: what ``fstat`` has just said of a file at its start; a small one that gives so much is not asked for more.
    """
    got = os.readv(fd, [_buffer])
    if unless is not None and _view[: len(unless)] == unless and got >= len(unless):
        return b"", 0
    digest = hashlib.sha256(_view[:got])
    total = got
    if got == size < _BLOCK or not got:
        return digest.digest(), total
    for block in _blocks(fd, got):
        digest.update(block)
        total += len(block)
    return digest.digest(), total


def copy_file(
    source: int,
    destination: int,
    *,
    found: Optional[os.stat_result] = None,
    at_most: Optional[int] = None,
    tell: Optional[Callable[[int], None]] = None,
) -> Tuple[bytes, int]:
    """Copy an open file from its start into an empty one, holes as holes; (SHA-256, bytes) of what was written.

    ``found``: what ``fstat`` has just said of the source; ``at_most``: what it should have; of one that has more, or gets more meanwhile, only so much
    as shows that is read. ``tell`` hears the length of each block of a file that takes several.
    """
    if found is None:
        found = os.fstat(source)
    if found.st_blocks * 512 < found.st_size:
        return _copy_sparse(source, destination, found.st_size + _GROWTH if at_most is None else min(found.st_size, at_most) + 1, tell)
    most = None if at_most is None else at_most + 1
    total = os.readv(source, [_buffer if most is None else _view[:most]])
    digest = hashlib.sha256(_view[:total])
    _write_all(destination, _view[:total])
    if total == found.st_size < _BLOCK:
        return digest.digest(), total
    for block in _blocks(source, total, most) if total else ():
        digest.update(block)
        _write_all(destination, block)
        total += len(block)
        if tell is not None:
            tell(len(block))
    return digest.digest(), total


def copy_to_prove(source: int, destination: int, found: os.stat_result) -> Copied:
    """``copy_file`` into a file that ``reads_back`` is to look at."""
    size = found.st_size
    if size < _BLOCK and found.st_blocks * 512 >= size:
        data = os.read(source, size + 1)
        if len(data) == size:
            _write_all(destination, memoryview(data))
            return hashlib.sha256(data).digest(), size, data
        os.lseek(source, 0, os.SEEK_SET)
    return (*copy_file(source, destination, found=found), None)


def reads_back(fd: int, copied: Copied) -> bool:
    """Whether a file that was just opened has the bytes that ``copy_to_prove`` gave it, which are not hashed again where they are at hand."""
    digest, size, data = copied
    return hash_file(fd) == (digest, size) if data is None else os.read(fd, size + 1) == data


class Patched(NamedTuple):
    """SHA-256 and bytes of what a file has after it was patched, all of it read or written on the way; ``written``: bytes that were other ones before."""

    digest: bytes
    size: int
    written: int


def patch_file(source: int, destination: int, *, tell: Optional[Callable[[int], None]] = None) -> Patched:
    """Make an open file, readable and writable, like another, and write only where they differ. ``tell``: as of ``copy_file``."""
    from concurrent.futures import Future, ThreadPoolExecutor

    digest = hashlib.sha256()
    at = written = 0
    with ThreadPoolExecutor(1) as thread, _reading_once(destination) as read:
        hashing: Optional[Future[None]] = None  # of one block, while it is compared and the next is read
        for block in _blocks(source, buffers=(bytearray(_WIDE), bytearray(_WIDE))):
            if hashing is not None:
                hashing.result()
            hashing = thread.submit(digest.update, block)
            size = len(block)
            other = read(at, size).ljust(size, b"\0")  # beyond its end, and a hole there stays one
            if (block.obj if size == _WIDE else bytes(block)) != other:
                for start in range(0, size, _PAGE):
                    page = block[start : start + _PAGE]
                    if page != other[start : start + _PAGE]:
                        os.lseek(destination, at + start, os.SEEK_SET)
                        _write_all(destination, page)
                        written += len(page)
            at += size
            if tell is not None:
                tell(size)
    os.ftruncate(destination, at)
    return Patched(digest.digest(), at, written)


@contextmanager
def _reading_once(fd: int) -> Iterator[Callable[[int, int], bytes]]:
    """What reads an open file at a place, ``_WIDE`` bytes at most, and past the system's memory where that can be: an old version is read this once, and
    should not push out what others read again."""
    buffer = mmap.mmap(-1, _WIDE)  # such reads want memory that begins with a page
    try:
        direct = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        direct = -1

    def read(at: int, size: int) -> bytes:
        nonlocal direct
        if direct >= 0:
            try:
                return buffer[: os.preadv(direct, [buffer], at)][:size]
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                os.close(direct)
                direct = -1
        return os.pread(fd, size, at)

    try:
        yield read
    finally:
        if direct >= 0:
            os.close(direct)


def end_of_last_line(fd: int, size: int) -> int:
    """Where the last whole line of an open file of ``size`` bytes ends; ``size`` where it has none."""
    at = size
    while at:
        start = max(0, at - _BLOCK)
        found = os.pread(fd, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return size


def _blocks(fd: int, total: int = 0, most: Optional[int] = None, buffers: Sequence[bytearray] = (_buffer,)) -> Iterator[memoryview]:
    """What is left of an open file of which ``total`` bytes were read, ``most`` bytes in all. Each block is valid until its buffer's turn comes again."""
    enough = _GROWTH
    views = cycle([memoryview(buffer) for buffer in buffers])
    while total < enough and (most is None or total < most):
        view = next(views)
        got = os.readv(fd, [view if most is None else view[: most - total]])
        if not got:
            return
        yield view[:got]
        total += got
        if enough == _GROWTH <= total:  # small files do without this call
            enough += os.fstat(fd).st_size


def _write_all(fd: int, block: memoryview) -> None:
    while block:
        block = block[os.write(fd, block) :]


def _copy_sparse(source: int, destination: int, enough: int, tell: Optional[Callable[[int], None]]) -> Tuple[bytes, int]:
    digest = hashlib.sha256()
    at = end = 0  # where the data at hand end: asked for once, because tmpfs looks at every page on the way there
    while True:
        if at >= end:
            try:
                data = os.lseek(source, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = os.fstat(source).st_size  # nothing but a hole is left
            data = min(data, enough)
            while at < data:
                step = min(data - at, _BLOCK)
                digest.update(_zeros[:step])
                at += step
        got = os.preadv(source, [_view[: enough - at]], at)
        if not got:
            os.ftruncate(destination, at)
            return digest.digest(), at
        if at >= end:
            try:
                end = os.lseek(source, at, os.SEEK_HOLE)
            except OSError:  # cut short since
                end = at + got
        block = _view[: max(1, min(got, end - at))]
        digest.update(block)
        os.lseek(destination, at, os.SEEK_SET)
        _write_all(destination, block)
        at += len(block)
        if tell is not None:
            tell(len(block))


def size_with_holes(dir_fd: int, name: bytes) -> Optional[int]:
    """What a file that has holes takes on disk; None for one without, whose blocks may be few because they are compressed."""
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    taken = found.st_blocks * 512
    if taken >= found.st_size:
        return None
    fd, found = open_file(dir_fd, name)
    try:
        return taken if os.lseek(fd, 0, os.SEEK_HOLE) < found.st_size else None
    finally:
        os.close(fd)
