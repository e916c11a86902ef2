# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``tree`` target of a vault on another machine: everything is asked of the vault's own side, ``agent/conversation.py``."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...errors import RefusedError, TargetError, printable
from ...manifest.document import Manifest, search_lines
from ...manifest.entry import Entry
from ...manifest.walk import Descent
from ...observe.audit import is_time, rfc3339, seconds_of
from ...version import VERSION
from ..contract import Damage, Heartbeat, Receipt, Session, Size, Snapshot, Target, Tell, Thresholds, Verification, check_manifest, check_state
from ..portions import portions_of
from ..sources import NATIVE, PORTABLE
from ..tree.layout import make_id
from .connection import Address, Connection
from .session import RemoteSession
from .stream import receive_files
from .wire import PROTOCOL, foul

# The vault tells of its work meanwhile, but writing a large snapshot to its disk is one long call.
_PATIENCE = 3600.0
# A manifest of ten million paths, packed.
MAX_MANIFEST = 1 << 30
_MAX_SNAPSHOTS = 1_000_000
_SHOWN = 100
# Snapshots bear the vault's time; a host whose own is further off than this is told (s).
_SKEW = 300


class RemoteTarget(Target):
    """The history of one policy of one host in a vault that is reached over SSH. The connection is made when it is first needed, and kept."""

    def __init__(self, url: str, address: Address, host: str, policy: str, storage: Optional[str], clone: str) -> None:
        self.url = url
        self.address = address
        self.host = host
        self.policy = policy
        self._wish = storage
        self._clone = clone
        self._connection: Optional[Connection] = None
        self._expected: Optional[Connection] = None
        self._facts: Dict[str, Any] = {}
        self._heard = 0.0  # when the facts came (s since the epoch)
        self._manifests: Dict[str, bytes] = {}

    @property
    def connection(self) -> Connection:
        """The open conversation."""
        if self._connection is None or self._connection.wire.is_closed:
            self.expect()
            connection, self._expected = self._expected, None
            assert connection is not None
            try:
                connection.greet(patience=_PATIENCE)
                hello = {"do": "hello", "protocol": PROTOCOL, "engine": VERSION, "host": self.host, "policy": self.policy}
                self._facts = connection.ask({**hello, "storage": self._wish, "clone": self._clone})
                self._heard = time.time()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def expect(self) -> None:
        if self._expected is None and (self._connection is None or self._connection.wire.is_closed):
            self._expected = Connection(self.address)

    def remarks(self) -> List[str]:
        said, heard = self._facts.get("time"), self._heard
        if not is_time(said) or abs(seconds_of(str(said)) - heard) <= _SKEW:
            return []
        return ["the clocks of vault and host are %d s apart: the vault's says %s, this host's %s" % (abs(seconds_of(str(said)) - heard), said, rfc3339(heard))]

    def close(self) -> None:
        """End the conversation, if there is one."""
        for connection in (self._connection, self._expected):
            if connection is not None:
                connection.close()
        self._expected = None

    def _ask(self, do: str, stream: Optional[Sequence[bytes]] = None, tell: Optional[Tell] = None, **arguments: Any) -> Dict[str, Any]:
        connection = self.connection
        try:
            return connection.ask({"do": do, **arguments}, stream, tell)
        except TargetError as error:
            if error.kind in ("connection", "unreachable", "protocol"):
                connection.close()
            raise

    @property
    def storage(self) -> str:
        """``native`` or ``portable``, as the vault says."""
        assert self.connection
        if self._facts.get("storage") not in (NATIVE, PORTABLE):
            raise foul("a storage that is none")
        return str(self._facts["storage"])

    def latest(self) -> Optional[Snapshot]:
        item = self._ask("latest").get("snapshot")
        return None if item is None else self._read_snapshot(item)

    def list(self) -> List[Snapshot]:
        count = self._ask("list").get("count")
        if type(count) is not int or not 0 <= count <= _MAX_SNAPSHOTS:
            raise foul("a history of %s snapshots" % printable(str(count))[:40])
        with self.connection.explained():
            items = [self.connection.wire.receive() for _number in range(count)]
        found = [self._read_snapshot(item) for item in items]
        if any(newer.receipt.sequence <= older.receipt.sequence for newer, older in zip(found, found[1:])):
            raise foul("snapshots that are not in order")
        return found

    def _read_snapshot(self, item: Any) -> Snapshot:
        """A snapshot of this history, as the vault tells of it."""
        if type(item) is not dict or type(item.get("state")) is not dict:
            raise foul("a snapshot that is none")
        state = check_state(item["state"], "The vault's answer")
        receipt = Receipt.from_dict(item.get("receipt"), "The vault's answer")
        if (receipt.host, receipt.policy) != (self.host, self.policy) or receipt.id != make_id(receipt.created, receipt.digest) or receipt.sequence < 1:
            raise foul("a receipt of another snapshot or history")
        names = tuple(sorted(state.get("tags", ())))
        later = (state.get("drilled"), state.get("copied"))
        return Snapshot(receipt, state.get("verified"), state.get("damaged"), state.get("held"), state.get("unchanged_until"), names, *later)

    def manifest(self, snapshot: Snapshot) -> Manifest:
        manifest = Manifest.from_bytes(self._packed(snapshot), entries=snapshot.receipt.entries)
        check_manifest(manifest, snapshot.receipt, "The manifest that the vault sent")
        return manifest

    def search(self, snapshot: Snapshot, fragment: bytes, *, ignore_case: bool = False) -> List[bytes]:
        return search_lines(self._packed(snapshot), snapshot.receipt.digest, fragment, ignore_case=ignore_case)

    def _packed(self, snapshot: Snapshot) -> bytes:
        """A manifest as the vault keeps it; asked for twice, sent once."""
        if snapshot.id not in self._manifests:
            self._ask("manifest", id=snapshot.id)
            with self.connection.explained():
                data = b"".join(self.connection.wire.receive_stream(MAX_MANIFEST))
            self._manifests = {snapshot.id: data}
        return self._manifests[snapshot.id]

    def begin(self, tx: str, parent: Optional[str], tags: Sequence[str] = (), thresholds: Thresholds = Thresholds()) -> Session:
        self._manifests.clear()
        answer = self._ask("begin", tx=tx, parent=parent, tags=list(tags), anomaly=thresholds._asdict())
        damaged = set(self.connection.hear_paths())
        digest = answer.get("parent_digest")
        if digest is not None and type(digest) is not str:
            raise foul("a parent's digest that is none")
        return RemoteSession(self.connection, self.policy, tx, self.storage, damaged, parent_digest=digest, is_resumed=answer.get("resumed") is True)

    def sweep(self) -> None:
        self._ask("sweep")

    def portions(self, snapshot: Snapshot, entries: Sequence[Entry]) -> List[Sequence[Entry]]:
        return portions_of([[entry] for entry in entries])

    @contextmanager
    def fetch(self, snapshot: Snapshot, entries: Sequence[Entry], scratch: bytes) -> Iterator[Descent]:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="fetch-", dir=os.fsdecode(scratch)) as place, Descent(os.fsencode(place)) as below:
            if entries:
                self._ask("fetch", [b"\0".join(entry.path for entry in entries)], id=snapshot.id)
                with self.connection.explained():
                    receive_files(self.connection.wire, below, entries, pace=self.pace)
            yield below

    def verify(
        self, snapshot: Snapshot, *, depth: str, part: Optional[Tuple[int, int]] = None, record: bool = True, tell: Optional[Tell] = None
    ) -> Verification:
        answer = self._ask("verify", None, tell, id=snapshot.id, depth=depth, part=list(part) if part else None, record=record)
        words = self.connection.hear_paths()
        with _typed():
            damaged, missing = int(answer["damaged"]), int(answer["missing"])
            if damaged < 0 or missing < 0 or 2 * damaged + missing > len(words):
                raise ValueError("counts that do not fit")
            paths, reasons = words[: len(words) - damaged], words[len(words) - damaged :]
            return Verification(
                int(answer["checked"]),
                int(answer["hashed_files"]),
                int(answer["hashed_bytes"]),
                tuple(Damage(path, printable(reason)) for path, reason in zip(paths, reasons)),
                tuple(paths[damaged : damaged + missing]),
                tuple(paths[damaged + missing :]),
                str(answer["unrecorded"]),
            )

    def sizes(self, snapshots: Sequence[Snapshot]) -> List[Size]:
        answer = self._ask("sizes", ids=[snapshot.id for snapshot in snapshots])
        with _typed():
            sizes = [Size(*map(int, item)) for item in answer["sizes"]]
            if len(sizes) != len(snapshots):
                raise ValueError("sizes of other snapshots")
            return sizes

    def weigh(self, snapshots: Sequence[Snapshot]) -> int:
        answer = self._ask("weigh", ids=[snapshot.id for snapshot in snapshots])
        with _typed():
            return int(answer["bytes"])

    def remove(self, choose: Callable[[List[Snapshot]], Mapping[str, str]], tell: Optional[Tell] = None) -> int:
        raise self._for_the_vault("prune", "Snapshots are removed")

    def hold(self, snapshot: Snapshot, reason: Optional[str]) -> Optional[Dict[str, Any]]:
        raise self._for_the_vault("hold" if reason is not None else "release", "Holds are changed")

    def tag(self, snapshot: Snapshot, add: Sequence[str], remove: Sequence[str]) -> List[str]:
        if remove:
            raise self._for_the_vault("tag", "Tags are removed")
        answer = self._ask("tag", id=snapshot.id, add=list(add))
        with _typed():
            return [str(name) for name in answer["tags"]]

    def heartbeat(self, snapshot_id: str, digest: str) -> Heartbeat:
        answer = self._ask("heartbeat", id=snapshot_id, digest=digest)
        with _typed():
            return Heartbeat(answer["known"] is True, tuple(os.fsencode(path) for path in answer["need"]))

    def bury(self) -> None:
        self._ask("bury")
        self.close()

    def _for_the_vault(self, verb: str, what: str) -> RefusedError:
        return RefusedError(
            "%s on the vault alone: a host can destroy nothing there" % what,
            kind="scope",
            field="target",
            found=self.url,
            allowed="a policy whose target is the vault's own directory, on the vault",
            next="on the vault %s, as root: openclaw-backup-vault %s %s %s" % (self.address.to_text(), verb, self.host, self.policy),
        )


@contextmanager
def _typed() -> Iterator[None]:
    """An answer of other types than it should have is not the protocol."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise foul("an answer that is none (%s)" % printable(str(error))[:80]) from error


def write_snapshot(snapshot: Snapshot) -> Dict[str, Any]:
    """What a host is told of a snapshot. Of many damaged paths some are enough: those that it is to send come apart."""
    names = ("verified", "damaged", "held", "unchanged_until", "drilled", "copied")
    state: Dict[str, Any] = {name: getattr(snapshot, name) for name in names if getattr(snapshot, name) is not None}
    if "damaged" in state:
        state["damaged"] = {**state["damaged"], "paths": state["damaged"].get("paths", [])[:_SHOWN]}
    return {"receipt": snapshot.receipt.to_dict(), "state": {**state, "tags": list(snapshot.tags)}}
