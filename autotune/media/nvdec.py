"""Packets to frames on NVIDIA's decoder; the frames never leave the GPU.

Packets that no wanted frame needs are left out beforehand (`pruning`). SPDL maps and copies only
frames whose timestamp lies in the window that the packets were demuxed with; so the others are
moved far before it and far behind it. Timestamps rise in display order all the same: NVIDIA's
parser takes ones that do not for decoding timestamps and exchanges them among the frames, for as
long as it lives, and SPDL keeps a parser per thread. What came is counted, and the wanted frames
are taken from it on the GPU. There is no fallback to the CPU: where NVDEC cannot take a clip, that
clip fails.

SPDL's decoder is cached per thread and expensive to make: call this from a few lasting threads.

Not yet run on a GPU here: what can be tested without one is `nv12`, `take_frames` on frames that
FFmpeg decoded, and `is_of_the_clip`. Least certain, in this order:

1. That a frame keeps its packet's timestamp, whatever its size: so NVIDIA's open parser
   (VulkanVideoDecoder::display_picture), and nvcuvid is not open. A count that is right does not
   prove it; `gpu_check`'s PSNR does.
2. That each packet of a window gives one frame. Pictures in front of an open group's keyframe,
   fields in packets of their own and hidden frames (VP8) do not: then every frame of the window
   is decoded and the rule is applied to those that came, as on the CPU.
3. That a stream without its non-reference frames decodes to the same frames (ITU-T H.264 says so,
   FFmpeg does so).
4. Which of CUDA's error codes a damaged or unsuitable clip gives (`_CODES_OF_A_CLIP`): another
   code fails the measurement, and not the clip.
5. Memory: SPDL takes a buffer for as many frames as there are packets, in their own size.
6. That a decoder which SPDL reconfigures for a clip of another size crops and scales as a new one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from autotune.exceptions import DataError, InputError, UnsupportedError
from autotune.media import nv12, nvidia_libraries
from autotune.media.decode import SCALE_ALGORITHMS, DecodedClip, decoded_up_to
from autotune.media.demux import AFTER_ALL
from autotune.media.h264 import VideoSignal
from autotune.media.packets import ClipPackets, one_line
from autotune.media.pruning import prune
from autotune.media.windows import sample_indices

ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""Codecs whose packets NVDEC takes in another form than MP4 keeps them in."""

CODECS = ("h264", "hevc", "vp8", "vp9", "mpeg1video", "mpeg2video", "vc1", "mjpeg")
"""What SPDL 0.8 feeds to NVDEC. (MPEG-4 part 2 and AV1 it refuses from inside a C callback.)"""

_STEPS_OF_A_CLIP = (
    "Failed to parse video data",
    "Failed to decode picture",
    "Failed to create decoder",
    "Failed to reconfigure decoder",
)
"""What SPDL says it was doing where a clip, and not the device, may be to blame."""

_CODES_OF_A_CLIP = (
    "CUDA_ERROR_INVALID_VALUE",
    "CUDA_ERROR_INVALID_IMAGE",
    "CUDA_ERROR_NOT_SUPPORTED",
    "CUDA_ERROR_UNKNOWN",
)
"""What the driver answers to damaged data, or to a format that its engines do not take."""

_CUDA_CODE = re.compile(r"\bCUDA_ERROR_[A-Z0-9_]+|\bcudaError[A-Z]\w*|\bCUDA error\b")

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


def packet_filters(clip: ClipPackets) -> str:
    """The bitstream filters in front of NVDEC: timestamps as SPDL's window needs them, Annex B.

    Frames of ``clip``'s window get one tick more, since SPDL's window starts a tick late (see
    `demux._read_window`); those before and behind it are moved out of any window that SPDL was
    given. The order of timestamps stays.
    """
    far = int(2 * AFTER_ALL / clip.time_base)
    inside_or_behind = f"if(lt(PTS,{clip.hi}),PTS+1,PTS+{far})"
    retime = f"setts=pts='if(lt(PTS,{clip.lo}),PTS-{far},{inside_or_behind})'"
    return ",".join([retime, *filter(None, [ANNEX_B.get(clip.codec)])])


class TakenFrames(NamedTuple):
    """What a decoder gave for a window, and which of it is delivered.

    ``frames[positions]`` are the sample's frames: all that came, in display order, and ascending
    indices into them, with repeats where the window holds too few. ``decoded`` counts as
    `DecodedClip.decoded_frames` does; ``exact`` is `DecodedClip.exact`.
    """

    frames: Any
    positions: list[int]
    decoded: int
    exact: bool


