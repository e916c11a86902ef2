#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: drill
short_description: Rehearse a restore, measure it, and keep the evidence
version_added: 0.1.0
description:
  - Restores a snapshot to a new directory of its own, compares every byte and all metadata with the manifest, checks the databases, and runs the probes of the
    policy.
  - Measures how long that takes and how old the state is that came back, and judges both by the objectives of the policy where it gives them.
  - Removes the directory again, also after a failure, and writes the evidence into the state and the audit log of the host.
  - Fails where anything is not as it should be.
author:
  - The openclaw.backup contributors (@openclaw)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.history
attributes:
  check_mode:
    support: full
    details:
      - Names what would be checked, fails where there is no snapshot or no room, and restores and writes nothing.
  diff_mode:
    support: full
    details:
      - It shows what RV(sample) shows, the paths as the manifest has them and as they came back.
options:
  snapshot:
    description:
      - Which snapshot, V(latest), an id, the unambiguous beginning of one, or a time such as V(2026-11-20 09:15).
      - Times are UTC unless they say otherwise; the newest snapshot that is not younger is taken.
    type: str
    default: latest
  scratch:
    description:
      - The directory in which the new directory is made; it exists, lies in no source and not in the vault, and nobody else can replace it.
      - By default it is one in the state.
    type: path
  keep:
    description:
      - Leave what came back where it is.
    type: bool
    default: false
  asked_by:
    description:
      - Who wants the drill, one line for the evidence that nobody checks.
    type: str
  scenario:
    description:
      - V(restore) proves that the snapshot comes back.
      - V(damaged) is for the day on which it turns out to be damaged, a byte that is changed in what came back must be found, and the snapshot before it is
        what is proven; RV(loss) tells what that would cost.
      - V(lost-vault) is for the day on which the target is gone, nothing is asked of it, and what the first of the policy's C(copies) has is what is proven
        and judged; RV(target) and RV(rpo) are those of the copy.
      - V(ransomware) encrypts what came back in place, between two backups of it to a vault in the scratch; that must be noticed, and the point before it held
        and come back. It takes three times the room.
    type: str
    choices: [restore, damaged, lost-vault, ransomware]
    default: restore
seealso:
  - module: openclaw.backup.restore
  - module: openclaw.backup.verify
"""

EXAMPLES = r"""
---
- name: Would everything come back, and in time?
  openclaw.backup.drill:
    policy: /etc/openclaw-backup/policies/openclaw.json
  register: drill

- name: Say how long it took
  ansible.builtin.debug:
    msg: "{{ drill.rto }} s for {{ drill.bytes }} bytes, as of {{ drill.state_as_of }}"

- name: Rehearse on the vault what a host has sent to it
  openclaw.backup.drill:
    target: /srv/vault
    host: web1
    name: openclaw
    scratch: /srv/spare
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
    - Whether nothing is wrong; the task fails if something is.
  returned: success, or failure of something that was checked
  type: bool
  sample: true
verdict:
  description:
    - V(passed), V(missed) where all was proven and an objective was missed, V(failed), or V(skipped) where nothing could be looked at; V(null) in check mode.
  returned: success, or failure of something that was checked
  type: str
  sample: passed
policy:
  description:
    - The name of the policy.
  returned: success, or failure of something that was checked
  type: str
  sample: openclaw
host:
  description:
    - The host whose history it is.
  returned: success, or failure of something that was checked
  type: str
  sample: web1
target:
  description:
    - The URL or path of the target.
  returned: success, or failure of something that was checked
  type: str
  sample: /srv/vault
snapshot_id:
  description:
    - The snapshot that was restored; V(null) where there is none.
  returned: success, or failure of something that was checked
  type: str
  sample: 20261120T091500.123Z-9f1c3e1f
digest:
  description:
    - The digest of its manifest; V(null) where there is none.
  returned: success, or failure of something that was checked
  type: str
  sample: 9f1c3e1f8a0f4a0d9d9f3c72f1d6cbfc2c3ffe739a559920138b81623136670a
entries:
  description:
    - How many paths the snapshot holds.
  returned: success, or failure of something that was checked
  type: int
  sample: 1234
files:
  description:
    - How many of them are files.
  returned: success, or failure of something that was checked
  type: int
  sample: 1102
bytes:
  description:
    - How many bytes these have.
  returned: success, or failure of something that was checked
  type: int
  sample: 52428800
checks:
  description:
    - Everything that was checked, up to 100; those that failed come first where there are more.
  returned: success, or failure of something that was checked
  type: list
  elements: dict
  sample:
    - name: bytes
      kind: bytes
      ok: true
      reason: 52428800 bytes read back
      duration: 0.482
  contains:
    name:
      description:
        - What it is called.
      returned: always
      type: str
    kind:
      description:
        - One of V(restore), V(bytes), V(metadata), V(canary), V(database), V(probe) and V(objective).
      returned: always
      type: str
    ok:
      description:
        - Whether it is as it should be; V(null) where that was not judged.
      returned: always
      type: bool
    reason:
      description:
        - Why not, or what was seen.
      returned: always
      type: str
    duration:
      description:
        - How long it took, in seconds.
      returned: always
      type: float
