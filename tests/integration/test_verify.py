# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify finds and names what is wrong, in a vault that rots and in one that somebody has been at; damage heals from its source."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import struct
import subprocess
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.history import list_snapshots
from ansible_collections.openclaw.backup.plugins.module_utils.action.restore import RestoreRequest, restore
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import scan as scan_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import Descent
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import verify_chain
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import build as build_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.target import TreeTarget
from ansible_collections.openclaw.backup.tests.integration.world import (
    AS_ROOT,
    NOBODY,
    STORAGES,
    World,
    differences,
    error_of,
    fingerprint,
    give,
    in_child,
    mounted,
    needs_root,
)


@pytest.fixture(params=STORAGES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World.make(request.param)
    for name in ("a", "b", "c"):
        (made.src / name).write_text("content of " + name)
    (made.src / "sub" / "deep").mkdir(parents=True)
    (made.src / "sub" / "f").write_text("f")
    (made.src / "sub" / "deep" / "g").write_text("g")
    (made.src / "link").symlink_to("a")
    (made.src / "h1").write_text("hard")
    os.link(made.src / "h1", made.src / "h2")
    for number in range(30):
        (made.src / ("filler %02d" % number)).write_text("filler %d" % number)
    yield made
    made.destroy()


def spoil(path: Path) -> None:
    """Other bytes, same size, same time: what only reading finds."""
    found = path.stat()
    path.chmod(0o600)
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    path.chmod(stat.S_IMODE(found.st_mode))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def inside(path: Path, change: Callable[[], Any]) -> None:
    """Change something in a directory of a snapshot, and leave no trace on the directory."""
    found = path.parent.stat()
    path.parent.chmod(0o700)
    change()
    path.parent.chmod(stat.S_IMODE(found.st_mode))
    os.utime(path.parent, ns=(found.st_atime_ns, found.st_mtime_ns))


# ---- damage ----------------------------------------------------------------------------------------------------------------


def test_a_damaged_byte_is_found_named_kept_in_mind_and_sent_again(world: World) -> None:
    first = world.backup()
    spoil(world.stored(first.snapshot_id, "sub/f"))
    assert world.verify(depth="quick").ok, "quick reads no content"
    found = world.verify()
    assert found.rc == 7 and found.damaged == [{"path": str(world.src / "sub" / "f"), "reason": "hash"}]
    assert found.counts == {"damaged": 1, "missing": 0, "extra": 0}
    failure = found.failure()
    assert failure is not None and failure.rc == 7 and str(world.src / "sub" / "f") in str(failure)
    (kept,) = world.snapshots()
    assert kept.damaged and kept.damaged["count"] == 1 and kept.verified is None
    # Nothing else has changed, and no heartbeat is due: the run asks all the same, because this host knows of it.
    second = world.backup()
    assert second.changed and (second.files_sent, second.healed) == (1, 1)
    assert not world.backup().changed
    assert world.verify().ok
    assert not world.verify(snapshot=first.snapshot_id).ok, "what is damaged stays damaged"
    newest, oldest = world.snapshots()
    assert newest.verified and newest.damaged is None and oldest.damaged


def test_a_heartbeat_heals_without_any_change(world: World) -> None:
    policy = world.policy(heartbeat="1s")
    first = world.backup(policy=policy)
    spoil(world.stored(first.snapshot_id, "b"))
    inside(world.stored(first.snapshot_id, "sub/deep/g"), world.stored(first.snapshot_id, "sub/deep/g").unlink)
    # Found from elsewhere: this host does not know.
    assert world.verify(state_directory=str(world.root / "other-state")).counts == {"damaged": 1, "missing": 1, "extra": 0}
    assert not world.backup().changed, "its hour is not over"
    world.edit_json(next((world.state / "h" / "p" / "targets").glob("*/heartbeat.json")), at=0)
    dry = world.backup(policy=policy, dry_run=True)
    assert not dry.changed, "the check mode asks nobody"
    second = world.backup(policy=policy)
    assert second.changed and second.files_sent == second.healed == 2 and (second.added, second.modified, second.removed) == (0, 0, 0)
    assert world.verify().ok
    assert not world.backup(policy=policy).changed
    world.edit_json(next((world.state / "h" / "p" / "targets").glob("*/heartbeat.json")), at=0)
    assert not world.backup(policy=policy).changed
    assert world.snapshots()[0].unchanged_until


def test_what_the_base_lacks_is_sent_although_nobody_noticed_before(world: World) -> None:
    first = world.backup()
    stored = world.stored(first.snapshot_id, "sub/f")
    inside(stored, stored.unlink)
    inside(world.stored(first.snapshot_id, "link"), world.stored(first.snapshot_id, "link").unlink)
    short = world.stored(first.snapshot_id, "b")
    short.chmod(0o600)
    short.write_text("short")
    renamed = world.stored(first.snapshot_id, "c")
    renamed.chmod(0o600)
    renamed.write_text("too long for what it was")
    (world.src / "new").write_text("new")
    os.rename(world.src / "c", world.src / "sub" / "renamed")
    second = world.backup()
    assert second.rc == 0
    assert world.verify().ok
    restored = world.restore(dest=world.root / "out")
    assert restored.verified and differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []
    assert not world.verify(snapshot=first.snapshot_id).ok


def test_a_base_whose_files_or_manifest_are_gone_is_replaced_from_the_source(world: World) -> None:
    for name in ("tree", "manifest.jsonl.gz"):
        made = world.backup()
        place = world.history / "snapshots" / str(made.snapshot_id) / name
        subprocess.run(["chmod", "-R", "u+rwX", str(place)], check=True)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        error = error_of(world.verify)
        assert error.rc == 7 and error.kind in ("tree", "manifest")
        assert world.snapshots()[0].damaged
        error = error_of(world.restore, dest=world.root / "out")
        assert error.rc == 7 and not (world.root / "out").joinpath("dev").exists()
        (world.src / "a").write_text("changed after " + name)
        assert world.backup().rc == 0
        assert world.verify().ok


def test_slices_cover_everything_once(world: World) -> None:
    made = world.backup()
    spoil(world.stored(made.snapshot_id, "b"))
    spoil(world.stored(made.snapshot_id, "filler 07"))
    results = [world.verify(part=(number, 4)) for number in (1, 2, 3, 4)]
    assert sum(result.hashed_files for result in results) == 36
    found = [item["path"] for result in results for item in result.damaged]
    assert sorted(found) == [str(world.src / "b"), str(world.src / "filler 07")]
    assert {result.slice for result in results} == {"1/4", "2/4", "3/4", "4/4"}
    assert world.snapshots()[0].verified is None, "a slice is no full verification"
    assert [world.verify(part=(number, 4)).hashed_files for number in (1, 2, 3, 4)] == [result.hashed_files for result in results]


def rolling_of(world: World) -> Any:
    """What status says of the shares that were read."""
    return status(world.policy(), state_directory=str(world.state))["rolling"]


def test_a_rolling_verification_reads_everything_in_turn_whatever_comes_and_goes(world: World) -> None:
    made = world.backup()
    spoil(world.stored(made.snapshot_id, "b"))
    assert rolling_of(world) is None
    results = []
    for number in range(4):
        results.append(world.verify(rolling=4))
        known = rolling_of(world)
        assert known is not None and (known["shares"], known["read"], known["since"] is None) == (4, number + 1, number < 3)
        (world.src / "new").write_text("new for %d" % number)
        world.backup()
    assert [result.slice for result in results] == ["1/4", "2/4", "3/4", "4/4"] and [bool(result.damaged) for result in results].count(True) == 1
    assert world.verify(rolling=4).slice == "1/4" and rolling_of(world)["since"] > known["since"]
    assert world.verify(part=(3, 4)).ok and world.verify(rolling=4).slice == "2/4", "a share by hand is nobody's turn"
    assert world.verify(rolling=5, dry_run=True).slice == "1/5" and rolling_of(world)["shares"] == 4
    assert world.verify(rolling=2).slice == "1/2" and rolling_of(world) == {"shares": 2, "read": 1, "since": None}


def test_a_rolling_verification_reads_what_only_older_snapshots_have(world: World) -> None:
    ids = []
    for number in range(5):
        (world.src / "a").write_text("number %d" % number)
        ids.append(str(world.backup().snapshot_id))
    spoil(world.stored(ids[1], "a"))
    turns = [world.verify(rolling=2) for _turn in range(2)]
    assert [[item["snapshot_id"] for item in turn.older] for turn in turns] == [ids[:2], ids[2:4]]
    # Both shares, and of each older snapshot the one file that no newer one shares.
    assert sum(turn.hashed_files for turn in turns) == world.verify().hashed_files + 4
    assert [turn.rc for turn in turns] == [7, 0] and turns[0].older[0]["damage"] is None
    said = "1 damaged, the first is %s/a" % world.src
    assert turns[0].older[1]["damage"] == said and str(turns[0].failure()).startswith("Snapshot %s is not what was backed up: %s" % (ids[1], said))
    listed = {snapshot.id: snapshot for snapshot in world.snapshots()}
    assert [name for name in ids if listed[name].damaged] == [ids[1]] and not any(listed[name].verified for name in ids[:4])
    before = rolling_of(world)
    assert [item["snapshot_id"] for item in world.verify(rolling=2).older] == ids[:2] and rolling_of(world)["since"] > before["since"]


def test_of_clones_what_both_manifests_have_counts_as_shared(world: World) -> None:
    old = world.backup()
    (world.src / "a").write_text("changed")
    world.backup()
    newest, older = (replace(snapshot, receipt=replace(snapshot.receipt, clone="reflink")) for snapshot in world.snapshots())
    target = TreeTarget(str(world.vault), "h", "p")
    assert older.id == old.snapshot_id and target.verify(older, depth="full", newer=newest).hashed_files == 1
    spoil(world.stored(older.id, "a"))
    assert [damage.reason for damage in target.verify(older, depth="full", newer=newest).damaged] == ["hash"]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        '{"shares":0,"read":{},"older":{}}',
        '{"shares":2,"read":[],"older":{}}',
        '{"shares":2,"read":{},"older":7}',
        '{"shares":2,"read":{"1":"9999-01-01T00:00:00.000Z"},"older":{"x":7}}',
        '{"shares":2,"read":{"0":"2026-01-01T00:00:00.000Z","3":"2026-01-01T00:00:00.000Z","1":7},"older":{}}',
    ],
)
def test_a_memory_of_shares_that_makes_no_sense_is_none(world: World, text: str) -> None:
    world.backup()
    assert world.verify(rolling=2).slice == "1/2"
    (memory,) = world.state.rglob("rolling.json")
    memory.write_text(text)
    assert world.verify(rolling=2).slice == "1/2" and rolling_of(world)["read"] == 1


