"""From an experiment to what a study does: space, fixed values, baseline, settings, data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from autotune import plugins
from autotune.config.load import is_path
from autotune.config.messages import validated
from autotune.config.models import Configuration, Experiment
from autotune.exceptions import InputError
from autotune.search_space import SearchSpace, find_space
from autotune.search_space.document import did_you_mean, listed
from autotune.trial import Params

if TYPE_CHECKING:
    from autotune.targets.base import Target


@dataclass(frozen=True)
class Plan:
    """An experiment, checked against its target and its search space."""

    experiment: Experiment
    space: SearchSpace
    """All parameters of the target."""
    searched: SearchSpace
    """The same, with what the study holds fixed pinned."""
    fixed: Params
    """What the experiment fixes under ``target``."""
    settings: dict[str, Any]
    """The target's settings, defaults filled in; JSON-able."""
    baseline: Params
    """The full configuration in use today."""
    enqueued: list[Params]
    """Full configurations to measure after the baseline; no two the same, none the baseline."""
    data_dir: Path | None

    def given(self, params: Params) -> Params:
        """A full configuration as the target is given it.

        A parameter that is off has the default of the search space. Where a user changed that
        default, the target may refuse it, as a value that would do nothing; it then gets the
        default of its own, which is what it reads back.
        """
        model = plugins.load_target(self.experiment.target.name).Params
        if _accepts(model, params):
            return params
        off = self.space.parameters.keys() - self.space.active(params)
        own = {name: model.model_fields[name].default for name in off & model.model_fields.keys()}
        settled = {**params, **own}
        for name in own:  # what the target does take stays as the search space has it
            if _accepts(model, kept := {**settled, name: params[name]}):
                settled = kept
        return settled if _accepts(model, settled) else params


def _accepts(model: type[BaseModel], params: Params) -> bool:
    try:
        model.model_validate(params)
    except ValidationError:
        return False
    return True


def resolve(experiment: Experiment) -> Plan:
    """Check an experiment against its target, its search space and this machine's files.

    Raises:
        InputError: one message naming the file, the key, the value, what is accepted and the
            remedy.
        UnsupportedError: if the target's plug-in cannot be imported.
    """
    where = experiment.source
    target = _load_target(experiment)
    if experiment.executor.kind not in plugins.available("executors"):
        kinds = plugins.available("executors")
        raise InputError(
            f"{where}: executor.kind: {experiment.executor.kind} is not accepted. "
            f"{did_you_mean(experiment.executor.kind, kinds)}Accepted: {listed(kinds)}"
        )
    space = _load_space(experiment, target)
    fixed, settings = _split_target(experiment, target, space)
    settings = target.prepare(experiment, space, settings)
    baseline = _configuration(experiment.baseline, space, fixed, f"{where}: baseline")
    searched = space.subset(fixed, experiment.vary_workload, baseline, where)
    _check_known(target, space, baseline, where)
    enqueued: list[Params] = []
    seen = {searched.canonical(baseline)}
    for index, given in enumerate(experiment.enqueue):
        place = f"{where}: enqueue[{index}]"
        params = searched.complete(_given(given, space, place), place)
        if searched.canonical(params) not in seen:
            seen.add(searched.canonical(params))
            enqueued.append(params)
    return Plan(
        experiment=experiment,
        space=space,
        searched=searched,
        fixed=fixed,
        settings=settings,
        baseline=baseline,
        enqueued=enqueued,
        data_dir=_data_dir(experiment, target),
    )


def identity(plan: Plan) -> dict[str, Any]:
    """What must not change when a study is resumed; JSON-able, and the same after a round trip.

    Budget, executor, verification, limits, sampler, what is enqueued and where results go may
    change. The seed may not: it fixes the order in which samples are read.
    """
    experiment = plan.experiment
    space = plan.searched.to_dict()
    for parameter in space["parameters"].values():
        parameter.pop("help", None)  # a better explanation does not make another study
    found: dict[str, Any] = {
        "target": {
            "name": experiment.target.name,
            "settings": plan.settings,
            "fixed": plan.fixed,
            "ranks": experiment.target.ranks,
        },
        "consumer": experiment.target.consumer.model_dump(mode="json"),
        "data_dir": None if plan.data_dir is None else str(plan.data_dir),
        "search_space": space,
        "vary_workload": sorted(experiment.vary_workload),
        "baseline": plan.baseline,
        "objective": experiment.objective,
        "constraints": {k: b.model_dump() for k, b in sorted(experiment.constraints.items())},
        "measurement": experiment.measurement.model_dump(mode="json"),
        "seed": experiment.seed,
    }
    stored: dict[str, Any] = json.loads(json.dumps(found))
    return stored


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two identities: ``measurement.min_seconds: 3.0 -> 5.0``."""
    before, after = dict(_flat(old)), dict(_flat(new))
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key, _ABSENT) != after.get(key, _ABSENT):
            lines.append(f"{key}: {_shown(before, key)} -> {_shown(after, key)}")
    return lines


_ABSENT = object()


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "(not there)"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


# --------------------------------------------------------------------------- the parts of a plan


def _load_target(experiment: Experiment) -> Target:
    name = experiment.target.name
    names = plugins.available("targets")
    if name not in names:
        raise InputError(
            f"{experiment.source}: target.name: there is no target {name!r}. "
            f"{did_you_mean(name, names)}Accepted: {listed(names)}"
        )
    return plugins.load_target(name)


def _takes_any_parameter(target: Target) -> bool:
    """Whether the parameters are the user's own, see `OpenParams`."""
    return target.Params.model_config.get("extra") == "allow"


