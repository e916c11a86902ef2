# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that name a history: all snapshots of one policy of one host on one target."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  policy:
    description:
      - The policy, as a mapping of its keys or as the absolute path of a JSON file that holds them.
      - The keys are explained in the page C(docs/policy.md) of this collection.
    type: raw
  name:
    description:
      - The name of the policy, which is the name of its history on the target.
      - Together with O(target) it takes the place of O(policy).
    type: str
  target:
    description:
      - The vault, an absolute path or a mapping with V(url) and the options of a target.
      - A directory of the host, C(ssh://), C(pack://) or C(s3://).
    type: raw
  host:
    description:
      - The host's name on the target.
      - By default it is the one in O(policy), or the node name of the host where there is none.
    type: str
  state:
    description:
      - The directory that holds what this host remembers of its backups.
      - By default it is the value of the environment variable E(OPENCLAW_BACKUP_STATE), else V(/var/lib/openclaw-backup) for root,
        else V(openclaw-backup) below E(XDG_STATE_HOME).
    type: path
"""
