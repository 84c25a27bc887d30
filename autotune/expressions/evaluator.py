"""The value of a tree under a mapping of names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import NoReturn

from autotune.expressions.nodes import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    Arithmetic,
    Call,
    Comparison,
    Literal,
    Logic,
    Membership,
    Name,
    Node,
    Unary,
    Value,
    fail,
    format_value,
)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth value"
    return "text" if isinstance(value, str) else "number"


class Evaluator:
    def __init__(self, text: str, where: str, names: Mapping[str, object]) -> None:
        self._text = text
        self._where = where
        self._names = names

    def _fail(self, node: Node, problem: str, remedy: str = "") -> NoReturn:
        fail(self._where, self._text, node.at, problem, remedy)

    def value(self, node: Node) -> Value:
        match node:
            case Literal():
                return node.value
            case Name():
                return self._name(node)
            case Unary():
                if node.op == "not":
                    return not self._truth(node.operand)
                return -self._number(node.operand, "-")
            case Arithmetic():
                left, right = self._number(node.left, node.op), self._number(node.right, node.op)
                return self._arithmetic(node, ARITHMETIC[node.op], left, right)
            case Comparison():
                return self._comparison(node)
            case Membership():
                value = self.value(node.operand)
                items = [self.value(item) for item in node.items]
                for item in items:
                    self._comparable(node, "in", value, item)
                return (value in items) != node.negated
            case Logic():
                # Short-circuits, so that `n != 0 and 8 / n > 2` can guard itself.
                truths = (self._truth(operand) for operand in node.operands)
                return any(truths) if node.op == "or" else all(truths)
            case Call():
                numbers = [self._number(a, node.function) for a in node.arguments]
                return self._arithmetic(node, FUNCTIONS[node.function][0], *numbers)

    def _name(self, node: Name) -> Value:
        if node.name not in self._names:
            known = sorted(self._names)
            close = difflib.get_close_matches(node.name, known, n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            remedy = f"{hint}Accepted: {', '.join(known) or 'no names'}."
            self._fail(node, f"unknown name {node.name!r}", remedy)
        value = self._names[node.name]
        if not isinstance(value, bool | int | float | str):
            self._fail(node, f"{node.name!r} has no value here (it is {value!r})")
        return value

    def _truth(self, node: Node) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            problem = f"true or false is needed here, not the {_kind(value)} {format_value(value)}"
            self._fail(node, problem, "Compare it with something, e.g. with '==' or '>'.")
        return value

    def _number(self, node: Node, op: str) -> int | float:
        value = self.value(node)
        if isinstance(value, bool | str):
            self._fail(node, f"{op!r} takes numbers, not the {_kind(value)} {format_value(value)}")
        return value

    def _arithmetic(
        self, node: Node, function: Callable[..., float], *numbers: int | float
    ) -> int | float:
        try:
            result = function(*numbers)
            finite = math.isfinite(result)
        except ZeroDivisionError:
            self._fail(node, "division by zero")
        except (OverflowError, ValueError):
            finite = False
        if not finite:
            self._fail(node, "the result is not a finite number")
        return result

    def _comparable(self, node: Node, op: str, left: Value, right: Value) -> None:
        if _kind(left) != _kind(right):
            self._fail(
                node,
                f"{op!r} cannot compare the {_kind(left)} {format_value(left)} "
                f"with the {_kind(right)} {format_value(right)}",
                "Text is written in quotes, a number without.",
            )
        if isinstance(left, bool) and op in ("<", "<=", ">", ">="):
            self._fail(node, f"{op!r} does not order truth values", "Accepted: == and !=.")

    def _comparison(self, node: Comparison) -> bool:
        left = self.value(node.first)
        for op, operand in node.rest:
            right = self.value(operand)
            self._comparable(node, op, left, right)
            if not COMPARISONS[op](left, right):
                return False
            left = right
        return True
