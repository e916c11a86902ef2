# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account on a vault that a host sends to."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Callable, Dict

DOCUMENTATION = r"""
name: ingest_account
short_description: The account on a vault that a host sends to
version_added: 0.1.0
author:
  - The openclaw.backup contributors (@openclaw)
description:
  - Derives it from the host's name, so that host and vault agree without asking one another.
  - Two names never share an account, though they may look alike in it.
options:
  _input:
    description: The host's name in the inventory.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show who may log in for this host
  ansible.builtin.debug:
    msg: "{{ inventory_hostname | openclaw.backup.ingest_account }}"
"""

RETURN = r"""
_value:
  description: A name of at most 32 characters that useradd takes.
  type: str
  sample: ocb-web1-example-org-3f1b2c
"""

# What useradd takes at most, and what the prefix, a dash and six digits leave of it.
_LONGEST = 32 - len("ocb--") - 6


def ingest_account(host: Any) -> str:
    """``ocb-``, what of the name an account can bear, ``-`` and six digits that tell similar names apart."""
    name = str(host)
    digits = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    legible = re.sub("[^a-z0-9]+", "-", name.lower())[:_LONGEST].strip("-")
    return "-".join(filter(None, ("ocb", legible, digits)))


class FilterModule:
    """Where Ansible finds the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"ingest_account": ingest_account}
