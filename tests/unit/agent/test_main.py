# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever happens inside, there is one answer: a line that says what, an exit code of the table, and no traceback nobody asked for."""

from __future__ import annotations

import json
import signal
import sys
from argparse import Namespace
from typing import Any, Callable, Dict

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent import verbs
from ansible_collections.openclaw.backup.plugins.module_utils.agent.__main__ import _failure, main
from ansible_collections.openclaw.backup.plugins.module_utils.agent.verbs import Outcome
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError, LockedError


@pytest.fixture
def perform(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the verbs do something else."""
    monkeypatch.delenv("OPENCLAW_BACKUP_DEBUG", raising=False)

    def replace(act: Callable[[Namespace], Any]) -> None:
        monkeypatch.setattr(verbs, "perform", act)

    return replace


def raising(error: BaseException) -> Callable[[Namespace], Outcome]:
    def act(_request: Namespace) -> Outcome:
        raise error

    return act


def test_an_unexpected_error_is_one_line_that_no_name_can_break(perform: Any, capsys: pytest.CaptureFixture[str]) -> None:
    perform(raising(RuntimeError("a\nb\x1b[2J")))
    assert main(["run", "web"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == (
        "",
        [
            "openclaw-backup: internal error: RuntimeError: a\\nb\\x1b[2J.",
            "Next: run it again with OPENCLAW_BACKUP_DEBUG=1, and report what it prints.",
        ],
    )


def test_debug_shows_where_it_happened(perform: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    perform(raising(RuntimeError("boom")))
    monkeypatch.setenv("OPENCLAW_BACKUP_DEBUG", "1")
    assert main(["run", "web"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n") and "openclaw-backup: internal error: RuntimeError: boom.\n" in err


def test_the_operating_systems_errors_name_the_file(perform: Any, capsys: pytest.CaptureFixture[str]) -> None:
    perform(raising(PermissionError(13, "Permission denied", b"/srv/\xff")))
    assert main(["run", "web"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "openclaw-backup: Failed while running run: Permission denied (/srv/\\xff).",
        "Next: check the owner and mode of what is named and run again.",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interruption_is_a_failure_and_says_how_to_go_on(perform: Any, capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
    perform(raising(error))
    assert main(["run", "web", "--json"]) == 1
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["failed"], answer["rc"], answer["error"]["kind"], err) == (True, 1, "interrupted", "")


@pytest.mark.parametrize("verb, goes_on", [("run", True), ("restore", True), ("check", False), ("verify", False)])
def test_only_what_goes_on_where_it_was_says_so(verb: str, goes_on: bool) -> None:
    error = _failure(KeyboardInterrupt(), [verb, "web"])
    assert ("goes on from there" in str(error)) == goes_on and error.kind == "interrupted"


def test_an_error_in_json_has_its_four_keys_and_standard_error_stays_empty(perform: Any, capsys: pytest.CaptureFixture[str]) -> None:
    perform(raising(LockedError("Busy", field="lock", found=b"/a\xff", next="wait")))
    assert main(["run", "web", "--json"]) == 5
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    assert json.loads(out) == {
        "failed": True,
        "msg": "Busy. Next: wait.",
        "rc": 5,
        "error": {"kind": "locked", "field": "lock", "found": "/a\\xff", "allowed": None, "next": "wait"},
    }


def test_a_command_line_that_cannot_be_parsed_is_answered_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json"]) == 2
    out, err = capsys.readouterr()
    assert (json.loads(out)["error"]["field"], err) == ("POLICY", "")


def test_a_result_with_a_failure_keeps_its_keys(perform: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result: Dict[str, Any] = {"ok": False, "rc": 7, "damaged": [{"path": "/\udcff\n"}]}
    perform(lambda request: Outcome(result, IntegrityError("Damaged")))
    assert main(["verify", "web", "--json"]) == 7
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "ok": False,
        "rc": 7,
        "damaged": [{"path": "/\\xff\\n"}],
        "failed": True,
        "msg": "Damaged.",
        "error": {"kind": "integrity", "field": None, "found": None, "allowed": None, "next": None},
    }


def test_warnings_are_told_even_when_quiet(perform: Any, capsys: pytest.CaptureFixture[str]) -> None:
    perform(lambda request: Outcome({"rc": 3, "warnings": ["2 files could not be read"]}))
    assert main(["run", "web", "--quiet"]) == 3
    assert capsys.readouterr() == ("", "warning: 2 files could not be read\n")


def test_signals_are_handled_only_while_the_verb_works(perform: Any) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    seen = []

    def act(_request: Namespace) -> Outcome:
        seen.append(signal.getsignal(signal.SIGTERM))
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not reached")

    perform(act)
    assert main(["run", "web", "--quiet"]) == 1
    assert seen[0] not in before and (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


def test_a_signal_that_the_caller_ignores_stays_ignored(perform: Any) -> None:
    def act(_request: Namespace) -> Outcome:
        signal.raise_signal(signal.SIGHUP)
        return Outcome({"rc": 0})

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        perform(act)
        assert main(["run", "web", "--quiet"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_streams_that_the_caller_closed_are_no_error(perform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    perform(raising(LockedError("Busy")))
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    assert main(["run", "web"]) == 5
    assert main(["--help"]) == 0
