# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a new tree takes over what its parent has: hard links, extents that two inodes share, or a clone of the whole btrfs subvolume.

What a file system can do is found out by doing it. The numbers are those of linux/fs.h and linux/btrfs.h as most machines encode them; where they
mean nothing (PowerPC, MIPS, SPARC), as on a file system without these calls, the answer is an error and hard links are used.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Optional

from ...errors import TargetError
from ...manifest.walk import DIRECTORY_FLAGS, Descent, remove_tree

HARDLINK, REFLINK, BTRFS = "hardlink", "reflink", "btrfs"
AUTO = "auto"

_FICLONE = 0x40049409
_SUBVOL_CREATE, _SNAP_DESTROY, _SNAP_CREATE_V2 = 0x5000940E, 0x5000940F, 0x50009417
# fd, name; and fd, transid, flags, what quota groups would need, name: 4096 bytes each.
_ARGS, _ARGS_V2 = struct.Struct("=q4088s"), struct.Struct("=qQQ32s4040s")
# Every btrfs subvolume's own directory has this inode number; others may have it, too.
_SUBVOLUME_INODE = 256
_NOT_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def choose(dir_fd: int, wish: str) -> str:
    """The way for a vault in whose directory ``dir_fd`` it is tried; ``TargetError`` (kind ``clone``) where ``wish`` cannot be had.

    Left to itself this is a subvolume or a hard link: an inode of its own for each file, as by ``reflink``, takes longer than a link.
    """
    reason = None
    if wish in (AUTO, BTRFS):
        reason = _lack_of_subvolumes(dir_fd)
        if reason is None:
            return BTRFS
    elif wish == REFLINK:
        reason = _lack_of_reflinks(dir_fd)
    if reason is None or wish == AUTO:
        return HARDLINK if wish == AUTO else wish
    raise TargetError(
        "The vault's file system cannot do target.clone %s: %s" % (wish, reason),
        kind="clone",
        field="target.clone",
        found=wish,
        allowed="auto, or what the file system of the vault can do",
        next="write auto, or put the vault on btrfs" + (" or xfs" if wish == REFLINK else ""),
    )


def _lack_of_subvolumes(dir_fd: int) -> Optional[str]:
    """Why subvolumes cannot be used in this directory, or None: one that could be made but not removed would stay for ever."""
    name = b"probe"
    try:
        make_subvolume(dir_fd, name)
    except OSError as error:
        if error.errno in _NOT_OURS:
            raise
        return "no subvolume can be made (%s)" % error.strerror
    try:
        discard(dir_fd, name)
    except OSError as error:
        return "a subvolume that was made cannot be removed (%s); the mount option user_subvol_rm_allowed would allow it" % error.strerror
    return None


def _lack_of_reflinks(dir_fd: int) -> Optional[str]:
    names = (b"probe", b"probe.clone")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(names[0], flags, 0o600, dir_fd=dir_fd), "r+b", buffering=0) as one:
            one.write(b"x" * 4096)
            with open(os.open(names[1], flags, 0o600, dir_fd=dir_fd), "r+b", buffering=0) as other:
                return None if clone_file(one.fileno(), other.fileno()) else "no file can share the blocks of another"
    finally:
        for name in names:
            remove_tree(dir_fd, name)


def clone_file(source: int, destination: int) -> bool:
    """Let an open, empty file share the content of another; False where that cannot be."""
    import fcntl

    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno in _NOT_OURS:
            raise
        return False
    return True


def make_subvolume(dir_fd: int, name: bytes) -> None:
    """An empty subvolume, private to its owner."""
    _call(dir_fd, _SUBVOL_CREATE, _ARGS.pack(0, name))
    os.chmod(name, 0o700, dir_fd=dir_fd)


def clone_subvolume(dir_fd: int, name: bytes, source: bytes) -> bool:
    """A writable copy of the subvolume ``source``, made in an instant; False where that is no subvolume of this file system."""
    fd = os.open(source, DIRECTORY_FLAGS)
    try:
        _call(dir_fd, _SNAP_CREATE_V2, _ARGS_V2.pack(fd, 0, 0, b"", name))
    except OSError as error:
        if error.errno in _NOT_OURS:
            raise
        return False
    finally:
        os.close(fd)
    return True


def discard(dir_fd: int, name: bytes) -> None:
    """Delete what a session or a prune left under ``name``: a file, a tree, a subvolume, a tree that holds subvolumes as a session does."""
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        with Descent(name, dir_fd=dir_fd) as inside:
            for inner in os.listdir(inside.root_fd):
                _discard_subvolume(inside.root_fd, os.fsencode(inner))
        _discard_subvolume(dir_fd, name)
    remove_tree(dir_fd, name)


def _discard_subvolume(dir_fd: int, name: bytes) -> None:
    """Delete ``name`` if it is a subvolume."""
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_ino != _SUBVOLUME_INODE or found.st_dev == os.fstat(dir_fd).st_dev:
        return
    with Descent(name, dir_fd=dir_fd) as inside:
        if _mount_of(inside.root_fd) != _mount_of(dir_fd):
            raise OSError(errno.EBUSY, "another file system is mounted here", name)
        try:
            _call(dir_fd, _SNAP_DESTROY, _ARGS.pack(0, name))
            return
        except PermissionError:  # an ordinary user may only remove an empty one
            for inner in os.listdir(inside.root_fd):
                remove_tree(inside.root_fd, os.fsencode(inner))
    os.rmdir(name, dir_fd=dir_fd)


def _mount_of(fd: int) -> bytes:
    """Which mount an open directory lies in: a subvolume has a device number of its own, but is no mount."""
    with open("/proc/self/fdinfo/%d" % fd, "rb") as stream:
        return next((line for line in stream if line.startswith(b"mnt_id:")), b"")


def _call(fd: int, request: int, arguments: bytes) -> None:
    import fcntl

    fcntl.ioctl(fd, request, bytearray(arguments), True)
