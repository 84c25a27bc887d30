"""Database URLs: which one counts, and how it is shown without its password."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from autotune.config.models import Experiment
from autotune.exceptions import InputError

DEFAULT_STORAGE = "sqlite:///autotune.db"
STORAGE_VARIABLE = "AUTOTUNE_STORAGE"

_SECRET = re.compile(
    r"([?&][^=&]*(?:pass|pwd|secret|token|key|credential)[^=&]*=)[^&]*", re.IGNORECASE
)


def storage_url(
    option: str | None = None,
    experiment: Experiment | None = None,
    environ: Mapping[str, str] | None = None,
) -> str:
    """The database to use: ``--storage``, else AUTOTUNE_STORAGE, else the experiment's, else
    ``autotune.db`` in the working directory.

    Raises:
        InputError: if it is no SQLAlchemy URL; the message holds no password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    environ = os.environ if environ is None else environ
    candidates = [("--storage", option), (STORAGE_VARIABLE, environ.get(STORAGE_VARIABLE))]
    if experiment is not None:
        candidates.append((f"{experiment.source}: storage", experiment.storage))
    origin, url = next(((o, u) for o, u in candidates if u), ("", DEFAULT_STORAGE))
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        # `from None`: SQLAlchemy's message repeats the URL, password included.
        raise InputError(
            f"{origin}: {redact_url(url)} is not a database URL. Accepted: "
            "sqlite:///FILE.db, postgresql+psycopg://USER@HOST/DATABASE"
        ) from None
    return url


def redact_url(url: str) -> str:
    """The URL as it may be shown and stored: ``***`` in place of every secret.

    Works on the text, for what SQLAlchemy cannot read may hold a password too.
    """
    scheme, colon, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    # Up to the last @: a password may itself hold one, or a slash.
    rest = re.sub(r":.*@", ":***@", rest, flags=re.DOTALL)
    return scheme + colon + _SECRET.sub(r"\1***", rest)
