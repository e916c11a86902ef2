# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What objects say of themselves: a mirror without its manifest, what an unfinished run left, and what others changed."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from typing import AbstractSet, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

from ...errors import IntegrityError
from ...manifest.document import Header, Manifest
from ...manifest.entry import DIRECTORY, FILE, Entry
from ...manifest.walk import Descent, open_file
from ...observe.audit import rfc3339
from ...version import VERSION
from ..contract import Receipt
from ..sources import PORTABLE
from ..tree.layout import make_id
from .document import Document, Note, Place
from .places import OLD_PLACES, is_key, is_old, path_of, places_of
from .store import ABSENT, Found, MirrorStore, make_md5

# The transaction of a manifest that no run made.
NOBODY = "0" * 32
# What a receipt of a mirror says instead of a way to clone.
OBJECTS = "objects"
_BLOCK = 1 << 23

T = TypeVar("T")
S = TypeVar("S")


class Condition(NamedTuple):
    """How the objects of a mirror stand against its manifest.

    ``document``: with what an unfinished run has written already; ``is_ahead``: it has that, so that it is not what the store holds; ``changed``: paths
    whose object is another than was written; ``missing``: paths whose object is gone; ``unknown``: objects in the mirror's places that nobody knows.
    """

    document: Document
    is_ahead: bool
    changed: Tuple[bytes, ...]
    missing: Tuple[bytes, ...]
    unknown: Tuple[str, ...]


