# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test relies on: the collection under test is this checkout, and CI does not pass by skipping."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Generator, Iterator, List, Set

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
LINK = Path("ansible_collections/openclaw/backup")

# The machine's load is no property of the code.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", settings.get_profile("ci"), deadline=None)


def _make_collection_importable() -> None:
    """.venv holds a link to this checkout (scripts/setup); under another Python one is made here. Child processes find it too."""
    home = next((path for path in map(Path, sys.path) if (path / LINK).exists()), None)
    if home is None or (home / LINK).resolve() != ROOT:
        home = ROOT / ".cache"
        (home / LINK).parent.mkdir(parents=True, exist_ok=True)
        if not (home / LINK).is_symlink():
            (home / LINK).symlink_to(ROOT)
        sys.path.insert(0, str(home))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(home)


_make_collection_importable()


def _children() -> Set[str]:
    return set(" ".join(path.read_text(encoding="ascii") for path in Path("/proc/self/task").glob("*/children")).split())


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """The test waits for every process that it starts; servers that other tests share may go on."""
    others = _children()
    yield
    assert _children() <= others, "a process is left over"


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Files of which every test is slow begin, those of the lab first, so that no worker is left alone with one of them in the end."""
    quick = {item.path for item in items if item.get_closest_marker("slow") is None}
    items.sort(key=lambda item: item.path in quick)


def _refuse_skip(report: Any) -> None:
    where, line, reason = report.longrepr
    report.outcome = "failed"
    report.longrepr = "%s:%s: %s, but CI is set: every test must run" % (where, line, reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("lab"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if os.environ.get("CI") and report.skipped:  # a whole file, whose marks nobody has seen
        _refuse_skip(report)
    return report
