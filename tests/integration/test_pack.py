# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealed packs in a directory: the whole way of a backup and back, and what becomes of those who come in between."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, IntegrityError, RefusedError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target import portions as portions_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import sealing
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import session as session_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import store as store_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.keys import read_key
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.making import PackMaker
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.reader import PackReader
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.store import DirectoryStore
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.target import MARK, PackTarget

from .world import Packed, World, assert_same, error_of, fingerprint, killed_at

DAY = 86400


@pytest.fixture
def packed() -> Iterator[Packed]:
    made = Packed.make()
    assert isinstance(made, Packed)
    yield made
    made.destroy()


def plant(packed: Packed, count: int = 5) -> None:
    for number in range(count):
        (packed.src / ("file%d" % number)).write_bytes(b"content %d" % number * 50)


def target_of(packed: Packed, *, is_conditional: bool = True, with_key: bool = True) -> PackTarget:
    key = (lambda: read_key(str(packed.key))) if with_key else None
    return PackTarget(DirectoryStore(str(packed.vault), is_conditional=is_conditional), "h", "p", key)


def keep(packed: Packed, *ids: Any) -> int:
    """Remove all snapshots but these; bytes freed."""
    return packed.target.remove(lambda snapshots: {snapshot.id: "test" for snapshot in snapshots if snapshot.id not in ids})


def comes_back(packed: Packed, snapshot: Any = "latest") -> Path:
    dest = packed.root / ("back-%s" % os.urandom(4).hex())
    assert packed.restore(dest=dest, snapshot=str(snapshot)).verified
    return packed.restored(dest)


def age(paths: List[Path], seconds: int) -> None:
    for path in paths:
        found = path.stat()
        os.utime(path, (found.st_atime, found.st_mtime - seconds))


# ---- there and back ------------------------------------------------------------------------------------------------------


def test_a_snapshot_comes_back_as_it_was_and_nothing_is_sent_twice(packed: Packed) -> None:
    (packed.src / "small").write_bytes(b"content")
    (packed.src / "empty").write_bytes(b"")
    (packed.src / "large").write_bytes(os.urandom(9 << 20))
    (packed.src / "again").write_bytes(b"content")
    (packed.src / "dir").mkdir()
    os.link(packed.src / "small", packed.src / "dir" / "linked")
    first = packed.backup()
    assert first.changed and first.files_sent == 2
    assert_same(packed.src, comes_back(packed))
    (packed.src / "small").write_bytes(b"other")
    os.rename(packed.src / "large", packed.src / "dir" / "moved")
    second = packed.backup()
    assert (second.files_sent, second.bytes_sent) == (1, 5)
    assert_same(packed.src, comes_back(packed))
    packed.check_history(count=2)


def test_of_a_large_file_only_the_blocks_that_changed_are_sent(packed: Packed) -> None:
    (packed.src / "db").write_bytes(os.urandom(40 << 20))
    packed.backup()
    with open(packed.src / "db", "r+b") as stream:
        stream.seek(17 << 20)
        stream.write(os.urandom(4096))
    assert 4096 <= packed.backup().bytes_wire <= 5 << 20
    assert_same(packed.src, comes_back(packed))


def test_packs_end_at_their_size_and_a_file_may_lie_in_several(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "PACK", 6 << 20)
    (packed.src / "large").write_bytes(os.urandom(21 << 20))
    plant(packed)
    packed.backup()
    assert len(packed.objects("packs")) >= 4
    assert_same(packed.src, comes_back(packed))
    packed.check_history(count=1)


@pytest.mark.parametrize("portion", [1, 3_000_000, 5_000_000])
def test_no_pack_is_asked_for_in_two_portions(packed: Packed, monkeypatch: pytest.MonkeyPatch, portion: int) -> None:
    monkeypatch.setattr(session_module, "PACK", 2 << 20)
    monkeypatch.setattr(portions_module, "_PORTION", portion)
    monkeypatch.setattr(store_module, "PIECE", 1 << 30)
    monkeypatch.setattr(pool, "available_cpus", lambda: 1)
    for number in range(40):
        (packed.src / ("file%02d" % (number * 7 % 40))).write_bytes(os.urandom(300_000))
    (packed.src / "again").write_bytes((packed.src / "file07").read_bytes())
    (packed.src / "empty").touch()
    packed.backup()
    asked: List[str] = []
    get = DirectoryStore.get
    monkeypatch.setattr(DirectoryStore, "get", lambda store, name, *span: (asked.append(name), get(store, name, *span))[1])
    monkeypatch.setattr(DirectoryStore, "requests", property(lambda store: {}))  # as if each cost something
    assert_same(packed.src, comes_back(packed))
    packs = [name for name in asked if "/packs/" in name]
    assert len(packs) == len(packed.objects("packs")) > 5 or portion == 1


