# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The run log: bounded, tolerant of crashes, and never forgetful of the last success."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import open_locked, rfc3339
from ansible_collections.openclaw.backup.plugins.module_utils.observe.runs import KEPT_BYTES, KEPT_LINES, RunLog

NOW = 1795166100.0


def a_run(number: int, **fields: Any) -> Dict[str, Any]:
    run: Dict[str, Any] = {
        "started": rfc3339(NOW + number),
        "finished": rfc3339(NOW + number + 0.5),
        "duration": 0.5,
        "verb": "run",
        "policy": "openclaw",
        "host": "web1",
        "target": "ssh://vault1/",
        "result": "ok",
        "rc": 0,
        "snapshot_id": None,
        "number": number,
    }
    run.update(fields)
    return run


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(os.fsencode(tmp_path / "runs.jsonl"))


def numbers(log: RunLog) -> List[int]:
    return [run["number"] for run in reversed(log.last(10**6))]


def prefill(log: RunLog, runs: List[Dict[str, Any]]) -> None:
    with open(log.path, "w") as stream:
        stream.writelines(json.dumps(run) + "\n" for run in runs)


def test_a_host_that_never_ran_has_no_runs_and_no_success(log: RunLog) -> None:
    assert log.last(5) == []
    assert log.last_success() is None


def test_the_newest_run_comes_first(log: RunLog) -> None:
    for number in range(4):
        log.append(a_run(number))
    assert [run["number"] for run in log.last(2)] == [3, 2]
    assert log.last(0) == []
    assert log.last(1) == [a_run(3)]


def test_the_run_log_is_readable_by_its_owner_alone_even_after_a_rewrite(log: RunLog) -> None:
    old = os.umask(0)
    try:
        log.append(a_run(0))
        assert stat.S_IMODE(os.stat(log.path).st_mode) == 0o600
        prefill(log, [a_run(number) for number in range(2 * KEPT_LINES)])
        log.append(a_run(2 * KEPT_LINES))
        assert len(log.last(10**6)) == KEPT_LINES
        assert stat.S_IMODE(os.stat(log.path).st_mode) == 0o600
    finally:
        os.umask(old)
    assert os.listdir(os.path.dirname(log.path)) == [b"runs.jsonl"]


def test_a_failure_does_not_make_a_host_fresh(log: RunLog) -> None:
    for number, result in enumerate(["ok", "warnings", "unchanged", "failed"]):
        log.append(a_run(number, result=result))
        success = log.last_success()
        assert success is not None and success["number"] == min(number, 2)


def test_the_success_of_another_verb_or_policy_does_not_make_a_policy_fresh(log: RunLog) -> None:
    log.append(a_run(0))
    log.append(a_run(1, policy="other"))
    log.append(a_run(2, verb="prune"))
    assert log.last_success() == a_run(1, policy="other")
    assert log.last_success(policy="openclaw") == a_run(0)
    assert log.last_success(verb="prune", policy="openclaw") == a_run(2, verb="prune")
    assert log.last_success(verb="drill") is None


@pytest.mark.parametrize("result", [None, "done", 0])
def test_a_run_without_a_known_result_is_refused(log: RunLog, result: Any) -> None:
    with pytest.raises(ValueError):
        log.append(a_run(0, result=result))
    assert not os.path.exists(log.path)


@pytest.mark.parametrize("torn", [b'{"number":1,"resu', b"\0\0\0\0", b"\xff\n", b"[1]\n", b"{}\n", b"[" * 99_999])
def test_a_torn_line_costs_neither_the_runs_before_nor_those_after(log: RunLog, torn: bytes) -> None:
    log.append(a_run(0))
    with open(log.path, "ab") as stream:
        stream.write(torn)
    assert numbers(log) == [0]
    log.append(a_run(2))
    assert numbers(log) == [0, 2]
    assert log.last_success() == a_run(2)


def test_the_log_stays_within_its_lines(log: RunLog) -> None:
    prefill(log, [a_run(number) for number in range(2 * KEPT_LINES - 1)])
    log.append(a_run(2 * KEPT_LINES - 1))
    assert len(log.last(10**6)) == 2 * KEPT_LINES
    log.append(a_run(2 * KEPT_LINES))
    assert numbers(log) == list(range(KEPT_LINES + 1, 2 * KEPT_LINES + 1))


def test_the_log_stays_within_its_bytes(log: RunLog) -> None:
    for number in range(40):
        log.append(a_run(number, error={"kind": "failed", "message": "x" * 100_000}))
        assert os.stat(log.path).st_size <= 2 * KEPT_BYTES
    assert numbers(log)[-1] == 39


def test_one_run_larger_than_the_log_is_kept_until_the_next(log: RunLog) -> None:
    log.append(a_run(0))
    log.append(a_run(1, result="failed", error={"message": "x" * (3 * KEPT_BYTES)}))
    assert numbers(log) == [0, 1]
    log.append(a_run(2))
    assert numbers(log) == [2]


def test_a_long_failure_does_not_make_the_log_forget_the_last_success_of_any_job(log: RunLog) -> None:
    jobs = [a_run(0), a_run(1, result="warnings"), a_run(2, policy="other"), a_run(3, verb="drill"), a_run(4, target="/srv/vault")]
    prefill(log, jobs + [a_run(number, result="failed", rc=6) for number in range(5, 2 * KEPT_LINES)])
    log.append(a_run(2 * KEPT_LINES, result="failed", rc=6))
    assert numbers(log)[:5] == [1, 2, 3, 4, KEPT_LINES + 1]
    assert log.last_success(verb="drill") == a_run(3, verb="drill")
    assert log.last_success(policy="other") == a_run(2, policy="other")


def test_a_rewrite_that_a_crash_left_half_done_is_overwritten(log: RunLog) -> None:
    with open(log.path + b".new", "wb") as stream:
        stream.write(b"left over" * 10**6)
    prefill(log, [a_run(number) for number in range(2 * KEPT_LINES)])
    log.append(a_run(2 * KEPT_LINES))
    assert len(log.last(10**6)) == KEPT_LINES
    assert os.stat(log.path).st_size < KEPT_BYTES


def test_a_link_in_the_logs_place_is_refused(log: RunLog, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", log.path)
    with pytest.raises(IntegrityError):
        log.append(a_run(0))
    with pytest.raises(IntegrityError):
        log.last(1)
    assert not (tmp_path / "elsewhere").exists()


def test_two_processes_that_rewrite_at_once_lose_no_run(log: RunLog) -> None:
    # Large lines: a rewrite falls due about every twenty appends.
    children = []
    for parity in range(2):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for number in range(60):
                    log.append(a_run(2 * number + parity, fill="x" * 50_000))
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    kept = log.last(10**6)
    assert KEPT_BYTES // 51_000 <= len(kept) <= 2 * KEPT_BYTES // 50_000
    for parity in range(2):
        mine = sorted(run["number"] for run in kept if run["number"] % 2 == parity)
        assert mine == list(range(parity, 120, 2))[60 - len(mine) :]


def test_a_writer_that_waited_for_a_rewrite_writes_to_the_new_file(log: RunLog) -> None:
    log.append(a_run(0))
    with open_locked(log.path):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                log.append(a_run(1))
                status = 0
            finally:
                os._exit(status)
        time.sleep(0.05)
        prefill(RunLog(log.path + b".new"), [a_run(0)])
        os.rename(log.path + b".new", log.path)
    assert os.waitpid(pid, 0)[1] == 0
    assert numbers(log) == [0, 1]
