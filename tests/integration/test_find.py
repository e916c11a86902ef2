# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding a file in a history: which versions there are, and which snapshots hold them."""

from __future__ import annotations

import os
import random
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.find import find
from ansible_collections.openclaw.backup.plugins.module_utils.pool import FORK_PAYS_BYTES

from .world import World, error_of, fingerprint


@pytest.fixture
def world() -> Iterator[World]:
    world = World.make()
    yield world
    world.destroy()


def find_in(world: World, pattern: str, **options: Any) -> Dict[str, Any]:
    return find(world.policy(), pattern, state_directory=str(world.state), **options)


def save(world: World, **files: Optional[str]) -> str:
    """Write these files, remove those that are None, and back up; the id of the snapshot."""
    for name, text in files.items():
        path = world.src / name
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
    result = world.backup()
    assert result.changed
    return str(result.snapshot_id)


def versions_of(found: Dict[str, Any]) -> List[Tuple[str, str, int, int, Optional[bool]]]:
    (path,) = found["paths"]
    return [(item["first"], item["last"], item["snapshots"], item["differs"], item["in_newest"]) for item in path["versions"]]


def test_a_version_that_comes_back_is_one_version_with_a_gap(world: World) -> None:
    ids = [save(world, a=text, other=str(number)) for number, text in enumerate(["one", "one", "two", "one", "three, longer"])]
    found = find_in(world, "a")
    assert versions_of(found) == [(ids[4], ids[4], 1, 0, True), (ids[0], ids[3], 3, 1, False), (ids[2], ids[2], 1, 0, False)]
    (path,) = found["paths"]
    assert path["path"] == str(world.src / "a") and [item["size"] for item in path["versions"]][0] == 13
    assert (found["searched"], found["count"], found["versions"], found["truncated"], found["rc"]) == (5, 1, 3, False, 0)


def test_what_was_deleted_long_ago_is_found_and_the_newest_does_not_have_it(world: World) -> None:
    first = save(world, gone="x", stays="y")
    save(world, gone=None)
    assert versions_of(find_in(world, "gone")) == [(first, first, 1, 0, False)]
    assert versions_of(find_in(world, "gone", snapshot=first)) == [(first, first, 1, 0, None)]
    assert find_in(world, "gone", snapshot="latest")["paths"] == []
    assert versions_of(find_in(world, "stays", snapshot="latest"))[0][4] is True


def test_links_directories_and_other_types_are_versions_too(world: World) -> None:
    (world.src / "x").symlink_to("one")
    save(world, other="1")
    (world.src / "x").unlink()
    (world.src / "x").symlink_to("two")
    save(world, other="2")
    (world.src / "x").unlink()
    (world.src / "x").mkdir()
    save(world, other="3")
    (world.src / "x").rmdir()
    os.mkfifo(world.src / "x")
    save(world, other="4")
    (path,) = find_in(world, "x")["paths"]
    assert [(item["type"], item.get("link")) for item in path["versions"]] == [("p", None), ("d", None), ("l", "two"), ("l", "one")]


def test_only_metadata_that_changed_makes_no_version(world: World) -> None:
    save(world, a="text")
    (world.src / "a").chmod(0o600)
    save(world)
    (path,) = find_in(world, "a")["paths"]
    assert [(item["mode"], item["snapshots"]) for item in path["versions"]] == [("0600", 2)]


def test_names_that_are_no_text_and_names_with_letters_of_all_kinds_are_found(world: World) -> None:
    names = [os.fsdecode(b"odd \xff\n.txt"), "Gr\u00f6\u00dfe.TXT", 'a"\\b.txt', "\U0001f600.txt"]
    for name in names:
        (world.src / name).write_text("x")
    save(world)
    for name in names:
        assert find_in(world, name.replace("\\", "[\\]"))["count"] == 1, name
    assert find_in(world, "?.txt")["count"] == 1
    assert find_in(world, "*.txt")["count"] == 3 and find_in(world, "*.txt", ignore_case=True)["count"] == 4
    assert find_in(world, "GR\u00d6\u00dfE.txt", ignore_case=True)["count"] == 1


