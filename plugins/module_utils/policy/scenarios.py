# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a drill may rehearse."""

from __future__ import annotations

SCENARIOS = ("restore", "damaged", "lost-vault", "ransomware")
# Another machine stands in for the host: what the playbook `drill` starts there, and no host for itself.
LOST_HOST = "lost-host"
