# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public results of drills as a report: JUnit XML for build servers, Markdown for people."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, NamedTuple, Sequence
from xml.sax.saxutils import escape, quoteattr

from ..observe.progress import format_bytes
from .render import DRILL_MARKS, format_duration

Result = Mapping[str, Any]

# What no XML document may hold, and what ends a cell or begins markup in a table.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~])")
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'


class Rehearsed(NamedTuple):
    """What came of the drill of a policy of a host of a fleet: its ``result``, and ``message``, why it failed; without ``checks`` it came to none."""

    host: str
    policy: str
    result: Result
    message: str = ""

    @property
    def is_drill(self) -> bool:
        """Whether there was a drill, and not only a reason why not."""
        return bool(self.result.get("checks"))

    @property
    def verdict(self) -> str:
        """In a word."""
        return str(self.result.get("verdict") or "failed")


def junit(result: Result) -> str:
    """A test suite with a case for each check; one that was not judged is skipped."""
    return "\n".join([_HEAD, *_suite(result), ""])


def fleet_junit(found: Sequence[Rehearsed]) -> str:
    """A suite for each drill, and one that failed for each that came to none."""
    lines = [_HEAD, "<testsuites name=%s>" % _attribute("drill")]
    for item in found:
        lines += _suite(item.result) if item.is_drill else _no_suite(item)
    return "\n".join([*lines, "</testsuites>", ""])


def _no_suite(item: Rehearsed) -> List[str]:
    name = "drill %s %s" % (item.host, item.policy)
    error = item.result.get("error") or {}
    return [
        '<testsuite name=%s hostname=%s tests="1" failures="1" errors="0" skipped="0">' % (_attribute(name), _attribute(item.host)),
        "  <testcase classname=%s name=%s><failure message=%s type=%s/></testcase>"
        % (_attribute(name), _attribute("drill"), _attribute(" ".join(item.message.split())), _attribute(str(error.get("kind") or "failed"))),
        "</testsuite>",
    ]


def _suite(result: Result) -> List[str]:
    name = "drill %s %s" % (result["host"], result["policy"])
    cases: List[str] = []
    for check in result["checks"]:
        head = "  <testcase classname=%s name=%s time=%s" % (_attribute(name), _attribute(check["name"]), _attribute("%.3f" % check["duration"]))
        if check["ok"] is True:
            cases.append("%s><system-out>%s</system-out></testcase>" % (head, _text(check["reason"])))
        else:
            tag = "skipped" if check["ok"] is None else "failure"
            kind = "" if check["ok"] is None else " type=%s" % _attribute(check["kind"])
            cases.append("%s><%s message=%s%s/></testcase>" % (head, tag, _attribute(check["reason"]), kind))
    counts = result["counts"]
    facts = {
        "snapshot": result["snapshot_id"],
        "digest": result["digest"],
        "verdict": result["verdict"],
        "state_as_of": result["state_as_of"],
        "rto": result["rto"],
        "rpo": result["rpo"],
        "target": result["target"],
        "scenario": result["scenario"],
        "loss": result["loss"],
        "asked_by": _who(result),
        **{"version_" + what: version for what, version in result["versions"].items()},
    }
    return [
        '<testsuite name=%s hostname=%s timestamp=%s time="%.3f" tests="%d" failures="%d" errors="0" skipped="%d">'
        % (
            _attribute(name),
            _attribute(result["host"]),
            _attribute(result["started"][:19]),
            result["duration"],
            len(result["checks"]),
            counts["failed"],
            counts["skipped"],
        ),
        "  <properties>",
        *("    <property name=%s value=%s/>" % (_attribute(key), _attribute(str(value))) for key, value in facts.items() if value is not None),
        "  </properties>",
        *cases,
        "</testsuite>",
    ]


def markdown(result: Result) -> str:
    """A heading, what was measured, and a table of the checks."""
    return "\n".join(_page(result, "#"))


