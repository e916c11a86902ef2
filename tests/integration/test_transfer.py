# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Content comes by copying, hashed as it is written; where a rate is set, by rsync. An rsync that dies does not end a backup, and one that cannot
work ends it with its own words."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.backup import BackupResult, backup
from ansible_collections.openclaw.backup.plugins.module_utils.action.verify import verify
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import Entry
from ansible_collections.openclaw.backup.plugins.module_utils.observe.progress import Progress
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import receive

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
            '#!/bin/sh\ncase "$*" in *-VV|--version) exec %s "$@";; esac\ncount=$(cat "%s/count" 2>/dev/null || echo 0)\necho $((count + 1)) >"%s/count"\n'
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
    time.sleep(0.05)  # what changed in this tick of the clock is taken for moving, and staged
    return Policy.from_mapping({"name": "t", "host": "h", "sources": [str(tmp_path / "source")], "target": str(tmp_path / "vault")}, default_host="h")


@pytest.fixture
def limited(policy: Policy) -> Policy:
    item = {"name": "t", "host": "h", "sources": list(policy.sources), "target": policy.target.url, "transfer": {"bwlimit": "1g"}}
    return Policy.from_mapping(item, default_host="h")


def change(tmp_path: Path, count: int) -> None:
    for index in range(count):
        (tmp_path / "source" / ("file%d" % index)).write_text("another content %d" % index)
    time.sleep(0.05)


def run(policy: Policy, tmp_path: Path) -> BackupResult:
    return backup(policy, state_directory=str(tmp_path / "state"))


def test_a_dying_rsync_is_started_again(wrapped: Wrapped, limited: Policy, tmp_path: Path) -> None:
    wrapped('if [ "$count" -lt 2 ]; then kill -9 $$; fi')
    result = run(limited, tmp_path)
    assert (result.changed, result.warnings, result.files_sent) == (True, [], 50)
    assert (tmp_path / "count").read_text() == "3\n"
    assert verify(limited, state_directory=str(tmp_path / "state")).ok


def test_an_rsync_that_keeps_dying_ends_the_run_and_the_next_goes_on(wrapped: Wrapped, limited: Policy, tmp_path: Path) -> None:
    wrapped('if [ "$count" -lt 3 ]; then exit 12; fi')
    with pytest.raises(BackupError) as caught:
        run(limited, tmp_path)
    assert (caught.value.kind, caught.value.found, caught.value.rc) == ("transfer", 12, 1)
    assert list((tmp_path / "vault" / "h" / "t" / "snapshots").glob("*")) == []
    assert run(limited, tmp_path).changed
    assert list((tmp_path / "vault" / "h" / "t" / "incoming").iterdir()) == []


def test_an_rsync_that_refuses_is_not_asked_again_and_says_why(wrapped: Wrapped, limited: Policy, tmp_path: Path) -> None:
    wrapped("echo 'rsync: --frobnicate: unknown option' >&2; exit 1")
    with pytest.raises(BackupError, match="frobnicate") as caught:
        run(limited, tmp_path)
    assert (caught.value.kind, caught.value.found) == ("transfer", 1)
    assert (tmp_path / "count").read_text() == "1\n"


@pytest.mark.parametrize("forked", [False, True])
def test_without_a_limit_content_is_copied_without_rsync_and_hashed_once(
    wrapped: Wrapped, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked: bool
) -> None:
    wrapped("exit 1")
    if forked:
        monkeypatch.setattr(pool, "FORK_PAYS_ITEMS", 4)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    first = run(policy, tmp_path)
    assert first.receipt is not None and first.receipt["verified_bytes"] == first.bytes_sent == first.bytes_wire == first.bytes
    change(tmp_path, 4)
    (tmp_path / "source" / "file0").chmod(0o4751)
    result = run(policy, tmp_path)
    assert (result.warnings, result.files_sent, result.modified) == ([], 4, 4)
    assert result.bytes_wire == result.bytes_sent == 4 * len("another content 0")
    assert result.receipt is not None and result.receipt["verified_bytes"] == result.bytes_sent
    assert verify(policy, state_directory=str(tmp_path / "state"), depth="full").ok
    assert not (tmp_path / "count").exists()


