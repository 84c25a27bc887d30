"""`study.best().build()`: the loader of a trial, as its study measured it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from autotune.api import Trial, load_study
from autotune.exceptions import InputError
from autotune.loaders import VideoLoader
from autotune.trial import Params
from tests.fakes import FakeExecutor
from tests.launches import launch
from tests.made_clips import write_clips

MODULE = """
calls = []

class Batches(list):
    pass

def build(data_dir, rank, world_size, num_workers, depth=None, batch_size=2):
    calls.append((data_dir, rank, world_size, num_workers, depth, batch_size))
    return Batches([1, 2])
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'autotune.db'}"


def document(target: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "target": target,
        "search_space": parameters,
        "budget": {"trials": 6},
        "noise": {"runs": 0, "drift_every": 0},
        "verification": {"finalists": 1, "blocks": 4},
        "sampler": "random",
        "executor": {"kind": "local"},
    }


def rate(params: Params) -> float:
    """More batches held is faster; in the training process nothing else matters."""
    return 100.0 + 10 * float(params["batch_size"])


@pytest.fixture
def tuned(clips: Path, url: str) -> Trial:
    """The best of a study of a DataLoader without workers, on another machine."""
    fixed = {"num_workers": 0, "subclip_duration": 0.5, "decoder": "pyav"}
    settings = {"num_frames": 4, "frame_size": [32, 48]}
    experiment = document(
        {"name": "torch_dataloader", "data_dir": str(clips), **fixed, **settings},
        {
            "base": "torch_dataloader",
            # a default that the target refuses without workers
            "parameters": {
                "prefetch_factor": {"default": 4},
                "batch_size": {"values": [2, 3], "default": 2},
            },
        },
    )
    experiment["vary_workload"] = ["batch_size"]
    experiment["seed"] = 5
    launch(experiment, url, FakeExecutor(rate))
    best = load_study("study", url).best(where="batch_size == 3")
    assert isinstance(best, Trial)
    return best


def built(trial: Trial, *args: Any, **options: Any) -> tuple[Any, list[str]]:
    """The loader, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = trial.build(*args, **options)
    return loader, [str(w.message) for w in caught if w.category is UserWarning]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "")  # put back after the test


def test_the_winner_is_built_as_it_was_measured(tuned: Trial) -> None:
    loader, told = built(tuned)
    with loader:
        assert isinstance(loader, VideoLoader)
        epoch = [(tuple(batch.video.shape), tuple(batch.label.shape)) for batch in loader]
        assert epoch == [((3, 3, 4, 32, 48), (3,))] * 2
        read = loader.readback()
        assert (read["num_workers"], read["batch_size"], read["decoder"]) == (0, 3, "pyav")
    assert any("is not verified" in text for text in told)
    assert any("measured on another machine (machine.cpu: 'fake'" in text for text in told)
    assert len(told) == 2


def test_other_data_rank_and_parameters(tuned: Trial, tmp_path: Path) -> None:
    other = write_clips(tmp_path / "other")
    bytes_only = {"dtype": "uint8", "wire_dtype": "uint8"}
    loader, _ = built(tuned, other, rank=1, world_size=2, batch_size=1, num_workers=1, **bytes_only)
    with loader:
        assert len(loader) == 3
        assert str(next(iter(loader)).video.dtype) == "torch.uint8"
        read = loader.readback()
        # with workers it has an effect again, and the target's own default
        assert (read["num_workers"], read["prefetch_factor"]) == (1, 2)
    with pytest.raises(InputError, match=r"build: trial . of study 'study': num_worker: there is"):
        built(tuned, num_worker=2)


def test_a_function_of_the_users_gets_what_it_got_in_its_trial(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tuned_loader.py").write_text(MODULE)
    experiment = document(
        {"name": "python", "function": "my_tuned_loader:build", "working_dir": str(tmp_path)},
        {
            "parameters": {
                "num_workers": {"min": 0, "max": 2, "default": 1},
                "depth": {"min": 1, "max": 2, "default": 1, "when": "num_workers > 0"},
                "batch_size": {"values": [2, 4], "default": 2},
            }
        },
    )
    launch(experiment, url, FakeExecutor(rate))
    best = load_study("study", url).best()
    assert isinstance(best, Trial)
    assert best.params["batch_size"] == 4
    monkeypatch.setattr(sys, "path", list(sys.path))
    here = Path.cwd()
    made, _ = built(best, "/data", rank=1, world_size=2, num_workers=2, depth=7)
    built(best, "/data", num_workers=0)
    import my_tuned_loader

    assert type(made).__name__ == "Batches"
    assert list(made) == [1, 2]
    assert my_tuned_loader.calls == [("/data", 1, 2, 2, 7, 4), ("/data", 0, 1, 0, None, 4)]
    assert Path.cwd() == here


def test_a_command_has_no_loader(tmp_path: Path, url: str) -> None:
    experiment = document(
        {"name": "command", "command": "train.py {flags}", "working_dir": str(tmp_path)},
        {"parameters": {"batch_size": {"values": [2, 4], "default": 2, "flag": "--batch-size"}}},
    )
    launch(experiment, url, FakeExecutor(rate))
    best = load_study("study", url).best()
    assert isinstance(best, Trial)
    with pytest.raises(InputError, match=r"no loader to build.*train\.py --batch-size 4"):
        built(best)
