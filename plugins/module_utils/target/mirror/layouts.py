# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A layout for each directory: what of a snapshot lies in the mirror, too."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import List, Sequence, Set, Tuple, Union

from ...errors import UsageError
from ...manifest.document import Manifest
from ...manifest.entry import DIRECTORY
from .places import places_of

MIRROR = "mirror"


class Layouts:
    """Which layout is that of a path: that of the longest path above it which has one, packs where there is none."""

    def __init__(self, layouts: Sequence[Tuple[str, str]]) -> None:
        self._layouts = {os.fsencode(path).strip(b"/"): layout for path, layout in layouts}

    def of(self, path: bytes) -> str:
        """The layout of a path (relative to ``/``)."""
        at = path
        while at and at not in self._layouts:
            at = at.rpartition(b"/")[0]
        return self._layouts.get(at, "")

    def roots(self, sources: Sequence[str]) -> List[bytes]:
        """The directories that begin in the mirror. ``UsageError`` where there is none."""
        own = [os.fsencode(source).strip(b"/") for source in sources]
        found: Set[bytes] = set()
        for path, layout in self._layouts.items():
            if layout == MIRROR:
                found.update([path] if any(_is_within(path, source) for source in own) else [source for source in own if _is_within(source, path)])
        found = {path for path in found if self.of(path) == MIRROR}
        roots = sorted(path for path in found if not (path.rpartition(b"/")[0] and self.of(path.rpartition(b"/")[0]) == MIRROR and _below(path, found)))
        if not roots:
            raise UsageError(
                "target.layout gives none of the sources to the mirror",
                kind="policy",
                field="target.layout",
                found=", ".join(os.fsdecode(b"/" + path) for path in self._layouts),
                allowed="a source, a directory in one, or one that holds sources",
                next="name one of %s, or write layout pack" % ", ".join(sources),
            )
        return roots

    def part(self, manifest: Manifest) -> Manifest:
        """What a mirror is to hold of it: what has that layout, and the directories above."""
        roots = self.roots(manifest.header.sources)
        kept = [entry for entry in manifest.entries if self.of(entry.path) == MIRROR]
        paths = {entry.path for entry in kept}
        above = {folder for path in (*paths, *roots) for folder in _folders(path)}.difference(paths)
        kept += [entry for entry in manifest.entries if entry.path in above and entry.type == DIRECTORY]
        alone = [entry._replace(group=None) if entry.group is not None and entry.group not in paths else entry for entry in kept]
        databases = {path: counts for path, counts in manifest.header.databases.items() if os.fsencode(path) in paths}
        header = replace(manifest.header, sources=tuple("/" + os.fsdecode(root) for root in roots), databases=databases, parent=None)
        return Manifest.from_entries(header, alone)


def _is_within(path: bytes, folder: bytes) -> bool:
    return not folder or path == folder or path.startswith(folder + b"/")


def _below(path: bytes, others: Set[bytes]) -> bool:
    return any(other != path and _is_within(path, other) for other in others)


def _folders(path: bytes) -> List[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:at]) for at in range(1, len(parts))]


def check_sources(layout: Union[str, Sequence[Tuple[str, str]]], sources: Sequence[str]) -> None:
    """``UsageError`` where a mirror, or the mirror of a hybrid, has no places for these sources."""
    if not isinstance(layout, str):
        sources = ["/" + os.fsdecode(root) for root in Layouts(layout).roots(sources)]
    places_of(sources)
