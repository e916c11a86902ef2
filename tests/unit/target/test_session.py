# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session by itself: what is refused before it begins, what it counts, what it never takes for content."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import LockedError, RefusedError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import DIRECTORY, FILE, Entry
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import IncompleteError
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.session import TreeSession, explain
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.target import TreeTarget
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.attempts import increments

TX = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def target(tmp_path: Path) -> TreeTarget:
    return TreeTarget(str(tmp_path / "vault"), "h", "p", "portable")


@pytest.fixture
def session(target: TreeTarget) -> Iterator[TreeSession]:
    opened = target.begin(TX, None)
    yield opened
    opened.close()


def manifest(*files: Tuple[bytes, bytes]) -> Manifest:
    entries = [Entry(b"d", DIRECTORY, 0o755, os.getuid(), os.getgid(), 1)]
    for path, content in files:
        entries.append(Entry(path, FILE, 0o644, os.getuid(), os.getgid(), 5, len(content), hashlib.sha256(content).hexdigest()))
    header = Header("h", "p", ("/d",), {}, "0", "2026-11-20T09:15:00.000Z")
    return Manifest.from_entries(header, entries)


def received(target: TreeTarget) -> Path:
    place = Path(os.fsdecode(target.history.incoming)) / TX / "files" / "d"
    place.mkdir(exist_ok=True)
    return place


def test_only_one_session_at_a_time(target: TreeTarget, session: TreeSession) -> None:
    with pytest.raises(LockedError) as caught:
        target.begin("f" * 32, None)
    assert caught.value.rc == 5
    session.close()
    target.begin("f" * 32, None).close()


def test_a_session_goes_on_from_the_newest_snapshot_or_not_at_all(target: TreeTarget) -> None:
    with pytest.raises(RefusedError) as caught:
        target.begin(TX, "20261120T091500.123Z-01234567")
    assert (caught.value.kind, caught.value.field) == ("writer", "parent")
    assert not Path(os.fsdecode(target.history.incoming)).exists()
    target.begin(TX, None).close()


def test_what_did_not_arrive_as_scanned_is_named_with_its_reason(target: TreeTarget, session: TreeSession, tmp_path: Path) -> None:
    names = [b"d/as it is", b"d/other bytes", b"d/short", b"d/missing", b"d/link", b"d/fifo", b"d/folder", b"d/two names"]
    wanted = manifest(*((name, b"content") for name in sorted(names)))
    place = received(target)
    (tmp_path / "elsewhere").write_bytes(b"content")
    (place / "as it is").write_bytes(b"content")
    (place / "other bytes").write_bytes(b"CONTENT")
    (place / "short").write_bytes(b"cont")
    (place / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(place / "fifo")
    (place / "folder").mkdir()
    (place / "two names").write_bytes(b"content")
    os.link(place / "two names", tmp_path / "a name that its sender keeps")
    with pytest.raises(IncompleteError) as caught:
        session.commit(wanted)
    assert {item.path[2:].decode(): item.reason for item in caught.value.shortfalls} == {
        "other bytes": "hash",
        "short": "size",
        "missing": "missing",
        "link": "missing",
        "fifo": "type",
        "folder": "type",
        "two names": "type",
    }
    assert target.list() == []
    assert [entry.path for entry in session.wanted(wanted)] == sorted(set(names) - {b"d/as it is"})


def test_what_nobody_listed_goes_into_no_snapshot(target: TreeTarget, session: TreeSession) -> None:
    place = received(target)
    (place / "listed").write_bytes(b"x")
    (place / "not listed").write_bytes(b"x")
    receipt = session.commit(manifest((b"d/listed", b"x")))
    session.close()
    assert sorted(os.listdir(os.fsdecode(target.history.snapshot(receipt.id)) + "/tree/d")) == ["listed"]
    assert os.listdir(target.history.incoming) == []
    (snapshot,) = target.list()
    assert snapshot.receipt == receipt and target.manifest(snapshot).header.id == receipt.id
    assert target.verify(snapshot, depth="full").ok


def test_a_sweep_leaves_a_living_session_alone(target: TreeTarget, session: TreeSession) -> None:
    target.sweep()
    assert os.listdir(target.history.incoming) == [TX.encode()]
    session.close(keep=True)
    assert os.listdir(target.history.incoming) == [TX.encode()]
    target.sweep()
    assert os.listdir(target.history.incoming) == []


def test_a_heartbeat_knows_only_the_newest_snapshot(target: TreeTarget, session: TreeSession) -> None:
    place = received(target)
    (place / "listed").write_bytes(b"x")
    receipt = session.commit(manifest((b"d/listed", b"x")))
    assert target.heartbeat(receipt.id, receipt.digest).known
    assert not target.heartbeat(receipt.id, "0" * 64).known
    assert not target.heartbeat("20261120T091500.123Z-01234567", receipt.digest).known


def test_running_totals_become_steps() -> None:
    steps: List[Tuple[int, int]] = []
    listen = increments(lambda files, size: steps.append((files, size)))
    for files, size in ((1, 10), (3, 25), (3, 25), (2, 20), (4, 40)):
        listen(files, size)
    assert steps == [(1, 10), (2, 15), (0, 0), (0, 0), (2, 20)]


@pytest.mark.parametrize(
    "code, kind, rc", [(errno.ENOSPC, "vault_full", 1), (errno.EDQUOT, "vault_full", 1), (errno.EROFS, "target", 6), (errno.EIO, "target", 6)]
)
def test_what_the_vaults_disk_says_is_put_into_words(target: TreeTarget, code: int, kind: str, rc: int) -> None:
    error = explain(OSError(code, os.strerror(code)), target.history)
    assert (error.kind, error.rc, error.field) == (kind, rc, "target") and error.next
