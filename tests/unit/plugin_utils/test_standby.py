# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that stands in for a lost host needs nothing of the host, and nothing of its own is touched."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest
from ansible_collections.openclaw.backup.plugins.filter.fill_policies import fill_policies
from ansible_collections.openclaw.backup.plugins.filter.scratch_problems import scratch_problems
from ansible_collections.openclaw.backup.plugins.filter.standby_problems import standby_problems
from ansible_collections.openclaw.backup.plugins.plugin_utils.standby import Outfit, outfit

PLACE = "/var/tmp/openclaw-backup-lost-host.x"
ESCROW = "/srv/escrow/web1"


def dress(policies: List[Dict[str, Any]], has: Callable[[str], bool] = lambda _path: True, escrow: str = ESCROW, **more: Any) -> Outfit:
    vaulted = [policy["name"] for policy in policies if "target" not in policy]
    filled = fill_policies([{"sources": ["/srv"], **policy} for policy in policies], "web1", vault="vault1")
    return outfit(filled, directory=PLACE, escrow=escrow, vaulted=vaulted, has=has, **{"profiles": {}, "secrets": {}, **more})


def sources(made: Outfit) -> Dict[str, str]:
    return {file["path"]: file.get("src", "") for file in made.files}


def test_all_that_a_policy_names_is_its_own_copy_and_none_is_the_machines() -> None:
    made = dress(
        [{"name": "work", "profile": "mine", "copies": ["ssh://far/"]}, {"name": "etc", "profile": "/etc/far.json"}], profiles={"mine": {"exclude": ["/tmp/"]}}
    )
    work, etc = made.policies
    assert work["target"]["identity_file"] == PLACE + "/ssh/id_read_ed25519" and work["target"]["known_hosts_file"] == PLACE + "/ssh/known_hosts"
    assert work["target"]["url"].startswith("ssh://ocb-web1") and (work["host"], work["profile"]) == ("web1", PLACE + "/profiles/mine.json")
    assert "copies" not in work
    assert etc["profile"] == PLACE + "/profiles/of-policy-etc.json"
    assert sources(made) == {
        "ssh/known_hosts": ESCROW + "/ssh/known_hosts",
        "profiles/mine.json": "",
        "policies/work.json": "",
        "profiles/of-policy-etc.json": ESCROW + "/profiles/of-policy-etc.json",
        "policies/etc.json": "",
    }
    (written,) = (file["content"] for file in made.files if file["path"] == "policies/work.json")
    assert json.loads(written) == work and made.problems == ()


def test_a_target_of_its_own_is_opened_with_what_somebody_put_into_the_escrow() -> None:
    bucket = {"url": "s3://copies/web1", "endpoint": "https://s3.example.org", "credentials_file": "/root/.aws/credentials", "key_file": "/etc/pack.key"}
    made = dress([{"name": "away", "target": bucket}])
    (policy,) = made.policies
    assert policy["target"] == {**bucket, "credentials_file": PLACE + "/files/away-credentials_file", "key_file": PLACE + "/files/away-key_file"}
    assert sources(made)["files/away-key_file"] == ESCROW + "/files/etc/pack.key"
    known = dress([{"name": "away", "target": bucket}], escrow="", secrets={"/etc/pack.key": "k", "/root/.aws/credentials": "c"})
    assert known.problems == () and {"path": "files/away-key_file", "content": "k"} in known.files, "what the inventory has is asked for nowhere else"


@pytest.mark.parametrize(
    ("policy", "gone", "words"),
    [
        ({"name": "work"}, "/ssh/known_hosts", "/srv/escrow/web1/ssh/known_hosts is not there: the key by which the vault is known"),
        ({"name": "work", "profile": "/etc/far.json"}, "/of-policy-work.json", "a copy of its profile, /etc/far.json"),
        ({"name": "work", "target": "/srv/vault"}, "", "they lie in /srv/vault, on the host itself"),
        ({"name": "work", "target": "ssh://me@far/"}, "", "names no identity_file"),
        (
            {"name": "work", "target": {"url": "s3://bucket/p", "key_file": "/etc/k"}},
            "/files/etc/k",
            "/srv/escrow/web1/files/etc/k is not there: a copy of the target's key_file",
        ),
    ],
)
def test_what_would_be_lost_with_the_host_is_named_and_the_rest_is_rehearsed(policy: Dict[str, Any], gone: str, words: str) -> None:
    made = dress([policy, {"name": "other", "target": {"url": "s3://bucket/p"}}], lambda path: not (gone and path.endswith(gone)))
    (problem,) = made.problems
    assert problem.startswith("policy work: if this host were lost, nobody could read its snapshots: ") and words in problem
    assert [ready["name"] for ready in made.policies] == ["other"] and sources(made) == {"policies/other.json": ""}


