# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line ``openclaw-backup``: one request in, one answer out, one exit code."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from contextlib import contextmanager
from typing import Any, Iterator, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Union

from ..errors import EXIT_DONE, EXIT_FAILED, BackupError, printable, refused_by_system
from ..process import collector_at_rest
from . import terminal
from .arguments import PROGRAM, parse


class Answer(NamedTuple):
    """The exit code, and what goes to standard output and to standard error."""

    rc: int
    output: List[str]
    complaints: List[str]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Do what the arguments (default: ``sys.argv``) ask for, and return the exit code of the table in ``errors``."""
    words = list(sys.argv[1:] if argv is None else argv)
    terminal.prepare()
    request: Union[Namespace, str, None] = None
    try:
        request = parse(words)
        if not isinstance(request, str) and request.verb == "serve":
            from .serve import serve

            return serve(vault=request.vault, host=request.host, storage=request.storage, may_read=request.read, session=request.session, copies=request.copies)
        with _stoppable(), collector_at_rest():
            answer = Answer(EXIT_DONE, request.splitlines(), []) if isinstance(request, str) else _answer(request)
            terminal.tell(answer.output)
    except BaseException as error:  # noqa: BLE001 - the last place where it can be told
        # Looked for by hand: a command line that cannot be parsed is answered in the same form.
        answer = _refusal(_failure(error, words), "--json" in words, getattr(request, "policy", None))
        terminal.tell(answer.output)
    terminal.complain(answer.complaints)
    return answer.rc


def _answer(request: Namespace) -> Answer:
    """Do it. Raises whatever goes wrong."""
    from .verbs import perform

    outcome = perform(request)
    result, wrong = outcome.result, outcome.failure
    rc: int = result["rc"]
    if request.json:
        failure = {} if wrong is None else {"msg": str(wrong), "error": wrong.to_dict()}
        return Answer(rc, [_json({**result, "failed": wrong is not None, **failure})], [])
    complaints = [*_warnings(result), *_said(result)]
    if wrong is not None:
        complaints += _complaint(wrong, request.policy)
    if getattr(request, "quiet", False):
        return Answer(rc, [], complaints)
    from . import render

    return Answer(rc, list(render.lines(request, result)), complaints)


def _refusal(error: BackupError, as_json: bool, policy: Optional[str]) -> Answer:
    if as_json:
        return Answer(error.rc, [_json({**error.done, "failed": True, "msg": str(error), "rc": error.rc, "error": error.to_dict()})], [])
    return Answer(error.rc, [], _complaint(error, policy))


def _complaint(error: BackupError, policy: Optional[str]) -> List[str]:
    from . import render

    first, *more = render.failure(error, policy)
    return ["%s: %s" % (PROGRAM, first), *more, *_warnings(error.done), *_said(error.done)]


def _warnings(result: Mapping[str, Any]) -> List[str]:
    return ["warning: " + text for text in result.get("warnings", ())]


def _said(result: Mapping[str, Any]) -> List[str]:
    """What hooks said that failed."""
    if not any(hook["output_tail"] for hook in result.get("hooks", ())):
        return []
    from . import render

    return list(render.hook_output(result["hooks"]))


def _failure(error: BaseException, words: Sequence[str]) -> BackupError:
    """What is told of an exception."""
    if isinstance(error, BackupError):
        return error
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        if words[:1] in (["run"], ["restore"], ["prune"], ["rekey"]):
            told = BackupError(
                "Interrupted; what was done is kept, and nothing half done counts", kind="interrupted", next="run it again: it goes on from there"
            )
        else:
            told = BackupError("Interrupted; nothing is left half done", kind="interrupted", next="run it again")
        if isinstance(error.__cause__, BackupError):
            told.done = error.__cause__.done
        return told
    if os.environ.get("OPENCLAW_BACKUP_DEBUG") == "1":
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    if isinstance(error, OSError):
        return refused_by_system(error, "running %s" % printable(words[0]))
    return BackupError(
        "internal error: %s: %s" % (type(error).__name__, printable(str(error))),
        kind="internal",
        next="run it again with OPENCLAW_BACKUP_DEBUG=1, and report what it prints",
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Have a polite signal end the work through its ``finally`` blocks, as Ctrl-C does. A signal that is ignored (nohup) stays so."""

    def stop(_number: int, _frame: Any) -> NoReturn:
        raise SystemExit(EXIT_FAILED)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _json(result: Any) -> str:
    import json

    return json.dumps(_plain(result))


def _plain(value: Any) -> Any:
    """The same value with text that every reader of JSON takes: no lone surrogates."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return printable(value) if isinstance(value, str) and not value.isprintable() else value


if __name__ == "__main__":
    sys.exit(main())
