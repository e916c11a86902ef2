# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: the rules of ``restic forget``, and floors that nothing undercuts. tests/integration/test_prune.py asks restic itself."""

from __future__ import annotations

import datetime
from typing import Any, Dict, List, Sequence, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Retention
from ansible_collections.openclaw.backup.plugins.module_utils.policy.retention import Candidate, Decision, decide, is_empty, simulate
from hypothesis import given
from hypothesis import strategies as st

HOUR, DAY = 3600, 86400
NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.timezone.utc).timestamp()


def history(*ages: float, **more: Dict[int, Any]) -> List[Candidate]:
    """Snapshots of so many seconds ago, the first the newest; ``held={2: "why"}`` sets a field of the third."""
    return [
        Candidate("s%d" % number, NOW - age, **{name: values[number] for name, values in more.items() if number in values}) for number, age in enumerate(ages)
    ]


def kept(candidates: Sequence[Candidate], now: float = NOW, **rules: Any) -> Dict[str, Tuple[str, ...]]:
    decisions = decide(candidates, Retention(**{"protect": 0, **rules}), now)
    assert [decision.id for decision in decisions] == [candidate.id for candidate in candidates]
    assert all(decision.reasons for decision in decisions), "every decision is explained"
    return {decision.id: decision.reasons for decision in decisions if decision.keep}


def test_without_a_rule_everything_stays() -> None:
    assert kept(history(0, DAY, 900 * DAY)) == {
        "s0": ("newest snapshot", "the retention has no rule"),
        "s1": ("the retention has no rule",),
        "s2": ("the retention has no rule",),
    }
    assert is_empty(Retention()) and is_empty(Retention(protect=5)) and not is_empty(Retention(keep_within=1)) and not is_empty(Retention(keep_yearly=1))


def test_an_empty_history_is_no_problem() -> None:
    assert decide([], Retention(keep_last=1), NOW) == []


def test_what_goes_is_told_why() -> None:
    assert decide(history(0, DAY), Retention(keep_last=1, protect=0), NOW)[1] == Decision("s1", False, ("no rule keeps it",))


@pytest.mark.parametrize(
    "rules, ages, stay",
    [
        ({"keep_last": 2}, [0, 1, 2], "s0 s1"),
        ({"keep_last": 9}, [0, 1, 2], "s0 s1 s2"),
        # 11:30, 11:00 and 10:59: the newest of each hour, hours without one do not count.
        ({"keep_hourly": 2}, [1800, 3600, 3660, 5 * HOUR], "s0 s2"),
        ({"keep_daily": 3}, [0, HOUR, DAY, DAY + HOUR, 9 * DAY, 10 * DAY], "s0 s2 s4"),
        # 2026-11-20 is a Friday; Monday the 16th begins its week.
        ({"keep_weekly": 2}, [0, 4 * DAY, 5 * DAY, 12 * DAY], "s0 s2"),
        ({"keep_monthly": 2}, [0, 19 * DAY, 20 * DAY, 40 * DAY], "s0 s2"),
        ({"keep_yearly": 2}, [0, 300 * DAY, 330 * DAY, 800 * DAY], "s0 s2"),
        # Counted from the newest snapshot, not from now; just as old is too old.
        ({"keep_within": DAY}, [5 * DAY, 6 * DAY - 1, 6 * DAY], "s0 s1"),
        # The union of all rules.
        ({"keep_last": 1, "keep_daily": 2, "keep_monthly": 2}, [0, 1, DAY, 2 * DAY, 25 * DAY, 26 * DAY], "s0 s2 s4"),
    ],
)
def test_rules(rules: Dict[str, int], ages: List[float], stay: str) -> None:
    assert " ".join(kept(history(*ages), **rules)) == stay


def test_all_reasons_are_given() -> None:
    assert kept(history(0, DAY, held={0: "before the upgrade"}, verified={0: True}), keep_last=1, keep_daily=1, keep_within=HOUR, protect=2 * HOUR)["s0"] == (
        "newest snapshot",
        "last fully verified snapshot",
        "held: before the upgrade",
        "younger than 2h",
        "within 1h",
        "last snapshot",
        "daily snapshot",
    )


def test_any_of_the_tags_keeps_a_snapshot_whatever_its_age() -> None:
    snapshots = history(0, DAY, 900 * DAY, 901 * DAY, tags={0: ("z",), 2: ("a", "b", "c"), 3: ("ab",)})
    assert kept(snapshots, keep_tags=("b", "a", "x")) == {"s0": ("newest snapshot",), "s2": ("has tag b", "has tag a")}
    assert not is_empty(Retention(keep_tags=("a",)))


def test_days_begin_where_the_time_zone_says() -> None:
    # 23:30 and 22:30 UTC on the 19th are the 20th, half past midnight, and the 19th in Berlin.
    snapshots = history(12.5 * HOUR, 13.5 * HOUR)
    assert list(kept(snapshots, keep_daily=9)) == ["s0"]
    assert list(kept(snapshots, keep_daily=9, timezone="Europe/Berlin")) == ["s0", "s1"]


def test_years_of_iso_weeks_are_those_of_the_week() -> None:
    # 2026-12-31 and 2027-01-01 lie in one week, 2026-W53.
    base = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc).timestamp()
    snapshots = [Candidate("new", base + 1), Candidate("old", base - 1)]
    assert list(kept(snapshots, base + DAY, keep_weekly=9)) == ["new"]
    assert list(kept(snapshots, base + DAY, keep_yearly=9)) == ["new", "old"]


