# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each path of a snapshot comes from: from nowhere it does not lie, and never by an inode that means something else."""

from __future__ import annotations

import hashlib
from typing import Dict, List, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import DIRECTORY, FILE, SYMLINK, Entry
from ansible_collections.openclaw.backup.plugins.module_utils.target.sources import NATIVE, PORTABLE, plan_edits, plan_sources
from hypothesis import given, settings
from hypothesis import strategies as st

HEADER = Header("h", "p", ("/",), {}, "0", "2026-11-20T09:15:00.000Z")
CONTENTS = (b"", b"one", b"two", b"TWO")
PATHS = [b"a", b"b", b"c", b"d/a", b"d/b", b"e"]


def manifest(entries: List[Entry]) -> Manifest:
    return Manifest.from_entries(HEADER, [Entry(b"d", DIRECTORY, 0o755, 0, 0, 1), *entries])


def file(path: bytes, content: bytes, *, mode: int = 0o644, group: Optional[bytes] = None, mtime: int = 5, **more: bool) -> Entry:
    return Entry(path, FILE, mode, 0, 0, mtime, len(content), hashlib.sha256(content).hexdigest(), group=group, **more)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Paths that are files of few contents and modes, in hard-link groups or alone, links, or nothing."""
    kinds: Dict[bytes, Tuple[str, int, int, int]] = {}
    for path in PATHS:
        kind = draw(st.sampled_from(["none", "file", "file", "file", "group 1", "group 2", "link"]))
        if kind != "none":
            kinds[path] = (kind, draw(st.integers(0, 3)), draw(st.integers(0, 1)), draw(st.integers(0, 1)))
    shared = [draw(st.integers(0, 3)) for _group in range(2)]
    entries = []
    for path, (kind, content, mode, unstable) in kinds.items():
        if kind == "link":
            entries.append(Entry(path, SYMLINK, 0o777, 0, 0, 5, link=b"x%d" % content))
        elif kind == "file":
            entries.append(file(path, CONTENTS[content], mode=0o600 + mode, unstable=bool(unstable)))
        else:
            members = sorted(other for other, item in kinds.items() if item[0] == kind)
            group = members[0] if len(members) > 1 else None
            entries.append(file(path, CONTENTS[shared[int(kind[-1]) - 1]], group=group))
    return manifest(entries)


@settings(max_examples=400)
@given(manifests(), manifests(), st.sampled_from([NATIVE, PORTABLE]), st.frozensets(st.sampled_from(PATHS), max_size=2))
def test_every_path_has_one_source_that_holds_what_it_needs(base: Manifest, new: Manifest, storage: str, distrusted: "frozenset[bytes]") -> None:
    plan = plan_sources(base, new, storage, distrusted)
    placed = [*plan.directories, *plan.linked, *(entry for entry, _donor, _share in plan.donated), *plan.specials, *plan.followers, *plan.wanted]
    assert sorted(placed) == list(new.entries), "every path exactly once"
    old = base.by_path()
    inodes: Dict[bytes, bytes] = {}
    for entry, donor, share in [*((entry, entry.path, True) for entry in plan.linked), *plan.donated]:
        assert donor not in distrusted
        assert old[donor].type == entry.type
        assert old[donor].same_content(entry) or entry.type == SYMLINK == old[donor].type
        assert not entry.is_group_follower
        if share and storage == NATIVE:
            assert old[donor].same_inode_state(entry), "a shared inode is never altered"
            # One inode of the base serves one group of the new snapshot.
            assert inodes.setdefault(old[donor].group or donor, entry.group or entry.path) == (entry.group or entry.path)
    for entry in plan.wanted:
        assert entry.type == FILE and not entry.is_group_follower
    # Nothing is asked for that the base holds under that very path.
    for entry in plan.wanted:
        before = old.get(entry.path)
        assert before is None or entry.path in distrusted or not before.same_content(entry)


@pytest.mark.parametrize("storage", [NATIVE, PORTABLE])
def test_without_a_base_everything_is_wanted_once(storage: str) -> None:
    new = manifest([file(b"a", b"one", group=b"a"), file(b"b", b"one", group=b"a"), Entry(b"l", SYMLINK, 0o777, 0, 0, 1, link=b"x")])
    plan = plan_sources(None, new, storage)
    assert [entry.path for entry in plan.wanted] == [b"a"] and [entry.path for entry in plan.followers] == [b"b"]
    assert [entry.path for entry in plan.specials] == [b"l"] and [entry.path for entry in plan.directories] == [b"d"]


def test_a_renamed_file_keeps_its_inode_and_a_copied_one_gets_its_own() -> None:
    base = manifest([file(b"a", b"one"), file(b"b", b"two")])
    new = manifest([file(b"a", b"one"), file(b"a copy", b"one"), file(b"d/b", b"two"), file(b"d/b copy", b"two")])
    plan = plan_sources(base, new, NATIVE)
    assert [(entry.path, donor, share) for entry, donor, share in plan.donated] == [
        (b"a copy", b"a", False),
        (b"d/b", b"b", True),
        (b"d/b copy", b"b", False),
    ]
    assert plan.wanted == []


def test_a_renamed_file_with_other_metadata_is_copied_inside_the_vault() -> None:
    base = manifest([file(b"a", b"one", mode=0o600)])
    new = manifest([file(b"b", b"one", mode=0o644)])
    assert plan_sources(base, new, NATIVE).donated == [(new.by_path()[b"b"], b"a", False)]
    assert plan_sources(base, new, PORTABLE).donated == [(new.by_path()[b"b"], b"a", True)]


def test_damage_in_the_base_is_asked_for_again_unless_a_twin_has_it() -> None:
    entries = [file(b"a", b"one"), file(b"b", b"two"), file(b"c", b"two")]
    plan = plan_sources(manifest(entries), manifest(entries), NATIVE, {b"a", b"b"})
    assert [entry.path for entry in plan.wanted] == [b"a"]
    assert [(entry.path, donor, share) for entry, donor, share in plan.donated] == [(b"b", b"c", False)]


def test_empty_files_are_no_donors() -> None:
    plan = plan_sources(manifest([file(b"a", b"")]), manifest([file(b"a", b""), file(b"b", b"")]), NATIVE)
    assert [entry.path for entry in plan.wanted] == [b"b"] and plan.donated == []


@settings(max_examples=400)
@given(manifests(), manifests(), st.sampled_from([NATIVE, PORTABLE]), st.frozensets(st.sampled_from(PATHS), max_size=2))
def test_a_copy_of_the_base_with_its_edits_is_the_new_tree(base: Manifest, new: Manifest, storage: str, distrusted: "frozenset[bytes]") -> None:
    def inode(entry: Entry) -> Tuple[str, bytes]:
        return "old", entry.group or entry.path

    # Each path with its entry and its inode, as a whole copy of the base has them; what was found damaged holds anything.
    tree = {entry.path: (None if entry.path in distrusted else entry, inode(entry)) for entry in base.entries}
    plan = plan_sources(base, new, storage, distrusted)
    edits = plan_edits(plan, base, new, distrusted)
    for path in edits.removed:
        for below in [name for name in tree if name == path or name.startswith(path + b"/")]:
            del tree[below]
    for entry in edits.retouched:
        before, number = tree[entry.path]
        assert before is not None and before.same_content(entry)
        assert [path for path, (_entry, other) in tree.items() if other == number] == [entry.path], "no other name leads there"
        tree[entry.path] = (entry, number)
    placed = edits.placed
    for entry in (*placed.directories, *placed.specials, *(entry for entry, _donor, _share in placed.donated)):
        assert entry.type == DIRECTORY or entry.path not in tree
        tree[entry.path] = (entry, ("new", entry.path))
    for entry in placed.wanted:  # renamed over whatever file is there
        assert tree.get(entry.path, (None,))[0] is None or tree[entry.path][0].type == FILE  # type: ignore[union-attr]
        tree[entry.path] = (entry, ("new", entry.path))
    for entry in placed.followers:
        assert entry.path not in tree and entry.group is not None
        tree[entry.path] = (entry, tree[entry.group][1])
    assert set(tree) == {entry.path for entry in new.entries}
    for entry in new.entries:
        found, number = tree[entry.path]
        assert found is not None and found.type == entry.type
        assert entry.type != FILE or found.same_content(entry)
        if storage == NATIVE:
            assert found == entry or found.same_inode_state(entry)
            assert (number == tree[entry.group or entry.path][1]) and all(
                tree[other.path][1] != number for other in new.entries if (other.group or other.path) != (entry.group or entry.path)
            )
