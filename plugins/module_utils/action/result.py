# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the results of all actions have in common."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

from ..errors import EXIT_DONE, EXIT_WARNINGS, BackupError


class Result:
    """The base of the result dataclasses, whose fields are the keys of the public result. ``duration`` is in seconds."""

    warnings: List[str]
    duration: float

    @property
    def rc(self) -> int:
        """The exit code: 0, or 3 with warnings."""
        return EXIT_WARNINGS if self.warnings else EXIT_DONE

    def to_dict(self) -> Dict[str, Any]:
        """The public result."""
        return {**self.__dict__, "rc": self.rc, "duration": round(self.duration, 3)}


class Outcome(NamedTuple):
    """What a run came to, as its record and its hooks are told; ``result`` is one of ``observe.runs.RESULTS``."""

    result: str
    rc: int
    snapshot_id: Optional[str] = None
    error: Optional[BackupError] = None
