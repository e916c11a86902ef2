# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cache that is not whole is no cache: it may cost time, never a change."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.cache import (
    DATABASE,
    RACY,
    ROW,
    SIDECAR,
    SLOT,
    XATTRS,
    Cache,
    Record,
    write_cache,
)
from hypothesis import given, settings
from hypothesis import strategies as st

DIGEST = "ab" * 32


def record(path: bytes, *names: bytes, flags: int = 0, hashed_at: int = 1_700_000_000) -> Record:
    rows = b"".join(ROW.pack(stat.S_IFREG | 0o644, 1, 2, index, -5, 1 << 60, 99, 7, 1) for index, _name in enumerate(names))
    return Record(path, b"\0".join(names), rows, bytes([flags]) * len(names), b"".join(bytes([index]) * SLOT for index, _ in enumerate(names)), hashed_at)


RECORDS = [
    record(b""),
    record(b"a", b"\n", b"x" * 255, b"\xff"),
    record(b"a/b", b"one", flags=XATTRS),
    record(b"a\xff", b"one", b"two", flags=RACY | XATTRS, hashed_at=0),
]


@pytest.fixture
def path(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path / "cache.bin")


def is_empty(cache: Cache) -> bool:
    return len(cache) == 0 and cache.content_digest == "" and cache.get(b"a") is None


def test_what_was_written_is_read(path: bytes) -> None:
    write_cache(path, RECORDS[::-1], content_digest=DIGEST)
    cache = Cache.load(path)
    assert (len(cache), cache.content_digest) == (4, DIGEST)
    for expected in RECORDS:
        assert cache.get(expected.path) == expected
    for absent in (b"b", b"a/", b"a/b/one", b"x"):
        assert cache.get(absent) is None
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(os.path.dirname(path)) == [b"cache.bin"]


def test_a_record_gives_each_name_its_own(path: bytes) -> None:
    one = RECORDS[1]
    assert one.split_names() == [b"\n", b"x" * 255, b"\xff"]
    assert one.by_name()[b"\xff"] == (one.rows[2 * ROW.size :], 0, b"\2" * SLOT)
    assert RECORDS[0].split_names() == []
    assert RECORDS[0].by_name() == {}
    assert [(item.has(RACY), item.has(XATTRS)) for item in RECORDS] == [(False, False), (False, False), (False, True), (True, True)]
    assert record(b"x", b"y", flags=RACY).has(RACY)
    assert not record(b"x", b"y", flags=RACY).has(XATTRS)
    mixed = one._replace(flags=bytes([0, RACY, XATTRS]))
    assert (mixed.has(RACY), mixed.has(XATTRS), mixed.entries) == (True, True, 3)
    assert one._replace(flags=bytes([DATABASE, SIDECAR, DATABASE | RACY])).entries == 2


def test_a_cache_that_stands_for_no_manifest_proves_nothing(path: bytes) -> None:
    write_cache(path, RECORDS, content_digest="")
    cache = Cache.load(path)
    assert (len(cache), cache.content_digest) == (4, "")
    write_cache(path, [], content_digest=DIGEST)
    assert (len(Cache.load(path)), Cache.load(path).content_digest) == (0, DIGEST)


def test_a_cache_cut_at_any_length_is_empty(path: bytes) -> None:
    write_cache(path, RECORDS, content_digest=DIGEST)
    data = Path(os.fsdecode(path)).read_bytes()
    for length in range(len(data)):
        Path(os.fsdecode(path)).write_bytes(data[:length])
        assert is_empty(Cache.load(path)), length
    for more in (b"\0", data[-4:], data):
        Path(os.fsdecode(path)).write_bytes(data + more)
        assert is_empty(Cache.load(path))


def test_a_cache_with_any_bit_flipped_is_empty(path: bytes) -> None:
    write_cache(path, RECORDS[2:3], content_digest=DIGEST)
    data = bytearray(Path(os.fsdecode(path)).read_bytes())
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            Path(os.fsdecode(path)).write_bytes(data)
            assert is_empty(Cache.load(path)), (position, bit)
            data[position] ^= 1 << bit
    Path(os.fsdecode(path)).write_bytes(data)
    assert len(Cache.load(path)) == 1


