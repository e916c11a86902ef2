# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What snapshots are said to take up is what the disk says: `du` before and after."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.history import describe_history
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import PruneResult, prune

from .world import AS_ROOT, NOBODY, World, fingerprint, give, in_child


def du(paths: Sequence[Path]) -> int:
    """Bytes on disk of these trees together, hard links once: coreutils' own count."""
    if not paths:
        return 0
    done = subprocess.run(["du", "-sc", "--block-size=1", *map(str, paths)], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def edit(world: World, luck: random.Random, number: int) -> None:
    """Change content, content that comes back, metadata alone, names, hard links, and let some go."""
    folder = world.src / ("folder%d" % luck.randrange(3))
    folder.mkdir(exist_ok=True)
    for _turn in range(4):
        (folder / ("file%d" % luck.randrange(6))).write_bytes(luck.choice([b"a", b"b", b"c"]) * luck.choice([10, 5000, 20000, 70000]))
    files = sorted(path for path in world.src.rglob("*") if path.is_file() and not path.is_symlink())
    luck.choice(files).chmod(luck.choice([0o600, 0o640, 0o644]))
    other = folder / ("second%d" % number)
    os.link(luck.choice(files), other)
    luck.choice(files).rename(folder / ("moved%d" % number))
    if luck.random() < 0.5:
        (folder / ("link%d" % number)).symlink_to("x" * luck.choice([5, 200]))
    if len(files) > 25:
        for path in luck.sample(files, 5):
            path.unlink(missing_ok=True)


def fill(world: World, count: int, seed: int = 3) -> List[str]:
    """So many snapshots of moving files; their ids, the newest first."""
    luck = random.Random(seed)
    for number in range(count):
        edit(world, luck, number)
        policy = world.policy(guards={"max_delete_percent": 100, "max_deselect_percent": 100})
        assert world.backup(policy=policy).changed
    return [snapshot.id for snapshot in world.snapshots()]


def sizes(world: World) -> Dict[str, List[int]]:
    return {item["id"]: [item["bytes_own"], item["bytes_shared"], item["bytes_added"]] for item in describe_history(world.policy(), sizes=True)["snapshots"]}


def prune_of(world: World, *, dry_run: bool = False, **rules: Any) -> PruneResult:
    return prune(world.policy(retention={"protect": "0s", **rules}), state_directory=str(world.state), dry_run=dry_run)


@pytest.mark.parametrize("forked", [False, True])
def test_sizes_are_what_du_says_with_and_without_a_snapshot(world: World, forked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = fill(world, 8)
    trees = [world.history / "snapshots" / name for name in ids]
    if forked:
        monkeypatch.setattr(pool, "available_cpus", lambda: 3)
        monkeypatch.setattr(pool, "FORK_PAYS_BYTES", 1)
    found = sizes(world)
    whole = du(trees)
    for number, (name, tree) in enumerate(zip(ids, trees)):
        own, shared, added = found[name]
        assert own + shared == du([tree])
        assert own == whole - du([other for other in trees if other != tree])
        assert added == du(trees[number : number + 2]) - du(trees[number + 1 : number + 2])
    assert any(own and shared and added != own for own, shared, added in found.values()), "the history is too simple"


def test_a_prune_frees_what_it_says_and_what_its_prediction_said(world: World) -> None:
    ids = fill(world, 9)
    kept = sizes(world)
    snapshots = world.history / "snapshots"
    before = du([snapshots / name for name in ids])
    would = prune_of(world, keep_last=4, dry_run=True)
    did = prune_of(world, keep_last=4)
    assert len(did.removed) == 5
    freed = before - du([snapshots / item["id"] for item in did.kept])
    assert did.bytes_freed == would.bytes_freed == freed > sum(kept[item["id"]][0] for item in did.removed), "what only they shared goes too"
    assert prune_of(world, keep_last=4, dry_run=True).bytes_freed == prune_of(world, keep_last=4).bytes_freed == 0


def test_what_a_killed_prune_left_is_counted_by_the_next(world: World) -> None:
    ids = fill(world, 4)
    snapshots, trash = world.history / "snapshots", world.history / "trash"
    expected = sizes(world)[ids[3]][0]
    trash.mkdir()
    (snapshots / ids[3]).rename(trash / ids[3])
    (trash / "stray").write_text("no directory")
    would = prune_of(world, keep_last=9, dry_run=True)
    did = prune_of(world, keep_last=9)
    assert not did.changed and did.bytes_freed == would.bytes_freed == expected and os.listdir(trash) == []


def test_looking_writes_nothing_and_disturbs_no_backup(world: World) -> None:
    ids = fill(world, 3)
    before = fingerprint(world.vault), fingerprint(world.state)
    with closing(world.target.begin("tx", ids[0])):
        pass
    unopened = sizes(world)
    with closing(world.target.begin("tx", ids[0])):
        assert sizes(world) == unopened
    prune_of(world, keep_last=1, dry_run=True)
    shutil.rmtree(world.history / "incoming", ignore_errors=True)
    assert fingerprint(world.state) == before[1]
    assert set(fingerprint(world.vault)) == {path for path in before[0] if b"incoming" not in path}


def test_no_history_has_no_sizes(world: World) -> None:
    assert sizes(world) == {} and prune_of(world, keep_last=1, dry_run=True).bytes_freed == 0


def test_directories_are_counted_where_they_take_up_blocks() -> None:
    world = World.make(on=tempfile.gettempdir())
    try:
        new, old = fill(world, 2)
        trees = [world.history / "snapshots" / name for name in (new, old)]
        found = sizes(world)
        assert found[old] == [du(trees) - du(trees[:1]), du(trees[1:]) - found[old][0], du(trees[1:])]
        assert found[new][2] == found[new][0] == du(trees) - du(trees[1:])
    finally:
        world.destroy()


@pytest.mark.skipif(not AS_ROOT, reason="needs another user")
def test_a_directory_that_forbids_looking_ends_neither_sizes_nor_a_prune() -> None:
    world = World.make("portable")
    try:
        for path in (world.src, world.root):
            give(path, NOBODY)
        (ids,) = [in_child(lambda: fill(world, 3), uid=NOBODY)]
        (world.stored(ids[2]) / "folder0").parent.chmod(0)
        assert in_child(lambda: sizes(world), uid=NOBODY)[ids[2]]
        assert len(in_child(lambda: prune_of(world, keep_last=1), uid=NOBODY).removed) == 2
    finally:
        world.destroy()
