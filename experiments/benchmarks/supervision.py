"""What measuring costs: samples/s with and without it, and what a trial takes besides measuring.

    python -m experiments.benchmarks.supervision [--clips DIR] [-o supervision.json]

1. One configuration in a plain loop of a plain process, and the same in a worker with windows,
   stage statistics, telemetry, supervisor and guardian; fresh processes, interleaved blocks in
   random order, both counted over the same stretch after the first batch. Goal: the ratio's
   loss is at most 1 %.
2. A study: the time from one trial's start to the next one's, less the measurement itself and
   less what the target takes from its import to its first batch. Goal: at most 1.0 s (median),
   of which proposing, storing and cleaning up, from a worker's exit to the next worker's start,
   at most 0.3 s. What the worker takes to close its pipeline and exit is told apart.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from autotune.config import Experiment
from autotune.exceptions import AutotuneError
from autotune.plugins import load_target
from autotune.stats import RatioEstimate, ratio_interval
from autotune.storage import Database
from autotune.study.launching import launch_experiment
from autotune.trial import Params, TrialResult
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set

LOSS_GOAL = 0.01
TRIAL_GOAL_SECONDS = 1.0
BETWEEN_GOAL_SECONDS = 0.3

SETTLE_SECONDS = 1.0
PARAMS: Params = {
    "device": "cpu",
    "subclip_duration": 0.5,
    "batch_size": 8,
    "scale_algorithm": "fast_bilinear",
    "num_fetch_threads": 2,
    "num_demux_threads": 2,
    "num_decode_threads": 2,
    "decoder_threads": 1,
}


@dataclass(frozen=True)
class TrialCost:
    """One trial of the study; seconds."""

    cycle: float
    """From its start to the start of the next trial."""
    target: float
    """The target's own imports, its pipeline, its first batch."""
    measuring: float
    """Warm-up and measurement."""
    shutdown: float
    """From the worker's result to its exit: the pipeline is closed, the interpreter ends."""
    between: float
    """From there to the start of the next worker: clean-up, storing, telling, proposing."""

    @property
    def own(self) -> float:
        """What is left for us."""
        return self.cycle - self.target - self.measuring


def complete(params: Params) -> Params:
    """All parameters of the target."""
    return load_target("spdl_video").Params(**params).model_dump()


def bare(runner: _common.Runner, params: Params, seconds: float) -> float:
    """samples/s of the plain loop.

    Raises:
        AutotuneError: if it failed.
    """
    spec = runner.specification("spdl_video", params, settings=dict(_common.SETTINGS))
    wanted = load_target("spdl_video").environment(params, spec.settings)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.benchmarks.bare_loop",
            f"{SETTLE_SECONDS}",
            f"{seconds}",
        ],
        input=spec.model_dump_json() + "\n",
        capture_output=True,
        text=True,
        env={**os.environ, **wanted},
        cwd=_common.REPOSITORY,
        check=False,
    )
    if done.returncode != 0:
        raise AutotuneError(f"the plain loop failed: {done.stderr[-500:]}")
    return float(done.stdout.splitlines()[-1])


def measured(runner: _common.Runner, params: Params, seconds: float) -> float:
    """samples/s of a worker, over the stretch in which the plain loop counts.

    Raises:
        AutotuneError: if the measurement failed.
    """
    result = runner.measure("spdl_video", params, SETTLE_SECONDS + seconds)
    if result.measurement is None:
        raise AutotuneError(_common.why_failed(result))
    return settled_rate(result)


def settled_rate(result: TrialResult) -> float:
    """samples/s from the first batch that came `SETTLE_SECONDS` after counting began."""
    arrivals = [t for w in result.windows for t in w.arrivals]
    samples = [n for w in result.windows for n in w.batch_samples]
    settled = result.windows[0].start + SETTLE_SECONDS
    first = next(i for i, t in enumerate(arrivals) if t >= settled)
    return sum(samples[first + 1 :]) / (arrivals[-1] - arrivals[first])


