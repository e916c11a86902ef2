# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible hands to filters, made plain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Dict

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


def is_number(value: Any) -> bool:
    """Whether a machine has answered a count, a size or a time in seconds, and nothing that no machine has."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 60


def read_object(text: Any) -> Dict[str, Any]:
    """The JSON object that a program printed. Raises ``ValueError`` for anything else, also where it is nested too deeply."""
    try:
        found = json.loads(text if isinstance(text, str) else "")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found
