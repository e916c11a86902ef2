# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probes of a drill: is what came back of any use? Each looks at the restored tree, in a process that has no more rights than it needs."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ..errors import counted, printable
from ..manifest.database import MAGIC, CaptureError, count_rows, list_tables, sidecars_of
from ..manifest.document import Manifest
from ..manifest.entry import BLOCK, CHARACTER, FILE, Entry
from ..manifest.survey import lstat
from ..manifest.walk import Descent, open_file
from ..policy.durations import format_duration
from ..policy.model import Policy
from ..policy.probes import Probe
from ..process import NOBODY, Rights, become_nobody, in_time, rights_of, standard_environment
from .hooks import Output, execute
from .json5 import check_json5
from .sources import Marked

# A database of the manifest that no probe speaks of is looked at for so long.
_DATABASE_SECONDS = 300
_JSON_BYTES = 256 << 20
_LONGEST = 300
_SAID_COMPLAINTS = 3
# What an application adds to SQLite, and only it can check.
_OWN_PARTS = re.compile("no such (collation sequence|function|module)|unknown function|unsafe use of")
# Clocks differ; a file that is dated later than this would count as new for ever.
_SKEW_SECONDS = 300
_NOT_ON_VAULT = ("sqlite", "command")
_NOT_HERE = "no program or database of a host is opened on a vault, where snapshots of all hosts lie; drill on the host for that"


@dataclass(frozen=True)
class Check:
    """One thing that a drill has proven, or not. ``kind``: restore, bytes, metadata, canary, database, probe or objective; ``ok``: None where it was not
    judged; ``reason``: why it failed or was not judged, else what was seen; ``duration`` in seconds."""

    name: str
    kind: str
    ok: Optional[bool]
    reason: str = ""
    duration: float = 0.0

    def to_dict(self) -> Dict[str, Any]:
        """The public mapping."""
        return {**self.__dict__, "duration": round(self.duration, 3)}


@dataclass(frozen=True)
class Scene:
    """What probes look at: ``path`` (absolute), where the tree ``root`` lies; ``empty``: a directory beside it that holds nothing; ``as_of``: when the
    sources were like that (s since the epoch); ``on_vault``: this is the vault, with the rights of the account that keeps all snapshots; ``stands_in``: this
    is another machine than the host, where the numbers of the host's users are those of somebody else."""

    policy: Policy
    manifest: Manifest
    snapshot_id: str
    root: Descent
    path: bytes
    empty: bytes
    as_of: float
    on_vault: bool = False
    stands_in: bool = False


def names_of(policy: Policy) -> List[str]:
    """What the policy's and its profile's probes are called."""
    return [_name(index, probe) for index, probe in enumerate(policy.all_probes)]


def look(scene: Scene) -> Iterator[Check]:
    """Run all probes, and hold every database that was captured against what the manifest says of it. Programs come last: they may alter the tree."""
    probes = [(_name(index, probe), probe) for index, probe in enumerate(scene.policy.all_probes)]
    if scene.on_vault:
        yield from _left_to_the_host(scene, probes)
        probes = [(name, probe) for name, probe in probes if probe.kind not in _NOT_ON_VAULT]
    seen: set[bytes] = set()
    for name, probe in probes:
        if probe.kind == "sqlite":
            yield from _timed(name, "database", lambda probe=probe: _databases(scene, probe, seen))  # type: ignore[misc]
    rest = [os.fsencode(path) for path in scene.manifest.header.databases if os.fsencode(path) not in seen]
    if rest and not scene.on_vault:
        yield from _timed("databases", "database", lambda: _each_database(scene, rest, _DATABASE_SECONDS))
    for name, probe in probes:
        if probe.kind not in ("sqlite", "command"):
            yield from _timed(name, "probe", lambda probe=probe: _DECLARED[probe.kind](scene, probe))  # type: ignore[misc]
    if scene.stands_in and os.geteuid() == 0 and any(probe.kind == "command" for _name, probe in probes):
        _give_to_nobody(scene)
    for name, probe in probes:
        if probe.kind == "command":
            yield from _timed(name, "probe", lambda probe=probe: _command(scene, probe, scene.path))  # type: ignore[misc]


