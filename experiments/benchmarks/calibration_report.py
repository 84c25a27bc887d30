"""What the calibrations share: exact binomial intervals, goals and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.special import betaincinv

from experiments.benchmarks import _common


@dataclass(frozen=True)
class Proportion:
    """``hits`` of ``asked``, with its 95 % Clopper-Pearson interval."""

    hits: int
    asked: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.asked or self.asked == 0:
            raise ValueError(f"{self.hits} of {self.asked} is no share")

    @property
    def share(self) -> float:
        return self.hits / self.asked

    @property
    def low(self) -> float:
        """Lower end (Clopper and Pearson, Biometrika 1934)."""
        return _tail(self.hits, self.asked, 0.025)

    @property
    def high(self) -> float:
        """Upper end."""
        return 1.0 - _tail(self.asked - self.hits, self.asked, 0.025)

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.low:.1%} to {self.high:.1%})"


def _tail(hits: int, asked: int, tail: float) -> float:
    return float(betaincinv(hits, asked - hits + 1, tail)) if hits else 0.0


@dataclass(frozen=True)
class Goal:
    """A share and the range it has to be in, itself or its interval."""

    question: str
    text: str
    low: float = 0.0
    high: float = 1.0
    by_interval: bool = False
    """The share's interval has to meet the range, where otherwise the share has to be in it."""

    def met(self, share: Proportion) -> bool:
        """Whether it is."""
        if self.by_interval:
            return share.high >= self.low and share.low <= self.high
        return self.low <= share.share <= self.high

    @property
    def wanted(self) -> str:
        """The range in words."""
        if self.by_interval and self.low == self.high:
            return f"interval contains {self.low:.0%}"
        if self.low == 0.0:
            below = f"at most {self.high:.0%}"
            return f"interval contains it or below: {below}" if self.by_interval else below
        if self.high == 1.0:
            return f"at least {self.low:.0%}"
        return f"{self.low:.0%} to {self.high:.0%}"


def judged(goals: Sequence[Goal], shares: Mapping[str, Proportion]) -> list[dict[str, Any]]:
    """Each goal with its share and whether it is met; a question nobody asked is not."""
    return [
        {
            "goal": goal.text,
            "wanted": goal.wanted,
            "measured": shares[goal.question].document() if goal.question in shares else None,
            "met": goal.question in shares and goal.met(shares[goal.question]),
        }
        for goal in goals
    ]


def goals_table(goals: Sequence[Goal], shares: Mapping[str, Proportion]) -> str:
    """The goals as Markdown."""
    rows = []
    for goal in goals:
        share = shares.get(goal.question)
        asked = share.asked if share is not None else 0
        met = share is not None and goal.met(share)
        rows.append([goal.text, goal.wanted, share, asked, "met" if met else "**missed**"])
    header = ["question", "goal", "share (95 % interval)", "of", "verdict"]
    return _common.markdown_table(header, rows)
