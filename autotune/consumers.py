"""What takes the batches at the end of a pipeline: nothing, an emulated accelerator, a model.

A consumer runs in the measuring thread. ``busy_seconds`` is the time it worked; the rest of the
wall time it waited for the loader, and the share of the former is accelerator utilization.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any, Protocol

from autotune.exceptions import InputError, UnsupportedError
from autotune.trial import ConsumerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.targets.base import Batch

# The published example's training settings.
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 0.01
_MAX_GRAD_NORM = 1.0

# A sleep wakes up late by the kernel's timer slack and scheduling, about 0.1 ms: the last part
# of a pace is spun, a twentieth of it at most, so that pacing costs no core.
_SPIN_SECONDS = 0.0002
_SPIN_SHARE = 0.05


class Consumer(Protocol):
    """What every consumer offers."""

    @property
    def busy_seconds(self) -> float:
        """Seconds spent in `consume` so far."""

    @property
    def details(self) -> dict[str, str]:
        """How the work is done, as read from what was built (e.g. the precision)."""

    def consume(self, batch: Batch) -> None:
        """Take one batch; returns when it is done with it."""

    def close(self) -> None:
        """Release what the consumer holds. Idempotent."""


def make_consumer(spec: ConsumerSpec, device: str) -> Consumer:
    """Build the consumer that ``spec`` asks for.

    Args:
        spec: kind and settings.
        device: where a model trains: ``cpu`` or ``cuda:0``.

    Raises:
        InputError: if the model's import path names nothing that can be called.
        UnsupportedError: if a package that the model needs is not installed.
    """
    if spec.kind == "paced":
        return PacedConsumer(spec.ms_per_step, spec.ms_per_sample)
    if spec.kind == "train_step":
        return TrainStepConsumer(spec, device)
    return NoneConsumer()


class NoneConsumer:
    """Drops every batch: what is measured is the loader alone."""

    busy_seconds = 0.0

    @property
    def details(self) -> dict[str, str]:
        return {}

    def consume(self, batch: Batch) -> None:
        """Drop the batch."""

    def close(self) -> None:
        """Nothing to release."""


class PacedConsumer:
    """Sleeps as long as an accelerator would work.

    Args:
        ms_per_step: milliseconds a batch takes whatever its size.
        ms_per_sample: milliseconds each of its samples adds.
    """

    def __init__(self, ms_per_step: float, ms_per_sample: float) -> None:
        self._step = ms_per_step / 1000
        self._sample = ms_per_sample / 1000
        self.busy_seconds = 0.0

    @property
    def details(self) -> dict[str, str]:
        return {}

    def consume(self, batch: Batch) -> None:
        start = time.perf_counter()
        seconds = self._step + batch.samples * self._sample
        sleep = seconds - min(_SPIN_SECONDS, _SPIN_SHARE * seconds)
        if sleep > 0:
            time.sleep(sleep)
        while time.perf_counter() - start < seconds:
            pass
        self.busy_seconds += time.perf_counter() - start

    def close(self) -> None:
        """Nothing to release."""


class TrainStepConsumer:
    """One training step a batch, as the published example makes it.

    Forward under bf16 autocast, cross entropy, backward, gradient norm clipped at 1, fused
    AdamW, and the loss read back: reading it waits for the device, so that a step's time is
    the device's and not the launch's.
    """

    def __init__(self, spec: ConsumerSpec, device: str) -> None:
        try:
            import torch
        except ModuleNotFoundError as error:
            raise _missing("torch", spec.model) from error
        self._torch = torch
        self._device = torch.device(device)
        factory = load_factory(spec.model)
        try:
            model = factory(num_classes=spec.num_classes, **spec.model_args)
        except TypeError as error:
            raise InputError(
                f"consumer.model: {spec.model} cannot be called with num_classes="
                f"{spec.num_classes} and model_args={spec.model_args} ({error}); accepted is a "
                "function that takes num_classes and the keys of consumer.model_args"
            ) from error
        if not isinstance(model, torch.nn.Module):
            raise InputError(
                f"consumer.model: {spec.model} made a {type(model).__name__}; accepted is a "
                "function that returns a torch.nn.Module"
            )
        self._num_classes = spec.num_classes
        self._model = model.to(device=self._device, dtype=torch.float32).train()
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True
        )
        self._bf16 = self._device.type == "cuda" or _cpu_has_bf16()
        self.busy_seconds = 0.0
        self.last_loss = float("nan")

    @property
    def details(self) -> dict[str, str]:
        return {
            "precision": "bf16 autocast" if self._bf16 else "fp32",
            "train_device": str(next(self._model.parameters()).device),
            "torch": str(self._torch.__version__),
        }

    def consume(self, batch: Batch) -> None:
        torch = self._torch
        start = time.perf_counter()
        # A loader may deliver a permuted view: the model gets the layout the example gives it.
        video = batch.video.to(self._device, non_blocking=True).contiguous()
        if video.dtype == torch.uint8:
            video = video.float().div_(255.0)
        label = batch.label.to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16):
            loss = torch.nn.functional.cross_entropy(self._model(video), label)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.last_loss = float(loss.item())
        self.busy_seconds += time.perf_counter() - start

    def close(self) -> None:
        """Free the model and, on a GPU, the memory that torch keeps for it."""
        if self._device.type == "cuda" and self._model is not None:
            self._model = self._optimizer = None
            self._torch.cuda.empty_cache()


def load_factory(path: str) -> Callable[..., Any]:
    """The function that ``path`` (``module:attribute``) names.

    Raises:
        InputError: if it names nothing, or nothing that can be called.
        UnsupportedError: if it lies in torchvision and that is not installed.
    """
    accepted = "accepted is module:function, e.g. autotune.models:small_r3d"
    module_name, separator, attribute = path.partition(":")
    if not (module_name and separator and attribute):
        raise InputError(f"consumer.model: {path!r} is no import path; {accepted}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name in ("torchvision", "torch"):
            raise _missing(error.name, path) from error
        raise InputError(
            f"consumer.model: {path!r}: there is no module {error.name!r}; {accepted}, "
            "in a package that is installed or on PYTHONPATH"
        ) from error
    try:
        for name in attribute.split("."):
            found = getattr(found, name)
    except AttributeError as error:
        raise InputError(
            f"consumer.model: {path!r}: the module {module_name!r} has no {attribute!r}; {accepted}"
        ) from error
    if not callable(found):
        raise InputError(
            f"consumer.model: {path!r} is a {type(found).__name__} and cannot be called; {accepted}"
        )
    factory: Callable[..., Any] = found
    return factory


def _missing(package: str, model: str) -> UnsupportedError:
    return UnsupportedError(
        f"consumer.model: {model} needs {package}, which is not installed; install the "
        f"{package} build that matches this machine's torch (`pip install {package}`), or use "
        "`model: autotune.models:small_r3d`, which needs torch alone"
    )


def _cpu_has_bf16() -> bool:
    """Whether this CPU computes in bf16; emulated, it is slower than fp32."""
    import torch

    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported()) if supported is not None else False
