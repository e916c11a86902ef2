# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an anomaly is: the numbers, and nothing that everyday work does."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import zlib
from typing import Dict, List, Optional, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent.keeper import Limits
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.document import Header, Manifest
from ansible_collections.openclaw.backup.plugins.module_utils.manifest.entry import FILE, Entry
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Anomaly
from ansible_collections.openclaw.backup.plugins.module_utils.target.anomaly import HEAD, LEAST, NAMES, SAMPLED, by_chance, judge, looks_encrypted, places_of
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Thresholds

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


def seen(before: Tree, after: Tree, *, changed_percent: int = 0, **percents: int) -> Optional[str]:
    """What is said of a tree that became another one, where everyday work replaces everything."""

    def manifest(tree: Tree) -> Manifest:
        return Manifest.from_entries(
            HEADER, [Entry(os.fsencode(path), FILE, 0o644, 0, 0, 5, len(data), hashlib.sha256(data).hexdigest()) for path, data in tree.items()]
        )

    def look(old: Entry, new: Entry) -> Optional[bool]:
        looks.append((old.path, new.path))
        places = places_of(old, new, luck.randrange)
        was, now = before[os.fsdecode(old.path)], after[os.fsdecode(new.path)]
        return looks_encrypted([was[at : at + length] for at, length in places], [now[at : at + length] for at, length in places])

    looks.clear()
    return judge(Thresholds(changed_percent=changed_percent, **percents), manifest(before), manifest(after), look, luck.randrange)


luck = random.Random(5)
looks: List[Tuple[bytes, bytes]] = []
TEXTS = {"d/%03d.txt" % number: prose(number) for number in range(60)}
ENCRYPTED = {path: noise(number) for number, path in enumerate(TEXTS)}
LARGE = {"large/%d" % number: prose(number, 40_000) for number in range(30)}


def test_the_defaults_of_policy_vault_and_target_agree() -> None:
    limits = Limits()
    assert Thresholds(**vars(Anomaly())) == Thresholds(*(getattr(limits, name) for name in Thresholds._fields)) == Thresholds()


def test_the_stricter_of_two_thresholds_is_the_one_that_is_reached_sooner() -> None:
    assert Thresholds(50, 0, 30, 0).strictest(Thresholds(20, 80, 0, 0)) == Thresholds(20, 80, 30, 0)
    assert Thresholds().strictest(Thresholds(0, 0, 0, 0)) == Thresholds(), "nobody switches off what another one wants"


def stripes(plain: bytes, seed: int, width: int = 4096) -> bytes:
    """As those write who are in a hurry: every other piece is encrypted, and the first is not."""
    noisy = noise(seed, len(plain))
    return b"".join((noisy if at // width % 2 else plain)[at : at + width] for at in range(0, len(plain), width))


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
    "documents in archives that are edited": (
        {str(n): b"PK\3\4" + noise(n, 9000) + prose(n, 500) for n in range(60)},
        {str(n): b"PK\3\4" + noise(100 + n, 9200) + prose(n, 500) for n in range(60)},
    ),
    "a picture beside each text": (TEXTS, {path: data for name, text in TEXTS.items() for path, data in ((name, text), (name + ".png", noise(len(name))))}),
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
    "gone": (TEXTS, dict(list(TEXTS.items())[31:]), "the content of 31 of 60 files was removed"),
    "emptied": (TEXTS, dict.fromkeys(TEXTS, b""), "the content of 60 of 60 files was removed"),
    "all but the first bytes": (TEXTS, {path: TEXTS[path][:16] + data[16:] for path, data in ENCRYPTED.items()}, "60 of these"),
    "all but the beginning": (LARGE, {path: data[:HEAD] + noise(n, len(data) - HEAD) for n, (path, data) in enumerate(LARGE.items())}, " of these"),
    "every other piece": (LARGE, {path: stripes(data, n) for n, (path, data) in enumerate(LARGE.items())}, " of these"),
    "zeros behind the beginning": (LARGE, {path: data[:HEAD] + bytes(len(data) - HEAD) for path, data in LARGE.items()}, " of these"),
    "as many files added before as are encrypted": (
        {**TEXTS, **{"x/%d" % n: prose(n) for n in range(60)}},
        {**{path: TEXTS[path][:2] + data[2:] for path, data in ENCRYPTED.items()}, **{"x/%d" % n: prose(n) for n in range(60)}},
        "60 of these",
    ),
    "renamed, with a decoy that comes first": (
        {**TEXTS, **{"x/%d" % n: prose(n) for n in range(1000)}},
        {
            **{path + ".locked": data for path, data in ENCRYPTED.items()},
            **{path + ".a": prose(300 + n) for n, path in enumerate(TEXTS)},
            **{"x/%d" % n: prose(n) for n in range(1000)},
        },
        "60 of these",
    ),
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
        ({"encrypted_percent": 0, "changed_percent": 100}, "the content of 60 of 60 files was removed or replaced"),
        ({"encrypted_percent": 100, "changed_percent": 1}, "; of 60 files"),
    ],
)
def test_every_threshold_can_be_set(percents: Dict[str, int], said: Optional[str]) -> None:
    told = seen(TEXTS, ENCRYPTED, **percents)
    assert told is None if said is None else told is not None and said in told


