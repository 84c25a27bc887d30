"""A folder of clips to a folder of frames: what is left to do, by as many processes as asked."""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError, InputError, UnsupportedError
from autotune.extraction.clip import Outcome, Stopped, Task, extract
from autotune.extraction.sizes import parse_size
from autotune.frame_folders import (
    RECORD,
    ExtractionRecord,
    ExtractionSettings,
    is_extracted,
    read_record,
    write_document,
)
from autotune.manifest import Manifest, scan
from autotune.targets.spdl_video.backend import guard

_LOCK = ".extraction.lock"
_SAVE_SECONDS = 5.0
_QUEUED_PER_WORKER = 4


@dataclass(frozen=True)
class Extracted:
    """A folder whose clips were all tried."""

    record: ExtractionRecord
    failures: dict[str, str]
    """Cause by name, of every clip without frames."""


Progress = Callable[[Outcome, ExtractionRecord], None]
"""Called after each clip, with what became of it and the figures so far."""


def extract_folder(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: ExtractionSettings,
    *,
    workers: int,
    check: bool = False,
    progress: Progress | None = None,
) -> Extracted:
    """Extract every clip below ``source`` that ``out`` does not hold yet.

    Killed at any time it loses the clips in flight, of which nothing is left behind that looks
    complete; run again it goes on. Clips that failed are tried again.

    Args:
        workers: processes.
        check: decode every frame that is there, and extract damaged clips again.

    Raises:
        InputError: no videos, or an ``out`` that holds something else.
        UnsupportedError: nothing more can be written.
        AutotuneError: a worker process was killed.
    """
    if settings.size is not None:
        parse_size(settings.size)
    manifest = scan(source, "videos")
    root = _output_folder(manifest, out)
    with _locked(root):
        record = _begin(root, manifest, settings)
        run = _Run(root, manifest, record, progress)
        try:
            run.work(workers, check)
        except BaseException:
            with suppress(UnsupportedError):  # of no room either: the first error says it
                run.save()
            raise
        run.save()
    return Extracted(run.record, run.failures)


