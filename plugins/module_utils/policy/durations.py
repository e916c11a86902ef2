# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Durations: ``90s``, ``15m``, ``1h30m``, ``2d``, ``1w``; ``m`` is always minutes, and there are no months or years."""

from __future__ import annotations

import re

from ..errors import PolicyError, printable
from .checks import bad, is_showable

SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
LONGEST = 36525 * SECONDS["d"]  # 100 years: what is longer is a typing mistake

ALLOWED = "numbers with units s, m (minutes), h, d or w, the largest first, such as 90s, 15m, 1h30m, 7d"

_DURATION = re.compile("".join("(?:([0-9]+)%s)?" % unit for unit in SECONDS))


def parse_duration(text: object, field: str) -> int:
    """Seconds of a duration.

    Raises PolicyError naming ``field``: not text, empty, a number without a unit, negative, an unknown, repeated or
    unordered unit, or longer than 100 years.
    """
    if not isinstance(text, str):
        whole = isinstance(text, int) and not isinstance(text, bool) and text >= 0 and is_showable(text)
        hint = "write %ss" % (text,) if whole else "write a duration, such as 15m"
        raise bad(field, "must be a duration written as text", text, ALLOWED, hint)
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise _malformed(text, field)
    # Bounded before int(): Python refuses to convert thousands of digits, and says so in its own words.
    if any(len(number) > 12 for number in match.groups("")):
        raise _too_long(text, field)
    seconds = sum(int(number) * size for number, size in zip(match.groups("0"), SECONDS.values()))
    if seconds > LONGEST:
        raise _too_long(text, field)
    return seconds


def format_duration(seconds: int) -> str:
    """The duration as text: ``90`` is ``1m30s``, ``604800`` is ``7d``; ``parse_duration`` of it gives the same seconds."""
    # No weeks: "7d" and "14d" are what people write and compare.
    parts = []
    for unit in "dhms":
        number, seconds = divmod(seconds, SECONDS[unit])
        if number:
            parts.append("%d%s" % (number, unit))
    return "".join(parts) or "0s"


def _too_long(text: str, field: str) -> PolicyError:
    return bad(field, "must not be longer than 100 years", text, "at most %s" % format_duration(LONGEST), "check the unit: m is minutes")


def _malformed(text: str, field: str) -> PolicyError:
    bare = text.strip()
    if re.fullmatch("[0-9]+", bare):
        return bad(field, "needs a unit", text, ALLOWED, "write %ss, or %sm for minutes" % (bare, bare))
    if bare.startswith("-"):
        return bad(field, "must not be negative", text, ALLOWED, "write it without the minus sign")
    unknown = [unit for unit in re.findall("[^0-9.,\\s]+", bare) if unit not in SECONDS]
    if unknown:
        return bad(
            field, "has an unknown unit '%s'" % printable(unknown[0][:20]), text, ALLOWED, "use s, m (minutes), h, d or w: a month is about 30d, a year 365d"
        )
    if re.search("[.,\\s]", text):
        return bad(field, "must be whole numbers with units and nothing between them", text, ALLOWED, "write 1h30m for an hour and a half")
    if bare and not re.search("[0-9]", bare):
        return bad(field, "needs a number before the unit", text, ALLOWED, "write 1%s" % bare)
    return bad(field, "must be numbers with units, each unit once and the largest first", text, ALLOWED, "write a duration, such as 15m or 1h30m")
