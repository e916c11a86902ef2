# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs written anew, by a prune or for a new key: what is needed stays whole, whoever is killed, and whoever comes in between."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.locate import open_target
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import PruneResult, prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.rekey import RekeyResult, rekey
from ansible_collections.openclaw.backup.plugins.module_utils.action.state import HostState
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.errors import TargetError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import rewrite as rewrite_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import session as session_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.format import PackWriter
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.repository import Repository
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.store import DirectoryStore
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.target import PackTarget
from ansible_collections.openclaw.backup.tests.torture import torture_packs

from .world import Packed, assert_same, error_of


@pytest.fixture
def packed() -> Iterator[Packed]:
    made = Packed.make()
    assert isinstance(made, Packed)
    yield made
    made.destroy()


def waste(packed: Packed, *, versions: int = 3, files: int = 40) -> List[str]:
    """A history whose first pack holds much that its last snapshots do not need."""
    luck = random.Random(7)
    ids = []
    for version in range(versions):
        for number in range(files):
            if version == 0 or number % 4:
                (packed.src / ("file%02d" % number)).write_bytes(luck.randbytes(5000))
        ids.append(str(packed.backup(policy=packed.policy(anomaly={"changed_percent": 0})).snapshot_id))
    return ids


def policy_of(packed: Packed, **retention: Any) -> Policy:
    return packed.policy(retention={"keep_last": 2, "protect": "0s", **retention})


def pruned(packed: Packed, **retention: Any) -> PruneResult:
    return prune(policy_of(packed, **retention), state_directory=str(packed.state))


def names(packed: Packed, kind: str) -> List[str]:
    return [path.name for path in packed.objects(kind)]


# ---- packs with waste --------------------------------------------------------------------------------------------------------


def test_a_pack_that_is_mostly_unused_is_written_anew_and_goes_a_day_later(packed: Packed) -> None:
    ids = waste(packed)
    before = names(packed, "packs")
    sizes = sum(path.stat().st_size for path in packed.objects("packs"))
    result = pruned(packed)
    assert [item["id"] for item in result.removed] == ids[:1] and result.changed
    assert result.repacked is not None
    # The first pack has 40 files, of which 10 are needed; the others are needed in full.
    assert (result.repacked["packs"], result.repacked["snapshots"], result.repacked["damaged"]) == (1, 2, [])
    assert 50_000 < result.repacked["bytes_written"] < 60_000 and 50_000 < result.repacked["bytes_read"] < 60_000
    assert set(before) < set(names(packed, "packs")) and len(names(packed, "packs")) == 4
    packed.check_history(count=2)
    assert_same(packed.src, packed.restored(_restored(packed)))
    again = pruned(packed)
    assert not again.changed and again.repacked == {"packs": 0, "snapshots": 0, "bytes_read": 0, "bytes_written": 0, "damaged": []}
    packed.days_pass(1)
    freed = pruned(packed).bytes_freed
    assert freed > 200_000 and len(names(packed, "packs")) == 3 and names(packed, "leases") == []
    assert names(packed, "manifests") == ["0000000002-000001", "0000000003-000001"]
    assert sum(path.stat().st_size for path in packed.objects("packs")) < sizes - 140_000
    packed.check_history(count=2)
    (packed.src / "file00").write_bytes(b"and it goes on")
    packed.backup()
    packed.check_history(count=3)
    assert_same(packed.src, packed.restored(_restored(packed)))


def _restored(packed: Packed, snapshot: str = "latest") -> Path:
    dest = packed.root / ("back-%s" % os.urandom(4).hex())
    assert packed.restore(dest=dest, snapshot=snapshot, state_directory=str(packed.root / "onlooker")).verified
    return dest


