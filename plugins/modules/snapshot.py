#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: snapshot
short_description: Back up a host, if anything has changed
version_added: 0.1.0
description:
  - Adds a verified snapshot of the policy's sources to its history on the target, if they differ from the newest one.
  - Only what has changed is read and sent, and the snapshot is published in one step after the target has hashed every byte that it received.
  - Refuses to start where the target holds a history that this host does not know, until that was restored or O(adopt) was given.
author:
  - The openclaw.backup contributors (@openclaw)
requirements:
  - rsync 3.2.3 or newer on the host, where the policy sets C(transfer.bwlimit)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.history
  - openclaw.backup.selection
attributes:
  check_mode:
    support: full
    details:
      - Predicts RV(changed), counts and paths, and writes nothing anywhere; RV(snapshot_id) is V(null) where a snapshot would be made.
      - Where a guard would refuse the change, the task fails as it would without check mode, and its result holds what the guard is about.
      - No hook of the policy runs; RV(hooks) names those that would.
  diff_mode:
    support: full
    details:
      - It shows what RV(sample) shows, the paths before and after.
options:
  sources:
    description:
      - Absolute paths of what is backed up, together with O(name) and O(target).
      - None may lie inside another, and none may be or lead through a symbolic link.
    type: list
    elements: str
  adopt:
    description:
      - Go on from the history that the target holds, although this host does not know it.
      - What the newest snapshot has and this host has not will be missing in the next one.
    type: bool
    default: false
  accept:
    description:
      - The first 8 digits of the digest that a guard has shown, when the change that it stopped is meant.
      - Put it into quotes, it may consist of digits alone.
    type: str
  tags:
    description:
      - Names that the snapshot bears, such as V(before-upgrade), of letters, digits, V(.), V(_) and V(-), at most 64 each.
      - Where nothing has changed, the newest snapshot gets those that it lacks, see RV(tagged).
    type: list
    elements: str
    default: []
seealso:
  - module: openclaw.backup.restore
  - module: openclaw.backup.snapshot_info
  - module: openclaw.backup.verify
"""

EXAMPLES = r"""
---
- name: Back up the configuration
  openclaw.backup.snapshot:
    name: etc
    sources: [/etc]
    target: /srv/vault

- name: Back up by a policy, which can say more
  openclaw.backup.snapshot:
    policy:
      name: openclaw
      host: "{{ inventory_hostname }}"
      sources: [/home/openclaw/.openclaw]
      exclude: [node_modules/]
      target: {url: /srv/vault, storage: portable}
      guards: {min_files: 20, max_delete_percent: 10}

- name: Back up by the policy that the host keeps
  openclaw.backup.snapshot:
    policy: /etc/openclaw-backup/policies/openclaw.json
  register: backup

- name: Back up before an upgrade, and name the snapshot
  openclaw.backup.snapshot:
    policy: /etc/openclaw-backup/policies/openclaw.json
    tags: [before-upgrade]

- name: Publish a large removal that was meant
  openclaw.backup.snapshot:
    policy: /etc/openclaw-backup/policies/openclaw.json
    accept: "4b825dc6"
"""

RETURN = r"""
---
changed:
  description:
    - Whether a snapshot was made, or would be in check mode.
  returned: always
  type: bool
  sample: true
snapshot_id:
  description:
    - The snapshot that now holds the state of the sources, a new one or the newest; V(null) in check mode where one would be made.
  returned: success
  type: str
  sample: 20261120T091500.123Z-9f1c3e1f
digest:
  description:
    - SHA-256 over all entries of its manifest.
  returned: success
  type: str
  sample: 9f1c3e1f0a4be1a9c6a5a3e1b7f7d9a8a1b0c9d8e7f60514233241506f7e8d9c
content_digest:
  description:
    - The same without the times of directories; equal ones mean that nothing has changed.
  returned: success
  type: str
  sample: 3b0d6c5a4f392817061524334251607f8e9dacbbcad9e8f70615243342516070
entries:
  description:
    - How many paths the snapshot holds, the directories above the sources among them.
  returned: success
  type: int
  sample: 1234
bytes:
  description:
    - The logical size of its files, where hard links count once.
  returned: success
  type: int
  sample: 52428800
