"""Kinetics-shaped sample clips: class folders of short H.264 files, for trying the program out.

The content is made to cost what real clips cost: textured layers that move against each other,
cuts, and noise, at the bit rate and with the group of pictures of real 340x256 clips.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.exceptions import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

Progress = Callable[[int, int], None]

CLASS_NAMES = (
    "arm_wrestling", "baking_cookies", "climbing_tree", "dancing_ballet",
    "eating_cake", "folding_paper", "golf_driving", "hurdling",
)  # fmt: skip

_SIZES = ((340, 256), (340, 256), (340, 256), (340, 256), (256, 340), (426, 240), (454, 256))
_RATES = (Fraction(30), Fraction(30000, 1001), Fraction(25), Fraction(28))
_LAYERS = 3


@dataclass(frozen=True, slots=True)
class ClipRecipe:
    """What one clip is made from; the same seed gives the same recipes.

    Attributes:
        path: relative to the folder, ``class_name/clip_000.mp4``.
        width, height: pixels. rate: frames a second. seconds: length. seed: of the content.
    """

    path: str
    width: int
    height: int
    rate: Fraction
    seconds: float
    seed: int


def recipes(count: int, classes: int, seed: int, seconds: float) -> list[ClipRecipe]:
    """The clips of a folder; the first ones are 340x256, as most of Kinetics is."""
    if count < 1 or classes < 1 or seconds <= 0:
        raise InputError(f"{count} clips of {seconds} s in {classes} classes: must be positive")
    result = []
    for i in range(count):
        choice = random.Random(f"{seed}/{i}")
        width, height = _SIZES[i % len(_SIZES)]
        label = i % classes
        name = CLASS_NAMES[label] if label < len(CLASS_NAMES) else f"class_{label:03d}"
        result.append(
            ClipRecipe(
                path=f"{name}/clip_{i:04d}.mp4",
                width=width,
                height=height,
                rate=choice.choice(_RATES),
                seconds=seconds,
                seed=choice.getrandbits(32),
            )
        )
    return result


def make_clips(
    directory: str | os.PathLike[str],
    count: int = 24,
    classes: int = 4,
    seed: int = 0,
    seconds: float = 10,
    progress: Progress | None = None,
) -> list[Path]:
    """Make ``count`` clips below ``directory``; those that are there already are kept.

    Each is written beside its place and renamed when complete, so a run that was interrupted
    goes on where it ended.

    Args:
        directory: made if absent; one folder a class below it.
        progress: called with (done, count) after each clip.

    Returns:
        The clips' paths, in order.

    Raises:
        InputError: a number that is not positive, or a folder that cannot be written.
    """
    root = Path(directory)
    plan = recipes(count, classes, seed, seconds)
    missing = [recipe for recipe in plan if not (root / recipe.path).is_file()]
    try:
        for recipe in missing:
            (root / recipe.path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make clips below {root}: {error.strerror}; name a folder that you may write to"
        ) from error
    done = count - len(missing)
    if progress is not None:
        progress(done, count)
    workers = min(len(missing), _cores())
    if workers:
        # spawn: a fork of a process that has loaded native libraries and threads may hang.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                for _ in pool.map(write_clip, [str(root)] * len(missing), missing):
                    done += 1
                    if progress is not None:
                        progress(done, count)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the others would fail as this one did
                raise
    return [root / recipe.path for recipe in plan]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_clip(root: str, recipe: ClipRecipe) -> None:
    """Encode one clip, then rename it into place.

    Raises:
        InputError: if it cannot be written: no permission, no room.
    """
    import av

    try:
        _write_clip(root, recipe)
    except (OSError, av.FFmpegError) as error:
        raise InputError(
            f"cannot make the clip {Path(root) / recipe.path}: {error.strerror or error}; name a "
            "folder that you may write to and that has room left"
        ) from error


def _write_clip(root: str, recipe: ClipRecipe) -> None:
    import av

    target = Path(root) / recipe.path
    draft = target.with_name(f".{target.stem}.{os.getpid()}.part.mp4")
    scene = Scene(recipe)
    try:
        with av.open(str(draft), "w", format="mp4", options={"movflags": "+faststart"}) as out:
            stream: Any = out.add_stream("libx264", rate=recipe.rate)
            stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
            # What the real clips show: up to 250 frames a group, B frames, a constant quality.
            stream.options = {
                "crf": "21", "preset": "veryfast", "threads": "1",
                "x264-params": "keyint=250:bframes=3:b-pyramid=normal:ref=3:cabac=1",
            }  # fmt: skip
            for number in range(round(recipe.seconds * recipe.rate)):
                frame = av.VideoFrame.from_ndarray(scene.picture(number), format="yuv420p")
                frame.pts = number
                frame.time_base = 1 / recipe.rate
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


class Scene:
    """Pictures of one clip: textured layers that drift, patches that move over them, noise."""

    def __init__(self, recipe: ClipRecipe) -> None:
        import numpy as np

        self._random = np.random.default_rng(recipe.seed)
        self._width, self._height = recipe.width, recipe.height
        self._cut = max(1, round(float(recipe.rate) * recipe.seconds * 0.6))
        self._scenes = [self._make_scene() for _ in range(2)]
        # Sensor noise, made once and shifted about: drawing it anew would cost more than encoding.
        self._noise = self._random.normal(0, 3.0, (self._height + 64, self._width + 64)).astype(
            np.float32
        )

    def _texture(self, height: int, width: int) -> Any:
        """Noise at several scales, smooth and rough, about 0 and 40 wide."""
        import numpy as np

        total = np.zeros((height, width), np.float32)
        for cell, weight in ((64, 34.0), (24, 16.0), (8, 9.0), (3, 5.0)):
            rough = self._random.normal(0, weight, (height // cell + 2, width // cell + 2)).astype(
                np.float32
            )
            rows = np.linspace(0, rough.shape[0] - 1.001, height)
            columns = np.linspace(0, rough.shape[1] - 1.001, width)
            top, left = rows.astype(int), columns.astype(int)
            dy = (rows - top)[:, None].astype(np.float32)
            dx = (columns - left)[None, :].astype(np.float32)
            upper = rough[top][:, left] * (1 - dx) + rough[top][:, left + 1] * dx
            lower = rough[top + 1][:, left] * (1 - dx) + rough[top + 1][:, left + 1] * dx
            total += upper * (1 - dy) + lower * dy
        return total

    def _make_scene(self) -> dict[str, Any]:
        import numpy as np

        height, width = self._height, self._width
        patches = []
        for _ in range(_LAYERS):
            h = int(self._random.integers(height // 4, height // 2))
            w = int(self._random.integers(width // 5, width // 2))
            y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
            patches.append(
                {
                    "inside": (x**2 + y**2 < 1),
                    "texture": self._texture(h, w) + self._random.uniform(60, 190),
                    "place": self._random.uniform(0, 1, 2),
                    "speed": self._random.uniform(-1.6, 1.6, 2),
                    "swing": self._random.uniform(4, 22, 2),
                    "pace": self._random.uniform(0.05, 0.25, 2),
                }
            )
        chroma = [self._texture(height, width)[::2, ::2] * 0.5 + 128 for _ in range(2)]
        return {
            "back": self._texture(height * 2, width * 2) + 120,
            "drift": self._random.uniform(-0.9, 0.9, 2),
            "patches": patches,
            "chroma": [np.clip(c, 16, 240).astype(np.uint8) for c in chroma],
        }

    def picture(self, number: int) -> Picture:
        """Frame ``number`` as planar yuv420p, uint8 [height * 3 / 2, width]."""
        import numpy as np

        scene = self._scenes[number >= self._cut]
        height, width = self._height, self._width
        back = scene["back"]
        y0 = int(height / 2 + scene["drift"][0] * number) % height
        x0 = int(width / 2 + scene["drift"][1] * number) % width
        luma = back[y0 : y0 + height, x0 : x0 + width].copy()
        for patch in scene["patches"]:
            h, w = patch["texture"].shape
            sway = patch["swing"] * np.sin(patch["pace"] * number)
            place = patch["place"] * (height, width) + patch["speed"] * number + sway
            y, x = int(place[0]) % (height - h), int(place[1]) % (width - w)
            np.copyto(luma[y : y + h, x : x + w], patch["texture"], where=patch["inside"])
        dy, dx = self._random.integers(0, 64, 2)
        luma += self._noise[dy : dy + height, dx : dx + width]
        shift = number // 3
        planes = [np.clip(luma, 16, 235).astype(np.uint8).ravel()]
        planes += [np.roll(c, shift, axis=1).ravel() for c in scene["chroma"]]
        return np.concatenate(planes).reshape(height * 3 // 2, width)
