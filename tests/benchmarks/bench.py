#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the command line side by side with rsync, rsnapshot, restic and borg, and hold it to its bars.

Each turn gives every peer one round: it begins in an empty place and goes through all cases, and what it made is removed. Who begins alternates, so
that all of them meet the same machine; what counts is the median. Exits 1 where a bar is missed. Results of a full measurement: docs/performance.json,
and from it docs/performance.md.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Sequence, Type

from measure import Failed, peak_memory, remove, run
from peers import PEERS, Peer, python_of_hosts
from report import MISS, TITLES, judge, read_results, table, tables, write_page, write_results
from tree import KINDS, Kind, Tree, damage_one_percent, differences, edit_one_percent, edit_page

TREES = "small,history"
TURNS = 5
MEMORY = Path("/dev/shm")
# A younger file is hashed again by the next run, so a tree is measured when it is older (s).
_SETTLED = 61


class Source:
    """The tree that is measured, how often it was edited, and how old that is."""

    def __init__(self, tree: Tree, settles: bool) -> None:
        self.tree = tree
        self.settles = settles
        self.edits = 0
        self.edited = time.monotonic()

    def edit(self, case: str, peer: Peer) -> int:
        """Make the change that ``case`` is about; how many files that are."""
        self.edits += 1
        if case == "repair":
            return damage_one_percent(self.tree, peer.restored_source(), self.edits)
        if case not in ("changed", "page"):
            return 0
        self.edited = time.monotonic()
        return edit_page(self.tree, self.edits) if case == "page" else edit_one_percent(self.tree, self.edits)

    def settle(self) -> None:
        """Wait until what was edited is old."""
        wait = self.edited + _SETTLED - time.monotonic()
        if self.settles and wait > 0:
            _say("Waiting %d s: files younger than a minute are hashed again each time ..." % wait)
            time.sleep(wait)


def measure(kind: Kind, scale: float, everyone: Sequence[Type[Peer]], room: Path, turns: int) -> Dict[str, Any]:
    """All cases of all peers ``turns`` times, and once more to look at the memory.

    ``cases`` has of each case and peer the ``seconds`` and ``cpu`` seconds of each turn, and ``memory`` in bytes.
    """
    tree = kind.make(room / "source", scale)
    _say("%s: %s files in %s directories, %.2f GB, in %s" % (kind.title, format(tree.names, ","), format(tree.directories, ","), tree.bytes / 1e9, room))
    source = Source(tree, settles=scale == 1)
    versions = math.ceil(kind.versions * scale)
    peers = [cls(room / cls.__name__.lower(), tree) for cls in everyone]
    cases: Dict[str, Dict[str, Dict[str, Any]]] = {case: {} for case in TITLES if case in kind.cases}
    try:
        for turn in range(turns + 1):
            for peer in peers if turn % 2 == 0 else peers[::-1]:
                _begin(peer, source, versions)
                for case, taken in cases.items():
                    _take(case, peer, source, versions, taken, is_timed=turn < turns)
                if peer.restored.exists():
                    found = differences(tree, peer.restored_source())
                    if found:
                        raise Failed("%s restored something else than what was backed up:\n%s" % (peer.name, found[:2000]))
                peer.close()
    finally:
        for peer in peers:
            peer.close()
        for database in tree.databases.values():
            database.close()
    made = {"files": tree.names, "bytes": tree.bytes, "directories": tree.directories, "symlinks": tree.symlinks, "hard_links": tree.hard_links}
    return {"title": kind.title, **made, "turns": turns, "cases": cases}


def _begin(peer: Peer, source: Source, versions: int) -> None:
    """An empty place, or one with a history of ``versions`` more backups, which is made once and then copied."""
    if peer.needs_settled:
        source.settle()
    kept = peer.room.with_suffix(".kept")
    if kept.exists():
        run(["cp", "-a", "--", str(kept), str(peer.room)])
        return
    peer.prepare()
    if versions:
        _say("Making %d backups: %s ..." % (versions + 1, peer.name))
        run(peer.backup())
        for _ in range(versions):
            source.edit("changed", peer)
            run(peer.backup())
        run(["cp", "-a", "--", str(peer.room), str(kept)])


def _take(case: str, peer: Peer, source: Source, versions: int, taken: Dict[str, Dict[str, Any]], is_timed: bool) -> None:
    argv = getattr(peer, case)()
    if argv is None:
        return
    edited = source.edit(case, peer)
    numbers = taken.setdefault(peer.name, {"seconds": [], "cpu": [], "memory": 0})
    if not is_timed:
        if case != "task":  # most of that is Ansible's own
            numbers["memory"] = peak_memory(argv)
        return
    done = run(argv)
    if not peer.has_done(case, done.output, versions if case == "prune" else edited):
        raise Failed("%s did not do what is measured: %s" % (" ".join(argv), done.output[-2000:]))
    numbers["seconds"].append(round(peer.seconds(case, done), 4))
    numbers["cpu"].append(round(done.cpu, 3))
    _say("%s: %s %.2f s" % (TITLES[case], peer.name, numbers["seconds"][-1]))


