# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill runs at random instants, whole process groups at once, and look at what is left: only whole snapshots, and a next run that needs no help.

.venv/bin/python tests/torture.py --kills 200 [--seed N] [--storage native|portable|packs]

With `--storage packs` it is prunes and rekeys of sealed packs that are killed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.rekey import RekeyResult, rekey
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import survey
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.tests.integration.world import STORAGES, Packed, World, differences, fingerprint, killed_at

FILES = 600
# A history as long as this is begun anew: every snapshot of it is read after every kill.
LONGEST = 6


class Report(NamedTuple):
    """``kills`` that hit a run at work, by the stage they hit: what the next run found in the vault; ``runs`` in all."""

    kills: int
    runs: int
    stages: Dict[str, int]


def make_source(src: Path, luck: random.Random) -> None:
    for number in range(FILES):
        folder = src / ("d%02d" % (number % 17)) / ("e%d" % (number % 3))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("f%03d" % number)).write_bytes(luck.randbytes(luck.choice((0, 10, 3000, 20_000))))
    (src / "large").write_bytes(luck.randbytes(6 << 20))
    os.link(src / "large", src / "large too")


def change(src: Path, luck: random.Random, number: int) -> None:
    """A day's work."""
    files = sorted(path for path in src.rglob("f*") if path.is_file() and not path.is_symlink())
    for path in luck.sample(files, 40):
        dice = luck.random()
        if dice < 0.4:
            path.write_bytes(luck.randbytes(luck.choice((1, 5000, 100_000))))
        elif dice < 0.5:
            path.unlink()
        elif dice < 0.6:
            path.rename(path.with_name("f%d-%s" % (number, path.name[-3:])))
        elif dice < 0.7:
            path.chmod(luck.choice((0o600, 0o644, 0o755)))
        elif dice < 0.8:
            os.link(path, path.with_name("f-link%d-%s" % (number, path.name[-3:])))
        elif dice < 0.9:
            path.unlink()
            path.mkdir()
            (path / ("f%d" % number)).write_bytes(b"inside")
        else:
            (path.parent / ("f-new%d-%s" % (number, path.name[-3:]))).write_bytes(luck.randbytes(2000))
    (src / "large").write_bytes(luck.randbytes(6 << 20))


def stage_of(world: World) -> str:
    """Where the run was hit, as far as its leavings tell."""
    if not world.vault.exists():
        return "before the vault"
    incoming = world.history / "incoming"
    sessions = list(incoming.iterdir()) if incoming.exists() else []
    if not sessions:
        pending = list((world.state / "h" / "p").glob("targets/*/pending.json"))
        return "between session and baseline" if pending else "before the session"
    return "building" if (sessions[0] / "snapshot" / "tree").exists() else "receiving"


def torture(kills: int, *, seed: int = 0, storages: Optional[List[str]] = None, say: Callable[[str], None] = lambda _text: None) -> Report:
    """Kill ``kills`` runs. ``AssertionError`` where something is left that should not be."""
    # Small as they are, these trees are to be shared out among processes like large ones.
    usual = pool.FORK_PAYS_ITEMS, survey._SHARE_FROM
    pool.FORK_PAYS_ITEMS, survey._SHARE_FROM = 100, 10
    try:
        return _torture(kills, seed, storages or list(STORAGES), say)
    finally:
        pool.FORK_PAYS_ITEMS, survey._SHARE_FROM = usual


def _torture(kills: int, seed: int, storages: List[str], say: Callable[[str], None]) -> Report:
    luck = random.Random(seed)
    stages: Dict[str, int] = {}
    hit = runs = 0
    for storage in storages:
        share = kills // len(storages)
        world: Optional[World] = None
        typical = 0.4
        number = done = 0
        while done < share:
            number += 1
            if world is None or len(world.snapshots()) >= LONGEST or luck.random() < 0.3:
                if world is not None:
                    world.destroy()
                world = World.make(storage)
                make_source(world.src, luck)
            else:
                change(world.src, luck, number)
            before = len(world.snapshots())
            was_at_work = killed_at(world.backup, luck.uniform(0, typical * 1.1))
            runs += 1
            stage = stage_of(world)
            if was_at_work:
                done, hit = done + 1, hit + 1
                stages[stage] = stages.get(stage, 0) + 1
            check(world, stage)
            assert before <= len(world.snapshots()) <= before + 1
            started = time.monotonic()
            result = world.backup()
            runs += 1
            typical = 0.8 * typical + 0.2 * (time.monotonic() - started)
            assert result.rc == 0, result.to_dict()
            assert len(world.snapshots()) == before + 1
            assert os.listdir(world.history / "incoming") == []
            assert not list((world.state / "h" / "p").glob("targets/*/pending.json")) and not (world.state / "h" / "p" / "staging").exists()
            world.check_history()
            dest = world.root / "out"
            assert world.restore(dest=dest, verify=False).rc == 0
            assert differences(fingerprint(world.src, times=False), fingerprint(world.restored(dest), times=False)) == []
            shutil.rmtree(dest)
            say("%4d of %d  %-9s %s" % (hit, kills, storage, stage if was_at_work else "too late"))
        if world is not None:
            world.destroy()
    return Report(hit, runs, stages)


