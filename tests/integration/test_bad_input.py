# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is wrong with the input: one clear error with a way out, the right exit code, and source and vault as they were."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.tests.integration.world import (
    AS_ROOT,
    NOBODY,
    World,
    differences,
    error_of,
    fingerprint,
    give,
    in_child,
    mounted,
    needs_root,
)


@pytest.fixture
def world() -> Iterator[World]:
    made = World.make()
    (made.src / "a").write_text("a")
    (made.src / "sub").mkdir()
    (made.src / "sub" / "b").write_text("b")
    yield made
    made.destroy()


@pytest.fixture
def kept(world: World) -> Iterator[World]:
    """A world with a history, and the promise that it is the same afterwards."""
    world.backup()
    before = seen(world)
    (world.src / "a").write_text("changed")
    source = fingerprint(world.src, inodes=True)
    yield world
    assert differences(before, seen(world)) == []
    assert differences(source, fingerprint(world.src, inodes=True)) == []


def seen(world: World) -> Dict[bytes, Any]:
    return {**fingerprint(world.vault, times=False), b"mode": (stat.S_IMODE(world.vault.stat().st_mode),)}


def assert_leads_out(error: BackupError, rc: int, kind: str, field: Optional[str], found: Any = None) -> None:
    told = error.to_dict()
    assert (error.rc, told["kind"], told["field"]) == (rc, kind, field), (error.rc, told)
    assert told["next"] and told["found"] not in (None, ""), told
    if found is not None:
        assert str(found) in str(told["found"]), told
    json.dumps(told)


# ---- the policy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, field, found",
    [
        ({"sorces": ["/x"]}, "sorces", "sorces"),
        ({"guards": {"min_file": 1}}, "guards.min_file", "min_file"),
        ({"sources": "/x"}, "sources", "/x"),
        ({"exclude": [1]}, "exclude[0]", "1"),
        ({"guards": []}, "guards", "a list"),
        ({"sources": ["relative/path"]}, "sources[0]", "relative/path"),
        ({"sources": []}, "sources", "empty"),
        ({"name": ""}, "name", None),
        ({"name": "a/b"}, "name", "a/b"),
        ({"name": ".."}, "name", ".."),
        ({"name": "a..b"}, "name", "a..b"),
        ({"host": "../other"}, "host", "../other"),
        ({"heartbeat": "soon"}, "heartbeat", "soon"),
        ({"objectives": {"rpo": "15 parsecs"}}, "objectives.rpo", "parsecs"),
        ({"exclude": ["[unclosed"]}, "exclude[0]", "[unclosed"),
        ({"include": [""]}, "include[0]", None),
        ({"target": {"url": "/v", "storage": "fast"}}, "target.storage", "fast"),
        ({"target": "relative"}, "target", "relative"),
        ({"target": "ftp://x/"}, "target", "ftp"),
    ],
    ids=str,
)
def test_a_policy_that_is_wrong(kept: World, changes: Dict[str, Any], field: str, found: Any) -> None:
    error = error_of(kept.policy, **changes)
    assert (error.rc, error.kind, error.field) == (2, "policy", field)
    assert error.allowed and error.next
    if found is not None:
        assert str(found) in str(error.to_dict()["found"])


@pytest.mark.parametrize("text, is_json", [("{", False), ("[]", True), ("", False), ('{"name": "p"}', True)])
def test_a_policy_file_that_is_wrong(kept: World, text: str, is_json: bool) -> None:
    path = kept.root / "policy.json"
    path.write_text(text)
    error = error_of(Policy.from_file, str(path), default_host="h")
    assert error.rc == 2 and str(path) in error.message and error.next
    assert error_of(Policy.from_file, str(kept.root / "missing.json"), default_host="h").rc == 2


# ---- sources and vault -----------------------------------------------------------------------------------------------------


def test_a_missing_source(kept: World) -> None:
    policy = kept.policy(sources=[str(kept.src), str(kept.root / "nowhere")])
    for dry_run in (True, False):
        assert_leads_out(error_of(kept.backup, policy=policy, dry_run=dry_run), 4, "guard", "sources", kept.root / "nowhere")


def test_a_source_inside_the_vault(kept: World) -> None:
    policy = kept.policy(sources=[str(kept.vault / "h")])
    assert_leads_out(error_of(kept.backup, policy=policy), 2, "policy", "sources[0]", kept.vault / "h")


