# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session on a byte store: seal what the history lacks, then publish by one object that nobody else may have written."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ... import pool
from ...errors import BackupError, IntegrityError, RefusedError
from ...manifest.document import Manifest
from ...manifest.entry import FILE, Entry
from ...observe.audit import rfc3339
from ...transfer.pace import rate_of
from ...transfer.rsync import Options
from ...version import VERSION
from ..anomaly import PACKED, by_chance, judge
from ..contract import Delivery, IncompleteError, Receipt, Sent, Session, Shortfall, Tell, Thresholds
from ..sources import PORTABLE
from ..succession import reason_to_hold, time_after
from ..tree.layout import damaged_paths, make_id
from .claims import alone
from .format import ID_BYTES, PACK, Contents, seal_object, write_body
from .making import Made, Note, PackMaker, cut
from .repository import Base, Commit, Repository, Whole
from .store import Store, ticks

# What no manifest names is left alone for so long (s, by the store's clock): a session may be about to name it.
LEASE = 86400.0
# A store's clock that went on by so much more or less than this machine's was set (s): others see other ages than it does.
_STEP = 3600.0
# A manifest that is smaller as a whole (bytes, sealed) is always written as a whole: it saves the reader an object.
FULL_UP_TO = 64 << 10
# A difference that is larger than this part of the whole is not worth it.
_WORTH = 2


class Lease:
    """Says that somebody is at work whose packs no manifest names yet: a prune elsewhere would take them for those of a dead one.

    A session begins without one, and says so only when it takes long. As a context it ends with that."""

    def __init__(self, repository: Repository, tx: str) -> None:
        self._repository = repository
        self._tx = tx
        self._said: List[str] = []
        self._renewed = ticks()
        self._ahead: Optional[float] = None

    def watch(self) -> None:
        """From now on mind the store's clock. Where an answer costs, to be called when there was one."""
        if self._ahead is None:
            self._ahead = self._repository.store.clock() - ticks()

    def say(self) -> None:
        """From now on for ``LEASE``."""
        name = self._repository.name("leases", "%s-%d" % (self._tx, len(self._said)))
        self._repository.put(name, b"")
        self._said.append(name)
        self._renewed = ticks()

    def renew(self) -> None:
        """To be called often."""
        if ticks() - self._renewed >= LEASE / 4:
            self.say()

    @property
    def is_doubtful(self) -> bool:
        """Whether others may have stopped believing in it: this machine slept, or was at something else for long, or the store's clock was set."""
        is_set = self._ahead is not None and abs(self._repository.store.clock() - ticks() - self._ahead) > _STEP
        return is_set or ticks() - self._renewed >= LEASE / 2

    def end(self) -> None:
        """Take it back."""
        said, self._said = self._said, []
        for name in said:
            with suppress(BackupError):
                self._repository.store.delete(name)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()


