# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which paths of a source are kept: rsync's patterns, anchored at the source, under a rule simpler than rsync's list.

A path is kept if no exclude matches it or a parent and, where ``include`` is given, an include matches it or a parent.
What one pattern matches is exactly what it matches in rsync (``FILTER RULES`` in rsync(1)) under ``LC_ALL=C``. Patterns
that rsync would read as something else, or accept although they can never match, are refused: an exclude that silently
does nothing is found out on the day of the restore.

Here one path is looked at alone; whoever walks the tree prunes what is excluded and remembers what a parent included.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import count
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Set, Tuple

from ..errors import PolicyError

# No path is longer (PATH_MAX), and reading a pattern takes time quadratic in its length.
_LONGEST = 4096

# A token of a pattern is one literal byte or one of the regular expressions below (or a class), all longer than a byte.
_STAR = b"[^/]*"
_STARS = b".*"
_ANY = b"[^/]"

_LOWER, _UPPER, _DIGIT, _GRAPH = bytes(range(97, 123)), bytes(range(65, 91)), bytes(range(48, 58)), bytes(range(33, 127))
_POSIX = {
    b"alnum": _LOWER + _UPPER + _DIGIT,
    b"alpha": _LOWER + _UPPER,
    b"blank": b" \t",
    b"cntrl": bytes(range(1, 32)) + b"\x7f",
    b"digit": _DIGIT,
    b"graph": _GRAPH,
    b"lower": _LOWER,
    b"print": b" " + _GRAPH,
    b"punct": bytes(set(_GRAPH) - set(_LOWER + _UPPER + _DIGIT)),
    b"space": b" \t\n\r\v\f",
    b"upper": _UPPER,
    b"xdigit": _DIGIT + b"abcdefABCDEF",
}


@dataclass(frozen=True)
class Selection:
    """What is kept of a source. Patterns and names are text with surrogate escapes; a manifest's header stores the value.

    ``exclude_caches`` and ``exclude_if_present`` empty a directory that holds a valid CACHEDIR.TAG, or a file of one of
    these names: the directory and the tag stay, all else in it is left out. Like ``one_file_system`` they need the file
    system, so the walk applies them and the matcher knows nothing of them.
    """

    include: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()
    exclude_caches: bool = False
    exclude_if_present: Tuple[str, ...] = ()
    one_file_system: bool = False

    def to_dict(self) -> Dict[str, Any]:
        """Every key, lists and booleans only: equal selections give equal JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: Any) -> Selection:
        """The selection that ``to_dict`` wrote or a person did: absent keys have their defaults, all else is checked.

        Raises ``PolicyError``, its ``field`` the key, with the index inside a list (``exclude[2]``).
        """
        if not isinstance(data, dict):
            raise PolicyError("a selection is a mapping", field="selection", found=type(data).__name__, allowed="a mapping")
        defaults = {field.name: field.default for field in fields(cls)}
        for key in data:
            if key not in defaults:
                raise PolicyError("unknown key in a selection", field=str(key), found=key, allowed=", ".join(defaults))
        checked: Dict[str, Any] = {}
        for key, value in data.items():
            if isinstance(defaults[key], bool):
                if not isinstance(value, bool):
                    raise PolicyError("%s is a boolean" % key, field=key, found=value, allowed="true or false")
                checked[key] = value
                continue
            if not isinstance(value, (list, tuple)):
                raise PolicyError("%s is a list" % key, field=key, found=value, allowed="a list of strings")
            for index, text in enumerate(value):
                (_check_name if key == "exclude_if_present" else check_pattern)(text, "%s[%d]" % (key, index))
            checked[key] = tuple(value)
        return cls(**checked)

    def matcher(self) -> Matcher:
        """The patterns, compiled. Raises ``PolicyError`` like ``check_pattern``."""
        return Matcher(
            [_parse(text, "include[%d]" % index) for index, text in enumerate(self.include)],
            [_parse(text, "exclude[%d]" % index) for index, text in enumerate(self.exclude)],
        )


def check_pattern(text: str, field: str) -> None:
    """Raise ``PolicyError`` naming ``field`` unless rsync reads ``text`` as one pattern that some path can match."""
    _parse(text, field)


def _check_name(text: str, field: str) -> None:
    if _encoded(text, field) in (b"", b".", b"..") or "/" in text or "\0" in text:
        raise PolicyError("not a file name", field=field, found=text, allowed="the name of a file, without '/'", next="name the tag file itself")


class Matcher:
    """Answers for one path at a time; paths are relative to the source, without a leading ``/``, and never empty.

    ``trivial``: nothing is excluded and nothing has to be included, so that there is no need to ask.
    ``has_include``: only what an include matches, or lies below such a directory, is kept.
    """

    __slots__ = ("_exclude", "_include", "has_include", "trivial")

    def __init__(self, include: Sequence[_Rule], exclude: Sequence[_Rule]) -> None:
        self.trivial = not include and not exclude
        self.has_include = bool(include)
        self._include = (_Rules(include, False), _Rules(include, True))
        self._exclude = (_Rules(exclude, False), _Rules(exclude, True))

    def excluded(self, path: bytes, is_dir: bool) -> bool:
        """Does an exclude match this very path? A symlink is never ``is_dir``."""
        return self._exclude[is_dir].match(path)

    def included(self, path: bytes, is_dir: bool) -> bool:
        """Does an include match this very path? A symlink is never ``is_dir``."""
        return self._include[is_dir].match(path)


class _Rule(NamedTuple):
    """One pattern, read.

    ``anchored``: must match from the source on, otherwise at any component. ``dirs``: matches directories only.
    ``subtree``: ends in ``/***``, whose last two tokens a directory may lack.
    """

    tokens: Tuple[bytes, ...]
    anchored: bool
    dirs: bool
    subtree: bool


class _Rules:
    """Patterns compiled for directories, or for everything else. A million files pass here, most of them through sets."""

    __slots__ = ("_match_name", "_match_path", "_names", "_paths", "_suffixes")

    def __init__(self, rules: Iterable[_Rule], is_dir: bool) -> None:
        names: Set[bytes] = set()
        paths: Set[bytes] = set()
        suffixes: List[bytes] = []
        by_name: List[bytes] = []
        by_path: List[bytes] = []
        by_tail: List[bytes] = []
        marks = count()
        for tokens, anchored, dirs, subtree in rules:
            if dirs and not is_dir:
                continue
            is_literal = all(len(token) == 1 for token in tokens)
            if not anchored and b"/" not in tokens and _STARS not in tokens:
                if is_literal:
                    names.add(b"".join(tokens))
                elif tokens[0] == _STAR and all(len(token) == 1 for token in tokens[1:]):
                    suffixes.append(b"".join(tokens[1:]))
                else:
                    by_name.append(_regex(tokens, marks))
            elif anchored and is_literal:
                paths.add(b"".join(tokens))
            else:
                regex = _regex(tokens[:-2], marks) + b"(?:/.*)?" if subtree and is_dir else _regex(tokens, marks)
                (by_path if anchored else by_tail).append(regex)
        if by_tail:
            by_path.append(b"(?:.*/)?(?:%s)" % b"|".join(by_tail))
        self._names = frozenset(names)
        self._paths = frozenset(paths)
        self._suffixes = tuple(suffixes)
        self._match_name = _compiled(by_name)
        self._match_path = _compiled(by_path)

    def match(self, path: bytes) -> bool:
        if path.endswith(self._suffixes) or path in self._paths:
            return True
        name = path[path.rfind(b"/") + 1 :]
        return (
            name in self._names
            or (self._match_name is not None and self._match_name(name) is not None)
            or (self._match_path is not None and self._match_path(path) is not None)
        )


