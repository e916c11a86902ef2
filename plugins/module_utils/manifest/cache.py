# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hash cache: what the last scan saw and hashed, one record a directory, so that an unchanged directory is one comparison of bytes.

A cache holds no truth of its own: a lost, torn or foreign one only makes the next run slow.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import AbstractSet, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from .walk import CREATE_FLAGS, FILE_FLAGS

_MAGIC = b"openclaw-backup cache 2\n"
# content digest of the manifest that this cache was written with (32 zero bytes: none), records
_HEAD = struct.Struct("<32sI")
# lengths of path and names, number of names, when the oldest of its hashes was made (s since the epoch)
_RECORD = struct.Struct("<IIIQ")
_CRC = struct.Struct("<I")

# mode, uid, gid, size, mtime ns, ctime ns, inode, device number of a device file, links. Directories bear no size and no links.
ROW = struct.Struct("<IIIqqqQQI")
SLOT = 32

# Flags of one name.
RACY = 1  # changed so shortly before it was hashed that a later change may show the same stat
XATTRS = 2  # has extended attributes or ACLs
DATABASE = 4  # its slot is the hash of a capture
SIDECAR = 8  # a part of the database beside it, and no entry of its own

# A write in the same clock tick, or through a mapping, can leave a stat as it was.
RACY_SECONDS = 60
# File systems whose ctime or inode numbers are not kept reliably are hashed anew every day.
VOLATILE_SECONDS = 86400


class Record(NamedTuple):
    """One directory: its selected names (sorted, NUL-joined), their packed rows, flags (1 byte each) and SHA-256 slots (32 bytes each)."""

    path: bytes
    names: bytes
    rows: bytes
    flags: bytes
    slots: bytes
    hashed_at: int

    def split_names(self) -> List[bytes]:
        """The names as a list."""
        return self.names.split(b"\0") if self.names else []

    def has(self, flag: int) -> bool:
        """Whether a name in it bears ``flag``."""
        return any(marks & flag for marks in self.flags.translate(None, b"\0"))

    @property
    def entries(self) -> int:
        """How many of its names are entries of a manifest."""
        return len(self.flags) - self.flags.count(SIDECAR)

    def by_name(self) -> Dict[bytes, Tuple[bytes, int, bytes]]:
        """(row, flags, slot) of each name."""
        return {
            name: (self.rows[i * ROW.size : (i + 1) * ROW.size], self.flags[i], self.slots[i * SLOT : (i + 1) * SLOT])
            for i, name in enumerate(self.split_names())
        }


class Cache:
    """The records of one policy, keyed by directory. Empty where there is none."""

    def __init__(self) -> None:
        self.content_digest = ""
        self._offsets: Dict[bytes, int] = {}
        self._data: "mmap.mmap | bytes" = b""

    def __len__(self) -> int:
        return len(self._offsets)

    @classmethod
    def load(cls, path: bytes) -> Cache:
        """Read a cache file; an unusable one is an empty cache."""
        cache = cls()
        try:
            fd = os.open(path, FILE_FLAGS)
        except OSError:
            return cache
        try:
            size = os.fstat(fd).st_size
            if size < len(_MAGIC) + _HEAD.size + _CRC.size:
                return cache
            data = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return cache
        finally:
            os.close(fd)
        with memoryview(data) as view:
            body = size - _CRC.size
            if view[: len(_MAGIC)] != _MAGIC or zlib.crc32(view[:body]) != _CRC.unpack_from(view, body)[0]:
                return cache
        digest, records = _HEAD.unpack_from(data, len(_MAGIC))
        at = len(_MAGIC) + _HEAD.size
        offsets = {}
        try:
            for _ in range(records):
                path_length, names_length, count, _hashed_at = _RECORD.unpack_from(data, at)
                start = at + _RECORD.size
                offsets[data[start : start + path_length]] = at
                at = start + path_length + names_length + count * (ROW.size + 1 + SLOT)
        except struct.error:
            return cache
        if at != body:
            return cache
        cache._data, cache._offsets = data, offsets
        cache.content_digest = digest.hex() if any(digest) else ""
        return cache

    def paths(self) -> AbstractSet[bytes]:
        """The directories that it knows."""
        return self._offsets.keys()

    def get(self, path: bytes) -> Optional[Record]:
        """The record of directory ``path``, or None."""
        at = self._offsets.get(path)
        if at is None:
            return None
        path_length, names_length, count, hashed_at = _RECORD.unpack_from(self._data, at)
        data = self._data
        names = at + _RECORD.size + path_length
        rows = names + names_length
        flags = rows + count * ROW.size
        slots = flags + count
        return Record(path, data[names:rows], data[rows:flags], data[flags:slots], data[slots : slots + count * SLOT], hashed_at)


def write_cache(path: bytes, records: Iterable[Record], *, content_digest: str) -> None:
    """Replace the cache file at once. ``content_digest`` is empty where the records do not stand for one whole manifest."""
    temporary = path + b".new"
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    ordered = sorted(records)
    crc = 0
    with open(os.open(temporary, CREATE_FLAGS, 0o600), "wb", buffering=1 << 20) as stream:
        for piece in _pieces(ordered, bytes.fromhex(content_digest) or bytes(32)):
            crc = zlib.crc32(piece, crc)
            stream.write(piece)
        stream.write(_CRC.pack(crc))
    os.rename(temporary, path)


def _pieces(records: List[Record], digest: bytes) -> Iterator[bytes]:
    yield _MAGIC + _HEAD.pack(digest, len(records))
    for record in records:
        yield _RECORD.pack(len(record.path), len(record.names), len(record.flags), record.hashed_at)
        yield record.path + record.names + record.rows + record.flags + record.slots
