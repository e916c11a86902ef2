# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest as a value and as a file (format 1): gzip of JSON lines, header, entries, trailer.

``digest`` is the SHA-256 over the entry lines, ``content_digest`` the same without the modification times of directories.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Dict, Iterable, List, Mapping, NoReturn, Optional, Sequence, Tuple

from ..errors import IntegrityError, printable
from .entry import DIRECTORY, FILE, Entry, decode, encode

FORMAT = 1
# A manifest of ten million paths; what unpacks to more is refused before memory ends.
MAX_UNPACKED = 4 << 30
# Level 3 packs a manifest twice as fast as 6 for 15 % more bytes.
_LEVEL = 3
_DIRECTORY_MARK = b'"t":"d"'
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
    parent: Optional[str] = None
    id: Optional[str] = None
    sequence: Optional[int] = None
    created: Optional[str] = None
    format: int = FORMAT

    def to_line(self) -> bytes:
        """The canonical header line, without the line feed."""
        return _canonical(asdict(self))

    @classmethod
    def from_line(cls, line: bytes) -> Header:
        """Parse a header line as hostile input; ``IntegrityError`` where it does not fit."""
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            _refuse("the header is not JSON")
        if type(item) is not dict or "format" not in item:
            _refuse("the header is not an object with a format")
        if item["format"] != FORMAT:
            raise IntegrityError(
                "The manifest has format %s" % item["format"],
                kind="manifest_format",
                field="format",
                found=item["format"],
                allowed="format %d" % FORMAT,
                next="use the version of openclaw-backup that wrote it, or a newer one",
            )
        if set(item) != {f.name for f in fields(cls)}:
            _refuse("the header's keys are not those of format %d" % FORMAT)
        texts = [item["host"], item["policy"], item["engine"], item["claimed"]]
        optional = [item["parent"], item["id"], item["created"]]
        if not all(type(v) is str for v in texts) or not all(v is None or type(v) is str for v in optional):
            _refuse("a header field is not text")
        if type(item["sources"]) is not list or not all(type(v) is str for v in item["sources"]):
            _refuse("the header's sources are not a list of texts")
        if not (item["sequence"] is None or (type(item["sequence"]) is int and item["sequence"] >= 1)):
            _refuse("the header's sequence is not a positive number")
        if type(item["selection"]) is not dict or type(item["names"]) is not dict:
            _refuse("the header's selection or names are not objects")
        item["sources"] = tuple(item["sources"])
        return cls(**item)


def _canonical(item: Any) -> bytes:
    return json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _refuse(reason: str, **more: Any) -> NoReturn:
    raise IntegrityError("The manifest is not valid: %s" % reason, kind="manifest", found=reason, next="restore or verify an older snapshot", **more)


class Manifest:
    """A complete list of what a snapshot holds. Compared by header and lines; entries are parsed when they are first asked for."""

    def __init__(self, header: Header, lines: Sequence[bytes], entries: Optional[Sequence[Entry]] = None) -> None:
        self.header = header
        self.lines = lines
        self._entries = entries
        self._digests: Optional[Tuple[str, str]] = None

    @classmethod
    def from_entries(cls, header: Header, entries: Iterable[Entry]) -> Manifest:
        """A manifest of ``entries`` in any order."""
        ordered = sorted(entries)
        return cls(header, [encode(entry) for entry in ordered], ordered)

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries, sorted by path bytes. ``IntegrityError`` where a line is not valid."""
        if self._entries is None:
            self._entries = decode(self.lines)
        return self._entries

    def by_path(self) -> Dict[bytes, Entry]:
        """The entries keyed by path."""
        return {entry.path: entry for entry in self.entries}

    @property
    def digest(self) -> str:
        """SHA-256 over the entry lines, hex."""
        return self._both_digests()[0]

    @property
    def content_digest(self) -> str:
        """The same with the modification times of directories left out: equal means unchanged."""
        return self._both_digests()[1]

    def _both_digests(self) -> Tuple[str, str]:
        if self._digests is None:
            exact = hashlib.sha256()
            content = hashlib.sha256()
            for start in range(0, len(self.lines), 8192):
                part = self.lines[start : start + 8192]
                exact.update(b"\n".join(part) + b"\n")
                content.update(b"\n".join([content_line(line) for line in part]) + b"\n")
            self._digests = (exact.hexdigest(), content.hexdigest())
        return self._digests

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
        result = Manifest(replace(self.header, **changes), self.lines, self._entries)
        result._digests = self._digests
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.header == other.header and list(self.lines) == list(other.lines)

    __hash__ = None  # type: ignore[assignment]

    def to_bytes(self) -> bytes:
        """The file's bytes: deterministic for equal manifests."""
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        trailer = _canonical({"content_digest": self.content_digest, "digest": self.digest, "entries": len(self.lines)})
        parts = [packer.compress(self.header.to_line() + b"\n")]
        for start in range(0, len(self.lines), 8192):
            parts.append(packer.compress(b"\n".join(self.lines[start : start + 8192]) + b"\n"))
        parts.append(packer.compress(trailer + b"\n"))
        parts.append(packer.flush())
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes, *, limit: int = MAX_UNPACKED) -> Manifest:
        """Read a manifest file's bytes; refused without a valid trailer (``IntegrityError``). Entries are parsed later, when asked for."""
        unpacker = zlib.decompressobj(31)
        try:
            text = unpacker.decompress(data, limit)
        except zlib.error as error:
            _refuse("it is not a whole gzip file (%s)" % error)
        if unpacker.unconsumed_tail:
            _refuse("it unpacks to more than %d bytes" % limit)
        if not unpacker.eof or unpacker.unused_data:
            _refuse("it is truncated or followed by other bytes")
        lines = text.split(b"\n")
        if len(lines) < 3 or lines.pop() != b"":
            _refuse("it is truncated")
        header = Header.from_line(lines[0])
        manifest = cls(header, lines[1:-1])
        expected = _canonical({"content_digest": manifest.content_digest, "digest": manifest.digest, "entries": len(manifest.lines)})
        if lines[-1] != expected:
            _refuse("its trailer does not match its entries; it was truncated or tampered with")
        return manifest


def content_line(line: bytes) -> bytes:
    """An entry line as it enters the content digest."""
    # A quote inside a JSON string is escaped, so the mark cannot be part of a name.
    return _DIRECTORY_MTIME.sub(rb"\1", line) if _DIRECTORY_MARK in line else line


def read_manifest(path: bytes, *, dir_fd: Optional[int] = None) -> Manifest:
    """Load a manifest file. ``IntegrityError`` names the file where it is missing, unreadable or not valid."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        raise IntegrityError("The manifest %s cannot be read: %s" % (printable(path), error.strerror), kind="manifest", found=error.strerror) from error
    with open(descriptor, "rb") as stream:
        data = stream.read()
    try:
        return Manifest.from_bytes(data)
    except IntegrityError as error:
        error.message = "%s: %s" % (printable(path), error.message)
        raise


def directories_of(entries: Iterable[Entry]) -> List[Entry]:
    """The directory entries, parents first."""
    return [entry for entry in entries if entry.type == DIRECTORY]
