"""Iterates over what the user's function returns, epoch after epoch."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autotune.exceptions import InputError
from autotune.targets.base import Batch, BuildContext, Loader
from autotune.targets.python.counting import Counted, count
from autotune.targets.python.functions import conditions_met
from autotune.trial import FailedClip, Params, StageStats

if TYPE_CHECKING:
    from autotune.targets.python.target import Settings

_log = logging.getLogger("autotune.python")

_PACKAGES = ("torch", "numpy", "av", "spdl", "decord", "torchcodec", "cv2")
"""Their versions are recorded where the function has loaded them."""

_END = object()


class PythonLoader(Loader):
    """The user's iterable as a loader without an end."""

    def __init__(
        self,
        context: BuildContext,
        settings: Settings,
        call: Callable[[], Any],
        count_batch: Callable[[Any], Any] | None,
    ) -> None:
        """Call the function.

        Raises:
            InputError: if it returns nothing that can be iterated over.
        """
        self._params = dict(context.spec.params)
        self._settings = settings
        self._call = call
        self._count = count_batch
        self._trains = context.spec.consumer.kind == "train_step"
        self._stack = contextlib.ExitStack()
        self._closed = False
        self._sizes: tuple[int, int] | None = None
        self._batches = self._restarts = 0
        self._busy = self._restarting = 0.0
        self._restarted = False
        self._told: list[str] = []
        self._ended_at: float | None = None
        self._iterator: Iterator[Any] | None = None
        self._begun: Iterator[Any] | None = None
        """The first pass, where no batch of it was taken yet."""
        self._iterable = self._make()

    def _make(self) -> Any:
        """Call the function, and begin to iterate; what it returns is closed with this loader.

        A second iterator would start the workers of a DataLoader once more, and one of an
        iterable with a state might skip what the first one took.
        """
        made = self._call()
        path = self._settings.function
        if inspect.iscoroutine(made) or hasattr(made, "__aiter__"):
            if inspect.iscoroutine(made):
                made.close()
            raise InputError(
                f"target.function: {path} is asynchronous. Give a function that returns an "
                "ordinary iterable of batches"
            )
        if hasattr(made, "__enter__") and hasattr(made, "__exit__"):
            made = self._stack.enter_context(made)
        elif callable(getattr(made, "close", None)):
            self._stack.callback(made.close)
        try:
            self._begun = iter(made)
        except TypeError as error:
            raise InputError(
                f"target.function: {path} returned {_described(made)}, which cannot be iterated "
                "over. Return an iterable of batches: a DataLoader, a list, or use `yield`"
            ) from error
        return made

    @property
    def prefetched_batches(self) -> int:
        """Of a `torch.utils.data.DataLoader`, or what says the same of itself, the batches that
        its workers keep ready; an iterable may also say so itself, by this name."""
        own = getattr(self._iterable, "prefetched_batches", None)
        if isinstance(own, int):
            return own
        workers = getattr(self._iterable, "num_workers", None)
        factor = getattr(self._iterable, "prefetch_factor", None)
        return workers * factor if isinstance(workers, int) and isinstance(factor, int) else 0

    def __iter__(self) -> Iterator[Batch]:
        while not self._closed:
            self._iterator = self._next_pass()
            number = 0
            while (made := self._next()) is not _END:
                number += 1
                batch = self._batch(made)
                del made
                yield batch
                del batch
            if not self._closed:
                self._again(number)

    def _next_pass(self) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        return iter(self._iterable) if begun is None else begun

    def _next(self) -> object:
        """The next batch as the user makes it, or `_END`."""
        if self._iterator is None:  # closed
            return _END
        asked = time.monotonic()
        made: object = next(self._iterator, _END)
        now = time.monotonic()
        if made is not _END:
            self._busy += now - asked
            self._batches += 1
            if self._ended_at is not None:
                self._restarting += now - self._ended_at
                self._ended_at = None
        return made

    def _again(self, number: int) -> None:
        """The iterable has ended after ``number`` batches: prepare to go through it once more."""
        self._ended_at = time.monotonic()
        if number == 0:
            raise InputError(
                f"target.function: what {self._settings.function} returned ended without a batch. "
                "Look at its data and at drop_last: fewer samples than a batch give none"
            )
        self._restarts += 1
        self._restarted = True
        self._tell(
            "the iterable ended and was iterated again; the stage `restart` says how often",
            f"the iterable ended after {number} batches and is iterated again, which the stage "
            "`restart` counts and the figures contain. Use more data, or an iterable without an "
            "end, if an epoch in production is longer",
        )
        if self._iterator is self._iterable:  # a generator, or an iterator: it is used up
            self._stack.close()
            self._iterable = self._make()

    def _batch(self, made: object) -> Batch:
        counted = self._counted(made)
        sizes = (counted.samples, counted.frames)
        if self._sizes not in (None, sizes):
            self._tell(
                "batches changed in size; each was counted as it is",
                f"batches change in size: {self._sizes} samples and frames, then {sizes}; each is "
                "counted as it is. If only the last one of an epoch is smaller, drop_last=True "
                "makes them even",
            )
        self._sizes = sizes
        if not self._trains:  # what a foreign tensor means is a guess, so none is handed on
            return Batch(None, None, *sizes, unique_frames=0, decoded_frames=0)
        if not hasattr(counted.video, "to") or not hasattr(counted.label, "to"):
            raise InputError(
                "target.consumer: train_step needs batches with a video tensor of five dimensions "
                "(1 or 3 colour channels) and a tensor of one whole number a sample. Return those, "
                "or use consumer: {kind: none} or {kind: paced}"
            )
        return Batch(counted.video, counted.label, *sizes, unique_frames=0, decoded_frames=0)

    def _counted(self, made: object) -> Counted:
        fixed = self._settings.count
        if isinstance(fixed, tuple):
            return Counted(*fixed)
        if self._count is None:
            return count(made, self._settings.frames_per_sample)
        answer = self._count(made)
        pair = tuple(answer) if isinstance(answer, tuple | list) else ()
        if len(pair) != 2 or not all(isinstance(n, int) and n >= 0 for n in pair) or pair[0] < 1:
            raise InputError(
                f"target.count: {fixed} returned {answer!r}. Return (samples, frames) of the "
                "batch, two whole numbers"
            )
        return Counted(*pair)

    def readback(self) -> Params:
        """What the function was called with, overruled by what its iterable says of itself: a
        method ``readback()`` or a mapping ``parameters``, of some or all of the parameters. One
        that is off was not passed, and stands as the search space has it."""
        said = getattr(self._iterable, "readback", None)
        said = said() if callable(said) else getattr(self._iterable, "parameters", None)
        told = dict(said) if isinstance(said, Mapping) else {}
        met = conditions_met(self._settings.conditions, self._params)
        passed = [name for name in self._params if met.get(name, True)]
        return self._params | {name: told[name] for name in passed if name in told}

    def stage_stats(self) -> list[StageStats]:
        stages = [StageStats(name="next", tasks=self._batches, busy_seconds=self._busy)]
        if self._restarted:
            again = StageStats(name="restart", tasks=self._restarts, busy_seconds=self._restarting)
            stages.append(again)
        self._batches = self._restarts = 0
        self._busy = self._restarting = 0.0
        return stages

    def failed(self) -> tuple[int, list[FailedClip]]:
        """None: a loader of somebody else's raises, or hides, what fails in it."""
        return 0, []

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._iterator = self._begun = None  # a DataLoader ends its workers with its iterator
            self._stack.close()
            self._iterable = ()

    def warnings(self) -> list[str]:
        return list(self._told)

    def _tell(self, summary: str, text: str) -> None:
        """Warn of a thing once: ``text`` goes to the log, ``summary`` with the figures."""
        if summary not in self._told:
            self._told.append(summary)
            _log.warning("%s", text)

    def versions(self) -> dict[str, str]:
        found = {}
        for name in _PACKAGES:
            version = getattr(sys.modules.get(name), "__version__", None)
            if version is not None:
                found[name] = str(version)
        return found


def _described(value: object) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"
