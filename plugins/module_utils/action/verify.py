# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify: hold a snapshot against its manifest, and the source against what the cache remembers of it."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..errors import EXIT_INTEGRITY, BackupError, IntegrityError, RefusedError, UsageError, printable
from ..manifest.cache import Cache
from ..manifest.entry import FILE
from ..manifest.scan import Staging, hash_changed
from ..manifest.survey import survey
from ..manifest.walk import Descent
from ..observe.audit import rfc3339
from ..observe.progress import Progress
from ..policy.model import Policy
from ..target.contract import Snapshot, Target, Verification
from ..target.tree.target import TreeTarget, in_part
from .choose import find_snapshot
from .locate import check_not_lost, name_of, open_target
from .result import Result
from .rolling import Rolling, begin, keep
from .sources import check_sources, with_sources
from .state import HostState

DEPTHS = ("quick", "full")
LISTED = 100
SAMPLE = 20


@dataclass
class VerifyResult(Result):
    """What a verification found.

    ``checked``: paths looked at; ``hashed_files`` and ``hashed_bytes`` were read whole; ``damaged``, ``missing`` and ``extra``: up to 100 paths
    each, ``damaged`` as ``{path, reason}``; ``counts`` has the full numbers; ``older``: the older snapshots of which a rolling verification has read what
    no newer one has, as ``{snapshot_id, damage}``, the latter None or in words; ``requests``: what a bucket was asked, else None; ``warnings``: what could
    not be compared.
    """

    ok: bool = True
    snapshot_id: Optional[str] = None
    depth: str = "full"
    slice: Optional[str] = None
    checked: int = 0
    hashed_files: int = 0
    hashed_bytes: int = 0
    damaged: List[Dict[str, str]] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    extra: List[str] = field(default_factory=list)
    counts: Dict[str, int] = field(default_factory=dict)
    older: List[Dict[str, Optional[str]]] = field(default_factory=list)
    requests: Optional[Dict[str, int]] = None
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0

    @property
    def rc(self) -> int:
        """The exit code: 0, 3 where something could not be compared, or 7 when something is not as it should be."""
        return super().rc if self.ok else EXIT_INTEGRITY

    def to_dict(self) -> Dict[str, Any]:
        """The public result; ``sample``: up to 20 findings as ``{path, change}``, ``truncated`` where there are more."""
        found = {"damaged": [item["path"] for item in self.damaged], "missing": self.missing, "extra": self.extra}
        sample = [{"path": path, "change": word} for word, paths in found.items() for path in paths][:SAMPLE]
        return {
            **super().to_dict(),
            "changed": False,
            "sample": sample,
            "truncated": sum(self.counts.values()) > len(sample),
        }

    def failure(self) -> Optional[IntegrityError]:
        """What is wrong, as an error; None where nothing is."""
        if self.ok:
            return None
        snapshot_id, first = self.snapshot_id, next(iter([*(item["path"] for item in self.damaged), *self.missing, *self.extra]), "")
        counts = _told(self.counts, first)
        if not first:
            snapshot_id, counts = next((item["snapshot_id"], str(item["damage"])) for item in self.older if item["damage"])
        if self.snapshot_id is None:
            advice = "look at the disk, and restore the files that are named"
            return IntegrityError("The sources are not what was backed up: %s" % counts, field="source", found=first, next=advice)
        advice = (
            "look at the vault's disk; what the newest snapshot lost is sent again when the host next talks to the vault; files that have not changed "
            "since share their bytes with older snapshots; where another vault has copies, `replicate --repair` takes from there what is damaged here"
        )
        return IntegrityError("Snapshot %s is not what was backed up: %s" % (snapshot_id, counts), field="snapshot", found=first or snapshot_id, next=advice)


def _told(counts: Mapping[str, int], first: str) -> str:
    return "%s, the first is %s" % (", ".join("%d %s" % (count, word) for word, count in counts.items() if count), first)


def parse_slice(text: str) -> Tuple[int, int]:
    """``n/t`` with 1 <= n <= t; ``UsageError`` otherwise."""
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second) <= 100000:
        return int(first), int(second)
    raise UsageError(
        "The slice %s is not n/t" % text,
        field="slice",
        found=text,
        allowed="n/t with 1 <= n <= t <= 100000, such as 3/30",
        next="give a share and how many there are, say the day of the week and 7",
    )


