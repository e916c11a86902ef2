# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest file: format 1 as the golden files fix it, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest, content_line, read_manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry, encode
from hypothesis import given
from hypothesis import strategies as st

GOLDEN = Path(__file__).parent / "golden"

HEADER = Header(
    host="web1",
    policy="openclaw",
    sources=("/home/openclaw/.openclaw", "/srv/\udcff"),
    selection={"exclude": ["*.tmp", "caf\xe9"], "exclude_caches": True, "exclude_if_present": [], "include": [], "one_file_system": False},
    engine="1.0.0",
    claimed="2026-11-20T09:15:00Z",
    names={"g": {"0": "root"}, "u": {"0": "root", "1000": "openclaw"}},
    parent="20261119T091500.123Z-00000000",
    id="20261120T091500.123Z-11111111",
    sequence=42,
    created="2026-11-20T09:15:00.123Z",
)
PROPOSED = Header(host="web1", policy="p", sources=("/",), selection={}, engine="1.0.0", claimed="2026-11-20T09:15:00Z")

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def file(path: bytes, **changes: Any) -> Entry:
    return Entry(path, "f", 0o644, 1000, 1000, 1_700_000_000_123_456_789, 5, HELLO)._replace(**changes)


def directory(path: bytes, **changes: Any) -> Entry:
    return Entry(path, "d", 0o755, 0, 0, 1_700_000_000_000_000_000)._replace(**changes)


