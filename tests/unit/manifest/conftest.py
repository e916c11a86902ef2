# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several tests of this room need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Callable, Iterator

import pytest

Work = Callable[[], object]
NOBODY = 65534


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory as pytest gives it, but where an ordinary user can be let in, and which is removed whatever a test leaves in it."""
    path = Path(tempfile.mkdtemp(prefix="manifest-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # deeper than Python goes, or closed to its owner
        subprocess.run(["chmod", "-R", "u+rwX", path], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def as_ordinary_user(tmp_path: Path) -> Iterator[Callable[[Work], None]]:
    """Runs a function where modes and owners count, also when root runs the tests; what it raises fails the test.

    The directory of the test becomes that user's.
    """
    if os.geteuid():
        yield lambda work: work() and None
        return
    path = tmp_path
    while path != path.parent:
        path.chmod(path.stat().st_mode | 0o011)
        path = path.parent
    for at, directories, files in os.walk(os.fsencode(tmp_path)):
        for name in [b"", *directories, *files]:
            os.chown(os.path.join(at, name), NOBODY, NOBODY, follow_symlinks=False)

    def run(work: Work) -> None:
        # A process started anew would have to find the collection, which may lie where only root can go.
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            return
        code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as pytest
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    yield run
