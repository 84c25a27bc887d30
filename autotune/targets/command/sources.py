"""The files in which a command may read its parameters, as far as its words tell; none is run.

train.py --config my.yaml       files among the words
python -m my_package.train      the module, or __main__ of the package
my-train                        a program on PATH; of a console script, what it imports
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_MAX_BYTES = 2**20
_PYTHON = re.compile(r"python[\d.]*")
_SHEBANG = re.compile(r"#!\s*(\S+)")
_IMPORTED = re.compile(r"^from ([\w.]+) import ", re.MULTILINE)
_MODULE_FLAGS = ("-m", "--module")
_LONGEST_CONSOLE_SCRIPT = 1000

_LAUNCHERS = ("torch", "accelerate", "deepspeed", *sys.stdlib_module_names)
"""Packages whose programs start the script, and read none of its flags."""


def source_text(
    words: Sequence[str], working_dir: str | None, environment: Mapping[str, str]
) -> str:
    """The text of all of them; empty where no source was found.

    Args:
        words: the command.
        working_dir: of the command.
        environment: its variables besides those of this process.
    """
    folder = Path(working_dir or ".")
    modules = _Modules(words, folder, environment)
    program = str(folder / words[0]) if "/" in words[0] else shutil.which(words[0])
    texts = [_program_text(program, modules), *(_text(folder / word) for word in words[1:])]
    for flag, word in itertools.pairwise(words):
        if flag in _MODULE_FLAGS:
            texts.append(modules.text(word, as_program=True))
    return "\n".join(text for text in texts if text)


class _Modules:
    """Finds modules as the command's interpreter would, and imports none."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        given = environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        self._path = [str(folder), *(entry for entry in given.split(os.pathsep) if entry)]
        self._is_ours = any(_is_this_interpreter(python) for python in _interpreters(words))

    def text(self, name: str, *, as_program: bool = False) -> str:
        """The source of a module; empty where it is not found, or is that of a launcher.

        Args:
            as_program: what ``python -m`` runs, of a package its ``__main__``.
        """
        is_name = all(part.isidentifier() for part in name.split("."))
        if not is_name or name.partition(".")[0] in _LAUNCHERS:
            return ""
        spec = self._spec(name)
        if as_program and spec is not None and spec.submodule_search_locations is not None:
            spec = self._spec(f"{name}.__main__")
        return "" if spec is None or spec.origin is None else _text(Path(spec.origin))

    def _spec(self, name: str) -> ModuleSpec | None:
        """Part by part: `importlib.util.find_spec` would import the packages above it."""
        top, *parts = name.split(".")
        spec = PathFinder.find_spec(top, self._path)
        if spec is None and self._is_ours:
            spec = _installed(top)
        for part in parts:
            if spec is None or spec.submodule_search_locations is None:
                return None
            # By the part alone: of a whole name a folder without __init__.py would ask the modules
            # that are imported for the one above it.
            spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
        return spec


def _installed(top: str) -> ModuleSpec | None:
    """Also packages that are installed in place, which no folder of the path holds."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: of a module that was loaded without a spec
        return None


def _interpreters(words: Sequence[str]) -> Iterator[str]:
    """The interpreters that a command names, or that its program names in its first line."""
    yield from (word for word in words if _PYTHON.fullmatch(Path(word).name))
    program = shutil.which(words[0])
    found = _SHEBANG.match(_text(Path(program))) if program is not None else None
    if found is not None:
        yield found[1]


def _is_this_interpreter(python: str) -> bool:
    """By its folder: that tells environments apart whose interpreters are links to one file."""
    path = shutil.which(python)
    if path is None:
        return False
    return os.path.realpath(os.path.dirname(path)) == os.path.realpath(
        os.path.dirname(sys.executable)
    )


def _program_text(program: str | None, modules: _Modules) -> str:
    """The source of a script; of a console script that is the module which it imports, for its
    own few lines read no flag."""
    text = "" if program is None else _text(Path(program))
    if len(text) > _LONGEST_CONSOLE_SCRIPT or "sys.exit(" not in text:
        return text
    imported = [modules.text(name) for name in _IMPORTED.findall(text)]
    return "\n".join(found for found in imported if found)


def _text(path: Path) -> str:
    """Empty for what is binary, too large to be a script, unreadable, or no path at all."""
    try:
        if path.is_file() and path.stat().st_size <= _MAX_BYTES:
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    return ""
