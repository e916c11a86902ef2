# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One entry of a manifest: one path with everything that is kept of it, and its canonical JSON line (format 1)."""

from __future__ import annotations

import base64
import json
import re
import stat
from bisect import bisect_left
from json.encoder import encode_basestring_ascii
from types import MappingProxyType
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Tuple, Union

from ..errors import IntegrityError, printable

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
# The largest number of 32 bits means "leave the owner as it is" to chown, and no file can have it.
_MAX_ID = (1 << 32) - 2
_MAX_DEVICE = (1 << 32) - 1
_MAX_INT = (1 << 63) - 1
_MAX_DIGITS = 19
_MAX_LINK = 4095
_MAX_XATTR_NAME = 255
_MAX_XATTR_VALUE = 1 << 16
_COMMON_KEYS = frozenset("gmoptu")
_TYPE_KEYS = {FILE: frozenset("hs"), SYMLINK: frozenset("l"), BLOCK: frozenset("r"), CHARACTER: frozenset("r")}
_FREE_KEYS = frozenset(("n", "stale", "unstable", "x"))
_HASH = re.compile(r"[0-9a-f]{64}")
# Nearly every line is a file or directory with a plain ASCII path. What this matches is canonical and within all ranges; what it does not
# match may still be: that is for JSON to say, which takes four times as long.
_PLAIN = re.compile(
    rb"""\{"g":(0|[1-9][0-9]{0,8})(?:,"h":"([0-9a-f]{64})")?,"m":(0|-?(?:[1-8][0-9]{0,18}|9[0-9]{0,17})),"o":(0|[1-9][0-9]{0,2}|[1-3][0-9]{3})"""
    rb""","p":"((?!/)[ !#-[\]-~]+)"(?(2),"s":(0|[1-9][0-9]{0,17}),"t":"f"|,"t":"d"),"u":(0|[1-9][0-9]{0,8})\}"""
)


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

    @property
    def inode_state(self) -> Tuple[Any, ...]:
        """What an inode bears: everything but the path, the group and the flags of the run."""
        return self[1:9] + self[10:12]

    def same_inode_state(self, other: Entry) -> bool:
        """Whether one inode could serve both."""
        return self.inode_state == other.inode_state


# The tuple's own constructor takes a third of the time of the named one.
_new = tuple.__new__


def plain_file(path: bytes, mode: int, uid: int, gid: int, mtime: int, size: int, digest: str) -> Entry:
    """The entry of a regular file with one name, no attributes and nothing odd: what nearly all are."""
    return _new(Entry, (path, FILE, mode, uid, gid, mtime, size, digest, None, None, (), None, False, False))


def _quote(name: bytes) -> str:
    return encode_basestring_ascii(name.decode("utf-8", "surrogateescape"))


def encode(entry: Entry) -> bytes:
    """The canonical line of ``entry``, without the line feed: sorted keys, no spaces, ASCII."""
    path, kind, mode, uid, gid, mtime, size, digest, link, group, xattrs, device, unstable, stale = entry
    quoted = _quote(path)
    if group is None and not (xattrs or unstable or stale):
        if kind == FILE:
            return ('{"g":%d,"h":"%s","m":%d,"o":%d,"p":%s,"s":%d,"t":"f","u":%d}' % (gid, digest, mtime, mode, quoted, size, uid)).encode("ascii")
        if kind == DIRECTORY:
            return ('{"g":%d,"m":%d,"o":%d,"p":%s,"t":"d","u":%d}' % (gid, mtime, mode, quoted, uid)).encode("ascii")
    parts = ['"g":%d' % gid]
    if kind == FILE:
        parts.append('"h":"%s"' % digest)
    if link is not None:
        parts.append('"l":%s' % _quote(link))
    parts.append('"m":%d' % mtime)
    if group is not None:
        parts.append('"n":%s' % _quote(group))
    parts.append('"o":%d,"p":%s' % (mode, quoted))
    if device is not None:
        parts.append('"r":[%d,%d]' % device)
    if kind == FILE:
        parts.append('"s":%d' % size)
    if stale:
        parts.append('"stale":true')
    parts.append('"t":"%s","u":%d' % (kind, uid))
    if unstable:
        parts.append('"unstable":true')
    if xattrs:
        pairs = ('%s:"%s"' % (_quote(name), base64.b64encode(value).decode("ascii")) for name, value in xattrs)
        parts.append('"x":{%s}' % ",".join(pairs))
    return ("{%s}" % ",".join(parts)).encode("ascii")


