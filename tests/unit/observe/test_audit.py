# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: nobody changes a line unseen, no crash loses one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import resource
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import (
    MAX_LINE,
    START,
    AuditLog,
    ChainReport,
    head,
    open_locked,
    rfc3339,
    seconds_of,
    verify_chain,
)
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1795166100.123


@pytest.fixture
def path(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path / "audit.jsonl")


def fill(path: bytes, count: int) -> List[str]:
    return [AuditLog(path).append({"action": "commit", "number": number, "who": "zoë"}, now=NOW + number) for number in range(count)]


def read(path: bytes) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def write(path: bytes, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)


def records(path: bytes) -> List[Any]:
    return [json.loads(line) for line in read(path).splitlines()]


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def joined(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


# ---- the format


def test_a_line_is_canonical_json_that_a_stranger_can_check_with_sha256(path: bytes) -> None:
    digest = AuditLog(path).append({"action": "prune", "who": "zoë", "removed": ["a", "b"]}, now=NOW)
    body = '{"action":"prune","at":"2026-11-20T09:15:00.123Z","prev":"%s","removed":["a","b"],"seq":1,"who":"zo\\u00eb"}' % START
    assert digest == hashlib.sha256(body.encode()).hexdigest()
    assert read(path).decode() == body.replace('"prev"', '"hash":"%s","prev"' % digest) + "\n"


def test_each_line_names_the_hash_of_the_one_before(path: bytes) -> None:
    hashes = fill(path, 5)
    assert [record["prev"] for record in records(path)] == [START] + hashes[:-1]
    assert [record["seq"] for record in records(path)] == [1, 2, 3, 4, 5]
    assert head(path) == hashes[-1]
    assert verify_chain(path) == ChainReport(True, 5, None, "")


def test_the_log_is_readable_by_its_owner_alone(path: bytes) -> None:
    old = os.umask(0)
    try:
        fill(path, 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize("key", ["at", "seq", "prev", "hash"])
def test_an_event_cannot_overwrite_the_chain_itself(path: bytes, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        AuditLog(path).append({key: "x"}, now=NOW)
    assert not os.path.exists(path)


@pytest.mark.parametrize("event", [{"x": float("nan")}, {"x": b"bytes"}, {"x": "y" * MAX_LINE}])
def test_an_event_that_no_line_can_hold_is_refused_before_anything_is_written(path: bytes, event: Any) -> None:
    fill(path, 1)
    before = read(path)
    with pytest.raises((TypeError, ValueError)):
        AuditLog(path).append(event, now=NOW)
    assert read(path) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5).map("x".__add__), json_values, max_size=3), max_size=4))
