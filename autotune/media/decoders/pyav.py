"""PyAV: reads the packets a window needs, decodes to its last frame, converts what is kept."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

from autotune.exceptions import DataError
from autotune.media.decoders.base import (
    DecodedWindow,
    Decoder,
    Stopwatch,
    Window,
    assemble,
    chosen,
    read_file,
    require,
    unique,
)
from autotune.media.decoders.scaling import Scaler
from autotune.media.reference import reference_frames
from autotune.media.windows import PtsWindow, pts_window


class PyAV(Decoder):
    """FFmpeg of PyAV's wheel, driven packet by packet."""

    name: ClassVar[str] = "pyav"
    package: ClassVar[str] = "av"
    module: ClassVar[str] = "av"

    def __init__(self) -> None:
        self._av = require(self.module, self.package, self.name)
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        watch = Stopwatch()
        try:
            with watch("demux"):
                container = self._av.open(path)
            with container:
                found = self._fast(container, name, window, watch)
        except (FileNotFoundError, PermissionError) as error:  # which PyAV's own are as well
            raise DataError(name, f"cannot be read: {error.strerror}") from error
        except self._av.FFmpegError as error:
            raise DataError(name, error.strerror or str(error)) from error
        return found if found is not None else self._slow(path, name, window, watch)

    def _fast(
        self, container: Any, name: str, window: Window, watch: Stopwatch
    ) -> DecodedWindow | None:
        """The window's frames; None where the timestamps did not say which frames there are
        (an edit list, damaged data): then every frame has to be decoded to know."""
        stream = container.streams.best("video")
        if stream is None or stream.time_base is None:
            raise DataError(name, "no video stream")
        with watch("demux"):
            packets, inside = _packets(container, stream, window)
        if not inside:
            return None
        wanted, places = chosen(len(inside), window)
        keep = {inside[index] for index in wanted}
        last = max(i for i, packet in enumerate(packets) if packet.pts in keep)
        context = stream.codec_context
        context.thread_type = "NONE" if window.threads == 1 else "AUTO"
        context.thread_count = window.threads
        pictures: dict[int, Any] = {}
        for packet in [*packets[: last + 1], None]:
            with watch("decode"):
                frames = context.decode(packet)
            with watch("scale"):
                for frame in frames:
                    if frame.pts in keep:
                        pictures[frame.pts] = self._scaler.video_frame(frame, window)
            if len(pictures) == len(keep):
                break
        if len(pictures) < len(keep):
            return None
        with watch("scale"):
            stacked = assemble([pictures[inside[index]] for index in wanted], places)
        return DecodedWindow(stacked, len(wanted), last + 1, watch.seconds)

    def _slow(self, path: str, name: str, window: Window, watch: Stopwatch) -> DecodedWindow:
        """By the reference: decode from the start, choose among the frames that came out."""
        with watch("fetch"):
            data = read_file(path, name)
        with watch("decode"):
            frames, _ = reference_frames(data, name, window.start, window.duration)
        wanted, places = chosen(len(frames), window)
        with watch("scale"):
            pictures = [self._scaler.video_frame(frames[index], window) for index in wanted]
            stacked = assemble(pictures, places)
        return DecodedWindow(stacked, unique(places), len(frames), watch.seconds)


def _packets(container: Any, stream: Any, window: Window) -> tuple[list[Any], list[int]]:
    """The packets of the window in decoding order, and the pts in it, ascending.

    Reading ends at the first packet with dts at or behind the end: no frame has pts < dts, so
    none of the window can follow. Both are empty where the first timestamp is below zero: then
    an edit list hides frames.
    """
    time_base = Fraction(stream.time_base)
    packets: list[Any] = []
    bounds: PtsWindow | None = None
    for packet in container.demux(stream):
        if packet.pts is None or packet.dts is None:
            continue
        if bounds is None:
            if packet.pts < 0:
                return [], []
            bounds = pts_window(packet.pts, time_base, window.start, window.duration)
            if window.start > 0:
                return _from_keyframe(container, stream, bounds)
        packets.append(packet)
        if packet.dts >= bounds.hi:
            break
    return packets, sorted(p.pts for p in packets if bounds is not None and p.pts in bounds)


def _from_keyframe(container: Any, stream: Any, bounds: PtsWindow) -> tuple[list[Any], list[int]]:
    """As `_packets`, from the keyframe at or before the window."""
    container.seek(bounds.lo, stream=stream)
    packets: list[Any] = []
    for packet in container.demux(stream):
        if packet.pts is None or packet.dts is None:
            continue
        packets.append(packet)
        if packet.dts >= bounds.hi:
            break
    if not packets or packets[0].pts > bounds.lo or not packets[0].is_keyframe:
        return [], []  # a container that cannot seek
    return packets, sorted(p.pts for p in packets if p.pts in bounds)
