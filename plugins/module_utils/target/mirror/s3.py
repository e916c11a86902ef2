# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror's byte store in a bucket."""

from __future__ import annotations

import base64
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, List, Mapping, Optional, Tuple

from ...errors import IntegrityError
from ..pack.s3 import S3Store
from .store import ABSENT, Content, Found, MirrorStore

_NOTE = "x-amz-meta-openclaw-backup"
_MTIME = "x-amz-meta-mtime"  # rclone's, in seconds
_LATEST = 9e9  # s since the epoch; in nanoseconds what is later does not fit into 64 bits


class MirrorBucket(S3Store, MirrorStore):
    """Objects of any name below ``prefix`` of a bucket."""

    def __init__(self, bucket: str, prefix: str, **options: Any) -> None:
        super().__init__(bucket, prefix, ("", b""), **options)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def objects(self) -> List[Found]:
        return [
            Found(item["Key"][len(self._prefix) :], item["Size"], _plain(item["ETag"]), item["LastModified"].timestamp())
            for item in self._contents("")
            if not item["Key"].endswith("/")  # what consoles make for a directory
        ]

    def look(self, name: str) -> Optional[Found]:
        headers = self._head(name)
        return _found(name, headers) if headers is not None else None

    def read(self, name: str) -> Optional[Tuple[bytes, Found]]:
        answer = self._ask(name, {})
        return (answer[0], _found(name, answer[1])) if answer is not None else None

    def replace(self, name: str, content: Content, expected: str, note: str = "") -> Optional[str]:
        headers = {"Content-MD5": base64.b64encode(content.md5).decode("ascii")}
        if note:
            headers[_NOTE] = note
        condition = {"If-None-Match": "*"} if expected == ABSENT else {"If-Match": '"%s"' % expected}
        said = self._put(name, content.body, content.sha256, {**headers, **condition})
        if said == {}:  # it says that it knows no conditions
            said = self._put(name, content.body, content.sha256, headers)
        if not said:
            # A service that was asked twice, because its first answer was lost, finds what it wrote itself.
            now = self.look(name)
            return now.tag if now is not None and now.tag == content.tag and now.note == note else None
        tag = _plain(said["etag"])
        if len(tag) == len(content.tag) and "x-amz-server-side-encryption-aws-kms-key-id" not in said and tag != content.tag:
            raise IntegrityError("%s did not arrive as it was sent" % name, kind="checksum", found=name, next="run again")
        return tag


def _plain(tag: str) -> str:
    return tag.strip('"')


def _found(name: str, headers: Mapping[str, str]) -> Found:
    at = 0.0
    with suppress(KeyError, TypeError, ValueError):
        at = parsedate_to_datetime(headers["last-modified"]).timestamp()
    with suppress(KeyError, ValueError):
        said = float(headers[_MTIME])
        at = said if abs(said) < _LATEST else at  # which no NaN is
    return Found(name, int(headers.get("content-length") or 0), _plain(headers.get("etag", "")), at, headers.get(_NOTE, ""))
