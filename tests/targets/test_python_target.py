"""The target `python`: anybody's loader, from the experiment to the figures of a measurement."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from autotune.config import load_experiment, resolve
from autotune.exceptions import InputError
from autotune.executors.node import probe_node
from autotune.prefetching import PrefetchLoader
from autotune.supervision.supervisor import supervise
from autotune.targets.base import BuildContext
from autotune.targets.python.counting import count
from autotune.targets.python.functions import arguments_for, conditions_met, find_function
from autotune.targets.python.loader import PythonLoader
from autotune.targets.python.target import PythonTarget, Settings
from autotune.trial import ProbeRequest, TrialResult, TrialSpec

ROOT = Path(__file__).resolve().parents[2]

LOADERS = """
import time
import torch
from torch.utils.data import DataLoader

class Clips(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i):
        time.sleep(0.001)
        return torch.rand(3, 4, 8, 8), i % 5

def build(num_workers=0, batch_size=4):
    return DataLoader(Clips(), batch_size=batch_size, num_workers=num_workers, drop_last=True)

def slept(batch_size, pause):
    while True:
        time.sleep(pause)
        yield torch.rand(batch_size, 3, 2, 4, 4), torch.zeros(batch_size, dtype=torch.int64)

def nothing(batch_size): return None
def empty(batch_size): return []
async def later(batch_size): yield 1
def fails(batch_size): raise RuntimeError("no data here")
def needs(batch_size, folder): return []
class Overruled(list):
    parameters = {"batch_size": 8, "unknown": 1}
def overruled(batch_size): return Overruled([torch.zeros(batch_size, 3, 2, 4, 4)])
number = 5
"""

# The twelve lines of YAML that the documentation promises.
EXPERIMENT = """\
target:
  name: python
  function: loaders:build
search_space:
  parameters:
    num_workers: {min: 0, max: 4, default: 0}
    batch_size: {values: [2, 4], default: 4, workload: true}
budget: {trials: 10}
measurement: {min_seconds: 0.3, max_seconds: 1}
verification: {finalists: 0}
executor: {kind: local}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loaders.py").write_text(LOADERS)
    (tmp_path / "study.yaml").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def specification(folder: Path, **settings: Any) -> TrialSpec:
    fields: dict[str, Any] = {"working_dir": str(folder), **settings}
    params = fields.pop("params", {"batch_size": 4})
    consumer = fields.pop("consumer", {})
    return TrialSpec.model_validate(
        {
            "uuid": f"python-{os.getpid()}",
            "study": "python-tests",
            "target": "python",
            "params": params,
            "settings": Settings(**fields).model_dump(),
            "consumer": consumer,
            "measurement": {"min_seconds": 0.3, "max_seconds": 1.0, "window_seconds": 0.1},
            "limits": {"startup_seconds": 60},
        }
    )


def measured(folder: Path, **settings: Any) -> TrialResult:
    return supervise(specification(folder, **settings))


# ------------------------------------------------------------------ the experiment


def test_twelve_lines_of_yaml_make_a_plan(folder: Path) -> None:
    assert len(EXPERIMENT.splitlines()) <= 12
    plan = resolve(load_experiment(folder / "study.yaml"))
    assert plan.searched.searched == ["num_workers"]
    assert plan.baseline == {"num_workers": 0, "batch_size": 4}
    assert plan.settings["working_dir"] == str(folder)
    assert plan.data_dir is None


