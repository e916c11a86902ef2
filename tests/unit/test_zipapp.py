# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line is one file: the same bytes wherever it is built, and started so that the caller's Python settings do not matter."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build() -> Callable[..., None]:
    build: Any = runpy.run_path(str(ROOT / "roles" / "client" / "files" / "build_zipapp.py"))["build"]
    return build


def toy_engine(root: Path, main: str) -> Path:
    agent = root / "engine" / "agent"
    agent.mkdir(parents=True)
    (root / "engine" / "__init__.py").touch()
    (agent / "__init__.py").touch()
    (agent / "__main__.py").write_text(main)
    return root / "engine"


def test_another_checkout_umask_mtime_and_stale_caches_give_the_same_bytes(build: Callable[..., None], tmp_path: Path) -> None:
    build(tmp_path / "first")
    copy = tmp_path / "elsewhere" / "engine"
    shutil.copytree(ROOT / "plugins" / "module_utils", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "errors.cpython-39.pyc").write_bytes(b"stale")
    for path in copy.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))
    before = os.umask(0o077)
    try:
        build(tmp_path / "elsewhere" / "second", engine=copy)
    finally:
        os.umask(before)
    assert (tmp_path / "elsewhere" / "second").read_bytes() == (tmp_path / "first").read_bytes()
    assert (tmp_path / "elsewhere" / "second").stat().st_mode & 0o7777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "first"]


def test_it_holds_the_whole_engine_and_nothing_else(build: Callable[..., None], tmp_path: Path) -> None:
    build(tmp_path / "program")
    engine = ROOT / "plugins" / "module_utils"
    expected = {"openclaw_backup/" + path.relative_to(engine).as_posix() for path in engine.rglob("*.py")}
    with zipfile.ZipFile(tmp_path / "program") as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == expected | {"__main__.py"}
        assert archive.testzip() is None


def test_it_passes_arguments_and_exit_code_and_ignores_the_callers_python_settings(build: Callable[..., None], tmp_path: Path) -> None:
    engine = toy_engine(tmp_path, "import sys\ndef main(argv=None):\n    print(sys.flags.isolated, sys.argv[1:])\n    return 7\n")
    build(tmp_path / "program", engine=engine)
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "openclaw_backup.py").write_text("raise SystemExit('imported from PYTHONPATH')")
    result = subprocess.run(
        [tmp_path / "program", "list", "--json"],
        cwd=tmp_path / "hostile",
        env={"PATH": "%s:/usr/bin:/bin" % Path(sys.executable).parent, "PYTHONPATH": str(tmp_path / "hostile"), "PYTHONINSPECT": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (7, "1 ['list', '--json']\n", "")
