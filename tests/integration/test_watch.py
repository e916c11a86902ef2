# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that change are backed up soon, once they rest; what cannot be watched is told of once, and nothing runs for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import watch as room
from ansible_collections.openclaw.backup.plugins.module_utils.action.watch import Pace, watch
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

from .world import Notes, World

FAST = Pace(quiet=0.3, longest=1.5, rest=0.0, missing=0.2, again=0.2)


@pytest.fixture
def world(portable: World) -> World:
    (portable.src / "a").write_text("a")
    (portable.src / "deep").mkdir()
    portable.backup()
    return portable


class Watcher:
    """A process that watches; ``told`` and ``result`` can be read when it has ended."""

    def __init__(self, pid: int, world: World) -> None:
        self.pid = pid
        self.file = world.root / "watched.json"
        self.current = world.root / "current"

    def end(self) -> Dict[str, Any]:
        self.current.unlink(missing_ok=True)
        os.waitpid(self.pid, 0)
        found: Dict[str, Any] = json.loads(self.file.read_text())
        return found


@contextmanager
def watching(world: World, policy: "Policy | None" = None, pace: Pace = FAST) -> Iterator[Watcher]:
    """Watch in a process of its own until the block ends, or ``end`` is called. Begins when the watches stand."""
    ready = world.root / "ready"
    for name in ("ready", "watched.json"):
        (world.root / name).unlink(missing_ok=True)
    (world.root / "current").write_text("")
    pid = os.fork()
    if pid == 0:
        try:
            told: List[str] = []

            class Told(Notes):
                def note(self, text: str) -> None:
                    ready.write_text(text)

            room._LOOK_SECONDS = 0.2  # type: ignore[misc]
            current = world.root / "current"

            def tell(text: str) -> None:
                told.append(text)
                ready.write_text(text)

            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            done = watch(policy or world.policy(), state_directory=str(world.state), is_current=current.exists, tell=tell, progress=Told(), pace=pace)
            world.root.joinpath("watched.json").write_text(json.dumps({**done.to_dict(), "told": told}))
        finally:
            os._exit(0)
    watcher = Watcher(pid, world)
    try:
        until(ready.exists)
        yield watcher
    finally:
        (world.root / "current").unlink(missing_ok=True)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holds(world: World, count: int) -> Callable[[], bool]:
    return lambda: len(world.snapshots()) == count


def test_a_change_is_backed_up_and_so_is_one_in_a_directory_that_came_since(world: World) -> None:
    with watching(world) as watcher:
        (world.src / "new" / "deeper").mkdir(parents=True)
        (world.src / "new" / "deeper" / "b").write_text("b")
        until(holds(world, 2))
        time.sleep(0.6)
        (world.src / "new" / "deeper" / "b").write_text("other")
        until(holds(world, 3))
        (world.src / "deep").rename(world.src / "moved")
        until(holds(world, 4))
        time.sleep(0.6)
        (world.src / "moved" / "c").write_text("c")
        until(holds(world, 5))
        found = watcher.end()
    assert (found["rc"], found["failed"], found["told"]) == (0, 0, [])
    assert found["runs"] >= 4 and found["directories"] == 4


def test_changes_are_waited_for_to_end_but_not_for_ever(world: World) -> None:
    with watching(world):
        start = time.monotonic()
        while len(world.snapshots()) < 2:
            (world.src / "a").write_text(str(time.monotonic()))
            time.sleep(0.05)
            assert time.monotonic() - start < 10
        assert time.monotonic() - start >= 1.3


def test_what_is_left_out_starts_nothing(world: World) -> None:
    policy = world.policy(exclude=["*.tmp", "/cache/"])
    (world.src / "cache").mkdir()
    world.backup(policy=policy)
    with watching(world, policy) as watcher:
        (world.src / "x.tmp").write_text("x")
        (world.src / "cache" / "x").write_text("x")
        (world.src / "cache" / "dir").mkdir()
        (world.src / "dir.tmp").mkdir()
        time.sleep(1.2)
        assert watcher.end()["runs"] == 0


def test_a_source_that_is_a_file_is_watched_also_when_it_is_replaced(world: World) -> None:
    policy = world.policy(sources=[str(world.src / "a")], guards={"max_deselect_percent": 100})
    world.backup(policy=policy)
    count = len(world.snapshots())
    with watching(world, policy) as watcher:
        (world.src / "beside").write_text("nobody's business")
        time.sleep(0.8)
        (world.src / "a.new").write_text("new")
        (world.src / "a.new").replace(world.src / "a")
        until(holds(world, count + 1))
        assert watcher.end()["runs"] == 1


