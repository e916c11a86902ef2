# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an anomaly is: the numbers, and nothing that everyday work does."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import random
import zlib
from typing import Any, Dict, List, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent.keeper import Limits
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import FILE, Entry
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Anomaly
from ansible_collections.openclaw.backup.plugins.module_utils.target.anomaly import HEAD, LEAST, SAMPLED, judge, looks_encrypted
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Receipt, Thresholds

HEADER = Header("h", "p", ("/",), {}, "0", "2026-11-20T09:15:00.000Z")
WORDS = b"the quick brown fox jumps over the lazy dog and back again to where it came from".split()
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"


def prose(seed: int, size: int = 2000) -> bytes:
    chosen = random.Random(seed)
    return b" ".join(chosen.choice(WORDS) for _word in range(size // 4))[:size]


def noise(seed: int, size: int = 2000) -> bytes:
    return random.Random(seed).randbytes(size)


def photo(seed: int) -> bytes:
    return JPEG + noise(seed)


Tree = Dict[str, bytes]


def seen(before: Tree, after: Tree, **percents: int) -> Optional[str]:
    """What is said of a tree that became another one."""

    def manifest(tree: Tree) -> Manifest:
        return Manifest.from_entries(
            HEADER, [Entry(os.fsencode(path), FILE, 0o644, 0, 0, 5, len(data), hashlib.sha256(data).hexdigest()) for path, data in tree.items()]
        )

    def receipt(tree: Tree) -> Receipt:
        plain: Dict[str, Any] = {field.name: 0 if field.type == "int" else "" for field in dataclasses.fields(Receipt)}
        return Receipt(**{**plain, "files": len(tree), "bytes": sum(map(len, tree.values()))})

    def look(old: Entry, new: Entry) -> Optional[bool]:
        looks.append((old.path, new.path))
        return looks_encrypted(before[os.fsdecode(old.path)][:HEAD], after[os.fsdecode(new.path)][:HEAD])

    looks.clear()
    return judge(Thresholds(**percents), receipt(before), manifest(before), receipt(after), manifest(after), look)


looks: List[Tuple[bytes, bytes]] = []
TEXTS = {"d/%03d.txt" % number: prose(number) for number in range(60)}
ENCRYPTED = {path: noise(number) for number, path in enumerate(TEXTS)}


def test_the_defaults_of_policy_vault_and_target_agree() -> None:
    limits = Limits()
    assert Thresholds(**vars(Anomaly())) == Thresholds(*(getattr(limits, name) for name in Thresholds._fields)) == Thresholds()


def test_the_stricter_of_two_thresholds_is_the_one_that_is_reached_sooner() -> None:
    assert Thresholds(50, 0, 30, 0).strictest(Thresholds(20, 80, 0, 0)) == Thresholds(20, 80, 30, 0)
    assert Thresholds().strictest(Thresholds(0, 0, 0, 0)) == Thresholds(), "nobody switches off what another one wants"


EVERYDAY = {
    "an upgrade": (TEXTS, {**{path: prose(1000 + number, 9000) for number, path in enumerate(TEXTS)}, **{"new/%d" % n: noise(n) for n in range(400)}}),
    "nothing": (TEXTS, TEXTS),
    "a rename of everything": (TEXTS, {"other/" + path: data for path, data in TEXTS.items()}),
    "logs that are compressed": (
        {**TEXTS, **{"log/%02d.log.1" % number: prose(number, 5000) for number in range(30)}},
        {**TEXTS, **{"log/%02d.log.1.gz" % number: gzip.compress(prose(number, 5000)) for number in range(30)}},
    ),
    "photos that are edited": ({str(n): photo(n) for n in range(60)}, {str(n): photo(100 + n) for n in range(60)}),
    "downloads that fill up": ({str(n): bytes(5000) for n in range(60)}, {str(n): noise(n, 5000) for n in range(60)}),
    "placeholders that get their content": ({str(n): b"oid sha256:%d\n" % n for n in range(60)}, {str(n): noise(n) for n in range(60)}),
    "a small source": ({str(n): prose(n) for n in range(19)}, {str(n): noise(n) for n in range(19)}),
    "tiny files": ({str(n): prose(n, LEAST - 1) for n in range(60)}, {str(n): noise(n, LEAST - 1) for n in range(60)}),
    "encoded text": (TEXTS, {path: noise(n).hex().encode() for n, path in enumerate(TEXTS)}),
    "less than half": (TEXTS, {**TEXTS, **dict(list(ENCRYPTED.items())[:25]), **{path: prose(500 + n) for n, path in enumerate(list(TEXTS)[25:55])}}),
    "a third that is gone": (TEXTS, dict(list(TEXTS.items())[20:])),
    "new files": ({}, ENCRYPTED),
}


@pytest.mark.parametrize("what", EVERYDAY)
def test_everyday_work_is_none(what: str) -> None:
    assert seen(*EVERYDAY[what]) is None


STRANGE = {
    "encrypted in place": (TEXTS, ENCRYPTED, "of 60 files with other content 60 were looked at, and 60 of these seem encrypted or wiped"),
    "encrypted in part": (TEXTS, {path: noise(n, HEAD) + data[HEAD:] for n, (path, data) in enumerate(TEXTS.items())}, "60 of these"),
    "encrypted photos": ({str(n): photo(n) for n in range(60)}, {str(n): noise(n) for n in range(60)}, "60 of these"),
    "wiped": (TEXTS, {path: bytes(2000) for path in TEXTS}, "60 of these"),
    "few of many": (
        {**TEXTS, **{"x/%d" % n: prose(n) for n in range(1000)}},
        {**TEXTS, **{"x/%d" % n: prose(n) for n in range(1000)}, **dict(list(ENCRYPTED.items())[:30])},
        "30 of these",
    ),
    "renamed": (
        {**TEXTS, **{"x/%d" % n: prose(n) for n in range(1000)}},
        {**{path + ".locked": data for path, data in ENCRYPTED.items()}, **{"x/%d" % n: prose(n) for n in range(1000)}},
        "60 of these",
    ),
    "gone": (TEXTS, dict(list(TEXTS.items())[30:]), "the content of 30 of 60 files was removed"),
    "emptied": (TEXTS, dict.fromkeys(TEXTS, b""), "the content of 60 of 60 files was removed"),
    "half": (TEXTS, {**{path: prose(500 + n) for n, path in enumerate(TEXTS)}, **dict(list(ENCRYPTED.items())[::2])}, "30 of these"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_nobody_does_by_everyday_work_is_told_with_numbers(what: str) -> None:
    before, after, said = STRANGE[what]
    told = seen(before, after)
    assert told is not None and said in told and ";" not in told


@pytest.mark.parametrize(
    ("percents", "said"),
    [
        ({"encrypted_percent": 0}, None),
        ({"encrypted_percent": 0, "changed_percent": 100}, "the content of 60 of 60 files was replaced"),
        ({"encrypted_percent": 100, "changed_percent": 1}, "; of 60 files"),
    ],
)
def test_every_threshold_can_be_set(percents: Dict[str, int], said: Optional[str]) -> None:
    told = seen(TEXTS, ENCRYPTED, **percents)
    assert told is None if said is None else told is not None and said in told


def test_what_is_gone_is_switched_off_by_0() -> None:
    assert seen(TEXTS, {}, removed_percent=0) is None and seen(TEXTS, {}) is not None


def test_growth_is_told_of_where_somebody_asks_for_it() -> None:
    large = {**TEXTS, "large": bytes(70 << 20)}
    assert seen(TEXTS, large) is None
    told = seen(TEXTS, large, growth_percent=300)
    assert told is not None and "the content grew from 117.2 KiB to 70.1 MiB" in told
    assert seen({**TEXTS, "other": bytes(60 << 20)}, {**large, "other": bytes(60 << 20)}, growth_percent=300) is None
    assert seen(TEXTS, {**TEXTS, "small": bytes(60 << 20)}, growth_percent=300) is None, "which fills no vault"


def test_the_cost_is_bounded_and_the_sample_is_spread_evenly() -> None:
    before = {"%05d" % number: prose(number, 300) for number in range(5000)}
    after = {path: noise(number, 300) for number, path in enumerate(before)}
    told = seen(before, after)
    assert told is not None and "of 5000 files with other content 64 were looked at, and 64" in told
    numbers = [int(old) for old, _new in looks]
    assert len(numbers) == SAMPLED and max(b - a for a, b in zip(numbers, numbers[1:])) <= 5000 // SAMPLED + 1
    assert numbers[0] == 0 and numbers[-1] > 4900
    seen(before, {**before, "00000": b"x"})
    assert not looks, "nothing is read where too little has changed"


def test_what_cannot_be_read_does_not_count() -> None:
    assert looks_encrypted(b"", noise(1)) is None
    assert looks_encrypted(prose(1), noise(1)) is True
    assert looks_encrypted(prose(1), prose(2)) is False
    assert looks_encrypted(photo(1), photo(2)) is False
    assert looks_encrypted(prose(1), zlib.compress(noise(1))) is True, "nothing is taken for something else because of how it begins"
