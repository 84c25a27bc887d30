"""The reference's scaler for decoders that have none of their own, or another one."""

from __future__ import annotations

from typing import Any

from autotune.media.decoders.base import Window


class Scaler:
    """FFmpeg's scaler through PyAV, kept between frames: setting it up costs more than a frame."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def video_frame(self, frame: Any, window: Window) -> Any:
        """An ``av.VideoFrame`` as uint8 array [H, W, 3] in RGB, scaled as the window says."""
        height, width = window.size or (frame.height, frame.width)
        scaled = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=window.scale_algorithm.upper(),
        )
        return scaled.to_ndarray()

    def rgb(self, picture: Any, window: Window) -> Any:
        """An RGB picture, uint8 [H, W, 3], scaled as the window says."""
        if window.size is None or picture.shape[:2] == window.size:
            return picture
        return self._scaled(picture, "rgb24", window)

    def bgr(self, picture: Any, window: Window) -> Any:
        """As `rgb`, of a picture in BGR order: FFmpeg swaps the two while it scales."""
        return self._scaled(picture, "bgr24", window)

    def _scaled(self, picture: Any, layout: str, window: Window) -> Any:
        import av

        return self.video_frame(av.VideoFrame.from_ndarray(picture, format=layout), window)
