# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check: what a policy would protect and what not, and why; whether a snapshot can be made and brought back; how long the first one will take."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass, field, replace
from typing import AbstractSet, Any, Dict, List, Optional, Sequence, Set, Tuple

from ..errors import BackupError, IntegrityError, TargetError, UsageError, counted, printable, refused_by_system
from ..manifest.cache import ROW, Cache
from ..manifest.content import hash_file
from ..manifest.database import SIDECARS, database_of
from ..manifest.metadata import DeviceInode
from ..manifest.selection import Selection
from ..manifest.survey import CACHE_TAG, Survey, check_source, is_cache, is_database, lstat, survey
from ..manifest.walk import Descent, open_file
from ..observe.progress import Progress
from ..policy.model import Guards, Hooks, Policy
from ..target.contract import canary_name
from .backup import backup
from .locate import check_apart, open_target
from .notify import obstacles
from .restore import RestoreRequest, restore
from .result import Result
from .secrets import exposed
from .sources import Marked, check_sources, never_entered, with_sources
from .state import HostState, new_transaction
from .status import unprotected
from .verify import verify

SAMPLE = 20
_SAMPLED_BYTES = 32 << 20
_SAMPLED_SECONDS = 2.0
_CANARY_BYTES = 8 << 20
# What a file costs besides its bytes: the walk, the copy, the proof (measured by make bench: 58,840 files take 4 s more than their bytes).
_SECONDS_A_FILE = 70e-6
_OWN = "the state of this program, or the vault"


@dataclass
class CheckResult(Result):
    """What a policy means on this machine.

    ``sources``: ``{path, entries, bytes}`` each; ``entries``, ``files``, ``bytes`` of the first snapshot (a hard-linked file counts once); ``left_out``:
    ``{key, rule, paths, sample}`` for each key of the policy that leaves something out, directories counted without what is in them; ``secrets``:
    ``{files, readable}`` with the paths that every user can read; ``estimate``: ``{seconds, free}``, the time of the first run and the bytes free on the
    target, None where unknown, and after the first run; ``canary``: ``{bytes, duration, removed}`` of what was written to the target, read back and, where that
    is allowed, removed again, None where that was not asked for; ``anomaly``: the policy's thresholds; ``explained``: what ``explain`` says of a path.
    """

    profile: Optional[str] = None
    anomaly: Dict[str, int] = field(default_factory=dict)
    sources: List[Dict[str, Any]] = field(default_factory=list)
    entries: int = 0
    files: int = 0
    bytes: int = 0
    left_out: List[Dict[str, Any]] = field(default_factory=list)
    secrets: Dict[str, Any] = field(default_factory=dict)
    estimate: Dict[str, Any] = field(default_factory=dict)
    canary: Optional[Dict[str, Any]] = None
    explained: Optional[Dict[str, Any]] = None
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0


def check(policy: Policy, *, state_directory: str, path: Optional[str] = None, canary: bool = True, progress: Optional[Progress] = None) -> CheckResult:
    """Look at the sources as a run would, and with ``canary`` send a small snapshot to the target, read it back and remove it again.

    ``path``: explain that absolute path alone, and do nothing else. Raises ``BackupError`` where a run would be refused or cannot work.
    """
    progress = progress or Progress()
    started = time.time()
    state = HostState(state_directory, policy)
    result = CheckResult(profile=policy.profile, anomaly=dict(vars(policy.anomaly)))
    try:
        policy, result.warnings = with_sources(policy, state)
        check_apart(policy)
        open_target(policy.target, policy.host, policy.name, sources=policy.sources).check_sources()
        result.warnings += obstacles(policy) + exposed(policy)
        if policy.target.layout == "mirror":
            result.warnings += unprotected(policy)
        if path is not None:
            result.explained = explain(policy, path, never_entered(policy, state))
            return result
        with Descent(b"/") as root:
            found = _look(policy, state, root, result, progress)
            speed = _reading_speed(found, root, progress)
        if canary:
            progress.stage("canary", bytes=_CANARY_BYTES)
            try:
                result.canary = _fly(policy, state, result.warnings)
            except BackupError as error:
                if error.kind in ("vault_full", "no_space"):  # else it reads as if a first snapshot had been tried
                    error.message = "The canary, %d bytes that are only sent for a try, does not fit: %s" % (_CANARY_BYTES, error.message)
                raise
        _estimate(policy, speed, result, is_first=state.baseline() is None)
    except OSError as error:
        raise refused_by_system(error, "checking the policy") from error
    finally:
        progress.finish()
        result.duration = time.time() - started
    return result


