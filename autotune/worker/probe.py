"""`python -m autotune.worker --probe`: what this machine and this data folder are.

Runs once before a node's first measurement, in a process started like a measurement's, and
answers with one line of JSON (a NodeInfo) on the event pipe. What is wrong is said in it, once,
with the remedy.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from autotune.exceptions import DataError, InputError, MeasurementFailed, UnsupportedError
from autotune.frame_folders import read_record
from autotune.manifest import Manifest, scan
from autotune.measuring import pagecache
from autotune.system import machine
from autotune.trial import Fingerprint, NodeInfo, ProbeRequest
from autotune.worker import bootstrap
from autotune.worker.channel import Control
from autotune.worker.departure import Departure

if TYPE_CHECKING:
    from autotune.targets.base import Target

SAMPLED_CLIPS = 64
"""So many clips, chosen by the seed, give the data's mix of codecs and sizes."""

_READERS = 8
_PREWARM_SECONDS = 120.0
_GIB = float(2**30)


def run_probe(
    line: bytes, options: argparse.Namespace, argv: list[str], departure: Departure
) -> NoReturn:
    """Answer a ProbeRequest and exit with 0; 1 where there is no answer."""
    try:
        info = _answer(line, options, argv)
    except Exception:  # a defect of ours: the log has the trace, the supervisor the status
        traceback.print_exc()
        departure.leave(1)
    data = info.model_dump_json().encode() + b"\n"
    while data:
        data = data[os.write(options.events_fd, data) :]
    departure.leave(0)


def _answer(line: bytes, options: argparse.Namespace, argv: list[str]) -> NodeInfo:
    request = ProbeRequest.model_validate_json(line)
    gpus = machine.find_gpus()
    info = NodeInfo(
        node=socket.gethostname(),
        fingerprint=Fingerprint(machine=machine.fingerprint(gpus)),
        names=machine.names(gpus),
    )
    try:
        target = _enter_target(request, line, options, argv, gpus)
        own = target.machine(request.params, request.settings)
        info = info.model_copy(
            update={
                "fingerprint": Fingerprint(machine={**info.fingerprint.machine, **own}),
                "suspects": target.suspects(request.params, request.settings),
                "unavailable": target.unavailable(request.params, request.settings),
            }
        )
        if request.data_dir is not None:
            info = _with_data(request, info, target)
    except (InputError, DataError) as error:
        return _refused(info, str(error), "input")
    except UnsupportedError as error:
        return _refused(info, str(error), "unsupported")
    return info


def _refused(info: NodeInfo, error: str, kind: Literal["input", "unsupported"]) -> NodeInfo:
    return info.model_copy(update={"error": error, "error_kind": kind})


def _enter_target(
    request: ProbeRequest,
    line: bytes,
    options: argparse.Namespace,
    argv: list[str],
    gpus: list[dict[str, Any]],
) -> Target:
    """The target, in a process started as it wants."""
    target = bootstrap.find_target(request.target)
    if request.params.get("device") == "nvdec" and not gpus:
        raise UnsupportedError(
            "target.device: nvdec needs an NVIDIA GPU, and none is visible on "
            f"{socket.gethostname()}; install the NVIDIA driver (in a container: run it with "
            "--gpus all), look at CUDA_VISIBLE_DEVICES, or use device: cpu"
        )
    os.set_inheritable(options.events_fd, True)
    again = options.spec_fd is not None
    bootstrap.enter_environment(target, request.params, request.settings, line + b"\n", argv, again)
    os.set_inheritable(options.events_fd, False)
    Control(bootstrap.take_over_stdin()).start(on_end=lambda: os._exit(1))
    return target


def _with_data(request: ProbeRequest, info: NodeInfo, target: Target) -> NodeInfo:
    manifest = scan(str(request.data_dir), target.reads if target.needs_data else None)
    try:
        path = manifest.write(request.cache_dir)
    except OSError as error:
        raise InputError(
            f"the manifest cannot be written to {request.cache_dir} ({error.strerror}); "
            "make room there or set XDG_CACHE_HOME to another folder"
        ) from error
    mix, warnings = _mix(manifest, request.seed)
    state, warmed, warning = _prepare_files(manifest, request)
    warnings += [warning] if warning else []
    data = {
        "hash": manifest.hash,
        "clips": len(manifest),
        "bytes": manifest.total_bytes,
        "classes": len(manifest.classes),
        "warmed_bytes": warmed,
        **mix,
        **_extraction(manifest),
    }
    return info.model_copy(
        update={
            "fingerprint": Fingerprint(machine=info.fingerprint.machine, data=data),
            "manifest": str(path),
            "page_cache": state,
            "manifest_hash": manifest.hash,
            "num_samples": len(manifest),
            "warnings": warnings,
        }
    )


def _extraction(manifest: Manifest) -> dict[str, Any]:
    """What it took to make frames out of videos, beside ``bytes``, which they take on disk."""
    if manifest.kind != "frames":
        return {}
    record = read_record(manifest.root)
    return {
        "extraction": {
            **record.settings.model_dump(),
            "frames": record.frames,
            "source_bytes": record.source_bytes,
            "extraction_seconds": record.seconds,
        }
    }


def _mix(manifest: Manifest, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Codecs, sizes and rates of some clips, and a warning about those that do not open."""
    from autotune.media import probing

    count = min(SAMPLED_CLIPS, len(manifest))
    chosen = sorted(random.Random(seed).sample(range(len(manifest)), count))
    with ThreadPoolExecutor(_READERS) as pool:
        infos = list(pool.map(probing.probe_file, [manifest.path(i) for i in chosen]))
    summary = probing.summarize(infos)
    summary.pop("bad")  # named by path, which is no part of what the data are
    bad = [
        f"{manifest.paths[i]} ({info.cause})"
        for i, info in zip(chosen, infos, strict=True)
        if info.cause is not None
    ]
    if not bad:
        return {"sampled": summary}, []
    named = "; ".join(bad[:3])
    return {"sampled": summary}, [f"{len(bad)} of {count} clips looked at do not open: {named}"]


def _prepare_files(
    manifest: Manifest, request: ProbeRequest
) -> tuple[pagecache.PageCache, int, str | None]:
    """Choose the state that every measurement begins with, and bring it about a first time: what
    is not possible is told before anything is measured, and the first measurement finds its
    files as the last one does.

    Returns the state, the bytes read, and a warning if those were not all.

    Raises:
        InputError: if the files do not fit into memory and are asked to.
        UnsupportedError: if they cannot be evicted.
    """
    files = pagecache.reach(manifest, request.seed, request.max_seconds)
    state = pagecache.choose(request.page_cache, files, machine.available_bytes())
    if state == "cold":
        try:
            pagecache.prepare(state, files, first=True)
        except MeasurementFailed as error:
            failure = error.failure
            raise UnsupportedError(f"{failure.cause}. {failure.advice}") from error
        return state, 0, None
    began = time.monotonic()
    patience = min(_PREWARM_SECONDS, request.timeout_seconds / 2)
    read = pagecache.read_all(files.paths(), deadline=began + patience)
    if read >= files.bytes or time.monotonic() - began < patience:
        return state, read, None  # a file that vanished or shrank is named by the measurement
    warning = (
        f"{read / _GIB:.1f} of {files.bytes / _GIB:.1f} GiB of clips were read into the page "
        f"cache before the first measurement, within {patience:.0f} s; the first "
        "measurements read the rest before they begin"
    )
    return state, read, warning
