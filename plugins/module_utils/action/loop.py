# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up again and again where nothing else starts runs: in a container.

Restores first where that is needed, then backs up on an interval and when files have changed, and once more when it is told to end. Each restore and run is
a process of its own, and what came of it is what its end says; this process only waits, so that it always can answer a signal.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import random
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import FrameType, TracebackType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Type

from ..errors import EXIT_FAILED, EXIT_USAGE, EXIT_WARNINGS, BackupError, UsageError, printable, refused_by_system
from ..manifest.inotify import Watches
from ..observe.audit import rfc3339
from ..observe.progress import Progress
from ..policy.model import Policy
from ..policy.schedule import is_within
from ..process import STOP_SECONDS, lock, starting
from .backup import backup
from .health import note
from .needed import restore_if_needed
from .secrets import check_secrets
from .state import HostState
from .watch import Watched, refused_to_watch

FLUSH_SECONDS = 8.0  # Docker kills after 10
# How often the health file is touched, whatever else goes on.
BEAT_SECONDS = 10.0
_AGAIN_SECONDS = 300.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 2.0, 900.0
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What a line has of a result, and how much of each text; a line is read when its writer has ended, so that it must fit into a pipe.
_KEYS = (
    "changed",
    "snapshot_id",
    "entries",
    "removed",
    "files_sent",
    "bytes_sent",
    "bytes_wire",
    "requests",
    "files_restored",
    "bytes_restored",
    "needed",
    "undo",
)
_MOST_TEXT, _MOST_WARNINGS = 1000, 10

Line = Dict[str, Any]


class Pace(NamedTuple):
    """Seconds. A run begins ``interval`` after the last one ended; or, when files changed, ``quiet`` after the last change, at the latest ``longest`` after
    the first, and ``rest`` after the begin of the last run."""

    interval: float
    quiet: float
    longest: float
    rest: float


def pace_of(interval: float) -> Pace:
    """What goes with an interval: no change waits for longer than that, and runs keep a minute's distance where it is longer."""
    return Pace(interval, min(10.0, interval / 3), interval, min(60.0, interval))


def backoff(failures: int, chance: float) -> float:
    """How long to wait after so many failures in a row (s): twice as long each time, up to 15 to 23 minutes, by ``chance`` (0 to 1)."""
    return float(min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures - 1, 20)) * (1 + chance / 2))


def jittered(interval: float, chance: float) -> float:
    """An interval give or take a tenth: containers that start together had better not stay together."""
    return interval * (0.9 + chance / 5)


class _Signals:
    """Notes the signals that ask to end, and wakes whoever waits for that, for a child's end, or for a descriptor."""

    def __init__(self) -> None:
        self.count = 0
        self.at = 0.0
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*_ENDING, signal.SIGCHLD):
            self._before[number] = signal.getsignal(number)
            # Who starts a program in the background of a shell has SIGINT ignored, and nohup SIGHUP; SIGCHLD must wake us.
            if self._before[number] is not signal.SIG_IGN or number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, self._note)
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        if self.count:  # one more must not make another exit code of it
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_fd)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, _frame: Optional[FrameType]) -> None:
        if number in _ENDING:
            self.count += 1
            self.at = self.at or time.monotonic()

    def wait(self, seconds: float, watches: Optional[Watches] = None) -> None:
        """Return after so many seconds, or sooner where something happened."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if watches is not None:
            poll.register(watches.fileno(), select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000)
        with suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def reset(self) -> None:
        """In a child: a signal breaks off what it does, through its ``finally`` blocks."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in _ENDING:
            signal.signal(number, _break_off if number != signal.SIGINT else signal.SIG_IGN)  # Ctrl-C reaches the whole group: the loop decides


def _break_off(_number: int, _frame: Optional[FrameType]) -> NoReturn:
    raise SystemExit(EXIT_FAILED)


def loop(
    load: Callable[[], Policy],
    *,
    state_directory: str,
    pace: Pace,
    say: Callable[[Line], None],
    tell: Callable[[str], None],
    flush: float = FLUSH_SECONDS,
    progress: Optional[Progress] = None,
    chance: Callable[[], float] = random.random,
) -> int:
    """Restore where needed, and back up until a signal asks to end; the exit code: that of the last run, which the signal started, or 1 where that could
    not be brought to its end within ``flush`` seconds, or where it never came to back up.

    ``load`` reads the policy, before each run anew; ``say`` gets one line a restore or run; ``tell`` what somebody should know besides. Raises
    ``BackupError`` where it cannot begin: the policy is wrong, secrets lie open, another loop is at work (``LockedError``).
    """
    policy = load()
    warnings = check_secrets(policy, as_root=True)
    for text in warnings:
        tell("warning: " + text)
    state = HostState(state_directory, policy)
    state.prepare()
    fd = lock(state.directory + b"/loop.lock", fcntl.LOCK_EX, "Another loop of %s" % policy.name)
    try:
        with _Signals() as signals:
            return _Loop(load, policy, state, state_directory, pace, say, tell, flush, progress or Progress(), chance, signals, warnings).go()
    finally:
        os.close(fd)


