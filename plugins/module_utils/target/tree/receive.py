# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying content from where it lies into a session on the same machine: read once, hashed as it is written, by several processes.

What goes wrong at a source is no error here: a file that did not come as the manifest says is not proven, and the commit says so.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, AbstractSet, Iterable, List, NamedTuple, Optional, Set, Tuple

from ... import pool
from ...errors import RUN_OUT
from ...manifest.content import copy_file, hash_file, patch_file
from ...manifest.entry import Entry
from ...manifest.metadata import Losses
from ...manifest.walk import CREATE_FLAGS, Descent, open_file, remove_tree
from ..contract import Delivery, Tell
from ..sources import NATIVE
from .build import finish_file

if TYPE_CHECKING:
    from ...transfer.pace import Pace

_PATCH_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
# A vault that answers so is at fault itself.
_VAULTS_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# What making, copying and finishing a file costs beside its bytes, in bytes.
_FILE_COST = 16 << 10
# Larger files are copied before all others, so that the last of them does not keep one process at work alone.
_LARGE = 4 << 20


class Received(NamedTuple):
    """``proven``: of these files every byte was hashed as it was written, is what the manifest says, and its inode bears their metadata;
    ``written``, ``hashed``: bytes."""

    proven: List[Entry]
    written: int
    hashed: int


def receive(
    delivery: Delivery, files: Descent, laid: AbstractSet[bytes], storage: str, *, resume: bool, tell: Optional[Tell] = None, pace: Optional[Pace] = None
) -> Received:
    """Copy what ``delivery`` wants to the same paths below ``files``; the paths in ``laid`` have an old version there, which is patched.

    With ``resume`` a file that is there with the size and time of its entry stays, unproven. A file bears its entry's time only when it is whole.
    ``pace``: read by one process, and no faster. ``OSError`` where the vault cannot be written.
    """
    native = storage == NATIVE
    staged = delivery.staged
    entries = sorted(delivery.wanted, key=lambda entry: -(entry.size // _LARGE))
    files_fd = files.root_fd

    def work(start: int, stop: int, told: Tell) -> Tuple[List[int], int, int]:
        written = hashed = 0
        unproven: List[int] = []
        losses = Losses()
        with Descent(delivery.root) as live, Descent(delivery.staging if staged else delivery.root) as private, Descent(b".", dir_fd=files_fd) as into:
            for number in range(start, stop):
                entry = entries[number]
                is_staged = entry.path in staged
                # A private copy may be younger than what was received with the same size and time.
                source = private if is_staged else live
                is_proven, size = _copy(source, into, entry, entry.path in laid, resume and not is_staged, native, losses, told, pace)
                written += size
                if is_proven:
                    hashed += entry.size
                else:
                    unproven.append(number)
        return unproven, written, hashed

    written = hashed = 0
    unproven: Set[int] = set()
    done: Iterable[Tuple[List[int], int, int]]
    if pace is not None:
        done = [work(0, len(entries), tell or (lambda files, size: None))]
    else:
        done = pool.run_telling(work, [entry.size + _FILE_COST for entry in entries], tell)
    for failed, all_bytes, proven_bytes in done:
        unproven.update(failed)
        written += all_bytes
        hashed += proven_bytes
    return Received([entry for number, entry in enumerate(entries) if number not in unproven], written, hashed)


def _copy(
    source: Descent, files: Descent, entry: Entry, is_laid: bool, resume: bool, native: bool, losses: Losses, tell: Tell, pace: Optional[Pace]
) -> Tuple[bool, int]:
    """Copy one file; (is it proven, bytes written)."""
    told = read = 0

    def tell_block(size: int) -> None:
        nonlocal told, read
        read += size
        if pace is not None:
            pace(size)
        size = min(size, entry.size - told)
        told += size
        tell(0, size)

    try:
        at, last = files.parent(entry.path, create=0o700)
        if resume and _is_there(at, last, entry):
            return False, 0
        try:
            parent, name = source.parent(entry.path)
            fd, found = open_file(parent, name)
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            return False, 0
        try:
            out = os.open(last, _PATCH_FLAGS, dir_fd=at) if is_laid else _create(at, last)
            try:
                if is_laid:
                    digest, size, written = patch_file(fd, out, tell=tell_block)
                else:
                    digest, size = copy_file(fd, out, found=found, tell=tell_block)
                    written = size
                if pace is not None and found.st_blocks * 512 >= found.st_size:  # of one with holes every block was told
                    pace(size - read)
            except OSError as error:
                if error.errno in _VAULTS_FAULT or _is_readable(fd):
                    raise
                return False, 0
            else:
                is_proven = size == entry.size and digest.hex() == entry.hash
                if is_proven:
                    finish_file(out, entry, native, losses)
                    if not native:
                        os.utime(out, ns=(entry.mtime, entry.mtime))
                return is_proven, written
            finally:
                os.close(out)
        finally:
            os.close(fd)
    finally:
        tell(1, entry.size - told)


def _is_there(dir_fd: int, name: bytes, entry: Entry) -> bool:
    """Whether a session that died received this file, as far as size and time tell."""
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.size and found.st_mtime_ns == entry.mtime


def _create(dir_fd: int, name: bytes) -> int:
    """A new file in the place of whatever is there."""
    try:
        return os.open(name, CREATE_FLAGS, 0o600, dir_fd=dir_fd)
    except FileExistsError:
        remove_tree(dir_fd, name)
        return os.open(name, CREATE_FLAGS, 0o600, dir_fd=dir_fd)


def _is_readable(fd: int) -> bool:
    """Whether the whole of an open file can be read: then it was the vault that failed."""
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        hash_file(fd)
    except OSError:
        return False
    return True
