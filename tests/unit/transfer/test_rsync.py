# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rsync this is, and the command line that lets it carry content only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.transfer import rsync
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.rsync import Capabilities, Options, build_argv, clean_environment, probe

VERSION_3_2_3 = """\
rsync  version 3.2.3  protocol version 31
Copyright (C) 1996-2020 by Andrew Tridgell, Wayne Davison, and others.
Web site: https://rsync.samba.org/
Capabilities:
    64-bit files, 64-bit inums, 64-bit timestamps, 64-bit long ints,
    socketpairs, hardlinks, hardlink-specials, symlinks, IPv6, atimes,
    batchfiles, inplace, append, ACLs, xattrs, optional protect-args, iconv,
    symtimes, prealloc, stop-at, no crtimes
Optimizations:
    SIMD, no asm, openssl-crypto
Checksum list:
    xxh128 xxh3 xxh64 (xxhash) md5 md4 none
Compress list:
    zstd lz4 zlibx zlib none

rsync comes with ABSOLUTELY NO WARRANTY.  This is free software, and you
are welcome to redistribute it under certain conditions.  See the GNU
General Public Licence for details.
"""
VERSION_3_1_3 = """\
rsync  version 3.1.3  protocol version 31
Copyright (C) 1996-2018 by Andrew Tridgell, Wayne Davison, and others.
Web site: http://rsync.samba.org/
Capabilities:
    64-bit files, 64-bit inums, 64-bit timestamps, 64-bit long ints,
    socketpairs, hardlinks, symlinks, IPv6, batchfiles, inplace,
    append, ACLs, xattrs, iconv, symtimes, prealloc
"""
VERSION_3_2_7 = """\
{
  "program": "rsync",
  "version": "3.2.7",
  "protocol": "31.0",
  "capabilities": {"file_bits": 64, "secluded_args": "optional"},
  "checksum_list": ["md5", "md4", "sha1", "none"],
  "compress_list": ["zlibx", "zlib", "none"]
}
"""
OPENRSYNC = "openrsync: protocol version 29, rsync version 2.6.9 compatible\n"
KNOWN = Capabilities("/usr/bin/rsync", (3, 5, 0), frozenset({"xxh128", "md5", "none"}), frozenset({"zstd", "lz4", "zlib", "none"}))


def install(where: Path, answers: str) -> str:
    """A program that answers as an older rsync does, whatever it is asked for."""
    (where / "answer").write_text(answers)
    program = where / "rsync"
    program.write_text('#!/bin/sh\nexec cat "%s/answer"\n' % where)
    program.chmod(0o755)
    return str(program)


def argv_for(options: Options, **more: Any) -> List[bytes]:
    request = {"source_root": b"/", "destination": b"/d", "recursive": False, "resume": False, **more}
    return build_argv(options, KNOWN, **request)


def test_the_installed_rsync_is_understood() -> None:
    found = probe()
    assert found.version >= (3, 2, 3)
    assert {"md5", "none"} <= found.checksums
    assert {"zlib", "none"} <= found.compressions
    assert found.program.startswith("/")


def test_the_text_of_an_rsync_that_knows_no_json_is_understood(tmp_path: Path) -> None:
    found = probe(install(tmp_path, VERSION_3_2_3))
    assert found.version == (3, 2, 3)
    assert found.checksums == {"xxh128", "xxh3", "xxh64", "md5", "md4", "none"}
    assert found.compressions == {"zstd", "lz4", "zlibx", "zlib", "none"}


