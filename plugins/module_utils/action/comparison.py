# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Before a restore: what is there already, and what has to be done to make it what the snapshot says. Writes nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections import Counter
from operator import itemgetter
from typing import AbstractSet, Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from .. import pool
from ..errors import IntegrityError, RefusedError, UsageError, printable
from ..manifest.cache import Cache
from ..manifest.content import hash_file
from ..manifest.database import SIDECARS, database_of, sidecars_of
from ..manifest.document import Manifest
from ..manifest.entry import BLOCK, CHARACTER, DIRECTORY, FILE, SYMLINK, Entry, find
from ..manifest.metadata import (
    DeviceInode,
    Xattrs,
    device_of,
    differs,
    entry_type,
    is_plainly,
    mode_without_acl,
    mtime_ns,
    needs_privilege,
    path_of,
    read_xattrs,
)
from ..manifest.selection import Selection
from ..manifest.survey import check_source, is_database, lstat, survey
from ..manifest.walk import Descent, list_directory, open_file

TEMPORARY = b".openclaw-backup-restore."
_SET_ID = stat.S_ISUID | stat.S_ISGID
_DEVICES = (BLOCK, CHARACTER)

# Device, inode and ctime (ns) of a file: where it shows the same again, nobody wrote to it in between.
State = Tuple[int, int, int]

# Somebody removed or replaced it between two looks. EINVAL is what readlink says of what is no link any more.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


class Scope(NamedTuple):
    """What a restore is about.

    ``entries``: what is asked for and the directories above it, sorted, with hard-link groups led by their first path among them; ``inside``: the
    paths that may be changed; directories outside of it are made where they are missing and never altered; ``roots``: the paths asked for; ``tamed``:
    those that come without the rights that would go with them.
    """

    entries: List[Entry]
    inside: Set[bytes]
    roots: Tuple[bytes, ...]
    tamed: Tuple[bytes, ...] = ()


class Plan(NamedTuple):
    """What is to be done, each sorted by path.

    ``made``: missing directories; ``cleared``: what stands where a directory must be; ``content``: files to write; ``specials`` to make;
    ``links``: names to link to their group's first path; ``metadata``: right bytes, wrong metadata; ``extra``: paths that the snapshot does not
    have, to be removed; ``spared``: those of them that lie on another file system and stay; ``leftovers`` of a restore that was killed;
    ``replaced``: paths at which something is lost; ``skipped``: devices that only root can make;
    ``inodes``: of every directory that was there and every path of ``metadata`` the inode that was looked at; ``intact``: databases that hold what
    the snapshot does though their bytes may differ, with the size and mtime that they have here.
    """

    made: List[Entry]
    cleared: List[bytes]
    content: List[Entry]
    specials: List[Entry]
    links: List[Entry]
    metadata: List[Entry]
    extra: List[bytes]
    spared: List[bytes]
    leftovers: List[bytes]
    replaced: Set[bytes]
    skipped: List[Entry]
    inodes: Dict[bytes, DeviceInode]
    intact: Dict[bytes, Tuple[int, int]]

    @property
    def is_empty(self) -> bool:
        """Whether everything is as the snapshot says."""
        return not (self.made or self.cleared or self.content or self.specials or self.links or self.metadata or self.extra or self.leftovers)

    @property
    def anew(self) -> Set[bytes]:
        """The paths that a file is written or linked to."""
        return {entry.path for group in (self.content, self.links) for entry in group}

    @property
    def busy(self) -> Set[bytes]:
        """The directories in which something is written, and those above them."""
        paths = {entry.path for group in (self.made, self.content, self.specials, self.links, self.metadata) for entry in group}
        result: Set[bytes] = set()
        for path in paths.union(self.cleared, self.extra, self.leftovers):
            parent = path.rpartition(b"/")[0]
            while parent and parent not in result:
                result.add(parent)
                parent = parent.rpartition(b"/")[0]
        return result


