# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guards: nothing is published that lost its source or too much of itself, unless that very change was accepted."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.errors import EXIT_REFUSED, RefusedError
from ansible_collections.openclaw.backup.plugins.module_utils.policy.guards import Removal, check_guards
from ansible_collections.openclaw.backup.plugins.module_utils.policy.model import Guards
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "1a2b3c4d" + "0" * 56


ORDINARY = {
    "guards": Guards(),
    "files": 100,
    "missing_required": (),
    "missing_sources": (),
    "removal": Removal(0, 0, 100),
    "digest": DIGEST,
    "accepted": None,
}


def check(**situation: Any) -> None:
    check_guards(**{**ORDINARY, **situation})


def refused(**situation: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check(**situation)
    error = caught.value
    assert (error.kind, error.rc) == ("guard", EXIT_REFUSED)
    assert error.found is not None
    assert error.allowed
    assert error.next
    return error


@pytest.mark.parametrize(
    "situation",
    [
        {},
        {"files": 1},
        {"guards": Guards(min_files=0), "files": 0},
        {"removal": Removal(0, 0, 0)},  # a first snapshot
        {"removal": Removal(30, 0, 100)},  # 30 % exactly
        {"removal": Removal(19, 0, 20)},  # few, and not all
        {"removal": Removal(0, 50, 100)},
        {"removal": Removal(0, 19, 20)},
        {"guards": Guards(max_delete_percent=100, max_deselect_percent=100), "removal": Removal(100, 0, 100)},
        {"guards": Guards(max_delete_percent=100, max_deselect_percent=100), "removal": Removal(0, 100, 100)},
        {"guards": Guards(max_deselect_percent=100), "removal": Removal(0, 100, 100)},
    ],
)
def test_an_ordinary_change_is_published(situation: Any) -> None:
    check(**situation)


@pytest.mark.parametrize(
    ("situation", "field", "found", "allowed"),
    [
        ({"files": 0}, "guards.min_files", "0", "at least 1"),
        ({"guards": Guards(min_files=500), "files": 499}, "guards.min_files", "499", "at least 500"),
        ({"removal": Removal(31, 0, 100)}, "guards.max_delete_percent", "31% (31 of 100)", "at most 30%"),
        ({"removal": Removal(301, 0, 1000)}, "guards.max_delete_percent", "30.1% (301 of 1000)", "at most 30%"),
        ({"removal": Removal(20, 0, 21)}, "guards.max_delete_percent", "95.24% (20 of 21)", "at most 30%"),
        ({"removal": Removal(3, 0, 3)}, "guards.max_delete_percent", "100% (3 of 3)", "at most 30%"),
        ({"guards": Guards(max_delete_percent=0), "removal": Removal(20, 0, 10**6)}, "guards.max_delete_percent", "0.002% (20 of 1000000)", "at most 0%"),
        ({"removal": Removal(0, 51, 100)}, "guards.max_deselect_percent", "51% (51 of 100)", "at most 50%"),
        ({"removal": Removal(0, 2, 2)}, "guards.max_deselect_percent", "100% (2 of 2)", "at most 50%"),
    ],
)
def test_a_tripped_guard_names_itself_and_its_override(situation: Any, field: str, found: str, allowed: str) -> None:
    error = refused(**situation)
    assert (error.field, error.found, error.allowed) == (field, found, allowed)
    assert (error.next or "").endswith("--accept 1a2b3c4d")
    check(accepted="1a2b3c4d", **situation)


def test_a_new_exclude_does_not_hide_what_is_gone_from_the_rest() -> None:
    error = refused(removal=Removal(290, 490, 1000))  # 29 % of all, but 57 % of what is still selected
    assert (error.field, error.found) == ("guards.max_delete_percent", "56.86% (290 of 510)")
    assert refused(removal=Removal(5, 15, 20)).field == "guards.max_delete_percent"  # all that is still selected


def test_every_guard_that_an_accept_would_override_is_shown() -> None:
    error = refused(files=0, removal=Removal(40, 60, 100))
    assert error.field == "guards.min_files"
    for part in ("0 files", "100% (40 of 40) entries are gone", "60% (60 of 100) entries are no longer selected"):
        assert part in error.message
    assert error.allowed == "guards.min_files: at least 1; guards.max_delete_percent: at most 30%; guards.max_deselect_percent: at most 50%"


@pytest.mark.parametrize("accepted", ["deadbeef", "", "1a2b3c4", "1A2B3C4D", DIGEST, "1a2b3c4d ", "\x1b[2J"])
def test_an_accept_for_something_else_overrides_nothing_and_says_so(accepted: str) -> None:
    error = refused(files=0, accepted=accepted)
    assert (error.field, error.found, error.allowed) == ("accept", accepted, "1a2b3c4d")
    assert "another loss" in error.message
    assert "0 files" in error.message
    assert (error.next or "").endswith("--accept 1a2b3c4d")
    assert str(error).isprintable()


def test_an_accept_from_before_does_no_harm_when_there_is_nothing_to_override() -> None:
    check(accepted="deadbeef")


@pytest.mark.parametrize("accepted", [None, "1a2b3c4d"])
def test_a_missing_source_or_required_path_is_never_overridden(accepted: Optional[str]) -> None:
    error = refused(missing_sources=["/srv/\udcff\n", "/b"], missing_required=["/c"], files=0, accepted=accepted)
    assert (error.field, error.found) == ("sources", "/srv/\\xff\\n, /b")
    assert "pattern" not in str(error) and "no patterns" in str(refused(missing_sources=["/et*"]))
    assert "--accept" not in str(error)
    error = refused(missing_required=["/mnt/%d" % number for number in range(8)], files=0, accepted=accepted)
    assert error.field == "guards.require"
    assert str(error.found).endswith("/mnt/4 and 3 more")
    assert "--accept" not in str(error)


@given(st.data())
def test_the_percentages_trip_exactly_when_the_rule_says_so(data: st.DataObject) -> None:
    baseline = data.draw(st.integers(0, 200))
    deselected = data.draw(st.integers(0, baseline))
    removed = data.draw(st.integers(0, baseline - deselected))
    guards = Guards(max_delete_percent=data.draw(st.integers(0, 100)), max_deselect_percent=data.draw(st.integers(0, 100)))
    selected = baseline - deselected
    too_much = removed > 0 and (removed >= 20 or removed == selected) and removed / selected > guards.max_delete_percent / 100
    too_narrow = deselected > 0 and (deselected >= 20 or deselected == baseline) and deselected / baseline > guards.max_deselect_percent / 100
    try:
        check(guards=guards, removal=Removal(removed, deselected, baseline))
    except RefusedError as error:
        assert error.field == ("guards.max_delete_percent" if too_much else "guards.max_deselect_percent")
        assert too_much or too_narrow
    else:
        assert not too_much and not too_narrow
