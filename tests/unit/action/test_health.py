# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe is told where clocks and files are not what they should be."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.health import health, note
from ansible_collections.openclaw.backup.plugins.module_utils.action.state import HostState
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import rfc3339
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy


def kept(home: Path, started: float) -> HostState:
    """The state of a policy of which a run succeeded that began then."""
    policy = Policy.from_mapping({"name": "p", "host": "h", "sources": ["/a"], "target": str(home / "vault")}, default_host="h")
    state = HostState(str(home), policy)
    state.prepare()
    state.record(
        {"started": rfc3339(started), "finished": rfc3339(started), "verb": "run", "policy": "p", "host": "h", "result": "ok", "rc": 0}, {"event": "run"}
    )
    note(state, {"interval": 60.0, "last": {"rc": 0}})
    return state


def problems_of(state: HostState) -> List[str]:
    found = health(state.policy, state_directory=os.fsdecode(state.root))
    assert found["rc"] == 1 and found["problems"][0] == "no loop is at work"
    return list(found["problems"][1:])


@pytest.mark.parametrize(("began", "word"), [(-1000, "are allowed"), (-10, None), (10, None), (86400 * 365, "the clock was set back")])
def test_a_success_of_a_time_to_come_is_none(tmp_path: Path, began: float, word: str) -> None:
    found = problems_of(kept(tmp_path, time.time() + began))
    assert [word in text for text in found] == [True] if word else not found


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{", '{"last": "x"}', '{"last": [4]}', '{"interval": "x"}', '{"warnings": 3}'])
def test_a_file_that_is_not_what_a_loop_wrote_leaves_the_records(tmp_path: Path, text: str) -> None:
    state = kept(tmp_path, time.time() - 10)
    Path(os.fsdecode(state.health)).write_text(text)
    assert not problems_of(state)


def test_a_scratch_goes_that_nobody_holds_any_more(tmp_path: Path) -> None:
    state = kept(tmp_path, 0)
    home = Path(os.fsdecode(state.directory))
    pid = os.fork()
    if pid == 0:
        with state.scratch() as scratch:
            os.mkdir(scratch)
            os._exit(0)  # killed
    os.waitpid(pid, 0)
    (left,) = home.glob("scratch-*")
    os.utime(left, (1, 1))
    with state.scratch() as mine:
        own = Path(os.fsdecode(mine)).parent
        os.utime(own, (1, 1))
        with state.scratch():  # another verb beside it
            assert own in home.glob("scratch-*") and left not in home.glob("scratch-*")
    assert not list(home.glob("scratch-*"))
