"""Synthetic runs and studies: what is true is known, so it can be seen what an interval covers.

A run is a series of batch arrivals: buffers that empty at once, a warm-up ramp, gaps with AR(1)
noise around a rate that differs from run to run and drifts over the study. The code that looks at
a real run and ends it (`autotune.measuring.measurement.Looks`) looks at this one. A study measures
its baseline five times, then configurations and the baseline in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.signal import lfilter

from autotune import stats
from autotune.measuring.early_stopping import EarlyStopping
from autotune.measuring.figures import Decision, Record
from autotune.measuring.measurement import Looks
from autotune.trial import MeasurementSettings, Window

FLOOR_RUNS = 5
"""Runs of the baseline at the start of a study."""
ROUNDS = 5
"""Of one configuration, measured twice, and the baseline once more."""
RUNS = FLOOR_RUNS + 3 * ROUNDS
BATCH = 16
SETTINGS = MeasurementSettings()
_COMPARISONS = 4
"""Comparisons a study, each of them without and with a true difference."""


@dataclass(frozen=True)
class Scenario:
    """What the runs of a study are like."""

    between_sd: float
    """Between fresh runs of one configuration, relative."""
    rho: float
    """Lag-1 autocorrelation of the gaps between batches."""
    drift: float = 0.0
    """Change of the rate over the study, on the logarithm."""
    gap: float = 0.05
    """Mean gap between batches, s."""
    noise: float = 0.1
    """Standard deviation of a gap, relative."""
    ramp: float = 1.0
    """What a gap is longer by at the start of a run, relative."""
    ramp_seconds: float = 0.5
    """Over which that falls to 1/e."""
    drained: int = 12
    """Batches that wait in buffers when counting begins."""

    @property
    def name(self) -> str:
        drift = f", drift {self.drift:.0%}" if self.drift else ""
        return f"between {self.between_sd:.0%}, rho {self.rho:g}{drift}"


SCENARIOS = tuple(
    Scenario(sd, rho, gap=gap)
    for sd in (0.01, 0.03, 0.08)
    for rho, gap in ((0.0, 0.1), (0.5, 0.05), (0.9, 0.02))
) + tuple(Scenario(sd, 0.5, drift=drift) for drift in (0.02, 0.05) for sd in (0.01, 0.03, 0.08))


@dataclass(frozen=True)
class SyntheticRun:
    """One run as it ended, and what was true of it."""

    decision: Decision
    rate: float
    """samples/s that this run would show if it went on for ever."""
    seconds: float
    """How long it was counted for."""

    @property
    def half(self) -> float:
        """Half-width of its own interval, samples/s."""
        return (self.decision.estimate.high - self.decision.estimate.low) / 2

    @property
    def covered(self) -> bool:
        """Whether its own interval holds its own rate."""
        return self.decision.estimate.low <= self.rate <= self.decision.estimate.high


@dataclass
class Counts:
    """Successes and trials of each question, and what the runs took."""

    hits: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    precise_blocks: list[int] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    covered_by_study: list[float] = field(default_factory=list)

    def add(self, question: str, answer: bool) -> None:
        self.hits[question] = self.hits.get(question, 0) + bool(answer)
        self.asked[question] = self.asked.get(question, 0) + 1

    def merge(self, other: Counts) -> None:
        """Add those of another scenario."""
        for question, asked in other.asked.items():
            self.hits[question] = self.hits.get(question, 0) + other.hits[question]
            self.asked[question] = self.asked.get(question, 0) + asked
        self.seconds += other.seconds
        self.blocks += other.blocks
        self.precise_blocks += other.precise_blocks
        self.floors += other.floors
        self.covered_by_study += other.covered_by_study


def arrivals(
    random: np.random.Generator, scenario: Scenario, rate: float, seconds: float
) -> list[float]:
    """Times (s since counting began) at which batches come, a little beyond ``seconds``."""
    gap = BATCH / rate
    count = int(2 * seconds / gap) + 50
    innovation = math.sqrt(1 - scenario.rho**2)
    noise = random.standard_normal(count) * innovation
    noise[0] /= innovation  # the series begins in its stationary state
    deviation = scenario.noise * lfilter([1.0], [1.0, -scenario.rho], noise)
    steady = gap * np.maximum(0.05, 1.0 + deviation)
    decay = np.exp(-np.arange(count) * gap / scenario.ramp_seconds)
    gaps = steady * (1.0 + scenario.ramp * decay)
    times = np.concatenate([np.full(scenario.drained, 1e-4), gaps]).cumsum()
    last = int(np.searchsorted(times, seconds + 2.0))
    return [float(t) for t in times[: last + 1]]


def windows(times: list[float], seconds: float) -> Iterator[Window]:
    """Windows as the measuring loop makes them: each ends with a batch."""
    start, begin, index = 0.0, 0, 0
    for i, now in enumerate(times):
        if now - start >= seconds:
            chunk = times[begin : i + 1]
            yield Window(
                index=index,
                start=start,
                end=now,
                batches=len(chunk),
                samples=BATCH * len(chunk),
                arrivals=chunk,
                batch_samples=[BATCH] * len(chunk),
            )
            start, begin, index = now, i + 1, index + 1


def synthetic_run(
    random: np.random.Generator,
    scenario: Scenario,
    rate: float,
    settings: MeasurementSettings = SETTINGS,
) -> SyntheticRun:
    """One run at ``rate`` samples/s, looked at and ended as `measuring.measurement` does it."""
    record = Record(drained=1 + scenario.drained)
    looks = Looks(settings, EarlyStopping(None, settings))
    times = arrivals(random, scenario, rate, settings.max_seconds)
    for window in windows(times, settings.window_seconds):
        record.add(window)
        if looks.ended(record) and looks.decision is not None:
            return SyntheticRun(looks.decision, rate, window.end)
    raise RuntimeError(f"a run of {scenario.name} at {rate:g} samples/s did not end")


def study(random: np.random.Generator, scenario: Scenario, counts: Counts) -> None:
    """Simulate one study and ask everything of it.

    The mean of a configuration is that over the study: a drift of d moves runs by -d/2 to d/2.
    """
    moment = iter(np.linspace(-0.5, 0.5, RUNS))

    def measure(mean: float) -> tuple[SyntheticRun, float]:
        factor = random.normal(0.0, scenario.between_sd) + scenario.drift * float(next(moment))
        run = synthetic_run(random, scenario, mean * math.exp(factor))
        counts.add("steady", run.decision.steady)
        counts.add("within", run.covered)
        counts.seconds.append(run.seconds)
        return run, mean

    base = BATCH / scenario.gap
    baselines = [measure(base)[0] for _ in range(FLOOR_RUNS)]
    trials: list[tuple[SyntheticRun, float]] = []
    for _ in range(ROUNDS):
        speed = base * math.exp(random.uniform(-0.5, 0.5))
        trials += [measure(speed), measure(speed)]
        baselines.append(measure(base)[0])
    first = _spread(baselines[:FLOOR_RUNS])
    spread = _spread(baselines)
    floor = stats.noise_floor(*spread[:2])
    counts.floors.append(floor)
    covered = 0
    for run, mean in trials:
        covered += (hit := _covers(run, mean, spread))
        counts.add("published", hit)
        counts.add("published_first_five", _covers(run, mean, first))
    counts.covered_by_study.append(covered / len(trials))
    _ask_pairs([run.decision.estimate.rate for run, _ in trials], floor, counts)
    errors = [r.decision.estimate.rate / r.rate for r in (*baselines, *(t for t, _ in trials))]
    for _ in range(_COMPARISONS):
        _compare(random, scenario, errors, floor, counts)


def _spread(runs: list[SyntheticRun]) -> tuple[float, float, float]:
    """sd, degrees of freedom and usual half-width, as a study estimates them from its baselines."""
    sd, dof = stats.between_run_sd([[r.decision.estimate.rate for r in runs]])
    return sd, dof, stats.usual_within([r.half / r.decision.estimate.rate for r in runs])


def _covers(run: SyntheticRun, mean: float, spread: tuple[float, float, float]) -> bool:
    low, high = stats.published_interval([run.decision.estimate.rate], [run.half], *spread)
    return low <= mean <= high


def _ask_pairs(rates: list[float], floor: float, counts: Counts) -> None:
    """Two single runs of one configuration each, as they are and with one made faster."""
    for a, b in zip(rates[::2], rates[1::2], strict=True):
        counts.add("pair_false", not stats.rates_tie(a, b, floor))
        faster = b * (1 + 2 * floor)
        counts.add("pair_power", faster > a and not stats.rates_tie(a, faster, floor))


def _compare(
    random: np.random.Generator,
    scenario: Scenario,
    errors: list[float],
    floor: float,
    counts: Counts,
) -> None:
    """`autotune compare` of a configuration with itself, and with one faster by twice the noise
    floor. A block's runs differ as runs of the study do; their within-run errors are drawn from
    those of the study's own runs."""
    step = scenario.drift / RUNS
    order = random.permuted(np.tile([0, 1], (stats.MAX_BLOCKS, 1)), axis=1)
    sides = np.empty((stats.MAX_BLOCKS, 2))
    for block in range(stats.MAX_BLOCKS):
        for position, side in enumerate(order[block]):
            factor = random.normal(0.0, scenario.between_sd) + step * (2 * block + position)
            sides[block, side] = math.exp(factor) * random.choice(errors)
    baseline = [float(x) for x in sides[:, 0]]
    same = _until_known([float(x) for x in sides[:, 1]], baseline, floor)
    faster = _until_known([float(x) * (1 + 2 * floor) for x in sides[:, 1]], baseline, floor)
    counts.add("compare_false", same.significant)
    counts.add("compare_power", faster.low > 1.0)
    counts.add("compare_covers", faster.low <= 1 + 2 * floor <= faster.high)
    counts.blocks.append(same.blocks)
    # without a floor many blocks are needed: here the number of looks could do harm
    precise = _until_known([float(x) for x in sides[:, 1]], baseline, 0.0)
    counts.add("precise_false", precise.significant)
    counts.precise_blocks.append(precise.blocks)


