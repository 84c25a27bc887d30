"""What measuring costs: samples/s with and without it, and what a trial takes besides measuring.

    python -m experiments.benchmarks.supervision [--clips DIR] [-o supervision.json]

1. One configuration, in runs in which windows, statistics, telemetry and supervisor are switched
   off in every second slice of a second (see `switched`): the ratio of neighbouring slices, and,
   as that is noisy, the CPU time of all that is switched. Goal: the loss is at most 1 %.
2. A study: the time from one trial's start to the next one's, less the measurement itself and
   less what the target takes from its import to its first batch. Goal: at most 1.0 s (median),
   of which proposing, storing and cleaning up, from a worker's exit to the next worker's start,
   at most 0.3 s. What the worker takes to close its pipeline and exit is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from autotune.config import Experiment
from autotune.exceptions import AutotuneError
from autotune.plugins import load_target
from autotune.stats import RatioEstimate
from autotune.storage import Database
from autotune.study.launching import launch_experiment
from autotune.trial import Params
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set
from experiments.benchmarks.switched import SWITCHED, Plan, Slice, cpu_share, on_over_off, slices_of

LOSS_GOAL = 0.01
TRIAL_GOAL_SECONDS = 1.0
BETWEEN_GOAL_SECONDS = 0.3

SETTLE_SECONDS = 2.0
SLICE_SECONDS = 1.0
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


def switched_run(runner: _common.Runner, seed: int, pairs: int) -> list[Slice]:
    """The slices of one run of about so many pairs.

    The supervisor is a process of its own: who runs a benchmark is not to be stopped with it.

    Raises:
        AutotuneError: if the run failed.
    """
    seconds = 2 * pairs * SLICE_SECONDS + SETTLE_SECONDS
    with _common.scratch_folder("switched") as folder:
        output = folder / "slices"
        fresh = multiprocessing.get_context("spawn")
        why, tell = fresh.Pipe(duplex=False)
        process = fresh.Process(target=_supervised, args=(runner, seed, seconds, str(output), tell))
        process.start()
        tell.close()
        try:
            process.join(timeout=2 * seconds + 60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGCONT)
            process.terminate()
            process.join()
        try:
            failed = why.recv()
        except EOFError:
            failed = f"its supervisor ended with status {process.exitcode}"
        if failed:
            raise AutotuneError(f"a switched run failed: {failed}")
        return slices_of(output)


def _supervised(
    runner: _common.Runner, seed: int, seconds: float, output: str, tell: Connection
) -> None:
    plan = Plan(
        target="spdl_video",
        what="measuring",
        output=output,
        stop=[os.getpid()],
        slice_seconds=SLICE_SECONDS,
        settle_seconds=SETTLE_SECONDS,
        seed=seed,
    )
    os.environ.update(plan.in_environment())
    result = runner.measure(SWITCHED, complete(PARAMS), seconds)
    tell.send("" if result.measurement is not None else _common.why_failed(result))


def compare(runner: _common.Runner, runs: int, pairs: int) -> tuple[RatioEstimate, list[Slice]]:
    """Measured over bare, over the pairs of all runs; a run's last slice may lack its other."""
    slices: list[Slice] = []
    for run in range(runs):
        made = switched_run(runner, run, pairs)
        slices += made[: len(made) // 2 * 2]
        found = on_over_off(slices)
        _common.say(
            f"run {run + 1}: {found.ratio:.4f} ({found.low:.4f} to {found.high:.4f}), "
            f"{found.blocks} pairs"
        )
    return on_over_off(slices), slices


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


def report(ratio: RatioEstimate, share: float, costs: Sequence[TrialCost]) -> str:
    """All answers, as Markdown."""
    own = statistics.median(c.own for c in costs)
    between = statistics.median(c.between for c in costs)
    rows = [
        [
            "measured / bare, samples/s",
            f"at least {1 - LOSS_GOAL:.2f}",
            f"{ratio.ratio:.4f} ({ratio.low:.4f} to {ratio.high:.4f}), {ratio.blocks} pairs",
            ratio.ratio >= 1 - LOSS_GOAL,
        ],
        [
            "CPU time of measuring, of the machine",
            f"at most {LOSS_GOAL:.0%}",
            f"{share:.2%}",
            share <= LOSS_GOAL,
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
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=50, help="of slices, in each run")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, help="JSON file; a .md is written beside it")
    options = parser.parse_args(argv)
    with _common.scratch_folder("supervision") as folder:
        clips, _ = linked_set(options.clips, folder / "clips")
        runner = _common.Runner(clips, folder)
        runner.prewarm()
        ratio, slices = compare(runner, options.runs, options.pairs)
        costs = trial_costs(clips, options.trials, folder)
    facts = _common.machine_facts()
    share = cpu_share(slices, facts["cores"])
    text = report(ratio, share, costs)
    print(text)
    if options.output is not None:
        document = {
            "machine": facts,
            "ratio": asdict(ratio),
            "cpu_share_of_machine": share,
            "slices": [asdict(each) for each in slices],
            "trials": [asdict(cost) | {"own": cost.own} for cost in costs],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
