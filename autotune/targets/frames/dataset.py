"""The data set of the DataLoader: as `torch_dataloader`'s, of folders of frames."""

from __future__ import annotations

from autotune.frame_folders import read_index
from autotune.media.decoders import Decoder
from autotune.media.decoders.base import Stopwatch
from autotune.targets.frames.reading import FrameDecoder, clip_length
from autotune.targets.torch_dataloader.dataset import Clips


class FrameClips(Clips):
    """A map-style data set of one rank's shard of extracted clips."""

    def open_decoder(self) -> Decoder:
        return FrameDecoder()

    def clip_seconds(self, path: str, name: str, watch: Stopwatch) -> float:
        with watch("fetch"):
            return clip_length(read_index(path, name), name)
