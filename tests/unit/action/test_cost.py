# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs cost is counted by the service's own prices, or not at all."""

from __future__ import annotations

from typing import Any, Dict, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.cost import R2, S3, Prices, account_for, prices_of
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Requests


def policy(cron: str, **target: Any) -> Policy:
    given: Dict[str, Any] = {"url": "s3://bucket/prefix", "layout": "pack", "key_file": "/key", **target}
    return Policy.from_mapping({"name": "p", "sources": ["/srv"], "target": given, "schedule": {"cron": cron}}, default_host="h")


@pytest.mark.parametrize(
    "endpoint, prices",
    [
        (None, S3),
        ("https://s3.eu-central-1.amazonaws.com", S3),
        ("https://ab12.eu.r2.cloudflarestorage.com", R2),
        ("https://AB12.R2.CloudflareStorage.com:443/", R2),
        ("http://localhost:9000", None),
        ("https://r2.cloudflarestorage.com.example.org", None),
        ("https://notamazonaws.com", None),
    ],
)
def test_prices_are_known_by_the_service(endpoint: Optional[str], prices: Optional[Prices]) -> None:
    assert prices_of(endpoint) == prices


def test_a_month_is_so_many_runs() -> None:
    r2 = {"endpoint": "https://ab12.r2.cloudflarestorage.com"}
    found = account_for(Requests(2, 0, 0, 82431, 0), policy("*/5 * * * *", **r2))
    assert found == {"class_a": 2, "class_b": 0, "free": 0, "sent": 82431, "received": 0, "monthly_usd": 0.0789}
    assert account_for(Requests(0, 1_000_000, 5, 0, 3 * 10**9), policy("@monthly")) == {
        "class_a": 0,
        "class_b": 1_000_000,
        "free": 5,
        "sent": 0,
        "received": 3 * 10**9,
        "monthly_usd": 0.67,
    }
    other = account_for(Requests(2, 0, 0, 0, 0), policy("@daily", endpoint="http://localhost:9000"))
    assert other is not None and other["monthly_usd"] is None
    assert account_for(None, policy("@daily")) is None
