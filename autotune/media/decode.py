"""Packets to frames on the CPU: chosen first, then converted and scaled.

The frames are chosen by their timestamps in FFmpeg's filter graph, in front of the scaler, and
decoding stops when the last of them has come out. Frames that neither are chosen nor help to
decode one that is are left out beforehand (`pruning`). What came back is checked against what the
packets promised; where it differs (damaged data, frames that an edit list hides, fields), the
whole window is decoded and the reference rule is applied to the frames that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from autotune.exceptions import DataError, InputError
from autotune.media.packets import ClipPackets, one_line
from autotune.media.pruning import prune
from autotune.media.windows import sample_indices, unique_count

ScaleAlgorithm = Literal["fast_bilinear", "bilinear", "bicubic", "area", "lanczos"]
SCALE_ALGORITHMS: tuple[str, ...] = get_args(ScaleAlgorithm)

_UNKNOWN_PIX_FMT = "yuv420p"
"""Declared where nobody has decoded a frame yet. The scaler takes each frame as it really is."""

_CHROMA_POSITION = {"h264": "left", "hevc": "left", "mpeg4": "left", "mpeg2video": "left"}
"""Where FFmpeg's decoders place chroma samples by default, for codecs that say so. A stream that
signals another position (HDR's top left) is scaled as if it were left: half a pixel of chroma."""


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """The frames of one sample.

    Attributes:
        frames: uint8 tensor. From the CPU ``[num_frames, height, width, 3]``; from NVDEC
            ``[num_frames, 3, height, width]`` on its device. RGB.
        unique_frames: how many of them differ: without padding and repeats.
        decoded_frames: coded frames up to the last one wanted, in decoding order, without those
            that were left out (see `pruning`): what had to be decoded. (A decoder that reorders
            may have been up to its delay ahead of it.)
        exact: False where the container's timestamps did not say which frames there are, and
            the whole window had to be decoded.
    """

    frames: Any
    unique_frames: int
    decoded_frames: int
    exact: bool = True


def decode_cpu(
    clip: ClipPackets,
    *,
    num_frames: int,
    width: int,
    height: int,
    scale_algorithm: str = "bicubic",
    decoder_threads: int = 1,
) -> DecodedClip:
    """Decode the ``num_frames`` frames that `windows.sample_indices` names, as RGB.

    Args:
        clip: from `demux_window`; it stays usable.
        num_frames: frames to deliver; where the window has fewer, the last one is repeated.
        width, height: pixels of the result. The picture is stretched, as the reference does.
        scale_algorithm: one of `SCALE_ALGORITHMS`.
        decoder_threads: FFmpeg's ``threads`` option; 0 lets FFmpeg choose.

    Raises:
        DataError: the packets cannot be decoded, or hold no frame of the window.
        InputError: an unknown algorithm or a size that is not positive.
    """
    if scale_algorithm not in SCALE_ALGORITHMS:
        raise InputError(
            f"scale_algorithm {scale_algorithm!r}: accepted are {', '.join(SCALE_ALGORITHMS)}"
        )
    if min(num_frames, width, height) < 1:
        raise InputError(f"{num_frames} frames of {width}x{height}: all must be positive")
    to_rgb = _to_rgb(clip.codec, width, height, scale_algorithm)
    threads = {"threads": str(decoder_threads)}
    indices = sample_indices(len(clip.window_pts), num_frames)
    chosen = [clip.window_pts[i] for i in sorted(set(indices))]
    try:
        packets, packet_pts = prune(clip, chosen)
        select = select_exactly(chosen)
        frames = _decode(clip, packets, select, to_rgb, threads, limit=len(chosen))
        if frames is not None and frame_pts(frames) == chosen:
            return DecodedClip(
                frames=_tensor(frames, _positions(indices)),
                unique_frames=len(chosen),
                decoded_frames=decoded_up_to(packet_pts, chosen),
            )
        return _decode_whole_window(clip, num_frames, to_rgb, threads)
    except DataError:
        raise
    except Exception as error:  # SPDL raises RuntimeError and nanobind's own
        raise DataError(clip.name, one_line(error)) from error


def _to_rgb(codec: str, width: int, height: int, scale_algorithm: str) -> str:
    """FFmpeg's filters that stretch and convert a frame exactly as PyAV's ``reformat`` does.

    The scaler itself is the same; but ``reformat`` takes the position of the chroma samples from
    each frame, and the scale filter assumes the centre unless it is told.
    """
    position = _CHROMA_POSITION.get(codec)
    place = f":in_chroma_loc={position}" if position and _knows_chroma_position() else ""
    return f"scale={width}:{height}:flags={scale_algorithm}{place},format=pix_fmts=rgb24"


@lru_cache(maxsize=1)
def _knows_chroma_position() -> bool:
    """Whether this FFmpeg's scale filter has ``in_chroma_loc`` (FFmpeg 7.1 and later do)."""
    import spdl.io

    try:
        spdl.io.FilterGraph(
            "buffer=video_size=16x16:pix_fmt=yuv420p:time_base=1/1:pixel_aspect=1/1,"
            "scale=8:8:in_chroma_loc=left,buffersink"
        )
    except RuntimeError:
        return False
    return True


def select_exactly(chosen: Sequence[int]) -> str:
    """FFmpeg's filter that lets the frames with these pts through."""
    return "select='" + "+".join(f"eq(pts,{pts})" for pts in chosen) + "'"


def decoded_up_to(packet_pts: Sequence[int], chosen: Sequence[int]) -> int:
    """Packets in decoding order up to the last one that holds a chosen frame."""
    wanted = set(chosen)
    return 1 + max(i for i, pts in enumerate(packet_pts) if pts in wanted)


def _positions(indices: Sequence[int]) -> list[int]:
    """Indices into the window -> indices into its chosen frames, which are all that is decoded."""
    place = {index: i for i, index in enumerate(sorted(set(indices)))}
    return [place[index] for index in indices]


def _decode_whole_window(
    clip: ClipPackets, num_frames: int, to_rgb: str, threads: dict[str, str]
) -> DecodedClip:
    """The slow way: decode every frame of the window, then apply the rule to those there are."""
    window = f"select='between(pts,{clip.lo},{clip.hi - 1})'"
    frames = _decode(clip, clip.packets.clone(), window, to_rgb, threads, limit=-1)
    if frames is None:
        raise DataError(
            clip.name,
            f"none of the {len(clip.window_pts)} frames that its timestamps promise for the "
            "window could be decoded",
        )
    indices = sample_indices(len(frames), num_frames)
    return DecodedClip(
        frames=_tensor(frames, indices),
        unique_frames=unique_count(indices),
        decoded_frames=clip.num_packets,
        exact=False,
    )


def _decode(
    clip: ClipPackets,
    packets: Any,
    select: str,
    to_rgb: str,
    threads: dict[str, str],
    *,
    limit: int,
) -> Any | None:
    """``spdl.io.VideoFrames`` of ``packets``, or None where no frame came out.

    The graph adds a tick to each timestamp: SPDL compares what comes out of it with the window
    that the packets were demuxed with, which starts a tick late (see `demux._read_window`).
    """
    import spdl.io

    # Not spdl.io.decode_packets: it puts a source of its own in front of the graph, made from the
    # codec's pixel format, and raises where that is unknown because the clip was opened quickly.
    from spdl.io.lib import _libspdl

    base = clip.time_base
    source = (
        f"buffer=video_size={clip.width}x{clip.height}:pix_fmt={clip.pix_fmt or _UNKNOWN_PIX_FMT}"
        f":time_base={base.numerator}/{base.denominator}:pixel_aspect=1/1"
    )
    frames = _libspdl.decode_packets(
        packets,
        decode_config=spdl.io.decode_config(decoder_options=threads),
        filter_desc=f"{source},{select},setpts=PTS+1,{to_rgb},buffersink",
        num_frames=limit,
    )
    return frames if len(frames) > 0 else None


def frame_pts(frames: Any) -> list[int]:
    """The frames' own pts in ticks, without the tick that the graph adds."""
    return [pts - 1 for pts in frames.get_pts()]


def _tensor(frames: Any, positions: Sequence[int]) -> Any:
    """The frames at ``positions`` (ascending) as one uint8 tensor [T, H, W, 3], in one copy."""
    import spdl.io

    if list(positions) != list(range(len(frames))):
        frames = frames[list(positions)]
    return spdl.io.to_torch(spdl.io.convert_frames(frames))