@pytest.mark.parametrize(("limit", "packs"), [(0, 1), (74, 1), (76, 0), (100, 0)])
def test_the_limit_decides_and_a_pack_without_waste_is_never_written_anew(packed: Packed, limit: int, packs: int) -> None:
    waste(packed)
    result = pruned(packed, max_unused_percent=limit)
    assert result.repacked is not None and result.repacked["packs"] == packs
    assert pruned(packed, max_unused_percent=limit).repacked == {"packs": 0, "snapshots": 0, "bytes_read": 0, "bytes_written": 0, "damaged": []}
    packed.check_history(count=2)


def test_small_files_are_no_waste_for_the_index_that_they_need(packed: Packed) -> None:
    for number in range(500):
        (packed.src / ("file%03d" % number)).write_bytes(b"%d" % number)
    packed.backup()
    assert pruned(packed, max_unused_percent=0).repacked["packs"] == 0  # type: ignore[index]


def test_without_the_key_nothing_is_written_anew_and_what_was_is_kept_and_cleaned_up(packed: Packed) -> None:
    waste(packed)
    blind = PackTarget(DirectoryStore(str(packed.vault)), "h", "p", None)
    assert blind.repack(25) is None
    pruned(packed)
    blind.remove(lambda snapshots: {})
    assert len(names(packed, "packs")) == 4 and len(names(packed, "manifests")) == 5
    packed.days_pass(1)
    blind.remove(lambda snapshots: {})
    assert len(names(packed, "packs")) == 3 and len(names(packed, "manifests")) == 2
    packed.check_history(count=2)


def test_a_prune_without_the_key_tells_of_what_it_removed_and_of_nothing_else(packed: Packed) -> None:
    ids = waste(packed, files=4)
    blind = packed.policy(target="pack://%s" % packed.vault, retention={"keep_last": 1, "protect": "0s"})
    for removed in ([], ids[1::-1]):
        result = prune(blind, state_directory=str(packed.root / "vault-state"))
        assert [item["id"] for item in result.removed] == removed and result.changed is bool(removed)
        assert [item["id"] for item in result.kept] == [name for name in reversed(ids) if name not in removed]
        assert removed or all("key" in item["reasons"][-1] for item in result.kept[1:])
        packed.check_history(count=len(result.kept))
        packed.days_pass(1)


def test_differences_are_written_anew_as_differences_also_where_their_base_was_removed(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "FULL_UP_TO", 0)
    for number in range(300):
        (packed.src / ("keep%03d" % number)).write_bytes(b"%d" % number)
    ids = []
    for version in range(4):
        (packed.src / "log").write_bytes(os.urandom(300_000 + version))
        if version == 0:
            for number in range(20):
                (packed.src / ("gone%d" % number)).write_bytes(os.urandom(20_000))
        for path in packed.src.glob("gone%d*" % (version - 1)) if version else ():
            path.unlink()
        ids.append(str(packed.backup().snapshot_id))
    sizes = [path.stat().st_size for path in packed.objects("manifests")]
    assert max(sizes[1:]) * 2 < sizes[0]
    result = pruned(packed, keep_last=3)
    assert result.repacked is not None and result.repacked["snapshots"] == 3
    packed.days_pass(1)
    pruned(packed, keep_last=3)
    # The base is no snapshot any more; the first edition that needs it is whole, and the others are the difference to that.
    assert names(packed, "manifests") == ["%010d-000001" % number for number in (2, 3, 4)]
    after = [path.stat().st_size for path in packed.objects("manifests")]
    assert max(after[1:]) * 2 < after[0] < sizes[0] * 2
    packed.check_history(count=3)
    assert_same(packed.src, packed.restored(_restored(packed)))
    (packed.src / "log").write_bytes(b"next")
    packed.backup()
    assert packed.objects("manifests")[-1].stat().st_size * 2 < after[0]
    packed.check_history(count=4)