added:
  description:
    - How many entries are new.
  returned: success
  type: int
  sample: 3
modified:
  description:
    - How many entries have other content, another type or another link target.
  returned: success
  type: int
  sample: 1
metadata:
  description:
    - How many entries have other owners, modes, times, attributes or hard links, and the same content.
  returned: success
  type: int
  sample: 0
removed:
  description:
    - How many entries are gone.
  returned: success
  type: int
  sample: 0
unchanged:
  description:
    - How many entries are as before.
  returned: success
  type: int
  sample: 1230
files_hashed:
  description:
    - How many files had to be read to know that.
  returned: success
  type: int
  sample: 4
files_sent:
  description:
    - How many files were sent.
  returned: success
  type: int
  sample: 4
bytes_sent:
  description:
    - The logical size of what was sent.
  returned: success
  type: int
  sample: 81920
bytes_wire:
  description:
    - How many bytes that took between the two ends; V(0) in check mode.
  returned: success
  type: int
  sample: 82431
requests:
  description:
    - What the service of a bucket was asked, repetitions included.
    - C(class_a) counts requests that write or list, C(class_b) those that read, C(free) those that delete.
    - C(sent) and C(received) are bytes of content.
    - C(monthly_usd) is what a month costs in US dollars if each run of the schedule asks as much, by the list prices of Cloudflare R2 and Amazon S3, without
      storage; V(null) for other services.
    - V(null) for every other target, and in check mode.
  returned: success
  type: dict
  sample: {class_a: 2, class_b: 0, free: 0, sent: 82431, received: 0, monthly_usd: 0.0789}
captured:
  description:
    - How many SQLite databases were captured through SQLite, because they changed or had changed too shortly before their last capture.
  returned: success
  type: int
  sample: 2
would_capture:
  description:
    - In check mode, how many would be; no database is opened to find that out.
  returned: success
  type: int
  sample: 0
stale:
  description:
    - How many entries were taken over from the last snapshot because they could not be read.
  returned: success
  type: int
  sample: 0
unstable:
  description:
    - How many files changed while they were copied.
  returned: success
  type: int
  sample: 0
vanished:
  description:
    - How many files were gone before they could be read.
  returned: success
  type: int
  sample: 0
healed:
  description:
    - How many paths this snapshot has whole that the one before lacked or held damaged.
  returned: success
  type: int
  sample: 0
anomaly:
  description:
    - Why the snapshot before is held since, because what changed looks like the work of ransomware; V(null) where it is not.
  returned: success
  type: str
  sample: null
tagged:
  description:
    - Those O(tags) that the newest snapshot got because nothing had changed; RV(changed) is V(true) then.
  returned: success
  type: list
  elements: str
  sample: [before-upgrade]
sample:
  description:
    - Up to 20 changes, in this order of their kinds, each by path.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /home/openclaw/.openclaw/openclaw.json
      change: modified
  contains:
    path:
      description:
        - The absolute path; bytes that no text can hold are written like V(\\xff).
      returned: always
      type: str
    change:
      description:
        - What has happened to it, V(added), V(modified), V(metadata) or V(removed).
      returned: always
      type: str
truncated:
  description:
    - Whether there are more than RV(sample) shows.
  returned: success
  type: bool
  sample: false
