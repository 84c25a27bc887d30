"""The tree of an expression, its operators, and how it is written as text again."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from autotune.exceptions import ExpressionError

Value = bool | int | float | str

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
)
ARITHMETIC: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
        "//": operator.floordiv,
        "%": operator.mod,
    }
)
FUNCTIONS: Mapping[str, tuple[Callable[..., float], int, int]] = MappingProxyType(
    {  # function, fewest and most arguments
        "min": (min, 2, 50),
        "max": (max, 2, 50),
        "abs": (abs, 1, 1),
        "ceil": (math.ceil, 1, 1),
        "floor": (math.floor, 1, 1),
        "round": (round, 1, 1),
    }
)


@dataclass(frozen=True, slots=True)
class Literal:
    value: Value
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """``-x`` or ``not x``."""

    op: str
    operand: Node
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    op: str
    left: Node
    right: Node
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """``first op operand op operand ...``: true if every neighbouring pair compares true."""

    first: Node
    rest: tuple[tuple[str, Node], ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Membership:
    operand: Node
    items: tuple[Node, ...]
    negated: bool = False
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Logic:
    """``a and b and c`` or ``a or b or c``; at least two operands."""

    op: str
    operands: tuple[Node, ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Node, ...]
    at: int = field(default=0, compare=False)


Node = Literal | Name | Unary | Arithmetic | Comparison | Membership | Logic | Call


def _children(node: Node) -> tuple[Node, ...]:
    match node:
        case Literal() | Name():
            return ()
        case Unary():
            return (node.operand,)
        case Arithmetic():
            return (node.left, node.right)
        case Comparison():
            return (node.first, *(operand for _, operand in node.rest))
        case Membership():
            return (node.operand, *node.items)
        case Logic():
            return node.operands
        case Call():
            return node.arguments


def names_of(node: Node) -> Iterator[str]:
    if isinstance(node, Name):
        yield node.name
    for child in _children(node):
        yield from names_of(child)


def _precedence(node: Node) -> int:
    match node:
        case Logic():
            return 1 if node.op == "or" else 2
        case Unary():
            return 3 if node.op == "not" else 7
        case Comparison() | Membership():
            return 4
        case Arithmetic():
            return 5 if node.op in "+-" else 6
        case _:
            return 8


def format_value(value: object) -> str:
    """A value as it is written in an expression."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def render(node: Node, least: int = 0) -> str:
    """The node as text, in parentheses if it binds weaker than ``least``."""
    precedence = _precedence(node)
    match node:
        case Literal():
            text = format_value(node.value)
        case Name():
            text = node.name
        case Unary():
            space = " " if node.op == "not" else ""
            text = f"{node.op}{space}{render(node.operand, precedence)}"
        case Arithmetic():
            left = render(node.left, precedence)
            text = f"{left} {node.op} {render(node.right, precedence + 1)}"
        case Comparison():
            rest = "".join(f" {op} {render(operand, 5)}" for op, operand in node.rest)
            text = render(node.first, 5) + rest
        case Membership():
            items = ", ".join(render(item, 5) for item in node.items)
            text = f"{render(node.operand, 5)} {'not ' if node.negated else ''}in [{items}]"
        case Logic():
            parts = [render(operand, precedence + 1) for operand in node.operands]
            text = f" {node.op} ".join(parts)
        case Call():
            text = f"{node.function}({', '.join(render(a) for a in node.arguments)})"
    return f"({text})" if precedence < least else text


def fail(where: str, text: str, at: int, problem: str, remedy: str = "") -> NoReturn:
    # One line around the place: an expression from YAML may span several.
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)].replace("\t", " ")
    column = at - start
    if len(line) > 100:
        cut = max(0, column - 60)
        line, column = line[cut : cut + 100], column - cut
    lines = [f"{where}: {problem}", f"  {line}", f"  {' ' * column}^"]
    raise ExpressionError("\n".join([*lines, remedy] if remedy else lines))
