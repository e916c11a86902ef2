# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says that is in an attacker's hands: the vault's side of the conversation takes nothing on trust, and no committed snapshot changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import struct
import threading
import time
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent import keeper
from ansible_collections.openclaw.backup.plugins.module_utils.agent.conversation import Conversation
from ansible_collections.openclaw.backup.plugins.module_utils.agent.keeper import Keeper, Limits
from ansible_collections.openclaw.backup.plugins.module_utils.errors import RefusedError, TargetError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.delta import make_delta
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import DIRECTORY, FILE, SYMLINK, Entry
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import rfc3339
from ansible_collections.openclaw.backup.plugins.module_utils.target.remote import wire
from ansible_collections.openclaw.backup.plugins.module_utils.target.remote.wire import MAX_JSON, PROTOCOL, Wire
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import layout

from .world import World, differences, fingerprint, needs_root

CONTENT = {b"src/a": b"one", b"src/b": b"two"}


class Host:
    """The other end of a conversation, which says what it likes."""

    def __init__(
        self, world: World, *, readable: Sequence[str] = (), may_add: bool = True, look_again: Optional[Callable[[], Keeper]] = None, **limits: Any
    ) -> None:
        ours, theirs = socket.socketpair()
        self._sockets = (ours, theirs)
        self.ask_more: Dict[str, Any] = {}  # what else the host says at begin
        bounds = Limits(**{"idle": 10, "wait": 1, **limits})
        known = Keeper(str(world.vault), "h", tuple(readable), storage=world.storage, limits=bounds, may_make=True, may_add=may_add)
        self.conversation = Conversation(Wire(os.dup(theirs.fileno()), os.dup(theirs.fileno())), known, look_again or (lambda: known))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        self.wire = Wire(ours.fileno(), ours.fileno(), patience=10)
        self.wire.read_greeting()

    def _serve(self) -> None:
        with contextlib.suppress(Exception):
            self.conversation.hold()
        self._sockets[1].shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sockets[0].shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        assert not self.thread.is_alive()

    def ask(self, do: str, *stream: bytes, **arguments: Any) -> Dict[str, Any]:
        """The whole answer."""
        self.wire.send({"do": do, **arguments})
        if stream:
            with contextlib.suppress(TargetError):  # who is refused at once is not listened to
                self.wire.send_stream(stream)
        return self.hear()

    def hear(self) -> Dict[str, Any]:
        while True:
            answer = self.wire.receive()
            if "busy" not in answer:
                return answer

    def refused(self, do: str, *stream: bytes, **arguments: Any) -> str:
        """The kind of the error that comes back."""
        answer = self.ask(do, *stream, **arguments)
        assert "error" in answer, answer
        assert answer["error"]["message"]
        return str(answer["error"]["kind"])

    def hello(self, host: str = "h", policy: str = "p", **more: Any) -> Dict[str, Any]:
        return self.ask("hello", **{"protocol": PROTOCOL, "engine": "x", "host": host, "policy": policy, **more})

    def begin(self, parent: Optional[str] = None, tx: str = "a" * 32) -> Dict[str, Any]:
        answer = self.ask("begin", tx=tx, parent=parent, tags=[], **self.ask_more)
        if "ok" in answer:
            self.damaged = b"".join(self.wire.receive_stream(1 << 26)).split(b"\0")[:-1]
        return answer

    def propose(self, manifest: Manifest) -> Dict[str, Any]:
        answer = self.ask("propose", make_delta(None, manifest, same_times=True), delta=False, expected="")
        if "ok" in answer and not answer["ok"]["same"]:
            b"".join(self.wire.receive_stream(1 << 20))
        return answer


def entry(path: bytes, content: Optional[bytes] = None, **more: Any) -> Entry:
    base = Entry(path, DIRECTORY, 0o755, 0, 0, 0, 0, "", None, None, (), None, False, False)
    if content is not None:
        base = base._replace(type=FILE, mode=0o644, size=len(content), hash=hashlib.sha256(content).hexdigest())
    return base._replace(**more)


def header(**more: Any) -> Header:
    plain = Header(host="h", policy="p", sources=("/src",), selection={}, engine="x", claimed="2026-11-20T09:15:00.123Z")
    return replace(plain, **more)


def manifest_of(content: Dict[bytes, bytes], **more: Any) -> Manifest:
    return Manifest.from_entries(header(**more), [entry(b"src"), *(entry(path, data) for path, data in content.items())])


def arrivals(world: World, tx: str = "a" * 32) -> Path:
    return world.history / "incoming" / tx / "in" / "files"


