# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prunes of real histories: what stays, what goes, what is told, and what a kill, a lock or another's hand does to them."""

from __future__ import annotations

import datetime
import json
import os
import random
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import PruneResult, hold, prune, release, tag
from ansible_collections.openclaw.backup.plugins.module_utils.observe.progress import Progress
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Retention
from ansible_collections.openclaw.backup.plugins.module_utils.policy.retention import Candidate, decide
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import owner
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.layout import update_state

from .world import AS_ROOT, NOBODY, World, can_run, differences, error_of, fingerprint, give, in_child, killed_at, needs_root


def fill(world: World, count: int) -> List[str]:
    """Make so many snapshots; their ids, the newest first."""
    (world.src / "d").mkdir(exist_ok=True)
    for name in ("a", "d/b", "d/c"):
        (world.src / name).write_text("the same in all " + name)
    ids = []
    for number in range(count):
        (world.src / "d" / "changing").write_text("number %d" % number)
        ids.insert(0, str(world.backup().snapshot_id))
    return ids


def prune_of(world: World, *, dry_run: bool = False, **rules: Any) -> PruneResult:
    policy = world.policy(retention={"protect": "0s", **rules})
    return prune(policy, state_directory=str(world.state), dry_run=dry_run)


def hold_of(world: World, snapshot: str, reason: Any) -> Dict[str, Any]:
    return hold(world.policy(), state_directory=str(world.state), snapshot=snapshot, reason=reason)


def release_of(world: World, snapshot: str) -> Dict[str, Any]:
    return release(world.policy(), state_directory=str(world.state), snapshot=snapshot)


