#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured, for people: docs/performance.json becomes tables, plots and verdicts in docs/performance.md."""

from __future__ import annotations

import json
import statistics
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from xml.sax.saxutils import escape

from peers import PEERS, ROOT, Btrfs, Engine, Floor
from tree import VERSIONS

RESULTS = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "images"
BEGIN, END = "<!-- measured by make bench: begin -->", "<!-- measured by make bench: end -->"
PASS, MISS = "pass", "**MISS**"
_MB = 1_000_000

# In the order in which they follow on each other.
TITLES = {
    "first": "first backup",
    "unchanged": "nothing changed",
    "task": "nothing changed, as a task of Ansible",
    "changed": "1 % of the files changed",
    "again": "nothing changed, but 1 % just before",
    "page": "one page of a database changed",
    "verify": "verify all data",
    "restore": "restore to an empty directory",
    "repair": "restore where 1 % is damaged",
    "prune": "remove %d of %d backups" % (VERSIONS, VERSIONS + 1),
}

Taken = Mapping[str, Any]  # of one tree, as bench.measure returns it


class Bar(NamedTuple):
    """The most that ``peer`` may need for a case on a tree: in ``unit`` s or MB, ``x``: times what ``other`` needs, ``+``: s beyond that."""

    tree: str
    case: str
    most: float
    unit: str = "s"
    other: str = ""
    other_case: str = ""
    peer: str = Engine.name

    def __str__(self) -> str:
        """Which bar it is, and how high."""
        what = "memory for " + TITLES[self.case] if self.unit == "MB" else TITLES[self.case]
        than = self.other + (", " + TITLES[self.other_case] if self.other_case else "")
        limit = {"x": "%g × %s" % (self.most, than), "+": "%g s beyond %s" % (self.most, than)}.get(self.unit, "%g %s" % (self.most, self.unit))
        return "%s: %s%s ≤ %s" % (self.tree, what, "" if self.peer == Engine.name else " (%s)" % self.peer, limit)


BARS = (
    Bar("small", "first", 1.25, "x", "rsync -aHAX"),
    Bar("small", "first", 0.75, "x", "restic"),
    Bar("small", "unchanged", 0.5),
    Bar("small", "unchanged", 0.2, "x", "restic"),
    Bar("small", "unchanged", 0.07, "x", "rsync -aHAX"),
    Bar("small", "changed", 1.1),
    Bar("small", "changed", 0.4, "x", "restic"),
    Bar("small", "verify", 0.9),
    Bar("small", "verify", 0.35, "x", "restic"),
    Bar("small", "restore", 1.1, "x", "rsync -aHAX"),
    Bar("small", "restore", 0.7, "x", "restic"),
    Bar("small", "task", 0.7, "+", Engine.name, "unchanged"),
    Bar("small", "changed", 260, "MB"),
    Bar("small", "restore", 260, "MB"),
    Bar("million", "unchanged", 6.5),
    Bar("million", "unchanged", 700, "MB"),
    Bar("large", "page", 1.5, "+", Floor.name, peer=Btrfs.name),
    Bar("ssh", "changed", 2.5),
    Bar("bucket", "first", 1.2, "x", "restic"),
    Bar("bucket", "unchanged", 0.8),
    Bar("bucket", "changed", 2),
    Bar("bucket", "verify", 1, "x", "restic"),
    Bar("bucket", "restore", 1, "x", "restic"),
)


