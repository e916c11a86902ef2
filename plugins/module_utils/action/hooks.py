# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy's own commands around a run: when they run, what they are told, how long they may take, and what is kept of what they say.

Each runs in a session of its own, without a shell, a terminal or standard input, and in an environment that is the same whoever starts the run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..errors import EXIT_FAILED, EXIT_WARNINGS, BackupError, printable
from ..observe.progress import Progress
from ..policy.durations import format_duration
from ..policy.model import Hook, Policy
from ..process import STANDARD_PATH, STOP_SECONDS, Rights, guarded, no_new_rights, standard_environment, starting, stop_group
from .result import Outcome
from .state import HostState

# The keys of the policy, in the order in which they have their turn.
BEFORE, AFTER, ON_FAILURE = "before", "after", "on_failure"

_TIMED_OUT = "timed out after "
_CANNOT_START = "cannot be started: "
_MISTAKES = frozenset(map(os.strerror, (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)))
_TICK_SECONDS = 0.05
_KEPT_BYTES = 64 << 10
_KEPT_LINES = 20
_KEPT_COLUMNS = 300
# What of a line is looked at for secrets; more than is shown, so that the end of one is not taken for a harmless beginning.
_SEARCHED_COLUMNS = 4096

# Compiled only when a hook has failed: an unchanged run has no time for it.
_SECRETS = (
    (r"(?i)([a-z][a-z0-9+.-]{0,20}://)\S*@", r"\1***@"),
    (
        r"(?i)((?:pass|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization|cookie|identified\s{1,8}by)"
        r"[\w.-]{0,40}[\"']?\s{0,8}(?:[=:>]|\s(?=[\"'])))\s{0,8}\S.*",
        r"\1***",
    ),
    (r"(?i)(--?[\w-]{0,40}(?:pass|secret|token|key)[\w-]{0,40}\s)\s{0,8}\S.*", r"\1***"),
    (r"(?i)\b(bearer|basic)\s{1,8}\S.*", r"\1 ***"),
    (r"\b(?:gh[opsu]_|github_pat_|glpat-|xox[abeprs]-|sk-|AKIA|ASIA|eyJ)[\w.-]{10,}", "***"),
)


@dataclass(frozen=True)
class HookRun:
    """What became of one hook. ``rc``: its exit code, negative for a signal, None where it did not run; ``error``: why it counts as failed."""

    event: str
    command: str
    rc: Optional[int] = None
    duration: float = 0.0
    error: Optional[str] = None
    output_tail: Tuple[str, ...] = ()

    def to_dict(self) -> Dict[str, Any]:
        """The public mapping."""
        return {**self.__dict__, "duration": round(self.duration, 3), "output_tail": list(self.output_tail)}


class Hooks:
    """The hooks of one run, which holds its lock; ``warn`` takes what the run is to warn of."""

    def __init__(self, policy: Policy, state: HostState, *, warn: Callable[[str], None], progress: Progress) -> None:
        self._runs: List[HookRun] = []
        self._not_undone: Optional[BackupError] = None
        self._policy = policy
        self._state = state
        self._warn = warn
        self._progress = progress

    def predict(self) -> List[Dict[str, Any]]:
        """The hooks of a run that goes well, of which none ran."""
        return [HookRun(event, printable(hook.command[0])).to_dict() for event in (BEFORE, AFTER) for _where, hook in self._each(event)]

    def to_list(self) -> List[Dict[str, Any]]:
        """What became of the hooks, in the order in which they ran, as public mappings."""
        return [run.to_dict() for run in self._runs]

    def before(self) -> None:
        """Prepare. Raises BackupError (kind ``hook``) for the first essential hook that fails; none follows it."""
        if self._state.owes_after():
            self._progress.note("the last run was killed before its after hooks had run; they run first")
            self._run_after(Outcome("failed", EXIT_FAILED, error=BackupError("The run was killed", kind="killed")))
        if self._policy.hooks.after:
            self._state.set_owes_after(True)
        for where, hook in self._each(BEFORE):
            run = self._run(BEFORE, where, hook, None)
            if run.error is None:
                continue
            if hook.essential:
                raise _failed(where, hook, run, "Nothing was backed up: ")
            self._warn(_complaint(where, run))

    def afterwards(self, outcome: Outcome) -> None:
        """Undo what was prepared, whatever came of the run; then tell of its failure, or of an essential hook's."""
        self._run_after(outcome)
        if outcome.error is None:
            if self._not_undone is None:
                return
            outcome = outcome._replace(result="warnings", rc=EXIT_WARNINGS, error=self._not_undone)
        self._run_all(ON_FAILURE, outcome)

    def _run_after(self, outcome: Outcome) -> None:
        error = self._run_all(AFTER, outcome)
        self._not_undone = self._not_undone or error
        self._state.set_owes_after(False)

    def _run_all(self, event: str, outcome: Outcome) -> Optional[BackupError]:
        """Run all hooks of an event, also those behind one that fails; the failure of the first essential one."""
        first: Optional[BackupError] = None
        for where, hook in self._each(event):
            run = self._run(event, where, hook, outcome)
            if run.error is not None:
                self._warn(_complaint(where, run))
                if hook.essential and first is None:
                    first = _failed(where, hook, run)
        return first

    def _each(self, event: str) -> Sequence[Tuple[str, Hook]]:
        return [("hooks.%s[%d]" % (event, index), hook) for index, hook in enumerate(getattr(self._policy.hooks, event))]

    def _run(self, event: str, where: str, hook: Hook, outcome: Optional[Outcome]) -> HookRun:
        self._progress.stage(where)
        began = time.monotonic()
        output = Output()
        rc: Optional[int] = None
        error: Optional[str] = "broken off"
        try:
            rc, error = execute(hook.command, hook.timeout, environment(self._policy, self._state, event, outcome), output)
        finally:
            # What a hook that did its work has said is nobody's business: it may be a secret.
            tail = output.tail() if error is not None else ()
            run = HookRun(event, printable(hook.command[0]), rc, time.monotonic() - began, error, tail)
            self._runs.append(run)
        return run


