# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was fetched for a restore alone is taken where that can be, and copied elsewhere; either way nothing but the right bytes gets to its place."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.comparison import state_of
from ansible_collections.openclaw.backup.plugins.module_utils.action.placement import Failed, Placer
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import Descent

MTIME = 1_600_000_000_000_000_000


class Restore:
    """A directory with what was fetched, ``fetched``, and one to restore to, ``dest``."""

    def __init__(self, fetched: Path, dest: Path) -> None:
        self.fetched = fetched
        self.dest = dest
        self.entries: List[Entry] = []

    def fetch(self, name: str, data: bytes, *, promised: bytes = b"") -> Path:
        path = self.fetched / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        known = promised or data
        digest = hashlib.sha256(known).hexdigest()
        self.entries.append(Entry(os.fsencode(name), "f", 0o640, os.geteuid(), os.getegid(), MTIME, len(known), digest))
        (self.dest / name).parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, *, is_own: bool = True, replaced: Any = frozenset()) -> "tuple[Placer, List[Failed]]":
        with Descent(os.fsencode(self.fetched)) as tree, Descent(os.fsencode(self.dest)) as root:
            placer = Placer(root, None, replaced, True)
            return placer, placer.write_files(tree, self.entries, lambda files, size: None, is_own=is_own)


@pytest.fixture
def restore(tmp_path: Path) -> Restore:
    for name in ("fetched", "dest"):
        (tmp_path / name).mkdir()
    return Restore(tmp_path / "fetched", tmp_path / "dest")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory in another file system."""
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs memory that is mounted")
    with tempfile.TemporaryDirectory(prefix="openclaw-backup-test-", dir="/dev/shm") as directory:
        yield Path(directory)


def check(restore: Restore, placer: Placer, name: str, data: bytes) -> os.stat_result:
    """The file is in its place, with its metadata, and proven as it is."""
    found = os.stat(restore.dest / name)
    assert (restore.dest / name).read_bytes() == data
    assert (found.st_mode & 0o7777, found.st_mtime_ns, found.st_nlink) == (0o640, MTIME, 1)
    assert placer.proven[os.fsencode(name)] == state_of(found)
    assert [path.name for path in (restore.dest / name).parent.iterdir()] == [Path(name).name]
    return found


def test_what_is_its_own_is_taken(restore: Restore) -> None:
    inode = restore.fetch("a/b", b"content").stat().st_ino
    placer, failed = restore.write()
    assert not failed and check(restore, placer, "a/b", b"content").st_ino == inode
    assert not (restore.fetched / "a/b").exists()


def test_holes_stay(restore: Restore) -> None:
    path = restore.fetch("a/b", bytes(1 << 20))
    path.unlink()
    with open(path, "wb") as stream:
        stream.truncate(1 << 20)
    placer, failed = restore.write()
    assert not failed and check(restore, placer, "a/b", bytes(1 << 20)).st_blocks == 0


def test_what_is_the_vaults_is_copied(restore: Restore) -> None:
    path = restore.fetch("a/b", b"content")
    placer, failed = restore.write(is_own=False)
    assert not failed and check(restore, placer, "a/b", b"content").st_ino != path.stat().st_ino


def test_another_file_system_gets_a_copy(restore: Restore, elsewhere: Path) -> None:
    restore.dest = elsewhere
    path = restore.fetch("a/b", b"content")
    placer, failed = restore.write()
    assert not failed and path.exists()
    check(restore, placer, "a/b", b"content")


def test_a_file_with_another_name_is_copied(restore: Restore) -> None:
    path = restore.fetch("a/b", b"content")
    os.link(path, restore.fetched / "other")
    placer, failed = restore.write()
    assert not failed and check(restore, placer, "a/b", b"content").st_ino != path.stat().st_ino


def test_where_files_bear_labels_they_are_copied(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = restore.fetch("a/b", b"content")
    inode = path.stat().st_ino
    known = os.listxattr
    monkeypatch.setattr(os, "listxattr", lambda at, **how: ["security.selinux"] if os.path.isdir(at) else known(at, **how))
    placer, failed = restore.write()
    assert not failed and check(restore, placer, "a/b", b"content").st_ino != inode


@pytest.mark.parametrize("data", [b"", b"contenu", b"content and more"])
def test_other_bytes_than_the_manifests_get_nowhere(restore: Restore, data: bytes) -> None:
    restore.fetch("a/b", data, promised=b"content")
    (restore.dest / "a/b").write_bytes(b"before")
    _placer, failed = restore.write(replaced={b"a/b"})
    assert failed == [Failed(b"a/b", "")]
    assert (restore.dest / "a/b").read_bytes() == b"before" and len(list((restore.dest / "a").iterdir())) == 1


@pytest.mark.parametrize("step", ["link", "rename"])
def test_what_is_written_to_before_it_was_proven_is_not(restore: Restore, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    restore.fetch("a/b", b"content")
    if step == "rename":
        (restore.dest / "a/b").write_bytes(b"before")
    known = getattr(os, step)

    def meddle(old: bytes, new: bytes, **where: Any) -> None:
        known(old, new, **where)
        if new == b"b":
            (restore.dest / "a/b").write_bytes(b"CONTENT")

    monkeypatch.setattr(os, step, meddle)
    placer, failed = restore.write(replaced={b"a/b"} if step == "rename" else set())
    assert not failed and (restore.dest / "a/b").read_bytes() == b"CONTENT" and not placer.proven


def test_what_is_its_own_has_its_attributes_when_it_is_seen(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    restore.fetch("a/b", b"content")
    known = os.link
    seen = []

    def look(old: bytes, new: bytes, **where: Any) -> None:
        known(old, new, **where)
        found = os.stat(new, dir_fd=where["dst_dir_fd"])
        seen.append((new, found.st_mode & 0o7777, found.st_mtime_ns))

    monkeypatch.setattr(os, "link", look)
    placer, failed = restore.write()
    assert not failed and seen == [(b"b", 0o640, MTIME)]
    check(restore, placer, "a/b", b"content")


def test_what_came_into_its_place_meanwhile_gives_way(restore: Restore) -> None:
    restore.fetch("a/b", b"content")
    (restore.dest / "a/b").write_bytes(b"from somebody")
    placer, failed = restore.write()
    assert not failed
    check(restore, placer, "a/b", b"content")
