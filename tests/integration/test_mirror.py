# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mirrors in directories and in buckets of real servers: what is asked, what comes back, what others find there, and what others did to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import locate
from ansible_collections.openclaw.backup.plugins.module_utils.action.check import check
from ansible_collections.openclaw.backup.plugins.module_utils.action.drill import drill
from ansible_collections.openclaw.backup.plugins.module_utils.action.find import find
from ansible_collections.openclaw.backup.plugins.module_utils.action.history import compare, list_snapshots
from ansible_collections.openclaw.backup.plugins.module_utils.action.needed import restore_if_needed
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import hold, prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.rekey import rekey
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.errors import TargetError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.mirror.condition import receipt_of
from ansible_collections.openclaw.backup.plugins.module_utils.target.mirror.document import Document
from ansible_collections.openclaw.backup.plugins.module_utils.target.mirror.store import MirrorDirectory

from .buckets import ACCESS, SECRET, Asked, Bucketed, Proxy, refusal
from .test_container_kills import FILES, Container, generations, lose, restored, rows, write
from .test_databases import Keeper
from .world import World, assert_same, error_of, fingerprint, killed_at


class Mirrored(Bucketed):
    """An agent's home with a mirror; ``src`` is the home."""

    at_root = False

    def spec(self, **changes: Any) -> Dict[str, Any]:
        spec = {**super().spec(), "layout": "mirror", **changes}
        del spec["key_file"]
        return {**spec, "url": "s3://%s" % self.bucket} if self.at_root else spec

    @property
    def sources(self) -> List[str]:
        return [str(self.src / ".openclaw"), str(self.src / "clawd")]

    def policy(self, **changes: Any) -> Policy:
        keys = {"name": "p", "host": "h", "sources": self.sources, "target": self.spec(), **changes}
        return Policy.from_mapping(keys, default_host="h")

    def objects(self) -> Dict[str, bytes]:  # type: ignore[override]
        prefix = "" if self.at_root else "some/prefix/"
        client = self.client()
        return {key[len(prefix) :]: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in self.keys()}

    def tags(self) -> Dict[str, str]:
        """The ETag of each object."""
        found: Dict[str, str] = {}
        for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            found.update((item["Key"], item["ETag"]) for item in page.get("Contents", ()))
        return found

    def put(self, key: str, data: bytes) -> None:
        self.client().put_object(Bucket=self.bucket, Key=("" if self.at_root else "some/prefix/") + key, Body=data)

    def delete(self, key: str) -> None:
        self.client().delete_object(Bucket=self.bucket, Key=("" if self.at_root else "some/prefix/") + key)

    def lose(self) -> None:
        """A new container: neither files nor state."""
        shutil.rmtree(self.src)
        shutil.rmtree(self.state, ignore_errors=True)
        self.src.mkdir()

    def status(self) -> Dict[str, Any]:
        return status(self.policy(), state_directory=str(self.state))


class Local(Mirrored):
    """The same in a directory."""

    @classmethod
    def here(cls) -> "Local":
        made = World.make.__func__(cls)  # type: ignore[attr-defined]
        assert isinstance(made, Local)
        return made

    def spec(self, **changes: Any) -> Dict[str, Any]:
        return {"url": str(self.vault), "layout": "mirror", **changes}

    def objects(self) -> Dict[str, bytes]:  # type: ignore[override]
        found = [path for path in self.vault.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.vault)): path.read_bytes() for path in found}

    def tags(self) -> Dict[str, str]:
        return {key: hashlib.md5(data).hexdigest() for key, data in self.objects().items()}

    def put(self, key: str, data: bytes) -> None:
        path = self.vault / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, key: str) -> None:
        (self.vault / key).unlink()


def behind(port: int) -> Iterator[Mirrored]:
    proxy = Proxy(port)
    made = Mirrored.behind(proxy)
    assert isinstance(made, Mirrored)
    yield made
    made.destroy()
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def local() -> Iterator[Local]:
    made = Local.here()
    yield made
    made.destroy()


@pytest.fixture
def bucket(moto: int) -> Iterator[Mirrored]:
    yield from behind(moto)


@pytest.fixture(params=["moto", "rclone", "directory"])
def mirrored(request: pytest.FixtureRequest) -> Iterator[Mirrored]:
    if request.param == "directory":
        made = Local.here()
        yield made
        made.destroy()
    else:
        yield from behind(request.getfixturevalue(request.param))


