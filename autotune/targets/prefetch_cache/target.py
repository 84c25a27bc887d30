"""The target's entry point; imports nothing heavy, as its parameters are read everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from autotune.exceptions import UnsupportedError
from autotune.targets import decoding
from autotune.targets.base import BuildContext, Loader, Target
from autotune.targets.clips import clips_of
from autotune.targets.prefetch_cache.params import Params, Settings
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
        fixed = validated(Settings, settings, "settings")
        return decoding.environment(checked.decoder, fixed.ffmpeg)

    def unavailable(
        self, params: ParamValues, settings: Mapping[str, Any]
    ) -> list[UnavailableValue]:
        """The decoders that are not installed, and what needs a GPU."""
        missing = decoding.missing_decoders()
        no_gpu = decoding.why_no_gpu()
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
        on_gpu = "cuda" in (params.cache_device, params.transform_device)
        return settings.delivered(on_gpu)

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        checked = validated(Params, params, "params")
        fixed = validated(Settings, settings, "settings")
        return decoding.machine(checked.decoder, fixed.emulated_latency_ms)


def _check(params: Params, settings: Settings) -> None:
    """Refuse what this machine or these settings leave without effect.

    Raises:
        UnsupportedError, InputError: with the remedy.
    """
    sends = params.transform_device == "cpu"
    decoding.check_wire(settings.dtype, params.wire_dtype, sends)
    asked = [name for name, value in _ON_GPU.items() if getattr(params, name) == value]
    no_gpu = decoding.why_no_gpu() if asked else None
    if no_gpu is not None:
        value = getattr(params, asked[0])
        raise UnsupportedError(f"{asked[0]}: {'true' if value is True else value}: {no_gpu}")
