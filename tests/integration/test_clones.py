# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a new tree takes over what its parent has, on real file systems: whichever way it is, the snapshots are the same, and nothing is left over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import clone
from ansible_collections.openclaw.backup.tests.integration.trees import fill, make_sparse
from ansible_collections.openclaw.backup.tests.integration.world import (
    AS_ROOT,
    NOBODY,
    World,
    can_run,
    differences,
    error_of,
    fingerprint,
    formatted,
    give,
    in_child,
    killed_at,
)
from ansible_collections.openclaw.backup.tests.torture import change, make_source

PROGRAMS = ("mkfs.btrfs", "mkfs.xfs", "mount")
WAYS = [("btrfs", "auto", "btrfs"), ("btrfs", "reflink", "reflink"), ("xfs", "reflink", "reflink"), ("xfs", "auto", "hardlink")]


def needs_disks(test: Callable[..., Any]) -> Callable[..., Any]:
    """File systems are made and mounted by root."""
    test = pytest.mark.skipif(not can_run(*PROGRAMS), reason="needs " + ", ".join(PROGRAMS))(test)
    return pytest.mark.lab(pytest.mark.skipif(not AS_ROOT, reason="only root can mount")(test))


@contextmanager
def world_on(kind: str, storage: str = "native", **disk: Any) -> Iterator[World]:
    with formatted(kind, **disk) as mounted:
        yield World.make(storage, on=str(mounted))


def subvolumes(world: World) -> int:
    disk = str(world.root.parent)
    return len(subprocess.run(["btrfs", "subvolume", "list", disk], check=True, capture_output=True).stdout.splitlines())


def assert_restored(world: World, snapshot_id: Any, name: str) -> None:
    assert world.restore(snapshot=snapshot_id, dest=world.root / name).verified
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / name))) == []
    subprocess.run(["rm", "-rf", str(world.root / name)], check=True)


def clones(world: World) -> List[str]:
    return [snapshot.receipt.clone for snapshot in reversed(world.snapshots())]


@needs_disks
@pytest.mark.parametrize("storage", ["native", "portable"])
@pytest.mark.parametrize("kind, wish, used", WAYS)
def test_every_way_makes_the_same_snapshots_and_touches_no_older_one(kind: str, wish: str, used: str, storage: str) -> None:
    luck = random.Random(7)
    with world_on(kind, storage) as world:
        world.clone = wish
        days = world.src / "days"
        make_source(days, luck)
        (world.src / "odd").mkdir()
        if kind == "xfs":  # whose links are shorter than those in there
            make_sparse(world.src / "odd" / "sparse", 3 << 20, [(1 << 20, b"island")])
            os.setxattr(world.src / "odd" / "sparse", b"user.colour", b"blue")
            os.symlink("sparse", world.src / "odd" / "link")
        else:
            fill(world.src / "odd", as_root=True)
        known: Dict[str, Any] = {}
        for number in range(4):
            result = world.backup()
            assert result.rc == 0 and result.receipt and result.snapshot_id
            assert result.receipt["clone"] == used
            assert result.receipt["linked"] > 0 or not number
            assert_restored(world, result.snapshot_id, "out")
            for snapshot_id, before in known.items():
                assert differences(before, fingerprint(world.tree(snapshot_id), inodes=True)) == []
            known[result.snapshot_id] = fingerprint(world.tree(result.snapshot_id), inodes=True)
            change(days, luck, number)
        world.check_history(count=4)
        assert kind != "btrfs" or subvolumes(world) == (4 if used == "btrfs" else 0)


@needs_disks
@pytest.mark.parametrize("storage", ["native", "portable"])
def test_a_history_that_was_begun_in_one_way_goes_on_in_another(storage: str) -> None:
    luck = random.Random(3)
    with world_on("btrfs", storage) as world:
        make_source(world.src, luck)
        for number, (wish, used) in enumerate(
            [("hardlink", "hardlink"), ("auto", "reflink"), ("auto", "btrfs"), ("hardlink", "hardlink"), ("reflink", "reflink"), ("btrfs", "reflink")]
        ):
            world.clone = wish
            result = world.backup()
            assert result.receipt and result.receipt["clone"] == used, (number, result.receipt)
            assert result.receipt["copied"] < 60, "what was taken over took no place"
            assert_restored(world, result.snapshot_id, "out")
            change(world.src, luck, number)
        world.check_history(count=6)


@needs_disks
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
@pytest.mark.parametrize("change", ["mode", "new name"])
def test_metadata_alone_copies_nothing_where_files_can_share_blocks(kind: str, change: str) -> None:
    with world_on(kind) as world:
        (world.src / "a").write_bytes(os.urandom(2 << 20))
        (world.src / "b").write_bytes(b"b")
        first = world.backup()
        if change == "mode":
            (world.src / "a").chmod(0o600)
            os.setxattr(world.src / "a", b"user.new", b"x")
        else:
            os.link(world.src / "b", world.src / "c")
        result = world.backup()
        assert result.receipt and (result.receipt["copied"], result.receipt["verified_bytes"]) == (0, 0)
        assert_restored(world, result.snapshot_id, "out")
        assert world.stored(first.snapshot_id, "a").stat().st_mode & 0o777 == 0o644
        world.check_history(count=2)


