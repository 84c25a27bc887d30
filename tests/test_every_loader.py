"""The comparison of every loader: who takes part, how each is tuned, and what the table says."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.exceptions import InputError
from autotune.media.decoders import DECODERS
from autotune.media.native import library_environment
from autotune.plugins import load_target
from autotune.targets.validation import validated
from autotune.trial import Params
from experiments.benchmarks import _common, every_loader
from experiments.benchmarks.every_loader import Comparison, Extraction, expected_minutes
from experiments.benchmarks.loader_field import FRAMES_TARGET, USUAL, contenders
from experiments.benchmarks.loaders_report import Run
from experiments.benchmarks.tuning import Searched, Tuned, tune
from tests.extracted_clips import extracted
from tests.made_clips import write_clips

ROOT = Path(__file__).resolve().parents[1]
CACHE = Searched(
    "a cache",
    "prefetch_cache",
    {"wire_dtype": "float32", "pin_memory": False, "transform_device": "cpu"},
    {"num_threads": {"min": 1, "max": 8, "default": 3}, "cache_batches": {"min": 1, "max": 16}},
    [{"num_threads": 6}],
)

FIRST_BATCHES = """
import json, sys
from autotune import loaders
found = {}
for name, (target, data, options) in json.loads(sys.argv[1]).items():
    loader = getattr(loaders, target)(data, **options)
    video = next(iter(loader)).video
    found[name] = [list(video.shape), str(video.dtype), list(video.stride())]
    loader.close()
