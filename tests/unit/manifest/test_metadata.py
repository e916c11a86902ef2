# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inode bears is read and written whole; what cannot be written is counted; nobody's link is written through."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Callable, Iterator

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.metadata import (
    NS_MAX,
    NS_MIN,
    Losses,
    apply,
    create_special,
    device_of,
    differs,
    entry_type,
    mode_without_acl,
    mtime_ns,
    needs_privilege,
    path_of,
    read_xattrs,
)
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import ReplacedError

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can do this")
Work = Callable[[], object]

NOBODY = 0xFFFFFFFF


def acl(*entries: "tuple[int, int, int]") -> bytes:
    """The kernel's form of an ACL: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACL = acl((1, 6, NOBODY), (2, 4, 12345), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 4, NOBODY))


@pytest.fixture
def at(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "at").mkdir()
    fd = os.open(tmp_path / "at", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def make(at: int, entry: Entry) -> os.stat_result:
    """Create what ``entry`` names and give it its metadata; its ``lstat``."""
    if entry.type == "f":
        os.close(os.open(entry.path, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
        os.truncate(path_of(at, entry.path), entry.size)
    elif entry.type == "d":
        os.mkdir(entry.path, dir_fd=at)
    else:
        create_special(at, entry, entry.path)
    losses = Losses()
    apply(at, entry.path, entry, losses)
    assert losses.counts == {}
    return os.stat(entry.path, dir_fd=at, follow_symlinks=False)


def mine(path: bytes, kind: str, mode: int = 0o640, mtime: int = 0, **more: object) -> Entry:
    return Entry(path, kind, mode, os.geteuid(), os.getegid(), mtime)._replace(**more)


TIMES = [0, 1, -1, -1_000_000_001, 1_700_000_000_123_456_789, 4_200_000_000_987_654_321, -2_000_000_000_000_000_001]


@pytest.mark.parametrize("mtime", TIMES)
@pytest.mark.parametrize("kind", "fdlps")
def test_a_time_before_1970_or_after_2100_comes_back_to_the_nanosecond(at: int, kind: str, mtime: int) -> None:
    entry = mine(b"x", kind, 0o777 if kind == "l" else 0o640, mtime, link=b"nowhere" if kind == "l" else None)
    found = make(at, entry)
    assert found.st_mtime_ns == mtime
    assert differs(entry, found) is None


@pytest.mark.parametrize("mode", [0, 0o7777, 0o4755, 0o2755, 0o1777, 0o644])
@pytest.mark.parametrize("kind", "fdp")
def test_every_bit_of_the_mode_comes_back_whatever_the_umask(at: int, kind: str, mode: int) -> None:
    before = os.umask(0o077)
    try:
        assert stat.S_IMODE(make(at, mine(b"x", kind, mode)).st_mode) == mode
    finally:
        os.umask(before)


@needs_root
@pytest.mark.parametrize("kind", "fdlps")
def test_an_owner_comes_back_and_takes_no_mode_bit_with_it(at: int, kind: str) -> None:
    entry = Entry(b"x", kind, 0o777 if kind == "l" else 0o6755, 12345, (1 << 32) - 2, 5, link=b"nowhere" if kind == "l" else None)
    found = make(at, entry)
    assert (found.st_uid, found.st_gid) == (12345, (1 << 32) - 2)
    assert differs(entry, found) is None


@needs_root
@pytest.mark.parametrize("kind", "cb")
def test_a_device_comes_back(at: int, kind: str) -> None:
    entry = Entry(b"x", kind, 0o660, 0, 6, 5, device=(259, 1_000_000))
    try:
        found = make(at, entry)
    except PermissionError:
        pytest.skip("this machine lets nobody make devices")
    assert device_of(found) == (259, 1_000_000)
    assert differs(entry, found) is None
    assert needs_privilege(entry)
    assert differs(entry._replace(device=(1, 3)), found) == "device"


def test_attributes_and_acls_come_back_and_nothing_else_stays(at: int) -> None:
    entry = mine(b"x", "f", 0o664, xattrs=((b"system.posix_acl_access", ACL), (b"user.a", b""), (b"user.z", b"\0\xff" * 100)))
    make(at, mine(b"x", "f", xattrs=((b"user.left over", b"1"), (b"user.z", b"old"))))
    losses = Losses()
    apply(at, b"x", entry, losses)
    assert losses.counts == {}
    assert read_xattrs(path_of(at, b"x")) == entry.xattrs
    assert differs(entry, os.stat(b"x", dir_fd=at)) is None
    fd = os.open(b"x", os.O_RDONLY, dir_fd=at)
    assert read_xattrs(fd) == entry.xattrs
    os.close(fd)


def test_an_acl_inherited_from_the_new_parent_is_removed(at: int) -> None:
    os.setxattr(at, "system.posix_acl_default", ACL)
    for kind in "fd":
        entry = mine(kind.encode(), kind, 0o750)
        found = make(at, entry)
        assert read_xattrs(path_of(at, entry.path)) == ()
        assert differs(entry, found) is None


@pytest.mark.parametrize("kind", "fd")
def test_the_owning_group_never_has_the_rights_of_the_mask(at: int, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    entry = mine(b"x", kind, 0o664, xattrs=((b"system.posix_acl_access", ACL),))
    seen = []
    real = os.setxattr

    def look(path: "int | bytes", name: bytes, value: bytes, **options: bool) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        real(path, name, value, **options)

    monkeypatch.setattr(os, "setxattr", look)
    assert stat.S_IMODE(make(at, entry).st_mode) == 0o664
    assert seen == [0o644]


@pytest.mark.parametrize(
    "value, mode", [(ACL, 0o644), (b"", 0o604), (b"\2\0\0", 0o604), (ACL[:-1], 0o604), (ACL.replace(b"\4\0\4", b"\4\0\7"), 0o664), (b"\3" + ACL[1:], 0o604)]
)
def test_where_an_acl_cannot_be_set_the_group_gets_its_own_rights_at_most(at: int, monkeypatch: pytest.MonkeyPatch, value: bytes, mode: int) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOTSUP, "refused")

    monkeypatch.setattr(os, "setxattr", refuse)
    os.close(os.open(b"x", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
    entry, losses = mine(b"x", "f", 0o664, xattrs=((b"system.posix_acl_access", value),)), Losses()
    apply(at, b"x", entry, losses)
    assert losses.counts == {"xattrs": 1}
    assert stat.S_IMODE(os.stat(b"x", dir_fd=at).st_mode) == mode == mode_without_acl(entry)


def test_another_inode_than_the_one_that_was_looked_at_is_left_alone(at: int) -> None:
    for kind in "fdp":
        seen = make(at, mine(kind.encode(), kind))
        before = make(at, mine(b"other " + kind.encode(), kind, 0o600))
        os.rename(kind.encode(), b"away " + kind.encode(), src_dir_fd=at, dst_dir_fd=at)
        os.rename(b"other " + kind.encode(), kind.encode(), src_dir_fd=at, dst_dir_fd=at)
        with pytest.raises(ReplacedError):
            apply(at, kind.encode(), mine(kind.encode(), kind, 0o666, 9), Losses(), (seen.st_dev, seen.st_ino))
        assert stat.S_IMODE(os.stat(kind.encode(), dir_fd=at).st_mode) == 0o600
        apply(at, kind.encode(), mine(kind.encode(), kind, 0o666, 9), Losses(), (before.st_dev, before.st_ino))
        assert os.stat(kind.encode(), dir_fd=at).st_mtime_ns == 9


def test_attributes_are_read_without_following_a_link(at: int) -> None:
    make(at, mine(b"x", "f", xattrs=((b"user.a", b"1"),)))
    os.symlink(b"x", b"l", dir_fd=at)
    assert read_xattrs(path_of(at, b"l")) == ()
    assert read_xattrs(path_of(at, b"l"), follow=True) == ((b"user.a", b"1"),)
    with pytest.raises(FileNotFoundError):
        read_xattrs(path_of(at, b"none"))


@needs_root
def test_labels_of_this_machine_are_left_out(at: int) -> None:
    make(at, mine(b"x", "f"))
    os.setxattr(path_of(at, b"x"), "trusted.overlay.origin", b"1")
    os.setxattr(path_of(at, b"x"), "trusted.kept", b"2")
    assert read_xattrs(path_of(at, b"x")) == ((b"trusted.kept", b"2"),)


@pytest.mark.parametrize("kind", "fdp")
def test_a_link_swapped_in_is_not_written_through(at: int, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    victim.chmod(0o600)
    before = victim.stat()
    os.symlink(victim, b"x", dir_fd=at)
    with pytest.raises(ReplacedError):
        apply(at, b"x", mine(b"x", kind, 0o4777, 5, xattrs=((b"user.a", b"1"),)), Losses())
    after = victim.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (before.st_mode, before.st_mtime_ns, before.st_ctime_ns)
    link = os.stat(b"x", dir_fd=at, follow_symlinks=False)
    apply(at, b"x", mine(b"x", "l", mtime=7), Losses())
    assert victim.stat().st_mtime_ns == before.st_mtime_ns
    assert os.stat(b"x", dir_fd=at, follow_symlinks=False).st_mtime_ns == 7 != link.st_mtime_ns


def test_what_an_ordinary_user_cannot_set_is_counted(at: int, tmp_path: Path, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        losses = Losses()
        for name in (b"x", b"y"):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
            apply(at, name, Entry(name, "f", 0o6751, 12345, 12345, 7, xattrs=((b"trusted.a", b"1"), (b"user.b", b"2"))), losses)
            found = os.stat(name, dir_fd=at)
            assert stat.S_IMODE(found.st_mode) == 0o751, "a program must not run as whoever restores it"
            assert found.st_mtime_ns == 7
            assert read_xattrs(path_of(at, name)) == ((b"user.b", b"2"),)
        os.mkdir(b"d", dir_fd=at)
        apply(at, b"d", Entry(b"d", "d", 0o1770, 12345, 12345, 7), losses)
        assert stat.S_IMODE(os.stat(b"d", dir_fd=at).st_mode) == 0o1770
        os.symlink(b"x", b"l", dir_fd=at)
        apply(at, b"l", Entry(b"l", "l", 0o777, 12345, 12345, 7, link=b"x"), losses)
        assert losses.counts == {"owner": 4, "setuid": 2, "xattrs": 2}
        more = Losses()
        more.merge(losses.counts)
        more.merge({"owner": 1, "devices": 2})
        assert more.counts == {"owner": 5, "setuid": 2, "xattrs": 2, "devices": 2}
        own = Losses()
        apply(at, b"x", mine(b"x", "f", 0o4755), own)
        assert own.counts == {}
        assert stat.S_IMODE(os.stat(b"x", dir_fd=at).st_mode) == 0o4755

    as_ordinary_user(work)


def test_differences_are_named(at: int) -> None:
    entry = mine(b"x", "f", 0o644, 1_000_000_000, size=5)
    found = make(at, entry)
    assert differs(entry, found) is None
    for changes, name in (
        ({"type": "d"}, "type"),
        ({"size": 6}, "size"),
        ({"mode": 0o600}, "mode"),
        ({"uid": 54321}, "owner"),
        ({"gid": 54321}, "owner"),
        ({"mtime": 5}, "mtime"),
    ):
        assert differs(entry._replace(**changes), found) == name
    assert differs(entry._replace(uid=54321), found, owner=False) is None


class Stat:
    """An ``lstat`` of a file system whose times go beyond 64 bits of nanoseconds."""

    def __init__(self, mtime: int) -> None:
        self.st_mtime_ns, self.st_mode, self.st_size, self.st_uid, self.st_gid = mtime, stat.S_IFREG | 0o644, 0, 0, 0


def test_times_beyond_64_bits_are_clamped_and_no_difference() -> None:
    for far, kept in ((10**30, NS_MAX), (-(10**30), NS_MIN), (5, 5)):
        found = Stat(far)
        assert mtime_ns(found) == kept  # type: ignore[arg-type]
        assert differs(Entry(b"x", "f", 0o644, 0, 0, kept), found) is None  # type: ignore[arg-type]


def test_every_type_has_its_letter(at: int) -> None:
    for kind in "fdlps":
        assert entry_type(make(at, mine(kind.encode(), kind, 0o777, link=b"x" if kind == "l" else None)).st_mode) == kind
        assert not needs_privilege(mine(b"x", kind))
    assert device_of(os.stat("/dev/null")) == (1, 3)
    assert entry_type(os.stat("/dev/null").st_mode) == "c"
