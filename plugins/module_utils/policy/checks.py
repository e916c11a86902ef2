# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a policy is read: checks of single values, and mappings whose keys are the fields of a dataclass.

A check takes ``(value, field)``, returns the value as the policy keeps it, and raises PolicyError otherwise. Nothing is
converted that a reader could misread: booleans are not numbers, numbers in quotes are not numbers.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from dataclasses import field as dataclass_field
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from ..errors import PolicyError, printable
from ..manifest.selection import check_pattern

Check = Callable[[Any, str], Any]

ALIKE = 0.75
SHOWN = 200  # characters of a value that an error repeats
MOST = 10**12  # for a number without a limit of its own: more is a typing mistake
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAG = re.compile("[A-Za-z0-9._-]{1,64}")
LONGEST_PATH = 4095  # bytes; rsync and the kernel refuse longer ones
MANUAL = "see docs/policy.md"

_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # all but the 128 that stand for bytes which are not UTF-8


# ---- errors -------------------------------------------------------------------------------------------------------


def bad(field: str, complaint: str, value: Any, allowed: str, next: str) -> PolicyError:  # noqa: A002 - the name is part of the public result
    """The error that ``field`` deserves; ``found`` is the value, or its type if it is not a single value."""
    single = isinstance(value, (bool, int, float)) and is_showable(value)
    found = value if single else _cut(value) if isinstance(value, str) else told(value)
    return PolicyError("%s %s, found %s" % (printable(field), complaint, told(value)), field=field, found=found, allowed=allowed, next=next)


def is_showable(number: float) -> bool:
    """Is the number fit for a message and for JSON? Python refuses to print thousands of digits, JSON knows no NaN."""
    return -1e18 < number < 1e18


def told(value: Any) -> str:
    """A value in a reader's words: ``the text '60'``, ``the number 60``, ``true``, ``a list``, ``a mapping``, ``null``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "the text '%s'" % printable(_cut(value))
    if isinstance(value, (int, float)):
        return "the number %s" % value if is_showable(value) else "a number beyond all bounds"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a value of type %s" % type(value).__name__


def closest(word: str, known: Iterable[str], alike: float = ALIKE) -> Optional[str]:
    """The known word that ``word`` is a misspelling of, or None: what is only a little like it may do something else. ``alike``: from 0 to 1, all of it."""
    import difflib  # only errors need it

    names = list(known)
    matches = difflib.get_close_matches(word, names, 1, alike) or difflib.get_close_matches(word.lower(), names, 1, alike)
    return matches[0] if matches else None


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


# ---- single values ------------------------------------------------------------------------------------------------


def check_text(value: Any, field: str) -> str:
    """Text that can be a file name or an argument: no NUL, nothing that cannot be turned back into bytes."""
    if not isinstance(value, str):
        raise bad(field, "must be text", value, "text", "put it in quotes" if isinstance(value, (int, float)) else MANUAL)
    if "\0" in value or _SURROGATE.search(value):
        raise bad(field, "holds a character that no name can hold", value, "text without NUL and without single surrogates", "remove that character")
    return value


def is_name(value: Any) -> bool:
    """Whether it names a host, a policy or a profile: it may become the name of a file."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and ".." not in value


def check_flag(value: Any, field: str) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise bad(field, "must be true or false", value, "true or false", "write true or false, without quotes")
    return value


def check_tag(value: Any, field: str) -> str:
    """The name of a tag."""
    name = check_text(value, field)
    if not _TAG.fullmatch(name):
        raise bad(field, "is not a tag", value, "1 to 64 letters, digits, '.', '_' and '-'", "choose a name such as before-upgrade")
    return name


def check_marker(value: Any, field: str) -> str:
    """The name of a file that marks a directory."""
    name = check_text(value, field)
    if name in ("", ".", "..") or "/" in name:
        raise bad(field, "must be a file name", value, "a name without '/'", "write the name of a file that marks a directory, such as .nobackup")
    return name


def check_selected(value: Any, field: str) -> str:
    """A pattern of a selection."""
    pattern = check_text(value, field)
    try:
        check_pattern(pattern, field)
    except PolicyError as error:
        error.message = "%s is %s" % (field, error.message)
        raise
    return pattern


