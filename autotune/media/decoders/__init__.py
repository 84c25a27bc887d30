"""Decoders people use, behind one call: a file and a window in, the same frames out.

    decoder = load("opencv")
    clip = decoder.decode("clip.mp4", "clip.mp4", Window(0.0, 2.0, num_frames=16, size=(112, 112)))
    clip.frames      # uint8 [16, 112, 112, 3], RGB

Which frames a window holds, which of them are taken and how they are scaled is the reference's
business (`autotune.media.reference`), not the decoder's: what differs is how fast they come.
Nothing heavy is imported before `load`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from autotune.exceptions import InputError, UnsupportedError
from autotune.media.decoders.base import DecodedWindow, Decoder, Window, package_version

__all__ = [
    "DECODERS",
    "DecodedWindow",
    "Decoder",
    "Window",
    "library_of",
    "load",
    "why_unavailable",
]

DECODERS: Mapping[str, str] = MappingProxyType(
    {
        "pyav": "autotune.media.decoders.pyav:PyAV",
        "spdl": "autotune.media.decoders.spdl:Spdl",
        "opencv": "autotune.media.decoders.opencv:OpenCV",
        "opencv_buffer": "autotune.media.decoders.opencv:OpenCVBuffer",
        "decord": "autotune.media.decoders.decord:Decord",
        "torchcodec": "autotune.media.decoders.torchcodec:TorchCodec",
        "torchvision": "autotune.media.decoders.torchvision:TorchVision",
        "pytorchvideo": "autotune.media.decoders.pytorchvideo:PyTorchVideo",
    }
)
"""Name -> class. Its constructor imports the library, or raises UnsupportedError."""


def load(name: str) -> Decoder:
    """A decoder, ready to use by one thread at a time.

    Raises:
        InputError: there is none of this name.
        UnsupportedError: its library cannot be used here; with the remedy.
    """
    decoder = _class(name)
    try:
        return decoder()
    except UnsupportedError:
        raise
    except Exception as error:  # a broken installation may fail in any way; see `why_unavailable`
        raise UnsupportedError(
            f"decoder: {name}: {decoder.package} is installed but cannot be used "
            f"({type(error).__name__}: {error}). Remedy: install another build of it, or leave "
            "this decoder out"
        ) from error


def library_of(name: str) -> tuple[str, str]:
    """Name and version of the package that a decoder comes in.

    Raises:
        InputError: there is no decoder of this name.
    """
    decoder = _class(name)
    return decoder.package, package_version(decoder.package, decoder.module)


def _class(name: str) -> type[Decoder]:
    if name not in DECODERS:
        raise InputError(f"decoder {name!r}: accepted are {', '.join(DECODERS)}")
    module, _, attribute = DECODERS[name].partition(":")
    found: type[Decoder] = getattr(importlib.import_module(module), attribute)
    return found


def why_unavailable() -> dict[str, str]:
    """The decoders that cannot be used in this process, each with the reason and the remedy.

    Tries each of them, which imports their libraries: for a probe, not for a measurement.
    """
    missing = {}
    for name in DECODERS:
        try:
            load(name)
        except UnsupportedError as error:
            missing[name] = str(error)
    return missing
