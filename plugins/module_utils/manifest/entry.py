# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One entry of a manifest: one path with everything that is kept of it, and its canonical JSON line (format 1)."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, Dict, Iterable, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ..errors import IntegrityError

FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, BLOCK, CHARACTER = "f", "d", "l", "p", "s", "b", "c"
TYPES = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
    stat.S_IFBLK: BLOCK,
    stat.S_IFCHR: CHARACTER,
}
FORMATS = {letter: bits for bits, letter in TYPES.items()}

MAX_COMPONENT = 255
MAX_PATH = 1 << 16
_MAX_ID = (1 << 32) - 1
_MAX_INT = (1 << 63) - 1
_KEYS = frozenset(("g", "h", "l", "m", "n", "o", "p", "r", "s", "stale", "t", "u", "unstable", "x"))
_HASH = re.compile(r"[0-9a-f]{64}")


class Entry(NamedTuple):
    """One path of a manifest.

    ``path`` is relative to ``/``; ``mtime`` in ns; ``mode`` the permission bits (12 bits); ``hash`` the SHA-256 of a file in hex;
    ``group`` the first path of its hard-link group (also on that first path itself); ``xattrs`` sorted pairs of name and value, ACLs among them;
    ``device`` (major, minor); ``unstable``: it changed while it was copied; ``stale``: it could not be read, so this is its previous entry.
    """

    path: bytes
    type: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    hash: str = ""
    link: Optional[bytes] = None
    group: Optional[bytes] = None
    xattrs: Tuple[Tuple[bytes, bytes], ...] = ()
    device: Optional[Tuple[int, int]] = None
    unstable: bool = False
    stale: bool = False

    @property
    def is_group_follower(self) -> bool:
        """Whether its content and metadata live under another path of the manifest."""
        return self.group is not None and self.group != self.path

    def same_content(self, other: Entry) -> bool:
        """Whether both are files with the same bytes."""
        return self.type == other.type == FILE and self.size == other.size and self.hash == other.hash

    def same_inode_state(self, other: Entry) -> bool:
        """Whether one inode could serve both: everything equal but the path and the flags of the run."""
        return self[1:9] == other[1:9] and self[10:12] == other[10:12]


def encode(entry: Entry) -> bytes:
    """The canonical line of ``entry``, without the line feed: sorted keys, no spaces, ASCII."""
    path, kind, mode, uid, gid, mtime, size, digest, link, group, xattrs, device, unstable, stale = entry
    quoted = _quote(os.fsdecode(path))
    if kind == FILE and group is None and not xattrs and not unstable and not stale:
        return b'{"g":%d,"h":"%s","m":%d,"o":%d,"p":%s,"s":%d,"t":"f","u":%d}' % (
            gid,
            digest.encode("ascii"),
            mtime,
            mode,
            quoted.encode("ascii"),
            size,
            uid,
        )
    parts = ['"g":%d' % gid]
    if kind == FILE:
        parts.append('"h":"%s"' % digest)
    if link is not None:
        parts.append('"l":%s' % _quote(os.fsdecode(link)))
    parts.append('"m":%d' % mtime)
    if group is not None:
        parts.append('"n":%s' % _quote(os.fsdecode(group)))
    parts.append('"o":%d' % mode)
    parts.append('"p":%s' % quoted)
    if device is not None:
        parts.append('"r":[%d,%d]' % device)
    if kind == FILE:
        parts.append('"s":%d' % size)
    if stale:
        parts.append('"stale":true')
    parts.append('"t":"%s"' % kind)
    parts.append('"u":%d' % uid)
    if unstable:
        parts.append('"unstable":true')
    if xattrs:
        pairs = ("%s:%s" % (_quote(os.fsdecode(name)), _quote(base64.b64encode(value).decode("ascii"))) for name, value in xattrs)
        parts.append('"x":{%s}' % ",".join(pairs))
    return ("{%s}" % ",".join(parts)).encode("ascii")


