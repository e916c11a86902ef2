# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `check` says is what a run does; its canary proves the way to the vault and leaves nothing; and profiles on real homes."""

from __future__ import annotations

import json
import os
import pwd
import signal
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import check as check_module
from ansible_collections.openclaw.backup.plugins.module_utils.action import sources as sources_module
from ansible_collections.openclaw.backup.plugins.module_utils.action.check import CheckResult, check
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, IntegrityError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import scan as scan_module
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

from .test_databases import Keeper
from .trees import fill
from .world import AS_ROOT, NOBODY, World, error_of, fingerprint, give, in_child, mounted, needs_root


def look(world: World, path: Any = None, canary: bool = False, **keys: Any) -> CheckResult:
    wish = str(path) if path is not None else None
    return check(world.policy(**keys), state_directory=str(world.state), path=wish, canary=canary)


def everything(world: World) -> Set[str]:
    return {str(Path(folder) / name) for folder, directories, names in os.walk(world.src) for name in [*directories, *names]}


def taken(world: World, result: Any) -> Set[str]:
    tree = world.tree(result.snapshot_id)
    return {"/" + str((Path(folder) / name).relative_to(tree)) for folder, directories, names in os.walk(tree) for name in [*directories, *names]}


# ---- what is said and what is done ---------------------------------------------------------------------------------------------


SELECTIONS: List[Dict[str, Any]] = [
    {},
    {"exclude": ["*.log", "/cache/", "deep/**/x"]},
    {"include": ["*.txt", "/deep/"], "exclude": ["x"]},
    {"exclude_caches": True, "exclude_if_present": [".nobackup"]},
    {"sqlite": "off", "exclude": ["*-wal"]},
    {"exclude": ["agent.db"]},
    {"include": ["agent.db-wal", "/deep/one/", "notes-journal"]},
    {"include": ["/deep/**.log", "*.db"], "exclude": ["*-journal"]},
]


