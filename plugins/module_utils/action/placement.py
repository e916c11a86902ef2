# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting things in their place: each is made beside it and renamed there in one step, and what was there before is kept where that is asked for."""

from __future__ import annotations

import errno
import os
import stat
from typing import AbstractSet, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from .. import pool
from ..manifest.content import Copied, copy_file, copy_to_prove, hash_file, reads_back
from ..manifest.entry import DIRECTORY, FILE, SYMLINK, Entry
from ..manifest.metadata import Losses, apply, apply_open, create_special, device_of, entry_type, mtime_ns, path_of, read_xattrs
from ..manifest.walk import CREATE_FLAGS, FILE_FLAGS, Descent, list_directory, open_file, remove_tree
from .comparison import TEMPORARY, State, state_of

# No other file can be written either.
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Failed(NamedTuple):
    """A path that could not be written or removed, and why. ``reason`` is empty where the snapshot's own bytes are damaged."""

    path: bytes
    reason: str


def attempt(path: bytes, do: Callable[..., None], *args: Any) -> List[Failed]:
    """``do(*args)``, which is about ``path``; what the system refuses for it alone is a failure of it alone."""
    try:
        do(*args)
    except OSError as error:
        if error.errno in HOPELESS:
            raise
        return [Failed(path, error.strerror or str(error))]
    return []


