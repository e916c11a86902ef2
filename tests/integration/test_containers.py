# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples for containers are what Kubernetes and this program take, and the application of none of them can read what opens its backups."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import signal
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import yaml
from ansible_collections.openclaw.backup.plugins.module_utils.agent.arguments import parse
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy

from .loops import until

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "containers"
KINDS = {item["kind"]: item for item in yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())}
POD = KINDS["StatefulSet"]["spec"]["template"]["spec"]


def containers() -> Dict[str, Dict[str, Any]]:
    return {item["name"]: item for item in (*POD["initContainers"], *POD["containers"])}


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_kubernetes_takes_the_manifests(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    assert set(KINDS) == {"ConfigMap", "Secret", "StatefulSet"}
    for item in KINDS.values():
        validate(item, version, strict=True)


def test_the_policy_of_the_manifests_is_right_and_goes_by_no_name_that_changes() -> None:
    policy = Policy.from_mapping(json.loads(KINDS["ConfigMap"]["data"]["openclaw.json"]), default_host="a-pod-7f9c")
    assert policy.host == "openclaw" and not policy.without_effect()
    mounts = {mount["mountPath"] for mount in containers()["backup"]["volumeMounts"]}
    assert {*policy.sources, policy.target.credentials_file, policy.target.key_file} <= mounts
    keys = {mount["subPath"] for mount in containers()["backup"]["volumeMounts"] if mount["name"] == "secret"}
    assert keys == set(KINDS["Secret"]["stringData"])


def typed() -> Iterator[List[str]]:
    """Every command line of the program in the examples."""
    for container in containers().values():
        probes = [probe["exec"]["command"] for name, probe in container.items() if name.endswith("Probe")]
        yield from (command for command in (container.get("command", []), *probes) if command and command[0] == "openclaw-backup")
    for text in (EXAMPLES / "kubernetes.yaml", EXAMPLES / "entrypoint"):
        for found in re.findall(r"(?<=[{ \n])openclaw-backup (?:restore|run) [^|&,\]\n]+", text.read_text()):
            yield shlex.split("openclaw-backup " + found.partition(" ")[2])


def test_every_command_of_the_examples_can_be_typed() -> None:
    found = [parse([word.replace("$every", "60").replace("$flush", "8") for word in command[1:]]) for command in typed()]
    assert len(found) >= 7 and all(isinstance(request, Namespace) for request in found)
    loop = next(request for request in found if isinstance(request, Namespace) and request.verb == "run")
    assert int(loop.flush) + 30 <= POD["terminationGracePeriodSeconds"]


def test_no_application_can_read_what_opens_its_backups_and_none_is_root() -> None:
    for name, container in containers().items():
        volumes = {mount["name"] for mount in container["volumeMounts"]}
        rights = container["securityContext"]
        assert rights["capabilities"]["drop"] == ["ALL"] and not rights["allowPrivilegeEscalation"]
        assert ("secret" in volumes) == (name in ("restore", "backup"))
        assert name in ("restore", "backup") or (rights["runAsNonRoot"] and volumes == {"data"})
    assert all("subPath" in mount for mount in containers()["openclaw"]["volumeMounts"])  # the state lies beside
    assert not POD["automountServiceAccountToken"] and "shareProcessNamespace" not in POD


class Entrypoint:
    """The entrypoint with programs that say what they were asked for, and end as ``codes`` say."""

    def __init__(self, home: Path, *command: str, user: str = "nobody", **codes: int) -> None:
        self.log = home / "log"
        self.log.write_text("")
        programs = home / "bin"
        programs.mkdir()
        program = '#!/bin/sh\necho "$@" >>%s\ncase $1 in run) trap "echo flushed >>%s; exit %d" TERM; while :; do sleep 0.05; done;; esac\nexit %d\n'
        (programs / "openclaw-backup").write_text(program % (self.log, self.log, codes.get("run", 0), codes.get("restore", 0)))
        (programs / "setpriv").write_text('#!/bin/sh\necho "as $2 $4" >>%s\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n' % self.log)
        for path in programs.iterdir():
            path.chmod(0o755)
        environment = {"PATH": "%s:%s" % (programs, os.environ["PATH"]), "AWS_SECRET_ACCESS_KEY": "secret", "RUN_AS": user}
        self.process = subprocess.Popen([str(EXAMPLES / "entrypoint"), *command], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def said(self) -> List[str]:
        return self.log.read_text().splitlines()


RESTORE, RUN = "restore openclaw --if-needed --quiet", "run openclaw --loop 120 --flush 30"


@pytest.mark.parametrize(("restore", "run"), [(0, 0), (3, 0), (0, 6)])
def test_the_entrypoint_restores_starts_and_backs_up_once_more_after_the_application(tmp_path: Path, restore: int, run: int) -> None:
    application = 'trap "echo last words >>%s; exit 5" TERM; echo "started ${AWS_SECRET_ACCESS_KEY-clean}" >>%s; while :; do sleep 0.05; done'
    found = Entrypoint(tmp_path, "sh", "-c", application % (tmp_path / "log", tmp_path / "log"), restore=restore, run=run)
    until(lambda: {"started clean", RUN} <= set(found.said()))
    found.process.send_signal(signal.SIGTERM)
    _output, complaints = found.process.communicate(timeout=30)
    assert found.process.returncode == 5
    assert found.said()[0] == RESTORE and found.said()[-2:] == ["last words", "flushed"]
    assert "as nobody %d" % pwd.getpwnam("nobody").pw_gid in found.said()  # whose group has another name
    assert complaints == ("entrypoint: the last backup ended with exit code 6\n" if run else "")


@pytest.mark.parametrize("code", [1, 4, 6, 7])
def test_the_entrypoint_starts_nothing_after_a_restore_that_failed(tmp_path: Path, code: int) -> None:
    found = Entrypoint(tmp_path, "sh", "-c", "echo started >>%s" % (tmp_path / "log"), restore=code)
    assert found.process.wait(30) == code and found.said() == [RESTORE]


def test_the_entrypoint_begins_nothing_for_a_user_that_there_is_not(tmp_path: Path) -> None:
    found = Entrypoint(tmp_path, "true", user="nobody-of-that-name")
    assert found.process.wait(30) and found.said() == []


def test_an_application_that_ends_by_itself_ends_the_container_with_its_code(tmp_path: Path) -> None:
    found = Entrypoint(tmp_path, "sh", "-c", "sleep 0.3; exit 9")
    assert found.process.wait(30) == 9 and found.said()[-1] == "flushed"
