# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up when files change: once they rest, and now and then while they do not.

What the kernel does not tell of is left to the schedule, which goes on beside it: writes through shared memory, changes that other machines make, whatever
happens while too many directories would have to be watched.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import stat
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import AbstractSet, Callable, List, NamedTuple, Sequence

from ..errors import EXIT_FAILED, BackupError, LockedError, RefusedError, refused_by_system
from ..manifest.cache import Cache
from ..manifest.inotify import Change, Watches, most_watches
from ..manifest.selection import selects
from ..manifest.survey import survey
from ..manifest.walk import Descent
from ..observe.progress import Progress
from ..policy.model import Policy
from ..policy.schedule import is_within
from ..process import lock, starting
from .result import Result
from .scheduled import run_patiently
from .sources import check_sources, never_entered, with_sources
from .state import HostState

# About 100 MB of the kernel's memory.
_MOST = 100_000
_LOOK_SECONDS = 5.0


class Pace(NamedTuple):
    """Seconds. ``quiet``: a run begins when nothing has changed for so long; ``longest``: or so long after the first change; ``rest``: from the begin of
    one run to that of the next at least; ``missing``: until a source that is missing is looked for again, ``again``: until too many directories are counted
    again."""

    quiet: float = 10.0
    longest: float = 60.0
    rest: float = 60.0
    missing: float = 60.0
    again: float = 3600.0


@dataclass
class WatchResult(Result):
    """What became of it: ``runs`` that changes have started, ``failed`` ones among them; ``directories`` that were watched last; ``is_alone``: whether no
    other process watched this policy already; ``duration`` in seconds."""

    runs: int = 0
    failed: int = 0
    directories: int = 0
    is_alone: bool = True
    warnings: List[str] = field(default_factory=list)
    duration: float = 0.0


def watch(
    policy: Policy,
    *,
    state_directory: str,
    is_current: Callable[[], bool],
    tell: Callable[[str], None],
    progress: Progress,
    pace: Pace = Pace(),
) -> WatchResult:
    """Back up whenever files have changed, until a signal asks to end or the policy is not ``is_current`` any more.

    ``tell`` hears what somebody should know meanwhile. Another process that watches for the same policy is no error: this one ends at once.
    Raises ``BackupError`` where the state directory cannot be used.
    """
    state = HostState(state_directory, policy)
    state.prepare()
    started = time.monotonic()
    result = WatchResult()
    try:
        fd = lock(state.directory + b"/watch.lock", fcntl.LOCK_EX, "Another watch of %s" % policy.name, patience=0)
    except LockedError:
        progress.note("another process watches for %s already" % policy.name)
        result.is_alone = False
        return result
    try:
        _Watch(policy, state, state_directory, is_current, tell, progress, pace, result).go()
    except (KeyboardInterrupt, SystemExit):
        pass  # which is how it ends
    finally:
        os.close(fd)
    result.duration = time.monotonic() - started
    return result


