# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Building a snapshot: every path of the manifest from the base, from the session or from the manifest itself, then one walk that proves it.

The tree is made below the session, out of reach of whoever sent the content, and is not a snapshot before it is renamed into the history.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from array import array
from bisect import bisect_left
from collections import defaultdict
from operator import itemgetter
from typing import Callable, ContextManager, DefaultDict, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar

from ... import pool
from ...manifest.content import copy_file, hash_file
from ...manifest.document import Manifest
from ...manifest.entry import DIRECTORY, FILE, SYMLINK, Entry
from ...manifest.metadata import Losses, apply, apply_open, create_special, differs, entry_type, is_plainly, path_of, read_xattrs
from ...manifest.walk import CREATE_FLAGS, FILE_FLAGS, Descent, ReplacedError, list_names, open_file, remove_tree, walk
from ..contract import Damage, Shortfall, Tell, Verification
from ..sources import NATIVE, Edits, Sources
from .clone import BTRFS, HARDLINK, clone_file

T = TypeVar("T")
_PORTABLE_FILE = 0o440
_PORTABLE_DIRECTORY = 0o550
_SLASH = ord("/")


class Built(NamedTuple):
    """Counts of a build: paths that share the base's inode or extents, paths copied inside the vault, those of them for want of links, bytes
    hashed here, and paths of the base that did not serve."""

    linked: int
    copied: int
    link_limit: int
    hashed_bytes: int
    broken: Tuple[bytes, ...]


_Checks = Callable[[], ContextManager[Callable[[Entry], Tuple[str, int]]]]


def check_received(files: Descent, entries: Sequence[Entry], storage: str, tell: Optional[Tell] = None) -> Tuple[List[Shortfall], int]:
    """Hash what arrived for ``entries`` below ``files`` and give it its metadata; (what is missing or different, bytes hashed)."""
    root_fd = files.root_fd

    @contextlib.contextmanager
    def checks() -> Iterator[Callable[[Entry], Tuple[str, int]]]:
        losses = Losses()
        with Descent(b".", dir_fd=root_fd) as below:
            yield lambda entry: _check_one(below, entry, storage == NATIVE, losses)

    return _check_each(entries, 8192, checks, tell)


def take_in(inbox: Descent, files: Descent, entries: Sequence[Entry], storage: str, tell: Optional[Tell] = None) -> Tuple[List[Shortfall], int]:
    """Copy what arrived for ``entries`` in a directory that others write into files of the vault's own below ``files``, and hash what is written.

    (What is missing or different, bytes hashed.) No inode that somebody else has ever opened gets into a snapshot. What was taken in is removed from
    ``inbox`` where that can be.
    """
    inbox_fd, files_fd = inbox.root_fd, files.root_fd

    @contextlib.contextmanager
    def checks() -> Iterator[Callable[[Entry], Tuple[str, int]]]:
        losses = Losses()
        with Descent(b".", dir_fd=inbox_fd) as source, Descent(b".", dir_fd=files_fd) as below:
            yield lambda entry: _take_one(source, below, entry, storage == NATIVE, losses)

    return _check_each(entries, 16384, checks, tell)


def _check_each(entries: Sequence[Entry], cost: int, checks: _Checks, tell: Optional[Tell]) -> Tuple[List[Shortfall], int]:
    """Ask of each entry what is wrong with it ("" for nothing) and how many bytes that took; ``cost``: of a file, in bytes, beside its own."""
    shortfalls: List[Shortfall] = []
    hashed = 0

    def work(start: int, stop: int) -> Tuple[List[Shortfall], int, int]:
        bad: List[Shortfall] = []
        total = 0
        with checks() as check:
            for entry in entries[start:stop]:
                reason, got = check(entry)
                total += got
                if reason:
                    bad.append(Shortfall(entry.path, reason))
        return bad, stop - start, total

    for bad, count, total in pool.run(work, [entry.size + cost for entry in entries]):
        shortfalls.extend(bad)
        hashed += total
        if tell is not None:
            tell(count, total)
    shortfalls.sort()
    return shortfalls, hashed


