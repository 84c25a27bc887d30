"""A driver process for tests that kill it: measures with the local executor or through Ray.

Usage: driver.py local|ray SPEC_JSON. Prints one line per event, and the pid of the process that
supervises, to standard output.
"""

from __future__ import annotations

import sys
import threading

from autotune.executors.local import LocalExecutor
from autotune.executors.ray import RayExecutor
from autotune.trial import ProbeRequest, TrialSpec


def main() -> None:
    kind, line = sys.argv[1:]
    spec = TrialSpec.model_validate_json(line)

    def report(uuid: str, event: object) -> None:
        print(getattr(event, "event", "?"), flush=True)

    if kind == "local":
        LocalExecutor(on_event=report).submit(spec)
    else:
        executor = RayExecutor(on_event=report)
        request = ProbeRequest(study=spec.study, target=spec.target, params={}, cache_dir="/tmp")
        executor.start(request)
        executor.submit(spec)
    threading.Event().wait()


if __name__ == "__main__":
    main()