def tag_of(world: World, snapshot: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Dict[str, Any]:
    return tag(world.policy(), state_directory=str(world.state), snapshot=snapshot, add=add, remove=remove)


def ids_of(items: List[Dict[str, Any]]) -> List[str]:
    return [item["id"] for item in items]


def events(log: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_what_no_rule_keeps_goes_and_everything_else_works_on(world: World) -> None:
    ids = fill(world, 5)
    world.verify(snapshot=ids[3], depth="full")  # has a state file, and is the last one verified in full
    world.verify(snapshot=ids[4], depth="full")
    result = prune_of(world, keep_last=2)
    assert result.changed and result.rc == 0
    assert ids_of(result.kept) == [ids[0], ids[1], ids[3]]
    assert ids_of(result.removed) == [ids[2], ids[4]]
    assert result.removed[0]["reasons"] == ["no rule keeps it"]
    assert result.sample == [{"path": ids[2], "change": "removed"}, {"path": ids[4], "change": "removed"}]
    assert sorted(os.listdir(world.history / "snapshots")) == sorted([ids[0], ids[1], ids[3]])
    assert os.listdir(world.history / "trash") == []
    assert not (world.history / "state" / (ids[4] + ".json")).exists()
    assert (world.history / "state" / (ids[3] + ".json")).exists()
    told = [event for event in events(world.history / "audit.jsonl") if event["event"] == "prune"]
    assert [event["removed"] for event in told] == [[{"snapshot": name, "reason": "no rule keeps it"} for name in (ids[2], ids[4])]]
    again = prune_of(world, keep_last=2)
    assert not again.changed and again.removed == []
    world.check_history(count=3)
    (world.src / "a").write_text("goes on")
    assert world.backup().changed
    assert world.restore(dest=world.root / "out").verified


@needs_root
def test_root_leaves_nothing_in_a_history_that_another_account_keeps(portable: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = fill(portable, 3)
    give(portable.vault, NOBODY)
    before = fingerprint(portable.vault)
    (portable.src / "a").write_text("changed")
    other = portable.policy(name="other")
    for work in (
        lambda: prune_of(portable, keep_last=1),
        lambda: hold_of(portable, ids[0], "why"),
        lambda: tag_of(portable, ids[0], add=["x"]),
        lambda: portable.backup(),
        lambda: portable.backup(policy=other),
        lambda: portable.target.heartbeat(ids[0], portable.snapshots()[0].receipt.digest),
    ):
        error = error_of(work)
        assert (error.kind, error.rc, error.allowed) == ("keeper", 4, "nobody") and "openclaw-backup-vault VERB h " in str(error.next), error
    assert portable.verify(depth="full").ok and "would shut it out" in "".join(portable.notes)
    assert portable.restore(dest=portable.root / "out").verified and prune_of(portable, keep_last=1, dry_run=True).changed
    assert differences(fingerprint(portable.vault), before) == []
    monkeypatch.setattr(owner, "_makes_own_files", lambda vault: False)  # as a mount does that gives all to one account
    assert hold_of(portable, ids[0], "why")["changed"]


@needs_root
def test_a_link_does_not_make_a_history_roots(portable: World) -> None:
    fill(portable, 2)
    portable.history.rename(portable.root / "elsewhere")
    portable.history.symlink_to(portable.root / "elsewhere")
    assert prune_of(portable, keep_last=5).rc == 0, "root's own links lead where root wants"
    os.chown(portable.history, NOBODY, NOBODY, follow_symlinks=False)
    before = fingerprint(portable.root / "elsewhere")
    assert error_of(prune_of, portable, keep_last=1).kind == "keeper"
    assert differences(fingerprint(portable.root / "elsewhere"), before) == []


def test_a_dry_run_says_the_same_and_writes_nothing(world: World) -> None:
    ids = fill(world, 4)
    before = fingerprint(world.vault), fingerprint(world.state)
    would = prune_of(world, keep_last=1, dry_run=True)
    assert (fingerprint(world.vault), fingerprint(world.state)) == before
    assert would.changed and ids_of(would.removed) == ids[1:]
    did = prune_of(world, keep_last=1)
    assert (did.kept, did.removed, did.sample) == (would.kept, would.removed, would.sample)


def test_a_held_snapshot_stays_until_it_is_released(world: World) -> None:
    ids = fill(world, 3)
    held = hold_of(world, ids[2], "before the upgrade")
    assert held["changed"] and held["held"]["reason"] == "before the upgrade" and held["held"]["by"] == "user"
    assert not hold_of(world, ids[2], "before the upgrade")["changed"]
    assert (world.snapshots()[2].held or {})["reason"] == "before the upgrade"
    result = prune_of(world, keep_last=1)
    assert ids_of(result.removed) == [ids[1]]
    assert result.kept[1]["reasons"] == ["held: before the upgrade"]
    assert release_of(world, ids[2]) == {"changed": True, "snapshot_id": ids[2], "held": None, "rc": 0}
    assert not release_of(world, ids[2])["changed"]
    assert ids_of(prune_of(world, keep_last=1).removed) == [ids[2]]
    assert [event["event"] for event in events(world.history / "audit.jsonl") if event["event"] in ("hold", "release", "prune")] == [
        "hold",
        "prune",
        "release",
        "prune",
    ]
    world.check_history(count=1)


def test_a_reason_that_a_snapshot_is_held_for_is_never_lost(world: World) -> None:
    ids = fill(world, 2)
    evidence = {"at": "2026-11-20T09:15:00.000Z", "reason": "the content of 60 of 60 files was removed or replaced by x", "by": "anomaly"}
    update_state(world.target.history, ids[1], {"held": evidence})
    assert hold_of(world, ids[1], None) == {"changed": False, "snapshot_id": ids[1], "held": evidence, "rc": 0}
    text = "somebody was here; before: %s" % evidence["reason"]
    assert hold_of(world, ids[1], "somebody was here")["held"]["reason"] == text
    assert not hold_of(world, ids[1], "somebody was here")["changed"] and not hold_of(world, ids[1], None)["changed"]
    assert hold_of(world, ids[0], None)["held"]["reason"] == "held by hand"


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "\x1b[31mred", "x" * 501])
def test_a_hold_needs_one_line_of_text(world: World, reason: str) -> None:
    ids = fill(world, 1)
    error = error_of(hold_of, world, ids[0], reason)
    assert (error.rc, error.field) == (2, "reason")
    assert world.snapshots()[0].held is None


def test_a_hold_of_an_unknown_snapshot_is_refused(world: World) -> None:
    fill(world, 1)
    assert error_of(hold_of, world, "20200101", "why").rc in (2, 4)


def test_a_tag_keeps_a_snapshot_until_it_is_taken_off(world: World) -> None:
    ids = fill(world, 4)
    assert tag_of(world, ids[2], add=["good", "before-upgrade"]) == {"changed": True, "snapshot_id": ids[2], "tags": ["before-upgrade", "good"], "rc": 0}
    assert not tag_of(world, ids[2], add=["good"], remove=["other"])["changed"]
    hold_of(world, ids[2], "why")  # what else is known of it stays
    release_of(world, ids[2])
    assert world.snapshots()[2].tags == ("before-upgrade", "good") and world.snapshots()[1].tags == ()
    result = prune_of(world, keep_tags=["good", "best"])
    assert ids_of(result.removed) == [ids[1], ids[3]] and result.kept[1]["reasons"] == ["has tag good"]
    assert tag_of(world, ids[2], remove=["good"])["tags"] == ["before-upgrade"]
    assert ids_of(prune_of(world, keep_tags=["good", "best"]).removed) == [ids[2]]
    told = [event for event in events(world.history / "audit.jsonl") if event["event"] == "tag"]
    assert [(event["add"], event["remove"]) for event in told] == [(["good", "before-upgrade"], []), ([], ["good"])]
    world.check_history(count=1)


@pytest.mark.parametrize("name", ["", "two words", "a/b", "x" * 65, "a\n", "\u00e9", "a,b"])
def test_a_tag_is_a_short_name(world: World, name: str) -> None:
    ids = fill(world, 1)
    for flag in ("add", "remove"):
        error = error_of(tag_of, world, ids[0], **{flag: ["fine", name]})
        assert (error.rc, error.field) == (2, "--" + flag) and "64" in str(error.allowed)
    (world.src / "a").write_text("more")
    assert (error_of(world.backup, tags=[name]).field, error_of(prune_of, world, keep_tags=[name]).field) == ("tags", "retention.keep_tags[0]")
    assert len(world.snapshots()) == 1 and world.snapshots()[0].tags == ()


def test_tags_to_add_and_to_remove_are_needed_and_differ(world: World) -> None:
    ids = fill(world, 1)
    assert error_of(tag_of, world, ids[0]).rc == error_of(tag_of, world, ids[0], add=["a", "b"], remove=["b"]).rc == 2


def test_a_run_tags_its_snapshot_or_the_one_that_is_unchanged(world: World) -> None:
    fill(world, 1)
    (world.src / "a").write_text("new")
    assert world.backup(tags=["b", "a"]).changed
    newest = world.snapshots()[0]
    assert newest.tags == ("a", "b") and world.snapshots()[1].tags == ()
    before = fingerprint(world.vault)
    again = world.backup(tags=["a"])
    assert (again.changed, again.tagged, fingerprint(world.vault)) == (False, [], before)
    would = world.backup(tags=["c", "a"], dry_run=True)
    assert (would.changed, would.tagged, would.snapshot_id, fingerprint(world.vault)) == (True, ["c"], newest.id, before)
    did = world.backup(tags=["c", "a"])
    assert (did.changed, did.tagged, did.snapshot_id, did.added) == (True, ["c"], newest.id, 0)
    assert world.snapshots()[0].tags == ("a", "b", "c")
    world.check_history(count=2)


def test_a_run_with_a_tag_does_not_tag_what_another_made_of_the_history(world: World) -> None:
    """The baseline looks unchanged here, but the vault went back."""
    ids = fill(world, 3)
    aside = world.root / "aside"
    (world.history / "snapshots" / ids[0]).rename(aside)
    result = world.backup(tags=["now"])
    assert result.changed and result.tagged == [] and result.snapshot_id not in ids
    assert [snapshot.tags for snapshot in world.snapshots()] == [("now",), (), ()]


def test_a_run_that_is_killed_leaves_no_snapshot_without_its_tags(world: World) -> None:
    luck = random.Random(11)
    fill(world, 2)
    killed = 0
    for turn in range(15):
        (world.src / "d" / "changing").write_text("turn %d" % turn)
        killed += killed_at(lambda: world.backup(tags=["t"]), luck.uniform(0, 0.25))
        assert all(snapshot.tags == ("t",) for snapshot in world.snapshots()[:-2])
        world.backup(tags=["t"])
    assert killed, "the delays were too long"
    prune_of(world, keep_last=1)
    assert {name[:-5] for name in os.listdir(world.history / "state") if name.endswith(".json")} <= {s.id for s in world.snapshots()}
    world.check_history()


def test_an_empty_retention_is_an_error_and_removes_nothing(world: World) -> None:
    fill(world, 3)
    before = fingerprint(world.vault)
    error = error_of(prune_of, world)
    assert (error.rc, error.field) == (2, "retention")
    assert fingerprint(world.vault) == before


def test_a_history_with_a_name_that_cannot_be_parsed_is_left_alone(world: World) -> None:
    ids = fill(world, 3)
    (world.history / "snapshots" / "20201010T101010.000Z-copy").mkdir()
    error = error_of(prune_of, world, keep_last=1)
    assert (error.rc, error.kind) == (7, "foreign")
    assert len(os.listdir(world.history / "snapshots")) == len(ids) + 1


def test_a_vault_that_is_gone_is_no_empty_history(world: World) -> None:
    fill(world, 1)
    world.vault.rename(world.root / "elsewhere")
    assert error_of(prune_of, world, keep_last=1).rc == 6


def test_nothing_to_prune_yet(world: World) -> None:
    result = prune_of(world, keep_last=1)
    assert not result.changed and result.kept == [] and not world.vault.exists()


def test_a_prune_waits_for_nobody_who_is_at_work(world: World) -> None:
    ids = fill(world, 3)
    with closing(world.target.begin("tx", ids[0])):
        error = error_of(prune_of, world, keep_last=1)
        assert error.rc == 5
        assert len(world.snapshots()) == 3
    assert len(prune_of(world, keep_last=1).removed) == 2


def test_a_hold_that_comes_while_a_prune_chooses_is_seen_or_waits(world: World) -> None:
    """Whoever was told that a snapshot is held still has it afterwards."""
    ids = fill(world, 3)
    seen: List[str] = []

    def choose(snapshots: List[Any]) -> Dict[str, str]:
        pid = os.fork()
        if pid == 0:
            try:
                hold_of(world, ids[2], "too late")
                os._exit(0)
            except BaseException:  # noqa: BLE001 - only the exit code counts
                os._exit(1)
        _pid, status = os.waitpid(pid, 0)
        seen.append("held" if status == 0 else "refused")
        return {ids[2]: "test"}

    world.target.remove(choose)
    assert seen == ["refused"]
    assert [snapshot.id for snapshot in world.snapshots()] == ids[:2]


def test_a_prune_that_is_killed_leaves_whole_snapshots_and_the_next_one_ends_it(world: World) -> None:
    luck = random.Random(5)
    fill(world, 5)
    began = time.monotonic()
    prune_of(world, keep_last=2)
    typical = time.monotonic() - began
    killed = 0
    for _turn in range(12):
        fill(world, 3)
        killed += killed_at(lambda: prune_of(world, keep_last=2), luck.uniform(0, typical))
        newest = world.snapshots()[0].id
        for snapshot in world.snapshots():
            assert world.verify(snapshot=snapshot.id, depth="full").ok
        result = prune_of(world, keep_last=2)
        assert ids_of(result.kept)[0] == newest and len(result.kept) == 2
        assert os.listdir(world.history / "trash") == []
        assert {name[:-5] for name in os.listdir(world.history / "state") if name.endswith(".json")} <= {s.id for s in world.snapshots()}
    assert killed, "the delays were too long"
    world.check_history()


@pytest.mark.skipif(not AS_ROOT, reason="needs another user")
def test_who_cannot_write_the_vault_removes_nothing() -> None:
    world = World.make("portable")
    try:
        ids = fill(world, 3)
        subprocess.run(["chmod", "-R", "a+rX", str(world.vault)], check=True)
        elsewhere = world.root / "state of nobody"
        elsewhere.mkdir()
        give(elsewhere, NOBODY)

        def go() -> PruneResult:
            return prune(world.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(elsewhere), progress=Progress())

        error = error_of(in_child, go, uid=NOBODY)
        assert error.rc == 6
        assert [snapshot.id for snapshot in world.snapshots()] == ids
    finally:
        world.destroy()


# ---- what restic says ------------------------------------------------------------------------------------------------------

TIMELINES = int(os.environ.get("TIMELINES", "60"))  # restic takes half a second for each
RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@pytest.mark.skipif(not can_run("restic"), reason="restic is not installed")
def test_it_agrees_with_restic_on_random_timelines_and_retentions(tmp_path: Path) -> None:
    """One repository; each timeline is the snapshots that bear its tag, so that restic judges it alone."""
    luck = random.Random(20261120)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RESTIC_REPOSITORY": str(tmp_path / "repo"), "RESTIC_PASSWORD": "x", "TZ": "UTC"}

    def restic(*argv: str) -> str:
        return subprocess.run(["restic", "--no-cache", *argv], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    restic("init", "-q")
    (tmp_path / "file").write_text("x")
    moments: Set[int] = set()
    names: Dict[int, Tuple[str, ...]] = {}
    newest = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.timezone.utc)
    while len(moments) < 60:
        moments.add(
            int(newest.timestamp() - luck.choice([luck.uniform(0, 7200), luck.uniform(0, 4 * 86400), luck.uniform(0, 90 * 86400), luck.expovariate(1 / 4e7)]))
        )
    timelines: Dict[int, List[int]] = {number: [] for number in range(TIMELINES)}
    for moment in sorted(moments):
        members = [number for number in timelines if luck.random() < 0.4]
        names[moment] = tuple(name for name in ("good", "old") if luck.random() < 0.15)
        tags = ["t%03d" % number for number in members] + list(names[moment])
        when = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        restic("backup", "-q", "--time", when, "--tag", ",".join(tags), "file")
        for number in members:
            timelines[number].insert(0, moment)
    for number, timeline in timelines.items():
        counts = {rule: luck.choice([0, 0, 1, 2, 3, 7, 24]) for rule in RULES}
        within = luck.choice([0, 0, 1, 6, 30, 200])  # days
        if not (within or any(counts.values())):
            counts["last"] = 1
        words = [word for rule, count in counts.items() if count for word in ("--keep-" + rule, str(count))]
        words += ["--keep-within", "%dd" % within] if within else []
        keep_tags = luck.choice([(), (), ("good",), ("old", "good")])
        words += [word for name in keep_tags for word in ("--keep-tag", name)]
        answer = json.loads(restic("forget", "--dry-run", "--json", "--group-by", "host", "--tag", "t%03d" % number, *words))
        theirs = {_seconds(item["time"]) for group in answer for item in group["keep"]}
        retention = Retention(**{"keep_" + rule: count for rule, count in counts.items()}, keep_within=within * 86400, keep_tags=keep_tags, protect=0)
        decisions = decide([Candidate(str(moment), moment, tags=names[moment]) for moment in timeline], retention, newest.timestamp() + 1)
        ours = {int(decision.id) for decision in decisions if decision.keep and decision.reasons != ("newest snapshot",)}
        assert ours == theirs, (words, timeline)


def _seconds(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
