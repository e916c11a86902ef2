# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk over the sources: which paths are selected and what their ``lstat`` says, compared with the cache as it goes. Nothing is opened
but directories (and the first bytes of what decides on others: a cache's tag, a database that is left out and its journals are not), so an unchanged
host costs this and no more."""

from __future__ import annotations

import errno
import os
import stat
import sys
import zlib
from copy import copy
from struct import Struct
from struct import error as StructError
from typing import AbstractSet, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .. import pool
from ..errors import RUN_OUT, UsageError, printable
from .cache import DATABASE, RACY, ROW, VOLATILE_SECONDS, Cache, Record
from .database import JOURNAL, MAGIC, SHARED, SIDECARS, WAL, database_of
from .entry import MAX_COMPONENT, MAX_PATH
from .metadata import NS_MAX, NS_MIN, Xattrs, path_of, read_xattrs
from .selection import Matcher, Selection, selects
from .walk import Descent, Listed, list_directory

CACHE_TAG = b"CACHEDIR.TAG"
_CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_VOLATILE = frozenset(("tmpfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs"))

# From so many directories on, several processes walk.
_SHARE_FROM = 500
_KIND = 0o170000  # of st_mode: what S_ISDIR and its like look at, at a call each
_LINKS = Struct("<I")  # the last field of a row
_KNOWN = Record(b"", b"", b"", b"", b"", 0)

DeviceInode = Tuple[int, int]
Leave = Callable[[bytes, str, bool], None]
_Pending = Tuple[bytes, bool]  # a directory to walk, and whether it is included


class Folder(NamedTuple):
    """One directory as the walk saw it. ``known``: the cache record that equals it, in which case ``names`` and ``rows`` are empty.
    ``expired``: what the cache knows of it is too old for its file system."""

    path: bytes
    names: bytes
    rows: bytes
    known: Optional[Record]
    expired: bool = False


class Survey:
    """What a walk found.

    ``folders`` in any order; ``links`` (device, inode) of every selected path that has more than one name; ``unreadable`` paths of
    directories, and of what no manifest can name, with their errno; ``counts`` per directory (regular files, subdirectories) on disk where
    all of them are selected, else -1 for the files; ``ancestors`` directories above sources; ``content_digest`` is set when the cache proves
    that nothing changed.
    """

    def __init__(self, sources: Sequence[bytes], matcher: Matcher) -> None:
        self.sources = sources
        self.matcher = matcher
        self.folders: List[Folder] = []
        self.links: Dict[bytes, DeviceInode] = {}
        self.unreadable: Dict[bytes, int] = {}
        self.counts: Dict[bytes, Tuple[int, int]] = {}
        self.ancestors: List[bytes] = []
        self.entries = 0
        self.content_digest = ""

    def selects(self, path: bytes, is_dir: bool) -> bool:
        """Whether this walk would have kept ``path``, going by names alone."""
        return selects(self.matcher, self.sources, path, is_dir)


class _Walk:
    def __init__(
        self,
        root: Descent,
        sources: Sequence[bytes],
        selection: Selection,
        cache: Cache,
        skip: AbstractSet[DeviceInode],
        now: float,
        databases: bool,
        leave: Optional[Leave],
    ) -> None:
        self.root = root
        self.selection = selection
        self.matcher: Matcher = selection.matcher()
        self.marks = frozenset(os.fsencode(name) for name in selection.exclude_if_present)
        self.cache = cache
        self.skip = skip
        self.skipped_inodes = frozenset(inode for _device, inode in skip)
        self.now = now
        self.databases = databases
        self.leave = leave
        self.aside: List[Listed] = []  # of the directory at hand: journals of what may be a database, not selected themselves
        self.parted: AbstractSet[bytes] = frozenset()  # of the directory at hand: selected journals of databases that are not
        self.survey = Survey(sources, self.matcher)
        self.tentative: Dict[bytes, bool] = {}  # directories that are kept only for what is kept below them
        self.volatile = _volatile_devices()

    def source(self, source: bytes, device: int) -> None:
        """Walk one source, a path relative to ``/`` that is a directory on ``device``."""
        pending: List[_Pending] = [(source, not self.matcher.has_include)]
        self._walk(pending, source, device, _SHARE_FROM if self.leave is None else sys.maxsize)
        if pending:
            self._share(pending, source, device)

    def _share(self, pending: Sequence[_Pending], source: bytes, device: int) -> None:
        """Walk what is left of a large source with several processes."""
        cache, survey = self.cache, self.survey

        def work(start: int, stop: int) -> Tuple[Survey, Dict[bytes, bool]]:
            part = copy(self)
            part.survey, part.tentative = Survey(survey.sources, self.matcher), {}
            with Descent(b".", dir_fd=self.root.root_fd) as part.root:
                part._walk(list(pending[start:stop]), source, device)
            found = part.survey
            # A record that is known here is known over there.
            found.folders = [folder if folder.known is None else folder._replace(known=_KNOWN) for folder in found.folders]
            del found.matcher
            return found, part.tentative

        # Nobody knows how large they are: many small ranges are shared out evenly.
        for found, tentative in pool.run(work, [pool.FORK_PAYS_BYTES] * len(pending)):
            survey.folders += [folder if folder.known is None else folder._replace(known=cache.get(folder.path)) for folder in found.folders]
            survey.links.update(found.links)
            survey.unreadable.update(found.unreadable)
            survey.counts.update(found.counts)
            survey.entries += found.entries
            self.tentative.update(tentative)

    def _walk(self, pending: List[_Pending], source: bytes, device: int, most: int = sys.maxsize) -> None:
        """Walk ``pending`` and what is below, up to ``most`` directories; what is left stays in the list."""
        strip = len(source) + 1 if source else 0
        while pending and most > 0:
            most -= 1
            path, included = pending.pop()
            here, on_disk = 0, -1
            kept: List[Listed] = []
            self.aside, self.parted = [], frozenset()
            try:
                fd = self.root.directory(path)
                here = os.fstat(fd).st_dev
                if here == device or not self.selection.one_file_system:
                    listing = list_directory(fd)
                    on_disk = len(listing)
                    kept = self._nameable(path, self._select(fd, path, listing, included, strip))
                    if self.leave is not None:
                        self._tell(path, listing, kept)
                elif self.leave is not None:
                    self.leave(path, "one_file_system", True)
            except OSError as error:
                if error.errno in RUN_OUT:
                    raise
                if error.errno not in _GONE:
                    self.survey.unreadable[path] = error.errno or errno.EIO
                    continue
                if path == source:
                    raise  # a disk that goes away must not look like an empty one
                # Gone or replaced since its parent was listed: recorded as the empty directory that it was last seen as.
            files, directories = self._add(path, kept, here in self.volatile)
            # A directory in which something was left out can never be sent as a whole.
            self.survey.counts[path] = (files, len(directories)) if len(kept) == on_disk else (-1, len(directories))
            for below in reversed(directories):
                inside = included or (self.matcher.has_include and self._is_included(below, strip, True))
                if not inside:
                    self.tentative[below] = False
                pending.append((below, inside))

    def _tell(self, path: bytes, listing: Sequence[Listed], kept: Sequence[Listed]) -> None:
        """Say what of a directory is left out, and why."""
        assert self.leave is not None
        names = {item.name for item in kept}
        left = [item for item in listing if item.name not in names]
        tagged = bool(kept) and bool(left) and all(item.name in self.marks or item.name == CACHE_TAG for item in kept)
        for item in left:
            inner = b"%s/%s" % (path, item.name) if path else item.name
            is_dir = stat.S_ISDIR(item.stat.st_mode)
            why = "own" if (item.stat.st_dev, item.stat.st_ino) in self.skip else "sqlite" if item.name in self.parted else "patterns"
            if tagged:
                why = "exclude_if_present" if kept[0].name in self.marks else "exclude_caches"
            self.leave(inner, why, is_dir)

    def _is_included(self, path: bytes, strip: int, is_dir: bool) -> bool:
        return self.matcher.included(path[strip:], is_dir)

    def _nameable(self, path: bytes, kept: List[Listed]) -> List[Listed]:
        """What a manifest can name; file systems may allow longer names, and paths have no limit at all."""
        prefix = path + b"/" if path else b""
        longest = min(MAX_COMPONENT, MAX_PATH - len(prefix))
        if max([len(item.name) for item in kept], default=0) <= longest:
            return kept
        self.survey.unreadable.update((prefix + item.name, errno.ENAMETOOLONG) for item in kept if len(item.name) > longest)
        return [item for item in kept if len(item.name) <= longest]

    def _select(self, fd: int, path: bytes, listing: List[Listed], included: bool, strip: int) -> List[Listed]:
        tags = [item for item in listing if item.name in self.marks and not stat.S_ISDIR(item.stat.st_mode)] if self.marks else []
        if self.selection.exclude_caches and not tags:
            tags = [item for item in listing if item.name == CACHE_TAG and is_cache(fd)]
        listing = tags or listing
        if not self.skipped_inodes.isdisjoint([item.stat.st_ino for item in listing]):
            listing = [item for item in listing if (item.stat.st_dev, item.stat.st_ino) not in self.skip]
        if self.matcher.trivial:
            return listing
        prefix = path[strip:] + b"/" if path[strip:] else b""
        excluded, test_include = self.matcher.excluded, not included
        kept, left_out = [], []
        for item in listing:
            relative = prefix + item.name
            is_dir = stat.S_ISDIR(item.stat.st_mode)
            if excluded(relative, is_dir):
                left_out.append(item)
                continue
            if test_include and not is_dir and not self.matcher.included(relative, False):
                left_out.append(item)
                continue
            kept.append(item)
        if self.databases and left_out:
            kept, self.parted = _without_parted(fd, kept, left_out)
            self.aside = [item for item in left_out if item.name.endswith((JOURNAL, WAL)) and stat.S_ISREG(item.stat.st_mode)]
            if self.aside:
                files = {item.name for item in kept if stat.S_ISREG(item.stat.st_mode)}
                self.aside = [item for item in self.aside if database_of(item.name) in files]
        return kept

    def _add(self, path: bytes, kept: Sequence[Listed], volatile: bool) -> Tuple[int, List[bytes]]:
        """Note what is selected in a directory; (regular files, paths of directories) among it."""
        names, rows = b"\0".join([item.name for item in kept]), b"".join([pack_row(item.stat) for item in kept])
        if self.aside:
            names, rows = _with_aside(kept, self.aside)
        survey = self.survey
        prefix = path + b"/" if path else b""
        files = 0
        directories: List[bytes] = []
        for name, found in kept:
            kind = found.st_mode & _KIND
            if kind == stat.S_IFDIR:
                directories.append(prefix + name)
                continue
            if kind == stat.S_IFREG:
                files += 1
            if found.st_nlink > 1:
                survey.links[prefix + name] = (found.st_dev, found.st_ino)
        folder = self._compare(path, names, rows, volatile)
        survey.entries += len(kept) if folder.known is None else folder.known.entries
        survey.folders.append(folder)
        return files, directories

    def _compare(self, path: bytes, names: bytes, rows: bytes, volatile: bool) -> Folder:
        known = self.cache.get(path)
        expired = known is not None and volatile and not 0 <= self.now - known.hashed_at < VOLATILE_SECONDS
        if known is not None and not expired and not known.has(RACY):
            if known.has(DATABASE):
                same = self.databases and (known.names, known.rows) == _without_idle(known, names, rows)
            else:
                same = known.names == names and known.rows == rows
            if same:
                return Folder(path, b"", b"", known)
        return Folder(path, names, rows, None, expired)

    def ancestor(self, path: bytes, names: Iterable[bytes], sources: AbstractSet[bytes]) -> None:
        """A directory above sources: only the way down to them is selected, and the times of what lies above them say nothing of them."""
        prefix = path + b"/" if path else b""
        ordered = sorted(names)
        self.survey.entries += len(ordered)
        rows = []
        volatile = False
        aside: List[Listed] = []
        for name in ordered:
            found = lstat(self.root, prefix + name)
            if prefix + name in sources:
                rows.append(pack_row(found))
                if self.databases and stat.S_ISREG(found.st_mode):
                    aside += self._journals(path, name)
                volatile = volatile or found.st_dev in self.volatile
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    self.survey.links[prefix + name] = (found.st_dev, found.st_ino)
            else:
                rows.append(_timeless_row(found, read_xattrs(path_of(self.root.directory(path), name))))
        # A source may be a database itself, and its journals no sources.
        together = sorted([*zip(ordered, rows), *((item.name, _looked_at(item.stat)) for item in aside if item.name not in ordered)])
        self.survey.folders.append(self._compare(path, b"\0".join([name for name, _row in together]), b"".join([row for _name, row in together]), volatile))
        self.survey.ancestors.append(path)
        self.survey.counts[path] = (-1, 0)

    def _journals(self, path: bytes, name: bytes) -> Iterator[Listed]:
        for suffix in (JOURNAL, WAL):
            try:
                found = os.stat(name + suffix, dir_fd=self.root.directory(path), follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield Listed(name + suffix, found)

    def prune_tentative(self) -> None:
        """Drop the directories that were entered in search of included paths and held none."""
        if not self.tentative:
            return
        needed = set()
        for folder in self.survey.folders:
            prefix = folder.path + b"/" if folder.path else b""
            if folder.path in self.tentative and any(prefix + name not in self.tentative for name in _names(folder)):
                at = folder.path
                while at in self.tentative and at not in needed:
                    needed.add(at)
                    at = at.rpartition(b"/")[0]
        unreadable = [path for path in self.survey.unreadable if path in self.tentative]
        for path in unreadable:
            while path in self.tentative and path not in needed:
                needed.add(path)
                path = path.rpartition(b"/")[0]
        dropped = self.tentative.keys() - needed
        folders = []
        for folder in self.survey.folders:
            if folder.path in dropped:
                self.survey.counts.pop(folder.path, None)
            else:
                folders.append(self._without(folder, dropped))
        self.survey.folders = folders
        self.survey.entries -= len(dropped)

    def _without(self, folder: Folder, dropped: AbstractSet[bytes]) -> Folder:
        prefix = folder.path + b"/" if folder.path else b""
        names = _names(folder)
        keep = [i for i, name in enumerate(names) if prefix + name not in dropped]
        if len(keep) == len(names):
            return folder
        self.survey.counts[folder.path] = (-1, self.survey.counts[folder.path][1])
        seen = folder.known or folder
        packed = b"\0".join([names[i] for i in keep])
        rows = b"".join([seen.rows[i * ROW.size : (i + 1) * ROW.size] for i in keep])
        try:
            volatile = os.fstat(self.root.directory(folder.path)).st_dev in self.volatile
        except OSError:
            volatile = True
        return self._compare(folder.path, packed, rows, volatile)


def _names(folder: Folder) -> List[bytes]:
    names = (folder.known or folder).names
    return names.split(b"\0") if names else []


def pack_row(found: os.stat_result) -> bytes:
    """The cache's row of one ``lstat``. Times outside 64 bits of nanoseconds are clamped."""
    mode, inode, _device, links, uid, gid, size, _atime, _mtime, _ctime = found
    rdev = found.st_rdev
    if mode & _KIND == stat.S_IFDIR:
        size = rdev = links = 0
    try:
        return ROW.pack(mode, uid, gid, size, found.st_mtime_ns, found.st_ctime_ns, inode, rdev, links)
    except StructError:
        times = [min(max(value, NS_MIN), NS_MAX) for value in (found.st_mtime_ns, found.st_ctime_ns)]
        return ROW.pack(mode, uid, gid, size, times[0], times[1], inode, rdev, links)


def _looked_at(found: os.stat_result) -> bytes:
    """The row of a file that is looked at and not selected: one without links, which no file is."""
    return pack_row(found)[: -_LINKS.size] + bytes(_LINKS.size)


def is_selected(row: bytes) -> bool:
    """Whether a file's row is that of an entry, not of a journal that is only looked at."""
    return any(row[-_LINKS.size :])


def _without_parted(fd: int, kept: List[Listed], left_out: Sequence[Listed]) -> Tuple[List[Listed], AbstractSet[bytes]]:
    """``kept`` without the journals of databases that are left out, and their names: restored beside a later state, SQLite would play them back into it."""
    files = {item.name for item in left_out if stat.S_ISREG(item.stat.st_mode)}
    journals = [item.name for item in kept if item.name.endswith(SIDECARS) and database_of(item.name) in files and stat.S_ISREG(item.stat.st_mode)]
    parted = {name for name in journals if is_database(fd, database_of(name) or b"")}
    return [item for item in kept if item.name not in parted] if parted else kept, parted


def _with_aside(kept: Sequence[Listed], aside: Sequence[Listed]) -> Tuple[bytes, bytes]:
    together = sorted([(item.name, pack_row(item.stat)) for item in kept] + [(item.name, _looked_at(item.stat)) for item in aside])
    return b"\0".join([name for name, _row in together]), b"".join([row for _name, row in together])


def _without_idle(known: Record, names: bytes, rows: bytes) -> Tuple[bytes, bytes]:
    """Names and rows without what lies beside the databases of ``known`` and is no part of them: shared memory, and journals that are empty."""
    if (known.names, known.rows) == (names, rows):
        return names, rows
    databases = {name for name, (_row, flags, _slot) in known.by_name().items() if flags & DATABASE}
    kept = []
    for index, name in enumerate(names.split(b"\0") if names else ()):
        row = rows[index * ROW.size : (index + 1) * ROW.size]
        if database_of(name) not in databases or not (name.endswith(SHARED) or not ROW.unpack(row)[3]):
            kept.append((name, row))
    return b"\0".join([name for name, _row in kept]), b"".join([row for _name, row in kept])


def _timeless_row(found: os.stat_result, xattrs: Xattrs) -> bytes:
    """The row of a directory above a source. Without its times, a change of its ACL shows in a checksum only, in the place of the device."""
    return ROW.pack(found.st_mode, found.st_uid, found.st_gid, 0, 0, 0, found.st_ino, zlib.crc32(repr(xattrs).encode("ascii")) if xattrs else 0, 0)


def is_cache(fd: int) -> bool:
    """Whether the open directory ``fd`` says of itself that it is a cache (https://bford.info/cachedir/)."""
    return _begins_with(fd, CACHE_TAG, _CACHE_SIGNATURE)


def is_database(fd: int, name: bytes) -> bool:
    """Whether the file ``name`` of the open directory ``fd`` is an SQLite database. What cannot be read is none."""
    return _begins_with(fd, name, MAGIC)


def _begins_with(fd: int, name: bytes, beginning: bytes) -> bool:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(file).st_mode) and os.read(file, len(beginning)) == beginning
    except OSError:
        return False
    finally:
        os.close(file)


