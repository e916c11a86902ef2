# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Public results as lines for people. Sizes in binary units, times in UTC."""

from __future__ import annotations

import os
import stat
import time
from argparse import Namespace
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Sequence

from ..errors import BackupError
from ..errors import counted as _count
from ..observe.progress import format_bytes
from ..policy import durations

Result = Mapping[str, Any]

_TYPES = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "p": stat.S_IFIFO, "s": stat.S_IFSOCK, "b": stat.S_IFBLK, "c": stat.S_IFCHR}
_KINDS = {"d": "directory", "p": "FIFO", "s": "socket", "b": "block device", "c": "character device"}
_DAYS_ONE_BY_ONE = 14  # of a longer simulation every seventh is shown
DRILL_MARKS = {True: "ok", False: "FAILED", None: "skipped"}
_MARKS = {"added": "+", "removed": "-", "modified": "M", "metadata": "U"}


def lines(request: Namespace, result: Result) -> Iterator[str]:
    """The answer to ``request``."""
    return _VIEWS[request.verb](result, request)


# ---- verbs ---------------------------------------------------------------------------------------------------------


def _backed_up(result: Result, request: Namespace) -> Iterator[str]:
    """What a run did."""
    if request.loop is not None or (request.scheduled and result["snapshot_id"] is None):
        return  # it has said so
    seconds = format_duration(result["duration"])
    if not result["changed"] or result["tagged"]:
        tagged = ", %s %s" % ("to be tagged" if request.dry_run else "now tagged", ", ".join(result["tagged"])) if result["tagged"] else ""
        yield "unchanged: %s as in snapshot %s%s (%s)" % (_count(result["entries"], "entry"), result["snapshot_id"], tagged, seconds)
        yield from _planned(result, request)
        return
    whole = "%s, %s" % (_count(result["entries"], "entry"), format_bytes(result["bytes"]))
    sent = "%s, %s" % (_count(result["files_sent"], "file"), format_bytes(result["bytes_sent"]))
    changes = "{added:,} added, {modified:,} modified, {metadata:,} only in metadata, {removed:,} removed, {unchanged:,} unchanged".format(**result)
    if request.dry_run:
        yield "would add a snapshot: %s" % whole
        yield "  %s" % changes
        yield "  would send %s" % sent
        if result["would_capture"]:
            yield "  would capture %s" % _count(result["would_capture"], "database")
        yield from _sample(result)
        yield from _planned(result, request)
    else:
        yield "snapshot %s: %s (%s)" % (result["snapshot_id"], whole, seconds)
        yield "  %s" % changes
        yield "  sent %s (%s on the wire)" % (sent, format_bytes(result["bytes_wire"]))
        if result.get("requests"):
            asked = result["requests"]
            cost = "" if asked["monthly_usd"] is None else "; %.2f $ a month if each run asks as much" % asked["monthly_usd"]
            yield "  %s%s" % (_asked("the bucket", asked), cost)
        if result["captured"]:
            yield "  captured %s" % _count(result["captured"], "database")
        if result["healed"]:
            yield "  sent again %s that the snapshot before holds damaged" % _count(result["healed"], "path")


def _watched(result: Result, request: Namespace) -> Iterator[str]:
    """What became of changes."""
    if not result["is_alone"]:
        yield "watched already"
        return
    yield "%s, %d of them failed (%s)" % (_count(result["runs"], "run"), result["failed"], format_duration(result["duration"]))


def _healthy(result: Result, _request: Namespace) -> Iterator[str]:
    """Whether a loop does its work."""
    age = "none" if result["age"] is None else "%s ago" % format_duration(result["age"])
    yield from fields(
        ("loop", "%s, every %s" % (result["phase"], format_duration(result["interval"])) if result["alive"] and result["interval"] else "none at work"),
        ("success", age),
        ("failures", str(result["failures"]) if result["failures"] else None),
        ("next", "%s UTC" % _utc(result["next"]) if result["next"] else None),
    )
    if result["ok"]:
        yield "healthy"


