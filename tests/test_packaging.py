"""What pyproject.toml and constraints.txt say of the packages that the code needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def named(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> set[str]:
    """Top-level modules that the package imports from outside of itself, anywhere."""
    found = set()
    for path in (ROOT / "autotune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"autotune"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    distributions = packages_distributions()
    used = {canonicalize_name(d) for name in imported() for d in distributions.get(name, [])}
    declared = named(PROJECT["dependencies"])
    optional = {"pytorchvideo", *named([text for extra in EXTRAS.values() for text in extra])}
    parts = {"spdl-core", "spdl-io", "pydantic-core"}  # of others, by which they are declared
    assert used - declared - optional - parts == set()
    assert declared - used - {"spdl"} == set()


def test_every_requirement_has_a_lower_bound() -> None:
    every = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    assert [text for text in every if ">=" not in text] == []


def test_every_package_of_an_install_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert len(pinned) == len([line for line in lines if line and not line.startswith("#")])
    waiting = [Requirement(text) for text in PROJECT["dependencies"] + EXTRAS["dev"]]
    seen: set[str] = set()
    missing = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        extras = wanted.extras or {""}
        if name in seen:
            continue
        seen.add(name)
        if name not in pinned:
            missing.add(name)
        try:
            inner = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting += [
            r
            for r in inner
            if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    # wheels of other builds of torch bring CUDA's own packages, each of a version of its own
    assert {name for name in missing if not re.match(r"nvidia-|cuda-|triton$", name)} == set()


@pytest.mark.parametrize("folder", ["autotune", "docs", "experiments", "search_spaces", "."])
def test_extras_that_texts_name_exist(folder: str) -> None:
    pattern = "*" if folder == "." else "**/*"
    texts = [p for p in (ROOT / folder).glob(pattern) if p.suffix in (".py", ".md", ".yaml")]
    found = {
        extra.strip()
        for path in texts
        for extras in re.findall(r"\bautotune\[([a-z, ]+)\]", path.read_text())
        for extra in extras.split(",")
    }
    assert found <= EXTRAS.keys()