class Placer:
    """Writes below ``root``. ``undo`` receives what is replaced or removed; ``replaced`` are the paths where something may stand now.

    ``losses`` and ``kept`` count what could not be set and what was put into ``undo``; ``proven``: of each file that was read back when it was in its
    place, and had the bytes and attributes of its entry, what its inode showed then. ``verify``: files are read back.
    """

    def __init__(self, root: Descent, undo: Optional[Descent], replaced: AbstractSet[bytes], verify: bool) -> None:
        self.root = root
        self.undo = undo
        self.replaced = replaced
        self.verify = verify
        self.proven: Dict[bytes, State] = {}
        self.losses = Losses()
        self.kept = 0
        self._kept: Set[bytes] = set()
        self._mark = TEMPORARY + os.urandom(8).hex().encode("ascii")

    def write_files(self, tree: Descent, entries: Sequence[Entry], advance: Callable[[int, int], None], *, is_own: bool = False) -> List[Failed]:
        """Bring the content of ``entries`` from a snapshot's ``tree``, in several processes where that pays; what failed. ``is_own``: what is there was
        made for this restore alone, which may take it away instead of copying it."""
        failed: List[Failed] = []
        is_own = is_own and not _is_labelled(tree)

        def work(start: int, stop: int) -> Tuple[List[Failed], Dict[bytes, State], Dict[str, int], int, int, int]:
            with Descent(b".", dir_fd=self.root.root_fd) as root, Descent(b".", dir_fd=tree.root_fd) as source:
                undo = Descent(b".", dir_fd=self.undo.root_fd) if self.undo is not None else None
                try:
                    own = Placer(root, undo, self.replaced, self.verify)
                    own._kept = self._kept
                    bad = [found for found in (own._write_file(source, entry, is_own) for entry in entries[start:stop]) if found is not None]
                finally:
                    if undo is not None:
                        undo.close()
            return bad, own.proven, own.losses.counts, own.kept, stop - start, sum(entry.size for entry in entries[start:stop])

        for bad, proven, losses, kept, count, size in pool.run(work, [entry.size + 16384 for entry in entries]):
            failed += bad
            self.proven.update(proven)
            self.losses.merge(losses)
            self.kept += kept
            advance(count, size)
        return sorted(failed)

    def _write_file(self, source: Descent, entry: Entry, is_own: bool) -> Optional[Failed]:
        """Write one file; why it was left as it was, or None."""
        try:
            old_parent, old_name = source.parent(entry.path)
            fd, found = open_file(old_parent, old_name)
        except PermissionError as error:
            return Failed(entry.path, error.strerror or str(error))
        except OSError:
            return Failed(entry.path, "")
        try:
            return self._place(entry, _Content(fd, found, (old_parent, old_name) if is_own and found.st_nlink == 1 else None))
        finally:
            os.close(fd)

    def write_special(self, entry: Entry) -> Optional[Failed]:
        """Make a symlink, FIFO, socket or device; why it was left as it was, or None."""
        return self._place(entry, None)

    def _place(self, entry: Entry, content: Optional[_Content]) -> Optional[Failed]:
        temporary = self._mark
        parent = -1
        copied: Optional[Copied] = None
        is_taken = is_placed = False
        try:
            parent, name = self.root.parent(entry.path)
            if content is not None and content.name is not None:
                if hash_file(content.fd, size=content.found.st_size) != (bytes.fromhex(entry.hash), entry.size):
                    return Failed(entry.path, "")
                is_placed = entry.path not in self.replaced and self._take_to_its_place(entry, content.fd, content.name, parent, name)
                is_taken = is_placed or _take(content.name, parent, temporary)
                if not is_taken:
                    os.lseek(content.fd, 0, os.SEEK_SET)
            if content is None:
                create_special(parent, entry, temporary)
                apply(parent, temporary, entry, self.losses)
            elif not is_taken:
                out = os.open(temporary, CREATE_FLAGS, 0o600, dir_fd=parent)
                try:
                    copied = copy_to_prove(content.fd, out, content.found)
                    if copied[0].hex() != entry.hash or copied[1] != entry.size:
                        os.unlink(temporary, dir_fd=parent)
                        return Failed(entry.path, "")
                    apply_open(out, entry, self.losses)
                finally:
                    os.close(out)
            elif not is_placed:
                apply_open(content.fd, entry, self.losses)
            if not is_placed:
                self._make_way(entry.path, parent, name)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException as error:
            if parent >= 0:
                _unlink(temporary, parent)
            if not isinstance(error, OSError) or error.errno in HOPELESS:
                raise
            return Failed(entry.path, error.strerror or str(error))
        if self.verify and copied is not None:
            self._prove(parent, name, entry, copied)
        elif self.verify and is_taken and content is not None:
            # Its bytes were read where it lay. Whoever wrote into it since then has moved its time.
            found = os.fstat(content.fd)
            if (mtime_ns(found), found.st_size) == (entry.mtime, entry.size) and read_xattrs(content.fd) == entry.xattrs:
                self.proven[entry.path] = state_of(found)
        return None

    def _take_to_its_place(self, entry: Entry, fd: int, place: Tuple[int, bytes], parent: int, name: bytes) -> bool:
        """Give a file its attributes and then, in one step, its place, where nothing stands; whether that could be."""
        losses = Losses()
        apply_open(fd, entry, losses)
        is_taken = _take(place, parent, name)
        if is_taken:
            self.losses.merge(losses.counts)
        return is_taken

    def _prove(self, parent: int, name: bytes, entry: Entry, copied: Copied) -> None:
        """Read back what stands at its place now. What is not right is left to the look at the end, which says so."""
        try:
            fd = os.open(name, FILE_FLAGS, dir_fd=parent)
            try:
                found = os.fstat(fd)  # first: whatever happens to it from here on shows
                if reads_back(fd, copied) and read_xattrs(fd) == entry.xattrs:
                    self.proven[entry.path] = state_of(found)
            finally:
                os.close(fd)
        except OSError:
            pass

    def write_link(self, entry: Entry) -> Optional[Failed]:
        """Give the first path of a hard-link group another name; why it was left as it was, or None."""
        assert entry.group is not None
        parent = -1
        try:
            with Descent(b".", dir_fd=self.root.root_fd) as leaders:
                source, first = leaders.parent(entry.group)
                parent, name = self.root.parent(entry.path)
                os.link(first, self._mark, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            self._make_way(entry.path, parent, name)
            os.rename(self._mark, name, src_dir_fd=parent, dst_dir_fd=parent)
            _unlink(self._mark, parent)  # a rename onto another name of the same inode does nothing and leaves both
        except BaseException as error:
            if parent >= 0:
                _unlink(self._mark, parent)
            if not isinstance(error, OSError) or error.errno in HOPELESS:
                raise
            return Failed(entry.path, error.strerror or str(error))
        return None

    def _make_way(self, path: bytes, parent: int, name: bytes) -> None:
        """Keep what is about to be replaced, and remove what a rename cannot replace: a directory."""
        if path not in self.replaced:
            return
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            self.set_aside(path)
        else:
            self.keep(path)

    def keep(self, path: bytes) -> None:
        """Put the file at ``path`` to where it is kept, and leave it where it is: at no instant is the path without one."""
        if self.undo is None or path in self._kept:
            return
        parent, name = self.root.parent(path)
        into, last = self._undo_place(path)
        try:
            # A second name costs nothing.
            os.link(name, last, src_dir_fd=parent, dst_dir_fd=into, follow_symlinks=False)
        except OSError:
            _copy(parent, name, into, last, self.losses)
        self._kept.add(path)
        self.kept += 1

    def set_aside(self, path: bytes) -> None:
        """Move whatever is at ``path`` to where it is kept, or delete it."""
        parent, name = self.root.parent(path)
        if self.undo is None:
            remove_tree(parent, name)
            return
        into, last = self._undo_place(path)
        try:
            os.rename(name, last, src_dir_fd=parent, dst_dir_fd=into)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(parent, name, into, last, self.losses)
            remove_tree(parent, name)
        self.kept += 1

    def _undo_place(self, path: bytes) -> Tuple[int, bytes]:
        assert self.undo is not None
        into, last = self.undo.parent(path, create=0o700)
        return into, _free_name(into, last)

    def remove(self, paths: Sequence[bytes]) -> List[Failed]:
        """Remove ``paths`` (sorted), each directory among them with everything in it; what could not be removed."""
        failed: List[Failed] = []
        chosen = frozenset(paths)
        for path in paths if self.undo is not None else reversed(paths):
            if self.undo is None:
                failed += attempt(path, self._delete, path)
            elif path.rpartition(b"/")[0] not in chosen:
                failed += attempt(path, self.set_aside, path)
        return failed

    def _delete(self, path: bytes) -> None:
        parent, name = self.root.parent(path)
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=parent)  # empty by now, or something came into it
            else:
                os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass


