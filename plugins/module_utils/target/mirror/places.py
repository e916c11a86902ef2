# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a path lies in a mirror: the places that moltworker's layout has, those of its older releases, and the names of objects."""

from __future__ import annotations

import os
import re
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ...errors import UsageError, printable

CONFIGURATION, WORKSPACE, SKILLS = "openclaw", "workspace", "skills"
PLACES = (CONFIGURATION, WORKSPACE, SKILLS)
# What older releases called them, and what its configuration was called.
OLD_PLACES = {"clawdbot": CONFIGURATION, "workspace-core": WORKSPACE}
SIGN = "openclaw/openclaw.json"
_RENAMED = {"clawdbot/clawdbot.json": SIGN}
# Where moltworker has them, for a mirror of which nobody says what it was made of.
_HOME = "/root"
# No service takes a longer name (bytes).
_MAX_KEY = 1024
# A byte that is not UTF-8 as rclone writes it, so that rclone gives the same name back.
_QUOTED = re.compile("\u201b([89A-F][0-9A-F])")


def places_of(sources: Sequence[str]) -> Dict[str, bytes]:
    """The path (relative to ``/``) of each place of a mirror of these sources; without sources those that moltworker has.

    A directory called ``skills`` has its place, one called ``clawd`` or ``workspace…`` another, whose directory ``skills`` goes where skills go; what is
    left is configuration. ``UsageError`` where two sources would share a place.
    """
    if not sources:
        sources = (_HOME + "/.openclaw", _HOME + "/clawd")
    found: Dict[str, bytes] = {}
    for source in sources:
        name = os.path.basename(source)
        place = SKILLS if name == "skills" else WORKSPACE if name == "clawd" or name.startswith("workspace") else CONFIGURATION
        path = os.fsencode(source).strip(b"/")
        if place in found:
            raise UsageError(
                "The sources %s and %s would share the place %s/ of the mirror" % (printable(b"/" + found[place]), printable(source), place),
                kind="policy",
                field="sources",
                found=source,
                allowed="one directory each for configuration, workspace (called clawd or workspace…) and skills (called skills)",
                next="give one of them a policy and a prefix of its own, or layout pack, which takes any number",
            )
        found[place] = path
    if WORKSPACE in found and SKILLS not in found:
        found[SKILLS] = found[WORKSPACE] + b"/skills"
    return found


def key_of(path: bytes, places: Mapping[str, bytes]) -> Optional[str]:
    """The object of a path; None for what lies in no place, as do the directories above the sources. ``UsageError`` where no object can be called that."""
    best: Optional[Tuple[bytes, str]] = None
    for place, root in places.items():
        if (path == root or path.startswith(root + b"/") or not root) and (best is None or len(root) > len(best[0])):
            best = (root, place)
    if best is None:
        return None
    root, place = best
    rest = path[len(root) :].lstrip(b"/") or path.rpartition(b"/")[2]  # a source may be a file
    text = "".join("\u201b%02X" % (ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in rest.decode("utf-8", "surrogateescape"))
    key = "%s/%s" % (place, text)
    if len(key.encode("utf-8")) > _MAX_KEY:
        raise UsageError(
            "The path %s is too long for the name of an object" % printable(b"/" + path),
            kind="name",
            field="sources",
            found=printable(b"/" + path)[:200],
            allowed="%d bytes" % _MAX_KEY,
            next="exclude it, or use layout pack",
        )
    return key


def path_of(key: str, places: Mapping[str, bytes]) -> Optional[bytes]:
    """The path of an object that somebody wrote, older releases among them; None for one that is in no place."""
    key = _RENAMED.get(key, key)
    place, _, rest = key.partition("/")
    root = places.get(OLD_PLACES.get(place, place))
    if root is None or not is_key(key):
        return None
    name = _QUOTED.sub(lambda match: chr(0xDC00 + int(match.group(1), 16)), rest).encode("utf-8", "surrogateescape")
    return b"/".join(filter(None, (root, name)))


def is_key(key: object) -> bool:
    """Whether it can be the name of an object in one of the places: nobody's word for a name leads elsewhere."""
    if type(key) is not str or len(key) > _MAX_KEY or "\0" in key:
        return False
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return False
    place, *parts = key.split("/")
    return (place in PLACES or place in OLD_PLACES) and bool(parts) and not any(part in ("", ".", "..") for part in parts)


def is_old(key: str) -> bool:
    """Whether it lies where an older release would look for it."""
    return key.partition("/")[0] in OLD_PLACES


def conflicts(new: Sequence[str], doomed: Sequence[str]) -> List[str]:
    """Those of the ``doomed`` keys that are above or below a new one: where objects are files, both cannot be there at once."""
    above = {"/".join(parts[:at]) for parts in (key.split("/") for key in new) for at in range(1, len(parts))}
    names = set(new)
    found = []
    for key in doomed:
        parts = key.split("/")
        if key in above or any("/".join(parts[:at]) in names for at in range(1, len(parts))):
            found.append(key)
    return found
