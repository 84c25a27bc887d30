"""Do the intervals hold what they claim? Coverage, false differences and power.

    python -m experiments.benchmarks.calibration synthetic --runs 10000 \\
        -o experiments/results/calibration_synthetic.json
    python -m experiments.benchmarks.calibration real --data-dir DIR --pairs 200 \\
        -o experiments/results/calibration_real.json [--resume]

``synthetic`` simulates runs of which everything is known and puts them through the code that
measures, decides and publishes. ``real`` runs one configuration of `spdl_video` many times over
and compares two whose difference is planted; its runs are kept as JSON lines beside the output.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotune.exceptions import AutotuneError
from experiments.benchmarks import _common, calibration_synthetic
from experiments.benchmarks.calibration_report import Goal, Proportion, goals_table, judged
from experiments.benchmarks.calibration_synthetic import RUNS, SCENARIOS, Counts

TREND_SERIES = 2000
"""Series of each kind that the test for a trend is asked about."""

_PUBLISHED_STUDY = "that of one run, by the repeats that a study had made by then"
_PAIR_FALSE = "two single runs of one configuration called different"
_PAIR_POWER = "two single runs, one faster by twice the noise floor, told apart"
_COMPARE_FALSE = "compare of a configuration with itself called different"
_PRECISE_FALSE = "the same, down to 2 % whatever the noise floor"
_COMPARE_POWER = "compare with one faster by twice the noise floor: faster"

SYNTHETIC_GOALS = (
    Goal("published", "published interval holds the configuration's mean", 0.94, 0.96),
    Goal("within", "a run's own interval holds the run's own rate", 0.94, 0.96),
    Goal("pair_false", _PAIR_FALSE, high=0.05, by_interval=True),
    Goal("pair_power", _PAIR_POWER, low=0.90),
    Goal("compare_false", _COMPARE_FALSE, high=0.05, by_interval=True),
    Goal("precise_false", _PRECISE_FALSE, high=0.05, by_interval=True),
    Goal("compare_covers", "compare's interval holds the true ratio", 0.94, 0.96),
    Goal("compare_power", _COMPARE_POWER, low=0.90),
    Goal("steady", "runs that end steady (they all are)", low=0.95),
)
REAL_GOALS = (
    Goal("published", "published interval of one run holds the grand mean", 0.95, 0.95, True),
    Goal("published_pair", "published interval of two runs holds it", 0.95, 0.95, True),
    Goal("published_study", _PUBLISHED_STUDY, 0.95, 0.95, True),
    Goal("pair_false", _PAIR_FALSE, high=0.05, by_interval=True),
    Goal("pair_power", _PAIR_POWER, low=0.90),
    Goal("compare_false", _COMPARE_FALSE, high=0.05, by_interval=True),
    Goal("compare_power", _COMPARE_POWER, low=0.90),
)


def synthetic(runs: int, seed: int) -> tuple[dict[str, Any], str, bool]:
    """Simulate whole studies of every scenario until there are ``runs`` runs.

    Returns:
        the document, its Markdown, and whether every goal is met.
    """
    studies = -(-runs // (RUNS * len(SCENARIOS)))
    began = time.monotonic()
    total = Counts()
    scenarios, rows = [], []
    for number, scenario in enumerate(SCENARIOS):
        counts = Counts()
        random = np.random.default_rng([seed, number])
        for _ in range(studies):
            calibration_synthetic.study(random, scenario, counts)
        total.merge(counts)
        shares = _shares(counts)
        scenarios.append({"scenario": scenario.name, **_document(counts, shares)})
        rows.append(_row(scenario.name, counts, shares))
        _common.say(f"{scenario.name}: published {shares['published']}")
    shares = _shares(total)
    rows.append(_row("all", total, shares))
    trends = calibration_synthetic.trends(
        np.random.default_rng([seed, len(SCENARIOS)]), TREND_SERIES
    )
    error = statistics.stdev(total.covered_by_study) / len(total.covered_by_study) ** 0.5
    document = {
        "runs": studies * RUNS * len(SCENARIOS),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "goals": judged(SYNTHETIC_GOALS, shares),
        "all": _document(total, shares),
        "published_standard_error_over_studies": error,
        "scenarios": scenarios,
        "trends": trends,
    }
    header = [
        "scenario",
        "published",
        "with the first 5 repeats alone",
        "within",
        "pair false",
        "pair power",
        "compare false",
        "compare power",
        "steady",
        "noise floor",
        "s a run",
        "blocks",
    ]
    trend_header = ["rho", "batches", "called without a trend", "called where it is 20 %"]
    text = "\n\n".join(
        [
            f"{document['runs']:,} synthetic runs, {studies} studies of {RUNS} runs a scenario, "
            f"seed {seed}. Shares with their exact binomial 95 % interval. Runs of a study share "
            f"its estimate of the spread: over studies the standard error of the published "
            f"coverage is {error:.2%}.",
            goals_table(SYNTHETIC_GOALS, shares),
            _common.markdown_table(header, rows),
            f"The test for a trend, {TREND_SERIES:,} series each, gaps that vary by 10 %:",
            _common.markdown_table(
                trend_header,
                [
                    [t["rho"], t["batches"], f"{t['false_alarms']:.1%}", f"{t['power']:.1%}"]
                    for t in trends
                ],
            ),
        ]
    )
    return document, text, all(g["met"] for g in document["goals"])


def _shares(counts: Counts) -> dict[str, Proportion]:
    return {q: Proportion(counts.hits[q], counts.asked[q]) for q in counts.asked}


def _document(counts: Counts, shares: dict[str, Proportion]) -> dict[str, Any]:
    return {
        "shares": {q: s.document() for q, s in shares.items()},
        "median_noise_floor": statistics.median(counts.floors),
        "median_seconds_a_run": statistics.median(counts.seconds),
        "mean_blocks": statistics.fmean(counts.blocks),
        "most_blocks": max(counts.blocks),
        "mean_blocks_to_2_percent": statistics.fmean(counts.precise_blocks),
    }


def _row(name: str, counts: Counts, shares: dict[str, Proportion]) -> list[object]:
    p = shares["published"]
    return [
        name,
        f"{p.share:.1%} ({p.low:.1%} to {p.high:.1%})",
        *(
            f"{shares[q].share:.1%}"
            for q in (
                "published_first_five",
                "within",
                "pair_false",
                "pair_power",
                "compare_false",
                "compare_power",
                "steady",
            )
        ),
        f"{statistics.median(counts.floors):.1%}",
        f"{statistics.median(counts.seconds):.0f}",
        f"{statistics.fmean(counts.blocks):.2f}",
    ]


def real(options: argparse.Namespace) -> tuple[dict[str, Any], str, bool]:
    """Make the runs that are missing, and ask everything of all of them.

    Raises:
        AutotuneError: if the data cannot be measured, or the file of runs is not one.
    """
    from experiments.benchmarks import calibration_real  # it loads the driver

    path = options.output.with_suffix(".jsonl")
    recording = calibration_real.Recording.open(path, options.resume)
    cores = calibration_real.Cores(
        [
            calibration_real.Bench(options.data_dir, options.seconds, options.seed)
            for _ in range(options.cores)
        ]
    )
    try:
        calibration_real.record(cores, recording, options.pairs, options.seed)
    finally:
        cores.close()
    shares, figures = calibration_real.evaluate(recording, options.seed)
    document = {
        "pairs": options.pairs,
        "seconds_a_run": options.seconds,
        "cores": options.cores,
        "seed": options.seed,
        "target": calibration_real.TARGET,
        "goals": judged(REAL_GOALS, shares),
        **calibration_real.document(shares, figures),
    }
    percent = {name: value for name, value in figures.items() if abs(value) < 1}
    text = "\n\n".join(
        [
            f"{options.pairs} rounds of four runs, {options.seconds:g} s each, in fresh processes "
            f"and random order; {figures['failed_runs']:.0f} runs failed. The configuration "
            f"measured twice a round gave {figures['samples_per_second']:.1f} samples/s.",
            goals_table(REAL_GOALS, shares),
            _common.markdown_table(
                ["figure", "value"],
                [
                    [k.replace("_", " "), f"{v:.2%}"]
                    for k, v in percent.items()
                    if k[:6] != "failed"
                ],
            ),
        ]
    )
    return document, text, all(g["met"] for g in document["goals"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 every goal met, 1 not, 2 where the input is wrong."""
    options = _parser().parse_args(argv)
    try:
        if options.mode == "synthetic":
            document, text, met = synthetic(options.runs, options.seed)
        else:
            document, text, met = real(options)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    print(text)
    if options.output:
        _common.write_json(
            options.output,
            {
                "benchmark": f"calibration {options.mode}",
                "date": _common.today(),
                "machine": _common.machine_facts(),
                **document,
            },
        )
        options.output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    return 0 if met else 1


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.calibration")
    modes = p.add_subparsers(dest="mode", required=True)
    s = modes.add_parser("synthetic", help="runs of which everything is known")
    s.add_argument("--runs", type=_positive, default=10_000, help="synthetic runs, at least")
    s.add_argument("-o", "--output", type=Path, help="JSON; a table as .md beside it")
    r = modes.add_parser("real", help="one configuration of spdl_video, many times over")
    r.add_argument("--data-dir", type=Path, required=True, help="folder of clips")
    r.add_argument("--pairs", type=_pairs, default=200, help="rounds of four runs")
    r.add_argument("--seconds", type=float, default=1.2, help="length of a measurement")
    r.add_argument(
        "--cores", type=_positive, default=1, help="so many runs at once, each pinned to a core"
    )
    r.add_argument("--resume", action="store_true", help="go on with the runs of the output")
    r.add_argument("-o", "--output", type=Path, required=True, help="JSON; .jsonl and .md beside")
    for mode in (s, r):
        mode.add_argument("--seed", type=int, default=0)
    return p


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: at least 1 is needed")
    return value


def _pairs(text: str) -> int:
    value = int(text)
    if value < 3:
        raise argparse.ArgumentTypeError(f"{value}: at least 3 are needed for any share")
    return value


if __name__ == "__main__":
    sys.exit(main())
