# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run rsync, several at once: names go in, progress comes out, and no process outlives its reason."""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from dataclasses import dataclass
from typing import IO, Callable, List, Mapping, Optional, Sequence, Tuple

from ..errors import BackupError, printable
from ..process import starting
from .plan import Item, common_directory, partition
from .rsync import Capabilities, Options, build_argv, clean_environment

TICK_MS = 20  # how often output is looked at; 64 KiB of pipe hold the progress of 800 files
REPORT_SECONDS = 0.25
STOP_SECONDS = 2.0
WATCH_SECONDS = 1.0
SLACK_SECONDS = 10  # what a stream may stand still beyond rsync's own timeout, which is the one to strike first
MAX_MESSAGES = 20
_TAIL = 8192
# Bytes of names that go as arguments; the smallest limit of a system is 128 KiB, environment included.
_ARGUMENTS = 64 << 10

_PROGRESS = re.compile(rb"\r *([0-9]+) +[0-9]+%")
_FILES_SO_FAR = re.compile(rb"\(xfr#([0-9]+),")
_FILES = re.compile(rb"\nNumber of regular files transferred: ([0-9]+)\n")
_WIRE = re.compile(rb"\nTotal bytes sent: ([0-9]+)\nTotal bytes received: ([0-9]+)\n")
# What survives the shell of every remote host; names behind standard input need no such care.
_PLAIN = re.compile(rb"[A-Za-z0-9_/.][A-Za-z0-9_/.+-]*")


@dataclass(frozen=True)
class Report:
    """What the streams said. Which files arrived is for the receiver to decide, by hashing them.

    ``bytes_wire``: sent and received; for a stream that died, the bytes of the files it had done. ``files``: sent.
    ``exit_codes``: one a stream, negative for a signal. ``messages``: the last lines of standard error, fit to print.
    """

    bytes_wire: int
    files: int
    exit_codes: Tuple[int, ...]
    messages: Tuple[str, ...]


def send(
    items: Sequence[Item],
    *,
    source_root: bytes,
    destination: bytes,
    options: Options,
    capabilities: Capabilities,
    resume: bool = False,
    basis: bytes = b"",
    shell: Sequence[bytes] = (),
    hold: Sequence[int] = (),
    on_progress: Optional[Callable[[int, int], None]] = None,
) -> Report:
    """Write the content of ``items`` to ``destination/<path>``, by at most ``options.streams`` rsync processes at once.

    ``source_root`` is a local directory; for ``destination``, ``resume``, ``basis`` and ``shell`` see :func:`build_argv`. Files are
    written in place: the destination must own its inodes. A recursed directory may bring files that appeared after the scan.
    ``hold``: descriptors of locks that last as long as the processes do.
    ``on_progress(files, bytes)`` is called a few times a second and once at the end, with logical bytes.

    A process that stands still for longer than ``options.timeout`` (if not 0) and does not end by itself is killed: SIGKILL.
    Missing, unreadable and unwritable files and dead processes are told by the report. Raises BackupError ``rsync_missing`` if rsync
    cannot be started, ``source`` if ``source_root`` cannot be entered. Whatever is raised meanwhile, also by ``on_progress`` or a
    signal handler, stops all processes first.
    """
    environment = clean_environment(os.environb, local=not shell)
    groups = partition(items, options.streams)
    streams: List[_Stream] = []
    next_report = next_watch = 0.0
    try:
        for group in groups:
            base = common_directory(group)
            # rrsync puts an empty directory in the place of one that is missing below the basis, where the account that receives may make none.
            if shell and (len(groups) > 1 or basis or not _PLAIN.fullmatch(base)):
                base = b""
            root, base = _enter(source_root, base)
            if not shell:
                # Two receivers that make the same missing directory at once: one of them dies (code 11).
                _make_private(_below(destination, base))
            try:
                names = _names(group, base)
                arguments = names if any(item.tree for item in group) and sum(map(len, names)) <= _ARGUMENTS else []
                argv = build_argv(
                    options,
                    capabilities,
                    source_root=b".",
                    destination=_below(destination, base),
                    recursive=any(item.tree for item in group),
                    resume=resume,
                    basis=basis and _below(basis, base),
                    shell=shell,
                    streams=len(groups),
                    names=arguments,
                )
                with starting() as bind:
                    streams.append(_Stream(argv, b"" if arguments else _listing(names), environment, root, hold, bind))
            finally:
                os.close(root)
        running = list(streams)
        while running:
            _wait_for_any(running)
            running = [stream for stream in running if stream.is_alive()]
            now = time.monotonic()
            if options.timeout and now >= next_watch:
                next_watch = now + WATCH_SECONDS
                for stream in running:
                    stream.watch(options.timeout + SLACK_SECONDS)
            if on_progress and (now >= next_report or not running):
                next_report = now + REPORT_SECONDS
                on_progress(sum(stream.files for stream in streams), sum(stream.bytes for stream in streams))
    finally:
        _stop(streams)
    messages = [line for stream in streams for line in stream.messages()]
    return Report(
        sum(stream.wire for stream in streams),
        sum(stream.files for stream in streams),
        tuple(stream.process.returncode for stream in streams),
        tuple(messages[-MAX_MESSAGES:]),
    )


