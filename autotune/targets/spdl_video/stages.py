"""What each stage of the pipeline does with one item.

    source -> fetch -> disaggregate -> demux -> decode -> aggregate -> collate -> sink

A stage is a callable object that pickles, so that `fetch` and `demux` can run in a subprocess.
A clip that fails goes on as a `ClipFailure` in its place, to be counted by `decode`, the last
stage that handles single clips and always runs in the loader's process.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from autotune.exceptions import DataError
from autotune.media.decode import DecodedClip, decode_cpu
from autotune.media.demux import ClipPackets, demux_window
from autotune.targets.spdl_video.duration import clip_duration
from autotune.targets.spdl_video.failures import ClipFailure, FailureLog, StageCrash
from autotune.targets.spdl_video.source import ClipRef
from autotune.targets.spdl_video.stats import PID, StatsBoard


@dataclass(frozen=True, slots=True)
class Fetched:
    """A clip's bytes."""

    ref: ClipRef
    data: bytes


@dataclass(frozen=True, slots=True)
class Demuxed:
    """A window's packets, with what the demux stage was set to: it is read back from here."""

    label: int
    packets: ClipPackets
    duration: float
    random_start: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """One sample."""

    label: int
    clip: DecodedClip


class Stage(ABC):
    """Counts its work on the board and turns errors into items; see the module's docstring."""

    name: ClassVar[str]

    def __init__(self, board: StatsBoard) -> None:
        self._board = board

    def __call__(self, item: Any) -> Any:
        """Work on ``item``; a failure passes through. None, which SPDL drops, once stopped."""
        if self._board.stopped:
            return None
        if isinstance(item, ClipFailure | StageCrash):
            return item
        start = time.monotonic()
        result: Any
        try:
            result = self.work(item)
        except DataError as error:
            result = ClipFailure(error.name, error.cause)
        except Exception as error:  # not dropped: the loader raises it
            result = StageCrash(self.name, error)
        row = self._board.row(self.name)
        row[PID] = float(os.getpid())
        failed = isinstance(result, ClipFailure | StageCrash)
        self._board.add_task(row, time.monotonic() - start, failed)
        return result

    @abstractmethod
    def work(self, item: Any) -> Any:
        """The stage's work. Raises DataError if a clip cannot be delivered."""


class Fetch(Stage):
    """Reads files. Takes and returns lists, as the published example's data sets do."""

    name = "fetch"

    def __call__(self, item: Any) -> list[Any]:
        results = [super(Fetch, self).__call__(ref) for ref in item]
        return [result for result in results if result is not None]

    def work(self, item: ClipRef) -> Fetched:
        try:
            with open(item.path, "rb", buffering=0) as file:
                return Fetched(item, file.readall())
        except OSError as error:
            raise DataError(item.name, f"cannot be read: {error.strerror}") from error


class Demux(Stage):
    """Finds the packets of the window.

    Args:
        board: where to count.
        duration: length of the window, seconds.
        for_nvdec: also read how the samples are to be understood: `decode` needs it on NVDEC,
            and refuses there what NVDEC cannot decode.
    """

    name = "demux"

    def __init__(self, board: StatsBoard, duration: float, for_nvdec: bool) -> None:
        super().__init__(board)
        self._duration = duration
        self._for_nvdec = for_nvdec

    def work(self, item: Fetched) -> Demuxed:
        ref, start = item.ref, 0.0
        if ref.start is not None:
            spare = clip_duration(item.data, ref.name) - self._duration
            # Whole milliseconds: a start that can be written down and asked for again.
            start = round(max(0.0, spare) * ref.start, 3)
        packets = demux_window(
            item.data, ref.name, start, self._duration, for_nvdec=self._for_nvdec
        )
        return Demuxed(ref.label, packets, self._duration, ref.start is not None)


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """How samples are decoded."""

    num_frames: int
    height: int
    width: int
    scale_algorithm: str
    decoder_threads: int
    nvdec: bool


class Decode(Stage):
    """Decodes the frames of a window, and counts the clips that failed here or before.

    Args:
        board: where to count.
        format: how samples are decoded.
        log: takes the failures.
    """

    name = "decode"

    def __init__(self, board: StatsBoard, format: FrameFormat, log: FailureLog) -> None:
        super().__init__(board)
        self.format = format
        self.seen: tuple[float, bool] | None = None
        """Duration and randomness of the last window that was decoded. (Not the item: its packets
        may lie in shared memory that the subprocess waits for.)"""
        self._log = log

    def __call__(self, item: Any) -> Decoded | None:
        result = super().__call__(item)
        if isinstance(result, ClipFailure):
            self._log.failed(result)
        elif isinstance(result, StageCrash):
            self._log.crashed(result.exception())
        elif isinstance(result, Decoded):
            self._log.delivered()
            return result
        return None

    def work(self, item: Demuxed) -> Decoded:
        wanted = self.format
        if wanted.nvdec:
            from autotune.media.nvdec import decode_nvdec

            clip = decode_nvdec(
                item.packets,
                num_frames=wanted.num_frames,
                width=wanted.width,
                height=wanted.height,
                scale_algorithm=wanted.scale_algorithm,
            )
        else:
            clip = decode_cpu(
                item.packets,
                num_frames=wanted.num_frames,
                width=wanted.width,
                height=wanted.height,
                scale_algorithm=wanted.scale_algorithm,
                decoder_threads=wanted.decoder_threads,
            )
        self.seen = (item.duration, item.random_start)
        return Decoded(item.label, clip)
