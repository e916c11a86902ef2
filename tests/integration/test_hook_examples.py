# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of docs/hooks.md as they are printed, through real backups: real servers, real file systems, restored and compared."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.tests.integration.world import World, assert_same, can_run, error_of, needs_root

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "hooks"
PAGE = (ROOT / "docs" / "hooks.md").read_text()
POSTGRESQL = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), "")
HAS_DEVICE_MAPPER = Path("/proc/misc").exists() and "device-mapper" in Path("/proc/misc").read_text()


@pytest.fixture
def world() -> Iterator[World]:
    made = World.make()
    yield made
    made.destroy()


def policy(name: str, source: str, places: Dict[str, Path], *environment: str) -> Policy:
    """The policy that the page shows, with other ``places``, and with variables for its hooks that name a test's own server."""
    (text,) = [block for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S) if '"name": "%s"' % name in block and source in block]
    for path, place in {"/etc/openclaw-backup/hooks": EXAMPLES, **places}.items():
        text = text.replace('"%s' % path, '"%s' % place)
    mapping: Dict[str, Any] = json.loads(text)
    for hooks in mapping["hooks"].values():
        for index, hook in enumerate(hooks):
            if isinstance(hook, dict):
                hook["command"] = ["env", *environment, *hook["command"]]
            else:
                hooks[index] = ["env", *environment, *hook]
    return Policy.from_mapping(mapping, default_host="h")


def restored(world: World, wish: Policy) -> Path:
    """Everything brought back below a directory."""
    dest = world.root / "restored"
    assert world.restore(policy=wish, dest=dest).verified
    return dest


def run(*argv: Any, given: str = "", **options: Any) -> str:
    done = subprocess.run([str(word) for word in argv], input=given, capture_output=True, text=True, check=False, timeout=120, **options)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


@contextmanager
def serving(argv: Sequence[Any], is_up: Callable[[], bool], **options: Any) -> Iterator[None]:
    server = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        deadline = time.monotonic() + 60
        while not is_up():
            assert server.poll() is None and time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait(60)


def answers(*argv: Any) -> bool:
    return subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def test_the_page_prints_the_scripts_as_they_are() -> None:
    printed = re.findall(r"^```sh\n(#!.*?)^```$", PAGE, re.M | re.S)
    assert sorted(printed) == sorted(path.read_text() for path in EXAMPLES.iterdir())
    assert all(os.access(path, os.X_OK) for path in EXAMPLES.iterdir())


def test_every_policy_of_the_page_is_one() -> None:
    for text in re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S):
        mapping = {"name": "n", "sources": ["/s"], "target": "/v", **json.loads(text)}
        assert Policy.from_mapping(mapping, default_host="h").hooks


# ---- PostgreSQL ------------------------------------------------------------------------------------------------------------


