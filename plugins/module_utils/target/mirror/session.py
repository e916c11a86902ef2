# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session on a mirror: write the objects that changed, then the manifest that speaks of them, and mark success last."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from ...errors import RUN_OUT, RefusedError, TargetError, UsageError, counted, printable
from ...manifest.document import Manifest
from ...manifest.entry import FILE, Entry
from ...manifest.walk import Descent, open_file
from ...transfer.pace import rate_of
from ...transfer.rsync import Options
from ..contract import Delivery, IncompleteError, Receipt, Sent, Session, Shortfall, Tell
from ..succession import time_after
from ..tree.layout import damaged_paths
from .condition import NOBODY, each, receipt_of
from .document import MARK, NAME, Document, Note, Place
from .places import SIGN, conflicts, is_old, key_of, places_of
from .store import ABSENT, Content, Found, MirrorStore, content_of, make_md5

# A larger file is read twice instead of being kept in memory (bytes), and one that is larger still is no single upload anywhere.
_IN_MEMORY = 16 << 20
_LARGEST = 5 << 30
_BLOCK = 1 << 20


class Base(NamedTuple):
    """What a session goes on from: the manifest that is there with its tag, the objects where they were just listed, and those that are not what the
    manifest says because earlier sessions died (``astray``: names, with tags)."""

    document: Optional[Document]
    tag: str
    listed: Optional[Mapping[str, Found]]
    astray: Mapping[str, str]