class _Content(NamedTuple):
    """An open file, its ``fstat``, and where it lies (directory and name) if it may be taken away from there."""

    fd: int
    found: os.stat_result
    name: Optional[Tuple[int, bytes]]


def _take(place: Tuple[int, bytes], parent: int, name: bytes) -> bool:
    """Give a file another place; False where the file system does not let it."""
    try:
        # A rename between directories waits for all others in the file system.
        os.link(place[1], name, src_dir_fd=place[0], dst_dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    os.unlink(place[1], dir_fd=place[0])
    return True


def _is_labelled(tree: Descent) -> bool:
    """Whether files bear a label of where they were made, as under SELinux, which a file that is taken elsewhere would keep."""
    try:
        return any(name.startswith("security.") for name in os.listxattr(tree.root_fd))
    except OSError:
        return False


def _unlink(name: bytes, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except OSError:
        pass


def _free_name(dir_fd: int, name: bytes) -> bytes:
    """``name``, or with a number where an earlier restore left its own."""
    candidate, number = name, 0
    while True:
        try:
            os.stat(candidate, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return candidate
        number += 1
        candidate = b"%s.~%d~" % (name[:240], number)


def _entry_of(dir_fd: int, name: bytes, found: os.stat_result) -> Entry:
    kind = entry_type(found.st_mode)
    link = os.readlink(name, dir_fd=dir_fd) if kind == SYMLINK else None
    xattrs = read_xattrs(path_of(dir_fd, name))
    return Entry(name, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, mtime_ns(found), found.st_size, "", link, None, xattrs, device_of(found))


def _copy(source: int, name: bytes, into: int, last: bytes, losses: Losses) -> None:
    """Copy ``name``, whatever it is, with its metadata to another file system."""
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    entry = _entry_of(source, name, found)
    if entry.type == DIRECTORY:
        os.mkdir(last, 0o700, dir_fd=into)
        with Descent(name, dir_fd=source) as old, Descent(last, dir_fd=into) as new:
            made: List[Tuple[bytes, Entry]] = []
            pending = [b""]
            while pending:
                path = pending.pop()
                for item in list_directory(old.directory(path)):
                    inner = path + b"/" + item.name if path else item.name
                    parent, leaf = new.parent(inner)
                    if stat.S_ISDIR(item.stat.st_mode):
                        os.mkdir(leaf, 0o700, dir_fd=parent)
                        made.append((inner, _entry_of(old.directory(path), item.name, item.stat)))
                        pending.append(inner)
                    else:
                        _copy(old.directory(path), item.name, parent, leaf, losses)
            for inner, directory in sorted(made, reverse=True):
                parent, leaf = new.parent(inner)
                apply(parent, leaf, directory, losses)
    elif entry.type == FILE:
        fd, _stat = open_file(source, name)
        try:
            out = os.open(last, CREATE_FLAGS, 0o600, dir_fd=into)
            try:
                copy_file(fd, out)
                apply_open(out, entry, losses)
            finally:
                os.close(out)
        finally:
            os.close(fd)
        return
    else:
        create_special(into, entry, last)
    apply(into, last, entry, losses)
