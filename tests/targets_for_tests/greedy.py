"""A synthetic target that takes memory until the kernel ends it; `greedy:Greedy`.

One thread takes none; with two its own process takes it, with three a child of it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

from synthetic import Steady, SyntheticLoader

from autotune.targets.base import Batch, BuildContext, Loader

BLOCK = 8 * 2**20


def take_all() -> None:
    """Hold more and more, every page of it touched."""
    held = []
    while True:
        held.append(b"x" * BLOCK)


class GreedyLoader(SyntheticLoader):
    """Delivers ten batches before it takes what there is."""

    def __init__(self, context: BuildContext) -> None:
        super().__init__(context)
        self._taken_by = {2: "worker", 3: "child"}.get(context.spec.params["num_threads"])
        self._limits = dict(context.spec.settings.get("limits", {}))

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(super().__iter__()):
            if number == 10:
                self._take()
            yield batch

    def _take(self) -> None:
        if self._taken_by is None:
            return
        for file, limit in self._limits.items():
            Path(file).write_text(str(limit))
        if self._taken_by == "worker":
            take_all()
        child = multiprocessing.get_context("fork").Process(target=take_all)
        child.start()
        child.join()
        raise RuntimeError(f"a child of the loader ended with {child.exitcode}")


class Greedy(Steady):
    """See the module."""

    name = "greedy"
    needs_data = False

    class Settings(Steady.Settings):
        """``limits``: files of a control group to write, with their contents, before."""

        limits: dict[str, int] = {}  # noqa: RUF012 # pydantic copies it

    def build(self, context: BuildContext) -> Loader:
        return GreedyLoader(context)