# ---- what is taken -------------------------------------------------------------------------------------------------


def _look(policy: Policy, state: HostState, root: Descent, result: CheckResult, progress: Progress) -> Survey:
    progress.stage("walk")
    count = len(policy.sources)
    if policy.hooks.before:
        policy = _without_missing(policy, root, result)
    else:
        check_sources(policy, root, policy.guards.require)
    sources = sorted(os.fsencode(source).strip(b"/") for source in policy.sources)
    left: Dict[Tuple[str, str], List[bytes]] = {}
    rules = _Rules(policy.selection)

    def leave(path: bytes, why: str, is_dir: bool) -> None:
        source = next(source for source in sources if not source or path == source or path.startswith(source + b"/"))
        key, rule = rules.name(path[len(source) + 1 if source else 0 :], why, is_dir)
        left.setdefault((key, rule), []).append(path)

    found = survey(
        sources, policy.selection, Cache(), now=time.time(), root=root, skip=never_entered(policy, state), databases=policy.sqlite == "auto", leave=leave
    )
    closed = _count(found, policy, root, result)
    result.left_out = [
        {"key": key, "rule": rule, "paths": len(paths), "sample": [printable(b"/" + path) for path in sorted(paths)[:SAMPLE]]}
        for (key, rule), paths in sorted(left.items(), key=lambda item: -len(item[1]))
    ]
    unreadable = {**found.unreadable, **closed}
    if unreadable:
        path, code = min(unreadable.items())
        result.warnings.append("%s cannot be read, the first is %s (%s)" % (counted(len(unreadable), "path"), printable(b"/" + path), os.strerror(code)))
    if result.files < policy.guards.min_files and len(policy.sources) == count:
        result.warnings.append("%s selected, fewer than guards.min_files: a run would be refused" % counted(result.files, "file"))
    return found


def _without_missing(policy: Policy, root: Descent, result: CheckResult) -> Policy:
    """The policy without the sources that are not there now: its hooks, which are not run here, may make them."""
    missing = [source for index, source in enumerate(policy.sources) if check_source(root, source, "sources[%d]" % index) is None]
    for path in [*missing, *(path for path in policy.guards.require if not os.path.lexists(path))]:
        result.warnings.append("%s is missing; a run looks for it after the before hooks, which a check does not run" % printable(path))
    return replace(policy, sources=tuple(source for source in policy.sources if source not in missing))


def _count(found: Survey, policy: Policy, root: Descent, result: CheckResult) -> Dict[bytes, int]:
    """Count what a run would take, into ``result``; the files that cannot be read, which it does not take, with their errno."""
    profile = policy.found_profile
    is_secret = Marked(policy.sources, profile.secrets if profile is not None else ())
    per_source = {os.fsencode(source).strip(b"/"): [0, 0] for source in policy.sources}
    seen: Set[Tuple[int, int]] = set()
    open_to_all = _OpenToAll(root)
    secrets = 0
    readable: List[bytes] = []
    closed: Dict[bytes, int] = {}
    for folder in found.folders:
        prefix = folder.path + b"/" if folder.path else b""
        names = folder.names.split(b"\0") if folder.names else []
        journals = _journals(root, folder.path, names) if policy.sqlite == "auto" else frozenset()
        for name, row in zip(names, ROW.iter_unpack(folder.rows)):
            path, (mode, _uid, _gid, size, _mtime, _ctime, _inode, _device, links) = prefix + name, row
            is_file = stat.S_ISREG(mode)
            if is_file and (not links or name in journals):
                continue  # only looked at, or captured with its database
            if is_file and not _is_readable(root, folder.path, name):
                closed[path] = errno.EACCES
                continue
            result.entries += 1
            source = next((source for source in per_source if not source or path == source or path.startswith(source + b"/")), None)
            if source is not None:
                per_source[source][0] += 1
            if not is_file:
                continue
            result.files += 1
            if is_secret(path):
                secrets += 1
                if mode & 0o004 and open_to_all(folder.path):
                    readable.append(path)
            inode = found.links.get(path)
            if inode is not None and inode in seen:
                continue
            if inode is not None:
                seen.add(inode)
            result.bytes += size
            if source is not None:
                per_source[source][1] += size
    result.sources = [{"path": printable(b"/" + path), "entries": entries, "bytes": size} for path, (entries, size) in sorted(per_source.items())]
    result.secrets = {"files": secrets, "readable": [printable(b"/" + path) for path in sorted(readable)[:SAMPLE]]}
    if readable:
        result.warnings.append(
            "%s with secrets can be read by every user of this machine, the first is %s" % (counted(len(readable), "file"), printable(b"/" + min(readable)))
        )
    return closed


