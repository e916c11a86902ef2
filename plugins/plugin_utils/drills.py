# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which histories of a fleet are drilled now, and what is rehearsed: those that nobody has drilled for longest, as many as the budget allows. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ..module_utils.errors import PolicyError
from ..module_utils.observe.audit import is_time, seconds_of
from ..module_utils.policy.durations import parse_duration
from ..module_utils.policy.scenarios import LOST_HOST, SCENARIOS
from .values import is_number, plain, read_object

# Under these names the playbook registers what hosts, and the vault for hosts, have told of their drills.
_REGISTERED = ("__openclaw_backup_known_here", "__openclaw_backup_known_there")
# What a history takes that was never drilled: slower than most, so that a budget of time is rather kept than broken.
_BYTES_A_SECOND = 20 << 20
# A vault's or a host's clock may be ahead of this one by so much (s).
_AHEAD = 300
_SIZE = re.compile("([0-9]{1,12})([kmgtKMGT]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True)
class Candidate:
    """The history of ``policy`` of ``host``. ``tried``, ``proven``: when the last drill ended, and the last one that found nothing wrong (s since the epoch),
    None for never; ``bytes`` of its newest snapshot; ``seconds`` that a drill takes, as far as one can say. ``unclear``: what of its status could not be
    read, so that nothing of it counts; empty as a rule."""

    host: str
    policy: str
    tried: Optional[float] = None
    proven: Optional[float] = None
    bytes: int = 0
    seconds: float = 0.0
    unclear: str = ""


class Budget(NamedTuple):
    """What all drills together may take up; None for no limit."""

    seconds: Optional[int] = None
    bytes: Optional[int] = None


class Plan(NamedTuple):
    """What is drilled ``now``, what was drilled lately (``recent``), and what has to wait (``later``) for another budget."""

    now: Tuple[Candidate, ...]
    recent: Tuple[Candidate, ...]
    later: Tuple[Candidate, ...]


def read_age(text: Any) -> Optional[int]:
    """The seconds of ``openclaw_backup_drill_older_than``, None for none. ``PolicyError`` names what is wrong."""
    return None if text in (None, "") else parse_duration(text, "openclaw_backup_drill_older_than")


def read_budget(value: Any) -> Budget:
    """``openclaw_backup_drill_budget``: a mapping with ``time``, ``bytes`` or both. ``PolicyError`` names what is wrong."""
    where = "openclaw_backup_drill_budget"
    if value in (None, "", {}):
        return Budget()
    if not isinstance(value, Mapping) or set(value) - {"time", "bytes"}:
        raise PolicyError(
            "%s is %r" % (where, value), field=where, found=str(value), allowed="a mapping with time, bytes or both", next="write {time: 2h, bytes: 200g}"
        )
    seconds = parse_duration(value["time"], where + ".time") if "time" in value else None
    return Budget(seconds, _read_size(value["bytes"], where + ".bytes") if "bytes" in value else None)


def _read_size(value: Any, where: str) -> int:
    match = _SIZE.fullmatch(str(value)) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    if match is None:
        raise PolicyError(
            "%s is %r" % (where, value), field=where, found=str(value), allowed="a number of bytes, or one with k, m, g or t (times 1024)", next="write 200g"
        )
    return int(match.group(1)) * _UNITS[match.group(2).lower()]


def choose(candidates: Iterable[Candidate], now: float, older_than: Optional[int], budget: Budget) -> Plan:
    """Choose, those first that nobody has tried for longest.

    One that does not fit into what is left of the budget is passed over for smaller ones, and becomes older; the first one is drilled whatever it takes.
    So each has its turn. ``older_than`` (s) asks for the last drill that found nothing wrong: what failed is tried again, behind those that were not
    tried since.
    """
    chosen: List[Candidate] = []
    recent: List[Candidate] = []
    later: List[Candidate] = []
    seconds, size = 0.0, 0
    for candidate in sorted(candidates, key=_turn):
        if older_than is not None and candidate.proven is not None and 0 <= now - candidate.proven < older_than:
            recent.append(candidate)
            continue
        fits = (budget.seconds is None or seconds + candidate.seconds <= budget.seconds) and (budget.bytes is None or size + candidate.bytes <= budget.bytes)
        if chosen and not fits:
            later.append(candidate)
            continue
        chosen.append(candidate)
        seconds += candidate.seconds
        size += candidate.bytes
    return Plan(tuple(chosen), tuple(recent), tuple(later))


def _turn(candidate: Candidate) -> Tuple[float, str, str]:
    return (float("-inf") if candidate.tried is None else candidate.tried, candidate.host, candidate.policy)


def candidates_of(hosts: Iterable[Any], variables: Mapping[Any, Any], now: float) -> List[Candidate]:
    """The histories of all ``hosts`` on machines that were reached, with what their status told. One that told nothing, or what cannot be at ``now``, was never
    drilled, as far as anybody knows."""
    found = []
    for host in map(str, hosts):
        told: Dict[str, Mapping[str, Any]] = {}
        for name in _REGISTERED:
            for item in (variables[host].get(name) or {}).get("results", ()):
                if not item.get("skipped"):
                    told[str(item["item"]["name"])] = item
        lost, granted = (plain(variables[host].get(name)) or [] for name in ("__openclaw_backup_lost", "__openclaw_backup_granted"))
        vault, standby = (plain(variables[host].get(name)) for name in ("__openclaw_backup_vault", "__openclaw_backup_standby"))
        places = (("__openclaw_backup_at_host", host), ("__openclaw_backup_at_vault", vault), ("__openclaw_backup_at_standby", standby))
        closed = granted if vault in lost else []
        for where, machine in places:
            names = [policy["name"] for policy in plain(variables[host].get(where)) or [] if machine not in lost]
            found += [_candidate(host, name, told.get(name, {}), now) for name in names if name not in closed]
    return found


class _UnclearError(Exception):
    """What of an answer cannot be."""


def _candidate(host: str, policy: str, item: Mapping[str, Any], now: float) -> Candidate:
    """What ``item``, the answer of a machine, says of a history. It is looked at key by key: nobody knows what else is in it."""
    try:
        status = _status(item)
        last, good, newest = (_part(status, name) for name in ("last_drill", "last_good_drill", "newest"))
        size = int(_number(newest, "newest.bytes"))
        took, drilled = _number(good, "last_good_drill.duration"), _number(good, "last_good_drill.bytes")
        seconds = took * max(1.0, size / drilled if drilled else 1.0) if took else size / _BYTES_A_SECOND
        return Candidate(host, policy, _ended(last, "last_drill.finished", now), _ended(good, "last_good_drill.finished", now), size, seconds)
    except _UnclearError as error:
        return Candidate(host, policy, unclear=str(error))


def _status(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a module, or what the program on the vault has printed; nothing where it failed, and the drill finds out why."""
    if "cmd" not in item or not item.get("stdout"):
        return item
    try:
        return read_object(plain(item["stdout"]))
    except ValueError as error:
        raise _UnclearError("what it printed is no status") from error


def _part(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = status.get(name)
    if part is not None and not isinstance(part, Mapping):
        raise _UnclearError("%s is no mapping" % name)
    return part or {}


def _number(part: Mapping[str, Any], where: str) -> float:
    value = part.get(where.rpartition(".")[2])
    if value is not None and not is_number(value):
        raise _UnclearError("%s is no number that a machine can have" % where)
    return value or 0


def _ended(record: Mapping[str, Any], where: str, now: float) -> Optional[float]:
    finished = record.get("finished")
    if finished is None:
        return None
    text = plain(finished) if isinstance(finished, str) else None
    if text is None or not is_time(text):
        raise _UnclearError("%s is no time" % where)
    at = seconds_of(text)
    if at > now + _AHEAD:
        raise _UnclearError("%s is a time to come" % where)
    return min(at, now)


def read_scenario(value: Any) -> str:
    """``openclaw_backup_drill_scenario``: what is rehearsed. ``PolicyError`` names what is wrong."""
    where, allowed = "openclaw_backup_drill_scenario", ", ".join([*SCENARIOS, LOST_HOST])
    if value in (None, ""):
        return SCENARIOS[0]
    if value not in (*SCENARIOS, LOST_HOST):
        raise PolicyError("%s is %r" % (where, value), field=where, found=str(value), allowed=allowed)
    return str(value)


def problems(older_than: Any, budget: Any, scenario: Any = None) -> List[str]:
    """One text for each of the three that cannot be read, and for those that do not go together."""
    found = []
    checks: Tuple[Tuple[Callable[[Any], Any], Any], ...] = ((read_age, older_than), (read_budget, budget), (read_scenario, scenario))
    for read, value in checks:
        try:
            read(plain(value))
        except PolicyError as error:
            found.append(str(error))
    if scenario == LOST_HOST and (older_than or budget):
        # A standby forgets everything: those that come first would always be the same.
        found.append(
            "openclaw_backup_drill_%s has no meaning with the scenario %s, of which no machine keeps a memory. Next: choose the hosts with --limit."
            % ("older_than" if older_than else "budget", LOST_HOST)
        )
    return found
