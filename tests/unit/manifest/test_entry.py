# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One line of a manifest: exactly one line stands for an entry, and no other line is ever accepted."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import entry as entry_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry, decode, decode_trusted, encode
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
FILE = Entry(b"file", "f", 0o644, 1000, 1000, 1_700_000_000_000_000_000, 4, HASH)
DIRECTORY = Entry(b"dir", "d", 0o755, 0, 0, 0)

NAMES = st.one_of(
    st.text("abc.-_ ", min_size=1, max_size=8).map(str.encode),
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from([b"x" * 255, b"\xff", b"\xed\xb2\x80", b"...", b'"t":"d"', b"\\", b"\x7f", b"\n"]),
).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")[:255])
NAMES = NAMES.filter(lambda name: name not in (b".", b".."))
IDS = st.one_of(st.sampled_from([0, 1000, 999_999_999, 10**9, (1 << 32) - 2]), st.integers(0, (1 << 32) - 2))
TIMES = st.one_of(st.sampled_from([0, -1, 9 * 10**18, -9 * 10**18, (1 << 63) - 1, -(1 << 63)]), st.integers(-(1 << 63), (1 << 63) - 1))
SIZES = st.one_of(st.sampled_from([0, 10**18 - 1, 10**18, (1 << 63) - 1]), st.integers(0, (1 << 63) - 1))
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
XATTRS = st.dictionaries(NAMES, st.binary(max_size=20), max_size=3).map(lambda pairs: tuple(sorted(pairs.items())))
DEVICES = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))


@st.composite
def entries(draw: Any, path: Optional[bytes] = None, kinds: str = "ffffddlpsbc") -> Entry:
    kind = draw(st.sampled_from(kinds))
    if path is None:
        path = draw(NAMES)
    plain = draw(st.booleans())
    return Entry(
        path,
        kind,
        draw(st.integers(0, 0o7777)),
        draw(IDS),
        draw(IDS),
        draw(TIMES),
        draw(SIZES) if kind == "f" else 0,
        draw(HASHES) if kind == "f" else "",
        draw(st.binary(min_size=1, max_size=60).map(lambda link: link.replace(b"\0", b"0"))) if kind == "l" else None,
        None,
        () if plain else draw(XATTRS),
        draw(DEVICES) if kind in "bc" else None,
        False if plain else draw(st.booleans()),
        False if plain else draw(st.booleans()),
    )


@st.composite
def trees(draw: Any) -> List[Entry]:
    """Entries as a manifest lists them: sorted, under their parents, some of them hard links."""
    found: Dict[bytes, Entry] = {}
    directories = [b""]
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from(directories))
        name = draw(NAMES)
        path = parent + b"/" + name if parent else name
        if path in found:
            continue
        found[path] = draw(entries(path))
        if found[path].type == "d":
            directories.append(path)
    ordered = sorted(found.values())
    others = [entry for entry in ordered if entry.type != "d"]
    if len(others) > 1 and draw(st.booleans()):
        first = others[0]._replace(group=others[0].path)
        links = [first] + [first._replace(path=entry.path, stale=entry.stale) for entry in others[1:]]
        ordered = sorted([entry for entry in ordered if entry.type == "d"] + links)
    return ordered


def refuse(*lines: bytes) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        decode(lines)
    for cut in range(1, len(lines)):
        with pytest.raises(IntegrityError):
            decode(lines, 0, cut) + decode(lines, cut)
    with pytest.raises(IntegrityError):
        [decode(lines, number, number + 1) for number in range(len(lines))]
    error = caught.value
    assert (error.kind, error.rc) == ("manifest", 7)
    assert "The manifest is not valid: line " in error.message
    assert len(error.message) < 300
    assert error.message.isprintable()
    json.dumps(error.to_dict())
    return error


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(entries())
@example(FILE)
@example(DIRECTORY)
def test_every_entry_survives_its_line(entry: Entry) -> None:
    line = encode(entry)
    assert decode([line]) == [entry]
    assert decode_trusted([line]) == [entry]
    assert type(decode([line])[0]) is Entry
    assert b"\n" not in line
    assert line.isascii()


