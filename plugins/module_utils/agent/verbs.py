# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One function a verb: from a request to the engine, and from its answer to an outcome. Each imports only what it needs."""

from __future__ import annotations

import os
import re
import stat
import sys
from argparse import Namespace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from ..action.state import default_state_directory
from ..errors import EXIT_DONE, BackupError, IntegrityError, RefusedError, UsageError, printable
from ..observe.progress import Progress, TerminalProgress, progress_for
from ..policy.checks import check_tag
from ..policy.model import Policy
from . import terminal
from .policies import load_policy, path_of


class Outcome(NamedTuple):
    """``result``: the public mapping; ``failure``: what was found to be wrong where the verb came to its end all the same."""

    result: Dict[str, Any]
    failure: Optional[BackupError] = None


class Job(NamedTuple):
    """A request with what it stands on. ``is_own_history``: the history is this host's own."""

    request: Namespace
    policy: Policy
    is_own_history: bool
    state_directory: str
    progress: Progress


def perform(request: Namespace) -> Outcome:
    """Do what is asked for. Raises BackupError."""
    own = load_policy(request.policy)
    wish = getattr(request, "host", None)
    policy = own if wish is None else own.of_host(wish)
    state = os.path.abspath(request.state) if request.state else default_state_directory()
    _check_state(state)
    return VERB_FUNCTIONS[request.verb](Job(request, policy, policy.host == own.host, state, _progress(request)))


def _check_state(path: str) -> None:
    """Where it is missing it is made by whoever writes; what is no directory would be told of in the system's words, and by a file's name inside it."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except NotADirectoryError:
        is_directory = False
    except OSError:
        return
    if not is_directory:
        raise UsageError(
            "The state directory %s is not a directory" % printable(path),
            field="--state",
            found=path,
            allowed="a directory, there or to be made",
            next="name another with --state or OPENCLAW_BACKUP_STATE",
        )


class _Notes(Progress):
    """Where there is no terminal, only what stays is told."""

    def note(self, text: str) -> None:
        terminal.complain([text])


def _progress(request: Namespace) -> Progress:
    if request.json or getattr(request, "quiet", False):
        return Progress()
    progress = progress_for(sys.stderr, quiet=False)
    return progress if isinstance(progress, TerminalProgress) else _Notes()


def _run(job: Job) -> Outcome:
    from ..action.backup import backup

    request = job.request
    if request.loop is not None:
        return _run_loop(job)
    if request.flush is not None:
        raise UsageError("run: --flush says how a loop ends", field="--flush", found=request.flush, allowed="--flush with --loop")
    if request.scheduled:
        clash = [flag for flag in ("adopt", "accept", "tag", "dry_run") if getattr(request, flag)]
        if clash:
            flag = "--" + clash[0].replace("_", "-")
            raise UsageError("run: --scheduled stands alone", field=flag, found=flag, allowed="--scheduled with --quiet or --json")
        from ..action.scheduled import run_scheduled

        return Outcome(run_scheduled(job.policy, state_directory=job.state_directory, progress=job.progress).to_dict())
    _check_tags(request.tag, "--tag")
    result = backup(
        job.policy,
        state_directory=job.state_directory,
        adopt=request.adopt,
        accept=request.accept,
        tags=request.tag,
        dry_run=request.dry_run,
        progress=job.progress,
    )
    return Outcome(result.to_dict(), result.failure())


def _run_loop(job: Job) -> Outcome:
    from ..action.loop import FLUSH_SECONDS, loop, pace_of

    request = job.request
    clash = [flag for flag in ("scheduled", "adopt", "accept", "tag", "dry_run", "json") if getattr(request, flag)]
    if clash:
        flag = "--" + clash[0].replace("_", "-")
        raise UsageError("run: --loop says each run in JSON", field=flag, found=flag, allowed="--loop with --flush, --quiet and --state")
    flush = FLUSH_SECONDS if request.flush is None else _count(request.flush, "--flush")

    def say(line: Dict[str, Any]) -> None:
        if line["rc"] or line.get("changed") or not request.quiet:
            import json

            terminal.tell([json.dumps(line)])

    def tell(text: str) -> None:
        terminal.complain([text])

    rc = loop(
        lambda: load_policy(request.policy),
        state_directory=job.state_directory,
        pace=pace_of(_count(request.loop, "--loop")),
        say=say,
        tell=tell,
        flush=flush,
        progress=job.progress,
    )
    return Outcome({"rc": rc})


def _health(job: Job) -> Outcome:
    from ..action.health import health

    request = job.request
    if request.alive and request.max_age is not None:
        raise UsageError("health: --alive asks for no age", field="--max-age", found=request.max_age, allowed="one of --alive and --max-age")
    max_age = None if request.max_age is None else _positive(request.max_age, "--max-age")
    result = health(job.policy, state_directory=job.state_directory, max_age=max_age, alive=request.alive)
    failure = None
    if result["problems"]:
        failure = BackupError("Not healthy: %s" % "; ".join(result["problems"]), kind="unhealthy", next="`openclaw-backup status POLICY` asks the target, too")
    return Outcome(result, failure)


def _watch(job: Job) -> Outcome:
    from ..action.watch import watch

    path = os.path.abspath(path_of(job.request.policy))
    before = _identity(path)

    def tell(text: str) -> None:
        terminal.complain([text])

    result = watch(job.policy, state_directory=job.state_directory, is_current=lambda: _identity(path) == before, tell=tell, progress=job.progress)
    return Outcome(result.to_dict())


def _identity(path: str) -> Optional[Sequence[int]]:
    """What is another one where a file was replaced or written to; None for none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _check_tags(names: Sequence[str], flag: str) -> None:
    for name in names:
        check_tag(name, flag)