def describe_machine(everyone: Sequence[Type[Peer]]) -> Dict[str, Any]:
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
        "tools": {cls.programs[0]: cls.version() for cls in everyone if cls.version()},
        "python": run([python_of_hosts(), "-c", "import platform; print(platform.python_version())"]).output.strip(),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure openclaw-backup side by side with the other tools that are installed.")
    parser.add_argument("--trees", default=os.environ.get("TREES") or TREES, metavar="NAMES", help="of %s (default: %s)" % (",".join(KINDS), TREES))
    parser.add_argument("--without", default=os.environ.get("WITHOUT") or "", metavar="NAMES", help="tools to leave out, as the tables name them")
    parser.add_argument("--turns", type=int, default=os.environ.get("TURNS") or TURNS, metavar="N", help="of which the median counts (default: %d)" % TURNS)
    parser.add_argument("--scale", type=float, default=1, metavar="F", help="size of the trees; the bars are for the default, 1")
    parser.add_argument("--directory", type=Path, default=MEMORY, metavar="DIR", help="where, best in memory (default: %(default)s)")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page anew from docs/performance.json")
    options = parser.parse_args(arguments)
    if options.page:
        write_page(read_results())
        return 0
    names = options.trees.split(",")
    unknown = sorted(set(names) - set(KINDS))
    if unknown:
        parser.error("there is no tree %s; there are %s" % (", ".join(unknown), ", ".join(KINDS)))
    if options.turns < 1 or not 0 < options.scale <= 1:
        parser.error("at least 1 turn, and a scale above 0 and up to 1")
    left_out = options.without.split(",") if options.without else []
    unknown = sorted(set(left_out) - {cls.name for cls in PEERS})
    if unknown:
        parser.error("there is no tool %s; there are %s" % (", ".join(unknown), "; ".join(cls.name for cls in PEERS)))
    for name in names:
        _check_space(options.directory, KINDS[name], options.scale)

    lacking = {cls.name: "the machine lacks %s" % cls.lacks() for cls in PEERS if cls.lacks()}
    missing = {**dict.fromkeys(left_out, "left out"), **lacking}
    for name, why in missing.items():
        _say("%s is not measured: %s." % (name, why))
    busy = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no tree stays behind
    measured: Dict[str, Any] = {}
    for name in names:
        kind = KINDS[name]
        everyone = [cls for cls in PEERS if cls.name not in missing and cls.measures(kind.cases)]
        room = Path(tempfile.mkdtemp(prefix="openclaw-backup-bench-", dir=options.directory))
        try:
            taken = measure(kind, options.scale, everyone, room, options.turns)
        except Failed as error:
            _say("bench: %s" % error)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            remove(room)
        absent = {cls.name: missing[cls.name] for cls in PEERS if cls.name in missing and cls.measures(kind.cases)}
        measured[name] = {**taken, "machine": describe_machine(everyone), "missing": absent}

    if options.scale != 1:
        print("".join(tables(taken) for taken in measured.values()))
        _say("The bars are for whole trees: nothing was judged or written.")
        return 0
    rows = judge(measured)
    print("%s\n%s" % ("\n".join(tables(taken) for taken in measured.values()), table(["bar", "measured", ""], rows)))
    if busy > len(os.sched_getaffinity(0)) / 2:
        _say("The machine was busy (load %.1f): an idle one gives other numbers." % busy)
    if options.turns >= TURNS:
        results = {**read_results(), **measured}
        write_results(results)
        write_page(results)
    return 1 if any(row[-1] == MISS for row in rows) else 0


def _check_space(directory: Path, kind: Kind, scale: float) -> None:
    need = int(kind.bytes * kind.copies * scale)
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        sys.exit("bench: %s is not a directory that this user can write; name another with --directory" % directory)
    free = shutil.disk_usage(directory).free
    if directory == MEMORY:
        with open("/proc/meminfo") as stream:
            free = min(free, *(int(line.split()[1]) * 1024 for line in stream if line.startswith("MemAvailable:")))
    if free < need:
        sys.exit("bench: %s has %.1f GB free, and %.1f GB are needed; name another place with --directory" % (directory, free / 1e9, need / 1e9))
    inodes = os.statvfs(directory).f_favail
    if inodes and inodes < kind.names * 3.05 * scale:
        sys.exit("bench: %s has %d inodes free, and %d are needed; name another place with --directory" % (directory, inodes, kind.names * 3.05 * scale))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