print(json.dumps(found))
"""


# --------------------------------------------------------------------------- who takes part


def test_every_decoder_takes_part_and_every_target_accepts_what_may_be_tried() -> None:
    field = contenders(0.5, cores=2, missing={"decord": "not installed"})
    assert {c.target for c in field} == {
        "spdl_video",
        "torch_dataloader",
        "prefetch_cache",
        "frames",
    }
    assert not any("decord" in c.name for c in field)
    decoded = {c.fixed["decoder"] for c in field if c.target == "torch_dataloader"}
    assert decoded == DECODERS.keys() - {"decord"}
    draw = random.Random(0)
    for contender in field:
        target = load_target(contender.target)
        validated(target.Settings, {**_common.SETTINGS, **contender.settings}, contender.name)
        space = contender.space()
        tried = [space.complete({**space.pinned, **start}) for start in ({}, *contender.starts)]
        for _ in range(50):
            drawn = {name: draw.choice(space.parameters[name].domain()) for name in space.searched}
            tried.append(space.complete({**space.pinned, **drawn}))
        for params in tried:
            validated(target.Params, params, contender.name)


def test_what_is_tuned_of_each_is_what_matters_for_it() -> None:
    searched = {c.name: set(c.space().searched) for c in contenders(0.5, cores=2, missing={})}
    workers = {
        "num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context",
        "in_order", "torch_threads", "worker_affinity", "wire_dtype",
    }  # fmt: skip
    assert searched["torch_dataloader, pyav"] == workers | {"decoder_threads"}
    assert searched["frames, dataloader"] == workers
    assert searched["spdl_video"] == {
        "num_fetch_threads", "num_demux_threads", "num_decode_threads", "decoder_threads",
        "sink_buffer_size", "backend_buffer_size", "process_mode", "arena", "gc_policy",
    }  # fmt: skip
    assert {"num_threads", "cache_batches"} < searched["prefetch_cache, pyav"]


@pytest.mark.long
def test_all_hand_over_the_same_batches(tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "videos")
    frames = extracted(videos, tmp_path / "frames")
    asked: dict[str, Any] = {}
    for contender in contenders(0.5, cores=2, missing={}):
        if contender.fixed.get("decoder", "pyav") in ("pyav", "spdl"):
            space = contender.space()
            in_process: Params = {"num_workers": 0} if "num_workers" in space.searched else {}
            params = space.complete({**space.pinned, **in_process})
            active = space.active(params)
            options = {name: value for name, value in params.items() if name in active}
            options |= {**_common.SETTINGS, **contender.settings, "batch_size": 2}
            data = frames if contender.target == FRAMES_TARGET else videos
            asked[contender.name] = (contender.target, str(data), options)
    assert len(asked) == 7
    done = subprocess.run(
        [sys.executable, "-c", FIRST_BATCHES, json.dumps(asked)],
        env={**os.environ, **library_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    clip = 16 * 112 * 112 * 3
    same = [[2, 3, 16, 112, 112], "torch.float32", [clip, 1, 112 * 112 * 3, 112 * 3, 3]]
    assert found == dict.fromkeys(asked, same)


def test_a_name_that_is_no_contenders_is_refused() -> None:
    field = contenders(0.5, cores=2, missing={})
    assert every_loader.chosen(field, None) == field
    assert [c.name for c in every_loader.chosen(field, ["spdl_video"])] == ["spdl_video"]
    with pytest.raises(InputError, match=r"--only: 'spdl' is no contender; accepted: spdl_video;"):
        every_loader.chosen(field, ["spdl"])


# --------------------------------------------------------------------------- tuning


def test_so_many_measurements_and_no_more_find_the_best_and_look_at_it_twice() -> None:
    looks: list[Params] = []

    def measure(params: Params) -> float | None:
        looks.append(params)
        threads, batches = int(params["num_threads"]), int(params["cache_batches"])
        return 100.0 - 10 * abs(threads - 5) - abs(batches - 12)

    found = tune(CACHE, 16, 0, measure)
    assert found is not None
    assert (found.measurements, found.failed, len(looks)) == (16, 0, 16)
    assert looks[0]["num_threads"] == 3  # the defaults, then the starting points
    assert looks[1]["num_threads"] == 6
    assert looks.count(found.params) == 2
    assert found.params["num_threads"] in (4, 5, 6)
    assert all(params in looks[:12] for params in looks[12:])


def test_a_lucky_run_does_not_win() -> None:
    luck = iter([150.0])

    def measure(params: Params) -> float | None:
        if params["num_threads"] == 3 and params["cache_batches"] == 8:
            return next(luck, 20.0)
        return 100.0 if params["num_threads"] == 6 else 50.0

    found = tune(CACHE, 8, 0, measure)
    assert found is not None
    assert found.params["num_threads"] == 6


def test_failed_measurements_are_counted_and_a_loader_that_only_fails_has_no_best() -> None:
    def fails_above_4(params: Params) -> float | None:
        return 10.0 if int(params["num_threads"]) <= 4 else None

    found = tune(CACHE, 8, 0, fails_above_4)
    assert found is not None
    assert found.failed >= 1
    assert int(found.params["num_threads"]) <= 4
    assert tune(CACHE, 3, 0, lambda params: None) is None


def test_few_measurements_are_all_spent_on_the_search() -> None:
    found = tune(CACHE, 3, 0, lambda params: float(params["num_threads"]))
    assert found is not None
    assert found.measurements == 3


# --------------------------------------------------------------------------- the table


def test_ten_loaders_are_compared_within_25_minutes() -> None:
    options = every_loader.parser().parse_args([])
    assert expected_minutes(10, options) <= 25
    twice = argparse.Namespace(**{**vars(options), "rounds": 2 * options.rounds})
    assert expected_minutes(10, twice) > expected_minutes(10, options)


def test_the_table_tells_what_was_tuned_with_how_much_and_the_ratio() -> None:
    field = [
        c
        for c in contenders(0.5, cores=2, missing={})
        if c.name in (USUAL, "prefetch_cache, spdl", "spdl_video")
    ]
    comparison = Comparison({}, 0.5)
    for contender in field:
        space = contender.space()
        params = space.complete(space.pinned)
        if contender.name == USUAL:
            params = space.complete({**space.pinned, "num_workers": 3})
        if contender.name != "spdl_video":  # nothing of it could be measured
            comparison.tuned[contender.name] = Tuned(params, 14, 2)
    for block, drift in enumerate([1.0, 0.5, 2.0]):
        for name, rate in ((USUAL, 100.0), ("prefetch_cache, spdl", 150.0)):
            comparison.runs.append(run_at(name, block, rate * drift))
    text = every_loader.report(
        comparison, field, Extraction(64, 12.5, 300.0, 40.0), {"decord": "x"}
    )
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "|" in line}
    assert "| 150.0 | 75.0 to 300.0 | 1.50 (1.50 to 1.50) | 1.50 |" in rows["prefetch_cache, spdl"]
    assert (
        "| 100.0 | 50.0 to 200.0 | - | 1.50 | num_workers=3 (8 others at their defaults) |"
        in (rows[USUAL])
    )
    assert rows[USUAL].endswith("| 14 (2 failed) |")
    assert "Without a figure: spdl_video." in text
    assert "float32 in 0..1, [N, C, T, H, W] as a view of [N, T, H, W, C], 16 frames" in text
    assert "300.0 MiB (7.5 times the videos), extracted in 12.5 s" in text
    assert "Not usable here, so not compared: decord." in text


def run_at(name: str, block: int, rate: float) -> Run:
    nothing = dict.fromkeys(("within_low", "within_high", "decoded_fps", "cpu_percent", "steady"))
    return Run(
        0.5, name, "block", block, {}, rate, time_to_first_batch=1.5, failure=None, **nothing
    )
