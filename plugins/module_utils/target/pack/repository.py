# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One history in a byte store: which objects it has, what they are called, and what they say of each other."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ...errors import BackupError, IntegrityError, RefusedError, TargetError, printable
from ...manifest.document import Manifest
from ...observe.audit import is_time, rfc3339
from ..contract import Receipt, Snapshot, check_manifest, check_state
from ..tree.layout import make_id
from .claims import alone
from .format import ID_BYTES, Contents, PackKey, Sealed, check_head, head_bytes, is_id, open_object, read_body, read_head, seal_object
from .sealing import broken, key_id, load_libraries
from .store import Item, Store, foreign_object

# Enough of a manifest for its header, unless it lists very many packs.
_FIRST_BYTES = 64 << 10
_MANIFEST_NAME = re.compile("([0-9]{10})(?:-([0-9]{6}))?")
_STATE_NAME = re.compile("([0-9]{10})-([0-9]{6})")
# What the header of a state says in the clear, each with its time.
_MARKS = ("verified", "drilled", "damaged", "held", "removed")
# So many others change the state of one snapshot at the same moment before this one gives up.
_TURNS = 20


class Commit(NamedTuple):
    """A manifest in the store: its ``number``, what it says in the clear, and what is said of it in objects that came later.

    ``packs``: those that the snapshot needs, with their sizes in bytes; ``base``: the number of the manifest that this one is the difference to;
    ``length``: its own size; ``removed``: it is no snapshot any more and stays for those that are the difference to it. ``holds``: the hold that its
    parent got with it; ``unsaid``: no state tells of the hold that this one got with its successor. ``edition``: how often it was written anew;
    ``base_edition``: that of the base; ``key``: the id of the key that seals it, and ``others``: the packs that another one seals, with its id;
    ``state_key``: the id of the key that seals the state, None where nothing was said; ``copied``: when it was copied here, None where the host sent it;
    ``at``: since when that edition is there, by the store's clock.
    """

    number: int
    receipt: Receipt
    packs: Mapping[str, int]
    base: Optional[int]
    length: int
    state: Mapping[str, Any]
    turn: int
    holds: Optional[Mapping[str, Any]] = None
    unsaid: bool = False
    edition: int = 0
    base_edition: int = 0
    key: str = ""
    others: Mapping[str, str] = {}
    state_key: Optional[str] = None
    copied: Optional[Mapping[str, Any]] = None
    at: float = 0.0

    @property
    def removed(self) -> bool:
        """Whether it is no snapshot any more."""
        return bool(self.state.get("removed"))

    def key_of(self, pack: str) -> str:
        """The id of the key that seals one of its packs."""
        return self.others.get(pack, self.key)

    def snapshot(self) -> Snapshot:
        """The snapshot that it is."""
        state = self.state
        tags = tuple(sorted(state.get("tags", ())))
        return Snapshot(self.receipt, state.get("verified"), state.get("damaged"), state.get("held"), None, tags, state.get("drilled"), self.copied)


class Base(NamedTuple):
    """A full manifest that others are the difference to."""

    number: int
    edition: int
    manifest: Manifest
    contents: Contents


class Whole(NamedTuple):
    """A manifest opened; with the one that it is the difference to, None for a full one."""

    commit: Commit
    manifest: Manifest
    contents: Contents
    base: Optional[Base]

    @property
    def full(self) -> Base:
        """The full one: the base, or this one."""
        return self.base or Base(self.commit.number, self.commit.edition, self.manifest, self.contents)


class Past(NamedTuple):
    """A manifest in whose place a later edition stands ``since`` a time by the store's clock; as ``Commit``, without what may change."""

    number: int
    edition: int
    packs: Mapping[str, int]
    base: Optional[int]
    base_edition: int
    length: int
    since: float


