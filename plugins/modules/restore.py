#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore
short_description: Bring back a snapshot, or some paths of it
version_added: 0.1.0
description:
  - Compares what is there with a snapshot and moves only what differs; each file is written beside its place and put there in one step.
  - Can be repeated, and then goes on where it was interrupted.
  - A complete restore in place lets this host go on with its history.
  - Content that is damaged in the target is never restored; what was there before stays, and the task fails when all else is done.
author:
  - The openclaw.backup contributors (@openclaw)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.history
attributes:
  check_mode:
    support: full
    details:
      - Predicts RV(changed), counts and paths, and writes nothing anywhere; RV(verified) is V(false).
      - What would be refused without O(confirm) is predicted too, with a warning.
  diff_mode:
    support: full
    details:
      - It shows what RV(sample) shows, the paths before and after.
options:
  snapshot:
    description:
      - Which snapshot, V(latest), an id, the unambiguous beginning of one, or a time such as V(2026-11-20 09:15).
      - Times are UTC unless they say otherwise; the newest snapshot that is not younger is taken.
    type: str
    default: latest
  paths:
    description:
      - Absolute paths to restore, with everything below them.
      - By default it is everything that the snapshot holds.
    type: list
    elements: str
    default: []
  dest:
    description:
      - A directory that receives everything, each path below it (V(dest/home/openclaw)).
      - By default everything goes back to its own place.
    type: path
  delete:
    description:
      - Remove what the snapshot does not have and would have, had it been there.
    type: bool
    default: false
  undo:
    description:
      - A directory that receives what is replaced or removed.
    type: path
  verify:
    description:
      - Read back everything and compare it with the manifest.
    type: bool
    default: true
  confirm:
    description:
      - Confirms that files in their own place may be replaced or removed without O(undo).
    type: bool
    default: false
  host:
    description:
      - The host's name on the target.
      - By default it is the one in O(policy), or the node name of the host where there is none.
      - Together with O(policy) it means the history of another host, whose restore leaves this host's own history as it was.
    type: str
seealso:
  - module: openclaw.backup.snapshot
  - module: openclaw.backup.snapshot_info
  - module: openclaw.backup.verify
"""

EXAMPLES = r"""
---
- name: Bring everything back into its own place, and keep what that replaces
  openclaw.backup.restore:
    target: /srv/vault
    host: web1
    name: openclaw
    undo: /var/tmp/before-restore

- name: Look at one directory as it was on a Friday morning
  openclaw.backup.restore:
    target: /srv/vault
    name: etc
    snapshot: "2026-11-20 09:15"
    paths: [/etc/nginx]
    dest: /var/tmp/friday

- name: Make the disk exactly what the newest snapshot says
  openclaw.backup.restore:
    policy: /etc/openclaw-backup/policies/openclaw.json
    delete: true
    confirm: true
"""

RETURN = r"""
---
changed:
  description:
    - Whether anything was written or removed, or would be in check mode.
  returned: always
  type: bool
  sample: true
snapshot_id:
  description:
    - The snapshot that was restored.
  returned: success, or failure because something in the target is damaged
  type: str
  sample: 20261120T091500.123Z-9f1c3e1f
dest:
  description:
    - The directory that received it, V(/) for its own place.
  returned: success, or failure because something in the target is damaged
  type: str
  sample: /
entries:
  description:
    - How many paths were looked at.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 1234
files_restored:
  description:
    - How many files, links and devices were written.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 12
bytes_restored:
  description:
    - How many bytes of content that took.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 81920
metadata_restored:
  description:
    - How many paths had the right content and got other owners, modes, times or attributes.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 2
files_replaced:
  description:
    - How many paths held something else before.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 3
files_removed:
  description:
    - How many paths were removed because of O(delete), directories and everything in them.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 0
kept:
  description:
    - How many paths were moved into O(undo).
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 3
would_capture:
  description:
    - In check mode, how many of RV(files_replaced) are databases that only a restore captures and compares.
    - One that holds what the snapshot does then stays.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 0
verified:
  description:
    - Whether everything was read back and is as the manifest says.
  returned: success, or failure because something in the target is damaged
  type: bool
  sample: true
damaged:
  description:
    - Up to 100 paths whose content in the target is not what the manifest says.
  returned: success, or failure because something in the target is damaged
  type: list
  elements: str
  sample: []
files_damaged:
  description:
    - How many there are.
  returned: success, or failure because something in the target is damaged
  type: int
  sample: 0
sample:
  description:
    - Up to 20 changes, in this order of their kinds, each by path.
  returned: success, or failure because something in the target is damaged
  type: list
  elements: dict
  sample:
    - path: /home/openclaw/.openclaw/openclaw.json
      change: replaced
  contains:
    path:
      description:
        - The absolute path; bytes that no text can hold are written like V(\\xff).
      returned: always
      type: str
    change:
      description:
        - What has happened to it, V(replaced), V(removed), V(created) or V(metadata).
      returned: always
      type: str
truncated:
  description:
    - Whether there is more than RV(sample) and RV(damaged) show.
  returned: success, or failure because something in the target is damaged
  type: bool
  sample: false
duration:
  description:
    - How long it took, in seconds.
  returned: success, or failure because something in the target is damaged
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

from ..module_utils.action.restore import RestoreRequest, restore
from ..module_utils.ansible_module import HISTORY_OPTIONS, HISTORY_RULES, BackupModule, policy_of


def main() -> None:
    module = BackupModule(
        argument_spec={
            **HISTORY_OPTIONS,
            "snapshot": {"type": "str", "default": "latest"},
            "paths": {"type": "list", "elements": "str", "default": []},
            "dest": {"type": "path"},
            "delete": {"type": "bool", "default": False},
            "undo": {"type": "path"},
            "verify": {"type": "bool", "default": True},
            "confirm": {"type": "bool", "default": False},
        },
        **HISTORY_RULES,
    )
    params = module.params
    request = RestoreRequest(
        snapshot=params["snapshot"],
        paths=tuple(params["paths"]),
        dest=params["dest"],
        delete=params["delete"],
        undo=params["undo"],
        verify=params["verify"],
        confirm=params["confirm"],
    )
    with module.reporting() as progress:
        policy = policy_of(params)
        result = restore(
            policy,
            request,
            state_directory=module.state_directory,
            dry_run=module.check_mode,
            progress=progress,
            is_own_history=params["policy"] is None or policy == policy_of({**params, "host": None}),
        )
    module.finish(result.to_dict(), before=result.dest, after="snapshot %s" % result.snapshot_id, failure=result.failure())


if __name__ == "__main__":
    main()
