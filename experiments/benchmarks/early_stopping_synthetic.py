"""Synthetic trials for the stopping rule: what is true of them is known, and they are nasty.

A trial is a run of batch arrivals around the mean of its configuration, with luck of its own, in
one of several shapes. The incumbent is the luckiest of many trials, as in a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from autotune.measuring.figures import Record
from autotune.trial import Incumbent, Window

BATCH = 16
WINDOW_SECONDS = 0.25
RIVALS = 30
"""Trials near the optimum, of which the incumbent is the luckiest."""

Slowness = Callable[[np.ndarray], np.ndarray]
"""How much longer a batch takes, by the time since counting began (s)."""


@dataclass(frozen=True)
class Shape:
    """What the arrivals of a run are like."""

    name: str
    rho: float = 0.0
    """Lag-1 autocorrelation of the gaps between batches."""
    noise: float = 0.15
    """Standard deviation of a gap, relative."""
    slowness: Slowness = lambda t: np.ones_like(t)
    burst: int = 1
    """Batches that arrive together: a large buffer that fills while the consumer is held up."""
    stalls: float = 0.0
    """Pauses of 0.3 s, per second."""


def _step(seconds: float, factor: float) -> Slowness:
    return lambda t: np.where(t < seconds, factor, 1.0)


def _ramp(seconds: float, factor: float) -> Slowness:
    """From ``factor`` times as slow, straight to full speed."""
    return lambda t: 1 / np.clip(1 / factor + (1 - 1 / factor) * t / seconds, 0, 1)


def _decay(seconds: float, factor: float) -> Slowness:
    return lambda t: 1 + (factor - 1) * np.exp(-t / seconds)


SHAPES = (
    Shape("independent gaps"),
    Shape("AR(1), 0.5", rho=0.5),
    Shape("AR(1), 0.9", rho=0.9),
    Shape("very noisy gaps", noise=0.6),
    Shape("exponential warm-up, 0.5 s", rho=0.5, slowness=_decay(0.5, 4.0)),
    Shape("exponential warm-up, 2 s", rho=0.5, slowness=_decay(2.0, 3.0)),
    Shape("linear warm-up, 3 s", rho=0.5, slowness=_ramp(3.0, 3.0)),
    Shape("linear warm-up, 8 s", rho=0.5, slowness=_ramp(8.0, 2.0)),
    Shape("slow start, 0.5 s at a quarter", rho=0.5, slowness=_step(0.5, 4.0)),
    Shape("slow start, 1 s at half", rho=0.5, slowness=_step(1.0, 2.0)),
    Shape("bursts of 8", burst=8),
    Shape("bursts of 16", burst=16),
    Shape("stalls of 0.3 s", stalls=0.5),
)

SPREADS = (0.01, 0.03, 0.08)
"""Standard deviations between fresh runs of one configuration, relative."""

RATES = (80.0, 320.0, 1300.0)
"""samples/s of the optimum: 5, 20 and 81 batches a second."""


@dataclass(frozen=True)
class Trial:
    """A run to come, and what it has to beat."""

    shape: Shape
    mean: float
    """Of its configuration, as a share of the optimum's."""
    incumbent: Incumbent
    times: list[float]
    drained: int

    def growing(self) -> Iterator[Record]:
        """The run as a worker sees it: one record that has one more window each time."""
        record = Record(drained=self.drained)
        start, chunk = 0.0, list[float]()
        for time in self.times:
            chunk.append(time)
            if time - start < WINDOW_SECONDS:
                continue
            record.add(_window(len(record.windows), start, chunk))
            start, chunk = time, []
            yield record


def _window(index: int, start: float, arrivals: list[float]) -> Window:
    return Window(
        index=index,
        start=start,
        end=arrivals[-1],
        batches=len(arrivals),
        samples=BATCH * len(arrivals),
        arrivals=arrivals,
        batch_samples=[BATCH] * len(arrivals),
    )


def draw(random: np.random.Generator, shape: Shape, mean: float, seconds: float) -> Trial:
    """A trial of a configuration whose mean is ``mean`` times the optimum's.

    Args:
        random: where the draws come from.
        shape: of its arrivals.
        mean: 1.0 for the optimum.
        seconds: how long it can be counted for.
    """
    spread = float(random.choice(SPREADS))
    optimum = float(random.choice(RATES))
    dof = float(random.choice([4, 8, 20]))
    seen = spread * math.sqrt(random.chisquare(dof) / dof)
    rivals = optimum * np.exp(random.normal(0, spread, RIVALS))
    rate = mean * optimum * math.exp(random.normal(0, spread))
    drained = int(random.integers(4, 12))
    return Trial(
        shape=shape,
        mean=mean,
        incumbent=Incumbent(samples_per_second=float(rivals.max()), spread=seen, dof=dof),
        times=_arrivals(random, shape, rate, seconds, drained),
        drained=drained,
    )


def _arrivals(
    random: np.random.Generator, shape: Shape, rate: float, seconds: float, drained: int
) -> list[float]:
    """Times (s since counting began) at which batches come; ``drained`` of them almost at once."""
    gap = BATCH / rate
    count = int(seconds / gap) + 30
    noise = _autoregression(random, shape, count)
    gaps = gap * np.maximum(0.02, 1 + noise)
    begun = np.cumsum(gaps) - gaps
    # a warm-up is one of the pipeline, not of its buffers: slowness goes by its own clock
    for _ in range(3):
        slow = gaps * shape.slowness(begun)
        begun = np.cumsum(slow) - slow
    gaps = slow
    if shape.stalls:
        gaps = gaps + 0.3 * random.poisson(shape.stalls * gaps)
    times = np.cumsum(gaps)
    if shape.burst > 1:
        offset = int(random.integers(shape.burst))
        last = ((np.arange(count) + offset) // shape.burst + 1) * shape.burst - 1 - offset
        late = times[np.minimum(last, count - 1)]
        times = late + 1e-4 * np.arange(count)
    times = np.concatenate([1e-3 * np.arange(drained), times + 1e-3 * drained])
    return [float(t) for t in times[times <= seconds]]


def _autoregression(random: np.random.Generator, shape: Shape, count: int) -> np.ndarray:
    """Noise of standard deviation ``shape.noise`` and lag-1 autocorrelation ``shape.rho``."""
    steps = random.normal(0, shape.noise * math.sqrt(1 - shape.rho**2), count)
    values = np.empty(count)
    value = random.normal(0, shape.noise)
    for i, step in enumerate(steps):
        value = shape.rho * value + step
        values[i] = value
    return values
