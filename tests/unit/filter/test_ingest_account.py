# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's account on a vault: one for each name, the same for ever, and one that useradd takes."""

from __future__ import annotations

import re

import pytest
from ansible_collections.openclaw.backup.plugins.filter.ingest_account import ingest_account

NAMES = ["web1", "WEB1", "web-1", "web.1", "web_1", "web1.example.org", "x" * 64, "x" * 63 + "y", "9", "ä", "-rf", "", "a\nb"]


@pytest.mark.parametrize("name", NAMES)
def test_the_account_is_one_that_useradd_takes(name: str) -> None:
    assert re.fullmatch("[a-z][a-z0-9-]*[a-z0-9]", ingest_account(name)) and len(ingest_account(name)) <= 32


def test_names_that_look_alike_do_not_share_an_account() -> None:
    assert len({ingest_account(name) for name in NAMES}) == len(NAMES)


def test_the_account_of_a_name_never_changes() -> None:
    assert ingest_account("web1.example.org") == "ocb-web1-example-org-9e018a"