def environment(policy: Policy, state: HostState, event: str, outcome: Optional[Outcome]) -> Dict[str, str]:
    """All that a hook finds in its environment. What is not known (before the run, or because it went well) is empty, never missing."""
    error = outcome.error if outcome is not None else None
    return {
        **standard_environment(os.geteuid()),
        "OPENCLAW_BACKUP_EVENT": event,
        "OPENCLAW_BACKUP_POLICY": policy.name,
        "OPENCLAW_BACKUP_HOST": policy.host,
        "OPENCLAW_BACKUP_SOURCES": "\n".join(policy.sources),
        "OPENCLAW_BACKUP_TARGET": policy.target.url,  # a policy whose URL holds a password is refused
        "OPENCLAW_BACKUP_STATE": os.fsdecode(state.root),
        "OPENCLAW_BACKUP_RESULT": outcome.result if outcome is not None else "",
        "OPENCLAW_BACKUP_RC": str(outcome.rc) if outcome is not None else "",
        "OPENCLAW_BACKUP_SNAPSHOT_ID": (outcome.snapshot_id or "") if outcome is not None else "",
        "OPENCLAW_BACKUP_ERROR_KIND": error.kind if error is not None else "",
        "OPENCLAW_BACKUP_ERROR": _line(error.message) if error is not None else "",
    }


def _line(text: str) -> str:
    """A message on one line: as it is where that can be shown, because the names in it were made printable when it was written."""
    return text if text.isprintable() else printable(text)


def mask(line: str) -> str:
    """``line`` without what looks like a secret, and rather without too much of it than too little."""
    for pattern, shown in _SECRETS:
        line = re.sub(pattern, shown, line)
    return line


class Output:
    """The last of what a program says, however much that is."""

    def __init__(self) -> None:
        self._kept = b""
        self._is_cut = False

    def take(self, pipe: int) -> bool:
        """Read what is there, at most one pipe full; False at its end."""
        os.set_blocking(pipe, False)
        try:
            chunk = os.read(pipe, _KEPT_BYTES)
        except BlockingIOError:
            return True
        self._kept += chunk
        self._is_cut |= len(self._kept) > _KEPT_BYTES
        self._kept = self._kept[-_KEPT_BYTES:]
        return bool(chunk)

    def has(self, text: bytes) -> bool:
        """Whether it said that, in what was kept of it (64 KiB)."""
        return text in self._kept

    def tail(self) -> Tuple[str, ...]:
        """Its last 20 lines, fit to print and masked."""
        lines = re.split(rb"[\r\n]+", self._kept)[1 if self._is_cut else 0 :]
        kept: List[str] = []
        in_key = False
        for line in lines:
            text = os.fsdecode(line[:_SEARCHED_COLUMNS]).expandtabs().rstrip()
            in_key |= "-----BEGIN " in text and "PRIVATE KEY" in text
            if text:
                kept.append("***" if in_key else text)
            in_key &= "-----END " not in text
        return tuple(_shorten(printable(mask(text))) for text in kept[-_KEPT_LINES:])


