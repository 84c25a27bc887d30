"""The loader of a target in a plain loop, as a training script would have it: nothing of ours
but the pipeline. Started by `experiments.benchmarks.supervision`, with a TrialSpec on stdin; the
last line it prints is its rate.
"""

from __future__ import annotations

import sys
import time

from autotune.plugins import load_target
from autotune.targets.base import BuildContext
from autotune.trial import TrialSpec


def main() -> None:
    """Wait for the first batch, let ``settle`` seconds pass, count for ``seconds``."""
    settle, seconds = float(sys.argv[1]), float(sys.argv[2])
    spec = TrialSpec.model_validate_json(sys.stdin.readline())
    loader = load_target(spec.target).build(BuildContext(spec=spec))
    try:
        batches = iter(loader)
        next(batches)
        settled = time.monotonic() + settle
        while (began := time.monotonic()) < settled:
            next(batches)
        samples, now = 0, began
        for batch in batches:
            samples += batch.samples
            now = time.monotonic()
            if now - began >= seconds:
                break
        print(samples / (now - began), flush=True)
    finally:
        loader.close()


if __name__ == "__main__":
    main()
