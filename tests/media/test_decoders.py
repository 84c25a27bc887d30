"""The decoders agree: the same frames of the same windows, whoever decodes them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import decoders_remote
import pytest
from media_remote import Call

from autotune.exceptions import DataError, InputError, UnsupportedError
from autotune.media.decoders import (
    DECODERS,
    DecodedWindow,
    Window,
    library_of,
    load,
    timing,
    why_unavailable,
)
from autotune.media.decoders.base import Inside, chosen
from autotune.media.decoders.opencv import OpenCV
from autotune.media.decoders.pyav import PyAV
from autotune.media.decoders.timing import time_decoders
from autotune.media.windows import sample_indices

EXACT = ("pyav", "spdl")
"""Scale while they convert, as the reference does: the same bytes. The others convert to RGB at
full size; their frames are scaled after that, which gives other colours at sharp edges."""

WINDOWS = [Window(0.0, 0.5), Window(0.0, 2.0), Window(1.3, 0.5)]

REJECTED = {
    "opencv": {"av1.mkv"},
    "opencv_buffer": {"av1.mkv"},
    "decord": {"av1.mkv", "discard_first_keyframe.mp4", "h264_10bit.mp4", "rotated.mp4"},
}
"""Odd clips that a decoder cannot read: the FFmpeg in its wheel has no software AV1 decoder. Of
the others decord would give other frames: it counts those that an edit list hides, converts 10
bits its own way, and turns what is marked as rotated."""


@pytest.fixture(params=list(DECODERS))
def decoder(request: pytest.FixtureRequest, in_worker: Call) -> str:
    name: str = request.param
    reason = in_worker(decoders_remote.missing).get(name)
    if reason is not None:
        pytest.skip(reason)
    return name


def real(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "real").rglob("*") if path.is_file())


def at_least(answer: dict[str, Any], psnr: float) -> bool:
    return answer["psnr"] is None or answer["psnr"] >= psnr


def test_frames_of_real_clips_are_the_references(
    decoder: str, clips_dir: Path, in_worker: Call
) -> None:
    """At full size, without any scaler: whoever converts, FFmpeg does it."""
    for path in real(clips_dir):
        for window in WINDOWS:
            full = dataclasses.replace(window, num_frames=2, size=None)
            answer = in_worker(decoders_remote.compare, decoder, str(path), full)
            assert "error" not in answer, (path.name, answer)
            assert at_least(answer, 35), (path.name, answer)
            assert answer["unique"] == answer["wanted_unique"]
            assert answer["decoded"] >= answer["unique"]


def test_scaled_samples_of_real_clips_agree(decoder: str, clips_dir: Path, in_worker: Call) -> None:
    """Mean PSNR of at least 35 dB over all real clips at the same scaler."""
    for window in WINDOWS:
        found = []
        for path in real(clips_dir):
            answer = in_worker(decoders_remote.compare, decoder, str(path), window)
            assert "error" not in answer, (path.name, answer)
            assert answer["shape"] == (16, 112, 112, 3)
            assert answer["dtype"] == "uint8"
            assert answer["unique"] == answer["wanted_unique"]
            assert all(seconds >= 0 for seconds in answer["seconds"].values())
            found.append(answer["psnr"])
        if decoder in EXACT:
            assert found == [None] * len(found)
        else:
            assert sum(found) / len(found) >= 35
            assert min(found) >= 30  # colours at edges, not other frames


def test_odd_clips_agree_or_are_named(decoder: str, clips_dir: Path, in_worker: Call) -> None:
    bad = {"empty.mp4", "text.mp4", "truncated.mp4"}
    rejected = set()
    for path in sorted((clips_dir / "odd").iterdir()):
        full = Window(0.0, 0.5, num_frames=4, size=None)
        answer = in_worker(decoders_remote.compare, decoder, str(path), full)
        if "psnr" in answer:
            assert at_least(answer, 35), (path.name, answer)
        else:
            assert "shape" not in answer, (path.name, answer)
            assert answer["error"]
            rejected.add(path.name)
    assert rejected == bad | REJECTED.get(decoder, set())


@pytest.mark.parametrize("threads", [0, 2])
def test_threads_change_nothing(
    decoder: str, clips_dir: Path, in_worker: Call, threads: int
) -> None:
    path = clips_dir / "real" / "street" / "structuralize.mp4"
    window = Window(0.0, 1.0, num_frames=4, size=None, threads=threads)
    assert in_worker(decoders_remote.compare, decoder, str(path), window)["psnr"] is None


def test_a_window_behind_the_end_is_named(decoder: str, clips_dir: Path, in_worker: Call) -> None:
    path = clips_dir / "real" / "street" / "person_1080p.mp4"
    answer = in_worker(decoders_remote.compare, decoder, str(path), Window(60.0, 0.5))
    assert "no frame in [60.0, 60.5) s" in answer["error"]


def test_a_missing_file_is_named(decoder: str, tmp_path: Path, in_worker: Call) -> None:
    path = tmp_path / "gone.mp4"
    answer = in_worker(decoders_remote.compare, decoder, str(path), Window(0.0, 0.5))
    assert answer == {"error": "cannot be read: No such file or directory"}


def test_a_decoder_that_is_not_there_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("cv2", "decord", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    reasons = decoders_remote.missing()
    assert set(reasons) >= {"opencv", "opencv_buffer", "decord", "torchcodec"}
    assert "pip install opencv-python-headless" in reasons["opencv"]
    assert "pyav" not in reasons
    with pytest.raises(InputError, match="accepted are pyav"):
        load("gstreamer")


def test_a_library_that_is_broken_takes_none_but_its_decoders_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))  # what a half removed one leaves
    reasons = why_unavailable()
    assert "opencv-python-headless is installed but cannot be used" in reasons["opencv"]
    assert "AttributeError" in reasons["opencv"]
    assert "pyav" not in reasons


def test_what_an_installed_library_lacks_is_named_and_not_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decord.py").write_text("import torchvision_of_nobody")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    with pytest.raises(UnsupportedError, match="No module named 'torchvision_of_nobody'") as told:
        load("decord")
    assert "install that too" in str(told.value)
    assert "pip install decord" not in str(told.value)


def test_the_version_of_another_build_is_the_librarys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("cv2")
    library.__version__ = "4.99.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", library)
    monkeypatch.setattr(OpenCV, "package", "opencv-python-that-is-not-installed")
    assert library_of("opencv_buffer") == ("opencv-python-that-is-not-installed", "4.99.0")


def test_naming_the_decoders_imports_none_of_them() -> None:
    script = (
        "import sys, autotune.media.decoders; "
        "print(sorted({'av', 'cv2', 'decord', 'spdl', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_an_error_of_a_clip_carries_its_name() -> None:
    with pytest.raises(DataError, match=r"a/b\.mp4: cannot be read"):
        load("pyav").decode("/nowhere/b.mp4", "a/b.mp4", Window(0.0, 0.5))


@pytest.mark.parametrize(("available", "wanted"), [(1, 4), (3, 4), (4, 4), (9, 4), (60, 16)])
def test_chosen_frames_are_the_references(available: int, wanted: int) -> None:
    once, places = chosen(available, Window(0.0, 1.0, num_frames=wanted))
    assert [once[place] for place in places] == sample_indices(available, wanted)
    assert once == sorted(set(once))


def test_times_in_floating_point_fall_into_the_window_they_mean() -> None:
    inside = Inside(Window(0.1, 0.2))
    assert inside.before(0.09)
    assert not inside.before(0.1 - 1e-9)
    assert not inside.behind(0.29)
    assert inside.behind(0.3 - 1e-9)


class Surprising(PyAV):
    """Decodes each clip once, in the block that warms up, and then raises what no decoder may."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        if path in self._seen:
            raise KeyError(name)
        self._seen.add(path)
        return super().decode(path, name, window)