def _output_folder(manifest: Manifest, out: str | os.PathLike[str]) -> Path:
    """The folder to write to, which need not exist.

    Raises:
        InputError: it lies within the videos', or holds something else.
    """
    root = Path(os.path.abspath(out))
    videos = Path(manifest.root)
    if root.resolve().is_relative_to(videos.resolve()):
        raise InputError(
            f"OUT: {out} lies in {videos}, the folder of the videos; accepted is a folder outside"
        )
    if root.exists() and not root.is_dir():
        raise InputError(f"OUT: {out} is a file; accepted is a folder, which need not exist")
    if root.is_dir() and not is_extracted(root):
        other = [name for name in os.listdir(root) if name != _LOCK]
        if other:
            raise InputError(
                f"OUT: {out} is not empty ({min(other)}) and holds no extracted clips "
                f"(no {RECORD}); accepted is a new or an empty folder"
            )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUT: {out} cannot be made: {error.strerror}") from error
    return root


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the folder: two extractions would remove each other's drafts.

    Raises:
        InputError: another one holds it.
    """
    try:
        handle = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"OUT: {root} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"OUT: another `autotune clips extract` writes to {root}; wait for its end, or "
                "use another folder"
            ) from None
        yield
    finally:
        os.close(handle)


def _begin(root: Path, manifest: Manifest, settings: ExtractionSettings) -> ExtractionRecord:
    """The record that this run goes on with.

    Raises:
        InputError: the folder was made with other settings, or of other videos.
    """
    before = read_record(root) if is_extracted(root) else None
    if before is not None:
        _refuse_other(root, before, manifest, settings)
    record = ExtractionRecord(
        source=manifest.root,
        settings=settings,
        clips=len(manifest),
        seconds=0.0 if before is None else before.seconds,
    )
    _save(root, record)
    return record


def _refuse_other(
    root: Path, before: ExtractionRecord, manifest: Manifest, settings: ExtractionSettings
) -> None:
    then = {"DIR": before.source, **before.settings.model_dump()}
    now = {"DIR": manifest.root, **settings.model_dump()}
    lines = [
        f"  {key if key == 'DIR' else f'--{key}'}: {_shown(then[key])} then, {_shown(now[key])} now"
        for key in now
        if then[key] != now[key]
    ]
    if lines:
        raise InputError(
            f"OUT: {root} was extracted otherwise:\n"
            + "\n".join(lines)
            + "\nGive the same, or extract into another folder."
        )


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)


def _save(root: Path, record: ExtractionRecord) -> None:
    try:
        write_document(root / RECORD, record)
    except OSError as error:
        raise UnsupportedError(f"OUT: {root / RECORD}: {error.strerror}; make room there") from None


class _Run:
    """One run over all clips.

    Attributes:
        record: the figures so far.
        failures: cause by name.
    """

    def __init__(
        self, root: Path, manifest: Manifest, record: ExtractionRecord, progress: Progress | None
    ) -> None:
        self._root = root
        self._manifest = manifest
        self._progress = progress
        self._before = record.seconds
        self._began = self._saved = time.monotonic()
        self._wrote = False
        self.record = record
        self.failures: dict[str, str] = {}

    def work(self, workers: int, check: bool) -> None:
        """Have every clip extracted, or kept."""
        # spawn: a fork of a process that has loaded native libraries and threads may hang.
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        tasks = self._tasks()
        pool = ProcessPoolExecutor(
            min(workers, len(self._manifest)),
            mp_context=context,
            initializer=_set_up,
            initargs=(os.getpid(), stop),
        )
        under_way: set[Future[Outcome | None]] = set()

        def submit() -> None:
            for task in itertools.islice(tasks, _QUEUED_PER_WORKER * workers - len(under_way)):
                under_way.add(pool.submit(_extract, task, self.record.settings, check))

        try:
            with _interrupts_held():
                submit()
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    self._note(future.result())
                submit()
            self.record = self.record.model_copy(update={"complete": True})
        except BrokenProcessPool:
            raise AutotuneError(
                "a worker process was killed, probably as memory ran out; "
                f"{self._done_so_far()}. Run the same command with fewer --workers: it goes on"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _tasks(self) -> Iterator[Task]:
        manifest = self._manifest
        for index, name in enumerate(manifest.paths):
            yield Task(name, manifest.path(index), os.path.join(self._root, name))

    def _note(self, outcome: Outcome | None) -> None:
        """Count one clip.

        Raises:
            UnsupportedError: it could not be written.
        """
        if outcome is None:
            return
        if outcome.blocked is not None:
            raise UnsupportedError(
                f"OUT: {self._root}: {outcome.blocked}. {self._done_so_far()}; run the same "
                "command again: it goes on"
            )
        self._wrote = self._wrote or (outcome.cause is None and not outcome.kept)
        if outcome.cause is not None:
            self.failures[outcome.name] = outcome.cause
        record, failed = self.record, outcome.cause is not None
        self.record = record.model_copy(
            update={
                "extracted": record.extracted + (not failed),
                "failed": record.failed + failed,
                "frames": record.frames + outcome.frames,
                "bytes": record.bytes + outcome.bytes,
                "source_bytes": record.source_bytes + outcome.source_bytes,
                "seconds": self._seconds(),
            }
        )
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()
        if self._progress is not None:
            self._progress(outcome, self.record)

    def _seconds(self) -> float:
        """Wall time of all runs; one that extracted no clip counts for nothing."""
        spent = time.monotonic() - self._began if self._wrote else 0.0
        return round(self._before + spent, 3)

    def _done_so_far(self) -> str:
        return f"{self.record.extracted} of {self.record.clips} clips are done"

    def save(self) -> None:
        """Write the record."""
        self._saved = time.monotonic()
        _save(self._root, self.record)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait. A process that is started meanwhile never gets it: it stays blocked there,
    from before its first line on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --------------------------------------------------------------------------- in a worker process

_stop: Any = None


def _set_up(parent: int, stop: Any) -> None:
    """Prepare a worker: Ctrl-C is its parent's business, whose end it does not outlive."""
    global _stop
    guard(parent)
    _stop = stop


def _extract(task: Task, settings: ExtractionSettings, check: bool) -> Outcome | None:
    """One clip; None where the run ends before it does."""
    try:
        return extract(task, settings, check, _stop.is_set)
    except Stopped:
        return None
