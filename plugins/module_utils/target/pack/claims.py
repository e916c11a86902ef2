# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who was first, in a store that cannot tell: writers announce themselves, and go on only where nobody else has."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator

from ...errors import RefusedError

if TYPE_CHECKING:
    from .repository import Repository

# An announcement that is older, by the store's clock, is that of a dead writer (s). A writer gives up long before.
_DEAD_AFTER = 600.0
_PATIENCE = 60.0
# One of a dead run of this machine is out of the way sooner: after what may still be on its way from it.
_LEFT_DEAD_AFTER = 40.0
_PAUSE = 0.05


@contextmanager
def alone(repository: Repository, what: str, tx: str) -> Iterator[None]:
    """No other writer is in here for the same ``what`` (a short word) at the same time. ``RefusedError`` (kind ``writer``) where one is.

    Two writers who both go on would each have to have listed before the other announced itself, and announced itself before it listed. Of two who
    see each other the lower ``tx`` waits until the other has withdrawn, or is done. What is to be done once must be looked for again in here.
    What a dead run of this machine announced nobody withdraws: that is waited for.
    """
    prefix = repository.name("claims", what) + "-"
    own = prefix + tx
    store = repository.store
    started = time.monotonic()
    left = store.left()
    repository.put(own, b"")
    try:
        while True:
            now = store.clock()
            others = [
                item.name for item in store.list(prefix) if item.name != own and item.at >= now - (_LEFT_DEAD_AFTER if item.name in left else _DEAD_AFTER)
            ]
            alive = [name for name in others if name not in left]
            if time.monotonic() - started > _PATIENCE or (alive and min(alive) < own):
                raise RefusedError(
                    "Another session commits to this history at this moment",
                    kind="writer",
                    field="parent",
                    found=(others or [own])[0][len(prefix) :],
                    next="run again; if this repeats, two machines write as host %s" % repository.host,
                )
            if not others:
                break
            time.sleep(_PAUSE)
        for name in left:
            store.delete(name)
        yield
    finally:
        store.delete(own)
