from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autotune.config import (
    Experiment,
    difference,
    experiment_from,
    identity,
    load_experiment,
    redact_url,
    resolve,
    storage_url,
)
from autotune.exceptions import InputError

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path


def write(folder: Path, **keys: Any) -> Path:
    target = {"name": "spdl_video", "data_dir": "clips", **keys.pop("target", {})}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"target": target, **keys}))
    return path


# --------------------------------------------------------------------------- what works


def test_everything_but_target_and_data_has_a_default(folder: Path) -> None:
    plan = resolve(load_experiment(write(folder)))
    experiment = plan.experiment
    assert plan.data_dir == folder / "clips"
    assert plan.baseline == plan.space.defaults()
    assert plan.enqueued == []
    assert plan.fixed == {}
    assert plan.searched.pinned == {
        "device": "cpu",
        "subclip_duration": 2.0,
        "subclip_start": "first",
        "batch_size": 16,
        "scale_algorithm": "bicubic",
    }
    assert plan.settings["num_frames"] == 16
    assert experiment.budget.trials == 50
    assert experiment.budget.hours is None
    assert (experiment.verification.finalists, experiment.verification.blocks) == (1, 12)
    assert (experiment.noise.runs, experiment.noise.drift_every) == (5, 10)
    assert experiment.executor.kind == "local"
    assert experiment.target.ranks is None


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_packaged_experiments_resolve(path: Path, tmp_path: Path) -> None:
    plan = resolve(load_experiment(path, values={"target.data_dir": str(tmp_path)}))
    assert plan.searched.searched
    assert plan.experiment.target.name != "spdl_video" or "device" in plan.fixed
    # What the database stores reads back as the same experiment and the same study.
    stored = json.loads(json.dumps(plan.experiment.to_dict()))
    again = resolve(Experiment.from_dict(stored))
    assert difference(identity(plan), identity(again)) == []
    assert again.experiment.to_dict() == stored


def test_quickstart_varies_no_workload() -> None:
    experiment = load_experiment(ROOT / "experiments" / "quickstart.yaml")
    assert experiment.vary_workload == []
    assert experiment.target.data_dir == str(ROOT / "quickstart" / "clips")
    assert experiment.executor.kind == "ray"


def test_fixed_baseline_and_enqueue(folder: Path) -> None:
    path = write(
        folder,
        target={"device": "cpu", "num_frames": 8, "sink_buffer_size": 5},
        baseline="--num-demux-threads 3 --batch-size=32",
        enqueue=[
            {"num_demux_threads": 3},  # the baseline itself
            "--num-demux-threads 2",
            {"num_demux_threads": 2, "arena": "pool"},  # the same: arena has no effect
            {"process_mode": "subprocess", "arena": "pool"},
        ],
    )
    plan = resolve(load_experiment(path))
    assert plan.fixed == {"device": "cpu", "sink_buffer_size": 5}
    assert plan.settings["num_frames"] == 8
    assert plan.baseline["num_demux_threads"] == 3
    assert plan.baseline["sink_buffer_size"] == 5
    assert plan.searched.pinned["batch_size"] == 32
    assert [p["num_demux_threads"] for p in plan.enqueued] == [2, 8]
    assert all(p["batch_size"] == 32 for p in plan.enqueued)


def test_search_space_narrowed_in_place(folder: Path) -> None:
    changes = {"num_decode_threads": {"max": 8, "default": 4}}
    plan = resolve(load_experiment(write(folder, search_space={"parameters": changes})))
    assert plan.space.parameters["num_decode_threads"].max == 8
    named = {"base": "spdl_video", "parameters": changes}
    assert resolve(load_experiment(write(folder, search_space=named))).space == plan.space


