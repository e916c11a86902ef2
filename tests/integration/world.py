# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small machine for tests of the engine: a source, a vault and a state in one place, and oracles that share no code with the engine."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.adopt import adopt
from ansible_collections.openclaw.backup.plugins.module_utils.action.backup import BackupResult, backup
from ansible_collections.openclaw.backup.plugins.module_utils.action.locate import open_target
from ansible_collections.openclaw.backup.plugins.module_utils.action.restore import RestoreRequest, RestoreResult, restore
from ansible_collections.openclaw.backup.plugins.module_utils.action.verify import VerifyResult, verify
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, RefusedError
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import verify_chain
from ansible_collections.openclaw.backup.plugins.module_utils.observe.progress import Progress
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Snapshot
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.target import PackTarget
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.layout import write_json
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.target import TreeTarget

T = TypeVar("T")

AS_ROOT = os.geteuid() == 0
NOBODY = 65534

needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can")
# root takes every storage; what an ordinary user has is portable.
STORAGES = ("native", "portable") if AS_ROOT else ("portable",)


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: List[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class World:
    """``root/src``, ``root/vault``, ``root/state`` and the verbs on them."""

    def __init__(self, root: Path, storage: Optional[str] = None) -> None:
        self.root = root
        self.storage = storage
        self.clone = "auto"
        self.src = root / "src"
        self.vault = root / "vault"
        self.state = root / "state"
        self.notes: List[str] = []
        self.src.mkdir(exist_ok=True)

    @classmethod
    def make(cls, storage: Optional[str] = None, *, on: Optional[str] = None) -> World:
        """A new one, reachable for every user. In memory where possible: a commit syncs its whole file system."""
        base = on or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
        root = Path(tempfile.mkdtemp(prefix="openclaw-backup-test-", dir=base))
        root.chmod(0o755)
        kind = Packed if cls is World and os.environ.get("WORLD") == "pack" else cls
        return kind(root, storage)

    def destroy(self) -> None:
        # Programs, because paths can be longer than one call takes.
        subprocess.run(["chmod", "-R", "u+rwX", str(self.root)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", str(self.root)], check=True)

    # ---- verbs ---------------------------------------------------------------------------------------------------------

    def policy(self, **changes: Any) -> Policy:
        target: Dict[str, Any] = {"url": str(self.vault), "clone": self.clone}
        if self.storage:
            target["storage"] = self.storage
        return Policy.from_mapping({"name": "p", "host": "h", "sources": [str(self.src)], "target": target, **changes}, default_host="h")

    def backup(self, *, policy: Optional[Policy] = None, **options: Any) -> BackupResult:
        notes = Notes()
        time.sleep(0.02)  # what changed in this tick of the clock would count as in motion, and go through staging
        try:
            return backup(policy or self.policy(), **{"state_directory": str(self.state), "progress": notes, **options})
        finally:
            self.notes = notes.notes

    def restore(self, *, policy: Optional[Policy] = None, dry_run: bool = False, state_directory: str = "", **request: Any) -> RestoreResult:
        wish = RestoreRequest(**{name: str(value) if isinstance(value, Path) else value for name, value in request.items()})
        return restore(policy or self.policy(), wish, state_directory=state_directory or str(self.state), dry_run=dry_run)

    def verify(self, **options: Any) -> VerifyResult:
        notes = Notes()
        try:
            return verify(self.policy(), **{"state_directory": str(self.state), "progress": notes, **options})
        finally:
            self.notes = notes.notes

    def adopt(self) -> Dict[str, Any]:
        return adopt(self.policy(), state_directory=str(self.state))

    # ---- looking ---------------------------------------------------------------------------------------------------------

    @property
    def history(self) -> Path:
        return self.vault / "h" / "p"

    @property
    def target(self) -> TreeTarget:
        return TreeTarget(str(self.vault), "h", "p")

    def snapshots(self) -> List[Snapshot]:
        return self.target.list()

    def tree(self, snapshot_id: Optional[str]) -> Path:
        assert snapshot_id
        return self.history / "snapshots" / snapshot_id / "tree"

    def stored(self, snapshot_id: Optional[str], name: str = "") -> Path:
        """Where a path of the source lies in a snapshot."""
        return Path(str(self.tree(snapshot_id)) + str(self.src / name))

    def restored(self, dest: Path) -> Path:
        return Path(str(dest) + str(self.src))

    def check_history(self, *, count: Optional[int] = None) -> None:
        """Every snapshot is whole, nothing lies about, and both logs are chains."""
        found = self.snapshots()
        assert count is None or len(found) == count
        for snapshot in found:
            result = self.verify(snapshot=snapshot.id, depth="full")
            assert result.ok, result.to_dict()
        incoming = self.history / "incoming"
        assert not incoming.exists() or not os.listdir(incoming)
        for log in (self.history / "audit.jsonl", self.state / "audit.jsonl"):
            report = verify_chain(os.fsencode(log))
            assert report.ok, report

    def edit_json(self, path: Path, **changes: Any) -> None:
        import json

        write_json(os.fsencode(path), {**json.loads(path.read_text()), **changes})


class Packed(World):
    """A world whose vault is of sealed packs."""

    def __init__(self, root: Path, storage: Optional[str] = None) -> None:
        super().__init__(root, "portable")
        self.old_keys: List[str] = []
        self._make_key()

    def _make_key(self) -> None:
        self.key.write_text(os.urandom(32).hex() + "\n")
        self.key.chmod(0o600)

    def change_key(self) -> None:
        """Another key takes the place of the first, which the policy lists as an old one."""
        old = self.root / ("key%d" % len(self.old_keys))
        self.key.rename(old)
        self.old_keys.append(str(old))
        self._make_key()

    @property
    def key(self) -> Path:
        return self.root / "key"

    def policy(self, **changes: Any) -> Policy:
        target: Dict[str, Any] = {"url": "pack://%s" % self.vault, "key_file": str(self.key), "old_key_files": self.old_keys}
        return Policy.from_mapping({"name": "p", "host": "h", "sources": [str(self.src)], "target": target, **changes}, default_host="h")

    @property
    def target(self) -> PackTarget:  # type: ignore[override]
        found = open_target(self.policy().target, "h", "p")
        assert isinstance(found, PackTarget)
        return found

    def tree(self, snapshot_id: Optional[str]) -> Path:
        """A snapshot as it comes back."""
        assert snapshot_id
        seen = self.root / "seen" / snapshot_id
        if not seen.exists():
            self.restore(snapshot=snapshot_id, dest=seen, state_directory=str(self.root / "onlooker"))
        return seen

    def objects(self, kind: str = "") -> List[Path]:
        """The objects of the history, or those of one kind."""
        return sorted(path for path in (self.history / kind).rglob("*") if path.is_file())

    def days_pass(self, days: float) -> None:
        """By the store's clock."""
        for path in self.objects():
            found = path.stat()
            os.utime(path, (found.st_atime, found.st_mtime - days * 86400 - 60))

    def race(self, count: int, arrive: Callable[[], PackTarget]) -> None:
        """Two who ``arrive`` and go on from the same snapshot commit at the same moment, ``count`` times: exactly one does, the other is told."""
        manifest = self.target.manifest(self.snapshots()[0])
        for number in range(count):
            parent = self.target.latest()
            assert parent is not None
            start = threading.Barrier(2)
            results: List[Any] = []

            def go(tx: str, parent: str = parent.id, start: threading.Barrier = start, results: List[Any] = results) -> None:
                try:
                    session = arrive().begin(tx, parent)
                    start.wait(300)
                    with closing(session):
                        results.append(session.commit(manifest))
                except BackupError as error:
                    results.append(error)
                    start.abort()  # who waits for one that did not come

            threads = [threading.Thread(target=go, args=("%032x" % (2 * number + turn),)) for turn in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            won = [result for result in results if not isinstance(result, BackupError)]
            latest = self.target.latest()
            assert len(results) == 2 and len(won) == 1 and latest is not None, results
            assert (latest.id, latest.receipt.tx, latest.receipt.sequence) == (won[0].id, won[0].tx, parent.receipt.sequence + 1)
            assert [result.kind for result in results if isinstance(result, RefusedError)] == ["writer"]

    def check_history(self, *, count: Optional[int] = None) -> None:
        """Every snapshot is whole, and the log is a chain."""
        found = self.snapshots()
        assert count is None or len(found) == count
        for snapshot in found:
            result = self.verify(snapshot=snapshot.id, depth="full")
            assert result.ok, result.to_dict()
        assert not [path for path in self.vault.rglob(".*") if path.is_file()]
        report = verify_chain(os.fsencode(self.state / "audit.jsonl"))
        assert report.ok, report


# ---- oracles ---------------------------------------------------------------------------------------------------------------


def fingerprint(root: Path, *, times: bool = True, inodes: bool = False) -> Dict[bytes, Tuple[Any, ...]]:
    """Everything below ``root`` with all that can be seen of it; ``times`` of directories too. Follows nothing. Paths of any length."""
    result: Dict[bytes, Tuple[Any, ...]] = {}
    groups: Dict[Tuple[int, int], bytes] = {}

    def visit(dir_fd: int, prefix: bytes) -> None:
        for text in sorted(os.listdir(dir_fd), key=os.fsencode):
            name = os.fsencode(text)
            found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            kind = stat.S_IFMT(found.st_mode)
            path = prefix + name
            at = b"/proc/self/fd/%d/%s" % (dir_fd, name)
            attributes = []
            for key in sorted(os.listxattr(at, follow_symlinks=False)):
                attributes.append((key, os.getxattr(at, key, follow_symlinks=False)))
            what: Any = None
            first: Optional[bytes] = None
            if kind != stat.S_IFDIR:
                first = groups.setdefault((found.st_dev, found.st_ino), path)
            if kind == stat.S_IFREG:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
                with open(fd, "rb") as stream:
                    what = hashlib.sha256(stream.read()).hexdigest()
            elif kind == stat.S_IFLNK:
                what = os.readlink(name, dir_fd=dir_fd)
            elif kind in (stat.S_IFBLK, stat.S_IFCHR):
                what = found.st_rdev
            mode = found.st_mode if kind != stat.S_IFLNK else 0
            mtime = found.st_mtime_ns if times or kind != stat.S_IFDIR else 0
            result[path] = (kind, mode, found.st_uid, found.st_gid, mtime, what, first, tuple(attributes), *((found.st_ino,) if inodes else ()))
            if kind == stat.S_IFDIR:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
                try:
                    visit(fd, path + b"/")
                finally:
                    os.close(fd)

    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        visit(top, b"")
    finally:
        os.close(top)
    return result


def differences(one: Dict[bytes, Tuple[Any, ...]], other: Dict[bytes, Tuple[Any, ...]]) -> List[Tuple[bytes, Any, Any]]:
    return [(path, one.get(path), other.get(path)) for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)]


def rsync_differences(one: Path, other: Path) -> str:
    """What rsync would have to do to make ``other`` like ``one``."""
    argv = ["rsync", "-aHAXni", "--checksum", "--delete", "--modify-window=-1", "%s/" % one, "%s/" % other]
    done = subprocess.run(argv, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def assert_same(one: Path, other: Path, *, rsync: bool = True) -> None:
    assert differences(fingerprint(one), fingerprint(other)) == []
    if rsync:
        assert rsync_differences(one, other) == "", rsync_differences(one, other)


def error_of(function: Callable[..., Any], *args: Any, **options: Any) -> BackupError:
    """The error that a call ends with; it leads out: it says what, where it was found, and what to do next."""
    with pytest.raises(BackupError) as caught:
        function(*args, **options)
    error = caught.value
    assert error.message and error.next, (error.message, error.to_dict())
    assert set(error.to_dict()) == {"kind", "field", "found", "allowed", "next"}
    return error


# ---- other processes -----------------------------------------------------------------------------------------------------


def in_child(function: Callable[[], T], *, uid: Optional[int] = None) -> T:
    """Call ``function`` in a forked process, as another user where that is asked for; its result, or its exception."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            try:
                answer: Tuple[bool, Any] = (True, function())
            except BaseException as error:  # noqa: BLE001 - raised again by the parent
                error.__traceback__ = None
                answer = (False, (error, traceback.format_exc()))
            try:
                data = pickle.dumps(answer)
            except Exception:  # noqa: BLE001 - anything at all may be in it
                data = pickle.dumps((False, (RuntimeError(repr(answer)), "")))
            with open(write_fd, "wb") as stream:
                stream.write(data)
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    assert data, "the child died"
    is_done, value = pickle.loads(data)
    if is_done:
        return value  # type: ignore[no-any-return]
    error, trace = value
    print(trace, file=sys.stderr)
    raise error


def killed_at(function: Callable[[], Any], delay: float) -> bool:
    """Run ``function`` in a process group of its own and kill all of it after ``delay`` seconds; whether it was still at work."""
    ready, started = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 2)
        try:
            os.close(ready)
            os.close(started)  # a fork takes its time where coverage is measured
            function()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - only the exit code counts
            os._exit(1)
    os.close(started)
    with open(ready, "rb") as stream:
        stream.read()
    time.sleep(delay)
    os.killpg(pid, signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


class mounted:
    """A small file system of its own."""

    def __init__(self, kind: str, options: str) -> None:
        self.kind, self.options = kind, options

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="openclaw-backup-test-"))
        subprocess.run(["mount", "-t", self.kind, "-o", self.options, self.kind, str(self.path)], check=True)
        return self.path

    def __exit__(self, *_error: object) -> None:
        subprocess.run(["umount", str(self.path)], check=True)
        self.path.rmdir()


class formatted:
    """A new file system of ``kind`` in a file in memory, mounted."""

    def __init__(self, kind: str, *make: str, size: str = "400M", options: str = "loop") -> None:
        self.kind, self.make, self.size, self.options = kind, make, size, options

    def __enter__(self) -> Path:
        self.image = Path(tempfile.mkdtemp(prefix="openclaw-backup-test-", dir="/dev/shm")) / "image"
        subprocess.run(["truncate", "-s", self.size, str(self.image)], check=True)
        subprocess.run(["mkfs.%s" % self.kind, "-q", *self.make, str(self.image)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.path = self.image.parent / "mounted"
        self.path.mkdir()
        subprocess.run(["mount", "-t", self.kind, "-o", self.options, str(self.image), str(self.path)], check=True)
        self.path.chmod(0o755)
        self.image.parent.chmod(0o755)
        return self.path

    def __exit__(self, *_error: object) -> None:
        # Lazily: an error that a test looks at keeps what its frames had open.
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)
        shutil.rmtree(self.image.parent)


def give(path: Path, uid: int) -> None:
    """Make everything below ``path`` belong to ``uid``."""
    subprocess.run(["chown", "-hR", "%d:%d" % (uid, uid), str(path)], check=True)


def remove(path: Path) -> None:
    """Delete a directory whose owner forbade himself to write."""
    subprocess.run(["chmod", "-R", "u+rwX", str(path)], check=True)
    shutil.rmtree(path)


def can_run(*programs: str) -> bool:
    return all(shutil.which(program) for program in programs)