@pytest.mark.parametrize(("gone", "replaced", "is_told"), [(0, 30, False), (0, 31, True), (15, 15, False), (15, 16, True), (30, 0, False), (31, 0, True)])
def test_most_content_that_is_gone_is_told_of_unless_that_is_switched_off(gone: int, replaced: int, is_told: bool) -> None:
    paths = list(TEXTS)
    after = {**{path: TEXTS[path] for path in paths[gone:]}, **{path: prose(700 + n) for n, path in enumerate(paths[gone : gone + replaced])}}
    assert (seen(TEXTS, after, changed_percent=Thresholds().changed_percent) is not None) is is_told
    assert (seen(TEXTS, after) is not None) is (gone == 31)


def test_what_is_gone_is_switched_off_by_0() -> None:
    assert seen(TEXTS, {}, removed_percent=0) is None and seen(TEXTS, {}) is not None


def test_growth_is_told_of_where_somebody_asks_for_it() -> None:
    large = {**TEXTS, "large": bytes(70 << 20)}
    assert seen(TEXTS, large) is None
    told = seen(TEXTS, large, growth_percent=300)
    assert told is not None and "the content grew from 117.2 KiB to 70.1 MiB" in told
    assert seen({**TEXTS, "other": bytes(60 << 20)}, {**large, "other": bytes(60 << 20)}, growth_percent=300) is None
    assert seen(TEXTS, {**TEXTS, "small": bytes(60 << 20)}, growth_percent=300) is None, "which fills no vault"


def test_the_cost_is_bounded_and_nobody_foresees_what_is_looked_at() -> None:
    before = {"%05d" % number: prose(number, 300) for number in range(5000)}
    after = {path: noise(number, 300) for number, path in enumerate(before)}
    told = seen(before, after)
    assert told is not None and "of 5000 files with other content 64 were looked at, and 64" in told
    first = {old for old, _new in looks}
    assert len(looks) == len(first) == SAMPLED
    seen(before, after)
    assert len(first.intersection(old for old, _new in looks)) < SAMPLED // 4
    seen(before, {path + ".%04d" % number: after[path] for path in list(after)[:100] for number in range(20)}, removed_percent=0)
    assert len(looks) == SAMPLED * NAMES
    seen(before, {**before, "00000": b"x"})
    assert not looks, "nothing is read where too little has changed"


def test_what_cannot_be_read_does_not_count() -> None:
    assert looks_encrypted([b""], [noise(1)]) is None
    assert looks_encrypted([prose(1)], [noise(1)]) is True
    assert looks_encrypted([prose(1)], [prose(2)]) is False
    assert looks_encrypted([photo(1)], [photo(2)]) is False
    assert looks_encrypted([prose(1)], [zlib.compress(noise(1))]) is True, "nothing is taken for something else because of how it begins"
    assert looks_encrypted([prose(1), prose(2)], [prose(1)[:9] + noise(1), prose(2)]) is False, "one place says that it can be read"
    assert looks_encrypted([prose(1), prose(2), b""], [prose(1), noise(2), b""]) is True
    assert looks_encrypted([photo(1), noise(2)], [photo(2), noise(3)]) is False, "what never could be compressed tells by its beginning alone"
    assert looks_encrypted([prose(1)], [bytes(2000)]) is True


def test_places_lie_within_both_files_and_are_chosen_by_chance() -> None:
    one, other = (Entry(b"x", FILE, 0o644, 0, 0, 5, size, "0" * 64) for size in (100_000, LEAST))
    assert places_of(one, other, by_chance)[0] == (0, HEAD) and all(at == 0 for at, _length in places_of(one, other, by_chance))
    found = {at for _attempt in range(50) for at, _length in places_of(one, one, by_chance)[1:]}
    assert len(found) > 100 and max(found) <= 100_000 - LEAST and max(found) > 80_000 and min(found) < 20_000
