#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure backups to a bucket: what they ask of the service, and how long they take beside restic.

Requests, and what a restore gives back, are counted with a proxy before moto's server, which knows conditional writes; times are taken with rclone's,
in memory, and without a proxy.
Results: the parts ``requests`` and ``bucket`` of docs/performance.json and docs/performance.md.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Type

from ansible_collections.openclaw.backup.tests.integration.buckets import ACCESS, SECRET, Proxy, serving
from bench import MEMORY, TURNS, describe_machine, measure
from measure import Failed, remove, run
from peers import Argv, Engine, Peer, Restic
from report import MISS, judge, kept_table, read_results, request_table, table, tables, write_page, write_results
from tree import KINDS, Tree

_BUCKET = "bench"
_KIND = KINDS["small"]._replace(title="a Python environment, to a bucket of this machine", cases=("first", "unchanged", "changed", "verify", "restore"))
_FILES, _DIRECTORIES = 95, 39


class Server:
    """``url``: where the service is reached; ``home``: where it keeps its buckets."""

    url = ""


def rclone(*arguments: str) -> Argv:
    """A command of the rclone that comes with the tests."""
    return [str(Path(sys.executable).parent / "rclone"), "--config", "/dev/null", *arguments]


def remote(place: str) -> str:
    """What rclone calls a place in the bucket."""
    return ":s3,provider=Other,env_auth=true,endpoint='%s':%s%s" % (Server.url, _BUCKET, place)


class ToBucket(Engine):
    """Sealed packs."""

    layout = "pack"

    def prepare(self) -> None:
        super().prepare()
        key, credentials = self.room / "key", self.room / "credentials"
        key.write_text(os.urandom(32).hex() + "\n")
        credentials.write_text("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n" % (ACCESS, SECRET))
        for path in (key, credentials):
            path.chmod(0o600)
        policy = self.room / "policy.json"
        target = {"url": "s3://%s/engine%d" % (_BUCKET, random.getrandbits(32)), "endpoint": Server.url, "layout": self.layout}
        if self.layout == "pack":
            target["key_file"] = str(key)
        policy.write_text(json.dumps({**json.loads(policy.read_text()), "target": {**target, "credentials_file": str(credentials)}}))


class ToMirror(ToBucket):
    """One object per file."""

    name = "openclaw-backup, mirror"
    layout = "mirror"


class ResticToBucket(Restic):
    """The same repository, in the bucket."""

    def prepare(self) -> None:
        self._place = "s3:%s/%s/restic%d" % (Server.url, _BUCKET, random.getrandbits(32))
        super().prepare()

    def _restic(self, *arguments: str) -> Argv:
        room = str(self.room)
        return ["restic", "-r", self._place, "--password-file", room + "/password", "--cache-dir", room + "/cache", *arguments]


class Sync(Peer):
    """rclone, which keeps one state and no history; times of files where it may store them, else checksums."""

    name = "rclone sync"
    options: Sequence[str] = ()

    @classmethod
    def lacks(cls) -> str:
        return ""

    def prepare(self) -> None:
        super().prepare()
        self._remote = remote("/sync%d" % random.getrandbits(32))

    def backup(self) -> Argv:
        return rclone("sync", *self.options, str(self.source), self._remote)

    def restore(self) -> Argv:
        return rclone("copy", *self.options, self._remote, str(self.restored))

    def restored_source(self) -> Path:
        return self.restored


class FastSync(Sync):
    name = "rclone sync --fast-list --checksum"
    options = ("--fast-list", "--checksum")


class Mounted(Peer):
    """A bucket mounted by s3fs, and rsync to it as to a disk that knows no times: how containers of agents were backed up."""

    name = "s3fs + rsync"
    programs: Sequence[str] = ("s3fs", "rsync")

    def prepare(self) -> None:
        super().prepare()
        self._mount = self.room / "mount"
        self._mount.mkdir()
        secret = self.room / "secret"
        secret.write_text("%s:%s\n" % (ACCESS, SECRET))
        secret.chmod(0o600)
        options = "url=%s,use_path_request_style,passwd_file=%s" % (Server.url, secret)
        run(["s3fs", _BUCKET, str(self._mount), "-o", options])
        (self._mount / "mounted").mkdir(exist_ok=True)

    def close(self) -> None:
        if os.path.ismount(self.room / "mount"):
            remove(self._mount / "mounted")
            run(["umount", str(self._mount)])
        super().close()

    def backup(self) -> Argv:
        return ["rsync", "-r", "--no-times", "--delete", "--", "%s/" % self.source, "%s/" % (self._mount / "mounted")]

    def restore(self) -> Argv:
        return ["rsync", "-r", "--", "%s/" % (self._mount / "mounted"), "%s/" % self.restored]

    def restored_source(self) -> Path:
        return self.restored


_COUNTED: Sequence[Type[Peer]] = (ToBucket, ToMirror, ResticToBucket, FastSync, Sync, Mounted)
_TIMED: Sequence[Type[Peer]] = (ToBucket, ResticToBucket)


