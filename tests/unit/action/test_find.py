# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes that a search looks for are in the line of every path that the pattern matches."""

from __future__ import annotations

import fnmatch
import os
import re

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.find import _wish
from ansible_collections.openclaw.backup.plugins.module_utils.errors import UsageError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry, encode, plain_file
from hypothesis import example, given
from hypothesis import strategies as st

LETTERS = st.sampled_from(list('abkKsSiI1.-]![*?\\"/ \n') + ["\u00e9", "\u00c9", "\u0130", "\u212a", "\u017f", "\U0001f600", os.fsdecode(b"\xff")])
PATHS = st.lists(st.text(LETTERS.filter(lambda letter: letter != "/"), min_size=1, max_size=6), min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(LETTERS | st.sampled_from(["[!a]", "[]a]", "[a-k]", "[]", "**"]), min_size=1, max_size=8).map("".join)


def entry_at(path: str) -> Entry:
    return plain_file(os.fsencode(path), 0o644, 0, 0, 0, 1, "0" * 64)


@given(path=PATHS, pattern=PATTERNS, ignore_case=st.booleans())
@example(path="docs/one", pattern="*/docs/one", ignore_case=False)
@example(path="\u212aelvin", pattern="KELVIN", ignore_case=True)
@example(path="a[]b", pattern="a[]b", ignore_case=False)
def test_no_match_is_missed_by_the_search_in_bytes(path: str, pattern: str, ignore_case: bool) -> None:
    try:
        wish = _wish(pattern, (), ignore_case)
    except UsageError:
        return
    line = encode(entry_at(path))
    wanted = pattern.rstrip("/") or pattern
    name = "/" + path if "/" in wanted else path.rpartition("/")[2]
    expected = re.match(fnmatch.translate(wanted), name, re.IGNORECASE if ignore_case else 0) is not None
    assert wish.is_match(entry_at(path)) == expected
    if expected:
        assert wish.fragment in (line.lower() if ignore_case else line)


@pytest.mark.parametrize(
    "pattern, ignore_case, fragment",
    [
        ("*.conf", False, b".conf"),
        ("/etc/*/nginx*", False, b"nginx"),
        ("*", False, b""),
        ("[ab]*", False, b""),
        ("Gr\u00f6\u00dfe.TXT", False, b"Gr\\u00f6\\u00dfe.TXT"),
        ("REPORT*.Doc", True, b"report"),
        ("make", True, b"ma"),
        ("*/docs/", False, b"docs"),
    ],
)
def test_the_longest_piece_that_stands_for_itself_is_looked_for(pattern: str, ignore_case: bool, fragment: bytes) -> None:
    assert _wish(pattern, (), ignore_case).fragment == fragment


@pytest.mark.parametrize("paths, found", [((), True), (("/a",), True), (("/a/b",), True), (("/a/b/c",), True), (("/",), True), (("/a/bb", "/b"), False)])
def test_only_what_lies_below_the_paths_given_is_found(paths: "tuple[str, ...]", found: bool) -> None:
    assert _wish("c", paths, False).is_match(entry_at("a/b/c")) == found


@pytest.mark.parametrize("pattern, advice", [("", "say what"), ("docs/one", "write '*/docs/one'"), ("docs/*", "write '*/docs/*'")])
def test_a_pattern_that_can_match_nothing_is_an_error_that_shows_one_that_can(pattern: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        _wish(pattern, (), False)
    error = caught.value
    assert (error.rc, error.field) == (2, "PATTERN") and error.allowed and advice in str(error.next)
