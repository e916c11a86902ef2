#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: status_info
short_description: Tell whether a policy of a host is protected
version_added: 0.1.0
description:
  - Says until when the files of a policy were known to be safe, how that compares with its objective, and what is in the way.
  - Nothing is changed, and no file of a snapshot is read. The task does not fail where there are problems, RV(ok) tells.
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
seealso:
  - module: openclaw.backup.snapshot
  - module: openclaw.backup.snapshot_info
  - module: openclaw.backup.verify
"""

EXAMPLES = r"""
---
- name: Ask whether the host is protected
  openclaw.backup.status_info:
    policy: /etc/openclaw-backup/policies/openclaw.json
  register: protection

- name: Be told when it is not
  ansible.builtin.assert:
    that: protection.ok
    fail_msg: "{{ protection.problems | join('; ') }}"
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
    - Whether there are no problems.
  returned: success
  type: bool
  sample: true
problems:
  description:
    - What is in the way, in words.
  returned: success
  type: list
  elements: str
  sample: ["the last known good state is 1d 02h old, the objective (rpo) is 1h"]
anomalies:
  description:
    - Those of RV(problems) that tell of a snapshot which is held because what came after it looks like the work of ransomware.
  returned: success
  type: list
  elements: str
  sample: []
host:
  description:
    - The host whose history it is.
  returned: success
  type: str
  sample: web1
policy:
  description:
    - The name of the policy.
  returned: success
  type: str
  sample: openclaw
target:
  description:
    - Where the snapshots are.
  returned: success
  type: str
  sample: /srv/vault
snapshots:
  description:
    - How many snapshots there are; V(null) where the target could not be looked at.
  returned: success
  type: int
  sample: 17
newest:
  description:
    - The newest snapshot, as M(openclaw.backup.snapshot_info) has it; V(null) where there is none.
  returned: success
  type: dict
  sample: {id: 20261120T091500.123Z-9f1c3e1f, sequence: 17}
protected_until:
  description:
    - When the sources were last known to be as in the newest snapshot; V(null) where there is none.
  returned: success
  type: str
  sample: "2026-11-20T10:15:00.000Z"
age:
  description:
    - How long ago that was, in seconds; V(null) where there is none.
  returned: success
  type: float
  sample: 212.4
rpo:
  description:
    - The policy's objective in seconds; V(null) where it gives none.
  returned: success
  type: int
  sample: 3600
baseline:
  description:
    - The snapshot that the host goes on from; V(null) where it has none.
  returned: success
  type: str
  sample: 20261120T091500.123Z-9f1c3e1f
pending:
  description:
    - The transaction of a run that was broken off and will be resumed; V(null) where there is none.
  returned: success
  type: str
  sample: 5d2c7a90
restoring:
  description:
    - The complete restore in place that was begun and has not come to its end, with its C(snapshot), C(delete), C(undo) and C(at); V(null) where there is none.
    - Until it has, nothing is backed up.
  returned: success
  type: dict
  sample: {snapshot: 20261120T091500.123Z-9f1c3e1f, delete: false, undo: null, at: "2026-11-20T10:15:00.000Z"}
running:
  description:
    - Whether a run is under way.
  returned: success
  type: bool
  sample: false
last_run:
  description:
    - The record of the last run; V(null) where there was none.
  returned: success
  type: dict
  sample: {verb: run, result: changed, started: "2026-11-20T09:15:00.001Z"}
last_success:
  description:
    - The record of the last run that succeeded; V(null) where there was none.
  returned: success
  type: dict
  sample: {verb: run, result: changed, started: "2026-11-20T09:15:00.001Z"}
last_drill:
  description:
    - The record of the last drill; V(null) where there was none.
  returned: success
  type: dict
  sample: {verb: drill, result: drilled, verdict: passed, finished: "2026-11-20T09:15:00.001Z"}
last_good_drill:
  description:
    - The record of the last drill that succeeded; V(null) where there was none.
  returned: success
  type: dict
  sample: {verb: drill, result: drilled, verdict: passed, finished: "2026-11-20T09:15:00.001Z"}
drilled:
  description:
    - When a drill has last proven one of the snapshots, on this machine or on the vault; V(null) where none has.
  returned: success
  type: str
  sample: "2026-11-20T09:15:00.001Z"
rolling:
  description:
    - What a rolling verification has read on this machine; V(null) where there is none.
    - Of so many C(shares) of the newest snapshots so many were C(read), and every byte at least once C(since) then, or V(null) while a share is still to come.
  returned: success
  type: dict
  sample: {shares: 30, read: 30, since: "2026-10-21T04:43:00.001Z"}
old_prefixes:
  description:
    - How many objects a mirror still has below each prefix of an older layout.
    - They are kept until the run after the one that moved them.
  returned: success
  type: dict
  sample: {"clawdbot/": 500}
immutable:
  description:
    - Whether the target itself keeps what is young from being removed by anybody, as a bucket with Object Lock and a default retention does.
    - V(null) where it cannot be told, and for plain vaults, which do not give that right to a host.
  returned: success
  type: bool
  sample: false
keys:
  description:
    - The ids of the keys that seal what snapshots need, the policy's own first; none for vaults that are not sealed.
  returned: success
  type: list
  elements: str
  sample: ["0a1b2c3d4e5f6071"]
as_of:
  description:
    - When this was asked.
  returned: success
  type: str
  sample: "2026-11-20T10:18:32.412Z"
sample:
  description:
    - Up to 20 paths that the newest snapshot is known to be damaged in.
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
    - Whether there are more than RV(sample) shows.
  returned: success
  type: bool
  sample: false
duration:
  description:
    - How long it took, in seconds.
  returned: success
  type: float
  sample: 0.012
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

import time

from ..module_utils.action.status import status
from ..module_utils.ansible_module import HISTORY_OPTIONS, HISTORY_RULES, BackupModule, policy_of


def main() -> None:
    module = BackupModule(argument_spec=dict(HISTORY_OPTIONS), **HISTORY_RULES)
    started = time.monotonic()
    with module.reporting():
        policy = policy_of(module.params)
        result = status(policy, state_directory=module.state_directory, is_own_history=module.params["host"] is None)
    damaged = ((result["newest"] or {}).get("damaged") or {}).get("paths", ())
    sample = [{"path": path, "change": "damaged"} for path in damaged]
    history = "%s, %s/%s" % (policy.target.url, policy.host, policy.name)
    answer = {"changed": False, **result, "sample": sample, "truncated": False, "duration": round(time.monotonic() - started, 3)}
    module.finish(answer, before=history, after=history)


if __name__ == "__main__":
    main()
