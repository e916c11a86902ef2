# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The master key of sealed packs: 32 bytes from a file or a program. It is never shown, and never part of an error."""

from __future__ import annotations

import base64
import binascii
import os
import stat
import subprocess
from typing import Optional, Sequence

from ...errors import RefusedError, TargetError, printable
from ...manifest.walk import FILE_FLAGS
from .sealing import KEY_BYTES

# A program that asks a person or a machine far away gets this long (s).
_PATIENCE = 120
_MOST = 4096
_ALLOWED = "32 bytes as base64 or as 64 hexadecimal digits, in one line"
_MAKE = "make one with `umask 077; openssl rand -base64 32 > FILE`, and keep a copy where this machine's loss does not take it"


def read_key(path: str) -> bytes:
    """The key in a file that nobody but its owner can read. ``TargetError`` or ``RefusedError`` (kind ``key``)."""
    try:
        fd = os.open(path, FILE_FLAGS)
    except OSError as error:
        raise _unusable("The key file %s cannot be read: %s" % (printable(path), error.strerror), "target.key_file", path, _MAKE) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _unusable("The key file %s is not a regular file" % printable(path), "target.key_file", path, _MAKE)
        if found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
            raise RefusedError(
                "The key file %s is open to others: mode %04o, owner %d" % (printable(path), stat.S_IMODE(found.st_mode), found.st_uid),
                kind="key",
                field="target.key_file",
                found="%04o" % stat.S_IMODE(found.st_mode),
                allowed="mode 0600 or 0400, and root or this user as its owner",
                next="chmod 600 it; who could read it meanwhile may have a copy",
            )
        with open(fd, "rb", closefd=False) as stream:
            text = stream.read(_MOST)
    finally:
        os.close(fd)
    return _decode(text, "The key file %s" % printable(path), "target.key_file")


def ask_key(argv: Sequence[str]) -> bytes:
    """The key that a program prints. ``TargetError`` (kind ``key``); what the program says is not repeated, it might be the key."""
    field, advice = "target.key_command", "run it by hand as this user and see what it says"
    try:
        done = subprocess.run(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else "no answer within %d s" % _PATIENCE
        raise _unusable("The key command %s cannot be run: %s" % (printable(argv[0]), reason), field, argv[0], advice) from error
    if done.returncode:
        raise _unusable("The key command %s ended with exit code %d" % (printable(argv[0]), done.returncode), field, argv[0], advice)
    return _decode(done.stdout[:_MOST], "What the key command %s prints" % printable(argv[0]), field)


def _decode(text: bytes, what: str, field: str) -> bytes:
    key: Optional[bytes] = None
    word = text.strip()
    try:
        key = bytes.fromhex(word.decode("ascii")) if len(word) == 2 * KEY_BYTES else base64.b64decode(word, validate=True)
    except (ValueError, binascii.Error):
        pass
    if key is None or len(key) != KEY_BYTES:
        size = "nothing" if not word else "%d bytes" % len(key) if key is not None else "%d characters that are neither" % len(word)
        raise TargetError("%s is not a key" % what, kind="key", field=field, found=size, allowed=_ALLOWED, next=_MAKE)
    return key


def _unusable(message: str, field: str, found: str, advice: str) -> TargetError:
    return TargetError(message, kind="key", field=field, found=found, allowed=_ALLOWED, next=advice)