def _planned(result: Result, request: Namespace) -> Iterator[str]:
    """The hooks that a prediction left out."""
    for hook in result["hooks"] if request.dry_run else ():
        yield "  would run the %s hook %s" % (hook["event"], hook["command"])


def _snapshots(result: Result, request: Namespace) -> Iterator[str]:
    """The list of a history."""
    history = "host %s, policy %s in %s" % (result["host"], result["policy"], result["target"])
    if not result["snapshots"]:
        yield "no snapshots of %s%s" % (history, " with tag " + " or ".join(request.tag) if request.tag else "")
        return
    sizes = {"OWN": "bytes_own", "SHARED": "bytes_shared", "ADDED": "bytes_added"} if request.sizes else {}
    rows = [
        (
            item["id"],
            _utc(item["created"]),
            "{:,}".format(item["files"]),
            format_bytes(item["bytes"]),
            "{:,}".format(item["received_files"]),
            *(format_bytes(item[key]) for key in sizes.values()),
            _condition(item),
        )
        for item in result["snapshots"]
    ]
    yield from table([("SNAPSHOT", "CREATED (UTC)", "FILES", "SIZE", "NEW", *sizes, "STATE"), *rows], "<<>>>%s<" % (">" * len(sizes)))
    yield "%s of %s" % (_count(len(rows), "snapshot"), history)


def _snapshot(result: Result, _request: Namespace) -> Iterator[str]:
    """Everything about one snapshot."""
    item, receipt = result["snapshot"], result["receipt"]
    chosen = {name: value for name, value in result["selection"].items() if value}
    yield from fields(
        ("snapshot", "%s (number %d of its history)" % (item["id"], item["sequence"])),
        ("history", "host %s, policy %s in %s" % (result["host"], result["policy"], result["target"])),
        ("created", "%s UTC; the run began at %s by the host's clock" % (_utc(item["created"]), _utc(receipt["claimed"]))),
        ("parent", item["parent"] or "none"),
        ("sources", ", ".join(result["sources"])),
        ("selection", "; ".join("%s %s" % (name, _listed(value)) for name, value in sorted(chosen.items())) or "everything"),
        ("holds", "%s: %s, %s" % (_count(item["entries"], "entry"), _count(item["files"], "file"), format_bytes(item["bytes"]))),
        (
            "brought",
            "%s new; {linked:,} paths shared with the parent (links and FIFOs among them), {copied:,} copied in the vault".format(**receipt)
            % _count(receipt["received_files"], "file"),
        ),
        ("storage", "{storage}, clone {clone}, written by version {engine}".format(**receipt)),
        ("digest", item["digest"]),
        ("state", _condition(item)),
        ("unchanged", "still so at %s UTC" % _utc(item["unchanged_until"]) if item["unchanged_until"] else None),
        ("held", (item["held"] or {}).get("reason")),
        ("tags", ", ".join(item["tags"])),
    )


def _paths(result: Result, _request: Namespace) -> Iterator[str]:
    """Entries as ``ls -ln`` shows them."""
    rows = [
        (
            stat.filemode(_TYPES[item["type"]] | int(item["mode"], 8)),
            str(item["uid"]),
            str(item["gid"]),
            "{:,}".format(item["size"]) if "size" in item else "%d, %d" % tuple(item["device"]) if "device" in item else "-",
            _time(item["mtime"]),
            item["path"] + (" -> " + item["link"] if "link" in item else "") + "".join(" (%s)" % flag for flag in ("unstable", "stale") if flag in item),
        )
        for item in result["entries"]
    ]
    return table(rows, "<>>><<")


def _found(result: Result, request: Namespace) -> Iterator[str]:
    """What has a name, and where."""
    history = "host %s, policy %s in %s" % (result["host"], result["policy"], result["target"])
    searched = "%s of %s" % (_count(result["searched"], "snapshot"), history)
    if not result["paths"]:
        where = " and lies below %s" % " or ".join(map(os.path.abspath, request.path)) if request.path else ""
        yield "nothing found: no path in %s matches %s%s" % (searched, result["pattern"], where)
        return
    rows = iter(list(table([_version(item) for path in result["paths"] for item in path["versions"]], "<><<")))
    for path in result["paths"]:
        yield path["path"]
        for _item in path["versions"]:
            yield "  " + next(rows)
    if result["truncated"]:
        yield "… and more (--limit)"
    yield "%s of %s in %s" % (_count(result["versions"], "version"), _count(result["count"], "path"), searched)