def torture_packs(kills: int, *, seed: int = 0, say: Callable[[str], None] = lambda _text: None) -> Report:
    """Kill ``kills`` prunes and rekeys that write packs anew. ``AssertionError`` where a snapshot is not whole then, or is gone that should not be."""
    luck = random.Random(seed)
    stages: Dict[str, int] = {}
    runs = 0
    world = Packed.make()
    assert isinstance(world, Packed)
    make_source(world.src, luck)
    typical = {"prune": 0.3, "rekey": 0.5}
    try:
        while sum(stages.values()) < kills:
            for _number in range(luck.choice((1, 1, 2))):
                change(world.src, luck, runs)
                runs += 1
                assert world.backup(policy=world.policy(anomaly={"changed_percent": 0, "removed_percent": 0})).rc == 0
            what = luck.choice(("prune", "rekey"))
            if what == "rekey" and not world.old_keys:
                world.change_key()
            policy = world.policy(retention={"keep_last": luck.randint(2, 4), "protect": "0s", "max_unused_percent": luck.choice((0, 10, 40))})
            kept = [snapshot.id for snapshot in world.snapshots()][: policy.retention.keep_last]

            def act(what: str = what, policy: Policy = policy) -> Any:
                return (prune if what == "prune" else rekey)(policy, state_directory=str(world.state))

            for _attempt in range(luck.randint(1, 3)):
                runs += 1
                if killed_at(act, luck.uniform(0, typical[what] * 1.1)):
                    stages[what] = stages.get(what, 0) + 1
                assert [snapshot.id for snapshot in world.snapshots()][: len(kept)] == kept
                check(world, what)
            if luck.random() < 0.3:
                world.days_pass(luck.choice((0.6, 1.1)))
            if luck.random() < 0.7:
                started = time.monotonic()
                done = act()
                typical[what] = 0.8 * typical[what] + 0.2 * (time.monotonic() - started)
                assert done.rc == 0, done.to_dict()
                if isinstance(done, RekeyResult):
                    assert done.keys == [done.key]
                    world.old_keys.clear()
            check(world, what)
            say("%4d of %d  %s" % (sum(stages.values()), kills, what))
        dest = world.root / "out"
        runs += 1
        change(world.src, luck, runs)
        world.backup(policy=world.policy(anomaly={"changed_percent": 0}))
        assert world.restore(dest=dest, verify=False, state_directory=str(world.root / "onlooker")).rc == 0
        assert differences(fingerprint(world.src, times=False), fingerprint(world.restored(dest), times=False)) == []
    finally:
        world.destroy()
    return Report(sum(stages.values()), runs, stages)


def check(world: World, stage: str) -> None:
    """What there is after a kill is whole."""
    for snapshot in world.snapshots():
        found = world.verify(snapshot=snapshot.id)
        assert found.ok, (stage, found.to_dict())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--storage", choices=(*STORAGES, "packs"))
    options = parser.parse_args()
    print("seed %d" % options.seed, flush=True)

    def say(text: str) -> None:
        print(text, flush=True)

    if options.storage == "packs":
        report = torture_packs(options.kills, seed=options.seed, say=say)
    else:
        report = torture(options.kills, seed=options.seed, storages=[options.storage] if options.storage else None, say=say)
    print("%d kills, %d runs; the histories held only whole snapshots and every next run succeeded" % (report.kills, report.runs))
    for stage, count in sorted(report.stages.items()):
        print("  %4d %s" % (count, stage))
    return 0


if __name__ == "__main__":
    sys.exit(main())
