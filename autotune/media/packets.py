"""What demuxing hands to decoding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from autotune.media.h264 import VideoSignal

How = Literal["window", "to_end", "whole"]
"""How much of the clip had to be read: see `ClipPackets.how`."""

_SOURCE_PLACE = re.compile(r" ?\(/[^()]*:\d+\)")
"""SPDL ends its messages with the place in its C++ source: no use to the reader."""


@dataclass(frozen=True, slots=True)
class ClipPackets:
    """The compressed frames of one window; picklable, and cheap to send.

    Attributes:
        name: the clip, for messages.
        packets: ``spdl.io.VideoPackets`` in decoding order, from the keyframe at or before the
            window to the last frame that the window needs. Decoding leaves them intact.
        time_base: seconds a tick.
        first_pts: the clip's own first timestamp, in ticks: windows count from it.
        lo, hi: the window, in ticks, half-open.
        window_pts: pts of the frames in the window, ascending. What the container promises.
        packet_pts: pts of all of ``packets``, in decoding order.
        codec: FFmpeg's codec name, e.g. ``h264``.
        width, height: size of the coded video in pixels, as the container says.
        pix_fmt: FFmpeg's pixel format, None where the clip was opened without a decoder.
        num_read: packets read from the container to find ``packets``.
        how: ``window``: read to a proof that the window is complete; ``to_end``: no such proof,
            the rest of the clip was read; ``whole``: the clip cannot seek, all of it was read.
        signal: colour, range and depth of its samples; only read for NVDEC, which does not say.
        frames_only: whether it is H.264 that is known to hold no fields: a packet is a frame.
    """

    name: str
    packets: Any
    time_base: Fraction
    first_pts: int
    lo: int
    hi: int
    window_pts: tuple[int, ...]
    packet_pts: tuple[int, ...]
    codec: str
    width: int
    height: int
    pix_fmt: str | None
    num_read: int
    how: How
    signal: VideoSignal | None = None
    frames_only: bool = False

    @property
    def num_packets(self) -> int:
        """How many packets there are to decode."""
        return len(self.packet_pts)


def one_line(error: BaseException) -> str:
    """An error's text as one short line: the cause that is stored and shown."""
    text = _SOURCE_PLACE.sub("", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
