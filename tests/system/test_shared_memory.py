"""Whose a file in shared memory is, decided while its maker lives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autotune.system import shared_memory
from autotune.system.shared_memory import SegmentWatch


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /dev/shm, where others make files meanwhile."""
    monkeypatch.setattr(shared_memory, "_FOLDER", str(tmp_path))
    monkeypatch.setattr(shared_memory, "_PREFIX", f"{tmp_path}/")
    return tmp_path


def test_a_file_that_was_seen_before_its_maker_had_it_open_is_removed(folder: Path) -> None:
    watch = SegmentWatch()
    made = folder / "sem.made"
    made.touch()  # as between open(2)'s two halves: in the folder, and no descriptor yet
    watch.update(lambda: [os.getpid()], now_or_never=True)
    with made.open("rb"):
        watch.update(lambda: [os.getpid()], now_or_never=True)
    watch.remove([])
    assert not made.exists()


def test_a_file_of_another_program_is_looked_at_twice_and_stays(folder: Path) -> None:
    looks = []

    def members() -> list[int]:
        looks.append(1)
        return [os.getpid()]

    watch = SegmentWatch()
    (folder / "somebody's").touch()
    for _ in range(5):
        watch.update(members, now_or_never=True)
    assert len(looks) == 2
    watch.remove([])
    assert (folder / "somebody's").exists()
