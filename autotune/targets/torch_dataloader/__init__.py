"""The target `torch_dataloader`: a map-style video data set in PyTorch's DataLoader."""

from __future__ import annotations

from autotune.targets.torch_dataloader.target import TorchDataLoader

__all__ = ["TorchDataLoader"]
