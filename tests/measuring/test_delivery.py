"""What a loader delivers is checked: loaders that lie are caught, in real worker processes."""

from __future__ import annotations

import os
from typing import Any

import pytest
from helpers import FOLDER, ROOT, specification

from autotune.exceptions import MeasurementFailed
from autotune.measuring.delivery import (
    LOOKED_AT_SAMPLES,
    DeliveryCheck,
    check_accounts,
    check_decoder,
)
from autotune.supervision.supervisor import supervise
from autotune.targets.base import Accounts, Batch
from autotune.targets.spdl_video import SpdlVideo
from autotune.trial import Delivered, RankFigures, Resources, TrialResult
from tests.fakes import measurement

torch = pytest.importorskip("torch")

PARAMS = {"batch_size": 4, "device": "cpu"}


@pytest.fixture(autouse=True)
def _targets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")


def run(ranks: int = 1, **settings: Any) -> TrialResult:
    spec = specification(target="lying:Lying", params=PARAMS, settings=settings, ranks=ranks)
    return supervise(spec)


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_was_delivered_is_recorded(ranks: int) -> None:
    result = run(ranks)
    assert result.measurement is not None, result.failure
    assert result.measurement.delivered == SEEN


@pytest.mark.parametrize(
    ("settings", "kind", "cause"),
    [
        ({"lie": "fewer_frames"}, "start_up", "shape [3, 3, 8, 8], not [3, 4, 8, 8]"),
        ({"lie": "smaller"}, "start_up", "shape [3, 4, 8, 4], not [3, 4, 8, 8]"),
        ({"lie": "uint8"}, "start_up", "dtype uint8, not float32"),
        ({"wants_cuda": True}, "start_up", "device cpu, not cuda"),
        ({"lie": "nan"}, "start_up", "NaN"),
        ({"lie": "black"}, "start_up", "every value is 0"),
        ({"lie": "still"}, "start_up", "every frame of a clip is the same"),
        ({"lie": "miscounted_samples"}, "start_up", "4 samples and 4 labels, counted as 5"),
        ({"lie": "miscounted_frames"}, "start_up", "holds 16 frames, not 12"),
        ({"lie": "late_fewer_frames"}, "crash", "shape [3, 3, 8, 8], not [3, 4, 8, 8]"),
        ({"lie": "late_uint8", "unknown": True}, "crash", "dtype uint8, not float32"),
        ({"lie": "nan", "unknown": True}, "start_up", "NaN"),
        ({"lie": "dropped_samples"}, "crash", "are missing, and the pipeline holds 8 at most"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_loader_that_lies_gets_no_figure(
    settings: dict[str, object], kind: str, cause: str
) -> None:
    result = run(**settings)
    assert result.measurement is None
    assert result.failure is not None
    assert (result.failure.kind, cause in result.failure.cause) == (kind, True), result.failure
    assert result.failure.advice


@pytest.mark.parametrize("lie", ["late_smaller", "black", "miscounted_frames"])
def test_of_a_foreign_loader_only_what_is_known_is_asked(lie: str) -> None:
    assert run(lie=lie, unknown=True).measurement is not None


SEEN = Delivered(shape=[3, 4, 8, 8], dtype="float32", device="cpu", frames_per_sample=4)


def batch(video: Any, unique: int = 4, samples: int = 1) -> Batch:
    frames = video.shape[2] * samples
    return Batch(video, torch.zeros(samples), samples, frames, unique * samples, frames)


def test_a_few_samples_may_lack_content_by_chance() -> None:
    check = DeliveryCheck(SEEN)
    black = torch.zeros(1, 3, 4, 8, 8)
    for _ in range(LOOKED_AT_SAMPLES - 1):
        check.check(batch(black))
    check.check(batch(torch.rand(1, 3, 4, 8, 8)))
    for _ in range(LOOKED_AT_SAMPLES + 1):  # nothing is looked into any more
        check.check(batch(black))


def test_one_frame_repeated_is_content_where_the_loader_says_so() -> None:
    check = DeliveryCheck(SEEN)
    still = torch.rand(4, 3, 1, 8, 8).expand(4, 3, 4, 8, 8)
    for _ in range(LOOKED_AT_SAMPLES):
        check.check(batch(still, unique=1, samples=4))
    eight = batch(torch.cat([still, still]), unique=4, samples=LOOKED_AT_SAMPLES)
    with pytest.raises(MeasurementFailed, match="every frame of a clip is the same"):
        DeliveryCheck(SEEN).check(eight)


class Counting:
    """The part of a loader that `check_accounts` asks."""

    def __init__(self, accounts: Accounts | None, failed: int) -> None:
        self._accounts, self._failed = accounts, failed

    def accounts(self) -> Accounts | None:
        return self._accounts

    def failed(self) -> tuple[int, list[Any]]:
        return self._failed, []


def test_samples_may_be_under_way_or_failed_but_not_gone() -> None:
    loader: Any = Counting(Accounts(handed_out=110, capacity=6), failed=4)
    check_accounts(loader, delivered=100)
    with pytest.raises(MeasurementFailed, match="7 are missing"):
        check_accounts(loader, delivered=99)
    silent: Any = Counting(None, failed=0)
    check_accounts(silent, delivered=0)


def decoded(device: str, percent: float | None, fps: float | None = 9000.0, ranks: int = 1) -> Any:
    seen = Delivered(shape=[3, 16, 112, 112], dtype="float32", device=device, frames_per_sample=16)
    changes = {
        "delivered": seen,
        "resources": Resources(nvdec_percent=percent),
        "decoded_fps": fps,
        "ranks": [
            RankFigures(rank=i, samples_per_second=1.0, time_to_first_batch=1.0)
            for i in range(ranks)
        ],
    }
    return measurement(100.0).model_copy(update=changes)


def test_nvdec_is_proved_by_the_frames_device_and_the_decoders_load() -> None:
    assert check_decoder("nvdec", decoded("cuda:0", 35.0)) == []
    assert check_decoder("cpu", decoded("cpu", None)) == []
    with pytest.raises(MeasurementFailed, match="frames lie on cpu"):
        check_decoder("nvdec", decoded("cpu", 35.0))
    with pytest.raises(MeasurementFailed, match="decoders idle while 9000 frames/s"):
        check_decoder("nvdec", decoded("cuda:0", 0.0))


def test_where_nvml_cannot_show_nvdecs_load_the_measurement_says_so() -> None:
    assert "does not tell" in check_decoder("nvdec", decoded("cuda:0", None))[0]
    # a slow or paced consumer: less than a per cent of the engines' time
    assert "so few frames" in check_decoder("nvdec", decoded("cuda:0", 0.0, fps=300.0))[0]
    assert "so few frames" in check_decoder("nvdec", decoded("cuda:0", 0.0, fps=None))[0]
    assert "so few frames" in check_decoder("nvdec", decoded("cuda:0", 0.0, ranks=8))[0]


def test_spdl_video_says_what_its_batches_are() -> None:
    spec = specification(
        target="spdl_video",
        params={"device": "nvdec"},
        settings={"num_frames": 8, "frame_size": [64, 96], "dtype": "uint8"},
    )
    assert SpdlVideo().expected(spec) == Delivered(
        shape=[3, 8, 64, 96], dtype="uint8", device="cuda", frames_per_sample=8
    )