class Repository:
    """The history of ``policy`` of ``host`` in ``store``. ``key`` gives the master key when it is first needed; None: this machine has none, and
    sees only what stands in the clear. ``old_keys``: give those of before, which open what they sealed and seal nothing any more."""

    def __init__(self, store: Store, host: str, policy: str, key: Optional[Callable[[], bytes]], old_keys: Sequence[Callable[[], bytes]] = ()) -> None:
        self.store = store
        self.host = host
        self.policy = policy
        self.prefix = "%s/%s" % (host, policy)
        self._key = key
        self._old_keys = old_keys
        self._masters: Dict[str, bytes] = {}  # by their ids, the first is the one that seals
        self._pack_keys: Dict[str, str] = {}  # ids of the keys that seal packs, as manifests tell
        self._manifest_keys: Dict[Tuple[int, int], str] = {}  # and of those that seal manifests, by number and edition
        self._id: Optional[str] = None
        self._is_introduced = False

    # ---- keys --------------------------------------------------------------------------------------------------------------

    @property
    def has_key(self) -> bool:
        """Whether there is a key to open anything with."""
        return self._key is not None

    @property
    def master(self) -> bytes:
        """The master key. ``TargetError`` (kind ``key`` or ``library``) where there is none or nothing to use it with."""
        if not self._masters:
            if self._key is None:
                raise TargetError(
                    "The policy names no key, and what is kept in %s is sealed" % self.store.url,
                    kind="key",
                    field="target.key_file",
                    found="neither key_file nor key_command",
                    allowed="target.key_file or target.key_command",
                    next="make a key with `umask 077; openssl rand -base64 32 > FILE`, name FILE as target.key_file, and keep a copy of it elsewhere",
                )
            load_libraries()
            master = self._key()
            self._masters[key_id(master)] = master
        return next(iter(self._masters.values()))

    @property
    def key_id(self) -> str:
        """The id of the key that seals what is written."""
        assert self.master
        return next(iter(self._masters))

    def _key_ids(self) -> Iterator[str]:
        """Those of all keys that are here; the old ones are not read before they are asked for."""
        yield self.key_id
        self.knows(None)
        yield from list(self._masters)[1:]

    def knows(self, key: Any) -> bool:
        """Whether there is the key of that id."""
        if key != self.key_id and len(self._masters) == 1:
            self._masters.update((key_id(master), master) for old in self._old_keys for master in [old()] if master != self.master)
        return key in self._masters

    def _master_of(self, sealed: Sealed) -> bytes:
        """The key that sealed an object. ``TargetError`` (kind ``key``) where it is not here."""
        key = str(sealed.header.get("key"))
        if not self.knows(key):
            raise self._wrong_key(key)
        return self._masters[key]

    def pack_key(self, pack: str) -> PackKey:
        """What opens that pack."""
        key = self._pack_keys.get(pack, self.key_id)
        if not self.knows(key):
            raise self._wrong_key(key)
        return PackKey(self._masters[key], self.id, pack)

    # ---- the repository ------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The repository's id, which every seal is bound to."""
        if self._id is None and not self.exists():
            raise IntegrityError("There is no history %s in %s" % (self.prefix, self.store.url), kind="repository", next="check the target's path")
        assert self._id is not None
        return self._id

    def exists(self) -> bool:
        """Whether there is such a history. Errors where it is of another key, or of another history."""
        if self._id is not None:
            return True
        name = self.name("repository")
        data = self.store.get(name)
        if data is None:
            return False
        sealed = self._head(data, name, "repository")
        if self.has_key:
            if sealed.header.get("key") != self.key_id:
                # It was begun with another key; this one, or one of the old ones, may have been introduced since.
                for introduced in (self.name("keys", key) for key in self._key_ids()):
                    data = self.store.get(introduced)
                    if data is not None:
                        name, sealed = introduced, self._head(data, introduced, "repository")
                        break
            open_object(sealed, self._master_of(sealed), name)
            self._is_introduced = sealed.header.get("key") == self.key_id
        header = sealed.header
        if (header.get("host"), header.get("policy")) != (self.host, self.policy) or not is_id(header.get("repository")):
            raise broken("%s is of another history" % name)
        self._id = header["repository"]
        return True

    def introduce(self) -> bool:
        """Have the history know the key that seals from now on, so that it can be opened without the older ones; whether that was new."""
        if not self.exists() or self._is_introduced:
            return False
        self._is_introduced = True
        return self.put_first(self.name("keys", self.key_id), self._repository_object(self.id))

    def _repository_object(self, repository: str) -> bytes:
        header = {"kind": "repository", "repository": repository, "host": self.host, "policy": self.policy}
        return seal_object(self.master, os.urandom(ID_BYTES), header, b"")

    def _wrong_key(self, found: str) -> TargetError:
        found = printable(found)[:40]  # whoever keeps the store may have written anything
        return TargetError(
            "The history %s in %s was sealed with key %s, this key is %s" % (self.prefix, self.store.url, found, self.key_id),
            kind="key",
            field="target.key_file",
            found=" ".join(self._masters),
            allowed=found,
            next="name the key that it was sealed with, as target.key_file or, if another one took its place, in target.old_key_files; nothing was written",
        )

    def create(self) -> None:
        """Begin the history. Whoever is first names it."""
        name = self.name("repository")
        self.put(name, self._repository_object(os.urandom(ID_BYTES).hex()), only_if_absent=self.store.is_conditional)
        self._id = None
        self.exists()

    # ---- names -----------------------------------------------------------------------------------------------------------------

    def name(self, *parts: str) -> str:
        """The name of an object of this history."""
        return "/".join((self.prefix, *parts))

    def manifest_name(self, number: int, edition: int = 0) -> str:
        """The object that is an edition of the commit of that number."""
        return self.name("manifests", "%010d-%06d" % (number, edition) if edition else "%010d" % number)

    def pack_name(self, pack: str) -> str:
        """The object of a pack."""
        return self.name("packs", pack)

    def put(self, name: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Store an object with its checksum."""
        return self.store.put(name, data, hashlib.sha256(data).digest(), only_if_absent=only_if_absent)

    # ---- commits ---------------------------------------------------------------------------------------------------------------

    def commits(self) -> List[Commit]:
        """All manifests, the newest first, also those that are no snapshots any more. ``IntegrityError`` where one is not what it should be."""
        if not self.exists():
            return []
        items = self._listed()
        states = self._states()
        found = [self._commit(number, *max(items[number].items()), states.get(number)) for number in sorted(items, reverse=True)]
        holding = {commit.receipt.parent: commit for commit in found if commit.holds is not None}
        found = [_with_hold(commit, holding.get(commit.receipt.id)) for commit in found]
        live = [commit for commit in found if not commit.removed]
        for newer, older in zip(live, live[1:]):
            if newer.receipt.created <= older.receipt.created:
                raise broken("the snapshots %s and %s are not in order" % (newer.receipt.id, older.receipt.id))
        return found

    def newest(self) -> Optional[Commit]:
        """The newest snapshot's; older manifests are not looked at."""
        items, states = self._there()
        above: List[Commit] = []
        for number in sorted(items, reverse=True):
            commit = self._commit(number, *max(items[number].items()), states.get(number))
            if not commit.removed:
                return reduce(_with_hold, above, commit)
            above.append(commit)
        return None

    def find(self, receipt: Receipt) -> Optional[Commit]:
        """The commit of a snapshot, None where it is gone; older ones are not looked at, and of newer ones only the next."""
        items, states = self._there()
        found: Optional[Commit] = None
        for number in sorted(number for number in items if number >= receipt.sequence):
            commit = self._commit(number, *max(items[number].items()), states.get(number))
            if found is not None:
                found = _with_hold(found, commit)
            elif commit.receipt.id == receipt.id and not commit.removed:
                found = commit
                continue
            if found is None or not commit.removed:
                break
        return found

    def _there(self) -> Tuple[Dict[int, Dict[int, Item]], Dict[int, Tuple[int, str]]]:
        """As ``_listed`` and ``_states``."""
        items = self._listed() if self.exists() else {}
        return items, self._states() if items else {}

    def numbers(self) -> List[int]:
        """The numbers of all manifests."""
        return sorted(self._listed())

    def past(self) -> List[Past]:
        """The manifests that are there and in whose place a later edition stands."""
        found = []
        for number, editions in self._listed().items():
            for edition, following in zip(sorted(editions), sorted(editions)[1:]):
                item = editions[edition]
                header = self._own(self.store.get(item.name, 0, _FIRST_BYTES), item.name, "manifest", number, edition, is_past=True).header
                packs, base, base_edition = self._needs(header, item.name, number)
                found.append(Past(number, edition, packs, base, base_edition, item.size, editions[following].at))
        return found

    def is_by(self, number: int, tx: str) -> bool:
        """Whether the commit of that number is that of the transaction ``tx``, which seals as this one does."""
        name = self.manifest_name(number)
        header = self._own(self.store.get(name, 0, _FIRST_BYTES), name, "manifest", number, is_past=True).header
        return header.get("key") == self.key_id and Receipt.from_dict(header.get("receipt"), name).tx == tx

    def shut_out(self) -> None:
        """Have nobody commit any more who began with another key than seals now, where such a one sealed the newest manifest: take the next number.

        A history of copies is left alone: their numbers are those of their origins."""
        tx = os.urandom(ID_BYTES).hex()
        for _attempt in range(_TURNS):
            self.store.forget()
            newest = self.newest()
            if newest is None or newest.copied is not None:
                return
            items = self._listed()
            highest = max(items)
            if self.manifest_key(highest, min(items[highest])) == self.key_id:
                return  # who began before that is too late anyway
            with suppress(RefusedError):  # somebody commits at this moment
                if self._put_number(highest + 1, tx, newest.receipt):
                    return
        raise RefusedError("Others commit to this history again and again", kind="writer", field="parent", next="do this again when less is going on")

    def _put_number(self, number: int, tx: str, newest: Receipt) -> bool:
        """Take a number for no snapshot, as a session takes it; False where another one did."""
        now = rfc3339(self.store.clock())
        receipt = replace(newest, id=make_id(now, newest.digest), sequence=number, parent=newest.id, created=now, tx=tx)
        header = {"kind": "manifest", "repository": self.id, "number": number, "receipt": receipt.to_dict(), "packs": {}, "base": None, "removed": now}
        name, data = self.manifest_name(number), seal_object(self.master, os.urandom(ID_BYTES), header, b"")
        if self.store.is_conditional:
            return self.put(name, data, only_if_absent=True) or self.is_by(number, tx)
        with alone(self, "%010d" % number, tx):
            self.store.forget()
            return max(self.numbers()) < number and self.put(name, data)

    def check_admitted(self) -> None:
        """``TargetError`` (kind ``key``) where the keys that are here are shut out."""
        items = self._listed()
        if items:
            number = max(items)
            edition, item = max(items[number].items())
            header = self._own(self.store.get(item.name, 0, _FIRST_BYTES), item.name, "manifest", number, edition, is_past=True).header
            if header.get("removed") is not None and not self.knows(header.get("key")):
                raise self._wrong_key(str(header.get("key")))

    def _listed(self) -> Dict[int, Dict[int, Item]]:
        """Of each number the editions."""
        prefix = self.name("manifests") + "/"
        found: Dict[int, Dict[int, Item]] = {}
        for item in self.store.list(prefix):
            match = _MANIFEST_NAME.fullmatch(item.name[len(prefix) :])
            if match is None:
                raise self.foreign(item.name)
            found.setdefault(int(match.group(1)), {})[int(match.group(2) or 0)] = item
        return found

    def foreign(self, name: str) -> BackupError:
        """The error for an object that is none of this layout."""
        return foreign_object("%s/%s" % (self.store.url, name))

    def _head(self, data: bytes, name: str, kind: str) -> Sealed:
        sealed = read_head(data, name)
        if sealed is None and len(data) >= _FIRST_BYTES:
            sealed = read_head(self.store.get(name, 0, head_bytes(data)) or b"", name)
        if sealed is None:
            raise broken("%s is truncated" % name)
        if sealed.header.get("kind") != kind:
            raise broken("%s is another kind of object" % name)
        return sealed

    def _own(self, data: Optional[bytes], name: str, kind: str, number: int, edition: int = 0, *, is_past: bool = False) -> Sealed:
        """The head of an object of this repository that is about that commit. ``is_past``: it counts for nothing but its own removal, and may be
        sealed with a key that nobody has any more."""
        if data is None:
            raise broken("%s is gone" % name)
        sealed = self._head(data, name, kind)
        if self.has_key and not (is_past and not self.knows(sealed.header.get("key"))):
            check_head(sealed, self._master_of(sealed), name)
        header = sealed.header
        if header.get("repository") != self.id or header.get("number") != number or header.get("edition", 0) != edition:
            raise broken("%s is of another place" % name)
        return sealed

    def _needs(self, header: Mapping[str, Any], name: str, number: int) -> Tuple[Dict[str, int], Optional[int], int]:
        """The packs, the base and its edition that the header of a manifest tells of."""
        packs, base, base_edition = header.get("packs"), header.get("base"), header.get("base_edition", 0)
        if (
            type(packs) is not dict
            or not all(is_id(pack) and type(size) is int for pack, size in packs.items())
            or not (base is None or (type(base) is int and 0 < base < number))
            or type(base_edition) is not int
            or type(header.get("key")) is not str
        ):
            raise broken("%s says what cannot be" % name)
        return packs, base, base_edition

    def _commit(self, number: int, edition: int, item: Item, said: Optional[Tuple[int, str]]) -> Commit:
        sealed = self._own(self.store.get(item.name, 0, _FIRST_BYTES), item.name, "manifest", number, edition, is_past=True)
        header = sealed.header
        receipt = Receipt.from_dict(header.get("receipt"), item.name)
        found, state_key = self._read_state(number, said[1], receipt.id) if said is not None else (None, None)
        if self.has_key and not (found and found.get("removed")) and header.get("removed") is None:
            self._master_of(sealed)
        packs, base, base_edition = self._needs(header, item.name, number)
        others = header.get("others", {})
        if (
            receipt.sequence != number
            or (receipt.host, receipt.policy) != (self.host, self.policy)
            or receipt.id != make_id(receipt.created, receipt.digest)
            or type(others) is not dict
            or not all(type(listed) is list and packs.keys() >= set(listed) for listed in others.values())
        ):
            raise broken("%s says what cannot be" % item.name)
        state: Mapping[str, Any] = found if found is not None else {"tags": header.get("tags", [])}
        if header.get("removed") is not None:  # it never was a snapshot
            # It may be sealed with a key that is not here: then it must have no say in what is.
            if edition or packs or base is not None or not is_time(header["removed"]):
                raise broken("%s says what cannot be" % item.name)
            state = {**state, "removed": {"at": header["removed"]}}
        turn = said[0] if said is not None else 0
        key_of = {pack: key for key, listed in others.items() for pack in listed}
        self._pack_keys.update((pack, key_of.get(pack, header["key"])) for pack in packs)
        self._manifest_keys[number, edition] = header["key"]
        holds = header.get("holds")
        copied = header.get("copied")
        check_state({"held": holds, "copied": copied}, item.name)
        state = check_state(dict(state), item.name)
        return Commit(
            number,
            receipt,
            packs,
            base,
            item.size,
            state,
            turn,
            holds,
            edition=edition,
            base_edition=base_edition,
            key=header["key"],
            others=key_of,
            state_key=state_key,
            copied=copied,
            at=item.at,
        )

    def open(self, commit: Commit, known: Optional[Base] = None) -> Whole:
        """A commit with its manifest and the places of its contents; ``known``: a full manifest that need not be opened again, should it be the base.
        ``IntegrityError`` where anything is not as it was written."""
        base = None
        if commit.base is not None:
            is_known = known is not None and known[:2] == (commit.base, commit.base_edition)
            base = known if is_known else Base(commit.base, commit.base_edition, *read_body(self._body(commit.base, commit.base_edition)))
        manifest, contents = read_body(self._body(commit.number, commit.edition), base[2:] if base is not None else None)
        check_manifest(manifest, commit.receipt, self.manifest_name(commit.number, commit.edition))
        return Whole(commit, manifest, contents, base)

    def manifest_key(self, number: int, edition: int) -> str:
        """The id of the key that seals a manifest."""
        if (number, edition) not in self._manifest_keys:
            name = self.manifest_name(number, edition)
            header = self._own(self.store.get(name, 0, _FIRST_BYTES), name, "manifest", number, edition, is_past=True).header
            self._manifest_keys[number, edition] = str(header.get("key"))
        return self._manifest_keys[number, edition]

    def keys_of(self, commit: Commit) -> Set[str]:
        """The ids of the keys without which a manifest cannot be opened: its own, and that of what it is the difference to."""
        return {commit.key} if commit.base is None else {commit.key, self.manifest_key(commit.base, commit.base_edition)}

    def header(self, commit: Commit) -> Mapping[str, Any]:
        """What a manifest says in the clear."""
        name = self.manifest_name(commit.number, commit.edition)
        return self._own(self.store.get(name, 0, _FIRST_BYTES), name, "manifest", commit.number, commit.edition).header

    def _body(self, number: int, edition: int) -> bytes:
        name = self.manifest_name(number, edition)
        sealed = self._own(self.store.get(name), name, "manifest", number, edition)
        return open_object(sealed, self._master_of(sealed), name)

    # ---- what may change about a snapshot ------------------------------------------------------------------------------------

    def _states(self) -> Dict[int, Tuple[int, str]]:
        """Of each commit the last object that says something of it: its turn, and its name."""
        prefix = self.name("state") + "/"
        found: Dict[int, Tuple[int, str]] = {}
        for item in self.store.list(prefix):
            match = _STATE_NAME.fullmatch(item.name[len(prefix) :])
            if match is None:
                raise self.foreign(item.name)
            found[int(match.group(1))] = (int(match.group(2)), item.name)  # in the order of their names
        return found

    def _read_state(self, number: int, name: str, snapshot_id: str) -> Tuple[Optional[Dict[str, Any]], Optional[str]]:
        """What is said of a snapshot, and the id of the key that seals it."""
        sealed = self._own(self.store.get(name), name, "state", number)
        if sealed.header.get("snapshot") != snapshot_id:
            return None, None  # of a snapshot that had this number before, and is gone
        key = sealed.header.get("key")
        if not self.has_key:
            # When, not why or where.
            marks = {mark: {"at": sealed.header[mark]} for mark in _MARKS if sealed.header.get(mark)}
            if not all(is_time(item["at"]) for item in marks.values()):
                raise broken("%s says what cannot be" % name)
            return {**marks, "tags": sealed.header.get("tags", []), "heard": bool(sealed.header.get("heard"))}, key
        state = json.loads(open_object(sealed, self._master_of(sealed), name))
        return state if type(state) is dict else {"state": state}, key

    def change_state(self, commit: Commit, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Dict[str, Any]:
        """Say something else of a snapshot, in an object of its own: nothing is overwritten. The state then."""
        for _attempt in range(_TURNS):
            state = {**commit.state, **change(commit.state)}
            state = {name: value for name, value in state.items() if value}
            turn = commit.turn + 1
            header = {
                "kind": "state",
                "repository": self.id,
                "number": commit.number,
                "snapshot": commit.receipt.id,
                "tags": list(state.get("tags", ())),
                "heard": bool(state.get("heard")),
                **{mark: state[mark].get("at") if state.get(mark) else None for mark in _MARKS},
            }
            body = json.dumps(state, sort_keys=True, separators=(",", ":")).encode("ascii")
            data = seal_object(self.master, os.urandom(ID_BYTES), header, body)
            if self.put_first(self.name("state", "%010d-%06d" % (commit.number, turn)), data):
                return state
            again = next((item for item in self.commits() if item.number == commit.number and item.receipt.id == commit.receipt.id), None)
            if again is None or again.removed:
                break
            commit = again
        raise RefusedError("The snapshot %s was just removed or changed" % commit.receipt.id, kind="no_snapshot", field="snapshot", found=commit.receipt.id)

    def put_first(self, name: str, data: bytes) -> bool:
        """Store an object where there is none of that name; False where there is."""
        if self.store.is_conditional:
            # A store that was asked twice, because its first answer was lost, finds what it wrote itself.
            return self.put(name, data, only_if_absent=True) or self.store.get(name) == data
        with alone(self, "-".join(name.split("/")[-2:]), os.urandom(ID_BYTES).hex()):
            return self.store.size(name) is None and self.put(name, data)


def _with_hold(commit: Commit, newer: Optional[Commit]) -> Commit:
    """A commit with the hold that came with its successor, where nothing that was said of it later knew of that."""
    if newer is None or newer.holds is None or newer.receipt.parent != commit.receipt.id or commit.state.get("heard"):
        return commit
    held = dict(newer.holds)
    before = commit.state.get("held")
    if before:
        held["reason"] = "%s; before: %s" % (held.get("reason"), before.get("reason"))
    return commit._replace(state={**commit.state, "held": held, "heard": True}, unsaid=True)
