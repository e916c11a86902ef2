# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CI does not pass by skipping what it could not run."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"

TESTS = """
import pytest

@pytest.mark.lab
def test_needs_the_lab():
    pytest.skip("no podman")

@pytest.mark.lab
@pytest.mark.skipif(True, reason="no sshd")
def test_needs_a_server():
    pass

@pytest.mark.lab
@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False

@pytest.mark.skipif(True, reason="not root")
def test_without_the_mark():
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\nmarkers = lab\naddopts = -ra --no-fold-skipped -p no:cacheprovider")
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(TESTS)
    return pytester


def test_a_skipped_lab_test_is_only_named_on_a_developers_machine(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess()
    result.assert_outcomes(skipped=3, xfailed=1)
    result.stdout.fnmatch_lines(["SKIPPED*test_needs_the_lab*no podman"])


def test_a_skipped_lab_test_fails_ci(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1, errors=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*no podman, but CI is set*", "*no sshd, but CI is set*"], consecutive=False)


def test_a_file_that_skips_itself_fails_ci(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    project.makepyfile("import pytest\npytest.skip('no rsync', allow_module_level=True)")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    assert result.ret != 0
