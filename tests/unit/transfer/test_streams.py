# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real rsync processes carry the content of real trees, and leave neither wrong bytes nor processes behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.transfer import streams
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.attempts import send_persistently
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.exitcode import RETRY, classify
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.plan import MAX_PATH, Item, can_carry, partition, plan_roots
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.rsync import Capabilities, Options, probe
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.streams import Report, send

pytestmark = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root")

LOCAL = Options(whole_file=True)
REMOTE = Options(compress="auto")
NOBODY = 65534
LONG_AGO = 1_600_000_000_123_456_789


@pytest.fixture(scope="module")
def rsync() -> Capabilities:
    return probe()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can enter, unlike tmp_path."""
    where = Path(tempfile.mkdtemp(prefix="transfer-"))
    where.chmod(0o755)
    yield where
    shutil.rmtree(where, ignore_errors=True)


def write(root: Path, files: Dict[bytes, bytes]) -> None:
    for path, content in files.items():
        full = os.path.join(os.fsencode(root), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(content)
        os.utime(full, ns=(LONG_AGO, LONG_AGO))


def read(root: Path) -> Dict[bytes, bytes]:
    found = {}
    top = os.fsencode(root)
    for directory, _directories, names in os.walk(top):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                found[os.path.relpath(os.path.join(directory, name), top)] = file.read()
    return found


def singly(files: Dict[bytes, bytes]) -> List[Item]:
    return [Item(path, len(content), 1, False) for path, content in sorted(files.items())]


def planned(root: Path, streams: int = 1) -> List[Item]:
    top = os.fsencode(root)
    wanted: List[Tuple[bytes, int]] = []
    directories: Dict[bytes, Tuple[int, int]] = {}
    for directory, subdirectories, names in os.walk(top):
        here = os.path.relpath(directory, top) if directory != top else b""
        directories[here] = (len(names), len(subdirectories))
        wanted += [(os.path.join(here, name), os.stat(os.path.join(directory, name)).st_size) for name in names]
    return plan_roots(sorted(wanted), directories, streams)


def carry(rsync: Capabilities, source: Path, destination: Path, items: List[Item], options: Options = LOCAL, **more: Any) -> Report:
    return send(items, source_root=os.fsencode(source), destination=os.fsencode(destination), options=options, capabilities=rsync, **more)


def processes(word: Path) -> List[int]:
    """All processes that have ``word`` in their arguments."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.fsencode(word) in Path("/proc", entry, "cmdline").read_bytes():
                found.append(int(entry))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in %d s" % seconds
        time.sleep(0.02)


def in_child(action: Callable[[], None], user: Optional[int] = None) -> int:
    """Start ``action`` in a child process, as ``user``; its process id. The child ends with 0 if nothing was raised."""
    subprocess.run(["true"], check=True)  # what send() imports late may be out of the user's reach
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        action()
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def remote_shell(where: Path, script: str = 'exec sh -c "$*"') -> List[bytes]:
    """A remote shell that stays here: it drops the host's name and runs the rest as ssh would have it run."""
    program = where / "lsh"
    program.write_text("#!/bin/sh\nshift\n%s\n" % script)
    program.chmod(0o755)
    return [os.fsencode(program)]


NASTY = {
    b"new\nline": b"1",
    b"-dash": b"2",
    b"--delete": b"3",
    b"bad\xff\xfe": b"4",
    b"q" * 255: b"5",
    b"#comment": b"6",
    b";comment": b"7",
    b" lead and trail ": b"8",
    b"back\\slash\\#012": b"9",
    b"*?[a]{b}": b"10",
    b"host:path": b"11",
    b"rsync:": b"12",
    b"'\"$x`y`~": b"13",
    b".rsync-filter": b"- *\n",
    b"\r\t\x7f": b"14",
    b"empty": b"",
}


