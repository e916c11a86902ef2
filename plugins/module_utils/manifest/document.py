# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest as a value and as a file (format 1): gzip of JSON lines, header, entries, trailer.

``digest`` is the SHA-256 over the entry lines, ``content_digest`` the same without the modification times of directories.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from operator import itemgetter
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Mapping, NoReturn, Optional, Sequence, Tuple

from ..errors import IntegrityError, printable
from ..pool import Later
from .entry import FILE, Entry, Lookup, decode, decode_trusted, encode, find, load_json
from .walk import open_file

FORMAT = 1
# A manifest of ten million paths; what unpacks to more is refused before memory ends.
MAX_UNPACKED = 4 << 30
# Paths of one. What comes from others is not let have more.
MAX_ENTRIES = 10_000_000
# Level 3 packs a manifest twice as fast as 6 for 15 % more bytes.
_LEVEL = 3
# RFC 1952: deflate, no flags, no time, no extra flags, Unix.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
# No line is shorter: many empty ones would take far more memory than they unpack to.
SHORTEST_LINE = 40
# Small enough for memory that is used again: fresh pages for every piece would take as long as the work.
_PIECE = 1 << 13
# A search keeps nothing but what it finds.
_SEARCHED = 1 << 16
_LINES = 512
# Half of a surrogate pair, other than those that stand for a byte that is not UTF-8.
_NO_BYTES = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
_OPTIONAL = frozenset(("databases", "application"))
_DIRECTORY_MARK = b'"t":"d"'
_SIZE = re.compile(rb'"s":([0-9]{1,15})')
_DIRECTORY_MTIME = re.compile(rb'^(\{"g":[0-9]+,)"m":-?[0-9]+,')


@dataclass(frozen=True)
class Header:
    """What a manifest says of itself. The host proposes it with ``id``, ``sequence`` and ``created`` empty; the target fills them in."""

    host: str
    policy: str
    sources: Tuple[str, ...]
    selection: Mapping[str, Any]
    engine: str
    claimed: str
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    databases: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of each captured path tables, rows and schema (its user_version)
    application: Mapping[str, str] = field(default_factory=dict)  # the policy's profile, and which version of its application wrote the files
    parent: Optional[str] = None
    id: Optional[str] = None
    sequence: Optional[int] = None
    created: Optional[str] = None
    format: int = FORMAT

    def to_line(self) -> bytes:
        """The canonical header line, without the line feed. What there may be and is not is left out."""
        return _canonical({key: value for key, value in asdict(self).items() if value or key not in _OPTIONAL})

    @classmethod
    def from_line(cls, line: bytes) -> Header:
        """Parse a header line as hostile input; ``IntegrityError`` where it does not fit."""
        try:
            item = load_json(line)
        except ValueError:
            _refuse("the header is not JSON")
        if type(item) is not dict or type(item.get("format")) is not int:
            _refuse("the header is not an object with a format")
        if item["format"] != FORMAT:
            raise IntegrityError(
                "The manifest has format %d" % item["format"],
                kind="manifest_format",
                field="format",
                found=item["format"],
                allowed="format %d" % FORMAT,
                next="use the version of openclaw-backup that wrote it, or a newer one",
            )
        if not {f.name for f in fields(cls)} - _OPTIONAL <= set(item) <= {f.name for f in fields(cls)}:
            _refuse("the header's keys are not those of format %d" % FORMAT)
        texts = [item["host"], item["policy"], item["engine"], item["claimed"]]
        texts += [item[key] for key in ("parent", "id", "created") if item[key] is not None]
        if not _are_texts(texts):
            _refuse("a header field is not text")
        if type(item["sources"]) is not list or not _are_texts(item["sources"]):
            _refuse("the header's sources are not a list of texts")
        if not (item["sequence"] is None or (type(item["sequence"]) is int and item["sequence"] >= 1)):
            _refuse("the header's sequence is not a positive number")
        if type(item["selection"]) is not dict or not all(type(v) is bool or (type(v) is list and _are_texts(v)) for v in item["selection"].values()):
            _refuse("the header's selection is not an object of booleans and lists of texts")
        if type(item["names"]) is not dict or not all(type(v) is dict and _are_texts(v.values()) for v in item["names"].values()):
            _refuse("the header's names are not objects of texts")
        databases = item.get("databases", {})
        if type(databases) is not dict or not _are_texts(databases) or not all(map(_are_counts, databases.values())):
            _refuse("the header's databases are not objects of numbers")
        if type(item.get("application", {})) is not dict or not _are_texts(item.get("application", {}).values()):
            _refuse("the header's application is not an object of texts")
        if _canonical(item) != line or not all(item.get(key, True) for key in _OPTIONAL):
            _refuse("the header is not in canonical form")
        item["sources"] = tuple(item["sources"])
        return cls(**item)