def test_overrides_are_yaml_and_later_ones_win(folder: Path) -> None:
    experiment = load_experiment(
        write(folder, budget={"hours": 8}),
        [
            "budget.trials=20",
            "budget.trials=30",
            "target.frame_size=[64, 64]",
            "constraints.cpu_percent.max=40",
            "target.arena=off",
            "baseline=--num-demux-threads 3",
            "executor={kind: ray, address: auto}",
            "search_space.parameters.num_demux_threads.max=9",
        ],
        {"seed": 7, "budget.hours": 2.0},
    )
    assert (experiment.budget.hours, experiment.budget.trials) == (2.0, 30)
    assert experiment.target.extra["frame_size"] == [64, 64]
    assert experiment.constraints["cpu_percent"].max == 40
    assert experiment.target.extra["arena"] == "off"
    assert experiment.executor.address == "auto"
    assert experiment.seed == 7
    assert resolve(experiment).baseline["num_demux_threads"] == 3


def test_paths_expand_and_are_relative_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"DATA": "clips"}
    path = write(folder, target={"data_dir": "./x/../${DATA}"}, study_name="${DATA}")
    experiment = load_experiment(path, environ=environ)
    assert experiment.target.data_dir == str(folder / "clips")
    assert experiment.study_name == "${DATA}"
    monkeypatch.setenv("HOME", str(folder))
    path = write(folder, target={"data_dir": "~/clips"})
    assert resolve(load_experiment(path)).data_dir == folder / "clips"
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    late = load_experiment(path, values={"target.data_dir": "."})
    assert late.target.data_dir == str(folder / "here")