def make_scope(manifest: Manifest, paths: Sequence[str], snapshot_id: str, *, is_open: bool = False) -> Scope:
    """The part of ``manifest`` below ``paths`` (absolute; none: all of it). ``UsageError`` for a path that it does not have. ``is_open``: the manifest is
    one that others than root may have written, who must not come by a program of root's, or a disk, by having it restored."""
    sources = tuple(os.fsencode(source).strip(b"/") for source in manifest.header.sources)
    every = manifest.entries
    for text in paths:
        if not os.path.isabs(text):
            raise UsageError(
                "The path %s is not absolute" % text, field="paths", found=text, allowed="absolute paths", next="write them as `openclaw-backup ls` shows them"
            )
        wish = os.fsencode(text).strip(b"/")
        if wish and find(every, wish) is None:
            raise UsageError(
                "%s is not in snapshot %s" % (text, snapshot_id),
                kind="not_found",
                field="paths",
                found=text,
                allowed="a path of the snapshot",
                next="`openclaw-backup ls POLICY %s` shows them" % snapshot_id,
            )
    roots = tuple(os.fsencode(path).strip(b"/") for path in paths) or sources
    lost = [source for source in roots if source and find(every, source) is None]
    if lost:
        raise IntegrityError(
            "The snapshot %s lacks its own source %s" % (snapshot_id, printable(b"/" + lost[0])),
            kind="manifest",
            field="sources",
            found=b"/" + lost[0],
            next="restore another snapshot, or single paths of this one",
        )
    exact, below = frozenset(roots), tuple(root + b"/" for root in roots)
    chosen = [entry for entry in every if b"" in exact or entry.path in exact or entry.path.startswith(below)]
    tamed: List[bytes] = []
    if is_open:
        wild, chosen = chosen, [entry for entry in map(_tame, chosen) if entry.type not in _DEVICES]
        tamed = [entry.path for entry in set(wild).difference(chosen)]
    inside = {entry.path for entry in chosen}
    needed = {path for root in roots for path in _parents(root)} - inside
    inside.difference_update(path for source in sources for path in _parents(source))
    above = [entry for entry in (find(every, path) for path in needed) if entry is not None]
    # Nearly in order as they are, these sort quickly.
    return Scope(_lead_groups(sorted([*above, *chosen], key=itemgetter(0))), inside, roots, tuple(sorted(tamed)))


def _tame(entry: Entry) -> Entry:
    """The same without what lets a program do more than who starts it."""
    if entry.xattrs:
        entry = entry._replace(xattrs=tuple(pair for pair in entry.xattrs if not pair[0].startswith((b"security.", b"trusted."))))
    if entry.type == FILE and entry.mode & _SET_ID:
        entry = entry._replace(mode=entry.mode & ~_SET_ID)
    return entry


def _parents(path: bytes) -> List[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:length]) for length in range(1, len(parts))]


def _lead_groups(entries: Sequence[Entry]) -> List[Entry]:
    """Let the first path that is among ``entries`` lead each hard-link group."""
    leaders: Dict[bytes, bytes] = {}
    result = []
    for entry in entries:
        if entry.group is not None:
            entry = entry._replace(group=leaders.setdefault(entry.group, entry.path))
        result.append(entry)
    return result


def look(root: Descent, scope: Scope) -> Tuple[Dict[bytes, os.stat_result], Set[bytes], List[bytes]]:
    """The ``lstat`` of every path of the scope that exists, the directories that this user may not list, and leftovers of a killed restore."""
    present: Dict[bytes, os.stat_result] = {}
    closed: Set[bytes] = set()
    leftovers: List[bytes] = []
    wanted: Dict[bytes, Set[bytes]] = {}
    for entry in scope.entries:
        parent, _, name = entry.path.rpartition(b"/")
        wanted.setdefault(parent, set()).add(name)
        if entry.type == DIRECTORY and entry.path in scope.inside:
            wanted.setdefault(entry.path, set())
    for parent in sorted(wanted):
        if parent and not (parent in present and stat.S_ISDIR(present[parent].st_mode)):
            continue
        names = wanted[parent]
        prefix = parent + b"/" if parent else b""
        try:
            if parent not in scope.inside and not any(prefix + name in scope.inside for name in names):
                raise PermissionError  # directories above are only passed through: they can be huge
            for item in list_directory(root.directory(parent)):
                if item.name in names:
                    present[prefix + item.name] = item.stat
                elif item.name.startswith(TEMPORARY) and not stat.S_ISDIR(item.stat.st_mode):
                    leftovers.append(prefix + item.name)
        except PermissionError:
            try:
                fd = root.directory(parent)
                for name in names:
                    try:
                        present[prefix + name] = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
            except PermissionError:
                closed.add(parent)
            except OSError as error:
                _check_gone(error)
        except OSError as error:
            _check_gone(error)
    return present, closed, leftovers


