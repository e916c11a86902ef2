# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that is shared out is done once, all of it, and leaves no process behind whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, IntegrityError
from hypothesis import given
from hypothesis import strategies as st

LIGHT = [0] * 1000


@pytest.fixture(autouse=True)
def _two_cpus(monkeypatch: pytest.MonkeyPatch, no_process_left: None) -> Iterator[None]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    opened = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= opened, "a channel is left over"


def indices(found: "List[Tuple[int, int]]") -> List[int]:
    return sorted(index for start, stop in found for index in range(start, stop))


def where(start: int, stop: int) -> Tuple[int, int, int]:
    return start, stop, os.getpid()


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 20), st.integers(1, 200))
def test_ranges_cover_every_index_once_and_stay_small(weights: List[int], items: int, weight: int) -> None:
    cuts = pool.ranges(weights, items=items, weight=weight)
    assert indices(cuts) == list(range(len(weights)))
    assert cuts == sorted(cuts)
    for start, stop in cuts:
        assert 0 < stop - start <= items
        assert sum(weights[start : stop - 1]) < weight


@pytest.mark.parametrize(
    "weights", [[], [5], [5] * 10, LIGHT, [0] * 5000, [pool.FORK_PAYS_BYTES], [pool.FORK_PAYS_BYTES] * 3, [1 << 30, *LIGHT], [*LIGHT, 1 << 30]]
)
def test_every_index_is_worked_on_exactly_once(weights: List[int]) -> None:
    found = list(pool.run(where, weights))
    assert indices([(start, stop) for start, stop, _pid in found]) == list(range(len(weights)))


@pytest.mark.parametrize("weights", [[5] * 10, LIGHT], ids=["here", "forked"])
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_work_tells_arrives_whole_and_before_its_answer(monkeypatch: pytest.MonkeyPatch, weights: List[int], seconds: float) -> None:
    monkeypatch.setattr(pool, "_REPORT_SECONDS", seconds)
    told: List[Tuple[int, int]] = []

    def work(start: int, stop: int, tell: pool.Tell) -> Tuple[int, int]:
        for _ in range(start, stop):
            tell(1, 3)
        return start, stop

    done = 0
    for start, stop in pool.run_telling(work, weights, lambda files, size: told.append((files, size))):
        done += stop - start
        assert sum(files for files, _size in told) >= done
    assert (sum(files for files, _size in told), sum(size for _files, size in told)) == (len(weights), 3 * len(weights))
    assert seconds == 0 or weights != LIGHT or len(told) < 20, "they do not tell of every step"
    assert indices(list(pool.run_telling(work, weights, None))) == list(range(len(weights)))


def test_small_work_stays_here_and_large_work_is_shared() -> None:
    assert {pid for _start, _stop, pid in pool.run(where, [0] * 100)} == {os.getpid()}
    assert {pid for _start, _stop, pid in pool.run(where, [1 << 40])} == {os.getpid()}, "one item cannot be shared"

    def slow(start: int, stop: int) -> Tuple[int, int, int]:
        time.sleep(0.02)
        return where(start, stop)

    for weights in (LIGHT, [pool.FORK_PAYS_BYTES] * 4):
        pids = {pid for _start, _stop, pid in pool.run(slow, weights)}
        assert len(pids) == 2
        assert os.getpid() not in pids


def test_one_cpu_is_used_without_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert {pid for _start, _stop, pid in pool.run(where, LIGHT)} == {os.getpid()}


def test_uneven_work_balances_itself() -> None:
    def uneven(start: int, stop: int) -> Tuple[int, int, int]:
        time.sleep(0.3 if start == 0 else 0.001)
        return where(start, stop)

    found = list(pool.run(uneven, LIGHT))
    slow = next(pid for start, _stop, pid in found if start == 0)
    assert sum(1 for _start, _stop, pid in found if pid == slow) < len(found) / 2


def test_large_results_and_results_of_nothing_arrive() -> None:
    found = list(pool.run(lambda start, stop: bytes([start % 256]) * 1_000_000, LIGHT))
    assert len(found) > 2
    assert all(len(part) == 1_000_000 for part in found)
    assert set(pool.run(lambda start, stop: None, LIGHT)) == {None}


@pytest.mark.parametrize("weights", [[0] * 10, LIGHT], ids=["here", "forked"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/x"),
        IntegrityError("damaged", kind="manifest", field="f", found="x", next="look"),
        ValueError("a value"),
    ],
    ids=["OSError", "IntegrityError", "ValueError"],
)
def test_an_exception_arrives_as_it_was_raised(weights: List[int], error: Exception) -> None:
    def fail(start: int, stop: int) -> None:
        if stop == len(weights):
            raise error

    with pytest.raises(type(error)) as caught:
        list(pool.run(fail, weights))
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)
    if isinstance(error, OSError):
        assert (caught.value.errno, caught.value.filename) == (28, "/x")  # type: ignore[attr-defined]


