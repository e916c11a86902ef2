# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench` measures what it says, and a missed bar fails it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("bench")


@pytest.mark.slow
def test_every_case_of_every_peer_is_measured_on_small_trees(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "bench.py"),
            "--trees",
            "small,history,openclaw,large",
            "--scale",
            "0.01",
            "--turns",
            "1",
            "--directory",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    seconds = [part.split("\n\n")[1] for part in done.stdout.split("Seconds, median")[1:]]
    small, history, openclaw, large = (_rows(part) for part in seconds)
    assert [line["case"] for line in small] == [
        "first backup",
        "nothing changed",
        "nothing changed, as a task of Ansible",
        "1 % of the files changed",
        "nothing changed, but 1 % just before",
        "verify all data",
        "restore to an empty directory",
        "restore where 1 % is damaged",
    ]
    assert [line["case"] for line in history] == ["remove 50 of 51 backups"]
    assert "one page of a database changed" in [line["case"] for line in openclaw]
    assert [line["case"] for line in large] == [
        "first backup",
        "nothing changed",
        "one page of a database changed",
        "verify all data",
        "restore to an empty directory",
    ]
    for line in small + history + openclaw + large:
        assert line["openclaw-backup"], line
    for line in small:
        assert bool(line["rsync -aHAX"]) == (line["case"] not in ("verify all data", small[2]["case"], small[4]["case"])), "rsync cannot verify"
    for program, name in (("restic", "restic"), ("borg", "borg"), ("rsnapshot", "rsnapshot")):
        assert (name in small[0]) == bool(shutil.which(program)) == ("%s is not measured" % name not in done.stderr), "a peer was hidden"
    assert "pass" not in done.stdout and "MISS" not in done.stdout, "small trees are not judged"
    assert list(tmp_path.iterdir()) == [], "trees were left behind"


def _rows(table: str) -> List[Dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return [dict(zip(["case", *lines[0][1:]], line, strict=True)) for line in lines[2:]]


def test_a_tree_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "bench.py"), "--trees", "small,huge"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no tree huge; there are small, history, million, large, openclaw" in done.stderr


def test_a_tool_that_there_is_not_cannot_be_left_out(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "bench.py"), "--without", "borg,tar"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no tool tar; there are openclaw-backup; openclaw-backup, btrfs; rsync -aHAX; rsnapshot; restic; borg; floor" in done.stderr


def _results() -> Dict[str, Any]:
    """As of a measurement of the tree `small` in which the engine takes 1, 1.2 and 9 s for everything, rsync 1, 1 and 6, and restic 10."""
    taken = {"openclaw-backup": [1.0, 1.2, 9.0], "rsync -aHAX": [1.0, 1.0, 6.0], "restic": [10.0, 10.0, 10.0]}
    cases = ("first", "unchanged", "task", "changed", "again", "verify", "restore", "repair")
    numbers = {name: {"seconds": seconds, "cpu": seconds, "memory": 10 << 20} for name, seconds in taken.items()}
    machine = {"cpus": 2, "cpu": "any", "memory_gib": 4, "kernel": "6.1", "tools": {"rsync": "3.2.7"}, "python": "3.11.2", "user": "root"}
    made = {"title": "a tree", "files": 5, "bytes": 10, "turns": 3, "machine": machine, "missing": {"borg": "the machine lacks borg"}}
    return {"small": {**made, "cases": {case: dict(numbers) for case in cases}}}


def test_a_missed_bar_is_a_miss(bench: ModuleType) -> None:
    verdicts = {bar: (value, verdict) for bar, value, verdict in bench.judge(_results())}
    assert verdicts["small: first backup ≤ 1.25 × rsync -aHAX"] == ("1.20 (1.00–1.50) ×", "pass")
    assert verdicts["small: restore to an empty directory ≤ 1.1 × rsync -aHAX"] == ("1.20 (1.00–1.50) ×", "**MISS**")
    assert verdicts["small: nothing changed ≤ 0.5 s"] == ("1.20 (1.00–9.00) s", "**MISS**")
    assert verdicts["small: verify all data ≤ 0.35 × restic"][1] == "pass"
    assert verdicts["small: nothing changed, as a task of Ansible ≤ 0.7 s beyond openclaw-backup, nothing changed"] == ("0.00 (0.00–0.00) s", "pass")


def test_a_bar_without_its_peer_is_not_met_in_silence(bench: ModuleType) -> None:
    results = _results()
    for by_peer in results["small"]["cases"].values():
        del by_peer["restic"]
    assert ["small: first backup ≤ 0.75 × restic", "not measured", ""] in bench.judge(results)


def test_the_tree_is_the_same_every_time(bench: ModuleType, tmp_path: Path) -> None:
    tree = sys.modules["tree"]
    trees = [tree.make_tree(tmp_path / name, 1000) for name in ("one", "two")]
    assert not subprocess.run(["diff", "-r", "--no-dereference", *(str(tree.root) for tree in trees)], capture_output=True).stdout
    names = [os.path.join(place, name) for place, _, found in os.walk(trees[0].root) for name in found]
    assert sum(not os.path.islink(name) for name in names) == 1000
    assert sum({os.lstat(name).st_ino: os.lstat(name).st_size for name in names if not os.path.islink(name)}.values()) == trees[0].bytes
    assert tree.edit_one_percent(trees[0], 1) == 10


def test_the_page_is_written_anew_from_the_results_alone(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = sys.modules["report"]
    page = tmp_path / "performance.md"
    page.write_text(report.PAGE.read_text())
    before = page.read_text().partition(report.BEGIN)[0]
    after = page.read_text().partition(report.END)[2]
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "PLOTS", tmp_path / "images")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "performance.json")
    report.write_results(_results())
    assert bench.main(["--page"]) == 0
    written = {path.name: path.read_text() for path in (page, tmp_path / "images" / "performance-small.svg")}
    assert page.read_text().startswith(before) and page.read_text().endswith(after)
    assert "| small: nothing changed ≤ 0.5 s " in page.read_text() and "**MISS**" in page.read_text()
    assert "Not measured: borg (the machine lacks borg)." in page.read_text()
    assert "| million: nothing changed ≤ 6.5 s " in page.read_text(), "a bar of a tree that was not measured was left out"
    assert len(list(ElementTree.fromstring(written["performance-small.svg"]).iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 8 * 3
    assert bench.main(["--page"]) == 0
    assert written == {path.name: path.read_text() for path in (page, tmp_path / "images" / "performance-small.svg")}, "the page is not the same twice"
