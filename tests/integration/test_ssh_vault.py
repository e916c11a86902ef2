# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault on another machine, over a real sshd: the same promises as next door."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.check import check
from ansible_collections.openclaw.backup.plugins.module_utils.action.history import list_paths, list_snapshots
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import hold, prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.state import HostState
from ansible_collections.openclaw.backup.plugins.module_utils.errors import BackupError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.scan import Hashed
from ansible_collections.openclaw.backup.plugins.module_utils.target.remote.connection import Connection
from ansible_collections.openclaw.backup.plugins.module_utils.target.remote.session import RemoteSession

from .sshd import Away, needs_sshd, policy_of
from .trees import fill
from .world import AS_ROOT, STORAGES, assert_same, error_of

pytestmark = [needs_sshd, pytest.mark.lab]


@pytest.fixture(params=STORAGES)
def away(request: pytest.FixtureRequest) -> Iterator[Away]:
    made = Away.over(request.param)
    yield made
    made.destroy()


@pytest.fixture
def simple() -> Iterator[Away]:
    made = Away.over("portable")
    (made.src / "a").write_text("one")
    (made.src / "b").write_text("two")
    yield made
    made.destroy()


def vault_processes(away: Away) -> List[int]:
    """The processes of the vault's side that serve this world."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--vault" in words and os.fsencode(away.vault) in words and b"serve" in words and not words[0].endswith(b"ssh"):
            found.append(int(name))
    return found


def when(condition: Callable[[], Any], then: Callable[[], Any]) -> threading.Thread:
    """Do something as soon as a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if condition():
                then()
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_everything_goes_over_changes_and_comes_back(away: Away, tmp_path: Path) -> None:
    fill(away.src, as_root=AS_ROOT)
    assert away.backup().changed
    (away.src / "new").write_bytes(os.urandom(100_000))
    (away.src / "files" / "empty").write_text("no more")
    (away.src / "files" / "large").unlink()
    second = away.backup()
    assert (second.added, second.removed, second.files_sent) == (1, 1, 2)
    away.restore(dest=tmp_path / "back")
    assert_same(away.restored(tmp_path / "back"), away.src)
    away.check_history(count=2)


def test_an_unchanged_host_does_not_connect_and_a_changed_one_once(simple: Away) -> None:
    for expected, change in ((1, "first"), (1, ""), (1, ""), (2, "second"), (2, "")):
        if change:
            (simple.src / "a").write_text(change)
        assert simple.backup(policy=simple.writing()).changed is bool(change)
        simple.hang_up()  # another run is another process
        assert simple.server.connections() == expected


