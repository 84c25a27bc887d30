"""The published example's own stages, decoding on the CPU.

Written from the description of SPDL's video classification example: whole files are fetched,
`demux_video` cuts the window with its own margin, the whole window is decoded, scaled and
converted, and only then 16 frames are chosen, normalized and stacked. What differs from it is
the decoder alone: FFmpeg with SPDL's own filter description in place of NVDEC. It runs in one
process, as the published baseline did.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
)


class PublishedParams(BaseModel):
    """Defaults are the published thread counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_fetch_threads: int = Field(8, ge=1)
    num_demux_threads: int = Field(8, ge=1)
    num_decode_threads: int = Field(16, ge=1)
    sink_buffer_size: int = Field(3, ge=1)
    torch_threads: int = Field(0, ge=0)
    """Threads of torch's own; 0 leaves its default (the example sets none)."""
    subclip_duration: float = Field(2.0, gt=0)
    batch_size: int = Field(16, ge=1)
    scale_algorithm: str = "bicubic"


class PublishedStages(CompetitorTarget):
    """fetch -> disaggregate -> demux -> decode -> aggregate -> collate -> sink."""

    name: ClassVar[str] = "published_stages"
    Params: ClassVar[type[BaseModel]] = PublishedParams

    def build(self, context: BuildContext) -> Loader:
        """Build and start SPDL's pipeline."""
        return _PublishedLoader(
            PublishedParams.model_validate(context.spec.params),
            CompetitorSettings.model_validate(context.spec.settings),
            manifest_of(context),
            context.spec.seed,
        )


class _PublishedLoader(CompetitorLoader):
    def __init__(
        self, params: PublishedParams, settings: CompetitorSettings, manifest: Manifest, seed: int
    ) -> None:
        import torch
        from spdl.pipeline import PipelineBuilder

        super().__init__(params, prefetched_batches=params.sink_buffer_size + 1)
        if params.torch_threads:
            torch.set_num_threads(params.torch_threads)
        self._options, self._settings = params, settings
        self._manifest, self._seed = manifest, seed
        self._stop = threading.Event()
        self._decoders = ThreadPoolExecutor(params.num_decode_threads)
        self._pipeline = (
            PipelineBuilder()
            .add_source(self._source())
            .pipe(self._fetch, concurrency=params.num_fetch_threads)
            .disaggregate()
            .pipe(self._demux, concurrency=params.num_demux_threads)
            .pipe(self._decode, concurrency=params.num_decode_threads, executor=self._decoders)
            .aggregate(params.batch_size, drop_last=True)
            .pipe(self._collate)
            .add_sink(params.sink_buffer_size)
            .build(num_threads=params.num_fetch_threads + params.num_demux_threads + 1)
        )
        self._pipeline.start()

    def _source(self) -> Iterator[int]:
        for index in endless_order(self._manifest, self._seed):
            if self._stop.is_set():  # SPDL's source thread would keep the process alive
                return
            yield index

    def _fetch(self, index: int) -> list[tuple[int, bytes]]:
        with open(self._manifest.path(index), "rb") as file:
            return [(index, file.read())]

    def _demux(self, sample: tuple[int, bytes]) -> tuple[int, Any] | None:
        import spdl.io

        index, data = sample
        try:
            window = (0.0, self._options.subclip_duration)
            return index, spdl.io.demux_video(data, timestamp=window)
        except RuntimeError as error:
            self.note_failure(self._manifest.paths[index], str(error))
            return None

    def _decode(self, sample: tuple[int, Any]) -> tuple[Any, int, int] | None:
        import spdl.io
        import torch

        index, packets = sample
        height, width = self._settings.frame_size
        graph = spdl.io.get_video_filter_desc(
            timestamp=packets.timestamp,
            scale_width=width,
            scale_height=height,
            scale_algo=self._options.scale_algorithm,
            scale_mode=None,  # stretched, as its NVDEC scaling is
        )
        decoded = len(packets.get_timestamps(raw=True))  # what its margin adds counts too
        try:
            frames = spdl.io.decode_packets(packets, filter_desc=graph)
            tensor = spdl.io.to_torch(spdl.io.convert_frames(frames))  # [T, H, W, C]
        except RuntimeError as error:
            self.note_failure(self._manifest.paths[index], str(error))
            return None
        wanted = self._settings.num_frames
        if len(tensor) >= wanted:
            tensor = tensor[torch.linspace(0, len(tensor) - 1, wanted).long()]
        else:
            last = tensor[-1:].expand(wanted - len(tensor), -1, -1, -1)
            tensor = torch.cat([tensor, last])
        video = tensor.permute(3, 0, 1, 2).float() / 255.0
        return video, self._manifest.labels[index], decoded

    def _collate(self, samples: list[tuple[Any, int, int]]) -> Batch:
        import torch

        video = torch.stack([sample[0] for sample in samples])
        label = torch.stack([torch.tensor(sample[1], dtype=torch.long) for sample in samples])
        return float_batch(video, label, self._settings, sum(sample[2] for sample in samples))

    def __iter__(self) -> Iterator[Batch]:
        """Batches, as the example's iterator gives them."""
        yield from self._pipeline.get_iterator(timeout=60)

    def close(self) -> None:
        """End the pipeline's threads."""
        self._stop.set()
        self._pipeline.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def versions(self) -> dict[str, str]:
        """How many threads torch really has."""
        import torch

        return {"torch_threads": str(torch.get_num_threads()), "cpus": str(os.cpu_count())}
