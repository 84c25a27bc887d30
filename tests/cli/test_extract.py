"""`autotune clips extract`: frames once, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.frame_folders import read_index, read_record
from autotune.manifest import scan
from tests.made_clips import write_clip
from tests.studies import ROOT, Run

FRAMES = 18
"""Of each clip, 96x64 pixels, 12 a second."""

TWO_SMALL = ("--workers", "2", "-f", "json")

COMMAND = (sys.executable, "-m", "autotune", "clips", "extract")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips and two files that are none."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_clip(root / f"class_{number % 2}" / f"clip_{number}.mp4", number, FRAMES)
    (root / "class_0" / "text.mp4").write_text("not a video")
    (root / "class_1" / "empty.mkv").touch()
    return root


def extract(run: Run, *words: str, exit_code: int = 0) -> Any:
    done = run("clips", "extract", *words, *TWO_SMALL)
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout) if exit_code == 0 else done.stderr


def times(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.rglob("*.jpg")}


def test_every_clip_gets_a_folder_and_those_that_fail_a_reason(run: Run, clips: Path) -> None:
    done = run("clips", "extract", str(clips), "out", *TWO_SMALL)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    out = Path("out").absolute()
    assert (result["clips"], result["extracted"], result["failed"]) == (5, 3, 2)
    assert result["frames"] == 3 * FRAMES
    assert set(result["failures"]) == {"class_0/text.mp4", "class_1/empty.mkv"}
    assert "class_0/text.mp4 failed: " in done.stderr
    assert result["seconds"] > 0
    files = [*out.rglob("*.jpg"), *out.rglob("index.json")]
    assert result["bytes"] == sum(path.stat().st_size for path in files)
    assert result["source_bytes"] == sum(p.stat().st_size for p in clips.rglob("clip_*.mp4"))
    assert [path for path in out.rglob(".*") if path.name.endswith(".part")] == []
    manifest, videos = scan(out), scan(clips)
    assert (manifest.kind, manifest.paths, manifest.labels) == (
        "frames",
        videos.paths,
        videos.labels,
    )
    index = read_index(out / "class_0" / "clip_0.mp4", "clip")
    assert (index.width, index.height, index.codec) == (96, 64, "h264")
    assert index.times == pytest.approx([number / 12 for number in range(FRAMES)])
    assert index.duration == pytest.approx(FRAMES / 12)
    record = read_record(out)
    assert record.complete
    assert record.bytes == result["bytes"]
    shown = run("clips", "extract", str(clips), "out")
    assert "frames   54" in shown.stdout
    assert "text.mp4: " in shown.stdout
    assert "clips    3 of 5" in shown.stdout


def test_run_again_it_keeps_what_is_complete(run: Run, clips: Path) -> None:
    first = extract(run, str(clips), "out")
    out = Path("out")
    before = times(out)
    shutil.rmtree(out / "class_0" / "clip_2.mp4")
    (out / "class_1" / "clip_1.mp4" / "index.json").unlink()
    again = extract(run, str(clips), "out")
    # the indices hold how long each clip took, in a digit more or less
    assert again["bytes"] == pytest.approx(first["bytes"], abs=20)
    assert {**again, "seconds": 0, "bytes": 0} == {**first, "seconds": 0, "bytes": 0}
    assert again["seconds"] > first["seconds"]
    after = times(out)
    assert after.keys() == before.keys()
    changed = {path for path in after if after[path] != before[path]}
    assert len(changed) == 2 * FRAMES
    assert not any("clip_0" in path for path in changed)
    assert extract(run, str(clips), "out") == again  # nothing to do: no time is added either


def test_a_clip_that_changed_is_extracted_again(run: Run, clips: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(clips, videos)
    assert extract(run, "videos", "out")["frames"] == 3 * FRAMES
    write_clip(videos / "class_0" / "clip_0.mp4", 7, frames=6)
    write_clip(videos / "class_0" / "text.mp4", 8, frames=5)
    again = extract(run, "videos", "out")
    assert (again["frames"], again["failed"]) == (2 * FRAMES + 11, 1)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "no JPEG": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def test_damaged_frames_are_found_and_repaired_with_check(run: Run, clips: Path) -> None:
    extract(run, str(clips), "out")
    out = Path("out")
    before = {path: path.read_bytes() for path in out.rglob("*.jpg")}
    for damage, folder in zip(DAMAGE.values(), sorted(out.glob("*/clip_*")), strict=True):
        damage(folder / "000007.jpg")
    extract(run, str(clips), "out")
    assert {p: p.read_bytes() for p in out.rglob("*.jpg")} != before
    extract(run, str(clips), "out", "--check")
    assert {p: p.read_bytes() for p in out.rglob("*.jpg")} == before


@pytest.mark.parametrize(
    ("words", "size", "frames"),
    [
        (["--size", "32"], (48, 32), FRAMES),
        (["--size", "500"], (96, 64), FRAMES),
        (["--size", "40x20"], (20, 40), FRAMES),
        (["--every", "4"], (96, 64), 5),
        (["--fps", "3"], (96, 64), 5),
        (["--fps", "100", "--quality", "31"], (96, 64), FRAMES),
    ],
)
def test_size_and_rate(
    run: Run, clips: Path, words: list[str], size: tuple[int, int], frames: int
) -> None:
    (one,) = (clips / "class_1").glob("clip_1.mp4")
    Path("videos").mkdir()
    (Path("videos") / "one.mp4").symlink_to(one)
    result = extract(run, "videos", "out", *words)
    index = read_index("out/one.mp4", "one.mp4")
    assert (index.width, index.height) == size
    assert len(index.pts) == result["frames"] == frames
    import av

    with av.open("out/one.mp4/000000.jpg") as container:
        (frame,) = container.decode(video=0)
    assert (frame.width, frame.height) == size


def test_quality_changes_the_size(run: Run, clips: Path) -> None:
    best = extract(run, str(clips), "best", "--quality", "1")["bytes"]
    assert extract(run, str(clips), "worst", "--quality", "31")["bytes"] < best / 2


def test_other_settings_are_refused_with_the_difference(run: Run, clips: Path) -> None:
    extract(run, str(clips), "out", "--size", "32")
    before = times(Path("out"))
    message = extract(run, str(clips), "out", "--quality", "5", exit_code=2)
    assert "--size: 32 then, not given now" in message
    assert "--quality: 2 then, 5 now" in message
    assert "--every" not in message
    Path("others").mkdir()
    write_clip(Path("others/a.mp4"), 0, frames=2)
    assert f"DIR: {clips} then" in extract(run, "others", "out", "--size", "32", exit_code=2)
    assert times(Path("out")) == before


def test_bad_input_is_refused(run: Run, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").touch()
    (tmp_path / "file").touch()
    wrong = {
        (str(clips), "notes"): "todo.txt",
        (str(clips), "file"): "is a file",
        (str(clips), str(clips / "out")): "lies in",
        (str(clips), "out", "--size", "12x"): "a short side such as 256",
        (str(clips), "out", "--size", "4"): "from 16 to 8192 pixels",
        ("nowhere", "out"): "does not exist",
        ("notes", "out"): "holds no video",
    }
    for words, message in wrong.items():
        assert message in extract(run, *words, exit_code=2)
    assert not (tmp_path / "out").exists()


def test_it_fails_where_no_clip_can_be_extracted(run: Run) -> None:
    Path("videos").mkdir()
    Path("videos/a.mp4").write_text("not a video")
    done = run("clips", "extract", "videos", "out")
    assert done.exit_code == 1
    assert "a.mp4: " in done.stdout
    assert "no clip could be extracted" in done.stderr


# ------------------------------------------------------------------ real processes


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips that take a second or so each."""
    root = tmp_path_factory.mktemp("long")
    write_clip(root / "clip_0.mp4", 0, frames=2)
    write_clip(root / "clip_1.mp4", 1, frames=6000)
    for number in range(2, 5):
        os.link(root / "clip_1.mp4", root / f"clip_{number}.mp4")
    return root


