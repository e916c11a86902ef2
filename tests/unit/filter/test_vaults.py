# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the inventory's groups say of vaults, as templates see it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.openclaw.backup.plugins.filter.vault_moves import vault_moves
from ansible_collections.openclaw.backup.plugins.filter.vaults_of import vaults_of

GROUPS = {"all": ["vault1", "vault2", "vault3", "web1", "web2", "web3", "web4", "web5", "web6"]}
GROUPS.update(backup_vaults=GROUPS["all"][:3], backup_clients=GROUPS["all"][3:])


def test_a_host_has_the_vaults_that_the_groups_give_it() -> None:
    assert vaults_of("web1", GROUPS) == ["vault1"]
    assert vaults_of("web1", GROUPS, copies=2) == ["vault1", "vault3"]
    assert vaults_of("web1", GROUPS, vault="vault2", copies=2) == ["vault2", "vault1"]


def test_a_limited_play_has_the_same_groups_and_the_order_of_hosts_does_not_matter() -> None:
    turned = {name: hosts[::-1] for name, hosts in GROUPS.items()}
    assert [vaults_of(host, turned, copies=3) for host in GROUPS["all"]] == [vaults_of(host, GROUPS, copies=3) for host in GROUPS["all"]]


def test_without_the_groups_there_is_no_vault_but_the_one_that_was_named() -> None:
    assert vaults_of("web1", {"all": ["web1"]}) == []
    assert vaults_of("web1", {}, vault="v") == ["v"]


@pytest.mark.parametrize("copies", [0, -1, "two", 1.5, None, True])
def test_a_number_of_copies_that_is_none_is_refused(copies: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="a whole number from 1 on"):
        vaults_of("web1", GROUPS, copies=copies)


def test_moves_name_where_from_and_where_to() -> None:
    moves = vault_moves(GROUPS, [*GROUPS["backup_vaults"], "vault4"])
    assert moves and all(move["before"] == vaults_of(move["host"], GROUPS)[0] for move in moves)
    assert {move["after"] for move in moves} == {"vault4"}
    assert vault_moves(GROUPS, GROUPS["backup_vaults"][::-1]) == []
