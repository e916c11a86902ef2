# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module through Ansible on a real tree: changes are predicted, made, and not made twice; results are those documented; failures lead out.

All of it is one play, because every start of Ansible costs a second. Its story is told by ``tell`` below; the tests look at what was registered.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Result = Dict[str, Any]

# What ansible-core adds of its own.
FOREIGN = {"invocation", "warnings", "deprecations", "diff", "failed", "failed_when_result", "msg", "exception", "ansible_facts"}


class Story:
    """A play in the making. ``task`` registers its result under a name; ``shell`` changes the tree in between."""

    def __init__(self) -> None:
        self.tasks: List[Result] = []
        self.modules: Dict[str, str] = {}

    def task(self, name: str, module: str, /, check: bool = False, **arguments: Any) -> None:
        self.modules[name] = module
        self.tasks.append(
            {
                "name": name,
                "openclaw.backup." + module: arguments,
                "register": "result_" + name,
                "check_mode": check,
                "diff": True,
                "ignore_errors": True,
            }
        )

    def four_times(self, name: str, module: str, /, look: str = "", **arguments: Any) -> None:
        """Predicted, done, predicted again, done again; ``look`` is a path whose presence is noted after the first prediction."""
        self.task(name + "_predicted", module, check=True, **arguments)
        if look:
            self.tasks.append({"name": name + "_look", "ansible.builtin.stat": {"path": look}, "register": "result_%s_look" % name})
        self.task(name, module, **arguments)
        self.task(name + "_predicted_again", module, check=True, **arguments)
        self.task(name + "_again", module, **arguments)

    def python(self, script: str) -> None:
        self.tasks.append({"name": "Change something", "ansible.builtin.command": {"argv": [sys.executable, "-c", script]}})

    def play(self, output: Path) -> List[Result]:
        registered = [task["register"] for task in self.tasks if "register" in task]
        everything = "{{ {%s} | to_json }}" % ", ".join("'%s': %s" % (name[7:], name) for name in registered)
        last = {"name": "Write down", "ansible.builtin.copy": {"content": everything, "dest": str(output), "mode": "0600"}}
        return [{"hosts": "localhost", "gather_facts": False, "tasks": [*self.tasks, last]}]


