# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forced command: two requests and no third."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent import keeper, serve
from ansible_collections.openclaw.backup.plugins.module_utils.errors import RefusedError, UsageError
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.rsync import Options, build_argv, probe

TX = "0123456789abcdef" * 2
# As rsync 3.2.7 asks for it.
SERVER = "rsync --server -tre.iLsfxCIvu --inplace --copy-dest /basis . p/%s/files/" % TX


class Started(Exception):
    """Instead of becoming another program."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[Any]]:
    before = os.umask(0o022)
    calls: List[Any] = []

    def execve(program: str, argv: List[str], environment: Dict[str, str]) -> None:
        calls.append((program, argv, environment))
        raise Started

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(serve.shutil, "which", lambda name: "/usr/bin/" + name)
    yield calls
    os.umask(before)


def ask(monkeypatch: pytest.MonkeyPatch, command: str, **options: Any) -> int:
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", command)
    return serve.serve(**{"vault": "/srv/vault", "host": "web1", "storage": None, "may_read": False, "session": None, **options})


def test_what_rsync_writes_is_the_keepers_alone_to_share(monkeypatch: pytest.MonkeyPatch, started: List[Any]) -> None:
    masks: List[int] = []
    monkeypatch.setattr(os, "umask", masks.append)
    with pytest.raises(Started):
        ask(monkeypatch, SERVER)
    monkeypatch.setattr(keeper, "read_vault", lambda: {"directory": "/srv/vault"})
    monkeypatch.setattr(keeper, "read_account", lambda account: "web1")
    with pytest.raises(Started):
        ask(monkeypatch, SERVER, vault=None, host=None)
    assert masks == [0o077, 0o007], "the account that receives shares with its group, of which the vault's own is a member"


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(compress="zstd", checksum="xxh128", block_size="4096", bwlimit="10m"),
        Options(compress="zlibx"),
        Options(compress="lz4", checksum="md5"),
    ],
)
@pytest.mark.parametrize("is_recursive", [True, False])
@pytest.mark.parametrize("resume", [True, False])
def test_what_this_machines_rsync_asks_for_is_let_by(
    monkeypatch: pytest.MonkeyPatch, started: List[Any], tmp_path: Path, options: Options, is_recursive: bool, resume: bool
) -> None:
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nshift\necho "$@" >%s/asked\nexit 1\n' % tmp_path)
    shell.chmod(0o755)
    basis = b"" if resume else b"/basis/srv/www"
    destination = b"vault:p/%s/files/srv/www" % TX.encode()
    names = [b"x"] if is_recursive else []
    argv = build_argv(
        options, probe(), source_root=b"/tmp", destination=destination, recursive=is_recursive, resume=resume, basis=basis, shell=[bytes(shell)], names=names
    )
    subprocess.run(argv, input=b"", capture_output=True, check=False)
    with pytest.raises(Started):
        ask(monkeypatch, (tmp_path / "asked").read_text().strip())


def test_what_an_rsync_left_that_was_cut_off_is_opened_to_the_keeper(monkeypatch: pytest.MonkeyPatch, started: List[Any], tmp_path: Path) -> None:
    inside = tmp_path / "web1" / "p" / "incoming" / TX / "in" / "files" / "a" / "b"
    inside.mkdir(parents=True)
    for name, mode in (("whole", 0o640), ("part", 0o600)):
        (inside / name).write_text(name)
        (inside / name).chmod(mode)
    (inside / "link").symlink_to(inside / "part")
    monkeypatch.setattr(keeper, "read_vault", lambda: {"directory": str(tmp_path)})
    monkeypatch.setattr(keeper, "read_account", lambda account: "web1")
    with pytest.raises(Started):
        ask(monkeypatch, SERVER, vault=None, host=None)
    assert [(inside / name).stat().st_mode & 0o777 for name in ("whole", "part")] == [0o640, 0o660]


def test_rsync_is_confined_to_the_session_of_this_host(monkeypatch: pytest.MonkeyPatch, started: List[Any]) -> None:
    with pytest.raises(Started):
        ask(monkeypatch, SERVER)
    program, argv, environment = started[0]
    assert program == "/usr/bin/rrsync"
    assert argv == ["rrsync", "-wo", "-munge", "-no-lock", "/srv/vault/web1/p/incoming/%s/in" % TX]
    assert environment["SSH_ORIGINAL_COMMAND"].endswith(" . files/")
    assert set(environment) == {"SSH_ORIGINAL_COMMAND", "PATH", "LC_ALL"}


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh",
        "bash -i",
        "openclaw-backup serve --read",
        "openclaw-backup run p",
        "openclaw-backup serve; sh",
        " openclaw-backup serve",
        "rsync --server --sender -tre.iLsfxCIvu . p/%s/files/" % TX,
        SERVER.replace("p/", "../p/"),
        SERVER.replace("p/", "/p/"),
        SERVER.replace("p/" + TX, "p/../" + TX),
        SERVER.replace(TX, TX[:-1]),
        SERVER.replace(TX, TX.upper()),
        SERVER.replace("/files/", "/basis/"),
        SERVER.replace("/files/", "/files/../basis/"),
        SERVER.replace("/files/", "/files/x/../../y"),
        SERVER.replace("/files/", "/../snapshot/"),
        SERVER.replace("/files/", "/files"),
        SERVER + " p/%s/files/" % TX,
        SERVER + "\nsh",
        SERVER + "\\",
        SERVER.replace("rsync", "rsync;sh"),
        SERVER.replace("--inplace", "-B1"),
        SERVER.replace("--inplace", "-B 1"),
        SERVER.replace("--inplace", "--block-size=1"),
        SERVER.replace("--inplace", "--debug=deltasum3"),
        SERVER.replace("--inplace", "--checksum-seed=1"),
        SERVER.replace("--inplace", "--backup-dir=/x"),
        SERVER.replace("--inplace", "--log-file=/x"),
        SERVER.replace("--inplace", "--copy-dest /files"),
        SERVER.replace("--inplace", "--delete"),
        SERVER.replace("/basis", "/basis/../files"),
        SERVER.replace("/basis", "/basis/.."),
        SERVER.replace("--inplace", "."),
        SERVER.replace("--inplace", "\\t.\\tp"),
        SERVER.replace("-tre.iLsfxCIvu", "-ptre.iLsfxCIvu"),
        "rrsync / ",
        "scp -t /",
        "internal-sftp",
        "\udcff",
    ],
)
def test_everything_else_is_refused(monkeypatch: pytest.MonkeyPatch, started: List[Any], command: str) -> None:
    with pytest.raises(RefusedError) as caught:
        ask(monkeypatch, command)
    assert (caught.value.kind, caught.value.rc) == ("scope", 4)
    assert started == []


def test_the_key_of_another_vault_starts_the_session_that_reads_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: List[str] = []
    monkeypatch.setattr(serve, "_hand_over", handed.append)
    monkeypatch.setattr(serve, "_converse", lambda find_keeper: find_keeper(False) or 0)
    assert ask(monkeypatch, "openclaw-backup serve", vault=None, host=None, copies=True) == 0
    assert handed == ["copies"]
    with pytest.raises(RefusedError, match="reads copies alone"):
        ask(monkeypatch, SERVER, vault=None, host=None, copies=True)


def test_a_key_that_a_grant_lets_in_brings_no_content(monkeypatch: pytest.MonkeyPatch, started: List[Any]) -> None:
    with pytest.raises(RefusedError, match="reads, and sends nothing"):
        ask(monkeypatch, SERVER, vault=None, host=None, may_read=True)
    assert started == []


@pytest.mark.parametrize(
    ("options", "field"), [({"host": None}, "--host"), ({"host": "../x"}, "--host"), ({"vault": "srv"}, "--vault"), ({"storage": "x"}, "--storage")]
)
def test_a_key_line_that_is_wrong_says_so(monkeypatch: pytest.MonkeyPatch, options: Dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask(monkeypatch, SERVER, **options)
    assert caught.value.field == field