def test_floors_hold_whatever_the_rules_say() -> None:
    ages = [number * DAY for number in range(8)]
    what: Dict[str, Dict[int, Any]] = {"damaged": {0: True, 1: True}, "verified": {3: True, 4: True}, "held": {5: "for the auditors"}}
    snapshots = history(*ages, **what, drilled={6: True, 7: True})
    assert kept(snapshots, keep_last=1) == {
        "s0": ("newest snapshot", "last snapshot"),
        "s2": ("newest snapshot not known to be damaged",),
        "s3": ("last fully verified snapshot",),
        "s5": ("held: for the auditors",),
        "s6": ("last drilled snapshot",),
    }


def test_what_is_young_stays_counted_from_now() -> None:
    snapshots = history(0, HOUR, DAY - 1, DAY)
    assert list(kept(snapshots, keep_last=1, protect=DAY)) == ["s0", "s1", "s2"]
    assert list(kept(snapshots, keep_last=1, protect=0)) == ["s0"]
    assert list(kept(snapshots, NOW + 9 * DAY, keep_last=1, protect=DAY)) == ["s0"]


def test_snapshots_of_the_future_stay_and_count_for_no_rule() -> None:
    snapshots = history(-9 * DAY, -8 * DAY, 0, DAY, 2 * DAY)
    assert kept(snapshots, keep_last=1, keep_within=DAY + 1) == {
        "s0": ("newest snapshot", "dated in the future"),
        "s1": ("dated in the future",),
        "s2": ("within 1d1s", "last snapshot"),
        "s3": ("within 1d1s",),
    }


CANDIDATES = st.lists(st.tuples(st.integers(-30 * DAY, 900 * DAY), st.sampled_from(["", "why"]), st.booleans(), st.booleans()), min_size=1, max_size=40).map(
    lambda rows: [Candidate("s%d" % number, NOW - age, *more) for number, (age, *more) in enumerate(sorted(rows, key=lambda row: row[0]))]
)
COUNTS = st.integers(0, 5)
RETENTIONS = st.builds(
    Retention,
    keep_last=COUNTS,
    keep_within=st.integers(0, 90 * DAY),
    keep_hourly=COUNTS,
    keep_daily=COUNTS,
    keep_weekly=COUNTS,
    keep_monthly=COUNTS,
    keep_yearly=COUNTS,
    protect=st.integers(0, 3 * DAY),
)


@given(CANDIDATES, RETENTIONS)
def test_nothing_undercuts_the_floors(candidates: List[Candidate], retention: Retention) -> None:
    decisions = {decision.id: decision for decision in decide(candidates, retention, NOW)}
    stay = {name for name, decision in decisions.items() if decision.keep}
    assert candidates[0].id in stay
    for must in (
        next((c for c in candidates if not c.damaged), None),
        next((c for c in candidates if c.verified), None),
        *(c for c in candidates if c.held or NOW - c.created < retention.protect or c.created > NOW),
    ):
        assert must is None or must.id in stay
    assert not is_empty(retention) or len(stay) == len(candidates)


@given(CANDIDATES, RETENTIONS)
def test_a_prune_after_a_prune_removes_nothing(candidates: List[Candidate], retention: Retention) -> None:
    first = {decision.id for decision in decide(candidates, retention, NOW) if decision.keep}
    left = [candidate for candidate in candidates if candidate.id in first]
    assert all(decision.keep for decision in decide(left, retention, NOW))


@given(CANDIDATES, RETENTIONS, st.sampled_from(["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"]))
def test_a_larger_count_never_removes_more(candidates: List[Candidate], retention: Retention, name: str) -> None:
    if is_empty(retention):
        return
    import dataclasses

    more = dataclasses.replace(retention, **{name: getattr(retention, name) + 1})
    less = {decision.id for decision in decide(candidates, retention, NOW) if decision.keep}
    assert less <= {decision.id for decision in decide(candidates, more, NOW) if decision.keep}


def test_a_simulation_goes_on_as_daily_prunes_would() -> None:
    days, left, decisions = simulate(history(0, DAY, 400 * DAY), Retention(keep_daily=7, keep_last=1, protect=0), NOW, 30 * DAY, HOUR)
    assert [day.at - NOW for day in days] == [number * DAY for number in range(1, 31)]
    assert {day.made for day in days} == {24}
    # All three stay at first: rules count periods that have a snapshot.
    assert (days[0].removed, days[0].kept, days[-1].kept) == (24 + 3 - 4, 4, 7)
    assert [candidate.id for candidate in left][:2] == ["+720", "+707"], "the newest, and the last one before midnight"
    assert all(decision.keep and decision.reasons for decision in decisions)


def test_a_simulation_of_part_of_a_day_and_of_an_empty_history() -> None:
    days, left, _decisions = simulate([], Retention(keep_last=2, protect=0), NOW, DAY + HOUR, 1800)
    assert [(day.at - NOW, day.made, day.removed, day.kept) for day in days] == [(DAY, 48, 46, 2), (DAY + HOUR, 2, 2, 2)]
    assert [candidate.created - NOW for candidate in left] == [DAY + HOUR, DAY + HOUR - 1800]
    assert simulate([], Retention(keep_last=2), NOW, HOUR, DAY)[0] == [(NOW + HOUR, 0, 0, 0)]


@given(CANDIDATES, RETENTIONS, st.integers(1, 20), st.integers(1, 60))
def test_a_simulation_loses_nothing_that_it_does_not_count(candidates: List[Candidate], retention: Retention, days: int, hours: int) -> None:
    simulated, left, decisions = simulate(candidates, retention, NOW, days * DAY, hours * HOUR)
    there = len(candidates)
    for day in simulated:
        there += day.made - day.removed
        assert day.kept == there
    assert sum(day.made for day in simulated) == days * 24 // hours
    assert len(left) == there and [decision.id for decision in decisions] == [candidate.id for candidate in left]
    assert {candidate.id for candidate in candidates if candidate.held} <= {candidate.id for candidate in left}
