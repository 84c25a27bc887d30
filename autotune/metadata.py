"""The values of fingerprints: what a figure depends on besides the configuration.

They are taken by the worker on the node that measures (`worker --probe`) and compared here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

VOLATILE = frozenset(
    {
        "extraction_seconds",
        "hostname",
        "kernel",
        "memory_available_gib",
        "uptime_seconds",
        "warmed_bytes",
    }
)
"""Recorded, but no difference in them makes two machines different."""


def stable(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a fingerprint that counts."""
    return {
        key: stable(value) if isinstance(value, Mapping) else value
        for key, value in fingerprint.items()
        if key not in VOLATILE
    }


def fingerprint_hash(fingerprint: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that two equal machines, or data sets, share."""
    text = json.dumps(stable(fingerprint), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint_difference(label: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One readable line for everything that differs: ``machine.cpu: 'A' -> 'B'``."""
    before, after = _flatten(stable(old)), _flatten(stable(new))
    return [
        f"{label}.{key}: {before.get(key, 'absent')!r} -> {after.get(key, 'absent')!r}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat.update(_flatten(inner, f"{prefix}{key}."))
        else:
            # JSON knows no tuples: a fingerprint from the database must equal a fresh one.
            flat[f"{prefix}{key}"] = list(inner) if isinstance(inner, tuple) else inner
    return flat
