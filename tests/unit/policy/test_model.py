# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy model: every key is checked, every error leads out, and what is not acted on is admitted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import EXIT_USAGE, PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.selection import Selection
from ansible_collections.openclaw.backup.plugins.module_utils.policy.durations import LONGEST, format_duration
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import COMPRESS_LEVELS, Guards, Hook, Policy, Transfer
from ansible_collections.openclaw.backup.plugins.module_utils.policy.profiles import PROFILES
from hypothesis import given, settings
from hypothesis import strategies as st

LEAST: Dict[str, Any] = {"name": "openclaw", "sources": ["/home/openclaw/.openclaw"], "target": "/srv/vault"}

# The example of the design page, with one path for the target.
FULL: Dict[str, Any] = {
    "name": "openclaw",
    "host": "web1",
    "profile": "openclaw",
    "sources": ["/home/openclaw/.openclaw"],
    "include": [],
    "exclude": ["*.tmp", "/cache/"],
    "exclude_caches": True,
    "exclude_if_present": [".nobackup"],
    "one_file_system": True,
    "target": {"url": "ssh://vault1/", "layout": "tree", "storage": "portable"},
    "sqlite": "auto",
    "guards": {"require": ["/mnt/data/.mounted"], "min_files": 1, "max_delete_percent": 30, "max_deselect_percent": 50},
    "hooks": {"before": [["/usr/bin/sync"]], "after": [], "on_failure": [{"command": ["mail", "root"], "timeout": "10s", "essential": False}]},
    "transfer": {
        "bwlimit": "10m",
        "compress": "zstd",
        "compress_level": 3,
        "checksum": "xxh128",
        "block_size": "auto",
        "streams": 2,
        "timeout": 300,
        "sockopts": "",
    },
    "schedule": {"cron": "*/5 * * * *", "splay": 60, "watch": False, "window": ""},
    "retention": {
        "keep_last": 3,
        "keep_within": "2d",
        "keep_hourly": 24,
        "keep_daily": 7,
        "keep_weekly": 4,
        "keep_monthly": 12,
        "keep_yearly": 0,
        "protect": "1d",
        "timezone": "UTC",
    },
    "objectives": {"rpo": "15m", "rto": "10m", "drill_every": "7d"},
    "probes": [["/usr/local/bin/probe"]],
    "heartbeat": "1h",
}


def made(**keys: Any) -> Policy:
    return Policy.from_mapping({**LEAST, **keys}, default_host="node1")


def refused(read: Callable[[], Any]) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        read()
    error = caught.value
    assert error.rc == EXIT_USAGE
    assert error.field
    assert error.allowed
    assert error.next
    assert error.found is not None
    assert str(error).isprintable()
    json.dumps(error.to_dict())
    return error


# ---- what is taken ------------------------------------------------------------------------------------------------


def test_three_keys_are_enough_and_the_host_is_the_node() -> None:
    policy = made()
    assert (policy.name, policy.host, policy.sources) == ("openclaw", "node1", ("/home/openclaw/.openclaw",))
    assert (policy.target.scheme, policy.target.path, policy.target.layout) == ("file", "/srv/vault", "tree")
    assert (policy.guards, policy.transfer, policy.heartbeat) == (Guards(), Transfer(), 3600)


def test_a_full_policy_is_read_key_by_key() -> None:
    policy = Policy.from_mapping(FULL, default_host="node1")
    assert policy.host == "web1"
    own = Selection(exclude=("*.tmp", "/cache/"), exclude_caches=True, exclude_if_present=(".nobackup",), one_file_system=True)
    assert (policy.exclude, policy.selection) == (own.exclude, PROFILES["openclaw"].widen(own))
    assert policy.hooks.before == (Hook(command=("/usr/bin/sync",)),)
    assert policy.hooks.on_failure == (Hook(command=("mail", "root"), timeout=10, essential=False),)
    assert (policy.retention.keep_within, policy.retention.protect) == (172800, 86400)
    assert (policy.objectives.rpo, policy.objectives.rto, policy.objectives.drill_every) == (900, 600, 604800)


def test_policies_are_values() -> None:
    assert made() == made(host="node1") == Policy.from_mapping(made().to_mapping(), default_host="other")
    assert len({made(), made()}) == 1


def test_a_path_that_is_not_utf8_survives() -> None:
    policy = made(sources=["/srv/\udcff"])
    assert policy.sources[0].encode("utf-8", "surrogateescape") == b"/srv/\xff"
    assert Policy.from_mapping(json.loads(json.dumps(policy.to_mapping())), default_host="x") == policy


