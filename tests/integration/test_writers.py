# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may add to a history, and when: lost acknowledgements, vaults that went back, clones, locks, clocks, guards, and runs that only look."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import state as state_module
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import session as session_module
from ansible_collections.openclaw.backup.tests.integration.world import STORAGES, World, differences, error_of, fingerprint, in_child, remove


@pytest.fixture(params=STORAGES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World.make(request.param)
    (made.src / "sub").mkdir()
    for number in range(40):
        (made.src / "sub" / ("file %02d" % number)).write_text("content %d" % number)
    (made.src / "a").write_text("a")
    yield made
    made.destroy()


def die_at(world: World, monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    """A run in another process that ends without a word when it calls ``name``."""

    def die(*_args: Any, **_options: Any) -> None:
        os._exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, die)
        pid = os.fork()
        if pid == 0:
            try:
                world.backup()
            finally:
                os._exit(0)
        _pid, code = os.waitpid(pid, 0)
    assert os.WEXITSTATUS(code) == 9


# ---- lost acknowledgements -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False])
def test_a_lost_acknowledgement_is_recognised_as_the_hosts_own(world: World, monkeypatch: pytest.MonkeyPatch, is_first: bool) -> None:
    if not is_first:
        world.backup()
        (world.src / "a").write_text("changed")
    # Died after the snapshot was published and before the host wrote down that it was.
    die_at(world, monkeypatch, state_module.HostState, "set_baseline")
    (newest, *_older) = world.snapshots()
    assert os.listdir(world.history / "incoming") == []
    result = world.backup()
    assert (result.changed, result.rc, result.snapshot_id) == (False, 0, newest.id)
    assert [note for note in world.notes if "acknowledgement" in note]
    (world.src / "a").write_text("changed again")
    third = world.backup()
    assert third.receipt and third.receipt["parent"] == newest.id
    world.check_history(count=2 if is_first else 3)


@pytest.mark.parametrize(
    "place, name",
    [
        (session_module.TreeSession, "open"),
        (session_module.TreeSession, "send"),
        (session_module.TreeSession, "commit"),
        (session_module, "build"),
        (session_module, "prove"),
        (session_module.TreeSession, "_publish"),
        (session_module, "_sync_file_system"),
        (session_module, "sync_directory"),
        (session_module.TreeSession, "close"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_dies_anywhere_is_followed_by_one_that_succeeds(world: World, monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    for round_number in (1, 2):
        (world.src / "a").write_text("round %d" % round_number)
        die_at(world, monkeypatch, place, name)
        for snapshot in world.snapshots():
            assert world.verify(snapshot=snapshot.id).ok
        result = world.backup()
        assert result.rc == 0
        world.check_history(count=round_number)
        assert json.loads((world.state / "h" / "p" / "runs.jsonl").read_text().splitlines()[-1])["verb"] == "verify"
    assert not list((world.state / "h" / "p").glob("targets/*/pending.json"))


def test_a_change_that_was_undone_leaves_nothing_of_the_run_that_died_over_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.backup()
    before = (world.src / "a").stat()
    (world.src / "a").write_text("b")
    die_at(world, monkeypatch, session_module.TreeSession, "commit")
    assert os.listdir(world.history / "incoming")
    (world.src / "a").write_text("a")
    os.utime(world.src / "a", ns=(0, before.st_mtime_ns))
    assert not world.backup().changed
    assert os.listdir(world.history / "incoming") == []
    world.check_history(count=1)


def test_what_was_received_is_kept_and_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.src / "a").write_text("will have other bytes of equal size and time")
    stamp = (world.src / "a").stat()
    (world.src / "goes").mkdir()
    (world.src / "goes" / "file").write_text("a file in a directory")
    (world.src / "turns").write_text("a file")
    die_at(world, monkeypatch, session_module.TreeSession, "commit")
    (dead,) = (world.history / "incoming").iterdir()
    received = Path(str(dead / "files") + str(world.src))
    inode = (received / "sub" / "file 07").stat().st_ino
    (received / "sub" / "file 08").write_text("half")
    # Meanwhile the source moves on in every way that could stand in the way.
    (world.src / "a").write_text("WILL HAVE OTHER BYTES OF EQUAL SIZE AND TIME")
    os.utime(world.src / "a", ns=(0, stamp.st_mtime_ns))
    shutil.rmtree(world.src / "goes")
    (world.src / "goes").write_text("a file now")
    (world.src / "turns").unlink()
    (world.src / "turns").mkdir()
    (world.src / "turns" / "inner").write_text("inner")
    result = world.backup()
    assert result.rc == 0
    assert world.stored(result.snapshot_id, "sub/file 07").stat().st_ino == inode
    assert world.restore(dest=world.root / "out").verified
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []
    world.check_history(count=1)


def test_an_interrupted_run_keeps_what_it_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session_module.TreeSession, "commit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.backup()
    (kept,) = (world.history / "incoming").iterdir()
    assert len(list((kept / "files").rglob("file *"))) == 40
    assert world.backup().rc == 0
    world.check_history(count=1)


# ---- other writers -------------------------------------------------------------------------------------------------------


def test_a_vault_that_went_back_is_told_and_gone_on_from(world: World) -> None:
    first = world.backup()
    shutil.copytree(world.vault, world.root / "copy", symlinks=True)
    (world.src / "a").write_text("changed")
    world.backup()
    remove(world.vault)
    os.rename(world.root / "copy", world.vault)
    (world.src / "a").write_text("changed again")
    third = world.backup()
    assert third.rc == 3 and "went back" in third.warnings[0]
    assert third.receipt and (third.receipt["parent"], third.receipt["sequence"]) == (first.snapshot_id, 2)
    world.check_history(count=2)
    # The copy of it that lost everything is not taken for a new vault.
    remove(world.vault)
    (world.src / "a").write_text("changed once more")
    error = error_of(world.backup)
    assert (error.kind, error.rc) == ("history_lost", 6)
    assert not world.vault.exists()
    world.vault.mkdir()
    assert error_of(world.backup).kind == "history_lost", "an unmounted disk is an empty directory"
    assert os.listdir(world.vault) == []
    assert world.backup(adopt=True).receipt["sequence"] == 1  # type: ignore[index]
    world.check_history(count=1)


def test_a_vault_that_went_back_is_noticed_by_the_heartbeat_too(world: World) -> None:
    policy = world.policy(heartbeat="1s")
    world.backup(policy=policy)
    shutil.copytree(world.vault, world.root / "copy", symlinks=True)
    (world.src / "a").write_text("changed")
    world.backup(policy=policy)
    remove(world.vault)
    os.rename(world.root / "copy", world.vault)
    assert not world.backup(policy=policy).changed, "no network when nothing changed"
    world.edit_json(next((world.state / "h" / "p" / "targets").glob("*/heartbeat.json")), at=0)
    result = world.backup(policy=policy)
    assert result.changed and result.rc == 3
    world.check_history(count=2)


def test_a_cloned_machine_is_refused_whichever_comes_second(world: World) -> None:
    world.backup()
    clone = world.root / "state of the clone"
    shutil.copytree(world.state, clone)
    (world.src / "a").write_text("changed by the one")
    world.backup()
    (world.src / "a").write_text("changed by the other")
    error = error_of(world.backup, state_directory=str(clone))
    assert (error.kind, error.field, error.rc) == ("writer", "parent", 4)
    assert world.snapshots()[0].id in str(error.found) and "h" in str(error.next)
    assert error_of(world.backup, state_directory=str(clone), dry_run=True).kind == "writer"
    assert len(world.snapshots()) == 2
    # Told to, the clone goes on; then the first one is the stranger.
    assert world.backup(state_directory=str(clone), adopt=True).changed
    (world.src / "a").write_text("changed by the one again")
    assert error_of(world.backup).kind == "writer"
    world.check_history(count=3)


def test_a_machine_without_baseline_does_not_overwrite_its_history(world: World) -> None:
    first = world.backup()
    shutil.rmtree(world.state)
    shutil.rmtree(world.src / "sub")
    before = fingerprint(world.vault)
    for options in ({}, {"dry_run": True}, {"accept": "00000000"}):
        error = error_of(world.backup, **options)
        assert (error.kind, error.field, error.rc) == ("restore_first", "baseline", 4)
        assert error.found == first.snapshot_id and "adopt" in str(error.next)
    assert differences(before, fingerprint(world.vault)) == []
    problems = status(world.policy(), state_directory=str(world.state))["problems"]
    assert [text for text in problems if "no baseline" in text]
    adopted = world.adopt()
    assert adopted == {"changed": True, "snapshot_id": first.snapshot_id, "previous": None, "rc": 0}
    assert not world.adopt()["changed"]
    # The guards still ask.
    assert error_of(world.backup).kind == "guard"
    restored = world.restore()
    assert restored.changed and not world.backup().changed


def test_adopting_again_and_again_adds_nothing(world: World) -> None:
    first = world.backup()
    shutil.rmtree(world.state)
    result = world.backup(adopt=True)
    assert (result.changed, result.snapshot_id) == (True, first.snapshot_id), "the host took the history up"
    for _time in range(2):
        result = world.backup(adopt=True)
        assert (result.changed, result.snapshot_id) == (False, first.snapshot_id)
    (world.src / "a").write_text("changed")
    assert world.backup(adopt=True).changed
    world.check_history(count=2)


def test_there_is_nothing_to_adopt_in_an_empty_vault(world: World) -> None:
    error = error_of(world.adopt)
    assert (error.kind, error.rc) == ("no_snapshot", 4)
    assert not world.vault.exists() and not world.state.exists()


def test_two_policies_and_two_hosts_share_a_vault_and_a_state(world: World) -> None:
    world.backup()
    other = world.policy(name="q", sources=[str(world.src / "sub")])
    neighbour = world.policy(host="i")
    assert world.backup(policy=other).receipt["sequence"] == 1  # type: ignore[index]
    assert world.backup(policy=neighbour).receipt["sequence"] == 1  # type: ignore[index]
    assert sorted(os.listdir(world.vault)) == ["format.json", "h", "i"]
    assert not world.backup().changed


# ---- locks -----------------------------------------------------------------------------------------------------------------


def test_a_second_run_on_this_host_is_told(world: World) -> None:
    world.backup()
    (world.src / "a").write_text("changed")
    fd = os.open(world.state / "h" / "p" / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    error = error_of(world.backup)
    assert (error.kind, error.field, error.rc) == ("locked", "lock", 5)
    assert world.backup(dry_run=True).changed, "looking needs no lock"
    os.close(fd)
    assert world.backup().changed


@pytest.mark.parametrize("name, how", [("writer.lock", fcntl.LOCK_SH), ("lock", fcntl.LOCK_EX)])
def test_a_second_session_on_the_vault_is_told(world: World, name: str, how: int) -> None:
    world.backup()
    (world.src / "a").write_text("changed")
    fd = os.open(world.history / name, os.O_RDWR)
    fcntl.flock(fd, how)
    error = error_of(world.backup)
    assert (error.kind, error.rc) == ("locked", 5)
    os.close(fd)
    world.backup()
    world.check_history(count=2)


def test_runs_that_really_start_at_once_end_with_one_of_two_codes(world: World) -> None:
    clone = world.root / "state of the clone"

    def start(directory: Path) -> Tuple[int, int]:
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.close(write_fd)
                os.read(read_fd, 1)
                code = world.backup(state_directory=str(directory)).rc
            except Exception as error:  # noqa: BLE001 - its code is the answer
                code = getattr(error, "rc", 98)
            finally:
                os._exit(code)
        os.close(read_fd)
        return pid, write_fd

    children = [start(directory) for directory in (world.state, world.state, clone, clone)]
    for _pid, write_fd in children:
        os.close(write_fd)
    codes = sorted(os.WEXITSTATUS(os.waitpid(pid, 0)[1]) for pid, _fd in children)
    assert codes[0] == 0 and set(codes) <= {0, 4, 5}
    world.check_history()


# ---- clocks ----------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def test_a_clock_that_went_back_a_little_still_gives_ids_that_grow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    for number, now in enumerate((1_800_000_000.0, 1_799_999_700.0, 1_800_000_000.0, 1_799_999_401.0)):
        (world.src / "a").write_text("version %d" % number)
        monkeypatch.setattr(session_module, "time", Clock(now))
        result = world.backup()
        assert result.receipt
        times.append(result.receipt["created"])
    assert times == ["2027-01-15T08:00:00.%03dZ" % number for number in range(4)]
    ids = [snapshot.id for snapshot in world.snapshots()]
    assert ids == sorted(ids, reverse=True)


def test_a_clock_that_is_far_behind_is_refused_before_anything_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "time", Clock(1_800_000_000.0))
    world.backup()
    (world.src / "a").write_text("changed")
    monkeypatch.setattr(session_module, "time", Clock(1_800_000_000.0 - 601))
    monkeypatch.delattr(session_module.TreeSession, "send")
    error = error_of(world.backup)
    assert (error.kind, error.field, error.rc) == ("clock", "clock", 4)
    assert error.found == "2027-01-15T07:49:59.000Z" and error.next
    world.check_history(count=1)


# ---- guards ----------------------------------------------------------------------------------------------------------------


def accepted(text: Any) -> str:
    return str(text).rsplit("--accept ", 1)[1].split()[0].rstrip(".")


def test_a_guard_stops_a_run_until_just_this_change_is_accepted(world: World) -> None:
    first = world.backup()
    for number in range(20):
        (world.src / "sub" / ("file %02d" % number)).unlink()
    before = fingerprint(world.vault)
    error = error_of(world.backup)
    assert (error.kind, error.field, error.rc) == ("guard", "guards.max_delete_percent", 4)
    digest = accepted(error.next)
    looked = world.backup(dry_run=True)
    refusal = looked.failure()
    assert refusal is not None and accepted(refusal.next) == digest and looked.rc == looked.to_dict()["rc"] == 4
    assert looked.removed == 20 and looked.sample[0] == {"path": str(world.src / "sub" / "file 00"), "change": "removed"} and "_refusal" not in looked.to_dict()
    assert error_of(world.backup, accept="01234567").field == "accept"
    for wrong in ("", "yes", "0123456", "0123456G"):
        error = error_of(world.backup, accept=wrong)
        assert (error.kind, error.field, error.rc) == ("usage", "accept", 2)
    assert differences(before, fingerprint(world.vault)) == []
    # What lies above the source may move meanwhile; the source may not.
    (world.root / "busy").write_text("x")
    (world.src / "sub" / "file 20").unlink()
    assert error_of(world.backup, accept=digest).field == "accept"
    (world.src / "sub" / "file 20").write_text("content 20")
    os.utime(world.src / "sub" / "file 20", ns=(0, world.stored(first.snapshot_id, "sub/file 21").stat().st_mtime_ns))
    digest = accepted(error_of(world.backup).next)
    (world.root / "busier").write_text("x")
    agreed = world.backup(accept=digest, dry_run=True)
    assert agreed.changed and agreed.failure() is None and agreed.rc == 0
    assert world.backup(accept=digest).changed
    assert not world.backup(accept=digest).changed, "an accepted run can be repeated"
    record = [json.loads(line)["result"] for line in (world.state / "h" / "p" / "runs.jsonl").read_text().splitlines()]
    assert record == ["ok", "failed", "failed", "failed", "failed", "ok", "unchanged"]
    world.check_history(count=2)


def empty(world: World) -> Dict[str, Any]:
    shutil.rmtree(world.src)
    world.src.mkdir()
    return {}


def lose(world: World) -> Dict[str, Any]:
    shutil.rmtree(world.src)
    return {}


def require(world: World) -> Dict[str, Any]:
    return {"guards": {"require": [str(world.src / "marker")]}}


def shrink(world: World) -> Dict[str, Any]:
    (world.src / "a").unlink()
    return {"guards": {"min_files": 41}}


def deselect(world: World) -> Dict[str, Any]:
    return {"exclude": ["sub/"]}


@pytest.mark.parametrize(
    "change, field, may_accept",
    [
        (empty, "guards.min_files", True),
        (lose, "sources", False),
        (require, "guards.require", False),
        (shrink, "guards.min_files", True),
        (deselect, "guards.max_deselect_percent", True),
    ],
)
def test_every_guard_is_wired(world: World, change: Callable[[World], Dict[str, Any]], field: str, may_accept: bool) -> None:
    world.backup()
    policy = world.policy(**change(world))
    error = error_of(world.backup, policy=policy)
    assert (error.kind, error.field, error.rc) == ("guard", field, 4) and error.allowed and error.next
    if may_accept:
        assert world.backup(policy=policy, accept=accepted(error.next)).changed
    else:
        assert "--accept" not in str(error.next)
        assert error_of(world.backup, policy=policy, accept="00000000").field == field
    world.check_history(count=2 if may_accept else 1)


def test_a_rename_of_everything_is_no_deletion(world: World) -> None:
    world.backup()
    os.rename(world.src / "sub", world.src / "renamed")
    result = world.backup()
    assert result.rc == 0 and result.files_sent == 0
    assert world.snapshots()[1].held is None


def test_a_mass_change_keeps_the_snapshot_before_it(world: World) -> None:
    policy = world.policy(anomaly={"changed_percent": 50})
    first = world.backup()
    for number in range(25):
        (world.src / "sub" / ("file %02d" % number)).write_text("encrypted %d" % number)
    result = world.backup(policy=policy)
    assert result.rc == 3 and "25 of 41 files" in result.warnings[0] and first.snapshot_id in result.warnings[0]
    newest, oldest = world.snapshots()
    world.backup()
    told = status(world.policy(), state_directory=str(world.state))["problems"]
    assert len(told) == 1 and "%s is held" % first.snapshot_id in told[0], "not only until the next run"
    assert oldest.id == first.snapshot_id and oldest.held and oldest.held["by"] == "anomaly" and newest.held is None
    assert "25 of 41" in oldest.held["reason"]


def test_growth_is_no_mass_change(world: World) -> None:
    world.backup()
    for number in range(100):
        (world.src / ("new %d" % number)).write_text("new %d" % number)
    world.backup()
    assert world.snapshots()[1].held is None


# ---- runs that only look -------------------------------------------------------------------------------------------------


def everything(world: World) -> Dict[bytes, Any]:
    found = fingerprint(world.root, inodes=True)
    return {path: item for path, item in found.items() if not path.startswith(b"src")}


def test_a_dry_run_predicts_and_writes_nothing_anywhere(world: World) -> None:
    before = everything(world)
    dry = world.backup(dry_run=True)
    assert differences(before, everything(world)) == []
    assert not world.vault.exists() and not world.state.exists()
    first = world.backup()
    for name in ("changed", "added", "removed", "unchanged", "metadata", "modified", "files_sent", "bytes_sent", "entries", "content_digest", "sample"):
        assert getattr(dry, name) == getattr(first, name), name
    assert dry.snapshot_id is None and dry.receipt is None
    before = everything(world)
    assert not world.backup(dry_run=True).changed
    assert differences(before, everything(world)) == []
    (world.src / "a").write_text("changed")
    (world.src / "sub" / "file 00").unlink()
    (world.src / "b").mkdir()
    dry = world.backup(dry_run=True)
    assert differences(before, everything(world)) == []
    second = world.backup()
    for name in ("changed", "added", "removed", "unchanged", "metadata", "modified", "files_sent", "bytes_sent", "entries", "sample"):
        assert getattr(dry, name) == getattr(second, name), name


def test_looking_at_the_other_verbs_writes_nothing_either(world: World) -> None:
    world.backup()
    (world.src / "a").write_text("changed")
    (world.src / "extra").write_text("x")
    before = everything(world)
    source = fingerprint(world.src, inodes=True)
    options: Tuple[Dict[str, Any], ...] = (
        {"dest": world.root / "out"},
        {"confirm": True, "delete": True},
        {"undo": world.root / "undo", "delete": True},
    )
    for option in options:
        assert world.restore(dry_run=True, **option).changed
    status(world.policy(), state_directory=str(world.state))
    world.verify(dry_run=True)
    assert differences(before, everything(world)) == []
    assert differences(source, fingerprint(world.src, inodes=True)) == []
    shutil.rmtree(world.state)
    assert world.restore(dry_run=True, dest=world.root / "out").changed
    assert not world.state.exists()


def test_the_prediction_of_a_restore_comes_true(world: World) -> None:
    world.backup()
    (world.src / "a").write_text("changed")
    (world.src / "sub" / "file 03").unlink()
    (world.src / "sub" / "file 04").chmod(0o600)
    (world.src / "extra").mkdir()
    (world.src / "extra" / "x").write_text("x")
    dry = world.restore(dry_run=True, delete=True, confirm=True)
    done = world.restore(delete=True, confirm=True)
    for name in ("changed", "files_restored", "bytes_restored", "metadata_restored", "files_removed", "files_replaced", "sample", "entries"):
        assert getattr(dry, name) == getattr(done, name), name


def test_status_of_an_unreachable_vault_is_a_problem_and_no_crash(world: World) -> None:
    world.backup()
    subprocess.run(["mv", str(world.vault), str(world.root / "away")], check=True)
    found = status(world.policy(), state_directory=str(world.state))
    assert not found["ok"] and found["problems"] and found["rc"] == 3
    (world.vault).write_text("a file")
    assert [text for text in status(world.policy(), state_directory=str(world.state))["problems"] if "not a directory" in text]


def test_what_one_process_leaves_the_next_can_use(world: World) -> None:
    """Nothing depends on what an earlier run in the same process knew."""
    first = in_child(lambda: world.backup().snapshot_id)
    (world.src / "a").write_text("changed")
    second = in_child(lambda: world.backup().receipt)
    assert second and second["parent"] == first
