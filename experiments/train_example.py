"""Trains a small network for an epoch with the loader that a study found.

    autotune launch experiments/quickstart.yaml --data-dir clips
    python experiments/train_example.py quickstart --data-dir clips

The lines that matter are three: load the study, build its best loader, iterate over it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import autotune


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", help="name of the study")
    parser.add_argument("--storage", help="its database; default: sqlite:///autotune.db")
    parser.add_argument("--data-dir", type=Path, help="clips to train on; default: the study's")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()

    best = autotune.load_study(options.study, options.storage).best()
    print(f"trial {best.number}: {best.flags}")
    with best.build(options.data_dir) as loader:
        trainer = Trainer(num_classes=len(loader.classes))
        for epoch in range(options.epochs):
            print(f"epoch {epoch}: {trainer.epoch(loader)}", flush=True)


class Trainer:
    """A small network, its optimizer, and the device they are on."""

    def __init__(self, num_classes: int) -> None:
        # Not at the top: processes that the loader starts import this file again.
        import torch

        from autotune.models import small_r3d

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = small_r3d(num_classes).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def epoch(self, loader: Any) -> str:
        """Go through the loader once; returns what is worth printing."""
        import torch

        started, samples, loss = time.perf_counter(), 0, torch.zeros(())
        for video, label in loader:
            video = video.to(self.device, non_blocking=True).contiguous()
            if video.dtype == torch.uint8:
                video = video.float().div_(255)
            loss = torch.nn.functional.cross_entropy(
                self.model(video), label.to(self.device, non_blocking=True)
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            samples += len(label)
        rate = samples / (time.perf_counter() - started)
        return f"{samples} samples, {rate:.1f} samples/s, last loss {loss.item():.3f}"


if __name__ == "__main__":
    main()
