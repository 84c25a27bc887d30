"""Where batches are put. CUDA's side is shown with streams that write down what is asked."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from autotune.prefetching import PrefetchLoader
from autotune.prefetching.placement import (
    CudaPlacement,
    DevicePlacement,
    HostPlacement,
    mapped,
    placement,
)

torch = pytest.importorskip("torch")


class Pair(NamedTuple):
    video: Any
    name: str


@dataclass
class Payload:
    video: Any
    labels: list[int]


def test_every_tensor_is_changed_and_nothing_else() -> None:
    one = torch.ones(2)
    value = {"a": [one, 3], "b": Pair(one, "x"), "c": (one, None), "d": Payload(one, [1])}
    changed = mapped(value, lambda tensor: tensor + 1)
    assert changed["a"][0].tolist() == [2.0, 2.0]
    assert changed["a"][1] == 3
    assert isinstance(changed["b"], Pair)
    assert changed["b"].video.tolist() == changed["c"][0].tolist() == [2.0, 2.0]
    assert changed["d"].video.tolist() == [2.0, 2.0]
    assert changed["d"].labels is value["d"].labels  # type: ignore[attr-defined]
    assert one.tolist() == [1.0, 1.0]
    plain = {"names": ["a"], "sizes": (1, 2)}
    assert mapped(plain, lambda tensor: None) is plain


def test_the_placement_fits_the_device() -> None:
    assert isinstance(placement(None, False), HostPlacement)
    assert isinstance(placement("cpu", True), HostPlacement)
    assert isinstance(placement("meta", False), DevicePlacement)
    with pytest.raises(RuntimeError, match="no_such_device"):
        placement("no_such_device", False)


def test_a_loader_hands_over_batches_on_its_device() -> None:
    with PrefetchLoader(torch.arange(6), 3, device="meta", epochs=1) as loader:
        assert [batch.device.type for batch in loader] == ["meta", "meta"]
    with PrefetchLoader(torch.arange(6), 3, shuffle=False, epochs=1) as loader:
        assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5]]


class FakeTensor(torch.Tensor):
    """Writes down what is done with it; stays on the CPU."""

    asked: list[Any]

    def pin_memory(self, *args: Any) -> FakeTensor:
        self.asked.append("pin")
        return self

    def to(self, *args: Any, **options: Any) -> FakeTensor:
        self.asked.append(("to", str(args[0]), options, FakeCuda.now))
        return self

    def record_stream(self, stream: Any) -> None:
        self.asked.append(("record", stream))


class FakeStream:
    def __init__(self, name: str, asked: list[Any]) -> None:
        self.name, self.asked = name, asked

    def record_event(self) -> str:
        self.asked.append("event recorded")
        return "event"

    def wait_event(self, event: str) -> None:
        self.asked.append((self.name, "waits for", event))


class FakeCuda:
    """``torch.cuda``, as far as it is used."""

    now = "current"

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked

    def Stream(self, device: Any) -> FakeStream:
        return FakeStream("side", self.asked)

    def current_stream(self, device: Any) -> FakeStream:
        return FakeStream("current", self.asked)

    @contextmanager
    def stream(self, stream: FakeStream) -> Any:
        FakeCuda.now = stream.name
        yield
        FakeCuda.now = "current"


def test_a_gpu_copy_runs_beside_and_is_waited_for_on_the_gpu_alone() -> None:
    asked: list[Any] = []
    tensor = torch.ones(2).as_subclass(FakeTensor)
    tensor.asked = asked
    made = CudaPlacement(torch.device("cuda:0"), FakeCuda(asked))
    placed = made.place([tensor, "name"])
    assert asked == ["pin", ("to", "cuda:0", {"non_blocking": True}, "side"), "event recorded"]
    assert placed.pinned[0] is tensor  # kept while it is copied
    asked.clear()
    batch = made.receive(placed)
    assert batch[1] == "name"
    assert asked[0] == ("current", "waits for", "event")
    assert asked[1][0] == "record"
    assert asked[1][1].name == "current"
