# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell people of trouble: once when it begins, again while it lasts, and when it is over.

The ways are the policy's: a command, mail by the machine's own sendmail, a webhook, and a ping after each run for a service that misses it. Addresses
that hold secrets stand in files of their own. A way that fails is a warning of the run, and no other way waits for it long.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import printable
from ..observe.audit import rfc3339
from ..policy.model import Policy
from ..process import STANDARD_PATH
from .state import HostState

FAILED, STALE, ANOMALY, RECOVERED = "failed", "stale", "anomaly", "recovered"
_COMMAND_SECONDS = 60
_NETWORK_SECONDS = 15
_BODY_BYTES = 10_000  # what healthchecks-like services keep of a ping


class Decision(NamedTuple):
    """``event``: what to tell of, if anything; ``told``: when the trouble that lasts was told of last (s since the epoch), None where there is none."""

    event: Optional[str]
    told: Optional[float]


def decide(trouble: str, lasts: bool, told: Optional[float], now: float, repeat: int) -> Decision:
    """Whether to tell of a ``trouble`` (``failed``, ``stale`` or ``anomaly``) that ``lasts`` or not, and was ``told`` of before."""
    if not lasts:
        return Decision(RECOVERED if told is not None else None, None)
    if told is None or not 0 <= now - told < repeat:
        return Decision(trouble, now)
    return Decision(None, told)


def notify(policy: Policy, state: HostState, trouble: str, lasts: bool, facts: Mapping[str, Any], verb: str = "") -> List[str]:
    """Tell of what has begun, goes on or is over; what could not be told, for the result's warnings. ``facts`` are added to the message. ``verb``: the one
    whose trouble it is, where another verb may have the same trouble with the same target, and neither is over because the other is."""
    now = time.time()
    before = state.told()
    memory = "%s %s" % (verb, trouble) if verb else trouble
    decision = decide(trouble, lasts, before.get(memory), now, policy.notify.repeat)
    warnings: List[str] = []
    was_heard = True
    if decision.event is not None and decision.event in policy.notify.events:
        warnings, was_heard = _tell(policy, _message(policy, decision.event, trouble, facts, now))
    if was_heard and decision.told != before.get(memory):  # else the next run tries again
        try:
            state.set_told(memory, decision.told)
        except OSError as error:
            warnings.append("what was told of could not be noted down: %s" % error)
    return warnings


def notify_of_status(policy: Policy, state: HostState, found: Mapping[str, Any]) -> List[str]:
    """Tell of what ``status`` has found; what could not be told. An anomaly is trouble of its own: somebody must hear of it while a host is stale, too."""
    anomalies = found["anomalies"]
    rest = [text for text in found["problems"] if text not in anomalies]
    warnings = notify(policy, state, STALE, bool(rest), {"problems": rest, "protected_until": found["protected_until"]})
    if found["snapshots"] is not None:  # else nobody knows whether it is over
        warnings += notify(policy, state, ANOMALY, bool(anomalies), {"problems": anomalies})
    return warnings


def ping(policy: Policy, is_well: bool, text: str) -> List[str]:
    """Tell the service that misses runs that this one is over, and how; what went wrong with that."""
    if policy.notify.ping_file is None:
        return []
    try:
        url = _read_url(policy.notify.ping_file)
        _post(url if is_well else url.rstrip("/") + "/fail", text.encode("utf-8", "backslashreplace")[:_BODY_BYTES], "text/plain; charset=utf-8")
    except (OSError, ValueError) as error:
        return ["the ping of notify.ping_file failed: %s" % _reason(error)]
    return []


def obstacles(policy: Policy) -> List[str]:
    """By which of the policy's ways nobody could be told, and why, as far as can be seen without using them."""
    wishes = policy.notify
    found = []
    programs = (("command", wishes.command[0] if wishes.command else None), ("mail", "sendmail" if wishes.mail else None))
    for name, program in programs:
        if program is not None and shutil.which(program, path=STANDARD_PATH) is None:
            found.append("nobody could be told by notify.%s: there is no program %s" % (name, printable(program)))
    for name, path in (("webhook_file", wishes.webhook_file), ("ping_file", wishes.ping_file)):
        if path is not None:
            try:
                _read_url(path)
            except OSError as error:
                found.append("nobody could be told by notify.%s: %s: %s" % (name, printable(path), _reason(error)))
            except ValueError as error:
                found.append("nobody could be told by notify.%s: %s" % (name, error))
    return found


