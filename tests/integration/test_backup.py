# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up and restore real trees: everything comes back, increments send only what changed and never touch an older snapshot."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.tests.integration.trees import fill, make_deep, make_sparse
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
    mounted,
    needs_root,
    rsync_differences,
)


@pytest.fixture
def native() -> Iterator[World]:
    made = World.make("native")
    yield made
    made.destroy()


# ---- round trips -----------------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("storage, disk", [("native", "/dev/shm"), ("portable", "/dev/shm"), ("native", "/tmp")])
def test_everything_a_file_system_holds_comes_back(storage: str, disk: str) -> None:
    world = World.make(storage, on=disk)
    try:
        fill(world.src, as_root=True)
        before = fingerprint(world.src)
        result = world.backup()
        assert (result.rc, result.warnings) == (0, [])
        assert fingerprint(world.src) == before, "a backup must not touch its source"
        restored = world.restore(dest=world.root / "out")
        assert (restored.rc, restored.verified, restored.warnings) == (0, True, [])
        assert_same(world.src, world.restored(world.root / "out"))
        if storage == "native":
            assert_same(world.src, world.stored(result.snapshot_id))
        world.check_history(count=1)
        again = world.restore(dest=world.root / "out")
        assert not again.changed and again.verified
    finally:
        world.destroy()


def test_an_ordinary_user_gets_back_what_he_can_and_is_told_once_what_not() -> None:
    world = World.make("portable")

    def round_trip() -> Tuple[Dict[str, Any], Dict[str, Any], Dict[str, Any], List[Any]]:
        made = world.backup()
        first = world.restore(dest=world.root / "out")
        second = world.restore(dest=world.root / "out")
        here, there = fingerprint_readable(world.src), fingerprint_readable(world.restored(world.root / "out"))
        return made.to_dict(), first.to_dict(), second.to_dict(), differences(here, there)

    try:
        fill(world.src, as_root=False)
        # Not readable by its owner: said once, with a count.
        if AS_ROOT:
            give(world.root, NOBODY)
            for number, bits in ((0, 0o4755), (1, 0o2755), (2, 0o6711)):
                (world.src / "files" / ("mode %d" % number)).chmod(bits)
        made, first, second, wrong = in_child(round_trip, uid=NOBODY if AS_ROOT else None)
        unreadable = [text for text in made["warnings"] if "could not be read" in text]
        assert made["rc"] == 3 and len(made["warnings"]) == 1 and unreadable[0].startswith("2 paths could not be read")
        assert [(path, there) for path, _here, there in wrong] == [(b"files/mode 4", None), (b"files/mode 5", None)]
        assert (first["rc"], first["verified"]) == (0, True), first["warnings"]
        assert (second["rc"], second["changed"]) == (0, False)
    finally:
        world.destroy()


def fingerprint_readable(root: Path) -> Dict[bytes, Tuple[Any, ...]]:
    """As ``fingerprint``, for a user who may not read everything."""
    hidden = []
    for folder, _names, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and not os.access(path, os.R_OK):
                hidden.append((path, stat.S_IMODE(os.lstat(path).st_mode)))
    for path, _mode in hidden:
        os.chmod(path, 0o600)
    try:
        return fingerprint(root)
    finally:
        for path, mode in hidden:
            os.chmod(path, mode)


@needs_root
def test_an_ordinary_user_who_restores_roots_files_is_told_with_counts() -> None:
    world = World.make("portable")

    def take() -> Dict[str, Any]:
        return world.restore(dest=world.root / "mine" / "out", state_directory=str(world.root / "mine" / "state")).to_dict()

    try:
        fill(world.src, as_root=True)
        world.backup()
        subprocess.run(["chown", "-R", "%d" % NOBODY, str(world.vault)], check=True)
        (world.root / "mine").mkdir()
        os.chown(world.root / "mine", NOBODY, NOBODY)
        first = in_child(take, uid=NOBODY)
        kinds = sorted(text.split(" ", 1)[1][:20] for text in first["warnings"])
        assert first["rc"] == 3 and len(first["warnings"]) == 4, first["warnings"]
        assert [text for text in first["warnings"] if text.startswith("2 devices could not be made")], kinds
        assert [text for text in first["warnings"] if "lost the setuid or setgid bit" in text]
        out = world.restored(world.root / "mine" / "out")
        assert stat.S_IMODE((out / "files" / "mode 0").stat().st_mode) == 0o755, "nobody's program must not run as whoever restores it"
        assert (out / "directories" / "closed").stat().st_mode & 0o7777 == 0
        second = in_child(take, uid=NOBODY)
        # What he may not read himself is written again, the rest is left alone.
        assert second["rc"] == 3 and second["files_restored"] < 5, second
    finally:
        world.destroy()


