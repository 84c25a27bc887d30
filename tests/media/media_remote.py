"""What the tests run in the process that has SPDL (see conftest): small functions by name."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotune.media.decode import DecodedClip, decode_cpu, frame_pts
from autotune.media.demux import ClipPackets, demux_window
from autotune.media.reference import decode_reference, reference_frames, stretched
from autotune.media.windows import sample_indices

Call = Callable[..., Any]
"""The fixture `in_worker`: call(function, *arguments) -> result."""

Window = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """One window: what was delivered beside the reference."""

    difference: int
    shape: tuple[int, ...]
    unique: int
    exact: bool
    pts_equal: bool


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def compare(
    path: str, window: Window, algorithms: tuple[str, ...], size: tuple[int, int], frames: int = 16
) -> list[Comparison]:
    """The fast path against the reference, an entry a scale algorithm."""
    data = _read(path)
    clip = demux_window(data, path, *window)
    inside, _ = reference_frames(data, path, *window)
    taken = [inside[i] for i in sample_indices(len(inside), frames)]
    result = []
    for algorithm in algorithms:
        how: Any = {"width": size[0], "height": size[1], "scale_algorithm": algorithm}
        fast = decode_cpu(clip, num_frames=frames, **how)
        slow = np.stack([stretched(frame, **how) for frame in taken])
        difference = np.abs(fast.frames.numpy().astype(int) - slow.astype(int))
        result.append(
            Comparison(
                difference=int(difference.max()),
                shape=tuple(fast.frames.shape),
                unique=fast.unique_frames,
                exact=fast.exact,
                pts_equal=[frame.pts for frame in inside] == list(clip.window_pts),
            )
        )
    return result


def demuxed(path: str, window: Window, for_nvdec: bool = False) -> ClipPackets:
    """The clip without its packets, for which a process without SPDL has no type."""
    clip = demux_window(_read(path), path, *window, for_nvdec=for_nvdec)
    assert len(clip.packets.get_timestamps(raw=True)) == clip.num_packets
    return replace(clip, packets=None)


def decoded(path: str, window: Window, **how: Any) -> DecodedClip:
    """Delivered frames, as an array."""
    settings = {"num_frames": 8, "width": 32, "height": 24} | how
    clip = decode_cpu(demux_window(_read(path), path, *window), **settings)
    return replace(clip, frames=clip.frames.numpy())


def pruned(path: str, window: Window, chosen: int) -> tuple[int, int, set[int], set[int]]:
    """Packets of a window and those left, pts chosen and pts left, with every nth frame chosen."""
    from autotune.media.pruning import prune

    clip = demux_window(_read(path), path, *window)
    wanted = clip.window_pts[::chosen]
    packets, left = prune(clip, wanted)
    assert len(packets.get_timestamps(raw=True)) == len(left)
    return clip.num_packets, len(left), set(wanted), set(left)


def decoded_bytes(data: bytes, window: Window) -> DecodedClip:
    clip = decode_cpu(demux_window(data, "memory", *window), num_frames=8, width=32, height=24)
    return replace(clip, frames=clip.frames.numpy())


def demuxed_bytes(data: bytes, window: Window) -> ClipPackets:
    return replace(demux_window(data, "memory", *window), packets=None)


def round_trip(path: str, window: Window) -> tuple[bool, bool]:
    """Decode, pickle, decode again: (frames equal, fields equal)."""
    clip = demux_window(_read(path), path, *window)
    how = {"num_frames": 16, "width": 56, "height": 56}
    first = decode_cpu(clip, **how)
    copy = pickle.loads(pickle.dumps(clip))
    second = decode_cpu(copy, **how)
    again = decode_cpu(clip, **how)  # decoding leaves the packets intact
    same = bool((first.frames == second.frames).all() and (first.frames == again.frames).all())
    return same, replace(clip, packets=None) == replace(copy, packets=None)


def wrong_promise(path: str) -> tuple[DecodedClip, DecodedClip]:
    """Decode a clip whose timestamps promise a frame too many: the slow way must notice."""
    clip = demux_window(_read(path), path, 0.0, 0.5)
    invented = replace(clip, window_pts=(*clip.window_pts, clip.hi - 1))
    how = {"num_frames": 8, "width": 32, "height": 24}
    honest, noticed = (
        decode_cpu(clip, **how),
        decode_cpu(replace(invented, packet_pts=(*clip.packet_pts, clip.hi - 1)), **how),
    )
    return (
        replace(honest, frames=honest.frames.numpy()),
        replace(noticed, frames=noticed.frames.numpy()),
    )


def full_probing_agrees(path: str, window: Window) -> bool:
    """Opened quickly and opened fully, a clip gives the same packets."""
    from autotune.media import iso_media

    data = _read(path)
    assert iso_media.opens_without_decoder(data)
    quick = demux_window(data, path, *window)
    safe = iso_media.opens_without_decoder
    iso_media.opens_without_decoder = lambda data: False
    try:
        full = demux_window(data, path, *window)
    finally:
        iso_media.opens_without_decoder = safe
    return (
        quick.packet_pts == full.packet_pts
        and quick.window_pts == full.window_pts
        and (quick.width, quick.height, quick.codec) == (full.width, full.height, full.codec)
    )


def nv12_psnr(path: str, algorithm: str) -> float:
    """Least PSNR, in dB, of the GPU's scaling and conversion (run on the CPU) to the reference."""
    import av
    import torch

    from autotune.media import nv12

    data = _read(path)
    clip = demux_window(data, path, 0.0, 0.5, for_nvdec=True)
    slow = decode_reference(
        data, path, 0.0, 0.5, num_frames=len(clip.window_pts), width=112, height=112,
        scale_algorithm=algorithm,
    )  # fmt: skip
    frames = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(container.streams.best("video")):
            if frame.pts in clip.window_pts:
                frames.append(frame.reformat(format="nv12").to_ndarray())
            if len(frames) == len(clip.window_pts):
                break
    assert clip.signal is not None
    fast = nv12.to_rgb(
        torch.from_numpy(np.stack(frames)), width=112, height=112, scale_algorithm=algorithm,
        signal=clip.signal,
    ).permute(0, 2, 3, 1)  # fmt: skip
    error = (fast.double() - torch.from_numpy(slow.frames).double()).pow(2).mean(dim=(1, 2, 3))
    return float((10 * torch.log10(255**2 / error)).min())


