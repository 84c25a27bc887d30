"""The processes of a command: started, watched and ended; nothing is left of them."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from autotune.exceptions import InputError
from autotune.probe import DESCRIPTOR_VARIABLE, PATH_VARIABLE
from autotune.system import processes

MARK = "AUTOTUNE_COMMAND"
"""Environment variable that every process of a command inherits: which command it is."""

GRACE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""

_READ_BYTES = 65536


def check_command(words: Sequence[str], working_dir: str | None) -> None:
    """See that there is something to run.

    Raises:
        InputError: if the folder or the program is not there.
    """
    if working_dir is not None and not os.path.isdir(working_dir):
        raise InputError(
            f"target.working_dir: {working_dir}: there is no such folder on this machine. Give one "
            "that every measuring machine has, or remove the key: then it is the experiment's own"
        )
    program = words[0]
    folder = working_dir or "."
    path = os.path.join(folder, program) if "/" in program else program
    if shutil.which(path) is None:
        if "/" in program and os.path.exists(path):
            remedy = f"{path} is not executable: `chmod +x` it, or put its interpreter before it"
        else:
            remedy = (
                "Give a program on PATH, a path from target.working_dir, or {python} for the "
                "interpreter that autotune runs with"
            )
        raise InputError(f"target.command: {program!r} is not found. {remedy}")


class Command:
    """A running command, the pipe that it reports on and, if wanted, the one that it prints to."""

    def __init__(
        self,
        words: Sequence[str],
        working_dir: str | None,
        environment: Mapping[str, str],
        capture: bool,
    ) -> None:
        """Start it.

        Args:
            words: program and arguments.
            environment: variables besides those of this process.
            capture: whether what it prints is to be read here, standard error included; else it
                goes where this process's own output goes.

        Raises:
            InputError: if it cannot be started.
        """
        self.line = shlex.join(words)
        self._mark = uuid.uuid4().hex
        self._folder = Path(tempfile.mkdtemp(prefix="autotune-command-"))
        path = self._folder / "events"
        os.mkfifo(path, 0o600)
        self.events = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # kept open, so that the pipe has no end while the command runs
        self._writer = os.open(path, os.O_WRONLY)
        variables = {
            DESCRIPTOR_VARIABLE: str(self._writer),
            PATH_VARIABLE: str(path),
            MARK: self._mark,
        }
        try:
            self._process = subprocess.Popen(
                list(words),
                cwd=working_dir,
                env={**os.environ, **environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if capture else None,
                stderr=subprocess.STDOUT if capture else None,
                pass_fds=(self._writer,),
            )
        except OSError as error:
            self._release()
            raise InputError(f"target.command: {self.line}: {error.strerror}") from error
        self.output: int | None = None
        if self._process.stdout is not None:
            self.output = self._process.stdout.fileno()
            os.set_blocking(self.output, False)
        self.exited = os.pidfd_open(self._process.pid)
        """Readable once its first process has ended."""

    def exit_status(self) -> int | None:
        """Of its first process, negative for a signal; None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """End all its processes, wherever they are, and the pipes. Idempotent."""
        if not self._folder.exists():
            return
        processes.end(lambda: processes.marked(MARK, self._mark), grace=GRACE_SECONDS)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        os.close(self.exited)
        self._release()

    def _release(self) -> None:
        for descriptor in (self.events, self._writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        shutil.rmtree(self._folder, ignore_errors=True)


def read(descriptor: int) -> bytes | None:
    """What is there to read; b"" at the end, None if nothing is there yet."""
    try:
        return os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return None
