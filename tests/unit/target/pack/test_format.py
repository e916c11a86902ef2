# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of sealed packs: what goes in comes out, and nothing else is ever taken for it."""

from __future__ import annotations

import hashlib
from typing import Dict, List, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import plain_file
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.format import (
    Blob,
    Contents,
    PackKey,
    PackWriter,
    check_head,
    open_object,
    read_body,
    read_head,
    read_index,
    seal_object,
    write_body,
)
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.sealing import Packer, Sealer, derive, key_id
from hypothesis import given, settings
from hypothesis import strategies as st

MASTER, OTHER_MASTER = bytes(range(32)), bytes(range(1, 33))
HERE, ELSEWHERE = "11" * 16, "22" * 16
ONE, TWO = "aa" * 16, "bb" * 16


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(blobs: List[bytes], pack: str = ONE, repository: str = HERE, master: bytes = MASTER) -> Tuple[bytes, Dict[str, Blob]]:
    writer = PackWriter(master, repository, pack)
    places = {sha(blob): writer.add(sha(blob), blob) for blob in dict.fromkeys(blobs)}
    return writer.finish(), places


def read_all(data: bytes, pack: str = ONE, repository: str = HERE, master: bytes = MASTER) -> List[bytes]:
    key = PackKey(master, repository, pack)
    return [key.open_blob(blob, digest, data[blob.offset : blob.offset + blob.length]) for digest, blob in read_index(data, key, pack).items()]


def refused(function: object, *args: object) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        function(*args)  # type: ignore[operator]
    return caught.value


# ---- packs ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=8))
def test_every_blob_comes_back_by_the_index_and_by_its_place(blobs: List[bytes]) -> None:
    data, places = packed(blobs)
    assert read_all(data) == list(dict.fromkeys(blobs))
    assert read_index(data, PackKey(MASTER, HERE, ONE), ONE) == places


def test_every_flipped_bit_of_a_pack_is_found() -> None:
    data, _places = packed([b"one", b"two" * 50])
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            refused(read_all, bytes(flipped))


@given(st.data())
def test_a_pack_that_was_cut_or_grew_is_refused(choice: st.DataObject) -> None:
    data, _places = packed([b"one", b"two" * 50])
    refused(read_all, data[: choice.draw(st.integers(0, len(data) - 1))])
    refused(read_all, data + choice.draw(st.binary(min_size=1, max_size=40)))


def test_another_pack_repository_or_key_is_refused() -> None:
    data, _places = packed([b"one"])
    for other in ((TWO, HERE, MASTER), (ONE, ELSEWHERE, MASTER), (ONE, HERE, OTHER_MASTER)):
        assert "pack" in refused(read_all, data, *other).message


def test_a_blob_of_another_pack_or_place_is_refused_also_without_the_frame() -> None:
    """Ranges are read without the rest of the pack."""
    data, places = packed([b"one", b"two"])
    one, two = places[sha(b"one")], places[sha(b"two")]
    sealed = data[one.offset : one.offset + one.length]
    assert PackKey(MASTER, HERE, ONE).open_blob(one, sha(b"one"), sealed) == b"one"
    for key in (PackKey(MASTER, HERE, TWO), PackKey(MASTER, ELSEWHERE, ONE), PackKey(OTHER_MASTER, HERE, ONE)):
        refused(key.open_blob, one, sha(b"one"), sealed)
    refused(PackKey(MASTER, HERE, ONE).open_blob, two, sha(b"one"), sealed)
    refused(PackKey(MASTER, HERE, ONE).open_blob, one, sha(b"two"), sealed)
    refused(PackKey(MASTER, HERE, ONE).open_blob, one._replace(size=2), sha(b"one"), sealed)


def test_no_content_stands_in_the_clear() -> None:
    secret = b"correct horse battery staple"
    data, _places = packed([secret])
    assert secret not in data and MASTER not in data and bytes.fromhex(sha(secret)) not in data


# ---- manifests -------------------------------------------------------------------------------------------------------------


def manifest_of(files: Dict[bytes, bytes]) -> Manifest:
    header = Header(host="h", policy="p", sources=("/src",), selection={}, engine="1", claimed="2026-11-20T09:15:00.123Z")
    return Manifest.from_entries(header, [plain_file(path, 0o644, 0, 0, 0, len(data), sha(data)) for path, data in files.items()])


def contents_of(files: Dict[bytes, bytes], pack: str = ONE) -> Contents:
    return Contents({sha(data): Blob(pack, number, 48, 100, len(data)) for number, data in enumerate(files.values())}, {})


TREES = st.dictionaries(st.from_regex(b"[a-z]{1,8}", fullmatch=True), st.binary(min_size=1, max_size=20), max_size=12)


@settings(deadline=None)
@given(TREES, TREES)
def test_a_manifest_comes_back_whole_and_as_a_difference(before: Dict[bytes, bytes], after: Dict[bytes, bytes]) -> None:
    base = (manifest_of(before), contents_of(before))
    assert read_body(write_body(*base)) == base
    new, contents = manifest_of(after), contents_of(after, TWO)
    manifest, found = read_body(write_body(new, contents, base), base)
    assert manifest == new
    assert found.of(entry.hash for entry in new.entries) == contents.of(entry.hash for entry in new.entries)