@pytest.mark.parametrize("keys", SELECTIONS, ids=range(len(SELECTIONS)))
def test_every_path_is_explained_as_a_run_treats_it(world: World, keys: Dict[str, Any]) -> None:
    for name in ("a.txt", "b.log", "cache/c.txt", "deep/one/x", "deep/two/y.log", "tagged/d", "tagged/sub/e.txt", "marked/f", "marked/.nobackup", "x"):
        (world.src / name).parent.mkdir(parents=True, exist_ok=True)
        (world.src / name).write_text("content")
    (world.src / "tagged" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (world.src / "link").symlink_to("deep")
    (world.src / "empty" / "inside").mkdir(parents=True)
    with Keeper(world.src / "agent.db") as keeper:
        keeper.kill()
    assert (world.src / "agent.db-wal").stat().st_size and (world.src / "agent.db-shm").exists()
    (world.src / "agent.db-journal").write_bytes(b"")
    (world.src / "notes-journal").write_text("a file like any other")
    result = world.backup(policy=world.policy(**keys))
    got = taken(world, result)
    for path in sorted(everything(world)):
        explained = look(world, path, **keys).explained
        assert explained is not None
        if explained["key"] == "sqlite" and "part of the database" in explained["why"]:
            assert path not in got
            continue
        assert explained["selected"] == (path in got), explained
    checked = look(world, **keys)
    left = {path for item in checked.left_out for path in item["sample"]}
    assert left.isdisjoint(got)
    assert (checked.entries, checked.files) == (result.entries, world.snapshots()[0].receipt.files)
    assert checked.bytes >= result.bytes - (8192 if result.captured else 0)


def test_it_names_the_key_and_the_pattern_that_leave_something_out(world: World) -> None:
    for name in ("a.log", "b.log", "cache/x", "keep"):
        (world.src / name).parent.mkdir(exist_ok=True)
        (world.src / name).write_text("x")
    found = look(world, exclude=["/cache/", "*.log"])
    assert [(item["key"], item["rule"], item["paths"]) for item in found.left_out] == [("exclude", "*.log", 2), ("exclude", "/cache/", 1)]
    assert (found.files, found.bytes, found.rc) == (1, 1, 0)
    for path, selected, key, words in (
        (world.src / "a.log", False, "exclude", "leaves it out"),
        (world.src / "cache" / "x", False, "exclude", "leaves %s out" % (world.src / "cache")),
        (world.src / "keep", True, None, "nothing leaves it out"),
        (world.src / "later", True, None, "does not exist now"),
        (world.src.parent, True, "sources", "above a source"),
        ("/elsewhere", False, "sources", "lies in no source"),
        (world.vault, False, "sources", "lies in no source"),
    ):
        explained = look(world, path, exclude=["/cache/", "*.log"]).explained
        assert explained is not None and (explained["selected"], explained["key"]) == (selected, key) and words in explained["why"], explained


def test_what_a_run_refuses_is_refused_and_what_is_odd_is_told(world: World) -> None:
    assert error_of(lambda: look(world, sources=[str(world.src / "nothing")])).kind == "guard"
    assert error_of(lambda: look(world, sources=[str(world.root)])).field == "sources[0]"
    assert error_of(lambda: look(world, guards={"require": ["/nowhere"]})).field == "guards.require"
    assert "fewer than guards.min_files" in look(world).warnings[0]


def test_what_nobody_could_be_told_by_is_named(world: World) -> None:
    (world.src / "file").write_text("x")
    url = world.root / "url"
    notify = {"command": ["/usr/local/bin/tell-nobody", "-v"], "webhook_file": str(world.root / "nowhere"), "ping_file": str(url)}
    url.write_text("ftp://secret\n")
    assert look(world, notify=notify).warnings == [
        "nobody could be told by notify.command: there is no program /usr/local/bin/tell-nobody",
        "nobody could be told by notify.webhook_file: %s: No such file or directory" % notify["webhook_file"],
        "nobody could be told by notify.ping_file: %s does not hold an address that begins with https:// or http://" % url,
    ]
    url.write_text("https://localhost/ping\n")
    assert look(world, notify={"command": ["true"], "ping_file": str(url)}).warnings == []


@pytest.mark.skipif(not AS_ROOT, reason="root reads everything, and plays one who does not")
def test_a_file_that_cannot_be_read_is_told_of_and_not_counted(world: World) -> None:
    for name in ("mine", "closed"):
        (world.src / name).write_text("x")
    (world.src / "closed").chmod(0)
    give(world.root, NOBODY)

    def go() -> Any:
        found = look(world)
        return found.files, found.warnings, look(world, world.src / "closed").explained

    files, warnings, explained = in_child(go, uid=NOBODY)
    assert files == 1 and warnings == ["1 path cannot be read, the first is %s (Permission denied)" % (world.src / "closed")]
    assert not explained["selected"] and "cannot be read" in explained["why"]


def test_what_before_hooks_may_make_is_told_of_and_the_canary_flies(world: World) -> None:
    made = str(world.root / "mounted" / "by" / "a" / "hook")
    (world.src / "file").write_text("x")
    keys: Dict[str, Any] = {"sources": [made, str(world.src)], "guards": {"require": [made + "/required"], "min_files": 5}}
    error = error_of(lambda: look(world, **keys))
    assert (error.kind, error.rc) == ("guard", 4) and "published" not in str(error)
    found = look(world, canary=True, hooks={"before": [["/bin/true"]]}, **keys)
    assert found.canary is not None and found.rc == 3 and found.files == 1
    assert [text.split(";")[0] for text in found.warnings] == ["%s is missing" % made, "%s/required is missing" % made]


def test_a_path_that_leads_into_a_source_by_a_link_is_told_its_real_name(world: World) -> None:
    (world.src / "file").write_text("x")
    (world.root / "link").symlink_to("src")
    explained = look(world, world.root / "link" / "file").explained
    assert explained is not None and not explained["selected"] and str(world.src / "file") in explained["why"]


# ---- the canary ----------------------------------------------------------------------------------------------------------------


def test_the_canary_goes_all_the_way_and_leaves_no_trace(world: World) -> None:
    (world.src / "file").write_text("x")
    first = look(world, canary=True)
    assert first.canary is not None and first.canary["bytes"] == 8 << 20 and first.warnings == []
    assert first.estimate["seconds"] >= 0 and first.estimate["free"] > 0
    assert os.listdir(world.vault) == ["format.json"]
    world.backup()
    before = fingerprint(world.vault, times=False)
    assert look(world, canary=True).canary is not None
    assert fingerprint(world.vault, times=False) == before
    assert not list((world.state / "h" / "p").glob("scratch*"))
    world.check_history(count=1)


def test_the_canary_does_not_run_hooks_and_is_not_held_up_by_guards(world: World) -> None:
    (world.src / "file").write_text("x")
    hook = [["/bin/touch", str(world.root / "ran")]]
    assert look(world, canary=True, hooks={"before": hook}, guards={"min_files": 1}).canary is not None
    assert not (world.root / "ran").exists()


@pytest.mark.parametrize("moment", ["verify", "_differences"])
def test_a_canary_that_was_killed_is_buried_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    (world.src / "file").write_text("x")
    killed = os.fork()
    if not killed:
        monkeypatch.setattr(check_module, moment, lambda *_words, **_keys: os.kill(os.getpid(), signal.SIGKILL))
        look(world, canary=True)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(killed, 0)[1]) == signal.SIGKILL
    assert len(list(world.vault.glob("h/canary-*"))) == 1 and (world.state / "h" / "p" / "canary-scratch").exists()
    look(world, canary=True)
    assert os.listdir(world.vault) == ["format.json"]
    assert not (world.state / "h" / "p" / "canary-scratch").exists() and (world.state / "h" / "p" / "canary").read_bytes() == b""


