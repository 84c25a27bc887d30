"""Leaves out packets that no wanted frame needs: frames of which nothing is predicted.

About half of the frames of usual H.264 are *non-reference*: no other frame is predicted from
them, so a decoder may leave them out and every other frame stays the same, bit for bit (ITU-T
H.264, 7.4.1, ``nal_ref_idc`` 0). Where a window's frames are not all wanted (16 of 56 in 2 s),
or decoding has to begin at a keyframe before the window, those are not decoded.

Only H.264 whose parameter set excludes fields: there a packet is a frame. (HEVC's non-reference
frames may be needed by frames of a higher temporal layer.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autotune.media.packets import ClipPackets

_REFERENCES = "filter_units=discard=nonref"
"""FFmpeg's bitstream filter that leaves the packets with a reference frame (FFmpeg 7 and later)."""


def prune(clip: ClipPackets, chosen: Sequence[int]) -> tuple[Any, tuple[int, ...]]:
    """The packets to decode for the frames at ``chosen``, in decoding order.

    Args:
        clip: from `demux_window`; it stays usable.
        chosen: pts of the wanted frames, in ticks.

    Returns:
        ``spdl.io.VideoPackets`` to be decoded once, and their pts; all of the clip's where
        nothing can be left out.
    """
    wanted = set(chosen)
    if not clip.frames_only or wanted.issuperset(clip.packet_pts):
        return clip.packets.clone(), clip.packet_pts
    needed = wanted | _reference_pts(clip)
    dropped = [i for i, pts in enumerate(clip.packet_pts) if pts not in needed]
    if not dropped:
        return clip.packets.clone(), clip.packet_pts
    import spdl.io

    expression = "+".join(f"eq(n,{i})" for i in dropped)
    packets = spdl.io.apply_bsf(clip.packets.clone(), f"noise=drop='{expression}'")
    return packets, tuple(pts for pts in clip.packet_pts if pts in needed)


def _reference_pts(clip: ClipPackets) -> set[int]:
    """pts of the packets that hold a reference frame; of all packets if that cannot be told."""
    import spdl.io

    try:
        references = spdl.io.apply_bsf(clip.packets.clone(), _REFERENCES)
    except RuntimeError:  # damaged data, or an FFmpeg whose filter does not have the option
        return set(clip.packet_pts)
    factor = clip.time_base.denominator / clip.time_base.numerator
    return {round(t * factor) for t in references.get_timestamps(raw=True)}
