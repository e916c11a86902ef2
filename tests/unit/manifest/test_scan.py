# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Survey and scan: a run with a cache finds exactly what a run without one finds, whatever happened to the tree in between."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import UsageError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import scan as scan_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import survey as survey_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.cache import Cache, write_cache
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.changeset import diff
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest, content_line
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry, decode, encode
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.recall import recall
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.scan import Hashed, Scan, Staging, hash_changed, reread
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.selection import Selection, selects
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.survey import Survey, check_source, survey
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import Descent, Listed, list_directory, remove_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can do this")

# Long after every ctime of the test, so that no hash is too young to be trusted. A ctime cannot be set.
LATER = 120.0
EVERYTHING = Selection()


def header(sources: Sequence[bytes]) -> Header:
    return Header("host", "policy", tuple(os.fsdecode(b"/" + source) for source in sources), {}, "1.0.0", "2026-11-20T09:15:00Z")


Work = Callable[[], object]


class Host:
    """A directory that stands for ``/``, its sources, and the cache that runs leave behind."""

    def __init__(self, root: bytes, sources: Sequence[bytes] = (b"src",), selection: Selection = EVERYTHING) -> None:
        self.root = root
        self.sources = sorted(sources)
        self.selection = selection
        self.skip: "frozenset[Tuple[int, int]]" = frozenset()
        self.cache_file = root + b".cache"
        self.previous: Dict[bytes, Entry] = {}
        self.remembered: Optional[Manifest] = None  # what the cache was written with

    def survey(self, cache: Cache, later: float = LATER) -> Survey:
        with Descent(self.root) as root:
            return survey(self.sources, self.selection, cache, now=time.time() + later, root=root, skip=self.skip)

    def scan(self, cache: Cache, later: float = LATER, between: Callable[[], object] = lambda: None, **more: Any) -> "Tuple[Survey, Scan]":
        """A survey and a scan; ``between`` happens after the one and before the other."""
        with Descent(self.root) as root:
            now = time.time() + later
            found = survey(self.sources, self.selection, cache, now=now, root=root, skip=self.skip)
            between()
            return found, hash_changed(found, cache, root=root, now=now, **more).finish(lambda: self.previous)

    def hashed(self, later: float = LATER) -> "Tuple[int, bool]":
        """How many files a run with the cache reads, and whether they prove that nothing changed."""
        done = self.read(later)
        return done.hashed_files, done.proves_unchanged()

    def read(self, later: float = LATER) -> Hashed:
        """What a run with the cache knows before it makes entries."""
        with Descent(self.root) as root:
            now = time.time() + later
            return hash_changed(survey(self.sources, self.selection, self.cache(), now=now, root=root, skip=self.skip), self.cache(), root=root, now=now)

    def fresh(self, **more: Any) -> Scan:
        return self.scan(Cache(), **more)[1]

    def cache(self) -> Cache:
        return Cache.load(self.cache_file)

    def remember(self, done: Scan) -> Manifest:
        """Keep what a run found, as a backup does."""
        manifest = self.manifest(done)
        write_cache(self.cache_file, done.records, content_digest=manifest.content_digest if done.whole else "")
        self.remembered = manifest if done.whole else None
        return manifest

    def run(self, **more: Any) -> Scan:
        """One run with the cache, which it leaves up to date."""
        done = self.scan(self.cache(), **more)[1]
        self.remember(done)
        return done

    def manifest(self, done: Scan) -> Manifest:
        return Manifest(header(self.sources), done.lines, done.entries)

    def path(self, name: bytes) -> bytes:
        return self.root + b"/" + name

    def write(self, name: bytes, content: bytes = b"content", mtime: Optional[int] = None) -> bytes:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(content)
        if mtime is not None:
            os.utime(path, ns=(mtime, mtime))
        return path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    root = os.fsencode(tmp_path) + b"/root"
    os.makedirs(root + b"/src")
    return Host(root)


def tick() -> None:
    """Let the file system's clock go on, so that what is done now bears another ctime than what was done before."""
    time.sleep(0.012)


def by_path(done: Scan) -> Dict[bytes, Entry]:
    return {entry.path: entry for entry in done.entries}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def assert_whole(done: Scan) -> None:
    """The manifest that was made is one that will be read."""
    assert done.lines == [encode(entry) for entry in done.entries]
    assert decode(done.lines) == done.entries


# ---- what an entry says ------------------------------------------------------------------------------------------------------------------


