# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session whose content comes from somebody who is not trusted: a host, through an account that may write in one directory and nowhere else."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...errors import IntegrityError, RefusedError, counted
from ...manifest.content import copy_file
from ...manifest.document import Manifest
from ...manifest.entry import FILE, Entry
from ...manifest.walk import CREATE_FLAGS, Descent, open_file, remove_tree
from ...observe.audit import is_time
from ...observe.progress import format_bytes
from ..contract import Delivery, Sent, Shortfall, Tell
from .build import take_in
from .clone import clone_file
from .session import PATCH_FROM, TreeSession, explain
from .sweep import CLOSED, clear_away, sweep_all

_KEPT = b"kept"
_EARLY = b"early"


class Ingest(NamedTuple):
    """Who writes what a vault receives: members of ``group``, or where that is None the vault's own account, confined by rrsync.

    ``reserve``: percent of the file system's bytes and inodes that no snapshot may use; ``gives_basis``: whether old versions of large files are put
    where the other side's rsync goes by them, which can then find out what they hold.
    """

    group: Optional[int] = None
    reserve: int = 5
    gives_basis: bool = True


class Early(NamedTuple):
    """What had arrived before this session and is of use to it: how many files, and bytes that they take up."""

    files: int
    bytes: int


class Room(NamedTuple):
    """What of a file system may still be used: bytes, and files or None where there is no limit. Both may be negative."""

    bytes: int
    files: Optional[int]


