# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who can read what opens a target. Whoever can need not bother with the application: he has its history."""

from __future__ import annotations

import os
import stat
from typing import Iterator, List, NamedTuple, Tuple

from ..errors import RefusedError, printable
from ..policy.model import Policy

_FIELDS = ("key_file", "credentials_file", "identity_file")


class _Secret(NamedTuple):
    field: str
    path: str
    found: os.stat_result

    @property
    def is_open(self) -> bool:
        """Whether others than root and this user can read it, or put another in its place."""
        return bool(self.found.st_mode & 0o077) or self.found.st_uid not in (0, os.geteuid())


def check_secrets(policy: Policy, *, as_root: bool = False) -> List[str]:
    """Warnings of secrets that the application can read whose files are backed up: they lie in a source, or belong to the owner of one; of root only where
    ``as_root`` says that the application may well be root, as in a container. ``RefusedError`` (kind ``secret``) where others can read them."""
    secrets = list(_secrets(policy))
    for secret in secrets:
        if secret.is_open:
            raise _refused(secret)
    return _within_reach(policy, secrets, as_root)


def exposed(policy: Policy) -> List[str]:
    """The same as warnings alone, for who only looks."""
    secrets = list(_secrets(policy))
    return [_refused(secret).message for secret in secrets if secret.is_open] + _within_reach(policy, secrets, False)


def missing(policy: Policy) -> List[str]:
    """What opens a target and is not there, each with its key of the policy."""
    return ["%s (%s) is missing" % (printable(path), where) for where, path in _named(policy) if not os.path.lexists(path)]


def _named(policy: Policy) -> Iterator[Tuple[str, str]]:
    for at, spec in [("target", policy.target), *(("copies[%d]" % index, spec) for index, spec in enumerate(policy.copies))]:
        for name in _FIELDS:
            path = getattr(spec, name)
            if path is not None:
                yield "%s.%s" % (at, name), path


def _secrets(policy: Policy) -> Iterator[_Secret]:
    for where, path in _named(policy):
        try:
            found = os.stat(path)
        except OSError:
            continue  # whoever needs it says so
        if stat.S_ISREG(found.st_mode):
            yield _Secret(where, path, found)


def _refused(secret: _Secret) -> RefusedError:
    return RefusedError(
        "%s (%s) is open to others than this user: owner %d, mode %04o"
        % (printable(secret.path), secret.field, secret.found.st_uid, stat.S_IMODE(secret.found.st_mode)),
        kind="secret",
        field=secret.field,
        found="%04o" % stat.S_IMODE(secret.found.st_mode),
        allowed="mode 0600 or 0400, and root or this user as its owner",
        next="chmod 600 it, and give it to the user that runs the backups; who could read it meanwhile may have a copy",
    )


def _within_reach(policy: Policy, secrets: List[_Secret], as_root: bool) -> List[str]:
    warnings = []
    owners = [(source, uid) for source, uid in _owners(policy) if uid or as_root]
    for secret in secrets:
        real = os.path.realpath(secret.path)
        inside = next((source for source in policy.sources if real.startswith(os.path.realpath(source).rstrip("/") + "/")), None)
        owned = next((source for source, uid in owners if uid == secret.found.st_uid), None)
        if inside is not None:
            warnings.append("%s lies in %s, and is backed up with it: whoever reads that can open the target" % (printable(secret.path), printable(inside)))
        elif owned is not None:
            text = "%s belongs to user %d, as %s does: the application that works there can read it, and open the target with it"
            warnings.append(text % (printable(secret.path), secret.found.st_uid, printable(owned)))
    return warnings


def _owners(policy: Policy) -> Iterator[Tuple[str, int]]:
    for source in policy.sources:
        try:
            yield source, os.lstat(source).st_uid
        except OSError:
            continue
