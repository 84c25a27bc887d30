"""What every built-in target must do: first those that read clips, at the end those that run what
a user wrote, as far as it applies to them.

A target joins with one line in `TARGETS`: a configuration that keeps the seeded order, and others
that its read-back must tell from it. The reference of a target of JPEG frames is a slow reader of
the same files; how much they differ from the videos is tested in tests/targets/test_frames.py.

That a closed loader leaves no thread, process, segment or batch is asserted of every scenario, in
`run_scenarios`.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from target_driver import ROOT, SMALL, run_scenarios

from autotune.manifest import Manifest, scan
from autotune.media.reference import decode_reference
from autotune.plugins import load_target
from autotune.search_space import SearchSpace, find_space
from autotune.supervision.supervisor import supervise
from autotune.system import processes
from autotune.trial import STUDY_MARK, MeasurementSettings, Params, TrialSpec
from tests.extracted_clips import extracted, slow_frames, video_of
from tests.made_clips import write_clips

Answers = dict[str, dict[str, Any]]

SEED = 5
HALF = {"subclip_duration": 0.5}


@dataclass(frozen=True)
class Built:
    """A target and the configurations it is tried with."""

    ordered: Params
    """Delivers in the seeded order."""
    others: list[Params] = field(default_factory=list)
    target: str = ""
    """Its name; by default that of its line."""


TARGETS: dict[str, Built] = {
    "spdl_video": Built(
        {"num_fetch_threads": 1, "num_demux_threads": 1, "num_decode_threads": 1},
        [{"sink_buffer_size": 5, "num_decode_threads": 2, "scale_algorithm": "area"}],
    ),
    "torch_dataloader": Built(
        {"num_workers": 2},
        [
            {"num_workers": 0, "layout": "view", "decoder": "spdl"},
            {"num_workers": 1, "prefetch_factor": 3, "wire_dtype": "uint8", "in_order": False,
             "persistent_workers": True, "decoder_threads": 2, "scale_algorithm": "area"},
        ],
    ),
    "prefetch_cache": Built(
        {"num_threads": 3, "cache_batches": 2},
        [
            {"num_threads": 1, "cache_batches": 1, "layout": "view", "decoder": "spdl"},
            {"cache_batches": 5, "wire_dtype": "uint8", "resize": "batch", "decoder_threads": 2,
             "scale_algorithm": "area"},
        ],
    ),
    "frames": Built(
        {"num_workers": 2},
        [
            {"num_workers": 0, "layout": "view", "scale_algorithm": "area"},
            {"num_workers": 1, "prefetch_factor": 3, "wire_dtype": "uint8", "in_order": False,
             "persistent_workers": True},
        ],
    ),
    "frames, SPDL": Built(
        {"reader": "spdl_threads", "num_fetch_threads": 1, "num_decode_threads": 1},
        [{"reader": "spdl_threads", "sink_buffer_size": 5, "num_decode_threads": 2,
          "gc_policy": "between_epochs", "scale_algorithm": "area"}],
        target="frames",
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def mixed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good clips, an empty file, a text, and a link to nothing."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "a").mkdir()
    for number in (0, 3):
        (root / "a" / f"good_{number}.mp4").symlink_to(clips / "class_0" / f"clip_{number}.mp4")
    (root / "a" / "empty.mp4").touch()
    (root / "a" / "text.mp4").write_text("not a video")
    (root / "a" / "gone.mp4").symlink_to(root / "nothing")
    return root


@pytest.fixture(scope="session", params=list(TARGETS))
def built(request: pytest.FixtureRequest) -> Built:
    made: Built = TARGETS[request.param]
    return made if made.target else replace(made, target=request.param)


@pytest.fixture(scope="session")
def target(built: Built) -> str:
    return built.target


@pytest.fixture(scope="session")
def extracted_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A folder of clips as JPEG frames."""
    return cache(lambda videos: extracted(videos, tmp_path_factory.mktemp("frames")))


