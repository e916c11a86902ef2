# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What host and vault say to one another over an ``ssh`` channel: frames, each one byte of kind, four of length (big endian), and so many of content.

``J`` holds one JSON object, ``D`` a piece of a stream of bytes, ``E`` (empty) ends the stream. Before the first frame the vault writes ``GREETING``.
Both sides believe nothing: lengths are bounded, and every wait has an end.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple

from ...errors import BackupError, IntegrityError, LockedError, PolicyError, RefusedError, TargetError, UsageError, printable

PROTOCOL = 1
# What the host asks sshd for. The vault's forced command decides what it gets.
REQUEST = b"openclaw-backup serve"
GREETING = b"openclaw-backup vault\n"
MAX_JSON = 4 << 20
PIECE = 1 << 18
WATCH_SECONDS = 1.0
_MAX_PIECE = 1 << 20
_HEAD = struct.Struct(">cI")
_JSON, _DATA, _END = b"J", b"D", b"E"
_PLAIN = (type(None), bool, int, float, str)
_CLASSES = {cls.__name__: cls for cls in (BackupError, IntegrityError, LockedError, PolicyError, RefusedError, TargetError, UsageError)}


class Wire:
    """One end of a conversation over two descriptors, which somebody else closes.

    ``patience``: seconds that one frame may take to come or to be taken, None for ever. ``deadline`` (``time.monotonic()``), where it is set, ends
    every wait. ``watch``, where it is set, is called about once a second, whatever happens, and ends by what it raises what is under way.
    What breaks is a ``TargetError`` of kind ``connection``, what is not the protocol one of kind ``protocol``.
    """

    def __init__(self, source: int, sink: int, *, patience: Optional[float] = None) -> None:
        self._source = source
        self._sink = sink
        self.patience = patience
        self.deadline: Optional[float] = None
        self.watch: Optional[Callable[[], None]] = None
        self._watched = time.monotonic()
        self._buffer = bytearray()
        os.set_blocking(source, False)
        os.set_blocking(sink, False)

    def forget(self) -> None:
        """The descriptors are closed."""
        self._source = self._sink = -1

    @property
    def is_closed(self) -> bool:
        """Whether ``forget`` was called."""
        return self._source < 0

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        rest = memoryview(data)
        until = self._until()
        self._check_end()
        while rest:
            try:
                rest = rest[os.write(self._sink, rest) :]
            except BlockingIOError:
                try:
                    self._wait(self._sink, select.POLLOUT, until)
                except TargetError:
                    raise
                except BackupError as error:  # in the middle of a frame, so that no other can follow
                    raise lost() from error
            except OSError as error:
                raise lost() from error

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one JSON object."""
        data = json.dumps(message, separators=(",", ":")).encode("ascii")
        if len(data) > MAX_JSON:
            raise foul("a message of %d bytes" % len(data))
        self.write(_HEAD.pack(_JSON, len(data)) + data)

    def send_stream(self, pieces: Iterable[bytes]) -> None:
        """Send bytes piece by piece, and their end."""
        for piece in pieces:
            for start in range(0, len(piece), PIECE):  # none for an empty one
                part = piece[start : start + PIECE]
                self.write(_HEAD.pack(_DATA, len(part)) + part)
        self.write(_HEAD.pack(_END, 0))

    def read_greeting(self) -> None:
        """Read ``GREETING``; whatever else comes is shown in the error."""
        until = self._until()
        while len(self._buffer) < len(GREETING):
            if not self._fill(until):
                break
            if not GREETING.startswith(self._buffer[: len(GREETING)]):
                break
        if not self._buffer.startswith(GREETING):
            said = printable(bytes(self._buffer[:200]).strip())
            if not said:
                raise lost()
            raise foul("it said %s" % said)
        del self._buffer[: len(GREETING)]

    def receive(self) -> Dict[str, Any]:
        """The next message."""
        kind, data = self._frame()
        if kind != _JSON:
            raise foul("a frame of kind %r where a message belongs" % kind)
        return _object(data)

    def receive_stream(self, limit: int) -> Iterator[bytes]:
        """The pieces of a stream, to be read to their end; ``limit`` bytes at most. Where the other side breaks it off with an error, that is raised."""
        total = 0
        while True:
            kind, data = self._frame()
            if kind == _END:
                return
            if kind == _JSON and "error" in (message := _object(data)):
                raise unpack_error(message["error"])
            if kind != _DATA:
                raise foul("a frame of kind %r inside a stream" % kind)
            total += len(data)
            if total > limit:
                raise foul("a stream of more than %d bytes" % limit)
            yield data

    def _frame(self) -> Tuple[bytes, bytes]:
        until = self._until()
        self._check_end()
        self._need(_HEAD.size, until)
        kind, length = _HEAD.unpack_from(self._buffer)
        if (not length and kind != _END) or length > (MAX_JSON if kind == _JSON else _MAX_PIECE if kind == _DATA else 0):
            raise foul("a frame of kind %r with %d bytes" % (kind, length))
        self._need(_HEAD.size + length, until)
        data = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
        del self._buffer[: _HEAD.size + length]
        return kind, data

    def _need(self, count: int, until: Optional[float]) -> None:
        while len(self._buffer) < count:
            if not self._fill(until):
                raise lost()

    def _fill(self, until: Optional[float]) -> bool:
        """Read what has come, waiting for it; False at the end."""
        while True:
            try:
                data = os.read(self._source, PIECE)
            except BlockingIOError:
                self._wait(self._source, select.POLLIN, until)
                continue
            except OSError as error:
                raise lost() from error
            self._buffer += data
            return bool(data)

    def _until(self) -> Optional[float]:
        ends = [] if self.patience is None else [time.monotonic() + self.patience]
        if self.deadline is not None:
            ends.append(self.deadline)
        return min(ends, default=None)

    def _check_end(self) -> None:
        """Also where the other side never lets us wait."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TargetError("The conversation took too long", kind="connection", field="target", next="run again: what has arrived is used")
        if self.watch is not None and time.monotonic() >= self._watched + WATCH_SECONDS:
            self._watched = time.monotonic()
            self.watch()

    def _wait(self, fd: int, event: int, until: Optional[float]) -> None:
        poller = select.poll()
        poller.register(fd, event)
        while True:
            waits = [] if until is None else [until - time.monotonic()]
            if waits and waits[0] <= 0:
                raise TargetError(
                    "The other side of the connection stands still", kind="connection", field="target", next="look at the network and the vault; run again"
                )
            if self.watch is not None:
                waits.append(WATCH_SECONDS)
            if poller.poll(1000 * min(waits) if waits else None):
                return
            self._check_end()