def test_files_larger_than_a_block_keep_their_blocks_in_order() -> None:
    blocks = (sha(b"b"), sha(b"a"), sha(b"b"))
    contents = Contents({sha(b"a"): Blob(ONE, 0, 64, 5, 1), sha(b"b"): Blob(TWO, 0, 64, 5, 1)}, {sha(b"bab"): blocks})
    assert read_body(write_body(manifest_of({}), contents))[1] == contents
    pieces = contents.pieces(sha(b"bab"))
    assert pieces is not None and [name for name, _blob in pieces] == list(blocks)


def test_a_difference_to_another_manifest_is_refused() -> None:
    one, two = manifest_of({b"a": b"1", b"b": b"2"}), manifest_of({b"a": b"1", b"c": b"3"})
    body = write_body(manifest_of({b"a": b"1"}), Contents({}, {}), (one, Contents({}, {})))
    refused(read_body, body, (two, Contents({}, {})))


@pytest.mark.parametrize(
    "line", [b"P short", b"B none 0 0 0 0 0", b"B " + b"0" * 64 + b" 0 0 0 0 0", b"F " + b"0" * 64, b"X", b"P " + ONE.encode() + b"\xff", b""]
)
def test_a_list_of_contents_that_is_none_is_refused(line: bytes) -> None:
    refused(read_body, write_body(manifest_of({}), Contents({}, {})) + line + b"\n")


# ---- headers -----------------------------------------------------------------------------------------------------------------


def sealed_object(body: bytes = b"body") -> bytes:
    return seal_object(MASTER, bytes(16), {"kind": "manifest", "packs": {ONE: 100}}, body)


def opened(data: bytes, master: bytes = MASTER) -> bytes:
    head = read_head(data, "it")
    if head is None:
        raise IntegrityError("cut")
    return open_object(head, master, "it")


@given(st.binary(max_size=3000))
def test_a_header_is_read_without_a_key_and_a_body_with_it(body: bytes) -> None:
    data = sealed_object(body)
    head = read_head(data, "it")
    assert head is not None and head.header["packs"] == {ONE: 100}
    assert opened(data) == body
    refused(opened, data, OTHER_MASTER)
    refused(check_head, head, OTHER_MASTER, "it")


def test_every_flipped_bit_of_an_object_is_found() -> None:
    data = sealed_object()
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            refused(opened, bytes(flipped))


@given(st.data())
def test_an_object_that_was_cut_or_grew_is_refused(choice: st.DataObject) -> None:
    data = sealed_object()
    refused(opened, data[: choice.draw(st.integers(0, len(data) - 1))])
    refused(opened, data + b"\0")


def test_a_body_under_another_header_is_refused() -> None:
    one = sealed_object()
    other = seal_object(MASTER, bytes(16), {"kind": "manifest", "packs": {TWO: 100}}, b"body")
    assert len(one) == len(other)
    head = read_head(other, "it")
    assert head is not None
    refused(opened, other[: -head.header["body"]] + one[-head.header["body"] :])


# ---- known answers -------------------------------------------------------------------------------------------------------------


def test_keys_are_derived_as_rfc_5869_says() -> None:
    """Its test cases 1 and 3."""
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert derive(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))).hex() == okm[:64]
    assert derive(b"\x0b" * 22, b"", b"").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


def test_sealing_is_aes_256_gcm() -> None:
    """Test case 14 of the GCM specification: key, nonce and text all zeros."""
    assert Sealer(bytes(32)).seal(0, bytes(16), b"").hex() == "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"


def test_what_another_implementation_wrote_can_be_opened() -> None:
    """Written by hand from docs/pack-format.md with the library alone; zstd may pack otherwise one day, and is not asked here."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    def hkdf(salt: bytes, info: bytes, length: int) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(MASTER)

    content = b"known answer"
    prelude = b"OCBPACK\x01" + hkdf(b"", b"openclaw.backup 1 key id", 8) + bytes.fromhex(HERE) + bytes.fromhex(ONE)
    seal = AESGCM(hkdf(bytes.fromhex(ONE), b"openclaw.backup 1 pack", 32)).encrypt
    blob = seal(bytes(12), Packer().compress(content), prelude + bytes(4))
    index = b'[["%s",%d,%d]]' % (sha(content).encode(), len(blob), len(content))
    index = seal(bytes(8) + b"\xff" * 4, Packer().compress(index), prelude + b"\xff" * 4)
    assert read_all(prelude + blob + index + len(index).to_bytes(4, "big") + b"OCBPEND\x01") == [content]
    assert key_id(MASTER) == "8c6669e47ca1ee9c"


def test_what_unpacks_to_more_than_it_may_is_refused() -> None:
    refused(Packer().decompress, Packer().compress(bytes(1 << 20)), 1 << 10)
    refused(Packer().decompress, b"no zstd", 1 << 10)
    assert Packer().decompress(Packer().compress(b""), 0) == b""
