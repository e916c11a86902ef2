# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""With a shell as a host's account on the vault, and with the host itself: nothing that was committed changes, and nothing of another host is read.

The attempts are in ``attack.py``; ``guard.py`` compares all snapshots before and after, and in between.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import testinfra

HERE = Path(__file__).resolve().parent
VAULT = "/srv/openclaw-backup"
KEEPER = "openclaw-vault"
SSH = "/etc/openclaw-backup/ssh"
PLACE = "/opt/attack"
SPECIAL = ["device", "directory", "fifo", "hole", "link", "longer", "socket", "unreadable"]

# What each attempt comes to where the vault is what it should be.
EXPECTED: Dict[str, Any] = {
    "an_ordinary_snapshot": "ok",
    "descriptors_and_mappings_are_kept_and_used_after_the_commit": "ok",
    "a_second_name_outlives_the_commit": "ok",
    "names_for_files_of_the_keeper": [],
    "a_basis_is_linked_and_written": [],
    "directories_become_links_while_the_keeper_reads": [],
    "directories_become_links_while_the_keeper_writes": [],
    "directories_become_links_while_the_keeper_removes": "ok",
    "special_files_arrive": ["src/" + kind for kind in SPECIAL],
    "modes_lists_and_attributes_come_along": "ok",
    "a_lease_is_held_on_what_the_keeper_opens": "incomplete",
    "what_is_left_is_closed_to_the_keeper": ["ok"] * 3,
    "what_is_left_is_very_deep": "ok",
    "what_is_left_is_written_to_while_it_is_removed": "ok",
    "sudo_is_asked_for_more": [],
    "the_programs_of_sudo_are_started_without_it": [],
    "the_environment_is_forged": [],
    "limits_are_low": {},
    "standard_streams_are_closed": "ok",
    "the_process_is_prepared": "ok",
    "a_terminal_stands_behind_it": "ok",
    "processes_are_killed_and_stopped": [],
    "a_session_stands_still": "ok",
    "others_data_is_looked_for": [],
    "others_sessions_are_asked_for": [],
    "grants_are_over": {
        "none": ["scope", ""],
        "over": ["scope", ""],
        "granted": ["ok", "ok"],
        "granted, another host": ["scope", ""],
        "ended meanwhile": "scope",
        "revoked": ["scope", ""],
    },
    "everything_is_full": {"bytes": "vault_full", "bytes after": "ok", "names": "vault_full", "names after": "ok"},
    "clocks_lie": ["ok"] * 3,
}


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest) -> Dict[str, Any]:
    inventory = request.config.getoption("ansible_inventory")
    return {name: testinfra.get_host("ansible://" + name, ansible_inventory=inventory) for name in ("vault1", "attacked", "victim")}


def account_of(host: Any) -> str:
    target = json.loads(host.file("/etc/openclaw-backup/policies/work.json").content_string)["target"]["url"]
    return str(target.partition("//")[2].partition("@")[0])


@pytest.fixture(scope="module")
def setting(hosts: Dict[str, Any]) -> str:
    """What the programs on the vault have to know, which they are brought to."""
    vault = hosts["vault1"]
    for name in ("attack.py", "guard.py"):
        text = (HERE / name).read_text(encoding="utf-8")
        vault.run_expect([0], "mkdir -p %s && cat >%s/%s <<'END-OF-FILE'\n%s\nEND-OF-FILE" % (PLACE, PLACE, name, text))
    account, victims = account_of(hosts["attacked"]), account_of(hosts["victim"])
    uid = int(vault.run_expect([0], "id -u " + victims).stdout)
    return json.dumps({"host": "attacked", "account": account, "victim": "victim", "victims_account": victims, "victims_uid": uid})


def try_it(vault: Any, name: str, setting: str) -> Dict[str, Any]:
    done = vault.run("timeout 100 python3 -B %s/guard.py %s '%s'" % (PLACE, name, setting))
    assert done.rc == 0, done.stdout + done.stderr
    found: Dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: Dict[str, Any], expected: Any) -> None:
    assert found["changes"] == [] and found["misshapen"] == [], found
    assert found.get("result", found) == expected, found.get("trace", found)


