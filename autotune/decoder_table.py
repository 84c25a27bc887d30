"""Seconds for N clips, per decoder: the use case behind ``autotune compare --decoders``.

The decoders take turns in one process, started as the workers are, so that each finds its
libraries. One that ends that process, or hangs in it, is named, and the others are measured
without it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from pydantic import Field

from autotune.exceptions import MeasurementFailed, UnsupportedError
from autotune.manifest import Manifest, scan
from autotune.media.decoders import DECODERS, Window
from autotune.media.native import library_environment
from autotune.trial import FailedClip, Failure, Value

COMMAND = [sys.executable, "-m", "autotune.media.decoders"]
"""What decodes: reads a request, see there."""

_GRACE_SECONDS = 30.0
"""Past the time asked for: the warm-up and the first block are always made."""


@dataclass(frozen=True)
class TableSettings:
    """What is decoded, and how often."""

    window: Window = field(default_factory=lambda: Window(0.0, 2.0))
    blocks: int = 5
    """How often every decoder decodes every clip; a first time that warms up is not counted."""
    clips: int = 100
    """The most clips; chosen by the seed where the folder holds more."""
    seed: int = 0
    seconds: float = 240.0
    """For all of it; fewer blocks are made where it is short."""


class DecoderFigures(Value):
    """One decoder in the table; without ``seconds`` it was not measured, and says why."""

    decoder: str
    version: str | None
    clips: int
    """That it decoded. Times compare only between decoders that decoded as many."""
    seconds: float | None
    """Median over the blocks, for all clips."""
    seconds_min: float | None
    seconds_max: float | None
    clips_per_second: float | None
    blocks: int
    decoded_frames: int
    """In one block, kept or not, as far as the decoder can tell."""
    parts: dict[str, float] = Field(default_factory=dict)
    """Seconds of a block by part of the work: fetch, demux, decode, scale."""
    failed: int
    failed_clips: list[FailedClip] = Field(default_factory=list)
    unavailable: str | None = None
    """Why it could not be measured, with the remedy."""


def decoder_table(
    data_dir: str | os.PathLike[str], settings: TableSettings | None = None
) -> list[DecoderFigures]:
    """Time every decoder that can be used here on the same clips; the fastest first.

    Raises:
        InputError: the data folder is wrong.
        MeasurementFailed: the process that decodes failed before any decoder's turn, or the clips
            are too many for the time.
    """
    settings = settings or TableSettings()
    clips = _chosen(scan(data_dir, "videos"), settings)
    names, figures = list(DECODERS), list[DecoderFigures]()
    while True:
        answer = _measure(clips, names, settings)
        if not isinstance(answer, _Lost):
            break
        figures.append(_figures({"decoder": answer.decoder, "unavailable": answer.why}))
        names.remove(answer.decoder)
    figures += [_figures(timing) for timing in answer]
    return sorted(figures, key=lambda f: (f.seconds is None, -f.clips, f.seconds or 0.0))


@dataclass(frozen=True)
class _Lost:
    """The decoder that took the process with it."""

    decoder: str
    how: str

    @property
    def why(self) -> str:
        """Why it was not measured, with the remedy."""
        return f"decoder: {self.decoder}: {self.how}; update its package, or leave it out"


def _chosen(manifest: Manifest, settings: TableSettings) -> list[tuple[str, str]]:
    """(path, name) of the clips to decode."""
    count = min(settings.clips, len(manifest))
    chosen = sorted(random.Random(settings.seed).sample(range(len(manifest)), count))
    return [(manifest.path(index), manifest.paths[index]) for index in chosen]


def _measure(
    clips: Sequence[tuple[str, str]], names: Sequence[str], settings: TableSettings
) -> list[dict[str, Any]] | _Lost:
    """The timings as JSON objects, or the decoder without which to try again."""
    request = {
        "clips": clips,
        "names": names,
        "window": asdict(settings.window),
        "blocks": settings.blocks,
        "seconds": settings.seconds,
    }
    try:
        environment = library_environment()
    except UnsupportedError:  # PyAV without its own FFmpeg: a system one may do
        environment = {}
    process = subprocess.Popen(
        COMMAND,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    limit = 2 * settings.seconds + _GRACE_SECONDS
    try:
        output, _ = process.communicate(json.dumps(request), timeout=limit)
    except subprocess.TimeoutExpired as error:
        return _hung(_text(error.stdout), limit)
    finally:
        process.kill()
        process.wait()
    lines = output.splitlines()
    if process.returncode == 0 and lines:
        timings: list[dict[str, Any]] = json.loads(lines[-1])
        return timings
    status = process.returncode
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    if not lines:
        raise _failed("crash", f"the decoding process ended before it decoded ({how})")
    return _Lost(_turn(lines[-1])[0], f"ended the process that decoded with it ({how})")


def _hung(output: str, limit: float) -> _Lost:
    """The decoder whose turn took most of the time until the limit.

    Raises:
        MeasurementFailed: none did: it is too short for all of them.
    """
    lines = output.splitlines()
    if lines:
        decoder, begun = _turn(lines[-1])
        spent = time.monotonic() - begun
        if spent > limit / 2:
            return _Lost(decoder, f"did not come back within {spent:.0f} s")
    raise _failed("deadline", f"decoding did not end within {limit:.0f} s")


def _turn(line: str) -> tuple[str, float]:
    """The decoder of a line, and when its turn began."""
    decoder, _, begun = line.partition(" ")
    return decoder, float(begun)


def _text(output: bytes | str | None) -> str:
    """What a process said until it was stopped: bytes, whatever was asked for."""
    return output.decode() if isinstance(output, bytes) else output or ""


def _failed(kind: Any, cause: str) -> MeasurementFailed:
    return MeasurementFailed(
        Failure(kind=kind, cause=cause, advice="The lines above say why; try fewer clips.")
    )


def _figures(timing: dict[str, Any]) -> DecoderFigures:
    seconds: list[float] = timing.get("seconds", [])
    failed: dict[str, str] = timing.get("failed", {})
    decoded = int(timing.get("decoded", 0))
    middle = median(seconds) if seconds else None
    return DecoderFigures(
        decoder=timing["decoder"],
        version=timing.get("version"),
        clips=decoded,
        seconds=middle,
        seconds_min=min(seconds, default=None),
        seconds_max=max(seconds, default=None),
        clips_per_second=decoded / middle if middle else None,
        blocks=len(seconds),
        decoded_frames=int(timing.get("decoded_frames", 0)),
        parts={part: spent / len(seconds) for part, spent in timing.get("parts", {}).items()},
        failed=len(failed),
        failed_clips=[FailedClip(name=name, cause=cause) for name, cause in failed.items()],
        unavailable=timing.get("unavailable"),
    )