def _version(item: Result) -> Sequence[str]:
    what = format_bytes(item["size"]) if item["type"] == "f" else "-> " + item["link"] if "link" in item else _KINDS[item["type"]]
    span = item["last"] if item["snapshots"] == 1 else "%s to %s" % (item["first"], item["last"])
    words = [_count(item["snapshots"], "snapshot")]
    if item["differs"]:
        words.append("not in %s between" % "{:,}".format(item["differs"]))
    if item["in_newest"]:
        words.append("the newest has it")
    return _time(item["mtime"]), what, span, ", ".join(words)


def _differences(result: Result, _request: Namespace) -> Iterator[str]:
    """What leads from one snapshot to another."""
    for item in result["changes"]:
        sizes = " (%s -> %s)" % (format_bytes(item["old_size"]), format_bytes(item["size"])) if item["change"] == "modified" and "old_size" in item else ""
        yield "%s %s%s" % (_MARKS[item["change"]], item["path"], sizes)
    counts = "{added:,} added, {removed:,} removed, {modified:,} modified (M), {metadata:,} only in metadata (U)".format(**result)
    sizes = "%s came, %s went" % (format_bytes(result["bytes_added"]), format_bytes(result["bytes_removed"]))
    yield "%s -> %s: %s; %s" % (result["old"], result["new"], counts, sizes)


def _restored(result: Result, request: Namespace) -> Iterator[str]:
    """What a restore did."""
    place = "its own place" if result["dest"] == "/" else result["dest"]
    if request.if_needed and result["needed"] is None:
        yield "no restore is needed"
        return
    if not result["changed"]:
        yield "nothing to do: %s as in snapshot %s" % (place, result["snapshot_id"])
        return
    written = "%s, %s" % (_count(result["files_restored"], "file"), format_bytes(result["bytes_restored"]))
    yield "%s snapshot %s to %s: %s (%s)" % (
        "would restore" if request.dry_run else "restored",
        result["snapshot_id"],
        place,
        written,
        format_duration(result["duration"]),
    )
    yield "  {files_replaced:,} replaced, {files_removed:,} removed, {metadata_restored:,} only in metadata".format(**result)
    if request.dry_run:
        yield from _predicted_databases(result)
        yield from _sample(result)
        return
    if result["kept"]:
        yield "  %s kept in the undo directory" % _count(result["kept"], "path")
    if result["verified"]:
        yield "  everything was read back and is as in the snapshot"


def _predicted_databases(result: Result) -> Iterator[str]:
    if result["would_capture"]:
        yield "  %s of them: one that holds what the snapshot does stays, which only a restore finds out" % _count(result["would_capture"], "database")


def question(result: Result, undo: Optional[str]) -> Iterator[str]:
    """What a person should know before saying yes to a restore that costs data."""
    yield "Snapshot %s would replace %s and delete %d in %s:" % (
        result["snapshot_id"],
        _count(result["files_replaced"], "path"),
        result["files_removed"],
        "their own place" if result["dest"] == "/" else result["dest"],
    )
    yield from _predicted_databases(result)
    yield from _sample(result)
    yield from ("warning: " + text for text in result["warnings"])
    yield "What is there now %s." % ("is kept in %s" % undo if undo else "is not kept (--undo DIR would keep it)")


