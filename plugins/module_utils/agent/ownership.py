# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose files may say what root does."""

from __future__ import annotations

import os
import shlex
import stat

from ..errors import UsageError, printable


def refuse_foreign_writers(path: str) -> None:
    """A policy names what root reads and writes: nobody else may be able to change or replace it. Raises UsageError."""
    real = os.path.realpath(path)
    for suspect in dict.fromkeys((real, os.path.dirname(real), os.path.dirname(os.path.abspath(path)))):
        try:
            found = os.stat(suspect)
        except OSError:
            continue  # reading the policy says what is wrong
        # In a sticky directory, /tmp above all, only the owner of a file can replace it.
        writable = found.st_mode & 0o022 and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX)
        if found.st_uid != 0 or writable:
            name = shlex.quote(printable(suspect))
            raise UsageError(
                "%s can be changed by others than root, and root would do what it says" % printable(suspect),
                kind="policy_permissions",
                field="policy",
                found="owner %d, mode %04o" % (found.st_uid, stat.S_IMODE(found.st_mode)),
                allowed="owner root, writable by nobody else",
                next="look at what it says, then `chown root %s && chmod go-w %s`" % (name, name),
            )
