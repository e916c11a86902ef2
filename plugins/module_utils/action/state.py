# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host remembers between runs: its baseline, the attempt it is in, the hash cache, and the records of its runs.

One directory a history, ``<state>/<host>/<policy>/``, with one directory a target below it. All of it can be lost: the host then restores or
adopts before it backs up again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from contextlib import contextmanager
from typing import AbstractSet, Any, Callable, Dict, FrozenSet, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import BackupError, IntegrityError, RefusedError, printable
from ..manifest.database import Facts
from ..manifest.document import Manifest, read_manifest
from ..manifest.walk import remove_tree
from ..observe.audit import AuditLog, fsync_parent
from ..observe.runs import RunLog
from ..policy.model import Policy
from ..process import lock
from ..target.contract import Receipt, is_canary
from ..target.tree.layout import make_private, read_json, write_file, write_json

# A scratch that is younger (s) may be one that is just being locked.
_SCRATCH_SECONDS = 60
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HOST = re.compile("[A-Za-z0-9](?:[A-Za-z0-9_-]|[.](?![.]))*")


def default_state_directory() -> str:
    """``OPENCLAW_BACKUP_STATE``, else ``/var/lib/openclaw-backup`` for root, else ``$XDG_STATE_HOME/openclaw-backup``."""
    named = os.environ.get("OPENCLAW_BACKUP_STATE")
    if named:
        return os.path.abspath(named)
    if os.geteuid() == 0:
        return "/var/lib/openclaw-backup"
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "openclaw-backup")


def default_host() -> str:
    """The host's name where a policy gives none: the node name, up to the first character that a name cannot hold."""
    match = _HOST.match(os.uname().nodename)
    return match.group()[:64] if match else "localhost"


class Pending(NamedTuple):
    """An attempt that was begun and not yet known to be committed, and the transactions of those before it that were not either."""

    tx: str
    parent: Optional[str]
    digest: str
    earlier: Tuple[str, ...] = ()

    def made(self, receipt: Receipt) -> bool:
        """Whether that came of it after all."""
        return receipt.tx == self.tx or receipt.tx in self.earlier


class Unfinished(NamedTuple):
    """A restore in place that was begun and has not come to its end: which snapshot, whether with ``delete``, the ``undo`` directory, when, which ``paths``
    of it (none: all), and below which paths it writes (``sources``)."""

    snapshot: str
    delete: bool = False
    undo: Optional[str] = None
    at: str = ""
    paths: Sequence[str] = ()
    sources: Sequence[str] = ()


class Rehearsal:
    """Where the drill that has the lock ``fd`` unpacks: noted before anything is there, so that the next one removes what a kill left."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def noted(self) -> Optional[bytes]:
        """The absolute path that was noted last."""
        path = os.pread(self._fd, 1 << 16, 0)
        return path if path.startswith(b"/") else None

    def note(self, path: Optional[bytes]) -> None:
        """Note another one, or that nothing is left."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, path or b"", 0)


