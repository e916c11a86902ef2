# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes see of a tree what one sees."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any, Dict

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils import pool
from ansible_collections.openclaw.backup.plugins.module_utils.manifest import survey as survey_module
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.cache import Cache, write_cache
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.scan import hash_changed
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.selection import Selection
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.survey import Survey, survey
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.walk import Descent

SELECTIONS = {
    "all": Selection(),
    "some": Selection(include=("*.keep", "a1/**"), exclude=("b2", "*.log")),
    "marked": Selection(exclude_caches=True, exclude_if_present=(".nobackup",)),
}


def furnish(root: Path) -> None:
    luck = random.Random(7)
    folders = [root / "src"]
    for number in range(120):
        folder = luck.choice(folders) / ("%s%d" % ("abc"[number % 3], number % 9))
        folder.mkdir(parents=True, exist_ok=True)
        folders.append(folder)
    for number in range(600):
        path = luck.choice(folders) / ("f%d%s" % (number, luck.choice(("", ".keep", ".log"))))
        path.write_text("x" * number)
        if number % 20 == 0:
            os.link(path, luck.choice(folders) / ("link%d" % number))
    for number in range(10):
        (luck.choice(folders) / ".nobackup").touch()
        (luck.choice(folders) / ("l%d" % number)).symlink_to("nowhere")
    (luck.choice(folders) / ("q" * 250)).touch()


def look(root: Path, selection: Selection, cache: Cache) -> Survey:
    with Descent(os.fsencode(root)) as below:
        return survey([b"src"], selection, cache, now=time.time() + 120, root=below)


def seen(found: Survey) -> Dict[str, Any]:
    return {**{name: value for name, value in vars(found).items() if name != "matcher"}, "folders": sorted(found.folders)}


@pytest.mark.parametrize("name", SELECTIONS)
def test_several_processes_see_what_one_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    furnish(tmp_path)
    selection, forks = SELECTIONS[name], []
    real = pool.run
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(pool, "run", lambda work, weights, **more: forks.append(len(weights)) or real(work, weights, **more))

    def both(cache: Cache) -> Survey:
        alone = look(tmp_path, selection, cache)
        with monkeypatch.context() as patch:
            patch.setattr(survey_module, "_SHARE_FROM", 5)
            forks.clear()
            shared = look(tmp_path, selection, cache)
            assert forks and forks[0] > 1
        assert seen(shared) == seen(alone)
        assert shared.selects(b"src/f1.keep", False)
        return shared

    found = both(Cache())
    with Descent(os.fsencode(tmp_path)) as root:
        done = hash_changed(found, Cache(), root=root, now=time.time() + 120).finish(dict)
    write_cache(os.fsencode(tmp_path / "cache"), done.records, content_digest="ab" * 32)
    again = both(Cache.load(os.fsencode(tmp_path / "cache")))
    assert again.content_digest == "ab" * 32
    next((tmp_path / "src").rglob("f7*")).write_text("changed")
    assert both(Cache.load(os.fsencode(tmp_path / "cache"))).content_digest == ""
