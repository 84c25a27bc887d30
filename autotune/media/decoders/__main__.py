"""`python -m autotune.media.decoders`: times decoders in a process of its own.

Reads one JSON object on standard input: the arguments of `timing.time_decoders`, with ``seconds``
instead of ``until``. Prints the name of each decoder and the time (CLOCK_MONOTONIC), a line each,
before it is loaded and before each of its turns, and as the last line a JSON list with the figures
of all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict

from autotune.media.decoders import Window
from autotune.media.decoders.timing import time_decoders
from autotune.system.processes import die_with_parent


def main() -> None:
    """Answer one request."""
    die_with_parent(None)
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    request = json.load(sys.stdin)
    size = request["window"].pop("size")
    timings = time_decoders(
        [(path, name) for path, name in request["clips"]],
        Window(**request["window"], size=None if size is None else tuple(size)),
        request["blocks"],
        request["names"],
        tell=lambda name: print(name, time.monotonic(), file=answer),
        until=time.perf_counter() + request["seconds"],
    )
    print(json.dumps([asdict(timing) for timing in timings]), file=answer)


if __name__ == "__main__":
    main()