def tell(story: Story, home: Path) -> None:
    tree, vault = str(home / "tree"), str(home / "vault")
    history = {"target": vault, "host": "web1", "name": "tree"}
    policy = {**history, "sources": [tree]}

    # A manifest as a file, and a comparison with it.
    kept = str(home / "kept.manifest")
    story.four_times("manifest", "manifest", look=kept, sources=[tree], dest=kept)
    story.task("manifest_selected", "manifest", sources=[tree], exclude=["folder/"], exclude_if_present=[".nobackup"], one_file_system=True)

    # A first snapshot, then one of changes.
    story.four_times("first", "snapshot", look=vault, **policy)
    story.python(EDITS % tree)
    story.task("manifest_compared", "manifest", sources=[tree], baseline=kept)
    story.four_times("second", "snapshot", **policy)
    story.task("warned", "snapshot", policy={**policy, "transfer": {"sockopts": "TCP_NODELAY"}})
    hooks = {"before": [["true", "an argument"]], "after": [["sh", "-c", "echo busy; exit 5"]]}
    story.task("hooked_predicted", "snapshot", check=True, policy={**policy, "hooks": hooks})
    story.task("hooked", "snapshot", policy={**policy, "hooks": hooks})
    story.task("other_policy", "snapshot", policy=str(home / "policy.json"))
    story.four_times("tagged", "snapshot", tags=["before-upgrade"], **policy)

    # Looking at the history, and proving it.
    story.task("list_before", "snapshot_info", **history)
    story.four_times("list", "snapshot_info", **history)
    story.task("list_policy", "snapshot_info", policy=policy)
    story.task("list_sizes", "snapshot_info", sizes=True, **history)
    story.task("list_nothing", "snapshot_info", **{**history, "name": "nobody"})
    story.task("verify_predicted", "verify", check=True, **history)
    story.task("list_unverified", "snapshot_info", **history)
    story.task("verify", "verify", **history)
    story.task("verify_again", "verify", **history)
    story.task("list_verified", "snapshot_info", **history)
    story.four_times("status", "status_info", policy={**policy, "objectives": {"rpo": "1d"}})
    story.task("status_nothing", "status_info", **{**history, "name": "nobody"})
    story.task("verify_quick", "verify", depth="quick", **history)
    story.task("verify_slice", "verify", slice="1/2", snapshot="latest", **history)
    story.task("verify_other_slice", "verify", slice="2/2", snapshot="latest", **history)
    story.task("verify_source", "verify", source=True, policy=policy)

    # Rehearsing.
    story.task("drill_predicted", "drill", check=True, **history)
    drilled = {**policy, "objectives": {"rto": "1h", "rpo": "1h", "drill_every": "1d"}, "probes": [{"exists": [tree + "/new"]}]}
    story.task("drill", "drill", policy=drilled)
    story.task("drill_kept", "drill", keep=True, scratch=str(home), **history)

    # Restoring elsewhere, in place, and in place after an accident.
    copy = str(home / "copy")
    story.four_times("restore", "restore", look=copy, dest=copy, **history)
    story.task("restore_path", "restore", dest=str(home / "path"), paths=[tree + "/folder"], snapshot="{{ result_first.snapshot_id }}", **history)
    story.python(ACCIDENT % tree)
    story.task("in_place_unconfirmed", "restore", **history)
    story.four_times("in_place", "restore", undo=str(home / "undo"), delete=True, **history)
    story.python(ACCIDENT % tree)
    story.task("in_place_confirmed", "restore", confirm=True, verify=False, **history)
    story.task("in_place_deleted", "restore", confirm=True, delete=True, policy=policy)

    # A byte of the vault goes bad.
    story.python(DAMAGE % (vault, "tree"))
    story.task("verify_damaged_predicted", "verify", check=True, **history)
    story.task("list_not_yet_damaged", "snapshot_info", **history)
    story.task("verify_damaged", "verify", **history)
    story.task("list_damaged", "snapshot_info", **history)
    story.task("drill_damaged", "drill", **history)
    story.task("status_damaged", "status_info", **history)
    story.task("restore_damaged", "restore", dest=str(home / "damaged"), **history)

    # More of everything than a sample shows.
    crowd = {"target": vault, "host": "web1", "name": "crowd"}
    story.task("crowd_manifest", "manifest", sources=[str(home / "crowd")])
    story.task("crowd", "snapshot", sources=[str(home / "crowd")], **crowd)
    story.task("crowd_restore", "restore", dest=str(home / "crowd-copy"), **crowd)
    story.python(LOSS % vault)
    story.task("crowd_verify", "verify", **crowd)
    story.task("crowd_list", "snapshot_info", **crowd)
    story.task("crowd_drill", "drill", **crowd)

    # Another host, without a state of its own, meets the history.
    foreign = {**policy, "state": str(home / "other-state")}
    story.task("restore_first", "snapshot", **foreign)
    story.task("adopt", "snapshot", adopt=True, **foreign)

    # Five snapshots, of which a retention keeps two.
    many = {"target": vault, "host": "web1", "name": "many"}
    for number in range(5):
        story.python(ONE_MORE % (tree, number))
        story.task("many%d" % number, "snapshot", sources=[tree + "/folder"], **many)
    story.four_times("prune", "prune", retention={"keep_last": 2, "protect": "0s"}, **many)
    second = {"to": str(home / "second-vault"), **many}
    story.four_times("replicate", "replicate", look=str(home / "second-vault"), **second)
    story.task("replicate_damaged", "replicate", to=str(home / "second-vault"), **history)

    # What goes bad in the one vault comes back from the other, which has not all of it.
    story.python(DAMAGE % (str(home / "second-vault"), "many"))
    story.task("verify_copy", "verify", **{**many, "target": str(home / "second-vault")})
    story.four_times("repair", "replicate", repair=True, **second)
    story.task("repair_damaged", "replicate", repair=True, to=vault, **{**crowd, "target": str(home / "second-vault")})
    rules = {"keep_last": 1, "protect": "0s"}
    story.task("prune_policy", "prune", policy={**many, "sources": [tree + "/folder"], "retention": rules})
    story.python(MANY_MORE % (tree, {**many, "sources": [tree + "/folder"]}, str(home / "many.json")))
    story.task("crowd_replicate", "replicate", **second)
    story.task("crowd_prune", "prune", retention=rules, **many)

    for name, (module, arguments) in bad_input(home).items():
        story.task("bad_" + name, module, **arguments)


ONE_MORE = """
import pathlib
pathlib.Path(%r, "folder", "number").write_text("%d")
"""
MANY_MORE = """
import json, pathlib, subprocess, sys
number, policy, path = pathlib.Path(%r, "folder", "number"), %r, %r
pathlib.Path(path).write_text(json.dumps(policy))
for count in range(25):
    number.write_text(str(count))
    program = [sys.executable, "-m", "ansible_collections.openclaw.backup.plugins.module_utils.agent"]
    subprocess.run([*program, "run", path, "--quiet"], check=True)
"""
EDITS = """
import os, pathlib
tree = pathlib.Path(%r)
(tree / "new").write_bytes(b"new")
(tree / "folder" / "changed").write_bytes(b"after")
(tree / "folder" / "removed").unlink()
(tree / "mode").chmod(0o600)
"""

ACCIDENT = """
import pathlib
tree = pathlib.Path(%r)
(tree / "folder" / "changed").write_bytes(b"spoilt")
(tree / "new").unlink()
(tree / "extra").write_bytes(b"extra")
"""

