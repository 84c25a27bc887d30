"""The page cache's state is made, proved and refused, on real files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import FOLDER, ROOT, specification
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import InputError, MeasurementFailed
from autotune.executors.node import probe_node
from autotune.manifest import Manifest, scan
from autotune.measuring import pagecache
from autotune.measuring.pagecache import choose, prepare, reach, read_all, residency
from autotune.supervision.supervisor import supervise
from autotune.trial import ProbeRequest

CLIPS = 40
BYTES = 50_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files on a disk, freshly written and so not yet written back."""
    folder = tmp_path / "data" / "class_a"
    folder.mkdir(parents=True)
    for i in range(CLIPS):
        (folder / f"{i:02}.mp4").write_bytes(os.urandom(BYTES))
    if residency([str(folder / "00.mp4")]) is None:
        pytest.skip("the file system of the temporary folder does not tell what is in memory")
    if os.statvfs(folder).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("the temporary folder lies in memory")
    return folder.parent


def files(data: Path) -> pagecache.Reach:
    return reach(scan(data), seed=0, max_seconds=30)


@pytest.fixture(params=["cachestat", "mincore"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "mincore":  # a system call that no kernel has
        monkeypatch.setattr(pagecache, "_SYS_CACHESTAT", 9999)


@pytest.mark.usefixtures("_either_way")
def test_files_are_evicted_and_read_back_and_the_kernel_says_so(data: Path) -> None:
    chosen = files(data)
    assert prepare("cold", chosen) == pytest.approx(0.0, abs=pagecache.COLD_LIMIT)
    assert residency(chosen.paths()) == pytest.approx(0.0, abs=pagecache.COLD_LIMIT)
    assert prepare("warm", chosen) == 1.0
    assert residency(chosen.paths()) == 1.0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were opened, of which 8 are looked at before a measurement."""
    names: list[str] = []
    open_it = os.open

    def noted(path: str, *options: Any) -> int:
        names.append(os.path.basename(path))
        return open_it(path, *options)

    monkeypatch.setattr(pagecache, "CHECKED_FILES", 8)
    monkeypatch.setattr(pagecache.os, "open", noted)
    return names


def test_what_a_measurement_has_read_is_evicted_and_the_rest_only_sampled(
    data: Path, opened: list[str]
) -> None:
    chosen = files(data)
    prepare("cold", chosen, first=True)
    assert len(set(opened)) == CLIPS
    paths = list(chosen.paths())
    read_all(paths[:12], time.monotonic() + 60)
    opened.clear()
    assert prepare("cold", chosen) == pytest.approx(0.0, abs=pagecache.COLD_LIMIT)
    assert 24 <= len(set(opened)) < CLIPS
    assert residency(paths) == 0.0


def test_files_that_somebody_else_has_read_are_all_evicted(data: Path, opened: list[str]) -> None:
    chosen = files(data)
    prepare("cold", chosen, first=True)
    paths = list(chosen.paths())
    read_all(paths[20:], time.monotonic() + 60)
    prepare("cold", chosen)
    assert residency(paths) == 0.0
    assert len(set(opened)) == CLIPS


def test_one_file_that_was_evicted_is_read_back(data: Path) -> None:
    chosen = files(data)
    prepare("warm", chosen)
    victim = next(iter(chosen.paths()))
    descriptor = os.open(victim, os.O_RDONLY)
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    assert residency([victim]) == 0.0
    assert prepare("warm", chosen) == 1.0
    assert residency([victim]) == 1.0


def test_files_in_memory_itself_cannot_be_cold(tmp_path: Path) -> None:
    folder = Path("/dev/shm") / f"autotune-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "clip.mp4").write_bytes(os.urandom(BYTES))
        with pytest.raises(MeasurementFailed, match="tmpfs") as caught:
            prepare("cold", files(folder))
    finally:
        (folder / "clip.mp4").unlink()
        folder.rmdir()
    assert caught.value.failure.kind == "unsupported"
    assert "page_cache: warm" in caught.value.failure.advice


def test_files_that_do_not_stay_warm_are_a_contaminated_measurement(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = files(data)
    prepare("cold", chosen)
    monkeypatch.setattr(pagecache, "WARM_SECONDS", -1.0)  # nothing can be read in time
    with pytest.raises(MeasurementFailed) as caught:
        prepare("warm", chosen)
    assert caught.value.failure.kind == "contaminated"
    assert "stayed in memory" in caught.value.failure.cause


def test_files_that_are_gone_are_left_to_the_measurement(data: Path) -> None:
    chosen = files(data)
    (data / "class_a" / "00.mp4").unlink()
    assert prepare("warm", chosen) == 1.0
    assert prepare("cold", chosen) == pytest.approx(0.0, abs=pagecache.COLD_LIMIT)
    assert read_all(chosen.paths(), time.monotonic() + 60) == (CLIPS - 1) * BYTES


def manifest(count: int, size: int = 1000) -> Manifest:
    names = [f"{i}.mp4" for i in range(count)]
    return Manifest("/nowhere", names, [size] * count, [0] * count, ["."], "0")


@given(count=st.integers(1, 300), seconds=st.floats(0.1, 5), ranks=st.integers(1, 4))
def test_what_can_be_reached_is_what_every_rank_reads_first(
    count: int, seconds: float, ranks: int
) -> None:
    known = manifest(count)
    found = reach(known, 3, seconds, cores=1)
    limit = pagecache.MAX_RATE_PER_CORE * (seconds + pagecache.START_UP_SECONDS)
    assert len(found) == min(count, -int(-limit // 1))
    assert found.bytes == 1000 * len(found)
    assert found.whole == (len(found) == count)
    reached = set(found.indices)
    for rank in range(ranks):
        order = known.order(3, 0, rank, ranks)
        assert set(order[: len(found) // ranks]) <= reached


def test_a_long_data_set_is_looked_at_in_parts() -> None:
    known = reach(manifest(5000), 0, 30, cores=1)
    part = known.first_and_spread()
    assert part.indices[: pagecache.CHECKED_FILES] == known.indices[: pagecache.CHECKED_FILES]
    assert pagecache.CHECKED_FILES < len(part) <= 2.5 * pagecache.CHECKED_FILES
    assert set(part.indices) <= set(known.indices)
    assert len(set(part.indices)) == len(part)


def test_warm_is_refused_above_half_of_the_memory_and_auto_picks() -> None:
    known = reach(manifest(10, size=2**30), 0, 30)
    assert choose("auto", known, 21 * 2**30) == choose("warm", known, 21 * 2**30) == "warm"
    assert choose("auto", known, 19 * 2**30) == "cold"
    assert choose("cold", known, 21 * 2**30) == "cold"
    with pytest.raises(InputError, match=r"10\.0 GiB.*9\.5 of 19\.0 GiB.*page_cache: cold or auto"):
        choose("warm", known, 19 * 2**30)


# ------------------------------------------------------------------ in real processes


def probed(data: Path, tmp_path: Path, **changes: Any) -> Any:
    fields = {"target": "synthetic:Steady", "params": {}, "study": "s", "data_dir": str(data)}
    return probe_node(
        ProbeRequest.model_validate({**fields, "cache_dir": str(tmp_path / "cache"), **changes})
    )


@pytest.mark.parametrize(("asked", "state"), [("auto", "warm"), ("cold", "cold")])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_measurement_begins_in_the_state_that_it_records(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, state: str, ranks: int
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")
    node = probed(data, tmp_path, page_cache=asked)
    assert node.error is None
    assert node.page_cache == state
    share = 1.0 if state == "warm" else 0.0
    assert residency(files(data).paths()) == pytest.approx(share, abs=pagecache.COLD_LIMIT)
    prepare("cold" if state == "warm" else "warm", files(data))
    spec = specification(manifest=node.manifest, ranks=ranks)
    settings = spec.measurement.model_copy(update={"page_cache": asked})
    result = supervise(spec.model_copy(update={"measurement": settings}))
    assert result.measurement is not None, result.failure
    assert result.measurement.page_cache == state
    # the synthetic target reads no file, so that they are as the worker left them
    assert residency(files(data).paths()) == pytest.approx(share, abs=pagecache.COLD_LIMIT)


def test_a_study_that_cannot_be_cold_is_refused_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")
    folder = Path("/dev/shm") / f"autotune-test-probe-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "clip.mp4").write_bytes(os.urandom(BYTES))
        node = probed(folder, tmp_path, page_cache="cold")
    finally:
        (folder / "clip.mp4").unlink()
        folder.rmdir()
    assert node.error_kind == "unsupported"
    assert "measurement.page_cache: cold" in (node.error or "")
    assert "Use page_cache: warm" in (node.error or "")


def test_a_measurement_without_files_records_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")
    result = supervise(specification())
    assert result.measurement is not None
    assert result.measurement.page_cache is None
