"""The target's entry point; imports nothing heavy, as its parameters are read everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from autotune.targets import decoding
from autotune.targets.base import BuildContext, Loader, Target
from autotune.targets.clips import clips_of
from autotune.targets.torch_dataloader.params import Params, Settings
from autotune.targets.torch_dataloader.requirements import check, unavailable_values
from autotune.targets.validation import validated
from autotune.trial import Delivered, TrialSpec, UnavailableValue
from autotune.trial import Params as ParamValues


class TorchDataLoader(Target):
    """sampler -> workers (fetch, decode, scale, collate) -> queue -> transform, on PyTorch."""

    name: ClassVar[str] = "torch_dataloader"
    Params: ClassVar[type[BaseModel]] = Params
    Settings: ClassVar[type[BaseModel]] = Settings

    def environment(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, str]:
        checked = validated(Params, params, "params")
        fixed = validated(Settings, settings, "settings")
        return decoding.environment(checked.decoder, fixed.ffmpeg)

    def unavailable(
        self, params: ParamValues, settings: Mapping[str, Any]
    ) -> list[UnavailableValue]:
        """The decoders that are not installed, and what needs a GPU or a second core."""
        return decoding.missing_decoders() + unavailable_values()

    def build(self, context: BuildContext) -> Loader:
        """Build and start the loader of one rank.

        The process must have been started with `environment`. Unless workers are forked, the
        module that was started as ``__main__`` is imported again in each of them, as
        multiprocessing does: it should import nothing heavy at its top.
        """
        spec = context.spec
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        check(params, settings)
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
        return settings.delivered(on_gpu=params.transform_device == "cuda")

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        checked = validated(Params, params, "params")
        fixed = validated(Settings, settings, "settings")
        return decoding.machine(checked.decoder, fixed.emulated_latency_ms)
