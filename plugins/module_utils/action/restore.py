# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore: compare what is there with the snapshot, move only what differs, write each file beside its place and put it there in one step."""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import nsmallest
from itertools import chain
from typing import AbstractSet, Any, Callable, Dict, FrozenSet, Generator, Iterable, List, Optional, Sequence, Set, Tuple, Union

from ..errors import EXIT_INTEGRITY, BackupError, IntegrityError, RefusedError, TargetError, UsageError, counted, printable, refused_by_system
from ..manifest.database import CaptureError, database_of, has_openers
from ..manifest.document import Manifest
from ..manifest.entry import DIRECTORY, Entry
from ..manifest.metadata import DeviceInode, Losses, apply, apply_open
from ..manifest.scan import Staging
from ..manifest.walk import DIRECTORY_FLAGS, Descent, ReplacedError, open_up
from ..observe.audit import rfc3339, seconds_of
from ..observe.progress import Progress
from ..policy.model import Policy
from ..policy.target_spec import TargetSpec
from ..process import who_has_open
from ..target.contract import Receipt, Snapshot
from ..target.tree.target import overlaps
from .choose import find_snapshot
from .comparison import Plan, Scope, bears, compare, find_wrong, lost_databases, make_scope, missing, without_parted_journals
from .locate import history_lost, name_of, open_target
from .placement import Failed, Placer, attempt
from .result import Result
from .sources import foreign_sources, never_entered
from .state import HostState, Unfinished

SAMPLE = 20
DAMAGED = 100


