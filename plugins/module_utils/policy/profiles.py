# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles: what is known of one kind of machine or application, as data. docs/profiles.md says how they are used and how to write one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Sequence, Tuple

from ..errors import PolicyError, printable
from ..manifest.selection import Selection
from .checks import (
    MANUAL,
    bad,
    check_flag,
    check_marker,
    check_path,
    check_selected,
    check_text,
    closest,
    each,
    is_name,
    key,
    optional,
    parse_json,
    paths,
    read,
    required,
    section,
)
from .probes import Probe, check_probe

DIRECTORY = "/etc/openclaw-backup/profiles"


def _check_source(value: Any, where: str) -> str:
    """An absolute path, or one below ``~``, in which ``*`` and ``?`` stand for parts of names."""
    text = check_text(value, where)
    if text == "~" or text.startswith("~/"):
        check_path("/home" + text[1:], where)
        return text
    if not text.startswith("/"):
        raise bad(where, "must be an absolute path", value, "a path that begins with '/' or '~/', or '~' alone", "write ~/NAME for what lies in every home")
    return check_path(value, where)


def _check_expression(value: Any, where: str) -> str:
    text = check_text(value, where)
    try:
        groups = re.compile(text.encode("utf-8", "surrogateescape")).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise bad(where, "is no regular expression: %s" % error, value, "a regular expression with one group", "correct it") from None
    if groups != 1:
        raise bad(where, "has %d groups" % groups, value, "a regular expression with one group, which is the version", "put what is the version into (…)")
    return text


@dataclass(frozen=True)
class VersionRule:
    """Where a source says which version of the application wrote it: the group of ``pattern``, in the first of ``files`` that has it."""

    files: Tuple[str, ...] = field(metadata=required(paths(least=1)))
    pattern: str = field(metadata=required(_check_expression))


@dataclass(frozen=True)
class Profile:
    """One profile. Patterns are those of a policy, anchored at each source.

    ``sources``: those that exist are taken; ``logs``: files that are only ever added to, by whole lines; ``secrets``: what must not be readable by
    others; ``version``: how to tell the application's; ``probes``: what a drill looks for.
    """

    description: str = key(check_text, "")
    sources: Tuple[str, ...] = key(each(_check_source, "paths"), ())
    include: Tuple[str, ...] = key(each(check_selected, "patterns"), ())
    exclude: Tuple[str, ...] = key(each(check_selected, "patterns"), ())
    exclude_caches: bool = key(check_flag, False)
    exclude_if_present: Tuple[str, ...] = key(each(check_marker, "file names"), ())
    one_file_system: bool = key(check_flag, False)
    logs: Tuple[str, ...] = key(each(check_selected, "patterns"), ())
    secrets: Tuple[str, ...] = key(each(check_selected, "patterns"), ())
    version: Optional[VersionRule] = key(optional(section(VersionRule)), None)
    probes: Tuple[Probe, ...] = key(each(check_probe, "probes"), ())

    def widen(self, own: Selection) -> Selection:
        """The selection of a policy with this profile: its own includes where it has any, and what either leaves out."""
        return Selection(
            include=own.include or self.include,
            exclude=tuple(dict.fromkeys(self.exclude + own.exclude)),
            exclude_caches=own.exclude_caches or self.exclude_caches,
            exclude_if_present=tuple(dict.fromkeys(self.exclude_if_present + own.exclude_if_present)),
            one_file_system=own.one_file_system or self.one_file_system,
        )


def check_profile(value: Any, where: str) -> str:
    """The name of a profile, or the absolute path of its JSON file."""
    if isinstance(value, str) and value.startswith("/"):
        return check_path(value, where)
    if not is_name(value):
        raise bad(where, "must be a name", value, "the name of a profile, or the absolute path of its JSON file", "choose one of %s" % ", ".join(PROFILES))
    return str(value)


