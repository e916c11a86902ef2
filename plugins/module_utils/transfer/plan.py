# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to send and in which portions: whole directories where everything in them is wanted, files by name elsewhere. Pure.

rsync spends twice the time on a named file that it spends on one found by recursion, so a large change set names directories.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

# rsync's fixed work for a file, in bytes that it moves in the same time (50 us at 1 GB/s, rsync 3.5 on tmpfs).
FILE_COST = 48 << 10
# A second process has to save more than its own start (40 ms): about a thousand files or 40 MiB.
STREAM_COST = 48 << 20
# A directory root costs at most 1/PIECES of a stream's share, so that shares can be made equal ...
PIECES = 8
# ... unless taking it apart would name more than this many files singly.
MAX_SINGLES = 64
# Linux's PATH_MAX without its final NUL, and room for the separators and the "./" that may be put in front.
MAX_PATH = 4096 - 1 - 8


class Item(NamedTuple):
    """One regular file, or (``tree``) every regular file below one directory.

    ``path`` is relative to the source root, ``size`` the sum of bytes and ``files`` the number of files behind it.
    """

    path: bytes
    size: int
    files: int
    tree: bool


def can_carry(path: bytes, *roots: bytes) -> bool:
    """Whether rsync can name ``path`` below each of ``roots`` (destination, source root); longer ones go another way."""
    return len(path) + max(map(len, roots), default=0) < MAX_PATH


def plan_roots(
    wanted: Sequence[Tuple[bytes, int]],
    directories: Mapping[bytes, Tuple[int, int]],
    streams: int = 1,
    spare: Mapping[bytes, int] = MappingProxyType({}),
) -> List[Item]:
    """Cover the ``wanted`` files exactly once with directories that hold nothing else, and single files.

    ``wanted``: (path, bytes) of regular files, strictly increasing. ``directories``: path -> (regular files in it, subdirectories
    in it), both counted on disk with what is *not* selected; the source root is ``b""``. A directory is full when all its regular
    files are wanted and all its subdirectories are full. One that the walk did not enter (excluded, another file system) must be
    missing from ``directories``: then it is not full, nor is any directory above it. Symlinks and special files do not count.
    ``spare``: in each directory, how many of its regular files are not wanted but may come along.

    Directories without a wanted file are not sent. With several ``streams``, roots stay small enough for :func:`partition`.
    """
    direct: Dict[bytes, Tuple[int, int]] = {}
    total = 0
    for path, size in wanted:
        parent = path.rpartition(b"/")[0]
        files, below = direct.get(parent, (0, 0))
        direct[parent] = (files + 1, below + size)
        total += size + FILE_COST

    # A path sorts before everything below it: backwards, children come before their parents.
    descending = sorted(directories, reverse=True)
    full: Dict[bytes, Tuple[int, int]] = {}
    children: Dict[bytes, Tuple[int, int, int]] = {}
    for path in descending:
        own_files, own_size = direct.get(path, (0, 0))
        subdirs, files, size = children.get(path, (0, 0, 0))
        if path and (own_files + spare.get(path, 0), subdirs) == directories[path]:
            full[path] = files, size = files + own_files, size + own_size
            parent = path.rpartition(b"/")[0]
            above = children.get(parent, (0, 0, 0))
            children[parent] = (above[0] + 1, above[1] + files, above[2] + size)

    useful = _useful_streams(total, streams)
    limit = total // (useful * PIECES) if useful > 1 else total
    covered = set()
    items: List[Item] = []
    for path in reversed(descending):
        if path.rpartition(b"/")[0] in covered:
            covered.add(path)
        elif path in full:
            files, size = full[path]
            if size + files * FILE_COST <= limit or direct.get(path, (0, 0))[0] > MAX_SINGLES:
                covered.add(path)
                if files:
                    items.append(Item(path, size, files, True))
    items.extend(Item(path, size, 1, False) for path, size in wanted if path.rpartition(b"/")[0] not in covered)
    return items


def partition(items: Sequence[Item], streams: int) -> List[List[Item]]:
    """Split ``items`` into at most ``streams`` groups of about equal cost, none of them empty; fewer where more would not pay."""
    total = sum(map(_cost, items))
    count = _useful_streams(total, streams)
    groups: List[List[Item]] = [[] for _number in range(count)]
    loads = [0] * count
    share = total / count
    # Large ones first, each to the emptiest group; small ones then fill up in order, so that neighbours stay together.
    large = [item for item in items if _cost(item) * PIECES > share]
    for item in sorted(large, key=_cost, reverse=True):
        emptiest = loads.index(min(loads))
        groups[emptiest].append(item)
        loads[emptiest] += _cost(item)
    current = 0
    for item in items:
        if _cost(item) * PIECES <= share:
            while loads[current] >= share and current < count - 1:
                current += 1
            groups[current].append(item)
            loads[current] += _cost(item)
    return [group for group in groups if group]


def common_directory(items: Sequence[Item]) -> bytes:
    """The deepest directory that holds all ``items``, perhaps a tree itself; ``b""`` for the root."""
    paths = [item.path + b"/" if item.tree else item.path for item in items]
    first, last = min(paths), max(paths)
    length = next((n for n, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[:length].rpartition(b"/")[0]


def _cost(item: Item) -> int:
    return item.size + item.files * FILE_COST


def _useful_streams(cost: int, streams: int) -> int:
    return max(1, min(streams, cost // STREAM_COST))
