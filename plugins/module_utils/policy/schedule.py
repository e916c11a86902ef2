# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When runs are due: cron expressions and time windows, as Debian's cron reads them (``man 5 crontab``)."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any, FrozenSet, List, NamedTuple, Tuple

from ..errors import printable
from .checks import bad, check_text, closest

if TYPE_CHECKING:
    from datetime import date, datetime

MACROS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_MACRO_COLUMNS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# From one 29 February to the one before, over a century without.
_DAYS_BACK = 8 * 366 + 1
# Years come back after four, as far as this counts.
_LEAP_DAYS, _LEAP_MONTHS = 1461, 48
DAYS_IN = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

ALLOWED = "minute hour day month weekday, such as '*/5 * * * *', or one of " + ", ".join(MACROS)


class _Column(NamedTuple):
    name: str
    low: int
    high: int
    names: Tuple[str, ...] = ()  # names[0] stands for low


_COLUMNS = (
    _Column("minute", 0, 59),
    _Column("hour", 0, 23),
    _Column("day of the month", 1, 31),
    _Column("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    _Column("weekday", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)

_ITEM = re.compile("(\\*|([0-9]+|[A-Za-z]+)(?:-([0-9]+|[A-Za-z]+))?)(?:/([0-9]+))?")
_WINDOW = re.compile("([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")


def check_cron(value: Any, field: str) -> str:
    """A cron expression of five columns, or a macro; returned as it was written.

    Raises PolicyError: not text, not five columns, a column that cron refuses (the error names it), or a date that no year has.
    """
    line = check_text(value, field)
    if line.startswith("@"):
        if line not in MACROS:
            near = closest(line, MACROS)
            raise bad(field, "is not a schedule", value, ALLOWED, "did you mean '%s'" % near if near else "write five columns, or one of the macros")
        return line
    # Spaces and tabs only: a line break would end the crontab line, and what follows would be a line of its own.
    words = re.split("[ \t]+", line)
    if len(words) != 5 or "\n" in line or not all(words):
        raise bad(field, "must have five columns with blanks between them", value, ALLOWED, "write minute, hour, day, month and weekday, such as '*/5 * * * *'")
    days, months = [_column(word, column, value, field) for word, column in zip(words, _COLUMNS)][2:4]
    # cron runs on either day if both columns are restricted, so only '*' as weekday leaves the date to decide alone.
    if words[4].startswith("*") and min(days) > max(DAYS_IN[month - 1] for month in months):
        raise bad(field, "would never run: no such day in that month", value, ALLOWED, "choose a day that the month has")
    return line


def check_window(value: Any, field: str) -> str:
    """``HH:MM-HH:MM``, past midnight if the end is earlier than the start; empty for any time. Raises PolicyError."""
    allowed = "HH:MM-HH:MM, such as 22:00-06:00, or '' for any time"
    span = check_text(value, field)
    if not span:
        return span
    match = _WINDOW.fullmatch(span)
    if match is None:
        raise bad(field, "must be a start and an end", value, allowed, "write two digits for each hour and minute, such as 06:30-22:00")
    hours, minutes = match.group(1, 3), match.group(2, 4)
    if max(hours) > "23" or max(minutes) > "59":
        raise bad(field, "must lie between 00:00 and 23:59", value, allowed, "write midnight as 00:00")
    if hours[0] == hours[1] and minutes[0] == minutes[1]:
        raise bad(field, "is empty: it starts when it ends", value, allowed, "write '' for any time")
    return span


class _Times(NamedTuple):
    """A checked expression, each column sorted; Sunday is 0. ``is_either``: on either day, because both are restricted."""

    minutes: List[int]
    hours: List[int]
    days: List[int]
    months: List[int]
    weekdays: List[int]
    is_either: bool

    def has(self, day: date) -> bool:
        """Whether cron starts anything on that day."""
        fits = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (any(fits) if self.is_either else all(fits))


def _times(line: str) -> _Times:
    words = re.split("[ \t]+", _MACRO_COLUMNS.get(line, line))
    minutes, hours, days, months, weekdays = (sorted(_column(word, column, line, "schedule.cron")) for word, column in zip(words, _COLUMNS))
    is_either = not (words[2].startswith("*") or words[4].startswith("*"))
    return _Times(minutes, hours, days, months, sorted({number % 7 for number in weekdays}), is_either)


def runs_a_month(line: str) -> float:
    """How often cron starts what has this schedule (checked by ``check_cron``) in an average month."""
    from datetime import date, timedelta

    times = _times(line)
    begin = date(2024, 1, 1)
    days = sum(times.has(begin + timedelta(days=number)) for number in range(_LEAP_DAYS))
    return days * len(times.hours) * len(times.minutes) / _LEAP_MONTHS


def last_due(line: str, now: datetime) -> datetime:
    """The last minute, at or before the local time ``now``, at which cron starts what has this schedule (checked by ``check_cron``)."""
    from datetime import timedelta  # slow to import, and most runs read no schedule

    plan = _times(line)
    times = [(hour, minute) for hour in reversed(plan.hours) for minute in reversed(plan.minutes)]
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for _day in range(_DAYS_BACK):
        if plan.has(day):
            for hour, minute in times:
                due = day.replace(hour=hour, minute=minute)
                if due <= now:
                    return due
        day -= timedelta(days=1)
    raise AssertionError("check_cron lets nothing by that never runs")


def calendar_events(line: str) -> Tuple[str, ...]:
    """The calendar events (``man 7 systemd.time``) at which cron starts what has this schedule (checked by ``check_cron``): together the same minutes.

    Two where day of the month and weekday are both restricted: cron starts on either day, one event only where both fit.
    """
    times = _times(line)
    at = "%s:%s:00" % (_listed(times.hours, 24), _listed(times.minutes, 60))
    month, day = _listed(times.months, 12), _listed(times.days, 31)
    names = [name.capitalize() for name in _COLUMNS[4].names]
    # From Monday on, which is where systemd begins its week.
    week = [names[number] for number in (1, 2, 3, 4, 5, 6, 0) if number in times.weekdays]
    weekday = "" if len(week) == 7 else ",".join(week) + " "
    if not times.is_either:
        return ("%s*-%s-%s %s" % (weekday, month, day, at),)
    return ("*-%s-%s %s" % (month, day, at), "%s*-%s-* %s" % (weekday, month, at))


def _listed(numbers: List[int], all_of_them: int) -> str:
    return "*" if len(numbers) == all_of_them else ",".join("%02d" % number for number in numbers)


def is_within(window: str, now: datetime) -> bool:
    """Whether the local time ``now`` lies in a window (checked by ``check_window``)."""
    if not window:
        return True
    start, end = window.split("-")
    at = now.strftime("%H:%M")
    return start <= at < end if start < end else at >= start or at < end


def splay_of(name: str, splay: int) -> int:
    """How many of ``splay`` seconds the host called ``name`` waits: always the same, and others wait another time."""
    return zlib.crc32(name.encode("utf-8", "surrogateescape")) % (splay + 1)


def _column(word: str, column: _Column, value: str, field: str) -> FrozenSet[int]:
    numbers: FrozenSet[int] = frozenset()
    for item in word.split(","):
        numbers |= _item(item, column, value, field)
    return numbers


def _item(item: str, column: _Column, value: str, field: str) -> FrozenSet[int]:
    allowed = "*, numbers from %d to %d, ranges (2-5), steps (*/5, 2-20/3)" % (column.low, column.high)
    if column.names:
        allowed += ", names (%s-%s)" % (column.names[0], column.names[-1])
    where = "has a bad %s '%s'" % (column.name, printable(item[:40]))
    match = _ITEM.fullmatch(item)
    if match is None:
        raise bad(field, where, value, allowed, "write *, a number, a range or a step, with commas between several")
    every, first, last, step = match.groups()
    low, high = column.low, column.high
    if every != "*":
        low = high = _number(first, column)
        if last is not None:
            high = _number(last, column)
        if low < 0 or high < 0:
            raise bad(field, where, value, allowed, "write a %s from %d to %d" % (column.name, column.low, column.high))
        if low > high:
            sunday = " (Sunday at the end of a range is 7)" if column.name == "weekday" else ""
            raise bad(field, where + ": the range runs backwards", value, allowed, "write the smaller number first" + sunday)
        if step is not None and last is None:
            raise bad(field, where + ": a step needs a range", value, allowed, "write %d-%d/%s" % (low, column.high, step[:4]))
    if step is None:
        return frozenset(range(low, high + 1))
    stride = int(step[:4])
    if not 1 <= stride <= column.high or len(step) > 4:
        # cron takes */90 as a minute and runs hourly, which nobody who writes it means.
        raise bad(field, where + ": a step beyond the column", value, allowed, "write a step from 1 to %d" % column.high)
    return frozenset(range(low, high + 1, stride))


def _number(word: str, column: _Column) -> int:
    """The number that ``word`` stands for, or -1."""
    if word.isdigit():
        number = int(word) if len(word) < 4 else -1
    else:
        number = column.low + column.names.index(word.lower()) if word.lower() in column.names else -1
    return number if column.low <= number <= column.high else -1
