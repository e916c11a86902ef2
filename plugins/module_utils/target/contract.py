# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every kind of target offers, and the values it answers with."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, ContextManager, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ..errors import IntegrityError
from ..manifest.document import Manifest
from ..manifest.entry import Entry
from ..manifest.walk import Descent
from ..observe.audit import is_time
from ..transfer.rsync import Options

if TYPE_CHECKING:
    from ..transfer.pace import Pace

Tell = Callable[[int, int], None]  # (files, bytes) done since the last call

_DIGEST = re.compile("[0-9a-f]{64}")
_A_TIME = "a time such as 2026-11-20T09:15:00.123Z"


def _refuser(complaint: str, kind: str, advice: str) -> Callable[[str, Any, str], NoReturn]:
    """What raises the ``IntegrityError`` for one field of a stored file: ``refuse(field, found, allowed)``."""

    def refuse(field: str, found: Any, allowed: str) -> NoReturn:
        raise IntegrityError("%s: %s is %r" % (complaint, field, _shown(found)), kind=kind, field=field, found=_shown(found), allowed=allowed, next=advice)

    return refuse


def _shown(value: Any) -> Any:
    """What an error shows of a value: nested ones can be deeper and longer than anyone wants to read."""
    if type(value) in (list, dict):
        return "a list" if type(value) is list else "an object"
    return value if type(value) in (int, str) else repr(value)


