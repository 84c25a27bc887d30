"""A target's pipeline as a training loop wants it: an iterable with epochs and a length.

A target's own loader never ends, and keeps filling its buffers from one epoch to the next.
`VideoLoader` cuts it where an epoch ends; nothing is torn down or started anew in between.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from autotune.exceptions import UnsupportedError
from autotune.targets.base import Batch, Loader
from autotune.trial import FailedClip, Params, Scalar

_log = logging.getLogger("autotune.loaders")

_NAMED = 3
"""Failed clips that a warning names."""

_LOOK_SECONDS = 1.0
"""How often the guard of an open loader looks whether it was closed."""


class VideoBatch(NamedTuple):
    """One batch, on the device that the loader's parameters name.

    Attributes:
        video: [N, C, T, H, W], C = 3 (RGB): float32 in 0..1, or uint8 with ``dtype="uint8"``.
        label: int64 [N], the index of each clip's class in `VideoLoader.classes`.
    """

    video: Any
    label: Any


class VideoLoader:
    """Batches of video, in epochs. Made by the functions of `autotune.loaders`.

        with loaders.spdl_video("/data/train", batch_size=16) as loader:
            for epoch in range(10):
                for video, label in loader:
                    ...

    An iteration is one epoch: ``len(loader)`` batches, the same number on every rank. The
    pipeline runs on from one epoch to the next, so what does not fill a batch at the end of an
    epoch opens the next one, and after a `break` the next iteration goes on where it stopped.
    The order is seeded, and that of a measurement with the same seed: a fresh permutation each
    epoch, of which each rank reads its own part.

    A clip that cannot be decoded is never passed over in silence: the target leaves it out or
    puts another in its place, and a warning is logged (``autotune.loaders``) at the end of the
    epoch; see `failed`.

    Close it, or use it in a ``with`` statement. One that is forgotten ends with the main thread.

    Attributes:
        classes: the names of the classes, by label.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        batches: int,
        classes: list[str],
        asked: Mapping[str, Scalar] | None = None,
    ) -> None:
        """Args:
        loader: the pipeline, as a target built it.
        batches: of one epoch.
        asked: parameters that were asked for; the first batch shows whether they were obeyed.
        """
        self.classes = classes
        self._loader = loader
        self._batches_per_epoch = batches
        self._asked = dict(asked or {})
        self._stream: Iterator[Batch] | None = None
        self._step = 0
        self._told_failures = 0
        self._closed = False
        self._finalizer = weakref.finalize(self, loader.close)
        threading.Thread(
            target=_guard, args=(self._finalizer,), name="autotune-loader-guard", daemon=True
        ).start()

    @property
    def prefetched_batches(self) -> int:
        """Batches that may be ready when the first one is consumed."""
        return self._loader.prefetched_batches

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[VideoBatch]:
        """One epoch.

        Raises:
            UnsupportedError: the pipeline does not do what it was asked for.
            DataError: no clip can be decoded.
            RuntimeError: the loader is closed, or its pipeline broke.
        """
        for _ in range(self._batches_per_epoch):
            batch = self._next()
            yield VideoBatch(batch.video, batch.label)
            del batch  # its memory belongs to the pipeline again before the next wait
            self._step += 1
            self._loader.on_epoch_or_step(self._step)
        self._tell_failures()

    def _next(self) -> Batch:
        if self._closed:
            raise RuntimeError("the loader is closed; make another one")
        if self._stream is None:
            self._check_obeyed()
            self._stream = iter(self._loader)
        batch = next(self._stream, None)
        if batch is None:
            raise RuntimeError("the loader was closed while it was iterated over")
        return batch

    def _check_obeyed(self) -> None:
        built = self.readback()
        wrong = [
            f"{name}: asked for {value}, the pipeline has {built[name]}"
            for name, value in self._asked.items()
            if name in built and built[name] != value
        ]
        if wrong:
            self.close()
            raise UnsupportedError(f"{'; '.join(wrong)}. Ask for what this machine can do")

    def readback(self) -> Params:
        """Every parameter, as read from the pipeline that runs. Waits for the first batch."""
        return self._loader.readback()

    def failed(self) -> tuple[int, list[FailedClip]]:
        """How many clips could not be delivered so far, and up to 20 of them with the cause."""
        return self._loader.failed()

    def _tell_failures(self) -> None:
        count, clips = self.failed()
        if count > self._told_failures:
            self._told_failures = count
            named = "; ".join(f"{clip.name}: {clip.cause}" for clip in clips[:_NAMED])
            noun = "clip" if count == 1 else "clips"
            _log.warning("%d %s could not be delivered so far: %s", count, noun, named)

    def close(self) -> None:
        """End every thread and process of the pipeline. Idempotent."""
        if not self._closed:
            self._closed = True
            self._tell_failures()
            self._stream = None
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _guard(close: weakref.finalize[Any, Any]) -> None:
    """Close a loader that is still open when the main thread ends.

    A pipeline's source thread may be no daemon: the interpreter would wait for it for ever, and
    only after that call what was registered with `atexit`.
    """
    main = threading.main_thread()
    while close.alive and main.is_alive():
        main.join(_LOOK_SECONDS)
    close()
