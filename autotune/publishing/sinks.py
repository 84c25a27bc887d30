"""Where the lines go: a folder (one file a process, of bounded size), a pipe or a file."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Protocol

PIPE_BYTES = 4096
"""PIPE_BUF: what is longer may be cut in a pipe, or mixed with the lines of other processes."""

FILE_BYTES = 2**20
"""A process keeps its last one to two of these: at some 1 KB a line, ten minutes and more."""

OLDER = ".1"
"""Ends the name of the file before the current one."""


class Sink(Protocol):
    """Takes whole lines."""

    @property
    def wants_start(self) -> bool:
        """Whether the next line is the first one that a reader will see."""

    @property
    def longest(self) -> int | None:
        """Bytes of a line that is sure to stay whole; None: any number."""

    def write(self, line: bytes) -> bool:
        """Write a line without waiting; False where it was dropped."""

    def close(self) -> None:
        """Let go of the file."""


def open_sink(path: str) -> Sink:
    """The sink for a path: an existing folder, a named pipe, or a file to append to.

    Raises:
        OSError: if there can be none.
    """
    return Folder(path) if os.path.isdir(path) else Stream(path)


class Folder:
    """A file of this process in a folder; when it is full it becomes the older one of two."""

    longest = None

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, f"{os.getpid()}.jsonl")
        self._descriptor: int | None = None
        self._size = 0
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = 0

    @property
    def wants_start(self) -> bool:
        return self._size == 0

    def write(self, line: bytes) -> bool:
        try:
            if self._descriptor is None:
                self._open()
            if self._descriptor is None or os.write(self._descriptor, line) != len(line):
                return False
        except OSError:  # the disk is full, or the folder is gone with who watched
            self.close()
            return False
        self._size += len(line)
        if self._size >= FILE_BYTES:
            self.close()
            with contextlib.suppress(OSError):
                os.replace(self._path, self._path + OLDER)
        return True

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Stream:
    """A named pipe that may or may not have a reader, or a file that grows."""

    def __init__(self, path: str) -> None:
        """Raises:
        OSError: if the path cannot be written; a pipe that nobody reads yet is no such case.
        """
        self._path = path
        self._descriptor: int | None = None
        self.wants_start = True
        self.longest: int | None = None
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.exists(path) and not os.path.isdir(folder):
            raise FileNotFoundError(2, "there is no such folder", folder)
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise PermissionError(13, "it may not be written", path)
        if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            self.longest = PIPE_BYTES

    def write(self, line: bytes) -> bool:
        try:
            if self._descriptor is None:
                # O_NONBLOCK: a pipe that nobody reads is an error, else it would wait for ever
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            written = os.write(self._descriptor, line)
        except BlockingIOError:  # its reader is slow
            return False
        except OSError:  # nobody reads, now or any more: perhaps again later
            self.close()
            self.wants_start = True
            return False
        self.wants_start = False
        return written == len(line)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