def test_a_check_of_a_verification_writes_nothing(world: World) -> None:
    made = world.backup()
    spoil(world.stored(made.snapshot_id, "b"))
    before = fingerprint(world.root)
    assert world.verify(dry_run=True).rc == 7
    assert differences(before, fingerprint(world.root)) == []


def test_damage_is_told_even_where_it_cannot_be_written_down(world: World) -> None:
    made = world.backup()
    assert error_of(world.verify, state_directory="/proc/nothing").kind == "state"
    spoil(world.stored(made.snapshot_id, "b"))
    assert world.verify(state_directory="/proc/nothing").rc == 7
    assert [text for text in world.notes if "could not be written" in text]
    assert error_of(world.verify, depth="deep").field == "depth"


def test_rot_of_the_source_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_of(world.verify, source=True).kind == "no_cache"
    # Files that are younger than a minute are not trusted to show every change in their stat.
    monkeypatch.setattr(scan_module, "RACY_SECONDS", -1)
    (world.src / "sub" / "f").write_text("F")
    real = os.stat(world.src / "sub" / "f")
    world.backup()
    assert world.verify(source=True).ok
    victim = world.src / "sub" / "f"
    # A disk that rots moves no ctime; here it is the cache that is told of the new one.
    spoil(victim)
    cache = world.state / "h" / "p" / "cache.bin"
    old, new = real.st_ctime_ns, victim.stat().st_ctime_ns
    data = bytearray(cache.read_bytes())
    times = struct.pack("<qq", real.st_mtime_ns, old)
    assert times in data
    data = data.replace(times, struct.pack("<qq", real.st_mtime_ns, new))
    data[-4:] = struct.pack("<I", zlib.crc32(bytes(data[:-4])))
    cache.write_bytes(bytes(data))
    time.sleep(0.02)  # what changed in this tick of the clock is in motion, not rotten
    found = world.verify(source=True)
    assert found.rc == 7 and [item["path"] for item in found.damaged] == [str(victim)], found.to_dict()
    assert found.damaged[0]["reason"] == "changed without a trace"
    error = found.failure()
    assert error is not None and error.field == "source"


