# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What another machine needs to stand in for a host that is lost: nothing that the host itself would have to be asked for. Pure."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from ..module_utils.errors import PolicyError
from ..module_utils.manifest.selection import selects
from ..module_utils.policy.model import Policy
from ..module_utils.policy.profiles import PROFILES
from ..module_utils.policy.scenarios import LOST_HOST
from ..module_utils.policy.target_spec import check_target
from .values import UNSEEN

# What a target names beside itself. Without the first two over SSH, the host's own files are meant.
_FILES = ("identity_file", "known_hosts_file", "credentials_file", "key_file")
_VAULT = "openclaw_backup_vault_directory"


class Outfit(NamedTuple):
    """``policies`` as the other machine has them, ``files`` for its directory (``path`` below it, with ``content``, or ``src``, a file of the escrow), and
    ``problems``: why other policies could not come back, one text each."""

    policies: Tuple[Dict[str, Any], ...]
    files: Tuple[Dict[str, str], ...]
    problems: Tuple[str, ...]


class _Missing(Exception):
    """Why a policy could not come back."""


class _Needed(NamedTuple):
    """One of ``Outfit.files``, and what it is, for when it is not there."""

    file: Dict[str, str]
    what: str


def outfit(
    policies: Sequence[Mapping[str, Any]],
    *,
    directory: str,
    escrow: str,
    vaulted: Sequence[str],
    profiles: Mapping[str, Any],
    secrets: Mapping[str, str],
    has: Callable[[str], bool] = os.path.isfile,
) -> Outfit:
    """What a machine gets into ``directory`` to restore the checked ``policies`` of a host.

    ``vaulted``: the names of those that lie on the inventory's vault, which a new key may read for a while. ``escrow``: what is kept of the host, empty where
    nothing is; ``has``: whether there is a file of this path. ``profiles``: those of the inventory by name; ``secrets``: what it has of
    the host's files, by path.
    """
    ready, problems = [], []
    files: Dict[str, Dict[str, str]] = {}
    for policy in policies:
        try:
            changed, needed = _move(dict(policy), directory, escrow, policy["name"] in vaulted, profiles, secrets)
            for file, what in needed:
                if "src" in file and not escrow:
                    raise _Missing("openclaw_backup_escrow_directory is not given, so that nothing keeps %s" % what)
                if "src" in file and not has(file["src"]):
                    raise _Missing("%s is not there: %s" % (file["src"], what))
        except _Missing as missing:
            problems.append("policy %s: if this host were lost, nobody could read its snapshots: %s" % (policy["name"], missing))
            continue
        ready.append(changed)
        files.update((file["path"], file) for file, _what in needed)
        path = "policies/%s.json" % policy["name"]
        files[path] = {"path": path, "content": json.dumps(changed)}
    return Outfit(tuple(ready), tuple(files.values()), tuple(problems))


def _move(
    policy: Dict[str, Any], directory: str, escrow: str, is_vaulted: bool, profiles: Mapping[str, Any], secrets: Mapping[str, str]
) -> Tuple[Dict[str, Any], List[_Needed]]:
    """The policy with every file that it names in ``directory``, and these files."""
    needed = []
    policy.pop("copies", None)  # they name keys of the machine's own; it is the host that is lost, and not the vault
    if is_vaulted:
        what = "the key by which the vault is known. Next: play openclaw.backup.site for this host, which keeps it."
        needed.append(_Needed({"path": "ssh/known_hosts", "src": escrow + "/ssh/known_hosts"}, what))
        own = {"identity_file": directory + "/ssh/id_read_ed25519", "known_hosts_file": directory + "/ssh/known_hosts"}
        policy["target"] = {**policy["target"], **own}
    else:
        policy["target"], needed = _move_target(policy, directory, escrow, secrets)
    profile = policy.get("profile")
    if profile in profiles:
        path = "profiles/%s.json" % profile
        needed.append(_Needed({"path": path, "content": json.dumps(profiles[profile])}, ""))
        policy["profile"] = "%s/%s" % (directory, path)
    elif profile and profile.startswith("/"):
        path = "profiles/of-policy-%s.json" % policy["name"]
        what = "a copy of its profile, %s. Next: play openclaw.backup.site for this host, which keeps it." % profile
        needed.append(_Needed({"path": path, "src": "%s/%s" % (escrow, path)}, what))
        policy["profile"] = "%s/%s" % (directory, path)
    return policy, needed


