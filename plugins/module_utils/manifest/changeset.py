# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The difference between two manifests: all that rsync or a bucket ever gets to see of a host."""

from __future__ import annotations

from typing import Dict, NamedTuple, Optional, Tuple

from .document import Manifest
from .entry import DIRECTORY, Entry


class ChangeSet(NamedTuple):
    """What leads from a base to a new manifest.

    ``added`` and ``removed``: paths of one side; ``modified``: type, content, link target or device changed; ``metadata``: only owner, mode,
    times, xattrs or links changed; ``touched``: directories of which only the time moved. Pairs are (old, new). All sorted by path.
    """

    added: Tuple[Entry, ...]
    modified: Tuple[Tuple[Entry, Entry], ...]
    metadata: Tuple[Tuple[Entry, Entry], ...]
    removed: Tuple[Entry, ...]
    touched: Tuple[Tuple[Entry, Entry], ...]

    @property
    def is_empty(self) -> bool:
        """Whether both manifests hold the same, directory times aside."""
        return not (self.added or self.modified or self.metadata or self.removed)

    def counts(self) -> Dict[str, int]:
        """``{added, modified, metadata, removed}``."""
        return {"added": len(self.added), "modified": len(self.modified), "metadata": len(self.metadata), "removed": len(self.removed)}


def diff(base: Optional[Manifest], new: Manifest) -> ChangeSet:
    """Compare two manifests; without a base everything is added."""
    if base is None:
        return ChangeSet(tuple(new.entries), (), (), (), ())
    old = {entry.path: entry for entry in base.entries_not_in(new)}
    added, modified, metadata, touched = [], [], [], []
    for entry in new.entries_not_in(base):
        before = old.pop(entry.path, None)
        if before is None:
            added.append(entry)
        elif _is_modified(before, entry):
            modified.append((before, entry))
        elif entry.type == DIRECTORY and before._replace(mtime=0) == entry._replace(mtime=0):
            touched.append((before, entry))
        else:
            metadata.append((before, entry))
    return ChangeSet(tuple(added), tuple(modified), tuple(metadata), tuple(sorted(old.values())), tuple(touched))


def _is_modified(old: Entry, new: Entry) -> bool:
    return (old.type, old.size, old.hash, old.link, old.device) != (new.type, new.size, new.hash, new.link, new.device)