def test_a_word_that_an_rsync_does_not_know_is_not_said_to_it(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(VERSION_3_2_3)
    program = tmp_path / "rsync"
    program.write_text('#!/bin/sh\ncase "$*" in *nonreg0*) echo "Unknown --info item" >&2; exit 1;; esac\nexec cat "%s/answer"\n' % tmp_path)
    program.chmod(0o755)
    for capabilities, is_said in ((probe(str(program)), False), (probe(), True)):
        argv = build_argv(Options(), capabilities, source_root=b"/", destination=b"/d", recursive=False, resume=False)
        assert any(b"nonreg0" in word for word in argv) is is_said


def test_an_rsync_built_without_xxhash_and_zstd_does_not_promise_them(tmp_path: Path) -> None:
    found = probe(install(tmp_path, VERSION_3_2_7))
    assert (found.version, found.checksums, found.compressions) == ((3, 2, 7), {"md5", "md4", "sha1", "none"}, {"zlibx", "zlib", "none"})


def test_a_version_option_that_is_refused_leaves_the_long_one(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(VERSION_3_2_3)
    program = tmp_path / "rsync"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && exec cat "%s/answer"\necho "rsync: $1: unknown option" >&2\nexit 1\n' % tmp_path)
    program.chmod(0o755)
    assert probe(str(program)).version == (3, 2, 3)


@pytest.mark.parametrize("text", [VERSION_3_1_3, OPENRSYNC, "", "{}"], ids=["3.1.3", "openrsync", "silent", "empty json"])
def test_an_rsync_that_cannot_do_the_work_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(BackupError) as caught:
        probe(install(tmp_path, text))
    assert (caught.value.kind, caught.value.allowed) == ("rsync_too_old", ">= 3.2.3")
    assert caught.value.found == text.split("\n")[0]


def test_a_host_without_rsync_is_told_how_to_get_it(tmp_path: Path) -> None:
    not_executable = tmp_path / "rsync"
    not_executable.write_text("")
    for program in ("no-such-rsync", str(not_executable)):
        with pytest.raises(BackupError) as caught:
            probe(program)
        assert (caught.value.kind, caught.value.next) == ("rsync_missing", "apt-get install rsync")


def test_content_is_all_that_travels() -> None:
    argv = argv_for(Options(), recursive=True)
    assert {b"--files-from=-", b"--from0", b"--times", b"--ignore-times", b"--recursive"} <= set(argv)
    assert argv[-3:] == [b"--", b"/", b"/d/"]
    carried = (b"perms", b"owner", b"group", b"links", b"hard-links", b"acls", b"xattrs", b"devices", b"specials", b"archive", b"delete")
    assert not [word for word in argv if word.startswith(tuple(b"--" + name for name in carried))]
    assert all(word.startswith(b"--") for word in argv[1:-3])


def test_directories_are_arguments_and_files_are_read() -> None:
    argv = argv_for(Options(), recursive=True, names=[b"-a b/c", b".", b"host:x"])
    assert argv[-5:] == [b"--", b"/./-a b/c", b"/./.", b"/./host:x", b"/d/"]
    assert not [word for word in argv if word.startswith((b"--files-from", b"--from0"))]


def test_only_a_resumed_transfer_without_a_basis_skips_what_seems_to_be_there() -> None:
    assert b"--ignore-times" not in argv_for(Options(), resume=True)
    assert b"--ignore-times" in argv_for(Options(), resume=True, basis=b"/basis")
    assert b"--copy-dest=/basis" in argv_for(Options(), basis=b"/basis")


def test_a_local_transfer_neither_compresses_nor_computes_deltas() -> None:
    argv = argv_for(Options(whole_file=True, compress="zstd", block_size="4096", sockopts="TCP_NODELAY"), basis=b"/basis")
    assert b"--whole-file" in argv
    assert not [word for word in argv if word.startswith((b"--compress", b"--block-size", b"--sockopts", b"--copy-dest", b"--no-whole-file"))]


def test_every_tuning_option_reaches_rsync() -> None:
    argv = argv_for(Options(compress="zstd", compress_level=9, checksum="xxh128", block_size="64k", timeout=60, sockopts="SO_SNDBUF=65536"))
    wanted = {
        b"--compress-choice=zstd",
        b"--compress-level=9",
        b"--checksum-choice=xxh128",
        b"--block-size=64k",
        b"--timeout=60",
        b"--sockopts=SO_SNDBUF=65536",
    }
    assert wanted <= set(argv)


def test_auto_leaves_the_choice_to_the_two_ends() -> None:
    argv = argv_for(Options(compress="auto", checksum="auto", compress_level=0))
    assert b"--compress" in argv
    assert not [word for word in argv if word.startswith((b"--compress-", b"--checksum-"))]


@pytest.mark.parametrize("rate, streams, kib", [("800k", 1, 800), ("10m", 2, 5120), ("1G", 4, 262144), ("1k", 3, 1)])
def test_streams_share_the_bandwidth_limit(rate: str, streams: int, kib: int) -> None:
    assert b"--bwlimit=%d" % kib in argv_for(Options(bwlimit=rate), streams=streams)


@pytest.mark.parametrize("options", [Options(checksum="xxh3"), Options(compress="zlibx"), Options(bwlimit="fast")], ids=["checksum", "compress", "bwlimit"])
def test_an_option_that_this_rsync_lacks_names_itself(options: Options) -> None:
    with pytest.raises(PolicyError) as caught:
        argv_for(options)
    assert str(caught.value.field).startswith("transfer.")
    assert caught.value.found in ("xxh3", "zlibx", "fast")
    assert caught.value.allowed


def test_what_arrives_is_private_here_and_open_to_the_vaults_own_account_there() -> None:
    assert b"--chmod=D0700,F0600" in argv_for(Options())
    assert b"--chmod=D0770,F0660" in argv_for(Options(), shell=[b"ssh"], destination=b"host:files")


def test_a_word_for_the_remote_shell_survives_rsyncs_own_splitting() -> None:
    argv = argv_for(Options(), shell=[b"ssh", b"-i", b"/k y", b"-o", b"X=it's"], destination=b"host:files")
    assert b"--rsh=ssh -i '/k y' -o 'X=it''s'" in argv
    assert argv[-1] == b"host:files/"


def test_a_users_own_settings_do_not_leak_in() -> None:
    mine = {b"RSYNC_RSH": b"evil", b"RSYNC_PARTIAL_DIR": b"x", b"HOME": b"/root", b"LC_ALL": b"de_DE", b"PATH": b".:/bin::bin:/usr/bin", b"SSH_AUTH_SOCK": b"s"}
    assert clean_environment(mine) == {b"LC_ALL": b"C", b"MALLOC_MMAP_THRESHOLD_": b"131072", b"PATH": b"/bin:/usr/bin", b"SSH_AUTH_SOCK": b"s"}
    assert clean_environment(mine, local=False)[b"HOME"] == b"/root"
    assert clean_environment({})[b"PATH"]


def test_what_keeps_rsync_from_running_is_told_and_installing_it_is_no_advice_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "rsync"
    program.write_text("#!/nonexistent/sh\n")
    program.chmod(0o755)
    with pytest.raises(BackupError, match="^rsync cannot be run: No such file or directory [(]") as caught:
        probe(str(program))
    assert caught.value.kind == "rsync_missing" and "apt-get" not in str(caught.value.next)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(rsync, "_PROBE_SECONDS", 0.2)
    with pytest.raises(BackupError, match="did not end within") as caught:
        probe(str(program))
    assert "apt-get" not in str(caught.value.next)
