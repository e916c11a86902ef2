# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the target of a policy to the object that serves it."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Callable, Dict, Optional, Sequence, Tuple, Union

from ..errors import TargetError, UsageError
from ..policy.model import Policy
from ..policy.target_spec import TargetSpec
from ..target.contract import Receipt, Snapshot, is_canary
from ..target.tree.target import TreeTarget, overlaps
from .state import HostState

if TYPE_CHECKING:
    from ..target.mirror.hybrid import HybridTarget
    from ..target.mirror.store import MirrorStore
    from ..target.mirror.target import MirrorTarget
    from ..target.pack.target import PackTarget
    from ..target.remote.target import RemoteTarget

AnyTarget = Union[TreeTarget, "RemoteTarget", "PackTarget", "MirrorTarget", "HybridTarget"]


_open: Dict[Tuple[TargetSpec, str, str], RemoteTarget] = {}


def open_target(spec: TargetSpec, host: str, policy: str, *, memory: Optional[bytes] = None, sources: Sequence[str] = ()) -> AnyTarget:
    """The target of ``policy`` of ``host``. Nothing is touched yet; asked for again, a target on another machine is the same one, with the connection
    that it has. ``memory``: a directory where may be kept what spares the next run requests that are paid for; ``sources``: the policy's, for a target
    that others wrote and that does not say what it is of. ``TargetError`` for a kind that this version does not serve."""
    if spec.layouts == {"mirror", "pack"} and spec.scheme == "s3":
        return _open_hybrid(spec, host, policy, memory, sources)
    if len(spec.layouts) == 1:
        spec = replace(spec, layout=min(spec.layouts))
    if spec.scheme in ("file", "s3") and spec.layout == "mirror":
        return _open_mirror(spec, host, policy, memory, sources)
    if spec.scheme in ("file", "s3") and spec.layout == "pack":
        return _open_pack(spec, host, policy, memory)
    if spec.layout != "tree" or spec.scheme not in ("file", "ssh"):
        raise TargetError(
            "The target %s cannot be used by this version" % spec.url,
            kind="unsupported",
            field="target",
            found="%s, layout %s" % (spec.scheme, spec.layout),
            allowed="a local directory with layout tree, pack or mirror, ssh:// with layout tree, or s3:// with layout pack or mirror",
            next="leave target.layout out, or write %s" % ("pack" if spec.scheme == "s3" else "tree"),
        )
    if spec.scheme == "file":
        return TreeTarget(spec.path, host, policy, spec.storage, spec.clone)
    if spec.path != "/":
        raise UsageError(
            "The target %s names a directory on the vault" % spec.url,
            kind="policy",
            field="target.url",
            found=spec.path,
            allowed="ssh://, the vault's name and /",
            next="leave the directory out: the vault decides it by the host's key",
        )
    found = _open.get((spec, host, policy))
    if found is None:
        from ..target.remote.connection import Address
        from ..target.remote.target import RemoteTarget

        assert spec.host is not None
        address = Address(spec.host, spec.user, spec.port, spec.identity_file, spec.known_hosts_file)
        found = _open[spec, host, policy] = RemoteTarget(spec.url, address, host, policy, spec.storage, spec.clone)
    return found


def _open_pack(spec: TargetSpec, host: str, policy: str, memory: Optional[bytes]) -> PackTarget:
    from ..target.pack.keys import ask_key, read_key
    from ..target.pack.store import DirectoryStore
    from ..target.pack.target import MARK, PackTarget

    key: Optional[Callable[[], bytes]] = None
    if spec.key_file is not None:
        key = partial(read_key, spec.key_file)
    elif spec.key_command is not None:
        key = partial(ask_key, spec.key_command)
    old_keys = [partial(read_key, path) for path in spec.old_key_files]
    if spec.scheme == "file":
        return PackTarget(DirectoryStore(spec.path), host, policy, key, old_keys)
    from ..target.pack.remembered import RememberedStore
    from ..target.pack.s3 import S3Store

    assert spec.host is not None
    bucket = S3Store(spec.host, spec.path, MARK, endpoint=spec.endpoint, region=spec.region, credentials_file=spec.credentials_file)
    return PackTarget(RememberedStore(bucket, "%s/%s/" % (host, policy), spec.endpoint, memory), host, policy, key, old_keys)


