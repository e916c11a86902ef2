# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inspect: make the manifest of what lies in the sources, compare it with an older one, keep it as a file. Needs no target and no state."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional

from ..errors import BackupError, IntegrityError, UsageError, counted, printable
from ..manifest.cache import Cache
from ..manifest.changeset import diff
from ..manifest.document import Header, Manifest, read_manifest
from ..manifest.entry import Entry
from ..manifest.scan import hash_changed
from ..manifest.survey import survey
from ..manifest.walk import CREATE_FLAGS, Descent
from ..observe.audit import rfc3339
from ..observe.progress import Progress
from ..policy.model import Policy
from ..version import VERSION
from .backup import sample
from .result import Result
from .sources import check_sources
from .state import default_host, new_transaction, user_names


@dataclass
class InspectResult(Result):
    """What the sources hold, and how that differs from the baseline.

    ``changed``: ``dest`` was written, or in check mode would be; ``compared_with``: the file that the counts speak of, None where there was none
    and everything counts as added; ``bytes``: logical size, hard links once; ``sample``: up to 20 changes as ``{path, change}``, ``truncated``
    when there are more; ``duration`` in seconds.
    """

    changed: bool = False
    dest: Optional[str] = None
    compared_with: Optional[str] = None
    digest: str = ""
    content_digest: str = ""
    entries: int = 0
    files: int = 0
    bytes: int = 0
    added: int = 0
    modified: int = 0
    metadata: int = 0
    removed: int = 0
    sample: List[Dict[str, str]] = field(default_factory=list)
    truncated: bool = False
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0


def inspect(
    policy: Policy, *, baseline: Optional[str] = None, dest: Optional[str] = None, dry_run: bool = False, progress: Optional[Progress] = None
) -> InspectResult:
    """Read everything that ``policy`` selects. Raises ``BackupError``.

    ``baseline``: manifest file to compare with, by default what ``dest`` holds; ``dest``: file that receives the manifest (0600), left alone where
    it holds the same already, times of directories aside.
    """
    progress = progress or Progress()
    started = time.time()
    result = InspectResult(dest=dest)
    try:
        before = _kept(dest, policy)
        base = before if baseline is None else _read_baseline(baseline)
        result.compared_with = None if base is None else baseline or dest
        manifest = _scan(policy, base, result, progress)
        _describe(base, manifest, result)
        result.changed = dest is not None and (before is None or _content(before) != _content(manifest))
        if dest is not None and result.changed and not dry_run:
            _write(dest, manifest)
    finally:
        progress.finish()
        result.duration = time.time() - started
    return result


def _content(manifest: Manifest) -> object:
    return manifest.content_digest, manifest.header.sources, manifest.header.selection


def _kept(dest: Optional[str], policy: Policy) -> Optional[Manifest]:
    """The manifest that ``dest`` holds; None where it holds none. ``UsageError`` where it cannot become one."""
    if dest is None:
        return None
    if not os.path.isabs(dest):
        raise UsageError("dest is not absolute", field="dest", found=dest, allowed="an absolute path", next="write the whole path, starting with '/'")
    folder = os.path.dirname(dest)
    if os.path.isdir(dest) or not os.path.isdir(folder):
        wrong = "is a directory" if os.path.isdir(dest) else "lies in no directory"
        raise UsageError(
            "dest %s %s" % (printable(dest), wrong),
            field="dest",
            found=dest,
            allowed="a file in an existing directory",
            next="name a file, or make its directory",
        )
    for source in policy.sources:
        real = os.path.join(os.path.realpath(folder), os.path.basename(dest))
        if os.path.commonpath([real, os.path.realpath(source)]) == os.path.realpath(source):
            raise UsageError(
                "dest %s lies inside the source %s: writing it would change what it lists" % (printable(dest), printable(source)),
                field="dest",
                found=dest,
                allowed="a file outside the sources",
                next="choose another directory",
            )
    try:
        return read_manifest(os.fsencode(dest))
    except IntegrityError:
        return None


def _read_baseline(path: str) -> Manifest:
    if not os.path.isabs(path) or not os.path.lexists(path):
        wrong = "does not exist" if os.path.isabs(path) else "is not absolute"
        raise UsageError(
            "The baseline %s %s" % (printable(path), wrong),
            field="baseline",
            found=path,
            allowed="the absolute path of a manifest file",
            next="make one with dest, or take manifest.jsonl.gz of a snapshot",
        )
    try:
        return read_manifest(os.fsencode(path))
    except IntegrityError as error:
        error.field = "baseline"
        raise


def _scan(policy: Policy, base: Optional[Manifest], result: InspectResult, progress: Progress) -> Manifest:
    now = time.time()
    cache = Cache()
    sources = sorted(os.fsencode(source).strip(b"/") for source in policy.sources)

    def previous() -> Mapping[bytes, Entry]:
        return base.by_path() if base is not None else {}

    with Descent(b"/") as root:
        check_sources(policy, root)
        progress.stage("walk")
        found = survey(sources, policy.selection, cache, now=now, root=root)
        progress.stage("hash", files=found.entries)
        scanned = hash_changed(found, cache, root=root, now=now, tell=progress.advance).finish(previous)
    if scanned.unreadable:
        path, code = min(scanned.unreadable.items())
        result.warnings.append(
            "%s could not be read, the first is %s (%s)" % (counted(len(scanned.unreadable), "path"), printable(b"/" + path), os.strerror(code))
        )
    entries = scanned.entries
    header = Header(
        host=default_host(),
        policy="",
        sources=policy.sources,
        selection=policy.selection.to_dict(),
        engine=VERSION,
        claimed=rfc3339(now),
        names=user_names({entry.uid for entry in entries}, {entry.gid for entry in entries}),
    )
    return Manifest(header, scanned.lines, entries)


def _describe(base: Optional[Manifest], manifest: Manifest, result: InspectResult) -> None:
    changes = diff(base, manifest)
    result.digest, result.content_digest = manifest.digest, manifest.content_digest
    result.entries, result.files, result.bytes = len(manifest.lines), manifest.files, manifest.total_size
    result.added, result.modified = len(changes.added), len(changes.modified)
    result.metadata, result.removed = len(changes.metadata), len(changes.removed)
    result.sample, result.truncated = sample(changes)


def _write(dest: str, manifest: Manifest) -> None:
    """Put the file in its place in one step."""
    directory, _, name = os.fsencode(dest).rpartition(b"/")
    temporary = b"%s/.%s.%s" % (directory, name[:200], new_transaction()[:8].encode("ascii"))
    try:
        with open(os.open(temporary, CREATE_FLAGS, 0o600), "wb") as stream:
            stream.write(manifest.to_bytes())
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, dest)
    except OSError as error:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise BackupError(
            "dest %s cannot be written: %s" % (printable(dest), error.strerror),
            kind="no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "failed",
            field="dest",
            found=dest,
            allowed="a file in a directory that this user can write",
            next="choose another directory, or make room",
        ) from error