def _are_texts(values: Iterable[Any]) -> bool:
    """Whether all are texts that stand for some bytes."""
    return all(type(value) is str and not _NO_BYTES.search(value) for value in values)


def _are_counts(item: Any) -> bool:
    return type(item) is dict and item.keys() == {"rows", "schema", "tables"} and all(type(value) is int for value in item.values())


def _canonical(item: Any) -> bytes:
    return json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _refuse(reason: str, **more: Any) -> NoReturn:
    raise IntegrityError("The manifest is not valid: %s" % reason, kind="manifest", found=reason, next="restore or verify an older snapshot", **more)


class _Made:
    """What is made of a manifest's lines when it is first asked for: once for all headers that they stand under."""

    def __init__(self, entries: Optional[Sequence[Entry]]) -> None:
        self.entries = entries
        self.lookup: Optional[Lookup] = None
        self.digest: Optional[str] = None
        self.content_digest: Optional[str] = None
        self.line_set: Optional[FrozenSet[bytes]] = None
        self.packing: Optional[Later[bytes]] = None
        self.packed: Optional[bytes] = None
        self.lacked: Optional[Tuple[_Made, List[Entry]]] = None


class Manifest:
    """A complete list of what a snapshot holds. Compared by header and lines; entries are parsed when they are first asked for."""

    def __init__(self, header: Header, lines: Sequence[bytes], entries: Optional[Sequence[Entry]] = None) -> None:
        self.header = header
        self.lines = lines
        self._made = _Made(entries)

    @classmethod
    def from_entries(cls, header: Header, entries: Iterable[Entry]) -> Manifest:
        """A manifest of ``entries`` in any order."""
        ordered = sorted(entries, key=itemgetter(0))
        return cls(header, [encode(entry) for entry in ordered], ordered)

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries, sorted by path bytes. ``IntegrityError`` where a line is not valid."""
        if self._made.entries is None:
            self._made.entries = decode(self.lines)
        return self._made.entries

    def part(self, start: int, stop: int) -> Sequence[Entry]:
        """Some of the entries. ``IntegrityError`` as from ``entries``: all are valid if every part is."""
        return decode(self.lines, start, stop) if self._made.entries is None else self._made.entries[start:stop]

    def find(self, path: bytes, stop: Optional[int] = None) -> Optional[Entry]:
        """The entry of ``path`` among the first ``stop``, or all. Where lines were not parsed before and are not sorted, it can be overlooked."""
        if self._made.entries is not None:
            return find(self._made.entries, path, stop)
        if self._made.lookup is None:
            self._made.lookup = Lookup(self.lines)
        return find(self._made.lookup, path, stop)

    def sizes(self) -> List[int]:
        """About how many bytes the file of each entry has, to share out work by: lines that were not parsed may say anything."""
        if self._made.entries is not None:
            return [entry.size for entry in self._made.entries]
        return [int(found[1]) if found else 0 for found in map(_SIZE.search, self.lines)]

    def by_path(self) -> Dict[bytes, Entry]:
        """The entries keyed by path."""
        return {entry.path: entry for entry in self.entries}

    @property
    def digest(self) -> str:
        """SHA-256 over the entry lines, hex."""
        if self._made.digest is None:
            self._made.digest = self._digest()
        return self._made.digest

    @property
    def content_digest(self) -> str:
        """The same with the modification times of directories left out: equal means unchanged."""
        if self._made.content_digest is None:
            self._made.content_digest = self._content_digest()
        return self._made.content_digest

    def _digest(self) -> str:
        exact = hashlib.sha256()
        for start in range(0, len(self.lines), _LINES):
            exact.update(b"\n".join(self.lines[start : start + _LINES]) + b"\n")
        return exact.hexdigest()

    def _content_digest(self) -> str:
        content = hashlib.sha256()
        for start in range(0, len(self.lines), _LINES):
            part = self.lines[start : start + _LINES]
            # Looked at here first: a call for each line would cost more than all the rest.
            content.update(b"\n".join([content_line(line) if _DIRECTORY_MARK in line else line for line in part]) + b"\n")
        return content.hexdigest()

    @property
    def line_set(self) -> FrozenSet[bytes]:
        """The entry lines. Equal lines are equal entries, so that what two manifests have in common need not be parsed."""
        if self._made.line_set is None:
            self._made.line_set = frozenset(self.lines)
        return self._made.line_set

    def entries_not_in(self, other: Manifest) -> List[Entry]:
        """Those entries, in order, whose lines ``other`` lacks. Nothing else is parsed."""
        if self._made.lacked is None or self._made.lacked[0] is not other._made:
            # One set serves both directions.
            if other._made.line_set is not None:
                numbers = [number for number, line in enumerate(self.lines) if line not in other.line_set]
            else:
                surplus = self.line_set.difference(other.lines)
                numbers = [number for number, line in enumerate(self.lines) if line in surplus] if surplus else []
            entries = self._made.entries
            lacked = decode_trusted(self.lines[number] for number in numbers) if entries is None else [entries[number] for number in numbers]
            self._made.lacked = (other._made, lacked)
        return self._made.lacked[1]

    def before(self, replaced: Mapping[int, Optional[Entry]], removed: Sequence[Entry]) -> Manifest:
        """The manifest that became this one, under the same header.

        ``replaced``: number of an entry here to what its path was instead, None for nothing; ``removed``: what is not here any more.
        """
        here = {number: entry for number, entry in replaced.items() if entry is None or encode(entry) != self.lines[number]}
        instead = {number: entry for number, entry in here.items() if entry is not None}
        there = sorted([*removed, *instead.values()], key=itemgetter(0))
        lines = list(self.lines)
        if not removed and len(instead) == len(here):  # each in its place, as after most runs
            for number, entry in instead.items():
                lines[number] = encode(entry)
        else:
            rest = [(entry.path, line) for number, (entry, line) in enumerate(zip(self.entries, lines)) if number not in here]
            lines = [line for _path, line in sorted([*rest, *((entry.path, encode(entry)) for entry in there)])]
        result = Manifest(self.header, lines)
        result._made.lacked = (self._made, there)
        self._made.lacked = (result._made, [self.entries[number] for number in sorted(here)])
        return result

    @property
    def files(self) -> int:
        """How many regular files it lists."""
        return sum(1 for entry in self.entries if entry.type == FILE)

    @property
    def total_size(self) -> int:
        """Their logical size in bytes; a hard-link group counts once."""
        return sum(entry.size for entry in self.entries if entry.type == FILE and not entry.is_group_follower)

    def with_header(self, **changes: Any) -> Manifest:
        """The same entries under a changed header."""
        result = Manifest(replace(self.header, **changes), self.lines)
        result._made = self._made
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.header == other.header and list(self.lines) == list(other.lines)

    __hash__ = None  # type: ignore[assignment]

    def to_bytes(self) -> bytes:
        """The file's bytes: deterministic for equal manifests."""
        head = self.header.to_line() + b"\n"
        if self._made.packed is None:
            self._made.packed = self._made.packing.result() if self._made.packing is not None else self._pack()
        check, size = zlib.crc32(head), len(head)
        for text in self._texts():
            check, size = zlib.crc32(text, check), size + len(text)
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
        # A full flush ends on a byte and refers to nothing before it: what follows may have been packed by itself.
        opening = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
        return _GZIP_HEADER + opening + self._made.packed + struct.pack("<II", check, size & 0xFFFFFFFF)

    @contextmanager
    def digesting(self) -> Iterator[None]:
        """Meanwhile another process makes the digests, where the lines are many."""
        with closing(Later(lambda: (self._digest(), self._content_digest()), items=len(self.lines))) as digests:
            yield
            self._made.digest, self._made.content_digest = digests.result()

    @contextmanager
    def packing(self) -> Iterator[None]:
        """Meanwhile another process makes most of what ``to_bytes`` will return, where the lines are many."""
        with closing(Later(self._pack, items=len(self.lines))) as self._made.packing:
            try:
                yield
            finally:
                self._made.packing = None

    def _pack(self) -> bytes:
        """The larger part of ``to_bytes``, which goes by the lines alone: packed once for the target's copy and for the host's."""
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
        return b"".join([packer.compress(text) for text in self._texts()] + [packer.flush()])

    def _texts(self) -> Iterator[bytes]:
        """Everything after the header line, piece by piece."""
        for start in range(0, len(self.lines), _LINES):
            yield b"\n".join(self.lines[start : start + _LINES]) + b"\n"
        yield self.trailer() + b"\n"

    def trailer(self) -> bytes:
        return _canonical({"content_digest": self.content_digest, "digest": self.digest, "entries": len(self.lines)})

    @classmethod
    def from_bytes(cls, data: bytes, *, limit: int = MAX_UNPACKED, entries: Optional[int] = None) -> Manifest:
        """Read a manifest file's bytes; refused without a valid trailer, and with more ``entries`` (``IntegrityError``). Entries are parsed later, when
        asked for."""
        manifest, trailer = cls.unchecked(data, limit, entries)
        manifest.check(trailer)
        return manifest

    @classmethod
    def unchecked(cls, data: bytes, limit: int, entries: Optional[int] = None) -> Tuple[Manifest, bytes]:
        """What a manifest file's bytes say, and the trailer that ``check`` is to hold it against."""
        lines = _unpack(data, limit, entries)
        if len(lines) < 3 or lines.pop() != b"":
            _refuse("it is truncated")
        header, trailer = Header.from_line(lines[0]), lines.pop()
        del lines[0]
        return cls(header, lines), trailer

    def check(self, trailer: bytes) -> None:
        """``IntegrityError`` where the trailer does not say what the lines are."""
        if trailer != self.trailer():
            _refuse("its trailer does not match its entries; it was truncated or tampered with")


