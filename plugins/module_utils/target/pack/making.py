# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From files to packs in the store: what one process reads, seals and stores of a session."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...errors import RUN_OUT, IntegrityError
from ...manifest.entry import Entry
from ...manifest.walk import Descent, open_file
from ..contract import Delivery, Tell
from .format import BLOCK, ID_BYTES, Blob, PackWriter
from .repository import Repository

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# Of a pack that is in the store: its id, its size in bytes, and the blobs in it by their digests.
Note = Callable[[str, int, Mapping[str, Blob]], None]

# Packs on their way at once from one process; each is in memory (up to 64 MiB and a little).
_UNDER_WAY = 2


class Made(NamedTuple):
    """What was stored: where content lies now, ``files`` larger than a block by the digests of their blocks, the sizes of the new packs (bytes), why
    paths could not be had as their entries say, how many files were taken and bytes hashed, and what the store has to say (``Store.report``)."""

    blobs: Dict[str, Blob]
    files: Dict[str, Tuple[str, ...]]
    sizes: Dict[str, int]
    failed: Dict[bytes, str]
    sent: int
    hashed: int
    report: Any


def cut(weights: Sequence[int], size: int) -> List[Tuple[int, int]]:
    """Ranges of what has these sizes (bytes) that fill a pack of ``size`` bytes each, as far as they go."""
    found: List[Tuple[int, int]] = []
    start = total = 0
    for index, weight in enumerate(weights):
        if total and total + weight > size:
            found.append((start, index))
            start, total = index, 0
        total += weight
    return [*found, (start, len(weights))]


class PackMaker:
    """Takes files, and stores packs as they fill up (``size`` bytes of content). ``known``: content that need not be taken again, by its digest;
    ``note`` hears of each pack that is in the store, perhaps in another thread."""

    def __init__(self, repository: Repository, known: Mapping[str, Blob], size: int, note: Optional[Note] = None) -> None:
        self._repository = repository
        self._known = known
        self._size = size
        self._note = note
        self._writer: Optional[PackWriter] = None
        self._inside: Dict[str, Blob] = {}  # what the writer has
        self._made = Made({}, {}, {}, {}, 0, 0, None)
        self._sent = 0
        self._hashed = 0
        self._threads: Optional[ThreadPoolExecutor] = None
        self._under_way: List[Future[None]] = []

    def make(self, delivery: Delivery, entries: Sequence[Entry], tell: Optional[Tell]) -> Made:
        """Store the content of ``entries``."""
        try:
            with Descent(delivery.root) as live, Descent(delivery.staging if delivery.staged else delivery.root) as private:
                for entry in entries:
                    self._take(private if entry.path in delivery.staged else live, entry, tell)
            return self._finish()
        finally:
            self._end()

    def make_of_blocks(self, files: Iterable[Tuple[Entry, Sequence[str], Iterable[Optional[bytes]]]], tell: Tell) -> Made:
        """Store the content of files that come in blocks: each with the digests of its blocks, and these, proven, or None for one that is known. A file
        whose blocks cannot be had (``IntegrityError``), or together are not what its entry says, is not taken for it."""
        try:
            for entry, names, blocks in files:
                self._take_blocks(entry, names, blocks, tell)
            return self._finish()
        finally:
            self._end()

    def _take_blocks(self, entry: Entry, names: Sequence[str], blocks: Iterable[Optional[bytes]], tell: Tell) -> None:
        whole = hashlib.sha256()
        came = 0
        try:
            for name, block in zip(names, blocks):
                if block is not None:
                    whole.update(block)
                    came += len(block)
                    self._add(name, block)
                    tell(0, len(block))
        except IntegrityError:
            self._made.failed[entry.path] = "hash"
            return
        self._hashed += came
        # What lies here already was proven when it came; which blocks make up the file is then the sealed word of the vault that it comes from.
        if came == entry.size and whole.hexdigest() != entry.hash:
            self._made.failed[entry.path] = "hash"
            return
        if entry.size > BLOCK:
            self._made.files[entry.hash] = tuple(names)
        self._sent += 1
        tell(1, entry.size - came)

    def _finish(self) -> Made:
        self._flush(is_last=True)
        self._wait(0)
        return self._made._replace(sent=self._sent, hashed=self._hashed, report=self._repository.store.report())

    def _end(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    def _take(self, root: Descent, entry: Entry, tell: Optional[Tell]) -> None:
        """Seal one file. What is not as its manifest says is not taken for it, and the commit will say so."""
        told = 0
        try:
            parent, name = root.parent(entry.path)
            fd, _found = open_file(parent, name)
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            self._made.failed[entry.path] = "missing"
            return
        try:
            whole = hashlib.sha256()
            names: List[str] = []
            size = 0
            while size <= entry.size:
                try:
                    block = _read(fd, entry.size - size, entry.size > BLOCK)
                except OSError:
                    self._made.failed[entry.path] = "missing"
                    return
                if not block:
                    break
                size += len(block)
                whole.update(block)
                digest = hashlib.sha256(block).hexdigest() if entry.size > BLOCK else whole.hexdigest()
                if entry.size <= BLOCK and (digest != entry.hash or size != entry.size):
                    break
                names.append(digest)
                self._add(digest, block)
                if tell is not None:
                    tell(0, min(len(block), entry.size - told))
                    told += min(len(block), entry.size - told)
                if size == entry.size <= BLOCK:
                    break  # it was asked for one byte more already
            self._hashed += size
            if size != entry.size or whole.hexdigest() != entry.hash:
                self._made.failed[entry.path] = "size" if size != entry.size else "hash"
                return
            if entry.size > BLOCK:
                self._made.files[entry.hash] = tuple(names)
            self._sent += 1
        finally:
            os.close(fd)
            if tell is not None:
                tell(1, entry.size - told)

    def _add(self, digest: str, block: bytes) -> None:
        if digest in self._known or digest in self._made.blobs:
            return
        if self._writer is not None and self._writer.plain + len(block) > self._size:
            self._flush()
        if self._writer is None:
            self._writer = PackWriter(self._repository.master, self._repository.id, os.urandom(ID_BYTES).hex())
        self._made.blobs[digest] = self._inside[digest] = self._writer.add(digest, block)

    def _flush(self, *, is_last: bool = False) -> None:
        writer, self._writer = self._writer, None
        inside, self._inside = self._inside, {}
        if writer is None:
            return
        data = writer.finish()
        self._made.sizes[writer.pack] = len(data)
        if self._repository.store.streams == 1 or (is_last and self._threads is None):
            self._store(writer.pack, data, inside)
            return
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(_UNDER_WAY)
        self._wait(_UNDER_WAY - 1)
        self._under_way.append(self._threads.submit(self._store, writer.pack, data, inside))

    def _store(self, pack: str, data: bytes, inside: Mapping[str, Blob]) -> None:
        self._repository.put(self._repository.pack_name(pack), data)
        if self._note is not None:
            self._note(pack, len(data), inside)

    def _wait(self, left: int) -> None:
        """Until no more than ``left`` packs are on their way."""
        while len(self._under_way) > left:
            self._under_way.pop(0).result()


def _read(fd: int, left: int, is_large: bool) -> bytes:
    """The next block of an open file of which ``left`` bytes should still come, and one byte more where it has grown."""
    most = min(BLOCK, left + 1) if is_large else left + 1
    enough = min(BLOCK, left) if is_large else left
    data = os.read(fd, most)
    while data and len(data) < enough:  # seldom: a regular file gives what it has
        more = os.read(fd, most - len(data))
        if not more:
            break
        data += more
    return data
