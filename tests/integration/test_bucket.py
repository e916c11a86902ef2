# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealed packs in buckets of real servers on loopback: one that knows conditional writes, and one that does not."""

from __future__ import annotations

import os
import random
import shutil
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.action.adopt import adopt
from ansible_collections.openclaw.backup.plugins.module_utils.action.check import check
from ansible_collections.openclaw.backup.plugins.module_utils.action.needed import restore_if_needed
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.rekey import rekey
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import claims, remembered, repository, s3, session

from .buckets import ACCESS, PREFIX, SECRET, Answer, Asked, Bucketed, Proxy, refusal
from .world import assert_same, error_of, killed_at

NO_KEY = {"key_file": None, "old_key_files": []}


def world_at(port: int) -> Iterator[Bucketed]:
    proxy = Proxy(port)
    made = Bucketed.behind(proxy)
    yield made
    made.destroy()
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def conditional(moto: int) -> Iterator[Bucketed]:
    yield from world_at(moto)


@pytest.fixture
def unconditional(rclone: int) -> Iterator[Bucketed]:
    yield from world_at(rclone)


@pytest.fixture(params=["moto", "rclone"])
def bucketed(request: pytest.FixtureRequest) -> Iterator[Bucketed]:
    yield from world_at(request.getfixturevalue(request.param))


def plant(world: Bucketed, count: int = 95, directories: int = 39) -> List[Path]:
    paths = []
    for number in range(count):
        path = world.src / ("dir%02d" % (number % directories)) / ("file%02d" % number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(200 + number * 37))
        paths.append(path)
    return paths


def comes_back(world: Bucketed) -> Path:
    dest = world.root / ("back-%s" % os.urandom(4).hex())
    assert world.restore(dest=dest, state_directory=str(world.root / ("state-%s" % dest.name))).verified
    return world.restored(dest)


# ---- there and back ------------------------------------------------------------------------------------------------------


def test_a_snapshot_goes_to_a_bucket_and_comes_back_as_it_was(bucketed: Bucketed) -> None:
    plant(bucketed)
    (bucketed.src / "large").write_bytes(os.urandom(9 << 20))
    first = bucketed.backup()
    assert first.changed and first.files_sent == 96
    assert_same(bucketed.src, comes_back(bucketed))
    (bucketed.src / "dir00" / "file00").write_bytes(b"other")
    second = bucketed.backup()
    assert (second.files_sent, second.bytes_sent) == (1, 5)
    assert_same(bucketed.src, comes_back(bucketed))
    assert not bucketed.backup().changed
    bucketed.check_history(count=2)


# ---- what is asked ---------------------------------------------------------------------------------------------------------


def test_hardly_anything_is_asked_of_a_bucket(conditional: Bucketed) -> None:
    world = conditional
    paths = plant(world)
    world.backup()
    world.proxy.classes()
    assert not world.backup().changed
    assert world.proxy.classes() == (0, 0, 0)
    paths[0].write_bytes(b"changed")
    result = world.backup()
    asked = world.proxy.classes()
    assert asked == (2, 0, 0)
    assert result.requests is not None
    assert (result.requests["class_a"], result.requests["class_b"], result.requests["free"]) == asked
    assert result.requests["sent"] > 7
    for path in paths:
        path.write_bytes(os.urandom(300))
    assert world.backup().files_sent == 95
    assert world.proxy.classes() <= (2, 0, 0)
    assert not world.backup().changed
    assert world.proxy.classes() == (0, 0, 0)
    for number in range(3):
        paths[number].write_bytes(os.urandom(300))
        assert world.backup().changed
        assert world.proxy.classes() == (2, 0, 0)
    world.proxy.verbs()
    packs = len(world.keys("packs"))
    assert_same(world.src, comes_back(world))
    verbs = world.proxy.verbs()
    assert verbs.keys() <= {"list", "get"} and verbs["list"] == 1 and verbs["get"] <= 2 + packs
    world.check_history()


