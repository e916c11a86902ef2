# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hash is of the bytes that were read, and of the bytes that were written, whatever the file does meanwhile."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import threading
from pathlib import Path
from typing import Callable, Iterator, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import content
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.content import (
    copy_file,
    copy_to_prove,
    end_of_last_line,
    hash_file,
    patch_file,
    reads_back,
)

MIB = 1 << 20
BLOCK = content._BLOCK
WIDE = content._WIDE


@contextlib.contextmanager
def opened(*paths: Path) -> Iterator[Tuple[int, ...]]:
    fds = [os.open(path, os.O_RDONLY if index == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for index, path in enumerate(paths)]
    try:
        yield tuple(fds)
    finally:
        for fd in fds:
            os.close(fd)


def copy(source: Path, destination: Path) -> Tuple[bytes, int]:
    with opened(source, destination) as (one, other):
        return copy_file(one, other)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_every_byte_counts(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(random.Random(size).randbytes(size))
    expected = (hashlib.sha256(source.read_bytes()).digest(), size)
    with opened(source) as (fd,):
        assert hash_file(fd) == expected
    assert copy(source, tmp_path / "copy") == expected
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", 0),
        (b"a", 1),
        (b"\n", 1),
        (b"a\nb", 2),
        (b"a\n" + b"b" * 3 * BLOCK, 2),
        (b"a" * BLOCK + b"\n" + b"b" * BLOCK, BLOCK + 1),
        (b"x" * 2 * BLOCK, 2 * BLOCK),
    ],
)
def test_a_line_ends_where_it_ends(tmp_path: Path, content: bytes, expected: int) -> None:
    (tmp_path / "log").write_bytes(content)
    with opened(tmp_path / "log") as (fd,):
        assert end_of_last_line(fd, len(content)) == expected


def test_a_file_that_begins_as_named_is_not_hashed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"magic and more")
    for unless, expected in ((b"magic", (b"", 0)), (b"magic!", hashlib.sha256(b"magic and more").digest()), (None, hashlib.sha256(b"magic and more").digest())):
        with opened(tmp_path / "file") as (fd,):
            found = hash_file(fd, unless=unless)
            assert found == expected or found == (expected, 14)


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (4 * MIB, []),
        (4 * MIB, [(0, 4096)]),
        (4 * MIB, [(4 * MIB - 4096, 4096)]),
        (4 * MIB, [(MIB, 5000), (3 * MIB, 1)]),
        (4 * MIB + 1, [(4 * MIB, 1)]),
        (4 * MIB, [(position * 65536, 4096) for position in range(0, 64, 2)]),
        (3 * MIB + 123, [(MIB - 4096, MIB)]),
    ],
)
def test_holes_stay_holes_and_hash_as_zeros(tmp_path: Path, size: int, data: "list[Tuple[int, int]]") -> None:
    source = tmp_path / "source"
    with source.open("wb") as stream:
        stream.truncate(size)
        for position, length in data:
            stream.seek(position)
            stream.write(random.Random(position).randbytes(length))
    if blocks(source) >= size:
        pytest.skip("the file system keeps no holes")
    expected = (hashlib.sha256(source.read_bytes()).digest(), size)
    with opened(source) as (fd,):
        assert hash_file(fd) == expected
    assert copy(source, tmp_path / "copy") == expected
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert blocks(tmp_path / "copy") <= blocks(source)


def test_a_huge_hole_takes_no_room(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as stream:
        stream.truncate(200 * MIB)
        stream.write(b"start")
    digest, size = copy(source, tmp_path / "copy")
    assert size == 200 * MIB
    assert digest == hashlib.sha256(b"start" + bytes(200 * MIB - 5)).digest()
    assert blocks(tmp_path / "copy") <= 2 * MIB


def test_a_copy_is_of_the_whole_file_wherever_it_was_read_to(tmp_path: Path) -> None:
    for sparse in (False, True):
        source = tmp_path / "source"
        source.write_bytes(b"x" * 5000)
        os.truncate(source, 5000 + sparse * MIB)
        with opened(source, tmp_path / "copy") as (one, other):
            hash_file(one)
            os.lseek(one, 0, os.SEEK_SET)
            assert copy_file(one, other)[1] == source.stat().st_size
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 5000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_copy_is_proven_by_every_byte(tmp_path: Path, size: int, sparse: bool) -> None:
    source, place = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(random.Random(size).randbytes(size))
    if sparse:
        os.truncate(source, size + MIB)
    data = source.read_bytes()
    with opened(source, place) as (one, other):
        copied = copy_to_prove(one, other, os.fstat(one))
    assert copied[:2] == (hashlib.sha256(data).digest(), len(data))
    wrong = [data[:-1], data[:-1] + bytes([data[-1] ^ 1]), bytes([data[0] ^ 1]) + data[1:]] if data else []
    for found, is_right in [(data, True), (data + b"x", False), *((item, False) for item in wrong)]:
        place.write_bytes(found)
        with opened(place) as (fd,):
            assert reads_back(fd, copied) is is_right


@pytest.mark.parametrize("size", [0, 3000, 7000, 3 * BLOCK])
def test_a_copy_to_prove_is_of_what_a_file_has_become(tmp_path: Path, size: int) -> None:
    source, place = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"x" * 5000)
    found = source.stat()
    source.write_bytes(b"y" * size)
    with opened(source, place) as (one, other):
        copied = copy_to_prove(one, other, found)
    assert place.read_bytes() == source.read_bytes() and copied[:2] == (hashlib.sha256(b"y" * size).digest(), size)
    with opened(place) as (fd,):
        assert reads_back(fd, copied)


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_said_is_what_was_written_while_the_file_grows_and_shrinks(tmp_path: Path, sparse: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * MIB)
    if sparse:
        os.truncate(source, 3 * MIB)
    fd = os.open(source, os.O_RDWR)
    dice = random.Random(5)

    def disturb() -> None:
        how = dice.randrange(3)
        if how == 0:
            os.pwrite(fd, dice.randbytes(5000), dice.randrange(2 * MIB))
        elif how == 1:
            os.ftruncate(fd, dice.randrange(4 * MIB))
        else:
            os.lseek(fd, 0, os.SEEK_END)
            os.write(fd, b"more" * 1000)

    with meanwhile(disturb):
        for _ in range(60):
            digest, size = copy(source, tmp_path / "copy")
            kept = (tmp_path / "copy").read_bytes()
            assert (hashlib.sha256(kept).digest(), len(kept)) == (digest, size)
    os.close(fd)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_file_that_grows_for_ever_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparse: bool) -> None:
    monkeypatch.setattr(content, "_GROWTH", 2 * MIB)
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3 * MIB)
    if sparse:
        os.truncate(source, 5 * MIB)
    start = source.stat().st_size
    writer = os.open(source, os.O_WRONLY | os.O_APPEND)

    def growing(read: Callable[..., int]) -> Callable[..., int]:
        def grow(*arguments: object) -> int:
            os.write(writer, b"y" * BLOCK)
            return read(*arguments)

        return grow

    monkeypatch.setattr(os, "readv", growing(os.readv))
    monkeypatch.setattr(os, "preadv", growing(os.preadv))
    with opened(source) as (fd,):
        assert start < hash_file(fd)[1] < start + 10 * MIB
    before = source.stat().st_size
    digest, size = copy(source, tmp_path / "copy")
    assert before < size < before + 10 * MIB
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).digest() == digest
    os.close(writer)


