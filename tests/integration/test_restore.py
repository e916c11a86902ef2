# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore: only what differs moves, nothing is lost that was not meant, links are never followed, and it goes on where it was broken off."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.comparison import TEMPORARY
from ansible_collections.openclaw.backup.tests.integration.trees import fill
from ansible_collections.openclaw.backup.tests.integration.world import (
    AS_ROOT,
    NOBODY,
    STORAGES,
    World,
    assert_same,
    differences,
    error_of,
    fingerprint,
    give,
    in_child,
    killed_at,
    mounted,
    needs_root,
    remove,
)


@pytest.fixture(params=STORAGES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World.make(request.param)
    plain(made.src)
    yield made
    made.destroy()


@pytest.fixture
def portable() -> Iterator[World]:
    made = World.make("portable")
    plain(made.src)
    yield made
    made.destroy()


def plain(src: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        (src / name).write_text("content of " + name)
    (src / "sub" / "deep").mkdir(parents=True)
    (src / "sub" / "f").write_text("f")
    (src / "sub" / "deep" / "g").write_text("g")
    (src / "link").symlink_to("a")
    (src / "empty").mkdir()
    (src / "h1").write_text("hard")
    os.link(src / "h1", src / "h2")
    os.link(src / "h1", src / "sub" / "h3")


def inodes(root: Path) -> Dict[bytes, int]:
    return {path: item[-1] for path, item in fingerprint(root, inodes=True).items()}


def temporaries(root: Path) -> List[str]:
    return [name for _folder, names, files in os.walk(root) for name in names + files if os.fsencode(name).startswith(TEMPORARY)]


def edit(src: Path) -> None:
    """One of everything that a restore has to put right."""
    (src / "a").write_text("changed")
    found = (src / "b").stat()
    (src / "b").write_text("CONTENT OF B")
    os.utime(src / "b", ns=(found.st_atime_ns, found.st_mtime_ns))
    (src / "c").chmod(0o600)
    (src / "d").unlink()
    os.utime(src / "e", ns=(0, 1))
    (src / "sub" / "f").unlink()
    (src / "link").unlink()
    (src / "link").symlink_to("b")
    (src / "h2").unlink()
    (src / "h2").write_text("hard")
    (src / "empty").rmdir()
    (src / "extra").write_text("extra")


# ---- in place --------------------------------------------------------------------------------------------------------------


def test_in_place_only_what_differs_moves(world: World) -> None:
    world.backup()
    before = fingerprint(world.src)
    untouched = inodes(world.src)
    edit(world.src)
    extra = (world.src / "extra").stat()
    result = world.restore(confirm=True)
    assert (result.rc, result.verified, result.warnings) == (0, True, [])
    after = fingerprint(world.src)
    assert after.pop(b"extra")
    assert differences(before, after) == []
    assert (world.src / "extra").stat() == extra, "extras stay unless it is told to delete them"
    now = inodes(world.src)
    for name in (b"c", b"e", b"sub", b"sub/deep", b"sub/deep/g", b"h1", b"sub/h3"):
        assert now[name] == untouched[name], name
    assert result.bytes_restored == len("content of a" + "content of b" + "content of d" + "f")
    assert not world.restore().changed
    assert not temporaries(world.src)


def test_a_restore_of_what_is_there_touches_nothing(world: World) -> None:
    world.backup()
    before = {path: os.lstat(world.src / os.fsdecode(path)) for path in fingerprint(world.src)}
    result = world.restore()
    assert not result.changed and result.verified and result.files_restored == 0
    for path, found in before.items():
        now = os.lstat(world.src / os.fsdecode(path))
        assert (now.st_ino, now.st_ctime_ns, now.st_mtime_ns) == (found.st_ino, found.st_ctime_ns, found.st_mtime_ns), path


def test_replacing_in_place_wants_a_word(world: World) -> None:
    world.backup()
    (world.src / "d").unlink()
    assert world.restore().changed, "bringing back what is missing costs nothing"
    (world.src / "a").write_text("precious")
    for request in ({}, {"dest": "/"}, {"dest": world.root / ".." / ".." / ".."}):
        error = error_of(world.restore, **request)
        assert (error.kind, error.field, error.rc) == ("confirm", "confirm", 4)
        assert error.found == str(world.src / "a") and "openclaw_backup_confirm" in str(error.next)
        told = world.restore(dry_run=True, **request)
        assert told.files_replaced == 1 and "would" in told.warnings[0] and "be refused" in told.warnings[0]
    (world.src / "a").write_text("content of a")
    os.utime(world.src / "a", ns=(0, (world.src / "b").stat().st_mtime_ns))
    (world.src / "extra").write_text("x")
    assert error_of(world.restore, delete=True).kind == "confirm"
    assert (world.src / "extra").exists()
    assert world.restore(delete=True, undo=world.root / "undo").files_removed == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_undo_keeps_what_is_replaced_and_removed(world: World, elsewhere: bool) -> None:
    world.backup()
    edit(world.src)
    (world.src / "empty").write_text("a file where a directory was")
    (world.src / "d").mkdir()
    (world.src / "d" / "inside").write_text("inside")
    os.setxattr(world.src / "d", "user.x", b"1")
    (world.src / "more").mkdir()
    (world.src / "more" / "file").write_text("more")
    (world.src / "more").chmod(0o751)
    if AS_ROOT:
        os.chown(world.src / "a", 7, 8)
    (world.src / "a").chmod(0o640)
    before = fingerprint(world.src)
    # A file system of its own, where every move is a copy.
    undo = Path(tempfile.mkdtemp(dir="/tmp" if elsewhere else world.root, prefix="openclaw-backup-undo-"))
    try:
        result = world.restore(undo=undo, delete=True)
        assert (result.rc, result.verified) == (0, True), result.warnings
        kept = fingerprint(Path(str(undo) + str(world.src)))
        for path in (b"a", b"b", b"c", b"e", b"h2", b"extra", b"link", b"empty", b"d/inside", b"d", b"more", b"more/file"):
            assert kept[path][:6] == before[path][:6] and kept[path][7] == before[path][7], path
        assert result.kept == 10
        # A second undo into the same place overwrites nothing.
        (world.src / "a").write_text("changed once more")
        world.restore(undo=undo)
        assert sorted(path for path in fingerprint(Path(str(undo) + str(world.src))) if path.startswith(b"a")) == [b"a", b"a.~1~"]
    finally:
        shutil.rmtree(undo)
    assert not world.restore(delete=True).changed


def test_delete_never_takes_what_the_policy_leaves_out(world: World) -> None:
    src = world.src
    (src / "cache").mkdir()
    (src / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (src / "cache" / "big").write_text("x")
    (src / "private").mkdir()
    (src / "private" / ".nobackup").write_text("")
    (src / "private" / "diary").write_text("x")
    (src / "skip.log").write_text("x")
    policy = world.policy(exclude=["*.log"], exclude_caches=True, exclude_if_present=[".nobackup"])
    world.backup(policy=policy)
    (src / "late.log").write_text("excluded")
    (src / "extra").mkdir()
    (src / "extra" / "kept.log").write_text("excluded, in a directory that goes")
    (src / "extra" / "goes").write_text("x")
    (src / "whole").mkdir()
    (src / "whole" / "goes").write_text("x")
    (src / "cache2").mkdir()
    (src / "cache2" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (src / "cache2" / "big").write_text("x")
    before = set(fingerprint(src))
    dry = world.restore(policy=policy, delete=True, confirm=True, dry_run=True)
    result = world.restore(policy=policy, delete=True, confirm=True)
    gone = before - set(fingerprint(src))
    assert gone == {b"extra/goes", b"whole", b"whole/goes", b"cache2/CACHEDIR.TAG"}
    assert result.files_removed == dry.files_removed == 4
    assert not (set(fingerprint(src)) - before)


def test_delete_never_takes_the_state_of_this_machine(portable: World) -> None:
    world = portable
    world.state = world.src / ".local" / "state" / "backup"
    world.backup(state_directory=str(world.root / "elsewhere"))
    world.restore(state_directory=str(world.state))
    assert (world.state / "audit.jsonl").exists()
    (world.src / ".local" / "other").write_text("x")
    result = world.restore(delete=True, confirm=True)
    assert result.rc == 0 and (world.state / "audit.jsonl").exists() and not (world.src / ".local" / "other").exists()
    # Not even where a file has to take the place of what holds it.
    shutil.rmtree(world.root / "elsewhere")
    saved = fingerprint(world.state)
    with_file = World(world.root)
    remove(world.vault)
    os.rename(world.src / ".local", world.root / "aside")
    (world.src / ".local").write_text("a file in this snapshot")
    with_file.backup(state_directory=str(world.root / "elsewhere"))
    (world.src / ".local").unlink()
    os.rename(world.root / "aside", world.src / ".local")
    error = error_of(world.restore, confirm=True)
    assert (error.kind, error.rc) == ("guard", 4)
    assert set(saved) <= set(fingerprint(world.state))


@needs_root
def test_delete_never_leaves_the_file_system_of_the_source(world: World) -> None:
    (world.src / "known").mkdir()
    world.backup()
    (world.src / "new").mkdir()
    other: List[Path] = [world.src / "known", world.src / "new"]
    for place in other:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
        (place / "precious").mkdir()
        (place / "precious" / "data").write_text("data")
    try:
        (world.src / "extra").write_text("x")
        result = world.restore(delete=True, confirm=True)
        assert not (world.src / "extra").exists()
        for place in other:
            assert (place / "precious" / "data").read_text() == "data"
        assert result.rc == 3 and [text for text in result.warnings if "another file system" in text]
    finally:
        for place in other:
            subprocess.run(["umount", str(place)], check=True)


def test_delete_is_limited_to_the_paths_that_are_asked_for(world: World) -> None:
    world.backup()
    (world.src / "extra").write_text("x")
    (world.src / "sub" / "extra").write_text("x")
    (world.src / "subextra").write_text("x")
    world.restore(delete=True, confirm=True, paths=(str(world.src / "sub"),))
    assert (world.src / "extra").exists() and (world.src / "subextra").exists() and not (world.src / "sub" / "extra").exists()


def test_a_path_changes_its_kind_in_every_direction(world: World) -> None:
    def kinds(place: Path) -> None:
        (place / "file").write_text("file")
        (place / "directory" / "inner").mkdir(parents=True)
        (place / "directory" / "inner" / "leaf").write_text("leaf")
        (place / "symlink").symlink_to("file")
        os.mkfifo(place / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("%s/socket" % place)

    names = ["file", "directory", "symlink", "fifo", "socket"]
    base = world.src / "kinds"
    for one in names:
        for other in names:
            (base / one / other).mkdir(parents=True)
            kinds(base / one / other)
    world.backup()
    expected = fingerprint(world.src)
    for one in names:
        for other in names:
            place = base / one / other
            if (place / one).is_dir():
                shutil.rmtree(place / one)
            else:
                (place / one).unlink()
            if one != other:
                os.rename(place / other, place / one)
    result = world.restore(undo=world.root / "undo", delete=True)
    assert (result.rc, result.verified) == (0, True), result.warnings
    assert differences(expected, fingerprint(world.src)) == []


# ---- links -----------------------------------------------------------------------------------------------------------------


def test_a_symlink_where_a_directory_belongs_is_replaced_and_never_followed(world: World) -> None:
    world.backup()
    expected = fingerprint(world.src)
    outside = world.root / "outside"
    shutil.copytree(world.src / "sub", outside, symlinks=True)
    (outside / "f").write_text("outside")
    (outside / "own").write_text("outside")
    before = fingerprint(outside, inodes=True)
    shutil.rmtree(world.src / "sub")
    (world.src / "sub").symlink_to(outside)
    world.restore(confirm=True, delete=True)
    assert differences(before, fingerprint(outside, inodes=True)) == []
    assert differences(expected, fingerprint(world.src)) == []
    # A file that is a link to somebody else's: its place is taken, what it leads to is not.
    (world.src / "a").unlink()
    (world.src / "a").symlink_to(outside / "own")
    world.restore(confirm=True)
    assert (outside / "own").read_text() == "outside" and (world.src / "a").read_text() == "content of a"


def test_a_symlink_above_the_restored_paths_is_an_error(world: World) -> None:
    world.backup()
    moved = world.root / "moved"
    os.rename(world.src, moved)
    world.src.symlink_to(moved)
    error = error_of(world.restore, confirm=True, paths=(str(world.src / "sub"),))
    assert (error.kind, error.rc) == ("not_a_directory", 2)
    assert world.src.is_symlink()
    dest = world.root / "out"
    (dest / str(world.root)[1:]).mkdir(parents=True)
    (dest / str(world.src)[1:]).symlink_to(moved)
    assert error_of(world.restore, dest=dest, paths=(str(world.src / "a"),)).kind == "not_a_directory"


def test_what_other_names_share_is_not_altered_in_place(world: World) -> None:
    world.backup()
    outside = world.root / "outside"
    os.link(world.src / "a", outside)
    inode = outside.stat().st_ino
    assert not world.restore().changed, "a second name elsewhere is no difference"
    (world.src / "a").chmod(0o600)
    world.restore(confirm=True)
    assert stat.S_IMODE((world.src / "a").stat().st_mode) == 0o644
    assert (outside.stat().st_ino, stat.S_IMODE(outside.stat().st_mode)) == (inode, 0o600)


def test_names_that_became_one_file_are_parted_and_those_that_were_are_joined(world: World) -> None:
    (world.src / "twin 1").write_text("twin")
    (world.src / "twin 2").write_text("twin")
    for name in ("twin 1", "twin 2"):
        os.utime(world.src / name, ns=(0, 5))
    world.backup()
    expected = fingerprint(world.src)
    (world.src / "twin 2").unlink()
    os.link(world.src / "twin 1", world.src / "twin 2")
    (world.src / "h1").unlink()
    (world.src / "h1").write_text("hard")
    os.utime(world.src / "h1", ns=(0, (world.src / "h2").stat().st_mtime_ns))
    world.restore(confirm=True)
    assert differences(expected, fingerprint(world.src)) == []
    assert not world.restore().changed


def test_some_names_of_a_hard_linked_file_stay_linked_among_themselves(world: World) -> None:
    world.backup()
    dest = world.root / "out"
    world.restore(dest=dest, paths=(str(world.src / "h2"), str(world.src / "sub")))
    out = world.restored(dest)
    assert (out / "h2").stat().st_ino == (out / "sub" / "h3").stat().st_ino and not (out / "h1").exists()
    assert not world.restore(dest=dest, paths=(str(world.src / "h2"), str(world.src / "sub"))).changed
    # In place a single name that is as it was keeps its group.
    inode = (world.src / "h2").stat().st_ino
    assert not world.restore(paths=(str(world.src / "h2"),)).changed
    assert (world.src / "h2").stat().st_ino == inode


@needs_root
def test_somebody_who_swaps_what_is_being_made_gains_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory that its owner can write, root must not change what a name leads to."""
    from ansible_collections.openclaw.backup.plugins.module_utils.action import placement

    os.mkfifo(world.src / "fifo", 0o666)
    world.backup()
    target = world.root / "target"
    target.write_text("x")
    target.chmod(0o600)
    real = placement.create_special

    def swap(dir_fd: int, entry: Any, name: bytes) -> None:
        real(dir_fd, entry, name)
        os.unlink(name, dir_fd=dir_fd)
        os.symlink(target, name, dir_fd=dir_fd)

    (world.src / "fifo").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(placement, "create_special", swap)
        result = world.restore()
    assert result.rc == 3 and not result.verified
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert world.restore().verified


@needs_root
@pytest.mark.parametrize("name", ["a", "empty"])
def test_what_is_moved_into_a_place_after_it_was_looked_at_gets_no_metadata(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The owner of a directory can move root's own file in it to where a file of his had only lost its mode."""
    from ansible_collections.openclaw.backup.plugins.module_utils.action import restore

    place, moved = world.src / name, world.root / "moved"
    os.chown(place, NOBODY, NOBODY)
    world.backup()
    place.chmod(0o777)
    secret = world.root / "secret"
    secret.mkdir() if place.is_dir() else secret.write_text("top secret")
    secret.chmod(0o600)
    real = restore.compare

    def swap(*arguments: Any, **options: Any) -> Any:
        plan = real(*arguments, **options)
        place.rename(moved)
        secret.rename(place)
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(restore, "compare", swap)
        result = world.restore(confirm=True)
    assert result.rc == 3 and not (result.verified and name == "a")
    found = place.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    assert world.restore(confirm=True).rc == 0


@pytest.mark.parametrize("name", ["a", "link", "sub", "sub/deep", "sub/f", "empty", "extra", "extra/x"])
@pytest.mark.parametrize("becomes", ["nothing", "file", "link"])
def test_what_vanishes_or_changes_while_it_is_compared_ends_no_restore(portable: World, monkeypatch: pytest.MonkeyPatch, name: str, becomes: str) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.action import comparison

    portable.backup()
    (portable.src / "extra").mkdir()
    (portable.src / "extra" / "x").write_text("x")
    for function in ("look", "survey"):
        real = getattr(comparison, function)
        place = portable.src / name

        def change(*arguments: Any, real: Any = real, place: Path = place, **options: Any) -> Any:
            result = real(*arguments, **options)
            if place.parent.is_dir():
                subprocess.run(["rm", "-rf", str(place)], check=True)
                if becomes == "file":
                    place.write_text("new")
                elif becomes == "link":
                    place.symlink_to("/nowhere")
            (options.get("root") or arguments[0]).forget()
            return result

        with monkeypatch.context() as patch:
            patch.setattr(comparison, function, change)
            assert portable.restore(confirm=True, delete=True).rc in (0, 3)
        result = portable.restore(confirm=True, delete=True)
        assert result.rc == 0 and result.verified
        assert not portable.restore(confirm=True, delete=True).changed
        (portable.src / "extra").mkdir()
        (portable.src / "extra" / "x").write_text("x")


# ---- verified --------------------------------------------------------------------------------------------------------------


def spoil(place: Path, how: str) -> None:
    """Change a file, and leave its size and mtime as they were."""
    found = place.stat()
    if how == "content":
        place.write_bytes(place.read_bytes()[::-1])
    elif how == "attribute":
        os.setxattr(place, "user.a", b"b")
    elif how == "another":
        place.with_name("new").write_bytes(place.read_bytes()[::-1])
        place.with_name("new").chmod(stat.S_IMODE(found.st_mode))
        place.with_name("new").rename(place)
    else:
        place.chmod(0o700)
        place.chmod(stat.S_IMODE(found.st_mode))
    os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("name", ["a", "h1", "large"])
@pytest.mark.parametrize("how", ["content", "attribute", "another", "nothing"])
@pytest.mark.parametrize("moment", ["at once", "at the end"])
def test_verified_is_said_of_what_is_there_at_the_end(world: World, monkeypatch: pytest.MonkeyPatch, name: str, how: str, moment: str) -> None:
    """What was read back when it was in its place is looked at again, and read again where anything was done to it since."""
    from ansible_collections.openclaw.backup.plugins.module_utils.action import placement, restore

    (world.src / "large").write_bytes(random.Random(1).randbytes(1 << 20))
    world.backup()
    dest = world.root / "out"
    place = world.restored(dest) / name
    real_rename, real_look = os.rename, restore.find_wrong

    def rename(source: Any, destination: Any, **options: Any) -> None:
        real_rename(source, destination, **options)
        if destination == os.fsencode(name):
            patch.setattr(placement.os, "rename", real_rename)
            spoil(place, how)

    def look(*arguments: Any, **options: Any) -> Any:
        spoil(place, how)
        return real_look(*arguments, **options)

    with monkeypatch.context() as patch:
        if moment == "at once":
            patch.setattr(placement.os, "rename", rename)
        else:
            patch.setattr(restore, "find_wrong", look)
        result = world.restore(dest=dest)
    if how == "nothing":
        assert (result.rc, result.verified) == (0, True), result.warnings
    else:
        assert (result.rc, result.verified) == (3, False) and str(world.src / name) in result.warnings[0], result.warnings
    assert world.restore(dest=dest).verified


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_is_read_back_once(world: World, monkeypatch: pytest.MonkeyPatch, verify: bool) -> None:
    """By who wrote it, and not where nobody wants that; the names of a hard-linked file are read when all of them are there."""
    from ansible_collections.openclaw.backup.plugins.module_utils.action import comparison, placement

    world.backup()
    back: List[bool] = []
    read: List[int] = []
    reads_back, hash_file = placement.reads_back, comparison.hash_file

    def reads(fd: int, copied: Any) -> bool:
        back.append(reads_back(fd, copied))
        return back[-1]

    def hashes(fd: int, **options: Any) -> Any:
        read.append(fd)
        return hash_file(fd, **options)

    monkeypatch.setattr(placement, "reads_back", reads)
    monkeypatch.setattr(comparison, "hash_file", hashes)
    result = world.restore(dest=world.root / "out", verify=verify)
    assert (result.rc, result.verified) == (0, verify)
    assert (back, len(read)) == (([True] * 8, 1) if verify else ([], 0))


# ---- elsewhere -------------------------------------------------------------------------------------------------------------


def test_another_directory_gets_a_full_copy_and_the_source_none(world: World) -> None:
    world.backup()
    before = fingerprint(world.src, inodes=True)
    dest = world.root / "not" / "there" / "yet"
    result = world.restore(dest=dest)
    assert result.dest == str(dest) and result.rc == 0
    assert_same(world.src, world.restored(dest))
    assert differences(before, fingerprint(world.src, inodes=True)) == []


@pytest.mark.parametrize("path, kept", [("sub/deep", {b"sub", b"sub/deep", b"sub/deep/g"}), ("a", {b"a"}), ("empty", {b"empty"}), ("link", {b"link"})])
def test_single_paths(world: World, path: str, kept: Any) -> None:
    (world.src / "sub").chmod(0o710)
    world.backup()
    dest = world.root / "out"
    result = world.restore(dest=dest, paths=(str(world.src / path),))
    assert result.verified
    found = fingerprint(world.restored(dest))
    assert set(found) == kept
    assert differences({name: item for name, item in fingerprint(world.src).items() if name in kept}, found) == []
    # Directories above it that are there already are not altered.
    if path == "sub/deep":
        (world.restored(dest) / "sub").chmod(0o755)
        assert not world.restore(dest=dest, paths=(str(world.src / path),)).changed
        assert stat.S_IMODE((world.restored(dest) / "sub").stat().st_mode) == 0o755


def test_wrong_requests_are_told(world: World) -> None:
    world.backup()
    (world.root / "file").write_text("x")
    before = fingerprint(world.root, times=False)
    for field, kind, request in (
        ("paths", "not_found", {"paths": (str(world.src / "nothing"),)}),
        ("paths", "usage", {"paths": ("relative",)}),
        ("dest", "usage", {"dest": "relative"}),
        ("undo", "usage", {"undo": "relative"}),
        ("dest", "usage", {"dest": world.vault / "out"}),
        ("dest", "usage", {"dest": world.vault}),
        ("dest", "usage", {"dest": world.root}),
        ("undo", "usage", {"undo": world.vault / "undo", "confirm": True}),
        ("undo", "usage", {"undo": world.src / "undo", "confirm": True}),
        ("undo", "usage", {"undo": world.src / "sub" / "undo"}),
        ("dest", "usage", {"dest": world.root / "file"}),
        ("dest", "usage", {"dest": world.root / "file" / "below"}),
    ):
        error = error_of(world.restore, **request)
        assert (error.field, error.kind, error.rc) == (field, kind, 2), request
        assert error.allowed
    assert differences(before, fingerprint(world.root, times=False)) == []


@needs_root
def test_a_destination_that_is_too_small_is_left_alone(world: World) -> None:
    (world.src / "big").write_bytes(os.urandom(3 << 20))
    world.backup()
    with mounted("tmpfs", "size=2m") as small:
        error = error_of(world.restore, dest=small)
        assert (error.kind, error.field, error.rc) == ("no_space", "dest", 1)
        assert os.listdir(small) == []


@needs_root
def test_a_disk_that_fills_up_during_a_restore_in_place_leaves_whole_files(world: World) -> None:
    with mounted("tmpfs", "size=3m") as disk:
        world.src = disk / "src"
        world.src.mkdir()
        for number in range(20):
            (world.src / ("file %02d" % number)).write_bytes(os.urandom(100_000))
        world.backup()
        expected = fingerprint(world.src)
        for number in range(20):
            (world.src / ("file %02d" % number)).unlink()
        (disk / "filler").write_bytes(bytes(2_000_000))
        error = error_of(world.restore)
        assert (error.kind, error.rc) == ("no_space", 1)
        found = fingerprint(world.src)
        assert 0 < len(found) < 20 and all(item == expected[path] for path, item in found.items())
        (disk / "filler").unlink()
        assert world.restore().verified
        assert differences(expected, fingerprint(world.src)) == []


def test_a_newest_snapshot_that_is_lost_does_not_keep_an_older_one_from_coming_back(world: World) -> None:
    first = world.backup()
    expected = fingerprint(world.src)
    edit(world.src)
    second = world.backup()
    (world.history / "snapshots" / str(second.snapshot_id) / "manifest.jsonl.gz").write_bytes(b"lost")
    assert error_of(world.restore, confirm=True).rc == 7
    result = world.restore(confirm=True, delete=True, snapshot=first.snapshot_id)
    assert (result.rc, result.verified) == (3, True) and "no baseline" in result.warnings[0]
    assert differences(expected, fingerprint(world.src)) == []


# ---- which snapshot --------------------------------------------------------------------------------------------------------


def test_points_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import session

    class Clock:
        def __init__(self, now: float) -> None:
            self.now = now

        def time(self) -> float:
            return self.now

    moments = [1_700_000_000.123, 1_700_000_030.5, 1_700_050_000.0, 1_700_100_000.0]
    ids = []
    for number, moment in enumerate(moments):
        (world.src / "a").write_text("version %d" % number)
        with monkeypatch.context() as patch:
            patch.setattr(session, "time", Clock(moment))
            ids.append(world.backup().snapshot_id)
    assert [snapshot.id for snapshot in world.snapshots()] == ids[::-1]
    assert ids[0] and ids[0].startswith("20231114T221320.123Z-")

    def version(wish: str) -> str:
        shutil.rmtree(world.root / "out", ignore_errors=True)
        world.restore(dest=world.root / "out", snapshot=wish)
        return (world.restored(world.root / "out") / "a").read_text()

    for wish, number in (
        ("latest", 3),
        (str(ids[1]), 1),
        (str(ids[0])[:20], 0),
        ("20231114T221320", 0),
        ("20231114T221350", 1),
        ("2023-11-14T22:13:20Z", 0),
        ("2023-11-14T22:13:20.123Z", 0),
        ("2023-11-14 22:13", 1),
        ("2023-11-14T23:13:50+01:00", 1),
        ("2023-11-14", 1),
        ("2023-11-15", 2),
        ("2024-01-01", 3),
        ("2023-11-16T01:59:59Z", 2),
        ("2023-11-16T02:00:00Z", 3),
    ):
        assert version(wish) == "version %d" % number, wish
    for wish, kind, rc in (
        ("20231114", "usage", 2),
        ("2023", "usage", 2),
        ("2023-11-14T22:13:20.1Z", "no_snapshot", 4),
        ("2020-01-01", "no_snapshot", 4),
        ("20200101", "no_snapshot", 4),
        ("yesterday", "usage", 2),
        ("2023-13-41", "usage", 2),
        ("../../etc", "usage", 2),
        ("", "usage", 2),
    ):
        error = error_of(world.restore, dest=world.root / "out", snapshot=wish)
        assert (error.kind, error.rc, error.field) == (kind, rc, "snapshot"), wish
    assert "2 snapshots" in error_of(world.restore, dest=world.root / "out", snapshot="20231114").message


def test_no_snapshot_at_all(world: World) -> None:
    error = error_of(world.restore, dest=world.root / "out")
    assert (error.kind, error.rc) == ("no_snapshot", 4)
    assert not (world.root / "out").exists() and not world.vault.exists()


# ---- damage ----------------------------------------------------------------------------------------------------------------


def spoil_bytes(path: Path) -> None:
    path.chmod(0o600)
    path.write_text("X" * path.stat().st_size)


def spoil_symlink(path: Path) -> None:
    (path.parent / "elsewhere").write_text("content of a")
    path.unlink()
    path.symlink_to("elsewhere")


def spoil_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def spoil_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def spoil_missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [spoil_bytes, spoil_symlink, spoil_fifo, spoil_directory, spoil_missing])
def test_what_is_damaged_in_the_vault_replaces_nothing(world: World, spoil: Any) -> None:
    made = world.backup()
    stored = world.stored(made.snapshot_id, "a")
    stored.parent.chmod(0o700)
    spoil(stored)
    if spoil in (spoil_bytes, spoil_missing):
        spoil(world.stored(made.snapshot_id, "h1"))
    edit(world.src)
    (world.src / "h1").write_text("edited")
    kept = {name: (world.src / name).read_text() for name in ("a", "h1", "sub/h3")}
    result = world.restore(confirm=True)
    assert result.rc == 7 and str(world.src / "a") in result.damaged
    assert (world.src / "a").read_text() == kept["a"], "what is there may be all there is"
    if spoil is spoil_bytes:
        assert {name: (world.src / name).read_text() for name in kept} == kept
        assert result.damaged == [str(world.src / name) for name in ("a", "h1", "h2", "sub/h3")]
    assert (world.src / "b").read_text() == "content of b" and (world.src / "d").exists()
    assert not temporaries(world.src)
    failure = result.failure()
    assert failure is not None and failure.rc == 7
    # It has come to its end all the same: doing it again would bring no more.
    assert result.warnings[-1].startswith("what is damaged was left as it was here")
    assert not world.state.joinpath("h/p/restoring.json").exists()
    assert world.backup().changed


def test_a_directory_gives_way_only_to_a_file_that_is_whole(world: World) -> None:
    made = world.backup()
    world.stored(made.snapshot_id).chmod(0o700)
    spoil_bytes(world.stored(made.snapshot_id, "a"))
    (world.src / "a").unlink()
    (world.src / "a").mkdir()
    (world.src / "a" / "precious").write_text("precious")
    assert world.restore(confirm=True).rc == 7
    assert (world.src / "a" / "precious").read_text() == "precious"


def test_a_symlink_in_the_vault_is_never_followed(world: World) -> None:
    made = world.backup()
    secret = world.root / "secret"
    secret.mkdir()
    (secret / "f").write_text("f")
    (secret / "deep").mkdir()
    (secret / "deep" / "g").write_text("g")
    stored = world.stored(made.snapshot_id)
    stored.chmod(0o700)
    subprocess.run(["chmod", "-R", "u+rwX", str(stored)], check=True)
    shutil.rmtree(stored / "sub")
    (stored / "sub").symlink_to(secret)
    result = world.restore(dest=world.root / "out")
    assert result.rc == 7 and str(world.src / "sub" / "f") in result.damaged
    found = world.verify()
    assert found.rc == 7 and {"path": str(world.src / "sub"), "reason": "type"} in found.damaged


# ---- broken off ------------------------------------------------------------------------------------------------------------


def test_a_restore_that_was_killed_goes_on_and_leaves_nothing_behind(world: World) -> None:
    for number in range(300):
        (world.src / "sub" / ("n%03d" % number)).write_bytes(os.urandom(3000))
        if number % 10 == 0:
            os.link(world.src / "sub" / ("n%03d" % number), world.src / ("l%03d" % number))
    world.backup()
    expected = fingerprint(world.src)
    luck = random.Random(1)
    killed, typical = 0, 0.0
    for number in range(12):
        if number % 2:
            shutil.rmtree(world.src / "sub")
            (world.src / "sub").write_text("in the way")
        for name in ("l000", "a", "h2"):
            (world.src / name).unlink()
            (world.src / name).write_text("other")
        if number > 1:
            killed += killed_at(lambda: world.restore(confirm=True, delete=True), luck.uniform(0, typical))
        began = time.monotonic()
        result = world.restore(confirm=True, delete=True)
        typical = max(typical, time.monotonic() - began)
        assert (result.rc, result.verified) == (0, True)
        assert differences(expected, fingerprint(world.src)) == []
    assert killed > 2


def test_leftovers_of_a_killed_restore_are_removed(world: World) -> None:
    world.backup()
    expected = fingerprint(world.src)
    for place in ("", "sub", "empty"):
        (world.src / place / os.fsdecode(TEMPORARY + b"0123456789abcdef")).write_text("half a fi")
    os.link(world.src / "h1", world.src / os.fsdecode(TEMPORARY + b"link"))
    assert world.restore().changed
    assert differences(expected, fingerprint(world.src)) == []
    # One that was backed up is somebody's file.
    (world.src / os.fsdecode(TEMPORARY + b"mine")).write_text("mine")
    world.backup()
    assert not world.restore().changed
    assert temporaries(world.src)


# ---- baselines and runs at once --------------------------------------------------------------------------------------------


def test_a_whole_restore_in_place_lets_the_host_back_up_again(world: World) -> None:
    world.backup()
    shutil.rmtree(world.state)
    assert error_of(world.backup).kind == "restore_first"
    world.restore(paths=(str(world.src / "sub"),))
    assert error_of(world.backup).kind == "restore_first"
    world.restore(dest=world.root / "out")
    assert error_of(world.backup).kind == "restore_first"
    world.restore()
    assert not world.backup().changed


def test_an_older_snapshot_can_be_restored_and_the_history_goes_on(world: World) -> None:
    first = world.backup()
    expected = fingerprint(world.src)
    edit(world.src)
    second = world.backup()
    world.restore(snapshot=first.snapshot_id, confirm=True, delete=True)
    assert differences(expected, fingerprint(world.src)) == []
    third = world.backup()
    assert third.receipt and third.receipt["parent"] == second.snapshot_id and third.receipt["sequence"] == 3
    world.check_history(count=3)


def test_a_restore_in_place_and_a_backup_take_turns(world: World) -> None:
    import fcntl

    world.backup()
    fd = os.open(world.state / "h" / "p" / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    error = error_of(world.restore)
    assert (error.kind, error.rc) == ("locked", 5)
    assert world.restore(dest=world.root / "out").verified
    os.close(fd)


# ---- ordinary users --------------------------------------------------------------------------------------------------------


def test_an_ordinary_users_closed_directories_are_opened_and_closed_again(portable: World) -> None:
    world = portable
    (world.src / "read only").mkdir()
    (world.src / "read only" / "file").write_text("x")
    (world.src / "read only").chmod(0o555)
    if AS_ROOT:
        give(world.root, NOBODY)

    def go() -> None:
        world.backup()
        expected = fingerprint(world.src)
        for _round in range(2):
            (world.src / "read only").chmod(0o755)
            (world.src / "read only" / "file").write_text("y")
            (world.src / "read only" / "extra").write_text("y")
            (world.src / "read only").chmod(0o555)
            assert world.restore(confirm=True, delete=True).verified
            assert differences(expected, fingerprint(world.src)) == []
        assert not world.restore().changed
        # A directory that became closed keeps its contents as they were known.
        (world.src / "sub").chmod(0)
        assert world.backup().stale == 4
        for _round in range(2):
            result = world.restore(dest=world.root / "out")
            assert (result.rc, result.verified) == (0, True), result.warnings
        assert stat.S_IMODE((world.restored(world.root / "out") / "sub").stat().st_mode) == 0
        assert error_of(world.restore).kind == "confirm"
        assert world.restore(confirm=True).verified
        assert stat.S_IMODE((world.src / "sub").stat().st_mode) == 0
        (world.src / "sub").chmod(0o755)
        (world.restored(world.root / "out") / "sub").chmod(0o755)
        assert (world.restored(world.root / "out") / "sub" / "deep" / "g").read_text() == "g"
        assert (world.src / "sub" / "f").read_text() == "f"

    in_child(go, uid=NOBODY if AS_ROOT else None)


def test_an_ordinary_user_may_run_into_what_is_not_his(portable: World) -> None:
    world = portable
    if not AS_ROOT:
        pytest.skip("needs another user's directory")
    give(world.root, NOBODY)

    def save() -> None:
        world.backup()

    in_child(save, uid=NOBODY)
    (world.src / "sub" / "f").write_text("changed")
    (world.src / "sub" / "deep" / "g").write_text("changed")
    (world.src / "a").write_text("changed")
    os.chown(world.src / "sub", 0, 0)
    os.chown(world.src / "b", 0, 0)
    (world.src / "b").chmod(0o666)
    (world.src / "h1").unlink()
    (world.src / "h1").write_text("other")
    (world.src / "sub" / "extra").write_text("x")
    (world.src / "empty").rmdir()

    def take() -> Any:
        return world.restore(confirm=True, delete=True).to_dict()

    result = in_child(take, uid=NOBODY)
    assert result["rc"] == 3 and not result["verified"] and result["files_removed"] == 0
    # The mode of b, the content of sub/f, the name sub/h3 of h1, and the extra file.
    assert [text for text in result["warnings"] if text.startswith("4 paths could not be written or removed, the first is %s (" % (world.src / "b"))], result
    assert (world.src / "h1").read_text() == "hard" and (world.src / "empty").is_dir()
    assert (world.src / "a").read_text() == "content of a" and (world.src / "sub" / "deep" / "g").read_text() == "g"
    assert not temporaries(world.src)


@needs_root
def test_everything_survives_a_restore_in_place_over_a_wreck(world: World) -> None:
    fill(world.src, as_root=True)
    world.backup()
    expected = fingerprint(world.src)
    luck = random.Random(7)
    for path in sorted(expected, reverse=True):
        place = os.fsencode(world.src) + b"/" + path
        dice = luck.random()
        found = os.lstat(place)
        if dice < 0.2 and not stat.S_ISDIR(found.st_mode):
            os.unlink(place)
        elif dice < 0.4 and not stat.S_ISLNK(found.st_mode):
            os.chmod(place, luck.randrange(0o1000))
        elif dice < 0.5:
            os.chown(place, 9, 9, follow_symlinks=False)
        elif dice < 0.6:
            os.utime(place, ns=(0, luck.randrange(10**18)), follow_symlinks=False)
        elif dice < 0.7 and stat.S_ISREG(found.st_mode):
            os.setxattr(place, "user.junk", b"junk")
        elif dice < 0.8 and not stat.S_ISDIR(found.st_mode):
            os.unlink(place)
            os.mkdir(place)
    result = world.restore(confirm=True)
    assert (result.rc, result.verified) == (0, True), result.warnings
    assert differences(expected, fingerprint(world.src)) == []
    assert not world.restore().changed


@needs_root
def test_an_ordinary_user_gets_back_the_attributes_of_what_he_may_not_write() -> None:
    world = World.make("portable")
    try:
        (world.src / "file").write_text("x")
        (world.src / "d").mkdir()
        for name, mode in (("file", 0o444), ("d", 0o555)):
            os.setxattr(world.src / name, "user.a", b"b")
            (world.src / name).chmod(mode)
        give(world.root, NOBODY)

        def go() -> Any:
            world.backup()
            result = world.restore(dest=world.root / "out")
            again = world.restore(dest=world.root / "out")
            return result.rc, result.warnings, again.changed

        assert in_child(go, uid=NOBODY) == (0, [], False)
        for name, mode in (("file", 0o444), ("d", 0o555)):
            path = world.restored(world.root / "out") / name
            assert os.getxattr(path, "user.a") == b"b" and stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        world.destroy()


@needs_root
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_an_ordinary_users_directory_that_he_closed_gets_its_mode_back(portable: World, mode: int) -> None:
    give(portable.root, NOBODY)

    def go() -> Any:
        portable.backup()
        (portable.src / "empty").chmod(mode)
        result = portable.restore(confirm=True)
        return result.rc, result.verified, result.warnings, stat.S_IMODE((portable.src / "empty").stat().st_mode)

    assert in_child(go, uid=NOBODY) == (0, True, [], 0o755)


def test_a_snapshot_of_something_else_is_not_restored_in_place(portable: World) -> None:
    """Whoever can add a snapshot must not thereby write wherever they like on this machine."""
    (portable.src / "a").write_text("a")
    elsewhere = portable.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "evil").write_text("evil")
    portable.backup(policy=portable.policy(sources=[str(portable.src), str(elsewhere)]))
    (elsewhere / "evil").unlink()
    error = error_of(lambda: portable.restore(confirm=True))
    assert (error.kind, error.rc, error.found) == ("foreign_source", 4, str(elsewhere))
    assert not (elsewhere / "evil").exists()
    portable.restore(confirm=True, paths=[str(elsewhere)])
    assert (elsewhere / "evil").read_text() == "evil"
    assert portable.restore(dest=portable.root / "back").verified