def test_a_prune_with_waste_and_another_key_ask_little_of_a_bucket(conditional: Bucketed) -> None:
    world = conditional
    paths = plant(world, 40, 3)
    world.backup()
    for path in paths[:30]:
        path.write_bytes(os.urandom(300))
    quiet = world.policy(anomaly={"changed_percent": 0})
    world.backup(policy=quiet)
    world.proxy.verbs()
    result = prune(world.policy(retention={"keep_last": 1, "protect": "0s"}), state_directory=str(world.state))
    assert result.repacked is not None and (result.repacked["packs"], result.repacked["snapshots"]) == (1, 1)
    # Three lists of what is there, two of leases, and uploads: that the first one goes, a lease, the pack and the edition.
    verbs = world.proxy.verbs()
    assert result.requests is not None and result.requests["class_a"] == verbs["list"] + verbs["put"] <= 13
    assert result.requests["class_b"] == verbs["get"] + verbs.get("head", 0) <= 25
    world.check_history(count=1)
    paths[0].write_bytes(b"the host does not know of it yet")
    world.proxy.classes()
    assert world.backup().changed
    assert world.proxy.classes() == (2, 0, 0)
    world.change_key()
    paths[0].write_bytes(b"a new key is introduced once")
    world.backup()
    assert world.proxy.classes()[0] == 3
    paths[0].write_bytes(b"and costs nothing then")
    world.backup()
    assert world.proxy.classes() == (2, 0, 0)
    done = rekey(world.policy(), state_directory=str(world.state))
    assert done.keys == [done.key] and done.requests is not None
    world.old_keys.clear()
    assert_same(world.src, comes_back(world))
    world.check_history(count=4)
    world.proxy.classes()
    paths[0].write_bytes(b"after that, neither")
    world.backup()
    assert world.proxy.classes() <= (2, 0, 0)
    # What the host remembers is sealed with a key that another machine has made needless, and that is here no more.
    world.change_key()
    assert rekey(world.policy(), state_directory=str(world.root / "elsewhere")).changed
    world.old_keys.clear()
    paths[0].write_bytes(b"all the same")
    assert world.backup().changed
    # Nor can it commit by what it remembers where nobody has given it the new key; that costs a request that fails, and those that tell why.
    world.change_key()
    assert rekey(world.policy(), state_directory=str(world.root / "elsewhere")).changed
    paths[0].write_bytes(b"with an old key")
    world.proxy.classes()
    error = error_of(world.backup, policy=world.policy(target=world.spec(key_file=world.old_keys.pop(), old_key_files=[])))
    assert error.kind == "key" and world.proxy.classes()[0] == 3
    assert world.backup().changed
    world.check_history(count=7)


