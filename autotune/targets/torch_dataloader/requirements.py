"""What a DataLoader's parameters ask of the machine, and of each other."""

from __future__ import annotations

import os

from autotune.exceptions import UnsupportedError
from autotune.targets import decoding
from autotune.targets.torch_dataloader.params import DataLoaderParams, DataLoaderSettings
from autotune.trial import UnavailableValue

_ONE_CORE = "this process may run on one core only"


def unavailable_values() -> list[UnavailableValue]:
    """What needs a GPU or a second core, where there is none."""
    missing = []
    no_gpu = decoding.why_no_gpu()
    if no_gpu is not None:
        missing += [
            UnavailableValue(parameter="pin_memory", value=True, reason=no_gpu),
            UnavailableValue(parameter="transform_device", value="cuda", reason=no_gpu),
        ]
    if len(os.sched_getaffinity(0)) < 2:
        missing += [
            UnavailableValue(parameter="worker_affinity", value=value, reason=_ONE_CORE)
            for value in ("spread", "reserve")
        ]
    return missing


def check(params: DataLoaderParams, settings: DataLoaderSettings) -> None:
    """Refuse what this machine or these settings leave without effect.

    Raises:
        UnsupportedError, InputError: with the remedy.
    """
    sends = params.num_workers > 0 and params.transform_device == "cpu"
    decoding.check_wire(settings.dtype, params.wire_dtype, sends)
    no_gpu = (
        decoding.why_no_gpu() if params.pin_memory or params.transform_device == "cuda" else None
    )
    if no_gpu is not None:
        key = "pin_memory: true" if params.pin_memory else "transform_device: cuda"
        raise UnsupportedError(f"{key}: {no_gpu}")
    if params.worker_affinity != "none" and len(os.sched_getaffinity(0)) < 2:
        raise UnsupportedError(
            f"worker_affinity: {params.worker_affinity}: {_ONE_CORE}; use worker_affinity: none"
        )
