# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vault's side of the conversation with a host: one request after the other, with the vault's own rights and the host's own wishes.

Whatever comes is taken for hostile. Nothing here removes or changes a snapshot; the words for that do not exist.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import ExitStack, suppress
from typing import Any, Callable, Dict, Iterable, List, Mapping, NoReturn, Optional, Sequence, Tuple

from ..errors import BackupError, LockedError, RefusedError, TargetError, UsageError, printable, refused_by_system
from ..manifest.delta import apply_delta
from ..manifest.document import Manifest
from ..manifest.walk import Descent
from ..observe.audit import AuditLog, rfc3339, seconds_of
from ..policy.checks import check_tag, is_name
from ..process import lock
from ..target.contract import IncompleteError, Snapshot, Thresholds, is_canary
from ..target.remote.session import digest_of_paths
from ..target.remote.stream import pieces_of, receive_files
from ..target.remote.target import write_snapshot
from ..target.remote.wire import GREETING, PROTOCOL, Wire, pack_error
from ..target.tree.guarded import GuardedSession, Ingest
from ..target.tree.layout import create_vault, damaged_paths, is_snapshot_id, make_private
from ..target.tree.target import TreeTarget
from ..version import VERSION
from .keeper import Keeper

_TX = re.compile("[0-9a-f]{32}")
_DIGEST = re.compile("[0-9a-f]{64}")
_MAX_TAGS = 64
_MAX_PATHS = 1 << 26
_SHOWN = 100
_TELL_SECONDS = 0.5
_POLL_SECONDS = 0.2
_SIGN_SECONDS = 5.0

Answer = Dict[str, Any]


