# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work shared out over forked processes, for loops that hash or touch many files.

Items are not sent to the workers: they inherit them by ``fork`` and are told index ranges. A worker asks for its next range when it is done, so
uneven work balances itself.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator, List, Sequence, Tuple, TypeVar

from .errors import BackupError
from .process import starting

T = TypeVar("T")
Range = Tuple[int, int]

# Below this much work a fork costs more than it saves (measured: about 4 ms for a process with 60,000 entries in memory).
FORK_PAYS_ITEMS = 400
FORK_PAYS_BYTES = 16 << 20
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


def run(work: Callable[[int, int], T], weights: Sequence[int], *, items: int = 2048, weight: int = 64 << 20) -> Iterator[T]:
    """Yield ``work(start, stop)`` for ranges that cover every index of ``weights`` once, in any order.

    ``weights`` are costs in bytes. ``work`` runs in forked processes where that pays, otherwise here; its result must be picklable.
    An exception in ``work`` is raised here; a worker that dies is a ``BackupError``.
    """
    if fork_pays(weights):
        # Several rounds for every worker, so that they end together; never smaller than what a round costs.
        rounds = 4 * available_cpus()
        items = min(items, max(FORK_PAYS_ITEMS // 4, len(weights) // rounds))
        weight = min(weight, max(FORK_PAYS_BYTES // 4, sum(weights) // rounds))
        yield from _run_forked(work, ranges(weights, items=items, weight=weight))
        return
    for start, stop in ranges(weights, items=items, weight=weight):
        yield work(start, stop)


def _run_forked(work: Callable[[int, int], T], cuts: List[Range]) -> Iterator[T]:
    import multiprocessing
    from multiprocessing.connection import Connection, wait

    context = multiprocessing.get_context("fork")

    def serve(channel: Any, foreign: List[Any], bind: Callable[[], None]) -> None:
        import signal

        # A terminal's Ctrl-C reaches the whole group; the parent alone reports it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        bind()
        for other in foreign:  # a copy kept open here would hide the parent's death from the others
            other.close()
        try:
            while True:
                cut = channel.recv()
                if cut is None:
                    return
                try:
                    answer: Tuple[bool, Any] = (True, work(*cut))
                except Exception as error:  # noqa: BLE001 - raised again by the parent
                    answer = (False, error)
                channel.send(answer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    pending = list(reversed(cuts))
    workers: List[Any] = []
    channels: List[Connection[Any, Any]] = []
    try:
        for _ in range(min(available_cpus(), len(cuts))):
            ours, theirs = context.Pipe()
            with starting() as bind:
                worker = context.Process(target=serve, args=(theirs, [*channels, ours], bind), daemon=True)
                worker.start()
                workers.append(worker)
                channels.append(ours)
            theirs.close()
            ours.send(pending.pop())
        busy = list(channels)
        while busy:
            for channel in wait(busy):
                assert isinstance(channel, Connection)
                try:
                    done, value = channel.recv()
                    if done:
                        cut = pending.pop() if pending else None
                        channel.send(cut)
                        if cut is None:
                            busy.remove(channel)
                except (EOFError, OSError):
                    raise BackupError("A worker process died", kind="system", next="is the machine out of memory? Look at its log, and run again") from None
                if not done:
                    raise value
                yield value
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for channel in channels:  # first: a worker that the signal did not reach ends when nobody is left to ask
            channel.close()
        for worker in workers:
            worker.join(_GRACE_SECONDS)
            if worker.is_alive():  # the signal came before the worker could take it
                worker.kill()
                worker.join()
            worker.close()
