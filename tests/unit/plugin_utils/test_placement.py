# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where hosts lie: evenly, the same from every controller, and moved as little as can be."""

from __future__ import annotations

import random
from collections import Counter
from typing import Dict, List, Sequence, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.plugin_utils.placement import SLACK, moves, place, vaults_of
from hypothesis import given, settings
from hypothesis import strategies as st

FLEETS = ("web%d", "host-%04d.example.org", "10.0.%d.7", "%d", "Ä%d", "node%03d-eu")
VAULTS = ("vault%d", "v-%d.example.org", "10.9.0.%d")


def hosts_of(form: str, count: int = 1000) -> List[str]:
    return [form % number for number in range(1, count + 1)]


def loads(placed: Dict[str, Tuple[str, ...]], rank: int = 0) -> Counter[str]:
    return Counter(found[rank] for found in placed.values())


@pytest.mark.parametrize("vault", VAULTS)
@pytest.mark.parametrize("host", FLEETS)
def test_a_thousand_hosts_on_five_vaults_lie_within_15_percent_of_even(host: str, vault: str) -> None:
    found = loads(place(hosts_of(host), hosts_of(vault, 5)))
    assert sum(found.values()) == 1000 and len(found) == 5
    assert all(170 <= load <= 230 for load in found.values()), found


@pytest.mark.parametrize("vault", VAULTS)
@pytest.mark.parametrize("host", FLEETS)
def test_a_sixth_vault_moves_a_sixth_of_the_hosts_and_three_percent_at_most(host: str, vault: str) -> None:
    hosts, five, six = hosts_of(host), hosts_of(vault, 5), hosts_of(vault, 6)
    come = moves(hosts, five, six)
    assert len(come) <= 1000 / 6 + 30, len(come)
    assert sum(move.after != (six[-1],) for move in come) <= 20, "hardly anybody moves who does not move to the new one"
    assert [(move.before, move.after) for move in moves(hosts, six, five)] == [(move.after, move.before) for move in come], "and back"


@pytest.mark.parametrize("copies", [2, 3])
def test_copies_lie_on_vaults_of_their_own_each_rank_evenly(copies: int) -> None:
    placed = place(hosts_of("web%d"), hosts_of("vault%d", 5), copies)
    assert all(len(set(found)) == copies for found in placed.values())
    for rank in range(copies):
        assert all(170 <= load <= 230 for load in loads(placed, rank).values()), loads(placed, rank)


def test_a_sixth_vault_takes_a_sixth_of_all_copies_too() -> None:
    hosts, five, six = hosts_of("web%d"), hosts_of("vault%d", 5), hosts_of("vault%d", 6)
    old, new = place(hosts, five, 2), place(hosts, six, 2)
    moved = sum(len(set(new[host]) - set(old[host])) for host in hosts)
    assert moved <= 2000 * (1 / 6 + 0.03), moved


def test_more_copies_leave_the_first_where_it_was() -> None:
    one, two = place(hosts_of("web%d"), hosts_of("vault%d", 5)), place(hosts_of("web%d"), hosts_of("vault%d", 5), 2)
    assert all(two[host][:1] == found for host, found in one.items())


def test_a_host_that_comes_or_goes_moves_hardly_anybody() -> None:
    vaults = hosts_of("vault%d", 5)
    for count in (10, 50, 200, 1000):
        hosts = hosts_of("web%d", count)
        before, after = place(hosts[:-1], vaults), place(hosts, vaults)
        assert sum(after[host] != before[host] for host in hosts[:-1]) <= 3, count


names = st.lists(st.text(min_size=1, max_size=12), max_size=40)


@settings(max_examples=200)
@given(names, st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8), st.integers(1, 9), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_of_the_inventory_matters(hosts: List[str], vaults: List[str], copies: int, shuffled: random.Random) -> None:
    placed = place(hosts, vaults, copies)
    assert set(placed) == set(hosts)
    assert all(len(found) == len(set(found)) == min(copies, len(set(vaults))) and set(found) <= set(vaults) for found in placed.values())
    mixed_hosts, mixed_vaults = hosts + hosts[:3], vaults + vaults[:1]
    shuffled.shuffle(mixed_hosts)
    shuffled.shuffle(mixed_vaults)
    assert place(mixed_hosts, mixed_vaults, copies) == placed


@settings(max_examples=200)
@given(st.sets(st.text(min_size=1, max_size=12), max_size=60), st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=8))
def test_no_vault_has_more_or_less_than_the_slack_allows(hosts: "set[str]", vaults: "set[str]") -> None:
    found = loads(place(hosts, vaults))
    even = len(hosts) / len(vaults)
    assert max(found.values(), default=0) < even * (1 + SLACK / 100) + 1
    assert min(found.get(vault, 0) for vault in vaults) > even * (1 - SLACK / 100) - 1
    assert len(found) == min(len(hosts), len(vaults)) or len(hosts) < len(vaults), "no vault is left without a host as long as there are enough"


def test_where_hosts_lie_never_changes_from_release_to_release() -> None:
    """A change here moves the fleets of all users."""
    placed = place(hosts_of("web%d", 6), hosts_of("vault%d", 3), 2)
    assert {host: " ".join(found) for host, found in placed.items()} == GOLDEN


GOLDEN: Dict[str, str] = {
    "web1": "vault1 vault3",
    "web2": "vault3 vault1",
    "web3": "vault1 vault2",
    "web4": "vault2 vault1",
    "web5": "vault2 vault3",
    "web6": "vault2 vault3",
}


def test_a_host_that_was_given_its_vault_has_it_and_moves_nobody_else() -> None:
    hosts, vaults = hosts_of("web%d", 100), hosts_of("vault%d", 4)
    placed = place(hosts, vaults, 2)
    for host in hosts:
        assert vaults_of(host, hosts, vaults, copies=2) == placed[host]
        for pinned in (*vaults, "elsewhere"):
            found = vaults_of(host, hosts, vaults, pinned=pinned, copies=2)
            assert found[0] == pinned and len(set(found)) == 2
            assert set(found[1:]) <= set(vaults)
            assert vaults_of(host, hosts, vaults, pinned=pinned) == (pinned,)


def test_a_host_outside_the_group_is_placed_by_its_name_alone() -> None:
    hosts, vaults = hosts_of("web%d", 10), hosts_of("vault%d", 4)
    found: Sequence[str] = vaults_of("stranger", hosts, vaults, copies=3)
    assert found == vaults_of("stranger", [], vaults, copies=3) and len(set(found)) == 3


@pytest.mark.parametrize("copies", [1, 3])
def test_without_vaults_nobody_has_one(copies: int) -> None:
    assert place(["web1"], [], copies) == {"web1": ()}
    assert vaults_of("web1", ["web1"], [], copies=copies) == ()
    assert vaults_of("web1", ["web1"], [], pinned="vault9", copies=copies) == ("vault9",)
