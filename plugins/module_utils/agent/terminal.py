# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines out and answers in, whatever standard input and output are connected to."""

from __future__ import annotations

import os
import sys
from typing import Iterable, Optional, TextIO

from ..errors import printable


def prepare() -> None:
    """A name that the locale cannot show must not end a backup."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def tell(lines: Iterable[str]) -> None:
    """Lines on standard output. A reader that has seen enough is no error; OSError for one that should have taken them."""
    try:
        _write(sys.stdout, lines)
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError:
        _drop(sys.stdout)
        raise


def complain(lines: Iterable[str]) -> None:
    """Lines on standard error; where nobody takes them there is nobody to tell."""
    try:
        _write(sys.stderr, lines)
    except OSError:
        _drop(sys.stderr)


def can_ask() -> bool:
    """Is there a person at standard input?"""
    return sys.stdin is not None and sys.stdin.isatty()


def agrees(lines: Iterable[str]) -> bool:
    """Show ``lines``, ask whether to go on, and return whether the answer was yes. On standard error: standard output is the result's."""
    complain(lines)
    if sys.stderr is not None:
        sys.stderr.write("Go on? [y/N] ")
        sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(stream: Optional[TextIO], lines: Iterable[str]) -> None:
    if stream is None:  # closed by whoever started the program
        return
    for line in lines:
        # Whatever a name holds, it moves no cursor.
        stream.write((line if line.isprintable() else printable(line)) + "\n")
    stream.flush()


def _drop(stream: Optional[TextIO]) -> None:
    """Let what is still in a broken stream's buffer go nowhere, or Python complains of it on its way out."""
    if stream is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
