# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies from and into sealed packs: the same snapshots under another key, whatever is killed, damaged, pruned or forged."""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.locate import open_target
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.replicate import ReplicateResult, replicate
from ansible_collections.openclaw.backup.plugins.module_utils.action.restore import RestoreRequest, restore
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.policy.target_spec import check_target
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import copy as copy_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import session
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.store import DirectoryStore
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.target import PackTarget
from ansible_collections.openclaw.backup.tests.torture import change, make_source

from .buckets import Bucketed, Proxy
from .world import Packed, World, assert_same, error_of, killed_at

KINDS = ["tree to packs", "packs to tree", "packs to packs"]


class Copies:
    """Another vault beside that of ``world``, of plain files or of packs under a key of its own."""

    def __init__(self, world: World, *, packs: bool = True) -> None:
        self.world = world
        self.vault = world.root / "copies"
        self.state = world.root / "copies-state"
        self.key = world.root / "copies-key"
        self.key.write_text(os.urandom(32).hex())
        self.key.chmod(0o600)
        self.spec: Dict[str, Any] = {"url": "pack://%s" % self.vault, "key_file": str(self.key)} if packs else {"url": str(self.vault)}

    @property
    def target(self) -> Any:
        return open_target(check_target(self.spec, "to"), "h", "p")

    def pull(self, *, dry_run: bool = False, policy: Optional[Policy] = None, repair: bool = False) -> ReplicateResult:
        to = check_target(self.spec, "to")
        return replicate(policy or self.world.policy(), to, state_directory=str(self.state), repair=repair, dry_run=dry_run)

    def ids(self) -> List[str]:
        return [snapshot.id for snapshot in self.target.list()]

    def policy(self, **changes: Any) -> Policy:
        return Policy.from_mapping({"name": "p", "host": "h", "sources": [str(self.world.src)], "target": self.spec, **changes}, default_host="h")

    def packs(self) -> List[Path]:
        return sorted((self.vault / "h" / "p" / "packs").iterdir())

    def check_same(self) -> None:
        """Every snapshot that both have is the same, and whole."""
        theirs = {snapshot.id: snapshot for snapshot in self.world.snapshots()}
        target, source = self.target, open_target(self.world.policy().target, "h", "p")
        for snapshot in target.list():
            assert target.verify(snapshot, depth="full", record=False).ok
            if snapshot.id in theirs:
                assert snapshot.receipt == theirs[snapshot.id].receipt
                assert target.manifest(snapshot).to_bytes() == source.manifest(theirs[snapshot.id]).to_bytes()

    def comes_back(self, snapshot: str = "latest") -> Path:
        dest = self.world.root / ("from-copies-%s" % os.urandom(4).hex())
        done = restore(self.policy(), RestoreRequest(snapshot=snapshot, dest=str(dest)), state_directory=str(self.state), is_own_history=False)
        assert done.verified and done.rc == 0
        return self.world.restored(dest)


def made(kind: str) -> Copies:
    world = Packed.make() if kind.startswith("packs") else World.make("portable")
    return Copies(world, packs=kind.endswith("packs"))


@pytest.fixture(params=KINDS)
def copies(request: pytest.FixtureRequest) -> Iterator[Copies]:
    found = made(request.param)
    yield found
    found.world.destroy()


@pytest.fixture
def sealed() -> Iterator[Copies]:
    """From plain files to packs."""
    found = made(KINDS[0])
    yield found
    found.world.destroy()


@pytest.fixture
def between() -> Iterator[Copies]:
    """From packs to packs."""
    found = made(KINDS[2])
    yield found
    found.world.destroy()


def fill(world: World, count: int, luck: Optional[random.Random] = None) -> List[str]:
    """So many snapshots, the oldest first: two files that stay, and one that changes."""
    luck = luck or random.Random(1)
    ids = []
    for number in range(count):
        for name in ("a", "sub/b"):
            path = world.src / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_bytes(luck.randbytes(3000))
        (world.src / "changing").write_text("number %d" % number)
        ids.append(str(world.backup().snapshot_id))
    return ids


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


# ---- the same snapshots --------------------------------------------------------------------------------------------------