def each(function: Callable[[S], T], items: Sequence[S], streams: int) -> List[T]:
    """What ``function`` makes of every item, in order; so many at once."""
    if streams == 1 or len(items) < 2:
        return [function(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(streams) as threads:
        return list(threads.map(function, items))


def old_prefixes(keys: Iterable[str]) -> Dict[str, int]:
    """How many of the objects lie below each prefix of an older release."""
    found: Dict[str, int] = {}
    for key in keys:
        place = key.partition("/")[0]
        if place in OLD_PLACES:
            found[place + "/"] = found.get(place + "/", 0) + 1
    return found


# ---- without a manifest --------------------------------------------------------------------------------------------------


def rebuild(store: MirrorStore, listed: Sequence[Found], places: Mapping[str, bytes], host: str, policy: str) -> Document:
    """The manifest of objects that somebody else wrote: the same for the same objects, whoever asks. An object below a prefix of an older release counts
    where none is at the place that it has today.

    Content is hashed: of a file that is here with the same MD5, else of the object. Where all of it is what first runs wrote that died, it is the state of
    the last of these.
    """
    chosen: Dict[bytes, Found] = {}
    losers: Dict[str, str] = {}
    for item in sorted(listed, key=lambda item: is_old(item.name)):
        path = path_of(item.name, places)
        if path is None:
            continue
        if path in chosen:
            losers[item.name] = item.tag
        else:
            chosen[path] = item
    roots = tuple(places.values())
    sources = sorted(root for root in roots if not any(root.startswith(other + b"/") for other in roots))
    # A source without an object was empty when that was written.
    folders = {folder for path in chosen for folder in _above(path)}.union(*((root, *_above(root)) for root in sources if root not in chosen))
    files = [(path, item) for path, item in sorted(chosen.items()) if path not in folders]
    uid, gid = os.geteuid(), os.getegid()
    begun: List[Tuple[float, str]] = []

    def describe(pair: Tuple[bytes, Found]) -> Optional[Tuple[Entry, Place]]:
        path, item = pair
        digest = _hash_here(path, item)
        if digest is None and item.size <= _BLOCK:
            answer = store.read(item.name)
            seen = answer[1] if answer is not None else None
            digest = hashlib.sha256(answer[0]).hexdigest() if answer is not None else None
        else:
            digest = digest or _hash_there(store, item)
            seen = store.look(item.name)
            if seen is not None and seen.tag != item.tag:  # replaced meanwhile
                return describe((path, seen))
        if seen is None or digest is None:
            return None
        note = Note.from_text(seen.note)
        place = Place(item.name, seen.tag)
        if note is not None and note.hash == digest:
            if note.sequence == 1:
                begun.append((item.at, note.tx))
            return note.entry(path, seen.size), place
        return Entry(path, FILE, 0o600, uid, gid, int(seen.at * 10**9), seen.size, digest), place

    described = [pair for pair in each(describe, files, store.streams) if pair is not None]
    entries = [entry for entry, _place in described]
    newest = max((item.at for item in listed), default=0.0)
    for folder in folders:
        mode, owner, group = 0o700, uid, gid
        if not any(folder == root or folder.startswith(root + b"/") for root in roots):  # above the sources it is this machine's
            mode, owner, group = 0o755, 0, 0
            with suppress(OSError):
                found = os.lstat(b"/" + folder)
                mode, owner, group = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
        entries.append(Entry(folder, DIRECTORY, mode, owner, group, int(newest * 10**9)))
    created = rfc3339(newest)
    header = Header(host, policy, tuple("/" + os.fsdecode(root) for root in sources), {}, VERSION, created)
    manifest = Manifest.from_entries(header, entries)
    tx = max(begun)[1] if begun and len(begun) == len(described) else NOBODY
    return _document(manifest, created, 1, None, tx, {entry.path: place for entry, place in described}, losers)


def _document(
    manifest: Manifest, created: str, sequence: int, parent: Optional[str], tx: str, places: Mapping[bytes, Place], old: Mapping[str, str]
) -> Document:
    receipt = receipt_of(manifest, created, sequence, parent, tx, 0, 0)
    final = manifest.with_header(id=receipt.id, sequence=sequence, parent=parent, created=created)
    held = {entry.path for entry in final.entries if entry.type == FILE}
    return Document(receipt, final, {path: place for path, place in places.items() if path in held}, {}, old)


def receipt_of(manifest: Manifest, created: str, sequence: int, parent: Optional[str], tx: str, received: int, verified: int) -> Receipt:
    """The receipt of a state of a mirror."""
    header = manifest.header
    return Receipt(
        id=make_id(created, manifest.digest),
        sequence=sequence,
        parent=parent,
        created=created,
        claimed=header.claimed,
        host=header.host,
        policy=header.policy,
        tx=tx,
        digest=manifest.digest,
        content_digest=manifest.content_digest,
        entries=len(manifest.lines),
        files=manifest.files,
        bytes=manifest.total_size,
        received_files=received,
        verified_bytes=verified,
        linked=max(0, manifest.files - received),
        copied=0,
        link_limit=0,
        storage=PORTABLE,
        engine=VERSION,
        clone=OBJECTS,
    )


def _above(path: bytes) -> List[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:at]) for at in range(1, len(parts))]


def _hash_here(path: bytes, item: Found) -> Optional[str]:
    """The SHA-256 of the file at its path on this machine, where that has the bytes of the object."""
    if len(item.tag) != 32:
        return None
    with suppress(OSError):
        with Descent(b"/") as root:
            fd, seen = open_file(*root.parent(path))
        with open(fd, "rb", buffering=0) as stream:
            if seen.st_size != item.size:
                return None
            whole, short = hashlib.sha256(), make_md5()
            for block in iter(lambda: stream.read(_BLOCK), b""):
                whole.update(block)
                short.update(block)
            return whole.hexdigest() if short.hexdigest() == item.tag else None
    return None


def pieces(store: MirrorStore, key: str, size: int) -> Iterable[bytes]:
    """The bytes of an object of that size; fewer where it has fewer."""
    for at in range(0, size, _BLOCK):
        data = store.get(key, at, min(_BLOCK, size - at))
        if not data:
            return
        yield data


def _hash_there(store: MirrorStore, item: Found) -> str:
    whole = hashlib.sha256()
    for data in pieces(store, item.name, item.size):
        whole.update(data)
    return whole.hexdigest()


# ---- beside a manifest -----------------------------------------------------------------------------------------------------


