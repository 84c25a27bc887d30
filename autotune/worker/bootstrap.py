"""From the command line to the measurement: guard, read, re-execute, run.

    supervisor --spawn--> bootstrap: parent death signal, guardian, specification, target
                            |  environment differs: execve once, specification in a memfd
                            v
                          single | leader | probe

Library paths such as LD_LIBRARY_PATH only work in a process *started* with them, which costs a
second start of the interpreter. A supervisor that knows from an earlier measurement what the
target will ask for starts the worker so at once and says in AUTOTUNE_ENVIRONMENT what it
changed; the target is asked all the same, in the environment as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from autotune.system import processes
from autotune.worker.departure import Departure

if TYPE_CHECKING:
    from autotune.targets.base import Target

_STDIN = 0
_FIRST_TO_GO = 1000
"""When memory runs out the kernel takes the trial, never the driver."""


def main(argv: list[str]) -> NoReturn:
    """Run the worker's command line and exit."""
    options = _parser().parse_args(argv)
    guarded = bool(options.mark) and options.spec_fd is None
    if guarded:  # first of all: a supervisor that is gone by now left a folder to be removed
        from autotune.worker.guardian import fork_guardian

        variable, _, value = options.mark.partition("=")
        fork_guardian(_STDIN, variable, value)
    _tie_life_to_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray blocks SIGINT in what it starts
    if guarded:
        # not the guardian: it has to outlive what it guards
        processes.offer_to_the_kernel(_FIRST_TO_GO)
        processes.adopt_orphans()
    if options.spec_fd is None:
        received = _read_line(_STDIN)
    else:
        with open(options.spec_fd, "rb") as file:
            received = file.read()
    line, _, seen = received.partition(b"\n")
    processes.note_forks()
    departure = Departure()

    if options.probe:
        from autotune.worker.probe import run_probe

        run_probe(line, options, argv, departure)
    elif options.world > 1 and options.rank is None:
        from autotune.worker.leader import run_leader

        run_leader(line, seen, options.events_fd, departure)
    else:
        from autotune.worker.single import run_single

        run_single(line, seen, options, argv, departure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m autotune.worker",
        description="Makes one measurement. Started by a supervisor, which holds standard input.",
    )
    parser.add_argument("--events-fd", type=int, default=1, help="descriptor for events")
    parser.add_argument("--mark", default="", help="VARIABLE=VALUE that the trial carries")
    parser.add_argument("--world", type=int, default=1, help="number of ranks")
    parser.add_argument("--rank", type=int, default=None, help="this process is one rank")
    parser.add_argument("--spec-fd", type=int, default=None, help="specification, once read")
    parser.add_argument("--probe", action="store_true", help="describe this machine and data")
    return parser


def _tie_life_to_parent() -> None:
    """Second line of defence: the kernel kills this process with its parent."""
    supervisor = os.environ.get(processes.SUPERVISOR_MARK, "")
    pid = supervisor.partition(":")[0]
    processes.die_with_parent(int(pid) if pid.isdigit() else None)


def _read_line(descriptor: int) -> bytes:
    """Read until the first newline; what follows it may be in the result too."""
    data = b""
    while b"\n" not in data:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        data += chunk
    return data


def take_over_stdin() -> int:
    """Move the control pipe away from standard input, so that no library or child reads it."""
    control = os.dup(_STDIN)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, _STDIN)
    os.close(null)
    return control


def find_target(name: str) -> Target:
    """The target of that name, or of that import path (``module:Class``).

    Raises:
        InputError: if there is none.
    """
    from autotune.exceptions import InputError
    from autotune.targets.base import Target

    found: object
    if ":" in name:
        import importlib

        module_name, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"target {name!r} cannot be imported: {error}; give module:Class of a Target that "
                "this interpreter can import"
            ) from error
    else:
        from autotune.plugins import load_target

        found = load_target(name)
    target = found() if isinstance(found, type) else found
    if not isinstance(target, Target):
        raise InputError(f"target {name!r} is a {type(target).__name__}, not a Target")
    return target


def enter_environment(
    target: Target,
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
    received: bytes,
    argv: list[str],
    again: bool,
) -> dict[str, str]:
    """Return what the target asks of the environment, in a process started with it.

    Where this process was not, it becomes one by ``execve`` and does not return.

    Args:
        target: asked for its environment.
        params: of the configuration; `settings` likewise.
        received: everything read from the control pipe, for the next life.
        argv: the worker's arguments.
        again: whether this process was re-executed already; it is never twice.
    """
    started = dict(os.environ)
    ahead: dict[str, str | None] = json.loads(os.environ.pop(processes.ENVIRONMENT_MARK, "{}"))
    for name, value in ahead.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if again:
        asked: dict[str, str] = json.loads(os.environ.pop(_ASKED_MARK, "{}"))
        return asked
    wanted = target.environment(dict(params), settings)
    desired = {**os.environ, **wanted}
    started.pop(processes.ENVIRONMENT_MARK, None)
    if desired != started:
        _execute_again(desired | {_ASKED_MARK: json.dumps(wanted)}, received, argv)
    os.environ.update(wanted)
    return wanted


_ASKED_MARK = "AUTOTUNE_ASKED"


def _execute_again(environment: dict[str, str], received: bytes, argv: list[str]) -> NoReturn:
    memory = os.memfd_create("autotune-spec", 0)  # no close-on-exec
    os.write(memory, received)
    os.lseek(memory, 0, os.SEEK_SET)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", "autotune.worker", *argv, "--spec-fd", str(memory)]
    os.execve(sys.executable, command, environment)
