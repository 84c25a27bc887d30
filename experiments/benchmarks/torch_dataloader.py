"""A torch DataLoader with PyAV, written as well as one can be.

It demuxes only what the window needs, stops decoding at the last frame it wants, converts only
the frames it keeps, and reuses one scaler a process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from autotune.manifest import Manifest
from autotune.targets.base import Batch, BuildContext, Loader
from experiments.benchmarks.competitor import (
    CompetitorLoader,
    CompetitorSettings,
    CompetitorTarget,
    endless_order,
    float_batch,
    manifest_of,
    window_packets,
)


class DataLoaderParams(BaseModel):
    """What a user of DataLoader tunes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: int = Field(2, ge=0)
    prefetch_factor: int = Field(2, ge=1)
    decoder_threads: int = Field(1, ge=0)
    """FFmpeg's threads in each decoder; 0 lets FFmpeg choose."""
    subclip_duration: float = Field(2.0, gt=0)
    batch_size: int = Field(16, ge=1)
    scale_algorithm: str = "bicubic"


class TorchDataLoader(CompetitorTarget):
    """DataLoader over clips, decoded with PyAV in its workers."""

    name: ClassVar[str] = "torch_dataloader"
    Params: ClassVar[type[BaseModel]] = DataLoaderParams

    def build(self, context: BuildContext) -> Loader:
        """Build the DataLoader; its workers start with the first batch asked for."""
        params = DataLoaderParams.model_validate(context.spec.params)
        settings = CompetitorSettings.model_validate(context.spec.settings)
        return _DataLoader(params, settings, manifest_of(context), context.spec.seed)


class _DataLoader(CompetitorLoader):
    def __init__(
        self, params: DataLoaderParams, settings: CompetitorSettings, manifest: Manifest, seed: int
    ) -> None:
        from torch.utils.data import DataLoader

        waiting = params.num_workers * params.prefetch_factor
        super().__init__(params, prefetched_batches=waiting)
        self._settings = settings
        workers: dict[str, Any] = (
            {"prefetch_factor": params.prefetch_factor} if params.num_workers else {}
        )
        self._iterator: Any = iter(
            DataLoader(
                _Clips(manifest, params, settings),
                batch_sampler=_EndlessBatches(manifest, seed, params.batch_size),
                num_workers=params.num_workers,
                **workers,
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the seeded order."""
        while self._iterator is not None:
            video, label, decoded = next(self._iterator)
            yield float_batch(video, label, self._settings, int(decoded.sum()))

    def close(self) -> None:
        """Letting go of the iterator ends the workers."""
        self._iterator = None


class _EndlessBatches:
    """A batch sampler over epoch after epoch."""

    def __init__(self, manifest: Manifest, seed: int, size: int) -> None:
        self._manifest, self._seed, self._size = manifest, seed, size

    def __iter__(self) -> Iterator[list[int]]:
        order = endless_order(self._manifest, self._seed)
        while True:
            yield [next(order) for _ in range(self._size)]


class _Clips:
    """A map-style data set: index -> (float video [3, T, H, W], label, packets decoded)."""

    def __init__(
        self, manifest: Manifest, params: DataLoaderParams, settings: CompetitorSettings
    ) -> None:
        self._manifest, self._params, self._settings = manifest, params, settings
        self._scaler: Any = None

    def __len__(self) -> int:
        return len(self._manifest)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        import numpy as np
        import torch
        from av.video.reformatter import VideoReformatter

        if self._scaler is None:
            self._scaler = VideoReformatter()
        options, settings = self._params, self._settings
        height, width = settings.frame_size
        stream, packets, wanted = window_packets(
            self._manifest.path(index), options.subclip_duration, settings.num_frames
        )
        context = stream.codec_context
        context.thread_type = "NONE" if options.decoder_threads == 1 else "AUTO"
        context.thread_count = options.decoder_threads
        keep, pictures = set(wanted), {}
        try:
            for packet in [*packets, None]:
                for frame in context.decode(packet):
                    if frame.pts in keep:
                        pictures[frame.pts] = self._scaler.reformat(
                            frame,
                            width=width,
                            height=height,
                            format="rgb24",
                            interpolation=options.scale_algorithm.upper(),
                        ).to_ndarray()
                if len(pictures) == len(keep):
                    break
        finally:
            stream.container.close()
        frames = np.stack([pictures[pts] for pts in wanted])  # [T, H, W, C]
        video = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255.0
        return video, self._manifest.labels[index], len(packets)
