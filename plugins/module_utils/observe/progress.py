# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a long action tells while it works, and the one line of a terminal that shows it."""

from __future__ import annotations

import math
import os
import time
from typing import Callable, Optional, TextIO

from ..errors import printable

INTERVAL = 0.2  # seconds between two drawings


class Progress:
    """What an action tells of itself; this one is told and stays silent. Used from one thread."""

    def stage(self, name: str, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        """A stage begins, with its totals where they are known (0: they are not)."""

    def advance(self, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        """So much more of the stage is done. Cheap enough for every chunk."""

    def note(self, text: str) -> None:
        """One line for the reader that stays."""

    def finish(self) -> None:
        """The action is over; may be said twice."""


class TerminalProgress(Progress):
    """One line that overwrites itself: stage, files, bytes, rate, time left.

    Drawn anew at most five times a second, and at once when a stage begins: what follows may be silent for long.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._due = math.inf
        self._shown = 0
        self._name = ""
        self._started = 0.0
        self._files = self._bytes = self._all_files = self._all_bytes = 0

    def stage(self, name: str, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        self._name = printable(name)
        self._started = self._clock()
        self._files = self._bytes = 0
        self._all_files, self._all_bytes = files, bytes
        self._draw(self._started)

    def advance(self, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        self._files += files
        self._bytes += bytes
        now = self._clock()
        if now >= self._due:
            self._draw(now)

    def note(self, text: str) -> None:
        self._write(self._blank() + printable(text) + "\n")
        if self._due < math.inf:
            self._draw(self._clock())

    def finish(self) -> None:
        self._write(self._blank())
        self._due = math.inf

    def _draw(self, now: float) -> None:
        self._due = now + INTERVAL
        # The last column stays free: a character there moves many terminals to the next line.
        width = self._columns() - 1
        text = self._line(now - self._started, width)
        self._write("\r" + text.ljust(min(self._shown, width)))
        self._shown = len(text)

    def _line(self, elapsed: float, width: int) -> str:
        """The widest choice of parts that fits."""
        left = _left(elapsed, self._bytes, self._all_bytes) if self._all_bytes else _left(elapsed, self._files, self._all_files)
        parts = {
            "name": self._name,
            "files": _share(self._files, self._all_files, "{:,}".format) + " files" if self._files or self._all_files else "",
            "bytes": _share(self._bytes, self._all_bytes, format_bytes) if self._bytes or self._all_bytes else "",
            "rate": format_rate(self._bytes / elapsed) if self._bytes and elapsed >= 1 else "",
            "left": format_time_left(left) + " left" if left is not None and elapsed >= 1 else "",
        }
        for least in ("", "rate", "files", "left", "bytes"):
            parts.pop(least, None)
            line = "  ".join(filter(None, parts.values()))
            if len(line) <= width:
                break
        return line[: max(0, width)]

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _blank(self) -> str:
        shown, self._shown = self._shown, 0
        return "\r" + " " * min(shown, self._columns() - 1) + "\r" if shown else ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # a terminal that went away must not end a backup


def progress_for(stream: Optional[TextIO], quiet: bool) -> Progress:
    """A line on ``stream`` where that is a terminal and its user did not ask for quiet."""
    try:
        is_terminal = stream is not None and stream.isatty()
    except ValueError:  # closed
        is_terminal = False
    return TerminalProgress(stream) if stream is not None and is_terminal and not quiet else Progress()


def format_bytes(n: float) -> str:
    """``0 B``, ``1023 B``, ``1.5 KiB``, ``12.0 GiB``."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if round(abs(n), 1) < 1024:
            break
        n, unit = n / 1024, larger
    return ("%d %s" if unit == "B" else "%.1f %s") % (n, unit)


def format_rate(bytes_per_second: float) -> str:
    """``45.3 MiB/s``."""
    return format_bytes(bytes_per_second) + "/s"


def format_time_left(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``, ``2d 03h``; ``?`` for what nobody waits for (100 days, infinity)."""
    if not 0 <= seconds < 100 * 86400:
        return "?"
    minutes, secs = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return "%dd %02dh" % divmod(hours, 24)
    return "%d:%02d:%02d" % (hours, minutes, secs) if hours else "%d:%02d" % (minutes, secs)


def _share(done: int, total: int, show: Callable[[int], str]) -> str:
    return "%s/%s" % (show(done), show(total)) if total else show(done)


def _left(elapsed: float, done: int, total: int) -> Optional[float]:
    """Seconds, from the average of the stage; None where it cannot be told."""
    return elapsed * (total - done) / done if 0 < done <= total else None
