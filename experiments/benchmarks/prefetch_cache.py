"""prefetch_cache against torch_dataloader on slow storage, each tuned, and without the slowness.

    python -m experiments.benchmarks.prefetch_cache [--clips DIR] [-o prefetch_cache.json]

The slowness is emulated: every clip is opened so many milliseconds later (the targets' setting
``emulated_latency_ms``). A short pass tunes both for each latency; then every block runs all
sides of a scene once, in a seeded random order, in fresh processes, and ratios are paired within
the blocks. The clips are real ones at the size in which data sets for such models are often kept
(170x128), so that storage and not decoding is what limits; one scene has them as they were. Run it
alone on the machine: whatever else runs is in the figures.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError, InputError
from autotune.stats import ratio_interval
from autotune.trial import ConsumerSpec, Params, TrialResult
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set, shrunken_set
from experiments.benchmarks.contenders import Contender

SMALL, WHOLE = "170x128", "340x256"
NONE = ConsumerSpec()
PACED = ConsumerSpec(kind="paced", ms_per_sample=5.0)
"""An accelerator that takes 200 samples/s."""

_WORK: Params = {
    "subclip_duration": 0.5,
    "batch_size": 8,
    "decoder": "spdl",
    "scale_algorithm": "fast_bilinear",
}

DATA_LOADER = Contender(
    "torch_dataloader",
    "torch_dataloader",
    {**_WORK, "num_workers": 2},
    [
        [{"num_workers": count} for count in range(5)],
        [{"prefetch_factor": batches} for batches in (4, 8)],
    ],
)
"""At most two workers a core: each is a process with a memory of its own."""

CACHE = Contender(
    "prefetch_cache",
    "prefetch_cache",
    {**_WORK, "num_threads": 8, "cache_batches": 8},
    [
        [{"num_threads": count} for count in (2, 8, 16, 32)],
        [{"cache_batches": batches} for batches in (4, 16)],
    ],
)

MANY = Contender("torch_dataloader, 16 workers", "torch_dataloader", {**_WORK, "num_workers": 16})
"""Beyond the range that is tuned: as many processes as it takes to wait for the storage."""


@dataclass(frozen=True)
class Scene:
    """What all sides are compared on."""

    latency_ms: float
    clips: str
    consumer: ConsumerSpec
    many: bool = False
    """Whether `MANY` takes part."""

    @property
    def name(self) -> str:
        takes = "as fast as it comes" if self.consumer.kind == "none" else "paced, 200 samples/s"
        return f"{self.latency_ms:g} ms a file, {self.clips}, {takes}"


def scenes(latency_ms: float) -> list[Scene]:
    """All of them. The last one runs with what was tuned for the first."""
    return [
        Scene(latency_ms, SMALL, NONE, many=True),
        Scene(latency_ms, SMALL, PACED),
        Scene(0.0, SMALL, NONE),
        Scene(0.0, SMALL, PACED),
        Scene(latency_ms, WHOLE, NONE),
    ]


@dataclass(frozen=True)
class Run:
    """One measurement. Figures are None where it failed."""

    scene: str
    side: str
    phase: str
    """``tuning`` or ``block``."""
    block: int
    params: Params
    samples_per_second: float | None
    accelerator_utilization: float | None
    time_to_first_batch: float | None
    cpu_percent: float | None
    rss_gib: float | None
    cache_gib: float | None
    failure: str | None


def run_of(
    scene: str, side: str, phase: str, block: int, params: Params, result: TrialResult
) -> Run:
    """A result as a row."""
    m = result.measurement
    return Run(
        scene=scene,
        side=side,
        phase=phase,
        block=block,
        params=params,
        samples_per_second=m.samples_per_second if m else None,
        accelerator_utilization=m.accelerator_utilization if m else None,
        time_to_first_batch=m.time_to_first_batch if m else None,
        cpu_percent=m.resources.cpu_percent if m else None,
        rss_gib=m.resources.rss_gib if m else None,
        cache_gib=m.resources.cache_gib if m else None,
        failure=None if m else _common.why_failed(result),
    )


class Comparison:
    """The runs of all scenes.

    Args:
        runners: by the kind of clips.
        tuning_seconds, seconds: length of a run in tuning and in a block.
    """

    def __init__(
        self, runners: Mapping[str, _common.Runner], tuning_seconds: float, seconds: float
    ) -> None:
        self._runners = runners
        self._tuning_seconds = tuning_seconds
        self._seconds = seconds
        self._best: dict[tuple[float, str], Params] = {}
        self.runs: list[Run] = []

    def tune(self, scene: Scene) -> None:
        """Find the best configuration of each side at the scene's latency."""
        for side in (DATA_LOADER, CACHE):
            best = side.tune(partial(self._measure, scene, side, "tuning", 0))
            self._best[scene.latency_ms, side.name] = best
            _common.say(f"{scene.name}: {side.name}: {best}")

    def blocks(self, scene: Scene, rounds: int, seed: int) -> None:
        """Run every side once a block, in random order."""
        order = random.Random(f"{seed}:{scene.name}")
        for block in range(rounds):
            sides = [DATA_LOADER, CACHE, *([MANY] if scene.many else [])]
            order.shuffle(sides)
            for side in sides:
                params = self._best.get((scene.latency_ms, side.name), dict(side.base))
                self._measure(scene, side, "block", block, params)

    def _measure(
        self, scene: Scene, side: Contender, phase: str, block: int, params: Params
    ) -> float | None:
        result = self._runners[scene.clips].measure(
            side.target,
            params,
            self._tuning_seconds if phase == "tuning" else self._seconds,
            settings={**_common.SETTINGS, "emulated_latency_ms": scene.latency_ms},
            consumer=scene.consumer,
        )
        run = run_of(scene.name, side.name, phase, block, params, result)
        self.runs.append(run)
        shown = run.failure or f"{run.samples_per_second:.1f} samples/s"
        _common.say(f"{scene.name} {phase} {block} {side.name}: {shown}")
        return run.samples_per_second


