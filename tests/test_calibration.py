"""The calibration: shares and goals, what is synthetic is as stated, real runs are kept."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.exceptions import InputError
from autotune.trial import MeasurementSettings
from experiments.benchmarks import calibration
from experiments.benchmarks import calibration_real as real
from experiments.benchmarks import calibration_synthetic as synthetic
from experiments.benchmarks.calibration_report import Goal, Proportion, goals_table, judged

# ------------------------------------------------------------------ shares and goals


@pytest.mark.parametrize(("hits", "asked"), [(0, 7), (7, 7), (1, 3), (190, 200), (5000, 10_000)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(hits: int, asked: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, asked).proportion_ci(0.95, "exact")
    share = Proportion(hits, asked)
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high))


def test_a_share_of_nothing_is_refused() -> None:
    for hits, asked in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="is no share"):
            Proportion(hits, asked)


def test_goals_are_met_by_the_share_or_by_its_interval() -> None:
    share = Proportion(93, 100)
    assert not Goal("q", "t", 0.94, 0.96).met(share)
    assert Goal("q", "t", 0.95, 0.95, by_interval=True).met(share)
    assert not Goal("q", "t", 0.95, 0.95, by_interval=True).met(Proportion(930, 1000))
    assert Goal("q", "t", high=0.05, by_interval=True).met(Proportion(7, 100))
    assert not Goal("q", "t", high=0.05, by_interval=True).met(Proportion(70, 1000))
    goals = [Goal("q", "asked", 0.9), Goal("r", "never asked", 0.9)]
    assert [g["met"] for g in judged(goals, {"q": share})] == [True, False]
    table = goals_table(goals, {"q": share})
    assert "| asked | at least 90% | 93.0% (86.1% to 97.1%) | 100 | met |" in table
    assert "| never asked | at least 90% | - | 0 | **missed** |" in table


# ------------------------------------------------------------------ synthetic


def test_synthetic_arrivals_are_as_the_scenario_says() -> None:
    scenario = synthetic.Scenario(0.0, 0.5, gap=0.1, noise=0.1, ramp=1.0, drained=3)
    times = synthetic.arrivals(np.random.default_rng(1), scenario, 160.0, 2000.0)
    gaps = np.diff(times)
    assert max(gaps[:2]) < 0.001, "buffers empty at once"
    assert gaps[2] > 0.15, "the first real batch is slow"
    steady = gaps[200:] / 0.1 - 1
    assert steady.mean() == pytest.approx(0.0, abs=0.005)
    assert steady.std() == pytest.approx(0.1, rel=0.05)
    assert np.corrcoef(steady[:-1], steady[1:])[0, 1] == pytest.approx(0.5, abs=0.05)
    joined = [t for w in synthetic.windows(times, 0.25) for t in w.arrivals]
    assert joined == times[: len(joined)]


def test_a_synthetic_run_ends_by_the_rule_of_a_real_one() -> None:
    random = np.random.default_rng(2)
    settings = MeasurementSettings(min_seconds=2, max_seconds=20, relative_half_width=0.02)
    quiet = synthetic.Scenario(0.0, 0.0, noise=0.02)
    noisy = replace(quiet, noise=0.5)
    short = synthetic.synthetic_run(random, quiet, 320.0, settings)
    long = synthetic.synthetic_run(random, noisy, 320.0, settings)
    assert short.seconds < 8
    assert short.half / short.decision.estimate.rate <= 0.02
    assert long.seconds >= 20
    assert short.decision.estimate.rate == pytest.approx(320.0, rel=0.03)


def test_every_scenario_is_asked_every_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "SCENARIOS", synthetic.SCENARIOS[:2])
    monkeypatch.setattr(calibration, "TREND_SERIES", 20)
    output = tmp_path / "out.json"
    status = calibration.main(["synthetic", "--runs", "70", "--seed", "3", "-o", str(output)])
    document = json.loads(output.read_text())
    assert status == (0 if all(g["met"] for g in document["goals"]) else 1)
    assert document["runs"] == 80, "whole studies: two of twenty runs for each scenario"
    assert document["all"]["shares"]["within"]["asked"] == 80
    assert document["all"]["shares"]["published"]["asked"] == 40
    assert {s["scenario"] for s in document["scenarios"]} == {
        "between 1%, rho 0",
        "between 1%, rho 0.5",
    }
    assert all(g["measured"] is not None for g in document["goals"])
    assert output.with_suffix(".md").read_text() == capsys.readouterr().out


# ------------------------------------------------------------------ real


def planted(path: Path, rounds: int, difference: float, spread: float) -> real.Recording:
    """A file of runs whose spread and difference are known."""
    recording = real.Recording(path)
    random = np.random.default_rng(4)

    def add(phase: str, number: int, arm: str, mean: float, pace: float) -> None:
        rate = float(mean * np.exp(random.normal(0.0, spread)))
        recording.add(real.Run(phase, number, arm, rate, 0.001 * rate, True, pace))

    for number in range(real.REPEATS):
        add("floor", number, "same", 100.0, 0.0)
    for number in range(real.PLANTING_RUNS):
        add("floor", number, "paced", 50.0, 20.0)
    for number in range(rounds):
        add("round", number, "same", 100.0, 0.0)
        add("round", number, "same_again", 100.0, 0.0)
        add("round", number, "paced", 50.0, 20.0)
        add("round", number, "slower", 50.0 / (1 + difference), 20.0 * (1 + difference))
    return recording


def test_runs_of_known_spread_are_covered_and_told_apart(tmp_path: Path) -> None:
    recording = planted(tmp_path / "runs.jsonl", rounds=120, difference=0.6, spread=0.03)
    shares, figures = real.evaluate(recording, seed=0)
    assert shares["published"].asked == 240
    assert shares["published"].low < 0.95 < shares["published"].high
    assert shares["published_pair"].low < 0.95 < shares["published_pair"].high
    assert shares["published_study"].share > 0.8, "its first repeats are a few for all"
    assert shares["pair_false"].low < 0.05 < shares["pair_false"].high
    assert shares["pair_power"].share > 0.9
    assert shares["compare_power"] == Proportion(20, 20)
    assert figures["samples_per_second"] == pytest.approx(100, rel=0.02)
    assert figures["sd_between_runs"] == pytest.approx(0.03, rel=0.15)
    assert figures["planted_difference"] == pytest.approx(0.6, rel=0.05)
    assert figures["measured_difference"] == pytest.approx(0.6, rel=0.05)


def test_an_interrupted_recording_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    whole = planted(path, rounds=2, difference=0.1, spread=0.01)
    with path.open("a") as file:
        file.write('{"phase": "round", "numb')
    with pytest.raises(InputError, match="--resume"):
        real.Recording.open(path, resume=False)
    again = real.Recording.open(path, resume=True)
    assert again.runs == whole.runs
    assert path.read_text().endswith("}\n")
    path.write_text("garbage\n" + path.read_text())
    with pytest.raises(InputError, match="line 1"):
        real.Recording.open(path, resume=True)


class PlantedBench(real.Bench):
    """Gives a rate without running anything, and remembers the paces asked for."""

    def __init__(self) -> None:
        self.paces: list[float] = []

    def run(self, ms_per_sample: float):  # type: ignore[no-untyped-def]
        from types import SimpleNamespace

        self.paces.append(ms_per_sample)
        rate = 100.0 if ms_per_sample == 0 else 1000.0 / ms_per_sample
        rate *= 1 + 0.01 * (len(self.paces) % 3 - 1)
        measured = SimpleNamespace(
            samples_per_second=rate, within_low=rate * 0.99, within_high=rate * 1.01, steady=True
        )
        return SimpleNamespace(measurement=measured)


def test_the_difference_is_twice_the_floor_that_earlier_runs_tell_and_nothing_runs_twice(
    tmp_path: Path,
) -> None:
    recording = real.Recording.open(tmp_path / "runs.jsonl", resume=False)
    bench = PlantedBench()
    real.record(real.Cores([bench]), recording, pairs=3, seed=1)
    assert len(bench.paces) == real.REPEATS + real.PLANTING_RUNS + 4 * 3
    pace = statistics.median(p for p in bench.paces if p > 0)
    floor = real.noise_floor(recording, "paced")
    assert floor > 0.01
    (slower,) = {r.ms_per_sample for r in recording.runs.values() if r.arm == "slower"}
    assert slower == pytest.approx(pace * (1 + 2 * floor), rel=0.01)
    again = real.Recording.open(recording.path, resume=True)
    real.record(real.Cores([bench]), again, pairs=4, seed=1)
    assert len(bench.paces) == real.REPEATS + real.PLANTING_RUNS + 4 * 4
    shares, _ = real.evaluate(again, seed=1)
    assert shares["published"].asked == 8