def _volatile_devices() -> "frozenset[int]":
    devices = set()
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            for line in lines:
                head, _, tail = line.partition(b" - ")
                kind = tail.split(b" ", 1)[0].decode("ascii", "replace")
                if kind in _VOLATILE or kind.startswith("fuse"):
                    major, minor = head.split(b" ", 3)[2].split(b":")
                    devices.add(os.makedev(int(major), int(minor)))
    except OSError:
        pass
    return frozenset(devices)


def check_source(root: Descent, source: str, field: str) -> Optional[os.stat_result]:
    """The ``lstat`` of an absolute source, or None where it is missing. ``UsageError`` where a symbolic link stands in it or on the way."""
    path = os.fsencode(source).strip(b"/")
    found = lstat(root, b"")
    at = b""
    for name in path.split(b"/") if path else ():
        at = at + b"/" + name if at else name
        try:
            found = lstat(root, at)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(found.st_mode):
            raise UsageError(
                "%s: %s is a symbolic link, and links are never followed" % (field, printable(b"/" + at)),
                kind="policy",
                field=field,
                found=source,
                allowed="a path without symbolic links",
                next="name the place it leads to: %s" % printable(os.path.realpath(source)),
            )
    return found


def lstat(root: Descent, path: bytes) -> os.stat_result:
    """The ``lstat`` of a path below ``root``; an ``OSError`` names it in full."""
    try:
        if not path:
            return os.fstat(root.root_fd)
        parent, name = root.parent(path)
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, b"/" + path) from error


