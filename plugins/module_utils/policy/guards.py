# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guards: what must hold before anything is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence

from ..errors import RefusedError, counted, printable
from .model import Guards

FEW = 20  # below so many entries a share says little, unless everything is gone
NAMED = 5  # paths that an error lists


@dataclass(frozen=True)
class Removal:
    """What the new manifest lacks, counted in entries of the baseline.

    ``removed`` are still selected and gone for good, ``deselected`` are no longer selected, ``baseline`` is all of them.
    """

    removed: int
    deselected: int
    baseline: int


class _Trip(NamedTuple):
    field: str
    complaint: str
    found: str
    allowed: str


def check_guards(
    guards: Guards,
    *,
    files: int,
    missing_required: Sequence[str],
    missing_sources: Sequence[str],
    removal: Removal,
    digest: str,
    accepted: Optional[str],
) -> None:
    """Return if a manifest of ``files`` files may be published; ``digest`` (hex) stands for what is lost.

    ``accepted`` is what the user gave as ``--accept``: the first 8 digits of the digest he was shown override ``min_files`` and
    both percentages, never a missing source or required path. It is looked at only if there is something to override, so
    that repeating an accepted run is harmless.

    Raises RefusedError of kind ``guard``; ``field`` names the guard, or ``accept``.
    """
    if missing_sources:
        hint = "mount or restore it, or take it out of the policy"
        if any(set("*?[").intersection(source) for source in missing_sources):
            hint += "; the sources of a policy are paths and no patterns (those of a profile may hold * and ?)"
        raise _missing("sources", "source", missing_sources, hint)
    if missing_required:
        raise _missing("guards.require", "required path", missing_required, "mount or restore it, or take it out of guards.require")
    trips = _trips(guards, files, removal)
    shown = digest[:8]
    if not trips or accepted == shown:
        return
    complaints = "; ".join(trip.complaint for trip in trips)
    if accepted is not None:
        raise RefusedError(
            "--accept %s was given for another loss, this one is %s: %s" % (printable(accepted), shown, complaints),
            kind="guard",
            field="accept",
            found=accepted,
            allowed=shown,
            next="look at the change again (--dry-run); if it is meant, run with --accept " + shown,
        )
    raise RefusedError(
        "nothing was published: " + complaints,
        kind="guard",
        field=trips[0].field,
        found=trips[0].found,
        allowed=trips[0].allowed if len(trips) == 1 else "; ".join("%s: %s" % (trip.field, trip.allowed) for trip in trips),
        next="look at the change (--dry-run); if it is meant, run again with --accept " + shown,
    )


def _trips(guards: Guards, files: int, removal: Removal) -> List[_Trip]:
    trips = []
    if files < guards.min_files:
        complaint = "%s, fewer than guards.min_files" % counted(files, "file")
        trips.append(_Trip("guards.min_files", complaint, str(files), "at least %d" % guards.min_files))
    # Counted against what is still selected: a new exclude must not hide what is gone from the rest.
    selected = removal.baseline - removal.deselected
    if _exceeds(removal.removed, selected, guards.max_delete_percent):
        found = _share(removal.removed, selected)
        trips.append(_Trip("guards.max_delete_percent", "%s entries are gone" % found, found, "at most %d%%" % guards.max_delete_percent))
    if _exceeds(removal.deselected, removal.baseline, guards.max_deselect_percent):
        found = _share(removal.deselected, removal.baseline)
        trips.append(_Trip("guards.max_deselect_percent", "%s entries are no longer selected" % found, found, "at most %d%%" % guards.max_deselect_percent))
    return trips


def _exceeds(part: int, whole: int, percent: int) -> bool:
    return part > 0 and (part >= FEW or part >= whole) and part * 100 > whole * percent


def _share(part: int, whole: int) -> str:
    return "%.4g%% (%d of %d)" % (100.0 * part / max(whole, 1), part, whole)


def _missing(field: str, noun: str, names: Sequence[str], hint: str) -> RefusedError:
    shown = ", ".join(printable(name) for name in names[:NAMED])
    if len(names) > NAMED:
        shown += " and %d more" % (len(names) - NAMED)
    return RefusedError("missing %s %s" % (noun, shown), kind="guard", field=field, found=shown, allowed="every %s present" % noun, next=hint)
