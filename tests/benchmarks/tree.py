# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trees that are measured, the same on every machine."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

FILES = 58_840
MEAN_SIZE = 15_800  # bytes: 0.93 GB in all
PAGE = 4096  # bytes
VERSIONS = 50
_LARGEST = 8_000_000
_MTIME = 1_700_000_000  # s since the epoch
_EDITED = 1_750_000_000  # and the number of the edit: rsync sees no change within a second


class Tree(NamedTuple):
    """What was made: ``root``; ``files`` that may be edited (one name, not empty), as (path, size); numbers of everything in it.

    ``paged``: the file of which one page can be changed; ``databases``: the connections that keep SQLite databases in use, and so their journals
    in place, by path.
    """

    root: Path
    files: List[Tuple[str, int]]
    names: int
    directories: int
    symlinks: int
    hard_links: int
    bytes: int
    paged: Optional[Path] = None
    databases: Dict[Path, sqlite3.Connection] = {}


class Kind(NamedTuple):
    """A tree to measure, and which cases are measured on it.

    ``make(root, scale)`` writes it; ``bytes`` on disk (in memory at least a page a file), of which there are at most ``copies`` at one time;
    ``versions``: that many snapshots more are made of it beforehand, each with another 1 % of the files changed.
    """

    title: str
    make: Callable[[Path, float], Tree]
    cases: Sequence[str]
    names: int
    bytes: int
    copies: float
    versions: int = 0


