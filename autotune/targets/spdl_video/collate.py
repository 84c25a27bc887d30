"""Samples to a batch, with as few passes over memory as it takes."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

from autotune.targets.base import Batch
from autotune.targets.spdl_video.stages import Decoded, Stage
from autotune.targets.spdl_video.stats import StatsBoard


class BatchBuffers:
    """Memory for batches, used again once nobody holds the batch it was used for.

    A fresh 40 MB array costs as much in page faults as filling it. An array goes back only when
    the last tensor over it is gone, so that a consumer may keep a batch as long as it likes.
    """

    def __init__(self) -> None:
        self._free: deque[Any] = deque()

    def take(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of ``shape``, its content undefined."""
        import numpy as np

        try:
            base = self._free.popleft()
        except IndexError:
            base = None
        if base is None or base.shape != shape or base.dtype != dtype:
            base = np.empty(shape, dtype)
        lent = base.view()
        # Not returned at exit: the interpreter frees it anyway.
        weakref.finalize(lent, self._free.append, base).atexit = False
        return lent


class Collate(Stage):
    """Makes one batch of samples.

    CPU frames come as uint8 [T, H, W, C] and are converted into place; the batch is a view
    [N, C, T, H, W] of that memory: the example's shape, type and values, in the memory order
    that the decoder left (channels last), which spares a pass. NVDEC's come as [T, C, H, W] on
    the GPU and never leave it.

    Args:
        board: where to count.
        as_float: float32 in 0..1, else uint8.
    """

    name = "collate"

    def __init__(self, board: StatsBoard, as_float: bool) -> None:
        super().__init__(board)
        self._as_float = as_float
        self._buffers = BatchBuffers()

    def work(self, item: Sequence[Decoded]) -> Batch:
        import torch

        clips = [sample.clip for sample in item]
        device = clips[0].frames.device
        video = self._on_gpu(clips) if device.type == "cuda" else self._on_cpu(clips)
        label = torch.tensor([sample.label for sample in item], dtype=torch.int64, device=device)
        return Batch(
            video=video,
            label=label,
            samples=len(clips),
            frames=sum(len(clip.frames) for clip in clips),
            unique_frames=sum(clip.unique_frames for clip in clips),
            decoded_frames=sum(clip.decoded_frames for clip in clips),
        )

    def _on_cpu(self, clips: Sequence[Any]) -> Any:
        import numpy as np
        import torch

        # NumPy converts on this thread. torch would start a team of threads for it, and those
        # wait for their next piece of work by spinning on the cores that decode.
        shape = (len(clips), *clips[0].frames.shape)
        out = self._buffers.take(shape, np.float32 if self._as_float else np.uint8)
        for slot, clip in zip(out, clips, strict=True):
            if self._as_float:
                np.divide(clip.frames.numpy(), np.float32(255), out=slot, dtype=np.float32)
            else:
                np.copyto(slot, clip.frames.numpy())
        return torch.from_numpy(out).permute(0, 4, 1, 2, 3)

    def _on_gpu(self, clips: Sequence[Any]) -> Any:
        import torch

        video = torch.stack([clip.frames for clip in clips]).permute(0, 2, 1, 3, 4).contiguous()
        return video.float().div_(255.0) if self._as_float else video