def _check_gone(error: OSError) -> None:
    """Raise ``error`` unless it only says that the path vanished or changed its type: then nothing is there."""
    if error.errno not in _GONE:
        raise error


def missing(scope: Scope, *, as_root: bool) -> Plan:
    """The plan for a destination that does not exist yet."""
    plan = Plan([], [], [], [], [], [], [], [], [], set(), [], {}, {})
    for entry in scope.entries:
        if entry.type == DIRECTORY:
            plan.made.append(entry)
        elif needs_privilege(entry) and not as_root:
            plan.skipped.append(entry)
        elif entry.is_group_follower:
            plan.links.append(entry)
        else:
            (plan.content if entry.type == FILE else plan.specials).append(entry)
    return plan


def compare(
    root: Descent,
    scope: Scope,
    manifest: Manifest,
    *,
    as_root: bool,
    delete: bool,
    keep_replaced: bool,
    guarded: FrozenSet[DeviceInode],
    advance: Callable[[int], None],
    captured: Callable[[Sequence[bytes]], Optional[str]] = lambda names: None,
) -> Plan:
    """Hold what is below ``root`` against the scope. Files of the right size are read: size and time alone prove nothing.

    ``as_root``: owners, devices and all attributes count; ``delete``: look for what the snapshot does not have; ``keep_replaced``: a file whose
    metadata differ is written anew, so that the old one can be kept; ``guarded``: directories that must not be removed; ``captured`` gives the
    hash of a capture of the database that has these names, None where that cannot be had.
    """
    plan = Plan([], [], [], [], [], [], [], [], [], set(), [], {}, {})
    present, closed, leftovers = look(root, scope)
    plan.leftovers.extend(leftovers)
    owners: Dict[DeviceInode, bytes] = {}  # whose inode it is: within a snapshot, an inode has the names of one group
    rewritten: Set[bytes] = set()
    to_read: List[Entry] = []
    databases = _database_names(manifest)
    here: Dict[bytes, List[bytes]] = {}  # the names of a database that are one here too
    for entry in scope.entries:
        path, key = entry.path, entry.group or entry.path
        found = present.get(path)
        if found is not None and entry_type(found.st_mode) != entry.type:
            _replace_other_type(root, plan, scope, entry, found, guarded)
            found = None
        elif found is None and path.rpartition(b"/")[0] in closed:
            plan.replaced.add(path)  # it may well be there
        if entry.type == DIRECTORY:
            if found is None:
                plan.made.append(entry)
                continue
            plan.inodes[path] = (found.st_dev, found.st_ino)
            if path in scope.inside and _has_other_metadata(root, entry, found, as_root):
                plan.metadata.append(entry)
            continue
        if needs_privilege(entry) and not as_root:
            plan.skipped.append(entry)
            continue
        inode = (found.st_dev, found.st_ino) if found is not None else None
        is_own = inode is None or owners.setdefault(inode, key) == key
        if key != path:
            first = present.get(key)
            if inode is None or not is_own or key in rewritten or first is None or (first.st_dev, first.st_ino) != inode:
                plan.links.append(entry)
                if inode is not None:
                    plan.replaced.add(path)
            continue
        if entry.type == FILE and found is not None and is_own:
            here[path] = [name for name in databases.get(path, ()) if _inode_at(root, name) == inode]
            # With a journal beside one of its names, a database is not what its file alone says.
            has_journal = any(sidecars_of(root, name) for name in here[path])
            if here[path] and (found.st_size != entry.size or has_journal) and captured(here[path]) == entry.hash:
                plan.intact[path] = (found.st_size, mtime_ns(found))
            if path in plan.intact or (found.st_size == entry.size and not has_journal):
                to_read.append(entry)
                continue
        if entry.type != FILE and found is not None and is_own and not _special_differs(root, entry, found, as_root):
            continue
        (plan.content if entry.type == FILE else plan.specials).append(entry)
        rewritten.add(path)
        if found is not None:
            plan.replaced.add(path)
    names = Counter(entry.group or entry.path for entry in scope.entries) if to_read else {}
    states, _unreadable = examine(root, [entry for entry in to_read if entry.path not in plan.intact], present, advance)
    for entry in to_read:
        found = present[entry.path]
        state = states.get(entry.path)
        if state is None and here[entry.path] and (entry.path in plan.intact or captured(here[entry.path]) == entry.hash):
            plan.intact[entry.path] = (found.st_size, mtime_ns(found))
            state = _xattrs_at(root, entry.path)
        is_other = differs(_as_it_may_be(entry, found, as_root, plan), found, owner=as_root) is not None
        is_other = is_other or (state is not None and _of_user(state, as_root) != _of_user(entry.xattrs, as_root))
        if state is None or (is_other and (keep_replaced or found.st_nlink > names[entry.group or entry.path])):
            # What other names share is not altered in place: somebody else may mean them.
            plan.content.append(entry)
            plan.replaced.add(entry.path)
            rewritten.add(entry.path)
        elif is_other:
            plan.metadata.append(entry)
            plan.inodes[entry.path] = (found.st_dev, found.st_ino)
    linked = {entry.path for entry in plan.links}
    for entry in scope.entries:
        if entry.is_group_follower and entry.group in rewritten and entry.path not in linked:
            plan.links.append(entry)
            plan.replaced.add(entry.path)
    if delete:
        _find_extra(root, plan, scope, manifest, guarded)
    _find_journals(root, plan, scope, databases)
    for group in (plan.content, plan.links):
        group.sort()
    return plan


