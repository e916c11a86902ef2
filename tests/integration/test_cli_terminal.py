# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line and the person in front of it: progress, the question before a restore, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-m", "ansible_collections.openclaw.backup.plugins.module_utils.agent"]
PATIENCE = 60.0  # seconds until a test gives up; nothing takes that long


class Terminal:
    """The program on a terminal: standard input and error; standard output is a pipe."""

    def __init__(self, home: Path, *words: str) -> None:
        self.shown = b""
        self._master, slave = pty.openpty()
        try:
            self.process = subprocess.Popen(
                [*PROGRAM, *words],
                cwd=home,
                env={**os.environ, "OPENCLAW_BACKUP_STATE": str(home / "state")},
                stdin=slave,
                stdout=subprocess.PIPE,
                stderr=slave,
                start_new_session=True,
            )
        finally:
            os.close(slave)

    def wait_for(self, text: bytes) -> None:
        """Read on until ``text`` was shown."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert self._read(deadline - time.monotonic()), (text, self.shown)

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def end(self) -> Tuple[int, bytes, bytes]:
        """Exit code, standard output, and all that the terminal showed."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        output = self.process.communicate(timeout=PATIENCE)[0]
        os.close(self._master)
        return self.process.returncode, output, self.shown

    def _read(self, seconds: float) -> bool:
        """Take in what is shown next; False at the end."""
        if not select.select([self._master], [], [], max(0.0, seconds))[0]:
            alive = subprocess.run(["ps", "-eo", "pid,ppid,pgid,stat,wchan:20,etime,args"], capture_output=True, text=True, check=False).stdout
            group = [line for line in alive.splitlines() if " %d " % self.process.pid in line]
            raise AssertionError("nothing was shown for too long:\n%s\n%r" % ("\n".join(group), self.shown))
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end any more
            chunk = b""
        self.shown += chunk
        return bool(chunk)


def write_policy(home: Path, **keys: Any) -> None:
    (home / "web.json").write_text(json.dumps({"name": "web", "host": "web1", "sources": [str(home / "source")], "target": str(home / "vault"), **keys}))


