#!/usr/bin/python
# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: manifest
short_description: List what directories hold, with a hash of every file
version_added: 0.1.0
description:
  - Makes the manifest of files and directories, the complete list of paths with types, owners, modes, times, links, attributes and content hashes
    that a snapshot of them would have.
  - Compares it with an older manifest, and keeps it as a file if asked to.
  - Every file is read; nothing but O(dest) is written.
author:
  - The openclaw.backup contributors (@openclaw)
extends_documentation_fragment:
  - openclaw.backup.attributes
  - openclaw.backup.selection
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - It shows what RV(sample) shows, the paths before and after.
options:
  sources:
    description:
      - Absolute paths of what is listed.
      - None may lie inside another, and none may be or lead through a symbolic link.
    type: list
    elements: str
    required: true
  baseline:
    description:
      - A manifest file to compare with, such as an older O(dest) or the C(manifest.jsonl.gz) of a snapshot.
      - By default it is what O(dest) holds.
      - Without any, every entry counts as added.
    type: path
  dest:
    description:
      - A file that receives the manifest, readable by its owner alone.
      - It is left alone where it holds the same already; directories of which only the time has moved count as the same.
    type: path
seealso:
  - module: openclaw.backup.snapshot
"""

EXAMPLES = r"""
---
- name: Fingerprint a directory
  openclaw.backup.manifest:
    sources: [/etc]
  register: etc

- name: Keep a manifest, and see what has changed since the last time
  openclaw.backup.manifest:
    sources: [/home/openclaw/.openclaw]
    exclude: [node_modules/, "*.tmp"]
    dest: /var/lib/openclaw.manifest
  register: openclaw

- name: Hold the disk against a snapshot that was restored to it
  openclaw.backup.manifest:
    sources: [/home/openclaw/.openclaw]
    baseline: /srv/vault/web1/openclaw/snapshots/20261120T091500.123Z-9f1c3e1f/manifest.jsonl.gz
  register: now
  failed_when: now.added + now.modified + now.metadata + now.removed > 0
"""

RETURN = r"""
---
changed:
  description:
    - Whether O(dest) was written, or would be in check mode.
  returned: always
  type: bool
  sample: true
dest:
  description:
    - The file, as given in O(dest); V(null) where none was asked for.
  returned: success
  type: str
  sample: /var/lib/openclaw.manifest
compared_with:
  description:
    - The file that the counts compare with; V(null) where there was none.
  returned: success
  type: str
  sample: /var/lib/openclaw.manifest
digest:
  description:
    - SHA-256 over all entries.
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
    - How many paths the manifest lists, the directories above the sources among them.
  returned: success
  type: int
  sample: 1234
files:
  description:
    - How many of them are regular files.
  returned: success
  type: int
  sample: 1102
bytes:
  description:
    - The logical size of these files, where hard links count once.
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
sample:
  description:
    - Up to 20 differences, in this order of their kinds, each by path.
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
        - What sets it apart from the baseline, V(added), V(modified), V(metadata) or V(removed).
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

from ..module_utils.action.inspect import inspect
from ..module_utils.ansible_module import SELECTION_OPTIONS, BackupModule, selection_of
from ..module_utils.policy.model import Policy


def main() -> None:
    module = BackupModule(
        argument_spec={
            **SELECTION_OPTIONS,
            "sources": {"type": "list", "elements": "str", "required": True},
            "baseline": {"type": "path"},
            "dest": {"type": "path"},
        }
    )
    params = module.params
    with module.reporting() as progress:
        policy = Policy.for_scan(sources=params["sources"], **selection_of(params))
        result = inspect(policy, baseline=params["baseline"], dest=params["dest"], dry_run=module.check_mode, progress=progress)
    module.finish(result.to_dict(), before=result.compared_with or "nothing", after="sources")


if __name__ == "__main__":
    main()
