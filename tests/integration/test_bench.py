# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench` measures what it says, and a missed bar fails it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("bench")


def test_every_operation_of_every_peer_is_measured_on_a_small_tree(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench.py"), "--files", "500", "--pairs", "1", "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    assert [line[0] for line in lines[2:]] == [
        "first snapshot",
        "nothing changed",
        "nothing changed, but 1 % before",
        "1 % of the files changed",
        "verify all data",
        "restore to an empty directory",
        "most memory",
    ]
    for line in lines[2:]:
        assert line[1] and line[3], line
        assert bool(line[2]) == (line[0] != "verify all data"), "rsync cannot verify"
        assert line[-1] == "", "a small tree is not judged"
    assert list(tmp_path.iterdir()) == [], "trees were left behind"


def test_a_missed_bar_is_a_miss(bench: ModuleType) -> None:
    seconds = {operation: {"engine": [1.0, 1.2, 9.0], "rsync": [1.0, 1.0, 6.0]} for operation in bench.TITLES}
    memory = {operation: {"engine": 10 << 20, "rsync": 5 << 20} for operation in bench.OPERATIONS}
    memory["verify"] = {"engine": 251 << 20}
    rows = bench.judge(bench.Measured(seconds, memory), "engine", "rsync", ["engine", "rsync"])
    assert {row.title: row.passed for row in rows} == {
        "first snapshot": True,  # 1.2 times, the median of 1, 1.2 and 1.5
        "nothing changed": False,
        "nothing changed, but 1 % before": None,
        "1 % of the files changed": True,
        "verify all data": True,
        "restore to an empty directory": True,
        "most memory": False,
    }
    assert "MISS" in bench.table(rows, ["engine", "rsync"])


def test_the_tree_is_the_same_every_time(bench: ModuleType, tmp_path: Path) -> None:
    trees = [bench.make_tree(tmp_path / name, 1000) for name in ("one", "two")]
    assert not subprocess.run(["diff", "-r", "--no-dereference", *(str(tree.root) for tree in trees)], capture_output=True).stdout
    names = [os.path.join(place, name) for place, _, found in os.walk(trees[0].root) for name in found]
    assert sum(not os.path.islink(name) for name in names) == 1000
    assert sum({os.lstat(name).st_ino: os.lstat(name).st_size for name in names if not os.path.islink(name)}.values()) == trees[0].bytes
    assert bench.edit_one_percent(trees[0], 1) == 10


def test_the_table_replaces_the_one_before(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text(bench.PAGE.read_text())
    before = page.read_text().partition(bench.BEGIN)[0]
    after = page.read_text().partition(bench.END)[2]
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    bench.write_page("first")
    bench.write_page("second")
    assert page.read_text() == "%s%s\n\nsecond\n%s%s" % (before, bench.BEGIN, bench.END, after)