class _Stream:
    """One rsync process with its three pipes, none of which ever blocks us."""

    def __init__(
        self, argv: Sequence[bytes], names: bytes, environment: Mapping[bytes, bytes], root: int, hold: Sequence[int], bind: Callable[[], None]
    ) -> None:
        import subprocess

        try:
            self.process = subprocess.Popen(
                argv,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/proc/self/fd/%d" % root,
                env=environment,
                pass_fds=hold,
                preexec_fn=bind,
                umask=0o077,  # for directories that --mkpath makes: no --chmod reaches them
            )
        except OSError as error:
            raise BackupError(
                "rsync cannot be run: %s" % error, kind="rsync_missing", found=argv[0], allowed="rsync >= 3.2.3", next="mend what is named, and run again"
            ) from error
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        for pipe in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(pipe.fileno(), False)
        self.files = self.bytes = self.wire = 0
        self._names = memoryview(names)
        self._said = b""
        self._errors = b""
        self._signs: Tuple[object, ...] = ()
        self._still = 0.0

    def feed(self) -> None:
        """Hand over as many names as fit now."""
        try:
            self._names = self._names[self.stdin.write(self._names[:65536]) or 0 :]
        except BrokenPipeError:
            self._names = self._names[:0]
        if not self._names:
            self.stdin.close()

    def is_alive(self) -> bool:
        """Take in what was said; False once the process has ended and everything was read."""
        alive = self.process.poll() is None
        self._said = _read_tail(self.stdout, self._said)
        self._errors = _read_tail(self.stderr, self._errors)
        done = _PROGRESS.findall(self._said)
        if done:
            self.bytes = int(done[-1])
        files = _FILES_SO_FAR.findall(self._said)
        if files:
            self.files = int(files[-1])
        if not alive:
            files = _FILES.findall(self._said)
            if files:
                self.files = int(files[-1])
            wire = _WIRE.findall(self._said)
            self.wire = sum(map(int, wire[-1])) if wire else self.bytes
        return alive

    def watch(self, seconds: float) -> None:
        """Kill the process if it showed no sign of life in ``seconds`` of looks, one every ``WATCH_SECONDS``.

        rsync keeps its own timeout only between system calls: open() of a FIFO that somebody put in a listed file's place never ends.
        Silence alone is no proof, a long list is silent too; but whatever works or waits for the other side runs at least once a minute.
        Looks are counted, not the clock: time in which we were stopped or held up, and read nothing, is not the process's fault.
        """
        try:
            with open("/proc/%d/status" % self.process.pid, "rb") as file:
                switches = file.read().partition(b"\nvoluntary_ctxt_switches:")[2]
        except OSError:
            switches = b""
        signs = (self._said, self._errors, len(self._names), switches)
        if not switches or signs != self._signs:
            self._signs, self._still = signs, 0.0
            return
        before, self._still = self._still, self._still + WATCH_SECONDS
        if before < seconds <= self._still:
            self._errors += b"\nrsync stood still for %d s and was killed: a file that cannot be opened or read?\n" % self._still
            self.process.kill()

    def messages(self) -> List[str]:
        lines = self._errors.splitlines()[1 if len(self._errors) == _TAIL else 0 :]
        return [printable(line) for line in lines[-MAX_MESSAGES:] if line]


