"""What the target `spdl_video` delivers, in every topology, and what it says about itself."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autotune.manifest import Manifest, scan
from autotune.media.reference import decode_reference
from autotune.targets.spdl_video.duration import clip_duration
from autotune.targets.spdl_video.params import Params
from autotune.targets.spdl_video.source import random_share

FEW = {"num_fetch_threads": 1, "num_demux_threads": 1, "num_decode_threads": 1}
"""One thread a stage: then batches come in the source's order."""
SPLIT = {"process_mode": "subprocess"}
POOL = {**SPLIT, "arena": "pool"}
SMALL = {"num_frames": 8, "frame_size": [32, 48]}


def expected(
    manifest: Manifest, index: int, start: float, duration: float, algorithm: str = "bicubic"
) -> str:
    """Digest of the sample that the reference delivers."""
    data = Path(manifest.path(index)).read_bytes()
    clip = decode_reference(
        data, manifest.paths[index], start, duration, num_frames=8, width=48, height=32,
        scale_algorithm=algorithm,
    )  # fmt: skip
    return hashlib.sha1(clip.frames.tobytes()).hexdigest()


def starts(manifest: Manifest, index: int, epoch: int, duration: float, seed: int) -> float:
    """Where a random window of this epoch starts."""
    length = clip_duration(Path(manifest.path(index)).read_bytes(), manifest.paths[index])
    return round(max(0.0, length - duration) * random_share(seed, epoch, index), 3)


def test_batches_equal_the_reference_in_order(
    clips: Path, run_loaders: Any, tmp_path: Path
) -> None:
    manifest = scan(clips)
    base = {"data_dir": str(clips), "batches": 3, "settings": SMALL, "seed": 5}
    base["manifest"] = str(manifest.write(tmp_path))
    size = {"batch_size": 7, "subclip_duration": 0.5}
    scenarios = [
        {**base, "params": {**FEW, **size}},
        {**base, "params": {**FEW, **size, **SPLIT}},
        {**base, "params": {**FEW, **size, **POOL}},
        {**base, "params": {**FEW, **size}, "settings": {**SMALL, "clips_per_fetch": 3}},
        {**base, "params": {**FEW, **size}, "settings": {**SMALL, "dtype": "uint8"}},
    ]
    answers = run_loaders(*scenarios)
    order = [index for epoch in range(3) for index in manifest.order(5, epoch)]
    samples = {index: expected(manifest, index, 0.0, 0.5) for index in range(len(manifest))}
    for answer in answers:
        assert "error" not in answer
        assert answer["labels"] == [manifest.labels[index] for index in order]
        assert answer["digests"] == [samples[index] for index in order]
        assert answer["unique"] == [7 * 6] * 3  # 0.5 s at 12 fps hold 6 frames of 8
        assert answer["failed"]["count"] == 0
    assert answers[0]["dtypes"] == ["torch.float32"] * 3
    assert answers[-1]["dtypes"] == ["torch.uint8"] * 3


def test_random_windows_equal_the_reference_and_repeat(clips: Path, run_loaders: Any) -> None:
    manifest = scan(clips)
    params = {**FEW, "batch_size": 7, "subclip_duration": 0.75, "subclip_start": "random"}
    params["scale_algorithm"] = "fast_bilinear"
    base = {"data_dir": str(clips), "batches": 2, "settings": SMALL, "seed": 9}
    first, again = run_loaders({**base, "params": params}, {**base, "params": {**params, **SPLIT}})
    wanted = []
    for epoch in range(2):
        for index in manifest.order(9, epoch):
            at = starts(manifest, index, epoch, 0.75, seed=9)
            wanted.append(expected(manifest, index, at, 0.75, "fast_bilinear"))
    assert first["digests"] == wanted
    assert again["digests"] == wanted
    assert first["readback"]["subclip_start"] == "random"


@pytest.mark.long
def test_many_threads_deliver_the_same_samples(clips: Path, run_loaders: Any) -> None:
    manifest = scan(clips)
    samples = [expected(manifest, index, 0.0, 2.0) for index in range(len(manifest))]
    base = {"data_dir": str(clips), "batches": 14, "settings": SMALL}
    asked = [{"batch_size": 4}, {"batch_size": 4, **POOL}]
    answers = run_loaders(*({**base, "params": params} for params in asked))
    for params, answer in zip(asked, answers, strict=True):
        # 56 samples: 8 epochs of 7. A clip may overtake others within what is under way.
        counts = Counter(answer["digests"])
        assert set(counts) == set(samples)
        assert max(counts.values()) - min(counts.values()) <= 8
        assert answer["readback"] == Params(**params).model_dump()