def test_a_space_file_and_fixed_parameters_work_as_for_any_target(folder: Path) -> None:
    document = yaml.safe_load(EXPERIMENT)
    space = {"target": "python", **document.pop("search_space")}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    document["search_space"] = "space.yaml"
    document["target"] |= {"num_workers": 2, "working_dir": "elsewhere"}
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    plan = resolve(load_experiment(folder / "study.yaml", values={"seed": 3}))
    assert plan.fixed == {"num_workers": 2}
    assert plan.settings["working_dir"] == str(folder / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_space": None}, "search_space: is missing: the parameters of python are your own"),
        ({"target": {"name": "python"}}, "target.function: is missing"),
        ({"target": {"name": "python", "function": "a:b", "count": [0, 1]}}, r"\[0, 1\]"),
        ({"target": {"name": "python", "function": "a:b", "x": 1}}, "target.x: unknown key"),
    ],
)
def test_a_wrong_experiment_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    document = yaml.safe_load(EXPERIMENT) | change
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=message):
        resolve(load_experiment(folder / "study.yaml"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"function": "loaders"}, "'loaders' is no import path"),
        ({"function": "nowhere:build"}, "there is no module 'nowhere'. Put it beside"),
        ({"function": "loaders:bulid"}, "Did you mean 'build'"),
        ({"function": "loaders:number"}, "is a int and cannot be called"),
        ({"function": "loaders:needs"}, "missing a required argument: 'folder'"),
        ({"function": "loaders:nothing", "params": {"workers": 1}}, "takes no 'workers'"),
        ({"function": "loaders:build", "count": "loaders:nil"}, "target.count: loaders:nil"),
        ({"function": "loaders:build", "working_dir": "/nowhere"}, "target.working_dir: /nowhere"),
        ({"function": "broken:build"}, "importing broken fails (ZeroDivisionError"),
        ({"function": "lacking:build"}, "No module named 'no_such_package'"),
    ],
)
def test_what_cannot_be_called_is_told_before_the_first_trial(
    folder: Path, settings: dict[str, Any], words: str
) -> None:
    (folder / "broken.py").write_text("1 / 0")
    (folder / "lacking.py").write_text("import no_such_package")
    spec = specification(folder, **settings)
    request = ProbeRequest(
        study="s", target="python", params=spec.params, settings=spec.settings, cache_dir="/tmp"
    )
    info = probe_node(request)
    assert info.error_kind == "input"
    assert words in (info.error or "")


# ------------------------------------------------------------------ counting


@dataclass
class Fields:
    name: str
    video: Any
    label: Any


Named = namedtuple("Named", "video label")


def video(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("batch", "samples", "frames"),
    [
        (video(6, 3, 8, 4, 4), 6, 48),
        (video(6, 8, 3, 4, 4), 6, 48),
        (video(6, 8, 4, 4, 3), 6, 48),
        (video(6, 1, 8, 4, 4), 6, 48),
        (video(6, 1, 32, 48, 3), 6, 6),
        (video(6, 3, 32, 48, 3), 6, 18),
        (video(6, 1, 32, 48, 1), 6, 6),
        (video(6, 3, 4, 4), 6, 6),
        (video(6, 7, 8, 9, 5), 6, 6),
        ((video(6, 3, 8, 4, 4), torch.zeros(6, dtype=torch.int64)), 6, 48),
        ([torch.zeros(6, dtype=torch.int64), video(6, 8, 3, 4, 4)], 6, 48),
        ({"label": torch.zeros(6), "meta": {"clip": video(6, 3, 8, 4, 4)}}, 6, 48),
        (Fields("a", np.zeros((6, 3, 8, 4, 4)), np.zeros(6, np.int64)), 6, 48),
        (Named(np.zeros((6, 16, 3, 4, 4)), None), 6, 96),
        ({"names": ["a", "b"], "scale": torch.tensor(1.0), "video": video(2, 3, 8, 4, 4)}, 2, 16),
    ],
)
def test_samples_and_frames_by_shape(batch: object, samples: int, frames: int) -> None:
    counted = count(batch)
    assert (counted.samples, counted.frames) == (samples, frames)
    assert count(batch, frames_per_sample=5).frames == 5 * samples


