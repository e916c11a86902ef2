# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite databases that are in use while they are backed up: no row that was committed before is missing, none is torn, and nothing of the owner's
or of anybody else's is touched."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any, List, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import restore as restore_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import database as database_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import scan as scan_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.database import CaptureError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.scan import Staging
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import Descent
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

from .world import AS_ROOT, NOBODY, World, give, in_child, mounted, needs_root

MIB = 1 << 20


_KEEPER = """
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
print(json.dumps([]), flush=True)
for line in sys.stdin:
    sql, times, values = json.loads(line)
    try:
        answer = connection.execute(sql).fetchall() if not times else [connection.executemany(sql, [values] * times).rowcount]
    except sqlite3.Error as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
connection.close()
"""


class Keeper:
    """A program that keeps a database open. Not this one: a process that is forked must not inherit SQLite's locks."""

    def __init__(self, path: Path, *, wal: bool = True, rows: int = 10, size: int = 100, as_user: Optional[int] = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=as_user,
            group=as_user,
            extra_groups=[] if as_user is not None else None,
        )
        self._answer()
        if rows:
            self("PRAGMA journal_mode=%s" % ("WAL" if wal else "DELETE"))
            self("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, text TEXT)")
            self.add(rows, size)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __call__(self, sql: str, times: int = 0, values: Any = ()) -> Any:
        assert self.process.stdin
        print(json.dumps([sql, times, values]), file=self.process.stdin, flush=True)
        answer = self._answer()
        assert isinstance(answer, list), answer
        return answer

    def _answer(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def add(self, rows: int, size: int = 100) -> None:
        """One transaction."""
        self("BEGIN IMMEDIATE")
        self("INSERT INTO t (text) VALUES (?)", rows, ["x" * size])
        self("COMMIT")

    def close(self) -> None:
        """As a program that ends well: the last one cleans up."""
        if self.process.poll() is None:
            self.process.communicate()

    def kill(self) -> None:
        """As one that dies: its journals stay."""
        self.process.kill()
        self.process.communicate()


def count(path: Path) -> int:
    """Rows of a database that is whole. Opens it as it lies: what a restore gives has no journal."""
    assert not [name for name in os.listdir(path.parent) if name.startswith(path.name + "-")]
    with contextlib.closing(sqlite3.connect("file:%s?mode=ro&immutable=1" % path, uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything were older than a minute."""
    monkeypatch.setattr(scan_module, "RACY_SECONDS", -1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> List[bytes]:
    """The databases that were opened."""
    paths: List[bytes] = []
    real = database_module._run

    def run(job: Any) -> Any:
        paths.append(os.path.basename(job.location))
        return real(job)

    monkeypatch.setattr(database_module, "_run", run)
    return paths


def entry(world: World, name: str) -> Any:
    manifest = world.target.manifest(world.snapshots()[0])
    path = os.fsencode(world.src / name).strip(b"/")
    return manifest.by_path().get(path)


# ---- what is captured ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_every_committed_row_of_an_open_database_comes_back_and_no_journal_does(world: World, wal: bool) -> None:
    with Keeper(world.src / "a" / "agent.db", wal=wal, rows=500) as keeper:
        assert (world.src / "a" / "agent.db-wal").exists() is wal
        result = world.backup()
        assert (result.captured, result.warnings) == (1, [])
        assert keeper("SELECT count(*) FROM t") == [[500]]
    assert [entry(world, "a/agent.db" + suffix) for suffix in ("-wal", "-shm", "-journal")] == [None] * 3
    assert count(world.stored(result.snapshot_id, "a/agent.db")) == 500
    header = world.target.manifest(world.snapshots()[0]).header
    assert header.databases == {str(world.src / "a" / "agent.db").strip("/"): {"tables": 1, "rows": 500, "schema": 0}}
    world.restore(dest=world.root / "back")
    assert count(world.restored(world.root / "back") / "a" / "agent.db") == 500
    world.check_history(count=1)


def test_a_commit_that_leaves_the_main_file_untouched_is_seen(world: World, aged: None) -> None:
    path = world.src / "agent.db"
    with Keeper(path) as keeper:
        world.backup()
        assert not world.backup().changed
        before = os.stat(path)
        keeper.add(7)
        after = os.stat(path)
        assert (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (after.st_size, after.st_mtime_ns, after.st_ctime_ns)
        result = world.backup()
    assert result.changed
    assert count(world.stored(result.snapshot_id, "agent.db")) == 17


def assert_a_commit_is_seen(world: World, policy: Policy) -> None:
    with Keeper(world.src / "agent.db") as keeper:
        world.backup(policy=policy)
        assert not world.backup(policy=policy).changed
        keeper.add(7)
        result = world.backup(policy=policy)
    assert result.changed
    assert count(world.stored(result.snapshot_id, "agent.db")) == 17


def test_a_commit_is_seen_though_the_policy_leaves_journals_out(world: World, aged: None) -> None:
    (world.src / "other-wal").write_bytes(b"no part of anything, and left out")
    assert_a_commit_is_seen(world, world.policy(exclude=["*-wal", "*-shm"]))
    assert entry(world, "other-wal") is None


def test_a_database_that_is_a_source_itself_is_watched_by_its_journal(world: World, aged: None) -> None:
    assert_a_commit_is_seen(world, world.policy(sources=[str(world.src / "agent.db")]))


def test_what_only_has_the_name_of_a_journal_is_a_file_like_any_other(world: World) -> None:
    for name in ("notes", "notes-journal", "notes-wal", "alone-wal", "-wal", "dir-shm"):
        (world.src / name).write_text(name)
    (world.src / "folder").mkdir()
    (world.src / "folder-wal").write_text("beside a directory")
    result = world.backup(policy=world.policy(exclude=["notes-journal"]))
    assert (result.captured, result.warnings) == (0, [])
    for name in ("notes", "notes-wal", "alone-wal", "-wal", "dir-shm", "folder-wal"):
        assert world.stored(result.snapshot_id, name).is_file(), name
    assert entry(world, "notes-journal") is None
    (world.src / "notes-wal").write_text("changed")
    assert world.backup(policy=world.policy(exclude=["notes-journal"])).modified == 1


# ---- what costs nothing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_an_unchanged_database_is_never_opened(world: World, aged: None, opened: List[bytes], wal: bool) -> None:
    with Keeper(world.src / "agent.db", wal=wal), Keeper(world.src / "sub" / "other.db", wal=wal) as other:
        first = world.backup()
        assert sorted(opened) == [b"agent.db", b"other.db"]
        result = world.backup()
        assert (result.changed, result.captured, result.entries, len(opened)) == (False, 0, first.entries, 2)
        other.add(1)
        (world.src / "sub" / "file").write_text("a file changes its directory")
        result = world.backup()
        assert (result.captured, opened[2:]) == (1, [b"other.db"])
        assert entry(world, "agent.db").size > 0


def test_a_young_database_is_captured_again_and_gives_the_same_bytes(world: World, opened: List[bytes]) -> None:
    with Keeper(world.src / "agent.db") as keeper:
        first = world.backup()
        result = world.backup()
        assert (result.changed, len(opened)) == (False, 2)
        keeper("PRAGMA wal_checkpoint(TRUNCATE)")
        result = world.backup()
        assert (result.changed, result.snapshot_id) == (False, first.snapshot_id), "a checkpoint is no change"
    assert not world.backup().changed, "nor is an end"


def test_capturing_an_idle_database_leaves_nothing_beside_it_and_is_no_change(world: World, aged: None, opened: List[bytes]) -> None:
    with Keeper(world.src / "agent.db"):
        pass
    before = os.stat(world.src / "agent.db")
    first = world.backup()
    assert os.listdir(world.src) == ["agent.db"]
    after = os.stat(world.src / "agent.db")
    assert (before.st_mtime_ns, before.st_ctime_ns, before.st_size) == (after.st_mtime_ns, after.st_ctime_ns, after.st_size)
    with Keeper(world.src / "agent.db", rows=0) as keeper:
        keeper("SELECT count(*) FROM t")
        assert sorted(os.listdir(world.src)) == ["agent.db", "agent.db-shm", "agent.db-wal"]
        result = world.backup()
    assert (result.changed, result.entries, len(opened)) == (False, first.entries, 1)


def test_check_mode_opens_no_database_and_counts_those_that_would_be_captured(world: World, aged: None, opened: List[bytes]) -> None:
    with Keeper(world.src / "agent.db") as keeper, Keeper(world.src / "other.db"):
        result = world.backup(dry_run=True)
        assert (result.changed, result.would_capture, result.captured, opened) == (True, 2, 0, [])
        world.backup()
        del opened[:]
        result = world.backup(dry_run=True)
        assert (result.changed, result.would_capture) == (False, 0)
        keeper.add(1)
        result = world.backup(dry_run=True)
        assert (result.changed, result.modified, result.would_capture, opened) == (True, 1, 1, [])


def test_a_lost_memory_of_databases_costs_another_capture(world: World, aged: None, opened: List[bytes]) -> None:
    with Keeper(world.src / "agent.db"):
        world.backup()
        memory = world.state / "h" / "p" / "databases.json"
        for damage in (memory.unlink, lambda: memory.write_text("[1]"), lambda: memory.write_text('{"x": [1]}')):
            damage()
            (world.src / "file").write_text(str(damage))
            del opened[:]
            result = world.backup()
            assert (result.modified + result.added, result.warnings, opened) == (1, [], [b"agent.db"])


def test_without_sqlite_in_the_policy_databases_are_files_with_their_journals(world: World, aged: None, opened: List[bytes]) -> None:
    with Keeper(world.src / "agent.db"):
        world.backup()
        result = world.backup(policy=world.policy(sqlite="off"))
        assert (result.changed, result.captured, len(opened)) == (True, 0, 1)
        for name in ("agent.db", "agent.db-wal"):
            assert world.stored(result.snapshot_id, name).read_bytes() == (world.src / name).read_bytes()
        result = world.backup()
        assert (result.changed, result.captured) == (True, 1)


# ---- databases in motion -----------------------------------------------------------------------------------------------------


_WRITER = """
import sqlite3, sys, random
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("PRAGMA journal_mode=" + sys.argv[2])
connection.execute("PRAGMA synchronous=OFF")
connection.execute("CREATE TABLE IF NOT EXISTS a (id INTEGER PRIMARY KEY, amount INTEGER, filler BLOB)")
connection.execute("CREATE TABLE IF NOT EXISTS b (id INTEGER PRIMARY KEY, amount INTEGER, filler BLOB)")
print("ready", flush=True)
while True:
    amount = random.randrange(1000)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO a (amount, filler) VALUES (?, zeroblob(?))", (amount, random.randrange(9000)))
    connection.execute("INSERT INTO b (amount, filler) VALUES (?, zeroblob(?))", (-amount, random.randrange(9000)))
    if random.random() < 0.1:
        for table in "ab":
            connection.execute("DELETE FROM %s WHERE id <= (SELECT max(id) FROM %s) - 300" % (table, table))
    connection.execute("COMMIT")
"""


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "PERSIST", "TRUNCATE"])
def test_a_database_under_constant_writes_is_captured_whole_a_hundred_times_out_of_a_hundred(portable: World, mode: str) -> None:
    path = portable.src / "busy.db"
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path), mode], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
        seen = 0
        with Descent(b"/") as root:
            staging = Staging(os.fsencode(portable.root / "staging"))
            for _ in range(100):
                facts = staging.capture(root, [os.fsencode(path).strip(b"/")])
                with contextlib.closing(sqlite3.connect("file:%s?immutable=1" % os.fsdecode(staging.directory + os.fsencode(path)), uri=True)) as copy:
                    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                    (a, rows), (b, others) = [copy.execute("SELECT sum(amount), count(*) FROM %s" % table).fetchone() for table in "ab"]
                    assert (a or 0) + (b or 0) == 0 and rows == others
                    assert (facts.tables, facts.rows) == (2, rows + others)
                    last = copy.execute("SELECT max(id) FROM b").fetchone()[0] or 0
                    assert last >= seen, "a capture never goes back"
                    seen = last
            staging.close()
        assert seen
    finally:
        writer.kill()
        writer.communicate()


def test_a_run_keeps_every_row_that_was_committed_before_it_began_while_an_agent_goes_on_writing(portable: World) -> None:
    path = portable.src / "agents" / "main" / "agent" / "openclaw-agent.sqlite"
    path.parent.mkdir(parents=True)
    (portable.src / "openclaw.json").write_text("{}")
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path), "WAL"], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
        for number in range(5):
            with contextlib.closing(sqlite3.connect(str(path), timeout=60)) as reader:
                before = reader.execute("SELECT max(id) FROM b").fetchone()[0] or 0
            result = portable.backup()
            assert (result.warnings, result.captured, result.stale, result.unstable) == ([], 1, 0, 0)
            dest = portable.root / ("back %d" % number)
            portable.restore(dest=dest)
            copy = portable.restored(dest) / "agents" / "main" / "agent" / "openclaw-agent.sqlite"
            with contextlib.closing(sqlite3.connect(str(copy))) as restored:
                assert restored.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert restored.execute("SELECT max(id) FROM b").fetchone()[0] >= before
    finally:
        writer.kill()
        writer.communicate()
    portable.check_history(count=5)


def test_a_killed_writer_s_half_transaction_is_not_in_the_snapshot(world: World) -> None:
    path = world.src / "agent.db"
    keeper = Keeper(path, wal=False, rows=2000, size=500)
    keeper("PRAGMA cache_size=5")  # so that it writes before it commits
    keeper("BEGIN IMMEDIATE")
    keeper("UPDATE t SET text = 'torn'")
    keeper.kill()
    assert (world.src / "agent.db-journal").stat().st_size > 0
    result = world.backup()
    assert (result.captured, result.warnings) == (1, [])
    stored = world.stored(result.snapshot_id, "agent.db")
    assert count(stored) == 2000
    with contextlib.closing(sqlite3.connect("file:%s?immutable=1" % stored, uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM t WHERE text = 'torn'").fetchone() == (0,)


def test_a_writer_that_is_killed_just_as_its_database_is_opened_is_no_reason_to_keep_an_old_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(world.src / "agent.db", wal=False, rows=2000, size=500)
    keeper("PRAGMA cache_size=5")
    real = database_module._rights

    def die(found: os.stat_result) -> Any:
        if keeper.process.poll() is None:
            keeper("BEGIN IMMEDIATE")
            keeper("UPDATE t SET text = 'torn'")
            keeper.kill()
        return real(found)

    monkeypatch.setattr(database_module, "_rights", die)
    result = world.backup()
    assert (result.captured, result.warnings) == (1, [])
    assert count(world.stored(result.snapshot_id, "agent.db")) == 2000


def test_a_killed_writer_s_commits_in_the_wal_are_in_the_snapshot_and_stay_where_they_are(world: World) -> None:
    keeper = Keeper(world.src / "agent.db", rows=300)
    keeper.kill()
    journal = (world.src / "agent.db-wal").read_bytes()
    assert journal
    result = world.backup()
    assert count(world.stored(result.snapshot_id, "agent.db")) == 300
    assert (world.src / "agent.db-wal").read_bytes() == journal, "a backup does not check points in for the agent"


def test_a_locked_database_is_told_of_and_never_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.3)
    path = world.src / "agent.db"
    with Keeper(path, wal=False) as keeper:
        keeper("PRAGMA locking_mode=EXCLUSIVE")
        keeper.add(5)
        result = world.backup()
        assert (result.rc, result.captured, result.unstable) == (3, 0, 2)
        assert "agent.db could not be captured (database is locked) and was copied as it lies, with its journals" in result.warnings[0]
        assert world.stored(result.snapshot_id, "agent.db").read_bytes() == path.read_bytes()
        keeper("PRAGMA locking_mode=NORMAL")
        keeper("SELECT count(*) FROM t")
        result = world.backup()
        assert (result.rc, result.captured) == (0, 1)
        keeper("PRAGMA locking_mode=EXCLUSIVE")
        keeper.add(5)
        (world.src / "file").write_text("so that there is a snapshot")
        result = world.backup()
        assert (result.rc, result.captured, result.stale) == (3, 0, 1)
        assert "could not be captured (database is locked) and is kept as it was in the last snapshot" in result.warnings[0]
        assert count(world.stored(result.snapshot_id, "agent.db")) == 15
        keeper("PRAGMA locking_mode=NORMAL")
        keeper("SELECT count(*) FROM t")
        result = world.backup()
        assert (result.rc, result.stale) == (0, 0)
        assert count(world.stored(result.snapshot_id, "agent.db")) == 20


def test_a_database_that_is_replaced_while_it_is_captured_is_captured_again(portable: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keeper(portable.src / "agent.db", rows=10):
        pass
    with Keeper(portable.root / "new.db", rows=33):
        pass
    real, replaced = database_module._rights, []

    def replace(found: os.stat_result) -> Any:
        if not replaced:
            os.rename(portable.root / "new.db", portable.src / "agent.db")
            replaced.append(1)
        return real(found)

    monkeypatch.setattr(database_module, "_rights", replace)
    result = portable.backup()
    assert (result.captured, result.warnings, replaced) == (1, [], [1])
    assert count(portable.stored(result.snapshot_id, "agent.db")) == 33


@pytest.mark.usefixtures("no_process_left")
def test_a_capture_of_which_nothing_is_heard_ends_and_leaves_no_process(portable: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keeper(portable.src / "agent.db"):
        pass
    monkeypatch.setattr(database_module, "_STALL_SECONDS", 0.3)
    monkeypatch.setattr(database_module, "_copy", lambda *_arguments: time.sleep(1000))
    result = portable.backup()
    assert "nothing was heard of it" in result.warnings[0]
    assert count(portable.stored(result.snapshot_id, "agent.db")) == 10


def test_a_capture_that_dies_is_told_of(portable: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keeper(portable.src / "agent.db"):
        pass
    monkeypatch.setattr(database_module, "_copy", lambda *_arguments: os.kill(os.getpid(), 9))
    assert "the process that captured it died" in portable.backup().warnings[0]


@needs_root
def test_databases_that_stay_locked_hold_up_a_run_only_so_long_and_nobody_else_s(portable: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(scan_module, "_IN_VAIN_SECONDS", 0.1)
    with Keeper(portable.src / "a.db", wal=False) as first, Keeper(portable.src / "b.db", wal=False) as second, Keeper(portable.src / "theirs" / "c.db"):
        for keeper in (first, second):
            keeper("PRAGMA locking_mode=EXCLUSIVE")
            keeper.add(1)
        for path in (portable.src / "theirs", *(portable.src / "theirs").iterdir()):
            os.chown(path, NOBODY, NOBODY)
        result = portable.backup()
    assert result.captured == 1, result.warnings
    assert "a.db could not be captured (database is locked)" in result.warnings[0]
    assert "b.db could not be captured (others of its owner held the run up too long)" in result.warnings[1]


def test_a_forged_database_whose_pages_lead_back_to_each_other_has_an_end(portable: World) -> None:
    path = portable.src / "agent.db"
    with Keeper(path, wal=False, rows=30000, size=300) as keeper:
        root = keeper("SELECT rootpage FROM sqlite_master WHERE name = 't'")[0][0]
    data = bytearray(path.read_bytes())
    page = 4096
    pages = len(data) // page
    leaf = next(number for number in range(1, pages) if data[number * page] == 13) + 1
    inner = data[(root - 1) * page : root * page]
    assert inner[0] == 5
    way = [root, *range(pages + 1, pages + 15), leaf]
    for here, there in zip(way, way[1:]):  # every child of a page is the same one
        struct.pack_into(">I", inner, 8, there)
        for index in range(struct.unpack_from(">H", inner, 3)[0]):
            struct.pack_into(">I", inner, struct.unpack_from(">H", inner, 12 + 2 * index)[0], there)
        data[(here - 1) * page : here * page] = inner
    struct.pack_into(">I", data, 28, len(data) // page)
    path.write_bytes(data)
    started = time.monotonic()
    result = portable.backup()
    assert "agent.db could not be captured (it has more rows than fit into it)" in result.warnings[0]
    assert time.monotonic() - started < 30


@needs_root
@pytest.mark.lab
def test_a_database_that_does_not_fit_into_the_state_directory_does_not_fill_it(portable: World) -> None:
    with Keeper(portable.src / "agent.db", wal=False), mounted("tmpfs", "size=20m") as state:
        portable.backup(state_directory=str(state))
        with open(portable.src / "agent.db", "r+b") as stream:
            stream.truncate(1 << 30)
        result = portable.backup(state_directory=str(state))
        assert "agent.db could not be captured (its copy takes %d bytes, and the state directory has" % (1 << 30) in result.warnings[0]
        assert (result.rc, result.stale) == (3, 1)


def test_a_gigabyte_is_captured_sent_and_restored(portable: World) -> None:
    with Keeper(portable.src / "large.db", rows=10) as keeper:
        keeper("PRAGMA synchronous=OFF")
        keeper("INSERT INTO t (text) VALUES (randomblob(?))", 1024, [MIB])
        result = portable.backup()
        assert (result.captured, result.warnings) == (1, [])
    assert result.bytes > 1024 * MIB
    assert count(portable.stored(result.snapshot_id, "large.db")) == 1034


# ---- databases that are none, or no more ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["emptied", "without tables"])
def test_a_database_that_lost_all_its_tables_keeps_its_last_state_in_the_snapshot(world: World, loss: str) -> None:
    path = world.src / "agent.db"
    with Keeper(path, rows=50):
        pass
    first = world.backup()
    if loss == "emptied":
        path.write_bytes(b"")
    else:
        with Keeper(path, rows=0) as keeper:
            keeper("DROP TABLE t")
    for number in range(2):
        (world.src / "file").write_text("change %d" % number)
        result = world.backup()
        assert (result.rc, result.stale) == (3, 1)
        assert "it has lost all its tables (there were 1)" in result.warnings[0]
        assert count(world.stored(result.snapshot_id, "agent.db")) == 50
    assert world.target.manifest(world.snapshots()[0]).header.databases == world.target.manifest(world.snapshots()[-1]).header.databases
    assert first.snapshot_id != result.snapshot_id
    os.unlink(path)
    result = world.backup()
    assert (result.rc, result.removed) == (0, 1)


def test_a_new_database_without_tables_is_nothing_odd(world: World) -> None:
    with Keeper(world.src / "agent.db", rows=0) as keeper:
        keeper("PRAGMA user_version=1")
    result = world.backup()
    assert (result.captured, result.warnings) == (1, [])


@pytest.mark.parametrize("content", [database_module.MAGIC, database_module.MAGIC + b"x" * 5000, database_module.MAGIC + b"\x10\0\2\2" + bytes(6000)])
def test_what_only_begins_like_a_database_is_kept_as_it_lies_and_told_of(world: World, content: bytes) -> None:
    (world.src / "odd.db").write_bytes(content)
    result = world.backup()
    assert (result.rc, result.captured) == (3, 0)
    assert "odd.db could not be captured" in result.warnings[0]
    assert world.stored(result.snapshot_id, "odd.db").read_bytes() == content


def test_an_encrypted_database_is_a_file_like_any_other(world: World) -> None:
    content = os.urandom(8192)
    (world.src / "encrypted.db").write_bytes(content)
    result = world.backup()
    assert (result.captured, result.warnings) == (0, [])
    assert world.stored(result.snapshot_id, "encrypted.db").read_bytes() == content


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_a_pipe_in_place_of_a_journal_holds_nobody_up(world: World, suffix: str) -> None:
    path = world.src / "agent.db"
    with Keeper(path, wal=suffix == "-wal"):
        pass
    os.mkfifo(str(path) + suffix)
    started = time.monotonic()
    result = world.backup()
    assert "agent.db could not be captured (its %s is no file)" % suffix in result.warnings[0]
    assert time.monotonic() - started < 10
    assert count_raw(world.stored(result.snapshot_id, "agent.db")) == 10


def test_what_a_forged_database_has_sqlite_say_can_be_shown(world: World) -> None:
    path = world.src / "agent.db"
    with Keeper(path) as keeper:
        keeper("PRAGMA writable_schema=ON")
        keeper("UPDATE sqlite_master SET name = ?, sql = 'CREATE TABLE'", 1, ["\x1b[2J\nOK" + "x" * 100000])
    result = world.backup()
    assert result.rc == 3
    assert "agent.db could not be captured (malformed database schema (\\x1b[2J\\nOKxxx" in result.warnings[0]
    assert len(result.warnings[0]) < 1000 and result.warnings[0].isprintable()


# ---- names ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leading", ["a.db", "z.db"])
def test_hard_linked_names_are_one_database_captured_through_the_name_that_has_the_journal(world: World, aged: None, leading: str) -> None:
    other = {"a.db": "z.db", "z.db": "a.db"}[leading]
    with Keeper(world.src / leading) as keeper:
        keeper("PRAGMA wal_checkpoint(TRUNCATE)")
        os.link(world.src / leading, world.src / other)
        keeper.add(5)
        result = world.backup()
        assert (result.captured, result.warnings) == (1, [])
        assert [count(world.stored(result.snapshot_id, name)) for name in ("a.db", "z.db")] == [15, 15]
        assert not world.backup().changed
        keeper.add(5)
        result = world.backup()
        assert [count(world.stored(result.snapshot_id, name)) for name in ("a.db", "z.db")] == [20, 20]
    manifest = world.target.manifest(world.snapshots()[0])
    assert [item.group for item in manifest.entries if item.type == "f"] == [os.fsencode(world.src / "a.db").strip(b"/")] * 2


@pytest.mark.parametrize("leftovers", [False, True], ids=["alone", "with leftovers of another journal"])
def test_a_database_in_use_under_a_name_that_is_not_backed_up_is_told_of_for_its_journal_cannot_be_seen(world: World, leftovers: bool) -> None:
    path, other = world.src / "agent.db", world.root / "elsewhere" / "alias.db"
    with Keeper(path):
        pass
    if leftovers:
        for suffix in ("-wal", "-shm"):
            Path(str(path) + suffix).touch()
    other.parent.mkdir()
    os.link(path, other)
    with Keeper(other, rows=0) as keeper:
        keeper.add(5)
        before = sorted(os.listdir(world.src))
        result = world.backup()
        assert (result.rc, result.captured) == (3, 0)
        assert "could not be captured (it is in use under another name, and its journal lies beside that one)" in result.warnings[0]
        assert sorted(os.listdir(world.src)) == before
    result = world.backup()
    assert (result.rc, result.captured) == (0, 1)
    assert count(world.stored(result.snapshot_id, "agent.db")) == 15


def test_a_database_that_a_program_keeps_to_itself_is_not_said_to_be_in_use_elsewhere(portable: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.3)
    with Keeper(portable.src / "agent.db", rows=0) as keeper:
        keeper("PRAGMA locking_mode=EXCLUSIVE")  # before the first look, it then does without shared memory
        keeper("PRAGMA journal_mode=WAL")
        keeper("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        keeper.add(5)
        assert sorted(os.listdir(portable.src)) == ["agent.db", "agent.db-wal"]
        assert "agent.db could not be captured (database is locked)" in portable.backup().warnings[0]


def test_names_that_each_have_a_journal_are_no_database_that_could_be_captured(world: World) -> None:
    keeper = Keeper(world.src / "a.db")
    keeper.kill()
    os.link(world.src / "a.db", world.src / "z.db")
    (world.src / "z.db-wal").write_bytes((world.src / "a.db-wal").read_bytes())
    result = world.backup()
    assert "2 of its names have journals of their own" in result.warnings[0]
    assert world.stored(result.snapshot_id, "z.db-wal").read_bytes() == (world.src / "z.db-wal").read_bytes()


def test_odd_names_are_no_obstacle_and_too_long_ones_are_told_of(world: World) -> None:
    for name in (b"\xff?%41 #&;=\n.db", b"\xe4.sqlite"):
        with Keeper(world.src / "plain.db"):
            pass
        os.rename(world.src / "plain.db", os.fsencode(world.src) + b"/" + name)
    deep = world.src / "d" / ("l" * 200) / ("l" * 200) / ("l" * 200)
    with Keeper(world.src / "plain.db", rows=3):
        pass
    deep.mkdir(parents=True)
    os.rename(world.src / "plain.db", deep / "deep.db")
    result = world.backup()
    assert result.captured == 2
    assert len(result.warnings) == 1 and "its path is longer than SQLite takes" in result.warnings[0], result.warnings
    stored = world.stored(result.snapshot_id) / deep.relative_to(world.src) / "deep.db"
    assert stored.read_bytes() == (deep / "deep.db").read_bytes()


# ---- whose it is ---------------------------------------------------------------------------------------------------------------


def forge_journal(database: Path, victim: Path) -> None:
    """A hot journal that has whoever plays it back delete ``victim``: it names it as its super-journal."""
    page = 4096
    name = os.fsencode(victim)
    header = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + struct.pack(">IIIII", 0, 0, database.stat().st_size // page, 512, page)
    tail = name + struct.pack(">II", len(name), sum(name)) + b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    journal = Path(str(database) + "-journal")
    journal.write_bytes(header.ljust(512, b"\0") + struct.pack(">I", 0x40000000 // page + 1) + tail)
    found = database.stat()
    os.chown(journal, found.st_uid, found.st_gid)


def test_the_forged_journal_of_these_tests_does_delete_a_file() -> None:
    made = World.make("portable")
    try:
        with Keeper(made.src / "agent.db", wal=False):
            pass
        victim = made.root / "victim"
        victim.write_text("precious")
        forge_journal(made.src / "agent.db", victim)
        subprocess.run(
            [sys.executable, "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM t')", str(made.src / "agent.db")], check=False
        )
        assert not victim.exists()
    finally:
        made.destroy()


@needs_root
@pytest.mark.parametrize("owner", [NOBODY, 0])
def test_a_forged_journal_deletes_nothing_that_its_owner_could_not(world: World, owner: int) -> None:
    folder = world.src / "theirs"
    with Keeper(folder / "agent.db", wal=False):
        pass
    os.chown(folder, NOBODY, NOBODY)
    os.chown(folder / "agent.db", owner, owner)
    guarded = world.root / "root's"
    guarded.mkdir(mode=0o700)
    victim = guarded / "victim"
    victim.write_text("precious")
    forge_journal(folder / "agent.db", victim)
    result = world.backup()
    assert victim.exists()
    if owner == 0:
        assert "it belongs to root, and others may write to" in result.warnings[0]
        assert world.stored(result.snapshot_id, "theirs/agent.db").exists()


@needs_root
@pytest.mark.parametrize("forgery", ["another's journal", "everybody's directory"])
def test_a_database_to_which_others_can_put_a_journal_is_not_opened(world: World, opened: List[bytes], forgery: str) -> None:
    folder = world.src / "theirs"
    with Keeper(folder / "agent.db", wal=False):
        pass
    os.chown(folder / "agent.db", NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    if forgery == "another's journal":
        (folder / "agent.db-journal").write_bytes(b"x" * 600)
        os.chown(folder / "agent.db-journal", 1234, 1234)
    else:
        folder.chmod(0o1777)
    result = world.backup()
    assert (result.rc, opened) == (3, [])
    assert count_raw(world.stored(result.snapshot_id, "theirs/agent.db")) == 10


@needs_root
@pytest.mark.parametrize("how", ["sticky", "list"])
def test_root_s_database_is_not_opened_where_a_group_or_a_user_on_a_list_can_put_a_journal_beside_it(world: World, opened: List[bytes], how: str) -> None:
    folder = world.src / "shared"
    with Keeper(folder / "agent.db", wal=False):
        pass
    if how == "sticky":
        os.chown(folder, 0, NOBODY)
        folder.chmod(0o1775)
    else:
        # user::rwx, user:NOBODY:rwx, group::r-x, mask::rwx, other::r-x
        entries = [(0x01, 7, 0xFFFFFFFF), (0x02, 7, NOBODY), (0x04, 5, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF)]
        os.setxattr(folder, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *item) for item in entries))
    result = world.backup()
    assert "it belongs to root, and others may write to" in result.warnings[0]
    assert opened == []


def count_raw(path: Path) -> int:
    with contextlib.closing(sqlite3.connect("file:%s?immutable=1" % path, uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


@needs_root
def test_a_database_is_opened_with_the_rights_of_its_owner_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, closed = world.src / "theirs", world.src / "closed"
    theirs.mkdir(mode=0o700)
    closed.mkdir(mode=0o700)
    os.chown(theirs, NOBODY, NOBODY)
    with Keeper(theirs / "agent.db", as_user=NOBODY), Keeper(closed / "agent.db"):
        os.chown(closed / "agent.db", NOBODY, NOBODY)
        result = world.backup()
        assert result.captured == 1, result.warnings
        assert count(world.stored(result.snapshot_id, "theirs/agent.db")) == 10
        assert "closed/agent.db could not be captured (its owner may not read it, or not enter a directory above it: Permission denied)" in result.warnings[0]
        assert world.stored(result.snapshot_id, "closed/agent.db-wal").exists()


@needs_root
def test_a_database_of_another_that_is_put_in_place_of_one_s_own_is_not_captured_under_its_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.src / "theirs"
    for name, owner in (("own.db", NOBODY), ("secret.db", 1234)):
        with Keeper(folder / name, wal=False):
            pass
        os.chown(folder / name, owner, owner)
    (folder / "secret.db").chmod(0o600)
    os.chown(folder, NOBODY, NOBODY)
    secret = (folder / "secret.db").read_bytes()
    real = database_module._look

    def look(root: Any, path: bytes) -> os.stat_result:
        if path.endswith(b"own.db") and (folder / "secret.db").exists():
            os.rename(folder / "secret.db", folder / "own.db")  # the folder is his: he may
        return real(root, path)

    monkeypatch.setattr(database_module, "_look", look)
    result = world.backup()
    assert "own.db could not be captured (it was replaced by one that belongs to another)" in " ".join(result.warnings)
    kept = entry(world, "theirs/own.db")
    assert world.stored(result.snapshot_id, "theirs/own.db").read_bytes() == secret
    assert (kept.uid, kept.mode) == (1234, 0o600)


@needs_root
def test_a_link_to_somebody_else_s_database_is_not_followed(world: World) -> None:
    with Keeper(world.root / "secret.db"):
        pass
    (world.src / "agent.db").symlink_to(world.root / "secret.db")
    (world.src / "file").write_text("x")
    result = world.backup()
    assert (result.captured, entry(world, "agent.db").type) == (0, "l")


@needs_root
@pytest.mark.lab
def test_databases_on_a_file_system_that_is_mounted_read_only_are_captured(world: World) -> None:
    with Keeper(world.src / "idle.db", rows=20):
        pass
    keeper = Keeper(world.src / "live.db", rows=30)
    keeper.kill()
    assert (world.src / "live.db-wal").exists() and (world.src / "live.db-shm").exists()
    keeper = Keeper(world.src / "bare.db", rows=40)
    keeper.kill()
    (world.src / "bare.db-shm").unlink()
    mount = world.root / "mounted"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mount)], check=True)
    try:
        subprocess.run(["cp", "-a", str(world.src) + "/.", str(mount)], check=True)
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        result = world.backup(policy=world.policy(sources=[str(mount)]))
        tree = Path(str(world.tree(result.snapshot_id)) + str(mount))
        assert [count(tree / name) for name in ("idle.db", "live.db")] == [20, 30]
        assert len(result.warnings) == 1 and "bare.db could not be captured" in result.warnings[0], result.warnings
        assert (tree / "bare.db-wal").exists()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@needs_root
@pytest.mark.lab
def test_a_database_that_is_read_only_here_and_written_to_elsewhere_meanwhile_is_captured_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keeper(world.src / "agent.db", rows=2000, size=1000):
        pass
    mount = world.root / "mounted"
    mount.mkdir()
    subprocess.run(["mount", "--bind", str(world.src), str(mount)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
        # Another process, as the one that captures is forked from this one.
        change = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute(\"UPDATE t SET text = 'new'\");"
            " c.execute('PRAGMA wal_checkpoint(TRUNCATE)')"
        )
        done = world.root / "done"
        real = database_module._Watch.__call__

        def call(self: Any, *arguments: int) -> None:
            if not done.exists():
                done.touch()
                subprocess.run([sys.executable, "-c", change, str(world.src / "agent.db")], check=True)
            real(self, *arguments)

        monkeypatch.setattr(database_module, "_PAGES", 100)
        monkeypatch.setattr(database_module._Watch, "__call__", call)
        result = world.backup(policy=world.policy(sources=[str(mount)]))
        assert (result.rc, result.captured) == (0, 1), result.warnings
        stored = Path(str(world.tree(result.snapshot_id)) + str(mount)) / "agent.db"
        with contextlib.closing(sqlite3.connect("file:%s?immutable=1" % stored, uri=True)) as connection:
            assert connection.execute("SELECT DISTINCT text FROM t").fetchall() == [("new",)], "half of one transaction"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


# ---- afterwards ----------------------------------------------------------------------------------------------------------------


def test_a_restore_leaves_a_database_alone_that_holds_what_the_snapshot_does(world: World) -> None:
    path = world.src / "agent.db"
    with Keeper(path, rows=100):
        world.backup()
        before = os.stat(path)
        result = world.restore(confirm=True, delete=True)
        assert (result.changed, result.verified, result.warnings) == (False, True, [])
        assert os.stat(path) == before
        assert sorted(os.listdir(world.src)) == ["agent.db", "agent.db-shm", "agent.db-wal"]


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_a_restored_database_does_not_get_the_journal_of_the_one_before(world: World, wal: bool) -> None:
    path = world.src / "agent.db"
    keeper = Keeper(path, wal=wal, rows=2000, size=500)
    snapshot = world.backup().snapshot_id
    keeper("PRAGMA cache_size=5")
    keeper.add(50)
    keeper("BEGIN IMMEDIATE")
    keeper("UPDATE t SET text = 'later'")
    keeper.kill()
    assert (world.src / ("agent.db-wal" if wal else "agent.db-journal")).stat().st_size
    result = world.restore(snapshot=snapshot, undo=world.root / "undo", confirm=True)
    assert result.verified and (result.files_removed or not wal)
    assert os.listdir(world.src) == ["agent.db"]
    assert count(path) == 2000
    kept = Path(str(world.root / "undo") + str(path))
    with contextlib.closing(sqlite3.connect(str(kept))) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (2050,), "what was replaced is kept with its journal"


@pytest.mark.parametrize("wal", [True, False])
def test_a_database_that_somebody_has_open_is_told_of_before_and_when_it_is_replaced(world: World, wal: bool) -> None:
    with Keeper(world.src / "live.db", wal=wal) as keeper:
        world.backup()
        keeper.add(5)
        for options in ({"dry_run": True}, {"undo": world.root / "undo"}, {}):
            if not options:
                keeper.close()
                with Keeper(world.src / "live.db", rows=0) as another:
                    another.add(1)
            done = world.restore(confirm=True, **options)
            assert len(done.warnings) == bool(options), done.warnings
            if options:
                assert "%s/live.db, by process %d" % (world.src, keeper.process.pid) in done.warnings[0]
    assert count(world.src / "live.db") == 10


def test_a_program_that_is_not_seen_is_known_by_its_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_module, "who_has_open", lambda inodes: {})
    with Keeper(world.src / "live.db") as keeper:
        world.backup()
        keeper.add(5)
        assert "not seen here" in world.restore(confirm=True, dry_run=True).warnings[0]


def test_a_prediction_says_of_how_many_databases_only_a_restore_knows(world: World) -> None:
    with Keeper(world.src / "live.db"):
        pass
    world.backup()
    with contextlib.closing(sqlite3.connect(str(world.src / "live.db"))) as connection:
        connection.execute("INSERT INTO t (text) VALUES ('x')")
        connection.commit()
        connection.execute("DELETE FROM t WHERE text = 'x'")
        connection.commit()
    told = world.restore(confirm=True, dry_run=True)
    assert (told.files_replaced, told.would_capture, told.rc) == (1, 1, 0)
    assert world.restore(confirm=True).would_capture == 0


# ---- a database and its journals belong together -------------------------------------------------------------------------------


def names_in(world: World, snapshot_id: Optional[str]) -> List[str]:
    return sorted(os.listdir(world.stored(snapshot_id)))


@pytest.mark.parametrize(
    "keys", [{"exclude": ["live.db"]}, {"include": ["*-wal", "*-shm", "notes*"]}, {"exclude": ["/live.*"]}], ids=["exclude", "include", "all of it"]
)
def test_the_journals_of_a_database_that_is_left_out_are_left_out_too_and_a_restore_leaves_them_alone(world: World, aged: None, keys: Any) -> None:
    policy = world.policy(**keys)
    (world.src / "notes.txt").write_text("x")
    with Keeper(world.src / "live.db", rows=500) as keeper:
        result = world.backup(policy=policy)
        assert names_in(world, result.snapshot_id) == ["notes.txt"]
        assert not world.backup(policy=policy).changed
        keeper("PRAGMA wal_checkpoint(TRUNCATE)")
        keeper.add(3000)
        assert not world.backup(policy=policy).changed
        (world.src / "notes.txt").write_text("y")
        done = world.restore(policy=policy, delete=True, confirm=True)
        assert (done.files_replaced, done.files_removed, done.warnings) == (1, 0, [])
        assert keeper("SELECT count(*) FROM t") == [[3500]]
    assert count(world.src / "live.db") == 3500


def test_what_only_has_the_name_of_a_journal_is_kept_though_its_namesake_is_left_out(world: World) -> None:
    for name in ("notes", "notes-journal", "gone.db-wal"):
        (world.src / name).write_text("a file like any other")
    result = world.backup(policy=world.policy(exclude=["/notes"]))
    assert names_in(world, result.snapshot_id) == ["gone.db-wal", "notes-journal"]
    assert world.restore(dest=world.root / "back").warnings == []
    assert sorted(os.listdir(world.restored(world.root / "back"))) == ["gone.db-wal", "notes-journal"]
    os.unlink(world.src / "notes-journal")
    assert world.restore(confirm=True).warnings == []
    assert (world.src / "notes-journal").exists()


@pytest.mark.parametrize("paths", [(), ("live.db-wal",)])
def test_a_journal_of_an_older_snapshot_is_never_put_beside_a_database_that_does_not_come_with_it(world: World, paths: Any) -> None:
    wish = tuple(str(world.src / path) for path in paths)
    policy = world.policy(sqlite="off", **({} if paths else {"exclude": ["live.db"]}))
    (world.src / "notes.txt").write_text("x")
    with Keeper(world.src / "live.db", rows=500) as keeper:
        result = world.backup(policy=policy)
        assert "live.db-wal" in names_in(world, result.snapshot_id)
        keeper("PRAGMA wal_checkpoint(TRUNCATE)")
        keeper.add(3000)
        for options in ({}, {"dry_run": True}, {"delete": True}):
            done = world.restore(policy=policy, paths=wish, confirm=True, **options)
            assert "live.db" in done.warnings[0] and "left out" in done.warnings[0]
            assert (done.rc, done.files_replaced, done.files_removed) == (3, 0, 0)
        assert keeper("SELECT count(*) FROM t") == [[3500]]
    assert count(world.src / "live.db") == 3500
    back = world.restore(policy=policy, paths=wish, dest=world.root / "back")
    assert back.warnings == [] and (world.restored(world.root / "back") / "live.db-wal").exists()


def test_a_database_that_can_no_more_be_read_keeps_its_last_state_without_the_journal_of_a_later_one(portable: World) -> None:
    if AS_ROOT:
        give(portable.root, NOBODY)

    def go() -> List[str]:
        with Keeper(portable.src / "live.db", rows=50) as keeper:
            portable.backup()
            keeper.add(50)
            os.chmod(portable.src / "live.db", 0)
            result = portable.backup()
            return [*names_in(portable, result.snapshot_id), *result.warnings]

    names = in_child(go, uid=NOBODY if AS_ROOT else None)
    assert names[0] == "live.db" and len(names) == 2 and "could not be read" in names[1]


def linked(world: World) -> str:
    """One database with two names in a snapshot, and restored from it, so that its bytes are those of the snapshot."""
    with Keeper(world.src / "z.db"):
        pass
    os.link(world.src / "z.db", world.src / "a.db")
    snapshot = world.backup().snapshot_id
    assert snapshot
    for name in ("a.db", "z.db"):
        (world.src / name).unlink()
    world.restore(confirm=True)
    return snapshot


def test_commits_in_a_journal_beside_the_second_name_of_a_database_are_seen_by_a_restore_and_stay_with_delete(world: World) -> None:
    linked(world)
    with Keeper(world.src / "z.db", rows=0) as keeper:
        keeper.add(5)
        snapshot = world.backup().snapshot_id
        result = world.restore(confirm=True, delete=True)
        assert (result.changed, result.files_removed) == (False, 0)
        assert (world.src / "z.db-wal").stat().st_size
        keeper.add(5)
        keeper.kill()
    result = world.restore(snapshot=snapshot, confirm=True)
    assert (result.changed, result.verified) == (True, True)
    assert sorted(os.listdir(world.src)) == ["a.db", "z.db"]
    assert [count(world.src / name) for name in ("a.db", "z.db")] == [15, 15]


@pytest.mark.parametrize("paths", [(), ("z.db",)], ids=["all", "one name"])
def test_a_name_that_is_linked_to_its_database_again_does_not_keep_the_journal_of_the_one_that_stood_there(world: World, paths: Any) -> None:
    linked(world)
    (world.src / "z.db").unlink()
    Keeper(world.src / "z.db", rows=500).kill()
    assert (world.src / "z.db-wal").stat().st_size
    result = world.restore(paths=tuple(str(world.src / name) for name in paths), confirm=True)
    assert result.verified
    assert sorted(os.listdir(world.src)) == ["a.db", "z.db"]
    assert [count(world.src / name) for name in ("a.db", "z.db")] == [10, 10]


def test_what_stands_at_one_name_of_a_database_is_not_judged_by_what_stands_at_another(world: World) -> None:
    linked(world)
    (world.src / "a.db").unlink()
    with Keeper(world.src / "a.db", rows=99):
        pass
    (world.src / "z.db-wal").write_bytes(bytes(32))  # makes it the name with the journal
    assert world.restore(confirm=True).verified
    assert [count(world.src / name) for name in ("a.db", "z.db")] == [10, 10]


def rot(world: World, path: Path, at: int) -> None:
    """As a disk that rots: bytes change, and neither mtime nor ctime does."""
    before = os.stat(path)
    with open(path, "r+b") as stream:
        stream.seek(at)
        stream.write(b"rot")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Here it is the cache that is told of the new ctime.
    cache = world.state / "h" / "p" / "cache.bin"
    data = cache.read_bytes()
    times = struct.pack("<qq", before.st_mtime_ns, before.st_ctime_ns)
    assert times in data
    data = data.replace(times, struct.pack("<qq", before.st_mtime_ns, os.stat(path).st_ctime_ns))
    cache.write_bytes(data[:-4] + struct.pack("<I", zlib.crc32(data[:-4])))


def test_a_restore_that_is_killed_after_it_moved_a_journal_has_kept_the_database_with_it(world: World) -> None:
    path = world.src / "agent.db"
    with Keeper(path):
        pass
    snapshot = world.backup().snapshot_id
    path.unlink()
    world.restore(confirm=True)  # the file is byte for byte the snapshot's, and all that comes later lies in the journal
    keeper = Keeper(path, rows=0)
    keeper.add(40)
    keeper.kill()
    undo = world.root / "undo"
    pid = os.fork()
    if pid == 0:
        restore_module.Placer.write_files = lambda *_arguments, **_options: os.kill(os.getpid(), 9)  # type: ignore[method-assign]
        world.restore(snapshot=snapshot, undo=undo)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert world.restore(snapshot=snapshot, undo=undo).verified
    assert count(path) == 10
    with contextlib.closing(sqlite3.connect(str(undo) + str(path))) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)


def test_the_source_is_verified_by_capturing_its_databases(world: World, aged: None) -> None:
    path = world.src / "agent.db"
    with Keeper(path, rows=200, size=300) as keeper:
        world.backup()
        result = world.verify(source=True)
        assert (result.ok, result.hashed_files) == (True, 1)
        assert not list((world.state / "h" / "p").glob("scratch*"))
        keeper("PRAGMA wal_checkpoint(TRUNCATE)")
    world.backup()
    rot(world, path, path.stat().st_size - 200)
    result = world.verify(source=True)
    assert [(item["path"], item["reason"]) for item in result.damaged] == [(str(path), "changed without a trace")]


def test_a_source_that_rotted_so_that_sqlite_cannot_read_it_is_not_verified(world: World, aged: None) -> None:
    path = world.src / "agent.db"
    with Keeper(path, rows=200, size=300):
        pass
    world.backup()
    assert world.verify(source=True).ok
    rot(world, path, 4096)  # the first byte of the table's page says what it is
    result = world.verify(source=True)
    assert (result.rc, [item["path"] for item in result.damaged]) == (7, [str(path)])
    assert "could not be captured: database disk image is malformed" in result.damaged[0]["reason"]


@pytest.mark.parametrize("others", [True, False])
def test_a_source_is_not_said_to_be_whole_where_a_database_could_not_be_compared(world: World, aged: None, others: bool) -> None:
    if others:
        with Keeper(world.src / "good.db"):
            pass
    (world.src / "file").write_text("x")
    (world.src / "odd.db").write_bytes(b"SQLite format 3\0" + bytes(range(200)))
    assert world.backup().rc == 3
    result = world.verify(source=True)
    assert (result.rc, result.ok, len(result.warnings)) == (3, True, 1)
    assert result.warnings[0].startswith("%s was not compared" % (world.src / "odd.db"))
    assert (result.checked, result.hashed_files) == (2 + others, 1 + others)


def test_a_damaged_copy_of_an_unchanged_database_is_healed_by_another_capture(world: World, aged: None, opened: List[bytes]) -> None:
    with Keeper(world.src / "agent.db", rows=100):
        first = world.backup()
        stored = world.stored(first.snapshot_id, "agent.db")
        stored.chmod(0o600)
        with open(stored, "r+b") as stream:
            stream.seek(2000)
            stream.write(b"damage")
        assert not world.verify().ok
        result = world.backup()
        assert (result.changed, result.warnings, len(opened)) == (True, [], 2)
        assert count(world.stored(result.snapshot_id, "agent.db")) == 100
        assert world.verify().ok


@pytest.mark.parametrize("moment", ["_run", "_listen"])
def test_a_run_that_is_killed_while_it_captures_leaves_a_next_one_nothing_to_mend(portable: World, moment: str) -> None:
    with Keeper(portable.src / "agent.db", rows=100):
        pid = os.fork()
        if pid == 0:
            setattr(database_module, moment, lambda *_arguments: os.kill(os.getpid(), 9))
            portable.backup()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
        result = portable.backup()
    assert (result.captured, result.warnings) == (1, [])
    assert count(portable.stored(result.snapshot_id, "agent.db")) == 100
    assert not (portable.state / "h" / "p" / "staging").exists()


def test_a_full_disk_for_captures_ends_the_run_with_nothing_lost(portable: World) -> None:
    with Keeper(portable.src / "agent.db", rows=10):
        pass
    staging = Staging(os.fsencode(portable.root / "nowhere" / "staging"))
    (portable.root / "nowhere").write_text("a file where a directory should be")
    with Descent(b"/") as root, pytest.raises(OSError):
        staging.capture(root, [os.fsencode(portable.src / "agent.db").strip(b"/")])
    with Descent(b"/") as root, pytest.raises(CaptureError):
        Staging(os.fsencode(portable.root / "staging")).capture(root, [b"dev/null"])