def test_a_history_is_copied_as_it_is_and_a_second_time_nothing_is(copies: Copies) -> None:
    world = copies.world
    (world.src / "large").write_bytes(os.urandom(9 << 20))
    (world.src / "empty").touch()
    (world.src / "twice").write_bytes(b"content")
    (world.src / "again").write_bytes(b"content")
    os.link(world.src / "large", world.src / "linked")
    os.symlink("a", world.src / "link")
    ids = fill(world, 2)
    world.backup(tags=["before-upgrade"])
    would = copies.pull(dry_run=True)
    assert would.changed and not copies.vault.exists()
    done = copies.pull()
    assert done.rc == 0 and [item["id"] for item in done.copied] == ids and done.newest == ids[-1] and would.copied == done.copied
    assert copies.ids() == ids[::-1]
    newest = copies.target.list()[0]
    assert newest.tags == ("before-upgrade",) and newest.copied["at"] > newest.receipt.created
    copies.check_same()
    assert_same(world.src, copies.comes_back())
    again = copies.pull()
    assert not again.changed and (again.present, again.copied, again.bytes_sent) == (2, [], 0)


def test_an_address_that_is_none_of_the_copies_is_told_so(sealed: Copies) -> None:
    fill(sealed.world, 1)
    to = check_target("s3://elsewhere/copies", "to")
    policy = sealed.world.policy(copies=[{"url": "s3://there/copies", "key_file": str(sealed.key)}])
    error = error_of(replicate, policy, to, state_directory=str(sealed.state))
    assert (error.rc, error.field, error.allowed) == (2, "to", "s3://there/copies")


def test_only_what_is_missing_is_sent(copies: Copies) -> None:
    fill(copies.world, 1)
    first = copies.pull()
    (copies.world.src / "new").write_bytes(b"x" * 5000)
    (copies.world.src / "a").rename(copies.world.src / "renamed")
    copies.world.backup()
    would, then = copies.pull(dry_run=True), copies.pull()
    assert (first.files_sent, then.files_sent, then.bytes_sent, would.copied) == (3, 1, 5000, then.copied)
    copies.check_same()


