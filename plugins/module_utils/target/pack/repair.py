# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting right what a verification found wrong in packs: what of them is whole, and what another vault gives for the rest, goes into new ones.

No object is written to. Each snapshot that needs a damaged pack gets a new edition that names other places, as where packs are mostly waste.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from typing import AbstractSet, Dict, List, Optional, Sequence, Set

from ...errors import RUN_OUT
from ...manifest.entry import Entry
from ...manifest.walk import Descent, open_file
from ..contract import Rewritten, Tell
from .format import BLOCK, Blob
from .reader import PackReader
from .repository import Repository, Whole
from .rewrite import Rewrite
from .session import lacking


class Mend(Rewrite):
    """The repair of the packs ``bad`` of one history. ``lost``: the digests of what is needed of them and lies whole nowhere in it.

    As a context it is at work: no prune takes what it has stored and not yet named."""

    def __init__(self, repository: Repository, bad: AbstractSet[str], tell: Optional[Tell] = None) -> None:
        super().__init__(repository, tell)
        self._bad = bad
        self.lost: Set[str] = set()

    def __enter__(self) -> Mend:
        self._lease.say()
        self._repository.store.forget()
        return self

    def __exit__(self, *_error: object) -> None:
        self._lease.end()

    def look(self) -> None:
        """Find what is lost. Writes nothing."""
        survey = self._survey()
        wanted: Dict[str, Dict[Blob, str]] = {pack: survey.live[pack] for pack in survey.live if pack in self._bad and pack not in survey.shut}
        self._sizes.update(survey.sizes)
        with closing(PackReader(self._repository, self._sizes, (blob for blobs in wanted.values() for blob in sorted(blobs)))) as reader:
            for blobs in wanted.values():
                self.lost.update(blobs[blob] for blob in sorted(blobs) if self._read(survey, reader, blobs[blob], {}, blob) is None)

    def needed(self, whole: Whole) -> List[Entry]:
        """The files of a snapshot, each content once, of which something is lost."""
        return lacking(whole.manifest, lambda digest: not self.lost.intersection(name for name, _blob in whole.contents.pieces(digest) or ()))

    def take(self, tree: Descent, entries: Sequence[Entry]) -> None:
        """Store what is lost as it lies under the paths of ``entries`` below ``tree``; what is not what it should be stays lost."""
        for entry in entries:
            try:
                parent, name = tree.parent(entry.path)
                fd, _found = open_file(parent, name)
            except OSError as error:
                if error.errno in RUN_OUT:
                    raise
                continue
            try:
                for offset in range(0, entry.size, BLOCK):
                    block = os.pread(fd, min(BLOCK, entry.size - offset), offset)
                    digest = hashlib.sha256(block).hexdigest()
                    if digest in self.lost:
                        self._add(digest, block)
                        self.lost.discard(digest)
            finally:
                os.close(fd)

    def finish(self) -> Rewritten:
        """Store the rest of the damaged packs anew, and publish the editions. Of a pack of which something stays lost everything stays where it is."""
        survey = self._survey()
        self._rewrite(survey, [pack for pack in survey.live if pack in self._bad and pack not in survey.shut], lambda commit: False)
        return self._finished()
