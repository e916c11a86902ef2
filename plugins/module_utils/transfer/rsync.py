# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this host's rsync can do, and the argument vector that makes it carry content and nothing else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ..errors import BackupError, PolicyError, printable

# --mkpath came with it.
OLDEST = (3, 2, 3)
_PROBE_SECONDS = 30
_HUSH = "--info=nonreg0"
# lz4 has no levels, and before the two ends have agreed on an algorithm a number means nothing.
_LEVELLED = ("zstd", "zlib", "zlibx")


@dataclass(frozen=True)
class Capabilities:
    """A probed rsync: the program to start (an absolute path), its version, and the checksum and compression names it knows.

    ``hushes``: whether it can be told to say nothing of what is no regular file; before 3.2.4 it refuses the word.
    """

    program: str
    version: Tuple[int, ...]
    checksums: FrozenSet[str]
    compressions: FrozenSet[str]
    hushes: bool = True


@dataclass(frozen=True)
class Options:
    """A policy's ``transfer`` mapping as rsync takes it.

    ``bwlimit`` is for all streams together: a number with k, m or g (times 1024), bytes a second; empty for no limit.
    ``compress`` and ``checksum`` are names rsync knows, or ``auto``: the best that both ends have. ``block_size`` is bytes or
    ``auto``: what rsync takes for each file, about the root of its size. ``timeout`` is seconds without data, 0 = forever. ``whole_file`` sends no
    deltas and does not compress: right when no network lies between.
    """

    bwlimit: str = ""
    compress: str = "none"
    compress_level: int = 3
    checksum: str = "auto"
    block_size: str = "auto"
    streams: int = 2
    timeout: int = 300
    sockopts: str = ""
    whole_file: bool = False


