"""What a loader really delivers, checked in every measurement.

A pipeline that delivers fewer frames, smaller ones, on another device, or drops samples is not
fast, it is broken, and nothing but its batches tells. The first ones are looked at closely,
every one after them by its attributes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.exceptions import MeasurementFailed
from autotune.trial import Delivered, Failure, FailureKind, Measurement

if TYPE_CHECKING:
    from autotune.targets.base import Batch, Loader

LOOKED_AT_SAMPLES = 8
"""So many samples without any content (one value, one frame repeated) are not by chance."""

SURELY_BUSY_FPS = 2000.0
"""Decoded frames/s of one GPU at which NVML cannot read 0 %. It tells whole per cents of all of a
GPU's decode engines together; eight engines at 20,000 small frames/s each, more than any is known
to reach, would make 1,600 frames/s of one per cent."""

_ADVICE = "The pipeline is not the one asked for, so its figures would mislead."


class DeliveryCheck:
    """Compares batches with what the configuration asks for, and with one another.

    A mismatch ends the measurement as a wrong readback does: kind ``start_up`` where the first
    batches show it, since the pipeline was built as something else than what was asked for, and
    ``crash`` where a later batch differs from them: the pipeline broke while it ran.

    Args:
        expected: as the target says (`Target.expected`); None: only what must hold for any
            loader is checked.
    """

    def __init__(self, expected: Delivered | None) -> None:
        self._expected = expected
        self._form: tuple[tuple[int, ...], Any, Any] | None = None
        self._without_content = 0
        self._seen_content = False
        self._samples = 0
        self._frames = 0

    def check(self, batch: Batch) -> None:
        """Look at one batch, before it is consumed.

        Raises:
            MeasurementFailed: if it is not what was asked for.
        """
        self._samples += batch.samples
        self._frames += batch.frames
        video = batch.video
        if video is None:  # a target without video: it has only its counts
            if self._expected is not None:
                raise _failed("start_up", "the batch holds no video")
            return
        form = (tuple(video.shape), video.dtype, video.device)
        if self._expected is not None:
            self._check_counts(batch, form[0])
        if form != self._form:
            self._check_form(form)
        if not self._seen_content:
            self._check_content(batch)
        self._form = form

    def delivered(self) -> Delivered | None:
        """What the batches had in common; None where there was no video."""
        if self._form is None:
            return None
        shape, dtype, device = self._form
        return Delivered(
            shape=list(shape[1:]),
            dtype=_plain(dtype),
            device=str(device),
            frames_per_sample=self._frames / self._samples,
        )

    @property
    def _kind(self) -> FailureKind:
        return "start_up" if self._form is None else "crash"

    def _check_counts(self, batch: Batch, shape: tuple[int, ...]) -> None:
        """Compare the batch's counts with its tensors."""
        if len(shape) != 5:
            raise _failed(self._kind, f"the video's shape is {list(shape)}, not [N, C, T, H, W]")
        labels = len(batch.label)
        if not batch.samples == shape[0] == labels:
            counts = f"{shape[0]} samples and {labels} labels, counted as {batch.samples}"
            raise _failed(self._kind, f"a batch holds {counts}")
        frames = shape[2] * batch.samples
        if batch.frames != frames:
            cause = f"a batch of {batch.samples} samples holds {frames} frames, not {batch.frames}"
            raise _failed(self._kind, f"{cause} as the loader counts them")

    def _check_form(self, form: tuple[tuple[int, ...], Any, Any]) -> None:
        """Compare shape, type and device with what was asked for; without that, type and device
        with the first batch's, since a foreign loader's shapes may vary."""
        expected = self._expected
        seen = {"dtype": _plain(form[1]), "device": form[2].type}
        if expected is not None:
            wanted: dict[str, Any] = {
                "shape": expected.shape,
                "dtype": expected.dtype,
                "device": expected.device.partition(":")[0],
            }
            found: dict[str, Any] = {"shape": list(form[0][1:]), **seen}
        elif self._form is not None:
            wanted = {"dtype": _plain(self._form[1]), "device": self._form[2].type}
            found = seen
        else:
            return
        wrong = [
            f"{key} {found[key]}, not {wanted[key]}" for key in wanted if found[key] != wanted[key]
        ]
        if wrong:
            raise _failed(self._kind, f"a batch was delivered with {'; '.join(wrong)}")

    def _check_content(self, batch: Batch) -> None:
        """Look into the first batches until one shows that there is something to see."""
        video = _array(batch.video)
        low, high = float(video.min()), float(video.max())
        if low != low or high != high:
            raise _failed("start_up", "the first batch holds NaN")
        if self._expected is None:  # what a foreign loader's values mean is not known
            self._seen_content = True
            return
        still = batch.unique_frames > batch.samples and not bool(
            (video[:, :, 1:] != video[:, :, :1]).any()
        )
        self._seen_content = low < high and not still
        if self._seen_content:
            return
        self._without_content += batch.samples
        if self._without_content >= LOOKED_AT_SAMPLES:
            what = f"every value is {low:g}" if low == high else "every frame of a clip is the same"
            count = self._without_content
            raise _failed("start_up", f"the first {count} samples have no content: {what}")


