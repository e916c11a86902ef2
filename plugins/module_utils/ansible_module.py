# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bridge between Ansible's modules and the engine: the options they share, the policy that these mean, results that JSON can carry, and
failures of one shape. The only file beside the engine that knows Ansible; no room imports it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NoReturn, Optional

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

from .action.state import default_host, default_state_directory
from .errors import BackupError, PolicyError, UsageError, printable, refused_by_system
from .observe.progress import Progress
from .policy.model import Policy
from .policy.target_spec import masked
from .process import collector_at_rest

SELECTION_OPTIONS: Dict[str, Any] = {
    "include": {"type": "list", "elements": "str"},
    "exclude": {"type": "list", "elements": "str"},
    "exclude_caches": {"type": "bool"},
    "exclude_if_present": {"type": "list", "elements": "str"},
    "one_file_system": {"type": "bool"},
}
HISTORY_OPTIONS: Dict[str, Any] = {
    "policy": {"type": "raw"},
    "name": {"type": "str"},
    "target": {"type": "raw"},
    "host": {"type": "str"},
    "state": {"type": "path"},
}
# A history is named by a policy, or by name and target.
HISTORY_RULES: Dict[str, Any] = {
    "mutually_exclusive": [("policy", "name"), ("policy", "target")],
    "required_one_of": [("policy", "target")],
    "required_together": [("name", "target")],
}

# How one change of a sample stands in the listings before and after it; None: the path is not there.
_SHOWN = {
    "added": (None, ""),
    "created": (None, ""),
    "extra": (None, " (not in the manifest)"),
    "refused": (None, " (damaged at the source, not copied)"),
    "repaired": (" (damaged)", ""),
    "unrepaired": (" (damaged)", " (damaged, not repaired)"),
    "removed": ("", None),
    "missing": ("", None),
    "modified": (" (old content)", " (new content)"),
    "replaced": (" (old content)", " (content of the snapshot)"),
    "metadata": (" (old metadata)", " (new metadata)"),
    "damaged": ("", " (damaged)"),
}


class _Notes(Progress):
    """What an action says on its way becomes a warning of the task."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def note(self, text: str) -> None:
        self._module.warn(plain(text))


class BackupModule(AnsibleModule):  # type: ignore[misc]
    """A module of this collection. Every failure carries ``rc`` and ``error``; every result is plain text, numbers, lists and mappings."""

    def __init__(self, argument_spec: Mapping[str, Any], **rules: Any) -> None:
        super().__init__(argument_spec=dict(argument_spec), supports_check_mode=True, **rules)
        for value in (self.params.get("target"), self.params.get("policy"), self.params.get("to")):
            self._hide_secrets(value)

    @property
    def state_directory(self) -> str:
        """The option ``state``, or its default. ``UsageError`` for a relative path: nobody knows where a module runs."""
        named = self.params["state"] or default_state_directory()
        if not os.path.isabs(named):
            raise UsageError("state is not absolute", field="state", found=named, allowed="an absolute path", next="write the whole path, starting with '/'")
        return str(named)

    @contextmanager
    def reporting(self) -> Iterator[Progress]:
        """Turn the engine's errors into a failure of the task. The value takes the engine's progress."""
        try:
            with collector_at_rest():
                yield _Notes(self)
        except BackupError as error:
            self.fail(error)
        except OSError as error:
            self.fail(refused_by_system(error, "running %s" % self._name))

    def fail(self, error: BackupError, result: Optional[Mapping[str, Any]] = None) -> NoReturn:
        """End as failed, with what was done before."""
        done = dict(error.done if result is None else result)
        for text in done.pop("warnings", ()):
            self.warn(plain(text))
        self.fail_json(str(error), **{**done, "rc": error.rc, "error": error.to_dict()})
        raise AssertionError("unreachable")

    def finish(self, result: Mapping[str, Any], *, before: str, after: str, failure: Optional[BackupError] = None) -> NoReturn:
        """End with an engine's result. ``before`` and ``after`` name the two sides of its sample; with ``failure`` the task has failed all the same."""
        # Ansible takes an rc other than 0 for a failure, and done with warnings is none.
        answer = {name: value for name, value in result.items() if name not in ("rc", "warnings")}
        for text in result.get("warnings", ()):
            self.warn(plain(text))
        if self._diff:
            answer["diff"] = {"before_header": before, "after_header": after, **_listings(result["sample"], result["truncated"])}
        if failure is not None:
            self.fail(failure, answer)
        self.exit_json(**plain(answer))
        raise AssertionError("unreachable")

    def fail_json(self, msg: str, **result: Any) -> None:
        """What Ansible itself refuses is a matter of usage and gets the same shape."""
        if "error" not in result:
            usage = UsageError(msg, next="see `ansible-doc %s`" % self._name)
            result.update(rc=usage.rc, error=usage.to_dict())
        super().fail_json(plain(msg), **plain(result))

    def add_path_info(self, kwargs: Dict[str, Any]) -> Dict[str, Any]:
        """Results have their documented keys: Ansible would add owner, mode and more of whatever ``dest`` names."""
        return kwargs

    def _hide_secrets(self, value: Any) -> None:
        """A URL with a password is refused; it must not be shown among the task's arguments either."""
        if isinstance(value, Mapping):
            for name in ("target", "url"):
                self._hide_secrets(value.get(name))
        elif isinstance(value, str) and not value.startswith("/") and masked(value) != value:
            self.no_log_values.add(value)


def selection_of(params: Mapping[str, Any]) -> Dict[str, Any]:
    """The keys of the selection that were given."""
    return {name: params[name] for name in SELECTION_OPTIONS if params[name] is not None}


def policy_of(params: Mapping[str, Any], **keys: Any) -> Policy:
    """The policy that the options of a history mean. ``keys`` are the policy's other keys; without them it only names a history."""
    policy, host = params["policy"], params["host"]
    if isinstance(policy, str):
        if not os.path.isabs(policy):
            raise PolicyError(
                "policy is neither a mapping nor an absolute path",
                field="policy",
                found=policy,
                allowed="a mapping, or the absolute path of a JSON file",
                next="write the whole path, starting with '/'",
            )
        found = Policy.from_file(policy, default_host=default_host())
        return found if host is None else found.of_host(host)
    if policy is not None:
        found = Policy.from_mapping(policy, default_host=default_host())
        return found if host is None else found.of_host(host)
    host = default_host() if host is None else host
    if keys:
        return Policy.from_mapping({"name": params["name"], "target": params["target"], **keys}, default_host=host)
    return Policy.for_history(target=params["target"], host=host, name=params["name"])


def plain(value: Any) -> Any:
    """The same value, fit for Ansible's JSON: bytes, and text that is not Unicode, become what a person can read."""
    if isinstance(value, Mapping):
        return {plain(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return printable(value)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return printable(value)
    return value


def _listings(sample: Iterable[Mapping[str, str]], truncated: bool) -> Dict[str, str]:
    """The paths of a sample before and after, as Ansible compares them."""
    before: List[str] = []
    after: List[str] = []
    for item in sample:
        for lines, suffix in zip((before, after), _SHOWN[item["change"]]):
            if suffix is not None:
                lines.append(item["path"] + suffix)
    rest = ["… and more"] if truncated else []
    return {"before": "".join(line + "\n" for line in before + rest), "after": "".join(line + "\n" for line in after + rest)}
