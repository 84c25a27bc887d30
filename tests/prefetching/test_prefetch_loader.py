"""PrefetchLoader: its order, its bound, its errors, and that nothing of it stays behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.exceptions import BatchError, InputError
from autotune.prefetching import PrefetchLoader, nbytes

torch = pytest.importorskip("torch")

BYTES = 1000


class Numbers:
    """``numbers[i]`` is ``i``, after ``seconds``; ``bad`` ones raise."""

    def __init__(self, count: int, seconds: float = 0.0, bad: tuple[int, ...] = ()) -> None:
        self._count = count
        self._seconds = seconds
        self._bad = bad
        self.asked = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        self.asked += 1
        if self._seconds:
            time.sleep(self._seconds)
        if index in self._bad:
            raise ValueError(f"number {index} is bad")
        return index


def loader(dataset: Any, batch_size: int = 4, **options: Any) -> PrefetchLoader:
    return PrefetchLoader(dataset, batch_size, **{"collate_fn": list, **options})


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("prefetch-")]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert prefetch_threads() == []


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


# ------------------------------------------------------------------ order


@settings(max_examples=30)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    cache=st.integers(1, 12),
    threads=st.integers(1, 6),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 5),
    world_size=st.integers(1, 3),
)
def test_the_order_is_that_of_torchs_distributed_sampler(
    count: int,
    batch_size: int,
    cache: int,
    threads: int,
    shuffle: bool,
    drop_last: bool,
    seed: int,
    world_size: int,
) -> None:
    from torch.utils.data import BatchSampler, DistributedSampler

    options: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    for rank in range(world_size):
        place = {"rank": rank, "world_size": world_size}
        sampler = DistributedSampler(range(count), world_size, rank, **options)
        batches = BatchSampler(sampler, batch_size, drop_last)
        if len(batches) == 0:
            with pytest.raises(InputError, match="batch_size"):
                loader(Numbers(count), batch_size, **place, **options)
            continue
        with loader(
            Numbers(count), batch_size, cache_batches=cache, num_threads=threads, **place, **options
        ) as prefetch:
            assert len(prefetch) == len(batches)
            for epoch in range(3):
                sampler.set_epoch(epoch)
                assert list(prefetch) == list(batches)


def test_with_one_rank_it_is_that_of_random_sampler() -> None:
    from torch.utils.data import RandomSampler

    with loader(Numbers(17), 17, seed=3) as prefetch:
        for epoch in range(3):
            generator = torch.Generator().manual_seed(3 + epoch)
            assert next(iter(prefetch)) == list(RandomSampler(range(17), generator=generator))


def test_default_collate_makes_tensors() -> None:
    with PrefetchLoader(Numbers(6), 3, shuffle=False) as prefetch:
        assert [batch.tolist() for batch in prefetch] == [[0, 1, 2], [3, 4, 5]]


def test_samplers_of_ones_own() -> None:
    class Backwards:
        def __init__(self) -> None:
            self.epochs: list[int] = []

        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[int]:
            return iter(range(4, -1, -1))

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    sampler = Backwards()
    with loader(Numbers(5), 2, sampler=sampler, epochs=2) as prefetch:
        assert len(prefetch) == 3
        assert [list(prefetch) for _ in range(2)] == [[[4, 3], [2, 1], [0]]] * 2
    assert sampler.epochs == [0, 1]
    with loader(Numbers(5), batch_sampler=[[1, 0], [4]], epochs=1) as prefetch:
        assert list(prefetch) == [[1, 0], [4]]
    with loader(Numbers(5), batch_sampler=[]) as prefetch:
        assert list(prefetch) == []
        assert list(prefetch) == []


def test_a_sampler_without_an_end_is_drawn_as_far_as_needed() -> None:
    drawn = []

    class Endless:
        def __iter__(self) -> Iterator[list[int]]:
            while True:
                drawn.append(len(drawn))
                yield [0]

    with loader(Numbers(1), batch_sampler=Endless(), cache_batches=3) as prefetch:
        batches = iter(prefetch)
        for _ in range(5):
            next(batches)
        assert len(drawn) == 8


# ------------------------------------------------------------------ the bound


@settings(max_examples=25)
@given(
    cache=st.integers(1, 8),
    threads=st.integers(1, 8),
    batch_size=st.integers(1, 5),
    taken=st.integers(0, 30),
)
def test_no_more_than_cache_batches_are_held_and_no_more_is_asked_for(
    cache: int, threads: int, batch_size: int, taken: int
) -> None:
    data = Numbers(12)
    with loader(data, batch_size, cache_batches=cache, num_threads=threads, drop_last=True) as pre:
        stream = (batch for _ in range(99) for batch in pre)
        for number in range(taken):
            next(stream)
            assert pre.held == cache
            assert data.asked <= (number + 1 + cache) * batch_size
        assert pre.handed_out == ((taken + cache) * batch_size if taken else 0)


def test_the_bytes_of_a_full_cache_are_exact() -> None:
    class Blocks:
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> bytes:
            return bytes(BYTES)

    with loader(Blocks(), 4, cache_batches=3, num_threads=2) as prefetch:
        assert prefetch.cache_bytes.held == 0
        batches = iter(prefetch)
        for _ in range(6):
            wait_until(lambda: prefetch.ready == 3)
            assert prefetch.cache_bytes.held == 3 * 4 * BYTES
            next(batches)
        found = prefetch.cache_bytes
        # A batch lies beside the samples it is made of while it is made; two threads, two batches.
        assert 3 * 4 * BYTES <= found.peak <= 5 * 4 * BYTES
        assert 0 < found.mean <= found.peak
        wait_until(lambda: prefetch.ready == 3)
        prefetch.restart_cache_bytes()
        assert prefetch.cache_bytes.peak == 3 * 4 * BYTES
        prefetch.close()
        assert prefetch.cache_bytes.held == 0


def test_what_the_bytes_of_a_sample_are() -> None:
    assert nbytes(torch.zeros(3, 5)) == 60
    assert nbytes({"video": torch.zeros(2), "label": 3, "names": ["a"]}) == 8
    assert nbytes((b"12345", [bytearray(2)], None)) == 7


def test_the_next_epoch_begins_while_the_consumer_is_at_the_last_batch() -> None:
    data = Numbers(8)
    with loader(data, 4, cache_batches=3) as prefetch:
        epoch = iter(prefetch)
        next(epoch), next(epoch)
        wait_until(lambda: data.asked == 20)  # three batches of the epochs that follow
        assert next(epoch, None) is None
        assert prefetch.ready == 3
    data = Numbers(8)
    with loader(data, 4, cache_batches=3, epochs=1) as prefetch:
        assert len(list(prefetch)) == 2
        assert (data.asked, prefetch.held) == (8, 0)


def test_a_batch_may_wait_for_many_samples_at_a_time() -> None:
    together = threading.Barrier(8, timeout=10)

    class Meeting(Numbers):
        def __getitem__(self, index: int) -> int:
            together.wait()
            return index

    with loader(Meeting(8), 4, cache_batches=2, num_threads=8, epochs=1) as prefetch:
        assert sorted(i for batch in prefetch for i in batch) == list(range(8))


# ------------------------------------------------------------------ going on in mid-epoch


@settings(max_examples=25)
@given(taken=st.integers(0, 20), cache=st.integers(1, 6), data=st.data())
def test_a_loader_goes_on_where_another_was(taken: int, cache: int, data: Any) -> None:
    def stream(prefetch: PrefetchLoader) -> Iterator[Any]:
        for _ in range(9):
            yield from prefetch

    with loader(Numbers(14), 3, cache_batches=cache) as first:
        batches = stream(first)
        for _ in range(taken):
            next(batches)
        state = first.state_dict()
        rest = [next(batches) for _ in range(7)]
    with loader(Numbers(14), 3, cache_batches=data.draw(st.integers(1, 6))) as second:
        second.load_state_dict(state)
        second.set_epoch(state["epoch"])  # as training scripts do
        again = stream(second)
        assert [next(again) for _ in range(7)] == rest


def test_a_state_of_another_order_is_refused() -> None:
    with loader(Numbers(9), 3, seed=1) as first, loader(Numbers(9), 3, seed=2) as second:
        with pytest.raises(InputError, match="seed 1, and this loader has 2"):
            second.load_state_dict(first.state_dict())
        with pytest.raises(InputError, match="batch, epoch missing"):
            second.load_state_dict({})


def test_an_epoch_that_is_left_early_makes_way_for_the_next() -> None:
    with loader(Numbers(12), 3, shuffle=True) as prefetch, loader(Numbers(12), 3) as whole:
        epochs = [list(whole) for _ in range(6)]
        assert next(iter(prefetch)) == epochs[0][0]
        assert list(prefetch) == epochs[1]
        prefetch.set_epoch(5)
        assert list(prefetch) == epochs[5]
        prefetch.set_epoch(0)
        old = iter(prefetch)
        assert next(old) == epochs[0][0]
        assert next(iter(prefetch)) == epochs[1][0]
        with pytest.raises(RuntimeError, match="ended by a later iter"):
            next(old)


# ------------------------------------------------------------------ errors


def test_an_error_reaches_the_consumer_with_the_index_and_its_cause() -> None:
    with loader(Numbers(9, bad=(4,)), 3, shuffle=False) as prefetch:
        batches = iter(prefetch)
        assert next(batches) == [0, 1, 2]
        with pytest.raises(BatchError) as caught:
            next(batches)
        message = "batch 1 of epoch 0: dataset[4] failed: ValueError: number 4 is bad"
        assert str(caught.value) == message
        assert (caught.value.epoch, caught.value.batch, caught.value.index) == (0, 1, 4)
        assert isinstance(caught.value.__cause__, ValueError)
        assert next(batches) == [6, 7, 8]


def test_errors_of_collate_thread_init_and_sampler() -> None:
    def broken(samples: list[Any]) -> Any:
        raise TypeError("cannot be stacked")

    with (
        loader(Numbers(12), 12, shuffle=False, collate_fn=broken) as prefetch,
        pytest.raises(BatchError, match=r"samples \[0, 1, .*7, \.\.\.\] failed: TypeError: cannot"),
    ):
        list(prefetch)

    def bad_thread(number: int) -> None:
        raise OSError("no such core")

    with (
        loader(Numbers(3), thread_init=bad_thread) as prefetch,
        pytest.raises(BatchError, match="thread_init failed: OSError: no such core"),
    ):
        list(prefetch)

    def sampler() -> Iterator[list[int]]:
        yield [0]
        raise KeyError("lost")

    with loader(Numbers(3), batch_sampler=sampler(), cache_batches=4) as prefetch:
        batches = iter(prefetch)
        assert next(batches) == [0]
        with pytest.raises(BatchError, match="batch 1 of epoch 0: the sampler failed: KeyError"):
            next(batches)


def test_thread_init_runs_once_in_each_thread() -> None:
    numbers: list[int] = []
    with loader(Numbers(3), num_threads=4, thread_init=numbers.append) as prefetch:
        list(prefetch)
        wait_until(lambda: len(numbers) == 4)
    assert sorted(numbers) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_batches": 0}, "cache_batches: 0"),
        ({"num_threads": 0}, "num_threads: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"rank": 2, "world_size": 2}, "rank: 2"),
        ({"batch_size": 9, "drop_last": True}, "drop_last"),
        ({"sampler": [0], "batch_sampler": [[0]]}, "both are given"),
        ({"sampler": [0], "world_size": 2}, "world_size: 2"),
    ],
)
def test_arguments_without_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrefetchLoader(Numbers(5), **options)
    with pytest.raises(InputError, match="no samples"):
        PrefetchLoader(Numbers(0))


# ------------------------------------------------------------------ the end


def test_close_ends_the_threads_in_mid_epoch() -> None:
    prefetch = loader(Numbers(1000, seconds=0.01), num_threads=4, cache_batches=50)
    batches = iter(prefetch)
    next(batches)
    assert len(prefetch_threads()) == 4
    prefetch.close()
    prefetch.close()
    assert prefetch_threads() == []
    for use in (lambda: next(batches), lambda: iter(prefetch)):
        with pytest.raises(RuntimeError, match="closed"):
            use()


@pytest.mark.parametrize("started", [False, True])
def test_the_last_reference_ends_the_threads(started: bool) -> None:
    data = Numbers(1000, seconds=0.01)
    prefetch = loader(data, num_threads=4, cache_batches=50)
    batches = iter(prefetch)
    if started:
        next(batches)
    gone = weakref.ref(prefetch)
    del prefetch, batches
    gc.collect()
    assert gone() is None
    wait_until(lambda: prefetch_threads() == [])
    assert data.asked < 50


def test_a_consumer_that_fails_leaves_nothing_that_keeps_the_loader() -> None:
    def train() -> weakref.ref[PrefetchLoader]:
        prefetch = loader(Numbers(100, bad=(5,)), shuffle=False)
        with pytest.raises(BatchError):
            list(prefetch)
        return weakref.ref(prefetch)

    gone = train()
    gc.collect()
    assert gone() is None


def test_closing_wakes_a_consumer_that_waits() -> None:
    class Slow(Numbers):
        def __getitem__(self, index: int) -> int:
            go.wait(10)
            return index

    go, errors = threading.Event(), []
    prefetch = loader(Slow(8), num_threads=1)

    def consume() -> None:
        try:
            list(prefetch)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=consume)
    thread.start()
    wait_until(lambda: prefetch.held > 0)
    closing = threading.Thread(target=prefetch.close)
    closing.start()
    thread.join(10)
    go.set()
    closing.join(10)
    assert len(errors) == 1
    assert "closed" in errors[0]


HUNG = """
import os, sys
from autotune.prefetching import PrefetchLoader, threads

