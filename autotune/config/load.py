"""Reads an experiment file, with what the command line puts in place of its values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from autotune import plugins
from autotune.config.models import Experiment
from autotune.exceptions import InputError
from autotune.search_space.document import parse_yaml, read_yaml

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")


def load_experiment(
    path: str | Path,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Experiment:
    """Read an experiment file.

    Relative paths in it are relative to the file's folder; ``~`` and ``${VARIABLE}`` are expanded
    in paths only.

    Args:
        overrides: ``key.path=value`` as given to ``--set``; the value is YAML.
        values: dotted key -> value, for options that stand for a key (``--seed``). Applied last;
            a path among them is relative to the working directory.

    Raises:
        InputError: one message naming the file or the override, the key, the value, what is
            accepted and the remedy.
    """
    path = Path(path)
    return experiment_from(
        read_yaml(path), overrides, values, where=str(path), folder=path.parent, environ=environ
    )


def experiment_from(
    document: Mapping[str, Any],
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    where: str = "experiment",
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Experiment:
    """Read what an experiment file holds from a mapping; see `load_experiment`.

    Args:
        folder: what relative paths are relative to; default: the working directory.

    Raises:
        InputError: as `load_experiment`.
    """
    data = deepcopy(dict(document))
    folder = Path.cwd() if folder is None else folder
    environ = os.environ if environ is None else environ
    origins: dict[str, str] = {}
    if isinstance(data.get("search_space"), str):
        # So that `--set search_space.parameters.x.max=4` works beside a plain path.
        data["search_space"] = {"base": data["search_space"]}
    for override in overrides:
        key, value = _parse_override(override)
        # A database URL may hold a password: no message repeats it.
        shown = "--set storage=***" if key == "storage" else f"--set {override}"
        _put(data, key, value, shown)
        origins[key] = shown
    _default_folders(data)
    _resolve_paths(data, folder, where, environ)
    late: dict[str, Any] = {}
    for key, value in (values or {}).items():
        _put(late, key, deepcopy(value), key)
        origins[key] = "command line"
    _resolve_paths(late, Path.cwd(), where, environ)
    _merge(data, late)
    return Experiment.read(data, where, origins)


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    where = f"--set {override}"
    if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", key):
        raise InputError(f"{where}: accepted is key.path=value, e.g. budget.trials=20")
    return key, parse_yaml(text, where, lenient=True)


def _put(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    section = data
    for depth, part in enumerate(parents):
        following = section.get(part)
        if following is None:
            following = section[part] = {}
        if not isinstance(following, dict):
            dotted = ".".join(parents[: depth + 1])
            raise InputError(
                f"{where}: {dotted} is {following!r} in the experiment, which has no keys. "
                f"Set {dotted} as a whole"
            )
        section = following
    section[last] = value


def _merge(data: dict[str, Any], late: Mapping[str, Any]) -> None:
    for key, value in late.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict) and key != "baseline":
            _merge(data[key], value)
        else:
            data[key] = value


def _resolve_paths(
    data: dict[str, Any], folder: Path, where: str, environ: Mapping[str, str]
) -> None:
    """Make the paths of an experiment absolute, in place; wrong types are left to validation."""
    target = data.get("target")
    if isinstance(target, dict):
        for key in ("data_dir", *_target_folders(target)):
            if isinstance(target.get(key), str):
                target[key] = _path(target[key], folder, f"{where}: target.{key}", environ)
    space = data.get("search_space")
    if isinstance(space, str):
        data["search_space"] = space = {"base": space}
    if isinstance(space, dict) and isinstance(space.get("base"), str) and is_path(space["base"]):
        space["base"] = _path(space["base"], folder, f"{where}: search_space", environ)


def _target_folders(target: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of ``target`` that are folders besides ``data_dir``."""
    name = target.get("name")
    if not isinstance(name, str) or name not in plugins.available("targets"):
        return ()  # `resolve` says so
    return tuple(getattr(plugins.load_target(name), "folders", ()))


def _default_folders(data: dict[str, Any]) -> None:
    """Put the experiment's own folder where a folder is not given, in place."""
    target = data.get("target")
    if isinstance(target, dict):
        for key in _target_folders(target):
            target.setdefault(key, ".")


def is_path(base: str) -> bool:
    """Whether ``search_space`` names a file; else it names a target."""
    return "/" in base or base.endswith((".yaml", ".yml"))


def _path(text: str, folder: Path, where: str, environ: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found.group(1) or found.group(2)
        if name not in environ:
            raise InputError(f"{where}: {text}: the environment variable {name} is not set. Set it")
        return environ[name]

    if not text.strip():
        raise InputError(f"{where}: the path is empty. Give a path, or remove the key")
    if "\0" in text:
        raise InputError(f"{where}: {text!r} is not a path")
    try:
        expanded = Path(_VARIABLE.sub(value, text)).expanduser()
    except RuntimeError as error:
        raise InputError(f"{where}: {text}: {error}") from error
    return os.path.normpath(folder.absolute() / expanded)
