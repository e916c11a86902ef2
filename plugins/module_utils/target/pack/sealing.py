# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How bytes are sealed: keys derived from the master key (RFC 5869), AES-256-GCM, zstd. The one file that needs libraries beside Python's own."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Tuple

from ...errors import IntegrityError, TargetError

KEY_BYTES = 32
TAG_BYTES = 16
_LEVEL = 3
_NONCE_BYTES = 12
_HASH_BYTES = 32


def load_libraries() -> Tuple[Any, Any]:
    """The class AESGCM and the module zstandard. ``TargetError`` (kind ``library``) where they are not installed."""
    try:
        import zstandard
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise TargetError(
            "Sealed packs need two Python libraries, and %s is not installed here" % (error.name or "one"),
            kind="library",
            field="target.layout",
            found=error.name,
            allowed="python3-cryptography and python3-zstandard",
            next="install them: apt-get install python3-cryptography python3-zstandard",
        ) from error
    return AESGCM, zstandard


def derive(master: bytes, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF with SHA-256: ``length`` bytes (up to 32) for one use of the master key."""
    extracted = hmac.new(salt or bytes(_HASH_BYTES), master, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:length]


def key_id(master: bytes) -> str:
    """16 hexadecimal digits by which a key is known, and from which nothing of it can be learnt."""
    return derive(master, b"", b"openclaw.backup 1 key id", 8).hex()


def authenticate(master: bytes, data: bytes) -> bytes:
    """The MAC of what stands in the clear: HMAC-SHA256."""
    return hmac.new(derive(master, b"", b"openclaw.backup 1 header"), data, hashlib.sha256).digest()


def is_authentic(master: bytes, data: bytes, mac: bytes) -> bool:
    """Whether that is its MAC."""
    return hmac.compare_digest(authenticate(master, data), mac)


class Sealer:
    """AES-256-GCM with one derived key. A number must seal one text only."""

    def __init__(self, key: bytes) -> None:
        aead, _zstandard = load_libraries()
        self._aead = aead(key)

    def seal(self, number: int, data: bytes, associated: bytes) -> bytes:
        """Ciphertext and tag; the nonce is ``number`` in 12 bytes, the most significant first."""
        sealed: bytes = self._aead.encrypt(number.to_bytes(_NONCE_BYTES, "big"), data, associated)
        return sealed

    def open(self, number: int, sealed: bytes, associated: bytes) -> bytes:
        """What was sealed. ``IntegrityError`` (kind ``seal``) where anything at all differs."""
        try:
            data: bytes = self._aead.decrypt(number.to_bytes(_NONCE_BYTES, "big"), sealed, associated)
        except Exception as error:
            raise broken("its seal does not hold") from error
        return data


class Packer:
    """zstd, for one thread at a time: what it works in is made once."""

    def __init__(self) -> None:
        self._zstandard = load_libraries()[1]
        self._compressor: Any = None
        self._decompressor: Any = None

    def compress(self, data: bytes) -> bytes:
        """One zstd frame that tells its size."""
        if self._compressor is None:
            self._compressor = self._zstandard.ZstdCompressor(level=_LEVEL)
        packed: bytes = self._compressor.compress(data)
        return packed

    def decompress(self, data: bytes, limit: int) -> bytes:
        """What one zstd frame holds. ``IntegrityError`` where it is none, or holds more than ``limit`` bytes."""
        if self._decompressor is None:
            self._decompressor = self._zstandard.ZstdDecompressor()
        try:
            size = self._zstandard.frame_content_size(data)
            if not 0 <= size <= limit:
                raise broken("it unpacks to more than it may")
            unpacked: bytes = self._decompressor.decompress(data, max_output_size=limit) if size else b""
        except self._zstandard.ZstdError as error:
            raise broken("it is not packed as it should be") from error
        return unpacked


def broken(reason: str) -> IntegrityError:
    """The error for an object that is not what was written."""
    return IntegrityError(
        "An object of the vault is damaged, was tampered with or is not this one: %s" % reason,
        kind="seal",
        found=reason,
        next="verify the history; what it names is sent again by the next run",
    )