@pytest.fixture(scope="session")
def data(target: str, clips: Path, extracted_once: Callable[[Path], Path]) -> Path:
    """The clips, as the target reads them."""
    return extracted_once(clips) if load_target(target).reads == "frames" else clips


@pytest.fixture(scope="session")
def mixed_data(target: str, mixed: Path, extracted_once: Callable[[Path], Path]) -> Path:
    return extracted_once(mixed) if load_target(target).reads == "frames" else mixed


@pytest.fixture(scope="session")
def answers(built: Built, data: Path, mixed_data: Path) -> Answers:
    """Every scenario of a target, in one process: most of the time goes into its imports."""
    target = built.target
    small: dict[str, Any] = {**built.ordered, **HALF}
    good, bad = {"data_dir": str(data), "seed": SEED}, {"data_dir": str(mixed_data)}
    scenarios: dict[str, dict[str, Any]] = {
        "ordered": {**good, "params": {**small, "batch_size": 10}, "batches": 3},
        "random": {
            **good, "params": {**small, "batch_size": 7, "subclip_start": "random"}, "batches": 2
        },
        "rank 0": {**good, "params": {**small, "batch_size": 4}, "rank": 0, "world": 2},
        "rank 1": {**good, "params": {**small, "batch_size": 3}, "rank": 1, "world": 2},
        "failing": {**bad, "params": {**small, "batch_size": 4}, "batches": 4},
        **{
            f"other {number}": {**good, "params": {**params, **HALF, "batch_size": 4}}
            for number, params in enumerate(built.others)
        },
    }  # fmt: skip
    return dict(zip(scenarios, run_scenarios(target, *scenarios.values()), strict=True))


def expected(manifest: Manifest, index: int, start: float = 0.0) -> str:
    """Digest of the sample that the reference delivers."""
    height, width = SMALL["frame_size"]
    wanted: dict[str, Any] = {"num_frames": SMALL["num_frames"], "height": height, "width": width}
    if manifest.kind == "frames":
        frames = slow_frames(manifest, index, start, 0.5, **wanted)
    else:
        data = Path(manifest.path(index)).read_bytes()
        frames = decode_reference(data, manifest.paths[index], start, 0.5, **wanted).frames
    return hashlib.sha1(frames.tobytes()).hexdigest()


def test_samples_equal_the_reference_in_the_seeded_order(answers: Answers, data: Path) -> None:
    manifest, answer = scan(data), answers["ordered"]
    assert "error" not in answer, answer["error"]
    order = [index for epoch in range(5) for index in manifest.order(SEED, epoch)][:30]
    samples = [expected(manifest, index) for index in range(len(manifest))]
    assert answer["labels"] == [manifest.labels[index] for index in order]
    assert answer["digests"] == [samples[index] for index in order]


def test_random_windows_are_those_of_every_target(answers: Answers, data: Path) -> None:
    from autotune.targets.spdl_video.duration import clip_duration
    from autotune.targets.spdl_video.source import random_share

    manifest, wanted = scan(data), []
    for epoch in range(2):
        for index in manifest.order(SEED, epoch):
            length = clip_duration(video_of(manifest, index).read_bytes(), "clip")
            start = round((length - 0.5) * random_share(SEED, epoch, index), 3)
            wanted.append(expected(manifest, index, start))
    assert answers["random"]["digests"] == wanted


def test_every_batch_has_the_form_asked_for(answers: Answers) -> None:
    for name, answer in answers.items():
        assert "error" not in answer, (name, answer["error"])
        form = answer["expected"]
        for batch in answer["batches"]:
            assert batch["shape"] == [answer["readback"]["batch_size"], *form["shape"]]
            assert form["shape"] == [3, SMALL["num_frames"], *SMALL["frame_size"]]
            assert (batch["dtype"], batch["device"]) == (form["dtype"], form["device"])
            assert 0.0 <= batch["low"] < batch["high"] <= 1.0
            assert batch["labels"] == ["torch.int64", batch["samples"]]
            assert batch["samples"] == batch["shape"][0]
            assert batch["frames"] == batch["samples"] * SMALL["num_frames"]
            assert batch["unique"] == batch["samples"] * 6  # 0.5 s at 12 fps hold 6 frames of 8
            assert batch["decoded"] >= batch["unique"]


