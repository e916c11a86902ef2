#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show on real files what the collection does, through ansible-playbook, and check that each step did what it says.

Works on a copy of .venv, or of the directory that SOURCE names, in a temporary directory, which KEEP=1 leaves there.
Exits 1 where a step did not show what it should.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
FEWEST_FILES = 20_000  # of the default source: fewer, and it is copied more than once
HOST, POLICY = "demo", "data"

# Two special files of one kind are alike; diff has no other words for them.
_SAME_KIND = re.compile("File .* is a (.+) while file .* is a \\1")


class NotShown(Exception):
    """A step did not do what it should have."""


class Row(NamedTuple):
    """A line of the table at the end; ``work`` are the seconds that the module itself says it took."""

    step: str
    outcome: str
    seconds: float
    work: Optional[float] = None


class Size(NamedTuple):
    """What a tree holds: names of regular files, their bytes, and the bytes that it takes on the disk."""

    files: int
    bytes: int
    on_disk: int


class Demo:
    """The steps, in ``room``, with the table that they fill."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.data = room / "data"
        self.rows: List[Row] = []
        self.chance = random.Random(0)
        policy = {"name": POLICY, "host": HOST, "sources": [str(self.data)], "target": str(room / "vault")}
        (room / "policy.json").write_text(json.dumps(policy))
        (room / "ansible.cfg").touch()
        settings = {
            "ANSIBLE_CONFIG": str(room / "ansible.cfg"),
            "ANSIBLE_HOME": str(room / "ansible"),
            "ANSIBLE_REMOTE_TMP": str(room / "ansible" / "tmp"),
            # A collection of this name that the user has installed must not be shown instead.
            "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join(path for path in sys.path if path.endswith("-packages")),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "LC_ALL": "C.UTF-8",
        }
        self.environment = {**{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "OPENCLAW_"))}, **settings}

    # ---- what every step needs ---------------------------------------------------------------------------------------

    def say(self, step: str, command: Sequence[object] = ()) -> None:
        """Announce a step, with what a user would type."""
        print("\n%2d  %s" % (len(self.rows) + 1, step), flush=True)
        if command:
            self.show(shlex.join(map(str, command)))

    def show(self, command: str) -> None:
        """Print a command; ROOM is short for the directory that was named at the beginning."""
        print("    $ " + command.replace(str(self.room), "$ROOM"), flush=True)

    def tell(self, step: str, outcome: str, seconds: float, work: Optional[float] = None) -> None:
        """Report what a step did."""
        print("    %s  [%.1f s]" % (outcome, seconds), flush=True)
        self.rows.append(Row(step, outcome, seconds, work))

    def play(self, step: str, tag: str, expected_rc: int = 0) -> Tuple[Dict[str, Any], float]:
        """Run one task of demo.yml: its result and how long the whole of ansible-playbook took."""
        program = [Path(sys.prefix) / "bin" / "ansible-playbook", "-i", "inventories/local", "scripts/demo.yml", "-e", "room=%s" % self.room, "-t", tag]
        command = list(map(str, program))
        shown = [os.path.relpath(command[0], ROOT), *command[1:]] if command[0].startswith(str(ROOT)) else command
        self.say(step, shown)
        started = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        seconds = time.monotonic() - started
        try:
            result: Dict[str, Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
        except (ValueError, LookupError):
            raise NotShown("ansible-playbook ended with %d:\n%s%s" % (done.returncode, done.stdout[-4000:], done.stderr[-4000:])) from None
        if (done.returncode == 0) != (expected_rc == 0) or result.get("rc", 0) != expected_rc:
            raise NotShown("the task ended with rc %s, not %d: %s" % (result.get("rc", 0), expected_rc, result.get("msg", result)))
        return result, seconds

    # ---- the steps -----------------------------------------------------------------------------------------------------

    def copy(self, source: Path, times: int) -> Size:
        """Copy what is to be protected, so that the edits of later steps break nothing."""
        step = "copy the files to protect"
        if times > 1:
            self.data.mkdir()
        started = time.monotonic()
        self.say(step)
        for number in range(times):
            dest = self.data / str(number + 1) if times > 1 else self.data
            command = ["cp", "-a", "--", str(source), str(dest)]
            self.show(shlex.join(command))
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
            if done.returncode:
                raise NotShown("%s could not be copied as a whole: %s" % (source, done.stderr.splitlines()[0]))
        size = measure(self.data)
        seconds = time.monotonic() - started
        self.tell(step, "%s files, %s" % (count(size.files), megabytes(size.bytes)), seconds)
        return size

    def back_up(self, size: Size) -> str:
        """The first snapshot; its id."""
        step = "first backup"
        result, seconds = self.play(step, "backup")
        receipt = result["receipt"]
        expect(result["changed"] and receipt["files"] == size.files, "%s of %s files are in the snapshot" % (receipt["files"], size.files))
        self.tell(step, "%s files, %s sent and hashed" % (count(receipt["files"]), megabytes(result["bytes_sent"])), seconds, result["duration"])
        return str(result["snapshot_id"])

    def back_up_unchanged(self, snapshot: str) -> None:
        """The same once more: nothing is sent and no snapshot made."""
        step = "second backup, nothing changed"
        result, seconds = self.play(step, "backup")
        expect(not result["changed"] and result["snapshot_id"] == snapshot and not result["files_sent"], "a snapshot was made of nothing")
        # A file younger than a minute could still change without a trace, so it is not taken for unchanged by its times alone.
        again = ", %s files younger than a minute read again" % count(result["files_hashed"]) if result["files_hashed"] else ""
        self.tell(step, "0 files sent, no new snapshot%s" % again, seconds, result["duration"])

    def edit(self) -> int:
        """Change some files as people do, in five ways; how many in each."""
        step = "edit some files"
        self.say(step)
        started = time.monotonic()
        files = self.editable()
        share = min(25, len(files) // 10)
        chosen = iter(self.chance.sample(files, 5 * share))
        for _ in range(share):
            with open(next(chosen), "ab") as stream:
                stream.write(b"\n# edited by the demo\n")
            added = next(chosen) + ".added"
            with open(added, "xb") as stream:
                stream.write(b"added by the demo\n")
            os.unlink(next(chosen))
            renamed = next(chosen)
            os.rename(renamed, renamed + ".renamed")
            moded = next(chosen)
            os.chmod(moded, stat.S_IMODE(os.lstat(moded).st_mode) ^ stat.S_IXGRP)
        outcome = "%d modified, %d added, %d deleted, %d renamed, %d with another mode" % ((share,) * 5)
        self.tell(step, outcome, time.monotonic() - started)
        return share

    def back_up_edited(self, share: int) -> str:
        """Only what was edited is sent, ``share`` files in each way; the id of the snapshot."""
        step = "third backup, after the edits"
        result, seconds = self.play(step, "backup")
        found = (result["added"], result["modified"], result["removed"])
        expected = (2 * share, share, 2 * share)  # a renamed file is gone from one place and new in another
        expect(found == expected, "added, modified, removed are %s, not %s" % (found, expected))
        expect(result["metadata"] >= share, "%d changes of metadata" % result["metadata"])
        expect(result["files_sent"] <= 3 * share, "%d files sent" % result["files_sent"])
        outcome = "%d files, %.1f kB sent; new snapshot: %d added, %d modified, %d removed" % (
            result["files_sent"],
            result["bytes_sent"] / 1e3,
            *found,
        )
        self.tell(step, outcome, seconds, result["duration"])
        return str(result["snapshot_id"])

    def verify(self, step: str) -> None:
        """Read every byte of the newest snapshot: it is whole."""
        result, seconds = self.play(step, "verify")
        expect(result["ok"] and result["hashed_files"] > 0 and result["depth"] == "full", "the verification was not a full one")
        self.tell(step, "%s files, %s read: all as they were" % (count(result["hashed_files"]), megabytes(result["hashed_bytes"])), seconds, result["duration"])

    def damage(self, snapshot: str) -> Path:
        """Change one byte of a file in the vault, as a dying disk would: size and times stay. The path that it was backed up from."""
        step = "damage one byte in the vault"
        tree = self.room / "vault" / HOST / POLICY / "snapshots" / snapshot / "tree"
        files = [path for path in self.editable() if path.isascii() and path.isprintable() and (tree / path.lstrip("/")).is_file()]
        path = Path(self.chance.choice(files))
        victim = tree / path.relative_to("/")
        before = os.lstat(victim)
        offset = before.st_size // 2
        with open(victim, "rb") as stream:
            stream.seek(offset)
            byte = bytes([stream.read(1)[0] ^ 0x01])
        command = ["dd", "of=%s" % victim, "bs=1", "seek=%d" % offset, "conv=notrunc", "status=none"]
        self.say(step)
        self.show("printf '\\x%02x' | %s" % (byte[0], shlex.join(command)))
        started = time.monotonic()
        os.chmod(victim, 0o600)  # an ordinary user's vault is read-only even for its owner
        subprocess.run(command, input=byte, check=True)
        os.chmod(victim, stat.S_IMODE(before.st_mode))
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.tell(step, "byte %s of %s" % (count(offset), path.relative_to(self.data)), time.monotonic() - started)
        return path

    def find_damage(self, path: Path) -> None:
        """Verification fails with exit code 7 and names the path."""
        step = "verify: the damage is found"
        result, seconds = self.play(step, "verify", expected_rc=7)
        expect(result["damaged"] == [{"path": str(path), "reason": "hash"}] and not result["missing"] and not result["extra"], str(result))
        self.tell(step, "failed with rc 7: %s" % path.relative_to(self.data), seconds, result["duration"])

    def heal(self, damaged: Path) -> None:
        """The next run that sends anything sends what was found damaged, too."""
        step = "next backup, one more file edited"
        edited = next(path for path in self.editable() if path != str(damaged))
        with open(edited, "ab") as stream:
            stream.write(b"\n# edited once more\n")
        result, seconds = self.play(step, "backup")
        expect(result["changed"] and result["modified"] == 1 and result["files_sent"] == 2, "%d files sent, not 2" % result["files_sent"])
        self.tell(step, "2 files sent: the edited one and the damaged one", seconds, result["duration"])

    def list(self, damaged: str) -> None:
        """The history, with what is known of each snapshot."""
        step = "list the snapshots"
        result, seconds = self.play(step, "list")
        snapshots = result["snapshots"]
        for item in snapshots:
            known = "damaged in %d path" % item["damaged"]["count"] if item["damaged"] else "verified" if item["verified"] else "not verified"
            print("      %s  %9s files  %s" % (item["id"], count(item["files"]), known))
        expect(len(snapshots) == 3 and bool(snapshots[0]["verified"]) and not snapshots[0]["damaged"], "the newest snapshot is not known to be good")
        expect([item["id"] for item in snapshots if item["damaged"]] == [damaged], "the damaged snapshot is not marked")
        self.tell(step, "3 snapshots: the newest verified, the damaged one marked", seconds, result["duration"])

    def restore(self) -> None:
        """Everything into another directory."""
        step = "restore to another directory"
        result, seconds = self.play(step, "restore")
        expect(result["verified"] and result["bytes_restored"] > 0, "the restore was not verified")
        self.tell(step, "%s files and links, %s" % (count(result["files_restored"]), megabytes(result["bytes_restored"])), seconds, result["duration"])

    def compare(self) -> None:
        """Ask tools that know nothing of this program whether the restored tree is the same."""
        restored = self.room / "restored" / self.data.relative_to("/")
        # Only root can give files to other owners and groups.
        kept = "-aHAXni" if os.geteuid() == 0 else "-rlptDHAXni"
        for step, command in (
            ("compare contents by diff", ["diff", "-r", "--no-dereference", "--", str(self.data), str(restored)]),
            ("compare metadata by rsync", ["rsync", kept, "--checksum", "--delete", "--", "%s/" % self.data, "%s/" % restored]),
        ):
            self.say(step, command)
            started = time.monotonic()
            done = subprocess.run(command, env={**self.environment, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
            differences = [line for line in (done.stdout + done.stderr).splitlines() if not _SAME_KIND.fullmatch(line)]
            expect(not differences and done.returncode in (0, 1), "\n".join(differences[:20]) or "%s ended with %d" % (command[0], done.returncode))
            self.tell(step, "no difference", time.monotonic() - started)

    def editable(self) -> List[str]:
        """Files with one name and some content that this user may change, rename and remove."""
        found = []
        for place, _directories, names in os.walk(self.data):
            if os.access(place, os.W_OK):
                for name in names:
                    path = os.path.join(place, name)
                    status = os.lstat(path)
                    if (
                        stat.S_ISREG(status.st_mode)
                        and status.st_nlink == 1
                        and status.st_size
                        and status.st_mode & stat.S_IWUSR
                        and len(os.fsencode(name)) < 240
                    ):
                        found.append(path)
        expect(len(found) >= 10, "%d files can be edited there, and 10 are needed; name a larger SOURCE" % len(found))
        return sorted(found)

    def run(self, source: Path, times: int) -> None:
        """All steps."""
        size = self.copy(source, times)
        self.back_up_unchanged(self.back_up(size))
        edited = self.back_up_edited(self.edit())
        self.verify("verify every byte")
        damaged = self.damage(edited)
        self.find_damage(damaged)
        self.heal(damaged)
        self.verify("verify again")
        self.list(edited)
        self.restore()
        self.compare()

    def table(self) -> str:
        """All rows; seconds in all, and of these the module's own."""
        lines = [("", "step", "what happened", "seconds", "module")]
        for number, row in enumerate(self.rows, 1):
            lines.append((str(number), row.step, clip(row.outcome), "%.1f" % row.seconds, "" if row.work is None else "%.1f" % row.work))
        total = sum(row.seconds for row in self.rows)
        lines.append(("", "", "", "%.1f" % total, "%.1f" % sum(row.work or 0 for row in self.rows)))
        widths = [max(len(line[column]) for line in lines) for column in range(5)]
        return "\n".join(
            ("%s  %s  %s  %s  %s" % (n.rjust(widths[0]), a.ljust(widths[1]), b.ljust(widths[2]), c.rjust(widths[3]), d.rjust(widths[4]))).rstrip()
            for n, a, b, c, d in lines
        )


