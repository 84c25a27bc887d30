from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.exceptions import ExpressionError, InputError
from autotune.expressions import Expression
from autotune.expressions.nodes import (
    ARITHMETIC,
    COMPARISONS,
    Arithmetic,
    Call,
    Comparison,
    Literal,
    Logic,
    Membership,
    Name,
    Node,
    Unary,
)

NAMES = {"a": 3, "b": 20, "f": 0.5, "mode": "subprocess", "on": True, "x.y": 7}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a + b * 2", 43),
        ("(a + b) * 2", 46),
        ("a - 1 - 1", 1),
        ("-a + 5", 2),
        ("- -a", 3),
        ("b / 8", 2.5),
        ("b // 8 + b % 8", 6),
        ("max(16, 4 * a, f)", 16),
        ("min(a, f)", 0.5),
        ("abs(-a) + ceil(f) + floor(f) + round(2.6)", 7),
        ("1 < a <= 3", True),
        ("1 < a < 3", False),
        ("a < b < a", False),
        ("not a == 4 and b == 20", True),
        ("a == 4 or b == 20 and on", True),
        ("(a == 3 or b == 0) and a == 4", False),
        ("a == 4 and b == 20", False),
        ("mode in ['subprocess', \"pool\"]", True),
        ("mode not in ['subprocess']", False),
        ("not a in [1, 2, b / 5]", True),
        ("mode == 'subprocess'", True),
        ("'a' < 'b'", True),
        ("on == true and on != False", True),
        ("x.y == 7", True),
        ("1e3 + .5 + 2.", 1002.5),
        ("a\n  + b", 23),
        # What is not needed is not evaluated: a guard protects what follows it.
        ("a == 0 or b / a > 6", True),
        ("a != 3 and b / 0 > 6", False),
        (r"'it\'s' == " + '"it\'s"', True),
    ],
)
def test_evaluates(text: str, value: object) -> None:
    found = Expression.parse(text).evaluate(NAMES)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "column", "parts"),
    [
        ("", None, ["is empty"]),
        ("  ", None, ["is empty"]),
        ("a = 3", 2, ["unexpected '='", "'=='"]),
        ("a && b", 2, ["unexpected '&'", "'and'"]),
        ("a + ", 4, ["unexpected end", "a name, a number"]),
        ("a + ) b", 4, ["unexpected ')'", "a name, a number"]),
        ("(a", 2, ["unexpected end", "')'"]),
        ("a b", 2, ["unexpected 'b'", "an operator"]),
        ("a in 3", 5, ["unexpected '3'", "a list"]),
        ("a in []", 6, ["unexpected ']'"]),
        ("a not 3", 6, ["unexpected '3'", "'in'"]),
        ("sqrt(a)", 0, ["unknown function 'sqrt'", "min, max, abs, ceil, floor, round"]),
        ("abs(a, b)", 0, ["abs takes 1 argument(s), not 2"]),
        ("max(a)", 0, ["max takes 2 to 50 argument(s), not 1"]),
        ("'abc", 0, ["not closed"]),
        ("a ** b", 3, ["unexpected '*'"]),
        ("a; b", 1, ["unexpected ';'"]),
        ("a.__class__()", 0, ["unknown function"]),
        ("1e999", 0, ["too large"]),
        ("a == é", 5, ["unexpected 'é'"]),
        ("(" * 40 + "1" + ")" * 40, 30, ["nested more than 30"]),
        ("not " * 40 + "on", 120, ["nested more than 30"]),
        ("1" + " + 1" * 200, None, ["more than 250 tokens"]),
        ("a" * 3000, None, ["3000 characters"]),
    ],
)
def test_malformed(text: str, column: int | None, parts: list[str]) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text, "x.yaml: constraints[0]")
    message = str(caught.value)
    assert message.startswith("x.yaml: constraints[0]: ")
    for part in parts:
        assert part in message
    if column is not None and len(text) < 100:
        marker = message.splitlines()[2]
        assert marker == " " * (column + 2) + "^"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cpus > 2", ["unknown name 'cpus'", "Accepted: a, b, f, mode"]),
        ("moode == 'x'", ["Did you mean 'mode'?"]),
        ("a / 0", ["division by zero"]),
        ("a // (b - b)", ["division by zero"]),
        ("a % 0", ["division by zero"]),
        ("a < mode", ["the number 3", 'the text "subprocess"', "quotes"]),
        ("a in ['x']", ["cannot compare the number 3"]),
        ("on < true", ["does not order truth values"]),
        ("on == 1", ["cannot compare the truth value true with the number 1"]),
        ("on + 1", ["takes numbers, not the truth value true"]),
        ("-mode", ["takes numbers"]),
        ("max(a, mode)", ["'max' takes numbers"]),
        ("a and on", ["true or false is needed here, not the number 3"]),
        ("not mode", ["true or false is needed here"]),
        ("1e308 * 10", ["not a finite number"]),
        ("round(1e308 * 10)", ["not a finite number"]),
    ],
)
def test_evaluation_errors(text: str, parts: list[str]) -> None:
    expression = Expression.parse(text, "--where")
    with pytest.raises(ExpressionError) as caught:
        expression.evaluate(NAMES)
    assert str(caught.value).startswith("--where: ")
    assert "^" in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_name_without_a_value_is_an_error() -> None:
    with pytest.raises(ExpressionError, match="'fps' has no value here"):
        Expression.parse("fps > 2").evaluate({"fps": None})


