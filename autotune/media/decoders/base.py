"""What a decoder is given and what it gives back."""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from autotune.exceptions import DataError, UnsupportedError
from autotune.media.windows import sample_indices, unique_count

DECODER_STAGES = ("fetch", "demux", "decode", "scale")
"""The parts a decoder may tell apart; one that cannot counts everything as ``decode``."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which frames of a clip are wanted, and how.

    Attributes:
        start, duration: seconds, ``start`` from the clip's own first timestamp.
        num_frames: frames to deliver; where the window has fewer, the last one is repeated.
        size: height and width in pixels to stretch to; None: as coded.
        scale_algorithm: one of `media.decode.SCALE_ALGORITHMS`.
        threads: threads of the decoder; 0 lets it choose.
    """

    start: float
    duration: float
    num_frames: int = 16
    size: tuple[int, int] | None = (112, 112)
    scale_algorithm: str = "bicubic"
    threads: int = 1


class Stopwatch:
    """Seconds by part of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time inside as ``part``, one of `DECODER_STAGES`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + spent


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    """The frames of one window.

    Attributes:
        frames: uint8 array [T, H, W, 3], RGB, contiguous.
        unique_frames: how many of them differ: without padding and repeats.
        decoded_frames: frames that the decoder had to decode for them.
        seconds: time by part, see `DECODER_STAGES`.
    """

    frames: Any
    unique_frames: int
    decoded_frames: int
    seconds: dict[str, float] = field(default_factory=dict)


class Decoder(ABC):
    """One way to decode; keeps what it can use again, so one thread at a time.

    Raises:
        UnsupportedError: by the constructor, if its library cannot be imported.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """What `pip install` calls the library, for messages and versions."""
    module: ClassVar[str]
    """What is imported of it."""

    @abstractmethod
    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        """Decode the frames of one window.

        Args:
            path: the file.
            name: the clip in messages, relative to the data folder.
            window: what is wanted.

        Raises:
            DataError: the clip cannot be decoded, or no frame lies in the window.
        """


def require(module: str, package: str, decoder: str) -> Any:
    """The imported library of a decoder.

    Raises:
        UnsupportedError: it is missing, or does not import beside what is installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            remedy = f"Remedy: pip install {package}, or leave this decoder out"
        else:
            remedy = (
                f"{package} is installed, what it imports is not. Remedy: install that too, or "
                "leave this decoder out"
            )
        raise UnsupportedError(f"decoder: {decoder}: {error}. {remedy}") from error
    except Exception as error:  # whatever goes wrong as a library is imported is its own
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(
            f"decoder: {decoder}: {package} is installed but does not load beside the torch and "
            f"FFmpeg of this machine ({text}); install the build that fits them, or leave this "
            "decoder out"
        ) from error


def package_version(package: str, module: str) -> str:
    """The version of a decoder's library: as it was installed, or as the library itself says where
    another build of it was (opencv-python instead of its headless one). Imports it then."""
    try:
        return version(package)
    except PackageNotFoundError:
        pass
    try:
        library = importlib.import_module(module.partition(".")[0])
    except ImportError:
        return "not installed"
    return str(getattr(library, "__version__", "unknown"))


def read_file(path: str, name: str) -> bytes:
    """The whole file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(name, f"cannot be read: {error.strerror}") from error


def check_readable(path: str, name: str) -> None:
    """Name what is wrong with a file where the decoder's library would not.

    Raises:
        DataError: it is missing, empty or must not be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            if not file.read(1):
                raise DataError(name, "the file is empty")
    except OSError as error:
        raise DataError(name, f"cannot be read: {error.strerror}") from error


class Inside:
    """The frames of a window, found by the times a library gives in floating-point seconds.

    Args:
        window: what is wanted.
        tolerance: seconds by which a time may be off; well below half a frame.
    """

    def __init__(self, window: Window, tolerance: float = 1e-4) -> None:
        self._low = window.start - tolerance
        self._high = window.start + window.duration - tolerance

    def before(self, seconds: float) -> bool:
        """Whether a frame at this time lies before the window."""
        return seconds < self._low

    def behind(self, seconds: float) -> bool:
        """Whether a frame at this time lies behind the window."""
        return seconds >= self._high


def no_frame(name: str, window: Window) -> DataError:
    """The error of a window without frames."""
    end = window.start + window.duration
    return DataError(name, f"no frame in [{window.start}, {end}) s")


def chosen(available: int, window: Window) -> tuple[list[int], list[int]]:
    """Which of a window's ``available`` frames are wanted, ascending and each once, and for each
    frame to deliver its place among them."""
    indices = sample_indices(available, window.num_frames)
    once = sorted(set(indices))
    place = {index: i for i, index in enumerate(once)}
    return once, [place[index] for index in indices]


def assemble(pictures: Sequence[Any], places: Sequence[int]) -> Any:
    """The pictures [H, W, 3] at ``places`` as one array [T, H, W, 3]."""
    import numpy as np

    return np.stack([pictures[place] for place in places])


def unique(places: Sequence[int]) -> int:
    """How many different frames ``places`` name."""
    return unique_count(places)