def _unpack(data: bytes, limit: int, entries: Optional[int]) -> List[bytes]:
    """The unpacked text cut at its line feeds, piece by piece, so that it is never in memory as a whole."""
    unpacker = zlib.decompressobj(31)
    lines = [b""]
    begun: List[bytes] = []  # the pieces of the last line so far: joined once, however long it gets
    unpacked = breaks = 0
    for at in range(0, len(data), _PIECE):
        try:
            text = unpacker.decompress(data[at : at + _PIECE])
        except zlib.error as error:
            _refuse("it is not a whole gzip file (%s)" % error)
        unpacked += len(text)
        breaks += text.count(b"\n")
        if unpacked > limit:
            _refuse("it unpacks to more than %d bytes" % limit)
        if breaks * SHORTEST_LINE > unpacked:
            _refuse("its lines are too short")
        if entries is not None and breaks > entries + 2:  # a header and a trailer
            _refuse("it has more than the %d entries that it should have" % entries)
        more = text.split(b"\n")
        begun.append(more[0])
        if len(more) > 1:
            more[0] = b"".join(begun)
            begun = [more[-1]]
            lines.pop()
            lines += more
        if unpacker.eof:
            break
    lines[-1] = b"".join(begun)
    if not unpacker.eof or unpacker.unused_data or at + _PIECE < len(data):
        _refuse("it is truncated or followed by other bytes")
    return lines


