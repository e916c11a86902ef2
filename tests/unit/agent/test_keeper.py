# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a vault believes of its own configuration: files that root alone writes, and every wrong key by name."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.scheduled import _LASTING
from ansible_collections.openclaw.backup.plugins.module_utils.agent import keeper
from ansible_collections.openclaw.backup.plugins.module_utils.agent.keeper import (
    Limits,
    keeper_for_copies,
    keeper_of,
    limits_of,
    read_account,
    read_grant,
    read_vault,
)
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError, RefusedError, TargetError, UsageError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import MAX_ENTRIES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the files must be root's")
VAULT = {"directory": "/srv/vault", "keeper": "openclaw-vault"}


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(keeper, "DIRECTORY", str(tmp_path))
    (tmp_path / "accounts").mkdir()
    (tmp_path / "grants").mkdir()
    (tmp_path / "vault.json").write_text(json.dumps(VAULT))
    (tmp_path / "accounts" / "ocb-web1.json").write_text('{"host": "web1"}')
    yield tmp_path


def grant(etc: Path, **changes: Any) -> None:
    (etc / "grants" / "ocb-web1.json").write_text(json.dumps({"until": "2999-01-01T00:00:00.000Z", "hosts": ["web1"], **changes}))


def test_a_whole_configuration_is_read(etc: Path) -> None:
    found = keeper_of("ocb-web1", 1234, may_read=False)
    assert (found.directory, found.host, found.readable, found.group, found.may_make) == ("/srv/vault", "web1", (), 1234, False)
    assert found.limits == Limits()
    grant(etc, hosts=["web1", "web2"])
    granted = keeper_of("ocb-web1", 1234, may_read=True)
    assert granted.readable == ("web1", "web2") and (found.may_add, granted.may_add) == (True, False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"directory": "srv"}, "directory"),
        ({"directory": 5}, "directory"),
        ({"storage": "other"}, "storage"),
        ({"clone": "other"}, "clone"),
        ({"more": 1}, "more"),
        ({"limits": []}, "limits"),
        ({"maintenance": "yes"}, "maintenance"),
        ({"limits": {"writers": 0}}, "limits.writers"),
        ({"limits": {"writers": "4"}}, "limits.writers"),
        ({"limits": {"reserve": 91}}, "limits.reserve"),
        ({"limits": {"wirters": 4}}, "limits.wirters"),
        ({"limits": {"encrypted_percent": 101}}, "limits.encrypted_percent"),
        ({"limits": {"removed_percent": -1}}, "limits.removed_percent"),
        ({"limits": {"changed_percent": True}}, "limits.changed_percent"),
        ({"limits": {"growth_percent": "50"}}, "limits.growth_percent"),
    ],
)
def test_a_wrong_key_is_named(etc: Path, changes: Dict[str, Any], field: str) -> None:
    (etc / "vault.json").write_text(json.dumps({**VAULT, **changes}))
    with pytest.raises(UsageError) as caught:
        read_vault()
    assert (caught.value.kind, caught.value.field) == ("vault_config", field)
    assert caught.value.allowed and caught.value.next


def test_the_limits_of_the_vault_that_serves_hosts_hold_for_what_is_copied_there(etc: Path, tmp_path: Path) -> None:
    (etc / "vault.json").write_text(json.dumps({**VAULT, "limits": {"entries": 5}}))
    assert limits_of("/srv/vault").entries == limits_of("/srv/../srv/vault/").entries == 5
    assert limits_of("/srv/other") == Limits()
    (etc / "vault.json").unlink()
    assert limits_of("/srv/vault") == Limits() and Limits().entries == MAX_ENTRIES


def test_nothing_begins_in_maintenance_and_the_host_is_to_try_again(etc: Path) -> None:
    (etc / "vault.json").write_text(json.dumps({**VAULT, "maintenance": True}))
    with pytest.raises(TargetError) as caught:
        keeper_of("ocb-web1", 1234, may_read=False)
    assert (caught.value.kind, caught.value.rc) == ("maintenance", 6)
    assert caught.value.kind not in _LASTING
    with pytest.raises(TargetError, match="maintenance"):
        keeper_for_copies("root")
    assert keeper_of("ocb-web1", 1234, may_read=False, is_open=True).host == "web1"
    assert keeper_for_copies("root", is_open=True).reads_all
    assert read_vault()["directory"] == "/srv/vault"  # what is under way goes on
    (etc / "vault.json").write_text(json.dumps({**VAULT, "maintenance": False}))
    assert keeper_of("ocb-web1", 1234, may_read=False).host == "web1"


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"directory": "/srv/vault"}'])
def test_a_file_that_is_no_configuration_is_refused(etc: Path, text: str) -> None:
    (etc / "vault.json").write_text(text)
    with pytest.raises(UsageError):
        read_vault()


def test_another_vault_reads_every_history_and_has_none_to_add_to(etc: Path) -> None:
    found = keeper_for_copies("root")
    assert (found.directory, found.host, found.reads_all, found.group, found.may_make) == ("/srv/vault", "*", True, None, False)
    assert found.may_read("any", 1e12) and not found.may_add
    with pytest.raises(RefusedError) as caught:
        keeper_for_copies("nobody-of-that-name", is_open=True)
    assert (caught.value.kind, caught.value.field) == ("scope", "account")


def test_files_that_others_could_write_are_not_believed(etc: Path) -> None:
    (etc / "accounts" / "ocb-web1.json").chmod(0o666)
    with pytest.raises(UsageError) as caught:
        read_account("ocb-web1")
    assert caught.value.kind == "policy_permissions"


def test_an_account_without_a_host_is_refused(etc: Path) -> None:
    for text in ('{"host": "../x"}', '{"host": ""}', "{}", '{"host": "h", "more": 1}'):
        (etc / "accounts" / "ocb-web1.json").write_text(text)
        with pytest.raises(UsageError):
            read_account("ocb-web1")
    with pytest.raises(UsageError):
        read_account("nobody")


def test_reading_ends_with_its_grant(etc: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        read_grant("ocb-web1", time.time())
    assert (caught.value.kind, caught.value.rc) == ("scope", 4)
    grant(etc, until="2026-01-01T00:00:00.000Z")
    with pytest.raises(RefusedError, match="ended at 2026-01-01"):
        read_grant("ocb-web1", time.time())
    grant(etc)
    assert read_grant("ocb-web1", time.time())[0] == ("web1",)


@pytest.mark.parametrize("changes", [{"until": "tomorrow"}, {"until": 5}, {"hosts": "web1"}, {"hosts": ["../x"]}, {"hosts": [5]}, {"more": 1}])
def test_a_grant_that_is_none_grants_nothing(etc: Path, changes: Dict[str, Any]) -> None:
    grant(etc, **changes)
    with pytest.raises(BackupError):
        read_grant("ocb-web1", time.time())
