# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From files to packs in the store: what one process reads, seals and stores of a session."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...errors import RUN_OUT
from ...manifest.entry import Entry
from ...manifest.walk import Descent, open_file
from ..contract import Delivery, Tell
from .format import BLOCK, ID_BYTES, Blob, PackWriter
from .repository import Repository

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

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


def cut(entries: Sequence[Entry], size: int) -> List[Tuple[int, int]]:
    """Ranges of ``entries`` that fill a pack of ``size`` bytes each, as far as they go."""
    found: List[Tuple[int, int]] = []
    start = total = 0
    for index, entry in enumerate(entries):
        if total and total + entry.size > size:
            found.append((start, index))
            start, total = index, 0
        total += entry.size
    return [*found, (start, len(entries))]


class PackMaker:
    """Takes files, and stores packs as they fill up (``size`` bytes of content). ``known``: content that need not be taken again, by its digest."""

    def __init__(self, repository: Repository, known: Mapping[str, Blob], size: int) -> None:
        self._repository = repository
        self._known = known
        self._size = size
        self._writer: Optional[PackWriter] = None
        self._made = Made({}, {}, {}, {}, 0, 0, None)
        self._sent = 0
        self._hashed = 0
        self._threads: Optional[ThreadPoolExecutor] = None
        self._under_way: List[Future[bool]] = []

    def make(self, delivery: Delivery, entries: Sequence[Entry], tell: Optional[Tell]) -> Made:
        """Store the content of ``entries``."""
        try:
            with Descent(delivery.root) as live, Descent(delivery.staging if delivery.staged else delivery.root) as private:
                for entry in entries:
                    self._take(private if entry.path in delivery.staged else live, entry, tell)
            self._flush(is_last=True)
            self._wait(0)
        finally:
            if self._threads is not None:
                self._threads.shutdown()
        return self._made._replace(sent=self._sent, hashed=self._hashed, report=self._repository.store.report())

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
        self._made.blobs[digest] = self._writer.add(digest, block)

    def _flush(self, *, is_last: bool = False) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        data = writer.finish()
        self._made.sizes[writer.pack] = len(data)
        name, put = self._repository.pack_name(writer.pack), self._repository.put
        if self._repository.store.streams == 1 or (is_last and self._threads is None):
            put(name, data)
            return
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(_UNDER_WAY)
        self._wait(_UNDER_WAY - 1)
        self._under_way.append(self._threads.submit(put, name, data))

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