def test_a_vault_inside_the_source(kept: World) -> None:
    inside = kept.src / "sub" / "vault"
    policy = kept.policy(target=str(inside))
    assert_leads_out(error_of(kept.backup, policy=policy), 2, "policy", "sources[0]", kept.src)
    assert not inside.exists()
    # Not even by way of a link.
    (kept.root / "link").symlink_to(kept.src)
    policy = kept.policy(target=str(kept.root / "link" / "vault"))
    assert error_of(kept.backup, policy=policy).field == "sources[0]"


def test_a_source_behind_a_symlink(kept: World) -> None:
    (kept.root / "link").symlink_to(kept.src)
    policy = kept.policy(sources=[str(kept.root / "link" / "sub")])
    error = error_of(kept.backup, policy=policy)
    assert_leads_out(error, 2, "policy", "sources[0]", kept.root / "link" / "sub")
    assert str(kept.src) in str(error.next)


@pytest.mark.parametrize(
    "text, found",
    [
        ('{"format":2,"layout":"tree","storage":"native"}', "2"),
        ('{"format":1,"layout":"pack","storage":"native"}', "pack"),
        ('{"format":1,"layout":"tree","storage":"quick"}', "quick"),
        ('{"format":1}', None),
        ("[]", None),
        ("", None),
        ("{", None),
        ("\x00\xff", None),
    ],
)
def test_a_vault_of_another_format(world: World, text: str, found: Optional[str]) -> None:
    world.vault.mkdir()
    (world.vault / "format.json").write_text(text, "latin-1")
    before = seen(world)
    for call in (world.backup, lambda: world.backup(dry_run=True), lambda: world.restore(dest=world.root / "out"), world.verify, world.adopt):
        error = error_of(call)
        assert (error.rc, error.kind, error.field) == (6, "vault_format", "format.json") and error.next
        assert found is None or found in str(error.found)
    assert differences(before, seen(world)) == []


@needs_root
def test_a_vault_of_another_storage_than_the_policy_says(kept: World) -> None:
    kept.storage = "portable"
    error = error_of(kept.backup)
    assert_leads_out(error, 6, "vault_format", "target.storage", "portable")
    assert error.allowed == "native"


def test_a_directory_that_is_no_vault(world: World) -> None:
    world.vault.mkdir()
    (world.vault / "holiday.jpg").write_text("x")
    before = seen(world)
    assert_leads_out(error_of(world.backup), 6, "not_a_vault", "target", "holiday.jpg")
    assert differences(before, seen(world)) == []


def test_a_file_that_is_no_vault(world: World) -> None:
    world.vault.write_text("x")
    assert_leads_out(error_of(world.backup), 6, "not_a_vault", "target", world.vault)
    assert world.vault.read_text() == "x"


def test_a_vault_whose_mark_is_something_strange(world: World) -> None:
    world.vault.mkdir()
    os.mkfifo(world.vault / "format.json")
    assert error_of(world.backup).rc == 7
    (world.vault / "format.json").unlink()
    (world.vault / "format.json").symlink_to("/etc/hostname")
    assert error_of(world.backup).rc == 7


def test_a_target_that_this_version_cannot_use(kept: World) -> None:
    target = {"url": "ssh://vault/", "layout": "pack"}
    assert_leads_out(error_of(kept.backup, policy=kept.policy(target=target)), 6, "unsupported", "target")


def test_a_directory_on_another_machine_is_not_the_hosts_to_choose(kept: World) -> None:
    assert error_of(kept.backup, policy=kept.policy(target="ssh://vault/srv/backup")).field == "target.url"


def test_a_vault_that_belongs_to_somebody_else() -> None:
    if not AS_ROOT:
        pytest.skip("needs another user")
    world = World.make("portable")
    try:
        (world.src / "a").write_text("a")
        world.vault.mkdir(0o755)
        (world.vault / "h").mkdir(0o755)
        world.vault.joinpath("format.json").write_text('{"format":1,"layout":"tree","storage":"portable"}')
        world.vault.joinpath("format.json").chmod(0o644)
        before = seen(world)
        (world.root / "mine").mkdir()
        give(world.root / "mine", NOBODY)
        told = in_child(lambda: error_of(world.backup, state_directory=str(world.root / "mine")).to_dict(), uid=NOBODY)
        assert (told["kind"], told["field"]) == ("target", "target") and told["next"]
        assert differences(before, seen(world)) == []
    finally:
        world.destroy()