@given(entries())
def test_the_line_is_what_a_json_library_writes(entry: Entry) -> None:
    item: Dict[str, Any] = {"g": entry.gid, "m": entry.mtime, "o": entry.mode, "p": os.fsdecode(entry.path), "t": entry.type, "u": entry.uid}
    if entry.type == "f":
        item.update(h=entry.hash, s=entry.size)
    if entry.link is not None:
        item["l"] = os.fsdecode(entry.link)
    if entry.device is not None:
        item["r"] = list(entry.device)
    item.update({flag: True for flag in ("stale", "unstable") if getattr(entry, flag)})
    line = json.dumps(item, sort_keys=True, separators=(",", ":"))
    if entry.xattrs:  # sorted by bytes, which is not how Python sorts surrogate escapes
        attributes = {os.fsdecode(name): base64.b64encode(value).decode() for name, value in entry.xattrs}
        line = line[:-1] + ',"x":' + json.dumps(attributes, separators=(",", ":")) + "}"
    assert encode(entry) == line.encode()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees())
def test_every_tree_survives_its_lines(tree: List[Entry]) -> None:
    lines = [encode(entry) for entry in tree]
    assert decode(lines) == tree
    for cut in range(len(lines) + 1):
        assert decode(lines, 0, cut) + decode(lines, cut) == tree
    assert sum((decode(lines, number, number + 1) for number in range(len(lines))), []) == tree
    assert decode_trusted(reversed(lines)) == tree[::-1]


@settings(max_examples=300)
@given(entries(kinds="ffd"), st.integers(0, 400), st.integers(0, 255), st.sampled_from(["replace", "insert", "delete"]))
def test_no_line_but_the_canonical_one_is_accepted(entry: Entry, at: int, byte: int, how: str) -> None:
    line = encode(entry)
    at %= len(line)
    tail = line[at + (how != "insert") :]
    changed = line[:at] + (bytes([byte]) if how != "delete" else b"") + tail
    try:
        (found,) = decode([changed])
    except IntegrityError:
        return
    assert encode(found) == changed


@settings(max_examples=300)
@given(st.one_of(entries(kinds="fd").map(encode), st.binary(max_size=80)), st.integers(0, 400), st.sampled_from(list(b'0123456789-"\\{}:,/.fd ')))
def test_the_quick_way_knows_nothing_that_json_does_not(line: bytes, at: int, byte: int) -> None:
    at %= len(line) + 1
    line = line[:at] + bytes([byte]) + line[at + 1 :]
    if entry_module._PLAIN.fullmatch(line):
        assert entry_module._parse(line, entry_module._Numbers()) == entry_module._parse_json(line)


def test_most_lines_take_the_quick_way() -> None:
    for entry in (FILE, DIRECTORY, FILE._replace(mtime=-1), FILE._replace(path=b"with spaces & [all] 'that'!"), DIRECTORY._replace(mode=0o2775)):
        assert entry_module._PLAIN.fullmatch(encode(entry))


def line(**changes: Any) -> bytes:
    """The line of a file with some keys changed; None removes one."""
    item = {"g": 0, "h": HASH, "m": 1, "o": 420, "p": "file", "s": 4, "t": "f", "u": 0, **changes}
    return json.dumps({key: value for key, value in item.items() if value is not None}, sort_keys=True, separators=(",", ":")).encode()