def decode(lines: Sequence[bytes], start: int = 0, stop: Optional[int] = None, known: Mapping[bytes, Entry] = MappingProxyType({})) -> List[Entry]:
    """Parse canonical lines as hostile input: known keys, sane ranges, strictly increasing paths, every parent present.

    Of a part of the lines: what it needs of an earlier line is looked up there, so that all lines are valid if all parts are. ``known``: entries of
    lines that were parsed before. Raises ``IntegrityError`` (kind ``manifest``) naming the line. The first line is number 2: the header is line 1.
    """
    entries: List[Entry] = []
    directories = {b""}
    groups: Dict[bytes, Entry] = {}
    numbers = _Numbers()
    earlier = Lookup(lines)
    previous = earlier[start - 1].path if start else b""
    for number, line in enumerate(lines[start:stop], start + 2):
        entry = known.get(line)
        if entry is None:
            try:
                entry = _parse(line, numbers)
            except ValueError as error:
                _refuse(number, str(error))
        path = entry.path
        if path <= previous:
            _refuse(number, "paths are not strictly increasing")
        # The components above the last one were looked at when the parent's line was.
        parent, _, name = path.rpartition(b"/")
        if parent not in directories:
            above = find(earlier, parent, start)
            if above is None or above.type != DIRECTORY:
                _refuse(number, "the parent directory is missing")
            directories.add(parent)
        if name in (b"", b".", b"..") or len(name) > MAX_COMPONENT or len(path) > MAX_PATH:
            _refuse(number, "bad path component")
        if entry.type == DIRECTORY:
            directories.add(path)
        elif entry.group is not None:
            if entry.group not in groups:
                first = entry if entry.group == path else find(earlier, entry.group, start)
                if first is None or first.group != first.path:
                    _refuse(number, "the hard-link group does not begin with its first path")
                groups[entry.group] = first
            if not groups[entry.group].same_inode_state(entry):
                _refuse(number, "members of a hard-link group differ")
        previous = path
        entries.append(entry)
    return entries


