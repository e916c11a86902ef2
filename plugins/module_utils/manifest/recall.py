# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of the last run, without reading it: the new one, with what the cache still holds of the directories that changed."""

from __future__ import annotations

from bisect import bisect_left
from typing import Dict, List, Optional, Sequence

from .cache import DATABASE, ROW, SIDECAR, XATTRS, Cache
from .document import Manifest
from .entry import DIRECTORY, FILE, Entry, plain_file
from .metadata import entry_type
from .survey import Folder


def recall(cache: Cache, folders: Sequence[Folder], manifest: Manifest) -> Optional[Manifest]:
    """The manifest that ``cache`` was written with, by the lines of ``manifest``, which is of the walk that found ``folders``.

    None where the cache cannot tell: it keeps no link targets, attributes or flags of a run. What it seems to tell is proven by
    ``cache.content_digest``, which leaves out no more than the times of directories.
    """
    if not cache.content_digest:
        return None
    entries = manifest.entries
    paths = [entry.path for entry in entries]
    replaced: Dict[int, Optional[Entry]] = {}
    removed: List[Entry] = []
    gone = cache.paths() - {folder.path for folder in folders}
    for folder in [folder for folder in folders if folder.known is None] + [Folder(path, b"", b"", None) for path in gone]:
        prefix = folder.path + b"/" if folder.path else b""
        record = cache.get(folder.path)
        before = record.by_name() if record is not None else {}
        for number, name in enumerate(folder.names.split(b"\0") if folder.names else ()):
            path = prefix + name
            at = bisect_left(paths, path)
            if at == len(paths) or paths[at] != path:
                continue  # it vanished before it could be read
            old = before.pop(name, None)
            if old is None:
                replaced[at] = None
            elif old[0] != folder.rows[number * ROW.size : (number + 1) * ROW.size] or (entries[at].hash and old[2].hex() != entries[at].hash):
                entry = _entry(path, *old)
                if entry is None:
                    return None
                replaced[at] = entry
        for name, old in before.items():
            if old[1] & SIDECAR:
                continue
            entry = _entry(prefix + name, *old)
            if entry is None:
                return None
            removed.append(entry)
    base = manifest.before(replaced, removed)
    return base if base.content_digest == cache.content_digest else None


def _entry(path: bytes, row: bytes, flags: int, slot: bytes) -> Optional[Entry]:
    """What the cache knows of ``path``; None where it does not know all."""
    mode, uid, gid, size, mtime, _ctime, _inode, _device, links = ROW.unpack(row)
    kind = entry_type(mode)
    if flags & (XATTRS | DATABASE):
        return None
    if kind == DIRECTORY:
        return Entry(path, DIRECTORY, mode & 0o7777, uid, gid, mtime)
    if kind == FILE and links == 1:
        return plain_file(path, mode & 0o7777, uid, gid, mtime, size, slot.hex())
    return None
