# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles are data: each of ours is right by its own rules, and whoever writes one is told what is wrong with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.selection import selects
from ansible_collections.openclaw.backup.plugins.module_utils.policy import profiles
from ansible_collections.openclaw.backup.plugins.module_utils.policy.checks import read, write
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Policy
from ansible_collections.openclaw.backup.plugins.module_utils.policy.profiles import PROFILES, Profile, find_profile

DOCS = Path(__file__).resolve().parents[3] / "docs" / "profiles.md"


def policy(**keys: Any) -> Policy:
    return Policy.from_mapping({"name": "p", "target": "/v", **keys}, default_host="h")


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_of_ours_passes_the_checks_for_everybody_s(name: str) -> None:
    assert Profile(**read(Profile, json.loads(json.dumps(write(PROFILES[name]))), "profile")) == PROFILES[name]
    assert "| `%s` |" % name in DOCS.read_text(), "the page lists every profile"


def test_the_example_of_the_page_is_a_profile(tmp_path: Path) -> None:
    text = re.findall("```json\n(.*?)```", DOCS.read_text(), re.S)[1]
    (tmp_path / "gitea.json").write_text(text)
    found = find_profile(str(tmp_path / "gitea.json"))
    assert found.sources == ("/var/lib/gitea", "/etc/gitea") and found.version is not None


# ---- OpenClaw's files, as its documentation and its older releases have them ---------------------------------------------------

STATE = b"home/openclaw/.openclaw"
KEPT = """
openclaw.json .env secrets.json gateway.token credentials/whatsapp/main/creds.json credentials/oauth.json credentials/onepassword/token
state/openclaw.sqlite agents/main/agent/openclaw-agent.sqlite memory/main.sqlite tasks/runs.sqlite flows/registry.sqlite plugin-
state/state.sqlite openclaw-quarantine.sqlite agents/main/agent/auth-profiles.json agents/main/agent/models.json
agents/main/sessions/sessions.json agents/main/sessions/abc.jsonl agents/main/agent/codex-home/config.toml cron/jobs.json
devices/paired.json identity/device.json exec-approvals.json settings/tts.json plugins/installs.json push/vapid-keys.json bindings/current-
conversations.json subagents/runs.json matrix/bot-storage.json skills/mail/SKILL.md hooks/on-message.js extensions/chat/index.js
policies/p.json bin/tool media/inbound/photo.jpg wiki/page.md w/x work/y transcripts/main.jsonl sandboxes/one/file browser/profile/Cookies
""".split()
LEFT_OUT = """
dev/x git/repo/y npm/lib/z npm-runtime/a tools/node/b tmp/c plugin-skills/d models/e.bin completions/f session-index/g.db logs/gateway.log
extensions/chat/node_modules/left-pad/index.js gateway.sock gateway.pid gateway.lock agents/main/sessions/abc.jsonl.lock agents/main/x.tmp
browser/profile/Default/Cache/data_0
""".split()
AGENT = "IDENTITY.md USER.md SOUL.md MEMORY.md AGENTS.md BOOT.md HEARTBEAT.md memory/2026-11-21.md assets/face.png skills/own/SKILL.md".split()
PROJECTS = "project/main.py project/yarn.lock project/.git/config notes.txt".split()
RUBBISH = "node_modules/x/y project/node_modules/x logs/run.log cache/x .cache/y".split()


def takes(name: str, path: str) -> bool:
    matcher = policy(profile=name, sources=["/" + STATE.decode()]).selection.matcher()
    return selects(matcher, [STATE], STATE + b"/" + path.encode(), False)


@pytest.mark.parametrize("name", ["openclaw", "openclaw-core"])
def test_nothing_of_an_agent_is_lost_and_nothing_is_kept_that_comes_back_by_itself(name: str) -> None:
    workspaces = ["workspace/", "workspace-writer/"]
    everything = name == "openclaw"
    assert [path for path in KEPT if not takes(name, path)] == []
    assert [path for path in LEFT_OUT if takes(name, path)] == []
    for workspace in workspaces:
        assert [path for path in AGENT if not takes(name, workspace + path)] == []
        assert [path for path in PROJECTS if takes(name, workspace + path) is not everything] == []
        assert [path for path in RUBBISH if takes(name, workspace + path)] == []


