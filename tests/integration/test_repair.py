# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is damaged in one vault is made whole with what another has: every byte proven, nothing else touched, whatever is killed or lies."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Set

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.replicate import ReplicateResult, replicate
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import remove_tree
from ansible_collections.openclaw.backup.plugins.module_utils.policy.target_spec import check_target
from ansible_collections.openclaw.backup.plugins.module_utils.process import lock
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Snapshot
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.target import TreeTarget

from .sshd import Away, needs_sshd
from .test_clones import needs_disks, world_on
from .test_replicate import OTHER, Second, command, damage, fill
from .trees import fill as fill_oddly
from .world import AS_ROOT, NOBODY, STORAGES, World, differences, error_of, fingerprint, give, in_child, needs_root


@pytest.fixture
def second(world: World) -> Second:
    return Second(world)


def mend(world: World, second: Second, *, dry_run: bool = False) -> ReplicateResult:
    """Repair the first vault from the second."""
    to = check_target({"url": str(world.vault), **({"storage": world.storage} if world.storage else {})}, "to")
    return replicate(second.policy(), to, state_directory=str(world.root / "mending"), repair=True, dry_run=dry_run)


def verify_all(world: World) -> Dict[str, bool]:
    return {snapshot.id: world.verify(snapshot=snapshot.id).ok for snapshot in world.snapshots()}


def trees(world: World, *, inodes: bool = False) -> Dict[str, Dict[bytes, Any]]:
    """All that the snapshots hold; in portable storage times are of no account, nor is which files share an inode."""
    found = {snapshot.id: fingerprint(world.tree(snapshot.id), inodes=inodes) for snapshot in world.snapshots()}
    if world.storage != "native":
        found = {snapshot_id: {path: (*item[:4], item[5], *item[7:]) for path, item in tree.items()} for snapshot_id, tree in found.items()}
    return found


def check_whole(world: World, before: Dict[str, Dict[bytes, Any]]) -> None:
    """Every snapshot is as it was, and counts as whole."""
    assert [differences(before[snapshot_id], tree) for snapshot_id, tree in trees(world).items()] == [[]] * len(before)
    for snapshot in world.snapshots():
        assert not snapshot.damaged and not (world.history / "snapshots" / snapshot.id / "repair").exists()
    world.check_history()


def opened(path: Path) -> Path:
    """The path, with its directory open to its owner: times are as before."""
    found = path.parent.stat()
    path.parent.chmod(0o700)
    os.utime(path.parent, ns=(found.st_atime_ns, found.st_mtime_ns))
    return path