def _list(job: Job) -> Outcome:
    from ..action.history import check_present, list_snapshots, measured

    _check_tags(job.request.tag, "--tag")
    check_present(job.policy, job.state_directory)
    snapshots = list_snapshots(job.policy)
    found = [
        {**snapshot.to_dict(), "received_files": snapshot.receipt.received_files, **measure}
        for snapshot, measure in zip(snapshots, measured(job.policy, snapshots, job.request.sizes))
        if not job.request.tag or set(job.request.tag).intersection(snapshot.tags)
    ]
    result = {**_history(job.policy), "snapshots": found, "rc": EXIT_DONE}
    return Outcome(result)


def _show(job: Job) -> Outcome:
    from ..action.history import check_present, show_snapshot

    check_present(job.policy, job.state_directory)
    snapshot, manifest = show_snapshot(job.policy, job.request.snapshot or "latest")
    result = {
        **_history(job.policy),
        "snapshot": snapshot.to_dict(),
        "receipt": snapshot.receipt.to_dict(),
        "sources": [printable(source) for source in manifest.header.sources],
        "selection": dict(manifest.header.selection),
        "application": dict(manifest.header.application),
        "databases": {printable("/" + path): dict(counts) for path, counts in manifest.header.databases.items()},
        "rc": EXIT_DONE,
    }
    return Outcome(result)


def _ls(job: Job) -> Outcome:
    from ..action.history import check_present, entry_to_dict, list_paths

    check_present(job.policy, job.state_directory)
    words = [word for word in (job.request.snapshot, job.request.path) if word is not None]
    paths = [word for word in words if word.startswith("/")]
    wishes = [word for word in words if not word.startswith("/")]
    if len(paths) > 1 or len(wishes) > 1:
        raise UsageError(
            "ls: %s and %s are not one snapshot and one path" % tuple(map(printable, words)),
            field="PATH",
            found=words[1],
            allowed="one snapshot, and one path that begins with '/'",
        )
    snapshot, entries = list_paths(job.policy, wishes[0] if wishes else "latest", paths[0] if paths else None, recursive=job.request.recursive)
    result = {**_history(job.policy), "snapshot_id": snapshot.id, "entries": [entry_to_dict(entry) for entry in entries], "rc": EXIT_DONE}
    return Outcome(result)


def _find(job: Job) -> Outcome:
    from ..action.find import LISTED, find

    request = job.request
    result = find(
        job.policy,
        request.pattern,
        state_directory=job.state_directory,
        paths=tuple(map(os.path.abspath, request.path)),
        snapshot=request.snapshot,
        ignore_case=request.ignore_case,
        limit=LISTED if request.limit is None else _count(request.limit, "--limit"),
    )
    return Outcome({**_history(job.policy), **result})


