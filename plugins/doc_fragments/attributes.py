# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules of this collection can do."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description:
      - Can run in C(check_mode) and return what it would change, without changing it.
  diff_mode:
    description:
      - Returns what was or would be changed when in diff mode.
  platform:
    description:
      - Operating systems whose hosts this module runs on.
    support: full
    platforms: Linux
requirements:
  - Python 3.9 or newer on the host
"""
