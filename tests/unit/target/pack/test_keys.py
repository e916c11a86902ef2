# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The master key: from a file or a program, and what is wrong with it is said without showing it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.keys import ask_key, read_key

KEY = bytes(range(32))


def key_file(tmp_path: Path, text: bytes, mode: int = 0o600) -> str:
    path = tmp_path / "key"
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("text", [KEY.hex().encode(), KEY.hex().upper().encode() + b"\n", base64.b64encode(KEY) + b"\n"])
def test_a_key_is_hexadecimal_or_base64(tmp_path: Path, text: bytes) -> None:
    assert read_key(key_file(tmp_path, text)) == KEY
    assert ask_key(["cat", key_file(tmp_path, text)]) == KEY


@pytest.mark.parametrize(
    "text", [b"", b"\n", KEY, KEY.hex()[:-2].encode(), b"g" * 64, base64.b64encode(KEY[:31]), base64.b64encode(KEY + b"x"), b"pass phrase"]
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, text: bytes) -> None:
    for call in (lambda: read_key(key_file(tmp_path, text)), lambda: ask_key(["cat", key_file(tmp_path, text)])):
        with pytest.raises(BackupError) as caught:
            call()
        assert caught.value.kind == "key" and caught.value.next
        word = text.strip().decode("latin-1")
        assert not word or word not in str(caught.value) + str(caught.value.to_dict())


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BackupError, match="open to others") as caught:
        read_key(key_file(tmp_path, KEY.hex().encode(), mode))
    assert caught.value.rc == 4


def test_a_missing_key_is_told_of_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="cannot be read") as caught:
        read_key(str(tmp_path / "none"))
    assert "openssl rand" in str(caught.value.next)
    with pytest.raises(BackupError, match="not a regular file"):
        read_key(str(tmp_path))


@pytest.mark.parametrize("argv", [["/nonexistent"], ["false"], ["sh", "-c", "echo secret >&2; exit 3"]])
def test_a_key_command_that_fails_is_told_of_without_what_it_says(argv: "list[str]") -> None:
    with pytest.raises(BackupError) as caught:
        ask_key(argv)
    assert caught.value.kind == "key" and "secret" not in str(caught.value)
