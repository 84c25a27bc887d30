"""Clips extracted to JPEG frames, and what a slow reader of them delivers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.extraction.run import extract_folder
from autotune.frame_folders import ExtractionSettings, frame_path, read_index, read_record
from autotune.manifest import Manifest
from autotune.media.reference import decode_reference, stretched


def extracted(videos: Path, out: Path, **settings: Any) -> Path:
    """All clips below ``videos`` as frames below ``out``."""
    extract_folder(videos, out, ExtractionSettings(**settings), workers=2)
    return out


def video_of(manifest: Manifest, index: int) -> Path:
    """The video file of a clip, which may lie there as frames."""
    if manifest.kind == "videos":
        return Path(manifest.path(index))
    return Path(read_record(manifest.root).source, manifest.paths[index])


def frame_numbers(
    manifest: Manifest, index: int, start: float, duration: float, num_frames: int
) -> list[int]:
    """Which of a clip's extracted frames the reference takes from its video: by the timestamps
    of the pictures that come out of it."""
    data, name = video_of(manifest, index).read_bytes(), manifest.paths[index]
    wanted: dict[str, Any] = {"width": 16, "height": 16}
    first = decode_reference(data, name, 0.0, 0.01, num_frames=1, **wanted).pts[0]
    taken = decode_reference(data, name, start, duration, num_frames=num_frames, **wanted).pts
    there = read_index(manifest.path(index), name).pts
    return [there.index(pts - first) for pts in taken]


def slow_frames(
    manifest: Manifest,
    index: int,
    start: float,
    duration: float,
    *,
    num_frames: int,
    height: int,
    width: int,
) -> Any:
    """A sample as uint8 array [T, H, W, 3]: each JPEG file opened and scaled by itself."""
    import av
    import numpy as np

    pictures = []
    for number in frame_numbers(manifest, index, start, duration, num_frames):
        with av.open(frame_path(manifest.path(index), number)) as container:
            (frame,) = container.decode(video=0)
            pictures.append(stretched(frame, width=width, height=height, scale_algorithm="bicubic"))
    return np.stack(pictures)