def decode(lines: Iterable[bytes]) -> List[Entry]:
    """Parse canonical lines as hostile input: known keys, sane ranges, strictly increasing paths, every parent present.

    Raises ``IntegrityError`` (kind ``manifest``) naming the line. The first line is number 2: the header is line 1.
    """
    entries: List[Entry] = []
    directories = {b""}
    groups: Dict[bytes, Entry] = {}
    previous = b""
    for number, line in enumerate(lines, 2):
        try:
            item = json.loads(line)
            entry = _from_item(item)
            _check_path(entry.path)
        except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
            _refuse(number, str(error) or type(error).__name__)
        if encode(entry) != line:
            _refuse(number, "not in canonical form")
        path = entry.path
        if path <= previous:
            _refuse(number, "paths are not strictly increasing")
        if path.rpartition(b"/")[0] not in directories:
            _refuse(number, "the parent directory is missing")
        if entry.type == DIRECTORY:
            directories.add(path)
        if entry.group is not None:
            _check_group(number, entry, groups)
        previous = path
        entries.append(entry)
    return entries


def decode_trusted(lines: Sequence[bytes]) -> List[Entry]:
    """Parse single lines out of manifests whose digests were checked; they need not be complete, so only each line by itself is looked at."""
    try:
        return [_from_item(json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError("The manifest is not valid: %s" % error, kind="manifest", found=str(error)) from error


def _from_item(item: Any) -> Entry:
    if type(item) is not dict:
        raise ValueError("not an object")
    if not _KEYS.issuperset(item):
        raise ValueError("unknown key %s" % sorted(set(item) - _KEYS)[0])
    kind = item["t"]
    if kind not in FORMATS:
        raise ValueError("unknown type")
    required = {"g", "m", "o", "p", "t", "u"}
    allowed = {"stale", "unstable", "x"}
    if kind == FILE:
        required |= {"h", "s"}
        if not _HASH.fullmatch(item["h"]):
            raise ValueError("h is not a SHA-256")
    if kind == SYMLINK:
        required |= {"l"}
    if kind in (BLOCK, CHARACTER):
        required |= {"r"}
    if kind != DIRECTORY:
        allowed |= {"n"}
    if not required <= item.keys() or not item.keys() <= required | allowed:
        raise ValueError("keys do not fit the type")
    size = _integer(item.get("s", 0), 0, _MAX_INT)
    device = None
    if "r" in item:
        major, minor = item["r"]
        device = (_integer(major, 0, _MAX_ID), _integer(minor, 0, _MAX_ID))
    xattrs = tuple((os.fsencode(name), base64.b64decode(value, validate=True)) for name, value in item.get("x", {}).items())
    if any(not name or b"\0" in name or len(name) > 255 or len(value) > 65536 for name, value in xattrs):
        raise ValueError("bad extended attribute")
    link = os.fsencode(item["l"]) if "l" in item else None
    if link is not None and (not link or b"\0" in link or len(link) > 4095):
        raise ValueError("bad symlink target")
    for flag in ("stale", "unstable"):
        if flag in item and item[flag] is not True:
            raise ValueError("%s is not true" % flag)
    return Entry(
        os.fsencode(item["p"]),
        kind,
        _integer(item["o"], 0, 0o7777),
        _integer(item["u"], 0, _MAX_ID),
        _integer(item["g"], 0, _MAX_ID),
        _integer(item["m"], -_MAX_INT - 1, _MAX_INT),
        size,
        item.get("h", ""),
        link,
        os.fsencode(item["n"]) if "n" in item else None,
        xattrs,
        device,
        "unstable" in item,
        "stale" in item,
    )


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError("number out of range")
    return value


def _check_path(path: bytes) -> None:
    if not path or len(path) > MAX_PATH or b"\0" in path:
        raise ValueError("bad path")
    for component in path.split(b"/"):
        if not component or component in (b".", b"..") or len(component) > MAX_COMPONENT:
            raise ValueError("bad path component")


def _check_group(number: int, entry: Entry, groups: Dict[bytes, Entry]) -> None:
    assert entry.group is not None
    if entry.group == entry.path:
        groups[entry.path] = entry
        return
    first = groups.get(entry.group)
    if first is None:
        _refuse(number, "the hard-link group does not begin with its first path")
    if not first.same_inode_state(entry):
        _refuse(number, "members of a hard-link group differ")


def _refuse(number: int, reason: str) -> NoReturn:
    raise IntegrityError("The manifest is not valid: line %d: %s" % (number, reason), kind="manifest", field="line %d" % number, found=reason)