class Hung:
    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index >= 4:
            open(sys.argv[1], "rb").close()  # nobody writes to it: hangs
        return index

threads.END_SECONDS = 0.5
loader = PrefetchLoader(Hung(), 4, shuffle=False, num_threads=2, collate_fn=list)
print(next(iter(loader)), flush=True)
if sys.argv[2] == "close":
    loader.close()
    print("closed", flush=True)
"""


@pytest.mark.parametrize("how", ["close", "exit"])
def test_a_read_that_hangs_keeps_neither_close_nor_the_interpreter(
    tmp_path: Path, how: str
) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    command = [sys.executable, "-c", HUNG, str(pipe), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == ["[0, 1, 2, 3]", *(["closed"] if how == "close" else [])]
    assert " of 2 threads of a PrefetchLoader are still at a sample 0.5 s" in done.stderr


def test_the_interpreter_exits_without_waiting_for_what_is_queued() -> None:
    script = (
        "import time\n"
        "from autotune.prefetching import PrefetchLoader\n"
        "class Slow:\n"
        "    def __len__(self): return 100000\n"
        "    def __getitem__(self, i): time.sleep(0.05); return i\n"
        "loader = PrefetchLoader(Slow(), 100, cache_batches=500, num_threads=2, collate_fn=list)\n"
        "print(len(next(iter(loader))), flush=True)\n"
    )
    done = subprocess.run(  # all that is queued would take 20 minutes
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "100\n", "")


def test_thousands_of_epochs_hold_no_more_than_a_few() -> None:
    class Blocks:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> bytearray:
            return bytearray(BYTES)

    def epochs(prefetch: PrefetchLoader, count: int) -> tuple[int, int]:
        """Bytes and objects that Python holds after so many epochs, some of them left early."""
        for number in range(count):
            for step, _ in enumerate(prefetch):
                if number % 5 == 0 and step == 1:
                    break
        wait_until(lambda: prefetch.ready == 4)
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(gc.get_objects())

    tracemalloc.start()
    try:
        with loader(Blocks(), 2, cache_batches=4, num_threads=2) as prefetch:
            epochs(prefetch, 300)
            bytes_before, objects_before = epochs(prefetch, 100)
            bytes_after, objects_after = epochs(prefetch, 2000)
    finally:
        tracemalloc.stop()
    # One retained sample an epoch would be 2,000 samples: 2 MB and 2,000 objects.
    assert bytes_after - bytes_before < 20 * BYTES
    assert objects_after - objects_before < 100


def test_importing_it_loads_no_torch() -> None:
    check = "import sys, autotune.prefetching; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
