# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one playbook must have made of an inventory: asked of the hosts themselves."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, List, Tuple

import pytest
import testinfra

testinfra_hosts = ["ansible://backup_clients"]

HOSTS = ("web1", "web2", "web3")
SSH = "/etc/openclaw-backup/ssh"
VAULT = "/srv/openclaw-backup"
KEEPER = "openclaw-vault"


@pytest.fixture(scope="module")
def vault(request: pytest.FixtureRequest) -> Any:
    return testinfra.get_host("ansible://vault1", ansible_inventory=request.config.getoption("ansible_inventory"))


def name_of(host: Any) -> str:
    return str(host.backend.host)


def account_of(host: Any) -> str:
    target = json.loads(host.file("/etc/openclaw-backup/policies/work.json").content_string)["target"]["url"]
    return str(target.partition("//")[2].partition("@")[0])


def ids(vault: Any, name: str, policy: str) -> List[str]:
    return sorted(vault.file("%s/%s/%s/snapshots" % (VAULT, name, policy)).listdir())


def wait_for(condition: Any, seconds: int = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)


@pytest.fixture(scope="module", autouse=True)
def before(request: pytest.FixtureRequest, vault: Any) -> Dict[str, str]:
    """The newest snapshot of work that each host had before the first test; changed then, so that cron is done when its turn comes."""
    newest = {}
    for name in HOSTS:
        newest[name] = ids(vault, name, "work")[-1]
        host = testinfra.get_host("ansible://" + name, ansible_inventory=request.config.getoption("ansible_inventory"))
        host.run_expect([0], "echo more >>/srv/work/file")
    return newest


def test_the_host_has_its_keys_policies_and_schedule(host: Any) -> None:
    for path, mode in (("/etc/openclaw-backup/policies/work.json", 0o600), (SSH + "/id_ed25519", 0o600), (SSH + "/id_read_ed25519", 0o600), (SSH, 0o700)):
        found = host.file(path)
        assert (found.user, found.mode) == ("root", mode), path
    lines = host.file("/etc/cron.d/openclaw-backup").content_string.splitlines()
    run = "root /usr/local/bin/openclaw-backup run --scheduled --quiet --state /var/lib/openclaw-backup /etc/openclaw-backup/policies/"
    when = (("*/5 * * * *", "etc"), ("@reboot", "etc"), ("* * * * *", "work"), ("@reboot", "work"))
    assert lines[-4:] == ["%s %s%s.json" % (moment, run, policy) for moment, policy in when]
    assert host.file("/etc/cron.d/openclaw-backup").mode == 0o644


def test_the_vault_has_a_snapshot_of_every_policy_and_every_byte_of_it_is_right(host: Any, vault: Any) -> None:
    for policy in ("etc", "work"):
        words = "runuser -u %s -- openclaw-backup verify --json --state /var/lib/openclaw-backup-vault /etc/openclaw-backup/vault/verify/%s/%s.json"
        found = vault.run(words % (KEEPER, name_of(host), policy))
        result: Dict[str, Any] = json.loads(found.stdout)
        assert (found.rc, result["ok"], result["slice"]) == (0, True, None), found.stdout
        assert result["hashed_files"] > 0


def test_a_first_snapshot_was_proven_before_the_playbook_ended(host: Any, vault: Any) -> None:
    log = vault.file("%s/%s/etc/state" % (VAULT, name_of(host)))
    assert [name for name in log.listdir() if name.endswith(".json") and json.loads(vault.file("%s/%s" % (log.path, name)).content_string).get("verified")]


def test_sudo_lets_the_account_start_two_programs_and_nothing_else(host: Any, vault: Any) -> None:
    account = account_of(host)
    listed = vault.run("sudo -l -U %s", account).stdout
    rules = [line.strip() for line in listed.partition("may run the following commands")[2].splitlines()[1:] if line.strip()]
    programs = ", ".join('/usr/local/libexec/openclaw-backup/session-%s ""' % scope for scope in ("write", "read"))
    assert [rule.replace("NOSETENV: NOPASSWD:", "NOPASSWD: NOSETENV:") for rule in rules] == ["(%s : !ALL) NOPASSWD: NOSETENV: %s" % (KEEPER, programs)]
    for words in (
        "-u %s /bin/sh" % KEEPER,
        "-u %s /usr/local/libexec/openclaw-backup/session-write x" % KEEPER,
        "-u root /usr/local/libexec/openclaw-backup/session-write",
        "-u %s PYTHONPATH=/tmp /usr/local/libexec/openclaw-backup/session-write" % KEEPER,
        "-u %s -E /usr/local/libexec/openclaw-backup/session-write" % KEEPER,
        "-g root /usr/local/libexec/openclaw-backup/session-write",
    ):
        refused = vault.run("runuser -u %s -- sudo -n %s </dev/null" % (account, words))
        assert refused.rc == 1 and refused.stdout == "", words


