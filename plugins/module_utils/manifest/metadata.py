# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing what an inode bears besides content: owners, modes, times, extended attributes and ACLs, links and devices."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Optional, Tuple, Union

from .entry import BLOCK, CHARACTER, FILE, FORMATS, SYMLINK, TYPES, Entry
from .walk import ReplacedError

Xattrs = Tuple[Tuple[bytes, bytes], ...]
DeviceInode = Tuple[int, int]

NS_MIN, NS_MAX = -(1 << 63), (1 << 63) - 1
# SELinux labels belong to the host's policy, overlay's marks to the mount; both do harm elsewhere.
_LEFT_OUT = ("security.selinux", "trusted.overlay.")
_ACL_PREFIX = b"system.posix_acl_"
_ACL = _ACL_PREFIX + b"access"
_ACL_VERSION, _ACL_GROUP_OBJ = 2, 0x04
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA, errno.EBADF)


def entry_type(mode: int) -> str:
    """The manifest's letter for ``st_mode``."""
    return TYPES[stat.S_IFMT(mode)]


def read_xattrs(at: Union[int, bytes], *, follow: Optional[bool] = None) -> Xattrs:
    """Extended attributes and ACLs of an open descriptor, or of a path, by default without following a link; sorted by name."""
    if follow is None:
        follow = isinstance(at, int)
    try:
        names = os.listxattr(at, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    result = []
    for name in names:
        if name.startswith(_LEFT_OUT):
            continue
        try:
            result.append((os.fsencode(name), os.getxattr(at, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
    return tuple(sorted(result))


def path_of(dir_fd: int, name: bytes) -> bytes:
    """A path to ``name`` for the calls that take no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (dir_fd, name)


def mtime_ns(found: os.stat_result) -> int:
    """The modification time in ns, kept within 64 bits (the years 1677 to 2262)."""
    return min(max(found.st_mtime_ns, NS_MIN), NS_MAX)


def device_of(found: os.stat_result) -> Optional[Tuple[int, int]]:
    """(major, minor) of a device, else None."""
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        return os.major(found.st_rdev), os.minor(found.st_rdev)
    return None


def create_special(dir_fd: int, entry: Entry, name: bytes) -> None:
    """Make the symlink, FIFO, socket or device of ``entry`` under ``name``, private until its metadata is set."""
    if entry.type == SYMLINK:
        assert entry.link is not None
        os.symlink(entry.link, name, dir_fd=dir_fd)
        return
    device = os.makedev(*entry.device) if entry.device is not None else 0
    os.mknod(name, FORMATS[entry.type] | 0o600, device, dir_fd=dir_fd)


def needs_privilege(entry: Entry) -> bool:
    """Whether only root can create it."""
    return entry.type in (BLOCK, CHARACTER)


class Losses:
    """What could not be set, counted by kind, so that it is said once: ``owner``, ``setuid``, ``xattrs``, ``devices``."""

    def __init__(self) -> None:
        self.counts: "dict[str, int]" = {}

    def add(self, kind: str, count: int = 1) -> None:
        """Count ``count`` losses of ``kind``."""
        self.counts[kind] = self.counts.get(kind, 0) + count

    def merge(self, counts: "dict[str, int]") -> None:
        """Add the counts of a worker."""
        for kind, count in counts.items():
            self.add(kind, count)


def mode_without_acl(entry: Entry) -> int:
    """The mode that gives nobody more than ``entry`` does where its access ACL is not set: the group bits of a mode with an ACL are its mask."""
    acl = dict(entry.xattrs).get(_ACL)
    if acl is None:
        return entry.mode
    group = 0
    try:
        if struct.unpack_from("<I", acl)[0] == _ACL_VERSION:
            group = next((bits & 7 for tag, bits, _id in struct.iter_unpack("<HHI", acl[4:]) if tag == _ACL_GROUP_OBJ), 0)
    except struct.error:
        pass
    return entry.mode & (~0o070 | group << 3)


def apply(dir_fd: int, name: bytes, entry: Entry, losses: Losses, expected: Optional[DeviceInode] = None) -> None:
    """Give what stands under ``name`` the owner, mode, xattrs and mtime of ``entry``.

    ``ReplacedError`` where it is not of the entry's type, or, symlinks aside, not the inode ``expected``: in a directory that others can write it
    may be somebody's link by now, or another's file, and the inode that was looked at is the one that is changed.
    """
    if entry.type == SYMLINK:
        _set_owner(dir_fd, name, entry, losses)
        at = path_of(dir_fd, name)
        _set_xattrs(at, entry, read_xattrs(at), losses, follow=False, acls=False)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=dir_fd, follow_symlinks=False)
        return
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        found = os.fstat(fd)
        if entry_type(found.st_mode) != entry.type:
            raise ReplacedError("not what was put there")
        if expected is not None and (found.st_dev, found.st_ino) != expected:
            raise ReplacedError("replaced meanwhile")
        apply_open(b"/proc/self/fd/%d" % fd, entry, losses)
    finally:
        os.close(fd)


def apply_open(at: Union[int, bytes], entry: Entry, losses: Losses) -> None:
    """The same for an open descriptor, or for the path in /proc of one that was opened as a path only. Not for symlinks.

    An ordinary user cannot set everything: what the system refuses for lack of privilege is counted in ``losses``. Order matters: ``chown``
    clears setuid, attributes can only be written where the owner may write, an ACL rewrites the group bits (until it is set, the owning group
    has its own rights and not the mask's), and every one of them moves ctime but not mtime.
    """
    present = read_xattrs(at, follow=True)
    is_plain = not (entry.xattrs or present)
    mode = entry.mode if is_plain else mode_without_acl(entry)
    if not is_plain and os.geteuid() != 0:
        found = os.stat(at)
        if not found.st_mode & stat.S_IWUSR:
            os.chmod(at, stat.S_IMODE(found.st_mode) | stat.S_IWUSR)  # attributes are written like content
    try:
        os.chown(at, entry.uid, entry.gid)
    except PermissionError:
        found = os.stat(at)
        if (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
            losses.add("owner")
            if mode & 0o6000 and entry.type == FILE:
                # A program must not run with the rights of whoever happens to restore it.
                losses.add("setuid")
                mode &= 0o1777
    if is_plain:
        os.chmod(at, mode)
    else:
        _set_xattrs(at, entry, present, losses, follow=True, acls=False)
        os.chmod(at, mode)
        _set_xattrs(at, entry, present, losses, follow=True, acls=True)
    os.utime(at, ns=(entry.mtime, entry.mtime))


def _set_owner(dir_fd: int, name: bytes, entry: Entry, losses: Losses) -> None:
    try:
        os.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
    except PermissionError:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
            losses.add("owner")


def _set_xattrs(at: Union[int, bytes], entry: Entry, present: Xattrs, losses: Losses, *, follow: bool, acls: bool) -> None:
    """Set and remove either the ACLs or everything else; ``present``: what is there."""
    for key, value in entry.xattrs:
        if key.startswith(_ACL_PREFIX) is not acls:
            continue
        try:
            os.setxattr(at, key, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL):
                raise
            losses.add("xattrs")
    # What is left over from before, or inherited from a directory with a default ACL, is nobody's wish.
    wanted = {key for key, _value in entry.xattrs}
    for key, _value in present:
        if key not in wanted and key.startswith(_ACL_PREFIX) is acls:
            try:
                os.removexattr(at, key, follow_symlinks=follow)
            except OSError:
                pass


def differs(entry: Entry, found: os.stat_result, *, owner: bool = True) -> Optional[str]:
    """What of ``found`` is not as ``entry`` says (``type``, ``size``, ``mode``, ``owner``, ``mtime``, ``device``), or None. Content is not read."""
    if entry_type(found.st_mode) != entry.type:
        return "type"
    if entry.type == FILE and found.st_size != entry.size:
        return "size"
    if entry.type != SYMLINK and stat.S_IMODE(found.st_mode) != entry.mode:
        return "mode"
    if owner and (found.st_uid != entry.uid or found.st_gid != entry.gid):
        return "owner"
    if found.st_mtime_ns != entry.mtime and mtime_ns(found) != entry.mtime:
        return "mtime"
    if entry.device is not None and device_of(found) != entry.device:
        return "device"
    return None


def is_plainly(entry: Entry, found: os.stat_result, *, owner: bool = True) -> bool:
    """Whether it is a file, and nothing of ``found`` ``differs``: that, said of nearly every path, in a third of the time."""
    return (
        entry.type == FILE
        and found.st_mtime_ns == entry.mtime
        and found.st_size == entry.size
        and found.st_mode == stat.S_IFREG | entry.mode
        and (not owner or (found.st_uid == entry.uid and found.st_gid == entry.gid))
    )