@pytest.fixture
def under_way(long_clips: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """An extraction that has finished one clip and works on the next."""
    process = start(long_clips, tmp_path / "out")
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            drafts = list(tmp_path.glob("out/.clip_1.mp4.part/000010.jpg"))
            if drafts and (tmp_path / "out" / "clip_0.mp4" / "index.json").exists():
                break
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def start(videos: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(videos), str(out), "--workers", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> list[Any]:
    import psutil

    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[Any]) -> bool:
    import psutil

    return psutil.wait_procs(processes, timeout=20)[1] == []


def test_ctrl_c_loses_the_clips_in_flight_alone(
    under_way: subprocess.Popen[str], long_clips: Path, tmp_path: Path, run: Run
) -> None:
    workers = children(under_way.pid)
    os.killpg(under_way.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, log = under_way.communicate(timeout=60)
    assert under_way.returncode == 130, log
    assert "Traceback" not in log
    assert gone(workers)
    out = tmp_path / "out"
    assert (out / "clip_0.mp4" / "index.json").exists()
    assert list(out.glob(".clip*")) == []
    record = read_record(out)
    assert not record.complete
    assert record.extracted >= 1
    with pytest.raises(Exception, match="run the same `autotune clips extract` again"):
        scan(out)


@pytest.mark.long
def test_killed_it_leaves_nothing_that_looks_complete(
    under_way: subprocess.Popen[str], long_clips: Path, tmp_path: Path, run: Run
) -> None:
    workers = children(under_way.pid)
    out = tmp_path / "out"
    kept = times(out / "clip_0.mp4")
    refused = run("clips", "extract", str(long_clips), "out")
    assert refused.exit_code == 2
    assert "another `autotune clips extract` writes to" in refused.stderr
    under_way.kill()
    under_way.wait(timeout=20)
    assert gone(workers)
    assert not (out / "clip_1.mp4").exists()
    again = extract(run, str(long_clips), "out")
    assert (again["extracted"], again["failed"]) == (5, 0)
    assert times(out / "clip_0.mp4") == kept
    assert list(out.glob(".clip*")) == []
    assert len(scan(out)) == 5


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="needs the right to mount (root)")
def test_a_full_disk_is_said_and_the_next_run_goes_on(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    extraction = f'"$0" -m autotune clips extract {clips} {tmp_path}/out --workers 1'
    script = (
        f"mount -t tmpfs -o size=200k none {tmp_path}/out && {extraction}; echo $?; "
        f"mount -o remount,size=8m {tmp_path}/out && {extraction}; echo $?"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "there is no room left on the device" in done.stderr
    assert "of 5 clips are done" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2"
    assert lines[-1] == "0"
    assert any(line.split() == ["frames", "54"] for line in lines)