def test_paths_longer_than_any_call_takes_come_back(world: World) -> None:
    assert make_deep(world.src) > 4096
    first = world.backup()
    assert first.rc == 0
    assert not world.backup().changed
    restored = world.restore(dest=world.root / "out")
    assert (restored.rc, restored.verified) == (0, True)
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []
    world.check_history(count=1)
    # Deep down something changes, and something is damaged.
    at = os.open(world.src, os.O_RDONLY)
    for level in range(25):
        at = os.open(b"%03d" % level + b"l" * 197, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
    os.unlink(b"leaf", dir_fd=at)
    os.mkdir(b"leaf", dir_fd=at)
    second = world.backup()
    assert second.changed and second.rc == 0
    world.restore(dest=world.root / "out", delete=True)
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []
    world.check_history(count=2)


def test_holes_stay_holes_in_the_vault_and_after_a_restore(world: World) -> None:
    make_sparse(world.src / "sparse", 64 << 20, [(10 << 20, b"x" * 5000), (40 << 20, b"y")])
    make_sparse(world.src / "empty hole", 32 << 20, [])
    (world.src / "dense").write_bytes(b"\0" * 300_000)
    result = world.backup()
    assert result.bytes_sent == (64 << 20) + (32 << 20) + 300_000
    world.restore(dest=world.root / "out")
    for where in (world.stored(result.snapshot_id), world.restored(world.root / "out")):
        for name in ("sparse", "empty hole"):
            assert (where / name).stat().st_blocks * 512 < 1 << 20, where / name
            assert (where / name).stat().st_size == (world.src / name).stat().st_size
    # A new owner makes the native vault copy it: with its holes.
    os.utime(world.src / "sparse", ns=(0, 5))
    second = world.backup()
    assert world.stored(second.snapshot_id, "sparse").stat().st_blocks * 512 < 1 << 20
    assert second.files_sent == 0
    world.check_history(count=2)


@needs_root
def test_a_sparse_file_larger_than_the_vault_is_no_full_vault() -> None:
    with mounted("tmpfs", "size=4m") as small:
        world = World(small)
        world.src = small.parent / (small.name + "-src")
        world.src.mkdir()
        try:
            make_sparse(world.src / "huge", 64 << 20, [(32 << 20, b"x")])
            assert world.backup().rc == 0
            world.check_history(count=1)
        finally:
            shutil.rmtree(world.src)


def test_fifos_sockets_and_devices_never_block_a_run(world: World) -> None:
    (world.src / "file").write_text("x")
    os.mkfifo(world.src / "fifo")
    if AS_ROOT:
        os.mknod(world.src / "tty", stat.S_IFCHR | 0o600, os.makedev(4, 64))
    world.backup()
    shutil.rmtree(world.src)
    world.src.mkdir()
    restored = world.restore(dest=world.root / "out")
    assert stat.S_ISFIFO((world.restored(world.root / "out") / "fifo").lstat().st_mode)
    assert restored.verified


# ---- privacy ---------------------------------------------------------------------------------------------------------------


def test_vault_and_state_are_private_whatever_the_umask(world: World) -> None:
    (world.src / "secret").write_text("secret")
    (world.src / "secret").chmod(0o644)
    old = os.umask(0)
    try:
        world.backup()
        world.restore(dest=world.root / "out", undo=world.root / "undo")
        (world.root / "out").chmod(0o755)
        (world.restored(world.root / "out") / "secret").write_text("other")
        world.restore(dest=world.root / "out", undo=world.root / "undo")
    finally:
        os.umask(old)
    for top in (world.vault, world.state, world.root / "undo"):
        assert stat.S_IMODE(top.stat().st_mode) == 0o700
        for folder, names, files in os.walk(top):
            if "/snapshots/" in folder or str(world.src) in folder:
                continue
            for name in names + files:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and "/snapshots" not in path and not path.endswith("/secret"):
                    assert os.lstat(path).st_mode & 0o077 == 0, path
    assert stat.S_IMODE((world.history / "snapshots").stat().st_mode) == 0o700


def test_a_default_acl_of_the_vault_or_the_destination_is_not_inherited(world: World) -> None:
    (world.src / "plain").write_text("x")
    (world.src / "plain").chmod(0o664)
    (world.src / "sub").mkdir()
    for place in (world.vault, world.root / "out"):
        place.mkdir()
        subprocess.run(["setfacl", "-d", "-m", "u:12:rwx", str(place)], check=True)
    result = world.backup()
    world.restore(dest=world.root / "out")
    wrong = differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out")))
    assert wrong == []
    if world.storage == "native":
        assert_same(world.src, world.stored(result.snapshot_id))


@pytest.mark.parametrize("storage", STORAGES)
def test_directories_above_the_source_need_not_be_readable(storage: str) -> None:
    if not AS_ROOT:
        pytest.skip("needs another user's directory")
    world = World.make("portable")
    try:
        (world.src / "file").write_text("x")
        give(world.root, NOBODY)
        (world.root / "a").mkdir()
        os.rename(world.src, world.root / "a" / "src")
        world.src = world.root / "a" / "src"
        (world.root / "a").chmod(0o711)
        os.chown(world.root / "a", 0, 0)

        def go() -> Tuple[int, bool]:
            made = world.backup()
            (world.src / "file").write_text("y")
            return made.rc, world.restore(confirm=True).verified

        assert in_child(go, uid=NOBODY) == (0, True)
        assert (world.src / "file").read_text() == "x"
    finally:
        world.destroy()


# ---- chains ----------------------------------------------------------------------------------------------------------------


class Chain:
    """Snapshots with what each looked like when it was new, in the vault and at the source."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kept: List[Tuple[str, Dict[bytes, Tuple[Any, ...]], Dict[bytes, Tuple[Any, ...]]]] = []

    def add(self) -> Any:
        result = self.world.backup()
        assert result.changed and result.rc == 0, result.to_dict()
        assert result.snapshot_id
        # Link counts, ctime and atime aside nothing of it may ever change: inode numbers are part of the comparison.
        stored = fingerprint(self.world.stored(result.snapshot_id), inodes=True)
        self.kept.append((result.snapshot_id, stored, fingerprint(self.world.src)))
        return result

    def check(self) -> None:
        self.world.check_history(count=len(self.kept))
        for number, (snapshot_id, stored, source) in enumerate(self.kept):
            assert differences(fingerprint(self.world.stored(snapshot_id), inodes=True), stored) == []
            dest = self.world.root / ("check %d" % number)
            assert self.world.restore(dest=dest, snapshot=snapshot_id).verified
            assert differences(fingerprint(self.world.restored(dest)), source) == []
            assert not self.world.restore(dest=dest, snapshot=snapshot_id).changed


def change_metadata(src: Path) -> None:
    (src / "a").chmod(0o600)
    os.utime(src / "b", ns=(0, 12345))
    os.setxattr(src / "c", "user.new", b"1")
    subprocess.run(["setfacl", "-m", "u:12:r--", str(src / "d")], check=True)
    os.chmod(src / "sub", 0o700)
    os.utime(src / "link", ns=(0, 7), follow_symlinks=False)
    if AS_ROOT:
        os.chown(src / "sub" / "e", 5, 6)


def change_types(src: Path) -> None:
    (src / "a").unlink()
    (src / "a").mkdir()
    (src / "a" / "inside").write_text("inside")
    shutil.rmtree(src / "sub")
    (src / "sub").write_text("a file now")
    (src / "b").unlink()
    (src / "b").symlink_to("c")
    (src / "link").unlink()
    (src / "link").mkdir()
    (src / "d").unlink()
    os.mkfifo(src / "d")


def change_types_back(src: Path) -> None:
    shutil.rmtree(src / "a")
    (src / "a").symlink_to("b")
    (src / "sub").unlink()
    (src / "sub").mkdir()
    (src / "sub" / "a").write_text("inside")
    (src / "b").unlink()
    (src / "b").write_text("b is back")
    (src / "d").unlink()
    (src / "d").write_text("d is back")


def make_plain(src: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (src / name).write_text("content of " + name)
    (src / "sub").mkdir()
    (src / "sub" / "e").write_text("e")
    (src / "link").symlink_to("a")
    for number in range(30):
        (src / ("filler %d" % number)).write_text("filler %d" % number)


def test_metadata_alone_moves_no_content_and_no_older_snapshot(world: World) -> None:
    make_plain(world.src)
    chain = Chain(world)
    chain.add()
    change_metadata(world.src)
    result = chain.add()
    assert (result.files_sent, result.modified, result.added, result.removed) == (0, 0, 0, 0)
    assert result.metadata == (7 if AS_ROOT else 6)
    shared = world.stored(chain.kept[0][0], "filler 1").stat()
    assert shared.st_ino == world.stored(result.snapshot_id, "filler 1").stat().st_ino, "what did not change costs no space"
    chain.check()


def test_a_path_becomes_another_kind_of_thing_and_back(world: World) -> None:
    make_plain(world.src)
    chain = Chain(world)
    chain.add()
    for change in (change_types, change_types_back):
        change(world.src)
        chain.add()
    chain.check()


def test_a_rename_sends_nothing_and_keeps_the_inode(world: World) -> None:
    make_plain(world.src)
    chain = Chain(world)
    chain.add()
    (world.src / "new").mkdir()
    os.rename(world.src / "a", world.src / "new" / "renamed")
    os.rename(world.src / "sub", world.src / "moved")
    second = chain.add()
    assert second.files_sent == 0
    old = world.stored(chain.kept[0][0], "a").stat().st_ino
    assert world.stored(second.snapshot_id, "new/renamed").stat().st_ino == old
    # Names that trade places, and a chain of renames.
    os.rename(world.src / "b", world.src / "tmp")
    os.rename(world.src / "c", world.src / "b")
    os.rename(world.src / "tmp", world.src / "c")
    os.rename(world.src / "filler 1", world.src / "filler x")
    os.rename(world.src / "filler 2", world.src / "filler 1")
    os.rename(world.src / "filler 3", world.src / "filler 2")
    assert chain.add().files_sent == 0
    chain.check()


def test_a_copy_is_no_hard_link(world: World) -> None:
    make_plain(world.src)
    chain = Chain(world)
    chain.add()
    shutil.copy2(world.src / "a", world.src / "a copy")
    shutil.copy2(world.src / "a", world.src / "another copy")
    result = chain.add()
    assert result.files_sent == 0
    if world.storage == "native":
        inodes = {world.stored(result.snapshot_id, name).stat().st_ino for name in ("a", "a copy", "another copy")}
        assert len(inodes) == 3
    # The original goes away: its inode can serve one of the two.
    (world.src / "a").unlink()
    os.rename(world.src / "a copy", world.src / "x")
    os.rename(world.src / "another copy", world.src / "y")
    chain.add()
    chain.check()


def relink(first: Path, *others: Path) -> None:
    for other in others:
        if other.exists():
            other.unlink()
        os.link(first, other)


def test_hard_link_groups_change_in_every_way(world: World) -> None:
    src = world.src
    make_plain(src)
    (src / "g1").write_text("group")
    relink(src / "g1", src / "g2", src / "g3", src / "sub" / "g4")
    chain = Chain(world)
    chain.add()

    def leave() -> None:  # with the same content
        data = (src / "g3").read_text()
        stamp = (src / "g3").stat().st_mtime_ns
        (src / "g3").unlink()
        (src / "g3").write_text(data)
        os.utime(src / "g3", ns=(stamp, stamp))

    def join() -> None:
        relink(src / "g1", src / "g3", src / "c")

    def change_one_name() -> None:  # every name shows it
        (src / "g2").write_text("group, changed")

    def replace_one_name() -> None:  # only this one shows it
        (src / "g2").unlink()
        (src / "g2").write_text("alone")

    def split() -> None:
        stamp = (src / "g1").stat().st_mtime_ns
        data = (src / "g1").read_text()
        (src / "g3").unlink()
        (src / "g3").write_text(data)
        os.utime(src / "g3", ns=(stamp, stamp))
        relink(src / "g3", src / "sub" / "g4")

    def lose_the_first() -> None:
        (src / "g1").unlink()

    def new_first() -> None:
        os.link(src / "g3", src / "a0")

    def only_metadata() -> None:
        os.chmod(src / "g3", 0o600)

    def links_of_links() -> None:
        os.link(src / "link", src / "link too", follow_symlinks=False)

    def one_is_left() -> None:
        for name in ("g3", "sub/g4"):
            (src / name).unlink()

    sent = []
    changes = [leave, join, change_one_name, replace_one_name, split, lose_the_first, new_first, only_metadata, links_of_links, one_is_left]
    for change in changes:
        change()
        sent.append(chain.add().files_sent)
    assert sent == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    chain.check()


def test_equal_size_and_time_and_other_bytes_are_seen(world: World) -> None:
    make_plain(world.src)
    chain = Chain(world)
    chain.add()
    found = (world.src / "a").stat()
    (world.src / "a").write_text("CONTENT OF A")
    os.utime(world.src / "a", ns=(found.st_atime_ns, found.st_mtime_ns))
    result = chain.add()
    assert (result.files_sent, result.modified) == (1, 1)
    chain.check()


def test_a_busy_directory_above_the_source_is_no_change(world: World) -> None:
    make_plain(world.src)
    world.backup()
    (world.root / "neighbour").write_text("x")
    assert not world.backup().changed
    os.utime(world.src / "sub", ns=(0, 99))
    assert not world.backup().changed, "a directory whose time alone moved waits for the next real change"


@pytest.mark.parametrize("failing", ["first paths", "followers", "all"])
def test_a_file_system_without_more_links_gets_copies(world: World, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    make_plain(world.src)
    relink(world.src / "a", world.src / "a2", world.src / "sub" / "a3")
    os.link(world.src / "link", world.src / "link2", follow_symlinks=False)
    chain = Chain(world)
    real = os.link

    def link(source: bytes, *args: Any, **options: Any) -> None:
        # Within one tree it is a follower; from one tree to another a first path.
        within = os.readlink("/proc/self/fd/%d" % options["src_dir_fd"]).split("/tree")[0]
        into = os.readlink("/proc/self/fd/%d" % options["dst_dir_fd"]).split("/tree")[0]
        if failing == "all" or (failing == "followers") == (within == into):
            raise OSError(errno.EMLINK, "Too many links")
        real(source, *args, **options)

    chain.add()
    (world.src / "new").write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        result = chain.add()
    receipt = result.receipt
    assert receipt is not None
    assert receipt["link_limit"] == (3 if failing == "followers" else receipt["copied"]) > 0
    if failing == "followers":
        # Content of its own can be damaged on its own.
        path = world.stored(result.snapshot_id, "sub/a3")
        damage(path, size=False)
        found = world.verify(snapshot=result.snapshot_id)
        assert [item["path"] for item in found.damaged] == [str(world.src / "sub" / "a3")]
        damage(path, size=False)
    (world.src / "new").write_text("newer")
    chain.add()
    chain.check()


def damage(path: Path, *, size: bool = False) -> None:
    """Flip a byte and leave everything else as it was; twice is as before."""
    found = path.stat()
    folder = path.parent.stat().st_mtime_ns
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as stream:
        stream.write(bytes(data) + (b"more" if size else b""))
    path.chmod(stat.S_IMODE(found.st_mode))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.utime(path.parent, ns=(folder, folder))


def test_a_native_vault_is_written_by_root_alone(portable: World) -> None:
    (portable.src / "file").write_text("x")
    if AS_ROOT:
        give(portable.root, NOBODY)
    portable.storage = "native"
    error = in_child(lambda: error_of(portable.backup).to_dict(), uid=NOBODY if AS_ROOT else None)
    assert (error["kind"], error["field"]) == ("vault_format", "target.storage")
    assert not portable.vault.exists()


# ---- files in motion -------------------------------------------------------------------------------------------------------


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """``between(change)``: something happens after the scan and before the transfer."""
    from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.session import PackSession
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.session import TreeSession

    kind: Any = PackSession if os.environ.get("WORLD") == "pack" else TreeSession
    real = kind.send
    waiting: List[Callable[[], None]] = []

    def send(self: Any, *args: Any) -> Any:
        if waiting:
            waiting.pop()()
        return real(self, *args)

    monkeypatch.setattr(kind, "send", send)
    return waiting.append


@pytest.mark.parametrize("accident", ["none", "source changes", "base is damaged", "base is lost", "base is a link"])
def test_what_is_done_ahead_of_the_transfer_is_used_or_done_again(
    world: World, between: Callable[..., None], monkeypatch: pytest.MonkeyPatch, accident: str
) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils import pool
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import session

    monkeypatch.setattr(pool, "FORK_PAYS_ITEMS", 10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    used: List[bool] = []
    real = session.build
    monkeypatch.setattr(session, "build", lambda *args, **more: used.append(bool(args[-1])) or real(*args, **more))
    for number in range(60):
        path = world.src / ("d%d" % (number % 7)) / ("f%d" % number)
        path.parent.mkdir(exist_ok=True)
        path.write_text("content %d" % number)
    os.link(world.src / "d0" / "f0", world.src / "d1" / "second name of f0")
    first = world.backup()
    for number in range(5):
        (world.src / "d0" / ("new%d" % number)).write_text("new")
    (world.src / "d2" / "f2").rename(world.src / "d3" / "moved")
    stored = world.stored(first.snapshot_id, "d4")

    def happen() -> None:
        if accident == "source changes":
            (world.src / "d0" / "new3").write_text("changed between scan and transfer")
            (world.src / "d0" / "new4").unlink()
        elif accident == "base is damaged":
            stored.chmod(0o700)
            (stored / "f4").unlink()
        elif accident == "base is a link":
            world.stored(first.snapshot_id).parent.chmod(0o700)
            tree = world.tree(first.snapshot_id)
            tree.rename(world.root / "gone")
            tree.symlink_to(world.root / "gone")
        elif accident == "base is lost":
            world.stored(first.snapshot_id).rename(world.root / "gone")

    between(happen)
    result = world.backup()
    assert result.rc == 0, result.to_dict()
    # The first build has what was done ahead; where that was in vain, the next begins anew and may do it ahead again.
    assert (
        used[0] is False
        and used[1:]
        == {"none": [True], "source changes": [True], "base is damaged": [True, True], "base is lost": [True, False], "base is a link": [False]}[accident]
    )
    assert world.verify().ok
    assert world.restore(dest=world.root / "out").verified
    assert differences(fingerprint(world.src, times=False), fingerprint(world.restored(world.root / "out"), times=False)) == []
    assert os.listdir(world.history / "incoming") == []


def test_what_vanishes_grows_or_turns_between_scan_and_transfer_ends_well(world: World, between: Callable[..., None]) -> None:
    src = world.src
    make_plain(src)
    relink(src / "c", src / "c2")
    chain = Chain(world)

    def change() -> None:
        (src / "a").unlink()
        (src / "b").write_text("b has grown")
        (src / "c").write_text("every name of c has grown")
        (src / "d").unlink()
        (src / "d").mkdir()
        (src / "sub" / "e").unlink()
        (src / "sub" / "e").symlink_to("/etc/passwd")

    between(change)
    result = world.backup()
    assert result.vanished >= 1
    stored = world.restore(dest=world.root / "out")
    assert stored.verified
    out = world.restored(world.root / "out")
    assert not (out / "a").exists()
    assert (out / "b").read_text() == "b has grown"
    assert (out / "c2").read_text() == (out / "c").read_text() == "every name of c has grown"
    assert not (out / "sub" / "e").is_symlink()
    world.check_history(count=1)
    chain.kept.append((world.snapshots()[0].id, fingerprint(world.stored(result.snapshot_id), inodes=True), fingerprint(out)))
    chain.add()
    chain.check()


@pytest.mark.parametrize("code, rc", [(errno.ENOMEM, 1), (errno.EMFILE, 1), (errno.EIO, 3)])
def test_attributes_that_cannot_be_read_are_never_taken_for_none(world: World, monkeypatch: pytest.MonkeyPatch, code: int, rc: int) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.manifest import scan

    (world.src / "d").mkdir()
    (world.src / "d" / "f").write_text("x")
    os.setxattr(world.src / "d", "user.important", b"yes")
    os.symlink("d", world.src / "link")
    real = scan.read_xattrs

    def fail(at: Any) -> Any:
        if isinstance(at, bytes) and at.endswith(b"/d"):
            raise OSError(code, os.strerror(code), at)
        return real(at)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "read_xattrs", fail)
        if rc == 1:
            error = error_of(world.backup)
            assert error.rc == 1 and "ulimit" in str(error.next)
        else:
            result = world.backup()
            assert result.rc == 3 and str(world.src / "d") in result.warnings[0]
    result = world.backup()
    assert result.rc == 0
    assert world.restore(dest=world.root / "out").verified
    assert os.getxattr(world.restored(world.root / "out") / "d", "user.important") == b"yes"


def test_descriptors_that_run_out_are_no_fact_about_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.manifest import scan, survey

    (world.src / "d").mkdir()
    (world.src / "d" / "f").write_text("x")

    def fail(*_arguments: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for module, name in ((scan, "open_file"), (survey, "list_directory")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            error = error_of(world.backup)
            assert error.rc == 1 and "ulimit" in str(error.next)
    assert world.snapshots() == []


def test_a_file_that_cannot_be_read_keeps_its_last_entry(portable: World) -> None:
    world = portable
    make_plain(world.src)
    if AS_ROOT:
        give(world.root, NOBODY)

    def go() -> None:
        world.backup()
        (world.src / "a").chmod(0)
        (world.src / "sub").chmod(0)
        (world.src / "b").write_text("b, changed")
        result = world.backup()
        assert (result.rc, result.stale) == (3, 2), result.to_dict()
        assert len(result.warnings) == 1 and "kept from the last snapshot: 2 entries" in result.warnings[0]
        (world.src / "a").chmod(0o644)
        (world.src / "sub").chmod(0o755)
        assert world.restore(dest=world.root / "out").verified
        assert (world.restored(world.root / "out") / "a").read_text() == "content of a"
        result = world.backup()
        assert (result.rc, result.stale) == (0, 0)
        world.check_history(count=3)

    in_child(go, uid=NOBODY if AS_ROOT else None)


def test_what_becomes_unreadable_between_scan_and_transfer_is_told_and_not_forgotten(portable: World, between: Callable[..., None]) -> None:
    world = portable
    make_plain(world.src)
    if AS_ROOT:
        give(world.root, NOBODY)

    def lock_away() -> None:
        for name in ("a", "new"):
            (world.src / name).chmod(0)

    def go() -> None:
        world.backup()
        (world.src / "a").write_text("a, changed")
        (world.src / "new").write_text("never read before")
        between(lock_away)
        result = world.backup()
        assert (result.rc, result.stale) == (3, 1) and len(result.warnings) == 1, result.to_dict()
        assert result.warnings[0].startswith("2 paths could not be read") and "kept from the last snapshot: 1 entry" in result.warnings[0]
        assert world.restore(dest=world.root / "out").verified
        assert (world.restored(world.root / "out") / "a").read_text() == "content of a"
        assert not (world.restored(world.root / "out") / "new").exists()
        world.check_history(count=2)

    time.sleep(0.05)
    in_child(go, uid=NOBODY if AS_ROOT else None)


def test_what_is_lost_on_both_sides_does_not_stop_everything_else(portable: World) -> None:
    world = portable
    make_plain(world.src)
    if AS_ROOT:
        give(world.root, NOBODY)

    def go() -> None:
        made = world.backup()
        stored = world.stored(made.snapshot_id, "a")
        stored.parent.chmod(0o700)
        stored.unlink()
        (world.src / "a").chmod(0)
        (world.src / "b").write_text("changed")
        result = world.backup()
        assert result.rc == 3 and "could not be read" in result.warnings[0]
        assert world.verify().ok

    in_child(go, uid=NOBODY if AS_ROOT else None)


# ---- results ---------------------------------------------------------------------------------------------------------------


def test_the_result_says_what_changed(world: World) -> None:
    make_plain(world.src)
    first = world.backup()
    assert first.changed and first.snapshot_id and first.receipt
    assert (first.added, first.files_sent, first.entries) == (first.entries, 35, first.entries)
    assert first.receipt["sequence"] == 1 and first.receipt["parent"] is None and first.receipt["storage"] == world.storage
    second = world.backup()
    assert not second.changed and second.snapshot_id == first.snapshot_id and second.unchanged == first.entries
    (world.src / "a").write_text("changed")
    (world.src / "b").unlink()
    (world.src / "é\n").write_text("new")
    third = world.backup()
    assert (third.added, third.modified, third.removed, third.files_sent, third.bytes_sent) == (1, 1, 1, 2, 10)
    assert {(item["path"], item["change"]) for item in third.sample} == {
        (str(world.src / "a"), "modified"),
        (str(world.src / "b"), "removed"),
        (str(world.src) + "/é\\n", "added"),
    }
    json.dumps(third.to_dict())
    assert third.receipt and third.receipt["parent"] == first.snapshot_id and third.receipt["sequence"] == 2
    assert os.readlink(world.history / "latest") == "snapshots/%s" % third.snapshot_id
    record = [json.loads(line) for line in (world.state / "h" / "p" / "runs.jsonl").read_text().splitlines()]
    assert [run["result"] for run in record] == ["ok", "unchanged", "ok"]


def test_a_run_that_finds_nothing_changed_opens_no_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.action import backup as module
    from ansible_collections.openclaw.backup.plugins.module_utils.manifest import scan

    make_plain(world.src)
    monkeypatch.setattr(scan, "RACY_SECONDS", -1)  # as if everything were older than a minute
    first = world.backup()
    monkeypatch.delattr(module, "hash_changed")
    world.vault.rename(world.root / "away")
    second = world.backup()
    assert not second.changed and second.snapshot_id == first.snapshot_id and second.entries == first.entries, "no network when nothing changed"


def test_a_vault_that_cannot_keep_what_the_source_has_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.manifest import metadata

    make_plain(world.src)
    os.setxattr(world.src / "a", "user.x", b"1")

    def refuse(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(metadata.os, "setxattr", refuse)
        if world.storage == "native":
            error = error_of(world.backup)
            assert (error.kind, error.field, error.rc) == ("proof", "xattrs", 1) and "portable" in str(error.next)
            assert world.snapshots() == []
        else:
            world.backup()
            restored = world.restore(dest=world.root / "out")
            assert restored.rc == 3 and restored.warnings == ["1 extended attribute could not be kept (an ACL is one, too)"]
    assert world.backup().rc == 0


def test_a_run_that_dies_of_a_bug_is_not_recorded_as_a_success(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.action import backup as module

    (world.src / "a").write_text("a")
    for problem in (RuntimeError("a bug"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error", "/some/file")):

        def fail(*_args: Any, _problem: BaseException = problem, **_options: Any) -> None:
            raise _problem

        with monkeypatch.context() as patch:
            patch.setattr(module, "hash_changed", fail)
            with pytest.raises(BackupError if isinstance(problem, OSError) else type(problem)):
                world.backup()
    record = [json.loads(line) for line in (world.state / "h" / "p" / "runs.jsonl").read_text().splitlines()]
    assert [run["result"] for run in record] == ["failed"] * 3
    assert record[2]["error"]["found"] == "/some/file"
    assert world.backup().changed


def test_what_a_run_does_not_select_stays_out_and_no_directory_is_recursed_blindly(world: World) -> None:
    make_plain(world.src)
    (world.src / "cache").mkdir()
    for number in range(50):
        (world.src / "cache" / ("junk %d" % number)).write_text("junk")
    (world.src / "sub" / "left out").write_text("x")
    result = world.backup(policy=world.policy(exclude=["cache/", "left out"]))
    assert result.files_sent == 35
    assert not world.stored(result.snapshot_id, "cache").exists()
    assert not world.stored(result.snapshot_id, "sub/left out").exists()
    world.check_history(count=1)


def test_several_sources_and_single_files(world: World) -> None:
    make_plain(world.src)
    other = world.root / "other"
    other.mkdir()
    (other / "x").write_text("x")
    (world.root / "single").write_text("single")
    policy = world.policy(sources=[str(world.src / "sub"), str(other), str(world.root / "single"), str(world.src / "a")])
    result = world.backup(policy=policy)
    assert result.rc == 0 and result.files_sent == 4
    world.restore(policy=policy, dest=world.root / "out")
    assert (Path(str(world.root / "out") + str(world.root)) / "single").read_text() == "single"
    assert sorted(os.listdir(world.restored(world.root / "out"))) == ["a", "sub"]
    assert rsync_differences(other, Path(str(world.root / "out") + str(other))) == ""
    world.check_history(count=1)


def test_extended_attributes_that_a_file_lost_are_lost_in_the_next_snapshot(world: World) -> None:
    make_plain(world.src)
    os.setxattr(world.src / "a", "user.x", b"1")
    os.setxattr(world.src / "sub", "user.x", b"1")
    chain = Chain(world)
    chain.add()
    os.removexattr(world.src / "a", "user.x")
    os.removexattr(world.src / "sub", "user.x")
    chain.add()
    chain.check()


def test_tuning_that_a_local_vault_has_no_use_for_is_noted_once_and_is_no_warning(portable: World) -> None:
    (portable.src / "a").write_text("a")
    tuned = portable.policy(transfer={"compress": "zlibx", "compress_level": 6, "block_size": "4k", "bwlimit": "1g", "checksum": "md5", "streams": 1})
    for _run in range(2):
        result = portable.backup(policy=tuned)
        assert (result.rc, result.warnings) == (0, [])
        assert portable.notes == ["without effect for this target: transfer.compress, transfer.block_size"]