def test_between_packs_only_blocks_that_are_missing_are_read_and_stored(between: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    (between.world.src / "db").write_bytes(os.urandom(20 << 20))
    between.world.backup()
    between.pull()
    with open(between.world.src / "db", "r+b") as stream:
        stream.seek(9 << 20)
        stream.write(os.urandom(4096))
    between.world.backup()
    before = {path.name for path in between.packs()}
    read: List[int] = []
    get = DirectoryStore.get

    def count(store: DirectoryStore, name: str, *span: Any) -> Optional[bytes]:
        data = get(store, name, *span)
        if "/packs/" in name:
            read.append(len(data or b""))
        return data

    monkeypatch.setattr(DirectoryStore, "get", count)
    done = between.pull()
    assert done.rc == 0 and sum(read) < 5 << 20
    assert sum(path.stat().st_size for path in between.packs() if path.name not in before) < 5 << 20
    monkeypatch.undo()
    between.check_same()
    assert_same(between.world.src, between.comes_back())


def test_an_older_snapshot_that_comes_late_finds_its_place(between: Copies) -> None:
    ids = fill(between.world, 3)
    world = between.world
    assert isinstance(world, Packed)
    target = world.target
    second = next(snapshot for snapshot in target.list() if snapshot.id == ids[1])
    target.repository.change_state(target.repository.find(second.receipt), lambda state: {"damaged": {"at": second.receipt.created, "count": 1, "paths": [""]}})
    assert between.pull().rc == 7 and between.ids() == [ids[2], ids[0]]
    target.repository.change_state(target.repository.find(second.receipt), lambda state: {"damaged": None})
    assert between.pull().rc == 0 and between.ids() == ids[::-1]
    between.check_same()


def test_the_host_goes_on_with_the_copies(sealed: Copies) -> None:
    fill(sealed.world, 2)
    sealed.pull()
    from ansible_collections.openclaw.backup.plugins.module_utils.action.adopt import adopt

    shutil.rmtree(sealed.world.vault)
    adopt(sealed.policy(), state_directory=str(sealed.world.state))
    (sealed.world.src / "a").write_text("more")
    done = sealed.world.backup(policy=sealed.policy())
    assert done.changed and done.receipt is not None and done.receipt["sequence"] == 3
    assert_same(sealed.world.src, sealed.comes_back())


def test_what_is_removed_there_stays_and_what_is_removed_here_does_not_come_back(copies: Copies) -> None:
    ids = fill(copies.world, 4)
    copies.pull()
    prune(copies.policy(retention={"keep_last": 2, "protect": "0s"}), state_directory=str(copies.state))
    assert copies.ids() == ids[:1:-1]
    done = copies.pull()
    assert (done.changed, done.pruned, done.present) == (False, 2, 2) and copies.ids() == ids[:1:-1]
    prune(copies.world.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(copies.world.state))
    done = copies.pull()
    assert not done.changed and copies.ids() == ids[:1:-1]
    copies.check_same()
    assert not (copies.vault / "h" / "p" / "gone").exists(), "what the source has no more need not be remembered"


def test_without_the_key_a_prune_still_keeps_copies_from_coming_back(sealed: Copies) -> None:
    ids = fill(sealed.world, 4)
    sealed.pull()
    keyless = PackTarget(DirectoryStore(str(sealed.vault)), "h", "p", None)
    keyless.remove(lambda snapshots: {snapshot.id: "test" for snapshot in snapshots if snapshot.id != ids[-1]})
    kept = sealed.ids()
    assert not sealed.pull().changed and sealed.ids() == kept == ids[:2:-1]


# ---- what is wrong ---------------------------------------------------------------------------------------------------------


def test_damage_is_not_copied_but_named_and_everything_else_comes(copies: Copies) -> None:
    world = copies.world
    ids = fill(world, 2)
    if isinstance(world, Packed):
        known = set(world.objects("packs"))
        (world.src / "changing").write_bytes(os.urandom(3000))
        damaged = str(world.backup().snapshot_id)
        (pack,) = set(world.objects("packs")) - known
        damage(pack)
    else:
        (world.src / "changing").write_bytes(os.urandom(3000))
        damaged = str(world.backup().snapshot_id)
        damage(world.stored(damaged, "changing"))
    ids += fill(world, 1)
    done = copies.pull()
    assert done.rc == 7 and [(item["id"], item["paths"]) for item in done.refused] == [(damaged, [str(world.src / "changing")])]
    assert copies.ids() == ids[::-1]
    copies.check_same()
    assert copies.pull().rc == 7 and copies.ids() == ids[::-1]


def test_two_vaults_that_the_host_has_both_sent_to_are_not_mixed(copies: Copies) -> None:
    fill(copies.world, 1)
    copies.pull()
    from ansible_collections.openclaw.backup.plugins.module_utils.action.adopt import adopt

    adopt(copies.policy(), state_directory=str(copies.world.state))
    (copies.world.src / "a").write_text("sent to the copies")
    copies.world.backup(policy=copies.policy())
    before = copies.ids()
    fill(copies.world, 2)
    error = error_of(copies.pull)
    assert (error.kind, error.rc) == ("diverged", 4) and copies.ids() == before


def test_who_writes_to_the_copies_meanwhile_is_told_of(sealed: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = fill(sealed.world, 3)
    sealed.pull()
    other = copy.copy(sealed)
    other.state = sealed.world.root / "other-state"
    ids += fill(sealed.world, 2)
    real, met = copy_module.PackCopySession.commit, []

    def commit(self: copy_module.PackCopySession, *arguments: Any) -> Any:
        if not met:
            met.append(self)
            assert other.pull().rc == 0
        return real(self, *arguments)

    monkeypatch.setattr(copy_module.PackCopySession, "commit", commit)
    done = sealed.pull()
    assert done.rc == 0 and sealed.ids() == ids[::-1], "another copy of the same snapshot was faster"
    sealed.check_same()
    (sealed.world.src / "a").write_text("more")
    sealed.world.backup()
    fill(sealed.world, 1)
    newest = sealed.world.snapshots()[0].id
    prune(sealed.world.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(sealed.world.state))
    from ansible_collections.openclaw.backup.plugins.module_utils.action.adopt import adopt

    def host_comes_in_between(self: copy_module.PackCopySession, *arguments: Any) -> Any:
        adopt(sealed.policy(), state_directory=str(sealed.world.root / "third-state"))
        (sealed.world.src / "a").write_text("sent to the copies")
        sealed.world.backup(policy=sealed.policy(), state_directory=str(sealed.world.root / "third-state"))
        return real(self, *arguments)

    monkeypatch.setattr(copy_module.PackCopySession, "commit", host_comes_in_between)
    error = error_of(sealed.pull)
    assert (error.kind, error.rc) == ("writer", 4) and newest not in sealed.ids()


def test_one_copy_at_a_time_goes_from_here(sealed: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(sealed.world, 1)
    errors: List[Any] = []
    real = copy_module.PackCopySession.commit

    def commit(self: copy_module.PackCopySession, *arguments: Any) -> Any:
        errors.append(error_of(sealed.pull))
        return real(self, *arguments)

    monkeypatch.setattr(copy_module.PackCopySession, "commit", commit)
    assert sealed.pull().rc == 0 and [error.rc for error in errors] == [5]


@pytest.mark.parametrize("where", ["same", "inside"])
def test_packs_are_not_copied_into_themselves(between: Copies, where: str) -> None:
    fill(between.world, 1)
    between.spec["url"] = "pack://%s%s" % (between.world.vault, "" if where == "same" else "/inside")
    assert error_of(between.pull).rc == 2
    bucket = {"url": "s3://one/a", "key_file": "/key", "endpoint": "https://s3.example"}
    policy = between.world.policy(target=bucket)
    between.spec = {**bucket, "url": "s3://one/a" + ("" if where == "same" else "/b")}
    assert error_of(between.pull, policy=policy).rc == 2


def test_a_place_of_packs_that_is_not_there_is_no_empty_history(between: Copies) -> None:
    error = error_of(between.pull)
    assert (error.kind, error.rc) == ("not_a_vault", 6)
    fill(between.world, 1)
    between.pull()
    shutil.rmtree(between.world.vault)
    assert error_of(between.pull).rc == 6 and len(between.ids()) == 1


def test_a_key_that_is_wrong_is_told_before_anything_is_written(sealed: Copies) -> None:
    fill(sealed.world, 1)
    sealed.pull()
    before = sorted(path for path in sealed.vault.rglob("*"))
    sealed.key.write_text(os.urandom(32).hex())
    fill(sealed.world, 1)
    error = error_of(sealed.pull)
    assert (error.kind, error.rc) == ("key", 6) and sorted(path for path in sealed.vault.rglob("*")) == before


# ---- cut off ---------------------------------------------------------------------------------------------------------------


def cut_off(copies: Copies, monkeypatch: pytest.MonkeyPatch, stores: int) -> None:
    """A pull that is killed, with all its processes, when that many packs are stored."""
    put = DirectoryStore.put
    counter = copies.world.root / "stored"
    counter.write_bytes(b"")

    def fall(store: DirectoryStore, name: str, *arguments: Any, **more: Any) -> bool:
        done = put(store, name, *arguments, **more)
        if "/packs/" in name:
            if counter.stat().st_size == stores:
                os.killpg(0, 9)
            with counter.open("ab") as stream:
                stream.write(b".")
        return done

    pid = os.fork()
    if pid == 0:
        os.setsid()
        monkeypatch.setattr(DirectoryStore, "put", fall)
        copies.pull()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
def test_what_had_come_when_a_copy_was_killed_is_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PACK", 1 << 20)
    monkeypatch.setattr(copy_module, "PACK", 1 << 20)
    copies = made(kind)
    try:
        for number in range(60):
            (copies.world.src / str(number)).write_bytes(os.urandom(200_000))
        (copies.world.src / "large").write_bytes(os.urandom(30 << 20))
        copies.world.backup()
        cut_off(copies, monkeypatch, 12)
        assert copies.ids() == []
        before = {path.name: path.stat().st_size for path in copies.packs()}
        assert len(before) >= 12
        done = copies.pull()
        after = {path.name: path.stat().st_size for path in copies.packs()}
        total = sum(path.stat().st_size for path in copies.world.src.iterdir())
        assert done.rc == 0 and sum(after.values()) < total + (6 << 20), "nothing but what was on its way is stored twice"
        copies.check_same()
        assert_same(copies.world.src, copies.comes_back())
        assert not copies.pull().changed and not list(copies.state.rglob("copy.jsonl"))
    finally:
        copies.world.destroy()


def test_packs_that_a_prune_took_from_a_copy_that_was_cut_off_are_stored_again(sealed: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PACK", 1 << 20)
    for number in range(30):
        (sealed.world.src / str(number)).write_bytes(os.urandom(200_000))
    sealed.world.backup()
    cut_off(sealed, monkeypatch, 3)
    sealed.packs()[0].unlink()
    damaged = sealed.packs()[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    journal = next(sealed.state.rglob("copy.jsonl"))
    journal.write_bytes(journal.read_bytes() + b'{"repository": "cut sho')
    assert sealed.pull().rc == 0
    sealed.check_same()
    assert_same(sealed.world.src, sealed.comes_back())


@pytest.mark.torture
@pytest.mark.parametrize("kind", KINDS)
def test_copies_killed_at_random_instants_leave_only_whole_snapshots(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FORK_PAYS_ITEMS", 100)
    luck = random.Random(int(os.environ.get("SEED", "7")))
    copies = made(kind)
    try:
        make_source(copies.world.src, luck)
        typical = 0.4
        for number in range(max(3, int(os.environ.get("INSTANTS", "9")) // len(KINDS))):
            copies.world.backup()
            killed_at(copies.pull, luck.uniform(0, typical))
            for snapshot in copies.target.list() if copies.vault.exists() else ():
                assert copies.target.verify(snapshot, depth="full", record=False).ok
            started = time.monotonic()
            assert copies.pull().rc == 0
            typical = max(0.1, time.monotonic() - started)
            assert copies.ids() == [snapshot.id for snapshot in copies.world.snapshots()]
            copies.check_same()
            change(copies.world.src, luck, number)
    finally:
        copies.world.destroy()


# ---- limits ----------------------------------------------------------------------------------------------------------------


def moved_at(rate: int, pull: Callable[[], Any], moved: Callable[[], int]) -> int:
    """Bytes that went, not faster than ``rate`` allows; a tenth of a second may be on credit."""
    before, started = moved(), time.monotonic()
    assert pull().rc == 0
    took, size = time.monotonic() - started, moved() - before
    assert took >= size / rate - 0.15, (size, took)
    return size


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_sent_or_read_in_a_second_than_the_policy_allows(kind: str) -> None:
    copies = made(kind)
    try:
        content = os.urandom(900 << 10)
        (copies.world.src / "large").write_bytes(content[: 700 << 10])
        for number in range(100):
            (copies.world.src / str(number)).write_bytes(content[(700 << 10) + (number << 11) :][: 2 << 10])
        copies.world.backup()
        policy = copies.world.policy(transfer={"bwlimit": "512k"})

        def stored() -> int:
            return sum(path.stat().st_size for path in copies.vault.rglob("*") if path.is_file()) if copies.vault.exists() else 0

        # Random bytes do not shrink: what lies there afterwards is what went, and a vault of packs holds nothing else of this size.
        assert moved_at(512 << 10, lambda: copies.pull(policy=policy), stored) >= 900 << 10
        copies.check_same()
    finally:
        copies.world.destroy()


def test_no_more_goes_to_and_from_a_bucket_in_a_second_than_the_policy_allows(moto: int) -> None:
    proxy = Proxy(moto)
    bucket = Bucketed.behind(proxy)
    plain = World(bucket.root)
    try:
        content = os.urandom(800 << 10)
        (plain.src / "large").write_bytes(content)
        there = Policy.from_mapping({"name": "p", "host": "h", "sources": [str(plain.src)], "target": str(bucket.root / "plain")}, default_host="h")
        plain.backup(policy=there)
        limit = {"bwlimit": "512k"}
        copies, back = Copies(bucket), Copies(bucket, packs=False)
        copies.spec = bucket.spec()
        limited = Policy.from_mapping({**there.to_mapping(), "transfer": limit}, default_host="h")
        sent = moved_at(512 << 10, lambda: copies.pull(policy=limited), lambda: sum(item.length for item in proxy.asked))
        assert sent >= len(content)
        received: List[int] = [0]

        def alter(asked: Any, answer: Any) -> Any:
            received[0] += len(answer.body)
            return answer

        proxy.alter = alter
        assert moved_at(512 << 10, lambda: back.pull(policy=copies.policy(transfer=limit)), lambda: received[0]) >= len(content)
        assert_same(plain.src, back.comes_back())
        (plain.src / "large").write_bytes(os.urandom(600 << 10))
        proxy.asked.clear()
        own = Policy.from_mapping({**copies.policy().to_mapping(), "name": "q", "transfer": limit}, default_host="h")
        assert moved_at(512 << 10, lambda: bucket.backup(policy=own), lambda: sum(item.length for item in proxy.asked)) >= 600 << 10
    finally:
        bucket.destroy()
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_is_copied_in_little_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (session, copy_module):
        monkeypatch.setattr(module, "PACK", 8 << 20)
    monkeypatch.setattr(pool, "available_cpus", lambda: 1)
    copies = made(kind)
    try:
        with open(copies.world.src / "large", "wb") as stream:
            for _piece in range(24):
                stream.write(os.urandom(4 << 20))
        copies.world.backup()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                copies.pull()
                os.write(writing, b"%d" % (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        with open(reading, "rb") as stream_of_child:
            grown = int(stream_of_child.read() or b"-1") << 10
        assert 0 <= grown < 64 << 20, grown
        assert len(copies.ids()) == 1
    finally:
        copies.world.destroy()


# ---- buckets ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxies(moto: int, rclone: int) -> Iterator[List[Proxy]]:
    """Two services: one that does not know conditional writes, and one that does."""
    found = [Proxy(rclone), Proxy(moto)]
    yield found
    for proxy in found:
        proxy.shutdown()
        proxy.server_close()


def test_from_a_vault_to_a_bucket_to_another_bucket_and_back(proxies: List[Proxy]) -> None:
    first, second = (Bucketed.behind(proxy) for proxy in proxies)
    plain = World(first.root)
    try:
        (plain.src / "large").write_bytes(os.urandom(5 << 20))
        vault = Policy.from_mapping({"name": "p", "host": "h", "sources": [str(plain.src)], "target": str(first.root / "plain")}, default_host="h")
        ids: List[str] = []
        for number in range(2):
            (plain.src / "changing").write_text("number %d" % number)
            ids.append(str(plain.backup(policy=vault).snapshot_id))
        chain = [Copies(first), Copies(second), Copies(first, packs=False)]
        chain[0].spec, chain[1].spec = first.spec(), second.spec()
        source = vault
        for number, copies in enumerate(chain):
            for proxy in proxies:
                proxy.asked.clear()
            done = copies.pull(policy=source)
            assert done.rc == 0 and [item["id"] for item in done.copied] == ids and copies.ids() == ids[::-1]
            asked = done.requests["to"]
            assert (asked is None) == (number == 2) and (done.requests["source"] is None) == (number == 0)
            for snapshot in copies.target.list():
                assert copies.target.verify(snapshot, depth="full", record=False).ok
            for proxy in proxies:
                proxy.asked.clear()
            again = copies.pull(policy=source)
            assert not again.changed and sum(item.verb in ("put", "delete") for proxy in proxies for item in proxy.asked) == 0
            source = copies.policy()
        assert_same(plain.src, chain[2].comes_back())
        receipts = [[snapshot.receipt for snapshot in copies.target.list()] for copies in chain]
        assert receipts[0] == receipts[1] == receipts[2] == [snapshot.receipt for snapshot in open_target(vault.target, "h", "p").list()]
        # What is lost or damaged here comes from the bucket.
        with_copy = Policy.from_mapping({**vault.to_mapping(), "copies": [first.spec()]}, default_host="h")
        shutil.rmtree(first.root / "plain")
        done_restore = plain.restore(policy=with_copy, dest=first.root / "from-bucket")
        assert (done_restore.verified, done_restore.rc, len(done_restore.warnings)) == (True, 3, 1)
        assert_same(plain.src, plain.restored(first.root / "from-bucket"))
        # And what is damaged in the bucket, from the other one.
        pack = max(first.keys("packs"), key=lambda key: len(first.content(key)))
        data = bytearray(first.content(pack))
        data[len(data) // 2] ^= 1
        first.client().put_object(Bucket=first.bucket, Key=pack, Body=bytes(data))
        bucket = chain[0].policy(copies=[second.spec()])
        healed = plain.restore(policy=bucket, dest=first.root / "healed", state_directory=str(first.root / "third"))
        assert (healed.verified, healed.damaged, healed.rc) == (True, [], 3)
        assert_same(plain.src, plain.restored(first.root / "healed"))
    finally:
        first.destroy()
        second.destroy()


def test_a_changed_snapshot_costs_a_bucket_two_uploads(moto: int) -> None:
    proxy = Proxy(moto)
    bucket = Bucketed.behind(proxy)
    plain = World(bucket.root)
    try:
        vault = Policy.from_mapping({"name": "p", "host": "h", "sources": [str(plain.src)], "target": str(bucket.root / "plain")}, default_host="h")
        copies = Copies(bucket)
        copies.spec = bucket.spec()
        for number in range(3):
            (plain.src / "changing").write_text("number %d" % number)
            plain.backup(policy=vault)
            proxy.asked.clear()
            done = copies.pull(policy=vault)
            assert done.requests["to"] is not None
            assert json.loads(json.dumps(done.to_dict()))["requests"]["source"] is None
        # What is there, whether the service knows conditions, a pack and a manifest; what it has is read.
        dear, cheap, free = proxy.classes()
        assert (dear, free) == (4, 0) and cheap <= 3
        assert done.requests["to"]["class_a"] == dear
    finally:
        bucket.destroy()
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_packs_are_made_whole_from_the_other_vault(kind: str, how: str) -> None:
    copies = made(kind)
    try:
        (copies.world.src / "large").write_bytes(os.urandom(9 << 20))
        (copies.world.src / "large too").write_bytes(os.urandom(5 << 20))
        ids = fill(copies.world, 3)
        copies.pull()
        pack = max(copies.packs(), key=lambda path: path.stat().st_size)
        if how == "flipped":
            damage(pack)
        elif how == "cut":
            pack.write_bytes(pack.read_bytes()[: 6 << 20])
        else:
            pack.unlink()
        first = copies.target.list()[-1]
        assert not copies.target.verify(first, depth="full").ok
        would = copies.pull(repair=True, dry_run=True)
        done = copies.pull(repair=True)
        assert done.rc == 0 and [item["id"] for item in done.repaired] == [ids[0]] and would.repaired == done.repaired
        assert done.repaired[0]["whole"] and done.repaired[0]["paths"] == (1 if how == "flipped" else done.repaired[0]["paths"]) and done.bytes_sent
        snapshot = copies.target.list()[-1]
        assert snapshot.damaged is None and snapshot.verified and snapshot.copied and snapshot.receipt == first.receipt
        copies.check_same()
        assert_same(copies.world.src, copies.comes_back())
        assert not copies.pull(repair=True).changed and copies.ids() == ids[::-1]
    finally:
        copies.world.destroy()


def test_what_the_other_vault_has_damaged_too_is_named_and_the_rest_is_repaired(sealed: Copies) -> None:
    ids = fill(sealed.world, 1)
    (sealed.world.src / "later").write_bytes(os.urandom(3000))
    ids.append(str(sealed.world.backup().snapshot_id))
    sealed.pull()
    for pack in sealed.packs():
        damage(pack)
    for snapshot in sealed.target.list():
        assert not sealed.target.verify(snapshot, depth="full").ok
    for name in ("a", "sub/b", "changing"):
        damage(sealed.world.stored(ids[0], name))
    done = sealed.pull(repair=True)
    assert done.rc == 7 and {item["id"] for item in done.unrepaired} == set(ids) and done.repaired == []
    assert sum(not sealed.target.verify(snapshot, depth="full").ok for snapshot in sealed.target.list()) == 2
    assert str(sealed.world.src / "later") not in [path for item in done.unrepaired for path in item["paths"]]