def _verified(result: Result, _request: Namespace) -> Iterator[str]:
    """What a verification found."""
    what = "snapshot %s" % result["snapshot_id"] if result["snapshot_id"] else "the sources"
    share = ", slice %s" % result["slice"] if result["slice"] else ""
    read = "%s read, %s" % (_count(result["hashed_files"], "file"), format_bytes(result["hashed_bytes"]))
    yield "%s%s: %s checked, %s (%s)" % (what, share, _count(result["checked"], "path"), read, format_duration(result["duration"]))
    if result["requests"]:
        yield "  " + _asked("the bucket", result["requests"])
    for item in result["damaged"]:
        yield "  damaged  %s (%s)" % (item["path"], item["reason"])
    for word in ("missing", "extra"):
        for path in result[word]:
            yield "  %-7s  %s" % (word, path)
    unlisted = sum(result["counts"].values()) - sum(len(result[word]) for word in ("damaged", "missing", "extra"))
    if unlisted:
        yield "  … and %s more" % "{:,}".format(unlisted)
    for item in result["older"]:
        yield "  and what only it and older ones have of snapshot %s%s" % (item["snapshot_id"], ": %s" % item["damage"] if item["damage"] else "")
    if result["ok"]:
        yield "  no errors were found%s" % (" in what was read" if result["warnings"] else "")


def _drilled(result: Result, request: Namespace) -> Iterator[str]:
    """What a drill found."""
    if request.dry_run:
        yield "would drill snapshot %s: %s, %s" % (result["snapshot_id"], _count(result["entries"], "entry"), format_bytes(result["bytes"]))
        yield from ("  %s" % check["name"] for check in result["checks"])
        return
    if result["verdict"] is None:
        yield "no drill is due"
        return
    yield "drill of snapshot %s: %s (%s)" % (result["snapshot_id"] or "none", result["verdict"], format_duration(result["duration"]))
    if result["state_as_of"]:
        yield "  %s, %s, as of %s UTC" % (_count(result["files"], "file"), format_bytes(result["bytes"]), _utc(result["state_as_of"]))
    yield from table([("  " + DRILL_MARKS[check["ok"]], check["name"], check["reason"]) for check in result["checks"]], "<<<")
    measured = ["%s %s" % (name, format_duration(result[name])) for name in ("rto", "rpo") if result[name] is not None]
    if measured:
        yield "  measured: %s" % ", ".join(measured)
    if result["scratch"]:
        yield "  what came back lies in %s" % result["scratch"]


def _pruned(result: Result, request: Namespace) -> Iterator[str]:
    """What a prune did, and why."""
    if request.simulate is not None:
        yield from _simulated(result)
        return
    gone = {item["id"] for item in result["removed"]}
    rows = [
        (item["id"], _utc(item["created"]), "remove" if item["id"] in gone else "keep", ", ".join(item["reasons"]))
        for item in sorted([*result["kept"], *result["removed"]], key=lambda item: str(item["created"]), reverse=True)
    ]
    if rows:
        yield from table([("SNAPSHOT", "CREATED (UTC)", "", "WHY"), *rows], "<<<<")
    yield "%s %s, %s kept, %s freed" % (
        "would remove" if request.dry_run else "removed",
        _count(len(result["removed"]), "snapshot"),
        "{:,}".format(len(result["kept"])),
        format_bytes(result["bytes_freed"]),
    )
    again = result["repacked"]
    if again is not None and again["snapshots"]:
        yield "wrote %s anew, of which %s are needed; the rest is freed by a prune a day from now" % (
            _count(again["packs"], "pack"),
            format_bytes(again["bytes_read"]),
        )


def _replicated(result: Result, request: Namespace) -> Iterator[str]:
    """What came from the other vault, and what did not."""
    rows = [(item["id"], _utc(item["created"]), _count(item["files_sent"], "file"), format_bytes(item["bytes_sent"])) for item in reversed(result["copied"])]
    if rows:
        yield from table([("SNAPSHOT", "CREATED (UTC)", "CAME", ""), *rows], "<<>>")
    for item in result["repaired"]:
        rest = "" if item["whole"] else ", and is still damaged"
        yield "%s: %s: %s%s" % ("would repair" if request.dry_run else "repaired", item["id"], _count(item["paths"], "path"), rest)
    for word, items in (("not repaired", result["unrepaired"]), ("not copied", result["refused"])):
        for item in items:
            yield "%s: %s: %s" % (word, item["id"], item["reason"])
            yield from ("  %s" % path for path in item["paths"])
    for word, asked in (("the bucket of the copies", result["requests"].get("to")), ("the bucket copied from", result["requests"].get("source"))):
        if asked:
            yield _asked(word, asked)
    yield "%s %s, %s here already%s" % (
        "would copy" if request.dry_run else "copied",
        _count(result["count"], "snapshot"),
        "{:,}".format(result["present"]),
        ", {:,} pruned here before".format(result["pruned"]) if result["pruned"] else "",
    )


