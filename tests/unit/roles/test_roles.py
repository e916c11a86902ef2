# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role says the same in its argument specs, its defaults and its README, and begins so that the rest is quick."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml

ROLES = sorted((Path(__file__).resolve().parents[3] / "roles").iterdir())

pytestmark = pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])


def options(role: Path) -> Dict[str, Any]:
    specs: Dict[str, Any] = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    return {name: option for entry in specs.values() for name, option in entry["options"].items()}


def defaults(role: Path) -> Dict[str, Any]:
    found: Dict[str, Any] = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    return found


def markdown(text: str) -> str:
    return re.sub(r"\b[VOC]\((.*?)\)", r"`\1`", text)


def table(role: Path) -> List[str]:
    """The rows of the README's table that the argument specs make."""
    rows = []
    for name, option in options(role).items():
        kind = option["type"] + (" of " + option["elements"] if "elements" in option else "")
        if "choices" in option:
            kind = " or ".join("`%s`" % choice for choice in option["choices"])
        default = option["default"] if isinstance(option["default"], str) else json.dumps(option["default"])
        rows.append("| `%s` | %s | `%s` | %s |" % (name, kind, default.replace("|", "\\|"), markdown(" ".join(option["description"]))))
    return rows


def test_a_default_is_what_the_argument_specs_promise(role: Path) -> None:
    assert {name: option["default"] for name, option in options(role).items()} == defaults(role)


def test_public_variables_bear_the_prefix_of_the_collection(role: Path) -> None:
    assert [name for name in options(role) if not name.startswith("openclaw_backup_")] == []


def test_internal_variables_bear_the_prefix_of_their_role(role: Path) -> None:
    text = "".join(path.read_text() for path in role.glob("*/*.yml"))
    assert [name for name in re.findall(r"\b__\w+", text) if not name.startswith("__openclaw_backup_%s_" % role.name)] == []


def test_the_readme_describes_every_variable_as_the_argument_specs_do(role: Path) -> None:
    shown = [line for line in (role / "README.md").read_text().splitlines() if line.startswith("| `openclaw_backup_")]
    assert shown == table(role), "the table must be:\n" + "\n".join(table(role))


def test_every_variable_that_a_task_uses_is_described(role: Path) -> None:
    text = "".join(path.read_text() for path in role.glob("*/*.yml"))
    assert set(re.findall(r"(?<![_.])\bopenclaw_backup_\w+", text)) == set(options(role))


def test_the_examples_of_the_readme_are_yaml(role: Path) -> None:
    for example in re.findall(r"^```yaml\n(.*?)^```$", (role / "README.md").read_text(), re.M | re.S):
        assert yaml.safe_load(example)


def test_the_first_name_loads_the_filters_of_the_collection(role: Path) -> None:
    """Ansible makes names in the process that those of all tasks come from: what is loaded there is loaded once."""
    first = yaml.safe_load((role / "tasks" / "preflight.yml").read_text())[0]
    assert "| openclaw.backup." in first["name"]
