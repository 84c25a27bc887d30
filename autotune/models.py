"""A small video model, so that `train_step` runs where torchvision does not (e.g. on a CPU)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def small_r3d(num_classes: int = 400, width: int = 8) -> nn.Module:
    """A 3D residual network of four stages: 0.06 GMAC for 16 frames of 112x112 (R3D-18: 40.7).

    Takes float video of shape [N, 3, T, H, W] and returns logits of shape [N, num_classes].
    The first convolution halves time and quarters space, so that a step on 16 frames of
    112x112 takes a fraction of a second on a CPU.

    Args:
        num_classes: number of outputs.
        width: channels of the first stage; each further stage doubles them.
    """
    from torch import Tensor, nn

    class Block(nn.Module):  # type: ignore[misc, unused-ignore]
        """Two 3x3x3 convolutions around a shortcut (He et al., 2016, in three dimensions)."""

        def __init__(self, channels: int, out_channels: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv3d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm3d(out_channels),
                nn.ReLU(inplace=True),
                nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm3d(out_channels),
            )
            same = stride == 1 and channels == out_channels
            self.shortcut: nn.Module = (
                nn.Identity()
                if same
                else nn.Conv3d(channels, out_channels, 1, stride=stride, bias=False)
            )
            self.activation = nn.ReLU(inplace=True)

        def forward(self, video: Tensor) -> Tensor:
            result: Tensor = self.activation(self.body(video) + self.shortcut(video))
            return result

    stem = nn.Sequential(
        nn.Conv3d(3, width, (3, 7, 7), stride=(2, 4, 4), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )
    return nn.Sequential(
        stem,
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2),
        Block(4 * width, 8 * width, 2),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )
