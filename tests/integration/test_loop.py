# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container restores itself, keeps itself safe while it runs, and says so; what ends it, ends it with an exit code that tells what happened.

The defects of moltworker's loop, for which this takes its place, are each a test here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any, Dict

import pytest

from .loops import Loop, agent, until
from .world import World, needs_root

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()

pytestmark = pytest.mark.usefixtures("no_process_left")


@pytest.fixture
def world(portable: World) -> World:
    (portable.src / "openclaw.json").write_text("{}")
    (portable.src / "notes").mkdir()
    (portable.src / "notes" / "one").write_text("one")
    return portable


def policy(world: World, **changes: Any) -> Dict[str, Any]:
    return {"name": "p", "host": "h", "sources": [str(world.src)], "target": {"url": str(world.vault), "storage": "portable"}, **changes}


def stored(world: World, name: str) -> str:
    return world.stored(world.snapshots()[0].id, name).read_text()


def test_a_container_comes_back_with_what_it_had_and_its_last_words_are_kept(world: World) -> None:
    """No flush on stop; deletions missed."""
    with Loop(world.root / "one", policy(world)) as first:
        line = first.has_run(1)
        assert (line["rc"], line["trigger"], line["changed"], line["failures"]) == (0, "start", True, 0)
        assert not first.lines("restore") and "seconds" not in line and line["duration"] >= 0
        assert first.health()["ok"] and first.health("--alive")["ok"]
        (world.src / "notes" / "last words").write_text("last words")
        (world.src / "notes" / "one").unlink()
        assert first.stop() == 0
        assert [line["trigger"] for line in first.lines()] == ["start", "stop"]
        assert first.lines()[-1]["removed"] == 1
        found = first.health()
        assert (found["ok"], found["alive"], found["phase"], found["problems"]) == (False, False, "ended", ["no loop is at work"])
    assert stored(world, "notes/last words") == "last words"
    shutil.rmtree(world.src)
    with Loop(world.root / "two", policy(world)) as second:
        assert not second.has_run(1)["changed"]
        restored = second.lines("restore")[0]
        assert (restored["needed"], restored["rc"], restored["files_restored"]) == ("empty", 0, 2)
        assert sorted(os.listdir(world.src / "notes")) == ["last words"]
        assert second.stop() == 0
    assert len(world.snapshots()) == 2


def test_what_changes_is_backed_up_without_waiting_for_the_interval_and_files_moved_in_with_old_times_too(world: World) -> None:
    """Deletions, and files with old times, missed by a search for what is newer."""
    old = world.root / "old"
    old.write_text("old")
    os.utime(old, (1, 1))
    with Loop(world.root / "one", policy(world), 6) as found:
        found.has_run(1)
        assert found.health()["watched"] == 2
        time.sleep(0.1)
        old.rename(world.src / "notes" / "old")
        (world.src / "openclaw.json").unlink()
        line = found.has_run(2)
        assert line["trigger"] in ("change", "interval") and line["changed"] and line["removed"] == 1
        assert stored(world, "notes/old") == "old"
        assert found.stop() == 0


def test_success_is_never_said_of_a_run_that_failed_and_the_next_try_needs_no_other_change(world: World) -> None:
    """Success stamped after failure."""
    mounted = world.root / "mounted"
    with Loop(world.root / "one", policy(world, guards={"require": [str(mounted)]})) as found:
        line = found.has_run(1)
        assert (line["rc"], line["error"]["kind"], line["failures"]) == (4, "guard", 1)
        health = found.health()
        assert not health["ok"] and health["age"] is None and "missing required path" in health["problems"][0]
        assert found.health("--alive")["ok"]
        mounted.write_text("")
        assert found.has_run(2)["rc"] == 0  # sooner than its interval, an hour
        assert found.health()["ok"] and found.health()["failures"] == 0
        assert found.stop() == 0


