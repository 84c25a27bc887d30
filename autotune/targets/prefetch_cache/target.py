"""The target's entry point; imports nothing heavy, as its parameters are read everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from autotune.exceptions import InputError, UnsupportedError
from autotune.targets.base import BuildContext, Loader, Target
from autotune.targets.clips import clips_of
from autotune.targets.prefetch_cache.params import Params, Settings
from autotune.targets.storage_latency import fingerprint
from autotune.targets.torch_dataloader.target import TorchDataLoader
from autotune.targets.validation import validated
from autotune.trial import Delivered, TrialSpec, UnavailableValue
from autotune.trial import Params as ParamValues

_ON_GPU = {"cache_device": "cuda", "pin_memory": True, "transform_device": "cuda"}
"""Values that need a GPU."""


class PrefetchCache(Target):
    """known order -> threads (fetch, decode, scale, collate) -> cache -> transform.

    The data set, its decoders and their needs are those of `torch_dataloader`.
    """

    name: ClassVar[str] = "prefetch_cache"
    Params: ClassVar[type[BaseModel]] = Params
    Settings: ClassVar[type[BaseModel]] = Settings

    def environment(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, str]:
        checked = validated(Params, params, "params")
        return TorchDataLoader().environment({"decoder": checked.decoder}, settings)

    def unavailable(
        self, params: ParamValues, settings: Mapping[str, Any]
    ) -> list[UnavailableValue]:
        """The decoders that are not installed, and what needs a GPU."""
        from autotune.media.decoders import why_unavailable

        missing = [
            UnavailableValue(parameter="decoder", value=name, reason=reason)
            for name, reason in why_unavailable().items()
        ]
        no_gpu = _no_gpu()
        if no_gpu is not None:
            missing += [
                UnavailableValue(parameter=name, value=value, reason=no_gpu)
                for name, value in _ON_GPU.items()
            ]
        return missing

    def build(self, context: BuildContext) -> Loader:
        """Build and start the loader of one rank. The process must have been started with
        `environment`."""
        spec = context.spec
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        _check(params, settings)
        manifest = clips_of(spec)
        from autotune.targets.prefetch_cache.build import build

        return build(
            params,
            settings,
            manifest,
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
            device="cuda" if "cuda" in (params.cache_device, params.transform_device) else "cpu",
            frames_per_sample=settings.num_frames,
        )

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        from autotune.targets.torch_dataloader.versions import loaded_versions

        checked = validated(Params, params, "params")
        fixed = validated(Settings, settings, "settings")
        return {
            "libraries": loaded_versions(checked.decoder),
            **fingerprint(fixed.emulated_latency_ms),
        }


def _check(params: Params, settings: Settings) -> None:
    """Refuse what this machine or these settings leave without effect.

    Raises:
        UnsupportedError, InputError: with the remedy.
    """
    on_host = params.transform_device == "cpu"
    if settings.dtype == "uint8" and on_host and params.wire_dtype != "uint8":
        raise InputError(
            "wire_dtype: float32 has no effect with the setting dtype: uint8, which hands over "
            "bytes; fix wire_dtype: uint8 in the experiment's target"
        )
    asked = [name for name, value in _ON_GPU.items() if getattr(params, name) == value]
    no_gpu = _no_gpu() if asked else None
    if no_gpu is not None:
        value = getattr(params, asked[0])
        raise UnsupportedError(f"{asked[0]}: {'true' if value is True else value}: {no_gpu}")


def _no_gpu() -> str | None:
    """Why torch has no GPU to put batches on, or None where it has."""
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"torch {torch.__version__} reaches no CUDA device here; install a CUDA build of torch "
        "and NVIDIA's driver (`autotune doctor` shows what is missing)"
    )