def _take_one(source: Descent, below: Descent, entry: Entry, native: bool, losses: Losses) -> Tuple[str, int]:
    try:
        parent, name = source.parent(entry.path)
        fd, found = open_file(parent, name)
    except ReplacedError:
        return "type", 0
    except OSError:
        return "missing", 0
    try:
        if found.st_nlink != 1:
            return "type", 0
        if found.st_size != entry.size:
            return "size", 0
        into, last = below.parent(entry.path, create=0o700)
        remove_tree(into, last)
        out = os.open(last, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=into)
        try:
            if clone_file(fd, out):
                os.ftruncate(out, min(os.fstat(out).st_size, entry.size + 1))
                digest, size = hash_file(out)
            else:
                digest, size = copy_file(fd, out, at_most=entry.size)
            if digest.hex() != entry.hash or size != entry.size:
                os.unlink(last, dir_fd=into)
                return "hash", size
            finish_file(out, entry, native, losses)
        finally:
            os.close(out)
    finally:
        os.close(fd)
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=parent)
    return "", size


def _check_one(below: Descent, entry: Entry, native: bool, losses: Losses) -> Tuple[str, int]:
    try:
        parent, name = below.parent(entry.path)
        fd, found = open_file(parent, name)
    except ReplacedError:
        return "type", 0
    except OSError:
        return "missing", 0
    try:
        if found.st_nlink != 1:
            return "type", 0
        if found.st_size != entry.size:
            return "size", 0
        digest, size = hash_file(fd, size=found.st_size)
        if digest.hex() != entry.hash or size != entry.size:
            return "hash", size
        finish_file(fd, entry, native, losses)
    finally:
        os.close(fd)
    return "", size


def finish_file(fd: int, entry: Entry, native: bool, losses: Losses) -> None:
    """Give an open file, whose bytes are what the entry says, what else this storage keeps in an inode."""
    if native:
        apply_open(fd, entry, losses)
    else:
        os.chmod(fd, _PORTABLE_FILE)


# One path to place: path, entry, path in the base that holds its bytes (None: what was received, or the manifest), whether that inode may be used.
_Step = Tuple[bytes, Entry, Optional[bytes], bool]


class Placed(NamedTuple):
    """Counts of placing paths, as in ``Built``, and the paths of the base that did not serve."""

    linked: int
    copied: int
    link_limit: int
    hashed_bytes: int
    broken: List[bytes]


