# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send with rsync until it has run to its end: a process that died is started again, and goes on where it was."""

from __future__ import annotations

from typing import Callable, Optional, Sequence, Tuple

from ..errors import BackupError
from .exitcode import DONE, PARTIAL, RETRY, classify, explain, worst
from .plan import Item
from .rsync import Options, probe
from .streams import send

# How often rsync is started for one transfer while it keeps dying.
ATTEMPTS = 3
FULL = "vault_full"
_FAREWELLS = ("rsync error: ", "rsync: connection unexpectedly closed", "rsync: [sender] write error: Broken pipe")


def send_persistently(
    items: Sequence[Item],
    *,
    source_root: bytes,
    destination: bytes,
    options: Options,
    resume: bool = False,
    basis: bytes = b"",
    shell: Sequence[bytes] = (),
    hold: Sequence[int] = (),
    tell: Optional[Callable[[int, int], None]] = None,
) -> Tuple[int, Tuple[str, ...]]:
    """(Bytes on the wire, messages of rsync); which files arrived is for the receiver to say. Arguments as for ``streams.send``.

    ``tell(files, bytes)`` hears a few times a second what was added since. ``BackupError`` of kind ``transfer`` where rsync could not come to its
    end, ``vault_full`` where the receiver has no room.
    """
    capabilities = probe()
    wire = 0
    # Through a shell the connection is gone with what ran in it.
    for _attempt in range(1 if shell else ATTEMPTS):
        report = send(
            items,
            source_root=source_root,
            destination=destination,
            options=options,
            capabilities=capabilities,
            resume=resume,
            basis=basis,
            shell=shell,
            hold=hold,
            on_progress=increments(tell) if tell is not None else None,
        )
        wire += report.bytes_wire
        if any("No space left" in text or "Disk quota" in text for text in report.messages):
            raise BackupError("The vault is full", kind=FULL, field="target", next="free space in the vault; nothing was published")
        code = worst(report.exit_codes)
        if classify(code).outcome in (DONE, PARTIAL):
            return wire, report.messages
        if classify(code).outcome != RETRY:
            break
        resume = True
    raise BackupError(
        "The transfer failed: %s%s" % (explain(code), ": " + _telling(report.messages) if report.messages else ""),
        kind="transfer",
        found=code,
        next="nothing was published; run again, and what has arrived is used",
    )


def _telling(messages: Sequence[str]) -> str:
    """Of what rsync and the other side said the last that says more than that it is over."""
    return next((text for text in reversed(messages) if not text.startswith(_FAREWELLS)), messages[-1])


def increments(tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """A listener for running totals that passes on what was added since the last call."""
    last = (0, 0)

    def listen(files: int, size: int) -> None:
        nonlocal last
        tell(max(0, files - last[0]), max(0, size - last[1]))
        last = (files, size)

    return listen
