"""Packets to frames on NVIDIA's decoder; the frames never leave the GPU.

Frames are chosen before anything is done with them: a packet whose frame is not wanted gets a
timestamp behind the window, and SPDL neither maps nor copies what lies outside. What does come is
counted. There is no fallback to the CPU: where NVDEC cannot take a clip, that clip fails.

SPDL's decoder is cached per thread and expensive to make: call this from a few lasting threads.
Not yet run on a GPU here: what can be tested without one is in `nv12` and `retime_filter`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from autotune.exceptions import DataError, InputError, UnsupportedError
from autotune.media import nv12, nvidia_libraries
from autotune.media.decode import DecodedClip, decoded_up_to
from autotune.media.demux import AFTER_ALL
from autotune.media.h264 import VideoSignal
from autotune.media.packets import ClipPackets, one_line
from autotune.media.windows import sample_indices, unique_count

ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""Codecs whose packets NVDEC takes in another form than MP4 keeps them in."""

CODECS = ("h264", "hevc", "vp8", "vp9", "mpeg1video", "mpeg2video", "vc1", "mjpeg")
"""What SPDL 0.8 feeds to NVDEC. (MPEG-4 part 2 and AV1 it refuses from inside a C callback.)"""

_local = threading.local()


def check_clip(clip: ClipPackets) -> VideoSignal:
    """How ``clip``'s samples are to be read, if NVDEC through SPDL can decode it at all.

    Raises:
        DataError: it cannot; better here than from inside NVIDIA's parser.
    """
    if clip.codec not in CODECS:
        raise DataError(clip.name, f"NVDEC through SPDL does not decode {clip.codec}")
    signal = clip.signal
    if signal is None:
        raise DataError(clip.name, "was demuxed without for_nvdec: its colour is unknown")
    if signal.matrix in nv12.UNSUPPORTED:
        raise DataError(clip.name, f"colour matrix {signal.matrix} is not supported on NVDEC")
    if not signal.fits_nv12:
        raise DataError(
            clip.name,
            f"NVDEC through SPDL decodes 8-bit 4:2:0 only; this is {signal.bit_depth}-bit, "
            f"chroma format {signal.chroma_format}",
        )
    if clip.width % 2 or clip.height % 2:
        raise DataError(
            clip.name, f"NVDEC through SPDL needs even sizes; this is {clip.width}x{clip.height}"
        )
    return signal


def retime_filter(clip: ClipPackets, chosen: Sequence[int]) -> str:
    """The bitstream filters that put every frame but the chosen ones behind the window.

    One tick is added to the others, since SPDL's window starts a tick late (`demux._read_window`).
    """
    behind = int(2 * AFTER_ALL / clip.time_base)
    wanted = "+".join(f"eq(PTS,{pts})" for pts in chosen)
    retime = f"setts=pts='if({wanted},PTS+1,PTS+{behind})'"
    return ",".join([retime, *filter(None, [ANNEX_B.get(clip.codec)])])


