"""`autotune compare` of extracted frames with the videos they are of."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.exceptions import InputError
from autotune.extraction.run import extract_folder
from autotune.frame_folders import ExtractionSettings
from autotune.sides import read_sides
from autotune.trial import Params
from tests.fakes import FakeExecutor
from tests.launches import launch, url
from tests.made_clips import write_clip

__all__ = ["url"]  # fixtures


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_clip(tmp_path / "videos" / "a" / "clip.mp4", 0)
    return tmp_path / "videos"


@pytest.fixture
def frames(videos: Path, tmp_path: Path) -> Path:
    extract_folder(videos, tmp_path / "frames", ExtractionSettings(), workers=1)
    return tmp_path / "frames"


def same_rate(params: Params) -> float:
    return 100.0


def folders(a: str, b: str, data: Path | None = None, storage: str | None = None) -> list[Path]:
    values = {} if data is None else {"target.data_dir": str(data)}
    sides = read_sides(a, b, values=values, storage=storage)
    return [Path(str(side.plan.data_dir)) for side in (sides.a, sides.b)]


def test_a_folder_of_frames_stands_for_the_videos_that_it_was_made_of(
    videos: Path, frames: Path
) -> None:
    found = folders("frames --num-workers 1", "torch_dataloader --num-workers 1", frames)
    assert found == [frames, videos]
    assert folders("torch_dataloader", "frames", frames) == [videos, frames]


def test_studies_of_frames_and_of_their_videos_compare(
    videos: Path, frames: Path, url: str, tmp_path: Path
) -> None:
    for name, target, data in (("f", "frames", frames), ("v", "torch_dataloader", videos)):
        experiment = {
            "target": {"name": target, "data_dir": str(data)},
            "budget": {"trials": 1},
            "noise": {"runs": 0, "drift_every": 0},
            "verification": {"finalists": 0},
            "executor": {"kind": "local"},
        }
        launch(experiment, url, FakeExecutor(same_rate), name=name)
    assert folders("f", "v", storage=url) == [frames, videos]
    assert folders("f", "spdl_video", storage=url) == [frames, videos]
    write_clip(tmp_path / "others" / "a" / "clip.mp4", 1)
    extract_folder(tmp_path / "others", tmp_path / "other", ExtractionSettings(), workers=1)
    launch(
        {**experiment, "target": {"name": "frames", "data_dir": str(tmp_path / "other")}},
        url,
        FakeExecutor(same_rate),
        name="o",
    )
    with pytest.raises(InputError, match=r"different data: A .*/other, B .*/videos"):
        folders("o", "v", storage=url)
