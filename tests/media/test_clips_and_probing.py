from __future__ import annotations

from pathlib import Path

import av
import media_remote
import pytest
from av.video.frame import PictureType
from media_remote import Call

from autotune.exceptions import InputError
from autotune.media.clips import make_clips, recipes
from autotune.media.probing import probe_file, summarize


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, count=5, classes=2, seed=3, seconds=1)
    return folder


def test_clips_lie_in_class_folders_and_leave_nothing_else(made: Path) -> None:
    files = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_file())
    assert files == [
        "arm_wrestling/clip_0000.mp4", "arm_wrestling/clip_0002.mp4",
        "arm_wrestling/clip_0004.mp4", "baking_cookies/clip_0001.mp4",
        "baking_cookies/clip_0003.mp4",
    ]  # fmt: skip


def test_clips_are_what_kinetics_is(made: Path) -> None:
    info = probe_file(made / "arm_wrestling" / "clip_0000.mp4")
    assert (info.codec, info.width, info.height, info.pix_fmt) == ("h264", 340, 256, "yuv420p")
    assert info.duration == pytest.approx(1, abs=0.1)
    assert info.cause is None
    with av.open(str(made / "arm_wrestling" / "clip_0000.mp4")) as container:
        kinds = {PictureType(frame.pict_type).name for frame in container.decode(video=0)}
    assert kinds == {"I", "P", "B"}


def test_clips_can_be_demuxed_and_decoded(made: Path, in_worker: Call) -> None:
    for path in made.rglob("*.mp4"):
        (found,) = in_worker(
            media_remote.compare, str(path), (0.0, 0.5), ("fast_bilinear",), (112, 112)
        )
        assert found.difference == 0


def test_what_is_there_is_kept_and_what_is_missing_is_made(made: Path) -> None:
    kept = made / "arm_wrestling" / "clip_0000.mp4"
    before = kept.stat().st_mtime_ns
    (made / "baking_cookies" / "clip_0001.mp4").unlink()
    steps: list[tuple[int, int]] = []
    paths = make_clips(
        made, count=5, classes=2, seed=3, seconds=1, progress=lambda *step: steps.append(step)
    )
    assert all(path.is_file() for path in paths)
    assert kept.stat().st_mtime_ns == before
    assert steps == [(4, 5), (5, 5)]


def test_the_same_seed_plans_the_same_clips() -> None:
    assert recipes(6, 2, 7, 10) == recipes(6, 2, 7, 10)
    assert recipes(6, 2, 7, 10) != recipes(6, 2, 8, 10)
    assert recipes(6, 2, 7, 10)[:3] == recipes(3, 2, 7, 10)


def test_no_clips_or_no_place_for_them_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="positive"):
        make_clips(tmp_path, count=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot make clips"):
        make_clips(tmp_path / "file", count=1)


def test_probing_reads_every_kind_of_clip(clips_dir: Path) -> None:
    info = probe_file(clips_dir / "real/space/nasa_13013.mp4")
    assert (info.width, info.height, info.has_audio) == (480, 270, True)
    assert info.fps == pytest.approx(29.97, abs=0.01)
    assert probe_file(clips_dir / "odd/av1.mkv").codec == "av1"
    start = probe_file(clips_dir / "odd/non_zero_start.mp4").start_time
    assert start == pytest.approx(8.333, abs=0.001)


def test_bad_files_are_part_of_the_summary(clips_dir: Path) -> None:
    infos = [probe_file(p) for p in sorted((clips_dir / "odd").iterdir())]
    infos.append(probe_file(clips_dir / "absent.mp4"))
    summary = summarize(infos)
    bad = {Path(name).name for name in summary["bad"]}
    assert bad == {"truncated.mp4", "empty.mp4", "text.mp4", "absent.mp4"}
    assert all(summary["bad"].values())
    assert summary["clips"] == len(infos)
    assert summary["codecs"] == {"h264": 6, "av1": 1, "hevc": 1, "vp9": 1}


def test_an_audio_file_has_no_video_to_probe(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
    assert probe_file(path).cause == "no video stream"