def test_real_clips_equal_the_reference(shared_clips: Path, run_loaders: Any) -> None:
    manifest = scan(shared_clips / "real")
    params = {"subclip_duration": 0.5, "batch_size": 7, "num_decode_threads": 2}
    base = {"data_dir": manifest.root, "batches": 3, "settings": SMALL}
    samples = {expected(manifest, index, 0.0, 0.5): index for index in range(len(manifest))}
    for answer in run_loaders({**base, "params": params}, {**base, "params": {**params, **POOL}}):
        assert answer["failed"]["count"] == 0
        found = [samples[digest] for digest in answer["digests"]]  # a KeyError: another content
        assert [manifest.labels[index] for index in found] == answer["labels"]
        assert set(found) == set(range(len(manifest)))


CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"num_fetch_threads": 2, "num_demux_threads": 3, "num_decode_threads": 5},
    {"sink_buffer_size": 5, "gc_policy": "between_epochs", "decoder_threads": 2},
    {"batch_size": 3, "subclip_duration": 1.0, "scale_algorithm": "area"},
    {**SPLIT, "backend_buffer_size": 6, "num_fetch_threads": 3, "num_demux_threads": 1},
    {**POOL, "backend_buffer_size": 1, "sink_buffer_size": 1, "gc_policy": "between_epochs"},
]


def test_every_parameter_is_read_back(clips: Path, run_loaders: Any) -> None:
    base = {"data_dir": str(clips), "settings": SMALL}
    answers = run_loaders(*({**base, "params": params} for params in CONFIGURATIONS))
    for params, answer in zip(CONFIGURATIONS, answers, strict=True):
        asked = Params(**params)
        assert answer["readback"] == asked.model_dump()
        assert answer["prefetched"] == asked.sink_buffer_size + 2 + 2 + 3
        assert "bundled" in answer["versions"]["ffmpeg"]
        assert answer["close_seconds"] < 5


def test_stage_statistics_add_up(clips: Path, run_loaders: Any) -> None:
    base = {"data_dir": str(clips), "settings": SMALL, "batches": 6}
    for answer in run_loaders(
        {**base, "params": {"batch_size": 4, "num_decode_threads": 2}, "idle": 0.3},
        {**base, "params": {"batch_size": 4, "num_decode_threads": 2, **SPLIT}, "idle": 0.3},
    ):
        stages = {stage["name"]: stage for stage in answer["stages"]}
        split = answer["readback"]["process_mode"] == "subprocess"
        between = ["transfer"] if split else []
        assert list(stages) == [
            "source", "fetch", "disaggregate", "demux", *between, "decode", "aggregate", "collate",
            "sink",
        ]  # fmt: skip
        assert stages["sink"]["tasks"] == 6
        assert stages["collate"]["tasks"] >= 6
        clips_through = [stages[name]["tasks"] for name in ("fetch", "demux", "decode")]
        assert clips_through == sorted(clips_through, reverse=True)
        assert clips_through[-1] >= 24
        assert stages["decode"]["concurrency"] == 2
        assert stages["fetch"]["concurrency"] == 8
        assert stages["sink"]["queue_size"] == 3
        for name in ("fetch", "demux", "decode", "collate"):
            assert stages[name]["busy_seconds"] > 0
            assert stages[name]["failures"] == 0
        assert all(0 <= stage["queue_occupancy"] <= 1 for stage in stages.values())
        # The second answer counts from the first one: much less time, few tasks.
        assert sum(answer["again"]) < sum(stage["tasks"] for stage in stages.values())


@pytest.mark.parametrize("world", [2])
def test_ranks_read_disjoint_shards(clips: Path, run_loaders: Any, world: int) -> None:
    manifest = scan(clips)
    names = {expected(manifest, index, 0.0, 0.5): index for index in range(len(manifest))}
    base = {"data_dir": str(clips), "settings": SMALL, "world": world}
    params = {**FEW, "subclip_duration": 0.5}
    first, second = run_loaders(
        {**base, "rank": 0, "params": {**params, "batch_size": 4}},
        {**base, "rank": 1, "params": {**params, "batch_size": 3}},
    )
    shards = [{names[digest] for digest in answer["digests"]} for answer in (first, second)]
    assert not shards[0] & shards[1]
    assert shards[0] | shards[1] == set(range(len(manifest)))