def test_holds_wants_true_or_false() -> None:
    assert Expression.parse("a == 3").holds(NAMES)
    with pytest.raises(InputError, match="must be true or false; it is 23"):
        Expression.parse("a + b").holds(NAMES)


def test_names_and_explanation() -> None:
    expression = Expression.parse("a + b <= max(16, 4 * cpu_count)")
    assert expression.names == {"a", "b", "cpu_count"}
    explained = expression.explain({**NAMES, "cpu_count": 2})
    assert explained == "23 <= 16 (a = 3, b = 20, cpu_count = 2)"


def test_long_expressions_show_the_place() -> None:
    text = " + ".join(["a"] * 60) + " = 1"
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text)
    _, line, marker, _ = str(caught.value).splitlines()
    assert len(line) <= 102
    assert line[marker.index("^")] == "="


# --------------------------------------------------------------------------- any expression

names = st.from_regex(r"[a-z_]{1,4}(\.[a-z_]{1,3})?", fullmatch=True).filter(
    lambda n: n not in ("or", "and", "not", "in", "true", "false")
)
literals = st.one_of(
    st.booleans(),
    st.integers(0, 10**20),
    st.floats(0, allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
).map(Literal)


def _compound(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(children, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Unary, st.sampled_from(["-", "not"]), children),
        st.builds(Arithmetic, st.sampled_from(sorted(ARITHMETIC)), children, children),
        st.builds(
            Comparison,
            children,
            st.lists(
                st.tuples(st.sampled_from(sorted(COMPARISONS)), children), min_size=1, max_size=2
            ).map(tuple),
        ),
        st.builds(Membership, children, several, st.booleans()),
        st.builds(
            Logic,
            st.sampled_from(["and", "or"]),
            st.lists(children, min_size=2, max_size=3).map(tuple),
        ),
        st.builds(
            Call,
            st.sampled_from(["min", "max"]),
            st.lists(children, min_size=2, max_size=3).map(tuple),
        ),
        st.builds(Call, st.sampled_from(["abs", "round"]), st.tuples(children)),
    )


nodes = st.recursive(literals | names.map(Name), _compound, max_leaves=10)


@settings(deadline=None)
@given(nodes)
def test_what_is_written_reads_back_as_the_same_tree(node: Node) -> None:
    expression = Expression(node)
    assert Expression.parse(str(expression)) == expression


@settings(deadline=None)
@given(nodes, st.dictionaries(names, st.one_of(st.integers(), st.floats(), st.text())))
def test_evaluation_gives_a_value_or_an_expression_error(
    node: Node, values: dict[str, object]
) -> None:
    expression = Expression.parse(str(Expression(node)))
    try:
        value = expression.evaluate(values)
    except ExpressionError:
        return
    assert isinstance(value, bool | int | float | str)
    if isinstance(node, Arithmetic | Call):
        assert math.isfinite(float(value))


TOKENS = ["a", "1", "'s'", "(", ")", "[", "]", ",", "+", "-", "<", "==", "not", "in", "and", "max"]


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from(TOKENS)).map(" ".join))
def test_any_text_parses_or_is_an_expression_error(text: str) -> None:
    try:
        expression = Expression.parse(text)
    except ExpressionError:
        return
    assert Expression.parse(str(expression)) == expression