class MirrorSession(Session):
    """Objects are replaced one by one; until the manifest is there, each bears a note of what it is."""

    def __init__(self, store: MirrorStore, tx: str, base: Base, mine: Set[str], overrules: bool, published: Callable[[Document, str], None]) -> None:
        self._store = store
        self._tx = tx
        self._base = base
        self._mine = mine
        self._overrules = overrules
        self._published = published
        self._places: Optional[Dict[str, bytes]] = None
        self._sent: Dict[bytes, Place] = {}
        self._hashes: Dict[bytes, str] = {}
        self._failed: Dict[bytes, str] = {}
        self._left: List[str] = []
        self._uploads = 0
        self._hashed = 0
        document = base.document
        self._sequence = document.receipt.sequence + 1 if document is not None else 1
        damaged = damaged_paths(document.snapshot()) if document is not None else set()
        held = document.manifest.by_path() if document is not None else {}
        # Where an object of the base has the content of which path.
        places = document.places if document is not None else {}
        self._known = {path: held[path].hash for path, place in places.items() if path not in damaged and place.key not in base.astray}

    @property
    def left(self) -> Sequence[str]:
        """Objects that were to go, and stay because somebody else changed them."""
        return self._left

    def trust_base(self, manifest: Manifest) -> None:
        """Nothing: the base is the manifest that lies there."""

    # ---- what is wanted --------------------------------------------------------------------------------------------------------

    def _key(self, entry: Entry, manifest: Optional[Manifest] = None) -> str:
        if self._places is None:
            assert manifest is not None
            self._places = places_of(manifest.header.sources)
        key = key_of(entry.path, self._places)
        if key is None:
            raise UsageError(
                "%s lies in no place of the mirror" % printable(b"/" + entry.path),
                field="sources",
                found=b"/" + entry.path,
                allowed=", ".join(printable(b"/" + root) for root in self._places.values()),
                next="report this, with the policy",
            )
        return key

    def _place(self, entry: Entry, key: str) -> Optional[Place]:
        """Where the content of a file lies, if it lies where it should."""
        if self._hashes.get(entry.path) == entry.hash:
            return self._sent[entry.path]
        if self._known.get(entry.path) == entry.hash and self._base.document is not None:
            place = self._base.document.places[entry.path]
            return place if place.key == key else None
        return None

    def wanted(self, manifest: Manifest) -> List[Entry]:
        return [entry for entry in manifest.entries if entry.type == FILE and self._place(entry, self._key(entry, manifest)) is None]

    # ---- sending ---------------------------------------------------------------------------------------------------------------

    def send(self, delivery: Delivery, options: Options, tell: Optional[Tell] = None) -> Sent:
        self._failed = {}
        self._store.limit(rate_of(options.bwlimit) if options.bwlimit else None)
        entries = [entry for entry in delivery.wanted if entry.type == FILE]
        keys = [self._key(entry) for entry in entries]
        reader = _Reader(delivery)
        seen = self._look(keys)
        changed = [entry for entry, key in zip(entries, keys) if not self._may_replace(entry, seen.get(key), reader)]
        if changed:
            raise _changed([self._key(entry) for entry in changed])
        self._make_way(keys)
        self._store.announce({key: Note.of(entry, self._tx, self._sequence).to_text() for entry, key in zip(entries, keys)})

        def carry(entry: Entry) -> int:
            size = self._carry(entry, seen.get(self._key(entry)), reader)
            if tell is not None:
                tell(1, entry.size)
            return size

        # By that one object moltworker tells that its files are there, and no longer in the places of older releases.
        first: List[Entry] = []
        last: List[Entry] = []
        for entry in entries:
            (last if self._key(entry) == SIGN else first).append(entry)
        carried = [size for part in (first, last) for size in each(carry, part, self._store.streams) if size >= 0]
        self._uploads += len(carried)
        return Sent(len(carried), sum(carried), sum(carried))

    def _look(self, keys: Sequence[str]) -> Mapping[str, Found]:
        """What is there under these names."""
        if self._base.listed is not None:
            return self._base.listed
        return {key: found for key, found in zip(keys, each(self._store.look, keys, self._store.streams)) if found is not None}

    def _tag(self, path: bytes, key: str) -> Optional[str]:
        """The tag of the version that this history has written."""
        if path in self._sent:
            return self._sent[path].tag
        document = self._base.document
        place = document.places.get(path) if document is not None else None
        return place.tag if place is not None and place.key == key else None

    def _may_replace(self, entry: Entry, found: Optional[Found], reader: _Reader) -> bool:
        """Whether an object is one that was written here, or has the content that it is to get."""
        if found is None or found.tag == self._tag(entry.path, found.name) or self._overrules:
            return True
        note = Note.from_text(found.note)
        if note is not None and note.tx in self._mine:
            return True
        document = self._base.document
        if document is not None and document.removing.get(found.name) == found.tag:
            return True
        content = reader.read(entry)
        return content is None or content.tag == found.tag

    def _carry(self, entry: Entry, found: Optional[Found], reader: _Reader) -> int:
        """Store a file; how many bytes were sent. -1 where it is there already, or is not as its manifest says, which the commit is told."""
        content = reader.read(entry)
        if content is None:
            self._failed[entry.path] = "hash"
            return -1
        try:
            self._hashed += entry.size
            key = self._key(entry)
            if found is not None and found.tag == content.tag:
                tag: Optional[str] = found.tag
            else:
                note = Note.of(entry, self._tx, self._sequence).to_text()
                tag = self._store.replace(key, content, found.tag if found is not None else ABSENT, note)
            if tag is None:
                raise _changed([key])
            self._sent[entry.path], self._hashes[entry.path] = Place(key, tag), entry.hash
            return -1 if found is not None and found.tag == content.tag else entry.size
        finally:
            if not isinstance(content.body, bytes):
                content.body.close()

    def _make_way(self, keys: Sequence[str]) -> None:
        """Take away what was a file and is to be a directory, or the other way round: it cannot wait for the manifest."""
        document = self._base.document
        if document is not None:
            doomed = {**{place.key: place.tag for place in document.places.values() if not is_old(place.key)}, **self._base.astray}
            self._delete({key: doomed[key] for key in conflicts(keys, list(doomed))})

    # ---- publishing ------------------------------------------------------------------------------------------------------------

    def commit(self, manifest: Manifest, tell: Optional[Tell] = None) -> Receipt:
        files = [(entry, self._key(entry, manifest)) for entry in manifest.entries if entry.type == FILE]
        places = {entry.path: self._place(entry, key) for entry, key in files}
        short = [path for path, place in places.items() if place is None]
        if short:
            raise IncompleteError([Shortfall(path, self._failed.get(path, "missing")) for path in short])
        held = {path: place for path, place in places.items() if place is not None}
        used: Dict[str, bytes] = {}
        for path, place in held.items():
            if used.setdefault(place.key, path) != path:
                raise _same_name(path, used[place.key])
        base = self._base.document
        created = time_after(base.snapshot() if base is not None else None, self._store.clock())
        receipt = receipt_of(manifest, created, self._sequence, base.receipt.id if base is not None else None, self._tx, self._uploads, self._hashed)
        final = manifest.with_header(id=receipt.id, sequence=receipt.sequence, parent=receipt.parent, created=created)
        gone, old = self._surplus(set(used))
        document = Document(receipt, final, held, gone, old)
        publish(self._store, document, self._base.tag, self._delete, self._published)
        return receipt

    def _surplus(self, used: Set[str]) -> "tuple[Dict[str, str], Dict[str, str]]":
        """The objects that are to go, and those below the prefixes of older releases, which stay until the run after this one."""
        base = self._base.document
        if base is None:
            return {}, {}
        gone = {place.key: place.tag for place in base.places.values() if not is_old(place.key)}
        gone.update(base.removing)
        gone.update(self._base.astray)
        old = {place.key: place.tag for place in base.places.values() if is_old(place.key)}
        if base.receipt.tx == NOBODY:
            old.update(base.old)
        else:
            gone.update(base.old)
        return {key: tag for key, tag in gone.items() if key not in used}, old

    def _delete(self, doomed: Mapping[str, str]) -> None:
        keys = list(doomed)
        seen = self._look(keys)
        mine = [key for key in keys if key in seen and (seen[key].tag == doomed[key] or self._overrules)]
        self._left += [key for key in keys if key in seen and key not in mine]
        each(self._store.delete, mine, self._store.streams)

    def close(self, *, keep: bool = False) -> None:
        """What was written stays: it bears its note, and the next session goes on from it."""