def test_a_missing_source_is_told_when_the_source_is_to_be_verified(world: World) -> None:
    world.backup()
    os.rename(world.src, world.root / "away")
    error = error_of(world.verify, source=True)
    assert (error.kind, error.field, error.rc) == ("guard", "sources", 4)


# ---- a vault that somebody has been at -----------------------------------------------------------------------------------


def rewrite_manifest(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes())), mtime=0))


def resealed(text: bytes) -> bytes:
    """A manifest with a trailer that fits its edited lines."""
    import hashlib
    import re

    header, *lines, _trailer, _end = text.split(b"\n")
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    content = hashlib.sha256()
    for line in lines:
        if b'"t":"d"' in line:
            line = re.sub(rb'"m":-?[0-9]+,', b"", line, count=1)
        content.update(line + b"\n")
    trailer = {"content_digest": content.hexdigest(), "digest": digest, "entries": len(lines)}
    return b"\n".join([header, *lines, json.dumps(trailer, sort_keys=True, separators=(",", ":")).encode(), b""])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b'"o":420', b'"o":493', 1),
        lambda text: resealed(text.replace(b'"o":420', b'"o":493', 1)),
        lambda text: text[:-30],
        lambda text: text.split(b"\n", 1)[1],
        lambda text: b"",
        lambda text: text.replace(b'"format":1', b'"format":2', 1),
    ],
    ids=["edited", "edited and sealed again", "cut", "without header", "empty", "another format"],
)
def test_an_edited_manifest_is_refused_everywhere(world: World, change: Callable[[bytes], bytes]) -> None:
    first = world.backup()
    place = world.history / "snapshots" / str(first.snapshot_id) / "manifest.jsonl.gz"
    whole = place.read_bytes()
    rewrite_manifest(place, change)
    for call in (world.verify, lambda: world.restore(dest=world.root / "out"), lambda: world.restore(confirm=True)):
        error = error_of(call)
        assert error.rc == 7 and error.kind in ("manifest", "manifest_format"), error.to_dict()
    assert not (world.root / "out").exists()
    shutil.rmtree(world.state)
    assert error_of(world.adopt).rc == 7
    place.write_bytes(whole)
    assert world.verify().ok