def _until_known(
    candidate: list[float], baseline: list[float], floor: float
) -> stats.RatioEstimate:
    """The ratio over as many of the blocks as the rule asks for."""
    done = 2
    while not stats.enough_blocks(candidate[:done], baseline[:done], floor):
        done += 1
    return stats.sequential_ratio(candidate[:done], baseline[:done])


TREND_BATCHES = (25, 100, 300)
TREND_CHANGE = 0.2


def trends(random: np.random.Generator, series: int) -> list[dict[str, float]]:
    """How often the test for steadiness calls a trend, on series of a fixed length: without one,
    and where a batch takes 20 % longer at the end than at the beginning. Gaps vary by 10 %."""
    rows = []
    for rho in (0.0, 0.5, 0.9):
        for batches in TREND_BATCHES:
            scenario = Scenario(0.0, rho, ramp=0.0, drained=0)
            gap = scenario.gap
            called = {0.0: 0, TREND_CHANGE: 0}
            for _ in range(series):
                times = arrivals(random, scenario, BATCH / gap, batches * gap * 2)[: batches + 1]
                for change in called:
                    slope = change / batches
                    gaps = np.diff(times) * (1 + slope * (np.arange(batches) - batches / 2))
                    drifting = [0.0, *(float(t) for t in np.cumsum(gaps))]
                    trend = stats.relative_trend(drifting, [BATCH] * (batches + 1))
                    called[change] += trend.low > 0 or trend.high < 0
            rows.append(
                {
                    "rho": rho,
                    "batches": batches,
                    "false_alarms": called[0.0] / series,
                    "power": called[TREND_CHANGE] / series,
                }
            )
    return rows