def call(home: Path, *words: str) -> Any:
    done = subprocess.run(
        [*PROGRAM, *words, "--json"],
        cwd=home,
        env={**os.environ, "OPENCLAW_BACKUP_STATE": str(home / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stderr == b""
    return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one").write_text("one\n")
    (tmp_path / "source" / "two").write_text("two\n")
    write_policy(tmp_path)
    return tmp_path


# ---- progress ------------------------------------------------------------------------------------------------------


def test_progress_names_the_stages_and_leaves_the_line_clean(home: Path) -> None:
    rc, output, shown = Terminal(home, "run", "web.json").end()
    assert rc == 0 and output.startswith(b"snapshot 20")
    order = [shown.index(b"\r" + stage) for stage in (b"walk", b"hash", b"send", b"commit")]
    assert order == sorted(order)
    assert re.search(rb"\r +\r$", shown)


@pytest.mark.parametrize("flag", ["--json", "--quiet"])
@pytest.mark.parametrize("words", [["run"], ["verify"], ["restore", "--yes"]])
def test_no_progress_where_it_was_not_asked_for(home: Path, flag: str, words: List[str]) -> None:
    call(home, "run", "web.json")
    rc, output, shown = Terminal(home, words[0], "web.json", *words[1:], flag).end()
    assert (rc, shown, output.startswith(b"{")) == (0, b"", flag == "--json")


# ---- the question --------------------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(home: Path) -> Path:
    """One file has changed, one is gone and one is new since the snapshot."""
    call(home, "run", "web.json")
    (home / "source" / "one").write_text("spoiled\n")
    (home / "source" / "two").unlink()
    (home / "source" / "new\x1b[2J").write_text("new\n")
    return home


def test_a_restore_in_place_shows_what_it_costs_and_goes_on_after_a_yes(spoiled: Path) -> None:
    terminal = Terminal(spoiled, "restore", "web.json", "--delete")
    terminal.wait_for(b"Go on? [y/N] ")
    assert (spoiled / "source" / "one").read_text() == "spoiled\n"
    lines = terminal.shown.decode().rpartition("\r        ")[2].splitlines()
    assert any(re.fullmatch(r".*Snapshot \S+ would replace 1 path and delete 1 in their own place:", line) for line in lines)
    assert f"  replaced  {spoiled}/source/one" in lines and f"  removed   {spoiled}/source/new\\x1b[2J" in lines
    assert f"  created   {spoiled}/source/two" in lines and "What is there now is not kept (--undo DIR would keep it)." in lines
    terminal.type(b"y\n")
    rc, output, _shown = terminal.end()
    assert rc == 0 and output.startswith(b"restored snapshot ")
    assert {path.name: path.read_text() for path in (spoiled / "source").iterdir()} == {"one": "one\n", "two": "two\n"}


@pytest.mark.parametrize("words, place", [(["--dest", "/"], "their own place"), (["--dest", "back", "--delete"], "back"), (["--dest", "back"], "back")])
def test_a_restore_that_costs_data_is_asked_for_wherever_it_goes(spoiled: Path, words: List[str], place: str) -> None:
    call(spoiled, "restore", "web.json", "--dest", "back")
    there = Path(f"{spoiled}/back{spoiled}/source") if place == "back" else spoiled / "source"
    (there / "one").write_text("precious\n")
    (there / "extra").write_text("extra\n")
    terminal = Terminal(spoiled, "restore", "web.json", *words)
    terminal.wait_for(b"Go on? [y/N] ")
    assert b" in %s:" % os.fsencode(place if place != "back" else spoiled / "back") in terminal.shown
    terminal.type(b"n\n")
    assert terminal.end()[0] == 4
    assert (there / "one").read_text() == "precious\n" and (there / "extra").exists()


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"yikes\n", b"\x04"])
def test_without_a_yes_nothing_is_touched(spoiled: Path, answer: bytes) -> None:
    terminal = Terminal(spoiled, "restore", "web.json", "--undo", "undo")
    terminal.wait_for(b"Go on? [y/N] ")
    assert b"What is there now is kept in %s/undo.\r\n" % os.fsencode(spoiled) in terminal.shown
    terminal.type(answer)
    rc, output, shown = terminal.end()
    assert (rc, output) == (4, b"") and b"openclaw-backup: Nothing was changed.\r\n" in shown
    assert (spoiled / "source" / "one").read_text() == "spoiled\n" and not (spoiled / "source" / "two").exists()


def test_a_refusal_in_json_is_on_standard_output_and_the_question_is_not(spoiled: Path) -> None:
    terminal = Terminal(spoiled, "restore", "web.json", "--json")
    terminal.wait_for(b"Go on? [y/N] ")
    terminal.type(b"n\n")
    rc, output, _shown = terminal.end()
    assert (rc, json.loads(output)["error"]["kind"]) == (4, "confirm")


@pytest.mark.parametrize("words", [["--yes"], ["--dry-run"], ["--dest", "back"], ["--path", "source/two"]])
def test_what_was_confirmed_or_costs_nothing_is_not_asked(spoiled: Path, words: List[str]) -> None:
    rc, _output, shown = Terminal(spoiled, "restore", "web.json", *words).end()
    assert rc in (0, 3) and b"?" not in shown
    assert (spoiled / "source" / "one").read_text() == ("one\n" if words == ["--yes"] else "spoiled\n")


def test_ctrl_c_is_an_answer_too(spoiled: Path) -> None:
    terminal = Terminal(spoiled, "restore", "web.json")
    terminal.wait_for(b"Go on? [y/N] ")
    os.killpg(terminal.process.pid, signal.SIGINT)
    rc, output, shown = terminal.end()
    assert (rc, output) == (1, b"") and b"openclaw-backup: Interrupted;" in shown and b"Traceback" not in shown
    assert (spoiled / "source" / "one").read_text() == "spoiled\n"


# ---- interruption --------------------------------------------------------------------------------------------------


def while_hashing(home: Path) -> None:
    """Holes are read fast, but two GiB of them not within an instant."""
    for name in ("big", "large"):
        with open(home / "source" / name, "wb") as stream:
            stream.truncate(2 << 30)


def while_sending(home: Path) -> None:
    (home / "source" / "big").write_bytes(os.urandom(3_000_000))
    write_policy(home, transfer={"bwlimit": "200k"})


def has_begun(home: Path, prepare: Callable[[Path], None]) -> bool:
    files = home / "vault/web1/web/incoming"
    return prepare is while_hashing or any(path.is_file() and path.stat().st_size > 100_000 for path in files.glob("*/files/**/*"))


def members(group: int) -> Iterator[str]:
    """The processes of a group that are not yet buried."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            yield stat.parent.name


@pytest.mark.parametrize("prepare, stage", [(while_hashing, b"\rhash"), (while_sending, b"\rsend")])
@pytest.mark.parametrize("number, reaches_all", [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)])
def test_a_run_that_is_stopped_leaves_a_clean_vault_and_the_next_one_succeeds(
    home: Path, prepare: Callable[[Path], None], stage: bytes, number: int, reaches_all: bool
) -> None:
    prepare(home)
    terminal = Terminal(home, "run", "web.json")
    terminal.wait_for(stage)
    deadline = time.monotonic() + PATIENCE
    while not has_begun(home, prepare):
        assert time.monotonic() < deadline and terminal.process.poll() is None
        time.sleep(0.02)
    # As a terminal's Ctrl-C does, or as a service manager does.
    (os.killpg if reaches_all else os.kill)(terminal.process.pid, number)
    rc, output, shown = terminal.end()
    assert (rc, output) == (1, b"")
    assert b"openclaw-backup: Interrupted; " in shown and b"\nNext: run it again" in shown and b"Traceback" not in shown
    while list(members(terminal.process.pid)):  # the receiving half of an rsync takes a moment to notice
        assert time.monotonic() < deadline
        time.sleep(0.02)

    assert call(home, "list", "web.json")["snapshots"] == []
    status = call(home, "status", "web.json")
    assert status["last_run"]["result"] == "failed" and status["last_success"] is None

    (home / "source" / "large").unlink(missing_ok=True)
    if prepare is while_hashing:
        (home / "source" / "big").write_bytes(b"smaller")
    write_policy(home)
    done = call(home, "run", "web.json")
    assert (done["rc"], done["files_sent"]) == (0, 3)
    assert call(home, "verify", "web.json")["ok"] is True
    assert os.listdir(home / "vault/web1/web/incoming") == [] and not (home / "state/web1/web/staging").exists()
