"""What the machine is said to have."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.system.machine import visible_gpus


class FakeNvml:
    """Two GPUs, and one MIG device by its UUID."""

    class NVMLError(Exception):
        """As NVML's."""

    known = ("GPU-aaaa", "MIG-bbbb", "MIG-GPU-cccc/1/0")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in self.known:
            raise self.NVMLError
        return uuid


@pytest.mark.parametrize(
    ("visible", "handles"),
    [
        (None, ["gpu 0", "gpu 1"]),
        ("1", ["gpu 1"]),
        ("7", []),
        ("", []),
        ("GPU-aaaa, 0", ["GPU-aaaa", "gpu 0"]),
        ("MIG-bbbb", ["MIG-bbbb"]),
        ("MIG-GPU-cccc/1/0", ["MIG-GPU-cccc/1/0"]),
        ("MIG-unknown", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_was_given(
    visible: str | None, handles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml: Any = FakeNvml()
    assert visible_gpus(nvml) == handles