def room_in(path: bytes, reserve: int) -> Room:
    """What the file system of ``path`` has beside the ``reserve`` percent that are kept back."""
    free = os.statvfs(path)
    left = free.f_bavail * free.f_frsize - free.f_blocks * free.f_frsize * reserve // 100
    return Room(left, free.f_favail - free.f_files * reserve // 100 if free.f_files else None)


class GuardedSession(TreeSession):
    """Receives in ``incoming/<tx>/in/files``, where the other side may write until the commit; from there everything is copied before it is
    looked at. ``in/basis`` has old versions of large files, for rsync to go by.

    The other side decides nothing: not where, not when, not how much.
    """

    def __init__(self, *arguments: Any, ingest: Ingest) -> None:
        super().__init__(*arguments)
        self._ingest = ingest
        self._inbox = self._directory + b"/in"
        self._arrivals = self._inbox + b"/files"
        self._basis = self._inbox + b"/basis"
        self._early = self._directory + b"/" + _EARLY
        self._had_arrivals = False
        self._wanted: List[Entry] = []

    @property
    def is_resumed(self) -> bool:
        """Whether a dead session has left something that arrived."""
        return self._had_arrivals

    def _prepare(self) -> None:
        super()._prepare()
        os.mkdir(self._early, 0o700)
        os.mkdir(self._inbox, 0o700)
        # The way down can be passed by this host's account alone, and nothing on it be listed.
        history = self.history.base
        for path in (os.path.dirname(history), history, self.history.incoming, self._directory):
            self._admit(path, 0o710)
        self._admit(self._inbox, 0o750)

    def _admit(self, path: bytes, mode: int) -> None:
        """Let the ingest account into a directory, by its group."""
        if self._ingest.group is not None:
            os.chown(path, -1, self._ingest.group)
            os.chmod(path, mode)

    def open(self) -> None:
        super().open()
        try:
            with Descent(self.history.incoming) as incoming:
                for name in super()._dead():
                    if name.startswith(CLOSED):
                        clear_away(incoming, name)
            for path, mode in ((self._arrivals, 0o2770), (self._basis, 0o2750)):
                if not os.path.isdir(path):
                    os.mkdir(path, 0o700)
                self._admit(path, mode)
        except OSError as error:
            raise explain(error, self.history) from error

    def _dead(self) -> List[bytes]:
        return [name for name in super()._dead() if not name.startswith(CLOSED)]

    def _rescue(self, incoming: Descent, name: bytes) -> None:
        super()._rescue(incoming, name)
        if not self._had_arrivals:
            places = [name + b"/" + place for place in (_EARLY, _KEPT, b"in")]
            self._had_arrivals = self._take_over(incoming, places, self._early + b"/files")

    def _discard(self, incoming: Descent, name: bytes) -> None:
        clear_away(incoming, name)

    def propose(self, manifest: Manifest) -> List[Entry]:
        """Hear what the next snapshot is to hold, and get ready for it; the files to send. ``IntegrityError`` or ``RefusedError`` where it will not do."""
        try:
            return self._propose(manifest)
        except OSError as error:
            raise explain(error, self.history) from error

    def _propose(self, manifest: Manifest) -> List[Entry]:
        self._check(manifest)
        wanted = self.wanted(manifest)
        if self._resumed:
            self._clear_unwanted(wanted, self._files)
            self._take_over_own(wanted)
            wanted = self.wanted(manifest)
        early = self._take_early(wanted) if self._had_arrivals else Early(0, 0)
        basis = self._choose_basis(wanted)
        self._check_room(manifest, wanted, early, sum(basis.values()))
        self._lay_basis(basis)
        self._begin_ahead()
        self._wanted = wanted
        return wanted

    def _check(self, manifest: Manifest) -> None:
        header = manifest.header
        for field, found, allowed in (("host", header.host, self.host), ("policy", header.policy, self.policy)):
            if found != allowed:
                raise RefusedError("The manifest is one of %s %s" % (field, found), kind="scope", field=field, found=found, allowed=allowed)
        if not is_time(header.claimed) or (header.id, header.sequence, header.created) != (None, None, None):
            raise IntegrityError("The manifest is not valid: it claims what the vault alone decides", kind="manifest", field="header", found=header.claimed)

    def _take_early(self, wanted: Sequence[Entry]) -> Early:
        """Move what had arrived of these files to where this session receives. Never a directory, and no file that would stay closed:
        what was closed once would stand in the way of every session that is to come."""
        self._had_arrivals = False
        files = size = 0
        with Descent(self._directory) as directory:
            with Descent(self._early + b"/files") as early, Descent(self._arrivals) as arrivals:
                for entry in wanted:
                    with contextlib.suppress(OSError):
                        parent, name = early.parent(entry.path)
                        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                        if self._is_of_use(parent, name, found):
                            into, last = arrivals.parent(entry.path, create=0o770)
                            os.rename(name, last, src_dir_fd=parent, dst_dir_fd=into)
                            files += 1
                            size += min(512 * found.st_blocks, entry.size)
            os.rename(_EARLY, b"spent", src_dir_fd=directory.root_fd, dst_dir_fd=directory.root_fd)
            with contextlib.suppress(OSError):  # else it goes with the session
                remove_tree(directory.root_fd, b"spent")
        return Early(files, size)

    def _is_of_use(self, parent: int, name: bytes, found: os.stat_result) -> bool:
        """Whether whoever brought a file can write on it, and we can read it: also one that the next rsync opens to us before it starts (agent/serve)."""
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return False
        if any(key.startswith("system.") for key in os.listxattr(b"/proc/self/fd/%d/%s" % (parent, name), follow_symlinks=False)):
            return False
        if self._ingest.group is None:
            return found.st_mode & 0o600 == 0o600
        return found.st_mode & 0o660 == 0o660 or not found.st_mode & stat.S_IRGRP

    def _check_room(self, manifest: Manifest, wanted: Sequence[Entry], early: Early, basis: int) -> None:
        # What arrives lies there twice while it is copied, a file at a time.
        need = sum(entry.size for entry in wanted) + max((entry.size for entry in wanted), default=0) + basis - early.bytes
        inodes = sum(1 for entry in manifest.entries if entry.type != FILE) + 2 * len(wanted) - early.files
        room = room_in(self.history.incoming, self._ingest.reserve)
        if need > room.bytes or (room.files is not None and inodes > room.files):
            sweep_all(os.path.dirname(os.path.dirname(self.history.base)))
            room = room_in(self.history.incoming, self._ingest.reserve)
        files = inodes if room.files is None else room.files
        for wish, left, write in ((need, room.bytes, format_bytes), (inodes, files, lambda number: counted(number, "file"))):
            if wish > left:
                free = write(max(0, left))
                raise RefusedError(
                    "The vault has no room for this snapshot: it needs %s, what arrives once and its largest file a second time while it is taken in, "
                    "and has %s beside the %d %% that are kept back" % (write(wish), free, self._ingest.reserve),
                    kind="vault_full",
                    field="target",
                    found=wish,
                    allowed="at most %s" % free,
                    next="free space in the vault or leave something out of the policy; nothing was published",
                )

    def _choose_basis(self, wanted: Sequence[Entry]) -> Dict[bytes, int]:
        """Large files that are as large in the base, with their sizes there. A small one could be found out byte by byte by whoever may ask."""
        large = {entry.path: entry.size for entry in wanted if entry.size >= PATCH_FROM and entry.path not in self._distrusted}
        base = self.base_manifest
        if base is None or not large or not self._ingest.gives_basis:
            return {}
        old = ((entry.path, entry.size) for entry in base.entries if entry.path in large)
        return {path: size for path, size in old if PATCH_FROM <= size <= 4 * large[path]}

    def _lay_basis(self, chosen: Mapping[bytes, int]) -> None:
        """Put copies of what the base has of these files where rsync finds them."""
        if self.base is None or not chosen:
            return
        try:
            base = Descent(self.history.snapshot(self.base.id) + b"/tree")
        except OSError:
            return
        with base, Descent(self._basis) as basis:
            for path, size in chosen.items():
                try:
                    parent, name = base.parent(path)
                    fd, found = open_file(parent, name)
                except OSError:
                    continue  # it is damaged; the plan will tell
                try:
                    into, last = basis.parent(path, create=0o750)
                    with contextlib.suppress(FileExistsError):
                        out = os.open(last, CREATE_FLAGS, 0o440, dir_fd=into)
                        try:
                            if found.st_size == size and not clone_file(fd, out):
                                copy_file(fd, out)
                            os.fchmod(out, 0o440)
                        finally:
                            os.close(out)
                finally:
                    os.close(fd)

    def close(self, *, keep: bool = False) -> None:
        if keep:
            # What arrived is for the next session, and nobody writes to it meanwhile.
            with contextlib.suppress(OSError):
                with Descent(self._directory) as directory:
                    # Where nothing was proposed, nothing has arrived but what was there before.
                    os.rename(_EARLY if self._had_arrivals else b"in", _KEPT, src_dir_fd=directory.root_fd, dst_dir_fd=directory.root_fd)
                    os.chmod(_KEPT, 0o700, dir_fd=directory.root_fd)
                with Descent(self._directory + b"/" + _KEPT) as kept:
                    remove_tree(kept.root_fd, b"basis")
        super().close(keep=keep)

    def allowed(self, paths: Sequence[bytes]) -> List[Entry]:
        """The wanted files of these paths, for ``put``; ``RefusedError`` for any other."""
        wanted = {entry.path: entry for entry in self._wanted}
        for path in paths:
            if path not in wanted:
                raise RefusedError("Nobody asked for %r" % path, kind="scope", field="paths", found=path)
        return [wanted[path] for path in paths]

    @property
    def arrivals(self) -> bytes:
        """The directory in which content arrives."""
        return self._arrivals

    def _receive(self, files: Descent, entries: Sequence[Entry], tell: Optional[Tell]) -> Tuple[List[Shortfall], int]:
        with Descent(self._arrivals) as inbox:
            return take_in(inbox, files, entries, self.storage, tell)

    def send(self, delivery: Delivery, options: Any, tell: Optional[Tell] = None) -> Sent:
        raise AssertionError("the other side sends")