def _compiled(regexes: Sequence[bytes]) -> Optional[Callable[[bytes], Any]]:
    """``fullmatch`` of the alternation, None for no alternatives."""
    if not regexes:
        return None
    import re  # most runs have no such pattern and should not pay for the import

    return re.compile(b"|".join(regexes), re.DOTALL).fullmatch


def _regex(tokens: Sequence[bytes], marks: Iterator[int], star: bytes = _STARS, is_end: bool = True) -> bytes:
    """The regular expression of ``tokens``, matched in polynomial time whatever the path is.

    Names belong to the users who are backed up, so ``*a*b*c*d`` must not try all ways to place a, b and c. What follows a star is
    taken where it is first found and never moved: the next star reaches every place from there that it reaches from a
    later one. Only the last star has the end to meet, and ``**`` retries when a ``*`` behind it stopped at a ``/``.
    Atomic groups would say so, but Python has them from 3.11 on; a lookahead is atomic everywhere. ``marks`` numbers them.
    """
    parts: List[List[bytes]] = [[]]
    for token in tokens:
        if token == star:
            parts.append([])
        else:
            parts[-1].append(token)
    last = len(parts) - 1
    regex = b""
    for index, part in enumerate(parts):
        if star == _STARS:
            body = _regex(part, marks, _STAR, is_end and index == last)
        else:
            body = b"".join(token if len(token) > 1 else b"\\x%02x" % ord(token) for token in part)
        if index == 0:
            regex = body
        elif index == last and is_end:
            regex += star + body
        else:
            mark = next(marks)
            regex += b"(?=(?P<m%d>%s?%s))(?P=m%d)" % (mark, star, body, mark)
    return regex


def _encoded(text: str, field: str) -> bytes:
    if not isinstance(text, str):
        raise PolicyError("not text", field=field, found=text, allowed="a string", next="quote it")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PolicyError("text that no bytes decode to", field=field, found=text, allowed="UTF-8 with surrogate escapes") from None


