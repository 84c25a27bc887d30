"""What the fast path delivers equals the slow reference, to the bit."""

from __future__ import annotations

from pathlib import Path

import media_remote
import pytest
from media_remote import Call

from autotune.exceptions import DataError, InputError

REAL = (
    "arm_wrestling/arm_wrestling.mp4",
    "flipping_a_pancake/flipping_a_pancake.mkv",
    "riding_a_bike/bikes.mp4",
    "space/nasa_13013.mp4",
    "street/structuralize.mp4",
    "street/spatiotemporal.mp4",
    "street/person_1080p.mp4",
)
LENGTH = {"street/person_1080p.mp4": 2.566, "street/spatiotemporal.mp4": 9.5}
ALGORITHMS = ("fast_bilinear", "bilinear", "bicubic", "area")


def _windows(clip: str) -> list[tuple[float, float]]:
    last = LENGTH.get(clip, 9.9) - 0.2
    windows = [(0.0, 0.5), (0.0, 2.0), (1.3, 0.5), (3.0, 1.0), (last, 5.0)]
    return [w for w in windows if w[0] < LENGTH.get(clip, 9.9)]


@pytest.mark.parametrize("clip", REAL)
def test_delivered_frames_are_the_references(clip: str, clips_dir: Path, in_worker: Call) -> None:
    for window in _windows(clip):
        # A size that is not a multiple of anything, so that the scaler's borders are seen.
        for found in in_worker(
            media_remote.compare, str(clips_dir / "real" / clip), window, ALGORITHMS, (113, 90)
        ):
            assert found.difference == 0, window
            assert found.pts_equal, window
            assert found.exact, window
            assert found.shape == (16, 90, 113, 3)


@pytest.mark.parametrize(
    "clip",
    [
        "av1.mkv",
        "vp9.webm",
        "hevc.mp4",
        "h264_10bit.mp4",
        "odd_size_yuv444.mp4",
        "rotated.mp4",
        "non_zero_start.mp4",
        "discard_first_keyframe.mp4",
        "corrupted.mp4",
    ],
)
def test_odd_clips_are_decoded_like_the_reference(
    clip: str, clips_dir: Path, in_worker: Call
) -> None:
    path = str(clips_dir / "odd" / clip)
    for window in ((0.0, 0.5), (0.2, 0.3)):
        for found in in_worker(media_remote.compare, path, window, ALGORITHMS, (112, 112)):
            assert found.difference == 0, window
            assert found.pts_equal, window


@pytest.mark.parametrize("clip", ["truncated.mp4", "empty.mp4", "text.mp4"])
def test_what_is_no_video_fails_with_its_name_and_cause(
    clip: str, clips_dir: Path, in_worker: Call
) -> None:
    with pytest.raises(DataError, match="Invalid data found") as caught:
        in_worker(media_remote.decoded, str(clips_dir / "odd" / clip), (0.0, 0.5))
    assert caught.value.name.endswith(clip)
    assert "ctx_utils.cpp" not in caught.value.cause


def test_a_damaged_part_is_decoded_as_far_as_it_goes(clips_dir: Path, in_worker: Call) -> None:
    path = str(clips_dir / "odd" / "corrupted.mp4")
    clip = in_worker(media_remote.decoded, path, (3.0, 1.0), num_frames=10)
    assert not clip.exact
    assert 0 < clip.unique_frames < 10
    assert len(clip.frames) == 10


def test_a_window_behind_the_end_fails_and_says_where_the_clip_ends(
    clips_dir: Path, in_worker: Call
) -> None:
    path = str(clips_dir / "real" / REAL[0])
    with pytest.raises(DataError, match=r"no frame in \[40.*end at 9\.964 s"):
        in_worker(media_remote.decoded, path, (40.0, 0.5))


def test_a_clip_that_starts_late_still_gives_frames(clips_dir: Path, in_worker: Call) -> None:
    path = str(clips_dir / "odd" / "non_zero_start.mp4")
    clip = in_worker(media_remote.decoded, path, (0.0, 0.5), num_frames=12)
    assert clip.unique_frames == 12
    assert clip.frames.max() > clip.frames.min()


def test_packets_decode_the_same_after_a_round_trip(clips_dir: Path, in_worker: Call) -> None:
    for window in ((0.0, 0.5), (1.3, 0.5)):
        frames_equal, fields_equal = in_worker(
            media_remote.round_trip, str(clips_dir / "real" / REAL[0]), window
        )
        assert frames_equal
        assert fields_equal


def test_missing_frames_are_padded_with_the_last_one(clips_dir: Path, in_worker: Call) -> None:
    path = str(clips_dir / "real" / "street" / "spatiotemporal.mp4")
    clip = in_worker(media_remote.decoded, path, (0.0, 0.5), num_frames=6)
    assert clip.unique_frames == 3
    assert len(clip.frames) == 6
    assert all((clip.frames[2] == frame).all() for frame in clip.frames[3:])
    assert not (clip.frames[1] == clip.frames[2]).all()


def test_frames_that_do_not_come_as_promised_are_noticed(clips_dir: Path, in_worker: Call) -> None:
    honest, noticed = in_worker(media_remote.wrong_promise, str(clips_dir / "real" / REAL[0]))
    assert honest.exact
    assert not noticed.exact
    assert (honest.frames == noticed.frames).all()


def test_decoder_threads_change_nothing_but_the_time(clips_dir: Path, in_worker: Call) -> None:
    path = str(clips_dir / "real" / REAL[0])
    one, three = (
        in_worker(media_remote.decoded, path, (0.3, 0.5), decoder_threads=n) for n in (1, 3)
    )
    assert (one.frames == three.frames).all()
    assert one.decoded_frames == three.decoded_frames


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"scale_algorithm": "best"}, "accepted are fast_bilinear"), ({"width": 0}, "positive")],
)
def test_wrong_settings_are_the_users_error(
    setting: dict[str, object], message: str, clips_dir: Path, in_worker: Call
) -> None:
    with pytest.raises(InputError, match=message):
        in_worker(media_remote.decoded, str(clips_dir / "real" / REAL[0]), (0.0, 0.5), **setting)
