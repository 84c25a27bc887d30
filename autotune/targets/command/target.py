"""The target's entry point: settings and the checks that need no process."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.search_space.document import did_you_mean, listed
from autotune.targets.base import BuildContext, Loader, OpenParams, Target
from autotune.targets.command.output import OutputLines, checked_regex
from autotune.targets.command.template import FlagTable, Template, flag_table
from autotune.trial import Params as ParamValues
from autotune.trial import Scalar

if TYPE_CHECKING:
    from autotune.config import Experiment
    from autotune.search_space import SearchSpace


class Settings(BaseModel):
    """What an experiment says about the command, besides its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str | list[str]
    """One text, or a list of words, with placeholders; see `template`."""
    working_dir: str | None = None
    """Working directory of the command."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of the command besides those of autotune."""
    regex: str | None = None
    """Finds steps in what the command prints, by named groups; see `output`. None: the command
    reports on AUTOTUNE_EVENTS, see `autotune.probe`."""
    samples_per_step: int | str | None = None
    """Samples of all ranks in a step, a number or an expression of parameters, for a ``regex``
    that tells steps or seconds alone; of one rank where it has the group ``rank``."""
    frames_per_sample: int | str | None = None
    """Likewise, for steps that are reported without their frames; None: 1."""
    flags: FlagTable = Field(default_factory=dict)
    """What ``{flags}`` becomes; from the search space, not to be given."""


class CommandTarget(Target):
    """Any training command."""

    name: ClassVar[str] = "command"
    needs_data: ClassVar[bool] = False
    takes_ranks: ClassVar[bool] = False
    Params: ClassVar[type[BaseModel]] = OpenParams
    Settings: ClassVar[type[BaseModel]] = Settings
    folders: ClassVar[tuple[str, ...]] = ("working_dir",)

    def prepare(
        self, experiment: Experiment, space: SearchSpace, settings: dict[str, Any]
    ) -> dict[str, Any]:
        where = f"{experiment.source}: target"
        checked = Settings.model_validate(settings)
        if experiment.target.consumer.kind != "none":
            raise InputError(
                f"{where}.consumer: {experiment.target.consumer.kind} is not accepted: the command "
                "has a consumer of its own. Remove the key"
            )
        if (experiment.target.ranks or 1) > 1:
            raise InputError(
                f"{where}.ranks: {experiment.target.ranks} is not accepted: the command starts its "
                "own ranks. Remove the key, and use e.g. `torchrun --nproc-per-node N` in "
                "target.command"
            )
        Template.parse(checked.command, f"{where}.command").check(space, f"{where}.command")
        for key in ("samples_per_step", "frames_per_sample"):
            _number(getattr(checked, key), space.defaults(), f"{where}.{key}")
        if checked.regex is not None:
            checked_regex(checked.regex, checked.samples_per_step is not None, f"{where}.regex")
        return {**settings, "flags": flag_table(space)}

    def environment(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing of its own; but a command that is not there is told here, before the first
        trial."""
        from autotune.targets.command.process import check_command

        checked = Settings.model_validate(dict(settings))
        # data and seed do not change which program it is
        check_command(_words(checked, params, {"data_dir": ".", "seed": 0}), checked.working_dir)
        return {}

    def suspects(self, params: ParamValues, settings: Mapping[str, Any]) -> list[str] | None:
        """Parameters whose flag and name occur in none of the sources that the command names;
        None where it names none (see `sources`).

        An honest script may read a flag in a module that it imports, so this alone proves
        nothing.
        """
        from autotune.targets.command.sources import source_text

        checked = Settings.model_validate(dict(settings))
        template = Template.parse(checked.command)
        words = _words(checked, params, {"data_dir": ".", "seed": 0})
        text = source_text(words, checked.working_dir, checked.environment)
        if not text:
            return None
        found = []
        for name in params:
            labels = template.given_as(name, checked.flags)
            spellings = {s for x in labels for s in (x, x.replace("-", "_"), x.replace("_", "-"))}
            if labels and not any(spelling in text for spelling in spellings):
                found.append(name)
        return found

    def train_with(self, context: BuildContext) -> Iterable[Any] | None:
        settings = Settings.model_validate(context.spec.settings)
        words = _words(settings, context.spec.params, {"data_dir": context.spec.data_dir or "."})
        raise InputError(
            "the target command is a whole training: it has no loader to build. Start it with the "
            f"tuned flags instead (`autotune export`): {shlex.join(words)}"
        )

    def build(self, context: BuildContext) -> Loader:
        """Start the command.

        Raises:
            InputError: if it cannot be started.
        """
        from autotune.targets.command.loader import CommandLoader
        from autotune.targets.command.process import Command, check_command
        from autotune.targets.command.reports import Steps

        spec = context.spec
        settings = Settings.model_validate(spec.settings)
        words = _words(settings, spec.params, {"data_dir": spec.data_dir, "seed": spec.seed})
        check_command(words, settings.working_dir)
        output = None
        environment = dict(settings.environment)
        if settings.regex is not None:
            pattern = checked_regex(settings.regex, settings.samples_per_step is not None)
            per_step = _number(settings.samples_per_step, spec.params, "target.samples_per_step")
            output = OutputLines(pattern, per_step)
            # a line that waits in a buffer would arrive with many others
            environment.setdefault("PYTHONUNBUFFERED", "1")
        frames = _number(settings.frames_per_sample, spec.params, "target.frames_per_sample")
        steps = Steps(1 if frames is None else round(frames))
        command = Command(words, settings.working_dir, environment, capture=output is not None)
        return CommandLoader(command, dict(spec.params), steps, output, spec.limits.startup_seconds)


def _words(
    settings: Settings, params: ParamValues, extra: Mapping[str, Scalar | None]
) -> list[str]:
    template = Template.parse(settings.command)
    return template.render(params, settings.flags, {**extra, "python": sys.executable})


def _number(value: int | str | None, params: ParamValues, where: str) -> float | None:
    """A number above 0, or an expression that gives one.

    Raises:
        InputError: naming ``where`` if it does not.
    """
    if value is None:
        return None
    found: object = value
    if isinstance(value, str):
        expression = Expression.parse(value, where)
        for name in sorted(expression.names - set(params)):
            raise InputError(
                f"{where}: {name!r} is no parameter. {did_you_mean(name, params)}"
                f"Accepted: {listed(params)}, and numbers"
            )
        found = expression.evaluate(params)
    if isinstance(found, bool) or not isinstance(found, int | float) or found <= 0:
        raise InputError(f"{where}: {found} is not accepted. Accepted: a number above 0")
    return float(found)