def expect(is_so: bool, otherwise: str) -> None:
    """Raise ``NotShown``, saying what is the case instead."""
    if not is_so:
        raise NotShown(otherwise)


def measure(top: Path) -> Size:
    """Look at a tree, without following links."""
    files = size = disk = 0
    seen = set()
    for place, directories, names in os.walk(top):
        for name in [*names, *directories]:
            status = os.lstat(os.path.join(place, name))
            files += stat.S_ISREG(status.st_mode)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
                disk += status.st_blocks * 512
    return Size(files, size, disk)


def count(number: int) -> str:
    return format(number, ",")


def megabytes(number: float) -> str:
    return "%.1f MB" % (number / 1e6)


def clip(text: str, width: int = 80) -> str:
    """At most ``width`` characters; what is left out is the middle."""
    return text if len(text) <= width else "%s…%s" % (text[: width // 2 - 1], text[-width // 2 :])


def stop(text: str) -> NoReturn:
    """End before anything was begun."""
    print("demo: " + text, file=sys.stderr)
    sys.exit(2)


def choose_source() -> Path:
    """SOURCE, or the environment that this program runs in."""
    wish = os.environ.get("SOURCE")
    source = Path(wish).expanduser().resolve() if wish else Path(sys.prefix)
    if not source.is_dir():
        stop("SOURCE=%s is not a directory" % wish)
    return source


def free_memory() -> int:
    """Bytes that this machine, or the container that this runs in, has left."""
    with open("/proc/meminfo") as stream:
        left = [int(line.split()[1]) * 1024 for line in stream if line.startswith("MemAvailable:")]
    groups = Path("/sys/fs/cgroup")
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            left.append(int((groups / limit).read_text()) - int((groups / used).read_text()))
        except (OSError, ValueError):
            continue  # no such limit
    return min(left, default=0)


def make_room(need: int, source: Path) -> Path:
    """A new directory with ``need`` bytes free, outside ``source``: in TMPDIR, else in memory where there is plenty, else on the disk."""
    if os.environ.get("TMPDIR"):
        wishes = [os.environ["TMPDIR"]]
    else:
        is_plenty = free_memory() > 4 * need and not os.environ.get("KEEP")
        wishes = [*(["/dev/shm"] if is_plenty else []), "/tmp", "/var/tmp"]
    places = [place for place in map(Path, map(os.path.realpath, wishes)) if not place.is_relative_to(source)]
    if not places:
        stop("%s holds the temporary directory; name another with TMPDIR=" % source)
    fitting = [place for place in places if os.access(place, os.W_OK) and shutil.disk_usage(place).free > need]
    if not fitting:
        stop("%s free in %s are needed; name another place with TMPDIR=, or less with SOURCE=" % (megabytes(need), " or ".join(map(str, places))))
    return Path(tempfile.mkdtemp(prefix="openclaw-backup-demo-", dir=fitting[0]))


def remove(room: Path) -> None:
    """Remove everything, read-only directories too."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", "--", room], check=False)
    subprocess.run(["rm", "-rf", "--", room], check=False)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    source = choose_source()
    size = measure(source)
    times = 1 if os.environ.get("SOURCE") else max(1, math.ceil(FEWEST_FILES / max(1, size.files)))
    # The files, the vault and what is restored; edits and manifests are small.
    room = make_room(int(3.3 * times * size.on_disk) + 50_000_000, source)
    keep = bool(os.environ.get("KEEP"))
    print("ROOM=%s%s" % (room, "" if keep else "    everything happens there; it is removed at the end, KEEP=1 keeps it"))
    if times > 1:
        print("%s holds %s files: it is copied %d times, so that there are %s or more." % (source, count(size.files), times, count(FEWEST_FILES)))
    try:
        demo = Demo(room)
        demo.run(source, times)
    except NotShown as error:
        keep = True
        print("\nNOT SHOWN: %s\n\nWhat was done so far is in %s." % (error, room), flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not keep:
            remove(room)
    print("\n%s\n\n%s" % (demo.table(), NEXT.format(root=ROOT)), end="")
    if keep:
        print("\nEverything is still in %s; build/openclaw-backup list %s/policy.json --state %s/state" % (room, room, room))
    return 0


NEXT = """\
seconds: from the start of ansible-playbook to its end; module: the work itself.

What to type next, on the documentation as an example:
  make zipapp     # the command line in one file; build/openclaw-backup --help explains it
  echo '{{"name": "docs", "sources": ["{root}/docs"], "target": "{root}/build/vault"}}' >build/docs.json
  export OPENCLAW_BACKUP_STATE="{root}/build/state"
  build/openclaw-backup run build/docs.json
  build/openclaw-backup list build/docs.json
  build/openclaw-backup restore build/docs.json --dest build/restored
The same by Ansible:
  .venv/bin/ansible-playbook -i inventories/local playbooks/backup.yml -e 'openclaw_backup_source="{root}/docs" openclaw_backup_vault="{root}/build/vault"'
README.md goes on from there.
"""


if __name__ == "__main__":
    sys.exit(main())
