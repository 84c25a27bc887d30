"""The target's entry point; imports nothing heavy, as its parameters are read everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from autotune.exceptions import UnsupportedError
from autotune.targets.base import BuildContext, Loader, Target
from autotune.targets.clips import clips_of
from autotune.targets.storage_latency import fingerprint
from autotune.targets.torch_dataloader.params import Params, Settings
from autotune.targets.torch_dataloader.requirements import check, unavailable_values
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
        return missing + unavailable_values()

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
        return Delivered(
            shape=[3, settings.num_frames, *settings.frame_size],
            dtype=settings.dtype,
            device=params.transform_device,
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
