# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manifest as the difference to one that the other side has: what a host tells a vault of a change.

Packed text: the header line, the trailer line, one JSON string for each path that is no more, an empty line, the entry lines that are new or other
ones.
"""

from __future__ import annotations

import json
import re
import zlib
from operator import itemgetter
from typing import AbstractSet, Dict, List, Optional, Tuple

from ..errors import IntegrityError, RefusedError
from .document import MAX_UNPACKED, SHORTEST_LINE, Header, Manifest
from .entry import Entry, decode, load_json

_LEVEL = 3
_PIECE = 1 << 20
_MAX_REMOVED = 20_000_000
# Sources, patterns, names of users, counts of databases: what a host says of itself.
_HEADER_BYTES = 16 << 20
_DIRECTORY_MARK = b'"t":"d"'
# Keys are sorted and quotes inside a string escaped: the first such mark is the key.
_PATH = re.compile(rb'"p":("(?:[^"\\]|\\.)*")')


def path_of_line(line: bytes) -> bytes:
    """The path of a canonical entry line, of which nothing else is looked at; ``ValueError`` where it has none."""
    match = _PATH.search(line)
    if match is None:
        raise ValueError("a line without a path")
    quoted = match.group(1)
    if b"\\" not in quoted:
        return quoted[1:-1]
    name: str = load_json(quoted)
    return name.encode("utf-8", "surrogateescape")


def make_delta(base: Optional[Manifest], new: Manifest, *, same_times: bool) -> bytes:
    """``new`` as the difference to ``base``; the whole of it where that is None.

    ``same_times``: the other side's base is this one to the byte; otherwise its directories may have other times, and all of them go along.
    """
    removed: List[bytes] = []
    if base is None:
        lines = list(new.lines)
    else:
        known = base.line_set
        lines = [line for line in new.lines if line not in known or (not same_times and _DIRECTORY_MARK in line)]
        paths = {entry.path for entry in new.entries_not_in(base)}
        gone = [entry.path for entry in base.entries_not_in(new) if entry.path not in paths]
        removed = sorted(gone)
    head = [new.header.to_line(), new.trailer()]
    head += [json.dumps(path.decode("utf-8", "surrogateescape")).encode("ascii") for path in removed]
    return zlib.compress(b"\n".join([*head, b"", *lines, b""]), _LEVEL)


def apply_delta(base: Optional[Manifest], data: bytes, *, limit: int = MAX_UNPACKED, entries: Optional[int] = None) -> Manifest:
    """The manifest that ``make_delta`` was given, from an untrusted hand. ``IntegrityError`` (kind ``manifest``) where it is none, or was made for
    another base. Each line that the base lacks is parsed as what it is, somebody's claim.

    ``limit``: bytes that it may unpack to; ``entries``: paths that it may have (``RefusedError``)."""
    header, trailer, removed, lines = _read(data, limit)
    known: Dict[bytes, Entry] = {}
    if base is not None:
        lines = _merge(base, removed, lines)
        known = dict(zip(base.lines, base.entries))
    elif removed:
        raise _refusal("it removes paths of a manifest that is not there")
    if entries is not None and len(lines) > entries:
        raise RefusedError(
            "The snapshot would have %d paths" % len(lines),
            kind="limit",
            field="entries",
            found=len(lines),
            allowed="%d paths" % entries,
            next="leave something out of the policy, or have the vault's limit raised",
        )
    manifest = Manifest(header, lines, decode(lines, known=known))
    if manifest.trailer() != trailer:
        raise _refusal("its trailer does not match its entries; it is the difference to another one, or was tampered with")
    return manifest


def _read(data: bytes, limit: int) -> Tuple[Header, bytes, AbstractSet[bytes], List[bytes]]:
    head, body = _unpack(data, limit)
    # Counted before anything is made of them: many short lines take far more memory than they unpack to.
    if body.count(b"\n") * SHORTEST_LINE > len(body) or head.count(b"\n") > _MAX_REMOVED:
        raise _refusal("its lines are too short or too many")
    words = head.split(b"\n")
    if len(words) < 2:
        raise _refusal("it has no header or no trailer")
    try:
        removed = {_name(word) for word in words[2:]}
    except ValueError as error:
        raise _refusal("a removed path is none (%s)" % error) from error
    lines = body.split(b"\n")
    if lines.pop():
        raise _refusal("it is truncated")
    return Header.from_line(words[0]), words[1], removed, lines


def _unpack(data: bytes, limit: int) -> Tuple[bytes, bytes]:
    """What stands before the empty line, and what after it. What comes is judged piece by piece: a little data can unpack to more than there is memory."""
    unpacker = zlib.decompressobj()
    pieces: List[bytes] = []
    size = at = 0
    try:
        while at < len(data) and not unpacker.eof:
            rest, at = data[at : at + _PIECE], at + _PIECE
            while rest:
                piece = unpacker.decompress(rest, _PIECE)
                rest = unpacker.unconsumed_tail
                size += len(piece)
                if size > limit:
                    raise _refusal("it unpacks to more than %d bytes" % limit)
                pieces.append(piece)
    except zlib.error as error:
        raise _refusal("it is not packed as it should be (%s)" % error) from error
    if not unpacker.eof or unpacker.unused_data or at < len(data):
        raise _refusal("it is truncated or followed by other bytes")
    head, mark, body = b"".join(pieces).partition(b"\n\n")
    if not mark:
        raise _refusal("it is truncated")
    if head.find(b"\n") > _HEADER_BYTES or head.find(b"\n") < 0:
        raise _refusal("its header is too long")
    return head, body


def _name(word: bytes) -> bytes:
    text = load_json(word)
    if type(text) is not str:
        raise ValueError("not a text")
    return text.encode("utf-8", "surrogateescape")


def _merge(base: Manifest, removed: AbstractSet[bytes], fresh: List[bytes]) -> List[bytes]:
    lines: Dict[bytes, bytes] = {}
    for entry, line in zip(base.entries, base.lines):
        if entry.path not in removed:
            lines[entry.path] = line
    try:
        lines.update((path_of_line(line), line) for line in fresh)
    except ValueError as error:
        raise _refusal(str(error)) from error
    return [line for _path, line in sorted(lines.items(), key=itemgetter(0))]


def _refusal(reason: str) -> IntegrityError:
    return IntegrityError("The manifest that was sent is not valid: %s" % reason, kind="manifest", field="manifest", found=reason, next="run again")
