# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be typed: the verbs with their arguments, options and help, and what a command line means."""

from __future__ import annotations

import argparse
import re
from typing import Dict, Iterable, List, NamedTuple, NoReturn, Optional, Sequence, Tuple, Union

from ..errors import UsageError, printable
from ..version import VERSION

PROGRAM = "openclaw-backup"
_ALIKE = 0.82  # verify is no misspelt no-verify

EXIT_CODES = (
    (0, "done, or nothing had changed"),
    (1, "failed, or interrupted"),
    (2, "usage: the command line or the policy is wrong"),
    (3, "done with warnings"),
    (4, "refused: by a guard, by restore-first, by the answer to a question, or no such snapshot"),
    (5, "another run holds the lock"),
    (6, "the target cannot be reached or used"),
    (7, "integrity: something is not as it was written"),
)


class Argument(NamedTuple):
    """A positional argument."""

    name: str
    help: str
    is_optional: bool = False


class Option(NamedTuple):
    """An option; without ``metavar`` it is a switch."""

    flag: str
    help: str
    metavar: Optional[str] = None
    repeats: bool = False


class Verb(NamedTuple):
    """``summary`` is one line; ``detail`` explains; ``examples`` are pairs of what follows the program's name and what it does."""

    summary: str
    detail: str
    arguments: Tuple[Argument, ...]
    options: Tuple[Option, ...]
    examples: Tuple[Tuple[str, str], ...]


COMMON = (
    Option("--state", "where this host remembers its runs (default: $OPENCLAW_BACKUP_STATE, else /var/lib/openclaw-backup for root)", "DIR"),
    Option("--json", "print one JSON object on standard output, and nothing else"),
    Option("--help", "show this help"),
)
_QUIET = Option("--quiet", "no progress and no summary; warnings and errors only")
_HOST = Option("--host", "read the history of host H instead of the policy's own", "H")
_SNAPSHOT_HELP = "latest (default), an id, the beginning of one, or a time such as '2026-11-20 09:15' (UTC)"
_POLICY = Argument("POLICY", "name of a policy, or path of its JSON file")
_SNAPSHOT = Argument("SNAPSHOT", _SNAPSHOT_HELP, is_optional=True)
_SNAPSHOT_OPTION = Option("--snapshot", _SNAPSHOT_HELP, "S")

