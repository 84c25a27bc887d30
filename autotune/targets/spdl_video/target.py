"""The target's entry point; imports nothing heavy, as its parameters are read everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from autotune.targets.base import BuildContext, Loader, Target
from autotune.targets.clips import clips_of
from autotune.targets.spdl_video.params import Params, Settings
from autotune.targets.validation import validated
from autotune.trial import Delivered, StageCeiling, TrialSpec
from autotune.trial import Params as ParamValues


class SpdlVideo(Target):
    """fetch -> disaggregate -> demux -> decode -> aggregate -> collate, on SPDL."""

    name: ClassVar[str] = "spdl_video"
    Params: ClassVar[type[BaseModel]] = Params
    Settings: ClassVar[type[BaseModel]] = Settings

    def environment(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, str]:
        from autotune.media.native import library_environment

        checked = validated(Params, params, "params")
        fixed = validated(Settings, settings, "settings")
        return library_environment(fixed.ffmpeg, checked.device)

    def build(self, context: BuildContext) -> Loader:
        """Build and start the pipeline of one rank.

        The process must have been started with `environment`. With ``process_mode: subprocess``
        the module that was started as ``__main__`` is imported again in the subprocess, as
        multiprocessing does: it should import nothing heavy at its top.
        """
        spec = context.spec
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        manifest = clips_of(spec)
        # Not at the top: SPDL loads its native libraries when it is imported.
        from autotune.targets.spdl_video.loader import SpdlLoader
        from autotune.targets.spdl_video.pipeline import build
        from autotune.targets.spdl_video.versions import require_ffmpeg

        require_ffmpeg(settings.ffmpeg)
        built = build(
            params,
            settings,
            manifest,
            spec.manifest,
            seed=spec.seed,
            rank=context.rank,
            world_size=context.world_size,
        )
        epoch = len(manifest.order(spec.seed, 0, context.rank, context.world_size))
        return SpdlLoader(built, params.gc_policy, epoch, settings.clips_per_fetch)

    def stages_alone(self, context: BuildContext) -> list[StageCeiling]:
        spec = context.spec
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        manifest = clips_of(spec)
        from autotune.targets.spdl_video.stages_alone import Alone, transfer_target
        from autotune.targets.spdl_video.versions import require_ffmpeg, require_gpu

        require_ffmpeg(settings.ffmpeg)
        if params.device == "nvdec":
            require_gpu()
        return Alone(params, settings, manifest, spec.seed).measure(
            transfer_target(params.device, spec.consumer.kind)
        )

    def expected(self, spec: TrialSpec) -> Delivered | None:
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        return settings.delivered(on_gpu=params.device == "nvdec")

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        from autotune.targets.spdl_video.versions import loaded_versions

        return {"libraries": loaded_versions()}
