# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walker goes where it was told, however deep, and never where somebody else wants it to."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import stat
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import walk as walk_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import (
    CREATE_FLAGS,
    Descent,
    ReplacedError,
    list_directory,
    list_names,
    open_file,
    remove_tree,
    walk,
)

IS_ROOT = os.geteuid() == 0
DEPTH = 2500


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Descent]:
    before = open_descriptors()
    (tmp_path / "root").mkdir()
    with Descent(os.fsencode(tmp_path / "root")) as descent:
        yield descent
    assert open_descriptors() <= before, "descriptors leaked"


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256 + open_descriptors(), hard))  # others' tests may have left some
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def put(descent: Descent, path: bytes, content: bytes = b"x") -> None:
    parent, name = descent.parent(path, create=0o700)
    fd = os.open(name, CREATE_FLAGS, 0o600, dir_fd=parent)
    os.write(fd, content)
    os.close(fd)


def identity(descent: Descent, path: bytes) -> int:
    return os.fstat(descent.directory(path)).st_ino


def is_usable(descent: Descent, path: bytes) -> bool:
    """Whether ``descent`` says of ``path`` what a new one says."""
    with Descent(b".", dir_fd=descent.root_fd) as other:
        return identity(descent, path) == identity(other, path)


# ---- Descent -----------------------------------------------------------------------------------------------------------------------------


def test_paths_in_any_order_lead_to_their_directories(root: Descent) -> None:
    paths = [b"", b"a", b"a/b", b"a/b/c", b"ab", b"a-b", b"a/bc", b"d/e/f/g", b"d/e"]
    for path in paths:
        root.directory(path, create=0o700)
    with Descent(b".", dir_fd=root.root_fd) as other:
        inodes = {}
        for path in paths:
            other.forget()
            inodes[path] = identity(other, path)
    assert len(set(inodes.values())) == len(paths)
    dice = random.Random(1)
    for _ in range(300):
        path = dice.choice(paths)
        assert identity(root, path) == inodes[path]
        assert root.parent(path + b"/x" if path else b"x") == (root.directory(path), b"x")


def test_a_missing_directory_is_made_only_when_asked(root: Descent) -> None:
    with pytest.raises(FileNotFoundError):
        root.directory(b"a/b")
    assert is_usable(root, b"")
    before = os.umask(0o022)
    root.directory(b"a/b", create=0o750)
    os.umask(before)
    assert stat.S_IMODE(os.fstat(root.directory(b"a")).st_mode) == 0o750


@pytest.mark.parametrize("path", [b".", b"..", b"a/..", b"a/../a", b"a/./b", b"a//b", b"/a", b"a/", b"/", b"../root"])
def test_no_path_leads_out_of_the_root(root: Descent, path: bytes) -> None:
    root.directory(b"a/b", create=0o700)
    for create in (None, 0o700):
        with pytest.raises(OSError) as caught:
            root.directory(path, create=create)
        assert caught.value.errno == errno.EINVAL
    assert is_usable(root, b"a/b")


@pytest.mark.parametrize("where", ["directory", "file", "nothing", "itself", "parent"])
def test_a_link_on_the_way_is_never_followed(root: Descent, tmp_path: Path, where: str) -> None:
    (tmp_path / "outside/b").mkdir(parents=True)
    (tmp_path / "file").touch()
    target = {"directory": tmp_path / "outside", "file": tmp_path / "file", "nothing": "nowhere", "itself": "a", "parent": ".."}[where]
    (tmp_path / "root/a").symlink_to(target)
    for path in (b"a", b"a/b"):
        for create in (None, 0o700):
            with pytest.raises(OSError) as caught:
                root.directory(path, create=create)
            assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert not (tmp_path / "nowhere").exists()
    assert is_usable(root, b"")


def test_a_link_swapped_in_while_others_walk_is_never_followed(root: Descent, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (outside / "b/file").write_bytes(b"secret")
    put(root, b"a/b/file", b"inside")
    inside = tmp_path / "root/a"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            inside.rename(tmp_path / "root/kept")
            inside.symlink_to(outside)
            inside.unlink()
            (tmp_path / "root/kept").rename(inside)

    thread = threading.Thread(target=swap)
    thread.start()
    seen, refused = set(), 0
    deadline = time.monotonic() + 20
    try:
        while not (seen and refused > 500) and time.monotonic() < deadline:
            root.forget()
            try:
                parent, name = root.parent(b"a/b/file")
                fd, _found = open_file(parent, name)
                seen.add(os.read(fd, 10))
                os.close(fd)
            except OSError as error:
                assert error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT)
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert seen == {b"inside"}