def _simulated(result: Result) -> Iterator[str]:
    """What prunes to come would do."""
    days = result["days"]
    step = 1 if len(days) <= _DAYS_ONE_BY_ONE else 7
    parts = [days[start : start + step] for start in range(0, len(days), step)]
    rows = [
        (
            _utc(part[-1]["date"]),
            "{:,}".format(sum(day["made"] for day in part)),
            "{:,}".format(sum(day["removed"] for day in part)),
            "{:,}".format(part[-1]["kept"]),
        )
        for part in parts
    ]
    yield "with a snapshot every %s and a prune a day:" % durations.format_duration(result["every"])
    yield from table([("UNTIL (UTC)", "MADE", "REMOVED", "KEPT"), *rows], "<>>>")
    yield "what is there then:"
    kept = [(_utc(item["created"]), item["id"] or "to come", ", ".join(item["reasons"])) for item in result["kept"]]
    yield from table([("CREATED (UTC)", "SNAPSHOT", "WHY"), *kept], "<<<")


def _held(result: Result, request: Namespace) -> Iterator[str]:
    """What a hold or a release did."""
    state = "held: %s" % result["held"]["reason"] if result["held"] else "not held"
    if not (result["changed"] or result["held"]):
        yield "snapshot %s was not held" % result["snapshot_id"]
        return
    yield "snapshot %s is %s%s" % (result["snapshot_id"], "" if result["changed"] else "already ", state)


def _tagged(result: Result, _request: Namespace) -> Iterator[str]:
    """Which tags a snapshot bears."""
    tags = "the tags %s" % ", ".join(result["tags"]) if result["tags"] else "no tags"
    yield "snapshot %s %s %s" % (result["snapshot_id"], "bears" if result["changed"] or not result["tags"] else "already bears", tags)


def _protection(result: Result, _request: Namespace) -> Iterator[str]:
    """Whether a policy's host is protected."""
    old = result.get("old_prefixes", {})
    newest, last, drill, restoring = result["newest"], result["last_run"], result["last_drill"], result["restoring"]
    yield from fields(
        ("policy", "%s of host %s in %s" % (result["policy"], result["host"], result["target"])),
        ("protected", _protected(result)),
        ("newest", "%s, %s, %s, %s" % (newest["id"], _count(newest["files"], "file"), format_bytes(newest["bytes"]), _condition(newest)) if newest else None),
        ("snapshots", "unknown" if result["snapshots"] is None else "{:,}".format(result["snapshots"])),
        ("last run", "%s UTC: %s" % (_utc(last["finished"]), last["result"]) if last else "none on this host"),
        ("drilled", "%s UTC: %s" % (_utc(drill["finished"]), drill.get("verdict")) if drill else None),
        ("read back", _read_back(result["rolling"]) if result["rolling"] else None),
        ("immutable", {True: "yes, while it is young", False: "no, whoever may delete here can delete all of it"}.get(result["immutable"])),
        *([("old prefixes", ", ".join("%s (%s)" % (prefix, _count(count, "object")) for prefix, count in sorted(old.items())))] if old else []),
        ("keys", _keys(result["keys"]) if result["keys"] else None),
        ("running", "a run is under way" if result["running"] else None),
        ("restoring", "snapshot %s, since %s UTC" % (restoring["snapshot"], _utc(restoring["at"])) if restoring else None),
        ("pending", "an attempt that was not finished; the next run settles it" if result["pending"] and not result["running"] else None),
    )
    if result["ok"]:
        yield "no problems"
    for problem in result["problems"]:
        yield "problem: %s" % problem
    hooks = last.get("hooks") if last else None
    yield from hook_output(hooks if isinstance(hooks, list) else ())


