"""Does harm to studies, at random and by the hundred, and checks that nothing came of it.

    python -m experiments.benchmarks.chaos --faults 500 --seed 0 -o experiments/results/chaos.json

Studies of the target `faulty` run one after the other through real drivers, `autotune launch`,
with noise floor, looks at the baseline, selection and verification. Many of their trials go wrong
from inside; from outside workers, their children, guardians, drivers, Ray's workers and raylets
are killed, databases locked and taken away, disks filled, clocks set back. A driver that ended is
launched again. What was measured is logged by the target's own process, and compared in the end
with the database; how each driver ended, with what was done to it. Kills only processes of its
own studies.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.benchmarks import _common
from experiments.benchmarks.chaos_check import ROLE_COUNTS, Outcome, check, check_launches
from experiments.benchmarks.chaos_faults import LOCAL, RAY
from experiments.benchmarks.chaos_plans import PLANS, Plan
from experiments.benchmarks.chaos_scene import Scene, small_disk
from experiments.benchmarks.faulty import drawn


def run(
    folder: Path,
    executor: str,
    faults: int,
    seed: int,
    pause: float = 1.5,
    seconds: float = 3600,
    plans: Sequence[Plan] = PLANS,
) -> Outcome:
    """Inject ``faults`` faults, at most ``seconds`` long, and check what is left of it all.

    Args:
        folder: an empty folder; the caller may have mounted a small disk in it.
        pause: mean seconds between faults from outside.
        plans: of the studies, taken in turn.
    """
    rng = random.Random(f"{seed}:{executor}")
    scene = Scene(folder, executor, seed, plans)
    table = LOCAL if executor == "local" else RAY
    choices, weights = [c for c, _ in table], [w for _, w in table]
    began = said = time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            done = len(scene.hits) + _inside_so_far(scene)
            if done >= faults:
                break
            if time.monotonic() - said > 15:
                said = time.monotonic()
                _common.say(
                    f"{executor}: {done} faults, {len(scene.launches)} launches, {scene.study}"
                )
            if scene.driver_ended():
                scene.launch()
            time.sleep(rng.expovariate(1 / pause))
            trial = scene.trial()
            if trial is None or scene.plan.spares(trial[0]):
                continue
            hit = rng.choices(choices, weights)[0](scene, rng)
            if hit is not None:
                scene.hits.append(hit)
    finally:
        scene.end()
    outcome = _judged(scene)
    outcome.seconds = time.monotonic() - began
    return outcome


def _judged(scene: Scene) -> Outcome:
    left = scene.nothing_left()
    recorded = scene.recorded()
    outcome = check(recorded, _completed(scene.completed), scene.hits, scene.verifications())
    check_launches(outcome, scene.launches, scene.hits, recorded)
    outcome.executor, outcome.studies = scene.executor, len(scene.studies)
    outcome.left = [f"{what}, after {study}" for what, study in scene.left_behind.items()] + left
    outcome.wrong += scene.complaints
    return outcome


def _inside_so_far(scene: Scene) -> int:
    return sum(drawn(row[0]) is not None for row in scene.query(_NUMBERS))


_NUMBERS = """
SELECT CAST(json_extract(t.params, '$.number') AS INTEGER) FROM autotune_measurements m
JOIN autotune_trials t ON t.study_id = m.study_id AND t.number = m.trial_number
WHERE m.arm IS NULL OR m.arm <> 'baseline'
"""


def _completed(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    pairs = (line.split() for line in path.read_text().splitlines())
    return {uuid: float(moment) for uuid, moment in pairs}


# --------------------------------------------------------------------------- the result


def report(outcomes: Sequence[Outcome]) -> str:
    """Markdown tables: what came of it, in which phases, and what was done."""
    rows = [
        [
            o.executor,
            o.injected,
            o.studies,
            o.measurements,
            o.completed,
            len(o.lost),
            o.in_flight_at_a_kill,
            len(o.doubled),
            len(o.wrong),
            len(o.left),
            o.launches,
            len(o.wrong_endings),
            f"{o.seconds / 60:.1f} min",
        ]
        for o in outcomes
    ]
    header = ["executor", "faults", "studies", "measurements", "completed", "lost"]
    header += ["in flight at a kill", "doubled", "of a wrong kind", "left behind", "launches"]
    header += ["endings of a wrong kind", "time"]
    names = sorted({name for o in outcomes for name in o.faults})
    columns = [o.executor for o in outcomes]
    counts = [[name, *(o.faults.get(name, 0) for o in outcomes)] for name in names]
    kinds = sorted({kind for o in outcomes for kind in o.kinds})
    came = [[kind, *(o.kinds.get(kind, 0) for o in outcomes)] for kind in kinds]
    phases = [
        [role, o.executor, *(counts[name] for name in ROLE_COUNTS)]
        for o in outcomes
        for role, counts in o.roles.items()
    ]
    about = ["measurements for", "executor", "number", "finished", "hit from outside"]
    endings = sorted({ending for o in outcomes for ending in o.driver_endings}, key=int)
    ended = [[status, *(o.driver_endings.get(status, 0) for o in outcomes)] for status in endings]
    return "\n\n".join(
        [
            _common.markdown_table(header, rows),
            _common.markdown_table([*about, "drivers that went on here"], phases),
            _common.markdown_table(["exit status or signal of a driver", *columns], ended),
            _common.markdown_table(["outcome", *columns], came),
            _common.markdown_table(["fault", *columns], counts),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0, or 1 where something was lost, doubled, misnamed or left behind, or where a driver
    ended as it must not."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.chaos")
    p.add_argument("--faults", type=int, default=500, help="with the local executor")
    p.add_argument("--ray-faults", type=int, default=50, help="with Ray; 0 leaves it out")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--pause", type=float, default=1.5, help="mean seconds between outer faults")
    p.add_argument("-o", "--output", type=Path, help="JSON; a .md beside it")
    options = p.parse_args(argv)
    outcomes = []
    for executor, faults in (("local", options.faults), ("ray", options.ray_faults)):
        if faults <= 0:
            continue
        with _common.scratch_folder("chaos") as folder, small_disk(folder) as mounted:
            if not mounted:
                _common.say("no small disk could be mounted (that takes root): no full disk")
            outcome = run(folder, executor, faults, options.seed, options.pause)
        for line in outcome.findings:
            _common.say(f"{executor}: {line}")
        outcomes.append(outcome)
    text = report(outcomes)
    print(text)
    if options.output:
        document = {
            "benchmark": "chaos",
            "date": _common.today(),
            "command": f"python -m experiments.benchmarks.chaos --faults {options.faults} "
            f"--ray-faults {options.ray_faults} --seed {options.seed} --pause {options.pause}",
            "machine": _common.machine_facts(),
            "outcomes": [{**asdict(o), "injected": o.injected} for o in outcomes],
        }
        _common.write_json(options.output, document)
        head = f"# Chaos run\n\n`{document['command']}`, {document['date']}.\n\n"
        options.output.with_suffix(".md").write_text(head + text + "\n", encoding="utf-8")
    return 1 if any(outcome.findings for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