def _shorten(text: str) -> str:
    return text if len(text) <= _KEPT_COLUMNS else text[: _KEPT_COLUMNS - 1] + "…"


def execute(
    command: Sequence[str],
    timeout: int,
    variables: Dict[str, str],
    output: Output,
    *,
    cwd: bytes = b"/",  # where it keeps no file system busy
    rights: Optional[Rights] = None,
    leaves_nothing: bool = False,
) -> Tuple[Optional[int], Optional[str]]:
    """Run one program to its end, or to its ``timeout`` (seconds); its exit code, and why it failed.

    ``rights``: as whom, where not as ourselves; it then gains no more. ``leaves_nothing``: what it started and left behind is stopped.
    """
    import subprocess

    process: Optional["subprocess.Popen[bytes]"] = None
    timed_out = False
    as_whom: Dict[str, Any] = {} if rights is None else {"user": rights.uid, "group": rights.gid, "extra_groups": rights.groups}
    give_up = (lambda: None) if rights is None else no_new_rights()
    with guarded() as join:
        try:
            with starting(bound=False) as bind:  # what a signal has to say is raised at the end of this block
                process = subprocess.Popen(
                    list(command),
                    bufsize=0,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=variables,
                    start_new_session=True,
                    preexec_fn=lambda: (bind(), join(), give_up()),
                    umask=0o077,
                    **as_whom,
                )
            timed_out = not _finish(process, output, timeout)
        except OSError as error:
            if process is not None:
                raise
            return None, _CANNOT_START + (error.strerror or str(error))
        finally:
            if process is not None:
                _end(process, output)
                if leaves_nothing:
                    stop_group(process.pid)
    rc = process.returncode
    if timed_out:
        return rc, _TIMED_OUT + format_duration(timeout)
    if rc < 0:
        return rc, "killed by signal %d" % -rc
    return rc, "exit code %d" % rc if rc else None


def _end(process: Any, output: Output) -> None:
    """Stop a program that is still at work, with all that it started, and take in the last that was said."""
    import subprocess

    if process.poll() is None:
        stop_group(process.pid, lambda: (output.take(process.stdout.fileno()), process.poll()))
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang in the kernel, on a dead file system for instance
            process.wait(STOP_SECONDS)
    output.take(process.stdout.fileno())  # not to its end: a process that it left behind may never stop talking
    process.stdout.close()


def _finish(process: Any, output: Output, seconds: int) -> bool:
    """Take in what is said until the program ends; False if that takes longer than ``seconds``. What it left behind is not waited for."""
    deadline = time.monotonic() + seconds
    pipe = process.stdout.fileno()
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    is_open = True
    while process.poll() is None:
        left = min(_TICK_SECONDS, deadline - time.monotonic())
        if left <= 0:
            return False
        if not is_open:
            time.sleep(left)
        elif poller.poll(left * 1000):
            is_open = output.take(pipe)
    return True


def _complaint(where: str, run: HookRun) -> str:
    # Programs put what is wrong first, and hints, indented, below.
    lines = [line for line in run.output_tail if not line.startswith(" ")] or [*run.output_tail]
    return "%s (%s) failed, %s%s" % (where, run.command, run.error, ": " + lines[-1] if lines else "")


def _failed(where: str, hook: Hook, run: HookRun, consequence: str = "") -> BackupError:
    allowed, advice = "exit code 0", "look at what it said, and run it by hand as the same user"
    error = run.error or ""
    if error.startswith(_TIMED_OUT):
        allowed = "an end within %s" % format_duration(hook.timeout)
        advice = "find out what it waits for, or give it longer with `timeout` (%s.timeout)" % where
    elif error.startswith(_CANNOT_START):
        allowed = "a program that this user can start"
        if error[len(_CANNOT_START) :] in _MISTAKES:
            advice = _why_not_started(hook.command[0])
    return BackupError(
        consequence + _complaint(where, run),
        kind="hook",
        field=where,
        found=run.error,
        allowed=allowed,
        next=advice + "; `essential: false` makes its failure a warning",
    )


def _why_not_started(program: str) -> str:
    if "/" not in program:
        return "it was looked for in %s; write its whole path" % STANDARD_PATH
    if not os.path.isfile(program):
        return "there is no such file; correct the path"
    if not os.access(program, os.X_OK):
        return "make it executable (chmod +x)"
    # The kernel says "No such file" of the interpreter, too.
    return "the first line of a script must name an interpreter that is there, such as #!/bin/sh"
