"""Optuna's storage on our database, patient where Optuna's own gives up.

Optuna raises after its first ``database is locked``; a study would end there. Each operation of
its storage is a transaction of its own, so it can simply be tried again. Its errors become ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.storages import BaseStorage, RDBStorage

_T = TypeVar("_T")

Patiently = Callable[[Callable[[], Any]], Any]
"""Runs an action again and again; `autotune.storage.connection.Store.patiently`."""


class PatientStorage(RDBStorage):
    """As Optuna makes it: the same tables, usable by any Optuna tool."""

    def __init__(self, url: str, patiently: Patiently, **arguments: Any) -> None:
        """Args:
        url: of the database; ``arguments`` are further ones of `optuna.storages.RDBStorage`.
        patiently: retries what a retry can cure.
        """
        self._patiently = patiently
        super().__init__(url, **arguments)


def _patient(name: str) -> Callable[..., Any]:
    plain = getattr(RDBStorage, name)

    @functools.wraps(plain)
    def method(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self._patiently(lambda: plain(self, *args, **kwargs))

    return method


_CACHE_CALLS = ("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id")
"""What Optuna's cache, through which a study uses its storage, calls past the public methods."""

for _name in (*BaseStorage.__abstractmethods__, *_CACHE_CALLS):
    if hasattr(RDBStorage, _name):
        setattr(PatientStorage, _name, _patient(_name))
