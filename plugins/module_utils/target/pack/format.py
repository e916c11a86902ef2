# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of sealed packs (1), which docs/pack-format.md describes: from values to bytes and back. Touches no store."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from ...manifest.delta import apply_delta, make_delta
from ...manifest.document import Manifest
from .sealing import TAG_BYTES, Packer, Sealer, authenticate, broken, derive, is_authentic, key_id

FORMAT = 1
# Larger files are cut: so much is sent again for a byte that changed, and so much is in memory at once.
BLOCK = 4 << 20
# Plaintext of one pack (bytes).
PACK = 64 << 20
ID_BYTES = 16
# The number under which a pack's index is sealed; blobs count from 0.
_INDEX = 0xFFFFFFFF
_PACK_MAGIC = b"OCBPACK\x01"
_END_MAGIC = b"OCBPEND\x01"
_DATA_MAGIC = b"OCBDATA\x01"
_PRELUDE = struct.Struct(">8s8s16s16s")  # magic, key id, repository, pack
_TRAILER = struct.Struct(">I8s")  # length of the sealed index, magic
_HEAD = struct.Struct(">8sI")  # magic, length of the header
_SECTION = struct.Struct(">Q")  # length of the manifest's part of a body
_MAC_BYTES = 32
_MAX_INDEX = 1 << 30
_MAX_HEADER = 64 << 20
_MAX_BODY = 4 << 30
PRELUDE_BYTES = _PRELUDE.size
TRAILER_BYTES = _TRAILER.size
_ID = re.compile("[0-9a-f]{32}")
_HASH = re.compile("[0-9a-f]{64}")


def is_id(text: Any) -> bool:
    """Whether it has the form of the id of a pack or repository: 32 hexadecimal digits."""
    return type(text) is str and _ID.fullmatch(text) is not None


def _canonical(item: Any) -> bytes:
    return json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


# ---- packs ---------------------------------------------------------------------------------------------------------------


class Blob(NamedTuple):
    """Where one piece of content lies: blob ``number`` (from 0) of ``pack``, ``length`` sealed bytes from ``offset`` on; ``size`` bytes when opened."""

    pack: str
    number: int
    offset: int
    length: int
    size: int


class PackKey:
    """What seals and opens the blobs of one pack of one repository."""

    def __init__(self, master: bytes, repository: str, pack: str) -> None:
        self.prelude = _PRELUDE.pack(_PACK_MAGIC, bytes.fromhex(key_id(master)), bytes.fromhex(repository), bytes.fromhex(pack))
        self._packer = Packer()
        self._sealer = Sealer(derive(master, bytes.fromhex(pack), b"openclaw.backup 1 pack"))

    def _associated(self, number: int) -> bytes:
        return self.prelude + struct.pack(">I", number)

    def seal(self, number: int, data: bytes) -> bytes:
        """A blob, or the index, as it lies in the pack."""
        return self._sealer.seal(number, self._packer.compress(data), self._associated(number))

    def open(self, number: int, sealed: bytes, limit: int) -> bytes:
        """What was sealed as that number, ``limit`` bytes at most. ``IntegrityError`` (kind ``seal``)."""
        return self._packer.decompress(self._sealer.open(number, sealed, self._associated(number)), limit)

    def open_blob(self, blob: Blob, digest: str, sealed: bytes) -> bytes:
        """The content of a blob, of which the SHA-256 is ``digest``. ``IntegrityError`` (kind ``seal``)."""
        data = self.open_sized(blob, sealed)
        if hashlib.sha256(data).hexdigest() != digest:
            raise broken("a blob holds other content than its name says")
        return data

    def open_sized(self, blob: Blob, sealed: bytes) -> bytes:
        """The content of a blob, which is what was sealed as that blob; that it has the digest of its name is for others to say. As ``open_blob``."""
        data = self.open(blob.number, sealed, blob.size)
        if len(data) != blob.size:
            raise broken("a blob holds other content than its name says")
        return data


class PackWriter:
    """A pack in the making, in memory."""

    def __init__(self, master: bytes, repository: str, pack: str) -> None:
        self.pack = pack
        self.plain = 0  # bytes of content so far
        self._key = PackKey(master, repository, pack)
        self._pieces = [self._key.prelude]
        self._offset = PRELUDE_BYTES
        self._blobs: List[Tuple[str, int, int]] = []

    def add(self, digest: str, data: bytes) -> Blob:
        """Take in one piece of content, whose SHA-256 is ``digest``."""
        index = len(self._blobs)
        sealed = self._key.seal(index, data)
        blob = Blob(self.pack, index, self._offset, len(sealed), len(data))
        self._pieces.append(sealed)
        self._blobs.append((digest, len(sealed), len(data)))
        self._offset += len(sealed)
        self.plain += len(data)
        return blob

    def finish(self) -> bytes:
        """The whole pack."""
        index = self._key.seal(_INDEX, _canonical(self._blobs))
        return b"".join([*self._pieces, index, _TRAILER.pack(len(index), _END_MAGIC)])


