# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill that cannot fail proves nothing: for each way in which a restore can be of no use, one that finds it, says so, and leaves nothing lying about."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional
from xml.etree import ElementTree

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import drill as drill_module
from ansible_collections.openclaw.backup.plugins.module_utils.action import probes as probes_module
from ansible_collections.openclaw.backup.plugins.module_utils.action import ransomware as ransomware_module
from ansible_collections.openclaw.backup.plugins.module_utils.action.drill import DrillResult, drill
from ansible_collections.openclaw.backup.plugins.module_utils.action.due import drill_if_due
from ansible_collections.openclaw.backup.plugins.module_utils.action.prune import prune
from ansible_collections.openclaw.backup.plugins.module_utils.action.status import status
from ansible_collections.openclaw.backup.plugins.module_utils.errors import LockedError, RefusedError, UsageError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.database import CaptureError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Manifest, read_manifest
from ansible_collections.openclaw.backup.plugins.module_utils.observe.audit import AuditLog, seconds_of, verify_chain
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import layout
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree import session as session_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.layout import make_id
from ansible_collections.openclaw.backup.plugins.module_utils.target.tree.target import TreeTarget

from .test_cli import PROGRAM
from .world import NOBODY, Notes, World, error_of, fingerprint, give, in_child, killed_at, mounted, needs_root

ROWS = 1000


def run(world: World, *, policy: Optional[Policy] = None, **options: Any) -> DrillResult:
    notes = Notes()
    try:
        return drill(policy or world.policy(), **{"state_directory": str(world.state), "progress": notes, **options})
    finally:
        world.notes = notes.notes


def failed(result: DrillResult) -> Dict[str, str]:
    """What failed, and why."""
    assert result.rc in (1, 6, 7) and result.failure() is not None and not result.ok
    return {check["name"]: check["reason"] for check in result.checks if check["ok"] is False}


def evidence(world: World) -> List[Dict[str, Any]]:
    """The events of drills in the audit log, which is a chain; the newest record of the state says the same."""
    log = world.state / "audit.jsonl"
    assert verify_chain(os.fsencode(log)).ok
    events = [json.loads(line) for line in log.read_text().splitlines()]
    drills = [event for event in events if event.get("event") == "drill"]
    records = [json.loads(line) for line in (world.state / "h" / "p" / "drills.jsonl").read_text().splitlines()] if drills else []
    assert [item["verdict"] for item in records] == [event["verdict"] for event in drills]
    return drills


def assert_clean(world: World) -> None:
    assert not list((world.state / "h" / "p").glob("drill/*")), "a drill leaves nothing behind"
    assert (world.state / "h" / "p" / "drill.lock").read_bytes() == b""