ACL = bytes.fromhex("0200000001000600ffffffff020004003930000004000400ffffffff10000400ffffffff20000400ffffffff")
# What each golden file says, in the words of this test. A change of one of them is a new format.
MANIFESTS: Dict[str, Manifest] = {
    "kinds": Manifest.from_entries(
        HEADER,
        [
            directory(b"srv", mode=0o1777),
            Entry(b"srv/block", "b", 0o660, 0, 6, 0, device=(259, 1_048_575)),
            Entry(b"srv/character", "c", 0o666, 0, 0, 0, device=(1, 3)),
            Entry(b"srv/fifo", "p", 0o600, 0, 0, 1),
            file(b"srv/file"),
            file(b"srv/file.acl", xattrs=((b"system.posix_acl_access", ACL),)),
            file(b"srv/file.empty", size=0, hash=EMPTY),
            file(b"srv/file.large", size=(1 << 63) - 1),
            file(b"srv/file.setuid", mode=0o4755, uid=0, gid=(1 << 32) - 2),
            file(b"srv/file.stale", stale=True),
            file(b"srv/file.unstable", unstable=True, xattrs=((b"user.a", b""), (b"user.b", b"\0\xff"))),
            Entry(b"srv/link", "l", 0o777, 0, 0, 0, link=b"../\xe9\xc3\xa9\n"),
            Entry(b"srv/socket", "s", 0o755, 0, 0, 0),
            directory(b"srv/stale", stale=True, xattrs=((b"system.posix_acl_default", ACL),)),
        ],
    ),
    "names": Manifest.from_entries(
        PROPOSED,
        [
            file(name)
            for name in (
                b" ",
                b"-rf",
                b"...",
                b'"t":"d"',
                b"\\",
                b"\x01\x1f\x7f",
                b"\n",
                b"caf\xc3\xa9",
                b"\xed\xa0\x80",
                b"\xf0\x9f\x98\x80",
                b"\xef\xbf\xbd",
                b"\xff\xfe",
                b"x" * 255,
                b"~",
            )
        ],
    ),
    "order": Manifest.from_entries(PROPOSED, [directory(path) for path in (b"a", b"a-b", b"a.b", b"a/b", b"a/b/c", b"a0", b"a\xff", b"b")]),
    "times": Manifest.from_entries(
        PROPOSED,
        [
            file(b"%02d" % number, mtime=mtime)
            for number, mtime in enumerate(
                (-(1 << 63), -(2**31) * 10**9 - 1, -1, 0, 1, 999_999_999, 2**31 * 10**9, 4_200_000_000_000_000_001, 9 * 10**18, (1 << 63) - 1)
            )
        ],
    ),
    "links": Manifest.from_entries(
        PROPOSED,
        [
            directory(b"d"),
            file(b"a", group=b"a"),
            file(b"d/x", group=b"a"),
            file(b"z\xff", group=b"a", stale=True),
            file(b"b", group=b"b", unstable=True, xattrs=((b"user.b", b"\1"),)),
            file(b"d/y", group=b"b", unstable=True, xattrs=((b"user.b", b"\1"),)),
            Entry(b"l", "l", 0o777, 0, 0, 0, link=b"x", group=b"l"),
            Entry(b"m", "l", 0o777, 0, 0, 0, link=b"x", group=b"l"),
            Entry(b"p\xff", "p", 0o600, 0, 0, 0, group=b"p\xff"),
            Entry(b"q", "p", 0o600, 0, 0, 0, group=b"p\xff"),
        ],
    ),
    "empty": Manifest.from_entries(PROPOSED, []),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_format_1_is_what_the_golden_file_says(name: str) -> None:
    manifest = MANIFESTS[name]
    golden = (GOLDEN / ("%s.jsonl" % name)).read_bytes()
    packed = manifest.to_bytes()
    assert gzip.decompress(packed) == golden
    assert packed[:2] == b"\x1f\x8b"
    assert packed[3:8] == bytes(5), "no name and no time: equal manifests are equal files"
    parsed = Manifest.from_bytes(gzip.compress(golden, 9, mtime=0))
    assert parsed == manifest
    assert list(parsed.entries) == list(manifest.entries)
    assert parsed.to_bytes() == packed


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_golden_file_is_canonical_json_and_its_trailer_is_what_sha256sum_says(name: str) -> None:
    head, *lines, trailer = (GOLDEN / ("%s.jsonl" % name)).read_bytes().splitlines()
    for line in (head, *lines, trailer):
        assert json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")).encode() == line
    without = [json.loads(line) for line in lines]
    for item in without:
        if item["t"] == "d":
            del item["m"]
    content = [json.dumps(item, sort_keys=True, separators=(",", ":")).encode() for item in without]
    assert json.loads(trailer) == {
        "content_digest": hashlib.sha256(b"".join(line + b"\n" for line in content)).hexdigest(),
        "digest": hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest(),
        "entries": len(lines),
    }
    assert set(json.loads(head)) == set("format host policy id sequence parent created claimed sources selection engine names".split())


def test_no_golden_file_is_forgotten() -> None:
    assert {path.stem for path in GOLDEN.glob("*.jsonl")} == set(MANIFESTS)


# ---- values ------------------------------------------------------------------------------------------------------------------------------


def test_only_directory_times_are_left_out_of_the_content() -> None:
    first = Manifest.from_entries(PROPOSED, [directory(b"d"), file(b'd/"t":"d"'), file(b"f"), Entry(b"p", "p", 0, 0, 0, 5)])
    touched = Manifest.from_entries(PROPOSED, [directory(b"d", mtime=-5), *first.entries[1:]])
    assert touched.content_digest == first.content_digest
    assert touched.digest != first.digest
    for position, entry in enumerate(first.entries):
        for changes in ({"mtime": 7}, {"mode": 0o123}, {"uid": 7}, {"gid": 7}, {"stale": True}, {"xattrs": ((b"user.a", b""),)}):
            entries = [*first.entries[:position], entry._replace(**changes), *first.entries[position + 1 :]]
            same = entry.type == "d" and "mtime" in changes
            assert (Manifest.from_entries(PROPOSED, entries).content_digest == first.content_digest) == same, changes


def test_a_name_that_looks_like_a_directory_keeps_its_time() -> None:
    for entry in (file(b'x","t":"d"'), Entry(b"l", "l", 0o777, 0, 0, 5, link=b'"t":"d"'), file(b"x", xattrs=((b'"t":"d"', b""),))):
        (line,) = Manifest.from_entries(PROPOSED, [entry]).lines
        assert content_line(line) == line
    (line,) = Manifest.from_entries(PROPOSED, [directory(b'"m":1,', mtime=-3)]).lines
    assert content_line(line) == line.replace(b'"m":-3,', b"")


def test_digests_of_many_lines_do_not_depend_on_how_they_are_taken() -> None:
    entries = [directory(b"%06d" % number, mtime=number) for number in range(20000)]
    manifest = Manifest.from_entries(PROPOSED, entries)
    assert manifest.digest == hashlib.sha256(b"".join(line + b"\n" for line in manifest.lines)).hexdigest()
    assert manifest.content_digest == hashlib.sha256(b"".join(content_line(line) + b"\n" for line in manifest.lines)).hexdigest()
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_a_hard_link_group_counts_once() -> None:
    manifest = MANIFESTS["links"]
    assert (manifest.files, manifest.total_size) == (5, 10)


def test_entries_are_sorted_whatever_order_they_come_in() -> None:
    manifest = MANIFESTS["order"]
    assert Manifest.from_entries(PROPOSED, reversed(manifest.entries)) == manifest
    assert manifest.by_path()[b"a/b"] == directory(b"a/b")


def test_another_header_changes_no_digest() -> None:
    manifest = MANIFESTS["kinds"]
    other = manifest.with_header(id=None, sequence=7)
    assert (other.digest, other.content_digest, other.header.sequence, manifest.header.sequence) == (manifest.digest, manifest.content_digest, 7, 42)
    assert other != manifest
    assert other.header == replace(manifest.header, id=None, sequence=7)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["\udcff", "a\0", '"'])