DAMAGE = """
import os, pathlib
paths = sorted(pathlib.Path(%r).glob("web1/%s/snapshots/*/tree/**/folder/changed"))
path = paths[-1]
times = path.stat()
path.chmod(0o600)
path.write_bytes(b"aftEr")
path.chmod(times.st_mode)
os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
"""


LOSS = """
import pathlib
(path,) = pathlib.Path(%r).glob("web1/crowd/snapshots/*/tree/**/crowd")
for file in path.iterdir():
    file.unlink()
(path / "foreign").write_bytes(b"")
"""


def bad_input(home: Path) -> Dict[str, Tuple[str, Result]]:
    """What the modules must refuse, by a name for it."""
    tree, vault = str(home / "tree"), str(home / "vault")
    history = {"target": vault, "host": "web1", "name": "tree"}
    policy = {**history, "sources": [tree]}
    return {
        "unknown_option": ("manifest", {"sources": [tree], "colour": "blue"}),
        "missing_option": ("manifest", {}),
        "wrong_choice": ("verify", {**history, "depth": "deep"}),
        "wrong_type": ("restore", {**history, "delete": "perhaps"}),
        "two_ways": ("snapshot", {"policy": policy, "name": "tree", "sources": [tree], "target": vault}),
        "half_a_history": ("snapshot_info", {"target": vault}),
        "source_without_policy": ("verify", {**history, "source": True}),
        "no_rule": ("prune", history),
        "retention_key": ("prune", {**history, "retention": {"keep_lasts": 3}}),
        "retention_count": ("prune", {**history, "retention": {"keep_last": -1}}),
        "retention_zone": ("prune", {**history, "retention": {"keep_last": 1, "timezone": "Mars/Base"}}),
        "relative_source": ("manifest", {"sources": ["tree"]}),
        "missing_source": ("snapshot", {**policy, "sources": ["/nonexistent-source"]}),
        "nested_sources": ("snapshot", {**policy, "sources": [tree, tree + "/folder"]}),
        "pattern": ("snapshot", {**policy, "exclude": ["[a-"]}),
        "policy_key": ("snapshot", {"policy": {**policy, "guards": {"min_file": 1}}}),
        "hook": ("snapshot", {"policy": {**policy, "hooks": {"before": [["sh", "-c", "echo no server; exit 1"]]}}}),
        "policy_type": ("snapshot", {"policy": {**policy, "one_file_system": "yes"}}),
        "policy_list": ("snapshot", {"policy": [policy]}),
        "policy_path": ("snapshot", {"policy": "policy.json"}),
        "policy_file": ("snapshot_info", {"policy": str(home / "none.json")}),
        "policy_json": ("restore", {"policy": str(home / "broken.json")}),
        "host": ("snapshot_info", {**history, "host": "web/1"}),
        "name": ("restore", {**history, "name": ".."}),
        "secret": ("snapshot", {**policy, "target": "ssh://backup:open-sesame@vault/"}),
        "secret_in_policy": ("snapshot", {"policy": {**policy, "target": {"url": "s3://key:open-sesame@bucket/"}}}),
        "target_kind": ("snapshot", {**policy, "target": "ssh://vault/"}),
        "not_a_vault": ("snapshot", {**policy, "name": "new", "target": tree + "/folder", "sources": [str(home / "policy.json")]}),
        "vault_in_source": ("snapshot", {**policy, "sources": [str(home)]}),
        "source_in_vault": ("snapshot", {**policy, "sources": [vault + "/web1"]}),
        "guard": ("snapshot", {"policy": {**policy, "name": "guarded", "guards": {"min_files": 1000}}}),
        "accept": ("snapshot", {"policy": {**policy, "name": "guarded", "guards": {"min_files": 1000}}, "accept": "00000000"}),
        "state": ("snapshot", {**policy, "state": "/proc/state"}),
        "locked": ("snapshot", {**policy, "name": "held"}),
        "slice": ("verify", {**history, "slice": "3/2"}),
        "snapshot": ("restore", {**history, "snapshot": "2001-01-01"}),
        "snapshot_word": ("verify", {**history, "snapshot": "oldest"}),
        "no_history": ("restore", {**history, "name": "nobody"}),
        "path": ("restore", {**history, "dest": str(home / "nowhere"), "paths": [tree + "/none"]}),
        "relative_dest": ("restore", {**history, "dest": "copy"}),
        "dest_in_vault": ("restore", {**history, "dest": vault + "/copy"}),
        "relative_state": ("snapshot", {**policy, "state": "state"}),
        "manifest_dest": ("manifest", {"sources": [tree], "dest": tree + "/manifest"}),
        "manifest_baseline": ("manifest", {"sources": [tree], "baseline": str(home / "broken.json")}),
    }


