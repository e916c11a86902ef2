# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the story must have left on the host: asked of the host itself, in the order of the file."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Tuple

import pytest


class Paths(NamedTuple):
    story: str
    program: str
    policy: str
    state: str


@pytest.fixture(scope="module")
def paths(host: Any) -> Paths:
    words = ("story_directory", "openclaw_backup_program", "openclaw_backup_config_directory", "openclaw_backup_state_directory")
    values = ("", "/usr/local/bin/openclaw-backup", "/etc/openclaw-backup", "/var/lib/openclaw-backup")
    asked = ", ".join("%s | default('%s')" % pair for pair in zip(words, values))
    story, program, config, state = host.ansible("debug", "msg={{ [%s] }}" % asked, check=False)["msg"]
    return Paths(story=story, program=program, policy=config + "/policies/story.json", state=state)


def run(host: Any, paths: Paths, verb: str, *options: str) -> Tuple[int, Any]:
    """Exit code and result of the installed program."""
    words = [paths.program, verb, "--json", "--state", paths.state, *options, paths.policy]
    done = host.run(" ".join(["%s"] * len(words)), *words)
    return done.rc, json.loads(done.stdout)


def test_the_program_is_for_everybody_and_the_policy_for_its_owner(host: Any, paths: Paths) -> None:
    assert host.file(paths.program).mode == 0o755
    assert host.file(paths.policy).mode == 0o600
    assert host.file(paths.state).mode == 0o700


def test_the_restore_brought_back_the_tree_as_it_was(host: Any, paths: Paths) -> None:
    compare = host.run("rsync -aHXn --delete --checksum --itemize-changes %s/ %s/", paths.story + "/original", paths.story + "/source")
    assert (compare.rc, compare.stdout) == (0, ""), compare.stderr
    assert host.run("diff -r --no-dereference %s %s", paths.story + "/original", paths.story + "/source").stdout.count("\n") <= 1  # the FIFOs


def test_what_the_restore_replaced_is_kept(host: Any, paths: Paths) -> None:
    kept = host.run("grep -rlx -e lost -e new %s", paths.story + "/undo")
    assert {line.rpartition("/")[2] for line in kept.stdout.splitlines()} == {"one", "new"}


def test_the_vault_holds_both_snapshots(host: Any, paths: Paths) -> None:
    rc, result = run(host, paths, "list")
    assert rc == 0
    assert [snapshot["sequence"] for snapshot in result["snapshots"]] == [2, 1]


def test_the_rotten_byte_is_found_and_named(host: Any, paths: Paths) -> None:
    rc, result = run(host, paths, "verify")
    assert rc == 7
    assert [item["path"] for item in result["damaged"]] == [paths.story + "/source/numbers"]


def test_the_next_run_heals_what_rotted(host: Any, paths: Paths) -> None:
    assert run(host, paths, "run")[0] == 0
    assert run(host, paths, "verify")[0] == 0