def test_every_kind_of_path_is_described_as_lstat_and_its_bytes_are(host: Host) -> None:
    host.write(b"src/file", b"hello", -1_000_000_001)
    os.chmod(host.path(b"src/file"), 0o4751)
    os.makedirs(host.path(b"src/dir"), 0o700)
    os.utime(host.path(b"src/dir"), ns=(0, 4_200_000_000_123_456_789))
    os.symlink(b"../\xff nowhere\n", host.path(b"src/link"))
    os.mkfifo(host.path(b"src/fifo"), 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        with contextlib.chdir(host.path(b"src")):
            listener.bind(b"socket")
    os.setxattr(host.path(b"src/dir"), "user.note", b"\0\xff")
    done = host.fresh()
    assert_whole(done)
    entries = by_path(done)
    assert list(entries) == [b"src", b"src/dir", b"src/fifo", b"src/file", b"src/link", b"src/socket"]
    for path, entry in entries.items():
        found = os.lstat(host.path(path))
        assert (entry.mode, entry.uid, entry.gid) == (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
        assert entry.mtime == found.st_mtime_ns
    assert entries[b"src/file"][6:8] == (5, sha(b"hello"))
    assert entries[b"src/file"].mtime == -1_000_000_001
    assert entries[b"src/dir"].xattrs == ((b"user.note", b"\0\xff"),)
    assert entries[b"src/link"].link == b"../\xff nowhere\n"
    assert "".join(entry.type for entry in entries.values()) == "ddpfls"
    assert (done.hashed_files, done.hashed_bytes, done.vanished, dict(done.unreadable), list(done.rotten)) == (1, 5, 0, {}, [])


@needs_root
def test_devices_owners_and_privileged_attributes_are_kept(host: Host) -> None:
    host.write(b"src/file")
    os.chown(host.path(b"src/file"), 12345, 54321)
    os.symlink(b"file", host.path(b"src/link"))
    os.setxattr(host.path(b"src/link"), "trusted.note", b"on the link itself", follow_symlinks=False)
    os.setxattr(host.path(b"src/file"), "trusted.overlay.opaque", b"y")
    try:
        os.mknod(host.path(b"src/null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(host.path(b"src/block"), stat.S_IFBLK | 0o660, os.makedev(259, 1_000_000))
    except PermissionError:
        pytest.skip("this machine lets nobody make devices")
    done = host.fresh()
    assert_whole(done)
    entries = by_path(done)
    assert (entries[b"src/file"].uid, entries[b"src/file"].gid, entries[b"src/file"].xattrs) == (12345, 54321, ())
    assert entries[b"src/link"].xattrs == ((b"trusted.note", b"on the link itself"),)
    assert entries[b"src/null"].device == (1, 3)
    assert (entries[b"src/block"].type, entries[b"src/block"].device) == ("b", (259, 1_000_000))


def test_extended_attributes_are_sorted_by_bytes_so_that_the_line_is_canonical(host: Host) -> None:
    host.write(b"src/file")
    names = ["user.z", "user.\U0001f600", "user.\ufffd", "user.a", "user.\udcff", "user.\xe9"]
    try:
        for name in names:
            os.setxattr(host.path(b"src/file"), name, name.encode("utf-8", "surrogateescape"))
    except OSError:
        pytest.skip("the file system has no user attributes of any name")
    done = host.fresh()
    assert_whole(done)
    assert [name for name, _value in by_path(done)[b"src/file"].xattrs] == sorted(os.fsencode(name) for name in names)


def test_the_order_is_of_path_bytes_not_of_the_walk(host: Host) -> None:
    for name in (b"a/x", b"a-b", b"a.c", b"a0"):
        host.write(b"src/" + name)
    done = host.fresh()
    assert_whole(done)
    assert [entry.path for entry in done.entries] == [b"src", b"src/a", b"src/a-b", b"src/a.c", b"src/a/x", b"src/a0"]


def test_hard_links_are_one_group_under_the_first_path_and_hashed_once(host: Host) -> None:
    host.write(b"src/b/one", b"shared")
    os.makedirs(host.path(b"src/a"))
    os.link(host.path(b"src/b/one"), host.path(b"src/a/two"))
    os.link(host.path(b"src/b/one"), host.path(b"src/c"))
    os.mkfifo(host.path(b"src/p"))
    os.link(host.path(b"src/p"), host.path(b"src/q"))
    os.symlink(b"x", host.path(b"src/l"))
    os.link(host.path(b"src/l"), host.path(b"src/m"), follow_symlinks=False)
    host.write(b"outside")
    os.link(host.path(b"outside"), host.path(b"src/lonely"))
    done = host.fresh()
    assert_whole(done)
    assert {entry.path: entry.group for entry in done.entries if entry.group} == {
        b"src/a/two": b"src/a/two",
        b"src/b/one": b"src/a/two",
        b"src/c": b"src/a/two",
        b"src/p": b"src/p",
        b"src/q": b"src/p",
        b"src/l": b"src/l",
        b"src/m": b"src/l",
    }
    assert (done.hashed_files, done.hashed_bytes) == (2, 13)


def test_directories_above_a_source_are_entries_with_their_own_times(host: Host) -> None:
    host.write(b"a/b/src/file")
    host.write(b"a/not selected")
    os.utime(host.path(b"a"), ns=(0, 1_000_000_007))
    host.sources = [b"a/b/src"]
    done = host.fresh()
    assert_whole(done)
    entries = by_path(done)
    assert list(entries) == [b"a", b"a/b", b"a/b/src", b"a/b/src/file"]
    assert entries[b"a"].mtime == 1_000_000_007


def test_a_file_can_be_a_source(host: Host) -> None:
    host.write(b"etc/fstab", b"none")
    os.link(host.path(b"etc/fstab"), host.path(b"src/same"))
    host.sources = [b"etc/fstab", b"src"]
    done = host.run()
    assert_whole(done)
    assert by_path(done)[b"etc/fstab"].hash == sha(b"none")
    assert by_path(done)[b"src/same"].group == b"etc/fstab"
    assert host.survey(host.cache()).content_digest == host.manifest(done).content_digest
    host.write(b"etc/fstab", b"some")
    assert_same_as_fresh(host)


def test_the_root_itself_can_be_the_source(host: Host) -> None:
    host.write(b"etc/fstab")
    host.sources = [b""]
    done = host.run()
    assert_whole(done)
    assert [entry.path for entry in done.entries] == [b"etc", b"etc/fstab", b"src"]
    assert host.survey(host.cache()).content_digest == host.manifest(done).content_digest
    os.rmdir(host.path(b"src"))
    assert_same_as_fresh(host)


# ---- selection on the disk ---------------------------------------------------------------------------------------------------------------


def paths(host: Host) -> List[bytes]:
    done = host.fresh()
    assert_whole(done)
    return [entry.path for entry in done.entries]


def test_what_leads_to_an_included_path_is_kept_and_nothing_else(host: Host) -> None:
    for name in (b"a/b/c/deep.txt", b"a/other/x.bin", b"d/e.bin", b"keep/all/of.it", b"top.txt"):
        host.write(b"src/" + name)
    os.makedirs(host.path(b"src/empty"))
    host.selection = Selection(include=("*.txt", "/keep/"))
    assert paths(host) == [
        b"src",
        b"src/a",
        b"src/a/b",
        b"src/a/b/c",
        b"src/a/b/c/deep.txt",
        b"src/keep",
        b"src/keep/all",
        b"src/keep/all/of.it",
        b"src/top.txt",
    ]


def test_a_marked_directory_keeps_its_marker_alone(host: Host) -> None:
    for name in (b"cache/CACHEDIR.TAG", b"fake/CACHEDIR.TAG", b"skip/.nobackup", b"dir/.nobackup/x"):
        host.write(b"src/" + name, b"Signature: 8a477f597d28d172789f06886806bc55\n# rest" if name.startswith(b"cache") else b"Signature: 0")
        host.write(b"src/" + name.split(b"/")[0] + b"/content")
    os.makedirs(host.path(b"src/link"))
    os.symlink(b"../cache/CACHEDIR.TAG", host.path(b"src/link/CACHEDIR.TAG"))
    os.makedirs(host.path(b"src/pipe"))
    os.mkfifo(host.path(b"src/pipe/CACHEDIR.TAG"))
    host.selection = Selection(exclude_caches=True, exclude_if_present=(".nobackup",))
    assert paths(host) == [
        b"src",
        b"src/cache",
        b"src/cache/CACHEDIR.TAG",
        b"src/dir",
        b"src/dir/.nobackup",  # a directory is no marker
        b"src/dir/.nobackup/x",
        b"src/dir/content",
        b"src/fake",
        b"src/fake/CACHEDIR.TAG",
        b"src/fake/content",
        b"src/link",
        b"src/link/CACHEDIR.TAG",
        b"src/pipe",
        b"src/pipe/CACHEDIR.TAG",
        b"src/skip",
        b"src/skip/.nobackup",
    ]


def test_a_marker_is_no_reason_to_keep_what_is_excluded_or_not_included(host: Host) -> None:
    host.write(b"src/skip/.nobackup")
    host.write(b"src/skip/wanted.txt")
    host.selection = Selection(exclude=(".nobackup",), exclude_if_present=(".nobackup",))
    assert paths(host) == [b"src", b"src/skip"]
    host.selection = Selection(include=("*.txt",), exclude_if_present=(".nobackup",))
    assert paths(host) == [b"src"]


def test_a_directory_of_the_engine_itself_is_not_even_listed(host: Host) -> None:
    host.write(b"src/state/cache")
    host.write(b"src/file")
    found = os.stat(host.path(b"src/state"))
    host.skip = frozenset([(found.st_dev, found.st_ino)])
    assert paths(host) == [b"src", b"src/file"]


@contextlib.contextmanager
def mounted(path: bytes) -> Iterator[None]:
    if subprocess.run(["mount", "-t", "tmpfs", "none", path], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@needs_root
def test_another_file_system_is_an_empty_directory_where_one_is_asked_for(host: Host) -> None:
    os.makedirs(host.path(b"src/mnt"))
    with mounted(host.path(b"src/mnt")):
        host.write(b"src/mnt/inside")
        assert paths(host) == [b"src", b"src/mnt", b"src/mnt/inside"]
        host.selection = Selection(one_file_system=True)
        assert paths(host) == [b"src", b"src/mnt"]
        host.run()
        host.write(b"src/mnt/more")
        assert host.survey(host.cache()).counts[b"src/mnt"][0] == -1
        assert_same_as_fresh(host)
    assert_same_as_fresh(host)


def test_selects_says_by_name_what_the_walk_keeps(host: Host) -> None:
    for name in (b"a/b.txt", b"a/c", b"x/y/z", b"x/cache/q"):
        host.write(b"src/" + name)
    for selection in (Selection(), Selection(exclude=("cache/", "/a/c")), Selection(include=("*.txt", "/x/"), exclude=("q",))):
        host.selection = selection
        kept = {entry.path for entry in host.fresh().entries if entry.type != "d"}
        for path in (b"src/a/b.txt", b"src/a/c", b"src/x/y/z", b"src/x/cache/q"):
            assert selects(selection.matcher(), host.sources, path, False) == (path in kept)
        assert not selects(selection.matcher(), host.sources, b"elsewhere/a/b.txt", False)
        assert not selects(selection.matcher(), host.sources, b"src2/a/b.txt", False)


def test_counts_tell_which_directories_can_be_sent_as_a_whole(host: Host) -> None:
    for name in (b"all/x", b"all/y", b"all/sub/z", b"some/x", b"some/x.tmp"):
        host.write(b"src/" + name)
    os.mkfifo(host.path(b"src/all/fifo"))
    host.selection = Selection(exclude=("*.tmp",))
    counts = host.survey(Cache()).counts
    assert counts[b"src/all"] == (2, 1)
    assert counts[b"src/some"] == (-1, 0)
    assert counts[b"src"] == (0, 2)
    assert counts[b""][0] == -1


def test_a_symbolic_link_in_a_source_is_named_and_refused(host: Host) -> None:
    host.write(b"real/dir/file")
    os.symlink(b"real", host.path(b"link"))
    with Descent(host.root) as root:
        assert check_source(root, "/real/dir/file", "sources[0]") is not None
        assert check_source(root, "/", "sources[0]") is not None
        for absent in ("/none", "/real/none/x", "/real/dir/file/x"):
            assert check_source(root, absent, "sources[0]") is None
        for linked in ("/link", "/link/dir"):
            with pytest.raises(UsageError) as caught:
                check_source(root, linked, "sources[0]")
            assert caught.value.field == "sources[0]"
            assert "/link is a symbolic link" in str(caught.value)


def test_names_and_paths_that_no_manifest_can_hold_are_reported_not_written(host: Host) -> None:
    with Descent(host.path(b"src")) as root:
        name = b"n" * 250
        deep = b"/".join([name] * 261)  # with "src/" a few bytes less than a manifest allows
        at = root.directory(deep, create=0o700)
        os.mkdir(b"m" * 200, dir_fd=at)
        os.close(os.open(b"short", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
    found, done = host.scan(Cache())
    assert_whole(done)
    assert list(found.unreadable.values()) == [errno.ENAMETOOLONG]
    assert done.entries[-1].path == b"src/" + deep + b"/short"


# ---- the cache never hides a change ------------------------------------------------------------------------------------------------------


def assert_same_as_fresh(host: Host) -> None:
    """A run with the cache finds what a run without one finds; if it says that nothing changed, that is so. Leaves the cache up to date."""
    fresh = host.fresh()
    assert_whole(fresh)
    expected = host.manifest(fresh)
    cache = host.cache()
    found, done = host.scan(cache)
    assert_recalled(host, recall(cache, found.folders, host.manifest(done)))
    if host.hashed()[1]:
        assert cache.content_digest == expected.content_digest
    if host.read().shows_change():
        assert cache.content_digest != expected.content_digest
    assert [line for line in done.lines if line not in fresh.lines] == []
    assert [line for line in fresh.lines if line not in done.lines] == []
    assert done.lines == fresh.lines
    assert dict(done.unreadable) == dict(fresh.unreadable)
    assert found.entries == len(fresh.entries) or fresh.unreadable
    assert found.content_digest in ("", expected.content_digest)
    host.remember(done)
    if not done.unreadable:
        assert host.survey(host.cache()).content_digest == expected.content_digest, "a second look must know that nothing changed"


def assert_recalled(host: Host, recalled: Optional[Manifest]) -> None:
    """What the cache tells of the run before is what that one found, times of directories aside."""
    if recalled is not None:
        assert host.remembered is not None
        assert list(map(content_line, recalled.lines)) == list(map(content_line, host.remembered.lines))
        decode(recalled.lines)  # in order, and whole


def assert_noticed(host: Host, change: Callable[[], object]) -> None:
    before = host.manifest(host.run())
    tick()
    change()
    assert host.survey(host.cache()).content_digest == ""
    assert_same_as_fresh(host)
    assert host.manifest(host.fresh()).content_digest != before.content_digest


def _edit_in_place(path: bytes) -> None:
    found = os.stat(path)
    with open(path, "r+b") as stream:
        stream.write(b"X")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _break_link(path: bytes) -> None:
    found = os.stat(path)
    shutil.copyfile(path, path + b".new")
    os.chmod(path + b".new", stat.S_IMODE(found.st_mode))
    os.utime(path + b".new", ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(path + b".new", path)


def _retarget(path: bytes) -> None:
    found = os.lstat(path)
    os.unlink(path)
    os.symlink(b"fire", path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def _swap(one: bytes, other: bytes) -> None:
    os.rename(one, one + b".swap")
    os.rename(other, one)
    os.rename(one + b".swap", other)


def acl(*entries: Tuple[int, int, int]) -> bytes:
    """The kernel's form of an ACL: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
FILE_ACL = acl((1, 6, NOBODY), (2, 4, 12345), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 4, NOBODY))
DIRECTORY_ACL = acl((1, 7, NOBODY), (2, 5, 12345), (4, 5, NOBODY), (0x10, 5, NOBODY), (0x20, 5, NOBODY))

CHANGES: Dict[str, Callable[[bytes], object]] = {
    "same size and mtime, other bytes": lambda src: _edit_in_place(src + b"/file"),
    "same size and mtime, other bytes, deep down": lambda src: _edit_in_place(src + b"/d/e/deep"),
    "a longer file": lambda src: open(src + b"/d/x", "ab").write(b"more"),
    "an emptied file": lambda src: os.truncate(src + b"/d/x", 0),
    "the mode of a file": lambda src: os.chmod(src + b"/file", 0o600),
    "the mode of a directory": lambda src: os.chmod(src + b"/d", 0o750),
    "the mode of a FIFO": lambda src: os.chmod(src + b"/fifo", 0o600),
    "the mtime of a file": lambda src: os.utime(src + b"/file", ns=(5, 5)),
    "the mtime of a link": lambda src: os.utime(src + b"/link", ns=(5, 5), follow_symlinks=False),
    "a new file": lambda src: open(src + b"/d/new", "wb").close(),
    "a new empty directory": lambda src: os.mkdir(src + b"/d/new"),
    "a new FIFO": lambda src: os.mkfifo(src + b"/d/new"),
    "a file that is gone": lambda src: os.unlink(src + b"/d/x"),
    "a directory that is gone": lambda src: os.rmdir(src + b"/empty"),
    "a subtree that is gone": lambda src: shutil.rmtree(src + b"/d"),
    "a renamed file": lambda src: os.rename(src + b"/file", src + b"/elif"),
    "a renamed directory": lambda src: os.rename(src + b"/d", src + b"/dd"),
    "a file moved elsewhere": lambda src: os.rename(src + b"/d/x", src + b"/empty/x"),
    "two files swapped": lambda src: _swap(src + b"/file", src + b"/elsewhere"),
    "two directories swapped": lambda src: _swap(src + b"/d", src + b"/empty"),
    "a link to another place": lambda src: _retarget(src + b"/link"),
    "a directory in place of a file": lambda src: (os.unlink(src + b"/file"), os.mkdir(src + b"/file")),
    "a file in place of a directory": lambda src: (os.rmdir(src + b"/empty"), open(src + b"/empty", "wb").close()),
    "a link in place of a file": lambda src: (os.unlink(src + b"/file"), os.symlink(b"d/x", src + b"/file")),
    "a link in place of a directory": lambda src: (os.rename(src + b"/d", src + b"/dd"), os.symlink(b"dd", src + b"/d")),
    "one more hard link": lambda src: os.link(src + b"/d/x", src + b"/zz"),
    "one more hard link that comes first": lambda src: os.link(src + b"/d/x", src + b"/0"),
    "a hard link fewer": lambda src: os.unlink(src + b"/h2"),
    "the first hard link gone": lambda src: os.unlink(src + b"/h1"),
    "a hard link that became a copy": lambda src: _break_link(src + b"/h2"),
    "the first hard link became a copy": lambda src: _break_link(src + b"/h1"),
    "the content of a group": lambda src: _edit_in_place(src + b"/h3"),
    "a renamed hard link": lambda src: os.rename(src + b"/h1", src + b"/h9"),
    "an attribute of a file": lambda src: os.setxattr(src + b"/file", "user.note", b"1"),
    "an attribute of a directory": lambda src: os.setxattr(src + b"/empty", "user.note", b"1"),
    "an attribute of the source": lambda src: os.setxattr(src, "user.note", b"1"),
    "an attribute's value": lambda src: os.setxattr(src + b"/marked", "user.mark", b"2"),
    "an attribute that is gone": lambda src: os.removexattr(src + b"/marked", "user.mark"),
    "an attribute of a group": lambda src: os.setxattr(src + b"/h2", "user.note", b"1"),
    "an ACL of a file": lambda src: os.setxattr(src + b"/file", "system.posix_acl_access", FILE_ACL),
    "a default ACL of a directory": lambda src: os.setxattr(src + b"/empty", "system.posix_acl_default", DIRECTORY_ACL),
    "the mode of a directory above": lambda src: os.chmod(os.path.dirname(src), 0o711),
    "a default ACL of a directory above": lambda src: os.setxattr(os.path.dirname(src), "system.posix_acl_default", DIRECTORY_ACL),
}
CHANGES_OF_ROOT: Dict[str, Callable[[bytes], object]] = {
    "the owner of a file": lambda src: os.chown(src + b"/file", 7, -1),
    "the group of a directory": lambda src: os.chown(src + b"/d/e", -1, 7),
    "the owner of a link": lambda src: os.chown(src + b"/link", 7, 7, follow_symlinks=False),
    "an attribute of a link": lambda src: os.setxattr(src + b"/link", "trusted.note", b"1", follow_symlinks=False),
    "an attribute of a FIFO": lambda src: os.setxattr(src + b"/fifo", "trusted.note", b"1"),
}
if IS_ROOT:
    CHANGES.update(CHANGES_OF_ROOT)


def furnish(host: Host) -> bytes:
    host.sources = [b"above/src"]
    src = host.path(b"above/src")
    for name in (b"file", b"elsewhere", b"d/x", b"d/e/deep", b"h1", b"marked"):
        host.write(b"above/src/" + name, (name * 10)[:10], 1_700_000_000_123_456_789)
    os.mkdir(src + b"/empty")
    os.symlink(b"file", src + b"/link")
    os.mkfifo(src + b"/fifo", 0o644)
    os.link(src + b"/h1", src + b"/h2")
    os.link(src + b"/h1", src + b"/h3")
    os.setxattr(src + b"/marked", "user.mark", b"1")
    return src


@pytest.mark.parametrize("change", CHANGES)
def test_no_single_change_goes_unnoticed(host: Host, change: str) -> None:
    src = furnish(host)
    assert_noticed(host, lambda: CHANGES[change](src))


# Of these the cache does not keep enough: where a link led, an attribute's value, who else was in a group.
NOT_RECALLED = {
    "the mode of a FIFO",
    "the mtime of a link",
    "a link to another place",
    "a hard link fewer",
    "the first hard link gone",
    "a hard link that became a copy",
    "the first hard link became a copy",
    "the content of a group",
    "a renamed hard link",
    "an attribute's value",
    "an attribute that is gone",
    "an attribute of a group",
    "the owner of a link",
    "an attribute of a link",
    "an attribute of a FIFO",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_before_a_change_is_recalled_from_the_cache(host: Host, change: str) -> None:
    src = furnish(host)
    before = host.remember(host.fresh())
    tick()
    CHANGES[change](src)
    cache = host.cache()
    found, done = host.scan(cache)
    after = host.manifest(done)
    recalled = recall(cache, found.folders, after)
    assert_recalled(host, recalled)
    assert (recalled is None) == (change in NOT_RECALLED)
    if recalled is not None:
        changed, another = diff(before, after), diff(recalled, after)
        assert (another.counts(), another.added, another.modified) == (changed.counts(), changed.added, changed.modified)


def test_a_cache_of_a_run_that_could_not_read_everything_recalls_nothing(host: Host) -> None:
    host.write(b"src/file")
    done = host.fresh()
    write_cache(host.cache_file, done.records, content_digest="")
    found, done = host.scan(host.cache())
    assert recall(host.cache(), found.folders, host.manifest(done)) is None


def test_a_cache_that_says_of_itself_what_is_not_so_recalls_nothing(host: Host) -> None:
    host.write(b"src/file")
    done = host.fresh()
    write_cache(host.cache_file, done.records, content_digest=sha(b"another manifest"))
    found, done = host.scan(host.cache())
    assert recall(host.cache(), found.folders, host.manifest(done)) is None


YOUNG_CHANGES = [name for name in CHANGES if not any(word in name for word in ("link", "attribute", "group"))]


@pytest.mark.parametrize("change", YOUNG_CHANGES)
def test_young_files_are_read_again_and_prove_that_nothing_changed(host: Host, change: str) -> None:
    src = furnish(host)
    for name in (b"link", b"marked", b"h1", b"h2", b"h3"):
        os.unlink(src + b"/" + name)
    before = host.remember(host.scan(Cache(), later=0)[1])
    assert host.hashed(later=0) == (4, True)
    tick()
    CHANGES[change](src)
    assert not host.hashed(later=0)[1]
    assert host.manifest(host.fresh()).content_digest != before.content_digest


@pytest.mark.parametrize("later", [0, LATER])
@pytest.mark.parametrize("change", ["content", "new", "gone", "time", "another inode", "nothing"])
def test_another_name_or_content_is_seen_before_entries_are_made(host: Host, change: str, later: float) -> None:
    path = host.write(b"src/below/file", b"as it was")
    os.link(path, host.path(b"src/linked"))
    host.remember(host.scan(Cache(), later=later)[1])
    tick()
    if change == "content":
        host.write(b"src/below/file", b"as it is ")
    elif change == "new":
        host.write(b"src/below/new")
    elif change == "gone":
        os.unlink(path)
    elif change == "time":
        os.utime(path, ns=(0, 0))
    elif change == "another inode":
        os.rename(path, path + b".old")
        host.write(b"src/below/file", b"as it was")
        shutil.copystat(path + b".old", path)
        os.unlink(path + b".old")
    assert host.read(later).shows_change() is (change in ("content", "new", "gone"))


@pytest.mark.parametrize("odd", ["link", "attribute"])
def test_where_a_young_link_leads_and_what_a_young_attribute_says_is_not_proven(host: Host, odd: str) -> None:
    host.write(b"src/file")
    if odd == "link":
        os.symlink(b"file", host.path(b"src/link"))
    else:
        os.setxattr(host.path(b"src/file"), "user.note", b"1")
    host.remember(host.scan(Cache(), later=0)[1])
    assert not host.hashed(later=0)[1]
    host.run()
    assert host.hashed() == (0, True)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE, errno.EINVAL])
def test_a_link_that_is_away_for_a_moment_is_looked_for_again(host: Host, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    host.write(b"src/file")
    os.symlink(b"file", host.path(b"src/link"))
    before = host.remember(host.fresh())
    host.write(b"src/file", b"changed")

    def away(*_args: Any, **_options: Any) -> bytes:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(scan_module.os, "readlink", away)
        done = host.run()
    assert b"src/link" not in by_path(done) and not done.whole and done.vanished == 1
    assert host.survey(host.cache()).content_digest == "" and not host.hashed()[1]
    assert by_path(host.run())[b"src/link"] == before.by_path()[b"src/link"]
    assert host.hashed() == (0, True)


def test_attributes_that_are_away_for_a_moment_are_looked_for_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = host.write(b"src/marked")
    os.setxattr(path, "user.note", b"1")
    host.remember(host.fresh())
    host.write(b"src/other")

    def away(*_args: Any, **_options: Any) -> bytes:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "read_xattrs", away)
        done = host.scan(host.cache())[1]
    assert not done.whole
    host.remember(done)
    assert by_path(host.run())[b"src/marked"].xattrs == ((b"user.note", b"1"),)


def test_nothing_is_read_again_when_nothing_changed(host: Host) -> None:
    furnish(host)
    first = host.run()
    found, done = host.scan(host.cache())
    assert found.content_digest == host.manifest(first).content_digest
    assert all(folder.known is not None for folder in found.folders)
    assert (done.hashed_files, done.lines) == (0, first.lines)


def test_one_changed_file_is_the_only_one_read_again(host: Host) -> None:
    src = furnish(host)
    host.run()
    tick()
    _edit_in_place(src + b"/d/x")
    assert host.scan(host.cache())[1].hashed_files == 1


def test_a_busy_directory_above_a_source_is_no_change(host: Host) -> None:
    furnish(host)
    host.run()
    tick()
    host.write(b"above/unrelated")
    assert host.survey(host.cache()).content_digest
    assert_same_as_fresh(host)


def test_a_directory_entered_for_nothing_is_dropped_although_the_cache_knows_its_parent(host: Host) -> None:
    host.selection = Selection(include=("*.txt",))
    host.write(b"src/a/b/c/x.txt")
    host.write(b"src/a/b/c/y.bin")
    host.run()
    tick()
    os.rename(host.path(b"src/a/b/c/x.txt"), host.path(b"src/a/b/c/x.bin"))
    assert_same_as_fresh(host)
    assert [entry.path for entry in host.run().entries] == [b"src"]
    os.rename(host.path(b"src/a/b/c/x.bin"), host.path(b"src/a/b/c/x.txt"))
    assert_same_as_fresh(host)


def test_a_changed_selection_is_no_change_of_what_stays_selected(host: Host) -> None:
    src = furnish(host)
    host.write(b"above/src/h0.tmp")
    os.link(src + b"/h1", src + b"/0.tmp")
    for selection in (Selection(), Selection(exclude=("*.tmp",)), Selection(include=("/d/", "h?")), Selection(include=("/d/e/",)), Selection()):
        host.selection = selection
        assert_same_as_fresh(host)
    host.selection = Selection(exclude=("h?",))
    assert_same_as_fresh(host)
    assert host.scan(host.cache())[1].hashed_files == 0


def test_sources_that_come_and_go_are_noticed(host: Host) -> None:
    for name in (b"a/x", b"b/c/y", b"b/d/z"):
        host.write(name)
    for sources in ([b"a"], [b"a", b"b/c"], [b"b/c", b"b/d"], [b"b"], [b"a", b"b"], [b""], [b"a/x", b"b/c"]):
        host.sources = sources
        assert_same_as_fresh(host)


def test_a_young_hash_is_not_trusted(host: Host) -> None:
    path = host.write(b"src/file", b"one", 1_000_000_000)
    host.run(later=0)
    assert host.survey(host.cache(), later=LATER).content_digest == "", "it changed less than a minute before it was hashed"
    os.chmod(path, 0o600)
    assert host.scan(host.cache(), later=LATER)[1].hashed_files == 1
    host.run(later=59)
    assert not host.survey(host.cache(), later=LATER).content_digest
    host.run(later=LATER)
    assert host.survey(host.cache(), later=2 * LATER).content_digest
    os.utime(path, ns=(0, int((time.time() + 3 * LATER) * 10**9)))
    host.run(later=2 * LATER)
    assert not host.survey(host.cache(), later=2 * LATER).content_digest, "a clock that was put back proves nothing"


def test_what_a_young_directory_or_link_bears_is_not_trusted_either(host: Host) -> None:
    os.mkdir(host.path(b"src/d"))
    host.run(later=0)
    # Within one tick of the clock an attribute can be set without a trace in the ctime; the cache must not depend on the trace.
    cache = host.cache()
    assert not host.survey(cache, later=LATER).content_digest
    host.run(later=LATER)
    assert host.survey(host.cache(), later=2 * LATER).content_digest


def test_a_volatile_file_system_is_hashed_anew_every_day(tmp_path: Path) -> None:
    if not os.path.isdir("/dev/shm") or b" /dev/shm tmpfs " not in Path("/proc/mounts").read_bytes():
        pytest.skip("needs a tmpfs at /dev/shm")
    directory = os.fsencode(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        for sources in ([b"src"], [b"src/file"]):
            host = Host(directory + b"/root", sources)
            host.cache_file = os.fsencode(tmp_path) + b"/cache"
            host.write(b"src/file", b"1234")
            host.run()
            assert host.survey(host.cache(), later=LATER + 86000).content_digest
            assert host.survey(host.cache(), later=LATER + 86401).content_digest == ""
            assert host.survey(host.cache(), later=LATER - 100).content_digest == "", "hashed in the future"
            assert host.scan(host.cache(), later=LATER + 86401)[1].hashed_files == 1
    finally:
        shutil.rmtree(directory)


def test_rot_under_an_unchanged_stat_is_found_where_it_is_looked_for(host: Host) -> None:
    src = furnish(host)
    done = host.run()
    cache = host.cache()
    bad = src + b"/d/x"
    # No ordinary call changes bytes and leaves the ctime: let the cache remember other bytes instead.
    for position, record in enumerate(done.records):
        if record.path == b"above/src/d":
            index = record.split_names().index(b"x")
            slots = record.slots[: index * 32] + bytes(32) + record.slots[index * 32 + 32 :]
            done.records[position] = record._replace(slots=slots)
    host.remember(done)
    tick()
    assert not host.scan(host.cache())[1].rotten
    asked: List[bytes] = []
    found, checked = host.scan(host.cache(), distrust=lambda path: asked.append(path) is None)
    assert list(checked.rotten) == [b"above/src/d/x"]
    assert by_path(checked)[b"above/src/d/x"].hash == sha(Path(os.fsdecode(bad)).read_bytes())
    assert checked.hashed_files == 6, "every file, a group of hard links once"
    assert len(cache) == len(found.folders)


def test_a_file_that_is_written_while_it_is_checked_is_not_rotten(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = host.write(b"src/file", b"one", 1_000_000_000)
    host.run()
    tick()
    real = scan_module.hash_file

    def disturb_and_hash(fd: int, **options: Any) -> Tuple[bytes, int]:
        with open(path, "wb") as stream:
            stream.write(b"two")
        return real(fd)

    monkeypatch.setattr(scan_module, "hash_file", disturb_and_hash)
    checked = host.scan(host.cache(), distrust=lambda path: True)[1]
    assert (checked.hashed_files, list(checked.rotten)) == (1, [])


# ---- trees at random ---------------------------------------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"a-b", b"a.b", b"-n", b"new\nline", b"\xff\xfe", b"caf\xc3\xa9", b"\xed\xa0\x80", b"x" * 255, b" ", b'"\\', b"x.txt"]),
    st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0")).filter(lambda name: name not in (b".", b"..")),
)
PAST = st.integers(-(10**18), 17 * 10**17)
TIMES = st.one_of(st.sampled_from([0, -1, 1, -(2**31) * 10**9, 4_200_000_000_123_456_789]), PAST)


class Step(NamedTuple):
    """Something done to a tree: ``which`` and ``other`` choose among the paths it has."""

    verb: str
    which: int
    other: int
    name: bytes
    time: int


VERBS = [
    "file", "file", "file", "directory", "directory", "symlink", "fifo", "link", "link", "empty",
    "edit", "append", "chmod", "touch", "rename", "rename", "remove", "retarget", "copy over", "xattr", "unxattr", "acl", "swap",
    "to file", "to directory", "mark", "tag", "untag",
]  # fmt: skip
STEPS = st.builds(Step, st.sampled_from(VERBS), st.integers(0, 40), st.integers(0, 40), NAMES, PAST)
SELECTIONS = st.builds(
    Selection,
    include=st.sampled_from([(), (), (), ("*.txt",), ("/a/", "b"), ("/a/b/c",), ("/a/**", "x.txt")]),
    exclude=st.sampled_from([(), (), (), ("*.txt",), ("b/",), ("/a/*", "-n"), (".nobackup",)]),
    exclude_caches=st.booleans(),
    exclude_if_present=st.sampled_from([(), (".nobackup",), (".nobackup", "x.txt")]),
    one_file_system=st.booleans(),
)


class Garden:
    """A tree that grows by steps; a step that the system refuses changes nothing."""

    def __init__(self, root: bytes) -> None:
        self.root = root

    def listed(self, kinds: str = "dflp") -> List[bytes]:
        found = [self.root] if "d" in kinds else []
        for at, directories, files in os.walk(self.root):
            for name in sorted(directories + files):
                path = os.path.join(at, name)
                mode = os.lstat(path).st_mode
                kind = "d" if stat.S_ISDIR(mode) else "l" if stat.S_ISLNK(mode) else "p" if stat.S_ISFIFO(mode) else "f"
                if kind in kinds:
                    found.append(path)
        return found

    def take(self, step: Step) -> None:
        with contextlib.suppress(OSError, IndexError, ZeroDivisionError):
            self._take(step)

    def _take(self, step: Step) -> None:
        verb, which, other, name, at = step
        parents = self.listed("d")
        parent = parents[which % len(parents)]
        new = parent + b"/" + name
        everything = self.listed()[1:]
        files = self.listed("f")
        if verb == "file":
            fd = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, b"%d" % at)
            os.close(fd)
            os.utime(new, ns=(at, at))
        elif verb in ("directory", "empty"):
            os.mkdir(new)
        elif verb == "symlink":
            os.symlink(name[::-1], new)
        elif verb == "fifo":
            os.mkfifo(new)
        elif verb == "link":
            kinds = self.listed("flp")
            os.link(kinds[other % len(kinds)], new, follow_symlinks=False)
        elif verb == "edit":
            path = files[other % len(files)]
            found = os.stat(path)
            os.truncate(path, 0)
            with open(path, "r+b") as stream:
                stream.write(bytes([65 + which]) * found.st_size)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        elif verb == "append":
            with open(files[other % len(files)], "ab") as stream:
                stream.write(name)
        elif verb == "chmod":
            os.chmod(everything[other % len(everything)], 0o700 | which)
        elif verb == "touch":
            os.utime(everything[other % len(everything)], ns=(at, at), follow_symlinks=False)
        elif verb == "rename":
            os.rename(everything[other % len(everything)], new)
        elif verb == "remove":
            victim = everything[other % len(everything)]
            shutil.rmtree(victim) if os.path.isdir(victim) and not os.path.islink(victim) else os.unlink(victim)
        elif verb == "retarget":
            path = self.listed("l")[other % len(self.listed("l"))]
            target, found = os.readlink(path), os.lstat(path)
            os.unlink(path)
            os.symlink(target[:-1] + b"!", path)
            os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns), follow_symlinks=False)
        elif verb == "copy over":
            _break_link(files[other % len(files)])
        elif verb == "xattr":
            os.setxattr(everything[other % len(everything)], "trusted.t" if which % 2 and IS_ROOT else "user.t", name[:10], follow_symlinks=False)
        elif verb == "unxattr":
            os.removexattr(everything[other % len(everything)], "user.t", follow_symlinks=False)
        elif verb == "acl":
            os.setxattr(parents[other % len(parents)], "system.posix_acl_default", DIRECTORY_ACL)
        elif verb == "swap":
            _swap(everything[which % len(everything)], everything[other % len(everything)])
        elif verb == "to file":
            shutil.rmtree(parents[1:][other % len(parents[1:])])
            with open(parents[1:][other % len(parents[1:])], "wb") as stream:
                stream.write(name)
        elif verb == "to directory":
            os.unlink(files[other % len(files)])
            os.mkdir(files[other % len(files)])
        elif verb == "mark":
            with open(parent + b"/.nobackup", "xb"):
                pass
        elif verb == "tag":
            with open(parent + b"/CACHEDIR.TAG", "wb") as stream:
                stream.write(b"Signature: 8a477f597d28d172789f06886806bc55")
        elif verb == "untag":
            path = parent + b"/CACHEDIR.TAG"
            found = os.stat(path)
            with open(path, "r+b") as stream:
                stream.write(b"signature")
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@contextlib.contextmanager
def temporary_host() -> Iterator[Host]:
    # Not below pytest's directory, whose names would be the examples' as well.
    directory = tempfile.mkdtemp()
    try:
        os.makedirs(directory + "/root/src")
        yield Host(os.fsencode(directory) + b"/root")
    finally:
        fd = os.open(os.path.dirname(directory), os.O_RDONLY | os.O_DIRECTORY)
        remove_tree(fd, os.fsencode(os.path.basename(directory)))
        os.close(fd)


QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


@QUICK
@given(
    planted=st.lists(STEPS, max_size=25),
    rounds=st.lists(st.tuples(SELECTIONS, st.lists(STEPS, max_size=4)), min_size=1, max_size=4),
    sources=st.sampled_from([[b"src"], [b"src"], [b""], [b"src/a", b"src/b"], [b"src/a/b"]]),
    skip=st.booleans(),
)
def test_a_run_with_the_cache_equals_a_run_without(planted: List[Step], rounds: List[Tuple[Selection, List[Step]]], sources: List[bytes], skip: bool) -> None:
    with temporary_host() as host:
        host.sources = sources
        garden = Garden(host.path(b"src"))
        for name in (b"a", b"a/b", b"b"):
            os.mkdir(garden.root + b"/" + name)
        for step in planted:
            garden.take(step)
        if skip:
            found = os.stat(max(garden.listed("d")))
            host.skip = frozenset([(found.st_dev, found.st_ino)])
        for selection, steps in rounds:
            host.selection = selection
            if all(os.path.lexists(host.path(source)) for source in sources):
                assert_same_as_fresh(host)
            tick()
            for step in steps:
                garden.take(step)
            if all(os.path.lexists(host.path(source)) for source in sources):
                assert_same_as_fresh(host)


@QUICK
@given(planted=st.lists(STEPS, max_size=15), steps=st.lists(STEPS, max_size=2))
def test_what_young_files_prove_is_so_within_one_tick_of_the_clock(planted: List[Step], steps: List[Step]) -> None:
    with temporary_host() as host:
        garden = Garden(host.path(b"src"))
        for step in planted:
            garden.take(step)
        before = host.remember(host.scan(Cache(), later=0)[1])
        for step in steps:
            garden.take(step)
        if os.path.isdir(garden.root) and host.hashed(later=0)[1]:
            assert host.manifest(host.fresh()).content_digest == before.content_digest


@QUICK
@given(
    planted=st.lists(
        st.builds(Step, st.sampled_from(VERBS[:10] + ["touch", "chmod", "xattr"]), st.integers(0, 9), st.integers(0, 9), NAMES, TIMES), max_size=30
    )
)
def test_a_real_tree_survives_the_way_through_a_manifest(planted: List[Step]) -> None:
    with temporary_host() as host:
        garden = Garden(host.path(b"src"))
        for step in planted:
            garden.take(step)
        done = host.fresh()
        assert_whole(done)
        manifest = host.manifest(done)
        packed = manifest.to_bytes()
        parsed = Manifest.from_bytes(packed)
        assert parsed == manifest
        assert list(parsed.entries) == done.entries
        assert (parsed.digest, parsed.content_digest) == (manifest.digest, manifest.content_digest)
        again = Manifest.from_entries(parsed.header, reversed(parsed.entries))
        assert again.to_bytes() == packed
        assert {host.path(path) for path in manifest.by_path()} == set(garden.listed())
        for entry in done.entries:
            found = os.lstat(host.path(entry.path))
            assert (entry.mtime, entry.mode) == (found.st_mtime_ns, stat.S_IMODE(found.st_mode))
            if entry.type == "f":
                with open(host.path(entry.path), "rb") as stream:
                    assert sha(stream.read()) == entry.hash


# ---- what cannot be read -----------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_keeps_its_previous_entry_marked_stale(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        for name in (b"secret", b"d/e/x", b"d/y", b"fine"):
            host.write(b"src/" + name, b"old")
        os.link(host.path(b"src/fine"), host.path(b"src/d/linked"))
        os.link(host.path(b"src/d/y"), host.path(b"src/d/z"))
        first = host.run()
        assert_whole(first)
        host.previous = by_path(first)
        tick()
        host.write(b"src/new but closed", b"never seen")
        os.chmod(host.path(b"src/new but closed"), 0)
        os.chmod(host.path(b"src/secret"), 0)
        os.chmod(host.path(b"src/d"), 0)
        host.write(b"src/fine", b"new")
        assert_same_as_fresh(host)
        done = host.run()
        assert_whole(done)
        entries = by_path(done)
        assert dict(done.unreadable) == {b"src/d": errno.EACCES, b"src/new but closed": errno.EACCES, b"src/secret": errno.EACCES}
        assert sorted(path for path, entry in entries.items() if entry.stale) == [
            b"src/d/e",
            b"src/d/e/x",
            b"src/d/linked",
            b"src/d/y",
            b"src/d/z",
            b"src/secret",
        ]
        assert entries[b"src/secret"] == host.previous[b"src/secret"]._replace(stale=True)
        assert entries[b"src/d"].mode == 0
        assert b"src/new but closed" not in entries
        assert (entries[b"src/fine"].hash, entries[b"src/d/linked"].hash) == (sha(b"new"), sha(b"old"))
        assert (entries[b"src/fine"].group, entries[b"src/d/linked"].group) == (None, None), "they differ now"
        assert entries[b"src/d/z"].group == b"src/d/y"
        # What could not be read must not look unchanged.
        assert host.survey(host.cache()).content_digest == ""
        host.previous = entries
        again = host.run()
        assert again.lines == done.lines
        os.chmod(host.path(b"src/d"), 0o755)
        os.chmod(host.path(b"src/secret"), 0o644)
        os.unlink(host.path(b"src/new but closed"))
        assert_same_as_fresh(host)
        assert not any(entry.stale for entry in host.run().entries)

    as_ordinary_user(work)


def test_a_run_with_the_cache_equals_a_run_without_where_much_cannot_be_read(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        dice = random.Random(11)
        verbs = [verb for verb in VERBS if verb != "acl"]  # what it grants depends on who runs this
        garden = Garden(host.path(b"src"))
        stale = 0
        for _ in range(40):
            for _ in range(dice.randrange(12)):
                step = Step(dice.choice(verbs), dice.randrange(40), dice.randrange(40), dice.choice([b"a", b"b", b"c", b"x.txt"]), 10**18 + dice.randrange(99))
                with contextlib.suppress(shutil.Error):
                    garden.take(step)
            host.selection = dice.choice([Selection(), Selection(), Selection(include=("*.txt", "a")), Selection(exclude=("b",))])
            assert_same_as_fresh(host)
            host.previous = by_path(host.run())
            tick()
            closed = [path for path in garden.listed("df") if dice.random() < 0.2 and path != garden.root]
            for path in reversed(closed):
                os.chmod(path, dice.choice([0, 0o111, 0o444, 0o200]))
            assert_same_as_fresh(host)
            done = host.run()
            assert_whole(done)
            stale += sum(1 for entry in done.entries if entry.stale)
            host.previous = by_path(done)
            assert_same_as_fresh(host)
            for path in closed:
                os.chmod(path, 0o755)
        assert stale > 20

    as_ordinary_user(work)


def test_a_directory_that_may_be_listed_but_not_entered_is_unreadable(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        host.write(b"src/d/x")
        host.previous = by_path(host.run())
        os.chmod(host.path(b"src/d"), 0o444)
        done = host.run()
        assert_whole(done)
        assert dict(done.unreadable) == {b"src/d": errno.EACCES}
        assert by_path(done)[b"src/d/x"].stale

    as_ordinary_user(work)


def test_a_source_that_cannot_be_read_is_reported_not_taken_for_empty(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        host.write(b"src/a/x")
        host.write(b"src/b/y")
        host.sources = [b"src/a", b"src/b"]
        host.previous = by_path(host.run())
        os.chmod(host.path(b"src/a"), 0)
        done = host.run()
        assert_whole(done)
        assert dict(done.unreadable) == {b"src/a": errno.EACCES}
        assert by_path(done)[b"src/a/x"].stale
        assert not by_path(done)[b"src/b/y"].stale

    as_ordinary_user(work)


def test_a_directory_above_a_source_need_not_be_readable(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        host.write(b"src/home/me/x")
        host.sources = [b"src/home/me"]
        os.chmod(host.path(b"src/home"), 0o311)
        with Descent(host.root) as root:
            assert check_source(root, "/src/home/me", "sources[0]") is not None
        assert_same_as_fresh(host)
        assert b"src/home/me/x" in by_path(host.run())
        os.chmod(host.path(b"src/home"), 0)
        with Descent(host.root) as root, pytest.raises(PermissionError) as caught:
            check_source(root, "/src/home/me", "sources[0]")
        assert caught.value.filename == b"/src/home/me"
        with pytest.raises(PermissionError):
            host.run()

    as_ordinary_user(work)


def test_stale_entries_obey_the_selection_of_today(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        for name in (b"d/a.txt", b"d/e/f/b.txt", b"d/e/c.bin", b"d/g/h"):
            host.write(b"src/" + name)
        host.previous = by_path(host.run())
        os.chmod(host.path(b"src/d"), 0)
        host.selection = Selection(exclude=("g/", "a.*"))
        done = host.run()
        assert_whole(done)
        assert [entry.path for entry in done.entries] == [b"src", b"src/d", b"src/d/e", b"src/d/e/c.bin", b"src/d/e/f", b"src/d/e/f/b.txt"]
        host.selection = Selection(include=("b.txt",))
        done = host.run()
        assert_whole(done)
        assert [entry.path for entry in done.entries] == [b"src", b"src/d", b"src/d/e", b"src/d/e/f", b"src/d/e/f/b.txt"]
        assert (by_path(done)[b"src/d"].mode, by_path(done)[b"src/d"].stale) == (0, False), "of itself enough is known"

    as_ordinary_user(work)


def test_an_unreadable_file_where_a_directory_was_is_not_that_directory(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        host.write(b"src/x/y")
        host.previous = by_path(host.run())
        shutil.rmtree(host.path(b"src/x"))
        host.write(b"src/x")
        os.chmod(host.path(b"src/x"), 0)
        done = host.run()
        assert_whole(done)
        assert [entry.path for entry in done.entries] == [b"src"]
        host.sources, host.previous = [b"src/x"], {b"src/x": Entry(b"src/x", "f", 0o644, 0, 0, 0, 1, "0" * 64)}
        assert by_path(host.run())[b"src/x"].stale

    as_ordinary_user(work)


def test_a_file_at_the_very_top_that_cannot_be_read_is_stale(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        path = host.write(b"top")
        host.sources = [b"top"]
        host.previous = by_path(host.run())
        os.chmod(path, 0)
        done = host.run()
        assert_whole(done)
        assert [(entry.path, entry.stale) for entry in done.entries] == [(b"top", True)]

    as_ordinary_user(work)


# ---- files in motion ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    place = Staging(os.fsencode(tmp_path) + b"/staging")
    yield place
    place.close()


def staged_bytes(staging: Staging, path: bytes) -> bytes:
    with open(staging.directory + b"/" + path, "rb") as stream:
        return stream.read()


@contextlib.contextmanager
def busy(work: Callable[[], object]) -> Iterator[None]:
    """Another process that does ``work`` over and over."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                with contextlib.suppress(OSError):
                    work()
        finally:
            os._exit(0)
    try:
        time.sleep(0.05)
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_file_that_is_being_written_is_kept_from_one_private_copy(host: Host, staging: Staging) -> None:
    path = host.write(b"src/log", b"x" * 40_000_000)
    host.write(b"src/quiet", b"quiet")
    fd = os.open(path, os.O_WRONLY)
    with busy(lambda: os.pwrite(fd, os.urandom(4096), 4096 * (time.monotonic_ns() % 9000))):
        done = host.fresh(staging=staging)
    os.close(fd)
    assert_whole(done)
    entry = by_path(done)[b"src/log"]
    assert done.staged == {b"src/log"}
    assert entry.unstable
    content = staged_bytes(staging, b"src/log")
    assert (entry.size, entry.hash) == (len(content), sha(content))
    assert not by_path(done)[b"src/quiet"].unstable
    host.remember(done)
    assert not host.survey(host.cache()).content_digest, "what moved is read again next time"
    assert not by_path(host.run())[b"src/log"].unstable


def test_a_file_that_only_grows_is_kept_up_to_what_was_copied(host: Host, staging: Staging) -> None:
    path = host.write(b"src/log", b"line\n" * 8_000_000)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    with busy(lambda: os.write(fd, b"line\n")):
        for _attempt in range(20):  # a busy machine may let the whole file be read between two writes
            done = host.fresh(staging=staging)
            if done.staged:
                break
    os.close(fd)
    entry = by_path(done)[b"src/log"]
    content = staged_bytes(staging, b"src/log")
    assert (entry.size, entry.hash) == (len(content), sha(content))
    with open(path, "rb") as stream:
        assert stream.read(len(content)) == content


def test_a_file_that_moved_once_is_copied_and_stable(host: Host, staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    path = host.write(b"src/log", b"one")
    real, calls = scan_module.hash_file, []

    def hash_and_disturb(fd: int, **options: Any) -> Tuple[bytes, int]:
        result = real(fd)
        calls.append(1)
        host.write(b"src/log", b"other")
        return result

    monkeypatch.setattr(scan_module, "hash_file", hash_and_disturb)
    done = host.fresh(staging=staging)
    assert len(calls) == 1
    assert done.staged == {b"src/log"}
    assert by_path(done)[b"src/log"] == Entry(b"src/log", "f", 0o644, os.geteuid(), os.getegid(), os.stat(path).st_mtime_ns, 5, sha(b"other"))
    assert staged_bytes(staging, b"src/log") == b"other"
    host.remember(done)
    assert host.survey(host.cache()).content_digest == "", "what moved is read again next time"


def test_the_entry_of_a_file_that_grew_behind_its_copy_is_of_the_copy(host: Host, staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    host.write(b"src/log", b"one")
    real_hash, real_copy = scan_module.hash_file, scan_module.copy_file

    def grow(result: Tuple[bytes, int]) -> Tuple[bytes, int]:
        with open(host.path(b"src/log"), "ab") as stream:
            stream.write(b"more")
        return result

    monkeypatch.setattr(scan_module, "hash_file", lambda fd, **options: grow(real_hash(fd)))
    monkeypatch.setattr(scan_module, "copy_file", lambda source, destination, **_options: grow(real_copy(source, destination)))
    done = host.fresh(staging=staging)
    entry = by_path(done)[b"src/log"]
    assert staged_bytes(staging, b"src/log") == b"onemore"
    assert (entry.size, entry.hash, entry.unstable) == (7, sha(b"onemore"), True)
    assert os.stat(host.path(b"src/log")).st_size == 11


def test_a_change_within_the_tick_in_which_a_file_is_read_counts_as_one(host: Host) -> None:
    found = os.stat(host.write(b"src/file", b"123"))
    assert not scan_module._moved(found, found, 3, found.st_ctime_ns + 1)
    assert scan_module._moved(found, found, 3, found.st_ctime_ns)
    assert scan_module._moved(found, found, 2, found.st_ctime_ns + 1)
    assert not scan_module._moved(found, found, 3, found.st_ctime_ns + 10**18), "it may have changed before, not since"
    tick()
    os.utime(host.path(b"src/file"), ns=(5, 5))
    assert scan_module._moved(found, os.stat(host.path(b"src/file")), 3, 1 << 62)


Between = Callable[[bytes], object]
DISTURBANCES: Dict[str, Tuple[Between, str]] = {
    "gone": (os.unlink, ""),
    "a FIFO": (lambda path: (os.unlink(path), os.mkfifo(path)), ""),
    "a link": (lambda path: (os.unlink(path), os.symlink(b"/etc/passwd", path)), ""),
    "a link that leads nowhere": (lambda path: (os.unlink(path), os.symlink(b"nowhere", path)), ""),
    "a directory": (lambda path: (os.unlink(path), os.mkdir(path)), ""),
    "another file": (lambda path: (os.unlink(path), Path(os.fsdecode(path)).write_bytes(b"another")), "another"),
    "longer": (lambda path: Path(os.fsdecode(path)).write_bytes(b"longer now"), "longer now"),
}


@pytest.mark.parametrize("moving", [False, True], ids=["before it is read", "while it is read"])
@pytest.mark.parametrize("became", DISTURBANCES)
def test_what_a_file_becomes_is_never_followed_and_never_blocks(
    host: Host, staging: Staging, monkeypatch: pytest.MonkeyPatch, became: str, moving: bool
) -> None:
    disturb, content = DISTURBANCES[became]
    path = host.write(b"src/d/file", b"first")
    host.write(b"src/d/other", b"other")
    real = scan_module.hash_file

    def hash_and_disturb(fd: int, **options: Any) -> Tuple[bytes, int]:
        result = real(fd)
        if os.fstat(fd).st_size == 5 and os.path.lexists(path) and os.path.samestat(os.fstat(fd), os.lstat(path)):
            os.utime(path)
            disturb(path)
        return result

    if moving:
        monkeypatch.setattr(scan_module, "hash_file", hash_and_disturb)
        host.write(b"src/d/other", b"some other")
        found, done = host.scan(Cache(), staging=staging)
    else:
        found, done = host.scan(Cache(), between=lambda: disturb(path), staging=staging)
    assert_whole(done)
    assert not done.unreadable
    entry = by_path(done).get(b"src/d/file")
    if content:
        assert entry is not None
        assert (entry.size, entry.hash) == (len(content), sha(content.encode()))
        assert done.vanished == 0
    else:
        assert entry is None
        assert done.vanished == 1
    assert by_path(done)[b"src/d/other"].type == "f"
    monkeypatch.undo()
    host.remember(done)
    assert_same_as_fresh(host)


def test_a_socket_in_place_of_a_file_is_gone_not_unreadable(host: Host) -> None:
    path = host.write(b"src/file")

    def become_socket() -> None:
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(host.path(b"src")):
            listener.bind(b"file")

    found, done = host.scan(Cache(), between=become_socket)
    assert (done.vanished, dict(done.unreadable)) == (1, {})


def test_a_link_that_vanishes_and_a_directory_that_becomes_a_link_leave_a_whole_manifest(host: Host) -> None:
    host.write(b"src/d/x")
    os.symlink(b"x", host.path(b"src/a"))
    os.link(host.path(b"src/a"), host.path(b"src/b"), follow_symlinks=False)
    os.link(host.path(b"src/a"), host.path(b"src/c"), follow_symlinks=False)

    def disturb() -> None:
        os.unlink(host.path(b"src/a"))
        os.rename(host.path(b"src/d"), host.path(b"src/e"))
        os.symlink(b"e", host.path(b"src/d"))

    found, done = host.scan(Cache(), between=disturb)
    assert_whole(done)
    entries = by_path(done)
    assert sorted(entries) == [b"src", b"src/b", b"src/c", b"src/d"]
    assert (entries[b"src/d"].type, entries[b"src/b"].group, entries[b"src/c"].group) == ("d", b"src/b", b"src/b")
    host.remember(done)
    assert_same_as_fresh(host)


def test_an_unreadable_file_found_so_only_while_it_is_read_is_stale(host: Host, as_ordinary_user: Callable[[Work], None]) -> None:
    def work() -> None:
        path = host.write(b"src/file", b"old")
        host.previous = by_path(host.run())
        tick()
        host.write(b"src/file", b"new")
        found, done = host.scan(host.cache(), between=lambda: os.chmod(path, 0))
        assert_whole(done)
        assert dict(done.unreadable) == {b"src/file": errno.EACCES}
        assert by_path(done)[b"src/file"] == host.previous[b"src/file"]._replace(stale=True)

    as_ordinary_user(work)


GROUP = [b"src/d/1", b"src/d/2", b"src/e/3", b"src/e/4"]


@pytest.mark.parametrize(
    ("disturb", "expected"),
    [
        pytest.param(lambda at: os.unlink(at(0)), {1: "A1", 2: "A1", 3: "A1"}, id="the first goes away"),
        pytest.param(lambda at: (os.unlink(at(0)), os.unlink(at(1))), {2: "A2", 3: "A2"}, id="the first two go away"),
        pytest.param(lambda at: [os.unlink(at(i)) for i in (0, 1, 2)], {3: "A-"}, id="only the last stays"),
        pytest.param(lambda at: [os.unlink(at(i)) for i in range(4)], {}, id="all go away"),
        pytest.param(lambda at: _replace(at(0)), {0: "B-", 1: "A1", 2: "A1", 3: "A1"}, id="the first is replaced"),
        pytest.param(lambda at: (_replace(at(0)), os.unlink(at(1))), {0: "B-", 2: "A2", 3: "A2"}, id="the first is replaced, the second goes away"),
        pytest.param(lambda at: (_replace(at(0)), _replace(at(1))), {0: "B-", 1: "B-", 2: "A2", 3: "A2"}, id="the first two are replaced"),
        pytest.param(lambda at: Path(os.fsdecode(at(3))).write_bytes(b"B"), {0: "B0", 1: "B0", 2: "B0", 3: "B0"}, id="the content changes"),
    ],
)
def test_a_group_that_falls_apart_while_it_is_read_gives_no_name_the_bytes_of_another(
    host: Host, disturb: Callable[[Callable[[int], bytes]], object], expected: Mapping[int, str]
) -> None:
    host.write(GROUP[0], b"A")
    os.makedirs(host.path(b"src/e"))
    for name in GROUP[1:]:
        os.link(host.path(GROUP[0]), host.path(name))
    found, done = host.scan(Cache(), between=lambda: disturb(lambda index: host.path(GROUP[index])))
    assert_whole(done)
    entries = by_path(done)
    for index, name in enumerate(GROUP):
        if index not in expected:
            # The name is the survey's: where nothing tells that it is gone, it is kept as what it was.
            assert name not in entries or entries[name].hash == sha(b"A")
            continue
        content, first = expected[index]
        assert entries[name].hash == sha(content.encode())
        assert entries[name].group == (None if first == "-" else GROUP[int(first)])
    host.remember(done)
    assert_same_as_fresh(host)


def _replace(path: bytes) -> None:
    with open(path + b".new", "wb") as stream:
        stream.write(b"B")
    os.rename(path + b".new", path)


def test_a_source_that_goes_away_in_the_middle_ends_the_run(host: Host) -> None:
    host.sources = [b"gone"]
    with pytest.raises(FileNotFoundError) as caught:
        host.survey(Cache())
    assert caught.value.filename == b"/gone"


def test_a_source_that_goes_away_while_it_is_listed_is_not_an_empty_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.write(b"src/d/x")
    listed: List[int] = []

    def vanish(fd: int, which: int) -> List[Listed]:
        listed.append(fd)
        if len(listed) == which:
            raise FileNotFoundError(errno.ENOENT, "gone")
        return list_directory(fd)

    monkeypatch.setattr(survey_module, "list_directory", lambda fd: vanish(fd, 1))
    with pytest.raises(FileNotFoundError):
        host.survey(Cache())
    listed.clear()
    monkeypatch.setattr(survey_module, "list_directory", lambda fd: vanish(fd, 2))
    done = host.fresh()
    assert_whole(done)
    assert [entry.path for entry in done.entries] == [b"src", b"src/d"]
    monkeypatch.undo()
    host.remember(done)
    assert_same_as_fresh(host)


def test_a_scan_in_motion_agrees_with_what_is_on_the_disk_once_it_rests(host: Host, staging: Staging) -> None:
    """Threads that create, replace, link and remove while runs go on: each manifest is whole, and the first one at rest is right."""
    src = host.path(b"src")
    os.makedirs(src + b"/d")
    stop = threading.Event()

    def churn(seed: int) -> None:
        garden = Garden(src)
        dice = random.Random(seed)
        verbs = [verb for verb in VERBS if verb != "fifo"]  # the other thread would wait for ever when it opens one
        names = [b"n%d" % n for n in range(6)]
        while not stop.is_set():
            step = Step(dice.choice(verbs), dice.randrange(40), dice.randrange(40), dice.choice(names), 10**18 + dice.randrange(10**9))
            with contextlib.suppress(OSError, ZeroDivisionError, shutil.Error):
                garden.take(step)

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            done = host.run(staging=staging)
            assert_whole(done)
            for path in done.staged:
                entry = by_path(done).get(path)
                if entry is not None:
                    content = staged_bytes(staging, path)
                    assert (entry.size, entry.hash) == (len(content), sha(content))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    tick()
    assert_same_as_fresh(host)


# ---- reading again -----------------------------------------------------------------------------------------------------------------------


def test_what_did_not_arrive_is_read_again_from_a_private_copy(host: Host, staging: Staging) -> None:
    for name in (b"same", b"changed", b"gone", b"fifo", b"h1"):
        host.write(b"src/" + name, b"old")
    os.link(host.path(b"src/h1"), host.path(b"src/h2"))
    done = host.run()
    previous = by_path(done)
    host.write(b"src/changed", b"brand new")
    host.write(b"src/h1", b"linked")
    os.unlink(host.path(b"src/gone"))
    os.unlink(host.path(b"src/fifo"))
    os.mkfifo(host.path(b"src/fifo"))
    wanted = frozenset((b"src/changed", b"src/gone", b"src/fifo", b"src/h1"))
    with Descent(host.root) as root:
        entries, lost, unreadable, _captured = reread(done.entries, wanted, root=root, staging=staging, previous=previous)
    manifest = Manifest.from_entries(header(host.sources), entries)
    assert decode(manifest.lines) == list(manifest.entries)
    found = manifest.by_path()
    assert lost == 1 and list(unreadable) == [b"src/fifo"]
    assert b"src/gone" not in found
    assert found[b"src/same"] == previous[b"src/same"]
    assert found[b"src/changed"].hash == sha(b"brand new")
    assert staged_bytes(staging, b"src/changed") == b"brand new"
    assert found[b"src/fifo"] == previous[b"src/fifo"]._replace(stale=True)
    assert (found[b"src/h1"].hash, found[b"src/h2"].hash, found[b"src/h2"].group) == (sha(b"linked"), sha(b"linked"), b"src/h1")


def test_a_path_longer_than_the_system_takes_is_staged_like_any_other(host: Host, staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    with Descent(host.path(b"src")) as root:
        deep = b"/".join([b"d" * 200] * 30)
        fd = os.open(b"file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=root.directory(deep, create=0o700))
        os.write(fd, b"deep")
    real = scan_module.hash_file
    monkeypatch.setattr(scan_module, "hash_file", lambda at, **options: (real(at), os.write(fd, b"er"))[0])
    done = host.fresh(staging=staging)
    os.close(fd)
    assert_whole(done)
    assert done.staged == {b"src/" + deep + b"/file"}
    assert done.entries[-1].hash == sha(b"deeper")


def test_staging_replaces_an_older_copy_instead_of_writing_into_it(staging: Staging, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a longer text")
    for content in (b"a longer text", b"short"):
        source.write_bytes(content)
        fd = os.open(source, os.O_RDONLY)
        assert staging.copy(b"x/y", fd) == (hashlib.sha256(content).digest(), len(content))
        os.close(fd)
        assert staged_bytes(staging, b"x/y") == content
    assert os.stat(staging.directory + b"/x").st_mode & 0o77 == 0
    assert os.stat(staging.directory + b"/x/y").st_mode & 0o77 == 0


# ---- many files --------------------------------------------------------------------------------------------------------------------------


def test_several_processes_find_what_one_finds(host: Host, staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(900):
        host.write(b"src/%d/%d" % (number % 30, number), b"%d" % number)
    os.link(host.path(b"src/0/0"), host.path(b"src/29/zero"))
    told: List[Tuple[int, int]] = []
    many = host.fresh(tell=lambda files, size: told.append((files, size)))
    assert_whole(many)
    assert (many.hashed_files, sum(files for files, _size in told)) == (900, 900)
    assert sum(size for _files, size in told) == many.hashed_bytes == sum(len(b"%d" % number) for number in range(900))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert host.fresh().lines == many.lines
