"""Clips of known content for tests of loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_clip(path: Path, seed: int, frames: int = 18, rate: int = 12) -> None:
    """A clip of 96x64 pixels with B frames, whose frames all differ."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 5 * i, axis=1), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def write_clips(root: Path) -> Path:
    """Seven clips of 1.5 s in three classes: fewer than the batches of tests have samples."""
    for seed in range(7):
        write_clip(root / f"class_{seed % 3}" / f"clip_{seed}.mp4", seed)
    return root
