#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: prune
short_description: Remove the snapshots that a retention does not keep
version_added: 0.1.0
description:
  - Judges every snapshot of a history by the rules of a retention, those of C(restic forget), and removes what no rule keeps.
  - Whatever the rules say, these stay, the newest snapshot, the newest one not known to be damaged, the last one that was verified in full, the
    last one that a drill has proven, held ones, those younger than V(protect), and those dated in the future.
  - Every decision is explained, in the result and in the audit log of the history.
author:
  - The openclaw.backup contributors (@openclaw)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.history
attributes:
  check_mode:
    support: full
    details:
      - Says what would be removed, and why, and writes nothing.
  diff_mode:
    support: full
    details:
      - It shows what RV(sample) shows.
options:
  retention:
    description:
      - The rules, as the key C(retention) of a policy has them; by default the policy's own.
      - A retention without a rule is an error, because it keeps everything.
    type: dict
seealso:
  - module: openclaw.backup.snapshot
  - module: openclaw.backup.snapshot_info
  - module: openclaw.backup.verify
"""

EXAMPLES = r"""
---
- name: Remove what the policy's retention does not keep
  openclaw.backup.prune:
    policy: /etc/openclaw-backup/policies/openclaw.json

- name: Keep a month of days and a year of months of another host's history
  openclaw.backup.prune:
    target: /srv/vault
    host: web1
    name: openclaw
    retention:
      keep_daily: 30
      keep_monthly: 12
"""

RETURN = r"""
---
changed:
  description:
    - Whether snapshots were removed, or would be in check mode.
  returned: success
  type: bool
  sample: true
kept:
  description:
    - The snapshots that stay, the newest first.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 20261120T091500.123Z-9f1c3e1f
      created: "2026-11-20T09:15:00.123Z"
      reasons: [newest snapshot, daily snapshot]
  contains: &decision
    id:
      description:
        - The snapshot.
      returned: always
      type: str
    created:
      description:
        - When it was published, by the vault's clock.
      returned: always
      type: str
    reasons:
      description:
        - Why it stays or goes, all reasons.
      returned: always
      type: list
      elements: str
removed:
  description:
    - The snapshots that went, the newest first.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 20261119T211500.456Z-6b2f00aa
      created: "2026-11-19T21:15:00.456Z"
      reasons: [no rule keeps it]
  contains: *decision
bytes_freed:
  description:
    - How many bytes the disk of the target gets back, or would in check mode.
    - What the snapshots that went had in common with those that stay is not among them.
  returned: success
  type: int
  sample: 1310720
repacked:
  description:
    - What was written anew of sealed packs, because more than C(retention.max_unused_percent) of a pack was unused; the space comes back a day later.
    - It is V(null) in check mode, without a key, and for other targets.
  returned: success
  type: dict
  sample: {packs: 1, snapshots: 12, bytes_read: 1048576, bytes_written: 1050000, damaged: []}
  contains:
    packs:
      description:
        - How many packs nothing needs any more since.
      returned: always
      type: int
    snapshots:
      description:
        - How many snapshots tell of new places since.
      returned: always
      type: int
    bytes_read:
      description:
        - How much of these packs was needed.
      returned: always
      type: int
    bytes_written:
      description:
        - The size of the new packs.
      returned: always
      type: int
    damaged:
      description:
        - Snapshots with paths that are damaged, for which packs were left as they are.
      returned: always
      type: list
      elements: dict
requests:
  description:
    - What was asked of a bucket; V(null) for other targets.
  returned: success
  type: dict
  sample: {class_a: 4, class_b: 20, free: 3, sent: 1050000, received: 2097152}
sample:
  description:
    - Up to 20 of those that went.
  returned: success
  type: list
  elements: dict
  sample:
    - path: 20261119T211500.456Z-6b2f00aa
      change: removed
  contains:
    path:
      description:
        - The snapshot.
      returned: always
      type: str
    change:
      description:
        - Always V(removed).
      returned: always
      type: str
truncated:
  description:
    - Whether there are more than RV(sample) shows.
  returned: success
  type: bool
  sample: false
duration:
  description:
    - How long it took, in seconds.
  returned: success
  type: float
  sample: 0.482
rc:
  description:
    - The exit code that the command line would have ended with.
    - V(1) failed, V(2) the request is wrong, V(4) refused by a guard or by restore-first, V(5) another run holds the lock,
      V(6) the target cannot be used, V(7) something is not what was written.
  returned: failure
  type: int
  sample: 6
error:
  description:
    - What went wrong, for programs; RV(ignore:msg) says it in words.
  returned: failure
  type: dict
  sample:
    kind: not_a_vault
    field: target
    found: passwd
    allowed: an empty or missing directory, or a vault
    next: name another directory, or check that the vault's file system is mounted
  contains:
    kind:
      description:
        - The kind of failure, such as V(usage), V(policy), V(guard), V(restore_first), V(locked), V(target) or V(integrity).
      returned: always
      type: str
    field:
      description:
        - The option or key that is at fault; V(null) where it is not a single one.
      returned: always
      type: str
    found:
      description:
        - What was found there; V(null) where that says nothing.
      returned: always
      type: raw
    allowed:
      description:
        - What would be allowed; V(null) where nothing would.
      returned: always
      type: str
    next:
      description:
        - What to do next; V(null) where RV(ignore:msg) says enough.
      returned: always
      type: str
"""

from dataclasses import replace

from ..module_utils.action.prune import prune
from ..module_utils.ansible_module import HISTORY_OPTIONS, HISTORY_RULES, BackupModule, policy_of
from ..module_utils.policy.checks import section
from ..module_utils.policy.model import Retention


def main() -> None:
    module = BackupModule(argument_spec={**HISTORY_OPTIONS, "retention": {"type": "dict"}}, **HISTORY_RULES)
    params = module.params
    with module.reporting() as progress:
        policy = policy_of(params)
        if params["retention"] is not None:
            policy = replace(policy, retention=section(Retention)(params["retention"], "retention"))
        result = prune(policy, state_directory=module.state_directory, dry_run=module.check_mode, progress=progress)
    module.finish(result.to_dict(), before="history", after="history after the prune")


if __name__ == "__main__":
    main()
