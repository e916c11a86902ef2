# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each path of a new snapshot gets its content from. Host and vault come to the same answer from the same two manifests."""

from __future__ import annotations

from typing import AbstractSet, Dict, List, NamedTuple, Optional, Set, Tuple

from ..manifest.document import Manifest
from ..manifest.entry import DIRECTORY, FILE, Entry

NATIVE, PORTABLE = "native", "portable"


class Sources(NamedTuple):
    """The plan of a commit.

    ``directories`` parents first; ``linked``: shares the base's inode of that path; ``donated``: (entry, path in the base with the same bytes, may
    its inode be shared); ``specials``: made from the manifest; ``followers`` of hard-link groups; ``wanted``: content that must be sent.
    """

    directories: List[Entry]
    linked: List[Entry]
    donated: List[Tuple[Entry, bytes, bool]]
    specials: List[Entry]
    followers: List[Entry]
    wanted: List[Entry]


def plan_sources(base: Optional[Manifest], new: Manifest, storage: str, distrusted: AbstractSet[bytes] = frozenset()) -> Sources:
    """Divide the entries of ``new`` by where their content comes from.

    ``storage``: native inodes bear metadata, portable ones only bytes. ``distrusted`` paths of the base are known to be damaged there.
    """
    plan = Sources([], [], [], [], [], [])
    base_lines = frozenset(base.lines) if base is not None else frozenset()
    base_entries: Dict[bytes, Entry] = {}
    donors: Dict[Tuple[int, str], Entry] = {}
    taken: Set[bytes] = set()
    native = storage == NATIVE
    for entry, line in zip(new.entries, new.lines):
        kind = entry.type
        if kind == DIRECTORY:
            plan.directories.append(entry)
        elif entry.group is not None and entry.group != entry.path:
            plan.followers.append(entry)
        elif line in base_lines and (kind == FILE or native) and entry.path not in distrusted:
            plan.linked.append(entry)
        elif kind != FILE:
            plan.specials.append(entry)
        else:
            if base is not None and not base_entries:
                base_entries = {old.path: old for old in base.entries if old.path not in distrusted}
                donors = {(old.size, old.hash): old for old in base_entries.values() if old.type == FILE}
                taken = {item.path for item in new.entries}
            old = base_entries.get(entry.path)
            if old is not None and old.same_content(entry):
                if not native or (old.same_inode_state(entry) and old.group == entry.group):
                    plan.linked.append(entry)
                else:
                    plan.donated.append((entry, old.path, False))
                continue
            donor = donors.get((entry.size, entry.hash))
            if donor is None or not entry.size:
                plan.wanted.append(entry)
            else:
                # A renamed file keeps its inode; a second name for one that stays would make a hard link that never was.
                moved = donor.path not in taken and donor.group is None and entry.group is None and donor.same_inode_state(entry)
                if moved:
                    taken.add(donor.path)
                plan.donated.append((entry, donor.path, moved or not native))
    return plan