def _message(policy: Policy, event: str, trouble: str, facts: Mapping[str, Any], now: float) -> Dict[str, Any]:
    return {"event": event, "trouble": trouble, "host": policy.host, "policy": policy.name, "target": policy.target.url, "at": rfc3339(now), **facts}


def _tell(policy: Policy, message: Mapping[str, Any]) -> Tuple[List[str], bool]:
    """(What could not be told, whether somebody heard or nobody was to)."""
    import json

    wishes = policy.notify
    text = json.dumps(message, sort_keys=True).encode("ascii")
    ways: List[Tuple[str, Callable[[], None]]] = []
    if wishes.command is not None:
        ways.append(("command", partial(_run, wishes.command, text + b"\n", message)))
    if wishes.mail:
        ways.append(("mail", partial(_mail, wishes.mail, message)))
    if wishes.webhook_file is not None:
        ways.append(("webhook_file", partial(_call, wishes.webhook_file, text)))
    warnings: List[str] = []
    for name, way in ways:
        try:
            way()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            warnings.append("nobody could be told by notify.%s: %s" % (name, _reason(error)))
    return warnings, len(warnings) < len(ways) or not ways


def _call(path: str, data: bytes) -> None:
    _post(_read_url(path), data, "application/json")


def _run(argv: Sequence[str], data: bytes, message: Mapping[str, Any]) -> None:
    """Start a program with the message on standard input and its plain parts in the environment."""
    variables = {"PATH": STANDARD_PATH, "LC_ALL": "C.UTF-8", "HOME": os.path.expanduser("~")}
    variables.update(("OPENCLAW_BACKUP_" + key.upper(), printable(value)) for key, value in message.items() if type(value) is str)
    done = subprocess.run(
        list(argv),
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=variables,
        cwd="/",
        timeout=_COMMAND_SECONDS,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        last = done.stdout.strip().rpartition(b"\n")[2][:200]
        raise OSError("%s gave exit code %d%s" % (printable(argv[0]), done.returncode, ": " + printable(last) if last else ""))


def _mail(addresses: Sequence[str], message: Mapping[str, Any]) -> None:
    from email.message import EmailMessage

    mail = EmailMessage()
    mail["Subject"] = "[%s] backup of %s: %s" % (message["host"], message["policy"], message["event"])
    mail["To"] = ", ".join(addresses)
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("".join("%s: %s\n" % (key, _line(value)) for key, value in message.items()))
    _run(("sendmail", "-i", "--", *addresses), mail.as_bytes(), message)


def _line(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "".join("\n  " + printable(str(item)) for item in value)
    return printable(str(value))


def _read_url(path: str) -> str:
    """The address in the first line of a file, which nobody else needs to know."""
    with open(path, encoding="utf-8") as stream:
        url = stream.readline().strip()
    if not url.startswith(("https://", "http://")) or any(not "!" <= char <= "~" for char in url):
        raise ValueError("%s does not hold an address that begins with https:// or http://" % printable(path))
    return url


def _post(url: str, data: bytes, kind: str) -> None:
    from urllib.request import Request, urlopen

    request = Request(url, data, {"Content-Type": kind, "User-Agent": "openclaw-backup"})
    with urlopen(request, timeout=_NETWORK_SECONDS) as answer:
        answer.read(1024)


def _reason(error: Exception) -> str:
    """Why, without an address: that may be a secret."""
    if isinstance(error, subprocess.TimeoutExpired):
        return "it took longer than %d s" % _COMMAND_SECONDS
    code = getattr(error, "code", None)
    if code is not None:
        return "the answer was %s" % code
    reason = getattr(error, "reason", None)
    return printable(str(getattr(reason, "strerror", None) or reason or getattr(error, "strerror", None) or error))