@pytest.mark.parametrize("name", EXPECTED)
def test_with_a_shell_on_the_vault(hosts: Dict[str, Any], setting: str, name: str) -> None:
    check(try_it(hosts["vault1"], name, setting), EXPECTED[name])


def test_a_flood_of_sessions_keeps_no_other_host_out(hosts: Dict[str, Any], setting: str) -> None:
    vault, victim = hosts["vault1"], hosts["victim"]
    vault.run_expect([0], "rm -f /tmp/held; (python3 -B %s/guard.py a_crowd_of_sessions '%s' >/tmp/flood.json 2>&1 &)" % (PLACE, setting))
    vault.run_expect([0], "for time in $(seq 600); do [ -e /tmp/held ] && exit; sleep 0.1; done; exit 1")
    try:
        victim.run_expect([0], "date >/srv/work/now && openclaw-backup run --quiet work")
    finally:
        vault.run("rm -f /tmp/held")
    vault.run_expect([0], "for time in $(seq 300); do [ -s /tmp/flood.json ] && exit; sleep 0.1; done; exit 1")
    found = json.loads(vault.file("/tmp/flood.json").content_string)
    # The victim's own run meanwhile has changed his history, as it should.
    assert [path for path in found["changes"] if "/snapshots/" in path] == []
    assert found.get("result", found) == "ok", found


def snapshots(vault: Any, host: str, policy: str = "work") -> List[str]:
    return sorted(vault.file("%s/%s/%s/snapshots" % (VAULT, host, policy)).listdir())


def test_a_prune_believes_no_host_what_time_it_is(hosts: Dict[str, Any]) -> None:
    vault = hosts["vault1"]
    before = {host: snapshots(vault, host) for host in ("attacked", "victim")}
    assert len(before["attacked"]) >= 4
    vault.run_expect([0], "runuser -u %s -- /usr/local/libexec/openclaw-backup/upkeep prune" % KEEPER)
    assert {host: snapshots(vault, host) for host in before} == before


def ssh(host: Any, key: str, account: str, *commands: str) -> List[Tuple[int, str]]:
    """What ssh to the vault with one of the host's keys ends with, and says on both streams, command by command."""
    options = "-n -o BatchMode=yes -o UserKnownHostsFile=%s/known_hosts -i %s/%s %s@vault1" % (SSH, SSH, key, account)
    return answers_of(host, ["timeout 20 ssh %s '%s'" % (options, command) for command in commands])


def answers_of(host: Any, commands: List[str]) -> List[Tuple[int, str]]:
    script = "\n".join("%s >/tmp/said 2>&1; code=$?; tr -cd '[:print:]\\n' </tmp/said; echo; echo END $code" % command for command in commands)
    said: List[Tuple[int, str]] = []
    lines: List[str] = []
    for line in host.run(script).stdout.splitlines():
        if line.startswith("END "):
            said.append((int(line[4:]), "\n".join(lines)))
            lines = []
        else:
            lines.append(line)
    return said


PLAIN = "rsync --server -tre.LsfxCIvu --timeout=300"
TX = "0" * 32


def injections() -> List[str]:
    place = "work/%s/files/" % TX
    others = "/srv/openclaw-backup/victim/work"
    options = (
        "--sender",
        "--sender --copy-links",
        "--copy-links",
        "--copy-unsafe-links",
        "--link-dest=" + others,
        "--link-dest=/basis",
        "--compare-dest=" + others,
        "--compare-dest=../../../../../victim",
        "--copy-dest=/basis/../../../../victim",
        "--copy-dest=" + others,
        "--log-file=/tmp/log",
        "--files-from=/etc/passwd",
        "--temp-dir=/tmp",
        "--partial-dir=/tmp",
        "--backup-dir=/tmp",
        "--delete",
        "--remove-source-files",
        "--write-devices",
        "--super",
        "--fake-super",
        "--no-munge-links",
        "--rsync-path=sh",
        "--config=/tmp/x",
        "--daemon",
        "-B1",
        "--debug=all",
        "--iconv=.",
        "--copy-devices",
    )
    lines = ["%s %s . %s" % (PLAIN, option, place) for option in options]
    places = ("../victim/work/%s/files/", "victim/work/%s/files/", "work/%s/", "work/%s/basis/", "work/%s/files/../../../x", "/", ".")
    lines += ["%s . %s" % (PLAIN, where.replace("%s", TX)) for where in places]
    lines += [PLAIN + " . " + place + words for words in ("; id", " /etc", "$(id)")]
    return [*lines, "rsync --server . `id`", "openclaw-backup serve --read", "openclaw-backup serve "]


