# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the inventory's groups say of vaults, as templates see it."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.openclaw.backup.plugins.filter.copies_problems import copies_problems
from ansible_collections.openclaw.backup.plugins.filter.copy_objectives import copy_objectives
from ansible_collections.openclaw.backup.plugins.filter.vault_address import vault_address
from ansible_collections.openclaw.backup.plugins.filter.vault_at import vault_at
from ansible_collections.openclaw.backup.plugins.filter.vault_copies import vault_copies
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


def test_a_number_from_the_command_line_is_text() -> None:
    assert vaults_of("web1", GROUPS, copies="2") == vaults_of("web1", GROUPS, copies=2)


VARIABLES: Dict[str, Dict[str, Any]] = {
    "web1": {"openclaw_backup_copies": 2},
    "web2": {"openclaw_backup_copies": 3, "openclaw_backup_vault": "vault2"},
    "web3": {"openclaw_backup_copies": 1},
}


def test_copies_go_from_a_hosts_own_vault_to_its_others_as_its_variables_say() -> None:
    found = vault_copies(GROUPS, VARIABLES)
    expected = [("web1", *vaults_of("web1", GROUPS, copies=2))]
    first, *others = vaults_of("web2", GROUPS, vault="vault2", copies=3)
    assert first == "vault2"
    assert [tuple(item[key] for key in ("host", "from", "to")) for item in found] == expected + [("web2", first, other) for other in others]


def test_more_copies_than_vaults_are_told_of_with_the_host_and_what_there_is() -> None:
    assert copies_problems(GROUPS, VARIABLES) == []
    (problem,) = copies_problems({**GROUPS, "backup_vaults": ["vault2", "vault3"]}, VARIABLES)
    assert problem.startswith("web2 has openclaw_backup_copies 3, and there are 2 vaults for it: vault2, vault3. Next: ")
    assert len(copies_problems({**GROUPS, "backup_vaults": ["vault2"]}, VARIABLES)) == 2
    # A vault that was named by hand counts, whatever group it is in; and where nothing is to be copied, no vault at all is no matter of copies.
    assert len(copies_problems({**GROUPS, "backup_vaults": ["vault1", "vault3"]}, VARIABLES)) == 0
    assert copies_problems({**GROUPS, "backup_vaults": []}, {"web1": {}}) == []


@pytest.mark.parametrize(
    ("variables", "where", "known_as"),
    [
        ({}, "Vault1:22", "vault1"),
        ({"ansible_host": "fd00::7"}, "[fd00::7]:22", "fd00::7"),
        ({"openclaw_backup_vault_address": "v.example.org", "openclaw_backup_vault_port": 2222}, "v.example.org:2222", "[v.example.org]:2222"),
    ],
)
def test_ssh_knows_a_vault_by_its_address_and_by_its_port_where_that_is_another(variables: Dict[str, Any], where: str, known_as: str) -> None:
    assert vault_address("Vault1", variables) == {"where": where, "known_as": known_as}


def test_a_copy_may_be_older_by_what_lies_between_two_replications() -> None:
    assert copy_objectives({"rpo": "15m", "rto": "1h"}, "29 * * * *") == {"rpo": "2h15m", "rto": "1h"}
    assert copy_objectives({"rto": "1h"}, "29 * * * *") == {"rto": "1h"}
    for objectives, cron in (({"rpo": "soon"}, "29 * * * *"), ({"rpo": "1h"}, "never")):
        with pytest.raises(AnsibleFilterError):
            copy_objectives(objectives, cron)


FLEET: Dict[str, Dict[str, Any]] = {
    "vault1": {"ansible_host": "10.9.0.1"},
    "vault2": {"openclaw_backup_vault_address": "Second.example.org", "openclaw_backup_vault_port": 2222},
    "vault3": {"ansible_host": "10.9.0.1", "openclaw_backup_vault_port": 2223},
    "old1": {"ansible_host": "fd00::7"},
    "web1": {"openclaw_backup_vault": "web6"},
    **{"web%d" % number: {} for number in range(2, 7)},
    "*": {},
}
PLACES = {**GROUPS, "all": list(FLEET)}


@pytest.mark.parametrize(
    ("url", "vault", "known_as"),
    [
        ("ssh://ocb-web1@10.9.0.1:22/", "vault1", "10.9.0.1"),
        ("ssh://ocb-web1@10.9.0.1:2223/", "vault3", "[10.9.0.1]:2223"),
        ("ssh://ocb-web1@second.example.org:2222/", "vault2", "[second.example.org]:2222"),
        ("ssh://ocb-web1@vault2/", "vault2", "vault2"),  # it had another address, or its group's variables are gone
        ("ssh://ocb-web1@[fd00::7]:22/", "old1", "fd00::7"),  # taken out of the group
        ("ssh://ocb-web1@web6:22/", "web6", "web6"),  # a vault that is named by hand
    ],
)
def test_a_host_is_believed_where_it_names_a_vault_of_the_inventory(url: str, vault: str, known_as: str) -> None:
    found = vault_at(url, PLACES, FLEET)
    assert (found["vault"], found["known_as"], found["problem"]) == (vault, known_as, "")


@pytest.mark.parametrize(
    "url",
    [
        *("ssh://me@elsewhere.example.org:22/", "ssh://me@web2:22/", "ssh://me@10.9.0.1:99/"),
        *(
            "ssh://me@*:22/",
            "ssh://me@vault?:22/",
            "ssh://!vault1:22/",
            "ssh://me@*,vault1@vault1:22/",
            "ssh://@cert-authority:22/",
            "ssh://me@vault1:22\n* key/",
        ),
        *("ssh://me@vault1:0/", "ssh://me@vault1:99999/", "ssh://me@vault1", "s3://vault1", "/vault1", "file:///vault1", ""),
        *(None, 7, True, ["ssh://me@vault1:22/"], {"url": "ssh://me@vault1:22/"}),
    ],
)
def test_a_host_that_names_anything_else_is_not_believed(url: Any) -> None:
    found = vault_at(url, PLACES, FLEET)
    assert found.pop("problem").startswith("target.url is '")
    assert set(found.values()) == {""}
