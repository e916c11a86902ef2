# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit on bytes a second for what this program reads by itself: where rsync carries the content, it keeps the limit."""

from __future__ import annotations

import threading
import time
from typing import Callable

_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# What may go at once after a pause (s): more would be a burst, less would add up what each sleep takes too long.
_CREDIT_SECONDS = 0.1


def rate_of(limit: str) -> float:
    """Bytes a second of a policy's ``transfer.bwlimit``, such as ``512k``; it is a valid one, and not empty."""
    return float(limit[:-1]) * _UNITS[limit[-1].lower()]


class Pace:
    """Waits after each piece for as long as the pieces so far should have taken; ``rate`` in bytes a second.

    It counts for all threads of one process: no other process may go by the same one."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._due = clock()  # when all that has come should have come

    def __call__(self, size: int) -> None:
        """So many bytes have come."""
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now - _CREDIT_SECONDS) + size / self._rate
            pause = self._due - now
        if pause > 0:
            self._sleep(pause)
