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
from .cache import DATABASE, RACY, RACY_SECONDS, ROW, SIDECAR, SLOT, XATTRS, Cache, Record
from .content import copy_file, end_of_last_line, hash_file
from .database import JOURNAL, MAGIC, SHARED, WAL, CaptureError, Facts, capture, database_of
from .entry import DIRECTORY, FILE, SYMLINK, TYPES, Entry, encode, plain_file
from .metadata import Xattrs, mtime_ns, path_of, read_xattrs
from .survey import Survey, is_selected, lstat, pack_row
from .walk import CREATE_FLAGS, FILE_FLAGS, Descent, open_file

_NO_HASH = bytes(SLOT)
# How long databases of one owner may hold a run up in vain, by locks that stay or worse; the run is everybody's.
_IN_VAIN_SECONDS = 300.0
_NS = 10**9
# What opening a path says when the file that was listed is there no more: nothing, or something else, stands in its place.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO, errno.ENODEV)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# The clock that ctimes are taken from (CLOCK_REALTIME_COARSE, which Python does not name): it goes by ticks of some ms, behind the precise one.
_CTIME_CLOCK = 5

Tell = Callable[[int, int], None]  # (files, bytes) done since the last call


class Staging:
    """A private directory, in which ``directory`` holds, under the same relative path, one copy of every file that moved while it was read and of
    every database that was captured."""

    def __init__(self, home: bytes) -> None:
        self._home = home
        self.directory = home + b"/files"
        self._root: Optional[Descent] = None

    def copy(self, path: bytes, source_fd: int, *, by_lines: bool = False, tell: Optional[Callable[[int], None]] = None) -> Tuple[bytes, int]:
        """Copy an open file to ``path``, ``by_lines`` without the beginning of a line that was not finished; (SHA-256, bytes) of the copy.

        ``tell``: as of ``copy_file``."""
        parent, name = self._clear(path)
        fd = os.open(name, CREATE_FLAGS if not by_lines else CREATE_FLAGS & ~os.O_ACCMODE | os.O_RDWR, 0o600, dir_fd=parent)
        try:
            digest, size = copy_file(source_fd, fd, tell=tell)
            whole = end_of_last_line(fd, size) if by_lines else size
            if whole < size:
                os.ftruncate(fd, whole)
                os.lseek(fd, 0, os.SEEK_SET)
                return hash_file(fd)
            return digest, size
        finally:
            os.close(fd)

    def capture(self, root: Descent, paths: Sequence[bytes], prefix: bytes = b"/", owner: Optional[int] = None) -> Facts:
        """Capture the database with these names, which lies below ``root`` (itself ``prefix``) and belongs to ``owner``, under the first of them.
        Raises ``CaptureError``."""
        temporary = self._home + b"/capture"
        os.makedirs(self._home, 0o700, exist_ok=True)
        tables, rows, schema = capture(root, prefix, paths, temporary, owner)
        fd = os.open(temporary, FILE_FLAGS)
        try:
            digest, size = hash_file(fd)
        finally:
            os.close(fd)
        parent, name = self._clear(paths[0])
        os.rename(temporary, name, dst_dir_fd=parent)
        return Facts(digest.hex(), size, tables, rows, schema, 0)

    def _clear(self, path: bytes) -> Tuple[int, bytes]:
        """Where the copy of ``path`` goes: never into an older one."""
        if self._root is None:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            self._root = Descent(self.directory)
        parent, name = self._root.parent(path, create=0o700)
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        return parent, name

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
    stat; ``databases``: what is known of every database, by path; ``uncaptured``: why some of them could not be captured, these ``kept`` from the
    last snapshot, the others copied as they lay; ``hashed_files``, ``hashed_bytes``, ``captured``: how many databases were, or in check mode would be.
    """

    entries: List[Entry]
    lines: List[bytes]
    records: List[Record]
    staged: AbstractSet[bytes]
    unreadable: Mapping[bytes, int]
    vanished: int
    whole: bool
    rotten: Sequence[bytes]
    databases: Mapping[bytes, Facts]
    uncaptured: Mapping[bytes, str]
    kept: AbstractSet[bytes]
    hashed_files: int
    hashed_bytes: int
    captured: int


class _Task(NamedTuple):
    path: bytes
    folder: int
    position: int
    row: bytes
    known: bytes  # the hash the cache has for this very stat, or empty


class _Beside(NamedTuple):
    """A file that by its name may be a part of the database beside it."""

    task: _Task
    database: bytes
    is_known: bool  # what it is alone is in the cache


class _Read(NamedTuple):
    """How reading one file ended. ``problem`` is an errno, 0 for none; ``moving``: it changed while it was read; ``is_database``: it was not read."""

    row: bytes
    digest: bytes
    xattrs: Xattrs
    problem: int
    moving: bool
    is_database: bool = False


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
    databases: Optional[Mapping[bytes, Facts]] = None,
    is_log: Callable[[bytes], bool] = lambda path: False,
) -> Hashed:
    """Read what the cache does not know of what a survey found; ``Hashed.finish`` makes entries of it.

    Without ``staging`` (check mode) a file in motion is hashed as it is, and a database that would be captured has no hash. ``distrust`` names
    files to hash even where the cache knows them. ``databases``: what is known of those captured before; None where SQLite is nothing special. ``is_log``
    names files that are only ever added to, by whole lines.
    """
    hashed = Hashed(found, cache, root, now, staging, distrust, tell, databases, is_log)
    hashed.plan()
    hashed.read()
    if databases is not None:
        hashed.look_beside()
        hashed.capture()
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
        databases: Optional[Mapping[bytes, Facts]],
        is_log: Callable[[bytes], bool],
    ) -> None:
        self.is_log = is_log
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
        self.captures_databases = databases is not None
        self.known: Mapping[bytes, Facts] = databases or {}
        self.databases: Dict[bytes, Facts] = {}  # by the first path of their group
        self.to_capture: Dict[bytes, _Task] = {}
        self.captured: set[bytes] = set()
        self.uncaptured: Dict[bytes, str] = {}
        self.kept: set[bytes] = set()  # paths of databases that are as in the last snapshot, having not been captured
        self.beside: List[_Beside] = []
        self.journals: Dict[bytes, List[_Task]] = {}  # by the first path of their database's group
        self.young: set[bytes] = set()  # databases with a journal that changed just now
        self.again: set[bytes] = set()  # databases that changed by what one of their names shows

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
                if folder.known.has(DATABASE):
                    self._plan_known_databases(number, folder.known)
                if self.distrust is not None:
                    self._plan_distrusted(number, folder.known)
                continue
            count = len(folder.rows) // ROW.size
            known = None if folder.expired else self.cache.get(folder.path)
            by_name = known.by_name() if known is not None else {}
            hashed_at = known.hashed_at if known is not None else int(self.now)
            flags, slots, tasks = bytearray(count), [_NO_HASH] * count, []
            names = folder.names.split(b"\0") if count else []
            beside = _beside(names, folder.rows) if self.captures_databases else {}
            for index, name in enumerate(names):
                row = folder.rows[index * ROW.size : (index + 1) * ROW.size]
                old = by_name.get(name)
                same = old is not None and old[0] == row and not old[1] & RACY
                path = b"%s/%s" % (folder.path, name) if folder.path else name
                if same and old is not None and old[1] & (DATABASE | SIDECAR):
                    same = bool(old[1] & DATABASE) and self._is_as_captured(path, old[2], name, beside, by_name)
                if same and old is not None:
                    flags[index], slots[index] = old[1], old[2]
                    if name not in beside and self.distrust is None:
                        continue
                is_file = stat.S_ISREG(ROW.unpack(row)[0])
                if name in beside:
                    base = path[: len(path) - len(name)] + beside[name][0]
                    self.beside.append(_Beside(_Task(path, number, index, row, b""), base, same))
                elif is_file:
                    distrusted = same and self.distrust is not None and self.distrust(path)
                    if (not same or distrusted) and self.groups.get(path, path) == path:
                        tasks.append(_Task(path, number, index, row, slots[index] if same else b""))
                elif not same:
                    flags[index] = self._read_other_xattrs(path) | (RACY if self._is_young(row) else 0)
            self.records.append(Record(folder.path, folder.names, folder.rows, bytes(flags), b"".join(slots), hashed_at))
            self.tasks.extend(tasks)
        if self.again:
            self._plan_again()

    def _plan_again(self) -> None:
        unplanned = self.again.difference([task.path for task in self.tasks])
        for number, record in enumerate(self.records):
            prefix = record.path + b"/" if record.path else b""
            for index, name in enumerate(record.split_names()):
                if prefix + name in unplanned:
                    self.databases.pop(prefix + name, None)
                    self.tasks.append(_Task(prefix + name, number, index, _row(record, index), b""))

    def _is_as_captured(
        self, path: bytes, slot: bytes, name: bytes, beside: Mapping[bytes, Tuple[bytes, bytes]], before: Mapping[bytes, Tuple[bytes, int, bytes]]
    ) -> bool:
        """Whether the journals of a database of unchanged stat are as they were, too: a commit may touch nothing else."""
        if not self._knows(path, slot):
            return False
        for suffix in (JOURNAL, WAL):
            row = beside.get(name + suffix, (b"", b""))[1]
            old = before.get(name + suffix)
            if (row if row and ROW.unpack(row)[3] else b"") != (old[0] if old is not None and old[1] & SIDECAR else b""):
                self.again.add(self.groups.get(path, path))  # its first name may show no change
                return False
        return True

    def _knows(self, path: bytes, slot: bytes) -> bool:
        """Take over what is known of a database with this capture, if anything is."""
        key = self.groups.get(path, path)
        facts = self.known.get(key)
        if not self.captures_databases or facts is None or facts.digest != slot.hex():
            return False
        self.databases[key] = facts
        return True

    def _plan_known_databases(self, number: int, record: Record) -> None:
        prefix = record.path + b"/" if record.path else b""
        for index, (name, (row, flags, slot)) in enumerate(record.by_name().items()):
            path = prefix + name
            if flags & DATABASE and not self._knows(path, slot) and self.groups.get(path, path) == path:
                self.tasks.append(_Task(path, number, index, row, b""))

    def _plan_distrusted(self, number: int, record: Record) -> None:
        assert self.distrust is not None
        prefix = record.path + b"/" if record.path else b""
        for index, (name, (row, flags, slot)) in enumerate(record.by_name().items()):
            path = prefix + name
            if flags & SIDECAR:
                continue
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
        unless = MAGIC if self.captures_databases else None

        def work(start: int, stop: int) -> Tuple[bytes, Dict[int, _Read], int, int]:
            hashes = bytearray()
            odd: Dict[int, _Read] = {}
            total = 0
            with Descent(b".", dir_fd=root_fd) as below:
                for index in range(start, stop):
                    task = tasks[index]
                    result = _read_file(below, task.path, unless)
                    hashes += result.digest
                    total += ROW.unpack(result.row)[3] if result.row else 0
                    if result.problem or result.moving or result.xattrs or result.row != task.row or result.is_database:
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
        self.hashed_files += len(tasks) - sum(task.path in self.to_capture for task in tasks)
        tasks.clear()  # a sixth of all memory, which the entries can use

    def look_beside(self) -> None:
        """Tell the journals of databases from files that only have such names."""
        for task, database, is_known in self.beside:
            key = self.groups.get(database, database)
            size = ROW.unpack(task.row)[3]
            # Of one that cannot be read now the last snapshot's state stays, and a later journal must not come to lie beside that.
            if key in self.databases or key in self.to_capture or (key in self.unreadable and key in self.known):
                self.groups.pop(task.path, None)
                if task.path.endswith(SHARED) or not size:
                    self.table(task.folder).gone.append(task.position)
                else:
                    table = self.table(task.folder)
                    table.flags[task.position], table.slots[task.position] = SIDECAR, _NO_HASH
                    self.journals.setdefault(key, []).append(task)
                    if self._is_young(task.row):
                        self.young.add(key)
            elif not is_selected(task.row):
                self.table(task.folder).gone.append(task.position)
            elif not is_known and self.groups.get(task.path, task.path) == task.path:
                self.tasks.append(task)
        for path in {task.path for task in self.to_capture.values()}.union(self.databases):
            # What lies beside it, and it itself as it lies there, must not be sent with its directory.
            folder = path.rpartition(b"/")[0]
            self.found.counts[folder] = (-1, self.found.counts.get(folder, (-1, 0))[1])
        if self.tasks:
            self.read()

    def capture(self) -> None:
        """Capture the databases that changed, or whose last capture cannot be trusted."""
        members: Dict[bytes, List[bytes]] = {}
        for path, first in sorted(self.groups.items()):
            members.setdefault(first, []).append(path)
        in_vain: Dict[int, float] = {}
        for path, task in sorted(self.to_capture.items()):
            names = members.get(path, [path])
            if self.staging is None:
                self._settle_database(task, self._foresee(task))
                continue
            owner = ROW.unpack(task.row)[1]
            if in_vain.get(owner, 0.0) > _IN_VAIN_SECONDS:
                self._give_up(task, "others of its owner held the run up too long")
                continue
            started = time.monotonic()
            try:
                facts = self.staging.capture(self.root, names, owner=owner)
            except CaptureError as error:
                in_vain[owner] = in_vain.get(owner, 0.0) + time.monotonic() - started
                self._give_up(task, error.reason)
                continue
            before = self.known.get(path)
            if before is not None and before.tables and not facts.tables:
                self._give_up(task, _lost_tables(before))
                continue
            # A checkpoint moves the file's time and changes nothing: the time is that of the content.
            mtime = before.mtime if before is not None and before.digest == facts.digest else ROW.unpack(task.row)[4]
            facts = facts._replace(mtime=mtime)
            self.captured.add(path)
            self._settle_database(task, facts)
            self._settle_journals(path)
            if self.tell is not None:
                self.tell(1, facts.size)

    def _foresee(self, task: _Task) -> Facts:
        """What a capture would give, in check mode: what is known where only its age is against it, else nothing that ever was."""
        old = self.cache.get(task.path.rpartition(b"/")[0])
        known = self.known.get(task.path)
        before = old.by_name().get(task.path.rpartition(b"/")[2]) if old is not None else None
        if before is not None and known is not None and before[0] == task.row and before[2].hex() == known.digest and task.path not in self.again:
            return known
        self.captured.add(task.path)
        return Facts(_NO_HASH.hex(), ROW.unpack(task.row)[3], 0, 0, 0, ROW.unpack(task.row)[4])

    def _settle_database(self, task: _Task, facts: Facts) -> None:
        digest = bytes.fromhex(facts.digest)
        if task.known and digest != task.known:
            self.rotten.append(task.path)
        self.databases[task.path] = facts
        try:
            parent, name = self.root.parent(task.path)
            xattrs = read_xattrs(path_of(parent, name))
        except OSError as error:
            self._miss(task.path, error)
            xattrs = ()
        if xattrs:
            self.xattrs[task.path] = xattrs
        table = self.table(task.folder)
        racy = self._is_young(task.row) or task.path in self.young
        # As it was looked at before it was opened: what is committed from then on shows next time.
        table.rows[task.position], table.slots[task.position] = task.row, digest
        table.flags[task.position] = DATABASE | (RACY if racy else 0) | (XATTRS if xattrs else 0)

    def _settle_journals(self, path: bytes) -> None:
        """SQLite gives a journal to its database's owner whenever root opens it: nothing but the ctime moves, and that is our own doing."""
        for task in self.journals.get(path, ()):
            try:
                row = pack_row(lstat(self.root, task.path))
            except OSError:
                continue
            if not is_selected(task.row):
                row = row[:-4] + task.row[-4:]
            before, after = ROW.unpack(task.row), ROW.unpack(row)
            if before[:5] + before[6:] == after[:5] + after[6:]:
                self.table(task.folder).rows[task.position] = row

    def _give_up(self, task: _Task, reason: str) -> None:
        self.uncaptured[task.path] = reason
        self.table(task.folder).flags[task.position] = RACY

    def _keep_uncaptured(self, previous: Callable[[], Mapping[bytes, Entry]]) -> None:
        """What could not be captured stays as it is in the last snapshot. One that is not in it is copied as it lies, with its journals."""
        before = previous()
        for path in sorted(self.uncaptured):
            old = before.get(path)
            if old is not None and old.type == FILE:
                self.kept.update([name for name, first in self.groups.items() if first == path], [path])
                if path in self.known:
                    self.databases[path] = self.known[path]
                continue
            if path in self.to_capture:
                self._copy_as_it_lies(self.to_capture[path])
                for task in self.journals.get(path, ()):
                    self._copy_as_it_lies(task)

    def _copy_as_it_lies(self, task: _Task) -> None:
        self._settle_odd(task, _Read(task.row, _NO_HASH, (), 0, True))
        self.unstable.add(task.path)

    def _settle_odd(self, task: _Task, read: _Read) -> None:
        if read.is_database:
            self.to_capture[task.path] = task
            return
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
                is_log = self.is_log(task.path)
                digest, size = self.staging.copy(task.path, fd, by_lines=is_log)
                xattrs = read_xattrs(fd)
                after = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _FULL or error.errno in RUN_OUT:
                raise
            return read._replace(problem=error.errno or errno.ESTALE, moving=False)
        self.staged.add(task.path)
        # What is only added to is whole as far as it was copied.
        if _moved(before, after, size, started) and not (is_log and after.st_size >= size):
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
        known = self.known.get(task.path) if self.known else None
        if known is not None and known.tables and not ROW.unpack(row)[3]:
            self.uncaptured[task.path] = _lost_tables(known)
            racy = True
        table.rows[task.position] = row
        table.slots[task.position] = digest
        table.flags[task.position] = (RACY if racy else 0) | (XATTRS if has_xattrs else 0)

    def _is_young(self, row: bytes) -> bool:
        mtime, ctime = ROW.unpack(row)[4:6]
        return bool(self.now - max(mtime, ctime) / _NS < RACY_SECONDS)

    @property
    def entries(self) -> int:
        """How many entries these records stand for."""
        return sum(record.entries for record in self.records)

    def proves_unchanged(self) -> bool:
        """Whether all is as the cache has it, what was read again included: the ``records`` then stand for the manifest that it was written with."""
        if self.unreadable or self.vanished or self.has_missed or self.staged or self.rotten or self.uncaptured:
            return False
        if not self.cache.content_digest or len(self.records) != len(self.cache):
            return False
        records = [self.tables[number].to_record() if number in self.tables else record for number, record in enumerate(self.records)]
        for number, folder in enumerate(self.found.folders):
            if folder.known is None and not _proves_same(self.cache.get(folder.path), records[number], folder.expired):
                return False
        self.records = records
        return True

    def shows_change(self) -> bool:
        """Whether something is certainly not as in the manifest that the cache was written with: a name that came or went, or another content.
        False also where only the entries will tell."""
        if not self.cache.content_digest or self.unreadable or self.has_missed:
            return False
        for number, folder in enumerate(self.found.folders):
            old = self.cache.get(folder.path) if folder.known is None else None
            if old is None:
                continue  # of a new one the directory above tells
            new = self.tables[number].to_record() if number in self.tables else self.records[number]
            if old.has(DATABASE | SIDECAR) or new.has(DATABASE | SIDECAR):
                continue
            # Further names of a file have no hash yet.
            if old.names != new.names or any(_slot(new, i) not in (_NO_HASH, _slot(old, i)) for i in range(len(new.flags))):
                return True
        return False

    def finish(self, previous: Callable[[], Mapping[bytes, Entry]]) -> Scan:
        """Make the entries, and the records for the next run. ``previous`` gives the entries of the last snapshot; it is asked only where something
        cannot be read."""
        if self.uncaptured:
            self._keep_uncaptured(previous)
        self._share_groups()
        for number, table in self.tables.items():
            self.records[number] = table.to_record()
        entries = list(self._entries())
        if self.unreadable or self.kept:
            entries += self._stale({entry.path for entry in entries}, previous())
        if self.groups or self.unreadable or self.kept:
            entries = _regroup(entries)
        entries.sort(key=itemgetter(0))
        return Scan(
            entries,
            [encode(entry) for entry in entries],
            self.records,
            frozenset(self.staged) if self.staging is None else frozenset(self.staged | self.captured),
            self.unreadable,
            self.vanished,
            not (self.unreadable or self.unstable or self.has_missed or self.uncaptured),
            self.rotten,
            self.databases,
            self.uncaptured,
            self.kept,
            self.hashed_files,
            self.hashed_bytes,
            len(self.captured),
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
                    read = _read_file(self.root, path, MAGIC if self.captures_databases else None)
                    if read.is_database:  # for the next run, which has seen all of its names
                        read = _Read(b"", _NO_HASH, (), errno.EBUSY, False)
                    self._settle_odd(_Task(path, number, index, row, b""), read)
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
        odd.update(path.rpartition(b"/")[0] for path in self.kept)
        for record in self.records:
            if record.path in odd or record.has(XATTRS | DATABASE | SIDECAR):
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
            if (path in self.unreadable and not stat.S_ISDIR(mode)) or path in self.kept or record.flags[index] & SIDECAR:
                continue
            kind = TYPES[mode & 0o170000]
            entry: Optional[Entry]
            if kind == FILE:
                if record.flags[index] & DATABASE:
                    facts = self.databases[self.groups.get(path, path)]
                    size, mtime = facts.size, facts.mtime
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
            if path in present or not (path.startswith(closed) or path in self.kept or (path in self.unreadable and old.type != DIRECTORY)):
                continue
            if self.found.selects(path, old.type == DIRECTORY):
                while path and path not in present and path not in kept:
                    kept[path] = previous[path]
                    path = path.rpartition(b"/")[0]
        return (old._replace(stale=True, unstable=False) for old in kept.values())


def _beside(names: Sequence[bytes], rows: bytes) -> Dict[bytes, Tuple[bytes, bytes]]:
    """(Name of the database, row) of every file that may be a part of a database, going by names alone."""
    result: Dict[bytes, Tuple[bytes, bytes]] = {}
    files: Optional[AbstractSet[bytes]] = None
    for index, name in enumerate(names):
        database = database_of(name)
        if database is None:
            continue
        if files is None:
            files = {names[i] for i, (mode, *_rest) in enumerate(ROW.iter_unpack(rows)) if stat.S_ISREG(mode)}
        if database in files and name in files:
            result[name] = (database, rows[index * ROW.size : (index + 1) * ROW.size])
    return result


def _lost_tables(before: Facts) -> str:
    return "it has lost all its tables (there were %d)" % before.tables


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


def _read_file(below: Descent, path: bytes, unless: Optional[bytes] = None) -> _Read:
    started = time.clock_gettime_ns(_CTIME_CLOCK)
    try:
        parent, name = below.parent(path)
        fd, before = open_file(parent, name)
        try:
            digest, size = hash_file(fd, unless=unless, size=before.st_size)
            if not digest:
                return _Read(pack_row(before), _NO_HASH, (), 0, False, True)
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
    entries: Sequence[Entry],
    paths: AbstractSet[bytes],
    *,
    root: Descent,
    staging: Staging,
    previous: Mapping[bytes, Entry],
    databases: AbstractSet[bytes] = frozenset(),
    is_log: Callable[[bytes], bool] = lambda path: False,
    tell: Optional[Callable[[int], None]] = None,
) -> Tuple[List[Entry], int, Dict[bytes, int], Dict[bytes, Facts]]:
    """Replace the entries of ``paths`` by what is found there now, copied into ``staging``; (entries, how many are gone, errno of the unreadable,
    what is known of those that are ``databases`` and were captured).

    What is gone is left out; what cannot be read, or is no file any more, keeps its previous entry, marked stale, unless that one's content is
    what did not arrive. ``tell`` hears how many bytes of a large file were read, again and again.
    """
    result: List[Entry] = []
    lost = 0
    unreadable: Dict[bytes, int] = {}
    captured: Dict[bytes, Facts] = {}
    names: Dict[bytes, List[bytes]] = {}
    for entry in entries:
        if (entry.group or entry.path) in databases:
            names.setdefault(entry.group or entry.path, []).append(entry.path)
    for entry in entries:
        key = entry.group or entry.path
        if key not in paths:
            result.append(entry)
            continue
        try:
            if key in databases:
                if key not in captured:
                    captured[key] = staging.capture(root, names[key], owner=entry.uid)._replace(mtime=entry.mtime)
                result.append(entry._replace(hash=captured[key].digest, size=captured[key].size, stale=False, unstable=False))
            else:
                result.append(_read_again(entry, root, staging, is_log(entry.path), tell))
        except CaptureError:
            unreadable[entry.path] = errno.EBUSY
            if entry.path in previous and not entry.stale:
                result.append(previous[entry.path]._replace(stale=True, unstable=False))
        except (FileNotFoundError, NotADirectoryError):
            lost += 1
        except OSError as error:
            if error.errno in _FULL or error.errno in RUN_OUT:
                raise
            unreadable[entry.path] = error.errno or errno.ESTALE
            if entry.path in previous and not entry.stale:
                result.append(previous[entry.path]._replace(stale=True, unstable=False))
    return _regroup(result), lost, unreadable, captured


def _read_again(entry: Entry, root: Descent, staging: Staging, is_log: bool, tell: Optional[Callable[[int], None]]) -> Entry:
    started = time.time_ns()
    parent, name = root.parent(entry.path)
    fd, before = open_file(parent, name)
    try:
        digest, size = staging.copy(entry.path, fd, by_lines=is_log, tell=tell)
        xattrs = read_xattrs(fd)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    mode, uid, gid, _size, mtime, *_rest = ROW.unpack(pack_row(after))
    unstable = _moved(before, after, size, started) and not (is_log and after.st_size >= size)
    return Entry(entry.path, FILE, mode & 0o7777, uid, gid, mtime, size, digest.hex(), None, entry.group, xattrs, unstable=unstable)
