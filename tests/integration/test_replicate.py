# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a history in another vault: the same snapshots, proven there, whatever is killed, damaged, pruned or forged."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.drill import DrillResult, drill
from ansible_collections.openclaw.backup.plugins.module_utils.action.locate import open_target
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.replicate import ReplicateResult, replicate
from ansible_collections.openclaw.backup.plugins.module_utils.action.restore import RestoreRequest, restore
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import verify_chain
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.policy.target_spec import check_target
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import layout
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.layout import create_vault, update_state
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.target import TreeTarget
from ansible_collections.openclaw.backup.tests.torture import change, make_source

from .sshd import AGENT, Away, needs_sshd, policy_of
from .trees import fill as fill_oddly
from .world import AS_ROOT, STORAGES, World, differences, error_of, fingerprint, killed_at

OTHER = {"native": "portable", "portable": "native" if AS_ROOT else "portable"}


class Second:
    """Another vault beside the world's, with a keeper's memory of its own."""

    def __init__(self, world: World, storage: Optional[str] = None) -> None:
        self.world = world
        self.vault = world.root / "second"
        self.state = world.root / "second-state"
        self.storage = storage or world.storage
        self.history = self.vault / "h" / "p"

    @property
    def target(self) -> TreeTarget:
        return TreeTarget(str(self.vault), "h", "p")

    def pull(self, *, dry_run: bool = False, policy: Optional[Policy] = None) -> ReplicateResult:
        to = check_target({"url": str(self.vault), "storage": self.storage}, "to")
        return replicate(policy or self.world.policy(), to, state_directory=str(self.state), dry_run=dry_run)

    def ids(self) -> List[str]:
        return [snapshot.id for snapshot in self.target.list()]

    def policy(self, **changes: Any) -> Policy:
        return Policy.from_mapping({"name": "p", "host": "h", "sources": [str(self.world.src)], "target": str(self.vault), **changes}, default_host="h")

    def check_same(self) -> None:
        """Every snapshot that both have is the same: the receipt, the manifest, every byte of what it restores to; and nothing lies about."""
        ours = {snapshot.id: snapshot for snapshot in self.target.list()}
        for snapshot in self.world.snapshots():
            if snapshot.id not in ours:
                continue
            one, other = self.world.history / "snapshots" / snapshot.id, self.history / "snapshots" / snapshot.id
            for name in ("receipt.json", "manifest.jsonl.gz"):
                assert (one / name).read_bytes() == (other / name).read_bytes()
            assert self.target.verify(ours[snapshot.id], depth="full", record=False).ok
            if self.storage == self.world.storage:
                one_tree, other_tree = fingerprint(one / "tree"), fingerprint(other / "tree")
                if self.storage == "portable":  # whose inodes bear no times
                    one_tree, other_tree = ({path: (*item[:4], *item[5:]) for path, item in tree.items()} for tree in (one_tree, other_tree))
                assert differences(one_tree, other_tree) == []
        incoming = self.history / "incoming"
        assert not incoming.exists() or os.listdir(incoming) == []
        for log in (self.history / "audit.jsonl", self.state / "audit.jsonl"):
            report = verify_chain(os.fsencode(log))
            assert report.ok, report

    def restored(self, snapshot: str = "latest") -> Path:
        dest = self.world.root / ("from-second-%d" % time.monotonic_ns())
        done = restore(self.policy(), RestoreRequest(snapshot=snapshot, dest=str(dest)), state_directory=str(self.state), is_own_history=False)
        assert done.verified and done.rc == 0
        return Path(str(dest) + str(self.world.src))


@pytest.fixture
def second(world: World) -> Second:
    return Second(world)


def fill(world: World, count: int, luck: Optional[random.Random] = None) -> List[str]:
    """So many snapshots, the oldest first."""
    luck = luck or random.Random(1)
    ids = []
    for number in range(count):
        for name in ("a", "b", "sub/c"):
            path = world.src / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_bytes(luck.randbytes(3000))
        (world.src / "changing").write_text("number %d" % number)
        ids.append(str(world.backup().snapshot_id))
    return ids


