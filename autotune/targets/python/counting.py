"""Samples and frames of a batch, whatever it is made of.

A batch is looked through in order: mappings by value, sequences by item, dataclasses and named
tuples by field. What has a ``shape`` is tensor-like.

- samples: the first dimension of the first tensor-like that has one;
- frames: where a tensor-like has five dimensions and that many samples, T of the layout in which
  C has the size of colour channels (1 or 3): [N, T, H, W, C], for no video is 1 or 3 wide, else
  [N, C, T, H, W], else [N, T, C, H, W]; else one frame a sample.

A shape that means something else (a list of single clips, packed sequences) needs
``target.count``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.exceptions import InputError

_CHANNELS = (1, 3)
_DEEPEST = 6


@dataclass(frozen=True, slots=True)
class Counted:
    """What a batch holds."""

    samples: int
    frames: int
    video: Any = None
    """The video tensor as [N, C, T, H, W], where there is one."""
    label: Any = None
    """The first other tensor-like of one whole number a sample."""


def count(batch: object, frames_per_sample: int | None = None) -> Counted:
    """Count a batch by the rule above.

    Args:
        frames_per_sample: in place of what the shape says.

    Raises:
        InputError: if there is nothing tensor-like in it.
    """
    leaves = [leaf for leaf in _leaves(batch, _DEEPEST) if len(leaf.shape) > 0]
    if not leaves:
        raise InputError(
            f"target.count: a batch is a {type(batch).__name__} without any tensor or array in it, "
            "so its samples cannot be counted. Give target.count: module:function, a function of "
            "the batch that returns (samples, frames), or target.count: [samples, frames]"
        )
    samples = int(leaves[0].shape[0])
    video = next((v for v in leaves if len(v.shape) == 5 and int(v.shape[0]) == samples), None)
    frames, clips = (1, None) if video is None else _frames(video)
    label = next((v for v in leaves if _is_label(v, samples)), None)
    per_sample = frames if frames_per_sample is None else frames_per_sample
    return Counted(samples, samples * per_sample, clips, label)


def _leaves(value: object, depth: int) -> Iterator[Any]:
    if hasattr(value, "shape") and isinstance(getattr(value, "shape", None), Sequence):
        yield value
    elif depth == 0 or isinstance(value, str | bytes):
        return
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item, depth - 1)
    elif isinstance(value, Sequence):  # tuples with names among them
        for item in value:
            yield from _leaves(item, depth - 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), depth - 1)


def _frames(video: Any) -> tuple[int, Any]:
    """Frames a sample, and the tensor as [N, C, T, H, W]."""
    _, second, third, _, last = (int(size) for size in video.shape)
    if last in _CHANNELS:
        return second, _permuted(video, (0, 4, 1, 2, 3))
    if second in _CHANNELS:
        return third, video
    if third in _CHANNELS:
        return second, _permuted(video, (0, 2, 1, 3, 4))
    return 1, None


def _permuted(video: Any, order: tuple[int, ...]) -> Any:
    """A view in another order of dimensions; numpy calls it transpose."""
    permute = getattr(video, "permute", None) or video.transpose
    return permute(*order)


def _is_label(value: Any, samples: int) -> bool:
    kind = str(getattr(value, "dtype", ""))
    return tuple(value.shape) == (samples,) and "int" in kind
