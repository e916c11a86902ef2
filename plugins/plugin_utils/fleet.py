# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the variables of an inventory say of vaults and of who lies on them."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Set, Tuple

from ansible.errors import AnsibleFilterError

from ..module_utils.errors import PolicyError, printable
from ..module_utils.policy.target_spec import check_target
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


class Place(NamedTuple):
    """The ``vault`` of the inventory that a URL leads to, and the ``address`` by which the URL names it."""

    vault: str
    address: Address


def place_of(url: Any, groups: Mapping[Any, Iterable[Any]], variables: Mapping[Any, Any]) -> Place:
    """Where ``url`` leads, which a host says and nobody else: to a vault of the inventory, or ``PolicyError``.

    Vaults are the hosts of ``backup_vaults``, those that a host of ``backup_clients`` has as its ``openclaw_backup_vault``, and every machine that is no
    host of ``backup_clients``: one may have been taken out of its group. With the group its variables may have gone, so that its name and
    its ``ansible_host`` count besides its address.
    """
    text = plain(url)
    try:
        spec = (
            check_target(text, "target.url") if isinstance(text, str) else None
        )  # its host is a plain name or an IP address, and so no pattern of ssh's known_hosts
    except PolicyError:
        spec = None
    if spec is None or spec.scheme != "ssh":
        raise _leads_nowhere(text, "an address of ssh://, whose host is a plain name or an IP address")
    asked = Address((spec.host or "").lower(), str(spec.port or 22))
    clients, vaults = ([str(name) for name in groups.get(group, ())] for group in ("backup_clients", "backup_vaults"))
    pins = {str(variables[host].get("openclaw_backup_vault") or "") for host in clients if host in variables}
    everybody = [name for name in map(str, groups.get("all", ())) if name in variables and (name in vaults or name in pins or name not in clients)]
    exactly = [name for name in everybody if _lowered(address_of(name, variables[name])) == asked]
    found = exactly or [name for name in everybody if asked.host in _names_of(name, variables[name])]
    if len(found) != 1:
        raise _leads_nowhere(text, "one vault of the inventory, by its address" + (", and it is that of %s" % ", ".join(found) if found else ""))
    return Place(found[0], asked)


def _lowered(address: Address) -> Address:
    return Address(address.host.lower(), address.port)


def _names_of(vault: str, variables: Mapping[Any, Any]) -> Set[str]:
    return {str(name).lower() for name in (vault, variables.get("ansible_host"), variables.get("openclaw_backup_vault_address")) if name}


def _leads_nowhere(url: Any, allowed: str) -> PolicyError:
    shown = printable(str(url))[:200]
    return PolicyError("target.url is '%s', which leads to no vault of the inventory" % shown, field="target.url", found=shown, allowed=allowed)


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
