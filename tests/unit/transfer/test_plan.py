# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every wanted file is covered once, by directories that hold nothing else; streams get equal shares."""

from __future__ import annotations

import time
from typing import Dict, List, Set, Tuple

from ansible_collections.openclaw.backup.plugins.module_utils.transfer.plan import (
    FILE_COST,
    STREAM_COST,
    Item,
    can_carry,
    common_directory,
    partition,
    plan_roots,
)
from hypothesis import given
from hypothesis import strategies as st

Directories = Dict[bytes, Tuple[int, int]]


def count(files: Set[bytes], empty: Set[bytes] = frozenset()) -> Directories:  # type: ignore[assignment]
    """What a walk that enters everything would count."""
    known: Dict[bytes, List[int]] = {b"": [0, 0]}

    def enter(path: bytes) -> None:
        if path not in known:
            known[path] = [0, 0]
            parent = path.rpartition(b"/")[0]
            enter(parent)
            known[parent][1] += 1

    for path in files:
        enter(path.rpartition(b"/")[0])
        known[path.rpartition(b"/")[0]][0] += 1
    for path in empty:
        enter(path)
    return {path: (numbers[0], numbers[1]) for path, numbers in known.items()}


def paths_of(items: List[Item]) -> Set[Tuple[bytes, bool]]:
    return {(item.path, item.tree) for item in items}


def plan(on_disk: Set[bytes], wanted: Set[bytes], empty: Set[bytes] = frozenset(), streams: int = 1) -> List[Item]:  # type: ignore[assignment]
    return plan_roots([(path, 1) for path in sorted(wanted)], count(on_disk, empty), streams)


def test_a_full_directory_is_one_root_and_its_neighbours_files_stay_single() -> None:
    on_disk = {b"a/x", b"a/b/y", b"a/b/z", b"c/kept", b"c/excluded"}
    items = plan(on_disk, on_disk - {b"c/excluded"})
    assert items == [Item(b"a", 3, 3, True), Item(b"c/kept", 1, 1, False)]


def test_an_unwanted_file_deep_down_keeps_all_its_parents_from_being_sent_whole() -> None:
    on_disk = {b"a/x", b"a/b/y", b"a/b/c/secret", b"a/d/z"}
    assert paths_of(plan(on_disk, on_disk - {b"a/b/c/secret"})) == {(b"a/x", False), (b"a/b/y", False), (b"a/d", True)}


def test_files_that_may_come_along_do_not_split_a_directory_and_are_not_sent_for_themselves() -> None:
    on_disk = {b"a/x", b"a/b/y", b"a/b/second name", b"c/second name", b"d/secret", b"d/second name", b"d/z"}
    spare = {b"a/b": 1, b"c": 1, b"d": 1}
    items = plan_roots([(b"a/b/y", 1), (b"a/x", 1), (b"d/z", 1)], count(on_disk), 1, spare)
    assert items == [Item(b"a", 2, 2, True), Item(b"d/z", 1, 1, False)]


def test_an_empty_directory_is_not_sent_and_does_not_split_its_parent() -> None:
    assert plan({b"a/b/x"}, {b"a/b/x"}, empty={b"a/e", b"e/f"}) == [Item(b"a", 1, 1, True)]


def test_a_directory_that_the_walk_did_not_enter_is_never_swept_along() -> None:
    directories = count({b"a/b/x", b"a/y"})
    directories[b"a"] = (1, 2)  # a/mounted, of which nothing is known
    assert paths_of(plan_roots([(b"a/b/x", 1), (b"a/y", 1)], directories)) == {(b"a/b", True), (b"a/y", False)}


def test_the_source_root_is_never_an_item_even_when_all_of_it_is_wanted() -> None:
    assert paths_of(plan({b"x", b"a/y"}, {b"x", b"a/y"})) == {(b"x", False), (b"a", True)}


def test_a_name_that_sorts_between_a_directory_and_its_content_confuses_nothing() -> None:
    on_disk = {b"a/x", b"a-b/y", b"a b/z", b"a.c"}
    assert paths_of(plan(on_disk, on_disk - {b"a b/z"})) == {(b"a", True), (b"a-b", True), (b"a.c", False)}


def test_nothing_wanted_is_nothing_to_send() -> None:
    assert plan({b"a/x"}, set()) == []
    assert partition([], 4) == []


names = st.sampled_from([b"a", b"b", b"c", b"a-", b"b.x", b"\xff"])
directory_paths = st.lists(names.map(lambda name: b"d" + name), max_size=4).map(b"/".join)
file_paths = st.tuples(directory_paths, names.map(lambda name: b"f" + name)).map(lambda pair: b"/".join(filter(None, pair)))