@pytest.mark.parametrize("sources", [["/"], ["/a", "/ab", "/a-b"], ["/a b\n", "/ü"], ("/a",)])
def test_sources_beside_one_another_are_taken(sources: Any) -> None:
    assert made(sources=sources).sources == tuple(sources)


@pytest.mark.parametrize(("compress", "level"), [("zstd", 3), ("zlibx", 6), ("lz4", 0), ("none", 0), ("auto", 0)])
def test_a_level_that_is_not_given_is_the_default_of_its_algorithm(compress: str, level: int) -> None:
    transfer = made(transfer={"compress": compress}).transfer
    assert (transfer.compress, transfer.compress_level) == (compress, level)
    assert made(transfer=made(transfer={"compress": compress}).to_mapping()["transfer"]).transfer == transfer


@pytest.mark.parametrize(("splay", "seconds"), [(0, 0), (60, 60), ("90s", 90), ("1d", 86400)])
def test_a_splay_may_be_seconds_or_a_duration(splay: Any, seconds: int) -> None:
    assert made(schedule={"splay": splay}).schedule.splay == seconds


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"])
def test_a_zone_of_the_database_is_taken(zone: str) -> None:
    assert made(retention={"timezone": zone}).retention.timezone == zone


def test_utc_needs_no_time_zone_database() -> None:
    program = "import sys; from %s import Policy; Policy.from_mapping(%r, default_host='h'); print('zoneinfo' in sys.modules, 'difflib' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", program % (Policy.__module__, FULL)], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "False"]


def test_an_empty_retention_is_taken_and_keeps_nothing_by_itself() -> None:
    retention = made(retention={}).retention
    assert not any(value for name, value in vars(retention).items() if name.startswith("keep_"))
    assert retention.protect == 86400


# ---- what is refused ----------------------------------------------------------------------------------------------