@given(
    header=st.builds(
        Header,
        host=TEXTS,
        policy=TEXTS,
        sources=st.lists(TEXTS, max_size=3).map(tuple),
        selection=st.dictionaries(TEXTS, st.booleans() | st.lists(TEXTS, max_size=3), max_size=3),
        engine=TEXTS,
        claimed=TEXTS,
        names=st.dictionaries(TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=3), max_size=3),
        parent=st.none() | TEXTS,
        id=st.none() | TEXTS,
        sequence=st.none() | st.integers(1, 10**18),
        created=st.none() | TEXTS,
        databases=st.dictionaries(
            TEXTS,
            st.fixed_dictionaries({"tables": st.integers(0, 9), "rows": st.integers(0, 2**63 - 1), "schema": st.integers(-(2**31), 2**31 - 1)}),
            max_size=2,
        ),
        application=st.dictionaries(TEXTS, TEXTS, max_size=2),
    ),
    names=st.sets(st.binary(min_size=1, max_size=9).map(lambda name: b"n" + name.replace(b"/", b"").replace(b"\0", b"")), max_size=9),
)
def test_every_manifest_survives_its_file(header: Header, names: "set[bytes]") -> None:
    manifest = Manifest.from_entries(header, [file(name) for name in names])
    parsed = Manifest.from_bytes(manifest.to_bytes())
    assert parsed == manifest
    assert parsed.header == header
    assert list(parsed.entries) == list(manifest.entries)
    assert parsed.to_bytes() == manifest.to_bytes()


