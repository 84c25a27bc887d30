"""What the tests of the decoders run in the process that has SPDL (see conftest)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autotune.exceptions import DataError
from autotune.media.decoders import DecodedWindow, Decoder, Window, load, why_unavailable
from autotune.media.reference import reference_frames, stretched
from autotune.media.windows import sample_indices, unique_count

_loaded: dict[str, Decoder] = {}


def missing() -> dict[str, str]:
    """The decoders that cannot be used there."""
    return why_unavailable()


def compare(decoder: str, path: str, window: Window) -> dict[str, Any]:
    """One decoder beside the reference: PSNR in dB (None where equal), counts, or the error."""
    name = Path(path).name
    try:
        clip = _decode(decoder, path, name, window)
    except DataError as error:
        return {"error": error.cause}
    inside, _ = reference_frames(Path(path).read_bytes(), name, window.start, window.duration)
    indices = sample_indices(len(inside), window.num_frames)
    height, width = window.size or (inside[0].height, inside[0].width)
    algorithm = window.scale_algorithm
    wanted = np.stack(
        [
            stretched(inside[i], width=width, height=height, scale_algorithm=algorithm)
            for i in indices
        ]
    )
    answer: dict[str, Any] = {
        "shape": clip.frames.shape,
        "dtype": str(clip.frames.dtype),
        "unique": clip.unique_frames,
        "wanted_unique": unique_count(indices),
        "decoded": clip.decoded_frames,
        "seconds": clip.seconds,
    }
    if clip.frames.shape != wanted.shape:
        return {**answer, "error": f"shape {clip.frames.shape}, not {wanted.shape}"}
    return {**answer, "psnr": _psnr(clip.frames, wanted)}


def _decode(decoder: str, path: str, name: str, window: Window) -> DecodedWindow:
    if decoder not in _loaded:
        _loaded[decoder] = load(decoder)
    return _loaded[decoder].decode(path, name, window)


def _psnr(first: Any, second: Any) -> float | None:
    error = float(np.mean((first.astype(float) - second) ** 2))
    return None if error == 0 else 10 * np.log10(255**2 / error)
