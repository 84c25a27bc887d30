"""`ffmpeg: system`: where an FFmpeg is installed it is used and read back, else it is asked for."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from autotune.media import native
from autotune.plugins import load_target
from autotune.supervision.supervisor import supervise
from autotune.trial import MeasurementSettings, TrialResult, TrialSpec

INSTALLED = native.find_system_ffmpeg()


def measured(clips: Path) -> TrialResult:
    params = load_target("spdl_video").Params(subclip_duration=0.5, batch_size=2)
    spec = TrialSpec(
        uuid=uuid.uuid4().hex,
        study=uuid.uuid4().hex,
        target="spdl_video",
        params=params.model_dump(),
        settings={"num_frames": 8, "frame_size": [32, 48], "ffmpeg": "system"},
        data_dir=str(clips),
        measurement=MeasurementSettings(min_seconds=0.3, max_seconds=0.6),
    )
    return supervise(spec)


@pytest.mark.skipif(INSTALLED is None, reason="no FFmpeg 4 to 9 is installed on this machine")
def test_the_systems_is_loaded_and_read_back(clips: Path) -> None:
    result = measured(clips)
    assert result.state == "finished", (result.failure, result.log_tail)
    assert result.measurement is not None
    assert result.measurement.failed == 0
    versions = result.measurement.versions
    assert versions["ffmpeg"].endswith("(system)")
    avcodec = native.FFMPEG_SONAMES[INSTALLED or 0][1]
    assert versions["libavcodec"].startswith(f"{avcodec}.")


@pytest.mark.skipif(INSTALLED is not None, reason="an FFmpeg is installed on this machine")
def test_without_one_the_measurement_is_unsupported(clips: Path) -> None:
    failure = measured(clips).failure
    assert failure is not None
    assert failure.kind == "unsupported"
    assert "apt-get install" in failure.cause
    assert "or use ffmpeg: bundled" in failure.cause