@dataclass(frozen=True)
class Receipt:
    """What the target says when it commits. Times are RFC 3339, UTC, with milliseconds; ``bytes`` is the logical size of all files.

    ``verified_bytes`` were hashed by the target in this commit; ``linked`` paths share their inode or their place on disk with the parent snapshot
    (``clone`` says how), ``copied`` were copied inside the target, ``link_limit`` of them because the file system allows no more links.
    """

    id: str
    sequence: int
    parent: Optional[str]
    created: str
    claimed: str
    host: str
    policy: str
    tx: str
    digest: str
    content_digest: str
    entries: int
    files: int
    bytes: int
    received_files: int
    verified_bytes: int
    linked: int
    copied: int
    link_limit: int
    storage: str
    engine: str
    clone: str = "hardlink"
    format: int = 1

    def to_dict(self) -> Dict[str, Any]:
        """Plain types, as stored in ``receipt.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, item: Any, where: str) -> Receipt:
        """Read a stored receipt; ``IntegrityError`` names ``where``."""

        refuse = _refuser("%s is not a receipt" % where, "receipt", "find out who edited it, and restore it from a copy")
        names = {item.name for item in fields(cls)}
        if type(item) is dict:
            item = {"clone": cls.clone, **item}  # the first receipts do not tell: there was one way
        if type(item) is not dict or set(item) != names:
            refuse("keys", ", ".join(sorted(set(item) ^ names)) if type(item) is dict else item, "an object with the keys of a receipt")
        if item["format"] != 1:
            refuse("format", item["format"], "format 1")
        for name, kind in _RECEIPT_TYPES.items():
            if type(item[name]) is not kind and not (name == "parent" and item[name] is None):
                refuse(name, item[name], "a number" if kind is int else "text")
            if kind is int and not 0 <= item[name] < 1 << 63:
                refuse(name, "%.20s" % item[name], "a number from 0 to 2^63 - 1")
        if not is_time(item["created"]):
            refuse("created", item["created"], _A_TIME)
        if not _DIGEST.fullmatch(item["digest"]):
            refuse("digest", item["digest"], "64 hexadecimal digits")
        return cls(**item)


_RECEIPT_TYPES = {item.name: int if item.type == "int" else str for item in fields(Receipt)}


def check_manifest(manifest: Manifest, receipt: Receipt, where: str) -> None:
    """``IntegrityError`` where this is not the manifest that the receipt speaks of; ``where`` it was read, for the message."""
    header = manifest.header
    says = (header.id, header.sequence, header.parent, header.created, manifest.digest, manifest.content_digest, len(manifest.lines))
    if says != (receipt.id, receipt.sequence, receipt.parent, receipt.created, receipt.digest, receipt.content_digest, receipt.entries):
        raise IntegrityError(
            "%s is not the manifest that the receipt of %s speaks of" % (where, receipt.id),
            kind="manifest",
            field="digest",
            found=manifest.digest,
            allowed=receipt.digest,
            next="restore an older snapshot, and this file from a copy of the vault; without one move the snapshot's directory out of the history",
        )


@dataclass(frozen=True)
class Snapshot:
    """One committed snapshot with what may change about it: ``verified`` and ``damaged`` (mappings with a time, or None), ``held`` (reason, or
    None), ``unchanged_until`` (the last time the host said that it still looks like this), ``tags`` (names, sorted), ``drilled`` (with the time at which a
    drill has proven that it comes back, or None), ``copied`` (when and from which vault it came, or None where the host sent it here)."""

    receipt: Receipt
    verified: Optional[Mapping[str, Any]] = None
    damaged: Optional[Mapping[str, Any]] = None
    held: Optional[Mapping[str, Any]] = None
    unchanged_until: Optional[str] = None
    tags: Tuple[str, ...] = ()
    drilled: Optional[Mapping[str, Any]] = None
    copied: Optional[Mapping[str, Any]] = None

    @property
    def precedes_anomaly(self) -> bool:
        """Whether it is held because what came after it is an anomaly."""
        return self.held is not None and self.held.get("by") == "anomaly"

    @property
    def id(self) -> str:
        """Its id, ``<time>Z-<first 8 of digest>``."""
        return self.receipt.id

    def to_dict(self) -> Dict[str, Any]:
        """The public mapping of a snapshot."""
        receipt = self.receipt
        return {
            "id": receipt.id,
            "sequence": receipt.sequence,
            "parent": receipt.parent,
            "created": receipt.created,
            "entries": receipt.entries,
            "files": receipt.files,
            "bytes": receipt.bytes,
            "digest": receipt.digest,
            "verified": dict(self.verified) if self.verified else None,
            "drilled": dict(self.drilled) if self.drilled else None,
            "damaged": dict(self.damaged) if self.damaged else None,
            "held": dict(self.held) if self.held else None,
            "unchanged_until": self.unchanged_until,
            "tags": list(self.tags),
            "copied": dict(self.copied) if self.copied else None,
        }


def check_state(state: Any, where: str) -> Dict[str, Any]:
    """The stored state of a snapshot, as ``Snapshot`` takes it; ``IntegrityError`` (kind ``state``) names ``where``."""

    refuse = _refuser("%s is not the state of a snapshot" % where, "state", "move it away and verify the snapshot")
    if type(state) is not dict:
        refuse("state", state, "an object")
    for name, parts in _STATE.items():
        item = state.get(name)
        if item is None:
            continue
        if type(item) is not dict:
            refuse(name, item, "an object")
        for part, (is_allowed, allowed) in parts.items():
            if (part in item or (name, part) in (("verified", "at"), ("drilled", "at"))) and not is_allowed(item.get(part)):
                refuse("%s.%s" % (name, part), item.get(part), allowed)
    if state.get("unchanged_until") is not None and not is_time(state["unchanged_until"]):
        refuse("unchanged_until", state["unchanged_until"], _A_TIME)
    if not _are_texts(state.get("tags", [])):
        refuse("tags", state["tags"], "a list of names")
    return state


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: Any) -> bool:
    try:
        return type(value) is str and os.fsencode(value) is not None
    except UnicodeEncodeError:
        return False


def _are_texts(value: Any) -> bool:
    return type(value) is list and all(map(_is_text, value))


_STATE: Mapping[str, Mapping[str, Tuple[Callable[[Any], bool], str]]] = {
    "verified": {"at": (is_time, _A_TIME)},
    "drilled": {"at": (is_time, _A_TIME)},
    "damaged": {"at": (is_time, _A_TIME), "count": (_is_count, "a number"), "paths": (_are_texts, "a list of paths")},  # an empty path is the whole tree
    "held": {"at": (is_time, _A_TIME), "reason": (_is_text, "text")},
    "copied": {"at": (is_time, _A_TIME), "from": (_is_text, "text")},
}


class Shortfall(NamedTuple):
    """A path whose content did not arrive as the manifest says. ``reason``: missing, size, hash or type."""

    path: bytes
    reason: str


class IncompleteError(IntegrityError):
    """The target lacks content that the manifest lists; nothing was published. The session stays open for what is missing."""

    kind = "incomplete"

    def __init__(self, shortfalls: Sequence[Shortfall]) -> None:
        first = shortfalls[0]
        super().__init__(
            "%d files did not arrive as scanned, the first is %r (%s)" % (len(shortfalls), first.path, first.reason),
            next="nothing was published; run again, and everything is sent anew",
        )
        self.shortfalls = tuple(shortfalls)


class Delivery(NamedTuple):
    """What is to be sent: ``wanted`` files read below ``root`` (absolute), ``staged`` ones below ``staging`` instead; ``counts`` per directory the
    regular files and subdirectories on disk, so that whole directories can be told from parts."""

    root: bytes
    wanted: Sequence[Entry]
    staging: bytes
    staged: AbstractSet[bytes]
    counts: Mapping[bytes, Tuple[int, int]]


class Sent(NamedTuple):
    """What a transfer did: logical bytes, bytes on the wire, and the last messages of the tools."""

    files: int
    bytes: int
    wire: int
    messages: Tuple[str, ...] = ()


class Damage(NamedTuple):
    """A path of a snapshot that is not as its manifest says. ``reason``: hash, type, size, mode, owner, mtime, device, link, xattrs or unreadable."""

    path: bytes
    reason: str


class Verification(NamedTuple):
    """What a verification found; ``checked`` paths were looked at, ``hashed_bytes`` re-read. ``unrecorded``: why it was not kept with the snapshot;
    ``beside``: what is wrong with other copies of the same that the target keeps (texts)."""

    checked: int
    hashed_files: int
    hashed_bytes: int
    damaged: Tuple[Damage, ...]
    missing: Tuple[bytes, ...]
    extra: Tuple[bytes, ...]
    unrecorded: str = ""
    beside: Tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.damaged or self.missing or self.extra)


class Size(NamedTuple):
    """Bytes that a snapshot takes up in the target: ``own`` would be free if it alone were removed, ``shared`` are also other snapshots', ``added`` are
    not also those of the snapshot before it."""

    own: int
    shared: int
    added: int


class Requests(NamedTuple):
    """What was asked of a service that charges by the request: of class A (those that write or list), class B (those that read), free ones (those
    that delete), repetitions included; bytes of content ``sent`` and ``received``."""

    class_a: int
    class_b: int
    free: int
    sent: int
    received: int


class Rewritten(NamedTuple):
    """What was written anew: so many ``packs``, of which ``read`` sealed bytes were needed, as others with ``written`` bytes in all; ``snapshots`` that tell of
    these now, and ``states`` of snapshots. ``damaged``: by the ids of snapshots the paths that kept packs from it; an empty one is the whole snapshot."""

    packs: int
    read: int
    written: int
    snapshots: int
    states: int
    damaged: Mapping[str, Sequence[bytes]]


class Heartbeat(NamedTuple):
    """``known``: that snapshot is the newest here; ``need``: its paths that are damaged and should come with the next change set."""

    known: bool
    need: Tuple[bytes, ...]


class Thresholds(NamedTuple):
    """From how many percent on something about a new snapshot is an anomaly, for which its parent is held; 0 for never.

    ``removed_percent``: files of the parent whose content is gone with their names; ``changed_percent``: these, and those whose names have other content;
    ``growth_percent``: bytes more than the parent had; ``encrypted_percent``: of the files with other content, those that seem encrypted.
    """

    removed_percent: int = 50
    changed_percent: int = 50
    growth_percent: int = 0
    encrypted_percent: int = 50

    def strictest(self, other: Thresholds) -> Thresholds:
        """Of each the one that is reached sooner."""
        return Thresholds(*(min(one, two) or max(one, two) for one, two in zip(self, other)))


class Session(ABC):
    """One attempt to add a snapshot. Left without ``commit`` it leaves nothing that counts.

    ``anomaly``: once committed, why its parent is held since; None where it is not."""

    anomaly: Optional[str] = None

    @abstractmethod
    def trust_base(self, manifest: Manifest) -> None:
        """Use this manifest for the parent, if all that it says but the times of directories is what the parent's receipt speaks of."""

    @abstractmethod
    def wanted(self, manifest: Manifest) -> List[Entry]:
        """The files whose content the target neither has in the base nor has received and proven."""

    @abstractmethod
    def send(self, delivery: Delivery, options: Options, tell: Optional[Tell] = None) -> Sent:
        """Carry content into the session."""

    def say_alive(self) -> None:  # noqa: B027 - a target next door needs no signs
        """This host is at work that the target sees nothing of; to be called often meanwhile."""

    @abstractmethod
    def commit(self, manifest: Manifest, tell: Optional[Tell] = None) -> Receipt:
        """Prove and publish in one step. ``IncompleteError`` names what must be sent again."""

    @abstractmethod
    def close(self, *, keep: bool = False) -> None:
        """Give up what was not committed, and the locks. ``keep``: leave what was received for the next session to go on from."""


