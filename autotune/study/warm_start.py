"""Starts a study from what another one found: its best configurations are measured first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.exceptions import InputError
from autotune.search_space import SearchSpace
from autotune.trial import Params

if TYPE_CHECKING:
    from autotune.storage import Database, TrialRecord

MAX_CONFIGURATIONS = 5
"""So many of the other study's best are measured: a few good starts, not a second search."""


def configurations_from(
    database: Database, study: str, searched: SearchSpace
) -> tuple[list[Params], list[str]]:
    """The best configurations of ``study`` that fit the space ``searched``.

    Verified ones come first, then by samples/s. What ``searched`` pins keeps its pinned value, so
    a study over other clips or another machine can still give its flags; figures are not taken
    over, every configuration is measured here.

    Returns:
        at most `MAX_CONFIGURATIONS` full configurations, no two the same, and a line for each
        that does not fit.

    Raises:
        InputError: if there is no such study, or it tuned another target.
    """
    record = database.get_study(study)
    if record.target != searched.target:
        raise InputError(
            f"enqueue_from: study {study!r} tuned the target {record.target!r}, this experiment "
            f"tunes {searched.target!r}; name a study of {searched.target!r}"
        )
    ranked = [trial for trial in database.trials(record.id) if trial.rankable]
    ranked.sort(key=lambda t: (not t.verified, -(t.samples_per_second or 0.0)))
    found: dict[tuple[object, ...], Params] = {}
    refused: list[str] = []
    for trial in ranked:
        if len(found) == MAX_CONFIGURATIONS:
            break
        try:
            params = _fitted(trial, searched, study)
        except InputError as error:
            refused.append(f"not enqueued: {error}")
        else:
            found.setdefault(searched.canonical(params), params)
    return list(found.values()), refused


def _fitted(trial: TrialRecord, searched: SearchSpace, study: str) -> Params:
    known = {name: v for name, v in trial.params.items() if name in searched.parameters}
    return searched.complete({**known, **searched.pinned}, f"{study}:{trial.number}")