def test_a_truncated_file_of_a_manifest_is_refused(world: World) -> None:
    first = world.backup()
    place = world.history / "snapshots" / str(first.snapshot_id) / "manifest.jsonl.gz"
    place.write_bytes(place.read_bytes()[:-7])
    assert error_of(world.verify).kind == "manifest"
    place.unlink()
    os.mkfifo(place)
    assert error_of(world.verify).kind == "manifest"
    place.unlink()
    place.symlink_to(world.history / "audit.jsonl")
    assert error_of(world.verify).kind == "manifest"


def two(world: World) -> Tuple[Path, Path]:
    first = world.backup()
    (world.src / "a").write_text("changed")
    second = world.backup()
    return world.history / "snapshots" / str(first.snapshot_id), world.history / "snapshots" / str(second.snapshot_id)


def test_swapped_manifests_and_swapped_snapshots_are_refused(world: World) -> None:
    first, second = two(world)
    for name in ("manifest.jsonl.gz", "receipt.json"):
        one, other = (first / name).read_bytes(), (second / name).read_bytes()
        (first / name).write_bytes(other)
        (second / name).write_bytes(one)
        error = error_of(world.verify, snapshot=second.name)
        assert (error.kind, error.rc) == (name.split(".")[0], 7)
        (first / name).write_bytes(one)
        (second / name).write_bytes(other)
    os.rename(first, first.parent / "x")
    os.rename(second, first)
    os.rename(first.parent / "x", second)
    assert error_of(world.verify).kind == "receipt"


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 7},
        {"sequence": 2},
        {"sequence": "1"},
        {"created": "2026-01-01T00:00:00.000Z"},
        {"created": "soon"},
        {"created": None},
        {"digest": "0" * 64},
        {"digest": ""},
        {"content_digest": "0" * 64},
        {"entries": 1},
        {"parent": "20260101T000000.000Z-00000000"},
        {"parent": 5},
        {"id": "20260101T000000.000Z-00000000"},
        {"format": 2},
        {"surplus": 1},
    ],
    ids=str,
)
def test_an_edited_receipt_is_refused(world: World, changes: Dict[str, Any]) -> None:
    first, second = two(world)
    world.edit_json(first / "receipt.json", **changes)
    error = error_of(world.verify, snapshot=first.name)
    assert error.rc == 7 and error.kind in ("receipt", "manifest"), error.to_dict()
    (world.src / "b").write_text("changed")
    if changes != {"content_digest": "0" * 64} and "entries" not in changes and "parent" not in changes:
        assert error_of(world.backup).rc == 7, "who edits the past can also have hidden something"
    assert second.exists() and first.exists()


def test_a_receipt_that_is_no_receipt_is_refused(world: World) -> None:
    first, _second = two(world)
    for text in ("", "{", "[]", '"x"', "{}", "null", "\xff"):
        (first / "receipt.json").write_text(text, "latin-1")
        assert error_of(world.verify).rc == 7, text
    (first / "receipt.json").unlink()
    assert error_of(world.verify).kind == "receipt"
    os.mkfifo(first / "receipt.json")
    assert error_of(world.verify).rc == 7
    (first / "receipt.json").unlink()
    (first / "receipt.json").mkdir()
    assert error_of(world.verify).rc == 7


@pytest.mark.parametrize("text", ["[]", '{"damaged": "x"}', '{"verified": []}', "nonsense"])
def test_a_state_that_is_no_state_is_refused(world: World, text: str) -> None:
    first, _second = two(world)
    (world.history / "state").mkdir(exist_ok=True)
    (world.history / "state" / (first.name + ".json")).write_text(text)
    assert error_of(world.verify).kind == "state"


