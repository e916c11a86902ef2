# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was typed as POLICY to the policy."""

from __future__ import annotations

import os
import shlex
import stat

from ..action.state import default_host
from ..errors import UsageError, printable
from ..policy.model import Policy
from ..policy.profiles import file_of

DIRECTORY = "/etc/openclaw-backup/policies"
_SUFFIX = ".json"


def load_policy(word: str) -> Policy:
    """The policy that ``word`` names: a path if it holds a '/' or ends in .json, else a file in ``DIRECTORY``.

    Raises PolicyError for a policy that is not right, UsageError of kind ``policy_permissions`` where root would trust what others can write.
    """
    path = word if "/" in word or word.endswith(_SUFFIX) else "%s/%s%s" % (DIRECTORY, word, _SUFFIX)
    if not os.path.lexists(path):
        raise _absent(word, path)
    if os.geteuid() == 0:
        refuse_foreign_writers(path)
    policy = Policy.from_file(path, default_host=default_host())
    profile = None if policy.profile is None else file_of(policy.profile)
    if profile is not None and os.geteuid() == 0:
        refuse_foreign_writers(profile)
    return policy


def _absent(word: str, path: str) -> UsageError:
    try:
        known = sorted(name[: -len(_SUFFIX)] for name in os.listdir(DIRECTORY) if name.endswith(_SUFFIX))
    except OSError:
        known = []
    return UsageError(
        "There is no policy %s: %s does not exist" % (printable(word), printable(path)),
        kind="policy",
        field="policy",
        found=word,
        allowed="%s, or the path of a JSON file" % (", ".join(map(printable, known)) or "a name in %s" % DIRECTORY),
        next="check the name; a path has a '/' in it or ends in .json",
    )


def refuse_foreign_writers(path: str) -> None:
    """A policy names what root reads and writes: nobody else may be able to change or replace it. Raises UsageError."""
    real = os.path.realpath(path)
    for suspect in dict.fromkeys((real, os.path.dirname(real), os.path.dirname(os.path.abspath(path)))):
        try:
            found = os.stat(suspect)
        except OSError:
            continue  # reading the policy says what is wrong
        # In a sticky directory, /tmp above all, only the owner of a file can replace it.
        writable = found.st_mode & 0o022 and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX)
        if found.st_uid != 0 or writable:
            name = shlex.quote(printable(suspect))
            raise UsageError(
                "%s can be changed by others than root, and root would do what it says" % printable(suspect),
                kind="policy_permissions",
                field="policy",
                found="owner %d, mode %04o" % (found.st_uid, stat.S_IMODE(found.st_mode)),
                allowed="owner root, writable by nobody else",
                next="look at what it says, then `chown root %s && chmod go-w %s`" % (name, name),
            )
