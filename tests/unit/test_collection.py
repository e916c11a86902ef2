# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as others get it: built, installed, and run by its full names with only the folders that Ansible promises to ship."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from ansible_collections.openclaw.backup.plugins.module_utils.version import VERSION

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {"meta", "playbooks", "plugins", "roles"}


def ansible(program: str, *arguments: str, home: Path) -> str:
    """Standard output of one of Ansible's programs, which sees no collection but those installed in ``home``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
    environment.update(
        HOME=str(home),
        ANSIBLE_COLLECTIONS_PATH=str(home / "collections"),
        ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="false",
        OPENCLAW_BACKUP_STATE=str(home / "state"),
        LC_ALL="C.UTF-8",
    )
    command: List[str] = [sys.executable, "-m", "ansible", program, *arguments]
    done = subprocess.run(command, cwd=home, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def archive(home: Path) -> Path:
    ansible("galaxy", "collection", "build", "--output-path", str(home), str(ROOT), home=home)
    return home / ("openclaw-backup-%s.tar.gz" % VERSION)


@pytest.fixture(scope="module")
def installed(archive: Path, home: Path) -> Path:
    ansible("galaxy", "collection", "install", "--offline", "-p", str(home / "collections"), str(archive), home=home)
    collection = home / "collections" / "ansible_collections" / "openclaw" / "backup"
    for path in collection.iterdir():
        if path.name not in SHIPPED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return collection


def run_module(name: str, arguments: Dict[str, Any], home: Path) -> Dict[str, Any]:
    output = ansible("adhoc", "localhost", "-m", "openclaw.backup." + name, "-a", json.dumps(arguments), home=home)
    result: Dict[str, Any] = json.loads(output.partition("=> ")[2])
    return result


def test_engine_and_collection_have_one_version() -> None:
    assert yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"] == VERSION


def test_the_archive_holds_the_product_and_not_the_workshop(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = [name for name in tar.getnames() if name != "."]
    assert [name for name in names if re.search(r"(^|/)(\.|__pycache__)|^build|\.pyc$", name)] == []
    assert {"LICENSE", "README.md", "MANIFEST.json", "meta/runtime.yml", "plugins/module_utils/version.py"} <= set(names)


def test_the_installed_modules_run_with_every_other_folder_deleted(installed: Path, home: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_bytes(b"content")
    (source / "link").symlink_to("folder/file")
    vault = tmp_path / "vault"

    manifest = run_module("manifest", {"sources": [str(source)]}, home)
    assert re.fullmatch("[0-9a-f]{64}", manifest["digest"])

    policy = {"name": "test", "sources": [str(source)], "target": str(vault)}
    first = run_module("snapshot", policy, home)
    assert first["changed"] and first["files_sent"] == 1
    copies = [path for path in vault.rglob("file") if path.read_bytes() == b"content"]
    assert [path for path in copies if first["snapshot_id"] in path.parts]
    assert not run_module("snapshot", policy, home)["changed"]
