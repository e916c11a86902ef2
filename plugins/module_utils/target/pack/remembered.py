# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store where each word costs, with what this machine remembers of one history: what is there, and what the small objects hold."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from typing import AbstractSet, Any, Dict, Generator, List, Optional, Set

from ...errors import BackupError
from ..contract import Requests
from ..tree.layout import make_private, read_json, write_json
from .store import Item, Store, ticks

# For so long a run goes by what the last one left (s). A prune elsewhere leaves all that a session may go on from for a day (``LEASE``).
TRUSTED_FOR = 3600.0
# Objects whose bytes are kept; others are content.
_SMALL = ("repository", "keys", "manifests", "state")
# So much of them is in memory, in bytes, and the last one.
_MOST = 32 << 20
# Of these always the store itself is asked: it is where writers meet.
_CLAIMS = "claims"
_LEASES = "leases"
_VIEW = b"/view.json"
_WRITTEN = b"/claims.json"
_OBJECTS = b"/objects"


class RememberedStore(Store):
    """``store``, of which the objects below ``prefix`` (ends with ``/``) are listed once and then known.

    ``directory``: where that is kept from one run to the next, None: nowhere. What is kept there is believed for an hour, and not after a run
    that ended between its first change and ``settle``. Claims are noted there, so that the next run, which begins when this one is over, knows whose they are.
    """

    lists_freely = True

    def __init__(self, store: Store, prefix: str, endpoint: Optional[str], directory: Optional[bytes]) -> None:
        self.url = store.url
        self.streams = store.streams
        self._store = store
        self._prefix = prefix
        self._of = [store.url, endpoint or "", prefix]  # whose memory it is
        self._directory = directory
        self._lock = threading.RLock()
        self._items: Optional[Dict[str, Item]] = None
        self._looked_at = 0.0
        self._aged_from = 0.0  # the same by a clock that also goes on while the machine sleeps, and is not set
        self._bytes: Dict[str, bytes] = {}
        self._held = 0  # their length
        self._kept: Dict[str, str] = {}  # objects on this disk, with their SHA-256
        self._conditional: Optional[bool] = None
        self._is_doubtful = False
        self._new: List[Item] = []
        self._claims: Optional[Set[str]] = None

    def limit(self, rate: Optional[float]) -> None:
        self._store.limit(rate)

    @property
    def is_limited(self) -> bool:
        return self._store.is_limited

    @property
    def requests(self) -> Optional[Requests]:
        return self._store.requests

    @property
    def skew(self) -> float:
        return self._store.skew

    @property
    def immutable(self) -> Optional[bool]:
        return self._store.immutable

    @property
    def is_conditional(self) -> bool:  # type: ignore[override]
        if self._conditional is None:
            self._conditional = self._store.is_conditional
        return self._conditional

    # ---- what is remembered --------------------------------------------------------------------------------------------------

    def _view(self) -> Dict[str, Item]:
        with self._lock:
            if self._items is None and not self._is_doubtful:
                self._recall()
            if self._items is None:
                self._aged_from = ticks()
                self._items = {item.name: item for item in self._store.list(self._prefix)}
                self._looked_at = time.time()
            return self._items

    def _recall(self) -> None:
        """Go by what the last run left, where that is young and whole."""
        if self._directory is None:
            return
        try:
            found = read_json(self._directory + _VIEW)
            if found is None or not 0 <= time.time() - found["looked_at"] < TRUSTED_FOR or found["of"] != self._of:
                return
            items = {name: Item(name, int(size), float(at)) for name, size, at in found["items"]}
            kept = dict(found["objects"])
        except (BackupError, OSError, KeyError, TypeError, ValueError):
            return
        self._items, self._kept, self._looked_at, self._conditional = items, kept, found["looked_at"], True
        self._aged_from = ticks() - (time.time() - found["looked_at"])

    def settle(self) -> None:
        with self._lock:
            if self._directory is None or self._items is None or not self.is_conditional:
                return
            with suppress(OSError, BackupError):  # then the next run asks
                place = self._directory + _OBJECTS
                make_private(place)
                digests = {name: hashlib.sha256(data).hexdigest() for name, data in self._bytes.items() if name in self._items}
                for name, digest in digests.items():
                    if self._kept.get(name) != digest:
                        _write(place + b"/" + digest.encode("ascii"), self._bytes[name])
                view = {"of": self._of, "looked_at": self._looked_at, "items": [list(item) for item in self._items.values()], "objects": digests}
                write_json(self._directory + _VIEW, view)
                self._is_doubtful, self._kept = False, digests
                # What this run did not need the next one is not going to need, either.
                for file in set(os.listdir(place)).difference(os.fsencode(digest) for digest in digests.values()):
                    os.unlink(place + b"/" + file)

    def left(self) -> AbstractSet[str]:
        return frozenset(self._noted())

    def _noted(self) -> Set[str]:
        if self._claims is None:
            self._claims = set()
            with suppress(BackupError, OSError, TypeError):
                found = read_json(self._directory + _WRITTEN) if self._directory is not None else None
                listed = found.get("claims") if type(found) is dict else None
                self._claims.update(name for name in listed or () if type(name) is str and name.startswith(self._prefix + _CLAIMS + "/"))
        return self._claims

    def _note_claim(self, name: str, is_there: bool) -> None:
        noted = self._noted()
        if self._directory is None or not name.startswith(self._prefix + _CLAIMS + "/") or (name in noted) is is_there:
            return
        (noted.add if is_there else noted.discard)(name)
        with suppress(BackupError, OSError):  # then the next run waits as others do
            make_private(self._directory)
            write_json(self._directory + _WRITTEN, {"claims": sorted(noted)})

    def report(self) -> Any:
        """The objects below the prefix that are new since this was last asked; what the store itself reports."""
        with self._lock:
            new, self._new = self._new, []
            return os.getpid(), new, self._store.report()

    def hear(self, report: Any) -> None:
        pid, new, more = report
        if pid == os.getpid():
            return
        with self._lock:
            self._doubt()
            if self._items is not None:
                self._items.update((item.name, item) for item in new)
        self._store.hear(more)

    def forget(self) -> None:
        with self._lock:
            self._items = None
            self._bytes.clear()
            self._held = 0
            self._kept.clear()
            self._doubt()

    def forget_old(self) -> None:
        if self._items is not None and ticks() - self._aged_from >= TRUSTED_FOR:
            self.forget()

    def _doubt(self) -> None:
        """From here on what lies on disk may be wrong, also if this process dies."""
        if not self._is_doubtful and self._directory is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._directory + _VIEW)
        self._is_doubtful = True

    def _is_ours(self, name: str) -> bool:
        return name.startswith(self._prefix) and not name.startswith((self._prefix + _CLAIMS, self._prefix + _LEASES))

    def _is_small(self, name: str) -> bool:
        return self._is_ours(name) and name[len(self._prefix) :].partition("/")[0] in _SMALL

    # ---- the verbs -----------------------------------------------------------------------------------------------------------

    def get(self, name: str, start: int = 0, length: Optional[int] = None) -> Optional[bytes]:
        if not self._is_small(name):
            return self._store.get(name, start, length)
        end = None if length is None else start + length
        data = self._bytes.get(name) or self._on_disk(name)
        if data is None:
            if self._items is not None and name not in self._items:
                return None
            item = self._items.get(name) if self._items is not None else None
            if item is not None and end is not None and end < item.size:
                return self._store.get(name, start, length)
            data = self._store.get(name)
            if data is None:
                return None
        self._hold(name, data)
        return data[start:end]

    def pieces(self, name: str, start: int, length: int) -> Generator[bytes, None, None]:
        return self._store.pieces(name, start, length)

    def _hold(self, name: str, data: bytes) -> None:
        with self._lock:
            self._held += len(data) - len(self._bytes.pop(name, b""))
            self._bytes[name] = data
            while self._held > _MOST and len(self._bytes) > 1:
                self._held -= len(self._bytes.pop(next(iter(self._bytes))))

    def _on_disk(self, name: str) -> Optional[bytes]:
        if self._items is None and not self._is_doubtful:
            with self._lock:
                self._recall()
        digest = self._kept.get(name)
        if digest is None or self._directory is None:
            return None
        try:
            with open(self._directory + _OBJECTS + b"/" + os.fsencode(digest), "rb") as stream:
                data = stream.read()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def put(self, name: str, data: bytes, checksum: bytes, *, only_if_absent: bool = False) -> bool:
        if not self._is_ours(name):
            self._note_claim(name, True)
            return self._store.put(name, data, checksum, only_if_absent=only_if_absent)
        with self._lock:
            self._doubt()
        if not self._store.put(name, data, checksum, only_if_absent=only_if_absent):
            self.forget()  # somebody else was here
            return False
        with self._lock:
            item = Item(name, len(data), self._store.clock())
            self._new.append(item)
            if self._items is not None:
                self._items[name] = item
            if self._is_small(name):
                self._hold(name, data)
        return True

    def list(self, prefix: str) -> List[Item]:
        if not self._is_ours(prefix):
            return self._store.list(prefix)
        return sorted(item for name, item in self._view().items() if name.startswith(prefix))

    def size(self, name: str) -> Optional[int]:
        if not self._is_ours(name) or not self.is_conditional:
            return self._store.size(name)
        item = self._view().get(name)
        return item.size if item is not None else None

    def delete(self, name: str) -> None:
        with self._lock:
            self._doubt()
        self._store.delete(name)
        self._note_claim(name, False)
        with self._lock:
            if self._items is not None:
                self._items.pop(name, None)
            self._held -= len(self._bytes.pop(name, b""))
            self._kept.pop(name, None)

    def clock(self) -> float:
        return self._store.clock()

    def tidy(self, prefix: str, before: float) -> None:
        self._store.tidy(prefix, before)

    def foreign(self) -> Optional[bytes]:
        return self._store.foreign()


def _write(path: bytes, data: bytes) -> None:
    temporary = path + b".new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as stream:
        stream.write(data)
    os.rename(temporary, path)