def _read_back(rolling: Result) -> str:
    if rolling["since"] is None:
        return "%d of %d shares so far" % (rolling["read"], rolling["shares"])
    return "every byte since %s UTC, in %s" % (_utc(rolling["since"]), _count(rolling["shares"], "share"))


def _keys(keys: Sequence[str]) -> str:
    return keys[0] + (", and still needed: %s" % ", ".join(keys[1:]) if keys[1:] else "")


def _rekeyed(result: Result, request: Namespace) -> Iterator[str]:
    """What was sealed with another key."""
    if not result["changed"] and not result["damaged"]:
        yield "nothing to do: everything is sealed with key %s" % result["key"]
        return
    yield "%s with key %s: %s, %s (%s), %s" % (
        "would seal" if request.dry_run else "sealed",
        result["key"],
        _count(result["snapshots"], "snapshot"),
        _count(result["packs"], "pack"),
        format_bytes(result["bytes_read"]),
        _count(result["states"], "state"),
    )
    if not request.dry_run and result["keys"] == [result["key"]]:
        yield "nothing that is there needs another key, and no run that began with one can commit any more"


def _adopted(result: Result, request: Namespace) -> Iterator[str]:
    """What an adoption did."""
    if not result["changed"]:
        yield "nothing to do: this host goes on from snapshot %s already" % result["snapshot_id"]
        return
    before = "before: %s" % result["previous"] if result["previous"] else "it had no baseline"
    yield "this host %s on from snapshot %s (%s)" % ("would go" if request.dry_run else "goes", result["snapshot_id"], before)


def _logs(result: Result, _request: Namespace) -> Iterator[str]:
    """What an audit found."""
    for log in result["logs"]:
        state = "%s, whole" % _count(log["records"], "record") if log["ok"] else "BROKEN after %s" % _count(log["records"], "good record")
        yield "%-5s  %s: %s" % (log["log"], log["path"], state)
        yield "       %s" % ("head %s" % log["head"] if log["ok"] else log["reason"])


def failure(error: BackupError, policy: Optional[str]) -> Iterator[str]:
    """An error, what is allowed, and what to do next; with the reader's own policy in the commands that it proposes."""
    yield _sentence(error.message)
    if error.allowed:
        yield "Allowed: %s" % _sentence(error.allowed)
    if error.next:
        advice = error.next
        if policy is not None:
            import shlex

            advice = advice.replace(" POLICY", " " + shlex.quote(policy))
        yield "Next: %s" % _sentence(advice)


def hook_output(hooks: Iterable[Result]) -> Iterator[str]:
    """The last lines of the hooks that failed."""
    for hook in hooks:
        if hook["output_tail"]:
            yield "the %s hook %s said last:" % (hook["event"], hook["command"])
            yield from ("  " + line for line in hook["output_tail"])


def _checked(result: Result, _request: Namespace) -> Iterator[str]:
    """What a policy means."""
    explained = result["explained"]
    if explained is not None:
        rule = ", ".join(part for part in (explained["key"], explained["rule"]) if part)
        yield "%s is %s%s" % (explained["path"], "taken" if explained["selected"] else "left out", " (%s)" % rule if rule else "")
        yield "  %s" % explained["why"]
        return
    yield "policy %s%s" % (result["policy"], ", profile %s" % result["profile"] if result["profile"] else "")
    yield from table([("  " + item["path"], "{:,}".format(item["entries"]), format_bytes(item["bytes"])) for item in result["sources"]], "<>>")
    yield "taken: %s, %s, %s" % (_count(result["entries"], "entry"), _count(result["files"], "file"), format_bytes(result["bytes"]))
    for item in result["left_out"]:
        yield "left out by %s: %s" % (_rule(item), _count(item["paths"], "path"))
        for path in item["sample"][:3]:
            yield "  %s" % path
    if result["secrets"]["files"]:
        yield "secrets: %s" % _count(result["secrets"]["files"], "file")
    percents = ["%s %d %%" % (name.partition("_")[0], percent) for name, percent in result["anomaly"].items() if percent]
    yield "an anomaly is, from so much on: %s" % (", ".join(percents) or "nothing")
    canary = result["canary"]
    if canary is not None:
        done = "compared and removed" if canary["removed"] else "compared"
        yield "canary: %s sent, verified, restored, %s (%s)" % (format_bytes(canary["bytes"]), done, format_duration(canary["duration"]))
    seconds, free = result["estimate"]["seconds"], result["estimate"]["free"]
    if seconds is not None:
        yield "the first run will take about %s" % format_duration(seconds)
    if free is not None:
        yield "free on the target: %s" % format_bytes(free)


