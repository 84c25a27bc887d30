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
from autotune.media.nvdec import check_clip, is_of_the_clip
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


SPACE = "real/space/nasa_13013.mp4"


@pytest.mark.parametrize(
    ("clip", "window"),
    [(ARM, (0.0, 0.5)), (SPACE, (0.0, 2.0)), (SPACE, (1.3, 0.5)), ("odd/hevc.mp4", (0.0, 0.5)),
     ("odd/non_zero_start.mp4", (0.0, 0.5)), ("odd/discard_first_keyframe.mp4", (0.2, 0.5))],
)  # fmt: skip
def test_nvdec_gets_timestamps_that_rise_in_display_order(
    clip: str, window: tuple[float, float], clips_dir: Path, in_worker: Call
) -> None:
    # Else NVIDIA's parser takes them for decoding timestamps and exchanges them among the frames.
    fed, inside, promised = in_worker(media_remote.for_nvdec, str(clips_dir / clip), window)
    assert fed == sorted(set(fed))
    assert inside == [pts + 1 for pts in promised]
    assert set(inside) < set(fed) or len(fed) == len(promised)


@pytest.mark.parametrize(
    ("clip", "window", "num_frames"),
    [(ARM, (0.0, 0.5), 16), (SPACE, (0.0, 2.0), 16), (SPACE, (1.3, 0.5), 8),
     ("odd/non_zero_start.mp4", (0.0, 0.5), 4)],
)  # fmt: skip
def test_of_the_frames_that_come_the_wanted_ones_are_taken(
    clip: str, window: tuple[float, float], num_frames: int, clips_dir: Path, in_worker: Call
) -> None:
    found = in_worker(media_remote.taken, str(clips_dir / clip), window, num_frames)
    assert found.exact
    assert found.pts == found.promised
    assert found.worst_db > 38
    assert len(found.passes) == 1
    assert found.decoded <= found.passes[0]


def test_frames_that_no_wanted_frame_needs_are_not_decoded(
    clips_dir: Path, in_worker: Call
) -> None:
    found = in_worker(media_remote.taken, str(clips_dir / ARM), (0.0, 2.0), 8)
    assert found.passes[0] < 0.7 * 56
    assert (found.exact, found.decoded) == (True, found.passes[0])
    assert found.pts == found.promised


def test_without_seeking_the_window_is_found_among_all_frames(
    clips_dir: Path, in_worker: Call
) -> None:
    path = str(clips_dir / SPACE)
    found = in_worker(media_remote.taken, path, (1.3, 0.5), 8, seek=False)
    assert found.came == found.passes[0] > 100
    assert found.exact
    assert found.pts == found.promised
    with pytest.raises(DataError, match="cannot seek"):
        in_worker(media_remote.taken, path, (1.3, 0.5), 8, seek=False, lost=1)


def test_fewer_frames_than_packets_and_the_rule_is_applied_to_those_that_came(
    clips_dir: Path, in_worker: Call
) -> None:
    path = str(clips_dir / ARM)
    found = in_worker(media_remote.taken, path, (0.0, 2.0), 8, lost=1)
    assert not found.exact
    assert found.passes[0] < found.passes[1] == 56, "once more, with all packets"
    assert (found.came, found.decoded) == (55, 56)
    with pytest.raises(DataError, match="none of the 56 frames"):
        in_worker(media_remote.taken, path, (0.0, 2.0), 8, lost=1000)


def _torch_error() -> Exception:
    class OutOfMemoryError(RuntimeError):
        """As torch's: raised by its allocator, which SPDL calls."""

    OutOfMemoryError.__module__ = "torch"
    return OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    ("error", "of_the_clip"),
    [
        (RuntimeError("Failed to parse video data. (CUDA_ERROR_UNKNOWN: unknown error)"), True),
        (RuntimeError("Failed to decode picture. (CUDA_ERROR_INVALID_VALUE: invalid)"), True),
        (RuntimeError("Failed to create decoder. (CUDA_ERROR_NOT_SUPPORTED: no)"), True),
        (RuntimeError("Codec not supported on this GPU. Codec: AV1, Bit Depth: 8"), True),
        (RuntimeError("Failed to fetch packet from bit stream filter."), True),
        (AssertionError("[INTERNAL ASSERTION FAILED] Decoder not initialized."), True),
        (RuntimeError("Failed to create decoder. (CUDA_ERROR_OUT_OF_MEMORY: out)"), False),
        (RuntimeError("Failed to decode picture. (CUDA_ERROR_ILLEGAL_ADDRESS: an)"), False),
        (RuntimeError("Failed to map video frame. (CUDA_ERROR_INVALID_VALUE: invalid)"), False),
        (RuntimeError("Failed to copy a frame. (CUDA_ERROR_UNKNOWN: unknown error)"), False),
        (RuntimeError("Failed to allocate CUDA memory (cudaErrorMemoryAllocation: out)"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("Failed to synchronize stream. (CUDA_ERROR_LAUNCH_FAILED: x)"), False),
        (_torch_error(), False),
        (MemoryError(), False),
        (TypeError("decode_packets(): incompatible function arguments"), False),
    ],
)
def test_a_clip_is_not_blamed_for_what_the_device_lacks(
    error: Exception, of_the_clip: bool
) -> None:
    assert is_of_the_clip(error) is of_the_clip


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


def _black(width: int) -> Any:
    import torch

    return nv12.to_rgb(
        torch.full((1, 12, width), 16, dtype=torch.uint8), width=4, height=4,
        scale_algorithm="bicubic", signal=VideoSignal(),
    )  # fmt: skip


def test_a_matrix_is_made_once_however_many_sizes_are_on_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch")
    _black(8)
    nv12._matrix_on.cache_clear()  # as if as many others had come
    monkeypatch.setattr(nv12, "axis_matrix", None)
    _black(8)


def test_a_matrix_that_threads_share_is_kept_until_every_stream_has_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    readers: list[str] = []

    class OnTheGpu:
        is_cuda, device = True, "cuda:0"

        def record_stream(self, stream: str) -> None:
            readers.append(stream)

    shared = OnTheGpu()
    monkeypatch.setattr(nv12, "_matrix_on", lambda *key: shared)
    for stream in ("first", "second"):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device, now=stream: now)
        assert nv12._matrix(8, 4, "bicubic", 0.0, False, "cuda:0") is shared
    assert readers == ["first", "second"]


@pytest.mark.parametrize("algorithm", ["fast_bilinear", "bilinear", "bicubic", "area", "lanczos"])
@pytest.mark.parametrize(("source", "destination"), [(340, 112), (112, 340), (64, 64), (3, 2)])
def test_every_row_of_a_scaling_matrix_sums_to_one(
    algorithm: str, source: int, destination: int
) -> None:
    rows = axis_matrix(source, destination, algorithm)
    assert len(rows) == destination
    assert all(len(row) == source and abs(sum(row) - 1) < 1e-9 for row in rows)