@pytest.mark.parametrize("count", [3, pool.FORK_PAYS_ITEMS])
def test_digests_and_packing_in_another_process_are_as_made_here(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    lines = [encode(file(b"%06d" % number)) for number in range(count)]
    here, meanwhile = Manifest(HEADER, lines), Manifest(HEADER, lines)
    with meanwhile.digesting():
        pass
    monkeypatch.setattr(Manifest, "_digest", None)  # made already
    monkeypatch.setattr(Manifest, "_content_digest", None)
    assert (meanwhile.digest, meanwhile.content_digest) == (hashlib.sha256(b"\n".join(lines) + b"\n").hexdigest(),) * 2
    monkeypatch.undo()
    packed = here.to_bytes()
    with meanwhile.packing():
        assert meanwhile.with_header(sequence=42).to_bytes() == packed
    monkeypatch.setattr(Manifest, "_pack", None)
    assert meanwhile.with_header(sequence=42).to_bytes() == packed


def test_what_fails_meanwhile_leaves_a_manifest_as_it_was() -> None:
    manifest = Manifest(HEADER, [encode(file(b"%06d" % number)) for number in range(pool.FORK_PAYS_ITEMS)])
    for meanwhile in (manifest.digesting, manifest.packing):
        with pytest.raises(KeyError), meanwhile():
            raise KeyError
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)), st.booleans())
def test_what_another_lacks_is_told_in_order_whichever_is_asked_first(one: "set[int]", other: "set[int]", third: "set[int]", parsed: bool) -> None:
    def entries(numbers: "set[int]") -> List[Entry]:
        return [file(b"%d" % number) for number in sorted(numbers)]

    first, second, last = (Manifest.from_entries(HEADER, entries(numbers)) for numbers in (one, other, third))
    if not parsed:
        first, second, last = (Manifest(HEADER, manifest.lines) for manifest in (first, second, last))
    for left, right, numbers in ((first, second, one - other), (second, first, other - one), (first, last, one - third), (first, second, one - other)):
        assert left.entries_not_in(right) == entries(numbers)


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 2)), st.dictionaries(st.integers(0, 9), st.integers(0, 2)))
def test_a_manifest_is_made_from_its_successor_and_what_was_different(old: "dict[int, int]", new: "dict[int, int]") -> None:
    def made(sizes: "dict[int, int]") -> Manifest:
        return Manifest.from_entries(HEADER, [file(b"%d" % number)._replace(size=size) for number, size in sizes.items()])

    was, now = made(old), made(new)
    before = was.by_path()
    replaced = {number: before.get(entry.path) for number, entry in enumerate(now.entries) if entry not in was.entries or entry.size}
    result = now.before(replaced, [entry for entry in was.entries if entry.path not in now.by_path()])
    assert result == was
    assert (result.entries_not_in(now), now.entries_not_in(result)) == (was.entries_not_in(made(new)), made(new).entries_not_in(was))


# ---- hostile files -----------------------------------------------------------------------------------------------------------------------

SMALL = Manifest.from_entries(PROPOSED, [directory(b"d"), file(b"d/x"), Entry(b"l", "l", 0o777, 0, 0, 0, link=b"x")])


def refuse(data: bytes, **options: Any) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        Manifest.from_bytes(data, **options).entries  # noqa: B018 - they are parsed when they are asked for
    assert caught.value.rc == 7
    assert len(caught.value.message) < 300
    return caught.value


def packed(*lines: bytes) -> bytes:
    return gzip.compress(b"".join(line + b"\n" for line in lines), 1, mtime=0)


def with_trailer(*lines: bytes, head: bytes = PROPOSED.to_line()) -> bytes:
    """A file whose trailer is right for entry lines of any kind."""
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    content = hashlib.sha256(b"".join(content_line(line) + b"\n" for line in lines)).hexdigest()
    return packed(head, *lines, b'{"content_digest":"%s","digest":"%s","entries":%d}' % (content.encode(), digest.encode(), len(lines)))


def test_a_file_cut_at_any_length_is_refused() -> None:
    data = SMALL.to_bytes()
    assert Manifest.from_bytes(data) == SMALL
    for length in range(len(data)):
        refuse(data[:length])


def test_text_cut_at_any_line_or_byte_is_refused() -> None:
    text = gzip.decompress(SMALL.to_bytes())
    for length in range(len(text)):
        refuse(gzip.compress(text[:length], 0, mtime=0))