def verify(
    policy: Policy,
    *,
    state_directory: str,
    snapshot: str = "latest",
    depth: str = "full",
    part: Optional[Tuple[int, int]] = None,
    rolling: Optional[int] = None,
    source: bool = False,
    dry_run: bool = False,
    progress: Optional[Progress] = None,
) -> VerifyResult:
    """Check one snapshot, or with ``source`` the files that it was made of.

    ``depth`` quick looks at every path, full reads every byte; ``part`` (n, t) reads the n-th of t shares; ``rolling`` (t) that one of t shares of the
    newest snapshot whose turn was longest ago, and of some older ones what no newer one has. The result is kept with the snapshot
    unless ``dry_run``. Raises ``BackupError`` where the check itself cannot be made.
    """
    if depth not in DEPTHS:
        raise UsageError("The depth %s is unknown" % depth, field="depth", found=depth, allowed=" or ".join(DEPTHS), next="leave it out for full")
    if depth == "quick" and part is not None:
        raise UsageError(
            "A slice is read in full, and depth quick reads nothing", field="depth", found=depth, allowed="a slice, or depth quick", next="leave one out"
        )
    progress = progress or Progress()
    started = time.time()
    state = HostState(state_directory, policy)
    turns = begin(state, rolling, started) if rolling is not None else None
    if turns is not None:
        part = (turns.next, turns.shares)
    result = VerifyResult(depth=depth, slice="%d/%d" % part if part else None)
    try:
        if source:
            _verify_source(policy, state, part, result, progress, dry_run)
        else:
            target, snapshots = _verify_snapshot(policy, snapshot, depth, part, result, progress, state, not dry_run)
            if turns is not None:
                turns = _verify_older(target, snapshots, turns, result, progress, not dry_run, started)
    finally:
        progress.finish()
        result.duration = time.time() - started
    if not dry_run:
        try:
            _record(policy, state, result, source)
            if turns is not None:
                keep(state, turns)
        except (BackupError, OSError) as error:
            if result.ok:
                raise
            progress.note("the record of this verification could not be written: %s" % error)  # what was found matters more
    return result


def _verify_snapshot(
    policy: Policy,
    wish: str,
    depth: str,
    part: Optional[Tuple[int, int]],
    result: VerifyResult,
    progress: Progress,
    state: HostState,
    record: bool,
) -> Tuple[Target, Sequence[Snapshot]]:
    target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)
    snapshots = target.list()
    check_not_lost(policy, state, snapshots)
    chosen = find_snapshot(snapshots, wish, name_of(policy))
    result.snapshot_id = chosen.id
    progress.stage("verify", files=chosen.receipt.files, bytes=chosen.receipt.bytes if depth == "full" and part is None else 0)
    found = target.verify(chosen, depth=depth, part=part, record=record, tell=progress.advance)
    if found.unrecorded:
        progress.note("the result could not be kept with the snapshot: %s" % found.unrecorded)
    result.requests = target.requests._asdict() if target.requests is not None else None
    result.checked, result.hashed_files, result.hashed_bytes = found.checked, found.hashed_files, found.hashed_bytes
    result.ok = found.ok
    result.warnings += found.beside
    result.counts = {"damaged": len(found.damaged), "missing": len(found.missing), "extra": len(found.extra)}
    result.damaged = [{"path": printable(b"/" + damage.path), "reason": damage.reason} for damage in found.damaged[:LISTED]]
    result.missing = [printable(b"/" + path) for path in found.missing[:LISTED]]
    result.extra = [printable(b"/" + path) for path in found.extra[:LISTED]]
    return target, snapshots


def _verify_older(target: Target, snapshots: Sequence[Snapshot], turns: Rolling, result: VerifyResult, progress: Progress, record: bool, now: float) -> Rolling:
    """Read of the older snapshots whose turn it is what no newer one shares with them; what is remembered after this turn. Of trees alone: packs are shared out
    as wholes, and a vault on another machine reads its own."""
    if not isinstance(target, TreeTarget):
        return turns.noted((), snapshots, now)
    pairs = turns.next_older(snapshots)
    for snapshot, newer in pairs:
        progress.stage("verify", files=0, bytes=0)
        try:
            found = target.verify(snapshot, depth="full", newer=newer, record=record, tell=progress.advance)
        except IntegrityError as error:
            damage: Optional[str] = error.message
        except RefusedError:
            continue  # a prune was faster
        else:
            result.checked += found.checked
            result.hashed_files += found.hashed_files
            result.hashed_bytes += found.hashed_bytes
            damage = None if found.ok else _damage_of(found)
        result.ok = result.ok and damage is None
        result.older.append({"snapshot_id": snapshot.id, "damage": damage})
    return turns.noted([snapshot for snapshot, _newer in pairs], snapshots, now)


