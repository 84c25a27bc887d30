"""Bad clips, bad input, and processes that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from autotune.exceptions import InputError, UnsupportedError
from autotune.targets.base import BuildContext
from autotune.targets.spdl_video import SpdlVideo
from autotune.targets.spdl_video.failures import ClipFailure, FailureLog, StageCrash
from autotune.targets.spdl_video.params import Params, Settings
from autotune.targets.validation import validated
from autotune.trial import TrialSpec

SMALL = {"num_frames": 8, "frame_size": [32, 48]}
SPLIT = {"process_mode": "subprocess"}
POOL = {**SPLIT, "arena": "pool"}


@pytest.fixture
def mixed(clips: Path, tmp_path: Path) -> Path:
    """Two good clips, an empty file, a text, and a link to nothing."""
    (tmp_path / "a").mkdir()
    for number in (0, 3):
        (tmp_path / "a" / f"good_{number}.mp4").symlink_to(clips / "class_0" / f"clip_{number}.mp4")
    (tmp_path / "a" / "empty.mp4").touch()
    (tmp_path / "a" / "text.mp4").write_text("not a video")
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nothing")
    return tmp_path


def test_bad_clips_are_counted_by_name(mixed: Path, run_loaders: Any) -> None:
    base = {"data_dir": str(mixed), "settings": SMALL, "batches": 4}
    for answer in run_loaders(
        *({**base, "params": {"batch_size": 4, **mode}} for mode in ({}, SPLIT, POOL))
    ):
        assert len(answer["labels"]) == 16
        failed = answer["failed"]
        assert set(failed["clips"]) == {"a/empty.mp4", "a/text.mp4", "a/gone.mp4"}
        assert failed["clips"]["a/gone.mp4"] == "cannot be read: No such file or directory"
        # Two of five clips are good: the others failed about as often as these were delivered.
        assert failed["count"] >= 16
        stages = {stage["name"]: stage for stage in answer["stages"]}
        assert stages["fetch"]["failures"] > 0
        assert stages["demux"]["failures"] > stages["fetch"]["failures"]
        assert stages["decode"]["failures"] == 0


def test_odd_clips_are_decoded_or_named(shared_clips: Path, run_loaders: Any) -> None:
    (answer,) = run_loaders(
        {
            "data_dir": str(shared_clips / "odd"),
            "settings": SMALL,
            "batches": 4,
            "params": {"batch_size": 12, "subclip_duration": 0.5, "num_decode_threads": 2},
        }
    )
    assert {"empty.mp4", "text.mp4", "truncated.mp4"} <= set(answer["failed"]["clips"])
    assert all(answer["failed"]["clips"].values())


def test_a_folder_of_bad_clips_ends_with_the_cause(tmp_path: Path, run_loaders: Any) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    base = {"data_dir": str(tmp_path), "settings": SMALL}
    for answer in run_loaders(
        *({**base, "params": {"batch_size": 2, **mode}} for mode in ({}, POOL))
    ):
        assert answer["error"].startswith("DataError: text.mp4: ")
        assert "in a row that failed" in answer["error"]
        assert answer["failed"]["count"] >= 20


@pytest.mark.long
def test_close_with_every_thread_blocked(clips: Path, run_loaders: Any) -> None:
    base = {"data_dir": str(clips), "settings": SMALL, "idle": 1.0}
    many = {"batch_size": 2, "num_decode_threads": 3}
    for answer in run_loaders(
        *({**base, "params": {**many, **mode}} for mode in ({}, SPLIT, POOL))
    ):
        assert "error" not in answer
        assert answer["close_seconds"] < 5


@pytest.mark.parametrize("mode", [SPLIT, POOL])
def test_a_killed_demux_process_is_named(
    clips: Path, run_loaders: Any, mode: dict[str, str]
) -> None:
    (answer,) = run_loaders(
        {
            "data_dir": str(clips),
            "settings": SMALL,
            "params": {"batch_size": 4, **mode},
            "batches": 10_000,
            "kill_child_after": 2,
        }
    )
    assert "the demux subprocess" in answer["error"]
    assert "signal 9" in answer["error"]
    assert answer["close_seconds"] < 15


def test_everything_ends_with_a_killed_worker(
    clips: Path, start_driver: Callable[..., subprocess.Popen[str]]
) -> None:
    scenario = {
        "data_dir": str(clips),
        "settings": SMALL,
        "params": {"batch_size": 4, **POOL},
        "hold": True,
    }
    process = start_driver([scenario], stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    held = json.loads(process.stdout.readline())
    pids = held["pids"]
    assert held["segments"]
    assert len(pids) == 3  # the fork server, the resource tracker, the demux process
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.stdout.close()
    assert left == []
    assert [name for name in held["segments"] if os.path.exists(f"/dev/shm/{name}")] == []


def test_nvdec_without_a_gpu_is_unsupported(clips: Path, run_loaders: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (answer,) = run_loaders(
        {"data_dir": str(clips), "settings": SMALL, "params": {"device": "nvdec"}}
    )
    assert answer["error"].startswith("UnsupportedError: ")
    assert "device: nvdec" in answer["error"]


def test_more_classes_than_the_model_has(clips: Path) -> None:
    spec = TrialSpec(
        uuid="u", study="s", target="spdl_video", params={}, data_dir=str(clips),
        consumer={"kind": "train_step", "num_classes": 2},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"num_classes: 2 is less than the 3 classes"):
        SpdlVideo().build(BuildContext(spec))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_demux_thread": 3}, ["params.num_demux_thread", "accepted are", "num_demux_threads"]),
        ({"num_demux_threads": 0}, ["params.num_demux_threads", "0", "greater than or equal to 1"]),
        ({"process_mode": "thread"}, ["params.process_mode", "thread", "'subprocess'"]),
        ({"arena": "pool"}, ["arena: pool has no effect with process_mode: in_process", "'off'"]),
        ({"backend_buffer_size": 4}, ["backend_buffer_size: 4 has no effect"]),
        ({"device": "nvdec", "decoder_threads": 2}, ["decoder_threads: 2 has no effect"]),
        ({"subclip_duration": 0}, ["params.subclip_duration", "greater than 0"]),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        validated(Params, values, "params")
    for word in words:
        assert word.replace("'off'", "off") in str(caught.value)


@pytest.mark.parametrize("size", [[111, 112], [112], [0, 112], "big"])
def test_wrong_frame_sizes_are_named(size: Any) -> None:
    with pytest.raises(InputError, match=r"settings\.frame_size"):
        validated(Settings, {"frame_size": size}, "settings")


def test_failures_end_only_when_nothing_works() -> None:
    log = FailureLog(epoch=3)
    for number in range(19):
        log.failed(ClipFailure(f"{number}.mp4", "broken"))
    assert log.fatal is None
    log.delivered()
    for number in range(19):
        log.failed(ClipFailure(f"{number}.mp4", "broken"))
    assert log.fatal is None
    log.failed(ClipFailure("last.mp4", "broken"))
    assert "last.mp4" in str(log.fatal)
    count, clips = log.report()
    assert count == 39
    assert [clip.name for clip in clips] == [f"{number}.mp4" for number in range(19)] + ["last.mp4"]


def test_a_crash_keeps_its_kind_across_processes() -> None:
    import pickle

    crash = StageCrash("demux", UnsupportedError("no NVDEC here"))
    assert isinstance(crash.exception(), UnsupportedError)
    arrived = pickle.loads(pickle.dumps(crash)).exception()
    assert isinstance(arrived, UnsupportedError)
    assert str(arrived) == "no NVDEC here"
    other = pickle.loads(pickle.dumps(StageCrash("fetch", ValueError("odd")))).exception()
    assert str(other) == "stage fetch failed: ValueError: odd"