def _move_target(policy: Dict[str, Any], directory: str, escrow: str, secrets: Mapping[str, str]) -> Tuple[Any, List[_Needed]]:
    """The target that a policy itself names. What is secret in it, the inventory has, or somebody has put into the escrow by hand."""
    target = policy["target"]
    spec = check_target(target, "target")
    if spec.scheme == "file":
        raise _Missing("they lie in %s, on the host itself. Next: have a copy elsewhere, or choose other policies with openclaw_backup_policy." % spec.path)
    if isinstance(target, str):
        target = {"url": target}
    needed = []
    for name in _FILES:
        found = getattr(spec, name)
        if found is not None:
            path = "files/%s-%s" % (policy["name"], name)
            what = "a copy of the target's %s, %s. Next: put one there by hand, or give it in openclaw_backup_secrets." % (name, found)
            kept = {"content": secrets[found]} if found in secrets else {"src": "%s/files%s" % (escrow, found)}
            needed.append(_Needed({"path": path, **kept}, what))
            target = {**target, name: "%s/%s" % (directory, path)}
        elif spec.scheme == "ssh" and name in _FILES[:2]:
            raise _Missing("its target names no %s, so that one of the host's own is used. Next: name it, and put a copy into the escrow." % name)
    return target, needed


def problems(standby: str, scenario: str, host: str, vault: str, scratch: str, variables: Mapping[str, Mapping[str, Any]]) -> List[str]:
    """Why ``standby`` cannot stand in for ``host``, one text each; ``variables``: those of all hosts of the inventory, by name. ``scratch``: where the
    standby is to have a directory of its own for that."""
    name = "openclaw_backup_drill_standby"
    if scenario != LOST_HOST:
        return ["%s is '%s', and has no meaning without openclaw_backup_drill_scenario=%s." % (name, standby, LOST_HOST)] if standby else []
    if standby not in variables:
        found = "'%s', which is no host of the inventory" % standby if standby else "missing"
        return ["%s is %s. Allowed: a machine of the inventory, in whatever group, that stands in for the hosts." % (name, found)]
    if standby in (host, vault):
        what = "the host that is rehearsed to be lost" if standby == host else "the vault of %s" % host
        return ["%s is '%s', %s. Next: name another machine, or leave this host out with --limit." % (name, standby, what)]
    where = "openclaw_backup_scratch of %s is '%s'" % (standby, scratch)
    if not scratch.startswith("/"):
        return ["%s. Allowed: an absolute path." % where]
    return ["%s, %s. Next: name a directory outside of it." % (where, text) for text in in_production(os.path.normpath(scratch), standby, variables[standby])]


def _sources(policy: Policy, scratch: str) -> Iterator[str]:
    """Those of a policy, or of its profile where the collection has that; of homes the one in which the scratch would lie."""
    profile = policy.found_profile
    yield from policy.sources
    for source in profile.sources if profile is not None and profile is not UNSEEN and not policy.sources else ():
        if not source.startswith("~"):
            yield source
            continue
        home = scratch.split("/")[:3] if scratch.startswith("/home/") else ["", "root"]
        yield "/".join(home) + source[1:]


def in_production(scratch: str, machine: str, variables: Mapping[str, Any], vault: str = "") -> List[str]:
    """In what of the own work of ``machine`` the scratch would lie, an absolute path without ``..``; ``vault``: the directory of its vault, where known."""
    found = []
    path = os.fsencode(os.path.join(scratch, "scratch"))[1:]
    for policy in variables.get("openclaw_backup_policies") or ():
        try:
            checked = Policy.from_mapping({"target": "/unknown", **policy}, default_host=machine, find=lambda name: PROFILES.get(name, UNSEEN))
        except (PolicyError, TypeError):
            continue  # no policy of anybody
        sources = [os.fsencode(source)[1:] for source in _sources(checked, scratch)]
        if selects(checked.selection.matcher(), sources, path, True):
            found.append("which its own policy %s backs up" % checked.name)
    if vault or _VAULT in variables or "backup_vaults" in (variables.get("group_names") or ()):
        vault = os.path.normpath(vault or str(variables.get(_VAULT) or "/srv/openclaw-backup"))
        if os.path.commonpath([vault, scratch]) == vault:
            found.append("which lies in the vault %s" % vault)
    return found