def test_a_pattern_with_a_slash_is_held_against_the_whole_path(world: World) -> None:
    (world.src / "docs" / "deep").mkdir(parents=True)
    (world.src / "docs" / "deep" / "one").write_text("x")
    (world.src / "one").write_text("x")
    save(world)
    assert find_in(world, "one")["count"] == 2
    assert find_in(world, "*/docs/*one")["count"] == find_in(world, str(world.src / "docs" / "*" / "one"))["count"] == 1
    assert find_in(world, "one", paths=[str(world.src / "docs")])["count"] == 1
    assert find_in(world, "deep/")["count"] == 1


def test_more_than_the_limit_is_counted_and_not_listed(world: World) -> None:
    for number in range(3):
        save(world, a="a%d" % number, b="b%d" % number)
    found = find_in(world, "?", limit=4)
    assert [(path["path"][-1], len(path["versions"])) for path in found["paths"]] == [("a", 3), ("b", 1)]
    assert (found["truncated"], found["count"], found["versions"]) == (True, 2, 6)
    assert not find_in(world, "?", limit=6)["truncated"]


def test_a_snapshot_whose_manifest_is_damaged_is_left_out_with_a_warning(world: World) -> None:
    ids = [save(world, a=text, same="x") for text in ("one", "two", "three")]
    path = world.history / "snapshots" / ids[1] / "manifest.jsonl.gz"
    data = path.read_bytes()
    another = (world.history / "snapshots" / ids[0] / "manifest.jsonl.gz").read_bytes()
    for spoiled in (another, data[:-9], data[:40], data + b"x", b"", data[:30] + b"\0" + data[31:]):
        path.write_bytes(spoiled)
        found = find_in(world, "a")
        assert [item[0] for item in versions_of(found)] == [ids[2], ids[0]] and found["searched"] == 2
        assert versions_of(find_in(world, "same")) == [(ids[0], ids[2], 2, 0, True)], "nobody knows what it held"
        assert found["rc"] == 3 and ids[1] in found["warnings"][0] and "manifest" in found["warnings"][0]


def test_where_the_newest_manifest_is_damaged_nobody_knows_what_the_newest_has(world: World) -> None:
    ids = [save(world, a="x", b=text) for text in ("one", "two")]
    (world.history / "snapshots" / ids[1] / "manifest.jsonl.gz").write_bytes(b"")
    assert versions_of(find_in(world, "a")) == [(ids[0], ids[0], 1, 0, None)]


def test_nothing_is_written_and_a_history_that_is_gone_is_no_empty_one(world: World) -> None:
    save(world, a="x")
    before = fingerprint(world.vault), fingerprint(world.state)
    assert find_in(world, "nothing*")["paths"] == []
    assert (fingerprint(world.vault), fingerprint(world.state)) == before
    world.vault.rename(world.root / "elsewhere")
    assert error_of(find_in, world, "a").kind == "history_lost"


def test_an_unknown_snapshot_is_refused(world: World) -> None:
    save(world, a="x")
    assert error_of(find_in, world, "a", snapshot="2020").kind == "no_snapshot"


def test_several_processes_find_what_one_finds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    luck = random.Random(7)
    texts: List[Dict[str, str]] = []
    for number in range(24):
        files = {name: luck.choice("xyz") for name in "abcdef"}
        save(world, number=str(number), **files)
        texts.insert(0, files)
    alone = find_in(world, "[a-f]")
    monkeypatch.setattr("ansible_collections.openclaw.backup.plugins.module_utils.action.find._LINE", FORK_PAYS_BYTES)
    assert find_in(world, "[a-f]") == alone
    ids = [snapshot.id for snapshot in world.snapshots()]
    for path in alone["paths"]:
        history = [files[path["path"][-1]] for files in texts]
        expected = []
        for text in dict.fromkeys(history):
            numbers = [number for number, found in enumerate(history) if found == text]
            expected.append((ids[numbers[-1]], ids[numbers[0]], len(numbers), numbers[-1] - numbers[0] + 1 - len(numbers), numbers[0] == 0))
        assert versions_of({"paths": [path]}) == expected
