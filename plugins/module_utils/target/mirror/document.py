# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``manifest.json`` of a mirror (format 1): what it holds, what objects cannot hold of it, and which version of which object is whose content.

One JSON object, an entry a line. docs/mirror.md is the format for readers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, NamedTuple, NoReturn, Optional

from ...errors import IntegrityError, TargetError, printable
from ...manifest.document import Header, Manifest
from ...manifest.entry import FILE, Entry
from ..contract import Receipt, Snapshot, check_manifest, check_state
from .places import is_key

NAME = "manifest.json"
MARK = ".last-sync"
_FORMAT = 1
_KEYS = {"format", "layout", "receipt", "header", "entries", "removing", "old", "state"}


class Place(NamedTuple):
    """The object that holds a file, and the tag of the version that does."""

    key: str
    tag: str


@dataclass(frozen=True)
class Document:
    """The state of a mirror.

    ``places``: of each file; ``removing``: objects, with their tags, that are to go and may still be there; ``old``: those below the prefixes of older
    releases, which the run after the next one removes; ``state``: what may change about the snapshot.
    """

    receipt: Receipt
    manifest: Manifest
    places: Mapping[bytes, Place]
    removing: Mapping[str, str] = field(default_factory=dict)
    old: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    def snapshot(self) -> Snapshot:
        """The one snapshot that there is."""
        return Snapshot(self.receipt, self.state.get("verified"), self.state.get("damaged"), drilled=self.state.get("drilled"))

    def having(self, **changes: Any) -> Document:
        """The same with other values."""
        return replace(self, **changes)

    def to_bytes(self) -> bytes:
        """The file."""
        lines = []
        for line, entry in zip(self.manifest.lines, self.manifest.entries):
            place = self.places.get(entry.path) if entry.type == FILE else None
            more = ',"key":%s,"tag":%s}' % (json.dumps(place.key), json.dumps(place.tag)) if place is not None else "}"
            lines.append(line[:-1] + more.encode("ascii"))
        head = {
            "format": _FORMAT,
            "layout": "mirror",
            "receipt": self.receipt.to_dict(),
            "header": json.loads(self.manifest.header.to_line()),
            "removing": dict(self.removing),
            "old": dict(self.old),
            "state": dict(self.state),
        }
        return json.dumps(head, sort_keys=True).encode("ascii")[:-1] + b',"entries":[\n' + b",\n".join(lines) + b"\n]}\n"

    def mark(self) -> bytes:
        """What ``.last-sync`` says once all of it is there: the time, as ``date -Iseconds`` writes it."""
        return (self.receipt.created[:19] + "+00:00\n").encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Document:
        """Read a file that anybody may have written; ``IntegrityError`` names ``where``."""
        try:
            item = json.loads(data)
        except (ValueError, RecursionError):
            _refuse(where, "it is not JSON")
        if type(item) is not dict or item.get("layout") != "mirror" or type(item.get("format")) is not int:
            _refuse(where, "it is not that of a mirror")
        if item["format"] > _FORMAT:
            raise TargetError(
                "%s has format %d" % (where, item["format"]),
                kind="vault_format",
                field="target",
                found="%d" % item["format"],
                allowed="format %d" % _FORMAT,
                next="use the version of openclaw-backup that wrote it, or a newer one",
            )
        if set(item) != _KEYS or type(item["entries"]) is not list:
            _refuse(where, "its keys are not those of format 1")
        lines: List[bytes] = []
        places: List[Optional[Place]] = []
        for entry in item["entries"]:
            if type(entry) is not dict:
                _refuse(where, "an entry is not an object")
            key, tag = entry.pop("key", None), entry.pop("tag", None)
            if key is not None and (not is_key(key) or type(tag) is not str):
                _refuse(where, "an object's name leads elsewhere")
            places.append(Place(key, tag) if key is not None else None)
            lines.append(_canonical(entry))
        receipt = Receipt.from_dict(item["receipt"], where)
        manifest = Manifest(Header.from_line(_canonical(item["header"])), lines)
        check_manifest(manifest, receipt, where)
        found: Dict[bytes, Place] = {}
        for number, place in enumerate(places):
            if (place is not None) != (manifest.entries[number].type == FILE):
                _refuse(where, "a file has no object, or what is no file has one")
            if place is not None:
                found[manifest.entries[number].path] = place
        for name in ("removing", "old"):
            if type(item[name]) is not dict or not all(is_key(key) and type(tag) is str for key, tag in item[name].items()):
                _refuse(where, "%s is not a list of objects" % name)
        return cls(receipt, manifest, found, item["removing"], item["old"], check_state(item["state"], where))


class Note(NamedTuple):
    """What goes along with an object, so that it can be told what it is where its manifest was not written any more: which session wrote it, as which
    number of the history, and what the manifest would have said."""

    tx: str
    sequence: int
    hash: str
    mode: int
    uid: int
    gid: int
    mtime: int

    def to_text(self) -> str:
        """As it goes along."""
        return json.dumps(list(self), separators=(",", ":"))

    @classmethod
    def of(cls, entry: Entry, tx: str, sequence: int) -> Note:
        """The note for a file."""
        return cls(tx, sequence, entry.hash, entry.mode, entry.uid, entry.gid, entry.mtime)

    @classmethod
    def from_text(cls, text: str) -> Optional[Note]:
        """A note; None where there is none that can be read."""
        try:
            item = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if type(item) is not list or [type(value) for value in item] != [str, int, str, int, int, int, int]:
            return None
        return cls(*item)

    def entry(self, path: bytes, size: int) -> Entry:
        """What the manifest would have said."""
        return Entry(path, FILE, self.mode, self.uid, self.gid, self.mtime, size, self.hash)


def _canonical(item: Any) -> bytes:
    return json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _refuse(where: str, reason: str) -> NoReturn:
    raise IntegrityError(
        "%s cannot be believed: %s" % (printable(where), reason),
        kind="manifest",
        field=NAME,
        found=reason,
        allowed="what a backup wrote there",
        next="restore it from a copy; without one move it away: the next look makes it anew from the objects, without modes, links and empty directories",
    )
