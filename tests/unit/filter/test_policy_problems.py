# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies are checked on the controller as on the host, whatever types Ansible wraps around them."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.openclaw.backup.plugins.filter.policy_problems import policy_problems
from ansible_collections.openclaw.backup.plugins.filter.profile_problems import profile_problems

GOOD = {"name": "web", "sources": ["/srv/www"], "target": {"url": "/srv/vault"}, "guards": {"min_files": 3}, "one_file_system": True, "profile": None}


class Text(str):
    """As Ansible tags text."""


class Number(int):
    """As Ansible tags numbers."""


class Lazy(Dict[str, Any]):
    """As Ansible hands over mappings: templates in them are resolved by who reads a key."""

    def __getitem__(self, key: str) -> Any:
        return {"sources": ["/srv/www"], "guards": Lazy(min_files="{{ 1 + 2 }}"), "min_files": Number(3)}.get(key, super().get(key))


def test_good_policies_have_no_problems() -> None:
    assert policy_problems([GOOD, {**GOOD, "name": "other"}], "web1") == []
    assert policy_problems([], "web1") == []


def test_the_types_of_ansible_are_no_problem_and_templates_are_resolved() -> None:
    policy = Lazy({Text("name"): Text("web"), "sources": "{{ directories }}", "target": Lazy(url=Text("/srv/vault")), "guards": "{{ guards }}"})
    assert policy_problems([policy], Text("web1")) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sorces": ["/a"]}, "policy 1 (web): sorces is not a key"),
        ({"sources": "/a"}, "policy 1 (web): sources must be a list"),
        ({"guards": {"min_files": True}}, "policy 1 (web): guards.min_files must be a whole number"),
        ({"name": ""}, "policy 1: name must be a name"),
        ({"name": 3}, "policy 1: name must be a name"),
    ],
)
def test_a_problem_names_policy_and_key(change: Dict[str, Any], text: str) -> None:
    (problem,) = policy_problems([{**GOOD, **change}], "web1")
    assert problem.startswith(text)


@pytest.mark.parametrize(
    ("layout", "sources", "more", "words"),
    [
        ("mirror", ["/root/.openclaw", "/root/clawd"], {}, None),
        ("mirror", ["/srv/a", "/srv/b"], {}, "policy 1 (web): The sources /srv/a and /srv/b would share the place openclaw/ of the mirror"),
        ("mirror", ["/srv"], {"retention": {"keep_last": 3}}, "policy 1 (web): retention has no meaning for a mirror"),
        ({"/root/.openclaw": "mirror"}, ["/root/.openclaw", "/srv/a", "/srv/b"], {"retention": {"keep_last": 3}}, None),
        ({"/srv": "mirror"}, ["/srv/a", "/srv/b"], {}, "would share the place openclaw/"),
        ({"/opt": "mirror"}, ["/srv"], {}, "gives none of the sources to the mirror"),
        ("mirror", None, {"profile": "openclaw"}, None),
        ("pack", ["/srv/a", "/srv/b"], {"retention": {"keep_last": 3}}, None),
    ],
)
def test_what_a_mirror_cannot_do_is_told_before_a_host_tries_it(layout: Any, sources: Any, more: Dict[str, Any], words: Any) -> None:
    policy = {"name": "web", "target": {"url": "s3://bucket/web", "layout": layout}, **({"sources": sources} if sources else {}), **more}
    found = policy_problems([policy], "web1")
    assert [words in text for text in found] == [True] if words else found == []


def test_a_profile_that_only_a_host_knows_is_no_problem_and_the_rest_is_looked_at() -> None:
    mine = {"name": "web", "target": "/srv/vault", "profile": "mine"}
    assert policy_problems([mine, {**mine, "name": "b", "profile": "/srv/own.json"}, {**mine, "name": "c", "profile": "openclaw"}], "web1") == []
    (problem,) = policy_problems([{**mine, "exclude": "x"}], "web1")
    assert problem.startswith("policy 1 (web): exclude must be a list")
    (problem,) = policy_problems([{**mine, "profile": "../x"}], "web1")
    assert problem.startswith("policy 1 (web): profile must be a name")


def test_a_profile_that_nobody_installs_is_a_problem_where_all_of_them_are_known() -> None:
    mine = {"name": "web", "target": "/srv/vault", "profile": "mine"}
    profiles = Lazy({Text("mine"): {"sources": ["/srv/mine"]}, "bare": {}})
    assert policy_problems([mine, {**mine, "name": "b", "profile": "openclaw"}, {**mine, "name": "c", "profile": "/srv/own.json"}], "web1", profiles) == []
    (problem,) = policy_problems([{**mine, "profile": "opencalw"}], "web1", {})
    assert problem.startswith("policy 1 (web): there is no profile opencalw") and "did you mean 'openclaw'" in problem
    (problem,) = policy_problems([{**mine, "profile": "bare"}], "web1", profiles)
    assert problem.startswith("policy 1 (web): sources is missing, and the profile bare has none")


def test_each_profile_with_an_error_is_named() -> None:
    assert profile_problems(Lazy({Text("a"): {"sources": [Text("~/x")]}})) == []
    first, second = profile_problems({"a": {"sorces": ["/x"]}, "b": {"sources": ["x"]}, "c": {}})
    assert first.startswith("a: profile.sorces is not a key") and second.startswith("b: profile.sources[0] must be an absolute path")


def test_a_host_name_that_cannot_name_a_history_is_a_problem() -> None:
    (problem,) = policy_problems([GOOD], "web1/..")
    assert problem.startswith("policy 1 (web): host must be a name")
    assert policy_problems([{**GOOD, "host": "web1"}], "web1/..") == []


def test_every_policy_is_looked_at_and_a_name_stands_once() -> None:
    first, second = policy_problems([GOOD, "text", GOOD], "web1")
    assert first.startswith("policy 2: ") and "must be a mapping" in first
    assert second.startswith("policy 3 (web): policy 1 has this name already")


@pytest.mark.parametrize("policies", [None, "name=web", {"name": "web"}, 3])
def test_what_is_no_list_is_said_to_be_none(policies: Any) -> None:
    (problem,) = policy_problems(policies, "web1")
    assert "must be a list of policies" in problem