def take_frames(
    clip: ClipPackets, num_frames: int, decode: Callable[[Any], Any | None]
) -> TakenFrames:
    """Decode ``clip``'s window and find the ``num_frames`` frames of `windows.sample_indices`.

    Args:
        clip: from ``demux_window(..., for_nvdec=True)``; it stays usable.
        num_frames: frames of the sample.
        decode: ``spdl.io.VideoPackets`` -> their frames in SPDL's window, in display order; None
            if there is none. It does not say the frames' timestamps.

    Raises:
        DataError: no frame of the window came, or it cannot be told which ones did.
    """
    import spdl.io

    indices = sample_indices(len(clip.window_pts), num_frames)
    chosen = sorted({clip.window_pts[index] for index in indices})
    packets, pts = prune(clip, chosen)
    found = decode(spdl.io.apply_bsf(packets, packet_filters(clip)))
    # Without seeking, SPDL was given no window, and every frame comes.
    coming = sorted(t for t in pts if clip.how == "whole" or clip.lo <= t < clip.hi)
    if found is not None and len(found) == len(coming):
        place = {t: position for position, t in enumerate(coming)}
        positions = [place[clip.window_pts[index]] for index in indices]
        return TakenFrames(found, positions, decoded_up_to(pts, chosen), exact=True)
    if len(pts) < clip.num_packets:
        found = decode(spdl.io.apply_bsf(clip.packets.clone(), packet_filters(clip)))
    if found is None:
        raise DataError(
            clip.name,
            f"NVDEC: none of the {len(clip.window_pts)} frames that its timestamps promise for "
            "the window could be decoded",
        )
    if clip.how == "whole":
        raise DataError(
            clip.name,
            f"NVDEC: {clip.num_packets} packets gave {len(found)} frames, and in a container "
            "that cannot seek SPDL does not tell which of them lie in the window",
        )
    positions = sample_indices(len(found), num_frames)
    return TakenFrames(found, positions, clip.num_packets, exact=False)


def is_of_the_clip(error: Exception) -> bool:
    """Whether SPDL's error says that one clip cannot be decoded.

    Else it is the device's or the configuration's (no memory, a lost device, an error after which
    CUDA answers nothing else), or ours: then no clip must be blamed for it.
    """
    if not isinstance(error, RuntimeError | ValueError | AssertionError):
        return False
    if type(error).__module__.partition(".")[0] == "torch":  # from torch's allocator, in SPDL
        return False
    text = str(error)
    codes = _CUDA_CODE.findall(text)
    if not codes:
        return True
    return all(code in _CODES_OF_A_CLIP for code in codes) and any(
        step in text for step in _STEPS_OF_A_CLIP
    )


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
        InputError: an algorithm or a size that there is not.
        RuntimeError: CUDA's own errors (no memory, a lost device), as SPDL or torch raised them.
    """
    if scale_algorithm not in SCALE_ALGORITHMS:
        raise InputError(
            f"scale_algorithm {scale_algorithm!r}: accepted are {', '.join(SCALE_ALGORITHMS)}"
        )
    if min(num_frames, width, height) < 1:
        raise InputError(f"{num_frames} frames of {width}x{height}: all must be positive")
    signal = check_clip(clip)
    stream = _thread_stream(device_index)
    import torch

    with torch.cuda.stream(stream):
        try:
            taken = take_frames(clip, num_frames, _decoder(clip, device_index, stream))
        except Exception as error:
            if not is_of_the_clip(error):
                raise
            raise DataError(clip.name, f"NVDEC: {one_line(error)}") from error
        unique = sorted(set(taken.positions))
        frames = nv12.to_rgb(
            _select(taken.frames, unique),
            width=width,
            height=height,
            scale_algorithm=scale_algorithm,
            signal=signal,
        )
        place = {position: i for i, position in enumerate(unique)}
        frames = _select(frames, [place[position] for position in taken.positions])
    # The consumer works on the default stream: its memory must not be reused under it.
    frames.record_stream(torch.cuda.default_stream(device_index))
    stream.synchronize()
    return DecodedClip(
        frames, unique_frames=len(unique), decoded_frames=taken.decoded, exact=taken.exact
    )


def _decoder(clip: ClipPackets, device_index: int, stream: Any) -> Callable[[Any], Any | None]:
    """This thread's NVDEC for `take_frames`: packets to NV12 [N, H * 3 / 2, W] on the device."""
    import spdl.io

    def decode(packets: Any) -> Any | None:
        decoder = spdl.io.nvdec_decoder(
            _device_config(device_index, stream),
            packets.codec,
            # Its own size, said aloud: SPDL sizes its buffer by the container's, NVDEC by the
            # stream's.
            scale_width=clip.width,
            scale_height=clip.height,
        )
        try:
            return spdl.io.to_torch(decoder.decode_packets(packets))
        except AssertionError as error:  # SPDL's InternalError
            if "No frames were decoded" in str(error):
                return None
            raise

    return decode


def _select(frames: Any, positions: list[int]) -> Any:
    """``frames[positions]``, without a copy where those are all of them in their order."""
    import torch

    if positions == list(range(len(frames))):
        return frames
    return frames.index_select(0, torch.tensor(positions, device=frames.device))


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