# The exit code, and the option or key that is to blame, of everything in ``bad_input``.
BLAME: Dict[str, Tuple[int, Any]] = {
    "unknown_option": (2, None),
    "missing_option": (2, None),
    "wrong_choice": (2, None),
    "wrong_type": (2, None),
    "two_ways": (2, None),
    "half_a_history": (2, None),
    "source_without_policy": (2, None),
    "no_rule": (2, "retention"),
    "retention_key": (2, "retention.keep_lasts"),
    "retention_count": (2, "retention.keep_last"),
    "retention_zone": (2, "retention.timezone"),
    "relative_source": (2, "sources[0]"),
    "missing_source": (4, "sources"),
    "nested_sources": (2, "sources[1]"),
    "pattern": (2, "exclude[0]"),
    "policy_key": (2, "guards.min_file"),
    "hook": (1, "hooks.before[0]"),
    "policy_type": (2, "one_file_system"),
    "policy_list": (2, "policy"),
    "policy_path": (2, "policy"),
    "policy_file": (2, "policy"),
    "policy_json": (2, "policy"),
    "host": (2, "host"),
    "name": (2, "name"),
    "secret": (2, "target"),
    "secret_in_policy": (2, "target.url"),
    "target_kind": (6, "target"),
    "not_a_vault": (6, "target"),
    "vault_in_source": (2, "sources[0]"),
    "source_in_vault": (2, "sources[0]"),
    "guard": (4, "guards.min_files"),
    "accept": (4, "accept"),
    "state": (1, "state"),
    "locked": (5, "lock"),
    "slice": (2, "slice"),
    "snapshot": (4, "snapshot"),
    "snapshot_word": (2, "snapshot"),
    "no_history": (4, "snapshot"),
    "path": (2, "paths"),
    "relative_dest": (2, "dest"),
    "dest_in_vault": (2, "dest"),
    "relative_state": (2, "state"),
    "manifest_dest": (2, "dest"),
    "manifest_baseline": (7, "baseline"),
}


class Told:
    """What the play registered, and what it printed."""

    def __init__(self, home: Path, story: Story, results: Dict[str, Result], output: str) -> None:
        self.home = home
        self.story = story
        self.results = results
        self.output = output

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def good(self) -> Iterator[Tuple[str, str, Result]]:
        """Name, module and result of everything that came to its end, be it with damage."""
        for name, module in self.story.modules.items():
            result = self.results[name]
            if not result.get("failed") or "duration" in result:
                yield name, module, result


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, ansible_playbook: Callable[..., "subprocess.CompletedProcess[str]"]) -> Told:
    home = tmp_path_factory.mktemp("modules")
    tree = home / "tree"
    (tree / "folder").mkdir(parents=True)
    for name in ("changed", "removed"):
        (tree / "folder" / name).write_bytes(b"before")
    (tree / "mode").write_bytes(b"mode")
    with contextlib.closing(sqlite3.connect(str(tree / "agent.db"))) as connection:
        connection.execute("CREATE TABLE t (id)")
    (tree / "link").symlink_to("mode")
    os.link(tree / "mode", tree / "folder" / "mode")
    (tree / "folder" / os.fsdecode(b"not utf-8 \xff\n")).write_bytes(b"name")
    (home / "policy.json").write_text(json.dumps({"name": "other", "sources": [str(tree / "folder")], "target": str(home / "vault")}))
    (home / "broken.json").write_text("{")
    (home / "crowd").mkdir()
    for number in range(30):
        (home / "crowd" / str(number)).write_bytes(b"one of many")
    story = Story()
    tell(story, home)
    (home / "play.json").write_text(json.dumps(story.play(home / "results.json")))
    held = home / "state" / "web1" / "held" / "lock"
    held.parent.mkdir(parents=True)
    with open(held, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = ansible_playbook(home, "-i", "localhost,", "-c", "local", "-e", "ansible_python_interpreter=" + sys.executable, "-vvv", "play.json")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return Told(home, story, json.loads((home / "results.json").read_text()), done.stdout + done.stderr)


def documentation(module: str) -> Dict[str, Any]:
    text = (ROOT / "plugins" / "modules" / (module + ".py")).read_text()
    match = re.search('^RETURN = r"""(.*?)^"""', text, re.M | re.S)
    assert match
    documented: Dict[str, Any] = yaml.safe_load(match.group(1))
    return documented


# ---- what is documented is what is returned --------------------------------------------------------------------------


def test_nothing_failed_that_should_not(told: Told) -> None:
    expected = {"in_place_unconfirmed", "verify_damaged_predicted", "verify_damaged", "restore_damaged", "crowd_verify", "restore_first"}
    expected |= {"drill_damaged", "crowd_drill", "replicate_damaged", "verify_copy", "repair_damaged"}
    failed = {name for name in told.story.modules if told[name].get("failed")}
    assert {name for name in failed if not name.startswith("bad_")} == expected
    assert {name[4:] for name in failed if name.startswith("bad_")} == set(BLAME)


def test_results_have_every_documented_key_and_no_other(told: Told) -> None:
    for name, module, result in told.good():
        documented = set(documentation(module)) - (set() if result.get("failed") else {"rc", "error"})
        assert set(result) - FOREIGN == documented, name


TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict, "raw": object}