counts:
  description:
    - How many checks there are of each kind of result.
  returned: success, or failure of something that was checked
  type: dict
  sample: {passed: 7, failed: 0, skipped: 0}
  contains:
    passed:
      description:
        - Checks that passed.
      returned: always
      type: int
    failed:
      description:
        - Checks that failed.
      returned: always
      type: int
    skipped:
      description:
        - Checks that were not judged.
      returned: always
      type: int
rto:
  description:
    - Seconds from the start of the drill to the end of the last probe; V(null) where it did not come so far.
  returned: success, or failure of something that was checked
  type: float
  sample: 41.7
rpo:
  description:
    - Seconds between RV(state_as_of) and the start of the drill; V(null) where there is no snapshot.
  returned: success, or failure of something that was checked
  type: int
  sample: 240
scenario:
  description:
    - What O(scenario) said.
  returned: success, or failure of something that was checked
  type: str
  sample: restore
loss:
  description:
    - With O(scenario=damaged), how many seconds older the state is that came back than the newest; else V(null).
  returned: success, or failure of something that was checked
  type: int
  sample: null
state_as_of:
  description:
    - When the sources were last known to be as in the snapshot; V(null) where there is none.
  returned: success, or failure of something that was checked
  type: str
  sample: '2026-11-20T09:15:00.123Z'
objectives:
  description:
    - The objectives of the policy in seconds; V(null) for those that it does not give.
  returned: success, or failure of something that was checked
  type: dict
  sample: {rto: 600, rpo: 900, drill_every: 604800}
  contains:
    rto:
      description:
        - The longest that a restore may take, or V(null).
      returned: always
      type: int
    rpo:
      description:
        - The most work that may be lost, or V(null).
      returned: always
      type: int
    drill_every:
      description:
        - The longest time between two drills, or V(null).
      returned: always
      type: int
scratch:
  description:
    - Where what came back still lies, with O(keep); else V(null).
  returned: success, or failure of something that was checked
  type: str
  sample: null
started:
  description:
    - When the drill began.
  returned: success, or failure of something that was checked
  type: str
  sample: '2026-11-20T09:19:00.123Z'
finished:
  description:
    - When it ended; empty in check mode.
  returned: success, or failure of something that was checked
  type: str
  sample: '2026-11-20T09:19:43.456Z'
versions:
  description:
    - What was at work; V(null) for what is not installed, empty in check mode.
  returned: success, or failure of something that was checked
  type: dict
  sample: {program: 0.1.0, python: 3.11.2, rsync: 3.2.7, sqlite: 3.40.1}
asked_by:
  description:
    - Who ran it.
  returned: success, or failure of something that was checked
  type: dict
  sample: {user: root, sudo_user: ann, claimed: Ann of the night shift}
  contains:
    user:
      description:
        - The user.
      returned: always
      type: str
    sudo_user:
      description:
        - Who that was before sudo; V(null) without it.
      returned: always
      type: str
    claimed:
      description:
        - What O(asked_by) says; V(null) without it.
      returned: always
      type: str
sample:
  description:
    - Up to 20 paths that did not come back as they are in the manifest.
  returned: success, or failure of something that was checked
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
        - What is wrong with it, V(damaged), V(missing), V(metadata) or V(extra).
      returned: always
      type: str
truncated:
  description:
    - Whether there are more such paths than RV(sample) shows, or more checks than RV(checks).
  returned: success, or failure of something that was checked
  type: bool
  sample: false
duration:
  description:
    - How long it took, in seconds.
  returned: success, or failure of something that was checked
  type: float
  sample: 43.333
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

from ..module_utils.action.drill import drill
from ..module_utils.ansible_module import HISTORY_OPTIONS, HISTORY_RULES, BackupModule, policy_of
from ..module_utils.policy.scenarios import SCENARIOS


def main() -> None:
    module = BackupModule(
        argument_spec={
            **HISTORY_OPTIONS,
            "snapshot": {"type": "str", "default": "latest"},
            "scratch": {"type": "path"},
            "keep": {"type": "bool", "default": False},
            "asked_by": {"type": "str"},
            "scenario": {"type": "str", "choices": list(SCENARIOS), "default": "restore"},
        },
        **HISTORY_RULES,
    )
    params = module.params
    with module.reporting() as progress:
        policy = policy_of(params)
        result = drill(
            policy,
            state_directory=module.state_directory,
            scratch=params["scratch"],
            snapshot=params["snapshot"],
            keep=params["keep"],
            dry_run=module.check_mode,
            progress=progress,
            asked_by=params["asked_by"],
            scenario=params["scenario"],
            is_own_history=params["policy"] is not None and policy == policy_of({**params, "host": None}),
        )
    module.finish(result.to_dict(), before="manifest", after="what came back", failure=result.failure())


if __name__ == "__main__":
    main()