class PackSession(Session):
    """Packs go to the store as they fill up. Nothing that reads looks at them before a manifest names them."""

    def __init__(self, repository: Repository, tx: str, number: int, base: Optional[Commit], tags: Sequence[str], thresholds: Thresholds) -> None:
        self._repository = repository
        self._tx = tx
        self._number = number
        self._base = base
        self._tags = sorted(set(tags))
        self._thresholds = thresholds
        self._whole: Optional[Whole] = None
        self._trusted: Optional[Manifest] = None
        self._contents = Contents({}, {})  # what the base has, as far as it is believed, and what this session has sealed
        self._sizes: Dict[str, int] = dict(base.packs) if base is not None else {}
        self._mine: List[str] = []  # packs that this session has stored
        self._lease = Lease(repository, tx)
        self._failed: Dict[bytes, str] = {}
        self._sent = 0
        self._hashed = 0
        self._is_published = False

    def open(self) -> None:
        """Learn what the history has; a vault whose clock is wrong says so before anything is sent."""
        repository = self._repository
        self._check_clock()
        if repository.store.requests is None:
            self._lease.watch()
        if self._base is None:
            return
        try:
            self._whole = whole = repository.open(self._base)
        except IntegrityError:
            return  # nothing is taken from it: what comes instead heals it
        distrusted = {entry.hash for path in damaged_paths(self._base.snapshot()) for entry in [whole.manifest.find(path)] if entry is not None}
        lost = self._lost_packs(self._base) if repository.store.lists_freely else set()
        doubtful = {name for digest in distrusted for name in (digest, *whole.contents.files.get(digest, ()))}
        # What the full manifest knows, and this one does not need, may be gone with the snapshots that did.
        lost |= whole.contents.packs.difference(self._base.packs)
        # A pack that is damaged somewhere is left behind as a whole: what stayed in it would be found in bad company by every verification.
        lost |= {whole.contents.blobs[digest].pack for digest in doubtful if digest in whole.contents.blobs}
        blobs = {digest: blob for digest, blob in whole.contents.blobs.items() if blob.pack not in lost}
        self._contents = Contents(blobs, {digest: blocks for digest, blocks in whole.contents.files.items() if digest not in distrusted})

    def _check_clock(self) -> None:
        if self._repository.store.requests is None:  # or else the clock is looked at when it tells of itself, before the commit
            time_after(self._base.snapshot() if self._base is not None else None, self._repository.store.clock())

    def _lost_packs(self, base: Commit) -> Set[str]:
        """Packs that are not there as they were written."""
        prefix = self._repository.name("packs") + "/"
        found = {item.name[len(prefix) :]: item.size for item in self._repository.store.list(prefix)}
        return {pack for pack, size in base.packs.items() if found.get(pack) != size}

    def trust_base(self, manifest: Manifest) -> None:
        if self._base is not None and manifest.content_digest == self._base.receipt.content_digest:
            self._trusted = manifest

    # ---- what is wanted ------------------------------------------------------------------------------------------------------

    def wanted(self, manifest: Manifest) -> List[Entry]:
        return lacking(manifest, lambda digest: self._contents.pieces(digest) is not None)

    # ---- sending ---------------------------------------------------------------------------------------------------------------

    def send(self, delivery: Delivery, options: Options, tell: Optional[Tell] = None) -> Sent:
        self._failed = {}
        self._repository.store.limit(rate_of(options.bwlimit) if options.bwlimit else None)
        wanted = delivery.wanted
        return Sent(len(wanted), sum(entry.size for entry in wanted), self._store_files(delivery, tell))

    def _store_files(self, delivery: Delivery, tell: Optional[Tell], note: Optional[Note] = None) -> int:
        """Seal and store what is wanted; bytes that went."""
        wanted, known = delivery.wanted, self._contents.blobs
        cuts = cut([entry.size for entry in wanted], PACK)

        def work(start: int, stop: int, tell: Tell) -> Made:
            return PackMaker(self._repository, known, PACK, note).make(delivery, wanted[cuts[start][0] : cuts[stop - 1][1]], tell)

        return self._store_shares(work, [sum(entry.size for entry in wanted[start:stop]) for start, stop in cuts], tell)

    def _store_shares(self, work: Callable[[int, int, Tell], Made], weights: Sequence[int], tell: Optional[Tell], source: Optional[Store] = None) -> int:
        """Have ``work``, which may read from the store ``source``, done by several processes, and take in what they have stored; bytes that went."""
        repository = self._repository
        assert repository.master and repository.id  # asked for here, and not by each process
        wire = 0

        def told(files: int, size: int) -> None:
            self._lease.renew()
            if tell is not None:
                tell(files, size)

        def both(start: int, stop: int, tell: Tell) -> Tuple[Made, Any]:
            return work(start, stop, tell), source.report() if source is not None else None

        is_limited = repository.store.is_limited or (source is not None and source.is_limited)
        # A pack at a time for each process: smaller shares would be more packs, and more requests.
        for made, report in pool.run_telling(both, weights, told, items=1, weight=1, is_alone=is_limited):
            repository.store.hear(made.report)
            self._lease.watch()
            if source is not None:
                source.hear(report)
            self._mine += made.sizes
            self._sizes.update(made.sizes)
            self._contents.blobs.update(made.blobs)
            self._contents.files.update(made.files)
            self._failed.update(made.failed)
            self._sent += made.sent
            self._hashed += made.hashed
            wire += sum(made.sizes.values())
        return wire

    # ---- publishing ------------------------------------------------------------------------------------------------------------

    def commit(self, manifest: Manifest, tell: Optional[Tell] = None) -> Receipt:
        contents = self._complete(manifest)
        repository, base = self._repository, self._base
        created = time_after(base.snapshot() if base is not None else None, repository.store.clock())
        receipt = Receipt(
            id=make_id(created, manifest.digest),
            sequence=self._number,
            parent=base.receipt.id if base is not None else None,
            created=created,
            claimed=manifest.header.claimed,
            host=repository.host,
            policy=repository.policy,
            tx=self._tx,
            digest=manifest.digest,
            content_digest=manifest.content_digest,
            entries=len(manifest.lines),
            files=manifest.files,
            bytes=manifest.total_size,
            received_files=self._sent,
            verified_bytes=self._hashed,
            linked=max(0, manifest.files - self._sent),
            copied=0,
            link_limit=0,
            storage=PORTABLE,
            engine=VERSION,
            clone="sealed",
        )
        final = manifest.with_header(id=receipt.id, sequence=self._number, parent=receipt.parent, created=created)
        self._publish(self._seal(final, contents, self._header(receipt, self._hold_after_anomaly(manifest, receipt, contents))))
        self._lease.end()
        repository.store.settle()
        return receipt

    def _complete(self, manifest: Manifest) -> Contents:
        """Where the content of the files of a manifest lies. ``IncompleteError`` where some of it is not here."""
        short = self.wanted(manifest)
        if short:
            raise IncompleteError([Shortfall(entry.path, self._failed.get(entry.path, "missing")) for entry in short])
        contents = self._contents.of({entry.hash for entry in manifest.entries if entry.type == FILE and entry.size})
        self._check_lease(contents.packs)
        return contents

    def _header(self, receipt: Receipt, holds: Optional[Mapping[str, str]]) -> Dict[str, Any]:
        """What the snapshot says in the clear of itself."""
        header: Dict[str, Any] = {
            "kind": "manifest",
            "repository": self._repository.id,
            "number": receipt.sequence,
            "receipt": receipt.to_dict(),
        }
        if self._tags:
            header["tags"] = self._tags
        if holds is not None:
            header["holds"] = holds
        return header

    def _seal(self, manifest: Manifest, contents: Contents, header: Mapping[str, Any]) -> bytes:
        """The object that is the snapshot: as the difference to a whole one before it where that is worth it."""
        packs = {pack: self._sizes[pack] for pack in sorted(contents.packs)}
        keys = {} if self._base is None else {pack: self._base.key_of(pack) for pack in packs if pack in self._base.packs}
        full = self._whole.full if self._whole is not None and self._whole.full.number < self._number else None
        return seal_manifest(self._repository, header, packs, keys, manifest, contents, full)[0]

    def _publish(self, data: bytes) -> None:
        if not self._put_first(self._repository.manifest_name(self._number), data):
            self._repository.check_admitted()
            raise self._late(self._number)

    def _put_first(self, name: str, data: bytes) -> bool:
        """Store the commit; False where somebody else was first."""
        repository, number = self._repository, self._number
        if repository.store.is_conditional:
            self._is_published = True  # from here on nobody can say that it was not, whatever happens
            # A store that was asked twice, because its first answer was lost, finds what it wrote itself.
            self._is_published = repository.put(name, data, only_if_absent=True) or repository.is_by(number, self._tx)
            return self._is_published
        with alone(repository, "%010d" % number, self._tx):
            repository.store.forget()
            if not self._is_free(repository.numbers()):
                return False
            self._is_published = True
            return repository.put(name, data)

    def _is_free(self, numbers: Sequence[int]) -> bool:
        """Whether it can have its number, where there are these."""
        return max(numbers, default=0) < self._number

    def _late(self, number: int) -> RefusedError:
        return RefusedError(
            "Another session committed to this history, or removed what this one goes on from, in the meantime",
            kind="writer",
            field="parent",
            found=number,
            allowed=self._base.receipt.id if self._base is not None else None,
            next="run again; if this repeats, two machines write as host %s" % self._repository.host,
        )

    def _check_lease(self, packs: Iterable[str]) -> None:
        """A machine that slept through its lease, or whose lease the store's clock ran away from, says another one. It looks whether all that it is about to
        name is there still, and whether it comes too late."""
        if not self._lease.is_doubtful:
            return
        repository = self._repository
        self._lease.say()
        repository.store.forget()
        if not self._is_free(repository.numbers()):  # also where its first edition is gone already
            raise self._late(self._number)
        prefix = repository.name("packs") + "/"
        found = {item.name[len(prefix) :]: item.size for item in repository.store.list(prefix)}
        for pack in packs:
            if found.get(pack) != self._sizes[pack]:
                raise IntegrityError(
                    "Pack %s was removed before it could be committed" % pack, kind="transfer", found=pack, next="run again; nothing was published"
                )

    def _hold_after_anomaly(self, manifest: Manifest, receipt: Receipt, contents: Contents) -> Optional[Dict[str, str]]:
        """The hold that the parent gets with the commit, in the same object: it needs no request of its own, and comes with it or not at all."""
        base, whole = self._base, self._whole
        if base is None or whole is None:
            return None

        def look(old: Entry, new: Entry) -> Optional[bool]:
            # Without a look into what is sealed: what could not be compressed before tells nothing.
            luck = by_chance(1 << 32)
            was, now = _packed(whole.contents, old, luck), _packed(contents, new, luck)
            return None if was is None or now is None or was >= PACKED else now >= PACKED

        anomaly = judge(self._thresholds, self._trusted or whole.manifest, manifest, look, by_chance)
        if anomaly is None:
            return None
        self.anomaly = reason_to_hold(anomaly, None, receipt.id)
        return {"at": rfc3339(self._repository.store.clock()), "reason": self.anomaly, "by": "anomaly"}

    def close(self, *, keep: bool = False) -> None:
        """Take back what was stored for nothing. A run that is killed leaves it, and a prune takes it when the lease is over."""
        mine, self._mine = self._mine, []
        if self._is_published:
            return
        with suppress(BackupError):
            for name in map(self._repository.pack_name, mine):
                self._repository.store.delete(name)
        self._lease.end()


