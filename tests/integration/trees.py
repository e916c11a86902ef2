# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees that hold what is easy to get wrong."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import List

ODD_NAMES = [
    b"new\nline",
    b"\xff\xfe not utf-8",
    b"-rf",
    b"--delete",
    b"-",
    b" ",
    b"\\",
    b'"quoted"',
    b"*?[x]",
    b"tab\tbell\x07",
    b"#", b"!", b"~", b"\xc3\xa4", b"a\xcc\x88",
    b"x" * 255,
    b"\xe2\x82\xac" * 85,
    b".hidden",
    b"...",
    b"con:aux",
    b"@(#)",
]  # fmt: skip
# Before 1970, at 0, long after 2100, with nanoseconds; within what ext4 can keep.
TIMES = [-1_000_000_000_000_000_001, -1, 0, 1, 999_999_999, 4_102_444_800_000_000_007, 8_888_888_888_123_456_789]


def fill(src: Path, *, as_root: bool) -> None:
    """Every kind of thing a file system holds."""
    base = os.fsencode(src)
    names = base + b"/names"
    os.mkdir(names)
    for number, name in enumerate(ODD_NAMES):
        with open(names + b"/" + name, "wb") as stream:
            stream.write(b"content %d" % number)
    inner = names + b"/" + b"d\n\xff" + b"y" * 250
    os.mkdir(inner)
    with open(inner + b"/" + b"z" * 255, "wb") as stream:
        stream.write(b"deep")

    files = src / "files"
    files.mkdir()
    (files / "empty").write_bytes(b"")
    (files / "also empty").write_bytes(b"")
    (files / "twin 1").write_bytes(b"the same bytes")
    (files / "twin 2").write_bytes(b"the same bytes")
    (files / "large").write_bytes(os.urandom(1 << 20) + b"tail")
    for number, bits in enumerate((0o4755, 0o2755, 0o6711, 0o1644, 0o000, 0o200, 0o444, 0o777)):
        (files / ("mode %d" % number)).write_bytes(b"%o" % bits)
        (files / ("mode %d" % number)).chmod(bits)
    for number, moment in enumerate(TIMES):
        (files / ("time %d" % number)).write_bytes(b"t")
        os.utime(files / ("time %d" % number), ns=(0, moment))
    make_sparse(files / "sparse", 5 << 20, [(1 << 20, b"island"), (4 << 20, b"another")])
    make_sparse(files / "only a hole", 3 << 20, [])

    links = src / "links"
    links.mkdir()
    (links / "first").write_bytes(b"hard")
    for other in ("second", "third"):
        os.link(links / "first", links / other)
    os.link(links / "first", files / "far away")
    (links / "dangling").symlink_to("nowhere")
    (links / "absolute").symlink_to("/etc/passwd")
    (links / "to directory").symlink_to("../files")
    (links / "to itself").symlink_to("to itself")
    os.symlink(b"\xff\n" + b"t" * 2000, os.fsencode(links / "odd target"))
    os.link(links / "dangling", links / "dangling too", follow_symlinks=False)
    os.utime(links / "dangling", ns=(0, 1_234_567_890_123_456_789), follow_symlinks=False)

    special = src / "special"
    special.mkdir()
    os.mkfifo(special / "fifo", 0o640)
    os.link(special / "fifo", special / "fifo too")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(special, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind("/proc/self/fd/%d/socket" % here)
        finally:
            os.close(here)

    attributes = src / "attributes"
    attributes.mkdir()
    (attributes / "user").write_bytes(b"x")
    os.setxattr(attributes / "user", "user.note", b"\x00\xff binary")
    os.setxattr(attributes / "user", "user.empty", b"")
    (attributes / "acl").write_bytes(b"x")
    subprocess.run(["setfacl", "-m", "u:12:rw-,g:34:r--,m::rw-", str(attributes / "acl")], check=True)
    (attributes / "default").mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:12:rwx", str(attributes / "default")], check=True)
    os.setxattr(attributes, "user.directory", b"d")

    directories = src / "directories"
    directories.mkdir()
    (directories / "empty").mkdir()
    (directories / "sticky").mkdir()
    (directories / "sticky").chmod(0o1777)
    (directories / "setgid").mkdir()
    (directories / "setgid").chmod(0o2750)
    (directories / "read only").mkdir()
    (directories / "read only" / "inside").write_bytes(b"i")
    (directories / "read only").chmod(0o555)
    if as_root:
        (directories / "closed").mkdir()
        (directories / "closed" / "inside").write_bytes(b"i")
        (directories / "closed").chmod(0)
        os.chown(files / "mode 0", 1234, 4321)
        (files / "mode 0").chmod(0o4755)
        os.chown(links / "absolute", 1234, 4321, follow_symlinks=False)
        os.chown(directories / "setgid", 77, 78)
        os.mknod(special / "character", stat.S_IFCHR | 0o620, os.makedev(5, 300000))
        os.mknod(special / "block", stat.S_IFBLK | 0o600, os.makedev(4000, 70000))
        os.setxattr(attributes / "user", "trusted.secret", b"root's")
        os.setxattr(links / "dangling", "trusted.on-a-link", b"l", follow_symlinks=False)
        os.setxattr(special / "fifo", "trusted.on-a-fifo", b"f")
    for number, folder in enumerate(("empty", "sticky", "setgid", "read only")):
        os.utime(directories / folder, ns=(0, TIMES[number]))
    os.utime(src, ns=(0, TIMES[-1]))


def make_sparse(path: Path, size: int, islands: "List[tuple[int, bytes]]") -> None:
    with open(path, "wb") as stream:
        stream.truncate(size)
        for offset, data in islands:
            stream.seek(offset)
            stream.write(data)


def make_deep(src: Path, *, depth: int = 25) -> int:
    """A file whose path is longer than any call takes; the length of the path below ``src``."""
    at = os.open(src, os.O_RDONLY | os.O_DIRECTORY)
    length = 0
    for level in range(depth):
        name = b"%03d" % level + b"l" * 197
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        for leaf, data in ((b"leaf", b"at level %d" % level), (b"n" * 255, b"")):
            fd = os.open(leaf, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=below)
            os.write(fd, data)
            os.close(fd)
        os.symlink(b"leaf", b"link", dir_fd=below)
        os.link(b"leaf", b"other", src_dir_fd=below, dst_dir_fd=below)
        os.close(at)
        at, length = below, length + len(name) + 1
    os.close(at)
    return length
