# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong with links, disks, clocks and machines: each ends with a clear error, an unharmed history, and a next run that succeeds."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Dict, List

import pytest

VAULT = "/srv/openclaw-backup"
MIB = 1 << 20

# Kills the keeper's processes that serve a host, some seconds after it opened a session. Says how many they were, and how far they had come.
_KILL = """
import json, os, signal, sys, time
host, policy, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
incoming = "/srv/openclaw-backup/%s/%s/incoming" % (host, policy)
def open_sessions():
    try:
        return os.listdir(incoming)
    except FileNotFoundError:
        return []
def processes():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % name, "rb") as words, open("/proc/%s/stat" % name, "rb") as stat:
                yield int(name), int(stat.read().rpartition(b")")[2].split()[1]), words.read()
        except OSError:
            pass
deadline = time.monotonic() + 100
while not open_sessions() and time.monotonic() < deadline:
    time.sleep(0.002)
time.sleep(delay)
found = list(processes())
below = {pid for pid, parent, words in found if words.startswith(b"sshd") and b": ocb-%s-" % host.encode() in words}
while True:
    more = {pid for pid, parent, words in found if parent in below} - below
    if not more:
        break
    below |= more
chosen = [pid for pid, parent, words in found if pid in below and b"--session" in words and b"python" in words]
for pid in chosen:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
is_building = any(os.path.isdir(os.path.join(incoming, tx, "snapshot", "tree")) for tx in open_sessions())
print(json.dumps({"killed": len(chosen), "building": is_building}))
"""
# Ends the sshd of an account's connections.
_HANG_UP = """
import json, os, signal, sys
found = []
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open("/proc/%s/cmdline" % name, "rb") as stream:
            title = stream.read().decode("utf-8", "replace")
    except OSError:
        continue
    if "sshd" in title and ": ocb-%s-" % sys.argv[1] in title:
        os.kill(int(name), signal.SIGKILL)
        found.append(title)
print(json.dumps(found))
"""


