"""The two sides of a comparison: each is ``'TARGET --flags...'`` or ``STUDY[:TRIAL]``.

Of a study only the configuration is taken, and what it was measured on: target settings, data,
consumer, ranks. Flags written out beside a study of the same target are measured on the same.
Frames and the videos that they were extracted from are the same data.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune import plugins
from autotune.config import Plan, difference, experiment_from, resolve
from autotune.exceptions import InputError
from autotune.frame_folders import is_extracted, read_record
from autotune.measure import measure_experiment
from autotune.results import best_trial
from autotune.search_space.document import listed
from autotune.storage import Database, StudyRecord, TrialRecord
from autotune.trial import Params

SHORT = {"min_seconds": 2.0, "max_seconds": 4.0}
"""How long each run of a comparison measures, seconds: many short runs tell more than a few long
ones, as runs differ from each other by more than each of them varies."""

_DATA_DIR = "target.data_dir"


@dataclass(frozen=True)
class Side:
    """One of the two configurations."""

    text: str
    """As the user wrote it."""
    plan: Plan
    params: Params
    study: str | None = None
    trial: int | None = None
    """Of ``study``; None where flags were written out."""
    machine: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    """Fingerprints that the study was measured with; the data's only where it is measured on the
    same folder again."""

    @property
    def flags(self) -> str:
        """The configuration on one line."""
        return shlex.join(self.plan.space.format_flags(self.params))

    @property
    def work(self) -> dict[str, Any]:
        """All that a rate depends on besides the configuration within one workload."""
        target = self.plan.experiment.target
        return {
            "target": {"name": target.name, "ranks": target.ranks, **self.plan.settings},
            "workload": dict(self.plan.space.workload_key(self.params)),
            "consumer": target.consumer.model_dump(mode="json"),
            "measurement": self.plan.experiment.measurement.model_dump(mode="json"),
            "seed": self.plan.experiment.seed,
        }


@dataclass(frozen=True)
class Sides:
    """What there is to compare, checked."""

    a: Side
    b: Side

    @property
    def differences(self) -> list[str]:
        """``workload.subclip_duration: 0.5 -> 2.0`` for what differs in the work itself. Then
        the ratio is one across workloads, and no gain of the configuration alone."""
        return difference(self.a.work, self.b.work)


@dataclass(frozen=True)
class _Given:
    """What both sides are read with."""

    storage: str | None
    overrides: tuple[str, ...]
    values: Mapping[str, Any]

    def for_target(self, target: str, data_dir: Path | None = None) -> dict[str, Any]:
        """The values for one side.

        Args:
            target: of the side. Where it reads videos and is given frames, it gets the videos that
                they were made of.
            data_dir: of the other side, unless a data folder is given.
        """
        values = dict(self.values)
        folder = values.get(_DATA_DIR, data_dir)
        if folder is not None:
            reads_frames = plugins.load_target(target).reads == "frames"
            values[_DATA_DIR] = str(folder if reads_frames else _videos(Path(folder)))
        return values


def read_sides(
    a: str,
    b: str,
    *,
    storage: str | None = None,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Sides:
    """Find out what two texts name.

    Args:
        a, b: ``'TARGET --flags...'``, or ``STUDY``, ``STUDY:TRIAL``, ``STUDY:baseline``; a study
            alone names its best trial, a verified one first.
        storage: URL of the database that the studies are in; only read.
        overrides: ``key.path=value`` of an experiment, for both sides.
        values: dotted key -> value, for options that stand for a key.

    Raises:
        InputError: for what is neither a target nor a study, a trial that is not there, flags that
            the target does not accept, or sides that read different data.
    """
    given = _Given(storage, tuple(overrides), dict(values or {}))
    words = [_words(a, "A"), _words(b, "B")]
    sides: list[Side | None] = [
        None if _is_target(w) else _of_study(text, w, name, given)
        for text, w, name in zip((a, b), words, "AB", strict=True)
    ]
    studies = [side for side in sides if side is not None]
    for index, text in enumerate((a, b)):
        if sides[index] is None:
            sides[index] = _of_flags(text, words[index], studies[0] if studies else None, given)
    first, second = sides
    assert first is not None
    assert second is not None
    if _videos(first.plan.data_dir) != _videos(second.plan.data_dir):
        raise InputError(
            f"compare: the two sides read different data: A {first.plan.data_dir}, "
            f"B {second.plan.data_dir}. Figures of different data do not compare; give --data-dir "
            "to measure both on one folder"
        )
    return Sides(first, second)


def _videos(folder: Path | None) -> Path | None:
    """The folder, or where it holds extracted frames the folder of videos that they are of: both
    list the same clips in the same order.

    Raises:
        InputError: the record of the extraction is damaged.
    """
    if folder is None or not is_extracted(folder):
        return folder
    return Path(read_record(folder).source)


def read_side(
    text: str,
    name: str,
    *,
    storage: str | None = None,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Side:
    """Find out what one text names; see `read_sides`.

    Args:
        name: of the argument, for messages.

    Raises:
        InputError: for what is neither a target nor a study, a trial that is not there, or flags
            that the target does not accept.
    """
    given = _Given(storage, tuple(overrides), dict(values or {}))
    words = _words(text, name)
    if _is_target(words):
        return _of_flags(text, words, None, given)
    return _of_study(text, words, name, given)


def _words(text: str, name: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{name}: {text!r} cannot be read: {error}") from error
    if not words:
        raise InputError(f"{name}: is empty. Give 'TARGET --flags...' in quotes, or STUDY[:TRIAL]")
    return words


def _is_target(words: list[str]) -> bool:
    return words[0] in plugins.available("targets")


def _of_flags(text: str, words: list[str], beside: Side | None, given: _Given) -> Side:
    """A configuration written out; on what the study ``beside`` it was measured, if there is one
    of the same target."""
    target, *flags = words
    if beside is not None and beside.plan.experiment.target.name == target:
        plan = beside.plan
        named = plan.space.parse_flags(flags, f"compare {text!r}")
        return Side(text, plan, plan.space.complete({**plan.fixed, **named}))
    values = given.for_target(target, None if beside is None else beside.plan.data_dir)
    base = {"measurement": SHORT}
    experiment = measure_experiment(
        target, flags, given.overrides, values, base=base, where=repr(text)
    )
    plan = resolve(experiment)
    return Side(text, plan, plan.baseline)


def _of_study(text: str, words: list[str], name: str, given: _Given) -> Side:
    study, colon, which = text.strip().partition(":")
    if len(words) > 1 and not colon:
        raise InputError(
            f"{name}: there is no target {words[0]!r}. Targets: "
            f"{listed(plugins.available('targets'))}; or name a study, STUDY[:TRIAL]"
        )
    if given.storage is None:
        raise InputError(f"{name}: {study!r} is no target, and no database of studies was given")
    with Database.open(given.storage, create=False) as database:
        record = database.get_study(study)
        trial = _trial(database, record, which, name)
        machine, data = database.study_fingerprints(record.id)
    document = dict(record.experiment)
    document["measurement"] = {**document.get("measurement", {}), **SHORT}
    where = f"study {study!r}"
    values = given.for_target(record.target)
    plan = resolve(experiment_from(document, given.overrides, values, where=where))
    same_data = str(plan.data_dir) == str(record.identity.get("data_dir"))
    return Side(
        text=text,
        plan=plan,
        params=plan.space.complete(trial.params, f"{where}, trial {trial.number}"),
        study=study,
        trial=trial.number,
        machine=machine,
        data=data if same_data else None,
    )


def _trial(database: Database, record: StudyRecord, which: str, name: str) -> TrialRecord:
    """The trial that ``which`` names: a number, ``baseline``, or nothing for the best."""
    if which.isdigit():
        return database.trial(record.id, int(which))
    trials = database.trials(record.id)
    if which == "baseline":
        found = next((trial for trial in trials if trial.params == record.baseline), None)
    elif which in ("", "best"):
        found = best_trial(trials)
    else:
        raise InputError(
            f"{name}: {record.name}:{which} names no trial. Accepted after the colon: the number "
            "of a trial, baseline or best"
        )
    if found is None:
        raise InputError(
            f"{name}: study {record.name!r} has no {which or 'best'} trial yet; `autotune trials` "
            "shows what it has"
        )
    return found