class Lookup:
    """Lines of a manifest as entries, each parsed (``IntegrityError``) when it is first asked for."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines
        self._numbers = _Numbers()
        self._parsed: Dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> Entry:
        if number not in self._parsed:
            try:
                self._parsed[number] = _parse(self._lines[number], self._numbers)
            except ValueError as error:
                _refuse(number + 2, str(error))
        return self._parsed[number]


def find(entries: Union[Sequence[Entry], Lookup], path: bytes, stop: Optional[int] = None) -> Optional[Entry]:
    """The entry of ``path`` among the first ``stop``, which are sorted; where they are not, it may be overlooked."""
    stop = len(entries) if stop is None else stop
    sought: Any = (path,)  # comes right before the entry
    number = bisect_left(entries, sought, 0, stop)
    return entries[number] if number < stop and entries[number].path == path else None


def decode_trusted(lines: Iterable[bytes]) -> List[Entry]:
    """Parse single lines out of manifests whose digests were checked; they need not be complete, so each line is looked at by itself alone."""
    numbers = _Numbers()
    try:
        return [_parse(line, numbers) for line in lines]
    except ValueError as error:
        raise IntegrityError("The manifest is not valid: %s" % error, kind="manifest", found=str(error)) from error


class _Numbers(Dict[bytes, int]):
    """Numbers by their digits; owners and modes are few."""

    def __missing__(self, digits: bytes) -> int:
        value = self[digits] = int(digits)
        return value


def _parse(line: bytes, numbers: _Numbers) -> Entry:
    """The entry of one canonical line; ``ValueError`` where it is none. The components of the path are left to the caller."""
    match = _PLAIN.fullmatch(line)
    if match is None:
        return _parse_json(line)
    gid, digest, mtime, mode, path, size, uid = match.groups()
    if digest is None:
        return _new(Entry, (path, DIRECTORY, numbers[mode], numbers[uid], numbers[gid], int(mtime), 0, "", None, None, (), None, False, False))
    return plain_file(path, numbers[mode], numbers[uid], numbers[gid], int(mtime), int(size), digest.decode("ascii"))


def load_json(line: bytes) -> Any:
    """The value of one line of JSON from an untrusted hand; ``ValueError`` where it is none that format 1 can hold."""
    try:
        return _JSON.decode(line.decode("ascii"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS + 1:  # reading a number takes time quadratic in its length
        raise ValueError("number out of range")
    return int(digits)


def _parse_constant(name: str) -> NoReturn:
    raise ValueError("%s is not JSON" % name)


_JSON = json.JSONDecoder(parse_int=_parse_number, parse_constant=_parse_constant)


def _parse_json(line: bytes) -> Entry:
    item = load_json(line)
    if type(item) is not dict:
        raise ValueError("not an object")
    kind = item.get("t")
    if type(kind) is not str or kind not in FORMATS:
        raise ValueError("unknown type")
    required = _COMMON_KEYS | _TYPE_KEYS.get(kind, frozenset())
    surplus = item.keys() - required - _FREE_KEYS
    if surplus:
        raise ValueError("unknown key %s" % printable(min(surplus)[:40]))
    if not required <= item.keys() or (kind == DIRECTORY and "n" in item):
        raise ValueError("keys do not fit the type")
    digest = item.get("h", "")
    if kind == FILE and not (type(digest) is str and _HASH.fullmatch(digest)):
        raise ValueError("h is not a SHA-256")
    for flag in ("stale", "unstable"):
        if item.get(flag, True) is not True:
            raise ValueError("%s is not true" % flag)
    entry = Entry(
        _name(item["p"], MAX_PATH),
        kind,
        _integer(item["o"], 0, 0o7777),
        _integer(item["u"], 0, _MAX_ID),
        _integer(item["g"], 0, _MAX_ID),
        _integer(item["m"], -_MAX_INT - 1, _MAX_INT),
        _integer(item.get("s", 0), 0, _MAX_INT),
        digest,
        _name(item["l"], _MAX_LINK) if "l" in item else None,
        _name(item["n"], MAX_PATH) if "n" in item else None,
        _xattrs(item["x"]) if "x" in item else (),
        _device(item["r"]) if "r" in item else None,
        "unstable" in item,
        "stale" in item,
    )
    if encode(entry) != line:
        raise ValueError("not in canonical form")
    if entry.path.startswith(b"/"):
        raise ValueError("the path is absolute")
    return entry


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError("number out of range")
    return value


def _name(text: Any, longest: int) -> bytes:
    if type(text) is not str:
        raise ValueError("a name is not text")
    name = text.encode("utf-8", "surrogateescape")
    if not name or b"\0" in name or len(name) > longest:
        raise ValueError("a name is empty, too long or holds a NUL")
    return name


def _device(pair: Any) -> Tuple[int, int]:
    if type(pair) is not list or len(pair) != 2:
        raise ValueError("r is not a pair of numbers")
    return _integer(pair[0], 0, _MAX_DEVICE), _integer(pair[1], 0, _MAX_DEVICE)


def _xattrs(item: Any) -> Tuple[Tuple[bytes, bytes], ...]:
    if type(item) is not dict or not all(type(value) is str for value in item.values()):
        raise ValueError("x is not an object of texts")
    pairs = tuple((_name(name, _MAX_XATTR_NAME), base64.b64decode(value, validate=True)) for name, value in item.items())
    if any(len(value) > _MAX_XATTR_VALUE for _name, value in pairs):
        raise ValueError("an extended attribute is too long")
    if any(one[0] >= other[0] for one, other in zip(pairs, pairs[1:])):
        raise ValueError("extended attributes are not sorted")
    return pairs


def _refuse(number: int, reason: str) -> NoReturn:
    raise IntegrityError("The manifest is not valid: line %d: %s" % (number, reason), kind="manifest", field="line %d" % number, found=reason)