def make_home(root: Path) -> Tree:
    """The size of a small agent's home, with programs, a link and an empty directory."""
    chance = random.Random(_FILES)
    folders = [root / ("d%02d" % number) for number in range(_DIRECTORIES - 1)]
    files = []
    for number in range(_FILES):
        path = folders[number % len(folders)] / ("f%02d" % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(200, 60_000)))
        if number % 10 == 0:
            path.chmod(0o755)
        files.append((str(path), path.stat().st_size))
    (root / "link").symlink_to("d00/f00")
    (root / "empty").mkdir()
    return Tree(root, files, _FILES, _DIRECTORIES, 0, 0, sum(size for _path, size in files))


def count(room: Path, proxy: Proxy) -> Dict[str, Any]:
    """By case and peer, how often each verb was asked."""
    tree = make_home(room / "home")
    cases: Dict[str, Dict[str, Dict[str, int]]] = {}
    kept: Dict[str, Dict[str, Any]] = {}
    for cls in _COUNTED:
        if cls.lacks():
            print("%s is not counted: this machine lacks %s." % (cls.name, cls.lacks()), file=sys.stderr)
            continue
        peer = cls(room / cls.__name__.lower(), tree)
        try:
            before = objects()
            peer.prepare()
            for case, changed in (("first", 0), ("unchanged", 0), ("1 changed", 1), ("40 changed", 40), ("restore", 0)):
                for path, size in tree.files[:changed]:
                    Path(path).write_bytes(os.urandom(size))
                argv = peer.restore() if case == "restore" else peer.backup()
                assert argv is not None
                proxy.asked.clear()
                seconds = run(argv).seconds
                cases.setdefault(case, {})[cls.name] = dict(sorted(Counter(asked.verb for asked in proxy.asked).items()))
                kept.setdefault(cls.name, {})[case] = round(seconds, 3)
            kept[cls.name].update(objects=objects() - before, **came_back(tree.root, peer.restored_source()))
        finally:
            peer.close()
    return {"files": tree.names, "directories": tree.directories, "bytes": tree.bytes, "counted": cases, "kept": kept}


def objects() -> int:
    """How many objects there are."""
    found: int = json.loads(run(rclone("size", "--json", remote(""))).output)["count"]
    return found


def came_back(home: Path, restored: Path) -> Dict[str, str]:
    """How much of a home a restore gave back: contents, modes, links, empty directories."""
    paths = sorted(home.rglob("*"))
    links = [path for path in paths if path.is_symlink()]
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    empty = [path for path in paths if path.is_dir() and not path.is_symlink() and not any(path.iterdir())]

    def share(wanted: Sequence[Path], is_same: Callable[[Path, Path], bool]) -> str:
        there = [(path, restored / path.relative_to(home)) for path in wanted]
        return "%d of %d" % (sum(os.path.lexists(other) and is_same(path, other) for path, other in there), len(wanted))

    return {
        "contents": share(files, lambda one, other: one.read_bytes() == other.read_bytes()),
        "modes": share(files, lambda one, other: one.stat().st_mode == other.stat().st_mode),
        "links": share(links, lambda one, other: other.is_symlink() and os.readlink(one) == os.readlink(other)),
        "empty directories": share(empty, lambda _one, other: other.is_dir()),
    }


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    turns = int(os.environ.get("TURNS") or TURNS)
    scale = float(os.environ.get("SCALE") or 1)
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS, AWS_SECRET_ACCESS_KEY=SECRET)
    os.environ.pop("AWS_PROFILE", None)
    room = Path(tempfile.mkdtemp(prefix="openclaw-backup-bench-", dir=MEMORY if MEMORY.is_dir() else None))
    taken: Optional[Dict[str, Any]] = None
    try:
        with serving("moto") as port:
            proxy = Proxy(port)
            Server.url = proxy.url
            run(rclone("mkdir", remote("")))
            counted = count(room, proxy)
        if turns:
            with serving("rclone") as port:
                Server.url = "http://127.0.0.1:%d" % port
                run(rclone("mkdir", remote("")))
                timed = [cls for cls in _TIMED if not cls.lacks()]
                taken = {**measure(_KIND, scale, timed, room, turns), "machine": describe_machine(timed), "missing": {}}
    except Failed as error:
        print("bench: %s" % error, file=sys.stderr)
        return 1
    finally:
        remove(room)
    print("%s\n%s" % (request_table(counted), kept_table(counted)))
    rows: List[List[str]] = []
    if taken is not None:
        rows = judge({"bucket": taken}) if scale == 1 else []
        print("%s\n%s" % (tables(taken), table(["bar", "measured", ""], rows) if rows else ""))
    if turns >= TURNS and scale == 1:
        results = {**read_results(), "requests": counted, "bucket": taken}
        write_results(results)
        write_page(results)
    return 1 if any(row[-1] == MISS for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
