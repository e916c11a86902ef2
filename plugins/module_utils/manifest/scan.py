# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a survey to a manifest: hash what the cache does not know, keep what is in motion from one private copy, keep what cannot be read from
its previous entry."""

from __future__ import annotations

import errno
import os
import stat
import time
from itertools import chain
from operator import itemgetter
from typing import AbstractSet, Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import pool
from ..errors import RUN_OUT
from .cache import RACY, RACY_SECONDS, ROW, SLOT, XATTRS, Cache, Record
from .content import copy_file, hash_file
from .entry import DIRECTORY, FILE, SYMLINK, TYPES, Entry, encode, plain_file
from .metadata import Xattrs, mtime_ns, path_of, read_xattrs
from .survey import Survey, lstat, pack_row
from .walk import CREATE_FLAGS, Descent, open_file

_NO_HASH = bytes(SLOT)
_NS = 10**9
# What opening a path says when the file that was listed is there no more: nothing, or something else, stands in its place.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO, errno.ENODEV)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# The clock that ctimes are taken from (CLOCK_REALTIME_COARSE, which Python does not name): it goes by ticks of some ms, behind the precise one.
_CTIME_CLOCK = 5

Tell = Callable[[int, int], None]  # (files, bytes) done since the last call


class Staging:
    """A private directory that holds, under the same relative path, one copy of every file that moved while it was read."""

    def __init__(self, directory: bytes) -> None:
        self.directory = directory
        self._root: Optional[Descent] = None

    def copy(self, path: bytes, source_fd: int) -> Tuple[bytes, int]:
        """Copy an open file to ``path``; (SHA-256, bytes) of the copy."""
        if self._root is None:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            self._root = Descent(self.directory)
        parent, name = self._root.parent(path, create=0o700)
        try:
            os.unlink(name, dir_fd=parent)  # never write into an older copy
        except FileNotFoundError:
            pass
        fd = os.open(name, CREATE_FLAGS, 0o600, dir_fd=parent)
        try:
            return copy_file(source_fd, fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Release the descriptors; the files stay until the directory is removed."""
        if self._root is not None:
            self._root.close()
            self._root = None


class Scan(NamedTuple):
    """What the sources hold now.

    ``entries`` and their canonical ``lines``, sorted by path; ``records`` for the next cache; ``staged``: paths whose bytes are in the staging
    directory; ``unreadable``: path to errno of what could not be read, with or without a previous entry; ``vanished``: how many names were
    gone when they were to be read; ``whole``: whether the records stand for the entries; ``rotten``: files whose bytes changed under an unchanged
    stat; ``hashed_files``, ``hashed_bytes``.
    """

    entries: List[Entry]
    lines: List[bytes]
    records: List[Record]
    staged: AbstractSet[bytes]
    unreadable: Mapping[bytes, int]
    vanished: int
    whole: bool
    rotten: Sequence[bytes]
    hashed_files: int
    hashed_bytes: int


class _Task(NamedTuple):
    path: bytes
    folder: int
    position: int
    row: bytes
    known: bytes  # the hash the cache has for this very stat, or empty


class _Read(NamedTuple):
    """How reading one file ended. ``problem`` is an errno, 0 for none; ``moving``: it changed while it was read."""

    row: bytes
    digest: bytes
    xattrs: Xattrs
    problem: int
    moving: bool


class _Table:
    """One folder while its entries are made."""

    def __init__(self, path: bytes, record: Record) -> None:
        self.path = path
        self.prefix = path + b"/" if path else b""
        self.names = record.split_names()
        self.rows = [record.rows[i : i + ROW.size] for i in range(0, len(record.rows), ROW.size)]
        self.flags = bytearray(record.flags)
        self.slots = [record.slots[i : i + SLOT] for i in range(0, len(record.slots), SLOT)]
        self.hashed_at = record.hashed_at
        self.gone: List[int] = []

    def to_record(self) -> Record:
        gone = set(self.gone)
        keep = [i for i in range(len(self.names)) if i not in gone]
        return Record(
            self.path,
            b"\0".join([self.names[i] for i in keep]),
            b"".join([self.rows[i] for i in keep]),
            bytes([self.flags[i] for i in keep]),
            b"".join([self.slots[i] for i in keep]),
            self.hashed_at,
        )