def file_of(name: str) -> Optional[str]:
    """The file that holds profile ``name``; None for one that comes with the program. A file of the same name comes first."""
    path = name if name.startswith("/") else "%s/%s.json" % (DIRECTORY, name)
    return path if name.startswith("/") or name not in PROFILES or os.path.lexists(path) else None


def find_profile(name: str) -> Profile:
    """The profile of this name. Raises PolicyError: there is none, or its file is not right."""
    path = file_of(name)
    if path is None:
        return PROFILES[name]
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise unknown_profile(name, sorted({*PROFILES, *_own_names()}), "a file in %s" % DIRECTORY) from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise PolicyError(
            "the profile %s cannot be read: %s" % (printable(path), reason),
            field="profile",
            found=reason,
            allowed="a readable JSON file",
            next="correct it; %s" % MANUAL,
        ) from None
    try:
        return parse_profile(parse_json(content, "profile"))
    except PolicyError as error:
        error.message = "%s: %s" % (printable(path), error.message)
        error.next = _in_own_manual(error.next)
        raise


def unknown_profile(name: str, known: Sequence[str], others: str) -> PolicyError:
    """The error that the name of a profile deserves which is none of ``known``; ``others`` says what else could be one."""
    near = closest(name, known)
    return PolicyError(
        "there is no profile %s" % printable(name),
        field="profile",
        found=name,
        allowed="%s; or %s" % (", ".join(known), others),
        next="did you mean '%s'" % near if near else "check the name; docs/profiles.md says how to write one",
    )


def parse_profile(value: Any) -> Profile:
    """The profile of a mapping with the keys of docs/profiles.md. Raises PolicyError, with fields that begin with ``profile``."""
    try:
        return Profile(**read(Profile, value, "profile"))
    except PolicyError as error:
        error.next = _in_own_manual(error.next)
        raise


def _in_own_manual(advice: Optional[str]) -> Optional[str]:
    """The checks are a policy's, and so is where they send the reader."""
    return advice and advice.replace(MANUAL, "see docs/profiles.md")


def _own_names() -> "list[str]":
    try:
        return [name[:-5] for name in os.listdir(DIRECTORY) if name.endswith(".json")]
    except OSError:
        return []


# ---- those that come with the program ------------------------------------------------------------------------------

_OPENCLAW_HOMES = tuple(
    "~/" + name
    for name in (".openclaw", ".openclaw-*", ".clawdbot", ".moltbot", ".moldbot")  # the last three: names it had before
) + ("/root/clawd",)
_OPENCLAW_CONFIGURATIONS = ("openclaw.json", "clawdbot.json", "moltbot.json", "moldbot.json")
_OPENCLAW_EXCLUDE = (
    # Made anew by OpenClaw: its own releases, plugins' packages, models, indexes, links to generated skills.
    "/dev/",
    "/git/",
    "/npm/",
    "/npm-runtime/",
    "/tools/",
    "/tmp/",
    "/plugin-skills/",
    "/models/",
    "/completions/",
    "/session-index/",
    "/logs/",
    "node_modules/",
    "/browser/**/Cache/",
    "/browser/**/Code Cache/",
    "/browser/**/GPUCache/",
    "/workspace*/logs/",
    "/workspace*/cache/",
    "/workspace*/.cache/",
    "/cache/",
    "/.cache/",
    # Of processes that run. Locks only outside of workspaces: an agent's projects have package locks.
    "*.sock",
    "*.pid",
    "*.tmp",
    "*.lock.sqlite",
    "/*.lock",
    "/[!w]*/**.lock",
)
_OPENCLAW_SECRETS = (
    *("/" + name for name in _OPENCLAW_CONFIGURATIONS),
    "/.env",
    "/secrets.json",
    "/gateway.token",
    "/gateway.password",
    "/googlechat-service-account.json",
    "/credentials/",
    "/identity/",
    "/devices/",
    "/matrix/",
    "/push/vapid-keys.json",
    "/state/openclaw.sqlite",
    "/agents/*/agent/openclaw-agent.sqlite",
    "/agents/*/agent/auth-profiles.json",
    "/agents/*/agent/auth.json",
)
_OPENCLAW_LOGS = ("/agents/*/sessions/*.jsonl", "/cron/runs/*.jsonl", "/transcripts/**.jsonl")
_OPENCLAW_VERSION = VersionRule(
    tuple("/" + name for name in _OPENCLAW_CONFIGURATIONS),
    """["']?lastTouchedVersion["']?[ \\t]*:[ \\t]*["']([^"'\\n]{1,64})["']""",
)
# Its configuration is JSON5; state and indexes are JSON. Which of them there are depends on the release, and on what is in use.
_OPENCLAW_PROBES = (
    Probe(sqlite="*.sqlite", optional=True),
    Probe(json5="/openclaw.json", optional=True),
    Probe(json5="/*bot.json", optional=True),
)
# Everything at the top of a state directory but its workspaces, and of these what an agent is: who it is, whom it serves, what it remembers.
_BUT_WORKSPACES = tuple("/%s[!%s]*" % ("workspace"[:at], "workspace"[at]) for at in range(9)) + tuple("/" + "workspace"[:at] for at in range(1, 9))
_AGENT_FILES = ("*.md", "memory/", "assets/", "skills/")

