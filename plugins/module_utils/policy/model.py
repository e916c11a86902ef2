# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy: what to protect, where to, how often, how long, and how fast it must come back.

Every key is a field of a dataclass below, with its check and its default; docs/policy.md explains them. A value is made by
``Policy.from_mapping`` or ``Policy.from_file``, which refuse whatever is not exactly right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Tuple

from ..errors import PolicyError, printable
from ..manifest.selection import Selection
from .checks import (
    bad,
    check_argv,
    check_flag,
    check_marker,
    check_path,
    check_selected,
    check_tag,
    check_text,
    choice,
    closest,
    dotted,
    each,
    is_name,
    is_showable,
    key,
    number,
    optional,
    parse_json,
    paths,
    read,
    required,
    section,
    write,
)
from .durations import format_duration, parse_duration
from .probes import Probe, check_probe, check_timeout
from .profiles import Profile, check_profile, find_profile
from .schedule import check_cron, check_window
from .target_spec import TargetSpec, check_target

_RATE = re.compile("[1-9][0-9]{0,5}[kKmM]|[1-9][0-9]{0,2}[gG]")
_BLOCK = re.compile("([1-9][0-9]{0,5})([kK]?)")
# What no mail program takes for an option or for more than one address.
_MAIL = re.compile("[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(@[A-Za-z0-9][A-Za-z0-9.-]{0,254})?")
_SOCKET_OPTION = re.compile("[A-Z][A-Z0-9_]*(=[0-9]{1,10})?")

# rsync clamps a level that its algorithm does not have, silently; lowest, highest, default (man 1 rsync, --compress-level).
COMPRESS_LEVELS = {"zstd": (-131072, 22, 3), "zlibx": (1, 9, 6), "lz4": (0, 0, 0), "none": (0, 0, 0), "auto": (0, 0, 0)}

# Files of a vault or of the state directory, where hosts and policies have directories.
_TAKEN = frozenset(("format.json", "format.json.new", "audit.jsonl", "lost+found"))

# Between two processes of one machine whole files are copied as they are ...
REMOTE_ONLY = ("transfer.compress", "transfer.compress_level", "transfer.block_size")
# ... by rsync only where a rate is set ...
RSYNC_ONLY = ("transfer.checksum", "transfer.streams", "transfer.timeout")
# ... and objects never go by rsync ...
PLAIN_ONLY = ("heartbeat",)
# ... and rsync sets socket options on connections to its own daemon alone, none of which is a target.
NEVER = ("transfer.sockopts",)


# ---- checks that belong to one key --------------------------------------------------------------------------------


def _check_name(value: Any, where: str) -> str:
    allowed = "1 to 64 letters, digits, '.', '_' and '-', a letter or digit first, without '..'"
    if not is_name(value) or value in _TAKEN:
        raise bad(where, "must be a name", value, allowed, "choose a name such as web1; it becomes a directory of the vault")
    return str(value)


def _check_sources(value: Any, where: str) -> Tuple[str, ...]:
    names: Tuple[str, ...] = paths(least=1)(value, where)
    for index, name in enumerate(names):
        for other in names:
            if name != other and name.startswith(other.rstrip("/") + "/"):
                complaint = "lies inside the source %s" % printable(other)
                raise bad(
                    "%s[%d]" % (where, index),
                    complaint,
                    name,
                    "sources that do not hold one another",
                    "remove %s: %s holds it" % (printable(name), printable(other)),
                )
    return names


def _check_anchors(values: Mapping[str, Any]) -> None:
    """A pattern that begins with a source's own path would match nothing, silently: patterns are anchored at the source."""
    for key_name in ("include", "exclude"):
        for index, pattern in enumerate(values.get(key_name, ())):
            for source in values["sources"]:
                if source != "/" and (pattern + "/").startswith(source + "/"):
                    inside = pattern[len(source) :].rstrip("/")
                    raise bad(
                        "%s[%d]" % (key_name, index),
                        "begins with the path of a source",
                        pattern,
                        "patterns in which '/' stands for the source itself",
                        "write '%s'" % pattern[len(source) :] if inside else "take the source out of sources",
                    )


def _check_rate(value: Any, where: str) -> str:
    allowed = "a number with k, m or g (times 1024, a second), or '' for no limit"
    if value == "":
        return ""
    if isinstance(value, str) and _RATE.fullmatch(value):
        return value
    bare = value if isinstance(value, str) else "%d" % value if type(value) is int and is_showable(value) else ""
    hint = "write a rate such as 10m or 512k"
    if re.fullmatch("[1-9][0-9]{0,5}", bare):
        # rsync takes a bare number as KiB, which nobody remembers.
        hint = "write %sk or %sm" % (bare, bare)
    elif re.fullmatch("0+[kmgKMG]?", bare):
        hint = "write '' for no limit"
    raise bad(where, "must be a rate", value, allowed, hint)