@given(on_disk=st.sets(file_paths, max_size=40), empty=st.sets(directory_paths, max_size=5), data=st.data(), streams=st.sampled_from([1, 3]))
def test_a_plan_covers_exactly_what_is_wanted_with_the_largest_directories(on_disk: Set[bytes], empty: Set[bytes], data: st.DataObject, streams: int) -> None:
    wanted = {path for path in on_disk if data.draw(st.booleans() if len(on_disk) < 6 else st.sampled_from([True, True, True, False]))}
    items = plan(on_disk, wanted, empty - {b""}, streams)
    sent: List[bytes] = []
    for item in items:
        found = [path for path in on_disk if path.startswith(item.path + b"/")] if item.tree else [item.path]
        assert item.files == item.size == len(found) > 0
        sent += found
    assert sorted(sent) == sorted(wanted)  # once each, and nothing that was not asked for
    for item in items:
        parent = item.path.rpartition(b"/")[0]
        beside = {path for path in on_disk if path.startswith(parent + b"/")}
        assert not parent or beside - wanted, "a larger directory could have been sent whole"


def test_several_streams_get_roots_small_enough_to_share() -> None:
    on_disk = {b"src/d%d/s%d/f%d" % (d, s, f) for d in range(10) for s in range(20) for f in range(20)}
    wanted = [(path, 30_000) for path in sorted(on_disk)]
    assert paths_of(plan_roots(wanted, count(on_disk))) == {(b"src", True)}
    groups = partition(plan_roots(wanted, count(on_disk), streams=2), 2)
    shares = [sum(item.files for item in group) for group in groups]
    assert len(shares) == 2
    assert max(shares) <= 1.15 * min(shares)
    assert sum(map(len, groups)) < 250


def test_one_huge_file_gets_a_stream_of_its_own_wherever_its_name_sorts() -> None:
    items = [Item(b"%02d" % n, STREAM_COST // 10, 1, False) for n in range(50)]
    items[25] = Item(b"25", 5 * STREAM_COST, 1, False)
    groups = partition(items, 2)
    assert [items[25]] in [group[:1] for group in groups]
    sizes = [sum(item.size for item in group) for group in groups]
    assert max(sizes) < 1.1 * min(sizes)


def test_a_second_process_is_not_started_for_little() -> None:
    assert len(partition([Item(b"%d" % n, 100, 1, False) for n in range(500)], 4)) == 1


@given(sizes=st.lists(st.integers(0, 3 * STREAM_COST), max_size=60), streams=st.integers(1, 5))
def test_shares_are_disjoint_complete_and_no_share_exceeds_the_mean_by_more_than_an_item(sizes: List[int], streams: int) -> None:
    items = [Item(b"%03d" % number, size, 1, False) for number, size in enumerate(sizes)]
    groups = partition(items, streams)
    assert sorted(item for group in groups for item in group) == items
    assert len(groups) <= streams
    assert all(groups)
    costs = [sum(item.size + FILE_COST for item in group) for group in groups]
    assert not costs or max(costs) <= sum(costs) / len(costs) + max(sizes) + FILE_COST


def test_the_common_directory_holds_all_items() -> None:
    def item(path: bytes, tree: bool = False) -> Item:
        return Item(path, 1, 1, tree)

    assert common_directory([item(b"a/b/x"), item(b"a/b/c/y")]) == b"a/b"
    assert common_directory([item(b"a/b", True)]) == b"a/b"
    assert common_directory([item(b"a/b", True), item(b"a/b-c", True), item(b"a/b.d")]) == b"a"
    assert common_directory([item(b"a/bc"), item(b"a/bd")]) == b"a"
    assert common_directory([item(b"x"), item(b"y/z")]) == b""


def test_paths_beyond_the_kernels_limit_are_told_apart_before_rsync_fails_on_them() -> None:
    assert can_carry(b"x" * 3000, b"/srv/vault")
    assert not can_carry(b"x" * 3000, b"/srv/" + b"v" * 1100)
    assert not can_carry(b"x" * 3000, b"/", b"/snapshots/" + b"v" * 1100)


def test_planning_sixty_thousand_files_takes_no_time_worth_mentioning() -> None:
    def measure(directories: int) -> float:
        on_disk = [b"src/%03d/%03d/f%02d" % (d // 100, d, f) for d in range(directories) for f in range(10)]
        counted = count(set(on_disk))
        wanted = [(path, 1000) for path in on_disk[1:]]
        best = 9.0
        for _attempt in range(3):
            start = time.process_time()
            partition(plan_roots(wanted, counted, 2), 2)
            best = min(best, time.process_time() - start)
        return best

    small, large = measure(600), measure(6000)
    assert large < 0.5  # 0.05 s on an idle machine
    assert large < 30 * small + 0.05