def test_a_flipped_bit_is_found_or_does_not_matter() -> None:
    data = SMALL.to_bytes()
    harmless = 0
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                assert Manifest.from_bytes(bytes(damaged)) == SMALL
                harmless += 1
            except IntegrityError:
                pass
    assert harmless < 60, "only the time, the system and some flags of the gzip header say nothing of the content"


def test_a_changed_byte_of_the_text_is_refused() -> None:
    text = gzip.decompress(SMALL.to_bytes())
    head = len(PROPOSED.to_line())
    for position in range(len(text)):
        damaged = bytearray(text)
        damaged[position] ^= 1
        try:
            found = Manifest.from_bytes(gzip.compress(bytes(damaged), 0, mtime=0))
        except IntegrityError:
            continue
        assert position < head, "only the header bears no digest"
        assert found.header != SMALL.header
        assert gzip.decompress(found.to_bytes()) == bytes(damaged)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f",
        b"not gzip at all",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"\n", mtime=0),
        gzip.compress(b"\n\n\n", mtime=0),
        gzip.compress(PROPOSED.to_line() + b"\n", mtime=0),
        SMALL.to_bytes() + b"\0",
        SMALL.to_bytes() + SMALL.to_bytes(),
        b"\0" + SMALL.to_bytes(),
        gzip.compress(SMALL.to_bytes(), mtime=0),
        gzip.compress(gzip.decompress(SMALL.to_bytes()).replace(b"\n", b"\r\n"), mtime=0),
        gzip.compress(gzip.decompress(SMALL.to_bytes())[:-1], mtime=0),
        gzip.compress(gzip.decompress(SMALL.to_bytes()) + b"\n", mtime=0),
        gzip.compress(b"\n" + gzip.decompress(SMALL.to_bytes()), mtime=0),
        zlib.compress(gzip.decompress(SMALL.to_bytes())),
        gzip.decompress(SMALL.to_bytes()),
        packed(PROPOSED.to_line(), *SMALL.lines),
        packed(PROPOSED.to_line(), *SMALL.lines[:-1], gzip.decompress(SMALL.to_bytes()).splitlines()[-1]),
        packed(*gzip.decompress(SMALL.to_bytes()).splitlines(), b"{}"),
    ],
)
def test_what_is_no_whole_manifest_is_refused(data: bytes) -> None:
    refuse(data)


def test_right_digests_over_wrong_lines_do_not_help() -> None:
    assert Manifest.from_bytes(with_trailer(*SMALL.lines)) == SMALL
    for lines in (
        [SMALL.lines[0], SMALL.lines[0]],
        SMALL.lines[::-1],
        [SMALL.lines[1]],
        [SMALL.lines[0].replace(b'"d"', b'".."', 1)],
        [b"[" * 100_000],
        [b'{"x":[]%s}' % (b" " * 60)],
        [SMALL.lines[0], b"\xff" * 60],
        [SMALL.lines[0].replace(b'"t":"d"', b'"t":"d","x":[]')],
    ):
        refuse(with_trailer(*lines))


def test_a_trailer_that_is_not_canonical_is_refused() -> None:
    *lines, trailer = gzip.decompress(SMALL.to_bytes()).splitlines()
    refuse(packed(*lines, trailer.replace(b":", b": ")))
    refuse(packed(*lines, trailer.replace(b"{", b'{"a":1,')))
    refuse(packed(*lines, trailer.replace(b'"entries":3', b'"entries":4')))
    item = json.loads(trailer)
    refuse(packed(*lines, json.dumps({**item, "digest": item["content_digest"]}, separators=(",", ":")).encode()))