def test_a_page_of_zeros_or_of_something_else_makes_it_empty(path: bytes) -> None:
    many = [record(b"%04d" % number, *(b"name%d" % index for index in range(9))) for number in range(200)]
    write_cache(path, many, content_digest=DIGEST)
    data = Path(os.fsdecode(path)).read_bytes()
    for start in range(0, len(data), 4096):
        for page in (bytes(4096), os.urandom(4096)):
            Path(os.fsdecode(path)).write_bytes((data[:start] + page + data[start + 4096 :])[: len(data)])
            assert is_empty(Cache.load(path))


@settings(max_examples=200)
@given(st.data())
def test_a_forged_cache_never_breaks_a_run(data: st.DataObject) -> None:
    # The checksum is right and the lengths are not: a foreign file, or another version's.
    import tempfile

    head = b"openclaw-backup cache 1\n" + bytes(32)
    count = data.draw(st.integers(0, 5) | st.integers(0, (1 << 32) - 1))
    number = st.integers(0, 40) | st.integers(0, (1 << 32) - 1)
    records = b"".join(
        struct.pack("<IIIQ", data.draw(number), data.draw(number), data.draw(number), 1) + data.draw(st.binary(max_size=150))
        for _ in range(data.draw(st.integers(0, 3)))
    )
    body = head + struct.pack("<I", count) + records
    with tempfile.NamedTemporaryFile() as file:
        file.write(body + struct.pack("<I", zlib.crc32(body)))
        file.flush()
        cache = Cache.load(os.fsencode(file.name))
        for path in (b"", b"a"):
            cache.get(path)


@pytest.mark.parametrize("kind", ["missing", "empty", "directory", "FIFO", "link", "text", "below a file"])
def test_what_is_no_cache_is_empty_and_never_waited_for(path: bytes, kind: str) -> None:
    if kind == "empty":
        Path(os.fsdecode(path)).touch()
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link":
        write_cache(path + b".real", RECORDS, content_digest=DIGEST)
        os.symlink(path + b".real", path)
    elif kind == "text":
        Path(os.fsdecode(path)).write_text("openclaw-backup cache 2\n" * 9)
    elif kind == "below a file":
        Path(os.fsdecode(path)).touch()
        path += b"/x"
    before = len(os.listdir("/proc/self/fd"))
    assert is_empty(Cache.load(path))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_cache_in_use_is_not_disturbed_by_the_next_one(path: bytes) -> None:
    write_cache(path, RECORDS, content_digest=DIGEST)
    old = Cache.load(path)
    write_cache(path, [record(b"a", b"other")], content_digest="cd" * 32)
    assert old.get(b"a") == RECORDS[1]
    assert Cache.load(path).content_digest == "cd" * 32


def test_a_crash_while_writing_leaves_the_old_cache_and_the_next_run_cleans_up(path: bytes) -> None:
    write_cache(path, RECORDS, content_digest=DIGEST)

    def dies() -> Iterator[Record]:
        yield RECORDS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(path, dies(), content_digest=DIGEST)
    Path(os.fsdecode(path + b".new")).write_bytes(b"half of a cache")
    assert Cache.load(path).content_digest == DIGEST
    write_cache(path, RECORDS[:1], content_digest=DIGEST)
    assert len(Cache.load(path)) == 1
    assert os.listdir(os.path.dirname(path)) == [b"cache.bin"]


def test_a_link_in_the_place_of_the_new_file_is_not_written_through(path: bytes, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.symlink(victim, path + b".new")
    write_cache(path, RECORDS, content_digest=DIGEST)
    assert victim.read_bytes() == b"precious"
    assert len(Cache.load(path)) == 4


PATHS = st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b"")), unique=True, max_size=6)
NAMES = st.lists(st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"\0", b"1").replace(b"/", b"2")), unique=True, max_size=5)


@given(st.lists(NAMES, max_size=6), PATHS, st.integers(0, 3), st.integers(0, (1 << 64) - 1))
def test_every_record_survives_its_file(names: List[List[bytes]], paths: List[bytes], flags: int, hashed_at: int) -> None:
    import tempfile

    records = [record(path, *sorted(some), flags=flags, hashed_at=hashed_at) for path, some in zip(paths, names)]
    with tempfile.TemporaryDirectory() as directory:
        path = os.fsencode(directory) + b"/cache"
        write_cache(path, records, content_digest=DIGEST)
        cache = Cache.load(path)
        assert len(cache) == len(records)
        assert [cache.get(item.path) for item in records] == records