VERBS: Dict[str, Verb] = {
    "run": Verb(
        "back up: add a snapshot if anything changed",
        "Compares the policy's sources with the last snapshot, sends the difference, and publishes a snapshot once every byte of it is proven.\n"
        "Where nothing changed, nothing is sent or written. Interrupted runs go on where they stopped.",
        (_POLICY,),
        (
            Option("--dry-run", "say what would be done, also where a guard refuses it; write nothing anywhere"),
            Option("--accept", "override the guards for the change that was shown with these 8 digits", "D"),
            Option("--adopt", "go on from the newest snapshot of a history that this host has no baseline for"),
            Option("--tag", "a name that the snapshot bears, also one that is there already because nothing changed; can be repeated", "NAME", repeats=True),
            Option(
                "--scheduled",
                "what a schedule starts: run if the policy's schedule says so or a run was missed, and again if the target is busy or out of reach",
            ),
            Option(
                "--loop",
                "in a container: restore if needed, then run again and again, so many seconds after the last run and when files change, until SIGTERM; one line"
                " of JSON a run",
                "SECONDS",
            ),
            Option("--flush", "with --loop: how long the last run may take, which SIGTERM starts (default: 8)", "SECONDS"),
            _QUIET,
        ),
        (
            ("run web", "back up"),
            ("run web --dry-run", "what would a backup do?"),
            ("run web --accept 1f6c22d0", "the great change that a guard stopped is meant"),
            ("run web --loop 120 --flush 25", "beside an application in a container that gets 30 seconds to end"),
        ),
    ),
    "watch": Verb(
        "back up when files change",
        "Runs until it is told to end: backs up 10 seconds after the last change, at the latest a minute after the first, and once a minute at most.\n"
        "Ends when its policy's file changes, for whatever starts it again; where the policy is watched already it does nothing.\n"
        "The schedule goes on beside it.",
        (_POLICY,),
        (_QUIET,),
        (("watch web --quiet", "what the role openclaw.backup.client has systemd or cron start, where the policy says `schedule.watch`"),),
    ),
    "health": Verb(
        "does a loop keep this host protected?",
        "For the probes of containers: exit code 0 if the loop that `run --loop` started is at work, no restore is unfinished and the last success is young\n"
        "enough, else 1. Reads what the loop wrote down, and asks no target.",
        (_POLICY,),
        (
            Option("--max-age", "how long ago the last run that succeeded may have begun (default: three intervals and a minute)", "DURATION"),
            Option("--alive", "only whether the loop is at work: for what restarts a container, which mends nothing else"),
            _QUIET,
        ),
        (("health web", "a readiness probe"), ("health web --alive", "a liveness probe"), ("health web --max-age 15m --json", "for a monitor")),
    ),
    "list": Verb(
        "list the snapshots",
        "One line a snapshot, the newest first. NEW is how many files the snapshot brought with it. With --sizes, what the vault's disk holds:\n"
        "OWN bytes would be free if this snapshot alone were removed, SHARED are other snapshots' too, ADDED are not in the snapshot before it.",
        (_POLICY,),
        (
            Option("--sizes", "look at the files of all snapshots, and say what each takes up on the vault's disk"),
            Option("--tag", "only snapshots that bear this tag; repeated: any of these", "NAME", repeats=True),
            _HOST,
        ),
        (
            ("list web", "all snapshots"),
            ("list web --sizes", "which of them cost how much?"),
            ("list web --host web2", "those of another host in the same vault"),
        ),
    ),
    "show": Verb(
        "show one snapshot",
        "What a snapshot holds, where it came from, and whether it is known to be good.",
        (_POLICY, _SNAPSHOT),
        (_HOST,),
        (("show web", "the newest one"), ("show web 20261120", "the only one of that day"), ("show web '2026-11-20 09:15'", "the newest one at that time")),
    ),
    "ls": Verb(
        "list the files of a snapshot",
        "Lists a directory of a snapshot, or its sources. An argument that begins with '/' is the path.",
        (_POLICY, _SNAPSHOT, Argument("PATH", "absolute path of a directory or file; the policy's sources if left out", is_optional=True)),
        (Option("--recursive", "everything below, too"), _HOST),
        (
            ("ls web", "where to begin"),
            ("ls web /srv/www/img", "a directory in the newest snapshot"),
            ("ls web 20261120 /srv/www --recursive", "everything in an older one"),
        ),
    ),
    "find": Verb(
        "find a file in all snapshots, by its name",
        "Looks for paths whose last component matches a shell pattern (* ? [a-z]), or which as a whole do where the pattern holds a '/'. Lists each path\n"
        "with its versions, the newest first: what they are and which snapshots hold them.",
        (_POLICY, Argument("PATTERN", "'*.conf', 'id_rsa', '/etc/*/nginx*'; quoted, so that the shell leaves it alone")),
        (
            Option("--path", "only this path and what lies below; can be repeated", "P", repeats=True),
            Option("--snapshot", _SNAPSHOT_HELP.replace("latest (default)", "only in this one: latest"), "S"),
            Option("--ignore-case", "capitals and small letters are the same"),
            Option("--limit", "list so many versions at most (default: 500)", "N"),
            _HOST,
        ),
        (
            ("find web index.html", "which versions of it are there?"),
            ("find web '*.key' --path /srv/www", "everything of that name below a directory"),
            ("find web '/srv/www/*/img/*' --snapshot 20261120", "by the whole path, in one snapshot"),
        ),
    ),
    "diff": Verb(
        "compare two snapshots",
        "+ added   - removed   M content, type or link changed   U only owner, mode, time or attributes changed",
        (
            _POLICY,
            Argument("A", "the older snapshot: an id, the beginning of one, or a time"),
            Argument("B", "the newer one (default: latest)", is_optional=True),
        ),
        (_HOST,),
        (("diff web 2026-11-19", "since yesterday's snapshot"), ("diff web '2026-11-01' '2026-11-15'", "between two days")),
    ),
    "restore": Verb(
        "bring files back",
        "Into their own place, where only what differs is moved, or into another directory, where each path is made anew below it.\n"
        "On a terminal, a restore in place shows what it would replace and asks. Interrupted restores go on when repeated.",
        (_POLICY,),
        (
            _SNAPSHOT_OPTION,
            Option("--dest", "restore below this directory (/home/ann becomes DIR/home/ann)", "DIR"),
            Option("--path", "only this path and what lies below; can be repeated", "P", repeats=True),
            Option("--delete", "remove what the snapshot does not have"),
            Option("--undo", "keep what is replaced or removed in this directory", "DIR"),
            Option(
                "--if-needed",
                "at the start of a container: restore if nothing is here, a key file is missing, this machine knows nothing of the history, another went on "
                "from what it knows, or a restore was broken off; keep what that replaces (default: in the state); never ask",
            ),
            Option("--dry-run", "say what would be done; write nothing anywhere"),
            Option("--no-verify", "do not read back what was written"),
            Option("--yes", "do not ask"),
            _HOST,
            _QUIET,
        ),
        (
            ("restore web --dry-run", "what would be replaced?"),
            ("restore web --undo /root/undo", "everything, keeping what is replaced"),
            ("restore web --snapshot 2026-11-19 --path /srv/www/index.html", "one file as it was yesterday"),
            ("restore web --host web1 --dest /mnt/web1", "another host's files"),
            ("restore web --if-needed", "before a container's application starts"),
        ),
    ),
    "verify": Verb(
        "prove that a snapshot is what it was",
        "Holds a snapshot against its manifest. What is found damaged is kept with the snapshot; what the newest one lost, this host's next run sends again.",
        (_POLICY,),
        (
            _SNAPSHOT_OPTION,
            Option("--depth", "quick: look at every path; full (default): read every byte", "quick|full"),
            Option("--slice", "read only the n-th of t shares", "n/t"),
            Option("--rolling", "read a T-th of all that is kept, that whose turn was longest ago", "T"),
            Option("--source", "instead read the sources, and name files whose bytes changed while their times did not"),
            _HOST,
            _QUIET,
        ),
        (
            ("verify web", "read back the newest snapshot"),
            ("verify web --depth quick", "look at its paths alone"),
            ("verify web --rolling 7", "every day: all of it, spread over a week"),
            ("verify web --source --slice 3/30", "is the source's own disk still sound?"),
        ),
    ),
    "drill": Verb(
        "rehearse a restore, measure it, and keep the evidence",
        "Restores a snapshot to a directory of its own, compares every byte and all metadata with the manifest, checks the databases, runs the policy's\n"
        "probes, and judges the time that took and the age of what came back by the policy's objectives. Exit code 7 where what came back is not what was\n"
        "backed up, 1 where a probe failed or an objective was missed. The directory is removed again, also after a failure.",
        (_POLICY,),
        (
            _SNAPSHOT_OPTION,
            Option("--scratch", "make that directory in this one (default: in the state)", "DIR"),
            Option("--dry-run", "say what would be checked, and whether there is room; write nothing anywhere"),
            Option("--junit", "write a test report to this file (JUnit XML)", "FILE"),
            Option("--markdown", "write a summary for people to this file", "FILE"),
            Option("--keep", "leave what came back where it is"),
            Option(
                "--scenario",
                "restore (default); damaged, ransomware: is that noticed, and does the snapshot before it come back? lost-vault: does the first copy do?"
                " lost-host: this machine stands in for the host",
                "WHAT",
            ),
            Option("--spent", "with --scenario lost-host: so long it took to come so far, which counts in the time to recover", "SECONDS"),
            Option("--asked-by", "who wants it, for the evidence; nobody checks that", "TEXT"),
            Option("--on-vault", "this is the vault: no program and no database of a host is opened"),
            Option("--scheduled", "what a schedule starts: drill if `objectives.drill_every` asks for it soon, and a day after a drill that failed"),
            _HOST,
            _QUIET,
        ),
        (
            ("drill web", "would everything come back, and in time?"),
            ("drill web --scratch /mnt/spare --junit drill.xml", "elsewhere, and with a report for a build server"),
            ("drill web --snapshot 2026-11-01 --keep", "an older one, to be looked at"),
        ),
    ),
    "prune": Verb(
        "remove the snapshots that the retention does not keep",
        "Lists every snapshot with all reasons why it stays or goes. Whatever the retention says, these stay: the newest, the newest one not known to\n"
        "be damaged, the last one verified in full, the last one that a drill has proven, held ones, and those younger than `retention.protect`.",
        (_POLICY,),
        (
            Option("--dry-run", "say what would be done; write nothing anywhere"),
            Option("--simulate", "say what a prune a day would make of this history in so long a time; write nothing", "DURATION"),
            Option("--every", "with --simulate: how often there will be a new snapshot (default: as often as lately)", "DURATION"),
            _HOST,
            _QUIET,
        ),
        (
            ("prune web --dry-run", "what would go, and why would the rest stay?"),
            ("prune web", "do it"),
            ("prune web --simulate 90d", "what will there be in three months?"),
        ),
    ),
    "replicate": Verb(
        "copy the history into another vault or a bucket",
        "What runs on the second vault: fetches the snapshots that the policy's target has and the vault --to lacks, each proven here before it exists.\n"
        "Nothing is removed here because it is gone there; what is damaged there is named and not copied; what this vault has pruned does not come back.",
        (_POLICY,),
        (
            Option(
                "--to",
                "the vault that keeps the copies: a directory of this machine (made where it is missing), or one of the policy's copies by its URL",
                "VAULT",
            ),
            Option("--repair", "first repair what a verification found damaged in --to, with what the policy's target has of the same snapshots"),
            Option("--dry-run", "say what would be copied; write nothing anywhere"),
            _HOST,
            _QUIET,
        ),
        (
            ("replicate web --to /srv/vault2 --dry-run", "what is missing there?"),
            ("replicate web --to /srv/vault2", "copy it"),
            ("replicate web-from-vault2 --to /srv/vault --repair", "make the first vault whole again with the copies in the second"),
        ),
    ),
    "hold": Verb(
        "keep a snapshot whatever the retention says",
        "A held snapshot stays until it is released. `list` tells that it is held, `show` also why.",
        (_POLICY, Argument("SNAPSHOT", _SNAPSHOT_HELP.replace(" (default)", ""))),
        (Option("--reason", "why, in one line (default: the reason that it has, or held by hand)", "TEXT"), _HOST, _QUIET),
        (("hold web 20261120 --reason upgrade", "this one stays"),),
    ),
    "release": Verb(
        "leave a held snapshot to the retention again",
        "The next prune treats it like any other.",
        (_POLICY, Argument("SNAPSHOT", _SNAPSHOT_HELP.replace(" (default)", ""))),
        (_HOST, _QUIET),
        (("release web 20261120", "it need not stay any longer"),),
    ),
    "tag": Verb(
        "name a snapshot",
        "A snapshot can bear any number of tags. `list --tag` finds those with a tag, and `retention.keep_tags` keeps them.",
        (_POLICY, Argument("SNAPSHOT", _SNAPSHOT_HELP.replace(" (default)", ""))),
        (
            Option("--add", "a tag that it bears from now on; can be repeated", "NAME", repeats=True),
            Option("--remove", "a tag that it bears no more; can be repeated", "NAME", repeats=True),
            _HOST,
            _QUIET,
        ),
        (("tag web latest --add before-upgrade", "name the newest one"), ("tag web 20261120 --remove before-upgrade --add good", "name it otherwise")),
    ),
    "rekey": Verb(
        "seal a history with another key",
        "Writes anew what `target.old_key_files` seal, with the key that `target.key_file` (or `key_command`) has now: every byte is read, proven by its\n"
        "hash and sealed again. Nothing is overwritten: what the old keys sealed goes with the first prune a day later. Killed, it goes on when repeated.",
        (_POLICY,),
        (Option("--dry-run", "say what would be done; write nothing anywhere"), _HOST, _QUIET),
        (("rekey web --dry-run", "how much is sealed with an old key?"), ("rekey web", "seal it with the new one")),
    ),
    "status": Verb(
        "is this host protected, and since when?",
        "The first thing to look at. Exit code 3 if something is in the way.",
        (_POLICY,),
        (
            Option("--on-vault", "this is the vault: it has no baseline, and between two heartbeats no host tells it that nothing changed"),
            Option("--notify", "tell those whom the policy's notify names, if there are problems that they were not told of, or if there are none any more"),
            _HOST,
        ),
        (("status web", "what is the state of things?"), ("status web --json", "the same for a monitor")),
    ),
    "check": Verb(
        "what does a policy protect, and does its target work?",
        "Shows what a run would take, what it leaves out and which pattern does, how long the first run will take, and which secrets everybody can read.\n"
        "Sends a small snapshot of its own to the target, verifies it, brings it back, compares it and removes it again.",
        (_POLICY,),
        (
            Option("--explain", "say of one path whether a run would take it, and why; nothing else is done", "PATH"),
            Option("--no-canary", "send nothing to the target"),
            _QUIET,
        ),
        (("check web", "before the first run"), ("check web --explain /srv/www/cache/x", "why is this file not in the snapshots?")),
    ),
    "adopt": Verb(
        "go on from a history that this host does not know",
        "After a reinstallation, or when another machine takes over: makes the newest snapshot this host's baseline without restoring it.\n"
        "The next run then compares what is on this disk with that snapshot, and the guards with it.",
        (_POLICY,),
        (Option("--dry-run", "say what would be done; write nothing anywhere"), _QUIET),
        (("adopt web --dry-run", "which snapshot would it be?"), ("adopt web", "go on from it")),
    ),
    "audit": Verb(
        "check that the audit logs were not tampered with",
        "Reads the log of this host and the log that the vault keeps of the history; each line bears the hash of the line before.\n"
        "A cut-off end shows only against a head that was noted down earlier.",
        (_POLICY,),
        (_HOST,),
        (("audit web", "are the logs whole?"),),
    ),
    "serve": Verb(
        "the vault's side: answer the host that holds an SSH key",
        "The forced command of a host's key in the vault's authorized_keys; nobody types it. The host may add snapshots and ask about its own history.\n"
        "With --vault the vault belongs to the very account that the key opens; without it, to the account that the role openclaw.backup.vault made.",
        (),
        (
            Option("--vault", "the vault's directory, where it belongs to this account", "DIR"),
            Option("--host", "the host that this key belongs to; goes with --vault", "H"),
            Option("--storage", "native or portable, for a vault that is still to be made; goes with --vault", "KIND"),
            Option("--read", "the host may read content, as for a restore"),
            Option(
                "--copies", "the key belongs to a vault that keeps copies: it may read every host's history, and add to none; goes with --vault or stands alone"
            ),
            Option("--session", "write, read or copies: what sudo starts with the vault's rights", "SCOPE"),
        ),
        (("serve --vault /home/me/vault --host web1", 'behind `restrict,command="..."` in ~/.ssh/authorized_keys'),),
    ),
}