def test_content_that_only_the_base_of_the_parent_had_is_sent_again(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pack went with the snapshot that needed it."""
    monkeypatch.setattr(session_module, "FULL_UP_TO", 0)
    monkeypatch.setattr(session_module, "PACK", 100_000)
    for number in range(300):
        (packed.src / ("keep%03d" % number)).write_bytes(b"%d" % number)
    back = os.urandom(200_000)
    (packed.src / "zz").write_bytes(back)
    packed.backup()
    (packed.src / "zz").unlink()
    packed.backup()
    pruned(packed, keep_last=1)
    (packed.src / "zz").write_bytes(back)
    packed.backup()
    packed.check_history(count=2)
    assert_same(packed.src, packed.restored(_restored(packed)))


# ---- damage ------------------------------------------------------------------------------------------------------------------


def _spoil(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_damaged_is_named_and_left_and_never_taken_for_proven(packed: Packed) -> None:
    ids = waste(packed)
    first = packed.target._repository.open(packed.target._repository.commits()[-1])
    entry = next(entry for entry in first.manifest.entries if entry.path.endswith(b"file08"))
    blob = first.contents.blobs[entry.hash]
    _spoil(packed.history / "packs" / blob.pack, blob.offset + 5)
    result = pruned(packed)
    assert result.repacked is not None and result.rc == 3
    assert (result.repacked["packs"], result.repacked["snapshots"], result.repacked["bytes_written"]) == (0, 0, 0)
    assert [item["id"] for item in result.repacked["damaged"]] == sorted(ids[1:])
    assert all(item["paths"] == ["/" + os.fsdecode(entry.path)] for item in result.repacked["damaged"])
    assert len(result.warnings) == 2 and "file08" in result.warnings[0]
    assert [snapshot.damaged and snapshot.damaged["paths"] for snapshot in packed.snapshots()] == [[os.fsdecode(entry.path)]] * 2
    packed.days_pass(1)
    said = names(packed, "state")
    pruned(packed)
    assert names(packed, "state") == [name for name in said if not name.startswith("0000000001")], "what is known is not said again"
    healed = packed.backup()
    assert healed.changed and packed.verify(depth="full").ok
    found = packed.verify(depth="full", snapshot=ids[-1])
    assert [item["path"] for item in found.damaged] == ["/" + os.fsdecode(entry.path)]  # and nothing else


def test_a_whole_copy_is_preferred_to_a_damaged_one(packed: Packed) -> None:
    """One content may lie in two packs: the host sent it again when the first was found to be damaged."""
    waste(packed)
    repository = packed.target._repository
    newest = repository.open(repository.commits()[0])
    entry = next(entry for entry in newest.manifest.entries if entry.path.endswith(b"file08"))
    blob = newest.contents.blobs[entry.hash]
    _spoil(packed.history / "packs" / blob.pack, blob.offset + 5)
    assert not packed.verify(depth="full").ok
    assert packed.backup().changed  # it heals
    healed = repository.open(packed.target._repository.commits()[0])
    assert healed.contents.blobs[entry.hash].pack != blob.pack
    result = pruned(packed, keep_last=3)
    assert result.repacked is not None and (result.repacked["packs"], result.repacked["damaged"]) == (1, [])
    packed.check_history(count=3)
    packed.days_pass(1)
    pruned(packed, keep_last=3)
    assert blob.pack not in names(packed, "packs")
    packed.check_history(count=3)


# ---- several at once, and killed ---------------------------------------------------------------------------------------------


def killed_after(step: int, act: Callable[[], Any]) -> bool:
    """Do something in a process that ends at once, as if killed, with its ``step``-th change of the store: an odd one is not made, an even one is.
    Whether it came that far."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def counted(verb: str) -> Callable[..., Any]:
            real = getattr(DirectoryStore, verb)

            def change(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)
                done = real(*arguments, **options)
                count += 1
                if count == step:
                    os._exit(9)
                return done

            return change

        try:
            for verb in ("put", "delete"):
                setattr(DirectoryStore, verb, counted(verb))
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def saved(packed: Packed) -> Path:
    place = packed.root / "saved"
    shutil.copytree(packed.vault, place)
    return place


def put_back(packed: Packed, place: Path) -> None:
    shutil.rmtree(packed.vault)
    shutil.copytree(place, packed.vault)


def test_a_prune_that_is_killed_at_any_step_loses_nothing_and_the_next_ones_end_it(packed: Packed) -> None:
    waste(packed, files=12)
    packed.days_pass(1)
    place = saved(packed)
    step, is_over = 0, False
    while not is_over:
        step += 1
        put_back(packed, place)
        is_over = not killed_after(step, lambda: pruned(packed))
        packed.check_history()
        pruned(packed)
        packed.days_pass(1)
        pruned(packed)
        packed.check_history(count=2)
        packed.days_pass(1)
        pruned(packed)
        assert len(names(packed, "packs")) == 3 and len(names(packed, "manifests")) == 2 and names(packed, "leases") == [], step
        packed.check_history(count=2)
    assert step > 16


def test_what_a_killed_prune_has_stored_is_not_stored_again(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    waste(packed)
    with monkeypatch.context() as patch:
        patch.setattr(rewrite_module.Rewrite, "_publish", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
        pid = os.fork()
        if pid == 0:
            pruned(packed)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    stored = names(packed, "packs")
    assert len(stored) == 4 and len(names(packed, "leases")) == 1
    assert [name.startswith(rewrite_module.REWRITTEN) for name in stored] == [True, False, False, False]
    result = pruned(packed)
    assert result.repacked is not None and (result.repacked["packs"], result.repacked["bytes_written"]) == (1, 0)
    packed.days_pass(1)
    pruned(packed)
    packed.check_history(count=2)
    assert len(names(packed, "packs")) == 3


def test_what_a_session_at_work_has_stored_is_its_own_to_take_back(packed: Packed) -> None:
    waste(packed)
    newest = packed.target.latest()
    assert newest is not None
    session = packed.target.begin("ab" * 16, newest.id)
    repository = packed.target._repository
    whole = repository.open(repository.commits()[0])
    assert isinstance(session, session_module.PackSession)
    writer = PackWriter(repository.master, repository.id, "ab" * 16)  # what the waste is needed for, once more
    for entry in whole.manifest.entries:
        if entry.type == "f":
            writer.add(entry.hash, Path("/" + os.fsdecode(entry.path)).read_bytes())
    repository.put(repository.pack_name("ab" * 16), writer.finish())
    session._mine.append("ab" * 16)
    pruned(packed)
    session.close()
    packed.check_history(count=2)


def test_a_session_may_go_on_from_what_was_written_anew_meanwhile(packed: Packed) -> None:
    waste(packed)
    newest = packed.target.latest()
    assert newest is not None
    manifest = packed.target.manifest(newest)
    session = packed.target.begin("ab" * 16, newest.id)
    pruned(packed)
    packed.days_pass(0.99)
    pruned(packed)
    session.commit(manifest)
    packed.check_history(count=3)
    for _day in range(3):
        packed.days_pass(1)
        pruned(packed, keep_last=3)
        packed.check_history(count=3)
    assert names(packed, "manifests") == ["%010d-000001" % number for number in (2, 3, 4)] and len(names(packed, "packs")) == 3


@pytest.mark.parametrize("moment", ["_move", "_publish"])
def test_a_snapshot_that_comes_while_packs_are_written_anew_is_whole(packed: Packed, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    waste(packed)
    real = getattr(rewrite_module.Rewrite, moment)

    def meanwhile(rewrite: Any, *arguments: Any) -> Any:
        monkeypatch.undo()
        (packed.src / "log").write_bytes(b"meanwhile")
        assert packed.backup().changed
        return real(rewrite, *arguments)

    monkeypatch.setattr(rewrite_module.Rewrite, moment, meanwhile)
    pruned(packed)
    for _day in range(3):
        packed.check_history(count=3)
        packed.days_pass(1)
        pruned(packed, keep_last=3)
    assert names(packed, "manifests") == ["%010d-000001" % number for number in (2, 3, 4)]
    assert_same(packed.src, packed.restored(_restored(packed)))


def test_two_prunes_at_once_harm_nothing(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    waste(packed)
    real = rewrite_module.Rewrite._publish

    def meanwhile(rewrite: Any, *arguments: Any) -> Any:
        monkeypatch.undo()
        pruned(packed)
        return real(rewrite, *arguments)

    monkeypatch.setattr(rewrite_module.Rewrite, "_publish", meanwhile)
    pruned(packed)
    packed.check_history(count=2)
    for _day in range(2):
        packed.days_pass(1)
        pruned(packed)
        packed.check_history(count=2)
    assert len(names(packed, "packs")) == 3 and len(names(packed, "manifests")) == 2


@pytest.mark.parametrize("is_overtaken", [False, True])
def test_a_session_that_slept_for_days_publishes_nothing_that_is_gone(packed: Packed, is_overtaken: bool) -> None:
    waste(packed)
    newest = packed.target.latest()
    assert newest is not None
    manifest = packed.target.manifest(newest)
    session = packed.target.begin("ab" * 16, newest.id)
    if is_overtaken:
        packed.target.begin("cd" * 16, newest.id).commit(manifest)
    for _day in range(3):
        pruned(packed, keep_last=2 + is_overtaken)
        packed.days_pass(1)
    if is_overtaken:
        assert "0000000004" not in names(packed, "manifests") and "0000000004-000001" in names(packed, "manifests")
    session._lease._renewed -= session_module.LEASE
    error = error_of(session.commit, manifest)
    session.close()
    assert error.kind == ("writer" if is_overtaken else "transfer")
    packed.check_history(count=2 + is_overtaken)
    assert packed.snapshots()[0].id == (newest.id if not is_overtaken else packed.snapshots()[0].id)


def test_a_rewrite_that_fails_takes_nothing_back_that_it_has_published(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    waste(packed)
    real = rewrite_module.Rewrite._put_edition
    done = []

    def second_fails(rewrite: Any, *arguments: Any) -> Any:
        if done:
            raise TargetError("the network is gone", next="wait")
        done.append(1)
        return real(rewrite, *arguments)

    monkeypatch.setattr(rewrite_module.Rewrite, "_put_edition", second_fails)
    assert error_of(pruned, packed).message == "the network is gone"
    monkeypatch.undo()
    assert "0000000002-000001" in names(packed, "manifests") and len(names(packed, "packs")) == 4
    packed.check_history(count=2)
    for _day in range(3):
        packed.days_pass(1)
        pruned(packed)
        packed.check_history(count=2)
    assert len(names(packed, "packs")) == 3


# ---- another key -------------------------------------------------------------------------------------------------------------


def rekeyed(packed: Packed, **options: Any) -> RekeyResult:
    return rekey(packed.policy(), state_directory=str(packed.state), **options)


def sealed_with(packed: Packed) -> Dict[str, Set[str]]:
    """By the kinds of objects the ids of the keys that seal them, as they tell in the clear."""
    found: Dict[str, Set[str]] = {}
    for kind in ("packs", "manifests", "state", "keys"):
        for path in packed.objects(kind):
            data = path.read_bytes()
            head = data[8:16].hex() if kind == "packs" else json.loads(data[12 : 12 + int.from_bytes(data[8:12], "big")])["key"]
            found.setdefault(kind, set()).add(head)
    return found


def forget_old_keys(packed: Packed) -> None:
    packed.old_keys.clear()
    for path in packed.root.glob("key[0-9]*"):
        path.unlink()


def test_a_new_key_seals_what_is_new_and_the_old_one_opens_the_rest(packed: Packed) -> None:
    waste(packed)
    (old,) = packed.target.keys()
    packed.target.hold(packed.snapshots()[1], "before the new key")
    packed.change_key()
    new = packed.target.key_id
    (packed.src / "log").write_bytes(b"new")
    packed.backup()
    packed.check_history(count=4)
    assert packed.target.keys() == [new, old]
    assert packed.snapshots()[2].held
    assert status(packed.policy(), state_directory=str(packed.state))["keys"] == [new, old]
    assert_same(packed.src, packed.restored(_restored(packed)))
    assert sealed_with(packed)["packs"] == {old, new}
    # Who has only one of them is told which is missing, and writes nothing.
    before = packed.objects()
    (packed.src / "log").write_bytes(b"newer")
    for key, missing in ((str(packed.key), old), (packed.old_keys[0], new)):
        alone = packed.policy(target={"url": "pack://%s" % packed.vault, "key_file": key})
        act = packed.backup if missing == new else lambda policy: open_target(policy.target, "h", "p").list()
        error = error_of(act, policy=alone)
        assert (error.kind, error.rc, error.allowed) == ("key", 6, missing) and "old_key_files" in str(error.next)
    assert packed.objects() == before
    packed.backup()
    packed.check_history(count=5)


def test_after_a_rekey_the_old_key_is_needed_for_nothing(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "FULL_UP_TO", 0)
    ids = waste(packed)
    (packed.src / "log").write_bytes(b"a small difference")
    packed.backup()
    packed.target.hold(packed.snapshots()[1], "a reason")
    packed.target.tag(packed.snapshots()[0], ["named"], [])
    told = [snapshot.to_dict() for snapshot in packed.snapshots()]
    (old,) = packed.target.keys()
    assert not rekeyed(packed).changed
    packed.change_key()
    plan = rekeyed(packed, dry_run=True)
    assert plan.changed and (plan.snapshots, plan.states, plan.keys, plan.bytes_written) == (4, 2, [old], 0)
    assert sealed_with(packed)["packs"] == {old}
    result = rekeyed(packed)
    assert (result.rc, result.keys, result.snapshots, result.states, result.damaged) == (0, [result.key], 4, 2, []) and result.key != old
    assert (plan.packs, plan.bytes_read > result.bytes_read) == (result.packs, True)
    kept = packed.old_keys[0]
    forget_old_keys(packed)
    assert [snapshot.to_dict() for snapshot in packed.snapshots()] == told
    packed.check_history(count=4)
    (packed.src / "log").write_bytes(b"and on")
    packed.backup()
    pruned(packed, keep_last=4)  # a removed one, and all past ones, of which nobody can open anything
    packed.days_pass(1)
    pruned(packed, keep_last=4)
    assert set().union(*sealed_with(packed).values()) == {result.key}
    assert not os.path.exists(kept) and ids[0] not in {snapshot.id for snapshot in packed.snapshots()}
    packed.check_history(count=4)
    assert_same(packed.src, packed.restored(_restored(packed)))


def test_a_rekey_waits_for_the_hosts_run_and_the_next_run_does_not_wait_for_it(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    waste(packed, versions=2, files=12)
    packed.change_key()
    state = HostState(str(packed.state), packed.policy())
    shut_out, survey = Repository.shut_out, rewrite_module.Rewrite._survey
    seen = []

    def before(repository: Repository) -> None:
        seen.append(state.is_running())
        shut_out(repository)

    def meanwhile(rewrite: Any) -> Any:
        if len(seen) == 1:
            seen.append(state.is_running())
            (packed.src / "log").write_bytes(b"meanwhile")
            assert packed.backup().changed
        return survey(rewrite)

    monkeypatch.setattr(Repository, "shut_out", before)
    monkeypatch.setattr(rewrite_module.Rewrite, "_survey", meanwhile)
    result = rekeyed(packed)
    assert seen == [True, False] and result.keys == [result.key]
    forget_old_keys(packed)
    packed.check_history(count=3)
    assert packed.snapshots()[0].receipt.sequence == 4


def test_a_key_can_be_changed_again_and_again(packed: Packed) -> None:
    waste(packed, versions=2, files=12)
    for _time in range(3):
        packed.change_key()
        packed.check_history(count=2)
        result = rekeyed(packed)
        assert result.keys == [result.key]
        forget_old_keys(packed)
    packed.change_key()
    (packed.src / "log").write_bytes(b"and on")
    packed.backup()
    packed.change_key()
    assert len(packed.target.keys()) == 2
    packed.check_history(count=3)
    assert rekeyed(packed).keys == [packed.target.key_id]
    forget_old_keys(packed)
    packed.check_history(count=3)


def test_a_rekey_that_is_killed_at_any_step_loses_nothing_and_goes_on(packed: Packed) -> None:
    waste(packed, versions=2, files=12)
    packed.target.hold(packed.snapshots()[0], "a reason")
    packed.change_key()
    place, keys = saved(packed), list(packed.old_keys)
    step, is_over = 0, False
    while not is_over:
        step += 1
        put_back(packed, place)
        packed.old_keys[:] = keys
        is_over = not killed_after(step, lambda: rekeyed(packed))
        if step % 2:
            packed.check_history(count=2)
        result = rekeyed(packed)
        assert result.keys == [result.key] and not (is_over and result.changed), step
        packed.days_pass(1)
        packed.old_keys.clear()
        pruned(packed)
        packed.days_pass(1)
        pruned(packed)
        assert set().union(*sealed_with(packed).values()) == {result.key} and len(names(packed, "packs")) == 1, step
        packed.check_history(count=2)
        assert packed.snapshots()[0].held
    assert step == 17


def test_what_is_damaged_keeps_the_old_key_in_use(packed: Packed) -> None:
    ids = waste(packed, versions=2)
    (old,) = packed.target.keys()
    repository = packed.target._repository
    newest = repository.open(repository.commits()[0])
    entry = next(entry for entry in newest.manifest.entries if entry.path.endswith(b"file09"))
    blob = newest.contents.blobs[entry.hash]
    _spoil(packed.history / "packs" / blob.pack, blob.offset + 5)
    packed.change_key()
    result = rekeyed(packed)
    assert (result.rc, result.keys) == (3, [result.key, old])
    assert [(item["id"], item["paths"]) for item in result.damaged] == [(ids[1], ["/" + os.fsdecode(entry.path)])]
    assert any("still needed" in text for text in result.warnings)
    assert packed.backup().changed  # it heals, in a new snapshot
    found = packed.verify(depth="full", snapshot=ids[1])
    assert [item["path"] for item in found.damaged] == ["/" + os.fsdecode(entry.path)]
    assert packed.verify(snapshot=ids[0]).ok and packed.verify().ok
    packed.target.remove(lambda snapshots: {ids[1]: "it is damaged"})
    again = rekeyed(packed)
    assert (again.rc, again.keys) == (0, [again.key])
    forget_old_keys(packed)
    packed.check_history(count=2)


def test_a_history_in_plain_files_has_no_key_to_change(packed: Packed) -> None:
    policy = packed.policy(target={"url": str(packed.root / "plain")})
    assert error_of(rekey, policy, state_directory=str(packed.state)).kind == "unsupported"
    assert error_of(rekeyed, packed).kind == "no_snapshot"


@pytest.mark.torture
def test_prunes_and_rekeys_killed_at_random_instants_leave_every_snapshot_whole() -> None:
    kills = int(os.environ.get("INSTANTS", "6"))
    seed = int(os.environ.get("SEED", str(random.SystemRandom().randrange(1 << 30))))
    print("seed %d" % seed)
    assert torture_packs(kills, seed=seed, say=print).kills >= kills