class Watched:
    """What of a policy is watched, and which changes matter."""

    def __init__(self, policy: Policy, state: HostState) -> None:
        self.policy = policy
        self.state = state
        self.sources: Sequence[bytes] = ()
        self.above: AbstractSet[bytes] = frozenset()  # directories that hold a source that is a file
        self.matcher = policy.selection.matcher()

    def look(self, watches: Watches) -> None:
        """Watch every directory of the sources, and none else. ``BackupError``, ``OSError`` where that cannot be."""
        policy, _warnings = with_sources(self.policy, self.state)
        self.sources = sorted(os.fsencode(source).strip(b"/") for source in policy.sources)
        most = min(_MOST, most_watches() // 2)  # the rest is for other programs of this user
        with Descent(b"/") as root:
            check_sources(policy, root)
            skip = never_entered(policy, self.state)
            found = survey(self.sources, policy.selection, Cache(), now=time.time(), root=root, skip=skip)
            ancestors = set(found.ancestors)
            # A source that is a file is watched by the directory that holds it.
            self.above = {source.rpartition(b"/")[0] for source in self.sources if not _is_directory(root, source)}
            paths = sorted(self.above.union(folder.path for folder in found.folders if folder.path not in ancestors or folder.path in self.sources))
            del found
            if len(paths) > most:
                raise _too_many(len(paths), most)
            numbers = []
            for path in paths:
                try:
                    numbers.append(watches.add(root.directory(path), path))
                except OSError as error:
                    if error.errno == errno.ENOSPC:
                        raise _too_many(len(paths), most) from error
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                        raise
            watches.keep(numbers)
        gc.collect()  # the program lets Python's collector rest, which is meant for what ends soon

    def matters(self, change: Change) -> bool:
        """Nothing that is left out, and nothing beside a source that is a file."""
        is_lost = change.is_order and (not change.path or change.path in self.above)
        return is_lost or selects(self.matcher, self.sources, change.path, change.is_directory)


class _Watch:
    def __init__(
        self,
        policy: Policy,
        state: HostState,
        state_directory: str,
        is_current: Callable[[], bool],
        tell: Callable[[str], None],
        progress: Progress,
        pace: Pace,
        result: WatchResult,
    ) -> None:
        self.policy = policy
        self.state = state
        self.state_directory = state_directory
        self.is_current = is_current
        self.tell = tell
        self.progress = progress
        self.pace = pace
        self.result = result
        self.watched = Watched(policy, state)
        self.last_run = -pace.rest
        self.has_hooks = bool(policy.hooks.before or policy.hooks.after or policy.hooks.on_failure)

    def go(self) -> None:
        told = ""
        while self.is_current():
            try:
                with Watches() as watches:
                    self._look(watches)
                    told = ""
                    self.progress.note("%d directories are watched" % len(watches))
                    self._attend(watches)
            except (BackupError, OSError) as error:
                problem = error if isinstance(error, BackupError) else refused_to_watch(error)
                if str(problem) != told:  # once
                    told = str(problem)
                    self.tell(told)
                self._pass(self.pace.again if problem.kind == "limit" else self.pace.missing)

    def _pass(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.is_current() and time.monotonic() < deadline:
            time.sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))

    def _look(self, watches: Watches) -> None:
        self.watched.look(watches)
        self.result.directories = len(watches)

    # ---- what happens then -----------------------------------------------------------------------------------------------

    def _attend(self, watches: Watches) -> None:
        """Wait for changes and have them backed up, for as long as the policy is current."""
        while self.is_current():
            changes = [change for change in watches.wait(_LOOK_SECONDS) if self.watched.matters(change)]
            if not changes:
                continue
            is_order = self._settle(watches, changes)
            if not self.is_current():
                return
            if is_order:
                self._look(watches)  # before the run, so that what changes after it is not missed
            if not is_within(self.policy.schedule.window, datetime.now()):
                continue  # the schedule backs it up when the window opens
            self.last_run = time.monotonic()
            self._run()
            if self.has_hooks:
                # They may write into the sources, and each run would start the next for ever.
                while watches.wait(0):
                    pass

    def _settle(self, watches: Watches, changes: Sequence[Change]) -> bool:
        """Wait until it is time for a run; whether there are other directories since."""
        pace = self.pace
        first = last = time.monotonic()
        is_order = any(change.is_order for change in changes)
        while self.is_current():
            now = time.monotonic()
            due = max(min(last + pace.quiet, first + pace.longest), self.last_run + pace.rest)
            if now >= due:
                break
            more = [change for change in watches.wait(min(due - now, _LOOK_SECONDS)) if self.watched.matters(change)]
            if more:
                last = time.monotonic()
                is_order = is_order or any(change.is_order for change in more)
        return is_order

    def _run(self) -> None:
        """Back up, by a process of its own: what a run takes up of memory is free after it."""
        with starting() as bind:
            child = os.fork()
            if child == 0:
                code = EXIT_FAILED
                try:
                    bind()
                    code = self._back_up()
                finally:
                    os._exit(code)
        try:
            _pid, status = os.waitpid(child, 0)
        except BaseException:
            os.kill(child, signal.SIGTERM)  # it ends what it began
            os.waitpid(child, 0)
            raise
        self.result.runs += 1
        self.result.failed += status != 0

    def _back_up(self) -> int:
        try:
            done = run_patiently(self.policy, state_directory=self.state_directory, progress=self.progress, now=time.time())
        except BackupError as error:
            self.tell(str(error))
            return error.rc
        except OSError as error:
            self.tell(str(refused_by_system(error, "backing up")))
            return EXIT_FAILED
        for text in done.warnings:
            self.tell("warning: " + text)
        return 0


def _is_directory(root: Descent, source: bytes) -> bool:
    above, name = root.parent(source)
    return stat.S_ISDIR(os.stat(name or b".", dir_fd=above, follow_symlinks=False).st_mode)


def _too_many(found: int, most: int) -> RefusedError:
    return RefusedError(
        "Changes are not watched for: there are %d directories, and %d of them may be watched; the schedule alone starts runs" % (found, most),
        kind="limit",
        field="schedule.watch",
        found=found,
        allowed="%d directories: half of fs.inotify.max_user_watches, and %d at most" % (most, _MOST),
        next="raise fs.inotify.max_user_watches (sysctl), leave out what need not be protected, or set schedule.watch to false",
    )


def refused_to_watch(error: OSError) -> BackupError:
    """Why the kernel does not let us."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return RefusedError(
            "Changes are not watched for: too many programs of this user watch files already; the schedule alone starts runs",
            kind="limit",
            field="schedule.watch",
            next="raise fs.inotify.max_user_instances (sysctl)",
        )
    return refused_by_system(error, "watching for changes")