def fits(value: Any, item: Dict[str, Any]) -> bool:
    """Is ``value`` what RETURN says? Null is allowed where the text says so."""
    if value is None:
        return "V(null)" in " ".join(item["description"])
    if not isinstance(value, TYPES[item["type"]]) or (isinstance(value, bool) and item["type"] in ("int", "float")):
        return False
    inner = item.get("contains")
    if inner is None:
        return True
    return all(set(entry) == set(inner) and all(fits(entry[key], inner[key]) for key in inner) for entry in (value if isinstance(value, list) else [value]))


def test_results_have_the_documented_types_down_to_the_last_key(told: Told) -> None:
    for name, module, result in told.good():
        documented = documentation(module)
        for key in set(result) - FOREIGN:
            assert fits(result[key], documented[key]), (name, key, result[key])


def test_every_documented_key_says_something_at_least_once(told: Told) -> None:
    silent = set()
    for module in sorted(set(told.story.modules.values())):
        values: Dict[str, List[Any]] = {key: [] for key in documentation(module)}
        for _name, of, result in told.good():
            if of == module:
                for key in values:
                    values[key].append(result.get(key))
        silent |= {(module, key) for key, found in values.items() if not any(found)}
    # Never changed; needs a tree that moves while it is read, or a database that is the same in other bytes.
    # A snapshot_info and a manifest cannot come to an end and fail.
    quiet = {
        ("snapshot", "stale"),
        ("snapshot", "unstable"),
        ("snapshot", "vanished"),
        ("restore", "would_capture"),
        ("snapshot_info", "changed"),
        ("verify", "changed"),
        ("drill", "changed"),
        *(("status_info", key) for key in ("changed", "pending", "restoring", "running", "truncated")),
        *((module, key) for module in ("manifest", "snapshot", "snapshot_info", "status_info", "prune") for key in ("rc", "error")),
        ("snapshot_info", "duration"),  # rounds to nothing
        # Need a bucket, a key, a copy that was pruned, and damage that an older snapshot makes up for.
        ("snapshot", "requests"),
        ("status_info", "immutable"),
        ("status_info", "old_prefixes"),
        ("status_info", "rolling"),  # these two are the command line's
        ("verify", "older"),
        ("status_info", "keys"),
        ("verify", "requests"),
        ("prune", "requests"),
        ("prune", "repacked"),
        ("replicate", "pruned"),
        ("drill", "loss"),
        ("snapshot", "anomaly"),  # these two need files that are encrypted in numbers
        ("status_info", "anomalies"),
    }
    assert silent <= quiet


# ---- predicted, done, predicted again, done again --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, changed",
    [
        ("manifest", True),
        ("first", True),
        ("second", True),
        ("tagged", True),
        ("restore", True),
        ("in_place", True),
        ("list", False),
        ("prune", True),
        ("replicate", True),
        ("repair", True),
    ],
)
def test_a_change_is_predicted_and_made_once(told: Told, name: str, changed: bool) -> None:
    assert [told[name + step]["changed"] for step in ("_predicted", "", "_predicted_again", "_again")] == [changed, changed, False, False]


@pytest.mark.parametrize("name", ["manifest", "first", "second", "tagged", "restore", "in_place", "list", "verify", "prune", "replicate", "repair"])
def test_a_prediction_comes_true(told: Told, name: str) -> None:
    # The digest holds the times of directories above the tree, in which others work; what is only known afterwards is left out too.
    later = {"digest", "content_digest", "duration", "receipt", "bytes_wire", "kept", "verified", "captured", "would_capture", *FOREIGN}
    later |= {"snapshot_id"} if name in ("first", "second") else set()
    predicted = {key: value for key, value in told[name + "_predicted"].items() if key not in later}
    assert predicted == {key: told[name][key] for key in predicted}
    assert told[name + "_predicted"].get("diff") == told[name].get("diff")


@pytest.mark.parametrize("name", ["manifest", "first", "restore", "replicate"])
def test_a_prediction_writes_nothing(told: Told, name: str) -> None:
    assert told[name + "_look"]["stat"] == {"exists": False}


def test_a_database_is_captured_and_in_check_mode_counted(told: Told) -> None:
    counts = [[told[name][key] for key in ("would_capture", "captured")] for name in ("first_predicted", "first", "second_predicted")]
    assert counts == [[1, 0], [0, 1], [0, 0]]
    assert told["first_predicted"]["digest"] == told["first_predicted"]["content_digest"] == ""


def test_a_predicted_snapshot_has_no_id(told: Told) -> None:
    assert told["first_predicted"]["snapshot_id"] is None and told["first_predicted"]["receipt"] is None
    assert told["second_predicted_again"]["snapshot_id"] == told["second"]["snapshot_id"]


# ---- the modules, one by one -----------------------------------------------------------------------------------------