def furnish(world: Mirrored) -> None:
    """An agent's home with everything that an object cannot hold."""
    home = world.src
    for name, data in {
        ".openclaw/openclaw.json": b'{"agent": 1}',
        ".openclaw/.env": b"KEY=secret",
        ".openclaw/credentials/oauth.json": b"{}",
        ".openclaw/empty": b"",
        "clawd/MEMORY.md": b"remember",
        "clawd/a name with spaces + %41 \u00e4.md": b"odd",
        "clawd/skills/one/SKILL.md": b"skill",
        "clawd/.git/HEAD": b"ref",
    }.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (home / ".openclaw" / ".env").chmod(0o600)
    (home / "clawd" / "skills" / "one" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (home / "clawd" / "skills" / "one" / "run.sh").chmod(0o755)
    (home / "clawd" / "link").symlink_to("MEMORY.md")
    (home / "clawd" / "nothing" / "here").mkdir(parents=True)
    os.link(home / "clawd" / "MEMORY.md", home / "clawd" / "twin.md")
    with open(os.fsencode(home) + b"/clawd/not utf-8 \xff", "wb") as stream:
        stream.write(b"bytes")


def comes_back(world: Mirrored) -> None:
    """What is in the mirror is the home, in a place that knows nothing."""
    dest = world.root / ("back-%s" % os.urandom(4).hex())
    assert world.restore(dest=dest, state_directory=str(world.root / ("state-%s" % dest.name))).verified
    for source in world.sources:
        assert_same(Path(source), Path(str(dest) + source))


# ---- there and back --------------------------------------------------------------------------------------------------------


def test_a_home_goes_to_a_mirror_one_object_a_file_and_comes_back_with_what_objects_cannot_hold(mirrored: Mirrored) -> None:
    furnish(mirrored)
    assert mirrored.backup().changed
    found = mirrored.objects()
    assert set(found) == {
        "manifest.json",
        ".last-sync",
        "openclaw/openclaw.json",
        "openclaw/.env",
        "openclaw/credentials/oauth.json",
        "openclaw/empty",
        "workspace/MEMORY.md",
        "workspace/twin.md",
        "workspace/a name with spaces + %41 \u00e4.md",
        "workspace/.git/HEAD",
        "workspace/not utf-8 \u201bFF",
        "skills/one/SKILL.md",
        "skills/one/run.sh",
    }
    assert found["workspace/twin.md"] == b"remember" and found["skills/one/SKILL.md"] == b"skill"
    comes_back(mirrored)
    (mirrored.src / "clawd" / "MEMORY.md").write_bytes(b"remember more")
    (mirrored.src / "clawd" / "nothing" / "here").rmdir()
    (mirrored.src / ".openclaw" / "empty").unlink()
    (mirrored.src / ".openclaw" / "credentials" / "new.json").write_bytes(b"[]")
    mirrored.backup()
    found = mirrored.objects()
    assert found["workspace/twin.md"] == b"remember more" and "openclaw/empty" not in found and found["openclaw/credentials/new.json"] == b"[]"
    assert not [key for key in found if key.startswith(".unfinished")]
    comes_back(mirrored)
    assert not mirrored.backup().changed
    assert mirrored.verify(depth="full").ok and len(mirrored.verify(depth="quick").to_dict()["sample"]) == 0
    mirrored.lose()
    assert mirrored.restore(confirm=True).verified
    assert not mirrored.backup().changed


def test_what_was_a_file_becomes_a_directory_and_the_other_way_round(mirrored: Mirrored) -> None:
    furnish(mirrored)
    mirrored.backup()
    home = mirrored.src / "clawd"
    shutil.rmtree(home / "skills" / "one")
    (home / "skills" / "one").write_bytes(b"a file now")
    (home / "MEMORY.md").unlink()
    (home / "MEMORY.md").mkdir()
    (home / "MEMORY.md" / "inside").write_bytes(b"x")
    mirrored.backup()
    comes_back(mirrored)


# ---- what is asked ---------------------------------------------------------------------------------------------------------


def test_hardly_anything_is_asked_of_a_bucket(bucket: Mirrored) -> None:
    world = bucket
    furnish(world)
    for number in range(40):
        (world.src / "clawd" / ("note%02d.md" % number)).write_bytes(b"note %d" % number)
    world.backup()
    world.proxy.classes()
    assert not world.backup().changed
    assert world.proxy.classes() == (0, 0, 0)
    for changed in (1, 3):
        for number in range(changed):
            (world.src / "clawd" / ("note%02d.md" % number)).write_bytes(os.urandom(20))
        assert world.backup().changed
        dear, cheap, free = world.proxy.classes()
        assert (dear, free) == (changed + 2, 0) and cheap <= changed + 4
    (world.src / "clawd" / "note39.md").unlink()
    (world.src / "clawd" / "note38.md").write_bytes(b"other")
    world.backup()
    order = [(asked.verb, asked.key.rpartition("/")[2]) for asked in world.proxy.asked if asked.verb in ("put", "delete")]
    assert order == [("put", "note38.md"), ("put", "manifest.json"), ("delete", "note39.md"), ("put", "manifest.json"), ("put", ".last-sync")]
    (world.src / "clawd" / "note00.md").chmod(0o640)
    world.proxy.classes()
    world.backup()
    assert world.proxy.classes()[0] == 2  # the manifest says it, and no object
    comes_back(world)


# ---- what moltworker does with it --------------------------------------------------------------------------------------------


def rclone_run(world: Mirrored, *arguments: str) -> None:
    """The rclone that comes with the tests, on the server itself."""
    port = world.proxy.backend
    environment = {
        "PATH": os.environ["PATH"],
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_R2_TYPE": "s3",
        "RCLONE_CONFIG_R2_PROVIDER": "Other",
        "RCLONE_CONFIG_R2_ENDPOINT": "http://127.0.0.1:%d" % (port or 0),
        "RCLONE_CONFIG_R2_ACCESS_KEY_ID": ACCESS,
        "RCLONE_CONFIG_R2_SECRET_ACCESS_KEY": SECRET,
    }
    argv = [str(Path(sys.executable).parent / "rclone"), *arguments, "--transfers=16", "--fast-list", "--s3-no-check-bucket"]
    subprocess.run(argv, env=environment, check=True, capture_output=True)


def boot(world: Mirrored, home: Path) -> None:
    """What moltworker's start script does to a new container's disk."""
    at = "r2:%s/" % world.bucket
    keys = world.tags()
    if "openclaw/openclaw.json" in keys:
        rclone_run(world, "copy", at + "openclaw/", str(home / ".openclaw"))
    elif "clawdbot/clawdbot.json" in keys:
        rclone_run(world, "copy", at + "clawdbot/", str(home / ".openclaw"))
        (home / ".openclaw" / "clawdbot.json").rename(home / ".openclaw" / "openclaw.json")
    rclone_run(world, "copy", at + "workspace/", str(home / "clawd"))
    if any(key.startswith("skills/") for key in keys):
        rclone_run(world, "copy", at + "skills/", str(home / "clawd" / "skills"))


def sync(world: Mirrored) -> None:
    """What its loop does."""
    at = "r2:%s/" % world.bucket
    home = world.src
    rclone_run(world, "sync", str(home / ".openclaw"), at + "openclaw/", "--exclude=*.lock", "--exclude=*.log", "--exclude=*.tmp", "--exclude=.git/**")
    rclone_run(world, "sync", str(home / "clawd"), at + "workspace/", "--exclude=skills/**", "--exclude=.git/**", "--exclude=node_modules/**")
    rclone_run(world, "sync", str(home / "clawd" / "skills"), at + "skills/")


def contents(home: Path) -> Dict[bytes, str]:
    """The files below a home, with a hash of each."""
    return {path: str(what[5]) for path, what in fingerprint(home).items() if stat.S_ISREG(what[0])}


@pytest.fixture
def at_root(bucket: Mirrored) -> Mirrored:
    """A bucket that is nothing but a mirror, as moltworker's are."""
    bucket.at_root = True
    return bucket


def test_moltworkers_own_restore_gives_back_exactly_the_files_of_the_snapshot(at_root: Mirrored) -> None:
    world = at_root
    furnish(world)
    world.backup()
    (world.src / "clawd" / "skills" / "one" / "SKILL.md").write_bytes(b"better")
    (world.src / ".openclaw" / "empty").unlink()
    world.backup()
    home = world.root / "container"
    boot(world, home)
    assert contents(home) == contents(world.src)


def test_a_bucket_that_rclone_wrote_is_taken_over_without_an_upload(at_root: Mirrored) -> None:
    world = at_root
    furnish(world)
    os.unlink(os.fsencode(world.src) + b"/clawd/not utf-8 \xff")
    shutil.rmtree(world.src / "clawd" / ".git")
    sync(world)
    before = world.objects()
    error = error_of(world.backup)
    assert (error.rc, error.kind) == (4, "restore_first") and world.objects() == before
    world.proxy.classes()
    assert world.backup(adopt=True).changed
    puts = [asked.key.rpartition("/")[2] for asked in world.proxy.asked if asked.verb == "put"]
    assert set(puts) == {"manifest.json", ".last-sync"}
    after = world.objects()
    assert {key: data for key, data in after.items() if key in before} == before
    comes_back(world)
    assert not world.backup().changed
    # And in a container that has lost everything, from the objects alone.
    world.delete("manifest.json")
    world.lose()
    assert world.restore().verified
    assert "manifest.json" in world.objects()
    assert not world.backup().changed


def test_a_last_sync_without_a_manifest_has_one_made_anew(mirrored: Mirrored) -> None:
    furnish(mirrored)
    mirrored.backup()
    was = contents(mirrored.src)
    mode = (mirrored.src / "clawd" / "skills" / "one" / "run.sh").stat().st_mode
    mirrored.delete("manifest.json")
    mirrored.lose()
    # Who only looks sees what a restore would bring, below the policy's sources.
    (seen,) = list_snapshots(mirrored.policy())
    assert mirrored.status()["newest"]["id"] == seen.id and "manifest.json" not in mirrored.objects()
    assert find(mirrored.policy(), "MEMORY.md", state_directory=str(mirrored.state))["paths"][0]["path"] == str(mirrored.src / "clawd" / "MEMORY.md")
    assert mirrored.restore().verified
    assert contents(mirrored.src) == was and "manifest.json" in mirrored.objects()
    if mirrored.src.parent.name and not isinstance(mirrored, Local):
        assert (mirrored.src / "clawd" / "skills" / "one" / "run.sh").stat().st_mode == mode  # its object says so
    assert not mirrored.backup().changed


def test_who_looks_at_a_bucket_without_a_manifest_writes_down_whose_files_these_are(local: Local) -> None:
    furnish(local)
    local.backup()
    was = contents(local.src)
    local.delete("manifest.json")
    local.lose()
    assert local.verify().ok and "manifest.json" in local.objects()  # with the result
    assert local.restore().verified and contents(local.src) == was


# ---- moving from older layouts -------------------------------------------------------------------------------------------------


def old_bucket(world: Mirrored, count: int) -> Dict[bytes, str]:
    """What an older release left: a configuration, and many notes; a hash of each file."""
    home = world.root / "old"
    for number in range(count):
        path = home / ("clawd" if number % 2 else ".openclaw/notes") / ("dir%d" % (number % 7)) / ("note%03d" % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    (home / ".openclaw" / "openclaw.json").write_bytes(b"{}")
    for path in home.rglob("*"):
        if path.is_file():
            key = str(path.relative_to(home)).replace(".openclaw/", "clawdbot/").replace("clawd/", "workspace-core/").replace("openclaw.json", "clawdbot.json")
            world.put(key, path.read_bytes())
    return contents(home)


def test_a_bucket_without_a_workspace_and_with_times_that_are_none_is_taken_over(bucket: Mirrored) -> None:
    for number, mtime in enumerate(("nan", "inf", "1e30", "-5", "x")):
        bucket.client().put_object(Bucket=bucket.bucket, Key="some/prefix/openclaw/%d" % number, Body=b"x", Metadata={"mtime": mtime})
    assert bucket.restore().verified
    assert len(contents(bucket.src)) == 5 and not list((bucket.src / "clawd").iterdir())
    assert (bucket.src / ".openclaw" / "3").stat().st_mtime == -5
    assert not bucket.backup().changed


@pytest.mark.parametrize("count", [30, 500])
def test_objects_of_an_older_release_move_and_nothing_is_lost(request: pytest.FixtureRequest, count: int) -> None:
    """The few in a bucket, the many in a directory, which answers sooner."""
    world: Mirrored = request.getfixturevalue("at_root" if count < 100 else "local")
    files = old_bucket(world, count)
    was = world.tags()
    assert world.restore().verified
    assert contents(world.src) == files
    listed = {"clawdbot/": count // 2 + 1, "workspace-core/": count // 2}
    assert world.status()["old_prefixes"] == listed
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b'{"changed": 1}')
    left = [count // 2]

    def spoil(asked: Asked, body: bytes) -> Any:
        left[0] -= asked.verb == "put"
        return refusal(403, "AccessDenied") if left[0] < 0 and asked.verb in ("put", "delete") else None

    if isinstance(world, Local):
        while len(world.tags()) == len(was) + 2:  # until it was killed at work
            killed_at(world.backup, 0.2)
    else:
        world.proxy.spoil = spoil
        assert error_of(world.backup).kind == "denied"
        world.proxy.spoil = lambda asked, body: None
        world.proxy.asked.clear()
    assert was.items() <= world.tags().items()
    assert world.backup().rc == 0
    if not isinstance(world, Local):
        assert sum(asked.verb == "put" for asked in world.proxy.asked) < count  # what had arrived is not sent again
        home = world.root / "container"
        boot(world, home)
        assert contents(home) == contents(world.src)
    assert world.status()["old_prefixes"] == listed and was.items() <= world.tags().items()
    (world.src / "clawd" / "new").write_bytes(b"new")
    world.backup()
    assert world.status()["old_prefixes"] == {} and len(world.tags()) == count + 4
    comes_back(world)


@pytest.mark.parametrize("stop", [3, 7, 8, 9])
def test_a_move_that_broke_off_leaves_a_bucket_that_moltworker_can_read_and_is_finished(local: Local, stop: int) -> None:
    files = old_bucket(local, 6)
    local.restore()
    (local.src / ".openclaw" / "openclaw.json").write_bytes(b"changed")
    with broken_after(stop):
        assert error_of(local.backup).kind == "unreachable"
    there = local.objects()
    if "openclaw/openclaw.json" in there:  # by which it tells that the others are there, too
        assert sum(key.startswith(("openclaw/", "workspace/")) for key in there) == len(files)
    assert sum(key.startswith(("clawdbot/", "workspace-core/")) for key in there) == len(files)
    local.lose()
    assert local.restore().verified and contents(local.src).keys() == files.keys()
    assert sum(local.status()["old_prefixes"].values()) == len(files)
    for turn in (1, 2):
        (local.src / "clawd" / "more").write_bytes(b"%d" % turn)
        assert local.backup().rc == 0
    assert local.status()["old_prefixes"] == {} and sorted(local.objects()) == keys_of(local)
    comes_back(local)


def test_a_half_moved_bucket_has_the_newer_of_both(at_root: Mirrored) -> None:
    world = at_root
    for key, data in {
        "clawdbot/clawdbot.json": b"old",
        "clawdbot/only.json": b"only there",
        "openclaw/openclaw.json": b"new",
        "workspace-core/MEMORY.md": b"memory",
    }.items():
        world.put(key, data)
    assert world.restore().verified
    assert (world.src / ".openclaw" / "openclaw.json").read_bytes() == b"new"
    assert (world.src / ".openclaw" / "only.json").read_bytes() == b"only there"
    assert (world.src / "clawd" / "MEMORY.md").read_bytes() == b"memory"
    (world.src / "clawd" / "MEMORY.md").write_bytes(b"more")
    world.backup()
    assert world.content("clawdbot/clawdbot.json") == b"old"
    assert world.content("openclaw/only.json") == b"only there"


# ---- what others did to it -------------------------------------------------------------------------------------------------------


def test_what_somebody_else_changed_is_told_of_and_not_overwritten(mirrored: Mirrored) -> None:
    furnish(mirrored)
    mirrored.backup()
    mirrored.put("workspace/MEMORY.md", b"somebody else's")
    mirrored.put("workspace/unknown.md", b"whose?")
    (mirrored.src / "clawd" / "MEMORY.md").write_bytes(b"mine")
    (mirrored.src / ".openclaw" / "empty").unlink()
    (mirrored.src / ".openclaw" / "empty").mkdir()
    (mirrored.src / ".openclaw" / "empty" / "no more").write_bytes(b"which takes the old object's place")
    before = mirrored.objects()
    error = error_of(mirrored.backup)
    assert (error.rc, error.kind) == (4, "foreign_change") and "workspace/MEMORY.md" in error.message
    assert mirrored.objects() == before
    problems = " ".join(mirrored.status()["problems"])
    assert "was changed by somebody else" in problems and "/clawd/MEMORY.md" in problems and "workspace/unknown.md" in problems
    found = mirrored.verify(depth="quick")
    assert not found.ok and found.counts == {"damaged": 1, "missing": 0, "extra": 1}
    assert mirrored.backup(adopt=True).changed
    assert mirrored.objects()["workspace/MEMORY.md"] == b"mine" and mirrored.objects()["workspace/unknown.md"] == b"whose?"
    comes_back(mirrored)


def test_what_somebody_deleted_is_written_again_once_it_is_missed(mirrored: Mirrored) -> None:
    furnish(mirrored)
    mirrored.backup()
    mirrored.delete("openclaw/.env")
    assert not mirrored.verify(depth="quick").ok
    assert mirrored.backup().healed == 1
    assert mirrored.objects()["openclaw/.env"] == b"KEY=secret" and mirrored.verify(depth="quick").ok


def test_an_object_that_somebody_else_changed_is_not_deleted_with_the_file(mirrored: Mirrored) -> None:
    furnish(mirrored)
    mirrored.backup()
    mirrored.put("openclaw/empty", b"not any more")
    (mirrored.src / ".openclaw" / "empty").unlink()
    result = mirrored.backup()
    assert result.rc == 3 and "openclaw/empty" in result.warnings[0]
    assert mirrored.objects()["openclaw/empty"] == b"not any more"


def test_two_writers_of_one_mirror_are_told_apart(mirrored: Mirrored) -> None:
    furnish(mirrored)
    mirrored.backup()
    other = str(mirrored.root / "other")
    error = error_of(mirrored.backup, state_directory=other)
    assert (error.rc, error.kind) == (4, "restore_first")
    mirrored.restore(state_directory=other)
    (mirrored.src / "clawd" / "MEMORY.md").write_bytes(b"from the other")
    assert mirrored.backup(state_directory=other).changed
    before = mirrored.objects()
    (mirrored.src / ".openclaw" / "openclaw.json").write_bytes(b"from the first")
    error = error_of(mirrored.backup)
    assert (error.rc, error.kind) == (4, "writer") and mirrored.objects() == before


def test_a_writer_that_comes_in_between_is_not_written_over(bucket: Mirrored) -> None:
    world = bucket
    furnish(world)
    world.backup()
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b"mine")

    def come_between(asked: Asked, body: bytes) -> None:
        if asked.verb == "put" and asked.key.endswith("openclaw.json"):
            world.put("manifest.json", b"another's")

    world.proxy.spoil = come_between
    error = error_of(world.backup)
    assert (error.rc, error.kind) == (4, "writer") and world.content("some/prefix/manifest.json") == b"another's"


def test_an_empty_home_never_replaces_a_mirror(local: Local) -> None:
    furnish(local)
    for number in range(20):
        (local.src / "clawd" / ("note%d" % number)).write_bytes(b"%d" % number)
    local.backup()
    before = local.objects()
    for source in local.sources:
        shutil.rmtree(source)
        os.mkdir(source)
    assert error_of(local.backup).rc == 4 and local.objects() == before
    (local.src / ".openclaw" / "openclaw.json").write_bytes(b"onboarded")
    assert error_of(local.backup).rc == 4 and local.objects() == before
    shutil.rmtree(local.state)  # a new container, which was set up anew
    error = error_of(local.backup)
    assert error.kind == "restore_first" and local.objects() == before


# ---- when something breaks ---------------------------------------------------------------------------------------------------------


def test_wherever_a_run_breaks_off_a_new_container_gets_the_last_state_or_a_newer_one(bucket: Mirrored) -> None:
    world = bucket
    old: Dict[str, bytes] = {}
    for number in range(6):
        name = "clawd/note%d" % number
        (world.src / "clawd").mkdir(exist_ok=True)
        (world.src / ".openclaw").mkdir(exist_ok=True)
        (world.src / ".openclaw" / "openclaw.json").write_bytes(b"{}")
        (world.src / name).write_bytes(b"old %d" % number)
        old[name] = b"old %d" % number
    world.backup()
    for turn, stop in enumerate((2, 3, 4, 5, 6)):
        new = dict(old)
        for number in (0, 1, 6 + turn):
            new["clawd/note%d" % number] = b"new %d %d" % (number, turn)
        gone = "clawd/note%d" % (2 if turn == 0 else 5 + turn)
        new.pop(gone, None)
        for name, data in new.items():
            (world.src / name).write_bytes(data)
        (world.src / gone).unlink()
        left = [stop]

        def spoil(asked: Asked, body: bytes, left: List[int] = left) -> Any:
            left[0] -= asked.verb in ("put", "delete")
            return refusal(403, "AccessDenied") if left[0] < 0 else None

        mark = world.objects()[".last-sync"]
        world.proxy.spoil = spoil
        assert error_of(world.backup).kind == "denied", stop
        assert world.objects()[".last-sync"] == mark
        world.proxy.spoil = lambda asked, body: None
        state, dest = world.root / ("state%d" % stop), world.root / ("dest%d" % stop)
        shutil.copytree(world.src, world.root / "aside")
        shutil.rmtree(world.src)
        world.src.mkdir()
        assert world.restore(state_directory=str(state)).verified, (stop, dest)
        for name in old.keys() | new.keys():
            path = world.src / name
            if path.exists():
                assert path.read_bytes() in (old.get(name), new.get(name)), name
            else:
                assert name not in old or name not in new, name
        # And that container goes on.
        assert world.backup(state_directory=str(state)).rc == 0
        shutil.rmtree(world.src)
        shutil.move(str(world.root / "aside"), str(world.src))
        assert world.backup(state_directory=str(state)).rc == 0
        comes_back(world)
        assert set(world.objects()) == {"manifest.json", ".last-sync", "openclaw/openclaw.json", *(name.replace("clawd/", "workspace/") for name in new)}
        old = new
        shutil.rmtree(world.state)
        shutil.move(str(state), str(world.state))


def test_a_run_that_was_killed_is_gone_on_from_by_the_next(mirrored: Mirrored) -> None:
    furnish(mirrored)
    mirrored.backup()
    for turn in range(2):
        for number in range(12):
            (mirrored.src / "clawd" / ("note%d" % number)).write_bytes(os.urandom(2000))
        killed_at(mirrored.backup, 0.05 + 0.1 * turn)
        (mirrored.src / "clawd" / "note0").write_bytes(b"changed since")
        assert mirrored.backup().rc == 0
        comes_back(mirrored)
    assert not [key for key in mirrored.objects() if key.startswith(".unfinished")]


@contextlib.contextmanager
def broken_after(writes: int) -> Iterator[None]:
    """A directory in which so many objects can be written or deleted, and then nothing more."""
    left = [writes]

    def spend(verb: Any) -> Any:
        def spent(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise TargetError("the link is gone", kind="unreachable", next="wait")
            return verb(*args, **options)

        return spent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MirrorDirectory, "replace", spend(MirrorDirectory.replace))
        patch.setattr(MirrorDirectory, "delete", spend(MirrorDirectory.delete))
        yield


def keys_of(world: Mirrored) -> List[str]:
    """The names that the objects of a mirror of this home have to have."""
    workspace = map(os.fsdecode, contents(world.src / "clawd"))
    found = {key if key.startswith("skills/") else "workspace/" + key for key in workspace}
    return sorted(found.union(("manifest.json", ".last-sync"), ("openclaw/" + os.fsdecode(key) for key in contents(world.src / ".openclaw"))))


@pytest.mark.parametrize("goes_on", [False, True], ids=["as it was", "elsewhere"])
def test_what_a_broken_run_wrote_goes_where_its_change_was_undone(local: Local, goes_on: bool) -> None:
    world = local
    for name in ("clawd/a", "clawd/b", "clawd/c", ".openclaw/openclaw.json"):
        (world.src / name).parent.mkdir(exist_ok=True)
        (world.src / name).write_bytes(name.encode())
    world.backup()
    for stop in range(1, 7):
        (world.src / "clawd" / "a").write_bytes(b"not for long")
        (world.src / "clawd" / "b").unlink()
        (world.src / "clawd" / "b").mkdir()
        (world.src / "clawd" / "b" / "below").write_bytes(b"new")
        (world.src / "clawd" / "d").write_bytes(b"new, too")
        with broken_after(stop):
            assert error_of(world.backup).kind == "unreachable"
        (world.src / "clawd" / "a").write_bytes(b"clawd/a")
        shutil.rmtree(world.src / "clawd" / "b")
        (world.src / "clawd" / "b").write_bytes(b"clawd/b")
        (world.src / "clawd" / "d").unlink()
        if goes_on:
            (world.src / "clawd" / "c").write_bytes(b"%d" % stop)
        assert world.backup().rc == 0
        assert sorted(world.objects()) == keys_of(world) and world.verify(depth="full").ok, stop
        if goes_on:
            comes_back(world)
        assert not world.backup().changed


def test_a_first_run_that_broke_off_is_gone_on_from_by_itself(local: Local) -> None:
    world = local
    furnish(world)
    for stop in (3, 0, 6):
        (world.src / "clawd" / "MEMORY.md").write_bytes(b"%d" % stop)
        with broken_after(stop):
            assert error_of(world.backup).kind == "unreachable"
        assert ("manifest.json" in world.objects()) == (stop == 6)
    (world.src / "clawd" / "MEMORY.md").write_bytes(b"changed since")
    assert restore_if_needed(world.policy(), state_directory=str(world.state)).needed is None
    assert error_of(world.backup, state_directory=str(world.root / "other")).kind == "restore_first"
    assert world.backup().rc == 0
    comes_back(world)


def test_what_others_wrote_down_of_several_broken_runs_is_ones_own(local: Local) -> None:
    world = local
    furnish(world)
    world.backup()
    for stop in (2, 0):
        (world.src / "clawd" / "MEMORY.md").write_bytes(b"%d" % stop)
        with broken_after(stop):
            assert error_of(world.backup).kind == "unreachable"
    world.delete("openclaw/empty")
    assert not world.verify(depth="quick").ok  # which keeps its result with what the first of them wrote
    assert world.backup().rc == 0
    comes_back(world)


def test_a_file_on_its_way_to_become_a_directory_comes_back_as_either(local: Local) -> None:
    world = local
    furnish(world)
    world.backup()
    (world.src / "clawd" / ".git" / "HEAD").unlink()
    (world.src / "clawd" / ".git" / "HEAD").mkdir()
    (world.src / "clawd" / ".git" / "HEAD" / "x").write_bytes(b"x")
    shutil.rmtree(world.src / ".openclaw" / "credentials")
    (world.src / ".openclaw" / "credentials").write_bytes(b"a file now")
    with broken_after(5):  # two went, notes, two came
        assert error_of(world.backup).kind == "unreachable"
    world.lose()
    assert world.restore().verified
    assert (world.src / "clawd" / ".git" / "HEAD" / "x").read_bytes() == b"x"
    assert (world.src / ".openclaw" / "credentials").read_bytes() == b"a file now"


def test_a_token_that_may_only_read_destroys_nothing_and_restores(bucket: Mirrored) -> None:
    world = bucket
    furnish(world)
    world.backup()
    before = world.objects()
    world.proxy.spoil = lambda asked, body: refusal(403, "AccessDenied") if asked.verb in ("put", "delete") else None
    (world.src / "clawd" / "MEMORY.md").write_bytes(b"more")
    error = error_of(world.backup)
    assert (error.rc, error.kind) == (6, "denied") and world.objects() == before
    assert "denied" in str(world.status()["last_run"]["error"])
    shutil.rmtree(world.src)
    world.src.mkdir()
    assert world.restore().verified
    world.proxy.spoil = lambda asked, body: refusal(403, "RequestTimeTooSkewed") if asked.verb == "put" else None
    (world.src / "clawd" / "MEMORY.md").write_bytes(b"more")
    assert error_of(world.backup).kind == "clock" and world.objects() == before


def test_a_manifest_that_was_tampered_with_is_refused_and_leads_nowhere(local: Local) -> None:
    furnish(local)
    local.backup()
    good = local.objects()["manifest.json"]
    (local.src / "clawd" / "MEMORY.md").write_bytes(b"more")
    item = json.loads(good)
    for wrong in (
        good[:-20],
        b"[]",
        good.replace(b'"o":384', b'"o":511'),
        json.dumps({**item, "removing": {"../../etc/passwd": ""}}).encode(),
        good.replace(b'"key":"openclaw/', b'"key":"elsewhere/'),
        json.dumps({**item, "format": 2}).encode(),
    ):
        local.put("manifest.json", wrong)
        error = error_of(local.backup)
        assert error.rc in (6, 7) and local.objects()["manifest.json"] == wrong
    local.put("manifest.json", good)
    assert local.backup().changed


def test_who_may_write_the_bucket_comes_by_no_program_of_roots_and_no_disk(local: Local) -> None:
    furnish(local)
    local.backup()
    document = Document.from_bytes(local.objects()["manifest.json"], "here")
    home = os.fsencode(local.src).strip(b"/")
    odd = {
        home + b"/clawd/MEMORY.md": {"mode": 0o6755, "uid": 0},
        home + b"/clawd/.git/HEAD": {"mode": 0o755, "xattrs": ((b"security.capability", b"\1\0\0\2\0\x04\0\0" + 12 * b"\0"), (b"user.fine", b"x"))},
        home + b"/clawd": {"mode": 0o2755},
    }
    entries = [entry._replace(**odd.get(entry.group or entry.path, {})) for entry in document.manifest.entries]
    entries.append(Entry(home + b"/clawd/disk", "b", 0o666, 0, 0, 0, device=(7, 0)))
    manifest = Manifest.from_entries(document.manifest.header, entries)
    was = document.receipt
    receipt = receipt_of(manifest, was.created, was.sequence, was.parent, was.tx, 0, 0)
    manifest = manifest.with_header(id=receipt.id, sequence=receipt.sequence, parent=receipt.parent, created=receipt.created)
    local.put("manifest.json", document.having(receipt=receipt, manifest=manifest).to_bytes())
    assert drill(local.policy(), state_directory=str(local.state)).verdict == "failed"  # this host sent another
    assert drill(local.policy(), state_directory=str(local.root / "other")).verdict == "passed"
    local.lose()
    done = local.restore()
    assert done.verified and done.rc == 3 and "4 paths would have come with rights" in done.warnings[0], done.warnings
    there = local.src / "clawd"
    assert [(there / name).stat().st_mode & 0o7777 for name in ("MEMORY.md", "twin.md", ".git/HEAD", "")] == [0o755, 0o755, 0o755, 0o2755]
    assert os.listxattr(there / ".git" / "HEAD") == ["user.fine"] and not os.path.lexists(there / "disk")
    assert local.backup().changed and not local.backup().changed  # the mirror has it as it is here


# ---- what else there is --------------------------------------------------------------------------------------------------------------


def test_a_database_is_captured_and_its_journal_is_no_object(local: Local) -> None:
    furnish(local)
    path = local.src / ".openclaw" / "state.sqlite"
    with Keeper(path, rows=100):
        local.backup()
        found = local.objects()
    assert not [key for key in found if key.endswith(("-wal", "-shm"))]
    copy = local.root / "copy.sqlite"
    copy.write_bytes(found["openclaw/state.sqlite"])
    with contextlib.closing(sqlite3.connect(str(copy))) as database:
        assert database.execute("SELECT count(*) FROM t").fetchone() == (100,)


def test_one_version_is_listed_and_is_nothing_to_prune_hold_or_tag(local: Local) -> None:
    furnish(local)
    local.backup()
    (local.src / "clawd" / "MEMORY.md").write_bytes(b"more")
    newest = local.backup().snapshot_id
    policy, state = local.policy(retention={"keep_last": 1, "protect": "0s"}), str(local.state)
    assert [snapshot.id for snapshot in list_snapshots(policy)] == [newest]
    first, second, changes = compare(policy, "latest", "latest")
    assert first == second and not changes.added
    for error in (
        error_of(prune, policy, state_directory=state),
        error_of(prune, local.policy(), state_directory=state),  # a retention would not help
        error_of(hold, policy, snapshot="latest", reason="why", state_directory=state),
    ):
        assert (error.rc, error.kind) == (4, "one_version")
    assert error_of(local.backup, tags=("a",)).kind == "one_version"


def test_a_mirror_alone_counts_as_no_protection(bucket: Mirrored) -> None:
    furnish(bucket)
    bucket.backup()
    assert any("one version" in problem for problem in bucket.status()["problems"])
    result = check(bucket.policy(), state_directory=str(bucket.state))
    assert any("one version" in warning for warning in result.warnings) and result.canary is not None
    assert not [key for key in bucket.objects() if "canary" in key]
    assert not bucket.backup().changed


def test_sources_that_would_share_a_place_are_refused(local: Local) -> None:
    for name in ("one", "two"):
        (local.src / name).mkdir()
        (local.src / name / "file").write_bytes(b"x")
    policy = local.policy(sources=[str(local.src / "one"), str(local.src / "two")])
    for error in (error_of(local.backup, policy=policy), error_of(check, policy, state_directory=str(local.state))):
        assert (error.rc, error.field) == (2, "sources") and not [key for key in local.objects() if key != "format.json"]


# ---- the hybrid ----------------------------------------------------------------------------------------------------------------------


class Hybrid(Mirrored):
    """Configuration and skills as plain files, everything in packs."""

    def spec(self, **changes: Any) -> Dict[str, Any]:
        layout = {self.sources[0]: "mirror", self.sources[1]: "pack", self.sources[1] + "/skills": "mirror"}
        return {**super().spec(), "layout": layout, "key_file": str(self.key), **changes}


@pytest.fixture
def hybrid(moto: int) -> Iterator[Hybrid]:
    proxy = Proxy(moto)
    made = Hybrid.behind(proxy)
    assert isinstance(made, Hybrid)
    made.at_root = True
    yield made
    made.destroy()
    proxy.shutdown()
    proxy.server_close()


def test_a_hybrid_has_some_directories_as_files_and_the_history_of_all_of_them_in_packs(hybrid: Hybrid) -> None:
    world = hybrid
    furnish(world)
    first = world.backup()
    plain = {key for key in world.tags() if not key.startswith("history/")}
    assert plain == {
        "manifest.json",
        ".last-sync",
        "openclaw/openclaw.json",
        "openclaw/.env",
        "openclaw/credentials/oauth.json",
        "openclaw/empty",
        "skills/one/SKILL.md",
        "skills/one/run.sh",
    }
    comes_back(world)
    world.proxy.classes()
    assert not world.backup().changed
    assert world.proxy.classes() == (0, 0, 0)
    (world.src / "clawd" / "MEMORY.md").write_bytes(b"only packs")
    world.backup()
    world.proxy.classes()
    (world.src / "clawd" / "skills" / "one" / "SKILL.md").write_bytes(b"both")
    result = world.backup()
    assert world.proxy.classes()[0] == 5 and result.requests is not None and result.requests["class_a"] == 5
    assert world.content("skills/one/SKILL.md") == b"both"
    comes_back(world)
    found = world.status()
    assert found["snapshots"] == 3 and found["ok"], found["problems"]
    back = world.root / "first"
    assert world.restore(snapshot=first.snapshot_id, dest=back).verified
    assert Path(str(back) + str(world.src / "clawd/skills/one/SKILL.md")).read_bytes() == b"skill"
    assert world.verify(depth="full").ok
    home = world.root / "container"
    rclone_run(world, "copy", "r2:%s/openclaw/" % world.bucket, str(home))
    assert contents(home) == contents(world.src / ".openclaw")
    world.change_key()
    done = rekey(world.policy(), state_directory=str(world.state))
    world.old_keys.clear()
    assert done.snapshots == 3 and world.status()["keys"] == done.keys == [done.key]
    world.lose()
    assert error_of(world.backup).rc == 4
    assert world.restore().verified and not world.backup().changed


def test_a_mirror_that_cannot_follow_costs_a_hybrid_no_snapshot_and_catches_up(hybrid: Hybrid) -> None:
    world = hybrid
    furnish(world)
    world.backup()
    world.put("openclaw/openclaw.json", b"somebody else's")
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b"mine")
    for _turn in range(2):
        result = world.backup()
        assert result.rc == 3 and "openclaw/openclaw.json" in " ".join(result.warnings) and "nothing was published" not in " ".join(result.warnings)
        assert world.content("openclaw/openclaw.json") == b"somebody else's"
        comes_back(world)
    assert world.status()["snapshots"] == 2
    assert world.backup(adopt=True).rc == 0
    assert world.content("openclaw/openclaw.json") == b"mine" and world.status()["snapshots"] == 2
    assert not world.backup().changed


class Beside(Hybrid, Local):
    """The same in directories, which a policy cannot ask for: it answers sooner."""

    def spec(self, **changes: Any) -> Dict[str, Any]:
        layout = {self.sources[0]: "mirror", self.sources[1] + "/skills": "mirror"}
        return {"url": "s3://bucket", "layout": layout, "key_file": str(self.key), **changes}


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    made = Beside.here()
    assert isinstance(made, Beside)

    def in_a_directory(opened: Any) -> Any:
        return lambda spec, *more: opened(replace(spec, scheme="file", path=str(made.vault / spec.path)), *more)

    for name in ("_open_pack", "_open_mirror"):
        monkeypatch.setattr(locate, name, in_a_directory(getattr(locate, name)))
    yield made
    made.destroy()


def test_the_mirror_of_a_hybrid_is_looked_at_mended_and_nobody_elses(beside: Beside) -> None:
    world = beside
    furnish(world)
    world.backup()
    # What is wrong with the mirror is no damage to the snapshot; a verification tells of it, and the next run mends it.
    world.delete("openclaw/.env")
    found = world.verify(depth="quick")
    assert (found.ok, found.rc) == (True, 3) and "/.openclaw/.env" in found.warnings[0]
    assert world.backup().rc == 0 and world.objects()["openclaw/.env"] == b"KEY=secret" and world.status()["snapshots"] == 1
    assert world.verify(depth="quick").rc == 0 and not world.backup().changed
    # What it had got before it could not follow is undone with the change.
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b"not for long")
    with broken_after(2):  # the notes and the file, and no manifest
        assert world.backup().rc == 3 and world.objects()["openclaw/openclaw.json"] == b"not for long"
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b"mine")
    assert world.backup().rc == 0 and world.objects()["openclaw/openclaw.json"] == b"mine"
    # Another host takes the mirror over, which has a history of its own.
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b"the other's")
    assert world.backup(policy=world.policy(host="other"), state_directory=str(world.root / "other"), adopt=True).rc == 0
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b"mine again")
    result = world.backup()
    assert result.rc == 3 and "host other" in result.warnings[0] and world.objects()["openclaw/openclaw.json"] == b"the other's"


