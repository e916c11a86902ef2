# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo` shows what it says, and says so when it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "my files"
    for number in range(60):
        path = top / ("part %d" % (number % 7)) / ("file%d.txt" % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("line of file %d\n" % number * 20)
    os.link(top / "part 0" / "file0.txt", top / "hard link")
    os.symlink("part 0/file7.txt", top / "symbolic link")
    os.mkfifo(top / "pipe")
    (top / "read-only.txt").write_text("kept")
    (top / "read-only.txt").chmod(0o444)
    (top / os.fsdecode(b"not\xffutf-8\n")).touch()
    return top


def look(top: Path) -> List[Tuple[object, ...]]:
    found = []
    for place, directories, names in os.walk(top):
        for name in [*directories, *names]:
            path = Path(place, name)
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found.append((str(path), status.st_mode, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, content))
    return sorted(found)


def demo(tmp_path: Path, source: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    rooms = tmp_path / "rooms"
    rooms.mkdir(exist_ok=True)
    environment: Dict[str, str] = {**os.environ, "TMPDIR": str(rooms), "SOURCE": str(source), **variables}
    return subprocess.run([sys.executable, str(DEMO)], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_demo_shows_every_step_and_leaves_nothing_behind(tmp_path: Path, source: Path) -> None:
    before = look(source)
    done = demo(tmp_path, source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 files sent, no new snapshot" in done.stdout
    assert "failed with rc 7: part" in done.stdout
    assert "2 files sent: the edited one and the damaged one" in done.stdout
    assert done.stdout.count("no difference") == 4, "two comparisons, each told and in the table"
    assert look(source) == before, "the user's own files were touched"
    assert list((tmp_path / "rooms").iterdir()) == []


@pytest.mark.slow
def test_the_demo_fails_when_a_step_does_not_show_what_it_claims(tmp_path: Path, source: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dd").write_text("#!/bin/sh\n# damages nothing\n")
    (programs / "dd").chmod(0o755)
    done = demo(tmp_path, source, PATH="%s:%s" % (programs, os.environ["PATH"]))
    assert done.returncode == 1
    assert "NOT SHOWN" in done.stdout
    (room,) = (tmp_path / "rooms").iterdir()
    assert str(room) in done.stdout.splitlines()[-1], "what was done so far can be looked at"


@pytest.mark.parametrize(("wish", "complaint"), [("missing", "is not a directory"), (".", "holds the temporary directory")])
def test_the_demo_refuses_a_source_that_it_cannot_copy(tmp_path: Path, wish: str, complaint: str) -> None:
    done = demo(tmp_path, tmp_path / wish)
    assert done.returncode == 2
    assert complaint in done.stderr