def test_every_parameter_is_read_back(answers: Answers, built: Built) -> None:
    target = built.target
    space = SearchSpace.load(find_space(target))
    configurations = [built.ordered, *built.others]
    names = ["ordered", *(f"other {n}" for n in range(len(configurations) - 1))]
    for name, params in zip(names, configurations, strict=True):
        size = 10 if name == "ordered" else 4
        asked = load_target(target).Params.model_validate({**params, **HALF, "batch_size": size})
        assert answers[name]["readback"] == asked.model_dump()
        assert set(space.parameters) == set(asked.model_dump())
    assert answers["random"]["readback"]["subclip_start"] == "random"


def test_the_search_space_holds_the_targets_own_defaults(target: str) -> None:
    space = SearchSpace.load(find_space(target))
    assert load_target(target).Params().model_dump() == space.defaults()


def test_bad_clips_are_counted_by_name_and_batches_stay_full(answers: Answers) -> None:
    answer = answers["failing"]
    assert len(answer["labels"]) == 16
    failed = answer["failed"]
    assert set(failed["clips"]) == {"a/empty.mp4", "a/text.mp4", "a/gone.mp4"}
    assert "cannot be read: No such file or directory" in failed["clips"]["a/gone.mp4"]
    # Two of five clips are good: the others failed about as often as these were delivered.
    assert failed["count"] >= 12
    assert sum(stage["failures"] for stage in answer["stages"]) > 0
    assert answers["ordered"]["failed"] == {"count": 0, "clips": {}}


def test_no_sample_is_lost(answers: Answers) -> None:
    for answer in answers.values():
        handed_out, capacity = answer["accounts"]
        delivered, failed = len(answer["labels"]), answer["failed"]["count"]
        assert delivered <= handed_out
        assert handed_out - delivered - failed <= capacity


def test_ranks_read_disjoint_shards(answers: Answers, data: Path) -> None:
    manifest = scan(data)
    samples = {expected(manifest, index): index for index in range(len(manifest))}
    first, second = ({samples[d] for d in answers[f"rank {n}"]["digests"]} for n in range(2))
    assert not first & second
    assert first | second == set(range(len(manifest)))


def test_stage_statistics_are_sane(answers: Answers) -> None:
    for name in ("ordered", "failing"):
        answer = answers[name]
        stages = {stage["name"]: stage for stage in answer["stages"]}
        assert list(stages)[-1] == "sink"
        assert stages["sink"]["tasks"] == len(answer["batches"])
        assert stages["decode"]["tasks"] >= len(answer["labels"])
        assert stages["decode"]["busy_seconds"] > 0
        assert stages["collate"]["tasks"] >= len(answer["batches"])
        for stage in stages.values():
            assert stage["concurrency"] >= 1
            assert 0 <= stage["queue_occupancy"] <= 1
            assert min(stage["busy_seconds"], stage["get_seconds"], stage["put_seconds"]) >= 0
        # The second answer counts from the first one.
        assert answer["again"] < sum(stage["tasks"] for stage in stages.values())


def test_libraries_are_named(answers: Answers) -> None:
    assert {"torch", "ffmpeg"} <= set(answers["ordered"]["versions"])


@pytest.fixture
def specification(built: Built, data: Path) -> Callable[..., TrialSpec]:
    def make(**params: Any) -> TrialSpec:
        return TrialSpec(
            uuid=uuid.uuid4().hex,
            study=uuid.uuid4().hex,
            target=built.target,
            params=load_target(built.target)
            .Params.model_validate({**built.ordered, **HALF, **params})
            .model_dump(),
            settings=SMALL,
            data_dir=str(data),
            measurement=MeasurementSettings(min_seconds=0.4, max_seconds=0.8),
        )

    return make


