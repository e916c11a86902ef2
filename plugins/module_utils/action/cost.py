# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the requests of a run cost, by the prices that providers list (docs/policy.md, "Buckets")."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional

from ..policy.model import Policy
from ..policy.schedule import runs_a_month
from ..target.contract import Requests


class Prices(NamedTuple):
    """US dollars for a million requests of class A, for a million of class B, and for a GB (10^9 bytes) that leaves the service."""

    class_a: float
    class_b: float
    received: float


R2 = Prices(4.50, 0.36, 0.0)
S3 = Prices(5.00, 0.40, 0.09)


def prices_of(endpoint: Optional[str]) -> Optional[Prices]:
    """The prices of the service behind ``target.endpoint`` (None: that of Amazon); None where they are not known."""
    host = "s3.amazonaws.com" if endpoint is None else endpoint.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    for domain, prices in (("amazonaws.com", S3), ("r2.cloudflarestorage.com", R2)):
        if host == domain or host.endswith("." + domain):
            return prices
    return None


def account_for(asked: Optional[Requests], policy: Policy) -> Optional[Dict[str, Any]]:
    """The result key ``requests``: the counts, and as ``monthly_usd`` what a month costs in which each run of the schedule asks as much; None where the
    prices are not known. Without what storage costs, and without what a contract gives for nothing."""
    if asked is None:
        return None
    prices = prices_of(policy.target.endpoint)
    cost = None
    if prices is not None:
        one = (asked.class_a * prices.class_a + asked.class_b * prices.class_b) / 1e6 + asked.received / 1e9 * prices.received
        cost = round(one * runs_a_month(policy.schedule.cron), 4)
    return {**asked._asdict(), "monthly_usd": cost}