def search_lines(data: bytes, digest: str, fragment: bytes, *, ignore_case: bool = False, limit: int = MAX_UNPACKED) -> List[bytes]:
    """Those entry lines of a manifest file's bytes that hold ``fragment``; all for an empty one.

    ``ignore_case``: also where they have capitals, and the fragment has none. Nothing is made of the others. ``IntegrityError`` where all lines
    together are not those of ``digest``.
    """
    unpacker = zlib.decompressobj(31)
    exact = hashlib.sha256()
    found: List[bytes] = []
    rest, unpacked, is_header = b"", 0, True
    for at in range(0, len(data), _SEARCHED):
        try:
            text = rest + unpacker.decompress(data[at : at + _SEARCHED])
        except zlib.error as error:
            _refuse("it is not a whole gzip file (%s)" % error)
        unpacked += len(text) - len(rest)
        if unpacked > limit:
            _refuse("it unpacks to more than %d bytes" % limit)
        # The last whole line may be the trailer, which is none of the entries.
        end = text.rfind(b"\n", 0, max(0, text.rfind(b"\n"))) + 1
        start = text.find(b"\n", 0, end) + 1 if is_header else 0
        if end:
            lines, rest, is_header = text[start:end], text[end:], False
            exact.update(lines)
            found += _lines_with(lines, fragment, ignore_case)
        else:
            rest = text
    if not unpacker.eof or unpacker.unused_data or exact.hexdigest() != digest:
        _refuse("it does not hold the entries that were committed; it was truncated or tampered with")
    return found