def _left_to_the_host(scene: Scene, probes: Sequence[Tuple[str, Probe]]) -> Iterator[Check]:
    """What no vault does: a host that is not what it was could send a program, or a database that breaks SQLite, to be read by who owns all snapshots."""
    for name, probe in probes:
        if probe.kind in _NOT_ON_VAULT:
            yield Check(name, "database" if probe.kind == "sqlite" else "probe", None, _NOT_HERE)
    if scene.manifest.header.databases:
        yield Check("databases", "database", None, "their bytes came back; " + _NOT_HERE)


def controls(scene: Scene) -> Iterator[Check]:
    """Run the programs again where there is nothing: what is content with that proves nothing."""
    for index, probe in enumerate(scene.policy.all_probes if not scene.on_vault else ()):
        if probe.kind == "command" and probe.control:
            yield from _timed(_name(index, probe) + " (control)", "probe", lambda probe=probe: _control(scene, probe))  # type: ignore[misc]


class _FoundError(Exception):
    """A probe failed, and why."""


class _NothingError(Exception):
    """There was nothing to look at, and that is allowed."""


def _timed(name: str, kind: str, work: Callable[[], str]) -> Iterator[Check]:
    began = time.monotonic()
    ok: Optional[bool] = True
    try:
        reason = work()
    except _FoundError as error:
        ok, reason = False, str(error)
    except _NothingError as error:
        ok, reason = None, str(error)
    except OSError as error:
        ok, reason = False, error.strerror or str(error)
    yield Check(name, kind, ok, reason[:_LONGEST], time.monotonic() - began)


def _name(index: int, probe: Probe) -> str:
    if probe.command is not None:
        what = printable(probe.command[0])
    elif probe.exists is not None:
        what = printable(probe.exists[0]) + (", …" if len(probe.exists) > 1 else "")
    else:
        what = printable(probe.pattern)
    return "probe %d: %s %s" % (index + 1, probe.kind, what)


def _matches(scene: Scene, probe: Probe) -> List[Entry]:
    """The files that a pattern means, each under one name."""
    is_meant = Marked(scene.manifest.header.sources, (probe.pattern,))
    found = {entry.group or entry.path: entry for entry in scene.manifest.entries if entry.type == FILE and is_meant(entry.path)}
    if found:
        return sorted(found.values())
    text = "nothing in the snapshot matches %s" % printable(probe.pattern)
    raise _NothingError(text) if probe.optional else _FoundError(text)


def _complaints(found: Sequence[str]) -> None:
    if found:
        more = "; and %d more" % (len(found) - _SAID_COMPLAINTS) if len(found) > _SAID_COMPLAINTS else ""
        raise _FoundError("; ".join(found[:_SAID_COMPLAINTS]) + more)


# ---- databases -----------------------------------------------------------------------------------------------------


def _databases(scene: Scene, probe: Probe, seen: "set[bytes]") -> str:
    captured = frozenset(map(os.fsencode, scene.manifest.header.databases))
    paths = []
    for entry in _matches(scene, probe):
        names = {entry.path, entry.group or entry.path}
        path = next(iter(names & captured), entry.path)
        if path not in seen:
            paths.append(path)
    seen.update(paths)
    return _each_database(scene, paths, probe.timeout)


def _each_database(scene: Scene, paths: Sequence[bytes], timeout: int) -> str:
    found = []
    counted_only: List[str] = []
    rows = 0
    for path in paths:
        try:
            more, why = _database(scene, path, timeout)
            rows += more
            counted_only += ["%s: %s" % (printable(b"/" + path), why)] if why else []
        except _FoundError as error:
            found.append("%s: %s" % (printable(b"/" + path), error))
    _complaints(found)
    text = "%s whole, %s" % (counted(len(paths) - len(counted_only), "database"), counted(rows, "row"))
    return text + ("; %d only counted, the first is %s" % (len(counted_only), counted_only[0]) if counted_only else "")


