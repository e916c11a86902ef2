#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: replicate
short_description: Copy a history into another vault
version_added: 0.1.0
description:
  - Runs on the machine that keeps the copies. Fetches the snapshots that a history has and the vault O(to) lacks, each proven before it exists there.
  - A copy has the id, the times, the manifest and the receipt of its snapshot.
  - Nothing is removed because it is gone at the source. What is damaged at the source is named and not copied, and fails the task after all else was copied.
author:
  - The openclaw.backup contributors (@openclaw)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.history
attributes:
  check_mode:
    support: full
    details:
      - Says what would be copied, and writes nothing. Damage that nobody knows of yet shows only when content is read.
  diff_mode:
    support: full
    details:
      - It shows what RV(sample) shows.
options:
  to:
    description:
      - The vault that keeps the copies, an absolute path, a URL (V(pack://), V(s3://)), or a mapping with V(url) and the options of a target; a directory is
        made where it is missing.
      - A URL that one of the C(copies) of O(policy) has stands for that one, with the options that it has there.
      - The vault to copy from is O(target), or that of O(policy).
      - Either may be of plain files or of sealed packs, also in a bucket; packs are sealed anew with the key of O(to).
    type: raw
    required: true
  repair:
    description:
      - Whether to repair first what a verification found damaged in O(to), with what the other vault has of the same snapshots.
      - Every repaired file is hashed against the manifest in O(to), and the snapshot is read in full before it counts as whole again.
      - Where O(to) is of sealed packs, those that are damaged are written anew, and all snapshots that need them name the new ones.
      - What is damaged in the other vault too stays as it is, is named in RV(unrepaired), and fails the task after all else was done.
    type: bool
    default: false
seealso:
  - module: openclaw.backup.snapshot
  - module: openclaw.backup.snapshot_info
  - module: openclaw.backup.verify
"""

EXAMPLES = r"""
---
- name: Keep a second copy of a history on another disk
  openclaw.backup.replicate:
    policy: /etc/openclaw-backup/policies/openclaw.json
    to: /mnt/second/vault

- name: Fetch what another vault has of a host
  openclaw.backup.replicate:
    target:
      url: ssh://copies@vault1.example.org/
      identity_file: /etc/openclaw-backup/ssh/id_copies
    host: web1
    name: openclaw
    to: /srv/vault

- name: Keep copies in a bucket, sealed with a key that only this machine has
  openclaw.backup.replicate:
    target: /srv/vault
    host: web1
    name: openclaw
    to:
      url: s3://my-bucket/copies
      credentials_file: /etc/openclaw-backup/bucket.credentials
      key_file: /etc/openclaw-backup/copies.key

- name: Make the first vault whole again with the copies in the second
  openclaw.backup.replicate:
    target:
      url: ssh://copies@vault2.example.org/
      identity_file: /etc/openclaw-backup/ssh/id_copies
    host: web1
    name: openclaw
    to: /srv/vault
    repair: true
"""

RETURN = r"""
---
changed:
  description:
    - Whether snapshots were copied or repaired, or would be in check mode.
  returned: success
  type: bool
  sample: true
copied:
  description:
    - The snapshots that came, the oldest first, up to 500.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 20261120T091500.123Z-9f1c3e1f
      sequence: 17
      created: "2026-11-20T09:15:00.123Z"
      files_sent: 4
      bytes_sent: 1310720
  contains:
    id:
      description:
        - The snapshot.
      returned: always
      type: str
    sequence:
      description:
        - Its number.
      returned: always
      type: int
    created:
      description:
        - When it was published, by the clock of the vault that the host sent it to.
      returned: always
      type: str
    files_sent:
      description:
        - How many files the snapshots of O(to) did not have.
      returned: always
      type: int
    bytes_sent:
      description:
        - Their logical size.
      returned: always
      type: int
refused:
  description:
    - The snapshots that are damaged at the source, and were not copied.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 20261119T211500.456Z-6b2f00aa
      kind: content
      reason: 1 file is not as its manifest says there, the first is /srv/www/a (hash)
      paths: [/srv/www/a]
  contains:
    id:
      description:
        - The snapshot.
      returned: always
      type: str
    kind:
      description:
        - What is wrong, such as V(damaged), V(content), V(manifest) or V(receipt).
      returned: always
      type: str
    reason:
      description:
        - The same in words.
      returned: always
      type: str
    paths:
      description:
        - Up to 20 paths that are not what they should be.
      returned: always
      type: list
      elements: str
repaired:
  description:
    - The snapshots of O(to) in which something was put right because of O(repair), up to 500.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 20261119T211500.456Z-6b2f00aa
      sequence: 16
      created: "2026-11-19T21:15:00.456Z"
      paths: 1
      whole: true
  contains:
    id:
      description:
        - The snapshot.
      returned: always
      type: str
    sequence:
      description:
        - Its number.
      returned: always
      type: int
    created:
      description:
        - When it was published.
      returned: always
      type: str
    paths:
      description:
        - How many paths were put right.
      returned: always
      type: int
    whole:
      description:
        - Whether all of the snapshot was then read and is what its manifest says.
      returned: always
      type: bool
unrepaired:
  description:
    - The snapshots of O(to) that stay damaged although O(repair) is set, up to 500.
  returned: success
  type: list
  elements: dict
  sample: []
  contains:
    id:
      description:
        - The snapshot.
      returned: always
      type: str
    reason:
      description:
        - Why, in words.
      returned: always
      type: str
    paths:
      description:
        - Up to 20 paths that are not what they should be.
      returned: always
      type: list
      elements: str
count:
  description:
    - How many snapshots were copied.
  returned: success
  type: int
  sample: 1
present:
  description:
    - How many snapshots of the source O(to) had already.
  returned: success
  type: int
  sample: 16
pruned:
  description:
    - How many snapshots of the source O(to) has had and its own prunes have removed; they are not copied again.
  returned: success
  type: int
  sample: 0
files_sent:
  description:
    - How many files came.
  returned: success
  type: int
  sample: 4
bytes_sent:
  description:
    - Their logical size.
  returned: success
  type: int
  sample: 1310720
newest:
  description:
    - The newest snapshot in O(to).
  returned: success
  type: str
  sample: 20261120T091500.123Z-9f1c3e1f
requests:
  description:
    - What was asked of buckets, by C(source) and C(to); V(null) for what is no bucket.
    - C(class_a) counts requests that write or list, C(class_b) those that read, C(free) those that delete; C(sent) and C(received) are bytes.
  returned: success
  type: dict
  sample:
    source:
    to:
      class_a: 4
      class_b: 3
      free: 0
      sent: 1048704
      received: 2816
sample:
  description:
    - Up to 20 of those that were copied, repaired or refused.
  returned: success
  type: list
  elements: dict
  sample:
    - path: 20261120T091500.123Z-9f1c3e1f
      change: added
  contains:
    path:
      description:
        - The snapshot.
      returned: always
      type: str
    change:
      description:
        - V(added), V(repaired), V(unrepaired) or V(refused).
      returned: always
      type: str
truncated:
  description:
    - Whether there are more than RV(sample), RV(copied), RV(repaired) and RV(unrepaired) show.
  returned: success
  type: bool
  sample: false
duration:
  description:
    - How long it took, in seconds.
  returned: success
  type: float
  sample: 2.482
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

from ..module_utils.action.replicate import replicate
from ..module_utils.ansible_module import HISTORY_OPTIONS, HISTORY_RULES, BackupModule, policy_of
from ..module_utils.policy.target_spec import check_target


def main() -> None:
    own = {"to": {"type": "raw", "required": True}, "repair": {"type": "bool", "default": False}}
    module = BackupModule(argument_spec={**HISTORY_OPTIONS, **own}, **HISTORY_RULES)
    with module.reporting() as progress:
        policy = policy_of(module.params)
        to = check_target(module.params["to"], "to")
        params = module.params
        result = replicate(policy, to, state_directory=module.state_directory, repair=params["repair"], dry_run=module.check_mode, progress=progress)
    module.finish(result.to_dict(), before="copies", after="copies after this", failure=result.failure())


if __name__ == "__main__":
    main()
