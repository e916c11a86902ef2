# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a history is. What root writes into one that another account keeps is root's, and shuts that account out of its own vault."""

from __future__ import annotations

import errno
import os
import pwd
from contextlib import suppress
from typing import Optional

from ...errors import RefusedError, printable
from .layout import FORMAT_FILE, History


def keeper_of(history: History) -> Optional[int]:
    """The account that keeps a history, by its number, where we are root and would leave files there that are not that account's; else None.

    Where there is no history yet, who made the vault says whose it will be. Links are not followed: an account could lead root to where root's files are.
    """
    if os.geteuid() != 0:
        return None
    host = os.path.dirname(history.base)
    vault = os.path.dirname(host)
    owners = [_owner(host), _owner(history.base)]
    if owners == [None, None]:
        owners = [_owner(vault + b"/" + FORMAT_FILE)]
    keeper = next((uid for uid in owners if uid), None)
    return keeper if keeper is not None and _makes_own_files(vault) else None


def refuse_root(history: History) -> None:
    """``RefusedError`` (kind ``keeper``) where another account keeps the history, and root would shut it out."""
    keeper = keeper_of(history)
    if keeper is None:
        return
    name = name_of(keeper)
    host, policy = (printable(part) for part in history.base.split(b"/")[-2:])
    raise RefusedError(
        "The history %s is kept by the account %s, which what root writes there would shut out" % (printable(history.base), name),
        kind="keeper",
        field="target",
        found="root",
        allowed=name,
        next="work as that account: on a vault that the roles made with `openclaw-backup-vault VERB %s %s`, elsewhere with `runuser -u %s -- openclaw-backup`"
        % (host, policy, name),
    )


def name_of(uid: int) -> str:
    """What an account is called."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _owner(path: bytes) -> Optional[int]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.lstat(path).st_uid
    return None


def _makes_own_files(vault: bytes) -> bool:
    """Whether what root makes there is root's: some mounts give all to one account."""
    try:
        fd = os.open(vault, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            return False  # nothing can be made there, and the work itself will say so
        name = b"%s/.openclaw-backup.%d" % (vault, os.getpid())
        try:
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        os.unlink(name)
    try:
        return os.fstat(fd).st_uid == 0
    finally:
        os.close(fd)
