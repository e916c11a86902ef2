# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/policy.md lists every key, and tells the truth about its default and about what acts."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Tuple

from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import NEVER, REMOTE_ONLY, RSYNC_ONLY, Hook, Policy
from ansible_collections.openclaw.backup.plugins.module_utils.policy.probes import Probe
from ansible_collections.openclaw.backup.plugins.module_utils.policy.target_spec import TargetSpec

PAGE = Path(__file__).resolve().parents[3] / "docs" / "policy.md"
LEAST = {"name": "n", "sources": ["/a"], "target": "/v"}


class Row(NamedTuple):
    key: str
    type: str
    default: str
    now: str
    meaning: str


def rows() -> Iterator[Row]:
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == len(Row._fields) and cells[3] in ("yes", "network", "rsync", "never"):
            yield Row(cells[0].strip("`"), *cells[1:])


def keys(cls: Any) -> Iterator[Tuple[str, Any]]:
    """The keys of a dataclass and their defaults as plain data; "required" where there is none."""
    for field in dataclasses.fields(cls):
        if "check" in field.metadata:
            yield field.name, "required" if field.default is dataclasses.MISSING else field.metadata["write"](field.default)


def defaults() -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for name, default in keys(Policy):
        if isinstance(default, dict):
            found.update(("%s.%s" % (name, inner), value) for inner, value in default.items())
        else:
            found[name] = default
    found.update(("target." + name, default) for name, default in keys(TargetSpec))
    found.update(("hooks.before[]." + name, default) for name, default in keys(Hook))
    found.update(("probes[]." + name, default) for name, default in keys(Probe))
    return found


def test_the_page_lists_every_key_once_and_in_order() -> None:
    assert [row.key for row in rows()] == list(defaults())


def test_the_page_shows_the_defaults_that_a_policy_has() -> None:
    shown = {row.key: row.default for row in rows()}
    assert shown.pop("host") == "node name"
    for name, value in defaults().items():
        if name != "host":
            assert shown[name] == ("required" if value == "required" else "`%s`" % json.dumps(value)), name


def test_a_policy_that_gives_no_key_has_the_defaults_of_the_page() -> None:
    mapping = Policy.from_mapping(LEAST, default_host="h").to_mapping()
    for row in rows():
        section, _, name = row.key.partition(".")
        if row.default.startswith("`") and "[]" not in row.key:
            value = mapping[section][name] if name else mapping[section]
            assert value == json.loads(row.default.strip("`")), row.key


def test_the_page_admits_what_does_not_always_act() -> None:
    assert {row.key for row in rows() if row.now == "network"} == set(REMOTE_ONLY)
    assert {row.key for row in rows() if row.now == "rsync"} == set(RSYNC_ONLY)
    assert {row.key for row in rows() if row.now == "never"} == set(NEVER)


def test_every_key_has_a_type_and_a_meaning() -> None:
    for row in rows():
        assert row.type and row.meaning.endswith((".", "!")), row.key


def test_the_example_of_the_page_is_a_policy() -> None:
    match = re.search("```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match
    assert Policy.from_mapping(json.loads(match.group(1)), default_host="h").name
