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

from ..errors import IntegrityError
from .document import MAX_UNPACKED, Header, Manifest
from .entry import Entry, decode, load_json

_LEVEL = 3
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


def apply_delta(base: Optional[Manifest], data: bytes, *, limit: int = MAX_UNPACKED) -> Manifest:
    """The manifest that ``make_delta`` was given, from an untrusted hand. ``IntegrityError`` (kind ``manifest``) where it is none, or was made for
    another base. Each line that the base lacks is parsed as what it is, somebody's claim."""
    header, trailer, removed, lines = _read(data, limit)
    known: Dict[bytes, Entry] = {}
    if base is not None:
        lines = _merge(base, removed, lines)
        known = dict(zip(base.lines, base.entries))
    elif removed:
        raise _refusal("it removes paths of a manifest that is not there")
    manifest = Manifest(header, lines, decode(lines, known=known))
    if manifest.trailer() != trailer:
        raise _refusal("its trailer does not match its entries; it is the difference to another one, or was tampered with")
    return manifest


def _read(data: bytes, limit: int) -> Tuple[Header, bytes, AbstractSet[bytes], List[bytes]]:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, limit)
    except zlib.error as error:
        raise _refusal("it is not packed as it should be (%s)" % error) from error
    if unpacker.unconsumed_tail:
        raise _refusal("it unpacks to more than %d bytes" % limit)
    if not unpacker.eof or unpacker.unused_data:
        raise _refusal("it is truncated or followed by other bytes")
    head, mark, body = text.partition(b"\n\n")
    if not mark or (body and not body.endswith(b"\n")):
        raise _refusal("it is truncated")
    words = head.split(b"\n")
    if len(words) < 2:
        raise _refusal("it has no header or no trailer")
    try:
        removed = {_name(word) for word in words[2:]}
    except ValueError as error:
        raise _refusal("a removed path is none (%s)" % error) from error
    return Header.from_line(words[0]), words[1], removed, body.split(b"\n")[:-1]


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
