# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ransomware on a host: the snapshot before it is held, by the vault's own judgement, and people are told; an upgrade is nothing of that kind."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune, release
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.agent.__main__ import main
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Snapshot

from .sshd import Away
from .test_hostile_host import Host, commit
from .world import STORAGES, Packed, World

FILES = 60
LOOSE = {"max_delete_percent": 100}
OFF = {"removed_percent": 0, "changed_percent": 0, "encrypted_percent": 0}
UPGRADES = {"changed_percent": 0}  # where everything may be replaced at once
WORDS = "the quick brown fox jumps over the lazy dog and back again to where it came from".split()


def prose(size: int = 3000) -> str:
    return " ".join(random.choice(WORDS) for _word in range(size // 4))[:size]


def fill(world: World) -> None:
    for number in range(FILES):
        path = world.src / str(number % 7) / ("page %02d.txt" % number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(prose())
    for number in range(5):
        (world.src / ("photo %d" % number)).write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(5000))


def pages(world: World) -> List[Path]:
    return sorted(world.src.glob("*/page*"))


def encrypt(world: World, suffix: str = "") -> None:
    for path in pages(world):
        path.write_bytes(os.urandom(path.stat().st_size))
        if suffix:
            path.rename(str(path) + suffix)


def upgrade(world: World) -> None:
    for path in pages(world):
        path.write_text(prose(9000))
    for number in range(100):
        (world.src / ("asset %d" % number)).write_bytes(b"\x89PNG" + os.urandom(2000))


def events(world: World, name: str) -> List[Dict[str, Any]]:
    found = [json.loads(line) for line in (world.history / "audit.jsonl").read_text().splitlines()]
    return [event for event in found if event["event"] == name]


@pytest.fixture(params=[*STORAGES, "pack"])
def lived(request: pytest.FixtureRequest) -> Iterator[World]:
    """One with a snapshot, in a vault of each kind."""
    made = Packed.make() if request.param == "pack" else World.make(request.param)
    fill(made)
    made.backup()
    yield made
    made.destroy()


def held(world: World) -> Optional[Any]:
    """The hold of the snapshot before the newest."""
    return world.snapshots()[1].held


def test_encrypted_files_hold_the_snapshot_before_and_tell_everybody(lived: World) -> None:
    first = lived.snapshots()[0]
    encrypt(lived)
    result = lived.backup()
    said = "of 60 files with other content 60 were looked at, and 60 of these seem encrypted"
    assert result.rc == 3 and result.anomaly and said in result.anomaly and str(result.snapshot_id) in result.anomaly
    assert len(result.warnings) == 1 and result.anomaly in result.warnings[0] and first.id in result.warnings[0]
    found = held(lived)
    assert found and found["by"] == "anomaly" and found["reason"] == result.anomaly
    told = status(lived.policy(), state_directory=str(lived.state))
    assert told["problems"] == told["anomalies"] and len(told["anomalies"]) == 1 and said in told["anomalies"][0] and first.id in told["anomalies"][0]
    if not isinstance(lived, Packed):
        assert [(event["snapshot"], event["by"], said in event["reason"]) for event in events(lived, "hold")] == [(first.id, "anomaly", True)]
    (lived.src / "more").write_text("more")
    assert lived.backup().anomaly is None, "once, and not with every run that follows"
    kept = prune(lived.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(lived.state)).to_dict()["kept"]
    assert first.id in [item["id"] for item in kept]
    back = lived.root / "back"
    assert lived.restore(snapshot=first.id, dest=back).verified
    assert all(b"the" in (path.read_bytes()) for path in lived.restored(back).glob("*/page*"))


def test_an_upgrade_is_no_anomaly_where_everything_may_be_replaced(lived: World) -> None:
    upgrade(lived)
    result = lived.backup(policy=lived.policy(anomaly=UPGRADES))
    assert (result.rc, result.anomaly, held(lived)) == (0, None, None)
    upgrade(lived)
    assert "removed or replaced" in str(lived.backup().anomaly)


def test_a_policy_may_be_stricter_or_switch_it_off(lived: World) -> None:
    upgrade(lived)
    strict = lived.policy(anomaly={"changed_percent": 80})
    assert "the content of 60 of 65 files was removed or replaced" in str(lived.backup(policy=strict).anomaly)
    encrypt(lived)
    assert lived.backup(policy=lived.policy(anomaly=OFF)).anomaly is None and held(lived) is None


def test_a_new_name_hides_nothing(lived: World) -> None:
    encrypt(lived, ".locked")
    result = lived.backup(policy=lived.policy(guards=LOOSE))
    assert "the content of 60 of 65 files was removed; of 60 files with other content 60 were looked at" in str(result.anomaly)


def test_what_keeps_the_beginning_of_each_file_and_has_added_as_many_is_seen(lived: World) -> None:
    for number in range(FILES + 10):
        (lived.src / ("added %d" % number)).write_text(prose())
    assert lived.backup().rc == 0
    for path in pages(lived):
        with path.open("r+b") as stream:
            stream.seek(16)
            stream.write(os.urandom(path.stat().st_size - 16))
    assert str(lived.backup().anomaly).endswith("of 60 files with other content 60 were looked at, and 60 of these seem encrypted or wiped")


def test_shares_are_those_of_the_manifest_and_not_of_the_receipt(world: World) -> None:
    """A copy's receipt is another vault's word, and of these numbers nothing else proves any."""
    fill(world)
    first = world.backup()
    receipt = world.history / "snapshots" / str(first.snapshot_id) / "receipt.json"
    world.edit_json(receipt, files=10**9, bytes=10**15)
    world.edit_json(world.state / "h" / "p" / "targets" / os.listdir(world.state / "h" / "p" / "targets")[0] / "baseline.json", files=10**9, bytes=10**15)
    upgrade(world)
    assert "the content of 60 of 65 files was removed or replaced" in str(world.backup().anomaly)


def test_a_part_of_a_large_tree_is_enough(world: World) -> None:
    """Between two runs of a busy schedule little is encrypted yet."""
    fill(world)
    for number in range(500):
        (world.src / ("other %d" % number)).write_text(prose())
    world.backup()
    encrypt(world, ".locked")
    result = world.backup()
    assert "seem encrypted" in str(result.anomaly) and "removed" not in str(result.anomaly)


def test_logs_that_are_compressed_in_bulk_are_no_anomaly(world: World) -> None:
    fill(world)
    logs = world.src / "log"
    logs.mkdir()
    for number in range(40):
        (logs / ("%02d.log" % number)).write_text(prose(20_000))
    world.backup()
    for path in list(logs.iterdir()):
        Path(str(path) + "-20261120.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert world.backup(policy=world.policy(guards=LOOSE)).rc == 0 and held(world) is None


def test_files_that_are_emptied_are_gone(world: World) -> None:
    fill(world)
    world.backup()
    for path in pages(world):
        path.write_text("")
    assert "the content of 60 of 65 files was removed" in str(world.backup().anomaly)


def test_the_reason_of_a_hold_by_hand_stays(world: World) -> None:
    fill(world)
    first = world.backup()
    world.target.hold(world.snapshots()[0], "for the auditors")
    encrypt(world)
    assert world.backup().anomaly
    found = held(world)
    assert found and found["reason"].startswith(str(world.snapshots()[0].id)) and found["reason"].endswith("; before: for the auditors")
    assert first.snapshot_id == world.snapshots()[1].id


def test_a_first_snapshot_and_a_small_source_are_no_anomaly(world: World) -> None:
    for number in range(19):
        (world.src / str(number)).write_bytes(os.urandom(3000))
    assert world.backup().rc == 0
    for path in world.src.iterdir():
        path.write_text(prose())
    assert world.backup().rc == 0
    for path in world.src.iterdir():
        path.write_bytes(os.urandom(3000))
    assert world.backup().rc == 0 and held(world) is None


def test_what_is_damaged_in_the_vault_is_not_judged(world: World) -> None:
    fill(world)
    first = world.backup()
    for path in world.tree(first.snapshot_id).rglob("page*"):
        path.chmod(0o600)
        path.unlink()
    encrypt(world)
    assert world.backup(policy=world.policy(anomaly=UPGRADES)).anomaly is None


# ---- over SSH ----------------------------------------------------------------------------------------------------------------


def test_a_vault_over_ssh_judges_by_itself() -> None:
    away = Away.over("portable")
    try:
        fill(away)
        away.backup(policy=away.writing())
        encrypt(away)
        result = away.backup(policy=away.writing(anomaly=OFF))
        assert result.rc == 3 and "60 of these seem encrypted" in str(result.anomaly), "whatever the host wants"
        (away.src / "large").write_bytes(bytes(70 << 20))
        assert "the content grew" in str(away.backup(policy=away.writing(anomaly={"growth_percent": 50})).anomaly), "unless it wants more"
    finally:
        away.destroy()


def content(*, is_encrypted: bool) -> Dict[bytes, bytes]:
    return {b"src/%02d" % number: os.urandom(3000) if is_encrypted else prose().encode() for number in range(30)}


def second(world: World, wish: Any, **limits: Any) -> Snapshot:
    """The snapshot before one in which everything is encrypted; ``wish``: what the host says of thresholds."""
    host = Host(world, **limits)
    host.hello()
    first = commit(host, world, content(is_encrypted=False))["ok"]["receipt"]["id"]
    host.ask_more = {"anomaly": wish} if wish is not None else {}
    answer = commit(host, world, content(is_encrypted=True), first, "b" * 32)
    assert answer["ok"]["anomaly"] == (world.snapshots()[1].held or {}).get("reason")
    host.hang_up()
    return world.snapshots()[1]


@pytest.mark.parametrize("wish", [None, {}, {"encrypted_percent": 0}, dict(OFF, growth_percent=0), {"encrypted_percent": 1 << 70}])
def test_a_hostile_host_cannot_switch_it_off(portable: World, wish: Any) -> None:
    assert second(portable, wish).precedes_anomaly


def test_the_vaults_administrator_can(portable: World) -> None:
    assert second(portable, None, encrypted_percent=0, changed_percent=0).held is None


def test_a_stricter_host_has_its_way(portable: World) -> None:
    found = second(portable, {"changed_percent": 1}, encrypted_percent=0, changed_percent=0).held
    assert found and "30 of 30 files was removed or replaced" in found["reason"]


@pytest.mark.parametrize("wish", [[], 5, {"encrypted_percent": "0"}, {"encrypted_percent": -1}, {"encrypted_percent": True}, {"other": 1}])
def test_thresholds_that_are_none_are_refused(portable: World, wish: Any) -> None:
    host = Host(portable)
    host.hello()
    assert host.refused("begin", tx="a" * 32, parent=None, tags=[], anomaly=wish) == "scope"
    host.hang_up()


# ---- telling -----------------------------------------------------------------------------------------------------------------


def heard(world: World) -> List[Dict[str, Any]]:
    path = world.root / "heard"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def telling(world: World, **more: Any) -> Dict[str, Any]:
    return {"notify": {"command": ["/bin/sh", "-c", 'cat >>"$0"', str(world.root / "heard")], **more}}


def test_people_are_told_once_of_each_that_nobody_has_released(portable: World) -> None:
    fill(portable)
    policy = portable.policy(**telling(portable))
    portable.backup(policy=policy)
    for _time in range(2):
        encrypt(portable)
        assert portable.backup(policy=policy).anomaly
        for path in pages(portable):
            path.write_text(prose())
        portable.backup(policy=policy)
    told = heard(portable)
    assert [(item["event"], item["trouble"]) for item in told] == [("anomaly", "anomaly")]
    assert "60 of these seem encrypted" in told[0]["problems"][0] and told[0]["snapshot_id"] == portable.snapshots()[3].id
    for snapshot in portable.snapshots():
        if snapshot.held:
            release(policy, state_directory=str(portable.state), snapshot=snapshot.id)
    encrypt(portable)
    portable.backup(policy=policy)
    assert [item["event"] for item in heard(portable)] == ["anomaly", "anomaly"]


def test_the_watch_of_a_vault_tells_of_it_beside_other_trouble(portable: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(portable)
    portable.backup()
    path = portable.root / "policy.json"
    plain = {"name": "p", "host": "h", "sources": ["/"], "target": str(portable.vault), "objectives": {"rpo": "1s"}, "heartbeat": "1s"}
    path.write_text(json.dumps({**plain, **telling(portable)}))
    words = ["status", str(path), "--state", str(portable.root / "keeper"), "--on-vault", "--notify"]
    time.sleep(2.1)
    assert main(words) == 3
    assert [item["event"] for item in heard(portable)] == ["stale"]
    encrypt(portable)
    portable.backup()
    time.sleep(2.1)
    for _time in range(2):
        assert main(words) == 3
    told = heard(portable)
    assert [item["event"] for item in told] == ["stale", "anomaly"]
    assert len(told[1]["problems"]) == 1 and portable.snapshots()[1].id in told[1]["problems"][0]
    release(portable.policy(), state_directory=str(portable.state), snapshot=portable.snapshots()[1].id)
    main(words)
    assert [(item["event"], item["trouble"]) for item in heard(portable)][2:] == [("recovered", "anomaly")]
    capsys.readouterr()


def test_who_wants_no_word_of_it_gets_none(portable: World) -> None:
    fill(portable)
    policy = portable.policy(**telling(portable, events=["failed"]))
    portable.backup(policy=policy)
    encrypt(portable)
    assert portable.backup(policy=policy).anomaly and heard(portable) == []
