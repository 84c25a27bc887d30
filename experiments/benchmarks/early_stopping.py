"""Is the right trial stopped early? The rule on recorded windows and on synthetic runs.

    python -m experiments.benchmarks.early_stopping [TABLE.jsonl.gz] [--synthetic 20000] [-o FILE]

Every run is replayed window by window through the code that decides in the worker. Two
questions: how many trials of configurations within 3 % of the incumbent's are stopped (at most
1 % may be), and what a search saves. A recorded run is one draw of its configuration: the
recorded runs are drawn again with replacement, and each draw and each incumbent gets the luck of
another fresh run, a factor with the spread between the recorded repeats.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from autotune import stats
from autotune.exceptions import AutotuneError, InputError
from autotune.measuring.early_stopping import TOLERATED, EarlyStopping, required
from autotune.measuring.figures import Decision, Record
from autotune.measuring.measurement import Looks
from autotune.trial import Incumbent, MeasurementSettings
from experiments.benchmarks import _common, recorded
from experiments.benchmarks.early_stopping_synthetic import SHAPES, draw

TABLE = _common.REPOSITORY / "experiments" / "recorded" / "spdl_video_cpu_2_cores.jsonl.gz"
GOAL = 0.01
SYNTHETIC_SECONDS = 12.0
SLOW = 0.5
"""Mean of the synthetic trials that ought to be stopped, as a share of the optimum."""


@dataclass
class Share:
    """How many of how many, with the exact interval (Clopper and Pearson, Biometrika 1934)."""

    hits: int = 0
    asked: int = 0

    def add(self, hit: bool) -> None:
        """Count one more."""
        self.hits += hit
        self.asked += 1

    @property
    def value(self) -> float:
        return self.hits / self.asked if self.asked else math.nan

    def __str__(self) -> str:
        if not self.asked:
            return "none"
        interval = binomtest(self.hits, self.asked).proportion_ci(method="exact")
        ends = f"{interval.low:.2%} to {interval.high:.2%}"
        return f"{self.value:.2%} ({ends}; {self.hits:,} of {self.asked:,})"


# --------------------------------------------------------------------------- one run


class _Watching(EarlyStopping):
    """Notes what is said at every look, and never stops."""

    def __init__(self, settings: MeasurementSettings) -> None:
        super().__init__(None, settings)
        self.reachable: list[tuple[float, float]] = []

    def hopeless(self, records: Sequence[Record], decision: Decision | None) -> bool:
        seconds = records[0].times[-1] - records[0].start
        self.reachable.append((seconds, self.look(records, decision)))
        return False


@dataclass(frozen=True)
class Replay:
    """A run as the rule sees it, whatever it has to beat."""

    reachable: tuple[tuple[float, float], ...]
    """At each look: seconds counted so far, and the most that the run could turn out to be."""
    seconds: float
    """What it is counted for without early stopping."""
    rate: float

    def stopped_after(self, incumbent: Incumbent, luck: float = 1.0) -> float | None:
        """Seconds after which it is stopped; None if it is not. ``luck`` makes it faster."""
        least = required(incumbent) / luck
        return next((seconds for seconds, most in self.reachable if most < least), None)


def replay(growing: Iterable[Record], settings: MeasurementSettings) -> Replay:
    """Look at a run as its worker would.

    Raises:
        ValueError: if it is too short to say anything of it.
    """
    watching = _Watching(settings)
    looks = Looks(settings, watching)
    record = None
    for record in growing:
        if looks.ended(record):
            break
    if record is None or looks.decision is None:
        raise ValueError("a run without a figure cannot be replayed")
    seconds = record.windows[-1].end - record.start
    return Replay(tuple(watching.reachable), seconds, looks.decision.estimate.rate)


# --------------------------------------------------------------------------- recorded windows


@dataclass(frozen=True)
class Configuration:
    """A configuration and its recorded runs."""

    runs: tuple[Replay, ...]
    fixed_seconds: float
    """What a run takes besides being counted, mean."""

    @property
    def rate(self) -> float:
        """Mean over its runs, samples/s."""
        return statistics.fmean(run.rate for run in self.runs)


def configurations(
    runs: Iterable[recorded.Run], settings: MeasurementSettings
) -> list[Configuration]:
    """The runs of a table by configuration, each replayed."""
    groups: dict[str, list[recorded.Run]] = defaultdict(list)
    for run in runs:
        groups[run.key].append(run)
    return [
        Configuration(
            tuple(replay(run.growing(), settings) for run in group),
            statistics.fmean(run.wall_seconds - run.counted_seconds for run in group),
        )
        for group in groups.values()
    ]


@dataclass(frozen=True)
class Recorded:
    """What the recorded windows say."""

    near_optimum: Share
    """Stopped, of the trials within 3 % of the optimum, which is the incumbent."""
    near_any: Share
    """The same with every configuration as incumbent."""
    stopped: Share
    """Of all trials, over whole searches."""
    counted: float
    """Share of the seconds counted that a search saves."""
    total: float
    """The same with start-up and clean-up."""
    spread: float
    dof: float


def on_recorded(table: Sequence[Configuration], draws: int, searches: int, seed: int) -> Recorded:
    """Ask the table.

    Args:
        table: configurations of one workload.
        draws: bootstrap draws of the runs.
        searches: random searches through the whole table, for what is saved.
        seed: of all draws.
    """
    random = np.random.default_rng(seed)
    spread, dof = stats.between_run_sd([[run.rate for run in c.runs] for c in table])
    optimum = max(c.rate for c in table)
    near_optimum, near_any = Share(), Share()

    def drawn(configuration: Configuration) -> tuple[Replay, float]:
        run = configuration.runs[int(random.integers(len(configuration.runs)))]
        return run, math.exp(random.normal(0, spread))

    for _ in range(draws):
        facing = []
        for configuration in table:
            run, luck = drawn(configuration)
            facing.append((configuration.rate, run.rate * luck))
        for configuration in table:
            run, luck = drawn(configuration)
            for mean, rate in facing:
                if configuration.rate < (1 - TOLERATED) * mean:
                    continue
                incumbent = Incumbent(samples_per_second=rate, spread=spread, dof=dof)
                stopped = run.stopped_after(incumbent, luck) is not None
                near_any.add(stopped)
                if mean == optimum:
                    near_optimum.add(stopped)
    stopped_share, counted, total = _searches(table, searches, random, spread, dof)
    return Recorded(near_optimum, near_any, stopped_share, counted, total, spread, dof)


def _searches(
    table: Sequence[Configuration],
    searches: int,
    random: np.random.Generator,
    spread: float,
    dof: float,
) -> tuple[Share, float, float]:
    """Search the table in random order, with early stopping and without."""
    stopped = Share()
    with_rule = without = fixed = 0.0
    for _ in range(searches):
        best = 0.0
        for index in random.permutation(len(table)):
            configuration = table[index]
            run = configuration.runs[int(random.integers(len(configuration.runs)))]
            incumbent = Incumbent(samples_per_second=best, spread=spread, dof=dof)
            after = run.stopped_after(incumbent)
            stopped.add(after is not None)
            without += run.seconds
            with_rule += run.seconds if after is None else after
            fixed += configuration.fixed_seconds
            if after is None:
                best = max(best, run.rate)
    saved = without - with_rule
    return stopped, saved / without, saved / (without + fixed)


# --------------------------------------------------------------------------- synthetic runs


@dataclass
class Synthetic:
    """What synthetic trials of one shape say."""

    name: str
    near: Share
    """Stopped, of those within 3 % of the optimum or better."""
    slow: Share
    """Stopped, of those at half of it."""
    seconds: float
    """Median until a slow one that is stopped is stopped."""


def on_synthetic(trials: int, seed: int) -> list[Synthetic]:
    """Ask ``trials`` synthetic trials near the optimum, and a tenth as many slow ones."""
    found = []
    settings = MeasurementSettings(max_seconds=SYNTHETIC_SECONDS)
    for number, shape in enumerate(SHAPES):
        random = np.random.default_rng([seed, number])
        result = Synthetic(shape.name, Share(), Share(), math.nan)
        times = []
        count = math.ceil(trials / len(SHAPES))
        for i in range(count + math.ceil(count / 10)):
            near = i < count
            mean = float(random.uniform(1 - TOLERATED, 1.0)) if near else SLOW
            trial = draw(random, shape, mean, SYNTHETIC_SECONDS)
            after = replay(trial.growing(), settings).stopped_after(trial.incumbent)
            (result.near if near else result.slow).add(after is not None)
            if not near and after is not None:
                times.append(after)
        result.seconds = statistics.median(times) if times else math.nan
        found.append(result)
        _common.say(f"{shape.name}: {result.near}; slow {result.slow}")
    return found


# --------------------------------------------------------------------------- report


def report(found: Recorded | None, shapes: Sequence[Synthetic], table: str) -> str:
    """Markdown."""
    parts = ["# Early stopping\n"]
    if found is not None:
        rows = [
            ["within 3 % of the optimum, stopped", str(found.near_optimum)],
            ["within 3 % of any incumbent, stopped", str(found.near_any)],
            ["all trials of a search, stopped", str(found.stopped)],
            ["measuring time saved", f"{found.counted:.0%}"],
            ["total time saved", f"{found.total:.0%}"],
            ["spread between runs", f"{found.spread:.1%} ({found.dof:.0f} degrees of freedom)"],
        ]
        parts.append(f"Recorded windows: {table}.\n")
        parts.append(_common.markdown_table(["figure", "value"], rows) + "\n")
    if shapes:
        near = Share(sum(s.near.hits for s in shapes), sum(s.near.asked for s in shapes))
        rows = [[s.name, str(s.near), f"{s.slow.value:.0%}", f"{s.seconds:.1f}"] for s in shapes]
        parts.append(f"Synthetic trials within 3 % of the optimum, stopped: {near}.\n")
        header = ["shape", "near the optimum, stopped", "at half of it, stopped", "after, s"]
        parts.append(_common.markdown_table(header, rows) + "\n")
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 the goal is met, 1 it is not, 2 where the input is wrong."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.early_stopping")
    p.add_argument("table", type=Path, nargs="?", default=TABLE, help="recorded runs, .jsonl.gz")
    p.add_argument("--draws", type=int, default=200, help="bootstrap draws of the recorded runs")
    p.add_argument("--searches", type=int, default=200, help="searches through the table")
    p.add_argument("--synthetic", type=int, default=20_000, help="trials near the optimum")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", type=Path, help="write the report here too")
    options = p.parse_args(argv)
    try:
        table = configurations(recorded.load(options.table), MeasurementSettings())
        if len(table) < 2:
            raise InputError(f"{options.table}: holds fewer than two configurations")
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    found = on_recorded(table, options.draws, options.searches, options.seed)
    shapes = on_synthetic(options.synthetic, options.seed) if options.synthetic else []
    text = report(found, shapes, f"{options.table.name}, {len(table)} configurations")
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    near = [found.near_optimum, found.near_any]
    near += [Share(sum(s.near.hits for s in shapes), sum(s.near.asked for s in shapes))]
    return 0 if all(share.value <= GOAL for share in near if share.asked) else 1


if __name__ == "__main__":
    sys.exit(main())
