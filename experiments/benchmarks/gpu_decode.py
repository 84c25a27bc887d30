"""Decodes clips on NVDEC and compares them with the reference, in a process of its own.

Started by `gpu_check` with the environment that SPDL's NVDEC module needs. It writes what it
has found after every clip, so that a crash of a native library costs one clip's result.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError
from autotune.manifest import scan
from experiments.benchmarks import _common
from experiments.benchmarks.gpu_presence import decoder_capabilities
from experiments.benchmarks.quality import GOAL_DB, IDENTICAL_DB, frame_psnr, psnr

WINDOWS = ((0.0, 0.5), (0.0, 2.0), (1.3, 0.5))
"""(start, duration) in seconds."""

ODD_WINDOW = (0.0, 0.5)
"""Of the clips that NVDEC may refuse."""

NUM_FRAMES, SIZE = 16, 112


def compare_clip(
    data: bytes, name: str, start: float, duration: float, scaler: str, native: bool
) -> dict[str, Any]:
    """One window on NVDEC against the reference.

    Args:
        scaler: scale algorithm of both.
        native: at the clip's own size, which leaves the scaler out of the comparison.
    """
    from autotune.media.demux import demux_window
    from autotune.media.nvdec import decode_nvdec
    from autotune.media.reference import decode_reference

    clip = demux_window(data, name, start, duration, for_nvdec=True)
    size = {"width": SIZE, "height": SIZE}
    if native:
        size = {"width": clip.width, "height": clip.height}
    began = time.perf_counter()
    decoded = decode_nvdec(clip, num_frames=NUM_FRAMES, scale_algorithm=scaler, **size)
    seconds = time.perf_counter() - began
    frames = decoded.frames.permute(0, 2, 3, 1).cpu().numpy()
    reference = decode_reference(
        data, name, start, duration, num_frames=NUM_FRAMES, scale_algorithm=scaler, **size
    )
    return {
        "psnr_db": min(IDENTICAL_DB, psnr(frames, reference.frames)),
        "worst_frame_db": min(IDENTICAL_DB, *frame_psnr(frames, reference.frames)),
        "unique_frames": decoded.unique_frames,
        "exact": decoded.exact,
        "device": str(decoded.frames.device),
        "seconds": seconds,
    }


def plain_spdl(data: bytes, duration: float) -> dict[str, Any]:
    """The published example's own call, to tell what SPDL does from what we ask of it."""
    import spdl.io
    import torch

    packets = spdl.io.demux_video(data, timestamp=(0.0, duration))
    allocator = (torch.cuda.caching_allocator_alloc, torch.cuda.caching_allocator_delete)
    frames = spdl.io.to_torch(
        spdl.io.decode_packets_nvdec(
            packets,
            device_config=spdl.io.cuda_config(device_index=0, allocator=allocator),
            scale_width=SIZE,
            scale_height=SIZE,
            pix_fmt="rgb",
        )
    )
    return {"shape": list(frames.shape), "mean": float(frames.float().mean())}


def attempt(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of ``work``, or what went wrong: the next clip is tried all the same."""
    try:
        return work(*arguments)
    except AutotuneError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except Exception as error:  # whatever a native binding raises is a finding
        return {
            "error": f"{type(error).__name__}: {error}",
            "kind": "unexpected",
            "trace": traceback.format_exc()[-1500:],
        }


def compare(clips: Path, output: Path, deadline: float) -> None:
    """Every clip at every window; writes ``output`` after each."""
    manifest = scan(clips)
    found: dict[str, Any] = {"goal_db": GOAL_DB, "rows": [], "plain_spdl": {}, "left_out": []}
    for index in range(len(manifest)):
        name = manifest.paths[index]
        if time.monotonic() > deadline:
            found["left_out"].append(name)
            continue
        data = Path(manifest.path(index)).read_bytes()
        # The first run of a kind makes the decoder; the example's own call goes first, so that
        # a machine on which SPDL itself fails is told from one on which we do.
        found["plain_spdl"][name] = attempt(plain_spdl, data, 0.5)
        _common.write_json(output, found)
        for number, (start, duration) in enumerate(WINDOWS):
            cases = [("bicubic", False)]
            if number == 0:
                cases += [("fast_bilinear", False), ("bicubic", True)]
            for scaler, native in cases:
                row = {
                    "clip": name,
                    "start": start,
                    "duration": duration,
                    "scaler": scaler,
                    "native": native,
                }
                row |= attempt(compare_clip, data, name, start, duration, scaler, native)
                found["rows"].append(row)
        _common.write_json(output, found)
    found["complete"] = True
    _common.write_json(output, found)


def compare_odd(clips: Path, output: Path, deadline: float) -> None:
    """What NVDEC makes of clips that it need not take: a refusal by name, or frames."""
    manifest = scan(clips)
    found: dict[str, Any] = {"rows": [], "left_out": []}
    for index, name in enumerate(manifest.paths):
        if time.monotonic() > deadline:
            found["left_out"].append(name)
            continue
        data = Path(manifest.path(index)).read_bytes()
        result = attempt(compare_clip, data, name, *ODD_WINDOW, "bicubic", False)
        found["rows"].append({"clip": name, **result})
        _common.write_json(output, found)
    found["complete"] = True
    _common.write_json(output, found)


def main() -> int:
    """Run one task and write its result."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.gpu_decode")
    p.add_argument("task", choices=["capabilities", "compare", "odd"])
    p.add_argument("--clips", type=Path)
    p.add_argument("--seconds", type=float, default=120.0, help="begin no clip after so long")
    p.add_argument("-o", "--output", type=Path, required=True)
    options = p.parse_args()
    if options.task == "capabilities":
        _common.write_json(options.output, attempt(decoder_capabilities))
    else:
        work = compare if options.task == "compare" else compare_odd
        work(options.clips, options.output, time.monotonic() + options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
