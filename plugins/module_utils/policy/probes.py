# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes: what a drill looks for in what came back, besides bytes. Data of a policy and of a profile; docs/policy.md explains the keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Tuple

from .checks import bad, check_argv, check_flag, check_selected, check_text, key, paths, read, required, section
from .checks import optional as or_null
from .durations import format_duration, parse_duration

KINDS = ("sqlite", "json", "json5", "exists", "max_age", "command")
# Which keys say something to which kinds; all others would be set in vain.
_MEANT_FOR = {
    "timeout": ("sqlite", "json", "json5", "command"),
    "optional": ("sqlite", "json", "json5", "max_age"),
    "expect": ("command",),
    "as_root": ("command",),
    "control": ("command",),
}


def check_timeout(value: Any, where: str) -> int:
    """How long a program may take, in seconds: any duration but none."""
    seconds = 0 if type(value) is int and value == 0 else parse_duration(value, where)  # else the advice would be to write 0s
    if seconds == 0:
        raise bad(where, "must be longer than nothing", value, "at least 1s", "write the longest time that the command may take")
    return seconds


def _check_paths(value: Any, where: str) -> Tuple[str, ...]:
    names: Tuple[str, ...] = paths(least=1)(value, where)
    return names


def _check_expected(value: Any, where: str) -> str:
    text = check_text(value, where)
    if not text:
        raise bad(where, "must not be empty", value, "text that the program prints", "leave it out where the exit code says enough")
    return text


@dataclass(frozen=True)
class MaxAge:
    """The newest file that ``pattern`` matches is at most so many seconds older than the state that came back."""

    pattern: str = field(metadata=required(check_selected))
    duration: int = field(metadata={"check": parse_duration, "write": format_duration})


@dataclass(frozen=True)
class Probe:
    """One probe, of one of KINDS: the other kinds are None. ``timeout`` in seconds.

    Patterns are those of a policy, anchored at each source. ``optional``: that nothing matches is no failure. ``expect``: text that a command prints;
    ``control``: a command must fail in an empty directory.
    """

    sqlite: Optional[str] = key(or_null(check_selected), None)
    json: Optional[str] = key(or_null(check_selected), None)
    json5: Optional[str] = key(or_null(check_selected), None)
    exists: Optional[Tuple[str, ...]] = key(or_null(_check_paths), None)
    max_age: Optional[MaxAge] = key(or_null(section(MaxAge)), None)
    command: Optional[Tuple[str, ...]] = key(or_null(check_argv), None)
    timeout: int = key(check_timeout, 300, format_duration)
    optional: bool = key(check_flag, False)
    expect: Optional[str] = key(or_null(_check_expected), None)
    as_root: bool = key(check_flag, False)
    control: bool = key(check_flag, True)

    @property
    def kind(self) -> str:
        """Which of KINDS it is."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def pattern(self) -> str:
        """What it looks for, where that is a pattern; else empty."""
        return self.max_age.pattern if self.max_age is not None else self.sqlite or self.json or self.json5 or ""


def check_probe(value: Any, where: str) -> Probe:
    """A probe: a mapping with the keys of one kind, or a list of arguments, which is a command. Raises PolicyError."""
    if isinstance(value, (list, tuple)):
        return Probe(command=check_argv(value, where))
    if not isinstance(value, Mapping):
        raise bad(
            where, "must be a probe", value, "a list of arguments, or a mapping with one of %s" % ", ".join(KINDS), "write {sqlite: '*.sqlite'}, for instance"
        )
    values = read(Probe, value, where)
    kinds = [name for name in KINDS if values.get(name) is not None]
    if len(kinds) != 1:
        complaint = "says nothing to look at" if not kinds else "is of %d kinds" % len(kinds)
        raise bad(where, complaint, value, "exactly one of %s" % ", ".join(KINDS), "add one" if not kinds else "make a probe of each: %s" % ", ".join(kinds))
    probe = Probe(**values)
    for name, meant in _MEANT_FOR.items():
        # What is spelled out with its default value asks for nothing.
        if kinds[0] not in meant and getattr(probe, name) != getattr(Probe, name):
            raise bad("%s.%s" % (where, name), "has no meaning for %s" % kinds[0], value[name], "only with %s" % ", ".join(meant), "leave it out")
    return probe
