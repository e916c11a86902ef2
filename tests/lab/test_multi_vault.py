# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule's scenario ``multi_vault``."""

from __future__ import annotations

from pathlib import Path

from .molecule import needs_the_lab, play


@needs_the_lab
def test_a_vault_burns(tmp_path: Path) -> None:
    play("multi_vault", tmp_path)
