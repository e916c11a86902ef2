# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session that takes in a snapshot of another vault: sealed anew with this history's key, published under the receipt and manifest that it has there.

Each block is hashed before it is sealed, whatever it comes from. What is in the store of a copy that was cut off, a journal on this machine knows.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...manifest.document import Manifest
from ...manifest.entry import Entry
from ...manifest.walk import Descent
from ...observe.audit import rfc3339
from ..contract import Delivery, Receipt, Snapshot, Tell, Thresholds
from ..succession import check_origin
from ..tree.layout import write_file
from .format import PACK, Blob, Contents
from .making import Made, PackMaker, cut
from .reader import PackReader, by_pack
from .repository import Commit, Repository, Whole
from .session import LEASE, PackSession

if TYPE_CHECKING:
    from ...transfer.pace import Pace

# What is so much younger than a day no prune that is at work can have seen a day old (s).
_MARGIN = 3600.0
# One file, or part of it: its entry, and its blobs with their digests.
_Files = List[Tuple[Entry, List[Tuple[str, Blob]]]]


class Stored(NamedTuple):
    """Packs that no manifest names yet, by the journal: where content lies in them, and their sizes in bytes."""

    contents: Contents
    sizes: Dict[str, int]


class Journal:
    """The packs that copies into one repository have stored under the key of that id and not published, a line for each, in a file at ``path``. To lose it
    costs uploads alone."""

    def __init__(self, path: bytes, repository: str, key: str) -> None:
        self._path = path
        self._repository = "%s %s" % (repository, key)
        self._lock = threading.Lock()

    def read(self) -> Stored:
        """What it tells of; a line that was cut short, or is of another repository or key, tells of nothing."""
        stored = Stored(Contents({}, {}), {})
        with suppress(FileNotFoundError), open(self._path, "rb") as stream:
            for line in stream:
                with suppress(ValueError, KeyError, TypeError, AttributeError):
                    item = json.loads(line)
                    if item["repository"] == self._repository:
                        blobs = {str(name): Blob(str(pack), *map(int, place)) for name, (pack, *place) in item["blobs"].items()}
                        stored.contents.files.update((str(name), tuple(map(str, blocks))) for name, blocks in item["files"].items())
                        stored.contents.blobs.update(blobs)
                        stored.sizes.update((str(pack), int(size)) for pack, size in item["sizes"].items())
        return stored

    def note(self, pack: str, size: int, blobs: Mapping[str, Blob]) -> None:
        """A pack is in the store. May be called by several processes and threads at once: a line is one write."""
        self._append(_line(self._repository, blobs, {}, {pack: size}))

    def note_files(self, files: Mapping[str, Tuple[str, ...]]) -> None:
        """Of which blocks files are made that are larger than one."""
        if files:
            self._append(_line(self._repository, {}, files, {}))

    def _append(self, line: bytes) -> None:
        with self._lock, open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "ab", buffering=0) as stream:
            stream.write(line)

    def keep(self, stored: Stored) -> None:
        """Forget all but these packs."""
        if not stored.sizes:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        write_file(self._path, _line(self._repository, stored.contents.blobs, stored.contents.files, stored.sizes))