def _replace_other_type(root: Descent, plan: Plan, scope: Scope, entry: Entry, found: os.stat_result, guarded: FrozenSet[DeviceInode]) -> None:
    path = entry.path
    if path not in scope.inside:
        raise UsageError(
            "/%s is no directory here, but a directory above what is to be restored" % printable(path),
            kind="not_a_directory",
            field="dest",
            found=b"/" + path,
            allowed="a directory; symbolic links are never followed",
            next="restore to another directory with --dest",
        )
    if entry.type == DIRECTORY:
        plan.cleared.append(path)
    elif stat.S_ISDIR(found.st_mode):
        _check_removable(root, path, found, guarded)
    plan.replaced.add(path)


def _check_removable(root: Descent, path: bytes, found: os.stat_result, guarded: FrozenSet[DeviceInode]) -> None:
    """``RefusedError`` where a directory that gives way to a file holds the vault, the state or another file system."""
    inodes = {(found.st_dev, found.st_ino)}
    pending = [path]
    while pending:
        at = pending.pop()
        try:
            below = [item for item in list_directory(root.directory(at)) if stat.S_ISDIR(item.stat.st_mode)]
        except OSError as error:
            _check_gone(error)
            continue
        inodes.update((item.stat.st_dev, item.stat.st_ino) for item in below)
        pending.extend(at + b"/" + item.name for item in below)
    if guarded & inodes or any(device != found.st_dev for device, _inode in inodes):
        raise RefusedError(
            "The directory /%s would have to give way, and it holds the vault, the state of this machine or another file system" % printable(path),
            field="paths",
            found=b"/" + path,
            next="move it away first, or restore to another directory with --dest",
        )


def _database_names(manifest: Manifest) -> Dict[bytes, List[bytes]]:
    """All names of each database that was captured, under every one of them: its journals may lie beside any."""
    groups: Dict[bytes, List[bytes]] = {os.fsencode(path): [] for path in manifest.header.databases}
    result: Dict[bytes, List[bytes]] = {}
    for entry in manifest.entries if groups else ():
        names = groups.get(entry.group or entry.path)
        if names is not None:
            names.append(entry.path)
            result[entry.path] = names
    return result