BAD = [
    # unknown keys
    ({"souces": []}, "souces", "not a key", "did you mean 'sources'"),
    ({"guards": {"minfiles": 1}}, "guards.minfiles", "not a key", "did you mean 'guards.min_files'"),
    ({"min_files": 1}, "min_files", "not a key", "did you mean 'guards.min_files'"),
    ({"rpo": "1h"}, "rpo", "not a key", "did you mean 'objectives.rpo'"),
    ({"xyzzy": 1}, "xyzzy", "not a key", "remove it"),
    ({3: 4}, "3", "not a key", "remove it"),
    ({None: 4}, "None", "not a key", "remove it"),
    ({"given": ["name"]}, "given", "not a key", "remove it"),
    ({"a\x1b[2J": 1}, "a\\x1b[2J", "not a key", "remove it"),
    ({"target": {"url": "/v", "scheme": "file"}}, "target.scheme", "not a key", "remove it"),
    ({"transfer": {"checksums": "md5"}}, "transfer.checksums", "not a key", "did you mean 'transfer.checksum'"),
    ({"schedule": {"cronn": "@daily"}}, "schedule.cronn", "not a key", "did you mean 'schedule.cron'"),
    ({"retention": {"keep_dayly": 1}}, "retention.keep_dayly", "not a key", "did you mean 'retention.keep_daily'"),
    ({"hooks": {"onfailure": []}}, "hooks.onfailure", "not a key", "did you mean 'hooks.on_failure'"),
    ({"hooks": {"before": [{"comand": ["x"]}]}}, "hooks.before[0].comand", "not a key", "did you mean 'hooks.before[0].command'"),
    # names
    ({"name": ""}, "name", "must be a name", "web1"),
    ({"name": "a/b"}, "name", "must be a name", "web1"),
    ({"name": ".."}, "name", "must be a name", "web1"),
    ({"name": "a..b"}, "name", "must be a name", "web1"),
    ({"name": "-a"}, "name", "must be a name", "web1"),
    ({"name": "a\n"}, "name", "must be a name", "web1"),
    ({"name": "é"}, "name", "must be a name", "web1"),
    ({"name": "a" * 65}, "name", "must be a name", "web1"),
    ({"name": 5}, "name", "found the number 5", "web1"),
    ({"name": None}, "name", "found null", "web1"),
    ({"host": "web 1"}, "host", "must be a name", "web1"),
    ({"host": None}, "host", "found null", "web1"),
    ({"profile": "a/b"}, "profile", "must be a name", "openclaw-core"),
    # sources
    ({"sources": []}, "sources", "not be empty", "add"),
    ({"sources": "/a,/b"}, "sources", "must be a list, found the text '/a,/b'", '["/a,/b"]'),
    ({"sources": None}, "sources", "found null", "list"),
    ({"sources": {"/a": 1}}, "sources", "found a mapping", "list"),
    ({"sources": ["/a", 5]}, "sources[1]", "found the number 5", "quotes"),
    ({"sources": ["a"]}, "sources[0]", "absolute", "starting with '/'"),
    ({"sources": ["~/a"]}, "sources[0]", "absolute", "~ is not expanded"),
    ({"sources": [""]}, "sources[0]", "absolute", "starting with '/'"),
    ({"sources": ["/a/"]}, "sources[0]", "shortest form", "write /a"),
    ({"sources": ["//a"]}, "sources[0]", "shortest form", "write /a"),
    ({"sources": ["/a//b"]}, "sources[0]", "shortest form", "write /a/b"),
    ({"sources": ["/./a"]}, "sources[0]", "shortest form", "write /a"),
    ({"sources": ["/a/../b"]}, "sources[0]", "'..'", "without '..'"),
    ({"sources": ["/a\0b"]}, "sources[0]", "no name can hold", "remove"),
    ({"sources": ["/\ud800"]}, "sources[0]", "no name can hold", "remove"),
    ({"sources": ["/" + "é" * 2048]}, "sources[0]", "too long", "above it"),
    ({"sources": ["/a", "/b", "/a"]}, "sources[2]", "duplicate of sources[0]", "remove one"),
    ({"sources": ["/a", "/a/b"]}, "sources[1]", "inside the source /a, found the text '/a/b'", "remove /a/b"),
    ({"sources": ["/a/b", "/a"]}, "sources[0]", "inside the source /a, found the text '/a/b'", "remove /a/b"),
    ({"sources": ["/", "/b"]}, "sources[1]", "inside the source /, found the text '/b'", "remove /b"),
    # selection
    ({"sources": ["/srv/www"], "exclude": ["*.tmp", "/srv/www/cache"]}, "exclude[1]", "begins with the path of a source", "write '/cache'"),
    ({"sources": ["/srv/www"], "include": ["/srv/www/"]}, "include[0]", "begins with the path of a source", "out of sources"),
    ({"include": "*.md"}, "include", "must be a list", '["*.md"]'),
    ({"include": [5]}, "include[0]", "must be text", "quotes"),
    ({"exclude": ["a", ""]}, "exclude[1]", "exclude[1]", "remove"),
    ({"exclude": ["../x"]}, "exclude[0]", "'..'", "source"),
    ({"exclude": ["a\0"]}, "exclude[0]", "no name can hold", "remove"),
    ({"exclude_caches": "true"}, "exclude_caches", "true or false, found the text 'true'", "without quotes"),
    ({"exclude_caches": 1}, "exclude_caches", "true or false, found the number 1", "without quotes"),
    ({"one_file_system": None}, "one_file_system", "found null", "true or false"),
    ({"exclude_if_present": ["a/b"]}, "exclude_if_present[0]", "file name", ".nobackup"),
    ({"exclude_if_present": [".."]}, "exclude_if_present[0]", "file name", ".nobackup"),
    ({"exclude_if_present": [""]}, "exclude_if_present[0]", "file name", ".nobackup"),
    # single keys
    ({"target": "vault"}, "target", "absolute path or a URL", "starting with '/'"),
    ({"sqlite": False}, "sqlite", "one of auto, off, found false", "'off'"),
    ({"sqlite": "Auto"}, "sqlite", "one of auto, off", "did you mean 'auto'"),
    ({"heartbeat": 60}, "heartbeat", "found the number 60", "write 60s"),
    ({"heartbeat": "60"}, "heartbeat", "needs a unit", "write 60s"),
    ({"probes": ["/usr/bin/probe"]}, "probes[0]", "must be a probe", "sqlite"),
    ({"probes": [{}]}, "probes[0]", "says nothing to look at", "add one"),
    ({"probes": [{"json": None, "timeout": "5s"}]}, "probes[0]", "says nothing to look at", "add one"),
    ({"probes": [{"json": "a", "sqlite": "b"}]}, "probes[0]", "is of 2 kinds", "make a probe of each: sqlite, json"),
    ({"probes": [{"sqllite": "*.db"}]}, "probes[0].sqllite", "is not a key", "did you mean 'probes[0].sqlite'"),
    ({"probes": [{"sqlite": ""}]}, "probes[0].sqlite", "empty", ""),
    ({"probes": [{"exists": []}]}, "probes[0].exists", "must not be empty", "add"),
    ({"probes": [{"exists": ["a"]}]}, "probes[0].exists[0]", "must be an absolute path", ""),
    ({"probes": [{"command": "/bin/true"}]}, "probes[0].command", "must be a list of arguments", "no shell"),
    ({"probes": [{"command": ["a"], "timeout": "0s"}]}, "probes[0].timeout", "must be longer than nothing", "longest time"),
    ({"probes": [{"command": ["a"], "expect": ""}]}, "probes[0].expect", "must not be empty", "exit code"),
    ({"probes": [{"command": ["a"], "optional": True}]}, "probes[0].optional", "has no meaning for command", "leave it out"),
    ({"probes": [{"exists": ["/a"], "as_root": True}]}, "probes[0].as_root", "has no meaning for exists", "leave it out"),
    ({"probes": [{"max_age": {"pattern": "a"}}]}, "probes[0].max_age.duration", "is missing", ""),
    ({"probes": [{"max_age": {"pattern": "a", "duration": 5}}]}, "probes[0].max_age.duration", "must be a duration", "write 5s"),
    # guards
    ({"guards": None}, "guards", "must be a mapping, found null", "defaults"),
    ({"guards": []}, "guards", "must be a mapping, found a list", "defaults"),
    ({"guards": {"require": ["a"]}}, "guards.require[0]", "absolute", "starting with '/'"),
    ({"guards": {"require": ["/a", "/a"]}}, "guards.require[1]", "duplicate of guards.require[0]", "remove one"),
    ({"guards": {"min_files": -1}}, "guards.min_files", "too small", "0 or more"),
    ({"guards": {"min_files": "3"}}, "guards.min_files", "found the text '3'", "write 3 without quotes"),
    ({"guards": {"min_files": True}}, "guards.min_files", "found true", "number"),
    ({"guards": {"min_files": 1.0}}, "guards.min_files", "found the number 1.0", "number"),
    ({"guards": {"max_delete_percent": 101}}, "guards.max_delete_percent", "too large", "100 or less"),
    ({"anomaly": {"encrypted_percent": 101}}, "anomaly.encrypted_percent", "too large", "100 or less"),
    ({"anomaly": {"growth_percent": "50%"}}, "anomaly.growth_percent", "whole number", "without a unit"),
    ({"anomaly": {"changed_percent": -1}}, "anomaly.changed_percent", "too small", "0 or more"),
    ({"guards": {"max_delete_percent": "30%"}}, "guards.max_delete_percent", "whole number", "without a unit"),
    ({"guards": {"max_deselect_percent": -1}}, "guards.max_deselect_percent", "too small", "0 or more"),
    ({"guards": {"min_files": 10**5000}}, "guards.min_files", "too large", "or less"),
    ({"guards": {"min_files": float("nan")}}, "guards.min_files", "whole number", "number"),
    ({"transfer": {"bwlimit": 10**5000}}, "transfer.bwlimit", "must be a rate", "10m"),
    ({"heartbeat": 10**5000}, "heartbeat", "as text", "15m"),
    # hooks
    ({"hooks": {"before": ["/bin/true"]}}, "hooks.before[0]", "must be a command", "no shell"),
    ({"hooks": {"before": "/bin/true"}}, "hooks.before", "must be a list", "list"),
    ({"hooks": {"after": [[]]}}, "hooks.after[0]", "not be empty", "add"),
    ({"hooks": {"after": [["a", 5]]}}, "hooks.after[0][1]", "must be text", "quotes"),
    ({"hooks": {"after": [["a\0"]]}}, "hooks.after[0][0]", "no name can hold", "remove"),
    ({"hooks": {"after": [[""]]}}, "hooks.after[0][0]", "name a program", "program first"),
    ({"hooks": {"after": [{}]}}, "hooks.after[0].command", "missing", "add the key 'command'"),
    ({"hooks": {"after": [{"command": "true"}]}}, "hooks.after[0].command", "list of arguments", "no shell"),
    ({"hooks": {"on_failure": [["a"], {"command": ["a"], "timeout": 60}]}}, "hooks.on_failure[1].timeout", "found the number 60", "write 60s"),
    ({"hooks": {"on_failure": [{"command": ["a"], "timeout": "0s"}]}}, "hooks.on_failure[0].timeout", "longer than nothing", "longest"),
    ({"hooks": {"on_failure": [{"command": ["a"], "essential": "no"}]}}, "hooks.on_failure[0].essential", "true or false", "without quotes"),
    # transfer
    ({"transfer": {"bwlimit": 100}}, "transfer.bwlimit", "must be a rate", "write 100k or 100m"),
    ({"transfer": {"bwlimit": "100"}}, "transfer.bwlimit", "must be a rate", "write 100k or 100m"),
    ({"transfer": {"bwlimit": "0"}}, "transfer.bwlimit", "must be a rate", "'' for no limit"),
    ({"transfer": {"bwlimit": 0}}, "transfer.bwlimit", "must be a rate", "'' for no limit"),
    ({"transfer": {"bwlimit": "10mbit"}}, "transfer.bwlimit", "must be a rate", "10m"),
    ({"transfer": {"bwlimit": "10 m"}}, "transfer.bwlimit", "must be a rate", "10m"),
    ({"transfer": {"bwlimit": None}}, "transfer.bwlimit", "found null", "10m"),
    ({"transfer": {"bwlimit": False}}, "transfer.bwlimit", "found false", "10m"),
    ({"transfer": {"compress": "gzip"}}, "transfer.compress", "one of zstd", "one of them"),
    ({"transfer": {"compress": "zlib"}}, "transfer.compress", "one of zstd", "did you mean 'zlibx'"),
    ({"transfer": {"compress_level": 23}}, "transfer.compress_level", "level of zstd", "write 3"),
    ({"transfer": {"compress_level": "3"}}, "transfer.compress_level", "whole number", "without quotes"),
    ({"transfer": {"compress": "zlibx", "compress_level": 0}}, "transfer.compress_level", "level of zlibx", "write 6"),
    ({"transfer": {"compress": "none", "compress_level": 3}}, "transfer.compress_level", "must be 0", "leave compress_level out"),
    ({"transfer": {"checksum": "none"}}, "transfer.checksum", "one of xxh128", "one of them"),
    ({"transfer": {"checksum": "sha256"}}, "transfer.checksum", "one of xxh128", "write one of them"),
    ({"transfer": {"block_size": "129k"}}, "transfer.block_size", "size that rsync takes", "128k"),
    ({"transfer": {"block_size": "131073"}}, "transfer.block_size", "size that rsync takes", "128k"),
    ({"transfer": {"block_size": "511"}}, "transfer.block_size", "size that rsync takes", "1k"),
    ({"transfer": {"block_size": 4096}}, "transfer.block_size", "size that rsync takes", "1k"),
    ({"transfer": {"block_size": "1m"}}, "transfer.block_size", "size that rsync takes", "128k"),
    ({"transfer": {"streams": 0}}, "transfer.streams", "too small", "1 or more"),
    ({"transfer": {"streams": 17}}, "transfer.streams", "too large", "16 or less"),
    ({"transfer": {"timeout": 0}}, "transfer.timeout", "too small", "1 or more"),
    ({"transfer": {"timeout": "5m"}}, "transfer.timeout", "whole number", "without a unit"),
    ({"transfer": {"sockopts": "SO_SNDBUF=1 --rsh=x"}}, "transfer.sockopts", "socket options", "SO_SNDBUF"),
    ({"transfer": {"sockopts": "SO_SNDBUF=1,"}}, "transfer.sockopts", "socket options", "SO_SNDBUF"),
    ({"transfer": {"sockopts": []}}, "transfer.sockopts", "must be text", "docs/policy.md"),
    # schedule
    ({"schedule": {"cron": "* * * *"}}, "schedule.cron", "five columns", "minute, hour"),
    ({"schedule": {"splay": -1}}, "schedule.splay", "within a day", "60"),
    ({"schedule": {"splay": 86401}}, "schedule.splay", "within a day", "60"),
    ({"schedule": {"splay": "2d"}}, "schedule.splay", "within a day", "60"),
    ({"schedule": {"splay": "60"}}, "schedule.splay", "needs a unit", "write 60s"),
    ({"schedule": {"splay": True}}, "schedule.splay", "found true", "15m"),
    ({"schedule": {"watch": "yes"}}, "schedule.watch", "true or false", "without quotes"),
    ({"schedule": {"window": "22-6"}}, "schedule.window", "start and an end", "two digits"),
    # retention
    ({"retention": {"keep_last": -1}}, "retention.keep_last", "too small", "0 or more"),
    ({"retention": {"keep_daily": "7"}}, "retention.keep_daily", "whole number", "write 7 without quotes"),
    ({"retention": {"keep_yearly": "7d"}}, "retention.keep_yearly", "whole number", "without a unit"),
    ({"retention": {"keep_within": 2}}, "retention.keep_within", "found the number 2", "write 2s"),
    ({"retention": {"protect": "-1d"}}, "retention.protect", "negative", "minus"),
    ({"retention": {"timezone": "Europe/Berln"}}, "retention.timezone", "known time zone", "did you mean 'Europe/Berlin'"),
    ({"retention": {"timezone": "Europe"}}, "retention.timezone", "known time zone", ""),
    ({"retention": {"timezone": "../../etc/localtime"}}, "retention.timezone", "known time zone", ""),
    ({"retention": {"timezone": "/etc/localtime"}}, "retention.timezone", "known time zone", ""),
    ({"retention": {"timezone": ""}}, "retention.timezone", "known time zone", "Europe/Berlin"),
    ({"retention": {"timezone": None}}, "retention.timezone", "must be text", "docs/policy.md"),
    ({"retention": {"keep_last": 10**13}}, "retention.keep_last", "is too large", "write 1000000000000 or less"),
    ({"hooks": {"before": [{"command": ["x"], "timeout": 0}]}}, "hooks.before[0].timeout", "longer than nothing", "the longest time"),
    # objectives
    ({"objectives": {"rpo": "fast"}}, "objectives.rpo", "unknown unit", "use s"),
    ({"objectives": {"rto": -5}}, "objectives.rto", "found the number -5", "write a duration"),
    ({"objectives": {"rto": 600}}, "objectives.rto", "found the number 600", "write 600s"),
    ({"objectives": {"drill_every": "200y"}}, "objectives.drill_every", "unknown unit 'y'", "365d"),
]