def test_a_hook_that_writes_into_the_sources_does_not_start_the_next_run(world: World) -> None:
    hook = ["/bin/sh", "-c", "date +%s.%N >" + str(world.src / "dump")]
    policy = world.policy(hooks={"before": [hook]})
    with watching(world, policy) as watcher:
        (world.src / "a").write_text("changed")
        until(holds(world, 2))
        time.sleep(1.5)
        assert watcher.end()["runs"] == 1
    assert len(world.snapshots()) == 2


def test_runs_keep_a_distance(world: World) -> None:
    with watching(world, pace=FAST._replace(rest=4.0)):
        (world.src / "a").write_text("1")
        until(holds(world, 2))
        start = time.monotonic()
        (world.src / "a").write_text("22")
        until(holds(world, 3))
        assert time.monotonic() - start > 2.5


def test_outside_of_the_window_the_schedule_is_waited_for(world: World) -> None:
    hour = (time.localtime().tm_hour + 12) % 24
    with watching(world, world.policy(schedule={"window": "%02d:00-%02d:30" % (hour, hour)})) as watcher:
        (world.src / "a").write_text("changed")
        time.sleep(1.2)
        assert watcher.end()["runs"] == 0


def test_a_run_that_fails_is_told_of_and_the_next_change_starts_another(world: World) -> None:
    policy = world.policy(guards={"require": [str(world.root / "mounted")]})
    with watching(world, policy) as watcher:
        (world.src / "a").write_text("1")
        until(lambda: "mounted" in (world.state / "h" / "p" / "runs.jsonl").read_text())
        (world.root / "mounted").write_text("")
        time.sleep(0.5)
        (world.src / "a").write_text("22")
        until(holds(world, 2))
        found = watcher.end()
    assert (found["runs"], found["failed"]) == (2, 1)


def test_two_watch_one_policy_and_the_second_leaves_it_to_the_first(world: World) -> None:
    with watching(world) as watcher:
        done = watch(world.policy(), state_directory=str(world.state), is_current=lambda: True, tell=print, progress=Notes())
        assert (done.rc, done.is_alone) == (0, False)
        assert watcher.end()["is_alone"]


def test_too_many_directories_are_told_of_once_with_what_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        (world.src / ("d%d" % number)).mkdir()
    monkeypatch.setattr(room, "most_watches", lambda: 10)
    with watching(world) as watcher:
        time.sleep(1.0)
        (world.src / "a").write_text("changed")
        time.sleep(0.6)
        found = watcher.end()
    assert found["runs"] == 0 and len(found["told"]) == 1
    assert "10 directories, and 5 of them may be watched; the schedule alone" in found["told"][0]
    assert "fs.inotify.max_user_watches" in found["told"][0]


def test_a_source_that_is_missing_is_waited_for(world: World) -> None:
    aside = world.root / "aside"
    world.src.rename(aside)
    with watching(world) as watcher:
        aside.rename(world.src)
        time.sleep(1.0)
        (world.src / "a").write_text("changed")
        until(holds(world, 2))
        assert len(watcher.end()["told"]) == 1


def test_told_to_end_it_ends_well_with_the_run_that_it_started(world: World) -> None:
    policy = world.policy(hooks={"before": [["/bin/sleep", "60"]]})
    with watching(world, policy) as watcher:
        (world.src / "a").write_text("changed")
        until(lambda: subprocess.run(["pgrep", "-P", str(watcher.pid)], capture_output=True, check=False).stdout)
        time.sleep(0.5)
        start = time.monotonic()
        os.kill(watcher.pid, signal.SIGTERM)
        assert watcher.end()["rc"] == 0
        assert time.monotonic() - start < 15
    assert json.loads((world.state / "h" / "p" / "runs.jsonl").read_text().splitlines()[-1])["result"] == "failed"


def test_the_verb_ends_when_its_policy_changes(world: World, tmp_path: Path) -> None:
    path = world.root / "policy.json"
    path.write_text(json.dumps({"name": "p", "host": "h", "sources": [str(world.src)], "target": str(world.vault)}))
    command = [
        sys.executable,
        "-m",
        "ansible_collections.openclaw.backup.plugins.module_utils.agent",
        "watch",
        str(path),
        "--state",
        str(world.state),
        "--json",
    ]
    started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until((world.state / "h" / "p" / "watch.lock").exists)
        time.sleep(1)
        path.write_text(path.read_text() + "\n")
        output, complaints = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 0, complaints
    assert json.loads(output)["directories"] == 2
