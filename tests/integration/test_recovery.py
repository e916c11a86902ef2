# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes of docs/recovery.md, run word for word: a user can get everything back without this software."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.adopt import adopt
from ansible_collections.openclaw.backup.plugins.module_utils.action.backup import backup
from ansible_collections.openclaw.backup.plugins.module_utils.action.locate import open_target
from ansible_collections.openclaw.backup.plugins.module_utils.action.rekey import rekey
from ansible_collections.openclaw.backup.plugins.module_utils.action.verify import verify
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import session
from ansible_collections.openclaw.backup.tests.integration.world import error_of, in_child

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = os.geteuid() == 0


def recipes() -> List[str]:
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "recovery.md").read_text(), re.M | re.S)


def recipe(mark: str) -> str:
    (found,) = [text for text in recipes() if mark in text]
    return found


def run(text: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["sh", "-euc", text], env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    (base / "docs" / "empty").mkdir(parents=True)
    (base / "docs" / "one.txt").write_text("one\n")
    (base / "docs" / "same as one.txt").write_text("one\n")
    (base / "zero").write_text("")
    (base / "big.bin").write_bytes(os.urandom(300_000))
    os.link(base / "big.bin", base / "docs" / "big again.bin")
    (base / os.fsdecode(b"odd \xff\nname")).write_text("odd")
    (base / "link").symlink_to("docs/one.txt")
    os.mkfifo(base / "pipe", 0o620)
    os.setxattr(base / "docs" / "one.txt", "user.note", b"kept")
    (base / "docs" / "one.txt").chmod(0o604)
    (base / "docs").chmod(0o2750)
    os.utime(base / "docs" / "one.txt", ns=(-5_000_000_001, -5_000_000_001))
    os.utime(base / "docs", ns=(10**18 + 7, 10**18 + 7))
    if AS_ROOT:
        os.chown(base / "zero", 1234, 4321)
        os.mknod(base / "null", 0o600 | 0o020000, os.makedev(1, 3))
    return base


def snapshot(tmp_path: Path, source: Path, storage: str) -> Path:
    policy = Policy.from_mapping(
        {"name": "files", "host": "web1", "sources": [str(source)], "target": {"url": str(tmp_path / "vault"), "storage": storage}}, default_host="x"
    )
    result = backup(policy, state_directory=str(tmp_path / "state"))
    assert result.warnings == []
    # A second snapshot in which a copy shares its content with what is there: portable vaults share the inode.
    (source / "docs" / "copy of big.bin").write_bytes((source / "big.bin").read_bytes())
    backup(policy, state_directory=str(tmp_path / "state"))
    return (tmp_path / "vault" / "web1" / "files" / "latest").resolve()


def differences(source: Path, restored: Path) -> str:
    """What an independent tool says differs."""
    flags = "-aHAXni" if AS_ROOT else "-rlptHXni"
    return subprocess.run(["rsync", flags, "--checksum", "--delete", "-D", f"{source}/", f"{restored}/"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("storage", ["portable", pytest.param("native", marks=pytest.mark.skipif(not AS_ROOT, reason="only root writes native vaults"))])
def test_everything_comes_back_with_plain_tools(tmp_path: Path, source: Path, storage: str) -> None:
    at = snapshot(tmp_path, source, storage)
    dest = tmp_path / "dest"
    dest.mkdir()
    mark = "no-preserve=links" if storage == "portable" else 'cp -a "$SNAPSHOT'
    done = run(recipe(mark), SNAPSHOT=str(at), DEST=str(dest))
    assert done.returncode == 0, done.stderr
    if storage == "portable":
        assert done.stdout.endswith(" 0 not complete\n")
    assert differences(source, dest / source.relative_to("/")) == ""


def test_sealed_packs_come_back_with_the_key_and_a_page_of_python(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FULL_UP_TO", 0)  # the second one is a difference
    (source / "large").write_bytes(os.urandom(9 << 20))
    (tmp_path / "key").write_text(os.urandom(32).hex() + "\n")
    (tmp_path / "key").chmod(0o600)
    for number in range(200):
        (source / ("file%d" % number)).write_text("%d" % number)
    target = {"url": "pack://%s" % (tmp_path / "vault"), "key_file": str(tmp_path / "key")}
    policy = Policy.from_mapping({"name": "files", "host": "web1", "sources": [str(source)], "target": target}, default_host="x")
    backup(policy, state_directory=str(tmp_path / "state"))
    (source / "docs" / "copy of big.bin").write_bytes((source / "big.bin").read_bytes())
    (source / "file7").unlink()
    backup(policy, state_directory=str(tmp_path / "state"))
    history, dest = tmp_path / "vault" / "web1" / "files", tmp_path / "dest"
    manifests = sorted((history / "manifests").iterdir())
    assert manifests[1].stat().st_size * 2 < manifests[0].stat().st_size
    dest.mkdir()
    text = recipe("AESGCM")
    assert len(text.splitlines()) - 2 < 60  # without the shell's two
    command = text.replace("python3 -", "%s -" % sys.executable, 1)  # where the two libraries are
    done = run(command, HISTORY=str(history), KEY=str(tmp_path / "key"), DEST=str(dest))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 0 not complete\n")
    assert differences(source, dest / source.relative_to("/")) == ""
    # Written anew, in part with another key, which the same page reads.
    old = tmp_path / "key"
    (tmp_path / "new key").write_text(os.urandom(32).hex() + "\n")
    (tmp_path / "new key").chmod(0o600)
    newer = {**target, "key_file": str(tmp_path / "new key"), "old_key_files": [str(old)]}
    policy = Policy.from_mapping({"name": "files", "host": "web1", "sources": [str(source)], "target": newer}, default_host="x")
    (source / "file8").unlink()
    backup(policy, state_directory=str(tmp_path / "state"))
    (tmp_path / "both keys").write_text(old.read_text() + (tmp_path / "new key").read_text())

    def comes_back(name: str, keys: str) -> int:
        (tmp_path / name).mkdir()
        return run(command, HISTORY=str(history), KEY=str(tmp_path / keys), DEST=str(tmp_path / name)).returncode

    assert (comes_back("third", "both keys"), comes_back("fourth", "new key")) == (0, 1)
    assert differences(source, tmp_path / "third" / source.relative_to("/")) == ""
    vault = open_target(policy.target, "web1", "files")
    vault.remove(lambda snapshots: {snapshots[-1].id: "a test"})
    assert vault.repack(0).snapshots == 2  # type: ignore[union-attr]
    assert comes_back("fifth", "new key") == 0
    assert differences(source, tmp_path / "fifth" / source.relative_to("/")) == ""
    # And with one that nobody has made a snapshot with.
    (tmp_path / "newest key").write_text(os.urandom(32).hex() + "\n")
    (tmp_path / "newest key").chmod(0o600)
    newest = {**target, "key_file": str(tmp_path / "newest key"), "old_key_files": [str(tmp_path / "new key"), str(old)]}
    policy = Policy.from_mapping({"name": "files", "host": "web1", "sources": [str(source)], "target": newest}, default_host="x")
    assert rekey(policy, state_directory=str(tmp_path / "state")).rc == 0
    assert comes_back("sixth", "newest key") == 0
    assert differences(source, tmp_path / "sixth" / source.relative_to("/")) == ""
    (pack,) = (path for path in (history / "packs").iterdir() if path.stat().st_size > 1 << 20 and not path.name.startswith("0000"))
    data = bytearray(pack.read_bytes())
    data[1 << 20] ^= 1
    pack.write_bytes(data)
    (tmp_path / "again").mkdir()
    assert run(command, HISTORY=str(history), KEY=str(tmp_path / "key"), DEST=str(tmp_path / "again"), NUMBER=manifests[0].name).returncode != 0


def test_the_check_recipe_passes_a_good_snapshot_and_names_a_damaged_file(tmp_path: Path, source: Path) -> None:
    at = snapshot(tmp_path, source, "portable")
    text = recipe("hashlib")
    good = run(text, SNAPSHOT=str(at))
    assert (good.returncode, good.stdout.splitlines()[-1].split(",")[1]) == (0, " 0 damaged")
    victim = at / "tree" / source.relative_to("/") / "docs" / "one.txt"
    victim.chmod(0o600)
    victim.write_text("0ne\n")
    bad = run(text, SNAPSHOT=str(at))
    assert bad.returncode == 1
    assert [line for line in bad.stdout.splitlines() if line.startswith("DAMAGED")] == ["DAMAGED '%s'" % str(source / "docs" / "one.txt")[1:]]


def test_versions_of_one_file_are_told_apart(tmp_path: Path, source: Path) -> None:
    at = snapshot(tmp_path, source, "portable")
    done = run(recipe("sha256sum"), HISTORY=str(at.parents[1]), FILE=str(source / "big.bin")[1:])
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and len({line.split()[0] for line in lines}) == 1


def test_no_recipe_is_left_untested() -> None:
    assert len(recipes()) == 6


def backup_in_future(policy: Policy, state: str) -> Any:
    """In a child process, whose clock is lost with it."""
    now = time.time
    time.time = lambda: now() + 400 * 86400
    return backup(policy, state_directory=state).snapshot_id


def test_a_vault_written_with_a_clock_far_ahead_goes_on_after_the_recipe(tmp_path: Path, source: Path) -> None:
    state = str(tmp_path / "state")
    policy = Policy.from_mapping({"name": "files", "host": "web1", "sources": [str(source)], "target": str(tmp_path / "vault")}, default_host="x")
    first = backup(policy, state_directory=state)
    (source / "zero").write_text("written in the future")
    future = in_child(lambda: backup_in_future(policy, state))
    (source / "zero").write_text("written today")
    error = error_of(backup, policy, state_directory=state)
    assert (error.rc, error.kind) == (4, "clock") and "docs/recovery.md" in str(error.next)
    history = tmp_path / "vault" / "web1" / "files"
    done = run(recipe("set-aside"), HISTORY=str(history), FUTURE=future)
    assert done.returncode == 0, done.stderr
    assert adopt(policy, state_directory=state)["snapshot_id"] == first.snapshot_id
    again = backup(policy, state_directory=state)
    assert again.rc == 0 and again.receipt and again.receipt["parent"] == first.snapshot_id
    assert verify(policy, state_directory=state, depth="full").rc == 0
    assert (history / "latest").resolve().name == again.snapshot_id
    aside = history / "set-aside" / future
    assert run(recipe("hashlib"), SNAPSHOT=str(aside)).returncode == 0
    assert (aside / "tree" / str(source)[1:] / "zero").read_text() == "written in the future"


def test_where_the_only_snapshot_is_from_the_future_a_new_history_begins(tmp_path: Path, source: Path) -> None:
    state = str(tmp_path / "state")
    policy = Policy.from_mapping({"name": "files", "host": "web1", "sources": [str(source)], "target": str(tmp_path / "vault")}, default_host="x")
    future = in_child(lambda: backup_in_future(policy, state))
    (source / "zero").write_text("written today")
    assert error_of(backup, policy, state_directory=state).kind == "clock"
    assert run(recipe("set-aside"), HISTORY=str(tmp_path / "vault" / "web1" / "files"), FUTURE=future).returncode == 0
    assert error_of(backup, policy, state_directory=state).kind == "history_lost"
    assert backup(policy, state_directory=state, adopt=True).changed
