# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rsync's exit codes: what they mean and what a caller does next.

Origin: ``errcode.h`` and the EXIT VALUES section of rsync(1), 3.2.3 to 3.5; 255 is ssh(1)'s own. A code is a hint only: which
files arrived is decided by whoever hashes them.
"""

from __future__ import annotations

from typing import Dict, Iterable, NamedTuple

DONE = "done"
PARTIAL = "partial"  # the rest arrived; ask the receiver what is missing
RETRY = "retry"  # the same call may succeed later
FATAL = "fatal"  # the same call fails again until somebody changes something


class ExitCode(NamedTuple):
    """One code: its name in errcode.h without ``RERR_``, its meaning, and ``DONE``, ``PARTIAL``, ``RETRY`` or ``FATAL``."""

    name: str
    meaning: str
    outcome: str


EXIT_CODES: Dict[int, ExitCode] = {
    0: ExitCode("OK", "everything was sent", DONE),
    1: ExitCode("SYNTAX", "rsync refused an option", FATAL),
    2: ExitCode("PROTOCOL", "the two rsync programs share no protocol, or something printed text into the connection", FATAL),
    3: ExitCode("FILESELECT", "the source or destination directory cannot be entered", FATAL),
    4: ExitCode("UNSUPPORTED", "one side lacks a requested feature", FATAL),
    5: ExitCode("STARTCLIENT", "the other side refused to start", RETRY),
    10: ExitCode("SOCKETIO", "the connection failed", RETRY),
    11: ExitCode("FILEIO", "a file could not be written: disk full, quota, or read-only", FATAL),
    12: ExitCode("STREAMIO", "the connection broke", RETRY),
    13: ExitCode("MESSAGEIO", "rsync could not report: its reader is gone", RETRY),
    14: ExitCode("IPC", "rsync could not start its own processes", RETRY),
    15: ExitCode("CRASHED", "an rsync process crashed", RETRY),
    16: ExitCode("TERMINATED", "an rsync process was killed", RETRY),
    19: ExitCode("SIGNAL1", "rsync received SIGUSR1", RETRY),
    20: ExitCode("SIGNAL", "rsync was interrupted", RETRY),
    21: ExitCode("WAITCHILD", "rsync lost sight of its own process", RETRY),
    22: ExitCode("MALLOC", "out of memory", RETRY),
    23: ExitCode("PARTIAL", "some files could not be read or written", PARTIAL),
    24: ExitCode("VANISHED", "some files disappeared before they were sent", PARTIAL),
    30: ExitCode("TIMEOUT", "no data for longer than the timeout", RETRY),
    35: ExitCode("CONTIMEOUT", "the connection could not be opened in time", RETRY),
    124: ExitCode("CMD_FAILED", "the remote command failed", RETRY),
    125: ExitCode("CMD_KILLED", "the remote command was killed", RETRY),
    126: ExitCode("CMD_RUN", "the remote command cannot be run", FATAL),
    127: ExitCode("CMD_NOTFOUND", "the remote command was not found", FATAL),
    255: ExitCode("SSH", "ssh could not connect or was refused", RETRY),
}


def classify(code: int) -> ExitCode:
    """The table's entry for ``code``; one for a death by signal (negative, as `subprocess` gives it) or a code without a name."""
    if code < 0:
        return ExitCode("KILLED", "rsync was killed by signal %d" % -code, RETRY)
    return EXIT_CODES.get(code) or ExitCode("UNKNOWN", "rsync gave a code without a documented meaning", FATAL)


def explain(code: int) -> str:
    """One line for people: ``connection broke (rsync exit code 12, STREAMIO)``."""
    entry = classify(code)
    return "%s (rsync exit code %d, %s)" % (entry.meaning, code, entry.name)


def worst(codes: Iterable[int]) -> int:
    """The code that decides what happens next: fatal before retry before partial before done; 0 for no code."""
    rank = (DONE, PARTIAL, RETRY, FATAL)
    return max(codes, key=lambda code: rank.index(classify(code).outcome), default=0)
