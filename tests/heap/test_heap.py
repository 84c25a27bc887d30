"""What grows in a process and what holds it, on planted leaks; and on a heap without one."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterator
from importlib.machinery import FileFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from autotune import heap
from autotune.heap import HeapCensus
from autotune.trial import Growing

pytestmark = pytest.mark.long

BIG = 64 * 1024
"""Bytes of one object that is kept."""

LOOKS, KEPT_A_LOOK = 6, 4


class Retain:
    """A transform that keeps what it saw."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def __call__(self, made: Any) -> Any:
        self.kept.append(made)
        return made


class Slotted:
    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}


class Filled:
    def __init__(self) -> None:
        self.numbers: list[int] = []


class OnTheClass:
    kept: list[Any] = []  # noqa: RUF012 (that is the leak)


MODULE_KEPT: deque[Any] = deque()


@functools.cache
def cached(number: int) -> bytes:
    return bytes(BIG) + str(number).encode()


def closure() -> Callable[[Any], None]:
    kept: list[Any] = []

    def add(made: Any) -> None:
        kept.append(made)

    return add


def tensor(number: int) -> torch.Tensor:
    return torch.zeros(4, BIG // 16, dtype=torch.float32)


def looked(step: Callable[[int], object], looks: int = LOOKS) -> list[Growing]:
    """What the last of some looks tells, with some steps between each two."""
    census, told = HeapCensus(), []
    for number in range(looks):
        for part in range(KEPT_A_LOOK):
            step(number * KEPT_A_LOOK + part)
        told = census.look(10.0 * number)
    return told


@pytest.fixture(scope="module")
def told() -> dict[str, Growing]:
    """Many leaks at once, by the kind of what grows."""
    retain, slotted, add, filled = Retain(), Slotted(), closure(), Filled()

    def leak(number: int) -> None:
        retain(tensor(number))
        whole = torch.zeros(BIG, dtype=torch.uint8)
        add(whole)
        retain(whole[: BIG // 2])
        MODULE_KEPT.append(np.zeros((2, BIG), np.uint8))
        OnTheClass.kept.append(bytearray(BIG))
        slotted.kept[number] = "x" * (BIG + number)
        cached(number)
        filled.numbers.extend(range(30_000))

    found = {growing.kind: growing for growing in looked(leak)}
    MODULE_KEPT.clear()
    OnTheClass.kept.clear()
    cached.cache_clear()
    return found


def test_tensors_that_a_transform_retains_are_named_with_shape_size_age_and_holder(
    told: dict[str, Growing],
) -> None:
    found = told["torch.Tensor [4, 4096] float32 cpu"]
    assert [h.partition(" of ")[0] for h in found.holders] == [f"{__name__}.Retain.kept (list"]
    assert found.count == LOOKS * KEPT_A_LOOK
    assert found.grown_count == (LOOKS - 1) * KEPT_A_LOOK
    assert found.grown_bytes == found.grown_count * BIG
    assert found.seconds == 10.0 * (LOOKS - 1)
    assert found.age_seconds == pytest.approx(5.0 * (LOOKS - 1))


@pytest.mark.parametrize(
    ("kind", "holder"),
    [
        ("numpy.ndarray [2, 65536] uint8", f"{__name__}.MODULE_KEPT (deque"),
        ("bytearray", f"{__name__}.OnTheClass.kept (list"),
        ("str", f"{__name__}.Slotted.kept (dict"),
        ("bytes", f"the lru_cache of {__name__}.cached"),
        ("list", f"{__name__}.Filled.numbers"),
    ],
)
def test_what_holds_it_has_a_name(told: dict[str, Growing], kind: str, holder: str) -> None:
    assert told[kind].holders[0].startswith(holder)


def test_views_of_one_storage_count_once(told: dict[str, Growing]) -> None:
    found = [g for name, g in told.items() if "uint8 cpu" in name]
    assert sum(g.count for g in found) == LOOKS * KEPT_A_LOOK
    holders = {h.partition(" (")[0] for g in found for h in g.holders}
    assert holders <= {f"{__name__}.closure.<locals>.add.kept", f"{__name__}.Retain.kept"}


def batches() -> Iterator[torch.Tensor]:
    while True:
        yield torch.zeros(8, BIG // 32, dtype=torch.float32)


def test_a_heap_that_holds_a_changing_number_of_batches_is_not_accused() -> None:
    queue: deque[torch.Tensor] = deque(maxlen=9)
    cache: dict[int, torch.Tensor] = {}
    made = batches()

    def step(number: int) -> None:
        queue.append(next(made))
        if number % 3 == 0:
            queue.popleft()
        if number < 2 * KEPT_A_LOOK:  # fills at the beginning and then holds
            cache[number] = next(made)

    assert looked(step, 6) == []


def names_of_files(number: int) -> set[str]:
    return {f"module_{number}_{n}.py" for n in range(5_000)}


def test_the_import_systems_lists_of_files_are_not_accused(tmp_path: Path) -> None:
    finders = []

    def step(number: int) -> None:
        finder = FileFinder(str(tmp_path / str(number)))
        finder._path_cache = names_of_files(number)  # type: ignore[attr-defined]
        finders.append(finder)

    assert [g for g in looked(step) if g.kind == "set"] == []


def test_other_sets_are() -> None:
    retain = Retain()
    told = looked(lambda number: retain(names_of_files(number)))
    assert [g.holders[0].partition(" (")[0] for g in told if g.kind == "set"] == [
        f"{__name__}.Retain.kept"
    ]


class Named(BaseModel):
    name: str = ""
    number: int = 0


def test_models_are_told_by_their_own_type_and_not_by_the_sets_in_them() -> None:
    retain = Retain()
    found = {
        growing.kind: growing
        for growing in looked(lambda n: retain([Named(number=n) for _ in range(1_000)]))
    }
    assert "set" not in found
    assert found[f"{__name__}.Named"].grown_count == (LOOKS - 1) * KEPT_A_LOOK * 1_000


def test_a_census_holds_nothing_of_what_it_saw() -> None:
    census = HeapCensus()
    retain = Retain()
    census.look(0.0)
    for number in range(5):
        retain(tensor(number))
        census.look(1.0 + number)
    watched = torch.zeros(1000)
    census.look(9.0)
    referrers = [r for r in gc.get_referrers(watched) if isinstance(r, (list, dict))]
    assert [r for r in referrers if "watched" not in r] == []


def _leak_in_a_worker(ready: Any, done: Any) -> None:
    retain = Retain()
    while not done.wait(0.02):
        retain(torch.zeros(16 * 1024, dtype=torch.float32))
    ready.set()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_is_looked_into(tmp_path: Path, method: str) -> None:
    """A forked one joins by itself; one that is spawned, as it calls `join`."""
    context = multiprocessing.get_context(method)
    ready, done = context.Event(), context.Event()
    target = _leak_in_a_worker if method == "fork" else _join_and_leak
    heap.locate(str(tmp_path), 0.1)
    try:
        worker = context.Process(target=target, args=(ready, done), name="leaky worker")
        worker.start()
        found: list[Growing] = []
        waiting = threading.Event()
        for _ in range(600):
            found = [g for g in heap.gather(str(tmp_path)) if "leaky worker" in g.where]
            if any("Tensor" in g.kind for g in found):
                break
            waiting.wait(0.1)
        done.set()
        worker.join(30)
    finally:
        heap.leave()
    (tensors,) = [g for g in found if g.kind == "torch.Tensor [16384] float32 cpu"]
    assert "Retain.kept (list of " in tensors.holders[0]
    assert heap.gather(str(tmp_path)) == [] or "leaky worker" not in str(heap.gather(str(tmp_path)))


def _join_and_leak(ready: Any, done: Any) -> None:
    heap.join(0)
    _leak_in_a_worker(ready, done)
