"""Where a batch is put before anybody asks for it: host memory, page-locked memory, a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with ``change`` applied to every tensor in it.

    Mappings, lists, tuples (named ones too) and dataclasses are walked. What holds no tensor is
    returned as it is.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        parts: list[Any] = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return value
    changed = [mapped(part, change) for part in parts]
    if all(new is old for new, old in zip(changed, parts, strict=True)):
        return value
    return _rebuilt(value, changed)


def _rebuilt(value: Any, parts: list[Any]) -> Any:
    """A container or dataclass like ``value`` that holds ``parts``."""
    if isinstance(value, Mapping):
        pairs = dict(zip(value, parts, strict=True))
        return pairs if type(value) is dict else type(value)(pairs)  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    names = [field.name for field in dataclasses.fields(value)]
    return dataclasses.replace(value, **dict(zip(names, parts, strict=True)))


class Placement(Protocol):
    """Two halves: a thread places a batch ahead of time, the consumer receives it."""

    def place(self, batch: Any) -> Any:
        """Put a batch where it belongs."""

    def receive(self, placed: Any) -> Any:
        """The batch of what `place` returned, ready to be used."""


class HostPlacement:
    """Leaves a batch in host memory; page-locked where that is asked for."""

    def __init__(self, pin_memory: bool) -> None:
        self._pin_memory = pin_memory

    def place(self, batch: Any) -> Any:
        """The batch, copied to page-locked memory where that is asked for."""
        return mapped(batch, lambda tensor: tensor.pin_memory()) if self._pin_memory else batch

    def receive(self, placed: Any) -> Any:
        """The batch itself."""
        return placed


class DevicePlacement:
    """Copies a batch to a device that has no streams."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def place(self, batch: Any) -> Any:
        """The batch on the device."""
        return mapped(batch, lambda tensor: tensor.to(self._device))

    def receive(self, placed: Any) -> Any:
        """The batch itself."""
        return placed


class Copied(NamedTuple):
    """A batch on its way to a GPU."""

    batch: Any
    pinned: Any
    """What it is copied from, kept until the consumer's stream waits for the copy."""
    event: Any


class CudaPlacement:
    """Copies a batch to a GPU beside what the GPU computes.

    ``place`` pins it, starts the copy on a stream of its own and waits for nothing; ``receive``
    makes the consumer's stream wait for the copy, and the host for nothing at all.

    Args:
        device: a torch.device of type ``cuda``.
        cuda: ``torch.cuda``.
    """

    def __init__(self, device: Any, cuda: Any) -> None:
        self._device = device
        self._cuda = cuda
        self._stream = cuda.Stream(device)

    def place(self, batch: Any) -> Copied:
        """Start the copy."""
        pinned = mapped(batch, lambda tensor: tensor.pin_memory())
        with self._cuda.stream(self._stream):
            copied = mapped(pinned, lambda tensor: tensor.to(self._device, non_blocking=True))
            event = self._stream.record_event()
        return Copied(copied, pinned, event)

    def receive(self, placed: Copied) -> Any:
        """The batch, to be used on the stream that is current here."""
        stream = self._cuda.current_stream(self._device)
        stream.wait_event(placed.event)

        def lent(tensor: Any) -> Any:
            # Its memory came from the copying stream: it must not go back while this one uses it.
            tensor.record_stream(stream)
            return tensor

        return mapped(placed.batch, lent)


def placement(device: Any, pin_memory: bool) -> Placement:
    """The placement for a device (None: the host), as torch names it.

    Raises:
        RuntimeError: torch knows no such device, or has none here.
    """
    if device is None:
        return HostPlacement(pin_memory)
    import torch

    wanted = torch.device(device)
    if wanted.type == "cpu":
        return HostPlacement(pin_memory)
    if wanted.type == "cuda":
        return CudaPlacement(wanted, torch.cuda)
    return DevicePlacement(wanted)
