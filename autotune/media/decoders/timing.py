"""How long each decoder takes for the same clips: the table people make by hand.

One process and one clip after the other, so that nothing but the decoder differs. The decoders
take turns, so that a machine that changes changes for all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autotune.exceptions import DataError, UnsupportedError
from autotune.media.decoders import DECODERS, Decoder, Window, library_of, load
from autotune.media.packets import one_line


@dataclass(slots=True)
class Timing:
    """One decoder's figures.

    Attributes:
        seconds: for all clips, an entry a block.
        parts: seconds by part of the work (`base.DECODER_STAGES`), over all blocks.
        decoded: clips decoded in one block; ``decoded_frames`` frames, kept or not.
        failed: clip -> cause. A decoder that fails is fast: compare only equal numbers.
        version: of its package; None where it is not there.
        unavailable: why it could not be measured, else None.
    """

    decoder: str
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    decoded: int = 0
    decoded_frames: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    unavailable: str | None = None

    @property
    def median(self) -> float | None:
        """Median seconds for all clips; None where nothing was measured."""
        return statistics.median(self.seconds) if self.seconds else None


def time_decoders(
    clips: Sequence[tuple[str, str]],
    window: Window,
    blocks: int = 5,
    names: Sequence[str] = tuple(DECODERS),
    *,
    tell: Callable[[str], None] = lambda name: None,
    until: float = math.inf,
) -> list[Timing]:
    """Decode the same window of every clip with every decoder, ``blocks`` times in turns.

    A first block warms caches and is not counted. The process must have been started with
    `media.native.library_environment` for the decoders that look for FFmpeg.

    Args:
        clips: (path, name).
        window: what is decoded of each.
        blocks: how often.
        names: which decoders.
        tell: called with a decoder's name before it is loaded, and before each of its turns.
        until: no block begins that would not end by then (`time.perf_counter`); the first one
            that counts is always made.

    Returns:
        In the order of ``names``; those that are not installed, or are broken, say so.

    Raises:
        InputError: there is no decoder of such a name.
    """
    timings = [Timing(name) for name in names]
    ready: list[tuple[Timing, Decoder]] = []
    for timing in timings:
        tell(timing.decoder)
        try:
            decoder = load(timing.decoder)
        except UnsupportedError as error:
            timing.unavailable = str(error)
            continue
        timing.version = library_of(timing.decoder)[1]
        ready.append((timing, decoder))
    longest = 0.0
    for block in range(-1, blocks):
        begun = time.perf_counter()
        if block > 0 and begun + longest > until:
            break
        shift = max(block, 0) % max(1, len(ready))
        for timing, decoder in ready[shift:] + ready[:shift]:
            if timing.unavailable is not None:
                continue
            tell(timing.decoder)
            try:
                _pass(timing, decoder, clips, window, counted=block >= 0)
            except Exception as error:  # what a library does that no `Decoder` may: its end alone
                _give_up(timing, error)
        longest = max(longest, time.perf_counter() - begun)
    return timings


def _give_up(timing: Timing, error: Exception) -> None:
    """Forget a decoder's figures, which are not of all its blocks."""
    timing.seconds.clear()
    timing.parts.clear()
    timing.failed.clear()
    timing.decoded = timing.decoded_frames = 0
    timing.unavailable = (
        f"decoder: {timing.decoder}: failed with {type(error).__name__}: {one_line(error)}; update "
        "its package, or leave it out"
    )


def _pass(
    timing: Timing,
    decoder: Decoder,
    clips: Sequence[tuple[str, str]],
    window: Window,
    counted: bool,
) -> None:
    """Decode every clip once."""
    decoded = frames = 0
    parts: dict[str, float] = {}
    start = time.perf_counter()
    for path, name in clips:
        try:
            clip = decoder.decode(path, name, window)
        except DataError as error:
            timing.failed[name] = error.cause
            continue
        decoded += 1
        frames += clip.decoded_frames
        for part, spent in clip.seconds.items():
            parts[part] = parts.get(part, 0.0) + spent
    spent = time.perf_counter() - start
    if not counted:
        return
    timing.seconds.append(spent)
    timing.decoded, timing.decoded_frames = decoded, frames
    for part, seconds in parts.items():
        timing.parts[part] = timing.parts.get(part, 0.0) + seconds
