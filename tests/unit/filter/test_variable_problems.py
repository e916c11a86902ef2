# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slip of the pen must not turn the restore of one path into the restore of everything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.openclaw.backup.plugins.filter.variable_problems import variable_problems

ROOT = Path(__file__).resolve().parents[3]


def test_every_variable_that_is_documented_or_used_is_known() -> None:
    pages = [ROOT / "docs" / "playbooks.md", *ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("inventories/**/*.yml"), *ROOT.glob("molecule/**/*.yml")]
    names = {name for page in pages for name in re.findall(r"\bopenclaw_backup_[a-z_]+", page.read_text())}
    assert len(names) > 15
    assert variable_problems(names) == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("path", "paths"), ("snapshots", "snapshot"), ("destination", None), ("policys", "policy"), ("undo_dir", None), ("from_hosts", "from_host")],
)
def test_a_name_that_is_nearly_right_is_told_and_any_other_is_somebodys_own(wrong: str, right: "str | None") -> None:
    found = variable_problems(["openclaw_backup_" + wrong, wrong, "openclaw_backup_dest", "__openclaw_backup_" + wrong])
    expected = "openclaw_backup_%s is not a variable of the playbooks. Next: did you mean openclaw_backup_%s?" % (wrong, right)
    assert found == ([expected] if right else [])


@pytest.mark.parametrize(("wrong", "right"), [("vault_notfy", "vault_notify"), ("vault_verfy_slices", "vault_verify_slices"), ("vault_of_mine", None)])
def test_a_slip_in_the_variables_of_a_vault_is_told_with_the_vault(wrong: str, right: "str | None") -> None:
    found = variable_problems({"openclaw_backup_" + wrong: 1, "openclaw_backup_vault_port": 22}, "vault1")
    expected = "vault1: openclaw_backup_%s is not a variable of the playbooks. Next: did you mean openclaw_backup_%s?" % (wrong, right)
    assert found == ([expected] if right else [])
