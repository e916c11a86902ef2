# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a target needs is known before a run misses it."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from ansible_collections.openclaw.backup.plugins.filter.target_packages import target_packages

SEALED = ["python3-cryptography", "python3-zstandard"]
BUCKET = {"url": "s3://bucket/prefix", "layout": "pack", "key_file": "/key"}


def policy(**keys: Any) -> Dict[str, Any]:
    return {"name": "p", "sources": ["/srv"], **keys}


@pytest.mark.parametrize(
    "policies, packages",
    [
        ([], []),
        ([policy(target="/vault"), policy(name="q", target="ssh://me@vault/")], []),
        ([policy(target={"url": "pack:///vault", "key_file": "/key"})], SEALED),
        ([policy(target=BUCKET), policy(name="q", target="/vault")], ["python3-boto3", *SEALED]),
        ([policy(target="/vault", copies=[BUCKET])], ["python3-boto3", *SEALED]),
        ([policy(target={"url": "pack:///vault", "key_file": "/key"}, profile="mine")], SEALED),
        ([policy(target={"url": "s3://bucket/prefix", "layout": "mirror"})], ["python3-boto3"]),
        ([policy(target={"url": "/vault", "layout": "mirror"})], []),
        ([policy(target={"url": "s3://bucket/prefix", "layout": {"/srv/www": "mirror"}, "key_file": "/key"})], ["python3-boto3", *SEALED]),
        ([{"name": "wrong"}, policy(target="ftp://x"), 7], []),
    ],
)
def test_the_packages_are_those_of_all_targets(policies: List[Any], packages: List[str]) -> None:
    assert target_packages(policies) == packages
