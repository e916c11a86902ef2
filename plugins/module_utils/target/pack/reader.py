# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading sealed content: whole packs where most of one is needed, ranges where little is."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Dict, Iterable, List, Optional, Tuple

from .format import Blob, PackKey
from .repository import Repository
from .sealing import broken

# A pack of which at least this share is needed is read as a whole.
_WHOLE_FROM = 0.5
# Whole packs that are kept (each of up to 64 MiB and a little).
_KEPT = 2


class PackReader:
    """Gives the content of blobs, of which ``needed`` says beforehand which will be asked for."""

    def __init__(self, repository: Repository, sizes: Dict[str, int], needed: Iterable[Blob]) -> None:
        self._repository = repository
        share: Counter[str] = Counter()
        for blob in set(needed):
            share[blob.pack] += blob.length
        self._whole = {pack for pack, size in share.items() if size >= _WHOLE_FROM * sizes.get(pack, 0)}
        self._kept: OrderedDict[str, Optional[bytes]] = OrderedDict()
        self._keys: Dict[str, PackKey] = {}

    def read(self, digest: str, blob: Blob) -> bytes:
        """The content of a blob. ``IntegrityError`` (kind ``seal``) where it is not what it was."""
        sealed = self._sealed(blob)
        if sealed is None or len(sealed) != blob.length:
            raise broken("pack %s is missing or too short" % blob.pack)
        if blob.pack not in self._keys:
            self._keys = {blob.pack: self._repository.pack_key(blob.pack)}
        return self._keys[blob.pack].open_blob(blob, digest, sealed)

    def _sealed(self, blob: Blob) -> Optional[bytes]:
        name = self._repository.pack_name(blob.pack)
        if blob.pack not in self._whole:
            return self._repository.store.get(name, blob.offset, blob.length)
        if blob.pack not in self._kept:
            if len(self._kept) == _KEPT:
                self._kept.popitem(last=False)
            self._kept[blob.pack] = self._repository.store.get(name)
        self._kept.move_to_end(blob.pack)
        data = self._kept[blob.pack]
        return None if data is None else data[blob.offset : blob.offset + blob.length]


def in_order(pieces: Iterable[Tuple[str, List[Tuple[str, Blob]]]]) -> List[Tuple[str, List[Tuple[str, Blob]]]]:
    """Files, each with its blobs, in the order in which these lie in their packs."""
    return sorted(pieces, key=lambda item: item[1][0][1][:3])
