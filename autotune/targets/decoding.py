"""What the targets share that decode clips with a decoder of the user's choice."""

from __future__ import annotations

from typing import Any, Literal

from autotune.exceptions import InputError, UnsupportedError
from autotune.targets.storage_latency import fingerprint
from autotune.trial import UnavailableValue

_LOADS_FFMPEG = ("spdl", "torchcodec")
"""Decoders that look for FFmpeg's libraries by their plain names when the process starts."""


def environment(
    decoder: str = "", ffmpeg: Literal["bundled", "system"] = "bundled"
) -> dict[str, str]:
    """The environment that a worker has to be started with: the same for every decoder, as
    processes that are to be compared start alike.

    Raises:
        UnsupportedError: if the decoder needs FFmpeg's libraries and they are not there.
    """
    from autotune.media.native import library_environment

    if decoder in _LOADS_FFMPEG:
        return library_environment(ffmpeg, "cpu")
    try:
        return library_environment("bundled", "cpu")
    except UnsupportedError:
        return {}


def missing_decoders() -> list[UnavailableValue]:
    """The decoders that are not installed, or not usable here, and why."""
    from autotune.media.decoders import why_unavailable

    return [
        UnavailableValue(parameter="decoder", value=name, reason=reason)
        for name, reason in why_unavailable().items()
    ]


def machine(decoder: str, emulated_latency_ms: float) -> dict[str, Any]:
    """A target's part of the machine's fingerprint."""
    from autotune.targets.versions import loaded_versions

    return {"libraries": loaded_versions(decoder), **fingerprint(emulated_latency_ms)}


def why_no_gpu() -> str | None:
    """Why torch has no GPU to hand batches to, or None where it has."""
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"torch {torch.__version__} reaches no CUDA device here; install a CUDA build of torch "
        "and NVIDIA's driver (`autotune doctor` shows what is missing)"
    )


def check_wire(dtype: str, wire_dtype: str, sends: bool) -> None:
    """Refuse float32 on the way to the transform where bytes are asked for at its end.

    Args:
        dtype: of the video handed over.
        wire_dtype: of the video on its way, if it ``sends`` any.

    Raises:
        InputError: with the remedy.
    """
    if dtype == "uint8" and sends and wire_dtype != "uint8":
        raise InputError(
            "wire_dtype: float32 has no effect with the setting dtype: uint8, which hands over "
            "bytes; fix wire_dtype: uint8 in the experiment's target"
        )
