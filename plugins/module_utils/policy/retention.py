# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which snapshots stay, and why. Pure.

The rules are those of ``restic forget`` (Debian 12's, 0.14): a snapshot stays if any rule keeps it. On top of them stand floors that no rule can
undercut, so that no policy, however it came about, ends with nothing to restore from.
"""

from __future__ import annotations

import datetime
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from .durations import format_duration
from .model import Retention

_DAY = 86400
NOTHING_KEEPS_IT = "no rule keeps it"
POLICY_IS_EMPTY = "the retention has no rule"


class Candidate(NamedTuple):
    """What decides about a snapshot: ``created`` in seconds since the epoch, ``held``: the reason of a hold (empty for none), ``verified``: all of its
    bytes were found right the last time that they were read, ``damaged``: some were not; ``tags``: the names it bears; ``drilled``: a drill
    has proven that it comes back."""

    id: str
    created: float
    held: str = ""
    verified: bool = False
    damaged: bool = False
    tags: Tuple[str, ...] = ()
    drilled: bool = False


class Decision(NamedTuple):
    """Whether a snapshot stays, and all reasons for it, floors first."""

    id: str
    keep: bool
    reasons: Tuple[str, ...]


class Day(NamedTuple):
    """A simulated day: its end (seconds since the epoch), snapshots made in it, and how many of all the prune at its end removes and keeps."""

    at: float
    made: int
    removed: int
    kept: int


class _Rule(NamedTuple):
    reason: str
    most: int
    period: Callable[[datetime.datetime, int], Tuple[int, ...]]


def decide(candidates: Sequence[Candidate], retention: Retention, now: float) -> List[Decision]:
    """Judge all snapshots of one history, given newest first; the answer is in the same order.

    Snapshots dated after ``now`` (seconds since the epoch) count for no rule, and stay: a wrong clock is no reason to remove anything.
    """
    reasons: Dict[str, List[str]] = {candidate.id: [] for candidate in candidates}
    _apply_floors(candidates, retention, now, reasons)
    if is_empty(retention):
        for candidate in candidates:
            reasons[candidate.id].append(POLICY_IS_EMPTY)
    else:
        _apply_rules([candidate for candidate in candidates if candidate.created <= now], retention, reasons)
    return [Decision(candidate.id, bool(reasons[candidate.id]), tuple(reasons[candidate.id] or [NOTHING_KEEPS_IT])) for candidate in candidates]


def simulate(candidates: Sequence[Candidate], retention: Retention, now: float, length: int, every: int) -> Tuple[List[Day], List[Candidate], List[Decision]]:
    """What daily prunes make of a history that goes on for ``length`` seconds with a snapshot ``every`` so many; (days, what is left, why).

    The last day may be a part of one. Snapshots to come are neither held nor tagged nor verified nor damaged.
    """
    days: List[Day] = []
    left = list(candidates)
    made = 0
    for number in range(1, -(-length // _DAY) + 1):
        at = now + min(number * _DAY, length)
        count = int((at - now) // every) - made
        new = [Candidate("+%d" % (made + index), now + (made + index) * every) for index in range(1, count + 1)]
        made += count
        everything = sorted([*left, *new], key=lambda candidate: candidate.created, reverse=True)
        left = [candidate for candidate, decision in zip(everything, decide(everything, retention, at)) if decision.keep]
        days.append(Day(at, count, len(everything) - len(left), len(left)))
    return days, left, decide(left, retention, now + length)


def is_empty(retention: Retention) -> bool:
    """Whether no rule is set: then everything stays."""
    return not (retention.keep_within or retention.keep_tags or any(rule.most for rule in _rules(retention)))


def _apply_floors(candidates: Sequence[Candidate], retention: Retention, now: float, reasons: Dict[str, List[str]]) -> None:
    if candidates:
        # The next one is built on it, and a host that finds an older one takes the vault for one that went back.
        reasons[candidates[0].id].append("newest snapshot")
    whole = next((candidate for candidate in candidates if not candidate.damaged), None)
    if whole is not None and whole is not candidates[0]:
        reasons[whole.id].append("newest snapshot not known to be damaged")
    verified = next((candidate for candidate in candidates if candidate.verified), None)
    if verified is not None:
        reasons[verified.id].append("last fully verified snapshot")
    drilled = next((candidate for candidate in candidates if candidate.drilled), None)
    if drilled is not None:
        reasons[drilled.id].append("last drilled snapshot")
    for candidate in candidates:
        if candidate.held:
            reasons[candidate.id].append("held: %s" % candidate.held)
        if candidate.created > now:
            reasons[candidate.id].append("dated in the future")
        elif now - candidate.created < retention.protect:
            reasons[candidate.id].append("younger than %s" % format_duration(retention.protect))


def _apply_rules(candidates: Sequence[Candidate], retention: Retention, reasons: Dict[str, List[str]]) -> None:
    zone = _zone(retention.timezone)
    rules = [rule for rule in _rules(retention) if rule.most]
    left = [rule.most for rule in rules]
    last: List[Tuple[int, ...]] = [()] * len(rules)
    for number, candidate in enumerate(candidates):
        reasons[candidate.id] += ["has tag %s" % tag for tag in retention.keep_tags if tag in candidate.tags]
        if retention.keep_within and candidates[0].created - candidate.created < retention.keep_within:
            reasons[candidate.id].append("within %s" % format_duration(retention.keep_within))
        moment = datetime.datetime.fromtimestamp(candidate.created, zone)
        for index, rule in enumerate(rules):
            period = rule.period(moment, number)
            if left[index] and period != last[index]:
                last[index] = period
                left[index] -= 1
                reasons[candidate.id].append(rule.reason)


def _rules(retention: Retention) -> Tuple[_Rule, ...]:
    return (
        _Rule("last snapshot", retention.keep_last, lambda moment, number: (number,)),
        _Rule("hourly snapshot", retention.keep_hourly, lambda moment, number: (moment.year, moment.month, moment.day, moment.hour)),
        _Rule("daily snapshot", retention.keep_daily, lambda moment, number: (moment.year, moment.month, moment.day)),
        _Rule("weekly snapshot", retention.keep_weekly, lambda moment, number: tuple(moment.isocalendar())[:2]),
        _Rule("monthly snapshot", retention.keep_monthly, lambda moment, number: (moment.year, moment.month)),
        _Rule("yearly snapshot", retention.keep_yearly, lambda moment, number: (moment.year,)),
    )


def _zone(name: str) -> datetime.tzinfo:
    if name == "UTC":
        return datetime.timezone.utc
    import zoneinfo  # a policy with a zone of its own is rare, and this import is not cheap

    return zoneinfo.ZoneInfo(name)
