"""Where the names of parameters are looked for: the sources that a command's words lead to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autotune.targets.command.sources import source_text
from autotune.targets.command.target import CommandTarget

TRAPS = "raise SystemExit('a source is read, never run')\n"

CONSOLE_SCRIPT = """#!{python}
# -*- coding: utf-8 -*-
import re
import sys
from {module} import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a package, plain folders of modules, a script, and programs on PATH."""
    for name in ("project/inner", "plain/inner", "bin", "other"):
        (tmp_path / name).mkdir(parents=True)
    files = {
        "train.py": "--script",
        "project/__init__.py": "--package",
        "project/__main__.py": "--main",
        "project/inner/__init__.py": "",
        "project/inner/run.py": "--inner",
        "plain/inner/run.py": "--plain",
    }
    for name, flag in files.items():
        (tmp_path / name).write_text(f"{TRAPS}# {flag}\n")
    for name, module in (("my-train", "project.inner.run"), ("launch", "torch.distributed.run")):
        program(
            tmp_path / "bin" / name, CONSOLE_SCRIPT.format(python=sys.executable, module=module)
        )
    program(tmp_path / "bin" / "train.sh", "#!/bin/sh\nexec python t.py --shell\n")
    program(tmp_path / "bin" / "native", "\udcff\udcfe")
    (tmp_path / "other" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def program(path: Path, text: str) -> None:
    path.write_text(text, errors="surrogateescape")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("{python} train.py", ["--script"]),
        ("{python} -m project", ["--main"]),
        ("{python} -u -m project.inner.run", ["--inner"]),
        ("launch --nproc-per-node 2 -m project.inner.run", ["--inner"]),
        ("launch --nproc-per-node 2 train.py", ["--script"]),
        ("launch --nproc-per-node 2 -m plain.inner.run", ["--plain"]),
        ("{python} -m torch.distributed.run --module project", ["--main"]),
        ("my-train", ["--inner"]),
        ("bin/my-train", ["--inner"]),
        ("train.sh", ["--shell"]),
        ("native", []),
        ("launch", []),
        ("{python} -m project.nothing", []),
        ("{python} -m 4 -m ..x", []),
        ("no-such-program", []),
    ],
)
def test_sources_are_found_and_read_and_none_is_run(
    folder: Path, command: str, flags: list[str]
) -> None:
    words = command.replace("{python}", sys.executable).split()
    text = source_text(words, str(folder), {})
    known = ["--script", "--package", "--main", "--inner", "--plain", "--shell"]
    assert [flag for flag in known if flag in text] == flags
    assert bool(text) == bool(flags)
    assert "project" not in sys.modules


def test_what_is_installed_counts_for_this_interpreter_alone(folder: Path) -> None:
    assert "hypothesis" in source_text([sys.executable, "-m", "hypothesis.entry_points"], None, {})
    other = str(folder / "other" / "python")
    assert source_text([other, "-m", "hypothesis.entry_points"], None, {}) == ""
    path = {"PYTHONPATH": str(folder)}
    assert "--inner" in source_text([other, "-m", "project.inner.run"], "/", path)


@pytest.mark.parametrize(
    ("command", "suspects"),
    [
        ("{python} -m project {flags}", ["workers"]),
        ("my-train {flags} --inner {inner}", ["workers"]),
        ("native {flags}", None),
    ],
)
def test_a_command_without_a_source_says_that_it_cannot_tell(
    folder: Path, command: str, suspects: list[str] | None
) -> None:
    table = {name: (f"--{name}", None) for name in ("workers", "main", "inner")}
    params = {"workers": 1, "inner": 3} if "inner" in command else {"workers": 1, "main": 2}
    settings = {"command": command, "working_dir": str(folder), "flags": table}
    assert CommandTarget().suspects(params, settings) == suspects
