"""The target's entry point: settings and the checks that need no loader."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from autotune.targets.base import BuildContext, Loader, OpenParams, Target
from autotune.trial import Params as ParamValues

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import Experiment
    from autotune.search_space import SearchSpace


class Settings(BaseModel):
    """What an experiment says about the function, besides its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: str = Field(min_length=1)
    """``module:function``. It takes the parameters as keyword arguments and returns an iterable
    of batches; ``data_dir``, ``seed``, ``rank`` and ``world_size`` are passed if it names them."""
    working_dir: str | None = None
    """Working directory of the loader, and the first place where the module is looked for."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments, the same in every trial."""
    count: str | tuple[int, int] | None = None
    """``module:function`` of a batch that returns (samples, frames), or the two numbers where
    every batch holds as many; None: by shape (see `counting`)."""
    frames_per_sample: int | None = Field(None, ge=1)
    """Where the shapes do not tell it."""
    conditions: dict[str, str] = Field(default_factory=dict)
    """Of each parameter that has one its condition: the function does not get a parameter that is
    off. From the search space, not to be given."""

    @field_validator("count")
    @classmethod
    def _positive(cls, value: str | tuple[int, int] | None) -> str | tuple[int, int] | None:
        if isinstance(value, tuple) and (value[0] < 1 or value[1] < 0):
            raise ValueError(
                f"{list(value)} is not accepted. Accepted: [samples, frames] of a batch, at least "
                "1 and 0, or module:function"
            )
        return value


class PythonTarget(Target):
    """``module:function`` -> an iterable of batches."""

    name: ClassVar[str] = "python"
    needs_data: ClassVar[bool] = False
    Params: ClassVar[type[BaseModel]] = OpenParams
    Settings: ClassVar[type[BaseModel]] = Settings
    folders: ClassVar[tuple[str, ...]] = ("working_dir",)

    def prepare(
        self, experiment: Experiment, space: SearchSpace, settings: dict[str, Any]
    ) -> dict[str, Any]:
        found = {n: p.when.text for n, p in space.parameters.items() if p.when is not None}
        own = {key: value for key, value in settings.items() if key != "conditions"}
        return {**own, "conditions": found} if found else own

    def environment(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing of its own; but what cannot be called is told here, before the first trial."""
        checked = Settings.model_validate(dict(settings))
        callables(checked, params, {})
        return {}

    def build(self, context: BuildContext) -> Loader:
        from autotune.targets.python.loader import PythonLoader

        settings = Settings.model_validate(context.spec.settings)
        call, count = callables(settings, context.spec.params, _offered(context))
        return PythonLoader(context, settings, call, count)

    def train_with(self, context: BuildContext) -> Iterable[Any] | None:
        """What the function returns, as it returns it. The working directory stays the
        training's own; its module is also looked for in ``working_dir``."""
        settings = Settings.model_validate(context.spec.settings)
        folder = settings.working_dir
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
        here = settings.model_copy(update={"working_dir": None})
        made: Iterable[Any] = callables(here, context.spec.params, _offered(context))[0]()
        return made


def _offered(context: BuildContext) -> dict[str, Any]:
    """Arguments that the function gets if it names them."""
    return {
        "data_dir": context.spec.data_dir,
        "seed": context.spec.seed,
        "rank": context.rank,
        "world_size": context.world_size,
    }


def callables(
    settings: Settings, params: ParamValues, offered: Mapping[str, Any]
) -> tuple[Callable[[], Any], Callable[[Any], Any] | None]:
    """The user's function with its arguments, and their function that counts a batch.

    Raises:
        InputError: if either cannot be found, or the first not be called with these.
    """
    import functools

    from autotune.targets.python.functions import (
        arguments_for,
        conditions_met,
        enter,
        find_function,
    )

    enter(settings.working_dir)
    function = find_function(settings.function, "target.function")
    offered = offered or dict.fromkeys(("data_dir", "seed", "rank", "world_size"))
    given = {**settings.arguments, **params}
    met = conditions_met(settings.conditions, params)
    arguments = arguments_for(function, given, offered, settings.function, met)
    count = None
    if isinstance(settings.count, str):
        count = find_function(settings.count, "target.count")
    return functools.partial(function, **arguments), count
