# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `ansible-doc` and docs/playbooks.md say is what the modules and playbooks take and give."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))

# The contract: others rely on these.
MAIN = {
    "manifest": (
        "sources include exclude baseline dest",
        "changed digest content_digest entries bytes added modified removed",
    ),
    "snapshot": (
        "policy name sources target host adopt accept",
        "changed snapshot_id digest files_sent bytes_sent bytes_wire unchanged receipt",
    ),
    "snapshot_info": ("target host name", "snapshots"),
    "restore": (
        "target host name snapshot paths dest delete undo verify confirm",
        "changed files_restored bytes_restored files_removed verified",
    ),
    "verify": ("target host name snapshot depth slice source", "ok checked damaged missing extra"),
    "prune": ("target host name retention", "changed kept removed"),
    "drill": ("target host name snapshot scratch keep", "ok verdict checks rto rpo state_as_of snapshot_id digest"),
}


@pytest.fixture(scope="module")
def pages() -> Dict[str, Dict[str, Any]]:
    """What ansible-doc knows of every module: ``doc``, ``examples``, ``return``."""
    command = [sys.executable, "-m", "ansible", "doc", "-t", "module", "--json", *("openclaw.backup." + name for name in MODULES)]
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: Dict[str, Dict[str, Any]] = json.loads(done.stdout)
    return {name.rpartition(".")[2]: page for name, page in found.items()}


class Called(Exception):
    """A module came as far as making its AnsibleModule."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Dict[str, Dict[str, Any]]:
    """What every module gives to AnsibleModule."""

    def catch(_self: AnsibleModule, **arguments: Any) -> None:
        raise Called(arguments)

    monkeypatch.setattr(AnsibleModule, "__init__", catch)
    found = {}
    for name in MODULES:
        module = importlib.import_module("ansible_collections.openclaw.backup.plugins.modules." + name)
        with pytest.raises(Called) as caught:
            module.main()
        found[name] = caught.value.args[0]
    return found


def test_the_modules_are_those_of_the_contract(pages: Dict[str, Dict[str, Any]]) -> None:
    assert set(MAIN) <= set(MODULES) == set(pages)


@pytest.mark.parametrize("name", MODULES)
def test_the_options_shown_are_the_options_taken(name: str, pages: Dict[str, Dict[str, Any]], calls: Dict[str, Dict[str, Any]]) -> None:
    facts = ("type", "default", "required", "choices", "elements")
    shown = {option: {fact: item.get(fact) or None for fact in facts} for option, item in pages[name]["doc"]["options"].items()}
    taken = {option: {fact: item.get(fact) or None for fact in facts} for option, item in calls[name]["argument_spec"].items()}
    assert shown == taken


@pytest.mark.parametrize("name", MODULES)
def test_check_mode_and_diff_mode_are_promised_and_supported(name: str, pages: Dict[str, Dict[str, Any]], calls: Dict[str, Dict[str, Any]]) -> None:
    attributes = pages[name]["doc"]["attributes"]
    assert attributes["check_mode"]["support"] == attributes["diff_mode"]["support"] == "full"
    assert calls[name]["supports_check_mode"] is True


@pytest.mark.parametrize("name", MODULES)
def test_no_rule_speaks_of_an_option_that_does_not_exist(name: str, calls: Dict[str, Dict[str, Any]]) -> None:
    call = calls[name]
    named = {option for rule in ("mutually_exclusive", "required_one_of", "required_together") for group in call.get(rule, ()) for option in group}
    named |= {option for first, _value, others in call.get("required_if", ()) for option in (first, *others)}
    assert named <= set(call["argument_spec"])


@pytest.mark.parametrize("name", sorted(MAIN))
def test_the_stable_names_are_documented(name: str, pages: Dict[str, Dict[str, Any]]) -> None:
    options, results = MAIN[name]
    assert set(options.split()) <= set(pages[name]["doc"]["options"])
    assert {*results.split(), "changed", "duration", "sample", "truncated", "rc", "error"} <= set(pages[name]["return"])


def items(page: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    """Everything that a page describes."""

    def inner(found: Dict[str, Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
        for item in found.values():
            yield item
            yield from inner(item.get("contains") or item.get("suboptions") or {})

    yield page["doc"]
    yield from inner(page["doc"]["options"])
    yield from inner(page["return"])


@pytest.mark.parametrize("name", MODULES)
def test_descriptions_are_lists_of_sentences(name: str, pages: Dict[str, Dict[str, Any]]) -> None:
    lines = [line for item in items(pages[name]) for line in item["description"]]
    assert [line for line in lines if not re.match("[A-Z]", line) or not line.endswith(".")] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_result_tells_its_type_and_when_it_is_returned_and_shows_a_sample(name: str, pages: Dict[str, Dict[str, Any]]) -> None:
    for key, item in pages[name]["return"].items():
        assert {"description", "returned", "type", "sample"} <= set(item), key
        assert ("elements" in item) == (item["type"] == "list"), key
        for inner, found in (item.get("contains") or {}).items():
            assert {"description", "returned", "type"} <= set(found), (key, inner)
            for sample in item["sample"] if item["type"] == "list" else [item["sample"]]:
                assert inner in sample, (key, inner)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_are_tasks_that_the_module_takes(name: str, pages: Dict[str, Dict[str, Any]]) -> None:
    tasks: List[Dict[str, Any]] = yaml.safe_load(pages[name]["examples"])
    own = [task["openclaw.backup." + name] for task in tasks if "openclaw.backup." + name in task]
    assert own and all(task["name"] for task in tasks)
    assert {option for arguments in own for option in arguments} <= set(pages[name]["doc"]["options"])


# ---- playbooks -----------------------------------------------------------------------------------------------------


def variables_of(playbook: str) -> "set[str]":
    """The public variables that a playbook reads."""
    text = "".join((ROOT / "playbooks" / path).read_text() for path in (playbook + ".yml", "tasks/check_policies.yml"))
    return set(re.findall(r"(?<![\w'])openclaw_backup_\w+", text)) - {"openclaw_backup_grant_hosts"}  # it is given to a role


def rows(columns: int) -> Iterator[List[str]]:
    for line in (ROOT / "docs" / "playbooks.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `openclaw_backup_") and len(cells) == columns:
            yield cells


def test_the_page_lists_the_variables_of_every_playbook() -> None:
    listed: Dict[str, "set[str]"] = {playbook: set() for playbook in PLAYBOOKS}
    for variable, playbooks, _default, meaning in rows(4):
        assert meaning.endswith((".", "?"))
        for playbook in PLAYBOOKS if playbooks == "all" else playbooks.replace("`", "").split(", "):
            listed[playbook].add(variable.strip("`"))
    assert listed == {playbook: variables_of(playbook) for playbook in PLAYBOOKS}


def test_the_page_lists_the_variables_of_the_local_inventory() -> None:
    text = (ROOT / "inventories" / "local" / "group_vars" / "all.yml").read_text()
    assert {row[0].strip("`") for row in rows(2)} == set(re.findall(r"\{\{ (openclaw_backup_\w+)", text))
