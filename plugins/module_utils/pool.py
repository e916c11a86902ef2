# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work shared out over forked processes, for loops that hash or touch many files.

Items are not sent to the workers: they inherit them by ``fork`` and are told index ranges. A worker asks for its next range when it is done, so
uneven work balances itself.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Generic, Iterator, List, Optional, Sequence, Tuple, TypeVar

from .errors import BackupError
from .process import starting

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")
Range = Tuple[int, int]
Tell = Callable[[int, int], None]  # so many files and bytes more are done

# Below this much work forks cost more than they save: with 60,000 entries in memory some 5 ms each, and what the workers touch is copied.
FORK_PAYS_ITEMS = 1000
FORK_PAYS_BYTES = 16 << 20
# How often a worker says how far it is.
_REPORT_SECONDS = 0.2
# How long a worker that was told to end may take.
_GRACE_SECONDS = 10.0


def available_cpus() -> int:
    """CPUs that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)))


def ranges(weights: Sequence[int], *, items: int, weight: int) -> List[Range]:
    """Cut ``range(len(weights))`` into runs of at most ``items`` indices or about ``weight`` in sum."""
    result: List[Range] = []
    start, total = 0, 0
    for index, value in enumerate(weights):
        total += value
        if index + 1 - start >= items or total >= weight:
            result.append((start, index + 1))
            start, total = index + 1, 0
    if start < len(weights):
        result.append((start, len(weights)))
    return result


def fork_pays(weights: Sequence[int]) -> bool:
    """Whether the work is large enough, and the machine wide enough, for processes to pay."""
    return available_cpus() > 1 and (len(weights) >= FORK_PAYS_ITEMS or (len(weights) > 1 and sum(weights) >= FORK_PAYS_BYTES))


def run(
    work: Callable[[int, int], T],
    weights: Sequence[int],
    *,
    items: int = 2048,
    weight: int = 64 << 20,
    meanwhile: Optional[Callable[[], None]] = None,
    is_alone: bool = False,
) -> Iterator[T]:
    """Yield ``work(start, stop)`` for ranges that cover every index of ``weights`` once, in any order.

    ``weights`` are costs in bytes; ``meanwhile`` is called here once the processes are at work, and before anything is yielded. ``work`` runs in
    forked processes where that pays, otherwise here; its result must be picklable. An exception in ``work`` is raised here; a worker that dies is a
    ``BackupError``. ``is_alone``: never in other processes.
    """
    return run_telling(lambda start, stop, _tell: work(start, stop), weights, None, items=items, weight=weight, meanwhile=meanwhile, is_alone=is_alone)


def run_telling(
    work: Callable[[int, int, Tell], T],
    weights: Sequence[int],
    tell: Optional[Tell],
    *,
    items: int = 2048,
    weight: int = 64 << 20,
    meanwhile: Optional[Callable[[], None]] = None,
    is_alone: bool = False,
) -> Iterator[T]:
    """``run`` for work that says how far it is, for ranges that may take long: what it tells comes to ``tell`` here, a few times a second."""
    if not is_alone and fork_pays(weights):
        # Several rounds for every worker, so that they end together; never smaller than what a round costs.
        rounds = 8 * available_cpus()
        items = min(items, max(FORK_PAYS_ITEMS // 4, len(weights) // rounds))
        weight = min(weight, max(FORK_PAYS_BYTES // 4, sum(weights) // rounds))
        yield from _run_forked(work, ranges(weights, items=items, weight=weight), tell or _silent, meanwhile)
        return
    if meanwhile is not None:
        meanwhile()
    for start, stop in ranges(weights, items=items, weight=weight):
        yield work(start, stop, tell or _silent)


def _silent(files: int, size: int) -> None:
    """Nobody listens."""


def _run_forked(work: Callable[[int, int, Tell], T], cuts: List[Range], tell: Tell, meanwhile: Optional[Callable[[], None]]) -> Iterator[T]:
    from multiprocessing.connection import Connection, wait

    pending = list(reversed(cuts))
    with _Team(work) as team:
        for _ in range(min(available_cpus(), len(cuts))):
            team.add().send(pending.pop())
        if meanwhile is not None:
            meanwhile()
        busy = list(team.channels)
        while busy:
            for channel in wait(busy):
                assert isinstance(channel, Connection)
                is_done, value = team.hear(channel)
                if not is_done:
                    tell(*value)
                    continue
                cut = pending.pop() if pending else None
                team.tell(channel, cut)
                if cut is None:
                    busy.remove(channel)
                yield value


class Later(Generic[T]):
    """What ``work`` returns, made by a forked process in the meantime where ``items`` are many and the machine is wide enough, else when it is
    asked for.

    To be closed whatever happens; the process ends then.
    """

    def __init__(self, work: Callable[[], T], *, items: int) -> None:
        self._work = work
        self._team: _Team[T] = _Team(lambda start, stop, tell: work())
        if available_cpus() > 1 and items >= FORK_PAYS_ITEMS:
            self._team.add().send((0, 1))

    def result(self) -> T:
        """The value, or the exception that ``work`` raised; to be asked for once."""
        if not self._team.channels:
            return self._work()
        channel = self._team.channels[0]
        _is_done, value = self._team.hear(channel)
        self._team.tell(channel, None)
        return value  # type: ignore[no-any-return]

    def close(self) -> None:
        """Break off what nobody asked for."""
        self._team.end(at_once=True)


class _Report:
    """What a worker has done and not yet said."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._files = self._size = 0
        self._due = 0.0

    def add(self, files: int, size: int) -> None:
        """So much more; said where it is time."""
        self._files += files
        self._size += size
        if time.monotonic() >= self._due:
            self.send()

    def send(self) -> None:
        """Say all of it."""
        if self._files or self._size:
            self._channel.send((False, (self._files, self._size)))
        self._files = self._size = 0
        self._due = time.monotonic() + _REPORT_SECONDS


