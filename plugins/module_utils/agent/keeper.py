# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a vault that serves hosts knows of itself: its directory, its limits, which account is which host, and who may read for now.

All of it is in files that root alone writes: ``vault.json``, ``accounts/<account>.json``, ``grants/<account>.json``.
"""

from __future__ import annotations

import json
import math
import os
import pwd
import time
from dataclasses import dataclass, fields, replace
from typing import AbstractSet, Any, Dict, Mapping, Optional, Tuple

from ..errors import RefusedError, TargetError, UsageError, printable
from ..policy.checks import is_name
from .ownership import refuse_foreign_writers

DIRECTORY = "/etc/openclaw-backup"
# Whose key a vault that keeps copies has: no host's, so that no history is its own to add to.
COPIES = "*"


@dataclass(frozen=True)
class Limits:
    """What one host can take up of a vault.

    ``writers``: sessions at one time, of all hosts; ``wait``: how long a host waits for its turn (s); ``idle``: silence that ends a conversation (s);
    ``session``: the longest one (s); ``conversations``: at one time, of one host; ``commits``: snapshots of one policy in an hour; ``policies`` of one
    host; ``entries``: paths of a snapshot; ``manifest``: bytes of one, unpacked; ``reserve``: percent of the file system that stay free; ``deltas``:
    whether of large files only what changed may travel, for which their old versions are lent to the host's rsync; ``*_percent``: what an anomaly is
    (``contract.Thresholds``), whatever a host says.
    """

    writers: int = 4
    wait: int = 600
    idle: int = 300
    session: int = 21600
    conversations: int = 4
    commits: int = 120
    policies: int = 64
    entries: int = 10_000_000
    manifest: int = 2 << 30
    reserve: int = 5
    deltas: bool = True
    removed_percent: int = 50
    changed_percent: int = 50
    growth_percent: int = 0
    encrypted_percent: int = 50


_RANGES = {
    "reserve": (0, 90),
    "removed_percent": (0, 100),
    "changed_percent": (0, 100),
    "growth_percent": (0, 1 << 40),
    "encrypted_percent": (0, 100),
}


@dataclass(frozen=True)
class Keeper:
    """A vault as one conversation sees it.

    ``host``: whose key opened it; ``readable``: hosts whose content may be read, ``until`` a time (s since the epoch); ``group``: of the ingest account
    where that is another one than the vault's own; ``may_make``: a vault that is not there is made, not missed. ``may_add``: the key adds to its host's
    history; one that a grant lets in reads and does nothing else. ``reads_all``: every host's content may be read, as another vault does that keeps copies.
    """

    directory: str
    host: str
    readable: Tuple[str, ...] = ()
    until: float = math.inf
    storage: Optional[str] = None
    clone: str = "auto"
    group: Optional[int] = None
    limits: Limits = Limits()
    may_make: bool = False
    may_add: bool = True
    reads_all: bool = False

    def may_read(self, host: str, now: float) -> bool:
        """Whether a host's content may be read at the time ``now``."""
        return self.reads_all or (host in self.readable and now <= self.until)

    def may_open(self, host: str, now: float) -> bool:
        """Whether a host's history may be spoken of at the time ``now``."""
        return (self.may_add and host == self.host) or self.may_read(host, now)


def read_vault() -> Dict[str, Any]:
    """``vault.json``: ``directory``, ``storage``, ``clone``, ``keeper`` (the account that the vault belongs to), ``limits`` and ``maintenance``."""
    item = _read("vault.json")
    allowed = {"directory", "storage", "clone", "keeper", "limits", "maintenance"}
    _check_keys("vault.json", item, allowed, {"directory", "keeper"})
    for name in ("directory", "keeper", "storage", "clone"):
        if type(item.get(name, "")) is not str:
            raise _bad("vault.json", name, item[name], "text")
    if not os.path.isabs(item["directory"]):
        raise _bad("vault.json", "directory", item["directory"], "an absolute path")
    for name, values in (("storage", ("native", "portable")), ("clone", ("auto", "hardlink", "reflink", "btrfs"))):
        if name in item and item[name] not in values:
            raise _bad("vault.json", name, item[name], ", ".join(values))
    if type(item.get("maintenance", False)) is not bool:
        raise _bad("vault.json", "maintenance", item["maintenance"], "true or false")
    item["limits"] = read_limits(item.get("limits", {}))
    return item


def limits_of(directory: str) -> Limits:
    """What holds for a vault in a directory of this machine: its own limits, if it is the one that serves hosts."""
    if not os.path.exists(os.path.join(DIRECTORY, "vault.json")):
        return Limits()
    vault = read_vault()
    limits: Limits = vault["limits"]
    return limits if os.path.realpath(vault["directory"]) == os.path.realpath(directory) else Limits()


def read_limits(item: Any) -> Limits:
    """``Limits`` of a mapping with some of its keys; ``UsageError`` names a wrong one."""
    if type(item) is not dict:
        raise _bad("vault.json", "limits", item, "an object")
    _check_keys("vault.json", item, {field.name for field in fields(Limits)}, set(), "limits.")
    for name, value in item.items():
        if name == "deltas":
            if type(value) is not bool:
                raise _bad("vault.json", "limits.deltas", value, "true or false")
            continue
        lowest, highest = _RANGES.get(name, (1, 1 << 40))
        if type(value) is not int or not lowest <= value <= highest:
            raise _bad("vault.json", "limits." + name, value, "a whole number from %d to %d" % (lowest, highest))
    return replace(Limits(), **item)