def test_a_decoder_that_raises_what_it_may_not_is_named_and_the_others_are_timed(
    clips_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "load", lambda name: PyAV() if name == "pyav" else Surprising())
    clip = clips_dir / "real" / "street" / "structuralize.mp4"
    good, bad = time_decoders([(str(clip), "a.mp4")], Window(0.0, 0.1), 2, ("pyav", "spdl"))
    assert len(good.seconds) == 2
    assert good.unavailable is None
    assert bad.unavailable is not None
    assert "decoder: spdl: failed with KeyError: 'a.mp4'; update" in bad.unavailable
    assert (bad.seconds, bad.decoded, bad.median) == ([], 0, None)


def test_timing_counts_every_block_and_names_what_failed(
    clips_dir: Path, in_worker: Call, tmp_path: Path
) -> None:
    clip = clips_dir / "real" / "street" / "structuralize.mp4"
    clips = [(str(clip), "good.mp4"), (str(tmp_path / "gone.mp4"), "gone.mp4")]
    window = Window(0.0, 0.5)
    timings = in_worker(time_decoders, clips, window, blocks=2)
    assert [found.decoder for found in timings] == list(DECODERS)
    missing = in_worker(decoders_remote.missing)
    for found in timings:
        if found.decoder in missing:
            assert found.unavailable == missing[found.decoder]
            assert found.median is None
            continue
        assert len(found.seconds) == 2
        assert found.median is not None
        assert 0 < sum(found.parts.values()) <= sum(found.seconds)
        assert found.decoded == 1
        assert found.decoded_frames >= 15
        assert found.failed == {"gone.mp4": "cannot be read: No such file or directory"}