def probe(program: str = "rsync") -> Capabilities:
    """Ask ``program`` what it can do.

    Raises BackupError of kind ``rsync_missing`` (not there, or it cannot be run) or ``rsync_too_old`` (before 3.2.3, or no rsync).
    """
    import shutil
    import subprocess

    environment = clean_environment(os.environb)
    path = shutil.which(program)
    if path is None:
        raise _not_run("there is no program %s that this user may run" % program, program, "apt-get install rsync")
    path = os.path.abspath(path)  # it will be started from another directory
    text = ""
    # -VV answers in JSON from 3.2.7 on and in text before; where it is no option at all, or a word before it was refused, --version always was.
    for options in ([_HUSH, "-VV"], ["--version"]):
        try:
            done = subprocess.run(
                [path, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, timeout=_PROBE_SECONDS
            )
        except OSError as error:
            reason = error.strerror or str(error)
            if error.filename is not None:
                reason += " (%s)" % printable(error.filename)
            raise _not_run(reason, path, "mend what is named; `%s --version` must work for this user" % path) from error
        except subprocess.TimeoutExpired as error:
            raise _not_run(
                "`%s %s` did not end within %g s" % (path, options[-1], _PROBE_SECONDS), path, "run that by hand and see what it waits for"
            ) from error
        text = done.stdout.decode("utf-8", "replace")
        found = parse_version(path, text)
        if found is not None:
            if found.version < OLDEST:
                break
            return replace(found, hushes=_HUSH in options)
    words = text.split("\n", 1)[0].strip()
    raise BackupError("this rsync is too old", kind="rsync_too_old", found=words, allowed=">= 3.2.3", next="apt-get install rsync")


def _not_run(reason: str, program: str, advice: str) -> BackupError:
    return BackupError("rsync cannot be run: %s" % reason, kind="rsync_missing", found=program, allowed="rsync >= 3.2.3", next=advice)


def parse_version(program: str, text: str) -> Optional[Capabilities]:
    """What ``rsync -VV`` (JSON, 3.2.7+) or ``rsync --version`` (text) says; None if the text names no rsync version."""
    if text.lstrip().startswith("{"):
        import json

        try:
            facts = json.loads(text)
            version, checksums, compressions = str(facts["version"]), facts["checksum_list"], facts["compress_list"]
        except (ValueError, KeyError):
            return None
    else:
        head = re.match(r"rsync\s+version\s+v?(\S+)", text)
        if not head:
            return None
        version, checksums, compressions = head[1], _names(text, "Checksum list:"), _names(text, "Compress list:")
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if not numbers:
        return None
    return Capabilities(program, tuple(map(int, numbers.groups())), frozenset(checksums), frozenset(compressions))


def clean_environment(environment: Mapping[bytes, bytes], *, local: bool = True) -> Dict[bytes, bytes]:
    """``environment`` without what would change rsync's behaviour behind our back.

    RSYNC_* are defaults for options. HOME leads to ~/.popt, whose aliases can turn any option into another; a remote shell may need
    it, so it goes only where there is none. Relative directories in PATH would be looked up inside the source, where rsync runs.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(b"RSYNC_") and not (local and name == b"HOME")}
    kept[b"PATH"] = b":".join(entry for entry in kept.get(b"PATH", os.defpath.encode()).split(b":") if entry.startswith(b"/"))
    kept[b"LC_ALL"] = b"C"
    # rsync 3.2 frees its lists of files one by one; on glibc's heap they leave holes, 60 MB in each process of a large tree and a third more time.
    kept[b"MALLOC_MMAP_THRESHOLD_"] = b"131072"
    return kept


def build_argv(
    options: Options,
    capabilities: Capabilities,
    *,
    source_root: bytes,
    destination: bytes,
    recursive: bool,
    resume: bool,
    basis: bytes = b"",
    shell: Sequence[bytes] = (),
    streams: int = 1,
    names: Sequence[bytes] = (),
) -> List[bytes]:
    """The command that writes ``destination/<name>`` for names relative to ``source_root``: ``names``, or what it reads from standard input,
    each with a NUL behind it. ``names`` are for directories: rsync 3.5's hardened way to names that it reads costs half as much again, but
    everybody on this machine sees arguments.

    ``destination`` is a directory that rsync makes if needed: an absolute path, or ``host:directory`` when ``shell`` (the argv of a
    remote shell, as rsync's ``-e``) is given. ``basis`` is an absolute path as the receiver sees it, a directory that holds old
    versions of large files under the same names; not used with ``whole_file``. ``resume`` skips files that are there with the right
    size and time; with a basis nothing is skipped, because rsync would take an old version of equal size and time for the new one.
    ``streams``: how many of these commands share the bandwidth limit.

    Raises PolicyError for an option's value that this rsync does not know.
    """
    if options.whole_file:
        basis = b""
    argv = [
        capabilities.program,
        "--relative",
        "--times",
        "--omit-dir-times",
        # Content only: no mode is taken from the source, whatever it is, so directories stay writable and everything private. A vault on another machine
        # reads by the group of the account that receives; its umask takes the group's bits away where there is none.
        "--chmod=D0770,F0660" if shell else "--chmod=D0700,F0600",
        # Saves a temporary name and a rename for each file, and keeps what arrived of a large one when the connection breaks.
        "--inplace",
        # A file that is gone is the next scan's business.
        "--ignore-missing-args",
        "--mkpath",
        "--no-human-readable",
        "--info=progress2,stats2",
        "--timeout=%d" % options.timeout,
    ]
    if capabilities.hushes:
        argv.append(_HUSH)
    if not names:
        argv += ["--files-from=-", "--from0"]
    if recursive:
        argv.append("--recursive")
    if basis or not resume:
        argv.append("--ignore-times")
    elif not shell:
        # Compares nanoseconds, not only seconds; rrsync refuses a negative number.
        argv.append("--modify-window=-1")
    if options.whole_file:
        argv.append("--whole-file")
    else:
        argv.append("--no-whole-file")
        if options.compress == "auto":
            argv.append("--compress")
        elif options.compress != "none":
            argv.append("--compress-choice=" + _known("compress", options.compress, capabilities.compressions))
        if options.compress in _LEVELLED:
            argv.append("--compress-level=%d" % options.compress_level)
        if options.block_size != "auto":
            argv.append("--block-size=" + options.block_size)
        if options.sockopts:
            argv.append("--sockopts=" + options.sockopts)
    if options.checksum != "auto":
        argv.append("--checksum-choice=" + _known("checksum", options.checksum, capabilities.checksums))
    if options.bwlimit:
        argv.append("--bwlimit=%d" % max(1, _kib_per_second(options.bwlimit) // streams))
    words = [word.encode("utf-8", "surrogateescape") for word in argv]
    if basis:
        words.append(b"--copy-dest=" + basis)
    if shell:
        words.append(b"--rsh=" + b" ".join(map(_shell_word, shell)))
    root = source_root.rstrip(b"/") + b"/"
    # What stands behind "/./" is what --relative keeps of a name.
    sources = [root + b"./" + name for name in names] or [root]
    return [*words, b"--", *sources, destination.rstrip(b"/") + b"/"]


def _kib_per_second(rate: str) -> int:
    match = re.fullmatch("([1-9][0-9]*)([kmg])", rate.lower())
    if not match:
        raise PolicyError("transfer.bwlimit is not a rate", field="transfer.bwlimit", found=rate, allowed="a number with k, m or g (times 1024, a second)")
    return int(match[1]) * {"k": 1, "m": 1024, "g": 1024 * 1024}[match[2]]


def _known(field: str, name: str, known: FrozenSet[str]) -> str:
    if name not in known:
        raise PolicyError(
            "this rsync does not know transfer.%s %s" % (field, name), field="transfer." + field, found=name, allowed=", ".join(["auto", *sorted(known)])
        )
    return name


def _names(text: str, heading: str) -> List[str]:
    """The names on the indented lines below ``heading``; ``(xxhash)`` is an explanation."""
    block = re.search(r"^%s\n((?:[ \t].*\n?)*)" % re.escape(heading), text, re.MULTILINE)
    return [name for name in block[1].split() if not name.startswith("(")] if block else []


def _shell_word(word: bytes) -> bytes:
    """One word as rsync splits ``-e``: quotes work as in a shell, doubled inside themselves, and backslashes mean nothing."""
    return b"'" + word.replace(b"'", b"''") + b"'" if re.search(rb"[\s'\"]", word) or not word else word
