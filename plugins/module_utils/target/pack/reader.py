# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading sealed content: of each pack what is needed of it is asked for once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Dict, Generator, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from .format import Blob, PackKey
from .repository import Repository
from .sealing import broken

# A pack of which at least this share is needed is read in one piece, also where requests cost nothing.
_WHOLE_FROM = 0.5
# Pieces that are kept (each of up to 64 MiB and a little).
_KEPT = 2


class PackReader:
    """Gives the content of blobs, of which ``needed`` says beforehand which will be asked for, about in that order. To be closed.

    A pack of which the blobs are needed one after the other is read as it comes; any other is kept as a whole for a while."""

    def __init__(self, repository: Repository, sizes: Mapping[str, int], needed: Iterable[Blob]) -> None:
        self._repository = repository
        blobs = list(dict.fromkeys(needed))
        share: Dict[str, int] = {}
        self._spans: Dict[str, Tuple[int, int]] = {}
        for blob in blobs:
            share[blob.pack] = share.get(blob.pack, 0) + blob.length
            start, end = self._spans.get(blob.pack, (blob.offset, 0))
            self._spans[blob.pack] = min(start, blob.offset), max(end, blob.offset + blob.length)
        if repository.store.requests is None:
            self._spans = {pack: span for pack, span in self._spans.items() if share[pack] >= _WHOLE_FROM * sizes.get(pack, 0)}
        self._unread = _read_in_order(blobs).intersection(self._spans)  # of those that are read as they come
        self._pack = ""  # which of them is read now, and of it the bytes from ``_at`` on
        self._at = 0
        self._window = b""
        self._coming: Generator[bytes, None, None] = _nothing()
        self._kept: OrderedDict[str, Optional[bytes]] = OrderedDict()
        self._keys: Dict[str, PackKey] = {}

    def close(self) -> None:
        """Let go of what is on its way."""
        self._coming.close()

    def read(self, digest: str, blob: Blob) -> bytes:
        """The content of a blob. ``IntegrityError`` (kind ``seal``) where it is not what it was."""
        return self._key(blob).open_blob(blob, digest, self._found(blob))

    def read_unhashed(self, blob: Blob) -> bytes:
        """The same for one who hashes what comes of it, and takes nothing of it before."""
        return self._key(blob).open_sized(blob, self._found(blob))

    def _key(self, blob: Blob) -> PackKey:
        if blob.pack not in self._keys:
            self._keys = {blob.pack: self._repository.pack_key(blob.pack)}
        return self._keys[blob.pack]

    def _found(self, blob: Blob) -> bytes:
        sealed = self._sealed(blob)
        if sealed is None or len(sealed) != blob.length:
            raise broken("pack %s is missing or too short" % blob.pack)
        return sealed

    def _sealed(self, blob: Blob) -> Optional[bytes]:
        if blob.pack in self._unread:
            self._unread.remove(blob.pack)
            self._coming.close()
            start, end = self._spans[blob.pack]
            self._pack, self._at, self._window = blob.pack, start, b""
            self._coming = self._repository.store.pieces(self._repository.pack_name(blob.pack), start, end - start)
        if blob.pack == self._pack and blob.offset >= self._at:
            return self._as_it_comes(blob)
        if blob.pack not in self._spans or blob.pack == self._pack:
            return self._get(blob.pack, blob.offset, blob.offset + blob.length)
        if blob.pack not in self._kept:
            if len(self._kept) == _KEPT:
                self._kept.popitem(last=False)
            self._kept[blob.pack] = self._get(blob.pack, *self._spans[blob.pack])
        self._kept.move_to_end(blob.pack)
        data = self._kept[blob.pack]
        start = blob.offset - self._spans[blob.pack][0]
        return None if data is None else data[start : start + blob.length]

    def _as_it_comes(self, blob: Blob) -> bytes:
        """Of the pack that is read now. What lies before the blob may be forgotten, and the blob not yet: it may be asked for again."""
        start = blob.offset - self._at
        lacking = start + blob.length - len(self._window)
        if lacking > 0:
            passed = min(start, len(self._window))
            pieces = [self._window[passed:]]
            while lacking > 0:
                data = next(self._coming, b"")
                if not data:
                    break
                lacking -= len(data)
                pieces.append(data)
            self._window = b"".join(pieces)
            self._at += passed
            start -= passed
        return self._window[start : start + blob.length]

    def _get(self, pack: str, start: int, end: int) -> Optional[bytes]:
        return self._repository.store.get(self._repository.pack_name(pack), start, end - start)


def _nothing() -> Generator[bytes, None, None]:
    yield from ()


def _read_in_order(blobs: Iterable[Blob]) -> Set[str]:
    """The packs of which the blobs come one after the other, as they lie there."""
    ends: Dict[str, int] = {}
    odd: Set[str] = set()
    before = ""
    for blob in blobs:
        if blob.offset < ends.get(blob.pack, 0) or (blob.pack in ends and blob.pack != before):
            odd.add(blob.pack)
        ends[blob.pack] = blob.offset + blob.length
        before = blob.pack
    return set(ends) - odd


def in_order(pieces: Iterable[Tuple[str, List[Tuple[str, Blob]]]]) -> List[Tuple[str, List[Tuple[str, Blob]]]]:
    """Files, each with its blobs, in the order in which these lie in their packs."""
    return sorted(pieces, key=lambda item: item[1][0][1][:3])


def by_pack(files: Sequence[Tuple[str, List[Tuple[str, Blob]]]]) -> List[List[Tuple[str, List[Tuple[str, Blob]]]]]:
    """``files``, each with its blobs, in groups of which no two need the same pack; each group in the order in which it lies there."""
    above: Dict[str, str] = {}

    def top(pack: str) -> str:
        while above.setdefault(pack, pack) != pack:
            pack = above[pack] = above[above[pack]]
        return pack

    for _digest, pieces in files:
        for _name, blob in pieces[1:]:
            above[top(blob.pack)] = top(pieces[0][1].pack)
    groups: Dict[str, List[Tuple[str, List[Tuple[str, Blob]]]]] = {}
    for item in files:
        groups.setdefault(top(item[1][0][1].pack), []).append(item)
    return [in_order(group) for group in groups.values()]