def read_index(data: bytes, key: PackKey, pack: str) -> Dict[str, Blob]:
    """The blobs of a whole pack by their digests. ``IntegrityError`` (kind ``seal``) where anything of its frame is not as it was written."""
    return fetch_index(lambda start, length: data[start : start + length], len(data), key, pack)


def fetch_index(get: Callable[[int, int], Optional[bytes]], size: int, key: PackKey, pack: str) -> Dict[str, Blob]:
    """As ``read_index``, of a pack of ``size`` bytes of which ``get`` gives so many from a place on."""
    if size < PRELUDE_BYTES + TRAILER_BYTES or get(0, PRELUDE_BYTES) != key.prelude:
        raise broken("it is not pack %s of this repository and key" % pack)
    end = get(size - TRAILER_BYTES, TRAILER_BYTES) or b""
    length, magic = _TRAILER.unpack(end) if len(end) == TRAILER_BYTES else (0, b"")
    start = size - TRAILER_BYTES - length
    if magic != _END_MAGIC or start < PRELUDE_BYTES:
        raise broken("pack %s has no whole end" % pack)
    blobs: Dict[str, Blob] = {}
    offset = PRELUDE_BYTES
    for number, (digest, sealed, plain) in enumerate(json.loads(key.open(_INDEX, get(start, length) or b"", _MAX_INDEX))):
        blobs[digest] = Blob(pack, number, offset, sealed, plain)
        offset += sealed
    if offset != start:
        raise broken("the blobs of pack %s do not fill it" % pack)
    return blobs


# ---- contents ----------------------------------------------------------------------------------------------------------------


class Contents(NamedTuple):
    """Where content lies: ``blobs`` by their digests, and of ``files`` larger than a block, by theirs, the digests of the blocks in order."""

    blobs: Dict[str, Blob]
    files: Dict[str, Tuple[str, ...]]

    def pieces(self, digest: str) -> Optional[List[Tuple[str, Blob]]]:
        """The blobs, each with its digest, whose content makes up the file of ``digest``; None where not all are known."""
        blob = self.blobs.get(digest)
        if blob is not None:
            return [(digest, blob)]
        found = [(name, self.blobs.get(name)) for name in self.files.get(digest, ())]
        whole = [(name, piece) for name, piece in found if piece is not None]
        return whole if whole and len(whole) == len(found) else None

    def of(self, digests: Iterable[str]) -> Contents:
        """The part of it that files of these digests need. ``KeyError`` where one is not there."""
        blobs: Dict[str, Blob] = {}
        files: Dict[str, Tuple[str, ...]] = {}
        for digest in digests:
            for name in self.files[digest] if digest in self.files else (digest,):
                blobs[name] = self.blobs[name]
            if digest in self.files:
                files[digest] = self.files[digest]
        return Contents(blobs, files)

    def minus(self, other: Contents) -> Contents:
        """What of it the other lacks, or has elsewhere."""
        return Contents(
            {digest: blob for digest, blob in self.blobs.items() if other.blobs.get(digest) != blob},
            {digest: blocks for digest, blocks in self.files.items() if other.files.get(digest) != blocks},
        )

    def plus(self, other: Contents) -> Contents:
        """Both; where both know a piece, it lies where the other says."""
        return Contents({**self.blobs, **other.blobs}, {**self.files, **other.files})

    @property
    def packs(self) -> Set[str]:
        """The packs in which it lies."""
        return {blob.pack for blob in self.blobs.values()}


def _write_contents(contents: Contents) -> bytes:
    packs = sorted(contents.packs)
    number = {pack: index for index, pack in enumerate(packs)}
    lines = ["P %s" % pack for pack in packs]
    lines += ["B %s %d %d %d %d %d" % (digest, number[blob.pack], *blob[1:]) for digest, blob in sorted(contents.blobs.items())]
    lines += ["F %s %s" % (digest, " ".join(blocks)) for digest, blocks in sorted(contents.files.items())]
    return "".join(line + "\n" for line in lines).encode("ascii")


def _read_contents(text: bytes) -> Contents:
    packs: List[str] = []
    contents = Contents({}, {})
    try:
        for line in text.decode("ascii").splitlines():
            kind, *words = line.split(" ")
            if not all(map(_HASH.fullmatch, words if kind == "F" else words[: kind == "B"])):
                raise ValueError("no digest")
            if kind == "P" and is_id(words[0]):
                packs.append(words[0])
            elif kind == "B":
                at, index, offset, length, size = map(int, words[1:])
                if min(at, index, offset, length, size) < 0 or size > BLOCK:
                    raise ValueError("no place")
                contents.blobs[words[0]] = Blob(packs[at], index, offset, length, size)
            elif kind == "F" and len(words) > 1:
                contents.files[words[0]] = tuple(words[1:])
            else:
                raise ValueError("no such line")
    except (ValueError, IndexError) as error:
        raise broken("a list of contents that is none (%s)" % error) from error
    return contents


