# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where snapshots go: the ``target`` key, a path or URL or a mapping with options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, Mapping, Optional, Tuple, Union

from ..errors import PolicyError
from .checks import bad, check_argv, check_path, check_text, choice, closest, dotted, each, key, optional, read, required

Layout = Union[str, Tuple[Tuple[str, str], ...]]  # a layout for all, or (path, layout) pairs

ALLOWED = "/path, file:///path, pack:///path, ssh://[user@]host[:port]/path or s3://bucket[/prefix]"

# A directory of this machine, and the layout of what it keeps.
_PACK = "pack"
_LAYOUTS = ("tree", "pack", "mirror")
_SCHEMES = ("file", _PACK, "ssh", "s3")
_SCHEME = re.compile("([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# No name may start with '-': the ssh client would read it as an option.
_AUTHORITY = re.compile("(?:([A-Za-z0-9_][A-Za-z0-9._-]*)@)?([A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9A-Fa-f:.]+\\])(?::([0-9]{1,5}))?")
_BUCKET = re.compile("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ENDPOINT = re.compile("https?://([A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
_REGION = re.compile("[A-Za-z0-9][A-Za-z0-9-]*")
_SECRET = re.compile("(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/]*:[^/]*@")  # a ':' before an '@', both before the path


def _check_layout(value: Any, where: str) -> Layout:
    if not isinstance(value, Mapping):
        name: str = choice(*_LAYOUTS)(value, where)
        return name
    if not value:
        raise PolicyError(
            "%s must not be empty" % where, field=where, found="an empty mapping", allowed="{path: layout}", next="name a path, or write one layout for all"
        )
    return tuple(sorted((check_path(name, where), choice("pack", "mirror")(layout, dotted(where, str(name)))) for name, layout in value.items()))


def _write_layout(layout: Layout) -> Union[str, Dict[str, str]]:
    return layout if isinstance(layout, str) else dict(layout)


def _check_endpoint(value: Any, where: str) -> str:
    allowed = "https://host[:port]"
    if not isinstance(value, str) or not _ENDPOINT.fullmatch(value):
        shown = masked(value) if isinstance(value, str) else value
        raise bad(where, "must be the address of an S3 service", shown, allowed, "write " + allowed + "; credentials go into credentials_file")
    return value


def _check_region(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _REGION.fullmatch(value):
        raise bad(where, "must be the name of a region", value, "letters, digits and '-'", "write a name such as eu-central-1 or auto")
    return value


def _check_url(value: Any, where: str) -> str:
    check_text(masked(value) if isinstance(value, str) else value, where)
    return str(value)


@dataclass(frozen=True)
class TargetSpec:
    """A checked target: the keys of the policy, and the parts of ``url``.

    ``scheme`` is ``file`` (also of ``pack://``), ``ssh`` or ``s3``. ``path`` is absolute; for ``s3`` it is the prefix, without slashes at its ends and
    perhaps empty. ``host`` is the SSH host (IPv6 without brackets) or the bucket.
    """

    scheme: str
    path: str
    url: str = field(metadata=required(_check_url))
    user: Optional[str] = None
    host: Optional[str] = None
    port: Optional[int] = None
    layout: Layout = key(_check_layout, "tree", _write_layout)
    storage: Optional[str] = key(optional(choice("native", "portable")), None)
    clone: str = key(choice("auto", "hardlink", "reflink", "btrfs"), "auto")
    identity_file: Optional[str] = key(optional(check_path), None)
    known_hosts_file: Optional[str] = key(optional(check_path), None)
    endpoint: Optional[str] = key(optional(_check_endpoint), None)
    region: Optional[str] = key(optional(_check_region), None)
    credentials_file: Optional[str] = key(optional(check_path), None)
    key_file: Optional[str] = key(optional(check_path), None)
    key_command: Optional[Tuple[str, ...]] = key(optional(check_argv), None)
    old_key_files: Tuple[str, ...] = key(each(check_path, "paths"), ())

    @property
    def layouts(self) -> FrozenSet[str]:
        """The layouts that it has: where paths are given some, packs hold everything."""
        return frozenset((self.layout,)) if isinstance(self.layout, str) else frozenset(layout for _path, layout in self.layout) | {"pack"}


def check_target(value: Any, where: str) -> TargetSpec:
    """The target of a path, a URL or a mapping with ``url`` and options.

    Raises PolicyError: a relative path, an unknown scheme, a secret inside the URL, an unknown option, or one that this kind
    of target does not have. A secret never appears in the error.
    """
    if isinstance(value, str):
        values: Dict[str, Any] = {"url": _check_url(value, where)}
        parts = _parse_url(value, where)
    elif isinstance(value, Mapping):
        values = read(TargetSpec, value, where)
        parts = _parse_url(values["url"], dotted(where, "url"))
    else:
        raise bad(where, "must be a path, a URL or a mapping", value, ALLOWED + ", or {url: ..., options}", "write the path of a directory, such as /srv/vault")
    bucket = parts["scheme"] == "s3"
    sealed_by_name = values["url"].startswith("pack://") and not bucket
    values.setdefault("layout", "pack" if bucket or sealed_by_name else "tree")
    spec = TargetSpec(**parts, **values)
    if bucket and spec.layout == "tree":
        raise bad(dotted(where, "layout"), "must not be tree for a bucket", "tree", "pack, mirror or {path: pack or mirror}", "write pack: it keeps versions")
    if not bucket and not isinstance(spec.layout, str):
        raise bad(dotted(where, "layout"), "must be one layout for all paths", dict(spec.layout), "tree, pack or mirror", "write tree")
    if sealed_by_name and spec.layout != "pack":
        raise bad(dotted(where, "layout"), "must be pack for pack://", spec.layout, "pack", "leave it out, or write file:// for plain files")
    address = _ENDPOINT.fullmatch(spec.endpoint.rstrip("/")) if spec.endpoint is not None else None
    if address is not None and (address.group(3) or "").endswith("/%s" % spec.host):
        # As consoles show it: requests would look for the bucket in the bucket.
        hint = "write " + address.group()[: -len("/%s" % spec.host)]
        raise bad(dotted(where, "endpoint"), "must not name the bucket, which url does", spec.endpoint, "https://host[:port]", hint)
    for name in ("endpoint", "region", "credentials_file"):
        if not bucket and getattr(spec, name) is not None:
            raise _without_meaning(where, name, spec, "a bucket (s3://)")
    for name in ("identity_file", "known_hosts_file"):
        if spec.scheme != "ssh" and getattr(spec, name) is not None:
            raise _without_meaning(where, name, spec, "a vault on another machine (ssh://)")
    for name, default in (("storage", None), ("clone", "auto")):
        if spec.layout != "tree" and getattr(spec, name) != default:
            raise _without_meaning(where, name, spec, "layout tree")
    for name in ("key_file", "key_command", "old_key_files"):
        if "pack" not in spec.layouts and getattr(spec, name):
            raise _without_meaning(where, name, spec, "layout pack")
    if spec.key_file is not None and spec.key_command is not None:
        raise bad(dotted(where, "key_command"), "must not stand beside key_file", spec.key_command, "one of key_file and key_command", "remove one of them")
    if spec.old_key_files and spec.key_file is None and spec.key_command is None:
        complaint = "must stand beside the key that took their place"
        raise bad(dotted(where, "old_key_files"), complaint, list(spec.old_key_files), "beside key_file or key_command", "name the new key as target.key_file")
    return spec


def _without_meaning(where: str, name: str, spec: TargetSpec, home: str) -> PolicyError:
    return bad(dotted(where, name), "means nothing for this target", getattr(spec, name), "only for " + home, "remove it")


def _parse_url(url: str, where: str) -> Dict[str, Any]:
    """The ``scheme``, ``path``, ``user``, ``host`` and ``port`` of a target."""
    if url.startswith("/"):
        return {"scheme": "file", "path": check_path(url, where)}
    shown = masked(url)
    if _SECRET.match(url):
        raise bad(where, "must not hold a secret", shown, ALLOWED, "use an SSH key, or credentials_file for a bucket: a policy holds no secrets")
    match = _SCHEME.fullmatch(url)
    if match is None:
        remote = re.fullmatch("([^/:]+):(/.*)", shown)
        hint = "write the whole path, starting with '/'"
        if remote is not None:
            name, path = remote.groups()
            meant = name + "://" + path[name in ("ssh", "s3") :] if name in _SCHEMES else "ssh://" + name + path
            hint = "write " + meant
        raise bad(where, "must be an absolute path or a URL", shown, ALLOWED, hint)
    scheme, rest = match.groups()
    if scheme not in _SCHEMES:
        near = closest(scheme, _SCHEMES)
        raise bad(where, "has an unknown scheme '%s'" % scheme, shown, ALLOWED, "did you mean %s://" % near if near else "write one of the allowed forms")
    if re.search("[\\s%?#\\\\]|[^\\x20-\\U0010ffff]", rest):
        raise bad(where, "holds a character that has a meaning of its own in URLs", shown, ALLOWED + ", without blanks, %, ?, # and \\", "choose another path")
    authority, slash, tail = rest.partition("/")
    if scheme in ("file", _PACK):
        if authority:
            hint = "write ssh://%s/%s for another machine, %s:///%s for this one" % (authority, tail, scheme, tail)
            raise bad(where, "must not name a host", shown, ALLOWED, hint)
        return {"scheme": "file", "path": check_path(slash + tail, where)}
    if scheme == "s3":
        if not _BUCKET.fullmatch(authority) or ".." in authority:
            raise bad(where, "must name a bucket", shown, ALLOWED, "write s3:// and the bucket's name: 3 to 63 lower-case letters, digits, '-' and '.'")
        short = "/".join(part for part in tail.split("/") if part)
        if tail != short:
            raise bad(where, "must be written in its shortest form", shown, ALLOWED, "write s3://" + "/".join(filter(None, (authority, short))))
        return {"scheme": scheme, "host": authority, "path": check_path(slash + tail, where).lstrip("/") if tail else ""}
    names = _AUTHORITY.fullmatch(authority)
    port = int(names.group(3)) if names and names.group(3) else None
    if names is None or port == 0 or (port or 0) > 65535:
        raise bad(where, "must name a host", shown, ALLOWED, "write ssh://, the host's name and a port from 1 to 65535 if it is not 22")
    if not slash:
        raise bad(where, "must name a path", shown, ALLOWED, "write %s/ for the directory that the vault assigns" % shown)
    return {"scheme": scheme, "user": names.group(1), "host": names.group(2).strip("[]"), "port": port, "path": check_path(slash + tail, where)}


def masked(url: str) -> str:
    """The URL fit to be shown: what may be a secret is replaced, and rather too much of it than too little."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    if "@" in rest.partition(":")[2]:
        rest = "***@" + rest.rpartition("@")[2]
    place, question, _query = rest.partition("?")
    return scheme + mark + place + (question and "?***")