def without_parted_journals(root: Descent, scope: Scope) -> Tuple[Scope, List[bytes]]:
    """``scope`` without the journals of databases that are here and not restored with them, and the paths of these.

    SQLite would play such a journal, which is of another time, back into the database.
    """
    journals = [entry.path for entry in scope.entries if entry.path.endswith(SIDECARS) and entry.type == FILE]
    if not journals:
        return scope, []
    files = {entry.path for entry in scope.entries if entry.type == FILE}
    parted = [path for path in journals if database_of(path) is not None and database_of(path) not in files and _is_database(root, database_of(path))]
    if not parted:
        return scope, []
    entries = _lead_groups([entry for entry in scope.entries if entry.path not in parted])
    return scope._replace(entries=entries, inside=scope.inside.difference(parted)), parted


def lost_databases(root: Descent, plan: Plan) -> Dict[bytes, DeviceInode]:
    """The databases that are here and will be replaced or removed."""
    gone = [path for path in sorted((plan.replaced & plan.anew).union(plan.extra)) if _is_database(root, path)]
    found = ((path, _inode_at(root, path)) for path in gone)
    return {path: inode for path, inode in found if inode is not None}


def _is_database(root: Descent, path: Optional[bytes]) -> bool:
    try:
        return path is not None and is_database(*root.parent(path))
    except OSError:
        return False


