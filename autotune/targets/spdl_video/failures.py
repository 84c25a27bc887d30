"""Clips that could not be delivered: counted by name and cause, never dropped silently."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from autotune.exceptions import DataError, InputError, UnsupportedError
from autotune.trial import FailedClip

_KEPT = 20
_FEWEST = 20
_MOST = 1000


@dataclass(frozen=True, slots=True)
class ClipFailure:
    """Takes a failed clip's place in the pipeline, through the process boundary too."""

    name: str
    cause: str


class StageCrash:
    """An error that is no clip's fault. It ends the loader, which raises it.

    The exception itself stays in its process: SPDL's need not pickle. What crosses is its text.
    """

    def __init__(self, stage: str, error: BaseException) -> None:
        self.stage = stage
        self.kind = type(error).__name__
        self.text = str(error)
        self.error: BaseException | None = error

    def __getstate__(self) -> tuple[str, str, str]:
        return self.stage, self.kind, self.text

    def __setstate__(self, state: tuple[str, str, str]) -> None:
        self.stage, self.kind, self.text = state
        self.error = None

    def exception(self) -> BaseException:
        """The exception to raise: the original one, or one of its kind."""
        if self.error is not None:
            return self.error
        for known in (UnsupportedError, InputError):
            if self.kind == known.__name__:
                return known(self.text)
        if self.kind == "MemoryError":
            return MemoryError(f"{self.stage}: {self.text}")
        return RuntimeError(f"stage {self.stage} failed: {self.kind}: {self.text}")


class FailureLog:
    """Counts failed clips and notices when nothing works at all.

    Args:
        epoch: clips of one epoch. When a whole epoch (20 clips at least, 1,000 at most) failed
            in a row, the loader gives up: it would never yield a batch.
    """

    def __init__(self, epoch: int) -> None:
        self._limit = min(_MOST, max(_FEWEST, epoch))
        self._lock = threading.Lock()
        self._count = 0
        self._in_a_row = 0
        self._clips: dict[str, str] = {}
        self._fatal: BaseException | None = None

    def failed(self, failure: ClipFailure) -> None:
        """Count one clip that could not be delivered."""
        with self._lock:
            self._count += 1
            self._in_a_row += 1
            if len(self._clips) < _KEPT:
                self._clips.setdefault(failure.name, failure.cause)
            if self._in_a_row >= self._limit and self._fatal is None:
                self._fatal = DataError(
                    failure.name,
                    f"{failure.cause} (the last of {self._in_a_row} clips in a row that failed: "
                    "the data folder holds no clip that can be decoded, or cannot be read)",
                )

    def delivered(self) -> None:
        """Note that a clip was decoded."""
        self._in_a_row = 0

    def crashed(self, error: BaseException) -> None:
        """Note an error that ends the loader; the first one counts."""
        with self._lock:
            if self._fatal is None:
                self._fatal = error

    @property
    def fatal(self) -> BaseException | None:
        """What the loader has to raise, if anything."""
        return self._fatal

    def report(self) -> tuple[int, list[FailedClip]]:
        """How many clips failed so far, and up to 20 of them."""
        with self._lock:
            clips = [FailedClip(name=name, cause=cause) for name, cause in self._clips.items()]
            return self._count, clips


def subprocess_died(pid: int | None, exit_code: int | None) -> RuntimeError:
    """The error to raise when the demux process is gone."""
    how = f"killed by signal {-exit_code}" if exit_code and exit_code < 0 else f"exit {exit_code}"
    return RuntimeError(
        f"the demux subprocess (pid {pid}) ended unexpectedly ({how}); the log above may say why"
    )
