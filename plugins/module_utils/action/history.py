# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a history: list its snapshots, show one, list its paths, compare two."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..errors import EXIT_DONE, UsageError, printable
from ..manifest.changeset import ChangeSet, diff
from ..manifest.document import Manifest
from ..manifest.entry import DIRECTORY, Entry
from ..policy.model import Policy
from ..target.contract import Snapshot
from ..target.tree.layout import damaged_paths
from .choose import find_snapshot
from .locate import check_not_lost, name_of, open_target
from .state import HostState

LISTED = 500
SAMPLE = 20


def check_present(policy: Policy, state_directory: str) -> None:
    """``TargetError`` where this host has committed to the history and there is none."""
    check_not_lost(policy, HostState(state_directory, policy), list_snapshots(policy))


def list_snapshots(policy: Policy) -> List[Snapshot]:
    """All snapshots of the policy's history, newest first."""
    return open_target(policy.target, policy.host, policy.name, sources=policy.sources).list()


def measured(policy: Policy, snapshots: Sequence[Snapshot], sizes: bool) -> List[Dict[str, Any]]:
    """``{bytes_own, bytes_shared, bytes_added}`` of snapshots that stand side by side, newest first; None without ``sizes``, when nothing is measured."""
    if not sizes:
        return [{"bytes_own": None, "bytes_shared": None, "bytes_added": None} for _snapshot in snapshots]
    found = open_target(policy.target, policy.host, policy.name, sources=policy.sources).sizes(snapshots)
    return [{"bytes_own": size.own, "bytes_shared": size.shared, "bytes_added": size.added} for size in found]


def describe_history(policy: Policy, *, sizes: bool = False) -> Dict[str, Any]:
    """All snapshots of the policy's history for machines, bounded.

    Keys: ``snapshots`` (public mappings as in ``list_snapshots`` and ``measured``, the newest 500 first, 20 paths of damage each), ``count`` (of all),
    ``bytes`` (logical size of the newest),
    ``sample``: up to 20 paths known to be damaged as ``{path, change}``, ``truncated``: there is more than that, ``changed`` (False), ``rc``, ``duration``.
    """
    started = time.time()
    found = list_snapshots(policy)
    measures = measured(policy, found[: LISTED + 1], sizes)
    listed = [{**bounded(snapshot.to_dict()), **measure} for snapshot, measure in zip(found[:LISTED], measures)]
    damaged = [printable(b"/" + path) for snapshot in found for path in sorted(damaged_paths(snapshot))]
    sample = [{"path": path, "change": "damaged"} for path in damaged[:SAMPLE]]
    return {
        "changed": False,
        "snapshots": listed,
        "count": len(found),
        "bytes": found[0].receipt.bytes if found else 0,
        "sample": sample,
        "truncated": len(found) > len(listed) or len(damaged) > len(sample),
        "rc": EXIT_DONE,
        "duration": round(time.time() - started, 3),
    }


def bounded(item: Dict[str, Any]) -> Dict[str, Any]:
    """A public snapshot mapping with at most 20 of its damaged paths."""
    if item["damaged"]:
        paths = [printable(b"/" + os.fsencode(path)) for path in item["damaged"].get("paths", ())[:SAMPLE]]
        item["damaged"] = {**item["damaged"], "paths": paths}
    return item


def show_snapshot(policy: Policy, wish: str) -> Tuple[Snapshot, Manifest]:
    """A snapshot with its manifest."""
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    snapshot = find_snapshot(target.list(), wish, name_of(policy))
    return snapshot, target.manifest(snapshot)


def list_paths(policy: Policy, wish: str, path: Optional[str], *, recursive: bool = False) -> Tuple[Snapshot, List[Entry]]:
    """The entries directly in directory ``path`` (absolute; None for the sources), or everything below it; a file lists itself."""
    snapshot, manifest = show_snapshot(policy, wish)
    if path is None:
        roots = sorted(os.fsencode(source).strip(b"/") for source in manifest.header.sources)
        if recursive:
            below = tuple(root + b"/" for root in roots)
            exact = frozenset(roots)
            return snapshot, [e for e in manifest.entries if b"" in exact or e.path in exact or e.path.startswith(below)]
        if roots != [b""]:
            return snapshot, [entry for entry in manifest.entries if entry.path in roots]
        path = "/"
    if not os.path.isabs(path):
        raise UsageError("The path %s is not absolute" % path, field="path", found=path, allowed="an absolute path")
    base = os.fsencode(os.path.normpath(path)).strip(b"/")
    by_path = manifest.by_path()
    entry = by_path.get(base)
    if base and entry is None:
        raise UsageError(
            "%s is not in snapshot %s" % (path, snapshot.id),
            kind="not_found",
            field="path",
            found=path,
            next="`openclaw-backup ls POLICY %s` shows where to begin" % snapshot.id,
        )
    if entry is not None and entry.type != DIRECTORY:
        return snapshot, [entry]
    prefix = base + b"/" if base else b""
    inside = [item for item in manifest.entries if item.path.startswith(prefix)]
    if not recursive:
        inside = [item for item in inside if b"/" not in item.path[len(prefix) :]]
    return snapshot, inside


def compare(policy: Policy, old: str, new: str) -> Tuple[Snapshot, Snapshot, ChangeSet]:
    """Two snapshots and what leads from the first to the second."""
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    snapshots = target.list()
    first, second = (find_snapshot(snapshots, wish, name_of(policy)) for wish in (old, new))
    return first, second, diff(target.manifest(first), target.manifest(second))


def content_bytes(changes: ChangeSet) -> Tuple[int, int]:
    """Logical bytes of files in what was added and removed; of what was modified the new ones count as added, the old ones as removed."""
    pairs = changes.modified
    return _content((*changes.added, *(new for _old, new in pairs))), _content((*changes.removed, *(old for old, _new in pairs)))


def _content(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries if not entry.is_group_follower)


def entry_to_dict(entry: Entry) -> Dict[str, Any]:
    """The public mapping of an entry: ``path`` absolute and printable, ``mtime`` in ns."""
    item: Dict[str, Any] = {
        "path": printable(b"/" + entry.path),
        "type": entry.type,
        "mode": "%04o" % entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
    }
    if entry.type == "f":
        item.update(size=entry.size, hash=entry.hash)
    if entry.link is not None:
        item["link"] = printable(entry.link)
    if entry.group is not None:
        item["group"] = printable(b"/" + entry.group)
    if entry.device is not None:
        item["device"] = list(entry.device)
    if entry.xattrs:
        item["xattrs"] = [printable(name) for name, _value in entry.xattrs]
    for flag in ("unstable", "stale"):
        if getattr(entry, flag):
            item[flag] = True
    return item