@dataclass
class RestoreResult(Result):
    """What a restore did, or in check mode would do.

    ``bytes_restored``: content written; ``files_replaced``: paths where something else was before; ``files_removed``: paths deleted because
    ``delete`` was asked for; ``kept``: paths moved into the undo directory; ``would_capture``: in check mode, how many of those that would be
    replaced are databases, which only a restore captures, and leaves alone where they hold what the snapshot does; ``verified``: everything in
    scope was read back and is as the manifest says; ``damaged``: paths whose content in the target is not what its manifest says, which were left
    as they were; ``sample``: up to 20 changes as ``{path, change}``, first those that cost data.
    """

    changed: bool = False
    snapshot_id: str = ""
    dest: str = "/"
    entries: int = 0
    files_restored: int = 0
    bytes_restored: int = 0
    metadata_restored: int = 0
    files_replaced: int = 0
    files_removed: int = 0
    kept: int = 0
    would_capture: int = 0
    verified: bool = False
    damaged: List[str] = field(default_factory=list)
    sample: List[Dict[str, str]] = field(default_factory=list)
    truncated: bool = False
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0

    @property
    def rc(self) -> int:
        """The exit code: 0, 3 with warnings, 7 when something in the target was damaged."""
        return EXIT_INTEGRITY if self.damaged else super().rc

    def to_dict(self) -> Dict[str, Any]:
        """The public result: up to 100 of ``damaged``, and ``files_damaged`` for how many there are."""
        listed = self.damaged[:DAMAGED]
        return {
            **super().to_dict(),
            "damaged": listed,
            "files_damaged": len(self.damaged),
            "truncated": self.truncated or len(self.damaged) > len(listed),
        }

    def failure(self) -> Optional[IntegrityError]:
        """What could not be restored because it is damaged in the target, as an error; None where all could."""
        if not self.damaged:
            return None
        return IntegrityError(
            "Not restored, because damaged in snapshot %s: %s, the first is %s" % (self.snapshot_id, counted(len(self.damaged), "file"), self.damaged[0]),
            field="snapshot",
            found=self.damaged[0],
            next="take them from an older snapshot, or from another copy of the vault",
        )


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore, and how.

    ``snapshot`` as ``find_snapshot`` takes it; ``paths`` absolute, empty for everything; ``dest`` an absolute directory below which every path is
    made, None for its own place; ``delete`` removes what the snapshot does not have; ``undo`` an absolute directory that receives what is
    replaced or removed; ``verify`` reads back what was written; ``confirm``: replacing data in its own place without ``undo`` is meant;
    ``spare_newer``: refuse to replace or remove, in its own place, what was modified since the snapshot was begun.
    """

    snapshot: str = "latest"
    paths: Tuple[str, ...] = ()
    dest: Optional[str] = None
    delete: bool = False
    undo: Optional[str] = None
    verify: bool = True
    confirm: bool = False
    spare_newer: bool = False


def restore(
    policy: Policy,
    request: RestoreRequest,
    *,
    state_directory: str,
    dry_run: bool = False,
    progress: Optional[Progress] = None,
    is_own_history: bool = True,
    is_recorded: bool = True,
) -> RestoreResult:
    """Bring back a snapshot, or some paths of it. Can be repeated: it then goes on where it was interrupted.

    ``is_own_history``: the history is this host's, so that a complete restore in place gives it its baseline. Where the target cannot serve it, or holds
    some of it damaged, the policy's copies are asked in their order, for what is missing
    of the very snapshot that the target has told of. Raises ``BackupError``: the target's own, where no copy can serve it either.
    ``is_recorded``: it is an event of its own, and not a part of one that has its own record, for which no copy is asked: a drill proves the target itself.
    """

    told = _Told()

    def take_from(spec: TargetSpec) -> RestoreResult:
        return _restore(replace(policy, target=spec), request, state_directory, dry_run, progress or Progress(), is_own_history, is_recorded, told)

    done: Optional[RestoreResult] = None
    failure: Optional[BackupError] = None
    unlike: List[str] = []
    try:
        done = take_from(policy.target)
    except (TargetError, IntegrityError, RefusedError) as error:
        if not (is_recorded and _may_lie_elsewhere(error)):
            raise
        failure = error
    for spec in policy.copies if is_recorded else ():
        if done is not None and not done.damaged:
            break
        try:
            more = take_from(spec)
        except (TargetError, IntegrityError, RefusedError) as error:
            if not _may_lie_elsewhere(error):
                raise
            if error.kind == _UNLIKE:
                unlike.append("nothing was taken from the copy in %s: %s" % (spec.url, error.message))
            continue
        why = failure.message if failure is not None else "%s of it cannot be read there" % counted(len(done.damaged) if done is not None else 0, "file")
        note = "snapshot %s was taken from the copy in %s, because %s cannot serve it: %s" % (more.snapshot_id, spec.url, policy.target.url, why)
        done = more if done is None else _sum_of(done, more)
        done.warnings.append(note)
    if done is None:
        assert failure is not None
        for text in unlike:
            (progress or Progress()).note(text)
        for url, newest in told.behind:
            what = "the copy in %s does not have it, its newest is %s: restore that with --snapshot %s" % (url, newest, newest)
            failure.next = "; ".join(filter(None, (failure.next, what)))
        raise failure
    done.warnings += unlike
    if done.damaged and told.settle is not None:
        told.settle(done)
    return done


# A copy that has another snapshot under the same id.
_UNLIKE = "copy_differs"


@dataclass
class _Told:
    """What the first vault that could be asked has said of the snapshot, and whether others could have made it say so: another one gives the content of
    just that, or nothing.

    ``behind``: copies that do not have it, each with its newest; ``own``: the restore from the policy's own target;
    ``settle``: the end of one in place that found something damaged, for when no copy has it either."""

    receipt: Optional[Receipt] = None
    manifest: Optional[Manifest] = None
    is_open: bool = False
    behind: List[Tuple[str, str]] = field(default_factory=list)
    own: Optional[_Restore] = None
    settle: Optional[Callable[[RestoreResult], None]] = None


def _may_lie_elsewhere(error: BackupError) -> bool:
    """Whether a copy may have what this target cannot give."""
    return not isinstance(error, RefusedError) or error.kind == "no_snapshot"


def _sum_of(first: RestoreResult, then: RestoreResult) -> RestoreResult:
    """What two restores of one snapshot did, one after the other."""
    counts = ("files_restored", "bytes_restored", "metadata_restored", "files_replaced", "files_removed", "kept", "duration")
    sample = first.sample + [item for item in then.sample if item not in first.sample]
    return replace(
        then,
        changed=first.changed or then.changed,
        sample=sample[:SAMPLE],
        truncated=first.truncated or then.truncated or len(sample) > SAMPLE,
        warnings=list(dict.fromkeys(first.warnings + then.warnings)),
        **{name: getattr(first, name) + getattr(then, name) for name in counts},
    )


def _room(policy: Policy, result: RestoreResult) -> str:
    """What a restore takes, and the least that there is where it writes to."""
    free = []
    for place in (policy.sources or ("/",)) if result.dest == "/" else (result.dest,):
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        found = os.statvfs(place)
        free.append((found.f_bavail * found.f_frsize, place))
    least, place = min(free)
    return "%d bytes are to be restored, and %d are free at %s" % (result.bytes_restored, least, printable(place))


def _restore(
    policy: Policy, request: RestoreRequest, state_directory: str, dry_run: bool, progress: Progress, is_own_history: bool, is_recorded: bool, told: _Told
) -> RestoreResult:
    run = _Restore(policy, request, HostState(state_directory, policy), progress, is_recorded, told)
    started = time.time()
    try:
        run.go(dry_run, is_own_history)
    except OSError as error:
        failure = refused_by_system(error, "restoring; what was restored stays, and a repeated restore goes on from there")
        if failure.kind == "no_space":
            failure.next = "free space and run again: %s" % _room(policy, run.result)
        raise failure from error
    finally:
        run.progress.finish()
        run.result.duration = time.time() - started
    return run.result


class _Restore:
    def __init__(self, policy: Policy, request: RestoreRequest, state: HostState, progress: Progress, is_recorded: bool, told: _Told) -> None:
        self.is_recorded = is_recorded
        self.told = told
        if told.own is None:
            told.own = self
        self.listed: Optional[Sequence[Snapshot]] = None  # what the target answered
        self.policy = policy
        self.request = request
        self.state = state
        self.progress = progress
        self.result = RestoreResult()
        self.as_root = os.geteuid() == 0
        self._is_fetched = policy.target.scheme != "file" or policy.target.layout != "tree"  # content comes to this machine first
        self.target = open_target(policy.target, policy.host, policy.name, sources=policy.sources)

    def go(self, dry_run: bool, is_own_history: bool) -> None:
        """The whole restore; leaves what it did in ``result``."""
        request, result = self.request, self.result
        self._check_directories()
        in_place = result.dest == "/"
        # Of what is charged for by the request only the newest is looked at, where that is enough.
        is_newest = request.snapshot == "latest" and self.told.receipt is None and not self.target.has_one_version
        newest = self.target.latest() if is_newest and self.target.requests is not None else None
        snapshots = [newest] if newest is not None else self.target.list()
        self.listed = snapshots
        baseline = self.state.baseline() if is_own_history else None
        if not snapshots and baseline is not None:
            raise history_lost(self.policy, baseline)
        snapshot, manifest = self._choose(snapshots)
        result.snapshot_id = snapshot.id
        scope = make_scope(manifest, request.paths, snapshot.id, is_open=self.told.is_open)
        result.entries = len(scope.entries)
        if scope.tamed:
            self.result.warnings.append(
                "%s would have come with rights that whoever may write the target could have given them (set-ID bits, capabilities, devices) "
                "and came without, the first is %s" % (counted(len(scope.tamed), "path"), printable(b"/" + scope.tamed[0]))
            )
        if in_place and not request.paths:
            self._refuse_foreign(manifest)
        self._check_undo(scope)
        if snapshot.damaged:
            self.progress.note("snapshot %s is known to be damaged in %s" % (snapshot.id, counted(snapshot.damaged.get("count", 0), "path")))
        with ExitStack() as stack:
            if in_place and is_own_history and not dry_run:
                # A backup in the middle of it would keep a mixture.
                self.state.prepare()
                stack.enter_context(self.state.locked())
            root = self._open_dest(dry_run)
            if root is not None:
                stack.enter_context(root)
                scope = self._without_parted_journals(root, scope)
            plan = self._plan(root, scope, manifest, dry_run)
            self._describe(plan)
            if root is not None:
                self._tell_of_users(root, plan)
            if in_place and request.spare_newer:
                _refuse_newer(plan, manifest, snapshot)
            if in_place and not (request.confirm or request.undo):
                self._want_confirmation(plan.replaced.union(plan.extra), dry_run)
            if dry_run or root is None:
                return
            content = stack.enter_context(closing(self._content(stack, snapshot, plan)))
            tree, first = next(content)  # a target that does not give it says so before anything is touched
            self._check_space(root, tree, plan)
            is_marked = in_place and is_own_history and self._mark(snapshot, manifest, plan)
            self._write(root, chain([(tree, first)], content), scope, plan)
            if in_place and is_own_history:
                if result.damaged:
                    self.told.settle = self.told.settle or partial(self._settle_damaged, snapshots[0], is_marked)
                else:
                    self._settle(snapshots[0], is_marked)
        if self.is_recorded:
            self._record(snapshot)

    def _choose(self, snapshots: Sequence[Snapshot]) -> Tuple[Snapshot, Manifest]:
        """What is to be restored: what was asked for, or where another vault has said what that is, the same. An id tells too little of it."""
        told = self.told
        try:
            snapshot = find_snapshot(snapshots, self.request.snapshot if told.receipt is None else told.receipt.id, name_of(self.policy))
        except RefusedError:
            if told.receipt is not None and snapshots:
                told.behind.append((self.policy.target.url, snapshots[0].id))
            raise
        if told.receipt is None:
            told.receipt = snapshot.receipt
        elif snapshot.receipt != told.receipt:
            raise IntegrityError(
                "Its snapshot %s is another one than the one that was found first: their receipts differ" % snapshot.id,
                kind=_UNLIKE,
                field="snapshot",
                found=snapshot.receipt.digest,
                allowed=told.receipt.digest,
                next="find out which vault tells the truth: verify the snapshot on both, in full",
            )
        if told.manifest is None:
            told.manifest = self.target.manifest(snapshot)
            told.is_open = self.target.is_open
        return snapshot, told.manifest

    def _content(self, stack: ExitStack, snapshot: Snapshot, plan: Plan) -> Generator[Tuple[Descent, Sequence[Entry]], None, None]:
        """The content to restore, portion by portion: where it lies, and which it is. A portion lies there until the next is asked for."""
        scratch = b""
        if self._is_fetched:
            scratch = stack.enter_context(self.state.scratch())
            os.mkdir(scratch, 0o700)
        for portion in self.target.portions(snapshot, plan.content):
            with self.target.fetch(snapshot, portion, scratch) as tree:
                yield tree, portion

    def _want_confirmation(self, lost: AbstractSet[bytes], dry_run: bool) -> None:
        if not lost:
            return
        first = "%s, the first is %s" % (counted(len(lost), "path"), printable(b"/" + min(lost)))
        what = "This would replace or delete %s, in place" % first
        how = (
            "set confirm, or name with undo a directory that keeps what is replaced, or with dest another one to restore to "
            "(the playbook's openclaw_backup_confirm, openclaw_backup_undo, openclaw_backup_dest); check mode with diff shows what would change"
        )
        if dry_run:
            self.result.warnings.append("%s, and be refused: %s" % (what, how))
            return
        raise RefusedError(what, kind="confirm", field="confirm", found=printable(b"/" + min(lost)), next=how)

    # ---- what and where ----------------------------------------------------------------------------------------------------

    def _check_directories(self) -> None:
        request = self.request
        for name, value in (("dest", request.dest), ("undo", request.undo)):
            if value is None:
                continue
            if not os.path.isabs(value):
                raise UsageError("%s is not absolute" % name, field=name, found=value, allowed="an absolute path", next="write the whole path")
            is_local = self.policy.target.scheme == "file"
            if is_local and os.path.realpath(value) != "/" and overlaps(self.policy.target.path, value):
                raise UsageError(
                    "%s and the vault %s lie inside one another" % (name, self.policy.target.path),
                    field=name,
                    found=value,
                    allowed="a directory outside the vault",
                    next="choose another directory",
                )
        self.result.dest = os.path.realpath(request.dest) if request.dest is not None else "/"
        is_outside = self.result.dest != "/" and not self.result.dest.startswith(os.path.realpath(os.fsdecode(self.state.root)) + "/")  # never taken
        for source in self.policy.sources if is_outside else ():
            if os.path.commonpath([self.result.dest, source]) == source:
                self.result.warnings.append("the copy lies inside the source %s, and the next backup takes it too" % printable(source))

    def _refuse_foreign(self, manifest: Manifest) -> None:
        """Whoever can add snapshots, with a stolen key perhaps, must not thereby write wherever they like on this machine."""
        foreign = foreign_sources(self.policy, manifest.header.sources)
        if foreign:
            raise RefusedError(
                "The snapshot holds %s, which the policy does not protect" % printable(foreign[0]),
                kind="foreign_source",
                field="sources",
                found=foreign[0],
                allowed="the sources of the policy: %s" % (", ".join(map(printable, self.policy.sources)) or "those of its profile"),
                next="if it is meant, name it as a path to restore, or restore to another directory and look at it",
            )

    def _check_undo(self, scope: Scope) -> None:
        if self.request.undo is None:
            return
        base, real = os.fsencode(self.result.dest).rstrip(b"/"), os.fsencode(os.path.realpath(self.request.undo))
        if real != base and not real.startswith(base + b"/"):
            return
        at = real[len(base) :].strip(b"/")
        while at and at not in scope.inside:
            at = at.rpartition(b"/")[0]
        if at or real == base:
            raise UsageError(
                "The undo directory lies inside what is restored",
                field="undo",
                found=self.request.undo,
                allowed="a directory outside the restored paths",
                next="choose another directory",
            )

    def _open_dest(self, dry_run: bool) -> Optional[Descent]:
        dest = self.result.dest
        try:
            if not dry_run:
                os.makedirs(dest, exist_ok=True)
            return Descent(os.fsencode(dest))
        except OSError as error:
            if dry_run and isinstance(error, FileNotFoundError):
                return None
            raise _unusable("dest", dest, "cannot be restored to", error) from error

    def _open_undo(self, undo: str) -> Descent:
        try:
            os.makedirs(undo, 0o700, exist_ok=True)
            return Descent(os.fsencode(os.path.realpath(undo)))
        except OSError as error:
            raise _unusable("undo", undo, "cannot keep what is replaced", error) from error

    # ---- planning ----------------------------------------------------------------------------------------------------------

    def _plan(self, root: Optional[Descent], scope: Scope, manifest: Manifest, dry_run: bool) -> Plan:
        self.progress.stage("compare", files=len(scope.entries))
        if root is None:
            return missing(scope, as_root=self.as_root)
        unseen: Set[bytes] = set()
        with ExitStack() as stack:
            staging: Optional[Staging] = None

            def captured(names: Sequence[bytes]) -> Optional[str]:
                nonlocal staging
                if self.policy.sqlite != "auto":
                    return None
                if dry_run:
                    unseen.update(names)
                    return None
                if staging is None:
                    staging = Staging(stack.enter_context(self.state.scratch()))
                    stack.callback(staging.close)
                try:
                    return staging.capture(root, names, os.fsencode(self.result.dest)).digest
                except CaptureError:
                    return None

            plan = compare(
                root,
                scope,
                manifest,
                as_root=self.as_root,
                delete=self.request.delete,
                keep_replaced=self.request.undo is not None,
                guarded=self._guarded(),
                advance=self.progress.advance,
                captured=captured,
            )
        self.result.would_capture = sum(entry.path in unseen for entry in plan.content)
        return plan

    def _without_parted_journals(self, root: Descent, scope: Scope) -> Scope:
        scope, parted = without_parted_journals(root, scope)
        if parted:
            self.result.warnings.append(
                "%d journals are left out, because they would be played back into databases that are here and not restored with them, the first is %s"
                % (len(parted), printable(b"/" + parted[0]))
            )
        return scope

    def _guarded(self) -> FrozenSet[Tuple[int, int]]:
        """(device, inode) of what no restore may delete: this machine's state, the vault, and what the undo directory already keeps."""
        guarded = never_entered(self.policy, self.state)
        if self.request.undo is None or not os.path.exists(self.request.undo):
            return guarded
        undo = os.stat(self.request.undo)
        return guarded | {(undo.st_dev, undo.st_ino)}

    def _describe(self, plan: Plan) -> None:
        result = self.result
        result.changed = not plan.is_empty
        result.files_restored = len(plan.content) + len(plan.specials) + len(plan.links)
        result.bytes_restored = sum(entry.size for entry in plan.content)
        result.metadata_restored = len(plan.metadata)
        result.files_replaced, result.files_removed = len(plan.replaced), len(plan.extra)
        created = {entry.path for group in (plan.content, plan.specials, plan.links) for entry in group} - plan.replaced
        changes = (("replaced", plan.replaced), ("removed", plan.extra), ("created", created), ("metadata", [entry.path for entry in plan.metadata]))
        listed = [(path, word) for word, paths in changes for path in nsmallest(SAMPLE, paths)]
        result.sample = [{"path": printable(b"/" + path), "change": word} for path, word in listed[:SAMPLE]]
        result.truncated = sum(len(paths) for _word, paths in changes) > SAMPLE
        if plan.spared:
            result.warnings.append(
                "what the snapshot does not have stays where it lies on another file system: %s, the first is %s"
                % (counted(len(plan.spared), "path"), printable(b"/" + plan.spared[0]))
            )

    def _tell_of_users(self, root: Descent, plan: Plan) -> None:
        """Who has a database open goes on writing into the file that is replaced, and nobody ever reads that again."""
        databases = lost_databases(root, plan)
        if not databases:
            return
        users = who_has_open(frozenset(databases.values()))
        base = os.fsencode(self.result.dest).rstrip(b"/") + b"/"
        busy = [(path, users.get(inode)) for path, inode in databases.items() if inode in users or has_openers(base + path)]
        if busy:
            path, user = busy[0]
            self.result.warnings.append(
                "%d databases that are to be replaced or removed are in use, the first is %s, by %s: what goes on to be written there is lost; "
                "stop the program, and restore again" % (len(busy), printable(base + path), "process " + user if user else "a process that is not seen here")
            )

    def _check_space(self, root: Descent, tree: Descent, plan: Plan) -> None:
        found = os.fstatvfs(root.root_fd)
        free, need = found.f_bavail * found.f_frsize, self.result.bytes_restored
        if self.result.dest == "/" or need <= free:
            return
        need = sum(_taken(tree, entry) for entry in plan.content)  # files with holes take less than their size
        if need > free:
            raise BackupError(
                "%s is too small: %d bytes are to be restored, %d are free" % (self.result.dest, need, free),
                kind="no_space",
                field="dest",
                found=free,
                next="nothing was touched; free space, or choose another directory",
            )

    # ---- writing -----------------------------------------------------------------------------------------------------------

    def _mark(self, snapshot: Snapshot, manifest: Manifest, plan: Plan) -> bool:
        """Note that this host's files are being replaced; whether the end of this restore ends what is noted: one of some paths ends no other."""
        paths, before = self.request.paths, self.state.unfinished()
        if paths and before is not None and (before.snapshot, list(before.paths)) != (snapshot.id, list(paths)):
            return False
        if not plan.is_empty:
            sources = paths or manifest.header.sources
            self.state.set_unfinished(Unfinished(snapshot.id, self.request.delete, self.request.undo, rfc3339(time.time()), paths, sources))
        return True

    def _write(self, root: Descent, content: Iterable[Tuple[Descent, Sequence[Entry]]], scope: Scope, plan: Plan) -> None:
        """Carry out the plan, and tell what could not be written."""
        with ExitStack() as stack:
            undo = None
            if self.request.undo is not None:
                undo = stack.enter_context(self._open_undo(self.request.undo))
            placer = Placer(root, undo, plan.replaced, self.request.verify)
            self._open_up(root, scope, plan)
            unmoved = []
            for path in sorted({database_of(path) or b"" for path in plan.extra} & plan.replaced & plan.anew):
                # Together with its journals, or not at all: killed in between, the next restore may find nothing more to replace.
                unmoved += attempt(path, placer.keep, path)
            unmoved += placer.remove(plan.leftovers + plan.extra)
            for path in plan.cleared:
                unmoved += attempt(path, placer.set_aside, path)
            root.forget()
            for entry in plan.made:
                unmoved += attempt(entry.path, _make_directory, root, entry.path, plan, self.as_root)
            self.progress.stage("restore", files=len(plan.content), bytes=self.result.bytes_restored)
            failed: List[Failed] = []
            for tree, entries in content:
                failed += placer.write_files(tree, entries, self.progress.advance, is_own=self._is_fetched)
            failed += self._place_rest(placer, plan, {item.path: item.reason for item in failed})
            for entry in plan.metadata:
                if entry.type != DIRECTORY:
                    unmoved += attempt(entry.path, _correct, root, entry, placer.losses, plan.inodes[entry.path])
            self._tell_failures(plan, failed, unmoved)
            wrong = []
            if self.request.verify:
                self.progress.stage("verify", files=sum(entry.type != DIRECTORY for entry in scope.entries))
                root.forget()
                is_lossy = bool(placer.losses.counts)
                wrong = find_wrong(root, scope, plan, placer.proven, as_root=self.as_root, is_lossy=is_lossy, advance=self.progress.advance)
            wrong += self._finish_directories(root, scope, plan, placer.losses)
        self._tell_wrong(wrong, failed + unmoved)
        self.result.kept = placer.kept
        placer.losses.add("devices", len(plan.skipped))
        self._tell_losses(placer.losses)

    def _open_up(self, root: Descent, scope: Scope, plan: Plan) -> None:
        """An ordinary user's own directories may forbid writing; they get their modes back at the end."""
        if self.as_root:
            return
        below = tuple(path + b"/" if path else b"" for path in scope.roots)
        for path in sorted(plan.busy):
            if path in scope.roots or path.startswith(below):
                try:
                    parent, name = root.parent(path)
                    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        open_up(parent, name, found)
                except OSError:
                    continue  # missing, or another's: writing will say so
        root.forget()

    def _place_rest(self, placer: Placer, plan: Plan, unwritten: Dict[bytes, str]) -> List[Failed]:
        result = []
        for entry in plan.specials + plan.links:
            if entry.group in unwritten:
                # Its group's content is what was there before; it must not get another name.
                problem: Optional[Failed] = Failed(entry.path, unwritten[entry.group])
            else:
                problem = placer.write_link(entry) if entry.is_group_follower else placer.write_special(entry)
            if problem is not None:
                result.append(problem)
                unwritten[problem.path] = problem.reason
        return result

    def _finish_directories(self, root: Descent, scope: Scope, plan: Plan, losses: Losses) -> List[bytes]:
        """Give directories their metadata, the deepest first: what is written below moves their times. Those that do not bear it then."""
        made = {entry.path for entry in plan.made}
        wrong = []
        for entry in reversed(scope.entries):
            if entry.type != DIRECTORY or not (entry.path in scope.inside or entry.path in made):
                continue
            try:
                # That the directories above are root's is nothing that an ordinary user lost.
                own = losses if entry.path in scope.inside else Losses()
                if not _finish_directory(root, entry, own, plan.inodes.get(entry.path), self.as_root) and not losses.counts:
                    wrong.append(entry.path)
            except OSError:
                wrong.append(entry.path)
        return wrong

    # ---- afterwards ----------------------------------------------------------------------------------------------------------

    def _tell_failures(self, plan: Plan, failed: Sequence[Failed], unmoved: Sequence[Failed]) -> None:
        result = self.result
        result.damaged = [printable(b"/" + item.path) for item in sorted(failed) if not item.reason]
        result.files_restored -= len(failed)
        lost = {item.path for item in failed}
        result.bytes_restored -= sum(entry.size for entry in plan.content if entry.path in lost)
        stays = set(plan.extra).intersection(item.path for item in unmoved)
        result.files_removed -= len(stays)
        unwritten = sorted(item for item in [*failed, *unmoved] if item.reason)
        if unwritten:
            path, reason = unwritten[0]
            result.warnings.append(
                "%s could not be written or removed, the first is %s (%s)" % (counted(len(unwritten), "path"), printable(b"/" + path), reason)
            )

    def _tell_wrong(self, wrong: Sequence[bytes], failed: Sequence[Failed]) -> None:
        self.result.verified = self.request.verify and not wrong
        told = {item.path for item in failed}
        lost = [path for path in wrong if path not in told]
        if lost:
            self.result.warnings.append(
                "after the restore, not as in the snapshot: %s, the first is %s" % (counted(len(lost), "path"), printable(b"/" + min(lost)))
            )

    def _tell_losses(self, losses: Losses) -> None:
        words = {
            "owner": ("the owner of %s could not be kept (only root can)", "path"),
            "setuid": ("%s lost the setuid or setgid bit with the owner", "program"),
            "xattrs": ("%s could not be kept (an ACL is one, too)", "extended attribute"),
            "devices": ("%s could not be made (only root can)", "device"),
        }
        for kind, count in sorted(losses.counts.items()):
            if count:
                text, noun = words[kind]
                self.result.warnings.append(text % counted(count, noun))

    def _settle(self, newest: Snapshot, is_marked: bool) -> None:
        """This host now holds what its history holds, as far as that can be had: it may back up again."""
        if not self.request.paths:
            own = self.told.own
            assert own is not None
            self._take_baseline(self, newest)
            if own is not self and own.listed:
                self._take_baseline(own, own.listed[0])
            elif own is not self and own.listed is None and own.state.baseline() is None:
                # Out of reach. Without one, this would look like a machine that knows nothing, at the next start, and whenever it is back.
                own.state.prepare()
                own.state.set_baseline(newest.receipt, self._manifest_of(self, newest))
        if is_marked:
            self.state.set_unfinished(None)

    def _settle_damaged(self, newest: Snapshot, is_marked: bool, done: RestoreResult) -> None:
        """The same where nobody has some of it: doing it again would bring no more."""
        with self.state.locked():
            self.result = done
            self._settle(newest, is_marked)
        done.warnings.append("what is damaged was left as it was here; it is not restored again, and the next backup goes on from what is here")

    def _take_baseline(self, where: _Restore, newest: Snapshot) -> None:
        try:
            where.state.prepare()
            where.target.settle()
            where.state.set_baseline(newest.receipt, self._manifest_of(where, newest))
            if where.target.has_one_version:
                where.state.forget_attempts()
        except BackupError as error:
            self.result.warnings.append("this host has no baseline for %s still: %s" % (where.policy.target.url, error))

    def _manifest_of(self, where: _Restore, newest: Snapshot) -> Manifest:
        told = self.told
        return told.manifest if told.manifest is not None and newest.receipt == told.receipt else where.target.manifest(newest)

    def _record(self, snapshot: Snapshot) -> None:
        result = self.result
        now = rfc3339(time.time())
        run = {
            "finished": now,
            "verb": "restore",
            "policy": self.policy.name,
            "host": self.policy.host,
            "target": self.policy.target.url,
            "result": "failed" if result.damaged else "warnings" if result.warnings else "ok",
            "rc": result.rc,
            "snapshot_id": snapshot.id,
            "dest": printable(result.dest),
            "files_restored": result.files_restored,
            "bytes_restored": result.bytes_restored,
            "files_removed": result.files_removed,
        }
        try:
            self.state.prepare()
            self.state.record(run, {"event": "restore", "snapshot": snapshot.id, "dest": printable(result.dest), "result": run["result"]})
        except (OSError, BackupError) as error:
            result.warnings.append("the record of this restore could not be written: %s" % error)