def test_what_is_limited_goes_by_rsync(wrapped: Wrapped, policy: Policy, limited: Policy, tmp_path: Path) -> None:
    wrapped("")
    run(policy, tmp_path)
    change(tmp_path, 1)
    assert run(limited, tmp_path).files_sent == 1
    assert (tmp_path / "count").read_text() == "1\n"


def test_what_rsync_brings_along_of_a_whole_directory_is_no_part_of_the_first_snapshot(limited: Policy, tmp_path: Path) -> None:
    os.link(tmp_path / "source" / "file1", tmp_path / "source" / "another name of file1")
    assert run(limited, tmp_path).rc == 0
    assert verify(limited, state_directory=str(tmp_path / "state"), depth="full").ok


class Heard(Progress):
    """What a run told of its stages: a name, totals, and every step."""

    def __init__(self) -> None:
        self.stages: List[Tuple[str, int, int, List[Tuple[int, int]]]] = []

    def stage(self, name: str, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        self.stages.append((name, files, bytes, []))

    def advance(self, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        self.stages[-1][3].append((files, bytes))


@pytest.mark.parametrize("cpus", [1, 2])
def test_the_copying_of_a_large_file_is_told_as_it_goes_and_adds_up(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
    monkeypatch.setattr(pool, "_REPORT_SECONDS", 0.0)
    (tmp_path / "source" / "large").write_bytes(os.urandom(20 << 20))
    with open(tmp_path / "source" / "holes", "wb") as stream:
        stream.truncate(5 << 20)
    time.sleep(0.05)
    heard = Heard()
    assert backup(policy, state_directory=str(tmp_path / "state"), progress=heard).rc == 0
    ((_name, files, size, steps),) = [stage for stage in heard.stages if stage[0] == "send"]
    assert (sum(step[0] for step in steps), sum(step[1] for step in steps)) == (files, size)
    assert max(step[1] for step in steps) <= 8 << 20 and min(min(step) for step in steps) >= 0


def _rewrite(path: Path) -> None:
    path.write_text("as it is when it is sent")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("file9")


@pytest.mark.parametrize("swap", [_rewrite, _pipe, _link, Path.unlink])
def test_a_file_that_is_another_when_it_is_copied_is_never_taken_for_what_was_scanned(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], None]
) -> None:
    run(policy, tmp_path)
    change(tmp_path, 2)
    path, real, swapped = tmp_path / "source" / "file1", receive._copy, []

    def late(source: Any, files: Any, entry: Entry, *more: Any) -> Any:
        if entry.path.endswith(b"/file1") and not swapped:
            swapped.append(path)
            swap(path)
        return real(source, files, entry, *more)

    monkeypatch.setattr(receive, "_copy", late)
    result = run(policy, tmp_path)
    assert swapped and result.changed
    assert verify(policy, state_directory=str(tmp_path / "state"), depth="full").ok
    stored = tmp_path / "vault" / "h" / "t" / "latest" / "tree" / str(path.relative_to("/"))
    assert not os.path.lexists(stored) or not stat.S_ISREG(path.lstat().st_mode) or stored.read_bytes() == path.read_bytes()
    assert not os.path.lexists(stored) or stored.read_text() != "another content 1"
    monkeypatch.undo()
    run(policy, tmp_path)
    assert verify(policy, state_directory=str(tmp_path / "state"), depth="full").ok
    assert os.path.lexists(stored) == os.path.lexists(path)
    if os.path.lexists(path):
        assert stat.S_IFMT(stored.lstat().st_mode) == stat.S_IFMT(path.lstat().st_mode)