def _database(scene: Scene, path: bytes, timeout: int) -> Tuple[int, str]:
    """How many rows it has, and why no more than that could be found out; ``_FoundError`` where it is not whole, or not what was captured."""
    if sidecars_of(scene.root, path):
        raise _FoundError("it was not captured but copied as it lay, with a journal beside it, and cannot be looked at without changing it")
    parent, name = scene.root.parent(path)
    fd, _found = open_file(parent, name)
    try:
        if os.read(fd, len(MAGIC)) != MAGIC:
            raise _FoundError("it is no SQLite database" if os.fstat(fd).st_size else "it is empty")
    finally:
        os.close(fd)
    answer = _answer(lambda: _look_at(scene.path + b"/" + path), timeout)
    if answer["wrong"]:
        raise _FoundError(str(answer["wrong"]))
    facts: Mapping[str, int] = scene.manifest.header.databases.get(os.fsdecode(path), {})
    for word in ("tables", "rows"):
        if word in facts and facts[word] != answer[word]:
            raise _FoundError("it has %s, and had %d when it was captured" % (counted(answer[word], word[:-1]), facts[word]))
    if not answer["tables"] and not facts:
        raise _FoundError("it has no tables")
    return int(answer["rows"]), str(answer["unchecked"])


def _look_at(location: bytes) -> Dict[str, Any]:
    """In a process of its own: what SQLite thinks of a file that nobody else can reach."""
    import sqlite3
    from urllib.parse import quote_from_bytes

    # Opened with our rights and looked at without them: whoever made the file may have made it for the one who reads it.
    # Immutable: there are no journals, and none are to be made.
    base = sqlite3.connect("file:%s?mode=ro&immutable=1" % quote_from_bytes(location), uri=True, isolation_level=None)
    become_nobody()
    try:
        for pragma in ("temp_store=MEMORY", "trusted_schema=OFF", "cell_size_check=ON"):
            base.execute("PRAGMA %s" % pragma).fetchall()
        unchecked = ""
        try:
            said = [str(row[0]) for row in base.execute("PRAGMA integrity_check(3)")]
        except sqlite3.OperationalError as error:
            if not _OWN_PARTS.match(str(error)):
                raise
            said, unchecked = ["ok"], printable(str(error))[:_LONGEST]
        if said != ["ok"]:
            return {"wrong": printable(" ".join("; ".join(said).split()))[:_LONGEST]}
        tables = list_tables(base)
        return {"wrong": "", "unchecked": unchecked, "tables": len(tables), "rows": count_rows(base, tables, lambda: None)}
    except sqlite3.Error as error:
        return {"wrong": printable(str(error))[:_LONGEST]}
    except CaptureError as error:
        return {"wrong": error.reason}


def _answer(work: Callable[[], Dict[str, Any]], timeout: int) -> Dict[str, Any]:
    def told() -> bytes:
        try:
            return json.dumps(work()).encode("ascii")
        except (Exception, MemoryError) as error:  # noqa: BLE001 - whatever it is, it is about this file
            return json.dumps({"wrong": printable(str(error) or type(error).__name__)[:_LONGEST]}).encode("ascii")

    began = time.monotonic()
    said = in_time(told, timeout)
    if said is None:
        raise _FoundError("timed out after %s" % format_duration(timeout) if time.monotonic() - began >= timeout else "the process that looked at it died")
    answer: Dict[str, Any] = json.loads(said)
    return answer


# ---- files ---------------------------------------------------------------------------------------------------------


def _json(scene: Scene, probe: Probe) -> str:
    entries = _matches(scene, probe)
    found = []
    for entry in entries:
        fd, _stat = open_file(*scene.root.parent(entry.path))
        try:
            wrong = _answer(lambda fd=fd: _parse(fd, probe.kind), probe.timeout)["wrong"]  # type: ignore[misc]
        except _FoundError as error:
            wrong = str(error)
        finally:
            os.close(fd)
        if wrong:
            found.append("%s: %s" % (printable(b"/" + entry.path), wrong))
    _complaints(found)
    return "%s parsed" % counted(len(entries), "file")


def _parse(fd: int, kind: str) -> Dict[str, Any]:
    become_nobody()
    if os.fstat(fd).st_size > _JSON_BYTES:
        return {"wrong": "it is larger than %d bytes" % _JSON_BYTES}
    with open(fd, "rb", closefd=False) as stream:
        text = stream.read().decode("utf-8")
    if kind == "json":
        json.loads(text)
    else:
        check_json5(text)
    return {"wrong": ""}


def _exists(scene: Scene, probe: Probe) -> str:
    lost = []
    for path in probe.exists or ():
        try:
            lstat(scene.root, os.fsencode(path).strip(b"/"))
        except OSError:
            lost.append("%s did not come back" % printable(path))
    _complaints(lost)
    return "%s there" % counted(len(probe.exists or ()), "path")


