"""Interleaved blocks, choosing among finalists, and what is claimed of the winner."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.config import Verification
from autotune.exceptions import InputError
from autotune.stats import blocks_needed, sequential_ratio
from autotune.storage import MeasurementRecord
from autotune.study.blocks import MAX_REPEATS, Block, Blocks, Broken
from autotune.study.run import StopSignal
from autotune.study.selection import selection_runs
from autotune.study.verification import complete_blocks, verification_runs
from autotune.trial import Failure, Params, TrialResult, TrialSpec
from tests.fakes import FakeExecutor, disturbed, measurement
from tests.launches import experiment, launch, records, surface, url

__all__ = ["experiment", "url"]  # fixtures

CRASH = Failure(kind="crash", cause="SIGSEGV")


def blocks(most: int = 6, first: int = 4, half_width: float = 0.02) -> Blocks:
    return Blocks(("candidate", "baseline"), "seed", first, most, half_width)


def result(rate: float | None) -> TrialResult:
    if rate is None:
        return TrialResult(uuid="u", state="failed", failure=CRASH)
    return TrialResult(uuid="u", state="finished", measurement=measurement(rate))


# --------------------------------------------------------------------------- blocks


@given(st.integers(0, 50), st.text())
def test_the_order_in_a_block_is_random_and_the_same_again(block: int, seed: str) -> None:
    one = Blocks(("a", "b"), seed, 4, 6, 0.02)
    assert sorted(one.order(block)) == ["a", "b"]
    assert one.order(block) == Blocks(("a", "b"), seed, 4, 6, 0.02).order(block)


def test_both_orders_occur() -> None:
    assert {tuple(blocks().order(block)) for block in range(40)} == {
        ("candidate", "baseline"),
        ("baseline", "candidate"),
    }


@given(st.lists(st.tuples(st.floats(1, 1000), st.floats(1, 1000)), min_size=18, max_size=18))
def test_blocks_end_when_the_first_ones_said_so(rates: list[tuple[float, float]]) -> None:
    ran = blocks(most=18, first=6)
    assert ran.measure(lambda arm, block: result(rates[block][arm == "baseline"])) is None
    fast = [pair[0] for pair in rates]
    slow = [pair[1] for pair in rates]
    needed = blocks_needed(fast[:6], slow[:6], 0.02, 18, 6)
    assert len(ran.rates) == needed
    assert ran.complete
    assert ran.ratio() == sequential_ratio(fast[:needed], slow[:needed], 6)


def test_a_block_with_a_failed_run_is_measured_again_as_a_whole() -> None:
    ran = blocks(most=4)
    calls: list[tuple[str, int]] = []

    def run(arm: str, block: int) -> TrialResult:
        calls.append((arm, block))
        last_of_block_2 = arm == ran.order(2)[1] and block == 2
        failures = calls.count((arm, block)) <= MAX_REPEATS
        return result(None if last_of_block_2 and failures else 100.0 + len(calls))

    assert ran.measure(run) is None
    assert [calls.count((arm, 2)) for arm in ran.order(2)] == [1 + MAX_REPEATS] * 2
    assert len(ran.rates) == 4
    # The block's rates are those of its last, complete attempt.
    assert set(ran.rates[2]) == {100.0 + 4 + 5, 100.0 + 4 + 6}


def test_a_block_that_goes_on_failing_ends_it() -> None:
    ran = blocks()
    calls: list[int] = []

    def run(arm: str, block: int) -> TrialResult:
        calls.append(block)
        return result(None if arm == "baseline" and block == 1 else 100.0)

    assert ran.measure(run) == Broken("baseline", CRASH)
    assert len(ran.rates) == 1
    fresh = blocks()
    calls.clear()
    # Failures of an earlier launch count.
    assert fresh.measure(run, failed_before={1: MAX_REPEATS}) == Broken("baseline", CRASH)
    assert calls.count(1) <= 2


def test_blocks_end_early_when_none_may_begin_or_a_run_is_refused() -> None:
    ran = blocks()
    assert ran.measure(lambda arm, block: result(10.0), lambda: len(ran.rates) < 2) is None
    assert (len(ran.rates), ran.complete) == (2, False)
    assert ran.measure(lambda arm, block: None) is None
    assert len(ran.rates) == 2
    assert blocks().ratio() is None


def test_a_block_with_a_disturbed_run_is_set_aside_and_measured_again_as_a_whole() -> None:
    ran = blocks(most=4)
    calls: list[tuple[str, int]] = []

    def run(arm: str, block: int) -> TrialResult:
        calls.append((arm, block))
        made = result(100.0 + len(calls))
        first = block == 2 and calls.count((arm, block)) == 1
        return disturbed(made) if first and arm == "baseline" else made

    assert ran.measure(run) is None
    assert len(calls) == 10
    assert set(ran.rates[2]) == {100.0 + 7, 100.0 + 8}
    assert (ran.set_aside, ran.disturbed) == (1, 0)
    assert ran.ratio() == sequential_ratio(ran.of_first, ran.of_second, 4)


@pytest.mark.parametrize(("repeats", "attempts"), [(2, 3), (0, 1)])
def test_a_block_that_is_disturbed_each_time_widens_the_interval(
    repeats: int, attempts: int
) -> None:
    ran = blocks(most=4)
    ran.repeats = repeats
    lost = iter([0.5, 0.2, 0.4])

    def run(arm: str, block: int) -> TrialResult:
        made = result(100.0 + block)
        return disturbed(made, next(lost)) if block == 1 and arm == "baseline" else made

    assert ran.measure(run) is None
    assert (ran.set_aside, ran.disturbed) == (attempts - 1, 1)
    kept = 0.2 if repeats else 0.5
    assert ran.done[1] == Block((101.0, 101.0 * (1 - kept)), (kept,))
    outcome, plain = ran.ratio(), sequential_ratio(ran.of_first, ran.of_second, 4)
    assert outcome is not None
    assert outcome.ratio == plain.ratio
    # All of what the block may have lost, in the mean of four logarithms.
    assert outcome.low == pytest.approx(plain.low * (1 - kept) ** (1 / 4))
    assert outcome.high == pytest.approx(plain.high / (1 - kept) ** (1 / 4))


def test_a_block_that_may_have_lost_everything_leaves_nothing_known() -> None:
    ran = blocks(most=4)
    ran.done = [Block((2.0, 1.0)), Block((2.0, 1.1), (1.0,))]
    outcome = ran.ratio()
    assert outcome is not None
    assert (outcome.low, outcome.high) == (0.0, math.inf)


def test_a_disturbed_block_is_not_measured_again_without_time() -> None:
    ran = blocks(most=4)
    asked: list[int] = []

    def may_begin() -> bool:
        asked.append(len(ran.rates))
        return len(asked) < 2

    ran.measure(lambda arm, block: disturbed(result(10.0)), may_begin)
    assert asked == [0, 0, 1]
    assert (len(ran.rates), ran.disturbed) == (1, 1)


# --------------------------------------------------------------------------- earlier launches


def complete_pairs(runs: list[MeasurementRecord]) -> list[tuple[float, float]]:
    return [block.rates for block in complete_blocks(runs, MAX_REPEATS)[0]]


def recorded(
    runs: list[tuple[int, str, float | None]], lost: tuple[float, ...] = ()
) -> list[MeasurementRecord]:
    """``lost``: of the first runs, those above 0 are marked."""
    shares = [*lost, *[0.0] * len(runs)]
    missing = dict.fromkeys(MeasurementRecord.model_fields)
    values = {"ranks": [], "readback": {}, "versions": {}, "failed_clips": [], "timeline": {}}
    return [
        MeasurementRecord.model_construct(
            **missing
            | values
            | {
                "block": block,
                "arm": arm,
                "samples_per_second": rate,
                "state": "failed" if rate is None else "finished",
                "contaminated": share > 0,
                "contamination": {"lost": share},
            }
        )
        for (block, arm, rate), share in zip(runs, shares, strict=False)
    ]


@pytest.mark.parametrize(
    ("runs", "pairs"),
    [
        ([], []),
        ([(0, "baseline", 1.0)], []),
        ([(0, "baseline", 1.0), (0, "candidate", 2.0)], [(2.0, 1.0)]),
        # The driver ended after the first arm: it is measured again, and the old run left out.
        (
            [(0, "baseline", 1.0), (0, "baseline", 1.5), (0, "candidate", 2.0)],
            [(2.0, 1.5)],
        ),
        (
            [
                (0, "candidate", 9.0),
                (0, "baseline", None),
                (0, "candidate", 2.0),
                (0, "baseline", 1.0),
            ],
            [(2.0, 1.0)],
        ),
        (
            [
                (0, "candidate", 2.0),
                (0, "baseline", 1.0),
                (1, "baseline", 1.1),
                (1, "candidate", None),
            ],
            [(2.0, 1.0)],
        ),
    ],
)
def test_only_complete_blocks_of_earlier_launches_count(
    runs: list[tuple[int, str, float | None]], pairs: list[tuple[float, float]]
) -> None:
    assert complete_pairs(recorded(runs)) == pairs


@pytest.mark.parametrize(
    ("lost", "complete"),
    [
        ((), [Block((2.0, 1.0))]),
        # The driver ended before a disturbed block was measured again: it begins anew.
        ((0.3,), []),
        ((0.3, 0.0, 0.0, 0.0), [Block((2.1, 1.1))]),
        ((0.0, 0.3, 0.2, 0.1), []),
        ((0.0, 0.3, 0.2, 0.0, 0.4, 0.0), [Block((2.1, 1.1), (0.2,))]),
    ],
)
def test_disturbed_blocks_of_earlier_launches_count_once_repeats_are_used(
    lost: tuple[float, ...], complete: list[Block]
) -> None:
    attempts = max(1, len(lost) // 2)
    runs = [
        run
        for i in range(attempts)
        for run in ((0, "candidate", 2.0 + i / 10), (0, "baseline", 1.0 + i / 10))
    ]
    set_aside = attempts - 1 if complete else 0
    assert complete_blocks(recorded(runs, lost), MAX_REPEATS) == (complete, set_aside)


def stop_in(executor: FakeExecutor, signal: StopSignal, specs: int) -> None:
    def interrupt(spec: TrialSpec) -> None:
        if len(executor.specs) == specs:
            signal.request()

    executor.before = interrupt


@pytest.mark.parametrize("specs", [8, 9, 10, 13])
def test_an_interrupted_verification_goes_on_with_its_blocks(
    experiment: dict[str, Any], url: str, specs: int
) -> None:
    signal = StopSignal()
    executor = FakeExecutor(surface, noise=0.01)
    stop_in(executor, signal, specs)
    assert launch(experiment, url, executor, signal).state == "interrupted"
    _, _, before, none = records(url)
    assert none == []
    kept = complete_pairs([m for m in before if m.role == "verification"])
    again = FakeExecutor(surface, noise=0.01, seed=9)
    assert launch(experiment, url, again).state == "finished"
    _, _, after, [verification] = records(url)
    assert len(again.specs) == 2 * (4 - len(kept))
    pairs = complete_pairs([m for m in after if m.role == "verification"])
    assert pairs[: len(kept)] == kept
    fast, slow = [p[0] for p in pairs], [p[1] for p in pairs]
    assert verification.ratio == pytest.approx(sequential_ratio(fast, slow, 4).ratio)


def test_an_interrupted_selection_goes_on_with_its_runs(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["verification"] = {"finalists": 3, "blocks": 4}
    signal = StopSignal()
    executor = FakeExecutor(surface, noise=0.01)
    stop_in(executor, signal, 8 + 5)
    assert launch(experiment, url, executor, signal).state == "interrupted"
    assert sum(m.role == "selection" for m in records(url)[2]) == 6
    assert launch(experiment, url, FakeExecutor(surface, noise=0.01, seed=4)).state == "finished"
    _, _, measurements, [verification] = records(url)
    assert sum(m.role == "selection" for m in measurements) == 14
    assert verification.blocks == 4


# --------------------------------------------------------------------------- what is claimed


def test_a_baseline_that_was_lucky_once_hides_no_gain(experiment: dict[str, Any], url: str) -> None:
    executor = FakeExecutor(surface)

    def lucky(params: Params) -> float | Failure:
        rate = surface(params)
        assert isinstance(rate, float)
        return 1.3 * rate if len(executor.specs) == 1 else rate

    experiment["noise"] = {"runs": 5, "drift_every": 0}
    experiment["baseline"] = {"num_demux_threads": 5, "num_decode_threads": 4}
    experiment["enqueue"] = [{"num_demux_threads": 2, "num_decode_threads": 4}]
    executor._surface = lucky
    outcome = launch(experiment, url, executor)
    study, trials, _, [verification] = records(url)
    assert trials[0].samples_per_second == max(t.samples_per_second for t in trials)
    assert study.noise["floor"] > 0.3
    assert verification.trial_number == 1
    assert verification.verified, outcome.reason


def test_what_is_slower_by_more_than_noise_is_no_finalist(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["verification"] = {"finalists": 3, "blocks": 4}
    experiment["baseline"] = {"num_demux_threads": 2, "num_decode_threads": 4}
    experiment["enqueue"] = [
        {"num_demux_threads": 3, "num_decode_threads": 4},
        {"num_demux_threads": 8, "num_decode_threads": 8},
    ]
    experiment["budget"] = {"trials": 3}
    outcome = launch(experiment, url)
    _, _, measurements, [verification] = records(url)
    assert verification.trial_number == 1
    assert "trial 1 no significant gain: 0.97x" in outcome.reason
    assert [m.role for m in measurements].count("selection") == 0, "there is nothing to choose"


def test_disturbed_blocks_of_a_verification_are_set_aside_and_told(
    experiment: dict[str, Any], url: str
) -> None:
    executor = FakeExecutor(surface, noise=0.005)
    executor.disturbs = lambda spec: len(executor.specs) in (9, 14)  # of blocks 0 and 2
    outcome = launch(experiment, url, executor)
    _, _, measurements, [verification] = records(url)
    assert outcome.reason.endswith(", 2 blocks set aside as other programs disturbed them")
    runs = [m for m in measurements if m.role == "verification"]
    assert len(runs) == 2 * (4 + 2)
    assert verification.details["set_aside"] == 2
    assert verification.details["disturbed_blocks"] == 0
    # The claim rests on undisturbed runs alone: a disturbed one gives 18 or 25.
    rates = verification.details["candidate_rates"] + verification.details["baseline_rates"]
    assert len(rates) == 8
    assert min(rates) > 30


def test_where_every_block_is_disturbed_nothing_is_claimed(
    experiment: dict[str, Any], url: str
) -> None:
    executor = FakeExecutor(surface)
    executor.disturbs = lambda spec: len(executor.specs) > 8
    outcome = launch(experiment, url, executor)
    [verification] = records(url)[3]
    assert outcome.reason.endswith("4 blocks disturbed each time, so the interval is wider")
    assert not verification.verified
    assert verification.ratio_low < 0.5


def test_noisy_blocks_are_added_until_the_gain_is_known(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["verification"] = {"finalists": 1, "min_blocks": 4, "blocks": 30}
    outcome = launch(experiment, url, FakeExecutor(surface, noise=0.03, seed=1))
    _, _, measurements, [verification] = records(url)
    pairs = complete_pairs([m for m in measurements if m.role == "verification"])
    fast, slow = [p[0] for p in pairs], [p[1] for p in pairs]
    assert len(pairs) == blocks_needed(fast, slow, 0.02, 30, 4) > 4
    expected = sequential_ratio(fast, slow, 4)
    assert (verification.ratio, verification.ratio_low, verification.ratio_high) == (
        pytest.approx((expected.ratio, expected.low, expected.high))
    )
    said = f"{expected.ratio:.2f}x ({expected.low:.2f} to {expected.high:.2f})"
    assert outcome.reason.endswith(f"verified: {said}")


def test_where_noise_is_wider_the_floor_is_precise_enough(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 0}
    experiment["verification"] = {"finalists": 1, "min_blocks": 4, "blocks": 30}
    launch(experiment, url, FakeExecutor(surface, noise=0.015, seed=11))
    study, _, _, [verification] = records(url)
    floor = study.noise["floor"]
    assert floor > 0.02
    assert verification.details["half_width"] == floor


def only(params: Params, keys: dict[str, int]) -> bool:
    return all(params[name] == value for name, value in keys.items())


def failing_after(
    executor: FakeExecutor, specs: int, which: Callable[[Params], bool], times: float = math.inf
) -> None:
    """From the given measurement on, configurations for which ``which`` holds fail."""
    failed: list[int] = []
    before = executor._surface

    def answer(params: Params) -> float | Failure:
        if len(executor.specs) > specs and which(params) and len(failed) < times:
            failed.append(1)
            return CRASH
        return before(params)

    executor._surface = answer


def test_a_failed_arm_is_measured_again_not_dropped(experiment: dict[str, Any], url: str) -> None:
    executor = FakeExecutor(surface, noise=0.005)
    failing_after(executor, 10, lambda params: True, times=2)
    assert "verified: " in launch(experiment, url, executor).reason
    _, _, measurements, [verification] = records(url)
    fresh = [m for m in measurements if m.role == "verification"]
    assert sum(m.state == "failed" for m in fresh) == 2
    assert verification.blocks == 4
    assert verification.verified


def test_a_winner_that_fails_again_and_again_is_not_verified(
    experiment: dict[str, Any], url: str
) -> None:
    import autotune

    executor = FakeExecutor(surface)
    baseline = {"num_decode_threads": 8, "num_demux_threads": 8}
    failing_after(executor, 8, lambda params: not only(params, baseline))
    outcome = launch(experiment, url, executor)
    assert outcome.state == "finished"
    assert "failed when it was measured again (crash: SIGSEGV)" in outcome.reason
    _, _, measurements, [verification] = records(url)
    assert (verification.ratio, verification.verified) == (None, False)
    failed = [m for m in measurements if m.role == "verification" and m.state == "failed"]
    assert len(failed) == 1 + MAX_REPEATS
    with pytest.raises(InputError, match="not verified"):
        autotune.load_study("study", storage=url).export()


def test_a_baseline_that_fails_is_not_held_against_the_winner(
    experiment: dict[str, Any], url: str
) -> None:
    executor = FakeExecutor(surface)
    baseline = {"num_decode_threads": 8, "num_demux_threads": 8}
    failing_after(executor, 8, lambda params: only(params, baseline))
    outcome = launch(experiment, url, executor)
    assert "is not verified: the baseline failed when measured again" in outcome.reason
    assert records(url)[3] == []


def test_a_finalist_whose_fresh_runs_fail_is_out(experiment: dict[str, Any], url: str) -> None:
    experiment["verification"] = {"finalists": 2, "blocks": 4}
    quiet = FakeExecutor(surface)
    launch(experiment, url, quiet, name="quiet")
    ranked = sorted(records(url, "quiet")[1], key=lambda t: -t.samples_per_second)
    first, second = ranked[0], ranked[1]
    executor = FakeExecutor(surface)
    failing_after(executor, 8, lambda params: params == first.params)
    launch(experiment, url, executor)
    _, trials, _, [verification] = records(url)
    assert trials[verification.trial_number].params == second.params
    assert verification.verified


def test_a_better_trial_of_a_later_launch_is_verified_too(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["budget"] = {"trials": 4}
    experiment["verification"] = {"finalists": 3, "blocks": 4}
    launch(experiment, url, FakeExecutor(surface))
    [first] = records(url)[3]
    experiment["enqueue"] = [{"num_demux_threads": 2, "num_decode_threads": 4}]
    experiment["budget"] = {"trials": 6}
    launch(experiment, url, FakeExecutor(surface))
    _, trials, _, verifications = records(url)
    assert verifications[0].trial_number == first.trial_number
    assert len(verifications) == 2
    assert trials[verifications[1].trial_number].params["num_demux_threads"] == 2
    # Nothing new: nothing is verified again.
    experiment["verification"] = {"finalists": 3, "blocks": 5}
    launch(experiment, url, FakeExecutor(surface))
    assert len(records(url)[3]) == 2


@given(st.integers(0, 40), st.integers(4, 30))
def test_verification_never_takes_more_than_it_says(finalists: int, most: int) -> None:
    settings = Verification(finalists=finalists, blocks=most)
    expected = 0 if finalists == 0 else 2 * most + selection_runs(finalists)
    assert verification_runs(settings) == expected
    assert settings.first_blocks <= most
    assert selection_runs(1) == 0
    assert selection_runs(finalists + 2) > selection_runs(finalists)
