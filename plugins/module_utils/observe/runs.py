# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runs of a host came to: one JSON line each, a bounded file, the source of freshness and of the metrics.

A line holds ``started`` and ``finished`` (as ``audit.rfc3339`` writes them), ``duration`` (seconds), ``verb``, ``policy``, ``host``, ``target``,
``result`` (one of RESULTS), ``rc``, ``snapshot_id``, the verb's counts and, after a failure, ``error`` (``kind``, ``message``, …).
A success is appended only after the commit it tells of.
"""

from __future__ import annotations

import itertools
import json
import os
from typing import Any, Dict, Iterator, List, Mapping, Optional

from .audit import canonical, fsync_parent, open_locked, open_regular, write_all

RESULTS = ("ok", "unchanged", "warnings", "failed", "skipped")
SUCCESSES = frozenset(("ok", "unchanged", "warnings"))  # with warnings a snapshot was committed all the same
KEPT_LINES = 1000
KEPT_BYTES = 1 << 20


class RunLog:
    """The run log in the file ``path``; its directory exists."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def append(self, run: Mapping[str, Any]) -> None:
        """Add one line. Above twice the bounds the file is rewritten: the newest 1000 lines or 1 MiB, and each job's last success."""
        if run.get("result") not in RESULTS:
            raise ValueError("a run's result is one of %s, not %r" % (", ".join(RESULTS), run.get("result")))
        line = canonical(dict(run)) + b"\n"
        with open_locked(self.path) as fd:
            old = _read(fd)
            if old and not old.endswith(b"\n"):
                line = b"\n" + line  # leaves what a crash tore on a line of its own, which readers skip
            # No fsync: a power cut can only make the host look less fresh than it is, and the next run mends that.
            write_all(fd, line, len(old))
            new = old + line
            if len(new) > 2 * KEPT_BYTES or new.count(b"\n") > 2 * KEPT_LINES:
                self._rewrite(_bounded(new))

    def last(self, n: int) -> List[Dict[str, Any]]:
        """The newest ``n`` runs, newest first; lines that a crash tore are skipped."""
        return list(itertools.islice(self._newest_first(), n))

    def last_success(self, *, verb: str = "run", policy: Optional[str] = None) -> Optional[Dict[str, Any]]:
        """The newest run of ``verb`` (and of ``policy``, where given) that did not fail; freshness counts from its ``finished``."""
        for run in self._newest_first():
            if run["result"] in SUCCESSES and run.get("verb") == verb and policy in (None, run.get("policy")):
                return run
        return None

    def _newest_first(self) -> Iterator[Dict[str, Any]]:
        try:
            fd = open_regular(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            lines = _read(fd).split(b"\n")
        finally:
            os.close(fd)
        for line in reversed(lines):
            run = _parse(line)
            if run is not None:
                yield run

    def _rewrite(self, data: bytes) -> None:
        # The lock on the old file is held: nobody else writes the new one, and a leftover of a crash is overwritten.
        fresh = self.path + b".new"
        fd = open_regular(fresh, os.O_WRONLY | os.O_CREAT)
        try:
            os.ftruncate(fd, 0)
            write_all(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(fresh, self.path)
        fsync_parent(self.path)


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _parse(line: bytes) -> Optional[Dict[str, Any]]:
    try:
        run = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return run if isinstance(run, dict) and run.get("result") in RESULTS else None


def _bounded(data: bytes) -> bytes:
    """The newest lines within the bounds, at least one; of older ones each job's last success, so that freshness outlives a long failure."""
    kept: List[bytes] = []
    room = KEPT_BYTES
    succeeded = set()
    for line in reversed(data.split(b"\n")):
        run = _parse(line)
        if run is None:
            continue
        room -= len(line) + 1
        job = tuple(str(run.get(key)) for key in ("verb", "host", "policy", "target"))
        is_news = run["result"] in SUCCESSES and job not in succeeded
        if is_news:
            succeeded.add(job)
        if is_news or not kept or (room >= 0 and len(kept) < KEPT_LINES):
            kept.append(line)
    return b"".join(line + b"\n" for line in reversed(kept))
