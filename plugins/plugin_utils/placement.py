# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which vaults a host's snapshots lie on: rendezvous hashing with bounded loads, from names alone.

By rendezvous alone each host takes the vault with which it has the highest weight, and where a vault comes or goes nobody moves but those who must. Left to
chance, of 1,000 hosts on 5 vaults one vault in ten has 15 % too many or too few. So no vault takes more than ``SLACK`` percent above an even share, and
none is left with less than that below it: the pairs of host and vault are taken by weight, the highest first, whatever the order of the inventory.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

# How far a vault's load may be from even, in percent: less moves more hosts when a vault comes, more is less even.
SLACK = 10


class _Pair(NamedTuple):
    """One host and one vault; the highest weight comes first, and equal ones, which nobody will ever see, by name."""

    weight: int
    host: str
    vault: str


def weight(host: str, vault: str) -> int:
    """How much the two belong together: the same on every controller and for ever."""
    return int.from_bytes(hashlib.sha256(b"\0".join(name.encode("utf-8", "surrogateescape") for name in (vault, host))).digest()[:8], "big")


def place(hosts: Iterable[str], vaults: Iterable[str], copies: int = 1) -> Dict[str, Tuple[str, ...]]:
    """The vaults of each host, its own first and then those that keep a copy: ``copies`` in all, or as many as there are.

    A function of the two sets of names: neither order nor repetition matters, nor what a play was limited to. Each of the ``copies`` ranks is even for
    itself.
    """
    return dict(_place(tuple(sorted(set(hosts))), tuple(sorted(set(vaults))), copies))


@lru_cache(maxsize=8)  # a play asks for one host after the other
def _place(hosts: Tuple[str, ...], names: Tuple[str, ...], copies: int) -> Dict[str, Tuple[str, ...]]:
    places: Dict[str, List[str]] = {host: [] for host in hosts}
    pairs = sorted((_Pair(weight(host, vault), host, vault) for host in places for vault in names), reverse=True)
    for _rank in range(min(copies, len(names))):
        for host, vault in _fill(pairs, places, names).items():
            places[host].append(vault)
    return {host: tuple(found) for host, found in places.items()}


def _fill(pairs: Sequence[_Pair], places: Dict[str, List[str]], vaults: Sequence[str]) -> Dict[str, str]:
    """One more vault for each host, of those that it does not have. The bounds hold as long as that can be."""
    count = len(places)
    most = -(-count * (100 + SLACK) // (100 * len(vaults)))
    least = max(count * (100 - SLACK) // (100 * len(vaults)), int(count >= len(vaults)))  # of two hosts on two vaults, each has its own
    loads = dict.fromkeys(vaults, 0)
    chosen: Dict[str, str] = {}
    free = [pair for pair in pairs if pair.vault not in places[pair.host]]
    for _weight, host, vault in free:
        if host not in chosen and loads[vault] < most:
            chosen[host] = vault
            loads[vault] += 1
    for host in places:  # what is full everywhere else
        if host not in chosen:
            chosen[host] = min((vault for vault in vaults if vault not in places[host]), key=lambda vault: (loads[vault], -weight(host, vault)))
            loads[chosen[host]] += 1
    for _weight, host, vault in free if min(loads.values()) < least else ():
        before = chosen[host]
        if loads[vault] < least and loads[before] * len(vaults) > count:
            chosen[host] = vault
            loads[before] -= 1
            loads[vault] += 1
    return chosen


def vaults_of(host: str, hosts: Iterable[str], vaults: Iterable[str], *, pinned: Optional[str] = None, copies: int = 1) -> Tuple[str, ...]:
    """The vaults of one host among ``hosts``; ``pinned``: the one that it was given by hand, which comes first.

    Who is pinned keeps his place among the others, so that pinning one host moves nobody else. A host that is not among ``hosts`` takes the vaults with
    which its weight is highest, and no place of theirs.
    """
    everybody, names = set(hosts), set(vaults)
    most = max(1, copies)
    if host in everybody:
        found: Sequence[str] = place(everybody, names, min(most + 1, len(names)) if pinned else most)[host]
    else:
        found = sorted(names, key=lambda vault: weight(host, vault), reverse=True)
    if pinned:
        found = (pinned, *(vault for vault in found if vault != pinned))
    return tuple(found[:most])


class Move(NamedTuple):
    """A host whose vaults change: those that it has before and after, in their order."""

    host: str
    before: Tuple[str, ...]
    after: Tuple[str, ...]


def moves(hosts: Iterable[str], before: Iterable[str], after: Iterable[str], copies: int = 1) -> List[Move]:
    """The hosts that move where the vaults ``before`` become those ``after``, by name. A change of order alone counts: the host sends elsewhere."""
    everybody: Set[str] = set(hosts)
    old, new = place(everybody, before, copies), place(everybody, after, copies)
    return [Move(host, old[host], new[host]) for host in sorted(everybody) if old[host] != new[host]]
