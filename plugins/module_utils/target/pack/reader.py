# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading sealed content: of each pack in one piece what is needed of it, and the next piece while this one is opened."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .format import Blob, PackKey
from .repository import Repository
from .sealing import broken

if TYPE_CHECKING:
    from concurrent.futures import Future

# A pack of which at least this share is needed is read in one piece, also where requests cost nothing.
_WHOLE_FROM = 0.5
# Pieces that are kept (each of up to 64 MiB and a little).
_KEPT = 2


class PackReader:
    """Gives the content of blobs, of which ``needed`` says beforehand which will be asked for, about in that order. To be closed."""

    def __init__(self, repository: Repository, sizes: Mapping[str, int], needed: Iterable[Blob]) -> None:
        self._repository = repository
        share: Dict[str, int] = {}
        self._spans: Dict[str, Tuple[int, int]] = {}
        for blob in dict.fromkeys(needed):
            share[blob.pack] = share.get(blob.pack, 0) + blob.length
            start, end = self._spans.get(blob.pack, (blob.offset, 0))
            self._spans[blob.pack] = min(start, blob.offset), max(end, blob.offset + blob.length)
        if repository.store.requests is None:
            self._spans = {pack: span for pack, span in self._spans.items() if share[pack] >= _WHOLE_FROM * sizes.get(pack, 0)}
        self._ahead = list(reversed(self._spans)) if repository.store.streams > 1 else []
        self._coming: Dict[str, Future[Optional[bytes]]] = {}
        self._kept: OrderedDict[str, Optional[bytes]] = OrderedDict()
        self._keys: Dict[str, PackKey] = {}
        self._thread = None
        if len(self._ahead) > 1:
            from concurrent.futures import ThreadPoolExecutor

            self._thread = ThreadPoolExecutor(1)

    def close(self) -> None:
        """Wait for what is on its way."""
        if self._thread is not None:
            self._ahead.clear()
            self._thread.shutdown()

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
        span = self._spans.get(blob.pack)
        if span is None:
            return self._repository.store.get(self._repository.pack_name(blob.pack), blob.offset, blob.length)
        if blob.pack not in self._kept:
            if len(self._kept) == _KEPT:
                self._kept.popitem(last=False)
            self._kept[blob.pack] = self._piece(blob.pack)
        self._kept.move_to_end(blob.pack)
        data = self._kept[blob.pack]
        return None if data is None else data[blob.offset - span[0] : blob.offset - span[0] + blob.length]

    def _piece(self, pack: str) -> Optional[bytes]:
        coming = self._coming.pop(pack, None)
        if pack in self._ahead:
            self._ahead.remove(pack)
        if self._thread is not None and self._ahead and not self._coming:
            following = self._ahead.pop()
            self._coming[following] = self._thread.submit(self._get, following)
        return coming.result() if coming is not None else self._get(pack)

    def _get(self, pack: str) -> Optional[bytes]:
        start, end = self._spans[pack]
        return self._repository.store.get(self._repository.pack_name(pack), start, end - start)


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