def headers() -> Dict[str, Callable[[Dict[str, Any]], Any]]:
    def setting(key: str, value: Any) -> Callable[[Dict[str, Any]], Any]:
        return lambda item: {**item, key: value}

    return {
        "a list": lambda item: [item],
        "null": lambda item: None,
        "no format": lambda item: {key: value for key, value in item.items() if key != "format"},
        "one key less": lambda item: {key: value for key, value in item.items() if key != "names"},
        "one key more": setting("more", 1),
        "format true": setting("format", True),
        "format as a float": setting("format", 1.0),
        "format as text": setting("format", "1"),
        "format as a list": setting("format", [1]),
        "host as a number": setting("host", 1),
        "host missing": setting("host", None),
        "host without bytes": setting("host", "\ud800"),
        "policy as a list": setting("policy", []),
        "engine as false": setting("engine", False),
        "claimed as an object": setting("claimed", {}),
        "parent as a number": setting("parent", 1),
        "id as a list": setting("id", ["x"]),
        "id that no bytes stand for": setting("id", "\udc00"),
        "created as true": setting("created", True),
        "sources as text": setting("sources", "/"),
        "sources of numbers": setting("sources", [1]),
        "sources as an object": setting("sources", {"/": 1}),
        "sources without bytes": setting("sources", ["\udfff"]),
        "sequence 0": setting("sequence", 0),
        "sequence true": setting("sequence", True),
        "sequence as a float": setting("sequence", 1.0),
        "sequence negative": setting("sequence", -1),
        "sequence as text": setting("sequence", "1"),
        "sequence of twenty-one digits": setting("sequence", 10**20),
        "selection as a list": setting("selection", []),
        "selection of numbers": setting("selection", {"exclude": 1}),
        "selection of lists of numbers": setting("selection", {"exclude": [1]}),
        "selection of lists of lists": setting("selection", {"exclude": [["x"]]}),
        "names as a list": setting("names", []),
        "names of texts": setting("names", {"u": "root"}),
        "names of numbers": setting("names", {"u": {"0": 0}}),
        "names of nothing": setting("names", {"u": {"0": None}}),
        "databases that are none": setting("databases", {}),
        "databases as a list": setting("databases", ["x"]),
        "databases of numbers": setting("databases", {"x": 1}),
        "databases without all counts": setting("databases", {"x": {"rows": 1, "tables": 1}}),
        "databases with texts": setting("databases", {"x": {"rows": "1", "tables": 1, "schema": 1}}),
        "databases with true": setting("databases", {"x": {"rows": True, "tables": 1, "schema": 1}}),
        "application that is none": setting("application", {}),
        "application as text": setting("application", "openclaw"),
        "application of numbers": setting("application", {"version": 1}),
    }


@pytest.mark.parametrize("name", headers())
def test_a_hostile_header_is_refused(name: str) -> None:
    item = headers()[name](json.loads(PROPOSED.to_line()))
    refuse(with_trailer(*SMALL.lines, head=json.dumps(item, sort_keys=True, separators=(",", ":")).encode()))


@pytest.mark.parametrize(
    "head",
    [
        PROPOSED.to_line().replace(b":", b": "),
        b" " + PROPOSED.to_line(),
        b"\xef\xbb\xbf" + PROPOSED.to_line(),
        PROPOSED.to_line().replace(b"{", b'{"host":"a",', 1),
        PROPOSED.to_line().replace(b'"sequence":null', b'"sequence":NaN'),
        PROPOSED.to_line().replace(b'"sequence":null', b'"sequence":1e3'),
        PROPOSED.to_line().replace(b'"sequence":null', b'"sequence":' + b"9" * 1_000_000),
        PROPOSED.to_line().replace(b'"selection":{}', b'"selection":' + b"[" * 100_000 + b"]" * 100_000),
        PROPOSED.to_line().replace(b'"selection":{}', b'"selection":' + b'{"a":' * 500 + b"{}" + b"}" * 500),
        PROPOSED.to_line().replace(b'"names":{}', b'"names":{"u":' + b'{"a":' * 400 + b"{}" + b"}" * 401),
        PROPOSED.to_line().replace(b"web1", b"web\xff"),
        PROPOSED.to_line().replace(b"web1", "w\xe9b".encode()),
    ],
)
def test_a_header_in_any_other_form_is_refused(head: bytes) -> None:
    started = time.monotonic()
    refuse(with_trailer(*SMALL.lines, head=head))
    assert time.monotonic() - started < 5