receipt:
  description:
    - What the target said when it published RV(snapshot_id); V(null) in check mode where a snapshot would be made.
  returned: success
  type: dict
  sample:
    id: 20261120T091500.123Z-9f1c3e1f
    sequence: 17
    parent: 20261120T090000.456Z-51d2aa07
    created: "2026-11-20T09:15:00.123Z"
    claimed: "2026-11-20T09:14:59.871Z"
    host: web1
    policy: openclaw
    tx: 0b7c2f9e6c8d4a15b3e7f0a1c2d3e4f5
    digest: 9f1c3e1f0a4be1a9c6a5a3e1b7f7d9a8a1b0c9d8e7f60514233241506f7e8d9c
    content_digest: 3b0d6c5a4f392817061524334251607f8e9dacbbcad9e8f70615243342516070
    entries: 1234
    files: 1102
    bytes: 52428800
    received_files: 4
    verified_bytes: 81920
    linked: 1098
    copied: 0
    link_limit: 0
    storage: native
    clone: hardlink
    engine: 0.1.0
    format: 1
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
    claimed:
      description:
        - When the host says that it began to read.
      returned: always
      type: str
    host:
      description:
        - The host's name on the target.
      returned: always
      type: str
    policy:
      description:
        - The name of the policy.
      returned: always
      type: str
    tx:
      description:
        - The random name of the attempt that made it.
      returned: always
      type: str
    digest:
      description:
        - SHA-256 over all entries of its manifest.
      returned: always
      type: str
    content_digest:
      description:
        - The same without the times of directories.
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
    received_files:
      description:
        - How many files the target received for it.
      returned: always
      type: int
    verified_bytes:
      description:
        - How many bytes the target hashed for it.
      returned: always
      type: int
    linked:
      description:
        - How many paths share their place on the disk with the parent.
      returned: always
      type: int
    copied:
      description:
        - How many files were copied inside the target.
      returned: always
      type: int
    link_limit:
      description:
        - How many of these because the file system allows no more hard links.
      returned: always
      type: int
    storage:
      description:
        - How metadata are kept, V(native) or V(portable).
      returned: always
      type: str
    clone:
      description:
        - How it took over what the parent has, V(hardlink), V(reflink) or V(btrfs).
      returned: always
      type: str
    engine:
      description:
        - The version that made it.
      returned: always
      type: str
    format:
      description:
        - The format of the receipt.
      returned: always
      type: int
hooks:
  description:
    - What became of the policy's hooks, in the order in which they ran; in check mode, those that would run.
    - When the task fails, it is there if the run came so far.
  returned: success
  type: list
  elements: dict
  sample:
    - event: before
      command: /etc/openclaw-backup/hooks/dump-postgresql
      rc: 1
      duration: 0.213
      error: exit code 1
      output_tail:
        - "pg_dump: error: connection to server on socket \"/run/postgresql/.s.PGSQL.5432\" failed: No such file or directory"
  contains:
    event:
      description:
        - Where in the policy it stands, V(before), V(after) or V(on_failure).
      returned: always
      type: str
    command:
      description:
        - Its program; the arguments may hold secrets, and are left out.
      returned: always
      type: str
    rc:
      description:
        - Its exit code, negative for a signal; V(null) where it did not run.
      returned: always
      type: int
    duration:
      description:
        - How long it took, in seconds.
      returned: always
      type: float
    error:
      description:
        - Why it counts as failed; V(null) where it does not.
      returned: always
      type: str
    output_tail:
      description:
        - The last lines that it printed, if it failed, without what looks like a secret.
      returned: always
      type: list
      elements: str
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
        - The kind of failure, such as V(usage), V(policy), V(guard), V(restore_first), V(locked), V(hook), V(target) or V(integrity).
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

from ..module_utils.action.backup import backup
from ..module_utils.ansible_module import HISTORY_OPTIONS, SELECTION_OPTIONS, BackupModule, policy_of, selection_of


def main() -> None:
    module = BackupModule(
        argument_spec={
            **HISTORY_OPTIONS,
            **SELECTION_OPTIONS,
            "sources": {"type": "list", "elements": "str"},
            "adopt": {"type": "bool", "default": False},
            "accept": {"type": "str"},
            "tags": {"type": "list", "elements": "str", "default": []},
        },
        mutually_exclusive=[("policy", other) for other in ("name", "target", "sources", *SELECTION_OPTIONS)],
        required_one_of=[("policy", "sources")],
        required_together=[("name", "sources", "target")],
    )
    params = module.params
    with module.reporting() as progress:
        policy = policy_of(params, sources=params["sources"], **selection_of(params))
        result = backup(
            policy,
            state_directory=module.state_directory,
            adopt=params["adopt"],
            accept=params["accept"],
            tags=params["tags"],
            dry_run=module.check_mode,
            progress=progress,
        )
    module.finish(result.to_dict(), before="%s, %s/%s" % (policy.target.url, policy.host, policy.name), after="sources", failure=result.failure())


if __name__ == "__main__":
    main()
