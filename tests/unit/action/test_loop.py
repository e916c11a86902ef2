# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A loop neither hammers a target that is down nor forgets it."""

from __future__ import annotations

from ansible_collections.openclaw.backup.plugins.module_utils.action.loop import backoff, jittered, pace_of


def test_failures_are_followed_by_longer_and_longer_waits_up_to_a_bound() -> None:
    waits = [backoff(failures, 0.0) for failures in range(1, 12)]
    assert waits[:4] == [2, 4, 8, 16] and waits == sorted(waits)
    assert waits[-1] == backoff(10**6, 0.0) == 900
    assert backoff(1, 1.0) == 3 and backoff(50, 1.0) == 1350


def test_an_interval_varies_by_a_tenth() -> None:
    assert [round(jittered(100, chance), 6) for chance in (0.0, 0.5, 1.0)] == [90, 100, 110]


def test_a_change_never_waits_longer_than_the_interval() -> None:
    for interval in (1, 5, 30, 120, 86400):
        pace = pace_of(interval)
        assert pace.quiet <= pace.longest <= pace.interval and pace.rest <= 60
