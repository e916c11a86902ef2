# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What snapshots take up on disk. Manifests cannot tell: which of two equal files share an inode depends on the snapshots that were there when they were
made. The inodes can, because each knows how many names it has: what has them all in some trees goes with these trees, and nothing else does."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from ... import pool
from ...manifest.walk import Descent, list_directory
from ..contract import Size

_BLOCK = 512  # the unit of st_blocks, whatever the file system's own is
_LOOK = 7000  # looking at a path costs what hashing so many bytes does
_UNSEEN = (FileNotFoundError, NotADirectoryError, PermissionError)


class _Usage(NamedTuple):
    """``alone``: bytes of directories and of what has a single name; ``linked``: of the rest by inode (names here, names in all, bytes)."""

    alone: int
    linked: Dict[int, Tuple[int, int, int]]

    @property
    def own(self) -> int:
        """Bytes to which no name leads but those seen here."""
        return self.alone + sum(size for here, names, size in self.linked.values() if here == names)


def _look(paths: Iterable[bytes]) -> _Usage:
    alone = 0
    linked: Dict[int, Tuple[int, int, int]] = {}
    for found in (found for path in paths for found in _everything_in(path)):
        if found.st_nlink == 1 or stat.S_ISDIR(found.st_mode):
            alone += found.st_blocks
        else:
            here = linked.get(found.st_ino)
            linked[found.st_ino] = (1 if here is None else here[0] + 1, found.st_nlink, found.st_blocks * _BLOCK)
    return _Usage(alone * _BLOCK, linked)


def _everything_in(path: bytes) -> Iterator[os.stat_result]:
    """The directory ``path`` and all below. What cannot be looked at counts for nothing: a prune opens it up, and a number is no reason to fail."""
    with contextlib.suppress(*_UNSEEN), Descent(path) as root:
        yield os.fstat(root.root_fd)
        pending = [b""]
        while pending:
            at = pending.pop()
            with contextlib.suppress(*_UNSEEN):
                listing = list_directory(root.directory(at))
                yield from (item.stat for item in listing)
                prefix = at + b"/" if at else b""
                pending.extend(prefix + item.name for item in listing if stat.S_ISDIR(item.stat.st_mode))


def freed_with(paths: Sequence[bytes], entries: int) -> int:
    """How many bytes the disk gets back when these trees, of about so many paths in all, are deleted together."""
    alone = 0
    linked: Dict[int, Tuple[int, int, int]] = {}
    for part in pool.run(lambda start, stop: _look(paths[start:stop]), [_LOOK * entries // max(1, len(paths))] * len(paths), weight=1 << 62):
        alone += part.alone
        for inode, (here, names, size) in part.linked.items():
            before = linked.get(inode)
            linked[inode] = (here if before is None else here + before[0], names, size)
    return _Usage(alone, linked).own


def sizes_of(paths: Sequence[bytes], entries: Sequence[int]) -> List[Size]:
    """The sizes of snapshots that stand side by side, newest first; ``entries``: how many paths each has."""

    def work(start: int, stop: int) -> Tuple[int, List[Size]]:
        sizes: List[Size] = []
        before = _look(paths[stop : stop + 1])
        for path in reversed(paths[start:stop]):
            here = _look([path])
            own = here.own
            total = here.alone + sum(size for _here, _names, size in here.linked.values())
            added = here.alone + sum(size for inode, (_here, _names, size) in here.linked.items() if inode not in before.linked)
            sizes.append(Size(own, total - own, added))
            before = here
        return start, sizes[::-1]

    parts = pool.run(work, [_LOOK * count for count in entries], weight=1 << 62)
    return [size for _start, sizes in sorted(parts) for size in sizes]