def test_any_event_that_json_can_hold_keeps_the_chain_whole(events: List[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(folder) + b"/audit.jsonl"
        for event in events:
            AuditLog(path).append(event, now=NOW)
        assert verify_chain(path) == ChainReport(True, len(events), None, "")


def test_numbers_and_surrogates_as_keys_do_not_break_the_canonical_order(path: bytes) -> None:
    AuditLog(path).append({"x": {10: "a", 9: "b"}, "path": "\udcff", "pair": "\ud83d\ude00"}, now=NOW)
    assert verify_chain(path).ok


@given(st.integers(0, 4_000_000_000_000))
def test_a_time_survives_being_written_and_read(millis: int) -> None:
    assert round(seconds_of(rfc3339(millis / 1000)) * 1000) == millis


# ---- tampering


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = os.fsencode(tmp_path_factory.mktemp("whole") / "audit.jsonl")
    fill(path, 6)
    return read(path)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_single_byte_edit_is_detected_at_its_line(whole: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[position]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(folder) + b"/audit.jsonl"
        write(path, whole[:position] + bytes([byte]) + whole[position + 1 :])
        report = verify_chain(path)
    assert not report.ok and report.reason
    assert report.first_bad == whole.count(b"\n", 0, position) + 1
    assert report.records == report.first_bad - 1


@pytest.mark.parametrize(
    "old, new", [(b":", b": "), (b"zo\\u00eb", b"zo\\u00EB"), (b'"seq":2', b'"seq":2,"seq":2'), (b'"number":1', b'"number":1.0'), (b"{", b'{"a":NaN,')]
)
def test_a_line_that_means_the_same_in_other_bytes_is_detected(path: bytes, whole: bytes, old: bytes, new: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    assert old in lines[1]
    lines[1] = lines[1].replace(old, new, 1)
    write(path, b"".join(lines))
    assert verify_chain(path)[:3] == (False, 1, 2)


@pytest.mark.parametrize("removed", range(5))
def test_a_line_removed_before_the_end_is_detected(path: bytes, whole: bytes, removed: int) -> None:
    lines = whole.splitlines(keepends=True)
    write(path, b"".join(lines[:removed] + lines[removed + 1 :]))
    assert verify_chain(path)[:3] == (False, removed, removed + 1)


@given(order=st.permutations(range(6)).filter(lambda order: order != list(range(6))))
@settings(max_examples=60, deadline=None)
def test_lines_in_another_order_are_detected(whole: bytes, order: List[int]) -> None:
    lines = whole.splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(folder) + b"/audit.jsonl"
        write(path, b"".join(lines[number] for number in order))
        assert not verify_chain(path).ok


def test_a_line_inserted_with_a_hash_of_its_own_is_detected(path: bytes, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    forged = dict(json.loads(lines[3]), who="mallory")
    del forged["hash"]
    forged["hash"] = hashlib.sha256(json.dumps(forged, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    line = json.dumps(forged, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    write(path, b"".join(lines[:3] + [line] + lines[3:]))
    assert verify_chain(path)[:3] == (False, 4, 5)
    write(path, b"".join(lines[:3] + [line] + lines[4:]))
    assert verify_chain(path)[:3] == (False, 4, 5)
    for junk in (b"\n", b"[]\n", b"[" * 100_000 + b"\n", b"\0" * (2 * MAX_LINE) + b"\n"):
        write(path, b"".join(lines[:3] + [junk] + lines[3:]))
        assert verify_chain(path)[:3] == (False, 3, 4)


def test_a_forged_number_is_detected_even_where_all_hashes_fit(path: bytes) -> None:
    body = {"at": rfc3339(NOW), "prev": START, "seq": 2}
    line = dict(body, hash=hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest())
    write(path, json.dumps(line, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    assert verify_chain(path)[:3] == (False, 0, 1)


def test_a_cut_end_shows_against_the_remembered_head_only(path: bytes) -> None:
    hashes = fill(path, 6)
    lines = read(path).splitlines(keepends=True)
    write(path, b"".join(lines[:4]))
    assert verify_chain(path).ok
    assert verify_chain(path, expected_head=hashes[3]).ok
    report = verify_chain(path, expected_head=hashes[5])
    assert report[:3] == (False, 4, None) and "head" in report.reason


def test_a_head_remembered_before_the_log_grew_is_still_found(path: bytes) -> None:
    hashes = fill(path, 3)
    fill(path, 2)
    assert verify_chain(path, expected_head=hashes[1]).ok
    assert verify_chain(path, expected_head=START).ok


def test_a_deleted_log_is_an_empty_chain_that_lacks_the_remembered_head(path: bytes) -> None:
    hashes = fill(path, 1)
    os.unlink(path)
    assert head(path) == START
    assert verify_chain(path) == ChainReport(True, 0, None, "")
    assert not verify_chain(path, expected_head=hashes[0]).ok


def test_an_edited_last_line_stays_evidence_when_the_log_goes_on(path: bytes) -> None:
    fill(path, 3)
    write(path, read(path).replace(b'"number":2', b'"number":7'))
    fill(path, 1)
    assert [record["number"] for record in records(path)] == [0, 1, 7, 0]
    assert verify_chain(path)[:3] == (False, 2, 3)


# ---- crashes


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_line_torn_anywhere_is_set_aside_and_no_other_is_lost(whole: bytes, data: st.DataObject) -> None:
    lines = whole.splitlines(keepends=True)
    kept = data.draw(st.integers(0, 5))
    torn = lines[kept][: data.draw(st.integers(1, len(lines[kept]) - 2))]
    blanked = data.draw(st.integers(0, len(torn)))  # a power cut may leave the length without the bytes
    torn = torn[:blanked] + b"\0" * (len(torn) - blanked) + data.draw(st.sampled_from([b"", b"\n"]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(folder) + b"/audit.jsonl"
        write(path, b"".join(lines[:kept]) + torn)
        before = verify_chain(path)
        assert (before.ok, before.records, before.first_bad) == (False, kept, kept + 1)
        assert head(path) == (json.loads(lines[kept - 1])["hash"] if kept else START)
        new = AuditLog(path).append({"action": "next"}, now=NOW)
        assert verify_chain(path, expected_head=new) == ChainReport(True, kept + 2, None, "")
        assert read(path).startswith(b"".join(lines[:kept]))
        told, appended = records(path)[kept:]
        assert (told["kind"], told["length"], told["sha256"]) == ("torn", len(torn), hashlib.sha256(torn).hexdigest())
        assert appended["action"] == "next"


def test_a_record_that_only_lacks_its_newline_is_kept(path: bytes) -> None:
    hashes = fill(path, 3)
    write(path, read(path)[:-1])
    assert head(path) == hashes[2]
    assert verify_chain(path)[:3] == (False, 2, 3)
    AuditLog(path).append({"action": "next"}, now=NOW)
    assert verify_chain(path, expected_head=hashes[2]) == ChainReport(True, 4, None, "")


def test_an_unended_record_before_a_repair_cut_short_is_kept_with_all_its_bytes(path: bytes) -> None:
    hashes = fill(path, 2)
    write(path, read(path)[:-1] + b'\n{"action":"tor')
    AuditLog(path).append({"action": "next"}, now=NOW)
    assert verify_chain(path, expected_head=hashes[1]).ok
    assert records(path)[2]["text"] == '{"action":"tor'


def test_a_repair_killed_after_its_record_and_before_the_cut_is_repaired_in_turn(path: bytes) -> None:
    fill(path, 2)
    good = read(path)
    write(path, good + b"t" * 3000)
    AuditLog(path).append({}, now=NOW)
    told = read(path)[len(good) :].splitlines(keepends=True)[0]
    write(path, good + told + b"t" * (3000 - len(told)))
    AuditLog(path).append({"action": "next"}, now=NOW)
    assert verify_chain(path) == ChainReport(True, 5, None, "")
    assert [record.get("kind") for record in records(path)] == [None, None, "torn", "torn", None]


def test_a_disk_that_fills_up_in_the_middle_of_a_line_costs_only_that_line(path: bytes) -> None:
    fill(path, 3)
    size = os.stat(path).st_size

    def short_of_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 70, size + 70))
        for _attempt in range(2):  # the second one repairs the first and fails in its turn
            with pytest.raises(OSError) as failure:
                fill(path, 1)
            assert failure.value.errno == errno.EFBIG

    assert joined(in_child(short_of_room)) == 0
    assert os.stat(path).st_size == size + 70
    fill(path, 1)
    assert verify_chain(path) == ChainReport(True, 5, None, "")
    assert records(path)[3]["length"] == 70


@pytest.mark.parametrize("end", [b"garbage\ngarbage\n", b"x" * (3 * MAX_LINE)])
def test_damage_that_no_crash_explains_is_refused_and_left_as_it_is(path: bytes, end: bytes) -> None:
    fill(path, 2)
    write(path, read(path) + end)
    before = read(path)
    with pytest.raises(IntegrityError):
        fill(path, 1)
    with pytest.raises(IntegrityError):
        head(path)
    assert read(path) == before
    assert verify_chain(path)[:3] == (False, 2, 3)


def test_a_kill_at_any_instant_loses_no_line_that_was_acknowledged(path: bytes) -> None:
    chance = random.Random(20261120)
    acknowledged: List[str] = []
    for round_number in range(25):
        reader, writer = os.pipe()

        def append_for_ever(out: int = writer, seed: int = round_number) -> None:
            sizes = random.Random(seed)
            log = AuditLog(path)
            while True:
                digest = log.append({"fill": "x" * sizes.choice((10, 5000, 200_000))}, now=time.time())
                os.write(out, digest.encode())

        pid = in_child(append_for_ever)
        os.close(writer)
        acknowledged.append(os.read(reader, 64).decode())
        time.sleep(chance.random() / 50)
        os.kill(pid, signal.SIGKILL)
        joined(pid)
        with open(reader, "rb") as stream:
            rest = stream.read().decode()
        acknowledged += [rest[at : at + 64] for at in range(0, len(rest), 64)]
        acknowledged.append(AuditLog(path).append({"action": "after the kill"}, now=time.time()))
        assert verify_chain(path, expected_head=acknowledged[-1]).ok
    assert set(acknowledged) <= {record["hash"] for record in records(path)}


def test_writers_at_once_keep_one_chain_and_readers_never_see_a_broken_one(path: bytes) -> None:
    def append() -> None:
        fill(path, 60)

    children = [in_child(append) for _ in range(3)]
    for _reading in range(30):
        assert verify_chain(path).ok
        head(path)
    assert [joined(pid) for pid in children] == [0, 0, 0]
    assert verify_chain(path) == ChainReport(True, 180, None, "")
    assert sorted(record["number"] for record in records(path)) == sorted(list(range(60)) * 3)


@pytest.mark.parametrize("use", [lambda path: verify_chain(path)[:2] == (True, 2), lambda path: head(path) != START])
def test_a_reader_waits_for_the_line_that_is_being_written(path: bytes, use: Callable[[bytes], bool]) -> None:
    fill(path, 2)
    line = read(path)
    write(path, b"")

    def check() -> None:
        assert use(path)

    with open_locked(path) as fd:
        os.write(fd, line[:50])
        child = in_child(check)
        time.sleep(0.05)
        os.write(fd, line[50:])
    assert joined(child) == 0


# ---- who stands in the way


def test_a_link_or_pipe_in_the_logs_place_is_refused_without_hanging(path: bytes, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious\n")
    for make in (lambda: os.symlink(victim, path), lambda: os.mkfifo(path)):
        make()
        for use in (lambda: fill(path, 1), lambda: verify_chain(path), lambda: head(path)):
            with pytest.raises(IntegrityError):
                use()
        os.unlink(path)
    assert victim.read_bytes() == b"precious\n"


def test_a_large_log_is_not_read_to_append_to_it(path: bytes) -> None:
    fill(path, 1)
    last = read(path)
    with open(path, "wb") as stream:  # the same last line behind 8 GiB of nothing
        stream.seek(8 << 30)
        stream.write(b"\n" + last)
    started = time.monotonic()
    fill(path, 1)
    assert time.monotonic() - started < 1