@pytest.mark.parametrize("others", ["busy", "idle"])
@pytest.mark.parametrize("when", [0, 500])
def test_a_killed_worker_is_an_error_that_says_so(others: str, when: int) -> None:
    def die(start: int, stop: int) -> Tuple[int, int]:
        if start <= when < stop:
            os.kill(os.getpid(), signal.SIGKILL)
        if others == "busy":
            time.sleep(0.2)
        return start, stop

    with pytest.raises(BackupError) as caught:
        list(pool.run(die, LIGHT))
    assert caught.value.kind == "system"
    assert "memory" in str(caught.value)


def test_a_worker_killed_in_the_middle_of_its_answer_is_an_error() -> None:
    def answer(start: int, stop: int) -> bytes:
        pid = os.getpid()
        if os.fork() == 0:
            time.sleep(0.05)  # by then the answer fills the channel, and nobody reads it
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        return bytes(50_000_000)

    with pytest.raises(BackupError):
        for _ in pool.run(answer, LIGHT):
            time.sleep(0.3)


def test_an_answer_that_cannot_be_sent_is_an_error_not_a_hang() -> None:
    with pytest.raises((BackupError, AttributeError, TypeError)):
        list(pool.run(lambda start, stop: lambda: None, LIGHT))


def test_work_that_is_no_longer_wanted_ends(tmp_path: Path) -> None:
    def slow(start: int, stop: int) -> int:
        if start:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(60)
        return start

    began = time.monotonic()
    running = pool.run(slow, LIGHT)
    assert next(running) == 0
    running.close()  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        for _ in pool.run(slow, LIGHT):
            raise KeyboardInterrupt
    assert time.monotonic() - began < 20


def test_workers_end_although_the_parent_ignores_the_signal_that_ends_them() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        for _ in range(10):

            def fail(start: int, stop: int) -> None:
                raise ValueError

            with pytest.raises(ValueError):
                list(pool.run(fail, LIGHT))
    finally:
        signal.signal(signal.SIGTERM, before)


PARENT = r"""
import os, sys, time
from ansible_collections.openclaw.backup.plugins.module_utils import pool
os.sched_getaffinity = lambda pid: {0, 1}
def work(start, stop):
    os.write(1, b"%%d\n" %% os.getpid())
    time.sleep(%s)
for _ in pool.run(work, [0] * 1000):
    pass
"""


def start_parent(seconds: float) -> "Tuple[subprocess.Popen[str], List[int]]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT % seconds], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    return parent, [int(parent.stdout.readline()) for _ in range(2)]


def wait_for(pids: List[int]) -> None:
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_end_with_a_parent_that_was_killed() -> None:
    parent, workers = start_parent(60)
    parent.kill()
    parent.communicate()
    wait_for(workers)


def test_ctrl_c_is_reported_once_by_the_parent() -> None:
    parent, workers = start_parent(0.5)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=20)[1].count("KeyboardInterrupt") == 1
    wait_for(workers)


def test_work_is_shared_out_where_the_starting_program_ignored_dead_children() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "%d\n" % sum(range(5000))), done.stderr


IGNORED = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from ansible_collections.openclaw.backup.plugins.module_utils import pool
os.sched_getaffinity = lambda pid: {0, 1}
print(sum(pool.run(lambda start, stop: sum(range(start, stop)), [1] * 5000)))
"""


# ---- one call meanwhile ------------------------------------------------------------------------------------------------------------


def test_a_call_is_made_meanwhile_in_another_process() -> None:
    later = pool.Later(os.getpid, items=pool.FORK_PAYS_ITEMS)
    other = pool.Later(lambda: bytes(1_000_000), items=pool.FORK_PAYS_ITEMS)
    assert later.result() not in (0, os.getpid())
    assert other.result() == bytes(1_000_000)
    later.close()
    other.close()


@pytest.mark.parametrize(("cpus", "items"), [(1, pool.FORK_PAYS_ITEMS), (2, pool.FORK_PAYS_ITEMS - 1)])
def test_with_one_cpu_or_little_work_a_call_waits_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, cpus: int, items: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
    later = pool.Later(os.getpid, items=items)
    assert later.result() == os.getpid()
    later.close()


def test_what_goes_wrong_meanwhile_is_raised_when_it_is_asked_for() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device", "/x")

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for work, kind in ((fail, OSError), (die, BackupError)):
        later = pool.Later(work, items=pool.FORK_PAYS_ITEMS)
        with pytest.raises(kind):
            later.result()
        later.close()


def test_a_call_that_nobody_waits_for_is_broken_off() -> None:
    began = time.monotonic()
    later = pool.Later(lambda: time.sleep(60), items=pool.FORK_PAYS_ITEMS)
    later.close()
    later.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("weights", [[5], LIGHT])
def test_what_is_done_meanwhile_is_done_once_before_anything_is_yielded(weights: List[int]) -> None:
    done: List[int] = []
    for _found in pool.run(where, weights, meanwhile=lambda: done.append(os.getpid())):
        assert done == [os.getpid()]
    with pytest.raises(IntegrityError):
        next(pool.run(where, weights, meanwhile=refuse))


def refuse() -> None:
    raise IntegrityError("no")
