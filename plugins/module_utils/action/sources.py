# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy's profile means on this machine: which sources there are, and which version of the application wrote them."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from dataclasses import replace
from typing import Dict, FrozenSet, Iterable, Iterator, List, Optional, Sequence, Tuple

from ..errors import RefusedError, printable
from ..manifest.selection import Matcher, Selection, selects
from ..manifest.survey import DeviceInode, check_source
from ..manifest.walk import Descent, open_file
from ..policy.guards import Removal, check_guards
from ..policy.model import Policy
from ..policy.profiles import VersionRule
from ..process import in_time
from .state import HostState

# The first id of people's accounts, and the last one (Debian's policy).
_PEOPLE = range(1000, 60000)
_CONFIGURATION_BYTES = 1 << 20
_LONGEST_VERSION = 200
_SEARCH_SECONDS = 10


def with_sources(policy: Policy, state: HostState) -> Tuple[Policy, List[str]]:
    """The policy with the sources that its profile finds here, where it names none itself; and warnings.

    One that was backed up before and is gone stays among them, so that the guards miss it. ``RefusedError`` (kind ``guard``) where there is none.
    """
    profile = policy.found_profile
    if policy.sources or profile is None:
        return policy, []
    wishes = [wish for source in profile.sources for wish in _in_homes(source)]
    found: List[str] = []
    warnings = []
    for wish in wishes:
        for path in sorted(glob.glob(wish)):
            kind = stat.S_IFMT(os.lstat(path).st_mode)
            if kind == stat.S_IFLNK:
                warnings.append("%s is a symbolic link and not followed; name in `sources` what it leads to, if it is to be protected" % printable(path))
            elif kind in (stat.S_IFDIR, stat.S_IFREG):
                found.append(path)
    before = [path for path in state.sources() if path not in found and any(fnmatch.fnmatchcase(path, wish) for wish in wishes)]
    chosen = _outermost(sorted({*found, *before}))
    if not chosen:
        raise RefusedError(
            "The profile %s finds nothing to protect on this machine" % policy.profile,
            field="profile",
            found=", ".join(map(printable, profile.sources)),
            allowed="at least one of %s" % ", ".join(map(printable, profile.sources)),
            next="install the application first, or name `sources` in the policy",
        )
    return replace(policy, sources=tuple(chosen)), warnings


def foreign_sources(policy: Policy, sources: Sequence[str]) -> List[str]:
    """Those of a snapshot's ``sources`` that the policy does not protect; none where it does not say what it protects."""
    if not policy.sources and policy.found_profile is None:
        return []
    if policy.sources:
        return [path for path in sources if not any(path == own or path.startswith(own.rstrip("/") + "/") for own in policy.sources)]
    wishes = [wish for source in policy.found_profile.sources for wish in _in_homes(source)] if policy.found_profile is not None else []
    return [path for path in sources if not any(fnmatch.fnmatchcase(path, wish) for wish in wishes)]


def _in_homes(source: str) -> Iterator[str]:
    """A profile's source with ``~`` for every home directory: for root all of them, alone those of people; else the user's own."""
    if not source.startswith("~"):
        yield source
        return
    if os.geteuid() != 0:
        yield glob.escape(os.path.expanduser("~")) + source[1:]
        return
    import pwd

    homes = {
        os.path.normpath(user.pw_dir)
        for user in pwd.getpwall()
        if user.pw_dir.startswith("/") and (source != "~" or user.pw_uid == 0 or user.pw_uid in _PEOPLE) and os.path.normpath(user.pw_dir) != "/"
    }
    for home in sorted(homes):
        yield glob.escape(home) + source[1:]


def _outermost(paths: Sequence[str]) -> List[str]:
    return [path for path in paths if not any(path.startswith(other + "/") for other in paths)]


def check_sources(policy: Policy, root: Descent, required: Sequence[str] = ()) -> None:
    """The guards that need no manifest: ``RefusedError`` where a source, or a path of ``required``, is missing."""
    check_guards(
        policy.guards,
        files=policy.guards.min_files,
        missing_required=[path for path in required if not os.path.lexists(path)],
        missing_sources=[source for index, source in enumerate(policy.sources) if check_source(root, source, "sources[%d]" % index) is None],
        removal=Removal(0, 0, 0),
        digest="",
        accepted=None,
    )


def never_entered(policy: Policy, state: HostState) -> FrozenSet[DeviceInode]:
    """(device, inode) of this machine's state and of the vault: mounted a second time inside a source, it would be backed up into itself."""
    if policy.target.scheme != "file":
        return state.identity()
    try:
        vault = os.stat(policy.target.path)
    except OSError:
        return state.identity()
    return state.identity() | {(vault.st_dev, vault.st_ino)}


class Marked:
    """Whether a path below one of the sources is what patterns of a profile name."""

    def __init__(self, sources: Iterable[str], patterns: Tuple[str, ...]) -> None:
        self._sources = [os.fsencode(source).strip(b"/") for source in sources]
        self._matcher: Optional[Matcher] = Selection(exclude=patterns).matcher() if patterns else None

    def __call__(self, path: bytes) -> bool:
        if self._matcher is None or not any(not source or path.startswith(source + b"/") for source in self._sources):
            return False
        return not selects(self._matcher, self._sources, path, False)


def application_of(policy: Policy, root: Descent) -> Tuple[Dict[str, str], List[str]]:
    """``{profile, version}`` for a manifest's header, and warnings; nothing without a profile, no version where none is found."""
    if policy.profile is None or policy.found_profile is None:
        return {}, []
    result = {"profile": policy.profile}
    rule = policy.found_profile.version
    if rule is None:
        return result, []
    # A pattern can take longer than anybody lives, and nobody can tell by looking at it.
    found = in_time(lambda: b"=" + _version(rule, policy.sources, root), _SEARCH_SECONDS)
    if found is None:
        text = "version.pattern of the profile %s was looked for in vain for %d s and given up: simplify it" % (printable(policy.profile), _SEARCH_SECONDS)
        return result, [text]
    return ({**result, "version": printable(found[1:])} if found != b"=" else result), []


def _version(rule: VersionRule, sources: Sequence[str], root: Descent) -> bytes:
    """The first that is found, at most ``_LONGEST_VERSION`` bytes of it; empty for none."""
    pattern = re.compile(rule.pattern.encode("utf-8", "surrogateescape"))
    for source in sources:
        for file in rule.files:
            match = pattern.search(head(root, os.fsencode(source + file).strip(b"/"), _CONFIGURATION_BYTES))
            if match is not None and match.group(1) is not None:
                return match.group(1)[:_LONGEST_VERSION]
    return b""


def head(root: Descent, path: bytes, size: int) -> bytes:
    """The first bytes of a file; none where there is no file that can be read."""
    try:
        fd, _found = open_file(*root.parent(path))
        try:
            return os.read(fd, size)
        finally:
            os.close(fd)
    except OSError:
        return b""
