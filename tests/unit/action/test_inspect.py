# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manifest without a history: made of real trees, compared with older ones, kept as a file."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.inspect import InspectResult, inspect
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, IntegrityError, RefusedError, UsageError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import read_manifest
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_bytes(b"content")
    (tree / "link").symlink_to("folder/file")
    (tree / "empty").write_bytes(b"")
    return tree


def look(tree: Path, **options: Any) -> InspectResult:
    keys = {name: options.pop(name) for name in ("include", "exclude") if name in options}
    return inspect(Policy.for_scan(sources=[str(tree)], **keys), **options)


def refused(kind: "type[BackupError]", call: Callable[[], Any]) -> BackupError:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def test_everything_is_new_without_a_baseline(tree: Path) -> None:
    result = look(tree)
    above = len(tree.parts) - 1
    assert (result.entries, result.files, result.bytes) == (above + 4, 2, 7)
    assert (result.added, result.modified, result.metadata, result.removed) == (result.entries, 0, 0, 0)
    assert (result.changed, result.dest, result.compared_with) == (False, None, None)


def test_equal_trees_have_equal_digests_and_other_bytes_another(tree: Path) -> None:
    first = look(tree)
    assert look(tree).content_digest == first.content_digest  # others may write in the directories above
    file = tree / "folder" / "file"
    before = file.stat()
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(tree).content_digest != first.content_digest


def test_the_file_holds_the_manifest_for_its_owner_alone(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "manifest"
    result = look(tree, dest=str(dest))
    manifest = read_manifest(os.fsencode(dest))
    assert result.changed
    assert (manifest.digest, len(manifest.entries), manifest.header.sources) == (result.digest, result.entries, (str(tree),))
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path not in (tree, dest)] == []


def test_a_file_that_holds_the_same_is_left_alone(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "manifest"
    look(tree, dest=str(dest))
    before = dest.stat()
    os.utime(tree / "folder")  # the time of a directory alone is no change
    assert not look(tree, dest=str(dest)).changed
    assert dest.stat().st_ino == before.st_ino


def test_a_prediction_writes_nothing(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "manifest"
    assert look(tree, dest=str(dest), dry_run=True).changed
    assert not dest.exists()


def test_the_last_file_is_what_the_next_one_is_compared_with(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "manifest"
    look(tree, dest=str(dest))
    (tree / "new").write_bytes(b"new")
    (tree / "folder" / "file").write_bytes(b"other")
    (tree / "empty").chmod(0o600)
    (tree / "link").unlink()
    result = look(tree, dest=str(dest))
    assert (result.added, result.modified, result.metadata, result.removed, result.compared_with) == (1, 1, 1, 1, str(dest))
    assert result.sample == [
        {"path": "%s/link" % tree, "change": "removed"},
        {"path": "%s/folder/file" % tree, "change": "modified"},
        {"path": "%s/new" % tree, "change": "added"},
        {"path": "%s/empty" % tree, "change": "metadata"},
    ]


def test_a_baseline_that_is_named_goes_before_what_dest_holds(tree: Path, tmp_path: Path) -> None:
    old, dest = tmp_path / "old", tmp_path / "manifest"
    look(tree, dest=str(old))
    (tree / "new").write_bytes(b"new")
    look(tree, dest=str(dest))
    result = look(tree, baseline=str(old), dest=str(dest))
    assert (result.added, result.changed, result.compared_with) == (1, False, str(old))


def test_another_selection_is_another_manifest(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "manifest"
    look(tree, dest=str(dest))
    result = look(tree, dest=str(dest), exclude=["nothing-is-called-so"])
    assert (result.changed, result.added, result.removed) == (True, 0, 0)


def test_a_file_that_is_no_manifest_is_replaced(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "manifest"
    dest.write_text("something else\n")
    assert look(tree, dest=str(dest)).changed
    assert not look(tree, dest=str(dest)).changed


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tree: Path, tmp_path: Path) -> None:
    other, dest = tmp_path / "other", tmp_path / "manifest"
    other.write_text("precious\n")
    dest.symlink_to(other)
    look(tree, dest=str(dest))
    assert other.read_text() == "precious\n" and not dest.is_symlink()


@pytest.mark.parametrize("dest", ["manifest", "{tmp}", "{tmp}/no/such/directory", "{tree}/manifest", "{tree}/folder/manifest"])
def test_a_place_that_cannot_hold_the_file_is_refused_before_anything_is_read(dest: str, tree: Path, tmp_path: Path) -> None:
    error = refused(UsageError, lambda: look(tree, dest=dest.format(tmp=tmp_path, tree=tree)))
    assert error.field == "dest" and error.allowed and error.next


@pytest.mark.parametrize("baseline", ["manifest", "{tmp}/none"])
def test_a_baseline_that_is_not_there_is_named(baseline: str, tree: Path, tmp_path: Path) -> None:
    assert refused(UsageError, lambda: look(tree, baseline=baseline.format(tmp=tmp_path))).field == "baseline"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"x", lambda data: b"not gzip"])
def test_a_baseline_that_was_tampered_with_is_not_trusted(damage: Callable[[bytes], bytes], tree: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "manifest"
    look(tree, dest=str(baseline))
    baseline.write_bytes(damage(baseline.read_bytes()))
    error = refused(IntegrityError, lambda: look(tree, baseline=str(baseline)))
    assert error.field == "baseline" and str(baseline) in error.message


def test_a_missing_source_leaves_the_old_file(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "manifest"
    look(tree, dest=str(dest))
    before = dest.read_bytes()
    tree.rename(tmp_path / "elsewhere")
    assert refused(RefusedError, lambda: look(tree, dest=str(dest))).field == "sources"
    assert dest.read_bytes() == before


def test_a_directory_that_cannot_be_written_says_so(tree: Path) -> None:
    error = refused(BackupError, lambda: look(tree, dest="/proc/manifest"))  # where not even root can make files
    assert (error.field, error.rc) == ("dest", 1)


def test_what_cannot_be_read_keeps_the_entry_it_had_and_is_counted(tree: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        tree = tree.rename(Path(name) / "tree")
        dest = Path(name) / "manifest"
        look(tree, dest=str(dest))
        (tree / "folder" / "file").chmod(0)
        result = as_somebody(Path(name), lambda: look(tree, dest=str(dest)).to_dict())
    assert result["rc"] == 3 and "1 path could not be read, the first is %s/folder/file" % tree in result["warnings"][0]
    assert result["removed"] == 0


def as_somebody(room: Path, call: Callable[[], Any]) -> Any:
    """What ``call`` returns (JSON) to a user who is not root, and owns everything in ``room``."""
    if os.geteuid() != 0:
        return call()
    for path in (room, *room.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    output, inlet = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os.write(inlet, json.dumps(call()).encode())
        os._exit(0)
    os.close(inlet)
    os.waitpid(child, 0)
    with open(output, "rb") as stream:
        return json.loads(stream.read())