def test_the_forced_command_takes_no_other_rsync(hosts: Dict[str, Any]) -> None:
    """A few over the network, with the host's own key; all of them as sshd would start the command."""
    host, vault = hosts["attacked"], hosts["vault1"]
    commands = injections()
    start = "runuser -u %s -- env SSH_ORIGINAL_COMMAND='%%s' openclaw-backup serve </dev/null" % account_of(host)
    answers = ssh(host, "id_ed25519", account_of(host), *commands[::10]) + answers_of(vault, [start % command for command in commands])
    asked = commands[::10] + commands
    assert len(answers) == len(asked)
    wrong = [(command, answer) for command, answer in zip(asked, answers) if answer[0] != 4 or "This key serves openclaw-backup alone" not in answer[1]]
    assert wrong == []


def test_a_read_key_opens_nothing_before_and_after_its_time(hosts: Dict[str, Any]) -> None:
    """Nor while its line is still there: the end of the key, and that of what was granted, each suffice."""
    host, vault = hosts["attacked"], hosts["vault1"]
    account = account_of(host)
    lines = "/var/lib/openclaw-ingest/%s/.ssh/authorized_keys" % account
    grant = "/etc/openclaw-backup/grants/%s.json" % account
    key = host.file(SSH + "/id_read_ed25519.pub").content_string.strip()
    command = 'command="/usr/local/bin/openclaw-backup serve --read"'
    said = ssh(host, "id_read_ed25519", account, "openclaw-backup serve")
    assert said[0][0] == 255 and "Permission denied" in said[0][1]
    before = vault.file(lines).content_string
    far = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + 600))
    try:
        vault.run_expect([0], "printf '%%s\\n' 'restrict,expiry-time=\"20200101000000Z\",%s %s' >>%s" % (command, key, lines))
        vault.run_expect([0], 'printf \'%%s\' \'{"until": "%s", "hosts": ["attacked"]}\' >%s; chmod 644 %s' % (far, grant, grant))
        said = ssh(host, "id_read_ed25519", account, "openclaw-backup serve")
        assert said[0][0] == 255 and "Permission denied" in said[0][1]
        vault.run_expect([0], "sed -i 's/expiry-time=\"2020/expiry-time=\"2090/' %s && rm %s" % (lines, grant))
        said = ssh(host, "id_read_ed25519", account, "openclaw-backup serve")
        assert "may not read from the vault" in said[0][1]
    finally:
        vault.run_expect([0], "rm -f %s; cat >%s <<'END'\n%s\nEND" % (grant, lines, before.rstrip("\n")))


def test_both_hosts_go_on_and_everything_is_whole(hosts: Dict[str, Any]) -> None:
    """After all that the attacked host takes its history up again, and the keeper finds every byte of what is newest right: what is older has not changed."""
    vault = hosts["vault1"]
    hosts["attacked"].run_expect([0], "openclaw-backup adopt --quiet work && date >/srv/work/now && openclaw-backup run --quiet work")
    hosts["victim"].run_expect([0], "date >/srv/work/later && openclaw-backup run --quiet work")
    policy = {"name": "play", "host": "attacked", "sources": ["/"], "target": VAULT}
    vault.run_expect([0], "printf '%%s' '%s' >/etc/openclaw-backup/play.json" % json.dumps(policy))
    for path in ("play", "vault/verify/attacked/work", "vault/verify/victim/work"):
        options = "--quiet --state /var/lib/openclaw-backup-vault /etc/openclaw-backup/%s.json" % path
        done = vault.run("runuser -u %s -- openclaw-backup verify %s" % (KEEPER, options))
        assert (done.rc, done.stdout, done.stderr) == (0, "", "")
    # Nor is there anything left of the sessions that broke.
    assert vault.run("ls -d %s/*/*/incoming/*" % VAULT).stdout == ""
