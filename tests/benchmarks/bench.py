#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the command line against rsync on a tree in memory, and hold it to its bars.

Every operation runs in pairs, engine and peers in turn, so that all of them meet the same machine; what counts is the median. Exits 1 where a
bar is missed. Results: build/bench.json, and of a full measurement the table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from measure import Failed, environment, peak_memory, remove, run
from peers import OPERATIONS, ROOT, Peer, peers, python_of_hosts
from tree import FILES, MEAN_SIZE, Tree, edit_one_percent, make_tree

PAIRS = 5
MEMORY = Path("/dev/shm")
JSON = ROOT / "build" / "bench.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured by make bench: begin -->", "<!-- measured by make bench: end -->"
# A younger file is hashed again by the next run, so a tree is measured when it is older (s).
_SETTLED = 61
_COPIES = 6  # of the tree, at most at one time
_MIB = 1 << 20

TITLES = {
    "first": "first snapshot",
    "unchanged": "nothing changed",
    "settled": "nothing changed, but 1 % before",
    "changed": "1 % of the files changed",
    "verify": "verify all data",
    "restore": "restore to an empty directory",
}


class Bar(NamedTuple):
    """The most that a measured value may be, in ``unit``: s, MiB, or times the seconds of rsync."""

    most: float
    unit: str

    def __str__(self) -> str:
        return "≤ %g × rsync" % self.most if self.unit == "x" else "≤ %g %s" % (self.most, self.unit)


BARS = {
    "first": Bar(1.6, "x"),
    "unchanged": Bar(0.8, "s"),
    "changed": Bar(1.5, "s"),
    "verify": Bar(1.5, "s"),
    "restore": Bar(1.5, "x"),
    "memory": Bar(250, "MiB"),
}


class Measured(NamedTuple):
    """Of every operation and peer that has it: seconds of each turn, and the peak of memory of one more (bytes)."""

    seconds: Dict[str, Dict[str, List[float]]]
    memory: Dict[str, Dict[str, int]]


class Row(NamedTuple):
    """A line of the table; ``passed`` is None where no bar applies."""

    title: str
    cells: List[str]
    bar: str
    passed: Optional[bool]


def measure(everyone: Sequence[Peer], tree: Tree, pairs: int, tell: Callable[[str], None], settle: Callable[[], None]) -> Measured:
    """Run all operations of all peers ``pairs`` times, and once more to look at the memory. ``settle`` waits until what was written is old."""
    measured = Measured({name: {} for name in TITLES}, {name: {} for name in TITLES})

    def take(operation: str, turn: int, edited: int = 0) -> None:
        for peer in everyone if turn % 2 == 0 else everyone[::-1]:
            argv = getattr(peer, operation)()
            if argv is None:
                continue
            if turn == pairs:
                measured.memory[operation][peer.name] = peak_memory(argv)
                continue
            done = run(argv)
            if not peer.has_done(operation, done.output, edited):
                raise Failed("%s did not do what is measured: %s" % (" ".join(argv), done.output[:2000]))
            measured.seconds[operation].setdefault(peer.name, []).append(done.seconds)
            tell("%s: %s %.2f s" % (TITLES[operation], peer.name, done.seconds))

    for number, operation in enumerate(OPERATIONS):
        for turn in range(pairs + 1):
            edited = 0
            if operation == "changed":
                if turn:
                    settle()
                    take("settled", turn - 1)  # what changed in the last turn is not what is measured in this one
                edited = edit_one_percent(tree, number * 1000 + turn)
            take(operation, turn, edited)
    return measured


