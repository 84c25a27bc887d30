"""Each test of what is loaded starts a process of its own: a library is loaded once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autotune.exceptions import UnsupportedError
from autotune.media import library_search, native, nvidia_libraries


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return tmp_path / "cache"


def _loaded(environment: dict[str, str], before: str = "") -> dict[str, object]:
    code = (
        f"{before}\nimport json\nfrom autotune.media.native import loaded_ffmpeg\n"
        "print(json.dumps(loaded_ffmpeg()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_importing_loads_none_of_the_libraries() -> None:
    code = (
        "import sys\nfrom autotune.media import native, windows\n"
        "print([m for m in ('av', 'spdl', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bundled_ffmpeg_is_loaded_with_the_systems_hidden(cache: Path) -> None:
    found = _loaded(native.library_environment())
    assert found["source"] == "bundled"
    files = found["files"]
    assert isinstance(files, dict)
    assert set(files) == set(native.FFMPEG_LIBRARIES)
    own = str(native.bundled_libraries())
    assert all(path.startswith(own) for path in files.values())


def test_pyav_and_spdl_share_one_ffmpeg(cache: Path) -> None:
    found = _loaded(native.library_environment(), before="import av")
    assert found["source"] == "bundled"


def _fake_system(folder: Path, release: int) -> Path:
    """A folder with libraries under the names of another FFmpeg: PyAV's own files, really."""
    folder.mkdir()
    bundled = native.bundled_links()
    for name, version in zip(native.FFMPEG_LIBRARIES, native.FFMPEG_SONAMES[release], strict=True):
        (library,) = (
            target
            for link, target in bundled.items()
            if target and link.startswith(f"lib{name}.so.")
        )
        (folder / f"lib{name}.so.{version}").symlink_to(library)
    for link, target in bundled.items():
        if target and "-" in link:
            (folder / link).symlink_to(target)
    return folder


def test_bundled_wins_over_a_newer_system_ffmpeg(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spdl.io tries FFmpeg 9 first: there must be no libavutil.so.61 that loads."""
    fake = _fake_system(tmp_path / "ffmpeg9", 9)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake))
    environment = native.library_environment()
    run = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libavutil.so.61')"]
    assert subprocess.run(run, capture_output=True, check=False).returncode == 0
    ours = subprocess.run(
        run, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert "file too short" in ours.stderr
    assert _loaded(environment)["source"] == "bundled"


def test_an_ffmpeg_of_the_same_release_elsewhere_is_read_back_as_the_systems(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with PyAV's own copy mapped beside it: the name of the library proves nothing."""
    fake = tmp_path / "ffmpeg8"
    shutil.copytree(native.bundled_libraries(), fake)
    _fake_names(fake)
    found = _loaded({"LD_LIBRARY_PATH": str(fake)}, before="import av")
    assert found["source"] == "system"
    files = found["files"]
    assert isinstance(files, dict)
    assert all(path.startswith(str(fake)) for path in files.values())


def _fake_names(folder: Path) -> None:
    for name, version in zip(native.FFMPEG_LIBRARIES, native.FFMPEG_SONAMES[8], strict=True):
        (library,) = folder.glob(f"lib{name}-*")
        (folder / f"lib{name}.so.{version}").symlink_to(library)


def test_the_users_own_path_is_kept_and_ours_not_repeated(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/one::/opt/two")
    first = native.library_environment()["LD_LIBRARY_PATH"]
    assert first.split(":")[1:] == ["/opt/one", "/opt/two"]
    monkeypatch.setenv("LD_LIBRARY_PATH", first)
    assert native.library_environment()["LD_LIBRARY_PATH"] == first


def test_system_ffmpeg_is_found_where_all_of_it_is(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_search, "loader_cache", dict)
    fake = _fake_system(tmp_path / "ffmpeg8", 8)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake))
    assert native.find_system_ffmpeg() == 8
    environment = native.library_environment("system")
    assert environment == {"LD_LIBRARY_PATH": str(fake)}
    (fake / "libavfilter.so.11").unlink()
    assert native.find_system_ffmpeg() is None


