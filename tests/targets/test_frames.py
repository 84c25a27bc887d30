"""What the target `frames` does besides what every target must (tests/contracts)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import DataError, InputError
from autotune.executors.node import probe_node
from autotune.frame_folders import FrameIndex, read_index, read_record
from autotune.manifest import Manifest, scan
from autotune.measuring import pagecache
from autotune.media.decoders import Window
from autotune.media.probing import probe_file
from autotune.media.reference import decode_reference
from autotune.targets.clips import clips_of
from autotune.targets.frames.params import Params
from autotune.targets.frames.reading import FrameDecoder, frames_in
from autotune.targets.validation import validated
from autotune.trial import ProbeRequest, TrialSpec
from tests.extracted_clips import extracted, frame_numbers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "contracts"))

from target_driver import run_scenarios  # noqa: E402

FAITHFUL_DB = 40.0
"""At the default quality every clip of ../shared/clips/real came back at 40.5 dB or more."""

UNREADABLE = ("corrupted.mp4", "empty.mp4", "text.mp4", "truncated.mp4")
"""Of ../shared/clips/odd: those of which not all can be decoded."""

REAL_WINDOWS = ((0.0, 0.5), (0.0, 2.0), (1.3, 2.0))


@pytest.fixture(scope="session")
def frames(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extracted(clips, tmp_path_factory.mktemp("frames"))


@pytest.fixture
def damaged(frames: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(frames, tmp_path / "frames"))


def psnr(one: Any, other: Any) -> float:
    """Mean over the frames, dB."""
    error = np.square(one.astype(np.float64) - other).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-6))))


# ------------------------------------------------------------------ the frames themselves


@pytest.mark.long
def test_real_clips_come_back_within_jpegs_loss(shared_clips: Path, tmp_path: Path) -> None:
    real = shared_clips / "real"
    manifest = scan(extracted(real, tmp_path / "out"))
    assert manifest.paths == scan(real).paths
    decoder = FrameDecoder()
    for index, name in enumerate(manifest.paths):
        data = (real / name).read_bytes()
        for start, duration in REAL_WINDOWS:
            window = Window(start, duration, num_frames=16, size=(112, 112))
            clip = decoder.decode(manifest.path(index), name, window)
            reference = decode_reference(
                data, name, start, duration, num_frames=16, height=112, width=112
            )
            assert psnr(clip.frames, reference.frames) >= FAITHFUL_DB, (name, start, duration)


def test_odd_clips_come_back_or_are_named(shared_clips: Path, tmp_path: Path) -> None:
    odd = shared_clips / "odd"
    manifest = scan(extracted(odd, tmp_path / "out"))
    decoder = FrameDecoder()
    for index, name in enumerate(manifest.paths):
        window = Window(0.0, 0.5, num_frames=8, size=(64, 64))
        if name in UNREADABLE:
            with pytest.raises(DataError, match=f"{name}: was not extracted: "):
                decoder.decode(manifest.path(index), name, window)
            continue
        clip = decoder.decode(manifest.path(index), name, window)
        reference = decode_reference(
            (odd / name).read_bytes(), name, 0.0, 0.5, num_frames=8, height=64, width=64
        )
        assert psnr(clip.frames, reference.frames) >= 30, name
        assert len(frame_numbers(manifest, index, 0.0, 0.5, 8)) == 8


timelines = st.lists(st.integers(1, 3000), min_size=1, max_size=60)
rates = st.sampled_from([(1, 15360), (1001, 30000), (1, 1000), (1, 90000)])


@given(timelines, rates, st.integers(0, 4000), st.integers(1, 4000))
def test_a_window_holds_the_frames_whose_time_lies_in_it(
    steps: list[int], time_base: tuple[int, int], start: int, duration: int
) -> None:
    pts = [sum(steps[:i]) for i in range(len(steps))]
    index = FrameIndex(
        source="a.mp4", source_bytes=1, codec="h264", width=2, height=2, time_base=time_base,
        pts=pts, sizes=[1] * len(pts), duration=None, seconds=0.0,
    )  # fmt: skip
    low, length = Fraction(start, 1000), Fraction(duration, 1000)
    inside = [n for n, t in enumerate(pts) if low <= t * Fraction(*time_base) < low + length]
    assert list(frames_in(index, Window(start / 1000, duration / 1000))) == inside


# ------------------------------------------------------------------ folders with gaps


def _cut(folder: Path) -> None:
    path = folder / "000002.jpg"
    path.write_bytes(path.read_bytes()[:-10])


def _zeros(folder: Path) -> None:
    path = folder / "000002.jpg"
    path.write_bytes(bytes(path.stat().st_size))


def _garbled(folder: Path) -> None:
    """Begins and ends as a JPEG does."""
    path = folder / "000002.jpg"
    path.write_bytes(b"\xff\xd8" + bytes(path.stat().st_size - 4) + b"\xff\xd9")


GAPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "000002.jpg").unlink(), "frame 000002.jpg cannot be read: No such"),
    "cut off": (_cut, "its index says"),
    "zeros": (_zeros, "frame 000002.jpg is no JPEG"),
    "garbled": (_garbled, "frame 000002.jpg"),
    "no index": (lambda f: (f / "index.json").unlink(), "was not extracted: it has no index.json"),
    "bad index": (lambda f: (f / "index.json").write_text('{"pts": []}'), "index.json is damaged"),
    "short index": (lambda f: (f / "index.json").write_text("{"), "index.json is damaged"),
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_is_named_with_the_remedy(damaged: Path, gap: str) -> None:
    spoil, cause = GAPS[gap]
    folder = damaged / "class_1" / "clip_1.mp4"
    window = Window(0.0, 0.5, num_frames=8)
    decoder = FrameDecoder()
    whole = decoder.decode(str(folder), "class_1/clip_1.mp4", window).frames
    spoil(folder)
    with pytest.raises(DataError) as caught:
        decoder.decode(str(folder), "class_1/clip_1.mp4", window)
    assert caught.value.name == "class_1/clip_1.mp4"
    assert cause in caught.value.cause
    assert "autotune clips extract DIR OUT --check" in caught.value.cause
    extract_again(damaged)
    assert np.array_equal(decoder.decode(str(folder), "clip", window).frames, whole)


def extract_again(out: Path) -> None:
    from autotune.extraction.run import extract_folder

    record = read_record(out)
    extract_folder(record.source, out, record.settings, workers=1, check=True)


def test_samples_with_gaps_fail_by_name_and_batches_stay_full(damaged: Path) -> None:
    names = [f"class_{n % 3}/clip_{n}.mp4" for n in range(4)]
    for name, (spoil, _) in zip(names, GAPS.values(), strict=False):
        spoil(damaged / name)
    small = {"subclip_duration": 0.5, "batch_size": 3}
    scenario = {"data_dir": str(damaged), "batches": 4}
    for answer in run_scenarios(
        "frames",
        {**scenario, "params": {**small, "num_workers": 1}},
        {**scenario, "params": {**small, "reader": "spdl_threads", "num_decode_threads": 2}},
    ):
        assert "error" not in answer, answer["error"]
        assert len(answer["labels"]) == 12
        assert set(answer["failed"]["clips"]) == set(names)
        assert answer["failed"]["count"] >= 4


def test_a_clip_whose_length_is_not_known_fails_with_random_windows_alone(damaged: Path) -> None:
    for path in damaged.glob("*/*/index.json"):
        index = FrameIndex.model_validate_json(path.read_bytes())
        path.write_text(index.model_copy(update={"duration": None}).model_dump_json())
    base = {"data_dir": str(damaged), "batches": 1}
    small = {"subclip_duration": 0.5, "batch_size": 2, "num_workers": 0}
    first, random = run_scenarios(
        "frames",
        {**base, "params": small},
        {**base, "params": {**small, "subclip_start": "random"}},
    )
    assert "error" not in first
    assert "use subclip_start: first" in random["error"]["cause"]


# ------------------------------------------------------------------ data folders


def test_the_wrong_kind_of_folder_is_refused_with_the_remedy(clips: Path, frames: Path) -> None:
    def specification(folder: Path) -> TrialSpec:
        return TrialSpec(
            uuid="u", study="s", target="frames", params={}, settings={}, data_dir=str(folder)
        )

    with pytest.raises(InputError, match="`autotune clips extract DIR OUT` makes one"):
        clips_of(specification(clips), "frames")
    with pytest.raises(InputError, match="or use the target frames"):
        clips_of(specification(frames))
    assert clips_of(specification(frames), "frames").kind == "frames"


def test_a_folder_that_is_not_whole_is_refused(damaged: Path) -> None:
    shutil.rmtree(damaged / "class_0" / "clip_3.mp4")
    with pytest.raises(InputError, match="holds the folders of 6 clips, and its extraction made 7"):
        scan(damaged)


def test_a_manifest_of_frames_says_so(frames: Path, tmp_path: Path) -> None:
    manifest = scan(frames)
    again = Manifest.load(manifest.write(tmp_path))
    assert again == manifest
    assert again.kind == "frames"
    assert sum(manifest.sizes) == read_record(frames).bytes
    files = manifest.files(0)
    assert len(files) == 18 + 1
    assert sum(Path(path).stat().st_size for path in files) == manifest.sizes[0]


def test_every_frame_counts_for_the_page_cache(frames: Path) -> None:
    reach = pagecache.reach(scan(frames), 0, max_seconds=1.0)
    paths = list(reach.paths())
    assert len(paths) == 7 * 19
    assert pagecache.read_all(paths, deadline=float("inf")) == reach.bytes
    assert set(reach.first_and_spread().paths()) <= set(paths)


def test_a_node_says_what_the_frames_cost(frames: Path, tmp_path: Path) -> None:
    request = ProbeRequest(
        study="s", target="frames", params={}, settings={}, data_dir=str(frames),
        cache_dir=str(tmp_path),
    )  # fmt: skip
    info = probe_node(request)
    assert info.error is None, info.error
    data, record = info.fingerprint.data, read_record(frames)
    assert data["bytes"] == record.bytes
    assert data["extraction"]["extraction_seconds"] == record.seconds
    assert data["extraction"]["quality"] == 2
    assert data["extraction"]["source_bytes"] == record.source_bytes
    assert data["sampled"]["codecs"] == {"mjpeg": 7}
    assert data["sampled"]["resolutions"] == {"96x64": 7}
    assert data["sampled"]["rates"] == {"12": 7}
    assert info.page_cache == "warm"
    assert info.warnings == []
    refused = probe_node(request.model_copy(update={"target": "torch_dataloader"}))
    assert refused.error_kind == "input"
    assert "use the target frames" in (refused.error or "")


def test_a_clip_without_frames_is_probed_as_bad(damaged: Path) -> None:
    folder = damaged / "class_0" / "clip_0.mp4"
    index = read_index(folder, "clip")
    assert probe_file(folder).duration == pytest.approx(index.duration)
    (folder / "index.json").unlink()
    assert "was not extracted" in (probe_file(folder).cause or "")


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reader": "spdl_threads", "num_workers": 4}, ["num_workers: 4", "reader: spdl_threads"]),
        ({"reader": "spdl_threads", "layout": "view"}, ["layout", "spdl_threads"]),
        ({"sink_buffer_size": 5}, ["sink_buffer_size: 5", "reader: dataloader"]),
        ({"num_workers": 0, "prefetch_factor": 4}, ["prefetch_factor: 4", "num_workers: 0"]),
        ({"decoder": "pyav"}, ["params.decoder: no such key"]),
        ({"reader": "dali"}, ["reader", "'dali'"]),
    ],
)
def test_parameters_without_effect_are_refused(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        validated(Params, values, "params")
    for word in words:
        assert word in str(caught.value)
