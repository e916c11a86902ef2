# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find: which snapshots hold what, by name, over a whole history.

Neighbouring snapshots share nearly all lines of their manifests. So lines are looked for as bytes, by the longest piece of the pattern that stands for
itself, and each line is parsed and judged once, in however many snapshots it is.
"""

from __future__ import annotations

import fnmatch
import os
import re
from json.encoder import encode_basestring_ascii
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from .. import pool
from ..errors import EXIT_DONE, EXIT_WARNINGS, IntegrityError, UsageError, printable
from ..manifest.entry import FILE, Entry, decode_trusted
from ..policy.model import Policy
from .choose import find_snapshot
from .locate import check_not_lost, name_of, open_target
from .state import HostState

LISTED = 500
# What stands for something else in a shell pattern. It may also cut out what does not: the pieces left of it are in every match all the same.
_WILD = re.compile(r"\*|\?|\[!?\]?[^\]]*\]")
# Where case does not count: letters beyond ASCII, and those that have a twin there (the Kelvin sign is a k).
_CASELESS = re.compile(r"[^ -~]|[iks]", re.IGNORECASE)
# Bytes of a line, about.
_LINE = 160

Span = Tuple[int, int]  # numbers of the first and last of some snapshots that stand side by side, the newest is 0


class _Wish(NamedTuple):
    """``fragment``: bytes that every matching line holds; ``is_match`` judges an entry."""

    fragment: bytes
    is_match: Callable[[Entry], bool]


def find(
    policy: Policy,
    pattern: str,
    *,
    state_directory: str,
    paths: Sequence[str] = (),
    snapshot: Optional[str] = None,
    ignore_case: bool = False,
    limit: int = LISTED,
) -> Dict[str, Any]:
    """Look for paths whose last component, or which as a whole where ``pattern`` holds a slash, match a shell pattern, in all snapshots of the history.

    ``paths`` (absolute): only these and what lies below; ``snapshot``: only in this one. Keys: ``paths``, sorted, each ``{path, versions}``, newest version
    first, cut after ``limit`` versions; ``count`` (of paths) and ``versions`` (of all); ``truncated``; ``searched`` snapshots; ``warnings``; ``rc``.
    A version is what has the same content: ``type``, ``size`` and ``hash`` of files, ``link`` of symbolic links, ``mode`` and ``mtime`` as in the newest
    snapshot that has it; ``first``, ``last`` and ``snapshots``: ids of the oldest and newest of them and how many they are; ``differs``: how many between
    these two hold another version or none; ``in_newest``: whether the newest snapshot has it, None where that one was not looked at.
    """
    wish = _wish(pattern, paths, ignore_case)
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    history = target.list()
    check_not_lost(policy, HostState(state_directory, policy), history)
    chosen = history if snapshot is None else [find_snapshot(history, snapshot, name_of(policy))]
    judged: Set[bytes] = set()
    matching: Set[bytes] = set()

    def work(start: int, stop: int) -> Tuple[Dict[bytes, List[Span]], Dict[int, str]]:
        found: Dict[bytes, List[Span]] = {}
        begun: Dict[bytes, int] = {}
        broken = {}
        for number in range(start, stop):
            lines: Set[bytes] = set()
            try:
                lines.update(target.search(chosen[number], wish.fragment, ignore_case=ignore_case))
                unknown = list(lines.difference(judged))
                matching.update(line for line, entry in zip(unknown, decode_trusted(unknown)) if wish.is_match(entry))
                judged.update(unknown)
            except IntegrityError as error:
                broken[number] = "snapshot %s was left out: %s" % (chosen[number].id, error.message)
            lines &= matching
            for line in set(begun).difference(lines):
                found.setdefault(line, []).append((begun.pop(line), number - 1))
            begun.update(dict.fromkeys(lines.difference(begun), number))
        for line, first in begun.items():
            found.setdefault(line, []).append((first, stop - 1))
        return found, broken

    spans: Dict[bytes, List[Span]] = {}
    unread: Dict[int, str] = {}
    # One range for each worker and round: neighbours in one process parse what they share once.
    for found, broken in pool.run(work, [item.receipt.entries * _LINE for item in chosen], weight=1 << 62):
        unread.update(broken)
        for line, more in found.items():
            spans.setdefault(line, []).extend(more)
    entries = decode_trusted(spans)
    by_path: Dict[bytes, Dict[Tuple[Any, ...], List[Tuple[Span, Entry]]]] = {}
    for entry, where in zip(entries, spans.values()):
        versions = by_path.setdefault(entry.path, {})
        versions.setdefault((entry.type, entry.hash, entry.link, entry.device), []).extend((span, entry) for span in where)
    ids = [item.id for item in chosen]
    sees_newest = bool(chosen) and chosen[0] is history[0] and 0 not in unread
    listed: List[Dict[str, Any]] = []
    total = 0
    for path in sorted(by_path):
        held = sorted((sorted(places) for places in by_path[path].values()), key=_newest)
        shown = held[: max(0, limit - total)]
        total += len(held)
        if shown:
            listed.append({"path": printable(b"/" + path), "versions": [_version(places, ids, unread, sees_newest) for places in shown]})
    return {
        "pattern": printable(pattern),
        "searched": len(chosen) - len(unread),
        "paths": listed,
        "count": len(by_path),
        "versions": total,
        "truncated": total > limit,
        "warnings": [unread[number] for number in sorted(unread)],
        "rc": EXIT_WARNINGS if unread else EXIT_DONE,
    }


def _newest(places: Sequence[Tuple[Span, Entry]]) -> int:
    return places[0][0][0]


def _version(places: Sequence[Tuple[Span, Entry]], ids: Sequence[str], unread: Iterable[int], sees_newest: bool) -> Dict[str, Any]:
    """The public mapping of a version; ``places`` are sorted."""
    entry = places[0][1]
    newest, oldest = places[0][0][0], places[-1][0][1]
    count = sum(last - first + 1 for (first, last), _entry in places)
    item: Dict[str, Any] = {"type": entry.type, "mode": "%04o" % entry.mode, "mtime": entry.mtime}
    if entry.type == FILE:
        item.update(size=entry.size, hash=entry.hash)
    if entry.link is not None:
        item["link"] = printable(entry.link)
    looked_at = oldest - newest + 1 - sum(1 for number in unread if newest < number < oldest)
    item.update(first=ids[oldest], last=ids[newest], snapshots=count, differs=looked_at - count)
    item["in_newest"] = newest == 0 if sees_newest else None
    return item


def _wish(pattern: str, paths: Sequence[str], ignore_case: bool) -> _Wish:
    wanted = _text(os.fsencode(pattern)).rstrip("/") or pattern
    is_whole = "/" in wanted
    if not wanted:
        raise UsageError("The pattern is empty", field="PATTERN", found="", allowed="a shell pattern such as '*.conf'", next="say what to look for")
    if is_whole and wanted[0] not in "/*?[":
        raise UsageError(
            "The pattern %s can match nothing: with a slash in it, it stands for a whole path" % printable(pattern),
            field="PATTERN",
            found=pattern,
            allowed="a name such as '*.conf', or a whole path such as '/etc/*.conf' or '*/apache2/*.conf'",
            next="write '*/%s'" % printable(pattern),
        )
    expression = re.compile(fnmatch.translate(wanted), re.IGNORECASE if ignore_case else 0)
    roots = [os.fsencode(os.path.normpath(path)).strip(b"/") for path in paths]
    exact, below = frozenset(roots), tuple(root + b"/" if root else b"" for root in roots)

    def is_match(entry: Entry) -> bool:
        path = entry.path
        if roots and not (path in exact or path.startswith(below)):
            return False
        return expression.match(_text(b"/" + path if is_whole else path.rpartition(b"/")[2])) is not None

    pieces = [piece for part in _WILD.split(wanted) for piece in (_CASELESS.split(part.lower()) if ignore_case else [part])]
    # In a manifest a path begins without its slash.
    fragment = max((piece.strip("/") for piece in pieces), key=len)
    return _Wish(encode_basestring_ascii(fragment)[1:-1].encode("ascii"), is_match)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
