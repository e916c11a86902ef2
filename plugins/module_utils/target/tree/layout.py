# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout of a vault on disk: names, ids, ``format.json``, receipts and state files."""

from __future__ import annotations

import fcntl
import json
import os
import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set

from ...errors import BackupError, IntegrityError, TargetError, printable
from ...manifest.walk import CREATE_FLAGS, DIRECTORY_FLAGS
from ...observe.audit import open_locked, open_regular, rfc3339
from ..contract import Receipt, Snapshot, check_state
from ..sources import NATIVE, PORTABLE

FORMAT = 1
FORMAT_FILE = b"format.json"
_MAX_DAMAGED = 10000
_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{8}")


class History(NamedTuple):
    """The paths of one policy of one host in a vault."""

    base: bytes

    @property
    def snapshots(self) -> bytes:
        """Committed snapshots, one directory each."""
        return self.base + b"/snapshots"

    @property
    def incoming(self) -> bytes:
        """Open sessions; nothing in it counts."""
        return self.base + b"/incoming"

    @property
    def state(self) -> bytes:
        """What may change about a snapshot, one JSON file each."""
        return self.base + b"/state"

    @property
    def trash(self) -> bytes:
        """Snapshots on their way out."""
        return self.base + b"/trash"

    @property
    def audit(self) -> bytes:
        """The hash-chained log of this history."""
        return self.base + b"/audit.jsonl"

    @property
    def lock(self) -> bytes:
        """Shared by sessions, restores and verifications; exclusive for a prune."""
        return self.base + b"/lock"

    @property
    def prune_lock(self) -> bytes:
        """Held by the one prune, also while it deletes."""
        return self.base + b"/prune.lock"

    @property
    def writer_lock(self) -> bytes:
        """Held by the one open session."""
        return self.base + b"/writer.lock"

    def snapshot(self, snapshot_id: str) -> bytes:
        """The directory of a committed snapshot."""
        return self.snapshots + b"/" + snapshot_id.encode("ascii")

    def manifest(self, snapshot_id: str) -> bytes:
        """The manifest of a committed snapshot."""
        return self.snapshot(snapshot_id) + b"/manifest.jsonl.gz"


def is_snapshot_id(text: str) -> bool:
    """Whether ``text`` has the form of an id."""
    return _ID.fullmatch(text) is not None


def make_id(created: str, digest: str) -> str:
    """``20261120T091500.123Z-<first 8 of digest>``."""
    return "%s-%s" % (created.replace("-", "").replace(":", ""), digest[:8])