def test_the_account_can_write_nothing_of_its_own(host: Any, vault: Any) -> None:
    account = account_of(host)
    home = "/var/lib/openclaw-ingest/" + account
    found = vault.run("find %s /etc/openclaw-backup /etc/sudoers.d/openclaw-backup /usr/local/libexec -not -user root", home)
    assert (found.rc, found.stdout) == (0, "")
    assert vault.run("runuser -u %s -- find %s /etc/openclaw-backup %s -writable -not -type l 2>/dev/null" % (account, home, VAULT)).stdout == ""
    assert vault.file(home + "/.ssh/authorized_keys").content_string.count("\n") == 1
    assert vault.file(VAULT).mode == 0o711 and vault.file(VAULT).user == KEEPER
    assert vault.run("passwd -S %s", account).stdout.split()[1] in ("L", "NP") or vault.run("getent shadow %s", account).stdout.split(":")[1] == "*"


def ssh(host: Any, key: str, *words: str) -> Tuple[int, str]:
    """What ssh to the vault with one of the host's keys ends with, and says on both streams. Not by its own code: testinfra takes 255 for its own trouble."""
    options = "-n -o BatchMode=yes -o CheckHostIP=no -o UserKnownHostsFile=%s/known_hosts -i %s/%s" % (SSH, SSH, key)
    found = host.run("timeout 20 ssh %s %s 2>&1; echo $?" % (options, " ".join(words)))
    *said, code = found.stdout.splitlines()
    return int(code), "\n".join(said)


@pytest.mark.parametrize("command", ["", "sh", "cat /etc/passwd", "/usr/lib/openssh/sftp-server", "'openclaw-backup serve --read'"])
def test_a_host_gets_no_shell_on_the_vault(host: Any, command: str) -> None:
    code, said = ssh(host, "id_ed25519", account_of(host) + "@vault1", command)
    assert (code, "This key serves openclaw-backup alone" in said) == (4, True), said


@pytest.mark.parametrize(("flags", "refusal"), [("-tt", "PTY allocation request failed"), ("-W 127.0.0.1:22", "administratively prohibited")])
def test_a_host_gets_no_terminal_and_no_way_through_the_vault(host: Any, flags: str, refusal: str) -> None:
    code, said = ssh(host, "id_ed25519", flags, account_of(host) + "@vault1")
    assert code not in (0, 124) and refusal in said, said


def test_the_key_for_reading_opens_nothing_while_nothing_is_granted(host: Any) -> None:
    code, said = ssh(host, "id_read_ed25519", account_of(host) + "@vault1", "openclaw-backup serve")
    assert (code, "Permission denied" in said) == (255, True), said


def test_a_host_that_was_granted_reading_has_read(host: Any, vault: Any) -> None:
    restored = host.file("/srv/restored/srv/work/file")
    assert restored.exists is (name_of(host) == "web1")
    if restored.exists:
        assert restored.content_string.startswith("work of web1\n")
    assert vault.file("/etc/openclaw-backup/grants").listdir() == []


def test_what_another_host_has_backed_up_was_read_with_a_grant_for_that(host: Any) -> None:
    restored = host.file("/srv/of-web1/srv/work/file")
    assert restored.exists is (name_of(host) == "web2")
    if restored.exists:
        assert restored.content_string.startswith("work of web1\n")


def test_another_hosts_directory_is_closed(host: Any, vault: Any) -> None:
    other = HOSTS[HOSTS.index(name_of(host)) - 1]
    account = account_of(host)
    for path in (VAULT, "%s/%s" % (VAULT, other), "%s/%s/etc/snapshots" % (VAULT, other), "/etc/openclaw-backup/accounts", "/etc/openclaw-backup/vault"):
        assert vault.run("runuser -u %s -- ls %s" % (account, path)).rc == 2, path


def test_cron_backs_up_what_changes(host: Any, vault: Any, before: Dict[str, str]) -> None:
    wait_for(lambda: ids(vault, name_of(host), "work")[-1] > before[name_of(host)])


def test_cron_prunes_what_the_retention_does_not_keep(host: Any, vault: Any) -> None:
    log = vault.file("%s/%s/work/audit.jsonl" % (VAULT, name_of(host)))

    def has_pruned() -> bool:
        prunes = [line for line in log.content_string.splitlines() if json.loads(line).get("event") == "prune"]
        # Beside the two that are kept there may be the last that was verified in full, and one that came since.
        return bool(prunes) and not any(name in line for name in ids(vault, name_of(host), "work") for line in prunes)

    wait_for(has_pruned)


def test_cron_verifies_a_slice(host: Any, vault: Any) -> None:
    runs = "/var/lib/openclaw-backup-vault/%s/etc/runs.jsonl" % name_of(host)
    wait_for(lambda: '"slice":"' in vault.file(runs).content_string.replace(" ", ""))


def test_the_host_knows_of_no_failed_run(host: Any) -> None:
    for policy in ("etc", "work"):
        found = host.run("cat /var/lib/openclaw-backup/%s/%s/runs.jsonl" % (name_of(host), policy)).stdout
        assert [line for line in found.splitlines() if json.loads(line)["result"] == "failed"] == []