class PostgreSQL:
    """A server of its own, which knows its users by who they are on this machine."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        home.mkdir()
        shutil.chown(home, "postgres", "postgres")
        self.environment = ("PGHOST=%s" % home, "PGPORT=5499")

    def psql(self, database: str, statement: str) -> List[str]:
        command = ("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database)
        return run("runuser", "-u", "postgres", "--", "env", *self.environment, *command, given=statement).splitlines()

    @contextmanager
    def running(self) -> Iterator[PostgreSQL]:
        as_postgres = ("runuser", "-u", "postgres", "--")
        run(*as_postgres, POSTGRESQL + "/initdb", "-D", self.data, "-A", "peer", "--no-sync", "-E", "UTF8", "--no-locale", cwd="/")
        argv = [POSTGRESQL + "/postgres", "-D", self.data, "-k", self.home, "-p", "5499", "-c", "listen_addresses=", "-c", "fsync=off"]
        ready = (*as_postgres, "env", *self.environment, "psql", "-Xqc", "SELECT 1", "postgres")
        with serving(argv, lambda: answers(*ready), user="postgres", group="postgres", extra_groups=[], cwd="/"):
            yield self


@pytest.mark.lab
@pytest.mark.slow
@needs_root
@pytest.mark.skipif(not POSTGRESQL, reason="no PostgreSQL")
def test_a_postgresql_server_comes_back_row_by_row(world: World) -> None:
    dumps = world.root / "dumps"
    with PostgreSQL(world.root / "old").running() as server:
        server.psql("postgres", "CREATE ROLE shop LOGIN PASSWORD 'hunter2'; CREATE DATABASE shop OWNER shop; CREATE DATABASE gone;")
        server.psql("shop", "CREATE TABLE item (id serial PRIMARY KEY, name text); ALTER TABLE item OWNER TO shop; CREATE INDEX by_name ON item (name);")
        server.psql("shop", "INSERT INTO item (name) SELECT 'thing ' || n FROM generate_series(1, 5000) n;")
        wish = policy("postgresql", "", {"/var/backups/postgresql": dumps, "/srv/vault": world.vault}, *server.environment)
        first = world.backup(policy=wish)
        assert (first.rc, first.changed) == (0, True)
        server.psql("postgres", "DROP DATABASE gone")
        server.psql("shop", "UPDATE item SET name = 'other' WHERE id = 77")
        second = world.backup(policy=wish)
        assert (second.rc, second.removed) == (0, 1)
        assert sorted(os.listdir(dumps)) == ["databases", "globals.sql", "postgres.dump", "shop.dump"]
        assert dumps.stat().st_mode & 0o777 == 0o700
        rows = server.psql("shop", "SELECT * FROM item ORDER BY id")
        assert len(rows) == 5000 and "77|other" in rows
    assert "connection to server" in error_of(world.backup, policy=wish).message, "a server that is down is no backup"
    back = restored(world, wish)
    with PostgreSQL(world.root / "new").running() as server:
        run("env", *server.environment, EXAMPLES / "restore-postgresql", str(back) + str(dumps))
        assert server.psql("shop", "SELECT * FROM item ORDER BY id") == rows
        assert server.psql("shop", "SELECT tableowner FROM pg_tables WHERE tablename = 'item'") == ["shop"]
        assert server.psql("postgres", "SELECT count(*) FROM pg_authid WHERE rolname = 'shop' AND rolpassword LIKE 'SCRAM%'") == ["1"]
        server.psql("postgres", 'CREATE DATABASE "a/b"')
        odd = policy("postgresql", "", {"/var/backups/postgresql": dumps, "/srv/vault": world.vault}, *server.environment)
        assert "the database 'a/b' has a name that this script does not take" in error_of(world.backup, policy=odd).message


# ---- MariaDB ---------------------------------------------------------------------------------------------------------------


class MariaDB:
    """A server of its own; ``root`` logs in by being root."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "socket"
        home.mkdir()
        shutil.chown(home, "nobody")
        self.client = ("mariadb", "--no-defaults", "--socket", self.socket, "--skip-column-names", "--batch")

    def sql(self, statement: str) -> List[str]:
        return run(*self.client, given=statement).splitlines()

    @contextmanager
    def running(self) -> Iterator[MariaDB]:
        data = ("--no-defaults", "--datadir=%s/data" % self.home, "--innodb-log-file-size=4M", "--user=nobody")
        run("mariadb-install-db", *data, "--auth-root-authentication-method=socket", "--skip-test-db")
        argv = ["mariadbd", *data, "--socket=%s" % self.socket, "--skip-networking", "--pid-file=%s/pid" % self.home]
        with serving(argv, lambda: answers(*self.client, "-e", "SELECT 1")):
            yield self


@pytest.mark.lab
@pytest.mark.slow
@needs_root
@pytest.mark.skipif(not can_run("mariadbd", "mariadb-dump", "mariadb-install-db"), reason="no MariaDB")
def test_a_mariadb_server_comes_back_row_by_row(world: World) -> None:
    dumps, defaults = world.root / "dumps", world.root / "mariadb.cnf"
    ((grants,),) = [re.findall(r"^```sql\n(.*?)^```$", PAGE, re.M | re.S)]
    (printed,) = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.M | re.S)
    password = "a long random word"
    with MariaDB(world.root / "old").running() as server:
        defaults.write_text(printed + "socket=%s\n" % server.socket)
        defaults.chmod(0o600)
        server.sql(grants)
        server.sql("CREATE DATABASE shop; CREATE TABLE shop.item (id int PRIMARY KEY AUTO_INCREMENT, name varchar(80)) ENGINE=InnoDB;")
        server.sql("USE shop; INSERT INTO item (name) SELECT concat('thing ', seq) FROM seq_1_to_5000;")
        server.sql("CREATE USER shop@localhost IDENTIFIED BY 'x'; GRANT ALL ON shop.* TO shop@localhost;")
        server.sql("CREATE PROCEDURE shop.count_items() SELECT count(*) FROM shop.item;")
        places = {"/var/backups/mariadb": dumps, "/etc/openclaw-backup/mariadb.cnf": defaults, "/srv/vault": world.vault}
        wish = policy("mariadb", "", places)
        first = world.backup(policy=wish)
        assert (first.rc, first.changed) == (0, True)
        assert not world.backup(policy=wish).changed, "an equal dump is no news"
        server.sql("UPDATE shop.item SET name = 'other' WHERE id = 77")
        second = world.backup(policy=wish)
        assert (second.rc, second.modified) == (0, 1)
        assert (dumps / "all.sql").stat().st_mode & 0o777 == 0o600 and os.listdir(dumps) == ["all.sql"]
        rows = server.sql("SELECT * FROM shop.item ORDER BY id")
        assert len(rows) == 5000 and "77\tother" in rows
    assert "connect" in error_of(world.backup, policy=wish).message
    assert password not in "".join(path.read_text() for path in world.state.rglob("*.jsonl"))
    back = restored(world, wish)
    with MariaDB(world.root / "new").running() as server:
        with open(str(back) + str(dumps / "all.sql"), "rb") as dump:
            subprocess.run([str(word) for word in server.client], stdin=dump, check=True)
        assert server.sql("SELECT * FROM shop.item ORDER BY id") == rows
        assert server.sql("CALL shop.count_items()") == ["5000"]
        assert any("shop" in line for line in server.sql("SHOW GRANTS FOR shop@localhost"))


