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
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NoReturn

from autotune import machine
from autotune.exceptions import DataError, InputError, UnsupportedError
from autotune.manifest import Manifest, scan
from autotune.trial import Fingerprint, NodeInfo, ProbeRequest
from autotune.worker import bootstrap
from autotune.worker.channel import Control
from autotune.worker.departure import Departure

SAMPLED_CLIPS = 64
"""So many clips, chosen by the seed, give the data's mix of codecs and sizes."""

_READERS = 8
_CHUNK_BYTES = 2**20
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
        own = _target_part(request, line, options, argv, gpus)
        fingerprint = {**info.fingerprint.machine, **own}
        info = info.model_copy(update={"fingerprint": Fingerprint(machine=fingerprint)})
        if request.data_dir is not None:
            info = _with_data(request, info)
    except (InputError, DataError) as error:
        return _refused(info, str(error), "input")
    except UnsupportedError as error:
        return _refused(info, str(error), "unsupported")
    return info


def _refused(info: NodeInfo, error: str, kind: Literal["input", "unsupported"]) -> NodeInfo:
    return info.model_copy(update={"error": error, "error_kind": kind})


def _target_part(
    request: ProbeRequest,
    line: bytes,
    options: argparse.Namespace,
    argv: list[str],
    gpus: list[dict[str, Any]],
) -> dict[str, Any]:
    """The target's part of the fingerprint, from a process started as it wants."""
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
    return target.machine(request.params, request.settings)


def _with_data(request: ProbeRequest, info: NodeInfo) -> NodeInfo:
    manifest = scan(str(request.data_dir))
    try:
        path = manifest.write(request.cache_dir)
    except OSError as error:
        raise InputError(
            f"the manifest cannot be written to {request.cache_dir} ({error.strerror}); "
            "make room there or set XDG_CACHE_HOME to another folder"
        ) from error
    mix, warnings = _mix(manifest, request.seed)
    warmed = 0
    if request.prewarm:
        warmed, warning = _prewarm(manifest, request.seed)
        warnings += [warning] if warning else []
    data = {
        "hash": manifest.hash,
        "clips": len(manifest),
        "bytes": manifest.total_bytes,
        "classes": len(manifest.classes),
        "warmed_bytes": warmed,
        **mix,
    }
    return info.model_copy(
        update={
            "fingerprint": Fingerprint(machine=info.fingerprint.machine, data=data),
            "manifest": str(path),
            "manifest_hash": manifest.hash,
            "num_samples": len(manifest),
            "warnings": warnings,
        }
    )


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


def _prewarm(manifest: Manifest, seed: int) -> tuple[int, str | None]:
    """Read files in the order of the measurements, so that the first finds them cached as the
    last does. At most half of the available memory, or they would push one another out.

    Returns bytes read, and a warning if that was not all.
    """
    budget = machine.available_bytes() // 2
    began = time.monotonic()
    chosen: list[str] = []
    planned = 0
    for index in manifest.order(seed, epoch=0):
        planned += manifest.sizes[index]
        if planned > budget:
            break
        chosen.append(manifest.path(index))
    read = _read_all(chosen, deadline=began + _PREWARM_SECONDS)
    total = manifest.total_bytes
    if len(chosen) == len(manifest) and read >= total:
        return read, None
    if len(chosen) == len(manifest) and time.monotonic() - began < _PREWARM_SECONDS:
        return read, None  # a file vanished or shrank: the measurement will name it
    return read, (
        f"{read / _GIB:.1f} of {total / _GIB:.1f} GiB of clips were read into the page cache "
        f"before the first measurement (at most half of the free memory, {_PREWARM_SECONDS:.0f} s)"
    )


def _read_all(paths: Iterable[str], deadline: float) -> int:
    def read(path: str) -> int:
        if time.monotonic() > deadline:
            return 0
        done = 0
        buffer = bytearray(_CHUNK_BYTES)
        try:
            with open(path, "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    done += count
        except OSError:  # the measurement counts it as failed, by name
            return done
        return done

    with ThreadPoolExecutor(_READERS) as pool:
        return sum(pool.map(read, paths))
