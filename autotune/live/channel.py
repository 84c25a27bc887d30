"""Reads what processes publish, from the files of a folder or from a pipe."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from autotune.exceptions import InputError
from autotune.live.lines import Line
from autotune.publishing.sinks import OLDER

_READ_BYTES = 2**20


class Channel(Protocol):
    """Where lines come from."""

    def read(self) -> list[Line]:
        """The lines since the last call, by time; at first all that are still there."""

    def close(self) -> None:
        """Read no more."""


def open_channel(path: Path) -> Channel:
    """Read from a path as ``AUTOTUNE_LIVE`` names it.

    Raises:
        InputError: if there is nothing, or nothing that may be read.
    """
    if path.is_dir():
        return FolderChannel(path)
    try:
        return StreamChannel(path)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}. Give the folder, named pipe or file that AUTOTUNE_LIVE "
            "names for the process to be watched"
        ) from error


class _Lines:
    """Bytes to lines; what is no line is left out, as it may come from anybody."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> list[Line]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        found = []
        for text in whole:
            with contextlib.suppress(ValidationError):
                found.append(Line.model_validate_json(text))
        return found


class _Tail:
    """A file that grows and is exchanged for a new one when it is full."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _Lines()
        self._file = -1
        self._begun = False

    def read(self) -> list[Line]:
        lines: list[Line] = []
        if not self._begun:
            self._begun = True
            with contextlib.suppress(OSError):
                lines += _Lines().take(Path(f"{self._path}{OLDER}").read_bytes())
        while True:
            if self._file < 0:
                try:
                    self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:  # not there yet
                    return lines
            exchanged = self._exchanged()  # asked first: what is read after it is all there is
            while data := os.read(self._file, _READ_BYTES):
                lines += self._lines.take(data)
            if not exchanged:
                return lines
            self.close()

    def _exchanged(self) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(self._file).st_ino
        except OSError:
            return False  # it is gone, and no new one is there

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._lines = _Lines()


class FolderChannel:
    """All files of a folder, one a process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tails: dict[str, _Tail] = {}

    def read(self) -> list[Line]:
        with contextlib.suppress(OSError):
            for entry in os.listdir(self._folder):
                name = entry.removesuffix(OLDER)
                if name.endswith(".jsonl") and name not in self._tails:
                    self._tails[name] = _Tail(self._folder / name)
        lines = [line for tail in self._tails.values() for line in tail.read()]
        return sorted(lines, key=lambda line: line.time)

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self._tails = {}


class StreamChannel:
    """A named pipe, or a file that several processes append to."""

    def __init__(self, path: Path) -> None:
        """Raises:
        OSError: if it cannot be read.
        """
        self._lines = _Lines()
        self._keeper = -1
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISFIFO(os.fstat(self._file).st_mode):
            # with a writer of our own the pipe does not end when one of the others does
            self._keeper = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> list[Line]:
        lines: list[Line] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._file, _READ_BYTES):
                lines += self._lines.take(data)
        return sorted(lines, key=lambda line: line.time)

    def close(self) -> None:
        for descriptor in (self._file, self._keeper):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._keeper = -1