def _line(repository: str, blobs: Mapping[str, Blob], files: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> bytes:
    item = {"repository": repository, "blobs": {name: list(blob) for name, blob in blobs.items()}, "files": files, "sizes": sizes}
    return json.dumps(item, separators=(",", ":")).encode("ascii") + b"\n"


class PackCopySession(PackSession):
    """Takes in ``origin`` of the vault ``source`` (for messages); ``base``: the newest snapshot here, whose content is not sent again."""

    def __init__(
        self, repository: Repository, tx: str, base: Optional[Commit], origin: Snapshot, source: str, journal: Journal, thresholds: Thresholds
    ) -> None:
        super().__init__(repository, tx, origin.receipt.sequence, base, origin.tags, thresholds)
        self.origin = origin
        self.source = source
        self._journal = journal

    def open(self) -> None:
        super().open()
        stored = self._journal.read()
        if not stored.sizes:
            return
        # No prune takes what nobody names while this lies there. One that looked for it before may be at what is a day old.
        repository = self._repository
        self._lease.say()
        repository.store.forget()
        named = {pack for commit in repository.commits() if not commit.removed for pack in commit.packs}
        young = repository.store.clock() - LEASE + _MARGIN
        prefix = repository.name("packs") + "/"
        found = [(item.name[len(prefix) :], item) for item in repository.store.list(prefix)]
        there = {pack: item.size for pack, item in found if pack in named or item.at > young}
        stored = _part_of(stored, {pack for pack, size in stored.sizes.items() if there.get(pack) == size})
        self._mine += stored.sizes
        self._contents = stored.contents.plus(self._contents)
        self._sizes = {**stored.sizes, **self._sizes}

    def _check_clock(self) -> None:
        """The time of a copy is its origin's."""

    def missing(self, manifest: Manifest) -> List[Entry]:
        """The files whose content has to come: not in the newest snapshot here, and not stored by a session that was cut off."""
        check_origin(manifest, self.origin, self.source)
        return self.wanted(manifest)

    # ---- what comes ------------------------------------------------------------------------------------------------------------

    def take(self, tree: Descent, entries: Sequence[Entry], tell: Optional[Tell] = None, pace: Optional[Pace] = None) -> int:
        """Seal files that lie under their paths below ``tree``; bytes that went to the store. What is not as its entry says is not taken, and the commit
        names it. The store keeps the pace, so that there is none to keep here."""
        place = os.readlink(b"/proc/self/fd/%d" % tree.root_fd)
        return self._noted(lambda: self._store_files(Delivery(place, entries, place, frozenset(), {}), tell, self._journal.note))

    def take_sealed(self, source: Repository, whole: Whole, entries: Sequence[Entry], tell: Optional[Tell] = None) -> int:
        """Take files from the packs of another repository, block by block; bytes that went to the store. Of a file only those blocks are read that are
        not here; no file comes to lie on a disk."""
        known = self._contents.blobs
        found: _Files = []
        for entry in entries:
            pieces = whole.contents.pieces(entry.hash)
            if pieces is None or sum(blob.size for _name, blob in pieces) != entry.size:
                self._failed[entry.path] = "missing" if pieces is None else "size"
            else:
                found.append((entry, pieces))
        by_hash = {entry.hash: (entry, pieces) for entry, pieces in found}
        groups: List[_Files] = [[by_hash[digest] for digest, _pieces in group] for group in by_pack([(entry.hash, pieces) for entry, pieces in found])]
        weights = [sum(blob.length for _entry, pieces in group for name, blob in pieces if name not in known) for group in groups]
        cuts = cut(weights, PACK)
        assert source.id and source.master

        def work(start: int, stop: int, tell: Tell) -> Made:
            files = [item for group in groups[cuts[start][0] : cuts[stop - 1][1]] for item in group]
            needed = (blob for _entry, pieces in files for name, blob in pieces if name not in known)
            with closing(PackReader(source, whole.commit.packs, needed)) as reader:

                def read(pieces: Sequence[Tuple[str, Blob]]) -> Iterator[Optional[bytes]]:
                    for name, blob in pieces:
                        yield None if name in known else reader.read(name, blob)

                maker = PackMaker(self._repository, known, PACK, self._journal.note)
                return maker.make_of_blocks(((entry, [name for name, _blob in pieces], read(pieces)) for entry, pieces in files), tell)

        return self._noted(lambda: self._store_shares(work, [sum(weights[start:stop]) for start, stop in cuts], tell, source.store))

    def _noted(self, store: Callable[[], int]) -> int:
        before = set(self._contents.files)
        wire = store()
        self._journal.note_files({name: blocks for name, blocks in self._contents.files.items() if name not in before})
        return wire

    # ---- publishing ------------------------------------------------------------------------------------------------------------

    def commit(self, manifest: Manifest, tell: Optional[Tell] = None) -> Receipt:
        contents = self._complete(manifest)
        receipt = self.origin.receipt
        self._publish(self._seal(manifest, contents, self._header(receipt, self._hold_after_anomaly(manifest, receipt, contents))))
        self._lease.end()
        stored = self._journal.read()
        self._journal.keep(_part_of(stored, stored.sizes.keys() - contents.packs))
        return receipt

    def _header(self, receipt: Receipt, holds: Optional[Mapping[str, str]]) -> Dict[str, Any]:
        # Not from where: that is nobody's business who merely keeps the store.
        return {**super()._header(receipt, holds), "copied": {"at": rfc3339(time.time())}}

    def _hold_after_anomaly(self, manifest: Manifest, receipt: Receipt, contents: Contents) -> Optional[Dict[str, str]]:
        if self._base is None or receipt.parent != self._base.receipt.id:
            return None
        return super()._hold_after_anomaly(manifest, receipt, contents)

    def _is_free(self, numbers: Sequence[int]) -> bool:
        return self._number not in numbers

    def _put_first(self, name: str, data: bytes) -> bool:
        repository, base = self._repository, self._base
        newest = base.number if base is not None else 0
        if self._number != newest + 1:  # a store cannot tell of one that came in between under another number
            repository.store.forget()
            now = repository.newest()
            if (now.receipt.id if now is not None else None) != (base.receipt.id if base is not None else None):
                return False
        if self._is_free(repository.numbers()) and super()._put_first(name, data):
            return True
        repository.store.forget()
        there = repository.find(self.origin.receipt)
        return there is not None and there.receipt == self.origin.receipt  # another copy of it was faster

    def close(self, *, keep: bool = False) -> None:
        """What is stored stays, as the journal knows: each block of it is proven. What nobody takes up, a prune removes after a day."""
        self._mine = []
        self._lease.end()


def _part_of(stored: Stored, packs: AbstractSet[str]) -> Stored:
    """What of it lies in these packs."""
    blobs = {name: blob for name, blob in stored.contents.blobs.items() if blob.pack in packs}
    files = {name: blocks for name, blocks in stored.contents.files.items() if all(block in blobs for block in blocks)}
    return Stored(Contents(blobs, files), {pack: size for pack, size in stored.sizes.items() if pack in packs})
