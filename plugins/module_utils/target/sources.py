# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each path of a new snapshot gets its content from. Host and vault come to the same answer from the same two manifests."""

from __future__ import annotations

from typing import AbstractSet, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

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
    fresh = {entry.path for entry in (new.entries if base is None else new.entries_not_in(base))}
    native = storage == NATIVE
    changed: List[Entry] = []
    for entry in new.entries:
        kind = entry.type
        is_known = entry.path not in fresh
        if kind == DIRECTORY:
            plan.directories.append(entry)
        elif entry.group is not None and entry.group != entry.path:
            plan.followers.append(entry)
        elif is_known and (kind == FILE or native) and entry.path not in distrusted:
            plan.linked.append(entry)
        elif kind != FILE:
            plan.specials.append(entry)
        else:
            changed.append(entry)
    if changed:
        _place_changed(plan, changed, fresh, base, new, native, distrusted)
    return plan


def _place_changed(
    plan: Sources,
    changed: Sequence[Entry],
    taken: Set[bytes],
    base: Optional[Manifest],
    new: Manifest,
    native: bool,
    distrusted: AbstractSet[bytes],
) -> None:
    """Find what the base can give to files whose lines are not in it. Only lines of the base that the new manifest lacks are parsed.

    ``taken``: those paths of the new manifest whose lines the base lacks; a path of both whose line differs is no free donor of an inode.
    """
    hashes = {entry.hash for entry in changed}
    donors = {(entry.size, entry.hash): entry for entry in plan.linked if entry.hash in hashes}
    gone: Dict[bytes, Entry] = {}
    if base is not None:
        gone = {old.path: old for old in base.entries_not_in(new) if old.type == FILE and old.path not in distrusted}
        for old in gone.values():
            donors.setdefault((old.size, old.hash), old)
    for entry in changed:
        before = gone.get(entry.path)
        if before is not None and before.same_content(entry):
            if not native or (before.same_inode_state(entry) and before.group == entry.group):
                plan.linked.append(entry)
            else:
                plan.donated.append((entry, before.path, False))
            continue
        donor = donors.get((entry.size, entry.hash))
        if donor is None or not entry.size:
            plan.wanted.append(entry)
        else:
            # A renamed file keeps its inode; a second name for one that stays would make a hard link that never was.
            moved = donor.path in gone and donor.path not in taken and donor.group is None and entry.group is None and donor.same_inode_state(entry)
            if moved:
                taken.add(donor.path)
            plan.donated.append((entry, donor.path, moved or not native))


class Edits(NamedTuple):
    """What makes of a whole copy of the base's tree the new one: paths to remove, files that stay and get other metadata, and then what to place."""

    removed: List[bytes]
    retouched: List[Entry]
    placed: Sources


def plan_edits(plan: Sources, base: Manifest, new: Manifest, distrusted: AbstractSet[bytes] = frozenset()) -> Edits:
    """The part of ``plan``, which was made of the same manifests, that a copy of the base's tree does not have already."""
    gone = {old.path: old for old in base.entries_not_in(new)}
    unsure = {entry.path for entry in new.entries_not_in(base)}.union(distrusted)
    retouched, donated = [], []
    for entry, donor, share in plan.donated:
        # Metadata can be changed in place where no other name leads to the inode.
        is_alone = entry.group is None and donor == entry.path and gone[donor].group is None
        if is_alone:
            retouched.append(entry)
        else:
            donated.append((entry, donor, share))
    specials = [entry for entry in plan.specials if entry.path in unsure]
    leaders = {entry.path for entries in (plan.wanted, specials) for entry in entries}.union(entry.path for entry, _donor, _share in donated)
    followers = [entry for entry in plan.followers if entry.path in unsure or entry.group in leaders]
    directories = [entry for entry in plan.directories if entry.path in unsure]
    # A received file is renamed over the one that it replaces.
    stay = {entry.path for entries in (plan.linked, retouched) for entry in entries}
    stay.update(entry.path for entry in directories if entry.path not in gone or gone[entry.path].type == DIRECTORY)
    stay.update(entry.path for entry in plan.wanted if entry.path not in gone or gone[entry.path].type == FILE)
    removed = {path for path in gone if path not in stay}
    removed.update(entry.path for entries in (specials, followers) for entry in entries)
    removed.update(entry.path for entry, _donor, _share in donated)
    return Edits(sorted(removed), retouched, Sources(directories, [], donated, specials, followers, plan.wanted))