class _Team(Generic[T]):
    """Forked processes that answer ``work(start, stop, tell)`` to a range and end at None."""

    def __init__(self, work: Callable[[int, int, Tell], T]) -> None:
        self.channels: List[Connection[Any, Any]] = []
        self._work = work
        self._workers: List[Any] = []

    def __enter__(self) -> _Team[T]:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.end(at_once=kind is not None)

    def add(self) -> Connection[Any, Any]:
        """Start one more; its channel."""
        import multiprocessing

        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        with starting() as bind:
            worker = context.Process(target=self._serve, args=(theirs, [*self.channels, ours], bind), daemon=True)
            worker.start()
            self._workers.append(worker)
            self.channels.append(ours)
        theirs.close()
        return ours

    def _serve(self, channel: Any, foreign: List[Any], bind: Callable[[], None]) -> None:
        import signal

        # A terminal's Ctrl-C reaches the whole group; the parent alone reports it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        bind()
        for other in foreign:  # a copy kept open here would hide the parent's death from the others
            other.close()
        report = _Report(channel)
        try:
            while True:
                cut = channel.recv()
                if cut is None:
                    return
                try:
                    answer: Tuple[Optional[bool], Any] = (True, self._work(cut[0], cut[1], report.add))
                except Exception as error:  # noqa: BLE001 - raised again by the parent
                    answer = (None, error)
                report.send()
                channel.send(answer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    def hear(self, channel: Connection[Any, Any]) -> Tuple[bool, Any]:
        """(True, the answer) or (False, what ``work`` told); an exception in ``work`` is raised here."""
        try:
            is_done, value = channel.recv()
        except (EOFError, OSError):
            raise _died() from None
        if is_done is None:
            raise value
        return is_done, value

    def tell(self, channel: Connection[Any, Any], cut: Optional[Range]) -> None:
        """The next range, or None for the end."""
        try:
            channel.send(cut)
        except OSError:
            raise _died() from None

    def end(self, *, at_once: bool) -> None:
        """Wait for all to end; ``at_once``: break off what they are at."""
        if at_once:
            for worker in self._workers:
                worker.terminate()
        for channel in self.channels:  # first: a worker that the signal did not reach ends when nobody is left to ask
            channel.close()
        for worker in self._workers:
            worker.join(_GRACE_SECONDS)
            if worker.is_alive():  # the signal came before the worker could take it
                worker.kill()
                worker.join()
            worker.close()
        self.channels.clear()
        self._workers.clear()


def _died() -> BackupError:
    return BackupError("A worker process died", kind="system", next="is the machine out of memory? Look at its log, and run again")
