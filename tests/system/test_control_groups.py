"""The limits of control groups, read from trees of files like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.supervision import limits, verdict
from autotune.system import control_groups, machine

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root / "proc", root / "sys"


UNIFIED = {
    "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
    "sys/fs/cgroup/memory.stat": "inactive_file 7\n",
    "sys/fs/cgroup/slurm/memory.max": f"{64 * GIB}\n",
    "sys/fs/cgroup/slurm/memory.current": f"{60 * GIB}\n",
    "sys/fs/cgroup/slurm/cpu.max": "max 100000\n",
    "sys/fs/cgroup/slurm/job_1/memory.max": f"{16 * GIB}\n",
    "sys/fs/cgroup/slurm/job_1/memory.current": f"{13 * GIB}\n",
    "sys/fs/cgroup/slurm/job_1/memory.stat": f"anon 5\ninactive_file {8 * GIB}\n",
    "sys/fs/cgroup/slurm/job_1/cpu.max": "250000 100000\n",
    "sys/fs/cgroup/slurm/job_1/step_0/memory.max": "max\n",
    "sys/fs/cgroup/slurm/job_1/step_0/memory.current": f"{12 * GIB}\n",
    "sys/fs/cgroup/slurm/job_1/step_0/memory.events": "oom 3\noom_kill 2\n",
    "sys/fs/cgroup/slurm/job_1/step_0/cpu.max": "400000 100000\n",
}

SEPARATE = {
    "proc/self/cgroup": "4:memory:/docker/a\n2:cpuacct,cpu:/docker/a\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": f"{8 * GIB}\n",
    "sys/fs/cgroup/memory/docker/memory.usage_in_bytes": f"{6 * GIB}\n",
    "sys/fs/cgroup/memory/docker/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
    "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/docker/a/memory.oom_control": "under_oom 0\noom_kill 4\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000\n",
}

IN_A_CONTAINER = {  # the path is the host's, and the group lies at the root
    "proc/self/cgroup": "0::/kubepods/pod1/c\n",
    "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
    "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
    "sys/fs/cgroup/memory.events": "oom_kill 1\n",
    "sys/fs/cgroup/cpu.max": "200000 100000\n",
}


@pytest.mark.parametrize(
    ("tree", "limit", "room", "cores"),
    [
        (UNIFIED, 16, 4, 2.5),  # of /slurm less is left than of the job, whose cache can go
        (SEPARATE, 8, 3, 1.5),
        (IN_A_CONTAINER, 4, 1, 2.0),
    ],
)
def test_the_tightest_limit_on_the_way_up_counts(
    tmp_path: Path, tree: dict[str, str], limit: int, room: int, cores: float
) -> None:
    proc, sys = write(tmp_path, tree)
    memory = control_groups.Memory(proc, sys)
    assert memory.limit == limit * GIB
    assert memory.room() == room * GIB
    assert control_groups.cpu_quota(proc, sys) == cores


@pytest.mark.parametrize(
    "lines", ["0::/\n", "0::/../../elsewhere\n", "3:memory:/gone\n", "1:name=systemd:/x\n", ""]
)
def test_without_limits_there_are_none(tmp_path: Path, lines: str) -> None:
    proc, sys = write(tmp_path, {"proc/self/cgroup": lines, "sys/fs/cgroup/memory.max": "max\n"})
    memory = control_groups.Memory(proc, sys)
    assert (memory.limit, memory.room(), control_groups.cpu_quota(proc, sys)) == (None, None, None)
    assert control_groups.Memory(tmp_path / "no", sys).limit is None


def test_a_group_over_its_limit_has_no_room(tmp_path: Path) -> None:
    over = {"sys/fs/cgroup/memory.current": f"{5 * GIB}\n"}
    assert control_groups.Memory(*write(tmp_path, IN_A_CONTAINER | over)).room() == 0


def test_the_machine_and_the_limits_of_trials_heed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        **UNIFIED,
        "sys/fs/cgroup/slurm/job_1/memory.max": f"{GIB}\n",
        "sys/fs/cgroup/slurm/job_1/memory.current": f"{GIB}\n",
        "sys/fs/cgroup/slurm/job_1/memory.stat": f"inactive_file {GIB // 4}\n",
        "sys/fs/cgroup/slurm/job_1/cpu.max": "100000 100000\n",
    }
    proc, sys = write(tmp_path, small)
    groups = control_groups
    readers = (groups.folders, groups.cpu_quota, groups.Memory.__init__)
    for function in (*readers, groups.MemoryEvents.read.__func__):  # type: ignore[attr-defined]
        monkeypatch.setattr(function, "__defaults__", (proc, sys))
    assert machine.memory_bytes() == limits.HostMemory().total == GIB
    assert machine.available_bytes() == limits.HostMemory().available() == GIB // 4
    assert machine.cores() == 1
    assert verdict.MemoryKills.read().groups.kills == 2


@pytest.mark.parametrize(
    ("tree", "counters", "full", "limit"),
    [
        # version 2: the one whose own limit it was, and not those above, which count it too
        (
            UNIFIED,
            {
                "slurm/job_1/step_0/memory.events.local": "oom 0\noom_kill 1\n",
                "slurm/job_1/memory.events.local": "oom 1\noom_kill 0\n",
                "slurm/memory.events.local": "oom 0\noom_kill 0\n",
                "slurm/memory.events": "oom 1\noom_kill 3\n",
            },
            "slurm/job_1",
            16,
        ),
        (SEPARATE, {"memory/docker/memory.failcnt": "5\n"}, "memory/docker", 8),
        (IN_A_CONTAINER, {"memory.events": "oom 2\noom_kill 2\n"}, ".", 4),
        # at its limit, and the limit is gone
        (SEPARATE, {"memory/docker/a/memory.failcnt": "5\n"}, None, 0),
        (UNIFIED, {}, None, 0),
    ],
)
def test_the_group_that_reached_its_limit_is_known(
    tmp_path: Path, tree: dict[str, str], counters: dict[str, str], full: str | None, limit: int
) -> None:
    before = control_groups.MemoryEvents.read(*write(tmp_path, tree))
    root = tmp_path / "sys/fs/cgroup"
    changed = {f"sys/fs/cgroup/{name}": content for name, content in counters.items()}
    after = control_groups.MemoryEvents.read(*write(tmp_path, changed))
    expected = None if full is None else control_groups.Limited(root / full, limit * GIB)
    assert after.filled_since(before) == expected
    assert after.filled_since(after) is None


@pytest.mark.parametrize(("tree", "kills"), [(UNIFIED, 2), (SEPARATE, 4), (IN_A_CONTAINER, 1)])
def test_kills_are_those_of_the_processs_own_group(
    tmp_path: Path, tree: dict[str, str], kills: int
) -> None:
    assert control_groups.MemoryEvents.read(*write(tmp_path, tree)).kills == kills


def test_without_groups_nothing_was_killed_in_them(tmp_path: Path) -> None:
    events = control_groups.MemoryEvents.read(tmp_path / "no", tmp_path / "no")
    assert events == control_groups.MemoryEvents(0, {})
