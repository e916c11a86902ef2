# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealed packs in a directory: the whole way of a backup and back, and what becomes of those who come in between."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from .world import Packed, assert_same


@pytest.fixture
def packed() -> Iterator[Packed]:
    made = Packed.make()
    assert isinstance(made, Packed)
    yield made
    made.destroy()


def test_a_snapshot_comes_back_as_it_was(packed: Packed) -> None:
    (packed.src / "small").write_bytes(b"content")
    (packed.src / "empty").write_bytes(b"")
    (packed.src / "large").write_bytes(os.urandom(9 << 20))
    (packed.src / "again").write_bytes(b"content")
    (packed.src / "dir").mkdir()
    os.link(packed.src / "small", packed.src / "dir" / "linked")
    first = packed.backup()
    assert first.changed and first.files_sent == 2
    assert packed.verify(depth="full").ok
    dest = packed.root / "dest"
    assert packed.restore(dest=dest).verified
    assert_same(packed.src, packed.restored(dest))
    (packed.src / "small").write_bytes(b"other")
    second = packed.backup()
    assert second.files_sent == 1 and second.bytes_sent == 5
    packed.check_history(count=2)