# ---- a full vault ----------------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("storage", ["native", "portable"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_full_vault(storage: str, is_first: bool) -> None:
    with mounted("tmpfs", "size=3m") as disk:
        world = World.make(storage)
        world.vault = disk / "vault"
        try:
            (world.src / "a").write_text("a")
            if not is_first:
                world.backup()
            for number in range(6):
                (world.src / ("big %d" % number)).write_bytes(os.urandom(1 << 20))
            source = fingerprint(world.src, inodes=True)
            error = error_of(world.backup)
            assert_leads_out(error, 1, "vault_full", "target")
            assert len(world.snapshots()) == (0 if is_first else 1)
            # The measured space says no at once; this one finds out on the way.
            subprocess.run(["mount", "-o", "remount,size=%dk" % (6 * 1024 + 200), str(disk)], check=True)
            for number in range(400):
                (world.src / ("small %d" % number)).write_text("x")
            error = error_of(world.backup)
            assert (error.kind, error.rc) == ("vault_full", 1)
            assert differences(source, {path: item for path, item in fingerprint(world.src, inodes=True).items() if not path.startswith(b"small")}) == []
            world.check_history(count=0 if is_first else 1)
            subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
            assert world.backup().rc == 0
            world.check_history(count=1 if is_first else 2)
        finally:
            world.destroy()


@needs_root
def test_a_vault_without_inodes_says_what_it_lacks() -> None:
    with mounted("tmpfs", "size=20m,nr_inodes=60") as disk:
        world = World.make("native")
        world.vault = disk / "vault"
        try:
            (world.src / "a").write_text("a")
            world.backup()
            for number in range(100):
                (world.src / ("directory %d" % number)).mkdir()
            error = error_of(world.backup)
            assert_leads_out(error, 1, "vault_full", "target")
            assert "inodes" in error.message
            world.check_history(count=1)
        finally:
            world.destroy()


