# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Anomaly: does a snapshot differ from the one before it as ransomware, or a wipe, would make it differ? Whoever commits it judges.

An upgrade replaces the content of most files, and grows: neither is a signal by itself unless somebody asks for it. What no upgrade does is to leave
many files under their names with a beginning that is another one and that cannot be compressed.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from ..manifest.document import Manifest
from ..manifest.entry import FILE, Entry
from ..observe.progress import format_bytes
from .contract import Receipt, Thresholds

# Of fewer files a share says little.
FEW = 20
# So many changed files are looked at, spread over all of them: 128 reads, whatever the size of the tree.
SAMPLED = 64
# The first bytes of a file that are looked at: what encrypts only a part of each file, to be quick, begins there ...
HEAD = 4096
# ... and of fewer bytes nobody can say whether they are encrypted.
LEAST = 256
# A smaller growth fills no vault.
GROWTH_FROM = 64 << 20
# How formats are known: of one kind even files that cannot be compressed begin alike.
_MARK = 2
# What is larger than this share of itself once it is packed cannot be compressed.
PACKED = 0.95
# Who compresses in bulk names the files so, and keeps the rest of their names.
_COMPRESSED = (b".gz", b".bz2", b".xz", b".zst", b".lz4", b".lzo", b".Z", b".br", b".zip", b".7z")

# Whether the second of two files, which has taken the place of the first, looks encrypted; None where it cannot be told.
Look = Callable[[Entry, Entry], Optional[bool]]


class _Changes(NamedTuple):
    """Files of the base that are not as they were: ``removed``: nothing has their name, or an empty file; ``replaced``: their name has other content,
    with what it has now; ``renamed``: removed ones whose name goes on in that of a new one."""

    removed: List[Entry]
    replaced: List[Tuple[Entry, Entry]]
    renamed: List[Tuple[Entry, Entry]]


def judge(thresholds: Thresholds, before: Receipt, base: Manifest, after: Receipt, manifest: Manifest, look: Look) -> Optional[str]:
    """What about the snapshot ``after`` makes it an anomaly, with numbers; None where nothing does. ``before`` and ``base``: the one before it."""
    changes = _compare(base, manifest)
    signals = [
        _removed(thresholds.removed_percent, before, manifest, changes),
        _changed(thresholds.changed_percent, before, manifest, changes),
        _grown(thresholds.growth_percent, before, after),
        _encrypted(thresholds.encrypted_percent, changes, look),
    ]
    return "; ".join(signal for signal in signals if signal) or None


def looks_encrypted(old: bytes, new: bytes) -> Optional[bool]:
    """Judge by the first ``HEAD`` bytes of a file, before and after. What held nothing but zeros was only being filled, what does so now was wiped."""
    if len(old) < LEAST or len(new) < LEAST or not any(old):
        return None
    return old[:_MARK] != new[:_MARK] and (not any(new) or len(zlib.compress(new, 1)) > PACKED * len(new))


def _compare(base: Manifest, manifest: Manifest) -> _Changes:
    gone = [entry for entry in base.entries_not_in(manifest) if entry.type == FILE]
    if len(gone) < FEW:
        return _Changes([], [], [])
    came = {entry.path: entry for entry in manifest.entries_not_in(base) if entry.type == FILE}
    removed, replaced = [], []
    for entry in gone:
        now = came.get(entry.path)
        if now is None or (entry.size and not now.size):
            removed.append(entry)
        elif now.hash != entry.hash:
            replaced.append((entry, now))
    return _Changes(removed, replaced, _renamed(removed, sorted(came.keys() - {entry.path for entry in gone}), came.__getitem__) if removed else [])


def _renamed(removed: Sequence[Entry], added: Sequence[bytes], entry_of: Callable[[bytes], Entry]) -> List[Tuple[Entry, Entry]]:
    found = []
    for entry in removed:
        at = bisect_left(added, entry.path)
        name = added[at] if at < len(added) else b""
        if name.startswith(entry.path) and b"/" not in name[len(entry.path) :] and not name.endswith(_COMPRESSED):
            found.append((entry, entry_of(name)))
    return found


def _removed(percent: int, before: Receipt, manifest: Manifest, changes: _Changes) -> str:
    lost = _lost(percent, before, manifest, changes.removed)
    return "the content of %d of %d files was removed" % (lost, before.files) if lost else ""


def _changed(percent: int, before: Receipt, manifest: Manifest, changes: _Changes) -> str:
    lost = _lost(percent, before, manifest, [old for old, _new in changes.replaced])
    return "the content of %d of %d files was replaced" % (lost, before.files) if lost else ""


def _lost(percent: int, before: Receipt, manifest: Manifest, entries: Sequence[Entry]) -> int:
    """How many of them have content that is nowhere any more, where these are too many; else 0."""
    if not _is_much(len(entries), before.files, percent):
        return 0
    present = {entry.hash for entry in manifest.entries}
    lost = sum(1 for entry in entries if entry.hash not in present)
    return lost if _is_much(lost, before.files, percent) else 0


def _grown(percent: int, before: Receipt, after: Receipt) -> str:
    more = after.bytes - before.bytes
    if not percent or more < GROWTH_FROM or more * 100 < percent * before.bytes:
        return ""
    return "the content grew from %s to %s" % (format_bytes(before.bytes), format_bytes(after.bytes))


def _encrypted(percent: int, changes: _Changes, look: Look) -> str:
    pairs = [pair for pair in changes.replaced + changes.renamed if min(pair[0].size, pair[1].size) >= LEAST and not pair[1].is_group_follower]
    if not percent or len(pairs) < FEW:
        return ""
    count = min(len(pairs), SAMPLED)
    seen = [look(*pairs[number * len(pairs) // count]) for number in range(count)]
    told = [answer for answer in seen if answer is not None]
    if len(told) < FEW or sum(told) * 100 < percent * len(told):
        return ""
    return "of %d files with other content %d were looked at, and %d of these seem encrypted or wiped" % (len(pairs), len(told), sum(told))


def _is_much(part: int, whole: int, percent: int) -> bool:
    return percent > 0 and part >= FEW and part * 100 >= percent * whole
