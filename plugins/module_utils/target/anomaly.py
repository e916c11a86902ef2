# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Anomaly: does a snapshot differ from the one before it as ransomware, or a wipe, would make it differ? Whoever commits it judges.

That most content is gone is a signal whatever took its place; who upgrades everything at once can switch that off and keep the one that no upgrade gives:
many files under their names that cannot be compressed any more where they could be, or begin otherwise. What is looked at is chosen by chance when the
snapshot is there already: who writes it cannot spare just that.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left
from typing import Callable, List, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar

from ..manifest.document import Manifest
from ..manifest.entry import FILE, Entry
from ..observe.progress import format_bytes
from .contract import Thresholds

# Of fewer files a share says little.
FEW = 20
# So many changed files are looked at: 512 reads, whatever the size of the tree.
SAMPLED = 64
# The first bytes of a file that are looked at: what encrypts only a part of each file, to be quick, begins there ...
HEAD = 4096
# ... or spares just these, for which so many other places of so many bytes are looked at. Of larger ones a pattern of encrypted pieces would be a part only ...
PLACES = 3
PLACE = 1024
# ... and of fewer bytes nobody can say whether they are encrypted.
LEAST = 256
# Where a file goes on under a longer name, it may be one of many that begin so: some are looked at.
NAMES = 4
# A smaller growth fills no vault.
GROWTH_FROM = 64 << 20
# How formats are known: of one kind even files that cannot be compressed begin alike.
_MARK = 2
# What is larger than this share of itself once it is packed cannot be compressed ...
PACKED = 0.95
# ... and what is smaller than this one surely could: text, tables, programs.
PLAIN = 0.85
# Who compresses in bulk names the files so, and keeps the rest of their names.
_COMPRESSED = (b".gz", b".bz2", b".xz", b".zst", b".lz4", b".lzo", b".Z", b".br", b".zip", b".7z")

# Whether the second of two files, which has taken the place of the first, looks encrypted; None where it cannot be told.
Look = Callable[[Entry, Entry], Optional[bool]]
# A number from 0 on and below the one that is given.
Chance = Callable[[int], int]
T = TypeVar("T")


class _Changes(NamedTuple):
    """Files of the base that are not as they were: ``removed``: nothing has their name, or an empty file; ``replaced``: their name has other content,
    with what it has now; ``renamed``: removed ones whose name goes on in that of new ones; ``files``: how many the base has in all."""

    removed: List[Entry]
    replaced: List[Tuple[Entry, List[Entry]]]
    renamed: List[Tuple[Entry, List[Entry]]]
    files: int


def by_chance(below: int) -> int:
    """A number that nobody can foresee."""
    return int.from_bytes(os.urandom(8), "big") % below


def judge(thresholds: Thresholds, base: Manifest, manifest: Manifest, look: Look, chance: Chance) -> Optional[str]:
    """What about a snapshot makes it an anomaly, with numbers; None where nothing does. ``base``: the manifest of the one before it."""
    changes = _compare(base, manifest, chance)
    signals = [
        _removed(thresholds.removed_percent, manifest, changes) or _changed(thresholds.changed_percent, manifest, changes),
        _grown(thresholds.growth_percent, base, manifest),
        _encrypted(thresholds.encrypted_percent, changes, look, chance),
    ]
    return "; ".join(signal for signal in signals if signal) or None


def places_of(old: Entry, new: Entry, chance: Chance) -> List[Tuple[int, int]]:
    """Where to look at two files of ``LEAST`` bytes or more: (offset, bytes), the beginning first."""
    return [(0, HEAD), *((chance(min(old.size, new.size) - LEAST + 1), PLACE) for _place in range(PLACES))]


def looks_encrypted(old: Sequence[bytes], new: Sequence[bytes]) -> Optional[bool]:
    """Judge by what is in some places of a file, before and after, the first of which is its beginning; None where none of them tells."""
    told = [_tells(was, now, is_head=number == 0) for number, (was, now) in enumerate(zip(old, new))]
    rest = list(zip(old, new))[1:]
    if rest and all(any(was) and now and not any(now) for was, now in rest):
        return True  # wiped behind its beginning; programs have zeros here and there
    return True if True in told else False if False in told else None


def _tells(old: bytes, new: bytes, *, is_head: bool) -> Optional[bool]:
    if len(old) < LEAST or len(new) < LEAST or not any(old):
        return None  # what held nothing but zeros was only being filled
    if not any(new):
        return True if is_head else None
    if _share(new) <= PACKED:
        return False
    if is_head:
        return True if old[:_MARK] != new[:_MARK] else None if _share(old) <= PACKED else False
    return True if _share(old) < PLAIN else None