@dataclass
class _Loop:
    load: Callable[[], Policy]
    policy: Policy
    state: HostState
    state_directory: str
    pace: Pace
    say: Callable[[Line], None]
    tell: Callable[[str], None]
    flush: float
    progress: Progress
    chance: Callable[[], float]
    signals: _Signals
    warnings: List[str]

    def __post_init__(self) -> None:
        self.failures = 0
        self.last: Optional[Line] = None
        self.began = rfc3339(time.time())
        self.watches: Optional[Watches] = None
        self.watched = Watched(self.policy, self.state)
        self.look_again = 0.0
        self.told = ""

    def go(self) -> int:
        """From the first restore to the last run."""
        try:
            while not self.signals.count:
                line = self._do("restore", self._restore)
                if line["rc"] in (0, EXIT_WARNINGS):
                    return self._back_up()
                if line["rc"] == EXIT_USAGE:
                    return EXIT_USAGE
                self._pass(backoff(self.failures, self.chance()))
            return EXIT_FAILED  # nothing may be backed up that is not known to be whole
        finally:
            self._note("ended")
            if self.watches is not None:
                self.watches.__exit__(None, None, None)

    def _back_up(self) -> int:
        pace = self.pace
        begun, trigger = 0.0, "start"
        self._look()
        while not self.signals.count:
            self._renew()
            if is_within(self.policy.schedule.window, datetime.now()):
                begun = time.monotonic()
                self._run(trigger)
            wait = backoff(self.failures, self.chance()) if self.failures else jittered(pace.interval, self.chance())
            trigger = self._await(begun, time.monotonic() + wait)
        return int(self._do("run", self._backup, trigger="stop")["rc"])

    # ---- waiting ---------------------------------------------------------------------------------------------------------

    def _pass(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._note("waiting", seconds)
        while not self.signals.count and time.monotonic() < deadline:
            self._beat(deadline)

    def _beat(self, deadline: float, watches: Optional[Watches] = None) -> None:
        with suppress(OSError):
            os.utime(self.state.health)
        self.signals.wait(min(deadline - time.monotonic(), BEAT_SECONDS), watches)

    def _await(self, begun: float, due: float) -> str:
        """Wait until the next run is due, at the latest at ``due``; what makes it so."""
        self._note("waiting", due - time.monotonic())
        first = last = 0.0
        is_order = False
        while not self.signals.count:
            now = time.monotonic()
            at = min(due, max(min(last + self.pace.quiet, first + self.pace.longest), begun + self.pace.rest)) if first and not self.failures else due
            if now >= at:
                break
            self._beat(at, self.watches)
            changes = self._changes()
            if changes:
                last = time.monotonic()
                first = first or last
                is_order = is_order or any(changes)
        if is_order or (self.watches is None and time.monotonic() >= self.look_again):
            self._look()  # before the run, so that what changes after it is not missed
        return "change" if first and time.monotonic() < due else "interval"

    def _changes(self) -> List[bool]:
        """Of each change that matters, whether there are other directories since."""
        if self.watches is None:
            return []
        return [change.is_order for change in self.watches.wait(0) if self.watched.matters(change)]

    def _look(self) -> None:
        """Watch the directories that there are now, where that can be; elsewhere the interval alone starts runs."""
        try:
            self.watches = self.watches or Watches()
            self.watched.look(self.watches)
            self.told = ""
        except (BackupError, OSError) as error:
            problem = error if isinstance(error, BackupError) else refused_to_watch(error)
            if self.watches is not None:
                self.watches.__exit__(None, None, None)
            self.watches, self.look_again = None, time.monotonic() + _AGAIN_SECONDS
            if str(problem) != self.told:
                self.told = str(problem)
                self.tell(self.told)

    # ---- what is done ----------------------------------------------------------------------------------------------------

    def _run(self, trigger: str) -> None:
        self._do("run", self._backup, trigger=trigger)
        hooks = self.policy.hooks
        if hooks.before or hooks.after or hooks.on_failure:
            self._changes()  # they may write into the sources, and each run would start the next for ever

    def _restore(self) -> Mapping[str, Any]:
        return restore_if_needed(self._policy(), state_directory=self.state_directory, progress=self.progress).to_dict()

    def _backup(self) -> Mapping[str, Any]:
        return backup(self._policy(), state_directory=self.state_directory, progress=self.progress).to_dict()

    def _renew(self) -> None:
        """Go by the policy as it is now. One that is wrong the run tells of."""
        with suppress(BackupError):
            policy = self._policy()
            if policy != self.policy:
                self.policy, self.state = policy, HostState(self.state_directory, policy)
                self.watched = Watched(policy, self.state)
                self._look()

    def _policy(self) -> Policy:
        policy = self.load()
        if (policy.host, policy.name) != (self.policy.host, self.policy.name):
            raise UsageError(
                "The policy is now %s of host %s, and this loop is for %s of host %s" % (policy.name, policy.host, self.policy.name, self.policy.host),
                field="name",
                found=policy.name,
                allowed=self.policy.name,
                next="start the loop again",
            )
        return policy

    def _do(self, event: str, work: Callable[[], Mapping[str, Any]], **more: Any) -> Line:
        """Have ``work`` done by a process of its own, and say what came of it."""
        self._note(event)
        started = time.time()
        try:
            answer = self._see_through(_Child(work, self.signals))
        except OSError as error:  # too many processes, no memory
            answer = _failed(refused_by_system(error, "starting what backs up"))
        line: Line = {"event": event, **more, "started": rfc3339(started), **answer}
        line["duration"] = round(time.time() - started, 3)
        self.failures = 0 if line["rc"] in (0, EXIT_WARNINGS) else self.failures + 1
        line["failures"] = self.failures
        self.last = line
        if event == "run" or line["rc"] or line.get("needed"):
            with suppress(OSError):  # a log that is full stops no backup
                self.say(line)
        gc.collect()  # the program lets Python's collector rest, which is meant for what ends soon
        return line

    def _see_through(self, child: _Child) -> Line:
        """Wait for its end. Once a signal has asked to end it has ``flush`` seconds from then on; a second one leaves it none."""
        asked = 0.0
        while not child.has_ended():
            now = time.monotonic()
            if self.signals.count:
                limit = self.signals.at + self.flush
                if not asked and (now >= limit or self.signals.count > 1):
                    child.send(signal.SIGTERM)
                    asked = now
                if asked and now >= asked + STOP_SECONDS:
                    child.send(signal.SIGKILL)
                self._beat(asked + STOP_SECONDS if asked and now < asked + STOP_SECONDS else now + 0.2 if asked else limit)
            else:
                self._beat(now + BEAT_SECONDS)
        return child.answer()

    def _note(self, phase: str, wait: float = 0.0) -> None:
        """Write what ``health`` reads."""
        directories = len(self.watches) if self.watches is not None else 0
        try:
            note(
                self.state,
                {
                    "phase": phase,
                    "pid": os.getpid(),
                    "began": self.began,
                    "interval": self.pace.interval,
                    "failures": self.failures,
                    "watched": directories,
                    "next": rfc3339(time.time() + wait) if phase == "waiting" else None,
                    "last": self.last,
                    "warnings": self.warnings,
                },
            )
        except OSError as error:
            self.tell(str(refused_by_system(error, "writing the health file")))


class _Child:
    """A process that does ``work`` and answers with a line."""

    def __init__(self, work: Callable[[], Mapping[str, Any]], signals: _Signals) -> None:
        self._read, write = os.pipe()
        self._status: Optional[int] = None
        try:
            with starting() as bind:
                self.pid = os.fork()
                if self.pid == 0:
                    signals.reset()
                    _answer(work, write, bind)
        finally:
            os.close(write)

    def has_ended(self) -> bool:
        """Whether it has; also takes the ends of processes that others left to us, as the first process of a container."""
        while self._status is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._status = EXIT_FAILED << 8
                break
            if pid == 0:
                return False
            if pid == self.pid:
                self._status = status
        return True

    def send(self, number: int) -> None:
        """Send it a signal. It is a child of ours that was not waited for: the number is nobody else's."""
        os.kill(self.pid, number)

    def answer(self) -> Line:
        """What it said; else how it ended."""
        os.set_blocking(self._read, False)
        data = b""
        with open(self._read, "rb", buffering=0) as stream, suppress(BlockingIOError):
            data = stream.readall() or b""
        try:
            line: Line = json.loads(data)
            return line
        except ValueError:
            assert self._status is not None
            how = "signal %d" % os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else "exit code %d" % os.WEXITSTATUS(self._status)
            return _failed(BackupError("The process that did it was ended by %s" % how, kind="killed", next="it begins anew by itself; look for who ended it"))


def _answer(work: Callable[[], Mapping[str, Any]], pipe: int, bind: Callable[[], None]) -> NoReturn:
    line = _failed(BackupError("broken off", kind="interrupted", next="it goes on from there the next time"))
    try:
        bind()
        line = _line(work())
    except BackupError as error:
        line = _failed(error)
    except OSError as error:
        line = _failed(refused_by_system(error, "working"))
    except (SystemExit, KeyboardInterrupt):
        pass
    except BaseException as error:  # noqa: BLE001 - the last place where it can be told
        line = _failed(BackupError("internal error: %s: %s" % (type(error).__name__, printable(str(error))), kind="internal"))
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        os.write(pipe, json.dumps(line).encode("ascii"))
        os._exit(0)


def _line(result: Mapping[str, Any]) -> Line:
    line = {key: result[key] for key in _KEYS if key in result}
    line["warnings"] = [_cut(text) for text in result["warnings"][:_MOST_WARNINGS]]
    return {"rc": result["rc"], **line}


def _failed(error: BackupError) -> Line:
    facts = {key: value if value is None or type(value) is int else _cut(str(value)) for key, value in error.to_dict().items()}
    return {"rc": error.rc, "msg": _cut(str(error)), "error": facts}


def _cut(text: str) -> str:
    return printable(text)[:_MOST_TEXT]
