"""The filters of FFmpeg's scaler as matrices, so that a GPU can scale as the CPU does.

One axis is scaled by one matrix [destination, source]: a picture by two products.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, pi, sin

Kernel = Callable[[float, float], float]
"""(distance in destination samples, source samples a destination sample) -> weight."""

Matrix = tuple[tuple[float, ...], ...]


def _bilinear(distance: float, ratio: float) -> float:
    return max(0.0, 1 - distance)


def _bicubic(distance: float, ratio: float) -> float:
    """Mitchell and Netravali's family at B = 0, C = 0.6, FFmpeg's default."""
    c = 0.6
    if distance < 1:
        return (2 - c) * distance**3 + (c - 3) * distance**2 + 1
    if distance < 2:
        return -c * distance**3 + 5 * c * distance**2 - 8 * c * distance + 4 * c
    return 0.0


def _area(distance: float, ratio: float) -> float:
    """A box one destination sample wide, with edges that fall within one source sample."""
    return min(1.0, max(0.0, 0.5 - (distance - 0.5) * ratio))


def _lanczos(distance: float, ratio: float) -> float:
    if distance >= 3:
        return 0.0
    if distance == 0:
        return 1.0
    x = distance * pi
    return sin(x) * sin(x / 3) / (x * x / 3)


_KERNELS: dict[str, tuple[Kernel, float]] = {
    "bilinear": (_bilinear, 1),
    "bicubic": (_bicubic, 2),
    "area": (_area, 1),
    "lanczos": (_lanczos, 3),
}
"""Scale algorithm -> kernel and its radius in destination samples."""


def axis_matrix(
    source: int, destination: int, algorithm: str, offset: float = 0.0, horizontal: bool = False
) -> Matrix:
    """Weights of ``source`` samples in each of ``destination`` samples; each row sums to 1.

    Takes milliseconds, and a megabyte as Python's numbers: keep what is made of it.

    Args:
        algorithm: a scale algorithm's name.
        offset: source samples by which the source lies left of where its grid says.
        horizontal: whether this scales rows; only ``fast_bilinear`` makes a difference.
    """
    ratio = source / destination
    rows = []
    for i in range(destination):
        centre = (i + 0.5) * ratio - 0.5 + offset
        if algorithm == "fast_bilinear":
            # Two neighbours, nothing filtered out; across, FFmpeg's x86 code takes longer steps.
            if horizontal and destination > 2:
                centre = 0.5 * ratio - 0.5 + offset + i * (source - 2) / (destination - 2)
            rows.append(_two_neighbours(source, centre))
            continue
        rows.append(_row(source, centre, ratio, *_KERNELS[algorithm]))
    return tuple(rows)


def _two_neighbours(source: int, place: float) -> tuple[float, ...]:
    row = [0.0] * source
    place = min(max(place, 0.0), source - 1.0)
    left = floor(place)
    share = place - left
    row[left] += 1 - share
    row[min(left + 1, source - 1)] += share
    return tuple(row)


def _row(
    source: int, centre: float, ratio: float, kernel: Kernel, radius: float
) -> tuple[float, ...]:
    row = [0.0] * source
    stretch = max(ratio, 1.0)  # when shrinking, the kernel is as wide as the destination's samples
    reach = radius * stretch + 1
    for j in range(floor(centre - reach), ceil(centre + reach) + 1):
        weight = kernel(abs(j - centre) / stretch, stretch)
        row[min(max(j, 0), source - 1)] += weight  # the border sample stands for what is outside
    total = sum(row)
    return tuple(weight / total for weight in row)
