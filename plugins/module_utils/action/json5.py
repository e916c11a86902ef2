# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a text is JSON5 (https://spec.json5.org): JSON with comments, names and texts without double quotes, and commas at the end."""

from __future__ import annotations

import re
from typing import Iterator, List, NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<space> [\s\ufeff]+ | //[^\n\r\u2028\u2029]* | /\*.*?\*/ )
  | (?P<mark> [][{}:,] )
  | (?P<text> "(?:[^"\\\n\r]|\\(?:\r\n|.))*" | '(?:[^'\\\n\r]|\\(?:\r\n|.))*' )
  | (?P<number> [+-]?(?:0[xX][0-9a-fA-F]+ | (?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)? | \.[0-9]+)(?:[eE][+-]?[0-9]+)? | Infinity | NaN)(?![\w$.]) )
  | (?P<name> (?!\d)[\w$\u200c\u200d]+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_WORDS = frozenset(("true", "false", "null"))


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class Json5Error(ValueError):
    """Says what is wrong, with line and column."""


def check_json5(text: str) -> None:
    """Raises ``Json5Error`` for what is not one JSON5 value. However deep that is."""
    ends: List[str] = []  # of what is open
    wish = "value"
    for token in _tokens(text):
        kind, mark = token.kind, token.text
        is_value = kind in ("text", "number") or (kind == "name" and mark in _WORDS)
        if mark in ("}", "]") and kind == "mark" and ends and mark == ends[-1] and wish in ("comma", "key" if mark == "}" else "item"):
            ends.pop()
            wish = "comma" if ends else "end"
        elif wish == "key" and kind in ("text", "name"):
            wish = "colon"
        elif wish == "key" and kind == "number" and mark in ("Infinity", "NaN"):
            wish = "colon"
        elif wish == "colon" and mark == ":":
            wish = "value"
        elif wish == "comma" and mark == ",":
            wish = "key" if ends[-1] == "}" else "item"
        elif wish in ("value", "item") and is_value:
            wish = "comma" if ends else "end"
        elif wish in ("value", "item") and kind == "mark" and mark in "{[":
            ends.append("}" if mark == "{" else "]")
            wish = "key" if mark == "{" else "item"
        else:
            raise _wrong(text, token.at, "%s is not what belongs there" % mark[:20])
    if wish != "end":
        raise _wrong(text, len(text), "it ends too early")


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(text, at, "%s begins nothing" % text[at])
        kind = match.lastgroup or ""
        if kind != "space":
            yield _Token(kind, match.group(), at)
        at = match.end()


def _wrong(text: str, at: int, what: str) -> Json5Error:
    return Json5Error("%s: line %d, column %d" % (what, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)))
