# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a drill judges what was found."""

from __future__ import annotations

from typing import Any, List, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.drill import LISTED, DrillResult, judge
from ansible_collections.openclaw.backup.plugins.module_utils.action.probes import Check
from ansible_collections.openclaw.backup.plugins.module_utils.errors import TargetError


def drilled(*checks: Check) -> DrillResult:
    result = DrillResult(host="h", policy="p")
    result.take(checks)
    return result


BYTES, PROBE, RPO = Check("bytes", "bytes", True), Check("probe 1: x", "probe", True), Check("rpo", "objective", True)


@pytest.mark.parametrize(
    ("checks", "verdict", "rc"),
    [
        ([BYTES, PROBE, RPO], "passed", 0),
        ([BYTES, Check("canary", "canary", None, "why")], "passed", 0),
        ([BYTES, Check("rpo", "objective", False, "old")], "missed", 1),
        ([BYTES, Check("x", "probe", False, "no"), Check("rpo", "objective", False, "old")], "failed", 1),
        *(([Check(kind, kind, False, "no"), PROBE], "failed", 7) for kind in ("restore", "bytes", "metadata", "canary", "database")),
        ([Check("x", "probe", False, "no"), Check("bytes", "bytes", False, "no")], "failed", 7),
    ],
)
def test_the_gravest_finding_decides(checks: List[Check], verdict: str, rc: int) -> None:
    result = drilled(*checks)
    assert (result.verdict, result.rc, result.ok) == (verdict, rc, rc == 0)
    failure = result.failure()
    assert (failure is None) == (rc == 0)
    if failure is not None:
        assert failure.rc == rc and failure.next and "h, policy p" in failure.message


def test_warnings_alone_are_no_failure() -> None:
    result = drilled(BYTES)
    result.warnings.append("an owner could not be kept")
    assert (result.rc, result.ok, result.failure()) == (3, True, None)


def test_a_drill_that_was_broken_off_ends_as_the_restore_did() -> None:
    result = drilled(Check("restore", "restore", False, "gone"))
    result._error = TargetError("the vault is gone")
    assert result.rc == 6 and result.failure() is result._error and "_error" not in result.to_dict()


def test_what_failed_is_listed_however_much_passed() -> None:
    result = drilled(*[Check("probe %d" % number, "probe", True) for number in range(LISTED + 50)], Check("bytes", "bytes", False, "no"))
    assert len(result.checks) == LISTED and result.checks[0]["name"] == "bytes" and result.truncated
    assert result.counts == {"passed": LISTED + 50, "failed": 1, "skipped": 0}


@pytest.mark.parametrize(
    ("objectives", "rto", "rpo", "is_newest", "found"),
    [
        ({"rto": None, "rpo": None}, 10**6, 10**6, True, []),
        ({"rto": 60, "rpo": 60}, 60.0, 60, True, [("rto", True), ("rpo", True)]),
        ({"rto": 60, "rpo": 60}, 60.001, 61, True, [("rto", False), ("rpo", False)]),
        ({"rto": 60, "rpo": 60}, 1.0, 61, False, [("rto", True), ("rpo", None)]),
        ({"rto": 60, "rpo": 60}, None, None, True, [("rto", False), ("rpo", False)]),
    ],
)
def test_objectives_are_judged_where_they_are_given(objectives: Any, rto: Optional[float], rpo: Optional[int], is_newest: bool, found: Any) -> None:
    assert [(check.name, check.ok) for check in judge(objectives, rto, rpo, is_newest)] == found