def decode_nvdec(
    clip: ClipPackets,
    *,
    num_frames: int,
    width: int,
    height: int,
    scale_algorithm: str = "bicubic",
    device_index: int = 0,
) -> DecodedClip:
    """Decode the ``num_frames`` frames that `windows.sample_indices` names, on the GPU.

    Args:
        clip: from ``demux_window(..., for_nvdec=True)``; it stays usable.
        num_frames, width, height, scale_algorithm: as for `decode_cpu`.
        device_index: the CUDA device.

    Returns:
        Frames [num_frames, 3, height, width] on the device, complete (the stream was waited for)
        and safe to use on the device's default stream.

    Raises:
        DataError: NVDEC cannot decode this clip, or it holds no frame of the window.
        UnsupportedError: this machine or process has no NVDEC; with the remedy.
        InputError: a size that is not positive.
    """
    if min(num_frames, width, height) < 1:
        raise InputError(f"{num_frames} frames of {width}x{height}: all must be positive")
    signal = check_clip(clip)
    indices = sample_indices(len(clip.window_pts), num_frames)
    chosen = [clip.window_pts[i] for i in sorted(set(indices))]
    stream = _thread_stream(device_index)
    import torch

    try:
        with torch.cuda.stream(stream):
            found = _decode(clip, chosen, device_index, stream)
            if len(found) == len(chosen):
                place = {index: i for i, index in enumerate(sorted(set(indices)))}
                positions = [place[index] for index in indices]
                unique, decoded, exact = len(chosen), decoded_up_to(clip.packet_pts, chosen), True
            else:
                found = _decode(clip, clip.window_pts, device_index, stream)
                positions = sample_indices(len(found), num_frames)
                unique, decoded, exact = unique_count(positions), clip.num_packets, False
                found = found.index_select(0, _to_device(sorted(set(positions)), found.device))
                place = {index: i for i, index in enumerate(sorted(set(positions)))}
                positions = [place[index] for index in positions]
            frames = nv12.to_rgb(
                found, width=width, height=height, scale_algorithm=scale_algorithm, signal=signal
            )
            if positions != list(range(len(frames))):
                frames = frames.index_select(0, _to_device(positions, frames.device))
        # The consumer works on the default stream: its memory must not be reused under it.
        frames.record_stream(torch.cuda.default_stream(device_index))
        stream.synchronize()
    except (DataError, UnsupportedError, torch.cuda.OutOfMemoryError):
        raise  # out of memory is the configuration's failure, not this clip's
    except Exception as error:  # SPDL raises RuntimeError, torch its own
        raise DataError(clip.name, f"NVDEC: {one_line(error)}") from error
    return DecodedClip(frames, unique_frames=unique, decoded_frames=decoded, exact=exact)


def _decode(clip: ClipPackets, chosen: Sequence[int], device_index: int, stream: Any) -> Any:
    """The chosen frames as NV12 tensor [N, H * 3 / 2, W] on the device, in presentation order."""
    import spdl.io

    packets = spdl.io.apply_bsf(clip.packets.clone(), retime_filter(clip, chosen))
    decoder = spdl.io.nvdec_decoder(
        _device_config(device_index, stream),
        packets.codec,
        # Its own size, said aloud: SPDL sizes its buffer by the container's, NVDEC by the stream's.
        scale_width=clip.width,
        scale_height=clip.height,
    )
    return spdl.io.to_torch(decoder.decode_packets(packets))


def _to_device(positions: Sequence[int], device: Any) -> Any:
    import torch

    return torch.tensor(positions, device=device)


def _thread_stream(device_index: int) -> Any:
    """This thread's own CUDA stream.

    SPDL's copies, torch's work and torch's allocator all use it, so memory that is freed is only
    reused behind the work that read it.

    Raises:
        UnsupportedError: no CUDA, or SPDL's NVDEC module cannot be loaded in this process.
    """
    if getattr(_local, "device_index", None) == device_index:
        return _local.stream
    import torch

    if not torch.cuda.is_available():
        raise UnsupportedError(
            "device: nvdec needs a CUDA build of torch and a visible GPU; torch "
            f"{torch.__version__} sees none. Remedy: install torch for CUDA, check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or use device: cpu"
        )
    if device_index >= torch.cuda.device_count():
        raise UnsupportedError(
            f"CUDA device {device_index}: this process sees {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(device_index)
    check_module()
    _local.stream = torch.cuda.Stream(device_index)
    _local.device_index = device_index
    _local.config = None
    return _local.stream


def check_module() -> None:
    """Load SPDL's CUDA module, and say what is missing where that fails.

    Raises:
        UnsupportedError: with the remedy.
    """
    from spdl.io.lib import _libspdl_cuda

    try:
        getattr(_libspdl_cuda, "make_nvdec_decoder")  # noqa: B009 - loads the module
    except Exception as error:
        remedy = "; ".join(nvidia_libraries.missing()) or (
            "start the process with the variables of "
            "autotune.media.native.library_environment(device='nvdec')"
        )
        raise UnsupportedError(
            f"SPDL's NVDEC module cannot be loaded ({one_line(error)}). Remedy: {remedy}"
        ) from error


def _device_config(device_index: int, stream: Any) -> Any:
    import spdl.io
    import torch

    if _local.config is None:
        _local.config = spdl.io.cuda_config(
            device_index=device_index,
            stream=stream.cuda_stream,
            allocator=(torch.cuda.caching_allocator_alloc, torch.cuda.caching_allocator_delete),
        )
    return _local.config
