# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is fetched at once, where it has to lie here before it can be restored."""

from __future__ import annotations

from typing import List, Sequence

from ..manifest.entry import Entry

# What a restore holds twice for a moment (bytes).
_PORTION = 256 << 20


def portions_of(entries: Sequence[Entry]) -> List[Sequence[Entry]]:
    """``entries`` cut into runs of a bounded size."""
    found: List[Sequence[Entry]] = []
    start = size = 0
    for number, entry in enumerate(entries):
        if size and size + entry.size > _PORTION:
            found.append(entries[start:number])
            start, size = number, 0
        size += entry.size
    return [*found, entries[start:]]