class Target(ABC):
    """A place that keeps the history of one policy of one host.

    ``pace``: what ``fetch`` brings here over a link comes no faster."""

    url: str
    pace: Optional[Pace] = None
    has_one_version: bool = False  # which each run overwrites, so that it must not be the only copy that anybody relies on
    is_open: bool = False  # whoever may write there can say what a manifest says: neither a key nor an account of its own stands before it

    @property
    @abstractmethod
    def storage(self) -> str:
        """``native`` or ``portable``."""

    @property
    def beats(self) -> bool:
        """Whether it is told now and then that nothing changed. Where each word costs, it is asked only for what a verification has found."""
        return True

    def expect(self) -> None:  # noqa: B027 - most targets are there already
        """Something will be asked in a moment: begin what it takes until then."""

    @property
    def requests(self) -> Optional[Requests]:
        """What this object asked so far of a service that charges by the request; None of any other."""
        return None

    @property
    def sealed(self) -> "Optional[Target]":
        """What of it is sealed with a key, all of it or a part; None where nothing is."""
        return None

    @property
    def is_blind(self) -> bool:
        """Whether there is no key here to what is sealed: then ``remove`` leaves what is needed for others, and what somebody at work may need."""
        return False

    def keys(self) -> "List[str]":
        """The ids of the keys that seal what snapshots need, the one that seals what comes first; none where nothing is sealed."""
        return self.sealed.keys() if self.sealed is not None else []

    @property
    def immutable(self) -> Optional[bool]:
        """Whether the target itself keeps what is young from being removed by anybody; None where it cannot be told, or is not the question."""
        return None

    def remarks(self) -> "List[str]":
        """What a run should warn of that was seen while talking to the target."""
        return []

    @property
    def old_prefixes(self) -> Mapping[str, int]:
        """How many objects lie below each prefix of an older layout, which is going to be removed."""
        return {}

    def is_behind(self, baseline: Receipt) -> bool:
        """Whether it lacks something that a run has to bring though nothing changed since the ``baseline``, as far as this host remembers."""
        return False

    def overrule(self) -> None:  # noqa: B027 - elsewhere nobody else can change what a session goes on from
        """Somebody has decided that what others changed there may be replaced."""

    def settle(self) -> None:  # noqa: B027 - most hold what they say they hold
        """This host goes on from what was just read there: have the target say the same to the next one who asks."""

    def check_sources(self) -> None:  # noqa: B027 - most take any
        """``UsageError`` where it has no place for the sources of its policy."""

    @abstractmethod
    def latest(self) -> Optional[Snapshot]:
        """The newest snapshot, or None where there is no history."""

    @abstractmethod
    def list(self) -> "List[Snapshot]":
        """All snapshots, newest first."""

    def find(self, receipt: Receipt) -> Optional[Snapshot]:
        """The snapshot of a receipt, None where it is gone."""
        return next((snapshot for snapshot in self.list() if snapshot.id == receipt.id), None)

    @abstractmethod
    def manifest(self, snapshot: Snapshot) -> Manifest:
        """The manifest of a snapshot, checked against its receipt."""

    @abstractmethod
    def search(self, snapshot: Snapshot, fragment: bytes, *, ignore_case: bool = False) -> "List[bytes]":
        """The lines of a snapshot's manifest that hold ``fragment``, checked against its receipt: far sooner than the whole manifest is read.
        ``ignore_case``: also where they have capitals, and the fragment has none."""

    @abstractmethod
    def begin(self, tx: str, parent: Optional[str], tags: Sequence[str] = (), thresholds: Thresholds = Thresholds()) -> Session:
        """Open a session on top of ``parent`` for a snapshot that will bear ``tags``; refused (``RefusedError``) where that is not the newest.
        A vault on another machine has thresholds of its own, and goes by the stricter ones."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove what dead sessions left, where no live one is at work."""

    @abstractmethod
    def portions(self, snapshot: Snapshot, entries: Sequence[Entry]) -> "List[Sequence[Entry]]":
        """``entries`` of a snapshot in portions that ``fetch`` had better be asked for one after the other."""

    @abstractmethod
    def fetch(self, snapshot: Snapshot, entries: Sequence[Entry], scratch: bytes) -> ContextManager[Descent]:
        """A directory in which the content of ``entries`` lies under their paths, for as long as the context lasts; below ``scratch``, a directory of
        ours, where it has to come here first."""

    @abstractmethod
    def verify(
        self, snapshot: Snapshot, *, depth: str, part: Optional[Tuple[int, int]] = None, record: bool = True, tell: Optional[Tell] = None
    ) -> Verification:
        """Compare a snapshot with its manifest: ``quick`` looks at every path, ``full`` re-reads every byte, ``part`` (n, t) the n-th of t shares.
        ``record`` keeps the result with the snapshot."""

    @abstractmethod
    def sizes(self, snapshots: Sequence[Snapshot]) -> "List[Size]":
        """The sizes of snapshots that stand side by side, newest first. Growth of the last one counts as if there were none before it."""

    @abstractmethod
    def weigh(self, snapshots: Sequence[Snapshot]) -> int:
        """How many bytes ``remove`` would free if it were to remove these."""

    @abstractmethod
    def remove(self, choose: Callable[["List[Snapshot]"], Mapping[str, str]], tell: Optional[Tell] = None) -> int:
        """Remove snapshots; how many bytes that frees. ``choose`` gets all, newest first, at a moment in which nobody adds, reads or holds one, and
        returns the ids to remove, each with the reason for the log."""

    def repack(self, unused_percent: int, tell: Optional[Tell] = None) -> Optional[Rewritten]:
        """Write anew what is needed of where more than that is needed by nobody; None where nothing is ever kept for a part of it."""
        return None

    @abstractmethod
    def hold(self, snapshot: Snapshot, reason: Optional[str]) -> Optional[Dict[str, Any]]:
        """Hold a snapshot, or with None release it; what is stored then."""

    def note_drill(self, snapshot: Snapshot) -> None:  # noqa: B027 - a target on another machine takes no host's word for it
        """Keep with a snapshot that a drill has just proven that it comes back."""

    @abstractmethod
    def tag(self, snapshot: Snapshot, add: Sequence[str], remove: Sequence[str]) -> "List[str]":
        """Change the tags of a snapshot; those that it bears then."""

    @abstractmethod
    def heartbeat(self, snapshot_id: str, digest: str) -> Heartbeat:
        """Say that the host still looks like this snapshot."""

    @abstractmethod
    def bury(self) -> None:
        """Remove this history and its directory: that of a canary (``is_canary``), which nobody else has."""


_CANARY = "canary-"
_CANARY_NAME = re.compile(_CANARY + "[0-9a-f]{32}")


def canary_name(transaction: str) -> str:
    """The name of a history that proves the way to a target and back, and is then buried."""
    return _CANARY + transaction


def is_canary(policy: str) -> bool:
    """Whether it is such a name."""
    return _CANARY_NAME.fullmatch(policy) is not None