# ---- everything that is no pack ----------------------------------------------------------------------------------------------


class Sealed(NamedTuple):
    """An object with a header in the clear: ``header``, the bytes that its MAC is for, the MAC, and the sealed body, perhaps cut off."""

    header: Mapping[str, Any]
    clear: bytes
    mac: bytes
    body: bytes


def seal_object(master: bytes, salt: bytes, header: Mapping[str, Any], body: bytes) -> bytes:
    """An object: a header that everybody can read and nobody without the key can change, and a body that is sealed to it.

    ``salt``: 16 random bytes, for this object alone; ``header``: what is to be in it beside ``format``, ``key``, ``salt`` and ``body``.
    """
    packed = Packer().compress(body)
    sealer = Sealer(derive(master, salt, b"openclaw.backup 1 object"))
    length = len(packed) + TAG_BYTES
    text = _canonical({**header, "format": FORMAT, "key": key_id(master), "salt": salt.hex(), "body": length})
    clear = _HEAD.pack(_DATA_MAGIC, len(text)) + text
    return b"".join([clear, authenticate(master, clear), sealer.seal(0, packed, clear)])


def read_head(data: bytes, name: str) -> Optional[Sealed]:
    """What the bytes of an object, or the first of them, say without a key; None where its header needs more than these.

    ``IntegrityError`` (kind ``seal``), or ``TargetError`` where a newer version wrote it."""
    if len(data) < _HEAD.size:
        raise broken("%s is truncated" % name)
    magic, length = _HEAD.unpack_from(data)
    if magic != _DATA_MAGIC or length > _MAX_HEADER:
        raise broken("%s is no object of format %d" % (name, FORMAT))
    end = _HEAD.size + length
    if len(data) < end + _MAC_BYTES:
        return None
    try:
        header = json.loads(data[_HEAD.size : end])
    except (ValueError, RecursionError) as error:
        raise broken("the header of %s is not JSON" % name) from error
    if type(header) is not dict or header.get("format") != FORMAT or type(header.get("body")) is not int:
        raise broken("the header of %s is none of format %d" % (name, FORMAT))
    return Sealed(header, data[:end], data[end : end + _MAC_BYTES], data[end + _MAC_BYTES :])


def head_bytes(data: bytes) -> int:
    """How many of an object's bytes ``read_head`` needs, by its first ones, of which it said that they are too few."""
    return int(_HEAD.size + _HEAD.unpack_from(data)[1] + _MAC_BYTES)


def check_head(sealed: Sealed, master: bytes, name: str) -> None:
    """``IntegrityError`` (kind ``seal``) where the header is not as it was written with this key."""
    if not is_authentic(master, sealed.clear, sealed.mac):
        raise broken("the header of %s was not written with this key" % name)


def open_object(sealed: Sealed, master: bytes, name: str) -> bytes:
    """The body. ``IntegrityError`` (kind ``seal``) where it or the header is not as it was written."""
    check_head(sealed, master, name)
    if len(sealed.body) != sealed.header["body"]:
        raise broken("%s is truncated or followed by other bytes" % name)
    salt = bytes.fromhex(sealed.header["salt"])
    return Packer().decompress(Sealer(derive(master, salt, b"openclaw.backup 1 object")).open(0, sealed.body, sealed.clear), _MAX_BODY)


# ---- the body of a manifest --------------------------------------------------------------------------------------------------


def write_body(manifest: Manifest, contents: Contents, base: Optional[Tuple[Manifest, Contents]] = None) -> bytes:
    """A manifest with the places of its contents; where there is a ``base``, only what that lacks."""
    known = base[1] if base is not None else Contents({}, {})
    part = make_delta(base[0] if base is not None else None, manifest, same_times=True)
    return _SECTION.pack(len(part)) + part + _write_contents(contents.minus(known))


def read_body(body: bytes, base: Optional[Tuple[Manifest, Contents]] = None) -> Tuple[Manifest, Contents]:
    """What ``write_body`` was given, with the same base."""
    if len(body) < _SECTION.size:
        raise broken("a manifest without a body")
    length = _SECTION.unpack_from(body)[0]
    part, text = body[_SECTION.size : _SECTION.size + length], body[_SECTION.size + length :]
    manifest = apply_delta(base[0] if base is not None else None, part)
    contents = _read_contents(text)
    return manifest, base[1].plus(contents) if base is not None else contents
