"""The small expression language of conditions, constraints and ``--where``.

    or, and, not            on truth values
    == != < <= > >=         chained as in ``1 <= x <= 8``; numbers with numbers, text with text
    in [..], not in [..]    membership
    + - * / // %, unary -   on numbers
    min max abs ceil floor round
    names (dotted allowed), numbers, 'text', "text", true, false

An expression is tokenized and parsed here into frozen nodes and evaluated by walking them; Python's
``eval`` is never involved. Everything that can go wrong is an `ExpressionError` whose message
shows the place with a caret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.exceptions import ExpressionError
from autotune.expressions.evaluator import Evaluator
from autotune.expressions.nodes import Comparison, Node, Value, fail, format_value, names_of, render
from autotune.expressions.parser import MAX_LENGTH, OPERAND, Parser

__all__ = ["Expression", "Value", "format_value"]


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. Two are equal when their trees are."""

    root: Node
    text: str = field(default="", compare=False)
    where: str = field(default="expression", compare=False)
    """Where it was written, for messages."""

    @classmethod
    def parse(cls, text: str, where: str = "expression") -> Expression:
        """Parse ``text``.

        Raises:
            ExpressionError: with the place, the offending token and what is accepted there.
        """
        if not isinstance(text, str):
            raise ExpressionError(f"{where}: {text!r} is not an expression; write it as text")
        if not text.strip():
            raise ExpressionError(f"{where}: the expression is empty. Accepted: {OPERAND}.")
        if len(text) > MAX_LENGTH:
            raise ExpressionError(
                f"{where}: the expression has {len(text)} characters; accepted: {MAX_LENGTH}"
            )
        return cls(Parser(text, where).parse(), text, where)

    def __str__(self) -> str:
        return render(self.root)

    @property
    def names(self) -> frozenset[str]:
        """Every name the expression uses."""
        return frozenset(names_of(self.root))

    def evaluate(self, names: Mapping[str, object]) -> Value:
        """The value under ``names``.

        Raises:
            ExpressionError: for an unknown name, values that cannot be compared or calculated
                with, a division by zero, or a result that is not finite.
        """
        return Evaluator(self.text, self.where, names).value(self.root)

    def holds(self, names: Mapping[str, object]) -> bool:
        """Like `evaluate`, for an expression that must be true or false.

        Raises:
            ExpressionError: as `evaluate`, and if the value is a number or text.
        """
        value = self.evaluate(names)
        if not isinstance(value, bool):
            fail(
                self.where,
                self.text,
                self.root.at,
                f"the expression must be true or false; it is {format_value(value)}",
                "Compare it with something, e.g. with '==' or '<='.",
            )
        return value

    def explain(self, names: Mapping[str, object]) -> str:
        """The evaluated numbers behind the result: ``20 <= 16 (a = 12, b = 8)``."""
        used = ", ".join(f"{n} = {format_value(names[n])}" for n in sorted(self.names & set(names)))
        if not isinstance(self.root, Comparison):
            return used
        evaluator = Evaluator(self.text, self.where, names)
        sides = [format_value(evaluator.value(self.root.first))]
        for op, operand in self.root.rest:
            sides += [op, format_value(evaluator.value(operand))]
        return f"{' '.join(sides)} ({used})" if used else " ".join(sides)
