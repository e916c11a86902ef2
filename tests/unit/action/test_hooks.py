# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a hook's words is short, printable, and without what looks like a secret."""

from __future__ import annotations

import os
import time
from typing import Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.hooks import Output, mask


@pytest.mark.parametrize(
    "line, shown",
    [
        ("PGPASSWORD=hunter2", "PGPASSWORD=***"),
        ("password: hunter two", "password: ***"),
        ('{"db_password": "hunter2", "user": "x"}', '{"db_password":***'),
        ("<password>hunter2</password>", "<password>***"),
        ("aws_secret_access_key = abc/def+ghi", "aws_secret_access_key =***"),
        ("X-Api-Key: abc", "X-Api-Key:***"),
        ("Authorization: Bearer abc.def", "Authorization:***"),
        ("curl -H bearer abcdef", "curl -H bearer ***"),
        ("mysqldump --password hunter2 db", "mysqldump --password ***"),
        ("restic --repository-key  abc", "restic --repository-key ***"),
        ("CREATE ROLE x PASSWORD 'hunter2'", "CREATE ROLE x PASSWORD ***"),
        ("CREATE USER x IDENTIFIED BY 'hunter2'", "CREATE USER x IDENTIFIED BY ***"),
        ("postgresql://me:hunter2@db/x failed", "postgresql://***@db/x failed"),
        ("https://me:hun@ter2@db/x", "https://***@db/x"),
        ("https://db/x?access_token=abc&y=1", "https://db/x?access_token=***"),
        ("pushed with ghp_0123456789abcdef", "pushed with ***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "***"),
    ],
)
def test_what_looks_like_a_secret_is_not_kept(line: str, shown: str) -> None:
    masked = mask(line)
    assert "hunter" not in masked and masked.replace(": ***", ":***") == shown.replace(": ***", ":***")


@pytest.mark.parametrize(
    "line",
    [
        'pg_dump: error: connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: No such file or directory',
        'FATAL:  password authentication failed for user "backup"',
        "Logical volume vg0/data-backup is used by another device.",
        "mount: /mnt/x: wrong fs type, bad option, bad superblock on /dev/vg0/x.",
    ],
)
def test_what_helps_to_find_the_cause_stays(line: str) -> None:
    assert mask(line) == line


def said(data: bytes) -> Tuple[str, ...]:
    output = Output()
    reader, writer = os.pipe()
    try:
        for start in range(0, len(data), 4096):
            os.write(writer, data[start : start + 4096])
            assert output.take(reader)
        os.close(writer)
        assert not output.take(reader)
    finally:
        os.close(reader)
    return output.tail()


def test_the_last_lines_are_kept() -> None:
    assert said(b"") == ()
    assert said(b"one\n\n  two  \r\nthree") == ("one", "  two", "three")
    assert said(b"".join(b"%d\n" % number for number in range(30000))) == tuple(map(str, range(29980, 30000)))


def test_a_long_line_is_cut_and_a_control_character_is_shown() -> None:
    (line,) = said(b"\x1b[2J\xff\0" + b"x" * 1000 + b"\n")
    assert line.startswith("\\x1b[2J\\xff\\x00xxx") and line.endswith("x…") and len(line) == 300
    assert said(b"\0" * 1_000_000) == ()  # no line of it is whole


def test_a_secret_behind_the_end_of_what_is_shown_does_not_come_into_sight() -> None:
    (line,) = said(b"x" * 280 + b" https://me:" + b"y" * 100 + b"@db/\n")
    assert "y" not in line and line.endswith("https://***@db/")


def test_a_private_key_is_not_kept() -> None:
    key = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"c2VjcmV0\n" * 5 + b"-----END OPENSSH PRIVATE KEY-----\nafter\n"
    assert said(b"before\n" + key) == ("before", *["***"] * 7, "after")


def test_masking_what_a_hook_says_takes_no_time() -> None:
    began = time.monotonic()
    for text in (b"://", b"-", b"password", b"--key", b"identified by", b" '"):
        said((text * 5000)[:4000] * 15 + b"\n")
        said((((text * 5000)[:4000]) + b"\n") * 15)
    assert time.monotonic() - began < 10
