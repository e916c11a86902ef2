# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing what dead sessions have left: of one history, or of a whole vault that is short of room."""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import suppress
from typing import List

from ...errors import BackupError
from ...manifest.walk import Descent
from ...process import lock
from .clone import discard
from .layout import History

# What begins so is left of a session and could not be removed: somebody still works in it. The next sweep tries again.
CLOSED = b"closed."
# A program of root's that removes what is in its directory; sudo lets the vault's account run it as the accounts of the hosts.
_EMPTY = "/usr/local/libexec/openclaw-backup/empty"
# How long a session of one host may be busy with what the others have left (s); somebody may go on filling it.
_ALL_SECONDS = 60.0
# Where in a session the account of a host has had its way.
INBOXES = (b"in", b"early", b"kept", b"spent")


def clear_away(incoming: Descent, name: bytes) -> None:
    """Remove a dead session; where that cannot be, at least put it where it stands in nobody's way."""
    with suppress(OSError):
        discard(incoming.root_fd, name)
        return
    for inbox in INBOXES:
        _have_emptied(incoming, b"%s/%s/files" % (name, inbox))
    try:
        discard(incoming.root_fd, name)
    except OSError:
        if not name.startswith(CLOSED):
            with suppress(OSError):
                os.rename(name, CLOSED + name, src_dir_fd=incoming.root_fd, dst_dir_fd=incoming.root_fd)


def _have_emptied(incoming: Descent, place: bytes) -> None:
    """Have the account whose group ``place`` is open to remove what it has closed to us there: its own directories obey nobody else but root."""
    import grp
    import subprocess

    with suppress(OSError, KeyError):
        fd = incoming.directory(place)
        group = os.fstat(fd).st_gid
        if group == os.getegid():
            return
        argv = ["sudo", "-n", "-u", grp.getgrgid(group).gr_name, "--", _EMPTY]  # the role vault gives account and group one name
        null = subprocess.DEVNULL
        subprocess.run(argv, cwd=b"/proc/self/fd/%d" % fd, stdin=null, stdout=null, stderr=null, check=False)
    incoming.forget()


def sweep(history: History, until: float = math.inf) -> None:
    """Remove what dead sessions of a history have left, and begin with none after ``until`` (``time.monotonic()``); nothing while one is open.

    ``OSError`` where the history cannot be written."""
    try:
        names = os.listdir(history.incoming)
    except FileNotFoundError:
        return
    if not names:
        return
    try:
        fd = lock(history.writer_lock, fcntl.LOCK_EX, "Another session", patience=0)
    except BackupError:
        return
    try:
        with Descent(history.incoming) as incoming:
            for name in os.listdir(history.incoming):
                if time.monotonic() < until:
                    clear_away(incoming, name)
    finally:
        os.close(fd)


def sweep_all(vault: bytes) -> None:
    """The same in all histories of a vault, as far as it goes: what they might have used again matters less than that others can go on."""
    until = time.monotonic() + _ALL_SECONDS
    for host in _directories(vault):
        for policy in _directories(host):
            with suppress(OSError):
                sweep(History(policy), until)


def _directories(path: bytes) -> List[bytes]:
    with suppress(OSError), os.scandir(path) as found:
        return sorted(item.path for item in found if item.is_dir(follow_symlinks=False) and not item.name.startswith(b"."))
    return []
