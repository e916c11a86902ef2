# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree that is measured: shaped like a Python environment, the same on every machine.

Half of the files are modules, half their byte code; one in forty is empty; the median is 6 kB, the largest a few MB.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import List, NamedTuple, Tuple

FILES = 58_840
MEAN_SIZE = 15_800  # bytes: 0.93 GB in all
_LARGEST = 8_000_000
_MTIME = 1_700_000_000  # s since the epoch


class Tree(NamedTuple):
    """What was made: ``root``; ``files`` that may be edited (one name, not empty), as (path, size); numbers of everything in it."""

    root: Path
    files: List[Tuple[str, int]]
    names: int
    directories: int
    symlinks: int
    hard_links: int
    bytes: int


def make_tree(root: Path, names: int = FILES) -> Tree:
    """Write a tree with ``names`` file names below ``root``, which must not exist."""
    chance = random.Random(names)
    hard_links = names // 200
    places = _places(str(root / "lib" / "python3" / "site-packages"), names - hard_links, chance)
    sizes = _sizes(len(places), chance)
    directories = set()
    for place in places:
        parent = os.path.dirname(place)
        if parent not in directories:
            os.makedirs(parent, exist_ok=True)
            directories.add(parent)
    for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
        with open(place, "xb") as stream:
            stream.write(chance.randbytes(size))
        os.utime(place, (_MTIME + number, _MTIME + number))
    linked = chance.sample(range(len(places)), hard_links)
    for number in linked:
        os.link(places[number], places[number] + ".link")
    symlinks = max(1, names // 500)
    for place in chance.sample(places, symlinks):
        os.symlink(os.path.basename(place), place + ".symlink")
    taken = set(linked)
    single = [(place, size) for number, (place, size) in enumerate(zip(places, sizes, strict=True)) if size and number not in taken]
    return Tree(root, single, names, sum(1 for _ in os.walk(root)), symlinks, hard_links, sum(sizes))


def edit_one_percent(tree: Tree, turn: int) -> int:
    """Rewrite one file in a hundred, others each turn, sizes as they were; how many."""
    chance = random.Random(turn)
    chosen = chance.sample(tree.files, tree.names // 100)
    for place, size in chosen:
        with open(place, "wb") as stream:
            stream.write(chance.randbytes(size))
    return len(chosen)


def _places(top: str, count: int, chance: random.Random) -> List[str]:
    """Names of ``count`` files: packages with nested packages, each module beside its byte code's directory."""
    places: List[str] = []
    package = 0
    while len(places) < count:
        package += 1
        folders = ["%s/package%03d" % (top, package)]
        for number in range(min(300, int(chance.lognormvariate(3, 1.2)))):
            parent = chance.choice(folders[-12:])
            if parent.count("/") - top.count("/") < 8:
                folders.append("%s/part%d" % (parent, number))
        for folder in folders:
            modules = ["__init__", *("module%d" % number for number in range(min(200, int(chance.lognormvariate(1.5, 1)))))]
            for module in modules:
                places.append("%s/%s.py" % (folder, module))
                places.append("%s/__pycache__/%s.cpython-311.pyc" % (folder, module))
    del places[count:]
    return places


def _sizes(count: int, chance: random.Random) -> List[int]:
    """Sizes whose sum is ``count`` * MEAN_SIZE exactly."""
    drawn = [chance.lognormvariate(0, 1.4) for _ in range(count)]
    for number in chance.sample(range(count), count // 40):
        drawn[number] = 0.0
    for number in chance.sample(range(count), count // 4000):
        drawn[number] = chance.uniform(300, 1200)
    scale = count * MEAN_SIZE / sum(drawn)
    sizes = [min(_LARGEST, int(size * scale)) for size in drawn]
    middle = sorted(range(count), key=sizes.__getitem__)[count // 2]
    sizes[middle] += count * MEAN_SIZE - sum(sizes)
    return sizes
