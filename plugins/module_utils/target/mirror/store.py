# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mirror asks of a place that keeps objects, beyond what packs ask: to replace an object of which it knows what it is, and to be told."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from abc import abstractmethod
from contextlib import suppress
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from ...errors import IntegrityError, TargetError
from ...manifest.walk import CREATE_FLAGS, Descent, open_file, walk
from ..pack.store import DirectoryStore, Store
from ..tree.layout import make_private

# An object that must not be there.
ABSENT = ""
_BLOCK = 1 << 20


class Found(NamedTuple):
    """An object: its size in bytes, its tag (what the store calls its version; the MD5 of its bytes where it tells of it), when it came to be (s since the
    epoch), and what its writer noted with it, where that was asked for."""

    name: str
    size: int
    tag: str
    at: float
    note: str = ""


class Content(NamedTuple):
    """What is to be stored: bytes, or an open file at its start; its SHA-256 and its MD5."""

    body: Union[bytes, BinaryIO]
    sha256: bytes
    md5: bytes

    @property
    def tag(self) -> str:
        """The tag that an object of these bytes has."""
        return self.md5.hex()


def content_of(data: bytes) -> Content:
    """Bytes, to be stored."""
    return Content(data, hashlib.sha256(data).digest(), make_md5(data).digest())


def make_md5(data: bytes = b"") -> Any:
    """MD5 as a name for bytes; nothing here rests on its being hard to forge."""
    make: Callable[..., Any] = hashlib.md5
    return make(data, usedforsecurity=False)


class MirrorStore(Store):
    """A store whose objects may be replaced."""

    @abstractmethod
    def objects(self) -> List[Found]:
        """All that lies here, without notes."""

    @abstractmethod
    def look(self, name: str) -> Optional[Found]:
        """What is there under a name."""

    @abstractmethod
    def read(self, name: str) -> Optional[Tuple[bytes, Found]]:
        """A small object."""

    @abstractmethod
    def replace(self, name: str, content: Content, expected: str, note: str = "") -> Optional[str]:
        """Store an object in the place of the one with the tag ``expected`` (``ABSENT``: of none); the tag that it has then. None, and nothing is
        changed, where the store sees in the same step that another one is there: some look at it, others do not."""

    def announce(self, notes: Mapping[str, str]) -> None:
        """These objects are about to be replaced, each with its note."""


class MirrorDirectory(DirectoryStore, MirrorStore):
    """Objects as files of any name below ``path``. What is on its way lies in a directory of its own, and notes in a file."""

    _ON_THE_WAY = b".unfinished"
    _NOTES = ".unfinished.json"

    def _encoded(self, name: str) -> bytes:
        return os.fsencode(name)

    def objects(self) -> List[Found]:
        with self._explained("read"):
            try:
                root = Descent(self._path)
            except FileNotFoundError:
                return []
            found = []
            with root:
                for path, listing in walk(root):
                    listing[:] = [item for item in listing if path or item.name != self._ON_THE_WAY]
                    for item in listing:
                        if stat.S_ISREG(item.stat.st_mode):
                            name = b"%s/%s" % (path, item.name) if path else item.name
                            with suppress(FileNotFoundError):
                                found.append(self._found(os.fsdecode(name), *root.parent(name)))
            return found

    def _found(self, name: str, at: int, last: bytes, note: str = "") -> Found:
        fd, seen = open_file(at, last)
        digest = make_md5()
        with open(fd, "rb", buffering=0) as stream:
            for block in iter(lambda: stream.read(_BLOCK), b""):
                digest.update(block)
        return Found(name, seen.st_size, digest.hexdigest(), seen.st_mtime, note)

    def look(self, name: str) -> Optional[Found]:
        with self._explained("read"):
            try:
                with Descent(self._path) as root:
                    return self._found(name, *root.parent(self._encoded(name)), self._notes().get(name, ""))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
            except OSError as error:
                if error.errno is None:  # a directory has that name
                    return None
                raise

    def read(self, name: str) -> Optional[Tuple[bytes, Found]]:
        data = self.get(name)
        if data is None:
            return None
        with Descent(self._path) as root:
            at, last = root.parent(self._encoded(name))
            return data, Found(name, len(data), make_md5(data).hexdigest(), os.stat(last, dir_fd=at, follow_symlinks=False).st_mtime)

    def replace(self, name: str, content: Content, expected: str, note: str = "") -> Optional[str]:
        path = self._encoded(name)
        with self._explained("written"):
            make_private(self._path)
            with Descent(self._path) as root:
                waiting = root.directory(self._ON_THE_WAY, create=0o700)
                temporary = os.urandom(8).hex().encode("ascii")
                source = os.dup(waiting)
                try:
                    with open(os.open(temporary, CREATE_FLAGS, 0o600, dir_fd=source), "wb", buffering=0) as stream:
                        digest = hashlib.sha256()
                        for block in _blocks(content.body):
                            digest.update(block)
                            if self.sending is not None:
                                self.sending(len(block))
                            view = memoryview(block)
                            while view:
                                view = view[stream.write(view) :]
                        os.fsync(stream.fileno())
                    if digest.digest() != content.sha256:
                        raise IntegrityError("%s changed while it was stored" % name, kind="checksum", found=name, next="run again")
                    at, last = root.parent(path, create=0o700)
                    os.rename(temporary, last, src_dir_fd=source, dst_dir_fd=at)
                    above = path
                    while above:
                        above = above.rpartition(b"/")[0]
                        os.fsync(root.directory(above))
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(temporary, dir_fd=source)
                    os.close(source)
        return content.tag

    def announce(self, notes: Mapping[str, str]) -> None:
        text = json.dumps({**self._notes(), **notes}).encode("ascii")
        self.replace(self._NOTES, content_of(text), ABSENT)

    def _notes(self) -> Dict[str, str]:
        try:
            found = json.loads(self.get(self._NOTES) or b"{}")
        except ValueError:
            return {}
        return {name: note for name, note in found.items() if type(note) is str} if type(found) is dict else {}

    def settle(self) -> None:
        self.delete(self._NOTES)
        with self._explained("written"), suppress(FileNotFoundError):
            with Descent(self._path) as root:
                waiting = root.directory(self._ON_THE_WAY)
                for name in os.listdir(waiting):  # what a run that was killed left
                    os.unlink(name, dir_fd=waiting)

    def delete(self, name: str) -> None:
        try:
            super().delete(name)
        except TargetError as error:
            if not isinstance(error.__cause__, (NotADirectoryError, IsADirectoryError)):  # then there is no such object
                raise


def _blocks(body: Union[bytes, BinaryIO]) -> Any:
    return (body,) if isinstance(body, bytes) else iter(lambda: body.read(_BLOCK), b"")
