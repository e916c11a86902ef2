#!/usr/bin/env python3
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the command line ``openclaw-backup``: the engine as one executable file, byte-identical wherever one release of Python builds it.

It holds the sources, which any Python from 3.9 on runs, and beside them what the building Python compiled them to, which saves the same
release that work at every start.

Usage: ``build_zipapp.py DEST``
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
import zipfile
from pathlib import Path
from typing import Iterator, Tuple

ENGINE = Path(__file__).resolve().parents[3] / "plugins" / "module_utils"
PACKAGE = "openclaw_backup"
# -I: neither PYTHON* variables nor the user's own site-packages reach a program that runs as root.
INTERPRETER = "/usr/bin/env -S python3 -I"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can hold

# Written for the oldest Python that may meet it, so that it can say what is wrong.
MAIN = b"""\
import sys

if sys.version_info < (3, 9):
    sys.exit("openclaw-backup needs Python 3.9 or newer; %s is %s." % (sys.executable, sys.version.split()[0]))

from openclaw_backup.agent.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""


def _members(engine: Path) -> Iterator[Tuple[str, bytes]]:
    """Name and content of every member; a folder's name ends in ``/`` and stands before what it holds."""
    yield "__main__.py", MAIN
    yield PACKAGE + "/", b""
    for path in sorted(engine.rglob("*")):
        name = "%s/%s" % (PACKAGE, path.relative_to(engine).as_posix())
        if path.suffix == ".py":
            source = path.read_bytes()
            yield name, source
            if sys.version_info >= (3, 11):  # older ones write the members of a set in any order
                yield name + "c", _compiled(name, source)
        elif path.is_dir() and path.name != "__pycache__":
            yield name + "/", b""


def _compiled(name: str, source: bytes) -> bytes:
    """The ``.pyc`` of a module (PEP 552), never compared with its source; one of another release is passed over for the source."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    unchecked = (1).to_bytes(4, "little")
    # Later versions of marshal write by how often a value happens to be referred to in this process.
    return importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(source) + marshal.dumps(code, 2)


def build(dest: Path, *, engine: Path = ENGINE, interpreter: str = INTERPRETER) -> None:
    """Write the program to ``dest``, mode 0755, in one step."""
    partial = dest.with_name(dest.name + ".new")
    with open(partial, "wb") as stream:
        stream.write(b"#!%s\n" % interpreter.encode())
        # Stored, not deflated: another zlib gives other bytes, and imports are quicker.
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, content in _members(engine):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system = 3  # Unix
                info.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o100644 << 16
                archive.writestr(info, content)
    partial.chmod(0o755)
    os.replace(partial, dest)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    build(Path(sys.argv[1]))