def for_nvdec(path: str, window: Window) -> tuple[list[int], list[int], list[int]]:
    """pts of a window's packets as NVDEC gets them, in display order; those of them that are in
    SPDL's window; and the pts that were promised for the window. All in ticks."""
    import spdl.io

    from autotune.media.nvdec import packet_filters

    clip = demux_window(_read(path), path, *window, for_nvdec=True)
    packets = spdl.io.apply_bsf(clip.packets.clone(), packet_filters(clip))

    def ticks(stamps: list[float]) -> list[int]:
        return [round(t / clip.time_base) for t in stamps]

    fed = ticks(packets.get_timestamps(raw=True))
    display = sorted(range(len(fed)), key=lambda i: clip.packet_pts[i])
    return [fed[i] for i in display], ticks(packets.get_timestamps()), list(clip.window_pts)


@dataclass(frozen=True)
class Taken:
    """A window of `take_frames` with FFmpeg in NVDEC's place, which drops as SPDL's NVDEC does."""

    pts: list[int]
    """Of the delivered frames, as they came out of the decoder."""
    promised: list[int]
    """What it should be, by the clip's timestamps."""
    worst_db: float
    """Least PSNR of a delivered frame to the reference."""
    came: int
    decoded: int
    exact: bool
    passes: list[int]
    """Packets of each pass."""


def taken(path: str, window: Window, num_frames: int, *, lost: int = 0, seek: bool = True) -> Taken:
    """``lost`` frames come less than were fed; without ``seek`` as if the container could not."""
    import spdl.io
    import torch

    from autotune.media import nv12
    from autotune.media.nvdec import check_clip, take_frames

    data = _read(path)
    clip = demux_window(data, path, *window, for_nvdec=True)
    if not seek:
        clip = _not_sought(clip, data)
    passes: list[int] = []
    stamps: list[int] = []

    def decode(packets: Any) -> Any | None:
        passes.append(len(packets.get_timestamps(raw=True)))
        frames = _nv12(clip, packets)
        stamps[:] = frame_pts(frames)[lost:]
        if not stamps:
            return None
        return spdl.io.to_torch(spdl.io.convert_frames(frames)).flatten(1, -2)[lost:]

    found = take_frames(clip, num_frames, decode)
    size = {"width": 112, "height": 112, "scale_algorithm": "bicubic"}
    ours: Any = nv12.to_rgb(found.frames[found.positions], signal=check_clip(clip), **size)
    reference = decode_reference(data, path, *window, num_frames=num_frames, **size)
    error = ours.permute(0, 2, 3, 1).double() - torch.from_numpy(reference.frames).double()
    worst = error.pow(2).mean(dim=(1, 2, 3)).max()
    return Taken(
        pts=[stamps[position] for position in found.positions],
        promised=[clip.window_pts[i] for i in sample_indices(len(clip.window_pts), num_frames)],
        worst_db=float(10 * torch.log10(255**2 / worst)),
        came=len(found.frames),
        decoded=found.decoded,
        exact=found.exact,
        passes=passes,
    )


def _not_sought(clip: ClipPackets, data: bytes) -> ClipPackets:
    """The window's packets as they are where SPDL cannot seek: all of the clip, and no window."""
    import spdl.io

    packets = spdl.io.Demuxer(data).demux_video()
    pts = tuple(round(t / clip.time_base) for t in packets.get_timestamps(raw=True))
    assert packets.timestamp is None
    return replace(clip, packets=packets, packet_pts=pts, how="whole")


def _nv12(clip: ClipPackets, packets: Any) -> Any:
    """NV12 frames of SPDL's window, in display order, by FFmpeg."""
    from spdl.io.lib import _libspdl

    base = clip.time_base
    return _libspdl.decode_packets(
        packets,
        filter_desc=f"buffer=video_size={clip.width}x{clip.height}:pix_fmt=yuv420p:"
        f"time_base={base.numerator}/{base.denominator}:pixel_aspect=1/1,format=nv12,buffersink",
    )


def nvdec_refusal(path: str) -> str:
    """The error of an NVDEC decode on a machine without a GPU."""
    from autotune.exceptions import AutotuneError
    from autotune.media.nvdec import decode_nvdec

    clip = demux_window(_read(path), path, 0.0, 0.5, for_nvdec=True)
    try:
        decode_nvdec(clip, num_frames=8, width=32, height=32)
    except AutotuneError as error:
        return f"{type(error).__name__}: {error}"
    return "decoded"


def ffmpeg() -> dict[str, Any]:
    from autotune.media.native import loaded_ffmpeg

    return loaded_ffmpeg()
