"""The two loaders, which differ from those of other targets in what is read back from them."""

from __future__ import annotations

import gc
from importlib.metadata import version

from autotune.targets.frames.params import WORKLOAD, complete
from autotune.targets.spdl_video.loader import SpdlLoader
from autotune.targets.spdl_video.readback import stage_threads
from autotune.targets.spdl_video.stats import CAPACITY
from autotune.targets.torch_dataloader.loader import DataLoaderLoader
from autotune.targets.versions import loaded_versions
from autotune.trial import Params as ParamValues


class FramesDataLoader(DataLoaderLoader):
    """Frames out of a DataLoader."""

    def readback(self) -> ParamValues:
        return complete({**super().readback(), "reader": "dataloader"})


class FramesSpdlLoader(SpdlLoader):
    """Frames out of SPDL's threads."""

    def readback(self) -> ParamValues:
        """Every parameter as read from the pipeline. Waits for the first batch."""
        batch, built = self.first_batch(), self._built
        decode = built.decode
        if decode.seen is None:
            raise RuntimeError("nothing was decoded yet")
        duration, random_start = decode.seen
        workload = (
            duration,
            "random" if random_start else "first",
            int(batch.video.shape[0]),
            decode.format.scale_algorithm,
        )
        return complete(
            {
                "reader": "spdl_threads",
                "num_fetch_threads": stage_threads(built, "fetch"),
                "num_decode_threads": stage_threads(built, "decode"),
                "sink_buffer_size": int(built.board.row("sink")[CAPACITY]),
                "gc_policy": "automatic" if gc.isenabled() else "between_epochs",
                **dict(zip(WORKLOAD, workload, strict=True)),
            }
        )

    def versions(self) -> dict[str, str]:
        return library_versions()


def library_versions() -> dict[str, str]:
    """The libraries of both readers."""
    return {**loaded_versions("pyav"), "spdl": version("spdl")}
