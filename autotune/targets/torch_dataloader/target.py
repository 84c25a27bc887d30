"""The target's entry point; imports nothing heavy, as its parameters are read everywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from autotune.exceptions import InputError, UnsupportedError
from autotune.targets.base import BuildContext, Loader, Target
from autotune.targets.clips import clips_of
from autotune.targets.torch_dataloader.params import Params, Settings
from autotune.targets.validation import validated
from autotune.trial import Delivered, TrialSpec, UnavailableValue
from autotune.trial import Params as ParamValues

_LOADS_FFMPEG = ("spdl", "torchcodec")
"""Decoders that look for FFmpeg's libraries by their plain names when the process starts."""


class TorchDataLoader(Target):
    """sampler -> workers (fetch, decode, scale, collate) -> queue -> transform, on PyTorch."""

    name: ClassVar[str] = "torch_dataloader"
    Params: ClassVar[type[BaseModel]] = Params
    Settings: ClassVar[type[BaseModel]] = Settings

    def environment(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, str]:
        from autotune.media.native import library_environment

        checked = validated(Params, params, "params")
        fixed = validated(Settings, settings, "settings")
        if checked.decoder in _LOADS_FFMPEG:
            return library_environment(fixed.ffmpeg, "cpu")
        try:
            # The same for every decoder: processes that are to be compared start alike.
            return library_environment("bundled", "cpu")
        except UnsupportedError:
            return {}

    def unavailable(
        self, params: ParamValues, settings: Mapping[str, Any]
    ) -> list[UnavailableValue]:
        """The decoders that are not installed, and what needs a GPU or a second core."""
        from autotune.media.decoders import why_unavailable

        missing = [
            UnavailableValue(parameter="decoder", value=name, reason=reason)
            for name, reason in why_unavailable().items()
        ]
        no_gpu = _no_gpu()
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

    def build(self, context: BuildContext) -> Loader:
        """Build and start the loader of one rank.

        The process must have been started with `environment`. Unless workers are forked, the
        module that was started as ``__main__`` is imported again in each of them, as
        multiprocessing does: it should import nothing heavy at its top.
        """
        spec = context.spec
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        _check(params, settings)
        manifest = clips_of(spec)
        from autotune.targets.torch_dataloader.build import build

        return build(
            params,
            settings,
            manifest,
            spec.manifest,
            seed=spec.seed,
            rank=context.rank,
            world_size=context.world_size,
        )

    def expected(self, spec: TrialSpec) -> Delivered | None:
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        return Delivered(
            shape=[3, settings.num_frames, *settings.frame_size],
            dtype=settings.dtype,
            device=params.transform_device,
            frames_per_sample=settings.num_frames,
        )

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        from autotune.targets.torch_dataloader.versions import loaded_versions

        checked = validated(Params, params, "params")
        return {"libraries": loaded_versions(checked.decoder)}


_ONE_CORE = "this process may run on one core only"


def _check(params: Params, settings: Settings) -> None:
    """Refuse what this machine or these settings leave without effect.

    Raises:
        UnsupportedError, InputError: with the remedy.
    """
    sends = params.num_workers > 0 and params.transform_device == "cpu"
    if settings.dtype == "uint8" and sends and params.wire_dtype != "uint8":
        raise InputError(
            "wire_dtype: float32 has no effect with the setting dtype: uint8, which hands over "
            "bytes; fix wire_dtype: uint8 in the experiment's target"
        )
    no_gpu = _no_gpu() if params.pin_memory or params.transform_device == "cuda" else None
    if no_gpu is not None:
        key = "pin_memory: true" if params.pin_memory else "transform_device: cuda"
        raise UnsupportedError(f"{key}: {no_gpu}")
    if params.worker_affinity != "none" and len(os.sched_getaffinity(0)) < 2:
        raise UnsupportedError(
            f"worker_affinity: {params.worker_affinity}: {_ONE_CORE}; use worker_affinity: none"
        )


def _no_gpu() -> str | None:
    """Why torch has no GPU to hand batches to, or None where it has."""
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"torch {torch.__version__} reaches no CUDA device here; install a CUDA build of torch "
        "and NVIDIA's driver (`autotune doctor` shows what is missing)"
    )