def test_only_a_canary_is_ever_buried(world: World) -> None:
    (world.src / "file").write_text("x")
    world.backup()
    (world.state / "h" / "p" / "canary").write_text("p")
    look(world, canary=True)
    world.check_history(count=1)


def test_the_first_run_is_not_foretold_once_it_was(world: World) -> None:
    (world.src / "file").write_text("x")
    assert look(world, canary=True).estimate["seconds"] is not None
    world.backup()
    assert look(world, canary=True).estimate["seconds"] is None


def test_a_canary_that_comes_back_changed_is_an_alarm_and_is_removed_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.src / "file").write_text("x")
    real = check_module.restore

    def spoil(policy: Policy, request: Any, **options: Any) -> Any:
        done = real(policy, request, **options)
        content = Path(request.dest + policy.sources[0]) / "content"
        content.write_bytes(b"not what was sent")
        return done

    monkeypatch.setattr(check_module, "restore", spoil)
    with pytest.raises(IntegrityError) as raised:
        look(world, canary=True)
    assert (raised.value.kind, raised.value.rc) == ("canary", 7)
    assert os.listdir(world.vault) == ["format.json"]


def test_a_vault_that_cannot_be_written_is_found_before_the_first_run(world: World) -> None:
    (world.src / "file").write_text("x")
    world.vault.write_text("a file stands where the vault should be")
    with pytest.raises(BackupError) as raised:
        look(world, canary=True)
    assert raised.value.next


