# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The byte store on a directory: whole objects or none, private, and never through a link."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, IntegrityError, TargetError, UsageError
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.store import DirectoryStore


def put(store: DirectoryStore, name: str, data: bytes, *, only_if_absent: bool = False) -> bool:
    return store.put(name, data, hashlib.sha256(data).digest(), only_if_absent=only_if_absent)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(str(tmp_path / "store"))


def test_an_object_comes_back_whole_and_in_parts(store: DirectoryStore) -> None:
    assert store.get("a/b") is None and store.size("a/b") is None and store.list("") == [] and store.foreign() is None
    assert put(store, "a/b", b"0123456789")
    assert store.get("a/b") == b"0123456789" and store.size("a/b") == 10
    assert store.get("a/b", 3, 4) == b"3456" and store.get("a/b", 8, 10) == b"89" and store.get("a/b", 20, 1) == b""


def test_whoever_is_first_stays(store: DirectoryStore) -> None:
    assert put(store, "n", b"one", only_if_absent=True)
    assert not put(store, "n", b"two", only_if_absent=True)
    assert store.get("n") == b"one"
    assert put(store, "n", b"three") and store.get("n") == b"three"
    assert os.listdir(store.url) == ["n"]


def test_objects_are_private_whatever_the_umask(store: DirectoryStore) -> None:
    before = os.umask(0)
    try:
        put(store, "a/b", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(store.url + "/a/b").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(store.url + "/a").st_mode) == 0o700 == stat.S_IMODE(os.stat(store.url).st_mode)


def test_what_does_not_have_its_checksum_is_not_stored(store: DirectoryStore) -> None:
    with pytest.raises(IntegrityError):
        store.put("n", b"other", hashlib.sha256(b"data").digest())
    assert store.get("n") is None


def test_a_list_has_what_begins_with_the_prefix_in_order(store: DirectoryStore) -> None:
    for name in ("p/2", "p/1", "p/10", "q/1", "p-/1"):
        put(store, name, b"x" * len(name))
    assert [item.name for item in store.list("p/")] == ["p/1", "p/10", "p/2"]
    assert [item.name for item in store.list("p/1")] == ["p/1", "p/10"]
    assert [item.size for item in store.list("q/")] == [3]
    assert abs(store.list("q/")[0].at - store.clock()) < 60


def test_a_deleted_object_leaves_no_empty_directory(store: DirectoryStore) -> None:
    put(store, "a/b/c", b"x")
    put(store, "a/d", b"x")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert os.listdir(store.url + "/a") == ["d"]


def test_what_a_killed_upload_left_is_no_object_and_goes(store: DirectoryStore) -> None:
    put(store, "a/b", b"x")
    left = Path(store.url) / "a" / ".b.0123"
    left.write_bytes(b"half")
    assert [item.name for item in store.list("a/")] == ["a/b"]
    store.tidy("a/", store.clock() - 60)
    assert left.exists()
    store.tidy("a/", store.clock() + 60)
    assert not left.exists() and store.get("a/b") == b"x"


def test_a_link_on_the_way_is_not_followed(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    put(store, "n", b"x")
    (Path(store.url) / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(BackupError):
        put(store, "a/b", b"x")
    assert list((tmp_path / "outside").iterdir()) == []
    (tmp_path / "secret").write_text("secret")
    (Path(store.url) / "l").symlink_to(tmp_path / "secret")
    with pytest.raises(BackupError):
        store.get("l")
    with pytest.raises(IntegrityError, match="does not belong"):
        store.list("l")


@pytest.mark.parametrize("name", ["", "/a", "a/", "../a", "a/../b", ".a", "a//b", "ä", "a\n", "a" * 300])
def test_a_name_that_leads_elsewhere_is_refused(store: DirectoryStore, name: str) -> None:
    with pytest.raises(UsageError):
        put(store, name, b"x")


def test_a_place_that_is_no_directory_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DirectoryStore(str(tmp_path / "file"))
    for verb in (lambda: put(store, "n", b"x"), lambda: store.get("n"), lambda: store.list("n/"), lambda: store.size("n"), store.foreign, store.clock):
        with pytest.raises(TargetError, match="not a directory") as caught:
            verb()
        assert caught.value.next


def test_a_full_disk_leaves_nothing_behind(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "n", b"x")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError) as caught:
        put(store, "m", b"x")
    assert caught.value.kind == "vault_full"
    assert os.listdir(store.url) == ["n"]