def _object(data: bytes) -> Dict[str, Any]:
    """The JSON object of a frame."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise foul("a message that is not JSON") from error
    if type(message) is not dict:
        raise foul("a message that is no object")
    return message


def lost() -> TargetError:
    """The failure to report where the other side went away."""
    return TargetError("The connection broke", kind="connection", field="target", next="run again: what has arrived is used")


def foul(what: str) -> TargetError:
    return TargetError(
        "The other side does not speak the protocol of openclaw-backup: %s" % what,
        kind="protocol",
        field="target",
        found=what,
        allowed="the vault's `openclaw-backup serve` as the forced command of this host's key",
        next="check the key's line in the vault's authorized_keys, and that its shell and profile print nothing",
    )


def pack_error(error: BackupError) -> Dict[str, Any]:
    """A failure as a message; its class by name."""
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _CLASSES)
    item = error.to_dict()
    found = item["found"]
    return {**item, "found": found if type(found) in _PLAIN else str(found), "class": name, "message": error.message}


def unpack_error(item: Any) -> BackupError:
    """The failure of a message; ``TargetError`` of kind ``protocol`` where it is none."""
    texts = ("message", "kind", "field", "allowed", "next")
    if (
        type(item) is not dict
        or type(item.get("class")) is not str
        or item["class"] not in _CLASSES
        or not all(item.get(key) is None or type(item[key]) is str for key in texts)
    ):
        raise foul("an error that is none")
    told = {key: _shown(item.get(key)) for key in ("kind", "field", "found", "allowed", "next")}
    return _CLASSES[item["class"]](_shown(item.get("message")) or "", **told)


def _shown(value: Any) -> Any:
    """A value from the other side, fit for a terminal."""
    if type(value) is str and not value.isprintable():
        return printable(value)
    return value if type(value) in _PLAIN else None
