# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rsync's exit codes are those of its own manual."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.exitcode import DONE, EXIT_CODES, FATAL, PARTIAL, RETRY, classify, explain, worst


def test_every_code_of_the_installed_manual_has_an_entry() -> None:
    manual = shutil.which("man") and subprocess.run(["man", "rsync"], capture_output=True, text=True).stdout
    section = re.search(r"^EXIT VALUES\n(.*?)^\S", manual or "", re.MULTILINE | re.DOTALL)
    if not section:
        pytest.skip("rsync's manual is not installed")
    codes = {int(code) for code in re.findall(r"^[ o]+(\d+)(?: - |\s{2,})\S", section[1], re.MULTILINE)}
    assert len(codes) > 15
    # 6 was in manuals only; 25 needs --max-delete.
    assert codes - {6, 25} <= set(EXIT_CODES)


def test_a_code_is_explained_by_meaning_number_and_name() -> None:
    assert explain(12) == "the connection broke (rsync exit code 12, STREAMIO)"
    assert explain(-9) == "rsync was killed by signal 9 (rsync exit code -9, KILLED)"
    assert "99" in explain(99)


def test_the_worst_stream_decides_what_happens_next() -> None:
    assert worst([]) == 0
    assert [classify(worst(codes)).outcome for codes in ([0, 0], [0, 23, 0], [23, 12], [-9, 24], [12, 11, 0])] == [DONE, PARTIAL, RETRY, RETRY, FATAL]
