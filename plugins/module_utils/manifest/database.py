# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite databases, known by their first bytes: captured while they are in use, by SQLite's own backup, in a process that has no more rights than
their owner."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import struct
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ..errors import printable
from ..process import Rights, rights_of, starting
from .walk import CREATE_FLAGS, FILE_FLAGS, Descent

if TYPE_CHECKING:
    import sqlite3

MAGIC = b"SQLite format 3\0"
JOURNAL, SHARED, WAL = SIDECARS = (b"-journal", b"-shm", b"-wal")

# How long somebody else's lock on a database is waited for.
PATIENCE_SECONDS = 10.0
# The process that captures says at least so often that it is alive; a database on a dead mount must not hold a run for ever.
_STALL_SECONDS = 120.0
# Pages copied between two looks. Between them, others may write to a database with a rollback journal; the copy then begins anew.
_PAGES = 1024
_PAUSE_SECONDS = 0.001
_RESTARTS = 3
# Steps of SQLite's machine between two signs of life while rows are counted.
_STEPS = 100_000
_TRIES = 3
# SQLite takes no longer name, sidecars included; and nobody reads a longer reason.
_LONGEST = 500
_BUSY = (5, 6)
# Where SQLite's locks are, as (start, length): whoever reads has one on the database, whoever has it open in WAL mode one on the memory beside it.
_READERS = (0x40000002, 510)
_OPENERS = (128, 1)
# Longer than a program takes from the one to the other.
_OPENING_SECONDS = 1.0


Counts = Tuple[int, int, int]


class Facts(NamedTuple):
    """What a capture is: SHA-256 (hex) and size of the copy, how many tables and rows it has, the version of its schema that the application keeps in
    it (``user_version``), and the file's mtime (ns) when it first held that."""

    digest: str
    size: int
    tables: int
    rows: int
    schema: int
    mtime: int