def number(low: int, high: Optional[int] = None) -> Check:
    """A check for a whole number from ``low`` to ``high``, both included."""
    allowed = "a whole number from %d on" % low if high is None else "a whole number from %d to %d" % (low, high)

    def check(value: Any, field: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            quoted = isinstance(value, str) and re.fullmatch("-?[0-9]{1,9}", value)
            raise bad(
                field,
                "must be a whole number",
                value,
                allowed,
                "write %s without quotes" % value if quoted else "write a number, without quotes and without a unit",
            )
        if value < low:
            raise bad(field, "is too small", value, allowed, "write %d or more" % low)
        if value > (MOST if high is None else high):
            most = MOST if high is None else high
            raise bad(field, "is too large", value, "a whole number from %d to %d" % (low, most), "write %d or less" % most)
        return value

    return check


def choice(*names: str) -> Check:
    """A check for one of ``names``."""
    allowed = ", ".join(names)

    def check(value: Any, field: str) -> str:
        if isinstance(value, str) and value in names:
            return value
        hint = "write one of them"
        if isinstance(value, str):
            near = closest(value, names)
            hint = "did you mean '%s'" % near if near else hint
        elif value is False and "off" in names:
            hint = "put it in quotes: 'off' (YAML reads the bare word as false)"
        raise bad(field, "must be one of " + allowed, value, allowed, hint)

    return check


def optional(check: Check) -> Check:
    """``null`` for "not set", else what ``check`` allows."""
    return lambda value, field: None if value is None else check(value, field)


def check_path(value: Any, field: str) -> str:
    """An absolute path in its one spelling; bytes that are not UTF-8 are surrogate escapes."""
    allowed = "an absolute path without '.', '..', '//' and without a slash at its end"
    name = check_text(value, field)
    if not name.startswith("/"):
        home = "~ is not expanded: " if name.startswith("~") else ""
        raise bad(field, "must be an absolute path", value, allowed, home + "write the whole path, starting with '/'")
    parts = name.split("/")
    if ".." in parts:
        raise bad(field, "must not hold '..'", value, allowed, "write the path that is meant, without '..'")
    tidy = "/" + "/".join(part for part in parts if part not in ("", "."))
    if name != tidy:
        raise bad(field, "must be written in its shortest form", value, allowed, "write " + printable(_cut(tidy)))
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_PATH:
        raise bad(field, "is too long", value, "at most %d bytes" % LONGEST_PATH, "protect a directory above it")
    return name


def each(check: Check, what: str, least: int = 0) -> Check:
    """A check for a list of at least ``least`` items that ``check`` allows, kept as a tuple; ``what`` names the items."""
    allowed = "a list of %s" % what if least == 0 else "a list of at least %d: %s" % (least, what)

    def check_all(value: Any, field: str) -> Tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            hint = (
                "write it as a list, even for a single item: %s" % json.dumps([printable(_cut(value))])
                if isinstance(value, str) and value
                else "write it as a list"
            )
            raise bad(field, "must be a list", value, allowed, hint)
        if len(value) < least:
            raise PolicyError("%s must not be empty" % field, field=field, found="an empty list", allowed=allowed, next="add " + what)
        return tuple(check(item, "%s[%d]" % (field, index)) for index, item in enumerate(value))

    return check_all


def paths(least: int = 0) -> Check:
    """A check for a list of absolute paths, each once."""
    check_paths = each(check_path, "absolute paths", least)

    def check(value: Any, field: str) -> Tuple[str, ...]:
        names: Tuple[str, ...] = check_paths(value, field)
        for index, name in enumerate(names):
            if name in names[:index]:
                raise bad("%s[%d]" % (field, index), "is a duplicate of %s[%d]" % (field, names.index(name)), name, "every path once", "remove one of them")
        return names

    return check


def check_argv(value: Any, field: str) -> Tuple[str, ...]:
    """A command as the list of its arguments; nothing is given to a shell."""
    if isinstance(value, str):
        raise bad(
            field, "must be a list of arguments", value, "a list of text, the program first", "write ['/path/of/program', 'argument']: no shell splits it"
        )
    arguments: Tuple[str, ...] = each(check_text, "arguments, the program first", 1)(value, field)
    if not arguments[0]:
        raise bad(field + "[0]", "must name a program", arguments[0], "the name or path of a program", "write the program first")
    return arguments


# ---- mappings -----------------------------------------------------------------------------------------------------


def key(check: Check, default: Any, write: Optional[Callable[[Any], Any]] = None) -> Any:
    """A dataclass field that is a key of the policy; ``write`` turns its value back into plain data."""
    return dataclass_field(default=default, metadata={"check": check, "write": write or _plain})


def required(check: Check) -> Dict[str, Any]:
    """The metadata of a dataclass field that is a key of the policy and has no default."""
    return {"check": check, "write": _plain}


def section(cls: Callable[..., Any]) -> Check:
    """A check for a mapping that becomes an instance of the dataclass ``cls``."""

    def check(value: Any, field: str) -> Any:
        return cls(**read(cls, value, field))

    return check


def checks_of(cls: Any) -> Dict[str, Check]:
    """The keys of a dataclass, in order, with their checks; fields that are no keys are left out."""
    return {item.name: item.metadata["check"] for item in fields(cls) if "check" in item.metadata}


def dotted(where: str, name: str) -> str:
    return "%s.%s" % (where, name) if where else name


def read(cls: Any, value: Any, where: str = "") -> Dict[str, Any]:
    """The checked values of the keys that ``value`` holds; ``where`` is the field it stands in, empty for the policy itself.

    Raises PolicyError: not a mapping, an unknown key, a missing one, or what a check raises.
    """
    known = checks_of(cls)
    allowed = ", ".join(known)
    if not isinstance(value, Mapping):
        raise bad(where or "policy", "must be a mapping", value, "a mapping with the keys " + allowed, "write {key: value}, or leave it out for the defaults")
    for name in value:
        if name not in known:
            field = dotted(where, printable(_cut(str(name))))
            raise PolicyError("%s is not a key" % field, field=field, found=_cut(str(name)), allowed=allowed, next=_meant(cls, str(name), where))
    for item in fields(cls):
        if item.name in known and item.default is MISSING and item.name not in value:
            field = dotted(where, item.name)
            raise PolicyError("%s is missing" % field, field=field, found="nothing", allowed=allowed, next="add the key '%s'; %s" % (item.name, MANUAL))
    return {name: check(value[name], dotted(where, name)) for name, check in known.items() if name in value}


def write(value: Any) -> Dict[str, Any]:
    """The plain mapping that ``read`` makes ``value`` of, every key filled in."""
    return {item.name: item.metadata["write"](getattr(value, item.name)) for item in fields(value) if "check" in item.metadata}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        items: List[Any] = [_plain(item) for item in value]
        return items
    return write(value) if hasattr(value, "__dataclass_fields__") else value


def _meant(cls: Any, name: str, where: str) -> str:
    near = closest(name, checks_of(cls))
    if near is None:
        # A key may be right and stand one level too high: keep_daily, min_files, rpo.
        homes = [item.name for item in fields(cls) if hasattr(item.default, "__dataclass_fields__") and name in checks_of(item.default)]
        near = dotted(homes[0], name) if homes else None
    return "did you mean '%s'" % dotted(where, near) if near else "remove it; " + MANUAL


# ---- files --------------------------------------------------------------------------------------------------------


def parse_json(content: bytes, what: str) -> Any:
    """The value of the JSON text of ``what``, a policy or a profile. Raises PolicyError for what is not JSON, and for a key that an object holds twice."""
    allowed = "one JSON object"
    try:
        # Surrogate escapes: a path that is not UTF-8 may stand in the file as it is.
        return json.loads(content.decode("utf-8", "surrogateescape"), object_pairs_hook=_unique, parse_constant=partial(_no_constant, what))
    except json.JSONDecodeError as error:
        where = "line %d, column %d" % (error.lineno, error.colno)
        found = "%s at %s" % (error.msg, where)
        raise PolicyError("not JSON: " + found, field=what, found=found, allowed=allowed, next="correct %s; %s" % (where, MANUAL)) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise PolicyError("not a %s: %s" % (what, error), field=what, found=str(error), allowed=allowed, next=MANUAL) from None


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    values: Dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise PolicyError(
                "the key '%s' stands twice in one object" % printable(name), field=name, found="two values", allowed="every key once", next="remove one of them"
            )
        values[name] = value
    return values


def _no_constant(what: str, name: str) -> Any:
    raise PolicyError("%s is not JSON" % name, field=what, found=name, allowed="numbers without NaN and Infinity", next="write a number")