def examine(store: MirrorStore, document: Document, listed: Sequence[Found]) -> Condition:
    """Hold the objects against the manifest."""
    there = {item.name for item in listed}
    paths = {place.key: path for path, place in document.places.items()}
    missing = [path for key, path in paths.items() if key not in there]
    odd, notes = _odd(store, document, listed)
    places = places_of(document.manifest.header.sources)
    fresh: Dict[bytes, Tuple[Entry, Place]] = {}
    writer = ""
    changed: List[bytes] = []
    unknown: List[str] = []
    for item in odd:
        seen = notes.get(item.name)
        note = Note.from_text(seen.note) if seen is not None else None
        path = paths.get(item.name) or path_of(item.name, places)
        if seen is not None and note is not None and path is not None and note.sequence == document.receipt.sequence + 1 and not is_old(item.name):
            fresh[path] = (note.entry(path, seen.size), Place(item.name, seen.tag))
            writer = note.tx
        elif item.name in paths:
            changed.append(paths[item.name])
        else:
            unknown.append(item.name)
    ahead = _ahead(document, fresh, writer, max((notes[place.key].at for _entry, place in fresh.values()), default=0.0)) if fresh else None
    return Condition(ahead or document, ahead is not None, tuple(sorted(changed)), tuple(sorted(missing)), tuple(sorted(unknown)))


def _odd(store: MirrorStore, document: Document, listed: Sequence[Found]) -> Tuple[List[Found], Dict[str, Found]]:
    """Objects of which the manifest says something else, or nothing; those that are still there with their notes, by name."""
    known = {**document.old, **document.removing, **{place.key: place.tag for place in document.places.values()}}
    odd = [item for item in listed if is_key(item.name) and known.get(item.name) != item.tag]
    return odd, {item.name: seen for item, seen in zip(odd, each(lambda item: store.look(item.name), odd, store.streams)) if seen is not None}


def astray(store: MirrorStore, document: Document, mine: Optional[AbstractSet[str]]) -> Dict[str, str]:
    """What sessions ``mine`` that died made another than the manifest says, by name with its tag, which is empty where the object is gone. With None for
    ``mine`` what anybody did to the objects that the manifest speaks of."""
    listed = store.objects()
    there = {item.name for item in listed}
    spoken = {place.key for place in document.places.values() if not is_old(place.key)}
    found = dict.fromkeys(spoken.difference(there), ABSENT)
    for name, seen in _odd(store, document, listed)[1].items():
        note = Note.from_text(seen.note)
        if name in spoken if mine is None else note is not None and note.tx in mine:
            found[name] = seen.tag
    return found


def _ahead(document: Document, fresh: Mapping[bytes, Tuple[Entry, Place]], tx: str, at: float) -> Optional[Document]:
    """The state with what an unfinished run wrote; None where that cannot be believed."""
    old = document.manifest
    groups = {entry.group for entry in old.entries if entry.path in fresh and entry.group is not None}
    # What was below a path that has become a file is gone, and what was a file above one is a directory now.
    kept = [entry for entry in old.entries if fresh.keys().isdisjoint(_above(entry.path))]
    by_path = {entry.path: entry._replace(group=None) if entry.group in groups else entry for entry in kept}
    for path, (entry, _place) in fresh.items():
        by_path[path] = entry
        for folder in _above(path):
            if folder not in by_path or (by_path[folder].type != DIRECTORY and folder not in fresh):
                by_path[folder] = Entry(folder, DIRECTORY, 0o700, entry.uid, entry.gid, entry.mtime)
    header = Header(old.header.host, old.header.policy, old.header.sources, old.header.selection, VERSION, old.header.claimed)
    try:
        manifest = Manifest(header, Manifest.from_entries(header, by_path.values()).lines)
        assert manifest.entries  # which looks at every line
    except IntegrityError:
        return None
    created = max(rfc3339(at), document.receipt.created)
    places = {**document.places, **{path: place for path, (_entry, place) in fresh.items()}}
    moved = {place.key: place.tag for path, place in document.places.items() if path in fresh and is_old(place.key)}
    found = _document(manifest, created, document.receipt.sequence + 1, document.receipt.id, tx, places, {**document.old, **moved})
    return found.having(removing=document.removing)