def database(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE t (x TEXT)")
        base.executemany("INSERT INTO t VALUES (?)", [("needle-%04d" % number,) for number in range(ROWS)])
        base.execute("CREATE INDEX i ON t (x)")
        base.commit()


def spoil(path: Path) -> None:
    """A database that SQLite reads without a complaint, and whose index says something else than its table."""
    data = path.read_bytes()
    at = data.index(b"needle-0500")
    path.write_bytes(data[:at] + b"nEEdle-0500" + data[at + 11 :])


@pytest.fixture
def lived(world: World) -> World:
    """One with a snapshot of some of everything."""
    (world.src / "conf").mkdir()
    (world.src / "conf" / "app.json").write_text('{"port": 80}\n')
    (world.src / "conf" / "app.json5").write_text("// the port\n{port: 80,}\n")
    (world.src / "big").write_bytes(os.urandom(300_000))
    (world.src / "empty").mkdir()
    (world.src / "link").symlink_to("big")
    (world.src / "secret").write_text("s")
    (world.src / "secret").chmod(0o600)
    os.link(world.src / "big", world.src / "twin")
    database(world.src / "data.db")
    world.backup()
    return world


def test_a_drill_that_finds_nothing_says_what_it_looked_at_and_leaves_evidence_alone(lived: World) -> None:
    before = fingerprint(lived.src), fingerprint(lived.history / "snapshots")
    result = run(lived, policy=lived.policy(objectives={"rto": "1h", "rpo": "1h", "drill_every": "1d"}))
    assert (result.rc, result.verdict, result.failure()) == (0, "passed", None), result.to_dict()
    assert [check["name"] for check in result.checks] == ["restore", "bytes", "metadata", "databases", "canary", "rto", "rpo"]
    assert all(check["ok"] for check in result.checks)
    assert "1,000 rows" in result.checks[3]["reason"]
    assert (fingerprint(lived.src), fingerprint(lived.history / "snapshots")) == before
    assert_clean(lived)
    [event] = evidence(lived)
    newest = lived.snapshots()[0]
    assert (event["snapshot"], event["digest"], event["verdict"], event["rc"]) == (newest.id, newest.receipt.digest, "passed", 0)
    assert event["objectives"] == {"rto": 3600, "rpo": 3600, "drill_every": 86400}
    assert event["versions"]["python"] and event["asked_by"]["user"] and len(event["checks"]) == 7
    assert not [line for line in (lived.state / "h" / "p" / "runs.jsonl").read_text().splitlines() if '"restore"' in line], "it is no restore"


def test_check_mode_writes_nothing_and_names_what_would_be_checked(lived: World) -> None:
    before = fingerprint(lived.root)
    result = run(lived, policy=lived.policy(probes=[{"json": "*.json"}]), dry_run=True)
    assert [check["name"] for check in result.checks] == ["restore", "bytes", "metadata", "canary", "databases", "probe 1: json *.json"]
    assert (result.rc, result.verdict, result.entries > 5) == (0, None, True)
    assert fingerprint(lived.root) == before


# ---- what came back is not what was backed up ------------------------------------------------------------------------------


def test_a_wrong_byte_in_the_vault_is_found_and_named(lived: World) -> None:
    path = lived.stored(lived.snapshots()[0].id, "secret")
    found = path.stat()
    path.chmod(0o600)
    path.write_text("S")
    path.chmod(found.st_mode & 0o7777)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    result = run(lived)
    why = failed(result)
    assert (result.rc, result.verdict) == (7, "failed")
    assert "damaged" in why["restore"] and str(lived.src / "secret") in why["restore"]
    assert "1 missing" in why["bytes"] and str(lived.src / "secret") in why["bytes"]
    assert result.to_dict()["sample"] == [{"path": str(lived.src / "secret"), "change": "missing"}]
    assert_clean(lived)
    assert [event["verdict"] for event in evidence(lived)] == ["failed"]
    problems = status(lived.policy(), state_directory=str(lived.state))["problems"]
    assert any(text.startswith("the last drill failed: ") and "secret" in text for text in problems)


def _flip(root: Path) -> None:
    found = (root / "big").stat()
    with open(root / "big", "r+b") as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(bytes([first[0] ^ 1]))
    os.utime(root / "big", ns=(found.st_atime_ns, found.st_mtime_ns))


def _unlink_twin(root: Path) -> None:
    data, found = (root / "twin").read_bytes(), (root / "twin").stat()
    (root / "twin").unlink()
    (root / "twin").write_bytes(data)
    os.chmod(root / "twin", found.st_mode)
    os.utime(root / "twin", ns=(found.st_atime_ns, found.st_mtime_ns))


def _relink(root: Path) -> None:
    found = os.lstat(root / "link")
    (root / "link").unlink()
    (root / "link").symlink_to("BIG")
    os.utime(root / "link", ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


@pytest.mark.parametrize(
    ("sabotage", "check", "word"),
    [
        (_flip, "bytes", "damaged"),
        (_relink, "bytes", "damaged"),
        (lambda root: (root / "secret").unlink(), "bytes", "missing"),
        (lambda root: (root / "empty").rmdir(), "bytes", "missing"),
        (lambda root: (root / "secret").chmod(0o644), "metadata", "metadata"),
        (lambda root: (root / "empty").chmod(0o700), "metadata", "metadata"),
        (lambda root: os.utime(root / "conf" / "app.json"), "metadata", "metadata"),
        (lambda root: os.setxattr(root / "secret", b"user.new", b"1"), "metadata", "metadata"),
        (lambda root: (root / "conf" / "new").write_text(""), "metadata", "extra"),
        (_unlink_twin, "metadata", "metadata"),
    ],
)
def test_a_restore_that_lies_is_found_by_the_comparison(
    lived: World, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[Path], Any], check: str, word: str
) -> None:
    honest = drill_module.restore

    def lying(policy: Policy, request: Any, **options: Any) -> Any:
        done = honest(policy, request, **options)
        sabotage(lived.restored(Path(request.dest)))
        return done

    monkeypatch.setattr(drill_module, "restore", lying)
    result = run(lived)
    why = failed(result)
    assert result.rc == 7 and check in why and word in why[check], why
    assert "restore" not in why
    assert_clean(lived)


def rewrite(world: World, change: Callable[[Manifest], Manifest]) -> Path:
    """Exchange the manifest of the newest snapshot, and have its receipt speak of it; the snapshot's directory."""
    folder = world.history / "snapshots" / world.snapshots()[0].id
    path = folder / "manifest.jsonl.gz"
    after = change(read_manifest(os.fsencode(path)))
    path.chmod(0o600)
    path.write_bytes(after.to_bytes())
    world.edit_json(folder / "receipt.json", digest=after.digest, content_digest=after.content_digest)
    return folder


def test_a_database_that_lost_a_row_since_it_was_captured_is_found(lived: World) -> None:
    def one_more(manifest: Manifest) -> Manifest:
        return manifest.with_header(databases={path: {**facts, "rows": facts["rows"] + 1} for path, facts in manifest.header.databases.items()})

    rewrite(lived, one_more)
    result = run(lived)
    assert failed(result) == {"databases": "%s: it has 1,000 rows, and had 1001 when it was captured" % (lived.src / "data.db")}
    assert result.rc == 7


def test_a_snapshot_that_was_exchanged_as_a_whole_is_known_by_what_the_host_remembers(lived: World) -> None:
    """Everything in the vault fits, content, manifest, receipt and id: only the host knows that it never sent this."""
    before = lived.snapshots()[0]
    stored = lived.stored(before.id, "secret")
    found = stored.stat()
    stored.chmod(0o600)
    stored.write_text("S")
    stored.chmod(found.st_mode & 0o7777)
    os.utime(stored, ns=(found.st_atime_ns, found.st_mtime_ns))
    name = os.fsencode(lived.src / "secret").strip(b"/")

    def forged(manifest: Manifest) -> Manifest:
        entries = [entry._replace(hash=hashlib.sha256(b"S").hexdigest()) if entry.path == name else entry for entry in manifest.entries]
        made = Manifest.from_entries(manifest.header, entries)
        return made.with_header(id=make_id(manifest.header.created, made.digest))

    folder = rewrite(lived, forged)
    forged_id = make_id(before.receipt.created, json.loads((folder / "receipt.json").read_text())["digest"])
    lived.edit_json(folder / "receipt.json", id=forged_id)
    folder.rename(folder.parent / forged_id)
    result = run(lived)
    why = failed(result)
    assert set(why) == {"canary"} and "none that this host made" in why["canary"] and result.rc == 7
    (lived.state / "h" / "p" / "targets").rename(lived.state / "forgotten")
    result = run(lived)
    assert result.rc == 0 and {check["name"]: check["ok"] for check in result.checks}["canary"] is None, "a host that remembers nothing says so"


def test_a_digest_that_agrees_in_the_digits_of_the_id_alone_is_not_the_one_that_was_noted(lived: World) -> None:
    newest = lived.snapshots()[0]
    log = lived.state / "audit.jsonl"
    log.unlink()
    noted = newest.receipt.digest[:8] + "0" * 56
    AuditLog(os.fsencode(log)).append({"event": "run", "host": "h", "policy": "p", "snapshot": newest.id, "digest": noted}, now=time.time())
    why = failed(run(lived))
    assert set(why) == {"canary"} and "this host noted the digest " + noted in why["canary"]


def test_a_log_that_was_edited_to_fit_is_no_witness(lived: World) -> None:
    log = lived.state / "audit.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0].replace('"result":"ok"', '"result":"no"') + "".join(lines[1:]))
    assert "edited" in failed(run(lived))["canary"]


# ---- what came back is of no use ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["auto", "off"])
def test_a_database_that_is_damaged_just_as_it_was_backed_up_is_found(world: World, how: str) -> None:
    database(world.src / "data.db")
    spoil(world.src / "data.db")
    policy = world.policy(sqlite=how, probes=[{"sqlite": "*.db"}])
    world.backup(policy=policy)
    why = failed(run(world, policy=policy))
    assert set(why) == {"probe 1: sqlite *.db"} and "missing from index i" in why["probe 1: sqlite *.db"]
    if how == "auto":
        assert set(failed(run(world))) == {"databases"}, "a captured database is looked at without a probe"


def test_a_probe_for_databases_finds_what_is_none(world: World) -> None:
    (world.src / "zero.db").write_bytes(b"")
    (world.src / "text.db").write_text("not a database, although long enough to be read")
    with contextlib.closing(sqlite3.connect(world.src / "bare.db")) as base:
        base.execute("PRAGMA user_version = 3")
    database(world.src / "busy.db")
    (world.src / "busy.db-wal").write_bytes(b"x" * 100)
    policy = world.policy(sqlite="off", probes=[{"sqlite": "/%s.db" % name} for name in ("zero", "text", "bare", "busy")])
    world.backup(policy=policy)
    why = list(failed(run(world, policy=policy)).values())
    assert [text.rpartition("db: ")[2][:30] for text in why] == [
        "it is empty",
        "it is no SQLite database",
        "it has no tables",
        "it was not captured but copied"[:30],
    ]


def test_a_database_that_only_its_application_can_check_is_counted_and_told_of(world: World) -> None:
    with contextlib.closing(sqlite3.connect(world.src / "own.db")) as base:
        base.create_collation("own", lambda a, b: (a > b) - (a < b))
        base.executescript("CREATE TABLE t (x COLLATE own); INSERT INTO t VALUES ('a'), ('b'); CREATE INDEX i ON t (x);")
    world.backup()
    result = run(world)
    assert result.rc == 0 and result.checks[3]["reason"].startswith("0 databases whole, 2 rows; 1 only counted"), result.checks


PROBES: List[Any] = [
    ({"json": "/conf/*.json"}, ""),
    ({"json": "*.json5"}, "app.json5: "),
    ({"json5": "/empty/"}, "nothing in the snapshot matches /empty/"),
    ({"json5": "/conf/*"}, ""),
    ({"json5": "/secret"}, "line 1, column 1"),
    ({"json": "/nothing", "optional": True}, ""),
    ({"json": "/nothing"}, "nothing in the snapshot matches /nothing"),
    ({"exists": ["SRC/conf", "SRC/link"]}, ""),
    ({"exists": ["SRC/conf", "SRC/gone"]}, "gone did not come back"),
    ({"max_age": {"pattern": "/secret", "duration": "1h"}}, ""),
    ({"max_age": {"pattern": "/future", "duration": "1h"}}, "is dated in the future"),
    ({"max_age": {"pattern": "/old/*", "duration": "1h"}}, "is 1d older than the state that came back; at most 1h"),
]


@pytest.mark.parametrize(("probe", "reason"), PROBES)
def test_a_probe_says_what_it_misses(lived: World, probe: Dict[str, Any], reason: str) -> None:
    (lived.src / "old").mkdir()
    (lived.src / "old" / "log").write_text("")
    (lived.src / "future").write_text("")
    os.utime(lived.src / "future", (time.time() + 90000, time.time() + 90000))
    os.utime(lived.src / "old" / "log", (time.time() - 90000, time.time() - 90000))
    if "exists" in probe:
        probe = {"exists": [path.replace("SRC", str(lived.src)) for path in probe["exists"]]}
    lived.backup()
    result = run(lived, policy=lived.policy(probes=[probe]))
    if not reason:
        assert result.rc == 0, result.to_dict()
        return
    [(name, why)] = failed(result).items()
    assert reason in why.replace("1d1h", "1d") and name.startswith("probe 1: ") and (result.rc, result.verdict) == (1, "failed")
    assert_clean(lived)


def test_the_profile_of_openclaw_looks_at_its_configuration_and_its_databases(world: World) -> None:
    (world.src / "openclaw.json").write_text("// made by hand\n{gateway: {port: 1,},}\n")
    database(world.src / "state" / "openclaw.sqlite")
    policy = world.policy(profile="openclaw")
    world.backup(policy=policy)
    result = run(world, policy=policy)
    looked = {check["name"]: check["ok"] for check in result.checks if check["name"].startswith("probe")}
    assert result.rc == 0 and looked == {"probe 1: sqlite *.sqlite": True, "probe 2: json5 /openclaw.json": True, "probe 3: json5 /*bot.json": None}
    (world.src / "openclaw.json").write_text("{gateway: {port: 1,}\n<<<<<<< HEAD\n")
    world.backup(policy=policy)
    assert failed(run(world, policy=policy)) == {"probe 2: json5 /openclaw.json": "%s: < begins nothing: line 2, column 1" % (world.src / "openclaw.json")}


def command(lived: World, *argv: str, **keys: Any) -> DrillResult:
    return run(lived, policy=lived.policy(probes=[{"command": list(argv), **keys}]))


def test_a_command_works_on_what_came_back(lived: World) -> None:
    inside = str(lived.src / "conf").lstrip("/")
    result = command(lived, "grep", "-r", "port", inside, expect="80")
    assert result.rc == 0, result.to_dict()
    script = 'cat "$OPENCLAW_BACKUP_SCRATCH/%s/app.json" && test "$OPENCLAW_BACKUP_SNAPSHOT" = %s' % (inside, lived.snapshots()[0].id)
    assert command(lived, "sh", "-c", script, expect='"port"').rc == 0
    assert_clean(lived)


def test_a_command_that_fails_hangs_or_cannot_start_says_so(lived: World) -> None:
    result = command(lived, "sh", "-c", "echo the table is gone; exit 3")
    assert failed(result) == {"probe 1: command sh": "exit code 3: the table is gone"} and result.rc == 1
    began = time.monotonic()
    result = command(lived, "sh", "-c", "sleep 61 & sleep 61", timeout="1s", control=False)
    assert failed(result) == {"probe 1: command sh": "timed out after 1s"} and time.monotonic() - began < 20
    assert not [name for name in os.listdir("/proc") if name.isdigit() and _argv(name) == b"sleep\x0061\x00"], "what it started is gone"
    assert "cannot be started" in failed(command(lived, "/no/such"))["probe 1: command /no/such"]
    assert_clean(lived)


def _argv(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_command_that_is_content_with_nothing_is_told_for_a_liar(lived: World) -> None:
    why = failed(command(lived, "true"))
    assert set(why) == {"probe 1: command true (control)"} and "proves nothing" in why["probe 1: command true (control)"]
    assert command(lived, "true", control=False).rc == 0, "whoever says so is taken at his word"
    assert "proves nothing" in failed(command(lived, "test", "-e", str(lived.src / "big")))["probe 1: command test (control)"], "it looks at the live files"
    why = failed(command(lived, "ls", expect="all is well"))
    assert "it did not say all is well" in why["probe 1: command ls"]


@needs_root
def test_a_command_works_as_the_owner_of_the_source_and_not_as_root(lived: World) -> None:
    give(lived.src, 12345)
    lived.backup()
    inside = str(lived.src).lstrip("/")
    assert command(lived, "sh", "-c", "id -u; cat %s/secret" % inside, expect="12345\ns").rc == 0
    assert "Permission denied" in failed(command(lived, "sh", "-c", "echo x >%s/state/x" % lived.root))["probe 1: command sh"]
    assert command(lived, "sh", "-c", "id -u; cat %s/secret" % inside, expect="0\ns", as_root=True).rc == 0
    assert_clean(lived)


# ---- objectives ------------------------------------------------------------------------------------------------------------


def test_a_restore_that_takes_too_long_misses_the_objective_and_nothing_else(lived: World) -> None:
    policy = lived.policy(objectives={"rto": "1s"}, probes=[{"command": ["sleep", "1.1"], "control": False}])
    result = run(lived, policy=policy)
    assert set(failed(result)) == {"rto"} and (result.rc, result.verdict) == (1, "missed") and result.rto and 1.1 < result.rto < result.duration
    assert run(lived).rc == 0, "an objective that the policy does not give is none"


def test_a_stale_snapshot_misses_the_objective_and_its_age_is_right_to_the_second(lived: World) -> None:
    policy = lived.policy(objectives={"rpo": "1s"})
    time.sleep(2.2)
    result = run(lived, policy=policy)
    until = lived.snapshots()[0].receipt.created
    assert result.state_as_of is not None and result.state_as_of >= until
    assert result.rpo == int(seconds_of(result.started) - seconds_of(result.state_as_of)) >= 2
    assert set(failed(result)) == {"rpo"} and (result.rc, result.verdict) == (1, "missed")
    lived.backup()  # nothing changed: the newest snapshot is still what the sources are like
    assert run(lived, policy=policy).verdict == "passed"
    (lived.src / "more").write_text("more")
    lived.backup()
    time.sleep(1.2)
    older = run(lived, policy=policy, snapshot=lived.snapshots()[1].id)
    assert older.rc == 0 and "not the newest" in older.checks[-1]["reason"], "an old snapshot that was asked for is old on purpose"


def test_status_misses_a_drill_that_is_overdue(lived: World) -> None:
    def problems(every: str) -> List[str]:
        found: List[str] = status(lived.policy(objectives={"drill_every": every}), state_directory=str(lived.state))["problems"]
        return found

    time.sleep(1.1)
    assert problems("1h") == [] and problems("0s") == []
    assert problems("1s") == ["no drill has succeeded yet, the objective (drill_every) is 1s"]
    run(lived)
    assert problems("1s") == []
    command(lived, "false")
    time.sleep(1.2)
    told = problems("1s")
    assert len(told) == 2 and told[0].startswith("the last drill failed: ") and told[1].startswith("the last drill that succeeded is "), told
    assert status(lived.policy(), state_directory=str(lived.state))["problems"] == told[:1], "the default objective judges nobody"


def test_a_schedule_drills_once_before_the_objective_asks_for_it_and_a_day_after_a_failure(lived: World) -> None:
    policy = lived.policy(objectives={"drill_every": "10d"}, schedule={"splay": 30})
    slept: List[float] = []

    def scheduled(days: float, **more: Any) -> Optional[str]:
        return drill_if_due(more.pop("policy", policy), state_directory=str(lived.state), now=time.time() + days * 86400, sleep=slept.append, **more).verdict

    assert scheduled(0, policy=lived.policy()) is None, "who asks for no drills gets none"
    closed = {"window": "%02d:00-%02d:01" % ((time.localtime().tm_hour + 2) % 24, (time.localtime().tm_hour + 2) % 24)}
    assert scheduled(0, policy=lived.policy(objectives={"drill_every": "10d"}, schedule=closed)) is None
    assert slept == []
    assert scheduled(0) == "passed" and len(slept) == 1 and 0 <= slept[0] <= 30
    assert scheduled(0) is scheduled(7.9) is None
    lost = lived.policy(objectives={"drill_every": "10d"}, probes=[["false"]])
    assert scheduled(8.1, policy=lost) == "failed"
    assert scheduled(0.9, policy=lost) is None, "one that takes hours is not made every hour"
    assert scheduled(8.1) == "passed"
    (lived.state / "h" / "p" / "drills.jsonl").unlink()
    with (lived.state / "h" / "p" / "drill.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert scheduled(0) is None, "one that takes long is no failure of the next"
    assert scheduled(0) == "passed"


def test_a_host_that_never_made_a_snapshot_has_nothing_to_drill_yet(world: World) -> None:
    policy = world.policy(objectives={"drill_every": "1d"})
    assert drill_if_due(policy, state_directory=str(world.state)).verdict is None
    assert drill_if_due(policy, state_directory=str(world.state), on_vault=True).verdict == "failed", "a vault knows no baseline"


def test_people_are_told_of_a_drill_that_failed_by_itself(lived: World) -> None:
    heard = lived.root / "heard"
    told = {"command": ["/bin/sh", "-c", "cat >>%s" % heard]}
    policy = lived.policy(objectives={"drill_every": "1d"}, schedule={"splay": 0}, notify=told, probes=[["false"]])
    assert drill_if_due(policy, state_directory=str(lived.state)).verdict == "failed"
    assert "the last drill failed: " in json.loads(heard.read_text())["problems"][0]


def test_a_drill_on_the_vault_counts_for_the_host_and_outlives_prunes(lived: World) -> None:
    policy = lived.policy(objectives={"drill_every": "1s"}, retention={"keep_last": 1, "protect": "0s"})
    memory = str(lived.root / "vaults-memory")

    def problems() -> List[str]:
        found: List[str] = status(policy, state_directory=str(lived.state))["problems"]
        return found

    assert run(lived, policy=policy, state_directory=memory, on_vault=True).verdict == "passed"
    drilled = lived.snapshots()[0]
    assert drilled.drilled is not None and drilled.to_dict()["drilled"] == drilled.drilled
    assert problems() == []
    events = [json.loads(line) for line in (lived.history / "audit.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event.get("snapshot") == drilled.id][-1] == "drilled"
    time.sleep(1.2)
    assert problems()[0].startswith("the last drill that succeeded is ")
    for number in range(2):
        (lived.src / "more").write_text("more %d" % number)
        lived.backup()
    kept = prune(policy, state_directory=memory).kept
    assert [item["id"] for item in kept] == [lived.snapshots()[0].id, drilled.id] and kept[1]["reasons"] == ["last drilled snapshot"]


# ---- scenarios -------------------------------------------------------------------------------------------------------------


def twice(lived: World) -> World:
    """One with two snapshots."""
    time.sleep(1.1)
    (lived.src / "more").write_text("more")
    lived.backup()
    return lived


def test_of_a_newest_snapshot_that_is_damaged_the_damage_is_found_and_the_one_before_comes_back(lived: World) -> None:
    newest, before = (snapshot.receipt for snapshot in twice(lived).snapshots())
    result = run(lived, policy=lived.policy(objectives={"rpo": "1s"}), scenario="damaged")
    assert (result.verdict, result.snapshot_id) == ("passed", before.id), result.to_dict()
    assert [check["name"] for check in result.checks][:3] == ["damage is found", "older snapshot", "restore"]
    assert result.loss == int(seconds_of(newest.created) - seconds_of(before.created)) >= 1
    assert "big" in result.checks[0]["reason"] and result.checks[-1]["ok"] is None, "an older state is not judged by the objective for the newest"
    assert_clean(lived)
    assert evidence(lived)[-1]["scenario"] == "damaged"

    damaged = lived.stored(newest.id, "more")
    damaged.chmod(0o600)
    damaged.write_text("moRe")
    result = run(lived, scenario="damaged")
    assert result.verdict == "passed" and "damaged indeed" in result.checks[0]["reason"]
    assert "restore" in failed(run(lived)), "which a drill of the newest finds, too"


def test_damage_that_nobody_notices_fails_that_drill(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    twice(lived)
    monkeypatch.setattr(drill_module, "find_wrong", lambda *_arguments, **_options: [])
    result = run(lived, scenario="damaged")
    assert set(failed(result)) == {"damage is found"} and "was not noticed" in failed(result)["damage is found"] and result.rc == 7


def test_without_another_snapshot_all_would_be_lost(lived: World) -> None:
    assert set(failed(run(lived, scenario="damaged"))) == {"older snapshot"}
    twice(lived)
    older = lived.stored(lived.snapshots()[1].id, "big")
    older.chmod(0o600)
    older.write_bytes(bytes(300_000))
    lived.verify(snapshot=lived.snapshots()[1].id, depth="full")
    assert "not damaged" in failed(run(lived, scenario="damaged"))["older snapshot"], "one that is known to be damaged saves nobody"


def test_a_machine_that_stands_in_counts_what_went_before_and_knows_nothing(lived: World) -> None:
    empty = str(lived.root / "other")
    result = run(lived, state_directory=empty, scenario="lost-host", spent=30.0, policy=lived.policy(objectives={"rto": "30s"}))
    assert (result.verdict, result.scenario) == ("missed", "lost-host") and set(failed(result)) == {"rto"}
    assert result.rto is not None and 30 < result.rto < 30 + result.duration
    canary = next(check for check in result.checks if check["name"] == "canary")
    assert canary["ok"] is None, "nothing that only the host knows is expected of it"
    for more in ({}, {"state_directory": empty, "on_vault": True}):
        with pytest.raises(UsageError) as caught:
            run(lived, scenario="lost-host", **more)
        assert caught.value.field == "scenario", "neither the host nor the vault can be the machine in its place"
    assert evidence(lived) == []


@needs_root
def test_on_a_machine_that_stands_in_a_command_works_as_nobody_whoever_the_manifest_names(lived: World) -> None:
    """The number of the host's user may be that of anybody there, and what comes back may be an attacker's."""
    give(lived.src, 12345)
    os.mknod(lived.src / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 99))
    os.chown(lived.src / "disk", 12345, 12345)
    (lived.src / "way up").write_bytes(Path("/usr/bin/id").read_bytes())
    (lived.src / "way up").chmod(0o4755)
    lived.backup()
    inside = str(lived.src).lstrip("/")
    script = 'set -e; echo $(id -u) $(id -g) $(id -G) $("./{0}/way up" -u) $(cat "{0}/secret"); echo new >"{0}/conf/new"; test ! -e "{0}/disk"'.format(inside)
    probes = [{"exists": [str(lived.src / "disk")]}, {"command": ["sh", "-c", script], "expect": "65534 65534 65534 65534 s\n"}]
    result = run(lived, state_directory=str(lived.root / "other"), scenario="lost-host", policy=lived.policy(probes=probes))
    assert result.verdict == "passed", result.checks
    assert not list((lived.root / "other").rglob("openclaw-backup-drill-*"))


# ---- ransomware ------------------------------------------------------------------------------------------------------------


def write_pages(world: World) -> None:
    (world.src / "conf").mkdir(exist_ok=True)
    for number in range(40):
        (world.src / "conf" / ("page %02d" % number)).write_text("the quick brown fox %d " % number * 100)


@pytest.fixture
def written(lived: World) -> World:
    """One with enough files for an anomaly."""
    write_pages(lived)
    lived.backup()
    return lived


def ransomware(world: World, **options: Any) -> DrillResult:
    before = fingerprint(world.src), fingerprint(world.history / "snapshots")
    result = run(world, scenario="ransomware", **options)
    assert (fingerprint(world.src), fingerprint(world.history / "snapshots")) == before, "nothing but the scratch is touched"
    assert_clean(world)
    return result


def test_encryption_is_noticed_and_the_point_before_it_comes_back(written: World) -> None:
    result = ransomware(written, policy=written.policy(objectives={"rto": "1s", "rpo": "1h"}, retention={"keep_last": 1}))
    assert (result.rc, result.verdict) == (0, "passed"), result.to_dict()
    assert [check["name"] for check in result.checks] == ["restore", "anomaly", "hold", "prune", "point before", "bytes", "metadata", "canary"]
    assert "seem encrypted" in result.checks[1]["reason"] and result.rto is None and result.scenario == "ransomware"
    assert [event["scenario"] for event in evidence(written)] == ["ransomware"]
    if type(written) is World:
        assert written.snapshots()[0].drilled, "it has proven that the snapshot comes back"
    assert len(written.snapshots()) == 2


@needs_root
def test_a_vaults_account_rehearses_ransomware_with_what_is_closed_to_its_owner(portable: World) -> None:
    write_pages(portable)
    for number, mode in enumerate((0, 0o400, 0o200, 0o640)):
        (portable.src / "conf" / ("page %02d" % number)).chmod(mode)
    (portable.src / "read-only").mkdir(0o500)
    portable.state.mkdir()
    portable.backup()
    give(portable.root, NOBODY)
    result = in_child(lambda: run(portable, scenario="ransomware", on_vault=True), uid=NOBODY)
    assert result.verdict == "passed", result.to_dict()


def test_what_ransomware_left_to_be_looked_at_is_what_came_back(written: World) -> None:
    result = run(written, scenario="ransomware", keep=True)
    assert result.scratch and (Path(result.scratch + str(written.src)) / "conf" / "page 03").read_text().startswith("the quick brown fox 3")
    subprocess.run(["rm", "-rf", os.path.dirname(result.scratch)], check=True)


def test_a_signal_that_is_switched_off_fails_that_drill(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ransomware(written, policy=written.policy(anomaly={"encrypted_percent": 0, "changed_percent": 0}))
    assert set(failed(result)) == {"anomaly", "hold", "prune", "point before"} and result.rc == 7
    assert "anomaly.encrypted_percent: 0" in failed(result)["anomaly"] and "no signal was raised" in failed(result)["anomaly"]
    assert "removed" in failed(result)["prune"]
    monkeypatch.setattr(session_module, "judge", lambda *_arguments: None)
    assert "anomaly" in failed(ransomware(written)), "by the program itself, too"


def test_a_parent_that_is_not_held_fails_that_drill(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = layout.update_state
    monkeypatch.setattr(layout, "update_state", lambda history, name, changes: None if "held" in changes else real(history, name, changes))
    found = failed(ransomware(written))
    assert set(found) == {"hold", "prune", "point before"} and "is not held" in found["hold"]


def test_a_hold_that_a_prune_disregards_fails_that_drill(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ransomware_module, "prune", lambda policy, **options: hold_nothing(policy, **options))
    found = failed(ransomware(written))
    assert set(found) == {"prune", "point before"} and "No snapshot fits" in found["point before"]


def hold_nothing(policy: Policy, *, state_directory: str) -> None:
    """A prune that keeps the newest alone."""
    target = TreeTarget(policy.target.path, policy.host, policy.name)
    target.remove(lambda snapshots: {snapshot.id: "a bug" for snapshot in snapshots[1:]})


def after_encryption(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]) -> None:
    """Have ``change`` done to the first snapshot's tree in the scratch when everything is encrypted."""
    real = ransomware_module.prune

    def late(policy: Policy, **options: Any) -> Any:
        done = real(policy, **options)
        first = min((Path(policy.target.path) / policy.host / policy.name / "snapshots").iterdir())
        change(next((first / "tree").rglob("page 07")))
        return done

    monkeypatch.setattr(ransomware_module, "prune", late)


def test_a_point_before_that_cannot_be_restored_fails_that_drill(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    after_encryption(monkeypatch, lambda page: page.unlink())
    found = failed(ransomware(written))
    assert set(found) == {"point before"} and "page 07" in found["point before"]


def test_a_wrong_byte_in_the_point_before_fails_that_drill(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil_page(page: Path) -> None:
        page.chmod(0o600)
        page.write_bytes(b"T" + page.read_bytes()[1:])

    after_encryption(monkeypatch, spoil_page)
    found = failed(ransomware(written))
    assert set(found) == {"point before"} and "page 07" in found["point before"]


def test_a_wrong_byte_that_a_restore_does_not_see_is_found_by_the_comparison(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ransomware_module.restore

    def lie(policy: Policy, request: Any, **options: Any) -> Any:
        done = real(policy, request, **options)
        page = next(Path(request.dest).rglob("page 07"))
        stamps = page.stat().st_atime_ns, page.stat().st_mtime_ns
        page.chmod(0o600)
        page.write_bytes(b"T" + page.read_bytes()[1:])
        page.chmod(0o400)
        os.utime(page, ns=stamps)
        return done

    monkeypatch.setattr(ransomware_module, "restore", lie)
    result = ransomware(written)
    assert set(failed(result)) == {"bytes"} and "page 07" in failed(result)["bytes"] and result.rc == 7


def test_too_few_files_for_any_signal_are_skipped_and_no_success(lived: World) -> None:
    result = ransomware(lived)
    assert (result.rc, result.verdict, result.ok) == (3, "skipped", True) and [check["ok"] for check in result.checks] == [None]
    assert "fewer than 20" in result.checks[0]["reason"] and result.warnings == [result.checks[0]["reason"]]
    told = status(lived.policy(), state_directory=str(lived.state))
    assert told["last_drill"]["verdict"] == "skipped" and told["last_good_drill"] is None and not lived.snapshots()[0].drilled
    assert drill_if_due(lived.policy(objectives={"drill_every": "7d"}, schedule={"splay": 0}), state_directory=str(lived.state)).verdict == "passed"


@needs_root
def test_room_for_less_than_three_times_the_snapshot_is_refused_before(written: World) -> None:
    with mounted("tmpfs", "size=1200k") as small:
        assert run(written, scratch=str(small)).verdict == "passed"
        result = run(written, scratch=str(small), scenario="ransomware")
        error = result.failure()
        assert error is not None and error.kind == "no_space" and os.listdir(small) == []


def test_a_drill_for_ransomware_that_breaks_leaves_nothing(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ransomware_module, "backup", full)
    assert ransomware(written).verdict == "failed"
    monkeypatch.setattr(ransomware_module, "_encrypt", full)
    assert ransomware(written).verdict == "failed"


def test_a_prediction_names_its_checks(written: World) -> None:
    assert [check["name"] for check in run(written, scenario="ransomware", dry_run=True).checks][:5] == ["restore", "anomaly", "hold", "prune", "point before"]


# ---- the scratch -----------------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("options", ["size=256k", "size=8m,nr_inodes=8"])
def test_a_scratch_that_is_too_small_is_refused_before_anything_is_written(lived: World, options: str) -> None:
    with mounted("tmpfs", options) as small:
        result = run(lived, scratch=str(small))
        error = result.failure()
        assert error is not None and (error.kind, result.rc, result.verdict) == ("no_space", 1, "failed")
        assert os.listdir(small) == []
    assert [event["error"]["kind"] for event in evidence(lived)] == ["no_space"]


def test_what_else_lies_in_the_directory_is_left_alone(lived: World) -> None:
    spare = lived.root / "spare"
    (spare / "openclaw-backup-drill-mine").mkdir(parents=True)
    (spare / "file").write_text("mine")
    before = fingerprint(spare, times=False)
    assert run(lived, scratch=str(spare)).rc == 0
    assert fingerprint(spare, times=False) == before


def test_a_directory_that_cannot_be_the_scratch_is_refused_and_is_no_drill(lived: World) -> None:
    (lived.vault / "spare").mkdir()
    (lived.src / "spare").mkdir()
    open_to_all = lived.root / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    for path, why in (
        (lived.root / "missing", "is not a directory"),
        (lived.src / "big", "is not a directory"),
        *([(lived.vault / "spare", "lies inside the vault")] if lived.policy().target.scheme == "file" else []),
        (lived.src / "spare", "lies inside the source"),
        (open_to_all, "can be replaced by others"),
    ):
        error = error_of(run, lived, scratch=str(path))
        assert isinstance(error, UsageError) and why in error.message and error.field == "scratch", error.message
        assert not path.is_dir() or not os.listdir(path)
    assert isinstance(error_of(run, lived, snapshot="2001"), RefusedError)
    assert isinstance(error_of(run, lived, snapshot="nonsense"), UsageError)
    assert evidence(lived) == []


def test_a_scratch_that_is_kept_holds_what_came_back(lived: World) -> None:
    result = run(lived, keep=True)
    assert result.scratch is not None
    assert (lived.restored(Path(result.scratch)) / "conf" / "app.json").read_text() == '{"port": 80}\n'
    assert Path(result.scratch).parent.stat().st_mode & 0o777 == 0o700
    assert run(lived).scratch is None and Path(result.scratch).is_dir(), "the next drill does not take it for something that was left"


def test_a_state_that_lies_in_a_source_is_no_reason_to_warn(lived: World) -> None:
    """No backup enters the state, and so none takes what a drill unpacks there."""
    result = run(lived, state_directory=str(lived.src / "state"))
    assert (result.rc, result.warnings, result.verdict) == (0, [], "passed")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_a_killed_drill_leaves_the_next_one_removes(lived: World, elsewhere: bool) -> None:
    spare = lived.root / "spare"
    spare.mkdir()
    options = {"scratch": str(spare)} if elsewhere else {}
    policy = lived.policy(probes=[{"command": ["sleep", "30"], "control": False}])
    assert killed_at(lambda: run(lived, policy=policy, **options), 1.5)
    lying = list((spare if elsewhere else lived.state / "h" / "p" / "drill").iterdir())
    assert len(lying) == 1
    assert run(lived).rc == 0
    assert not lying[0].exists() and any("a drill that was killed had left" in text for text in lived.notes)
    assert_clean(lived)


def test_one_drill_at_a_time(lived: World) -> None:
    ready, started = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(ready)
            run(lived, policy=lived.policy(probes=[{"command": ["sleep", "8"], "control": False}]))
        os._exit(0)
    try:
        deadline = time.monotonic() + 20
        while not list((lived.state / "h" / "p").glob("drill/*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert isinstance(error_of(run, lived), LockedError)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(started)


@needs_root
def test_a_drill_of_an_ordinary_user_proves_what_he_can_have(portable: World) -> None:
    (portable.src / "file").write_text("x")
    (portable.src / "closed").write_text("y")
    (portable.src / "closed").chmod(0)
    database(portable.src / "data.db")
    portable.state.mkdir()
    portable.backup()
    give(portable.root, NOBODY)
    result = in_child(lambda: run(portable, policy=portable.policy(probes=[["ls", str(portable.src / "file").lstrip("/")]])), uid=NOBODY)
    assert result.verdict == "passed", result.to_dict()
    assert "owner" in result.warnings[0]
    nightly = in_child(lambda: run(portable, on_vault=True), uid=NOBODY)
    assert (nightly.rc, nightly.warnings) == (0, []) and "owner" in nightly.checks[0]["reason"], "a vault's account is warned of nothing that it never can do"


# ---- on the vault ----------------------------------------------------------------------------------------------------------


def test_on_the_vault_nothing_of_a_host_is_opened_and_the_evidence_says_so(lived: World) -> None:
    database(lived.src / "damaged.db")
    spoil(lived.src / "damaged.db")
    lived.backup()
    trace = lived.root / "trace"
    probes = [["touch", str(trace)], {"sqlite": "*.db"}, {"json": "/conf/app.json"}, {"exists": [str(lived.src / "big")]}]
    # As the vault has it: it knows nothing of the sources, and its state is one of its own.
    policy = lived.policy(sources=["/"], probes=probes, objectives={"rpo": "1h", "rto": "1h"})
    own = {"policy": policy, "state_directory": str(lived.root / "vaults-memory")}
    result = run(lived, on_vault=True, **own)
    assert (result.rc, result.verdict) == (0, "passed"), result.to_dict()
    assert not trace.exists(), "no program of a host's policy is started where the snapshots of all hosts lie"
    skipped = {check["name"]: check["reason"] for check in result.checks if check["ok"] is None}
    assert set(skipped) == {"probe 1: command touch", "probe 2: sqlite *.db", "databases", "canary"}
    assert "drill on the host" in skipped["databases"]
    assert [check["ok"] for check in result.checks if check["name"].startswith(("probe 3", "probe 4", "bytes", "metadata"))] == [True] * 4
    assert "beside a heartbeat every 1h" in next(check["reason"] for check in result.checks if check["name"] == "rpo")
    assert "probe 1: sqlite *.db" in failed(run(lived, policy=lived.policy(probes=probes[1:2]))), "a drill on the host finds the damaged one"

    damaged = lived.stored(lived.snapshots()[0].id, "big")
    damaged.chmod(0o600)
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert run(lived, on_vault=True, **own).rc == 7, "a wrong byte is found there too"


def test_a_vault_allows_for_a_heartbeat_and_does_not_judge_without(lived: World) -> None:
    time.sleep(3.2)
    for heartbeat, verdict in (("1s", "missed"), ("1h", "passed"), ("0s", "passed")):
        result = run(lived, on_vault=True, policy=lived.policy(objectives={"rpo": "1s"}, heartbeat=heartbeat))
        assert result.verdict == verdict, heartbeat
    assert result.checks[-1]["ok"] is None and "cannot know" in result.checks[-1]["reason"]


def test_who_asked_is_kept(lived: World) -> None:
    assert run(lived, asked_by="Ann, night shift").asked_by["claimed"] == "Ann, night shift"
    assert evidence(lived)[-1]["asked_by"]["claimed"] == "Ann, night shift"
    assert run(lived).asked_by["claimed"] is None
    for bad in ("", " ", "two\nlines", "x" * 201):
        with pytest.raises(UsageError) as caught:
            run(lived, asked_by=bad)
        assert caught.value.field == "asked_by"
    assert len(evidence(lived)) == 2, "that is no drill"


def test_without_a_snapshot_or_a_vault_the_drill_has_failed(world: World) -> None:
    result = run(world)
    error = result.failure()
    assert error is not None and (error.kind, result.rc, result.verdict) == ("no_snapshot", 4, "failed")
    assert [event["verdict"] for event in evidence(world)] == ["failed"]


# ---- the command line --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(lived: World) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    def start(*words: str, **keys: Any) -> "subprocess.Popen[str]":
        policy = lived.root / "p.json"
        policy.write_text(json.dumps({"name": "p", "host": "h", "sources": [str(lived.src)], "target": str(lived.vault), **keys}))
        environment = {**os.environ, "OPENCLAW_BACKUP_STATE": str(lived.state), "SUDO_USER": "ann\n"}
        return subprocess.Popen(
            [*PROGRAM, "drill", str(policy), *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    yield start


def test_the_reports_say_what_failed(lived: World, shell: Callable[..., "subprocess.Popen[str]"]) -> None:
    xml, text = lived.root / "drill.xml", lived.root / "drill.md"
    done = shell("--junit", str(xml), "--markdown", str(text), probes=[{"json": "*.json5"}, {"exists": [str(lived.src)]}])
    output, complaints = done.communicate(timeout=60)
    assert done.returncode == 1 and "failed" in output and "app.json5" in complaints, (output, complaints)
    suite = ElementTree.parse(xml).getroot()
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert {"restore", "bytes", "metadata", "databases", "canary"} < set(cases) and suite.get("failures") == "1"
    failure = cases["probe 1: json *.json5"].find("failure")
    assert failure is not None and "app.json5" in str(failure.get("message"))
    assert "| probe 1: json \\*.json5 | FAILED |" in text.read_text() and "ann" in text.read_text()
    assert shell("--junit", str(lived.root / "missing" / "x")).wait(60) == 2
    for words in (["--scenario", "flood"], ["--spent", "5"], ["--spent", "-5", "--scenario", "lost-host"], ["--scheduled", "--spent", "5"]):
        assert shell(*words).wait(60) == 2, words
    lost = shell("--scenario", "lost-host", "--spent", "3600.5", "--state", str(lived.root / "empty"), "--json").communicate(timeout=60)[0]
    assert json.loads(lost)["rto"] > 3600
    environment = {**os.environ, "OPENCLAW_BACKUP_STATE": str(lived.state)}
    told = subprocess.run([*PROGRAM, "status", str(lived.root / "p.json")], env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 3 and "problem: the last drill failed: " in told.stdout and re.search("^drilled +20.* UTC: failed$", told.stdout, re.MULTILINE)
    answer = json.loads(shell("--json").communicate(timeout=60)[0])
    assert (answer["rc"], answer["failed"], answer["verdict"], answer["asked_by"]["sudo_user"]) == (0, False, "passed", "ann\\n")


def test_a_signal_ends_a_drill_and_leaves_nothing(lived: World, shell: Callable[..., "subprocess.Popen[str]"]) -> None:
    seconds = "60.%d" % os.getpid()  # nobody else's
    process = shell(probes=[{"command": ["sleep", seconds]}])
    deadline = time.monotonic() + 30
    while not any(_argv(name) == b"sleep\0%s\0" % seconds.encode() for name in os.listdir("/proc") if name.isdigit()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _output, complaints = process.communicate(timeout=30)
    assert process.returncode == 1 and "Interrupted" in complaints
    assert_clean(lived)
    assert [event["error"]["kind"] for event in evidence(lived)] == ["interrupted"]


# ---- who looks at what came back ----------------------------------------------------------------------------------------------


@needs_root
def test_a_database_is_looked_at_by_nobody(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def confess(_base: Any) -> List[str]:
        try:
            (lived.root / "written").write_text("x")
        except OSError as error:
            raise CaptureError("as %d in %s: %s" % (os.geteuid(), os.getgroups(), error.strerror)) from error
        raise CaptureError("it can write")

    monkeypatch.setattr(probes_module, "list_tables", confess)
    assert failed(run(lived))["databases"].endswith("data.db: as %d in []: Permission denied" % NOBODY)


def test_a_database_that_keeps_its_reader_busy_is_given_up(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "list_tables", lambda _base: time.sleep(60))
    why = failed(run(lived, policy=lived.policy(probes=[{"sqlite": "*.db", "timeout": "1s"}])))
    assert why == {"probe 1: sqlite *.db": "%s: timed out after 1s" % (lived.src / "data.db")}, "and it is not looked at a second time"
