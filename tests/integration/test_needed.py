# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container comes up with its files whatever of it was lost, a restore that was broken off is finished before anything is backed up, and nothing that was
here is lost by either."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.needed import NeededResult, restore_if_needed
from ansible_collections.openclaw.backup.plugins.module_utils.action.placement import Placer
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

from .sshd import Away
from .test_mirror import Local
from .world import Packed, World, differences, error_of, fingerprint, needs_root


def needed(world: World, policy: "Policy | None" = None, **options: Any) -> NeededResult:
    return restore_if_needed(policy or world.policy(), **{"state_directory": str(world.state), **options})


def fill(src: Path) -> None:
    (src / "openclaw.json").write_text("{}")
    (src / "workspace").mkdir()
    for number in range(30):
        (src / "workspace" / ("note %d" % number)).write_text("note %d" % number * 50)


@pytest.fixture
def world(portable: World) -> World:
    fill(portable.src)
    portable.backup()
    return portable


@pytest.fixture(params=[World.make, Packed.make, Away.over, lambda _storage: Local.here()], ids=["tree", "pack", "ssh", "mirror"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[World]:
    made = request.param("portable")
    if isinstance(made, Local):
        (made.src / "clawd").mkdir()
        (made.src / ".openclaw").mkdir()
    fill(made.src / ".openclaw" if isinstance(made, Local) else made.src)
    made.backup()
    yield made
    made.destroy()


def broken_off(world: World, monkeypatch: pytest.MonkeyPatch, after: int, **request: Any) -> None:
    """Restore, and be gone after so many files."""
    whole = Placer._write_file
    left = [after]

    def write(self: Placer, *arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Placer, "_write_file", write)
        with pytest.raises(KeyboardInterrupt):
            world.restore(confirm=True, **request)


def test_a_new_container_finds_its_history_wherever_that_is(anywhere: World) -> None:
    before = fingerprint(anywhere.src, times=False)
    shutil.rmtree(anywhere.src)
    shutil.rmtree(anywhere.state)
    done = needed(anywhere)
    assert (done.rc, done.needed, done.undo) == (0, "empty", None)
    assert fingerprint(anywhere.src, times=False) == before
    assert needed(anywhere).needed is None
    assert not anywhere.backup().changed
    assert status(anywhere.policy(), state_directory=str(anywhere.state))["snapshots"] == 1


def test_the_first_start_of_all_needs_nothing(portable: World) -> None:
    done = needed(portable)
    assert (done.rc, done.needed, done.changed) == (0, None, False)


def test_what_an_image_brought_gives_way_and_is_kept(world: World) -> None:
    shutil.rmtree(world.state)
    (world.src / "openclaw.json").write_text('{"from": "the image"}')
    os.utime(world.src / "openclaw.json", (1, 1))
    done = needed(world)
    assert (done.rc, done.needed) == (3, "unknown")
    assert (world.src / "openclaw.json").read_text() == "{}"
    assert done.undo is not None and Path(done.undo + str(world.src) + "/openclaw.json").read_text() == '{"from": "the image"}'
    assert not world.backup().changed


def test_whoever_adopts_keeps_what_is_here(world: World) -> None:
    shutil.rmtree(world.state)
    (world.src / "openclaw.json").write_text('{"newer": true}')
    world.adopt()
    assert needed(world).needed is None
    assert world.backup().modified == 1


def test_a_key_file_that_is_missing_comes_back_and_one_that_nobody_has_does_not(world: World) -> None:
    key = world.src / "openclaw.json"
    policy = world.policy(guards={"require": [str(key), str(world.src / "never"), str(world.root / "mounted")]})
    assert needed(world, policy).needed is None
    key.unlink()
    done = needed(world, policy)
    assert done.needed == "missing" and key.read_text() == "{}"


def test_a_source_of_several_that_is_gone_comes_back(world: World) -> None:
    other = world.root / "other"
    other.mkdir()
    (other / "skill").write_text("s")
    policy = world.policy(sources=[str(world.src), str(other)])
    world.backup(policy=policy)
    shutil.rmtree(other)
    assert needed(world, policy).needed == "missing"
    assert (other / "skill").read_text() == "s"


def test_where_nothing_changed_a_machine_takes_what_another_made_of_it(world: World) -> None:
    there = world.root / "there"
    assert world.restore(confirm=True, state_directory=str(there)).rc == 0
    (world.src / "workspace" / "note 0").unlink()
    (world.src / "workspace" / "new").write_text("new")
    world.backup(state_directory=str(there))
    after = fingerprint(world.src, times=False)
    world.restore(snapshot=world.snapshots()[1].id, delete=True, confirm=True, state_directory=str(world.root / "onlooker"))
    done = needed(world)
    assert done.needed == "newer" and done.kept == 1
    assert differences(fingerprint(world.src, times=False), after) == []


def test_where_something_changed_it_is_told_of_the_other_and_nothing_is_touched(world: World) -> None:
    there = world.root / "there"
    world.restore(confirm=True, state_directory=str(there))
    (world.src / "workspace" / "theirs").write_text("theirs")
    world.backup(state_directory=str(there))
    (world.src / "workspace" / "theirs").unlink()
    (world.src / "workspace" / "mine").write_text("mine")
    before = fingerprint(world.src)
    error = error_of(needed, world)
    assert (error.rc, error.kind) == (4, "writer")
    assert fingerprint(world.src) == before and len(world.snapshots()) == 2


def test_a_lost_acknowledgement_is_no_other_machine(world: World) -> None:
    (world.src / "openclaw.json").write_text("changed")
    baseline = next((world.state / "h" / "p").glob("targets/*/baseline.json"))
    old = baseline.read_bytes()
    world.backup()
    baseline.write_bytes(old)
    receipts = baseline.with_name("receipts.json")
    receipts.unlink()
    newest = world.snapshots()[0]
    pending = baseline.with_name("pending.json")
    pending.write_text('{"tx": "%s", "parent": "%s", "digest": "%s"}' % (newest.receipt.tx, newest.receipt.parent, newest.receipt.digest))
    assert needed(world).needed is None
    assert not world.backup().changed and not pending.exists()


@pytest.mark.parametrize("after", [0, 7, 29])
def test_a_restore_that_was_broken_off_is_finished_before_anything_is_backed_up(world: World, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    before = fingerprint(world.src, times=False)
    shutil.rmtree(world.src / "workspace")
    (world.src / "openclaw.json").write_text("another")
    broken_off(world, monkeypatch, after)
    found = status(world.policy(), state_directory=str(world.state))
    snapshot = world.snapshots()[0].id
    assert found["restoring"]["snapshot"] == snapshot and found["rc"] == 3
    assert "a restore of snapshot %s was not finished" % snapshot in found["problems"][0]
    for dry_run in (False, True):
        error = error_of(world.backup, dry_run=dry_run)
        assert (error.rc, error.kind) == (4, "restore_unfinished")
    assert len(world.snapshots()) == 1
    done = needed(world)
    assert done.needed == "unfinished" and fingerprint(world.src, times=False) == before
    assert status(world.policy(), state_directory=str(world.state))["restoring"] is None
    assert world.backup().rc == 0


def test_one_of_an_older_snapshot_is_finished_as_that_also_when_it_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.src / "workspace" / "later").write_text("later")
    world.backup()
    old = world.snapshots()[1].id
    shutil.rmtree(world.src / "workspace")
    broken_off(world, monkeypatch, 3, snapshot=old, delete=True)
    done = needed(world)
    assert done.snapshot_id == old and not (world.src / "workspace" / "later").exists()
    shutil.rmtree(world.src / "workspace")
    broken_off(world, monkeypatch, 3, snapshot=old)
    shutil.rmtree(world.history / "snapshots" / old)
    done = needed(world)
    assert (done.needed, done.snapshot_id) == ("unfinished", world.snapshots()[0].id)
    assert (world.src / "workspace" / "later").exists()


@pytest.mark.parametrize("way", ["adopt", "run --adopt", "the same restore"])
def test_who_decides_otherwise_ends_the_wait(world: World, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    (world.src / "workspace" / "note 1").write_text("other")
    (world.src / "openclaw.json").write_text("another")
    broken_off(world, monkeypatch, 1)
    if way == "adopt":
        assert world.adopt()["changed"]
    elif way == "run --adopt":
        assert world.backup(adopt=True).changed
    else:
        world.restore(confirm=True)
    assert world.backup().rc == 0


def test_what_is_damaged_for_good_is_told_once_and_the_next_backup_heals(world: World) -> None:
    stored = world.stored(world.snapshots()[0].id, "workspace/note 3")
    stored.chmod(0o600)
    stored.write_text("rot")
    shutil.rmtree(world.src)
    error = error_of(needed, world)
    assert error.rc == 7 and "the next backup goes on from what is here" in str(error)
    assert (world.src / "workspace" / "note 5").exists() and not (world.src / "workspace" / "note 3").exists()
    assert needed(world).needed is None
    (world.src / "workspace" / "note 3").write_text("note 3" * 50)
    assert world.backup().rc == 0
    dest = world.root / "dest"
    assert world.restore(dest=dest).rc == 0 and (world.restored(dest) / "workspace" / "note 3").read_text() == "note 3" * 50


@needs_root
def test_a_file_that_another_has_mounted_there_does_not_hold_up_backups_nor_roll_files_back(world: World) -> None:
    config = world.src / "openclaw.json"
    mounted = world.root / "mounted.json"
    mounted.write_text('{"from": "a config map"}')
    os.utime(mounted, (1, 1))
    if subprocess.run(["mount", "--bind", str(mounted), str(config)], check=False).returncode:
        pytest.skip("this machine allows no bind mounts")
    try:
        shutil.rmtree(world.state)
        done = needed(world)
        assert (done.rc, done.needed) == (3, "unknown") and "Device or resource busy" in done.warnings[0]
        (world.src / "workspace" / "note 1").write_text("work of the day")
        assert world.backup().modified == 2
        assert needed(world).needed is None
        assert (world.src / "workspace" / "note 1").read_text() == "work of the day"
    finally:
        subprocess.run(["umount", str(config)], check=True)


def test_what_is_newer_than_the_snapshot_is_not_replaced_where_the_state_was_lost(world: World) -> None:
    note = world.src / "workspace" / "note 1"
    note.write_text("written since")
    (world.src / "workspace" / "note 2").unlink()
    shutil.rmtree(world.state)
    before = fingerprint(world.src)
    for dry_run in (True, False):
        error = error_of(needed, world, dry_run=dry_run)
        assert (error.rc, error.kind, error.found) == (4, "newer", str(note))
        assert "adopt POLICY" in str(error) and "--undo DIR" in str(error)
    assert fingerprint(world.src) == before
    kept = world.root / "kept"
    assert needed(world, undo=str(kept)).needed == "unknown"
    assert Path(str(kept) + str(note)).read_text() == "written since" and not world.backup().changed


def test_a_journal_that_is_newer_than_the_snapshot_is_not_lost_with_its_database(world: World) -> None:
    database = world.src / "a.db"
    database.write_bytes(b"no database")
    world.backup()
    database.write_bytes(b"another one")
    os.utime(database, (1, 1))
    (world.src / "a.db-wal").write_text("written since")
    shutil.rmtree(world.state)
    assert error_of(needed, world).kind == "newer"


@pytest.mark.parametrize("what", ["missing", "emptied"])
def test_only_what_is_gone_comes_back_and_nothing_newer_is_touched(world: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    other = world.root / "other"
    other.mkdir()
    for number in range(5):
        (other / ("skill %d" % number)).write_text("s")
    policy = world.policy(sources=[str(world.src), str(other)])
    world.backup(policy=policy)
    (world.src / "openclaw.json").write_text("newer than the last snapshot")
    shutil.rmtree(other)
    if what == "emptied":
        other.mkdir()
    broken_off(world, monkeypatch, 2, policy=policy, paths=(str(other),))
    assert error_of(world.backup, policy=policy).kind == "restore_unfinished"
    assert needed(world, policy).needed == "unfinished" and len(os.listdir(other)) == 5
    shutil.rmtree(other)
    if what == "emptied":
        other.mkdir()
    done = needed(world, policy)
    assert (done.rc, done.needed, done.kept) == (0, "missing", 0) and len(os.listdir(other)) == 5
    assert (world.src / "openclaw.json").read_text() == "newer than the last snapshot"
    assert world.backup(policy=policy).modified == 1


def test_a_source_that_was_empty_in_the_snapshot_too_needs_nothing(world: World) -> None:
    other = world.root / "other"
    other.mkdir()
    policy = world.policy(sources=[str(world.src), str(other)])
    world.backup(policy=policy)
    assert needed(world, policy).needed is None


def test_no_other_policy_of_the_host_backs_a_mixture_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = world.root / "other"
    other.mkdir()
    (other / "skill").write_text("s")
    beside = world.policy(name="q", sources=[str(world.src / "workspace")])
    apart = world.policy(name="r", sources=[str(other)])
    (world.src / "workspace" / "note 1").write_text("other")
    (world.src / "openclaw.json").write_text("another")
    broken_off(world, monkeypatch, 1)
    error = error_of(world.backup, policy=beside)
    assert (error.rc, error.kind) == (4, "restore_unfinished") and "restore p --if-needed" in str(error)
    assert world.backup(policy=apart).rc == 0
    needed(world)
    assert world.backup(policy=beside).rc == 0


def test_a_target_out_of_reach_does_not_stop_a_machine_that_has_all_it_needs(world: World) -> None:
    world.vault.rename(world.root / "away")
    world.vault.write_text("not a directory")
    done = needed(world)
    assert (done.rc, done.needed) == (3, None) and "is not known" in done.warnings[0]
    shutil.rmtree(world.src)
    assert error_of(needed, world).rc == 6
    world.vault.unlink()
    assert error_of(needed, world).kind == "history_lost"
    assert not world.src.exists()


@needs_root
def test_a_disk_that_is_too_small_costs_nothing_but_time(world: World) -> None:
    (world.src / "large").write_bytes(os.urandom(3 << 20))
    world.backup()
    shutil.rmtree(world.src)
    world.src.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(world.src)], check=True)
    try:
        error = error_of(needed, world)
        assert error.kind == "no_space" and re.search(r"3\d{6} bytes are to be restored, and \d{1,7} are free at %s$" % world.src, error.next or ""), error.next
        assert error_of(world.backup).kind == "restore_unfinished"
        assert status(world.policy(), state_directory=str(world.state))["restoring"] is not None
        subprocess.run(["mount", "-o", "remount,size=9m", str(world.src)], check=True)
        assert needed(world).needed == "unfinished" and (world.src / "large").stat().st_size == 3 << 20
    finally:
        subprocess.run(["umount", str(world.src)], check=True)
    assert len(world.snapshots()) == 2


def test_a_copy_serves_where_the_first_target_does_not(world: World) -> None:
    copy = world.root / "copy"
    shutil.copytree(world.vault, copy, symlinks=True)
    shutil.rmtree(world.vault)
    world.vault.write_text("not a directory")
    shutil.rmtree(world.src)
    shutil.rmtree(world.state)
    done = needed(world, world.policy(copies=[str(copy)]))
    assert (done.rc, done.needed) == (3, "empty") and len(os.listdir(world.src / "workspace")) == 30


@pytest.fixture
def copied(world: World) -> Policy:
    """The policy with a copy of all that there is."""
    shutil.copytree(world.vault, world.root / "copy", symlinks=True)
    return world.policy(copies=[str(world.root / "copy")])


def test_a_vault_that_was_out_of_reach_is_gone_on_with_when_it_is_back(world: World, copied: Policy) -> None:
    world.vault.rename(world.root / "away")
    world.vault.write_text("not a directory")
    shutil.rmtree(world.src)
    shutil.rmtree(world.state)
    assert needed(world, copied).needed == "empty"
    (world.src / "new").write_text("new")
    assert needed(world, copied).needed is None
    world.vault.unlink()
    (world.root / "away").rename(world.vault)
    assert needed(world, copied).needed is None
    assert world.backup(policy=copied).added == 1


def test_help_from_a_copy_is_a_baseline_for_the_vault_that_needed_it(world: World, copied: Policy) -> None:
    stored = world.stored(world.snapshots()[0].id, "workspace/note 3")
    stored.chmod(0o600)
    stored.write_text("rot")
    shutil.rmtree(world.src)
    shutil.rmtree(world.state)
    assert needed(world, copied).needed == "empty" and len(os.listdir(world.src / "workspace")) == 30
    (world.src / "new").write_text("new")
    assert needed(world, copied).needed is None
    assert world.backup(policy=copied).added == 1


@pytest.mark.parametrize("keeps_state", [False, True])
def test_a_vault_that_came_up_empty_is_not_the_first_start_of_all(world: World, copied: Policy, keeps_state: bool) -> None:
    before = fingerprint(world.src, times=False)
    shutil.rmtree(world.vault)
    world.vault.mkdir()
    shutil.rmtree(world.src)
    if not keeps_state:
        shutil.rmtree(world.state)
    assert needed(world, copied).needed == "empty" and fingerprint(world.src, times=False) == before
    (world.src / "openclaw.json").write_text("changed since")
    assert needed(world, copied).needed is None
    assert (world.src / "openclaw.json").read_text() == "changed since"
    if keeps_state:
        assert error_of(world.backup, policy=copied).kind == "history_lost"


@pytest.mark.parametrize("make", [World.make, Away.over], ids=["tree", "ssh"])
def test_who_has_no_manifest_of_the_newest_is_told_of_the_way_on(make: Callable[[str], World]) -> None:
    world = make("portable")
    try:
        fill(world.src)
        world.backup()
        copy = world.root / "copy"
        shutil.copytree(world.vault, copy, symlinks=True)
        policy = world.policy(copies=[str(copy)])
        (world.src / "more").write_text("x")
        world.backup(policy=policy)
        newest, older = (snapshot.id for snapshot in world.snapshots())
        manifest = world.history / "snapshots" / newest / "manifest.jsonl.gz"
        manifest.chmod(0o600)
        manifest.write_bytes(b"rubbish")
        shutil.rmtree(world.src)
        shutil.rmtree(world.state)
        error = error_of(needed, world, policy)
        assert error.rc == 7 and "its newest is %s: restore that with --snapshot %s" % (older, older) in str(error)
        assert world.restore(policy=policy, snapshot=older, confirm=True).files_restored == 31
        assert error_of(world.backup, policy=policy).kind == "restore_first"
        assert "run POLICY --adopt" in str(error_of(world.adopt))
        done = world.backup(policy=policy, adopt=True)
        assert (done.rc, done.added, done.files_sent) == (3, done.entries, 31) and "everything is sent" in done.warnings[0]
        assert world.verify(snapshot=done.snapshot_id, depth="full").ok
        assert not world.backup(policy=policy).changed
    finally:
        world.destroy()


def test_where_only_a_copy_could_say_whether_there_is_a_history_it_has_to(portable: World) -> None:
    copy = portable.root / "copy"
    policy = portable.policy(copies=[str(copy)])
    assert needed(portable, policy).needed is None
    copy.write_text("not a directory")
    assert error_of(needed, portable, policy).rc == 6


def test_a_prediction_touches_nothing(world: World) -> None:
    shutil.rmtree(world.src)
    shutil.rmtree(world.state)
    done = needed(world, dry_run=True)
    assert done.needed == "empty" and done.files_restored == 31
    assert not world.src.exists() and not world.state.exists()
