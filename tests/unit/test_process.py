# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lock is free when the last process that holds it is gone, and none of them outlives the one that made it."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import process
from ansible_collections.openclaw.backup.plugins.module_utils.errors import LockedError


@pytest.fixture
def path(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path / "lock")


def test_a_lock_that_is_held_is_an_error_that_names_it(path: bytes) -> None:
    held = process.lock(path, fcntl.LOCK_SH, "A prune")
    os.close(process.lock(path, fcntl.LOCK_SH, "A prune"))
    opened = len(os.listdir("/proc/self/fd"))
    began = time.monotonic()
    with pytest.raises(LockedError, match="^A session holds .*/lock[.] Next: wait") as caught:
        process.lock(path, fcntl.LOCK_EX, "A session")
    assert time.monotonic() - began >= process.PATIENCE_SECONDS
    assert (caught.value.field, caught.value.found) == ("lock", path)
    with pytest.raises(LockedError):
        process.lock(path, fcntl.LOCK_EX, "A session", patience=0)
    assert len(os.listdir("/proc/self/fd")) == opened
    os.close(held)
    os.close(process.lock(path, fcntl.LOCK_EX, "A session", patience=0))


def test_a_lock_is_waited_for_while_its_last_processes_die(path: bytes) -> None:
    held = process.lock(path, fcntl.LOCK_EX, "A session")
    child = os.fork()
    if child == 0:
        time.sleep(0.3)
        os._exit(0)
    os.close(held)  # the child has it still
    os.close(process.lock(path, fcntl.LOCK_EX, "A session"))
    os.waitpid(child, 0)


def test_a_lock_is_no_link_and_no_secret(path: bytes, tmp_path: Path) -> None:
    os.close(process.lock(path, fcntl.LOCK_EX, "A session"))
    assert os.stat(path).st_mode & 0o777 == 0o600
    os.symlink(path, path + b".link")
    with pytest.raises(OSError):
        process.lock(path + b".link", fcntl.LOCK_EX, "A session")


PARENT = """
import subprocess, time
from ansible_collections.openclaw.backup.plugins.module_utils.process import starting
with starting() as bind:
    child = subprocess.Popen(["sleep", "60"], preexec_fn=bind)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while True:
        try:
            signal.pidfd_send_signal(child, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.02)
    os.close(child)


GUARDED = """
import os, subprocess, sys, time
from ansible_collections.openclaw.backup.plugins.module_utils.process import guarded, starting
with guarded() as join:
    with starting(bound=False) as bind:
        child = subprocess.Popen(["sh", "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=lambda: (bind(), join()))
    print(child.stdout.readline(), end="", flush=True)
    if sys.argv[2] == "wait":
        time.sleep(60)
    child.stdout.readline()
"""
# The last line comes when all that the first one named are gone, for they hold the pipe.
OBEDIENT = "sh -c 'trap \"echo asked >>%s; exit\" TERM; echo $$; while :; do sleep 0.05; done' & wait"


def test_a_group_is_asked_to_end_when_the_process_that_guards_it_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    argv = [sys.executable, "-c", GUARDED, OBEDIENT % note, "wait"]
    parent = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    assert select.select([child], [], [], 10)[0], "it outlives its guard"
    os.close(child)
    assert note.read_text() == "asked\n"
    parent.communicate()


def test_a_guard_leaves_alone_what_came_to_its_end(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", GUARDED, "(sleep 2; echo unharmed >%s) >&- & echo $$" % (tmp_path / "note"), "go on"]
    subprocess.run(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE, check=True)
    deadline = time.monotonic() + 10
    while not (tmp_path / "note").exists():
        assert time.monotonic() < deadline, "what it left behind was stopped"
        time.sleep(0.02)


def test_a_group_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.3)
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done"], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout and child.stdout.readline()
    polled: List[object] = []
    process.stop_group(child.pid, lambda: polled.append(child.poll()))
    assert child.wait(10) == -signal.SIGKILL and len(polled) > 3
    process.stop_group(child.pid)  # there is none any more
    child.stdout.close()


def test_a_group_of_which_only_a_zombie_is_left_is_not_waited_for() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    began = time.monotonic()
    process.stop_group(child.pid)
    assert time.monotonic() - began < process.STOP_SECONDS / 2
    assert child.wait(10) == -signal.SIGTERM


def test_a_signal_that_comes_while_a_child_is_started_is_heard_when_the_child_is_known() -> None:
    heard: List[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:
        with process.starting() as bind:
            signal.raise_signal(signal.SIGTERM)
            child = subprocess.Popen(["sleep", "60"], preexec_fn=bind)
            assert heard == []
        assert heard == [signal.SIGTERM]
        child.terminate()  # the child does not inherit that it waits
        assert child.wait(10) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_signal_that_ends_a_run_reaches_a_child_that_is_half_made() -> None:
    with process.starting():
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_the_collector_rests_and_is_woken_as_it_was() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError), process.collector_at_rest():
        assert not gc.isenabled()
        with process.collector_at_rest():
            pass
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


@pytest.mark.usefixtures("no_process_left")
def test_work_that_nothing_can_break_off_ends_in_time() -> None:
    began = time.monotonic()
    hopeless = re.compile(b"(?:(?:a+)+)$")
    assert process.in_time(lambda: hopeless.search(b"a" * 60 + b"!") and b"yes" or b"no", 1) is None
    slow = re.compile(b"a*b")  # whose loops look for no signal
    assert process.in_time(lambda: slow.search(b"a" * (1 << 20)) and b"yes" or b"no", 1) is None
    assert time.monotonic() - began < 8
    assert process.in_time(lambda: b"\xff\0", 5) == b"\xff\0"
    assert len(process.in_time(lambda: b"x" * 10_000, 5) or b"") == 4096


def test_work_of_its_own_process_that_fails_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.in_time(lambda: b"%d" % (1 // 0), 5) is None
    assert capfd.readouterr() == ("", "")
