"""What the target `torch_dataloader` does besides what every target must (tests/contracts)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import InputError, UnsupportedError
from autotune.media.reference import decode_reference
from autotune.plugins import load_target
from autotune.search_space import SearchSpace, find_space
from autotune.storage import Database
from autotune.targets.base import BuildContext
from autotune.targets.torch_dataloader import TorchDataLoader
from autotune.targets.torch_dataloader.collate import SharedMemoryExhausted, new_tensor
from autotune.targets.torch_dataloader.params import Params
from autotune.targets.torch_dataloader.sampler import EpochBatches
from autotune.targets.torch_dataloader.transforms import batch_on, batch_shape, scale, write_sample
from autotune.targets.torch_dataloader.workers import affinity_seen, cores_of
from autotune.targets.validation import validated
from autotune.trial import TrialSpec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "contracts"))

from target_driver import run_scenarios  # noqa: E402

SMALL = {"num_frames": 8, "frame_size": [32, 48]}
HALF = {"subclip_duration": 0.5, "batch_size": 3}
NAME = "torch_dataloader"
MANY_CORES = len(os.sched_getaffinity(0)) > 1


def specification(**changes: Any) -> TrialSpec:
    base = {"uuid": "u", "study": "s", "target": NAME, "params": {}, "settings": SMALL}
    return TrialSpec.model_validate({**base, **changes})


# ------------------------------------------------------------------ every way to build it


def test_room_in_shared_memory_that_another_worker_takes_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    def full(size: int) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(SharedMemoryExhausted, match=r"1\.0 MiB .* /dev/shm .* \(28\)"):
        new_tensor((1024, 256), torch.float32, shared=True)


@pytest.mark.long
def test_every_context_and_transform_delivers_the_same_samples(clips: Path) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"num_workers": 0},
        {"multiprocessing_context": "spawn", "num_workers": 1},
        {"multiprocessing_context": "forkserver", "num_workers": 1, "torch_threads": 2},
        {"wire_dtype": "uint8", "layout": "view"},
        {"worker_affinity": "spread" if MANY_CORES else "none", "decoder": "spdl"},
    ]
    base = {"data_dir": str(clips), "batches": 3}
    first, *others = run_scenarios(
        NAME, *({**base, "params": {**HALF, **params}} for params in variants)
    )
    assert "error" not in first, first["error"]
    for params, answer in zip(variants[1:], others, strict=True):
        assert "error" not in answer, (params, answer["error"])
        assert answer["digests"] == first["digests"]
        assert answer["labels"] == first["labels"]
        assert answer["readback"] == Params.model_validate({**HALF, **params}).model_dump()
        assert answer["batches"][0]["contiguous"] == (params.get("layout") != "view")


def test_epochs_end_and_begin_without_a_break(clips: Path) -> None:
    base = {"data_dir": str(clips), "batches": 7, "params": HALF}
    short = {**base, "settings": {"epoch_batches": 2}}
    persistent = {**short, "params": {**HALF, "persistent_workers": True}}
    once, again, kept = run_scenarios(NAME, base, short, persistent)
    for answer in (again, kept):
        assert "error" not in answer, answer["error"]
        assert answer["digests"] == once["digests"]
        assert answer["stages"][-1]["tasks"] == 7
    assert kept["readback"]["persistent_workers"] is True


def test_bytes_are_handed_over_where_the_setting_says_so(clips: Path) -> None:
    base = {"data_dir": str(clips), "settings": {"dtype": "uint8"}}
    sent, local, refused = run_scenarios(
        NAME,
        {**base, "params": {**HALF, "wire_dtype": "uint8"}},
        {**base, "params": {**HALF, "num_workers": 0}},
        {**base, "params": HALF},
    )
    for answer in (sent, local):
        assert answer["batches"][0]["dtype"] == "uint8"
    assert sent["digests"] == local["digests"]
    assert refused["error"]["kind"] == "InputError"
    assert "wire_dtype: uint8" in refused["error"]["cause"]


@pytest.mark.long
def test_clips_scaled_after_batching_look_the_same(shared_clips: Path) -> None:
    import torch

    path = shared_clips / "real" / "riding_a_bike" / "bikes.mp4"
    data = path.read_bytes()
    wanted: dict[str, Any] = {"num_frames": 4, "scale_algorithm": "bicubic"}
    whole = decode_reference(data, path.name, 0.0, 0.5, width=640, height=272, **wanted)
    small = decode_reference(data, path.name, 0.0, 0.5, width=112, height=112, **wanted)
    scaled = scale(torch.from_numpy(whole.frames), (112, 112), "bicubic").numpy()
    error = np.mean((scaled.astype(float) - small.frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 35
    (answer,) = run_scenarios(
        NAME,
        {
            "data_dir": str(shared_clips / "real"),
            "params": {"resize": "batch", "batch_size": 7, "subclip_duration": 0.5},
        },
    )
    assert "error" not in answer, answer["error"]
    assert answer["readback"]["resize"] == "batch"


# ------------------------------------------------------------------ what goes wrong


def test_a_killed_worker_is_a_crash_that_is_named(clips: Path) -> None:
    killed = {"data_dir": str(clips), "params": HALF, "batches": 5000, "signal": signal.SIGKILL}
    bus = {**killed, "signal": signal.SIGBUS}
    lone = {**killed, "params": {**HALF, "num_workers": 1, "multiprocessing_context": "spawn"}}
    crash, no_room, spawned = run_scenarios(NAME, killed, bus, lone)
    for answer in (crash, spawned):
        assert answer["error"]["kind"] == "crash"
        assert "was killed by SIGKILL" in answer["error"]["cause"]
        assert "fewer workers" in answer["error"]["advice"]
    assert no_room["error"]["kind"] == "host_out_of_memory"
    assert "/dev/shm" in no_room["error"]["cause"]
    assert "--shm-size" in no_room["error"]["advice"]


def _namespaces() -> bool:
    """Whether this user may mount a file system of its own."""
    if shutil.which("unshare") is None:
        return False
    command = "mount -t tmpfs -o size=64k none /dev/shm"
    tried = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(not _namespaces(), reason="needs the right to mount (root)")
@pytest.mark.parametrize("size", ["300k", "2m"])
def test_a_full_shared_memory_is_out_of_memory_with_the_remedy(clips: Path, size: str) -> None:
    """One batch takes 864 KiB: at first none fits, then the second or third one does not."""
    answers = _with_shared_memory(
        size,
        {
            "target": NAME,
            "data_dir": str(clips),
            "params": {**HALF, "batch_size": 6, "num_workers": 4, "prefetch_factor": 4},
            "batches": 50,
            "settings": {**SMALL, "num_frames": 32},
        },
    )
    (answer,) = answers
    assert answer["error"]["kind"] == "host_out_of_memory", answer["error"]
    assert "/dev/shm" in answer["error"]["cause"]
    assert "--shm-size" in answer["error"]["advice"]
    assert answer["children"] == []


def _with_shared_memory(size: str, *scenarios: dict[str, Any]) -> Any:
    driver = ROOT / "tests" / "contracts" / "target_driver.py"
    asked = TorchDataLoader().environment({}, {})
    script = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$0" "$1" "$2"'
    process = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, str(driver), json.dumps(scenarios)],
        env={**os.environ, **asked, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_a_folder_of_bad_clips_ends_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (answer,) = run_scenarios(NAME, {"data_dir": str(tmp_path), "params": HALF})
    assert answer["error"]["kind"] == "DataError"
    assert "text.mp4" in answer["error"]["cause"]
    assert "in a row that failed" in answer["error"]["cause"]
    assert answer["failed"]["count"] >= 20


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_worker": 3}, ["params.num_worker", "accepted are", "num_workers"]),
        ({"num_workers": -1}, ["params.num_workers", "-1"]),
        ({"num_workers": 0, "prefetch_factor": 4}, ["prefetch_factor: 4 has no effect"]),
        ({"num_workers": 0, "persistent_workers": True}, ["persistent_workers: True has no"]),
        ({"num_workers": 0, "wire_dtype": "uint8"}, ["wire_dtype: uint8 has no effect"]),
        ({"transform_device": "cuda", "wire_dtype": "uint8"}, ["transform_device: cuda"]),
        ({"decoder": "torchvision", "decoder_threads": 2}, ["decoder_threads: 2 has no effect"]),
        ({"decoder": "pytorchvideo", "decoder_threads": 2}, ["with decoder: pytorchvideo"]),
        ({"decoder": "gstreamer"}, ["params.decoder", "gstreamer", "'opencv_buffer'"]),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        validated(Params, values, "params")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("target", [NAME, "prefetch_cache"])
def test_threads_are_searched_for_the_decoders_that_take_a_number(target: str) -> None:
    space, accepted = SearchSpace.load(find_space(target)), load_target(target).Params
    for decoder in space.parameters["decoder"].domain():
        params = {**space.defaults(), "decoder": decoder, "decoder_threads": 2}
        if "decoder_threads" in space.active(params):
            accepted.model_validate(params)
        else:
            with pytest.raises(ValueError, match="decoder_threads: 2 has no effect"):
                accepted.model_validate(params)


@pytest.mark.parametrize("params", [{"pin_memory": True}, {"transform_device": "cuda"}])
def test_what_needs_a_gpu_is_refused_without_one(clips: Path, params: dict[str, Any]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    spec = specification(params=params, data_dir=str(clips))
    with pytest.raises(UnsupportedError, match="reaches no CUDA device"):
        TorchDataLoader().build(BuildContext(spec))
    missing = {(u.parameter, u.value) for u in TorchDataLoader().unavailable({}, {})}
    assert set(params.items()) <= missing


# ------------------------------------------------------------------ parts


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 7), st.integers(1, 4))
def test_batches_walk_through_the_epochs(shard: int, size: int, batches: int, passes: int) -> None:
    sampler = EpochBatches(shard, size, batches)
    places = [place for _ in range(passes) for batch in sampler for place in batch]
    assert len(places) == size * batches * passes == sampler.handed_out
    assert [epoch * shard + position for epoch, position in places] == list(range(len(places)))
    assert all(0 <= position < shard for _, position in places)


@given(st.sampled_from(["none", "spread", "reserve"]), st.sets(st.integers(0, 255), min_size=2))
def test_the_affinity_that_was_set_is_recognized(affinity: str, cores: set[int]) -> None:
    allowed = sorted(cores)
    seen = [(worker, cores_of(worker, affinity, allowed)) for worker in range(5)]
    assert all(set(found) <= cores for _, found in seen)
    assert affinity_seen(seen, affinity, allowed) == affinity
    with pytest.raises(RuntimeError, match="no worker_affinity explains"):
        affinity_seen([(0, (999,))], affinity, allowed)


def test_an_affinity_that_was_not_set_is_not_claimed() -> None:
    assert affinity_seen([(0, (0, 1, 2))], "spread", [0, 1, 2]) == "none"
    assert affinity_seen([(1, (1,))], "reserve", [0, 1, 2]) == "spread"


@pytest.mark.parametrize("layout", ["copy", "view"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_samples_are_written_into_their_batch(layout: str, dtype: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    out = np.empty(batch_shape(1, frames.shape, layout), dtype)
    write_sample(out[0], frames, layout)
    found = out[0] if layout == "copy" else out[0].transpose(3, 0, 1, 2)
    wanted = frames.transpose(3, 0, 1, 2)
    assert found.shape == (3, 2, 4, 6)
    assert np.array_equal(found, wanted if dtype == np.uint8 else wanted / np.float32(255))


STUDY = """
target:
  name: torch_dataloader
  data_dir: {clips}
  num_frames: 8
  frame_size: [32, 48]
  subclip_duration: 0.5
  consumer: {{kind: paced, ms_per_step: 500}}  # slower than the workers: their batches pile up
  batch_size: 8
  decoder_threads: 1
  torch_threads: 1
  pin_memory: false
  persistent_workers: false
  multiprocessing_context: fork
  in_order: true
  worker_affinity: none
  transform_device: cpu
  wire_dtype: float32
  layout: copy
