# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is fetched at once, where it has to lie here before it can be restored."""

from __future__ import annotations

from typing import List, Sequence

from ..manifest.entry import Entry

# What lies beside its place for a moment (bytes), twice where it has to be copied from there.
_PORTION = 256 << 20


def portions_of(groups: Sequence[Sequence[Entry]]) -> List[Sequence[Entry]]:
    """Entries in portions of a bounded size; a group is only parted where it alone is larger."""
    found: List[List[Entry]] = [[]]
    size = 0
    for group in groups:
        fits = size + sum(entry.size for entry in group) <= _PORTION
        for entry in group:
            if size and not fits and (entry is group[0] or size + entry.size > _PORTION):
                found.append([])
                size = 0
            found[-1].append(entry)
            size += entry.size
    return list(found)