@pytest.mark.parametrize("kind", ["file", "directory", "link to a snapshot", "fifo"])
def test_a_foreign_name_in_the_history_is_named(world: World, kind: str) -> None:
    first, second = two(world)
    foreign = first.parent / "notes.txt"
    if kind == "file":
        foreign.write_text("x")
    elif kind == "directory":
        foreign.mkdir()
    elif kind == "fifo":
        foreign = first.parent / "20260101T000000.000Z-00000000"
        os.mkfifo(foreign)
    else:
        foreign = first.parent / "20260101T000000.000Z-00000000"
        foreign.symlink_to(second)
    (world.src / "b").write_text("changed")
    for call in (world.verify, world.backup, lambda: world.restore(dest=world.root / "out"), lambda: list_snapshots(world.policy())):
        error = error_of(call)
        assert (error.kind, error.rc) == ("foreign", 7)
        assert os.fsencode(error.found) == os.fsencode(foreign)
        assert error.next
    assert os.path.lexists(foreign)


def test_an_extra_path_in_a_tree_is_found(world: World) -> None:
    made = world.backup()
    place = world.stored(made.snapshot_id, "sub/extra")

    def add() -> None:
        place.mkdir()
        (place / "below").write_text("x")

    inside(place, add)
    found = world.verify(depth="quick")
    assert found.rc == 7 and found.extra == [str(world.src / "sub" / "extra"), str(world.src / "sub" / "extra" / "below")]
    # It goes into no later snapshot.
    (world.src / "a").write_text("changed")
    second = world.backup()
    assert not world.stored(second.snapshot_id, "sub/extra").exists() and world.verify().ok


def as_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(4, 64)) if AS_ROOT else os.mkfifo(path)


@pytest.mark.parametrize("change", [as_symlink, as_directory, as_fifo, as_device])
def test_a_file_that_was_replaced_by_something_else_is_found_and_blocks_nothing(world: World, change: Callable[[Path], None]) -> None:
    made = world.backup()
    place = world.stored(made.snapshot_id, "sub/f")
    inside(place, lambda: change(place))
    for depth in ("quick", "full"):
        found = world.verify(depth=depth)
        assert found.damaged == [{"path": str(world.src / "sub" / "f"), "reason": "type"}]
    assert world.restore(dest=world.root / "out").rc == 7
    (world.src / "a").write_text("changed")
    assert world.backup().rc == 0
    assert world.verify().ok, "the next snapshot has it from its source"


def test_a_directory_that_was_replaced_by_a_link_is_found_with_all_that_was_in_it(world: World) -> None:
    made = world.backup()
    place = world.stored(made.snapshot_id, "sub")
    subprocess.run(["chmod", "-R", "u+rwX", str(place)], check=True)

    def swap() -> None:
        shutil.copytree(place, world.root / "copy")
        shutil.rmtree(place)
        place.symlink_to(world.root / "copy")

    inside(place, swap)
    found = world.verify()
    assert found.damaged == [{"path": str(world.src / "sub"), "reason": "type"}]
    assert found.missing == [str(world.src / "sub" / name) for name in ("deep", "deep/g", "f")]


@needs_root
@pytest.mark.parametrize(
    "reason, change",
    [
        ("mode", lambda path: path.chmod(0o777)),
        ("owner", lambda path: os.chown(path, 5, 5)),
        ("mtime", lambda path: os.utime(path, ns=(0, 1))),
        ("xattrs", lambda path: os.setxattr(path, "user.x", b"1")),
    ],
)
def test_altered_metadata_of_a_native_tree_is_found(reason: str, change: Callable[[Path], None]) -> None:
    world = World.make("native")
    try:
        (world.src / "d").mkdir()
        (world.src / "d" / "f").write_text("x")
        made = world.backup()
        for name in ("d/f", "d"):
            change(world.stored(made.snapshot_id, name))
        found = world.verify()
        assert {item["path"]: item["reason"] for item in found.damaged} == {str(world.src / "d"): reason, str(world.src / "d" / "f"): reason}
        # What cannot be trusted is not shared with the next one.
        (world.src / "new").write_text("x")
        world.backup()
        assert world.verify().ok
    finally:
        world.destroy()


@needs_root
def test_names_that_share_an_inode_they_should_not_are_found() -> None:
    world = World.make("native")
    try:
        for name in ("one", "two"):
            (world.src / name).write_text("same")
            os.utime(world.src / name, ns=(0, 7))
        made = world.backup()
        one, other = (world.stored(made.snapshot_id, name) for name in ("one", "two"))

        def join() -> None:
            other.unlink()
            os.link(one, other)

        inside(other, join)
        assert world.verify().damaged == [{"path": str(world.src / "two"), "reason": "links"}]
    finally:
        world.destroy()


