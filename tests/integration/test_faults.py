# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed: the history holds only whole snapshots, the next run needs no help, and what was received is not sent again."""

from __future__ import annotations

import glob
import os
import random
import signal
import time
from pathlib import Path
from typing import Any, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.content import copy_file
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import receive
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import session as session_module
from ansible_collections.openclaw.backup.tests.integration.world import World, differences, error_of, fingerprint
from ansible_collections.openclaw.backup.tests.torture import make_source, torture


@pytest.mark.torture
def test_runs_killed_at_random_instants_leave_only_whole_snapshots() -> None:
    kills = int(os.environ.get("INSTANTS", "20"))
    seed = int(os.environ.get("SEED", str(random.SystemRandom().randrange(1 << 30))))
    print("seed %d" % seed)
    report = torture(kills, seed=seed, say=print)
    print(report)
    assert report.kills >= kills - 1


def test_a_transfer_that_was_killed_is_gone_on_with(world: World) -> None:
    make_source(world.src, random.Random(1))
    whole = sum(path.stat().st_size for path in world.src.rglob("f*") if path.is_file())
    pid = os.fork()
    if pid == 0:
        os.setsid()
        world.backup(policy=world.policy(transfer={"bwlimit": "4m", "streams": 1}))
        os._exit(0)
    received = 0
    deadline = time.monotonic() + 20
    while received < 100 and time.monotonic() < deadline:
        received = len(list(world.history.glob("incoming/*/files/**/f*")))
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and received >= 100
    result = world.backup()
    assert result.files_sent > 500 and result.bytes_wire < result.bytes_sent
    assert result.bytes_wire < whole + (7 << 20)
    world.check_history(count=1)
    assert world.restore(dest=world.root / "out").verified
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []


def test_what_copying_was_killed_at_is_gone_on_with_and_half_a_file_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(world.src, random.Random(1))
    copied = 0

    def fall(source: int, destination: int, **more: Any) -> Any:
        nonlocal copied
        copied += 1
        if copied == 150 and os.fstat(source).st_size:
            os.write(destination, os.read(source, os.fstat(source).st_size // 2))
            os.killpg(0, signal.SIGKILL)
        return copy_file(source, destination, **more)

    pid = os.fork()
    if pid == 0:
        os.setsid()
        monkeypatch.setattr(receive, "copy_file", fall)
        world.backup()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    (files,) = world.history.glob("incoming/*/files")
    received = {}
    for path in files.rglob("*"):
        seen = path.stat()
        if path.is_file() and seen.st_size and seen.st_mtime_ns == Path("/", path.relative_to(files)).stat().st_mtime_ns:
            received[path] = seen
    assert len(received) > 80
    # One that passes for whole by size and time, as after a loss of power.
    path, seen = next((path, seen) for path, seen in received.items() if seen.st_size == 3000)
    path.write_bytes(bytes(3000))
    os.utime(path, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
    result = world.backup()
    assert result.files_sent > 500
    assert result.bytes_sent - result.bytes_wire == sum(seen.st_size for seen in received.values()), "what was whole was not copied again"
    world.check_history(count=1)
    assert world.restore(dest=world.root / "out").verified
    assert differences(fingerprint(world.src), fingerprint(world.restored(world.root / "out"))) == []


def members(group: int) -> List[str]:
    """The living processes of a process group; zombies are another's business."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = Path(path).read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[2]) == group:
            found.append(path)
    return found


def test_a_worker_that_is_killed_is_an_error_and_no_snapshot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(world.src, random.Random(1))
    parent = os.getpid()
    real = receive._copy

    def fall(*args: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "FORK_PAYS_ITEMS", 100)
        patch.setattr(receive, "_copy", fall)
        if len(os.sched_getaffinity(0)) > 1:
            error = error_of(world.backup)
            assert (error.kind, error.rc) == ("system", 1) and "worker" in error.message
            assert world.snapshots() == []
    assert world.backup().rc == 0
    world.check_history(count=1)


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the copying take as long as a limited transfer does."""

    def slowly(*args: Any, **more: Any) -> Any:
        time.sleep(0.01)
        return copy_file(*args, **more)

    monkeypatch.setattr(receive, "copy_file", slowly)


@pytest.mark.parametrize("limited", [True, False], ids=["rsync", "copying"])
def test_a_signal_that_ends_a_run_politely_leaves_no_process_behind(world: World, monkeypatch: pytest.MonkeyPatch, limited: bool) -> None:
    make_source(world.src, random.Random(1))
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, lambda *_args: (_ for _ in ()).throw(KeyboardInterrupt()))
        try:
            slow_down(monkeypatch)
            world.backup(policy=world.policy(transfer={"bwlimit": "2m"} if limited else {}))
        finally:
            os._exit(3)
    deadline = time.monotonic() + 20
    while not list(world.history.glob("incoming/*/files/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    _pid, status = os.waitpid(pid, 0)
    assert os.WEXITSTATUS(status) == 3
    while members(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert members(pid) == []
    assert list(world.history.glob("incoming/*/files/*")), "what was received is kept"
    assert world.backup().rc == 0
    world.check_history(count=1)


@pytest.mark.parametrize("group", [True, False], ids=["group", "parent alone"])
def test_the_run_after_one_that_was_killed_can_start_at_once(world: World, monkeypatch: pytest.MonkeyPatch, group: bool) -> None:
    make_source(world.src, random.Random(1))
    for number, (bwlimit, wanted) in enumerate(((None, "writer.lock"), ("2m", "incoming/*/files/**/f*"), (None, "incoming/*/files/**/f*"))):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            try:
                slow_down(monkeypatch)
                world.backup(policy=world.policy(transfer={"bwlimit": bwlimit} if bwlimit else {}))
            finally:
                os._exit(0)
        deadline = time.monotonic() + 20
        while not list(world.history.glob(wanted)) and time.monotonic() < deadline:
            time.sleep(0.001)
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        # What the dead run started must neither refuse this one nor write into what it takes over.
        assert world.backup().rc == 0
        assert members(pid) == []
        make_source(world.src / str(number), random.Random(2 + number))
    assert world.verify().ok


def test_the_publishing_of_a_snapshot_is_one_rename(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until that instant nobody sees anything, from then on everybody sees all of it."""
    (world.src / "a").write_text("a")
    real = os.rename
    seen = []

    def rename(source: Any, *args: Any, **options: Any) -> None:
        is_publishing = bytes(source).endswith(b"/snapshot") if isinstance(source, bytes) else False
        if is_publishing:
            seen.append(len(world.snapshots()))
        real(source, *args, **options)
        if is_publishing:
            seen.append(len(world.snapshots()))
            assert world.verify(dry_run=True).ok

    monkeypatch.setattr(session_module.os, "rename", rename)
    world.backup()
    assert seen == [0, 1]


def test_the_link_latest_catches_up_after_a_kill_between_two_renames(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.src / "a").write_text("a")
    world.backup()
    (world.src / "a").write_text("changed")
    with monkeypatch.context() as patch:
        patch.setattr(session_module.TreeSession, "_point_latest", lambda *_args: None)
        second = world.backup()
    assert (world.history / "latest").resolve().name != second.snapshot_id
    (world.src / "a").write_text("changed again")
    seen = []
    real = session_module.TreeSession._publish

    def publish(self: session_module.TreeSession, *args: Any) -> None:
        seen.append((world.history / "latest").resolve().name)
        real(self, *args)

    monkeypatch.setattr(session_module.TreeSession, "_publish", publish)
    third = world.backup()
    assert seen == [second.snapshot_id] and (world.history / "latest").resolve().name == third.snapshot_id
