"""A command with placeholders, and the words it becomes for one configuration.

    {num_workers}             the value
    {pin_memory:--pin}        of true/false: the word if true, nothing if false
    {pin_memory:--pin|--no-pin}
    {flags}                   alone in its word: `--name value` of all other parameters
    {data_dir} {seed} {python}  the experiment's folder and seed, and this interpreter
    {{ }}                     braces

Words are split before values are put in, so a value with spaces stays one word; no shell is
involved.
"""

from __future__ import annotations

import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.search_space import SearchSpace
from autotune.search_space.document import did_you_mean, listed
from autotune.trial import Params, Scalar

FLAGS = "flags"
EXTRA = ("data_dir", "seed", "python")
"""Placeholders that are no parameters, besides `FLAGS`."""


FlagTable = dict[str, tuple[str, str | None]]
"""Of each parameter its flag, and its condition if it has one."""


def flag_table(space: SearchSpace) -> FlagTable:
    """The flags of a space and their conditions, JSON-able: the worker has no space."""
    return {
        name: (p.flag, None if p.when is None else p.when.text)
        for name, p in space.parameters.items()
    }


@dataclass(frozen=True, slots=True)
class _Piece:
    """Text, or a placeholder."""

    text: str = ""
    name: str | None = None
    choice: str = ""
    """``yes|no`` of a true/false placeholder; empty for the plain value."""


@dataclass(frozen=True, slots=True)
class Template:
    """A command whose placeholders are understood."""

    words: tuple[tuple[_Piece, ...], ...]

    @classmethod
    def parse(cls, command: str | Sequence[str], where: str = "target.command") -> Template:
        """Read a command, in one text (split as a shell splits words) or as a list of words.

        Raises:
            InputError: for quotes or braces that are not closed, or no word at all.
        """
        try:
            words = shlex.split(command) if isinstance(command, str) else list(command)
        except ValueError as error:
            raise InputError(f"{where}: {command}: {error}. Close the quote") from error
        if not words or not words[0]:
            raise InputError(
                f"{where}: is empty. Give the command, e.g. python train.py --workers {{workers}}"
            )
        return cls(tuple(_pieces(word, where) for word in words))

    @property
    def names(self) -> list[str]:
        """Every placeholder, in order."""
        found = [piece.name for word in self.words for piece in word if piece.name is not None]
        return list(dict.fromkeys(found))

    def check(self, space: SearchSpace, where: str = "target.command") -> None:
        """Hold placeholders and parameters against each other.

        Raises:
            InputError: for a placeholder that is no parameter, a parameter that is in no
                placeholder while there are no ``{flags}``, or a placeholder of the wrong kind.
        """
        parameters = space.parameters
        for name in (FLAGS, *EXTRA):
            if name in parameters:
                raise InputError(
                    f"{where}: the parameter {name} has the name of a placeholder with a meaning "
                    f"of its own ({listed((FLAGS, *EXTRA))}). Choose another"
                )
        known = [*parameters, FLAGS, *EXTRA]
        for word in self.words:
            for piece in word:
                if piece.name is None:
                    continue
                if piece.name not in known:
                    raise InputError(
                        f"{where}: {{{piece.name}}} is no parameter of the search space. "
                        f"{did_you_mean(piece.name, known)}Accepted: {listed(known)}. Add it to "
                        "search_space.parameters, or write {{ and }} for braces"
                    )
                if piece.name == FLAGS and len(word) > 1:
                    raise InputError(
                        f"{where}: {{flags}} stands for several words, so it must be a word of its "
                        "own. Put spaces around it"
                    )
                if piece.choice and not _is_truth(space, piece.name):
                    raise InputError(
                        f"{where}: {{{piece.name}:{piece.choice}}} is for parameters that are true "
                        f"or false, and {piece.name} is not. Write {{{piece.name}}}"
                    )
        missing = [name for name in parameters if name not in self.names]
        if missing and FLAGS not in self.names:
            raise InputError(
                f"{where}: the parameter {missing[0]} would have no effect: it is in no "
                f"placeholder. Write {{{missing[0]}}} where its value belongs, or {{flags}} for "
                "the flags of all parameters"
            )

    def render(
        self, params: Params, table: FlagTable, extra: Mapping[str, Scalar | None]
    ) -> list[str]:
        """The words for one configuration.

        Args:
            params: the full configuration.
            table: what ``{flags}`` becomes; parameters that have no effect are left out.
            extra: values of `EXTRA`.

        Raises:
            InputError: if a placeholder of ``extra`` has no value.
        """
        words: list[str] = []
        for pieces in self.words:
            if [p.name for p in pieces] == [FLAGS]:
                words += _flags([n for n in params if n not in self.names], params, table)
                continue
            parts = [_filled(piece, {**extra, **params}) for piece in pieces]
            word = "".join(parts)
            if word or not any(p.choice for p in pieces):  # `{pin:--pin}` may leave nothing
                words.append(word)
        return words

    def given_as(self, name: str, table: FlagTable) -> list[str]:
        """What the command calls a parameter: its flag without dashes; empty where its place
        alone says what it is.

        ``--workers {n}``, ``--workers={n}`` and ``data.workers={n}`` give ``workers``.
        """
        if name not in self.names:
            flag, _ = table.get(name, (name, None))
            return [name, flag.lstrip("-")]
        found: list[str] = []
        before = ""
        for word in self.words:
            for position, piece in enumerate(word):
                if piece.name == name:
                    label = piece.choice.partition("|")[0]
                    if not label and position:
                        label = word[position - 1].text.rstrip("=")
                    if not label and before.startswith("-"):
                        label = before
                    found.append(label.lstrip("-").rpartition(".")[2])
            before = "".join(p.text for p in word) if all(p.name is None for p in word) else ""
        return [label for label in found if label]


def _pieces(word: str, where: str) -> tuple[_Piece, ...]:
    try:
        parsed = list(string.Formatter().parse(word))
    except ValueError as error:
        raise InputError(
            f"{where}: {word}: {error}. Write {{name}} for a parameter, {{{{ and }}}} for braces"
        ) from error
    pieces: list[_Piece] = []
    for text, name, choice, _ in parsed:
        if text:
            pieces.append(_Piece(text))
        if name is not None:
            pieces.append(_Piece(name=name, choice=choice or ""))
    return tuple(pieces)


def _is_truth(space: SearchSpace, name: str) -> bool:
    parameter = space.parameters.get(name)
    return parameter is not None and isinstance(parameter.default, bool)


def _filled(piece: _Piece, values: Mapping[str, Scalar | None]) -> str:
    if piece.name is None:
        return piece.text
    value = values.get(piece.name)
    if value is None:
        raise InputError(
            f"target.command: {{{piece.name}}} has no value. Give target.{piece.name} "
            f"(--{piece.name.replace('_', '-')}), or remove the placeholder"
        )
    if piece.choice:
        yes, _, no = piece.choice.partition("|")
        return yes if value else no
    return _plain(value)


def _plain(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flags(names: Sequence[str], params: Params, table: FlagTable) -> list[str]:
    words: list[str] = []
    for name in names:
        flag, when = table[name]
        if when is not None and not Expression.parse(when).holds(params):
            continue
        text = _plain(params[name])
        # a value that starts with dashes would read as a flag of its own
        words += [f"{flag}={text}"] if text.startswith("--") else [flag, text]
    return words