def _journals(root: Descent, folder: bytes, names: Sequence[bytes]) -> AbstractSet[bytes]:
    """Those of ``names`` that are parts of databases beside them."""
    among = frozenset(names)
    return {name for name in names if name.endswith(SIDECARS) and database_of(name) in among and _is_database(root, folder, database_of(name))}


def _is_readable(root: Descent, folder: bytes, name: bytes) -> bool:
    try:
        return os.access(name, os.R_OK, dir_fd=root.directory(folder), effective_ids=True, follow_symlinks=False)
    except OSError:
        return True  # gone


class _OpenToAll:
    """Whether every user may pass through all directories down to one."""

    def __init__(self, root: Descent) -> None:
        self._root = root
        self._known: Dict[bytes, bool] = {}

    def __call__(self, path: bytes) -> bool:
        if path not in self._known:
            try:
                is_open = bool(os.fstat(self._root.directory(path)).st_mode & 0o001)
            except OSError:
                is_open = False
            self._known[path] = is_open and (not path or self(path.rpartition(b"/")[0]))
        return self._known[path]


class _Rules:
    """Which key of a policy, and which pattern of it, leaves a path out."""

    def __init__(self, selection: Selection) -> None:
        self._patterns = [(text, Selection(exclude=(text,)).matcher()) for text in selection.exclude]

    def name(self, path: bytes, why: str, is_dir: bool) -> Tuple[str, str]:
        """``path`` relative to its source."""
        if why == "own":
            return "target", _OWN
        if why != "patterns":
            return why, ""
        for text, matcher in self._patterns:
            if matcher.excluded(path, is_dir):
                return "exclude", text
        return "include", "no pattern matches"


# ---- one path ------------------------------------------------------------------------------------------------------


