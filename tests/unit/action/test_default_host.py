# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy without a host gets one that it can bear, whatever the machine calls itself."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.state import default_host
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy


@pytest.mark.parametrize(
    "node, host",
    [
        ("web1", "web1"),
        ("web1.example.org", "web1.example.org"),
        ("web 1", "web"),
        ("a..b", "a"),
        ("x" * 65, "x" * 64),
        ("(none)", "localhost"),
        ("", "localhost"),
    ],
)
def test_a_node_name_becomes_a_host_name(node: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=node))
    assert default_host() == host
    assert Policy.for_history(target="/v", host=default_host(), name="n").host == host
