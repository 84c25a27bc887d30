"""A configuration as command-line flags, and back."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from autotune.exceptions import InputError
from autotune.search_space.document import did_you_mean, listed
from autotune.search_space.parameter import Parameter
from autotune.trial import Params, Scalar


def format_flags(
    parameters: Iterable[Parameter], values: Iterable[tuple[str, Scalar]]
) -> list[str]:
    """``[(name, value), ...]`` as ``["--flag", "value", ...]``; booleans as true and false."""
    names = {parameter.name: parameter.flag for parameter in parameters}
    words: list[str] = []
    for name, value in values:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        # A value that starts with dashes would read as a flag of its own.
        words += [f"{names[name]}={text}"] if text.startswith("--") else [names[name], text]
    return words


def parse_flags(
    parameters: Sequence[Parameter],
    text: str | Sequence[str],
    where: str,
    *,
    ignore_unknown: bool = False,
) -> tuple[Params, list[str]]:
    """Read flags; returns the values and the words that are no flag of ``parameters``.

    Both ``--flag value`` and ``--flag=value`` are read, ``--snake_case`` as ``--snake-case``, and
    a lone ``--flag`` as true where the parameter is a boolean. Of a repeated flag the last counts,
    as it does in the program the flags are for.

    Raises:
        InputError: for an unknown flag or word (unless ``ignore_unknown``), a missing value, a
            value that is not accepted, or quotes that are not closed.
    """
    by_flag = {parameter.flag: parameter for parameter in parameters}
    words = _split(text, where)
    params: Params = {}
    ignored: list[str] = []
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        parameter = by_flag.get(flag) or by_flag.get(f"--{flag[2:].replace('_', '-')}")
        if not flag.startswith("--") or parameter is None:
            if not ignore_unknown:
                raise InputError(_unknown(word, flag, by_flag, where))
            ignored.append(word)
            continue
        if not equals:
            follows = bool(words) and not words[0].startswith("--")
            if isinstance(parameter.default, bool) and (
                not follows or words[0].lower() not in ("true", "false")
            ):
                value = "true"
            elif follows:
                value = words.pop(0)
            else:
                raise InputError(
                    f"{where}: {flag} has no value. Accepted: {flag} {parameter.accepted()}"
                )
        params[parameter.name] = parameter.from_text(value, f"{where}: {flag}")
    return params, ignored


def _split(text: str | Sequence[str], where: str) -> list[str]:
    if not isinstance(text, str):
        return list(text)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} cannot be split into words: {error}") from error


def _unknown(word: str, flag: str, by_flag: Iterable[str], where: str) -> str:
    flags = list(by_flag)
    if not word.startswith("-"):
        return f"{where}: {word!r} is not a flag. Accepted: {listed(flags)}"
    return f"{where}: unknown flag {flag}. {did_you_mean(flag, flags)}Accepted: {listed(flags)}"