def explain(policy: Policy, path: str, own: AbstractSet[DeviceInode]) -> Dict[str, Any]:
    """``{path, selected, key, rule, why}``: whether a run would take ``path``, and which ``key`` of the policy decides it, None where none does."""
    if not os.path.isabs(path):
        raise UsageError(
            "The path %s is not absolute" % printable(path), field="--explain", found=path, allowed="an absolute path", next="write the whole path"
        )
    at = os.fsencode(os.path.normpath(path)).strip(b"/")
    sources = [os.fsencode(source).strip(b"/") for source in policy.sources]
    source = next((source for source in sources if not source or at == source or at.startswith(source + b"/")), None)

    def answer(selected: bool, key: Optional[str], rule: str, why: str) -> Dict[str, Any]:
        return {"path": printable(b"/" + at), "selected": selected, "key": key, "rule": rule, "why": why}

    def beside(path: bytes) -> str:
        return os.fsdecode(b"/" + (database_of(path) or path))

    if source is None:
        if any(other.startswith(at + b"/") for other in sources if other):
            return answer(True, "sources", "", "it is a directory above a source; only what leads to the source is taken of it")
        real = os.fsencode(os.path.realpath(path)).strip(b"/")
        if real != at and any(not other or real == other or real.startswith(other + b"/") for other in sources):
            return answer(False, "sources", "", "it lies in no source by this name; by links it leads to /%s, which is in one" % printable(real))
        return answer(False, "sources", "", "it lies in no source")
    selection, rules = policy.selection, _Rules(policy.selection)
    matcher, captures = selection.matcher(), policy.sqlite == "auto"
    is_included = not matcher.has_include
    parts = at[len(source) + 1 if source else 0 :].split(b"/") if at != source else []
    here = source
    with Descent(b"/") as root:
        home = seen = _lstat(root, source)
        for number, name in enumerate(parts):
            marked = _mark(root, here, name, selection)
            if marked is not None:
                return answer(False, marked[0], marked[1], "%s empties the directory %s" % (marked[1], printable(b"/" + here)))
            above, here = here, here + b"/" + name if here else name
            seen = _lstat(root, here)
            relative = b"/".join(parts[: number + 1])
            is_last = number == len(parts) - 1
            is_dir = not is_last or (seen is not None and stat.S_ISDIR(seen.st_mode))
            if seen is not None and (seen.st_dev, seen.st_ino) in own:
                return answer(False, "target", "", "/%s is %s" % (printable(here), _OWN))
            if matcher.excluded(relative, is_dir):
                key, rule = rules.name(relative, "patterns", is_dir)
                if is_last and captures and _is_database(root, above, database_of(name)) and explain(policy, beside(here), own)["selected"]:
                    return answer(True, "sqlite", "", "it is a part of the database beside it, and captured with that")
                return answer(False, key, rule, "the pattern leaves %s out" % ("it" if here == at else printable(b"/" + here)))
            if not is_last and seen is not None and stat.S_ISLNK(seen.st_mode):
                return answer(False, None, "", "/%s is a symbolic link: it is kept as a link, and not followed" % printable(here))
            if selection.one_file_system and not is_last and seen is not None and home is not None and seen.st_dev != home.st_dev:
                return answer(False, "one_file_system", "", "/%s is another file system" % printable(here))
            is_included = is_included or matcher.included(relative, is_dir)
        folder, _, name = at.rpartition(b"/")
        is_part = captures and bool(parts) and _is_database(root, folder, database_of(name))
        if is_part and explain(policy, beside(at), own)["selected"]:
            return answer(True, "sqlite", "", "it is a part of the database beside it, and captured with that")
        if not is_included and parts:
            if seen is None or not stat.S_ISDIR(seen.st_mode):
                return answer(False, "include", "", "no pattern of include matches it or a directory above it")
            # What lies below decides, and only a walk knows that.
            found = survey([source], selection, Cache(), now=time.time(), root=root, skip=own, databases=captures)
            if at not in found.unreadable and at not in {walked.path for walked in found.folders}:
                return answer(False, "include", "", "no pattern of include matches it, a directory above it or anything below it")
            return answer(True, "include", "", "it leads to what a pattern of include matches; only that is taken of it")
        if is_part:
            return answer(False, "sqlite", "", "it is a part of the database beside it, which is left out")
        if seen is not None and stat.S_ISREG(seen.st_mode) and not _is_readable(root, folder, name):
            return answer(False, None, "", "it cannot be read (%s); what the last snapshot has of it is kept" % os.strerror(errno.EACCES))
        why = "it lies in the source /%s, and nothing leaves it out" % printable(source)
        if seen is None:
            why += "; it does not exist now"
        elif captures and parts and _is_database(root, folder, name):
            return answer(True, "sqlite", "", "it is an SQLite database, and captured while it is in use")
    if policy.found_profile is not None and Marked(policy.sources, policy.found_profile.secrets)(at):
        why += "; the profile marks it as secret"
    return answer(True, None, "", why)


def _lstat(root: Descent, path: bytes) -> Optional[os.stat_result]:
    try:
        return lstat(root, path)
    except OSError:
        return None


def _mark(root: Descent, folder: bytes, name: bytes, selection: Selection) -> Optional[Tuple[str, str]]:
    """The key and the file that empty a directory, if one does and is not ``name`` itself."""
    if not (selection.exclude_caches or selection.exclude_if_present):
        return None
    try:
        fd = root.directory(folder)
        names = set(os.listdir(fd))
    except OSError:
        return None
    marks = sorted(names.intersection(selection.exclude_if_present))
    if marks and os.fsdecode(name) not in marks:
        return "exclude_if_present", marks[0]
    if not marks and selection.exclude_caches and name != CACHE_TAG and is_cache(fd):
        return "exclude_caches", CACHE_TAG.decode("ascii")
    return None


def _is_database(root: Descent, folder: bytes, name: Optional[bytes]) -> bool:
    try:
        return name is not None and is_database(root.directory(folder), name)
    except OSError:
        return False


# ---- how long ------------------------------------------------------------------------------------------------------


