"""What may be written to the database: no passwords, and only text and numbers every backend takes.

PostgreSQL refuses NUL characters and unpaired surrogates in text and NaN in JSON, and SQLite
turns NaN into NULL: a log tail with such a character must not cost a measured result.
"""

from __future__ import annotations

import math
import re
from typing import Any

HIDDEN = "***"

# Every repetition has a bound, so that a log tail of any shape is read in linear time.
_NAMES = r"(?:password|passwd|secret|token|api[_\-]?key)"
_PATTERNS = (
    re.compile(
        r"(?P<head>(?<![A-Za-z0-9+.\-])[A-Za-z][A-Za-z0-9+.\-]{0,30}://[^\s:/@'\"]{0,256}:)"
        r"[^\s/'\"]{1,512}(?=@)"
    ),
    re.compile(rf"(?i)(?P<head>{_NAMES}['\"]?\s{{0,8}}[=:]\s{{0,8}}['\"]?)[^\s'\"&;,]+"),
    re.compile(rf"(?i)(?P<head>(?<![\w\-])--[\w\-]{{0,40}}?{_NAMES}\s{{1,8}})\S+"),
)
_SECRET_KEY = re.compile(r"(?i)(?:^|_|-)(?:password|passwd|secret|token|api_?key)$")


def redact(text: str) -> str:
    """Replace passwords by ``***``: ``scheme://user:...@``, ``token=...``, ``--api-key ...``."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<head>{HIDDEN}", text)
    return text


def clean_text(text: str) -> str:
    """Text that any database takes, without passwords."""
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return redact(text)


def clean_number(value: float | None) -> float | None:
    """The number, or None when it is not finite."""
    return value if value is None or math.isfinite(value) else None


def clean_json(value: Any, key: str = "", *, finite: bool = True) -> Any:
    """``value`` with clean text, and hidden values of keys that name a secret.

    Numbers that are not finite become None, unless ``finite`` is False.
    """
    if isinstance(value, dict):
        return {clean_text(str(k)): clean_json(v, str(k), finite=finite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_json(v, finite=finite) for v in value]
    if isinstance(value, str):
        return HIDDEN if value and _SECRET_KEY.search(key) else clean_text(value)
    if isinstance(value, float) and finite:
        return clean_number(value)
    return value
