# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The selection selects what rsync would transfer: every tree here is also shown to the real rsync."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from typing import Iterable, Iterator, List, Sequence, Set, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.selection import Matcher, Selection, check_pattern
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is the oracle")


def make_tree(root: bytes, paths: Iterable[bytes]) -> None:
    """``a/`` is a directory, ``a@`` a link to a directory, all else a file; what is in the way of an earlier path is left out."""
    os.makedirs(root, exist_ok=True)
    for path in paths:
        full = os.path.join(os.path.realpath(root), path.rstrip(b"/@"))
        if os.path.realpath(os.path.dirname(full)) != os.path.dirname(full):
            continue  # through one of those links, and so out of the tree
        try:
            os.makedirs(full if path.endswith(b"/") else os.path.dirname(full), exist_ok=True)
            if path.endswith(b"@"):
                os.symlink(b"/", full)
            elif not path.endswith(b"/"):
                os.close(os.open(full, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except (FileExistsError, NotADirectoryError):
            pass


def left_by_rsync(*questions: Tuple[bytes, Sequence[bytes]]) -> List[Set[bytes]]:
    """The paths that rsync would transfer from each tree under these excludes; asked at once, since rsync sleeps more than it works."""
    argv = [b"rsync", b"-rln", b"--out-format=%n", b"-8"]
    asked = [
        subprocess.Popen(
            [*argv, *(b"--exclude=" + pattern for pattern in exclude), b"--", root + b"/", root + b".nowhere"],
            stdout=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
        for root, exclude in questions
    ]
    answers = []
    for process in asked:
        lines = process.communicate()[0].split(b"\n")
        assert process.returncode == 0
        names = (re.sub(rb"\\#(\d{3})", lambda octal: bytes([int(octal[1], 8)]), line) for line in lines)
        answers.append({name.rstrip(b"/") for name in names} - {b"", b"."})
    return answers


def kept(root: bytes, matcher: Matcher, below: bytes = b"", is_included: bool = False) -> Iterator[bytes]:
    """The rule, as the walk of a source applies it."""
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            path, is_dir = below + entry.name, entry.is_dir(follow_symlinks=False)
            if matcher.excluded(path, is_dir):
                continue
            wanted = is_included or not matcher.has_include or matcher.included(path, is_dir)
            if wanted:
                yield path
            if is_dir:
                yield from kept(root, matcher, path + b"/", wanted)


# pattern, paths it matches, paths it does not match; a directory ends in "/", a link to a directory in "@".
RULES: List[Tuple[str, str, str]] = [
    # the last component, at any depth
    ("foo", "foo foo/ x/foo x/y/foo/", "xfoo foox foo/x x/foo/bar Foo"),
    ("*.o", ".o a.o x/a.o x/a.o/", "a.oo ao a.o/x"),
    ("*", "a a/ a/b .c", ""),
    ("f?o", "foo x/fzo", "fo fooo f/o"),
    ("*a*b*", "ab xaxbx q/aabb/", "ba a/b aa"),
    ("a*b*c", "abc axbxc abbcc x/abcbc", "ab abcd a/bc"),
    # "/" at the end: directories only, and a link is none
    ("foo/", "foo/ x/foo/", "foo foo@ x/foo foo/x"),
    ("*/", "a/ a/b/", "a a/b b@"),
    ("/foo/", "foo/", "x/foo/ foo"),
    # "/" at the start: the source
    ("/foo", "foo foo/", "x/foo foo/foo"),
    ("/foo/bar", "foo/bar", "x/foo/bar foo foo/x/bar"),
    ("/*", "a a/", "a/b"),
    ("/*/x", "a/x b/x/", "x a/b/x"),
    # "/" inside: the tail of the path, on a boundary
    ("foo/bar", "foo/bar x/foo/bar x/y/foo/bar/", "bar xfoo/bar foo/bar/x foo/x/bar"),
    ("foo/*", "foo/a x/foo/a", "foo foo/ foo/a/b"),
    ("foo/*/bar", "foo/x/bar y/foo/x/bar", "foo/bar foo/x/y/bar"),
    ("*/foo", "a/foo b/a/foo", "foo"),
    ("f?o/b[a-c]r/", "foo/bar/ x/fxo/bbr/", "foo/bar foo/bdr/ f/o/bar/"),
    # "**": slashes too, and the whole path
    ("**", "a a/ a/b/c", ""),
    ("foo**", "foo foox foo/x x/foo/y x/foo", "xfoo afoo/x"),
    ("**foo", "foo xfoo a/xfoo", "foox foo/x"),
    ("/foo**bar", "foobar foo/bar foo/x/y/xbar", "x/foobar"),
    ("foo**bar", "foobar foo/bar x/foo/y/bar", "xfoobar foo/bar/x"),
    ("**/foo", "foo foo/ a/foo a/b/foo", "xfoo a/xfoo foo/x"),
    ("/**/foo", "a/foo a/b/foo", "foo xfoo"),
    ("**/foo/bar", "foo/bar a/foo/bar", "bar xfoo/bar"),
    ("**/", "a/ a/b/", "a a/b"),
    ("foo/**", "foo/a foo/a/b x/foo/a/", "foo foo/ x/foo"),
    ("/foo/**", "foo/a foo/a/b/", "foo/ x/foo/a"),
    ("/foo/**/bar", "foo/x/bar foo/x/y/bar", "foo/bar x/foo/y/bar"),
    ("a/**/b/**/c", "a/1/b/2/c x/a/1/2/b/3/b/4/c", "a/b/c a/1/b/c a/1/b/2/c/d"),
    ("/x**a*b**b", "xabb xabab x/ab/b xa/ab/bb", "xab xb x/a/bb"),
    ("**a*b", "ab x/ab a/ab x/a/y/acb", "a/b x/a/b/y"),
    # "/***" at the end: the directory too
    ("foo/***", "foo/ foo/a foo/a/b x/foo/ x/foo/a", "foo foo@ xfoo/ xfoo/a"),
    ("/foo/***", "foo/ foo/a", "foo x/foo/ x/foo/a"),
    ("/foo/***/", "foo/ foo/a/", "foo foo/a"),
    ("*.d/***", "a.d/ a.d/b x/.d/ x/.d/y/z", "a.d a.dd/x"),
    ("**/foo/***", "foo/ foo/a x/foo/ x/foo/a", "foo xfoo/a"),
    ("a/*/***", "a/b/ a/b/c a/b/c/d x/a/b/", "a/ a/b"),
    ("foo***", "foo foo/ foox foo/a/b", "xfoo"),
    ("/***", "a a/ a/b", ""),
    ("**/***", "a a/ a/b", ""),
    # classes
    ("[a-c]x", "ax bx cx", "dx -x x"),
    ("[ac-]x", "ax cx -x", "bx"),
    ("[a-c-e]x", "bx -x ex", "dx"),
    ("[!a-c]x", "dx !x", "ax bx /x y/ax"),
    ("[^a]x", "bx ^x", "ax"),
    ("[a^!]x", "ax ^x !x", "bx"),
    ("[]a]x", "]x ax", "bx []a]x"),
    ("[!]a]x", "bx", "]x ax"),
    ("[\\]a]x", "]x ax", "\\x bx"),
    ("[a-\\d]x", "ax bx dx", "\\x ex"),
    ("[c-a]x", "cx", "ax bx"),
    ("[*]", "*", "a ab"),
    ("a[*?]c", "a*c a?c", "abc"),
    ("[[:digit:][:upper:]_]x", "1x Zx _x", "ax :x [x"),
    ("[^[:alnum:]]x", "-x _x \xe9x", "ax 1x"),
    ("[[:alpha]x", "[x :x ax px", "bx ]x"),
    ("[[:]x", "[x :x", "ax"),
    ("[a-[:alpha:]]x", "a]x l]x :]x", "ax z]x ]x"),
    ("/a[/b]c", "abc", "a/c x/abc"),
    ("/foo/[^/]*", "foo/a foo/bc", "foo/ foo/a/b x/foo/a"),
    ("**[/b]c", "bc abc x/bc", "c a/c"),
    # a backslash escapes in a pattern with a wildcard, and is a backslash in one without
    ("foo\\bar", "foo\\bar x/foo\\bar", "foobar"),
    ("foo\\", "foo\\ foo\\/", "foo"),
    ("foo\\bar*", "foobar foobarx", "foo\\bar foo\\barx"),
    ("foo\\\\bar*", "foo\\bar foo\\barx", "foobar"),
    ("foo\\*", "foo*", "foox foo\\* foo\\x"),
    ("\\[a]", "[a]", "a [a\\]"),
    ("a?\\/b", "ax/b x/ay/b", "ax\\/b a/b"),
    ("\\**", "* *a x/*a", "a *a/b"),
    ("foo/\\***", "foo/* foo/*a/b", "foo foo/ foo/a"),
    # dots, signs and case are nothing special
    (".*", ".a x/.a", "a"),
    ("!foo", "!foo", "foo"),
    ("-x", "-x y/-x", "x"),
    ("...", "... x/...", ""),
    ("**/!", "! x/!", "a"),
    ("foo#", "foo#", "foo"),
]


@needs_rsync
@pytest.mark.parametrize(("pattern", "matching", "other"), RULES, ids=[rule[0] for rule in RULES])
def test_pattern_matches_what_rsync_matches(pattern: str, matching: str, other: str, tmp_path: pathlib.Path) -> None:
    as_exclude, as_include = Selection(exclude=(pattern,)).matcher(), Selection(include=(pattern,)).matcher()
    for paths, expected in ((matching, True), (other, False)):
        for path in paths.encode("latin-1").split():
            found = as_exclude.excluded(path.rstrip(b"/@"), path.endswith(b"/"))
            assert found is expected, path
            assert as_include.included(path.rstrip(b"/@"), path.endswith(b"/")) is expected
            assert not as_include.excluded(path.rstrip(b"/@"), path.endswith(b"/"))
    roots = [os.fsencode(tmp_path / name) for name in ("matching", "other")]
    for root, paths in zip(roots, (matching, other), strict=True):
        make_tree(root, paths.encode("latin-1").split())
    assert [set(kept(root, as_exclude)) for root in roots] == left_by_rsync(*((root, [pattern.encode()]) for root in roots))


def test_names_are_bytes() -> None:
    matcher = Selection(exclude=("caf\xe9?", "\udcff", "a\nb*", "x**y", "[\udcf0-\udcff]x")).matcher()
    for name in (b"\xff", b"caf\xc3\xa9\xff", b"a\nb\n", b"\xf5x", b"x\n/\ny"):
        assert matcher.excluded(name, False), name
    for name in (b"\xfe", b"caf\xc3\xa9", b"caf\xc3\xa9\xc3\xa9", b"\xe9x", b"\xff\n"):
        assert not matcher.excluded(name, False), name


def test_many_patterns_of_every_shape_work_together() -> None:
    matcher = Selection(exclude=("node_modules", "*.log", "a?", "/top", "/t*p/x", "tail/one", "b/**/c", "only/", "*1*2*3*4*")).matcher()
    files = b"node_modules x/node_modules x.log ab x/ac top txp/x x/tail/one b/y/c z/b/y/c q1w2e3r4".split()
    assert [path for path in files if not matcher.excluded(path, False)] == []
    assert [path for path in b"x node_modules2 log x/top tail b/c only q4w3e2r1 tail/one/x".split() if matcher.excluded(path, False)] == []
    assert matcher.excluded(b"x/only", True)


def test_selection_without_patterns_needs_no_questions() -> None:
    assert Selection(exclude_caches=True).matcher().trivial
    assert not Selection(exclude=("a",)).matcher().trivial
    assert not Selection(include=("a",)).matcher().trivial
    assert Selection(include=("a",)).matcher().has_include
    assert not Selection(exclude=("a",)).matcher().has_include
    assert not Selection(exclude=("a",)).matcher().included(b"a", False)


def test_plain_names_paths_and_suffixes_need_no_regular_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(re, "compile", None)
    matcher = Selection(include=("/a/b",), exclude=("node_modules", ".git/", "*.log", "**/tmp", "*")).matcher()
    assert matcher.excluded(b"x/y.log", False)
    assert matcher.included(b"a/b", False)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a*a*a*a*a*a*a*a*b", b"a" * 255),
        ("/**a**a**a**a**a**a**b", b"a" * 4000),
        ("**/a/**/a/**/a/**/a/**/b", b"a/" * 2000 + b"a"),
        ("a*a*a*a*a/**/b*b*b/***", b"a" * 200 + b"/x/" + b"b" * 200),
        ("*[ab]?*[ab]?*[ab]?*[ab]?*c", b"ab" * 127),
    ],
)
def test_hostile_name_does_not_stall_the_walk(pattern: str, path: bytes) -> None:
    # Without atomic groups each of these runs for hours.
    assert not Selection(exclude=(pattern,)).matcher().excluded(path, False)


BAD = {
    "": "empty",
    "a\0b": "NUL",
    "- a": "as a rule",
    "+ a": "as a rule",
    "!": "as a rule",
    "a" * 4097: "too long",
    "/": "component",
    "//": "component",
    "//a": "component",
    "a//": "component",
    "a//b": "component",
    ".": "component",
    "..": "component",
    "./a": "component",
    "a/../b": "component",
    "/a/./b": "component",
    "/a/..": "component",
    "*/./b": "component",
    "\\../*": "component",
    "a[b": "without its ]",
    "[": "without its ]",
    "[]": "without its ]",
    "[!]": "without its ]",
    "[a\\]": "without its ]",
    "[a-": "without its ]",
    "[a-\\": "without its ]",
    "[[:alpha:": "without its ]",
    "[[:alpha:]": "without its ]",
    "[[:word:]]": "unknown class",
    "[[::]]": "unknown class",
    "/[/]a": "no byte",
    "[^\x01-\udcff]": "no byte",
    "a[/b]c": "never match",
    "foo/[^/]*": "never match",
    "a*\\": "backslash",
    "a*\\/": "backslash",
    "*\\\\\\": "backslash",
    "\ud800": "no bytes decode to",
}


@pytest.mark.parametrize(("pattern", "why"), BAD.items(), ids=[ascii(pattern[:20]) for pattern in BAD])
def test_pattern_that_would_not_do_what_it_says_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(why)) as refused:
        check_pattern(pattern, "exclude[3]")
    assert (refused.value.field, refused.value.found) == ("exclude[3]", pattern)
    assert refused.value.allowed
    assert json.dumps(refused.value.to_dict()).isascii()
    with pytest.raises(PolicyError) as refused:
        Selection.from_dict({"include": ["a", pattern]})
    assert refused.value.field == "include[1]"
    with pytest.raises(PolicyError):
        Selection(exclude=(pattern,)).matcher()


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (None, "selection"),
        ([], "selection"),
        ("a", "selection"),
        ({"excludes": []}, "excludes"),
        ({7: []}, "7"),
        ({"exclude": "*.o"}, "exclude"),
        ({"exclude": {"a": 1}}, "exclude"),
        ({"exclude": None}, "exclude"),
        ({"exclude": [b"a"]}, "exclude[0]"),
        ({"include": ["a", 5]}, "include[1]"),
        ({"include": [["a"]]}, "include[0]"),
        ({"exclude_caches": 1}, "exclude_caches"),
        ({"exclude_caches": "yes"}, "exclude_caches"),
        ({"one_file_system": None}, "one_file_system"),
        ({"exclude_if_present": ".nobackup"}, "exclude_if_present"),
        ({"exclude_if_present": ["a", 1]}, "exclude_if_present[1]"),
        *(({"exclude_if_present": [name]}, "exclude_if_present[0]") for name in ("", ".", "..", "a/b", "/a", "a\0", "\ud800")),
    ],
)
def test_selection_of_a_forged_header_is_refused(data: object, field: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Selection.from_dict(data)
    assert refused.value.field == field
    assert refused.value.rc == 2


def test_selection_survives_the_manifest_header() -> None:
    selection = Selection(("a", "\udcff*"), ("*.log",), True, (".nobackup", "a b"), True)
    assert Selection.from_dict(json.loads(json.dumps(selection.to_dict()))) == selection
    assert Selection.from_dict({}) == Selection()
    assert Selection().to_dict() == {"include": [], "exclude": [], "exclude_caches": False, "exclude_if_present": [], "one_file_system": False}
    with pytest.raises(dataclasses.FrozenInstanceError):
        selection.exclude_caches = False  # type: ignore[misc]


PIECES = [b"a", b"b", b"a", b"b", b"ab", b"*", b"[", b"]", b"\\", b"?", b" ", b"-", b"\n", b"\xff", b"\xc3\xa9", b".", b"!", b"#", b"_", b"@"]
WILD = [b"*", b"**", b"***", b"?", b"\\*", b"\\a", b"\\["]
WILD += [b"[ab]", b"[!a]", b"[^-b]", b"[a-\\b]", b"[]*]", b"[[:alpha:]]", b"[![:punct:]]", b"[[:alpha]", b"[\x80-\xff]", b"[/a]"]
components = st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map(b"".join).filter(lambda name: name not in (b".", b".."))
leaves = st.tuples(st.lists(components, min_size=1, max_size=4).map(b"/".join), st.sampled_from([b"", b"/", b"@"])).map(b"".join)


@st.composite
def patterns(draw: st.DrawFn, paths: List[bytes]) -> bytes:
    """Random ones, and paths of the tree in which some bytes or components were made wild."""
    if draw(st.integers(0, 3)) == 0:
        return b"".join(draw(st.lists(st.sampled_from([*PIECES, *WILD, b"/", b"/"]), min_size=1, max_size=6)))
    parts = draw(st.sampled_from(paths)).rstrip(b"/@").split(b"/")
    first = draw(st.integers(0, len(parts) - 1))
    parts = parts[first : draw(st.integers(first + 1, len(parts)))]
    for i, part in enumerate(parts):
        how = draw(st.integers(0, 4))
        if how == 0:
            parts[i] = draw(st.sampled_from(WILD))
        elif how == 1:
            parts[i] = re.sub(rb"([*?[\\])", rb"\\\1", part)
        elif how == 2:
            cut = draw(st.integers(0, len(part)))
            parts[i] = part[:cut] + draw(st.sampled_from(WILD)) + part[cut + draw(st.integers(0, 1)) :]
    return draw(st.sampled_from([b"", b"", b"/", b"**/", b"**"])) + b"/".join(parts) + draw(st.sampled_from([b"", b"", b"/", b"/*", b"/**", b"/***"]))


@st.composite
def cases(draw: st.DrawFn) -> Tuple[List[bytes], List[bytes], List[bytes]]:
    paths = draw(st.lists(leaves, min_size=3, max_size=12, unique=True))
    # "- a" would be a rule to --exclude, which is why the selection refuses it; everything else is shown to both.
    pattern = patterns(paths).filter(lambda found: not found.startswith((b"- ", b"+ ")) and found != b"!")
    return paths, draw(st.lists(pattern, max_size=2)), draw(st.lists(pattern, min_size=1, max_size=3))


def readable(patterns: Sequence[bytes]) -> Tuple[str, ...]:
    """Without the refused ones, which rsync must then find to match nothing."""
    accepted = []
    for pattern in patterns:
        text = pattern.decode("utf-8", "surrogateescape")
        try:
            check_pattern(text, "exclude")
        except PolicyError:
            continue
        accepted.append(text)
    return tuple(accepted)


@needs_rsync
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.lists(cases(), min_size=1, max_size=8))
def test_selection_keeps_what_rsync_keeps(several: List[Tuple[List[bytes], List[bytes], List[bytes]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        questions = []
        for number, (paths, include, exclude) in enumerate(several):
            root = os.fsencode(folder) + b"/%d" % number
            make_tree(root, paths)
            questions += [(root, exclude), (root, include)]
        answers = left_by_rsync(*questions)
        for (root, exclude), (_, include), wanted, not_included in zip(questions[::2], questions[1::2], answers[::2], answers[1::2], strict=True):
            # An exclude takes away a path and all below it, so what includes keep is what the same patterns take away as excludes.
            expected = wanted - not_included if readable(include) else wanted
            assert set(kept(root, Selection(readable(include), readable(exclude)).matcher())) == expected
