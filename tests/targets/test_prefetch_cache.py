"""What the target `prefetch_cache` does besides what every target must (tests/contracts)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from autotune.exceptions import InputError, UnsupportedError
from autotune.plugins import load_target
from autotune.storage import Database
from autotune.supervision.supervisor import supervise
from autotune.targets import storage_latency
from autotune.targets.base import BuildContext
from autotune.targets.prefetch_cache import PrefetchCache
from autotune.targets.prefetch_cache.params import Params
from autotune.targets.validation import validated
from autotune.trial import ConsumerSpec, MeasurementSettings, TrialResult, TrialSpec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "contracts"))

from target_driver import run_scenarios  # noqa: E402

SMALL = {"num_frames": 8, "frame_size": [32, 48]}
SAMPLE_BYTES = 3 * 8 * 32 * 48
HALF = {"subclip_duration": 0.5, "batch_size": 3}
NAME = "prefetch_cache"


def measured(target: str, clips: Path, params: dict[str, Any], **fields: Any) -> TrialResult:
    """A short measurement in a worker process."""
    chosen = load_target(target).Params.model_validate({**HALF, **params}).model_dump()
    settings = {**SMALL, **fields.pop("settings", {})}
    timing = MeasurementSettings(min_seconds=0.8, max_seconds=1.2)
    spec = TrialSpec(
        uuid=uuid.uuid4().hex, study=uuid.uuid4().hex, target=target, params=chosen,
        settings=settings, data_dir=str(clips), measurement=timing, **fields,
    )  # fmt: skip
    return supervise(spec)


# ------------------------------------------------------------------ every way to build it


@pytest.mark.long
def test_every_cache_and_transform_delivers_the_same_samples(clips: Path) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"num_threads": 1, "cache_batches": 1},
        {"num_threads": 16, "cache_batches": 9, "decoder": "spdl"},
        {"wire_dtype": "uint8", "layout": "view"},
    ]
    base = {"data_dir": str(clips), "batches": 5}
    short = {**base, "params": HALF, "settings": {"epoch_batches": 2}}
    first, again, *others = run_scenarios(
        NAME,
        {**base, "params": HALF},
        short,
        *({**base, "params": {**HALF, **params}} for params in variants[1:]),
    )
    assert "error" not in first, first["error"]
    assert again["digests"] == first["digests"]
    assert again["stages"][-1]["tasks"] == 5
    for params, answer in zip(variants[1:], others, strict=True):
        assert "error" not in answer, (params, answer["error"])
        assert answer["digests"] == first["digests"]
        assert answer["labels"] == first["labels"]
        assert answer["readback"] == Params.model_validate({**HALF, **params}).model_dump()
        assert answer["batches"][0]["contiguous"] == (params.get("layout") != "view")


def test_its_samples_are_those_of_torch_dataloader(clips: Path) -> None:
    scenario = {"data_dir": str(clips), "batches": 5, "params": HALF, "seed": 3}
    (cached,) = run_scenarios(NAME, scenario)
    (loaded,) = run_scenarios("torch_dataloader", scenario)
    assert cached["digests"] == loaded["digests"]


def test_bytes_are_handed_over_where_the_setting_says_so(clips: Path) -> None:
    base = {"data_dir": str(clips), "settings": {"dtype": "uint8"}}
    handed, refused = run_scenarios(
        NAME, {**base, "params": {**HALF, "wire_dtype": "uint8"}}, {**base, "params": HALF}
    )
    assert handed["batches"][0]["dtype"] == "uint8"
    assert refused["error"]["kind"] == "InputError"
    assert "wire_dtype: uint8" in refused["error"]["cause"]


def test_a_folder_of_bad_clips_ends_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("not a video")
    (answer,) = run_scenarios(NAME, {"data_dir": str(tmp_path), "params": HALF})
    assert answer["error"]["kind"] == "DataError"
    assert "the data folder holds no clip that can be decoded" in answer["error"]["cause"]


# ------------------------------------------------------------------ the memory of the cache


@pytest.mark.parametrize(("wire", "value_bytes"), [("float32", 4), ("uint8", 1)])
def test_the_memory_of_the_cache_is_a_figure(clips: Path, wire: str, value_bytes: int) -> None:
    params = {"cache_batches": 5, "num_threads": 2, "wire_dtype": wire}
    slow = ConsumerSpec(kind="paced", ms_per_step=60)  # slower than the threads: it fills
    result = measured(NAME, clips, params, consumer=slow)
    assert result.measurement is not None, result.failure
    held = result.measurement.resources
    assert held.cache_gib is not None
    assert held.cache_mean_gib is not None
    batch = 3 * SAMPLE_BYTES * value_bytes
    # Beside the batches that wait lie the samples of those in the making, as bytes.
    assert 5 * batch <= held.cache_gib * 2**30 <= 5 * batch + 2 * 3 * SAMPLE_BYTES + 2 * batch
    assert 4 * batch <= held.cache_mean_gib * 2**30 <= held.cache_gib * 2**30
    assert result.measurement.stages[-1].queue_size == 5
    assert result.measurement.stages[-1].queue_occupancy > 0.5


@pytest.mark.long
def test_the_caches_of_all_ranks_are_added(clips: Path) -> None:
    slow = ConsumerSpec(kind="paced", ms_per_step=60)
    result = measured(NAME, clips, {"cache_batches": 4}, consumer=slow, ranks=2)
    assert result.measurement is not None, result.failure
    held = result.measurement.resources.cache_gib
    assert held is not None
    assert held * 2**30 >= 2 * 4 * 3 * SAMPLE_BYTES * 4


@pytest.mark.long
def test_a_loader_without_a_cache_has_no_such_figure(clips: Path) -> None:
    result = measured("torch_dataloader", clips, {"num_workers": 0})
    assert result.measurement is not None, result.failure
    assert result.measurement.resources.cache_gib is None


STUDY = """
target:
  name: prefetch_cache
  data_dir: {clips}
  num_frames: 8
  frame_size: [32, 48]
  subclip_duration: 0.5
  batch_size: 8
  consumer: {{kind: paced, ms_per_step: 60}}  # every cache keeps up with it: it fills
  num_threads: 4
  decoder_threads: 1
  cache_device: cpu
  pin_memory: false
  transform_device: cpu
  wire_dtype: float32
  layout: copy