@pytest.mark.parametrize("how", ["singly", "as a tree", "remotely"])
def test_no_name_is_lost_or_bent(rsync: Capabilities, tmp_path: Path, how: str) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    files = {**NASTY, **{b"#dir/" + name: content for name, content in NASTY.items()}, **{b"-a b\n/" + name: content for name, content in NASTY.items()}}
    write(source, files)
    items = planned(source) if how == "as a tree" else singly(files)
    shell = remote_shell(tmp_path) if how == "remotely" else []
    into = Path("host:%s" % destination) if shell else destination
    report = carry(rsync, source, into, items, REMOTE if shell else LOCAL, shell=shell)
    assert (report.exit_codes, report.messages, report.files) == ((0,), (), len(files))
    assert read(destination) == files


@pytest.mark.parametrize("name", [b"#", b";x", b"-r", b"a b", b"\xff"])
def test_a_root_with_a_strange_name_is_recursed_alone_and_beside_others(rsync: Capabilities, tmp_path: Path, name: bytes) -> None:
    source = tmp_path / "s"
    files = {name + b"/x": b"1", name + b"/y/#z": b"2", b"other/v": b"3"}
    write(source, files)
    everything = [Item(name, 2, 2, True), Item(b"other", 1, 1, True)]
    carry(rsync, source, tmp_path / "both", everything)
    assert read(tmp_path / "both") == files
    carry(rsync, source, tmp_path / "one", everything[:1])
    assert read(tmp_path / "one") == {path: content for path, content in files.items() if path.startswith(name)}