@needs_root
def test_a_vault_that_fills_up_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement beforehand can be wrong: somebody else writes too."""
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.session import TreeSession

    monkeypatch.setattr(TreeSession, "_check_space", lambda *_args: None)
    with mounted("tmpfs", "size=1m") as disk:
        world = World.make("native")
        world.vault = disk / "vault"
        try:
            for number in range(60):
                (world.src / ("file %02d" % number)).write_bytes(os.urandom(20_000))
            os.link(world.src / "file 00", world.src / "link")
            codes = set()
            for size in (900, 1000, 1100, 1180, 1220, 1260, 1300, 1340):
                subprocess.run(["mount", "-o", "remount,size=%dk" % size, str(disk)], check=True)
                try:
                    codes.add(world.backup().rc)
                except BackupError as error:
                    assert error.kind == "vault_full", (size, error.to_dict())
                    codes.add(error.rc)
                    assert not (world.history / "incoming").exists() or os.listdir(world.history / "incoming") == []
                    assert world.snapshots() == []
            subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
            world.backup()
            world.check_history(count=1)
            assert 1 in codes
        finally:
            world.destroy()


# ---- state and tools -------------------------------------------------------------------------------------------------------


def test_a_state_directory_that_cannot_be_written(kept: World) -> None:
    (kept.root / "file").write_text("x")
    for state in (kept.root / "file", kept.root / "file" / "below", Path("/proc/nothing")):
        error = error_of(kept.backup, state_directory=str(state))
        assert_leads_out(error, 1, "state", "state", state)
        assert error.allowed
        assert error_of(kept.restore, confirm=True, state_directory=str(state)).kind == "state"
    found = kept.restore(dest=kept.root / "out", state_directory="/proc/nothing")
    assert found.verified and found.rc == 3, "what is needed most is not refused for want of a note"


def test_a_lock_that_is_a_trap(kept: World) -> None:
    (kept.state / "h" / "p" / "lock").unlink()
    (kept.state / "h" / "p" / "lock").symlink_to(kept.src / "sub" / "b")
    assert_leads_out(error_of(kept.backup), 1, "state", "state")


@pytest.mark.parametrize("name", ["baseline.json", "baseline.jsonl.gz", "pending.json", "receipts.json", "heartbeat.json", "cache.bin"])
def test_a_damaged_file_of_the_state_is_an_error_or_is_made_anew(world: World, name: str) -> None:
    world.backup(policy=world.policy(heartbeat="1s"))
    (world.src / "a").write_text("changed")
    (place,) = list((world.state / "h" / "p").rglob(name)) or [next((world.state / "h" / "p" / "targets").iterdir()) / name]
    place.write_bytes(b"\x00\xff nonsense")
    try:
        assert world.backup().changed
    except BackupError as error:
        assert (error.rc, error.kind) == (7, "state") and str(place) in str(error)
        assert len(world.snapshots()) == 1
    else:
        world.check_history(count=2)


DEEP = "[" * 60_000


@pytest.mark.parametrize(
    "text, field",
    [
        ("[]", "state"),
        (DEEP, None),
        ('{"damaged":5}', "damaged"),
        ('{"damaged":{"paths":5}}', "damaged.paths"),
        ('{"damaged":{"paths":[5]}}', "damaged.paths"),
        ('{"damaged":{"paths":["\\ud800"]}}', "damaged.paths"),
        ('{"damaged":{"count":"x"}}', "damaged.count"),
        ('{"damaged":{"count":-1}}', "damaged.count"),
        ('{"verified":{}}', "verified.at"),
        ('{"verified":{"at":5}}', "verified.at"),
        ('{"verified":{"at":"2026-02-29T00:00:00.000Z"}}', "verified.at"),
        ('{"held":{"reason":[]}}', "held.reason"),
        ('{"unchanged_until":"x"}', "unchanged_until"),
        ('{"unchanged_until":{}}', "unchanged_until"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_state_of_a_snapshot_that_is_wrong_is_named_wherever_it_is_read(world: World, text: str, field: Optional[str]) -> None:
    world.backup(policy=world.policy(heartbeat="1s"))
    (world.src / "a").write_text("changed")
    (snapshot,) = world.snapshots()
    path = world.history / "state" / (snapshot.id + ".json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    before = seen(world)
    calls: Dict[str, Callable[[], Any]] = {
        "run": world.backup,
        "dry run": lambda: world.backup(dry_run=True),
        "list": world.snapshots,
        "verify": world.verify,
        "restore": lambda: world.restore(dest=world.root / "out"),
        "adopt": world.adopt,
    }
    for name, call in calls.items():
        error = error_of(call)
        assert_leads_out(error, 7, "state", field)
        assert str(path) in error.message and (error.allowed or field is None), name
    found = status(world.policy(), state_directory=str(world.state))
    assert found["rc"] == 3 and any(str(path) in problem for problem in found["problems"])
    assert differences(before, seen(world)) == []


@pytest.mark.parametrize("name", ["pending.json", "receipts.json", "heartbeat.json"])
@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "5",
        '"x"',
        "{}",
        "[1]",
        "null",
        DEEP,
        '{"ids":5}',
        '{"ids":[5,"x"]}',
        '{"ids":[[]]}',
        '{"at":"x"}',
        '{"at":1e999}',
        '{"tx":5,"parent":5,"digest":5}',
    ],
    ids=lambda text: text[:30],
)
def test_odd_memories_of_the_host_are_as_good_as_none(world: World, name: str, text: str) -> None:
    policy = world.policy(heartbeat="1s")
    world.backup(policy=policy)
    (place,) = (world.state / "h" / "p" / "targets").iterdir()
    (place / name).write_text(text)
    assert status(policy, state_directory=str(world.state))["pending"] is None
    assert not world.backup(policy=policy).changed
    assert name != "heartbeat.json" or 0 < json.loads((place / name).read_text())["at"] <= time.time()
    (place / name).write_text(text)
    (world.src / "a").write_text("changed")
    assert world.backup(policy=policy).changed
    world.check_history(count=2)


def test_brackets_without_end_are_damage_like_any_other(world: World) -> None:
    world.backup()
    (world.src / "a").write_text("changed")
    (baseline,) = (world.state / "h" / "p" / "targets").glob("*/baseline.json")
    (receipt,) = world.history.glob("snapshots/*/receipt.json")
    for path, rc, kind in ((baseline, 7, "state"), (receipt, 7, "state"), (world.vault / "format.json", 6, "vault_format")):
        whole = path.read_bytes()
        path.write_text(DEEP)
        error = error_of(world.backup)
        assert (error.rc, error.kind) == (rc, kind) and str(path) in error.message and error.next
        path.write_bytes(whole)
    for depth in (100, 900, 950, 980):  # what can be read may still be too deep to be shown
        receipt.write_text('{"id":%s}' % ("[" * depth + "]" * depth))
        assert error_of(world.backup).rc == 7
        receipt.write_text("[" * depth + "]" * depth)
        assert error_of(world.backup).rc == 7
    receipt.write_bytes(whole)


def test_a_receipt_of_a_day_that_never_was(world: World) -> None:
    world.backup()
    (receipt,) = world.history.glob("snapshots/*/receipt.json")
    for day in ("2026-02-29", "2100-02-29", "2026-04-31", "0000-01-01"):
        world.edit_json(receipt, created=day + "T00:00:00.000Z")
        error = error_of(world.backup, dry_run=True) if (world.src / "a").write_text(day) else None
        assert error is not None and (error.kind, error.field) == ("receipt", "created")


def test_a_baseline_manifest_that_is_lost_is_fetched_and_one_lost_on_both_sides_is_told(world: World) -> None:
    first = world.backup()
    (world.src / "a").write_text("changed")
    place = next((world.state / "h" / "p" / "targets").iterdir()) / "baseline.jsonl.gz"
    whole = place.read_bytes()
    cache = world.state / "h" / "p" / "cache.bin"
    kept = cache.read_bytes()
    cache.unlink()
    place.write_bytes(gzip.compress(gzip.decompress(whole)[:-40]))
    assert world.backup(dry_run=True).modified == 1
    place.unlink()
    remote = world.history / "snapshots" / str(first.snapshot_id) / "manifest.jsonl.gz"
    data = remote.read_bytes()
    remote.write_bytes(data[:40])
    error = error_of(world.backup)
    assert (error.rc, error.kind) == (7, "manifest")
    cache.write_bytes(kept)
    assert world.backup(dry_run=True).modified == 1, "the cache knows all of it as well"
    cache.unlink()
    remote.write_bytes(data)
    assert world.backup().modified == 1


def fake_rsync(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "rsync").write_text("#!/bin/sh\n" + text)
    (folder / "rsync").chmod(0o755)


@pytest.mark.parametrize(
    "script, kind",
    [
        (None, "rsync_missing"),
        ("echo 'rsync  version 3.1.3  protocol version 31'\n", "rsync_too_old"),
        ("echo 'something else'\n", "rsync_too_old"),
        ("exit 1\n", "rsync_too_old"),
    ],
)
def test_rsync_that_is_missing_or_too_old(kept: World, monkeypatch: pytest.MonkeyPatch, script: Optional[str], kind: str) -> None:
    if script is None:
        (kept.root / "bin").mkdir()
    else:
        fake_rsync(kept.root / "bin", script)
    monkeypatch.setenv("PATH", str(kept.root / "bin"))
    error = error_of(kept.backup, policy=kept.policy(transfer={"bwlimit": "1g"}))
    assert error.rc == 1 and error.kind == kind and "3.2.3" in str(error.allowed) and "rsync" in str(error.next)
    # What needs no rsync goes on.
    assert kept.restore(dest=kept.root / "out").verified


@pytest.mark.parametrize("script, is_told", [("exit 0\n", False), ("echo error >&2; exit 23\n", False), ("exit 12\n", True), ("kill -9 $$\n", True)])
def test_an_rsync_that_fails_or_lies_publishes_nothing_wrong(world: World, monkeypatch: pytest.MonkeyPatch, script: str, is_told: bool) -> None:
    """Its exit code is a hint; what arrived is what was hashed. What did not arrive goes by hand."""
    fake_rsync(world.root / "bin", 'case "$*" in *-VV|--version) echo "rsync  version 3.2.7  protocol version 31"; exit 0;; esac\n' + script)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "%s:%s" % (world.root / "bin", os.environ["PATH"]))
        limited = world.policy(transfer={"bwlimit": "1g"})
        if is_told:
            error = error_of(world.backup, policy=limited)
            assert (error.kind, error.rc) == ("transfer", 1)
            assert world.snapshots() == []
        else:
            assert world.backup(policy=limited).rc == 0
    assert world.backup().rc == 0
    world.check_history(count=1)


def test_the_error_is_the_same_in_a_dry_run(kept: World) -> None:
    calls: Dict[str, Callable[[bool], Any]] = {
        "sources": lambda dry: kept.backup(policy=kept.policy(sources=[str(kept.root / "nowhere")]), dry_run=dry),
        "guards.require": lambda dry: kept.backup(policy=kept.policy(guards={"require": ["/nowhere"]}), dry_run=dry),
        "target": lambda dry: kept.backup(policy=kept.policy(target=str(kept.root / "state")), state_directory=str(kept.root / "s2"), dry_run=dry),
    }
    for field, call in calls.items():
        one, other = error_of(call, True), error_of(call, False)
        assert one.to_dict() == other.to_dict() and one.field == field