@pytest.mark.parametrize(("keys", "field", "complaint", "hint"), BAD)
def test_a_bad_value_is_refused_with_the_way_out(keys: Dict[Any, Any], field: str, complaint: str, hint: str) -> None:
    error = refused(lambda: Policy.from_mapping({**LEAST, **keys}, default_host="node1"))
    assert error.field == field
    assert complaint in error.message
    assert hint in (error.next or "")


@pytest.mark.parametrize("name", LEAST)
def test_a_missing_key_is_named(name: str) -> None:
    error = refused(lambda: Policy.from_mapping({key: value for key, value in LEAST.items() if key != name}, default_host="node1"))
    assert (error.field, error.found) == (name, "nothing")
    assert "add the key '%s'" % name in (error.next or "")


def test_a_node_name_that_is_no_host_name_is_refused_and_not_bent() -> None:
    error = refused(lambda: Policy.from_mapping(LEAST, default_host="my host"))
    assert (error.field, error.found) == ("host", "my host")


def test_a_history_is_named_without_sources() -> None:
    policy = Policy.for_history(target="/srv/vault", host="web1", name="etc")
    assert (policy.host, policy.name, policy.target.path, policy.sources) == ("web1", "etc", "/srv/vault", ())


@pytest.mark.parametrize("field, value", [("target", "srv/vault"), ("host", "web 1"), ("name", None)])
def test_a_history_is_named_as_strictly_as_in_a_policy(field: str, value: Any) -> None:
    named: Dict[str, Any] = {"target": "/srv/vault", "host": "web1", "name": "etc", field: value}
    assert refused(lambda: Policy.for_history(**named)).field == field


