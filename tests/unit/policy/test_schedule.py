# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A schedule that cron would refuse, misread or never run is refused before it is installed."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.schedule import check_cron, check_window
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "line",
    [
        "*/5 * * * *",
        "0 3 * * *",
        "0\t3  * * *",
        "0,30 8-18/2 1-15,20 jan-jun MON-fri",
        "59 23 31 12 7",
        "0 0 29 feb *",
        "0 0 30 2 1",  # cron runs on Mondays of February
        "0 0 31 */2 *",
        "00 03 * * 0",
        "*/59 */23 */31 */12 */7",
        "@hourly",
        "@daily",
        "@midnight",
        "@weekly",
        "@monthly",
        "@yearly",
        "@annually",
    ],
)
def test_what_cron_takes_is_kept_as_it_is_written(line: str) -> None:
    assert check_cron(line, "schedule.cron") == line


@pytest.mark.parametrize(
    ("line", "complaint", "hint"),
    [
        ("", "five columns", "minute, hour"),
        (" * * * * *", "five columns", "minute, hour"),
        ("* * * * * ", "five columns", "minute, hour"),
        ("* * * *", "five columns", "minute, hour"),
        ("* * * * * *", "five columns", "minute, hour"),
        ("* * * * *\n* * * * * root sh", "five columns", "minute, hour"),
        ("* * * * *\n", "five columns", "minute, hour"),
        ("60 * * * *", "bad minute '60'", "0 to 59"),
        ("99999999999 * * * *", "bad minute", "0 to 59"),
        ("* 24 * * *", "bad hour '24'", "0 to 23"),
        ("* * 0 * *", "bad day of the month '0'", "1 to 31"),
        ("* * 32 * *", "bad day of the month '32'", "1 to 31"),
        ("* * * 0 *", "bad month '0'", "1 to 12"),
        ("* * * 13 *", "bad month '13'", "1 to 12"),
        ("* * * january *", "bad month 'january'", "1 to 12"),
        ("* * * * 8", "bad weekday '8'", "0 to 7"),
        ("* * * * mo", "bad weekday 'mo'", "0 to 7"),
        ("jan * * * *", "bad minute 'jan'", "0 to 59"),
        ("-1 * * * *", "bad minute '-1'", "a number"),
        ("1,,2 * * * *", "bad minute ''", "a number"),
        ("1;2 * * * *", "bad minute '1;2'", "a number"),
        ("٣ * * * *", "bad minute", "a number"),
        ("*-5 * * * *", "bad minute '*-5'", "a number"),
        ("30-10 * * * *", "backwards", "smaller number first"),
        ("* * * * fri-sun", "backwards", "Sunday"),
        ("5/15 * * * *", "needs a range", "write 5-59/15"),
        ("*/0 * * * *", "step beyond", "1 to 59"),
        ("*/90 * * * *", "step beyond", "1 to 59"),
        ("* */24 * * *", "step beyond", "1 to 23"),
        ("*/99999999999999 * * * *", "step beyond", "1 to 59"),
        ("0 0 30 2 *", "never run", "a day that the month has"),
        ("0 0 31 apr,jun,sep,nov *", "never run", "a day that the month has"),
        ("@reboot", "not a schedule", "five columns"),
        ("@dayly", "not a schedule", "did you mean '@daily'"),
        ("@", "not a schedule", "five columns"),
        (None, "must be text", "docs/policy.md"),
        (5, "must be text", "quotes"),
    ],
)
def test_what_cron_would_refuse_misread_or_never_run_is_refused(line: Any, complaint: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_cron(line, "schedule.cron")
    error = caught.value
    assert (error.field, error.found) == ("schedule.cron", "null" if line is None else line)
    assert complaint in error.message
    assert hint in (error.next or "")
    assert error.allowed


@given(st.lists(st.text(alphabet="0123456789*,-/abcdefn@", min_size=1, max_size=8), min_size=5, max_size=5))
def test_any_five_columns_are_a_schedule_or_a_policy_error(columns: list[str]) -> None:
    try:
        check_cron(" ".join(columns), "schedule.cron")
    except PolicyError as error:
        assert error.next


@pytest.mark.parametrize("span", ["", "22:00-06:00", "00:00-23:59", "06:30-07:00"])
def test_a_window_may_pass_midnight_or_be_absent(span: str) -> None:
    assert check_window(span, "schedule.window") == span


@pytest.mark.parametrize(
    ("span", "complaint", "hint"),
    [
        ("22-6", "start and an end", "two digits"),
        ("6:00-22:00", "start and an end", "two digits"),
        ("06:00 - 22:00", "start and an end", "two digits"),
        ("06:00-22:00\n", "start and an end", "two digits"),
        ("06:00", "start and an end", "two digits"),
        ("22:00-24:00", "between 00:00 and 23:59", "midnight as 00:00"),
        ("22:60-23:00", "between 00:00 and 23:59", "midnight"),
        ("06:00-06:00", "empty", "any time"),
        (False, "must be text", "quotes"),
    ],
)
def test_a_window_that_nothing_fits_into_is_refused(span: Any, complaint: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_window(span, "schedule.window")
    error = caught.value
    assert (error.field, error.found) == ("schedule.window", span)
    assert complaint in error.message
    assert hint in (error.next or "")
    assert error.allowed