def test_an_error_midway_leaves_a_usable_object(root: Descent, tmp_path: Path) -> None:
    put(root, b"a/b/c/file")
    put(root, b"d/e/f/file")
    root.directory(b"a/b/c")
    for wrong in (b"a/b/c/file/x", b"a/b/x/y", b"d/e/x", b"x", b"d/e/f/file"):
        with pytest.raises(OSError):
            root.directory(wrong)
        for right in (b"a/b/c", b"d/e/f", b"", b"a"):
            assert is_usable(root, right)


def test_a_way_that_vanished_while_its_descriptors_were_closed_leaves_a_usable_object(root: Descent) -> None:
    # So deep that the upper descriptors are closed; then the upper directories go away.
    deep = b"/".join([b"d"] * 200)
    root.directory(deep, create=0o700)
    put(root, b"other/file")
    root.directory(deep)
    os.rename(b"d", b"moved", src_dir_fd=root.root_fd, dst_dir_fd=root.root_fd)
    for path in (b"/".join([b"d"] * 20), b"/".join([b"d"] * 20) + b"/x", deep):
        with pytest.raises(FileNotFoundError):
            root.directory(path)
        assert is_usable(root, b"other")
        assert is_usable(root, b"")
        assert is_usable(root, b"moved" + deep[1:])


@pytest.mark.usefixtures("few_descriptors")
def test_depth_costs_no_descriptors_and_the_system_s_limit_on_paths_does_not_matter(root: Descent) -> None:
    deep = b"/".join([b"d"] * DEPTH)
    assert len(deep) > 4096
    before = open_descriptors()
    put(root, deep + b"/file", b"deep")
    assert open_descriptors() - before < 100
    # Up and down, as a walk, a build and a removal go.
    for depth in [*range(DEPTH, DEPTH - 300, -1), 1, DEPTH, 70, 200, 63, 64, 65, 66, 0, DEPTH]:
        path = b"/".join([b"d"] * depth)
        root.directory(path)
        assert open_descriptors() - before < 100
    parent, name = root.parent(deep + b"/file")
    fd, _found = open_file(parent, name)
    assert os.read(fd, 9) == b"deep"
    os.close(fd)
    assert sum(1 for _ in walk(root)) == DEPTH + 1
    with Descent(b".", dir_fd=root.root_fd) as second, Descent(b".", dir_fd=root.root_fd) as third:
        assert identity(second, deep) == identity(third, deep) == identity(root, deep)
    remove_tree(root.root_fd, b"d")
    root.forget()
    assert list_directory(root.root_fd) == []


def test_random_ways_at_great_depth_find_the_right_directories(root: Descent) -> None:
    dice = random.Random(7)
    stems = [b"/".join([b"a"] * 150), b"/".join([b"a"] * 80 + [b"b"] * 100), b"/".join([b"c"] * 130)]
    for stem in stems:
        root.directory(stem, create=0o700)
    inodes = {}
    with Descent(b".", dir_fd=root.root_fd) as other:
        for path, _listing in walk(other):
            inodes[path] = identity(other, path)
    paths = sorted(inodes)
    for _ in range(400):
        path = dice.choice(paths)
        if dice.random() < 0.1:
            with pytest.raises(FileNotFoundError):
                root.directory(path + b"/none")
        assert identity(root, path) == inodes[path]


# ---- listing and opening -----------------------------------------------------------------------------------------------------------------


