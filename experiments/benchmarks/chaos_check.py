"""Judges a chaos run: the database against what was measured, and against what was done to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.benchmarks.chaos_scene import TRACEBACK, Hit, Launch
from experiments.benchmarks.faulty import KINDS, drawn

IN_FLIGHT_SECONDS = 20.0
"""A driver that is killed may lose the one measurement that it has not recorded yet: it came out
at most so long before."""

BY_ITSELF = frozenset({0, 1})
"""How a launch may end with no fault that ends drivers: the study is finished, or it failed."""

STATES = {0: "finished", 1: "failed"}
"""What the database has to say of the study after such an exit status."""

SAVED = "Interrupted; what was measured is saved."
"""Told with exit status 130 by a launch whose study had begun."""

GIVEN_UP = (
    "trials all failed",
    "trials in a row failed, and then the baseline",
    "the baseline failed",
    "no trial gave a figure",
)
"""Reasons for which a study ends as failed: all say that the machine fails every trial."""

ROLE_COUNTS = ("measurements", "finished", "hit", "resumed")
"""What is counted for each role: how many measurements there are, how many finished, how many a
fault from outside hit, and how many drivers went on with one after another had ended."""

Row = dict[str, Any]
"""A measurement: see `Scene.recorded`."""


@dataclass
class Outcome:
    """What a chaos run found."""

    executor: str = ""
    seconds: float = 0.0
    studies: int = 0
    """Of which the last is not finished."""
    measurements: int = 0
    finished: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """Those that were injected, by name: from inside and from outside."""
    kinds: dict[str, int] = field(default_factory=dict)
    roles: dict[str, dict[str, int]] = field(default_factory=dict)
    """By what measurements were made for: `ROLE_COUNTS`."""
    launches: int = 0
    driver_endings: dict[str, int] = field(default_factory=dict)
    verifications: int = 0
    """Results of verification that were recorded."""
    completed: int = 0
    """Measurements whose result was out, by the target's own log."""
    in_flight_at_a_kill: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Measurements whose outcome is not what the faults injected into them can explain, and
    verifications that rest on what was not measured."""
    wrong_endings: list[str] = field(default_factory=list)
    """Launches whose end is not what the faults injected meanwhile can explain."""
    left: list[str] = field(default_factory=list)

    @property
    def injected(self) -> int:
        return sum(self.faults.values())

    @property
    def findings(self) -> list[str]:
        """All that must not be."""
        return [*self.lost, *self.doubled, *self.wrong, *self.wrong_endings, *self.left]


def check(
    recorded: Sequence[Row],
    completed: dict[str, float],
    hits: Iterable[Hit],
    verifications: Sequence[Row] = (),
) -> Outcome:
    """Compare the database with what was measured and with what was done to it.

    Args:
        recorded: `Scene.recorded`.
        completed: by the uuid of a measurement, when its result was out (CLOCK_MONOTONIC).
        hits: the faults from outside.
        verifications: `Scene.verifications`.
    """
    hits = list(hits)
    outcome = Outcome(measurements=len(recorded), verifications=len(verifications))
    suffered: dict[str, set[str]] = defaultdict(set)
    for hit in hits:
        if hit.uuid is not None:
            suffered[hit.uuid] |= hit.outcomes
    outcome.wrong = [text for row in recorded if (text := _wrong_kind(row, suffered))]
    outcome.wrong += _unfounded(recorded, verifications)
    outcome.finished = sum(row["state"] == "finished" for row in recorded)
    inner = [fault for row in recorded if (fault := drawn(row["number"])) is not None]
    faults = Counter(hit.fault for hit in hits)
    faults.update(f"{fault.name} ({fault.when})" for fault in inner)
    outcome.faults = dict(sorted(faults.items()))
    outcome.kinds = dict(sorted(Counter(map(_came, recorded)).items()))
    outcome.roles = _roles(recorded, suffered)
    outcome.completed = len(completed)
    _look_for_lost(outcome, recorded, completed, [hit for hit in hits if hit.takes])
    uuids = Counter(row["uuid"] for row in recorded)
    outcome.doubled = [uuid for uuid, times in uuids.items() if times > 1]
    outcome.doubled += _made_twice(recorded)
    return outcome


def _came(row: Row) -> str:
    """What came of a measurement: a kind of failure, ``finished`` or ``stopped``."""
    came: str = row["kind"] if row["state"] == "failed" else row["state"]
    return came


def _wrong_kind(row: Row, suffered: dict[str, set[str]]) -> str:
    """What is wrong with the outcome of a measurement; empty where nothing is."""
    fault = drawn(row["number"])
    expected = "finished" if fault is None else fault.outcome
    allowed = {expected, *suffered.get(row["uuid"], ())}
    if fault is not None and fault.when == "close" and row["uuid"] in suffered:
        allowed.add(KINDS[fault.name])  # closed because it was hit, with no result out yet
    if _came(row) in allowed:
        return ""
    what = f"{row['role']} {row['uuid']}: {_came(row)} ({row['cause']})"
    return f"{what} instead of {expected}; {fault}"


def _roles(recorded: Iterable[Row], suffered: dict[str, set[str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in recorded:
        counts = found.setdefault(row["role"], dict.fromkeys(ROLE_COUNTS, 0))
        counts["measurements"] += 1
        counts["finished"] += row["state"] == "finished"
        counts["hit"] += row["uuid"] in suffered
    return found


# --------------------------------------------------------------------------- lost


def _look_for_lost(
    outcome: Outcome, recorded: Iterable[Row], completed: dict[str, float], kills: list[Hit]
) -> None:
    """Whatever it was made for, what was measured is recorded, unless a kill took it."""
    known = {row["uuid"] for row in recorded if row["state"] == "finished"}
    for uuid, moment in completed.items():
        if uuid in known:
            continue
        kill = next((k for k in kills if _took(k, uuid, moment)), None)
        if kill is None:
            outcome.lost.append(uuid)
        else:  # one slot: a kill takes one measurement at most
            kills.remove(kill)
            outcome.in_flight_at_a_kill += 1


def _took(kill: Hit, uuid: str, moment: float) -> bool:
    """Whether a measurement that came out at some moment was in flight when this kill came: it
    was seen to be, or had come out just before."""
    return kill.uuid == uuid or 0 <= kill.time - moment <= IN_FLIGHT_SECONDS


# --------------------------------------------------------------------------- doubled


def _made_twice(recorded: Iterable[Row]) -> list[str]:
    """What was measured again although a usable figure for the same purpose was there already:
    a launch forgot what an earlier one, or it itself, had measured.

    A figure that another program disturbed is no usable one: it is measured again by design.
    """
    times: Counter[tuple[Any, ...]] = Counter()
    most: dict[tuple[Any, ...], int] = {}
    searched: Counter[str] = Counter()
    for row in recorded:
        role, study, trial = row["role"], row["study"], row["trial"]
        searched[study] += role in ("search", "baseline")
        if row["state"] != "finished":
            continue
        usable = not row["contaminated"] and not row["superseded"]
        if role in ("search", "baseline"):
            times[study, "trial", trial, row["attempt"]] += 1
        if role in ("noise", "baseline"):
            times[study, "noise floor on trial", trial] += usable
            most[study, "noise floor on trial", trial] = max(1, row["noise_runs"])
        elif role == "drift":  # two runs a look, one for a check of the machine
            times[study, "drift after measurement", searched[study]] += usable
            most[study, "drift after measurement", searched[study]] = 3
        elif role == "selection":
            key = (study, "selection", searched[study], trial, row["arm"], row["block"])
            times[key] += usable
    found = [" ".join(map(str, key)) for key, n in times.items() if n > most.get(key, 1)]
    return found + _blocks_made_twice(recorded)


def _blocks_made_twice(recorded: Iterable[Row]) -> list[str]:
    """Verification blocks that were measured once more after an undisturbed attempt."""
    sound: set[tuple[Any, ...]] = set()
    found = []
    for key, runs in _blocks(recorded):
        if key in sound:
            found.append(" ".join(map(str, ("verification", *key))))
        if not any(run["contaminated"] for run in runs.values()):
            sound.add(key)
    return found


def _blocks(recorded: Iterable[Row]) -> list[tuple[tuple[str, int, int], dict[str, Row]]]:
    """Complete attempts at verification blocks, in order: study, trial and block, and its runs by
    arm. A run that did not finish, or of another block, makes an attempt begin anew."""
    found = []
    begun: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in recorded:
        if row["role"] != "verification":
            continue
        runs = begun[row["study"]]
        same = all((r["trial"], r["block"]) == (row["trial"], row["block"]) for r in runs.values())
        if row["state"] != "finished" or row["arm"] in runs or not same:
            runs.clear()
        if row["state"] != "finished":
            continue
        runs[row["arm"]] = row
        if len(runs) == 2:
            found.append(((row["study"], row["trial"], row["block"]), dict(runs)))
            runs.clear()
    return found


def _unfounded(recorded: Iterable[Row], verifications: Iterable[Row]) -> list[str]:
    """Results of verification of which a block was never measured as it says."""
    measured = {
        (*key, *(runs[arm]["samples_per_second"] for arm in ("candidate", "baseline")))
        for key, runs in _blocks(recorded)
    }
    found = []
    for one in verifications:
        pairs = zip(one["candidate_rates"], one["baseline_rates"], strict=True)
        for block, rates in enumerate(pairs):
            if (one["study"], one["trial"], block, *rates) not in measured:
                where = f"{one['study']}, trial {one['trial']}, block {block}"
                found.append(f"verification of {where}: nobody measured {rates}")
    return found


# --------------------------------------------------------------------------- endings


def check_launches(
    outcome: Outcome, launches: Sequence[Launch], hits: Sequence[Hit], recorded: Sequence[Row]
) -> None:
    """Add to an outcome what the drivers' endings show."""
    outcome.launches = len(launches)
    outcome.driver_endings = dict(Counter(str(launch.status) for launch in launches))
    for number, launch in enumerate(launches):
        if why := _wrong_ending(launch, hits):
            outcome.wrong_endings.append(f"launch {number} of {launch.study}: {why}")
    known = [*(launch.known for launch in launches), len(recorded)]
    for launch, until in zip(launches, known[1:], strict=True):
        before = any(row["study"] == launch.study for row in recorded[: launch.known])
        if before and launch.known < until:
            outcome.roles[recorded[launch.known]["role"]]["resumed"] += 1


def _wrong_ending(launch: Launch, hits: Iterable[Hit]) -> str:
    """What is wrong with how a driver ended; empty where nothing is."""
    status, log = launch.status, launch.log.read_text(errors="replace")
    suffered = [hit for hit in hits if launch.started <= hit.time <= launch.ended]
    allowed = BY_ITSELF.union(*(hit.endings for hit in suffered))
    why = ""
    if status not in allowed:
        faults = ", ".join(sorted({hit.fault for hit in suffered if hit.endings})) or "none"
        why = f"status {status} instead of one of {sorted(allowed)}; faults: {faults}"
    elif TRACEBACK in log:
        why = f"status {status}, with a traceback"
    elif status == 1 and not any(reason in log for reason in GIVEN_UP):
        why = "status 1 without a reason why the study failed"
    elif status in STATES and launch.state != STATES[status]:
        why = f"status {status}, but the study is {launch.state}"
    elif status == 130 and SAVED in log and launch.state != "interrupted":
        why = f"it said that it was interrupted, but the study is {launch.state}"
    return f"{why}\n{log[-3000:]}" if why else ""