# ---- with a policy --------------------------------------------------------------------------------------------------------------


def test_what_a_policy_says_comes_on_top_of_its_profile() -> None:
    made = policy(profile="home", exclude=["*.iso", "node_modules/"], one_file_system=True)
    assert made.sources == () and made.selection.one_file_system and made.selection.exclude_caches
    assert made.selection.exclude == (*PROFILES["home"].exclude, "*.iso")
    assert policy(profile="openclaw-core", include=["/openclaw.json"]).selection.include == ("/openclaw.json",)
    assert policy(profile="etc", sources=["/opt/etc"]).sources == ("/opt/etc",)
    again = Policy.from_mapping(made.to_mapping(), default_host="other")
    assert again == made and again.selection == made.selection


@pytest.mark.parametrize(
    "keys, field, words",
    [
        ({"profile": "opneclaw"}, "profile", "did you mean 'openclaw'"),
        ({"profile": "none-such"}, "profile", "openclaw-core"),
        ({"profile": "/nowhere/own.json"}, "profile", "there is no profile /nowhere/own.json"),
        ({"profile": "../etc"}, "profile", "must be a name"),
        ({"profile": ["home"]}, "profile", "must be a name"),
        ({"profile": 5}, "profile", "the absolute path of its JSON file"),
        ({"profile": "files"}, "sources", "the profile files has none of its own"),
        ({"profile": "home", "sources": []}, "sources", "must not be empty"),
    ],
)
def test_a_profile_that_is_not_right_is_refused_with_a_way_out(keys: Dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(PolicyError) as raised:
        policy(**keys)
    assert raised.value.field == field and words in str(raised.value), str(raised.value)


@pytest.mark.parametrize(
    "content, field, words",
    [
        ("{", "profile", "not JSON"),
        ("[]", "profile", "must be a mapping"),
        ('{"source": ["/x"]}', "profile.source", "did you mean"),
        ('{"sources": ["x"]}', "profile.sources[0]", "'~/'"),
        ('{"sources": ["~nobody/x"]}', "profile.sources[0]", "write ~/NAME"),
        ('{"wholly": 1}', "profile.wholly", "see docs/profiles.md"),
        ('{"version": {"pattern": "(x)"}}', "profile.version.files", "see docs/profiles.md"),
        ('{"exclude": ["a//b"]}', "profile.exclude[0]", ""),
        ('{"exclude_if_present": ["a/b"]}', "profile.exclude_if_present[0]", "must be a file name"),
        ('{"exclude": [], "exclude": ["x"]}', "exclude", "stands twice"),
        ('{"exclude": NaN}', "profile", "NaN is not JSON"),
        ('{"version": {"files": ["/v"], "pattern": "("}}', "profile.version.pattern", "no regular expression"),
        ('{"version": {"files": ["/v"], "pattern": "x"}}', "profile.version.pattern", "0 groups"),
        ('{"version": {"files": [], "pattern": "(x)"}}', "profile.version.files", "must not be empty"),
    ],
)
def test_a_profile_s_file_that_is_not_right_is_named_with_what_is_wrong(tmp_path: Path, content: str, field: str, words: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(PolicyError) as raised:
        policy(profile=str(path), sources=["/x"])
    assert raised.value.field == field and words in str(raised.value) and str(path) in str(raised.value), str(raised.value)
    assert "policy.md" not in str(raised.value) and "is not expanded" not in str(raised.value)


def test_a_profile_of_one_s_own_stands_instead_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "DIRECTORY", str(tmp_path))
    names: List[str] = ["etc", "mine"]
    for name in names:
        (tmp_path / (name + ".json")).write_text(json.dumps({"description": "mine", "sources": ["/opt"]}))
        assert find_profile(name).description == "mine"
    with pytest.raises(PolicyError, match="mine"):
        find_profile("min")