def read_account(account: str) -> str:
    """The host that an account on the vault stands for."""
    item = _read("accounts/%s.json" % account)
    _check_keys("accounts/%s.json" % account, item, {"host"}, {"host"})
    if not is_name(item["host"]):
        raise _bad("accounts/%s.json" % account, "host", item["host"], "a host's name")
    return str(item["host"])


def read_grant(account: str, now: float) -> Tuple[Tuple[str, ...], float]:
    """The hosts whose content an account may read at the time ``now``, and until when (s since the epoch).

    ``RefusedError`` where there is no grant, or it is over."""
    from ..observe.audit import is_time, seconds_of

    name = "grants/%s.json" % account
    if not os.path.exists(os.path.join(DIRECTORY, name)):
        raise _refused("nobody granted it")
    item = _read(name)
    _check_keys(name, item, {"until", "hosts"}, {"until", "hosts"})
    if not is_time(item["until"]):
        raise _bad(name, "until", item["until"], "a time such as 2026-11-20T09:15:00.123Z")
    if type(item["hosts"]) is not list or not all(map(is_name, item["hosts"])):
        raise _bad(name, "hosts", item["hosts"], "a list of hosts' names")
    until = seconds_of(item["until"])
    if until < now:
        raise _refused("what was granted ended at %s" % item["until"])
    return tuple(item["hosts"]), until


def _refused(why: str) -> RefusedError:
    return RefusedError(
        "This account may not read from the vault: %s" % why,
        kind="scope",
        field="grant",
        next="restore with the playbook restore, which grants reading meanwhile, or grant it for a while (docs/ssh-vault.md says how)",
    )


def keeper_of(account: str, group: int, *, may_read: bool, is_open: bool = False) -> Keeper:
    """The vault as the session of an ingest account sees it. ``is_open``: the session has begun, and asks whether it may go on. ``RefusedError`` where the
    account stands for no host any more, or its grant is over. ``TargetError`` (kind ``maintenance``) while none begins; those that are open go on."""
    vault = _vault_at_work(is_open)
    if is_open and not os.path.exists(os.path.join(DIRECTORY, "accounts/%s.json" % account)):
        raise _locked_out("host")
    host = read_account(account)
    readable, until = read_grant(account, time.time()) if may_read else ((), math.inf)
    return Keeper(vault["directory"], host, readable, until, vault.get("storage"), vault.get("clone", "auto"), group, vault["limits"], may_add=not may_read)


def keeper_for_copies(account: str, *, is_open: bool = False) -> Keeper:
    """The vault as another one sees it that keeps copies, through ``account``. Errors as of ``keeper_of``."""
    vault = _vault_at_work(is_open)
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise _locked_out("vault") from None
    storage, clone = vault.get("storage"), vault.get("clone", "auto")
    return Keeper(vault["directory"], COPIES, storage=storage, clone=clone, limits=vault["limits"], may_add=False, reads_all=True)


def _locked_out(whose: str) -> RefusedError:
    return RefusedError(
        "The account of this %s was taken away from the vault meanwhile" % whose,
        kind="scope",
        field="account",
        next="what was published stays; if the %s is to go on, have the playbook site set it up again" % whose,
    )


def _vault_at_work(is_open: bool) -> Dict[str, Any]:
    vault = read_vault()
    if vault.get("maintenance", False) and not is_open:
        raise TargetError(
            "The vault is in maintenance, and begins nothing meanwhile",
            kind="maintenance",
            field="maintenance",
            found=True,
            next="wait until its administrator ends that; the schedule's next run goes on from here",
        )
    return vault


def _read(name: str) -> Dict[str, Any]:
    path = os.path.join(DIRECTORY, name)
    try:
        refuse_foreign_writers(path)
        with open(path, "rb") as stream:
            item = json.loads(stream.read(1 << 20))
    except OSError as error:
        raise UsageError(
            "%s cannot be read: %s" % (path, error.strerror),
            kind="vault_config",
            field=name,
            found=path,
            next="set the vault up with the role openclaw.backup.vault",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError("%s is not JSON: %s" % (path, error), kind="vault_config", field=name, found=path, next="have the role write it again") from error
    if type(item) is not dict:
        raise _bad(name, name, item, "an object")
    return item


def _check_keys(where: str, item: Mapping[str, Any], allowed: AbstractSet[str], required: AbstractSet[str], prefix: str = "") -> None:
    for name in item.keys() - allowed:
        raise _bad(where, prefix + printable(name), item[name], "the keys " + ", ".join(sorted(allowed)))
    for name in required - item.keys():
        raise _bad(where, prefix + name, None, "the keys " + ", ".join(sorted(allowed)))


def _bad(where: str, field: str, found: Any, allowed: str) -> UsageError:
    shown = found if type(found) in (int, str, type(None)) else repr(found)[:80]
    return UsageError(
        "%s/%s: %s is %r" % (DIRECTORY, where, field, shown),
        kind="vault_config",
        field=field,
        found=shown,
        allowed=allowed,
        next="have the role write it again",
    )