def events(world: World, name: str) -> List[Dict[str, Any]]:
    lines = (json.loads(line) for line in (world.history / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def test_one_rotten_inode_is_repaired_in_every_snapshot_that_has_it_and_nothing_else_is_touched(world: World, second: Second) -> None:
    ids = fill(world, 3)
    second.pull()
    before, exactly, copy = trees(world), trees(world, inodes=True), fingerprint(second.vault)
    damage(world.stored(ids[0], "a"))
    assert not world.verify(snapshot=ids[0]).ok
    would = mend(world, second, dry_run=True)
    done = mend(world, second)
    assert {item["id"] for item in done.repaired} == set(ids) and all(item["whole"] and item["paths"] == 1 for item in done.repaired)
    assert (done.rc, done.changed, done.unrepaired, done.files_sent, done.bytes_sent) == (0, True, [], 1, 3000)
    assert (would.rc, would.repaired, would.bytes_sent) == (0, done.repaired, 3000)
    assert len({world.stored(snapshot_id, "a").stat().st_ino for snapshot_id in ids}) == 1, "a history that shared a file shares it still"
    for snapshot_id, tree in trees(world, inodes=True).items():
        changed = {path for path, _one, _other in differences(exactly[snapshot_id], tree)}
        assert {os.path.basename(path) for path in changed} <= {b"a"}
    assert fingerprint(second.vault) == copy
    check_whole(world, before)
    logged = events(world, "repair")
    assert {event["snapshot"] for event in logged} == set(ids) and all(event["from"] == str(second.vault) for event in logged)
    assert logged[0]["paths"] == [str(world.src / "a")]
    again = mend(world, second)
    assert not again.changed and again.rc == 0 and len(events(world, "repair")) == len(logged)


def test_long_names_of_many_damaged_files_are_cut_in_the_log(world: World, second: Second) -> None:
    deep = world.src.joinpath(*["\u0434" * 120] * 14)
    deep.mkdir(parents=True)
    for number in range(110):
        (deep / str(number)).write_text("content %d" % number)
    (only,) = fill(world, 1)
    second.pull()
    before = trees(world)
    for path in deep.iterdir():
        damage(Path(str(world.tree(only)) + str(path)))
    assert not world.verify(snapshot=only).ok
    done = mend(world, second)
    assert done.rc == 0 and done.repaired[0]["paths"] == 110
    check_whole(world, before)
    (event,) = events(world, "repair")
    assert event["count"] == 110 and len(event["paths"]) == 100
    lengths = {len(str(deep / str(number))) for number in (1, 10, 100)}
    assert {path.rpartition(" ")[2] for path in event["paths"]} == {"(%d)" % length for length in lengths}
    assert all(path.startswith(str(world.src)) and len(path) < 520 for path in event["paths"])


def test_without_being_asked_nothing_is_repaired(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    stored = Path(str(second.history / "snapshots" / only / "tree") + str(world.src / "a"))
    damage(stored)
    assert not second.target.verify(second.target.list()[0], depth="full").ok
    assert not second.pull().changed and stored.read_bytes() == b"?" * 3000


def test_a_dry_run_writes_nothing(world: World, second: Second) -> None:
    ids = fill(world, 2)
    second.pull()
    damage(world.stored(ids[0], "a"))
    world.verify(snapshot=ids[0])
    before = fingerprint(world.vault, inodes=True)
    assert mend(world, second, dry_run=True).changed
    assert fingerprint(world.vault, inodes=True) == before and not (world.root / "mending").exists()


def unlink(path: Path) -> None:
    opened(path).unlink()


def remove(path: Path) -> None:
    fd = os.open(opened(path).parent, os.O_RDONLY)
    remove_tree(fd, os.fsencode(path.name))
    os.close(fd)


def into_directory(path: Path) -> None:
    unlink(path)
    path.mkdir()
    (path / "inside").write_text("what does not belong")


def into_file(path: Path) -> None:
    remove(path)
    path.write_text("what does not belong")


def into_link(path: Path) -> None:
    unlink(path)
    path.symlink_to("/etc/passwd")


def into_fifo(path: Path) -> None:
    unlink(path)
    os.mkfifo(path)


def shorten(path: Path) -> None:
    damage(path, size=10)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def share(path: Path) -> None:
    """One file becomes another name of the file beside it, which has the same bytes."""
    unlink(path)
    os.link(path.parent / "b", path)


def mark(path: Path) -> None:
    os.setxattr(path, b"user.mark", b"x")


SPOILS = [
    ("a", damage),
    ("a", shorten),
    ("a", unlink),
    ("a", into_directory),
    ("a", into_link),
    ("a", into_fifo),
    ("empty", unlink),
    ("empty", lambda path: damage(path, size=5)),
    ("sub", remove),
    ("sub", into_file),
    ("link", unlink),
    ("link", into_link),
    ("", remove),
]
NATIVE_SPOILS = [
    ("a", touch),
    ("a", open_to_all),
    ("a", mark),
    ("twin", share),
    ("sub", mark),
    ("sub", touch),
    ("sub", open_to_all),
    ("fifo", unlink),
    ("fifo", open_to_all),
]


def make_some(world: World) -> str:
    fill(world, 1)
    (world.src / "empty").write_text("")
    shutil.copy2(world.src / "b", world.src / "twin")
    (world.src / "sub" / "deep").mkdir()
    (world.src / "sub" / "deep" / "file").write_bytes(b"deep" * 100)
    (world.src / "link").symlink_to("a")
    os.mkfifo(world.src / "fifo")
    return str(world.backup().snapshot_id)


@pytest.mark.parametrize("name, spoil", SPOILS)
def test_whatever_became_of_a_path_it_is_as_its_manifest_says_again(world: World, second: Second, name: str, spoil: Callable[[Path], None]) -> None:
    spoiled = make_some(world)
    fill(world, 1)
    second.pull()
    before = trees(world)
    spoil(world.stored(spoiled, name))
    assert not world.verify(snapshot=spoiled).ok
    would = mend(world, second, dry_run=True)
    done = mend(world, second)
    assert done.rc == 0 and done.repaired == would.repaired and all(item["whole"] for item in done.repaired), done
    check_whole(world, before)


@needs_root
@pytest.mark.parametrize("name, spoil", NATIVE_SPOILS)
def test_what_an_inode_bears_is_repaired_too(name: str, spoil: Callable[[Path], None]) -> None:
    world = World.make("native")
    try:
        test_whatever_became_of_a_path_it_is_as_its_manifest_says_again(world, Second(world), name, spoil)
    finally:
        world.destroy()


@pytest.mark.parametrize("what", ["tree", "manifest.jsonl.gz"])
def test_a_snapshot_that_lost_a_part_of_itself_gets_it_back(world: World, second: Second, what: str) -> None:
    spoiled = make_some(world)
    fill(world, 1)
    second.pull()
    before = trees(world)
    manifest = (world.history / "snapshots" / spoiled / "manifest.jsonl.gz").read_bytes()
    (world.history / "snapshots" / spoiled / what).rename(world.root / "lost")
    error_of(world.verify, snapshot=spoiled)
    done = mend(world, second)
    assert done.rc == 0 and [item["whole"] for item in done.repaired] == [True], done
    assert (world.history / "snapshots" / spoiled / "manifest.jsonl.gz").read_bytes() == manifest
    check_whole(world, before)


def test_files_that_changed_places_change_back(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    before = trees(world)
    one, other, aside = world.stored(only, "a"), world.stored(only, "b"), world.root / "aside"
    for source, destination in ((opened(one), aside), (other, one), (aside, other)):
        source.rename(destination)
    assert not world.verify().ok
    assert mend(world, second).rc == 0
    check_whole(world, before)


def test_a_vault_of_an_ordinary_user_is_repaired_by_him(portable: World) -> None:
    """Whose directories are closed to himself."""
    world, second = portable, Second(portable)
    ids: List[str] = []

    def live() -> List[str]:
        found = [make_some(world), *fill(world, 1)]
        second.pull()
        return found

    def repair() -> Any:
        damage(world.stored(ids[0], "a"))
        remove(world.stored(ids[0], "sub"))
        world.stored(ids[1], "sub").chmod(0)
        assert not any(verify_all(world).values())
        return mend(world, second)

    uid = NOBODY if AS_ROOT else None
    if AS_ROOT:
        give(world.root, NOBODY)
    ids += in_child(live, uid=uid)
    before = trees(world)
    done = in_child(repair, uid=uid)
    assert done.rc == 0, done.unrepaired
    assert [differences(before[snapshot_id], tree) for snapshot_id, tree in trees(world).items()] == [[]] * len(before)
    assert all(in_child(partial(verify_all, world), uid=uid).values())


def test_hard_links_are_what_their_manifest_says_afterwards(world: World, second: Second) -> None:
    (world.src / "one").write_bytes(b"1" * 5000)
    os.link(world.src / "one", world.src / "two")
    os.link(world.src / "one", world.src / "three")
    ids = fill(world, 2)
    second.pull()
    before = trees(world)
    damage(world.stored(ids[0], "two"))
    unlink(world.stored(ids[1], "three"))
    assert not any(verify_all(world).values())
    done = mend(world, second)
    assert done.rc == 0 and done.files_sent == 1
    check_whole(world, before)
    assert len({world.stored(snapshot_id, name).stat().st_ino for snapshot_id in ids for name in ("one", "two", "three")}) == 1


def test_what_this_vault_has_itself_is_not_fetched(world: World, second: Second) -> None:
    ids = fill(world, 2)
    second.pull()
    before = trees(world)
    unlink(world.stored(ids[0], "a"))
    assert not world.verify(snapshot=ids[0]).ok
    done = mend(world, second)
    assert (done.rc, done.files_sent, [item["id"] for item in done.repaired]) == (0, 0, ids[:1])
    check_whole(world, before)
    assert len({world.stored(snapshot_id, "a").stat().st_ino for snapshot_id in ids}) == 1


def test_what_nobody_knew_of_yet_is_found_by_the_reading_afterwards_and_repaired(world: World, second: Second) -> None:
    ids = fill(world, 2)
    second.pull()
    before = trees(world)
    damage(world.stored(ids[0], "a"))
    assert not world.verify(snapshot=ids[0]).ok
    damage(world.stored(ids[0], "b"))
    done = mend(world, second)
    assert done.rc == 0 and {(item["id"], item["paths"], item["whole"]) for item in done.repaired} == {(name, 2, True) for name in ids}
    check_whole(world, before)


@pytest.mark.parametrize("lie", [damage, shorten, unlink, into_directory, into_link, into_fifo])
def test_a_copy_that_is_damaged_in_the_same_place_repairs_nothing_and_is_named(world: World, second: Second, lie: Callable[[Path], None]) -> None:
    ids = fill(world, 2)
    second.pull()
    damage(world.stored(ids[0], "a"))
    damage(world.stored(ids[0], "b"))
    assert not world.verify(snapshot=ids[0]).ok
    for snapshot_id in ids:
        there = Path(str(second.history / "snapshots" / snapshot_id / "tree") + str(world.src / "a"))
        if there.exists() or there.is_symlink():
            lie(there)
    inode = world.stored(ids[0], "a").stat().st_ino
    done = mend(world, second)
    assert done.rc == 7 and {item["id"] for item in done.unrepaired} == set(ids)
    assert all(item["paths"] == [str(world.src / "a")] and str(second.vault) in item["reason"] for item in done.unrepaired)
    assert all(not item["whole"] and item["paths"] == 1 for item in done.repaired) and len(done.repaired) == 2
    failure = done.failure()
    assert failure is not None and failure.kind == "unrepaired" and failure.next
    assert world.stored(ids[0], "a").read_bytes() == b"?" * 3000 and world.stored(ids[0], "a").stat().st_ino == inode
    assert world.stored(ids[0], "b").read_bytes() == (world.src / "b").read_bytes()
    assert all(snapshot.damaged and not snapshot.verified for snapshot in world.snapshots())
    assert not (world.history / "snapshots" / ids[0] / "repair").exists()


def test_damage_that_is_known_there_is_predicted(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    damage(Path(str(second.history / "snapshots" / only / "tree") + str(world.src / "a")))
    world.verify()
    second.target.verify(second.target.list()[0], depth="full")
    for dry_run in (True, False):
        done = mend(world, second, dry_run=dry_run)
        assert (done.rc, done.changed, [item["id"] for item in done.unrepaired]) == (7, False, [only])


def test_another_snapshot_of_that_name_repairs_nothing(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    world.verify()
    receipt = second.history / "snapshots" / only / "receipt.json"
    receipt.chmod(0o600)
    world.edit_json(receipt, claimed="2001-01-01T00:00:00.000Z")
    done = mend(world, second)
    assert done.rc == 7 and done.repaired == [] and [item["id"] for item in done.unrepaired] == [only]
    assert world.stored(only, "a").read_bytes() == b"?" * 3000


def test_a_manifest_of_another_snapshot_is_not_taken(world: World, second: Second) -> None:
    ids = fill(world, 2)
    second.pull()
    (world.history / "snapshots" / ids[0] / "manifest.jsonl.gz").unlink()
    there = second.history / "snapshots"
    shutil.copyfile(there / ids[1] / "manifest.jsonl.gz", there / ids[0] / "manifest.jsonl.gz")
    error_of(world.verify, snapshot=ids[0])
    done = mend(world, second)
    assert done.rc == 7 and done.repaired == [] and not (world.history / "snapshots" / ids[0] / "manifest.jsonl.gz").exists()


def test_what_the_other_vault_has_pruned_it_cannot_repair(world: World, second: Second) -> None:
    ids = fill(world, 2)
    second.pull()
    remove(second.history / "snapshots" / ids[0])
    damage(world.stored(ids[0], "changing"))
    world.verify(snapshot=ids[0])
    done = mend(world, second)
    assert done.rc == 7 and "has no such snapshot" in done.unrepaired[0]["reason"]


def test_what_no_manifest_knows_is_named_and_stays(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    opened(world.stored(only, "more")).write_text("whose is this?")
    assert not world.verify().ok
    done = mend(world, second)
    assert done.rc == 7 and done.unrepaired[0]["paths"] == [str(world.src / "more")] and world.stored(only, "more").exists()


def test_nobody_writes_to_the_history_meanwhile(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    world.verify()
    fd = lock(os.fsencode(world.history / "writer.lock"), fcntl.LOCK_EX, "A session")
    try:
        assert error_of(mend, world, second).rc == 5
    finally:
        os.close(fd)
    assert mend(world, second).rc == 0


def test_a_snapshot_counts_as_damaged_until_it_was_read_which_keeps_nobody_from_writing(world: World, second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    world.verify()
    real = TreeTarget.verify
    read = []

    def look(target: TreeTarget, snapshot: Snapshot, **options: Any) -> Any:
        os.close(lock(os.fsencode(world.history / "writer.lock"), fcntl.LOCK_EX, "The repair", patience=0))
        assert world.stored(only, "a").read_bytes() == (world.src / "a").read_bytes()
        assert world.snapshots()[0].damaged and options["depth"] == "full"
        read.append(snapshot.id)
        return real(target, snapshot, **options)

    monkeypatch.setattr(TreeTarget, "verify", look)
    assert mend(world, second).rc == 0 and read == [only] and not world.snapshots()[0].damaged


@pytest.mark.parametrize("storage", STORAGES)
def test_the_other_vault_may_store_otherwise(world: World, storage: str) -> None:
    fill_oddly(world.src, as_root=AS_ROOT)
    ids = fill(world, 2)
    second = Second(world, storage)
    second.pull()
    before = trees(world)
    shutil.rmtree(opened(world.stored(ids[0], "sub")))
    for snapshot_id in ids:
        remove(world.tree(snapshot_id) / world.src.relative_to("/"))
    assert not any(verify_all(world).values())
    done = mend(world, second)
    assert done.rc == 0, done.unrepaired
    check_whole(world, before)


@needs_sshd
@pytest.mark.parametrize("storage", STORAGES)
def test_a_copy_is_repaired_over_ssh(storage: str) -> None:
    away = Away.over(storage)
    try:
        ids = fill(away, 2)
        second = Second(away, OTHER[storage])
        second.pull()
        stored = Path(str(second.history / "snapshots" / ids[0] / "tree") + str(away.src / "a"))
        damage(stored)
        oldest = second.target.list()[-1]
        assert not second.target.verify(oldest, depth="full").ok
        to = check_target({"url": str(second.vault)}, "to")
        done = replicate(away.policy(), to, state_directory=str(second.state), repair=True)
        assert done.rc == 0 and {item["id"] for item in done.repaired} == set(ids) and done.files_sent == 1
        second.check_same()
    finally:
        away.destroy()


@needs_disks
@pytest.mark.parametrize("storage", ["native", "portable"])
@pytest.mark.parametrize("kind, wish", [("btrfs", "auto"), ("btrfs", "reflink"), ("xfs", "reflink")])
def test_every_way_of_sharing_is_repaired(kind: str, wish: str, storage: str) -> None:
    with world_on(kind, storage) as world:
        world.clone = wish
        (world.src / "large").write_bytes(os.urandom(3 << 20))
        ids = fill(world, 3)
        second = Second(world)
        second.pull()
        before = trees(world)
        for snapshot_id in ids[:2]:  # written to, each has its own
            damage(world.stored(snapshot_id, "large"))
            unlink(world.stored(snapshot_id, "a"))
        assert not world.verify(snapshot=ids[0]).ok
        done = mend(world, second)
        assert done.rc == 0 and {item["id"] for item in done.repaired} == set(ids[:2]) and done.files_sent == 0
        check_whole(world, before)
        for snapshot_id in ids:
            damage(world.stored(snapshot_id, "large"))
        assert not world.verify(snapshot=ids[1]).ok
        done = mend(world, second)
        assert done.rc == 0 and {item["id"] for item in done.repaired} == set(ids) and done.files_sent == 1
        check_whole(world, before)


STEPS = ("rename", "link", "mkdir", "fsync", "unlink", "chmod", "fchmod", "utime")


def killed_after(steps: int, function: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run ``function`` in a process that is killed when it is about to change a name or an inode for the so many-th time; whether it was."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        done = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                done += 1
                if done > steps:
                    os.killpg(0, 9)
                return real(*arguments, **options)

            return step

        for name in STEPS:
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        try:
            function()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - only the exit code counts
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def contents(world: World, name: str) -> List[bytes]:
    return [world.stored(snapshot.id, name).read_bytes() for snapshot in world.snapshots() if world.stored(snapshot.id, name).exists()]


@pytest.mark.parametrize("spoil", ["rotten", "gone"])
def test_killed_at_every_step_each_file_is_damaged_as_before_or_good_and_the_next_repair_ends_it(
    world: World, second: Second, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    make_some(world)
    ids = [snapshot.id for snapshot in world.snapshots()]
    second.pull()
    before = trees(world)
    good = (world.src / "a").read_bytes()
    steps, kills = 0, 0
    while True:
        if spoil == "rotten":
            damage(world.stored(ids[0], "a"))
            (open_to_all if world.storage == "native" else damage)(world.stored(ids[-1], "b"))
        else:
            remove(world.stored(ids[0], "sub"))
            unlink(world.stored(ids[0], "link"))
            for snapshot_id in ids:
                unlink(world.stored(snapshot_id, "a"))
        untouched: Set[bytes] = {path for path in before[ids[0]] if os.path.basename(path) in (b"changing", b"fifo", b"empty")}
        assert not world.verify(snapshot=ids[0]).ok  # what the others share of it, nobody knows yet
        was_killed = killed_after(steps, lambda: mend(world, second), monkeypatch)
        kills += was_killed
        for found in contents(world, "a"):
            assert found in (good, b"?" * 3000)
        found_now = trees(world)[ids[0]]
        for path in untouched:
            assert found_now[path] == before[ids[0]][path]
        done = mend(world, second)
        assert done.rc == 0, done.unrepaired
        check_whole(world, before)
        if not was_killed:
            break
        steps += 1 + steps // 8
    assert kills >= 10


@pytest.mark.torture
def test_a_repair_killed_at_random_instants_never_loses_a_good_byte() -> None:
    from ansible_collections.openclaw.backup.tests.torture import change, make_source

    from .world import killed_at

    luck = random.Random(int(os.environ.get("SEED", "5")))
    for storage in STORAGES:
        world = World.make(storage)
        try:
            make_source(world.src, luck)
            second = Second(world)
            for number in range(3):
                world.backup()
                change(world.src, luck, number)
            second.pull()
            before = trees(world)
            for _kill in range(max(4, int(os.environ.get("INSTANTS", "8"))) // len(STORAGES)):
                files = [path for path in world.tree(world.snapshots()[0].id).rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
                for path in luck.sample(files, 30):
                    (damage if luck.random() < 0.5 else unlink)(path)
                verify_all(world)
                killed_at(partial(mend, world, second), luck.uniform(0, 0.5))
                assert mend(world, second).rc == 0
                check_whole(world, before)
        finally:
            world.destroy()


def test_the_command_line_repairs_and_says_so(portable: World) -> None:
    second = Second(portable)
    ids = fill(portable, 2)
    assert command(second, "--to", str(second.vault))[0] == 0
    stored = Path(str(second.history / "snapshots" / ids[0] / "tree") + str(portable.src / "a"))
    damage(stored)
    assert not second.target.verify(second.target.list()[-1], depth="full").ok
    code, would = command(second, "--to", str(second.vault), "--repair", "--dry-run")
    assert code == 0 and {item["id"] for item in would["repaired"]} == set(ids) and stored.read_bytes() == b"?" * 3000
    code, done = command(second, "--to", str(second.vault), "--repair")
    assert (code, done["repaired"], done["changed"], done["unrepaired"]) == (0, would["repaired"], True, [])
    assert stored.read_bytes() == (portable.src / "a").read_bytes()


def test_no_file_of_a_snapshot_is_ever_written_to(world: World, second: Second) -> None:
    """The inode that is damaged in one snapshot may be good evidence, or another's good file."""
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    world.verify()
    kept = world.root / "evidence"
    os.link(world.stored(only, "a"), kept)
    assert mend(world, second).rc == 0
    assert kept.read_bytes() == b"?" * 3000