def test_an_experiment_that_is_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    data = {"target": {"name": "spdl_video", "data_dir": "clips"}, "search_space": "spdl_video"}
    plan = resolve(experiment_from(data, ["seed=3"], {"budget.trials": 4}))
    assert plan.data_dir == folder / "clips"
    assert (plan.experiment.seed, plan.experiment.budget.trials) == (3, 4)
    assert data["search_space"] == "spdl_video"
    with pytest.raises(InputError, match=r"^command line: budget\.trials: 0 is not accepted"):
        experiment_from(data, [], {"budget.trials": 0})


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("budgt.trials=3", ["budgt: unknown key", "Did you mean 'budget'?", "verification"]),
        ("budget.trails=3", ["budget.trails: unknown key", "'trials'", "hours, trials, patience"]),
        ("budget.trials=ten", ["budget.trials: a whole number is needed, not text (ten)"]),
        ("budget.trials=0", ["budget.trials: 0 is not accepted", "at least 1"]),
        ("budget.trials=true", ["budget.trials: a whole number", "true"]),
        ("budget.trials='3'", ["budget.trials: a whole number is needed, not text (3)"]),
        ("budget.hours=0", ["budget.hours: 0 is not accepted", "above 0"]),
        ("budget={trials: null}", ["budget: a study without hours and without trials"]),
        ("objective=fps", ["objective: fps is not accepted", "Accepted: samples_per_second"]),
        ("sampler=tpee", ["sampler: tpee", "Did you mean 'tpe'?", "auto, tpe, gp, random"]),
        ("constraints.cpu.max=3", ["constraints.cpu: unknown key", "cpu_percent, host_memory"]),
        ("constraints.cpu_percent={}", ["constraints.cpu_percent: give min, max or both"]),
        ("constraints.cpu_percent={min: 3, max: 2}", ["the range is empty"]),
        ("constraints.cpu_percent.max.max=3", ["a number is needed, not a mapping"]),
        ("constraints.max={max: {}, x: 1}", ["constraints.max.x: unknown key", "Accepted: min"]),
        ("constraints.cpu_percent.mx=3", ["mx: unknown key", "Accepted: min, max"]),
        ("measurement.min_seconds=99", ["min_seconds 99", "is above max_seconds"]),
        ("measurement.window=1", ["measurement.window: unknown key", "'window_seconds'"]),
        ("verification.blocks=3", ["verification.blocks: 3", "at least 4"]),
        ("verification.finalists=-1", ["at least 0"]),
        ("seed=1.5", ["seed: a whole number is needed"]),
        ("baseline=3", ["baseline: a mapping such as", "not a number (3)"]),
        ("enqueue=[3]", ["enqueue[0]: a mapping such as"]),
        ("vary_workload=device", ["vary_workload: a list is needed, not text (device)"]),
        ("vary_workload=[device, device]", ["lists a parameter twice"]),
        ("executor=ray", ["executor: a mapping is needed, not text (ray)"]),
        ("executor.slots_per_node=0", ["at least 1"]),
        ("study_name='a:b'", ["study_name: 'a:b' is not accepted", "no colon"]),
        ("target.consumer.kind=pace", ["consumer.kind: pace", "'paced'", "none, paced"]),
        ("target.ranks=0", ["target.ranks: 0 is not accepted", "at least 1"]),
        ("target=x", ["target: a mapping is needed"]),
        ("source=x", ["source: unknown key"]),
        ("budget.hours=.nan", ["budget.hours: a number is needed"]),
    ],
)
def test_bad_values_name_key_value_accepted(folder: Path, override: str, parts: list[str]) -> None:
    path = write(folder)
    with pytest.raises(InputError) as caught:
        load_experiment(path, [override])
    message = str(caught.value)
    assert message.startswith((f"--set {override}: ", f"{path}: "))
    for part in parts:
        assert part in message
    # The same value in the file itself names the file.
    data = yaml.safe_load(path.read_text())
    key, text = override.split("=", 1)
    section = data
    *parents, last = key.split(".")
    for part in parents:
        section = section.setdefault(part, {})
    section[last] = yaml.safe_load(text)
    if ".nan" not in text:
        path.write_text(yaml.safe_dump(data))
        with pytest.raises(InputError) as caught:
            load_experiment(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("override", ["budget", "=3", "budget trials=3", "a..b=1", ".a=1"])
def test_malformed_overrides(folder: Path, override: str) -> None:
    with pytest.raises(InputError, match=r"accepted is key\.path=value"):
        load_experiment(write(folder), [override])


def test_override_below_a_value(folder: Path) -> None:
    with pytest.raises(InputError, match=r"--set seed\.x=1: seed is 3 .* Set seed as a whole"):
        load_experiment(write(folder, seed=3), ["seed.x=1"])
    with pytest.raises(InputError, match=r"^--set seed=\[1:1: this is not valid YAML"):
        load_experiment(write(folder), ["seed=[1"])


def test_all_mistakes_come_in_one_message(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment(write(folder, seed=-1, sampler="x", budget={"trials": "y"}))
    assert len(str(caught.value).splitlines()) == 3


def test_no_file_and_no_target(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        load_experiment(folder / "none.yaml")
    path = folder / "study.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(InputError, match=r"study\.yaml: target: is missing"):
        load_experiment(path)
    path.write_text("target: {device: cpu}\n")
    with pytest.raises(InputError, match=r"target\.name: is missing"):
        load_experiment(path)


def test_unset_variable_in_a_path(folder: Path) -> None:
    with pytest.raises(InputError, match=r"target\.data_dir: \$\{NO\}.*variable NO is not set"):
        load_experiment(write(folder, target={"data_dir": "${NO}"}), environ={})


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        (
            {"target": {"num_frame": 8}},
            ["target.num_frame: unknown key", "'num_frames'", "frame_size", "num_demux_threads"],
        ),
        ({"target": {"name": "spdl"}}, ["target.name: there is no target 'spdl'", "spdl_video"]),
        ({"target": {"num_frames": 0}}, ["target.num_frames: 0 is not accepted", "at least 1"]),
        ({"target": {"num_frames": True}}, ["target.num_frames: a whole number is needed"]),
        ({"target": {"frame_size": [1, "x"]}}, ["target.frame_size[1]: a whole number"]),
        (
            {"target": {"num_demux_threads": 99}},
            ["target.num_demux_threads: 99 is not accepted", "1 to 16"],
        ),
        ({"target": {"device": "gpu"}}, ["target.device: gpu", "cpu, nvdec"]),
        ({"target": {"arena": False}}, ["target.arena: false", 'write "off"']),
        ({"target": {"data_dir": "none"}}, ["no such data folder", "autotune clips make DIR"]),
        ({"target": {"data_dir": "study.yaml"}}, ["is a file, not a folder"]),
        ({"target": {"data_dir": None}}, ["target.data_dir: is missing", "clips make"]),
        ({"search_space": "none.yaml"}, ["search_space", "no such file"]),
        ({"search_space": "other"}, ["search_space: no search space comes with", "spdl_video"]),
        (
            {"search_space": {"parameters": {"arena": {"values": ["off", "mmap"]}}}},
            ["search_space: parameters.arena: the target spdl_video does not accept mmap"],
        ),
        (
            {"search_space": {"parameters": {"num_demux_threads": {"min": 0}}}},
            ["parameters.num_demux_threads: the target spdl_video does not accept 0"],
        ),
        ({"vary_workload": ["duration"]}, ["vary_workload: duration is unknown", "subclip_"]),
        ({"vary_workload": ["arena"]}, ["vary_workload: arena is no workload parameter"]),
        ({"baseline": {"num_demux": 3}}, ["baseline.num_demux: unknown", "num_demux_threads"]),
        ({"baseline": {"num_demux_threads": [3]}}, ["baseline.num_demux_threads: [3] is not"]),
        ({"baseline": "--num-demux 3"}, ["baseline: unknown flag --num-demux", "Did you mean"]),
        (
            {"baseline": {"device": "nvdec"}, "target": {"device": "cpu"}},
            ["baseline.device: nvdec contradicts target.device: cpu", "Remove one"],
        ),
        ({"enqueue": [{}, {"batch_size": 8}]}, ["enqueue[1].batch_size", "vary_workload"]),
        ({"executor": {"kind": "rey"}}, ["executor.kind: rey", "'ray'", "local, ray"]),
    ],
)
def test_what_only_target_and_space_can_tell(
    folder: Path, keys: dict[str, Any], parts: list[str]
) -> None:
    path = write(folder, **keys)
    with pytest.raises(InputError) as caught:
        resolve(load_experiment(path))
    assert str(caught.value).startswith(f"{path}: ")
    for part in parts:
        assert part in str(caught.value)


def test_a_space_of_another_target_is_refused(folder: Path) -> None:
    (folder / "space.yaml").write_text(
        "target: other\nparameters: {p: {min: 1, max: 2, default: 1}}\n"
    )
    with pytest.raises(
        InputError, match=r"is for the target other, and target\.name is spdl_video"
    ):
        resolve(load_experiment(write(folder, search_space="space.yaml")))
    (folder / "space.yaml").write_text(
        "target: spdl_video\nparameters: {num_demux_thread: {min: 1, max: 2, default: 1}}\n"
    )
    with pytest.raises(InputError, match=r"has no such parameter.*'num_demux_threads'"):
        resolve(load_experiment(write(folder, search_space="space.yaml")))


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda children: (
            st.lists(children, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Experiment.model_fields, "name", "kind", "max", "x"]),
                children,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_is_an_input_error(data: Any) -> None:
    document = {"target": {"name": "t"}, **(data if isinstance(data, dict) else {"seed": data})}
    try:
        experiment = Experiment.from_dict(document, "x.yaml")
    except InputError as error:
        lines = str(error).splitlines()
        assert all(line.startswith("x.yaml") for line in lines)
        return
    assert Experiment.from_dict(experiment.to_dict()).to_dict() == experiment.to_dict()


# --------------------------------------------------------------------------- resuming


def test_what_may_change_on_resume_and_what_may_not(folder: Path) -> None:
    before = identity(resolve(load_experiment(write(folder))))
    assert json.loads(json.dumps(before)) == before

    def changed(*overrides: str) -> list[str]:
        return difference(before, identity(resolve(load_experiment(write(folder), overrides))))

    assert changed() == []
    assert (
        changed(
            "budget.trials=9",
            "executor.kind=ray",
            "verification.blocks=8",
            "sampler=random",
            "storage=sqlite:///x.db",
            "study_name=other",
            "limits.silence_seconds=60",
            "enqueue=[--num-demux-threads 2]",
        )
        == []
    )
    assert changed("measurement.min_seconds=5") == ["measurement.min_seconds: 3.0 -> 5.0"]
    assert changed("target.num_frames=8") == ["target.settings.num_frames: 16 -> 8"]
    assert changed("target.ranks=2") == ["target.ranks: null -> 2"]
    assert changed("target.consumer.kind=paced") == ['consumer.kind: "none" -> "paced"']
    assert "target.fixed: {} -> (not there)" in changed("target.num_demux_threads=3")
    assert "baseline.num_demux_threads: 8 -> 3" in changed("baseline=--num-demux-threads 3")
    assert changed("seed=1") == ["seed: 0 -> 1"]
    (folder / "more").mkdir()
    (line,) = changed("target.data_dir=more")
    assert line.startswith("data_dir: ")
    assert line.endswith('more"')
    narrowed = changed("search_space.parameters.num_demux_threads.max=9")
    assert narrowed == ["search_space.parameters.num_demux_threads.max: 16 -> 9"]


# --------------------------------------------------------------------------- storage and secrets

URL = "postgresql+psycopg://me:s3cret@host:5432/db?sslpassword=s3cret&application_name=x"


def test_no_password_leaves_the_experiment(folder: Path) -> None:
    experiment = load_experiment(write(folder, storage=URL))
    assert experiment.storage == URL
    assert "s3cret" not in json.dumps(experiment.to_dict())
    assert "s3cret" not in repr(experiment)
    assert "s3cret" not in json.dumps(identity(resolve(experiment)))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql+psycopg://me:***@host:5432/db?sslpassword=***&application_name=x"),
        ("sqlite:///autotune.db", "sqlite:///autotune.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("me:s3cret@host", "me:***@host"),
        ("http//me:s3cret@x?token=s3cret", "http//me:***@x?token=***"),
        ("://://me:s3cret@x", ":***@x"),
    ],
)
def test_redact_url(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@settings(deadline=None)
@example("a/b")
@example("a@b/c?d")
@given(st.text(min_size=1).filter(lambda t: "s3cret" not in t))
def test_redacting_never_raises_and_hides_what_stands_before_the_host(text: str) -> None:
    assert "s3cret" not in redact_url(f"postgresql://{text}:s3cret@host/db")


def test_storage_option_then_environment_then_experiment(folder: Path) -> None:
    experiment = load_experiment(write(folder, storage="sqlite:///e.db"))
    environ = {"AUTOTUNE_STORAGE": "sqlite:///v.db"}
    assert storage_url("sqlite:///o.db", experiment, environ) == "sqlite:///o.db"
    assert storage_url(None, experiment, environ) == "sqlite:///v.db"
    assert storage_url(None, experiment, {}) == "sqlite:///e.db"
    assert storage_url(None, None, {}) == "sqlite:///autotune.db"


def test_bad_storage_names_its_origin_and_hides_the_password(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        storage_url(None, None, {"AUTOTUNE_STORAGE": "me:s3cret@host"})
    assert str(caught.value).startswith("AUTOTUNE_STORAGE: me:***@host is not a database URL")
    with pytest.raises(InputError, match=r"--storage: autotune\.db is not a database URL"):
        storage_url("autotune.db")
    with pytest.raises(InputError) as caught:
        load_experiment(write(folder), ["storage=[me:s3cret@host]"])
    assert "s3cret" not in str(caught.value)
    assert "--set storage=***: storage: text is needed" in str(caught.value)
