"""Proposes one configuration after another, over Optuna's ask and tell.

What was enqueued comes first, then the sampler. The sampler works on a copy of the study in
memory: a proposal that breaks a constraint, or repeats what was measured, is told to the copy at
once and asked for anew. Only what is really measured becomes a trial of the study in the
database, so its trials have no gaps and no inventions, and a rejected proposal costs nothing.

What Optuna is told for a configuration without a figure is a penalty. It lives in Optuna's value
alone, marked by the user attribute ``autotune:penalty``; nothing of ours reads it.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from autotune.samplers.factory import STARTUP_TRIALS, make_sampler
from autotune.search_space import Parameter, SearchSpace
from autotune.trial import Params, Scalar

if TYPE_CHECKING:
    import optuna

Origin = Literal["baseline", "enqueued", "sampler", "random"]
"""``random``: drawn by the proposer where the sampler gave nothing valid and new."""

ORIGIN = "autotune:origin"
PENALTY = "autotune:penalty"
STOPPED_EARLY = "autotune:stopped_early"

MAX_REJECTIONS = 25
"""So many proposals in a row may break a constraint, or repeat what was measured, before a valid
configuration is drawn at random."""

MAX_REJECTIONS_GP = 4
"""The same for a Gaussian process, where every proposal costs a fit."""


@dataclass(frozen=True)
class Proposal:
    """A configuration to measure. ``number`` is Optuna's trial number."""

    number: int
    params: Params
    """The full configuration."""
    origin: Origin
    trial: optuna.Trial = field(repr=False, compare=False)
    """In the database."""
    copy: optuna.Trial = field(repr=False, compare=False)
    """In the copy that the sampler works on."""


