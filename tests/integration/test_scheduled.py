# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a schedule starts runs when it should, makes up for what was missed, and does not give up at the first trouble."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.scheduled import run_scheduled, waits
from ansible_collections.openclaw.backup.plugins.module_utils.agent.arguments import parse
from ansible_collections.openclaw.backup.plugins.module_utils.policy.schedule import splay_of

from .world import World, error_of


def scheduled(world: World, slept: List[float], *, at: float = 0.0, **schedule: Any) -> Any:
    policy = world.policy(schedule=schedule, retention={})
    return run_scheduled(policy, state_directory=str(world.state), now=at or time.time(), sleep=slept.append)


@pytest.fixture
def world(portable: World) -> World:
    (portable.src / "a").write_text("a")
    return portable


def test_a_run_is_due_once_and_what_was_missed_is_made_up_for(world: World) -> None:
    slept: List[float] = []
    assert scheduled(world, slept, cron="@daily").changed
    assert slept == [splay_of("h/p", 60)]
    (world.src / "b").write_text("b")
    again = scheduled(world, slept, cron="@daily")
    assert not again.changed and again.snapshot_id is None
    assert len(world.snapshots()) == 1
    assert scheduled(world, slept, at=time.time() + 86400, cron="@daily").changed


def test_outside_of_its_window_nothing_runs(world: World) -> None:
    noon = datetime.now().replace(hour=12, minute=0).timestamp()
    assert not scheduled(world, [], at=noon, window="22:00-06:00").changed
    assert not world.snapshots()
    assert scheduled(world, [], at=noon, window="11:00-13:00").changed


def test_a_target_out_of_reach_is_tried_again(world: World) -> None:
    slept: List[float] = []
    world.vault.write_text("in the way")

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            world.vault.unlink()

    policy = world.policy(schedule={"cron": "@daily", "splay": 0}, target={"url": str(world.vault)})
    noon = datetime.now().replace(hour=12, minute=0).timestamp()
    # What is no vault stays none, whatever is waited for.
    assert error_of(lambda: run_scheduled(policy, state_directory=str(world.state), now=noon, sleep=sleep)).kind == "not_a_vault"
    assert slept == [0]
    world.vault.unlink()
    world.backup(policy=policy)
    (world.src / "b").write_text("b")
    session = world.target.begin("0" * 32, world.snapshots()[0].id)

    def wait(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            session.close()

    slept.clear()
    tomorrow = noon + 86400
    assert run_scheduled(policy, state_directory=str(world.state), now=tomorrow, sleep=wait).changed
    assert len(slept) == 4 and slept[1] >= 30 and slept[2] >= 60


def test_trying_again_ends_before_the_next_run_is_due(world: World) -> None:
    policy = world.policy(schedule={"cron": "*/5 * * * *"})
    start = datetime(2026, 11, 20, 9, 15).timestamp()
    assert [len(waits(policy, start + passed, lambda: 0.0)) for passed in (0, 90, 240, 290)] == [3, 2, 1, 0]
    assert waits(policy, start, lambda: 0.0) == [30, 60, 120]


@pytest.mark.parametrize("words", [["--adopt"], ["--dry-run"], ["--accept", "01234567"], ["--tag", "x"]])
def test_a_scheduled_run_takes_no_decisions(world: World, words: List[str]) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.agent.__main__ import main

    path = world.root / "policy.json"
    path.write_text('{"name": "p", "host": "h", "sources": ["%s"], "target": "%s"}' % (world.src, world.vault))
    assert parse(["run", str(path), "--scheduled", *words])
    assert main(["run", str(path), "--scheduled", "--state", str(world.state), *words]) == 2
    assert not world.vault.exists()


def test_a_run_that_is_not_due_tells_of_no_snapshot(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.agent.__main__ import main

    world.backup()
    path = world.root / "policy.json"
    path.write_text('{"name": "p", "host": "h", "sources": ["%s"], "target": "%s", "schedule": {"cron": "@yearly"}}' % (world.src, world.vault))
    assert main(["run", str(path), "--scheduled", "--state", str(world.state)]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "no run is due" in said.err
