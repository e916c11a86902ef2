# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files as one stream of records: pieces of content where a file has any, so that holes cost nothing, and an end with its size.

A record is eight bytes of offset, four of length, and so much content; a length of 0 ends the file, its offset is the file's size, or ``LOST``
where it could not be read.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from typing import TYPE_CHECKING, Iterable, Iterator, List, Optional, Sequence, Tuple

from ...errors import TargetError
from ...manifest.entry import Entry
from ...manifest.walk import CREATE_FLAGS, Descent, open_file
from .wire import PIECE, Wire

if TYPE_CHECKING:
    from ...transfer.pace import Pace

LOST = (1 << 64) - 1
_RECORD = struct.Struct(">QI")
# Any length: what is received is bounded by what the entries say.
_NO_LIMIT = 1 << 62


def pieces_of(tree: Descent, entries: Sequence[Entry]) -> Iterator[bytes]:
    """The stream of files below ``tree``, for ``Wire.send_stream``. One that cannot be read ends as ``LOST``; of one that has grown since it was
    looked at, what it had then is sent."""
    pending: List[bytes] = []
    size = 0
    for entry in entries:
        for piece in _pieces(tree, entry):
            pending.append(piece)
            size += len(piece)
            if size >= PIECE:
                yield b"".join(pending)
                pending, size = [], 0
    yield b"".join(pending)


def _pieces(tree: Descent, entry: Entry) -> Iterator[bytes]:
    try:
        parent, name = tree.parent(entry.path)
        fd, found = open_file(parent, name)
    except OSError:
        yield _RECORD.pack(LOST, 0)
        return
    try:
        total = min(found.st_size, entry.size)
        has_holes = found.st_blocks * 512 < found.st_size
        at = 0
        while at < total:
            end = total
            if has_holes:
                at, end = _next_extent(fd, at, total)
            while at < end:
                data = os.pread(fd, min(PIECE, end - at), at)
                if not data:  # cut short meanwhile
                    total = end = at
                    break
                yield _RECORD.pack(at, len(data)) + data
                at += len(data)
        yield _RECORD.pack(total, 0)
    except OSError:
        yield _RECORD.pack(LOST, 0)
    finally:
        os.close(fd)


def _next_extent(fd: int, at: int, total: int) -> Tuple[int, int]:
    """Where the next content begins and ends, from ``at`` on."""
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return start, min(total, os.lseek(fd, start, os.SEEK_HOLE))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return total, total  # nothing but a hole is left


class _Records:
    """The bytes of a stream, so many at a time."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._data = b""
        self._at = 0

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        while len(self._data) - self._at < count:
            piece = next(self._pieces, None)
            if piece is None:
                raise _broken("it ends inside a file")
            self._data = self._data[self._at :] + piece
            self._at = 0
        self._at += count
        return memoryview(self._data)[self._at - count : self._at]

    def end(self) -> None:
        """Nothing else may follow."""
        if self._at < len(self._data) or next(self._pieces, None) is not None:
            raise _broken("it goes on behind the last file")


def packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same stream, compressed."""
    packer = zlib.compressobj(1)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj()
    try:
        for piece in pieces:
            while piece:
                yield unpacker.decompress(piece, PIECE)
                piece = unpacker.unconsumed_tail
        if not unpacker.eof or unpacker.unused_data:
            raise _broken("it is cut short")
    except zlib.error as error:
        raise _broken("it is not packed as it should be") from error


def _paced(pieces: Iterator[bytes], pace: Pace) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        pace(len(piece))


def receive_files(
    wire: Wire,
    place: Descent,
    entries: Sequence[Entry],
    *,
    mode: int = 0o600,
    directory_mode: int = 0o700,
    is_packed: bool = False,
    pace: Optional[Pace] = None,
) -> None:
    """Write the files of a stream below ``place``; no one may be larger than its entry says. A ``LOST`` one is not there afterwards. ``pace``: read it
    no faster, so that the other side sends no faster either."""
    pieces = wire.receive_stream(_NO_LIMIT)
    if pace is not None:
        pieces = _paced(pieces, pace)
    records = _Records(_unpacked(pieces) if is_packed else pieces)
    for entry in entries:
        parent, name = place.parent(entry.path, create=directory_mode)
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        fd = os.open(name, CREATE_FLAGS, mode, dir_fd=parent)
        try:
            is_whole = _receive(records, fd, entry.size)
        finally:
            os.close(fd)
        if not is_whole:
            os.unlink(name, dir_fd=parent)
    records.end()


def _receive(records: _Records, fd: int, size: int) -> bool:
    """One file; whether it came whole."""
    while True:
        offset, length = _RECORD.unpack(records.take(_RECORD.size))
        if not length:
            if offset != LOST:
                if offset > size:
                    raise _broken("a file is larger than its manifest says")
                os.ftruncate(fd, offset)
            return bool(offset != LOST)
        if length > PIECE or offset + length > size:
            raise _broken("a file is larger than its manifest says")
        data = records.take(length)
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written


def _broken(what: str) -> TargetError:
    return TargetError(
        "The files that were sent are not what was asked for: %s" % what,
        kind="protocol",
        field="target",
        found=what,
        next="look at both sides' versions; run again",
    )
