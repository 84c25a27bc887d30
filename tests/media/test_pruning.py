"""Frames that nothing needs are not decoded; `test_delivery` says that the others stay the same."""

from __future__ import annotations

from pathlib import Path

import av
import media_remote
import numpy as np
import pytest
from media_remote import Call

from autotune.media.h264 import only_frames
from autotune.media.iso_media import movie_box

ARM = "real/arm_wrestling/arm_wrestling.mp4"


def _non_reference(path: Path) -> set[int]:
    """pts of the packets whose every slice has nal_ref_idc 0."""
    found = set()
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.best("video")):
            data, at, reference = bytes(packet), 0, False
            while at + 4 < len(data):
                if data[at + 4] & 31 in (1, 5):
                    reference |= data[at + 4] >> 5 & 3 != 0
                at += 4 + int.from_bytes(data[at : at + 4], "big")
            if packet.pts is not None and not reference:
                found.add(packet.pts)
    return found


@pytest.mark.parametrize("window", [(0.0, 2.0), (3.1, 0.5)])
def test_only_what_no_wanted_frame_needs_is_left_out(
    window: tuple[float, float], clips_dir: Path, in_worker: Call
) -> None:
    path = clips_dir / ARM
    everything, left, wanted, pts = in_worker(media_remote.pruned, str(path), window, 4)
    assert left < 0.8 * everything
    assert wanted <= pts
    assert not (pts - wanted) & _non_reference(path)


def test_nothing_is_left_out_where_every_frame_is_wanted(clips_dir: Path, in_worker: Call) -> None:
    everything, left, *_ = in_worker(media_remote.pruned, str(clips_dir / ARM), (0.0, 0.5), 1)
    assert everything == left == 14


def test_frames_left_out_are_not_counted_as_decoded(clips_dir: Path, in_worker: Call) -> None:
    path = str(clips_dir / ARM)
    all_packets = in_worker(media_remote.demuxed, path, (0.0, 2.0)).num_packets
    clip = in_worker(media_remote.decoded, path, (0.0, 2.0), num_frames=16)
    assert clip.exact
    assert 16 <= clip.decoded_frames < all_packets


@pytest.mark.parametrize("clip", ["hevc.mp4", "vp9.webm", "av1.mkv"])
def test_other_codecs_are_decoded_whole(clip: str, clips_dir: Path, in_worker: Call) -> None:
    path = str(clips_dir / "odd" / clip)
    everything, left, *_ = in_worker(media_remote.pruned, path, (0.0, 0.5), 4)
    assert everything == left


def _encoded(path: Path, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(30):
            picture = np.full((64, 64, 3), 8 * i, np.uint8)
            picture[:, i : i + 9] = 255 - 8 * i
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("options", "prunes"), [({}, True), ({"x264-params": "tff=1"}, False)])
def test_a_clip_that_may_hold_fields_is_decoded_whole(
    options: dict[str, str], prunes: bool, tmp_path: Path, in_worker: Call
) -> None:
    """Half of a picture could else be left out, and the other half shown."""
    path = _encoded(tmp_path / "clip.mp4", {"bf": "3", **options})
    assert only_frames(movie_box(path.read_bytes())) is prunes
    everything, left, *_ = in_worker(media_remote.pruned, str(path), (0.0, 1.0), 5)
    assert (left < everything) is prunes


@pytest.mark.parametrize("movie", [b"", b"avcC", b"avcC" + bytes(20), b"avcC\1\0\0\0\0\xe1\0\x09"])
def test_a_damaged_parameter_set_promises_nothing(movie: bytes) -> None:
    assert not only_frames(movie)
