"""The target's entry point; imports nothing heavy, as its parameters are read everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from autotune.targets import decoding
from autotune.targets.base import BuildContext, Loader, Target
from autotune.targets.clips import clips_of
from autotune.targets.frames.params import Params, Settings
from autotune.targets.torch_dataloader.requirements import check, unavailable_values
from autotune.targets.validation import validated
from autotune.trial import Delivered, TrialSpec, UnavailableValue
from autotune.trial import Params as ParamValues

if TYPE_CHECKING:
    from autotune.manifest import ClipKind, Manifest


class Frames(Target):
    """fetch (JPEG files) -> decode -> scale -> batch, by a DataLoader or by SPDL's threads."""

    name: ClassVar[str] = "frames"
    reads: ClassVar[ClipKind] = "frames"
    Params: ClassVar[type[BaseModel]] = Params
    Settings: ClassVar[type[BaseModel]] = Settings

    def environment(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, str]:
        validated(Params, params, "params")
        validated(Settings, settings, "settings")
        return decoding.environment()

    def unavailable(
        self, params: ParamValues, settings: Mapping[str, Any]
    ) -> list[UnavailableValue]:
        """What needs a GPU or a second core, where there is none."""
        return unavailable_values()

    def build(self, context: BuildContext) -> Loader:
        """Build and start the loader of one rank; see `TorchDataLoader.build` for its workers."""
        spec = context.spec
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        manifest = clips_of(spec, "frames")
        if params.reader == "spdl_threads":
            return _spdl_threads(params, settings, manifest, context)
        check(params, settings)
        from autotune.targets.frames.dataset import FrameClips
        from autotune.targets.frames.loaders import FramesDataLoader
        from autotune.targets.torch_dataloader.build import build

        return build(
            params.for_torch(),
            settings.for_torch(),
            manifest,
            spec.manifest,
            seed=spec.seed,
            rank=context.rank,
            world_size=context.world_size,
            dataset=FrameClips,
            made=FramesDataLoader,
        )

    def expected(self, spec: TrialSpec) -> Delivered | None:
        params = validated(Params, spec.params, "params")
        settings = validated(Settings, spec.settings, "settings")
        return settings.delivered(on_gpu=params.transform_device == "cuda")

    def machine(self, params: ParamValues, settings: Mapping[str, Any]) -> dict[str, Any]:
        from autotune.targets.frames.loaders import library_versions

        return {"libraries": library_versions()}


def _spdl_threads(
    params: Params, settings: Settings, manifest: Manifest, context: BuildContext
) -> Loader:
    from autotune.targets.frames.loaders import FramesSpdlLoader
    from autotune.targets.frames.pipeline import build

    spec, rank, world_size = context.spec, context.rank, context.world_size
    built = build(params, settings, manifest, seed=spec.seed, rank=rank, world_size=world_size)
    epoch = len(manifest.order(spec.seed, 0, rank, world_size))
    return FramesSpdlLoader(built, params.gc_policy, epoch)
