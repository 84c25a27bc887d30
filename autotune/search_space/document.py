"""YAML documents a person wrote: read with file and line in every message.

YAML 1.1 (which PyYAML reads) turns ``off``, ``on``, ``yes`` and ``no`` into booleans, ``1:30`` into
90 and ``2026-01-01`` into a date, and leaves ``1e3`` text. Here the first four are refused with
the remedy, and the others read as YAML 1.2 does.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from autotune.exceptions import InputError

_TRAPS = frozenset({"on", "off", "yes", "no"})


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """``"Did you mean 'x'? "`` for the closest of ``accepted``, or the empty string."""
    close = difflib.get_close_matches(word, list(accepted), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


def listed(names: Iterable[object]) -> str:
    """Names for a message, in the order given."""
    return ", ".join(str(name) for name in names) or "none"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars, no repeated keys."""

    where = "YAML"
    refuse_traps = True

    def refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        raise InputError(f"{self.where}:{node.start_mark.line + 1}: {problem}")

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        self.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                self.refuse(key_node, f"the key {key!r} is not text. Put it in quotes.")
            if key in result:
                self.refuse(key_node, f"the key {key!r} is given twice. Remove one.")
            result[key] = self.construct_object(value_node, deep=True)
        return result

    def text(self, node: yaml.ScalarNode) -> str:
        value = str(self.construct_scalar(node))
        if self.refuse_traps and node.style is None and value.lower() in _TRAPS:
            self.refuse(
                node,
                f"an unquoted {value} means true or false to YAML: "
                f'quote it ("{value}"), or write true or false.',
            )
        return value

    def number(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if len(text) > 100:
            self.refuse(node, "this number is too long")
        return int(text, 16 if "x" in text else 10)

    def decimal(self, node: yaml.ScalarNode) -> float:
        value = float(str(self.construct_scalar(node)))
        if not math.isfinite(value):
            self.refuse(node, "this number is too large")
        return value


class _LenientLoader(_Loader):
    """For values on a command line, where nobody thinks of YAML: ``off`` is text."""

    refuse_traps = False


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )
# Only what JSON can hold: an explicit !!timestamp or !!binary is refused.
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "seq")
}
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.text)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.decimal)
_LenientLoader.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
_LenientLoader.yaml_constructors = _Loader.yaml_constructors


def parse_yaml(text: str, where: str, *, lenient: bool = False) -> Any:
    """Read one YAML document.

    Args:
        lenient: read an unquoted ``off`` as text instead of refusing it.

    Raises:
        InputError: naming ``where`` and the line.
    """
    base = _LenientLoader if lenient else _Loader
    # A class of its own carries `where` into the constructors without shared state.
    loader = type("_Document", (base,), {"where": where})(text)
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        parts = [part for part in (error.context, error.problem) if part]
        raise InputError(f"{where}{line}: this is not valid YAML: {', '.join(parts)}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{where}: this is not valid YAML: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: the YAML is nested too deeply") from error
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        InputError: naming the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not a text file in UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    data = parse_yaml(text, str(path))
    if data is None:
        raise InputError(f"{path}: the file is empty; a YAML mapping is needed")
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: a YAML mapping (`key: value` lines) is needed, not a {type(data).__name__}"
        )
    return data