HOSTILE: Dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "text": b'"x"',
    "two values": line() + line(),
    "leading space": b" " + line(),
    "trailing space": line() + b" ",
    "trailing line feed": line() + b"\n",
    "space after a colon": line().replace(b'"g":', b'"g": '),
    "keys out of order": line().replace(b'{"g":0,', b"{").replace(b"}", b',"g":0}'),
    "a key twice": line().replace(b'"g":0', b'"g":0,"g":0'),
    "a key twice, the last one right": line().replace(b'"g":0', b'"g":1,"g":0'),
    "a key by its escape": line().replace(b'"g"', b'"\\u0067"'),
    "a needless escape": line(p="file").replace(b'"file"', b'"\\u0066ile"'),
    "an escape in capitals": line(p="\xe9").replace(b"\\u00e9", b"\\u00E9"),
    "an escaped slash": line(p="a").replace(b'"a"', b'"a\\/b"'),
    "raw UTF-8": line().replace(b"file", "fil\xe9".encode()),
    "raw bytes": line().replace(b"file", b"fil\xff"),
    "a byte order mark": b"\xef\xbb\xbf" + line(),
    "UTF-16": line().decode().encode("utf-16"),
    "UTF-32": line().decode().encode("utf-32"),
    "a raw control character": line().replace(b"file", b"fi\x01e"),
    "a raw delete": line().replace(b"file", b"fi\x7fe"),
    "a comment": line() + b"//",
    "a missing key": line(g=None),
    "no type": line(t=None),
    "no path": line(p=None),
    "a file without hash": line(h=None),
    "a file without size": line(s=None),
    "an unknown key": line(z=1),
    "a long unknown key": line(**{"z" * 100_000: 1}),
    "an unknown key that cannot be shown": line(**{"\n\x1b[31m\ud800": 1}),
    "block hashes": line(b=[]),
    "an unknown type": line(t="x"),
    "an empty type": line(t=""),
    "a type that is a list": line(t=["f"]),
    "a type that is an object": line(t={}),
    "a type that is a number": line(t=1),
    "a file with a target": line(l="x"),
    "a file that is a device": line(r=[1, 2]),
    "a directory with a hash": line(t="d", s=None),
    "a directory with a size": line(t="d", h=None),
    "a directory with size and hash": line(t="d"),
    "a directory in a group": line(t="d", h=None, s=None, n="file"),
    "a link without target": line(t="l", h=None, s=None),
    "a link to nothing": line(t="l", h=None, s=None, l=""),
    "a link with a NUL": line(t="l", h=None, s=None, l="a\0b"),
    "a link that is too long": line(t="l", h=None, s=None, l="x" * 4096),
    "a link that is a number": line(t="l", h=None, s=None, l=1),
    "a FIFO with a device": line(t="p", h=None, s=None, r=[1, 2]),
    "a device without numbers": line(t="c", h=None, s=None),
    "a device with one number": line(t="c", h=None, s=None, r=[1]),
    "a device with three": line(t="c", h=None, s=None, r=[1, 2, 3]),
    "a device that is text": line(t="c", h=None, s=None, r="12"),
    "a device that is an object": line(t="c", h=None, s=None, r={"1": 1, "2": 2}),
    "a device of booleans": line(t="c", h=None, s=None, r=[True, False]),
    "a negative device": line(t="b", h=None, s=None, r=[-1, 2]),
    "a device beyond 32 bits": line(t="b", h=None, s=None, r=[1, 1 << 32]),
    "an absolute path": line(p="/file"),
    "an empty path": line(p=""),
    "a trailing slash": line(p="file/"),
    "the path .": line(p="."),
    "the path ..": line(p=".."),
    "a NUL in the path": line(p="a\0b"),
    "a component of 256 bytes": line(p="x" * 256),
    "a component of 256 bytes in fewer letters": line(p="\xe9" * 128),
    "a path that is a number": line(p=1),
    "a path that is a list": line(p=["file"]),
    "a path that is true": line(p=True),
    "half of a pair": line(p="\ud800"),
    "the wrong half": line(p="\udc41"),
    "UTF-8 in escapes": line(p="\udcc3\udca9"),
    "a pair written as bytes": line(p="\udced\udca0\udc80\ud800"),
    "a hash in capitals": line(h=HASH.upper()),
    "a short hash": line(h=HASH[1:]),
    "a long hash": line(h=HASH + "0"),
    "a hash with a line feed": line(h=HASH[:-1] + "\n"),
    "a hash with other digits": line(h=HASH[:-1] + "\u0665"),
    "a hash that is a number": line(h=1),
    "a hash that is null": line(h=None).replace(b'"m"', b'"h":null,"m"'),
    "a negative size": line(s=-1),
    "a size beyond 63 bits": line(s=1 << 63),
    "a size that is a float": line(s=4.0),
    "a size with an exponent": line().replace(b'"s":4', b'"s":4e0'),
    "a size that is text": line(s="4"),
    "a size that is true": line(s=True),
    "a leading zero": line().replace(b'"s":4', b'"s":04'),
    "minus zero": line().replace(b'"m":1', b'"m":-0'),
    "a plus sign": line().replace(b'"m":1', b'"m":+1'),
    "an underscore": line().replace(b'"m":1', b'"m":1_0'),
    "NaN": line().replace(b'"m":1', b'"m":NaN'),
    "infinity": line().replace(b'"m":1', b'"m":-Infinity'),
    "an mtime beyond 64 bits": line(m=1 << 63),
    "an mtime before that": line(m=-(1 << 63) - 1),
    "an mtime that is false": line(m=False),
    "a mode of more than 12 bits": line(o=0o10000),
    "a negative mode": line(o=-1),
    "a mode that is true": line(o=True),
    "a user that chown takes for nobody": line(u=(1 << 32) - 1),
    "a group that chown takes for nobody": line(g=(1 << 32) - 1),
    "a user beyond 32 bits": line(u=1 << 32),
    "a negative group": line(g=-1),
    "a user that is true": line(u=True),
    "a flag that is false": line(stale=False),
    "a flag that is one": line(unstable=1),
    "a flag that is null": line().replace(b',"t"', b',"stale":null,"t"'),
    "no attributes": line(x={}),
    "attributes in a list": line(x=[]),
    "attributes that are text": line(x="x"),
    "attributes that are false": line(x=False),
    "an attribute without name": line(x={"": "AA=="}),
    "an attribute with a NUL": line(x={"a\0": "AA=="}),
    "an attribute with a long name": line(x={"a" * 256: "AA=="}),
    "an attribute of null": line().replace(b"}", b',"x":{"a":null}}'),
    "an attribute that is a number": line(x={"a": 1}),
    "an attribute that is a list": line(x={"a": []}),
    "an attribute that is not base64": line(x={"a": "!!"}),
    "an attribute that is base64 with a break": line(x={"a": "AA==\n"}),
    "an attribute with bits left over": line(x={"a": "AB=="}),
    "an attribute without padding": line(x={"a": "AA"}),
    "an attribute that is too long": line(x={"a": base64.b64encode(bytes(65537)).decode()}),
    "attributes out of order": line().replace(b"}", b',"x":{"b":"","a":""}}'),
    "attributes in the order of their escapes": line(x={"\udcff": "", "\U0001f600": ""}),
    "an attribute twice": line().replace(b"}", b',"x":{"a":"","a":""}}'),
    "a group that is a number": line(n=1),
    "a group that is empty": line(n=""),
    "a group without its first path": line(n="a"),
    "a group that comes later": line(n="g"),
    "a number of a million digits": line().replace(b'"m":1', b'"m":' + b"1" * 1_000_000),
    "a fraction of a million digits": line().replace(b'"m":1', b'"m":0.' + b"1" * 1_000_000),
    "a negative number of a million digits": line().replace(b'"m":1', b'"m":-' + b"1" * 1_000_000),
    "lists in lists": line().replace(b'"m":1', b'"m":' + b"[" * 200_000 + b"]" * 200_000),
    "objects in objects": b'{"a":' * 200_000,
    "open lists": b"[" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_an_integrity_error(name: str) -> None:
    hostile = HOSTILE[name]
    assert hostile != line()
    started = time.monotonic()
    error = refuse(hostile)
    assert error.field == "line 2"
    with pytest.raises(IntegrityError):
        decode([line(p="a"), hostile])
    assert time.monotonic() - started < 5, "a hostile line must not cost more than an honest one"