def _check_block_size(value: Any, where: str) -> str:
    allowed = "auto, or 512 to 131072 bytes: a number, perhaps with k (times 1024), as text"
    match = _BLOCK.fullmatch(value) if isinstance(value, str) else None
    if value != "auto" and (match is None or not 512 <= int(match.group(1)) * (1024 if match.group(2) else 1) <= 131072):
        raise bad(where, "must be a size that rsync takes", value, allowed, "write auto, or a size from '1k' to '128k'")
    return str(value)


def _check_socket_options(value: Any, where: str) -> str:
    options = check_text(value, where)
    if options and not all(_SOCKET_OPTION.fullmatch(option) for option in options.split(",")):
        raise bad(where, "must be socket options", value, "NAME or NAME=NUMBER, with commas between, or ''", "write them like SO_SNDBUF=1048576,TCP_NODELAY")
    return options


def _check_splay(value: Any, where: str) -> int:
    allowed = "0 to 86400 seconds, or a duration of at most a day"
    seconds = value if isinstance(value, int) and not isinstance(value, bool) else parse_duration(value, where)
    if not 0 <= seconds <= 86400:
        raise bad(where, "must lie within a day", value, allowed, "write a number of seconds, such as 60")
    return seconds


def _check_timezone(value: Any, where: str) -> str:
    name = check_text(value, where)
    if name != "UTC":  # known everywhere, even where no time zone data are installed
        import zoneinfo  # a policy with a zone of its own is rare, and this import is not cheap

        try:
            zoneinfo.ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            known = zoneinfo.available_timezones()
            near = closest(name, known)
            hint = "did you mean '%s'" % near if near else "write a name such as Europe/Berlin" if known else "install tzdata, or write UTC"
            raise bad(where, "must be a known time zone", value, "UTC, or a name of the IANA time zone database", hint) from None
    return name


def _check_transfer(value: Any, where: str) -> Transfer:
    values = read(Transfer, value, where)
    compress = values.get("compress", Transfer.compress)
    low, high, default = COMPRESS_LEVELS[compress]
    level = values.setdefault("compress_level", default)
    if not low <= level <= high:
        name = dotted(where, "compress_level")
        if low == high:
            raise bad(name, "must be 0", level, "0: %s has no levels" % compress, "leave compress_level out")
        raise bad(name, "must be a level of " + compress, level, "%d to %d for %s" % (low, high, compress), "write %d, the default of %s" % (default, compress))
    return Transfer(**values)


def _check_hook(value: Any, where: str) -> Hook:
    if isinstance(value, Mapping):
        return Hook(**read(Hook, value, where))
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise bad(
            where,
            "must be a command",
            value,
            "a list of arguments, or {command: [...], timeout: duration, essential: bool}",
            "write ['/path/of/program', 'argument']: no shell splits it",
        )
    return Hook(command=check_argv(value, where))