def wait_for(condition: Any, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Cut:
    """A link that dies without a word while web3 sends: no packet comes through any more, and nobody is told. It takes a minute to be noticed."""

    def __init__(self, lab: Any) -> None:
        self._lab = lab
        self.problem: List[BaseException] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._tell()
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            self.problem.append(error)

    def _tell(self) -> None:
        vault, web3 = self._lab.vault, self._lab.web3
        web3.add_policy("silent", transfer={"bwlimit": "2m", "streams": 1})
        web3.back_up("silent").expect(0)
        web3.fill("silent", 12, 1024)
        with vault.unharmed("web3", "silent", new=0):
            running = web3.backing_up("silent")
            wait_for(lambda: vault.arrived("web3", "silent") >= 4)
            for one, other in ((vault, web3), (web3, vault)):
                one.from_outside("net", "ip", "route", "add", "blackhole", other.address + "/32")
            began = time.monotonic()
            self.error = running.end().expect(6)["error"]
            self.noticed_after = time.monotonic() - began
            for one, other in ((vault, web3), (web3, vault)):
                one.from_outside("net", "ip", "route", "del", "blackhole", other.address + "/32")
        with vault.unharmed("web3", "silent", new=1):
            again = web3.back_up("silent")
        # Meanwhile another test may have the vault's clock wrong.
        others = [text for text in again.result.get("warnings", []) if "the clocks of vault and host" not in text]
        assert again.rc in (0, 3) and not others, again
        self.again = again.result


def test_an_unchanged_host_opens_no_connection_between_heartbeats_and_a_changed_one_opens_one(lab: Any) -> None:
    host, vault = lab.web1, lab.vault
    before = vault.connections("web1")
    for _again in range(2):
        assert host.back_up("work").expect(0)["changed"] is False
    assert vault.connections("web1") == before
    host.change("work")
    assert host.back_up("work").expect(0)["changed"] is True
    assert host.back_up("work").expect(0)["changed"] is False
    assert vault.connections("web1") == before + 1
    host.sh("rm /var/lib/openclaw-backup/web1/work/targets/*/heartbeat.json")  # as if the hour had passed
    for _again in range(2):
        assert host.back_up("work").expect(0)["changed"] is False
    assert vault.connections("web1") == before + 2


def test_ten_hosts_at_once_all_finish_though_the_vault_serves_two(lab: Any) -> None:
    names = {"ten%d" % number: lab.clients[number % 3] for number in range(10)}
    policies = {name: host.pose_as(name, lab.vault) for name, host in names.items()}
    for name, host in names.items():
        host.fill(name, 20, 10)
    with lab.vault.sessions() as open_at_once:
        running = {name: host.backing_up(policies[name]) for name, host in names.items()}
        results = {name: run.end() for name, run in running.items()}
    assert {name: (result.rc, result.result.get("changed")) for name, result in results.items()} == dict.fromkeys(names, (0, True))
    assert open_at_once == [2]
    for name in names:
        assert lab.vault.verify(name, "work").expect(0)["hashed_files"] == 21


def test_four_runs_of_one_host_at_once_wait_for_one_another(lab: Any) -> None:
    host = lab.web1
    policies = ("q1", "q2", "q3", "q4")
    for name in policies:
        host.add_policy(name)
        host.fill(name, 20, 10)
    with lab.vault.sessions() as open_at_once:
        running = [host.backing_up(name) for name in policies]
        results = [run.end() for run in running]
    assert [(result.rc, result.result.get("changed")) for result in results] == [(0, True)] * 4
    assert open_at_once == [1]
    for name in policies:
        assert lab.vault.verify("web1", name).expect(0)["hashed_files"] == 21


# Before a link dies silently: a vault without room removes what dead sessions of any host have left.
def test_a_vault_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(lab: Any) -> None:
    host, vault = lab.web1, lab.vault
    host.add_policy("full", transfer={"bwlimit": "4m", "streams": 1})
    host.back_up("full").expect(0)
    place = VAULT + "/web1/full"
    vault.sh('cp -a "$1" /root/full', place)
    vault.from_outside("mount", "mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place)
    vault.sh('cp -a /root/full/. "$1/"', place)
    host.fill("full", 30, 2048)
    with vault.unharmed("web1", "full", new=0):  # more than there is room for is refused before any of it is sent
        error = host.back_up("full").expect(4, "vault_full")["error"]
        assert "MiB" in error["allowed"] or "bytes" in error["allowed"]
        assert vault.sh('ls "$1/incoming"', place) == ""
    host.sh("cd /srv/full && for n in $(seq 11 30); do rm f$n; done")
    with vault.unharmed("web1", "full", new=0):  # somebody else fills it meanwhile
        running = host.backing_up("full")
        wait_for(lambda: vault.arrived("web1", "full") >= 2)
        vault.sh('dd if=/dev/zero of="$1/filler" bs=1M status=none || true', place)
        running.end().expect(1, "vault_full")
        host.back_up("full").expect(4, "vault_full")  # nor is there any now
    vault.sh('rm "$1/filler"', place)
    with vault.unharmed("web1", "full", new=1):
        host.back_up("full").expect(0)


@pytest.fixture(scope="module")
def silent_cut(lab: Any) -> Any:
    """Goes on beside the other tests, to whom web3 is of no interest from now on."""
    cut = Cut(lab)
    yield cut
    cut.thread.join()


def test_a_link_that_is_cut_leaves_what_arrived_for_the_next_run(lab: Any, silent_cut: Any) -> None:
    host, vault = lab.web1, lab.vault
    host.add_policy("cut", transfer={"bwlimit": "4m", "streams": 1})
    host.back_up("cut").expect(0)
    host.fill("cut", 16, 1024)
    with vault.unharmed("web1", "cut", new=0):
        running = host.backing_up("cut")
        wait_for(lambda: vault.arrived("web1", "cut") >= 8)
        assert vault.python(_HANG_UP, "web1")
        error = running.end().expect(6)["error"]
        assert error["kind"] in ("connection", "unreachable") and error["next"], error
    with vault.unharmed("web1", "cut", new=1):
        again = host.back_up("cut").expect(0)
    assert again["bytes_wire"] < (16 - 7) * MIB


def test_two_runs_of_one_policy_at_once_are_one_run_and_one_refusal(lab: Any) -> None:
    host, vault = lab.web1, lab.vault
    host.add_policy("twice", transfer={"bwlimit": "2m", "streams": 1})
    host.back_up("twice").expect(0)
    host.fill("twice", 8, 1024)
    with vault.unharmed("web1", "twice", new=1):
        first = host.backing_up("twice")
        wait_for(lambda: vault.arrived("web1", "twice"))
        host.back_up("twice").expect(5, "locked")
        first.end().expect(0)
        assert host.back_up("twice").expect(0)["changed"] is False


@pytest.fixture(scope="module")
def many(lab: Any) -> str:
    """A policy of some thousand files."""
    lab.web2.add_policy("many")
    _rewrite_many(lab.web2)
    lab.web2.back_up("many").expect(0)
    return "many"


def _rewrite_many(host: Any) -> None:
    """Each third file is another than before."""
    program = """
import os, sys, time
for number in range(3000):
    path = "/srv/many/%d/%d" % (number % 50, number)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if number % 3 == 0 or not os.path.exists(path):
        with open(path, "wb") as stream:
            stream.write(os.urandom(1000).hex().encode("ascii"))  # what cannot be compressed would be taken for encrypted
print("{}")
"""
    host.python(program)


def test_a_vault_killed_at_any_instant_of_a_commit_is_whole_and_the_next_run_succeeds(lab: Any, many: str) -> None:
    host, vault = lab.web2, lab.vault
    stages = []
    for delay in (0, 0.1, 0.2, 0.35, 0.5):
        _rewrite_many(host)
        before = vault.history("web2", many)
        running = host.backing_up(many)
        stages.append(vault.python(_KILL, "web2", many, str(delay)))
        outcome = running.end()
        assert outcome.rc in (0, 6), outcome
        if outcome.rc:
            assert outcome.kind in ("connection", "unreachable") and outcome.result["error"]["next"], outcome
        after = vault.history("web2", many)
        assert {name: after.get(name) for name in before} == before
        assert len(after) - len(before) in (0, 1)  # one more where only the answer was lost
        with vault.unharmed("web2", many, new=len(before) + 1 - len(after)):
            host.back_up(many).expect(0)
    assert any(stage["killed"] for stage in stages) and any(stage["building"] for stage in stages), stages


@pytest.fixture(scope="module")
def clock(lab: Any) -> str:
    """A policy for hosts and vaults whose clocks are wrong."""
    lab.web2.add_policy("clock")
    lab.web2.back_up("clock").expect(0)
    return "clock"


@pytest.mark.parametrize("days", [2, -2])
def test_a_host_whose_clock_is_wrong_is_told_and_its_snapshot_bears_the_vaults_time(lab: Any, clock: str, days: int) -> None:
    host, vault = lab.web2, lab.vault
    host.change(clock)
    with vault.unharmed("web2", clock, new=1), host.clock_off_by(days * 86400):
        result = host.back_up(clock).expect(3)
    assert [text for text in result["warnings"] if "the clocks of vault and host are" in text], result
    today = vault.sh("date -u +%Y-%m-%d").strip()
    assert result["receipt"]["created"][:10] == today != result["receipt"]["claimed"][:10]
    host.change(clock)
    with vault.unharmed("web2", clock, new=1):
        host.back_up(clock).expect(0)


def test_a_vault_whose_clock_went_back_a_little_goes_on_and_one_that_is_far_behind_refuses(lab: Any, clock: str) -> None:
    host, vault = lab.web2, lab.vault
    host.change(clock)
    with vault.unharmed("web2", clock, new=1), vault.clock_off_by(-240):
        host.back_up(clock).expect(0)
    host.change(clock)
    with vault.unharmed("web2", clock, new=0), vault.clock_off_by(-7200):
        host.back_up(clock).expect(4, "clock")
        assert vault.sh('ls "$1"', "%s/web2/%s/incoming" % (VAULT, clock)) == ""
    with vault.unharmed("web2", clock, new=1):
        host.back_up(clock).expect(0)


def test_a_vault_whose_clock_was_far_ahead_refuses_until_the_recipe_was_followed(lab: Any, clock: str) -> None:
    host, vault = lab.web2, lab.vault
    host.change(clock)
    with vault.clock_off_by(86400):
        future = host.back_up(clock).expect(3)["snapshot_id"]
    host.change(clock)
    with vault.unharmed("web2", clock, new=0):
        error = host.back_up(clock).expect(4, "clock")["error"]
        assert "docs/recovery.md" in error["next"]
    place = "%s/web2/%s" % (VAULT, clock)
    vault.sh('mkdir -p -m 0700 "$1/set-aside"; mv "$1/snapshots/$2" "$1/set-aside/"', place, future)
    with vault.unharmed("web2", clock, new=1):
        host.do("adopt", clock).expect(0)
        host.back_up(clock).expect(0)


def test_a_vault_that_was_restored_from_an_older_state_is_told_of_and_gone_on_from(lab: Any) -> None:
    host, vault = lab.web1, lab.vault
    host.add_policy("older")
    host.back_up("older").expect(0)
    place = VAULT + "/web1/older"
    vault.sh('cp -a "$1" /root/older', place)
    host.change("older")
    lost = host.back_up("older").expect(0)["snapshot_id"]
    vault.sh('rm -rf "$1"; cp -a /root/older "$1"', place)
    host.change("older")
    with vault.unharmed("web1", "older", new=1):
        result = host.back_up("older").expect(3)
        (warning,) = result["warnings"]
        assert warning.startswith("the target went back from %s to " % lost)
    assert vault.read(vault.latest("web1", "older") + "/srv/older/file") == host.read("/srv/older/file")
    # A host that has lost its memory as well does not know whose the history is.
    vault.sh('rm -rf "$1"; cp -a /root/older "$1"', place)
    host.sh("rm -r /var/lib/openclaw-backup/web1/older")
    with vault.unharmed("web1", "older", new=1):
        host.back_up("older").expect(4, "restore_first")
        host.do("adopt", "older").expect(0)
        host.back_up("older").expect(0)


def test_a_vault_without_its_history_is_no_reason_to_begin_a_new_one_unasked(lab: Any) -> None:
    host, vault = lab.web1, lab.vault
    host.add_policy("gone")
    host.back_up("gone").expect(0)
    vault.sh('mv "$1/web1/gone" /root/gone', VAULT)
    host.change("gone")
    host.back_up("gone").expect(6, "history_lost")
    vault.sh('rm -rf "$1/web1/gone"; mv /root/gone "$1/web1/gone"', VAULT)
    with vault.unharmed("web1", "gone", new=1):
        host.back_up("gone").expect(0)


@pytest.mark.parametrize("is_changed", [True, False])
def test_a_snapshot_that_rotted_is_found_and_healed_from_its_source(lab: Any, is_changed: bool) -> None:
    host, vault = lab.web1, lab.vault
    name = "rot%d" % is_changed
    host.add_policy(name)
    host.fill(name, 3, 300)
    host.back_up(name).expect(0)
    path = "%s/srv/%s/f2" % (vault.latest("web1", name), name)
    old = vault.sh('stat -c %y "$1"', path).strip()
    vault.sh('printf rotten | dd of="$1" bs=1 seek=100000 conv=notrunc status=none; touch -d "$2" "$1"', path, old)
    found = vault.verify("web1", name).expect(7)
    assert [item["path"] for item in found["damaged"]] == ["/srv/%s/f2" % name]
    if is_changed:
        host.change(name)
    else:
        host.sh('rm /var/lib/openclaw-backup/web1/"$1"/targets/*/heartbeat.json', name)  # as if the hour had passed
    with vault.unharmed("web1", name, new=1):
        assert host.back_up(name).expect(0)["healed"] == 1


def test_a_host_that_was_cloned_is_told_and_nothing_is_mixed(lab: Any) -> None:
    host, other, vault = lab.web1, lab.web2, lab.vault
    host.add_policy("clone")
    host.back_up("clone").expect(0)
    for path in ("/etc/openclaw-backup/ssh/id_ed25519", "/etc/openclaw-backup/ssh/known_hosts"):
        other.write("/root/" + path.rpartition("/")[2], host.read(path))
    policy: Dict[str, Any] = json.loads(host.read("/etc/openclaw-backup/policies/clone.json"))
    policy["target"].update(identity_file="/root/id_ed25519", known_hosts_file="/root/known_hosts")
    other.write("/root/clone.json", json.dumps(policy))
    other.sh("mkdir /srv/clone && echo clone >/srv/clone/file")
    lab.copy_state("clone", host, other)
    with vault.unharmed("web1", "clone", new=1):
        other.back_up("/root/clone.json").expect(0)
    host.change("clone")
    with vault.unharmed("web1", "clone", new=0):
        error = host.back_up("clone").expect(4, "writer")["error"]
        assert "find the other machine" in error["next"] and "adopt" in error["next"]
    assert vault.read(vault.latest("web1", "clone") + "/srv/clone/file") == "clone\n"
    with vault.unharmed("web1", "clone", new=1):
        host.do("adopt", "clone").expect(0)
        host.back_up("clone").expect(0)
    assert vault.read(vault.latest("web1", "clone") + "/srv/clone/file") == host.read("/srv/clone/file")
    other.change("clone")
    with vault.unharmed("web1", "clone", new=0):
        other.back_up("/root/clone.json").expect(4, "writer")


def test_a_link_that_dies_silently_is_given_up_and_the_next_run_goes_on(silent_cut: Any) -> None:
    silent_cut.thread.join()
    if silent_cut.problem:
        raise silent_cut.problem[0]
    assert silent_cut.error["kind"] in ("connection", "unreachable") and silent_cut.error["next"], silent_cut.error
    assert silent_cut.noticed_after < 200
    assert silent_cut.again["bytes_wire"] < (12 - 3) * MIB


def test_a_vault_that_restarts_in_a_commit_is_whole_and_the_next_run_succeeds(lab: Any, many: str) -> None:
    host, vault = lab.web2, lab.vault
    _rewrite_many(host)
    with vault.unharmed("web2", many, new=1):
        running = host.backing_up(many)
        wait_for(lambda: vault.sh('ls "$1"', "%s/web2/%s/incoming" % (VAULT, many)))
        lab.restart_vault()
        outcome = running.end()
        assert outcome.rc == 6 and outcome.result["error"]["next"], outcome
        host.back_up(many).expect(0)