def test_a_layout_that_gives_nothing_to_the_mirror_is_told_by_a_check_too(hybrid: Hybrid) -> None:
    furnish(hybrid)
    policy = hybrid.policy(target=hybrid.spec(layout={"/nowhere": "mirror", "/": "pack"}))
    for error in (error_of(hybrid.backup, policy=policy), error_of(check, policy, state_directory=str(hybrid.state))):
        assert (error.rc, error.field) == (2, "target.layout")


def test_a_hybrid_begins_with_what_moltworker_left(hybrid: Hybrid) -> None:
    world = hybrid
    for key, data in {"clawdbot/clawdbot.json": b"{}", "clawdbot/x.json": b"x", "skills/s/SKILL.md": b"s"}.items():
        world.put(key, data)
    for source in world.sources:
        os.mkdir(source)
    (world.src / ".openclaw" / "openclaw.json").write_bytes(b"onboarded")
    before = world.tags()
    assert error_of(world.backup).kind == "restore_first" and world.tags() == before
    assert world.restore(confirm=True).verified
    assert (world.src / ".openclaw" / "x.json").read_bytes() == b"x" and (world.src / ".openclaw" / "openclaw.json").read_bytes() == b"{}"
    assert world.backup().changed and world.status()["newest"]["sequence"] == 1 and [key for key in world.tags() if key.startswith("history/")]
    comes_back(world)
    assert world.content("openclaw/x.json") == b"x" and world.content("clawdbot/x.json") == b"x"
    assert not world.backup().changed