def _share(data: bytes) -> float:
    """Which share of itself is left of it once it is packed."""
    return len(zlib.compress(data, 1)) / len(data)


def _compare(base: Manifest, manifest: Manifest, chance: Chance) -> _Changes:
    gone = [entry for entry in base.entries_not_in(manifest) if entry.type == FILE]
    if len(gone) < FEW:
        return _Changes([], [], [], 0)
    came = {entry.path: entry for entry in manifest.entries_not_in(base) if entry.type == FILE}
    files = manifest.files - len(came) + len(gone)  # of the base only what differs is parsed
    removed, replaced = [], []
    for entry in gone:
        now = came.get(entry.path)
        if now is None or (entry.size and not now.size):
            removed.append(entry)
        elif now.hash != entry.hash:
            replaced.append((entry, [now]))
    added = sorted(came.keys() - {entry.path for entry in gone})
    return _Changes(removed, replaced, _renamed(removed, added, came.__getitem__, chance), files)


def _renamed(removed: Sequence[Entry], added: Sequence[bytes], entry_of: Callable[[bytes], Entry], chance: Chance) -> List[Tuple[Entry, List[Entry]]]:
    found = []
    for entry in removed:
        first = bisect_left(added, entry.path)
        if first == len(added) or not added[first].startswith(entry.path):
            continue
        # No name goes on with the byte 255 for as long as a name may be.
        near = _some(range(first, bisect_left(added, entry.path + b"\xff" * 256)), 4 * NAMES, chance)
        names = [name for name in map(added.__getitem__, near) if b"/" not in name[len(entry.path) :] and not name.endswith(_COMPRESSED)]
        if names:
            found.append((entry, list(map(entry_of, _some(names, NAMES, chance)))))
    return found


def _some(items: Sequence[T], count: int, chance: Chance) -> List[T]:
    """So many of the items, or all of them, by chance and in their order."""
    if len(items) <= count:
        return list(items)
    chosen: Set[int] = set()
    while len(chosen) < count:
        chosen.add(chance(len(items)))
    return [items[number] for number in sorted(chosen)]


def _removed(percent: int, manifest: Manifest, changes: _Changes) -> str:
    lost = _lost(percent, changes.files, manifest, changes.removed)
    return "the content of %d of %d files was removed" % (lost, changes.files) if lost else ""


def _changed(percent: int, manifest: Manifest, changes: _Changes) -> str:
    lost = _lost(percent, changes.files, manifest, [*changes.removed, *(old for old, _new in changes.replaced)])
    return "the content of %d of %d files was removed or replaced" % (lost, changes.files) if lost else ""


def _lost(percent: int, files: int, manifest: Manifest, entries: Sequence[Entry]) -> int:
    """How many of them have content that is nowhere any more, where these are too many of all ``files``; else 0."""
    if not _is_much(len(entries), files, percent):
        return 0
    present = {entry.hash for entry in manifest.entries}
    lost = sum(1 for entry in entries if entry.hash not in present)
    return lost if _is_much(lost, files, percent) else 0


def _grown(percent: int, base: Manifest, manifest: Manifest) -> str:
    more = _size(manifest.entries_not_in(base)) - _size(base.entries_not_in(manifest)) if percent else 0
    if more < GROWTH_FROM:
        return ""
    after = manifest.total_size
    before = after - more
    if more * 100 < percent * before:
        return ""
    return "the content grew from %s to %s" % (format_bytes(before), format_bytes(after))


def _size(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries if entry.type == FILE and not entry.is_group_follower)


def _encrypted(percent: int, changes: _Changes, look: Look, chance: Chance) -> str:
    changed = [(old, [new for new in news if _can_tell(old, new)]) for old, news in changes.replaced + changes.renamed]
    changed = [(old, news) for old, news in changed if news]
    if not percent or len(changed) < FEW:
        return ""
    seen = [[look(old, new) for new in news] for old, news in _some(changed, SAMPLED, chance)]
    told = [True in answers for answers in seen if any(answer is not None for answer in answers)]
    if len(told) < FEW or sum(told) * 100 < percent * len(told):
        return ""
    return "of %d files with other content %d were looked at, and %d of these seem encrypted or wiped" % (len(changed), len(told), sum(told))


def _can_tell(old: Entry, new: Entry) -> bool:
    return min(old.size, new.size) >= LEAST and not new.is_group_follower


def _is_much(part: int, whole: int, percent: int) -> bool:
    """Whether it is more than that share; of 100 percent, all of it."""
    return percent > 0 and part >= FEW and part * 100 > min(percent * whole, 100 * whole - 1)
