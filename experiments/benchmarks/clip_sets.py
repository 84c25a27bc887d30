"""The data sets that the benchmarks measure on: real clips of one shape, made many by links."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from autotune.exceptions import InputError
from autotune.manifest import scan

KINETICS_SHAPE = (340, 256)
"""Width and height to which Kinetics is commonly resized."""

_LEAST_RATE = 20.0


@dataclass(frozen=True)
class ClipShape:
    """What a clip's header says; width and height in pixels, rate in frames per second."""

    path: str
    codec: str
    width: int
    height: int
    rate: float


def shape_of(path: str) -> ClipShape | None:
    """The best video stream of a clip; None where PyAV cannot open it."""
    import av

    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            if stream is None:
                return None
            context = stream.codec_context
            rate = float(stream.average_rate or 0)
            return ClipShape(path, context.name, context.width, context.height, rate)
    except av.error.FFmpegError:
        return None


def linked_set(clips: Path, folder: Path, count: int = 64) -> tuple[Path, list[str]]:
    """A folder of ``count`` hard links to the 340x256 H.264 clips below ``clips``.

    Clips below 20 frames/s are left out: 0.5 s of them hold a handful of frames. The links
    share their pages in the page cache, so nothing here measures a disk. Links cannot cross
    file systems: there the clips are copied.

    Returns:
        the folder and the names of the clips it was made of.

    Raises:
        InputError: if there is no such clip.
    """
    manifest = scan(clips)
    shapes = [shape_of(manifest.path(i)) for i in range(len(manifest))]
    chosen = [
        s
        for s in shapes
        if s is not None
        and (s.width, s.height) == KINETICS_SHAPE
        and s.codec == "h264"
        and s.rate >= _LEAST_RATE
    ]
    if not chosen:
        raise InputError(
            f"--clips {clips}: holds no H.264 clip of 340x256 at {_LEAST_RATE:g} frames/s or more; "
            "accepted is a folder with one, or --data with a folder to use as it is"
        )
    target = folder / "clips" / "linked"
    target.mkdir(parents=True)
    for number, shape in zip(range(count), itertools.cycle(chosen), strict=False):
        place = target / f"{number:04d}{Path(shape.path).suffix}"
        try:
            os.link(shape.path, place)
        except OSError:
            shutil.copyfile(shape.path, place)
    return folder / "clips", [os.path.relpath(s.path, clips) for s in chosen]


def shrunken_set(clips: Path, folder: Path, size: tuple[int, int], seconds: float = 4.0) -> Path:
    """A folder of the first ``seconds`` of the clips below ``clips``, as H.264 of another size,
    under the same names. Clips that are links to one file are made once and linked again.

    Args:
        size: width and height in pixels.
    """
    manifest = scan(clips)
    made: dict[tuple[int, int], Path] = {}
    for index in range(len(manifest)):
        source, place = Path(manifest.path(index)), folder / manifest.paths[index]
        place = place.with_suffix(".mp4")
        place.parent.mkdir(parents=True, exist_ok=True)
        status = source.stat()
        known = made.setdefault((status.st_dev, status.st_ino), place)
        if known is place:
            _shrink(source, place, size, seconds)
        else:
            os.link(known, place)
    return folder


def _shrink(source: Path, target: Path, size: tuple[int, int], seconds: float) -> None:
    import av

    width, height = size
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        read = given.streams.best("video")
        rate = read.average_rate
        wrote = out.add_stream("libx264", rate=rate, options={"crf": "23"})
        wrote.width, wrote.height, wrote.pix_fmt = width, height, "yuv420p"
        for number, frame in enumerate(given.decode(read)):
            if number >= seconds * rate:
                break
            small = frame.reformat(width=width, height=height, format="yuv420p")
            small.pts = None  # numbered anew, from 0
            out.mux(wrote.encode(small))
        out.mux(wrote.encode(None))
