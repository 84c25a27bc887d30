"""Clips with flipped bytes: the decoder may refuse them, but nothing may crash or hang."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from autotune.manifest import scan
from autotune.supervision.supervisor import supervise
from autotune.trial import Limits, TrialSpec

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT.parent / "shared" / "clips" / "real"

pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"needs the test clips in {CLIPS}")


def corrupt(clip: bytes, rng: random.Random) -> bytes:
    """A clip with up to 200 bytes flipped anywhere, its header too, or cut short."""
    data = bytearray(clip)
    for _ in range(rng.randint(1, 200)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.25:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


@pytest.mark.parametrize(
    ("seed", "tolerated", "outcomes"), [(0, 1.0, {"finished", "data"}), (1, 0.001, {"data"})]
)
def test_corrupt_clips_are_counted_or_fail_as_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    tolerated: float,
    outcomes: set[str],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    rng = random.Random(seed)
    folder = tmp_path / "clips"
    folder.mkdir()
    originals = sorted((p for p in CLIPS.rglob("*.mp4")), key=lambda p: p.stat().st_size)[:6]
    for index in range(24):
        clip = originals[index % len(originals)].read_bytes()
        (folder / f"{index:02}.mp4").write_bytes(corrupt(clip, rng) if index % 3 else clip)
    spec = TrialSpec(
        uuid=f"{seed:032}",
        study="corrupt",
        target="spdl_video",
        params={},
        settings={"num_frames": 16, "frame_size": [112, 112]},
        data_dir=str(folder),
        manifest=str(scan(folder).write(tmp_path)),
        measurement={"min_seconds": 2.0, "max_seconds": 3.0},
        limits=Limits(startup_seconds=60, silence_seconds=30, max_failed_share=tolerated),
    )
    result = supervise(spec.model_copy(update={"params": _defaults()}))
    kind = "finished" if result.failure is None else result.failure.kind
    assert kind in outcomes, (result.failure, result.log_tail)
    if result.measurement is not None:
        assert result.measurement.failed > 0
        assert all(clip.name and clip.cause for clip in result.measurement.failed_clips)


def _defaults() -> dict[str, object]:
    from autotune.config import Experiment, resolve

    experiment = Experiment.from_dict(
        {"target": {"name": "spdl_video", "data_dir": str(CLIPS), "device": "cpu"}}
    )
    return {**resolve(experiment).baseline, "batch_size": 4, "subclip_duration": 0.5}