def read_format(vault: bytes) -> Optional[str]:
    """The vault's storage, ``native`` or ``portable``; None where nothing is there yet.

    ``TargetError`` (kind ``not_a_vault`` or ``vault_format``) where the directory is something else.
    """
    try:
        text = _read(vault + b"/" + FORMAT_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return _absent_or_foreign(vault)
    try:
        item = json.loads(text)
        number = item["format"]
        if type(number) is int and FORMAT < number < 1 << 31:
            raise _newer(vault, number)  # of which nothing else is known, not even that it has a layout
        layout, storage = item["layout"], item["storage"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TargetError(
            "%s/format.json is damaged: %s" % (printable(vault), error),
            kind="vault_format",
            field="format.json",
            next='restore it from a copy; a vault of this version says {"format":1,"layout":"tree","storage":"native" or "portable"}',
        ) from error
    if layout != "tree" or number != FORMAT or storage not in (NATIVE, PORTABLE):
        raise TargetError(
            "The vault %s has layout %s, format %s, storage %s" % (printable(vault), layout, number, storage),
            kind="vault_format",
            field="format.json",
            found="%s/%s/%s" % (layout, number, storage),
            allowed="layout tree, format %d, storage native or portable" % FORMAT,
            next="use the version of openclaw-backup that made it, or another directory",
        )
    return str(storage)


def _newer(vault: bytes, number: int) -> TargetError:
    return TargetError(
        "The vault %s has format %d, which is newer than this version of openclaw-backup" % (printable(vault), number),
        kind="vault_format",
        field="format.json",
        found="format %d" % number,
        allowed="format %d" % FORMAT,
        next="use the version of openclaw-backup that made it, or a newer one",
    )


def _absent_or_foreign(vault: bytes) -> Optional[str]:
    try:
        # A run that was killed while it made the vault leaves the one name, a new file system the other.
        names = [name for name in os.listdir(vault) if name not in (b"lost+found", FORMAT_FILE + b".new")]
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise TargetError(
            "The target %s is not a directory" % printable(vault), kind="not_a_vault", field="target", found=vault, next="name another directory"
        ) from error
    except OSError as error:
        raise TargetError(
            "The target %s cannot be read: %s" % (printable(vault), error.strerror), field="target", found=vault, next="run as its owner"
        ) from error
    if names:
        raise TargetError(
            "%s is not a vault: it holds other files and no format.json" % printable(vault),
            kind="not_a_vault",
            field="target",
            found=sorted(names)[0],
            allowed="an empty or missing directory, or a vault",
            next="name another directory, or check that the vault's file system is mounted",
        )
    return None


def create_vault(vault: bytes, storage: str) -> None:
    """Make an empty vault, private to its owner, where nobody has just made it."""
    try:
        make_private(vault)
        turn = os.open(vault, DIRECTORY_FLAGS)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if read_format(vault) is None:
                write_json(vault + b"/" + FORMAT_FILE, {"format": FORMAT, "layout": "tree", "storage": storage})
        finally:
            os.close(turn)
    except OSError as error:
        raise TargetError(
            "The vault %s cannot be made: %s" % (printable(vault), error.strerror), field="target", found=vault, next="check the path and its owner"
        ) from error


def make_private(path: bytes) -> None:
    """Make a directory and those above it where they are missing, each 0700: names alone can tell too much."""
    if not os.path.isdir(os.path.dirname(path)):
        make_private(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def write_json(path: bytes, item: Mapping[str, Any]) -> None:
    """Replace a small JSON file in one step, durable, 0600. Writers of one file take turns by a lock of their own."""
    write_file(path, json.dumps(item, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n")


def write_file(path: bytes, data: bytes) -> None:
    """Replace a file in one step, durable, 0600."""
    temporary = path + b".new"
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    with open(os.open(temporary, CREATE_FLAGS, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)


def read_json(path: bytes) -> Any:
    """A JSON file, or None where it is missing. ``IntegrityError`` where it is damaged."""
    try:
        text = _read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            "%s is damaged: %s" % (printable(path), error),
            kind="state",
            found=str(error),
            next="restore it from a copy; without one move it away, and adopt or verify what it told of",
        ) from error


def _read(path: bytes) -> bytes:
    """The bytes of a regular file. ``FileNotFoundError`` and ``NotADirectoryError`` where there is none, else ``BackupError``."""
    try:
        fd = open_regular(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise TargetError("%s cannot be read: %s" % (printable(path), error.strerror), found=path, next="run as its owner") from error
    with open(fd, "rb") as stream:
        return stream.read()


def snapshot_ids(history: History) -> List[str]:
    """The ids of all committed snapshots. A foreign name among them is an ``IntegrityError`` (kind ``foreign``)."""
    try:
        with os.scandir(history.snapshots) as names:
            found = [(os.fsdecode(item.name), item.is_dir(follow_symlinks=False)) for item in names]
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise _foreign(history.snapshots) from error
    except OSError as error:
        raise TargetError("The history %s cannot be read: %s" % (printable(history.base), error.strerror), next="run as its owner") from error
    for name, is_directory in found:
        if not is_directory or not is_snapshot_id(name):
            raise _foreign(history.snapshots + b"/" + os.fsencode(name))
    return [name for name, _is_directory in found]


def _foreign(path: bytes) -> BackupError:
    return IntegrityError(
        "%s does not belong into a history" % printable(path),
        kind="foreign",
        field="history",
        found=path,
        allowed="snapshot directories only",
        next="find out who put it there and move it away",
    )


def read_snapshot(history: History, snapshot_id: str) -> Snapshot:
    """A committed snapshot with its state. ``IntegrityError`` where its receipt is missing or not its own."""
    path = history.snapshot(snapshot_id) + b"/receipt.json"
    item = read_json(path)
    if item is None:
        raise IntegrityError("The snapshot %s has no receipt" % snapshot_id, kind="receipt", found=path, next="verify the vault, restore it from a copy")
    receipt = Receipt.from_dict(item, printable(path))
    owner = "/".join(map(os.fsdecode, history.base.split(b"/")[-2:]))
    if owner != "%s/%s" % (receipt.host, receipt.policy):
        raise IntegrityError(
            "The snapshot %s is one of %s/%s and lies in the history of %s" % (snapshot_id, receipt.host, receipt.policy, owner),
            kind="foreign",
            field="host",
            found="%s/%s" % (receipt.host, receipt.policy),
            allowed=owner,
            next="find out who put it there and move it away",
        )
    if receipt.id != snapshot_id or make_id(receipt.created, receipt.digest) != snapshot_id:
        raise IntegrityError(
            "%s speaks of another snapshot than %s" % (printable(path), snapshot_id),
            kind="receipt",
            field="id",
            found=receipt.id,
            allowed=snapshot_id,
            next="verify the vault, restore it from a copy",
        )
    state = _read_state(history, snapshot_id)
    tags, later = tuple(state.get("tags", ())), (state.get("drilled"), state.get("copied"))
    return Snapshot(receipt, state.get("verified"), state.get("damaged"), state.get("held"), state.get("unchanged_until"), tags, *later)


def _read_state(history: History, snapshot_id: str) -> Dict[str, Any]:
    path = state_path(history, snapshot_id)
    state = read_json(path)
    return {} if state is None else check_state(state, printable(path))


def damaged_paths(snapshot: Snapshot) -> Set[bytes]:
    """The paths that a verification found damaged or missing in it."""
    return {os.fsencode(path) for path in (snapshot.damaged or {}).get("paths", ())}


def damage_of(paths: Iterable[bytes], count: int, now: float) -> Dict[str, Any]:
    """What is kept of damage in a snapshot: how many paths are wrong, and so many of them that the next run can send them again. A longer list is found
    again by the next verification."""
    return {"at": rfc3339(now), "count": count, "paths": [os.fsdecode(path) for path in list(paths)[:_MAX_DAMAGED]]}


def state_path(history: History, snapshot_id: str) -> bytes:
    """The file of what may change about a snapshot."""
    return history.state + b"/" + snapshot_id.encode("ascii") + b".json"


def forget_states(history: History) -> None:
    """Remove what is known of snapshots that are gone. A verification that ends just then may leave one for the next time."""
    if not os.path.isdir(history.state):
        return
    with open_locked(history.state + b"/lock"):
        for name in map(os.fsdecode, os.listdir(history.state)):
            snapshot_id = name[: -len(".json")]
            if name.endswith(".json") and is_snapshot_id(snapshot_id) and not os.path.isdir(history.snapshot(snapshot_id)):
                os.unlink(state_path(history, snapshot_id))


def update_state(history: History, snapshot_id: str, changes: Mapping[str, Any]) -> None:
    """Change some keys of a snapshot's state. ``OSError`` where the vault cannot be written."""
    _change_state(history, snapshot_id, lambda state: changes)


def change_tags(history: History, snapshot_id: str, add: Sequence[str], remove: Sequence[str]) -> List[str]:
    """Change the tags of a snapshot; those that it bears then, sorted. ``OSError`` where the vault cannot be written."""
    state = _change_state(history, snapshot_id, lambda state: {"tags": sorted({*state.get("tags", ()), *add}.difference(remove))})
    tags: List[str] = state["tags"]
    return tags


def _change_state(history: History, snapshot_id: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Dict[str, Any]:
    make_private(history.state)
    with open_locked(history.state + b"/lock"):  # a heartbeat must not undo what a verification says at the same time
        before = _read_state(history, snapshot_id)
        after = {**before, **change(before)}
        write_json(state_path(history, snapshot_id), after)
    return after
