# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reports of a drill can be read by who they are for, whatever stands in them."""

from __future__ import annotations

from typing import Any, Dict
from xml.etree import ElementTree

from ansible_collections.openclaw.backup.plugins.module_utils.action.drill import DrillResult
from ansible_collections.openclaw.backup.plugins.module_utils.action.probes import Check
from ansible_collections.openclaw.backup.plugins.module_utils.agent.reports import junit, markdown

NASTY = "<&\"'>]]> \x00\x1b \udcff | `x` # *é* \n end"


def result(**more: Any) -> Dict[str, Any]:
    made = DrillResult(host="h", policy="p", target="/v", started="2026-11-20T09:15:00.123Z", finished="2026-11-20T09:16:00.123Z", **more)
    made.objectives = {"rto": 60, "rpo": None, "drill_every": None}
    made.asked_by = {"user": "root", "sudo_user": None}
    made.take([Check("bytes", "bytes", True, NASTY, 0.5), Check("canary", "canary", None, NASTY), Check(NASTY, "probe", False, NASTY, 1.25)])
    return made.to_dict()


def test_every_check_is_a_case() -> None:
    suite = ElementTree.fromstring(junit(result()).encode())
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"}
    passed, skipped, failed = suite.iter("testcase")
    assert passed.find("failure") is None and passed.get("time") == "0.500"
    assert skipped.find("skipped") is not None
    failure = failed.find("failure")
    assert failure is not None and failure.get("type") == "probe" and '<&"' in str(failure.get("message"))


def test_a_drill_that_came_to_nothing_has_reports_too() -> None:
    nothing = DrillResult(host="h", policy="p", started="2026-11-20T09:15:00.123Z")
    nothing.asked_by = {"user": "root", "sudo_user": "ann"}
    nothing.objectives = {"rto": None, "rpo": None, "drill_every": None}
    nothing.take([Check("restore", "restore", False, "no vault")])
    suite = ElementTree.fromstring(junit(nothing.to_dict()).encode())
    assert suite.get("failures") == "1"
    assert "not measured" in markdown(nothing.to_dict()) and "root (ann)" in markdown(nothing.to_dict())


def test_no_name_breaks_the_table_that_people_read() -> None:
    text = markdown(result(rto=12.5, rpo=90))
    rows = [line for line in text.splitlines() if line.startswith("| ") and "measured" not in line and "check" not in line]
    assert "| time to recover (RTO) | 12.5 s | 1m 00s |" in rows and "| work lost (RPO) | 1m 30s | none |" in rows
    assert len(rows) == 5 and all(line.replace("\\|", "").count("|") == 4 for line in rows)
