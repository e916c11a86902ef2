# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit on bytes a second holds whatever the pieces are, and a pause earns no burst."""

from __future__ import annotations

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.transfer.pace import Pace, rate_of


class Clock:
    """Time that passes by sleeping alone; each sleep takes ``late`` seconds more than it was asked for."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 100.0
        self.late = late

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self.late


@pytest.mark.parametrize("limit, rate", [("1k", 1024), ("512k", 512 << 10), ("10m", 10 << 20), ("1G", 1 << 30), ("20M", 20 << 20)])
def test_a_limit_is_what_rsync_takes_it_for(limit: str, rate: int) -> None:
    assert rate_of(limit) == rate


@pytest.mark.parametrize("size", [1, 100, 1 << 18])
@pytest.mark.parametrize("late", [0.0, 0.02])
def test_the_rate_is_kept_with_pieces_of_any_size_and_a_system_that_wakes_up_late(size: int, late: float) -> None:
    clock = Clock(late)
    pace = Pace(1000.0 * size, clock=clock, sleep=clock.sleep)
    for _piece in range(10000):
        pace(size)
    assert 9.8 <= clock.now - 100 <= 10.3


def test_a_pause_earns_no_burst() -> None:
    clock = Clock()
    pace = Pace(1000.0, clock=clock, sleep=clock.sleep)
    clock.now += 3600
    started = clock.now
    for _piece in range(100):
        pace(100)
    assert clock.now - started >= 9.8