def _max_age(scene: Scene, probe: Probe) -> str:
    assert probe.max_age is not None
    newest = max(_matches(scene, probe), key=lambda entry: entry.mtime)
    age = scene.as_of - newest.mtime / 1e9
    text = "the newest, %s, is %s older than the state that came back" % (printable(b"/" + newest.path), format_duration(max(0, int(age))))
    if age < -_SKEW_SECONDS:
        raise _FoundError("the newest, %s, is dated in the future" % printable(b"/" + newest.path))
    if age > probe.max_age.duration:
        raise _FoundError("%s; at most %s" % (text, format_duration(probe.max_age.duration)))
    return text


_DECLARED: Mapping[str, Callable[[Scene, Probe], str]] = {"json": _json, "json5": _json, "exists": _exists, "max_age": _max_age}


# ---- programs ------------------------------------------------------------------------------------------------------


def _command(scene: Scene, probe: Probe, where: bytes) -> str:
    assert probe.command is not None
    rights = None if probe.as_root else _rights(scene)
    output = Output()
    rc, wrong = execute(probe.command, probe.timeout, _environment(scene, rights, where), output, cwd=where, rights=rights, leaves_nothing=True)
    if wrong is None and probe.expect is not None and not output.has(os.fsencode(probe.expect)):
        wrong = "exit code 0, but it did not say %s" % printable(probe.expect)
    if wrong is not None:
        said = output.tail()
        raise _FoundError(wrong + (": " + said[-1] if said else ""))
    return "exit code %d" % (rc or 0)


def _control(scene: Scene, probe: Probe) -> str:
    try:
        _command(scene, probe, scene.empty)
    except _FoundError as error:
        return "in an empty directory it fails, as it should: %s" % error
    raise _FoundError("it succeeds in an empty directory too, so that its success proves nothing (`control: false` would take its word)")


def _rights(scene: Scene) -> Optional[Rights]:
    """Those of the first source's owner who is not root, else nobody's: root's own files need ``as_root``. None for ourselves."""
    if os.geteuid() != 0:
        return None
    owner = _owner(scene)
    if owner is None or scene.stands_in:
        return Rights(NOBODY, NOBODY, [])
    return rights_of(owner.uid, owner.gid)


def _give_to_nobody(scene: Scene) -> None:
    """Let nobody have what the owner of the sources would work with, where no account of this machine is that owner. All else was proven before. Devices
    go: they are this machine's, whatever machine named them."""
    owner = _owner(scene)
    for entry in scene.manifest.entries:
        is_device = entry.type in (BLOCK, CHARACTER)
        if is_device or (owner is not None and entry.uid == owner.uid):
            with suppress(FileNotFoundError, NotADirectoryError):  # it did not come back, and that was told
                parent, name = scene.root.parent(entry.path)
                if is_device:
                    os.unlink(name, dir_fd=parent)
                else:
                    os.chown(name, NOBODY, NOBODY if entry.gid == owner.gid else -1, dir_fd=parent, follow_symlinks=False)  # type: ignore[union-attr]
    scene.root.forget()


def _owner(scene: Scene) -> Optional[Entry]:
    """The first source that is not root's."""
    by_path = scene.manifest.by_path()
    for source in scene.manifest.header.sources:
        entry = by_path.get(os.fsencode(source).strip(b"/"))
        if entry is not None and entry.uid != 0:
            return entry
    return None


def _environment(scene: Scene, rights: Optional[Rights], where: bytes) -> Dict[str, str]:
    return {
        **standard_environment(os.geteuid() if rights is None else rights.uid),
        # The directories above are closed to others: who works as one of them has it by the directory that he starts in.
        "OPENCLAW_BACKUP_SCRATCH": os.fsdecode(where) if rights is None else "/proc/self/cwd",
        "OPENCLAW_BACKUP_SNAPSHOT": scene.snapshot_id,
        "OPENCLAW_BACKUP_POLICY": scene.policy.name,
        "OPENCLAW_BACKUP_HOST": scene.policy.host,
        "OPENCLAW_BACKUP_SOURCES": "\n".join(scene.manifest.header.sources),
    }