def test_a_worker_process_measures_it(specification: Callable[..., TrialSpec]) -> None:
    spec = specification(batch_size=4)
    result = supervise(spec)
    assert result.failure is None
    measured = result.measurement
    assert measured is not None
    assert measured.readback == spec.params
    assert measured.samples_per_second > 0
    assert measured.unique_frames == pytest.approx(6.0)
    assert measured.delivered is not None
    assert measured.delivered.shape == [3, SMALL["num_frames"], *SMALL["frame_size"]]
    assert {stage.name for stage in measured.stages} >= {"decode", "collate", "sink"}
    assert processes.marked(STUDY_MARK, spec.study, keep=[os.getpid()]) == []


# ------------------------------------------------------------------ what a user wrote

LOADER = """
from torch.utils.data import DataLoader, Dataset
import torch

class Clips(Dataset):
    def __len__(self): return 24
    def __getitem__(self, index): return torch.rand(3, 8, 4, 6), index % 5

def build(num_workers, batch_size):
    return DataLoader(Clips(), batch_size=batch_size, num_workers=num_workers)
"""

SCRIPT = """
import argparse, subprocess, sys, time
from autotune import probe
parser = argparse.ArgumentParser()
parser.add_argument("--num-workers", type=int)
parser.add_argument("--batch-size", type=int)
args = parser.parse_args()
for _ in range(args.num_workers):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
while True:
    with probe.stage("load"):
        time.sleep(0.01)
    probe.step(samples=args.batch_size, frames=8 * args.batch_size)
"""

PARAMS = {"num_workers": 1, "batch_size": 4}

OWN: dict[str, dict[str, Any]] = {
    "python": {"function": "loader_of_the_contract:build"},
    "command": {
        "command": "{python} train.py {flags}",
        "flags": {name: [f"--{name.replace('_', '-')}", None] for name in PARAMS},
    },
}


@pytest.fixture(scope="session", params=list(OWN))
def own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """The name of a target, and its settings."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "loader_of_the_contract.py").write_text(LOADER)
    (folder / "train.py").write_text(SCRIPT)
    return request.param, {**OWN[request.param], "working_dir": str(folder)}


def test_what_a_user_wrote_is_counted_read_back_and_ended(own: tuple[str, dict[str, Any]]) -> None:
    """Seven batches are more than the loader's epoch has."""
    name, settings = own
    none = {**PARAMS, "num_workers": 0}
    answers = run_scenarios(
        name,
        {"params": PARAMS, "settings": settings, "batches": 7},
        {"params": none, "settings": settings},
        {"params": PARAMS, "settings": settings, "batches": 0},
    )
    for answer, params, batches in zip(answers, (PARAMS, none, PARAMS), (7, 1, 0), strict=True):
        assert "error" not in answer, answer["error"]
        assert answer["readback"] == params
        counts = {"samples": 4, "frames": 32, "unique": 0, "decoded": 0}
        assert answer["batches"] == [counts] * batches
        assert answer["failed"] == {"count": 0, "clips": {}}
        assert answer["accounts"] is None
        assert answer["expected"] is None
        # The second answer counts from the first one.
        assert answer["again"] <= sum(stage["tasks"] for stage in answer["stages"])


def test_a_worker_process_measures_what_a_user_wrote(
    own: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of the command that is in a session of its own ends with it."""
    name, settings = own
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    spec = TrialSpec(
        uuid=uuid.uuid4().hex,
        study=uuid.uuid4().hex,
        target=name,
        params=PARAMS,
        settings=settings,
        measurement=MeasurementSettings(min_seconds=0.8, max_seconds=1.5),
    )
    result = supervise(spec)
    measured = result.measurement
    assert measured is not None, (result.failure, result.log_tail)
    assert measured.readback == PARAMS
    assert measured.samples_per_second > 0
    assert measured.fps == pytest.approx(8 * measured.samples_per_second)
    assert measured.decoded_fps is None
    assert measured.accelerator_utilization is None
    assert {stage.name for stage in measured.stages} >= {"next" if name == "python" else "load"}
    assert processes.marked(STUDY_MARK, spec.study, keep=[os.getpid()]) == []