def test_hostile_lines_are_refused_alone_too() -> None:
    # decode_trusted sees single lines of manifests whose digests were checked: it looks at a line, not at its place.
    about_its_place = {"a trailing slash", "the path .", "the path ..", "a component of 256 bytes", "a component of 256 bytes in fewer letters"}
    about_its_place |= {"a group without its first path", "a group that comes later"}
    for name in HOSTILE.keys() - about_its_place:
        with pytest.raises(IntegrityError):
            decode_trusted([HOSTILE[name]])


@pytest.mark.parametrize(
    ("paths", "number"),
    [
        (["a", "a"], 3),
        (["b", "a"], 3),
        (["a", "b", "a/c"], 4),
        (["a/b"], 2),
        (["a", "a/b/c"], 3),
        (["a", "a//b"], 3),
        (["a", "a/."], 3),
        (["a", "a/.."], 3),
        (["a", "a/../b"], 3),
        (["a", "a/"], 3),
        (["a", "a/" + "x" * 256], 3),
        (["d" * 255 + "/" * (n > 0) + "/".join(["d" * 255] * n) for n in range(257)], 258),
    ],
)
@pytest.mark.parametrize("how", ["plain", "json"])
def test_a_path_out_of_place_is_refused_and_its_line_named(paths: List[str], number: int, how: str) -> None:
    mode = 0o755 if how == "plain" else 0o7755  # numbers that the quick way leaves to JSON
    error = refuse(*(encode(Entry(path.encode(), "d", mode, 0, 0, 0)) for path in paths))
    assert error.field == "line %d" % number