def parse(argv: Sequence[str]) -> Union[argparse.Namespace, str]:
    """What ``argv`` asks for: a request with ``verb`` and one attribute an argument and option; or a text to print.

    Options that were not given are None, switches False, repeated options an empty list. Raises UsageError.
    """
    if not argv:
        raise UsageError("A verb is missing", field="verb", allowed=", ".join(VERBS), next="`%s --help` says what they do" % PROGRAM)
    name = argv[0]
    if name == "help" and len(argv) == 2 and argv[1] in VERBS:
        return parser_for(argv[1]).format_help()
    if name in ("--help", "-h", "help"):
        return overview()
    if name in ("--version", "version"):
        return "%s %s\n" % (PROGRAM, VERSION)
    if name not in VERBS:
        what = "The verb comes first, before %s" if name.startswith("-") else "There is no verb %s"
        raise UsageError(what % printable(name), field="verb", found=name, allowed=", ".join(VERBS), next=_hint(name, VERBS, "--help"))
    rest = argv[1:]
    parser = parser_for(name)
    if "--help" in rest or "-h" in rest:  # also where the rest is wrong, which is why help is asked for
        return parser.format_help()
    request = parser.parse_intermixed_args(rest)
    if getattr(request, "policy", None) == "":  # most often a shell variable that is not set
        raise UsageError("%s: POLICY is empty" % name, field="POLICY", found="", allowed="a name or a path", next="name the policy")
    for option in (*VERBS[name].options, *COMMON):
        given = getattr(request, option.flag.lstrip("-").replace("-", "_"))
        if given == "" or (isinstance(given, list) and "" in given):
            raise UsageError("%s: %s is empty" % (name, option.flag), field=option.flag, found="", allowed="a value", next="give it one, or leave it out")
    request.verb = name
    return request


