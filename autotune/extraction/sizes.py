"""How large extracted frames are."""

from __future__ import annotations

import re

from autotune.exceptions import InputError

_SHORT_SIDE = re.compile(r"(\d{1,5})")
_BOTH = re.compile(r"(\d{1,5})x(\d{1,5})")
_SMALLEST, _LARGEST = 16, 8192


def parse_size(text: str) -> tuple[int, int] | int:
    """``240x320``: height and width; ``256``: the short side. Pixels.

    Raises:
        InputError: it is neither, or out of range.
    """
    compact = text.strip().lower()
    sides: tuple[int, ...] = ()
    if found := _SHORT_SIDE.fullmatch(compact) or _BOTH.fullmatch(compact):
        sides = tuple(int(side) for side in found.groups())
    if not sides or any(side < _SMALLEST or side > _LARGEST for side in sides):
        raise InputError(
            f"--size: {text!r}; accepted: a short side such as 256, or height and width such as "
            f"240x320, each from {_SMALLEST} to {_LARGEST} pixels"
        )
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def frame_size(size: str | None, height: int, width: int) -> tuple[int, int]:
    """Height and width of the frames of a clip of ``height`` and ``width``.

    A short side keeps the proportions and never enlarges; the long side is rounded to an even
    number.
    """
    if size is None:
        return height, width
    wanted = parse_size(size)
    if isinstance(wanted, tuple):
        return wanted
    if wanted >= min(height, width):
        return height, width
    if height <= width:
        return wanted, 2 * round(width * wanted / height / 2)
    return 2 * round(height * wanted / width / 2), wanted