def publish(
    store: MirrorStore, document: Document, before: str, delete: Callable[[Mapping[str, str]], None], published: Callable[[Document, str], None]
) -> None:
    """Write the manifest over the one with the tag ``before``, remove what is to go, and mark success. While objects go, the manifest says so: it never
    speaks of one that is not there."""
    now = store.look(NAME)
    if (now.tag if now is not None else ABSENT) != before:
        raise late()
    tag = store.replace(NAME, content_of(document.to_bytes()), before)
    if tag is None:
        raise late()
    published(document, tag)
    if document.removing:
        delete(document.removing)
        document = document.having(removing={})
        tag = store.replace(NAME, content_of(document.to_bytes()), tag)
        if tag is None:
            raise late()
        published(document, tag)
    mark(store, document)
    store.settle()


def mark(store: MirrorStore, document: Document) -> None:
    """Say that all of it is there."""
    content = content_of(document.mark())
    for _attempt in range(3):
        now = store.look(MARK)
        if store.replace(MARK, content, now.tag if now is not None else ABSENT) is not None:
            return
    raise late()


def late() -> RefusedError:
    """The refusal where somebody else has written the manifest."""
    return RefusedError(
        "Another session wrote to this mirror in the meantime",
        kind="writer",
        field="target",
        found=NAME,
        allowed="one machine that writes to a mirror",
        next="run again; if this repeats, find the other machine, and give it a prefix of its own",
    )


def _changed(keys: Sequence[str]) -> RefusedError:
    return RefusedError(
        "%s of the mirror was not written from here, the first is %s" % (counted(len(keys), "object"), printable(min(keys))),
        kind="foreign_change",
        field="target",
        found=min(keys),
        allowed="objects as the manifest says they are",
        next="look at what changed there (`openclaw-backup verify POLICY`) and copy what is worth keeping; then `openclaw-backup run POLICY --adopt` writes "
        "this host's files over it; nothing was published",
    )


def _same_name(path: bytes, other: bytes) -> UsageError:
    return UsageError(
        "%s and %s would be the same object" % (printable(b"/" + path), printable(b"/" + other)),
        kind="name",
        field="sources",
        found=b"/" + path,
        allowed="names of which no two are written alike",
        next="rename one of them; names that are not UTF-8 are written with \u201b",
    )


class _Reader:
    """Reads what is to be sent, where it lies."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def read(self, entry: Entry) -> Optional[Content]:
        """A file with its hashes; None where it is not as its manifest says. A large one is an open file, to be closed."""
        if entry.size > _LARGEST:
            raise TargetError(
                "%s is larger than an object of a mirror can be" % printable(b"/" + entry.path),
                kind="too_large",
                field="sources",
                found=entry.size,
                allowed="%d bytes" % _LARGEST,
                next="exclude it, or use layout pack",
            )
        delivery = self._delivery
        path = entry.path
        if entry.group is not None and path not in delivery.staged and entry.group in delivery.staged:
            path = entry.group
        try:
            with Descent(delivery.staging if path in delivery.staged else delivery.root) as root:
                fd, _found = open_file(*root.parent(path))
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            return None
        stream = open(fd, "rb", buffering=0)
        whole, short, size = hashlib.sha256(), make_md5(), 0
        kept: List[bytes] = []
        with suppress(OSError):
            while size <= entry.size:
                block = stream.read(_BLOCK)
                if not block:
                    break
                size += len(block)
                whole.update(block)
                short.update(block)
                if entry.size <= _IN_MEMORY:
                    kept.append(block)
        if size != entry.size or whole.hexdigest() != entry.hash:
            stream.close()
            return None
        if entry.size <= _IN_MEMORY:
            stream.close()
            return Content(b"".join(kept), whole.digest(), short.digest())
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        return Content(stream, whole.digest(), short.digest())
