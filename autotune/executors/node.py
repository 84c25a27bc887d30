"""What an executor does on a node: prepare it once, then measure on it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from typing import IO, cast

from pydantic import ValidationError

from autotune.supervision.cleanup import end_leftovers
from autotune.supervision.supervisor import child_environment
from autotune.system import processes
from autotune.trial import STUDY_MARK, TRIAL_MARK, Fingerprint, NodeInfo, ProbeRequest

_MAX_LOG = 4096


def prepare_node(
    request: ProbeRequest,
    python: str = sys.executable,
    changes: Mapping[str, str | None] | None = None,
    cwd: str | None = None,
) -> NodeInfo:
    """End what an earlier driver of the study left on this node, then probe it.

    A probe that dies or hangs comes back as a NodeInfo with an error, never as an exception.
    """
    ended = end_leftovers(request.study)
    info = probe_node(request, python, changes, cwd)
    if ended:
        warning = f"ended {len(ended)} processes left by an earlier run: {'; '.join(ended)}"
        info = info.model_copy(update={"warnings": [warning, *info.warnings]})
    return info


def probe_node(
    request: ProbeRequest,
    python: str = sys.executable,
    changes: Mapping[str, str | None] | None = None,
    cwd: str | None = None,
) -> NodeInfo:
    """Ask a fresh worker process what this machine and this data folder are; twice where the
    first was killed, as that says nothing about either."""
    info, killed = _probe(request, python, changes, cwd)
    if killed:
        info, _ = _probe(request, python, changes, cwd)
    return info


def _probe(
    request: ProbeRequest,
    python: str,
    changes: Mapping[str, str | None] | None,
    cwd: str | None,
) -> tuple[NodeInfo, bool]:
    """The answer, and whether the probe was killed before it gave one."""
    mark = uuid.uuid4().hex
    marks = {TRIAL_MARK: mark, STUDY_MARK: request.study}
    read, write = os.pipe()
    command = [python, "-m", "autotune.worker", "--probe", "--events-fd", str(write)]
    worker = subprocess.Popen(
        [*command, "--mark", f"{TRIAL_MARK}={mark}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(write,),
        start_new_session=True,
        env=child_environment(marks, changes),
        cwd=cwd,
    )
    os.close(write)
    log = cast("IO[bytes]", worker.stderr)
    pipe = cast("IO[bytes]", worker.stdin)
    try:
        with contextlib.suppress(BrokenPipeError):
            pipe.write(request.model_dump_json().encode() + b"\n")
            pipe.flush()
        answer, noise, in_time = _collect(worker, read, log.fileno(), request.timeout_seconds)
    finally:
        processes.end(lambda: _of_probe(mark, guardian=False), patience=1.0)
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
        code = worker.wait()
        processes.end(lambda: _of_probe(mark, guardian=True), patience=1.0)
        log.close()
        os.close(read)
    try:
        return NodeInfo.model_validate_json(answer), False
    except ValidationError:
        if not in_time:
            return _unanswered(
                f"looking at this machine and its data took longer than "
                f"{request.timeout_seconds:.3g} s; the data folder may be on slow storage"
            ), False
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        text = noise[-_MAX_LOG:].decode(errors="replace").strip()
        cause = f"the probe of this machine ended without an answer ({how}): {text}"
        return _unanswered(cause), code < 0


def _unanswered(cause: str) -> NodeInfo:
    return NodeInfo(
        node=socket.gethostname(),
        fingerprint=Fingerprint(),
        names={},
        error=cause,
        error_kind="unsupported",
    )


def _of_probe(mark: str, guardian: bool) -> list[int]:
    found = processes.marked(TRIAL_MARK, mark)
    return [p for p in found if guardian or processes.name_of(p) != processes.GUARDIAN_NAME]


def _collect(
    worker: subprocess.Popen[bytes], events: int, log: int, seconds: float
) -> tuple[bytes, bytes, bool]:
    """Read both pipes until a whole line or both ends, at most ``seconds``; says whether that was
    long enough."""
    answer, noise = b"", b""
    descriptors = {events, log}
    deadline = time.monotonic() + seconds
    while descriptors and b"\n" not in answer:
        if time.monotonic() >= deadline:
            return answer, noise, False
        ended = worker.poll() is not None  # before looking: its last words may come just after
        ready, _, _ = select.select(list(descriptors), [], [], 0.2)
        for descriptor in ready:
            data = os.read(descriptor, 65536)
            if not data:
                descriptors.discard(descriptor)
            elif descriptor == events:
                answer += data
            else:
                noise += data
        if ended and not ready:
            break
    return answer, noise, True