def hash_changed(
    found: Survey,
    cache: Cache,
    *,
    root: Descent,
    now: float,
    staging: Optional[Staging] = None,
    distrust: Optional[Callable[[bytes], bool]] = None,
    tell: Optional[Tell] = None,
) -> Hashed:
    """Read what the cache does not know of what a survey found; ``Hashed.finish`` makes entries of it.

    Without ``staging`` (check mode) a file in motion is hashed as it is. ``distrust`` names files to hash even where the cache knows them.
    """
    hashed = Hashed(found, cache, root, now, staging, distrust, tell)
    hashed.plan()
    hashed.read()
    return hashed


class Hashed:
    """A scan of which every file is hashed, and no entry made."""

    def __init__(
        self,
        found: Survey,
        cache: Cache,
        root: Descent,
        now: float,
        staging: Optional[Staging],
        distrust: Optional[Callable[[bytes], bool]],
        tell: Optional[Tell],
    ) -> None:
        self.found = found
        self.cache = cache
        self.root = root
        self.now = now
        self.staging = staging
        self.distrust = distrust
        self.tell = tell
        self.records: List[Record] = []
        self.tables: Dict[int, _Table] = {}
        self.tasks: List[_Task] = []
        self.xattrs: Dict[bytes, Xattrs] = {}
        self.staged: set[bytes] = set()
        self.unstable: set[bytes] = set()
        self.unreadable: Dict[bytes, int] = dict(found.unreadable)
        self.vanished = 0
        self.has_missed = False  # something was gone when more of it was to be read, though it stays in its record
        self.rotten: List[bytes] = []
        self.hashed_files = self.hashed_bytes = 0
        self.groups = _groups(found.links)

    def table(self, number: int) -> _Table:
        """The folder, opened up for changes."""
        table = self.tables.get(number)
        if table is None:
            table = self.tables[number] = _Table(self.found.folders[number].path, self.records[number])
        return table

    def plan(self) -> None:
        """Take from the cache what it knows, and list what is to be read."""
        for number, folder in enumerate(self.found.folders):
            if folder.known is not None:
                self.records.append(folder.known)
                if self.distrust is not None:
                    self._plan_distrusted(number, folder.known)
                continue
            count = len(folder.rows) // ROW.size
            known = None if folder.expired else self.cache.get(folder.path)
            by_name = known.by_name() if known is not None else {}
            hashed_at = known.hashed_at if known is not None else int(self.now)
            flags, slots, tasks = bytearray(count), [_NO_HASH] * count, []
            for index, name in enumerate(folder.names.split(b"\0") if count else ()):
                row = folder.rows[index * ROW.size : (index + 1) * ROW.size]
                old = by_name.get(name)
                same = old is not None and old[0] == row and not old[1] & RACY
                if same and old is not None:
                    flags[index], slots[index] = old[1], old[2]
                    if self.distrust is None:
                        continue
                is_file = stat.S_ISREG(ROW.unpack(row)[0])
                path = b"%s/%s" % (folder.path, name) if folder.path else name
                if is_file:
                    distrusted = same and self.distrust is not None and self.distrust(path)
                    if (not same or distrusted) and self.groups.get(path, path) == path:
                        tasks.append(_Task(path, number, index, row, slots[index] if same else b""))
                elif not same:
                    flags[index] = self._read_other_xattrs(path) | (RACY if self._is_young(row) else 0)
            self.records.append(Record(folder.path, folder.names, folder.rows, bytes(flags), b"".join(slots), hashed_at))
            self.tasks.extend(tasks)

    def _plan_distrusted(self, number: int, record: Record) -> None:
        assert self.distrust is not None
        prefix = record.path + b"/" if record.path else b""
        for index, (name, (row, _flags, slot)) in enumerate(record.by_name().items()):
            path = prefix + name
            if stat.S_ISREG(ROW.unpack(row)[0]) and self.groups.get(path, path) == path and self.distrust(path):
                self.tasks.append(_Task(path, number, index, row, slot))

    def _read_other_xattrs(self, path: bytes) -> int:
        try:
            parent, name = self.root.parent(path)
            xattrs = read_xattrs(path_of(parent, name))
        except OSError as error:
            return self._miss(path, error)
        if xattrs:
            self.xattrs[path] = xattrs
            return XATTRS
        return 0

    def _miss(self, path: bytes, error: OSError) -> int:
        """Note that something of ``path`` could not be read; the flag that has the next run look again, 0 where it is gone."""
        if error.errno in RUN_OUT:
            raise error
        if error.errno in _GONE:
            self.has_missed = True
            return 0
        self.unreadable[path] = error.errno or errno.EIO
        return RACY

    def read(self) -> None:
        """Hash every planned file, in several processes where that pays."""
        tasks = self.tasks
        root_fd = self.root.root_fd

        def work(start: int, stop: int) -> Tuple[bytes, Dict[int, _Read], int, int]:
            hashes = bytearray()
            odd: Dict[int, _Read] = {}
            total = 0
            with Descent(b".", dir_fd=root_fd) as below:
                for index in range(start, stop):
                    task = tasks[index]
                    result = _read_file(below, task.path)
                    hashes += result.digest
                    total += ROW.unpack(result.row)[3] if result.row else 0
                    if result.problem or result.moving or result.xattrs or result.row != task.row:
                        odd[index] = result
            return bytes(hashes), odd, start, total

        weights = [ROW.unpack(task.row)[3] + 4096 for task in tasks]
        for hashes, odd, start, total in pool.run(work, weights):
            self.hashed_bytes += total
            for offset in range(0, len(hashes), SLOT):
                index = start + offset // SLOT
                if index in odd:
                    self._settle_odd(tasks[index], odd[index])
                else:
                    self._settle(tasks[index], hashes[offset : offset + SLOT], tasks[index].row, False)
            if self.tell is not None:
                self.tell(len(hashes) // SLOT, total)
        self.hashed_files = len(tasks)
        tasks.clear()  # a sixth of all memory, which the entries can use

    def _settle_odd(self, task: _Task, read: _Read) -> None:
        if read.moving:
            task, read = task._replace(known=b""), self._stage(task, read)  # what moves is not rotten
        if read.problem in _GONE:
            self.table(task.folder).gone.append(task.position)
            self.vanished += 1
            return
        if read.problem:
            self.unreadable[task.path] = read.problem
            self.table(task.folder).flags[task.position] = RACY
            return
        if read.xattrs:
            self.xattrs[task.path] = read.xattrs
        self._settle(task, read.digest, read.row, bool(read.xattrs))

    def _stage(self, task: _Task, read: _Read) -> _Read:
        if self.staging is None:
            return read._replace(moving=False)
        started = time.time_ns()
        try:
            parent, name = self.root.parent(task.path)
            fd, before = open_file(parent, name)
            try:
                digest, size = self.staging.copy(task.path, fd)
                xattrs = read_xattrs(fd)
                after = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _FULL or error.errno in RUN_OUT:
                raise
            return read._replace(problem=error.errno or errno.ESTALE, moving=False)
        self.staged.add(task.path)
        if _moved(before, after, size, started):
            self.unstable.add(task.path)
        # The entry describes the copy: its size is what was copied.
        row = list(ROW.unpack(pack_row(after)))
        row[3] = size
        return _Read(ROW.pack(*row), digest, xattrs, 0, False)

    def _settle(self, task: _Task, digest: bytes, row: bytes, has_xattrs: bool) -> None:
        if task.known and row == task.row:
            if digest == task.known:
                return
            self.rotten.append(task.path)
        table = self.table(task.folder)
        racy = self._is_young(row) or task.path in self.staged
        table.rows[task.position] = row
        table.slots[task.position] = digest
        table.flags[task.position] = (RACY if racy else 0) | (XATTRS if has_xattrs else 0)

    def _is_young(self, row: bytes) -> bool:
        mtime, ctime = ROW.unpack(row)[4:6]
        return bool(self.now - max(mtime, ctime) / _NS < RACY_SECONDS)

    def proves_unchanged(self) -> bool:
        """Whether all is as the cache has it, what was read again included: the ``records`` then stand for the manifest that it was written with."""
        if self.unreadable or self.vanished or self.has_missed or self.staged or self.rotten:
            return False
        if not self.cache.content_digest or len(self.records) != len(self.cache):
            return False
        return all(
            folder.known is not None or _proves_same(self.cache.get(folder.path), self._close(number), folder.expired)
            for number, folder in enumerate(self.found.folders)
        )

    def _close(self, number: int) -> Record:
        """The record of a folder with what was read of it."""
        if number in self.tables:
            self.records[number] = self.tables[number].to_record()
        return self.records[number]

    def finish(self, previous: Callable[[], Mapping[bytes, Entry]]) -> Scan:
        """Make the entries, and the records for the next run. ``previous`` gives the entries of the last snapshot; it is asked only where something
        cannot be read."""
        self._share_groups()
        for number in self.tables:
            self._close(number)
        entries = list(self._entries())
        if self.unreadable:
            entries += self._stale({entry.path for entry in entries}, previous())
        if self.groups or self.unreadable:
            entries = _regroup(entries)
        entries.sort(key=itemgetter(0))
        return Scan(
            entries,
            [encode(entry) for entry in entries],
            self.records,
            frozenset(self.staged),
            self.unreadable,
            self.vanished,
            not (self.unreadable or self.unstable or self.has_missed),
            self.rotten,
            self.hashed_files,
            self.hashed_bytes,
        )

    def _share_groups(self) -> None:
        """Give every name of a hard-linked file what was read of its first one."""
        if not self.groups:
            return
        spots: Dict[bytes, Tuple[int, int]] = {}
        folders = {path.rpartition(b"/")[0] for path in self.groups}
        for number, folder in enumerate(self.found.folders):
            if folder.path not in folders:
                continue
            record = self.records[number]
            prefix = folder.path + b"/" if folder.path else b""
            for index, name in enumerate(self.tables[number].names if number in self.tables else record.split_names()):
                if prefix + name in self.groups and stat.S_ISREG(ROW.unpack(_row(record, index))[0]):
                    spots[prefix + name] = (number, index)
        members: Dict[bytes, List[bytes]] = {}
        for path in sorted(spots):
            members.setdefault(self.groups[path], []).append(path)
        for paths in members.values():
            self._share_group(paths, spots)

    def _share_group(self, paths: Sequence[bytes], spots: Mapping[bytes, Tuple[int, int]]) -> None:
        first: Optional[bytes] = None
        for path in paths:
            number, index = spots[path]
            if first is None:
                if path != paths[0]:
                    # Those before it were removed or replaced while we looked: this name still has what they had.
                    row = _row(self.records[number], index)
                    self._settle_odd(_Task(path, number, index, row, b""), _read_file(self.root, path))
                table = self.tables.get(number)
                row = table.rows[index] if table else _row(self.records[number], index)
                if (table and index in table.gone) or ROW.unpack(row)[6] != self.found.links[path][1]:
                    del self.groups[path]
                    continue
                first, slot = path, table.slots[index] if table else _slot(self.records[number], index)
                flag = table.flags[index] if table else self.records[number].flags[index]
                continue
            if first in self.unreadable:
                self.unreadable[path] = self.unreadable[first]
            if first in self.unstable:
                self.unstable.add(path)
            if first in self.xattrs:
                self.xattrs[path] = self.xattrs[first]
            record = self.records[number]
            if number in self.tables or (_row(record, index), _slot(record, index), record.flags[index]) != (row, slot, flag):
                table = self.table(number)
                table.rows[index], table.slots[index], table.flags[index] = row, slot, flag

    def _entries(self) -> Iterator[Entry]:
        types = TYPES
        odd = {path.rpartition(b"/")[0] for path in chain(self.groups, self.unstable, self.unreadable)}
        odd.update(self.found.ancestors)
        for record in self.records:
            if record.path in odd or record.has_xattrs:
                yield from self._odd_entries(record)
                continue
            prefix = record.path + b"/" if record.path else b""
            slots = record.slots
            at = 0
            for name, (mode, uid, gid, size, mtime, _ctime, _inode, rdev, _links) in zip(record.split_names(), ROW.iter_unpack(record.rows)):
                kind = types[mode & 0o170000]
                if kind == FILE:
                    yield plain_file(prefix + name, mode & 0o7777, uid, gid, mtime, size, slots[at : at + SLOT].hex())
                elif kind == DIRECTORY:
                    yield Entry(prefix + name, DIRECTORY, mode & 0o7777, uid, gid, mtime)
                else:
                    entry = self._other(prefix + name, kind, mode, uid, gid, mtime, rdev)
                    if entry is not None:
                        yield entry
                at += SLOT

    def _odd_entries(self, record: Record) -> Iterator[Entry]:
        prefix = record.path + b"/" if record.path else b""
        for index, (name, row) in enumerate(zip(record.split_names(), ROW.iter_unpack(record.rows))):
            mode, uid, gid, size, mtime, ctime, _inode, rdev, _links = row
            path = prefix + name
            if path in self.unreadable and not stat.S_ISDIR(mode):
                continue
            kind = TYPES[mode & 0o170000]
            entry: Optional[Entry]
            if kind == FILE:
                digest = record.slots[index * SLOT : (index + 1) * SLOT].hex()
                entry = Entry(path, FILE, mode & 0o7777, uid, gid, mtime, size, digest, unstable=path in self.unstable)
            elif kind == DIRECTORY:
                # One above the sources has no times in its row.
                entry = Entry(path, DIRECTORY, mode & 0o7777, uid, gid, mtime if ctime else self._mtime_now(path))
            else:
                entry = self._other(path, kind, mode, uid, gid, mtime, rdev)
            if entry is not None:
                xattrs = self._xattrs_of(path) if record.flags[index] & XATTRS else ()
                yield entry._replace(xattrs=xattrs, group=self.groups.get(path))

    def _mtime_now(self, path: bytes) -> int:
        try:
            return mtime_ns(lstat(self.root, path))
        except OSError:
            return 0

    def _xattrs_of(self, path: bytes) -> Xattrs:
        known = self.xattrs.get(path)
        if known is not None:
            return known
        try:
            parent, name = self.root.parent(path)
            return read_xattrs(path_of(parent, name))
        except OSError as error:
            self._miss(path, error)
            return ()

    def _other(self, path: bytes, kind: str, mode: int, uid: int, gid: int, mtime: int, rdev: int) -> Optional[Entry]:
        link = None
        if kind == SYMLINK:
            try:
                parent, name = self.root.parent(path)
                link = os.readlink(name, dir_fd=parent)
            except OSError as error:
                if error.errno == errno.EINVAL or not self._miss(path, error):  # no link any more, or gone
                    self.vanished += 1
                    self.has_missed = True
                return None
        device = (os.major(rdev), os.minor(rdev)) if kind in "bc" else None
        return Entry(path, kind, mode & 0o7777, uid, gid, mtime, link=link, device=device)

    def _stale(self, present: AbstractSet[bytes], previous: Mapping[bytes, Entry]) -> Iterator[Entry]:
        """The previous entries of what cannot be read, and of everything below a directory that cannot be listed."""
        closed = tuple(path + b"/" for path in self.found.unreadable)
        kept: Dict[bytes, Entry] = {}
        for path, old in previous.items():
            if path in present or not (path.startswith(closed) or (path in self.unreadable and old.type != DIRECTORY)):
                continue
            if self.found.selects(path, old.type == DIRECTORY):
                while path and path not in present and path not in kept:
                    kept[path] = previous[path]
                    path = path.rpartition(b"/")[0]
        return (old._replace(stale=True, unstable=False) for old in kept.values())


def _proves_same(old: Optional[Record], new: Record, expired: bool) -> bool:
    """Whether a directory holds what it held, though not everything that the cache has of it could be trusted (``expired``: nothing)."""
    if old is None or (old.names, old.rows, old.slots) != (new.names, new.rows, new.slots):
        return False
    for index, (before, after) in enumerate(zip(old.flags, new.flags)):
        # Where a link leads and what an attribute says is not kept.
        if (expired or before & RACY) and ((before | after) & XATTRS or stat.S_ISLNK(ROW.unpack(_row(new, index))[0])):
            return False
    return True


def _row(record: Record, index: int) -> bytes:
    return record.rows[index * ROW.size : (index + 1) * ROW.size]


def _slot(record: Record, index: int) -> bytes:
    return record.slots[index * SLOT : (index + 1) * SLOT]


def _groups(links: Mapping[bytes, Tuple[int, int]]) -> Dict[bytes, bytes]:
    """Path to first path, for inodes of which two or more selected names exist."""
    first: Dict[Tuple[int, int], bytes] = {}
    members: Dict[Tuple[int, int], int] = {}
    for path, inode in links.items():
        if inode not in first or path < first[inode]:
            first[inode] = path
        members[inode] = members.get(inode, 0) + 1
    return {path: first[inode] for path, inode in links.items() if members[inode] > 1}


def _regroup(entries: Sequence[Entry]) -> List[Entry]:
    """Make hard-link groups whole again where some of their names went away or are of another time: those that differ are apart."""
    result = list(entries)
    members: Dict[Tuple[Any, ...], List[int]] = {}
    for position, entry in enumerate(result):
        if entry.group is not None:
            members.setdefault((entry.group, entry.inode_state), []).append(position)
    for positions in members.values():
        first = min(result[position].path for position in positions) if len(positions) > 1 else None
        for position in positions:
            result[position] = result[position]._replace(group=first)
    return result


def _moved(before: os.stat_result, after: os.stat_result, size: int, since: int) -> bool:
    """Whether a file of which ``size`` bytes were read changed between two ``fstat``, or bears a ctime from ``since`` (ns) on.

    Two changes within one tick of the clock look the same. With ``since`` on that clock, whatever may have changed is said to have; on the
    precise one, what must have. A ctime in the future says nothing.
    """
    return (
        size != after.st_size
        or (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns)
        or since <= after.st_ctime_ns <= time.time_ns()
    )


def _read_file(below: Descent, path: bytes) -> _Read:
    started = time.clock_gettime_ns(_CTIME_CLOCK)
    try:
        parent, name = below.parent(path)
        fd, before = open_file(parent, name)
        try:
            digest, size = hash_file(fd)
            xattrs = read_xattrs(fd)
            after = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in RUN_OUT:
            raise
        # A ReplacedError bears no number.
        return _Read(b"", _NO_HASH, (), error.errno or errno.ESTALE, False)
    return _Read(pack_row(before), digest, xattrs, 0, _moved(before, after, size, started))


def reread(
    entries: Sequence[Entry], paths: AbstractSet[bytes], *, root: Descent, staging: Staging, previous: Mapping[bytes, Entry]
) -> Tuple[List[Entry], int, Dict[bytes, int]]:
    """Replace the entries of ``paths`` by what is found there now, copied into ``staging``; (entries, how many are gone, errno of the unreadable).

    What is gone is left out; what cannot be read, or is no file any more, keeps its previous entry, marked stale, unless that one's content is
    what did not arrive.
    """
    result: List[Entry] = []
    lost = 0
    unreadable: Dict[bytes, int] = {}
    for entry in entries:
        if (entry.group or entry.path) not in paths:
            result.append(entry)
            continue
        try:
            result.append(_read_again(entry, root, staging))
        except (FileNotFoundError, NotADirectoryError):
            lost += 1
        except OSError as error:
            if error.errno in _FULL or error.errno in RUN_OUT:
                raise
            unreadable[entry.path] = error.errno or errno.ESTALE
            if entry.path in previous and not entry.stale:
                result.append(previous[entry.path]._replace(stale=True, unstable=False))
    return _regroup(result), lost, unreadable


def _read_again(entry: Entry, root: Descent, staging: Staging) -> Entry:
    started = time.time_ns()
    parent, name = root.parent(entry.path)
    fd, before = open_file(parent, name)
    try:
        digest, size = staging.copy(entry.path, fd)
        xattrs = read_xattrs(fd)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    mode, uid, gid, _size, mtime, *_rest = ROW.unpack(pack_row(after))
    unstable = _moved(before, after, size, started)
    return Entry(entry.path, FILE, mode & 0o7777, uid, gid, mtime, size, digest.hex(), None, entry.group, xattrs, unstable=unstable)
