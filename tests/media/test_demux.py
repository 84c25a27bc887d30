from __future__ import annotations

import io
from pathlib import Path

import av
import media_remote
import pytest
from media_remote import Call

from autotune.exceptions import DataError
from autotune.media.iso_media import movie_box, opens_without_decoder

ARM = "real/arm_wrestling/arm_wrestling.mp4"
SLOW = "real/street/spatiotemporal.mp4"


def _packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return [packet for packet in container.demux(stream) if packet.pts is not None]


def test_a_window_is_read_to_a_small_margin_and_cut_to_what_it_needs(
    clips_dir: Path, in_worker: Call
) -> None:
    clip = in_worker(media_remote.demuxed, str(clips_dir / ARM), (0.0, 0.5))
    assert clip.how == "window"
    assert len(clip.window_pts) == 14
    assert clip.num_packets == 14  # SPDL's own window hands over 23 here
    assert clip.num_read < 28
    assert clip.window_pts == tuple(sorted(clip.packet_pts))


def test_every_window_of_the_clip_with_far_reordering_is_complete(
    clips_dir: Path, in_worker: Call
) -> None:
    """SPDL's own windows lose frames here: frames are reordered over more than its 0.3 s."""
    path = clips_dir / SLOW
    every = [packet.pts for packet in _packets(path)]
    base = 12288
    for tenths in range(0, 94, 3):
        for duration in (0.5, 1.0):
            lo, hi = tenths * base / 10, (tenths / 10 + duration) * base
            expected = tuple(sorted(pts for pts in every if lo <= pts < hi))
            clip = in_worker(media_remote.demuxed, str(path), (tenths / 10, duration))
            assert clip.window_pts == expected


def test_a_window_on_a_keyframe_starts_with_it(clips_dir: Path, in_worker: Call) -> None:
    path = clips_dir / "real/riding_a_bike/bikes.mp4"
    keys = [packet.pts for packet in _packets(path) if packet.is_keyframe]
    clip = in_worker(media_remote.demuxed, str(path), (keys[2] / 12800, 0.5))
    assert clip.lo == keys[2]
    assert clip.packet_pts[0] == keys[2]


def test_the_last_window_reads_to_the_end(clips_dir: Path, in_worker: Call) -> None:
    clip = in_worker(media_remote.demuxed, str(clips_dir / ARM), (9.5, 5.0))
    assert clip.how == "to_end"
    assert clip.window_pts[-1] == 142848
    assert len(clip.window_pts) == 14


def test_the_best_video_stream_is_taken_not_the_first(clips_dir: Path, in_worker: Call) -> None:
    path = clips_dir / "real/space/nasa_13013.mp4"
    assert not opens_without_decoder(path.read_bytes())
    clip = in_worker(media_remote.demuxed, str(path), (0.0, 0.5))
    assert (clip.width, clip.height) == (480, 270)


@pytest.mark.parametrize(
    "clip", [ARM, SLOW, "odd/hevc.mp4", "odd/discard_first_keyframe.mp4", "odd/rotated.mp4"]
)
def test_quick_opening_changes_nothing(clip: str, clips_dir: Path, in_worker: Call) -> None:
    for window in ((0.0, 0.4), (0.2, 0.3)):
        assert in_worker(media_remote.full_probing_agrees, str(clips_dir / clip), window)


def test_only_a_plain_mp4_is_opened_without_probing(clips_dir: Path) -> None:
    data = (clips_dir / ARM).read_bytes()
    assert opens_without_decoder(data)
    assert not opens_without_decoder(data[:4096])  # moov is missing or cut
    assert not opens_without_decoder(b"")
    assert not opens_without_decoder((clips_dir / "odd/vp9.webm").read_bytes())
    assert not opens_without_decoder((clips_dir / "odd/text.mp4").read_bytes())


@pytest.mark.parametrize("head", [b"", b"\0\0\0\0", b"\0\0\0\4moov", b"\xff\xff\xff\xffmoov"])
def test_damaged_boxes_end_the_search(head: bytes) -> None:
    assert movie_box(head) == b""


def _remuxed(path: Path, container: str, seconds: float = 3) -> bytes:
    """The same packets in another container, which may not seek or lack timestamps."""
    target = io.BytesIO()
    with av.open(str(path)) as source, av.open(target, "w", format=container) as out:
        stream = source.streams.best("video")
        assert stream is not None
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is None or packet.pts * stream.time_base > seconds:
                continue
            packet.stream = copy
            out.mux(packet)
    return target.getvalue()


@pytest.mark.parametrize("container", ["mpegts", "matroska", "flv", "mov"])
def test_other_containers_give_the_same_frames(
    container: str, clips_dir: Path, in_worker: Call
) -> None:
    path = clips_dir / ARM
    data = _remuxed(path, container)
    for window in ((0.0, 0.5), (1.0, 0.5)):
        expected = in_worker(media_remote.decoded, str(path), window)
        found = in_worker(media_remote.decoded_bytes, data, window)
        assert (expected.frames == found.frames).all()


def test_a_container_without_timestamps_fails_with_the_cause(
    clips_dir: Path, in_worker: Call
) -> None:
    data = _remuxed(clips_dir / ARM, "h264")
    with pytest.raises(DataError) as caught:
        in_worker(media_remote.decoded_bytes, data, (0.0, 0.5))
    assert caught.value.name == "memory"
    assert caught.value.cause