@given(
    st.integers(1, 9), st.integers(1, 40), st.sampled_from([1, 3]),
    st.sampled_from(["ncthw", "ntchw", "nthwc"]), st.booleans(),
)  # fmt: skip
def test_every_layout_gives_the_same_video(
    samples: int, frames: int, channels: int, layout: str, as_numpy: bool
) -> None:
    assume(layout != "ntchw" or frames not in (1, 3))  # those are taken for its channels
    sizes = {"n": samples, "c": channels, "t": frames, "h": 4, "w": 5}
    made: Any = np.zeros([sizes[axis] for axis in layout], np.uint8)
    made = made if as_numpy else torch.from_numpy(made)
    counted = count({"video": made, "label": np.zeros(samples, np.int64)})
    assert (counted.samples, counted.frames) == (samples, samples * frames)
    assert tuple(counted.video.shape) == (samples, channels, frames, 4, 5)
    assert counted.label is not None


@pytest.mark.parametrize("batch", [None, "abc", [1, 2, 3], {"a": b"x"}, torch.tensor(3.0)])
def test_a_batch_without_tensors_needs_a_count(batch: object) -> None:
    with pytest.raises(InputError, match=r"Give target\.count: module:function"):
        count(batch)


# ------------------------------------------------------------------ the loader


def loader(call: Callable[[], Any], **settings: Any) -> PythonLoader:
    consumer = {"kind": settings.pop("consumer", "none")}
    counting = settings.pop("counting", None)
    spec = specification(Path("/"), function="m:f", consumer=consumer, **settings)
    return PythonLoader(BuildContext(spec), Settings.model_validate(spec.settings), call, counting)


def batches(n: int, size: int = 4) -> list[torch.Tensor]:
    return [video(size, 3, 2, 4, 4) for _ in range(n)]


def test_an_iterable_that_ends_is_iterated_again_and_that_is_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []
    made = loader(lambda: calls.append(1) or batches(3))
    iterator = iter(made)
    taken = [next(iterator) for _ in range(10)]
    assert [b.samples for b in taken] == [4] * 10
    assert [b.frames for b in taken] == [8] * 10
    assert len(calls) == 1
    stages = {s.name: s.tasks for s in made.stage_stats()}
    assert stages == {"next": 10, "restart": 3}
    assert caplog.text.count("ended after 3 batches and is iterated again") == 1
    [told] = made.warnings()
    assert "iterable ended and was iterated again" in told
    assert {s.name: s.tasks for s in made.stage_stats()} == {"next": 0, "restart": 0}


def test_the_first_pass_is_begun_once() -> None:
    """A second iterator would start a DataLoader's workers twice, or skip a pass of a state."""

    class Passes:
        begun = 0

        def __iter__(self) -> Iterator[torch.Tensor]:
            self.begun += 1
            return iter(batches(2, size=self.begun))

    passes = Passes()
    iterator = iter(loader(lambda: passes))
    assert passes.begun == 1
    assert [next(iterator).samples for _ in range(2)] == [1, 1]
    assert passes.begun == 1
    assert [next(iterator).samples for _ in range(3)] == [2, 2, 3]


def test_a_first_pass_that_nobody_takes_ends_with_the_loader() -> None:
    ended = []

    class Pass:
        def __iter__(self) -> Pass:
            return self

        def __next__(self) -> torch.Tensor:
            return video(1)

        def __del__(self) -> None:
            ended.append(1)

    class Passes:
        def __iter__(self) -> Pass:
            return Pass()

    made = loader(Passes)
    assert ended == []
    made.close()
    assert ended == [1]


class Saying(list[Any]):
    """An iterable that says how many batches it keeps ready."""

    prefetched_batches = 7


@pytest.mark.parametrize(
    ("made", "ready"),
    [
        (DataLoader([0, 1], num_workers=2, prefetch_factor=3), 6),
        (DataLoader([0, 1], num_workers=1), 2),
        (DataLoader([0, 1]), 0),
        ([video(1)], 0),
        (PrefetchLoader([0, 1], cache_batches=5), 5),
        (Saying(), 7),
    ],
)
def test_batches_that_workers_keep_ready_are_known(made: Any, ready: int) -> None:
    built = loader(lambda: made)
    assert built.prefetched_batches == ready
    built.close()