search_space:
  base: prefetch_cache
  parameters:
    cache_batches: {{values: [2, 4, 32], default: 2}}
constraints: {{cache_gib: {{max: {limit}}}}}
budget: {{trials: 3, stop_at_ceiling: null}}
measurement: {{min_seconds: 2, max_seconds: 2, repeats: 0, early_stopping: false}}
noise: {{runs: 0, drift_every: 0}}
verification: {{finalists: 0}}
sampler: grid
executor: {{kind: local}}
"""


@pytest.mark.long
def test_a_study_keeps_the_cache_within_a_limit(clips: Path, tmp_path: Path) -> None:
    """The consumer sets the rate, so the largest cache is no faster, and it breaks the limit."""
    batch = 8 * SAMPLE_BYTES * 4
    (tmp_path / "study.yaml").write_text(STUDY.format(clips=clips, limit=12 * batch / 2**30))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}

    def autotune(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "autotune", *words],
            cwd=tmp_path, env={**clean, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    autotune("launch", "study.yaml")
    with Database.open(f"sqlite:///{tmp_path / 'autotune.db'}") as database:
        trials = database.trials(database.get_study("study").id)
    by_size = {trial.params["cache_batches"]: trial for trial in trials}
    assert set(by_size) == {2, 4, 32}
    sizes = [by_size[count].cache_gib for count in (2, 4, 32)]
    assert all(size is not None for size in sizes)
    assert sizes == sorted(sizes, key=lambda size: size or 0.0)
    assert [by_size[count].feasible for count in (2, 4, 32)] == [True, True, False]
    assert "cache_gib" in by_size[32].violated[0]
    small = json.loads(autotune("best", "study", "--where", "cache_batches < 4", "-f", "json"))
    per = json.loads(autotune("best", "study", "--per", "cache_batches", "-f", "json"))
    assert small
    assert per


# ------------------------------------------------------------------ emulated latency


@pytest.mark.parametrize(
    "target", ["prefetch_cache", pytest.param("torch_dataloader", marks=pytest.mark.long)]
)
def test_emulated_latency_is_waited_for_counted_and_told(target: str, clips: Path) -> None:
    result = measured(target, clips, {}, settings={"emulated_latency_ms": 30.0})
    assert result.measurement is not None, result.failure
    stages = {stage.name: stage for stage in result.measurement.stages}
    assert stages["fetch"].busy_seconds >= 0.03 * stages["fetch"].tasks > 0
    assert any("storage latency is emulated" in text for text in result.measurement.warnings)
    made = load_target(target)
    assert made.machine({}, {"emulated_latency_ms": 30.0})["emulated_latency_ms"] == 30.0
    assert "emulated_latency_ms" not in made.machine({}, {})


@pytest.mark.long
def test_many_threads_wait_for_storage_at_a_time(clips: Path) -> None:
    """One thread opens at most 10 clips a second; 32 of them open more."""
    settings = {"emulated_latency_ms": 100.0}
    one = measured(NAME, clips, {"num_threads": 1}, settings=settings)
    many = measured(NAME, clips, {"num_threads": 32, "cache_batches": 16}, settings=settings)
    assert one.measurement is not None, one.failure
    assert many.measurement is not None, many.failure
    assert one.measurement.samples_per_second <= 10.5
    assert many.measurement.samples_per_second > 2 * one.measurement.samples_per_second


def test_no_latency_is_neither_waited_for_nor_told() -> None:
    assert storage_latency.wait(0.0) == 0.0
    assert storage_latency.warnings(0.0) == []
    assert storage_latency.fingerprint(0.0) == {}
    assert storage_latency.wait(2.0) >= 0.002


# ------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cache_batch": 3}, ["params.cache_batch", "accepted are", "cache_batches"]),
        ({"cache_batches": 0}, ["params.cache_batches", "0"]),
        ({"cache_device": "cuda", "pin_memory": True}, ["pin_memory: True has no effect"]),
        ({"transform_device": "cuda", "wire_dtype": "uint8"}, ["wire_dtype: uint8 has no effect"]),
        ({"decoder": "pytorchvideo", "decoder_threads": 2}, ["decoder_threads: 2 has no effect"]),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        validated(Params, values, "params")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "params", [{"pin_memory": True}, {"transform_device": "cuda"}, {"cache_device": "cuda"}]
)
def test_what_needs_a_gpu_is_refused_without_one(clips: Path, params: dict[str, Any]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    spec = TrialSpec(
        uuid="u", study="s", target=NAME, params=params, settings=SMALL, data_dir=str(clips)
    )
    with pytest.raises(UnsupportedError, match="reaches no CUDA device"):
        PrefetchCache().build(BuildContext(spec))
    missing = {(u.parameter, u.value) for u in PrefetchCache().unavailable({}, {})}
    assert set(params.items()) <= missing
