"""How long a proposal takes, and being told what came of it, as a study grows.

    python -m experiments.benchmarks.proposals [--samplers gp,tpe] [--trials N] [-o OUT.json]

The sampler is asked as a study asks it, over the space of `spdl_video` and a database; nothing is
measured: a made-up surface with noise answers, one trial in twenty fails. Between two trials the
machine waits for both, so a night of short trials pays for it.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.samplers import Proposer, quiet_optuna
from autotune.search_space import SearchSpace
from autotune.trial import Params, Scalar
from experiments.benchmarks import _common

SPACE = _common.REPOSITORY / "search_spaces" / "spdl_video.yaml"
NAMES: dict[str, Scalar] = {"cpu_count": 16, "gpu_count": 0, "memory_gib": 64.0}
CONSTRAINT = "cpu_percent <= 90"
NOISE = 0.04
FAILED_SHARE = 0.05
LAST = 20
"""Trials that the median at a number of trials is over."""


def rate(params: Params, draw: random.Random) -> float | None:
    """samples/s; None for a failure. Best with few demux and some decode threads."""
    if draw.random() < FAILED_SHARE:
        return None
    demux, decode = int(params["num_demux_threads"]), int(params["num_decode_threads"])
    value = 100.0 - 3 * abs(demux - 3) - 2 * abs(decode - 7)
    return max(1.0, value) * math.exp(draw.gauss(0, NOISE))


def timed(kind: str, trials: int, steps: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Seconds of the last `LAST` proposals, and of telling them, at each of ``steps`` trials."""
    import optuna

    space = SearchSpace.load(SPACE)
    storage = f"sqlite:///{folder / f'{kind}.db'}"
    study = optuna.create_study(direction="maximize", storage=storage)
    proposer = Proposer(study, space, NAMES, kind, 0, figure_constraints=[CONSTRAINT])
    proposer.enqueue(space.defaults(), "baseline")
    draw = random.Random(0)
    proposing: list[float] = []
    telling: list[float] = []
    found = []
    for done in range(1, trials + 1):
        began = time.perf_counter()
        proposal = proposer.next()
        if proposal is None:
            break
        asked = time.perf_counter()
        proposer.tell(proposal, rate(proposal.params, draw), {CONSTRAINT: -0.5})
        proposing.append(asked - began)
        telling.append(time.perf_counter() - asked)
        if done in steps:
            row = {
                "sampler": kind,
                "trials": done,
                "proposing": statistics.median(proposing[-LAST:]),
                "telling": statistics.median(telling[-LAST:]),
            }
            found.append(row)
            _common.say(f"{kind} {done}: {row['proposing']:.2f} s, {row['telling']:.2f} s")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Time the samplers and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samplers", default="gp,tpe")
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("-o", "--output", type=Path, help="JSON file; a .md is written beside it")
    options = parser.parse_args(argv)
    quiet_optuna()
    steps = [n for n in (30, 50, 100, 200, 400, 800, 1600) if n <= options.trials]
    rows: list[dict[str, Any]] = []
    with _common.scratch_folder("proposals") as folder:
        for kind in options.samplers.split(","):
            rows += timed(kind, options.trials, steps, folder)
    text = _common.markdown_table(
        ["sampler", "trials", "proposing, median s", "telling, median s"],
        [[r["sampler"], r["trials"], r["proposing"], r["telling"]] for r in rows],
    )
    print(text)
    if options.output is not None:
        _common.write_json(options.output, {"machine": _common.machine_facts(), "rows": rows})
        options.output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