# ---- profiles ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only home of this machine."""
    path = world.root / "home" / "openclaw"
    state = path / ".openclaw"
    (state / "agents" / "main" / "sessions").mkdir(parents=True)
    (state / "workspace" / "node_modules").mkdir(parents=True)
    (state / "openclaw.json").write_text('{\n  // JSON5\n  meta: { lastTouchedVersion: "2026.7.2" },\n}\n')
    (state / "agents" / "main" / "sessions" / "one.jsonl").write_text('{"a": 1}\n')
    (state / "workspace" / "SOUL.md").write_text("soul")
    (state / "workspace" / "node_modules" / "x").write_text("x")
    user = pwd.struct_passwd(("openclaw", "x", 1000, 1000, "", str(path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [user])
    monkeypatch.setenv("HOME", str(path))
    return path


def agents(world: World, **keys: Any) -> Policy:
    made = world.policy().to_mapping()
    return Policy.from_mapping({"name": "p", "profile": "openclaw", "target": made["target"], **keys}, default_host="h")


def test_a_profile_finds_its_sources_and_notes_what_wrote_them(world: World, home: Path) -> None:
    result = world.backup(policy=agents(world))
    assert result.warnings == []
    header = world.target.manifest(world.snapshots()[0]).header
    assert header.sources == (str(home / ".openclaw"),)
    assert header.application == {"profile": "openclaw", "version": "2026.7.2"}
    assert (Path(str(world.tree(result.snapshot_id)) + str(home)) / ".openclaw" / "workspace" / "SOUL.md").exists()
    assert not (Path(str(world.tree(result.snapshot_id)) + str(home)) / ".openclaw" / "workspace" / "node_modules").exists()
    assert not world.backup(policy=agents(world)).changed
    (home / ".clawdbot").mkdir()
    (home / ".clawdbot" / "clawdbot.json").write_text("{}")
    result = world.backup(policy=agents(world))
    assert world.target.manifest(world.snapshots()[0]).header.sources == (str(home / ".clawdbot"), str(home / ".openclaw"))


def test_a_source_of_a_profile_that_goes_away_is_missed(world: World, home: Path) -> None:
    (home / ".openclaw-work").mkdir()
    (home / ".openclaw-work" / "openclaw.json").write_text("{}")
    world.backup(policy=agents(world))
    os.rename(home / ".openclaw-work", home / "away")
    error = error_of(lambda: world.backup(policy=agents(world)))
    assert (error.kind, error.rc) == ("guard", 4) and ".openclaw-work" in str(error)
    os.rename(home / "away", home / ".openclaw-work")
    assert not world.backup(policy=agents(world)).changed


def test_a_profile_that_finds_nothing_is_refused_and_a_link_is_told_of(world: World, home: Path) -> None:
    os.rename(home / ".openclaw", home / "elsewhere")
    error = error_of(lambda: world.backup(policy=agents(world)))
    assert (error.kind, error.field, error.rc) == ("guard", "profile", 4)
    assert json.loads((world.state / "h" / "p" / "runs.jsonl").read_text().splitlines()[-1])["result"] == "failed"
    (home / ".openclaw").symlink_to("elsewhere")
    (home / ".moltbot").mkdir()
    (home / ".moltbot" / "moltbot.json").write_text("{}")
    result = world.backup(policy=agents(world))
    assert result.rc == 3 and "is a symbolic link and not followed" in result.warnings[0]


@pytest.mark.skipif(not AS_ROOT, reason="only root looks into every home")
def test_a_profile_for_homes_takes_those_of_people_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    users = [(0, "/root"), (1, "/usr/sbin"), (1000, "/home/ann"), (1001, "/home/ann"), (1002, "/"), (65534, "/nonexistent")]
    monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.struct_passwd(("u", "x", uid, uid, "", path, "")) for uid, path in users])
    assert list(sources_module._in_homes("~")) == ["/home/ann", "/root"]
    assert list(sources_module._in_homes("~/.openclaw"))[-1] == "/usr/sbin/.openclaw"


def test_secrets_that_everybody_can_read_are_told_of(world: World, home: Path) -> None:
    (home / ".openclaw" / ".env").write_text("TOKEN=x")
    (home / ".openclaw" / ".env").chmod(0o644)
    (home / ".openclaw" / "openclaw.json").chmod(0o600)
    found = check(agents(world), state_directory=str(world.state), canary=False)
    assert (found.secrets["files"], found.secrets["readable"], found.rc) == (2, [str(home / ".openclaw" / ".env")], 3)
    assert "TOKEN" not in json.dumps(found.to_dict())
    (home / ".openclaw").chmod(0o700)
    assert check(agents(world), state_directory=str(world.state), canary=False).rc == 0
    explained = check(agents(world), state_directory=str(world.state), path=str(home / ".openclaw" / ".env")).explained
    assert explained is not None and "marks it as secret" in explained["why"]


