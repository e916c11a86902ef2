# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the variables of an inventory say of vaults and of who lies on them."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Tuple

from ansible.errors import AnsibleFilterError

from . import placement
from .values import plain


class Address(NamedTuple):
    """Where hosts and other vaults reach a vault. ``host``: a name or an address."""

    host: str
    port: str

    @property
    def where(self) -> str:
        """As it stands in a URL."""
        return "%s:%s" % ("[%s]" % self.host if ":" in self.host else self.host, self.port)

    @property
    def known_as(self) -> str:
        """As it stands in ssh's known_hosts."""
        return self.host.lower() if self.port == "22" else "[%s]:%s" % (self.host.lower(), self.port)


def address_of(vault: str, variables: Mapping[Any, Any]) -> Address:
    """Of the vault with these ``variables``: ``openclaw_backup_vault_address``, else ``ansible_host``, else its name, and ``openclaw_backup_vault_port``."""
    host = variables.get("openclaw_backup_vault_address") or variables.get("ansible_host") or vault
    return Address(str(host), str(variables.get("openclaw_backup_vault_port") or 22))


class Wish(NamedTuple):
    """What the inventory wants of a host: on how many vaults its snapshots are to lie, and the ``vaults`` that it finds for them, the host's own first."""

    host: str
    copies: int
    vaults: Tuple[str, ...]


def number_of(value: Any) -> int:
    """A number of vaults; ``AnsibleFilterError`` for what is none. Extra variables of a command line are text."""
    wish = plain(value)
    if isinstance(wish, str) and wish.isdigit():
        wish = int(wish)
    if type(wish) is not int or wish < 1:
        raise AnsibleFilterError("copies is %r. Allowed: a whole number from 1 on." % (wish,))
    return wish


def wishes(groups: Mapping[Any, Iterable[Any]], variables: Mapping[Any, Any]) -> List[Wish]:
    """Of every host of the group ``backup_clients``, by name. ``variables``: of all hosts, ``hostvars``."""
    hosts, vaults = ([str(name) for name in groups.get(group, ())] for group in ("backup_clients", "backup_vaults"))
    found: Dict[str, Wish] = {}
    for host in sorted(hosts):
        own = variables[host] if host in variables else {}
        copies = number_of(own.get("openclaw_backup_copies") or 1)
        pinned = str(own.get("openclaw_backup_vault") or "") or None
        found[host] = Wish(host, copies, placement.vaults_of(host, hosts, vaults, pinned=pinned, copies=copies))
    return list(found.values())
