# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Targets: three kinds of place, one spelling each, no secrets, no options that mean nothing."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import PolicyError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.target_spec import TargetSpec, check_target
from hypothesis import given
from hypothesis import strategies as st

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("/srv/vault", {"scheme": "file", "path": "/srv/vault", "layout": "tree"}),
        ("/", {"scheme": "file", "path": "/"}),
        ("/srv/a b%?#:x@y", {"scheme": "file", "path": "/srv/a b%?#:x@y"}),
        ("/srv/\udcff", {"scheme": "file", "path": "/srv/\udcff"}),
        ("file:///srv/vault", {"scheme": "file", "path": "/srv/vault", "host": None}),
        ("pack:///srv/sealed", {"scheme": "file", "path": "/srv/sealed", "layout": "pack"}),
        ({"url": "pack:///srv/sealed", "key_file": "/k"}, {"layout": "pack", "key_file": "/k"}),
        ("ssh://vault1/", {"scheme": "ssh", "host": "vault1", "user": None, "port": None, "path": "/"}),
        ("ssh://user@vault:22/", {"scheme": "ssh", "host": "vault", "user": "user", "port": 22, "path": "/"}),
        ("ssh://backup@vault1.example.org:2222/srv/v@:x", {"user": "backup", "port": 2222, "path": "/srv/v@:x"}),
        ("ssh://b@[2001:db8::1]:22/srv", {"host": "2001:db8::1", "port": 22, "user": "b"}),
        ("s3://bucket", {"scheme": "s3", "host": "bucket", "path": "", "layout": "pack"}),
        ("s3://bucket/", {"scheme": "s3", "host": "bucket", "path": ""}),
        ("s3://my-bucket.x/a/b", {"scheme": "s3", "host": "my-bucket.x", "path": "a/b"}),
        ({"url": "/srv/vault", "layout": "tree", "storage": "portable"}, {"path": "/srv/vault", "storage": "portable"}),
        ({"url": "/srv/vault", "storage": None, "endpoint": None, "key_command": None}, {"storage": None, "key_command": None}),
        ({"url": "/srv/vault", "layout": "pack", "key_file": "/etc/key"}, {"layout": "pack", "key_file": "/etc/key"}),
        ({"url": "s3://bucket", "key_command": ["pass", "show", "key"]}, {"layout": "pack", "key_command": ("pass", "show", "key")}),
        ({"url": "s3://bucket", "layout": {"/b": "pack", "/a": "mirror"}}, {"layout": (("/a", "mirror"), ("/b", "pack"))}),
        ({"url": "s3://bucket", "layout": {"/a": "mirror"}, "key_file": "/key"}, {"layouts": {"mirror", "pack"}}),
        ({"url": "s3://bucket", "layout": {"/a": "pack"}}, {"layouts": {"pack"}}),
        (
            {"url": "s3://bucket", "endpoint": "https://s3.example.org:9000", "region": "auto", "credentials_file": "/etc/aws"},
            {"endpoint": "https://s3.example.org:9000", "region": "auto", "credentials_file": "/etc/aws"},
        ),
        ({"url": "s3://minio", "endpoint": "http://minio"}, {"endpoint": "http://minio"}),
        ({"url": "s3://bucket", "endpoint": "https://x.example.org/storage/s3"}, {"endpoint": "https://x.example.org/storage/s3"}),
    ],
)
def test_a_target_is_taken_apart(value: Any, parts: Dict[str, Any]) -> None:
    spec = check_target(value, "target")
    assert isinstance(spec, TargetSpec)
    assert spec.url == (value if isinstance(value, str) else value["url"])
    assert {name: getattr(spec, name) for name in parts} == parts


