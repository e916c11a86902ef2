# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk over the sources: which paths are selected and what their ``lstat`` says, compared with the cache as it goes. Nothing is opened
but directories, so an unchanged host costs this and no more."""

from __future__ import annotations

import errno
import os
import stat
from struct import error as StructError
from typing import AbstractSet, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import UsageError, printable
from .cache import ROW, VOLATILE_SECONDS, Cache, Record
from .metadata import NS_MAX, NS_MIN
from .selection import Matcher, Selection
from .walk import Descent, Listed, list_directory

_CACHE_TAG = b"CACHEDIR.TAG"
_CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
_VOLATILE = frozenset(("tmpfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs"))

DeviceInode = Tuple[int, int]


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

    ``folders`` in walk order; ``links`` (device, inode) of every selected path that has more than one name; ``unreadable`` paths of
    directories with their errno; ``counts`` per directory (regular files, subdirectories) on disk, selected or not;
    ``content_digest`` is set when the cache proves that nothing changed.
    """

    def __init__(self) -> None:
        self.folders: List[Folder] = []
        self.links: Dict[bytes, DeviceInode] = {}
        self.unreadable: Dict[bytes, int] = {}
        self.counts: Dict[bytes, Tuple[int, int]] = {}
        self.ancestors: List[bytes] = []
        self.entries = 0
        self.content_digest = ""


class _Walk:
    def __init__(self, root: Descent, selection: Selection, cache: Cache, skip: AbstractSet[DeviceInode], now: float) -> None:
        self.root = root
        self.selection = selection
        self.matcher: Matcher = selection.matcher()
        self.marks = frozenset(os.fsencode(name) for name in selection.exclude_if_present)
        self.cache = cache
        self.skip = skip
        self.now = now
        self.survey = Survey()
        self.all_known = True
        self.tentative: Dict[bytes, bool] = {}  # directories that are kept only for what is kept below them
        self.volatile = _volatile_devices()

    def source(self, source: bytes) -> None:
        """Walk one source, a path relative to ``/`` that is a directory."""
        device = os.fstat(self.root.directory(source)).st_dev
        pending: List[Tuple[bytes, bool]] = [(source, not self.matcher.has_include)]
        strip = len(source) + 1 if source else 0
        while pending:
            path, included = pending.pop()
            here, on_disk = 0, -1
            kept: List[Listed] = []
            try:
                fd = self.root.directory(path)
                here = os.fstat(fd).st_dev
                if here == device or not self.selection.one_file_system:
                    listing = list_directory(fd)
                    on_disk = len(listing)
                    kept = self._select(fd, path, listing, included, strip)
            except OSError as error:
                # Gone or replaced since its parent was listed: recorded as the empty directory that it was last seen as.
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    self.survey.unreadable[path] = error.errno or errno.EIO
                    continue
            self._add(path, kept, here in self.volatile)
            prefix = path + b"/" if path else b""
            files = directories = 0
            below = []
            for item in kept:
                kind = stat.S_IFMT(item.stat.st_mode)
                if kind == stat.S_IFDIR:
                    directories += 1
                    inside = included or (self.matcher.has_include and self._is_included(prefix + item.name, strip, True))
                    if not inside:
                        self.tentative[prefix + item.name] = False
                    below.append((prefix + item.name, inside))
                elif kind == stat.S_IFREG:
                    files += 1
            # A directory in which something was left out can never be sent as a whole.
            self.survey.counts[path] = (files, directories) if len(kept) == on_disk else (-1, directories)
            pending.extend(reversed(below))

    def _is_included(self, path: bytes, strip: int, is_dir: bool) -> bool:
        return self.matcher.included(path[strip:], is_dir)

    def _select(self, fd: int, path: bytes, listing: List[Listed], included: bool, strip: int) -> List[Listed]:
        if self.marks and any(item.name in self.marks for item in listing):
            return [item for item in listing if item.name in self.marks]
        if self.selection.exclude_caches and any(item.name == _CACHE_TAG for item in listing) and _is_cache(fd):
            return [item for item in listing if item.name == _CACHE_TAG]
        if self.skip:
            listing = [item for item in listing if not stat.S_ISDIR(item.stat.st_mode) or (item.stat.st_dev, item.stat.st_ino) not in self.skip]
        if self.matcher.trivial:
            return listing
        prefix = path[strip:] + b"/" if path[strip:] else b""
        excluded, test_include = self.matcher.excluded, not included
        kept = []
        for item in listing:
            relative = prefix + item.name
            is_dir = stat.S_ISDIR(item.stat.st_mode)
            if excluded(relative, is_dir):
                continue
            if test_include and not is_dir and not self.matcher.included(relative, False):
                continue
            kept.append(item)
        return kept

    def _add(self, path: bytes, kept: Sequence[Listed], volatile: bool) -> None:
        names, rows = _pack(kept)
        survey = self.survey
        survey.entries += len(kept)
        prefix = path + b"/" if path else b""
        for item in kept:
            if item.stat.st_nlink > 1 and not stat.S_ISDIR(item.stat.st_mode):
                survey.links[prefix + item.name] = (item.stat.st_dev, item.stat.st_ino)
        survey.folders.append(self._compare(path, names, rows, volatile))

    def _compare(self, path: bytes, names: bytes, rows: bytes, volatile: bool) -> Folder:
        known = self.cache.get(path)
        expired = known is not None and volatile and not 0 <= self.now - known.hashed_at < VOLATILE_SECONDS
        if known is not None and not expired and known.names == names and known.rows == rows and not known.is_racy:
            return Folder(path, b"", b"", known)
        self.all_known = False
        return Folder(path, names, rows, None, expired)

    def ancestor(self, path: bytes, names: Iterable[bytes], sources: AbstractSet[bytes]) -> None:
        """A directory above sources: only the way down to them is selected, and the times of what lies above them say nothing of them."""
        fd = self.root.directory(path)
        prefix = path + b"/" if path else b""
        ordered = sorted(names)
        rows = []
        for name in ordered:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            row = pack_row(found)
            rows.append(row if prefix + name in sources else timeless(row))
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                self.survey.links[prefix + name] = (found.st_dev, found.st_ino)
        self.survey.entries += len(rows)
        self.survey.folders.append(self._compare(path, b"\0".join(ordered), b"".join(rows), False))
        self.survey.ancestors.append(path)
        self.survey.counts[path] = (-1, 0)

    def prune_tentative(self) -> None:
        """Drop the directories that were entered in search of included paths and held none."""
        if not self.tentative:
            return
        needed = set()
        for folder in self.survey.folders:
            prefix = folder.path + b"/" if folder.path else b""
            names = folder.known.split_names() if folder.known else folder.names.split(b"\0") if folder.names else []
            if folder.path in self.tentative and any(prefix + name not in self.tentative for name in names):
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
        self.all_known = all(folder.known is not None for folder in folders)
        self.survey.folders = folders
        self.survey.entries -= len(dropped)

    def _without(self, folder: Folder, dropped: AbstractSet[bytes]) -> Folder:
        if folder.known is not None:
            return folder  # the cache only ever holds what was kept
        prefix = folder.path + b"/" if folder.path else b""
        names = folder.names.split(b"\0") if folder.names else []
        keep = [i for i, name in enumerate(names) if prefix + name not in dropped]
        if len(keep) == len(names):
            return folder
        self.survey.counts[folder.path] = (-1, self.survey.counts[folder.path][1])
        packed = b"\0".join(names[i] for i in keep)
        rows = b"".join(folder.rows[i * ROW.size : (i + 1) * ROW.size] for i in keep)
        try:
            volatile = os.fstat(self.root.directory(folder.path)).st_dev in self.volatile
        except OSError:
            volatile = True
        return self._compare(folder.path, packed, rows, volatile)