def test_a_manifest_is_kept_for_its_owner_alone_and_compared(told: Told) -> None:
    kept = told.home / "kept.manifest"
    assert told["manifest"]["dest"] == str(kept) and stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert told["manifest"]["compared_with"] is None and told["manifest_again"]["compared_with"] == str(kept)
    compared = told["manifest_compared"]
    # The chmod moves both names of its hard-link group.
    assert [compared[key] for key in ("added", "modified", "metadata", "removed")] == [1, 1, 2, 1]


def test_a_selection_leaves_out_what_it_names(told: Told) -> None:
    everything, selected = told["manifest"], told["manifest_selected"]
    assert everything["entries"] - selected["entries"] == 5
    assert (everything["files"], selected["files"], everything["bytes"], selected["bytes"]) == (6, 2, 8212, 8196)


def test_a_snapshot_counts_what_it_sent(told: Told) -> None:
    first, second = told["first"], told["second"]
    assert (first["files_sent"], first["bytes_sent"], first["unchanged"]) == (5, 8212, 0)
    assert [second[key] for key in ("added", "modified", "metadata", "removed", "files_sent")] == [1, 1, 2, 1, 2]
    assert second["unchanged"] == second["entries"] - 4
    assert second["bytes_sent"] == len(b"new" + b"after") and second["bytes_wire"] >= second["bytes_sent"]


def test_a_receipt_is_that_of_its_snapshot(told: Told) -> None:
    first, second = told["first"]["receipt"], told["second"]["receipt"]
    assert (first["sequence"], first["parent"], second["sequence"], second["parent"]) == (1, None, 2, first["id"])
    for result in (told["first"], told["second"], told["second_again"]):
        assert (result["receipt"]["id"], result["receipt"]["digest"]) == (result["snapshot_id"], result["digest"])
    assert told["second_again"]["receipt"] == second


def test_a_policy_may_be_a_file(told: Told) -> None:
    assert told["other_policy"]["receipt"]["policy"] == "other"


def test_a_key_that_was_set_in_vain_is_told_of(told: Told) -> None:
    assert ["transfer.sockopts" in text for text in told["warned"]["warnings"]] == [True]
    assert not told["warned"]["changed"] and not told["second"].get("warnings")


def test_hooks_run_and_say_how_they_ended(told: Told) -> None:
    planned, ran = told["hooked_predicted"]["hooks"], told["hooked"]["hooks"]
    assert [(hook["event"], hook["command"], hook["rc"]) for hook in planned] == [("before", "true", None), ("after", "sh", None)]
    assert [(hook["event"], hook["command"], hook["rc"], hook["output_tail"]) for hook in ran] == [("before", "true", 0, []), ("after", "sh", 5, ["busy"])]
    assert "hooks.after[0] (sh) failed, exit code 5: busy" in str(told["hooked"]["warnings"]) and not told["hooked_predicted"].get("warnings")
    failed = told["bad_hook"]
    assert failed["error"]["kind"] == "hook" and [hook["output_tail"] for hook in failed["hooks"]] == [["no server"]]


def test_a_history_lists_its_snapshots_newest_first(told: Told) -> None:
    found = told["list"]["snapshots"]
    assert [item["id"] for item in found] == [told["second"]["snapshot_id"], told["first"]["snapshot_id"]]
    assert [item["sequence"] for item in found] == [2, 1]
    assert [(item["entries"], item["bytes"]) for item in found] == [(told[name]["entries"], told[name]["bytes"]) for name in ("second", "first")]
    assert told["list_policy"]["snapshots"] == found
    assert (told["list"]["count"], told["list"]["bytes"]) == (2, found[0]["bytes"])
    assert (told["list_nothing"]["snapshots"], told["list_nothing"]["count"]) == ([], 0)


def test_a_verification_is_remembered_unless_it_was_a_rehearsal(told: Told) -> None:
    assert [told[name]["snapshots"][0]["verified"] for name in ("list", "list_unverified")] == [None, None]
    assert told["list_verified"]["snapshots"][0]["verified"]["depth"] == "full"
    assert told["list_verified"]["snapshots"][1]["verified"] is None


def test_a_verification_reads_what_it_says(told: Told) -> None:
    full, quick, part, rest = told["verify"], told["verify_quick"], told["verify_slice"], told["verify_other_slice"]
    assert full["ok"] and full["checked"] == told["second"]["entries"] and full["snapshot_id"] == told["second"]["snapshot_id"]
    assert (full["hashed_bytes"], quick["hashed_bytes"]) == (told["second"]["bytes"], 0)
    assert (part["slice"], full["slice"], quick["depth"]) == ("1/2", None, "quick")
    assert part["hashed_files"] + rest["hashed_files"] == full["hashed_files"]
    assert told["verify_source"]["ok"] and told["verify_source"]["snapshot_id"] is None and told["verify_source"]["hashed_files"] == full["hashed_files"]