def _damage_of(found: Verification) -> str:
    paths = [*(damage.path for damage in found.damaged), *found.missing, *found.extra]
    counts = {"damaged": len(found.damaged), "missing": len(found.missing), "extra": len(found.extra)}
    return _told(counts, printable(b"/" + paths[0]))


def _verify_source(policy: Policy, state: HostState, part: Optional[Tuple[int, int]], result: VerifyResult, progress: Progress, dry_run: bool) -> None:
    """Read files again whose stat says that they did not change: other bytes now mean that the source's disk is rotting."""
    policy, _warnings = with_sources(policy, state)
    cache = Cache.load(state.cache)
    if not len(cache):
        raise UsageError(
            "There is nothing to compare the source with: this host has no hash cache",
            kind="no_cache",
            field="source",
            next="run a backup first; the one after it can be compared",
        )
    sources = sorted(os.fsencode(source).strip(b"/") for source in policy.sources)
    now = time.time()

    def chosen(path: bytes) -> bool:
        return in_part(path, part)

    with Descent(b"/") as root:
        check_sources(policy, root)
        captures = policy.sqlite == "auto"
        found = survey(sources, policy.selection, cache, now=now, root=root, skip=state.identity(), databases=captures)
        progress.stage("verify source", files=found.entries)
        databases = state.databases() if captures else None
        with ExitStack() as stack:
            staging: Optional[Staging] = None
            if captures and not dry_run:
                staging = Staging(stack.enter_context(state.scratch()))
                stack.callback(staging.close)
            hashed = hash_changed(found, cache, root=root, now=now, staging=staging, distrust=chosen, tell=progress.advance, databases=databases)
            scanned = hashed.finish(dict)
    result.checked = sum(1 for entry in scanned.entries if entry.type == FILE and chosen(entry.path))
    result.hashed_files, result.hashed_bytes = scanned.hashed_files + (scanned.captured if staging is not None else 0), scanned.hashed_bytes
    rotten = sorted(scanned.rotten)
    unreadable = sorted(scanned.unreadable)
    # What SQLite cannot read any more was not read by anybody else. What it never could was no database to the last run either.
    uncaptured = sorted(item for item in scanned.uncaptured.items() if databases and item[0] in databases)
    never = sorted(item for item in scanned.uncaptured.items() if item not in uncaptured)
    for path, reason in never[:SAMPLE]:
        result.warnings.append("%s was not compared: it could not be captured (%s)" % (printable(b"/" + path), reason))
    if len(never) > SAMPLE:
        result.warnings.append("%d more databases were not compared" % (len(never) - SAMPLE))
    listed = [(path, "changed without a trace") for path in rotten] + [(path, "unreadable") for path in unreadable]
    listed += [(path, "could not be captured: %s" % reason) for path, reason in uncaptured]
    result.ok = not listed
    result.counts = {"damaged": len(listed), "missing": 0, "extra": 0}
    result.damaged = [{"path": printable(b"/" + path), "reason": reason} for path, reason in listed[:LISTED]]


def _record(policy: Policy, state: HostState, result: VerifyResult, source: bool) -> None:
    state.prepare()
    outcome = "failed" if not result.ok else "warnings" if result.warnings else "ok"
    run = {
        "finished": rfc3339(time.time()),
        "verb": "verify",
        "policy": policy.name,
        "host": policy.host,
        "target": policy.target.url,
        "result": outcome,
        "rc": result.rc,
        "snapshot_id": result.snapshot_id,
        "depth": result.depth,
        "slice": result.slice,
        "source": source,
        **result.counts,
    }
    state.record(run, {"event": "verify", "snapshot": result.snapshot_id, "source": source, "result": outcome})
    if not source and (result.warnings or not result.ok):
        state.ask_soon()  # what the newest snapshot has lost is sent again by the next run