def _pack(kept: Sequence[Listed]) -> Tuple[bytes, bytes]:
    return b"\0".join([item.name for item in kept]), b"".join([pack_row(item.stat) for item in kept])


def pack_row(found: os.stat_result) -> bytes:
    """The cache's row of one ``lstat``. Times outside 64 bits of nanoseconds are clamped."""
    mode = found.st_mode
    is_dir = stat.S_ISDIR(mode)
    size, rdev, links = (0, 0, 0) if is_dir else (found.st_size, found.st_rdev, found.st_nlink)
    try:
        return ROW.pack(mode, found.st_uid, found.st_gid, size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, rdev, links)
    except StructError:
        times = [min(max(value, NS_MIN), NS_MAX) for value in (found.st_mtime_ns, found.st_ctime_ns)]
        return ROW.pack(mode, found.st_uid, found.st_gid, size, times[0], times[1], found.st_ino, rdev, links)


def timeless(row: bytes) -> bytes:
    """A directory's row without its times, as the directories above a source are recorded."""
    mode, uid, gid, _size, _mtime, _ctime, inode, _rdev, _links = ROW.unpack(row)
    return ROW.pack(mode, uid, gid, 0, 0, 0, inode, 0, 0)


def is_timeless(row: bytes) -> bool:
    """Whether a row bears no times."""
    return bool(ROW.unpack(row)[5] == 0)


def _is_cache(fd: int) -> bool:
    try:
        tag = os.open(_CACHE_TAG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(tag).st_mode) and os.read(tag, len(_CACHE_SIGNATURE)) == _CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(tag)


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
    if not path:
        return os.fstat(root.root_fd)
    at = b""
    for name in path.split(b"/"):
        parent = at
        at = at + b"/" + name if at else name
        try:
            found = os.stat(name, dir_fd=root.directory(parent), follow_symlinks=False)
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


def survey(
    sources: Sequence[bytes],
    selection: Selection,
    cache: Cache,
    *,
    now: float,
    root: Descent,
    skip: AbstractSet[DeviceInode] = frozenset(),
) -> Survey:
    """Walk ``sources`` (relative to ``root``, sorted, none inside another, all present) and compare with ``cache``.

    ``skip`` holds (device, inode) of directories that are never entered nor listed, such as the engine's own state.
    """
    walk = _Walk(root, selection, cache, skip, now)
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
        above_fd, last = root.parent(source) if source else (root.root_fd, b".")
        if stat.S_ISDIR(os.stat(last, dir_fd=above_fd, follow_symlinks=False).st_mode):
            walk.source(source)
    walk.prune_tentative()
    result = walk.survey
    if walk.all_known and not result.unreadable and len(result.folders) == len(cache):
        result.content_digest = cache.content_digest
    return result


def selects(matcher: Matcher, sources: Sequence[bytes], path: bytes, is_dir: bool) -> bool:
    """Whether a walk of ``sources`` would come to ``path`` and keep it, going by names alone."""
    for source in sources:
        if not source or path == source or path.startswith(source + b"/"):
            break
    else:
        return False
    if matcher.trivial or path == source:
        return True
    parts = path[len(source) + 1 if source else 0 :].split(b"/")
    included = not matcher.has_include
    for length in range(1, len(parts) + 1):
        here = b"/".join(parts[:length])
        below = is_dir or length < len(parts)
        if matcher.excluded(here, below):
            return False
        included = included or matcher.included(here, below)
    return included