def compare(
    runner: _common.Runner, blocks: int, seconds: float
) -> tuple[RatioEstimate, dict[str, list[float]]]:
    """Measured over bare, in interleaved blocks."""
    params = complete(PARAMS)
    rates: dict[str, list[float]] = {"measured": [], "bare": []}
    order = random.Random(0)
    for block in range(blocks):
        arms = [("measured", measured), ("bare", bare)]
        order.shuffle(arms)
        for name, run in arms:
            rates[name].append(run(runner, params, seconds))
        _common.say(
            f"block {block + 1}: " + ", ".join(f"{n} {r[-1]:.1f}/s" for n, r in rates.items())
        )
    return ratio_interval(rates["measured"], rates["bare"]), rates


def trial_costs(data: Path, trials: int, folder: Path) -> list[TrialCost]:
    """The costs of a study's trials, the first apart: it meets a cold start."""
    storage = f"sqlite:///{folder / 'trials.db'}"
    launch_experiment(
        Experiment.from_dict(
            {
                "target": {"name": "spdl_video", "data_dir": str(data), "device": "cpu"},
                "baseline": {"subclip_duration": 0.5, "batch_size": 8},
                "budget": {"trials": trials},
                "noise": {"runs": 0, "drift_every": 0},
                "measurement": {
                    "min_seconds": 1,
                    "max_seconds": 1,
                    "repeats": 0,
                    "early_stopping": False,
                },
                "verification": {"finalists": 0},
                "executor": {"kind": "local"},
            }
        ),
        storage=storage,
        study_name="trials",
    )
    with Database.open(storage) as database:
        made = database.measurements(database.get_study("trials").id)
    runs = [m for m in made if m.role in ("baseline", "search") and m.state == "finished"]
    costs = []
    for run, after in itertools.pairwise(runs[1:]):
        cycle = after.started_at.timestamp() - run.started_at.timestamp()
        times = {name: value or 0.0 for name, value in run.timeline.items()}
        costs.append(
            TrialCost(
                cycle=cycle,
                target=times["first_batch"] - times["started"],
                measuring=times["finished"] - times["first_batch"],
                shutdown=times["exited"] - times["finished"],
                between=cycle - times["exited"],
            )
        )
    return costs


def report(ratio: RatioEstimate, costs: Sequence[TrialCost]) -> str:
    """Both answers, as Markdown."""
    own = statistics.median(c.own for c in costs)
    between = statistics.median(c.between for c in costs)
    rows = [
        [
            "measured / bare, samples/s",
            f"at least {1 - LOSS_GOAL:.2f}",
            f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {ratio.blocks} blocks",
            ratio.ratio >= 1 - LOSS_GOAL,
        ],
        [
            "a trial besides target and measurement, median s",
            f"at most {TRIAL_GOAL_SECONDS}",
            f"{own:.2f} ({len(costs)} trials)",
            own <= TRIAL_GOAL_SECONDS,
        ],
        [
            "of it proposing, storing, cleaning up, median s",
            f"at most {BETWEEN_GOAL_SECONDS}",
            f"{between:.2f}",
            between <= BETWEEN_GOAL_SECONDS,
        ],
        [
            "of it the worker's end after its result, median s",
            None,
            f"{statistics.median(c.shutdown for c in costs):.2f}",
            None,
        ],
    ]
    return _common.markdown_table(["what", "goal", "found", "met"], rows) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run both parts and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="counted in each run")
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("-o", "--output", type=Path, help="JSON file; a .md is written beside it")
    options = parser.parse_args(argv)
    with _common.scratch_folder("supervision") as folder:
        clips, _ = linked_set(options.clips, folder / "clips")
        runner = _common.Runner(clips, folder)
        runner.prewarm()
        ratio, rates = compare(runner, options.blocks, options.seconds)
        costs = trial_costs(clips, options.trials, folder)
    text = report(ratio, costs)
    print(text)
    if options.output is not None:
        document = {
            "machine": _common.machine_facts(),
            "ratio": asdict(ratio),
            "rates": rates,
            "trials": [asdict(cost) | {"own": cost.own} for cost in costs],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
