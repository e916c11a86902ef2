# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was typed as POLICY to the policy."""

from __future__ import annotations

import os

from ..action.state import default_host
from ..errors import UsageError, printable
from ..policy.model import Policy
from ..policy.profiles import file_of
from .ownership import refuse_foreign_writers

DIRECTORY = "/etc/openclaw-backup/policies"
_SUFFIX = ".json"


def path_of(word: str) -> str:
    """The file that ``word`` names."""
    return word if "/" in word or word.endswith(_SUFFIX) else "%s/%s%s" % (DIRECTORY, word, _SUFFIX)


def load_policy(word: str) -> Policy:
    """The policy that ``word`` names: a path if it holds a '/' or ends in .json, else a file in ``DIRECTORY``.

    Raises PolicyError for a policy that is not right, UsageError of kind ``policy_permissions`` where root would trust what others can write.
    """
    path = path_of(word)
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