def check_accounts(loader: Loader, delivered: int) -> None:
    """Compare what the source handed out with what arrived.

    Args:
        loader: asked for its accounts and its failures, in this order: what fails in between
            may hide a missing sample, and never makes one up.
        delivered: samples that reached the consumer, from the first batch on.

    Raises:
        MeasurementFailed: of kind ``crash`` where more samples are missing than the pipeline can
            hold: it dropped them, and told nobody.
    """
    accounts = loader.accounts()
    if accounts is None:
        return
    failed = loader.failed()[0]
    missing = accounts.handed_out - delivered - failed
    if missing > accounts.capacity:
        raise _failed(
            "crash",
            f"of {accounts.handed_out} samples handed out {delivered} were delivered and {failed} "
            f"failed: {missing} are missing, and the pipeline holds {accounts.capacity} at most",
        )


def check_decoder(device: str, measurement: Measurement) -> list[str]:
    """Check that a configuration that was to decode on NVDEC did.

    Args:
        device: the configuration's ``device``; nothing is checked unless it is ``nvdec``.
        measurement: what it gave; its resources are those of all ranks.

    Returns:
        What is to be stored beside the figures: that only the frames' device proves it, since
        NVML does not tell the decoders' load, or cannot show one so small.

    Raises:
        MeasurementFailed: of kind ``start_up`` where the frames do not lie on the GPU, or where
            the GPU's decoders did nothing while many frames came: something else decoded.
    """
    if device != "nvdec":
        return []
    delivered, busy = measurement.delivered, measurement.resources.nvdec_percent
    where = "nowhere" if delivered is None else delivered.device
    if not where.startswith("cuda"):
        raise _failed("start_up", f"device: nvdec, but the frames lie on {where}")
    if busy is None:
        return ["NVML does not tell how busy NVDEC is: only the frames' device proves its work"]
    if busy > 0:
        return []
    fps = (measurement.decoded_fps or 0.0) / max(1, len(measurement.ranks))
    if fps < SURELY_BUSY_FPS:
        return [
            "NVML read 0 % of NVDEC throughout, as it may with so few frames: only the frames' "
            "device proves its work"
        ]
    raise _failed(
        "start_up",
        f"device: nvdec, but NVML saw the GPU's decoders idle while {fps:.0f} frames/s were "
        "decoded",
    )


def _array(video: Any) -> Any:
    """The video as an array whose reductions are single-threaded where it is on the CPU: torch
    would start a team of threads there, which then spin beside the decoders."""
    if video.device.type != "cpu" or _plain(video.dtype) == "bfloat16":  # NumPy has no bfloat16
        return video
    return video.detach().numpy()


def _plain(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _failed(kind: FailureKind, cause: str) -> MeasurementFailed:
    return MeasurementFailed(Failure(kind=kind, cause=cause, advice=_ADVICE))
