# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``tree`` target of a vault on another machine: everything is asked of the vault's own side, ``agent/conversation.py``."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...errors import RefusedError, TargetError
from ...manifest.document import Manifest, search_lines
from ...manifest.entry import Entry
from ...manifest.walk import Descent
from ...observe.audit import rfc3339, seconds_of
from ...version import VERSION
from ..contract import Damage, Heartbeat, Receipt, Session, Size, Snapshot, Target, Tell, Verification, check_manifest, check_state, is_time
from .connection import Address, Connection
from .session import RemoteSession
from .stream import receive_files
from .wire import PROTOCOL

# The vault tells of its work meanwhile, but writing a large snapshot to its disk is one long call.
_PATIENCE = 3600.0
# A manifest of ten million paths, packed.
MAX_MANIFEST = 1 << 30
_MAX_PATHS = 1 << 28
# Snapshots bear the vault's time; a host whose own is further off than this is told (s).
_SKEW = 300
# What a restore holds twice for a moment.
_PORTION = 256 << 20


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
        return str(self._facts["storage"])

    def latest(self) -> Optional[Snapshot]:
        item = self._ask("latest")["snapshot"]
        return None if item is None else read_snapshot(item)

    def list(self) -> List[Snapshot]:
        count = self._ask("list")["count"]
        return [read_snapshot(item) for item in self._items(count)]

    def _items(self, count: Any) -> List[Any]:
        with self.connection.explained():
            return [self.connection.wire.receive() for _number in range(count if type(count) is int else 0)]

    def manifest(self, snapshot: Snapshot) -> Manifest:
        manifest = Manifest.from_bytes(self._packed(snapshot))
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

    def begin(self, tx: str, parent: Optional[str], tags: Sequence[str] = ()) -> Session:
        self._manifests.clear()
        answer = self._ask("begin", tx=tx, parent=parent, tags=list(tags))
        damaged = {os.fsencode(path) for path in answer["damaged"]}
        return RemoteSession(self.connection, self.policy, tx, self.storage, damaged, parent_digest=answer["parent_digest"], is_resumed=bool(answer["resumed"]))

    def sweep(self) -> None:
        self._ask("sweep")

    def portions(self, entries: Sequence[Entry]) -> List[Sequence[Entry]]:
        found: List[Sequence[Entry]] = []
        start = size = 0
        for number, entry in enumerate(entries):
            if size and size + entry.size > _PORTION:
                found.append(entries[start:number])
                start, size = number, 0
            size += entry.size
        return [*found, entries[start:]]

    @contextmanager
    def fetch(self, snapshot: Snapshot, entries: Sequence[Entry], scratch: bytes) -> Iterator[Descent]:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="fetch-", dir=os.fsdecode(scratch)) as place, Descent(os.fsencode(place)) as below:
            if entries:
                self._ask("fetch", [b"\0".join(entry.path for entry in entries)], id=snapshot.id)
                with self.connection.explained():
                    receive_files(self.connection.wire, below, entries)
            yield below

    def verify(
        self, snapshot: Snapshot, *, depth: str, part: Optional[Tuple[int, int]] = None, record: bool = True, tell: Optional[Tell] = None
    ) -> Verification:
        answer = self._ask("verify", None, tell, id=snapshot.id, depth=depth, part=list(part) if part else None, record=record)
        with self.connection.explained():
            paths = b"".join(self.connection.wire.receive_stream(_MAX_PATHS)).split(b"\0")[:-1]
        damaged, missing = answer["damaged"], answer["missing"]
        reasons = answer["reasons"]
        return Verification(
            answer["checked"],
            answer["hashed_files"],
            answer["hashed_bytes"],
            tuple(Damage(path, str(reason)) for path, reason in zip(paths[:damaged], reasons)),
            tuple(paths[damaged : damaged + missing]),
            tuple(paths[damaged + missing :]),
            str(answer["unrecorded"]),
        )

    def sizes(self, snapshots: Sequence[Snapshot]) -> List[Size]:
        return [Size(*item) for item in self._ask("sizes", ids=[snapshot.id for snapshot in snapshots])["sizes"]]

    def weigh(self, snapshots: Sequence[Snapshot]) -> int:
        weight = self._ask("weigh", ids=[snapshot.id for snapshot in snapshots])["bytes"]
        return int(weight)

    def remove(self, choose: Callable[[List[Snapshot]], Mapping[str, str]], tell: Optional[Tell] = None) -> int:
        raise self._for_the_vault("prune", "Snapshots are removed")

    def hold(self, snapshot: Snapshot, reason: Optional[str]) -> Optional[Dict[str, Any]]:
        raise self._for_the_vault("hold" if reason is not None else "release", "Holds are changed")

    def tag(self, snapshot: Snapshot, add: Sequence[str], remove: Sequence[str]) -> List[str]:
        if remove:
            raise self._for_the_vault("tag", "Tags are removed")
        return [str(name) for name in self._ask("tag", id=snapshot.id, add=list(add))["tags"]]

    def heartbeat(self, snapshot_id: str, digest: str) -> Heartbeat:
        answer = self._ask("heartbeat", id=snapshot_id, digest=digest)
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
            next="run `openclaw-backup %s` on the vault %s" % (verb, self.address.to_text()),
        )


def read_snapshot(item: Any) -> Snapshot:
    """A snapshot as the vault tells of it."""
    if type(item) is not dict or type(item.get("state")) is not dict:
        item = {"receipt": None, "state": {}}
    state = check_state(item["state"], "The vault's answer")
    receipt = Receipt.from_dict(item["receipt"], "The vault's answer")
    return Snapshot(receipt, state.get("verified"), state.get("damaged"), state.get("held"), state.get("unchanged_until"), tuple(state.get("tags", ())))


def write_snapshot(snapshot: Snapshot) -> Dict[str, Any]:
    """What ``read_snapshot`` reads."""
    names = ("verified", "damaged", "held", "unchanged_until")
    state = {name: getattr(snapshot, name) for name in names if getattr(snapshot, name) is not None}
    return {"receipt": snapshot.receipt.to_dict(), "state": {**state, "tags": list(snapshot.tags)}}
