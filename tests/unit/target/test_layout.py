# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault's own files: written whole or not at all, private, and read with suspicion."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import IntegrityError, TargetError
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Receipt, Snapshot
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import layout
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.layout import History, is_snapshot_id, make_id
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.target import TreeTarget, in_part, overlaps
from hypothesis import given
from hypothesis import strategies as st

ID = "20261120T091500.123Z-01234567"
RECEIPT = Receipt(
    id=ID,
    sequence=1,
    parent=None,
    created="2026-11-20T09:15:00.123Z",
    claimed="2026-11-20T09:15:00.000Z",
    host="h",
    policy="p",
    tx="0" * 32,
    digest="01234567" + "8" * 56,
    content_digest="9" * 64,
    entries=3,
    files=1,
    bytes=10,
    received_files=1,
    verified_bytes=10,
    linked=0,
    copied=0,
    link_limit=0,
    storage="native",
    engine="0",
)


def test_an_id_tells_time_and_digest() -> None:
    assert make_id(RECEIPT.created, RECEIPT.digest) == ID and is_snapshot_id(ID)
    for other in ("", ID[:-1], ID + "0", ID.lower(), "../" + ID, ID + "\n", ID.replace("-", "/")):
        assert not is_snapshot_id(other)


def test_a_receipt_that_does_not_tell_of_clones_is_one_of_hard_links() -> None:
    item = RECEIPT.to_dict()
    del item["clone"]
    assert Receipt.from_dict(item, "x").clone == "hardlink"


def test_a_receipt_is_read_as_it_was_written() -> None:
    assert Receipt.from_dict(json.loads(json.dumps(RECEIPT.to_dict())), "x") == RECEIPT
    assert Snapshot(RECEIPT).to_dict()["id"] == ID


@given(st.sampled_from(sorted(RECEIPT.to_dict())), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.none())))
def test_a_receipt_of_other_types_is_refused(key: str, value: Any) -> None:
    item: Dict[str, Any] = {**RECEIPT.to_dict(), key: value}
    try:
        receipt = Receipt.from_dict(item, "x")
    except IntegrityError as error:
        assert error.kind == "receipt" and error.next
    else:
        assert type(getattr(receipt, key)) in (type(getattr(RECEIPT, key)), str if key == "parent" else type(None))


@pytest.mark.parametrize("key", ["sequence", "files", "bytes", "linked"])
@pytest.mark.parametrize("value", [-1, -(10**400), 1 << 63, 10**400])
def test_a_receipt_with_numbers_that_nothing_has_is_refused(key: str, value: int) -> None:
    with pytest.raises(IntegrityError) as caught:
        Receipt.from_dict({**RECEIPT.to_dict(), key: value}, "x")
    assert caught.value.allowed == "a number from 0 to 2^63 - 1" and len(str(caught.value)) < 400


def test_everything_that_is_made_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        layout.create_vault(os.fsencode(tmp_path / "x" / "y" / "vault"), "portable")
    finally:
        os.umask(old)
    for folder, _names, files in os.walk(tmp_path / "x"):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600
    assert layout.read_format(os.fsencode(tmp_path / "x" / "y" / "vault")) == "portable"


def test_what_is_there_already_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir(0o755)
    layout.make_private(os.fsencode(tmp_path / "vault" / "h"))
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o755
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        layout.make_private(os.fsencode(tmp_path / "file"))
    with pytest.raises(OSError):
        layout.make_private(os.fsencode(tmp_path / "file" / "below"))


def test_a_file_is_replaced_in_one_step_and_never_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    outside = tmp_path / "outside"
    outside.write_text("outside")
    (tmp_path / "x.json.new").symlink_to(outside)  # a leftover, or a trap
    layout.write_json(os.fsencode(path), {"b": 1, "a": "\udcff"})
    assert path.read_bytes() == b'{"a":"\\udcff","b":1}\n'
    assert outside.read_text() == "outside"
    assert layout.read_json(os.fsencode(path)) == {"a": "\udcff", "b": 1}
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(IntegrityError):
        layout.read_json(os.fsencode(path))
    layout.write_json(os.fsencode(path), {})
    assert outside.read_text() == "outside" and not path.is_symlink()