# ---- snapshots of file systems -----------------------------------------------------------------------------------------------


@contextmanager
def file_system(image: Path, mountpoint: Path, *mkfs: str) -> Iterator[Path]:
    """A file system of its own, in a file."""
    with open(image, "wb") as file:
        file.truncate(192 << 20)
    run(*mkfs, image)
    mountpoint.mkdir()
    run("mount", "-o", "loop", image, mountpoint)
    try:
        yield mountpoint
    finally:
        run("umount", mountpoint)


def fill(tree: Path) -> None:
    for name in ("one", "two", "folder/three"):
        path = tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)


def check_instant(world: World, wish: Policy, tree: Path, seen: Path, mounted: Callable[[], bool]) -> None:
    """The snapshot holds the instant of the before hook, a run that fails leaves nothing behind, nor does one that was killed before."""
    instant = world.root / "instant"
    shutil.copytree(tree, instant, symlinks=True)
    for path in (instant, *instant.rglob("*")):
        shutil.copystat(tree / path.relative_to(instant), path)
    late = {"before": [*wish.to_mapping()["hooks"]["before"], ["touch", str(tree / "late")]], "after": wish.to_mapping()["hooks"]["after"]}
    mapping = {"name": wish.name, "sources": list(wish.sources), "target": str(world.vault), "hooks": late}
    result = world.backup(policy=Policy.from_mapping(mapping, default_host="h"))
    assert (result.rc, result.changed, mounted()) == (0, True, False) and (tree / "late").exists()
    assert_same(instant, Path(str(restored(world, wish)) + str(seen)), rsync=False)
    (tree / "late").unlink()

    refused = {**mapping, "guards": {"require": ["/missing"]}}
    assert error_of(world.backup, policy=Policy.from_mapping(refused, default_host="h")).kind == "guard"
    assert not mounted()

    pid = os.fork()
    if pid == 0:
        try:
            killed = {**mapping, "hooks": {**late, "before": [*wish.to_mapping()["hooks"]["before"], ["sh", "-c", "kill -9 %d" % os.getpid()]]}}
            world.backup(policy=Policy.from_mapping(killed, default_host="h"))
        finally:
            os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and mounted()
    assert (world.backup(policy=wish).rc, mounted()) == (0, False)