def _check_mail(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _MAIL.fullmatch(value):
        raise bad(where, "must be an address", value, "name@host, or the name of a local user", "write an address such as root@example.org")
    return value


def _duration(default: int) -> Any:
    return key(parse_duration, default, format_duration)


# ---- the values ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guards:
    """What a run must find before it may publish; percentages are whole numbers."""

    require: Tuple[str, ...] = key(paths(), ())
    min_files: int = key(number(0), 1)
    max_delete_percent: int = key(number(0, 100), 30)
    max_deselect_percent: int = key(number(0, 100), 50)


@dataclass(frozen=True)
class Anomaly:
    """From how many percent on a change is one that nobody makes by everyday work; 0 for never."""

    removed_percent: int = key(number(0, 100), 50)
    changed_percent: int = key(number(0, 100), 50)
    growth_percent: int = key(number(0), 0)
    encrypted_percent: int = key(number(0, 100), 50)


@dataclass(frozen=True)
class Hook:
    """A command of its own, without a shell; ``timeout`` in seconds."""

    command: Tuple[str, ...] = field(metadata=required(check_argv))
    timeout: int = key(check_timeout, 300, format_duration)
    essential: bool = key(check_flag, True)


@dataclass(frozen=True)
class Hooks:
    """Commands around a run."""

    before: Tuple[Hook, ...] = key(each(_check_hook, "commands"), ())
    after: Tuple[Hook, ...] = key(each(_check_hook, "commands"), ())
    on_failure: Tuple[Hook, ...] = key(each(_check_hook, "commands"), ())


@dataclass(frozen=True)
class Transfer:
    """How rsync carries content; ``timeout`` in seconds."""

    bwlimit: str = key(_check_rate, "")
    compress: str = key(choice(*COMPRESS_LEVELS), "zstd")
    compress_level: int = key(number(-131072), 3)
    # "none" is not offered: it makes rsync skip the verification of what it carried.
    checksum: str = key(choice("xxh128", "xxh3", "xxh64", "md5", "sha1", "auto"), "xxh128")
    block_size: str = key(_check_block_size, "auto")
    streams: int = key(number(1, 16), 2)
    # Never 0, rsync's "for ever": a link that died silently would hold the lock until somebody looks.
    timeout: int = key(number(1, 86400), 300)
    sockopts: str = key(_check_socket_options, "")


@dataclass(frozen=True)
class Schedule:
    """When runs start; ``splay`` in seconds."""

    cron: str = key(check_cron, "*/5 * * * *")
    splay: int = key(_check_splay, 60)
    watch: bool = key(check_flag, False)
    window: str = key(check_window, "")


@dataclass(frozen=True)
class Retention:
    """How long snapshots stay; durations in seconds. No rule is set by default."""

    keep_last: int = key(number(0), 0)
    keep_within: int = _duration(0)
    keep_hourly: int = key(number(0), 0)
    keep_daily: int = key(number(0), 0)
    keep_weekly: int = key(number(0), 0)
    keep_monthly: int = key(number(0), 0)
    keep_yearly: int = key(number(0), 0)
    keep_tags: Tuple[str, ...] = key(each(check_tag, "tags"), ())
    protect: int = _duration(86400)
    max_unused_percent: int = key(number(0, 100), 25)
    timezone: str = key(_check_timezone, "UTC")


@dataclass(frozen=True)
class Objectives:
    """What the backups must achieve; seconds, 0 for no objective."""

    rpo: int = _duration(900)
    rto: int = _duration(600)
    drill_every: int = _duration(7 * 86400)


@dataclass(frozen=True)
class Notify:
    """Who is told of trouble, by which ways; ``repeat`` in seconds."""

    events: Tuple[str, ...] = key(each(choice("failed", "stale", "anomaly", "recovered"), "events"), ("failed", "stale", "anomaly", "recovered"))
    command: Optional[Tuple[str, ...]] = key(optional(check_argv), None)
    mail: Tuple[str, ...] = key(each(_check_mail, "addresses"), ())
    webhook_file: Optional[str] = key(optional(check_path), None)
    ping_file: Optional[str] = key(optional(check_path), None)
    repeat: int = _duration(86400)


@dataclass(frozen=True)
class Policy:
    """A checked policy; paths are text with surrogate escapes, durations whole seconds.

    ``sources`` are empty where they are the profile's. ``given`` holds the dotted keys that the mapping held, ``found_profile`` the profile itself; they
    take no part in comparisons.
    """

    name: str = field(metadata=required(_check_name))
    host: str = field(metadata=required(_check_name))
    sources: Tuple[str, ...] = field(metadata=required(_check_sources))
    target: TargetSpec = field(metadata=required(check_target))
    copies: Tuple[TargetSpec, ...] = key(each(check_target, "targets"), ())
    profile: Optional[str] = key(optional(check_profile), None)
    include: Tuple[str, ...] = key(each(check_selected, "patterns"), ())
    exclude: Tuple[str, ...] = key(each(check_selected, "patterns"), ())
    exclude_caches: bool = key(check_flag, False)
    exclude_if_present: Tuple[str, ...] = key(each(check_marker, "file names"), ())
    one_file_system: bool = key(check_flag, False)
    sqlite: str = key(choice("auto", "off"), "auto")
    guards: Guards = key(section(Guards), Guards())
    anomaly: Anomaly = key(section(Anomaly), Anomaly())
    hooks: Hooks = key(section(Hooks), Hooks())
    transfer: Transfer = key(_check_transfer, Transfer())
    schedule: Schedule = key(section(Schedule), Schedule())
    retention: Retention = key(section(Retention), Retention())
    objectives: Objectives = key(section(Objectives), Objectives())
    probes: Tuple[Probe, ...] = key(each(check_probe, "probes"), ())
    notify: Notify = key(section(Notify), Notify())
    heartbeat: int = _duration(3600)
    given: FrozenSet[str] = field(default=frozenset(), compare=False, repr=False)
    found_profile: Optional[Profile] = field(default=None, compare=False, repr=False)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], *, default_host: str, find: Callable[[str], Profile] = find_profile) -> Policy:
        """The policy of a mapping with the keys of docs/policy.md; ``host`` is ``default_host`` where the mapping has none, ``find`` knows profiles by name.

        Raises PolicyError for the first key that is unknown, missing or not exactly right.
        """
        filled = {"host": default_host, **data} if isinstance(data, Mapping) else data
        name = data.get("profile") if isinstance(data, Mapping) else None
        profile = None if name is None else find(check_profile(name, "profile"))
        is_bare = profile is not None and "sources" not in filled
        has_none = is_bare and profile is not None and bool(profile.sources)
        if is_bare and not has_none:
            raise _no_sources(name)
        values = read(cls, {**filled, "sources": ["/"]} if has_none else filled)
        if has_none:
            values["sources"] = ()
        _check_anchors(values)
        return cls(**values, given=frozenset(_leaves(data)), found_profile=profile)

    @classmethod
    def from_file(cls, path: str, *, default_host: str) -> Policy:
        """The policy of a JSON file. Raises PolicyError as ``from_mapping`` does, or because the file is missing, unreadable or not JSON."""
        try:
            with open(path, "rb") as stream:
                content = stream.read()
        except FileNotFoundError:
            raise PolicyError(
                "there is no policy file %s" % printable(path), field="policy", found=path, allowed="a JSON file", next="check the name"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: NUL in the name
            reason = getattr(error, "strerror", None) or str(error)
            raise PolicyError(
                "the policy file %s cannot be read: %s" % (printable(path), reason),
                field="policy",
                found=reason,
                allowed="a readable JSON file",
                next="check its type, owner and mode",
            ) from None
        try:
            return cls.from_mapping(parse_json(content, "policy"), default_host=default_host)
        except PolicyError as error:
            error.message = "%s: %s" % (printable(path), error.message)
            raise

    @classmethod
    def for_history(cls, *, target: Any, host: str, name: str) -> Policy:
        """The policy of a history that is only looked at or restored from: it has no sources. Raises PolicyError."""
        return cls(name=_check_name(name, "name"), host=_check_name(host, "host"), sources=(), target=check_target(target, "target"))

    @classmethod
    def for_scan(cls, **keys: Any) -> Policy:
        """The policy of a scan that is sent nowhere: ``keys`` are ``sources`` and those of the selection. Raises PolicyError."""
        return cls.from_mapping({"name": "scan", "target": "/", **keys}, default_host="localhost")

    def of_host(self, host: str) -> Policy:
        """The same policy with the history of another host. Raises PolicyError."""
        return replace(self, host=_check_name(host, "host"))

    def to_mapping(self) -> Dict[str, Any]:
        """Plain data for JSON with every key filled in; ``from_mapping`` makes an equal policy of it."""
        return {name: value for name, value in write(self).items() if value or name != "sources"}

    @property
    def selection(self) -> Selection:
        """Which paths below the sources belong to a snapshot; the profile's part of it included."""
        own = Selection(
            include=self.include,
            exclude=self.exclude,
            exclude_caches=self.exclude_caches,
            exclude_if_present=self.exclude_if_present,
            one_file_system=self.one_file_system,
        )
        return own if self.found_profile is None else self.found_profile.widen(own)

    @property
    def all_probes(self) -> Tuple[Probe, ...]:
        """What a drill looks for: the policy's own probes first, then those of its profile."""
        return self.probes + (() if self.found_profile is None else self.found_profile.probes)

    def without_effect(self) -> List[str]:
        """The keys that were set to ask for something which this kind of target has no use for."""
        idle: Tuple[str, ...] = NEVER
        if self.target.layout != "tree":
            idle += REMOTE_ONLY + RSYNC_ONLY + PLAIN_ONLY
        elif self.target.scheme != "ssh":
            idle += REMOTE_ONLY if self.transfer.bwlimit else REMOTE_ONLY + RSYNC_ONLY
        return [name for name in self._asked_for() if name in idle]

    def _asked_for(self) -> List[str]:
        """The keys that were set to another value than what happens without them."""
        # Databases are copied like other files, so "off" is what happens; "auto" is the default, and a promise once it is written.
        level = COMPRESS_LEVELS[self.transfer.compress][2]
        idle = {**_leaves(_DEFAULTS.to_mapping()), "sqlite": "off", "transfer.compress_level": level}
        return [name for name, value in _leaves(self.to_mapping()).items() if name in self.given and value != idle[name]]


def _no_sources(profile: Any) -> PolicyError:
    return PolicyError(
        "sources is missing, and the profile %s has none of its own" % printable(profile),
        field="sources",
        found="nothing",
        allowed="a list of absolute paths",
        next="say in `sources` what it is to protect",
    )


_DEFAULTS = Policy(name="default", host="default", sources=("/",), target=TargetSpec(url="/", scheme="file", path="/"))


def _leaves(data: Mapping[str, Any]) -> Dict[str, Any]:
    """The keys of a policy's mapping, sections opened: ``guards.min_files``; the target stays one value."""
    leaves: Dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and name != "target":
            leaves.update((dotted(name, inner), item) for inner, item in value.items())
        else:
            leaves[name] = value
    return leaves
