"""Every exception that autotune raises on purpose.

    AutotuneError
    ├── InputError            the user's input is wrong: exit status 2, one message, no traceback
    │   ├── ExpressionError   a condition, constraint or --where expression that does not parse
    │   └── StudyConflict     the study exists with another experiment, machine, data or driver
    ├── UnsupportedError      this machine lacks something; the message names the remedy
    ├── DataError             a clip could not be delivered (`name`, `cause`)
    ├── BatchError            a PrefetchLoader could not make a batch (`epoch`, `batch`, `index`)
    ├── StorageError          the database failed in a way that a retry did not cure
    └── MeasurementFailed     a measurement ended without a figure (`failure`)

A message names the key, the value, what is accepted and the remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.trial import Failure


class AutotuneError(Exception):
    """Base of every error that autotune raises on purpose."""


class InputError(AutotuneError):
    """The user's input is wrong. The command line prints it and exits with status 2."""


class ExpressionError(InputError):
    """A condition, constraint or ``--where`` expression that the grammar does not accept."""


class StudyConflict(InputError):
    """A study of this name exists, and differs in something that must not change."""


class UnsupportedError(AutotuneError):
    """This machine lacks what the configuration needs; the message names the remedy."""


class DataError(AutotuneError):
    """A clip could not be delivered.

    Attributes:
        name: the clip's path relative to the data folder.
        cause: what went wrong, in one line.
    """

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name = name
        self.cause = cause

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str]]:
        return type(self), (self.name, self.cause)


class BatchError(AutotuneError):
    """A batch could not be made of a user's data set. The cause is the error as it was raised.

    Attributes:
        epoch, batch: which one; both count from 0.
        index: what the data set was asked for; None where it was no sample that failed.
    """

    def __init__(self, message: str, *, epoch: int, batch: int, index: object = None) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.batch = batch
        self.index = index


class StorageError(AutotuneError):
    """The database could not be used; the message names the database and the remedy."""


class MeasurementFailed(AutotuneError):
    """A measurement ended without a figure.

    Attributes:
        failure: kind, cause and advice, as stored.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.cause}")
        self.failure = failure
