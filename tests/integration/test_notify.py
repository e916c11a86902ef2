# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""People hear of trouble when it begins, while it lasts, and when it is over; and no secret gets out on the way."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action import notify as room
from ansible_collections.openclaw.backup.plugins.module_utils.action.notify import decide
from ansible_collections.openclaw.backup.plugins.module_utils.agent.__main__ import main

from .world import World, error_of


class Service:
    """A web server on loopback that keeps what it is told."""

    def __init__(self) -> None:
        self.heard: List[Tuple[str, bytes]] = []
        self.code = 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.heard.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(service.code)
                self.end_headers()

            def log_message(self, *_words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def file(self, path: Path, name: str = "/secret-token") -> str:
        path.write_text("http://127.0.0.1:%d%s\n" % (self.server.server_address[1], name))
        path.chmod(0o600)
        return str(path)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def fail(world: World, **notify: Any) -> List[str]:
    """A run that fails; its warnings."""
    (world.src / "a").unlink(missing_ok=True)
    error_of(lambda: world.backup(policy=world.policy(notify=notify, guards={"require": ["/nonexistent/file"]})))
    return []


def succeed(world: World, **notify: Any) -> List[str]:
    return world.backup(policy=world.policy(notify=notify)).warnings


def test_a_webhook_hears_of_the_beginning_and_of_the_end(portable: World, service: Service) -> None:
    wishes = {"webhook_file": service.file(portable.root / "url")}
    (portable.src / "b").write_text("b")
    assert succeed(portable, **wishes) == []
    assert service.heard == []
    for _time in range(3):
        fail(portable, **wishes)
    assert len(service.heard) == 1
    path, body = service.heard[0]
    told = json.loads(body)
    assert path == "/secret-token"
    assert (told["event"], told["host"], told["policy"], told["rc"]) == ("failed", "h", "p", 4)
    assert "/nonexistent/file" in told["message"]
    assert succeed(portable, **wishes) == []
    assert succeed(portable, **wishes) == []
    assert [json.loads(body)["event"] for _path, body in service.heard] == ["failed", "recovered"]


def test_trouble_that_lasts_is_told_of_again_after_a_while() -> None:
    assert decide("failed", True, None, 1000.0, 100) == ("failed", 1000.0)
    assert decide("failed", True, 950.0, 1000.0, 100) == (None, 950.0)
    assert decide("failed", True, 900.0, 1000.0, 100) == ("failed", 1000.0)
    assert decide("failed", True, 2000.0, 1000.0, 100) == ("failed", 1000.0)  # the clock was set back
    assert decide("failed", False, 900.0, 1000.0, 100) == ("recovered", None)
    assert decide("failed", False, None, 1000.0, 100) == (None, None)


def test_a_way_that_is_shut_is_a_warning_without_the_address_and_is_tried_again(portable: World, service: Service) -> None:
    (portable.src / "b").write_text("b")
    wishes = {"webhook_file": service.file(portable.root / "url")}
    service.code = 500
    fail(portable, **wishes)
    service.code = 200
    fail(portable, **wishes)
    fail(portable, **wishes)
    assert len(service.heard) == 2
    (portable.root / "url").write_text("http://127.0.0.1:1/secret-token\n")
    for ping in ({}, {"ping_file": str(portable.root / "url")}, {"ping_file": str(portable.root / "nowhere")}):
        warnings = succeed(portable, **wishes, **ping)
        assert warnings and "secret-token" not in "".join(warnings)


def test_a_service_that_misses_runs_is_pinged_after_each(portable: World, service: Service) -> None:
    (portable.src / "b").write_text("b")
    wishes = {"ping_file": service.file(portable.root / "url", "/ping/uuid")}
    assert succeed(portable, **wishes) == []
    assert succeed(portable, **wishes) == []
    fail(portable, **wishes)
    assert [path for path, _body in service.heard] == ["/ping/uuid", "/ping/uuid", "/ping/uuid/fail"]
    assert b"/nonexistent/file" in service.heard[-1][1]


def test_a_command_gets_the_message_and_no_shell(portable: World, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    program = tmp_path / "tell me"
    program.write_text('#!/bin/sh\ncat >"$1"\nenv >>"$1"\n')
    program.chmod(0o755)
    (portable.src / "b").write_text("b")
    succeed(portable)
    fail(portable, command=[str(program), str(heard)])
    first, *environment = heard.read_text().splitlines()
    assert json.loads(first)["event"] == "failed"
    assert "OPENCLAW_BACKUP_EVENT=failed" in environment
    assert "OPENCLAW_BACKUP_HOST=h" in environment
    broken = succeed(portable, command=["/nonexistent/program"])
    assert broken and "notify.command" in broken[0]


def test_mail_goes_through_the_machines_own_sendmail(portable: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text('#!/bin/sh\n{ echo "$@"; cat; } >"%s/mail"\n' % tmp_path)
    sendmail.chmod(0o755)
    monkeypatch.setattr(room, "STANDARD_PATH", "%s:/usr/bin:/bin" % tmp_path)
    monkeypatch.setenv("PATH", "%s:%s" % (tmp_path, os.environ["PATH"]))
    (portable.src / "b").write_text("b")
    succeed(portable)
    fail(portable, mail=["root", "admin@example.org"])
    words, mail = (tmp_path / "mail").read_text().split("\n", 1)
    assert words == "-i -- root admin@example.org"
    assert "Subject: [h] backup of p: failed" in mail
    assert "/nonexistent/file" in mail


def test_staleness_is_told_of_by_status(portable: World, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    (portable.src / "b").write_text("b")
    policy: Dict[str, Any] = {
        "name": "p",
        "host": "h",
        "sources": [str(portable.src)],
        "target": str(portable.vault),
        "notify": {"webhook_file": service.file(portable.root / "url")},
    }
    path = portable.root / "policy.json"
    path.write_text(json.dumps(policy))
    words = ["status", str(path), "--state", str(portable.state), "--notify"]
    for _time in range(2):
        assert main(words) == 3  # there is no snapshot yet
    assert [json.loads(body)["event"] for _path, body in service.heard] == ["stale"]
    assert main(["run", str(path), "--state", str(portable.state)]) == 0
    assert main(words) == 0
    assert [json.loads(body)["event"] for _path, body in service.heard] == ["stale", "recovered"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"events": ["failure"]}, "notify.events[0]"),
        ({"mail": ["-oQ/tmp"]}, "notify.mail[0]"),
        ({"mail": ["a b@c"]}, "notify.mail[0]"),
        ({"mail": "root"}, "notify.mail"),
        ({"webhook": "https://x"}, "notify.webhook"),
        ({"webhook_file": "url"}, "notify.webhook_file"),
        ({"command": "mail root"}, "notify.command"),
        ({"repeat": "often"}, "notify.repeat"),
    ],
)
def test_a_wish_that_is_none_is_named(portable: World, wishes: Dict[str, Any], field: str) -> None:
    assert error_of(lambda: portable.policy(notify=wishes)).field == field
