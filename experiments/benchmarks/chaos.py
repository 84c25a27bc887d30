"""Does harm to a study, at random and by the hundred, and checks that nothing came of it.

    python -m experiments.benchmarks.chaos --faults 500 --seed 0 -o experiments/results/chaos.json

A study of the target `faulty` runs through real drivers, `autotune launch`. Most of its
trials go wrong from inside; from outside workers, their children, guardians, drivers, Ray's
workers and raylets are killed, databases locked and taken away, disks filled, clocks set back.
A driver that ended is launched again. What was measured is logged by the target's own process,
and compared in the end with the database. Kills only processes of its own study.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.benchmarks import _common
from experiments.benchmarks.chaos_faults import LOCAL, RAY, Hit
from experiments.benchmarks.chaos_scene import Scene, small_disk
from experiments.benchmarks.faulty import KINDS, drawn

IN_FLIGHT_SECONDS = 20.0
"""A driver that is killed may lose the one measurement that it has not recorded yet: it came out
at most so long before."""


@dataclass
class Outcome:
    """What a chaos run found."""

    executor: str
    seconds: float = 0.0
    measurements: int = 0
    finished: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """Those that were injected, by name: from inside and from outside."""
    kinds: dict[str, int] = field(default_factory=dict)
    launches: int = 0
    driver_endings: dict[str, int] = field(default_factory=dict)
    completed: int = 0
    """Measurements whose result was out, by the target's own log."""
    in_flight_at_a_kill: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Measurements whose outcome is not what the faults injected into them can explain."""
    left: list[str] = field(default_factory=list)

    @property
    def injected(self) -> int:
        return sum(self.faults.values())

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.left)


def run(
    folder: Path, executor: str, faults: int, seed: int, pause: float = 1.5, seconds: float = 1500
) -> Outcome:
    """Inject ``faults`` faults, at most ``seconds`` long, and check what is left of it all.

    Args:
        folder: an empty folder; the caller may have mounted a small disk in it.
        pause: mean seconds between faults from outside.
    """
    rng = random.Random(f"{seed}:{executor}")
    scene = Scene(folder, executor, seed)
    table = LOCAL if executor == "local" else RAY
    choices, weights = [c for c, _ in table], [w for _, w in table]
    hits: list[Hit] = []
    began = said = time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            if scene.driver_ended():
                scene.launch()
            time.sleep(rng.expovariate(1 / pause))
            hit = rng.choices(choices, weights)[0](scene, rng) if scene.trial() else None
            if hit is not None:
                hits.append(hit)
            done = len(hits) + _inside_so_far(scene)
            if time.monotonic() - said > 15:
                said = time.monotonic()
                _common.say(f"{executor}: {done} faults, {scene.launches} launches")
            if done >= faults:
                break
    finally:
        scene.end()
    hits += [Hit("driver SIGKILL, forced", t, None, frozenset(), takes=True) for t in scene.forced]
    left = scene.nothing_left()
    outcome = check(scene.recorded(), _completed(scene.completed), hits)
    outcome.executor, outcome.left = executor, left
    outcome.wrong += scene.complaints
    outcome.seconds = time.monotonic() - began
    outcome.launches, outcome.driver_endings = scene.launches, scene.statuses
    return outcome


def check(
    recorded: Sequence[dict[str, Any]], completed: dict[str, float], hits: Iterable[Hit]
) -> Outcome:
    """Compare the database with what was measured and with what was done to it."""
    hits = list(hits)
    outcome = Outcome("")
    outcome.measurements = len(recorded)
    faults = Counter(hit.fault for hit in hits)
    kinds: Counter[str] = Counter()
    suffered: dict[str, set[str]] = {}
    for hit in hits:
        if hit.uuid is not None:
            suffered.setdefault(hit.uuid, set()).update(hit.outcomes)
    for row in recorded:
        fault = drawn(row["number"])
        if fault is not None:
            faults[f"{fault.name} ({fault.when})"] += 1
        came = row["kind"] if row["state"] == "failed" else row["state"]
        kinds[came] += 1
        expected = "finished" if fault is None else fault.outcome
        if row["role"] == "ceiling":
            expected = "unsupported"  # no stage of this target runs alone
        allowed = {expected, *suffered.get(row["uuid"], ())}
        if fault is not None and fault.when == "close" and row["uuid"] in suffered:
            allowed.add(KINDS[fault.name])  # closed because it was hit, with no result out yet
        if came not in allowed:
            outcome.wrong.append(
                f"{row['uuid']}: {came} ({row['cause']}) instead of {expected}; {fault}"
            )
    finished = [row for row in recorded if row["state"] == "finished"]
    outcome.finished = len(finished)
    outcome.faults, outcome.kinds = dict(sorted(faults.items())), dict(sorted(kinds.items()))
    known = {row["uuid"] for row in finished}
    outcome.completed = len(completed)
    kills = [hit for hit in hits if hit.takes]
    for uuid, moment in completed.items():
        if uuid in known:
            continue
        kill = next((k for k in kills if _took(k, uuid, moment)), None)
        if kill is None:
            outcome.lost.append(uuid)
        else:  # one slot: a kill takes one measurement at most
            kills.remove(kill)
            outcome.in_flight_at_a_kill += 1
    uuids = Counter(row["uuid"] for row in recorded)
    # a disturbed measurement is made again, and that is another attempt
    trials = Counter(
        (row["trial"], row["attempt"]) for row in finished if row["role"] in ("search", "baseline")
    )
    outcome.doubled = [u for u, n in uuids.items() if n > 1]
    outcome.doubled += [f"trial {number}" for (number, _), n in trials.items() if n > 1]
    return outcome


def _took(kill: Hit, uuid: str, moment: float) -> bool:
    """Whether a measurement that came out at some moment was in flight when this kill came: it
    was seen to be, or had come out just before."""
    return kill.uuid == uuid or 0 <= kill.time - moment <= IN_FLIGHT_SECONDS


def _inside_so_far(scene: Scene) -> int:
    return sum(drawn(row[0]) is not None for row in scene.query(_NUMBERS))


_NUMBERS = """
SELECT CAST(json_extract(t.params, '$.number') AS INTEGER) FROM autotune_measurements m
JOIN autotune_trials t ON t.study_id = m.study_id AND t.number = m.trial_number
"""


def _completed(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    pairs = (line.split() for line in path.read_text().splitlines())
    return {uuid: float(moment) for uuid, moment in pairs}


# --------------------------------------------------------------------------- the result


def report(outcomes: Sequence[Outcome]) -> str:
    """Two Markdown tables: what came of it, and what was done."""
    rows = [
        [
            o.executor,
            o.injected,
            o.measurements,
            o.completed,
            len(o.lost),
            o.in_flight_at_a_kill,
            len(o.doubled),
            len(o.wrong),
            len(o.left),
            o.launches,
            f"{o.seconds / 60:.1f} min",
        ]
        for o in outcomes
    ]
    header = ["executor", "faults", "measurements", "completed", "lost", "in flight at a kill"]
    header += ["doubled", "of a wrong kind", "left behind", "launches", "time"]
    names = sorted({name for o in outcomes for name in o.faults})
    columns = [o.executor for o in outcomes]
    counts = [[name, *(o.faults.get(name, 0) for o in outcomes)] for name in names]
    kinds = sorted({kind for o in outcomes for kind in o.kinds})
    came = [[kind, *(o.kinds.get(kind, 0) for o in outcomes)] for kind in kinds]
    return "\n\n".join(
        [
            _common.markdown_table(header, rows),
            _common.markdown_table(["outcome", *columns], came),
            _common.markdown_table(["fault", *columns], counts),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0, or 1 where something was lost, doubled, misnamed or left behind."""
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
        for line in (*outcome.lost, *outcome.doubled, *outcome.wrong, *outcome.left):
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
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
