"""Where the search spaces that come with autotune lie."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from autotune.exceptions import InputError
from autotune.search_space.document import did_you_mean, listed


def space_folder() -> Path:
    """The folder of packaged search spaces: inside a wheel, or at the top of a source checkout."""
    package = Path(str(files("autotune")))
    inside = package / "_search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def find_space(target: str) -> Path:
    """The search-space file that comes with a target.

    Raises:
        InputError: if there is none, listing those there are.
    """
    folder = space_folder()
    path = folder / f"{target}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", target) or not path.is_file():
        names = sorted(entry.stem for entry in folder.glob("*.yaml"))
        raise InputError(
            f"no search space comes with the target {target!r}. {did_you_mean(target, names)}"
            f"Accepted: {listed(names)}; or give the path of a file as search_space"
        )
    return path