def parser_for(name: str) -> argparse.ArgumentParser:
    """The parser of one verb."""
    verb = VERBS[name]
    parser = _Parser(
        name,
        usage=" ".join([PROGRAM, name, *(("[%s]" if argument.is_optional else "%s") % argument.name for argument in verb.arguments), "[options]"]),
        description="%s.\n\n%s" % (verb.summary[0].upper() + verb.summary[1:].rstrip("?."), verb.detail),
        epilog="examples:\n" + _examples(verb.examples),
    )
    arguments = parser.add_argument_group("arguments")
    for argument in verb.arguments:
        arguments.add_argument(argument.name.lower(), metavar=argument.name, help=argument.help, nargs="?" if argument.is_optional else None)
    options = parser.add_argument_group("options")
    for option in (*verb.options, *COMMON):
        # argparse reads % in a help text as the start of a format.
        text = option.help.replace("%", "%%")
        if option.metavar is None:
            options.add_argument(option.flag, help=text, action="store_true")
        elif option.repeats:
            options.add_argument(option.flag, help=text, metavar=option.metavar, action="append", default=[])
        else:
            options.add_argument(option.flag, help=text, metavar=option.metavar, action=_Once)
    return parser


class _Once(argparse.Action):
    """A value that is given once: of two, nobody knows which is meant."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option_string: Optional[str] = None) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error("argument %s: given twice" % option_string)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """One verb's parser; it neither guesses abbreviations, prints nor exits."""

    def __init__(self, verb: str, **more: str) -> None:
        super().__init__(prog=PROGRAM, add_help=False, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **more)  # type: ignore[arg-type]
        self._verb = verb

    def error(self, message: str) -> NoReturn:
        message = re.sub("^argument (--[a-z-]+): ignored explicit argument .*", r"argument \1: takes no value", message, flags=re.DOTALL)
        match = re.match("(?:argument |unrecognized arguments: |the following arguments are required: )(.*?)(?::|,|/| |$)", message)
        word = match.group(1) if match else ""
        flags = [option.flag for option in (*VERBS[self._verb].options, *COMMON)]
        near = "%s --help" % self._verb
        raise UsageError(
            "%s: %s" % (self._verb, printable(re.sub("^argument ", "", message))),
            field=word or None,
            allowed="%s; options %s" % (self.usage, ", ".join(flags)),
            next=_hint(word, flags, near) if message.startswith("unrecognized") else "`%s %s` explains them" % (PROGRAM, near),
        )