def test_a_generator_that_is_used_up_is_made_again() -> None:
    closed = []

    def make() -> Iterator[Any]:
        try:
            yield from batches(2)
        finally:
            closed.append(1)

    made = loader(make)
    iterator = iter(made)
    for _ in range(5):
        next(iterator)
    assert len(closed) == 2
    made.close()
    made.close()
    assert len(closed) == 3, "the generator under way was closed"
    assert list(iterator) == []


def test_a_context_manager_is_entered_and_left() -> None:
    class Managed:
        def __init__(self) -> None:
            self.events: list[str] = []

        def __enter__(self) -> list[torch.Tensor]:
            self.events.append("in")
            return batches(1)

        def __exit__(self, *_: object) -> None:
            self.events.append("out")

    managed = Managed()
    made = loader(lambda: managed)
    next(iter(made))
    made.close()
    assert managed.events == ["in", "out"]


def test_an_iterable_with_close_is_closed() -> None:
    class Closing(list[Any]):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    closing = Closing(batches(1))
    made = loader(lambda: closing)
    made.close()
    made.close()
    assert closing.closed == 1


def test_batches_of_changing_size_are_counted_as_they_are_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = loader(lambda: [*batches(2), *batches(1, size=1)])
    iterator = iter(made)
    assert [next(iterator).samples for _ in range(6)] == [4, 4, 1, 4, 4, 1]
    assert caplog.text.count("batches change in size: (4, 8)") == 1
    assert any("batches changed in size" in text for text in made.warnings())
    assert "drop_last" in caplog.text


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ((4, 64), True),
        ([4, 0], True),
        ((4,), False),
        (4, False),
        ((0, 1), False),
        (("4", 1), False),
    ],
)
def test_a_count_of_the_users(answer: object, good: bool) -> None:
    made = loader(lambda: ["abc"], count="m:count", counting=lambda batch: answer)
    if good:
        assert [next(iter(made)).samples] == [4]
    else:
        with pytest.raises(InputError, match=r"target\.count: m:count returned"):
            next(iter(made))


