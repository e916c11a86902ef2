# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an attacker or a fault once got past the engine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import backup as backup_module
from ansible_collections.openclaw.backup.plugins.module_utils.action.backup import BackupResult, backup
from ansible_collections.openclaw.backup.plugins.module_utils.action.history import list_snapshots
from ansible_collections.openclaw.backup.plugins.module_utils.action.restore import RestoreRequest, restore
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.action.verify import verify
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import receive

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root")


class Place:
    """A source, a vault and a state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source, self.vault, self.state = root / "source", root / "vault", root / "state"
        self.source.mkdir()
        (self.source / "a").write_text("a")

    def policy(self, **keys: Any) -> Policy:
        return Policy.from_mapping({"name": "p", "host": "h", "sources": [str(self.source)], "target": str(self.vault), **keys}, default_host="x")

    def run(self, **keys: Any) -> BackupResult:
        return backup(self.policy(**keys), state_directory=str(self.state))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refusal(call: Callable[[], Any]) -> BackupError:
    with pytest.raises(BackupError) as caught:
        call()
    return caught.value


def test_a_vault_whose_making_was_killed_is_made_by_the_next_run(place: Place) -> None:
    place.vault.mkdir(mode=0o700)
    (place.vault / "format.json.new").write_text('{"form')
    assert place.run().changed
    assert [path.name for path in place.vault.iterdir() if path.name.startswith("format")] == ["format.json"]


def test_a_snapshot_of_another_host_is_not_taken_for_ones_own(place: Place) -> None:
    other = place.policy(host="other")
    made = backup(other, state_directory=str(place.state))
    assert made.snapshot_id is not None
    (place.vault / "h" / "p" / "snapshots").mkdir(parents=True)
    shutil.copytree(place.vault / "other" / "p" / "snapshots" / made.snapshot_id, place.vault / "h" / "p" / "snapshots" / made.snapshot_id, symlinks=True)
    error = refusal(lambda: list_snapshots(place.policy()))
    assert (error.kind, error.rc, error.found, error.allowed) == ("foreign", 7, "other/p", "h/p")
    assert refusal(lambda: restore(place.policy(), RestoreRequest(dest=str(place.root / "out")), state_directory=str(place.state))).kind == "foreign"


@pytest.mark.parametrize("where", ["session", "files"])
def test_a_link_among_dead_sessions_leads_the_sweep_nowhere(place: Place, where: str) -> None:
    place.run()
    victim = place.root / "victim"
    (victim / "files").mkdir(parents=True)
    (victim / "files" / "data").write_text("precious")
    incoming = place.vault / "h" / "p" / "incoming"
    if where == "session":
        (incoming / "dead").symlink_to(victim)
    else:
        (incoming / "dead").mkdir()
        (incoming / "dead" / "files").symlink_to(victim / "files")
    (place.source / "b").write_text("b")
    assert place.run().rc == 0
    assert (victim / "files" / "data").read_text() == "precious"
    assert list(incoming.iterdir()) == []


def test_a_write_error_of_the_vault_is_not_taken_for_an_unreadable_source(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_source: int, _destination: int, **_more: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(receive, "copy_file", fail)
    error = refusal(place.run)
    assert error.rc != 3 and list_snapshots(place.policy()) == []
    monkeypatch.undo()
    assert place.run().warnings == []


@as_root
def test_a_vault_mounted_inside_a_source_is_not_backed_up_into_itself(place: Place) -> None:
    place.run()
    inside = place.source / "mounted"
    inside.mkdir()
    if subprocess.run(["mount", "--bind", str(place.vault), str(inside)], check=False).returncode:
        pytest.skip("this machine allows no bind mounts")
    try:
        result = place.run()
    finally:
        subprocess.run(["umount", str(inside)], check=True)
    assert result.added == 0 and result.files_sent == 0


@pytest.mark.parametrize("name", ["format.json", "audit.jsonl"])
def test_a_host_cannot_be_named_like_a_file_of_the_vault(place: Place, name: str) -> None:
    assert refusal(lambda: place.policy(host=name)).field == "host"


def test_a_vault_that_is_not_mounted_is_not_an_empty_history(place: Place) -> None:
    place.run()
    place.vault.rename(place.root / "away")
    policy, state = place.policy(), str(place.state)
    for call in (
        lambda: restore(policy, RestoreRequest(dest=str(place.root / "out")), state_directory=state),
        lambda: verify(policy, state_directory=state),
    ):
        error = refusal(call)
        assert (error.kind, error.rc) == ("history_lost", 6) and "mounted" in str(error.next)
    assert any("mounted" in text for text in status(policy, state_directory=state)["problems"])


def test_status_tells_what_the_last_run_warned_of(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = backup_module._Run._manifest

    def warn(self: Any, *arguments: Any) -> Any:
        self._warn("something odd")
        return finish(self, *arguments)

    monkeypatch.setattr(backup_module._Run, "_manifest", warn)
    assert place.run().rc == 3
    answer = status(place.policy(), state_directory=str(place.state))
    assert answer["rc"] == 3 and "the last run warned: something odd" in answer["problems"]
