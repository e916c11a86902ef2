# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The byte store in a bucket, by boto3: AWS S3, Cloudflare R2, MinIO, Ceph and what else speaks their language."""

from __future__ import annotations

import base64
import configparser
import hashlib
import io
import os
import stat
import threading
import time
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Dict, Generator, Iterator, List, Mapping, Optional, Tuple

from ...errors import BackupError, IntegrityError, TargetError, printable
from ...manifest.walk import FILE_FLAGS
from ...transfer.pace import Pace
from ..contract import Requests
from .store import PIECE, STEP, Item, Store, check_name, foreign_object, ticks

# Requests that are under way at once.
STREAMS = 4
# So often something is asked again that a server or a link in between failed at, with pauses that grow.
_ATTEMPTS = 6
_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 60
# What R2's price list calls them; AWS prices the same requests alike. All others are class B.
_CLASS_A = frozenset(
    ("PutObject", "ListObjectsV2", "ListObjects", "ListBuckets", "CopyObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
)
_FREE = frozenset(("DeleteObject", "DeleteObjects", "AbortMultipartUpload"))
# Answers that say that the keys are not right, that the clock is not, or that these keys may not do that.
_BAD_KEYS = frozenset(
    (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "AuthorizationHeaderMalformed",
        "InvalidClientTokenId",
    )
)
_OVER = frozenset(("ExpiredToken", "TokenRefreshRequired"))
_BAD_CLOCK = frozenset(("RequestTimeTooSkewed", "RequestExpired"))
_DENIED = frozenset(
    ("AccessDenied", "AllAccessDisabled", "AccountProblem", "MethodNotAllowed", "Forbidden", "403", "405", "ObjectLocked", "InvalidObjectState")
)
_ALTERED = frozenset(("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"))
_FULL = frozenset(("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity", "507"))
_TAKEN = frozenset(("PreconditionFailed", "412"))
_CONDITIONS = frozenset(("If-None-Match", "If-Match"))
_NOTHING_WRITTEN = "nothing was published"


def load_library() -> Any:
    """The module boto3. ``TargetError`` (kind ``library``) where it is not installed."""
    try:
        import boto3
    except ImportError as error:
        raise TargetError(
            "Buckets need a Python library, and %s is not installed here" % (error.name or "boto3"),
            kind="library",
            field="target.url",
            found=error.name,
            allowed="python3-boto3",
            next="install it: apt-get install python3-boto3 python3-cryptography python3-zstandard",
        ) from error
    return boto3


class S3Store(Store):
    """Objects below ``prefix`` (may be empty) of ``bucket``. Nothing is asked before the first verb.

    ``endpoint``: the service's URL, None for AWS; ``credentials_file``: in the AWS format, None for the usual AWS chain; ``known``: name and bytes of an
    object that may be written again at any time as it is: with it a service is asked whether it can tell who was first.
    """

    lists_freely = False
    streams = STREAMS

    def __init__(
        self,
        bucket: str,
        prefix: str,
        known: Tuple[str, bytes],
        *,
        endpoint: Optional[str] = None,
        region: Optional[str] = None,
        credentials_file: Optional[str] = None,
    ) -> None:
        self.url = "s3://" + "/".join(filter(None, (bucket, prefix)))
        self._bucket = bucket
        self._prefix = prefix + "/" if prefix else ""
        self._known = known
        self._endpoint = endpoint
        self._region = region
        self._credentials_file = credentials_file
        self._made: Any = None
        self._lock = threading.Lock()
        self._local = threading.local()
        self._conditional: Optional[bool] = None
        self._confirms = False  # the service says which SHA-256 it found
        self._ahead: Optional[float] = None  # its clock, less ours that only goes forward
        self._requests = self._reported = Requests(0, 0, 0, 0, 0)
        self._made_by = 0

    @property
    def requests(self) -> Requests:
        return self._requests

    @property
    def immutable(self) -> Optional[bool]:
        """By Object Lock with a default retention. Services with locks of another kind (R2) do not tell of them here."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except ClientError as error:
            self._hear(error.response)
            return False if _code(error) == "ObjectLockConfigurationNotFoundError" else None
        except BotoCoreError:
            return None
        self._hear(answer)
        return bool(answer.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention"))

    # ---- the client ----------------------------------------------------------------------------------------------------------

    def report(self) -> Any:
        with self._lock:
            asked, self._reported = Requests(*(now - before for now, before in zip(self._requests, self._reported))), self._requests
            return asked, self._ahead, self._confirms

    def hear(self, report: Any) -> None:
        asked, self._ahead, self._confirms = report
        self._add(asked)

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._made is None or self._made_by != os.getpid():  # a connection belongs to one process
                self._made = self._connect()
                self._made_by = os.getpid()
                self._reported = self._requests
            return self._made

    def _connect(self) -> Any:
        boto3 = load_library()
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        options: Dict[str, Any] = {
            "signature_version": "s3v4",
            "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
            "connect_timeout": _CONNECT_TIMEOUT,
            "read_timeout": _READ_TIMEOUT,
            "max_pool_connections": 2 * STREAMS,
            # Names of buckets are no names of hosts at other services. What is sent is signed: its SHA-256 is part of the request.
            "s3": {"addressing_style": "path" if self._endpoint else "auto", "payload_signing_enabled": True},
        }
        try:
            # Newer ones add checksums of their own, which some services do not know; ours goes along with each upload.
            config = Config(**options, request_checksum_calculation="when_required", response_checksum_validation="when_required")
        except TypeError:
            config = Config(**options)
        try:
            session = boto3.session.Session()
            region = self._region or (("auto" if self._endpoint else session.region_name) or "us-east-1")
            client = session.client("s3", endpoint_url=self._endpoint, region_name=region, config=config, **self._credentials())
        except (BotoCoreError, ValueError) as error:
            raise self._explain(error) from error
        client.meta.events.register("before-call.s3.PutObject", self._add_headers)
        client.meta.events.register("before-send.s3", self._count)
        client.meta.events.register_first("needs-retry.s3", self._refuse_redirection)
        return client

    def _credentials(self) -> Dict[str, str]:
        path = self._credentials_file
        if path is None:
            return {}
        parser = configparser.RawConfigParser()
        try:
            fd = os.open(path, FILE_FLAGS)
            with open(fd, encoding="utf-8") as stream:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise _bad_credentials("The credentials file %s is not a regular file" % printable(path), path)
                if found.st_mode & 0o077:
                    raise _bad_credentials(
                        "The credentials file %s is open to others: mode %04o" % (printable(path), stat.S_IMODE(found.st_mode)),
                        path,
                        "chmod 600 it; who could read it meanwhile may have a copy",
                    )
                parser.read_string(stream.read())
        except OSError as error:
            raise _bad_credentials("The credentials file %s cannot be read: %s" % (printable(path), error.strerror), path) from error
        except (configparser.Error, UnicodeDecodeError):
            # What the parser complains of would be repeated with it, and may be the secret.
            raise _bad_credentials("The credentials file %s is not in the AWS format" % printable(path), path) from None
        profile = os.environ.get("AWS_PROFILE") or "default"
        section = parser[profile] if parser.has_section(profile) else {}
        names = {"aws_access_key_id": "aws_access_key_id", "aws_secret_access_key": "aws_secret_access_key"}
        values = {name: section.get(key, "") for name, key in names.items()}
        if not all(values.values()):
            raise _bad_credentials("The credentials file %s has no keys in its profile %s" % (printable(path), printable(profile)), path)
        if section.get("aws_session_token"):
            values["aws_session_token"] = section["aws_session_token"]
        return values

    def _add_headers(self, params: Dict[str, Any], **_rest: Any) -> None:
        # As headers, because the distributions' boto3 knows neither condition nor checksum as a parameter.
        params["headers"].update(getattr(self._local, "headers", {}))

    def _refuse_redirection(self, response: Any = None, **_rest: Any) -> None:
        """Only AWS sends on to another region; of any other who does so botocore would ask for the region again and again."""
        answer = response[0] if response is not None else None
        if answer is not None and 300 < answer.status_code < 304 and "x-amz-bucket-region" not in answer.headers:
            raise self._no_s3("it sends on to %s (HTTP status %d)" % (printable(answer.headers.get("location", "nowhere"))[:200], answer.status_code))

    def _count(self, request: Any, event_name: str, **_rest: Any) -> None:
        verb = event_name.rpartition(".")[2]
        body = request.body if isinstance(request.body, (bytes, bytearray)) else b""
        size = len(body) or int(request.headers.get("Content-Length") or 0)
        self._add(Requests(int(verb in _CLASS_A), int(verb not in _CLASS_A and verb not in _FREE), int(verb in _FREE), size, 0))
        if self.sending is not None and size:
            request.body = _Paced(io.BytesIO(body) if body else request.body, self.sending)  # by now it is signed

    def _add(self, more: Requests) -> None:
        with self._lock:
            self._requests = Requests(*map(sum, zip(self._requests, more)))

    def _key(self, name: str) -> str:
        check_name(name)
        return self._prefix + name

    def _hear(self, answer: Mapping[str, Any]) -> Mapping[str, str]:
        """Learn from an answer what time it is there; its headers."""
        headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        try:
            self._ahead = parsedate_to_datetime(headers["date"]).timestamp() - ticks()
        except (KeyError, TypeError, ValueError):
            if self._ahead is None:
                self._ahead = time.time() - ticks()
        return headers

    # ---- the verbs -----------------------------------------------------------------------------------------------------------

    @property
    def is_conditional(self) -> bool:  # type: ignore[override]
        if self._conditional is None:
            name, data = self._known
            checksum = hashlib.sha256(data).digest()
            # It may not have been there: only who is told that it is can rely on being told.
            self._conditional = not self.put(name, data, checksum, only_if_absent=True) or not self.put(name, data, checksum, only_if_absent=True)
        return self._conditional

    def get(self, name: str, start: int = 0, length: Optional[int] = None) -> Optional[bytes]:
        if length == 0:
            return b""
        part: Dict[str, str] = {}
        if start or length is not None:
            part["Range"] = "bytes=%d-%s" % (start, start + length - 1 if length is not None else "")
        answer = self._ask(name, part)
        return answer[0] if answer is not None else None

    def _ask(self, name: str, part: Mapping[str, str]) -> Optional[Tuple[bytes, Mapping[str, str]]]:
        """The bytes of an object, or a part of them, and the headers that came along."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._explained():
                    return self._get(self._key(name), part)
            except _CutError as error:
                if attempt == _ATTEMPTS - 1:
                    raise self._unreachable(str(error)) from error
                time.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    def pieces(self, name: str, start: int, length: int) -> Generator[bytes, None, None]:
        at, end, tries = start, start + length, _ATTEMPTS
        while at < end:
            before = at
            try:
                with self._explained():
                    answer = self._open(self._key(name), {"Range": "bytes=%d-%d" % (at, end - 1)})
                    if answer is None:
                        return
                    with closing(answer[0]) as body:
                        for data in _received(body, self.receiving):
                            at += len(data)
                            self._add(Requests(0, 0, 0, 0, len(data)))
                            yield data
                return
            except _CutError as error:
                tries = _ATTEMPTS if at > before else tries - 1
                if not tries:
                    raise self._unreachable(str(error)) from error
                time.sleep(_pause(_ATTEMPTS - tries))

    def _get(self, key: str, part: Mapping[str, str]) -> Optional[Tuple[bytes, Mapping[str, str]]]:
        answer = self._open(key, part)
        if answer is None:
            return None
        body, headers = answer
        with _uncut():
            data: bytes = body.read() if self.receiving is None else b"".join(_received(body, self.receiving))
        expected = headers.get("content-length")
        if expected is not None and int(expected) != len(data):
            raise _CutError("an answer was cut short")
        self._add(Requests(0, 0, 0, 0, len(data)))
        return data, headers

    def _open(self, key: str, part: Mapping[str, str]) -> Optional[Tuple[Any, Mapping[str, str]]]:
        """The body of an object, or of a part of it, to be read, and the headers that came along. None where there is no object."""
        from botocore.exceptions import ClientError

        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **part)
        except ClientError as error:
            code = _code(error)
            self._hear(error.response)
            if code == "NoSuchKey":
                return None
            if code in ("InvalidRange", "416"):
                return io.BytesIO(), {}
            raise
        headers = self._hear(answer)
        if "etag" not in headers:
            raise self._no_s3("an object without an ETag")
        return answer["Body"], headers

    def put(self, name: str, data: bytes, checksum: bytes, *, only_if_absent: bool = False) -> bool:
        headers = {} if self._confirms else {"Content-MD5": _md5(data)}
        if only_if_absent:
            headers["If-None-Match"] = "*"
        return self._put(name, data, checksum, headers) is not None

    def _put(self, name: str, data: Any, checksum: bytes, more: Mapping[str, str]) -> Optional[Mapping[str, str]]:
        """Store an object of bytes, or of what an open file has; the headers of the answer. None where a condition among the headers ``more`` is not met."""
        from botocore.exceptions import ClientError

        key = self._key(name)
        digest = base64.b64encode(checksum).decode("ascii")
        headers = {**more, "x-amz-checksum-sha256": digest}
        is_conditional = not _CONDITIONS.isdisjoint(more)
        with self._explained():
            for attempt in range(_ATTEMPTS):
                self._local.headers = headers
                if not isinstance(data, bytes):
                    data.seek(0)
                try:
                    answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=data)
                    break
                except ClientError as error:
                    self._hear(error.response)
                    code = _code(error)
                    if is_conditional and code in _TAKEN:
                        return None
                    if is_conditional and code in ("NotImplemented", "501") and self._conditional is None:
                        return {}  # as it says itself, it does not know what was asked
                    if code not in ("ConditionalRequestConflict", "OperationAborted") or attempt == _ATTEMPTS - 1:
                        raise
                    time.sleep(_pause(attempt))
                finally:
                    self._local.headers = {}
        said = self._hear(answer)
        if "etag" not in said:
            raise self._no_s3("an upload without an ETag")
        confirmed = said.get("x-amz-checksum-sha256")
        if confirmed is not None and confirmed != digest:
            raise IntegrityError("%s did not arrive as it was sent" % name, kind="checksum", found=name, next="run again; " + _NOTHING_WRITTEN)
        self._confirms = confirmed is not None
        return said

    def list(self, prefix: str) -> List[Item]:
        found: List[Item] = []
        for item in self._contents(prefix):
            name = item["Key"][len(self._prefix) :]
            try:
                check_name(name)
            except BackupError as error:
                raise foreign_object(self.url + "/" + name) from error
            found.append(Item(name, item["Size"], item["LastModified"].timestamp()))
        return sorted(found)

    def _contents(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        """What the service says of each object whose name begins with ``prefix``."""
        more: Dict[str, str] = {}
        while True:
            with self._explained():
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **more)
            self._hear(answer)
            if "IsTruncated" not in answer:
                raise self._no_s3("a list that is none")
            yield from answer.get("Contents", ())
            if not answer["IsTruncated"]:
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def size(self, name: str) -> Optional[int]:
        answer = self._head(name)
        return int(answer["content-length"]) if answer is not None else None

    def _head(self, name: str) -> Optional[Mapping[str, str]]:
        """The headers of an object."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                return self._hear(self._client.head_object(Bucket=self._bucket, Key=self._key(name)))
            except ClientError as error:
                self._hear(error.response)
                if _code(error) in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise

    def delete(self, name: str) -> None:
        with self._explained():
            self._hear(self._client.delete_object(Bucket=self._bucket, Key=self._key(name)))

    def clock(self) -> float:
        """The time of its last answer, and what has passed since."""
        if self._ahead is None:
            self.size(self._known[0])
        assert self._ahead is not None
        return ticks() + self._ahead

    @property
    def skew(self) -> float:
        return 0.0 if self._ahead is None else ticks() + self._ahead - time.time()

    def tidy(self, prefix: str, before: float) -> None:
        """Nothing: an upload is one request, and is there as a whole or not at all."""

    def foreign(self) -> Optional[bytes]:
        with self._explained():
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        self._hear(answer)
        if "IsTruncated" not in answer:
            raise self._no_s3("a list that is none")
        keys = [item["Key"] for item in answer.get("Contents", ())]
        return os.fsencode(min(keys)) if keys else None

    # ---- what went wrong -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self) -> Iterator[None]:
        client = self._client  # which says for itself what is wrong with it
        del client
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> BackupError:
        from botocore.exceptions import (
            ClientError,
            CredentialRetrievalError,
            HTTPClientError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
        )
        from botocore.exceptions import (
            ConnectionError as NoConnectionError,
        )
        from botocore.parsers import ResponseParserError

        if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)):
            return _bad_credentials(
                "There are no credentials for the bucket %s" % self.url,
                self._credentials_file,
                "write access key and secret into a file of mode 0600 in the AWS format, and name it as target.credentials_file",
            )
        if isinstance(error, ResponseParserError):
            return self._no_s3("an answer that cannot be read")
        if isinstance(error, (HTTPClientError, NoConnectionError)):
            return self._unreachable("%s" % error)
        if not isinstance(error, ClientError):
            return TargetError("The bucket %s cannot be used: %s" % (self.url, printable(str(error))), field="target", found=self.url, next="check the target")
        return self._explain_answer(_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), error.operation_name)

    def _explain_answer(self, code: str, status: int, verb: str) -> BackupError:
        shown = printable(code)[:60]
        if code == "NoSuchBucket":
            return TargetError(
                "There is no bucket %s at %s" % (self._bucket, self._where()),
                kind="no_bucket",
                field="target.url",
                found=self._bucket,
                next="make the bucket, or check its name, endpoint and region; nothing was written",
            )
        if code in _BAD_KEYS:
            return _bad_credentials(
                "The credentials for %s were refused (%s)" % (self.url, shown),
                self._credentials_file,
                ("get new ones" if code in _OVER else "check key, secret, endpoint and region") + "; " + _NOTHING_WRITTEN,
            )
        if code in _BAD_CLOCK:
            return TargetError(
                "The clock of this machine and that of %s are too far apart (%s)" % (self._where(), shown),
                kind="clock",
                field="clock",
                found=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                allowed="a few minutes of difference",
                next="set this machine's clock right; " + _NOTHING_WRITTEN,
            )
        if code in _ALTERED:
            return IntegrityError(
                "%s found that an upload did not arrive as it was sent (%s)" % (self._where(), shown),
                kind="checksum",
                found=shown,
                next="run again; if this repeats, something on the way alters what is sent",
            )
        if code in _FULL:
            return BackupError(
                "The bucket %s is full" % self.url, kind="vault_full", field="target", found=self.url, next="raise its quota, or prune; " + _NOTHING_WRITTEN
            )
        if code in _DENIED or status == 403:  # locks of some services have names of their own
            return TargetError(
                "The credentials for %s may not do this: %s (%s)" % (self.url, verb, shown),
                kind="denied",
                field="target",
                found=verb,
                allowed="credentials that may read, list and write objects, and delete them for a prune and where the service knows no conditional writes",
                next="check what the token or user may do, and the bucket's locks; " + _NOTHING_WRITTEN,
            )
        if status >= 500 or code in ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "TooManyRequests", "429"):
            return TargetError(
                "The bucket %s cannot be used now: %s answers %s" % (self.url, self._where(), shown),
                kind="unreachable",
                field="target",
                found=self._where(),
                next="wait until the service works again; " + _NOTHING_WRITTEN + ", the next run goes on",
            )
        if code.isdigit() or not code or code == "Unknown":
            return self._no_s3("HTTP status %s" % (status or shown))
        return TargetError("%s refuses %s: %s" % (self._where(), verb, shown), field="target", found=shown, next="check the target; " + _NOTHING_WRITTEN)

    def _where(self) -> str:
        return self._endpoint or "AWS"

    def _unreachable(self, reason: str) -> TargetError:
        return TargetError(
            "The bucket %s cannot be reached: %s" % (self.url, printable(reason)),
            kind="unreachable",
            field="target",
            found=self._where(),
            next="check the network and target.endpoint; " + _NOTHING_WRITTEN + ", the next run goes on",
        )

    def _no_s3(self, what: str) -> TargetError:
        return TargetError(
            "%s does not answer as an S3 service does: %s" % (self._where(), what),
            kind="no_s3",
            field="target.endpoint",
            found=self._where(),
            allowed="the address of an S3 service, without the bucket",
            next="check target.endpoint; nothing was written",
        )


class _Paced:
    """The body of an upload, a file, which is read no faster than ``pace`` lets it be."""

    def __init__(self, body: Any, pace: Pace) -> None:
        self._body = body
        self._pace = pace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._body.read(STEP if size < 0 else min(size, STEP))
        self._pace(len(data))
        return data


def _received(body: Any, pace: Optional[Pace]) -> Iterator[bytes]:
    """What a download brings, read no faster than ``pace`` lets it be: so the other side sends no faster."""
    while True:
        with _uncut():
            data = body.read(PIECE if pace is None else STEP)
        if not data:
            return
        if pace is not None:
            pace(len(data))
        yield data


@contextmanager
def _uncut() -> Iterator[None]:
    """An answer that ends too soon in here is a ``_CutError``."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    try:
        yield
    except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, HTTPClientError, OSError) as error:
        raise _CutError("an answer was cut short: %s" % type(error).__name__) from error


class _CutError(Exception):
    """An answer that ended too soon."""


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _pause(attempt: int) -> float:
    return float(min(8.0, 0.1 * 2**attempt))


def _md5(data: bytes) -> str:
    make: Callable[..., Any] = hashlib.md5
    return base64.b64encode(make(data, usedforsecurity=False).digest()).decode("ascii")


def _bad_credentials(
    message: str, found: Optional[str], advice: str = "write aws_access_key_id and aws_secret_access_key below [default] into a file of mode 0600"
) -> TargetError:
    return TargetError(message, kind="credentials", field="target.credentials_file", found=found, allowed="a file in the AWS format", next=advice)