def test_another_format_says_what_to_do() -> None:
    for number in (0, 2, -1, 10**18):
        error = refuse(with_trailer(*SMALL.lines, head=PROPOSED.to_line().replace(b'"format":1', b'"format":%d' % number)))
        assert (error.kind, error.field, error.found) == ("manifest_format", "format", number)
        assert error.next


def test_more_entries_than_there_should_be_are_refused() -> None:
    data, count = SMALL.to_bytes(), len(SMALL.lines)
    assert Manifest.from_bytes(data, entries=count) == SMALL
    assert "more than the %d entries" % (count - 1) in refuse(data, entries=count - 1).message


def test_a_bomb_ends_at_the_limit() -> None:
    data = SMALL.to_bytes()
    text = len(gzip.decompress(data))
    assert Manifest.from_bytes(data, limit=text) == SMALL
    assert "more than" in refuse(data, limit=text - 1).message


@pytest.mark.parametrize("filling", [b"\n", b"0\n", b"0", b"[]\n", SMALL.lines[0] + b"\n", b" " * 50 + b"\n"])
def test_a_bomb_takes_no_more_memory_than_its_limit(filling: bytes) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = filling * (1_000_000 // len(filling))
    data = packer.compress(PROPOSED.to_line() + b"\n") + b"".join(packer.compress(block) for _ in range(100)) + packer.flush()
    tracemalloc.start()
    # Lines too short to be any are refused before they are cut apart, however high the limit is.
    refuse(data, limit=1 << 30 if len(filling) < 4 and b"\n" in filling else 8 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One piece of input can unpack to 67 MB before it is counted.
    assert peak < 200_000_000


# ---- files -------------------------------------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl.gz"
    path.write_bytes(SMALL.to_bytes())
    assert read_manifest(os.fsencode(path)) == SMALL


@pytest.mark.parametrize("kind", ["missing", "empty", "directory", "FIFO", "link", "link to nothing", "damaged", "below a file"])
def test_a_file_that_is_none_is_named_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "manifest.jsonl.gz"
    good = tmp_path / "good"
    good.write_bytes(SMALL.to_bytes())
    if kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(good)
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    elif kind == "damaged":
        path.write_bytes(SMALL.to_bytes()[:-1])
    elif kind == "below a file":
        path = good / "x"
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IntegrityError) as caught:
        read_manifest(os.fsencode(path))
    assert str(path) in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) <= opened


def test_lines_are_parsed_when_they_are_asked_for_and_refused_then() -> None:
    lines: List[bytes] = [SMALL.lines[0].replace(b'"p":"d"', b'"p":"/"')]
    manifest = Manifest.from_bytes(with_trailer(*lines))
    assert manifest.lines == lines
    with pytest.raises(IntegrityError):
        manifest.entries  # noqa: B018


def test_a_part_and_a_path_are_found_whether_or_not_all_is_parsed() -> None:
    known = Manifest.from_entries(PROPOSED, [directory(b"d"), *(file(b"d/%d" % number) for number in range(40)), file(b'd/"s":7', size=5), file(b"e")])
    read = Manifest.from_bytes(known.to_bytes())
    for manifest in (read, known):
        assert list(manifest.part(1, 3)) == list(known.entries[1:3]) and list(manifest.part(0, 0)) == []
        assert all(manifest.find(entry.path) == entry for entry in known.entries)
        assert manifest.find(b"d/0", 1) is None and manifest.find(b"d/") is None and manifest.find(b"z") is None
        assert manifest.sizes() == [entry.size for entry in known.entries]
