# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule's scenario ``local``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .molecule import play


@pytest.mark.slow
def test_the_story_on_this_machine(tmp_path: Path) -> None:
    play("local", tmp_path)