def _load_space(experiment: Experiment, target: Target) -> SearchSpace:
    section = experiment.search_space
    name = experiment.target.name
    place = f"{experiment.source}: search_space"
    if _takes_any_parameter(target) and (section is None or section.base is None):
        if section is None or not section.parameters:
            raise InputError(
                f"{place}: is missing: the parameters of {name} are your own. Give "
                "{parameters: {num_workers: {min: 1, max: 8, default: 4}}}, or the path of a file"
            )
        return SearchSpace.from_dict({"target": name, "parameters": section.parameters}, place)
    base = (section.base if section else None) or name
    if is_path(base):
        path = Path(base)
        if not path.is_file():
            raise InputError(
                f"{place}: {base}: no such file. Give the path of a search-space file, relative "
                "to the experiment file, or remove the key to use the one of the target"
            )
    else:
        try:
            path = find_space(base)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
    space = SearchSpace.load(path)
    if space.target != name:
        raise InputError(
            f"{place}: {path} is for the target {space.target}, and target.name is {name}. "
            "Change one of the two"
        )
    if section is not None and section.parameters:
        space = space.merged(section.parameters, f"{place}.parameters")
    return space


def _split_target(
    experiment: Experiment, target: Target, space: SearchSpace
) -> tuple[Params, dict[str, Any]]:
    """The keys of ``target`` that are parameters, and those that are the target's settings."""
    where = experiment.source
    extra = experiment.target.extra
    own = list(type(experiment.target).model_fields)
    settings = list(target.Settings.model_fields)
    given: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    for key, value in extra.items():
        if key in space.parameters:
            parameters[key] = value
        elif key in settings:
            given[key] = value
        else:
            accepted = [*own, *settings, *space.parameters]
            raise InputError(
                f"{where}: target.{key}: unknown key. {did_you_mean(key, accepted)}"
                f"Accepted: {listed(own)}; settings of {experiment.target.name}: "
                f"{listed(settings)}; parameters, which are then fixed: {listed(space.parameters)}"
            )
    checked = validated(target.Settings, given, where, prefix="target")
    return space.check(parameters, f"{where}: target"), checked.model_dump(mode="json")


def _given(given: Configuration, space: SearchSpace, place: str) -> Params:
    if isinstance(given, str):
        return space.parse_flags(given, place)
    return space.check(given, place)


def _configuration(given: Configuration, space: SearchSpace, fixed: Params, place: str) -> Params:
    """The full configuration that ``given`` and the fixed parameters make."""
    named = _given(given, space, place)
    for name, value in named.items():
        if name in fixed and fixed[name] != value:
            raise InputError(
                f"{place}.{name}: {value} contradicts target.{name}: {fixed[name]}. "
                "Remove one, or make them the same"
            )
    return space.complete({**fixed, **named}, place)


def _check_known(target: Target, space: SearchSpace, baseline: Params, where: str) -> None:
    """Every parameter, and every end of its range, must be one that the target understands."""
    model: type[BaseModel] = target.Params
    place = f"{where}: search_space: parameters"
    for name, parameter in space.parameters.items():
        if name not in model.model_fields:
            if _takes_any_parameter(target):
                continue
            raise InputError(
                f"{place}.{name}: the target {space.target} has no such parameter. "
                f"{did_you_mean(name, model.model_fields)}Accepted: {listed(model.model_fields)}"
            )
        for value in parameter.values or (parameter.min, parameter.max):
            try:
                model.model_validate({**baseline, name: value})
            except ValidationError as error:
                # Errors of the model as a whole are about how values go together.
                causes = [e["msg"] for e in error.errors() if e["loc"][:1] == (name,)]
                if causes:
                    raise InputError(
                        f"{place}.{name}: the target {space.target} does not accept {value}: "
                        f"{causes[0]}. Remove it from the range"
                    ) from error


def _data_dir(experiment: Experiment, target: Target) -> Path | None:
    given = experiment.target.data_dir
    place = f"{experiment.source}: target.data_dir"
    if given is None:
        if not target.needs_data:
            return None
        raise InputError(
            f"{place}: is missing. Give a folder of videos or of class folders (--data-dir DIR); "
            "`autotune clips make DIR` makes one"
        )
    path = Path(given)
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "there is no such data folder"
        raise InputError(
            f"{place}: {given}: {problem}. Give a folder of videos or of class folders; "
            "`autotune clips make DIR` makes one"
        )
    return path.absolute()
