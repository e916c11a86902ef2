# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A schedule that cron would refuse, misread or never run is refused before it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import datetime, timedelta
from typing import Any

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.schedule import (
    calendar_events,
    check_cron,
    check_window,
    is_within,
    last_due,
    runs_a_month,
    splay_of,
)
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


@pytest.mark.parametrize(
    ("line", "now", "due"),
    [
        ("*/5 * * * *", "2026-11-20 09:14", "2026-11-20 09:10"),
        ("*/5 * * * *", "2026-11-20 09:15", "2026-11-20 09:15"),
        ("0 3 * * *", "2026-11-20 02:59", "2026-11-19 03:00"),
        ("@weekly", "2026-11-20 09:14", "2026-11-15 00:00"),
        ("@monthly", "2026-11-01 00:00", "2026-11-01 00:00"),
        ("@yearly", "2026-11-20 09:14", "2026-01-01 00:00"),
        ("0 0 29 feb *", "2103-11-20 09:14", "2096-02-29 00:00"),
        ("30 4 1,15 * fri", "2026-11-20 09:14", "2026-11-20 04:30"),  # a Friday, though not the 15th
        ("30 4 1,15 * sat", "2026-11-20 09:14", "2026-11-15 04:30"),
        ("30 4 */2 * sat", "2026-11-20 09:14", "2026-11-07 04:30"),  # '*/2' restricts, and so does the weekday
        ("0 12 * * 7", "2026-11-20 09:14", "2026-11-15 12:00"),
    ],
)
def test_when_a_run_was_due_last(line: str, now: str, due: str) -> None:
    assert last_due(line, datetime.fromisoformat(now)) == datetime.fromisoformat(due)


@given(
    st.integers(0, 59), st.one_of(st.just("*"), st.integers(0, 23).map(str)), st.sampled_from(["*", "1-7", "28", "*/3"]), st.sampled_from(["*", "2", "11,12"]),
    st.sampled_from(["*", "5", "0-2", "7"]), st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),
)  # fmt: skip
def test_no_due_time_lies_between_the_last_one_and_now(minute: int, hour: str, day: str, month: str, weekday: str, now: datetime) -> None:
    line = "%d %s %s %s %s" % (minute, hour, day, month, weekday)
    due = last_due(line, now)
    assert due <= now and due.minute == minute and due.second == 0
    assert last_due(line, due) == due
    between = due + (now - due) / 2
    assert last_due(line, between) == due
    assert last_due(line, due - timedelta(minutes=1)) < due


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-06:00", ("22:00", "23:59", "00:00", "05:59"), ("06:00", "12:00", "21:59")),
        ("06:30-22:00", ("06:30", "21:59"), ("06:29", "22:00", "00:00")),
        ("", ("12:00",), ()),
    ],
)
def test_windows_may_go_past_midnight(window: str, inside: Any, outside: Any) -> None:
    def at(text: str) -> datetime:
        return datetime.fromisoformat("2026-11-20 " + text)

    assert all(is_within(window, at(text)) for text in inside)
    assert not any(is_within(window, at(text)) for text in outside)


def test_each_host_has_a_moment_of_its_own_that_stays() -> None:
    moments = [splay_of("web%d/p" % number, 60) for number in range(1000)]
    assert moments == [splay_of("web%d/p" % number, 60) for number in range(1000)]
    assert set(moments) == set(range(61))
    assert splay_of("web1/p", 0) == 0


@pytest.mark.parametrize(
    ("line", "events"),
    [
        ("* * * * *", ("*-*-* *:*:00",)),
        ("*/20 3 * * *", ("*-*-* 03:00,20,40:00",)),
        ("0 0 1 jan *", ("*-01-01 00:00:00",)),
        ("30 4 * * mon-fri", ("Mon,Tue,Wed,Thu,Fri *-*-* 04:30:00",)),
        ("30 4 * * 0,7", ("Sun *-*-* 04:30:00",)),
        ("30 4 1,15 * fri", ("*-*-01,15 04:30:00", "Fri *-*-* 04:30:00")),  # on either
        ("30 4 */10 * fri", ("Fri *-*-01,11,21,31 04:30:00",)),  # on both
        ("@weekly", ("Sun *-*-* 00:00:00",)),
    ],
)
def test_a_timer_starts_when_cron_does(line: str, events: "tuple[str, ...]") -> None:
    assert calendar_events(line) == events


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("line", ["*/7 * * * *", "5 1-23/5 * * *", "0 12 29 feb *", "30 4 1,15 */2 fri", "30 4 */10 * sat,sun", "@monthly", "59 23 31 * 1-5"])
def test_systemd_finds_the_same_minutes_as_cron(line: str) -> None:
    base, count = datetime(2026, 11, 20, 9, 15), 12
    command = ["systemd-analyze", "calendar", "--iterations=%d" % count, "--base-time=" + base.strftime("%Y-%m-%d %H:%M:%S UTC"), *calendar_events(line)]
    done = subprocess.run(command, env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    starts = sorted({datetime.fromisoformat(found) for found in re.findall(r"[A-Z][a-z]{2} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", done.stdout)})
    starts = [start for start in starts if start > base][: min(count, 6)]
    assert len(starts) == 6
    before = base
    for start in starts:
        assert last_due(line, start) == start
        assert last_due(line, start - timedelta(minutes=1)) <= before
        before = start


@pytest.mark.parametrize(
    "line, runs",
    [
        ("*/5 * * * *", 8766),
        ("@monthly", 1),
        ("@yearly", 1 / 12),
        ("0 0 29 2 *", 1 / 48),
        ("0,30 6-8 * * *", 182.625),
        ("0 0 * * 0,7", 208 / 48),
        ("0 0 1 * mon", (48 + 209 - 9) / 48),
    ],
)
def test_a_month_has_so_many_runs_on_average(line: str, runs: float) -> None:
    assert runs_a_month(line) == pytest.approx(runs)