def make_tree(root: Path, names: int = FILES) -> Tree:
    """A Python environment: half of the ``names`` are modules, half their byte code; one in forty is empty; the median is 6 kB, the largest a few MB."""
    chance = random.Random(names)
    hard_links = names // 200
    places = _places(str(root / "lib" / "python3" / "site-packages"), names - hard_links, chance)
    sizes = _sizes(len(places), chance)
    _write(list(zip(places, sizes, strict=True)), chance.randbytes)
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
    chosen = chance.sample(tree.files, max(1, tree.names // 100))
    for place, size in chosen:
        with open(place, "ab" if place.endswith(".jsonl") else "wb") as stream:
            stream.write(_lines(chance, 1) if place.endswith(".jsonl") else chance.randbytes(size))
        os.utime(place, (_EDITED + turn, _EDITED + turn))
    return len(chosen)


def damage_one_percent(tree: Tree, copy: Path, turn: int) -> int:
    """Overwrite one file in a hundred of ``copy``, a restored tree, sizes as they are; how many."""
    chance = random.Random(turn)
    chosen = chance.sample(tree.files, max(1, tree.names // 100))
    for place, _ in chosen:
        broken = copy / Path(place).relative_to(tree.root)
        broken.write_bytes(chance.randbytes(broken.stat().st_size))
        os.utime(broken, (_EDITED + turn, _EDITED + turn))
    return len(chosen)


def edit_page(tree: Tree, turn: int) -> int:
    """Change one page of ``tree.paged``: of a database one row, in a transaction; how many files that are (1)."""
    assert tree.paged
    chance = random.Random(turn)
    if tree.paged in tree.databases:
        database = tree.databases[tree.paged]
        (rows,) = database.execute("SELECT max(id) FROM message").fetchone()
        with database:
            database.execute("UPDATE message SET said = ? WHERE id = ?", (_lines(chance, 1), chance.randrange(1, rows)))
        return 1
    with open(tree.paged, "r+b") as stream:
        stream.seek(chance.randrange(os.path.getsize(tree.paged) // PAGE) * PAGE)
        stream.write(chance.randbytes(PAGE))
    os.utime(tree.paged, (_EDITED + turn, _EDITED + turn))
    return 1


def differences(tree: Tree, copy: Path) -> str:
    """What ``diff`` finds between the tree and a restored copy; databases are compared by what is in them. Empty: nothing."""
    argv = ["diff", "-r", "--no-dereference", *(["--exclude=*.sqlite*"] if tree.databases else []), "--", str(tree.root), str(copy)]
    found = subprocess.run(argv, capture_output=True, text=True).stdout
    for path, database in tree.databases.items():
        restored = sqlite3.connect(copy / path.relative_to(tree.root))
        try:
            one, other = (connection.execute("SELECT id, said FROM message ORDER BY id") for connection in (database, restored))
            if any(mine != theirs for mine, theirs in zip(one, other, strict=True)):
                found += "%s differs\n" % path
        finally:
            restored.close()
    return found


def _make_tiny(root: Path, names: int) -> Tree:
    """Tiny files, 500 a directory, a hundred directories in each above; none so small that another has its content by chance, and is not sent."""
    chance = random.Random(names)
    files = [("%s/%03d/%02d/%03d" % (root, number // 50_000, number // 500 % 100, number % 500), chance.randrange(16, 200)) for number in range(names)]
    _write(files, chance.randbytes)
    return _counted(root, files)


def _make_large(root: Path, size: int) -> Tree:
    """Four large files that compress no further."""
    files = [("%s/%d.img" % (root, number), size) for number in range(4)]
    root.mkdir()
    chance = random.Random(size)
    for place, _ in files:
        with open(place, "xb") as stream:
            for start in range(0, size, 1 << 24):
                stream.write(chance.randbytes(min(1 << 24, size - start)))
    return _counted(root, files)._replace(paged=Path(files[0][0]))


def _make_openclaw(root: Path, scale: float) -> Tree:
    """A home of OpenClaw: sessions as JSON lines, a workspace, skills, and SQLite databases in use, in WAL mode, one of them large."""
    chance = random.Random(7)
    many = max(1, int(10 * scale))
    home = str(root / ".openclaw")
    files = [("%s/openclaw.json" % home, 6000)]
    for agent in ("main", "ops", "research"):
        files += [("%s/agents/%s/sessions/%04d.jsonl" % (home, agent, number), int(chance.lognormvariate(10.5, 1))) for number in range(20 * many)]
        files.append(("%s/agents/%s/sessions/sessions.json" % (home, agent), 20_000))
    files += [("%s/workspace/%s.md" % (home, name), 4000) for name in ("IDENTITY", "MEMORY", "SOUL", "USER")]
    files += [("%s/workspace/memory/%04d.md" % (home, number), int(chance.lognormvariate(8, 0.8))) for number in range(40 * many)]
    files += [("%s/workspace/projects/%d/src/%d.ts" % (home, number // 40, number), int(chance.lognormvariate(8.5, 1))) for number in range(200 * many)]
    files += [("%s/skills/%d/%s" % (home, number, name), 3000) for number in range(10 * many) for name in ("SKILL.md", "run.py", "reference.md")]
    _write(files, lambda size: _lines(chance, max(1, size // 200)))
    databases = {}
    for name, rows in (("agents/main/agent/openclaw-agent", 16_000), ("agents/ops/agent/openclaw-agent", 1000), ("state/openclaw", 500)):
        path = Path("%s/%s.sqlite" % (home, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        databases[path] = database = sqlite3.connect(path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, said BLOB)")
        with database:
            database.executemany("INSERT INTO message (said) VALUES (?)", ((_lines(chance, 40),) for _ in range(int(rows * scale) or 10)))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with database:
            database.execute("INSERT INTO message (said) VALUES (?)", (_lines(chance, 1),))
    return _counted(root, [(place, os.path.getsize(place)) for place, _ in files])._replace(paged=next(iter(databases)), databases=databases)


_MOST = ("first", "unchanged", "changed", "again", "verify", "restore", "repair")
_GIB = 1 << 30

# By the names that TREES takes.
KINDS = {
    "small": Kind("a Python environment", lambda root, scale: make_tree(root, int(FILES * scale)), (*_MOST, "task"), FILES, FILES * (MEAN_SIZE + 4096), 4),
    "history": Kind(
        "a tenth of it, in %d snapshots" % (VERSIONS + 1),
        lambda root, scale: make_tree(root, int(FILES * scale / 10)),
        ("prune",),
        FILES // 10,
        FILES // 10 * (MEAN_SIZE + 4096),
        16,
        VERSIONS,
    ),
    "million": Kind("tiny files", lambda root, scale: _make_tiny(root, int(1_000_000 * scale)), _MOST, 1_000_000, 1_000_000 * 5200, 3.3),
    "large": Kind(
        "large files", lambda root, scale: _make_large(root, int(_GIB * scale)), ("first", "unchanged", "page", "verify", "restore"), 4, 4 * _GIB, 3.6
    ),
    "openclaw": Kind("a home of OpenClaw", _make_openclaw, (*_MOST, "page"), 3500, 400 << 20, 5),
}


def _write(files: Sequence[Tuple[str, int]], content: Callable[[int], bytes]) -> None:
    made = set()
    for number, (place, size) in enumerate(files):
        parent = os.path.dirname(place)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        with open(place, "xb") as stream:
            stream.write(content(size))
        os.utime(place, (_MTIME + number, _MTIME + number))


def _counted(root: Path, files: List[Tuple[str, int]]) -> Tree:
    """Of a tree without links."""
    found = [os.path.join(place, name) for place, _, names in os.walk(root) for name in names]
    return Tree(root, files, len(found), sum(1 for _ in os.walk(root)), 0, 0, sum(map(os.path.getsize, found)))


def _lines(chance: random.Random, count: int) -> bytes:
    """Lines of JSON, of some 200 bytes each, that compress as talk does."""
    return b"".join(
        json.dumps({"role": "user", "id": chance.getrandbits(64), "text": " ".join(chance.choices(_WORDS, k=24))}).encode() + b"\n" for _ in range(count)
    )


_WORDS = [random.Random(number).randbytes(3).hex()[: 3 + number % 4] for number in range(2000)]


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