def test_without_an_escrow_every_host_would_be_lost() -> None:
    made = dress([{"name": "a"}, {"name": "b", "profile": "/etc/far.json"}], escrow="")
    assert made.policies == made.files == () and len(made.problems) == 2
    assert all("openclaw_backup_escrow_directory is not given, so that nothing keeps " in text for text in made.problems)


def judged(standby: str = "spare1", scenario: str = "lost-host", scratch: str = "/var/tmp", **variables: Any) -> List[str]:
    return standby_problems(standby, scenario, "web1", "vault1", scratch, {"web1": {}, "vault1": {}, "spare1": variables})


def test_who_can_stand_in() -> None:
    assert judged() == judged(standby="", scenario="restore") == []
    assert "is missing" in judged(standby="")[0] and "'far', which is no host of the inventory" in judged(standby="far")[0]
    assert "'web1', the host that is rehearsed to be lost" in judged(standby="web1")[0] and "'vault1', the vault of web1" in judged(standby="vault1")[0]
    assert "has no meaning without openclaw_backup_drill_scenario=lost-host" in judged(scenario="restore")[0]
    assert "Allowed: an absolute path" in judged(scratch="tmp")[0]


def test_no_scratch_lies_in_the_machines_own_work() -> None:
    policies = [{"name": "own", "sources": ["/srv", "/etc"], "exclude": ["/spare/"]}, {"no": "policy"}, "nor this"]
    assert judged(scratch="/srv/work/../tmp", openclaw_backup_policies=policies) == [
        "openclaw_backup_scratch of spare1 is '/srv/work/../tmp', which its own policy own backs up. Next: name a directory outside of it."
    ]
    assert judged(scratch="/srv", openclaw_backup_policies=policies) and judged(scratch="/", openclaw_backup_policies=[{"name": "all", "sources": ["/"]}])
    assert judged(scratch="/srv/spare", openclaw_backup_policies=policies) == [] == judged(scratch="/srvs", openclaw_backup_policies=policies)
    assert "lies in the vault /srv/openclaw-backup" in judged(scratch="/srv/openclaw-backup/x", group_names=["backup_vaults"])[0]
    assert "lies in the vault /mnt/v" in judged(scratch="/mnt/v", openclaw_backup_vault_directory="/mnt/v")[0]


@pytest.mark.parametrize(
    ("profile", "scratch", "is_at_work"),
    [
        ("etc", "/etc/spare", True),
        ("etc", "/srv/spare", False),
        ("home", "/home/me/spare", True),
        ("home", "/root/spare", True),
        ("home", "/home/me/.cache/spare", False),
        ("home", "/srv/home/me", False),
        ("own", "/etc/spare", False),  # what a profile of one's own takes, the host alone knows
    ],
)
def test_a_scratch_in_what_a_profile_takes_is_at_work(profile: str, scratch: str, is_at_work: bool) -> None:
    found = judged(scratch=scratch, openclaw_backup_policies=[{"name": "mine", "profile": profile}])
    assert bool(found) is is_at_work and all("which its own policy mine backs up" in text for text in found)


@pytest.mark.parametrize(
    ("scratch", "words"),
    [
        ("/var/spare", None),
        ("/srv/vault-drills", None),
        ("/srv/www/spare", "which its own policy web backs up"),
        ("/srv/www/cache/spare", None),
        ("/srv/vault", "which lies in the vault /srv/vault"),
        ("/srv/vault/web1/etc/../spare", "which lies in the vault /srv/vault"),
        ("/srv", "in which the vault /srv/vault lies"),
    ],
)
def test_drills_on_a_vault_bring_nothing_back_where_anything_is_at_work(scratch: str, words: "str | None") -> None:
    own = [{"name": "web", "sources": ["/srv/www"], "exclude": ["/cache/"]}, "no policy"]
    assert scratch_problems(scratch, "vault1", {"openclaw_backup_policies": own}, "/srv/vault") == ([words] if words else [])
