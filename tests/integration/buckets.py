# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real S3 servers on loopback, and a proxy before them that counts requests and can spoil them."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple
from urllib.parse import parse_qs, urlsplit

import pytest

from .world import Packed, World

ACCESS, SECRET = "ACCESSKEY123", "SECRETKEY123456"
BUCKET = "a-bucket"
PREFIX = "some/prefix"


class Asked(NamedTuple):
    """A request as a server sees it: ``verb`` is list, get, head, put or delete."""

    verb: str
    key: str
    length: int


class Answer(NamedTuple):
    """What is answered instead."""

    status: int
    body: bytes = b""
    headers: Tuple[Tuple[str, str], ...] = ()
    cut: bool = False  # less is sent than the headers promise


def refusal(status: int, code: str) -> Answer:
    text = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>%s</Code><Message>no</Message></Error>" % code
    return Answer(status, text.encode("ascii"), (("Content-Type", "application/xml"),))


Spoil = Callable[[Asked, bytes], Optional[Answer]]


class Proxy(ThreadingHTTPServer):
    """Hands requests on to ``backend`` (a port here; None: there is none) and notes them; ``spoil`` may answer before, ``alter`` what is answered."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, backend: Optional[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend = backend
        self.conditional = threading.Lock()
        self.asked: List[Asked] = []
        self.spoil: Spoil = lambda asked, body: None
        self.alter_upload: Callable[[Asked, bytes], bytes] = lambda asked, body: body
        self.alter: Callable[[Asked, Answer], Answer] = lambda asked, answer: answer
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return "http://127.0.0.1:%d" % self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away as they like."""

    def classes(self) -> Tuple[int, int, int]:
        """Requests of class A, of class B, and free ones, since this was last asked."""
        asked, self.asked = self.asked, []
        dear = sum(item.verb in ("put", "list") for item in asked)
        free = sum(item.verb == "delete" for item in asked)
        return dear, len(asked) - dear - free, free

    def verbs(self) -> Dict[str, int]:
        asked, self.asked = self.asked, []
        return {verb: sum(item.verb == verb for item in asked) for verb in {item.verb for item in asked}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        verb = "list" if self.command == "GET" and {"list-type", "prefix"} & parse_qs(parts.query, keep_blank_values=True).keys() else self.command.lower()
        asked = Asked(verb, parts.path, len(body))
        self.server.asked.append(asked)
        answer = self.server.spoil(asked, body)
        if answer is None:
            # S3 looks whether there is an object and writes one in a single step; moto takes two, between which another may write.
            with self.server.conditional if {"If-Match", "If-None-Match"} & set(self.headers) else contextlib.nullcontext():
                answer = self._hand_on(self.server.alter_upload(asked, body))
        answer = self.server.alter(asked, answer)
        self.send_response_only(answer.status)
        names = {name.lower() for name, _value in answer.headers}
        for name, value in answer.headers:
            self.send_header(name, value)
        if "date" not in names:
            self.send_header("Date", self.date_time_string())
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
        if answer.cut:
            self.close_connection = True

    def _hand_on(self, body: bytes) -> Answer:
        assert self.server.backend is not None
        connection = http.client.HTTPConnection("127.0.0.1", self.server.backend, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection", "content-length"):
                    connection.putheader(name, value)
            if body or self.command == "PUT":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            found = connection.getresponse()
            data = found.read()
            kept = [(name, value) for name, value in found.getheaders() if name.lower() not in ("connection", "transfer-encoding", "keep-alive")]
            return Answer(found.status, data, tuple(kept))
        finally:
            connection.close()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(kind: str) -> Iterator[int]:
    """A server of that kind (``moto``: knows conditional writes; ``rclone``: does not); its port."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="openclaw-backup-bucket-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as home:
        place = Path(sys.executable).parent
        if kind == "moto":
            argv = [str(place / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        else:
            argv = [
                str(place / "rclone"),
                "serve",
                "s3",
                home,
                "--addr",
                "127.0.0.1:%d" % port,
                "--auth-key",
                "%s,%s" % (ACCESS, SECRET),
                "--vfs-cache-mode",
                "off",
            ]
        if not Path(argv[0]).exists():
            pytest.skip("%s is not installed" % argv[0])
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": home})
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < deadline, "the server did not start"
                    time.sleep(0.05)
            yield port
        finally:
            server.terminate()
            server.wait()


class Bucketed(Packed):
    """A world whose vault is a bucket behind a proxy."""

    proxy: Proxy
    bucket: str

    @classmethod
    def behind(cls, proxy: Proxy) -> Bucketed:
        made = World.make.__func__(cls)  # type: ignore[attr-defined]
        assert isinstance(made, Bucketed)
        made.proxy = proxy
        made.bucket = "bucket-%s" % os.urandom(4).hex()
        (made.root / "credentials").write_text("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n" % (ACCESS, SECRET))
        (made.root / "credentials").chmod(0o600)
        made.client().create_bucket(Bucket=made.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        proxy.asked.clear()
        return made

    def spec(self, **changes: Any) -> Dict[str, Any]:
        return {
            "url": "s3://%s/%s" % (self.bucket, PREFIX),
            "endpoint": self.proxy.url,
            "region": "eu-central-1",
            "credentials_file": str(self.root / "credentials"),
            "key_file": str(self.key),
            "old_key_files": self.old_keys,
            **changes,
        }

    def policy(self, **changes: Any) -> Any:
        return super().policy(**{"target": self.spec(), **changes})

    def client(self) -> Any:
        """Straight to the server."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url="http://127.0.0.1:%d" % (self.proxy.backend or 0),
            region_name="eu-central-1",
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            config=Config(s3={"addressing_style": "path"}),
        )

    def keys(self, kind: str = "") -> List[str]:
        """The names of all objects, or of those of one kind."""
        found = self.client().list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return sorted(item["Key"] for item in found if item["Key"].startswith("%s/h/p/%s" % (PREFIX, kind) if kind else ""))

    def content(self, key: str) -> bytes:
        data: bytes = self.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data

    def check_history(self, *, count: Optional[int] = None) -> None:
        found = self.snapshots()
        assert count is None or len(found) == count
        for snapshot in found:
            result = self.verify(snapshot=snapshot.id, depth="full")
            assert result.ok, result.to_dict()
