# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every failure the engine can report: what went wrong, what is allowed, what to do next, and one exit code.

Exit codes: 0 done or unchanged, 1 failed, 2 usage, 3 done with warnings, 4 refused (guard, restore-first, scope),
5 another run holds the lock, 6 target unreachable, 7 integrity failure.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Dict, Optional, Union

# What this machine or this process ran out of says nothing about the file that it was to be used for.
RUN_OUT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_WARNINGS = 3
EXIT_REFUSED = 4
EXIT_LOCKED = 5
EXIT_UNREACHABLE = 6
EXIT_INTEGRITY = 7


def printable(value: Union[bytes, str]) -> str:
    """Text that can be shown and stored as JSON, another one for every value: bytes that are not UTF-8 become ``\\xNN``, control characters and
    backslashes what Python and ``$'…'`` write for them."""
    text = os.fsdecode(value)
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        "\\x%02x" % (ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def cut(text: str, length: int = 500) -> str:
    """A text for a record that must not grow beyond all bounds: of a longer one its beginning and how long it is (characters)."""
    return text if len(text) <= length else "%s... (%d)" % (text[:length], len(text))


def counted(number: int, noun: str) -> str:
    """``1 file``, ``1,234 files``, ``2 entries``, ``2 directories``."""
    if number == 1:
        return "1 " + noun
    return "{:,} {}".format(number, noun[:-1] + "ies" if noun.endswith("y") else noun + "s")


class BackupError(Exception):
    """A failure with its fields: ``kind``, ``field``, ``found``, ``allowed``, ``next`` and an exit code ``rc``.

    ``done``: keys of the public result that are known all the same.
    """

    kind = "failed"
    rc = EXIT_FAILED

    def __init__(
        self,
        message: str,
        *,
        kind: Optional[str] = None,
        field: Optional[str] = None,
        found: Any = None,
        allowed: Optional[str] = None,
        next: Optional[str] = None,  # noqa: A002 - the name is part of the public result
    ) -> None:
        super().__init__(message)
        self.message = message
        if kind is not None:
            self.kind = kind
        self.field = field
        self.found = found
        self.allowed = allowed
        self.next = next
        self.done: Dict[str, Any] = {}

    def to_dict(self) -> Dict[str, Any]:
        """The public ``error`` mapping: ``{kind, field, found, allowed, next}``."""
        found = self.found
        if isinstance(found, (bytes, str)):
            found = printable(found)
        return {"kind": self.kind, "field": self.field, "found": found, "allowed": self.allowed, "next": self.next}

    def __str__(self) -> str:
        parts = [self.message]
        if self.allowed:
            parts.append("Allowed: %s." % self.allowed.rstrip("."))
        if self.next:
            parts.append("Next: %s." % self.next.rstrip("."))
        return " ".join(part if part.endswith((".", "!", "?")) else part + "." for part in parts)


def refused_by_system(error: OSError, doing: str) -> BackupError:
    """What a failed system call means to somebody who cannot read a traceback; ``doing`` ends "failed while …"."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    path = error.filename if isinstance(error.filename, (bytes, str)) else None
    reason = error.strerror or str(error)
    return BackupError(
        "Failed while %s: %s%s" % (doing, reason, " (%s)" % printable(path) if path else ""),
        kind="no_space" if full else "system",
        found=path or reason,
        next="free space and run again"
        if full
        else "raise the limits of this process (ulimit -n, -u, -v), or free memory, and run again"
        if error.errno in RUN_OUT or error.errno == errno.EAGAIN
        else "check the owner and mode of what is named and run again",
    )


class UsageError(BackupError):
    """The request itself is wrong: an option, a policy key, a pattern."""

    kind = "usage"
    rc = EXIT_USAGE


class PolicyError(UsageError):
    """A policy key is unknown, missing, of the wrong type or out of range; ``field`` names it (``guards.min_files``)."""

    kind = "policy"


class RefusedError(BackupError):
    """A safety rule says no; nothing was published. Kinds: guard, restore_first, writer, confirm, clock."""

    kind = "guard"
    rc = EXIT_REFUSED


class LockedError(BackupError):
    """Another run holds the lock."""

    kind = "locked"
    rc = EXIT_LOCKED


class TargetError(BackupError):
    """The target cannot be reached or used."""

    kind = "target"
    rc = EXIT_UNREACHABLE


class IntegrityError(BackupError):
    """What was read is not what was written: damaged, truncated or tampered data."""

    kind = "integrity"
    rc = EXIT_INTEGRITY
