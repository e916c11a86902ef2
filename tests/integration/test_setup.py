# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of a checkout: made once, and asked for only where it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Makes an environment slowly, and notes when it begins and ends; what it makes says yes to everything.
PYTHON = """\
#!/bin/sh
case "$*" in
    *"-m venv"*)
        echo begin >>"$LOG"
        mkdir -p .venv/bin .venv/lib
        sleep 1
        printf '#!/bin/sh\\necho "$PWD/.venv/lib"\\n' >.venv/bin/python
        chmod +x .venv/bin/python
        echo end >>"$LOG"
        ;;
esac
"""


def test_two_at_once_make_one_environment(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "requirements").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    (tmp_path / "requirements" / "run.txt").write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "LOG": str(tmp_path / "log")}
    both = [subprocess.Popen(["scripts/setup", "run"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [setup.communicate(timeout=60)[1] for setup in both]
    assert [setup.returncode for setup in both] == [0, 0], said
    assert (tmp_path / "log").read_text() == "begin\nend\n"
    assert (tmp_path / ".venv" / "ready").exists()


def test_another_lock_is_installed_and_the_same_one_is_not_again(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "requirements").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    (tmp_path / "requirements" / "run.txt").write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "LOG": str(tmp_path / "log")}

    def says() -> bool:
        done = subprocess.run(["scripts/setup", "run"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, check=True)
        return "Making" in done.stderr

    assert (says(), says()) == (True, False)
    (tmp_path / "requirements" / "run.txt").write_text("# one more\n")
    assert (says(), says()) == (True, False)


def test_the_program_is_built_without_an_environment() -> None:
    # "make" told by a make above it that it is a part of its work says so on standard output.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", "-n", "zipapp", "PYTHON=this-one"], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert "this-one roles/client/files/build_zipapp.py build/openclaw-backup\n" in done.stdout and "setup" not in done.stdout