def _refuse_newer(plan: Plan, manifest: Manifest, snapshot: Snapshot) -> None:
    """``RefusedError`` (kind ``newer``) where something would be replaced or removed, in its own place, that was modified since the snapshot was begun."""
    since = seconds_of(manifest.header.claimed)
    newer = [path for path in sorted(plan.replaced.union(plan.extra)) if _last_modified(b"/" + path) > since]
    if newer:
        raise RefusedError(
            "%s here newer than snapshot %s, of which this machine knows nothing, the first is %s"
            % (counted(len(newer), "path") + (" is" if len(newer) == 1 else " are"), snapshot.id, printable(b"/" + newer[0])),
            kind="newer",
            field="baseline",
            found=printable(b"/" + newer[0]),
            next="go on from what is here with `openclaw-backup adopt POLICY`; or restore with `openclaw-backup restore POLICY --undo DIR`, which keeps in DIR "
            "what it replaces; keep the state on the volume that the files are on, and this is not asked again",
        )


def _last_modified(path: bytes) -> float:
    """When a path was last modified, a directory with what is in it and a database with its journals (s since the epoch); 0 where there is nothing."""
    times = [0.0]
    inside = (os.path.join(folder, name) for folder, _directories, names in os.walk(path) for name in names)
    for each in chain((path, path + b"-wal", path + b"-journal"), inside):
        with suppress(OSError):
            times.append(os.lstat(each).st_mtime)
    return max(times)