class HostState:
    """The state of one policy on this host towards one target. Reading works without any of it being there."""

    def __init__(self, directory: str, policy: Policy) -> None:
        import hashlib

        self.root = os.fsencode(os.path.abspath(directory))
        self.policy = policy
        self.directory = b"/".join((self.root, policy.host.encode("ascii"), policy.name.encode("ascii")))
        key = hashlib.sha256(policy.target.url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.target_directory = self.directory + b"/targets/" + key.encode("ascii")

    @property
    def cache(self) -> bytes:
        """The hash cache's file; one of its own where databases are hashed as they lie."""
        return self.directory + (b"/cache.bin" if self.policy.sqlite == "auto" else b"/cache-plain.bin")

    def databases(self) -> Dict[bytes, Facts]:
        """What is known of the databases that were captured last; nothing where that is lost."""
        try:
            item = read_json(self.directory + b"/databases.json")
            return {os.fsencode(path): Facts(*facts) for path, facts in item.items()} if item else {}
        except (BackupError, TypeError, ValueError, AttributeError):
            return {}

    def set_databases(self, databases: Mapping[bytes, Facts]) -> None:
        """Remember what is known of them."""
        if databases != self.databases():
            write_json(self.directory + b"/databases.json", {os.fsdecode(path): list(facts) for path, facts in databases.items()})

    def sources(self) -> Tuple[str, ...]:
        """What a profile found here when a snapshot was last made."""
        item = self._memory(b"sources.json").get("sources")
        return tuple(path for path in item if type(path) is str) if type(item) is list else ()

    def set_sources(self, sources: Sequence[str]) -> None:
        """Remember it."""
        if tuple(sources) != self.sources():
            write_json(self.target_directory + b"/sources.json", {"sources": list(sources)})

    @property
    def runs(self) -> RunLog:
        """The records of past runs."""
        return RunLog(self.directory + b"/runs.jsonl")

    @property
    def drills(self) -> RunLog:
        """The records of past drills."""
        return RunLog(self.directory + b"/drills.jsonl")

    @property
    def audit(self) -> bytes:
        """The hash-chained log of this machine."""
        return self.root + b"/audit.jsonl"

    def prepare(self) -> None:
        """Make the directories. ``BackupError`` (kind ``state``) where they cannot be written."""
        try:
            make_private(self.target_directory)
            probe = self.target_directory + b"/.probe"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            os.unlink(probe)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> BackupError:
        return BackupError(
            "The state directory %s cannot be written: %s" % (printable(self.root), error.strerror),
            kind="state",
            field="state",
            found=self.root,
            allowed="a directory that this user can write",
            next="name another with --state or OPENCLAW_BACKUP_STATE",
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one run of this policy at a time (``LockedError``)."""
        path = self.directory + b"/lock"
        try:
            fd = lock(path, fcntl.LOCK_EX, "Another run of %s" % self.policy.name)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            yield
        finally:
            os.close(fd)

    def is_running(self) -> bool:
        """Whether a run of this policy is under way just now, as far as this user can see."""
        return is_held(self.directory + b"/lock")

    @property
    def health(self) -> bytes:
        """What a loop writes down about itself."""
        return self.directory + b"/health.json"

    def identity(self) -> FrozenSet[Tuple[int, int]]:
        """(device, inode) of the state directory, which no scan enters."""
        try:
            found = os.stat(self.root)
        except OSError:
            return frozenset()
        return frozenset(((found.st_dev, found.st_ino),))

    def baseline(self) -> Optional[Receipt]:
        """The receipt of the last snapshot that this host knows is committed."""
        item = read_json(self.target_directory + b"/baseline.json")
        return None if item is None else Receipt.from_dict(item, printable(self.target_directory + b"/baseline.json"))

    def baseline_manifest(self, receipt: Receipt) -> Optional[Manifest]:
        """Its manifest, or None where the copy here is lost or is another's."""
        try:
            manifest = read_manifest(self.target_directory + b"/baseline.jsonl.gz")
        except IntegrityError:
            return None
        return manifest if manifest.digest == receipt.digest else None

    def set_baseline(self, receipt: Receipt, manifest: Manifest) -> None:
        """Remember what is committed, and that nothing is pending any more."""
        write_file(self.target_directory + b"/baseline.jsonl.gz", manifest.to_bytes())
        write_json(self.target_directory + b"/baseline.json", receipt.to_dict())
        known = self.known_ids()
        write_json(self.target_directory + b"/receipts.json", {"ids": sorted(known | {receipt.id})[-1000:]})
        self.set_pending(None)

    def known_ids(self) -> AbstractSet[str]:
        """Ids of snapshots that this host made, restored or adopted here, as far as it remembers."""
        ids = self._memory(b"receipts.json").get("ids")
        return frozenset(item for item in ids if type(item) is str) if type(ids) is list else frozenset()

    def _memory(self, name: bytes) -> Mapping[str, Any]:
        """A file that a host can do without: one that is damaged is forgotten, and made anew."""
        try:
            item = read_json(self.target_directory + b"/" + name)
        except BackupError:
            return {}
        return item if type(item) is dict else {}

    def pending(self) -> Optional[Pending]:
        """The attempt that a past run did not finish."""
        item = self._memory(b"pending.json")
        tx, parent, digest = item.get("tx"), item.get("parent"), item.get("digest")
        if type(tx) is not str or type(digest) is not str or type(parent) not in (str, type(None)):
            return None
        earlier = item.get("earlier")
        return Pending(tx, parent, digest, tuple(other for other in earlier if type(other) is str) if type(earlier) is list else ())

    def set_pending(self, pending: Optional[Pending]) -> None:
        """Record an attempt, durably, before it begins; or its end."""
        path = self.target_directory + b"/pending.json"
        if pending is not None:
            before = self.pending()
            earlier = (*before.earlier, before.tx)[-100:] if before is not None else ()
            write_json(path, pending._replace(earlier=earlier)._asdict())
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def heartbeat_at(self) -> float:
        """When the target was last told that nothing changed (s since the epoch), 0 for never, or for a time that is still to come."""
        at = self._memory(b"heartbeat.json").get("at")
        return float(at) if isinstance(at, (int, float)) and 0 <= at <= time.time() else 0.0

    def set_heartbeat(self, now: float) -> None:
        """Remember that the target was told."""
        write_json(self.target_directory + b"/heartbeat.json", {"at": now})

    def ask_soon(self) -> None:
        """Have the next run ask the target, changed or not."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.target_directory + b"/heartbeat.json")
        self.forget_target()

    def forget_target(self) -> None:
        """Have the next run look at the target instead of going by what is remembered of it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.remembered + b"/view.json")

    def forget_attempts(self) -> None:
        """What runs that died left in a target of one version was just written down there as its state."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.remembered + b"/attempts.json")

    @property
    def remembered(self) -> bytes:
        """The directory for what a target wants to know in the next run."""
        return self.target_directory + b"/remembered"

    def told(self) -> Mapping[str, float]:
        """When people were last told of each trouble that lasts (s since the epoch)."""
        return {name: float(at) for name, at in self._memory(b"told.json").items() if type(at) in (int, float)}

    def set_told(self, trouble: str, at: Optional[float]) -> None:
        """Remember that they were, or with None that it is over."""
        after = {**self.told(), trouble: at}
        make_private(self.target_directory)
        write_json(self.target_directory + b"/told.json", {name: when for name, when in after.items() if when is not None})

    def unfinished(self) -> Optional[Unfinished]:
        """The restore that has to be finished before the next backup, whatever target it came from. A damaged mark stands for one of the newest snapshot."""
        return _read_unfinished(self.directory)

    def unfinished_beside(self, sources: Sequence[str]) -> Optional[Tuple[str, Unfinished]]:
        """Another policy of this host, by its name, and its restore that has to be finished, where that writes into one of ``sources``."""
        beside, own = os.path.split(self.directory)
        try:
            names = sorted(os.listdir(beside))
        except OSError:
            return None
        for name in names:
            found = _read_unfinished(beside + b"/" + name) if name != own else None
            if found is not None and any(_lie_inside(one, other) for one in found.sources for other in sources):
                return os.fsdecode(name), found
        return None

    def set_unfinished(self, restore: Optional[Unfinished]) -> None:
        """Record, durably, that a restore begins to write; or that it has come to its end."""
        path = self.directory + b"/restoring.json"
        if restore is not None:
            write_json(path, restore._asdict())
            fsync_parent(path)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def owes_after(self) -> bool:
        """Whether a run began its hooks and died before those that come after it had run."""
        return os.path.lexists(self.directory + b"/after-owed")

    def set_owes_after(self, owes: bool) -> None:
        """Record, durably, that hooks are begun whose counterparts are to run; or that these have run."""
        path = self.directory + b"/after-owed"
        if owes:
            write_file(path, b"")
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def staging(self) -> bytes:
        """The private directory for files in motion; emptied here."""
        self.clear_staging()
        return self.directory + b"/staging"

    def clear_staging(self) -> None:
        """Remove what a run staged, and what was left here by another verb that was killed."""
        self._remove(b"staging")
        self._sweep()

    def _sweep(self) -> None:
        """Remove the scratches that nobody holds any more: a restore that is killed again and again must not fill the disk."""
        for name in os.listdir(self.directory):
            if name.startswith(b"scratch-"):
                with contextlib.suppress(OSError):
                    fd = os.open(self.directory + b"/" + name, _FOLDER)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        if time.time() - os.fstat(fd).st_mtime > _SCRATCH_SECONDS:
                            self._remove(name)
                    finally:
                        os.close(fd)

    def _remove(self, name: bytes) -> None:
        fd = os.open(self.directory, _FOLDER)
        try:
            remove_tree(fd, name)
        finally:
            os.close(fd)

    @contextmanager
    def scratch(self) -> Iterator[bytes]:
        """The path of a private directory, to be made, for as long as the block lasts."""
        make_private(self.directory)
        self._sweep()
        name = b"scratch-" + new_transaction().encode("ascii")
        os.mkdir(self.directory + b"/" + name, 0o700)
        fd = os.open(self.directory + b"/" + name, _FOLDER)
        try:
            with contextlib.suppress(OSError):  # not every file system locks directories
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield self.directory + b"/" + name + b"/here"
        finally:
            os.close(fd)
            self._remove(name)

    @contextmanager
    def canary(self, name: str, bury: Callable[[str], None]) -> Iterator[bytes]:
        """A private directory for the canary ``name``, of which there is one at a time (``LockedError``). One that was killed is first buried, by name."""
        make_private(self.directory)
        fd = lock(self.directory + b"/canary", fcntl.LOCK_EX, "Another check of %s" % self.policy.name)
        try:
            before = os.pread(fd, 100, 0).decode("ascii", "replace")
            if is_canary(before):
                bury(before)
            self._remove(b"canary-scratch")
            os.ftruncate(fd, 0)
            os.pwrite(fd, name.encode("ascii"), 0)
            yield self.directory + b"/canary-scratch"
            os.ftruncate(fd, 0)
        finally:
            self._remove(b"canary-scratch")
            os.close(fd)

    @contextmanager
    def drilling(self) -> Iterator[Rehearsal]:
        """One drill at a time (``LockedError``), and a place to note where it leaves what a kill would leave behind."""
        make_private(self.directory)
        fd = lock(self.directory + b"/drill.lock", fcntl.LOCK_EX, "Another drill of %s" % self.policy.name)
        try:
            yield Rehearsal(fd)
        finally:
            os.close(fd)

    def record_drill(self, run: Mapping[str, Any]) -> None:
        """Write the evidence of a drill: into the audit log of this machine, and then where ``status`` looks."""
        event = {name: value for name, value in run.items() if name not in ("verb", "snapshot_id")}
        AuditLog(self.audit).append({**event, "event": "drill", "snapshot": run.get("snapshot_id")}, now=time.time())
        self.drills.append(run)

    def record(self, run: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Write the record of a run, and the operation into the audit log of this machine."""
        self.runs.append(run)
        AuditLog(self.audit).append({"host": self.policy.host, "policy": self.policy.name, "target": self.policy.target.url, **event}, now=time.time())


def is_held(path: bytes) -> bool:
    """Whether somebody holds the lock of a file, as far as this user can see."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _read_unfinished(directory: bytes) -> Optional[Unfinished]:
    try:
        item = read_json(directory + b"/restoring.json")
        return None if item is None else Unfinished(**item)
    except (BackupError, TypeError):
        return Unfinished("latest")


def _lie_inside(one: str, other: str) -> bool:
    """Whether one of two paths is, or lies in, the other."""
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def refuse_unfinished(state: HostState) -> None:
    """``RefusedError`` (kind ``restore_unfinished``) where a restore was broken off: what is on this disk is neither what was there nor the snapshot."""
    restore = state.unfinished()
    if restore is not None:
        raise _mixture(restore, "", "POLICY")


def refuse_unfinished_beside(state: HostState, sources: Sequence[str]) -> None:
    """The same where one of another policy of this host writes into ``sources``."""
    found = state.unfinished_beside(sources)
    if found is not None:
        raise _mixture(found[1], " of the policy %s" % found[0], found[0])


def _mixture(restore: Unfinished, of: str, policy: str) -> RefusedError:
    return RefusedError(
        "A restore of snapshot %s%s was begun and not finished: what is here is a mixture, and is not backed up" % (restore.snapshot, of),
        kind="restore_unfinished",
        field="restore",
        found=restore.snapshot,
        next="finish it with `openclaw-backup restore %s --if-needed`; or go on from what is on this disk with `openclaw-backup adopt %s`" % (policy, policy),
    )


def new_transaction() -> str:
    """A random name for one attempt."""
    return os.urandom(16).hex()


def user_names(uids: AbstractSet[int], gids: AbstractSet[int]) -> Dict[str, Dict[str, str]]:
    """Names of the users and groups of this machine, for those who restore on another one: ``{"u": {id: name}, "g": {id: name}}``."""
    import grp
    import pwd

    users, groups = {}, {}
    for uid in uids:
        try:
            users[str(uid)] = pwd.getpwuid(uid).pw_name
        except KeyError:
            continue
    for gid in gids:
        try:
            groups[str(gid)] = grp.getgrgid(gid).gr_name
        except KeyError:
            continue
    return {"u": users, "g": groups}
