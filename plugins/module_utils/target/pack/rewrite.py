# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs written anew: what is still needed of them goes into others, and manifests get an edition that tells of these.

What is there is neither changed nor removed here. A new edition counts from the moment it is there; what it replaced goes with a later prune.
"""

from __future__ import annotations

import os
import struct
from contextlib import closing, suppress
from functools import partial
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ...errors import IntegrityError, RefusedError
from ...manifest.entry import FILE, Entry
from ..contract import Rewritten, Tell
from .format import ID_BYTES, PACK, PRELUDE_BYTES, TRAILER_BYTES, Blob, Contents, PackWriter, fetch_index
from .reader import PackReader
from .repository import Base, Commit, Repository, Whole
from .session import LEASE, Lease, seal_manifest

# The index takes up at least so many bytes for each blob, which every pack with that many needs.
_INDEXED = 33
# Sessions at work can add what is to be written anew, too; after so many rounds the rest is left to the next time.
_ROUNDS = 3
_MAX_DAMAGED = 10000
# How the ids of packs begin that a rewrite stores. It never takes one back, so that another may go on from what it left; a session does.
REWRITTEN = "00000000"


class _Survey(NamedTuple):
    """What snapshots need: ``live``, by pack, the digests of blobs, in the order in which snapshots came to need them; ``sizes`` of packs in bytes;
    ``keys``: the ids of those that seal them; ``shut``: packs of manifests that could not be opened."""

    commits: List[Commit]
    live: Dict[str, Dict[Blob, str]]
    sizes: Dict[str, int]
    keys: Dict[str, str]
    shut: Set[str]


class Rewrite:
    """Writes packs of a history anew, one after the other. Left at any moment, nothing that counted before counts less."""

    def __init__(self, repository: Repository, tell: Optional[Tell] = None) -> None:
        self._repository = repository
        self._tell = tell
        self._lease = Lease(repository, os.urandom(ID_BYTES).hex())
        self._moved: Dict[str, Blob] = {}  # by digest: proven copies that manifests may name instead
        self._sizes: Dict[str, int] = {}  # of all packs (bytes), and the ids of the keys that seal them
        self._keys: Dict[str, str] = {}
        self._writer: Optional[PackWriter] = None
        self._damaged: Dict[str, Set[bytes]] = {}  # by snapshot: the paths that cannot be had whole
        self._done = Rewritten(0, 0, 0, 0, 0, {})

    def repack(self, unused_percent: int) -> Rewritten:
        """Write those packs anew of which more than ``unused_percent`` of the content is no snapshot's any more."""
        with self._lease:
            survey = self._survey()
            wasteful = self._wasteful(survey, unused_percent)
            if wasteful:
                # From here on no other prune removes a pack; what the last one that did not know of it left is looked at once more.
                self._lease.say()
                self._repository.store.forget()
                if _editions(self._repository.commits()) != _editions(survey.commits):
                    survey = self._survey()
                    wasteful = self._wasteful(survey, unused_percent)
                self._rewrite(survey, wasteful, lambda commit: False)
        return self._finished()

    def rekey(self) -> Rewritten:
        """Seal with the newest key what another one seals, and is needed."""
        repository = self._repository
        with self._lease:
            self._lease.say()
            for _round in range(_ROUNDS):
                survey = self._survey()
                old = [pack for pack in survey.live if survey.keys[pack] != repository.key_id and pack not in survey.shut]
                before = self._done.snapshots
                self._rewrite(survey, old, lambda commit: bool(repository.keys_of(commit) - {repository.key_id}))
                if self._done.snapshots == before:
                    break
            for commit in repository.commits():
                if commit.state_key not in (None, repository.key_id):
                    with suppress(RefusedError):  # removed meanwhile
                        repository.change_state(commit, lambda state: {})
                        self._done = self._done._replace(states=self._done.states + 1)
        return self._finished()

    def _finished(self) -> Rewritten:
        return self._done._replace(damaged={snapshot: sorted(paths)[:_MAX_DAMAGED] for snapshot, paths in sorted(self._damaged.items())})

    # ---- what is there -------------------------------------------------------------------------------------------------------

    def _survey(self) -> _Survey:
        repository = self._repository
        repository.store.forget()
        commits = [commit for commit in reversed(repository.commits()) if not commit.removed]
        found = _Survey(commits, {}, {}, {}, set())
        for commit in commits:
            found.sizes.update(commit.packs)
            found.keys.update((pack, commit.key_of(pack)) for pack in commit.packs)
        for _whole, needed in self._opened(commits, found.shut):
            for digest, blob in needed.blobs.items():
                found.live.setdefault(blob.pack, {})[blob] = digest
        return found

    def _opened(self, commits: List[Commit], shut: Set[str]) -> Iterator[Tuple[Whole, Contents]]:
        """Each with what its files need. A base that several have is opened once. Of those that cannot be opened ``shut`` gets the packs."""
        base: Optional[Base] = None
        for commit in commits:
            try:
                whole = self._repository.open(commit, base)
                needed = _needed(whole)
            except IntegrityError:
                self._damaged.setdefault(commit.receipt.id, set()).add(b"")
                shut.update(commit.packs)
                continue
            base = whole.full
            yield whole, needed

    def _wasteful(self, survey: _Survey, unused_percent: int) -> List[str]:
        return [pack for pack, blobs in survey.live.items() if pack not in survey.shut and self._is_wasteful(pack, survey, blobs, unused_percent)]

    def _is_wasteful(self, pack: str, survey: _Survey, blobs: Mapping[Blob, str], unused_percent: int) -> bool:
        """Whether more of it is unused than may be. Only where that is in doubt its end is asked how much of it is no content."""
        size = survey.sizes[pack] - PRELUDE_BYTES - TRAILER_BYTES
        used = sum(blob.length for blob in blobs)
        if (size - _INDEXED * len(blobs) - used) * 100 <= unused_percent * size:
            return False
        end = self._repository.store.get(self._repository.pack_name(pack), survey.sizes[pack] - TRAILER_BYTES, TRAILER_BYTES)
        if end is None or len(end) != TRAILER_BYTES:
            return False  # a verification tells of it
        content = size - int(struct.unpack_from(">I", end)[0])
        return (content - used) * 100 > unused_percent * content

    # ---- content -------------------------------------------------------------------------------------------------------------

    def _rewrite(self, survey: _Survey, packs: List[str], is_old: Callable[[Commit], bool]) -> None:
        if not packs and not any(map(is_old, survey.commits)):
            return
        self._sizes.update(survey.sizes)
        self._keys.update(survey.keys)
        left = self._move(survey, packs)
        self._publish({pack for pack in packs if pack not in left}, is_old)
        self._name_damage(survey, left)

    def _move(self, survey: _Survey, packs: List[str]) -> Dict[str, Set[str]]:
        """Store what is needed of ``packs`` in new ones. A pack of which something cannot be had is left as it is: its name, with the digests."""
        left: Dict[str, Set[str]] = {}
        wanted = {pack: [(survey.live[pack][blob], blob) for blob in sorted(survey.live[pack])] for pack in packs}
        elsewhere = self._elsewhere(survey, wanted)
        places = (elsewhere.get(digest, blob) for pack in packs for digest, blob in wanted[pack])
        with closing(PackReader(self._repository, self._sizes, places)) as reader:
            for pack in packs:
                contents: List[Tuple[str, bytes]] = []
                for digest, blob in wanted[pack]:
                    if digest in self._moved:
                        continue
                    data = self._read(survey, reader, digest, elsewhere, blob)
                    if data is None:
                        left.setdefault(pack, set()).add(digest)
                    elif digest not in self._moved:
                        contents.append((digest, data))
                if pack in left:
                    continue
                for digest, data in contents:
                    self._add(digest, data)
                self._done = self._done._replace(packs=self._done.packs + 1, read=self._done.read + sum(blob.length for _digest, blob in wanted[pack]))
                self._lease.renew()
                if self._tell is not None:
                    self._tell(1, survey.sizes[pack])
        self._store()
        return left

    def _elsewhere(self, survey: _Survey, wanted: Mapping[str, List[Tuple[str, Blob]]]) -> Dict[str, Blob]:
        """Where else the content of ``wanted`` packs lies, sealed with the newest key, in packs that stay or that a rewrite before this one stored."""
        repository = self._repository
        digests = {digest for pieces in wanted.values() for digest, _blob in pieces}
        found: Dict[str, Blob] = {}
        for pack, blobs in survey.live.items():
            if pack not in wanted and self._keys[pack] == repository.key_id:
                found.update((digest, blob) for blob, digest in blobs.items() if digest in digests)
        for pack, size in self._recent(survey):
            if pack in wanted or self._keys.get(pack, repository.key_id) != repository.key_id:
                continue
            with suppress(IntegrityError):
                index = fetch_index(partial(repository.store.get, repository.pack_name(pack)), size, repository.pack_key(pack), pack)
                useful = {digest: blob for digest, blob in index.items() if digest in digests and digest not in found}
                if useful:
                    self._sizes[pack], self._keys[pack] = size, repository.key_id
                    found.update(useful)
        return found

    def _recent(self, survey: _Survey) -> List[Tuple[str, int]]:
        """Packs, with their sizes, that a rewrite stored whose end not all manifests tell of: those that one which stays names, and those that none names
        and that are young enough to be left alone by everybody."""
        repository = self._repository
        named = {pack for commit in repository.commits() for pack in commit.packs}.union(pack for past in repository.past() for pack in past.packs)
        named.difference_update(survey.sizes)
        young = repository.store.clock() - LEASE / 2
        found = [(item.name.rpartition("/")[2], item) for item in repository.store.list(repository.pack_name(REWRITTEN))]
        return [(pack, item.size) for pack, item in found if pack not in named and item.at > young]

    def _add(self, digest: str, data: bytes) -> None:
        if self._writer is not None and self._writer.plain + len(data) > PACK:
            self._store()
        if self._writer is None:
            repository = self._repository
            self._writer = PackWriter(repository.master, repository.id, REWRITTEN + os.urandom(ID_BYTES).hex()[len(REWRITTEN) :])
        self._moved[digest] = self._writer.add(digest, data)

    def _store(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        data = writer.finish()
        self._repository.put(self._repository.pack_name(writer.pack), data)
        self._sizes[writer.pack], self._keys[writer.pack] = len(data), self._repository.key_id
        self._done = self._done._replace(written=self._done.written + len(data))
        self._lease.renew()

    def _read(self, survey: _Survey, reader: PackReader, digest: str, elsewhere: Mapping[str, Blob], blob: Blob) -> Optional[bytes]:
        """Content whose hash is ``digest``: as it lies ``elsewhere``, where it may stay then, at its place, or in any other pack that a snapshot needs."""
        if digest in elsewhere:
            with suppress(IntegrityError):
                data = reader.read(digest, elsewhere[digest])
                self._moved[digest] = elsewhere[digest]
                return data
        with suppress(IntegrityError):
            return reader.read(digest, blob)
        for other in (other for blobs in survey.live.values() for other, name in blobs.items() if name == digest and other != blob):
            with suppress(IntegrityError), closing(PackReader(self._repository, self._sizes, [other])) as single:
                return single.read(digest, other)
        return None

    # ---- manifests -----------------------------------------------------------------------------------------------------------

    def _publish(self, packs: Set[str], is_old: Callable[[Commit], bool]) -> None:
        """A new edition of each manifest that needs some of ``packs``, or is old; the base before those that are the difference to it."""
        repository = self._repository
        repository.store.forget()  # a commit that came meanwhile counts as well as one that went
        commits = [commit for commit in reversed(repository.commits()) if not commit.removed]
        for commit in commits:  # also those that came meanwhile
            self._sizes.update(commit.packs)
            self._keys.update((pack, commit.key_of(pack)) for pack in commit.packs)
        current = {commit.number: commit for commit in commits}
        written: Optional[Base] = None  # the last full edition, and the number of the base in whose place it stands
        stands_for: Optional[int] = None
        self._check_moved()
        for whole, needed in self._opened([commit for commit in commits if is_old(commit) or packs & commit.packs.keys()], set()):
            commit, contents = whole.commit, self._relocated(needed, packs)
            if contents == needed and not is_old(commit):
                continue
            base = None
            if whole.base is not None:
                if stands_for == whole.base.number:
                    base = written
                elif whole.base.number in current:
                    base = self._in_place_of(whole.base, current[whole.base.number])
            edition = Base(commit.number, commit.edition + 1, whole.manifest, contents)
            is_difference = self._put_edition(commit, edition, base)
            if is_difference is None:
                continue  # somebody else writes it anew at this moment
            self._done = self._done._replace(snapshots=self._done.snapshots + 1)
            if not is_difference:
                written, stands_for = edition, commit.base if commit.base is not None else commit.number
            elif base is not None:
                written, stands_for = base, whole.full.number

    def _in_place_of(self, base: Base, now: Commit) -> Optional[Base]:
        """The full manifest that counts ``now`` for a base; None where another key than the newest seals it, which nothing new may need."""
        full = base if now.edition == base.edition else self._repository.open(now).full
        return full if self._repository.manifest_key(full.number, full.edition) == self._repository.key_id else None

    def _check_moved(self) -> None:
        """A machine that slept for days finds here what another one's prune took for a dead one's."""
        prefix = self._repository.name("packs") + "/"
        found = {item.name[len(prefix) :]: item.size for item in self._repository.store.list(prefix)}
        for pack in {blob.pack for blob in self._moved.values()}:
            if found.get(pack) != self._sizes[pack]:
                raise IntegrityError("Pack %s was removed before a manifest could name it" % pack, kind="transfer", found=pack, next="do this again")

    def _relocated(self, needed: Contents, packs: Set[str]) -> Contents:
        blobs = {digest: self._moved.get(digest, blob) if blob.pack in packs else blob for digest, blob in needed.blobs.items()}
        return Contents(blobs, needed.files)

    def _put_edition(self, commit: Commit, edition: Base, base: Optional[Base]) -> Optional[bool]:
        """Publish; whether it is the difference to ``base``, None where that edition is there already."""
        repository = self._repository
        before = repository.header(commit)
        header = {name: before[name] for name in ("kind", "repository", "number", "receipt", "tags", "holds", "copied") if name in before}
        header["edition"] = edition.edition
        packs = {pack: self._sizes[pack] for pack in sorted(edition.contents.packs)}
        keys = {pack: self._keys[pack] for pack in packs}
        data, is_difference = seal_manifest(repository, header, packs, keys, edition.manifest, edition.contents, base)
        self._lease.renew()
        return is_difference if repository.put_first(repository.manifest_name(edition.number, edition.edition), data) else None

    # ---- damage --------------------------------------------------------------------------------------------------------------

    def _name_damage(self, survey: _Survey, left: Mapping[str, Set[str]]) -> None:
        """Find the paths, in each snapshot, that need what could not be had."""
        if not left:
            return
        for whole, _contents in self._opened([commit for commit in survey.commits if left.keys() & commit.packs.keys()], set()):
            for entry in filter(_has_content, whole.manifest.entries):
                if any(digest in left.get(blob.pack, ()) for digest, blob in whole.contents.pieces(entry.hash) or ()):
                    self._damaged.setdefault(whole.commit.receipt.id, set()).add(entry.path)


def _editions(commits: Sequence[Commit]) -> Set[Tuple[int, int]]:
    return {(commit.number, commit.edition) for commit in commits if not commit.removed}


def _has_content(entry: Entry) -> bool:
    return entry.type == FILE and bool(entry.size)


def _needed(whole: Whole) -> Contents:
    """What of a manifest's contents its files need; the rest is its base's."""
    try:
        return whole.contents.of({entry.hash for entry in whole.manifest.entries if _has_content(entry)})
    except KeyError as error:
        raise IntegrityError("The snapshot %s does not say where its content lies" % whole.commit.receipt.id, kind="seal") from error