def fleet_markdown(found: Sequence[Rehearsed]) -> str:
    """A table of all drills, those that failed first, and of each that found something wrong what ``markdown`` says."""
    bad = [item for item in found if item.verdict != "passed"]
    good = [item for item in found if item.verdict == "passed"]
    lines = [
        "# Drills: %d, %d of them passed" % (len(found), len(good)),
        "",
        "| host | policy | verdict | time to recover | objective | work lost | objective | what is wrong |",
        "|---|---|---|---|---|---|---|---|",
        *("| %s |" % " | ".join(_row(item)) for item in [*bad, *good]),
        "",
    ]
    who = sorted({_who(item.result) for item in found if item.is_drill})
    if who:
        lines += ["Asked by: %s." % _plain(", ".join(who)), ""]
    what = sorted({_scenario(item.result) for item in found if item.is_drill})
    if what:
        lines += ["Scenario: %s." % _plain(", ".join(what)), ""]
    for item in bad:
        if item.is_drill:
            lines += _page(item.result, "##")
    return "\n".join(lines)


def _row(item: Rehearsed) -> List[str]:
    result = item.result
    cells = [_plain(item.host), _plain(item.policy), item.verdict]
    for key in ("rto", "rpo"):
        wished = (result.get("objectives") or {}).get(key)
        cells += ["-" if result.get(key) is None else format_duration(result[key]), "none" if not wished else format_duration(wished)]
    wrong = "; ".join("%s: %s" % (check["name"], check["reason"]) for check in result.get("checks", ()) if check["ok"] is False)
    return [*cells, _plain(wrong or item.message)]


def _page(result: Result, level: str) -> List[str]:
    objectives = result["objectives"]
    measured = [
        (word, "not measured" if result[key] is None else format_duration(result[key]), "none" if not objectives[key] else format_duration(objectives[key]))
        for word, key in (("time to recover (RTO)", "rto"), ("work lost (RPO)", "rpo"))
    ]
    lines = [
        "%s Drill of %s, policy %s: %s" % (level, _plain(result["host"]), _plain(result["policy"]), result["verdict"]),
        "",
        "- snapshot: %s in %s" % (_plain(str(result["snapshot_id"] or "none")), _plain(result["target"])),
        "- scenario: %s" % _scenario(result),
        "- the state of: %s" % (result["state_as_of"] or "unknown"),
        "- holds: {:,} files, {}".format(result["files"], format_bytes(result["bytes"])),
        "- drilled: %s to %s" % (result["started"], result["finished"]),
        "- asked by: %s" % _plain(_who(result)),
        "- versions: %s" % ", ".join("%s %s" % pair for pair in result["versions"].items() if pair[1]),
        "",
        "| | measured | objective |",
        "|---|---|---|",
        *("| %s | %s | %s |" % row for row in measured),
        "",
        "| check | result | |",
        "|---|---|---|",
        *("| %s | %s | %s |" % (_plain(check["name"]), DRILL_MARKS[check["ok"]], _plain(check["reason"])) for check in result["checks"]),
        "",
    ]
    warnings = ["- warning: %s" % _plain(text) for text in result.get("warnings", ())]
    return lines + (warnings + [""] if warnings else [])


def _scenario(result: Result) -> str:
    """What was rehearsed, and what it would cost where that is more than ``rpo`` says."""
    return str(result["scenario"]) + ("" if result["loss"] is None else ", which costs %s more" % format_duration(result["loss"]))


def _who(result: Result) -> str:
    """Who asked, as far as it was said, and as whom it was done."""
    who = result["asked_by"]
    named = [str(who[name]) for name in ("claimed", "sudo_user") if who.get(name)]
    return str(who["user"]) + (" (%s)" % ", ".join(named) if named else "")


def _attribute(text: str) -> str:
    return quoteattr(_NO_XML.sub("\ufffd", text))


def _text(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text))


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
