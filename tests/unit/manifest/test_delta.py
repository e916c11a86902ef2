# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manifest told as a difference comes out as it went in, on the base that was meant and on no other."""

from __future__ import annotations

import hashlib
import zlib
from typing import Dict, List, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.delta import apply_delta, make_delta, path_of_line
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import DIRECTORY, FILE, SYMLINK, Entry, encode
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))
CONTENT = st.one_of(st.none(), st.binary(max_size=4))
TREES = st.dictionaries(st.tuples(NAMES, NAMES), st.tuples(CONTENT, st.integers(0, 3)), max_size=12)
HEADER = Header(host="h", policy="p", sources=("/s",), selection={}, engine="x", claimed="2026-11-20T09:15:00.123Z")


def manifest_of(tree: Dict[Tuple[bytes, bytes], Tuple[Optional[bytes], int]], times: int = 0) -> Manifest:
    """Files below directories; what has no content is a symbolic link, whose target looks like a line of a manifest."""
    entries = {directory: Entry(directory, DIRECTORY, 0o755, 0, 0, times, 0, "", None, None, (), None, False, False) for directory, _name in tree}
    for (directory, name), (content, mtime) in tree.items():
        path = directory + b"/" + name
        if content is None:
            entries[path] = Entry(path, SYMLINK, 0o777, 0, 0, mtime, 0, "", b',"p":"' + name, None, (), None, False, False)
        else:
            digest = hashlib.sha256(content).hexdigest()
            entries[path] = Entry(path, FILE, 0o644, 0, 0, mtime, len(content), digest, None, None, (), None, False, False)
    return Manifest.from_entries(HEADER, entries.values())


@given(TREES, TREES)
def test_what_was_told_comes_out(before: Dict, after: Dict) -> None:  # type: ignore[type-arg]
    base, new = manifest_of(before), manifest_of(after)
    assert apply_delta(base, make_delta(base, new, same_times=True)) == new
    assert apply_delta(None, make_delta(None, new, same_times=True)) == new


@given(TREES, TREES, st.integers(1, 3))
def test_times_of_directories_may_differ_between_the_two_bases(before: Dict, after: Dict, times: int) -> None:  # type: ignore[type-arg]
    ours, theirs, new = manifest_of(before, times), manifest_of(before), manifest_of(after, times)
    assert apply_delta(theirs, make_delta(ours, new, same_times=False)) == new


@given(TREES, TREES, TREES)
def test_another_base_gives_the_same_manifest_or_none(before: Dict, other: Dict, after: Dict) -> None:  # type: ignore[type-arg]
    base, new = manifest_of(before), manifest_of(after)
    try:
        assert apply_delta(manifest_of(other), make_delta(base, new, same_times=True)) == new
    except IntegrityError as error:
        assert error.kind == "manifest"


@given(TREES)
def test_the_path_of_a_line_is_its_entrys(tree: Dict) -> None:  # type: ignore[type-arg]
    entries: List[Entry] = list(manifest_of(tree).entries)
    assert [path_of_line(encode(entry)) for entry in entries] == [entry.path for entry in entries]


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b""), zlib.compress(b"\n\n"), zlib.compress(b"{}\n{}\n\n"), zlib.compress(bytes(1 << 20))])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        apply_delta(None, data, limit=1 << 16)


def test_a_line_without_a_path_is_none() -> None:
    with pytest.raises(ValueError, match="path"):
        path_of_line(b"{}")