def _unusable(field: str, path: str, why: str, error: OSError) -> UsageError:
    return UsageError(
        "%s %s: %s" % (printable(path), why, "it is not a directory" if os.path.isfile(path) else error.strerror),
        field=field,
        found=path,
        allowed="a directory that this user can write",
        next="choose another directory",
    )


def _make_directory(root: Descent, path: bytes, plan: Plan, as_root: bool) -> None:
    """Make it and note in ``plan`` which inode it is. What root did not make and has not looked at gets no metadata."""
    parent, name = root.parent(path)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if as_root:
            return
        # below a directory that could not be listed
    fd = os.open(name, DIRECTORY_FLAGS | (0 if as_root else os.O_PATH), dir_fd=parent)
    try:
        if as_root and os.listdir(fd):
            raise ReplacedError("replaced meanwhile")  # a new one is empty
        found = os.fstat(fd)
    finally:
        os.close(fd)
    plan.inodes[path] = (found.st_dev, found.st_ino)


def _finish_directory(root: Descent, entry: Entry, losses: Losses, expected: Optional[DeviceInode], as_root: bool) -> bool:
    """Give a directory its metadata where it bears other; whether it bears them then. ``expected``: the inode that was made or looked at."""
    parent, name = root.parent(entry.path)
    at: Union[int, bytes]
    try:
        at = fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    except PermissionError:  # whoever may not read it may well own it; a path in /proc takes several times as long
        fd = os.open(name, DIRECTORY_FLAGS | os.O_PATH, dir_fd=parent)
        at = b"/proc/self/fd/%d" % fd
    try:
        found = os.fstat(fd)
        if bears(entry, found, at, as_root, follow=True):
            return True
        if (found.st_dev, found.st_ino) != expected:
            raise ReplacedError("neither looked at nor made")
        apply_open(at, entry, losses)
        return bears(entry, os.fstat(fd), at, as_root, follow=True)
    finally:
        os.close(fd)


def _correct(root: Descent, entry: Entry, losses: Losses, expected: DeviceInode) -> None:
    apply(*root.parent(entry.path), entry, losses, expected)


def _taken(tree: Descent, entry: Entry) -> int:
    """Bytes that a file takes on disk, as far as that can be told."""
    try:
        parent, name = tree.parent(entry.path)
        return min(entry.size, os.stat(name, dir_fd=parent, follow_symlinks=False).st_blocks * 512)
    except OSError:
        return entry.size