def test_a_session_that_grows_is_kept_up_to_its_last_whole_line(world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = home / ".openclaw" / "agents" / "main" / "sessions" / "one.jsonl"
    notes = home / ".openclaw" / "workspace" / "notes.txt"
    notes.write_text("whole\n")
    inodes = {os.stat(session).st_ino: session, os.stat(notes).st_ino: notes}
    real = scan_module.hash_file

    def hash_and_add(fd: int, **options: Any) -> Any:
        result = real(fd, **options)
        path = inodes.pop(os.fstat(fd).st_ino, None)
        if path is not None:
            with open(path, "ab") as stream:
                stream.write(b'{"b": 2}\n{"half a li')
        return result

    monkeypatch.setattr(scan_module, "hash_file", hash_and_add)
    monkeypatch.setattr(scan_module.pool, "fork_pays", lambda weights: False)
    result = world.backup(policy=agents(world))
    tree = Path(str(world.tree(result.snapshot_id)) + "/")
    assert (tree / str(session).strip("/")).read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    assert (tree / str(notes).strip("/")).read_bytes() == b'whole\n{"b": 2}\n{"half a li', "other files are kept as they were cut"
    assert not any(entry.unstable for entry in world.target.manifest(world.snapshots()[0]).entries if entry.path.endswith(b"one.jsonl"))
    with open(session, "ab") as stream:
        stream.write(b'ne": 3}\n')
    result = world.backup(policy=agents(world))
    assert (Path(str(world.tree(result.snapshot_id)) + str(session))).read_bytes() == session.read_bytes()


def test_a_tree_of_everything_is_counted_as_a_run_counts_it(world: World) -> None:
    fill(world.src, as_root=AS_ROOT)
    found = look(world)
    result = world.backup(dry_run=True)
    assert (found.entries, found.bytes) == (result.entries, result.bytes)


def test_a_profile_that_finds_nothing_names_what_it_looked_for(world: World, home: Path) -> None:
    (home / ".openclaw").rename(home / "elsewhere")
    error = error_of(world.backup, policy=agents(world))
    assert error.field == "profile" and "~/.clawdbot" in str(error.allowed) and "/root/clawd" in str(error.allowed)


def test_a_pattern_that_takes_for_ever_costs_the_version_and_not_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "_SEARCH_SECONDS", 1)
    (world.src / "version").write_text("a" * 40 + "!")
    profile = world.root / "slow.json"
    profile.write_text(json.dumps({"sources": [str(world.src)], "version": {"files": ["/version"], "pattern": "((?:a+)+)$"}}))
    made = world.policy().to_mapping()
    policy = Policy.from_mapping({"name": "p", "profile": str(profile), "target": made["target"]}, default_host="h")
    result = world.backup(policy=policy)
    assert result.changed and len(result.warnings) == 1 and "given up" in result.warnings[0]
    assert world.target.manifest(world.snapshots()[0]).header.application == {"profile": str(profile)}
    profile.write_text(profile.read_text().replace("((?:a+)+)$", "(a+)"))
    policy = Policy.from_mapping({"name": "p", "profile": str(profile), "target": made["target"]}, default_host="h")
    (world.src / "version").write_text("b" + "a" * 5000)
    assert world.backup(policy=policy).warnings == []
    assert world.target.manifest(world.snapshots()[0]).header.application["version"] == "a" * 200


@needs_root
def test_a_vault_that_the_canary_does_not_fit_in_is_not_called_full_of_the_sources(world: World) -> None:
    with mounted("tmpfs", "size=4m") as small:
        world.vault = small / "vault"
        error = error_of(look, world, canary=True)
        assert error.message.startswith("The canary, 8388608 bytes") and error.kind in ("vault_full", "no_space")


def test_the_root_directory_as_a_source_gets_advice_that_can_be_followed(world: World) -> None:
    error = error_of(world.backup, policy=world.policy(sources=["/"]))
    assert "name the directories below /" in str(error.next) and "another disk" not in str(error.next)