def _known_steps(plan: Sources, number: int = 0, count: int = 1) -> List[_Step]:
    """The steps that need nothing from the host, or one of ``count`` equal parts of them."""

    def part(entries: Sequence[T]) -> Sequence[T]:
        return entries[len(entries) * number // count : len(entries) * (number + 1) // count]

    steps: List[_Step] = [(entry[0], entry, entry[0], True) for entry in part(plan.linked)]
    steps += [(entry[0], entry, donor, share) for entry, donor, share in part(plan.donated)]
    steps += [(entry[0], entry, None, False) for entries in (plan.directories, plan.specials) for entry in part(entries)]
    return steps


def place_known(tree: bytes, base: bytes, plan: Sources, storage: str, clone: str, number: int, count: int) -> Placed:
    """Place one of ``count`` equal parts of what needs nothing from the host below the directory ``tree``: for a time in which the rest is still on
    its way."""
    with Descent(tree) as into, Descent(base) as old:
        return _place(sorted(_known_steps(plan, number, count), key=itemgetter(0)), into, None, old, storage == NATIVE, clone == HARDLINK)


def edit(tree: Descent, base: Descent, files: Descent, edits: Edits, kept: int, storage: str) -> Built:
    """Make the new tree of a copy of the base's, of which ``kept`` paths stay as they are. ``OSError`` also where it is not as its manifest says."""
    if os.geteuid() != 0:
        _open_up(tree, edits)
    for path in edits.removed:
        try:
            parent, name = tree.parent(path)
        except FileNotFoundError:
            continue  # it went with its directory
        remove_tree(parent, name)
    tree.forget()
    losses = Losses()
    for entry in edits.retouched:
        parent, name = tree.parent(entry.path)
        apply(parent, name, entry, losses)
    built = build(tree, base, files, edits.placed, storage, BTRFS)
    return built._replace(linked=built.linked + kept + len(edits.retouched))


def _open_up(tree: Descent, edits: Edits) -> None:
    """Let the owner write in those directories in which something will change."""
    placed = edits.placed
    paths = set(edits.removed).union(entry.path for entries in (placed.wanted, placed.directories) for entry in entries)
    for parent in sorted({path.rpartition(b"/")[0] for path in paths}):
        try:
            os.chmod(tree.directory(parent), 0o700)
        except (FileNotFoundError, NotADirectoryError):
            pass  # it is still to be made


def build(
    tree: Descent,
    base: Optional[Descent],
    files: Descent,
    plan: Sources,
    storage: str,
    clone: str,
    known: Sequence[Placed] = (),
    *,
    is_pure: bool = False,
) -> Built:
    """Place every path of ``plan`` below the directory ``tree``, which is empty or holds what ``place_known`` placed, as ``known`` says.

    ``base`` is the parent snapshot's tree; received content is renamed out of ``files``. What the base does not hold as its manifest promised
    is left out and named in ``broken``. ``is_pure``: below ``files`` there is nothing but what the plan wants. Directories stay private and of now
    until ``prove`` finishes them."""
    native = storage == NATIVE
    by_link = clone == HARDLINK
    steps: List[_Step] = []
    if is_pure and base is None:
        # Nothing else is there yet. Moved one by one, all files would wait for each other: a rename locks the whole file system.
        for top in os.listdir(files.root_fd):
            os.rename(top, top, src_dir_fd=files.root_fd, dst_dir_fd=tree.root_fd)
        files.forget()
    else:
        steps += [(entry[0], entry, None, False) for entry in plan.wanted]
    if not known:
        steps += _known_steps(plan)
    steps.sort(key=itemgetter(0))
    tree_fd, files_fd = tree.root_fd, files.root_fd
    base_fd = base.root_fd if base is not None else -1

    def work(start: int, stop: int) -> Placed:
        with Descent(b".", dir_fd=tree_fd) as into, Descent(b".", dir_fd=files_fd) as received:
            old = Descent(b".", dir_fd=base_fd) if base_fd >= 0 else None
            try:
                return _place(steps[start:stop], into, received, old, native, by_link)
            finally:
                if old is not None:
                    old.close()

    # A rename or a link costs what reading some 20 KiB does.
    parts = list(pool.run(work, [0 if step[3] else 20480 for step in steps], items=8192))
    parts += known
    copies, size = _place_followers(tree, plan.followers, native, Losses())
    return Built(
        sum(part.linked for part in parts),
        copies + sum(part.copied for part in parts),
        copies + sum(part.link_limit for part in parts),
        size + sum(part.hashed_bytes for part in parts),
        tuple(sorted(path for part in parts for path in part.broken)),
    )


def _place(steps: Iterable[_Step], into: Descent, received: Optional[Descent], base: Optional[Descent], native: bool, by_link: bool) -> Placed:
    linked = copied = limit = hashed = 0
    broken: List[bytes] = []
    losses = Losses()
    for path, entry, donor, share in steps:
        # Several workers make directories that they have in common, each on its way.
        if entry.type == DIRECTORY:
            into.directory(path, create=0o700)
            continue
        parent, name = into.parent(path, create=0o700)
        if donor is not None:
            assert base is not None
            try:
                source, old_name = base.parent(donor)
                if share and by_link:
                    try:
                        os.link(old_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                        linked += 1
                        continue
                    except OSError as error:
                        if error.errno not in (errno.EMLINK, errno.EXDEV):  # a base that is a subvolume is another device
                            raise
                        limit += error.errno == errno.EMLINK
                if entry.type == FILE:
                    size = _copy(source, old_name, parent, name, entry, native, losses, share or donor == path)
                    hashed += size or 0
                    if size is None:
                        linked += 1
                        continue
                else:
                    make_other(parent, name, entry, native, losses)
                copied += 1
            except ReplacedError:
                broken.append(donor)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                    raise
                broken.append(donor)
        elif entry.type == FILE:
            assert received is not None
            source, old_name = received.parent(path)
            os.rename(old_name, name, src_dir_fd=source, dst_dir_fd=parent)
        else:
            make_other(parent, name, entry, native, losses)
    return Placed(linked, copied, limit, hashed, broken)


def _copy(source: int, old_name: bytes, parent: int, name: bytes, entry: Entry, native: bool, losses: Losses, is_trusted: bool) -> Optional[int]:
    """An inode of its own with the same bytes; how many were hashed, or None for a clone that is trusted like a link."""
    size: Optional[int]
    fd, found = open_file(source, old_name)
    try:
        out = os.open(name, CREATE_FLAGS, 0o600, dir_fd=parent)
        try:
            if is_trusted and found.st_size == entry.size and clone_file(fd, out):
                size = None
            else:
                digest, size = copy_file(fd, out)
                if digest.hex() != entry.hash or size != entry.size:
                    raise ReplacedError("its bytes have changed")
            finish_file(out, entry, native, losses)
        finally:
            os.close(out)
    finally:
        os.close(fd)
    return size


def make_other(parent: int, name: bytes, entry: Entry, native: bool, losses: Losses) -> None:
    """Make what is neither file nor directory from its entry alone: in portable storage a symbolic link, and nothing else."""
    if native:
        create_special(parent, entry, name)
        apply(parent, name, entry, losses)
    elif entry.type == SYMLINK:
        create_special(parent, entry, name)


def _place_followers(tree: Descent, followers: Sequence[Entry], native: bool, losses: Losses) -> Tuple[int, int]:
    """Link the other names of hard-link groups to the first; (copies made for want of links, bytes in them)."""
    copies = hashed = 0
    if not followers:
        return 0, 0
    with Descent(b".", dir_fd=tree.root_fd) as leaders:
        for entry in followers:
            assert entry.group is not None
            source, first = leaders.parent(entry.group)
            parent, name = tree.parent(entry.path)
            try:
                os.link(first, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                continue  # a special file in portable storage lives in the manifest alone; the proof names any other
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                copies += 1
                if entry.type == FILE:
                    hashed += _copy(source, first, parent, name, entry, native, losses, True) or 0
                else:
                    make_other(parent, name, entry, native, losses)
    return copies, hashed


def is_kept(entry: Entry, storage: str) -> bool:
    """Whether a tree of this storage holds the path itself; the rest lives in the manifest alone."""
    return storage == NATIVE or entry.type in (FILE, DIRECTORY, SYMLINK)


class _Proven(NamedTuple):
    """What one worker saw. ``inodes``: of the paths that are in no group, packed; ``grouped``: (path, group, inode) of those that are; ``strays``:
    directories that the manifest does not have; ``read``: sizes of the files that were read."""

    checked: int
    damaged: List[Damage]
    missing: List[bytes]
    extra: List[bytes]
    strays: List[bytes]
    inodes: "array[int]"
    grouped: List[Tuple[bytes, bytes, int]]
    read: "array[int]"


class _Span(NamedTuple):
    """The paths from ``first`` on that come before ``end``; None: to the last."""

    first: bytes
    end: Optional[bytes]

    def among(self, names: List[bytes], prefix: bytes) -> List[bytes]:
        """Those of a directory's names, which are sorted, whose paths are in it."""
        start = _rank(names, prefix, self.first)
        stop = len(names) if self.end is None else _rank(names, prefix, self.end)
        return names if (start, stop) == (0, len(names)) else names[start:stop]


class _Task(NamedTuple):
    """How a worker looks at one run of lines: ``span``: where; ``names_of``: what it saw in directories that reach over several runs."""

    native: bool
    finish: bool
    chosen: Optional[Callable[[bytes], bool]]
    span: _Span
    names_of: Dict[bytes, List[bytes]]


def _rank(names: List[bytes], prefix: bytes, path: bytes) -> int:
    """How many of the ``names`` come before ``path`` when ``prefix`` stands before each."""
    if path.startswith(prefix):
        return bisect_left(names, path[len(prefix) :])
    return 0 if path < prefix else len(names)


def prove(
    tree: Descent,
    manifest: Manifest,
    storage: str,
    *,
    finish: bool = False,
    chosen: Optional[Callable[[bytes], bool]] = None,
    tell: Optional[Tell] = None,
    meanwhile: Optional[Callable[[], None]] = None,
) -> Tuple[Verification, Set[bytes]]:
    """One walk: no path is missing, none is too many, each has its type and size, and in native storage its metadata.

    ``finish``: the tree was just built, and each directory gets its metadata on the way; ``chosen``: those files are read too, and have the bytes
    that the manifest says; ``meanwhile``: as of ``pool.run``. Returns with what was found the followers of hard-link groups that have an inode of
    their own (for want of links), whose content is theirs alone and was not read.

    Each worker parses a run of the manifest's lines, and looks for all that the tree has from the first of their paths up to the first of the next
    run: a directory that reaches over several runs is looked at piece by piece.
    """
    native = storage == NATIVE
    root_fd = tree.root_fd
    count = len(manifest.lines)
    names_of: Dict[bytes, List[bytes]] = {}  # each worker has its own

    def work(start: int, stop: int) -> _Proven:
        entries = manifest.part(start, min(stop + 1, count))
        span = _Span(entries[0].path if start else b"", entries[stop - start].path if stop < count else None)
        task = _Task(native, finish, chosen, span, names_of)
        inside: DefaultDict[bytes, Dict[bytes, Entry]] = defaultdict(dict)
        for path in _directories_before(manifest, start, span.first):
            inside[path] = {}
        own: Dict[bytes, Entry] = {}
        for entry in entries[: stop - start]:
            if is_kept(entry, storage):
                parent, _, name = entry.path.rpartition(b"/")
                inside[parent][name] = entry
                if entry.type == DIRECTORY:
                    inside[entry.path] = {}
                    own[entry.path] = entry
        found = _Proven(0, [], [], [], [], array("Q"), [], array("Q"))
        checked = 0
        with Descent(b".", dir_fd=root_fd) as below:
            for path, expected in inside.items():
                checked += _prove_directory(below, path, own.get(path), expected, task, found)
        return found._replace(checked=checked)

    # Looking at a path costs what hashing some 7 KB does.
    weights = [7000 + size for size in manifest.sizes()] if chosen is not None else [7000] * count
    parts: List[_Proven] = []
    for part in pool.run(work, weights or [0], meanwhile=meanwhile):
        parts.append(part)
        if tell is not None:
            tell(len(part.read), sum(part.read))
    damaged = [damage for part in parts for damage in part.damaged]
    missing = [path for part in parts for path in part.missing]
    extra = [path for part in parts for path in part.extra]
    for stray in (path for part in parts for path in part.strays):
        extra.extend(_everything_below(tree, stray))
    grouped = sorted(item for part in parts for item in part.grouped)
    if native:
        damaged.extend(_shared_by_mistake(tree, manifest, parts, grouped, {damage.path for damage in damaged}))
    inode_of = {path: inode for path, _group, inode in grouped}
    apart = {path for path, group, inode in grouped if group != path and inode_of.get(group) != inode}
    checked = sum(part.checked for part in parts)
    read, size = sum(len(part.read) for part in parts), sum(sum(part.read) for part in parts)
    return Verification(checked, read, size, tuple(sorted(damaged)), tuple(sorted(missing)), tuple(sorted(extra))), apart


def _directories_before(manifest: Manifest, start: int, first: bytes) -> List[bytes]:
    """The directories before the line ``start``, the path of which is ``first``, that can have something behind it: those above it, and some whose
    names it begins with, as ``a/c`` comes after ``a-b``."""
    result = [b""]
    for at, byte in enumerate(first):
        if byte <= _SLASH:
            entry = manifest.find(first[:at], start)
            if entry is not None and entry.type == DIRECTORY:
                result.append(entry.path)
    return result


def finish_directory(fd: int, entry: Entry, native: bool) -> None:
    """Give a directory its metadata: nothing is made in it any more, and what it still allows is enough to pass."""
    if native:
        apply_open(fd, entry, Losses())
    else:
        os.chmod(fd, _PORTABLE_DIRECTORY)


def _prove_directory(
    below: Descent,
    path: bytes,
    own: Optional[Entry],
    expected: Dict[bytes, Entry],
    task: _Task,
    found: _Proven,
) -> int:
    """Hold what a directory has within the task's span against the entries ``expected`` there, by name, and itself against its ``own``, where that
    is there too; how many of ``expected`` are there."""
    native, finish, chosen, span, names_of = task
    prefix = path + b"/" if path else b""
    try:
        fd = below.directory(path)
        reason = proof(fd, b"", own, os.fstat(fd), native) if own is not None else None
        if finish and own is not None and (reason is not None or not native):
            finish_directory(fd, own, native)
            reason = proof(fd, b"", own, os.fstat(fd), native)
        listed = names_of.get(path)
        if listed is None:
            listed = list_names(fd)
        names = span.among(listed, prefix)
        if names is not listed:
            names_of[path] = listed
    except OSError as error:
        is_told = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # by the directory above
        if not is_told and (own is not None or not (path or span.first)):
            found.damaged.append(Damage(path, "unreadable"))
        found.missing.extend(entry.path for entry in expected.values())
        return 0
    if reason is not None:
        found.damaged.append(Damage(path, reason))
    count = len(expected)
    for name in names:
        entry = expected.pop(name, None)
        try:
            if chosen is not None and entry is not None and entry.type == FILE and entry.group in (None, entry.path) and chosen(entry.path):
                _prove_by_reading(fd, name, entry, native, found)
                continue
            seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            if entry is not None:
                expected[name] = entry
            continue
        except OSError:
            if entry is None:
                found.extra.append(prefix + name)
            elif entry.type != DIRECTORY:  # which tells of itself when its own turn comes
                found.damaged.append(Damage(entry.path, "unreadable"))
            continue
        is_directory = stat.S_ISDIR(seen.st_mode)
        if entry is None or (is_directory and entry.type != DIRECTORY):
            if is_directory:
                found.strays.append(prefix + name)
            if entry is None:
                found.extra.append(prefix + name)
                continue
        if is_directory and entry.type == DIRECTORY:
            continue  # looked at when its own turn comes
        if not (native and not entry.xattrs and is_plainly(entry, seen)):
            reason = proof(fd, name, entry, seen, native)
            if reason is not None:
                found.damaged.append(Damage(entry.path, reason))
        _note_inode(entry, seen, found)
    found.missing.extend(entry.path for entry in expected.values())
    return count - len(expected)


def _note_inode(entry: Entry, seen: os.stat_result, found: _Proven) -> None:
    if entry.group is not None:
        found.grouped.append((entry.path, entry.group, seen.st_ino))
    else:
        found.inodes.append(seen.st_ino)


def _prove_by_reading(dir_fd: int, name: bytes, entry: Entry, native: bool, found: _Proven) -> None:
    """Hold a file and its bytes against its entry. Opened, it needs no look before; ``FileNotFoundError`` where it is gone."""
    try:
        fd = os.open(name, FILE_FLAGS, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError:
        seen = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        found.damaged.append(Damage(entry.path, proof(dir_fd, name, entry, seen, native) or "unreadable"))
        if not stat.S_ISDIR(seen.st_mode):
            _note_inode(entry, seen, found)
        return
    try:
        seen = os.fstat(fd)
        reason = None if native and not entry.xattrs and is_plainly(entry, seen) else proof(dir_fd, name, entry, seen, native)
        if reason is None:
            try:
                reason, size = _proof_of_content(fd, entry, native, seen.st_size)
                found.read.append(size)
            except OSError:
                reason = "unreadable"
    finally:
        os.close(fd)
    if reason is not None:
        found.damaged.append(Damage(entry.path, reason))
        if stat.S_ISDIR(seen.st_mode):
            found.strays.append(entry.path)
            return
    _note_inode(entry, seen, found)


def _proof_of_content(fd: int, entry: Entry, native: bool, size: int) -> Tuple[Optional[str], int]:
    """(What is wrong with the bytes of an open file, or in native storage with its attributes; how many it had.) ``size`` is that of its ``fstat``."""
    digest, size = hash_file(fd, size=size)
    if digest.hex() != entry.hash:
        return "hash", size
    return "xattrs" if native and read_xattrs(fd) != entry.xattrs else None, size


def _everything_below(tree: Descent, stray: bytes) -> List[bytes]:
    result: List[bytes] = []
    try:
        for path, listing in walk(tree, stray):
            result.extend(path + b"/" + item.name for item in listing)
    except OSError:
        pass  # that the directory itself is too many is already told
    return result


def _shared_by_mistake(
    tree: Descent, manifest: Manifest, parts: Sequence[_Proven], grouped: Sequence[Tuple[bytes, bytes, int]], told: Set[bytes]
) -> List[Damage]:
    """Paths that share an inode though no group says so: within one snapshot, an inode has no names but those that its group lists."""
    owners: Dict[int, bytes] = {}
    result = []
    for path, group, inode in grouped:
        if owners.setdefault(inode, group) != group and path not in told:
            result.append(Damage(path, "links"))
    count = sum(len(part.inodes) for part in parts)
    alone = {inode for part in parts for inode in part.inodes}
    if len(alone) == count and alone.isdisjoint(owners):
        return result
    for entry in manifest.entries:
        if entry.type != DIRECTORY and entry.group is None and entry.path not in told:
            try:
                parent, name = tree.parent(entry.path)
                inode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino
            except OSError:
                continue
            if owners.setdefault(inode, entry.path) != entry.path:
                result.append(Damage(entry.path, "links"))
    return result


def proof(dir_fd: int, name: bytes, entry: Entry, found: os.stat_result, native: bool) -> Optional[str]:
    """What is wrong with ``name``, or where that is empty with the directory ``dir_fd`` itself; ``found`` is its ``lstat``."""
    if native:
        reason = differs(entry, found)
    elif entry_type(found.st_mode) != entry.type:
        reason = "type"
    else:
        reason = "size" if entry.type == FILE and found.st_size != entry.size else None
    if reason is None and entry.type == SYMLINK and os.readlink(name, dir_fd=dir_fd) != entry.link:
        reason = "link"
    # Attributes that a file bears and should not are seen when it is opened to be hashed.
    if reason is None and native and (entry.xattrs or entry.type == DIRECTORY):
        if read_xattrs(path_of(dir_fd, name) if name else dir_fd) != entry.xattrs:
            reason = "xattrs"
    return reason


def hash_files(tree: Descent, entries: Sequence[Entry], storage: str, tell: Optional[Tell] = None) -> Tuple[List[Damage], int]:
    """Re-read files; (those whose bytes, or in native storage xattrs, are not as the manifest says, bytes read)."""
    root_fd = tree.root_fd
    native = storage == NATIVE
    damaged: List[Damage] = []
    hashed = 0

    def work(start: int, stop: int) -> Tuple[List[Damage], int, int]:
        bad: List[Damage] = []
        total = 0
        with Descent(b".", dir_fd=root_fd) as below:
            for entry in entries[start:stop]:
                try:
                    parent, name = below.parent(entry.path)
                    fd, found = open_file(parent, name)
                    try:
                        reason, size = _proof_of_content(fd, entry, native, found.st_size)
                    finally:
                        os.close(fd)
                except OSError:
                    bad.append(Damage(entry.path, "unreadable"))
                    continue
                total += size
                if reason is not None:
                    bad.append(Damage(entry.path, reason))
        return bad, stop - start, total

    for bad, count, total in pool.run(work, [entry.size + 4096 for entry in entries]):
        damaged.extend(bad)
        hashed += total
        if tell is not None:
            tell(count, total)
    return damaged, hashed
