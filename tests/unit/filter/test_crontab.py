# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines that cron reads as they are meant, and hosts that do not all start in one second."""

from __future__ import annotations

import pytest
from ansible_collections.openclaw.backup.plugins.filter.cron_problems import cron_problems
from ansible_collections.openclaw.backup.plugins.filter.crontab import crontab
from ansible_collections.openclaw.backup.plugins.filter.limit_problems import limit_problems

POLICY = {"name": "etc", "host": "web1", "sources": ["/etc"], "target": "/srv/vault"}
COMMAND = ["/usr/local/bin/openclaw-backup", "run", "--scheduled"]


def test_each_policy_has_a_line_with_its_own_schedule_and_one_for_the_start_of_the_host() -> None:
    now = {**POLICY, "name": "now", "schedule": {"cron": "@hourly", "splay": 0}}
    assert crontab([POLICY, now], COMMAND, directory="/etc/p") == [
        "*/5 * * * * root /usr/local/bin/openclaw-backup run --scheduled /etc/p/etc.json",
        "@reboot root /usr/local/bin/openclaw-backup run --scheduled /etc/p/etc.json",
        "@hourly root /usr/local/bin/openclaw-backup run --scheduled /etc/p/now.json",
        "@reboot root /usr/local/bin/openclaw-backup run --scheduled /etc/p/now.json",
    ]


def test_a_policy_that_is_watched_has_a_line_that_starts_that_again_if_it_died() -> None:
    watched = {**POLICY, "schedule": {"watch": True}}
    assert len(crontab([watched], COMMAND)) == 2
    lines = crontab([watched, {**POLICY, "name": "other"}], COMMAND, watch=["/usr/local/bin/openclaw-backup", "watch"])
    assert len(lines) == 5
    assert lines[2] == "*/5 * * * * root /usr/local/bin/openclaw-backup watch etc"


def test_a_policy_that_is_drilled_has_a_line_that_asks_whether_it_is_due() -> None:
    drill = ["/usr/local/bin/openclaw-backup", "drill", "--scheduled"]
    lines = crontab([POLICY, {**POLICY, "name": "other"}], COMMAND, drill=drill, drills={"other": "41 * * * *"})
    assert len(lines) == 5 and lines[4] == "41 * * * * root /usr/local/bin/openclaw-backup drill --scheduled other"


def test_what_cron_or_the_shell_would_read_otherwise_is_quoted() -> None:
    assert crontab([POLICY], ["/opt/a b/100%", "run"], user="me")[0] == r"*/5 * * * * me '/opt/a b/100\%' run etc"


def test_a_profile_that_only_the_host_knows_is_no_obstacle() -> None:
    assert len(crontab([{**POLICY, "profile": "/etc/openclaw-backup/profiles/mine.json"}], COMMAND)) == 2


def test_a_wrong_expression_or_limit_is_told_with_its_name() -> None:
    assert cron_problems("17 3 * * *", "openclaw_backup_vault_prune") == []
    (problem,) = cron_problems("17 25 * * *", "openclaw_backup_vault_prune")
    assert problem.startswith("openclaw_backup_vault_prune has a bad hour '25'")
    assert limit_problems({}) == limit_problems({"writers": 2, "reserve": 0}) == []
    assert limit_problems({"writers": 0}) == ["limits.writers is 0. Allowed: a whole number from 1 to 1099511627776."]


@pytest.mark.parametrize("limits", [{"writer": 2}, {"writers": "2"}, [], "writers=2"])
def test_limits_that_are_none_are_told_of(limits: object) -> None:
    assert len(limit_problems(limits)) == 1
