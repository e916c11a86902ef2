# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public result of a drill as a report: JUnit XML for build servers, Markdown for people."""

from __future__ import annotations

import re
from typing import Any, List, Mapping
from xml.sax.saxutils import escape, quoteattr

from ..observe.progress import format_bytes
from .render import DRILL_MARKS, format_duration

Result = Mapping[str, Any]

# What no XML document may hold, and what ends a cell or begins markup in a table.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~])")


def junit(result: Result) -> str:
    """A test suite with a case for each check; one that was not judged is skipped."""
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
        **{"version_" + what: version for what, version in result["versions"].items()},
    }
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
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
            "",
        ]
    )


def markdown(result: Result) -> str:
    """A heading, what was measured, and a table of the checks."""
    objectives = result["objectives"]
    measured = [
        (word, "not measured" if result[key] is None else format_duration(result[key]), "none" if not objectives[key] else format_duration(objectives[key]))
        for word, key in (("time to recover (RTO)", "rto"), ("work lost (RPO)", "rpo"))
    ]
    who = result["asked_by"]
    lines = [
        "# Drill of %s, policy %s: %s" % (_plain(result["host"]), _plain(result["policy"]), result["verdict"]),
        "",
        "- snapshot: %s in %s" % (_plain(str(result["snapshot_id"] or "none")), _plain(result["target"])),
        "- the state of: %s" % (result["state_as_of"] or "unknown"),
        "- holds: {:,} files, {}".format(result["files"], format_bytes(result["bytes"])),
        "- drilled: %s to %s" % (result["started"], result["finished"]),
        "- asked by: %s" % _plain(who["user"] + (" (%s)" % who["sudo_user"] if who["sudo_user"] else "")),
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
    warnings = ["- warning: %s" % _plain(text) for text in result["warnings"]]
    return "\n".join(lines + (warnings + [""] if warnings else []))


def _attribute(text: str) -> str:
    return quoteattr(_NO_XML.sub("\ufffd", text))


def _text(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text))


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
