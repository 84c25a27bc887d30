"""The benchmarks' own logic: what they say on a machine that cannot run them, and their helpers."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.exceptions import InputError
from autotune.measuring.telemetry import Telemetry
from autotune.system import machine, processes
from autotune.targets.base import Batch, Loader
from autotune.trial import FailedClip, Params, StageStats
from experiments.benchmarks import (
    _common,
    gpu_grid,
    gpu_presence,
    gpu_report,
    gpu_sweep,
    prefetch_cache,
    switched,
)
from experiments.benchmarks.contenders import Contender, contenders, goals
from experiments.benchmarks.gpu_check import Check, slug
from experiments.benchmarks.loaders_report import Run, judge, report
from experiments.benchmarks.quality import frame_psnr, psnr
from experiments.benchmarks.repeatability import compare, passed

ROOT = Path(__file__).resolve().parents[1]
CLIPS = ROOT.parent / "shared" / "clips" / "real"


# --------------------------------------------------------------------------- gpu_check


@pytest.mark.skipif(bool(machine.find_gpus()), reason="this machine has a GPU")
def test_gpu_check_says_what_is_missing_and_exits_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments.benchmarks.gpu_check"],
        cwd=ROOT,
        env={**os.environ, "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert any("no NVIDIA GPU" in line for line in said)
    assert any("libnvcuvid" in line and "Remedy" in line for line in said)
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    assert not {"torch", "spdl.io", "av", "optuna"} & set(imported)
    assert list(tmp_path.iterdir()) == []


def check_in(tmp_path: Path) -> Check:
    options = argparse.Namespace(clips=None, minutes=1.0, seconds=1.0)
    return Check(options, tmp_path / "out", tmp_path)


def test_a_section_that_fails_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    check = check_in(tmp_path)

    def broken() -> Mapping[str, Any]:
        raise OSError("libnvcuvid.so.1 is missing")

    check._section("first", broken)
    assert "libnvcuvid.so.1 is missing" in check.path.read_text()  # on disk before the next one
    check._section("second", lambda: {"answer": 42})
    assert '"answer": 42' in check.path.read_text()
    sections = check.document["sections"]
    assert (sections["first"]["status"], sections["second"]["status"]) == ("failed", "ok")
    assert "libcuda.so.1" in sections["first"]["libraries"]["found"]
    text = check.path.with_suffix(".md").read_text()
    assert "## Failed: first" in text
    assert "libnvcuvid.so.1 is missing" in text


def test_gpu_names_become_file_names() -> None:
    assert slug("NVIDIA H200") == "nvidia_h200"
    assert slug("  ") == "gpu"


def test_the_drivers_files_are_listed_by_folder(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").touch()
    (tmp_path / "libother.so").touch()
    found = gpu_presence.driver_files([str(tmp_path), str(tmp_path / "absent")])
    assert found == {str(tmp_path): ["libnvidia-ml.so.1"]}


def test_a_library_that_is_no_cuda_driver_is_an_answer(tmp_path: Path) -> None:
    fake = tmp_path / "libcuda.so.1"
    fake.write_text("not a library")
    assert "cannot be loaded" in str(gpu_presence.cuda_devices(fake))


def row(**changes: Any) -> dict[str, Any]:
    return {"clip": "a.mp4", "psnr_db": 40.0, "device": "cuda:0", "native": False, **changes}


@pytest.mark.parametrize(
    ("rows", "complete", "status"),
    [
        ([row()], True, "ok"),
        ([row(), row(psnr_db=34.9)], True, "failed"),
        ([row()], False, "failed"),
        ([], True, "failed"),
        ([row(), {"error": "no frame in [3.0, 4.0) s", "kind": "DataError"}], True, "ok"),
        ([row(), {"error": "NVDEC: broken", "kind": "DataError"}], True, "failed"),
        ([row(device="cpu")], True, "failed"),
    ],
)
def test_decoding_is_proved_only_by_frames_of_the_gpu_like_the_reference(
    rows: list[dict[str, Any]], complete: bool, status: str
) -> None:
    found = {"rows": rows, "complete": complete}
    assert gpu_report.judge_decoding(found)["status"] == status


@pytest.mark.parametrize(
    ("rows", "status"), [([row()], "partial"), ([row(psnr_db=20.0)], "failed")]
)
def test_clips_that_were_not_compared_are_named(rows: list[dict[str, Any]], status: str) -> None:
    found: dict[str, Any] = {"rows": rows, "complete": True, "left_out": ["late/b.mp4"]}
    assert gpu_report.judge_decoding(found)["status"] == status
    for each in rows:
        each |= {"scaler": "bicubic"}
    left = {"process_mode": "subprocess", "num_demux_threads": 3, "num_decode_threads": 14}
    timed = {"params": {**left, "num_decode_threads": 7}, "samples_per_second": 100.0}
    sections = {
        "decode": {**found, "status": status},
        "threads": {"rows": [timed], "left_out": [left], "status": "partial"},
    }
    text = gpu_report.report({"date": "today", "machine": {}, "sections": sections})
    assert "- late/b.mp4" in text
    assert "- process_mode=subprocess num_demux_threads=3 num_decode_threads=14" in text


def test_what_nvdec_need_not_take_is_refused_by_name_or_right() -> None:
    refused = {"clip": "av1.mkv", "kind": "DataError", "error": "av1.mkv: does not decode av1"}
    rows: list[dict[str, Any]] = [
        refused, row(clip="hevc.mp4"), row(clip="corrupted.mp4", psnr_db=9.0)
    ]  # fmt: skip
    judged = gpu_report.judge_odd({"rows": rows, "complete": True, "left_out": []})
    assert (judged["status"], judged["refused"]) == ("ok", ["av1.mkv"])
    text = gpu_report.report(
        {"date": "", "machine": {}, "sections": {"odd": {"rows": rows, **judged}}}
    )
    assert "does not decode av1" in text
    for wrong in (row(clip="vp9.webm", psnr_db=20.0), {**refused, "kind": "unexpected"}):
        judged = gpu_report.judge_odd({"rows": [wrong], "complete": True})
        assert judged["status"] == "failed"


def test_configurations_left_out_before_the_study_are_measured_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_in(tmp_path)
    check._runner = object()  # type: ignore[assignment]
    first: list[Any] = [{"num_decode_threads": n} for n in (1, 2)]
    check._waiting = first

    def one_of_them(
        runner: object, waiting: list[Any], rows: list[Any], deadline: float, seconds: float
    ) -> list[Any]:
        rows.append({"params": waiting[0]})
        return waiting[1:]

    monkeypatch.setattr(gpu_sweep, "sweep", one_of_them)
    assert check._threads(0.0)["status"] == "partial"
    done = check._threads(0.0)
    assert (done["status"], [r["params"] for r in done["rows"]]) == ("ok", first)


def test_gpu_check_installs_from_wheels_without_an_index(tmp_path: Path) -> None:
    (tmp_path / "spdl-0.8.0-py3-none-any.whl").touch()
    says = subprocess.run(
        ["make", "-n", "gpu-check", f"WHEELS={tmp_path}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (install,) = (line for line in says.splitlines() if "pip install" in line)
    assert "--no-index" in install
    assert install.endswith("spdl-0.8.0-py3-none-any.whl")


def test_real_clips_are_found_in_the_checkout_before_those_beside_it(tmp_path: Path) -> None:
    beside = tmp_path / "shared" / "clips" / "real"
    assert _common.shared_clips(tmp_path / "checkout") == beside
    inside = tmp_path / "checkout" / "shared" / "clips" / "real"
    inside.mkdir(parents=True)
    assert _common.shared_clips(tmp_path / "checkout") == inside


def test_the_sweep_covers_all_threads_in_both_topologies_once() -> None:
    first, rest = gpu_sweep.plan()
    every = [*first, *rest]
    assert len({repr(sorted(p.items())) for p in every}) == len(every)
    for mode in gpu_sweep.TOPOLOGIES:
        mine = [p for p in every if p["process_mode"] == mode]
        assert {p["num_decode_threads"] for p in mine} >= set(range(1, 15))
        assert {p["num_demux_threads"] for p in mine} >= set(range(1, 9))


def test_psnr_is_the_textbooks() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, black + 255) == pytest.approx(0.0)
    assert psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-3)
    assert frame_psnr(black, np.stack([black[0], black[1] + 255])) == [math.inf, 0.0]
    with pytest.raises(ValueError, match="shape"):
        psnr(black, black[:1])


# --------------------------------------------------------------------------- tables and goals


def test_tables_and_goals_name_contenders_that_exist() -> None:
    table = _common.markdown_table(["a", "b"], [[1.5, "x|y"], [None, "z"]])
    assert table.splitlines()[1] == "| ---: | --- |"
    assert "x\\|y" in table
    for duration in (0.5, 2.0):
        names = {c.name for c in contenders(duration, cores=2)}
        for goal in goals(duration):
            assert {*goal.numerator, *goal.denominator} <= names


def test_tuning_goes_axis_by_axis_and_skips_what_failed() -> None:
    contender = Contender("x", "y", {"a": 1, "b": 1}, [[{"a": 1}, {"a": 2}, {"a": 3}], [{"b": 5}]])
    tried = []

    def measure(params: Params) -> float | None:
        tried.append(dict(params))
        return None if params["a"] == 3 else float(params["a"]) * float(params["b"])

    assert contender.tune(measure) == {"a": 2, "b": 5}
    assert tried[-1] == {"a": 2, "b": 5}


def run_at(name: str, block: int, rate: float | None) -> Run:
    empty = dict.fromkeys(("within_low", "within_high", "decoded_fps", "cpu_percent", "steady"))
    return Run(
        duration=0.5,
        contender=name,
        phase="block",
        block=block,
        params={"subclip_duration": 0.5, "num_decode_threads": 2},
        samples_per_second=rate,
        time_to_first_batch=1.5,
        failure=None if rate else "crash: gone",
        **empty,
    )


def test_ratios_are_paired_within_blocks_and_a_failed_run_is_left_out() -> None:
    drift = [100.0, 150.0, 90.0, 120.0]  # of the machine: it must cancel
    runs = [run_at("decode alone", b, r) for b, r in enumerate(drift)]
    runs += [run_at("spdl_video, bicubic", b, 0.9 * r) for b, r in enumerate(drift)]
    runs[-1] = run_at("spdl_video, bicubic", 3, None)
    text, judged = report(runs, [0.5])
    ceiling = next(o for o in judged if o["goal"] == "spdl_video / decode alone")
    assert ceiling["ratio"] == pytest.approx(0.9)
    assert (ceiling["blocks"], ceiling["met"]) == (3, True)
    assert "| spdl_video / decode alone | 0.900 |" in text
    assert "crash: gone" in text
    assert judge(goals(0.5)[-1], {}) is None


def test_the_cache_is_paired_with_the_loader_within_the_blocks_of_a_scene() -> None:
    slow, fast = prefetch_cache.scenes(50.0)[0], prefetch_cache.scenes(50.0)[2]

    def run(scene: prefetch_cache.Scene, side: Contender, block: int, rate: float | None) -> Any:
        nothing = dict.fromkeys(
            ("accelerator_utilization", "time_to_first_batch", "cpu_percent", "rss_gib"), 0.0
        )
        return prefetch_cache.Run(
            scene.name, side.name, "block", block, dict(side.base), rate, **nothing,
            cache_gib=0.5 if side is prefetch_cache.CACHE else None,
            failure=None if rate else "crash: gone",
        )  # fmt: skip

    drift = [100.0, 150.0, 90.0]
    runs = [run(slow, prefetch_cache.DATA_LOADER, b, rate) for b, rate in enumerate(drift)]
    runs += [run(slow, prefetch_cache.CACHE, b, 4 * rate) for b, rate in enumerate(drift)]
    runs += [run(fast, prefetch_cache.CACHE, 0, 300.0), run(slow, prefetch_cache.MANY, 0, None)]
    text, judged = prefetch_cache.report(runs, [slow, fast])
    [ratio] = judged
    assert (ratio["scene"], ratio["denominator"]) == (slow.name, "torch_dataloader")
    assert ratio["ratio"] == pytest.approx(4.0)
    assert "prefetch_cache / torch_dataloader: **4.00**" in text
    assert "| prefetch_cache | 400.0 | 0 % | 0 | 0 | 512 |" in text
    assert "crash: gone" in text


def test_a_trial_repeats_where_the_interval_of_its_sides_contains_1() -> None:
    same = compare(3, 100.0, {0: 100.0, 1: 103.0, 2: 98.0}, {0: 101.0, 1: 99.0, 2: 100.0})
    moved = compare(4, 100.0, {0: 100.0, 1: 101.0, 2: 100.5}, {0: 80.0, 1: 81.0, 2: 80.5})
    short = compare(5, 100.0, {0: 100.0, 1: 101.0}, {0: 100.0, 1: 101.0})
    assert (same.contains_one, moved.contains_one, short.contains_one) == (True, False, False)
    assert passed([same] * 4 + [moved])
    assert not passed([same] * 3 + [moved] * 2)


# --------------------------------------------------------------------------- gpu_grid


def test_the_grid_goes_on_where_it_ended_and_a_cut_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    params: Params = {"a": 1, "b": "x"}
    path.write_text('{"params": {"b": "x", "a": 1}}\n{"params": {"a"')
    assert gpu_grid.recorded(path) == {gpu_grid.key_of(params): 1}
    assert path.read_text().endswith("}\n")
    path.write_text('garbage\n{"params": {}}\n')
    with pytest.raises(InputError, match="line 1"):
        gpu_grid.recorded(path)


def test_the_grid_measures_everything_once_before_anything_twice() -> None:
    configurations: list[Params] = [{"a": n} for n in range(6)]
    both = gpu_grid.order(configurations, repeats=2, seed=1)
    assert sorted(p["a"] for p in both[:6]) == sorted(p["a"] for p in both[6:]) == list(range(6))
    assert both == gpu_grid.order(configurations, repeats=2, seed=1)
    assert both[:6] != both[6:]


# --------------------------------------------------------------------------- real measurements


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"the shared clips are not there ({CLIPS})")
@pytest.mark.parametrize("name", ["decode alone", "published", "torch DataLoader", "spdl_video"])
def test_every_contender_delivers_what_is_compared(name: str, tmp_path: Path) -> None:
    from experiments.benchmarks.clip_sets import linked_set

    data, _ = linked_set(CLIPS, tmp_path, count=16)
    runner = _common.Runner(data, tmp_path)
    contender = next(c for c in contenders(0.5, cores=1) if c.name.startswith(name))
    result = runner.measure(contender.target, contender.base, 0.5)
    assert result.measurement is not None, _common.why_failed(result) + result.log_tail
    assert result.measurement.frames == 16 * result.measurement.samples
    assert result.measurement.failed == 0


# --------------------------------------------------------------------------- switched


def cut(on: bool, samples: int, loop: float = 0.01, own: float = 0.0) -> switched.Slice:
    return switched.Slice(on, samples, 10, 1.0, loop, own)


def test_what_is_switched_is_compared_within_pairs_of_either_order() -> None:
    slices = [cut(True, 99), cut(False, 100), cut(False, 200), cut(True, 198), cut(True, 7)]
    found = switched.on_over_off(slices)
    assert found.blocks == 2
    assert found.ratio == pytest.approx(0.99)


def test_the_cpu_time_of_what_is_switched_is_its_own_and_what_a_batch_takes_more() -> None:
    slices = [cut(True, 99, loop=0.03, own=0.04), cut(False, 100, loop=0.01)]
    assert switched.cpu_share(slices, cores=2) == pytest.approx((0.04 + 0.02) / 2)


class _Endless(Loader):
    """A batch of one sample a millisecond."""

    def __iter__(self) -> Iterator[Batch]:
        while True:
            time.sleep(0.001)
            yield Batch(None, None, 1, 1, 1, 1)

    def readback(self) -> Params:
        return {}

    def stage_stats(self) -> list[StageStats]:
        return []

    def failed(self) -> tuple[int, list[FailedClip]]:
        return 0, []

    def close(self) -> None:
        pass


def test_where_it_is_off_the_process_is_stopped_and_no_batch_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Telemetry, "_sample", Telemetry._sample)  # put back at the end
    with subprocess.Popen(["sleep", "60"]) as process:
        plan = switched.Plan(
            target="made_up",
            what="measuring",
            output=str(tmp_path / "slices"),
            stop=[process.pid],
            slice_seconds=0.05,
            settle_seconds=0.05,
        )
        loader = switched.SwitchedLoader(_Endless(), plan)
        try:
            handed_on = sum(1 for _ in itertools.islice(loader, 200))
            slices = switched.slices_of(tmp_path / "slices")
            assert {s.on for s in slices[:2]} == {True, False}
            assert sum(s.samples for s in slices if s.on) <= handed_on
            assert sum(s.samples for s in slices if not s.on) > 0
            loader._switch(False)
            assert state_of(process.pid) == "T"
            loader.close()
            assert state_of(process.pid) != "T"
        finally:
            process.kill()


def state_of(pid: int) -> str:
    time.sleep(0.05)
    fields = processes.stat_fields(pid)
    return "" if fields is None else str(fields[0])
