"""torchvision's and pytorchvideo's readers, which cannot be installed beside every torch: what
asks them is held to what they do, by stand-ins that do the same on PyAV. Where they are installed
`test_decoders.py` holds the real ones to the reference."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch

from autotune.exceptions import DataError, UnsupportedError
from autotune.media.decoders import Window, load
from autotune.media.decoders.containers import best_stream
from autotune.media.reference import decode_reference
from tests.made_clips import write_clip

WINDOWS = [
    Window(0.0, 0.5, num_frames=4, size=None),
    Window(0.0, 9.0, num_frames=32, size=None),
    Window(0.5, 0.5, num_frames=4, size=None),  # begins at a frame, ends before one
    Window(0.52, 0.61, num_frames=8, size=None),  # between two frames
]


def frames_of(path: str) -> tuple[list[Any], Fraction, int]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.time_base is not None
        return frames, Fraction(stream.time_base), int(stream.start_time or 0)


def read_video(
    filename: str, start_pts: Any, end_pts: Any, pts_unit: str, output_format: str
) -> tuple[Any, Any, dict[str, Any]]:
    """Frames from ``start_pts`` to ``end_pts``, both included, in the stream's time, and the one
    that is shown at ``start_pts`` where none begins there."""
    assert (pts_unit, output_format) == ("sec", "THWC")
    frames, time_base, _ = frames_of(filename)
    first, last = math.floor(start_pts / time_base), math.ceil(end_pts / time_base)
    chosen = [frame for frame in frames if first <= frame.pts <= last]
    before = [frame for frame in frames if frame.pts < first]
    if first > 0 and before and all(frame.pts != first for frame in frames):
        chosen.insert(0, before[-1])
    return torch.stack([torch.from_numpy(f.to_rgb().to_ndarray()) for f in chosen]), None, {}


class EncodedVideo:
    """``inclusive`` as in versions before the end was made exclusive."""

    inclusive = False

    def __init__(self, path: str) -> None:
        try:
            self.frames, self.time_base, self.first = frames_of(path)
        except av.FFmpegError as error:
            raise RuntimeError(f"Failed to open video {path}. {error}") from error

    @classmethod
    def from_path(cls, path: str, decode_audio: bool = True) -> EncodedVideo:
        assert not decode_audio  # nobody asks for it
        return cls(path)

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, Any] | None:
        whole = int if self.inclusive else math.ceil
        low = whole(start_sec / float(self.time_base)) + self.first
        high = whole(end_sec / float(self.time_base)) + self.first + self.inclusive
        chosen = [f.to_rgb().to_ndarray() for f in self.frames if low <= f.pts < high]
        if not chosen:
            return None if self.inclusive else {"video": None, "audio": None}
        video = torch.from_numpy(np.stack(chosen)).permute(3, 0, 1, 2).to(torch.float32)
        return {"video": video, "audio": None}

    def close(self) -> None:
        self.frames = []


class OlderEncodedVideo(EncodedVideo):
    inclusive = True


@pytest.fixture(params=["torchvision", "pytorchvideo", "pytorchvideo, older"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    name = request.param.partition(",")[0]
    module = ModuleType("stand_in")
    if name == "torchvision":
        module.read_video = read_video  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.io", module)
    else:
        older = "older" in request.param
        module.EncodedVideo = OlderEncodedVideo if older else EncodedVideo  # type: ignore[attr-defined]
        for parent in ("pytorchvideo", "pytorchvideo.data"):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, "pytorchvideo.data.encoded_video", module)
    return load(name)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    write_clip(path, 0)
    return path


@pytest.mark.parametrize("window", WINDOWS)
def test_they_give_the_frames_of_the_window(decoder: Any, clip: Path, window: Window) -> None:
    found = decoder.decode(str(clip), clip.name, window)
    wanted = decode_reference(
        clip.read_bytes(),
        clip.name,
        window.start,
        window.duration,
        num_frames=window.num_frames,
        width=96,
        height=64,
    )
    assert found.frames.shape == wanted.frames.shape
    assert found.frames.dtype == np.uint8
    assert np.abs(found.frames.astype(int) - wanted.frames).max() <= 1
    assert found.unique_frames == len(set(wanted.pts))
    assert found.decoded_frames >= found.unique_frames


@pytest.mark.parametrize("window", [WINDOWS[0], WINDOWS[2]])
def test_they_take_the_best_stream_though_they_know_the_first_alone(
    decoder: Any, tmp_path: Path, window: Window
) -> None:
    path = tmp_path / "two.mp4"
    write_two_streams(path)
    assert best_stream(str(path)) == 1
    found = decoder.decode(str(path), path.name, window)
    wanted = decode_reference(
        path.read_bytes(),
        path.name,
        window.start,
        window.duration,
        num_frames=window.num_frames,
        width=96,
        height=64,
    )
    assert found.frames.shape == wanted.frames.shape
    assert np.abs(found.frames.astype(int) - wanted.frames).max() <= 1


def write_two_streams(path: Path) -> None:
    """A preview of one picture a second in front of the video, as cameras write it. The video has
    frames that are decoded before they are shown, so its first time to decode is below zero."""
    with av.open(str(path), "w") as container:
        preview = container.add_stream("mpeg4", rate=1)
        video = container.add_stream("h264", rate=10, options={"bf": "2"})
        video.disposition = av.stream.Disposition.default
        for stream, (width, height) in ((preview, (32, 32)), (video, (96, 64))):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for stream, count in ((preview, 2), (video, 20)):
            for number in range(count):
                shade = np.full((stream.height, stream.width, 3), 12 * number, np.uint8)
                shade[: 3 * number] = 255 - shade[: 3 * number]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
            container.mux(stream.encode(None))


def test_frames_are_scaled_as_the_reference_scales(decoder: Any, clip: Path) -> None:
    found = decoder.decode(str(clip), clip.name, Window(0.0, 0.5, num_frames=2, size=(32, 48)))
    assert found.frames.shape == (2, 32, 48, 3)
    assert set(found.seconds) >= {"decode", "scale"}


def test_what_cannot_be_decoded_is_named(decoder: Any, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frame in"):
        decoder.decode(str(clip), clip.name, Window(60.0, 0.5))
    with pytest.raises(DataError, match=r"b\.mp4: cannot be read"):
        decoder.decode(str(tmp_path / "b.mp4"), "b.mp4", Window(0.0, 0.5))
    (tmp_path / "c.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"c\.mp4: "):
        decoder.decode(str(tmp_path / "c.mp4"), "c.mp4", Window(0.0, 0.5))


def test_a_version_without_the_reader_names_what_replaces_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.io", ModuleType("torchvision.io"))
    with pytest.raises(
        UnsupportedError, match=r"no read_video any more.*use the decoder torchcodec"
    ):
        load("torchvision")