class CaptureError(Exception):
    """A database that could not be captured, and why. ``is_moving``: trying again may help."""

    def __init__(self, reason: str, *, is_moving: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_moving = is_moving


def database_of(name: bytes) -> Optional[bytes]:
    """The name of the database whose sidecar ``name`` would be, by its ending; None for every other name."""
    for suffix in SIDECARS:
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def capture(root: Descent, prefix: bytes, paths: Sequence[bytes], destination: bytes, owner: Optional[int] = None) -> Counts:
    """Copy one database, as it is at one instant, into the new file ``destination`` (absolute); (tables, rows, schema) of it.

    ``paths``: all its names below ``root``, whose own path is ``prefix``; ``owner``: whose it must be, None for anybody's. Raises ``CaptureError``;
    ``OSError`` where ``destination`` cannot be made.
    """
    for left in reversed(range(_TRIES)):
        try:
            return _capture(root, prefix, paths, destination, owner)
        except CaptureError as error:
            if not (error.is_moving and left):
                raise
    raise AssertionError("unreachable")


def _capture(root: Descent, prefix: bytes, paths: Sequence[bytes], destination: bytes, owner: Optional[int]) -> Counts:
    path, sidecars = _leading_name(root, paths)
    found = _look(root, path)
    if owner not in (None, found.st_uid):
        # Under the mode that was seen, whoever put it there could read what is not his.
        raise CaptureError("it was replaced by one that belongs to another")
    for suffix, beside in sidecars.items():
        if not stat.S_ISREG(beside.st_mode):  # SQLite would wait for ever at a FIFO
            raise CaptureError("its %s is no file" % suffix.decode("ascii"))
    may_write = os.geteuid() in (0, found.st_uid)
    objection = _objection(root, path, found.st_uid, sidecars) if may_write else ""
    if objection:
        raise CaptureError(objection)
    location = b"%s/%s" % (prefix.rstrip(b"/"), path)
    if len(location) > _LONGEST:
        raise CaptureError("its path is longer than SQLite takes (%d bytes)" % _LONGEST)
    need = found.st_size + (sidecars[WAL].st_size if WAL in sidecars else 0)
    room = os.statvfs(os.path.dirname(destination))
    free = room.f_bavail * room.f_frsize
    if need > free:
        # Found out by trying, it would leave nothing to anybody else for a while.
        raise CaptureError("its copy takes %d bytes, and the state directory has %d free" % (need, free))
    job = _Job(location, destination, (found.st_dev, found.st_ino), _rights(found), may_write, sidecars, False)
    counts = _run(job) or _run(job._replace(hold=True))
    after = _look(root, path)
    if (after.st_dev, after.st_ino) != job.inode or counts is None:
        raise CaptureError("it was replaced while it was captured", is_moving=True)
    return counts


class _Job(NamedTuple):
    """``inode``: what is to be found under ``location``; ``rights``: (uid, gid, groups) to take, None to keep ours; ``sidecars``: sizes of those
    that are not empty; ``hold``: keep writers out to the end."""

    location: bytes
    destination: bytes
    inode: Tuple[int, int]
    rights: Optional[Tuple[int, int, List[int]]]
    may_write: bool
    sidecars: Mapping[bytes, os.stat_result]
    hold: bool


def _look(root: Descent, path: bytes) -> os.stat_result:
    try:
        parent, name = root.parent(path)
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        raise CaptureError(error.strerror or str(error), is_moving=True) from error
    if not stat.S_ISREG(found.st_mode):
        raise CaptureError("it is no file any more", is_moving=True)
    return found


def _leading_name(root: Descent, paths: Sequence[bytes]) -> Tuple[bytes, Dict[bytes, os.stat_result]]:
    """The name of a database under which its sidecars lie, and those of them that are not empty. Through another one, commits would be missed."""
    leading = [(path, sidecars) for path, sidecars in ((path, sidecars_of(root, path)) for path in paths) if sidecars]
    if len(leading) > 1:
        raise CaptureError("%d of its names have journals of their own" % len(leading))
    return leading[0] if leading else (paths[0], {})


def sidecars_of(root: Descent, path: bytes) -> Dict[bytes, os.stat_result]:
    """The journals beside the database ``path`` that hold something, or are no files, by suffix: of what it is they are a part."""
    result = {}
    for suffix in (JOURNAL, WAL):
        try:
            parent, name = root.parent(path + suffix)
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            continue
        if found.st_size or not stat.S_ISREG(found.st_mode):
            result[suffix] = found
    return result


def _objection(root: Descent, path: bytes, owner: int, sidecars: Mapping[bytes, os.stat_result]) -> str:
    """Why a database must not be opened with the rights of ``owner``: who can forge a journal has whoever opens it delete a file of his choice."""
    for suffix, found in sidecars.items():
        if found.st_uid not in (owner, 0):
            return "its %s is not its owner's file" % suffix.decode("ascii")
    folder, _, _name = path.rpartition(b"/")
    if os.fstat(root.directory(folder)).st_mode & 0o002:
        return "everybody may write to its directory"
    above = folder
    while owner == 0:
        fd = root.directory(above) if above else root.root_fd
        found = os.fstat(fd)
        others = found.st_mode & 0o002 or (found.st_mode & 0o020 and (found.st_gid or _has_acl(fd)))
        # In a sticky one, others can rename nothing of root's, but put a journal beside it.
        if found.st_uid or (others and not (found.st_mode & stat.S_ISVTX and above != folder)):
            return "it belongs to root, and others may write to /%s" % printable(above)
        if not above:
            break
        above = above.rpartition(b"/")[0]
    return ""


def _has_acl(fd: int) -> bool:
    """Whether the group's bits of a mode are the bounds of a list, on which others may be."""
    try:
        return bool(os.getxattr(fd, b"system.posix_acl_access"))
    except OSError:
        return False


def _rights(found: os.stat_result) -> Optional[Rights]:
    return None if os.geteuid() != 0 or found.st_uid == 0 else rights_of(found.st_uid, found.st_gid)


# ---- our side ------------------------------------------------------------------------------------------------------


def _run(job: _Job) -> Optional[Counts]:
    """(tables, rows, schema) of the copy that another process made; None where writers kept it from an end."""
    # Both here: a process that has taken somebody else's rights may not be allowed to read them.
    try:
        import sqlite3  # noqa: F401
    except ImportError as error:
        raise CaptureError("this Python has no sqlite3 module (%s)" % error) from error
    import fcntl  # noqa: F401

    # Never into a file that was used: what is left in it would make other bytes of the same database.
    try:
        os.unlink(job.destination)
    except FileNotFoundError:
        pass
    os.close(os.open(job.destination, CREATE_FLAGS, 0o600))
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    child = 0
    try:
        with starting() as bind:
            child = os.fork()
            if child == 0:
                _serve(job, theirs, bind)
        os.close(theirs)
        theirs = -1
        return _listen(ours)
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
        if child > 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _listen(pipe: int) -> Optional[Counts]:
    said = b""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    while not said.endswith(b"\n"):
        if not poller.poll(_STALL_SECONDS * 1000):
            raise CaptureError("nothing was heard of it for %d s" % _STALL_SECONDS)
        piece = os.read(pipe, 65536)
        if not piece:
            raise CaptureError("the process that captured it died")
        said += piece.lstrip(b".") if not said else piece
    answer: Dict[str, Any] = json.loads(said)
    if "reason" in answer:
        # SQLite's words can hold those of whoever made the database.
        raise CaptureError(printable(answer["reason"])[:_LONGEST], is_moving=answer["is_moving"])
    return None if answer.get("again") else (answer["tables"], answer["rows"], answer["schema"])


# ---- the process that captures -------------------------------------------------------------------------------------


class _AgainError(Exception):
    """Writers came in between too often."""


def _serve(job: _Job, pipe: int, bind: Callable[[], None]) -> NoReturn:
    """Capture, say how it went, and be gone without touching anything of our parent's."""
    answer: Dict[str, Any]
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o077)
        bind()
        # SQLite's locks are the process's own: another descriptor of the file that is closed here would drop them.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd != pipe:
                with contextlib.suppress(OSError):
                    os.close(fd)
        tables, rows, schema = _copy(job, lambda: os.write(pipe, b"."), bind)
        answer = {"tables": tables, "rows": rows, "schema": schema}
    except _AgainError:
        answer = {"again": True}
    except CaptureError as error:
        answer = {"reason": error.reason, "is_moving": error.is_moving}
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, PermissionError) and job.rights is not None:
            reason = "its owner may not read it, or not enter a directory above it: %s" % reason
        answer = {"reason": reason, "is_moving": False}
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is about this database
        # A writer that dies now leaves a journal to be played back, which nobody saw when this was opened for reading.
        answer = {"reason": (str(error) or type(error).__name__)[:_LONGEST], "is_moving": "readonly" in str(error)}
    try:
        os.write(pipe, json.dumps(answer).encode("ascii") + b"\n")
    finally:
        os._exit(0)


