# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches one attempt of ``attack.py`` on the vault, as root: no committed snapshot of any host may change by a byte or a bit of metadata.

Usage: ``guard.py ATTEMPT SETTING``. Prints one JSON object: ``result`` or ``failed`` of the attempt, and ``changes``.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import pwd
import stat
import subprocess
import sys
import time
from typing import Any, Dict, List, Tuple

VAULT = "/srv/openclaw-backup"
MEMORY = "/var/lib/openclaw-backup-vault"
ETC = "/etc/openclaw-backup"
KEEPER = pwd.getpwnam("openclaw-vault")
# Neither the time of the last access nor what other names of an inode leave on it; they are not the snapshot's.
Facts = Dict[str, Tuple[Any, ...]]


def look_below(root: str) -> Facts:
    """Everything below ``root`` with content, mode, owner, time and attributes."""
    found: Facts = {}
    pending = [root]
    while pending:
        path = pending.pop()
        try:
            now = os.lstat(path)
        except FileNotFoundError:
            continue
        what: Any = None
        if stat.S_ISREG(now.st_mode):
            with open(path, "rb") as stream:
                what = hashlib.sha256(stream.read()).hexdigest()
        elif stat.S_ISLNK(now.st_mode):
            what = os.readlink(path)
        elif stat.S_ISDIR(now.st_mode):
            pending += [os.path.join(path, name) for name in os.listdir(path)]
        attributes = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in sorted(os.listxattr(path, follow_symlinks=False)))
        found[path] = (now.st_mode, now.st_uid, now.st_gid, now.st_size, now.st_mtime_ns, what, attributes)
    return found


def look(setting: Dict[str, Any]) -> Facts:
    """All committed snapshots of all hosts; of the other host, the settings and the keeper's memory everything."""
    found: Facts = {}
    for place in [*glob.glob(VAULT + "/*/*/snapshots/*"), "%s/%s" % (VAULT, setting["victim"]), ETC, MEMORY]:
        found.update(look_below(place))
    return {path: facts for path, facts in found.items() if not path.startswith(ETC + "/grants")}


def compare(before: Facts, after: Facts) -> List[str]:
    """What is not as it was; a snapshot that was added is no change."""
    changes = [path for path, facts in before.items() if after.get(path) != facts]
    known = {path for path in before if path.count("/") == VAULT.count("/") + 4}
    for path in after.keys() - before.keys():
        snapshot = "/".join(path.split("/")[: VAULT.count("/") + 5])
        if not path.startswith(VAULT) or snapshot in known or "/snapshots/" not in path:
            changes.append(path + " is new")
    return sorted(changes)


def misshapen(found: Facts) -> List[str]:
    """Paths in snapshots of the hosts that bear anything but what portable storage gives them."""
    wrong = []
    for path, (mode, uid, gid, _size, _time, _what, attributes) in found.items():
        if "/snapshots/" not in path or "/tree/" not in path:
            continue
        wanted = {stat.S_IFREG: 0o440, stat.S_IFDIR: 0o550, stat.S_IFLNK: 0o777}.get(stat.S_IFMT(mode))
        if (stat.S_IMODE(mode), uid, gid, attributes) != (wanted, KEEPER.pw_uid, KEEPER.pw_gid, ()):
            wrong.append("%s is %o of %d:%d with %s" % (path, mode, uid, gid, attributes))
    return wrong


def pids_of() -> List[int]:
    """The keeper's processes that hold a conversation."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/cmdline" % name, "rb") as stream:
            if b"--session" in stream.read().split(b"\0") and os.stat("/proc/" + name).st_uid == KEEPER.pw_uid:
                found.append(int(name))
    return sorted(found)


def serve(question: Dict[str, Any], setting: Dict[str, Any]) -> Any:
    """Do what only root can do for an attempt."""
    do, paths = question["phase"], question.get("paths", [])
    if do == "link":
        sources = sorted(glob.glob(paths[0]))
        if sources:
            os.link(sources[0], paths[1])
        return bool(sources)
    if do == "device":
        with contextlib.suppress(OSError):
            os.mknod(paths[0], stat.S_IFCHR | 0o666, os.makedev(1, 5))
        return None
    if do == "find":
        found = sorted(glob.glob(paths[0]))
        return found if paths[0].endswith("planted") else (found or [None])[0]
    if do == "names":
        return sorted(look_below(paths[0]))
    if do == "pids":
        return pids_of()
    if do == "environ":
        # root in a container may not look at another account's process.
        words = subprocess.check_output(["runuser", "-u", KEEPER.pw_name, "--", "cat", "/proc/%d/environ" % pids_of()[-1]])
        return dict(os.fsdecode(word).split("=", 1) for word in words.split(b"\0") if b"=" in word)
    if do == "grant":
        until = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + int(paths[0])))
        with open("%s/grants/%s.json" % (ETC, setting["account"]), "w") as stream:
            json.dump({"until": until, "hosts": paths[1:]}, stream)
        os.chmod(stream.name, 0o644)
        return None
    if do == "revoke":
        os.unlink("%s/grants/%s.json" % (ETC, setting["account"]))
        return None
    if do == "hold":
        if not paths:
            with open("/tmp/held", "x"):
                pass
        time.sleep(0.2)
        return os.path.exists("/tmp/held")
    if do in ("look", "full"):
        return None
    raise ValueError(do)


def main() -> None:
    name, words = sys.argv[1:]
    setting = json.loads(words)
    before = look(setting)
    changes: List[str] = []
    here = os.path.dirname(os.path.abspath(__file__))
    command = ["runuser", "-u", setting["account"], "--", "/usr/bin/python3", here + "/attack.py", name, words]
    process = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    result: Dict[str, Any] = {"failed": "it said nothing"}
    for line in process.stdout:
        item = json.loads(line)
        if "phase" not in item:
            result = item
            break
        answer = serve(item, setting)
        after = look(setting)
        changes += compare(before, after)
        before = after
        process.stdin.write(json.dumps(answer) + "\n")
        process.stdin.flush()
    process.wait()
    after = look(setting)
    print(json.dumps({**result, "changes": sorted({*changes, *compare(before, after)})[:20], "misshapen": misshapen(after)[:20]}))


if __name__ == "__main__":
    main()
