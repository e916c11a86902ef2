# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks around real runs: what they are told, what becomes of a run when they fail, and that none outlives its run unasked."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import process
from ansible_collections.openclaw.backup.plugins.module_utils.action.backup import BackupResult
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, LockedError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.tests.integration.world import World, error_of

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "ansible_collections.openclaw.backup.plugins.module_utils.agent"]


class Hooked(World):
    """A world whose hooks write what happened into ``log``."""

    @property
    def log(self) -> Path:
        return self.root / "log"

    def hooks(self, *, before: Sequence[Any] = (), after: Sequence[Any] = (), on_failure: Sequence[Any] = (), **keys: Any) -> Policy:
        """A policy with these hooks: lines of a shell that finds the log's name in ``$LOG``, or mappings that hold such."""

        def command(text: str) -> List[str]:
            return ["sh", "-c", "LOG=%s\n%s" % (self.log, text)]

        def hook(item: Any) -> Any:
            return {**item, "command": command(item["command"])} if isinstance(item, dict) else command(item)

        events = {"before": before, "after": after, "on_failure": on_failure}
        return self.policy(hooks={event: [hook(item) for item in items] for event, items in events.items()}, **keys)

    def said(self) -> List[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def last_run(self) -> Dict[str, Any]:
        record: Dict[str, Any] = json.loads((self.state / "h" / "p" / "runs.jsonl").read_text().splitlines()[-1])
        return record

    def start(self, policy: Policy, *words: str) -> "subprocess.Popen[str]":
        """The command line at work, as a process of its own."""
        path = self.root / "p.json"
        given = {name.partition(".")[0] for name in policy.given}
        path.write_text(json.dumps({name: value for name, value in policy.to_mapping().items() if name in given}))
        argv = [*PROGRAM, "run", str(path), "--state", str(self.state), *words]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def world() -> Iterator[Hooked]:
    made = Hooked(World.make().root)
    (made.src / "file").write_text("content")
    yield made
    made.destroy()


TELL = 'echo "$OPENCLAW_BACKUP_EVENT $OPENCLAW_BACKUP_RESULT:$OPENCLAW_BACKUP_RC:$OPENCLAW_BACKUP_ERROR_KIND" >>$LOG'


def until(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("never: " + what)


def is_alive(pid: int) -> bool:
    try:
        return Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def outcome_of(result: BackupResult) -> List[Any]:
    return [(hook["event"], hook["rc"], hook["error"]) for hook in result.hooks]


# ---- when they run ---------------------------------------------------------------------------------------------------------


def test_what_a_before_hook_makes_is_in_the_snapshot_and_what_it_prepared_is_undone(world: Hooked) -> None:
    policy = world.hooks(before=[TELL, "echo dump >%s/dump" % world.src], after=[TELL, "rm %s/dump" % world.src], on_failure=[TELL])
    result = world.backup(policy=policy)
    assert (result.rc, result.changed) == (0, True)
    assert world.stored(result.snapshot_id, "dump").read_text() == "dump\n" and not (world.src / "dump").exists()
    assert world.said() == ["before ::", "after ok:0:"]
    assert outcome_of(result) == [("before", 0, None), ("before", 0, None), ("after", 0, None), ("after", 0, None)]
    assert all(hook["command"] == "sh" and hook["output_tail"] == [] and hook["duration"] < 10 for hook in result.hooks)
    assert world.last_run()["hooks"] == result.hooks
    world.check_history(count=1)


def test_hooks_of_an_unchanged_run_run_too(world: Hooked) -> None:
    policy = world.hooks(before=[TELL], after=[TELL + "; echo $OPENCLAW_BACKUP_SNAPSHOT_ID >>$LOG"])
    first = world.backup(policy=policy)
    assert not world.backup(policy=policy).changed
    assert world.said() == ["before ::", "after ok:0:", first.snapshot_id, "before ::", "after unchanged:0:", first.snapshot_id]


def test_a_snapshot_claims_the_time_at_which_reading_began_not_that_of_its_hooks(world: Hooked) -> None:
    result = world.backup(policy=world.hooks(before=["sleep 1.2; date -u +%Y-%m-%dT%H:%M:%S >$LOG"]))
    assert result.receipt is not None and result.receipt["claimed"] >= world.said()[0]
    assert result.duration > 1.2 and world.last_run()["started"] < world.said()[0]


def test_a_prediction_runs_no_hook_and_names_those_that_would_run(world: Hooked) -> None:
    policy = world.hooks(before=[TELL], after=[TELL], on_failure=[TELL])
    for changed in (True, False):
        result = world.backup(policy=policy, dry_run=True)
        assert outcome_of(result) == [("before", None, None), ("after", None, None)] and result.changed == changed
        done = world.start(policy, "--dry-run").communicate()[0]
        assert "  would run the before hook sh\n  would run the after hook sh\n" in done
        if changed:
            assert not world.log.exists() and not world.state.exists()
            world.backup(policy=policy)
    assert world.said() == ["before ::", "after ok:0:"]


def test_a_run_that_finds_another_one_at_work_runs_no_hook(world: Hooked) -> None:
    policy = world.hooks(before=[TELL], after=[TELL], on_failure=[TELL])
    world.backup()
    with open(world.state / "h" / "p" / "lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            world.backup(policy=policy)
    assert world.said() == []


# ---- what they get -----------------------------------------------------------------------------------------------------


def documented_variables() -> List[str]:
    return re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "hooks.md").read_text(), re.M)


def test_the_environment_is_what_the_page_says_and_nothing_else(world: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/secret")
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/elsewhere")
    policy = world.policy(hooks={"before": [[sys.executable, "-c", "import json,os; json.dump(dict(os.environ), open('%s', 'w'))" % world.log]]})
    world.backup(policy=policy)
    found = json.loads(world.log.read_text())
    assert sorted(found) == sorted(documented_variables())
    assert found["OPENCLAW_BACKUP_SOURCES"] == str(world.src) and found["OPENCLAW_BACKUP_TARGET"] == str(world.vault)
    assert (found["OPENCLAW_BACKUP_HOST"], found["OPENCLAW_BACKUP_POLICY"], found["OPENCLAW_BACKUP_STATE"]) == ("h", "p", str(world.state))
    assert found["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_a_hook_has_no_terminal_no_input_no_lock_and_makes_private_files(world: Hooked) -> None:
    look = """
        readlink /proc/self/fd/0 >>$LOG; umask >>$LOG; pwd >>$LOG; ls /proc/$$/fd | tr '\\n' ' ' >>$LOG; echo >>$LOG
        cut -d ' ' -f 5,6 /proc/$$/stat >>$LOG; echo $$ $$ >>$LOG; (: </dev/tty) 2>/dev/null || echo no terminal >>$LOG
        grep -E 'Sig(Blk|Ign)' /proc/$$/status | tr -d '\\t' >>$LOG
    """
    assert world.backup(policy=world.hooks(before=[look])).rc == 0
    null, umask, directory, descriptors, session, expected, terminal, blocked, ignored = world.said()
    assert (null, umask, directory, session, terminal) == ("/dev/null", "0077", "/", expected, "no terminal")
    assert descriptors.split() == ["0", "1", "2"] and blocked == "SigBlk:" + 16 * "0"
    assert not int(ignored.partition(":")[2], 16) & 1 << (signal.SIGPIPE - 1)


# ---- failures ----------------------------------------------------------------------------------------------------------------


def test_an_essential_before_hook_that_fails_stops_the_run_and_what_was_begun_is_undone(world: Hooked) -> None:
    policy = world.hooks(before=[TELL, "echo no server; exit 7", TELL], after=[TELL], on_failure=[TELL + '; echo "$OPENCLAW_BACKUP_ERROR" >>$LOG'])
    error = error_of(world.backup, policy=policy)
    assert (error.kind, error.rc, error.field, error.found) == ("hook", 1, "hooks.before[1]", "exit code 7")
    assert error.message == "Nothing was backed up: hooks.before[1] (sh) failed, exit code 7: no server"
    assert world.said() == ["before ::", "after failed:1:hook", "on_failure failed:1:hook", error.message]
    assert world.snapshots() == []
    run = world.last_run()
    assert (run["result"], run["rc"], run["error"]["kind"]) == ("failed", 1, "hook")
    assert [hook["output_tail"] for hook in run["hooks"]] == [[], ["no server"], [], []] and error.done["hooks"] == run["hooks"]
    told = status(policy, state_directory=str(world.state))
    assert "the last run failed: " + error.message in told["problems"]
    assert world.backup().rc == 0


def test_another_before_hook_that_fails_is_a_warning(world: Hooked) -> None:
    policy = world.hooks(before=[{"command": "exit 7", "essential": False}, TELL], after=[TELL], on_failure=[TELL])
    result = world.backup(policy=policy)
    assert (result.rc, result.changed, result.warnings) == (3, True, ["hooks.before[0] (sh) failed, exit code 7"])
    assert world.said() == ["before ::", "after warnings:3:"]
    assert "the last run warned: hooks.before[0] (sh) failed, exit code 7" in status(policy, state_directory=str(world.state))["problems"]


def test_an_after_hook_that_fails_costs_no_snapshot_and_is_told(world: Hooked) -> None:
    policy = world.hooks(after=["echo busy >&2; exit 5", TELL], on_failure=[TELL])
    result = world.backup(policy=policy)
    assert (result.rc, result.changed, result.warnings) == (3, True, ["hooks.after[0] (sh) failed, exit code 5: busy"])
    assert world.said() == ["after ok:0:", "on_failure warnings:3:hook"]
    assert world.last_run()["result"] == "warnings"
    world.check_history(count=1)


def test_an_after_hook_that_is_not_essential_is_no_failure_to_tell_of(world: Hooked) -> None:
    result = world.backup(policy=world.hooks(after=[{"command": "exit 5", "essential": False}], on_failure=[TELL, "exit 1"]))
    assert (result.rc, outcome_of(result), world.said()) == (3, [("after", 5, "exit code 5")], [])


def test_a_run_that_a_guard_stops_is_undone_and_told_with_its_own_error(world: Hooked) -> None:
    policy = world.hooks(before=[TELL], after=[TELL], on_failure=[TELL, "exit 9"], guards={"require": ["/missing"]})
    error = error_of(world.backup, policy=policy)
    assert (error.kind, error.rc) == ("guard", 4)
    assert world.said() == ["before ::", "after failed:4:guard", "on_failure failed:4:guard"]
    assert world.last_run()["warnings"] == ["hooks.on_failure[1] (sh) failed, exit code 9"]


@pytest.mark.parametrize(
    "name, mode, text, reason",
    [
        ("missing", None, "", "No such file or directory"),
        ("plain", 0o600, "#!/bin/sh\n", "Permission denied"),
        ("no-interpreter", 0o700, "#!/nowhere/sh\n", "No such file or directory"),
        ("no-program", 0o700, "exit 0\n", "Exec format error"),
        ("directory/", 0o700, None, "Permission denied"),
    ],
)
def test_a_program_that_cannot_be_started_is_named_with_the_reason(world: Hooked, name: str, mode: Optional[int], text: Optional[str], reason: str) -> None:
    path = world.root / name
    if text is None:
        path.mkdir()
    elif mode is not None:
        path.write_text(text)
        path.chmod(mode)
    error = error_of(world.backup, policy=world.policy(hooks={"before": [[str(path), "an argument"]]}))
    assert error.message == "Nothing was backed up: hooks.before[0] (%s) failed, cannot be started: %s" % (path, reason)
    assert error.done["hooks"][0]["rc"] is None and "an argument" not in json.dumps(error.done)


def test_a_program_without_a_path_is_looked_for_where_the_page_says(world: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    program = world.root / "only-here"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", "%s:%s" % (world.root, os.environ["PATH"]))
    assert "No such file" in error_of(world.backup, policy=world.policy(hooks={"before": [["only-here"]]})).message


def test_a_hook_that_a_signal_kills_has_failed(world: Hooked) -> None:
    error = error_of(world.backup, policy=world.hooks(before=["kill -9 $$"]))
    assert (error.found, error.done["hooks"][0]["rc"]) == ("killed by signal 9", -9)


def test_no_shell_sees_the_arguments(world: Hooked) -> None:
    policy = world.policy(hooks={"before": [["touch", str(world.src / "$(id) *;&'\"")]]})
    result = world.backup(policy=policy)
    assert world.stored(result.snapshot_id, "$(id) *;&'\"").exists()


# ---- what they say -------------------------------------------------------------------------------------------------------


def test_a_hook_that_prints_megabytes_of_binary_is_heard_to_its_last_lines(world: Hooked) -> None:
    noise = "head -c 20000000 /dev/urandom; echo; echo last; exit 1"
    error = error_of(world.backup, policy=world.hooks(before=[noise]))
    tail = error.done["hooks"][0]["output_tail"]
    assert tail[-1] == "last" and len(tail) <= 20 and all(line.isprintable() and len(line) <= 300 for line in tail)
    assert (world.state / "h" / "p" / "runs.jsonl").stat().st_size < 20000


def test_neither_arguments_nor_secrets_are_kept(world: Hooked) -> None:
    secret = "hunter" + "2"
    shout = "echo password=%s; echo login https://me:%s@host/" % (secret, secret)
    policy = world.hooks(before=[shout], after=[shout + "; exit 1"], on_failure=[shout + "; exit 1"])
    done = world.start(policy)
    output = "".join(done.communicate())
    assert done.returncode == 3 and "password=***" in output and "login https://***@host/" in output
    shown = json.dumps(status(policy, state_directory=str(world.state)))
    for text in (output, shown, *(path.read_text() for path in (world.state / "h" / "p" / "runs.jsonl", world.state / "audit.jsonl"))):
        assert secret not in text and "-c" not in text.split()


def test_what_a_hook_said_that_did_its_work_is_not_kept(world: Hooked) -> None:
    result = world.backup(policy=world.hooks(before=["echo plain words"]))
    assert "plain words" not in json.dumps(result.to_dict()) + json.dumps(world.last_run())


def test_a_person_is_shown_what_the_failed_hook_said(world: Hooked) -> None:
    policy = world.hooks(before=["echo one; echo two; exit 1"])
    failed = world.start(policy)
    assert "the before hook sh said last:\n  one\n  two\n" in failed.communicate()[1] and failed.returncode == 1
    asked = subprocess.run([*PROGRAM, "status", str(world.root / "p.json"), "--state", str(world.state)], capture_output=True, text=True, check=False)
    assert "the before hook sh said last:\n  one\n  two\n" in asked.stdout
    told = world.start(policy, "--json")
    answer = json.loads(told.communicate()[0])
    assert (answer["failed"], answer["rc"], answer["error"]["kind"], answer["hooks"][0]["output_tail"]) == (True, 1, "hook", ["one", "two"])


# ---- how long they take --------------------------------------------------------------------------------------------------


def test_a_hook_that_hangs_is_stopped_with_all_it_started(world: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 1.0)
    deaf = "trap '' TERM; (trap '' TERM; echo $$ >>$LOG; while :; do sleep 0.1; done) & echo $! >>$LOG; echo hanging; while :; do sleep 0.1; done"
    began = time.monotonic()
    error = error_of(world.backup, policy=world.hooks(before=[{"command": deaf, "timeout": "1s"}], after=[TELL]))
    assert time.monotonic() - began < 20
    assert error.message == "Nothing was backed up: hooks.before[0] (sh) failed, timed out after 1s: hanging"
    assert error.done["hooks"][0]["rc"] == -9
    *pids, told = world.said()
    assert told == "after failed:1:hook"
    until(lambda: not any(is_alive(int(pid)) for pid in pids), "the hook is gone")


def test_a_hook_that_is_stopped_can_clean_up(world: Hooked) -> None:
    polite = "trap 'kill %1; echo cleaned up >>$LOG; exit 0' TERM; sleep 60 & wait"
    error = error_of(world.backup, policy=world.hooks(before=[{"command": polite, "timeout": "1s"}]))
    assert (error.found, world.said()) == ("timed out after 1s", ["cleaned up"])


def test_a_process_that_a_hook_leaves_behind_keeps_nobody_waiting(world: Hooked) -> None:
    began = time.monotonic()
    result = world.backup(policy=world.hooks(before=["sleep 60 & echo $! >>$LOG"]))
    assert time.monotonic() - began < 20 and result.rc == 0
    (pid,) = world.said()
    assert is_alive(int(pid)), "what it left running on purpose, a mount for instance, is its own business"
    os.kill(int(pid), signal.SIGKILL)


def test_a_process_that_is_left_behind_and_never_stops_talking_keeps_nobody_waiting(world: Hooked) -> None:
    error = error_of(world.backup, policy=world.hooks(before=["yes & echo $! >>$LOG; exit 1"]))
    assert error.found == "exit code 1"
    (pid,) = world.said()
    until(lambda: not is_alive(int(pid)), "nobody listens to it any more")


def test_a_hook_that_closes_its_output_is_waited_for(world: Hooked) -> None:
    began = time.process_time()
    assert world.backup(policy=world.hooks(before=["exec >&- 2>&-; sleep 1; echo done >>$LOG"])).rc == 0
    assert world.said() == ["done"] and time.process_time() - began < 0.8


# ---- runs that are stopped ---------------------------------------------------------------------------------------------------

# The child tells of itself once it is a program of its own: a signal that reaches a shell's half-made child is lost.
WAIT = "trap 'echo stopped >>$LOG; exit 1' TERM; echo $$ >>$LOG; sh -c \"echo \\$\\$ >>$LOG; exec sleep 60\" & wait"


def pids_of(world: Hooked, count: int) -> List[int]:
    until(lambda: len(world.said()) >= count, "the hook started")
    return list(map(int, world.said()[-2:]))


def test_a_run_that_is_told_to_end_stops_its_hook_and_undoes_what_was_begun(world: Hooked) -> None:
    policy = world.hooks(before=[WAIT], after=[TELL], on_failure=[TELL])
    run = world.start(policy)
    pids = pids_of(world, 2)
    run.terminate()
    _out, complaint = run.communicate(timeout=30)
    assert run.returncode == 1 and "Interrupted" in complaint
    assert world.said()[2:] == ["stopped", "after failed:1:broken_off", "on_failure failed:1:broken_off"]
    assert not any(map(is_alive, pids))
    record = world.last_run()
    assert (record["result"], record["error"]["kind"], record["hooks"][0]["error"]) == ("failed", "broken_off", "broken off")
    assert world.backup().rc == 0


def test_a_run_that_is_told_to_end_while_it_reads_undoes_what_was_begun(world: Hooked) -> None:
    (world.src / "large").write_bytes(os.urandom(8 << 20))
    run = world.start(world.hooks(before=[TELL], after=[TELL], transfer={"bwlimit": "1m"}))
    until(lambda: list(world.history.glob("incoming/*/files/**/*large*")), "it sends")
    run.terminate()
    run.communicate(timeout=30)
    assert world.said() == ["before ::", "after failed:1:broken_off"]


def test_a_second_signal_ends_the_undoing_and_the_next_run_takes_it_up(world: Hooked) -> None:
    policy = world.hooks(before=[TELL], after=[WAIT, TELL], on_failure=[TELL])
    run = world.start(policy)
    pids = pids_of(world, 3)
    run.terminate()
    run.communicate(timeout=30)
    assert run.returncode == 1 and not any(map(is_alive, pids))
    assert world.said()[3:] == ["stopped"] and world.last_run()["error"]["kind"] == "broken_off"
    assert len(world.snapshots()) == 1, "what was committed stays"
    world.log.unlink()
    world.backup(policy=world.hooks(before=[TELL], after=[TELL]))
    assert world.said() == ["after failed:1:killed", "before ::", "after unchanged:0:"]


def test_a_run_that_is_killed_takes_its_hook_along_and_the_next_one_undoes_what_was_begun(world: Hooked) -> None:
    run = world.start(world.hooks(before=[WAIT]))
    pids = pids_of(world, 2)
    run.kill()
    run.wait()
    # Its hooks were without an after: nothing is owed.
    until(lambda: not any(map(is_alive, pids)), "the hook is gone")
    assert world.said()[2:] == ["stopped"], "it was asked first"
    assert run.communicate() == ("", "")
    world.log.unlink()

    run = world.start(world.hooks(before=[WAIT], after=[TELL]))
    pids = pids_of(world, 2)
    run.kill()
    run.communicate()
    result = world.backup(policy=world.hooks(before=[TELL], after=[TELL]))  # at once
    assert not any(map(is_alive, pids))
    assert world.said()[2:] == ["stopped", "after failed:1:killed", "before ::", "after ok:0:"]
    assert result.rc == 0 and world.notes == ["the last run was killed before its after hooks had run; they run first"]
    assert world.backup(policy=world.hooks(after=[TELL])).rc == 0 and world.notes == []
    world.check_history(count=1)


def test_an_undoing_that_is_owed_and_fails_is_told_of(world: Hooked) -> None:
    run = world.start(world.hooks(before=[WAIT], after=[TELL]))
    pids_of(world, 2)
    run.kill()
    run.communicate()
    result = world.backup(policy=world.hooks(after=['[ "$OPENCLAW_BACKUP_ERROR_KIND" != killed ]'], on_failure=[TELL]))
    assert (result.rc, result.warnings) == (3, ["hooks.after[0] (sh) failed, exit code 1"])
    assert world.said()[3:] == ["on_failure warnings:3:hook"]


def test_the_lock_of_a_killed_run_is_held_until_its_hook_is_gone(world: Hooked) -> None:
    deaf = "trap '' TERM; echo $$ >>$LOG; echo $$ >>$LOG; while :; do sleep 0.1; done"
    run = world.start(world.hooks(before=[deaf]))
    pids = pids_of(world, 2)
    run.kill()
    run.communicate()
    with pytest.raises(LockedError):
        world.backup()
    assert is_alive(pids[0])
    until(lambda: not is_alive(pids[0]), "it is killed after all")
    assert world.backup().rc == 0


def test_a_hook_gone_wrong_does_not_hide_what_the_run_failed_of(world: Hooked) -> None:
    policy = world.hooks(before=["rm -r %s" % world.src], after=["exit 1"], on_failure=["exit 2"])
    with pytest.raises(BackupError) as caught:
        world.backup(policy=policy)
    assert caught.value.kind == "guard"
    assert [hook["rc"] for hook in caught.value.done["hooks"]] == [0, 1, 2]


# ---- what is told of them ----------------------------------------------------------------------------------------------------


def test_a_hook_that_could_not_undo_its_work_is_told_of_though_the_run_had_failed_already(world: Hooked) -> None:
    policy = world.hooks(
        before=[{"command": "echo optional >&2; exit 2", "essential": False}], after=["echo still mounted >&2; exit 3"], guards={"min_files": 99}
    )
    complaints = world.start(policy).communicate()[1]
    assert "fewer than guards.min_files" in complaints
    assert "warning: hooks.after[0] (sh) failed, exit code 3: still mounted" in complaints
    assert "warning: hooks.before[0] (sh) failed, exit code 2: optional" in complaints
    answer = json.loads(world.start(policy, "--json").communicate()[0])
    assert (answer["rc"], len(answer["warnings"])) == (4, 2)


def test_a_hook_that_could_not_undo_its_work_is_told_of_though_the_run_was_interrupted(world: Hooked) -> None:
    run = world.start(world.hooks(before=["echo here >$LOG; sleep 60"], after=["echo still mounted >&2; exit 3"]))
    until(world.said, "the hook begins")
    run.send_signal(signal.SIGTERM)
    complaints = run.communicate()[1]
    assert "Interrupted" in complaints and "warning: hooks.after[0] (sh) failed, exit code 3: still mounted" in complaints


@pytest.mark.parametrize(
    "hook, allowed, advice",
    [
        ({"command": ["sleep", "60"], "timeout": "1s"}, "an end within 1s", "hooks.before[0].timeout"),
        (["no-such-program"], "a program that", "looked for in /usr/local/sbin:"),
        (["{root}/missing"], "a program that", "no such file"),
        (["{root}/plain"], "a program that", "chmod +x"),
        (["{root}/odd"], "a program that", "#!/bin/sh"),
        (["false"], "exit code 0", "run it by hand"),
    ],
)
def test_advice_fits_what_a_hook_failed_of(world: Hooked, hook: Any, allowed: str, advice: str) -> None:
    (world.root / "plain").write_text("#!/bin/sh\n")
    (world.root / "odd").write_text("#!/nonexistent/python\n")
    (world.root / "odd").chmod(0o755)
    if isinstance(hook, list):
        hook = [word.replace("{root}", str(world.root)) for word in hook]
    error = error_of(world.backup, policy=world.policy(hooks={"before": [hook]}))
    assert allowed in str(error.allowed) and advice in str(error.next) and "essential" in str(error.next), str(error)


def test_a_hook_is_told_of_an_error_in_the_words_that_a_terminal_shows(world: Hooked) -> None:
    policy = world.hooks(on_failure=['printf "%s" "$OPENCLAW_BACKUP_ERROR" >$LOG'], guards={"require": ["/nonexistent/a\x07\\b"]})
    complaints = world.start(policy).communicate()[1]
    assert world.said()[0] in complaints and "/nonexistent/a\\x07\\\\b" in world.said()[0] and "\\\\x07" not in world.said()[0]