_VIEWS: Dict[str, Callable[[Result, Namespace], Iterator[str]]] = {
    "run": _backed_up,
    "watch": _watched,
    "health": _healthy,
    "list": _snapshots,
    "show": _snapshot,
    "ls": _paths,
    "find": _found,
    "diff": _differences,
    "restore": _restored,
    "verify": _verified,
    "drill": _drilled,
    "prune": _pruned,
    "replicate": _replicated,
    "hold": _held,
    "release": _held,
    "tag": _tagged,
    "rekey": _rekeyed,
    "status": _protection,
    "check": _checked,
    "adopt": _adopted,
    "audit": _logs,
}


def _asked(whom: str, requests: Mapping[str, int]) -> str:
    return "asked {}: {class_a:,} of class A, {class_b:,} of class B, {free:,} free".format(whom, **requests)


# ---- parts ---------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], alignment: str) -> Iterator[str]:
    """Aligned columns, ``<`` or ``>`` each; the last one is as wide as it is."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [cell.rjust(width) if side == ">" else cell.ljust(width) for cell, width, side in zip(row, widths, alignment)]
        yield "  ".join(cells).rstrip()


def fields(*pairs: "tuple[str, Optional[str]]") -> Iterator[str]:
    """One ``name  value`` a line; without those that have none."""
    width = max(len(name) for name, value in pairs if value)
    return ("%-*s  %s" % (width, name, value) for name, value in pairs if value)


def format_duration(seconds: float) -> str:
    """``0.4 s``, ``4m 05s``, ``3h 12m``, ``2d 04h``."""
    if seconds < 60:
        return "%.1f s" % seconds
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return "%dd %02dh" % divmod(hours, 24)
    return "%dh %02dm" % (hours, minutes) if hours else "%dm %02ds" % (minutes, rest)


def _rule(item: Result) -> str:
    """The key of a policy that leaves something out, with its pattern, or with what it means where no pattern does it."""
    if not item["rule"]:
        return str(item["key"])
    return ("%s %s" if item["key"] == "exclude" else "%s (%s)") % (item["key"], item["rule"])


def _protected(result: Result) -> str:
    is_known = result["snapshots"] is not None
    if result["age"] is None:
        return "no" if is_known else "unknown"
    objective = "; objective %s" % format_duration(result["rpo"]) if result["rpo"] else ""
    source = "" if is_known else ", as far as this host knows"
    return "as of %s UTC (%s ago%s)%s" % (_utc(result["protected_until"]), format_duration(result["age"]), objective, source)


def _condition(item: Result) -> str:
    words = []
    if item["damaged"]:
        words.append("damaged (%s)" % _count(item["damaged"].get("count", 0), "path"))
    words.append("verified %s UTC" % _utc(item["verified"]["at"]) if item["verified"] else "not verified")
    if item["held"]:
        words.append("held")
    words += ["tag " + name for name in item["tags"]]
    return ", ".join(words)


def _sample(result: Result) -> Iterator[str]:
    for item in result["sample"]:
        yield "  %-8s  %s" % (item["change"], item["path"])
    if result["truncated"]:
        yield "  … and more"


def _utc(rfc3339: str) -> str:
    return rfc3339[:19].replace("T", " ")


def _time(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ns // 10**9))


def _listed(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value).lower()


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