def read_results() -> Dict[str, Any]:
    """By name of tree."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else {}


def write_results(results: Mapping[str, Taken]) -> None:
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def judge(results: Mapping[str, Taken]) -> List[List[str]]:
    """A line for each bar of the trees that were measured: the bar, the value with its spread, the verdict."""
    lines = []
    for bar in BARS:
        if bar.tree not in results:
            continue
        cases = results[bar.tree]["cases"]
        mine = cases[bar.case].get(bar.peer)
        others = cases[bar.other_case or bar.case].get(bar.other)
        if not mine or (bar.other and not others):
            lines.append([str(bar), "not measured", ""])
            continue
        if bar.unit == "MB":
            values = [mine["memory"] / _MB]
        elif bar.unit == "s":
            values = mine["seconds"]
        else:
            # Of the turns, not of the medians: what disturbed one turn disturbed both of it.
            values = [one / other if bar.unit == "x" else one - other for one, other in zip(mine["seconds"], others["seconds"], strict=True)]
        unit = {"x": "×", "+": "s"}.get(bar.unit, bar.unit)
        lines.append([str(bar), "%s %s" % (_spread(values), unit), PASS if statistics.median(values) <= bar.most else MISS])
    return lines


def _spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    form = "%.0f" if min(values) >= 100 else "%.2f"
    middle = form % statistics.median(values)
    return middle if len(values) == 1 else "%s (%s–%s)" % (middle, form % min(values), form % max(values))


def _in_order(taken: Taken) -> List[Tuple[str, Mapping[str, Any]]]:
    """The cases that the engine was measured in: Ansible may be missing."""
    return [(case, taken["cases"][case]) for case in TITLES if Engine.name in taken["cases"].get(case, ())]


def peers_of(taken: Taken) -> List[str]:
    """The peers that were measured, in their order."""
    return [cls.name for cls in PEERS if any(cls.name in by_peer for by_peer in taken["cases"].values())]


def tables(taken: Taken) -> str:
    """Three tables of one tree: seconds, the engine's seconds in those of the others, CPU seconds and memory."""
    names = peers_of(taken)
    lines: Dict[str, List[List[str]]] = {"seconds": [], "ratio": [], "load": []}
    for case, by_peer in _in_order(taken):
        mine = by_peer[Engine.name]
        row: Dict[str, List[str]] = {kind: [TITLES[case]] for kind in lines}
        for name in names:
            its = by_peer.get(name)
            row["seconds"].append(_spread(its["seconds"]) if its else "")
            row["ratio"].append(_spread([one / other for one, other in zip(mine["seconds"], its["seconds"], strict=True)]) if its else "")
            row["load"].append(("%.1f s" % statistics.median(its["cpu"]) + (", %.0f MB" % (its["memory"] / _MB) if its["memory"] else "")) if its else "")
        row["ratio"].pop(1)
        for kind, cells in row.items():
            lines[kind].append(cells)
    return "\n".join(
        (
            "Seconds, median (least–most):\n\n" + table(["", *names], lines["seconds"]),
            "What %s needs in units of the others, turn by turn:\n\n" % Engine.name + table(["", *names[1:]], lines["ratio"]),
            "CPU seconds, and most memory of all processes together:\n\n" + table(["", *names], lines["load"]),
        )
    )


def request_table(counted: Mapping[str, Any]) -> str:
    """How often each peer asked for what in each case."""
    cases = counted["counted"]
    names = list(dict.fromkeys(name for by_peer in cases.values() for name in by_peer))
    rows = [[case, *(_verbs(by_peer.get(name)) for name in names)] for case, by_peer in cases.items()]
    return table(["", *names], rows)


def kept_table(counted: Mapping[str, Any]) -> str:
    """How many objects each peer leaves, how long it took through the proxy (s), and what a restore gave back; nothing where that was not looked at."""
    kept = counted.get("kept")
    if not kept:
        return ""
    columns = list(dict.fromkeys(column for facts in kept.values() for column in facts))
    return table(["", *columns], [[name, *(str(facts.get(column, "")) for column in columns)] for name, facts in kept.items()])