def _open_hybrid(spec: TargetSpec, host: str, policy: str, memory: Optional[bytes], sources: Sequence[str]) -> AnyTarget:
    """The history lies below a name that is none of a mirror's."""
    packs = _open_pack(replace(spec, path="/".join(filter(None, (spec.path, "history")))), host, policy, memory)
    if is_canary(policy):
        return packs
    from ..target.mirror.hybrid import HybridTarget
    from ..target.mirror.layouts import Layouts

    assert not isinstance(spec.layout, str)
    roots = ["/" + os.fsdecode(root) for root in Layouts(spec.layout).roots(sources)] if sources else []
    return HybridTarget(packs, _open_mirror(spec, host, policy, memory, roots), spec.layout, memory)


def _open_mirror(spec: TargetSpec, host: str, policy: str, memory: Optional[bytes], sources: Sequence[str]) -> MirrorTarget:
    from ..target.mirror.target import MirrorTarget

    place = "/".join(filter(None, (spec.path, policy if is_canary(policy) else "")))  # a canary stays out of the way
    store: MirrorStore
    if spec.scheme == "file":
        from ..target.mirror.store import MirrorDirectory

        store = MirrorDirectory(place)
    else:
        from ..target.mirror.s3 import MirrorBucket

        assert spec.host is not None
        store = MirrorBucket(spec.host, place, endpoint=spec.endpoint, region=spec.region, credentials_file=spec.credentials_file)
    return MirrorTarget(store, host, policy, sources, memory)


def close_targets() -> None:
    """End the connections that there are. A process that ends does so by itself."""
    while _open:
        _open.popitem()[1].close()


def name_of(policy: Policy) -> str:
    """The history of a policy, for messages."""
    return "host %s, policy %s in %s" % (policy.host, policy.name, policy.target.url)


def history_lost(policy: Policy, baseline: Receipt) -> TargetError:
    """The failure to report where a target is empty to which this host has committed: a mount that is missing looks the same."""
    return TargetError(
        "There is no history of %s, but this host committed %s to it" % (name_of(policy), baseline.id),
        kind="history_lost",
        field="target",
        found=policy.target.url,
        next="check that the vault is mounted; if its history is really gone, %s" % _instead(policy),
    )


def _instead(policy: Policy) -> str:
    anew = "start a new one with `openclaw-backup run POLICY --adopt`"
    if not policy.copies:
        return anew
    return "go on from its copy in %s, as docs/vaults.md says under `When a vault is lost`; or %s, which no copy of the old one can go on with" % (
        policy.copies[0].url,
        anew,
    )


def check_not_lost(policy: Policy, state: HostState, snapshots: Sequence[Snapshot]) -> None:
    """``TargetError`` where there are no ``snapshots`` and this host has made some: a vault that is not mounted must not look empty."""
    baseline = None if snapshots else state.baseline()
    if baseline is not None:
        raise history_lost(policy, baseline)


def check_apart(policy: Policy) -> None:
    """``UsageError`` where the vault lies inside a source or a source inside the vault: a backup must not hold itself."""
    for index, source in enumerate(policy.sources):
        if policy.target.scheme == "file" and overlaps(policy.target.path, source):
            raise UsageError(
                "The vault %s and the source %s lie inside one another" % (policy.target.path, source),
                kind="policy",
                field="sources[%d]" % index,
                found=source,
                allowed="sources outside the vault, and a vault outside the sources",
                next="name the directories below / that matter (/etc, /home, /srv, ...): every directory of this machine lies inside /"
                if source == "/"
                else "choose a vault directory elsewhere, best on another disk",
            )
