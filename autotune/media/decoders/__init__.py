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
from autotune.media.decoders.base import DecodedWindow, Decoder, Window

__all__ = ["DECODERS", "DecodedWindow", "Decoder", "Window", "load", "why_unavailable"]

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
        UnsupportedError: its library cannot be imported here; with the remedy.
    """
    if name not in DECODERS:
        raise InputError(f"decoder {name!r}: accepted are {', '.join(DECODERS)}")
    module, _, attribute = DECODERS[name].partition(":")
    made: Decoder = getattr(importlib.import_module(module), attribute)()
    return made


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
