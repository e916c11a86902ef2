# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and copying the bytes of files, hashed on the way."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Callable, Optional, Tuple

_BLOCK = 1 << 18
_buffer = bytearray(_BLOCK)
_view = memoryview(_buffer)

Counted = Optional[Callable[[int], None]]


def hash_file(fd: int, count: Counted = None) -> Tuple[bytes, int]:
    """(SHA-256, bytes read) of an open file from its current position. ``count`` is told the bytes of each block."""
    digest = hashlib.sha256()
    total = 0
    while True:
        got = os.readv(fd, [_buffer])
        if not got:
            return digest.digest(), total
        digest.update(_view[:got])
        total += got
        if count is not None:
            count(got)


def copy_file(source: int, destination: int, count: Counted = None) -> Tuple[bytes, int]:
    """Copy an open file from its current position, holes as holes; (SHA-256, bytes) of what was written."""
    found = os.fstat(source)
    if found.st_blocks * 512 < found.st_size:
        return _copy_sparse(source, destination, count)
    digest = hashlib.sha256()
    total = 0
    while True:
        got = os.readv(source, [_buffer])
        if not got:
            return digest.digest(), total
        block = _view[:got]
        digest.update(block)
        _write_all(destination, block)
        total += got
        if count is not None:
            count(got)


def _write_all(fd: int, block: memoryview) -> None:
    while block:
        block = block[os.write(fd, block) :]


def _copy_sparse(source: int, destination: int, count: Counted) -> Tuple[bytes, int]:
    digest = hashlib.sha256()
    zeros = bytes(_BLOCK)
    at = 0
    while True:
        try:
            data = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = os.fstat(source).st_size
        hole = data - at
        while hole > 0:
            step = min(hole, _BLOCK)
            digest.update(zeros[:step])
            hole -= step
            if count is not None:
                count(step)
        at = max(at, data)
        os.lseek(destination, at, os.SEEK_SET)
        got = os.preadv(source, [_buffer], at)
        if not got:
            os.ftruncate(destination, at)
            return digest.digest(), at
        try:
            end = os.lseek(source, at, os.SEEK_HOLE)
        except OSError:
            end = at + got
        got = max(1, min(got, end - at))
        block = _view[:got]
        digest.update(block)
        _write_all(destination, block)
        at += got
        if count is not None:
            count(got)
