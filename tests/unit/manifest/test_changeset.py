# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change set names every difference once, in the right class."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.changeset import ChangeSet, diff
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry
from hypothesis import given
from hypothesis import strategies as st

HEADER = Header(host="h", policy="p", sources=("/",), selection={}, engine="1.0.0", claimed="2026-11-20T09:15:00Z")
FILE = Entry(b"x", "f", 0o644, 0, 0, 5, 5, "a" * 64)
DIRECTORY = Entry(b"d", "d", 0o755, 0, 0, 5)
LINK = Entry(b"l", "l", 0o777, 0, 0, 5, link=b"x")
DEVICE = Entry(b"c", "c", 0o600, 0, 0, 5, device=(1, 3))


def manifest(*entries: Entry) -> Manifest:
    """As one that was read from its file: nothing is parsed yet."""
    return Manifest.from_bytes(Manifest.from_entries(HEADER, entries).to_bytes())


def classes(changes: ChangeSet) -> Dict[str, List[bytes]]:
    return {
        "added": [entry.path for entry in changes.added],
        "modified": [new.path for _old, new in changes.modified],
        "metadata": [new.path for _old, new in changes.metadata],
        "removed": [entry.path for entry in changes.removed],
        "touched": [new.path for _old, new in changes.touched],
    }


def single(old: Entry, new: Entry) -> str:
    found = {name: paths for name, paths in classes(diff(manifest(old), manifest(new))).items() if paths}
    (name,) = found
    assert found[name] == [new.path]
    (pair,) = getattr(diff(manifest(old), manifest(new)), name)
    assert pair == (old, new)
    return name


@pytest.mark.parametrize(
    ("old", "changes", "expected"),
    [
        (FILE, {"hash": "b" * 64}, "modified"),
        (FILE, {"size": 6}, "modified"),
        (FILE, {"type": "p", "size": 0, "hash": ""}, "modified"),
        (FILE, {"type": "d", "size": 0, "hash": ""}, "modified"),
        (LINK, {"link": b"y"}, "modified"),
        (DEVICE, {"device": (1, 5)}, "modified"),
        (DEVICE, {"type": "b"}, "modified"),
        (FILE, {"mtime": 6}, "metadata"),
        (FILE, {"mode": 0o600}, "metadata"),
        (FILE, {"uid": 1}, "metadata"),
        (FILE, {"gid": 1}, "metadata"),
        (FILE, {"xattrs": ((b"user.a", b""),)}, "metadata"),
        (FILE, {"group": b"x"}, "metadata"),
        (FILE, {"stale": True}, "metadata"),
        (FILE, {"unstable": True}, "metadata"),
        (LINK, {"mtime": 6}, "metadata"),
        (DIRECTORY, {"mode": 0o700}, "metadata"),
        (DIRECTORY, {"mode": 0o700, "mtime": 6}, "metadata"),
        (DIRECTORY, {"stale": True}, "metadata"),
        (DIRECTORY, {"mtime": 6}, "touched"),
    ],
)
def test_each_difference_has_its_class(old: Entry, changes: Dict[str, Any], expected: str) -> None:
    assert single(old, old._replace(**changes)) == expected


def test_without_a_base_everything_is_added() -> None:
    new = manifest(FILE, DIRECTORY)
    changes = diff(None, new)
    assert changes.added == tuple(new.entries)
    assert classes(changes)["added"] == [b"d", b"x"]
    assert changes.counts() == {"added": 2, "modified": 0, "metadata": 0, "removed": 0}


def test_equal_manifests_and_moved_directory_times_are_no_change() -> None:
    assert diff(manifest(FILE, DIRECTORY), manifest(FILE, DIRECTORY)).is_empty
    moved = diff(manifest(FILE, DIRECTORY), manifest(FILE, DIRECTORY._replace(mtime=7)))
    assert moved.is_empty
    assert moved.touched
    for other in ((FILE,), (FILE, DIRECTORY, LINK), (FILE._replace(mode=0), DIRECTORY), (FILE._replace(size=9), DIRECTORY)):
        assert not diff(manifest(FILE, DIRECTORY), manifest(*other)).is_empty


def test_a_subtree_that_becomes_a_file_is_one_change_and_its_content_is_removed() -> None:
    old = manifest(DIRECTORY, FILE._replace(path=b"d/a"), FILE._replace(path=b"d/b"))
    new = manifest(FILE._replace(path=b"d"))
    assert classes(diff(old, new)) == {"added": [], "modified": [b"d"], "metadata": [], "removed": [b"d/a", b"d/b"], "touched": []}
    assert classes(diff(new, old)) == {"added": [b"d/a", b"d/b"], "modified": [b"d"], "metadata": [], "removed": [], "touched": []}


def test_one_changed_member_puts_the_whole_group_into_the_change_set() -> None:
    def group(**changes: Any) -> Manifest:
        return manifest(*(FILE._replace(path=path, group=b"a", **changes) for path in (b"a", b"b", b"c")))

    assert classes(diff(group(), group(hash="c" * 64)))["modified"] == [b"a", b"b", b"c"]
    assert classes(diff(group(), group(mode=0)))["metadata"] == [b"a", b"b", b"c"]
    lost = manifest(*(FILE._replace(path=path, group=b"b") for path in (b"b", b"c")))
    assert classes(diff(group(), lost)) == {"added": [], "modified": [], "metadata": [b"b", b"c"], "removed": [b"a"], "touched": []}


STATES = st.sampled_from([FILE, FILE._replace(hash="b" * 64), FILE._replace(mode=0), DIRECTORY, DIRECTORY._replace(mtime=6), LINK, DEVICE])
TREES = st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d", b"\xff", b"e\n"]), STATES).map(
    lambda found: manifest(*(entry._replace(path=path) for path, entry in found.items()))
)


@given(TREES, TREES)
def test_every_path_is_in_exactly_the_class_it_belongs_to(old: Manifest, new: Manifest) -> None:
    changes = diff(old, new)
    before, after = old.by_path(), new.by_path()
    found = classes(changes)
    assert all(paths == sorted(set(paths)) for paths in found.values())
    assert set(found["added"]) == after.keys() - before.keys()
    assert set(found["removed"]) == before.keys() - after.keys()
    both = [*found["modified"], *found["metadata"], *found["touched"]]
    assert len(both) == len(set(both))
    assert set(both) == {path for path in before.keys() & after.keys() if before[path] != after[path]}
    for pairs in (changes.modified, changes.metadata, changes.touched):
        assert all(pair == (before[pair[0].path], after[pair[0].path]) for pair in pairs)
    # What leads from the one to the other, applied, is the other.
    state = {path: entry for path, entry in before.items() if path not in found["removed"]}
    state.update({entry.path: entry for entry in changes.added})
    state.update({after.path: after for pairs in (changes.modified, changes.metadata, changes.touched) for _before, after in pairs})
    assert state == after
    assert changes.is_empty == (old.content_digest == new.content_digest)


def test_a_line_that_cannot_be_parsed_is_an_integrity_error() -> None:
    broken = Manifest(HEADER, [b"{}"])
    for old, new in ((broken, manifest(FILE)), (manifest(FILE), broken)):
        with pytest.raises(IntegrityError):
            diff(old, new)