def test_a_hard_link_that_was_parted_and_altered_is_found(world: World) -> None:
    made = world.backup()
    place = world.stored(made.snapshot_id, "h2")
    found = place.stat()

    def part() -> None:
        place.unlink()
        place.write_text("DRAH")
        place.chmod(stat.S_IMODE(found.st_mode))
        os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))

    inside(place, part)
    assert world.verify().damaged == [{"path": str(world.src / "h2"), "reason": "hash"}]


def test_a_directory_that_its_owner_cannot_open_is_damage_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.make("portable")
    try:
        (world.src / "d").mkdir()
        (world.src / "d" / "f").write_text("x")
        if AS_ROOT:
            give(world.root, NOBODY)

        def go() -> None:
            made = world.backup()
            world.stored(made.snapshot_id, "d").chmod(0)
            for length in (1000, 1):
                cut(monkeypatch, length)
                found = world.verify()
                assert (found.damaged, found.missing) == ([{"path": str(world.src / "d"), "reason": "unreadable"}], [str(world.src / "d" / "f")])

        in_child(go, uid=NOBODY if AS_ROOT else None)
    finally:
        world.destroy()


def test_a_directory_whose_names_alone_can_be_read_is_damage_and_no_crash() -> None:
    world = World.make("portable")
    try:
        (world.src / "d" / "e").mkdir(parents=True)
        (world.src / "d" / "f").write_text("x")
        if AS_ROOT:
            give(world.root, NOBODY)

        def go() -> None:
            made = world.backup()
            world.stored(made.snapshot_id, "d").chmod(0o400)
            for depth in ("quick", "full"):
                found = world.verify(depth=depth)
                assert [item["path"] for item in found.damaged] == [str(world.src / "d" / "e"), str(world.src / "d" / "f")]
                assert {item["reason"] for item in found.damaged} == {"unreadable"} and not found.missing + found.extra

        in_child(go, uid=NOBODY if AS_ROOT else None)
    finally:
        world.destroy()


# ---- however the work is shared out --------------------------------------------------------------------------------------


def awkward(src: Path) -> None:
    """A tree in which what is in a directory comes after many names that do not, and the other way round."""
    for name in ("a", "a-b", "a-b/e", "a.d", "a/b", "a/b-", "a/b/c", "a0", "b", "empty", "empty-", "zz"):
        (src / name).mkdir()
    for name in ("a!", "a-b/e/f", "a-b/f", "a.d/f", "a/b-/f", "a/b.f", "a/b/c/f", "a/b/f", "a/f", "a0/f", "b/f", "f", "zz/f", "zz/z", "a/\udcff"):
        (src / name).write_text("content of %r" % name)
    (src / "a-b" / "link").symlink_to("f")
    os.link(src / "a" / "f", src / "zz" / "hard")
    os.link(src / "a" / "f", src / "a-b" / "hard")


def cut(monkeypatch: pytest.MonkeyPatch, length: int, backwards: bool = False) -> None:
    """From now on trees are proven in runs of so many lines."""

    whole = pool.run

    def run(work: Callable[[int, int], Any], weights: Sequence[int], meanwhile: Optional[Callable[[], None]] = None, **options: int) -> Iterator[Any]:
        if options:
            return whole(work, weights, **options)
        if meanwhile is not None:
            meanwhile()
        starts = range(0, len(weights), length)
        return (work(start, min(start + length, len(weights))) for start in (reversed(starts) if backwards else starts))

    monkeypatch.setattr(pool, "run", run)


def without(path: Path) -> None:
    subprocess.run(["rm", "-rf", str(path)], check=True)


def beside(path: Path, *names: str) -> None:
    for name in names:
        (path.parent / name).mkdir()
        (path.parent / name / "below").write_text("x")
        (path.parent / (name + ".f")).write_text("x")


def parted(path: Path) -> None:
    text = path.read_text()
    path.unlink()
    path.write_text(text[::-1])