@pytest.mark.skipif(native.find_system_ffmpeg() is None, reason="no FFmpeg 4 to 9 is installed")
def test_the_systems_ffmpeg_is_loaded_beside_pyavs_own(cache: Path) -> None:
    release = native.find_system_ffmpeg() or 0
    found = _loaded(native.library_environment("system"), before="import av")
    assert found["source"] == "system"
    files = found["files"]
    assert isinstance(files, dict)
    wanted = zip(native.FFMPEG_LIBRARIES, native.FFMPEG_SONAMES[release], strict=True)
    for name, version in wanted:
        assert f"lib{name}.so.{version}" in files[name]
        assert not files[name].startswith(str(native.bundled_libraries()))


def test_without_a_system_ffmpeg_the_remedy_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "find_system_ffmpeg", lambda: None)
    with pytest.raises(UnsupportedError, match=r"ffmpeg: bundled"):
        native.library_environment("system")


def test_an_empty_environment_says_how_to_start_the_process() -> None:
    code = (
        "from autotune.media.native import loaded_ffmpeg\n"
        "from autotune.exceptions import UnsupportedError\n"
        "try: loaded_ffmpeg()\n"
        "except UnsupportedError as error: print(error)"
    )
    plain = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True
    )
    if native.find_system_ffmpeg() is None:
        assert "library_environment" in done.stdout


def test_link_folder_is_made_once_by_many_at_a_time(cache: Path) -> None:
    links = native.bundled_links()
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: native.link_folder(links), range(16)))
    assert len(folders) == 1
    (folder,) = folders
    assert {p.name for p in folder.iterdir()} == set(links)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # no drafts left


def test_a_damaged_link_folder_is_made_anew(cache: Path) -> None:
    links = native.bundled_links()
    folder = native.link_folder(links)
    next(p for p in folder.iterdir() if p.is_symlink()).unlink()
    assert native.link_folder(links) == folder
    assert {p.name for p in folder.iterdir()} == set(links)


def test_another_pyav_gets_a_folder_of_its_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = native.bundled_links()
    first = native.link_folder(links)
    monkeypatch.setattr(native, "_av_version", lambda: "99.0")
    assert native.link_folder(links) != first


def _nvidia(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_nvdec_links_the_driver_library_without_its_version(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = nvidia_libraries.needed_runtime()
    folder = _nvidia(tmp_path / "nvidia", "libcuda.so.1", "libnvcuvid.so.1", runtime)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    environment = native.library_environment("bundled", "nvdec")
    ours = Path(environment["LD_LIBRARY_PATH"].split(":")[0])
    assert (ours / "libnvcuvid.so").resolve() == folder / "libnvcuvid.so.1"
    assert (ours / "libcuda.so.1").resolve() == folder / "libcuda.so.1"
    assert (ours / runtime).exists()
    assert (ours / "libavutil.so.60").exists()


def test_the_runtime_that_pip_installed_comes_before_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = nvidia_libraries.needed_runtime()
    system = _nvidia(tmp_path / "system", runtime)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(system))
    monkeypatch.setattr(nvidia_libraries, "_pip_folders", list)
    assert nvidia_libraries._runtime(runtime) == system / runtime
    installed = _nvidia(tmp_path / "pip", runtime)
    monkeypatch.setattr(nvidia_libraries, "_pip_folders", lambda: [installed])
    assert nvidia_libraries._runtime(runtime) == installed / runtime


@pytest.mark.parametrize("absent", ["libcuda.so.1", "libnvcuvid.so.1"])
def test_a_missing_driver_library_is_named_with_its_remedy(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    names = {"libcuda.so.1", "libnvcuvid.so.1", nvidia_libraries.needed_runtime()} - {absent}
    monkeypatch.setattr(library_search, "loader_cache", dict)
    monkeypatch.setattr(library_search, "USUAL_FOLDERS", ())
    monkeypatch.setenv("LD_LIBRARY_PATH", str(_nvidia(tmp_path / "nvidia", *names)))
    with pytest.raises(UnsupportedError, match=absent.split(".so")[0]) as caught:
        native.library_environment("bundled", "nvdec")
    assert "Remedy" in str(caught.value)
    assert nvidia_libraries.missing() == [str(caught.value)]