def test_a_scan_needs_sources_alone_and_checks_them() -> None:
    policy = Policy.for_scan(sources=["/etc"], exclude=["*.tmp"])
    assert (policy.sources, policy.selection) == (("/etc",), Selection(exclude=("*.tmp",)))
    assert refused(lambda: Policy.for_scan(sources=["etc"])).field == "sources[0]"


def test_a_policy_of_another_host_differs_in_nothing_else() -> None:
    assert made(host="web1").of_host("web2") == made(host="web2")
    assert refused(lambda: made().of_host("..")).field == "host"


@pytest.mark.parametrize("data", [None, [], "policy", 5])
def test_what_is_no_mapping_is_no_policy(data: Any) -> None:
    assert refused(lambda: Policy.from_mapping(data, default_host="node1")).field == "policy"


# ---- files --------------------------------------------------------------------------------------------------------


def from_file(path: Path, content: Any = None) -> Policy:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Policy.from_file(str(path), default_host="node1")


def test_a_file_is_read_like_the_mapping_it_holds(tmp_path: Path) -> None:
    assert from_file(tmp_path / "p.json", json.dumps(FULL)) == Policy.from_mapping(FULL, default_host="x")
    raw = b'{"name": "a", "target": "/v", "sources": ["/srv/\xff"]}'
    assert from_file(tmp_path / "raw.json", raw).sources == ("/srv/\udcff",)