def seal_manifest(
    repository: Repository,
    header: Mapping[str, Any],
    packs: Mapping[str, int],
    keys: Mapping[str, str],
    manifest: Manifest,
    contents: Contents,
    base: Optional[Base],
) -> Tuple[bytes, bool]:
    """The object of a manifest, and whether it is the difference to ``base``, which it is where that is worth it.

    ``packs``: what it needs, with sizes in bytes; ``keys``: the ids of the keys that seal some of them.
    """
    others: Dict[str, List[str]] = {}
    for pack in packs:
        if keys.get(pack, repository.key_id) != repository.key_id:
            others.setdefault(keys[pack], []).append(pack)
    header = {**header, "packs": packs, "base": None, **({"others": others} if others else {})}
    if base is not None:
        size = repository.store.size(repository.manifest_name(base.number, base.edition)) or 0
        if size > FULL_UP_TO:
            more = {"base": base.number, **({"base_edition": base.edition} if base.edition else {})}
            body = write_body(manifest, contents, (base.manifest, base.contents))
            data = seal_object(repository.master, os.urandom(ID_BYTES), {**header, **more}, body)
            if len(data) * _WORTH <= size:
                return data, True
    return seal_object(repository.master, os.urandom(ID_BYTES), header, write_body(manifest, contents)), False


def lacking(manifest: Manifest, is_here: Callable[[str], bool]) -> List[Entry]:
    """The files of a manifest whose content, by its digest, is not here: each content once."""
    seen: Set[str] = set()
    found: List[Entry] = []
    for entry in manifest.entries:
        if entry.type != FILE or not entry.size or entry.hash in seen or entry.is_group_follower:
            continue
        seen.add(entry.hash)
        if not is_here(entry.hash):
            found.append(entry)
    return found


def _packed(contents: Contents, entry: Entry, luck: int) -> Optional[float]:
    """Which share of its size a piece of a file takes up once it is packed; None where it is not known. ``luck`` says which, of files of one size the
    same."""
    pieces = contents.pieces(entry.hash)
    piece = pieces[luck % len(pieces)][1] if pieces else None
    return piece.length / piece.size if piece else None