PROFILES: Dict[str, Profile] = {
    "openclaw": Profile(
        description="OpenClaw: configuration, credentials, databases, sessions, skills and workspaces of every agent",
        sources=_OPENCLAW_HOMES,
        exclude=_OPENCLAW_EXCLUDE,
        logs=_OPENCLAW_LOGS,
        secrets=_OPENCLAW_SECRETS,
        version=_OPENCLAW_VERSION,
        probes=_OPENCLAW_PROBES,
    ),
    "openclaw-core": Profile(
        description="OpenClaw without its agents' projects: of each workspace its Markdown files, memory, assets and skills alone",
        sources=tuple(source for source in _OPENCLAW_HOMES if source.startswith("~")),
        include=_BUT_WORKSPACES + tuple("/workspace*/" + name for name in _AGENT_FILES),
        exclude=_OPENCLAW_EXCLUDE,
        logs=_OPENCLAW_LOGS,
        secrets=_OPENCLAW_SECRETS,
        version=_OPENCLAW_VERSION,
        probes=_OPENCLAW_PROBES,
    ),
    "files": Profile(
        description="any directories: without caches that say so, and without what a directory marked .nobackup holds",
        exclude=("/lost+found/", ".nfs*", ".Trash-*/"),
        exclude_caches=True,
        exclude_if_present=(".nobackup",),
    ),
    "etc": Profile(
        description="a machine's configuration: /etc, /usr/local/etc, the users' crontabs, and which packages are installed",
        sources=("/etc", "/usr/local/etc", "/var/spool/cron/crontabs", "/var/lib/dpkg/status", "/var/lib/apt/extended_states"),
        # Keys that are one machine's, and that it makes anew: whoever had them could be this machine, to its users and to its vault.
        exclude=("/ssh/ssh_host_*", "/openclaw-backup/ssh/id_*"),
        secrets=("/shadow*", "/gshadow*", "/ssl/private/", "/wireguard/", "/openclaw-backup/"),
    ),
    "home": Profile(
        description="home directories of people, without caches, trash and what package managers fetch again",
        sources=("~",),
        exclude=(
            "/.cache/",
            "/.local/share/Trash/",
            "/.thumbnails/",
            "/.npm/_cacache/",
            "/.cargo/registry/",
            "/.rustup/toolchains/",
            "/.gradle/caches/",
            "/.m2/repository/",
            "node_modules/",
            "__pycache__/",
        ),
        exclude_caches=True,
        exclude_if_present=(".nobackup",),
        secrets=("/.ssh/id_*", "/.gnupg/", "/.netrc", "/.pgpass", "/.my.cnf", "/.aws/credentials", "/.git-credentials", "/.kube/config"),
    ),
}
