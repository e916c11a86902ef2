#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: snapshot_info
short_description: List the snapshots of a history
version_added: 0.1.0
description:
  - Lists all snapshots of one policy of one host on a target, the newest first.
  - Nothing is changed, and no file of a snapshot is read; M(openclaw.backup.verify) does that.
author:
  - The openclaw.backup contributors (@openclaw)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.history
attributes:
  check_mode:
    support: full
    details:
      - This action does not modify state.
  diff_mode:
    support: full
    details:
      - This action does not modify state, so that both sides are the same.
options:
  sizes:
    description:
      - Look at the files of all snapshots that are listed, and say what each takes up on the disk of the target.
      - It takes about as long as listing all of them with C(ls).
    type: bool
    default: false
seealso:
  - module: openclaw.backup.restore
  - module: openclaw.backup.snapshot
  - module: openclaw.backup.verify
"""

EXAMPLES = r"""
---
- name: List the snapshots of a host
  openclaw.backup.snapshot_info:
    target: /srv/vault
    host: web1
    name: openclaw
  register: history

- name: See what every snapshot takes up
  openclaw.backup.snapshot_info:
    policy: /etc/openclaw-backup/policies/openclaw.json
    sizes: true

- name: Be told when the newest one is known to be damaged
  ansible.builtin.assert:
    that:
      - history.snapshots | length > 0
      - not history.snapshots[0].damaged
"""

RETURN = r"""
---
changed:
  description:
    - Always V(false).
  returned: always
  type: bool
  sample: false
snapshots:
  description:
    - The snapshots, the newest first; the newest 500 where there are more.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 20261120T091500.123Z-9f1c3e1f
      sequence: 17
      parent: 20261120T090000.456Z-51d2aa07
      created: "2026-11-20T09:15:00.123Z"
      entries: 1234
      files: 1102
      bytes: 52428800
      digest: 9f1c3e1f0a4be1a9c6a5a3e1b7f7d9a8a1b0c9d8e7f60514233241506f7e8d9c
      verified:
        at: "2026-11-20T09:20:00.000Z"
        depth: full
      drilled:
        at: "2026-11-20T10:00:00.000Z"
      damaged:
      held:
      unchanged_until: "2026-11-20T10:15:00.000Z"
      tags: [before-upgrade]
      copied:
      bytes_own: 98304
      bytes_shared: 52559872
      bytes_added: 1310720
  contains:
    id:
      description:
        - The id of the snapshot.
      returned: always
      type: str
    sequence:
      description:
        - Its number in the history, from 1 on.
      returned: always
      type: int
    parent:
      description:
        - The snapshot before it; V(null) for the first.
      returned: always
      type: str
    created:
      description:
        - When it was published, by the clock of the target.
      returned: always
      type: str
    entries:
      description:
        - How many paths it holds.
      returned: always
      type: int
    files:
      description:
        - How many of them are regular files.
      returned: always
      type: int
    bytes:
      description:
        - Their logical size.
      returned: always
      type: int
    digest:
      description:
        - SHA-256 over all entries of its manifest.
      returned: always
      type: str
    verified:
      description:
        - When it was last read as a whole and found good (C(at)), and how (C(depth)); V(null) if it never was.
      returned: always
      type: dict
    drilled:
      description:
        - When a drill has last proven that it comes back (C(at)), where the target keeps that; V(null) if none has.
      returned: always
      type: dict
    damaged:
      description:
        - When it was found damaged (C(at)), in how many paths (C(count)), and the first 20 of them (C(paths)); V(null) if it is not known to be.
      returned: always
      type: dict
    held:
      description:
        - Why it is kept for good; V(null) if it is not.
      returned: always
      type: dict
    unchanged_until:
      description:
        - When the host last said that it still looks like this; V(null) if it never did.
      returned: always
      type: str
    tags:
      description:
        - The names it bears.
      returned: always
      type: list
      elements: str
    copied:
      description:
        - When and from which vault it was copied (C(at), C(from)); V(null) where the host itself sent it here. Sealed packs do not tell from where.
      returned: always
      type: dict
    bytes_own:
      description:
        - Bytes on disk that would be free if this snapshot alone were removed, its directories and its manifest among them; V(null) without O(sizes).
      returned: always
      type: int
    bytes_shared:
      description:
        - Bytes on disk that other snapshots hold too; V(null) without O(sizes).
      returned: always
      type: int
    bytes_added:
      description:
        - Bytes on disk that the snapshot before it does not hold; all of them for the oldest; V(null) without O(sizes).
      returned: always
      type: int
count:
  description:
    - How many snapshots there are.
  returned: success
  type: int
  sample: 17
bytes:
  description:
    - The logical size of the newest snapshot, V(0) where there is none.
  returned: success
  type: int
  sample: 52428800
sample:
  description:
    - Up to 20 paths that the snapshots are known to be damaged in, the newest snapshot first.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /home/openclaw/.openclaw/openclaw.json
      change: damaged
  contains:
    path:
      description:
        - The absolute path; bytes that no text can hold are written like V(\\xff).
      returned: always
      type: str
    change:
      description:
        - What is known of it, always V(damaged).
      returned: always
      type: str
truncated:
  description:
    - Whether there is more than RV(snapshots) and RV(sample) show.
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

from ..module_utils.action.history import describe_history
from ..module_utils.ansible_module import HISTORY_OPTIONS, HISTORY_RULES, BackupModule, policy_of


def main() -> None:
    module = BackupModule(argument_spec={**HISTORY_OPTIONS, "sizes": {"type": "bool", "default": False}}, **HISTORY_RULES)
    with module.reporting():
        policy = policy_of(module.params)
        result = describe_history(policy, sizes=module.params["sizes"])
    history = "%s, %s/%s" % (policy.target.url, policy.host, policy.name)
    module.finish(result, before=history, after=history)


if __name__ == "__main__":
    main()