def test_several_processes_send_and_every_request_is_counted(bucketed: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PACK", 2 << 20)
    monkeypatch.setattr(pool, "available_cpus", lambda: 2)
    world = bucketed
    for number in range(40):
        (world.src / ("file%02d" % number)).write_bytes(os.urandom(500_000 + number))
    (world.src / "large").write_bytes(os.urandom(9 << 20))
    result = world.backup()
    asked = world.proxy.classes()
    assert result.requests is not None
    assert (result.requests["class_a"], result.requests["class_b"], result.requests["free"]) == asked
    assert result.requests["sent"] > 29_000_000
    assert len(world.keys("packs")) >= 12
    world.proxy.verbs()
    assert_same(world.src, comes_back(world))
    assert world.proxy.verbs()["get"] <= 2 + len(world.keys("packs"))
    world.proxy.verbs()
    assert world.verify(depth="full").ok
    assert world.proxy.verbs()["get"] <= 2 + len(world.keys("packs"))
    (world.src / "new").write_bytes(b"new")
    assert world.backup().files_sent == 1
    world.check_history(count=2)


# ---- bad input: one clear error each, and nothing is written ---------------------------------------------------------------


def spoil_all(status: int, code: str) -> Any:
    return lambda asked, body: refusal(status, code)


def spoil_uploads(status: int, code: str) -> Any:
    return lambda asked, body: refusal(status, code) if asked.verb == "put" else None


BAD = {
    "missing bucket": ("no_bucket", "no bucket", lambda world: {"target": world.spec(url="s3://no-such-bucket/x")}),
    "wrong credentials": ("credentials", "refused (SignatureDoesNotMatch)", spoil_all(403, "SignatureDoesNotMatch")),
    "unknown credentials": ("credentials", "refused (InvalidAccessKeyId)", spoil_all(403, "InvalidAccessKeyId")),
    "expired credentials": ("credentials", "refused (ExpiredToken)", spoil_all(400, "ExpiredToken")),
    "skewed clock": ("clock", "too far apart", spoil_all(403, "RequestTimeTooSkewed")),
    "read-only token": ("denied", "may not do this: PutObject", spoil_uploads(403, "AccessDenied")),
    "token for nothing": ("denied", "may not do this: GetObject", spoil_all(403, "AccessDenied")),
    "a web server": ("no_s3", "not answer as an S3 service", lambda asked, body: Answer(200, b"<html>welcome</html>", (("Content-Type", "text/html"),))),
    "a web server without that page": (
        "no_s3",
        "not answer as an S3 service",
        lambda asked, body: Answer(404, b"<html>?</html>", (("Content-Type", "text/html"),)),
    ),
    "a web server that sends on": (
        "no_s3",
        "sends on to https://x.example.org/",
        lambda asked, body: Answer(302, b"", (("Location", "https://x.example.org/"),)),
    ),
    "a service that is busy": ("unreachable", "answers SlowDown", spoil_all(503, "SlowDown")),
    "nothing there": ("unreachable", "cannot be reached", lambda world: {"target": world.spec(endpoint="http://127.0.0.1:1")}),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bucket_that_cannot_be_used_is_told_of_and_nothing_is_written(conditional: Bucketed, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(s3, "_ATTEMPTS", 2)
    world = conditional
    plant(world, 3, 1)
    kind, words, how = BAD[case]
    changes = {}
    if how.__code__.co_varnames[:1] == ("world",):
        changes = how(world)
    else:
        world.proxy.spoil = how
    error = error_of(world.backup, policy=world.policy(**changes))
    assert (error.kind, error.rc) == (kind, 6), error
    assert words in error.message and error.next
    assert world.keys() == []
    assert SECRET not in repr(error.__dict__) + str(error)


def test_wrong_credentials_are_told_by_a_server_that_looks(unconditional: Bucketed) -> None:
    world = unconditional
    plant(world, 3, 1)
    right = (world.root / "credentials").read_text()
    (world.root / "credentials").write_text(right.replace(SECRET, "not-the-secret"))
    assert error_of(world.backup).kind == "credentials"
    (world.root / "credentials").write_text(right.replace(ACCESS, "not-the-key"))
    assert error_of(world.backup).kind == "credentials"
    assert world.keys() == []


@pytest.mark.parametrize("how", ["missing", "open", "empty", "noise"])
def test_a_credentials_file_that_cannot_be_used_is_told_of_before_anything_is_asked(conditional: Bucketed, how: str) -> None:
    world = conditional
    plant(world, 3, 1)
    path = world.root / "credentials"
    if how == "missing":
        path.unlink()
    elif how == "open":
        path.chmod(0o644)
    else:
        path.write_text("" if how == "empty" else "%s is the secret" % SECRET)
    error = error_of(world.backup)
    assert (error.kind, error.field) == ("credentials", "target.credentials_file")
    assert SECRET not in repr(error.__dict__) + str(error)
    assert world.proxy.asked == []


def test_without_any_credentials_people_are_told_where_to_put_them(conditional: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    world = conditional
    plant(world, 3, 1)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(world.root))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = error_of(world.backup, policy=world.policy(target=world.spec(credentials_file=None)))
    assert (error.kind, error.field) == ("credentials", "target.credentials_file")
    assert world.proxy.asked == []


def test_the_usual_chain_of_credentials_is_followed(conditional: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    world = conditional
    plant(world, 3, 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert world.backup(policy=world.policy(target=world.spec(credentials_file=None))).changed


def test_status_tells_whether_the_bucket_keeps_what_is_young(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()

    def immutable() -> Any:
        return status(world.policy(), state_directory=str(world.state))["immutable"]

    assert immutable() is False
    client = world.client()
    world.bucket += "-locked"
    client.create_bucket(Bucket=world.bucket, ObjectLockEnabledForBucket=True, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    assert immutable() is False  # objects can be locked, and are not
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 7}}
    client.put_object_lock_configuration(Bucket=world.bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule})
    assert immutable() is True
    world.proxy.spoil = lambda asked, _body: refusal(501, "NotImplemented") if asked.key.strip("/") == world.bucket and asked.verb == "get" else None
    assert immutable() is None


def test_what_lies_below_the_prefix_already_is_left_alone(bucketed: Bucketed) -> None:
    world = bucketed
    plant(world, 3, 1)
    world.client().put_object(Bucket=world.bucket, Key=PREFIX + "/photo.jpg", Body=b"x")
    error = error_of(world.backup)
    assert error.kind == "not_a_vault" and "photo.jpg" in str(error.found)
    assert world.keys() == [PREFIX + "/photo.jpg"]


def test_foreign_objects_in_a_history_are_told_of(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()
    world.client().put_object(Bucket=world.bucket, Key=PREFIX + "/h/p/manifests/notes.txt", Body=b"x")
    assert error_of(world.verify).kind == "foreign"
    world.client().put_object(Bucket=world.bucket, Key=PREFIX + "/h/p/packs/a b", Body=b"x")
    assert error_of(world.verify).kind == "foreign"


def test_an_unknown_format_is_refused(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.client().put_object(Bucket=world.bucket, Key=PREFIX + "/format.json", Body=b'{"format":2,"layout":"pack","storage":"sealed"}')
    assert error_of(world.backup).kind == "vault_format"
    assert world.keys() == [PREFIX + "/format.json"]
    # It would look as if there were none, and an application would start without its files.
    assert error_of(world.snapshots).kind == "vault_format"
    assert error_of(restore_if_needed, world.policy(), state_directory=str(world.root / "fresh")).kind == "vault_format"


def test_credentials_that_may_not_delete_are_no_failure_of_a_check_and_the_canary_that_stays_is_named(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.proxy.spoil = lambda asked, _body: refusal(403, "ObjectLockedByBucketPolicy") if asked.verb == "delete" else None
    for layout in ("pack", "mirror"):
        policy = world.policy(target=world.spec(url="s3://%s/%s" % (world.bucket, layout), layout=layout, **({} if layout == "pack" else NO_KEY)))
        found = check(policy, state_directory=str(world.state))
        assert found.canary is not None and not found.canary["removed"]
        place = found.warnings[-1].partition("s3://%s/" % world.bucket)[2].split()[0]
        assert place.startswith(layout + "/") and any(key.startswith(place + "/") for key in world.keys())


def test_clocks_that_do_not_agree_are_told_of(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    ahead = ("Date", formatdate(time.time() + 7300, usegmt=True))
    world.proxy.alter = lambda _asked, answer: answer._replace(headers=(*(item for item in answer.headers if item[0].lower() != "date"), ahead))
    for layout in ("pack", "mirror"):
        policy = world.policy(target=world.spec(url="s3://%s/%s" % (world.bucket, layout), layout=layout, **({} if layout == "pack" else NO_KEY)))
        assert any("121 min apart: the bucket's is ahead" in text for text in world.backup(policy=policy).warnings), layout
        assert any("121 min apart" in text for text in status(policy, state_directory=str(world.state))["problems"]), layout


def test_a_key_that_is_wrong_is_told_before_anything_is_written(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()
    before = world.keys()
    world.key.write_text("00" * 32)
    (world.src / "new").write_bytes(b"new")
    world.proxy.asked.clear()
    assert error_of(world.backup).kind == "key"
    assert not [item for item in world.proxy.asked if item.verb in ("put", "delete")]
    assert world.keys() == before


def test_the_secret_and_the_key_stand_nowhere(conditional: Bucketed) -> None:
    world = conditional
    (world.src / "a-name-of-a-file").write_bytes(b"a content of a file")
    world.backup()
    words = [SECRET.encode(), world.key.read_bytes().strip(), b"a-name-of-a", b"a content of"]
    for key in world.keys():
        text = key.encode() + world.content(key)
        assert [word for word in words if word in text] == []
    for path in (path for path in world.state.rglob("*") if path.is_file()):
        assert [word for word in words[:2] if word in path.read_bytes()] == []


# ---- servers and links that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status, code", [(500, "InternalError"), (503, "SlowDown")])
def test_a_server_that_fails_now_and_then_is_asked_again(conditional: Bucketed, status: int, code: str) -> None:
    world = conditional
    plant(world, 3, 1)
    seen: List[Asked] = []

    def spoil(asked: Asked, body: bytes) -> Any:
        seen.append(asked)
        if [item[:2] for item in seen].count(asked[:2]) == 1:
            answer = refusal(status, code)
            return answer._replace(headers=(*answer.headers, ("Retry-After", "0")))
        return None

    world.proxy.spoil = spoil
    assert world.backup().changed
    assert_same(world.src, comes_back(world))
    world.proxy.spoil = lambda asked, body: None
    world.check_history(count=1)


def test_an_answer_that_was_lost_is_no_lost_race(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()
    (world.src / "new").write_bytes(b"new")
    lost: List[Asked] = []

    def alter(asked: Asked, answer: Answer) -> Answer:
        if asked.verb == "put" and "/manifests/" in asked.key and not lost:
            lost.append(asked)
            return refusal(500, "InternalError")
        return answer

    world.proxy.alter = alter
    assert world.backup().changed and lost
    world.check_history(count=2)


def test_what_is_altered_on_its_way_up_is_not_taken(unconditional: Bucketed) -> None:
    world = unconditional  # moto does not look at checksums
    plant(world, 3, 1)
    world.proxy.alter_upload = lambda asked, body: bytes([body[0] ^ 1]) + body[1:] if "/packs/" in asked.key else body
    error = error_of(world.backup)
    assert error.kind == "checksum", error
    assert not [key for key in world.keys() if "/packs/" in key or "/manifests/" in key]
    world.proxy.alter_upload = lambda asked, body: body
    assert world.backup().changed
    world.check_history(count=1)


def test_answers_that_are_cut_short_are_asked_for_again(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()
    cut: List[Asked] = []

    def alter(asked: Asked, answer: Answer) -> Answer:
        if asked.verb == "get" and asked not in cut:
            cut.append(asked)
            return answer._replace(cut=True)
        return answer

    world.proxy.alter = alter
    assert_same(world.src, comes_back(world))
    assert len(cut) >= 3


def test_what_is_altered_on_its_way_down_is_found(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()

    def alter(asked: Asked, answer: Answer) -> Answer:
        if "/packs/" in asked.key and asked.verb == "get":
            return answer._replace(body=answer.body[:100] + bytes([answer.body[100] ^ 1]) + answer.body[101:])
        return answer

    world.proxy.alter = alter
    assert not world.verify(depth="full").ok
    assert world.restore(dest=world.root / "half", state_directory=str(world.root / "other")).rc == 7


# ---- others ------------------------------------------------------------------------------------------------------------------


@pytest.mark.torture
def test_of_two_who_commit_at_the_same_moment_exactly_one_does(bucketed: Bucketed) -> None:
    plant(bucketed, 3, 1)
    bucketed.backup()
    bucketed.race(int(os.environ.get("RACES", "5")), lambda: bucketed.target)
    assert bucketed.keys("claims") == []


def test_of_two_who_write_at_once_one_is_told_and_succeeds_next_time(bucketed: Bucketed) -> None:
    world = bucketed
    plant(world, 3, 1)
    world.backup()
    other = str(world.root / "other-state")
    shutil.copytree(world.state, other)
    (world.src / "new").write_bytes(b"new")
    assert world.backup().changed
    (world.src / "newer").write_bytes(b"newer")
    error = error_of(world.backup, state_directory=other)
    assert error.kind == "writer" and error.rc == 4
    world.check_history(count=2)
    adopt(world.policy(), state_directory=other)
    assert world.backup(state_directory=other).changed
    world.check_history(count=3)


def test_the_claim_of_a_killed_run_stops_the_next_one_here_for_a_moment_and_others_for_longer(unconditional: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    world = unconditional
    plant(world, 3, 1)
    world.backup()
    other = str(world.root / "other-state")
    shutil.copytree(world.state, other)
    (world.src / "new").write_bytes(b"new")
    numbers = repository.Repository.numbers
    pid = os.fork()
    if pid == 0:  # falls when it has said that it is about to commit
        monkeypatch.setattr(repository.Repository, "numbers", lambda here: os._exit(9) if world.keys("claims") else numbers(here))
        world.backup()
        os._exit(0)
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 9
    assert len(world.keys("claims")) == 1
    monkeypatch.setattr(claims, "_PATIENCE", 0.5)
    error = error_of(world.backup, state_directory=other)
    assert (error.kind, error.rc) == ("writer", 4), "nobody else knows that it is dead"
    monkeypatch.setattr(claims, "_PATIENCE", 20.0)
    monkeypatch.setattr(claims, "_LEFT_DEAD_AFTER", 2.0)
    assert world.backup().changed
    assert world.keys("claims") == [] and not list(world.state.rglob("claims.json"))[0].read_bytes().count(b"/claims/")
    world.check_history(count=2)


@pytest.mark.torture
def test_a_run_that_is_killed_leaves_the_last_commit_and_the_next_one_goes_on(bucketed: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_LEFT_DEAD_AFTER", 2.0)
    world = bucketed
    plant(world, 3, 1)
    world.backup()
    started = time.monotonic()
    (world.src / "new").write_bytes(b"new")
    world.backup()
    takes = time.monotonic() - started
    source = random.Random(7)
    for number in range(int(os.environ.get("INSTANTS", 6))):
        (world.src / "new").write_bytes(b"%d" % number)
        killed_at(world.backup, source.random() * takes)
        assert world.verify(depth="full").ok
        world.backup()
        assert_same(world.src, comes_back(world))


def test_what_is_remembered_is_not_believed_after_a_run_that_died(conditional: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()
    (view,) = world.state.rglob("view.json")
    before = view.read_bytes()
    (world.src / "new").write_bytes(b"new")
    with monkeypatch.context() as patch:

        def die(*_arguments: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(remembered.RememberedStore, "settle", die)
        with pytest.raises(KeyboardInterrupt):
            world.backup()
    assert not view.exists()
    view.write_bytes(before)  # as if the power had failed before the disk knew
    (world.src / "newer").write_bytes(b"newer")
    assert world.backup().changed
    world.check_history(count=3)


def test_a_verification_that_finds_damage_is_heard_by_the_next_run(conditional: Bucketed) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()
    (pack,) = world.keys("packs")
    data = bytearray(world.content(pack))
    data[100] ^= 1
    world.client().put_object(Bucket=world.bucket, Key=pack, Body=bytes(data))
    assert not world.verify(depth="full").ok
    (world.src / "new").write_bytes(b"new")
    assert world.backup().files_sent == 4
    assert world.verify(depth="full").ok


def test_a_history_that_is_gone_is_missed_within_the_hour(conditional: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    world = conditional
    plant(world, 3, 1)
    world.backup()
    for key in world.keys():
        world.client().delete_object(Bucket=world.bucket, Key=key)
    monkeypatch.setattr(remembered, "TRUSTED_FOR", 0)
    (world.src / "new").write_bytes(b"new")
    assert error_of(world.backup).kind == "history_lost"
