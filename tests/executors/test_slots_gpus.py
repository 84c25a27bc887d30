"""Which GPUs a slot has, and how many ranks that makes. The GPUs are counts: none is used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import FOLDER, ROOT, marked, specification, wait_for

from autotune.config import load_experiment
from autotune.config.plan import Plan, resolve
from autotune.executors.local import LocalExecutor, shares
from autotune.study.run import specification as specify
from autotune.trial import Fingerprint, NodeInfo, ProbeRequest, TrialSpec

LONG = {"min_seconds": 600, "max_seconds": 600, "window_seconds": 0.1}

FAKE_NVML = '''
"""Eight GPUs with nothing behind them, as far as the probe of a node looks."""
from types import SimpleNamespace

class NVMLError(Exception):
    pass

def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 8
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlSystemGetDriverVersion(): return "0"
def nvmlDeviceGetName(handle): return f"fake {handle}"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=2**30, used=0)
'''


@pytest.mark.parametrize(
    ("devices", "slots", "expected"),
    [
        ("01234567", 2, ["0123", "4567"]),
        ("012", 2, ["0", "1"]),  # the slots stay alike
        ("0", 2, ["0", "0"]),
        ("01", 3, ["0", "1", "0"]),
        ("", 2, ["", ""]),
    ],
)
def test_slots_divide_the_gpus(devices: str, slots: int, expected: list[str]) -> None:
    assert shares(list(devices), slots) == [list(share) for share in expected]


@pytest.fixture
def fake_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text(FAKE_NVML)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), FOLDER, ROOT]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,6,7")


def probe(folder: Path) -> ProbeRequest:
    return ProbeRequest(
        study="slots",
        target="synthetic:Steady",
        params={"batch_size": 4, "num_threads": 1},
        cache_dir=str(folder),
    )


@pytest.mark.usefixtures("fake_gpus")
def test_local_slots_have_gpus_of_their_own_and_the_node_tells_one_slots(tmp_path: Path) -> None:
    executor = LocalExecutor.create(address=None, slots_per_node=2)
    (node,) = executor.start(probe(tmp_path))
    assert node.names["gpu_count"] == 3
    assert node.fingerprint.machine["gpus"] == ["fake 0 1 GiB", "fake 1 1 GiB", "fake 2 1 GiB"]
    specs = [specification(measurement=LONG) for _ in range(2)]
    jobs = [executor.submit(spec) for spec in specs]
    try:
        assert wait_for(lambda: all(visible_to(spec) for spec in specs))
        assert [visible_to(spec) for spec in specs] == [{"0,1,2"}, {"3,6,7"}]
        jobs[0].stop()
        jobs[0].result(timeout=30)
        specs.append(specification(measurement=LONG))
        jobs.append(executor.submit(specs[2]))
        assert wait_for(lambda: visible_to(specs[2]))
        assert visible_to(specs[2]) == {"0,1,2"}, "the slot that is free"
    finally:
        executor.close()


@pytest.mark.usefixtures("fake_gpus")
def test_the_only_slot_has_the_gpus_of_the_driver(tmp_path: Path) -> None:
    executor = LocalExecutor.create(address=None, slots_per_node=1)
    (node,) = executor.start(probe(tmp_path))
    executor.close()
    assert node.names["gpu_count"] == 6


def visible_to(spec: TrialSpec) -> set[str]:
    """CUDA_VISIBLE_DEVICES of all processes of a measurement."""
    found = set()
    for pid in marked(spec):
        try:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found |= {e.decode().partition("=")[2] for e in entries if e.startswith(b"CUDA_VISIBLE")}
    return found


def planned(folder: Path, target: str) -> Plan:
    path = folder / "experiment.yaml"
    path.write_text(f"target: {{data_dir: {folder}, {target}}}\nexecutor: {{slots_per_node: 2}}\n")
    return resolve(load_experiment(path))


def node_with(gpus: int) -> NodeInfo:
    return NodeInfo(node="here", fingerprint=Fingerprint(), names={"gpu_count": gpus})


@pytest.mark.parametrize("device", ["cpu", "nvdec"])
@pytest.mark.parametrize(("gpus", "ranks"), [(0, 1), (1, 1), (4, 4)])
def test_as_many_ranks_as_the_slot_has_gpus(
    tmp_path: Path, device: str, gpus: int, ranks: int
) -> None:
    plan = planned(tmp_path, f"name: spdl_video, device: {device}")
    assert specify(plan, "study", plan.baseline, node_with(gpus)).ranks == ranks


def test_the_experiments_number_of_ranks_counts(tmp_path: Path) -> None:
    plan = planned(tmp_path, "name: spdl_video, ranks: 3")
    assert specify(plan, "study", plan.baseline, node_with(4)).ranks == 3


def test_a_command_starts_its_own_ranks(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(
        "target: {name: command, command: 'true {flags}'}\n"
        "search_space: {parameters: {workers: {min: 1, max: 4, default: 2}}}\n"
    )
    plan = resolve(load_experiment(path))
    assert specify(plan, "study", plan.baseline, node_with(4)).ranks == 1
