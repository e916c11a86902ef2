# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session on a vault on another machine: tell it the manifest, send what it lacks by rsync, let it prove and publish."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, AbstractSet, Iterator, List, Optional, Sequence, Tuple

from ...errors import BackupError, IntegrityError, printable
from ...manifest.content import SPARSE_FROM, size_with_holes
from ...manifest.delta import make_delta
from ...manifest.document import Manifest
from ...manifest.entry import Entry
from ...manifest.walk import Descent
from ..contract import Delivery, IncompleteError, Receipt, Sent, Session, Shortfall, Tell
from ..sources import plan_sources
from .connection import Connection
from .stream import packed, pieces_of

if TYPE_CHECKING:
    from ...transfer.plan import Item
    from ...transfer.rsync import Options

# How often a host that only sends says that it is still there (s).
_ALIVE_SECONDS = 15.0
# Where rsync's name on the vault's side begins; the vault's forced command makes a directory of it.
_HOST = b"vault:"
# Few small files go through the conversation itself, sooner than an rsync starts; of these the vault lays no basis, so that none could go in part.
_SMALL_TO = (1 << 20) - 1
_SMALL_BYTES = 16 << 20
_SMALL_FILES = 2000
# Names of 4 KiB, each byte of them escaped, fit into one message.
_BATCH = 150
_LONGEST_REASON = 1000


def digest_of_paths(entries: Sequence[Entry]) -> str:
    """What host and vault compare instead of the list of what is to be sent."""
    return hashlib.sha256(b"\0".join(entry.path for entry in entries)).hexdigest()


