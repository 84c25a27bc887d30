"""Consumers: what they do with a batch, and what they say when they cannot be built."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from autotune.consumers import load_factory, make_consumer
from autotune.exceptions import InputError, UnsupportedError
from autotune.models import small_r3d
from autotune.targets.base import Batch
from autotune.trial import ConsumerSpec


def batch(samples: int, dtype: Any = torch.float32) -> Batch:
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (samples, 8, 32, 32, 3), dtype=torch.uint8)
    video = frames.permute(0, 4, 1, 2, 3)
    if dtype == torch.float32:
        video = video.float() / 255
    return Batch(video, torch.arange(samples), samples, 8 * samples, 8 * samples, 8 * samples)


def test_none_is_never_busy() -> None:
    consumer = make_consumer(ConsumerSpec(), "cpu")
    consumer.consume(batch(2))
    consumer.close()
    assert consumer.busy_seconds == 0.0


def test_paced_takes_at_least_its_time() -> None:
    spec = ConsumerSpec(kind="paced", ms_per_step=4, ms_per_sample=2)
    consumer = make_consumer(spec, "cpu")
    for _ in range(3):
        consumer.consume(batch(3))
    assert consumer.busy_seconds >= 3 * (0.004 + 3 * 0.002)
    consumer.close()


def test_train_step_learns() -> None:
    spec = ConsumerSpec(kind="train_step", num_classes=4, model_args={"width": 8})
    consumer: Any = make_consumer(spec, "cpu")
    losses = []
    for _ in range(25):
        consumer.consume(batch(4))
        losses.append(consumer.last_loss)
    assert losses[-1] < 0.5 * losses[0]
    assert consumer.busy_seconds > 0
    assert consumer.details["train_device"] == "cpu"
    assert consumer.details["precision"] in ("fp32", "bf16 autocast")
    consumer.close()
    consumer.close()


def test_train_step_converts_uint8_as_the_loader_does() -> None:
    spec = ConsumerSpec(kind="train_step", num_classes=4, model_args={"width": 8})
    losses = []
    for dtype in (torch.float32, torch.uint8):
        torch.manual_seed(7)
        consumer: Any = make_consumer(spec, "cpu")
        consumer.consume(batch(4, dtype))
        losses.append(consumer.last_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_small_r3d_shapes() -> None:
    model = small_r3d(num_classes=11)
    assert model(torch.rand(2, 3, 16, 112, 112)).shape == (2, 11)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("small_r3d", "is no import path"),
        ("autotune.models:", "is no import path"),
        ("no_such_package.models:net", "there is no module 'no_such_package'"),
        ("autotune.models:no_such_model", "has no 'no_such_model'"),
        ("autotune.models:__name__", "is a str and cannot be called"),
    ],
)
def test_a_wrong_model_is_named(path: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_factory(path)
    assert words in str(caught.value)
    assert "module:function" in str(caught.value)


def test_missing_torchvision_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "torchvision":
            raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(UnsupportedError, match="needs torchvision") as caught:
        load_factory("torchvision.models.video:r3d_18")
    assert "autotune.models:small_r3d" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"model_args": {"depth": 3}}, "cannot be called with"),
        ({"model": "builtins:dict"}, "made a dict"),
    ],
)
def test_a_factory_that_makes_no_model_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_consumer(ConsumerSpec(kind="train_step", num_classes=4, **spec), "cpu")