def _hint(word: str, known: Iterable[str], explained: str) -> str:
    from ..policy.checks import closest  # only errors need it

    # By their names alone: the dashes make all options look alike, and one that does something else is no advice.
    names = {item.lstrip("-"): item for item in known}
    near = names.get(closest(word.lstrip("-"), names, _ALIKE) or "")
    return ("did you mean %s? " % near if near else "") + "`%s %s` explains them" % (PROGRAM, explained)


def _examples(examples: Iterable[Tuple[str, str]]) -> str:
    return "".join("  %s %s\n      %s\n" % (PROGRAM, words, what) for words, what in examples)


def overview() -> str:
    """The help of the program as a whole."""
    width = max(map(len, VERBS))
    verbs: List[str] = ["  %-*s  %s" % (width, name, verb.summary) for name, verb in VERBS.items()]
    codes = ["  %d  %s" % code for code in EXIT_CODES]
    return _OVERVIEW % {"verbs": "\n".join(verbs), "codes": "\n".join(codes), "program": PROGRAM}


_OVERVIEW = """\
usage: %(program)s VERB POLICY [options]

Backs up what a policy names to a vault, and proves that it comes back.

verbs:
%(verbs)s

`%(program)s VERB --help` explains a verb; --json, --state DIR and --help go with every verb, --version stands alone.

POLICY is a name, web for /etc/openclaw-backup/policies/web.json, or the path of a JSON file (with a '/' in it, or .json at its end):
  {"name": "web", "sources": ["/srv/www"], "target": "/srv/vault"}

examples:
  %(program)s run web                       back up
  %(program)s status web                    is this host protected?
  %(program)s ls web /srv/www               what is in the newest snapshot?
  %(program)s restore web --dry-run         what would a restore replace?
  %(program)s restore web --dest /tmp/back  bring everything back elsewhere
  %(program)s verify web                    read every byte of the newest snapshot

exit codes:
%(codes)s

environment:
  OPENCLAW_BACKUP_STATE    where this host remembers its runs; --state comes first
  OPENCLAW_BACKUP_DEBUG=1  show where an internal error happened
"""
