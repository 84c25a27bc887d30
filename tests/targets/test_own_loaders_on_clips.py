"""Studies of loaders that are not part of autotune, on real clips, by the commands of the docs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.config import load_experiment, resolve
from autotune.study.run import specification
from autotune.supervision.supervisor import supervise
from autotune.trial import Fingerprint, NodeInfo

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT.parent / "shared" / "clips" / "real"
DOCS = ROOT / "docs" / "your_own_loader.md"

LOADER = """
from pathlib import Path
import av
import torch
from torch.utils.data import DataLoader, Dataset


class Clips(Dataset):
    def __init__(self, folder):
        self.paths = sorted(Path(folder).rglob("*.mp4"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        frames = []
        with av.open(str(self.paths[index])) as container:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(width=64, height=64, format="rgb24"))
                if len(frames) == 4:
                    break
        while len(frames) < 4:
            frames.append(frames[-1])
        return torch.stack([torch.from_numpy(f) for f in frames]), index % 5


def build(data_dir, num_workers=0, batch_size=2):
    return DataLoader(
        Clips(data_dir), batch_size, num_workers=num_workers, drop_last=True, shuffle=True
    )
"""

SCRIPT = """
import argparse
import itertools
from my_loader import build

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--num-workers", type=int, default=0)
parser.add_argument("--batch-size", type=int, default=2)
args = parser.parse_args()
step = 0
for epoch in itertools.count():
    for video, label in build(args.data, args.num_workers, args.batch_size):
        step += 1
        print(f"epoch {epoch} step {step} loss {video.float().mean():.3f}")
"""

STUDY: dict[str, Any] = {
    "search_space": {
        "parameters": {
            "num_workers": {"values": [0, 1], "default": 0},
            "batch_size": {"values": [2, 4], "default": 2, "workload": True},
        }
    },
    "budget": {"trials": 2},
    "measurement": {"min_seconds": 0.5, "max_seconds": 1.0, "repeats": 0},
    "noise": {"runs": 0, "drift_every": 0},
    "verification": {"finalists": 0},
    "executor": {"kind": "local"},
}

TARGETS: dict[str, dict[str, Any]] = {
    "python": {"function": "my_loader:build", "arguments": {"data_dir": str(CLIPS)}},
    "command": {
        "command": f"{{python}} train.py --data {CLIPS} {{flags}}",
        "regex": r"step (?P<step>\d+)",
        "samples_per_step": "batch_size",
        "frames_per_sample": 4,
    },
}


@pytest.mark.long
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"needs the test clips in {CLIPS}")
@pytest.mark.parametrize("name", TARGETS)
def test_a_study_on_real_clips(tmp_path: Path, name: str) -> None:
    (tmp_path / "my_loader.py").write_text(LOADER)
    (tmp_path / "train.py").write_text(SCRIPT)
    document = {"target": {"name": name, **TARGETS[name]}, **STUDY}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "autotune", *words],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("launch", "study.yaml")
    trials = json.loads(run("trials", "study", "-f", "json"))
    assert [t["state"] for t in trials] == ["COMPLETE"] * 2
    assert sorted(t["params"]["num_workers"] for t in trials) == [0, 1]
    for trial in trials:
        assert trial["samples_per_second"] > 0
        assert trial["fps"] == pytest.approx(4 * trial["samples_per_second"])
        assert trial["decoded_fps"] is None
    flags = run("export", "study", "--trial", "1", "--unverified", "-f", "flags")
    assert "--num-workers" in flags


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)


def test_the_promised_lines_of_yaml_and_python_are_no_more_than_promised(tmp_path: Path) -> None:
    study, loader = blocks("yaml")[0], blocks("python")[0]
    assert len(study.splitlines()) <= 12
    assert len([line for line in loader.splitlines() if line]) <= 5
    compile(loader, "my_loader.py", "exec")
    (tmp_path / "study.yaml").write_text(study)
    plan = resolve(load_experiment(tmp_path / "study.yaml"))
    assert plan.searched.searched == ["num_workers", "prefetch_factor"]
    assert plan.settings["function"] == "my_loader:build"


CLIPS_OF_A_PROJECT = """
import torch


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 4096

    def __getitem__(self, index):
        return torch.rand(3, 4, 8, 8), index % 5
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_the_promised_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    (tmp_path / "study.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "my_loader.py").write_text(blocks("python")[0])
    (tmp_path / "my_project.py").write_text(CLIPS_OF_A_PROJECT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    plan = resolve(
        load_experiment(
            tmp_path / "study.yaml",
            values={"measurement.min_seconds": 0.3, "measurement.max_seconds": 1.0},
        )
    )
    params = plan.space.complete({"num_workers": workers})
    node = NodeInfo(node="n", fingerprint=Fingerprint(), names={})
    result = supervise(specification(plan, uuid.uuid4().hex, params, node))
    assert result.measurement is not None, (result.failure, result.log_tail)
    assert result.measurement.readback == params
    assert result.measurement.fps == pytest.approx(4 * result.measurement.samples_per_second)


@pytest.mark.parametrize("name", ["command", "spdl_example"])
def test_the_examples_of_commands_become_words(name: str) -> None:
    from autotune.targets.command.template import Template

    plan = resolve(
        load_experiment(
            ROOT / "experiments" / f"{name}.yaml", values={"target.data_dir": str(ROOT)}
        )
    )
    settings = plan.settings
    extra = {"data_dir": "DATA", "seed": 0, "python": "python"}
    words = Template.parse(settings["command"]).render(plan.baseline, settings["flags"], extra)
    flags = {
        "command": ["--num_workers", "4", "--prefetch-factor", "2"],
        "spdl_example": ["--num-demux-threads", "8", "--num-decode-threads", "16",
                         "--data-dir", "DATA", "--batch-size", "16"],
    }[name]  # fmt: skip
    assert [w for w in flags if w not in words] == []
    assert not any("{" in word for word in words)


def test_the_example_of_spdl_counts_the_steps_of_its_script() -> None:
    values = {"target.data_dir": str(ROOT)}
    plan = resolve(load_experiment(ROOT / "experiments" / "spdl_example.yaml", values=values))
    lines = [
        "2026-11-21 21:42:40,602 [I] [Rank0] __main__: Epoch 1/1",
        "2026-11-21 21:42:47,379 [I] [Rank0] __main__: Step 120 | loss=5.9727 | 1290.4 samples/s",
        "2026-11-21 21:42:52,589 [I] [Rank0] __main__: Epoch 1 complete | avg_loss=5.9170 | "
        "12.0s | 1280.3 samples/s",
    ]
    found = [re.search(plan.settings["regex"], line) for line in lines]
    assert [match and match["step"] for match in found] == [None, "120", None]
    # A second epoch of the script has no data: more of them would only keep it running idle.
    assert "--num-epochs" not in plan.settings["command"]