def survey(
    sources: Sequence[bytes],
    selection: Selection,
    cache: Cache,
    *,
    now: float,
    root: Descent,
    skip: AbstractSet[DeviceInode] = frozenset(),
    databases: bool = False,
    leave: Optional[Leave] = None,
) -> Survey:
    """Walk ``sources`` (relative to ``root``, sorted, none inside another, all present) and compare with ``cache``.

    ``skip`` holds (device, inode) of directories that are never entered nor listed, such as the engine's own state. ``databases``: SQLite
    databases are to be captured, so that their journals are looked at too, selected or not, and those of databases that are not selected are left out.
    ``leave`` is told of every path that is left out,
    nothing of what lies below it: ``(path, why, is a directory)``, with ``why`` the policy's key, ``patterns`` or ``own``.
    """
    walk = _Walk(root, sources, selection, cache, skip, now, databases, leave)
    above: Dict[bytes, set[bytes]] = {}
    for source in sources:
        at = source
        while at:
            parent, _, name = at.rpartition(b"/")
            above.setdefault(parent, set()).add(name)
            at = parent
    for path in sorted(above):
        walk.ancestor(path, above[path], frozenset(sources))
    for source in sources:
        found = lstat(root, source)
        if stat.S_ISDIR(found.st_mode):
            walk.source(source, found.st_dev)
    walk.prune_tentative()
    result = walk.survey
    if not result.unreadable and len(result.folders) == len(cache) and all(folder.known is not None for folder in result.folders):
        result.content_digest = cache.content_digest
    return result