@needs_disks
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_of_a_large_file_only_the_pages_that_changed_are_written(kind: str) -> None:
    with world_on(kind) as world:
        big = world.src / "big"
        big.write_bytes(os.urandom((9 << 20) + 77))
        with open(world.src / "sparse", "wb") as stream:
            stream.write(os.urandom(1 << 20))
            stream.truncate(3 << 20)
        world.backup()
        for position, size, written in [(5 << 20, 4096, 4096), ((4 << 20) - 5, 10, 8192), ((9 << 20) + 77, 100, 177)]:
            with open(big, "r+b") as stream:
                stream.seek(position)
                stream.write(os.urandom(size))
            result = world.backup()
            assert (result.bytes_wire, result.bytes_sent) == (written, big.stat().st_size)
            assert result.receipt and result.receipt["verified_bytes"] == big.stat().st_size, "the whole result is hashed all the same"
            assert_restored(world, result.snapshot_id, "out")
        os.truncate(big, 5 << 20)
        os.truncate(world.src / "sparse", 100 << 20)
        result = world.backup()
        assert result.bytes_wire == 0
        assert world.stored(result.snapshot_id, "sparse").stat().st_blocks * 512 < 2 << 20
        assert_restored(world, result.snapshot_id, "out")
        world.check_history(count=5)


@needs_disks
@pytest.mark.parametrize("damage", ["missing", "a directory instead", "a stray file", "a stray beside the tree", "no tree", "other mode", "a link instead"])
def test_a_damaged_base_is_healed_and_hands_nothing_down(damage: str) -> None:
    with world_on("btrfs") as world:
        make_source(world.src, random.Random(1))
        first = world.backup()
        place = world.stored(first.snapshot_id, "d00")
        victim = sorted(path for path in place.rglob("f*") if path.is_file())[0]
        if damage in ("missing", "a directory instead"):
            victim.unlink()
            if damage != "missing":
                victim.mkdir()
        elif damage == "a stray file":
            (place / "stray").write_text("stray")
        elif damage == "a stray beside the tree":
            (world.tree(first.snapshot_id).parent / "stray").write_text("stray")
        elif damage == "no tree":
            world.tree(first.snapshot_id).rename(world.tree(first.snapshot_id).parent / "lost")
        elif damage == "other mode":
            place.chmod(0o777)
        else:
            subprocess.run(["rm", "-rf", str(place)], check=True)
            place.symlink_to("/etc")
        (world.src / "d00" / "new").write_text("new")
        (world.src / "d00" / victim.parent.name / "new").write_text("new")
        result = world.backup()
        assert result.rc == 0 and result.snapshot_id
        assert sorted(os.listdir(world.tree(result.snapshot_id).parent)) == ["manifest.jsonl.gz", "receipt.json", "tree"]
        assert world.verify(snapshot=result.snapshot_id, depth="full").ok
        assert_restored(world, result.snapshot_id, "out")
        assert os.listdir(world.history / "incoming") == []
        assert not os.path.exists("/etc/new")


