"""Entry point. Multiprocessing imports it again in every child it starts: keep it light."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from autotune.worker.bootstrap import main

    main(sys.argv[1:])
