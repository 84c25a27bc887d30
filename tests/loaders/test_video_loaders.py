"""Loaders to train with, in processes that were started like any training script."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_driver import SMALL, train

from autotune import loaders
from autotune.exceptions import InputError, UnsupportedError
from autotune.loaders import opening
from autotune.manifest import scan
from autotune.media.preload import preload
from autotune.plugins import available
from tests.made_clips import write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def expected(clips: Path, batches: int, rank: int = 0, world: int = 1) -> list[int]:
    """Labels in the order of the seeded epochs, of so many batches."""
    manifest = scan(clips)
    count = batches * SMALL["batch_size"]
    found: list[int] = []
    for epoch in range(count):
        found += [manifest.labels[i] for i in manifest.order(0, epoch, rank, world)]
    return found[:count]


def flat(epochs: list[list[list[int]]]) -> list[int]:
    return [label for epoch in epochs for batch in epoch for label in batch]


def test_importing_them_loads_no_torch_and_every_built_in_pipeline_is_there() -> None:
    code = (
        "import json, sys\nfrom autotune import loaders\n"
        "docs = {name: getattr(loaders, name).__doc__ for name in loaders.TARGETS}\n"
        "loaders.VideoLoader, loaders.VideoBatch, loaders.PrefetchLoader\n"
        "print(json.dumps([docs, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    docs, loaded = json.loads(done.stdout)
    assert not {"torch", "spdl", "av", "ray", "optuna", "pandas"} & set(loaded)
    own = {"python", "command"}  # the user's own loader, and no loader at all
    assert set(docs) == set(available("targets")) - own
    assert "num_demux_threads = 8: Threads that find the packets" in docs["spdl_video"]
    assert "arena = 'off'" in docs["spdl_video"]
    assert "num_frames = 16 (setting)" in docs["torch_dataloader"]
    assert set(loaders.TARGETS) <= set(dir(loaders))
    with pytest.raises(AttributeError, match="no attribute 'dali'"):
        _ = loaders.dali


def test_they_take_what_a_training_knows() -> None:
    signature = inspect.signature(loaders.spdl_video)
    assert list(signature.parameters) == ["data_dir", "seed", "rank", "world_size", "options"]
    assert loaders.spdl_video.__name__ == "spdl_video"


def test_a_dataloader_goes_through_its_epochs_in_the_measured_order(clips: Path) -> None:
    common = {"loader": "torch_dataloader", "data_dir": str(clips), "epochs": 3}
    here, workers, broken, first, second = train(
        {**common, "options": {"num_workers": 0, "dtype": "uint8", "wire_dtype": "-"}},
        {**common, "options": {"num_workers": 2}},
        {**common, "options": {"num_workers": 0}, "break_after": 1},
        {**common, "options": {"num_workers": 0, "rank": 0, "world_size": 2}},
        {**common, "options": {"num_workers": 0, "rank": 1, "world_size": 2}},
    )
    for answer in (here, workers):
        assert answer["len"] == 3  # seven clips, two a batch: the odd one opens the next epoch
        assert [len(epoch) for epoch in answer["epochs"]] == [3, 3, 3]
        assert flat(answer["epochs"]) == expected(clips, 9)
        assert answer["shape"] == [2, 3, 4, 32, 48]
        assert answer["failed"] == {}
        assert answer["told"] == []
        assert "is closed" in answer["after_close"]
    assert (here["dtype"], workers["dtype"]) == ("torch.uint8", "torch.float32")
    assert here["classes"] == ["class_0", "class_1", "class_2"]
    assert workers["readback"]["num_workers"] == 2
    # after a break the next epoch goes on where it stopped
    assert [len(epoch) for epoch in broken["epochs"]] == [1, 3, 3]
    assert flat(broken["epochs"]) == expected(clips, 7)
    # as many batches on each rank, though one has four clips and the other three
    assert (first["len"], second["len"]) == (1, 1)
    assert flat(first["epochs"]) == expected(clips, 3, 0, 2)
    assert flat(second["epochs"]) == expected(clips, 3, 1, 2)


def test_spdl_finds_its_ffmpeg_in_a_process_that_runs_already(clips: Path) -> None:
    """And that process ends, though one of its loaders was never closed."""
    common = {"loader": "spdl_video", "data_dir": str(clips), "epochs": 2}
    one_by_one = {"num_fetch_threads": 1, "num_demux_threads": 1, "num_decode_threads": 1}
    apart = {"process_mode": "subprocess", "arena": "pool", "num_demux_threads": 2}
    inside, beside, forgotten = train(
        {**common, "options": one_by_one},
        {**common, "options": apart},
        {**common, "forget": True},
    )
    for answer in (inside, beside, forgotten):
        assert answer["ffmpeg"] == "bundled"
        assert answer["len"] == 3
        assert [len(epoch) for epoch in answer["epochs"]] == [3, 3]
        assert answer["shape"] == [2, 3, 4, 32, 48]
        assert answer["failed"] == {}
    assert len(flat(inside["epochs"])) == len(expected(clips, 6))
    assert beside["readback"]["process_mode"] == "subprocess"
    assert beside["readback"]["arena"] == "pool"


@pytest.mark.long
def test_a_decoder_of_a_dataloaders_workers_finds_it_too(clips: Path) -> None:
    options = {"decoder": "spdl", "num_workers": 1, "multiprocessing_context": "forkserver"}
    [answer] = train({"loader": "torch_dataloader", "data_dir": str(clips), "options": options})
    assert flat(answer["epochs"]) == expected(clips, 3)
    assert answer["readback"]["decoder"] == "spdl"


@pytest.mark.long
def test_frames_and_the_prefetching_cache_are_loaders_too(clips: Path, tmp_path: Path) -> None:
    extracted = tmp_path / "frames"
    command = [sys.executable, "-m", "autotune", "clips", "extract", str(clips), str(extracted)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    small = {"loader": "frames", "data_dir": str(extracted), "epochs": 2}
    found = train(
        {**small, "options": {"reader": "dataloader", "num_workers": 0}},
        {"loader": "prefetch_cache", "data_dir": str(clips), "epochs": 2},
    )
    for answer in found:
        assert "error" not in answer, answer
        assert flat(answer["epochs"]) == expected(clips, 6)
        assert answer["shape"] == [2, 3, 4, 32, 48]
    [refused] = train({**small, "data_dir": str(clips)})
    assert refused["error"].startswith("InputError: ")


@pytest.mark.long
def test_clips_that_fail_are_told_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    (clips / "class_0" / "bad.mp4").write_text("no video")
    common = {"data_dir": str(clips), "epochs": 3}
    for answer in train(
        {**common, "loader": "torch_dataloader", "options": {"num_workers": 0}},
        {**common, "loader": "spdl_video"},
    ):
        assert set(answer["failed"]) == {"class_0/bad.mp4"}
        assert any("could not be delivered so far: class_0/bad.mp4: " in t for t in answer["told"])


def test_what_is_wrong_is_told_with_what_is_right(clips: Path) -> None:
    common = {"loader": "spdl_video", "data_dir": str(clips)}
    answers = train(
        {**common, "options": {"num_demux_thread": 3}},
        {**common, "options": {"num_demux_threads": 0}},
        {**common, "options": {"arena": "pool"}},
        {**common, "options": {"frame_size": [31, 32]}},
        {**common, "options": {"rank": 2, "world_size": 2}},
        {**common, "data_dir": str(clips / "nowhere")},
        {**common, "options": {"device": "nvdec"}},
    )
    said = [answer["error"] for answer in answers]
    assert said[0].startswith("InputError: loaders.spdl_video: num_demux_thread: ")
    assert "Did you mean 'num_demux_threads'?" in said[0]
    assert "settings: num_frames" in said[0]
    assert "params.num_demux_threads: 0" in said[1]
    assert "arena: pool has no effect with process_mode: in_process" in said[2]
    assert "two even numbers" in said[3]
    assert "rank: 2 is not one of the 2 ranks" in said[4]
    assert "nowhere does not exist" in said[5]
    assert said[6].startswith("UnsupportedError: ") or "nvdec" not in said[6]


def test_a_process_that_cannot_be_helped_says_how_to_start_it(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.media import preload as module
    from autotune.targets.base import BuildContext, Target
    from autotune.targets.torch_dataloader import TorchDataLoader

    class Lacking(TorchDataLoader):
        def environment(self, params: Any, settings: Any) -> dict[str, str]:
            return {"LD_LIBRARY_PATH": "/links:/usr/lib"}

        def build(self, context: BuildContext) -> Any:
            raise UnsupportedError("spdl.io found no FFmpeg")

    def refused(folder: Path) -> None:
        assert folder == Path("/links")
        raise UnsupportedError("libspdl does not load")

    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setattr(module, "preload", refused)
    target: Target = Lacking()
    with pytest.raises(UnsupportedError) as caught:
        opening.open_loader(target, clips, params={}, settings={})
    assert "found no FFmpeg. Start this process with LD_LIBRARY_PATH=/links:/usr/lib" in str(
        caught.value
    )
    assert "libspdl does not load" in str(caught.value)


def test_a_folder_without_ffmpeg_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="links to no FFmpeg"):
        preload(tmp_path)


def test_a_target_without_a_batch_size_is_refused(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.targets.base import OpenParams
    from autotune.targets.torch_dataloader import TorchDataLoader

    class Sizeless(TorchDataLoader):
        Params = OpenParams

    with pytest.raises(UnsupportedError, match="no parameter batch_size"):
        opening.open_loader(Sizeless(), clips, params={}, settings={})
    with pytest.raises(InputError, match="data_dir: missing"):
        opening.open_loader(TorchDataLoader(), None, params={}, settings={})