class Proposer:
    """Hands out configurations and tells Optuna what became of them.

    Args:
        study: the Optuna study in the database (direction: maximize).
        space: the searched space; what is pinned in it is never proposed otherwise.
        names: what constraints may name besides parameters (``cpu_count``, ...).
        kind: a sampler of `factory.choose`, not ``auto``.
        seed: makes the proposals repeatable; a resumed study goes on with other draws.
        figure_constraints: keys of the constraints on recorded figures. Every completed trial
            gets the same keys, or Optuna's Gaussian process fails.
        startup_trials: so many trials are drawn at random, or were enqueued, before the sampler
            learns from them.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        names: Mapping[str, Scalar],
        kind: str,
        seed: int,
        figure_constraints: Iterable[str] = (),
        startup_trials: int = STARTUP_TRIALS,
    ) -> None:
        import optuna

        done = study.get_trials(deepcopy=False, states=_finished())
        # A resumed study must not draw the same numbers again, so the draws made count.
        self._random = random.Random(f"{seed}:{len(done)}")
        self._study = study
        self._copy = optuna.create_study(
            direction="maximize", sampler=make_sampler(kind, seed + len(done), startup_trials)
        )
        self._copy.add_trials(done)
        self._space = space
        self._names = dict(names)
        self._kind = kind
        self._figure_constraints = tuple(figure_constraints)
        self._queue: deque[tuple[Params, Origin]] = deque()
        self._grid: deque[tuple[Params, Origin]] = deque()
        self._measured: dict[tuple[object, ...], tuple[int, float | None]] = {}
        self._asked: set[tuple[object, ...]] = set()
        self._worst: float | None = None
        self._flat = kind == "gp"
        if kind == "grid":
            self._enqueue_grid(seed)

    def enqueue(self, params: Params, origin: Origin) -> None:
        """Measure this configuration before anything the sampler proposes.

        It is measured even where it breaks a constraint, and skipped where it was measured.
        """
        self._queue.append((params, origin))

    def remember(self, number: int, params: Params, value: float | None) -> None:
        """Take over what an earlier launch measured: it is not proposed again."""
        key = self._space.canonical(params)
        self._asked.add(key)
        self._note(key, number, value)

    def take_back(self, number: int, params: Params) -> Proposal:
        """A trial that an earlier launch handed out and was killed before it told what became of
        it: Optuna has it as running.

        Args:
            number: Optuna's.
            params: the full configuration.
        """
        import optuna

        [frozen] = [t for t in self._study.get_trials(deepcopy=False) if t.number == number]
        self._copy.enqueue_trial(self._searched(params))
        copy = self._copy.ask()
        self._suggest(copy)
        trial = optuna.Trial(self._study, frozen._trial_id)
        return Proposal(number, params, frozen.user_attrs.get(ORIGIN, "sampler"), trial, copy)

    def next(self) -> Proposal | None:
        """The next configuration to measure; None when every valid one was measured."""
        for queue in (self._queue, self._grid):
            while queue:
                params, origin = queue.popleft()
                if self._space.canonical(params) not in self._asked:
                    return self._ask_for(params, origin)
        if self._kind == "grid":
            return None
        for _ in range(MAX_REJECTIONS_GP if self._kind == "gp" else MAX_REJECTIONS):
            copy = self._copy.ask()
            params = self._suggest(copy)
            key = self._space.canonical(params)
            number, value = self._measured.get(key, (None, None))
            if number is not None and value is not None:
                self._tell_figure(self._copy, copy, value, {})
            elif key in self._asked or self._space.violations(params, self._names):
                self._tell_penalty(self._copy, copy)
            else:
                return self._hand_out(copy, params, "sampler")
        valid = self._draw_valid()
        return None if valid is None else self._ask_for(valid, "random")

    def tell(
        self, proposal: Proposal, value: float | None, violated: Mapping[str, float] | None = None
    ) -> None:
        """Tell Optuna what a proposal measured.

        Args:
            value: samples/s; None for a failure that the sampler should learn from.
            violated: for each figure constraint by how much it is exceeded, relative
                (negative when satisfied).
        """
        self._note(self._space.canonical(proposal.params), proposal.number, value)
        for study, trial in ((self._study, proposal.trial), (self._copy, proposal.copy)):
            if value is None:
                self._tell_penalty(study, trial)
            else:
                self._tell_figure(study, trial, value, violated or {})

    @property
    def stopped_state(self) -> Literal["PRUNED", "COMPLETE"]:
        """What Optuna is told of a trial that was stopped early.

        TPE ranks pruned trials behind every completed one. The others never look at them and
        would propose the region again, so for them the trial is complete.
        """
        return "PRUNED" if self._kind == "tpe" else "COMPLETE"

    def tell_stopped_early(
        self, proposal: Proposal, estimate: float, violated: Mapping[str, float] | None = None
    ) -> None:
        """Tell Optuna that a trial was stopped as hopeless: `stopped_state`, the estimate that it
        had reached, and the user attribute ``autotune:stopped_early``.

        Args:
            estimate: samples/s.
            violated: as in `tell`.
        """
        from optuna.trial import TrialState

        self._note(self._space.canonical(proposal.params), proposal.number, estimate)
        for study, trial in ((self._study, proposal.trial), (self._copy, proposal.copy)):
            trial.set_user_attr(STOPPED_EARLY, True)
            if self.stopped_state == "COMPLETE":
                self._tell_figure(study, trial, estimate, violated or {})
                continue
            self._constrain(trial, violated or {})
            trial.report(estimate, step=0)
            study.tell(trial, state=TrialState.PRUNED)

    def tell_infrastructure(self, proposal: Proposal) -> None:
        """Tell Optuna that nothing was learnt: the fault was not the configuration's."""
        from optuna.trial import TrialState

        self._asked.discard(self._space.canonical(proposal.params))
        self._study.tell(proposal.trial, state=TrialState.FAIL)
        self._copy.tell(proposal.copy, state=TrialState.FAIL)

    # ------------------------------------------------------------------ inside

    def _enqueue_grid(self, seed: int) -> None:
        # In a shuffled order, so that a grid cut short by the budget is an even sample of it.
        points = [p for p in self._space.enumerate() if not self._space.violations(p, self._names)]
        random.Random(seed).shuffle(points)
        self._grid.extend((p, "sampler") for p in points)

    def _suggest(self, trial: optuna.Trial) -> Params:
        """Ask the trial for every searched parameter whose condition holds.

        A Gaussian process treats parameters that are missing in some trials as random, so it
        is asked for all of them; what a condition switches off falls to its default in
        `SearchSpace.complete`.
        """
        params: Params = dict(self._space.pinned)
        for name in self._space.searched:
            if not self._flat and name not in self._space.active(self._space.complete(params)):
                continue
            parameter = self._space.parameters[name]
            if parameter.kind == "categorical":
                value = trial.suggest_categorical(name, list(parameter.values or ()))
                params[name] = cast(Scalar, value)  # Optuna types choices with None
            elif parameter.kind == "int":
                params[name] = trial.suggest_int(
                    name,
                    int(parameter.min or 0),
                    int(parameter.max or 0),
                    step=int(parameter.step or 1),
                    log=parameter.log,
                )
            else:
                params[name] = trial.suggest_float(
                    name,
                    float(parameter.min or 0.0),
                    float(parameter.max or 0.0),
                    step=float(parameter.step) if parameter.step else None,
                    log=parameter.log,
                )
        return self._space.complete(params)

    def _ask_for(self, params: Params, origin: Origin) -> Proposal:
        self._copy.enqueue_trial(self._searched(params))
        copy = self._copy.ask()
        self._suggest(copy)
        return self._hand_out(copy, params, origin)

    def _hand_out(self, copy: optuna.Trial, params: Params, origin: Origin) -> Proposal:
        """Make a trial of the study in the database of it.

        In one transaction, where asking and suggesting would take two for each parameter: the
        machine waits meanwhile.
        """
        import optuna
        from optuna.trial import TrialState

        # What is measured is `params`: a baseline may hold values of workload parameters that
        # the study pins elsewhere.
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=copy.params,
            distributions=copy.distributions,
            user_attrs={ORIGIN: origin},
        )
        storage = self._study._storage  # `Study.add_trial` does not tell the trial's number
        trial = optuna.Trial(
            self._study, storage.create_new_trial(self._study._study_id, template_trial=template)
        )
        self._asked.add(self._space.canonical(params))
        return Proposal(trial.number, params, origin, trial, copy)

    def _searched(self, params: Params) -> Params:
        return {name: params[name] for name in self._space.searched}

    def _note(self, key: tuple[object, ...], number: int, value: float | None) -> None:
        self._measured[key] = (number, value)
        if value is not None and (self._worst is None or value < self._worst):
            self._worst = value

    def _tell_figure(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        value: float,
        violated: Mapping[str, float],
    ) -> None:
        self._constrain(trial, violated)
        study.tell(trial, value)

    def _constrain(self, trial: optuna.Trial, violated: Mapping[str, float]) -> None:
        trial.set_constraint("ran", -1.0)
        for name in self._figure_constraints:
            trial.set_constraint(name, violated.get(name, -1.0))

    def _tell_penalty(self, study: optuna.Study, trial: optuna.Trial) -> None:
        penalty = self._worst if self._worst is not None else 0.0
        trial.set_user_attr(PENALTY, penalty)
        trial.set_constraint("ran", 1.0)
        for name in self._figure_constraints:
            trial.set_constraint(name, 0.0)
        study.tell(trial, penalty)

    def _draw_valid(self, attempts: int = 2000) -> Params | None:
        size = self._space.size()
        if size is not None and size <= 4 * attempts:
            free = [p for p in self._space.enumerate() if self._is_free(p)]
            return self._random.choice(free) if free else None
        for _ in range(attempts):
            params: Params = dict(self._space.pinned)
            for name in self._space.searched:
                params[name] = _draw(self._space.parameters[name], self._random)
            params = self._space.complete(params)
            if self._is_free(params):
                return params
        return None

    def _is_free(self, params: Params) -> bool:
        return self._space.canonical(params) not in self._asked and not self._space.violations(
            params, self._names
        )


def _finished() -> tuple[optuna.trial.TrialState, ...]:
    from optuna.trial import TrialState

    return (TrialState.COMPLETE, TrialState.PRUNED)


def _draw(parameter: Parameter, rng: random.Random) -> Scalar:
    """A uniform draw from a parameter's range (log-uniform where it says so)."""
    if parameter.kind == "categorical":
        return rng.choice(list(parameter.values or ()))
    low, high = float(parameter.min or 0), float(parameter.max or 0)
    value = (
        math.exp(rng.uniform(math.log(low), math.log(high)))
        if parameter.log
        else (rng.uniform(low, high))
    )
    if parameter.kind == "float" and not parameter.step:
        return value
    step = float(parameter.step or 1)
    steps = min(round((value - low) / step), math.floor((high - low) / step + 1e-9))
    snapped = low + steps * step
    return int(snapped) if parameter.kind == "int" else snapped
