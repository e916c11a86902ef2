# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people read is aligned, whole and in their own terms. What each verb says is seen in tests/integration/test_cli.py."""

from __future__ import annotations

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent.arguments import VERBS
from ansible_collections.openclaw.backup.plugins.module_utils.agent.render import _VIEWS, _rule, failure, fields, format_duration, table
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, UsageError, counted


def test_every_verb_has_a_view() -> None:
    assert [*_VIEWS, "serve"] == list(VERBS)  # which shows nothing


def test_columns_are_aligned_and_nothing_trails() -> None:
    rows = [("NAME", "SIZE", "STATE"), ("a", "1,000", ""), ("longer", "1", "held")]
    assert list(table(rows, "<><")) == ["NAME     SIZE  STATE", "a       1,000", "longer      1  held"]


def test_a_directory_without_entries_is_no_table() -> None:
    assert list(table([], "<><")) == []


def test_fields_without_a_value_are_left_out_and_take_no_room() -> None:
    assert list(fields(("a", "1"), ("long", None), ("b", ""), ("c", "3"))) == ["a  1", "c  3"]


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1m 00s"), (900, "15m 00s"), (3599, "59m 59s"), (3600, "1h 00m"), (86399, "23h 59m"), (100000, "1d 03h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_one_of_something_is_not_many() -> None:
    assert [counted(1, "file"), counted(0, "file"), counted(1234, "entry")] == ["1 file", "0 files", "1,234 entries"]


def test_what_leaves_something_out_is_named_with_its_pattern_or_with_what_it_means() -> None:
    assert _rule({"key": "exclude", "rule": "*.log"}) == "exclude *.log"
    assert _rule({"key": "include", "rule": "no pattern matches"}) == "include (no pattern matches)"
    assert _rule({"key": "exclude_caches", "rule": ""}) == "exclude_caches"


def test_an_error_is_three_sentences_with_the_readers_own_policy() -> None:
    error = UsageError("No snapshot fits", allowed="2 snapshots", next="`openclaw-backup list POLICY` shows them; is it meant?")
    assert list(failure(error, "my policy.json")) == [
        "No snapshot fits.",
        "Allowed: 2 snapshots.",
        "Next: `openclaw-backup list 'my policy.json'` shows them; is it meant?",
    ]
    assert list(failure(BackupError("It failed."), None)) == ["It failed."]
