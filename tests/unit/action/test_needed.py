# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a machine without anybody at it restores, and when it had better not."""

from __future__ import annotations

from typing import Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.needed import Situation, reason_to_restore

TABLE = (
    # (what there is, the reason)
    (Situation(), None),  # the first start of all
    (Situation(is_empty=True), None),
    (Situation(baseline="a"), None),  # the target lost its history, which is not for a restore to mend
    (Situation(newest="a", is_empty=True), "empty"),  # a new container
    (Situation(newest="a", baseline="a", is_empty=True), "empty"),  # a new volume, the old state
    (Situation(newest="a", is_empty=True, is_own=True), "empty"),
    (Situation(newest="a", baseline="a", missing=("/s/key",)), "missing"),
    (Situation(newest="b", baseline="a", missing=("/s/key",)), "missing"),
    (Situation(newest="a", baseline="a"), None),  # restarted
    (Situation(newest="a", missing=("/s/key",), is_own=True), "missing"),
    (Situation(newest="a", missing=("/s/key",)), "unknown"),  # what is missing is not all that there may be
    (Situation(newest="a"), "unknown"),  # the old volume, a new state: or files that the image brought
    (Situation(newest="a", is_own=True), None),  # killed between the commit and the baseline of a first run
    (Situation(newest="b", baseline="a", is_own=True), None),  # killed between the commit and the baseline of a later one
    (Situation(newest="b", baseline="a"), "newer"),  # another machine went on
    (Situation(is_unfinished=True), "unfinished"),  # comes first, whatever else there is
    (Situation(is_unfinished=True, newest="b", baseline="a", missing=("/s/key",), is_empty=True), "unfinished"),
)


@pytest.mark.parametrize(("found", "reason"), TABLE)
def test_the_decision(found: Situation, reason: Optional[str]) -> None:
    assert reason_to_restore(found) == reason
