from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotune import plugins
from autotune.exceptions import InputError, UnsupportedError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package on sys.path that announces plug-ins as an installed one does."""
    (tmp_path / "autotune_extra.py").write_text(
        "class Extra:\n    name = 'extra'\nclass Fleet:\n    pass\n"
    )
    (tmp_path / "autotune_broken.py").write_text("import a_module_that_is_not_there\n")
    info = tmp_path / "autotune_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: autotune-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[autotune.targets]\nextra = autotune_extra:Extra\nbroken = autotune_broken:X\n"
        "gone = autotune_extra:Gone\nspdl_video = autotune_extra:Extra\n"
        "[autotune.executors]\nfleet = autotune_extra:Fleet\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_built_ins_need_no_metadata() -> None:
    assert plugins.available("targets")[0] == "spdl_video"
    assert plugins.available("executors")[:2] == ["local", "ray"]
    target = plugins.load_target("spdl_video")
    assert target.name == "spdl_video"
    assert {"num_frames", "frame_size"} <= set(target.Settings.model_fields)


@pytest.mark.usefixtures("installed")
def test_entry_points_are_found() -> None:
    assert {"extra", "broken", "spdl_video"} <= set(plugins.available("targets"))
    assert plugins.load_target("extra").name == "extra"
    assert plugins.load_executor("fleet").__name__ == "Fleet"


@pytest.mark.usefixtures("installed")
def test_a_plugin_cannot_replace_what_comes_with_autotune() -> None:
    assert type(plugins.load_target("spdl_video")).__module__.startswith("autotune.")


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(InputError) as caught:
        plugins.load_target("spdl_vidoe")
    message = str(caught.value)
    assert "there is no target 'spdl_vidoe'" in message
    assert "Did you mean 'spdl_video'?" in message
    assert "autotune.targets" in message
    with pytest.raises(InputError, match=r"no executor 'slurm'.*Accepted: local, ray"):
        plugins.load_executor("slurm")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "cause"),
    [("broken", "a_module_that_is_not_there"), ("gone", "Gone")],
)
def test_import_failure_names_the_cause(name: str, cause: str) -> None:
    with pytest.raises(UnsupportedError, match=f"target '{name}' .* cannot be loaded: .*{cause}"):
        plugins.load_target(name)


def test_loading_a_target_imports_nothing_heavy() -> None:
    code = (
        "import sys; from autotune import plugins, config; plugins.load_target('spdl_video'); "
        "print([m for m in ('torch', 'spdl', 'av', 'ray', 'pandas', 'optuna') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