def _inode_at(root: Descent, path: bytes) -> Optional[DeviceInode]:
    try:
        found = lstat(root, path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _find_journals(root: Descent, plan: Plan, scope: Scope, databases: Mapping[bytes, Sequence[bytes]]) -> None:
    """What lies beside a database that is replaced goes before it: SQLite would play the old one's journal back into the new one."""
    if not databases:
        return
    anew = plan.anew
    own = {entry.path for entry in scope.entries}
    journals = []
    for entry in scope.entries:
        if entry.type == FILE and entry.path in databases and entry.path in anew:
            for path in [entry.path + suffix for suffix in SIDECARS]:
                with contextlib.suppress(OSError):
                    if path not in own and stat.S_ISREG(lstat(root, path).st_mode):
                        journals.append(path)
    plan.extra[:] = sorted({*plan.extra, *journals})


def _as_it_may_be(entry: Entry, found: os.stat_result, as_root: bool, plan: Plan) -> Entry:
    entry = _within_reach(entry, found, as_root)
    size, mtime = plan.intact.get(entry.path, (entry.size, entry.mtime))
    return entry._replace(size=size, mtime=mtime)


def _xattrs_at(root: Descent, path: bytes) -> Optional[Xattrs]:
    try:
        parent, name = root.parent(path)
        return read_xattrs(path_of(parent, name))
    except OSError as error:
        _check_gone(error)
        return None


def _within_reach(entry: Entry, found: os.stat_result, as_root: bool) -> Entry:
    """The entry as this user can make it: a program that belongs to another has lost its setuid bit."""
    if not as_root and entry.type == FILE and entry.mode & 0o6000 and (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
        return entry._replace(mode=entry.mode & 0o1777)
    return entry


def _of_user(xattrs: Xattrs, as_root: bool) -> Xattrs:
    """The attributes that this user can read and set."""
    return xattrs if as_root else tuple(pair for pair in xattrs if not pair[0].startswith((b"trusted.", b"security.")))


def bears(entry: Entry, found: os.stat_result, at: Union[int, bytes], as_root: bool, follow: Optional[bool] = None) -> bool:
    """Whether what is there bears the metadata of ``entry``. ``found``: its ``lstat``; ``at``, ``follow``: where its attributes are, as of ``read_xattrs``."""
    return differs(entry, found, owner=as_root) is None and _of_user(read_xattrs(at, follow=follow), as_root) == _of_user(entry.xattrs, as_root)


def _has_other_metadata(root: Descent, entry: Entry, found: os.stat_result, as_root: bool) -> bool:
    try:
        return not bears(entry, found, path_of(*root.parent(entry.path)), as_root)
    except OSError as error:
        _check_gone(error)
        return True


def _special_differs(root: Descent, entry: Entry, found: os.stat_result, as_root: bool) -> bool:
    try:
        parent, name = root.parent(entry.path)
        if entry.type == SYMLINK and os.readlink(name, dir_fd=parent) != entry.link:
            return True
    except OSError as error:
        _check_gone(error)
        return True
    return device_of(found) != entry.device or _has_other_metadata(root, entry, found, as_root)


def examine(
    root: Descent, entries: Sequence[Entry], present: Mapping[bytes, os.stat_result], advance: Callable[[int], None]
) -> Tuple[Dict[bytes, Xattrs], Set[bytes]]:
    """Read files; the xattrs of those that are still what ``present`` shows and whose bytes are as the entry says, and those that this user may
    not read."""
    root_fd = root.root_fd

    def work(start: int, stop: int) -> Tuple[List[Tuple[bytes, Xattrs]], List[bytes], int]:
        right = []
        closed = []
        with Descent(b".", dir_fd=root_fd) as below:
            for entry in entries[start:stop]:
                try:
                    parent, name = below.parent(entry.path)
                    fd, _found = open_file(parent, name, present[entry.path])
                    try:
                        if hash_file(fd)[0].hex() == entry.hash:
                            right.append((entry.path, read_xattrs(fd)))
                    finally:
                        os.close(fd)
                except PermissionError:
                    closed.append(entry.path)
                except OSError:
                    continue
        return right, closed, stop - start

    result: Dict[bytes, Xattrs] = {}
    unreadable: Set[bytes] = set()
    for right, closed, count in pool.run(work, [entry.size + 4096 for entry in entries]):
        result.update(right)
        unreadable.update(closed)
        advance(count)
    return result, unreadable


def state_of(found: os.stat_result) -> State:
    """The state of a file, of its ``lstat`` or ``fstat``."""
    return found.st_dev, found.st_ino, found.st_ctime_ns


def find_wrong(
    root: Descent, scope: Scope, plan: Plan, proven: Mapping[bytes, State], *, as_root: bool, is_lossy: bool, advance: Callable[[int], None]
) -> List[bytes]:
    """The paths of the scope, directories aside, that are not what they should be after ``plan`` was carried out.

    What ``compare`` has read and the plan did not touch is only looked at. So is a file that was ``proven``, read back in its place, where it is still
    in that state. ``is_lossy``: attributes could not all be set, and are not held against it.
    """
    touched = {entry.path for group in (plan.content, plan.metadata) for entry in group}
    look_for = _Look(plan, proven, touched.difference(plan.intact), {entry.path for entry in plan.skipped}, as_root, is_lossy)
    entries = [entry for entry in scope.entries if entry.type != DIRECTORY]
    unproven = look_for.to_read.difference(proven)
    root_fd = root.root_fd

    def work(start: int, stop: int) -> Tuple[List[bytes], int]:
        with Descent(b".", dir_fd=root_fd) as below, Descent(b".", dir_fd=root_fd) as leaders:
            return [entry.path for entry in entries[start:stop] if look_for.fault(below, leaders, entry)], stop - start

    wrong: List[bytes] = []
    # A look at a path costs what hashing some 7 KB does.
    for paths, count in pool.run(work, [7000 + entry.size if entry.path in unproven else 7000 for entry in entries]):
        wrong += paths
        advance(count)
    return sorted(wrong)


class _Look(NamedTuple):
    """How what is there is looked at when all is done; ``to_read``: of what was not proven, that much must be read."""

    plan: Plan
    proven: Mapping[bytes, State]
    to_read: Set[bytes]
    skipped: AbstractSet[bytes]
    as_root: bool
    is_lossy: bool

    def fault(self, below: Descent, leaders: Descent, entry: Entry) -> bool:
        """Whether a path is not what it should be. ``leaders``: to look up the first paths of groups by."""
        path = entry.path
        if path in self.skipped:
            return False
        try:
            parent, name = below.parent(path)
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            state = self.proven.get(path)
            if state is not None and state == state_of(found) and is_plainly(entry, found, owner=self.as_root):
                return False
            if _is_wrong(_as_it_may_be(entry, found, self.as_root, self.plan), found, self.as_root, self.is_lossy):
                return True
            if entry.is_group_follower:
                return _inode_at(leaders, entry.group or b"") != (found.st_dev, found.st_ino)
            if path in self.to_read:
                return self._reads_otherwise(parent, name, entry, found)
        except PermissionError:
            return True
        except OSError as error:
            _check_gone(error)
            return True
        return entry.type != FILE and not self.is_lossy and _special_differs(below, entry, found, self.as_root)

    def _reads_otherwise(self, parent: int, name: bytes, entry: Entry, found: os.stat_result) -> bool:
        try:
            fd, found = open_file(parent, name, found)
            try:
                if hash_file(fd, size=found.st_size)[0].hex() != entry.hash:
                    return True
                return not self.is_lossy and _of_user(read_xattrs(fd), self.as_root) != _of_user(entry.xattrs, self.as_root)
            finally:
                os.close(fd)
        except PermissionError:
            return bool(entry.mode & 0o400)  # else its own mode forbids it; its bytes were hashed when they were written
        except OSError:
            return True


def _is_wrong(entry: Entry, found: os.stat_result, as_root: bool, is_lossy: bool) -> bool:
    if is_lossy and stat.S_IMODE(found.st_mode) == mode_without_acl(entry):
        entry = entry._replace(mode=mode_without_acl(entry))  # its ACL was lost, and that is told
    return differs(entry, found, owner=as_root) is not None


def _find_extra(root: Descent, plan: Plan, scope: Scope, manifest: Manifest, guarded: AbstractSet[DeviceInode]) -> None:
    """What a backup would take now and the snapshot does not have. Nothing is removed on another file system than the source's."""
    selection = Selection.from_dict(dict(manifest.header.selection))
    devices: Dict[bytes, int] = {}
    for text in manifest.header.sources:
        try:
            found = check_source(root, text, "sources")
        except UsageError:
            continue  # a symbolic link now; it gives way to the directory
        if found is not None:
            devices[os.fsencode(text).strip(b"/")] = found.st_dev
    known = {entry.path for entry in manifest.entries}.union(plan.leftovers)
    databases = _database_names(manifest)
    below = tuple(path + b"/" if path else b"" for path in scope.roots)
    found_paths: Set[bytes] = set()
    for source in devices:
        try:
            folders = survey([source], selection, Cache(), now=time.time(), root=root, skip=guarded).folders
        except OSError as error:
            _check_gone(error)  # a source that is not there any more holds nothing to be removed
            continue
        for folder in folders:
            prefix = folder.path + b"/" if folder.path else b""
            found_paths.update(prefix + name for name in (folder.names.split(b"\0") if folder.names else ()))
    for path in found_paths:
        if database_of(path) in databases:
            continue  # a part of what the snapshot has
        if database_of(path) not in found_paths and _is_database(root, database_of(path)):
            continue  # a part of what stays
        if path in known or not path.startswith(below) or not plan.replaced.isdisjoint(_parents(path)):
            continue  # what lies in a directory that gives way to a file goes with it
        try:
            device = lstat(root, path).st_dev
        except OSError as error:
            _check_gone(error)
            continue
        home = next(source for source in devices if not source or path == source or path.startswith(source + b"/"))
        (plan.extra if device == devices[home] else plan.spared).append(path)
    plan.extra[:] = _without_kept_directories(root, sorted(plan.extra))
    plan.spared.sort()


def _without_kept_directories(root: Descent, extra: Sequence[bytes]) -> List[bytes]:
    """Of ``extra`` paths those that will really go: a directory that holds something else stays, and those above it."""
    going = set(extra)
    for path in reversed(extra):
        try:
            is_directory = stat.S_ISDIR(lstat(root, path).st_mode)
        except OSError as error:
            _check_gone(error)
            going.discard(path)
            continue
        if is_directory:
            try:
                stays = any(path + b"/" + os.fsencode(inner) not in going for inner in os.listdir(root.directory(path)))
            except OSError:
                stays = True
            if stays:
                going.discard(path)
    return sorted(going)
