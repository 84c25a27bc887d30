"""The libraries that do the work, as this process loaded them, and what they need."""

from __future__ import annotations

from importlib.metadata import version

from autotune.exceptions import UnsupportedError


def loaded_versions() -> dict[str, str]:
    """Names and versions; FFmpeg's as mapped into this process, with where it came from.

    Raises:
        UnsupportedError: if spdl.io found no FFmpeg.
    """
    from autotune.media.native import loaded_ffmpeg

    ffmpeg = loaded_ffmpeg()
    return {
        "ffmpeg": f"{ffmpeg['release']} ({ffmpeg['source']})",
        "libavcodec": str(ffmpeg["versions"]["avcodec"]),
        "spdl": version("spdl"),
        "av": version("av"),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


def require_ffmpeg(wanted: str) -> None:
    """Fail where spdl.io has not loaded the FFmpeg that was asked for.

    Args:
        wanted: ``bundled`` or ``system``.

    Raises:
        UnsupportedError: if it loaded none, or another one.
    """
    from autotune.media.native import loaded_ffmpeg

    ffmpeg = loaded_ffmpeg()
    if ffmpeg["source"] != wanted:
        raise UnsupportedError(
            f"ffmpeg: {wanted}, but this process loaded the {ffmpeg['source']} one "
            f"({ffmpeg['files'].get('avcodec')}); start it with the environment of "
            "SpdlVideo.environment(params, settings), as `autotune measure` does"
        )


def require_gpu() -> None:
    """Fail where torch cannot reach the GPU that NVDEC is to decode into.

    Raises:
        UnsupportedError: if there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise UnsupportedError(
            f"device: nvdec, but torch {torch.__version__} reaches no CUDA device here; install a "
            "CUDA build of torch and NVIDIA's driver (`autotune doctor` shows what is missing), "
            "or use device: cpu"
        )
