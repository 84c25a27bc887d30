"""The commands put together, and the one place where errors become exit statuses."""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autotune.cli.formatting import note
from autotune.exceptions import AutotuneError, InputError, UnsupportedError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

EXAMPLES = """
\b
Examples:
  autotune clips make clips                 sample clips to try it with
  autotune launch exp.yaml --dry-run        what a study would do
  autotune launch exp.yaml --timeout 8h     tune overnight
  autotune best exp                         the best configurations
  autotune export exp -f flags              the winning flags, ready to paste

\b
Exit status: 0 done, 1 the study or the measurement failed, 2 the input was
wrong, 130 interrupted (what was measured is saved).
"""


def exit_status(error: AutotuneError) -> int:
    """2 where the user can put it right by another input or machine, else 1."""
    return BAD_INPUT if isinstance(error, (InputError, UnsupportedError)) else FAILED


class Commands(TyperGroup):
    """The top-level group: turns what a command raises into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: with the status of an `AutotuneError`, 2 for a full disk, or 130 for an
                interrupt.
        """
        try:
            return super().invoke(ctx)
        except AutotuneError as error:
            note(f"Error: {error}")
            raise typer.Exit(exit_status(error)) from None
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            where = error.filename or "where the output goes"
            note(f"Error: {where}: {error.strerror}; make room there")
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from autotune import __version__

        typer.echo(f"autotune {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="autotune",
    cls=Commands,
    help="Finds the fastest configuration of a video data loader for GPU training.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Finds the fastest configuration of a video data loader for GPU training."""


def _register() -> None:
    from autotune.cli import (
        clips,
        compare,
        export,
        launch,
        maintenance,
        measure,
        queries,
        soak,
        stop,
        watch,
    )

    launch.register(app)
    queries.register(app)
    watch.register(app)
    stop.register(app)
    export.register(app)
    measure.register(app)
    compare.register(app)
    soak.register(app)
    app.add_typer(clips.app, name="clips")
    maintenance.register(app)


_register()