def test_a_listing_is_sorted_by_bytes_and_holds_any_name(root: Descent) -> None:
    names = [b"\n", b" ", b"-n", b"a", b"a\xff", b"b", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xff" * 255]
    for name in names:
        put(root, name)
    assert [item.name for item in list_directory(root.root_fd)] == names
    assert [item.stat.st_size for item in list_directory(root.root_fd)] == [1] * len(names)


def test_a_link_is_listed_as_itself(root: Descent) -> None:
    os.symlink(b"/", b"l", dir_fd=root.root_fd)
    (item,) = list_directory(root.root_fd)
    assert stat.S_ISLNK(item.stat.st_mode)


def test_a_directory_that_changes_while_it_is_listed_gives_each_name_once(root: Descent, tmp_path: Path) -> None:
    for number in range(300):
        put(root, b"%03d" % number)
    stop = threading.Event()
    base = tmp_path / "root"

    def churn() -> None:
        dice = random.Random(3)
        while not stop.is_set():
            name = base / ("%03d" % dice.randrange(300))
            (base / "new").write_bytes(b"y")
            (base / "new").rename(name)
            (base / "gone").touch()
            (base / "gone").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            names = [item.name for item in list_directory(root.root_fd)]
            assert names == sorted(set(names))
            assert {b"%03d" % number for number in range(300)} <= set(names), "what is replaced is always there"
    finally:
        stop.set()
        thread.join()


def test_a_name_listed_twice_is_kept_once(root: Descent, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (b"a", b"b", b"c"):
        put(root, name)
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: [*real(fd), *real(fd)])
    assert [item.name for item in list_directory(root.root_fd)] == [b"a", b"b", b"c"]


def test_a_file_that_is_renamed_while_its_directory_is_listed_is_not_lost(root: Descent, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (b"a", b"log", b"old"):
        put(root, name)
    real = os.stat
    moves = [(b"log", b"0log"), (b"0log", b"log.1"), (b"old", b"older")]

    def move_first(*args: Any, **options: Any) -> os.stat_result:
        if moves:
            os.rename(*moves.pop(0), src_dir_fd=root.root_fd, dst_dir_fd=root.root_fd)
        return real(*args, **options)

    monkeypatch.setattr(os, "stat", move_first)
    assert [item.name for item in list_directory(root.root_fd)] == [b"a", b"log.1", b"older"]
    moves += [(b"a" * number, b"a" * (number + 1)) for number in range(1, 100)]  # it never stands still
    assert [item.name for item in list_directory(root.root_fd)][-2:] == [b"log.1", b"older"]


@pytest.mark.parametrize("kind", ["directory", "FIFO", "link to a file", "link to nothing", "missing"])
def test_what_is_no_regular_file_is_not_opened_and_never_waited_for(root: Descent, kind: str) -> None:
    put(root, b"good")
    at = root.root_fd
    if kind == "directory":
        os.mkdir(b"x", dir_fd=at)
    elif kind == "FIFO":
        os.mkfifo(b"x", dir_fd=at)
    elif kind == "link to a file":
        os.symlink(b"good", b"x", dir_fd=at)
    elif kind == "link to nothing":
        os.symlink(b"nothing", b"x", dir_fd=at)
    before = open_descriptors()
    with pytest.raises(OSError) as caught:
        open_file(at, b"x")
    assert isinstance(caught.value, ReplacedError) == (kind in ("directory", "FIFO"))
    assert open_descriptors() <= before


def test_another_inode_than_the_one_listed_is_not_read(root: Descent) -> None:
    put(root, b"x", b"one")
    put(root, b"y", b"two")
    (listed, other) = list_directory(root.root_fd)
    fd, found = open_file(root.root_fd, b"x", listed.stat)
    os.close(fd)
    assert found.st_ino == listed.stat.st_ino
    with pytest.raises(ReplacedError):
        open_file(root.root_fd, b"x", other.stat)


def test_a_walk_sees_every_directory_once_parents_first_and_skips_what_is_taken_out(root: Descent) -> None:
    for path in (b"a/b/f", b"a/c", b"b/d/e", b"c/f"):
        put(root, path)
    os.symlink(b"a", b"l", dir_fd=root.root_fd)
    assert [path for path, _listing in walk(root)] == [b"", b"a", b"a/b", b"b", b"b/d", b"c"]
    assert [path for path, _listing in walk(root, b"b")] == [b"b", b"b/d"]
    seen = []
    for path, listing in walk(root):
        seen.append(path)
        listing[:] = [item for item in listing if item.name != b"b"]
    assert seen == [b"", b"a", b"c"]


# ---- removal -----------------------------------------------------------------------------------------------------------------------------


def test_everything_is_removed_and_no_link_is_followed(root: Descent, tmp_path: Path) -> None:
    (tmp_path / "outside/x").mkdir(parents=True)
    (tmp_path / "outside/file").touch()
    for name in (b"\n", b"-rf", b"\xff"):
        put(root, b"t/" + name + b"/" + name)
    os.symlink(tmp_path / "outside", b"t/link", dir_fd=root.root_fd)
    os.symlink(b"nothing", b"t/dangling", dir_fd=root.root_fd)
    os.mkfifo(b"t/fifo", dir_fd=root.root_fd)
    put(root, b"stays")
    remove_tree(root.root_fd, b"t")
    assert [item.name for item in list_directory(root.root_fd)] == [b"stays"]
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["file", "x"]


def test_a_tree_of_any_depth_is_removed_in_little_memory(root: Descent) -> None:
    """Whoever may fill a directory on a vault can make it as deep as there are inodes."""
    at = os.dup(root.root_fd)
    for number in range(20_000):
        os.mkdir(b"d", dir_fd=at)
        if number % 5000 == 0:
            os.mkdir(b"e", dir_fd=at)
        below = os.open(b"d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    before = open_descriptors()
    tracemalloc.start()
    try:
        remove_tree(root.root_fd, b"d")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list_names(root.root_fd) == [b"e"]
    assert open_descriptors() <= before
    assert peak < 32 << 20  # paths alone would be 400 MB


def test_a_directory_that_is_moved_while_it_is_deleted_leads_nowhere_else(root: Descent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back up is the way that was taken down, or none."""
    put(root, b"t/" + b"/".join([b"d"] * 100) + b"/file")
    (tmp_path / "victim/d").mkdir(parents=True)
    (tmp_path / "victim/file").touch()
    root.forget()
    real = os.rmdir
    moved = []

    def rmdir(name: bytes, **options: Any) -> None:
        if not moved:
            moved.append(name)
            deep = os.path.join(os.fsencode(tmp_path), b"root/t", *[b"d"] * 30)
            os.rename(deep + b"/d", os.fsencode(tmp_path / "victim/moved"))
        real(name, **options)

    monkeypatch.setattr(os, "rmdir", rmdir)
    with pytest.raises(OSError):
        remove_tree(root.root_fd, b"t")
    assert sorted(path.name for path in (tmp_path / "victim").iterdir() if path.name != "moved") == ["d", "file"]


def test_what_is_no_directory_is_removed_and_what_is_absent_is_fine(root: Descent, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    put(root, b"file")
    os.symlink(tmp_path / "outside", b"link", dir_fd=root.root_fd)
    for name in (b"file", b"link", b"absent"):
        remove_tree(root.root_fd, name)
    assert list_directory(root.root_fd) == []
    assert (tmp_path / "outside").is_dir()


def test_directories_that_forbid_it_are_removed_by_their_owner(tmp_path: Path, as_ordinary_user: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        tree = tmp_path / "tree"
        for name in ("a/b/c", "d", "e/f"):
            (tree / name).mkdir(parents=True)
            (tree / name / "file").touch()
        for directory, mode in (("a/b/c", 0o550), ("a/b", 0o000), ("a", 0o550), ("d", 0o000), ("e/f", 0o111), ("e", 0o444), ("", 0o550)):
            (tree / directory).chmod(mode)
        with Descent(os.fsencode(tmp_path)) as above:
            remove_tree(above.root_fd, b"tree")
        assert not tree.exists()

    as_ordinary_user(work)


def test_opening_up_never_changes_what_a_link_leads_to(root: Descent, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o500)
    os.mkdir(b"d", 0o500, dir_fd=root.root_fd)
    (listed,) = list_directory(root.root_fd)
    os.rmdir(b"d", dir_fd=root.root_fd)
    os.symlink(victim, b"d", dir_fd=root.root_fd)
    with contextlib.suppress(OSError):
        walk_module.open_up(root.root_fd, b"d", listed.stat)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o500


@pytest.mark.skipif(not IS_ROOT, reason="only root mounts")
def test_another_file_system_is_never_emptied(root: Descent, tmp_path: Path) -> None:
    put(root, b"t/a/file")
    put(root, b"t/z/file")
    mount = tmp_path / "root/t/m"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        (mount / "precious").touch()
        for at, name in ((root.root_fd, b"t"), (root.directory(b"t"), b"m")):
            with pytest.raises(OSError) as caught:
                remove_tree(at, name)
            assert caught.value.errno == errno.EBUSY
        assert (mount / "precious").exists()
    finally:
        subprocess.run(["umount", mount], check=True)
    remove_tree(root.root_fd, b"t")


# ---- permissions -------------------------------------------------------------------------------------------------------------------------


def test_a_directory_that_may_only_be_passed_is_passed_and_not_listed(tmp_path: Path, as_ordinary_user: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        for name, mode in (("passable", 0o311), ("closed", 0o000)):
            (tmp_path / name / "open").mkdir(parents=True)
            (tmp_path / name / "open/file").touch()
            (tmp_path / name).chmod(mode)
        with Descent(os.fsencode(tmp_path)) as root:
            for _ in range(2):
                assert [item.name for item in list_directory(root.directory(b"passable/open"))] == [b"file"]
                for path in (b"passable", b"closed"):
                    with pytest.raises(PermissionError) as caught:
                        list_directory(root.directory(path))
                    assert caught.value.errno == errno.EACCES
                with pytest.raises(PermissionError):
                    root.directory(b"closed/open")
        for name in ("passable", "closed"):
            (tmp_path / name).chmod(0o755)

    as_ordinary_user(work)
