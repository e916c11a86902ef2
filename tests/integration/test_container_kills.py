# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container that is killed at any moment, and may lose its disk with it, comes back with what its last run had or with something newer; and its history
holds nothing but whole states, none older than the one before."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Dict, Set

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.loop import Pace, loop
from ansible_collections.openclaw.backup.plugins.module_utils.action.needed import NeededResult, restore_if_needed
from ansible_collections.openclaw.backup.plugins.module_utils.errors import RefusedError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

from .loops import until
from .world import World

FILES = 12
PACE = Pace(interval=0.3, quiet=0.02, longest=0.1, rest=0.02)


def body(number: int, generation: int) -> bytes:
    return b"%d\n" % generation + b"note %d of an agent\n" % number * (1 + 30 * number)


def generations(tree: Path) -> Dict[str, int]:
    """Of each file, and of the database, the generation; ``AssertionError`` where one is not whole."""
    found: Dict[str, int] = {}
    for number in range(FILES):
        data = (tree / ("d%d" % (number % 3)) / ("note %d" % number)).read_bytes()
        generation = int(data.partition(b"\n")[0] or b"-1")
        assert data == body(number, generation), "note %d is not whole" % number
        found["note %d" % number] = generation
    return found


def rows(database: Path, how: str) -> int:
    with closing(sqlite3.connect("file:%s?%s" % (database, how), uri=True)) as connection:
        return int(connection.execute("select coalesce(max(n), 0) from t").fetchone()[0])


def write(tree: Path, number: int, generation: int) -> None:
    path = tree / ("d%d" % (number % 3)) / ("note %d" % number)
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_bytes(body(number, generation))
    fresh.rename(path)


def work(tree: Path) -> None:
    """What an agent does until it is killed: goes on from what it finds, file by file, and says so in its database."""
    generation = max(generations(tree).values())
    with closing(sqlite3.connect(tree / "state.sqlite")) as database:
        while True:
            generation += 1
            for number in range(FILES):
                write(tree, number, generation)
                time.sleep(0.001)
            with database:
                database.execute("insert into t values (?)", (generation,))


def restored(world: World, policy: Policy) -> NeededResult:
    """A restore where that is needed, and where it is refused for what is newer here the one that keeps that."""
    try:
        return restore_if_needed(policy, state_directory=str(world.state))
    except RefusedError as error:
        assert error.kind == "newer"
        return restore_if_needed(policy, state_directory=str(world.state), undo=str(world.root / "kept"))


class Container:
    """One that restores, starts its agent, and backs up; killed as a whole."""

    def __init__(self, world: World, policy: Policy, said: Path) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, 2)
                restored(world, policy)
                if os.fork() == 0:
                    work(world.src)

                def say(line: Dict[str, Any]) -> None:
                    with open(said, "a") as stream:
                        stream.write(json.dumps(line) + "\n")

                loop(lambda: policy, state_directory=str(world.state), pace=PACE, say=say, tell=lambda text: None)
            finally:
                os._exit(1)

    def kill(self) -> None:
        """At once and without asking, all of it."""
        with suppress(ProcessLookupError):  # it has not come as far as having a group
            os.killpg(self.pid, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        _pid, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), "the container ended by itself"


def lose(world: World, luck: random.Random) -> str:
    """What goes with a container."""
    what = luck.choice(("nothing", "nothing", "its disk", "its files", "its state", "a key file"))
    if what in ("its disk", "its files"):
        for path in list(world.src.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if what in ("its disk", "its state"):
        shutil.rmtree(world.state, ignore_errors=True)
    if what == "a key file":
        (world.src / "d0" / "note 0").unlink(missing_ok=True)
    return what


def torture(world: World, kills: int, luck: random.Random) -> Counter[str]:
    """Kill ``kills`` containers; what was lost with them, and how many runs had succeeded."""
    policy = world.policy(exclude=["*.tmp"], guards={"require": [str(world.src / "d0" / "note 0")], "min_files": FILES})
    said = world.root / "said"
    said.touch()
    for number in range(FILES):
        write(world.src, number, 0)
    with closing(sqlite3.connect(world.src / "state.sqlite")) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table t (n integer)")
    assert world.backup(policy=policy).rc == 0
    seen: Set[str] = set()
    newest: Dict[str, int] = {}
    counts: Counter[str] = Counter()
    window = 0.8
    for turn in range(kills):
        lost = lose(world, luck)
        counts["lost: %s" % lost] += 1
        container = Container(world, policy, said)
        # Every other one of those that have to restore is killed meanwhile.
        is_early = lost != "nothing" and luck.random() < 0.5
        size = said.stat().st_size
        time.sleep(luck.uniform(0.0, window / 10 if is_early else window))
        if turn == kills - 1:
            until(lambda size=size: said.stat().st_size > size)  # some run comes to its end, however slow this machine is
        container.kill()
        if not is_early:  # kills fall into all that a container does here, at whatever speed
            window = max(0.8, window * 0.9) if said.stat().st_size > size else min(6.0, window * 1.3)
        for snapshot in reversed(world.snapshots()):
            if snapshot.id not in seen:
                seen.add(snapshot.id)
                stored = world.stored(snapshot.id)
                held = {**generations(stored), "rows": rows(stored / "state.sqlite", "immutable=1")}
                assert all(held[name] >= newest.get(name, 0) for name in held), "a good state was replaced by an older one"
                newest = held
        done = restored(world, policy)
        assert done.rc in (0, 3)
        counts["restored: %s" % done.needed] += 1
        here = {**generations(world.src), "rows": rows(world.src / "state.sqlite", "mode=rw")}
        assert all(here[name] >= newest[name] for name in newest), (here, newest)
    lines = [json.loads(line) for line in said.read_text().splitlines(keepends=True) if line.endswith("\n")]
    good = [line["snapshot_id"] for line in lines if line["rc"] in (0, 3)]
    assert set(good) <= seen, "a success was said of what is not there"
    assert {line["rc"] for line in lines} <= {0, 3}, lines
    assert world.backup(policy=policy).rc == 0
    counts["runs"] = len(good)
    counts["snapshots"] = len(seen)
    return counts


@pytest.mark.torture
def test_a_container_that_is_killed_at_random_instants_loses_nothing_that_a_run_had_and_no_run_keeps_less(portable: World) -> None:
    kills = int(os.environ.get("INSTANTS", "8")) // 2
    seed = int(os.environ.get("SEED", str(random.SystemRandom().randrange(1 << 30))))
    print("seed %d" % seed)
    counts = torture(portable, kills, random.Random(seed))
    print(dict(counts))
    portable.check_history()
    assert counts["runs"] > 0 and sum(counts["restored: %s" % reason] for reason in (None, "empty", "unknown", "missing", "unfinished")) == kills