search_space:
  base: torch_dataloader
  parameters:
    num_workers: {{values: [0, 2], default: 0}}
    prefetch_factor: {{values: [2, 16], default: 2}}
budget: {{trials: 3}}
measurement: {{min_seconds: 6, max_seconds: 6, repeats: 0, early_stopping: false}}
noise: {{runs: 0, drift_every: 0}}
verification: {{finalists: 0}}
sampler: grid
executor: {{kind: local}}
"""


@pytest.mark.long
@pytest.mark.skipif(not _namespaces(), reason="needs the right to mount (root)")
def test_a_study_goes_on_over_worker_counts_that_run_out_of_shared_memory(
    clips: Path, tmp_path: Path
) -> None:
    """A batch takes 1.1 MiB: none is sent with 0 workers, 4 fit ahead, 32 do not."""
    (tmp_path / "study.yaml").write_text(STUDY.format(clips=clips))
    script = 'mount -t tmpfs -o size=8m none /dev/shm && exec "$0" -m autotune launch study.yaml'
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}
    launched = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    with Database.open(f"sqlite:///{tmp_path / 'autotune.db'}") as database:
        trials = database.trials(database.get_study("study").id)
    states = {
        (t.params["num_workers"], t.params["prefetch_factor"]): (t.state, t.failure) for t in trials
    }
    assert states[0, 2][0] == states[2, 2][0] == "COMPLETE"
    state, failure = states[2, 16]
    assert state == "FAIL"
    assert failure is not None
    assert failure.kind == "host_out_of_memory"
    assert "/dev/shm" in failure.cause
    assert "--shm-size" in failure.advice


@pytest.mark.parametrize("layout", ["copy", "view"])
@pytest.mark.parametrize("as_float", [True, False])
def test_what_the_device_does_equals_what_a_worker_does(layout: str, as_float: bool) -> None:
    """The GPU's way, here on the CPU: clips of different sizes, scaled and put together."""
    import torch

    random = np.random.default_rng(0)
    clips = [random.integers(0, 256, (2, *size, 3), dtype=np.uint8) for size in [(8, 12), (6, 6)]]
    tensors = [torch.from_numpy(clip) for clip in clips]
    batch = batch_on("cpu", tensors, (4, 6), "bilinear", layout, as_float)
    assert tuple(batch.shape) == (2, 3, 2, 4, 6)
    assert batch.dtype == (torch.float32 if as_float else torch.uint8)
    assert batch.is_contiguous() == (layout == "copy")
    for sample, clip in zip(batch, tensors, strict=True):
        slot = np.empty((3, 2, 4, 6), np.float32 if as_float else np.uint8)
        write_sample(slot, scale(clip, (4, 6), "bilinear").numpy(), "copy")
        assert np.allclose(sample.numpy(), slot, atol=1e-6)