def events(second: Second, name: str) -> List[Dict[str, Any]]:
    lines = (json.loads(line) for line in (second.history / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def test_a_history_is_copied_as_it_is_and_a_second_time_nothing_is(world: World, second: Second) -> None:
    ids = fill(world, 3)
    done = second.pull()
    assert done.changed and done.rc == 0 and [item["id"] for item in done.copied] == ids and done.newest == ids[-1]
    assert second.ids() == ids[::-1]
    second.check_same()
    assert os.readlink(second.history / "latest") == "snapshots/" + ids[-1]
    assert [event["snapshot"] for event in events(second, "copy")] == ids and events(second, "copy")[0]["from"] == str(world.vault)
    copied = second.target.list()[0].to_dict()["copied"]
    assert copied["from"] == str(world.vault) and copied["at"] > world.snapshots()[0].receipt.created
    before = fingerprint(second.vault)
    again = second.pull()
    assert not again.changed and again.present == 3 and again.copied == [] and again.bytes_sent == 0
    assert fingerprint(second.vault) == before


def test_only_what_is_missing_is_sent(world: World, second: Second) -> None:
    fill(world, 1)
    first = second.pull()
    assert (first.files_sent, first.bytes_sent) == (4, 9008)
    (world.src / "new").write_bytes(b"x" * 5000)
    (world.src / "a").rename(world.src / "renamed")
    world.backup()
    would = second.pull(dry_run=True)
    then = second.pull()
    assert (then.files_sent, then.bytes_sent) == (1, 5000)
    assert (would.copied, would.changed) == (then.copied, True)
    second.check_same()
    one, two = (second.history / "snapshots" / name / "tree" for name in reversed(second.ids()))
    assert os.stat(str(one) + str(world.src / "b")).st_ino == os.stat(str(two) + str(world.src / "b")).st_ino


def test_a_dry_run_writes_nothing_anywhere(world: World, second: Second) -> None:
    ids = fill(world, 2)
    would = second.pull(dry_run=True)
    assert [item["id"] for item in would.copied] == ids and would.changed
    assert not second.vault.exists() and not second.state.exists()
    assert would.copied == second.pull().copied


@pytest.mark.parametrize("storage", STORAGES)
def test_odd_trees_arrive_whole_also_in_the_other_storage(world: World, storage: str) -> None:
    fill_oddly(world.src, as_root=AS_ROOT)
    world.backup()
    second = Second(world, storage)
    assert second.pull().rc == 0
    second.check_same()
    source, copy = world.root / "one", second.restored()
    assert world.restore(dest=source).rc == 0
    assert differences(fingerprint(world.restored(source)), fingerprint(copy)) == []


def test_holes_stay_holes(world: World, second: Second) -> None:
    with (world.src / "sparse").open("wb") as stream:
        stream.seek(64 << 20)
        stream.write(b"end")
    world.backup()
    assert second.pull().rc == 0
    stored = Path(str(second.history / "snapshots" / second.ids()[0] / "tree") + str(world.src / "sparse"))
    assert stored.stat().st_size == (64 << 20) + 3 and stored.stat().st_blocks * 512 < 1 << 20
    second.check_same()


def test_what_is_removed_there_stays_and_what_is_removed_here_does_not_come_back(world: World, second: Second) -> None:
    ids = fill(world, 4)
    second.pull()
    rules = {"retention": {"keep_last": 1, "protect": "0s"}}
    prune(world.policy(**rules), state_directory=str(world.state))
    assert len(world.snapshots()) == 1
    assert not second.pull().changed and second.ids() == ids[::-1]
    prune(second.policy(retention={"keep_last": 2, "protect": "0s"}), state_directory=str(second.state))
    ids += fill(world, 1)
    done = second.pull()
    assert [item["id"] for item in done.copied] == ids[-1:]
    assert second.ids() == [ids[-1], ids[-2], ids[-3]]
    world_ids = [snapshot.id for snapshot in world.snapshots()]
    assert set(world_ids) <= set(ids)


def test_a_copy_that_its_vault_did_not_keep_is_not_copied_again(world: World, second: Second) -> None:
    ids = fill(world, 3)
    second.pull()
    prune(second.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(second.state))
    done = second.pull()
    assert not done.changed and (done.present, done.pruned) == (1, 2) and second.ids() == ids[-1:]


def damage(path: Path, *, size: Optional[int] = None) -> None:
    """Other bytes under the same size and time."""
    found = path.stat()
    path.chmod(0o600)
    path.write_bytes(b"?" * (found.st_size if size is None else size))
    os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
    path.chmod(found.st_mode & 0o7777)


def test_a_snapshot_with_more_paths_than_this_vault_takes_is_refused_unread(world: World, second: Second) -> None:
    ids = fill(world, 1)
    count = world.snapshots()[0].receipt.entries
    (world.src / "more").write_text("one path more")
    ids.append(str(world.backup().snapshot_id))
    (world.history / "snapshots" / ids[1] / "manifest.jsonl.gz").write_bytes(b"never read")
    to = check_target(str(second.vault), "to")
    for dry_run in (True, False):
        done = replicate(world.policy(), to, state_directory=str(second.state), entries=count, dry_run=dry_run)
        assert [item["id"] for item in done.copied] == ids[:1] and [(item["id"], item["kind"]) for item in done.refused] == [(ids[1], "limit")]
        assert "%d paths, and this vault takes %d" % (count + 1, count) in done.refused[0]["reason"]


def test_damage_is_not_copied_but_named_and_everything_else_comes(world: World, second: Second) -> None:
    first, broken, last = fill(world, 3)
    damage(world.stored(broken, "changing"))
    done = second.pull()
    assert [item["id"] for item in done.copied] == [first, last] and done.rc == 7
    (refused,) = done.refused
    assert (refused["id"], refused["kind"]) == (broken, "content") and refused["paths"] == [str(world.src / "changing")]
    failure = done.failure()
    assert failure is not None and failure.kind == "damaged_source" and failure.found == broken and failure.next
    assert second.ids() == [last, first]
    second.check_same()


def test_known_damage_is_not_even_tried(world: World, second: Second) -> None:
    ids = fill(world, 2)
    damage(world.stored(ids[1], "changing"))
    assert not world.verify().ok
    for dry_run in (True, False):
        done = second.pull(dry_run=dry_run)
        assert [item["id"] for item in done.copied] == (ids[:1] if dry_run or second.ids() == ids[:1] else [])
        assert [(item["id"], item["kind"], item["paths"]) for item in done.refused] == [(ids[1], "damaged", [str(world.src / "changing")])]
    assert second.ids() == ids[:1]


@pytest.mark.parametrize("what", ["manifest.jsonl.gz", "receipt.json", "tree"])
def test_a_snapshot_that_lost_a_part_of_itself_is_refused(world: World, second: Second, what: str) -> None:
    ids = fill(world, 2)
    path = world.history / "snapshots" / ids[1] / what
    path.rename(world.root / "lost")
    if what == "receipt.json":
        assert error_of(second.pull).rc == 7  # whose history this is, nobody can say then
        return
    done = second.pull()
    assert done.rc == 7 and [item["id"] for item in done.refused] == [ids[1]] and second.ids() == ids[:1]
    second.check_same()


def test_a_file_that_vanished_there_is_named(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    path = world.stored(only, "sub/c")
    path.parent.chmod(0o700)
    path.unlink()
    done = second.pull()
    assert [(item["kind"], item["paths"]) for item in done.refused] == [("content", [str(world.src / "sub" / "c")])] and second.ids() == []


def test_a_base_that_is_damaged_here_is_done_without(world: World, second: Second) -> None:
    fill(world, 1)
    second.pull()
    stored = Path(str(second.history / "snapshots" / second.ids()[0] / "tree") + str(world.src / "a"))
    stored.parent.chmod(0o700)
    stored.unlink()
    (world.src / "changing").write_text("another")
    world.backup()
    done = second.pull()
    assert done.rc == 0 and len(done.copied) == 1 and done.files_sent > 1
    newest = second.target.list()[0]
    assert second.target.verify(newest, depth="full", record=False).ok


def test_two_vaults_that_the_host_has_both_sent_to_are_not_mixed(world: World, second: Second) -> None:
    fill(world, 1)
    other = world.policy(target={"url": str(second.vault), **({"storage": world.storage} if world.storage else {})})
    world.backup(policy=other, state_directory=str(world.root / "state-2"))
    before = fingerprint(second.vault)
    fill(world, 2)
    error = error_of(second.pull)
    assert (error.kind, error.rc) == ("diverged", 4)
    assert fingerprint(second.vault) == before


def test_receipts_that_differ_are_told_of_and_neither_is_touched(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    before = fingerprint(second.vault)
    path = world.history / "snapshots" / only / "receipt.json"
    path.chmod(0o600)
    world.edit_json(path, claimed="2001-01-01T00:00:00.000Z")
    done = second.pull()
    assert [(item["id"], item["kind"]) for item in done.refused] == [(only, "receipt")] and fingerprint(second.vault) == before


def redate(world: World, snapshot_id: str, created: str) -> str:
    """A forged snapshot: the same under another time, its own manifest and all."""
    from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import read_manifest
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.layout import make_id

    place = world.history / "snapshots" / snapshot_id
    manifest = read_manifest(os.fsencode(place / "manifest.jsonl.gz"))
    new_id = make_id(created, manifest.digest)
    (place / "manifest.jsonl.gz").unlink()
    (place / "manifest.jsonl.gz").write_bytes(manifest.with_header(id=new_id, created=created).to_bytes())
    world.edit_json(place / "receipt.json", id=new_id, created=created)
    place.rename(place.parent / new_id)
    return new_id


@pytest.mark.parametrize("created", ["2200-01-01T00:00:00.000Z", "2001-01-01T00:00:00.000Z"])
def test_a_snapshot_that_is_dated_wrong_does_not_come_so_that_it_ages_out_nothing(world: World, second: Second, created: str) -> None:
    fill(world, 2)
    second.pull()
    (world.src / "changing").write_text("forged")
    redate(world, str(world.backup().snapshot_id), created)
    before = fingerprint(second.vault)
    error = error_of(second.pull)
    assert (error.kind, error.rc) == ("clock", 4) and fingerprint(second.vault) == before


def test_a_vault_that_is_not_mounted_is_no_empty_one(world: World, second: Second) -> None:
    assert error_of(second.pull).kind == "not_a_vault"
    ids = fill(world, 1)
    second.pull()
    away = world.root / "away"
    world.vault.rename(away)
    assert (error_of(second.pull).kind, error_of(second.pull).rc) == ("not_a_vault", 6)
    create_vault(os.fsencode(world.vault), world.storage or "portable")
    error = error_of(second.pull)
    assert (error.kind, error.rc) == ("history_lost", 6) and second.ids() == ids
    shutil.rmtree(world.vault)
    away.rename(world.vault)
    assert second.pull().present == 1


def test_who_is_to_know_is_told_of_a_copy_that_fails_once_and_when_it_works_again(world: World, second: Second) -> None:
    fill(world, 1)
    heard = world.root / "heard"
    policy = world.policy(notify={"command": ["/bin/sh", "-c", 'cat >>"$0"', str(heard)]})
    world.vault.rename(world.root / "away")
    error_of(lambda: second.pull(policy=policy, dry_run=True))
    assert not heard.exists()
    for _again in range(2):
        error_of(lambda: second.pull(policy=policy))
    (world.root / "away").rename(world.vault)
    assert second.pull(policy=policy).warnings == []
    failed, recovered = map(json.loads, heard.read_text().splitlines())
    assert (failed["event"], failed["rc"], recovered["event"]) == ("failed", 6, "recovered")
    assert failed["message"].startswith("replicate: There is no vault in") and failed["policy"] == "p"
    damage(world.stored(world.snapshots()[0].id, "changing"))
    shutil.rmtree(second.vault)
    broken = second.pull(policy=world.policy(notify={"command": ["/nonexistent/program"]}))
    assert broken.rc == 7 and "notify.command" in broken.warnings[0]


def test_a_history_that_has_not_begun_is_nothing_to_copy(world: World, second: Second) -> None:
    create_vault(os.fsencode(world.vault), world.storage or "portable")
    done = second.pull()
    assert (done.rc, done.changed, done.newest) == (0, False, None)


@pytest.mark.parametrize("where", ["vault", "vault/inside", "."])
def test_a_vault_is_not_copied_into_itself(world: World, second: Second, where: str) -> None:
    fill(world, 1)
    second.vault = world.root / where
    assert error_of(second.pull).rc == 2


def slow_source(world: World) -> int:
    """One large file, many small ones, and one that is nothing but a hole; how many bytes they have."""
    (world.src / "large").write_bytes(os.urandom(700 << 10))
    for number in range(200):
        (world.src / str(number)).write_bytes(os.urandom(2 << 10))
    with (world.src / "hole").open("wb") as stream:
        stream.truncate(64 << 20)
    world.backup()
    return (700 << 10) + 200 * (2 << 10)


def check_pace(second: Second, policy: Policy, size: int) -> None:
    """512 KiB a second: never faster, and so slow only as the machine is."""
    started = time.monotonic()
    done = second.pull(policy=policy)
    took = time.monotonic() - started
    assert done.rc == 0 and size / (512 << 10) - 0.2 <= took <= size / (512 << 10) + 20, took
    second.check_same()


def test_no_more_is_read_in_a_second_than_the_policy_allows(world: World, second: Second) -> None:
    size = slow_source(world)
    check_pace(second, world.policy(transfer={"bwlimit": "512k"}), size)


@needs_sshd
def test_no_more_goes_over_the_link_in_a_second_than_the_policy_allows() -> None:
    away = Away.over("portable")
    try:
        size = slow_source(away)
        check_pace(Second(away), away.policy(transfer={"bwlimit": "512k"}), size)
        assert Second(away).pull().rc == 0
        assert open_target(away.policy().target, "h", "p").pace is None, "the connection that is still open has no limit any more"
    finally:
        away.destroy()


def test_a_place_elsewhere_and_another_layout_are_refused(world: World, second: Second) -> None:
    fill(world, 1)
    packs = world.policy(target={"url": "pack://%s" % world.vault, "key_file": "/key"})
    assert error_of(second.pull, policy=packs).kind == "vault_format"
    to = check_target("ssh://vault/", "to")
    assert error_of(replicate, world.policy(), to, state_directory=str(second.state)).field == "to"


def test_tags_and_freshness_come_along(world: World, second: Second) -> None:
    fill(world, 1)
    world.backup(tags=["before-upgrade"])
    second.pull()
    assert second.target.list()[0].tags == ("before-upgrade",)
    world.target.heartbeat(world.snapshots()[0].id, world.snapshots()[0].receipt.digest)
    until = world.snapshots()[0].unchanged_until
    assert until is not None and second.target.list()[0].unchanged_until != until
    assert not second.pull().changed
    assert second.target.list()[0].unchanged_until == until


def test_a_vault_that_says_it_was_well_in_the_future_is_not_believed(world: World, second: Second) -> None:
    first = fill(world, 1)[0]
    update_state(world.target.history, first, {"unchanged_until": "2099-01-01T00:00:00.000Z"})
    second.pull()
    assert second.target.list()[0].unchanged_until is None
    assert not second.pull().changed
    assert second.target.list()[0].unchanged_until is None


def test_mass_change_holds_the_copy_before_it(world: World, second: Second) -> None:
    for number in range(40):
        (world.src / str(number)).write_text("precious %d" % number * 100)
    first = world.backup().snapshot_id
    for number in range(40):
        (world.src / str(number)).write_bytes(os.urandom(1000))
    world.backup()
    second.pull()
    held = {snapshot.id: snapshot.held for snapshot in second.target.list()}
    assert held[str(first)] and held[str(first)]["by"] == "anomaly"  # type: ignore[index]


def test_a_copy_is_judged_by_its_policy(world: World, second: Second) -> None:
    for number in range(40):
        (world.src / str(number)).write_text("precious %d" % number * 100)
    world.backup()
    for number in range(40):
        (world.src / str(number)).write_text("upgraded %d" % number * 100)
    world.backup()
    second.pull(policy=world.policy(anomaly={"changed_percent": 0}))
    assert [snapshot.held for snapshot in second.target.list()] == [None, None]


def test_the_host_goes_on_at_the_second_vault_and_the_first_gets_the_copies(world: World, second: Second) -> None:
    """What a move or the loss of a vault comes to."""
    ids = fill(world, 2)
    second.pull()
    moved = world.policy(target=str(second.vault))
    (world.src / "changing").write_text("after the move")
    assert error_of(world.backup, policy=moved).kind == "restore_first"
    ids.append(str(world.backup(policy=moved, adopt=True).snapshot_id))
    assert second.ids() == ids[::-1] and second.target.list()[0].copied is None
    back = replicate(moved, check_target(str(world.vault), "to"), state_directory=str(world.root / "keeper-1"))
    assert [item["id"] for item in back.copied] == ids[-1:] and back.rc == 0
    assert [snapshot.id for snapshot in world.snapshots()] == ids[::-1]
    second.check_same()


def with_copy(world: World, second: Second, **changes: Any) -> Policy:
    """The host's policy, which names the second vault as a place of copies."""
    return world.policy(copies=[str(world.root / "nowhere"), str(second.vault)], **changes)


@pytest.mark.parametrize("lost", ["vault", "history", "host and vault"])
def test_a_restore_goes_on_to_the_copy_where_the_vault_is_lost(world: World, second: Second, lost: str) -> None:
    ids = fill(world, 2)
    second.pull()
    before = fingerprint(world.src)
    shutil.rmtree(world.vault if lost != "history" else world.history)
    if lost == "host and vault":
        shutil.rmtree(world.state)
    assert error_of(world.restore, dest=world.root / "out").kind in ("history_lost", "no_snapshot")
    policy = with_copy(world, second)
    would = world.restore(policy=policy, dest=world.root / "out", dry_run=True)
    assert would.snapshot_id == ids[-1] and not (world.root / "out").exists()
    done = world.restore(policy=policy, dest=world.root / "out")
    assert (done.snapshot_id, done.verified, done.rc) == (ids[-1], True, 3)
    assert len(done.warnings) == 1 and str(second.vault) in done.warnings[0] and str(world.vault) in done.warnings[0]
    assert differences(before, fingerprint(world.restored(world.root / "out"))) == []


def test_a_restore_takes_from_the_copy_what_is_damaged_in_the_vault_and_nothing_else(world: World, second: Second) -> None:
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    assert world.restore(dest=world.root / "first").rc == 7
    done = world.restore(policy=with_copy(world, second), dest=world.root / "out")
    assert (done.damaged, done.verified, done.files_restored, done.rc) == ([], True, 4, 3) and "1 file of it cannot be read" in done.warnings[0]
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []


def test_a_snapshot_that_the_vault_has_pruned_is_found_in_the_copy(world: World, second: Second) -> None:
    ids = fill(world, 3)
    second.pull()
    prune(world.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(world.state))
    done = world.restore(policy=with_copy(world, second), dest=world.root / "out", snapshot=ids[0])
    assert done.snapshot_id == ids[0] and (world.restored(world.root / "out") / "changing").read_text() == "number 0"


def forge(second: Second, snapshot_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the copy another snapshot under the same id, whole and with a receipt of its own: whoever keeps the copies can, in 2^32 attempts."""
    monkeypatch.setattr(layout, "make_id", lambda created, digest: snapshot_id)
    place = second.history / "snapshots" / snapshot_id
    snapshot = next(item for item in second.target.list() if item.id == snapshot_id)
    evil = hashlib.sha256(b"evil").hexdigest()
    entries = []
    for entry in second.target.manifest(snapshot).entries:
        if entry.path.endswith(b"/a"):
            entry = entry._replace(size=4, hash=evil)
            stored = Path(os.fsdecode(os.fsencode(place / "tree") + b"/" + entry.path))
            stored.unlink()
            stored.write_text("evil")
        entries.append(entry)
    forged = Manifest.from_entries(second.target.manifest(snapshot).header, entries)
    (place / "manifest.jsonl.gz").write_bytes(forged.to_bytes())
    second.world.edit_json(place / "receipt.json", digest=forged.digest, content_digest=forged.content_digest)


@pytest.mark.parametrize("lost", ["content", "manifest"])
def test_a_copy_gives_what_the_vault_has_told_of_or_nothing(world: World, second: Second, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a") if lost == "content" else world.history / "snapshots" / only / "manifest.jsonl.gz")
    policy = with_copy(world, second)
    assert world.restore(policy=policy, dest=world.root / "honest").verified
    forge(second, only, monkeypatch)
    if lost == "manifest":
        assert error_of(world.restore, policy=policy, dest=world.root / "out").kind == "manifest"
        assert not (world.root / "out").exists()
        return
    done = world.restore(policy=policy, dest=world.root / "out")
    assert done.damaged == [str(world.src / "a")] and done.rc == 7
    assert not (world.restored(world.root / "out") / "a").exists()
    (said,) = done.warnings
    assert str(second.vault) in said and "receipts differ" in said
    shutil.rmtree(world.vault)  # the copy is all that there is, and what it says must do
    assert world.restore(policy=policy, dest=world.root / "alone").verified


def test_a_copy_that_lags_gives_nothing_where_the_vault_has_named_a_newer_snapshot(world: World, second: Second) -> None:
    fill(world, 1)
    second.pull()
    (world.src / "changing").write_text("newest")
    newest = str(world.backup().snapshot_id)
    damage(world.history / "snapshots" / newest / "manifest.jsonl.gz")
    error = error_of(world.restore, policy=with_copy(world, second), dest=world.root / "out")
    assert error.kind == "manifest" and newest in error.message


def test_of_a_copy_the_content_of_what_is_damaged_is_read_and_no_manifest(world: World, second: Second) -> None:
    """Of a manifest's header a receipt covers little: the copy's could name other sources."""
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    for name in ("b", "changing", "sub/c"):
        damage(Path(str(second.history / "snapshots" / only / "tree") + str(world.src / name)))
    (second.history / "snapshots" / only / "manifest.jsonl.gz").write_bytes(b"nothing")
    done = world.restore(policy=with_copy(world, second), dest=world.root / "out")
    assert (done.damaged, done.verified, done.files_restored) == ([], True, 4)
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []


def test_a_drill_is_no_better_than_the_vault_itself(world: World, second: Second) -> None:
    """What it reads is what it proves: a copy elsewhere must not make a damaged vault look good."""
    (only,) = fill(world, 1)
    second.pull()
    damage(world.stored(only, "a"))
    done = drill(with_copy(world, second), state_directory=str(world.state))
    assert not done.ok


def rehearse_loss(world: World, policy: Policy, **options: Any) -> DrillResult:
    return drill(policy, state_directory=str(world.state), scenario="lost-vault", **options)


def test_a_drill_without_the_vault_restores_from_the_first_copy_alone(world: World, second: Second) -> None:
    ids = fill(world, 2)
    second.pull()
    (world.src / "changing").write_text("not copied yet")
    world.backup()
    policy = world.policy(copies=[str(second.vault), str(world.root / "nowhere")], objectives={"rpo": "1h", "rto": "1h"})
    shutil.rmtree(world.vault)
    assert not drill(policy, state_directory=str(world.state)).ok
    would = rehearse_loss(world, policy, dry_run=True)
    assert (would.verdict, would.snapshot_id) == (None, ids[-1])
    done = rehearse_loss(world, policy)
    assert (done.verdict, done.rc, done.snapshot_id, done.target, done.scenario) == ("passed", 0, ids[-1], str(second.vault), "lost-vault"), done.checks
    assert second.target.list()[0].drilled and not second.target.list()[1].drilled
    assert not world.vault.exists()


def test_the_freshness_of_a_copy_is_its_own_and_not_the_vaults(world: World, second: Second) -> None:
    fill(world, 1)
    second.pull()
    policy = world.policy(copies=[str(second.vault)], objectives={"rpo": "1s"})
    (world.src / "changing").write_text("not copied")
    time.sleep(2.1)
    world.backup()
    of_the_vault = drill(policy, state_directory=str(world.state)).rpo
    done = rehearse_loss(world, policy)
    assert of_the_vault is not None and done.rpo is not None and done.rpo >= 2 and done.rpo > of_the_vault
    (failed,) = [check for check in done.checks if check["ok"] is False]
    assert (done.verdict, failed["name"], done.rc) == ("missed", "rpo", 1) and "the objective is 1s" in failed["reason"]
    second.pull()
    assert rehearse_loss(world, world.policy(copies=[str(second.vault)], objectives={"rpo": "1h"})).verdict == "passed"


def test_a_copy_of_what_the_host_finds_unchanged_is_as_fresh_as_the_host_says(world: World, second: Second) -> None:
    fill(world, 1)
    second.pull()
    time.sleep(1.5)
    assert world.backup().unchanged
    done = rehearse_loss(world, world.policy(copies=[str(second.vault)]))
    assert done.verdict == "passed" and done.rpo is not None and done.rpo <= 1


@pytest.mark.parametrize("why", ["no copies", "empty", "damaged"])
def test_a_drill_without_the_vault_fails_where_no_copy_could_serve(world: World, second: Second, why: str) -> None:
    (only,) = fill(world, 1)
    if why == "damaged":
        second.pull()
        damage(Path(str(second.history / "snapshots" / only / "tree") + str(world.src / "a")))
    done = rehearse_loss(world, world.policy(copies=[] if why == "no copies" else [str(second.vault)]))
    assert done.verdict == "failed" and done.rc == {"no copies": 6, "empty": 4, "damaged": 7}[why]
    failure = done.failure()
    assert failure is not None and {"no copies": "names no copies", "empty": str(second.vault), "damaged": "damaged"}[why] in failure.message
    if why == "no copies":
        assert failure.kind == "no_copy" and error_of(rehearse_loss, world, world.policy(), dry_run=True).kind == "no_copy"


def test_where_no_copy_can_serve_either_the_vaults_own_error_is_told(world: World, second: Second) -> None:
    fill(world, 1)
    shutil.rmtree(world.vault)
    error = error_of(world.restore, policy=with_copy(world, second), dest=world.root / "out")
    assert error.kind == "history_lost" and error.found == str(world.vault)


def test_what_the_vault_refuses_no_copy_is_asked_for(world: World, second: Second) -> None:
    fill(world, 1)
    second.pull()
    (world.src / "a").write_text("newer than the snapshot")
    assert error_of(world.restore, policy=with_copy(world, second)).kind == "confirm"
    assert (world.src / "a").read_text() == "newer than the snapshot"


@needs_sshd
def test_a_vault_over_ssh_is_copied_from_with_a_key_that_may_read_and_with_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target import portions

    monkeypatch.setattr(portions, "_PORTION", 4000)  # so that there are several
    for storage in STORAGES:
        away = Away.over(storage)
        try:
            fill_oddly(away.src, as_root=AS_ROOT)
            ids = fill(away, 3)
            second = Second(away, OTHER[storage])
            assert error_of(second.pull, policy=away.writing()).kind == "scope"
            assert second.target.list() == []
            done = second.pull()
            assert done.rc == 0 and [item["id"] for item in done.copied] == ids
            second.check_same()
            assert not second.pull().changed
            damaged = fill(away, 1)[0]
            damage(away.stored(damaged, "changing"))
            done = second.pull()
            assert [item["paths"] for item in done.refused] == [[str(away.src / "changing")]] and second.ids() == ids[::-1]
            second.check_same()
            away.hang_up()
            away.server.stop()
            error = error_of(second.pull)
            assert (error.kind, error.rc) == ("unreachable", 6) and second.ids() == ids[::-1]
        finally:
            away.destroy()


@needs_sshd
def test_the_key_of_a_second_vault_reads_every_history_and_adds_to_none(portable: World) -> None:
    away = Away.over("portable")
    try:
        fill(away, 1)
        shutil.copytree(away.vault / "h", away.vault / "h2")
        for receipt in (away.vault / "h2").glob("p/snapshots/*/receipt.json"):
            away.edit_json(receipt, host="h2")
        key = away.server.add_key("copies", "--vault", str(away.vault), "--copies")
        pulling = policy_of(away.src, away.server.target(key))
        second = Second(away)
        assert len(second.pull(policy=pulling).copied) == 1
        second.check_same()
        # Its manifest is the other host's still: it could be read, and is refused for what it is.
        assert [item["kind"] for item in second.pull(policy=pulling.of_host("h2")).refused] == ["manifest"]
        before = fingerprint(away.vault / "h")
        (away.src / "a").write_text("changed")
        for host in ("h", "new", "copies"):
            error = error_of(away.backup, policy=pulling.of_host(host), adopt=host == "h")
            assert (error.kind, error.rc) == ("scope", 4), error
        remote = open_target(pulling.target, "h", "p")
        error = error_of(remote.tag, remote.list()[0], ["x"], [])
        assert (error.kind, error.rc) == ("scope", 4)
        assert differences(fingerprint(away.vault / "h"), before) == []
        argv = ["ssh", "-i", str(key), "-o", "UserKnownHostsFile=%s" % away.server.known_hosts, "-p", str(away.server.port), "127.0.0.1"]
        for asked in ("", "rsync --server -tI . p/%s/files/" % ("0" * 32), "id"):
            done = subprocess.run([*argv, asked], stdin=subprocess.DEVNULL, capture_output=True, check=False)
            assert done.returncode == 4 and b"reads copies alone" in done.stderr, done
    finally:
        away.destroy()


@pytest.mark.parametrize(
    "words", [["--copies", "--host", "h"], ["--vault", "/v", "--copies", "--host", "h"], ["--vault", "/v", "--copies", "--read"], ["--vault", "v", "--copies"]]
)
def test_a_key_for_copies_is_that_and_nothing_else(words: List[str]) -> None:
    argv = [sys.executable, "-m", AGENT, "serve", *words]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "serve --vault DIR --copies" in done.stderr


def command(second: Second, *words: str) -> Tuple[int, Dict[str, Any]]:
    policy = second.world.root / "p.json"
    policy.write_text(json.dumps(second.world.policy().to_mapping()))
    argv = [sys.executable, "-m", AGENT, "replicate", str(policy), *words, "--state", str(second.state), "--json"]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_the_command_line_copies_and_says_what_it_did(portable: World) -> None:
    second = Second(portable)
    ids = fill(portable, 2)
    assert command(second)[0] == 2
    code, done = command(second, "--to", str(second.vault))
    assert (code, done["count"], done["newest"], done["changed"]) == (0, 2, ids[1], True)
    damage(portable.stored(fill(portable, 1)[0], "changing"))
    code, done = command(second, "--to", str(second.vault))
    assert code == 7 and done["error"]["kind"] == "damaged_source" and len(done["refused"]) == 1


@pytest.mark.torture
def test_copies_killed_at_random_instants_leave_only_whole_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FORK_PAYS_ITEMS", 100)
    kills = max(4, int(os.environ.get("INSTANTS", "8")))
    luck = random.Random(int(os.environ.get("SEED", "5")))
    for storage in STORAGES:
        world = World.make(storage)
        try:
            hit = number = 0
            typical = 0.3
            make_source(world.src, luck)
            second = Second(world)
            while hit < kills // len(STORAGES):
                world.backup()
                hit, typical = hit + killed_at(second.pull, luck.uniform(0, typical)), typical
                for snapshot in second.target.list() if second.vault.exists() else ():
                    assert second.target.verify(snapshot, depth="full", record=False).ok
                started = time.monotonic()
                assert second.pull().rc == 0
                typical = max(0.1, time.monotonic() - started)
                second.check_same()
                assert second.ids() == [snapshot.id for snapshot in world.snapshots()]
                number += 1
                if number % 4 == 0:  # every snapshot is read after every kill
                    for path in (world.vault, world.state, second.vault, second.state):
                        shutil.rmtree(path)
                change(world.src, luck, number)
        finally:
            world.destroy()


def test_what_had_come_when_a_copy_was_killed_is_used(world: World, second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import receive

    make_source(world.src, random.Random(1))
    world.backup()
    taken: List[Tuple[int, int]] = []
    real, parent = receive.copy_file, os.getpid()

    def fall(source: int, destination: int, **more: Any) -> Any:
        taken.append((source, destination))
        if len(taken) == 300:
            os.killpg(0, 9)
        return real(source, destination, **more)

    pid = os.fork()
    if pid == 0:
        os.setsid()
        monkeypatch.setattr(receive, "copy_file", fall)
        second.pull()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]) and parent == os.getpid()
    (files,) = second.history.glob("incoming/*/files")
    assert len([path for path in files.rglob("*") if path.is_file()]) >= 250
    done = second.pull()
    assert done.rc == 0 and 0 < done.files_sent < 400
    second.check_same()
