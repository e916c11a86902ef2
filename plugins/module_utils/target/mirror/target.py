# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``mirror`` target: one object per file, where moltworker looks for it, and one version of it."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, List, Mapping, NoReturn, Optional, Sequence, Set, Tuple

from ...errors import BackupError, RefusedError, counted, printable
from ...manifest.document import Manifest
from ...manifest.entry import FILE, Entry
from ...manifest.walk import CREATE_FLAGS, Descent
from ...observe.audit import rfc3339
from ..contract import Damage, Heartbeat, Receipt, Requests, Size, Snapshot, Target, Tell, Thresholds, Verification, is_canary
from ..portions import portions_of
from ..sources import PORTABLE
from ..tree.layout import damage_of, damaged_paths, make_private, read_json, write_json
from ..tree.target import in_part
from .condition import Condition, astray, each, examine, old_prefixes, pieces, rebuild
from .document import MARK, NAME, Document
from .places import is_key, places_of
from .session import Base, MirrorSession, late, mark, publish
from .store import ABSENT, Found, MirrorStore, content_of

_ATTEMPTS = b"/attempts.json"


class MirrorTarget(Target):
    """The newest state of one host's policy in ``store``.

    ``sources``: what it is of, for a mirror that does not say it itself; ``memory``: a directory where a session keeps its name, so that the next one knows
    what a run that was killed had written.
    """

    has_one_version = True
    is_open = True

    def __init__(self, store: MirrorStore, host: str, policy: str, sources: Sequence[str], memory: Optional[bytes] = None) -> None:
        self.url = store.url
        self.host = host
        self.policy = policy
        self.store = store
        self._sources = sources
        self._memory = memory
        self._document: Optional[Document] = None
        self._tag = ABSENT  # of the manifest that is there
        self._listed: Optional[Dict[str, Found]] = None
        self._is_loaded = self._is_ahead = self._overrules = False
        self._condition: Optional[Condition] = None
        self._astray: Optional[Mapping[str, str]] = None
        self._sessions: List[MirrorSession] = []

    @property
    def storage(self) -> str:
        return PORTABLE

    @property
    def beats(self) -> bool:
        return False

    @property
    def requests(self) -> Optional[Requests]:
        return self.store.requests

    def check_sources(self) -> None:
        places_of(self._sources)

    def remarks(self) -> List[str]:
        found = self.store.skew_told()
        left = [key for session in self._sessions for key in session.left]
        if left:
            found.append(
                "%s that is gone here stays in the mirror, because somebody else changed it, the first is %s" % (counted(len(left), "object"), min(left))
            )
        condition = self._condition
        if condition is not None:
            for what, paths in (
                ("was changed by somebody else", [printable(b"/" + path) for path in condition.changed]),
                ("is missing", [printable(b"/" + path) for path in condition.missing]),
                ("is not from here", [printable(key) for key in condition.unknown]),
            ):
                if paths:
                    found.append("%s of the mirror %s, the first is %s" % (counted(len(paths), "object"), what, min(paths)))
        return found

    @property
    def altered(self) -> Sequence[bytes]:
        """Paths whose object somebody else changed, where the objects were listed."""
        return self._condition.changed if self._condition is not None else ()

    @property
    def old_prefixes(self) -> Mapping[str, int]:
        document = self._document
        return old_prefixes([*document.old, *(place.key for place in document.places.values())]) if document is not None else {}

    # ---- looking -------------------------------------------------------------------------------------------------------------

    def _load(self) -> Optional[Document]:
        """What the store says of itself; without a manifest what its objects say."""
        if self._is_loaded:
            return self._document
        answer = self.store.read(NAME)
        if answer is not None:
            self._tag = answer[1].tag
            self._document = Document.from_bytes(answer[0], "%s/%s" % (self.url, NAME))
        else:
            self._tag = ABSENT
            listed = [item for item in self.store.objects() if is_key(item.name)]
            self._listed = {item.name: item for item in listed}
            self._document = rebuild(self.store, listed, places_of(self._sources), self.host, self.policy) if listed else None
            self._is_ahead = bool(listed)
        self._is_loaded = True
        return self._document

    def _forget(self) -> None:
        self._document = self._condition = self._listed = None
        self._is_loaded = self._is_ahead = False

    def latest(self) -> Optional[Snapshot]:
        document = self._load()
        return document.snapshot() if document is not None else None

    def list(self) -> List[Snapshot]:
        document = self._load()
        if document is None:
            return []
        if self._condition is None and self._tag != ABSENT:
            self._condition = examine(self.store, document, self.store.objects())
            if self._condition.is_ahead:
                self._document, self._is_ahead = self._condition.document, True
        return [(self._document or document).snapshot()]

    def _of(self, snapshot: Snapshot) -> Document:
        document = self._load()
        if document is None or document.receipt.id != snapshot.id:
            raise RefusedError(
                "The mirror does not hold %s any more" % snapshot.id,
                kind="no_snapshot",
                field="snapshot",
                found=snapshot.id,
                allowed="its newest state alone",
                next="list what is there",
            )
        return document

    def manifest(self, snapshot: Snapshot) -> Manifest:
        return self._of(snapshot).manifest

    def search(self, snapshot: Snapshot, fragment: bytes, *, ignore_case: bool = False) -> "List[bytes]":
        return [line for line in self.manifest(snapshot).lines if fragment in (line.lower() if ignore_case else line)]

    # ---- backing up ------------------------------------------------------------------------------------------------------------

    def overrule(self) -> None:
        self._overrules, self._astray = True, None

    def begin(self, tx: str, parent: Optional[str], tags: Sequence[str] = (), thresholds: Thresholds = Thresholds()) -> MirrorSession:
        if tags:
            self._refuse("tags")
        document = self._load()
        newest = document.receipt.id if document is not None else None
        if newest != parent:
            raise RefusedError(
                "The mirror holds %s, this run goes on from %s" % (newest or "nothing", parent or "nothing"),
                kind="writer",
                field="parent",
                found=newest,
                allowed=parent,
                next="run again; if this repeats, two machines write to one mirror",
            )
        mine, astray = self._attempts(), self._find_astray()
        self._remember(mine | {tx})
        session = MirrorSession(self.store, tx, Base(document, self._tag, self._listed, astray), mine, self._overrules, self._publish)
        self._sessions.append(session)
        return session

    def is_behind(self, baseline: Receipt) -> bool:
        return bool(self._find_astray())

    def _find_astray(self) -> Mapping[str, str]:
        """What runs of this host that died made another than the manifest says; once it was overruled, also what others did. Nothing is asked where no run
        died."""
        mine = self._attempts()
        if not (mine or self._overrules):
            return {}
        document = self._load()
        if self._astray is None:
            self._astray = astray(self.store, document, None if self._overrules else mine) if document is not None and not self._is_ahead else {}
        return self._astray

    def _publish(self, document: Document, tag: str) -> None:
        self._document, self._tag, self._listed, self._is_ahead, self._astray = document, tag, None, False, None
        if not document.removing:
            self._remember(set())

    def _attempts(self) -> Set[str]:
        """The sessions of this host of which nobody has heard that they ended."""
        with suppress(BackupError, KeyError, TypeError):
            found = read_json(self._memory + _ATTEMPTS) if self._memory is not None else None
            return {tx for tx in found["tx"] if type(tx) is str} if found is not None else set()
        return set()

    def _remember(self, attempts: Set[str]) -> None:
        if self._memory is None:
            return
        with suppress(OSError):
            if attempts:
                make_private(self._memory)
                write_json(self._memory + _ATTEMPTS, {"tx": sorted(attempts)[-100:]})
            else:
                os.unlink(self._memory + _ATTEMPTS)

    def sweep(self) -> None:
        """End what a run began that died: remove what is to go, and mark success."""
        document = self._load()
        if document is None:
            return
        self.settle()
        if self.store.get(MARK) != document.mark() and not self._is_ahead:
            mark(self.store, document)
        if not self._find_astray():
            self._remember(set())

    def settle(self) -> None:
        """Write down what the objects say beyond the manifest that is there."""
        document = self._load()
        if document is None or not (self._is_ahead or document.removing):
            return

        def delete(doomed: Mapping[str, str]) -> None:
            seen = each(self.store.look, list(doomed), self.store.streams)
            each(self.store.delete, [item.name for item in seen if item is not None and item.tag == doomed[item.name]], self.store.streams)

        publish(self.store, document, self._tag, delete, self._publish)

    def heartbeat(self, snapshot_id: str, digest: str) -> Heartbeat:
        self._forget()
        document = self._load()
        if document is None or (document.receipt.id, document.receipt.digest) != (snapshot_id, digest):
            return Heartbeat(False, ())
        return Heartbeat(True, tuple(sorted(damaged_paths(document.snapshot()))))

    # ---- reading ---------------------------------------------------------------------------------------------------------------

    def portions(self, snapshot: Snapshot, entries: Sequence[Entry]) -> "List[Sequence[Entry]]":
        return portions_of([[entry] for entry in entries])

    @contextmanager
    def fetch(self, snapshot: Snapshot, entries: Sequence[Entry], scratch: bytes) -> Iterator[Descent]:
        from tempfile import TemporaryDirectory

        document = self._of(snapshot)
        with TemporaryDirectory(prefix="fetch-", dir=os.fsdecode(scratch)) as place, Descent(os.fsencode(place)) as below:
            files = [entry for entry in entries if entry.type == FILE]
            for entry in files:
                below.parent(entry.path, create=0o700)  # by one thread: two might stand in each other's way

            def bring(entry: Entry) -> None:
                with Descent(os.fsencode(place)) as root:
                    at, name = root.parent(entry.path)
                    with open(os.open(name, CREATE_FLAGS, 0o600, dir_fd=at), "wb") as stream:
                        for data in pieces(self.store, document.places[entry.path].key, entry.size):
                            stream.write(data)

            each(bring, files, self.store.streams)
            yield below

    # ---- verifying ---------------------------------------------------------------------------------------------------------------

    def verify(
        self, snapshot: Snapshot, *, depth: str, part: Optional[Tuple[int, int]] = None, record: bool = True, tell: Optional[Tell] = None
    ) -> Verification:
        self.list()
        document = self._of(snapshot)
        condition = self._condition
        changed = set(condition.changed) if condition is not None else set()
        missing = set(condition.missing) if condition is not None else set()
        entries = [entry for entry in document.manifest.entries if in_part(entry.path, part)]
        files = [entry for entry in entries if entry.type == FILE and entry.path not in changed | missing]
        damaged = [Damage(entry.path, "hash") for entry in entries if entry.path in changed]
        hashed = 0
        if part is not None or depth == "full":

            def is_whole(entry: Entry) -> bool:
                whole = hashlib.sha256()
                for data in pieces(self.store, document.places[entry.path].key, entry.size + 1):
                    whole.update(data)
                if tell is not None:
                    tell(1, entry.size)
                return whole.hexdigest() == entry.hash

            good = each(is_whole, files, self.store.streams)
            damaged += [Damage(entry.path, "hash") for entry, fine in zip(files, good) if not fine]
            hashed = sum(entry.size for entry in files)
        gone = tuple(sorted(path for path in missing if in_part(path, part)))
        extra = tuple(os.fsencode(key) for key in condition.unknown) if condition is not None and part is None else ()
        found = Verification(len(entries), len(files) if hashed else 0, hashed, tuple(sorted(damaged)), gone, extra)
        return self._record(document, found, depth, part) if record else found

    def _record(self, document: Document, found: Verification, depth: str, part: Optional[Tuple[int, int]]) -> Verification:
        """Keep the result with the manifest, where the mirror can be written."""
        state = dict(document.state)
        bad = sorted({damage.path for damage in found.damaged}.union(found.missing))
        if bad:
            state.update(damaged=damage_of(bad, len(bad), time.time()), verified=None)
        elif part is None and depth == "full":
            state.update(verified={"at": rfc3339(time.time()), "depth": depth}, damaged=None)
        if state == document.state:
            return found
        try:
            self._write_state(document, state)
        except BackupError as error:
            return found._replace(unrecorded=error.message)
        return found

    def _write_state(self, document: Document, state: Mapping[str, Any]) -> None:
        fresh = document.having(state={name: value for name, value in state.items() if value is not None})
        tag = self.store.replace(NAME, content_of(fresh.to_bytes()), self._tag)
        if tag is None:
            raise late()
        self._publish(fresh, tag)

    def note_drill(self, snapshot: Snapshot) -> None:
        with suppress(BackupError):  # with a token that may only read
            document = self._of(snapshot)
            self._write_state(document, {**document.state, "drilled": {"at": rfc3339(time.time())}})

    # ---- what one version has no use for -----------------------------------------------------------------------------------------

    def sizes(self, snapshots: Sequence[Snapshot]) -> "List[Size]":
        return [Size(snapshot.receipt.bytes, 0, snapshot.receipt.bytes) for snapshot in snapshots]

    def weigh(self, snapshots: Sequence[Snapshot]) -> int:
        self._refuse("prune")

    def remove(self, choose: Callable[["List[Snapshot]"], Mapping[str, str]], tell: Optional[Tell] = None) -> int:
        self._refuse("prune")

    def hold(self, snapshot: Snapshot, reason: Optional[str]) -> Optional[Dict[str, Any]]:
        self._refuse("hold")

    def tag(self, snapshot: Snapshot, add: Sequence[str], remove: Sequence[str]) -> "List[str]":
        self._refuse("tags")

    def _refuse(self, what: str) -> NoReturn:
        raise RefusedError(
            "A mirror keeps one version: there is nothing for %s" % what,
            kind="one_version",
            field="target.layout",
            found="mirror",
            allowed="layout tree or pack, which keep versions",
            next="back up to a target with layout tree or pack as well, and keep, hold and name snapshots there",
        )

    def bury(self) -> None:
        if not is_canary(self.policy):
            raise RefusedError("%s is no canary" % self.policy, kind="scope", field="policy", found=self.policy)
        for item in self.store.objects():
            self.store.delete(item.name)