def _parse(text: str, field: str) -> _Rule:
    def refuse(why: str, allowed: str, hint: str) -> NoReturn:
        raise PolicyError("a pattern that %s" % why, field=field, found=text, allowed=allowed, next=hint)

    pattern = _encoded(text, field)
    if not pattern:
        refuse("is empty", "an rsync pattern", "remove it")
    if len(pattern) > _LONGEST:
        refuse("is too long", "up to %d bytes" % _LONGEST, "split it")
    if b"\0" in pattern:
        refuse("holds a NUL", "bytes that a path can hold", "remove the NUL")
    if pattern.startswith((b"+ ", b"- ")) or pattern == b"!":
        refuse("rsync reads as a rule", "a bare pattern", "drop the prefix, or put **/ before a name that begins so")
    dirs = len(pattern) > 1 and pattern.endswith(b"/")
    anchored = pattern.startswith(b"/")
    glob = pattern[anchored : len(pattern) - dirs]
    try:
        # Without a wildcard a backslash is a backslash.
        tokens = tuple(_tokens(glob) if {*b"*?["} & {*glob} else (glob[i : i + 1] for i in range(len(glob))))
    except ValueError as error:
        refuse(str(error), "* ** *** ? [a-z] [!a] [[:alpha:]], and a backslash before each that is meant literally", "escape it, or complete it")
    if not {b"", b".", b".."}.isdisjoint(b"".join(token if len(token) == 1 else b"?" for token in tokens).split(b"/")):
        refuse("has an empty, '.' or '..' component", "components separated by one '/'", "write the path relative to the source, without dots")
    if not anchored and b"**" not in glob and tokens.count(b"/") != glob.count(b"/"):
        # rsync counts every "/" to know how many components to compare, but lets no class match one.
        refuse("can never match, for the '/' inside its [...]", "classes without '/'", "remove the '/', no class matches it anyway")
    if not anchored and tokens[:2] == (_STARS, b"/"):
        # A leading "**/" stands for no component too, which makes it what an unanchored pattern means anyway.
        tokens = tokens[2:]
    return _Rule(tokens, anchored, dirs, glob.endswith(b"***") and tokens[-2:] == (b"/", _STARS))


def _tokens(glob: bytes) -> Iterator[bytes]:
    """The tokens of a pattern with wildcards. Raises ``ValueError`` for one that can match nothing."""
    i = 0
    while i < len(glob):
        char = glob[i : i + 1]
        i += 1
        if char == b"*":
            run = i
            while glob[i : i + 1] == b"*":
                i += 1
            yield _STAR if i == run else _STARS
        elif char == b"?":
            yield _ANY
        elif char == b"[":
            members, i = _class(glob, i)
            if not members:
                raise ValueError("has a [...] no byte can match")
            # One member is a literal: [*] is a way to write a star.
            yield bytes(members) if len(members) == 1 else b"[%s]" % b"".join(b"\\x%02x" % member for member in sorted(members))
        elif char == b"\\":
            if i == len(glob):
                raise ValueError("ends in a backslash that escapes nothing")
            yield glob[i : i + 1]
            i += 1
        else:
            yield char


def _class(glob: bytes, i: int) -> Tuple[Set[int], int]:
    """The bytes that the class opened before ``i`` matches, and the index behind its end."""
    members: Set[int] = set()
    negated = glob[i : i + 1] in (b"!", b"^")
    i += negated
    start = i
    low = 0  # the byte that a following "-" makes the lower end of a range
    try:
        while glob[i] != ord("]") or i == start:
            end = glob.find(b"]", i + 2)
            if glob[i] == ord("-") and low and glob[i + 1] != ord("]"):
                i += 2 if glob[i + 1] == ord("\\") else 1
                members.update(range(low, glob[i] + 1))
                low = 0
            elif glob.startswith(b"[:", i) and glob[i + 2 : max(end, 0)].endswith(b":"):
                name = glob[i + 2 : end - 1]
                if name not in _POSIX:
                    raise ValueError("names an unknown class of characters (known: %s)" % b" ".join(_POSIX).decode("ascii"))
                members.update(_POSIX[name])
                i = end
                low = 0
            else:
                i += glob[i] == ord("\\")
                low = glob[i]
                members.add(low)
            i += 1
    except IndexError:
        raise ValueError("opens a [ without its ]") from None
    if negated:
        members = set(range(1, 256)) - members
    members.discard(ord("/"))
    return members, i + 1


def selects(matcher: Matcher, sources: Sequence[bytes], path: bytes, is_dir: bool) -> bool:
    """Whether a walk of ``sources`` would come to ``path`` and keep it, going by names alone."""
    for source in sources:
        if not source or path == source or path.startswith(source + b"/"):
            break
    else:
        return False
    if matcher.trivial or path == source:
        return True
    parts = path[len(source) + 1 if source else 0 :].split(b"/")
    included = not matcher.has_include
    for length in range(1, len(parts) + 1):
        here = b"/".join(parts[:length])
        below = is_dir or length < len(parts)
        if matcher.excluded(here, below):
            return False
        included = included or matcher.included(here, below)
    return included
