"""Machines and data sets that figures belong to, each stored once under its hash."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from autotune.metadata import fingerprint_hash
from autotune.storage.models import DatasetRow, MachineRow
from autotune.storage.redaction import clean_json


def device_name(value: Any) -> str | None:
    """The name in a fingerprint's entry of a processor: text, a mapping, or a list of them.

    Several different devices are joined, so that a filter by name finds each.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, Mapping):
        return device_name(value.get("name") or value.get("model"))
    if isinstance(value, (list, tuple)):
        names = dict.fromkeys(name for item in value if (name := device_name(item)))
        return ", ".join(names) or None
    return None


def _first(fingerprint: Mapping[str, Any], *keys: str) -> str | None:
    for key in keys:
        if (name := device_name(fingerprint.get(key))) is not None:
            return name[:256]
    return None


def _add(session: Session, row: MachineRow | DatasetRow) -> None:
    """Insert unless the hash is there already, also when another driver inserts it right now."""
    if session.get(type(row), row.hash) is not None:
        return
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return


def add_machine(session: Session, fingerprint: Mapping[str, Any] | None) -> str | None:
    """Store a machine's fingerprint; returns its hash."""
    if not fingerprint:
        return None
    key = fingerprint_hash(fingerprint)
    _add(
        session,
        MachineRow(
            hash=key,
            fingerprint=clean_json(dict(fingerprint)),
            gpu=_first(fingerprint, "gpu", "gpus", "gpu_name"),
            cpu=_first(fingerprint, "cpu", "cpus", "cpu_model", "cpu_name"),
            first_seen=datetime.now(UTC),
        ),
    )
    return key


def add_dataset(session: Session, fingerprint: Mapping[str, Any] | None) -> str | None:
    """Store a data set's fingerprint; returns its hash."""
    if not fingerprint:
        return None
    key = fingerprint_hash(fingerprint)
    samples = fingerprint.get("num_samples")
    _add(
        session,
        DatasetRow(
            hash=key,
            fingerprint=clean_json(dict(fingerprint)),
            num_samples=samples if isinstance(samples, int) else None,
            first_seen=datetime.now(UTC),
        ),
    )
    return key
