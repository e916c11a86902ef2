# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line on real trees: every verb, every exit code, and what a script and a person get to read."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import printable
from ansible_collections.openclaw.backup.plugins.module_utils.observe.progress import format_bytes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "ansible_collections.openclaw.backup.plugins.module_utils.agent"]
PAGE = (ROOT / "docs" / "cli.md").read_text()
ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{8}")
# The directories above the source are root's, and only root can make more of them.
ELSEWHERE = 0 if os.geteuid() == 0 else 3
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


def obey_modes() -> None:
    """In a child: give up root's privilege to read everything."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                os._exit(99)


class Host:
    """A source, a vault and a policy in one directory, and the program."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.source = home / "source"
        self.vault = home / "vault"
        self.state = home / "state"
        self.policy = home / "web.json"
        (self.source / "docs").mkdir(parents=True)
        for name in ("one", "two", "three"):
            (self.source / "docs" / name).write_text(name + "\n")
        (self.source / os.fsdecode(b"odd \xff\n\x1b[2J")).write_text("odd")
        (self.source / "link").symlink_to("docs/one")
        self.write_policy()

    def write_policy(self, **keys: Any) -> None:
        self.policy.write_text(json.dumps({"name": "web", "host": "web1", "sources": [str(self.source)], "target": str(self.vault), **keys}))

    def call(self, *words: str, rc: int = 0, program: Optional[List[str]] = None, **more: Any) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "OPENCLAW_BACKUP_STATE": str(self.state), "COLUMNS": "80"}
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **more}
        done = subprocess.run([*(program or PROGRAM), *words], cwd=self.home, text=True, check=False, timeout=120, **more)
        assert done.returncode == rc, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *words: str, rc: int = 0, **more: Any) -> Dict[str, Any]:
        done = self.call(*words, "--json", rc=rc, **more)
        assert done.stdout.count("\n") == 1 and done.stderr == ""
        answer: Dict[str, Any] = json.loads(done.stdout)
        assert (answer["rc"], answer["failed"]) == (rc, rc not in (0, 3))
        assert ("msg" in answer, "error" in answer) == (answer["failed"], answer["failed"])
        return answer

    def refused(self, *words: str, rc: int) -> Dict[str, Any]:
        answer = self.json(*words, rc=rc)
        assert set(answer["error"]) == {"kind", "field", "found", "allowed", "next"}
        error: Dict[str, Any] = answer["error"]
        return error

    def snapshot(self, snapshot_id: str) -> Path:
        """The files of the source as a snapshot keeps them."""
        return self.vault / "web1" / "web" / "snapshots" / snapshot_id / "tree" / self.source.relative_to("/")

    def damage(self, snapshot_id: str) -> Path:
        """Change a byte of a file in the vault, behind its back."""
        path = self.snapshot(snapshot_id) / "docs" / "two"
        before = path.stat()
        path.chmod(0o600)
        path.write_text("twO\n")
        path.chmod(before.st_mode & 0o7777)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with two snapshots, for tests that only look."""
    return with_history(Host(tmp_path_factory.mktemp("archive")))


@pytest.fixture
def history(host: Host) -> Host:
    """A host with two snapshots."""
    return with_history(host)


def with_history(host: Host) -> Host:
    host.call("run", "web.json", "--quiet")
    (host.source / "docs" / "one").write_text("one, changed\n")
    (host.source / "docs" / "three").unlink()
    (host.source / "docs" / "four").write_text("four\n")
    (host.source / "docs" / "two").chmod(0o640)
    host.call("run", "web.json", "--quiet")
    return host


def remove(tree: Path) -> None:
    """Remove a part of the vault, whose directories forbid writing where its storage is portable."""
    subprocess.run(["chmod", "-R", "u+w", tree], check=True)
    shutil.rmtree(tree)


def ids(host: Host) -> List[str]:
    return [item["id"] for item in host.json("list", "web.json")["snapshots"]]


# ---- verbs ---------------------------------------------------------------------------------------------------------


def test_run_predicts_makes_and_then_finds_nothing_to_do(host: Host) -> None:
    predicted = host.json("run", "web.json", "--dry-run")
    assert (predicted["changed"], predicted["snapshot_id"], predicted["files_sent"]) == (True, None, 4)
    said = host.call("run", "web.json", "--dry-run")
    assert said.stdout.startswith("would add a snapshot: ") and "  added     %s/docs/one\n" % host.source in said.stdout
    assert not host.vault.exists() and not host.state.exists()

    done = host.call("run", "web.json")
    assert re.match(r"snapshot %s: \d+ entries, \d+ B \(\d+\.\d s\)\n  \d+ added, 0 modified," % ID.pattern, done.stdout)
    assert done.stderr == "" and (host.snapshot(ids(host)[0]) / "docs" / "one").read_text() == "one\n"

    assert re.match(r"unchanged: \d+ entries as in snapshot %s \(" % ids(host)[0], host.call("run", "web.json", "--dry-run").stdout)
    again = host.json("run", "web.json")
    assert (again["changed"], again["snapshot_id"]) == (False, ids(host)[0])


def test_what_a_guard_refuses_can_be_looked_at(host: Host) -> None:
    for number in range(40):
        (host.source / "docs" / ("file%02d" % number)).write_text("file %d" % number)
    host.call("run", "web.json")
    for number in range(30):
        (host.source / "docs" / ("file%02d" % number)).unlink()
    refused = host.call("run", "web.json", rc=4).stderr
    looked = host.call("run", "web.json", "--dry-run", rc=4)
    assert "  removed   %s/docs/file00\n" % host.source in looked.stdout and looked.stderr == refused
    told = host.json("run", "web.json", "--dry-run", rc=4)
    assert told["removed"] == 30 and told["error"]["kind"] == "guard" and told["sample"][0]["change"] == "removed"
    accept = re.findall("--accept ([0-9a-f]{8})", refused)[0]
    accepted = host.json("run", "web.json", "--accept", accept, rc=3)
    assert accepted["removed"] == 30 and "is held: release it if that was meant" in accepted["warnings"][0]


def test_prune_explains_itself_and_a_hold_is_above_it(history: Host) -> None:
    new, old = ids(history)
    history.write_policy(retention={"keep_last": 1, "protect": "0s"})
    said = history.call("prune", "web.json", "--dry-run").stdout.splitlines()
    assert said[0].split() == ["SNAPSHOT", "CREATED", "(UTC)", "WHY"]
    assert re.fullmatch(r"%s  [-0-9]+ [:0-9]+  keep    newest snapshot, last snapshot" % re.escape(new), said[1])
    assert re.fullmatch(r"%s  [-0-9]+ [:0-9]+  remove  no rule keeps it" % re.escape(old), said[2])
    assert re.fullmatch(r"would remove 1 snapshot, 1 kept, [0-9.]+ Ki?B freed", said[3]) and not said[4:] and ids(history) == [new, old]
    assert history.call("hold", "web.json", old, "--reason", "for the auditors").stdout == "snapshot %s is held: for the auditors\n" % old
    assert history.call("hold", "web.json", old, "--reason", "for the auditors").stdout == "snapshot %s is already held: for the auditors\n" % old
    assert "held" in history.call("list", "web.json").stdout and "for the auditors" in history.call("show", "web.json", old).stdout
    assert history.json("prune", "web.json")["removed"] == []
    assert history.call("release", "web.json", old).stdout == "snapshot %s is not held\n" % old
    assert history.call("release", "web.json", old).stdout == "snapshot %s was not held\n" % old
    predicted = history.json("prune", "web.json", "--dry-run")["bytes_freed"]
    done = history.call("prune", "web.json").stdout.splitlines()[-1]
    assert done == "removed 1 snapshot, 1 kept, %s freed" % format_bytes(predicted) and ids(history) == [new]
    assert history.json("audit", "web.json")["ok"]
    history.write_policy()
    assert history.refused("prune", "web.json", rc=2)["field"] == "retention"
    assert history.refused("prune", "web.json", "--simulate", "90d", rc=2)["field"] == "retention"


def test_tags_name_snapshots_and_find_them(history: Host) -> None:
    new, old = ids(history)
    assert history.call("tag", "web.json", old, "--add", "good", "--add", "old").stdout == "snapshot %s bears the tags good, old\n" % old
    assert history.call("tag", "web.json", old, "--add", "good").stdout == "snapshot %s already bears the tags good, old\n" % old
    assert history.json("tag", "web.json", old, "--remove", "old") == {"changed": True, "snapshot_id": old, "tags": ["good"], "rc": 0, "failed": False}
    assert re.match("unchanged: .* as in snapshot %s, to be tagged best " % new, history.call("run", "web.json", "--tag", "best", "--dry-run").stdout)
    assert re.match("unchanged: .* as in snapshot %s, now tagged best " % new, history.call("run", "web.json", "--tag", "best").stdout)
    assert [line.endswith(", tag best") for line in history.call("list", "web.json").stdout.splitlines()] == [False, True, False, False]
    assert "\ntags       good\n" in history.call("show", "web.json", old).stdout

    def found(*words: str) -> List[str]:
        return [item["id"] for item in history.json("list", "web.json", *words)["snapshots"]]

    assert (found("--tag", "good"), found("--tag", "good", "--tag", "best", "--sizes"), found("--tag", "none")) == ([old], [new, old], [])
    assert history.call("list", "web.json", "--tag", "none").stdout.endswith(" in %s with tag none\n" % history.vault)
    for words in (("--add", "a b"), (), ("--add", "a", "--remove", "a")):
        assert history.refused("tag", "web.json", old, *words, rc=2)["field"] == "--add"
    assert history.refused("run", "web.json", "--tag", "a b", rc=2)["field"] == "--tag"
    history.write_policy(retention={"keep_tags": ["good"], "protect": "0s"})
    assert "has tag good" in history.call("prune", "web.json", "--dry-run").stdout


def test_a_simulation_shows_what_prunes_to_come_would_leave_and_writes_nothing(history: Host) -> None:
    new, old = ids(history)
    history.write_policy(retention={"keep_daily": 3, "protect": "0s"})
    history.call("hold", "web.json", old)
    before = {path: path.lstat().st_mtime_ns for path in history.home.rglob("*")}
    said = history.call("prune", "web.json", "--simulate", "3d", "--every", "6h").stdout.splitlines()
    assert said[:2] == ["with a snapshot every 6h and a prune a day:", "UNTIL (UTC)          MADE  REMOVED  KEPT"]
    assert [line.split()[2] for line in said[2:5]] == ["4"] * 3 and said[5] == "what is there then:"
    assert [line.split()[2] for line in said[7:]] == ["to"] * 3 + [old] and "held: held by hand" in said[-1]
    assert {path: path.lstat().st_mtime_ns for path in history.home.rglob("*")} == before and ids(history) == [new, old]
    lately = history.json("prune", "web.json", "--simulate", "90d")
    assert lately["every"] == 60 and len(lately["days"]) == 90 and lately["days"][0]["made"] == 1440 and not lately["changed"]
    assert len(history.call("prune", "web.json", "--simulate", "90d").stdout.splitlines()) < 30, "weeks, where days would be too many"
    for words, field in (
        (("--simulate", "90"), "--simulate"),
        (("--simulate", "0s"), "--simulate"),
        (("--simulate", "-1d"), "--simulate"),
        (("--simulate", "1d", "--every", "0s"), "--every"),
        (("--simulate", "5000w", "--every", "1s"), "--every"),
        (("--every", "1h"), "--every"),
    ):
        assert history.refused("prune", "web.json", *words, rc=2)["field"] == field


def test_a_simulation_of_a_single_snapshot_asks_how_often(history: Host) -> None:
    history.write_policy(retention={"keep_last": 1, "protect": "0s"})
    history.call("prune", "web.json")
    assert history.refused("prune", "web.json", "--simulate", "1d", rc=2)["field"] == "--every"
    assert history.json("prune", "web.json", "--simulate", "1d", "--every", "12h")["days"][0]["made"] == 2


def test_a_vault_that_is_not_mounted_does_not_look_empty(history: Host) -> None:
    history.vault.rename(history.home / "elsewhere")
    for words in (("list",), ("show",), ("ls",), ("find", "x"), ("diff", "2026"), ("verify",), ("restore", "--dest", "copy"), ("adopt",)):
        assert history.refused(words[0], "web.json", *words[1:], rc=6)["kind"] == "history_lost", words
    assert history.json("list", "web.json", "--host", "nobody")["snapshots"] == []


def test_two_names_never_look_the_same(host: Host) -> None:
    names = [b"x\ny", b"x\\ny", b"z\xff", b"z\\xff", b"\xe2\x80\xae", b"\\u202e"]
    for name in names:
        (host.source / os.fsdecode(name)).write_text("x")
    host.call("run", "web.json")
    shown = [item["path"] for item in host.json("ls", "web.json", str(host.source))["entries"]]
    assert len(shown) == len(set(shown))
    for name in names:
        wanted = "%s/%s" % (host.source, printable(name))
        assert wanted in shown
        # A shell takes it back.
        done = subprocess.run(["bash", "-c", "printf %%s $'%s'" % printable(name)], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout == name


def test_status_knows_what_it_cannot_know_and_what_goes_on(history: Host) -> None:
    lock = history.state / "web1" / "web" / "lock"
    with open(lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert history.json("status", "web.json")["running"] and "a run is under way" in history.call("status", "web.json").stdout
    assert not history.json("status", "web.json")["running"]
    old = ids(history)[1]
    history.damage(old)
    history.call("verify", "web.json", "--snapshot", old, rc=7)
    assert history.json("status", "web.json", rc=3)["problems"] == ["snapshot %s is damaged" % old]
    (history.vault / "format.json").write_text("not JSON")
    blind = history.json("status", "web.json", rc=3)
    (problem,) = blind["problems"]
    assert "format.json is damaged" in problem
    assert blind["snapshots"] is None and blind["protected_until"], "what nobody could look at was taken for gone"
    shown = history.call("status", "web.json", rc=3).stdout
    assert re.search(r"protected +as of .* as far as this host knows\n", shown) and re.search(r"snapshots +unknown\n", shown)


def test_a_restore_into_a_source_warns(history: Host) -> None:
    inside = history.source / "copy"
    assert history.json("restore", "web.json", "--dest", str(inside), rc=3)["warnings"] == [
        "the copy lies inside the source %s, and the next backup takes it too" % history.source
    ]
    file = history.home / "file"
    file.write_text("x")
    assert "is not a directory" in history.json("restore", "web.json", "--dest", str(file), rc=2)["msg"]


def test_a_quiet_run_that_goes_well_says_nothing(host: Host) -> None:
    done = host.call("run", "web.json", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_what_a_run_warns_of_is_said_in_every_form(host: Host) -> None:
    host.write_policy(hooks={"after": [{"command": ["/bin/false"], "essential": False}]})
    (warning,) = host.json("run", "web.json", rc=3)["warnings"]
    assert "/bin/false" in warning
    for more in ((), ("--quiet",)):
        assert host.call("run", "web.json", *more, rc=3).stderr == "warning: %s\n" % warning
    assert "the last run warned: " + warning in host.call("status", "web.json", rc=3).stdout


def test_list_shows_the_newest_first(archive: Host) -> None:
    lines = archive.call("list", "web.json").stdout.splitlines()
    assert lines[0].split() == ["SNAPSHOT", "CREATED", "(UTC)", "FILES", "SIZE", "NEW", "STATE"]
    assert [line.split()[0] for line in lines[1:3]] == ids(archive) == sorted(ids(archive), reverse=True)
    assert lines[1].endswith("not verified") and lines[3] == "2 snapshots of host web1, policy web in %s" % archive.vault
    assert archive.call("list", "web.json", "--host", "web9").stdout == "no snapshots of host web9, policy web in %s\n" % archive.vault


def test_list_shows_what_each_snapshot_takes_up(archive: Host) -> None:
    said = archive.call("list", "web.json", "--sizes").stdout.splitlines()
    assert said[0].split() == ["SNAPSHOT", "CREATED", "(UTC)", "FILES", "SIZE", "NEW", "OWN", "SHARED", "ADDED", "STATE"]
    for line, item in zip(said[1:], archive.json("list", "web.json", "--sizes")["snapshots"]):
        sizes = [item["bytes_own"], item["bytes_shared"], item["bytes_added"]]
        du = subprocess.run(
            ["du", "-s", "--block-size=1", archive.vault / "web1" / "web" / "snapshots" / item["id"]], capture_output=True, check=True, text=True
        )
        assert sum(sizes[:2]) == int(du.stdout.split()[0])
        assert re.search("  +".join(map(format_bytes, sizes)) + "  not verified$", line)
    assert archive.json("list", "web.json")["snapshots"][0]["bytes_own"] is None


def test_show_tells_where_a_snapshot_came_from(history: Host) -> None:
    history.write_policy(exclude=["*.log"], exclude_caches=True)
    (history.source / "new").touch()
    history.call("run", "web.json")
    text = history.call("show", "web.json").stdout
    assert "snapshot   %s (number 3 of its history)\n" % ids(history)[0] in text
    assert "parent     %s\n" % ids(history)[1] in text and "selection  exclude *.log; exclude_caches true\n" in text
    shown = history.json("show", "web.json", ids(history)[2])
    assert (shown["snapshot"]["sequence"], shown["sources"], shown["receipt"]["received_files"]) == (1, [str(history.source)], 4)


def test_ls_takes_snapshot_and_path_in_any_order_and_leaves_out_either(archive: Host) -> None:
    new, old = ids(archive)
    docs = str(archive.source / "docs")

    def names(*words: str) -> List[str]:
        return [os.path.basename(line.split("  ")[-1]) for line in archive.call("ls", "web.json", *words).stdout.splitlines()]

    assert names() == ["source"]
    assert names(docs) == names(docs, new) == names("--recursive", docs) == ["four", "one", "two"]
    assert names(old, docs) == names(docs, old) == ["one", "three", "two"]
    assert names(docs + "/two") == ["two"]
    assert "odd \\xff\\n\\x1b[2J" in names(str(archive.source))
    assert archive.refused("ls", "web.json", "/a", "/b", rc=2)["allowed"] == "one snapshot, and one path that begins with '/'"
    assert archive.refused("ls", "web.json", "/nowhere", rc=2)["kind"] == "not_found"


def test_ls_shows_what_ls_shows(history: Host) -> None:
    (history.source / "docs" / "two").chmod(0o4751)
    os.utime(history.source / "docs" / "two", (0, 951786245))
    history.call("run", "web.json")
    line = next(line for line in history.call("ls", "web.json", str(history.source), "--recursive").stdout.splitlines() if line.endswith("/two"))
    assert line.split() == ["-rwsr-x--x", str(os.getuid()), str(os.getgid()), "4", "2000-02-29", "01:04:05", str(history.source / "docs/two")]
    assert "lrwxrwxrwx" in (link := history.call("ls", "web.json", str(history.source / "link")).stdout) and link.endswith("/link -> docs/one\n")


def test_find_shows_the_versions_of_a_path_and_where_they_are(archive: Host) -> None:
    new, old = ids(archive)
    docs = archive.source / "docs"
    lines = archive.call("find", "web.json", "t*", "--path", "source/docs").stdout.splitlines()
    assert [re.sub("[-0-9]{10} [:0-9]{8}", "T", line) for line in lines] == [
        f"{docs}/three",
        f"  T  6 B  {old}%s  1 snapshot" % (" " * len(f" to {new}")),
        f"{docs}/two",
        f"  T  4 B  {old} to {new}  2 snapshots, the newest has it",
        f"2 versions of 2 paths in 2 snapshots of host web1, policy web in {archive.vault}",
    ]
    assert archive.call("find", "web.json", "*", "--limit", "1").stdout.splitlines()[2] == "… and more (--limit)"
    nothing = archive.call("find", "web.json", "nothing")
    assert nothing.stdout == f"nothing found: no path in 2 snapshots of host web1, policy web in {archive.vault} matches nothing\n"
    for words, field in ((("",), "PATTERN"), (("docs/one",), "PATTERN"), (("x", "--limit", "0"), "--limit"), (("x", "--limit", "many"), "--limit")):
        assert archive.refused("find", "web.json", *words, rc=2)["field"] == field


def test_diff_says_what_happened_to_each_path(archive: Host) -> None:
    new, old = ids(archive)
    docs = archive.source / "docs"
    lines = archive.call("diff", "web.json", old).stdout.splitlines()
    assert lines == [
        f"+ {docs}/four",
        f"M {docs}/one (4 B -> 13 B)",
        f"- {docs}/three",
        f"U {docs}/two",
        f"{old} -> {new}: 1 added, 1 removed, 1 modified (M), 1 only in metadata (U); 18 B came, 10 B went",
    ]
    back = archive.json("diff", "web.json", new, old)
    assert {item["change"] for item in back["changes"]} == {"added", "modified", "metadata", "removed"}
    assert (back["bytes_added"], back["bytes_removed"]) == (10, 18)


def test_diff_counts_a_file_of_two_names_once(host: Host) -> None:
    host.call("run", "web.json")
    (host.source / "first").write_text("12345")
    os.link(host.source / "first", host.source / "second")
    host.call("run", "web.json")
    found = host.json("diff", "web.json", ids(host)[1])
    assert (found["added"], found["bytes_added"], found["bytes_removed"]) == (2, 5, 0)


def test_restore_elsewhere_is_a_full_copy(archive: Host) -> None:
    archive.call("restore", "web.json", "--dest", "back", rc=ELSEWHERE)  # relative to where one stands
    assert subprocess.run(["diff", "-r", archive.source, archive.home / "back" / archive.source.relative_to("/")], check=False).returncode == 0


def test_restore_in_place_moves_what_differs_keeps_what_it_replaces_and_deletes_when_told(history: Host) -> None:
    _new, old = ids(history)
    docs = history.source / "docs"
    words = ["restore", "web.json", "--snapshot", old, "--delete", "--undo", str(history.home / "undo")]
    preview = history.call(*words, "--dry-run").stdout
    assert preview.startswith("would restore snapshot %s to its own place: 3 files, 14 B" % old)
    assert f"  replaced  {docs}/one\n" in preview and f"  removed   {docs}/four\n" in preview
    assert (docs / "one").read_text() == "one, changed\n"

    done = history.json(*words)
    assert (done["changed"], done["verified"], done["files_removed"], done["dest"]) == (True, True, 1, "/")
    assert sorted(os.listdir(docs)) == ["one", "three", "two"] and (docs / "one").read_text() == "one\n"
    assert (history.home / "undo" / docs.relative_to("/") / "one").read_text() == "one, changed\n"
    assert history.call(*words).stdout == "nothing to do: its own place as in snapshot %s\n" % old


def test_restore_of_some_paths_leaves_the_others(history: Host) -> None:
    docs = history.source / "docs"
    for name in ("one", "two"):
        (docs / name).write_text("spoiled")
    history.call("restore", "web.json", "--path", str(docs / "one"), "--path", "source/docs/four", "--no-verify", "--quiet")
    assert ((docs / "one").read_text(), (docs / "two").read_text()) == ("one, changed\n", "spoiled")


def test_verify_looks_reads_and_reads_a_share(history: Host) -> None:
    text = history.call("verify", "web.json").stdout
    assert re.match(r"snapshot %s: \d+ paths checked, 4 files read, 25 B \(" % ids(history)[0], text) and text.endswith("  no errors were found\n")
    assert history.call("list", "web.json").stdout.splitlines()[1].split("  ")[-1].startswith("verified 20")
    assert history.json("verify", "web.json", "--depth", "quick")["hashed_files"] == 0
    shares = [history.json("verify", "web.json", "--slice", f"{n}/3")["hashed_files"] for n in (1, 2, 3)]
    assert sum(shares) == 4
    assert history.json("verify", "web.json", "--source", "--slice", "1/1")["snapshot_id"] is None
    assert [history.json("verify", "web.json", "--rolling", "2")["slice"] for _turn in range(2)] == ["1/2", "2/2"]
    assert re.search(r"\nread back  every byte since 20\d\d-\S+ \S+ UTC, in 2 shares\n", history.call("status", "web.json").stdout)


def test_status_says_since_when_and_what_is_in_the_way(history: Host) -> None:
    said = history.call("status", "web.json").stdout
    assert "newest     %s, 4 files, 25 B, not verified\n" % ids(history)[0] in said and said.endswith("no problems\n")
    assert history.json("status", "web.json", "--state", str(history.home / "other"), rc=3)["problems"] == [
        "this host has no baseline: restore or adopt before the next backup"
    ]
    assert history.json("status", "web.json")["rpo"] is None, "nobody asked to be judged by what a schedule would make possible"
    history.write_policy(objectives={"rpo": "1s"})
    assert history.json("run", "web.json")["warnings"] == []
    time.sleep(1.1)
    (problem,) = history.json("status", "web.json", rc=3)["problems"]
    assert problem.endswith(" old, the objective (rpo) is 1s")
    history.write_policy(objectives={"rpo": "0s"})
    assert history.json("status", "web.json")["rpo"] is None
    history.write_policy(host="web2")
    assert history.json("status", "web.json", "--host", "web1")["baseline"] == ids_of(history, "web1")[0]


def test_a_vault_judges_a_host_without_a_baseline_and_by_its_heartbeats(history: Host) -> None:
    there = ("status", "web.json", "--on-vault", "--state", str(history.home / "keeper"))
    history.write_policy(objectives={"rpo": "1s"}, heartbeat="1h")
    time.sleep(1.1)
    assert history.json(*there)["problems"] == []
    history.write_policy(objectives={"rpo": "1s"}, heartbeat="0s")
    assert history.json(*there)["problems"] == [], "without heartbeats nobody knows"
    history.write_policy(objectives={"rpo": "1s"}, heartbeat="1s")
    time.sleep(1.1)
    (problem,) = history.json(*there, rc=3)["problems"]
    assert problem.endswith(" old, the objective (rpo) is 1s, beside a heartbeat every 1s")


def ids_of(host: Host, name: str) -> List[str]:
    return [item["id"] for item in host.json("list", "web.json", "--host", name)["snapshots"]]


def test_adopt_lets_a_host_without_memory_go_on(history: Host) -> None:
    shutil.rmtree(history.state)
    newest = ids(history)[0]
    assert history.call("adopt", "web.json", "--dry-run").stdout == "this host would go on from snapshot %s (it had no baseline)\n" % newest
    assert not history.state.exists()
    done = history.json("adopt", "web.json")
    assert (done["changed"], done["snapshot_id"], done["previous"]) == (True, newest, None)
    assert history.call("adopt", "web.json").stdout == "nothing to do: this host goes on from snapshot %s already\n" % newest
    done = history.json("run", "web.json")
    assert done["changed"] is False, done


def test_audit_finds_the_line_that_was_changed_and_the_log_that_is_gone(history: Host) -> None:
    text = history.call("audit", "web.json").stdout
    assert text.count(" records, whole\n") == 2 and len(re.findall("head [0-9a-f]{64}", text)) == 2
    log = history.vault / "web1" / "web" / "audit.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1].replace("commit", "comnit") + "".join(lines[2:]))
    error = history.refused("audit", "web.json", rc=7)
    assert (error["kind"], error["field"], error["found"]) == ("audit", "vault", 2)
    assert "BROKEN after 1 good record\n" in history.call("audit", "web.json", rc=7).stdout
    log.unlink()
    assert "gone" in history.json("audit", "web.json", rc=7)["logs"][1]["reason"]
    history.vault.rename(history.vault.with_name("unmounted"))
    logs = history.json("audit", "web.json", rc=7)["logs"]
    assert logs[0]["ok"] and "is the vault mounted" in logs[1]["reason"]


def test_a_host_that_nobody_ever_had_is_refused_and_one_s_own_before_the_first_run_is_not(host: Host) -> None:
    host.write_policy(retention={"keep_last": 1})
    assert [log["records"] for log in host.json("audit", "web.json")["logs"]] == [0, 0]
    assert host.json("prune", "web.json")["removed"] == []
    for verb in ("audit", "prune"):
        assert host.refused(verb, "web.json", "--host", "nosuch", rc=4)["kind"] == "no_snapshot"


def test_what_is_wrong_with_a_tag_a_state_directory_or_a_depth_is_told_by_its_own_name(archive: Host) -> None:
    assert archive.refused("run", "web.json", "--tag", "a/b", rc=2)["field"] == "--tag"
    assert archive.refused("list", "web.json", "--tag", "a b", rc=2)["field"] == "--tag"
    for state in ("web.json", "web.json/state"):
        error = archive.refused("status", "web.json", "--state", state, rc=2)
        assert (error["field"], error["found"]) == ("--state", str(archive.home / state))
    assert archive.refused("verify", "web.json", "--slice", "1/1", "--depth", "quick", rc=2)["field"] == "depth"


def test_an_undo_directory_that_cannot_be_one_is_refused_before_anything_is_moved(history: Host) -> None:
    (history.source / "docs" / "one").write_text("spoiled")
    (history.home / "taken").write_text("a file")
    for undo in ("taken", "/proc/undo"):
        assert history.refused("restore", "web.json", "--undo", undo, rc=2)["field"] == "undo"
        assert (history.source / "docs" / "one").read_text() == "spoiled"


def test_a_tag_is_no_name_of_a_snapshot_and_its_bearers_are_named(history: Host) -> None:
    new, old = ids(history)
    for snapshot in (new, old):
        history.call("tag", "web.json", snapshot, "--add", "good")
    assert history.refused("show", "web.json", "good", rc=2)["next"] == "it is a tag; give the id of a snapshot that bears it: %s, %s" % (new, old)


def test_a_snapshot_that_heals_one_says_so(history: Host) -> None:
    history.damage(ids(history)[0])
    history.call("verify", "web.json", rc=7)
    assert "  sent again 1 path that the snapshot before holds damaged\n" in history.call("run", "web.json").stdout


def test_another_hosts_history_is_read_and_this_hosts_is_left_alone(history: Host) -> None:
    newest = ids(history)[0]
    history.write_policy(host="web2")
    assert ids_of(history, "web1")[0] == newest and ids(history) == []
    assert history.json("verify", "web.json", "--host", "web1")["ok"]
    (history.source / "docs" / "one").write_text("spoiled")
    history.call("restore", "web.json", "--host", "web1")
    assert (history.source / "docs" / "one").read_text() == "one, changed\n"
    # A restore of web1 in place gives web2 no baseline, and web1's none either.
    assert history.json("run", "web.json")["receipt"]["sequence"] == 1
    assert history.refused("list", "web.json", "--host", "../web1", rc=2)["field"] == "host"


@pytest.mark.parametrize("verb", ["run", "list", "show", "ls", "find", "diff", "restore", "verify", "status", "adopt", "audit"])
def test_a_result_has_the_keys_that_the_page_lists(archive: Host, verb: str) -> None:
    section = re.search(r"^## %s\n(.*?)^## " % verb, PAGE, re.M | re.S)
    assert section is not None
    listed = re.findall("`([a-z_]+)`", section.group(1).rpartition("Keys: ")[2].split(". ")[0])
    words = [verb, "web.json", *({"diff": ["latest"], "find": ["*"], "restore": ["--dry-run"]}.get(verb, []))]
    assert set(archive.json(*words)) == {*listed, "rc", "failed"}


@pytest.mark.parametrize("verb", ["run", "list", "show", "ls", "find", "diff", "restore", "verify", "status", "adopt", "audit"])
def test_help_needs_no_policy(host: Host, verb: str) -> None:
    done = host.call(verb, "--help")
    assert done.stdout.startswith("usage: openclaw-backup %s POLICY" % verb) and "\nexamples:\n" in done.stdout and done.stderr == ""


# ---- exit codes ----------------------------------------------------------------------------------------------------


def test_1_the_state_cannot_be_written(host: Host) -> None:
    assert host.refused("run", "web.json", "--state", "/proc/state", rc=1)["kind"] == "state"
    assert not host.vault.exists()


@pytest.mark.parametrize(
    "words, field",
    [
        (["run", "nowhere.json"], "policy"),
        (["run", "web.json", "--sate", "x"], "--sate"),
        (["verify", "web.json", "--slice", "4/3"], "slice"),
        (["verify", "web.json", "--rolling", "0"], "rolling"),
        (["verify", "web.json", "--rolling", "7", "--slice", "1/7"], "--slice"),
        (["verify", "web.json", "--rolling", "7", "--source"], "--source"),
        (["verify", "web.json", "--depth", "deep"], "depth"),
        (["verify", "web.json", "--source", "--snapshot", "latest"], "--snapshot"),
        (["verify", "web.json", "--source", "--host", "web2"], "--host"),
        (["verify", "web.json", "--source"], "source"),
    ],
)
def test_2_the_command_line_is_wrong(host: Host, words: List[str], field: str) -> None:
    assert host.refused(*words, rc=2)["field"] == field
    assert not host.vault.exists() and not host.state.exists()


def test_2_the_policy_is_wrong(host: Host) -> None:
    host.write_policy(sorces=[])
    error = host.refused("run", "web.json", rc=2)
    assert (error["kind"], error["field"]) == ("policy", "sorces")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to mistrust others")
def test_2_root_does_not_trust_a_policy_that_others_can_write(host: Host) -> None:
    host.policy.chmod(0o666)
    assert host.refused("run", "web.json", rc=2)["kind"] == "policy_permissions"
    assert not host.vault.exists()


def test_3_a_file_that_cannot_be_read_is_said_and_its_old_content_stays(history: Host) -> None:
    (history.source / "docs" / "one").write_text("not to be read\n")
    (history.source / "docs" / "one").chmod(0)
    (history.source / "docs" / "five").write_text("five\n")
    done = history.call("run", "web.json", rc=3, preexec_fn=obey_modes)
    assert done.stderr.startswith("warning: 1 path could not be read, the first is %s/docs/one (Permission denied)" % history.source)
    assert (history.snapshot(ids(history)[0]) / "docs" / "five").read_text() == "five\n"
    again = history.json("run", "web.json", rc=3, preexec_fn=obey_modes)
    assert (again["failed"], again["stale"], len(again["warnings"])) == (False, 1, 1)


def test_3_a_vault_that_went_back_is_said(history: Host) -> None:
    newest = ids(history)[0]
    remove(history.vault / "web1" / "web" / "snapshots" / newest)
    (history.source / "docs" / "five").write_text("five\n")
    assert "warning: the target went back from %s" % newest in history.call("run", "web.json", rc=3).stderr


def test_4_a_host_without_memory_does_not_back_up_over_a_history(history: Host) -> None:
    shutil.rmtree(history.state)
    (history.source / "docs" / "one").write_text("an empty disk's idea of it\n")
    before = ids(history)
    error = history.refused("run", "web.json", rc=4)
    assert (error["kind"], error["found"]) == ("restore_first", before[0])
    said = history.call("run", "web.json", rc=4).stderr
    assert "`openclaw-backup restore web.json`" in said and "POLICY" not in said
    assert ids(history) == before
    # One way out, and the other.
    assert history.json("run", "web.json", "--adopt")["changed"] is True
    shutil.rmtree(history.state)
    history.call("restore", "web.json")
    done = history.json("run", "web.json")
    assert done["changed"] is False, done


def test_4_a_guard_says_how_it_is_overridden(history: Host) -> None:
    shutil.rmtree(history.source)
    history.source.mkdir()
    assert history.refused("run", "web.json", rc=4)["kind"] == "guard"
    digits = re.search("--accept ([0-9a-f]{8})", history.call("run", "web.json", rc=4).stderr)
    assert digits is not None
    assert history.refused("run", "web.json", "--accept", "00000000", rc=4)["field"] == "accept"
    assert history.json("run", "web.json", "--accept", digits.group(1))["removed"] > 0


def test_4_no_such_snapshot(archive: Host) -> None:
    error = archive.refused("show", "web.json", "2001-01-01", rc=4)
    assert (error["kind"], error["next"]) == ("no_snapshot", "`openclaw-backup list POLICY` shows them all")
    # What people read is the same, with the policy that they named.
    new, old = ids(archive)
    assert archive.call("show", "web.json", "2001-01-01", rc=4).stderr.splitlines() == [
        "openclaw-backup: No snapshot fits 2001-01-01.",
        f"Allowed: 2 snapshots from {old} to {new}.",
        "Next: `openclaw-backup list web.json` shows them all.",
    ]


def test_5_another_run_holds_the_lock(history: Host) -> None:
    (history.source / "docs" / "five").write_text("five\n")
    with open(history.state / "web1" / "web" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert history.refused("run", "web.json", rc=5)["kind"] == "locked"
    assert history.json("run", "web.json")["changed"] is True


def test_6_the_history_is_gone(history: Host) -> None:
    remove(history.vault)
    (history.source / "docs" / "five").write_text("five\n")
    assert history.refused("run", "web.json", rc=6)["kind"] == "history_lost"
    assert not history.vault.exists()
    assert history.json("run", "web.json", "--adopt")["receipt"]["sequence"] == 1


@pytest.mark.parametrize("verb", ["run", "list", "adopt", "audit", "restore", "verify"])
def test_6_the_target_is_something_else(host: Host, verb: str) -> None:
    host.vault.mkdir()
    (host.vault / "letters.txt").write_text("not a vault")
    assert host.refused(verb, "web.json", rc=6)["kind"] == "not_a_vault"
    assert os.listdir(host.vault) == ["letters.txt"]


def test_7_a_damaged_byte_is_found_named_not_restored_and_healed(history: Host) -> None:
    newest = ids(history)[0]
    history.damage(newest)
    two = history.source / "docs" / "two"
    answer = history.json("verify", "web.json", rc=7)
    assert (answer["ok"], answer["damaged"]) == (False, [{"path": str(two), "reason": "hash"}])
    assert (answer["error"]["kind"], answer["error"]["found"]) == ("integrity", str(two))
    done = history.call("verify", "web.json", rc=7)
    assert "  damaged  %s (hash)\n" % two in done.stdout and "1 damaged" in done.stderr
    assert "damaged (1 path)" in history.call("list", "web.json").stdout
    assert "the newest snapshot is damaged" in history.json("status", "web.json", rc=3)["problems"]

    restored = history.json("restore", "web.json", "--dest", "back", rc=7)
    assert (restored["damaged"], restored["files_restored"]) == ([str(two)], 4)
    assert not (history.home / "back" / two.relative_to("/")).exists()
    assert ": 1 file, the first is " in history.call("restore", "web.json", "--dest", "back", rc=7).stderr

    (history.source / "docs" / "five").write_text("five\n")
    history.call("run", "web.json")
    assert history.json("verify", "web.json")["ok"] is True


def test_7_a_source_that_cannot_be_read_back_is_named(history: Host) -> None:
    two = history.source / "docs" / "two"
    two.chmod(0)
    answer = history.json("verify", "web.json", "--source", rc=7, preexec_fn=obey_modes)
    assert answer["damaged"] == [{"path": str(two), "reason": "unreadable"}]
    assert (answer["error"]["field"], answer["error"]["found"]) == ("source", str(two))


# ---- where the output goes -----------------------------------------------------------------------------------------


def test_a_reader_that_has_seen_enough_is_no_error(archive: Host) -> None:
    with subprocess.Popen(
        [*PROGRAM, "list", "web.json"],
        cwd=archive.home,
        env={**os.environ, "OPENCLAW_BACKUP_STATE": str(archive.state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_full_disk_behind_standard_output_is_an_error(archive: Host) -> None:
    with open("/dev/full", "w") as full:
        done = archive.call("list", "web.json", rc=1, stdout=full)
        assert done.stderr.startswith("openclaw-backup: Failed while running list: No space left on device.\n")
        assert archive.call("list", "web.json", "--json", rc=1, stdout=full).stderr == ""
        assert archive.call("list", "nowhere.json", rc=2, stderr=full).stdout == ""


def test_a_locale_that_cannot_show_a_name_ends_nothing(host: Host) -> None:
    (host.source / "größe").write_text("x")
    environment = {**os.environ, "OPENCLAW_BACKUP_STATE": str(host.state), "PYTHONIOENCODING": "ascii:strict"}
    assert "gr\\xf6\\xdfe" in host.call("run", "web.json", "--dry-run", env=environment).stdout
    assert json.loads(host.call("run", "web.json", "--dry-run", "--json", env=environment).stdout)["changed"]


# ---- as one file ---------------------------------------------------------------------------------------------------


def test_the_zipapp_is_the_same_program(host: Host, tmp_path: Path) -> None:
    build: Callable[..., None] = runpy.run_path(str(ROOT / "roles" / "client" / "files" / "build_zipapp.py"))["build"]
    build(tmp_path / "openclaw-backup")
    program = [sys.executable, "-I", str(tmp_path / "openclaw-backup")]
    assert re.fullmatch(r"openclaw-backup \d+\.\d+\.\d+\n", host.call("--version", program=program).stdout)
    assert host.call("run", "web.json", program=program).stdout.startswith("snapshot 20")
    assert host.call("verify", "web.json", program=program).stdout.endswith("no errors were found\n")
    host.call("restore", "web.json", "--dest", "back", program=program, rc=ELSEWHERE)
    assert host.call("status", "nowhere", program=program, rc=2).stderr.startswith("openclaw-backup: There is no policy nowhere")


@pytest.mark.parametrize("words", [["run", "web.json"], ["list", "web.json"]])
def test_a_verb_starts_without_what_only_others_need(archive: Host, words: List[str]) -> None:
    def loaded(*program: str) -> Set[str]:
        lines = archive.call(*program, program=[sys.executable, "-X", "importtime"]).stderr.splitlines()
        return {line.split("|")[2].strip() for line in lines if line.startswith("import time:")}

    archive.call("run", "web.json")  # whatever happened to the directories above the source
    needed = loaded(*PROGRAM[1:], *words) - loaded("-c", "pass")
    verbs = {name.rpartition(".")[2] for name in needed if ".module_utils.action." in name}
    assert verbs == ({"state", "locate", "backup", "result", "sources"} if words[0] == "run" else {"state", "locate", "history", "choose"})
    # Each costs more than it is worth to a run that finds nothing to do.
    assert not needed & {"subprocess", "multiprocessing", "asyncio", "tempfile", "logging", "datetime", "zoneinfo", "traceback", "socket"}


def test_a_key_is_changed_by_hand(host: Host) -> None:
    for name in ("key", "new key"):
        (host.home / name).write_text(os.urandom(32).hex())
        (host.home / name).chmod(0o600)
    target = {"url": "pack://%s" % (host.home / "sealed"), "key_file": str(host.home / "key")}
    host.write_policy(target=target)
    host.call("run", "web.json", "--quiet")
    assert host.call("rekey", "web.json").stdout.startswith("nothing to do: everything is sealed with key ")
    host.write_policy(target={**target, "key_file": str(host.home / "new key"), "old_key_files": [str(host.home / "key")]})
    planned = host.call("rekey", "web.json", "--dry-run").stdout
    assert planned.startswith("would seal with key ") and ": 1 snapshot, 1 pack (" in planned
    done = host.json("rekey", "web.json")
    assert (done["keys"], done["snapshots"], done["packs"], done["warnings"]) == ([done["key"]], 1, 1, [])
    host.write_policy(target={**target, "key_file": str(host.home / "new key")})
    assert "keys       %s\n" % done["key"] in host.call("status", "web.json").stdout
    assert host.json("verify", "web.json")["ok"]
    host.write_policy(target=target)
    assert host.refused("verify", "web.json", rc=6)["allowed"] == done["key"]
    host.write_policy()
    assert host.refused("rekey", "web.json", rc=2)["kind"] == "unsupported"