def test_a_missing_file_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "x")
    assert layout.read_json(path) is None
    for data in (b"", b"{", b"\xff\xfe", b"\x00", b"[" * 60_000):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(IntegrityError) as caught:
            layout.read_json(path)
        assert caught.value.kind == "state" and caught.value.next


def test_two_who_write_about_a_snapshot_at_once_lose_nothing(tmp_path: Path) -> None:
    history = History(os.fsencode(tmp_path))

    def write(key: str, value: Any) -> None:
        for _time in range(40):
            layout.update_state(history, ID, {key: value})

    at = "2026-11-20T09:15:00.123Z"
    values: Dict[str, Any] = {"unchanged_until": at, "verified": {"at": at}, "drilled": {"at": at}, "held": {"at": at}, "damaged": {"paths": []}}
    threads = [threading.Thread(target=write, args=item) for item in values.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layout.read_json(layout.state_path(history, ID)) == values


def test_a_directory_that_is_something_else_is_no_vault(tmp_path: Path) -> None:
    vault = os.fsencode(tmp_path / "vault")
    assert layout.read_format(vault) is None
    (tmp_path / "vault").mkdir()
    assert layout.read_format(vault) is None
    (tmp_path / "vault" / "lost+found").mkdir()
    assert layout.read_format(vault) is None, "a disk that was just formatted"
    (tmp_path / "vault" / "other").mkdir()
    with pytest.raises(TargetError) as caught:
        layout.read_format(vault)
    assert caught.value.kind == "not_a_vault" and caught.value.next


@pytest.mark.parametrize("text", ['{"format":99}', '{"format":2,"layout":"tree","storage":"native"}'])
def test_a_vault_of_a_newer_version_is_not_called_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "format.json").write_text(text)
    with pytest.raises(TargetError, match="newer than this version") as caught:
        layout.read_format(os.fsencode(tmp_path))
    assert caught.value.kind == "vault_format" and "restore it from a copy" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"format":1}', '{"format":"2"}', '{"format":true}', '{"format":1e9}', "{}"])
def test_what_no_version_writes_is_damaged_still(tmp_path: Path, text: str) -> None:
    (tmp_path / "format.json").write_text(text)
    with pytest.raises(TargetError, match="is damaged"):
        layout.read_format(os.fsencode(tmp_path))


def test_a_history_is_listed_by_sequence_whatever_the_clock_said(tmp_path: Path) -> None:
    layout.create_vault(os.fsencode(tmp_path / "v"), "portable")
    target = TreeTarget(str(tmp_path / "v"), "h", "p")
    for sequence, created in ((1, "2026-11-20T09:15:00.123Z"), (2, "2025-01-01T00:00:00.000Z"), (3, "2026-01-01T00:00:00.000Z")):
        receipt = replace(RECEIPT, sequence=sequence, created=created, id=make_id(created, RECEIPT.digest))
        folder = target.history.snapshot(receipt.id)
        layout.make_private(folder)
        layout.write_json(folder + b"/receipt.json", receipt.to_dict())
    assert [snapshot.receipt.sequence for snapshot in target.list()] == [3, 2, 1]
    newest = target.latest()
    assert newest is not None and newest.receipt.sequence == 3


@given(st.binary(min_size=1), st.integers(1, 50))
def test_every_path_belongs_to_one_share(path: bytes, shares: int) -> None:
    assert [in_part(path, (number, shares)) for number in range(1, shares + 1)].count(True) == 1
    assert in_part(path, None)


def test_directories_overlap_as_they_really_lie(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    a, ab, link = str(tmp_path / "a"), str(tmp_path / "ab"), str(tmp_path / "link")
    assert overlaps(a, a) and overlaps(a, a + "/b") and overlaps(a + "/b", a) and overlaps("/", a)
    assert overlaps(link + "/b", a) and overlaps(a, link + "/not/there/yet")
    assert not overlaps(a, ab) and not overlaps(ab, a)


def test_hosts_that_make_a_vault_at_once_all_find_it_made(tmp_path: Path) -> None:
    for number in range(20):
        vault = os.fsencode(tmp_path / str(number))
        children = []
        for _host in range(4):
            child = os.fork()
            if child == 0:
                try:
                    layout.create_vault(vault, "portable")
                    os._exit(0 if layout.read_format(vault) == "portable" else 1)
                finally:
                    os._exit(2)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0, 0]
        assert os.listdir(vault) == [b"format.json"]