@needs_disks
def test_damage_that_a_verification_found_is_healed_in_a_clone() -> None:
    with world_on("btrfs") as world:
        make_source(world.src, random.Random(1))
        first = world.backup()
        stored = world.stored(first.snapshot_id, "large")
        seen = stored.stat()
        with open(stored, "r+b") as stream:
            stream.write(b"rot")
        os.utime(stored, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
        assert not world.verify(depth="full").ok
        result = world.backup()
        assert result.receipt and result.receipt["clone"] == "btrfs" and result.files_sent == 1
        assert world.verify(snapshot=result.snapshot_id, depth="full").ok
        assert_restored(world, result.snapshot_id, "out")


@needs_disks
@pytest.mark.parametrize("storage", ["native", "portable"])
def test_runs_killed_at_any_instant_leave_no_subvolume_and_need_no_help(storage: str) -> None:
    luck = random.Random(5)
    with world_on("btrfs", storage) as world:
        make_source(world.src, luck)
        policy = world.policy(anomaly={"changed_percent": 0, "encrypted_percent": 0})  # of noise no one can tell
        started = time.monotonic()
        world.backup(policy=policy)
        usual = time.monotonic() - started
        killed = 0
        for number in range(12):
            change(world.src, luck, number)
            killed += killed_at(lambda: world.backup(policy=policy), usual * number / 16)
        assert killed > 3
        result = world.backup(policy=policy)
        assert result.rc == 0
        assert_restored(world, result.snapshot_id, "out")
        world.check_history()
        assert subvolumes(world) == len(world.snapshots())


@needs_disks
def test_what_a_killed_run_received_in_its_subvolume_is_not_sent_again() -> None:
    with world_on("btrfs") as world:
        make_source(world.src, random.Random(1))
        pid = os.fork()
        if pid == 0:
            os.setsid()
            world.backup(policy=world.policy(transfer={"bwlimit": "4m", "streams": 1}))
            os._exit(0)
        deadline = time.monotonic() + 20
        while len(list(world.history.glob("incoming/*/snapshot/files/**/f*"))) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        result = world.backup()
        assert result.files_sent > 500 and result.bytes_wire < result.bytes_sent - 500_000
        world.check_history(count=1)
        assert subvolumes(world) == 1
        assert_restored(world, result.snapshot_id, "out")


@needs_disks
@pytest.mark.parametrize("options", ["loop", "loop,user_subvol_rm_allowed"])
def test_an_ordinary_user_makes_and_removes_subvolumes_of_his_own(options: str) -> None:
    luck = random.Random(2)
    with formatted("btrfs", options=options) as disk:
        world = World.make("portable", on=str(disk))
        make_source(world.src, luck)
        give(world.root, NOBODY)
        for number in range(3):
            result = in_child(world.backup, uid=NOBODY)
            assert result.rc == 0 and result.receipt and result.receipt["clone"] == "btrfs"
            change(world.src, luck, number)
            give(world.src, NOBODY)
        policy = world.policy(retention={"keep_last": 1, "protect": "0s"})
        in_child(lambda: prune(policy, state_directory=str(world.state)), uid=NOBODY)
        assert len(world.snapshots()) == 1 and os.listdir(world.history / "trash") == [] and subvolumes(world) == 1
        world.check_history(count=1)


@needs_disks
def test_pruned_snapshots_are_gone_with_their_subvolumes() -> None:
    luck = random.Random(2)
    with world_on("btrfs") as world:
        make_source(world.src, luck)
        for number in range(3):
            world.backup()
            change(world.src, luck, number)
        # What a prune that was killed has left.
        world.history.joinpath("trash").mkdir(exist_ok=True)
        subprocess.run(["btrfs", "subvolume", "snapshot", str(world.tree(world.snapshots()[2].id).parent), str(world.history / "trash" / "killed")], check=True)
        prune(world.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(world.state))
        assert len(world.snapshots()) == 1 and os.listdir(world.history / "trash") == [] and subvolumes(world) == 1
        assert world.backup().rc == 0
        world.check_history(count=2)


@needs_disks
def test_what_is_mounted_over_a_snapshot_in_the_trash_is_left_alone(tmp_path: Path) -> None:
    with world_on("btrfs") as world, formatted("btrfs", size="120M") as other:
        (other / "precious").write_text("precious")
        make_source(world.src, random.Random(1))
        world.backup()
        place = world.history / "trash" / "x"
        place.mkdir(parents=True)
        subprocess.run(["mount", "--bind", str(other), str(place)], check=True)
        try:
            error = error_of(prune, world.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(world.state))
            assert "mounted" in error.message
            assert (other / "precious").read_text() == "precious"
        finally:
            subprocess.run(["umount", str(place)], check=True)


@needs_disks
def test_a_full_disk_publishes_nothing_and_the_next_run_needs_no_help() -> None:
    with world_on("btrfs", size="130M") as world, formatted("xfs", size="400M") as elsewhere:
        world.src = elsewhere / "src"
        world.src.mkdir()
        (world.src / "a").write_bytes(os.urandom(1 << 20))
        world.backup()
        (world.src / "b").write_bytes(os.urandom(200 << 20))
        error = error_of(world.backup)
        assert (error.kind, error.rc) == ("vault_full", 1)
        (world.src / "b").write_bytes(b"b")
        assert world.backup().rc == 0
        world.check_history(count=2)
        assert subvolumes(world) == 2


@needs_disks
def test_a_way_that_the_file_system_lacks_is_refused_when_it_is_asked_for() -> None:
    with world_on("xfs") as world:
        (world.src / "a").write_text("a")
        world.clone = "btrfs"
        error = error_of(world.backup)
        assert (error.kind, error.field, error.found, error.rc) == ("clone", "target.clone", "btrfs", 6)
        assert world.snapshots() == [] and os.listdir(world.history / "incoming") == []


def test_memory_has_neither_way_and_links_are_used() -> None:
    world = World.make("portable")
    try:
        (world.src / "a").write_text("a")
        world.backup()
        assert clones(world) == ["hardlink"]
        (world.src / "b").write_text("b")
        for wish in ("btrfs", "reflink"):
            world.clone = wish
            error = error_of(world.backup)
            assert (error.kind, error.field, error.found) == ("clone", "target.clone", wish) and wish in error.message
            world.check_history(count=1)
    finally:
        world.destroy()


@needs_disks
def test_a_subvolume_that_could_not_be_removed_again_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    real = clone.discard

    def refuse(dir_fd: int, name: bytes) -> None:
        real(dir_fd, name)
        if name == b"probe":
            raise PermissionError(1, "Operation not permitted")

    with world_on("btrfs") as world:
        (world.src / "a").write_text("a")
        monkeypatch.setattr(clone, "discard", refuse)
        world.backup()
        assert clones(world) == ["hardlink"]
        (world.src / "a").write_text("b")
        world.clone = "btrfs"
        error = error_of(world.backup)
        assert error.kind == "clone" and "user_subvol_rm_allowed" in error.message