class RemoteSession(Session):
    """``damaged``: paths of the parent that are not to be trusted; ``parent_digest``: its manifest's, as the vault has it."""

    def __init__(
        self, connection: Connection, policy: str, tx: str, storage: str, damaged: AbstractSet[bytes], *, parent_digest: Optional[str], is_resumed: bool
    ) -> None:
        self._connection = connection
        self._place = b"%s/%s" % (policy.encode("ascii"), tx.encode("ascii"))
        self._tx = tx
        self._storage = storage
        self._damaged = damaged
        self._parent_digest = parent_digest
        self._is_resumed = is_resumed
        self._base: Optional[Manifest] = None
        self._proposed: Optional[Tuple[Manifest, List[Entry]]] = None
        self._is_open = True
        self._said_alive = time.monotonic()

    def trust_base(self, manifest: Manifest) -> None:
        if self._parent_digest is not None:
            self._base = manifest

    def wanted(self, manifest: Manifest) -> List[Entry]:
        if self._proposed is None or self._proposed[0] is not manifest:
            self._proposed = (manifest, self._propose(manifest))
        return self._proposed[1]

    def _propose(self, manifest: Manifest) -> List[Entry]:
        guess = plan_sources(self._base, manifest, self._storage, self._damaged).wanted
        expected = digest_of_paths(guess)
        base = self._base
        try:
            data = make_delta(base, manifest, same_times=base is not None and base.digest == self._parent_digest)
            answer = self._connection.ask({"do": "propose", "delta": base is not None, "expected": expected}, [data])
        except IntegrityError as error:
            if error.kind != "manifest" or base is None:
                raise
            # Its copy of the parent is not ours: it gets the whole.
            answer = self._connection.ask({"do": "propose", "delta": False, "expected": expected}, [make_delta(None, manifest, same_times=True)])
        if answer.get("same") is True:
            return guess
        paths = set(self._connection.hear_paths())
        return [entry for entry in manifest.entries if entry.path in paths]

    def send(self, delivery: Delivery, options: Options, tell: Optional[Tell] = None) -> Sent:
        from ...transfer.plan import can_carry, plan_roots

        odd: List[Entry] = []
        plain: List[Entry] = []
        staged: List[Entry] = []
        with Descent(delivery.root) as live, Descent(delivery.staging if delivery.staged else delivery.root) as copies:
            for entry in delivery.wanted:
                is_staged = entry.path in delivery.staged
                is_odd = not can_carry(entry.path, self._place) or _has_holes(copies if is_staged else live, entry)
                (odd if is_odd else staged if is_staged else plain).append(entry)
        small = [entry for entry in plain + staged if entry.size <= _SMALL_TO]
        # A limit on bytes a second is rsync's business.
        if not options.bwlimit and len(small) <= _SMALL_FILES and sum(entry.size for entry in small) <= _SMALL_BYTES:
            odd += small
            plain = [entry for entry in plain if entry.size > _SMALL_TO]
            staged = [entry for entry in staged if entry.size > _SMALL_TO]
        wire = 0
        messages: Tuple[str, ...] = ()
        for root, entries, counts in ((delivery.root, plain, delivery.counts), (delivery.staging, staged, {})):
            if entries:
                items = plan_roots([(entry.path, entry.size) for entry in entries], counts, options.streams)
                size, said = self._run_rsync(items, root, options, tell)
                wire += size
                messages += said
        self._is_resumed = False
        for root, is_staged in ((delivery.root, False), (delivery.staging, True)):
            chosen = [entry for entry in odd if (entry.path in delivery.staged) is is_staged]
            if chosen:
                wire += self._put(root, chosen, options.compress != "none", tell)
        return Sent(len(delivery.wanted), sum(entry.size for entry in delivery.wanted), wire, messages)

    def _run_rsync(self, items: Sequence[Item], root: bytes, options: Options, tell: Optional[Tell]) -> Tuple[int, Tuple[str, ...]]:
        from ...transfer.attempts import send_persistently

        def listen(files: int, size: int) -> None:
            self.say_alive()
            if tell is not None:
                tell(files, size)

        try:
            return send_persistently(
                items,
                source_root=root,
                destination=_HOST + self._place + b"/files",
                options=options,
                resume=self._is_resumed,
                basis=b"/basis" if self._base is not None else b"",
                shell=self._connection.shell(),
                tell=listen,
            )
        except BackupError as error:
            if error.kind == "transfer":
                # Where the vault itself has something to say, that is the reason.
                self._connection.ask({"do": "alive"})
            raise

    def say_alive(self) -> None:
        """A vault ends a conversation in which nothing is said for long."""
        if time.monotonic() - self._said_alive >= _ALIVE_SECONDS:
            self._said_alive = time.monotonic()
            self._connection.ask({"do": "alive"})

    def _put(self, root: bytes, entries: Sequence[Entry], is_packed: bool, tell: Optional[Tell]) -> int:
        """Send what rsync cannot carry as it is; bytes that went."""
        sent = 0
        with Descent(root) as source:
            for start in range(0, len(entries), _BATCH):
                part = entries[start : start + _BATCH]
                pieces = _Counted(packed(pieces_of(source, part)) if is_packed else pieces_of(source, part))
                self._connection.ask({"do": "put", "paths": [os.fsdecode(entry.path) for entry in part], "packed": is_packed}, pieces)
                sent += pieces.bytes
                if tell is not None:
                    tell(len(part), sum(entry.size for entry in part))
        return sent

    def commit(self, manifest: Manifest, tell: Optional[Tell] = None) -> Receipt:
        self.wanted(manifest)
        try:
            answer = self._connection.ask({"do": "commit", "digest": manifest.digest}, None, tell)
        except IntegrityError as error:
            if error.kind != IncompleteError.kind:
                raise
            words = self._connection.hear_paths()
            shortfalls = [Shortfall(path, reason.decode("ascii", "replace")) for path, reason in zip(words[::2], words[1::2])]
            self._proposed = None
            if not shortfalls:
                raise
            raise IncompleteError(shortfalls) from None
        receipt = Receipt.from_dict(answer.get("receipt"), "The vault's answer")
        if (receipt.tx, receipt.digest, receipt.content_digest) != (self._tx, manifest.digest, manifest.content_digest):
            raise IntegrityError(
                "The vault's receipt %s is for something else than what was sent" % receipt.id,
                kind="receipt",
                field="receipt",
                found=receipt.digest,
                allowed=manifest.digest,
                next="find out what the vault is",
            )
        self._is_open = False
        told = answer.get("anomaly")
        self.anomaly = printable(told[:_LONGEST_REASON]) if type(told) is str else None
        return receipt

    def close(self, *, keep: bool = False) -> None:
        if self._is_open:
            self._is_open = False
            with suppress(BackupError):  # a vault that hears no more keeps what it has received
                self._connection.ask({"do": "close", "keep": keep})


class _Counted:
    """Pieces of a stream, and how many bytes they had."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            yield piece


def _has_holes(root: Descent, entry: Entry) -> bool:
    """Whether rsync would fill holes of this file."""
    if entry.size < SPARSE_FROM:
        return False
    try:
        parent, name = root.parent(entry.path)
        return size_with_holes(parent, name) is not None
    except OSError:
        return False  # gone: the proof will say so