def test_a_hole_that_opens_while_a_file_is_copied_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 4096)
    os.truncate(source, MIB)
    real = os.preadv

    def stretch(fd: int, buffers: "list[memoryview]", offset: int) -> int:
        os.truncate(source, 1 << 40)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", stretch)
    digest, size = copy(source, tmp_path / "copy")
    assert size <= MIB + content._GROWTH
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).digest() == digest


def test_a_file_without_a_size_is_read_to_its_end(tmp_path: Path) -> None:
    # Files that the kernel makes up say that they are empty.
    source = Path("/proc/self/limits")
    with opened(source, tmp_path / "copy") as (one, other):
        assert os.fstat(one).st_size == 0
        size = copy_file(one, other)[1]
    assert size == len((tmp_path / "copy").read_bytes()) > 100
    with opened(source) as (fd,):
        assert hash_file(fd)[1] == size


@pytest.mark.parametrize("old, new", [(0, 3 * WIDE), (3 * WIDE, 0), (2 * WIDE + 5, 2 * WIDE + 9), (WIDE, 3 * WIDE - 4097), (3 * WIDE, WIDE + 1)])
def test_a_patched_file_is_like_the_new_one_and_only_pages_that_differ_are_written(tmp_path: Path, old: int, new: int) -> None:
    luck = random.Random(old + new)
    before = luck.randbytes(old)
    after = bytearray((before + luck.randbytes(max(0, new - old)))[:new])
    for at in range(7, min(old, new), 100_000):
        after[at] ^= 1
    (tmp_path / "new").write_bytes(after)
    (tmp_path / "old").write_bytes(before)
    source, destination = os.open(tmp_path / "new", os.O_RDONLY), os.open(tmp_path / "old", os.O_RDWR)
    try:
        digest, size, written = patch_file(source, destination)
    finally:
        os.close(source)
        os.close(destination)
    assert (tmp_path / "old").read_bytes() == after
    assert (digest, size) == (hashlib.sha256(after).digest(), new)
    padded = before.ljust(new, b"\0")
    pages = [at for at in range(0, new, 4096) if padded[at : at + 4096][: new - at] != after[at : at + 4096]]
    assert written == sum(min(4096, new - at) for at in pages)


@pytest.mark.parametrize("refused", ["open", "preadv"])
def test_where_a_file_cannot_be_read_past_memory_it_is_read_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    known = getattr(os, refused)

    def refuse(what: object, how: object, *more: object, **others: object) -> object:
        if refused == "preadv" or (isinstance(how, int) and how & os.O_DIRECT):
            raise OSError(errno.EINVAL, "Invalid argument")
        return known(what, how, *more, **others)

    (tmp_path / "new").write_bytes(random.Random(1).randbytes(WIDE) + b"a" * 5000)
    (tmp_path / "old").write_bytes(random.Random(1).randbytes(WIDE) + b"b" * 5000)
    with open(tmp_path / "new", "rb") as source, open(tmp_path / "old", "r+b") as destination:
        monkeypatch.setattr(os, refused, refuse)
        assert patch_file(source.fileno(), destination.fileno()).written == 5000
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()


def test_holes_of_both_versions_stay_holes_in_a_patched_file(tmp_path: Path) -> None:
    for name, size in (("new", 9 * MIB), ("old", 5 * MIB)):
        with open(tmp_path / name, "wb") as stream:
            stream.write(name.encode())
            stream.truncate(size)
    with open(tmp_path / "new", "rb") as source, open(tmp_path / "old", "r+b") as destination:
        assert patch_file(source.fileno(), destination.fileno()).written == 4096
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()
    assert (tmp_path / "old").stat().st_blocks * 512 < MIB