@pytest.mark.parametrize("order", ["as they lie", "each twice", "backwards", "by chance"])
def test_blobs_are_read_in_any_order_and_those_in_theirs_as_they_come(packed: Packed, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr(session_module, "PACK", 2 << 20)
    contents = {hashlib.sha256(data).hexdigest(): data for data in (os.urandom(300_000) for _number in range(40))}
    for digest, data in contents.items():
        (packed.src / digest).write_bytes(data)
    packed.backup()
    target = packed.target
    whole = target.opened(packed.snapshots()[0])
    places = sorted((blob, digest) for digest in contents for name, blob in whole.contents.pieces(digest) or ())
    if order == "each twice":
        places = [place for place in places for _again in range(2)]
    elif order == "backwards":
        places.reverse()
    elif order == "by chance":
        random.Random(1).shuffle(places)
    got: List[int] = []
    get, pieces = DirectoryStore.get, DirectoryStore.pieces
    monkeypatch.setattr(DirectoryStore, "pieces", lambda store, *span: (got.append(0), pieces(store, *span))[1])
    with closing(PackReader(target.repository, whole.commit.packs, (blob for blob, _digest in places))) as reader:
        for blob, digest in places:
            assert reader.read(digest, blob) == contents[digest]
    assert len(got) == (len(whole.commit.packs) if order in ("as they lie", "each twice") else 0)
    monkeypatch.setattr(DirectoryStore, "get", lambda store, name, *span: (get(store, name, *span) or b"")[:-1])
    with closing(PackReader(target.repository, whole.commit.packs, (blob for blob, _digest in places))) as reader:
        with pytest.raises(IntegrityError):
            for blob, digest in places:
                reader.read(digest, blob)


def test_holes_come_back_as_holes(packed: Packed) -> None:
    with open(packed.src / "sparse", "wb") as stream:
        stream.seek(32 << 20)
        stream.write(b"end")
    packed.backup()
    assert sum(path.stat().st_size for path in packed.objects("packs")) < 1 << 20
    back = comes_back(packed) / "sparse"
    assert back.read_bytes() == (packed.src / "sparse").read_bytes() and back.stat().st_blocks * 512 < 4 << 20


def test_a_run_without_a_change_does_not_touch_the_store(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(packed)
    packed.backup()

    def touched(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("touched")

    for verb in ("get", "put", "list", "size", "delete", "clock", "tidy", "foreign"):
        monkeypatch.setattr(DirectoryStore, verb, touched)
    assert not packed.backup(policy=packed.policy(heartbeat="1s")).changed


def test_manifests_are_differences_where_that_is_worth_it(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "FULL_UP_TO", 0)
    plant(packed, 300)
    ids = [packed.backup().snapshot_id]
    for number in range(4):
        (packed.src / "file1").write_bytes(b"changed %d" % number)
        (packed.src / ("file%d" % (200 + number))).unlink()
        ids.append(packed.backup().snapshot_id)
    sizes = [path.stat().st_size for path in packed.objects("manifests")]
    assert all(size * 2 <= sizes[0] for size in sizes[1:])
    packed.check_history(count=5)
    # The whole one goes, and what is the difference to it stays.
    packed.days_pass(1)
    keep(packed, ids[2], ids[4])
    assert [snapshot.id for snapshot in packed.snapshots()] == [ids[4], ids[2]]
    assert len(packed.objects("manifests")) == 3
    packed.check_history(count=2)
    assert_same(packed.src, comes_back(packed))
    (packed.src / "file2").write_bytes(b"and on")
    packed.backup()
    packed.check_history(count=3)


# ---- what others can see and change ----------------------------------------------------------------------------------------


def test_neither_content_nor_names_nor_the_key_stand_in_the_store(packed: Packed) -> None:
    (packed.src / "a-name-of-a-file").write_bytes(b"a content of a file")
    packed.backup()
    packed.target.hold(packed.snapshots()[0], "a reason of a hold")
    packed.verify(depth="full")
    words = [b"a-name-of", b"a content of", b"a reason of", packed.key.read_bytes().strip(), bytes.fromhex(packed.key.read_text())]
    for path in packed.vault.rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o077 == 0
        text = bytes(path) + (path.read_bytes() if path.is_file() else b"")
        assert [word for word in words if word in text] == []


def test_every_flipped_bit_is_found(packed: Packed) -> None:
    plant(packed)
    snapshot = packed.backup().snapshot_id
    source = random.Random(1)
    for path in packed.objects():
        data = path.read_bytes()
        for at in sorted(source.sample(range(len(data)), min(60, len(data)))):
            flipped = bytearray(data)
            flipped[at] ^= 1 << source.randrange(8)
            path.write_bytes(flipped)
            try:
                assert not packed.verify(snapshot=snapshot, depth="full").ok, (path, at)
            except BackupError:
                pass
        path.write_bytes(data)
        for extra in packed.objects("state"):
            extra.unlink()
    packed.check_history(count=1)


def test_damage_names_the_paths_and_the_next_run_heals_it(packed: Packed) -> None:
    (packed.src / "one").write_bytes(os.urandom(100000))
    packed.backup()
    (packed.src / "two").write_bytes(os.urandom(1000))
    packed.backup()
    pack = max(packed.objects("packs"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[5000] ^= 1
    pack.write_bytes(data)
    found = packed.verify(depth="full").to_dict()
    name = str(packed.src / "one")
    assert not found["ok"] and [item["path"] for item in found["damaged"]] == [name]
    assert not packed.verify(depth="full", part=(1, 1)).ok
    failed = packed.restore(dest=packed.root / "half")
    assert failed.rc == 7 and not (packed.restored(packed.root / "half") / "one").exists()
    assert (packed.restored(packed.root / "half") / "two").read_bytes() == (packed.src / "two").read_bytes()
    healed = packed.backup()
    assert healed.changed and healed.files_sent == 1
    assert packed.verify(depth="full").ok
    assert_same(packed.src, comes_back(packed))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_damaged_manifest_of_the_newest_snapshot_stops_no_adoption_and_no_host_that_has_its_own(packed: Packed, is_known: bool) -> None:
    plant(packed)
    packed.backup()
    (packed.src / "two").write_bytes(os.urandom(1000))
    packed.backup()
    path = packed.objects("manifests")[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    state = packed.state if is_known else packed.root / "elsewhere"
    if is_known:  # a prune keeps what it finds, so that it is healed without a change
        assert prune(packed.policy(retention={"keep_last": 2}), state_directory=str(state)).rc == 3
    else:
        assert error_of(packed.backup, state_directory=str(state)).kind == "restore_first"
    result = packed.backup(state_directory=str(state), adopt=not is_known)
    assert result.changed and result.files_sent == 6 and (result.rc == 0 if is_known else "cannot be read" in result.warnings[0])
    assert packed.verify().ok
    assert_same(packed.src, comes_back(packed))


def test_slices_read_whole_packs_and_together_all_of_them(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "PACK", 1 << 20)
    monkeypatch.setattr(pool, "available_cpus", lambda: 1)
    for number in range(24):
        (packed.src / ("file%02d" % number)).write_bytes(os.urandom(400_000))
    packed.backup()
    packs = sorted(path.name for path in packed.objects("packs"))
    asked: List[str] = []
    get = DirectoryStore.get
    monkeypatch.setattr(DirectoryStore, "get", lambda store, name, *span: (asked.append(name.rpartition("/")[2]), get(store, name, *span))[1])
    shares = []
    for number in range(1, 5):
        asked.clear()
        found = packed.verify(part=(number, 4))
        shares.append([name for name in asked if name in packs])
        assert found.ok and found.checked == packed.snapshots()[0].receipt.entries
        assert found.hashed_bytes == sum(400_000 * 2 for _pack in shares[-1]) and found.hashed_files == 2 * len(shares[-1])
    assert sorted(name for share in shares for name in share) == packs, "each is read once in four runs"
    assert packed.snapshots()[0].verified is None
    number = next(number for number, share in enumerate(shares) if share)
    damaged = next(path for path in packed.objects("packs") if path.name == shares[number][0])
    data = bytearray(damaged.read_bytes())
    data[500_000] ^= 1
    damaged.write_bytes(data)
    results = [packed.verify(part=(other + 1, 4)) for other in range(4)]
    assert [result.ok for result in results] == [other != number for other in range(4)] and results[number].rc == 7
    state = packed.snapshots()[0].damaged
    assert state is not None and len(state["paths"]) == results[number].counts["damaged"], "what the other slices found whole takes nothing back"
    assert packed.backup().changed and packed.verify().ok


def test_a_pack_that_is_gone_is_missed_by_a_quick_look_and_sent_again(packed: Packed) -> None:
    plant(packed)
    packed.backup()
    packed.objects("packs")[0].unlink()
    found = packed.verify(depth="quick")
    assert not found.ok and len(found.to_dict()["missing"]) == 5
    assert packed.backup().files_sent == 5
    assert packed.verify(depth="full").ok


def test_objects_that_changed_places_are_refused(packed: Packed) -> None:
    plant(packed)
    packed.backup()
    (packed.src / "new").write_bytes(b"new")
    packed.backup()
    one, two = packed.objects("manifests")
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    assert error_of(packed.verify, snapshot="latest").rc == 7
    one.write_bytes(data[0])
    one, two = packed.objects("packs")
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])
    assert not packed.verify(depth="quick").ok


# ---- keys and places -------------------------------------------------------------------------------------------------------


def change_key(packed: Packed, how: str) -> None:
    if how == "missing":
        packed.key.unlink()
    elif how == "short":
        packed.key.write_text("00" * 31)
    elif how == "open":
        packed.key.chmod(0o644)
    else:
        packed.key.write_text("00" * 32)


@pytest.mark.parametrize("how", ["missing", "short", "open", "wrong"])
def test_a_key_that_cannot_be_used_is_told_before_anything_is_written(packed: Packed, how: str) -> None:
    plant(packed)
    if how != "wrong":
        change_key(packed, how)
        assert error_of(packed.backup).kind == "key"
        assert not packed.vault.exists()
        packed.key.chmod(0o600) if how == "open" else packed.key.write_text("11" * 32)
        packed.key.chmod(0o600)
    packed.backup()
    before = fingerprint(packed.vault)
    change_key(packed, how)
    (packed.src / "new").write_text("new")
    for verb in (packed.backup, packed.restore, packed.verify):
        assert error_of(verb).kind == "key"
    assert fingerprint(packed.vault) == before


def test_a_policy_without_a_key_is_told_what_to_do(packed: Packed) -> None:
    plant(packed)
    policy = Policy.from_mapping({"name": "p", "host": "h", "sources": [str(packed.src)], "target": "pack://%s" % packed.vault}, default_host="h")
    error = error_of(packed.backup, policy=policy)
    assert (error.kind, error.field) == ("key", "target.key_file") and "openssl" in str(error.next)
    assert not packed.vault.exists()


def test_what_a_drill_has_proven_is_kept_with_the_snapshot(packed: Packed) -> None:
    plant(packed)
    packed.backup()
    packed.target.note_drill(packed.snapshots()[0])
    assert packed.snapshots()[0].drilled == target_of(packed, with_key=False).list()[0].drilled != None  # noqa: E711 - one comparison
    packed.check_history(count=1)


def test_a_hold_that_came_with_a_successor_outlives_it(packed: Packed) -> None:
    plant(packed, 40)
    first = packed.backup().snapshot_id
    for path in packed.src.iterdir():
        path.write_bytes(os.urandom(500))
    second = packed.backup()
    assert second.rc == 3 and "is held" in second.warnings[0]
    assert packed.objects("state") == []
    held = [snapshot.held for snapshot in packed.snapshots()]
    assert held[0] is None and held[1] is not None and "of 40 files" in held[1]["reason"]
    assert target_of(packed, with_key=False).list()[1].held is not None
    (packed.src / "file1").write_bytes(b"more")
    third = packed.backup().snapshot_id
    # Who has no key cannot say it anew, and leaves what tells of it.
    target_of(packed, with_key=False).remove(lambda snapshots: {str(second.snapshot_id): "test"})
    assert [snapshot.id for snapshot in packed.snapshots()] == [third, second.snapshot_id, first]
    keep(packed, third, first)
    assert [snapshot.id for snapshot in packed.snapshots()] == [third, first]
    assert "of 40 files" in str(packed.snapshots()[1].held)
    packed.target.hold(packed.snapshots()[1], None)
    assert packed.snapshots()[1].held is None


def test_a_hold_that_was_released_is_not_back_with_the_next_look(packed: Packed) -> None:
    plant(packed, 40)
    packed.backup()
    for path in packed.src.iterdir():
        path.write_bytes(os.urandom(500))
    packed.backup()
    packed.target.tag(packed.snapshots()[1], ["a-tag"], [])
    assert packed.snapshots()[1].held is not None
    packed.target.hold(packed.snapshots()[1], None)
    assert packed.snapshots()[1].held is None and packed.snapshots()[1].tags == ("a-tag",)


def test_a_key_can_come_from_a_program(packed: Packed) -> None:
    plant(packed)
    target: Dict[str, Any] = {"url": "pack://%s" % packed.vault, "key_command": ["cat", str(packed.key)]}
    assert packed.backup(policy=packed.policy(target=target)).changed
    packed.check_history(count=1)


def test_libraries_that_are_missing_are_named_as_debian_names_them(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    plant(packed)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    error = error_of(packed.backup)
    assert error.kind == "library" and "python3-cryptography python3-zstandard" in str(error.next)
    assert not packed.vault.exists()
    monkeypatch.undo()
    assert sealing.load_libraries()


def test_another_kind_of_place_is_left_alone(packed: Packed) -> None:
    plant(packed)
    packed.vault.mkdir()
    (packed.vault / "photo.jpg").write_text("x")
    assert error_of(packed.backup).kind == "not_a_vault"
    shutil.rmtree(packed.vault)
    plain = World(packed.root, "portable")
    if isinstance(plain, Packed) or os.environ.get("WORLD"):
        return
    plain.backup(state_directory=str(packed.root / "elsewhere"))
    before = fingerprint(packed.vault)
    error = error_of(packed.backup)
    assert error.rc == 6 or error.kind == "vault_format"
    assert fingerprint(packed.vault) == before


def test_who_begins_at_the_same_moment_is_not_taken_for_something_foreign(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(packed)
    look = DirectoryStore.foreign

    def other(store: DirectoryStore) -> Any:
        store.put(MARK[0], MARK[1], hashlib.sha256(MARK[1]).digest())
        return look(store)

    monkeypatch.setattr(DirectoryStore, "foreign", other)
    assert packed.backup().changed
    packed.check_history(count=1)


def test_a_plain_vault_is_not_made_among_packs(packed: Packed) -> None:
    plant(packed)
    packed.backup()
    before = fingerprint(packed.vault)
    policy = packed.policy(target={"url": str(packed.vault)})
    assert error_of(packed.backup, policy=policy).kind == "vault_format"
    assert fingerprint(packed.vault) == before


def test_foreign_objects_are_told_of(packed: Packed) -> None:
    plant(packed)
    packed.backup()
    (packed.history / "manifests" / "notes.txt").write_text("x")
    assert error_of(packed.verify).kind == "foreign"


# ---- removing --------------------------------------------------------------------------------------------------------------


def grow(packed: Packed, count: int) -> List[Any]:
    ids = []
    for number in range(count):
        (packed.src / "log").write_bytes(os.urandom(3000 + number))
        ids.append(packed.backup().snapshot_id)
    return ids


def test_packs_that_nothing_needs_go_with_their_snapshots(packed: Packed) -> None:
    plant(packed)
    ids = grow(packed, 4)
    assert len(packed.objects("packs")) == 4
    predicted = packed.target.weigh([snapshot for snapshot in packed.snapshots() if snapshot.id in ids[1:3]])
    assert keep(packed, ids[0], ids[3]) == predicted > 6000
    assert (len(packed.objects("packs")), len(packed.objects("manifests")), len(packed.objects("state"))) == (2, 4, 2)
    packed.days_pass(1)
    assert keep(packed, ids[0], ids[3]) > 0
    assert len(packed.objects("packs")) == 2 == len(packed.objects("manifests"))
    assert packed.objects("state") == []
    packed.check_history(count=2)


def test_without_the_key_whole_packs_can_still_be_removed(packed: Packed) -> None:
    plant(packed)
    ids = grow(packed, 3)
    packed.target.hold(packed.snapshots()[1], "why nobody here knows")
    blind = target_of(packed, with_key=False)
    found = blind.list()
    assert [snapshot.id for snapshot in found] == ids[::-1] and found[1].held and not found[0].held
    assert found[1].held["at"] == packed.snapshots()[1].held["at"]  # type: ignore[index]
    blind.remove(lambda snapshots: {ids[0]: "test"})
    packed.check_history(count=3)  # it cannot say that one which stays for its number is none any more
    packed.days_pass(1)
    blind.remove(lambda snapshots: {ids[0]: "test"})
    assert len(packed.objects("packs")) == 3  # the first one's holds what has not changed since
    packed.check_history(count=2)
    keep(packed, ids[1])  # with the key: the newest goes and stays for its number
    assert [snapshot.id for snapshot in blind.list()] == [ids[1]]
    blind.remove(lambda snapshots: {})
    packed.check_history(count=1)


def test_a_hold_in_the_middle_of_a_prune_is_seen(packed: Packed) -> None:
    plant(packed)
    ids = grow(packed, 2)

    def choose(snapshots: List[Any]) -> Dict[str, str]:
        packed.target.hold(snapshots[1], "just now")
        return {ids[0]: "test"}

    assert error_of(packed.target.remove, choose).kind == "held"
    packed.check_history(count=2)


def test_what_a_dead_session_left_stays_until_its_lease_is_over(packed: Packed) -> None:
    plant(packed)
    packed.backup()
    (packed.history / "packs" / ("ab" * 16)).write_bytes(b"orphan")
    (packed.history / "packs" / ".half.0123").write_bytes(b"half")
    keep(packed, packed.snapshots()[0].id)
    assert len(packed.objects("packs")) == 3
    age(packed.objects("packs"), DAY + 60)
    (packed.history / "leases").mkdir()
    (packed.history / "leases" / "tx-0").write_bytes(b"")
    packed.target.sweep()
    assert (packed.history / "packs" / ("ab" * 16)).exists()  # somebody is at work
    age(packed.objects("leases"), DAY + 60)
    packed.target.sweep()
    assert len(packed.objects("packs")) == 1 and packed.objects("leases") == []
    packed.check_history(count=1)


def test_the_newest_that_was_removed_keeps_its_number_and_packs_for_a_session_at_work(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(packed)
    ids = grow(packed, 2)
    keep(packed, ids[0])
    assert [snapshot.id for snapshot in packed.snapshots()] == [ids[0]]
    assert len(packed.objects("packs")) == 2 == len(packed.objects("manifests"))
    (packed.src / "new").write_text("new")
    packed.backup()
    packed.check_history(count=2)
    assert packed.snapshots()[0].receipt.sequence == 3
    keep(packed, ids[0])
    with monkeypatch.context() as patch:
        clock = DirectoryStore.clock
        patch.setattr(DirectoryStore, "clock", lambda store: clock(store) + DAY + 60)
        packed.target.sweep()
    assert [path.name for path in packed.objects("manifests")] == ["0000000001", "0000000003"], "numbers do not go back"
    assert len(packed.objects("packs")) == 1
    packed.backup(adopt=True)
    packed.check_history(count=2)
    assert packed.snapshots()[0].receipt.sequence == 4


# ---- several at once, and killed ---------------------------------------------------------------------------------------------


@pytest.mark.torture
@pytest.mark.parametrize("is_conditional", [True, False])
def test_of_two_who_commit_at_the_same_moment_exactly_one_does(packed: Packed, is_conditional: bool) -> None:
    plant(packed)
    packed.backup()
    packed.race(int(os.environ.get("RACES", "25")), lambda: target_of(packed, is_conditional=is_conditional))
    assert packed.objects("claims") == []


def test_two_hosts_that_begin_one_history_at_the_same_moment_agree_on_it(packed: Packed) -> None:
    for is_conditional in (True, False):
        start = threading.Barrier(4)
        found: List[Any] = []

        def go(tx: str, start: threading.Barrier = start, found: List[Any] = found, is_conditional: bool = is_conditional) -> None:
            target = target_of(packed, is_conditional=is_conditional)
            start.wait()
            try:
                session = target.begin(tx, None)
            except RefusedError:
                return
            found.append(session._repository.id)
            session.close()

        threads = [threading.Thread(target=go, args=("%032x" % turn,)) for turn in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        shutil.rmtree(packed.vault)


@pytest.mark.torture
def test_a_run_that_is_killed_leaves_a_whole_history_and_the_next_one_succeeds(packed: Packed) -> None:
    (packed.src / "large").write_bytes(os.urandom(12 << 20))
    packed.backup()
    source = random.Random(2)
    for number in range(int(os.environ.get("INSTANTS", "12"))):
        (packed.src / "large").write_bytes(os.urandom(12 << 20))
        (packed.src / "small").write_bytes(b"%d" % number)
        killed_at(packed.backup, source.uniform(0.0, 0.25))
        for snapshot in packed.snapshots()[:2]:
            assert packed.verify(snapshot=snapshot.id, depth="full").ok
        assert packed.backup().rc in (0, 3)
        assert_same(packed.src, comes_back(packed), rsync=False)
    assert all(packed.verify(snapshot=snapshot.id, depth="full").ok for snapshot in packed.snapshots())
    age(packed.objects(), DAY + 60)
    for path in packed.history.rglob(".*"):
        age([path], DAY + 60)
    keep(packed, packed.snapshots()[0].id)
    packed.check_history(count=1)
    assert len(packed.objects("packs")) == 1


def test_a_lost_acknowledgement_is_recognised_as_the_hosts_own(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(packed)
    packed.backup()
    (packed.src / "new").write_text("new")
    real = session_module.PackSession.commit

    def lose(self: session_module.PackSession, *arguments: Any) -> Any:
        real(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session_module.PackSession, "commit", lose)
        with pytest.raises(KeyboardInterrupt):
            packed.backup()
    result = packed.backup()
    assert not result.changed and result.rc == 0
    packed.check_history(count=2)


@pytest.mark.parametrize("verb", ["begin", "send", "seal", "publish", "put"])
def test_a_run_that_fails_on_its_way_leaves_nothing_that_counts(packed: Packed, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    plant(packed)
    packed.backup()
    before = packed.objects()
    (packed.src / "new").write_text("new")

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise OSError(5, "Input/output error")

    places: Dict[str, Any] = {
        "begin": (PackTarget, "begin"),
        "send": (PackMaker, "_take"),
        "seal": (session_module, "write_body"),
        "publish": (session_module.PackSession, "_publish"),
        "put": (DirectoryStore, "_put"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[verb], fail)
        error_of(packed.backup)
    assert packed.objects() == before
    assert packed.backup().changed
    packed.check_history(count=2)


def test_a_store_whose_clock_went_back_is_refused_and_a_little_is_not(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(packed)
    packed.backup()
    now = packed.target.store.clock()
    (packed.src / "new").write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "clock", lambda self: now - 3600)
        assert error_of(packed.backup).kind == "clock"
    monkeypatch.setattr(DirectoryStore, "clock", lambda self: now - 60)
    packed.backup()
    one, two = (snapshot.receipt.created for snapshot in packed.snapshots())
    assert one > two


def test_what_lies_in_the_way_of_the_vault_is_told_by_every_verb(packed: Packed) -> None:
    plant(packed)
    packed.backup()
    os.rename(packed.vault, packed.root / "aside")
    packed.vault.write_text("")
    (packed.src / "new").write_text("new")
    for verb in (packed.backup, packed.verify, packed.restore):
        assert error_of(verb).rc == 6


def test_encryption_of_most_changed_files_holds_the_parent(packed: Packed) -> None:
    plant(packed, 60)
    first = packed.backup()
    for number in range(45):
        (packed.src / ("file%d" % number)).write_bytes(os.urandom(500))
    result = packed.backup()
    held = packed.snapshots()[1].held
    assert held and "of 45 files" in held["reason"] and first.snapshot_id in str(result.warnings)


def test_tags_and_holds_stay_with_their_snapshot(packed: Packed) -> None:
    plant(packed)
    packed.backup(tags=["one", "two"])
    packed.target.tag(packed.snapshots()[0], ["three"], ["one"])
    packed.target.hold(packed.snapshots()[0], "why")
    grow(packed, 1)
    newest, oldest = packed.snapshots()
    assert (oldest.tags, newest.tags, newest.held) == (("three", "two"), (), None)
    assert oldest.held and oldest.held["reason"] == "why"
    packed.target.hold(oldest, None)
    assert packed.snapshots()[1].held is None
    assert {path.name for path in packed.objects("state")} == {"0000000001-00000%d" % turn for turn in (1, 2, 3)}


def test_a_store_that_is_asked_twice_finds_what_it_wrote_itself(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(packed)
    real = DirectoryStore.put

    def put(self: DirectoryStore, name: str, *arguments: Any, **options: Any) -> bool:
        stored = real(self, name, *arguments, **options)
        return real(self, name, *arguments, **options) if "/manifests/" in name else stored

    monkeypatch.setattr(DirectoryStore, "put", put)
    packed.backup()
    packed.check_history(count=1)