def check_cheap(world: World, wish: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is mounted anew, with files that are not young, is not read again."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 120)
    world.backup(policy=wish)
    again = world.backup(policy=wish)
    assert (again.rc, again.changed, again.files_hashed) == (0, False, 0)


@pytest.mark.lab
@needs_root
@pytest.mark.skipif(not can_run("btrfs", "mkfs.btrfs"), reason="no btrfs-progs")
def test_a_btrfs_snapshot_is_backed_up_and_gone_afterwards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with file_system(world.root / "disk", world.root / "data", "mkfs.btrfs", "-q") as top:
        tree, seen = top / "tree", top / "tree" / ".backup"
        run("btrfs", "subvolume", "create", tree)
        fill(tree)
        wish = policy("data", "/srv/data/.backup", {"/srv/data": tree, "/srv/vault": world.vault})
        check_instant(world, wish, tree, seen, seen.exists)
        check_cheap(world, wish, monkeypatch)


# What these print and do is what LVM does, with copies of a disk instead of a device mapper that a kernel may lack.
LVM_STAND_INS = {
    "lvcreate": """#!/bin/sh
set -eu
[ "$1 $2 $4" = "--snapshot --size --name" ]
group=${6%%/*}
[ ! -e "/dev/$group/$5" ] || { echo "Logical Volume \\"$5\\" already exists in volume group \\"$group\\"" >&2; exit 5; }
sync
cp "$DISK" "$DISK.$5"
ln -s "$(losetup --show -f "$DISK.$5")" "/dev/$group/$5"
""",
    "lvs": """#!/bin/sh
[ -e "/dev/$1" ] || { echo "Failed to find logical volume \\"$1\\"" >&2; exit 5; }
""",
    "lvremove": """#!/bin/sh
set -eu
[ "$1 $2" = "--force --yes" ]
losetup -d "$(readlink "/dev/$3")"
rm "/dev/$3" "$DISK.${3##*/}"
""",
}


@pytest.mark.lab
@needs_root
@pytest.mark.skipif(not can_run("mkfs.ext4", "losetup"), reason="no ext4 or loop devices")
def test_a_snapshot_of_a_volume_is_backed_up_and_gone_afterwards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for LVM's commands; the next test takes LVM itself."""
    group = Path("/dev/openclaw-backup-test-%d" % os.getpid())
    programs = world.root / "bin"
    programs.mkdir()
    for name, text in LVM_STAND_INS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    group.mkdir()
    try:
        with file_system(world.root / "disk", world.root / "data", "mkfs.ext4", "-q") as tree:
            shutil.rmtree(tree / "lost+found")
            fill(tree)
            seen = world.root / "seen"
            path = "PATH=%s:%s" % (programs, os.environ["PATH"])
            places = {"/run/backup/data": seen, "vg0": Path(group.name), "/srv/vault": world.vault}
            wish = policy("data", "vg0/data", places, path, "DISK=%s" % (world.root / "disk"))
            check_instant(world, wish, tree, seen, lambda: os.path.ismount(seen) or bool(os.listdir(group)))
            check_cheap(world, wish, monkeypatch)
    finally:
        group.rmdir()


@needs_root
@pytest.mark.skipif(not HAS_DEVICE_MAPPER or not can_run("lvcreate", "mkfs.ext4"), reason="the kernel has no device mapper, or LVM is missing")
def test_a_snapshot_of_a_real_logical_volume_is_backed_up_and_gone_afterwards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, tree, seen = world.root / "disk", world.root / "data", world.root / "seen"
    group = "openclaw-backup-test-%d" % os.getpid()
    with open(disk, "wb") as file:
        file.truncate(256 << 20)
    loop = run("losetup", "--show", "-f", disk).strip()
    try:
        run("vgcreate", group, loop)
        run("lvcreate", "--size", "64m", "--name", "data", group)
        run("mkfs.ext4", "-q", "/dev/%s/data" % group)
        tree.mkdir()
        run("mount", "/dev/%s/data" % group, tree)
        shutil.rmtree(tree / "lost+found")
        fill(tree)
        places = {"/run/backup/data": seen, "vg0": Path(group), "2g": Path("32m"), "/srv/vault": world.vault}
        wish = policy("data", "vg0/data", places)
        check_instant(world, wish, tree, seen, lambda: os.path.ismount(seen) or os.path.exists("/dev/%s/data-backup" % group))
        check_cheap(world, wish, monkeypatch)
    finally:
        subprocess.run(["umount", str(tree)], check=False)
        subprocess.run(["vgremove", "--force", "--yes", group], check=False)
        subprocess.run(["losetup", "-d", loop], check=False)


def test_an_upgrade_waits_for_its_backup_and_is_not_done_without(world: World, tmp_path: Path) -> None:
    home, tree = tmp_path / "bin", world.root / "data"
    home.mkdir()
    tree.mkdir()
    (tree / "state").write_text("of the old release")
    wish = {"name": "p", "host": "h", "sources": [str(tree)], "target": str(world.vault)}
    (world.root / "policy.json").write_text(json.dumps(wish))
    agent = "%s -m ansible_collections.openclaw.backup.plugins.module_utils.agent" % sys.executable
    (home / "openclaw-backup").write_text('#!/bin/sh\n[ -e %s ] || { touch %s; exit 5; }\nexec %s "$@"\n' % (home / "free", home / "free", agent))
    (home / "openclaw-backup").chmod(0o755)
    environment = {**os.environ, "PATH": "%s:%s" % (home, os.environ["PATH"]), "OPENCLAW_BACKUP_STATE": str(world.state), "BEFORE_UPGRADE_WAIT": "0"}
    command = [EXAMPLES / "before-upgrade", world.root / "policy.json", "cp", "/dev/null", tree / "state"]
    run(*command, env=environment)
    assert (tree / "state").read_text() == ""
    (snapshot,) = world.snapshots()
    assert snapshot.tags == ("before-upgrade",)
    (tree / "state").unlink()  # a source without files: a guard refuses
    done = subprocess.run([*map(str, command[:2]), "touch", str(tree / "upgraded")], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "no upgrade" in done.stderr
    assert not (tree / "upgraded").exists()
