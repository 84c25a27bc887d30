"""Prints results: a table on a terminal, plain lines to a pipe, or JSON, YAML, CSV, values.

A command hands over JSON objects and says which of their fields a person wants to see. Results
go to stdout; progress, notes and errors go to stderr.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import typer

from autotune.cli.figures import UNKNOWN, machine_text

if TYPE_CHECKING:
    from rich.console import Console

JsonObject = Mapping[str, Any]

GAP = "  "

LEAST_FOLDED = 40
"""Characters below which a column that folds is no longer readable beside the others."""


class Format(StrEnum):
    """Accepted by ``-f`` on everything that prints results."""

    table = "table"
    json = "json"
    yaml = "yaml"
    csv = "csv"
    value = "value"


@dataclass(frozen=True)
class Column:
    """A column of a table, or a line of a single result.

    Args:
        header: what a person reads.
        key: the field of the JSON object, dotted for a nested one; its raw value is what
            ``-f value`` prints.
        text: how the object's cell reads; by default the value of ``key``.
        justify: numbers stand right.
        fold: may be broken over several lines; only the last one may, the others are kept whole.
    """

    header: str
    key: str
    text: Callable[[JsonObject], str] | None = None
    justify: Literal["left", "right"] = "left"
    fold: bool = False

    def cell(self, row: JsonObject) -> str:
        """What a person reads."""
        if self.text is not None:
            return self.text(row)
        return machine_text(self.value(row)) or UNKNOWN

    def value(self, row: JsonObject) -> Any:
        """The raw value; None where it is absent."""
        found: Any = row
        for part in self.key.split("."):
            if not isinstance(found, Mapping):
                return None
            found = found.get(part)
        return found


def stdout_console() -> Console:
    """A console for results."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def stderr_console() -> Console:
    """A console for progress, notes and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def note(message: str) -> None:
    """One line for the user that is no result; broken between words on a terminal."""
    _tell(message, err=True)


def say(message: str) -> None:
    """One line of a result; broken between words on a terminal."""
    _tell(message, err=False)


def _tell(message: str, err: bool) -> None:
    if not (sys.stderr if err else sys.stdout).isatty():
        typer.echo(message, err=err)
        return
    from rich.text import Text

    (stderr_console() if err else stdout_console()).print(Text(message))


def emit_rows(
    rows: Sequence[JsonObject],
    columns: Sequence[Column],
    fmt: Format,
    *,
    title: str = "",
    empty: str = "",
) -> None:
    """Print a list of objects.

    Args:
        title: stands above the table.
        empty: told on stderr when there is nothing to print.
    """
    if fmt is Format.table:
        if not rows:
            note(empty)
            return
        table_of(rows, columns, title)
    elif fmt is Format.value:
        for row in rows:
            typer.echo("\t".join(machine_text(column.value(row)) for column in columns))
    elif fmt is Format.csv:
        _emit_csv(rows)
    else:
        _emit_document([dict(row) for row in rows], fmt)


def emit_object(result: JsonObject, lines: Sequence[Column], fmt: Format) -> None:
    """Print one object: a line for each of ``lines`` whose value is there."""
    if fmt is Format.table:
        shown = [line for line in lines if line.cell(result) not in ("", UNKNOWN)]
        width = max((len(line.header) for line in shown), default=0)
        console = stdout_console()
        for line in shown:
            _emit_line(console, line.header, line.cell(result), width)
    elif fmt is Format.value:
        for line in lines:
            typer.echo(machine_text(line.value(result)))
    elif fmt is Format.csv:
        _emit_csv([result])
    else:
        _emit_document(dict(result), fmt)


def table_of(rows: Sequence[JsonObject], columns: Sequence[Column], title: str = "") -> None:
    """A table on a terminal; to a pipe one line a row, columns aligned, nothing cut."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    widths = [
        max(len(column.header), *(len(row[i]) for row in cells), 0)
        for i, column in enumerate(columns)
    ]
    console = stdout_console()
    if console.is_terminal:
        _on_terminal(console, cells, columns, widths, title)
        return
    if title:
        typer.echo(f"{title}:")
    for line in [[column.header for column in columns], *cells]:
        typer.echo(_aligned(line, columns, widths))


def _aligned(line: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    """Cells beside each other, padded to the width of their column."""
    return GAP.join(
        text.rjust(width) if column.justify == "right" else text.ljust(width)
        for text, width, column in zip(line, widths, columns, strict=True)
    ).rstrip()


def _on_terminal(
    console: Console,
    cells: list[list[str]],
    columns: Sequence[Column],
    widths: Sequence[int],
    title: str,
) -> None:
    """The table in the terminal's width: a last column that may fold stands beside the others
    where there is room for it, else below them."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    # Text, not markup: a cause of failure may hold square brackets.
    if title:
        console.print(Text(title, style="bold"))
    fixed = [column for column in columns if not column.fold]
    taken = sum(width + len(GAP) for width, c in zip(widths, columns, strict=True) if not c.fold)
    headers = [column.header for column in columns]
    if len(fixed) == len(columns) or console.width - taken >= min(LEAST_FOLDED, widths[-1]):
        grid = Table.grid(padding=(0, len(GAP)), pad_edge=False)
        for column, width in zip(columns, widths, strict=True):
            grid.add_column(
                justify=column.justify,
                overflow="fold",
                no_wrap=not column.fold,
                width=None if column.fold else width,
            )
        grid.add_row(*(Text(header, style="bold") for header in headers))
        for row in cells:
            grid.add_row(*(Text(cell) for cell in row))
        console.print(grid)
        return
    beside = widths[: len(fixed)]
    console.print(Text(_aligned(headers[: len(fixed)], fixed, beside), style="bold"))
    for row in cells:
        console.print(Text(_aligned(row[: len(fixed)], fixed, beside)), soft_wrap=True)
        below = Text(row[-1], style="dim", overflow="fold")
        console.print(Padding(below, (0, 0, 0, widths[0] + len(GAP))))


def _emit_line(console: Console, header: str, text: str, width: int) -> None:
    if not console.is_terminal:
        for index, line in enumerate(text.splitlines()):
            typer.echo(f"{(header if index == 0 else '').ljust(width)}  {line}")
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=width, style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(header), Text(text))
    console.print(Padding(grid, 0))


def _emit_document(document: Any, fmt: Format) -> None:
    if fmt is Format.json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
        return
    import yaml

    # Through JSON, so that both formats show the same values and no Python types.
    plain = json.loads(json.dumps(document, default=str))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=False)
    typer.echo(text, nl=False)


def _emit_csv(rows: Sequence[JsonObject]) -> None:
    flat = [_flatten(row) for row in rows]
    keys = dict.fromkeys(key for row in flat for key in row)
    # A mapping that is absent in some rows has its columns from the others.
    parents = {key.rpartition(".")[0] for key in keys if "." in key}
    header = [key for key in keys if key not in parents]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    for row in flat:
        writer.writerow([machine_text(row.get(key)) for key in header])


def _flatten(value: JsonObject, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat.update(_flatten(inner, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = inner
    return flat
