"""The nodes a study measures on: what they are, and that they may be compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.config import Plan
from autotune.exceptions import InputError, StudyConflict, UnsupportedError
from autotune.executors.base import Executor
from autotune.metadata import fingerprint_difference
from autotune.trial import PROBE_SECONDS, Fingerprint, NodeInfo, ProbeRequest


def cache_dir() -> Path:
    """Where manifests are kept: ``$XDG_CACHE_HOME/autotune``, by default ``~/.cache/autotune``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "autotune"


def probe_nodes(
    executor: Executor, plan: Plan, study_uuid: str, timeout_seconds: float = PROBE_SECONDS
) -> list[NodeInfo]:
    """Bring an executor up and ask its nodes what measuring this plan needs to know.

    Args:
        timeout_seconds: a node that has not answered by then is refused.

    Raises:
        InputError, UnsupportedError: if a node cannot measure it.
    """
    nodes = executor.start(
        ProbeRequest(
            study=study_uuid,
            target=plan.experiment.target.name,
            params=plan.given(plan.baseline),
            settings=plan.settings,
            data_dir=None if plan.data_dir is None else str(plan.data_dir),
            cache_dir=str(cache_dir()),
            seed=plan.experiment.seed,
            page_cache=plan.experiment.measurement.page_cache,
            max_seconds=plan.experiment.measurement.max_seconds,
            timeout_seconds=timeout_seconds,
        )
    )
    for node in nodes:
        if node.error is not None:
            where = f"{node.node}: " if len(nodes) > 1 else ""
            kind = InputError if node.error_kind == "input" else UnsupportedError
            raise kind(f"{where}{node.error}")
    return nodes


def refuse_unlike(nodes: Sequence[NodeInfo]) -> None:
    """Check that it makes no difference on which of these nodes a trial runs.

    Raises:
        InputError: if their data or their machines differ, with the difference.
    """
    first = nodes[0]
    if any(n.manifest_hash != first.manifest_hash for n in nodes):
        raise InputError(
            "target.data_dir: the nodes see different data ("
            + ", ".join(f"{n.node}: {n.num_samples} files" for n in nodes)
            + "); mount the same data set on every node"
        )
    for node in nodes[1:]:
        lines = fingerprint_difference(
            node.node, first.fingerprint.machine, node.fingerprint.machine
        )
        if lines:
            raise InputError(
                "executor: figures of different machines do not compare, and these nodes "
                "differ:\n  " + "\n  ".join(lines) + "\nUse nodes of one kind."
            )


def refuse_other(
    study: str, before: tuple[dict[str, Any] | None, dict[str, Any] | None], now: Fingerprint
) -> None:
    """Check that a study goes on where it was begun.

    Args:
        study: its name.
        before: the machine and the data that it was begun with; None where it recorded none.

    Raises:
        StudyConflict: if this is another machine, or other data, with the difference.
    """
    lines = [
        line
        for label, old, new in zip(
            ("machine", "data"), before, (now.machine, now.data), strict=True
        )
        if old is not None
        for line in fingerprint_difference(label, old, new)
    ]
    if lines:
        raise StudyConflict(
            f"study {study!r} was measured on another machine or other data; "
            "what differs:\n  " + "\n  ".join(lines) + "\nUse another --study-name."
        )