@pytest.mark.torture
def test_a_container_with_a_mirror_that_is_killed_at_random_instants_comes_back_with_its_last_run_or_newer(local: Local) -> None:
    kills = int(os.environ.get("INSTANTS", "8")) // 2
    seed = int(os.environ.get("SEED", str(random.SystemRandom().randrange(1 << 30))))
    print("seed %d" % seed)
    luck = random.Random(seed)
    policy = local.policy(sources=[str(local.src)], exclude=["*.tmp"], guards={"require": [str(local.src / "d0" / "note 0")], "min_files": FILES})
    said = local.root / "said"
    said.touch()
    for number in range(FILES):
        write(local.src, number, 0)
    with contextlib.closing(sqlite3.connect(str(local.src / "state.sqlite"))) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table t (n integer)")
    assert local.backup(policy=policy).rc == 0
    newest: Dict[str, int] = {}
    for turn in range(kills):
        lost = lose(local, luck)
        container = Container(local, policy, said)
        time.sleep(luck.uniform(0.0, 0.8 if lost == "nothing" or luck.random() < 0.5 else 0.08))
        container.kill()
        dest = local.root / ("dest%d" % turn)
        assert local.restore(policy=policy, dest=dest, state_directory=str(local.root / ("state%d" % turn))).verified
        stored = local.restored(dest)
        held = {**generations(stored), "rows": rows(stored / "state.sqlite", "immutable=1")}
        assert all(held[name] >= newest.get(name, 0) for name in held), "a good state was replaced by an older one"
        newest = held
        assert restored(local, policy).rc in (0, 3)
        here = {**generations(local.src), "rows": rows(local.src / "state.sqlite", "mode=rw")}
        assert all(here[name] >= newest[name] for name in newest), (here, newest)
        shutil.rmtree(dest)
    assert local.backup(policy=policy).rc == 0
    assert local.verify(depth="full").ok
