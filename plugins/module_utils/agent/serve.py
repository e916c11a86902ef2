# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forced command of a host's key on a vault: ``openclaw-backup serve``.

sshd starts it as the ingest account. What the host asked for is one of two things: the conversation, which is handed over to the vault's own account
by sudo, or an rsync, which is confined to the directory of the host's open session. Everything else is refused.
"""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import signal
import stat
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Callable, NoReturn, Optional

from ..errors import EXIT_DONE, BackupError, RefusedError, TargetError, UsageError, printable
from ..policy.checks import is_name
from ..process import collector_at_rest
from ..target.remote.wire import REQUEST

if TYPE_CHECKING:
    from .keeper import Keeper

# Programs of root's that run the session, one for each scope; sudo allows the ingest accounts the first two, without arguments, and nothing else, and the
# account of the vaults that keep copies the third.
SESSION = "/usr/local/libexec/openclaw-backup/session-%s"
SCOPES = ("write", "read", "copies")
# What this program's own rsync asks for (transfer/rsync.py), as its releases put it, and nothing else: a receiver can be made to tell what a file holds
# by very small blocks or by talking about its work, and to write elsewhere.
_WORD = "[A-Za-z0-9]{1,20}"
_OPTION = "|".join(
    (
        "-[OtrIRzWv]*e[0-9]{0,3}[.][A-Za-z]{1,20}",
        "-B[0-9]{4,6}",
        "--(?:timeout|bwlimit)=[0-9]{1,9}",
        "--compress-level=-?[0-9]{1,6}",
        "--(?:checksum|compress)-choice=" + _WORD,
        "--info=[A-Z0-9,]{1,40}",
        "--copy-dest[ =]/basis(?:/[A-Za-z0-9_.+-]+)*",
        "--(?:inplace|mkpath|new-compress|old-compress|stats|ignore-missing-args|from0|no-msgs2stderr)",
    )
)
_RSYNC = re.compile("(rsync --server(?: (?:%s)){1,20} [.]) ([A-Za-z0-9._-]{1,64})/([0-9a-f]{32})/(files/[A-Za-z0-9_/.+-]*)" % _OPTION)
_UMASK_APART = 0o007
_UMASK_OWN = 0o077
_LAST_WORD_SECONDS = 10.0
# A manifest of ten million paths takes some 10 GB to work with.
_MEMORY = 16 << 30


def serve(*, vault: Optional[str], host: Optional[str], storage: Optional[str], may_read: bool, session: Optional[str], copies: bool = False) -> int:
    """Do what the host that holds this key asked for; the exit code.

    ``vault`` and ``host``: the vault is this account's own; without them it is that of ``/etc/openclaw-backup/vault.json``. ``session`` (``write`` or
    ``read``, ``copies``) is what sudo runs with the vault's rights. ``copies``: the key belongs to a vault that keeps copies of this one: it may read
    everything and add nothing. Raises ``BackupError``.
    """
    if session is not None:
        return _converse(lambda is_open: _keeper_for_caller(session, is_open))
    asked = os.fsencode(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    if copies:
        return _serve_copies(asked, vault, host, storage, may_read)
    if asked == REQUEST:
        if vault is not None:
            return _converse(lambda _is_open: _own_keeper(vault, host, storage, may_read))
        return _converse(lambda _is_open: _hand_over("read" if may_read else "write"))
    if may_read and vault is None:
        raise _refused_request(asked, "This key reads, and sends nothing", REQUEST.decode("ascii"))
    from .keeper import read_account, read_vault

    if vault is not None:
        keeper = _own_keeper(vault, host, storage, may_read)
        os.umask(_UMASK_OWN)
        _run_rsync(asked, keeper.directory, keeper.host)
    os.umask(_UMASK_APART)
    return _run_rsync(asked, read_vault()["directory"], read_account(pwd.getpwuid(os.geteuid()).pw_name), is_apart=True)


def _serve_copies(asked: bytes, vault: Optional[str], host: Optional[str], storage: Optional[str], may_read: bool) -> int:
    from .keeper import COPIES, Keeper

    clash = [flag for flag, value in (("--host", host), ("--storage", storage), ("--read", may_read or None)) if value is not None]
    if clash or not os.path.isabs(vault or "/"):
        raise UsageError(
            "--copies goes with nothing but --vault and an absolute path",
            field=clash[0] if clash else "--vault",
            allowed="serve --copies, serve --vault DIR --copies",
        )
    if asked != REQUEST:
        raise _refused_request(asked, "This key reads copies alone", REQUEST.decode("ascii"))
    if vault is None:
        return _converse(lambda _is_open: _hand_over("copies"))
    return _converse(lambda _is_open: Keeper(vault, COPIES, may_add=False, reads_all=True))


def _refused_request(asked: bytes, why: str, allowed: str) -> RefusedError:
    return RefusedError(why, kind="scope", field="SSH_ORIGINAL_COMMAND", found=printable(asked[:200]) or "a shell", allowed=allowed)


def _own_keeper(vault: str, host: Optional[str], storage: Optional[str], may_read: bool) -> Keeper:
    """A vault that belongs to the account that the key opens."""
    from .keeper import Keeper

    if not is_name(host):
        raise UsageError("--vault needs --host", field="--host", found=host, allowed="the name of the host that this key belongs to")
    if not os.path.isabs(vault):
        raise UsageError("--vault is not absolute", field="--vault", found=vault, allowed="an absolute path")
    if storage not in (None, "native", "portable"):
        raise UsageError("--storage is none", field="--storage", found=storage, allowed="native, portable")
    assert host is not None
    return Keeper(vault, host, (host,) if may_read else (), storage=storage, may_make=True)


def _hand_over(scope: str) -> NoReturn:
    """Become the session that runs with the vault's rights; the descriptors stay as they are."""
    from .keeper import read_vault

    owner = read_vault()["keeper"]
    program = shutil.which("sudo")
    if program is None:
        raise UsageError("sudo is not installed on the vault", kind="vault_config", field="sudo", next="apt-get install sudo")
    os.execv(program, ["sudo", "-n", "-u", owner, "--", SESSION % scope])


