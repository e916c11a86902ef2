# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook did on every host, from what its tasks left in the hosts' variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, NamedTuple

from ..module_utils.observe.audit import is_time
from .values import is_number, plain, read_object

# The tasks that work on the hosts, those that work for them on their vault, and on those that keep copies, are registered under these names.
_REGISTERED = ("__openclaw_backup_here", "__openclaw_backup_there", "__openclaw_backup_beside")
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
    "status": ("ok", "problems", "snapshots", "newest", "protected_until", "age", "rpo", "drilled", "rolling", "target", "immutable", "as_of"),
}


class _Kind(NamedTuple):
    """What a key must be: in words, and whether a value is that."""

    words: str
    fits: Callable[[Any], bool]


_NUMBER = _Kind("a number that a machine can have", is_number)
_PERHAPS = _Kind(_NUMBER.words + ", or none", lambda value: value is None or is_number(value))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_COUNTS = _Kind("a mapping of numbers", lambda value: isinstance(value, dict) and all(is_number(value.get(key)) for key in ("passed", "skipped")))
_MOMENT = _Kind("a time, or none", lambda value: value is None or is_time(value))
_ROLLING = _Kind("what a machine says of shares, or none", lambda value: value is None or (isinstance(value, dict) and _MOMENT.fits(value.get("since"))))
# What is reckoned with, of a success.
_SHAPES: Dict[str, Dict[str, _Kind]] = {
    "backup": {"files_sent": _NUMBER, "bytes_sent": _NUMBER},
    "restore": {**dict.fromkeys(("entries", "files_restored", "bytes_restored", "files_removed"), _NUMBER), "dest": _TEXT},
    "verify": {"checked": _NUMBER, "hashed_bytes": _NUMBER},
    "prune": {"kept": _LIST, "removed": _LIST, "bytes_freed": _NUMBER},
    "drill": {"files": _NUMBER, "bytes": _NUMBER, "rto": _PERHAPS, "counts": _COUNTS},
    "status": {"snapshots": _NUMBER, "age": _PERHAPS, "drilled": _MOMENT, "rolling": _ROLLING, "as_of": _MOMENT},
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
    return {str(host): _outcome(variables[host], keys, _SHAPES[verb]) for host in hosts}


def _outcome(variables: Mapping[str, Any], keys: Iterable[str], shape: Mapping[str, _Kind]) -> Outcome:
    if _FAILURE not in variables:
        return Outcome({}, "nothing is known of it: it failed before, or was lost on the way")
    results = {}
    try:
        for name in _REGISTERED:
            registered = plain(variables.get(name)) or {}
            for item in registered.get("results", ()):
                if not item.get("skipped"):
                    results[_named(item["item"])] = _result(item, keys, shape)
    except RecursionError:  # one machine's answer must not end the report of all
        return Outcome({}, "what it answered is nested too deeply to be read")
    return Outcome(results, str(plain(variables[_FAILURE])))


def _named(item: Any) -> str:
    """The policy, or the policy and the vault that keeps a copy."""
    return str(item["name"]) if isinstance(item, dict) else "%s on %s" % (item[1]["name"], item[0])


def _result(item: Dict[str, Any], keys: Iterable[str], shape: Mapping[str, _Kind]) -> Dict[str, Any]:
    """Of one policy, as the module has it, or as the program on the vault has printed it."""
    found = item
    if "cmd" in item:
        try:
            found = read_object(item.get("stdout"))
        except ValueError:
            found = {"failed": True, "msg": " ".join(str(item.get("stderr") or item.get("msg") or "it printed nothing").split())}
        found = {"changed": False, "rc": item.get("rc"), **found}
    passed = {key: found[key] for key in keys if key in found}
    warnings, problems = _texts(found.get("warnings")), _texts(found.get("problems"))
    if warnings:
        passed["warnings"] = warnings
    passed["failed"] = bool(found.get("failed") or item.get("unreachable"))  # a machine that was lost on the way has no word to say
    strange = [] if passed["failed"] else [key for key, kind in shape.items() if not kind.fits(found.get(key))]
    if strange:
        passed = {"changed": False, "failed": True, "msg": "its answer cannot be read: %s is not %s" % (strange[0], shape[strange[0]].words)}
    if problems and not passed["failed"]:
        # To a fleet, a host that is not protected is a failure; to the program it is an answer.
        passed.update(failed=True, msg="; ".join(problems))
    if not passed["failed"]:
        passed.pop("rc", None)
        passed.pop("msg", None)
    return passed


def _texts(value: Any) -> List[str]:
    return [str(text) for text in value] if isinstance(value, list) else [str(value)] if value else []


def _words(result: Mapping[str, Any]) -> str:
    return " ".join(str(result.get("msg") or "it failed without a word").split())
