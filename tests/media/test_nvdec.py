"""The NVDEC path as far as it goes without a GPU: what it is fed, and what is made of its frames.

`make gpu-check` runs the rest.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import media_remote
import pytest
from media_remote import Call

from autotune.exceptions import DataError
from autotune.media import nv12
from autotune.media.h264 import VideoSignal, parse_sps, signal_from_movie
from autotune.media.iso_media import movie_box
from autotune.media.nvdec import check_clip
from autotune.media.packets import ClipPackets
from autotune.media.resampling import axis_matrix

ARM = "real/arm_wrestling/arm_wrestling.mp4"


@pytest.mark.parametrize("algorithm", ["fast_bilinear", "bilinear", "bicubic", "area", "lanczos"])
@pytest.mark.parametrize(
    "clip",
    [ARM, "real/space/nasa_13013.mp4", "real/street/spatiotemporal.mp4", "odd/non_zero_start.mp4"],
)
def test_scaling_nv12_is_close_to_the_reference(
    clip: str, algorithm: str, clips_dir: Path, in_worker: Call
) -> None:
    # 35 dB is promised for NVDEC; the frames it decodes are the same, so this is what is lost.
    assert in_worker(media_remote.nv12_psnr, str(clips_dir / clip), algorithm) > 38


@pytest.mark.parametrize("keep", [1, 5, 14])
def test_frames_that_are_not_wanted_are_put_behind_the_window(
    keep: int, clips_dir: Path, in_worker: Call
) -> None:
    inside, behind, base = in_worker(media_remote.retimed, str(clips_dir / ARM), keep)
    assert sorted(round(t / base) for t in inside) == [512 * i + 1 for i in range(keep)]
    assert len(behind) == 14 - keep


@pytest.mark.parametrize(
    ("clip", "signal"),
    [
        (ARM, VideoSignal(1, 8, False, 2)),
        ("real/space/nasa_13013.mp4", VideoSignal(1, 8, False, 1)),
        ("real/flipping_a_pancake/flipping_a_pancake.mkv", VideoSignal(1, 8, False, 2)),
        ("odd/h264_10bit.mp4", VideoSignal(1, 10, False, 2)),
        ("odd/odd_size_yuv444.mp4", VideoSignal(3, 8, False, 2)),
        ("odd/rotated.mp4", VideoSignal(1, 8, False, 1)),
    ],
)
def test_the_signal_is_what_a_decoder_says(
    clip: str, signal: VideoSignal, clips_dir: Path, in_worker: Call
) -> None:
    found = in_worker(media_remote.demuxed, str(clips_dir / clip), (0.0, 0.4), for_nvdec=True)
    assert found.signal == signal


def _full_range_clip(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.options = {"x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709"}
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(
                np.full((72, 64), 10 * number, np.uint8), format="yuvj420p"
            )
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_full_range_and_matrix_are_read_from_the_parameter_set(tmp_path: Path) -> None:
    path = tmp_path / "full.mp4"
    _full_range_clip(path)
    assert signal_from_movie(movie_box(path.read_bytes())) == VideoSignal(1, 8, True, 1)


@pytest.mark.parametrize("sps", [b"", b"\x67", b"\x67\x64\x00\x1f", b"\x67" + b"\x00" * 30])
def test_a_damaged_parameter_set_is_an_error(sps: bytes) -> None:
    with pytest.raises(ValueError, match=r"H\.264"):
        parse_sps(sps)


def _clip(**fields: Any) -> ClipPackets:
    values: dict[str, Any] = {
        "name": "x.mp4", "packets": None, "time_base": Fraction(1, 1000), "first_pts": 0, "lo": 0,
        "hi": 500, "window_pts": (0,), "packet_pts": (0,), "codec": "h264", "width": 340,
        "height": 256, "pix_fmt": None, "num_read": 1, "how": "window", "signal": VideoSignal(),
    }  # fmt: skip
    return ClipPackets(**(values | fields))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"codec": "av1"}, "does not decode av1"),
        ({"signal": None}, "for_nvdec"),
        ({"signal": VideoSignal(bit_depth=10)}, "10-bit"),
        ({"signal": VideoSignal(chroma_format=3)}, "chroma format 3"),
        ({"signal": VideoSignal(matrix=0)}, "colour matrix 0"),
        ({"width": 321}, "321x256"),
    ],
)
def test_what_nvdec_cannot_take_is_refused_before_it_is_fed(
    fields: dict[str, Any], cause: str
) -> None:
    with pytest.raises(DataError, match=cause):
        check_clip(_clip(**fields))
    assert check_clip(_clip()) == VideoSignal()


def test_without_a_gpu_nothing_falls_back_to_the_cpu(clips_dir: Path, in_worker: Call) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refusal = in_worker(media_remote.nvdec_refusal, str(clips_dir / ARM))
    assert refusal.startswith("UnsupportedError: device: nvdec needs a CUDA build of torch")


def test_white_black_and_grey_survive_the_conversion() -> None:
    torch = pytest.importorskip("torch")
    for full_range, levels in ((False, (16, 235, 126)), (True, (0, 255, 128))):
        for level, expected in zip(levels, (0, 255, 128), strict=True):
            frames = torch.full((1, 12, 8), 128, dtype=torch.uint8)
            frames[:, :8] = level
            rgb = nv12.to_rgb(
                frames, width=4, height=4, scale_algorithm="bicubic",
                signal=VideoSignal(full_range=full_range),
            )  # fmt: skip
            assert rgb.shape == (1, 3, 4, 4)
            assert (rgb.int() - expected).abs().max() <= 1


@pytest.mark.parametrize("algorithm", ["fast_bilinear", "bilinear", "bicubic", "area", "lanczos"])
@pytest.mark.parametrize(("source", "destination"), [(340, 112), (112, 340), (64, 64), (3, 2)])
def test_every_row_of_a_scaling_matrix_sums_to_one(
    algorithm: str, source: int, destination: int
) -> None:
    rows = axis_matrix(source, destination, algorithm)
    assert len(rows) == destination
    assert all(len(row) == source and abs(sum(row) - 1) < 1e-9 for row in rows)