def test_a_restore_that_fails_is_not_followed_by_a_backup_whatever_was_written_meanwhile(world: World) -> None:
    """A failed restore, a fresh start, and its first change replace the good copy."""
    world.backup()
    snapshot = world.snapshots()[0]
    manifest = world.history / "snapshots" / snapshot.id / "manifest.jsonl.gz"
    good = manifest.read_bytes()
    manifest.chmod(0o600)
    manifest.write_bytes(b"ROT")
    shutil.rmtree(world.src)
    with Loop(world.root / "one", policy(world)) as found:
        assert found.has_run(1, "restore")["rc"] == 7
        world.src.mkdir()
        (world.src / "openclaw.json").write_text('{"from": "the onboarding"}')
        assert found.stop() == 1
        assert found.lines() == [] and len(world.snapshots()) == 1
        assert "the last restore failed" in found.health()["problems"][1]
    manifest.write_bytes(good)
    with Loop(world.root / "one", policy(world)) as found:
        assert found.has_run(1, "restore")["error"]["kind"] == "newer"
        assert found.stop() == 1
        assert found.lines() == [] and len(world.snapshots()) == 1
        assert os.listdir(world.src) == ["openclaw.json"] and "onboarding" in (world.src / "openclaw.json").read_text()


def test_an_application_that_wiped_its_files_does_not_wipe_its_history(world: World) -> None:
    with Loop(world.root / "one", policy(world), 1) as found:
        found.has_run(1)
        shutil.rmtree(world.src / "notes")
        (world.src / "openclaw.json").unlink()
        line = until(lambda: [line for line in found.lines() if line["rc"]])[-1]
        assert (line["rc"], line["error"]["kind"]) == (4, "guard") and len(world.snapshots()) == 1
        assert not found.health()["ok"]
        assert found.stop() == 4  # the last run was refused, too
    with Loop(world.root / "one", policy(world)) as found:
        found.has_run(1)
        assert found.lines("restore")[-1]["needed"] == "empty" and (world.src / "notes" / "one").read_text() == "one"
        assert found.stop() == 0


def test_two_containers_on_one_history_are_told_apart_and_harm_nothing(world: World) -> None:
    other = world.root / "other"
    with Loop(world.root / "one", policy(world), 1) as first:
        first.has_run(1)
        # The same path, as each container sees its own: what one writes here the other does not have.
        with Loop(world.root / "two", policy(world), 3600) as second:
            assert second.has_run(1)["rc"] == 0 and second.lines("restore")[0]["needed"] == "unknown"
            count = len(first.lines())
            (world.src / "notes" / "mine").write_text("mine")
            until(lambda: len(world.snapshots()) == 2)
            (world.src / "notes" / "theirs").write_text("theirs")
            assert second.stop() == 4
            line = second.lines()[-1]
            assert (line["rc"], line["error"]["kind"]) == (4, "writer") and "nother writer" in line["msg"]
            assert any("nother writer" in text for text in second.health()["problems"])
            assert len(first.lines()) >= count and first.stop() == 0
    snapshots = world.snapshots()
    assert stored(world, "notes/mine") == "mine" and all(world.verify(snapshot=item.id).ok for item in snapshots)
    assert not other.exists()


def test_a_second_loop_on_one_state_is_refused(world: World) -> None:
    with Loop(world.root / "one", policy(world)) as first:
        first.has_run(1)
        done = agent("run", str(first.policy), "--loop", "60", "--state", str(first.state))
        assert done.returncode == 5 and "Another loop of p" in done.stderr and done.stdout == ""
        assert first.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_signal_that_asks_to_end_ends_it_alike(world: World, number: int) -> None:
    with Loop(world.root / "one", policy(world)) as found:
        found.has_run(1)
        for _ in range(3):
            found.process.send_signal(number)
        assert found.process.wait(30) in (0, 1)  # the second one leaves the last run no time, where it has not ended
        assert [line["rc"] for line in found.lines()][-1] == found.process.returncode