# --------------------------------------------------------------------------- the report


def ratios(runs: Sequence[Run], scene: Scene) -> list[dict[str, Any]]:
    """The cache against each other side, over the blocks that both have."""
    rates: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        if run.scene == scene.name and run.phase == "block" and run.samples_per_second:
            rates[run.side][run.block] = run.samples_per_second
    found = []
    for side in (DATA_LOADER.name, MANY.name):
        shared = sorted(rates[CACHE.name].keys() & rates[side].keys())
        if len(shared) < 2:
            continue
        ratio = ratio_interval(
            [rates[CACHE.name][block] for block in shared], [rates[side][block] for block in shared]
        )
        found.append(
            {
                "scene": scene.name,
                "denominator": side,
                "ratio": ratio.ratio,
                "low": ratio.low,
                "high": ratio.high,
                "blocks": ratio.blocks,
            }
        )
    return found


def report(runs: Sequence[Run], shown: Sequence[Scene]) -> tuple[str, list[dict[str, Any]]]:
    """The Markdown report and the ratios."""
    parts, judged = [], []
    for scene in shown:
        sides: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            if run.scene == scene.name and run.phase == "block" and run.samples_per_second:
                sides[run.side].append(run)
        rows = [_row(side, found) for side, found in sides.items()]
        header = [
            "loader", "samples/s", "accelerator busy", "CPU %", "memory (GiB)", "cache (MiB)",
            "first batch (s)", "best settings",
        ]  # fmt: skip
        parts += [f"### {scene.name}\n", _common.markdown_table(header, sorted(rows)) + "\n"]
        for ratio in ratios(runs, scene):
            judged.append(ratio)
            parts.append(
                f"prefetch_cache / {ratio['denominator']}: **{ratio['ratio']:.2f}** "
                f"(95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}, "
                f"{ratio['blocks']} blocks)\n"
            )
    failures = [f"- {r.scene}, {r.phase}, {r.side}: {r.failure}" for r in runs if r.failure]
    if failures:
        parts.append("Failed runs:\n\n" + "\n".join(failures) + "\n")
    return "\n".join(parts), judged


def _row(side: str, runs: Sequence[Run]) -> list[object]:
    def middle(name: str, scale: float = 1.0) -> float | None:
        values = [scale * v for run in runs if (v := getattr(run, name)) is not None]
        return statistics.median(values) if values else None

    params = {name: value for name, value in runs[0].params.items() if name not in _WORK}
    return [
        side,
        f"{middle('samples_per_second'):.1f}",
        f"{middle('accelerator_utilization', 100.0):.0f} %",
        f"{middle('cpu_percent'):.0f}",
        middle("rss_gib"),
        middle("cache_gib", 1024.0),
        middle("time_to_first_batch"),
        _common.flags_of(params, *params),
    ]


# --------------------------------------------------------------------------- the command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.prefetch_cache", description=__doc__
    )
    p.add_argument("--clips", type=Path, help="folder to take 340x256 H.264 clips from")
    p.add_argument("--latency", type=float, default=50.0, help="emulated milliseconds a file")
    p.add_argument("--links", type=int, default=64, help="size of the data sets made of --clips")
    p.add_argument("--seconds", type=float, default=3.0, help="length of a block's run")
    p.add_argument("--tuning-seconds", type=float, default=1.0, help="length of a tuning run")
    p.add_argument("--rounds", type=int, default=4, help="interleaved blocks")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", type=Path, help="JSON file; the table goes beside it as .md")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 0, or 2 where the input is wrong."""
    options = parser().parse_args(argv)
    shown = scenes(options.latency)
    try:
        with _common.scratch_folder("prefetch") as scratch:
            source = options.clips or _common.SHARED_CLIPS
            if not source.is_dir():
                raise InputError(f"--clips {source}: no such folder; give one with --clips")
            whole, names = linked_set(source, scratch, options.links)
            small = shrunken_set(whole, scratch / "small", (170, 128))
            runners = {
                kind: _common.Runner(folder, scratch / kind, seed=options.seed)
                for kind, folder in ((SMALL, small), (WHOLE, whole))
            }
            for runner in runners.values():
                runner.prewarm()
            machine = _common.machine_facts()
            if machine["load_average"][0] > 0.3 * (os.cpu_count() or 1):
                _common.say(f"warning: the machine is busy (load {machine['load_average'][0]})")
            comparison = Comparison(runners, options.tuning_seconds, options.seconds)
            for scene in (shown[0], shown[2]):
                comparison.tune(scene)
            for scene in shown:
                comparison.blocks(scene, options.rounds, options.seed)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    table, judged = report(comparison.runs, shown)
    print(table)
    if options.output:
        document = {
            "benchmark": "prefetch_cache",
            "date": _common.today(),
            "machine": machine,
            "data": {"clips": names, "files": options.links, "links": True},
            "options": {k: str(v) for k, v in vars(options).items()},
            "settings": _common.SETTINGS,
            "emulated": {"latency_ms": options.latency},
            "ratios": judged,
            "runs": [asdict(run) for run in comparison.runs],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
