"""`docs/cli.md` is generated, complete and up to date."""

from __future__ import annotations

import pytest

from autotune.cli.reference import commands, reference
from tests.studies import ROOT

COMMANDS = {
    "autotune launch",
    "autotune studies",
    "autotune status",
    "autotune trials",
    "autotune best",
    "autotune export",
    "autotune measure",
    "autotune watch",
    "autotune compare",
    "autotune soak",
    "autotune stop",
    "autotune clips make",
    "autotune clips probe",
    "autotune clips extract",
    "autotune db upgrade",
    "autotune dashboard",
    "autotune doctor",
    "autotune version",
}


def test_these_commands_exist_and_no_others() -> None:
    assert {words for words, _ in commands()} == COMMANDS


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_and_option_is_explained(words: str) -> None:
    command = dict(commands())[words]
    assert command.help
    assert f"## {words}\n" in reference()
    for parameter in command.params:
        assert parameter.help, f"{words} {parameter.name}"
    if words != "autotune version":
        assert "Examples:" in command.help


def test_the_reference_is_up_to_date() -> None:
    path = ROOT / "docs" / "cli.md"
    assert path.read_text(encoding="utf-8") == reference(), "run `make docs`"