def test_a_last_run_that_takes_too_long_is_broken_off_within_the_bound_and_nothing_half_done_counts(world: World) -> None:
    slow = world.root / "slow"
    hook = ["/bin/sh", "-c", "[ ! -e %s ] || sleep 60" % slow]
    with Loop(world.root / "one", policy(world, hooks={"before": [hook]}), 3600, "--flush", "1") as found:
        found.has_run(1)
        slow.write_text("")
        (world.src / "notes" / "more").write_text("more")
        start = time.monotonic()
        assert found.stop() == 1
        assert 0.9 < time.monotonic() - start < 20  # it was to take a minute
        line = found.lines()[-1]
        assert (line["trigger"], line["rc"], line["error"]["kind"]) == ("stop", 1, "interrupted")
    assert len(world.snapshots()) == 1


def test_a_run_that_somebody_kills_is_a_failure_like_others_and_leaves_no_process(world: World) -> None:
    slow = world.root / "slow"
    slow.write_text("")
    hook = ["/bin/sh", "-c", "[ ! -e %s ] || { touch %s; sleep 60; }" % (slow, world.root / "begun")]
    with Loop(world.root / "one", policy(world, hooks={"before": [hook]})) as found:
        children = Path("/proc/%d/task/%d/children" % (found.process.pid, found.process.pid))
        until((world.root / "begun").exists)
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
        slow.unlink()
        line = found.has_run(1)
        assert (line["rc"], line["error"]["kind"]) == (1, "killed") and "signal 9" in line["msg"]
        assert found.has_run(2)["rc"] == 0
        assert children.read_text() == ""
        assert found.stop() == 0


def test_a_loop_that_is_killed_takes_its_run_with_it_and_the_next_goes_on(world: World) -> None:
    hook = ["/bin/sh", "-c", "[ -e %s ] || { touch %s; sleep 60; }" % (world.root / "quick", world.root / "begun")]
    with Loop(world.root / "one", policy(world, hooks={"before": [hook]})) as found:
        until((world.root / "begun").exists)
        found.process.kill()
        found.process.wait()
    (world.root / "quick").write_text("")
    with Loop(world.root / "one", policy(world, hooks={"before": [hook]})) as found:
        assert found.has_run(1)["rc"] == 0
        assert found.stop() == 0


def test_databases_are_captured_and_no_journal_is_copied_beside_one(world: World) -> None:
    """WAL families copied as files."""
    with sqlite3.connect(world.src / "state.sqlite") as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table t (n integer)")
        database.commit()
        with Loop(world.root / "one", policy(world)) as found:
            found.has_run(1)
            database.executemany("insert into t values (?)", [(number,) for number in range(100)])
            database.commit()
            assert (world.src / "state.sqlite-wal").stat().st_size > 0
            assert found.stop() == 0
    tree = world.stored(world.snapshots()[0].id)
    assert [path.name for path in tree.iterdir() if path.name.startswith("state")] == ["state.sqlite"]
    with sqlite3.connect("file:%s?immutable=1" % (tree / "state.sqlite"), uri=True) as copy:
        assert copy.execute("select count(*) from t").fetchone() == (100,)


@pytest.mark.parametrize("field", ["key_file", "credentials_file"])
def test_a_key_that_the_application_can_read_is_refused_or_warned_of(world: World, field: str) -> None:
    """A long-lived key that the agent can read."""
    secret = world.root / "secret"
    secret.write_text("00" * 32)
    secret.chmod(0o640)
    target = {"url": "s3://bucket/x", "endpoint": "http://127.0.0.1:9", field: str(secret)}
    home = world.root / "home"
    with Loop(home, policy(world, target=target)) as found:
        assert found.process.wait(30) == 4
        assert "%s (target.%s) is open to others" % (secret, field) in found.complaints.read_text()
    found = agent("check", str(home / "policy.json"), "--no-canary", "--state", str(home / "state"), "--json")
    assert any("is open to others" in warning for warning in json.loads(found.stdout)["warnings"])
    secret.chmod(0o600)
    with Loop(home, policy(world, target=target)) as found:
        until(lambda: found.lines("restore"))
        assert "belongs to user %d, as %s does" % (os.geteuid(), world.src) in found.complaints.read_text()
        found.stop()