@pytest.mark.parametrize(
    ("content", "field", "complaint", "hint"),
    [
        ("", "policy", "line 1, column 1", "line 1, column 1"),
        ("name: openclaw\n", "policy", "line 1, column 1", "correct line 1, column 1"),
        ('{\n  "name": "a",\n}', "policy", "line 3, column 1", "correct line 3, column 1"),
        ('{"name": "a"} {}', "policy", "Extra data", "column 15"),
        ("[]", "policy", "found a list", "write {key"),
        ("null", "policy", "found null", "write {key"),
        ('{"guards": {"min_files": NaN}}', "policy", "NaN is not JSON", "number"),
        ("[" * 200000, "policy", "not a policy", "docs/policy.md"),
        ('{"name": "a", "name": "b"}', "name", "'name' stands twice", "remove one"),
        ('{"name": "a", "guards": {"min_files": 1, "min_files": 0}}', "min_files", "'min_files' stands twice", "remove one"),
        ('{"name": "a", "sources": ["/a"], "target": "/v", "heartbeat": 60}', "heartbeat", "found the number 60", "write 60s"),
        (b"\xef\xbb\xbf{}", "policy", "line 1, column 1", "correct"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_place(tmp_path: Path, content: Any, field: str, complaint: str, hint: str) -> None:
    path = tmp_path / "p.json"
    error = refused(lambda: from_file(path, content))
    assert error.field == field
    assert error.message.startswith(str(path) + ": ")
    assert complaint in error.message
    assert hint in (error.next or "")


def test_a_number_of_thousands_of_digits_is_refused_by_every_python(tmp_path: Path) -> None:
    content = json.dumps({**LEAST, "guards": {"min_files": 0}}).replace("0}", "9" * 10000 + "}")
    refused(lambda: from_file(tmp_path / "p.json", content))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "there is no policy file" in refused(lambda: from_file(tmp_path / "none.json")).message
    assert "Is a directory" in refused(lambda: from_file(tmp_path)).message
    assert "Not a directory" in refused(lambda: from_file(file / "p.json")).message
    assert "cannot be read" in refused(lambda: Policy.from_file("/a\0b", default_host="h")).message


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that every user may enter. Above ``tmp_path`` no mode may change: what backs up there at the same time would see it."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_file_of_someone_else_says_why(open_to_all: Path) -> None:
    path = open_to_all / "p.json"
    path.write_text(json.dumps(LEAST))
    path.chmod(0)
    program = (
        "import os; os.getuid() or os.setuid(65534)\n"
        "from %s import Policy\n"
        "try: Policy.from_file(%r, default_host='h')\n"
        "except Exception as error: print(error)"
    )
    output = subprocess.run([sys.executable, "-c", program % (Policy.__module__, str(path))], check=True, capture_output=True, text=True).stdout
    assert "cannot be read: Permission denied" in output


def test_a_number_that_is_too_large_is_told_how_large_it_may_be() -> None:
    with pytest.raises(PolicyError) as raised:
        made(guards={"min_files": 10**13})
    assert raised.value.allowed == "a whole number from 0 to 1000000000000"


def test_what_acts_only_over_a_network_is_named_for_a_directory_and_not_for_a_vault() -> None:
    transfer = {"compress": "zlibx", "compress_level": 9, "block_size": "4k", "sockopts": "TCP_NODELAY", "bwlimit": "1m", "checksum": "md5", "streams": 4}
    here = made(transfer=transfer, target="/v")
    assert here.without_effect() == ["transfer.compress", "transfer.compress_level", "transfer.block_size", "transfer.sockopts"]
    assert made(transfer={**transfer, "bwlimit": ""}, target="/v").without_effect() == [
        *["transfer.compress", "transfer.compress_level", "transfer.checksum", "transfer.block_size", "transfer.streams", "transfer.sockopts"]
    ], "without a limit rsync has no part in it"
    assert made(transfer={"timeout": 5}, target="/v").without_effect() == ["transfer.timeout"]
    assert made(transfer=transfer, target="ssh://vault/v").without_effect() == ["transfer.sockopts"], "rsync has no socket of its own there"
    assert made(transfer={"compress": "zstd", "compress_level": 3, "block_size": "auto", "sockopts": ""}, target="/v").without_effect() == []


# ---- properties ---------------------------------------------------------------------------------------------------

NAMES = st.from_regex("[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=8).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
DURATIONS = st.integers(0, LONGEST).map(format_duration)
COUNTS = st.integers(0, 10000)
COMMANDS = st.lists(PARTS, min_size=1, max_size=3)
HOOKS = st.lists(
    COMMANDS | st.fixed_dictionaries({"command": COMMANDS}, optional={"timeout": st.integers(1, LONGEST).map(format_duration), "essential": st.booleans()}),
    max_size=2,
)
TIMEOUTS = st.integers(1, LONGEST).map(format_duration)
PROBES = st.lists(
    COMMANDS
    | st.fixed_dictionaries({"command": COMMANDS}, optional={"timeout": TIMEOUTS, "as_root": st.booleans(), "control": st.booleans(), "expect": PARTS})
    | st.fixed_dictionaries({"sqlite": st.just("*.db")}, optional={"timeout": TIMEOUTS, "optional": st.booleans(), "json": st.none()})
    | st.fixed_dictionaries({"exists": PATHS.map(lambda path: [path])})
    | st.fixed_dictionaries({"max_age": st.fixed_dictionaries({"pattern": st.just("/a"), "duration": DURATIONS})}),
    max_size=2,
)
TRANSFERS = st.sampled_from(sorted(COMPRESS_LEVELS)).flatmap(
    lambda compress: st.fixed_dictionaries(
        {"compress": st.just(compress)},
        optional={
            "compress_level": st.integers(*COMPRESS_LEVELS[compress][:2]),
            "bwlimit": st.sampled_from(["", "1k", "512K", "10m", "999g"]),
            "block_size": st.sampled_from(["auto", "512", "1k", "128k", "131072"]),
            "streams": st.integers(1, 16),
            "timeout": st.integers(1, 86400),
            "sockopts": st.sampled_from(["", "TCP_NODELAY", "SO_SNDBUF=1,SO_RCVBUF=2"]),
        },
    )
)
POLICIES = st.fixed_dictionaries(
    {"name": NAMES, "sources": PATHS.map(lambda path: [path]), "target": PATHS | st.just("s3://bucket/x") | PATHS.map(lambda url: {"url": url})},
    optional={
        "host": NAMES,
        "profile": st.sampled_from([None, *PROFILES]),
        "exclude_caches": st.booleans(),
        "sqlite": st.sampled_from(["auto", "off"]),
        "guards": st.fixed_dictionaries(
            {}, optional={"require": PATHS.map(lambda path: [path]), "min_files": COUNTS, "max_delete_percent": st.integers(0, 100)}
        ),
        "hooks": st.fixed_dictionaries({}, optional={"before": HOOKS, "after": HOOKS, "on_failure": HOOKS}),
        "transfer": TRANSFERS,
        "schedule": st.fixed_dictionaries({}, optional={"splay": st.integers(0, 86400), "watch": st.booleans(), "window": st.just("22:00-06:00")}),
        "retention": st.fixed_dictionaries({}, optional={"keep_last": COUNTS, "keep_within": DURATIONS, "protect": DURATIONS}),
        "objectives": st.fixed_dictionaries({}, optional={"rpo": DURATIONS, "rto": DURATIONS, "drill_every": DURATIONS}),
        "probes": PROBES,
        "heartbeat": DURATIONS,
    },
)


@settings(max_examples=50)
@given(POLICIES)
def test_a_policy_survives_being_written_and_read(data: Dict[str, Any]) -> None:
    policy = Policy.from_mapping(data, default_host="node1")
    mapping = policy.to_mapping()
    again = Policy.from_mapping(json.loads(json.dumps(mapping)), default_host="other")
    assert again == policy
    assert again.to_mapping() == mapping


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.sampled_from(sorted(FULL)), st.data())
def test_whatever_stands_under_a_key_is_taken_or_a_policy_error(name: str, data: st.DataObject) -> None:
    value: Any = data.draw(ANYTHING)
    if isinstance(FULL[name], dict) and data.draw(st.booleans()):
        value = {data.draw(st.sampled_from(sorted(FULL[name]))): value}
    try:
        policy = made(**{name: value})
    except PolicyError as error:
        assert error.field and error.field.split(".")[0].split("[")[0] == name
        json.dumps(error.to_dict())
        assert str(error).isprintable()
    else:
        assert Policy.from_mapping(policy.to_mapping(), default_host="x") == policy


# ---- rsync agrees -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        *("--bwlimit=" + rate for rate in ("1k", "1K", "512k", "10m", "999999m", "999g")),
        *("--block-size=" + size for size in ("512", "1k", "128k", "131072")),
        "--timeout=86400",
    ],
)
def test_what_the_policy_takes_rsync_takes(tmp_path: Path, option: str) -> None:
    name, value = option[2:].split("=")
    checked = {"timeout": int(value)} if name == "timeout" else {name.replace("-", "_"): value}
    assert made(transfer=checked)
    rsync = shutil.which("rsync")
    if rsync is None:
        pytest.skip("rsync is not installed")
    (tmp_path / "from").mkdir()
    subprocess.run([rsync, "-r", option, "--", "%s/" % (tmp_path / "from"), "%s/" % (tmp_path / "to")], check=True, stdin=subprocess.DEVNULL)
