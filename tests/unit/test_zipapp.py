# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line is one file: the same bytes wherever one release of Python builds it, run by any, whatever the caller's Python settings."""

from __future__ import annotations

import importlib.util
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
    expected = {"openclaw_backup/%s%s" % (path.relative_to(engine).as_posix(), c) for path in engine.rglob("*.py") for c in ("", "c")}
    with zipfile.ZipFile(tmp_path / "program") as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == expected | {"__main__.py"}
        assert archive.testzip() is None


def test_what_the_building_process_has_loaded_and_how_it_hashes_does_not_show(tmp_path: Path) -> None:
    script = str(ROOT / "roles" / "client" / "files" / "build_zipapp.py")
    builds = []
    for seed, more in (("0", ""), ("1", "import asyncio, json, typing; ")):
        dest = tmp_path / seed
        code = "%simport pathlib, runpy; runpy.run_path(%r)['build'](pathlib.Path(%r))" % (more, script, str(dest))
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True)
        builds.append(dest.read_bytes())
    assert builds[0] == builds[1]


def test_the_python_that_built_it_runs_what_it_compiled_and_another_runs_the_source(build: Callable[..., None], tmp_path: Path) -> None:
    build(tmp_path / "program", engine=toy_engine(tmp_path, "def main(argv=None):\n    print(__file__[-4:])\n    return 0\n"))

    def run() -> str:
        return subprocess.run([sys.executable, "-I", tmp_path / "program"], capture_output=True, text=True, check=True).stdout

    assert run() == ".pyc\n"
    data = (tmp_path / "program").read_bytes()
    magic = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")
    assert data.count(magic) == 3
    # The program of another release: zip's own checksums of its members are looked at by nobody.
    (tmp_path / "program").write_bytes(data.replace(magic, b"\x01\x02\r\n" + magic[4:]))
    assert run() == "_.py\n"


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
