# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pattern of hosts matches, or the play does not begin."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.openclaw.backup.plugins.filter.chosen_hosts import chosen_hosts

GROUPS = {"all": ["vault1", "web1", "web2", "db1"], "ungrouped": ["db1"], "backup_vaults": ["vault1"], "backup_clients": ["web1", "web2"], "empty": []}


def test_without_a_pattern_the_clients_are_meant_or_everybody() -> None:
    assert chosen_hosts(GROUPS) == chosen_hosts(GROUPS, None) == "backup_clients"
    assert chosen_hosts({"all": ["a"]}, "") == "all"
    assert chosen_hosts({"all": []}) == "all"  # a slice of an inventory may be empty
    assert chosen_hosts({"all": [], "ungrouped": []}, "web1") == "web1"


@pytest.mark.parametrize(
    "pattern", ["web1", "all", "*", "web*", "~web[12]", "backup_clients", "backup_clients[0]", "web1:db1", "web1,db1", "all:!web1", "all:&backup_clients"]
)
def test_a_pattern_that_matches_is_given_back(pattern: str) -> None:
    assert chosen_hosts(GROUPS, pattern) == pattern


def test_a_list_is_a_pattern() -> None:
    assert chosen_hosts(GROUPS, ["web1", "db1"]) == "web1,db1"


@pytest.mark.parametrize("pattern,part", [("wbe1", "wbe1"), ("web1,wbe2", "wbe2"), ("all:!wbe1", "!wbe1"), ("all:&prod", "&prod"), ("empty", "empty")])
def test_a_part_that_matches_nothing_is_an_error_that_names_it(pattern: str, part: str) -> None:
    with pytest.raises(
        AnsibleFilterError, match="^openclaw_backup_hosts: %s matches no host of the inventory. .*all, backup_clients, backup_vaults, empty" % part
    ):
        chosen_hosts(GROUPS, pattern)