def deliver(world: World, content: Dict[bytes, bytes], tx: str = "a" * 32) -> None:
    """What rsync would do."""
    for path, data in content.items():
        place = arrivals(world, tx) / os.fsdecode(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


@pytest.fixture
def vault() -> Iterator[World]:
    made = World.make("portable")
    yield made
    made.destroy()


@pytest.fixture
def host(vault: World) -> Iterator[Host]:
    made = Host(vault)
    assert "ok" in made.hello()
    yield made
    made.hang_up()


def commit(host: Host, vault: World, content: Dict[bytes, bytes], parent: Optional[str] = None, tx: str = "a" * 32) -> Dict[str, Any]:
    assert "ok" in host.begin(parent, tx)
    manifest = manifest_of(content)
    assert "ok" in host.propose(manifest)
    deliver(vault, content, tx)
    return host.ask("commit", digest=manifest.digest)


def test_an_honest_host_commits(host: Host, vault: World) -> None:
    answer = commit(host, vault, CONTENT)
    assert answer["ok"]["receipt"]["files"] == 2
    vault.check_history(count=1)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ({"protocol": 2}, "protocol"),
        ({"protocol": None}, "protocol"),
        ({"host": "other"}, "scope"),
        ({"host": "../h"}, "usage"),
        ({"host": ""}, "usage"),
        ({"host": 5}, "usage"),
        ({"policy": ".."}, "usage"),
        ({"policy": "a/b"}, "usage"),
        ({"policy": ".slots"}, "usage"),
        ({"policy": None}, "usage"),
        ({"storage": "native"}, "vault_format"),
    ],
)
def test_who_says_hello_wrongly_gets_no_further(vault: World, words: Dict[str, Any], kind: str) -> None:
    host = Host(vault)
    answer = host.hello(**words)
    assert answer["error"]["kind"] == kind
    host.hang_up()
    assert not (vault.vault / "other").exists() and not (vault.vault / "h" / "a").exists()


def test_nothing_is_done_before_hello(vault: World) -> None:
    host = Host(vault)
    assert host.refused("list") == "protocol"
    host.hang_up()


@pytest.mark.parametrize("verb", ["prune", "remove", "hold", "release", "rekey", "", "hello", "__class__", "commit; rm -rf /"])
def test_there_are_no_words_for_destruction(host: Host, vault: World, verb: str) -> None:
    assert host.refused(verb, id="x") == "scope"
    assert "ok" in host.ask("latest")


@pytest.mark.parametrize("tx", ["", "a", "A" * 32, "../" + "a" * 29, "a" * 33, None, 5, "a" * 31 + "\n"])
def test_a_transaction_that_is_none_opens_no_session(host: Host, vault: World, tx: Any) -> None:
    assert host.refused("begin", tx=tx, parent=None, tags=[]) == "scope"
    assert not vault.history.exists() or not (vault.history / "incoming").exists()


def test_a_session_is_begun_once_and_on_the_newest_snapshot_alone(host: Host, vault: World) -> None:
    assert host.refused("begin", tx="a" * 32, parent="20261120T091500.123Z-01234567", tags=[]) == "writer"
    assert host.refused("begin", tx="a" * 32, parent="../x", tags=[]) == "scope"
    assert host.refused("begin", tx="a" * 32, parent=None, tags=["../x"]) in ("policy", "usage")
    assert host.refused("begin", tx="a" * 32, parent=None, tags=["x"] * 100) == "scope"
    assert "ok" in host.begin()
    assert host.refused("begin", tx="b" * 32, parent=None, tags=[]) == "scope"