def judge(measured: Measured, engine: str, reference: str, names: Sequence[str]) -> List[Row]:
    """The table's lines, in the order of the operations, memory last."""
    rows = []
    for operation, seconds in measured.seconds.items():
        bar = BARS.get(operation)
        value = statistics.median(seconds[engine])
        cells = ["%.2f s" % statistics.median(seconds[name]) if name in seconds else "" for name in names]
        if bar is None:
            rows.append(Row(TITLES[operation], cells, "", None))
            continue
        if bar.unit == "x":
            # Of the pairs, not of the medians: what disturbed one turn disturbed both of it.
            value = statistics.median(mine / other for mine, other in zip(seconds[engine], seconds[reference], strict=True))
            cells[0] += " (%.2f ×)" % value
        rows.append(Row(TITLES[operation], cells, str(bar), value <= bar.most))
    most = {name: max(memory[name] for memory in measured.memory.values() if name in memory) / _MIB for name in names}
    bar = BARS["memory"]
    rows.append(Row("most memory", ["%.0f MiB" % most[name] for name in names], str(bar), most[engine] <= bar.most))
    return rows


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A Markdown table that is as readable in a terminal."""
    lines = [["", *names, "bar", ""], *([row.title, *row.cells, row.bar, {True: "pass", False: "MISS", None: ""}[row.passed]] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "".join("| %s |\n" % " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def describe_machine() -> Dict[str, Any]:
    """What the numbers depend on."""
    with open("/proc/meminfo") as stream:
        memory = int(stream.readline().split()[1]) // (1 << 20)
    with open("/proc/cpuinfo") as stream:
        models = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else platform.machine(),
        "memory_gib": memory,
        "kernel": platform.release(),
        "rsync": _ask("rsync", "--version").split()[2],
        "python": _ask(python_of_hosts(), "-c", "import platform; print(platform.python_version())"),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
    }


def _ask(*argv: str) -> str:
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, check=True).stdout.strip()


def caption(machine: Mapping[str, Any], pairs: int) -> str:
    """One line about where the numbers come from."""
    return (
        "Medians of {pairs} runs each; {cpus} CPUs ({cpu}), {memory_gib} GiB of memory, Linux {kernel}, rsync {rsync}, Python {python}, run by {user}.".format(
            pairs=pairs, **machine
        )
    )


def write_json(measured: Measured, tree: Tree, machine: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Every single number, for programs."""
    made = {"files": tree.names, "bytes": tree.bytes, "directories": tree.directories, "symlinks": tree.symlinks, "hard_links": tree.hard_links}
    JSON.parent.mkdir(exist_ok=True)
    item = {"machine": machine, "tree": made, **measured._asdict(), "rows": [row._asdict() for row in rows]}
    JSON.write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")
    _say("All numbers are in %s." % JSON.relative_to(ROOT))


def write_page(text: str) -> None:
    """Put ``text`` between the markers of the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text("%s%s\n\n%s\n%s%s" % (head, BEGIN, text, END, tail), encoding="utf-8")
    _say("The table is in %s." % PAGE.relative_to(ROOT))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure openclaw-backup against rsync.")
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help="turns of which the median counts (default: %(default)s)")
    parser.add_argument("--files", type=int, default=FILES, metavar="N", help="size of the tree; the bars are for the default, %(default)s")
    parser.add_argument("--directory", type=Path, default=MEMORY, metavar="DIR", help="where, best in memory (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.pairs < 1 or options.files < 500:
        parser.error("at least 1 pair and 500 files")
    is_full_size = options.files == FILES
    _check_space(options.directory, options.files)
    busy = os.getloadavg()[0]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no tree stays behind
    room = Path(tempfile.mkdtemp(prefix="openclaw-backup-bench-", dir=options.directory))
    try:
        _say("Making %s files, %.2f GB, in %s ..." % (format(options.files, ","), options.files * MEAN_SIZE / 1e9, room))
        tree = make_tree(room / "source", options.files)

        def settle() -> None:
            if is_full_size:
                _say("Waiting %d s: files younger than a minute are hashed again each time ..." % _SETTLED)
                time.sleep(_SETTLED)

        settle()
        everyone = peers(room, tree.root)
        measured = measure(everyone, tree, options.pairs, _say, settle)
        _prove(everyone[0], tree)
    except Failed as error:
        _say("bench: %s" % error)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        remove(room)

    names = [peer.name for peer in everyone]
    rows = judge(measured, names[0], names[1], names)
    if not is_full_size:
        print("\n%s" % table([row._replace(passed=None) for row in rows], names))
        _say("The bars are for %s files: nothing was judged or written." % format(FILES, ","))
        return 0
    machine = describe_machine()
    print("\n%s\n%s" % (table(rows, names), caption(machine, options.pairs)))
    write_json(measured, tree, machine, rows)
    if busy > machine["cpus"] / 2:
        _say("The machine was busy (load %.1f on %d CPUs): an idle one gives other numbers." % (busy, machine["cpus"]))
    if options.pairs >= PAIRS:
        write_page("%s\n%s\n" % (table(rows, names), caption(machine, options.pairs)))
    return 0 if all(row.passed is not False for row in rows) else 1


def _check_space(directory: Path, files: int) -> None:
    need = files * (MEAN_SIZE + 4096) * _COPIES
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        sys.exit("bench: %s is not a directory that this user can write; name another with --directory" % directory)
    free = shutil.disk_usage(directory).free
    if directory == MEMORY:
        with open("/proc/meminfo") as stream:
            free = min(free, *(int(line.split()[1]) * 1024 for line in stream if line.startswith("MemAvailable:")))
    if free < need:
        sys.exit("bench: %s has %.1f GB free, and %.1f GB are needed; name another place with --directory" % (directory, free / 1e9, need / 1e9))


def _prove(engine: Peer, tree: Tree) -> None:
    """What was measured was a backup: the last restore equals the source."""
    run(["diff", "-r", "--no-dereference", "--", str(tree.root), str(engine.restored_source())])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
