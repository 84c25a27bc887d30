"""The worker's two lines to its supervisor: events out, commands in.

Events are JSON lines on a pipe of their own, so that nothing a library prints can be taken for
one. Commands come on the control pipe: ``go`` starts counting, ``stop`` ends the measurement,
``watch`` says that somebody watches the trial, and its end means that the supervisor is gone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from autotune.trial import Event


class EventWriter:
    """Writes events; thread-safe. Nothing follows a ``finished`` or ``failed`` event."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._ended = False

    def __call__(self, event: Event) -> bool:
        """Write one event as one line; False if the stream has ended already.

        Raises:
            BrokenPipeError: if the supervisor no longer reads.
        """
        line = event.model_dump_json().encode() + b"\n"
        with self._lock:
            if self._ended:
                return False
            self._ended = event.event in ("finished", "failed")
            while line:
                line = line[os.write(self._descriptor, line) :]
        return True


class Control:
    """Reads the control pipe in a thread."""

    def __init__(self, descriptor: int, seen: bytes = b"") -> None:
        """Args:
        descriptor: the read end, owned by this object from now on.
        seen: what was already read from it beyond the specification.
        """
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._buffer = seen
        self.go = threading.Event()
        self.stop = threading.Event()
        self.watched = threading.Event()
        self._on_watch: Callable[[], None] = lambda: None

    def start(
        self, on_end: Callable[[], None], on_watch: Callable[[], None] = lambda: None
    ) -> None:
        """Begin to read.

        Both are called in the reading thread: ``on_end`` when the pipe ends, ``on_watch`` at the
        command ``watch``.
        """
        self._on_watch = on_watch
        threading.Thread(
            target=self._read, args=(on_end,), name="autotune-control", daemon=True
        ).start()

    def _read(self, on_end: Callable[[], None]) -> None:
        while True:
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                self._obey(line.strip())
            data = os.read(self._descriptor, 4096)
            if not data:
                on_end()
                return
            self._buffer += data

    def _obey(self, command: bytes) -> None:
        if command == b"go":
            self.go.set()
        elif command == b"stop":
            self.stop.set()
            self.go.set()
        elif command == b"watch":
            self.watched.set()
            self._on_watch()
