# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible hands to filters, made plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..module_utils.policy.profiles import Profile

# What stands for a profile that only the host knows: it has sources, and leaves nothing out.
UNSEEN = Profile(sources=("/",))


def plain(value: Any) -> Any:
    """``value`` made of exact built-in types: Ansible hands over subclasses, and lazy containers that only iterating resolves."""
    if isinstance(value, Mapping):
        return {plain(key): plain(value[key]) for key in value}
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for number in (int, float):
        if isinstance(value, number):
            return number(value)
    return value
