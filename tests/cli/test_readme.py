"""What the README tells a newcomer to type is there, and fits into 80 columns."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer.main

from autotune.cli.app import app
from tests.studies import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\w+\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("autotune ")
]


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words) for words in COMMANDS])
def test_a_command_of_the_readme_is_understood(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    path = ["autotune"]
    while hasattr(command, "commands"):
        command = command.commands[words[0]]
        path.append(words[0])
        words = words[1:]
    # parses the words and checks them, but does not run the command
    with command.make_context(" ".join(path), list(words)):
        pass


def test_the_files_and_make_targets_of_the_readme_exist() -> None:
    assert len(COMMANDS) > 10
    for path in re.findall(r"(?:experiments|docs)/\w+\.\w+", README):
        assert (ROOT / path).is_file(), path
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for block in BLOCKS for line in block.splitlines()]
    assert {line.split()[1] for line in lines if line.startswith("make ")} <= targets
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= targets


def test_what_is_to_be_pasted_fits_into_80_columns() -> None:
    lines = [line for block in BLOCKS for line in block.splitlines()]
    assert [line for line in lines if len(line) > 80] == []