def test_fixed_numbers_count_every_batch() -> None:
    batch = next(iter(loader(lambda: ["abc"], count=(16, 256))))
    assert (batch.samples, batch.frames) == (16, 256)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, r"returned nothing \(None\), which cannot be iterated"),
        (5, "returned a int, which cannot be iterated"),
        (torch.nn.Linear(1, 1), "returned a Linear"),
    ],
)
def test_no_iterable_is_refused(made: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loader(lambda: made)


def test_an_empty_iterable_is_refused() -> None:
    with pytest.raises(InputError, match="ended without a batch"):
        next(iter(loader(list)))


def test_train_step_needs_video_and_label() -> None:
    with pytest.raises(InputError, match="train_step needs batches with a video tensor"):
        next(iter(loader(lambda: batches(1), consumer="train_step")))
    labelled = [(video(2, 8, 3, 4, 4), torch.zeros(2, dtype=torch.int64))]
    batch = next(iter(loader(lambda: labelled, consumer="train_step")))
    assert tuple(batch.video.shape) == (2, 3, 8, 4, 4)
    assert batch.label.dtype == torch.int64


def test_what_the_iterable_says_of_itself_is_read_back() -> None:
    class Telling(list[Any]):
        def readback(self) -> dict[str, Any]:
            return {"batch_size": 2, "other": 1}

    assert loader(lambda: Telling(batches(1))).readback() == {"batch_size": 2}
    assert loader(lambda: batches(1)).readback() == {"batch_size": 4}


def test_context_is_passed_only_where_it_is_named() -> None:
    def plain(batch_size: int) -> None: ...
    def ranked(batch_size: int, *, rank: int, seed: int = 0) -> None: ...
    def anything(**parameters: int) -> None: ...

    offered = {"rank": 1, "world_size": 2, "seed": 7, "data_dir": None}
    given = {"batch_size": 4}
    assert arguments_for(plain, given, offered, "m:f") == given
    assert arguments_for(ranked, given, offered, "m:f") == {**given, "rank": 1, "seed": 7}
    assert arguments_for(anything, given, offered, "m:f") == given
    assert find_function("os.path:join", "target.function") is os.path.join


CONDITIONS = {"depth": "workers > 0"}


@pytest.mark.parametrize(("workers", "passed"), [(0, {}), (2, {"depth": 3})])
def test_a_parameter_that_is_off_is_not_passed(workers: int, passed: dict[str, int]) -> None:
    def build(workers: int, depth: int | None = None) -> None: ...
    def anything(**parameters: int) -> None: ...

    given = {"workers": workers, "depth": 3}
    met = conditions_met(CONDITIONS, given)
    for function in (build, anything, max):  # the last one tells no signature
        assert arguments_for(function, given, {"depth": 9}, "m:f", met) == {
            "workers": workers, **passed
        }  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_an_argument_that_may_be_left_out_needs_a_default_also_where_it_is_passed(
    workers: int,
) -> None:
    def build(workers: int, depth: int) -> None: ...

    given = {"workers": workers, "depth": 3}
    with pytest.raises(InputError, match=r"needs a default\. Write depth=None"):
        arguments_for(build, given, {}, "m:f", conditions_met(CONDITIONS, given))


def test_a_parameter_that_is_off_is_read_back_as_the_search_space_has_it() -> None:
    class Telling(list[Any]):
        parameters: ClassVar = {"workers": 0, "depth": None}

    made = loader(
        lambda: Telling(batches(1)), params={"workers": 0, "depth": 3}, conditions=CONDITIONS
    )
    assert made.readback() == {"workers": 0, "depth": 3}


# ------------------------------------------------------------------ whole measurements


def test_a_dataloader_with_workers_is_measured_and_leaves_nothing(folder: Path) -> None:
    params = {"num_workers": 2, "batch_size": 4}
    result = measured(folder, function="loaders:build", params=params)
    assert result.state == "finished", (result.failure, result.log_tail)
    figures = result.measurement
    assert figures is not None
    assert figures.fps == pytest.approx(4 * figures.samples_per_second)
    assert figures.decoded_fps is None
    assert figures.unique_frames is None
    assert figures.readback == params
    assert figures.versions["torch"] == torch.__version__
    assert {stage.name for stage in figures.stages} >= {"next"}
    assert "outlived" not in result.log_tail
    # 16 batches an epoch, far fewer than were measured
    assert figures.samples > 64
    assert "ended after 16 batches" in result.log_tail
    [told] = figures.warnings
    assert "iterable ended and was iterated again" in told


def test_a_known_rate_is_found(folder: Path) -> None:
    result = measured(folder, function="loaders:slept", params={"batch_size": 4, "pause": 0.01})
    assert result.measurement is not None, (result.failure, result.log_tail)
    # the pause is a lower bound of the time a batch takes, whatever else runs here
    assert 0 < result.measurement.samples_per_second <= 400 * 1.001


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        ("loaders:nothing", "start_up", "Return an iterable of batches"),
        ("loaders:empty", "start_up", "ended without a batch"),
        ("loaders:later", "start_up", "is asynchronous"),
        ("loaders:fails", "start_up", "no data here"),
        ("loaders:overruled", "start_up", "batch_size: asked for 4, built 8"),
    ],
)
def test_what_goes_wrong_in_a_trial_is_its_failure(
    folder: Path, function: str, kind: str, words: str
) -> None:
    result = measured(folder, function=function)
    assert result.state == "failed"
    assert result.failure is not None
    assert result.failure.kind == kind
    assert words in result.failure.cause


def test_loading_the_target_imports_nothing_of_the_users(folder: Path) -> None:
    settings = Settings(function="no_such_module:f").model_dump()
    assert PythonTarget().environment({}, settings) == {}