def _wait_for_any(streams: Sequence[_Stream]) -> None:
    """Sleep for a tick, or until one of ``streams`` takes names or ends."""
    poller = select.poll()
    feeding = {}
    for stream in streams:
        if not stream.stdin.closed:
            poller.register(stream.stdin, select.POLLOUT)
            feeding[stream.stdin.fileno()] = stream
        # No POLLIN: waking for each of ten thousand progress lines a second would cost more than they say. The end still wakes us.
        poller.register(stream.stdout, 0)
    for descriptor, _event in poller.poll(TICK_MS):
        if descriptor in feeding:
            feeding[descriptor].feed()


def _read_tail(pipe: IO[bytes], tail: bytes) -> bytes:
    """``tail`` plus what can be read now, cut to its last bytes."""
    while True:
        chunk = pipe.read(65536)
        if not chunk:  # None: nothing now; b"": nothing any more
            return tail
        tail = (tail + chunk)[-_TAIL:]


def _stop(streams: Sequence[_Stream]) -> None:
    """Leave no process behind: ask, wait, kill."""
    import subprocess

    for stream in streams:
        if stream.process.poll() is None:
            stream.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for stream in streams:
        try:
            stream.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            stream.process.kill()
            stream.process.wait()
        for pipe in (stream.stdin, stream.stdout, stream.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


def _enter(root: bytes, base: bytes) -> Tuple[int, bytes]:
    """A descriptor of the directory ``base`` below ``root``, and its path.

    rsync resolves all components of a name for each file again, so it starts as deep as it can. Only real directories are entered:
    a symlink that somebody put there since the scan ends the way, and what is behind it is left to rsync's own care.
    """
    try:
        here = _open_directory(root)
    except OSError as error:
        raise BackupError("the source root cannot be entered: %s" % error.strerror, kind="source", found=root) from error
    entered: List[bytes] = []
    with contextlib.suppress(OSError):
        for name in filter(None, base.split(b"/")):
            deeper = _open_directory(name, flags=os.O_NOFOLLOW, parent=here)
            os.close(here)
            here = deeper
            entered.append(name)
    return here, b"/".join(entered)


def _open_directory(name: bytes, *, flags: int = 0, parent: Optional[int] = None) -> int:
    descriptor = os.open(name, flags | os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.stat(".", dir_fd=descriptor)  # whether it can be searched, which O_PATH does not ask
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _make_private(path: bytes) -> None:
    """Make a directory and those above it, as ``--mkpath`` would under our umask."""
    absent = []
    while not os.path.isdir(path):
        absent.append(path)
        path = os.path.dirname(path)
    for name in reversed(absent):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700)


def _names(items: Sequence[Item], base: bytes) -> List[bytes]:
    """Names relative to ``base``."""
    start = len(base) + 1 if base else 0
    return [item.path[start:] or b"." for item in items]


def _listing(names: Sequence[bytes]) -> bytes:
    """``names`` as rsync reads them. It takes one that starts with ``#`` or ``;`` for a comment, silently."""
    return b"".join([(b"./" + name if name[:1] in (b"#", b";") else name) + b"\0" for name in names])


def _below(root: bytes, base: bytes) -> bytes:
    return root.rstrip(b"/") + b"/" + base if base else root
