"""The clips of `torch_dataloader`, for many threads of one process."""

from __future__ import annotations

import threading
from typing import Any

from autotune.media.decoders import Decoder, load
from autotune.targets.torch_dataloader.dataset import Clips


class ThreadedClips(Clips):
    """Gives each thread a decoder of its own: a decoder serves one thread at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._local = threading.local()
        self._order_lock = threading.Lock()

    @property
    def decoder(self) -> Decoder:
        """This thread's decoder."""
        found: Decoder | None = getattr(self._local, "decoder", None)
        if found is None:
            found = self._local.decoder = load(self.settings.decoder)
        return found

    def order(self, epoch: int) -> list[int]:
        """Indices into the manifest of this rank's clips in one epoch; drawn once for all
        threads."""
        with self._order_lock:
            return super().order(epoch)