def test_more_names_than_arguments_hold_are_read_instead(rsync: Capabilities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {b"%s/%s" % (folder, name): b"x" for folder in (b"-a", b"#b", b"c") for name in (b"1", b"2")}
    write(tmp_path / "s", files)
    items = [Item(b"#b", 2, 2, True), Item(b"-a", 2, 2, True), Item(b"c/1", 1, 1, False), Item(b"c/2", 1, 1, False)]
    for limit, place in ((1 << 16, "arguments"), (4, "read")):
        monkeypatch.setattr(streams, "_ARGUMENTS", limit)
        assert carry(rsync, tmp_path / "s", tmp_path / place, items).exit_codes == (0,)
        assert read(tmp_path / place) == files


def test_recursion_and_single_files_bring_the_same(rsync: Capabilities, tmp_path: Path) -> None:
    source = tmp_path / "s"
    files = {b"home/u/d%d/e%d/f%d" % (n % 3, n % 7, n): b"%d" % n * n for n in range(200)}
    write(source, files)
    (source / "home/u/empty").mkdir()
    (source / "home/u/link").symlink_to("d0")
    os.mkfifo(source / "home/u/d0/fifo")
    one_by_one = carry(rsync, source, tmp_path / "a", singly(files))
    by_root = carry(rsync, source, tmp_path / "b", [Item(b"home/u", 1, 200, True)])
    assert one_by_one.files == by_root.files == 200
    assert one_by_one.exit_codes == by_root.exit_codes == (0,)
    assert read(tmp_path / "a") == read(tmp_path / "b") == files
    assert not (tmp_path / "b/home/u/link").exists()
    times = {path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("f*") if path.is_file()}
    assert times == {LONG_AGO}


def test_everything_received_is_private_and_writable_whatever_the_source_says(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    write(source, {b"a/locked/deep/f": b"1", b"a/locked/deep/g": b"2", b"a/suid": b"3", b"a/open": b"4", b"b/x": b"5"})
    os.chmod(source / "a/suid", 0o6755)
    os.chmod(source / "a/open", 0o666)
    os.chmod(source / "a", 0o1777)
    os.chmod(source / "a/locked/deep", 0o555)
    os.chmod(source / "a/locked", 0o2555)
    destination.mkdir(mode=0o700)
    before = os.umask(0)
    try:
        # The first reaches its directories through --mkpath, the second by implied directories, the third by recursion.
        carry(rsync, source, destination / "1", [Item(b"a/locked/deep/f", 1, 1, False)])
        carry(rsync, source, destination / "2", [Item(b"a/locked/deep/f", 1, 1, False), Item(b"b/x", 1, 1, False)])
        carry(rsync, source, destination / "3", [Item(b"a", 4, 4, True)])
    finally:
        os.umask(before)
        os.chmod(source / "a/locked", 0o755)
        os.chmod(source / "a/locked/deep", 0o755)
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in destination.rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}
    assert len(read(destination)) == 7


@as_root
def test_an_ordinary_user_can_send_from_directories_he_may_not_write(rsync: Capabilities, place: Path) -> None:
    source, destination = place / "s", place / "d"
    files = {b"a/b/f%d" % n: b"%d" % n for n in range(5)}
    write(source, {**files, b"a/unreadable": b"x", b"a/closed/x": b"y", b"a/closed/sub/z": b"y"})
    for path in (source / "a/b", source / "a"):
        path.chmod(0o555)
    (source / "a/unreadable").chmod(0)
    (source / "a/closed").chmod(0)
    destination.mkdir()
    os.chown(destination, NOBODY, NOBODY)

    def action() -> None:
        report = carry(rsync, source, destination / "1", [Item(b"a", 1, 7, True)])
        assert report.exit_codes == (23,)
        assert any("a/unreadable" in line and "Permission denied" in line for line in report.messages), report.messages
        report = carry(rsync, source, destination / "2", [Item(b"a/b", 1, 5, True)])
        assert (report.exit_codes, report.files) == ((0,), 5)
        report = carry(rsync, source, destination / "3", [Item(b"a/closed/sub/z", 1, 1, False)])
        assert report.files == 0
        assert report.exit_codes == (23,)

    assert os.waitpid(in_child(action, NOBODY), 0)[1] == 0
    assert read(destination) == {prefix + path: content for prefix in (b"1/", b"2/") for path, content in files.items()}


def test_other_bytes_under_the_same_size_and_time_are_sent_unless_a_transfer_is_resumed(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    write(source, {b"a/f": b"new", b"a/g": b"here"})
    write(destination, {b"a/f": b"old"})
    items = singly({b"a/f": b"new", b"a/g": b"here"})
    assert carry(rsync, source, destination, items, resume=True).files == 1
    assert read(destination) == {b"a/f": b"old", b"a/g": b"here"}
    assert carry(rsync, source, destination, items).files == 2
    assert read(destination) == {b"a/f": b"new", b"a/g": b"here"}


def test_a_resumed_transfer_sees_changes_within_one_second(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    write(source, {b"f": b"new"})
    write(destination, {b"f": b"old"})
    os.utime(source / "f", ns=(LONG_AGO + 1000, LONG_AGO + 1000))
    assert carry(rsync, source, destination, singly({b"f": b"new"}), resume=True).files == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_basis_saves_bytes_and_never_stands_in_for_the_new_content(rsync: Capabilities, tmp_path: Path, resume: bool) -> None:
    source, destination, basis = tmp_path / "s", tmp_path / "d", tmp_path / "basis"
    old = os.urandom(3_000_000)
    new = old[:1_500_000] + b"changed" + old[1_500_007:]
    write(source, {b"a/b/f": new})
    write(basis, {b"a/b/f": old})
    report = carry(
        rsync, source, Path("host:%s" % destination), singly({b"a/b/f": new}), REMOTE, basis=os.fsencode(basis), shell=remote_shell(tmp_path), resume=resume
    )
    assert report.exit_codes == (0,)
    assert report.bytes_wire < 100_000
    assert read(destination) == {b"a/b/f": new}
    assert read(basis) == {b"a/b/f": old}


def test_a_longer_file_is_cut_when_a_shorter_one_takes_its_place(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    write(source, {b"f": b"short"})
    write(destination, {b"f": b"much longer than before"})
    carry(rsync, source, destination, singly({b"f": b"short"}))
    assert read(destination) == {b"f": b"short"}


def test_what_disappeared_or_is_no_file_any_more_is_left_out_without_a_fuss(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    write(source, {b"a/b/here": b"1", b"elsewhere/secret": b"2"})
    os.mkfifo(source / "a/b/fifo")
    (source / "a/b/link").symlink_to("here")
    gone = [b"a/b/gone", b"a/b/fifo", b"a/b/link", b"a/gone/x", b"gone/y"]
    report = carry(rsync, source, destination, [Item(path, 1, 1, False) for path in sorted([b"a/b/here", *gone])])
    assert (report.exit_codes, report.files) == ((0,), 1)
    assert read(destination) == {b"a/b/here": b"1"}
    assert carry(rsync, source, destination, [Item(b"gone/deep/er/x", 1, 1, False)]).files == 0
    assert carry(rsync, source, destination, [Item(b"gone/deep", 1, 1, True)]).files == 0


@as_root
def test_a_directory_that_a_user_replaced_by_a_link_does_not_lead_root_astray(rsync: Capabilities, tmp_path: Path) -> None:
    if rsync.version < (3, 5):
        pytest.skip("rsync follows links of other users before 3.5")
    source, destination = tmp_path / "s", tmp_path / "d"
    write(tmp_path, {b"secret/f": b"secret"})
    (source / "home").mkdir(parents=True)
    (source / "home/u").symlink_to(tmp_path / "secret")
    os.lchown(source / "home/u", NOBODY, NOBODY)
    for items in ([Item(b"home/u/f", 6, 1, False)], [Item(b"home/u", 6, 1, True)], [Item(b"home/u/f", 6, 1, False), Item(b"x", 1, 1, False)]):
        assert carry(rsync, source, destination, items).files == 0
        assert not read(destination)


def test_nothing_in_the_users_environment_or_the_source_changes_what_runs(rsync: Capabilities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "s"
    write(source, {b"a/f": b"1", b"home/.popt": b"rsync alias --times --times --dry-run\nrsync alias --relative --relative --dry-run\n"})
    trap = source / "a/rsync"
    trap.write_text("#!/bin/sh\ntouch %s/trapped\n" % tmp_path)
    trap.chmod(0o755)
    monkeypatch.setenv("HOME", str(source / "home"))
    monkeypatch.setenv("RSYNC_ICONV", "utf-8,latin1")
    monkeypatch.setenv("RSYNC_CHECKSUM_LIST", "nonsense")
    monkeypatch.setenv("PATH", ".:" + os.environ["PATH"])
    report = carry(probe(), source, tmp_path / "d", [Item(b"a/f", 1, 1, False)])
    assert (report.exit_codes, report.files) == ((0,), 1)
    assert read(tmp_path / "d") == {b"a/f": b"1"}
    assert not (tmp_path / "trapped").exists()


def test_names_and_complaints_beyond_a_pipes_capacity_do_not_block(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    files = {b"%04d-%s" % (n, b"x" * 100): b"%d" % n for n in range(2000)}
    write(source, files)
    for path in sorted(files)[:1000]:
        os.makedirs(os.path.join(os.fsencode(destination), path, b"in the way"))
    report = carry(rsync, source, destination, singly(files))
    assert report.exit_codes == (23,)
    assert 0 < len(report.messages) <= 20
    assert max(map(len, report.messages)) < 500
    assert read(destination) == {path: files[path] for path in sorted(files)[1000:]}


def test_two_streams_share_the_work_and_report_as_one(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    files = {b"a/%d/%d/f%d" % (n % 2, n % 30, n): b"%d" % n for n in range(2500)}
    write(source, files)
    calls: List[Tuple[int, int]] = []
    report = carry(rsync, source, destination, planned(source, streams=2), on_progress=lambda done, size: calls.append((done, size)))
    assert report.exit_codes == (0, 0)
    assert report.files == 2500
    assert report.bytes_wire > sum(map(len, files.values()))
    assert read(destination) == files
    assert calls == sorted(calls)
    assert calls[-1] == (2500, sum(map(len, files.values())))


def test_no_two_streams_have_to_make_the_same_directory(rsync: Capabilities, tmp_path: Path) -> None:
    """rsync's own --mkpath fails, one time in ten, where another process makes the directory at the same moment."""
    for index in range(60):
        write(tmp_path / "s", {b"a/b/c%d/f%d" % (index % 2, index): b"x" * 4})
    checking = tmp_path / "rsync"
    checking.write_text('#!/bin/sh\nfor last do :; done\ncat >/dev/null\n[ -d "$last" ] || exit 11\n')
    checking.chmod(0o755)
    items = [Item(b"a/b/c0", 1 << 30, 30, True), Item(b"a/b/c1", 1 << 30, 30, True)]
    report = send(
        items,
        source_root=os.fsencode(tmp_path / "s"),
        destination=os.fsencode(tmp_path / "new" / "d"),
        options=LOCAL,
        capabilities=replace(rsync, program=str(checking)),
    )
    assert report.exit_codes == (0, 0)


def test_nothing_to_send_starts_nothing(tmp_path: Path) -> None:
    nobody = Capabilities("/nowhere/rsync", (3, 5, 0), frozenset(), frozenset())
    assert carry(nobody, tmp_path, tmp_path / "d", []) == Report(0, 0, (), ())
    with pytest.raises(BackupError) as caught:
        carry(nobody, tmp_path, tmp_path / "d", [Item(b"f", 1, 1, False)])
    assert caught.value.kind == "rsync_missing"


def test_a_missing_source_root_is_named(rsync: Capabilities, tmp_path: Path) -> None:
    with pytest.raises(BackupError) as caught:
        carry(rsync, tmp_path / "gone", tmp_path / "d", [Item(b"f", 1, 1, False)])
    assert (caught.value.kind, caught.value.found) == ("source", os.fsencode(tmp_path / "gone"))


def test_the_longest_path_that_is_promised_arrives(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    source.mkdir()
    destination.mkdir()
    longest = MAX_PATH - 1 - len(os.fsencode(source))
    parts = [b"x" * 200] * (longest // 201) + [b"y" * (longest % 201)]
    path = b"/".join(filter(None, parts)).ljust(longest, b"z")
    assert can_carry(path, os.fsencode(destination), os.fsencode(source))
    assert not can_carry(path + b"z", os.fsencode(destination), os.fsencode(source))
    back = os.open(".", os.O_RDONLY)
    try:
        os.chdir(source)
        *directories, name = path.split(b"/")
        for directory in directories:
            os.mkdir(directory)
            os.chdir(directory)
        Path(os.fsdecode(name)).write_bytes(b"far")
        os.fchdir(back)
        for items in ([Item(path, 3, 1, False)], [Item(directories[0], 3, 1, True)], [Item(path, 3, 1, False), Item(b"z", 0, 1, False)]):
            assert carry(rsync, source, destination, items).files == 1
            os.chdir(destination)
            for directory in directories:
                os.chdir(directory)
            assert Path(os.fsdecode(name)).read_bytes() == b"far"
            os.unlink(name)
            os.fchdir(back)
    finally:
        os.fchdir(back)
        os.close(back)


SLOW = Options(whole_file=True, bwlimit="1m")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    source = tmp_path / "s"
    write(source, {b"a/big": b""})
    os.truncate(source / "a/big", 50_000_000)
    return source


BIG = [Item(b"a/big", 50_000_000, 1, False)]


def test_a_killed_rsync_is_reported_and_not_raised(rsync: Capabilities, tmp_path: Path, big: Path) -> None:
    def kill(_files: int, size: int) -> None:
        if size:
            os.kill(min(processes(tmp_path / "d")), signal.SIGKILL)

    report = carry(rsync, big, tmp_path / "d", BIG, SLOW, on_progress=kill)
    assert report.exit_codes == (-signal.SIGKILL,)
    assert 0 < report.bytes_wire < 50_000_000
    wait_until(lambda: not processes(tmp_path / "d"))


def test_an_exception_stops_every_process_first(rsync: Capabilities, tmp_path: Path, big: Path) -> None:
    def interrupt(_files: int, size: int) -> None:
        if size:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        carry(rsync, big, tmp_path / "d", BIG, SLOW, on_progress=interrupt)
    wait_until(lambda: not processes(tmp_path / "d"))
    assert time.monotonic() - start < 20


def test_a_signal_that_ends_the_run_ends_rsync(rsync: Capabilities, tmp_path: Path, big: Path) -> None:
    def stop(_signal: int, _frame: Any) -> NoReturn:
        raise SystemExit(0)

    def action() -> None:
        signal.signal(signal.SIGTERM, stop)
        with contextlib.suppress(SystemExit):
            carry(rsync, big, tmp_path / "d", BIG, SLOW)
            raise AssertionError("nobody stopped me")

    child = in_child(action)
    wait_until(lambda: (tmp_path / "d/a/big").exists())
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == 0
    wait_until(lambda: not processes(tmp_path / "d"))


def test_rsync_does_not_outlive_a_killed_parent(rsync: Capabilities, tmp_path: Path, big: Path) -> None:
    child = in_child(lambda: carry(rsync, big, tmp_path / "d", BIG, SLOW) and None)
    wait_until(lambda: (tmp_path / "d/a/big").exists())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: not processes(tmp_path / "d"))
    assert (tmp_path / "d/a/big").stat().st_size < 50_000_000


def test_a_program_that_stands_still_is_killed_and_one_that_only_keeps_silent_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SLACK_SECONDS", 0)
    write(tmp_path / "s", {b"f": b"1"})
    program = tmp_path / "rsync"
    program.touch(0o755)
    hanging = Capabilities(str(program), (3, 2, 3), frozenset(), frozenset())
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    begin = time.monotonic()
    report = carry(hanging, tmp_path / "s", tmp_path / "d", singly({b"f": b"1"}), replace(LOCAL, timeout=1))
    assert time.monotonic() - begin < 10
    assert report.exit_codes == (-signal.SIGKILL,)
    assert "stood still" in report.messages[-1]
    program.write_text("#!/bin/sh\nfor n in 1 2 3 4 5 6; do sleep 0.5; done\n")
    assert carry(hanging, tmp_path / "s", tmp_path / "d", singly({b"f": b"1"}), replace(LOCAL, timeout=1)).exit_codes == (0,)
    program.write_text("#!/bin/sh\nexec sleep 3\n")
    assert carry(hanging, tmp_path / "s", tmp_path / "d", singly({b"f": b"1"}), replace(LOCAL, timeout=0)).exit_codes == (0,)


def test_a_fifo_in_the_place_of_a_listed_file_does_not_hold_the_transfer_for_ever(rsync: Capabilities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SLACK_SECONDS", 1)
    source, destination = tmp_path / "s", tmp_path / "d"
    files = {b"d/a": os.urandom(2_000_000), b"d/z": b"1"}
    items = [Item(b"d", 2_000_001, 2, True)]
    write(source, files)
    swapped: List[int] = []

    def swap(_files: int, size: int) -> None:
        if size and not swapped:  # the list is complete, and "a" on its way
            (source / "d/z").unlink()
            os.mkfifo(source / "d/z")
            swapped.append(size)

    report = carry(rsync, source, destination, items, replace(SLOW, timeout=1), on_progress=swap)
    assert swapped and swapped[0] < 2_000_000
    assert classify(report.exit_codes[0]).outcome == RETRY
    wait_until(lambda: not processes(destination))
    again = carry(rsync, source, destination, items, replace(LOCAL, timeout=1), resume=True)
    assert again.exit_codes == (0,)
    assert read(destination)[b"d/a"] == files[b"d/a"]


def test_an_interrupted_large_file_goes_on_where_it_stopped(rsync: Capabilities, tmp_path: Path) -> None:
    source, destination = tmp_path / "s", tmp_path / "d"
    content = os.urandom(2_000_000)
    write(source, {b"f": content})
    destination.mkdir()
    (destination / "f").write_bytes(content[:1_500_000])
    report = carry(rsync, source, Path("host:%s" % destination), singly({b"f": content}), REMOTE, shell=remote_shell(tmp_path), resume=True)
    assert report.bytes_wire < 700_000
    assert read(destination) == {b"f": content}


@pytest.mark.skipif(shutil.which("rrsync") is None, reason="rrsync is not installed")
@pytest.mark.parametrize("directory", [b"plain/dir", b"with space/a'b"])
def test_two_streams_pass_through_rrsync_with_basis_and_resume(rsync: Capabilities, tmp_path: Path, directory: bytes) -> None:
    source, session = tmp_path / "s", tmp_path / "session"
    files = {directory + b"/%d/f%d" % (n % 40, n): b"%d" % n for n in range(2500)}
    large = os.urandom(1_000_000)
    files[directory + b"/large"] = large + b"new"
    write(source, files)
    write(session, {b"basis/" + directory + b"/large": large + b"old"})
    (session / "files").mkdir()
    shell = remote_shell(tmp_path, 'SSH_ORIGINAL_COMMAND="$*" exec rrsync -wo -no-lock %s' % session)
    items = planned(source, streams=2)
    assert len(partition(items, 2)) == 2
    report = carry(rsync, source, Path("host:files"), items, REMOTE, shell=shell, basis=b"/basis")
    assert (report.exit_codes, report.files) == ((0, 0), 2501), report.messages
    assert report.bytes_wire < 600_000
    assert read(session / "files") == files
    report = carry(rsync, source, Path("host:files"), items, REMOTE, shell=shell, resume=True)
    assert (report.exit_codes, report.files) == ((0, 0), 0), report.messages


def test_the_basis_is_named_as_the_vault_made_it(tmp_path: Path) -> None:
    # rrsync 3.5 puts an empty directory in the place of one that is missing, where the account that receives may make none.
    write(tmp_path / "s", {b"a/b/f": b"1"})
    program = tmp_path / "rsync"
    program.write_text('#!/bin/sh\nprintf "%%s\\n" "$@" > %s/argv\ncat > %s/names\n' % (tmp_path, tmp_path))
    program.chmod(0o755)
    recorder = Capabilities(str(program), (3, 5, 0), frozenset(), frozenset())
    carry(recorder, tmp_path / "s", Path("host:files"), [Item(b"a/b/f", 1, 1, False)], Options(), shell=[b"ssh"], basis=b"/basis")
    words = (tmp_path / "argv").read_bytes().splitlines()
    assert b"--copy-dest=/basis" in words and words[-1] == b"host:files/"
    assert (tmp_path / "names").read_bytes() == b"a/b/f\0"


def test_a_remote_side_that_refuses_is_a_report_with_its_words(rsync: Capabilities, tmp_path: Path) -> None:
    write(tmp_path / "s", {b"f": b"1"})
    shell = remote_shell(tmp_path, "echo 'Permission denied (publickey).' >&2; exit 255")
    report = carry(rsync, tmp_path / "s", Path("host:/d"), singly({b"f": b"1"}), REMOTE, shell=shell)
    assert report.exit_codes in [(255,), (12,)]  # rsync itself races for what it sees first: ssh's end or the end of its data
    assert classify(report.exit_codes[0]).outcome == RETRY
    assert "Permission denied (publickey)." in report.messages


def test_what_the_other_side_complained_of_is_told_and_not_that_it_is_over(tmp_path: Path) -> None:
    write(tmp_path / "s", {b"f": b"1"})
    # It reads what it is sent: rsync says nothing but that the pipe is broken where it meets that first.
    shell = remote_shell(tmp_path, "echo 'rrsync error: there is no such place' >&2; head -c 4 >/dev/null; exit 1")
    with pytest.raises(BackupError) as caught:
        send_persistently(singly({b"f": b"1"}), source_root=os.fsencode(tmp_path / "s"), destination=b"host:/d", options=REMOTE, shell=shell)
    assert caught.value.kind == "transfer"
    assert caught.value.message.endswith(": rrsync error: there is no such place")


@pytest.mark.parametrize("directory, remote", [(b"plain/dir", b"host:files/plain/dir/"), (b"with space", b"host:files/"), (b"-e", b"host:files/")])
def test_no_directory_name_reaches_a_remote_shell_that_could_misread_it(tmp_path: Path, directory: bytes, remote: bytes) -> None:
    # rsync escapes its arguments from 3.2.4 on only.
    write(tmp_path / "s", {directory + b"/f": b"1"})
    program = tmp_path / "rsync"
    program.write_text('#!/bin/sh\nprintf "%%s\\n" "$@" > %s/argv\ncat > %s/names\n' % (tmp_path, tmp_path))
    program.chmod(0o755)
    recorder = Capabilities(str(program), (3, 2, 3), frozenset(), frozenset())
    carry(recorder, tmp_path / "s", Path("host:files"), [Item(directory + b"/f", 1, 1, False)], Options(), shell=[b"ssh"])
    assert (tmp_path / "argv").read_bytes().splitlines()[-1] == remote
    assert (tmp_path / "names").read_bytes() == (b"f\0" if directory == b"plain/dir" else directory + b"/f\0")


TUNED = [
    Options(compress="zstd", compress_level=-5, block_size="512", checksum="xxh128", sockopts="SO_SNDBUF=65536,TCP_NODELAY", bwlimit="1g", timeout=9),
    Options(compress="zstd", compress_level=22, block_size="128k", checksum="xxh3"),
    Options(compress="zlibx", compress_level=9, block_size="4K", checksum="xxh64", streams=3),
    Options(compress="lz4", compress_level=0, block_size="131072", checksum="md5"),
    Options(compress="auto", compress_level=0, checksum="sha1"),
    Options(compress="none", compress_level=0),
]


@pytest.mark.parametrize("way", ["here", "there"])
@pytest.mark.parametrize("options", TUNED, ids=lambda options: options.compress + str(options.compress_level))
def test_real_rsyncs_take_every_option_a_policy_can_have(place: Path, rsync: Capabilities, options: Options, way: str) -> None:
    if options.compress not in rsync.compressions | {"auto"} or options.checksum not in rsync.checksums | {"auto"}:
        pytest.skip("this rsync was built without it")
    shell = place / "shell"
    shell.write_text('#!/bin/sh\nshift\nexec "$@"\n')  # in place of ssh: the host is this one
    shell.chmod(0o755)
    old = random.Random(1).randbytes(1 << 20)
    new = old[:500_000] + b"changed" + old[500_000:]
    write(place / "src", {b"big": new})
    write(place / "basis", {b"big": old})
    (place / "dst").mkdir()
    report = send(
        [Item(b"big", len(new), 1, False)],
        source_root=os.fsencode(place / "src"),
        destination=(b"" if way == "here" else b"host:") + os.fsencode(place / "dst"),
        options=dataclasses.replace(options, whole_file=way == "here"),
        capabilities=rsync,
        basis=os.fsencode(place / "basis"),
        shell=() if way == "here" else (os.fsencode(shell),),
    )
    assert report.exit_codes == (0,) and report.messages == (), report
    assert (place / "dst" / "big").read_bytes() == new
    assert (report.bytes_wire < len(new) // 2) is (way == "there"), "a delta, where a network may lie between"