def _keeper_for_caller(scope: str, is_open: bool) -> Keeper:
    """The vault as the account sees it that called sudo; ``is_open``: it does so since a while."""
    from .keeper import keeper_for_copies, keeper_of

    caller = os.environ.get("SUDO_UID", "")
    if scope not in SCOPES or not re.fullmatch("[0-9]{1,10}", caller):
        raise UsageError("A session is started by sudo alone", kind="vault_config", field="--session", found=scope, allowed=", ".join(SCOPES))
    owner = pwd.getpwuid(os.geteuid())
    if os.getegid() != owner.pw_gid:
        # sudo lets any of the vault's groups be chosen, and they are those of other hosts' accounts.
        raise UsageError("A session has the group of its own account", kind="vault_config", field="gid", found=os.getegid(), allowed=str(owner.pw_gid))
    account = _account_of(int(caller))
    if scope == "copies":  # sudo lets no host's account start it
        return keeper_for_copies(account.pw_name, is_open=is_open)
    return keeper_of(account.pw_name, account.pw_gid, may_read=scope == "read", is_open=is_open)


@lru_cache(maxsize=1)
def _account_of(caller: int) -> pwd.struct_passwd:
    """The caller's account as it was at first: a number may be another's by and by."""
    return pwd.getpwuid(caller)


def _converse(find_keeper: Callable[[bool], Keeper]) -> int:
    """Hold the conversation on standard input and output; what stands in its way is told there, too. ``find_keeper`` is asked again, with True, while it
    lasts."""
    from ..target.remote.wire import GREETING, Wire, pack_error

    wire = Wire(0, 1, patience=_LAST_WORD_SECONDS)
    try:
        _settle()
        keeper = find_keeper(False)
    except BackupError as error:
        with suppress(TargetError):
            wire.write(GREETING)
            wire.send({"error": pack_error(error)})
        return error.rc
    from .conversation import Conversation

    with suppress(TargetError), collector_at_rest():
        Conversation(wire, keeper, lambda: find_keeper(True)).hold()
    return EXIT_DONE


def _settle() -> None:
    """Stand on ground of our own, whatever whoever started us left: no limits below what the work needs, no signals ignored, no directory."""
    while True:  # no file of ours must become a standard stream that was closed
        null = os.open(os.devnull, os.O_RDWR)
        if null > 2:
            os.close(null)
            break
    os.chdir("/")
    os.umask(0o007)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    # A session that is stopped would keep its locks.
    for number in (signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    unlimited = resource.RLIM_INFINITY
    for what, least, most, name in (
        (resource.RLIMIT_NOFILE, 256, unlimited, "nofile"),
        (resource.RLIMIT_FSIZE, 1 << 40, unlimited, "fsize"),
        (resource.RLIMIT_AS, 1 << 30, _MEMORY, "as"),  # no host can have more of the vault's memory, whatever it sends
    ):
        hard = resource.getrlimit(what)[1]
        if hard != unlimited and hard < least:
            raise RefusedError(
                "The session was started with too low a limit: %s %d" % (name, hard), kind="scope", field=name, found=hard, allowed="%d or more" % least
            )
        limit = most if hard == unlimited else hard if most == unlimited else min(hard, most)
        resource.setrlimit(what, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _run_rsync(asked: bytes, vault: str, host: str, *, is_apart: bool = False) -> NoReturn:
    """Become rrsync in the directory in which the session of this host receives. ``is_apart``: another account is to read what comes."""
    try:
        text = asked.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    match = _RSYNC.fullmatch(text)
    if match is None or not is_name(match.group(2)) or re.search("/[.][.](?:[/ ]|$)", text):
        raise _refused_request(asked, "This key serves openclaw-backup alone", "%s, and rsync into a session of this host" % REQUEST.decode("ascii"))
    command, policy, tx, place = match.groups()
    program = shutil.which("rrsync")
    if program is None:
        raise UsageError("rrsync is not installed on the vault", kind="vault_config", field="rrsync", next="apt-get install rsync (Debian 12 or newer)")
    directory = os.path.join(vault, host, policy, "incoming", tx, "in")
    if is_apart:
        _let_group_read(os.path.join(directory, "files"))
    environment = {"SSH_ORIGINAL_COMMAND": "%s %s" % (command, place), "PATH": os.defpath, "LC_ALL": "C"}
    os.execve(program, ["rrsync", "-wo", "-munge", "-no-lock", directory], environment)


def _let_group_read(directory: str) -> None:
    """Open to the keeper what an rsync that was cut off has left: it makes a file for its account alone, and leaves the mode of one that is there."""
    from ..manifest.walk import Descent, walk

    with suppress(OSError), Descent(os.fsencode(directory)) as place:
        for path, listing in walk(place):
            at = place.directory(path)
            for item in listing:
                if stat.S_ISREG(item.stat.st_mode) and not item.stat.st_mode & stat.S_IRGRP:
                    with suppress(OSError):  # gone, or not ours: the proof will say so
                        os.chmod(item.name, 0o660, dir_fd=at)