@pytest.mark.parametrize(
    ("value", "field", "complaint", "hint"),
    [
        ("vault", "target", "absolute path or a URL", "starting with '/'"),
        ("", "target", "absolute path or a URL", "starting with '/'"),
        ("./vault", "target", "absolute path or a URL", "starting with '/'"),
        ("/srv/vault/", "target", "shortest form", "write /srv/vault"),
        ("/srv//vault", "target", "shortest form", "write /srv/vault"),
        ("/srv/../vault", "target", "'..'", "without '..'"),
        ("/srv\0", "target", "no name can hold", "remove"),
        ("user@vault:/srv", "target", "absolute path or a URL", "write ssh://user@vault/srv"),
        ("rsync://vault/srv", "target", "unknown scheme 'rsync'", "allowed forms"),
        ("SSH://vault/srv", "target", "unknown scheme 'SSH'", "did you mean ssh://"),
        ("sssh://vault/srv", "target", "unknown scheme 'sssh'", "did you mean ssh://"),
        ("file://vault/srv", "target", "must not name a host", "ssh://vault/srv"),
        ("file:///srv/a%20b", "target", "meaning of its own", "another path"),
        ("ssh://vault/a b", "target", "meaning of its own", "another path"),
        ("ssh://vault/a\nb", "target", "meaning of its own", "another path"),
        ("ssh://vault", "target", "must name a path", "write ssh://vault/"),
        ("ssh:///srv", "target", "must name a host", "port"),
        ("ssh://-oProxyCommand=x/srv", "target", "must name a host", "port"),
        ("ssh://-l@vault/srv", "target", "must name a host", "port"),
        ("ssh://vault:0/", "target", "must name a host", "1 to 65535"),
        ("ssh://vault:65536/", "target", "must name a host", "1 to 65535"),
        ("ssh://vault:ssh/", "target", "must name a host", "1 to 65535"),
        ("ssh://vault/srv/", "target", "shortest form", "write /srv"),
        ("ssh://vault/../srv", "target", "'..'", "without '..'"),
        ("s3://", "target", "must name a bucket", "3 to 63"),
        ("s3://Bucket/x", "target", "must name a bucket", "lower-case"),
        ("s3://b/x", "target", "must name a bucket", "3 to 63"),
        ("s3://bucket//x", "target", "shortest form", "write s3://bucket/x"),
        ("s3://bucket/x/", "target", "shortest form", "write s3://bucket/x"),
        ("s3:/bucket/x", "target", "absolute path or a URL", "write s3://bucket/x"),
        ("pack:/srv", "target", "absolute path or a URL", "write pack:///srv"),
        ("vault:/srv", "target", "absolute path or a URL", "write ssh://vault/srv"),
        ("s3://bucket/x?versionId=1", "target", "meaning of its own", "another path"),
        (5, "target", "a path, a URL or a mapping", "/srv/vault"),
        (None, "target", "found null", "/srv/vault"),
        (["/srv"], "target", "found a list", "/srv/vault"),
        ({}, "target.url", "missing", "add the key 'url'"),
        ({"url": 5}, "target.url", "must be text", "quotes"),
        ({"url": "vault"}, "target.url", "absolute path or a URL", "starting with '/'"),
        ({"url": "/v", "layot": "tree"}, "target.layot", "not a key", "did you mean 'target.layout'"),
        ({"url": "/v", "password": PASSWORD}, "target.password", "not a key", "remove it"),
        ({"url": "/v", "layout": "Tree"}, "target.layout", "one of tree, pack, mirror", "did you mean 'tree'"),
        ({"url": "/v", "layout": None}, "target.layout", "found null", "one of them"),
        ({"url": "/v", "layout": {"/a": "pack"}}, "target.layout", "one layout for all", "write tree"),
        ({"url": "s3://bucket", "layout": "tree"}, "target.layout", "not be tree", "write pack"),
        ({"url": "pack:///v", "layout": "tree"}, "target.layout", "must be pack", "file://"),
        ("pack://v/x", "target", "not name a host", "pack:///x"),
        ("pak:///v", "target", "unknown scheme 'pak'", "did you mean pack://"),
        ({"url": "s3://bucket", "layout": {}}, "target.layout", "not be empty", "name a path"),
        ({"url": "s3://bucket", "layout": {"a": "pack"}}, "target.layout", "absolute path", "starting with '/'"),
        ({"url": "s3://bucket", "layout": {"/a": "tree"}}, "target.layout./a", "one of pack, mirror", "one of them"),
        ({"url": "/v", "storage": "fast"}, "target.storage", "one of native, portable", "one of them"),
        ({"url": "/v", "layout": "pack", "storage": "native"}, "target.storage", "means nothing", "remove it"),
        ({"url": "/v", "clone": "btfrs"}, "target.clone", "one of auto, hardlink, reflink, btrfs", "did you mean 'btrfs'"),
        ({"url": "s3://bucket", "clone": "reflink"}, "target.clone", "means nothing", "remove it"),
        ({"url": "/v", "endpoint": "https://x"}, "target.endpoint", "means nothing", "remove it"),
        ({"url": "ssh://v/", "region": "auto"}, "target.region", "means nothing", "remove it"),
        ({"url": "/v", "credentials_file": "/c"}, "target.credentials_file", "means nothing", "remove it"),
        ({"url": "/v", "key_file": "/k"}, "target.key_file", "means nothing", "remove it"),
        ({"url": "s3://bucket", "layout": "mirror", "key_command": ["k"]}, "target.key_command", "means nothing", "remove it"),
        ({"url": "s3://bucket", "key_file": "/k", "key_command": ["k"]}, "target.key_command", "beside key_file", "remove one"),
        ({"url": "s3://bucket", "key_file": "k"}, "target.key_file", "absolute path", "starting with '/'"),
        ({"url": "s3://bucket", "key_command": "pass show k"}, "target.key_command", "list of arguments", "no shell"),
        ({"url": "s3://bucket", "key_command": []}, "target.key_command", "not be empty", "add arguments"),
        ({"url": "s3://bucket", "key_command": [""]}, "target.key_command[0]", "name a program", "program first"),
        ({"url": "s3://bucket", "endpoint": "s3.example.org"}, "target.endpoint", "address of an S3 service", "https://"),
        ({"url": "s3://bucket", "endpoint": "https://x.example.org/bucket/"}, "target.endpoint", "not name the bucket", "write https://x.example.org"),
        ({"url": "s3://bucket", "region": "-x"}, "target.region", "name of a region", "eu-central-1"),
        ({"url": "s3://bucket", "region": 1}, "target.region", "name of a region", "eu-central-1"),
    ],
)
def test_a_bad_target_is_refused_with_the_way_out(value: Any, field: str, complaint: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_target(value, "target")
    error = caught.value
    assert error.field == field
    assert complaint in error.message
    assert hint in (error.next or "")
    assert error.allowed
    assert error.found is not None
    assert PASSWORD not in str(error) + repr(error.to_dict())


@pytest.mark.parametrize(
    "value",
    [
        "ssh://u:hunter2@vault/srv",
        "ssh://:hunter2@vault/srv",
        "ssh://u:hun/hunter2@vault/srv",
        "ssh://u@x:hunter2@vault/srv",
        "s3://KEY:hunter2@bucket/x",
        "s3://KEY:a/hunter2@bucket/x",
        "s3://bucket/x?token=hunter2",
        "https://u:hunter2@vault/",
        "u:hunter2@vault:/srv",
        "ssh://u:hunter2\0@vault/srv",
        {"url": "ssh://u:hunter2@vault/srv"},
        {"url": "s3://bucket", "endpoint": "https://u:hunter2@s3.example.org"},
        {"url": "s3://bucket", "endpoint": "https://s3.example.org/?key=hunter2"},
    ],
)
def test_a_password_in_a_url_is_refused_and_never_repeated(value: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        check_target(value, "target")
    assert PASSWORD not in str(caught.value) + repr(caught.value.to_dict())


@given(st.sampled_from(["", "/", "ssh://", "s3://", "file://"]), st.text(max_size=20))
def test_any_text_is_a_target_or_a_policy_error(scheme: str, rest: str) -> None:
    try:
        spec = check_target(scheme + rest, "target")
    except PolicyError as error:
        assert error.next
    else:
        assert spec.scheme in ("file", "ssh", "s3")
        assert check_target({"url": spec.url, "layout": spec.layout}, "target") == spec
