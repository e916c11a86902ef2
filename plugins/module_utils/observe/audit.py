# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A log that shows when somebody changed it: JSON lines, each bearing the hash of the line before.

One line is ``{"at", "seq", "prev", ...event, "hash"}`` in canonical JSON (sorted keys, no spaces, ASCII). ``seq`` counts from 1 and
is the line's number; ``prev`` is the hash of the line before, 64 zeros at first; ``hash`` is the SHA-256 (hex) of the line's
canonical JSON without ``hash``. Who can write the file can also forge a whole new chain or cut off its end: that shows only
against a head that was remembered elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Tuple

from ..errors import IntegrityError, printable

START = "0" * 64
RESERVED = frozenset(("at", "seq", "prev", "hash"))
MAX_LINE = 1 << 20  # bytes; bounds what a damaged file can make a reader hold
TORN_SHOWN = 2048  # bytes of a torn line that its record repeats, for the people who read it

_TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z", re.ASCII)
_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> bytes:
    """Canonical JSON. Raises TypeError or ValueError for what JSON cannot hold (bytes, NaN)."""
    return _ENCODER.encode(value).encode("ascii")


def rfc3339(seconds: float) -> str:
    """``2026-11-20T09:15:00.123Z`` for seconds since the epoch."""
    whole, millis = divmod(round(seconds * 1000), 1000)
    return "%s.%03dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)), millis)


def seconds_of(text: str) -> float:
    """Seconds since the epoch of what ``rfc3339`` wrote; ValueError for other text."""
    from datetime import datetime, timezone  # slow to import, and only reports read times

    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


def is_time(value: Any) -> bool:
    """Whether ``value`` is the text of a time that was or will be, RFC 3339, UTC, with milliseconds."""
    if type(value) is not str or not _TIME.fullmatch(value):
        return False
    year, month, day = int(value[:4]), int(value[5:7]), int(value[8:10])
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return year > 0 and day <= _MONTHS[month - 1] and (is_leap or (month, day) != (2, 29))


def open_regular(path: bytes, flags: int) -> int:
    """A descriptor of a regular file, created 0600 where ``flags`` say so. Raises IntegrityError for a link, FIFO or device."""
    try:
        # O_NONBLOCK: a FIFO that somebody put there must not hang the run.
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
    else:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    raise IntegrityError("%s is not a regular file" % printable(path), found=path, next="find out who replaced it, then move it away")


