# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress: one line of a real terminal, never more, and nothing anywhere else."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import termios
import time
from typing import Iterator, List, TextIO

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.observe.progress import (
    Progress,
    TerminalProgress,
    format_bytes,
    format_rate,
    format_time_left,
    progress_for,
)
from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A pseudo-terminal that is looked at like a screen."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.stream: TextIO = open(slave, "w")
        self.columns = 80
        self.resize(80)
        self.rows: List[str] = [""]
        self.column = 0
        self.drawings = 0

    def resize(self, columns: int) -> None:
        self.columns = columns
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def look(self) -> List[str]:
        """All rows so far, the last one being the line at work; counts the drawings."""
        os.write(self.stream.fileno(), b"\5")  # the kernel passes bytes on in its own time; this one comes last
        text = ""
        while not text.endswith("\5"):
            text += os.read(self.master, 1 << 16).decode()
        text = text[:-1]
        self.drawings += bool(text)
        for char in text:
            if char == "\r":
                self.column = 0
            elif char == "\n":
                self.rows.append("")
            else:
                assert self.column < self.columns - 1 or len(self.rows) > 1, "the line wraps"
                row = self.rows[-1].ljust(self.column)
                self.rows[-1] = row[: self.column] + char + row[self.column + 1 :]
                self.column += 1
        return [row.rstrip() for row in self.rows]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.stream.close()
    os.close(terminal.master)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_line_tells_stage_files_bytes_rate_and_time_left(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Sending", files=2000, bytes=100 * MIB)
    assert terminal.look() == ["Sending  0/2,000 files  0 B/100.0 MiB"]
    clock.now += 10
    progress.advance(files=1500, bytes=25 * MIB)
    assert terminal.look() == ["Sending  1,500/2,000 files  25.0 MiB/100.0 MiB  2.5 MiB/s  0:30 left"]


def test_an_earlier_longer_line_leaves_nothing_behind(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("A stage with a long name", files=2000, bytes=100 * MIB)
    progress.stage("Short")
    assert terminal.look() == ["Short"]


def test_unknown_totals_show_what_is_done_and_promise_nothing(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Scanning")
    clock.now += 5
    progress.advance(files=12345)
    assert terminal.look() == ["Scanning  12,345 files"]


def test_more_done_than_announced_promises_no_time(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Sending", bytes=MIB)
    clock.now += 2
    progress.advance(bytes=2 * MIB)
    assert terminal.look() == ["Sending  2.0 MiB/1.0 MiB  1.0 MiB/s"]


def test_files_tell_the_time_left_where_bytes_do_not(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Checking", files=100)
    clock.now += 3
    progress.advance(files=25)
    assert terminal.look() == ["Checking  25/100 files  0:09 left"]


def test_a_terminal_is_not_flooded(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Sending", files=3000)
    terminal.look()
    terminal.drawings = 0
    for _chunk in range(3000):  # three seconds
        clock.now += 0.001
        progress.advance(files=1)
        terminal.look()
    assert 12 <= terminal.drawings <= 15
    assert terminal.look()[0].startswith("Sending  ")


@pytest.mark.parametrize("columns", [1, 2, 10, 20, 30, 45, 60, 79, 200])
def test_no_width_makes_the_line_wrap(terminal: Terminal, clock: Clock, columns: int) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Sending", files=2000, bytes=100 * MIB)
    terminal.look()
    terminal.rows, terminal.column = [""], 0
    terminal.resize(columns)
    clock.now += 10
    progress.advance(files=1500, bytes=25 * MIB)
    (row,) = terminal.look()
    assert len(row) < columns
    assert row == "Sending  1,500/2,000 files  25.0 MiB/100.0 MiB  2.5 MiB/s  0:30 left" if columns == 200 else row.startswith("Sending"[: columns - 1])
    progress.finish()
    assert terminal.look() == [""]


def test_a_terminal_that_does_not_know_its_width_still_gets_a_line(terminal: Terminal, clock: Clock) -> None:
    terminal.resize(0)
    terminal.columns = 80
    TerminalProgress(terminal.stream, clock=clock).stage("x" * 200)
    assert terminal.look() == ["x" * 79]


def test_finish_clears_the_line_and_what_comes_late_stays_unseen(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Sending", files=10)
    progress.finish()
    assert terminal.look() == [""]
    clock.now += 10
    progress.advance(files=1)
    progress.finish()
    assert terminal.look() == [""]
    progress.note("Done.")
    assert terminal.look() == ["Done.", ""]


def test_a_note_stays_above_the_line(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Sending", files=10)
    progress.note("retrying after a lost connection")
    assert terminal.look() == ["retrying after a lost connection", "Sending  0/10 files"]


def test_control_characters_cannot_reach_the_terminal(terminal: Terminal, clock: Clock) -> None:
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.note("a\x1b[2Jb\udcff\nc")
    assert terminal.look() == ["a\\x1b[2Jb\\xff\\nc", ""]


def test_a_terminal_that_goes_away_does_not_end_the_action(clock: Clock) -> None:
    terminal = Terminal()
    progress = TerminalProgress(terminal.stream, clock=clock)
    progress.stage("Sending", files=10)
    os.close(terminal.master)
    clock.now += 1
    progress.advance(files=1)
    progress.note("still here")
    progress.finish()
    try:
        terminal.stream.close()
    except OSError:
        pass
    progress.stage("even closed")


def test_only_a_terminal_whose_user_did_not_ask_for_quiet_gets_a_line(terminal: Terminal) -> None:
    closed = io.StringIO()
    closed.close()
    assert type(progress_for(terminal.stream, False)) is TerminalProgress
    assert type(progress_for(terminal.stream, True)) is Progress
    assert type(progress_for(io.StringIO(), False)) is Progress
    assert type(progress_for(closed, False)) is Progress
    assert type(progress_for(None, False)) is Progress


def test_the_silent_progress_takes_every_call() -> None:
    progress = Progress()
    progress.stage("Sending", files=1, bytes=2)
    progress.advance(1, 2)
    progress.advance(files=1, bytes=2)
    progress.note("text")
    progress.finish()


def test_advance_is_cheap_enough_for_every_chunk(terminal: Terminal) -> None:
    progress = TerminalProgress(terminal.stream)
    progress.stage("Sending", bytes=10**9)
    started = time.perf_counter()
    for _chunk in range(100_000):
        progress.advance(bytes=10)
    assert time.perf_counter() - started < 0.5  # 0.03 s on an idle machine


@pytest.mark.parametrize(
    "n, text",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (MIB - 1, "1.0 MiB"),
        (12 << 30, "12.0 GiB"),
        (1 << 70, "1024.0 EiB"),
        (-1536, "-1.5 KiB"),
    ],
)
def test_bytes_are_shown_in_binary_units(n: int, text: str) -> None:
    assert format_bytes(n) == text


@given(st.integers(0, 1 << 69))
def test_a_shown_size_is_never_off_by_more_than_its_rounding(n: int) -> None:
    number, unit = format_bytes(n).split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert abs(float(number) * factor - n) <= 0.0501 * factor
    assert float(number) < 1024


def test_a_rate_is_bytes_a_second() -> None:
    assert format_rate(47.5 * MIB) == "47.5 MiB/s"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0:00"),
        (6.2, "0:07"),
        (59.9, "1:00"),
        (754, "12:34"),
        (3723, "1:02:03"),
        (86399.5, "1d 00h"),
        (183600, "2d 03h"),
        (1e9, "?"),
        (-1, "?"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_time_left_is_short_and_never_absurd(seconds: float, text: str) -> None:
    assert format_time_left(seconds) == text