def _copy(job: _Job, tick: Callable[[], Any], bind: Callable[[], None]) -> Counts:
    # Opened with our rights, in a directory of our own, and kept open: no path is looked up again.
    copy = _open(job.destination, "mode=rw")
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=MEMORY"):
        copy.execute("PRAGMA %s" % pragma).fetchall()
    if job.rights is not None:
        uid, gid, groups = job.rights
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        bind()  # the kernel forgets whose death is ours when rights change
    before = _state(job.location)
    source, is_wal, is_frozen = _open_source(job)
    if is_wal or job.hold:
        source.execute("BEGIN")
        source.execute("PRAGMA schema_version").fetchall()  # from here on it is this instant's
    watch = _Watch(job.hold or is_wal, tick)
    source.backup(copy, pages=_PAGES, progress=watch, sleep=0.05)
    # A copy in WAL mode wants a journal of its own as soon as it is read, in a directory that may be closed to us by now.
    asked = source if is_wal else copy
    tables = list_tables(asked)
    rows = count_rows(asked, tables, tick)
    schema = asked.execute("PRAGMA user_version").fetchone()[0]
    source.close()
    copy.close()
    if is_frozen and _state(job.location) != before:
        raise CaptureError("it is on a file system that is read-only here, and was written to elsewhere", is_moving=True)
    return len(tables), rows, schema


