# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill for ransomware: what came back is made the source of a small vault beside it, encrypted in place, and backed up again.

Nothing outside of the scratch is touched, and the policy's own thresholds are what it is judged by.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Callable, Dict, Iterator, Mapping, Optional

from ..errors import BackupError, counted
from ..manifest.document import Manifest
from ..manifest.entry import FILE
from ..manifest.walk import Descent, remove_tree, walk
from ..observe.progress import Progress
from ..policy.model import Policy
from ..target.anomaly import FEW, LEAST
from .backup import BackupResult, backup
from .locate import open_target
from .probes import Check
from .prune import prune
from .restore import RestoreRequest, restore

# What came back, the first snapshot of it, and the second one, in which everything is other content.
TIMES = 3
CHECKS = (("anomaly", "anomaly"), ("hold", "anomaly"), ("prune", "anomaly"), ("point before", "restore"))
_PIECE = 1 << 20


def too_few(policy: Policy, manifest: Manifest) -> Optional[str]:
    """Why no change of these files could ever be an anomaly; None where one could."""
    files = [entry for entry in manifest.entries if entry.type == FILE and entry.size and not entry.is_group_follower]
    large = sum(entry.size >= LEAST for entry in files)
    if large >= FEW or (policy.anomaly.changed_percent and len(files) >= FEW):
        return None
    return "it holds %s of %d bytes or more, and fewer than %d are never an anomaly: nothing was rehearsed" % (counted(large, "file"), LEAST, FEW)


def rehearse(policy: Policy, place: bytes, progress: Progress) -> Iterator[Check]:
    """Do to what lies in ``place``/root what ransomware does, and get it back there from the snapshot before; what was seen, step by step."""
    root = place + b"/root"
    own = Policy.from_mapping(
        {
            "name": "ransomware",
            "sources": [os.fsdecode(root)],
            "target": os.fsdecode(place + b"/vault"),
            "sqlite": "off",
            "anomaly": dict(vars(policy.anomaly)),
            "retention": {"keep_last": 1, "protect": "0s"},
        },
        default_host=policy.host,
    )
    state = os.fsdecode(place + b"/state")
    target = open_target(own.target, own.host, own.name)

    def back_up() -> BackupResult:
        progress.stage("back up")
        return backup(own, state_directory=state)

    def notice() -> "tuple[bool, str]":
        files = _encrypt(root)
        told = back_up()
        if told.anomaly is not None and told.rc == 3:
            return True, told.anomaly
        return False, "%s were encrypted, and no signal was raised (%s)" % (
            counted(files, "file"),
            ", ".join("anomaly.%s: %d" % item for item in vars(policy.anomaly).items()),
        )

    def is_held() -> "tuple[bool, str]":
        held = next((snapshot.held for snapshot in target.list() if snapshot.id == first), None)
        ok = held is not None and held.get("by") == "anomaly"
        return ok, "the snapshot before is held" if ok else "the snapshot before is not held"

    def survives() -> "tuple[bool, str]":
        progress.stage("prune")
        prune(own, state_directory=state)
        ok = any(snapshot.id == first for snapshot in target.list())
        return ok, "a prune by keep_last 1 has left it" if ok else "a prune by keep_last 1 has removed the snapshot before"

    def comes_back() -> "tuple[bool, str]":
        _clear(place, b"root")
        before = place + b"/before"
        done = restore(own, RestoreRequest(snapshot=first, dest=os.fsdecode(before)), state_directory=state, progress=progress)
        failure = done.failure()
        os.rename(before + root, root)
        _close_again(root, closed)
        return failure is None and done.verified, failure.message if failure is not None else "%s restored from it" % counted(done.files_restored, "file")

    closed = _open_up(root)
    first = str(back_up().snapshot_id)
    for (name, kind), step in zip(CHECKS, (notice, is_held, survives, comes_back)):
        yield _checked(name, kind, step)


def _checked(name: str, kind: str, step: "Callable[[], tuple[bool, str]]") -> Check:
    began = time.monotonic()
    try:
        ok, reason = step()
    except BackupError as error:
        ok, reason = False, error.message
    return Check(name, kind, ok, reason, time.monotonic() - began)


def _encrypt(place: bytes) -> int:
    """Write random bytes over all files below ``place``, each in its place; how many."""
    files = 0
    with Descent(place) as root:
        for path, listing in walk(root):
            at = root.directory(path)
            for item in listing:
                if stat.S_ISREG(item.stat.st_mode) and item.stat.st_size:
                    files += 1
                    with open(os.open(item.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at), "wb") as stream:
                        for start in range(0, item.stat.st_size, _PIECE):
                            stream.write(os.urandom(min(_PIECE, item.stat.st_size - start)))
    return files


def _open_up(place: bytes) -> Dict[bytes, int]:
    """Open to an ordinary user what came back closed to its owner, which he now is; the modes that it had, by path."""
    closed: Dict[bytes, int] = {}
    if os.geteuid() == 0:
        return closed
    with Descent(place) as root:
        for path, listing in walk(root):
            at = root.directory(path)
            for item in listing:
                mode = stat.S_IMODE(item.stat.st_mode)
                needed = 0o700 if stat.S_ISDIR(item.stat.st_mode) else 0o600 if stat.S_ISREG(item.stat.st_mode) else 0
                if needed & ~mode:
                    os.chmod(item.name, mode | needed, dir_fd=at)
                    closed[path + b"/" + item.name if path else item.name] = mode
    return closed


def _close_again(place: bytes, closed: Mapping[bytes, int]) -> None:
    with Descent(place) as root:
        for path in sorted(closed, reverse=True):  # what is in a directory first
            at, name = root.parent(path)
            os.chmod(name, closed[path], dir_fd=at)


def _clear(place: bytes, name: bytes) -> None:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, name)
    finally:
        os.close(fd)