def _verbs(asked: Optional[Mapping[str, int]]) -> str:
    if asked is None:
        return ""
    return ", ".join("%d %s" % (number, verb.upper()) for verb, number in asked.items()) or "none"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is as readable in a terminal."""
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    rows = [head, ["-" * max(width, 3) for width in widths], *lines]
    return "".join("| %s |\n" % " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def caption(taken: Taken) -> str:
    """Where the numbers come from, and what is not among them."""
    tools = ", ".join("%s %s" % item for item in taken["machine"]["tools"].items())
    text = "{turns} turns; {cpus} CPUs ({cpu}), {memory_gib} GiB of memory, Linux {kernel}, Python {python}, {tools}, run by {user}.".format(
        **{**taken["machine"], "turns": taken["turns"], "tools": tools}
    )
    return text + "".join(" Not measured: %s (%s)." % item for item in taken["missing"].items())


def plot_seconds(taken: Taken) -> str:
    """A plot of the times of one tree."""
    names = peers_of(taken)
    return plot([(TITLES[case], {name: by_peer[name]["seconds"] for name in names if name in by_peer}) for case, by_peer in _in_order(taken)], "%.2f s")


def plot_requests(counted: Mapping[str, Any]) -> str:
    """A plot of the requests that are paid for: those that delete are not."""
    return plot(
        [
            (case, {name: [sum(number for verb, number in asked.items() if verb != "delete")] for name, asked in by_peer.items()})
            for case, by_peer in counted["counted"].items()
        ],
        "%d",
    )


def plot(cases: Sequence[Tuple[str, Mapping[str, Sequence[float]]]], form: str) -> str:
    """An SVG image: for each case a bar for each peer, as long as its median in proportion to the largest, with a line from least to most."""
    left, width, height = 230, 480, 15
    parts: List[str] = []
    top = 10
    for title, by_peer in cases:
        top += 20
        parts.append('<text x="10" y="%d" font-weight="bold">%s</text>' % (top, escape(title)))
        largest = max(max(values) for values in by_peer.values()) or 1
        for name, values in by_peer.items():
            least, middle, most = (left + width * value / largest for value in (min(values), statistics.median(values), max(values)))
            top += height
            parts.append('<text x="%d" y="%d" text-anchor="end">%s</text>' % (left - 6, top, escape(name)))
            parts.append('<rect x="%d" y="%d" width="%.1f" height="10" fill="%s"/>' % (left, top - 9, middle - left, _COLORS.get(name, "#64748b")))
            parts.append('<path d="M%.1f %dH%.1f" stroke="#222"/>' % (least, top - 4, most))
            parts.append('<text x="%.1f" y="%d">%s</text>' % (most + 6, top, form % statistics.median(values)))
        top += 6
    size = (left + width + 70, top + 10)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" font-family="sans-serif" font-size="11">\n' % (*size, size[0])
        + '<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


_COLORS = dict(zip((cls.name for cls in PEERS), ("#c2410c", "#ea8a5c", "#1d4ed8", "#60a5fa", "#15803d", "#7e22ce", "#9ca3af"), strict=True))


def write_page(results: Mapping[str, Taken]) -> None:
    """Put what ``results`` say between the markers of the page, and the plots beside it."""
    PLOTS.mkdir(exist_ok=True)
    parts = ["## Bars\n\n" + table(["bar", "measured", ""], judge(results) + [[str(bar), "not measured", ""] for bar in BARS if bar.tree not in results])]
    for name, taken in sorted(results.items(), key=lambda item: item[0]):
        image = PLOTS / ("performance-%s.svg" % name)
        if "counted" in taken:
            image.write_text(plot_requests(taken), encoding="utf-8")
            title = "## Requests: {files} files in {directories} directories, in a bucket".format(**taken)
            tables_of = "\n".join(filter(None, (request_table(taken), kept_table(taken))))
            parts.append("%s\n\n![Requests of each case and tool](images/%s)\n\n%s" % (title, image.name, tables_of))
            continue
        image.write_text(plot_seconds(taken), encoding="utf-8")
        title = "## `%s`: %s, %s files, %.2f GB" % (name, taken["title"], format(taken["files"], ","), taken["bytes"] / 1e9)
        parts.append("%s\n\n![Seconds of each case and tool](images/%s)\n\n%s\n%s\n" % (title, image.name, tables(taken), caption(taken)))
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text("%s%s\n\n%s\n%s%s" % (head, BEGIN, "\n".join(parts), END, tail), encoding="utf-8")
