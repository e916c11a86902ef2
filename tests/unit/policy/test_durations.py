# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Durations are read exactly, and whatever could be misread is refused."""

from __future__ import annotations

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import EXIT_USAGE, PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.durations import LONGEST, format_duration, parse_duration
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h0m5s", 3605),
        ("2d", 172800),
        ("1w", 604800),
        ("1w2d3h4m5s", 788645),
        ("007m", 420),
        ("36525d", LONGEST),
    ],
)
def test_a_duration_means_its_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text, "heartbeat") == seconds


@pytest.mark.parametrize(
    ("value", "complaint", "hint"),
    [
        (60, "as text", "write 60s"),
        (0, "as text", "write 0s"),
        (True, "found true", "such as 15m"),
        (None, "found null", "such as 15m"),
        (1.5, "found the number 1.5", "such as 15m"),
        (["1h"], "found a list", "such as 15m"),
        ("60", "needs a unit", "write 60s"),
        (" 60 ", "needs a unit", "write 60s"),
        ("", "each unit once", "such as 15m"),
        ("-5m", "negative", "minus"),
        ("5min", "unknown unit 'min'", "use s, m"),
        ("5 min", "unknown unit 'min'", "use s, m"),
        ("1y", "unknown unit 'y'", "365d"),
        ("1M", "unknown unit 'M'", "30d"),
        ("500ms", "unknown unit 'ms'", "use s"),
        ("１h", "unknown unit", "use s"),
        ("1.5h", "whole numbers", "1h30m"),
        ("1h 30m", "nothing between", "1h30m"),
        ("1h\n", "nothing between", "1h30m"),
        ("h", "needs a number", "write 1h"),
        ("30m1h", "largest first", "1h30m"),
        ("1h1h", "each unit once", "1h30m"),
        ("1h30", "each unit once", "1h30m"),
        ("36525d1s", "100 years", "minutes"),
        ("9" * 5000 + "s", "100 years", "minutes"),
    ],
)
def test_what_could_be_misread_is_refused(value: object, complaint: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_duration(value, "objectives.rpo")
    error = caught.value
    assert error.rc == EXIT_USAGE
    assert error.field == "objectives.rpo"
    assert error.message.startswith("objectives.rpo ")
    assert complaint in error.message
    assert hint in (error.next or "")
    assert error.allowed
    assert error.found is not None
    assert len(str(error)) < 1000


@given(st.integers(0, LONGEST))
def test_a_duration_survives_being_written_and_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds), "heartbeat") == seconds


@given(st.text(alphabet="0123456789smhdw-. ", max_size=12) | st.text(max_size=12))
def test_any_text_is_a_duration_or_a_policy_error(text: str) -> None:
    try:
        seconds = parse_duration(text, "heartbeat")
    except PolicyError as error:
        assert error.next
    else:
        assert 0 <= seconds <= LONGEST


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (60, "1m"), (90, "1m30s"), (5400, "1h30m"), (86400, "1d"), (604800, "7d")])
def test_a_duration_is_written_the_way_people_write_it(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text