def test_a_key_that_is_missing_is_named_and_nothing_is_backed_up_without_it(world: World) -> None:
    target = {"url": "pack://%s" % world.vault, "key_file": str(world.root / "nowhere")}
    with Loop(world.root / "one", policy(world, target=target)) as found:
        line = found.has_run(1)
        assert (line["rc"], line["error"]["kind"], line["error"]["field"]) == (6, "key", "target.key_file")
        missing, *_others, last = found.health()["problems"]
        assert missing == "%s (target.key_file) is missing" % target["key_file"] and "no run has succeeded yet" in last
        assert found.health("--alive")["ok"]
        assert found.stop() == 6
    assert not list(world.vault.rglob("packs/*"))


@needs_root
def test_a_key_of_another_user_than_the_applications_is_fine_and_one_among_its_files_is_not(world: World) -> None:
    secret = world.root / "secret"
    secret.write_text("00" * 32)
    secret.chmod(0o600)
    os.chown(world.src, 1000, 1000)
    target = {"url": "pack://%s" % world.vault, "key_file": str(secret)}
    with Loop(world.root / "one", policy(world, target=target)) as found:
        assert found.has_run(1)["rc"] == 0 and found.complaints.read_text() == ""
        assert found.stop() == 0
    inside = world.src / "key"
    secret.rename(inside)
    with Loop(world.root / "one", policy(world, target={**target, "key_file": str(inside)})) as found:
        found.has_run(1)
        assert "%s lies in %s" % (inside, world.src) in found.complaints.read_text()
        assert found.health()["warnings"]
        found.stop()


def test_the_policy_is_read_again_before_each_run_and_one_that_is_wrong_ends_nothing(world: World) -> None:
    with Loop(world.root / "one", policy(world), 1) as found:
        found.has_run(1)
        found.policy.write_text("{")
        line = until(lambda: [line for line in found.lines() if line["rc"]])[-1]
        assert line["rc"] == 2 and found.process.poll() is None
        found.policy.write_text(json.dumps(policy(world, exclude=["/notes/"], guards={"max_deselect_percent": 100})))
        until(lambda: len(world.snapshots()) == 2)
        until(lambda: found.health()["watched"] == 1)
        assert found.stop() == 0
    assert not world.stored(world.snapshots()[0].id, "notes").exists()


def test_a_log_that_is_full_stops_no_loop(world: World) -> None:
    with Loop(world.root / "one", policy(world), 1, said="/dev/full") as found:
        until(lambda: len(world.snapshots()) == 1)
        (world.src / "notes" / "more").write_text("more")
        until(lambda: len(world.snapshots()) == 2)
        assert found.health()["ok"] and found.stop() == 0


def test_health_says_why_and_how_old(world: World) -> None:
    with Loop(world.root / "one", policy(world), 3600) as found:
        found.has_run(1)
        health = found.health("--max-age", "1h")
        section = PAGE[PAGE.index("## health") :].partition("\n## ")[0]
        assert set(health) == {*re.findall("`([a-z_]+)`", section.partition("Keys: ")[2]), "rc", "failed"} - {"restore", "run", "waiting", "ended"}
        assert health["ok"] and 0 <= health["age"] < 60 and (health["max_age"], health["interval"]) == (3600, 3600)
        time.sleep(1.1)
        assert re.match(r"the last run that succeeded began \d+s ago, 1s are allowed", found.health("--max-age", "1s")["problems"][0])
        file = found.state / "h" / "p" / "health.json"
        os.utime(file, (1, 1))
        found.process.send_signal(signal.SIGSTOP)
        os.utime(file, (1, 1))
        assert any("has not moved" in text for text in found.health("--alive")["problems"])
        os.utime(file, (1 << 32, 1 << 32))
        assert any("has not moved" in text for text in found.health("--alive")["problems"])
        found.process.send_signal(signal.SIGCONT)
        assert found.stop() == 0
    for words, field in ((["run", "--loop", "60", "--json"], "--json"), (["run", "--flush", "3"], "--flush"), (["run", "--loop", "x"], "--loop")):
        done = agent(words[0], str(found.policy), *words[1:])
        assert done.returncode == 2 and field in done.stderr + done.stdout
