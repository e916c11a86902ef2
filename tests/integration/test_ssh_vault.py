# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault on another machine, over a real sshd: the same promises as next door."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from .sshd import Away, needs_sshd
from .trees import fill
from .world import AS_ROOT, STORAGES, assert_same

pytestmark = [needs_sshd, pytest.mark.lab]


@pytest.fixture(params=STORAGES)
def away(request: pytest.FixtureRequest) -> Iterator[Away]:
    made = Away.over(request.param)
    yield made
    made.destroy()


def test_a_tree_goes_over_and_comes_back(away: Away, tmp_path: Path) -> None:
    fill(away.src, as_root=AS_ROOT)
    first = away.backup()
    assert first.changed and first.files_sent
    back = tmp_path / "back"
    away.restore(dest=back)
    assert_same(away.restored(back), away.src)