@contextlib.contextmanager
def open_locked(path: bytes) -> Iterator[int]:
    """A descriptor of a log, open to read and append, exclusively locked until the block ends."""
    while True:
        fd = open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # else a rewrite replaced the file while this process waited for the lock
                try:
                    yield fd
                finally:
                    fcntl.flock(fd, fcntl.LOCK_UN)  # closing alone would not: a child forked meanwhile has the descriptor too
                return
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``; where O_APPEND is set, Linux writes at the end whatever ``offset`` says."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def fsync_parent(path: bytes) -> None:
    """Make the directory entry of ``path`` durable."""
    fd = os.open(os.path.dirname(path) or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class ChainReport(NamedTuple):
    """``records``: good lines before the first bad one; ``first_bad``: its number from 1, None when only the end is missing."""

    ok: bool
    records: int
    first_bad: Optional[int]
    reason: str


class AuditLog:
    """The audit log in the file ``path``; its directory exists. Works under ``chattr +a``, but for the repair of a torn line."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def append(self, event: Mapping[str, Any], *, now: float) -> str:
        """Add one durable line for ``event`` (JSON values; not at, seq, prev, hash) and return its hash, the new head.

        A last line that a crash left unfinished is replaced by a record ``{"kind": "torn", "length", "sha256", "text"}``.
        Raises ValueError for a reserved key or a line above 1 MiB, IntegrityError for a file that no crash can explain.
        """
        clash = RESERVED.intersection(event)
        if clash:
            raise ValueError("reserved keys in an audit event: %s" % ", ".join(sorted(clash)))
        with open_locked(self.path) as fd:
            size = os.fstat(fd).st_size
            tip = _find_tip(fd, size)
            if tip.end < size:
                torn = os.pread(fd, size - tip.end, tip.end)
                tip = _replace_torn(fd, tip, torn, now)
            line, new = _link(tip, event, now)
            write_all(fd, line, tip.end)
            os.fsync(fd)
            if not size:
                fsync_parent(self.path)
        return new.hash


class _Tip(NamedTuple):
    """The last whole record: the offset of its end, its number, its hash, whether its newline is there too."""

    end: int
    seq: int
    hash: str
    is_ended: bool


def _link(tip: _Tip, event: Mapping[str, Any], now: float) -> Tuple[bytes, _Tip]:
    """What to write at the end of ``tip``, and the tip that this makes."""
    # Through JSON and back: a key that is no string sorts differently once it is one.
    record = dict(json.loads(canonical(dict(event))), at=rfc3339(now), seq=tip.seq + 1, prev=tip.hash)
    digest = hashlib.sha256(canonical(record)).hexdigest()
    line = (b"" if tip.is_ended else b"\n") + canonical(dict(record, hash=digest)) + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError("an audit event of %d bytes; at most %d" % (len(line), MAX_LINE))
    return line, _Tip(tip.end + len(line), tip.seq + 1, digest, True)


def _find_tip(fd: int, size: int) -> _Tip:
    """The last whole record; only the line after it, if any, may be torn. Reads no more than it needs from the end."""
    end = size
    for _line in range(2):
        if not end:
            break
        line = _line_before(fd, end)
        record = _parse(line)
        if record is not None:
            return _Tip(end, record["seq"], record["hash"], line.endswith(b"\n"))
        end -= len(line)
    if end:
        raise IntegrityError(
            "the audit log is damaged before its last line",
            found="no record ends at byte %d" % end,
            next="verify it, keep the file as evidence and move it away; a new chain starts by itself",
        )
    return _Tip(0, 0, START, True)


def _line_before(fd: int, end: int) -> bytes:
    """The line that ends at ``end``, with its newline where it has one."""
    window = 4096
    while True:
        start = max(0, end - window)
        data = os.pread(fd, end - start, start)
        cut = data.rfind(b"\n", 0, len(data) - 1)
        if cut >= 0 or not start:
            return data[cut + 1 :]
        if window > MAX_LINE:
            raise IntegrityError("the audit log ends in a line above %d bytes" % MAX_LINE, next="keep the file as evidence and move it away")
        window *= 8


def _parse(line: bytes) -> Optional[Mapping[str, Any]]:
    """The record of a line that is whole (no beginning of a JSON object is itself one), forged or not; else None."""
    try:
        record = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    if isinstance(record, dict) and isinstance(record.get("seq"), int) and isinstance(record.get("hash"), str) and len(record["hash"]) == 64:
        return record
    return None


def _replace_torn(fd: int, tip: _Tip, torn: bytes, now: float) -> _Tip:
    """Overwrite the torn bytes after ``tip`` with the record that tells of them."""
    event = {"kind": "torn", "length": len(torn), "sha256": hashlib.sha256(torn).hexdigest(), "text": printable(torn[:TORN_SHOWN])}
    line, new = _link(tip, event, now)
    # Written over the torn bytes and only then cut: at no instant is the file without either the bytes or the record.
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND)
    write_all(fd, line, tip.end)
    os.ftruncate(fd, new.end)
    # One line in flight at a time: a power cut can then tear only the last.
    os.fsync(fd)
    return new


def head(path: bytes) -> str:
    """The hash of the last whole record, 64 zeros for a missing or empty log: what to remember elsewhere."""
    try:
        fd = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return START
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        return _find_tip(fd, os.fstat(fd).st_size).hash
    finally:
        os.close(fd)


def verify_chain(path: bytes, *, expected_head: Optional[str] = None) -> ChainReport:
    """Read the whole log up to its first bad line: edited, inserted, moved, torn, or after a removed one.

    ``expected_head``: a head remembered earlier; the chain must still contain it, wherever it has grown to since. A missing log is
    an empty chain.
    """
    prev, records = START, 0
    awaited = expected_head not in (None, START)
    for line in _whole_lines(path):
        record, reason = _judge(line, records + 1, prev)
        if reason:
            return ChainReport(False, records, records + 1, reason)
        prev, records = record["hash"], records + 1
        awaited = awaited and prev != expected_head
    if awaited:
        return ChainReport(False, records, None, "truncated or rewritten: the remembered head is not in the chain")
    return ChainReport(True, records, None, "")


def events(path: bytes, name: str) -> Iterator[Mapping[str, Any]]:
    """The records of one kind of event, as far as the log can be read; none where it is missing. They are not held against the chain."""
    mark = b'"event":%s' % canonical(name)
    for line in _whole_lines(path):
        record = _parse(line) if mark in line else None
        if record is not None and record.get("event") == name:
            yield record


def _whole_lines(path: bytes) -> Iterator[bytes]:
    """The lines up to where the file ended when no append was under way."""
    try:
        fd = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    with open(fd, "rb") as stream:
        # Only long enough to see a whole last line: a long verification must not hold up the writers.
        fcntl.flock(fd, fcntl.LOCK_SH)
        left = os.fstat(fd).st_size
        fcntl.flock(fd, fcntl.LOCK_UN)
        while left > 0:
            line = stream.readline(min(left, MAX_LINE + 1))
            if not line:
                return
            left -= len(line)
            yield line


def _judge(line: bytes, seq: int, prev: str) -> Tuple[Mapping[str, Any], str]:
    """The record and what is wrong with it, "" for nothing."""
    if not line.endswith(b"\n"):
        return {}, "torn: the line has no end; the next append sets it aside"
    record = _parse(line)
    try:
        if record is None or canonical(record) + b"\n" != line:
            return {}, "edited or inserted: not a record in the form this log writes"
        body = canonical({key: value for key, value in record.items() if key != "hash"})
    except ValueError:  # NaN and infinities can be read but never written
        return {}, "edited or inserted: not a record in the form this log writes"
    if hashlib.sha256(body).hexdigest() != record["hash"]:
        return record, "edited: the hash does not fit the line"
    if record.get("prev") != prev or record["seq"] != seq:
        return record, "does not follow the line before: a line was removed, inserted or moved"
    return record, ""