def list_tables(asked: sqlite3.Connection) -> List[str]:
    """The names of the tables that are stored, those of SQLite itself among them."""
    return [name for (name,) in asked.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0")]


def count_rows(asked: sqlite3.Connection, tables: Sequence[str], tick: Callable[[], Any]) -> int:
    """How many rows all these tables have together; ``tick`` is called now and then. ``CaptureError`` where there are more than fit in."""
    import sqlite3

    pages, size = (asked.execute("PRAGMA %s" % word).fetchone()[0] for word in ("page_count", "page_size"))
    # The pages of a forged tree lead back to each other. A row that is there takes more bytes than steps.
    signs = iter(range(pages * size // _STEPS + 1))
    is_endless = False

    def step() -> int:
        nonlocal is_endless
        tick()
        is_endless = next(signs, None) is None
        return int(is_endless)

    asked.set_progress_handler(step, _STEPS)
    rows = 0
    try:
        for name in tables:
            # Not count(*), which is one step however long it takes.
            rows += asked.execute('SELECT total(1) FROM "%s"' % name.replace('"', '""')).fetchone()[0]
            tick()
    except sqlite3.OperationalError as error:
        if is_endless:
            raise CaptureError("it has more rows than fit into it") from error
        raise
    asked.set_progress_handler(None, 0)
    return int(rows)


def _state(location: bytes) -> Tuple[int, ...]:
    """What no writer leaves as it is: of the file its size and times, and how large its journal is."""
    found = os.stat(location)
    try:
        journal = os.stat(location + WAL).st_size
    except FileNotFoundError:
        journal = 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, journal


class _Watch:
    """Looks on after each portion: breaks off where another's lock stays, or writers keep the copy from an end."""

    def __init__(self, is_held: bool, tick: Callable[[], Any]) -> None:
        self._is_held = is_held
        self._tick = tick
        self._remaining: Optional[int] = None
        self._restarts = 0
        self._waiting_since: Optional[float] = None

    def __call__(self, status: int, remaining: int, total: int) -> None:
        self._tick()
        if status in _BUSY:
            now = time.monotonic()
            self._waiting_since = self._waiting_since or now
            if now - self._waiting_since > PATIENCE_SECONDS:
                raise CaptureError("it is locked by another process")
            return
        self._waiting_since = None
        if self._is_held:
            return
        if self._remaining is not None and remaining >= self._remaining:
            self._restarts += 1
            if self._restarts > _RESTARTS:
                raise _AgainError
        self._remaining = remaining
        time.sleep(_PAUSE_SECONDS)


def _open_source(job: _Job) -> Tuple[sqlite3.Connection, bool, bool]:
    """(The database, whether it is in WAL mode, whether it was taken for one that nobody can change.)

    Read-only wherever that does: not so where a journal has to be played back, or where files that SQLite makes beside an idle database would stay.
    """
    import sqlite3

    fd = os.open(job.location, FILE_FLAGS)  # before SQLite does: it has no locks yet that closing could drop
    try:
        in_wal_mode = os.read(fd, 100)[18:20] == b"\2\2"
        if in_wal_mode:
            _check_name(job.location, fd)
    finally:
        os.close(fd)
    writes = job.may_write and (JOURNAL in job.sidecars or (in_wal_mode and WAL not in job.sidecars))
    try:
        return (*_opened(job, "mode=rw" if writes else "mode=ro"), False)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or job.sidecars or not os.statvfs(job.location).f_flag & os.ST_RDONLY:
            raise
    # Nothing can be made beside it, and here nobody can write; but the same may be mounted elsewhere.
    return (*_opened(job, "mode=ro&immutable=1"), True)


def _check_name(location: bytes, fd: int) -> None:
    """Raise where others have a database in WAL mode open by a name that is not ours: their journal lies beside that one."""
    import fcntl

    deadline = time.monotonic() + _OPENING_SECONDS
    # One who has it all to himself does without the memory, and will be waited for.
    while _lock_of_others(fd, _READERS) == fcntl.F_RDLCK and not has_openers(location):
        if time.monotonic() > deadline:
            raise CaptureError("it is in use under another name, and its journal lies beside that one")
        time.sleep(0.05)


def has_openers(location: bytes) -> bool:
    """Whether somebody has the database with this absolute path open in WAL mode. In another mode only who is at work there can be seen."""
    import fcntl

    try:
        fd = os.open(location + SHARED, FILE_FLAGS)
    except OSError:
        return False
    try:
        return _lock_of_others(fd, _OPENERS) != fcntl.F_UNLCK
    finally:
        os.close(fd)


def _lock_of_others(fd: int, place: Tuple[int, int]) -> int:
    import fcntl

    question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, *place, 0)
    try:
        return int(struct.unpack("hhqqi", fcntl.fcntl(fd, fcntl.F_GETLK, question))[0])
    except OSError:  # a file system without locks
        return fcntl.F_UNLCK


def _opened(job: _Job, how: str) -> Tuple[sqlite3.Connection, bool]:
    source = _open(job.location, how)
    try:
        if not any(_is_inode(fd, job.inode) for fd in range(3, 64)):
            raise CaptureError("it was replaced while it was captured", is_moving=True)
        mode = source.execute("PRAGMA journal_mode").fetchone()[0]
        source.execute("PRAGMA schema_version").fetchall()
    except BaseException:
        source.close()
        raise
    return source, mode == "wal"


def _open(path: bytes, how: str) -> sqlite3.Connection:
    import sqlite3
    from urllib.parse import quote_from_bytes

    return sqlite3.connect("file:%s?%s" % (quote_from_bytes(path), how), uri=True, isolation_level=None, timeout=PATIENCE_SECONDS)


def _is_inode(fd: int, inode: Tuple[int, int]) -> bool:
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == inode