def _reading_speed(found: Survey, root: Descent, progress: Progress) -> float:
    """Bytes a second that reading and hashing does here, by a sample; 0 where there is too little to tell."""
    progress.stage("sample")
    files = [
        (folder.path + b"/" + name if folder.path else name)
        for folder in found.folders
        for name, row in zip(folder.names.split(b"\0") if folder.names else (), ROW.iter_unpack(folder.rows))
        if stat.S_ISREG(row[0]) and row[8]
    ]
    total, started = 0, time.monotonic()
    for path in files[:: max(1, len(files) // 2000)]:
        try:
            fd, _found = open_file(*root.parent(path))
        except OSError:
            continue
        try:
            total += hash_file(fd)[1]
        except OSError:
            pass
        finally:
            os.close(fd)
        if total >= _SAMPLED_BYTES or time.monotonic() - started > _SAMPLED_SECONDS:
            break
    spent = time.monotonic() - started
    return total / spent if total >= 1 << 20 and spent > 0 else 0.0


def _estimate(policy: Policy, speed: float, result: CheckResult, *, is_first: bool) -> None:
    seconds: Optional[float] = None
    if is_first and result.canary is not None:
        writing = result.canary["bytes"] / max(result.canary["duration"], 1e-3)
        seconds = result.bytes / writing + result.files * _SECONDS_A_FILE + (result.bytes / speed if speed else 0.0)
    free: Optional[int] = None
    at = policy.target.path if policy.target.scheme == "file" else ""
    while at and not os.path.isdir(at):
        at = os.path.dirname(at)
    try:
        found = os.statvfs(at)
        free = found.f_bavail * found.f_frsize
    except OSError:
        pass
    result.estimate = {"seconds": None if seconds is None else round(seconds, 1), "free": free}
    if is_first and free is not None and free < result.bytes:
        result.warnings.append("the first snapshot needs up to %d bytes, and %d are free on the target" % (result.bytes, free))


# ---- the canary ----------------------------------------------------------------------------------------------------


def _fly(policy: Policy, state: HostState, warnings: List[str]) -> Dict[str, Any]:
    """Make a snapshot of a small tree by the whole way, verify it, bring it back, compare it byte for byte, and remove its history.

    It has a history of its own, whose name nobody else has. A bucket's credentials may well be such that cannot delete: that is no failure, and a warning.
    """

    def bury(name: str) -> None:
        target = open_target(policy.target, policy.host, name)
        try:
            target.bury()
        except TargetError as error:
            if error.kind != "denied":
                raise
            left.append(target.url if target.url.endswith(name) else "%s/%s/%s" % (target.url, policy.host, name))

    left: List[str] = []
    name = canary_name(new_transaction())
    with state.canary(name, bury) as scratch:
        os.mkdir(scratch, 0o700)
        tree, back = os.fsdecode(scratch + b"/canary"), os.fsdecode(scratch + b"/back")
        _hatch(tree, "a name with \udcff" if policy.target.layout == "mirror" else "a name\n with \udcff")  # not every bucket takes line feeds
        own = replace(
            policy,
            name=name,
            sources=(tree,),
            profile=None,
            found_profile=None,
            include=(),
            exclude=(),
            exclude_caches=False,
            exclude_if_present=(),
            one_file_system=False,
            guards=Guards(),
            hooks=Hooks(),
        )
        memory = os.fsdecode(scratch + b"/state")
        started = time.monotonic()
        try:
            backup(own, state_directory=memory)
            duration = time.monotonic() - started
            verified = verify(own, state_directory=memory)
            restored = restore(own, RestoreRequest(dest=back), state_directory=memory)
            wrong = verified.failure() or restored.failure() or _differences(tree, back + tree)
        finally:
            bury(name)
        if wrong is not None:
            raise wrong
    warnings += ["the credentials may not delete: %s is a canary that stays, until it is removed with others" % place for place in left]
    return {"bytes": _CANARY_BYTES, "duration": round(duration, 3), "removed": not left}


def _hatch(tree: str, odd: str) -> None:
    os.makedirs(os.path.join(tree, "directory", "empty"), 0o700)
    with open(os.path.join(tree, "content"), "wb") as stream:
        stream.write(os.urandom(_CANARY_BYTES))
    with open(os.path.join(tree, "directory", odd), "wb") as stream:
        stream.write(b"odd")
    os.symlink("../content", os.path.join(tree, "directory", "link"))
    os.chmod(os.path.join(tree, "directory"), 0o750)


def _differences(tree: str, back: str) -> Optional[BackupError]:
    for folder, directories, names in os.walk(tree):
        other = back + folder[len(tree) :]
        for name in [*directories, *names]:
            one, two = os.path.join(folder, name), os.path.join(other, name)
            if not os.path.lexists(two) or _bytes(one) != _bytes(two) or stat.S_IMODE(os.lstat(one).st_mode) != stat.S_IMODE(os.lstat(two).st_mode):
                return IntegrityError(
                    "The canary came back changed: %s" % printable(two), kind="canary", found=two, next="look at the vault's disk and its log before any backup"
                )
    return None


def _bytes(path: str) -> bytes:
    if os.path.islink(path):
        return os.fsencode(os.readlink(path))
    if os.path.isdir(path):
        return b""
    with open(path, "rb") as stream:
        return stream.read()