def test_a_file_has_nothing_below_it() -> None:
    assert "parent" in refuse(encode(FILE), encode(DIRECTORY._replace(path=b"file/x"))).message


def test_lines_are_in_the_order_of_path_bytes() -> None:
    names = [b"a", b"a-b", b"a/b", b"a0", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xff"]
    tree = [DIRECTORY._replace(path=name) for name in names]
    assert [entry.path for entry in decode([encode(entry) for entry in tree])] == names


def group(*members: Tuple[bytes, bytes], **changes: Any) -> List[bytes]:
    """Lines of files (path, group); the last one with ``changes``."""
    found = [FILE._replace(path=path, group=first) for path, first in members]
    found[-1] = found[-1]._replace(**changes)
    return [encode(entry) for entry in found]


def test_hard_links_refer_to_the_first_of_them() -> None:
    found = decode(group((b"a", b"a"), (b"b", b"a"), (b"c", b"a")))
    assert [entry.is_group_follower for entry in found] == [False, True, True]


@pytest.mark.parametrize(
    "lines",
    [
        group((b"b", b"a")),
        group((b"a", b"b"), (b"b", b"b")),
        group((b"a", b"a"), (b"b", b"a"), (b"c", b"b")),
        group((b"a", b"a"), (b"b", b"a"), size=5),
        group((b"a", b"a"), (b"b", b"a"), hash="0" * 64),
        group((b"a", b"a"), (b"b", b"a"), mode=0o600),
        group((b"a", b"a"), (b"b", b"a"), uid=7),
        group((b"a", b"a"), (b"b", b"a"), gid=7),
        group((b"a", b"a"), (b"b", b"a"), mtime=7),
        group((b"a", b"a"), (b"b", b"a"), xattrs=((b"user.x", b""),)),
        group((b"a", b"a"), (b"b", b"a"), type="p", size=0, hash=""),
        [encode(FILE._replace(path=b"a")), *group((b"b", b"a"))],
        [encode(DIRECTORY._replace(path=b"a")), *group((b"b", b"a"))],
    ],
)
def test_a_group_that_lies_is_refused(lines: List[bytes]) -> None:
    refuse(*lines)


def test_other_kinds_can_be_hard_links_too_and_must_agree() -> None:
    link = Entry(b"a", "l", 0o777, 0, 0, 0, link=b"x", group=b"a")
    assert decode([encode(link), encode(link._replace(path=b"b"))])[1].group == b"a"
    refuse(encode(link), encode(link._replace(path=b"b", link=b"y")))
    device = Entry(b"a", "c", 0o600, 0, 0, 0, device=(1, 3), group=b"a")
    refuse(encode(device), encode(device._replace(path=b"b", device=(1, 5))))


def test_a_line_does_not_depend_on_the_locale() -> None:
    program = (
        "from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import *\n"
        "entry = Entry(b'caf\\xc3\\xa9\\xff', 'l', 0, 0, 0, 0, link=b'\\xe9\\xc3\\xa9')\n"
        "assert decode([encode(entry)]) == [entry]\n"
        "print(encode(entry).decode('ascii'))\n"
    )
    lines = set()
    for variables in ({"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
        lines.add(subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True).stdout)
    assert lines == {r'{"g":0,"l":"\udce9\u00e9","m":0,"o":0,"p":"caf\u00e9\udcff","t":"l","u":0}' + "\n"}


def test_two_states_of_one_inode_are_told_apart_from_two_inodes() -> None:
    other = FILE._replace(path=b"other", group=b"file", stale=True, unstable=True)
    assert FILE.same_inode_state(other)
    assert FILE.same_content(other._replace(mode=0, mtime=5))
    assert not FILE.same_inode_state(other._replace(mtime=5))
    assert not FILE.same_content(other._replace(size=5))
    assert not DIRECTORY.same_content(DIRECTORY)
