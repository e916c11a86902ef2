# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An rsync that dies does not end a backup, and one that cannot work ends it with its own words."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.backup import BackupResult, backup
from ansible_collections.openclaw.backup.plugins.module_utils.action.verify import verify
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

Wrapped = Callable[[str], None]


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrapped:
    """Put a script in front of the real rsync; ``$count`` is how many transfers there were before."""
    real = shutil.which("rsync")
    directory = tmp_path / "bin"
    directory.mkdir()

    def write(body: str) -> None:
        script = directory / "rsync"
        script.write_text(
            '#!/bin/sh\ncase "$1" in -V*|--version) exec %s "$@";; esac\ncount=$(cat "%s/count" 2>/dev/null || echo 0)\necho $((count + 1)) >"%s/count"\n'
            '%s\nexec %s "$@"\n' % (real, tmp_path, tmp_path, body, real)
        )
        script.chmod(0o755)

    monkeypatch.setenv("PATH", "%s:%s" % (directory, os.environ["PATH"]))
    return write


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    (tmp_path / "source").mkdir()
    for index in range(50):
        (tmp_path / "source" / ("file%d" % index)).write_text("content %d" % index)
    return Policy.from_mapping({"name": "t", "host": "h", "sources": [str(tmp_path / "source")], "target": str(tmp_path / "vault")}, default_host="h")


def run(policy: Policy, tmp_path: Path) -> BackupResult:
    return backup(policy, state_directory=str(tmp_path / "state"))


def test_a_dying_rsync_is_started_again(wrapped: Wrapped, policy: Policy, tmp_path: Path) -> None:
    wrapped('if [ "$count" -lt 2 ]; then kill -9 $$; fi')
    result = run(policy, tmp_path)
    assert (result.changed, result.warnings, result.files_sent) == (True, [], 50)
    assert (tmp_path / "count").read_text() == "3\n"
    assert verify(policy, state_directory=str(tmp_path / "state")).ok


def test_an_rsync_that_keeps_dying_ends_the_run_and_the_next_goes_on(wrapped: Wrapped, policy: Policy, tmp_path: Path) -> None:
    wrapped('if [ "$count" -lt 3 ]; then exit 12; fi')
    with pytest.raises(BackupError) as caught:
        run(policy, tmp_path)
    assert (caught.value.kind, caught.value.found, caught.value.rc) == ("transfer", 12, 1)
    assert list((tmp_path / "vault" / "h" / "t" / "snapshots").glob("*")) == []
    assert run(policy, tmp_path).changed
    assert list((tmp_path / "vault" / "h" / "t" / "incoming").iterdir()) == []


def test_an_rsync_that_refuses_is_not_asked_again_and_says_why(wrapped: Wrapped, policy: Policy, tmp_path: Path) -> None:
    wrapped("echo 'rsync: --frobnicate: unknown option' >&2; exit 1")
    with pytest.raises(BackupError, match="frobnicate") as caught:
        run(policy, tmp_path)
    assert (caught.value.kind, caught.value.found) == ("transfer", 1)
    assert (tmp_path / "count").read_text() == "1\n"
