# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is JSON5 and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.json5 import Json5Error, check_json5
from hypothesis import given
from hypothesis import strategies as st

GOOD = [
    "{}",
    " [ ] ",
    "null",
    "\ufeff{a: 1}",
    "{a: 1, 'b': 2, \"c\": 3, $d_é: 4,}",
    "[1, .5, 5., +1, -0x1F, 1e5, Infinity, -Infinity, NaN, 0,]",
    "// c\n{/* a * / b **/ a: 'it\\'s', b: \"a\\\nb\"} // end",
    "{a: {b: [{c: []}]}}",
    "{null: 1, true: 2, Infinity: 3}",
    "'line\u2028separator'",
]
BAD = [
    ("", "it ends too early: line 1, column 1"),
    ("{", "it ends too early"),
    ("{a: 1", "it ends too early"),
    ("{a 1}", "1 is not what belongs there: line 1, column 4"),
    ("{a: 1 b: 2}", "b is not what belongs there"),
    ("{a: b}", "b is not what belongs there"),
    ("{,}", ", is not what belongs there"),
    ("[,]", ", is not what belongs there"),
    ("[1,,2]", ", is not what belongs there"),
    ("{a: }", "} is not what belongs there"),
    ("{a: 1]", "] is not what belongs there"),
    ("{} {}", "{ is not what belongs there"),
    ("]", "] is not what belongs there"),
    ("01", "begins nothing"),
    ("1a", "begins nothing"),
    ('"a\nb"', "begins nothing: line 1, column 1"),
    ("/* open", "begins nothing"),
    ("{a: 1,\n  b: <<<<<<< HEAD\n}", "< begins nothing: line 2, column 6"),
    ("{1: 2}", "1 is not what belongs there"),
]


@pytest.mark.parametrize("text", GOOD)
def test_what_json5_allows_is_taken(text: str) -> None:
    check_json5(text)


@pytest.mark.parametrize(("text", "complaint"), BAD)
def test_what_is_wrong_is_said_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(Json5Error) as caught:
        check_json5(text)
    assert complaint in str(caught.value)


def test_depth_is_no_danger() -> None:
    check_json5("[" * 200_000 + "]" * 200_000)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_all_json_is_json5_and_what_is_cut_off_is_not(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=2)
    check_json5(text)
    if isinstance(value, (dict, list)):
        with pytest.raises(Json5Error):
            check_json5(text[:-1])