LIES: Dict[str, List[Entry]] = {
    "dots": [entry(b"src"), entry(b"src/.."), entry(b"src/../x", b"x")],
    "dot": [entry(b"src"), entry(b"src/.", b"x")],
    "absolute": [entry(b"src"), entry(b"/etc", b"x")],
    "no parent": [entry(b"src"), entry(b"src/d/x", b"x")],
    "parent is a file": [entry(b"src", b"x"), entry(b"src/x", b"x")],
    "parent is a link": [entry(b"src", type=SYMLINK, link=b"/etc"), entry(b"src/passwd", b"x")],
    "twice": [entry(b"src"), entry(b"src/a", b"one"), entry(b"src/a", b"two")],
    "empty component": [entry(b"src"), entry(b"src//x", b"x")],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused_and_the_session_goes_on(host: Host, vault: World, lie: str) -> None:
    assert "ok" in host.begin()
    answer = host.propose(Manifest.from_entries(header(), LIES[lie]))
    assert answer["error"]["kind"] == "manifest", answer
    assert host.refused("commit", digest="0" * 64) == "scope"
    honest = manifest_of(CONTENT)
    assert "ok" in host.propose(honest)
    deliver(vault, CONTENT)
    assert "ok" in host.ask("commit", digest=honest.digest)
    vault.check_history(count=1)


@pytest.mark.parametrize(
    ("claim", "kind"),
    [
        ({"host": "other"}, "scope"),
        ({"policy": "other"}, "scope"),
        ({"id": "20261120T091500.123Z-01234567"}, "manifest"),
        ({"sequence": 7}, "manifest"),
        ({"created": "2036-11-20T09:15:00.123Z"}, "manifest"),
        ({"claimed": "yesterday"}, "manifest"),
    ],
)
def test_a_header_claims_nothing_that_the_vault_decides(host: Host, vault: World, claim: Dict[str, Any], kind: str) -> None:
    assert "ok" in host.begin()
    assert host.propose(manifest_of(CONTENT, **claim))["error"]["kind"] == kind


@pytest.mark.parametrize("claimed", ["1971-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z"])
def test_a_hosts_clock_ages_nothing(host: Host, vault: World, claimed: str) -> None:
    assert "ok" in host.begin()
    manifest = manifest_of(CONTENT, claimed=claimed)
    assert "ok" in host.propose(manifest)
    deliver(vault, CONTENT)
    receipt = host.ask("commit", digest=manifest.digest)["ok"]["receipt"]
    assert receipt["claimed"] == claimed
    assert receipt["created"][:13] == time.strftime("%Y-%m-%dT%H", time.gmtime())


def bombs() -> Dict[str, bytes]:
    honest = make_delta(None, manifest_of(CONTENT), same_times=True)
    text = zlib.decompress(honest)
    return {
        "nothing": b"",
        "garbage": b"garbage",
        "truncated": honest[:-5],
        "followed": honest + b"x",
        "bomb": zlib.compress(bytes(1 << 26)),
        "no lines": zlib.compress(b"\n\n"),
        "no trailer": zlib.compress(text.split(b"\n")[0] + b"\n\n"),
        "one byte other": zlib.compress(text.replace(b"src/a", b"src/c")),
        "removed paths of no base": zlib.compress(text.replace(b"\n\n", b'\n"src/x"\n\n', 1)),
        "removed is no text": zlib.compress(text.replace(b"\n\n", b"\n[1]\n\n", 1)),
        "deep JSON": zlib.compress(b"[" * 100_000 + b"\n\n"),
        "short lines": zlib.compress(text.split(b"\n\n")[0] + b"\n\n" + b"ab\n" * 300_000),
        "a header without end": zlib.compress(b"[" + b"1," * 500_000),
        "empty lines": zlib.compress(text.split(b"\n\n")[0] + b"\n\n" + b"\n" * 1_000_000),
    }


@pytest.mark.parametrize("bomb", bombs())
def test_a_proposal_that_is_none_is_refused(vault: World, bomb: str) -> None:
    host = Host(vault, manifest=1 << 20)
    host.hello()
    assert "ok" in host.begin()
    assert host.refused("propose", bombs()[bomb], delta=False, expected="") == "manifest"
    assert "ok" in host.propose(manifest_of(CONTENT))
    host.hang_up()


def test_too_many_paths_too_large_manifests_and_too_much_content_are_refused(vault: World) -> None:
    host = Host(vault, entries=2)
    host.hello()
    host.begin()
    assert host.propose(manifest_of(CONTENT))["error"]["kind"] == "limit"
    host.hang_up()
    host = Host(vault)
    host.hello()
    host.begin(tx="b" * 32)
    whale = Manifest.from_entries(header(), [entry(b"src"), entry(b"src/whale", b"x", size=1 << 60)])
    assert host.propose(whale)["error"]["kind"] == "vault_full"
    host.hang_up()
    host = Host(vault, manifest=100)
    host.hello()
    host.begin(tx="c" * 32)
    assert host.ask("propose", os.urandom(200), delta=False, expected="")["error"]["kind"] == "protocol"
    host.hang_up()


def test_what_has_arrived_already_needs_no_more_room(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import guarded

    content = {b"src/%d" % number: os.urandom(100_000) for number in range(10)}
    manifest = manifest_of(content)

    def disk(_path: Any) -> Any:
        taken = sum(path.stat().st_blocks * 512 for path in vault.vault.rglob("*") if path.is_file())
        return SimpleNamespace(f_bavail=1_300_000 - taken, f_frsize=1, f_blocks=1_300_000, f_files=0, f_favail=0)

    monkeypatch.setattr(guarded.os, "statvfs", disk)
    host = Host(vault, reserve=0)
    host.hello()
    host.begin()
    assert "ok" in host.propose(manifest)
    deliver(vault, dict(list(content.items())[:6]))
    host.hang_up()
    again = Host(vault, reserve=0)
    again.hello()
    again.begin(tx="b" * 32)
    assert "ok" in again.propose(manifest)
    deliver(vault, dict(list(content.items())[6:]), "b" * 32)
    assert "ok" in again.ask("commit", digest=manifest.digest)
    again.hang_up()
    vault.check_history(count=1)


def test_a_file_that_is_copied_once_it_arrived_needs_its_room_twice(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import guarded

    monkeypatch.setattr(guarded.os, "statvfs", lambda _path: SimpleNamespace(f_bavail=1500, f_frsize=1, f_blocks=1500, f_files=0, f_favail=0))
    host = Host(vault, reserve=0)
    host.hello()
    host.begin()
    assert host.propose(manifest_of({b"src/a": b"x" * 1000}))["error"]["kind"] == "vault_full"
    assert "ok" in host.propose(manifest_of({b"src/a": b"x" * 700}))
    host.hang_up()


def test_a_proposal_without_a_session_is_not_read(host: Host) -> None:
    """Whoever waits for a turn could else have the vault take in as much as a manifest may be, in every conversation."""
    host.wire.send({"do": "propose", "delta": False, "expected": ""})
    error = host.hear()["error"]
    assert (error["kind"], error["field"]) == ("scope", "do")
    host.thread.join(10)
    assert not host.thread.is_alive(), "what is still on its way would be taken for requests"


def test_what_was_not_proposed_cannot_be_committed(host: Host, vault: World) -> None:
    assert host.refused("commit", digest="0" * 64) == "scope"
    host.begin()
    assert host.refused("commit", digest="0" * 64) == "scope"
    host.propose(manifest_of(CONTENT))
    assert host.refused("commit", digest=manifest_of({b"src/a": b"x"}).digest) == "scope"
    assert host.refused("commit") == "scope"
    assert not vault.snapshots()


def records(*pieces: Any) -> bytes:
    return b"".join(struct.pack(">QI", offset, len(data)) + data for offset, data in pieces)


@pytest.mark.parametrize(
    ("paths", "stream"),
    [
        (["src/c"], records((0, b"x"), (1, b""))),
        (["../../../../x"], records((0, b"x"), (1, b""))),
        (["src/a"], records((0, b"xxxxx"), (5, b""))),
        (["src/a"], records((1 << 40, b"x"), (1, b""))),
        (["src/a"], records((0, b"one"), (1 << 50, b""))),
        (["src/a"], records((0, b"one"))),
        (["src/a"], records((0, b"one"), (3, b""), (0, b"more"))),
        (["src/a"], b"\0"),
        (["src/a\0b"], b""),
        ([5], b""),
        ("src/a", records((0, b"one"), (3, b""))),
    ],
)
def test_only_what_was_asked_for_can_be_put(vault: World, paths: Any, stream: bytes) -> None:
    host = Host(vault)
    host.hello()
    host.begin()
    host.propose(manifest_of(CONTENT))
    answer = host.ask("put", stream, paths=paths)
    assert "error" in answer, answer
    host.hang_up()
    assert sorted(os.listdir(vault.vault)) == [".slots", "format.json", "h"]
    assert not vault.snapshots()


ARRIVALS = ("missing", "other bytes", "shorter", "longer", "symlink", "directory is a symlink", "hard link", "fifo", "directory", "socket")


@pytest.mark.parametrize("trick", ARRIVALS)
def test_what_arrives_as_something_else_is_named_and_not_published(host: Host, vault: World, trick: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"one")
    host.begin()
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    deliver(vault, CONTENT)
    place = arrivals(vault) / "src" / "a"
    place.unlink()
    if trick == "other bytes":
        place.write_bytes(b"two")
    elif trick in ("shorter", "longer"):
        place.write_bytes(b"on" if trick == "shorter" else b"one more")
    elif trick == "symlink":
        place.symlink_to(secret)
    elif trick == "directory is a symlink":
        other = tmp_path / "other"
        (place.parent / "b").unlink()
        place.parent.rmdir()
        other.mkdir()
        (other / "a").write_bytes(b"one")
        (other / "b").write_bytes(b"two")
        place.parent.symlink_to(other)
    elif trick == "hard link":
        place.write_bytes(b"one")
        os.link(place, place.parent / "link")
    elif trick == "fifo":
        os.mkfifo(place)
    elif trick == "directory":
        place.mkdir()
    elif trick == "socket":
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(place.parent) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
            listener.bind("a")
    answer = host.ask("commit", digest=manifest.digest)
    assert answer["error"]["kind"] == "incomplete"
    named = b"".join(host.wire.receive_stream(1 << 20))
    assert b"src/a" in named
    assert not vault.snapshots()
    assert secret.read_bytes() == b"one"


@needs_root
def test_a_device_that_arrives_is_not_read(host: Host, vault: World) -> None:
    host.begin()
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    deliver(vault, CONTENT)
    place = arrivals(vault) / "src" / "a"
    place.unlink()
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    assert host.ask("commit", digest=manifest.digest)["error"]["kind"] == "incomplete"


def test_descriptors_and_mappings_kept_open_change_no_snapshot(host: Host, vault: World) -> None:
    import mmap

    host.begin()
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    deliver(vault, CONTENT)
    with (arrivals(vault) / "src" / "a").open("r+b") as kept:
        mapping = mmap.mmap(kept.fileno(), 0)
        receipt = host.ask("commit", digest=manifest.digest)["ok"]["receipt"]
        before = fingerprint(vault.history / "snapshots")
        kept.write(b"bad")
        kept.flush()
        mapping[:3] = b"BAD"
        mapping.flush()
        mapping.close()
        os.fchmod(kept.fileno(), 0o777)
    assert fingerprint(vault.history / "snapshots") == before
    assert (vault.tree(receipt["id"]) / "src" / "a").read_bytes() == b"one"
    vault.check_history(count=1)


def test_no_inode_that_arrived_gets_into_a_snapshot(host: Host, vault: World) -> None:
    host.begin()
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    deliver(vault, CONTENT)
    arrived = {(arrivals(vault) / os.fsdecode(path)).stat().st_ino for path in CONTENT}
    held = [(arrivals(vault) / os.fsdecode(path)).open("rb") for path in CONTENT]  # so that no number is used again
    receipt = host.ask("commit", digest=manifest.digest)["ok"]["receipt"]
    kept = {(vault.tree(receipt["id"]) / os.fsdecode(path)).stat().st_ino for path in CONTENT}
    for stream in held:
        stream.close()
    assert not arrived & kept


def test_a_basis_is_a_copy_of_its_own(vault: World) -> None:
    content = {b"src/large": os.urandom(2 << 20)}
    host = Host(vault)
    host.hello()
    first = commit(host, vault, content)["ok"]["receipt"]
    before = fingerprint(vault.history / "snapshots")
    host.begin(first["id"], "b" * 32)
    host.propose(manifest_of({b"src/large": os.urandom(2 << 20)}))
    basis = vault.history / "incoming" / ("b" * 32) / "in" / "basis" / "src" / "large"
    assert basis.read_bytes() == content[b"src/large"]
    assert basis.stat().st_ino != (vault.tree(first["id"]) / "src" / "large").stat().st_ino
    basis.chmod(0o600)
    basis.write_bytes(b"bad")
    assert fingerprint(vault.history / "snapshots") == before
    host.hang_up()


@pytest.mark.parametrize(
    "junk", [b"X\0\0\0\0", b"J\xff\xff\xff\xff", b"J\0\0\0\2[]", b"J\0\0\0\1{", b"D\0\0\0\1x", b"E\0\0\0\0", b"E\0\0\0\5hello", b"\0" * 100]
)
def test_frames_that_are_none_end_the_conversation(vault: World, junk: bytes) -> None:
    host = Host(vault)
    host.hello()
    host.wire.write(junk)
    assert host.hear()["error"]["kind"] == "protocol"
    host.thread.join(5)
    assert not host.thread.is_alive()
    host.hang_up()


def test_a_message_without_end_costs_no_more_than_its_limit(vault: World) -> None:
    host = Host(vault)
    host.hello()
    host.wire.write(b"J" + struct.pack(">I", MAX_JSON + 1))
    assert host.hear()["error"]["kind"] == "protocol"
    host.hang_up()


def test_a_host_that_stands_still_loses_its_place(vault: World) -> None:
    silent = Host(vault, idle=1)
    silent.hello()
    silent.begin()
    silent.thread.join(5)
    assert not silent.thread.is_alive()
    other = Host(vault)
    other.hello()
    assert commit(other, vault, CONTENT, tx="b" * 32)["ok"]["receipt"]
    other.hang_up()
    silent.hang_up()


def test_a_conversation_has_an_end_whatever_is_said(vault: World) -> None:
    host = Host(vault, session=1)
    host.hello()
    with pytest.raises(Exception, match="connection broke"):
        for _time in range(100):
            host.ask("alive")
            time.sleep(0.05)
    host.hang_up()


def test_a_host_holds_few_conversations_and_one_session(vault: World) -> None:
    hosts = [Host(vault, conversations=2) for _number in range(3)]
    answers = [host.hello() for host in hosts]
    assert ["ok" in answer for answer in answers] == [True, True, False]
    assert answers[2]["error"]["kind"] == "locked"
    assert "ok" in hosts[0].begin()
    assert hosts[1].refused("begin", tx="b" * 32, parent=None, tags=[]) == "locked"
    for host in hosts:
        host.hang_up()


def test_snapshots_and_policies_come_at_a_bounded_pace(vault: World) -> None:
    host = Host(vault, commits=2, policies=2)
    host.hello()
    parent = None
    for number in range(2):
        parent = commit(host, vault, {b"src/a": b"%d" % number}, parent, "%032x" % number)["ok"]["receipt"]["id"]
    assert host.refused("begin", tx="f" * 32, parent=parent, tags=[]) == "limit"
    host.hang_up()
    for number, expected in enumerate((True, False)):
        host = Host(vault, policies=2)
        host.hello(policy="more%d" % number)
        assert ("ok" in host.begin()) is expected
        host.hang_up()


def test_reading_needs_its_scope_and_reaches_only_this_history(vault: World, tmp_path: Path) -> None:
    host = Host(vault)
    host.hello()
    receipt = commit(host, vault, CONTENT)["ok"]["receipt"]
    assert host.refused("fetch", b"src/a", id=receipt["id"]) == "scope"
    assert host.refused("verify", id=receipt["id"], depth="full", part=None, record=True) == "scope"
    host.hang_up()
    reader = Host(vault, readable=["h"])
    reader.hello()
    for path in (b"../../../../../etc/passwd", b"src", b"src/a/../b", b"", b"src/c", b"manifest.jsonl.gz"):
        answer = reader.ask("fetch", path, id=receipt["id"])
        if path == b"src":  # a directory has no content
            assert "ok" in answer
            assert b"".join(reader.wire.receive_stream(1 << 20)) == struct.pack(">QI", (1 << 64) - 1, 0)
        else:
            assert answer["error"]["kind"] == "scope", path
    assert "ok" in reader.ask("fetch", b"src/a", id=receipt["id"])
    assert b"one" in b"".join(reader.wire.receive_stream(1 << 20))
    for wish in ("../x", "", None, "20261120T091500.123Z-01234567"):
        assert reader.refused("fetch", b"src/a", id=wish) == "no_snapshot"
    reader.hang_up()


def test_another_hosts_history_can_be_read_where_granted_and_never_written(vault: World) -> None:
    host = Host(vault)
    host.hello()
    commit(host, vault, CONTENT)
    host.hang_up()
    other = Host(vault, readable=["h", "web2"])
    assert "ok" in other.hello(host="web2")
    assert "ok" in other.ask("list")
    for verb, arguments in (("begin", {"tx": "a" * 32, "parent": None, "tags": []}), ("sweep", {}), ("heartbeat", {}), ("tag", {"add": []}), ("bury", {})):
        assert other.refused(verb, **arguments) == "scope"
    other.hang_up()


def test_a_key_that_a_grant_lets_in_reads_and_adds_nothing(vault: World) -> None:
    host = Host(vault)
    host.hello()
    receipt = commit(host, vault, CONTENT)["ok"]["receipt"]
    host.hang_up()
    before = fingerprint(vault.history)
    granted = Host(vault, readable=["h"], may_add=False)
    assert "ok" in granted.hello()
    for verb, arguments in (
        ("begin", {"tx": "a" * 32, "parent": receipt["id"], "tags": []}),
        ("sweep", {}),
        ("heartbeat", {"id": receipt["id"], "digest": receipt["digest"]}),
        ("tag", {"id": receipt["id"], "add": ["x"]}),
        ("bury", {}),
    ):
        assert granted.refused(verb, **arguments) == "scope"
    assert differences(fingerprint(vault.history), before) == []
    assert "ok" in granted.ask("fetch", b"src/a", id=receipt["id"])
    assert b"one" in b"".join(granted.wire.receive_stream(1 << 20))
    granted.hang_up()
    others = Host(vault, readable=["web2"], may_add=False)
    assert others.hello()["error"]["kind"] == "scope", "a grant for another host's history opens this one"
    others.hang_up()


def with_grant(vault: World, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> Tuple[Host, Path]:
    """A host with a grant of an hour, and the file that grants it; the vault looks at it again a hundred times a second."""
    etc = vault.root / "etc"
    for name, text in (
        ("vault.json", '{"directory": "%s", "keeper": "x"}' % vault.vault),
        ("accounts/ocb-h.json", '{"host": "h"}'),
        ("grants/ocb-h.json", json.dumps({"until": rfc3339(time.time() + 3600), "hosts": ["h"]})),
    ):
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text(text)
    monkeypatch.setattr(keeper, "DIRECTORY", str(etc))
    monkeypatch.setattr(keeper, "refuse_foreign_writers", lambda path: None)
    monkeypatch.setattr(wire, "WATCH_SECONDS", 0.01)
    look_again = partial(keeper.keeper_of, "ocb-h", 0, may_read=True, is_open=True)
    made = Host(vault, readable=["h"], may_add=False, look_again=look_again, **limits)
    assert "ok" in made.hello()
    return made, etc / "grants" / "ocb-h.json"


def test_a_grant_that_is_revoked_ends_the_conversation_that_waits(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = Host(vault)
    backup.hello()
    receipt = commit(backup, vault, CONTENT)["ok"]["receipt"]
    backup.hang_up()
    for ends in ("revoked", "over", "for another host"):
        host, grant = with_grant(vault, monkeypatch)
        assert "ok" in host.ask("fetch", b"src/a", id=receipt["id"])
        assert b"one" in b"".join(host.wire.receive_stream(1 << 20))
        if ends == "revoked":
            grant.unlink()
        else:
            until = time.time() + (-1 if ends == "over" else 3600)
            grant.write_text(json.dumps({"until": rfc3339(until), "hosts": ["h" if ends == "over" else "web2"]}))
        assert host.hear()["error"]["kind"] == "scope"
        host.thread.join(10)
        assert not host.thread.is_alive(), "the conversation goes on after its grant was %s" % ends
        host.hang_up()


def test_a_grant_that_is_revoked_ends_a_stream_at_once(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {b"src/large": os.urandom(16 << 20)}
    backup = Host(vault)
    backup.hello()
    receipt = commit(backup, vault, content)["ok"]["receipt"]
    backup.hang_up()
    host, grant = with_grant(vault, monkeypatch)
    assert "ok" in host.ask("fetch", b"src/large", id=receipt["id"])
    stream = host.wire.receive_stream(1 << 30)
    next(stream)
    grant.unlink()
    host.thread.join(10)
    assert not host.thread.is_alive()
    with pytest.raises((TargetError, RefusedError), match="connection|nobody granted it"):  # in the middle of a frame, or between two
        b"".join(stream)
    host.hang_up()
    host, grant = with_grant(vault, monkeypatch)
    assert "ok" in host.ask("fetch", b"src/large", id=receipt["id"])
    stream = host.wire.receive_stream(1 << 30)
    real = wire.Wire.write

    def revoked(self: Wire, data: bytes) -> None:
        grant.unlink(missing_ok=True)  # between two frames
        time.sleep(0.02)
        real(self, data)

    monkeypatch.setattr(wire.Wire, "write", revoked)
    with pytest.raises(RefusedError, match="nobody granted it"):
        b"".join(stream)
    host.hang_up()


def test_a_host_whose_account_is_taken_away_commits_nothing_more(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _grant = with_grant(vault, monkeypatch)
    host.hang_up()
    account = vault.root / "etc" / "accounts" / "ocb-h.json"
    host = Host(vault, look_again=partial(keeper.keeper_of, "ocb-h", 0, may_read=False, is_open=True))
    host.hello()
    host.begin()
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    deliver(vault, CONTENT)
    (vault.root / "etc" / "vault.json").write_text('{"directory": "%s", "keeper": "x", "maintenance": true}' % vault.vault)
    assert "ok" in host.ask("alive"), "what is under way goes on in maintenance"
    account.unlink()
    error = host.hear()["error"]
    assert (error["kind"], error["field"]) == ("scope", "account")
    host.thread.join(10)
    assert not host.thread.is_alive() and vault.snapshots() == []
    host.hang_up()


def test_only_a_canary_is_buried(host: Host, vault: World) -> None:
    commit(host, vault, CONTENT)
    assert host.refused("bury") == "scope"
    assert len(vault.snapshots()) == 1


def test_a_heartbeat_for_something_else_is_not_known(host: Host, vault: World) -> None:
    receipt = commit(host, vault, CONTENT)["ok"]["receipt"]
    assert host.ask("heartbeat", id=receipt["id"], digest="0" * 64)["ok"] == {"known": False, "need": []}
    assert host.ask("heartbeat", id=receipt["id"], digest=receipt["digest"])["ok"]["known"] is True
    assert host.refused("heartbeat", id="../x", digest=receipt["digest"]) == "scope"


def test_a_small_file_is_never_lent_as_a_basis(vault: World) -> None:
    """A receiver of rsync can be made to tell what its basis holds, byte by byte if the blocks are small."""
    secret = {b"src/key": b"the secret of this host", b"src/large": os.urandom(3 << 20)}
    host = Host(vault)
    host.hello()
    first = commit(host, vault, secret)["ok"]["receipt"]
    host.begin(first["id"], "b" * 32)
    claimed = Manifest.from_entries(header(), [entry(b"src"), entry(b"src/key", b"x" * (1 << 20)), entry(b"src/large", os.urandom(3 << 20))])
    assert "ok" in host.propose(claimed)
    basis = vault.history / "incoming" / ("b" * 32) / "in" / "basis" / "src"
    assert os.listdir(basis) == ["large"]
    host.hang_up()


def test_a_vault_may_lend_nothing(vault: World) -> None:
    content = {b"src/large": os.urandom(2 << 20)}
    host = Host(vault, deltas=False)
    host.hello()
    first = commit(host, vault, content)["ok"]["receipt"]
    host.begin(first["id"], "b" * 32)
    host.propose(manifest_of({b"src/large": os.urandom(2 << 20)}))
    assert not list((vault.history / "incoming" / ("b" * 32) / "in" / "basis").iterdir())
    host.hang_up()


def test_what_arrived_stays_for_the_next_session_out_of_reach(vault: World) -> None:
    host = Host(vault)
    host.hello()
    host.begin()
    host.propose(manifest_of(CONTENT))
    deliver(vault, {b"src/a": b"one"})
    place = vault.history / "incoming" / ("a" * 32)
    host.hang_up()
    assert not (place / "in").exists()
    again = Host(vault)
    again.hello()
    assert again.begin(tx="b" * 32)["ok"]["resumed"] is True
    manifest = manifest_of(CONTENT)
    again.propose(manifest)
    deliver(vault, {b"src/b": b"two"}, "b" * 32)
    assert "ok" in again.ask("commit", digest=manifest.digest)
    again.hang_up()
    vault.check_history(count=1)


def test_tags_have_an_end(host: Host, vault: World) -> None:
    receipt = commit(host, vault, CONTENT)["ok"]["receipt"]
    assert "ok" in host.ask("tag", id=receipt["id"], add=["t%d" % number for number in range(60)])
    before = (vault.history / "audit.jsonl").read_bytes()
    for _time in range(5):
        assert "ok" in host.ask("tag", id=receipt["id"], add=["t1"])
    assert (vault.history / "audit.jsonl").read_bytes() == before
    assert host.refused("tag", id=receipt["id"], add=["more%d" % number for number in range(10)]) == "limit"


def test_empty_pieces_and_endless_talk_evade_no_deadline(vault: World) -> None:
    host = Host(vault, session=2)
    host.hello()
    host.begin()
    host.wire.send({"do": "propose", "delta": False, "expected": ""})
    host.wire.write(b"D\0\0\0\0")
    assert host.hear()["error"]["kind"] == "protocol"
    host.hang_up()
    host = Host(vault, session=1)
    host.hello()
    with pytest.raises(TargetError):
        while True:
            host.ask("alive")
    host.hang_up()


def test_a_file_that_grows_while_it_is_taken_in_costs_no_more_than_it_should_have(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import build

    host = Host(vault)
    host.hello()
    content = {b"src/a": os.urandom(4 << 20)}
    host.begin()
    manifest = manifest_of(content)
    host.propose(manifest)
    deliver(vault, content)
    real = build.copy_file
    copied: List[int] = []

    def grown(source: int, destination: int, **options: Any) -> Any:
        os.truncate("/proc/self/fd/%d" % source, 1 << 34)
        answer = real(source, destination, **options)
        copied.append(answer[1])
        return answer

    monkeypatch.setattr(build, "copy_file", grown)
    assert host.ask("commit", digest=manifest.digest)["error"]["kind"] == "incomplete"
    assert max(copied, default=0) <= (4 << 20) + 1
    b"".join(host.wire.receive_stream(1 << 20))
    host.hang_up()


def test_many_damaged_paths_do_not_lock_a_host_out(host: Host, vault: World) -> None:
    receipt = commit(host, vault, CONTENT)["ok"]["receipt"]
    paths = ["src/" + "\u0434" * 200 + str(number) for number in range(10_000)]
    layout.update_state(vault.target.history, receipt["id"], {"damaged": {"at": receipt["created"], "count": len(paths), "paths": paths}})
    assert len(host.ask("latest")["ok"]["snapshot"]["state"]["damaged"]["paths"]) == 100
    assert len(host.ask("heartbeat", id=receipt["id"], digest=receipt["digest"])["ok"]["need"]) == 100
    assert "ok" in host.begin(receipt["id"], "b" * 32)
    assert len(host.damaged) == 10_000


def test_a_grant_ends_during_a_conversation_too(vault: World) -> None:
    host = Host(vault, readable=["h"])
    host.hello()
    receipt = commit(host, vault, CONTENT)["ok"]["receipt"]
    keeper = host.conversation._keeper
    object.__setattr__(keeper, "until", time.time() - 1)
    assert host.refused("fetch", b"src/a", id=receipt["id"]) == "scope"
    host.hang_up()


def test_another_attempt_never_takes_a_half_edited_clone_for_the_base(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import session

    host = Host(vault)
    host.hello()
    host.begin()
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    deliver(vault, CONTENT)

    def full(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(28, os.strerror(28))

    made = host.conversation.session
    made._is_clone = True
    (vault.history / "incoming" / ("a" * 32) / "snapshot" / "tree").mkdir(exist_ok=True)
    monkeypatch.setattr(session, "edit", full)
    monkeypatch.setattr(session.TreeSession, "_edit", full)
    assert host.ask("commit", digest=manifest.digest)["error"]["kind"] == "vault_full"
    assert not made._is_clone
    host.hang_up()


def leave(vault: World, content: Dict[bytes, bytes], **limits: Any) -> Path:
    """A session that dies with what has arrived; the directory in which that lies then."""
    host = Host(vault, **limits)
    host.hello()
    host.begin()
    host.propose(manifest_of(content))
    deliver(vault, content)
    host.hang_up()
    return vault.history / "incoming" / ("a" * 32) / "kept" / "files"


def test_a_directory_that_was_closed_stands_in_the_way_of_no_other_session(vault: World) -> None:
    left = leave(vault, CONTENT)
    (left / "src").chmod(0o070)  # where the account's own rsync could not write any more
    host = Host(vault)
    host.hello()
    assert host.begin(tx="b" * 32)["ok"]["resumed"] is True
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    made = arrivals(vault, "b" * 32) / "src"
    assert made.stat().st_mode & 0o700 == 0o700
    deliver(vault, {}, "b" * 32)
    assert "ok" in host.ask("commit", digest=manifest.digest)
    host.hang_up()


@pytest.mark.parametrize("trick", ["mode", "name", "link", "list"])
def test_a_file_that_was_closed_is_not_used_again(vault: World, trick: str) -> None:
    left = leave(vault, CONTENT) / "src" / "a"
    if trick == "mode":
        left.chmod(0o040)
    elif trick == "name":
        os.link(left, left.parent / "again")
    elif trick == "link":
        left.unlink()
        left.symlink_to("b")
    else:
        entries = ((1, 6, 0xFFFFFFFF), (2, 0, 12345), (4, 0, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
        os.setxattr(left, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *item) for item in entries))
    host = Host(vault)
    host.hello()
    host.begin(tx="b" * 32)
    host.propose(manifest_of(CONTENT))
    assert sorted(os.listdir(arrivals(vault, "b" * 32) / "src")) == ["b"]
    host.hang_up()


def test_what_had_arrived_outlives_a_session_in_which_nothing_was_proposed(vault: World) -> None:
    leave(vault, CONTENT)
    host = Host(vault)
    host.hello()
    host.begin(tx="b" * 32)
    host.hang_up()
    host = Host(vault)
    host.hello()
    assert host.begin(tx="c" * 32)["ok"]["resumed"] is True
    manifest = manifest_of(CONTENT)
    host.propose(manifest)
    assert "ok" in host.ask("commit", digest=manifest.digest)
    host.hang_up()


def test_what_cannot_be_removed_is_put_aside_and_told_of_once(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import sweep

    leave(vault, CONTENT)
    real = sweep.discard

    def discard(dir_fd: int, name: bytes) -> None:
        if name.endswith(b"a" * 32):
            raise PermissionError(13, "closed", name)
        real(dir_fd, name)

    monkeypatch.setattr(sweep, "discard", discard)
    host = Host(vault)
    host.hello()
    parent = None
    for number in range(3):
        parent = commit(host, vault, {b"src/a": b"%d" % number}, parent, "%032x" % number)["ok"]["receipt"]["id"]
    assert (vault.history / "audit.jsonl").read_text().count('"sweep"') == 1
    assert os.listdir(vault.history / "incoming") == ["closed." + "a" * 32]
    monkeypatch.undo()
    commit(host, vault, {b"src/a": b"more"}, parent, "f" * 32)
    assert os.listdir(vault.history / "incoming") == []
    host.hang_up()


@pytest.mark.parametrize("room", [(0, 1000), (1000, 0), (-5, None)])
def test_a_vault_without_room_drops_what_dead_sessions_of_all_hosts_have_left(vault: World, monkeypatch: pytest.MonkeyPatch, room: Any) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import guarded, target

    leave(vault, CONTENT)
    neighbour = vault.vault / "web2" / "q" / "incoming" / ("e" * 32) / "kept"
    neighbour.mkdir(parents=True)
    busy = vault.vault / "web3" / "q" / "incoming" / ("f" * 32) / "in"
    busy.mkdir(parents=True)
    turn = target.lock(os.fsencode(busy.parents[2] / "writer.lock"), 2, "A session")
    host = Host(vault)
    host.hello()
    assert neighbour.exists()
    monkeypatch.setattr(target, "room_in", lambda *_arguments: guarded.Room(*room))
    assert host.begin(tx="b" * 32)["ok"]["resumed"] is False
    assert not neighbour.parent.exists() and busy.exists()
    os.close(turn)
    host.hang_up()


def test_room_for_a_snapshot_is_made_of_what_dead_sessions_have_left(vault: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import guarded

    host = Host(vault)
    host.hello()
    left = vault.vault / "web2" / "q" / "incoming" / ("e" * 32)
    left.mkdir(parents=True)
    monkeypatch.setattr(guarded, "room_in", lambda *_arguments: guarded.Room(1 if left.exists() else 1000, None))
    assert "ok" in commit(host, vault, CONTENT)
    assert not left.exists()
    host.hang_up()


def test_a_session_with_another_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the vault's account sudo would give any group that it is in: those of all hosts."""
    from ansible_collections.openclaw.backup.plugins.module_utils.agent import serve
    from ansible_collections.openclaw.backup.plugins.module_utils.errors import UsageError

    monkeypatch.setenv("SUDO_UID", str(os.getuid()))
    monkeypatch.setattr(os, "getegid", lambda: 54321)
    with pytest.raises(UsageError, match="group of its own account"):
        serve._keeper_for_caller("write", False)
