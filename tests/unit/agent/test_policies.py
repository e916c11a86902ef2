# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""POLICY is found where it is looked for, and root trusts no policy that others can write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent import policies
from ansible_collections.openclaw.backup.plugins.module_utils.agent.ownership import refuse_foreign_writers
from ansible_collections.openclaw.backup.plugins.module_utils.agent.policies import load_policy
from ansible_collections.openclaw.backup.plugins.module_utils.errors import PolicyError, UsageError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to mistrust others")
TEXT = json.dumps({"name": "web", "host": "web1", "sources": ["/srv/www"], "target": "/srv/vault"})


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "policies"
    made.mkdir(mode=0o755)
    (made / "web.json").write_text(TEXT)
    (made / "mail.json").write_text("[]")
    (made / "notes.txt").write_text("")
    monkeypatch.setattr(policies, "DIRECTORY", str(made))
    monkeypatch.chdir(tmp_path)
    return made


def refused(call: Any, *arguments: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return caught.value


def test_a_name_is_a_file_of_the_policies_directory(directory: Path) -> None:
    assert load_policy("web").host == "web1"


@pytest.mark.parametrize("word", ["./other.json", "other.json", "./other", "{tmp}/other"])
def test_what_holds_a_slash_or_ends_in_json_is_a_path(directory: Path, tmp_path: Path, word: str) -> None:
    (tmp_path / "other.json").write_text(TEXT)
    (tmp_path / "other").write_text(TEXT)
    (directory / "other.json").write_text("not this one")
    assert load_policy(word.replace("{tmp}", str(tmp_path))).name == "web"


def test_a_policy_without_a_host_is_this_machines(directory: Path) -> None:
    (directory / "web.json").write_text(TEXT.replace('"host": "web1", ', ""))
    assert os.uname().nodename.startswith(load_policy("web").host)


def test_a_missing_name_says_which_there_are(directory: Path) -> None:
    error = refused(load_policy, "wbe")
    assert (error.rc, error.kind, error.field) == (2, "policy", "policy")
    assert error.message == "There is no policy wbe: %s/wbe.json does not exist" % directory
    assert error.allowed == "mail, web, or the path of a JSON file"


def test_where_there_are_no_policies_at_all_the_directory_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "DIRECTORY", "/nowhere")
    assert refused(load_policy, "web").allowed == "a name in /nowhere, or the path of a JSON file"
    assert refused(load_policy, "").rc == 2


def test_a_policy_that_is_wrong_is_a_policy_error(directory: Path) -> None:
    assert isinstance(refused(load_policy, "mail"), PolicyError)
    assert isinstance(refused(load_policy, "./policies"), PolicyError)


@AS_ROOT
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_root_refuses_a_policy_that_others_can_write(directory: Path, mode: int) -> None:
    (directory / "web.json").chmod(mode)
    error = refused(load_policy, "web")
    assert (error.rc, error.kind, error.field) == (2, "policy_permissions", "policy")
    assert error.found == "owner 0, mode %04o" % mode
    assert "chmod go-w %s/web.json" % directory in str(error.next)


@AS_ROOT
def test_root_refuses_a_policy_of_another_user(directory: Path) -> None:
    os.chown(directory / "web.json", 65534, 65534)
    assert refused(load_policy, "web").kind == "policy_permissions"


@AS_ROOT
def test_root_refuses_a_policy_that_others_can_replace(directory: Path) -> None:
    directory.chmod(0o777)
    assert refused(load_policy, "web").message.startswith("%s can be changed" % directory)
    directory.chmod(0o1777)  # like /tmp: others can add files, but not replace this one
    assert load_policy("web").name == "web"


@AS_ROOT
def test_root_looks_at_both_ends_of_a_symbolic_link(directory: Path, tmp_path: Path) -> None:
    open_house = tmp_path / "open"
    open_house.mkdir()
    open_house.chmod(0o777)
    (open_house / "link.json").symlink_to(directory / "web.json")
    assert refused(load_policy, str(open_house / "link.json")).kind == "policy_permissions"
    (open_house / "real.json").write_text(TEXT)
    (directory / "link.json").symlink_to(open_house / "real.json")
    assert refused(load_policy, "link").kind == "policy_permissions"


def test_what_is_not_there_is_left_to_the_reader(tmp_path: Path) -> None:
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "gone")
    if os.geteuid() == 0:
        refuse_foreign_writers(str(dangling))
    assert "there is no policy file" in refused(load_policy, str(dangling)).message
