"""Who is compared, and the small grid that each one's best configuration is sought in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotune.trial import Params

Change = dict[str, bool | int | float | str]
Axis = Sequence[Change]
"""Alternatives tried in turn on the best configuration so far."""

SCALERS = ("bicubic", "fast_bilinear")

PUBLISHED_THREADS: Change = {
    "num_fetch_threads": 8,
    "num_demux_threads": 8,
    "num_decode_threads": 16,
}


@dataclass(frozen=True)
class Contender:
    """One side of the comparison.

    ``axes`` are searched one after the other (coordinate-wise), each from the best found so
    far; a contender without axes runs as it is.
    """

    name: str
    target: str
    base: Params
    axes: Sequence[Axis] = field(default_factory=tuple)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its own, beside those that all share."""

    def tune(self, measure: Callable[[Params], float | None]) -> Params:
        """The best configuration of the grid.

        Args:
            measure: samples/s of a configuration; None where it failed.
        """
        best, best_rate = dict(self.base), 0.0
        known: dict[str, float | None] = {}
        for axis in self.axes:
            start = dict(best)
            for change in axis:
                params = {**start, **change}
                key = repr(sorted(params.items()))
                if key not in known:
                    known[key] = measure(params)
                rate = known[key]
                if rate is not None and rate > best_rate:
                    best, best_rate = params, rate
        return best


def contenders(duration: float, cores: int | None = None) -> list[Contender]:
    """Everyone, for one subclip duration in seconds."""
    n = cores or len(os.sched_getaffinity(0))
    work: Params = {"subclip_duration": duration, "batch_size": 16}
    found = [
        Contender(
            "decode alone",
            "experiments.benchmarks.decode_alone:DecodeAlone",
            {**work, "num_processes": n},
            [[{"engine": "pyav"}, {"engine": "spdl"}]],
        ),
        Contender(
            "decode alone, clips opened",
            "experiments.benchmarks.decode_alone:DecodeAlone",
            {**work, "num_processes": n, "engine": "pyav_open"},
        ),
    ]
    for scaler in SCALERS:
        scaled = {**work, "scale_algorithm": scaler}
        found += [
            Contender(
                f"published stages, as published, {scaler}",
                "experiments.benchmarks.published:PublishedStages",
                {**scaled, **PUBLISHED_THREADS},
            ),
            Contender(
                f"published stages, tuned, {scaler}",
                "experiments.benchmarks.published:PublishedStages",
                scaled,
                [threads(n), [{"torch_threads": 1}], [{"sink_buffer_size": 5}]],
            ),
            Contender(
                f"torch DataLoader, {scaler}",
                "experiments.benchmarks.torch_dataloader:TorchDataLoader",
                scaled,
                [
                    [{"num_workers": workers} for workers in range(5)],
                    [{"decoder_threads": threads} for threads in (2, 0)],
                    [{"prefetch_factor": 4}],
                ],
            ),
            Contender(
                f"spdl_video, {scaler}",
                "spdl_video",
                {**scaled, "device": "cpu"},
                [threads(n), [{"gc_policy": "between_epochs"}], [{"sink_buffer_size": 5}]],
                # As a bulk data set: a task of the event loop for eight files, not for each.
                settings={"clips_per_fetch": 8},
            ),
        ]
    return found


def threads(cores: int) -> Axis:
    """(fetch, demux, decode) threads: as published, its winner, and around the cores."""
    combinations = [
        (8, 8, 16),
        (4, 3, 7),
        (1, 1, cores),
        (1, 1, cores + 1),
        (2, 2, cores),
        (2, 2, 2 * cores),
    ]
    return [
        {"num_fetch_threads": f, "num_demux_threads": x, "num_decode_threads": d}
        for f, x, d in dict.fromkeys(combinations)
    ]


# --------------------------------------------------------------------------- the goals


@dataclass(frozen=True)
class Goal:
    """A ratio to reach: the best of some contenders over the best of others."""

    text: str
    numerator: Sequence[str]
    denominator: Sequence[str]
    least: float | None
    """None: shown, not judged."""


def goals(duration: float) -> list[Goal]:
    """The project's goals for one subclip duration; other durations are shown without a goal."""
    short, long = duration == 0.5, duration == 2.0

    def least(at_short: float, at_long: float) -> float | None:
        return at_short if short else at_long if long else None

    ours = [f"spdl_video, {s}" for s in SCALERS]
    listed = [
        Goal("spdl_video / decode alone", ours, ["decode alone"], least(0.80, 0.85)),
        Goal(
            "spdl_video / decode alone, clips opened",
            ours,
            ["decode alone, clips opened"],
            least(0.80, 0.85),
        ),
    ]
    for scaler in SCALERS:
        theirs = [f"published stages, {how}, {scaler}" for how in ("as published", "tuned")]
        listed.append(
            Goal(
                f"spdl_video / published stages, both {scaler}",
                [f"spdl_video, {scaler}"],
                theirs,
                least(1.15, 1.2),
            )
        )
    listed.append(
        Goal(
            "spdl_video, best scaler / published stages, bicubic",
            ours,
            [f"published stages, {how}, bicubic" for how in ("as published", "tuned")],
            least(1.35, 1.35),
        )
    )
    listed.append(
        Goal(
            "spdl_video / torch DataLoader, best of each",
            ours,
            [f"torch DataLoader, {s}" for s in SCALERS],
            least(1.6, 1.3),
        )
    )
    listed += [
        Goal(
            f"spdl_video / torch DataLoader, both {s}",
            [f"spdl_video, {s}"],
            [f"torch DataLoader, {s}"],
            None,
        )
        for s in SCALERS
    ]
    return listed
