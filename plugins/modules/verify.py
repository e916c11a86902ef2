#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify
short_description: Prove that a snapshot is what was backed up
version_added: 0.1.0
description:
  - Holds a snapshot against its manifest, and fails naming what is damaged, missing or too much.
  - With O(source) it reads the files of the host again instead, and finds those whose content has changed although nobody has written to them.
  - What is found is remembered with the snapshot; a later backup sends damaged files again.
author:
  - The openclaw.backup contributors (@openclaw)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.history
attributes:
  check_mode:
    support: full
    details:
      - Checks and fails all the same, and does not remember what it found.
  diff_mode:
    support: full
    details:
      - It shows what RV(sample) shows, the paths as the manifest has them and as they are.
options:
  snapshot:
    description:
      - Which snapshot, V(latest), an id, the unambiguous beginning of one, or a time such as V(2026-11-20 09:15).
      - Times are UTC unless they say otherwise; the newest snapshot that is not younger is taken.
    type: str
    default: latest
  depth:
    description:
      - With V(quick) types, sizes and metadata of every path are looked at, with V(full) every byte is read too.
    type: str
    choices: [quick, full]
    default: full
  slice:
    description:
      - Read the content of only one of so many equal shares, such as V(3/30) for the third of thirty.
      - Of sealed packs, whole packs are shared out, by their ids, so that a bucket is asked for no more than those of the share.
    type: str
  source:
    description:
      - Verify the files that are backed up instead of a snapshot.
      - Needs O(policy).
    type: bool
    default: false
seealso:
  - module: openclaw.backup.restore
  - module: openclaw.backup.snapshot
  - module: openclaw.backup.snapshot_info
"""

EXAMPLES = r"""
---
- name: Prove the newest snapshot, byte by byte
  openclaw.backup.verify:
    target: /srv/vault
    host: web1
    name: openclaw

- name: Read everything once a week, one day a share
  openclaw.backup.verify:
    policy: /etc/openclaw-backup/policies/openclaw.json
    slice: "{{ '%d/7' | format(ansible_facts['date_time']['weekday_number'] | int + 1) }}"

- name: Find out whether the disk of the host itself is rotting
  openclaw.backup.verify:
    policy: /etc/openclaw-backup/policies/openclaw.json
    source: true
"""

RETURN = r"""
---
changed:
  description:
    - Always V(false).
  returned: always
  type: bool
  sample: false
ok:
  description:
    - Whether everything is as it should be; the task fails if not.
  returned: success, or failure because something is not as it should be
  type: bool
  sample: true
snapshot_id:
  description:
    - The snapshot that was verified; V(null) with O(source).
  returned: success, or failure because something is not as it should be
  type: str
  sample: 20261120T091500.123Z-9f1c3e1f
depth:
  description:
    - As given in O(depth).
  returned: success, or failure because something is not as it should be
  type: str
  sample: full
slice:
  description:
    - As given in O(slice); V(null) where everything was meant.
  returned: success, or failure because something is not as it should be
  type: str
  sample: 3/30
checked:
  description:
    - How many paths were looked at.
  returned: success, or failure because something is not as it should be
  type: int
  sample: 1234
hashed_files:
  description:
    - How many files were read as a whole.
  returned: success, or failure because something is not as it should be
  type: int
  sample: 1102
hashed_bytes:
  description:
    - How many bytes these had.
  returned: success, or failure because something is not as it should be
  type: int
  sample: 52428800
damaged:
  description:
    - Up to 100 paths that are not as the manifest says.
  returned: success, or failure because something is not as it should be
  type: list
  elements: dict
  sample: []
  contains:
    path:
      description:
        - The absolute path; bytes that no text can hold are written like V(\\xff).
      returned: always
      type: str
    reason:
      description:
        - What is wrong, such as V(hash), V(type), V(size), V(mode), V(owner), V(mtime), V(link), V(xattrs) or V(unreadable).
      returned: always
      type: str
missing:
  description:
    - Up to 100 paths of the manifest that are not there.
  returned: success, or failure because something is not as it should be
  type: list
  elements: str
  sample: []
extra:
  description:
    - Up to 100 paths that are there and not in the manifest.
  returned: success, or failure because something is not as it should be
  type: list
  elements: str
  sample: []
older:
  description:
    - The older snapshots of which a rolling verification has read what no newer one has, each with its C(snapshot_id) and its C(damage) in words.
    - Empty but for the command line's C(verify --rolling).
  returned: success, or failure because something is not as it should be
  type: list
  elements: dict
  sample: []
counts:
  description:
    - How many there are of each.
  returned: success, or failure because something is not as it should be
  type: dict
  sample: {damaged: 0, missing: 0, extra: 0}
  contains:
    damaged:
      description:
        - Damaged paths.
      returned: always
      type: int
    missing:
      description:
        - Missing paths.
      returned: always
      type: int
    extra:
      description:
        - Paths that are too much.
      returned: always
      type: int
requests:
  description:
    - What was asked of a bucket; V(null) for what is no bucket.
    - C(class_a) counts requests that write or list, C(class_b) those that read, C(free) those that delete; C(sent) and C(received) are bytes.
  returned: success, or failure because something is not as it should be
  type: dict
  sample:
sample:
  description:
    - Up to 20 of these, in this order of their kinds.
  returned: success, or failure because something is not as it should be
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
        - What is wrong with it, V(damaged), V(missing) or V(extra).
      returned: always
      type: str
truncated:
  description:
    - Whether there are more than RV(sample) shows; RV(counts) says how many.
  returned: success, or failure because something is not as it should be
  type: bool
  sample: false
duration:
  description:
    - How long it took, in seconds.
  returned: success, or failure because something is not as it should be
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

from ..module_utils.action.verify import DEPTHS, parse_slice, verify
from ..module_utils.ansible_module import HISTORY_OPTIONS, HISTORY_RULES, BackupModule, policy_of


def main() -> None:
    module = BackupModule(
        argument_spec={
            **HISTORY_OPTIONS,
            "snapshot": {"type": "str", "default": "latest"},
            "depth": {"type": "str", "choices": list(DEPTHS), "default": "full"},
            "slice": {"type": "str"},
            "source": {"type": "bool", "default": False},
        },
        required_if=[("source", True, ("policy",))],
        **HISTORY_RULES,
    )
    params = module.params
    with module.reporting() as progress:
        result = verify(
            policy_of(params),
            state_directory=module.state_directory,
            snapshot=params["snapshot"],
            depth=params["depth"],
            part=None if params["slice"] is None else parse_slice(params["slice"]),
            source=params["source"],
            dry_run=module.check_mode,
            progress=progress,
        )
    what = "snapshot %s" % result.snapshot_id if result.snapshot_id else "sources"
    module.finish(result.to_dict(), before="manifest", after=what, failure=result.failure())


if __name__ == "__main__":
    main()