def _count(text: str, flag: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise UsageError(
            "%s is no number from 1 on" % flag, field=flag, found=text, allowed="a whole number from 1 to 999999999", next="write a number, such as 1000"
        )
    return int(text)


def _diff(job: Job) -> Outcome:
    from ..action.history import check_present, compare, content_bytes

    check_present(job.policy, job.state_directory)
    old, new, changes = compare(job.policy, job.request.a, job.request.b or "latest")
    listed: List[Dict[str, Any]] = []
    for word, pairs in (
        ("added", [(None, entry) for entry in changes.added]),
        ("removed", [(None, entry) for entry in changes.removed]),
        ("modified", list(changes.modified)),
        ("metadata", list(changes.metadata)),
    ):
        for before, entry in pairs:
            item = {"path": printable(b"/" + entry.path), "change": word, "type": entry.type, "size": entry.size}
            if before is not None and before.type == entry.type == "f":
                item["old_size"] = before.size
            listed.append(item)
    listed.sort(key=lambda item: str(item["path"]))
    came, went = content_bytes(changes)
    sizes = {"bytes_added": came, "bytes_removed": went}
    result = {**_history(job.policy), "old": old.id, "new": new.id, **changes.counts(), **sizes, "changes": listed, "rc": EXIT_DONE}
    return Outcome(result)


def _restore(job: Job) -> Outcome:
    from ..action.restore import RestoreRequest, RestoreResult, restore

    request = job.request
    if request.if_needed:
        return _restore_if_needed(job)
    wish = RestoreRequest(
        snapshot=request.snapshot or "latest",
        paths=tuple(map(os.path.abspath, request.path)),
        dest=os.path.abspath(request.dest) if request.dest is not None else None,
        delete=request.delete,
        undo=os.path.abspath(request.undo) if request.undo is not None else None,
        verify=not request.no_verify,
        confirm=True,  # typing the command is the confirmation, and on a terminal the answer
    )

    def go(*, dry_run: bool) -> RestoreResult:
        return restore(job.policy, wish, state_directory=job.state_directory, dry_run=dry_run, progress=job.progress, is_own_history=job.is_own_history)

    if not (request.dry_run or request.yes) and terminal.can_ask():
        from . import render

        preview = go(dry_run=True)
        costs_data = preview.files_replaced or preview.files_removed
        if costs_data and not terminal.agrees(render.question(preview.to_dict(), wish.undo)):
            raise RefusedError("Nothing was changed", kind="confirm", field="confirm", next="answer y, or give --yes, or restore elsewhere with --dest")
    done = go(dry_run=request.dry_run)
    result = done.to_dict()
    return Outcome(result, done.failure())


def _restore_if_needed(job: Job) -> Outcome:
    from ..action.needed import restore_if_needed

    request = job.request
    clash = [flag for flag in ("snapshot", "dest", "path", "delete", "no_verify", "host") if getattr(request, flag)]
    if clash:
        flag = "--" + clash[0].replace("_", "-")
        allowed = "--if-needed with --undo, --dry-run, --yes, --quiet or --json"
        raise UsageError("restore: --if-needed decides by itself what is restored", field=flag, found=flag, allowed=allowed)
    undo = os.path.abspath(request.undo) if request.undo is not None else None
    done = restore_if_needed(job.policy, state_directory=job.state_directory, undo=undo, dry_run=request.dry_run, progress=job.progress)
    return Outcome(done.to_dict())


def _verify(job: Job) -> Outcome:
    from ..action.rolling import parse_shares
    from ..action.verify import parse_slice, verify

    request = job.request
    clash = [flag for flag in ("snapshot", "depth", "slice") if getattr(request, flag) is not None]
    if request.rolling is not None and (clash or request.source):
        flag = "--" + (clash or ["source"])[0]
        allowed = "--rolling with --host, --quiet or --json"
        raise UsageError("verify: --rolling reads a share of the newest snapshot, %s has no meaning with it" % flag, field=flag, allowed=allowed)
    clash = [flag for flag in ("snapshot", "depth", "host") if getattr(request, flag) is not None]
    if request.source and clash:
        raise UsageError(
            "verify: --source reads this host's files, --%s has no meaning with it" % clash[0], field="--" + clash[0], allowed="--source alone or with --slice"
        )
    found = verify(
        job.policy,
        state_directory=job.state_directory,
        snapshot=request.snapshot or "latest",
        depth=request.depth or "full",
        part=parse_slice(request.slice) if request.slice is not None else None,
        rolling=parse_shares(request.rolling) if request.rolling is not None else None,
        source=request.source,
        progress=job.progress,
    )
    result = found.to_dict()
    return Outcome(result, found.failure())


def _drill(job: Job) -> Outcome:
    from ..action.drill import drill
    from ..policy.scenarios import LOST_HOST, SCENARIOS
    from .reports import junit, markdown

    request = job.request
    if request.scheduled:
        clash = [flag for flag in ("snapshot", "host", "junit", "markdown", "keep", "dry_run", "scenario", "spent") if getattr(request, flag)]
        if clash:
            flag = "--" + clash[0].replace("_", "-")
            allowed = "--scheduled with --scratch, --asked-by, --on-vault, --quiet or --json"
            raise UsageError("drill: --scheduled drills the newest snapshot, and keeps its evidence in the state", field=flag, found=flag, allowed=allowed)
        from ..action.due import drill_if_due

        scheduled = drill_if_due(
            job.policy,
            state_directory=job.state_directory,
            scratch=os.path.abspath(request.scratch) if request.scratch is not None else None,
            progress=job.progress,
            on_vault=request.on_vault,
            asked_by=request.asked_by or "the schedule",
        )
        return Outcome(scheduled.to_dict(), scheduled.failure())
    if request.scenario not in (None, *SCENARIOS, LOST_HOST):
        allowed = ", ".join([*SCENARIOS, LOST_HOST])
        raise UsageError("drill: there is no scenario %s" % printable(request.scenario), field="--scenario", found=request.scenario, allowed=allowed)
    reports = [(os.path.abspath(path), write) for path, write in ((request.junit, junit), (request.markdown, markdown)) if path is not None]
    if reports and request.dry_run:
        raise UsageError("drill: a prediction has nothing to report", field="--dry-run", allowed="--dry-run without --junit and --markdown")
    for path, _write in reports:
        if os.path.isdir(path) or not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
            raise UsageError("No report can be written to %s" % printable(path), field="FILE", found=path, allowed="a file in a directory that is there")
    done = drill(
        job.policy,
        state_directory=job.state_directory,
        scratch=os.path.abspath(request.scratch) if request.scratch is not None else None,
        snapshot=request.snapshot or "latest",
        keep=request.keep,
        dry_run=request.dry_run,
        progress=job.progress,
        is_own_history=job.is_own_history,
        on_vault=request.on_vault,
        asked_by=request.asked_by,
        scenario=request.scenario or "restore",
        spent=_spent(request.spent, request.scenario),
    )
    result = done.to_dict()
    for path, write in reports:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(write(result))
    return Outcome(result, done.failure())


def _spent(text: Optional[str], scenario: Optional[str]) -> float:
    from ..policy.scenarios import LOST_HOST

    if text is None:
        return 0.0
    if scenario != LOST_HOST or re.fullmatch("[0-9]{1,9}([.][0-9]{1,9})?", text) is None:
        raise UsageError(
            "drill: --spent is %s" % printable(text), field="--spent", found=text, allowed="seconds such as 12.5, beside --scenario %s" % LOST_HOST
        )
    return float(text)


def _prune(job: Job) -> Outcome:
    from ..action.choose import no_snapshot
    from ..action.history import list_snapshots
    from ..action.locate import name_of
    from ..action.prune import prune, simulate_prunes

    request = job.request
    if not job.is_own_history and not list_snapshots(job.policy):
        raise no_snapshot(name_of(job.policy))  # most often a misspelt name
    if request.every is not None and request.simulate is None:
        raise UsageError("prune: --every says how a simulation goes on", field="--every", found=request.every, allowed="--every with --simulate")
    if request.simulate is not None:
        length, every = (None if text is None else _positive(text, flag) for text, flag in ((request.simulate, "--simulate"), (request.every, "--every")))
        assert length is not None
        return Outcome(simulate_prunes(job.policy, state_directory=job.state_directory, length=length, every=every))
    return Outcome(prune(job.policy, state_directory=job.state_directory, dry_run=job.request.dry_run, progress=job.progress).to_dict())


def _rekey(job: Job) -> Outcome:
    from ..action.rekey import rekey

    return Outcome(rekey(job.policy, state_directory=job.state_directory, dry_run=job.request.dry_run, progress=job.progress).to_dict())


def _replicate(job: Job) -> Outcome:
    from ..action.replicate import replicate
    from ..policy.target_spec import check_target
    from .keeper import Limits, limits_of

    request = job.request
    if request.to is None:
        raise UsageError(
            "replicate: --to is missing",
            field="--to",
            allowed="the directory of the vault that is to keep the copies, or the URL of one of the policy's copies",
            next="name it, such as --to /srv/vault2",
        )
    to = check_target(request.to if "://" in request.to else os.path.abspath(request.to), "--to")
    done = replicate(
        job.policy,
        to,
        state_directory=job.state_directory,
        repair=request.repair,
        dry_run=request.dry_run,
        progress=job.progress,
        entries=(limits_of(to.path) if to.scheme == "file" else Limits()).entries,
    )
    return Outcome({**_history(job.policy), **done.to_dict()}, done.failure())


def _positive(text: str, flag: str) -> int:
    from ..policy.durations import ALLOWED, parse_duration

    seconds = parse_duration(text, flag)
    if not seconds:
        raise UsageError("%s must be longer than nothing" % flag, field=flag, found=text, allowed=ALLOWED)
    return seconds


def _hold(job: Job) -> Outcome:
    from ..action.prune import hold

    return Outcome(hold(job.policy, state_directory=job.state_directory, snapshot=job.request.snapshot, reason=job.request.reason))


def _release(job: Job) -> Outcome:
    from ..action.prune import release

    return Outcome(release(job.policy, state_directory=job.state_directory, snapshot=job.request.snapshot))


def _tag(job: Job) -> Outcome:
    from ..action.prune import tag

    request = job.request
    return Outcome(tag(job.policy, state_directory=job.state_directory, snapshot=request.snapshot, add=request.add, remove=request.remove))


def _status(job: Job) -> Outcome:
    from ..action.status import status

    is_own_history = job.is_own_history and not job.request.on_vault
    result = status(job.policy, state_directory=job.state_directory, is_own_history=is_own_history)
    if job.request.notify:
        from ..action.notify import notify_of_status
        from ..action.state import HostState

        result["warnings"] = notify_of_status(job.policy, HostState(job.state_directory, job.policy), result)
    return Outcome(result)


def _check(job: Job) -> Outcome:
    from ..action.check import check

    request = job.request
    path = os.path.abspath(request.explain) if request.explain is not None else None
    result = check(job.policy, state_directory=job.state_directory, path=path, canary=not request.no_canary, progress=job.progress)
    return Outcome({**_history(job.policy), **result.to_dict()})


def _adopt(job: Job) -> Outcome:
    from ..action.adopt import adopt

    result = adopt(job.policy, state_directory=job.state_directory, dry_run=job.request.dry_run)
    return Outcome(result)


def _audit(job: Job) -> Outcome:
    from ..action.audit import audit

    result = audit(job.policy, state_directory=job.state_directory, is_own_history=job.is_own_history)
    broken = [log for log in result["logs"] if not log["ok"]]
    failure = None
    if broken:
        failure = IntegrityError(
            "The log %s is not what was written: %s" % (broken[0]["path"], broken[0]["reason"]),
            kind="audit",
            field=broken[0]["log"],
            found=broken[0]["first_bad"],
            next="compare it with a copy; find out who can write to it",
        )
    return Outcome(result, failure)


def _history(policy: Policy) -> Dict[str, Any]:
    return {"host": policy.host, "policy": policy.name, "target": policy.target.url}


VERB_FUNCTIONS: Dict[str, Callable[[Job], Outcome]] = {
    "run": _run,
    "watch": _watch,
    "health": _health,
    "list": _list,
    "show": _show,
    "ls": _ls,
    "find": _find,
    "diff": _diff,
    "restore": _restore,
    "verify": _verify,
    "drill": _drill,
    "prune": _prune,
    "replicate": _replicate,
    "hold": _hold,
    "release": _release,
    "tag": _tag,
    "rekey": _rekey,
    "status": _status,
    "check": _check,
    "adopt": _adopt,
    "audit": _audit,
}
