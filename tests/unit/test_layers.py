# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where code may look: the engine needs nothing but Python 3.9, and its rooms know only the floors below them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List, NamedTuple, Tuple

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ENGINE = PLUGINS / "module_utils"
BRIDGE = ENGINE / "ansible_module.py"  # what the modules share; Ansible ships it to hosts only from here
ENGINE_FILES = sorted(set(ENGINE.rglob("*.py")) - {BRIDGE})
MODULE_FILES = sorted((PLUGINS / "modules").glob("*.py"))

# From the ground up. A room imports itself and what lies below it, never its neighbour. Files at the engine's root are one room.
FLOORS = (
    {"root"},
    {"manifest", "transfer", "observe"},
    {"target", "policy"},
    {"action"},
    {"agent"},
)
ROOT_FILES = {"errors", "pool", "process", "version"}
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

# Standard in some of the Pythons 3.9 to 3.14, but not in all of them.
NOT_EVERYWHERE = set(
    "aifc annotationlib asynchat asyncore audioop binhex cgi cgitb chunk compression crypt distutils formatter imghdr imp lib2to3 mailcap msilib "
    "nis nntplib ossaudiodev parser pipes smtpd sndhdr spwd sunau symbol telnetlib tomllib uu xdrlib".split()
)
# These import by a name that only a run knows; Ansible would not ship what they find.
DYNAMIC = {"__import__", "importlib", "pkgutil", "runpy"}

# What a host needs beside Python, and the files that may look for it.
LIBRARIES = {("sealing.py", "zstandard"), ("sealing.py", "cryptography"), ("s3.py", "boto3"), ("s3.py", "botocore")}

NAMESPACE = ("ansible_collections", "openclaw", "backup", "plugins")


class Import(NamedTuple):
    where: str  # plugins/…/file.py:line
    name: Tuple[str, ...]  # full dotted name, in parts
    is_relative: bool

    def room(self) -> str:
        """The room of the engine that is imported from; empty for anything else."""
        parts = self.name[len(NAMESPACE) :]
        if self.name[: len(NAMESPACE)] != NAMESPACE or parts[0] != "module_utils":
            return ""
        return "root" if parts[1] in ROOT_FILES else parts[1]

    def is_standard(self) -> bool:
        return self.name[0] in sys.stdlib_module_names and self.name[0] not in NOT_EVERYWHERE | DYNAMIC


def imports(path: Path) -> Iterator[Import]:
    """Everything that ``path`` imports, inside functions too."""
    package = (*NAMESPACE, *path.relative_to(PLUGINS).parent.parts)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import("%s:%d" % (path, node.lineno), tuple(alias.name.split(".")), False)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            for alias in node.names:
                name = (*above, *(node.module or "").split("."), alias.name)
                yield Import("%s:%d" % (path, node.lineno), tuple(filter(None, name)), node.level > 0)


def all_imports(files: List[Path]) -> List[Tuple[Path, Import]]:
    return [(path, found) for path in files for found in imports(path)]


def room_of(path: Path) -> str:
    parts = path.relative_to(ENGINE).parts
    return "root" if len(parts) == 1 else parts[0]


def test_every_room_stands_on_a_floor() -> None:
    assert {room_of(path) for path in ENGINE_FILES} == set(HEIGHT)
    assert {path.stem for path in set(ENGINE.glob("*.py")) - {BRIDGE}} == ROOT_FILES | {"__init__"}


def test_every_package_has_an_init_file() -> None:
    assert [folder for folder in {path.parent for path in ENGINE_FILES} if not (folder / "__init__.py").is_file()] == []


def test_the_engine_is_code_alone_because_nothing_else_is_shipped_to_hosts() -> None:
    assert [path for path in ENGINE.rglob("*") if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"] == []


def test_the_engine_imports_the_standard_library_and_itself_by_relative_names() -> None:
    wrong = []
    for path, found in all_imports(ENGINE_FILES):
        if not (found.is_standard() or (found.is_relative and found.room()) or (path.name, found.name[0]) in LIBRARIES):
            wrong.append(found)
    assert wrong == []


def test_no_room_imports_a_higher_one_or_its_neighbour() -> None:
    wrong = []
    for path, found in all_imports(ENGINE_FILES):
        if found.room() and found.room() != room_of(path) and HEIGHT[found.room()] >= HEIGHT[room_of(path)]:
            wrong.append(found)
    assert wrong == []


def test_nothing_is_imported_by_a_computed_name() -> None:
    names = [(path, node) for path in ENGINE_FILES for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Name)]
    assert ["%s:%d" % (path, node.lineno) for path, node in names if node.id in DYNAMIC] == []


def test_modules_and_their_bridge_import_ansible_and_the_engine_but_not_the_command_line() -> None:
    wrong = [
        found
        for _, found in all_imports([BRIDGE, *MODULE_FILES])
        if not (found.is_standard() or found.name[:2] == ("ansible", "module_utils") or found.room() not in ("", "agent"))
    ]
    assert wrong == []


def test_the_oldest_python_of_a_host_can_read_every_file() -> None:
    for path in [BRIDGE, *ENGINE_FILES, *MODULE_FILES]:
        ast.parse(path.read_bytes(), filename=str(path), feature_version=(3, 9))


def test_every_file_states_its_licence() -> None:
    texts = [(path, path.read_text()) for path in [BRIDGE, *ENGINE_FILES, *MODULE_FILES]]
    assert [path for path, text in texts if text and "\n# SPDX-License-Identifier: GPL-3.0-or-later\n" not in text[:400]] == []


def test_filters_load_little() -> None:
    """Ansible compiles all filters of a collection, and what they import, in each process that uses one: for every task of every host anew."""
    names = [".".join((*NAMESPACE, "filter", path.stem)) for path in sorted((PLUGINS / "filter").glob("*.py"))]
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    rooms = {name.split(".")[5] for name in done.stdout.split() if name.startswith(".".join((*NAMESPACE, "module_utils", "")))}
    assert "policy" in rooms and not rooms & {"action", "target", "transfer"}, sorted(rooms)
