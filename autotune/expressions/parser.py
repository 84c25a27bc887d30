"""From text to a tree: a tokenizer and a recursive-descent parser."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from autotune.expressions.nodes import (
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
    fail,
)

MAX_LENGTH = 2000
"""Characters in an expression."""
MAX_TOKENS = 250
"""Bounds the depth of the tree, so that walking it cannot exhaust Python's stack."""
MAX_NESTING = 30
"""Parentheses, calls and prefix operators inside each other."""

_KEYWORDS = frozenset({"or", "and", "not", "in", "true", "false", "True", "False"})
OPERAND = "a name, a number, 'text', true, false, a function or ("
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<number>(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
  | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
  | (?P<op>==|!=|<=|>=|//|[<>+\-*/%()\[\],])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokenize(text: str, where: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            char = text[at]
            if char in "'\"":
                fail(where, text, at, "the text that starts here is not closed", f"Add a {char}.")
            if char in "=&|!":
                instead = {"=": "==", "&": "and", "|": "or", "!": "not"}[char]
                fail(where, text, at, f"unexpected {char!r}", f"Write {instead!r} instead.")
            accepted = "Accepted: names, numbers, 'text', comparisons, + - * / // %, and, or, not."
            fail(where, text, at, f"unexpected {char!r}", accepted)
        kind = found.lastgroup or ""
        if kind == "name" and found.group() in _KEYWORDS:
            kind = "keyword"
        if kind != "space":
            tokens.append(_Token(kind, found.group(), at))
        at = found.end()
    if len(tokens) > MAX_TOKENS:
        at = tokens[MAX_TOKENS].at
        fail(where, text, at, f"more than {MAX_TOKENS} tokens", "Shorten the expression.")
    tokens.append(_Token("end", "", len(text)))
    return tokens


class Parser:
    """Recursive descent, one method a level of precedence."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._tokens = _tokenize(text, where)
        self._index = 0
        self._nesting = 0

    def parse(self) -> Node:
        node = self._or()
        if self._token.kind != "end":
            self._unexpected("an operator or the end")
        return node

    @property
    def _token(self) -> _Token:
        return self._tokens[self._index]

    def _accept(self, *texts: str) -> _Token | None:
        token = self._token
        if token.kind in ("op", "keyword") and token.text in texts:
            self._index += 1
            return token
        return None

    def _expect(self, text: str, accepted: str) -> None:
        if self._accept(text) is None:
            self._unexpected(accepted)

    def _unexpected(self, accepted: str) -> NoReturn:
        token = self._token
        what = "unexpected end" if token.kind == "end" else f"unexpected {token.text!r}"
        fail(self._where, self._text, token.at, what, f"Accepted here: {accepted}.")

    def _enter(self, at: int) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            problem = f"nested more than {MAX_NESTING} deep"
            fail(self._where, self._text, at, problem, "Shorten the expression.")

    def _or(self) -> Node:
        return self._logic("or", self._and)

    def _and(self) -> Node:
        return self._logic("and", self._not)

    def _logic(self, op: str, operand: Callable[[], Node]) -> Node:
        first = operand()
        operands = [first]
        while self._accept(op):
            operands.append(operand())
        return first if len(operands) == 1 else Logic(op, tuple(operands), first.at)

    def _not(self) -> Node:
        token = self._accept("not")
        if token is None:
            return self._comparison()
        self._enter(token.at)
        node = Unary("not", self._not(), token.at)
        self._nesting -= 1
        return node

    def _comparison(self) -> Node:
        first = self._sum()
        negation = self._accept("not")
        if negation or self._token.text == "in":
            token = self._token
            self._expect("in", "'in'")
            return Membership(first, self._list(), negation is not None, token.at)
        rest: list[tuple[str, Node]] = []
        at = self._token.at
        while token_or_none := self._accept(*COMPARISONS):
            rest.append((token_or_none.text, self._sum()))
        return Comparison(first, tuple(rest), at) if rest else first

    def _list(self) -> tuple[Node, ...]:
        self._expect("[", "a list such as [1, 2] after 'in'")
        items = [self._sum()]
        while self._accept(","):
            items.append(self._sum())
        self._expect("]", "',' or ']'")
        return tuple(items)

    def _sum(self) -> Node:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Node:
        return self._chain(("*", "/", "//", "%"), self._unary)

    def _chain(self, ops: tuple[str, ...], operand: Callable[[], Node]) -> Node:
        node = operand()
        while token := self._accept(*ops):
            node = Arithmetic(token.text, node, operand(), token.at)
        return node

    def _unary(self) -> Node:
        token = self._accept("-")
        if token is None:
            return self._operand()
        self._enter(token.at)
        node = Unary("-", self._unary(), token.at)
        self._nesting -= 1
        return node

    def _operand(self) -> Node:
        token = self._token
        if opening := self._accept("("):
            self._enter(opening.at)
            node = self._or()
            self._expect(")", "an operator or ')'")
            self._nesting -= 1
            return node
        if keyword := self._accept("true", "True", "false", "False"):
            return Literal(keyword.text.lower() == "true", keyword.at)
        if token.kind not in ("number", "string", "name"):
            self._unexpected(OPERAND)
        self._index += 1
        if token.kind == "string":
            return Literal(re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL), token.at)
        if token.kind == "name":
            return self._call(token) if self._accept("(") else Name(token.text, token.at)
        if token.text.isdigit():
            return Literal(int(token.text), token.at)
        number = float(token.text)
        if not math.isfinite(number):
            fail(self._where, self._text, token.at, f"{token.text} is too large a number")
        return Literal(number, token.at)

    def _call(self, token: _Token) -> Node:
        if token.text not in FUNCTIONS:
            accepted = f"Accepted functions: {', '.join(FUNCTIONS)}."
            problem = f"unknown function {token.text!r}"
            fail(self._where, self._text, token.at, problem, accepted)
        self._enter(token.at)
        arguments = [self._or()]
        while self._accept(","):
            arguments.append(self._or())
        self._expect(")", "',' or ')'")
        self._nesting -= 1
        _, fewest, most = FUNCTIONS[token.text]
        if not fewest <= len(arguments) <= most:
            wanted = str(most) if fewest == most else f"{fewest} to {most}"
            problem = f"{token.text} takes {wanted} argument(s), not {len(arguments)}"
            fail(self._where, self._text, token.at, problem)
        return Call(token.text, tuple(arguments), token.at)