def test_a_drill_proves_measures_and_leaves_nothing_but_what_is_to_be_kept(told: Told) -> None:
    predicted, done, kept = told["drill_predicted"], told["drill"], told["drill_kept"]
    assert (predicted["verdict"], predicted["scratch"], predicted["counts"]["skipped"]) == (None, None, len(predicted["checks"]))
    assert (done["verdict"], done["scratch"], done["counts"]) == ("passed", None, {"passed": len(done["checks"]), "failed": 0, "skipped": 0})
    assert done["objectives"] == {"rto": 3600, "rpo": 3600, "drill_every": 86400} and 0 < done["rto"] <= done["duration"]
    assert (done["snapshot_id"], done["digest"]) == (told["second"]["snapshot_id"], told["second"]["digest"])
    assert Path(kept["scratch"] + str(told.home / "tree" / "new")).read_bytes() == b"new"
    assert [path.parent for path in told.home.glob("**/openclaw-backup-drill-*")] == [told.home]


def test_a_drill_of_a_damaged_snapshot_fails_and_names_the_path(told: Told) -> None:
    result = told["drill_damaged"]
    path = str(told.home / "tree" / "folder" / "changed")
    assert (result["rc"], result["verdict"], result["sample"]) == (7, "failed", [{"path": path, "change": "missing"}])
    assert path in result["msg"] and result["error"]["next"]


def test_a_restore_elsewhere_is_a_copy(told: Told) -> None:
    copy = told.home / "copy" / str(told.home).strip("/") / "tree"
    assert (copy / "folder" / "changed").read_bytes() == b"after"
    assert os.readlink(copy / "link") == "mode" and (copy / "mode").stat().st_ino == (copy / "folder" / "mode").stat().st_ino
    result = told["restore"]
    assert result["verified"] and (result["dest"], result["bytes_restored"]) == (str(told.home / "copy"), told["second"]["bytes"])


def test_one_path_of_an_older_snapshot_comes_back_alone(told: Told) -> None:
    copy = told.home / "path" / str(told.home).strip("/") / "tree"
    assert sorted(path.name for path in copy.iterdir()) == ["folder"]
    assert (copy / "folder" / "removed").read_bytes() == b"before"
    assert told["restore_path"]["snapshot_id"] == told["first"]["snapshot_id"]


def test_data_in_its_place_is_not_replaced_unasked(told: Told) -> None:
    assert (told["in_place_unconfirmed"]["rc"], told["in_place_unconfirmed"]["error"]["kind"]) == (4, "confirm")


def test_a_restore_in_place_counts_what_it_did_and_keeps_the_rest(told: Told) -> None:
    result = told["in_place"]
    assert [result[key] for key in ("files_restored", "files_replaced", "files_removed", "kept")] == [2, 1, 1, 2]
    undo = told.home / "undo" / str(told.home).strip("/") / "tree"
    assert ((undo / "extra").read_bytes(), (undo / "folder" / "changed").read_bytes()) == (b"extra", b"spoilt")
    assert result["verified"] and not told["in_place_confirmed"]["verified"]
    assert (told["in_place_confirmed"]["files_removed"], told["in_place_deleted"]["files_removed"]) == (0, 1)
    assert not (told.home / "tree" / "extra").exists()


# ---- damage ------------------------------------------------------------------------------------------------------------


def test_a_damaged_byte_is_found_and_named(told: Told) -> None:
    path = str(told.home / "tree" / "folder" / "changed")
    for name in ("verify_damaged_predicted", "verify_damaged"):
        result = told[name]
        assert (result["rc"], result["ok"], result["error"]["kind"]) == (7, False, "integrity")
        assert result["damaged"] == [{"path": path, "reason": "hash"}] and result["counts"] == {"damaged": 1, "missing": 0, "extra": 0}
        assert path in result["msg"] and told["second"]["snapshot_id"] in result["msg"]
    assert told["list_not_yet_damaged"]["snapshots"][0]["damaged"] is None
    damaged = told["list_damaged"]["snapshots"][0]["damaged"]
    assert (damaged["count"], damaged["paths"]) == (1, [path])
    assert told["list_damaged"]["sample"] == [{"path": path, "change": "damaged"}]
    assert told["list_damaged"]["snapshots"][0]["verified"] is None


def test_a_damaged_file_is_not_restored_and_all_others_are(told: Told) -> None:
    result = told["restore_damaged"]
    assert (result["rc"], result["verified"], result["files_damaged"]) == (7, False, 1)
    assert result["damaged"] == [str(told.home / "tree" / "folder" / "changed")]
    assert result["bytes_restored"] == told["second"]["bytes"] - len(b"after")
    copy = told.home / "damaged" / str(told.home).strip("/") / "tree"
    assert not (copy / "folder" / "changed").exists() and (copy / "new").read_bytes() == b"new"


