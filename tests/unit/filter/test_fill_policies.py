# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What policies leave out is filled in, and what they say is left alone."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.openclaw.backup.plugins.filter.fill_policies import fill_policies
from ansible_collections.openclaw.backup.plugins.filter.ingest_account import ingest_account
from ansible_collections.openclaw.backup.plugins.filter.policy_problems import policy_problems

BARE = {"name": "etc", "sources": ["/etc"]}


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({}, "vault1:22"),
        ({"ansible_host": "10.0.0.7"}, "10.0.0.7:22"),
        ({"ansible_host": "10.0.0.7", "openclaw_backup_vault_address": "vault.example.org", "openclaw_backup_vault_port": 2222}, "vault.example.org:2222"),
        ({"openclaw_backup_vault_address": ""}, "vault1:22"),
        ({"ansible_host": "fd00::7"}, "[fd00::7]:22"),
    ],
)
def test_a_policy_without_a_target_goes_to_the_hosts_account_on_the_vault(variables: Dict[str, Any], where: str) -> None:
    filled = fill_policies([BARE], "web1", vault="vault1", variables=variables)
    target = {
        "url": "ssh://%s@%s/" % (ingest_account("web1"), where),
        "identity_file": "/etc/openclaw-backup/ssh/id_ed25519",
        "known_hosts_file": "/etc/openclaw-backup/ssh/known_hosts",
    }
    assert filled == [{**BARE, "host": "web1", "target": target}]
    assert policy_problems(filled, "web1") == []


def test_what_a_policy_says_stays() -> None:
    policy = {**BARE, "host": "other", "target": "/srv/vault"}
    assert fill_policies([policy], "web1", vault="vault1", copies=[{"inventory_hostname": "vault2"}]) == [policy]


def test_a_restore_finds_the_copies_with_the_key_that_reads_and_then_those_that_the_policy_names() -> None:
    own = {"url": "ssh://me@elsewhere/"}
    others = [{"inventory_hostname": "vault2"}, {"inventory_hostname": "vault3", "openclaw_backup_vault_address": "third.example.org"}]
    (filled,) = fill_policies([{**BARE, "copies": [own]}], "web1", vault="vault1", copies=others)
    assert [copy["url"].partition("@")[2] for copy in filled["copies"]] == ["vault2:22/", "third.example.org:22/", "elsewhere/"]
    assert filled["copies"][0]["identity_file"] == "/etc/openclaw-backup/ssh/id_read_ed25519"
    assert policy_problems([filled], "web1") == []


def test_without_a_vault_the_target_stays_missing_and_is_told_of() -> None:
    filled = fill_policies([BARE], "web1")
    assert filled == [{**BARE, "host": "web1"}]
    assert "target is missing" in policy_problems(filled, "web1")[0]


@pytest.mark.parametrize("policies", ["text", {"name": "a"}, None, ["text", 3]])
def test_what_is_no_list_of_policies_stays_for_others_to_tell_of(policies: Any) -> None:
    assert fill_policies(policies, "web1", vault="vault1") == policies
