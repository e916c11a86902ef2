# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook did on every host, from what its tasks left in the hosts' variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List

from .values import plain

# The tasks that work on the hosts, and those that work for them on their vault, are registered under these names.
_REGISTERED = ("__openclaw_backup_here", "__openclaw_backup_there")
_FAILURE = "__openclaw_backup_failure"
_OF_A_LOOP = "One or more items failed"

_ALWAYS = ("changed", "failed", "msg", "rc", "error")
# What is passed on of each playbook's results; the rest is bulky, or says the same again.
KEYS: Dict[str, Iterable[str]] = {
    "backup": (
        *("snapshot_id", "digest", "entries", "bytes", "added", "modified", "metadata", "removed", "files_sent", "bytes_sent", "bytes_wire"),
        "duration",
    ),
    "restore": (
        *("snapshot_id", "dest", "entries", "files_restored", "bytes_restored", "metadata_restored", "files_replaced", "files_removed", "kept"),
        *("verified", "files_damaged", "damaged", "duration"),
    ),
    "verify": ("ok", "snapshot_id", "depth", "slice", "checked", "hashed_files", "hashed_bytes", "counts", "sample", "truncated", "duration"),
    "prune": ("kept", "removed", "bytes_freed", "duration"),
    "drill": (
        *("ok", "verdict", "scenario", "snapshot_id", "files", "bytes", "counts", "rto", "rpo", "loss", "state_as_of", "objectives", "asked_by"),
        *("finished", "duration"),
    ),
    "status": ("ok", "problems", "snapshots", "newest", "protected_until", "age", "rpo", "target", "as_of"),
}


# What a report of drills tells besides.
_EVIDENCE = ("host", "policy", "target", "digest", "entries", "checks", "started", "versions", "sample", "warnings")


@dataclass(frozen=True)
class Outcome:
    """One host: the results by policy, and why there are none or not all, if that is so."""

    results: Dict[str, Dict[str, Any]]
    failure: str

    @property
    def problems(self) -> List[str]:
        """Each failure of it in words; empty where all went well."""
        found = ["%s: %s" % (policy, _words(result)) for policy, result in self.results.items() if result.get("failed")]
        return found + self.beside

    @property
    def beside(self) -> List[str]:
        """What failed beside policies that failed themselves: Ansible says of a loop only that some item failed."""
        is_told = self.failure == _OF_A_LOOP and any(result.get("failed") for result in self.results.values())
        return [self.failure] if self.failure and not is_told else []


def outcomes(hosts: Iterable[Any], variables: Mapping[Any, Any], verb: str, *, whole: bool = False) -> Dict[str, Outcome]:
    """The outcome of every host by its name. ``variables``: those of all hosts, by name; ``whole``: with all that a report of drills tells."""
    keys = (*_ALWAYS, *KEYS[verb], *(_EVIDENCE if whole else ()))
    return {str(host): _outcome(variables[host], keys) for host in hosts}


def _outcome(variables: Mapping[str, Any], keys: Iterable[str]) -> Outcome:
    if _FAILURE not in variables:
        return Outcome({}, "nothing is known of it: it failed before, or was lost on the way")
    results = {}
    for name in _REGISTERED:
        registered = plain(variables.get(name)) or {}
        for item in registered.get("results", ()):
            if not item.get("skipped"):
                results[item["item"]["name"]] = _result(item, keys)
    return Outcome(results, str(plain(variables[_FAILURE])))


def _result(item: Dict[str, Any], keys: Iterable[str]) -> Dict[str, Any]:
    """Of one policy, as the module has it, or as the program on the vault has printed it."""
    found = item
    if "cmd" in item:
        try:
            found = json.loads(item.get("stdout") or "")
        except ValueError:
            found = {"failed": True, "msg": " ".join((item.get("stderr") or item.get("msg") or "it printed nothing").split())}
        found = {"changed": False, "rc": item.get("rc"), **found}
    passed = {key: found[key] for key in keys if key in found}
    if found.get("warnings"):
        passed["warnings"] = [str(text) for text in found["warnings"]]
    passed["failed"] = bool(found.get("failed") or item.get("unreachable"))  # a machine that was lost on the way has no word to say
    if found.get("problems") and not passed["failed"]:
        # To a fleet, a host that is not protected is a failure; to the program it is an answer.
        passed.update(failed=True, msg="; ".join(found["problems"]))
    if not passed["failed"]:
        passed.pop("rc", None)
        passed.pop("msg", None)
    return passed


def _words(result: Mapping[str, Any]) -> str:
    return " ".join(str(result.get("msg") or "it failed without a word").split())