class Conversation:
    """One host, from its first word to its last.

    ``look_again`` gives the vault as this host sees it by now, or raises ``BackupError`` where it is let in no more: then all is over, in a second or two."""

    def __init__(self, wire: Wire, keeper: Keeper, look_again: Callable[[], Keeper]) -> None:
        self._wire = wire
        self._keeper = keeper
        self._find_keeper = look_again
        self._is_over = False
        self._stack = ExitStack()
        self._turn = ExitStack()  # the slots of an open session
        self._target: Optional[TreeTarget] = None
        self._is_own = False
        self._session: Optional[GuardedSession] = None
        self._manifest: Optional[Manifest] = None
        self._told = 0.0
        self._done = [0, 0]
        self._verbs: Mapping[str, Callable[[Mapping[str, Any]], Optional[Answer]]] = {
            "latest": self._latest,
            "list": self._list,
            "manifest": self._send_manifest,
            "sizes": self._sizes,
            "weigh": self._weigh,
            "begin": self._begin,
            "propose": self._propose,
            "put": self._put,
            "commit": self._commit,
            "close": self._close,
            "alive": lambda request: {},
            "sweep": self._sweep,
            "tag": self._tag,
            "heartbeat": self._heartbeat,
            "fetch": self._fetch,
            "verify": self._verify,
            "bury": self._bury,
        }

    def hold(self) -> None:
        """The whole conversation, until the host hangs up. Whatever was not committed is kept for the host's next session."""
        limits = self._keeper.limits
        self._wire.patience = limits.idle
        self._wire.deadline = time.monotonic() + limits.session
        self._wire.watch = self._look_again
        try:
            with self._stack, self._turn:
                self._wire.write(GREETING)
                if self._listen_once(self._hello):
                    while self._listen_once(self._answer):
                        pass
        finally:
            self._end_session(keep=True)

    def _listen_once(self, answer: Callable[[Mapping[str, Any]], Optional[Answer]]) -> bool:
        """Hear one request and answer it; False at the end."""
        try:
            request = self._wire.receive()
        except TargetError as error:
            if error.kind != "connection":
                self._refuse(error)
            return False
        except BackupError as error:  # it is over
            return self._refuse(error)
        try:
            result = answer(request)
            if result is not None:
                self._wire.send({"ok": result})
            return True
        except IncompleteError as error:
            self._refuse(error)
            self._wire.send_stream([b"".join(b"%s\0%s\0" % (item.path, item.reason.encode("ascii")) for item in error.shortfalls)])
            return True
        except TargetError as error:
            if error.kind == "connection":
                return False
            return self._refuse(error)
        except BackupError as error:
            return self._refuse(error)
        except OSError as error:
            return self._refuse(refused_by_system(error, "serving the vault"))
        except MemoryError:
            return self._refuse(BackupError("The vault has too little memory for this", kind="system", field="target", next="raise the limits of its sessions"))

    def _refuse(self, error: BackupError) -> bool:
        """Tell the other side; whether to go on. What was on its way as a stream is in disorder after a protocol's error."""
        if self._is_over:
            self._wire.watch = None
        with suppress(TargetError):
            self._wire.send({"error": pack_error(error)})
            return error.kind != "protocol" and not self._is_over
        return False

    def _look_again(self) -> None:
        """Whether this host is still let in, and what it may read by now."""
        try:
            keeper = self._find_keeper()
            if keeper.host != self._keeper.host or (self._target is not None and not keeper.may_open(self._target.host, time.time())):
                raise RefusedError("This key opens another history by now", kind="scope", field="host", found=self._keeper.host, allowed=keeper.host)
        except BackupError:
            self._is_over = True
            raise
        self._keeper = keeper

    # ---- who and what ----------------------------------------------------------------------------------------------------

    def _hello(self, request: Mapping[str, Any]) -> Answer:
        keeper = self._keeper
        if request.get("do") != "hello" or request.get("protocol") != PROTOCOL:
            raise TargetError(
                "The vault speaks version %d of the protocol (openclaw-backup %s), this host version %s"
                % (PROTOCOL, VERSION, printable(str(request.get("protocol")))),
                kind="protocol",
                field="protocol",
                found=str(request.get("protocol")),
                allowed=str(PROTOCOL),
                next="install the same version of openclaw-backup on host and vault",
            )
        host, policy = request.get("host"), request.get("policy")
        if not is_name(host) or not is_name(policy):
            raise UsageError("The host's or the policy's name is none", field="host", found=printable(str(host)), allowed="letters, digits, '.', '_' and '-'")
        self._is_own = host == keeper.host
        if not keeper.may_open(str(host), time.time()):
            raise RefusedError(
                "This key belongs to host %s, and the policy speaks of host %s" % (keeper.host, host),
                kind="scope",
                field="host",
                found=host,
                allowed=keeper.host,
                next="correct the policy's host, or have reading that host's history granted",
            )
        ingest = Ingest(keeper.group, keeper.limits.reserve, keeper.limits.deltas)
        self._target = TreeTarget(keeper.directory, str(host), str(policy), keeper.storage, keeper.clone, ingest)
        self._find_vault()
        self.target.make_room()
        self._take_conversation()
        wish = request.get("storage")
        storage = self._target.storage
        if wish is not None and wish != storage:
            raise TargetError(
                "The vault has %s storage, the policy asks for %s" % (storage, printable(str(wish))),
                kind="vault_format",
                field="target.storage",
                found=str(wish),
                allowed=storage,
                next="leave target.storage out: the vault decides",
            )
        return {"engine": VERSION, "storage": storage, "time": rfc3339(time.time())}

    def _find_vault(self) -> None:
        if self.target.exists():
            return
        if not self._keeper.may_make:
            raise TargetError(
                "There is no vault in %s" % self._keeper.directory,
                kind="not_a_vault",
                field="directory",
                found=self._keeper.directory,
                next="check on the vault that its file system is mounted",
            )
        create_vault(self.target.vault, self.target.storage)

    @property
    def target(self) -> TreeTarget:
        """The history that this conversation is about."""
        assert self._target is not None
        return self._target

    def _slots(self) -> bytes:
        path = os.fsencode(self._keeper.directory) + b"/.slots"
        make_private(path)
        return path

    def _take_conversation(self) -> None:
        """One of the few that a host may hold at one time."""
        for number in range(self._keeper.limits.conversations):
            if self._try_lock(self._stack, b"%s/host.%s.%d" % (self._slots(), self._keeper.host.encode("ascii"), number)):
                return
        raise LockedError(
            "Host %s holds %d conversations with the vault already" % (self._keeper.host, self._keeper.limits.conversations),
            field="conversations",
            found=self._keeper.limits.conversations,
            next="wait until one is over",
        )

    def _try_lock(self, stack: ExitStack, path: bytes) -> bool:
        try:
            fd = lock(path, fcntl.LOCK_EX, "Another conversation", patience=0)
        except LockedError:
            return False
        stack.callback(os.close, fd)
        return True

    def _answer(self, request: Mapping[str, Any]) -> Optional[Answer]:
        verb = self._verbs.get(str(request.get("do")))
        if verb is None:
            raise RefusedError(
                "The vault does not do %s for a host" % printable(str(request.get("do"))),
                kind="scope",
                field="do",
                found=str(request.get("do")),
                allowed=", ".join(self._verbs),
            )
        return verb(request)

    def _write(self) -> None:
        """``RefusedError`` where this history is another host's, or the key reads alone."""
        if self._is_own and not self._keeper.may_add:
            raise RefusedError(
                "This key may read from the history of %s, and not add to it" % self.target.host,
                kind="scope",
                field="scope",
                found="read",
                allowed="the key that this host was enrolled with",
                next="back up with the policy's own identity_file: the key for reading is for restores alone",
            )
        if not self._is_own:
            raise RefusedError(
                "Another host's history can only be read",
                kind="scope",
                field="host",
                found=self.target.host,
                allowed="reading" if self._keeper.reads_all else self._keeper.host,
                next="use the key that this host was enrolled with",
            )

    def _read(self) -> None:
        """``RefusedError`` where content may not be read. What a host has just sent to prove the way it may see again."""
        may_add = self._is_own and self._keeper.may_add
        if not self._keeper.may_read(self.target.host, time.time()) and not (may_add and is_canary(self.target.policy)):
            raise RefusedError(
                "This key may add to the history of %s, and not read from it" % self.target.host,
                kind="scope",
                field="scope",
                found="write",
                allowed="a key with which reading was granted",
                next="restore with the playbook restore, which grants reading meanwhile; or read on the vault, with `openclaw-backup-vault VERB %s POLICY`"
                % self.target.host,
            )

    def _snapshot(self, request: Mapping[str, Any]) -> Snapshot:
        wish = request.get("id")
        if type(wish) is str and is_snapshot_id(wish):
            for snapshot in self.target.list():
                if snapshot.id == wish:
                    return snapshot
        raise RefusedError("There is no snapshot %s" % printable(str(wish)), kind="no_snapshot", field="snapshot", found=str(wish))

    def _tell(self, files: int, size: int) -> None:
        """Say that work goes on."""
        self._done[0] += files
        self._done[1] += size
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self._wire.send({"busy": self._done})
            self._done = [0, 0]

    # ---- looking ---------------------------------------------------------------------------------------------------------

    def _latest(self, request: Mapping[str, Any]) -> Answer:
        latest = self.target.latest()
        return {"snapshot": None if latest is None else write_snapshot(latest)}

    def _list(self, request: Mapping[str, Any]) -> None:
        snapshots = self.target.list()
        self._wire.send({"ok": {"count": len(snapshots)}})
        for snapshot in snapshots:
            self._wire.send(write_snapshot(snapshot))

    def _send_manifest(self, request: Mapping[str, Any]) -> None:
        path = self.target.history.manifest(self._snapshot(request).id)
        with open(path, "rb") as stream:
            self._wire.send({"ok": {}})
            self._wire.send_stream(iter(lambda: stream.read(1 << 18), b""))

    def _chosen(self, request: Mapping[str, Any]) -> List[Snapshot]:
        ids = request.get("ids")
        wishes = ids if type(ids) is list else []
        return [snapshot for snapshot in self.target.list() if snapshot.id in wishes]

    def _sizes(self, request: Mapping[str, Any]) -> Answer:
        return {"sizes": [list(size) for size in self.target.sizes(self._chosen(request))]}

    def _weigh(self, request: Mapping[str, Any]) -> Answer:
        return {"bytes": self.target.weigh(self._chosen(request))}

    # ---- adding ----------------------------------------------------------------------------------------------------------

    def _begin(self, request: Mapping[str, Any]) -> None:
        self._write()
        tx, parent, tags = request.get("tx"), request.get("parent"), request.get("tags")
        if self._session is not None or type(tx) is not str or not _TX.fullmatch(tx):
            raise RefusedError("A session is begun once, with a transaction of 32 digits", kind="scope", field="tx", found=printable(str(tx)))
        if parent is not None and not (type(parent) is str and is_snapshot_id(parent)):
            raise RefusedError("The parent is no snapshot", kind="scope", field="parent", found=printable(str(parent)))
        names, thresholds = _tags(tags), self._thresholds(request)
        self._check_pace()
        try:
            self._take_turn()
            self.target.make_room()
            session = self.target.begin(tx, parent, names, thresholds)
        except BaseException:
            self._turn.close()
            raise
        assert isinstance(session, GuardedSession)
        self._session = session
        base = session.base
        answer = {
            "resumed": session.is_resumed,
            "parent_digest": base.receipt.digest if base is not None else None,
        }
        self._wire.send({"ok": answer})
        self._send_paths(sorted(damaged_paths(base)) if base is not None else ())
        if session.base_manifest is not None:
            session.base_manifest.entries  # noqa: B018 - read while the host finds out what is different

    def _thresholds(self, request: Mapping[str, Any]) -> Thresholds:
        """What an anomaly is: the vault's own word, and where the host's is stricter the host's."""
        limits = self._keeper.limits
        own = Thresholds(limits.removed_percent, limits.changed_percent, limits.growth_percent, limits.encrypted_percent)
        wish = request.get("anomaly", {})
        if type(wish) is not dict or not wish.keys() <= set(own._fields) or not all(type(percent) is int and percent >= 0 for percent in wish.values()):
            raise RefusedError("The thresholds of an anomaly are no percentages", kind="scope", field="anomaly", found=printable(str(wish))[:80])
        return own.strictest(Thresholds(0, 0, 0, 0)._replace(**wish))

    def _check_pace(self) -> None:
        limits = self._keeper.limits
        now = time.time()
        recent = sum(1 for snapshot in self.target.list() if now - 3600 < seconds_of(snapshot.receipt.created))
        if recent >= limits.commits:
            raise RefusedError(
                "There are %d snapshots of the last hour already" % recent,
                kind="limit",
                field="commits",
                found=recent,
                allowed="%d snapshots of a policy in an hour" % limits.commits,
                next="back up less often, or have the vault's limit raised",
            )
        above = os.path.dirname(self.target.history.base)
        if not os.path.isdir(self.target.history.base) and os.path.isdir(above) and len(os.listdir(above)) >= limits.policies:
            raise RefusedError(
                "Host %s has %d policies in this vault already" % (self.target.host, limits.policies),
                kind="limit",
                field="policies",
                found=limits.policies,
                next="have old histories removed, or the vault's limit raised",
            )

    def _take_turn(self) -> None:
        """One session a host, and few at one time in all: wait for a turn, and say meanwhile that we are here."""
        slots = self._slots()
        deadline = time.monotonic() + self._keeper.limits.wait
        own = b"%s/session.%s" % (slots, self._keeper.host.encode("ascii"))
        wishes: List[List[bytes]] = [[own], [b"%s/writer.%d" % (slots, number) for number in range(self._keeper.limits.writers)]]
        said = time.monotonic()
        while True:
            if any(self._try_lock(self._turn, path) for path in wishes[0]):
                del wishes[0]
                if not wishes:
                    return
                continue
            now = time.monotonic()
            if now >= deadline:
                raise LockedError(
                    "The vault is busy with other hosts, or another session of this one",
                    field="writers",
                    found=self._keeper.limits.writers,
                    next="run again later; spread the schedules (schedule.splay), or have the vault's limit raised",
                )
            if now - said >= _SIGN_SECONDS:
                said = now
                self._wire.send({"busy": [0, 0]})
            time.sleep(_POLL_SECONDS)

    @property
    def session(self) -> GuardedSession:
        """The open session."""
        if self._session is None:
            raise RefusedError("No session was begun", kind="scope", field="do")
        return self._session

    def _propose(self, request: Mapping[str, Any]) -> None:
        try:
            session = self.session
        except RefusedError as error:
            self._hang_up(error)  # what is on its way is not even read: it may be as large as the limit
        limit = self._keeper.limits.manifest
        data = b"".join(self._wire.receive_stream(limit))
        base = session.base_manifest or session.read_base() if request.get("delta") is True else None
        manifest = apply_delta(base, data, limit=limit, entries=self._keeper.limits.entries)
        wanted = session.propose(manifest)
        self._manifest = manifest
        same = digest_of_paths(wanted) == request.get("expected")
        self._wire.send({"ok": {"same": same}})
        if not same:
            self._send_paths([entry.path for entry in wanted])

    def _send_paths(self, paths: Iterable[bytes]) -> None:
        self._wire.send_stream([b"".join(path + b"\0" for path in paths)])

    def _put(self, request: Mapping[str, Any]) -> Answer:
        try:
            paths = request.get("paths")
            if type(paths) is not list or not all(type(path) is str for path in paths):
                raise UsageError("The paths are no list of texts", field="paths", found=printable(str(paths))[:80])
            entries = self.session.allowed([os.fsencode(path) for path in paths])
            with Descent(self.session.arrivals) as place:
                receive_files(self._wire, place, entries, mode=0o660, directory_mode=0o770, is_packed=request.get("packed") is True)
        except (BackupError, OSError, ValueError) as error:
            # The rest of the stream is still on its way, and nothing can be told from it.
            self._hang_up(error if isinstance(error, BackupError) else BackupError("The vault cannot take it: %s" % error, kind="vault"))
        return {}

    def _hang_up(self, error: BackupError) -> NoReturn:
        self._refuse(error)
        raise TargetError("The conversation is over", kind="connection")

    def _commit(self, request: Mapping[str, Any]) -> Answer:
        session = self.session
        if self._manifest is None or request.get("digest") != self._manifest.digest:
            raise RefusedError("Nothing was proposed that has this digest", kind="scope", field="digest", found=printable(str(request.get("digest"))))
        with self._manifest.packing():
            receipt = session.commit(self._manifest, self._tell)
        self._end_session(keep=False)
        return {"receipt": receipt.to_dict(), "anomaly": session.anomaly}

    def _close(self, request: Mapping[str, Any]) -> Answer:
        self._end_session(keep=request.get("keep") is True)
        return {}

    def _end_session(self, *, keep: bool) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.close(keep=keep)
        self._manifest = None
        self._turn.close()

    def _sweep(self, request: Mapping[str, Any]) -> Answer:
        self._write()
        self.target.sweep()
        return {}

    def _tag(self, request: Mapping[str, Any]) -> Answer:
        self._write()
        snapshot, names = self._snapshot(request), _tags(request.get("add"))
        if len({*snapshot.tags, *names}) > _MAX_TAGS:
            raise RefusedError(
                "The snapshot %s would bear more than %d tags" % (snapshot.id, _MAX_TAGS), kind="limit", field="tags", allowed="%d tags" % _MAX_TAGS
            )
        if set(names) <= set(snapshot.tags):
            return {"tags": list(snapshot.tags)}
        return {"tags": self.target.tag(snapshot, names, ())}

    def _heartbeat(self, request: Mapping[str, Any]) -> Answer:
        self._write()
        wish, digest = request.get("id"), request.get("digest")
        if type(wish) is not str or not is_snapshot_id(wish) or type(digest) is not str or not _DIGEST.fullmatch(digest):
            raise RefusedError("The heartbeat names no snapshot", kind="scope", field="id", found=printable(str(wish)))
        answer = self.target.heartbeat(wish, digest)
        return {"known": answer.known, "need": [os.fsdecode(path) for path in answer.need[:_SHOWN]]}

    def _bury(self, request: Mapping[str, Any]) -> Answer:
        self._write()
        self.target.bury()
        return {}

    # ---- reading -----------------------------------------------------------------------------------------------------------

    def _fetch(self, request: Mapping[str, Any]) -> None:
        try:
            self._read()
            snapshot = self._snapshot(request)
            known = {entry.path: entry for entry in self.target.manifest(snapshot).entries}
        except BackupError as error:
            for _piece in self._wire.receive_stream(_MAX_PATHS):
                pass  # what nobody looks at
            raise error
        names = b"".join(self._wire.receive_stream(_MAX_PATHS))
        if names.count(b"\0") > len(known):
            raise RefusedError("More paths are asked for than the snapshot has", kind="scope", field="paths", found=names.count(b"\0") + 1)
        paths = names.split(b"\0")
        unknown = [path for path in paths if path not in known]
        if unknown:
            raise RefusedError("The snapshot has no such path", kind="scope", field="paths", found=unknown[0])
        event = {
            "event": "fetch",
            "by": self._keeper.host,
            "host": self.target.host,
            "policy": self.target.policy,
            "snapshot": snapshot.id,
            "files": len(paths),
        }
        AuditLog(self.target.history.audit).append(event, now=time.time())
        with self.target.fetch(snapshot, [known[path] for path in paths], b"") as tree:
            self._wire.send({"ok": {}})
            self._wire.send_stream(pieces_of(tree, [known[path] for path in paths]))

    def _verify(self, request: Mapping[str, Any]) -> None:
        self._read()
        snapshot = self._snapshot(request)
        depth, part, record = request.get("depth"), request.get("part"), request.get("record") is True
        if depth not in ("quick", "full") or not _is_part(part):
            raise UsageError("The depth or the slice of a verification is none", field="depth", found=printable(str(depth)), allowed="quick, full")
        slice_: Optional[Tuple[int, int]] = (part[0], part[1]) if part else None
        found = self.target.verify(snapshot, depth=depth, part=slice_, record=record and self._is_own, tell=self._tell)
        answer = {
            "checked": found.checked,
            "hashed_files": found.hashed_files,
            "hashed_bytes": found.hashed_bytes,
            "damaged": len(found.damaged),
            "missing": len(found.missing),
            "unrecorded": found.unrecorded,
        }
        self._wire.send({"ok": answer})
        self._send_paths([*(damage.path for damage in found.damaged), *found.missing, *found.extra, *(damage.reason.encode() for damage in found.damaged)])


def _tags(names: Any) -> Sequence[str]:
    if type(names) is not list or len(names) > _MAX_TAGS:
        raise RefusedError("The tags are no list of at most %d names" % _MAX_TAGS, kind="scope", field="tags", found=printable(str(names))[:80])
    for name in names:
        check_tag(name, "tags")
    return names


def _is_part(part: Any) -> bool:
    if part is None:
        return True
    return type(part) is list and len(part) == 2 and all(type(number) is int for number in part) and 1 <= part[0] <= part[1]