def test_long_lists_are_cut_and_their_counts_are_not(told: Told) -> None:
    for name in ("crowd_manifest", "crowd", "crowd_restore", "crowd_verify", "crowd_list", "crowd_drill"):
        assert (len(told[name]["sample"]), told[name]["truncated"]) == (20, True), name
        assert told[name]["diff"]["after"].splitlines()[-1] == "… and more", name
    assert (told["crowd"]["files_sent"], told["crowd_restore"]["files_restored"]) == (30, 30)
    verified = told["crowd_verify"]
    assert (len(verified["missing"]), verified["counts"]["missing"]) == (30, 30)
    assert verified["extra"] == [str(told.home / "crowd" / "foreign")]
    assert len(told["crowd_list"]["snapshots"][0]["damaged"]["paths"]) == 20


# ---- a history that this host does not know --------------------------------------------------------------------------


def test_the_state_of_things_is_told_and_fails_nothing(told: Told) -> None:
    status = told["status"]
    assert (status["ok"], status["problems"], status["rpo"], status["snapshots"]) == (True, [], 86400, 2)
    assert status["newest"]["id"] == status["baseline"] == told["second"]["snapshot_id"]
    assert told["status_nothing"]["problems"] == ["there is no snapshot yet"]
    damaged = told["status_damaged"]
    assert not damaged["ok"] and "the newest snapshot is damaged" in damaged["problems"]
    assert damaged["sample"] == told["list_damaged"]["sample"]


def test_a_host_without_memory_restores_first_or_adopts(told: Told) -> None:
    refused, adopted = told["restore_first"], told["adopt"]
    assert (refused["rc"], refused["error"]["kind"]) == (4, "restore_first")
    assert adopted["receipt"]["sequence"] >= 2


# ---- differences -------------------------------------------------------------------------------------------------------


def test_the_difference_of_a_snapshot_shows_its_changes(told: Told) -> None:
    tree = told.home / "tree"
    diff = told["second"]["diff"]
    assert diff["before"].splitlines() == [
        "%s/folder/removed" % tree,
        "%s/folder/changed (old content)" % tree,
        "%s/folder/mode (old metadata)" % tree,
        "%s/mode (old metadata)" % tree,
    ]
    assert diff["after"].splitlines() == [
        "%s/folder/changed (new content)" % tree,
        "%s/new" % tree,
        "%s/folder/mode (new metadata)" % tree,
        "%s/mode (new metadata)" % tree,
    ]
    assert diff["before_header"] == "%s, web1/tree" % (told.home / "vault") and diff["after_header"] == "sources"


def test_the_difference_of_a_restore_shows_its_changes(told: Told) -> None:
    tree = told.home / "tree"
    diff = told["in_place"]["diff"]
    assert diff["before"].splitlines()[:2] == ["%s/folder/changed (old content)" % tree, "%s/extra" % tree]
    assert diff["after"].splitlines()[:2] == ["%s/folder/changed (content of the snapshot)" % tree, "%s/new" % tree]
    assert diff["after_header"] == "snapshot " + told["second"]["snapshot_id"]


def test_every_module_has_a_difference_and_it_is_empty_where_nothing_changed(told: Told) -> None:
    for name, _module, result in told.good():
        assert {"before", "after", "before_header", "after_header"} == set(result["diff"]), name
    for name in ("manifest_again", "first_again", "second_again", "list", "status", "verify", "restore_again", "in_place_again"):
        assert told[name]["diff"]["before"] == told[name]["diff"]["after"] == "", name
    assert told["verify_damaged"]["diff"]["after"] == "%s/tree/folder/changed (damaged)\n" % told.home


def test_names_that_are_not_text_can_be_shown(told: Told) -> None:
    path = "%s/tree/folder/not utf-8 \\xff\\n" % told.home
    assert {"path": path, "change": "added"} in told["first"]["sample"]
    assert path + "\n" in told["first"]["diff"]["after"]


# ---- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BLAME))
def test_bad_input_fails_with_a_code_the_culprit_and_a_way_out(told: Told, name: str) -> None:
    result = told["bad_" + name]
    assert (result["rc"], result["error"]["field"]) == BLAME[name], result["msg"]
    assert set(result["error"]) == {"kind", "field", "found", "allowed", "next"}
    assert result["error"]["kind"] and (result["error"]["next"] or result["error"]["allowed"])
    assert set(result) - FOREIGN == {"changed", "rc", "error", *(["hooks"] if name == "hook" else [])} and not result["changed"]
    assert "Traceback" not in result["msg"] and "\\udc" not in json.dumps(result)


def test_no_secret_is_repeated(told: Told) -> None:
    for name in ("secret", "secret_in_policy"):
        assert "open-sesame" not in json.dumps(told["bad_" + name])


def test_bad_input_leaves_tree_and_vault_alone(told: Told) -> None:
    assert not (told.home / "nowhere").exists() and not (told.home / "tree" / "manifest").exists() and not (told.home / "vault" / "copy").exists()
    assert sorted(path.name for path in (told.home / "vault" / "web1").iterdir()) == ["crowd", "many", "tree"]