DAMAGES: Dict[str, Tuple[str, Callable[[Path], Any], Tuple[int, int, int]]] = {
    "nothing": ("f", lambda path: None, (0, 0, 0)),
    "the first file": ("a!", lambda path: spoil(path), (1, 0, 0)),
    "the last file": ("zz/z", lambda path: spoil(path), (1, 0, 0)),
    "a file behind its directory's neighbours": ("a/f", lambda path: spoil(path), (1, 0, 0)),
    "a file deep down": ("a/b/c/f", lambda path: spoil(path), (1, 0, 0)),
    "a directory gone": ("a", without, (0, 10, 0)),
    "an empty directory gone": ("empty", without, (0, 1, 0)),
    "the last directory gone": ("zz", without, (0, 4, 0)),
    "a directory as a file": ("a/b", lambda path: (without(path), path.write_text("x")), (1, 3, 0)),
    "a file as a directory": ("a/f", lambda path: (path.unlink(), beside(path, "f")), (1, 0, 2)),
    "too much at every place": ("f", lambda path: beside(path, "\x01", "a-", "a-a", "a1", "zzz"), (0, 0, 15)),
    "too much in an empty directory": ("empty/x", lambda path: beside(path, "\x01", "x", "\udcff"), (0, 0, 9)),
    "too much among what comes late": ("a/f", lambda path: beside(path, "a", "b!", "b0", "g"), (0, 0, 12)),
    "a link that leads elsewhere": ("a-b/link", lambda path: (path.unlink(), path.symlink_to("e")), (1, 0, 0)),
    "a hard link parted": ("zz/hard", parted, (1, 0, 0)),
    "the first of hard links gone": ("a-b/hard", lambda path: path.unlink(), (0, 1, 0)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_found_does_not_depend_on_how_the_manifest_is_cut(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(world.src)
    world.src.mkdir()
    awkward(world.src)
    made = world.backup()
    place, change, counts = DAMAGES[name]
    subprocess.run(["chmod", "-R", "u+rwX", str(world.stored(made.snapshot_id))], check=True)
    if "/x" not in place:
        assert world.stored(made.snapshot_id, place).exists() or "link" in place
    change(world.stored(made.snapshot_id, place))
    (snapshot,) = world.snapshots()
    lines = snapshot.receipt.entries
    found = {depth: world.target.verify(snapshot, depth=depth, record=False) for depth in ("quick", "full")}
    told = found["full"]
    if world.storage == "portable":  # natively, chmod and what was done to directories leave traces of their own
        assert (len(told.damaged), len(told.missing), len(told.extra)) == counts
    for length in range(1, lines + 1):
        cut(monkeypatch, length, backwards=length % 2 == 0)
        for depth in found:
            assert world.target.verify(snapshot, depth=depth, record=False) == found[depth]
    monkeypatch.undo()


def test_a_tree_built_in_runs_of_any_length_is_as_the_manifest_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    without(world.src)
    world.src.mkdir()
    awkward(world.src)
    for length in (1, 2, 7):
        (world.src / "a" / "f").write_text("changed %d" % length)
        cut(monkeypatch, length)
        assert world.backup().changed
        monkeypatch.undo()
        assert world.verify().ok


def test_a_manifest_of_nothing_proves_an_empty_tree_and_no_other(tmp_path: Path) -> None:
    nothing = Manifest.from_entries(Header("h", "p", (), {}, "1.0.0", "2026-11-20T09:15:00Z"), [])
    (tmp_path / "tree").mkdir()
    with Descent(os.fsencode(tmp_path / "tree")) as tree:
        assert build_module.prove(tree, nothing, "portable")[0].ok
        (tmp_path / "tree" / "d").mkdir()
        (tmp_path / "tree" / "d" / "f").write_text("x")
        assert build_module.prove(tree, nothing, "portable")[0].extra == (b"d", b"d/f")


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One directory with very many files, which two workers share."""
    monkeypatch.setattr(pool, "available_cpus", lambda: 2)
    made = World.make(STORAGES[0])
    (made.src / "d").mkdir()
    for number in range(2 * pool.FORK_PAYS_ITEMS):
        (made.src / "d" / ("%04d" % number)).write_text("content of %d" % number)
    os.link(made.src / "d" / "0007", made.src / "d" / "1993.link")
    yield made
    made.destroy()


def test_a_directory_that_several_workers_share_is_looked_at_once(crowd: World) -> None:
    made = crowd.backup()
    files = 2 * pool.FORK_PAYS_ITEMS + 1
    found = crowd.verify()
    assert found.ok and found.hashed_files == files - 1 and found.checked == crowd.snapshots()[0].receipt.entries
    place = crowd.stored(made.snapshot_id, "d/x")
    place.parent.chmod(0o700)
    for name in ("0000", "1000", "1999"):
        spoil(place.parent / name)
    for name in ("0001", "0999", "1998"):
        (place.parent / name).unlink()
    for name in ("", "0500x", "zzz"):
        (place.parent / (" " + name)).write_text("x")
    found = crowd.verify()
    assert found.counts["missing"] == 3 and found.counts["extra"] == 3
    assert {os.path.basename(item["path"]) for item in found.damaged if item["reason"] == "hash"} == {"0000", "1000", "1999"}


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:50], lines[51], lines[50], *lines[52:]],
        lambda lines: [*lines[:-1], lines[-2], lines[-1]],
        lambda lines: [lines[-1], *lines],
        lambda lines: lines[1:],
        lambda lines: [line for line in lines if b'src/d","t":"d"' not in line],
        lambda lines: [line.replace(b'"o":', b'"o":0', 1) if b"/1990" in line else line for line in lines],
        lambda lines: [line for line in lines if b'/0007","s"' not in line],
    ],
    ids=["unsorted", "twice", "the last first", "without the first", "without a directory", "not canonical", "without the first of hard links"],
)
def test_lines_that_are_not_valid_are_refused_though_digests_fit(crowd: World, change: Callable[[List[bytes]], List[bytes]]) -> None:
    made = crowd.backup()
    place = crowd.history / "snapshots" / str(made.snapshot_id)

    def edit(text: bytes) -> bytes:
        header, *lines, trailer, end = text.split(b"\n")
        changed = change(lines)
        assert changed != lines
        return resealed(b"\n".join([header, *changed, trailer, end]))

    rewrite_manifest(place / "manifest.jsonl.gz", edit)
    trailer = json.loads(gzip.decompress((place / "manifest.jsonl.gz").read_bytes()).split(b"\n")[-2])
    # The id bears the digest too: with it, nothing but the lines is wrong.
    moved = place.with_name("%s-%s" % (place.name.rpartition("-")[0], trailer["digest"][:8]))
    rewrite_manifest(place / "manifest.jsonl.gz", lambda text: text.replace(place.name.encode(), moved.name.encode(), 1))
    crowd.edit_json(place / "receipt.json", id=moved.name, **trailer)
    place.rename(moved)
    for depth in ("quick", "full"):
        error = error_of_lines(crowd, depth)
        assert (error.kind, error.rc) == ("manifest", 7) and "line" in str(error)


def error_of_lines(world: World, depth: str) -> BackupError:
    with pytest.raises(BackupError) as caught:
        world.verify(depth=depth)
    return caught.value


def test_wrong_digests_are_told_before_wrong_lines(crowd: World) -> None:
    made = crowd.backup()
    place = crowd.history / "snapshots" / str(made.snapshot_id) / "manifest.jsonl.gz"
    rewrite_manifest(place, lambda text: text.replace(b'"o":420', b'"o":0420', 1))
    for depth in ("quick", "full"):
        error = error_of(crowd.verify, depth=depth)
        assert "trailer" in str(error) and str(place) in str(error)
    rewrite_manifest(place, resealed)
    for depth in ("quick", "full"):
        assert "receipt" in str(error_of(crowd.verify, depth=depth))


# ---- vaults that cannot be written, or are no vaults ---------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("storage", STORAGES)
def test_a_read_only_vault_is_verified_and_restored_from_and_tells_a_backup(storage: str) -> None:
    with mounted("tmpfs", "size=8m") as disk:
        world = World.make(storage)
        world.vault = disk / "vault"
        try:
            (world.src / "a").write_text("a")
            first = world.backup()
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            found = world.verify()
            assert found.ok and [text for text in world.notes if "Read-only" in text]
            assert world.restore(dest=world.root / "out").verified
            (world.src / "a").write_text("changed")
            error = error_of(world.backup)
            assert (error.kind, error.field, error.rc) == ("target", "target", 6) and "Read-only" in error.message
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            second = world.backup()
            assert second.receipt and second.receipt["parent"] == first.snapshot_id
            world.check_history(count=2)
        finally:
            world.destroy()


@needs_root
def test_the_heartbeat_of_a_read_only_vault_is_told() -> None:
    with mounted("tmpfs", "size=8m") as disk:
        world = World.make()
        world.vault = disk / "vault"
        try:
            (world.src / "a").write_text("a")
            policy = world.policy(heartbeat="1s")
            world.backup(policy=policy)
            world.edit_json(next((world.state / "h" / "p" / "targets").glob("*/heartbeat.json")), at=0)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            assert error_of(world.backup, policy=policy).rc == 6
        finally:
            world.destroy()


def test_another_user_who_may_not_read_the_vault_is_told(world: World) -> None:
    if not AS_ROOT:
        pytest.skip("needs another user")
    world.backup()

    def look() -> Any:
        return error_of(restore, world.policy(), RestoreRequest(dest=str(world.root / "out")), state_directory=str(world.root / "x")).to_dict()

    found = in_child(look, uid=NOBODY)
    assert found["kind"] == "target" and found["next"]


def test_both_logs_stay_chains(world: World) -> None:
    two(world)
    world.verify()
    world.restore(confirm=True)
    for log in (world.history / "audit.jsonl", world.state / "audit.jsonl"):
        report = verify_chain(os.fsencode(log))
        assert report.ok and report.records >= 3
    events = [json.loads(line)["event"] for line in (world.history / "audit.jsonl").read_text().splitlines()]
    assert events == ["commit", "commit", "verify"]
    events = [json.loads(line)["event"] for line in (world.state / "audit.jsonl").read_text().splitlines()]
    assert events == ["run", "run", "verify", "restore"]
