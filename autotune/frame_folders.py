"""Clips extracted to JPEG frames: what lies where, and what is written about it.

    OUT/extraction.json                  where the frames come from, the settings, the figures
    OUT/class/clip.mp4/000000.jpg ...    the frames of a clip, in the order they are shown in
    OUT/class/clip.mp4/index.json        time and size of each of them: the clip is complete
    OUT/class/clip.mp4/failed.json       instead of all this: why the clip has no frames

A clip's folder has its file's whole name. So both data folders list the same clips in the same
order, a clip that could not be extracted included, and a seed draws the same samples from them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autotune.exceptions import DataError, InputError

RECORD = "extraction.json"
INDEX = "index.json"
FAILED = "failed.json"

REPAIR = "`autotune clips extract DIR OUT --check` extracts it again"


class Document(BaseModel):
    """A JSON file of an extracted folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ExtractionSettings(Document):
    """What was asked for: with other settings other frames would be there.

    Attributes:
        size: ``256``, the short side in pixels, never enlarged; ``240x320``, height and width;
            None: as coded.
        every: of so many frames one is kept.
        fps: at most so many frames a second are kept; None: all.
        quality: of the JPEG encoder, 1 (best) to 31, as FFmpeg's ``-q:v``.
    """

    size: str | None = None
    every: int = Field(1, ge=1)
    fps: float | None = Field(None, gt=0)
    quality: int = Field(2, ge=1, le=31)


class ExtractionRecord(Document):
    """What is known of a whole folder; of ``clips`` so many are ``extracted`` or ``failed``."""

    format: Literal[1] = 1
    source: str
    """The folder of videos, absolute."""
    settings: ExtractionSettings
    clips: int = 0
    extracted: int = 0
    failed: int = 0
    frames: int = 0
    bytes: int = 0
    """Sizes of the JPEG and index files, added up."""
    source_bytes: int = 0
    """Sizes of the extracted clips' files, added up."""
    seconds: float = 0.0
    """Wall time spent extracting, over all runs."""
    complete: bool = False
    """Whether every clip was tried."""


class FrameIndex(Document):
    """The frames of one clip."""

    format: Literal[1] = 1
    source: str
    """The clip's file, relative to the folder of videos."""
    source_bytes: int
    codec: str
    """Of the clip."""
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    time_base: tuple[int, int]
    """Seconds a tick, as numerator and denominator."""
    pts: list[int]
    """Timestamp of each frame in ticks, from the clip's own first timestamp. (Ticks and not
    seconds, so that the same arithmetic as on the clip selects the same frames.)"""
    sizes: list[int]
    """Bytes of each frame's file."""
    duration: float | None
    """Seconds of video in the clip, by its container: random windows start in it."""
    seconds: float
    """Wall time that the extraction of this clip took."""

    @model_validator(mode="after")
    def _whole(self) -> FrameIndex:
        if not self.pts or len(self.pts) != len(self.sizes):
            raise ValueError(f"{len(self.pts)} timestamps and {len(self.sizes)} sizes")
        if min(self.time_base) < 1:
            raise ValueError(f"time_base {self.time_base}: both must be positive")
        return self

    @property
    def times(self) -> list[float]:
        """Timestamp of each frame in seconds from the clip's first."""
        numerator, denominator = self.time_base
        return [pts * numerator / denominator for pts in self.pts]


class FailedExtraction(Document):
    """Why a clip has no frames."""

    source: str
    cause: str


def frame_path(folder: str | os.PathLike[str], number: int) -> str:
    """Path of a clip's frame, counted from 0."""
    return os.path.join(folder, f"{number:06d}.jpg")


def index_bytes(folder: str | os.PathLike[str], index: FrameIndex) -> int:
    """Size of a clip's files: its frames and their index."""
    return sum(index.sizes) + os.path.getsize(os.path.join(folder, INDEX))


def read_index(folder: str | os.PathLike[str], name: str) -> FrameIndex:
    """The index of a clip.

    Args:
        folder: the clip's.
        name: the clip in messages, relative to the data folder.

    Raises:
        DataError: there is none, with the cause and the remedy.
    """
    try:
        with open(os.path.join(folder, INDEX), "rb", buffering=0) as file:
            return FrameIndex.model_validate_json(file.readall())
    except FileNotFoundError:
        cause = f"was not extracted: {failure_cause(folder) or f'it has no {INDEX}'}"
    except OSError as error:
        cause = f"its {INDEX} cannot be read: {error.strerror}"
    except ValidationError as error:
        cause = f"its {INDEX} is damaged ({error.errors()[0]['msg']})"
    raise DataError(name, f"{cause}; {REPAIR}")


def failure_cause(folder: str | os.PathLike[str]) -> str | None:
    """Why a clip was not extracted, as noted at the time; None where nothing was."""
    try:
        return FailedExtraction.model_validate_json(Path(folder, FAILED).read_bytes()).cause
    except (OSError, ValidationError):
        return None


def is_extracted(root: str | os.PathLike[str]) -> bool:
    """Whether a folder was made by `autotune clips extract`."""
    return os.path.isfile(os.path.join(root, RECORD))


def read_record(root: str | os.PathLike[str]) -> ExtractionRecord:
    """What is known of an extracted folder.

    Raises:
        InputError: it has no record, or one that cannot be read.
    """
    path = Path(root, RECORD)
    try:
        return ExtractionRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"data_dir: {root} is no folder of extracted frames ({RECORD}: {error.strerror}); "
            "`autotune clips extract DIR OUT` makes one from the videos of DIR: give OUT"
        ) from error
    except ValidationError as error:
        raise InputError(
            f"data_dir: {path} is damaged ({error.errors()[0]['msg']}); extract the clips into "
            "another folder with `autotune clips extract DIR OUT`"
        ) from error


def write_document(path: Path, document: Document) -> None:
    """Write a JSON file beside its place, then rename it: a reader sees a whole file or none.

    Raises:
        OSError: it could not be written.
    """
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(f"{document.model_dump_json()}\n", encoding="utf-8")
    os.replace(draft, path)