def _lines_with(text: bytes, fragment: bytes, ignore_case: bool) -> List[bytes]:
    if not fragment:
        return text.split(b"\n")[:-1]
    found = []
    searched = text.lower() if ignore_case else text
    at = searched.find(fragment)
    while at >= 0:
        end = text.find(b"\n", at)
        found.append(text[text.rfind(b"\n", 0, at) + 1 : end])
        at = searched.find(fragment, end)
    return found


def content_line(line: bytes) -> bytes:
    """An entry line as it enters the content digest."""
    # A quote inside a JSON string is escaped, so the mark cannot be part of a name.
    return _DIRECTORY_MTIME.sub(rb"\1", line) if _DIRECTORY_MARK in line else line


def read_manifest(path: bytes) -> Manifest:
    """Load a manifest file. ``IntegrityError`` names the file where it is missing, unreadable or not valid."""
    with _reading(path) as data:
        return Manifest.from_bytes(data)


def read_unchecked(path: bytes) -> Tuple[Manifest, Callable[[], None]]:
    """The same, with what is to be called before anything that comes of it counts: it raises where the trailer is not valid."""
    with _reading(path) as data:
        manifest, trailer = Manifest.unchecked(data, MAX_UNPACKED)

    def check() -> None:
        with _naming(path):
            manifest.check(trailer)

    return manifest, check


def search_manifest(path: bytes, digest: str, fragment: bytes, *, ignore_case: bool = False) -> List[bytes]:
    """``search_lines`` of a manifest file, which ``IntegrityError`` names."""
    with _reading(path) as data:
        return search_lines(data, digest, fragment, ignore_case=ignore_case)


@contextmanager
def _reading(path: bytes) -> Iterator[bytes]:
    """The bytes of a manifest file, which whatever is wrong with them names."""
    try:
        with open(open_file(None, path)[0], "rb") as stream:
            data = stream.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise IntegrityError(
            "The manifest %s cannot be read: %s" % (printable(path), reason),
            kind="manifest",
            found=reason,
            next="restore it from a copy, or use another snapshot",
        ) from error
    with _naming(path):
        yield data


@contextmanager
def _naming(path: bytes) -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        error.message = "%s: %s" % (printable(path), error.message)
        raise