@pytest.mark.parametrize("size", [4, 5_000_000])  # through the conversation, and by rsync
def test_what_changes_on_the_way_is_read_again(simple: Away, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    (simple.src / "a").write_bytes(b"1" * size)
    send = RemoteSession.send
    sent: List[int] = []

    def send_late(self: RemoteSession, *arguments: Any) -> Any:
        if not sent:
            (simple.src / "a").write_bytes(b"2" * size)
        sent.append(size)
        return send(self, *arguments)

    monkeypatch.setattr(RemoteSession, "send", send_late)
    done = simple.backup(policy=simple.writing())
    assert len(sent) == 2
    assert simple.stored(done.snapshot_id, "a").read_bytes() == b"2" * size


def test_a_vault_hears_of_a_host_that_reads_a_large_file_again(simple: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.action.backup import _Run
    from ansible_collections.openclaw.backup.plugins.module_utils.target.remote import session

    (simple.src / "large").write_bytes(b"1" * 5_000_000)
    send, reread, ask = RemoteSession.send, _Run._reread, Connection.ask
    said: List[Any] = []

    def send_late(self: RemoteSession, *arguments: Any) -> Any:
        if "reading" not in said:
            (simple.src / "large").write_bytes(b"2" * 5_000_000)
        return send(self, *arguments)

    def listen(self: _Run, *arguments: Any) -> Any:
        said.append("reading")
        found = reread(self, *arguments)
        said.append("read")
        return found

    def tell(self: Connection, message: Any, *arguments: Any) -> Any:
        said.append(message["do"])
        return ask(self, message, *arguments)

    monkeypatch.setattr(session, "_ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(RemoteSession, "send", send_late)
    monkeypatch.setattr(_Run, "_reread", listen)
    monkeypatch.setattr(Connection, "ask", tell)
    simple.backup(policy=simple.writing())
    assert "alive" in said[said.index("reading") : said.index("read")]


@pytest.mark.parametrize("size", [4, 5_000_000])
def test_what_grows_on_the_way_breaks_nothing(simple: Away, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    (simple.src / "a").write_bytes(b"1" * size)
    send = RemoteSession.send

    def send_late(self: RemoteSession, *arguments: Any) -> Any:
        with (simple.src / "a").open("ab") as stream:
            stream.write(b"more")
        return send(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteSession, "send", send_late)
        done = simple.backup(policy=simple.writing())
    stored = simple.stored(done.snapshot_id, "a").read_bytes()
    assert stored[:size] == b"1" * size and stored[size:] in (b"", b"more", b"moremore")
    simple.check_history(count=1)
    again = simple.backup(policy=simple.writing())
    assert simple.stored(again.snapshot_id, "a").read_bytes() == (simple.src / "a").read_bytes()


def test_the_vault_is_called_as_soon_as_a_change_is_certain(simple: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    simple.backup()
    order: List[str] = []

    def note(cls: type, name: str) -> None:
        real = getattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *given, **more: (order.append(cls.__name__), real(*given, **more))[1])

    note(Connection, "__init__")
    note(Hashed, "finish")
    for change in (lambda: (simple.src / "a").write_text("another"), lambda: os.utime(simple.src / "a", (0, 0))):
        simple.hang_up()
        change()
        assert simple.backup().changed
    assert order == ["Connection", "Hashed", "Hashed", "Connection"]


def test_a_heartbeat_is_one_connection_and_heals(simple: Away) -> None:
    first = simple.backup(policy=simple.writing())
    stored = simple.stored(first.snapshot_id, "a")
    os.chmod(stored, 0o600)
    stored.write_text("bad")
    assert not simple.verify(depth="full").ok
    simple.hang_up()
    before = simple.server.connections()
    healed = simple.backup(policy=simple.writing(heartbeat="1s"))
    assert healed.changed and healed.files_sent == 1
    simple.hang_up()
    assert simple.server.connections() == before + 1
    assert simple.stored(healed.snapshot_id, "a").read_text() == "one"


def test_the_key_of_every_day_adds_looks_and_reads_no_content(simple: Away) -> None:
    policy = simple.writing()
    simple.backup(policy=policy)
    assert len(list_snapshots(policy)) == 1
    assert [os.path.basename(entry.path) for entry in list_paths(policy, "latest", str(simple.src))[1]] == [b"a", b"b"]
    for what in (
        lambda: simple.restore(policy=policy, dest=simple.root / "back"),
        lambda: simple.restore(policy=policy, dest=simple.root / "back", paths=[str(simple.src / "a")]),
    ):
        error = error_of(what)
        assert (error.kind, error.rc) == ("scope", 4)
    assert not (simple.root / "back" / "a").exists()


def test_nothing_is_destroyed_when_reading_is_refused(simple: Away) -> None:
    simple.backup(policy=simple.writing())
    (simple.src / "a").write_text("mine")
    (simple.src / "c").write_text("mine too")
    error = error_of(lambda: simple.restore(policy=simple.writing(), confirm=True, delete=True))
    assert error.kind == "scope"
    assert sorted(os.listdir(simple.src)) == ["a", "b", "c"]
    assert (simple.src / "a").read_text() == "mine"


def test_a_host_cannot_remove_or_hold(simple: Away) -> None:
    policy = simple.policy(retention={"keep_last": 1, "protect": "0s"})
    simple.backup(policy=policy)
    (simple.src / "a").write_text("again")
    simple.backup(policy=policy)
    state = str(simple.state)
    for what in (lambda: prune(policy, state_directory=state), lambda: hold(policy, state_directory=state, snapshot="latest", reason="x")):
        error = error_of(what)
        assert (error.kind, error.rc) == ("scope", 4)
        assert error.next and "on the vault" in error.next
    assert len(simple.snapshots()) == 2


def test_another_hosts_key_is_refused(simple: Away) -> None:
    simple.backup(policy=simple.writing())
    for host in ("other", "h2"):
        error = error_of(lambda host=host: simple.backup(policy=simple.writing(host=host)))
        assert (error.kind, error.field, error.rc) == ("scope", "host", 4)
    assert sorted(os.listdir(simple.vault)) == [".slots", "format.json", "h"]


@pytest.mark.parametrize("trouble", ["changed", "unknown", "no file", "denied", "no key", "open key", "refused port", "no vault program", "a shell that talks"])
def test_what_is_wrong_with_the_connection_is_told_and_nothing_happens(simple: Away, trouble: str) -> None:
    server = simple.server
    target = simple.writing().target
    changes = {"url": target.url, "identity_file": target.identity_file, "known_hosts_file": target.known_hosts_file}
    kind, rc = {
        "changed": ("host_key", 6),
        "unknown": ("host_key", 6),
        "no file": ("ssh_key", 2),
        "denied": ("ssh_denied", 6),
        "no key": ("ssh_key", 2),
        "open key": ("ssh_key", 6),
    }.get(trouble, ("unreachable", 6))
    if trouble == "changed":
        server.change_host_key()
    elif trouble == "unknown":
        server.known_hosts.write_text("")
    elif trouble == "no file":
        changes["known_hosts_file"] = str(simple.root / "nowhere")
    elif trouble == "denied":
        server.authorized.write_text("")
    elif trouble == "no key":
        changes["identity_file"] = str(simple.root / "nowhere")
    elif trouble == "open key":
        os.chmod(str(target.identity_file), 0o644)
    elif trouble == "refused port":
        server.stop()
    elif trouble == "no vault program":
        changes["identity_file"] = str(server.add_key("broken", command=["/nonexistent/openclaw-backup", "serve"]))
        kind = "connection"
    else:
        changes["identity_file"] = str(server.add_key("talkative", command=["echo", "Welcome to the vault"]))
        kind = "protocol"
    before = server.known_hosts.read_text()
    error = error_of(lambda: simple.backup(policy=policy_of(simple.src, changes)))
    assert (error.kind, error.rc) == (kind, rc), error
    assert error.next
    if kind == "host_key":
        assert str(target.known_hosts_file) in error.next
    assert server.known_hosts.read_text() == before  # a host key is never taken on trust
    assert not simple.vault.exists()
    assert HostState(str(simple.state), simple.writing()).baseline() is None


def test_a_host_key_changed_between_runs_is_refused(simple: Away) -> None:
    simple.backup(policy=simple.writing())
    simple.hang_up()
    simple.server.change_host_key()
    (simple.src / "a").write_text("changed")
    error = error_of(lambda: simple.backup(policy=simple.writing()))
    assert (error.kind, error.rc) == ("host_key", 6)
    simple.server.trust()
    assert simple.backup(policy=simple.writing()).changed


def test_a_cut_connection_leaves_what_arrived_for_the_next_run(simple: Away) -> None:
    for number in range(40):
        (simple.src / ("large %d" % number)).write_bytes(os.urandom(1 << 20))
    policy = simple.writing(transfer={"bwlimit": "8m", "streams": 1})
    incoming = simple.vault / "h" / "p" / "incoming"

    def received() -> int:
        return sum(1 for path in incoming.glob("*/in/files/**/large *") if path.stat().st_size)

    cut = when(lambda: received() >= 5, lambda: [os.kill(pid, signal.SIGKILL) for pid in vault_processes(simple)])
    error = error_of(lambda: simple.backup(policy=policy))
    cut.join()
    assert error.rc in (1, 6), error
    assert not simple.snapshots()
    there = received()
    assert there >= 5
    simple.hang_up()
    again = simple.backup(policy=simple.writing())
    assert again.changed
    assert again.bytes_wire < (42 - there + 2) << 20  # what had arrived did not travel again
    simple.check_history(count=1)


def test_a_vault_killed_at_any_instant_is_whole_and_the_next_run_succeeds(simple: Away) -> None:
    for number in range(300):
        (simple.src / ("f%d" % number)).write_bytes(os.urandom(1000))
    simple.backup(policy=simple.writing())
    expected = 1
    for delay in (0.1, 0.25, 0.4, 0.55, 0.7):
        for number in range(0, 300, 3):
            (simple.src / ("f%d" % number)).write_bytes(os.urandom(1000))
        simple.hang_up()
        at = time.monotonic() + delay
        killer = when(
            lambda at=at: time.monotonic() > at and vault_processes(simple), lambda: [os.kill(pid, signal.SIGKILL) for pid in vault_processes(simple)]
        )
        try:
            simple.backup(policy=simple.writing())
        except BackupError as error:
            assert error.rc in (1, 6), error
        killer.join()
        before = len(simple.snapshots())
        assert before in (expected, expected + 1)  # the old one, or the new one whose acknowledgement was lost
        simple.hang_up()
        simple.backup(policy=simple.writing())
        expected = len(simple.snapshots())
        simple.check_history()
        assert simple.stored(simple.snapshots()[0].id, "f0").read_bytes() == (simple.src / "f0").read_bytes()


def test_one_page_of_a_large_file_is_all_that_travels(simple: Away) -> None:
    large = simple.src / "large"
    large.write_bytes(os.urandom(32 << 20))
    simple.backup(policy=simple.writing())
    with large.open("r+b") as stream:
        stream.seek(12345678)
        stream.write(b"x" * 4096)
    second = simple.backup(policy=simple.writing())
    assert second.files_sent == 1 and second.bytes_sent == 32 << 20
    assert second.bytes_wire < 1 << 20
    assert simple.stored(second.snapshot_id, "large").read_bytes() == large.read_bytes()
    assert simple.stored(simple.snapshots()[1].id, "large").stat().st_ino != simple.stored(second.snapshot_id, "large").stat().st_ino


def test_two_at_once_take_turns_or_are_told(simple: Away) -> None:
    simple.backup(policy=simple.writing())
    (simple.src / "a").write_text("changed")
    session = simple.target.begin("0" * 32, simple.snapshots()[0].id)
    try:
        error = error_of(lambda: simple.backup(policy=simple.writing()))
        assert (error.kind, error.rc) == ("locked", 5)
    finally:
        session.close()
    assert simple.backup(policy=simple.writing()).changed


def test_two_machines_that_take_themselves_for_one_host_are_told_apart(simple: Away) -> None:
    simple.backup(policy=simple.writing())
    (simple.src / "a").write_text("theirs")
    clone = str(simple.root / "clone")
    subprocess.run(["cp", "-a", str(simple.state), clone], check=True)
    simple.backup(policy=simple.writing(), state_directory=clone)
    (simple.src / "a").write_text("ours")
    error = error_of(lambda: simple.backup(policy=simple.writing()))
    assert (error.kind, error.rc) == ("writer", 4)


def test_holes_cost_nothing_on_the_way(simple: Away) -> None:
    with (simple.src / "sparse").open("wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(1 << 29)
        stream.write(b"island")
    first = simple.backup(policy=simple.writing())
    assert first.bytes_wire < 1 << 20
    assert simple.stored(first.snapshot_id, "sparse").stat().st_blocks < 1000
    simple.restore(dest=simple.root / "back")
    back = simple.restored(simple.root / "back") / "sparse"
    assert back.stat().st_size == 1 << 30 and back.stat().st_blocks < 1000


def test_the_canary_goes_over_and_leaves_nothing(simple: Away) -> None:
    result = check(simple.writing(), state_directory=str(simple.state))
    assert result.canary and result.canary["bytes"]
    assert sorted(os.listdir(simple.vault)) == [".slots", "format.json"]


def test_a_vault_that_stands_still_is_given_up(simple: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody listens there and says nothing."""
    from ansible_collections.openclaw.backup.plugins.module_utils.target.remote import connection

    monkeypatch.setattr(connection, "_GREETING_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = "ssh://127.0.0.1:%d/" % silent.getsockname()[1]
        error = error_of(lambda: simple.backup(policy=policy_of(simple.src, {"url": url})))
    assert (error.kind, error.rc) == ("unreachable", 6)


def test_clocks_that_are_far_apart_are_told_of(simple: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.remote import target

    assert simple.backup(policy=simple.writing()).warnings == []
    simple.hang_up()
    (simple.src / "a").write_text("later")
    monkeypatch.setattr(target, "_SKEW", -1)  # a vault with another clock is the lab's business
    (warning,) = simple.backup(policy=simple.writing()).warnings
    assert "the clocks of vault and host are 0 s apart" in warning


def test_a_limit_on_the_rate_leaves_nothing_behind(simple: Away) -> None:
    first = simple.backup(policy=simple.writing(transfer={"bwlimit": "50m"}))
    assert first.files_sent == 2 and first.bytes_wire > 0
    assert simple.stored(first.snapshot_id, "a").read_text() == "one"
    (simple.src / "a").write_text("changed")
    assert simple.backup(policy=simple.writing(transfer={"bwlimit": "50m"})).files_sent == 1
    simple.check_history(count=2)
